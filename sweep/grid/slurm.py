"""Slurm through hydra-submitit-launcher, with jobs that end without a result told from jobs that go on.

submitit's own launcher gives up on a whole array when one job is cancelled, and learns of a job's end from
`sacct`, which clusters without accounting lack and which it asks every ten minutes. Here a job is over when
its result lies there, or when `squeue` no longer knows it; whatever happened to one, the others are waited for.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

ASK = 5.0  # seconds between two questions to squeue
GRACE = 15.0  # seconds that a result may take to be seen on a shared disk after its job has left the queue


class GridSlurmLauncher(Launcher):
    def __init__(self, **params: Any) -> None:
        from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

        self._submitit = SlurmLauncher(**params)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._submitit.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit an array and wait for all of it. A job that failed comes back as such; none raises."""
        import submitit

        results = submitit.Job.results
        submitit.Job.results = lambda job: [_outcome(job, results)]
        try:
            return self._submitit.launch(job_overrides, initial_job_idx)  # type: ignore[no-any-return]
        finally:
            submitit.Job.results = results


def _outcome(job: Any, results: Any) -> JobReturn:
    gone: float | None = None
    while not job.paths.result_pickle.exists():
        if gone is None and not _queued(job.job_id):
            gone = time.monotonic()
        if gone is not None and time.monotonic() - gone > GRACE:
            message = (
                f"job {job.job_id} ended without a result (cancelled, killed, out of time); see {job.paths.stderr}"
            )
            return JobReturn(status=JobStatus.FAILED, _return_value=RuntimeError(message))
        time.sleep(1 if gone is not None else ASK)
    try:
        return results(job)[0]  # type: ignore[no-any-return]
    except Exception as error:
        return JobReturn(status=JobStatus.FAILED, _return_value=error)


def _queued(job: str) -> bool:
    """True if Slurm still has a job waiting or running, or cannot be asked."""
    asked = subprocess.run(["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True, text=True)
    return bool(asked.stdout.strip()) if asked.returncode == 0 else "Invalid job id" not in asked.stderr
