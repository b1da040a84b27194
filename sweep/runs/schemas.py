"""The columns of the tables that a cell writes; docs/definitions.md says what each means."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sweep.core.files import draft

_PLACE = [
    ("layer", pa.int32()),
    ("site", pa.string()),
    ("ssd_group", pa.int32()),
    ("head_group", pa.int32()),
    ("dim_group", pa.int32()),
]
_REALS = ["min", "max", "absmax", "clip", "scale", "scale_se", "clip_low"]
_COSTS = ["clip_fraction", "mse", "sqnr_db", "code_entropy_bits", "weight_scale", "ratio", "silu_gain"]
_LOSS = ["loss", "loss_se"]
SCALES = pa.schema(
    [
        ("model", pa.string()),
        ("method", pa.string()),
        ("alpha", pa.float64()),
        ("format", pa.string()),
        ("granularity", pa.string()),
        *_PLACE,
        ("n", pa.int64()),
        *[(name, pa.float64()) for name in _REALS],
        ("zero_point", pa.int32()),
        *[(name, pa.float64()) for name in [*_COSTS, *_LOSS]],
    ]
)
REPLICATES = pa.schema(
    [
        *_PLACE,
        ("fold", pa.int32()),
        *[(name, pa.float64()) for name in ("scale", "sqnr_db", "silu_gain", "ratio", "loss")],
    ]
)
CONVERGENCE = pa.schema(
    [
        ("layer", pa.int32()),
        ("site", pa.string()),
        ("folds", pa.int32()),
        ("samples", pa.int64()),
        ("n", pa.int64()),
        ("scale", pa.float64()),
        ("scale_se", pa.float64()),
    ]
)
GROUPING = pa.schema(
    [
        ("layer", pa.int32()),
        *[(name, pa.int32()) for name in ("ssd_groups", "head_groups", "dim_groups")],
        *[(name, pa.list_(pa.int32())) for name in ("channels", "heads", "head_ends", "dim_ends")],
        ("absmax", pa.list_(pa.float32())),
    ]
)
UNTIL = pa.schema(
    [
        ("samples", pa.int64()),
        ("cell", pa.string()),
        *[(name, pa.float64()) for name in ("settled", "error", "taken", "worst")],
        ("worst_layer", pa.int32()),
        ("worst_site", pa.string()),
        ("layers", pa.list_(pa.int32())),
        ("layer_errors", pa.list_(pa.float64())),
        ("loss_error", pa.float64()),
        ("loss_taken", pa.float64()),
        ("differentiated", pa.bool_()),
    ]
)
HISTOGRAMS = pa.schema(
    [
        ("layer", pa.int32()),
        ("site", pa.string()),
        ("edges", pa.list_(pa.float64())),
        ("counts", pa.list_(pa.int64())),
    ]
)


def write_table(path: Path, table: pa.Table) -> None:
    """One Parquet file, zstd, atomically."""
    # measured numbers hardly repeat: a dictionary of them makes the file a quarter larger and slower to read
    words = [field.name for field in table.schema if not pa.types.is_floating(field.type)]
    with draft(path) as file:
        pq.write_table(table, file, compression="zstd", use_dictionary=words)
