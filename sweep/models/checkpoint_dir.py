"""Checkpoints on disk: which layout they have, which files, and what tells one from another.

Layouts:
  transformers  config.json with model_type; *.safetensors or *.bin, sharded or not, or one *.ckpt, *.pt, *.pth
  mamba_ssm     config.json with d_model, n_layer, ssm_cfg; the same files
                (github state-spaces/mamba, mamba_ssm/models/mixer_seq_simple.py)
  megatron      release/mp_rank_00/model_optim_rng.pt, as nvidia/mamba2-8b-3t-4k, or iter_*/mp_rank_00/… of
                which latest_checkpointed_iteration.txt says the one
                (github NVIDIA/Megatron-LM, megatron/core/models/mamba)
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from sweep.core.errors import UsageError, first_line
from sweep.core.files import sha256
from sweep.models import quantized, refusals
from sweep.models.tensors import Weights, megatron

STACKS = ("mamba", "mamba2")  # transformers' networks that are Mamba blocks and nothing else
MEGATRON = "model_optim_rng.pt"
_LATEST = "latest_checkpointed_iteration.txt"
_USUAL = ("model.safetensors", "pytorch_model.bin")
_SAVED = (".ckpt", ".pt", ".pth")  # of training loops of one's own
# Files of training, and other forms of the same weights: never read where the weights lie beside them.
_NOT_WEIGHTS = re.compile(
    r"(training_args|optimizer|scheduler|random_states|rng_state|adapter|consolidated|scaler)|\.(fp16|bf16|int8)[.-]"
)
_MEGATRON_ONLY: dict[str, tuple[Any, ...]] = {  # arguments that change what is computed, and what is supported
    "norm_epsilon": (1e-5,),  # that of the blocks; the gated norm has 1e-5 fixed in Megatron's code
    "layernorm_epsilon": (1e-5,),
    "normalization": ("RMSNorm",),
    "apply_layernorm_1p": (False,),
    "hybrid_attention_ratio": (0, 0.0),
    "hybrid_mlp_ratio": (0, 0.0),
    "num_experts": (0,),
    "add_bias_linear": (False,),
    "mamba_expand": (2,),
}
Read = Callable[[str], Path]  # from a file's name in a checkpoint to the file


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """settings: config.json as it stands, of a Megatron checkpoint what its arguments say, in mamba_ssm's words.
    files: those that hold weights, all present."""

    path: Path
    layout: str
    settings: dict[str, Any]
    files: tuple[Path, ...]

    @cached_property
    def weights(self) -> Weights:
        """The named tensors. Raises UsageError where the files hold something else."""
        stack = self.layout != "transformers" or self.settings["model_type"] in STACKS
        return Weights(self.files, stack, self.layout)

    @property
    def identity(self) -> str:
        """SHA-256 over config.json and the weights: what of a checkpoint changes its activations.

        Reads no file twice: hashes are remembered by path, size and time of change."""
        digest = hashlib.sha256()
        config = self.path / "config.json"
        for file in (*([config] if config.is_file() else []), *self.files):
            digest.update(f"{file.relative_to(self.path)}\0{_sha256(file)}\0".encode())
        return f"sha256:{digest.hexdigest()}"


def open_checkpoint(path: Path, weights: bool = True) -> Checkpoint:
    """The checkpoint in a directory; without `weights` only its configuration needs to be there.

    Reads no weights. Raises UsageError that says what is missing, or what is there in its place."""
    if not path.is_dir():
        raise UsageError(f"model.path={path} is no directory; give the directory that holds config.json")
    names = _listing(path)
    if (config := path / "config.json").is_file():
        layout, settings = _configuration(config)
        quantized.refuse_beside(path, names)
        chosen = _weight_files(names, path.joinpath, path) if weights else []
        if missing := [name for name in chosen if not (path / name).is_file()]:
            raise UsageError(
                f"model.path={path}: {len(missing)} of {len(chosen)} shards are missing: {', '.join(missing[:3])}; "
                "finish the download"
            )
        return Checkpoint(path, layout, settings, tuple(path / name for name in chosen))
    if file := _megatron_file(names, path.joinpath, path):
        return Checkpoint(path, "megatron", _megatron_settings(path / file), (path / file,))
    refusals.refuse_directory(path, names)
    raise UsageError(
        f"model.path={path} holds no checkpoint; allowed: a directory with config.json and *.safetensors or *.bin "
        f"(transformers, mamba_ssm), or with release/mp_rank_00/{MEGATRON} (Megatron)"
    )


def files_to_fetch(names: Sequence[str], read: Read, where: object, beside: Sequence[str]) -> list[str]:
    """Of a repository's files, those that `open_checkpoint` and its weights read, beside those that `read` fetches.

    names: all there are. read: fetches one. where: what to call the repository. beside: patterns of other files that
    will be read, a tokenizer's. Raises UsageError for a checkpoint that cannot be used, before its weights come."""
    small = [name for name in names if "/" not in name and any(fnmatchcase(name, pattern) for pattern in beside)]
    if "config.json" in names:
        _configuration(read("config.json"))
        quantized.refuse_beside(where, names)
        return [*small, *_weight_files(names, read, where)]
    if file := _megatron_file(names, read, where):
        return [*small, file]
    refusals.refuse_directory(where, names)
    raise UsageError(f"{where} holds no checkpoint: neither config.json nor {MEGATRON}")


