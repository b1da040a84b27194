"""Recipes: from the cells of a sweep to a file, and from the file to a cell."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import synthetic
import yaml

from sweep.compare.query.comparison import load
from sweep.compare.recipes.command import main
from sweep.compare.recipes.gather import gather
from sweep.config import recipe as recipes
from sweep.config.config import Config, from_dict
from sweep.config.knobs import Calibration, Data, Model
from sweep.config.recipe import Choice
from sweep.core.errors import UsageError
from sweep.core.files import write_json
from sweep.evaluation import channel_quantizer
from sweep.quantization.sites import quantized
from sweep.quantization.statistics import Statistics
from sweep.runs import record as runs
from sweep.runs import tables
from sweep.runs.cost import predicted
from sweep.runs.quamba.export import export
from sweep.runs.schemas import write_table
from sweep.runs.tracking import view
from tests import cells
from tests.gradients import observed

SITES = {"in_proj_in": "gaussian", "x_conv_in": "student", "x_conv_out": "silu", "out_proj_in": "laplace"}
GRID: list[dict[str, Any]] = [
    {"method": "minmax"},
    {"method": "percentile", "alpha": 0.999},
    {"method": "mse"},
]
FORMATS = ("int4", "e3m2", "int8")


@pytest.fixture(scope="module")
def statistics() -> Statistics:
    found = {}
    for layer in (0, 1, 2):
        for number, (site, name) in enumerate(SITES.items()):
            weight = 0.5 if site == "x_conv_out" else None
            found[layer, site] = replace(observed(name, seed=10 * layer + number)[2], weight_absmax=weight)
        found[layer, "x_conv_pre"] = replace(found[layer, "x_conv_in"], fisher=None)
    return Statistics(found, {"n_layer": 3, "family": "mamba1", "n_groups": 1})


def cell(directory: Path, statistics: Statistics, **chosen: Any) -> tuple[Config, tables.Tables]:
    """What a finished cell leaves behind."""
    config = Config(Model("tiny", "nowhere"), Data("stdlib"), Calibration(samples=4), **chosen)
    built = tables.build(statistics, config)
    directory.mkdir(parents=True)
    for name in ("scales", "replicates", "convergence", "histograms"):
        write_table(directory / f"{name}.parquet", getattr(built, name))
    cost = predicted(built, quantized())
    described = {"name": config.label, "config": config.to_dict(), "loss": cost, "recipe": runs._recipe(config)}
    write_json(directory / "run.json", cells.RECORD | described | {"sweep": directory.parent.name})
    return config, built


@pytest.fixture(scope="module")
def sweep_directory(statistics: Statistics, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "grid"
    for number, (chosen, format) in enumerate((c, f) for c in GRID for f in FORMATS):
        cell(directory / str(number), statistics, format=format, **chosen)
    return directory


def losses(directory: Path) -> dict[str, float]:
    found = {}
    for path in directory.glob("*/run.json"):
        run = json.loads(path.read_text())
        found[run["name"]] = run["loss"]["loss"]
    return found


def write(sweep_directory: Path, out: Path, *budget: str) -> dict[str, Any]:
    assert main([str(sweep_directory), *budget, "--out", str(out)]) == 0
    return dict(yaml.safe_load(out.read_text()))


def test_every_site_has_the_choice_of_least_loss(sweep_directory: Path, tmp_path: Path) -> None:
    written = write(sweep_directory, tmp_path / "recipe.yaml")
    assert written["loss"] <= min(losses(sweep_directory).values())
    rows = [row for path in sweep_directory.glob("*/scales.parquet") for row in pq.read_table(path).to_pylist()]
    for layer, sites in written["layers"].items():
        assert list(sites) == sorted(SITES)
        for site, choice in sites.items():
            least = min(row["loss"] for row in rows if (row["layer"], row["site"]) == (layer, site))
            assert choice["loss"] == pytest.approx(least, rel=1e-5)
    assert written["calibration"] == ["ab" * 32]
    assert written["sweep"] == [str(sweep_directory)]
    assert written["budget"] is None
    assert written["best_cell"]["loss"] == min(losses(sweep_directory).values())


@pytest.mark.parametrize("bits", [4, 4.5, 5.3, 6, 7, 8])
def test_a_budget_of_bits_is_kept_and_no_single_cell_within_it_costs_less(
    sweep_directory: Path, tmp_path: Path, bits: float, capsys: pytest.CaptureFixture[str]
) -> None:
    written = write(sweep_directory, tmp_path / "r.yaml", "--bits", str(bits))
    assert written["bits"] <= bits
    allowed = {"int4": 4, "e3m2": 6, "int8": 8}
    within = [loss for name, loss in losses(sweep_directory).items() if allowed[name.split()[-3]] <= bits]
    assert written["loss"] <= min(within)
    assert written["bound"] == written["loss"]
    shown = capsys.readouterr().out
    assert f"{written['loss']:.4g} nats per token at {written['bits']:.4g} bits a value" in shown
    assert "(gap 0)" in shown
    assert "best single cell within it: tiny" in shown


def test_a_budget_of_loss_is_kept_with_as_few_bits_as_it_takes(sweep_directory: Path, tmp_path: Path) -> None:
    every = losses(sweep_directory)
    budget = min(loss for name, loss in every.items() if "e3m2" in name)
    written = write(sweep_directory, tmp_path / "r.yaml", "--loss", repr(budget))
    assert written["loss"] <= budget
    assert written["bits"] <= 6
    again = write(sweep_directory, tmp_path / "r.yaml", "--loss", repr(budget), "--bits", "6")
    assert again["bits"] == written["bits"]


def test_budgets_that_cannot_be_kept(sweep_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for budget, said in (
        (["--bits", "3"], "bits=3 are too few: the formats of this sweep need 4 a value at least; raise --bits"),
        (["--loss", "1e-30"], "loss=1e-30 is out of reach: the least of this sweep's choices is"),
        (["--loss", "1e-8", "--bits", "4"], "loss=1e-08"),
    ):
        assert main([str(sweep_directory), *budget, "--out", str(tmp_path / "r.yaml")]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {said}")
        assert error.count("\n") == 1
    assert not (tmp_path / "r.yaml").exists()
    assert main([str(sweep_directory), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} is a directory; name a file with --out\n"
    (tmp_path / "file").touch()
    assert main([str(sweep_directory), "--out", str(tmp_path / "file/r.yaml")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    for wrong in ("many", "0", "-1", "nan", "inf", "1e999", "1/0"):
        assert main([str(sweep_directory), "--bits", wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_it_runs_as_a_cell(sweep_directory: Path, statistics: Statistics, tmp_path: Path) -> None:
    file = tmp_path / "recipe-bits6.yaml"
    written = write(sweep_directory, file, "--bits", "6")
    config, built = cell(tmp_path / "sweep/0", statistics, recipe=str(file))
    assert config.label == f"tiny recipe bits6 {config.format} tensor samples=4"
    assert set(config.format.split("+")) <= set(FORMATS)
    assert "+" in config.format
    cost = predicted(built, quantized())
    assert cost is not None
    assert cost["loss"] == pytest.approx(written["loss"], rel=1e-12)
    assert cost["bits"] == written["bits"]
    rows = {(row["layer"], row["site"]): row for row in built.scales.to_pylist()}
    for layer, sites in written["layers"].items():
        for site, choice in sites.items():
            row = rows[layer, site]
            assert {key: row[key] for key in ("method", "alpha", "format")} == {
                k: choice[k] for k in vars(Choice("", 0, ""))
            }
            assert row["loss"] == pytest.approx(choice["loss"], rel=1e-5)
        before, after = rows[layer, "x_conv_pre"], rows[layer, "x_conv_out"]
        assert before["format"] == after["format"]
        assert after["silu_gain"] == pytest.approx(after["scale"] / before["scale"])
    roundings = channel_quantizer.of_table(built.scales, quantized(), {})
    assert {key: str(r.format) for key, r in roundings.items()} == {
        (layer, site): choice["format"] for layer, sites in written["layers"].items() for site, choice in sites.items()
    }
    assert from_dict(config.to_dict()).identity == config.identity


def test_it_stands_beside_other_cells(sweep_directory: Path, statistics: Statistics, tmp_path: Path) -> None:
    for bits in ("5", "6"):
        file = tmp_path / f"recipe-bits{bits}.yaml"
        write(sweep_directory, file, "--bits", bits)
        cell(tmp_path / "sweep" / bits, statistics, recipe=str(file))
    cell(tmp_path / "sweep/mse", statistics, method="mse", format="int8")
    compared = load(tmp_path / "sweep")
    assert not compared.problems
    assert sorted(c.setting for c in compared.listed) == ["mse", "recipe bits5", "recipe bits6"]
    assert len(set(compared.labels)) == 3
    shown = view.read(tmp_path / "sweep/6").config["cell"]
    assert (shown["method"], shown["alpha"]) == ("recipe bits6", None)
    assert (
        main([str(tmp_path / "sweep"), "--out", str(tmp_path / "again.yaml")]) == 0
    )  # recipes are cells to choose from


def test_quamba_takes_only_what_it_can_hold(sweep_directory: Path, statistics: Statistics, tmp_path: Path) -> None:
    write(sweep_directory, tmp_path / "recipe-mixed.yaml", "--bits", "6")
    cell(tmp_path / "sweep/mixed", statistics, recipe=str(tmp_path / "recipe-mixed.yaml"))
    with pytest.raises(
        UsageError, match=r"format=.*\+int8; Quamba's activations are int8: export a run with format=int8"
    ):
        export(tmp_path / "sweep/mixed", tmp_path / "q.safetensors")
    write(sweep_directory, tmp_path / "recipe-int8.yaml")
    cell(tmp_path / "sweep/int8", statistics, recipe=str(tmp_path / "recipe-int8.yaml"))
    assert export(tmp_path / "sweep/int8", tmp_path / "q.safetensors") == (9, [])


def test_cells_without_losses_are_named_and_left_out(
    sweep_directory: Path, statistics: Statistics, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without = Statistics({k: replace(s, fisher=None) for k, s in statistics.sites.items()}, statistics.meta)
    cell(tmp_path / "grid/0", without, method="mse")
    assert main([str(tmp_path / "grid"), "--out", str(tmp_path / "r.yaml")]) == 2
    assert "0: no predicted loss; run the sweep with calibration.fisher=64" in capsys.readouterr().err
    cell(tmp_path / "grid/1", statistics, method="minmax")
    assert main([str(tmp_path / "grid"), "--out", str(tmp_path / "r.yaml")]) == 0
    assert "left out: " in capsys.readouterr().out
    cell(tmp_path / "grid/2", statistics, method="mse")
    run = json.loads((tmp_path / "grid/2/run.json").read_text())
    run["tokens"]["sha256"] = "other"
    write_json(tmp_path / "grid/2/run.json", run)
    assert main([str(tmp_path / "grid"), "--out", str(tmp_path / "r.yaml")]) == 2
    assert "observed something else" in capsys.readouterr().err


GOOD = """\
schema: 1
model: tiny
default: {method: mse, alpha: null, format: int8}
layers:
  0:
    in_proj_in: {method: percentile, alpha: 0.99, format: int4}
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a recipe is a mapping"),
        ("- 1\n", "a recipe is a mapping"),
        ("a: \x00", "not readable as YAML"),
        (GOOD.replace("0.99", ".nan"), "alpha=nan of percentile is no number"),
        ("a: [1\n", r"line 2: not readable as YAML"),
        (GOOD.replace("schema: 1", "schema: 7"), "schema 7 is unknown; this version reads 1"),
        ("schema: 1\nlayers: 3\n", "`layers` has to map"),
        (GOOD.replace("  0:", "  zero:"), "layers.zero is no number of a layer"),
        (GOOD.replace("percentile", "percentil"), r"layers.0.in_proj_in: method=percentil is unknown; .*did you mean"),
        (GOOD.replace("int4", "int5"), r"layers.0.in_proj_in: format=int5 is unknown"),
        (GOOD.replace("0.99", "1.5"), r"layers.0.in_proj_in: alpha=1.5 of percentile is no number in \(0, 1\]"),
        (GOOD.replace("0.99", "null"), "alpha=None of percentile"),
        (GOOD.replace("default: {method: mse, alpha: null, format: int8}\n", ""), "default has to be"),
        (GOOD.replace("{method: percentile, alpha: 0.99, format: int4}", "int4"), "layers.0.in_proj_in has to be"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=said) as refused:
        Config(Model("tiny", "nowhere"), Data("stdlib"), recipe=str(file))
    assert str(refused.value).startswith(f"recipe={file}:")
    assert "\n" not in str(refused.value)


