"""`python -m sweep.reproduce`: run a cell again and compare bit by bit."""

import sys
from contextlib import suppress

from sweep.core.signals import Interrupted, exit_code
from sweep.runs.reproduce import main

if __name__ == "__main__":
    with exit_code():
        with suppress(Interrupted):  # which says that something is kept
            sys.exit(main())
        raise KeyboardInterrupt
