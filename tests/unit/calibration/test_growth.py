"""Going on from a stored calibration: the same bits as one pass, from as few samples as possible."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch
from test_checkpoint import Stop, stop_after
from test_store import same

from sweep.calibration import growth
from sweep.calibration.boundaries import cut
from sweep.calibration.cache import STATISTICS, CalibrationStore
from sweep.calibration.checkpoint import Checkpoint
from sweep.calibration.collect import Collect
from sweep.calibration.layerwise import Streamed, calibrate_streamed
from sweep.calibration.loop import calibrate
from sweep.calibration.tokens import Outline, Tokens
from sweep.config import knobs
from sweep.config.knobs import Calibration
from sweep.core.progress import SAMPLES, silent
from sweep.core.store_key import Key
from sweep.models import load
from sweep.quantization.statistics import Statistics

ALL = 20
SETTINGS = Calibration(samples=ALL, seqlen=16, batch_size=2, folds=3, checkpoint=0)
COLLECTED = {
    "plain": Collect(),
    "quantiles": Collect(quantiles=(0.9, 0.999)),
    "ssm_state": Collect(ssm_state=True),
    "groups": Collect(groups={(0, "x_conv_out"): {"x_conv_out[0]": np.arange(5), "x_conv_out[1]": np.arange(5, 9)}}),
    "shifts": Collect(shifts={(1, "x_conv_in"): 5, (0, "x_conv_out"): -3}),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def models(path: Path) -> dict[str, load.Model]:
    config = knobs.Model("small", str(path))
    return {dtype: load.load(config, "cpu", dtype) for dtype in ("float32", "bfloat16", "float16")}


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    numbers = torch.Generator().manual_seed(0)
    return Tokens("random", tuple(torch.randint(3, 259, (ALL, 16), generator=numbers).numpy()))


def first(tokens: Tokens, number: int) -> tuple[Tokens, Calibration]:
    return Tokens(tokens.source, tokens.windows[:number]), replace(SETTINGS, samples=number)


def observed(model: load.Model, tokens: Tokens, collect: Collect | None = None, settings: Any = SETTINGS) -> Statistics:
    return calibrate(model, tokens, settings, silent, collect=collect)[0]


CASES = [("float32", kind) for kind in COLLECTED] + [("bfloat16", kind) for kind in COLLECTED if kind != "shifts"]


@pytest.mark.parametrize(("dtype", "kind"), [*CASES, ("float16", "plain")])  # float16 is slow on a CPU
def test_grown_is_direct(models: dict[str, load.Model], tokens: Tokens, tmp_path: Path, dtype: str, kind: str) -> None:
    model, collect = models[dtype], COLLECTED[kind]
    direct = observed(model, tokens, collect)
    for number in (6, 18) if dtype != "float16" else (6,):  # of 18, one fold is whole already
        few, settings = first(tokens, number)
        calibrate(model, few, settings, silent, collect=collect)[0].save(tmp_path / "few")
        passed: list[int] = []
        grown, _ = calibrate(
            model,
            replace(tokens, since=number),
            SETTINGS,
            lambda done, total, phase=SAMPLES, passed=passed: passed.append(total) if phase == SAMPLES else None,
            collect=collect,
            base=Statistics.load(tmp_path / "few"),
        )
        assert same(grown, direct)
        assert passed[-1] == ALL - number
        for name, statistics in (("grown", grown), ("direct", direct)):
            statistics.save(tmp_path / name)
        assert (tmp_path / "grown").read_bytes() == (tmp_path / "direct").read_bytes()


def test_a_cuda_device_goes_on_as_a_cpu_does() -> None:
    """Its sums of |x| are added text after text, too; tests/unit/calibration/count_cuda_on_cpu.py has the bits."""
    preimage = {"folds": 2, "batch_size": 1, "backend": "transformers 5.23 torch 2.13 cuda sums 3"}
    assert cut(4, Outline((8,) * 8, ("",) * 9), preimage) == ""
    assert "larger" in cut(5, Outline((8,) * 8, ("",) * 9), preimage | {"batch_size": 4})


@pytest.mark.parametrize("fisher", [6, 9, ALL])
def test_squared_gradients_go_on(models: dict[str, load.Model], tokens: Tokens, tmp_path: Path, fisher: int) -> None:
    """Of as many samples as before, of some more, and of all."""
    model, settings = models["float32"], replace(SETTINGS, fisher=fisher)
    direct = observed(model, tokens, settings=settings)
    few, _ = first(tokens, 6)
    base = observed(model, few, settings=replace(settings, samples=6, fisher=min(fisher, 6)))
    later = replace(tokens, since=6)
    with pytest.raises(Stop):
        calibrate(model, later, settings, stop_after(11), Checkpoint(tmp_path / "k", 0), base=base)
    grown, _ = calibrate(model, later, settings, silent, Checkpoint(tmp_path / "k", 0), base=base)
    assert any(site.fisher for site in direct.sites.values())
    for name, statistics in (("grown", grown), ("direct", direct)):
        statistics.save(tmp_path / name)
    assert (tmp_path / "grown").read_bytes() == (tmp_path / "direct").read_bytes()


def test_growing_in_steps_kills_and_shards_changes_nothing(
    models: dict[str, load.Model], tokens: Tokens, tmp_path: Path
) -> None:
    model = models["float32"]
    direct, base = observed(model, tokens), observed(model, first(tokens, 6)[0], settings=first(tokens, 6)[1])
    later, dice = replace(tokens, since=6), random.Random(0)
    for kill in sorted(dice.sample(range(1, 15), 3)):
        with pytest.raises(Stop):
            calibrate(model, later, SETTINGS, stop_after(kill), Checkpoint(tmp_path / "k", 0), base=base)
    assert same(calibrate(model, later, SETTINGS, silent, Checkpoint(tmp_path / "k", 0), base=base)[0], direct)
    sharded = replace(SETTINGS, shards=2)
    for shard in (1, 0):
        calibrate(model, later, replace(sharded, shard=shard), silent, Checkpoint(tmp_path / "s", 0), base=base)
    passed: list[int] = []
    merged, _ = calibrate(
        model, later, sharded, lambda d, t: passed.append(d), Checkpoint(tmp_path / "s", 0), base=base
    )
    assert not passed
    assert same(merged, direct)
    middle, _ = calibrate(
        model, replace(first(tokens, 12)[0], since=6), replace(SETTINGS, samples=12), silent, base=base
    )
    assert same(calibrate(model, replace(tokens, since=12), SETTINGS, silent, base=middle)[0], direct)


@pytest.mark.parametrize("fisher", [0, 6, 9])
def test_layer_by_layer(models: dict[str, load.Model], path: Path, tokens: Tokens, tmp_path: Path, fisher: int) -> None:
    few, settings = first(tokens, 6)
    base = observed(models["float32"], few, settings=replace(settings, fisher=min(fisher, 6)))
    direct = observed(models["float32"], tokens, settings=replace(SETTINGS, fisher=fisher))
    streamed = knobs.Model("small", str(path), stream=True)
    later, settings = replace(tokens, since=6), replace(SETTINGS, fisher=fisher)
    arguments = (Streamed(streamed, "cpu", "float32", tmp_path / "layers"), later, settings)
    with pytest.raises(Stop):
        calibrate_streamed(*arguments, stop_after(15), None, base)
    grown, _ = calibrate_streamed(*arguments, silent, None, base)
    for name, statistics in (("grown", grown), ("direct", direct)):
        statistics.save(tmp_path / name)
    assert (tmp_path / "grown").read_bytes() == (tmp_path / "direct").read_bytes()


# --- what is gone on from ----------------------------------------------------------------------------------


def key(tokens: Tokens, **more: Any) -> Key:
    return Key(
        f"small-random-{len(tokens.windows)}x16",
        {"model": "m", "tokens": tokens.sha256, "batch_size": 2, "folds": 3, "dtype": "float32", **more},
    )


def stored(store: CalibrationStore, models: dict[str, load.Model], tokens: Tokens, *numbers: int, **more: Any) -> None:
    for number in numbers:
        few, settings = first(tokens, number)
        store.write(key(few, **more), observed(models["float32"], few, settings=settings))


def base(store: CalibrationStore, tokens: Tokens, **more: Any) -> growth.Base | None:
    return growth.base(store, key(tokens, **more), tokens.outline)


def test_the_largest_that_fits_is_gone_on_from_and_others_are_named(
    models: dict[str, load.Model], tokens: Tokens, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = CalibrationStore(tmp_path)
    assert base(store, tokens) is None
    stored(store, models, tokens, 6, 12, 14, ALL)
    stored(store, models, tokens, 9, dtype="bfloat16")
    chosen = base(store, tokens)
    assert chosen is not None
    assert chosen.samples == 12
    said = capsys.readouterr().err.splitlines()
    assert (
        "holds 14 of 20 samples but cannot be gone on from: its last batch in fold 0 would have been larger" in said[0]
    )
    assert "multiples of it" in said[0]
    assert said[1].endswith("12 of 20 samples are there, in " + str(chosen.key) + "; computing 8 more")
    assert len(said) == 2
    assert base(store, tokens, dtype="float16") is None
    assert "cannot be gone on from: dtype: 'float32' there, 'float16' here" in capsys.readouterr().err
    assert base(store, tokens, ssm_state=True) is None  # another question
    assert base(store, tokens, model="another") is None
    assert capsys.readouterr().err == ""
    others = Tokens("other", (*tokens.windows[:5], *tokens.windows[6:], tokens.windows[5]))
    assert base(store, others) is None


def test_a_damaged_or_pruned_one_is_passed_over(
    models: dict[str, load.Model], tokens: Tokens, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = CalibrationStore(tmp_path)
    stored(store, models, tokens, 6, 12)
    file = store.path(key(first(tokens, 12)[0])) / STATISTICS
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    chosen = base(store, tokens)
    assert chosen is not None
    assert chosen.samples == 6
    assert "holds 12 of 20 samples but is damaged: " in capsys.readouterr().err
    file.unlink()
    assert (chosen := base(store, tokens)) is not None
    assert chosen.samples == 6


def test_what_was_begun_without_it_is_not_thrown_away(
    models: dict[str, load.Model], tokens: Tokens, tmp_path: Path
) -> None:
    store = CalibrationStore(tmp_path)
    stored(store, models, tokens, 6)
    work = store.work(key(tokens))
    with pytest.raises(Stop):
        calibrate(models["float32"], tokens, SETTINGS, stop_after(12), Checkpoint(work, 0))
    assert base(store, tokens) is None  # 12 are there already
    assert base(store, first(tokens, 12)[0]) is not None
    stored(store, models, tokens, 18)
    assert (chosen := base(store, tokens)) is not None
    assert chosen.samples == 18


def test_texts_of_different_lengths_end_batches_too(
    models: dict[str, load.Model], tokens: Tokens, tmp_path: Path
) -> None:
    lengths = [16, 16, 16, 9, 9, 9, *[16] * 14]
    uneven = Tokens("uneven", tuple(w[:n] for w, n in zip(tokens.windows, lengths, strict=True)))
    store = CalibrationStore(tmp_path)
    stored(store, models, uneven, 3)  # one sample a fold, and the next is shorter
    chosen = base(store, uneven)
    assert chosen is not None
    grown, _ = calibrate(models["float32"], replace(uneven, since=3), SETTINGS, silent, base=chosen.statistics)
    assert same(grown, observed(models["float32"], uneven))
    even = Tokens("even", tokens.windows)
    stored(store, models, even, 3)
    assert base(store, even) is None
