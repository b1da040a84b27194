"""`python -m sweep.store`: list, verify and prune the stored calibrations."""

from sweep.calibration.store_command import main
from sweep.core import cli

if __name__ == "__main__":
    cli.run(main)