def whole(path: Path) -> bool:
    """Whether a directory holds all files of a checkpoint."""
    try:
        open_checkpoint(path)
    except UsageError:
        return False
    return True


def _listing(path: Path) -> list[str]:
    """Names of the files in a directory and of Megatron's below it, relative to it, sorted."""
    here = (file for file in path.iterdir() if file.is_file())
    return sorted(str(file.relative_to(path)) for file in (*here, *path.glob(f"**/mp_rank_*/{MEGATRON}")))


def _configuration(file: Path) -> tuple[str, dict[str, Any]]:
    """Layout and settings of a config.json. Raises UsageError for one that is of no network that can be computed."""
    refusals.refuse_file(file)
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file} cannot be loaded: {first_line(error)}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{file} holds a {type(settings).__name__}, not the settings of a network")
    refusals.refuse_configuration(file, settings)
    quantized.refuse_configuration(file, settings)
    layout = "transformers" if "model_type" in settings else "mamba_ssm" if "d_model" in settings else None
    if layout is None:
        raise UsageError(f"{file} has neither model_type (transformers) nor d_model (mamba_ssm): unknown layout")
    return layout, settings


def _weight_files(names: Sequence[str], read: Read, where: object) -> list[str]:
    """Those of a checkpoint's files that hold its weights, as transformers prefers them: safetensors before pickles,
    one file before shards, the usual name before any other."""
    top = [name for name in names if "/" not in name]
    for usual in _USUAL:
        suffix = usual.rpartition(".")[2]
        if usual in top:
            return [usual]
        if f"{usual}.index.json" in top:
            return _index(read(f"{usual}.index.json"))
        others = [name for name in top if name.endswith(f".{suffix}") and not _NOT_WEIGHTS.search(name)]
        indices = [name for name in top if fnmatchcase(name, f"*.{suffix}.index.json")]
        plain = [name for name in indices if not _NOT_WEIGHTS.search(name)] or ([] if others else indices)
        if len(plain) > 1:
            raise UsageError(f"{where} has several indices of shards: {', '.join(plain)}; leave the one that is meant")
        if plain:
            return _index(read(plain[0]))
        if others:
            return _all_shards(others, where)
        if alone := [name for name in top if name == f"consolidated.{suffix}"]:
            return alone
    saved = [name for name in top if name.endswith(_SAVED) and not _NOT_WEIGHTS.search(name)]
    if len(saved) > 1:
        raise UsageError(f"{where} has several files of weights: {', '.join(saved[:4])}; leave the one that is meant")
    if saved:
        return saved
    refusals.refuse_directory(where, names)
    raise UsageError(
        f"model.path={where} holds no weights; allowed: model.safetensors, pytorch_model.bin, shards with their "
        f"index, or one file of {', '.join(_SAVED)}"
    )


def _index(file: Path) -> list[str]:
    """The shards that an index names. Raises UsageError for what is no index, or names files elsewhere."""
    refusals.refuse_file(file)
    try:
        names = sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
        elsewhere = [name for name in names if Path(name).name != name]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{file} is no index of shards ({first_line(error)}); download it again") from error
    if elsewhere or not names:
        raise UsageError(f"{file} names {elsewhere[0] if elsewhere else 'no shards'}: shards lie beside their index")
    return names


