"""One layer at a time gives what the whole network gives, bit for bit, also after it was killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import layouts
import numpy as np
import pytest
from phases import together

from sweep.calibration import layerwise
from sweep.calibration.layerwise import Streamed
from sweep.calibration.loop import Timings, calibrate
from sweep.calibration.tokens import Tokens
from sweep.config import knobs
from sweep.core.errors import UsageError
from sweep.core.progress import silent
from sweep.models import load
from sweep.quantization.sites import quantized
from sweep.quantization.statistics import Statistics

DICE = np.random.default_rng(0)
# ragged on purpose: a batch holds samples of one length only
TOKENS = Tokens("random", tuple(DICE.integers(0, 90, length) for length in (24, 24, 24, 17, 24, 24, 24, 9, 24, 24)))
CALIBRATION = knobs.Calibration(samples=10, seqlen=24, batch_size=2, folds=2)
DIFFERENTIATED = replace(CALIBRATION, fisher=5)
DEEP1, DEEP2 = layouts.MAMBA1 | {"n_layer": 4}, layouts.MAMBA2 | {"n_layer": 4}


def saved(statistics: Statistics, path: Path) -> bytes:
    statistics.save(path)
    return path.read_bytes()


def ordinary(model: knobs.Model, dtype: str, path: Path, calibration: knobs.Calibration = CALIBRATION) -> bytes:
    statistics, _ = calibrate(load.load(model, "cpu", dtype), TOKENS, calibration, silent)
    return saved(statistics, path / "ordinary.parquet")


def stream(
    model: knobs.Model,
    dtype: str,
    path: Path,
    progress: Callable[[int, int], None],
    calibration: knobs.Calibration = CALIBRATION,
) -> bytes:
    statistics, _ = layerwise.calibrate_streamed(
        Streamed(model, "cpu", dtype, path / "work"), TOKENS, calibration, together(progress)
    )
    assert not (path / "work").exists()
    return saved(statistics, path / "streamed.parquet")


def model(path: Path, settings: dict[str, Any], layout: layouts.Write = layouts.mamba_ssm_bin) -> knobs.Model:
    layout(path, settings, layouts.tensors(layouts.network(settings)))
    return knobs.Model("local", str(path), stream=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("settings", [DEEP1, DEEP2], ids=["mamba1", "mamba2"])
def test_the_statistics_are_the_same_bytes(tmp_path: Path, settings: dict[str, Any], dtype: str) -> None:
    seen: list[tuple[int, int]] = []
    given = model(tmp_path, settings)
    assert stream(given, dtype, tmp_path, lambda *at: seen.append(at)) == ordinary(given, dtype, tmp_path)
    assert seen[-1] == (40, 40)
    assert seen == sorted(seen)


def test_other_layouts_and_random_weights_stream_too(tmp_path: Path) -> None:
    (tmp_path / "megatron").mkdir()
    for given in (
        model(tmp_path / "megatron", layouts.UNTIED, layouts.megatron),
        knobs.Model("drawn", geometry=DEEP2, weights="random", stream=True),
    ):
        assert stream(given, "bfloat16", tmp_path, lambda *_: None) == ordinary(given, "bfloat16", tmp_path)


def test_seconds_are_those_of_all_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(*given: Any, **more: Any) -> tuple[Statistics, Timings]:
        return calibrate(*given, **more)[0], Timings(forward_s=1.5, observe_s=0.25)

    monkeypatch.setattr(layerwise, "calibrate", timed)
    given = model(tmp_path, DEEP1)
    _, spent = layerwise.calibrate_streamed(
        Streamed(given, "cpu", "bfloat16", tmp_path / "work"), TOKENS, CALIBRATION, lambda *_: None
    )
    assert spent.forward_s == 4 * 1.5
    assert spent.observe_s == 4 * 0.25
    assert 0 <= spent.fisher_s < 1.0  # nothing was differentiated


@pytest.mark.parametrize("stop_at", [3, 10, 25, 39])
def test_a_stopped_run_goes_on_at_its_layer(tmp_path: Path, stop_at: int) -> None:
    given = model(tmp_path, DEEP2)

    def stop(done: int, total: int) -> None:
        if done >= stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream(given, "float32", tmp_path, stop)
    seen: list[int] = []
    assert stream(given, "float32", tmp_path, lambda done, _: seen.append(done)) == ordinary(given, "float32", tmp_path)
    assert seen[0] >= (stop_at - 1) // 10 * 10, "a finished layer was computed again"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("settings", "layout"),
    [
        (DEEP1, layouts.mamba_ssm_bin),
        (DEEP2, layouts.mamba_ssm_bin),
        (layouts.UNTIED, layouts.megatron),
        *((settings, layouts.mamba_ssm_bin) for name, settings in layouts.STACKS.items() if "attention" in name),
    ],
    ids=["mamba1", "mamba2", "untied", *(name for name in layouts.STACKS if "attention" in name)],
)
def test_squared_gradients_are_the_same_bytes(
    tmp_path: Path, settings: dict[str, Any], layout: layouts.Write, dtype: str
) -> None:
    given, seen = model(tmp_path, settings, layout), []
    streamed = stream(given, dtype, tmp_path, lambda *at: seen.append(at), DIFFERENTIATED)
    assert streamed == ordinary(given, dtype, tmp_path, DIFFERENTIATED)
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] == settings["n_layer"] * (10 + 5)
    sites = Statistics.load(tmp_path / "streamed.parquet").sites
    assert {key for key, site in sites.items() if site.fisher} == {key for key in sites if key[1] in quantized()}
    assert all(site.fisher.weights.sum(1).all() for site in sites.values() if site.fisher)
    assert {tuple(site.fisher.tokens) for site in sites.values() if site.fisher} == {(24 + 24 + 24, 24 + 17)}


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [3, 39, 41, 45, 46, 52, 59, 60])
def test_a_stopped_backward_pass_goes_on_at_its_layer(tmp_path: Path, stop_at: int) -> None:
    given = model(tmp_path, DEEP2)

    def stop(done: int, total: int) -> None:
        if done >= stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream(given, "float32", tmp_path, stop, DIFFERENTIATED)
    seen: list[int] = []
    resumed = stream(given, "float32", tmp_path, lambda done, _: seen.append(done), DIFFERENTIATED)
    assert resumed == ordinary(given, "float32", tmp_path, DIFFERENTIATED)
    finished = (stop_at - 1) // 10 * 10 if stop_at <= 40 else 40 + (stop_at - 41) // 5 * 5
    assert seen[1] >= finished, "a finished layer was computed again"  # each phase tells first what is done of it
    assert (seen, seen[-1]) == (sorted(seen), 60)


def test_a_hybrid_is_refused(tmp_path: Path) -> None:
    family = next(f for f in families.FAMILIES if f.name == "bamba")
    family.build().save_pretrained(tmp_path)
    given = knobs.Model("local", str(tmp_path), stream=True)
    with pytest.raises(UsageError, match="bamba is another"):
        stream(given, "float32", tmp_path, lambda *_: None)
