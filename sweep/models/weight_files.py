"""The files of a checkpoint that hold its weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from sweep.core.errors import UsageError, first_line
from sweep.models import refusals

_USUAL = ("model.safetensors", "pytorch_model.bin")
_SAVED = (".ckpt", ".pt", ".pth")  # of training loops of one's own
# Files of training, and other forms of the same weights: never read where the weights lie beside them.
_NOT_WEIGHTS = re.compile(
    r"(training_args|optimizer|scheduler|random_states|rng_state|adapter|consolidated|scaler)|\.(fp16|bf16|int8)[.-]"
)
Read = Callable[[str], Path]  # from a file's name in a checkpoint to the file


def chosen(names: Sequence[str], read: Read, where: object) -> list[str]:
    """The files of a checkpoint that hold its weights, as transformers prefers them: safetensors before pickles,
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
