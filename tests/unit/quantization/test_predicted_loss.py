"""Predicted loss against sums over values, one by one, in float64."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from test_registry import NF4

from sweep.config.config import Config
from sweep.config.knobs import Calibration, Data, Model
from sweep.quantization import formats, predicted_loss, site_scales
from sweep.quantization.formats import FORMATS, Format
from sweep.quantization.methods.registry import METHODS, jackknife_error
from sweep.quantization.sites import quantized
from sweep.quantization.statistics import Statistics
from sweep.runs import summary, tables
from sweep.runs.cell import Cell
from sweep.runs.cost import predicted
from sweep.runs.record import RunRecord
from tests.cells import RECORD
from tests.distributions import NAMES
from tests.gradients import FOLDS, TOKENS, differentiated, observed
from tests.observed_sites import SITE, statistics

EVERY = [*FORMATS.values(), formats.named("e3m2"), NF4]


def oracle(x: np.ndarray, g: np.ndarray, format: Format, low: float, high: float, folds: list[int]) -> float:
    error = x[folds] - format.place(low, high).quantize(x[folds])
    return float(np.sum(g[folds] ** 2 * error**2) / 2 / np.array(TOKENS)[folds].sum())


@pytest.mark.parametrize("format", EVERY, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_it_is_the_sum_over_values(format: Format, dtype: torch.dtype) -> None:
    for name in NAMES:
        x, g, site = observed(name, dtype)
        values = x.double().numpy()
        for high in (1.0, 0.4, 0.03):
            ends = (high * values.min(), high * np.abs(values).max())
            (loss,) = predicted_loss.predict(site, [format.place(*ends)])
            left_out = [[k for k in range(FOLDS) if k != out] for out in (None, *range(FOLDS))]
            expected = [oracle(values, g, format, *ends, folds) for folds in left_out]
            np.testing.assert_allclose(loss, expected, rtol=1e-9, atol=0, err_msg=name)


@pytest.mark.parametrize("format", EVERY, ids=str)
def test_values_of_float32_stand_for_their_bins(format: Format) -> None:
    x, g, site = observed("student", torch.float32)
    assert site.fisher is not None
    assert site.fisher.layout.width == 4
    standing = predicted_loss.weighted(site)
    assert standing is not None
    quantizer = format.place(-2.0, 2.0)
    (loss,) = predicted_loss.predict(site, [quantizer])
    bins = standing.weights * np.square(standing.x - quantizer.quantize(standing.x))
    assert loss[0] == pytest.approx(bins.sum() / 2 / sum(TOKENS), rel=1e-9)
    assert loss[0] == pytest.approx(oracle(x.double().numpy(), g, format, -2.0, 2.0, [0, 1, 2, 3]), rel=0.03)


def test_many_quantizers_cost_what_each_costs() -> None:
    _, _, site = observed("student")
    quantizers = [format.place(-high, high) for format in EVERY for high in (0.5, 2.0)]
    together = predicted_loss.predict(site, quantizers)
    for quantizer, loss in zip(quantizers, together, strict=True):
        np.testing.assert_allclose(predicted_loss.predict(site, [quantizer])[0], loss, rtol=1e-12)


def test_a_site_without_gradient_costs_nothing_and_one_without_any_collected_is_unknown() -> None:
    x, g, site = observed("student")
    dead = differentiated(site, x, 0 * g, TOKENS)
    quantizer = FORMATS["int4"].place(-1.0, 1.0)
    assert predicted_loss.predict(dead, [quantizer])[0].tolist() == [0.0] * 5
    assert np.isnan(predicted_loss.predict(replace(site, fisher=None), [quantizer])).all()
    zeros = torch.zeros(FOLDS, 1, 50, 1)
    still = differentiated(statistics(zeros, [0, 1, 2, 3]).sites[SITE], zeros, g[:, :50], TOKENS)
    assert predicted_loss.predict(still, [FORMATS["int8"].place(0.0, 0.0)])[0].tolist() == [0.0] * 5


def test_one_fold_has_no_error() -> None:
    x, g, _ = observed("student")
    one = statistics(x[:1].view(1, 1, -1, 1), [0]).sites[SITE]
    read = site_scales.of_histograms(
        [(site_scales.WHOLE, differentiated(one, x[:1], g[:1], [70]))], METHODS["minmax"], None, FORMATS["int8"]
    )
    assert read.loss[0, 0] > 0
    assert np.isnan(read.loss_se).all()


def cell(sites: list[str] | None = None, **chosen: object) -> tuple[Config, tables.Tables]:
    parts = {"in_proj_in": "gaussian", "x_conv_in": "student", "x_conv_out": "silu", "out_proj_in": "laplace"}
    known = {
        (layer, site): observed(name, seed=10 * layer + number)[2]
        for layer in (0, 1)
        for number, (site, name) in enumerate(parts.items())
    }
    known |= {(layer, "x_conv_pre"): replace(known[layer, "x_conv_in"], fisher=None) for layer in (0, 1)}
    meta = {"n_layer": 2, "family": "mamba1", "n_groups": 1}
    config = Config(Model("tiny", "nowhere"), Data("stdlib"), Calibration(samples=4), **chosen)  # type: ignore[arg-type]
    return config, tables.build(Statistics(known, meta), config)


def test_rows_have_it_and_cells_add_it_up() -> None:
    _, built = cell(format="int4")
    rows = {(r["layer"], r["site"]): r for r in built.scales.to_pylist()}
    assert rows[0, "x_conv_pre"]["loss"] is None
    assert rows[0, "x_conv_pre"]["loss_se"] is None
    of_cells = [key for key in rows if key[1] != "x_conv_pre"]
    left = {(r["layer"], r["site"], r["fold"]): r["loss"] for r in built.replicates.to_pylist()}
    for key in of_cells:
        each = np.array([left[(*key, k)] for k in range(FOLDS)])
        assert rows[key]["loss_se"] == pytest.approx(jackknife_error(each))
    cost = predicted(built, quantized())
    assert cost is not None
    assert list(cost["sites"]) == ["in_proj_in", "x_conv_in", "x_conv_out", "out_proj_in"]
    without = np.array([sum(left[(*key, k)] for key in of_cells) for k in range(FOLDS)])
    assert cost["loss"] == pytest.approx(sum(rows[key]["loss"] for key in of_cells))
    assert cost["loss_se"] == pytest.approx(jackknife_error(without))
    assert sum(site["loss"] for site in cost["sites"].values()) == pytest.approx(cost["loss"])
    assert sum(layer["loss"] for layer in cost["layers"]) == pytest.approx(cost["loss"])
    assert [layer["layer"] for layer in cost["layers"]] == [0, 1]
    some = predicted(built, ["x_conv_out"])
    assert some is not None
    assert some["loss"] == pytest.approx(cost["sites"]["x_conv_out"]["loss"])


def test_a_sum_with_an_unknown_term_is_unknown() -> None:
    _, built = cell(method="minmax", granularity="channel")
    assert predicted(built, quantized()) is None
    _, tensor_wise = cell()
    cost = predicted(tensor_wise, [*quantized(), "x_conv_pre"])
    assert cost is not None
    assert cost["loss"] is None
    assert cost["sites"]["x_conv_pre"] == {"loss": None, "loss_se": None}
    assert cost["sites"]["x_conv_out"]["loss"] > 0
    assert "known of in_proj_in, x_conv_in, x_conv_out, out_proj_in only" in summary._cost(cost)


def test_a_single_cell_says_it_on_the_terminal() -> None:
    _, built = cell(format="int4")
    cost = predicted(built, quantized())
    assert cost is not None
    run = RunRecord.from_dict(RECORD | {"loss": cost})
    assert run.results is not None
    out = StringIO()
    summary.show(Cell(Path("runs/0"), run, run.results, built, []), Console(file=out, width=120))
    assert f"Predicted loss: {cost['loss']:.3g} ± {cost['loss_se']:.1g} nats per token" in out.getvalue()
    assert "nats" in out.getvalue()
    assert f"{cost['sites']['x_conv_out']['loss']:.2e}" in out.getvalue()
    without, tables = replace(run.results, loss=None), cell(method="minmax", granularity="channel")[1]
    summary.show(Cell(Path("runs/0"), run, without, tables, []), Console(file=out))
    assert out.getvalue().count("Predicted loss") == 1
