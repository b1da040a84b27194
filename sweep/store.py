"""`python -m sweep.store`: list, verify and prune the stored calibrations."""

import sys

from sweep.calibration.store_command import main
from sweep.core.signals import exit_code

if __name__ == "__main__":
    with exit_code():
        sys.exit(main())
