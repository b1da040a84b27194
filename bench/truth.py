"""Whether the comparison tells the truth: how often noise is called an effect, how often an interval holds what it is
for, and how small an effect is found. Calibrations of the shipped model on disjoint text, which differ in nothing else;
the truth is their mean."""

from __future__ import annotations

import copy
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench.race import table
from sweep.calibration import tokens
from sweep.calibration.collect import Collect
from sweep.calibration.loop import calibrate
from sweep.calibration.tokens import Tokens
from sweep.compare import load
from sweep.compare.analysis.differences import Evidence, evidence
from sweep.compare.analysis.recommend import recommend
from sweep.compare.analysis.rules import MATTERS, NEGLIGIBLE
from sweep.compare.analysis.significance import freedom, quantile
from sweep.compare.analysis.verdicts import verdicts
from sweep.config.config import Config
from sweep.config.knobs import Calibration, Data, Model
from sweep.core.files import write_json
from sweep.models import load as models
from sweep.quantization.statistics import Statistics
from sweep.runs.schemas import write_table
from sweep.runs.tables import build
from tests.cells import RECORD

SEEDS, SAMPLES, SEQLEN = 32, 32, 128
ROUNDS = 2  # of pairs of all seeds, each seed once a round
TINY, STDLIB = Model("tiny", "pkg://sweep/models/tiny"), Data("stdlib")
CALIBRATION = Calibration(SAMPLES, SEQLEN)
T = quantile(0.95, freedom(CALIBRATION.folds))
EFFECTS = (0.1, 0.2, 0.5)  # dB

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    method: str
    alpha: float = 0.9995

    def __str__(self) -> str:
        return f"{self.method} {self.alpha:.10g}" if self.method.startswith("percentile") else self.method

    @property
    def config(self) -> Config:
        return Config(TINY, STDLIB, CALIBRATION, method=self.method, alpha=self.alpha)


SETTINGS = [
    *(Setting("percentile", alpha) for alpha in (0.9995, 0.99999)),
    *(Setting(method) for method in ("minmax", "percentile_ema", "mse", "entropy")),
]
PAIRS = [
    (SETTINGS[0], SETTINGS[1]),
    *((SETTINGS[2], other) for other in SETTINGS if other != SETTINGS[2]),
    (SETTINGS[4], SETTINGS[0]),
]


def calibrations() -> Iterator[Statistics]:
    """Statistics of SEEDS sets of SAMPLES windows, no window in two of them."""
    model = models.load(TINY, "cpu", "float32")
    windows = tokens.load(STDLIB, models.encoder(TINY), Calibration(SEEDS * SAMPLES, SEQLEN, 1, 1)).windows
    parts = [Tokens("stdlib", windows[i : i + SAMPLES]) for i in range(0, len(windows), SAMPLES)]
    collect = Collect(quantiles=(SETTINGS[0].alpha,))
    for part in parts:
        yield calibrate(model, part, CALIBRATION, lambda done, total: None, None, collect)[0]


def write(statistics: Statistics, seed: int, setting: Setting, root: Path) -> Path:
    """The cell as the program writes it, in a directory of its own."""
    config, directory = setting.config, root / f"{seed}" / str(setting).replace(" ", "-")
    directory.mkdir(parents=True)
    tables = build(statistics, config, keep=True)
    for name in ("scales", "replicates", "convergence"):
        write_table(directory / f"{name}.parquet", getattr(tables, name))
    record = copy.deepcopy(RECORD) | {"config": config.to_dict(), "name": config.label}
    record["tokens"] |= {"sha256": f"{seed:064}", "samples": SAMPLES, "seqlen": SEQLEN}
    record["calibration"]["key"] = f"{seed:064}"
    write_json(directory / "run.json", record)
    return directory


Cells = dict[tuple[int, Setting], Path]


def false_alarms(cells: Cells) -> None:
    """Verdicts on two calibrations that differ in nothing but their text."""
    order = np.random.default_rng(0)
    pairs = [pair for _ in range(ROUNDS) for pair in order.permutation(SEEDS).reshape(-1, 2).tolist()]
    rows = []
    for name, here in (*((str(s), [s]) for s in SETTINGS), ("all in one report", SETTINGS)):
        found: Counter[str] = Counter()
        for pair in pairs:
            asked = [v for v in verdicts(load(*(cells[n, s] for n in pair for s in here))) if v.contrast.knob == "data"]
            assert len(asked) == len(here)
            found.update({v.verdict for v in asked})
            found["any"] += any(v.verdict in (MATTERS, NEGLIGIBLE) for v in asked)
        share = {word: 100 * found[key] / len(pairs) for word, key in ((MATTERS, MATTERS), (NEGLIGIBLE, NEGLIGIBLE))}
        rows.append(
            {"setting": name, "reports": len(pairs)}
            | {f"{word}, %": value for word, value in share.items()}
            | {"either, %": 100 * found["any"] / len(pairs), "at most": 5.0}
        )
    table("Noise called an effect: reports on pairs of calibrations that differ in their text alone", rows)


def covered(estimates: Floats, errors: Floats) -> float:
    """Percent of the intervals, estimate ± t se, that hold the mean of the estimates of all seeds (the first axis)."""
    return float(100 * (np.abs(estimates - estimates.mean(0)) <= T * errors).mean())


