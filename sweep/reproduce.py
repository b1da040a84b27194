"""`python -m sweep.reproduce`: run a cell again and compare bit by bit."""

from sweep.core import cli
from sweep.runs.reproduce import main

if __name__ == "__main__":
    cli.run(main)
