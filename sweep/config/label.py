"""The label of a cell: its differences from the defaults, in as few words as that takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

HOW = ("checkpoint", "shards", "shard")  # of a calibration: how it is computed, not what
# of a model: what its name stands for
_IN_NAME = ("name", "path", "repo", "tokenizer", "geometry", "weights", "stream")


def unusual(values: Mapping[str, Any], usual: Mapping[str, Any]) -> Iterator[str]:
    """`key=value` of every knob that is not as it is by default, as far as it can change a result.

    values, usual: `Config.to_dict` of a cell and of one that has all defaults."""
    for group, value in values.items():
        if group in ("calibration", "data", "evaluate", "grouping", "model"):
            skipped = {"calibration": HOW, "model": _IN_NAME}.get(group, ())
            if group == "model" and value["name"] == "local":  # which is no name
                skipped = tuple(key for key in _IN_NAME if key != "path")
            for key, one in value.items():
                if one != usual[group][key] and key not in skipped and not str(one).startswith("pkg://"):
                    knob = (key if group == "calibration" else f"{group}.{key}").removesuffix(".name")
                    yield f"{knob}={_short(one)}"
        elif group in ("device", "dtype") and value != usual[group]:
            yield f"{group}={_short(value)}"


def _short(value: Any) -> str:
    """A path by its last part, a list without brackets."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value).rstrip("/").rpartition("/")[2]
