"""`python -m sweep.dashboard`: a W&B workspace of a sweep."""

import sys

from sweep.core.signals import exit_code
from sweep.runs.tracking.wandb_dashboard import main

if __name__ == "__main__":
    with exit_code():
        sys.exit(main())
