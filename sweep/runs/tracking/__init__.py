"""Weights & Biases: a sink for what a cell's files already say. `python -m sweep.track replay DIR` fills it later."""

from sweep.runs.tracking.wandb import Tracker, check, start

__all__ = ["Tracker", "check", "start"]
