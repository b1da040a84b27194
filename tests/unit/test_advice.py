from __future__ import annotations

import numpy as np
import pyarrow as pa

from sweep.advice import best

NAMES = ("layer", "site", "method", "alpha", "format", "sqnr_db")


def cell(*rows: tuple[object, ...], granularity: str = "tensor") -> pa.Table:
    table = pa.Table.from_pylist([dict(zip(NAMES, row, strict=True)) for row in rows])
    table = table.set_column(3, "alpha", table["alpha"].cast(pa.float64()))
    nothing = pa.nulls(len(rows), pa.int32())
    for name in ("ssd_group", "head_group", "dim_group"):
        table = table.append_column(name, nothing)
    return table.append_column("model", pa.array(["m"] * len(rows))).append_column(
        "granularity", pa.array([granularity] * len(rows))
    )


def test_best_and_losses() -> None:
    minmax = cell((0, "x", "minmax", None, "int8", 30.0), (1, "x", "minmax", None, "int8", 42.0))
    percentile = cell((0, "x", "percentile", 0.99, "int8", 36.5), (1, "x", "percentile", 0.99, "int8", 40.0))
    rows = best([minmax, percentile]).to_pylist()
    assert [(r["layer"], r["method"], r["alpha"], r["rank"], r["loss_db"]) for r in rows] == [
        (0, "percentile", 0.99, 0, 0.0),
        (0, "minmax", None, 1, 6.5),
        (1, "minmax", None, 0, 0.0),
        (1, "percentile", 0.99, 1, 2.0),
    ]


def test_rows_without_sqnr_lossless_rows_and_ties() -> None:
    rows = best(
        [
            cell((0, "x", "minmax", None, "int8", None)),
            cell((0, "x", "mse", None, "int8", np.inf)),
            cell((0, "x", "entropy", None, "int8", np.inf)),
            cell((0, "x", "percentile", 0.9, "int8", 3.0)),
        ]
    ).to_pylist()
    assert [(r["method"], r["rank"], r["loss_db"]) for r in rows] == [
        ("mse", 0, 0.0),
        ("entropy", 1, 0.0),
        ("percentile", 2, np.inf),
    ]
    assert best([]).num_rows == 0
