"""The command line of a cell or a grid, looked at before Hydra sees it, where something better can be said of it."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override
from hydra.errors import HydraException

from sweep.config.hydra_errors import GROUPS, known_keys, options, quoted
from sweep.core.errors import UsageError, allowed

GRIDS = ("hydra/launcher=", "hydra/sweeper=", "hydra.launcher.", "hydra.sweeper.", "hydra.sweep.")  # need -m


def arranged(given: Sequence[str]) -> list[str]:
    """The arguments as Hydra understands them: options first, then overrides, names of files as they are spelt.

    Raises UsageError for an option that is none, for an override that cannot be read, and for a file that is none."""
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    for argument in given:
        _no_dashes(argument, parser)
    parsed = parser.parse_intermixed_args(given)  # Hydra's own call minds an option between overrides
    overrides = list(parsed.overrides)
    rest = list(given)
    for override in reversed(overrides):
        del rest[len(rest) - 1 - rest[::-1].index(override)]
    if parsed.experimental_rerun is not None:
        _rerun(Path(parsed.experimental_rerun))
    check_grammar(overrides)
    return [*rest, *(_spelt(override) for override in overrides)]


def check_grammar(overrides: Iterable[str]) -> None:
    """Raises UsageError that says how to write it, for an override that Hydra's grammar does not take."""
    parser = OverridesParser.create()
    for override in overrides:
        try:
            parser.parse_override(override)
        except HydraException as error:
            said = str(error).splitlines()[0]
            raise UsageError(_rewritten(override, parser) or f"{override}: {said}") from error


def single(overrides: Iterable[str]) -> None:
    """Raises UsageError for one of Hydra's `overrides` that only a grid has an ear for."""
    for override in overrides:
        if override.lstrip("+~").startswith(GRIDS):
            raise UsageError(f"{override} says how a grid runs, and this is a single cell: add -m, or leave it out")


def several(overrides: Iterable[str]) -> None:
    """Raises UsageError for one of Hydra's `overrides` that a grid has no ear for."""
    for override in overrides:
        if override.startswith("hydra.run.dir="):
            raise UsageError(f"{override} is for a single cell; a grid's directory is hydra.sweep.dir=DIRECTORY")


def check_groups(overrides: Iterable[Override]) -> None:
    """Takes files that only others are made of out of `data=glob(*)`. Raises UsageError for null beside files."""
    for override in overrides:
        value = override._value
        if override.key_or_group not in GROUPS:
            continue
        if isinstance(value, Glob):
            value.exclude.append("_*")
        elif (
            override.key_or_group != "experiment"
            and override.is_sweep_override()
            and any(choice is None for choice in _choices(override))
        ):
            raise UsageError(f"{override.input_line}: null is no {override.key_or_group}; run it without one by itself")


def _choices(override: Override) -> Sequence[object]:
    value = override.value()
    return value.list if isinstance(value, ChoiceSweep) else ()


def _refuse(message: str) -> NoReturn:
    raise UsageError(f"{message.replace('unrecognized arguments', 'unknown option')}; see --help")


def _no_dashes(argument: str, parser: argparse.ArgumentParser) -> None:
    """W&B's ${args} is --alpha=0.99, and so is a habit."""
    if not argument.startswith("-"):
        return
    flag, equals, value = argument.partition("=")
    if any(option.startswith(flag) for option in parser._option_string_actions):
        return  # Hydra's own, or the beginning of it
    name = flag.lstrip("-").replace("-", "_")
    if name.partition(".")[0] in (*known_keys(), *GROUPS) or equals:
        wanted = f"{name}={value if equals else 'VALUE'}"
        raise UsageError(
            f"{argument}: knobs have no dashes, write {wanted} (in a W&B sweep: ${{args_no_hyphens}} for its ${{args}})"
        )


def _rerun(file: Path) -> None:
    try:
        with file.open("rb") as stream:
            pickle.load(stream)  # as Hydra will, which has no words for what is none
    except OSError as error:
        raise UsageError(f"--experimental-rerun={file}: {error.strerror}; give the config.pickle of a run") from error
    except Exception as error:  # whatever the bytes make pickle do
        raise UsageError(f"--experimental-rerun={file} is no config.pickle of a run") from error


def _rewritten(override: str, parser: OverridesParser) -> str | None:
    """Why an override cannot be read, and how it can; None where Hydra's own words are better."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override or repr(override)} is no KEY=VALUE; for example alpha=0.9995"
    if not re.fullmatch(r"[+~]{0,2}[\w./@:-]+", key, re.ASCII):
        return f"{override}: {key!r} is no name of a knob; see python -m sweep --help"
    if re.fullmatch(r"\w+\(.*\)", value):
        return None  # one of Hydra's functions
    if value.endswith(",") and not re.search(r"[\[\](){}'\"]", value):
        return f"{override} ends in a comma; write {key}={value.rstrip(',')}"
    for one in (quoted(override), quoted(override, whole=True)):
        try:
            parser.parse_override(f"{key}={one}")
        except HydraException:
            continue
        from shlex import quote

        return f"{override} has characters that must be quoted, twice in a shell; write {quote(f'{key}={one}')}"
    return f"{override} cannot be read; quotes and brackets must close"


def _spelt(override: str) -> str:
    """`model=2.7B` → `model=2.7b`. Raises UsageError for a file that only others are made of."""
    group, _, value = override.partition("=")
    if group in ("hydra/launcher", "hydra/sweeper"):
        return override.lower()
    if group not in GROUPS or not re.fullmatch(r"[\w.,-]+", value):
        return override
    there = options(group)
    names = {name.casefold(): name for name in there}
    wanted = value.split(",")
    nothing = {"null"} if group != "experiment" else set()
    if hidden := [name for name in wanted if name.startswith("_") or name in nothing]:
        raise allowed(group, hidden[0], there)
    return f"{group}={','.join(name if name in there else names.get(name.casefold(), name) for name in wanted)}"
