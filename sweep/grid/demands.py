"""What the cells of a calibration that stops by itself ask of it, in the plan of their sweep: every one of them stops
where the most demanding does, whichever process calibrates."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sweep.calibration.until import percent
from sweep.config.config import Config
from sweep.config.knobs import Calibration
from sweep.core.store_key import Key

PLAN = "plan.json"
DEMANDS = "demands"


def of(cells: Iterable[tuple[Config, Key]]) -> dict[str, list[dict[str, Any]]]:
    """By the hash of a question what its cells ask of it; nothing where the number of samples is given."""
    from sweep.runs.until import asked

    demands: dict[str, list[dict[str, Any]]] = {}
    for config, key in cells:
        if config.calibration.tolerance is not None and (one := asked(config)) not in demands.setdefault(key.hash, []):
            demands[key.hash].append(one)
    return demands


def until(calibration: Calibration, cells: int) -> str:
    """What a plan adds to the cell that calibrates."""
    if calibration.tolerance is None:
        return ""
    decides = f"; the most demanding of {cells} cells decides" if cells > 1 else ""
    return (
        f", until {percent(calibration.tolerance_share)} of the scales are known to {percent(calibration.tolerance)}, "
        f"with {calibration.samples} samples at most{decides}"
    )


def read(sweep: Path, question: str) -> list[dict[str, Any]]:
    """What the plan in a sweep's directory says of a question; nothing where there is no plan, as of other sweepers."""
    try:
        plan = json.loads((sweep / PLAN).read_text(encoding="utf-8"))
        return list(plan[DEMANDS][question])
    except (OSError, ValueError, KeyError, TypeError):
        return []
