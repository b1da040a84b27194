"""`python -m sweep.quamba`: scales saved by Quamba as cells, and back."""

import sys

from sweep.core.signals import exit_code
from sweep.runs.quamba.command import main

if __name__ == "__main__":
    with exit_code():
        sys.exit(main())
