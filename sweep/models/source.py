"""Sources of a model's weights and settings: a directory, the Hub, or nowhere (random weights)."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from sweep.config import knobs
from sweep.core import hub
from sweep.models import checkpoint_dir, stack, tokenizer, words
from sweep.models.checkpoint_dir import Checkpoint


def checkpoint(model: knobs.Model) -> Checkpoint:
    """The checkpoint of a model, fetched from the Hub if need be. Raises UsageError if it is not there."""
    if model.path is None:
        return checkpoint_dir.open_checkpoint(_fetched(model))
    return checkpoint_dir.open_checkpoint(_local(model.path))


def _local(path: str) -> Path:
    """The directory that model.path names, be it inside an installed package."""
    if not path.startswith("pkg://"):
        return Path(path).expanduser()
    package, _, rest = path.removeprefix("pkg://").partition("/")
    spec = importlib.util.find_spec(package)
    roots = list(spec.submodule_search_locations or []) if spec else []
    return Path(roots[0] if roots else package) / rest


def _fetched(model: knobs.Model) -> Path:
    """The directory with the files of a model of the Hub that are read: configuration, weights, and its tokenizer
    where no other is given."""
    own = () if model.tokenizer else tokenizer.FILES
    where = f"https://huggingface.co/{model.repo}"
    return hub.snapshot(
        str(model.repo),
        model.revision,
        lambda names, read: checkpoint_dir.files_to_fetch(names, read, where, own),
        lambda path: checkpoint_dir.whole(path) and (not own or tokenizer.is_in(path)),
        "model.path",
    )


def identity(model: knobs.Model) -> str:
    """The identity of weights: SHA-256 of a checkpoint's files; for random ones `random`, the seed and SHA-256 of the
    geometry."""
    if model.weights == "random":
        written = json.dumps(described(model), sort_keys=True, default=str)
        return f"random:seed={model.seed}:sha256:{hashlib.sha256(written.encode()).hexdigest()}"
    return checkpoint(model).identity


def origin(model: knobs.Model) -> dict[str, str | None]:
    """Origin of the weights: the repository and the commit that its revision stood for, or the path."""
    if model.weights == "random":
        return {"repo": None, "commit": None, "path": None}
    path = checkpoint(model).path
    commit = hub.commit(path) if model.path is None else None
    return {"repo": None if model.path else model.repo, "commit": commit, "path": str(path)}


def settings(model: knobs.Model) -> Any:
    """The network's configuration in transformers' words; a Stack where it has none."""
    if model.weights == "random" and model.geometry:
        return stack.shape(model.geometry)
    opened = checkpoint(model) if model.weights == "trained" else _configuration_only(model)
    if opened.layout != "transformers":
        return stack.shape(opened.settings)
    return words.configuration(opened.path, opened.settings)


def described(model: knobs.Model) -> dict[str, Any]:
    """The network's configuration in the words it was written in."""
    if model.weights == "random":
        return model.geometry or _configuration_only(model).settings
    return checkpoint(model).settings


def _configuration_only(model: knobs.Model) -> Checkpoint:
    """A checkpoint of which nothing but config.json needs to be there."""
    if model.path:
        path = _local(model.path)
    else:
        name = "config.json"
        path = hub.snapshot(str(model.repo), model.revision, [name], lambda p: (p / name).is_file(), "model.path")
    return checkpoint_dir.open_checkpoint(path, weights=False)
