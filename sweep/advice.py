"""Which choice is best at each layer and site, and what every other one costs there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

_PLACE = ("model", "layer", "site", "ssd_group", "head_group", "dim_group")
_CHOICE = ("method", "alpha", "format", "granularity")


def best(cells: Sequence[pa.Table]) -> pa.Table:
    """A row for each row of the cells' `scales` tables that has an SQNR, ordered by place and then from best to worst.

    Columns: the place and the choice; sqnr_db; rank (0 is best); loss_db, by how much its SQNR falls short of the
    best of its place. Where the best loses nothing at all (+inf), the loss of every other is +inf too, and 0 of those
    that lose nothing either. Equal SQNR: the earlier table first. Cells with groups are compared group by group,
    with cells of the same groups only."""
    columns = [*_PLACE, *_CHOICE, "sqnr_db"]
    rows = (
        pa.concat_tables([cell.select(columns) for cell in cells], promote_options="default").to_pylist()
        if cells
        else []
    )
    places: dict[tuple[object, ...], list[dict[str, object]]] = {}
    for row in rows:
        if row["sqnr_db"] is not None:
            places.setdefault(tuple(row[name] for name in _PLACE), []).append(row)
    found = []
    for place in sorted(places, key=lambda p: tuple((v is not None, v) for v in p)):
        ranked = sorted(places[place], key=lambda row: -float(row["sqnr_db"]))  # type: ignore[arg-type]
        top = float(ranked[0]["sqnr_db"])  # type: ignore[arg-type]
        for rank, row in enumerate(ranked):
            sqnr = float(row["sqnr_db"])  # type: ignore[arg-type]
            found.append({**row, "rank": rank, "loss_db": 0.0 if sqnr == top else float(np.subtract(top, sqnr))})
    schema = pa.schema(
        [
            ("model", pa.string()),
            ("layer", pa.int32()),
            ("site", pa.string()),
            *[(name, pa.int32()) for name in ("ssd_group", "head_group", "dim_group")],
            ("method", pa.string()),
            ("alpha", pa.float64()),
            ("format", pa.string()),
            ("granularity", pa.string()),
            ("sqnr_db", pa.float64()),
            ("rank", pa.int32()),
            ("loss_db", pa.float64()),
        ]
    )
    return pa.Table.from_pylist(found, schema)
