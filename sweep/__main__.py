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

from sweep.config.hydra_errors import CONF, refuse
from sweep.core.errors import UsageError
from sweep.core.signals import Interrupted, exit_code
from sweep.grid.computes import printed
from sweep.grid.job import job


def help_text() -> str:
    """Groups, every knob with its meaning (the commented file is the documentation), and examples."""
    groups = "\n".join(
        f"  {group + '=':<12} {' '.join(sorted(p.stem for p in (CONF / group).glob('[!_]*.yaml')))}"
        for group in ("model", "data", "experiment")
    )
    knobs = (CONF / "config.yaml").read_text(encoding="utf-8").partition("\n\n")[2].strip()
    return f"""Activation scales of quantized Mamba models: one forward pass answers the whole grid.

Groups (conf/<group>/<name>.yaml)
{groups}

Knobs, with their defaults (conf/config.yaml)

{knobs}

Examples
  python -m sweep                                                     the shipped model, one cell
  python -m sweep method=minmax calibration.samples=64                another cell
  python -m sweep -m method=minmax,percentile alpha=0.9995,0.99999    a grid
"""


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_text())
        return
    if any(a in ("--cfg", "-c") and b == "job" for a, b in pairwise(sys.argv)) or "--cfg=job" in sys.argv:
        out = io.StringIO()
        with redirect_stdout(out):
            _hydra()
        print(printed(out.getvalue()), end="")
        return
    _hydra()


def _hydra() -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through to the one place that words them
    try:
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


if __name__ == "__main__":
    with exit_code():
        main()
