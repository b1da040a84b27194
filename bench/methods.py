"""Every method and format read off one calibration of the 130m geometry; how good the searches are; and what the
order of the texts does to percentile_ema."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # one core is what is claimed; numpy reads it when it is imported

import numpy as np
import torch
from torch.nn import functional as F

from sweep.calibration.observer import Observer
from sweep.calibration.text_quantiles import text_quantiles
from sweep.quantization import formats, metrics
from sweep.quantization.fold_sums import FoldSums, each
from sweep.quantization.formats import Format
from sweep.quantization.histogram import Histogram
from sweep.quantization.methods import mse
from sweep.quantization.methods import registry as scales
from sweep.quantization.methods.percentile_ema import moving_average
from sweep.quantization.methods.registry import METHODS
from sweep.quantization.prefix_sums import signed
from sweep.quantization.site_statistics import leave_one_out

LAYERS, FOLDS, VALUES = 24, 8, 60_000
SITES = ["in_proj_in"] + [f"{part}_conv_{stage}" for part in "xBC" for stage in ("in", "pre", "out")] + ["out_proj_in"]
ALPHAS = (0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999, 0.99995, 0.99998, 0.99999, 0.999999, 1.0)
CELLS = [
    (METHODS["minmax"], None),
    *((METHODS["percentile"], a) for a in ALPHAS),
    (METHODS["mse"], None),
    (METHODS["entropy"], None),
]
FOUR = ("int8", "int4", "fp8_e4m3", "fp8_e5m2")
CANDIDATES = 20_000
LEFT_OUT = leave_one_out(FOLDS)


def histogram(*parts: torch.Tensor) -> Histogram:
    found = []
    for x in parts:
        observer = Observer()
        observer(0, "x", x.view(1, 1, -1))
        found.append(observer.finish()[0, "x"].histogram)
    return Histogram.stack(found)


def sites() -> Iterator[tuple[str, Histogram]]:
    """Folds of 264 sites, heavy-tailed, after SiLU where the site is; about as many bins as a real calibration."""
    torch.manual_seed(0)
    for layer in range(LAYERS):
        for site in SITES:
            x = torch.randn(FOLDS, VALUES)
            x = x * (1 + x.square() * (0.1 + 0.02 * layer))
            yield site, histogram(*(F.silu(x) if site.endswith("out") else x))


def read_out() -> list[str]:
    """CPU seconds for 15 ways to choose a clip, every format, with standard errors and metrics. All sites are there
    before the first is read, as in a calibration: making them would leave memory and caches as no reader finds them."""
    seconds: dict[tuple[str, str], float] = {}
    asymmetric: list[float] = []
    bins = []
    for site, folds in list(sites()):
        bins.append(len(folds.bins))
        wide, pooled = folds.coarser(folds.layout.of_folds), Histogram.stack([folds.total()])
        begin = time.process_time()
        observed = FoldSums(wide.finer(pooled), LEFT_OUT)
        seconds["preparing", ""] = seconds.get(("preparing", ""), 0.0) + time.process_time() - begin
        after_silu: dict[str, float] = {}
        for format in formats.FORMATS.values():
            chosen = []
            for method, alpha in CELLS:
                begin = time.process_time()
                clips = scales.clip(observed, method, alpha, format)
                scales.jackknife_error(clips.scale[1:])
                chosen.append(format.place(float(clips.low[0]), float(clips.high[0])))
                key = (format.name, method.name)
                seconds[key] = seconds.get(key, 0.0) + time.process_time() - begin
            begin = time.process_time()
            costs = metrics.measure_each(observed, chosen)
            seconds[format.name, "metrics"] = seconds.get((format.name, "metrics"), 0.0) + time.process_time() - begin
            after_silu[format.name] = float(costs[0].sqnr_db[0])  # of minmax
        if site.endswith("_out"):
            asymmetric.append(after_silu["int8_asym"] - after_silu["int8"])
    methods = [*(m.name for m in METHODS.values() if (m, None) in CELLS or m is METHODS["percentile"]), "metrics"]
    lines = [
        f"Read-out of {LAYERS * len(SITES)} sites, {FOLDS} folds, {np.mean(bins):,.0f} occupied bins on average, "
        f"on one core; {len(CELLS)} cells a format, standard errors and metrics included.",
        "",
        "| CPU seconds | " + " | ".join([*methods, "all"]) + " |",
        "|---" * (len(methods) + 2) + "|",
    ]
    for name in formats.FORMATS:
        row = [seconds[name, m] for m in methods]
        lines.append(f"| {name} | " + " | ".join(f"{s:.2f}" for s in [*row, sum(row)]) + " |")
    prepared = seconds["preparing", ""]
    four = prepared + sum(s for (name, _), s in seconds.items() if name in FOUR)
    lines += [
        "",
        f"**{', '.join(FOUR)}, with {prepared:.1f} s of preparing: {four:.1f} s** (claim: 10 s).",
        f"All six formats: {sum(seconds.values()):.1f} s.",
        "",
        f"Zero point on post-SiLU sites, minmax: int8_asym beats int8 by {np.mean(asymmetric):.1f} dB "
        f"({np.min(asymmetric):.1f} … {np.max(asymmetric):.1f}).",
    ]
    return lines


def draw(name: str, size: int = 100_000) -> torch.Tensor:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(size)
    made = {
        "gaussian": lambda: normal,
        "laplace": lambda: rng.laplace(size=size),
        "student, 3": lambda: rng.standard_t(3, size),
        "cauchy": lambda: np.clip(rng.standard_cauchy(size), -6e4, 6e4),
        "lognormal": lambda: rng.lognormal(0, 1.5, size),
        "uniform": lambda: rng.uniform(-1, 1, size),
        "SiLU of gaussian": lambda: 4 * normal / (1 + np.exp(-4 * normal)),
        "one spike of 3000": lambda: np.r_[normal, 3000.0],
        "97 % zeros": lambda: np.where(rng.random(size) < 0.97, 0.0, normal),
        "8 values": lambda: rng.choice(rng.standard_normal(8), size),
        "Poisson": lambda: rng.poisson(2.5, size).astype(float),
        "two modes": lambda: np.where(rng.random(size) < 0.5, 0.1 * normal - 3, 0.5 * normal + 8),
    }
    return torch.from_numpy(made[name]())


NAMES = ["gaussian", "laplace", "student, 3", "cauchy", "lognormal", "uniform", "SiLU of gaussian"]
NAMES += ["one spike of 3000", "97 % zeros", "8 values", "Poisson", "two modes"]


def brute(observed: FoldSums, format: Format) -> float:
    """Least error sum over 20,000 evenly spaced clips, or 100 x 200 pairs of them."""
    if format.symmetric:
        high = np.arange(1, CANDIDATES + 1) / CANDIDATES * observed.absmax[0]
        ends = np.stack([-high, high])
    else:
        low, high = min(observed.min[0], 0.0), max(observed.max[0], 0.0)
        counts = (1, CANDIDATES) if low == 0 else (100, 200)
        grid = np.meshgrid(*(np.arange(1, n + 1) / n * end for n, end in zip(counts, (low, high), strict=True)))
        ends = np.stack([g.ravel() for g in grid])
    order = np.argsort(observed.values)
    x, weights = observed.values[order], observed.counts[0, order].astype(np.float64)
    below = [np.concatenate([[0.0], np.cumsum(weights * x**power)]) for power in range(3)]
    least = np.inf
    for low, high in np.array_split(ends[..., None], 50, axis=1):
        scale = high / format.largest if format.symmetric else (high - low) / format.largest
        level = (format.codes - (0.0 if format.symmetric else np.rint(-low / scale))) * scale
        inner = np.searchsorted(x, (level[:, 1:] + level[:, :-1]) / 2)
        cut = np.concatenate([0 * inner[:, :1], inner, np.full_like(inner[:, :1], len(x))], 1)
        zeroth, first, second = (np.diff(moment[cut]) for moment in below)
        least = min(least, float((second - 2 * level * first + level**2 * zeroth).sum(1).min()))
    return least


def optimality() -> list[str]:
    """By how many dB the best of 20,000 clips beats the one that is found; negative where the search is better."""
    lines = [
        f"SQNR of method=mse below the best of {CANDIDATES:,} clips, dB, the worst of float32, bfloat16 and float16 "
        "(claim: 0.01; negative is better than all of them; differences below -110 dB of the power count as none).",
        "",
        "| | " + " | ".join(formats.FORMATS) + " |",
        "|---" * (len(formats.FORMATS) + 1) + "|",
    ]
    worst = -np.inf
    for name in NAMES:
        cells = []
        for format in formats.FORMATS.values():
            losses = []
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                observed = each(histogram(draw(name).to(dtype)))
                low, high = mse.clip(observed, format)
                mine = metrics.measure(observed, format.place(low[0], high[0])).mse[0] * observed.n[0]
                floor = mse.EQUAL * signed(observed).second[0]
                losses.append(10 * np.log10((mine + floor) / (max(brute(observed, format), 0.0) + floor)))
            cells.append(max(losses))
        worst = max(worst, *cells)
        lines.append(f"| {name} | " + " | ".join(f"{c:.4f}" for c in cells) + " |")
    return [*lines, "", f"**Worst: {worst:.4f} dB.**"]


def order() -> list[str]:
    """The same texts shuffled: percentile_ema moves, percentile cannot."""
    rng, format = np.random.default_rng(0), formats.named("int8")
    torch.manual_seed(0)
    texts = torch.randn(256, 64, 96)
    drifting = texts * torch.linspace(0.5, 2, 256)[:, None, None]
    lines = [
        "Clip of 256 texts in 200 random orders, 5th to 95th percentile relative to the order given.",
        "",
        "| alpha | texts | percentile_ema | percentile |",
        "|---|---|---|---|",
    ]
    for alpha in (0.99, 0.9995, 0.99999):
        for name, x in (("alike", texts), ("drifting 0.5 … 2", drifting)):
            quantiles = text_quantiles(x, [alpha])[:, 0].numpy()
            one, all_texts = np.array([0], np.int32), np.ones((1, 1), bool)

            def ema(q: np.ndarray, one: np.ndarray = one, everything: np.ndarray = all_texts) -> float:
                return float(moving_average(one, [q], everything, format)[1][0])

            moved = [ema(rng.permutation(quantiles)) / ema(quantiles) - 1 for _ in range(200)]
            pooled = [
                scales.clip(
                    each(histogram(x[torch.from_numpy(rng.permutation(256))].flatten())),
                    METHODS["percentile"],
                    alpha,
                    format,
                )
                for _ in range(3)
            ]
            spread = max(float(p.high[0]) for p in pooled) - min(float(p.high[0]) for p in pooled)
            low, high = np.quantile(moved, [0.05, 0.95])
            lines.append(f"| {alpha} | {name} | {low:+.1%} … {high:+.1%} | {spread:.0%} |")
    return lines


def order_of_a_network() -> list[str]:
    """The same on the shipped model: how far the clips of its sites move when its texts are shuffled."""
    from sweep.calibration import spec
    from sweep.calibration.collect import Collect
    from sweep.calibration.loop import calibrate
    from sweep.calibration.tokens import Tokens
    from sweep.config import config, knobs
    from sweep.models import load

    alphas = (0.99, 0.9995, 0.99999)
    model = knobs.Model("tiny", "pkg://sweep/models/tiny")
    asked = config.Config(model, knobs.Data("stdlib"), knobs.Calibration(samples=256))
    tokens, loaded = spec.of(asked).tokens, load.load(model, "cpu", "float32")
    forth, back = (
        calibrate(loaded, Tokens(tokens.source, order), asked.calibration, lambda *_: None, collect=Collect(alphas))[0]
        for order in (tokens.windows, tokens.windows[::-1])
    )
    rng, format = np.random.default_rng(0), formats.named("int8")
    one, all_texts = np.array([0], np.int32), np.ones((1, 1), bool)
    lines = [
        f"The shipped model, {len(tokens.windows)} x 512 tokens in 200 random orders: width of the 5th to 95th "
        f"percentile of a site's clip, relative to its median, over {len(forth.sites)} sites. percentile: the largest "
        "difference between the order given and its reverse, each with a forward pass of its own.",
        "",
        "| alpha | percentile_ema: median site | worst site | percentile |",
        "|---|---|---|---|",
    ]
    for index, alpha in enumerate(alphas):
        widths, moved = [], []
        for key, site in forth.sites.items():
            pooled, again = (float(each(of.sites[key].total).abs_quantile(alpha)[0]) for of in (forth, back))
            moved.append(abs(again / pooled - 1))
            quantiles = np.concatenate([q[:, index] for q in site.text_quantiles])
            clips = [
                float(moving_average(one, [rng.permutation(quantiles)], all_texts, format)[1][0]) for _ in range(200)
            ]
            low, middle, high = np.quantile(clips, [0.05, 0.5, 0.95])
            widths.append((high - low) / middle)
        lines.append(f"| {alpha} | {np.median(widths):.1%} | {max(widths):.1%} | {max(moved):.2g} |")
    return lines


def main() -> list[str]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    lines = [*read_out(), "", *optimality(), "", *order()]
    torch.set_num_threads(threads)
    lines += ["", *order_of_a_network()]
    print("\n".join(lines))
    return lines


if __name__ == "__main__":
    main()
