"""`evaluate.perplexity` and `evaluate.sensitivity`, from the command line to run.json and the store."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import small
import torch
import yaml
from torch.nn import functional as F

from sweep.config import knobs
from sweep.config.config import Config
from sweep.config.knobs import Data, Model
from sweep.core.store import Store
from sweep.evaluation import evaluate, forward, heldout
from sweep.evaluation.channel_quantizer import Rounding
from sweep.models import load
from sweep.quantization import formats, sites
from tests.harness import ROOT, Run

TINY = (
    "calibration.samples=16",
    "calibration.folds=4",
    "method=minmax",
    "evaluate.perplexity=true",
    "evaluate.samples=32",
    "calibration.seqlen=128",
)
ON = "evaluate.perplexity=true"


@pytest.fixture
def cell(sweep: Run, tmp_path: Path) -> Any:
    """A cell of the small model with an evaluation of 8 texts: its record, and what it said."""
    small.files(tmp_path)

    def run(name: str, *more: str, code: int = 0) -> tuple[dict[str, Any], Any]:
        done = sweep(*small.overrides(tmp_path), "evaluate.samples=8", *more, f"hydra.run.dir={name}")
        assert done.returncode == code, done.stderr
        path = tmp_path / name / "run.json"
        return json.loads(path.read_text())["evaluation"] if path.exists() else {}, done

    return run


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of quantized (layer, site) pairs with every pass over the text."""
    calls: list[int] = []
    own = forward.hidden_states

    def count(model: Any, text: Any, roundings: Any, *rest: Any) -> Any:
        calls.append(len(roundings))
        return own(model, text, roundings, *rest)

    monkeypatch.setattr(forward, "hidden_states", count)
    return calls


def int4(x: torch.Tensor, scale: float) -> torch.Tensor:
    return torch.clamp(torch.round(x.double() / scale), -7, 7).mul(scale).to(x.dtype)


