"""Growing a calibration against computing it anew, a sweep over sample counts against its largest cell, how far the
forecast of samples is off, and what intervals hold after stopping by a tolerance. The shipped model, an empty store
each time, competitors in turn; times are of the commands that a user gives, from start to end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench.grid import command
from bench.race import table
from sweep.calibration import tokens
from sweep.calibration.loop import calibrate
from sweep.calibration.tokens import Tokens
from sweep.calibration.until import Errors, Goal, Look
from sweep.compare.analysis.forecast import SHARE
from sweep.compare.analysis.significance import freedom, quantile
from sweep.config.config import Config
from sweep.config.knobs import Calibration, Data, Model
from sweep.models import load
from sweep.quantization import formats, site_scales
from sweep.quantization.methods.registry import named
from sweep.quantization.sites import quantized
from sweep.quantization.statistics import Statistics
from sweep.runs import until

REPEATS = 3  # of four minutes each
SEQLEN = 512
HALF, WHOLE = 512, 1024
SIZES = (64, 128, 256, 512, 1024, 2048)  # whole batches of every fold, so that each goes on from the one before
FOLDS, OF_A_FOLD = 256, 8  # folds, those forecast from and those that tell the truth; samples of each
FEW, DRAWS = (8, 32, 64), 8  # folds that are forecast from
FACTOR = 1.5
SETTINGS: tuple[list[str], ...] = ([], ["alpha=0.999"], ["alpha=0.99"])  # read off the same calibration, in 4 GB
SEEDS, STEPS, SHORT = (
    16,
    (32, 64, 128),
    64,
)  # calibrations on disjoint text, looked at after so many samples of 64 tokens
METHODS = ("percentile", "mse", "minmax")
TINY, STDLIB = Model("tiny", "pkg://sweep/models/tiny"), Data("stdlib")

Floats = NDArray[np.float64]


def _run(name: str, samples: int, *more: str) -> None:
    """One cell, in this process."""
    command(f"hydra.run.dir=runs/{name}", f"calibration.samples={samples}", f"calibration.seqlen={SEQLEN}", *more)


def _timed(samples: int | str, store: str) -> list[float]:
    """Seconds, and seconds of processor time, of the command for one number of samples, or for a list of them."""
    kind = ["-m", "hydra.sweep.dir=runs/all"] if isinstance(samples, str) else ["hydra.run.dir=runs/one"]
    given = (f"calibration.samples={samples}", f"calibration.seqlen={SEQLEN}", f"store={store}", "wandb.mode=disabled")
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "sweep", *kind, *given], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"samples={samples} failed")
    seconds = time.perf_counter() - begin
    shutil.rmtree("runs", ignore_errors=True)  # a cell that is there is not computed again
    return [seconds, usage.ru_utime + usage.ru_stime]


def growing() -> list[dict[str, Any]]:
    _timed(8, "warm")
    start, grown, running, swept, further = [], [], [], [], []
    for i in range(REPEATS):
        start.append(_timed(8, f"small{i}"))  # what a command takes before and after its samples
        anew, _, again = _timed(WHOLE, f"anew{i}"), _timed(HALF, f"grown{i}"), _timed(WHOLE, f"grown{i}")
        two: list[int | str] = [SIZES[-1], ",".join(map(str, SIZES))]
        both = {given: _timed(given, f"{i}-{given}") for given in (two if i % 2 else two[::-1])}
        largest, every = (both[given] for given in two)
        grown.append([a / b for a, b in zip(again, anew, strict=True)])
        running.append([(a - s) / (b - s) for a, b, s in zip(again, anew, start[-1], strict=True)])
        swept.append([a / b for a, b in zip(every, largest, strict=True)])
        further.append([(a - b) / (len(SIZES) - 1) for a, b in zip(every, largest, strict=True)])
    sizes, size = ", ".join(map(str, SIZES)), f"{WHOLE} samples of {SEQLEN} tokens"
    return [
        _value(f"{size} after {HALF} / from nothing, whole commands", grown),
        _value("the same, without what a command of 8 samples takes", running, 0.55),
        _value(f"a sweep over {sizes} samples / one cell of {SIZES[-1]}", swept, 1.10),
        _value("seconds of each further size", further),
        _value("seconds of a command of 8 samples", start),
    ]


def _value(what: str, pairs: list[list[float]], most: float | None = None) -> dict[str, Any]:
    wall, processor = (median(pair[k] for pair in pairs) for k in (0, 1))
    spread = f"{min(pair[0] for pair in pairs):.3g} to {max(pair[0] for pair in pairs):.3g}"
    limit = {} if most is None else {"at most": most}
    return {"what": what, "value": wall, "of all repeats": spread, "of processor time": processor, **limit}


def _folds(setting: list[str]) -> Floats:
    """Logarithms that scatter as those of the scales of single folds do, up to a factor, [quantized scales, folds]."""
    samples, name = FOLDS * OF_A_FOLD, "-".join(["forecast", *setting]).replace("=", "")
    _run(name, samples, "store=many", f"calibration.folds={FOLDS}", *setting)
    rows = pq.read_table(f"runs/{name}/replicates.parquet").to_pandas()
    rows = rows[rows.site.isin(quantized())]
    return np.asarray(np.log(rows.set_index(["layer", "site", "fold"]).scale).unstack("fold"))


def _forecasts(folds: Floats, few: int) -> tuple[Floats, Floats]:
    """Forecast / truth, from each `few` of the folds and the others, DRAWS times at most: of every scale [scales,
    draws], and of the setting, what SHARE of its scales take, [draws]. A forecast goes with the square of the error."""
    every, own, all_of_them = folds.shape[1] // few, [], []
    for draw in range(min(every, DRAWS)):
        chosen = np.arange(folds.shape[1]) % every == draw
        told, true = (folds[:, of].var(axis=1, ddof=1) for of in (chosen, ~chosen))
        own.append(told / true)
        all_of_them.append(np.quantile(told, SHARE) / np.quantile(true, SHARE))
    return np.transpose(own), np.array(all_of_them)


def _near(ratio: Floats) -> float:
    return 100 * float((np.maximum(ratio, 1 / ratio) <= FACTOR).mean())


def _held(ratio: Floats, low: float, high: float) -> float:
    return 100 * float(((ratio * low <= 1) & (ratio * high >= 1)).mean())


def forecasting() -> list[dict[str, Any]]:
    from scipy.special import chdtri

    settings, rng, rows = [_folds(setting) for setting in SETTINGS], np.random.default_rng(0), []
    for few in FEW:
        ratios = [_forecasts(folds, few) for folds in settings]
        single = np.concatenate([own.ravel() for own, _ in ratios])
        whole = np.concatenate([of_setting for _, of_setting in ratios])
        df, rest = few - 1, FOLDS - few - 1
        ideal = rng.chisquare(df, 10**6) / df / (rng.chisquare(rest, 10**6) / rest)
        low, high = (freedom(few) / float(chdtri(freedom(few), tail)) for tail in (0.025, 0.975))  # as it is printed
        from_these = f"{few * OF_A_FOLD} samples in {few} folds"
        rows += [
            {
                "what": f"forecast from {from_these} within {FACTOR}: % of {len(whole)} settings",
                "value": _near(whole),
                "at least": 80,
            },
            {
                "what": f"the same, % of {len(single)} scales, each by itself",
                "value": _near(single),
                **({"at least": 80} if few == FEW[-1] else {}),
            },
            {"what": "the same where folds scatter normally, independently for every scale", "value": _near(ideal)},
            {"what": "the 95 % interval of a setting's forecast holds the truth, %", "value": _held(whole, low, high)},
            {"what": "the same of a scale's, %", "value": _held(single, low, high)},
            {"what": "forecast / truth, median over scales", "value": float(np.median(single))},
        ]
    return rows


def _calibrations() -> list[list[Statistics]]:
    """Of each of SEEDS disjoint texts the statistics of its first samples, each going on from the one before."""
    model = load.load(TINY, "cpu", "float32")
    windows = tokens.load(STDLIB, load.encoder(TINY), Calibration(SEEDS * STEPS[-1], SHORT, 1, 1)).windows
    every: list[list[Statistics]] = []
    for start in range(0, len(windows), STEPS[-1]):
        grown: list[Statistics] = []
        for samples in STEPS:
            since = STEPS[len(grown) - 1] if grown else 0
            text = Tokens("stdlib", windows[start : start + samples], since)
            settings, base = Calibration(samples, SHORT, 4), grown[-1] if grown else None
            grown.append(calibrate(model, text, settings, lambda *_: None, base=base)[0])
        every.append(grown)
    return every


def stopping() -> list[dict[str, Any]]:
    """What intervals of 95 % hold, with the tolerance that stops half of the calibrations before the end."""
    every, rows = _calibrations(), []
    student = quantile(0.95, freedom(8))
    for method in METHODS:
        cells = [Config(TINY, STDLIB, Calibration(samples, SHORT, 4), method=method) for samples in STEPS]
        told = [[until.read(c, s, None, 1.0) for c, s in zip(cells, grown, strict=True)] for grown in every]
        scales = np.log([[_scales(c, s) for c, s in zip(cells, grown, strict=True)] for grown in every])
        goal = Goal(float(np.median([_demand(errors, 1, Goal(1.0, 0.95)) for errors in told])), 0.95)
        stops = [next((k for k in (1, 2) if _demand(errors, k, goal) <= 1), 2) for errors in told]
        off = [np.abs(scales[i, k] - scales[:, k].mean(0)) for i, k in enumerate(stops)]
        inside = [o <= student * told[i][k].scales for i, (o, k) in enumerate(zip(off, stops, strict=True))]
        share, early = 100 * float(np.mean(inside)), sum(k < 2 for k in stops)
        rows.append(
            {
                "what": f"{method}: intervals of 95 % that hold after stopping, {early} of {SEEDS} early, %",
                "value": share,
                "at least": 93,
            }
        )
    return rows


def _demand(errors: list[Errors], step: int, goal: Goal) -> float:
    return Look.at(STEPS[step], "", goal, errors[step], errors[step - 1]).demand(goal)


def _scales(cell: Config, statistics: Statistics) -> Floats:
    """Of all quantized sites, in the order of `until.read`."""
    method, format = named(cell.method), formats.named(cell.format)
    sites = [site for (_, name), site in statistics.sites.items() if name in quantized()]
    return np.array([site_scales.sections(s, method, cell.effective_alpha, format).scale[0] for s in sites])


def main() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        Path("runs").mkdir()
        rows = [*growing(), *forecasting(), *stopping()]
        os.chdir("/")
    return table("More samples of a stored calibration, with the shipped model (W&B disabled)", rows)


if __name__ == "__main__":
    main()
