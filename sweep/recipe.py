"""`python -m sweep.recipe SWEEP`: for every layer and site the choice of a sweep that costs the network least."""

import sys

from sweep.compare.recipes.command import main
from sweep.core.signals import exit_code

if __name__ == "__main__":
    with exit_code():
        sys.exit(main())