@pytest.mark.slow
def test_int16_changes_nothing_and_fewer_bits_cost_more(
    sweep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(formats.FORMATS, "int16", formats._integers("int16", 16))
    found = {}
    for format in ("int16", "int8", "int4"):
        done = sweep(*TINY, f"format={format}", f"hydra.run.dir={format}")
        assert done.returncode == 0, done.stderr
        found[format] = json.loads((tmp_path / format / "run.json").read_text())["evaluation"]
    none = found["int8"]["baseline"]["perplexity"]
    assert abs(found["int16"]["perplexity"] / none - 1) < 1e-4
    assert 0 < found["int16"]["kl"] < found["int8"]["kl"] < found["int4"]["kl"]
    assert none < found["int8"]["perplexity"] < found["int4"]["perplexity"]
    assert found["int4"]["delta_perplexity"] > 3 * found["int4"]["delta_perplexity_se"]
    assert 1 >= found["int16"]["top1_agreement"] > found["int8"]["top1_agreement"] > found["int4"]["top1_agreement"]
    assert {e["baseline"]["perplexity"] for e in found.values()} == {none}
    assert "perplexity" in done.stdout
    assert "32 x 128 held-out tokens of stdlib" in done.stdout


def test_the_numbers_are_those_of_a_direct_computation(
    cell: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "AT_ONCE", 7 * 264)  # a text takes several bites
    e, _ = cell("a", ON, "format=int4", "method=minmax", "evaluate.sites=[out_proj_in]")
    rows = pq.read_table(tmp_path / "a/scales.parquet").to_pylist()
    scales = {row["layer"]: row["scale"] for row in rows if row["site"] == "out_proj_in"}
    model = load.load(Model("local", str(tmp_path / "model")), "cpu", "float32")
    rounded = [
        mixer.module.out_proj.register_forward_pre_hook(
            lambda m, args, scale=scales[mixer.layer]: (int4(args[0], scale),)
        )
        for mixer in model.mixers
    ]
    ids = (tmp_path / "text.txt").read_bytes()
    order = np.random.default_rng(0).permutation(len(ids) // small.SEQLEN)[small.SAMPLES : small.SAMPLES + 8]
    windows = [np.frombuffer(ids[i * 32 : (i + 1) * 32], np.uint8).astype(np.int64) + 3 for i in order]
    assert e["tokens"]["sha256"] == heldout.Tokens("", tuple(windows)).sha256
    per_text = []
    for quantized in (True, False):
        if not quantized:
            for handle in rounded:
                handle.remove()
        with torch.inference_mode():
            logits = model.lm(torch.from_numpy(np.stack(windows))).logits[:, :-1].double()
        per_text.append(F.log_softmax(logits, -1))
    p, q = per_text
    chosen = torch.from_numpy(np.stack(windows))[:, 1:, None]
    nll, nll0 = (-x.gather(-1, chosen).squeeze(-1).mean(-1).numpy() for x in (p, q))
    kl = (q.exp() * (q - p)).sum(-1).mean(-1).numpy()
    agree = (p.argmax(-1) == q.argmax(-1)).double().mean(-1).numpy()

    def error(x: np.ndarray) -> float:
        return float(x.std(ddof=1) / np.sqrt(len(x)))

    expected = {
        "nll": (nll.mean(), error(nll)),
        "perplexity": (np.exp(nll.mean()), np.exp(nll.mean()) * error(nll)),
        "bits_per_byte": (nll.mean() / np.log(2), error(nll) / np.log(2)),
        "kl": (kl.mean(), error(kl)),
        "top1_agreement": (agree.mean(), error(agree)),
        "delta_nll": (nll.mean() - nll0.mean(), error(nll - nll0)),
    }
    for name, (value, spread) in expected.items():
        assert e[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name
        assert e[f"{name}_se"] == pytest.approx(spread, rel=1e-2, abs=1e-6), name
    assert e["baseline"]["perplexity"] == pytest.approx(np.exp(nll0.mean()), rel=1e-5)
    table = pq.read_table(tmp_path / "a/evaluation.parquet").to_pydict()
    assert table["quantized"] == ["all"] * 8
    assert table["tokens"] == table["bytes"] == [31] * 8
    np.testing.assert_allclose(np.array(table["kl"]) / 31, kl, rtol=1e-2)


def test_finer_scales_cost_less(cell: Any, tmp_path: Path) -> None:
    found = {}
    for granularity in ("tensor", "group", "channel"):
        size = ("grouping.head_groups=2", "grouping.dim_groups=4")
        e, _ = cell(granularity, ON, "format=int4", "method=minmax", f"granularity={granularity}", *size)
        found[granularity] = e["kl"]
    assert found["channel"] < found["group"] < found["tensor"]


def test_passes_are_shared_by_cells_of_equal_scales(cell: Any, counted: list[int], monkeypatch: Any) -> None:
    e, _ = cell("a", ON, "method=minmax")
    assert counted == [2 * 8, 0] or counted == [0, 2 * 8]
    assert not e["cached"]
    cell("b", ON, "method=percentile", "alpha=0.9")
    assert counted[2:] == [16]  # the unquantized pass is there already
    monkeypatch.setattr(load, "load", None)  # nothing below needs the network
    same, done = cell("c", ON, "method=minmax")
    assert "evaluating" not in done.stderr
    assert same["cached"]
    assert {k: v for k, v in same.items() if k not in ("cached", "timings")} == {
        k: v for k, v in e.items() if k not in ("cached", "timings")
    }
    alpha, _ = cell("d", ON, "method=percentile", "alpha=1.0")  # the same scales by another name
    assert alpha["key"] == e["key"]


def test_sensitivity_is_layer_by_layer_and_goes_on_where_it_stopped(
    cell: Any, counted: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole, _ = cell("whole", "evaluate.sensitivity=true", "format=int4", "store=elsewhere")
    assert sorted(counted) == [0, 8, 8, 16]  # of two layers, all but one is the other: the same pass
    assert [layer["layer"] for layer in whole["layers"]] == [0, 1]
    first, second = whole["layers"]
    assert first["only"] == second["all_but"] != first["all_but"] == second["only"]
    assert {layer["only"]["kl"] < whole["kl"] for layer in whole["layers"]} == {True}

    own, left = forward.score, [1]

    def interrupted(*arguments: Any) -> Any:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return own(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(forward, "score", interrupted)
        cell("stopped", "evaluate.sensitivity=true", "format=int4", code=130)
    assert json.loads((tmp_path / "stopped/run.json").read_text())["status"] == "failed"
    counted.clear()
    resumed, _ = cell("resumed", "evaluate.sensitivity=true", "format=int4")
    assert sorted(counted) == [8, 8]  # neither the unquantized pass nor the one that was finished
    a, b = (pq.read_table(tmp_path / d / "evaluation.parquet") for d in ("whole", "resumed"))
    assert a.equals(b)
    assert resumed["layers"] == whole["layers"]
    parts = set(zip(a["quantized"].to_pylist(), a["layer"].to_pylist(), strict=True))
    assert parts == {("all", None), ("only", 0), ("only", 1), ("all_but", 0), ("all_but", 1)}


@pytest.mark.parametrize("name", ["unquantized", "quantized"])
def test_a_damaged_pass_is_named_and_made_again(cell: Any, tmp_path: Path, name: str) -> None:
    before, _ = cell("a", ON)
    (entry,) = (tmp_path / "runs/calibrations/evaluations").glob(f"[!.]*-{name}-*")
    (file,) = (f for f in entry.iterdir() if f.name != "manifest.json")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    more = [] if name == "quantized" else ["format=int4"]
    after, done = cell("b", ON, *more)
    assert f"damaged: {Path('runs/calibrations/evaluations', entry.name, file.name)}" in done.stderr
    assert (after["kl"] == before["kl"]) == (name == "quantized")


def test_calibrations_and_evaluations_do_not_mix(cell: Any, tmp_path: Path) -> None:
    cell("a", ON)
    assert len(Store(tmp_path / "runs/calibrations").entries()) == 1
    assert len(Store(tmp_path / "runs/calibrations/evaluations").entries()) == 2


def test_off_by_default_and_free(cell: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "sweep.evaluation.evaluate", None)  # an import would fail
    record, done = cell("a")
    assert record is None
    assert "Fake-quantized" not in done.stdout
    assert not (tmp_path / "a/evaluation.parquet").exists()
    assert not (tmp_path / "runs/calibrations/evaluations").exists()


def test_what_cannot_be_is_said_in_one_line(cell: Any) -> None:
    for override, message in {
        "evaluate.sites=[x_conv_ot]": "evaluate.sites=x_conv_ot is unknown; allowed: in_proj_in",
        "evaluate.sites=[x_conv_pre]": "evaluate.sites=x_conv_pre is unknown",
        "evaluate.sites=[]": "evaluate.sites is empty",
        "evaluate.samples=0": "evaluate.samples=0 must be at least 1",
        "model.stream=true": "evaluation needs the whole network",
        "evaluate.samples=114": "125 windows",
    }.items():
        _, done = cell("a", ON, override, code=2)
        assert done.stderr.splitlines()[-1].startswith("error: ")
        assert message in done.stderr.splitlines()[-1]


def test_logits_that_are_no_numbers_are_an_error(cell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = forward.logits
    monkeypatch.setattr(forward, "logits", lambda *arguments: own(*arguments) * float("nan"))
    _, done = cell("a", ON, code=2)
    assert "NaN or infinite logits on held-out text" in done.stderr.splitlines()[-1]


def test_the_configuration_file_asks_for_what_the_code_says() -> None:
    configured = yaml.safe_load((ROOT / "conf/config.yaml").read_text())["evaluate"]
    assert knobs.Evaluate(**configured) == knobs.Evaluate()
    assert not knobs.Evaluate()
    model = load.load(Model("tiny", "pkg://sweep/models/tiny"), "cpu", "float32")
    assert set(sites.quantized()) == {s for s in model.mixers[0].sites if not s.endswith(("_pre", "_state"))}


def test_a_key_changes_with_everything_that_changes_a_pass(tmp_path: Path) -> None:
    small.files(tmp_path)
    base = Config(
        Model("local", str(tmp_path / "model")), Data("text", str(tmp_path / "text.txt")),
        knobs.Calibration(12, 32, 2, 4), evaluate=knobs.Evaluate(samples=8),
    )  # fmt: skip
    one = {(0, "x_conv_in"): Rounding(formats.FORMATS["int8"], np.ones(1), np.zeros(1))}
    elsewhere = {(1, "x_conv_in"): one[0, "x_conv_in"]}
    keys = [
        evaluate.Bench(c, heldout.text(c)).key(which).hash
        for c in (
            base,
            replace(base, dtype="bfloat16"),
            replace(base, calibration=replace(base.calibration, batch_size=3)),
            replace(base, evaluate=knobs.Evaluate(samples=9)),
        )
        for which in (None, one, elsewhere)
    ]
    assert len(set(keys)) == len(keys)
    other = replace(base, calibration=replace(base.calibration, folds=3), method="minmax", alpha=None)
    assert evaluate.Bench(other, heldout.text(other)).key(one).hash == keys[1]
