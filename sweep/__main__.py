"""Hydra in, one cell out: `python -m sweep model=2.7b alpha=0.9995`, or a grid with `-m`."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from sweep.config import from_hydra
from sweep.errors import UsageError, allowed

CONF = Path(__file__).resolve().parent.parent / "conf"


def cell(composed: DictConfig) -> None:
    """One job of Hydra's."""
    job = HydraConfig.get()
    directory = Path(job.runtime.output_dir)
    single = job.mode is not RunMode.MULTIRUN
    try:
        config = from_hydra(composed)
        from rich.console import Console

        from sweep.cell import run
        from sweep.summary import show

        group = Path(job.run.dir if single else job.sweep.dir).name
        show(run(config, directory, group), Console())
    except UsageError as error:
        if not single:  # the sweeper decides what becomes of the other cells
            raise
        shutil.rmtree(directory, ignore_errors=True)  # nothing half-written: it holds no result
        _refuse(str(error))


def _refuse(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def help_text() -> str:
    """Groups, every knob with its meaning (the commented file is the documentation), and examples."""
    groups = "\n".join(
        f"  {group + '=':<12} {' '.join(sorted(p.stem for p in (CONF / group).glob('*.yaml')))}"
        for group in ("model", "data", "experiment")
    )
    knobs = (CONF / "config.yaml").read_text().partition("- hydra: sweep\n")[2].strip()
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


def _one_line(error: Exception) -> str:
    """Hydra's and OmegaConf's messages, shortened to one line, with the closest key where one was misspelt."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    text = re.sub(r" (full_key|object_type|reference_type)[:=].*", "", text)
    if group := re.search(r"Could not find '(\w+)/([^']*)' Available options in '\w+': (.*) Config search path", text):
        return str(allowed(group[1], group[2], group[3].split(" ")))
    if unknown := re.search(r"Key '([^']+)' is not in struct|Could not override '([^']+)'", text):
        key = unknown[2] or unknown[1]
        knobs = yaml.safe_load((CONF / "config.yaml").read_text())
        known = [*_flatten(knobs), "model", "data", "experiment"]
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "see python -m sweep --help"
        return f"unknown key {key!r}: {hint}"
    return text


def _flatten(node: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in node.items():
        name = f"{prefix}{key}"
        keys += [name, *(_flatten(value, f"{name}.") if isinstance(value, dict) else [])]
    return keys


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_text())
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through to the one place that words them
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(cell)()
    except (UsageError, HydraException, OmegaConfBaseException) as error:
        _refuse(str(error) if isinstance(error, UsageError) else _one_line(error))
    except OSError as error:  # a disk that is full, a directory that may not be written
        if error.filename is None:
            raise
        _refuse(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
