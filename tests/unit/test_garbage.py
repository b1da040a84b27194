"""The collector rests while a job starts, and never longer."""

from __future__ import annotations

import gc

import pytest
from omegaconf import OmegaConf

from sweep import job


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
