"""The number of samples that a cell's scales need to be known, and the command that computes the missing ones.

An error falls as n^(-1/2) where a scale is a quantile. Where it minimizes an error of rounding, a function with kinks,
it falls as n^(-1/2) once there are so many values that a single valley is left, and as n^(-1/4) while valleys compete:
of Laplace values, at 1,000 to 256,000 of them, int4 shows the first and int8 the second. The n^(-1/3) taken here (that
of Kim & Pollard, Annals of Statistics 18, 1990, for functions with jumps) lies between, good for a few doublings. So
beyond REACH times the samples at hand, it is said that more are needed, and not how many. What it has to fall by is
known as well as the error's square, which has the `freedom` degrees of freedom of the folds. The interval takes them
for all rows together, as if these erred alike: they do in part, and what SHARE of the rows take is steadier than a
single row. On the shipped model it comes within a factor of 1.5 of the truth in nine of ten draws of 8 folds. That of a
single scale does in half of them, as often as if folds scattered normally, and in four of five from 32 folds on
(`bench grow`). Nor does it help to shrink each row's variance towards those of others: true ones differ by a factor of
five and more, so that a prior (Smyth, Statistical Applications in Genetics and Molecular Biology 3, 2004) is worth one
degree of freedom, and little more where what independent values would scatter is divided out first.

A maximum has no such rate, and an average over the last texts (percentile_ema) does not converge: nothing is forecast
of them.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from pathlib import Path

from sweep.compare.analysis.significance import Floats, freedom
from sweep.quantization.methods.registry import METHODS
from sweep.runs import hydra_files
from sweep.runs.record import RecordError, complete, load

_REPLACED = ("calibration.samples", "calibration.tolerance", "calibration.tolerance_share")  # in the command
REACH = 16  # times the samples at hand
SHARE = 0.9  # of the rows: the last ones would cost more than they are worth


@dataclass(frozen=True)
class Forecast:
    """samples: after which `share` of the rows would be told, in whole batches of every fold; low, high: the 95 %
    interval of that. more: how many of them are to be computed. seconds: for these, None where no time is known of the
    calibration. command: what to start, None where the cell's own command is not known.
    beyond: `samples` are REACH times those at hand and too few; all else is then unknown (NaN, 0 or None)."""

    samples: int
    low: float
    high: float
    share: float
    more: int
    seconds: float | None
    command: str | None
    beyond: bool = False


def needed(error: Floats, enough: float, samples: int, power: int) -> Floats:
    """Samples after which each row's error, that of so many samples, would be `enough`. power: of the method."""
    return samples * (error / enough) ** power


def forecast(error: Floats, enough: float, folds: int, method: str, run: Path) -> Forecast | None:
    """The forecast for a cell that lies in `run`, from the half-widths of its rows; None where nothing is open, or can
    be told."""
    from scipy.special import chdtri

    power = METHODS[method].power if method in METHODS else None
    if power is None or not (error > enough).any():
        return None
    try:
        record = load(run)
        with complete():
            there, size = (record.config["calibration"][key] for key in ("samples", "batch_size"))
    except (OSError, RecordError):
        return None
    if (results := record.results) is None:
        return None
    if results.calibration.until:  # which stopped after fewer than were allowed
        there = results.tokens.samples or there
    share = 1.0 if (error <= enough).mean() >= SHARE else SHARE  # of rows that are told already nothing is to be said
    df = freedom(folds)
    wanted = float(needed(error, enough, there, power)[_at(error, share)])
    if wanted > REACH * there:
        return Forecast(REACH * there, math.nan, math.nan, share, 0, None, None, beyond=True)
    # n^(1/power) goes with the error, whose square is df / chi^2 of what it is said to be
    low, high = (wanted * (df / float(chdtri(df, tail))) ** (power / 2) for tail in (0.025, 0.975))
    unit = folds * size
    samples = max(math.ceil(wanted / unit), there // unit + 1) * unit
    more = samples if there % unit else samples - there
    seconds = None
    if not results.calibration.cached:
        passed = there - (results.calibration.grown_from or {"samples": 0})["samples"]
        spent = sum(results.timings.get(part, 0.0) for part in ("forward_s", "observe_s", "fisher_s"))
        seconds = spent / passed * more
    return Forecast(samples, math.ceil(low), math.ceil(high), share, more, seconds, _command(run, samples))


def _at(error: Floats, share: float) -> int:
    """The row with that share of all at or below it."""
    return int(error.argsort()[math.ceil(share * len(error)) - 1])


def _command(run: Path, samples: int) -> str | None:
    """The cell's own command line with another number of samples."""
    if (overrides := hydra_files.overrides(run)) is None:
        return None
    given = [o for o in overrides if o.lstrip("+").partition("=")[0] not in _REPLACED]
    return shlex.join(["python", "-m", "sweep", *given, f"calibration.samples={samples}"])
