"""Trackers: sinks for what a cell's files already say. `python -m sweep.track replay DIR` fills W&B's later."""

from sweep.runs.tracking.tracker import TrackedRun, Tracker
from sweep.runs.tracking.trackers import Trackers, start
from sweep.runs.tracking.wandb import check

__all__ = ["TrackedRun", "Tracker", "Trackers", "check", "start"]
