"""`python -m sweep.dashboard`: a W&B workspace of a sweep."""

from sweep.core import cli
from sweep.runs.tracking.wandb_dashboard import main

if __name__ == "__main__":
    cli.run(main)