def coverage(cells: Cells) -> None:
    rows = []
    for setting in SETTINGS:
        read = [pq.read_table(cells[n, setting] / "scales.parquet") for n in range(SEEDS)]
        scale, error = (np.array([t[name].to_numpy() for t in read]) for name in ("scale", "scale_se"))
        what = {"± of": "a scale", "setting": str(setting), "mean dB": None, "each place": covered(scale, error)}
        rows.append(what | {"a site's mean": None, "mean of all": None, "at least": 92.0})
    for base, other in PAIRS:
        found = [difference(cells, n, base, other) for n in range(SEEDS)]
        parts = {
            "each place": [(e.rows.sqnr, e.rows.sqnr_se) for e in found],
            "a site's mean": [(e.means.sqnr[1:], e.means.sqnr_se[1:]) for e in found],
            "mean of all": [e.overall for e in found],
        }
        shares = {name: covered(*(np.array(column) for column in zip(*p, strict=True))) for name, p in parts.items()}
        mean = float(np.mean([e.overall[0] for e in found]))
        what = {"± of": "a difference, dB", "setting": f"{other} against {base}", "mean dB": mean}
        rows.append(what | shares | {"at least": 92.0})
    table("Intervals that hold the truth, % of estimate ± t se at nominal 95", rows)


def difference(cells: Cells, seed: int, base: Setting, other: Setting) -> Evidence:
    both = load(cells[seed, base], cells[seed, other])
    first = next(n for n, cell in enumerate(both.listed) if cell.path == cells[seed, base])
    (found,) = evidence(both, [(first, 1 - first)], [True])
    return found


def overall(statistics: Statistics, alpha: float) -> float:
    scales = build(statistics, Setting("percentile", alpha).config, keep=True).scales
    sqnr, site = scales["sqnr_db"].to_numpy(), scales["site"].to_pylist()
    return float(sqnr[[not name.endswith("_pre") for name in site]].mean())


def power(root: Path) -> None:
    """How often an alpha that is worth so many dB more than 0.9995, on average, is called an effect."""
    base = Setting("percentile")
    some = [Statistics.load(root / f"{seed}.parquet") for seed in range(3)]
    distances = np.array([0.0, 1e-5, 2e-5, 4e-5, 8e-5, 1.6e-4])
    gains = [np.mean([overall(s, base.alpha + d) for s in some]) for d in distances]
    rows = []
    for effect in EFFECTS:
        alpha = round(base.alpha + float(np.interp(effect, np.array(gains) - gains[0], distances)), 8)
        other = Setting("percentile", alpha)
        means, called = [], Counter[str]()
        for seed in range(SEEDS):
            statistics = Statistics.load(root / f"{seed}.parquet")
            both = load(root / f"{seed}" / "percentile-0.9995", write(statistics, seed, other, root))
            (v,) = (v for v in verdicts(both) if v.contrast.knob == "alpha")
            called[v.verdict] += 1
            sign = 1 if v.contrast.values[v.contrast.baseline] == "0.9995" else -1
            means.append(sign * v.evidence[0].overall[0])
        words = ", ".join(f"{n} {word}" for word, n in called.most_common())
        row = {
            "wanted dB": effect,
            "alpha": f"{alpha:.10g}",
            "mean dB": float(np.mean(means)),
            "SD dB": float(np.std(means)),
        }
        rows.append(row | {"matters, %": 100 * called[MATTERS] / SEEDS, "verdicts": words})
    table("Effects found: percentile at an alpha against 0.9995, one calibration each", rows)


def advice(cells: Cells) -> None:
    """Recommendations: settings that are called worse than the recommended one although they are not."""
    read = {s: [pq.read_table(cells[n, s] / "scales.parquet") for n in range(SEEDS)] for s in SETTINGS}
    truth = {}
    for setting, tables in read.items():
        deployed = [not name.endswith("_pre") for name in tables[0]["site"].to_pylist()]
        truth[str(setting)] = float(np.mean([t["sqnr_db"].to_numpy()[deployed] for t in tables]))
    wrong, best = 0, Counter[str]()
    for seed in range(SEEDS):
        (one,) = recommend(load(*(cells[seed, s] for s in SETTINGS)))
        best[one.best.setting] += 1
        wrong += any(truth[r.setting] >= truth[one.best.setting] for r in one.runners[1:] if not r.tied)
    chosen = ", ".join(f"{name} {n}" for name, n in best.most_common())
    row = {"reports": SEEDS, "recommended": chosen, "a better one called worse, %": 100 * wrong / SEEDS, "at most": 5.0}
    table("Recommendations", [row])


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        cells: Cells = {}
        for seed, statistics in enumerate(calibrations()):  # one at a time: prepared for reading they are large
            statistics.save(root / f"{seed}.parquet")
            cells |= {(seed, s): write(statistics, seed, s, root) for s in SETTINGS}
        print(f"{SEEDS} calibrations of {SAMPLES} x {SEQLEN} tokens, no window in two, {CALIBRATION.folds} folds.\n")
        false_alarms(cells)
        coverage(cells)
        advice(cells)
        power(root)


if __name__ == "__main__":
    main()
