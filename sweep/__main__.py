"""Hydra in, one cell out: `python -m sweep model=2.7b alpha=0.9995`, or a grid with `-m`."""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stdout
from itertools import pairwise

import hydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from sweep.config.arguments import arranged
from sweep.config.hydra_errors import CONF, GROUPS, options, refuse
from sweep.core import cli
from sweep.core.errors import UsageError
from sweep.core.signals import Interrupted
from sweep.grid.job import job
from sweep.quantization.formats import FORMATS, SMALL_FLOATS
from sweep.quantization.methods.registry import METHODS
from sweep.quantization.sites import SITES


def help_text() -> str:
    """Groups, every knob with its meaning (the commented file is the documentation), and examples."""
    groups = "\n".join(f"  {group + '=':<12} {' '.join(options(group))}" for group in GROUPS)
    knobs = (CONF / "config.yaml").read_text(encoding="utf-8").partition("\n\n")[2].strip()
    methods = "\n".join(f"  {method.name:<16}{method.meaning}" for method in METHODS.values())
    numbers = "\n".join(f"  {format.name:<16}{format.meaning}" for format in FORMATS.values())
    sites = "\n".join(f"  {site.name:<16}{site.meaning}" for site in SITES.values() if site.quantized)
    return f"""Activation scales of quantized Mamba models: one forward pass answers the whole grid.

Groups (conf/<group>/<name>.yaml)
{groups}

Knobs, with their defaults (conf/config.yaml)

{knobs}

Methods (method=): how a clip is chosen; docs/definitions.md has the formulas

{methods}

Formats (format=): the numbers that values become, times a scale

{numbers}
  {SMALL_FLOATS:<16}floats of at most 7 bits, X of them exponent (2 to 5) and Y mantissa (1 to 4), for example e3m2

Sites (evaluate.sites=): tensors that a quantized Mamba keeps in few bits

{sites}

Examples
  python -m sweep                                                     the shipped model, one cell
  python -m sweep method=minmax calibration.samples=64                another cell
  python -m sweep -m method=minmax,percentile alpha=0.9995,0.99999    a grid
"""


def main(arguments: list[str] | None = None) -> int:
    """Returns 0, or exits with the code that says what went wrong."""
    if arguments is not None:
        sys.argv[1:] = arguments
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(cli.typed(help_text()))
        return cli.OK
    if "--version" in sys.argv[1:]:
        print(cli.VERSION)
        return cli.OK
    if any(a in ("--cfg", "-c") and b == "job" for a, b in pairwise(sys.argv)) or "--cfg=job" in sys.argv:
        from sweep.grid.computes import printed  # which imports torch

        out = io.StringIO()
        with redirect_stdout(out):
            _hydra()
        print(printed(out.getvalue()), end="")
        return cli.OK
    return _hydra()


def _hydra() -> int:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through to the one place that words them
    try:
        sys.argv[1:] = arranged(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    except (UsageError, HydraException, OmegaConfBaseException) as error:
        refuse(error)
    except OSError as error:  # a disk that is full, a directory that may not be written
        if error.filename is None:
            raise
        refuse(UsageError(f"{error.filename}: {error.strerror}"))
    except Interrupted as signal:
        print(f"interrupted: {signal}", file=sys.stderr, flush=True)
        signal.hand_on()
    return cli.OK


if __name__ == "__main__":
    cli.run(main)
