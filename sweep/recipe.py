"""`python -m sweep.recipe SWEEP`: for every layer and site the choice of a sweep that costs the network least."""

from sweep.compare.recipes.command import main
from sweep.core import cli

if __name__ == "__main__":
    cli.run(main)
