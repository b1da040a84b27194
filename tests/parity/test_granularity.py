"""Channel and group scales against the activations themselves, taken from the tiny model."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch

from sweep.calibration import collect, tokens
from sweep.calibration.loop import calibrate
from sweep.calibration.taps import taps
from sweep.config import config, knobs
from sweep.models import load
from sweep.models.kernels.patch import kernels
from sweep.quantization import formats
from sweep.quantization.statistics import Statistics
from sweep.runs import tables

TINY = knobs.Model("tiny", "pkg://sweep/models/tiny")
CALIBRATION = knobs.Calibration(samples=4, seqlen=48, folds=2, batch_size=1)
Dump = dict[tuple[int, str], torch.Tensor]


@pytest.fixture(scope="module")
def observed() -> tuple[Statistics, Dump, dict[str, Any]]:
    """Statistics, and what they are of: float32 [sample, seq, channels] per layer and site."""
    model = load.load(TINY, "cpu", "float32")
    windows = tokens.load(knobs.Data("stdlib"), load.encoder(TINY), CALIBRATION)
    dump: dict[tuple[int, str], list[torch.Tensor]] = defaultdict(list)

    def keep(layer: int, site: str, x: torch.Tensor) -> None:
        dump[layer, site].append(x.clone())

    with (
        torch.inference_mode(),
        kernels(model.mixers, model.device) as convolve,
        taps(model.mixers, keep, convolve),
    ):
        for window in windows.windows:
            model.backbone(torch.from_numpy(np.asarray(window))[None])
    statistics, _ = calibrate(model, windows, CALIBRATION, lambda done, total: None)
    return statistics, {key: torch.cat(seen) for key, seen in dump.items()}, statistics.meta


def rows(statistics: Statistics, granularity: str, **more: Any) -> tuple[list[dict[str, Any]], tables.Tables]:
    cell = config.Config(TINY, knobs.Data("stdlib"), CALIBRATION, method="minmax", granularity=granularity, **more)
    built = tables.build(statistics, cell)
    return built.scales.to_pylist(), built


def test_channel_scales_are_the_channels_maxima(observed: tuple[Statistics, Dump, dict[str, Any]]) -> None:
    statistics, dump, geometry = observed
    found, built = rows(statistics, "channel")
    assert len(found) == sum(x.shape[-1] for x in dump.values())
    headdim, heads, ssd = geometry["headdim"], geometry["n_heads"] // geometry["n_groups"], geometry["n_groups"]
    for row in found:
        x = dump[row["layer"], row["site"]]
        g, h, d = row["ssd_group"], row["head_group"], row["dim_group"]
        if row["site"] == "in_proj_in":
            assert (g, h) == (None, None)
            channel = d
        elif row["site"][0] in "BC":
            channel = g * (x.shape[-1] // ssd) + d
            assert h is None
        else:
            channel = (g * heads + h) * headdim + d
        assert row["clip"] == row["absmax"] == float(x[..., channel].abs().max())
        assert row["scale"] == row["clip"] / 127
        assert row["n"] == x[..., channel].numel()
        assert row["clip_fraction"] == 0
        assert row["sqnr_db"] is None
    assert built.grouping is None
    assert built.convergence.num_rows == 0


def quambas_groups(x: torch.Tensor, ssd: int, headdim: int, head_sizes: Any, dim_sizes: Any) -> np.ndarray:
    """`CrossHeadMinmaxObserver.update` of Quamba, in plain loops, for channels already in their new order."""
    cube = x.reshape(*x.shape[:2], ssd, -1, headdim)
    found = np.empty((ssd, len(head_sizes[0]), len(dim_sizes[0][0])))
    for g in range(ssd):
        head = 0
        for h, heads in enumerate(head_sizes[g]):
            dim = 0
            for d, dims in enumerate(dim_sizes[g][h]):
                found[g, h, d] = cube[:, :, g, head : head + heads, dim : dim + dims].abs().amax().clamp(min=1e-5)
                dim += dims
            head += heads
    return found


@pytest.mark.parametrize("counts", [(4, 4), (2, 3), (1, 1)])
def test_group_scales_are_those_of_quambas_observer(
    observed: tuple[Statistics, Dump, dict[str, Any]], counts: tuple[int, int]
) -> None:
    statistics, dump, geometry = observed
    ssd, headdim = geometry["n_groups"], geometry["headdim"]
    found, built = rows(statistics, "group", grouping=knobs.Grouping(*counts))
    assert built.grouping is not None
    for saved in built.grouping.to_pylist():
        layer = saved["layer"]
        # the sort key, from the activations: the largest over texts of the text's mean
        key = dump[layer, "x_conv_out"].abs().mean(1).amax(0).double().numpy()
        order = np.array(saved["channels"])
        np.testing.assert_array_equal(np.sort(order), np.arange(len(order)))
        assert (np.diff(key[order].reshape(-1, headdim), axis=1) >= -1e-6).all()
        head_ends = np.array(saved["head_ends"]).reshape(ssd, counts[0])
        dim_ends = np.array(saved["dim_ends"]).reshape(ssd, *counts)
        sizes = np.diff(head_ends, prepend=0), np.diff(dim_ends, prepend=0)
        for site in ("x_conv_pre", "x_conv_out"):
            expected = quambas_groups(dump[layer, site][..., order], ssd, headdim, *sizes)
            mine = [r for r in found if (r["layer"], r["site"]) == (layer, site)]
            assert [(r["ssd_group"], r["head_group"], r["dim_group"]) for r in mine] == list(np.ndindex(expected.shape))
            np.testing.assert_array_equal([r["clip"] for r in mine], expected.ravel())
            assert sum(r["n"] for r in mine) == dump[layer, site].numel()
        for site in ("B_conv_out", "C_conv_out"):
            x = dump[layer, site]
            expected = x.reshape(-1, ssd, x.shape[-1] // ssd).abs().amax((0, 2))
            mine = [r for r in found if (r["layer"], r["site"]) == (layer, site)]
            assert [r["clip"] for r in mine] == expected.tolist()
    # what Quamba2 keeps at one scale stays so, with everything a histogram tells
    whole = [r for r in found if r["site"] in ("in_proj_in", "x_conv_in", "out_proj_in")]
    assert all(r["ssd_group"] is None and r["sqnr_db"] is not None for r in whole)


@pytest.mark.parametrize(
    ("method", "format"), [("percentile", "int8"), ("mse", "int4"), ("minmax", "int8_asym"), ("percentile_ema", "int8")]
)
def test_other_methods_take_histograms_of_the_groups(
    observed: tuple[Statistics, Dump, dict[str, Any]], method: str, format: str
) -> None:
    first, dump, _ = observed
    cell = config.Config(
        TINY, knobs.Data("stdlib"), CALIBRATION, method=method, alpha=0.99, format=format, granularity="group"
    )
    wanted = collect.second_pass(cell, first)
    assert wanted is not None
    model = load.load(TINY, "cpu", "float32")
    windows = tokens.load(cell.data, load.encoder(TINY), CALIBRATION)
    if method == "percentile_ema":  # the sites of one scale need their texts' quantiles too
        first, _ = calibrate(model, windows, CALIBRATION, lambda done, total: None, collect=collect.of(cell))
    grouped, _ = calibrate(model, windows, CALIBRATION, lambda done, total: None, collect=wanted)
    built = tables.build(first, cell, grouped)
    assert built.grouping is not None
    channels = {row["layer"]: np.array(row["channels"]) for row in built.grouping.to_pylist()}
    seen = 0
    for row in built.scales.to_pylist():
        if row["site"] != "x_conv_out":
            continue
        group = wanted.groups[row["layer"], "x_conv_out"][
            "x_conv_out[{ssd_group},{head_group},{dim_group}]".format(**row)
        ]
        assert set(group) <= set(channels[row["layer"]])
        x = dump[row["layer"], "x_conv_out"][..., group].double().numpy()
        assert (row["n"], row["min"], row["max"]) == (x.size, x.min(), x.max())
        if method == "percentile":
            assert row["clip"] == pytest.approx(np.quantile(np.abs(x), 0.99), rel=2**-10)
        elif method == "minmax":
            assert (row["clip_low"], row["clip"]) == (min(x.min(), 0), max(x.max(), 0))
        elif method == "percentile_ema":
            w = np.quantile(np.abs(x[0]), 0.99)
            for text in x[1:]:
                w += 0.01 * (np.quantile(np.abs(text), 0.99) - w)
            assert row["clip"] == pytest.approx(w, rel=1e-6)
        quantized = formats.named(format).place(row["clip_low"] or 0.0, row["clip"]).quantize(x.ravel())
        assert row["mse"] == pytest.approx(np.square(x.ravel() - quantized).mean(), rel=0.02)
        assert row["silu_gain"] is not None
        seen += 1
    assert seen == 7 * 2 * 16
    assert collect.second_pass(config.Config(TINY, cell.data, method="minmax", granularity="group"), first) is None


@pytest.mark.parametrize("granularity", ["channel", "group"])
def test_replicates_of_maxima_scatter_as_those_of_folds(
    observed: tuple[Statistics, Dump, dict[str, Any]], granularity: str
) -> None:
    statistics, dump, _ = observed
    _, built = rows(statistics, granularity)
    replicates = [r for r in built.replicates.to_pylist() if (r["layer"], r["site"]) == (1, "B_conv_out")]
    x = dump[1, "B_conv_out"]
    for row in replicates:
        width = x.shape[-1] // 2
        channels = slice(row["ssd_group"] * width, (row["ssd_group"] + 1) * width)
        if granularity == "channel":
            channels = slice(channels.start + row["dim_group"], channels.start + row["dim_group"] + 1)
        here, other = (float(x[k::2, ..., channels].abs().max()) for k in (row["fold"], 1 - row["fold"]))
        moved = max(here, other) * (other / here) ** (1 / np.sqrt(2))  # sqrt(K) (ln other - the mean of both)
        assert row["scale"] == pytest.approx(moved / 127)
    assert len(replicates) == 2 * (2 if granularity == "group" else x.shape[-1])


def test_silu_gain_of_a_group_is_at_most_one(observed: tuple[Statistics, Dump, dict[str, Any]]) -> None:
    found, _ = rows(observed[0], "group")
    gains = [r["silu_gain"] for r in found if r["silu_gain"] is not None]
    assert gains
    assert max(gains) <= 1
