"""`python -m sweep.quamba`: scales saved by Quamba as cells, and back."""

from sweep.core import cli
from sweep.runs.quamba.command import main

if __name__ == "__main__":
    cli.run(main)
