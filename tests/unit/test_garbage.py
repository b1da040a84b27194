"""The collector rests while a job starts, and never longer."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import small
from omegaconf import OmegaConf

from sweep import garbage
from sweep.calibration.observer import Observer
from sweep.grid import job
from tests.harness import Run


def test_a_job_starts_without_it_and_ends_with_it_even_if_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fail(composed: object) -> None:
        seen.append(gc.isenabled())
        raise RuntimeError("broken")

    monkeypatch.setattr(job, "_job", fail)
    with pytest.raises(RuntimeError, match="broken"):
        job.job(OmegaConf.create())
    assert seen == [False]
    assert gc.isenabled()


@pytest.mark.parametrize("stream", ["false", "true"])
def test_the_forward_pass_runs_with_it(
    sweep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    seen = []
    settle = Observer.settle

    def watched(self: Observer) -> None:
        seen.append(gc.isenabled())
        settle(self)

    monkeypatch.setattr(Observer, "settle", watched)
    done = sweep(*small.overrides(small.files(tmp_path / "files")), f"model.stream={stream}")
    assert done.returncode == 0, done.stderr
    assert set(seen) == {True}


def test_only_what_the_first_start_made_is_never_searched_again() -> None:
    class Loop:
        pass

    garbage.pause()
    garbage.resume()
    frozen = gc.get_freeze_count()
    garbage.pause()
    loop = Loop()
    loop.itself = loop  # type: ignore[attr-defined]
    del loop
    garbage.resume()
    assert 0 < gc.get_freeze_count() <= frozen
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is Loop]
