"""`python -m sweep.track`: bring finished cells to W&B."""

import sys

from sweep.core.signals import exit_code
from sweep.runs.tracking.command import main

if __name__ == "__main__":
    with exit_code():
        sys.exit(main())