def _all_shards(names: list[str], where: object) -> list[str]:
    """`names`, of which those that count themselves have to be complete."""
    for name in names:
        if numbered := re.fullmatch(r"(.*)-(\d+)-of-(\d+)(\..*)", name):
            stem, number, total, suffix = numbered.groups()
            expected = [f"{stem}-{i:0{len(number)}}-of-{total}{suffix}" for i in range(1, int(total) + 1)]
            if missing := [shard for shard in expected if shard not in names]:
                raise UsageError(
                    f"model.path={where}: {len(missing)} of {total} shards are missing: {', '.join(missing[:3])}; "
                    "finish the download"
                )
    return names


def _megatron_file(names: Sequence[str], read: Read, where: object) -> str | None:
    """Megatron's file of weights, of several iterations the latest; None if there is none."""
    ranks = [name for name in names if re.search(rf"(^|/)mp_rank_[^/]+/{re.escape(MEGATRON)}$", name)]
    if not ranks:
        return None
    iterations = sorted({name.rsplit("/", 2)[0] if name.count("/") > 1 else "." for name in ranks})
    chosen = iterations[0]
    if len(iterations) > 1 or _LATEST in names:
        said = read(_LATEST).read_text(encoding="utf-8").strip() if _LATEST in names else ""
        if said.isdecimal():
            matching = [i for i in iterations if re.fullmatch(rf"iter_0*{int(said)}", i.rpartition("/")[2])]
        else:
            matching = [i for i in iterations if said and i.rpartition("/")[2] == said]
        if len(matching) != 1 and (len(iterations) > 1 or said):
            reason = f"{_LATEST} says {said[:40]!r}" if said else f"it has no {_LATEST} to say which"
            raise UsageError(
                f"{where} holds {', '.join(iterations)}, and {reason}; give one: model.path={where}/{iterations[-1]}"
            )
        chosen = matching[0] if matching else chosen
    parts = [name for name in ranks if name.startswith("mp_rank_" if chosen == "." else f"{chosen}/mp_rank_")]
    if len(parts) > 1:
        raise UsageError(f"model.path={where}: {len(parts)} parts of a tensor-parallel checkpoint; merge them first")
    return parts[0]


def _megatron_settings(file: Path) -> dict[str, Any]:
    """The geometry in mamba_ssm's words, from the arguments the checkpoint was trained with.

    What they do not say is Megatron's default for its Mamba-2 (d_state 128, headdim 64, 8 groups)."""
    try:
        saved = megatron(file)
        arguments = vars(saved["args"])
        rows = len(saved["model"]["embedding.word_embeddings.weight"])
    except (KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
        raise UsageError(f"{file} is no Megatron checkpoint: {first_line(error)}") from error
    for key, only in _MEGATRON_ONLY.items():
        if (value := arguments.get(key)) is not None and value not in only:
            raise UsageError(
                f"{file}: {key}={value} among its arguments is not supported; allowed: {' or '.join(map(str, only))}"
            )
    pattern = str(arguments.get("hybrid_override_pattern") or "").replace("|", "")
    if set(pattern) - {"M"}:
        raise UsageError(
            f"{file}: hybrid_override_pattern={pattern} among its arguments has layers other than Mamba (M), which "
            "are not supported in Megatron's layout; convert it to transformers' (nemotron_h)"
        )
    return {
        "d_model": arguments["hidden_size"],
        "n_layer": arguments["num_layers"],
        "vocab_size": rows,
        "pad_vocab_size_multiple": 1,
        "tie_embeddings": not arguments.get("untie_embeddings_and_output_weights", True),
        "ssm_cfg": {
            "layer": "Mamba2",
            "d_state": arguments.get("mamba_state_dim") or 128,
            "headdim": arguments.get("mamba_head_dim") or 64,
            "ngroups": arguments.get("mamba_num_groups") or 8,
        },
    }


def _sha256(file: Path) -> str:
    """Of the content; remembered under ~/.cache, except for files of the Hub's cache, which are named by it."""
    real = file.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", real.name):
        return real.name
    stat = real.stat()
    memo = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mamba-scale-sweep" / "sha256"
    memo /= hashlib.sha256(f"{real}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ino}".encode()).hexdigest()
    if memo.is_file() and len(known := memo.read_text(encoding="utf-8")) == 64:
        return known
    digest = sha256(real)
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        draft = memo.with_name(f"{memo.name}.{os.getpid()}")
        draft.write_text(digest)
        draft.replace(memo)
    except OSError:
        pass  # a home that cannot be written costs time, not correctness
    return digest
