"""`python -m sweep.track`: bring finished cells to W&B."""

from sweep.core import cli
from sweep.runs.tracking.command import main

if __name__ == "__main__":
    cli.run(main)
