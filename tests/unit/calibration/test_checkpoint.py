"""Stopping and going on: the result is the same bit for bit."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch
from phases import together
from test_store import same

from sweep.calibration.checkpoint import Checkpoint
from sweep.calibration.collect import Collect
from sweep.calibration.loop import calibrate
from sweep.calibration.observer import VERSION, Observer
from sweep.calibration.tokens import Tokens
from sweep.config.knobs import Calibration
from sweep.config.knobs import Model as ModelConfig
from sweep.core import signals
from sweep.core.progress import silent
from sweep.models import load
from sweep.quantization.statistics import Statistics

CALIBRATION = Calibration(samples=10, seqlen=16, batch_size=2, folds=3, checkpoint=0)

DIFFERENTIATED = replace(CALIBRATION, fisher=5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> load.Model:
    path = small.write(tmp_path_factory.mktemp("model"))
    return load.load(ModelConfig("small", str(path)), "cpu", "float32")


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    random = torch.Generator().manual_seed(0)
    return Tokens("random", tuple(torch.randint(3, 259, (10, 16), generator=random).numpy()))


@pytest.fixture(scope="module")
def whole(model: load.Model, tokens: Tokens) -> Statistics:
    return calibrate(model, tokens, CALIBRATION, lambda done, total: None)[0]


@pytest.fixture(scope="module")
def differentiated(model: load.Model, tokens: Tokens) -> Statistics:
    return calibrate(model, tokens, DIFFERENTIATED, silent)[0]


class Stop(Exception):
    pass


def stop_after(samples: int) -> Any:
    def progress(done: int, total: int) -> None:
        if done >= samples:
            raise Stop

    return together(progress)


@pytest.mark.parametrize("samples", range(1, 11))
def test_going_on_after_any_batch_changes_nothing(
    model: load.Model, tokens: Tokens, whole: Statistics, tmp_path: Path, samples: int
) -> None:
    with pytest.raises(Stop):
        calibrate(model, tokens, CALIBRATION, stop_after(samples), Checkpoint(tmp_path, 0))
    seen: list[int] = []
    resumed, _ = calibrate(model, tokens, CALIBRATION, lambda d, t: seen.append(d), Checkpoint(tmp_path, 0))
    assert same(resumed, whole)
    assert seen[-1] == 10


@pytest.mark.slow
@pytest.mark.parametrize("samples", range(1, 16))
def test_squared_gradients_go_on_too(
    model: load.Model, tokens: Tokens, differentiated: Statistics, whole: Statistics, tmp_path: Path, samples: int
) -> None:
    with pytest.raises(Stop):
        calibrate(model, tokens, DIFFERENTIATED, stop_after(samples), Checkpoint(tmp_path, 0))
    seen: list[int] = []
    resumed, _ = calibrate(
        model, tokens, DIFFERENTIATED, together(lambda d, t: seen.append(d)), Checkpoint(tmp_path, 0)
    )
    assert same(resumed, differentiated)
    assert seen[-1] == 15
    assert sum(site.fisher is not None for site in resumed.sites.values()) == 2 * 8
    plain = {key: replace(site, fisher=None) for key, site in resumed.sites.items()}
    assert same(Statistics(plain, resumed.meta), whole)


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_squared_gradients_are_the_same_whatever_a_batch_holds(
    model: load.Model, tokens: Tokens, differentiated: Statistics, batch_size: int
) -> None:
    other, _ = calibrate(model, tokens, replace(DIFFERENTIATED, batch_size=batch_size), silent)
    for key, site in differentiated.sites.items():
        mine, its = site.fisher, other.sites[key].fisher
        if mine and its:
            assert np.array_equal(mine.bins, its.bins)
            assert np.array_equal(mine.weights, its.weights)
        else:
            assert mine is its is None


@pytest.mark.parametrize("samples", [1, 6, 9])
def test_what_is_gathered_beside_histograms_goes_on_too(
    model: load.Model, tokens: Tokens, tmp_path: Path, samples: int
) -> None:
    more = Collect(quantiles=(0.9, 0.999), ssm_state=True)
    expected, _ = calibrate(model, tokens, CALIBRATION, lambda d, t: None, None, more)
    with pytest.raises(Stop):
        calibrate(model, tokens, CALIBRATION, stop_after(samples), Checkpoint(tmp_path, 0), more)
    resumed, _ = calibrate(model, tokens, CALIBRATION, lambda d, t: None, Checkpoint(tmp_path, 0), more)
    assert same(resumed, expected)


def test_all_folds_together_are_the_folds(whole: Statistics) -> None:
    for site in whole.sites.values():
        assert site.pooled is not None  # float32
        together = site.pooled.coarser(site.histogram.layout)
        assert np.array_equal(together.bins, site.histogram.bins)
        assert np.array_equal(together.counts[0], site.histogram.counts.sum(0))


def test_a_finished_fold_is_not_computed_again(model: load.Model, tokens: Tokens, tmp_path: Path) -> None:
    with pytest.raises(Stop):  # in the third fold: two are finished
        calibrate(model, tokens, CALIBRATION, stop_after(9), Checkpoint(tmp_path, 0))
    assert sorted(fold for fold, _ in Checkpoint(tmp_path, 0).folds(range(3))) == [0, 1]
    assert Checkpoint(tmp_path, 0).running(2, torch.device("cpu"))[0] == 1


@pytest.mark.parametrize("calibration", [CALIBRATION, DIFFERENTIATED], ids=["plain", "differentiated"])
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_shards_give_the_single_jobs_result(
    model: load.Model,
    tokens: Tokens,
    whole: Statistics,
    differentiated: Statistics,
    tmp_path: Path,
    shards: int,
    calibration: Calibration,
) -> None:
    for shard in reversed(range(shards)):
        part = replace(calibration, shards=shards, shard=shard, checkpoint=1e9)
        found, _ = calibrate(model, tokens, part, silent, Checkpoint(tmp_path, 1e9))
        site = next(iter(found.sites.values()))
        assert site.folds.tolist() == list(range(shard, 3, shards))
    merged, spent = calibrate(model, tokens, calibration, stop_after(1), Checkpoint(tmp_path, 0))
    assert same(merged, differentiated if calibration.fisher else whole)
    assert spent.observe_s == spent.fisher_s == 0


@pytest.mark.parametrize("pattern", ["fold-*", "running-*"])
@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_checkpoint_is_not_taken(
    model: load.Model, tokens: Tokens, whole: Statistics, tmp_path: Path, pattern: str, damage: str
) -> None:
    with pytest.raises(Stop):
        calibrate(model, tokens, CALIBRATION, stop_after(7), Checkpoint(tmp_path, 0))
    damaged = list(tmp_path.glob(pattern))
    assert damaged
    for file in damaged:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 64
        file.write_bytes(content if damage == "flip" else content[:-1])
    assert same(calibrate(model, tokens, CALIBRATION, lambda d, t: None, Checkpoint(tmp_path, 0))[0], whole)


def test_a_state_is_all_there_is(tmp_path: Path) -> None:
    """Everything an observer accumulates goes through the checkpoint, whatever is added to it one day."""
    observer = observed()
    checkpoint = Checkpoint(tmp_path, 0)
    checkpoint.save(5, 1, observer.state_dict())
    batches, state = checkpoint.running(5, torch.device("cpu"))
    assert batches == 1
    before, after = observer.state_dict()["sites"][0, "site"], state["sites"][0, "site"]
    assert before.keys() == after.keys() == vars(observer._sites[0, "site"]).keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name]


def observed() -> Observer:
    observer = Observer()
    observer(0, "site", torch.randn(2, 3, 4))
    observer.check([0, 1])
    return observer


def test_a_state_of_another_version_is_refused_and_changes_nothing() -> None:
    state, observer = observed().state_dict(), observed()
    assert state["version"] == VERSION
    before = observer.state_dict()
    fewer = {"version": VERSION, "sites": {(0, "site"): dict(list(state["sites"][0, "site"].items())[1:])}}
    for other, words in ((state | {"version": VERSION + 1}, f"version {VERSION + 1}"), ({}, "None"), (fewer, "dtype")):
        with pytest.raises(ValueError, match=words):
            observer.load_state_dict(other)
    assert str(observer.state_dict()) == str(before)


def test_a_checkpoint_of_another_version_is_computed_again(
    model: load.Model,
    tokens: Tokens,
    differentiated: Statistics,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sweep.calibration.observer.VERSION", VERSION - 1)
    with pytest.raises(Stop):
        calibrate(model, tokens, DIFFERENTIATED, stop_after(3), Checkpoint(tmp_path, 0))
    monkeypatch.undo()
    resumed, _ = calibrate(model, tokens, DIFFERENTIATED, silent, Checkpoint(tmp_path, 0))
    assert same(resumed, differentiated)
    said = f"the checkpoint of fold 0 is not used (an observer's state of version {VERSION - 1}; "
    assert said in capsys.readouterr().err


def test_a_file_of_an_older_layout_is_not_looked_at(tmp_path: Path) -> None:
    Checkpoint(tmp_path, 0).save(0, 1, observed().state_dict())
    (file,) = tmp_path.glob("running-*")
    assert Checkpoint(tmp_path, 0).running(0, torch.device("cpu"))[0] == 1
    file.rename(file.with_name(file.name.replace(".v5.", ".v4.")))
    assert Checkpoint(tmp_path, 0).running(0, torch.device("cpu")) == (0, {})


def test_one_file_of_what_is_running_is_left(tmp_path: Path, whole: Statistics) -> None:
    """Each checkpoint replaces the one before, and a finished fold leaves no other file; of other folds, which other
    shards may be at, none is touched."""
    state, checkpoint = observed().state_dict(), Checkpoint(tmp_path, 0)
    Checkpoint(tmp_path, 0).save(5, 7, state)

    def running() -> list[str]:
        return sorted(path.name[:19] for path in tmp_path.glob("running-*"))

    for batches in (1, 2, 3):
        checkpoint.save(0, batches, state)
        assert running() == [f"running-0000-{batches:06}", "running-0005-000007"]
    assert checkpoint.running(0, torch.device("cpu"))[0] == 3
    checkpoint.add(0, whole)
    checkpoint.save(1, 1, state)
    assert running() == ["running-0001-000001", "running-0005-000007"]
    assert len(list(tmp_path.glob("fold-0000-*"))) == 1
    assert not list(tmp_path.glob(".draft-*"))


@pytest.mark.parametrize("after", [2, 6, 10])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_saves_and_stops(
    model: load.Model, tokens: Tokens, whole: Statistics, tmp_path: Path, number: signal.Signals, after: int
) -> None:
    def progress(done: int, total: int) -> None:
        if done == after:
            os.kill(os.getpid(), number)

    rare = Calibration(**{**vars(CALIBRATION), "checkpoint": 1e9})
    before = signal.getsignal(number)
    with pytest.raises(signals.Interrupted, match=number.name) as stopped:
        calibrate(model, tokens, rare, progress, Checkpoint(tmp_path, 1e9))
    assert signal.getsignal(number) is before
    assert stopped.value.number == number
    resumed, _ = calibrate(model, tokens, rare, lambda d, t: None, Checkpoint(tmp_path, 1e9))
    assert same(resumed, whole)
    assert len(list(Checkpoint(tmp_path, 0).folds(range(3)))) == {2: 0, 6: 1, 10: 3}[after]


def test_a_second_signal_does_not_wait() -> None:
    def twice() -> None:
        with signals.deferred() as pending:
            os.kill(os.getpid(), signal.SIGINT)
            assert pending
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        twice()


def test_sigterm_is_left_to_whoever_handles_it() -> None:
    heard: list[int] = []
    former = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with signals.deferred() as pending:
            os.kill(os.getpid(), signal.SIGTERM)
            assert not pending
    finally:
        signal.signal(signal.SIGTERM, former)
    assert heard == [signal.SIGTERM]


def test_a_checkpoint_that_cannot_be_written_costs_no_result(
    model: load.Model, tokens: Tokens, whole: Statistics, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    found, _ = calibrate(model, tokens, CALIBRATION, lambda d, t: None, Checkpoint(tmp_path / "file" / "work", 0))
    assert same(found, whole)
    assert "no checkpoint" in capsys.readouterr().err