def test_no_file_and_no_groups(tmp_path: Path) -> None:
    named = Model("tiny", "nowhere"), Data("stdlib")
    with pytest.raises(UsageError, match=r"recipe=none.yaml: No such file or directory; python -m sweep.recipe writes"):
        Config(*named, recipe="none.yaml")
    file = tmp_path / "r.yaml"
    file.write_text(GOOD)
    assert recipes.read(str(file)).choice(0, "in_proj_in") == Choice("percentile", 0.99, "int4")
    with pytest.raises(UsageError, match=r"granularity=group must be tensor"):
        Config(*named, recipe=str(file), granularity="group")
    file.write_text(GOOD.replace("percentile", "loss"))
    with pytest.raises(UsageError, match=r"method=loss .*add calibration.fisher=64"):
        Config(*named, recipe=str(file))


def test_a_recipe_of_another_model_is_refused(statistics: Statistics, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(GOOD)
    config = Config(Model("tiny", "nowhere"), Data("stdlib"), recipe=str(file))
    with pytest.raises(UsageError, match=r"says nothing of x_conv_in of layer 0 of tiny; it was made for tiny"):
        tables.build(statistics, config)
    lines = [f"    {site}: {{method: mse, format: int8}}" for site in SITES]
    layers = "\n".join(f"  {layer}:\n" + "\n".join(lines) for layer in range(4))
    file.write_text(GOOD.partition("layers:")[0] + "layers:\n" + layers)
    config = Config(Model("tiny", "nowhere"), Data("stdlib"), recipe=str(file))
    with pytest.raises(UsageError, match=r"speaks of in_proj_in of layer 3, which tiny does not have"):
        tables.build(statistics, config)


def test_a_changed_file_is_another_cell(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(GOOD)
    first = Config(Model("tiny", "nowhere"), Data("stdlib"), recipe=str(file)).identity
    file.write_text(GOOD.replace("0.99", "0.999"))
    assert Config(Model("tiny", "nowhere"), Data("stdlib"), recipe=str(file)).identity != first


def test_a_cell_of_before_losses_says_so(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "old", synthetic.mamba(layers=1, size=60))
    with pytest.raises(UsageError, match="old: written before losses were predicted; start the cell again with cal"):
        gather([str(tmp_path)])
