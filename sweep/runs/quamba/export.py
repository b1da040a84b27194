"""A calibrated cell under Quamba's key names, for its `load_state_dict` or for another reader of its checkpoints."""

from __future__ import annotations

import io
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sweep.core.errors import UsageError, first_line
from sweep.core.files import draft
from sweep.runs import record as runs
from sweep.runs.record import RunRecord
from sweep.runs.status import RunStatus

_PREFIX = "backbone.layers.{}.mixer.conv1d."
FLOOR = 1e-6  # of a scale: `_get_minmax_quantization_params` of Quamba's observers clamps there
WEIGHT_FLOOR = 1e-5 / 127  # `quantize_tensor_per_tensor_absmax` clamps max |w| at 1e-5


def export(run: Path, target: Path) -> tuple[int, list[str]]:
    """Write the scales of a run, its group ranges and its permutations; returns the number of entries, and the names
    of those that were raised: scales below Quamba's own floor, of dead sites, which it would divide by.

    target: *.safetensors, where every number is a tensor, or *.bin (`torch.save`), where scales of one value are
    Python floats, as in Quamba's own files. Permutations are `reorder_params.channel_index.N` and
    `.head_index.N`, after the dictionary of its `get_reorder_params`; scales of groups refer to channels in that
    order. Raises UsageError for a run that has no such scales."""
    record, rows = _read(run)
    if (format := record.config["format"]) != "int8":
        raise UsageError(f"{run}: format={format}; Quamba's activations are int8: export a run with format=int8")
    if (granularity := record.config["granularity"]) == "channel":
        raise UsageError(f"{run}: granularity=channel has no place in Quamba's checkpoints; allowed: tensor, group")
    layers: dict[int, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        layers[row["layer"]][row["site"]].append(row)
    groups = {}
    if granularity == "group" and (run / "grouping.parquet").exists():
        groups = {row["layer"]: row for row in pq.read_table(run / "grouping.parquet").to_pylist()}
    state: dict[str, NDArray[Any]] = {}
    for layer, sites in sorted(layers.items()):
        if "x_conv_out" not in sites:
            raise UsageError(f"{run}: layer {layer} has no x_conv_out; there is nothing of Quamba's to write")
        state |= _layer(layer, sites, groups.get(layer))
    raised = _raise(state)
    _save(state, target)
    return len(state), raised


def _raise(state: dict[str, NDArray[Any]]) -> list[str]:
    """Lifts scales to the floor, in place; the names of those that were below it."""
    raised = []
    for name, value in state.items():
        if not name.endswith(("_scale", "_scales")):
            continue
        floor = value.dtype.type(WEIGHT_FLOOR if ".conv1d.w" in name else FLOOR)
        if np.any(value < floor):
            state[name] = np.asarray(np.maximum(value, floor))
            raised.append(name)
    return raised


def _read(run: Path) -> tuple[RunRecord, list[dict[str, Any]]]:
    try:
        record = runs.load(run)
        if record.status is not RunStatus.FINISHED:
            raise UsageError(f"{run}: the run is {record.status}, only finished runs have scales")
        return record, pq.read_table(run / "scales.parquet").to_pylist()
    except FileNotFoundError as error:
        raise UsageError(f"{run} has no {Path(error.filename).name}; name the directory of a finished run") from error
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{run}: not the directory of a run ({first_line(error)})") from error


def _layer(layer: int, sites: dict[str, list[dict[str, Any]]], group: dict[str, Any] | None) -> dict[str, NDArray[Any]]:
    def scales(site: str) -> NDArray[np.float64]:
        return np.array([row["scale"] for row in sites[site]])

    prefix = _PREFIX.format(layer)
    weights = {site[0]: rows[0]["weight_scale"] for site, rows in sites.items() if site.endswith("_conv_out")}
    if "B_conv_out" not in sites:
        of_mamba1 = {
            "input_scale": scales("x_conv_in")[0],
            "output_scale": scales("x_conv_out")[0],
            "weight_scale": weights["x"],
        }
        return {prefix + name: np.asarray(value, np.float64) for name, value in of_mamba1.items() if value is not None}
    state: dict[str, NDArray[Any]] = {}
    for part in "xBC":
        state[f"{prefix}{part}_scale"] = np.asarray(scales(f"{part}_conv_in")[0])
        if weights[part] is not None:
            state[f"{prefix}w{part}_scale"] = np.asarray(weights[part], np.float64)
        state[f"{prefix}{part}_out_scales"] = scales(f"{part}_conv_out").astype(np.float32)
    if group:
        shape = group["ssd_groups"], group["head_groups"], group["dim_groups"]
        state[f"{prefix}x_out_scales"] = state[f"{prefix}x_out_scales"].reshape(shape)
        state[f"{prefix}x_head_group_range"] = np.array(group["head_ends"], np.int32).reshape(shape[:2])
        state[f"{prefix}x_dim_group_range"] = np.array(group["dim_ends"], np.int32).reshape(shape)
        for ours, theirs in (("channels", "channel_index"), ("heads", "head_index")):
            if group[ours] is not None:
                state[f"reorder_params.{theirs}.{layer}"] = np.array(group[ours], np.int64)
    return state


def _save(state: dict[str, NDArray[Any]], target: Path) -> None:
    if target.suffix not in (".safetensors", ".bin"):
        raise UsageError(f"{target}: allowed endings: .safetensors, .bin")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with draft(target) as file:
            if target.suffix == ".bin":
                import torch

                packed = io.BytesIO()
                torch.save({k: torch.from_numpy(v) if v.ndim else float(v) for k, v in state.items()}, packed)
                file.write_bytes(packed.getvalue())
            else:
                from safetensors.numpy import save

                file.write_bytes(save(state, metadata={"format": "pt"}))
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}") from error
