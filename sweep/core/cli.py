"""One parser and one way to end for all commands, and `mamba-sweep`, which has them as subcommands.

Exit codes: 0; 1 where the answer is no (a table differs, an entry is damaged, a cell could not be sent, a cell of a
grid crashed); 2 for what a user can mend, said in one line; 70 where the program itself crashed, with a traceback; 130
after Ctrl-C."""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from sweep import __version__
from sweep.core import completion
from sweep.core.errors import UsageError, allowed
from sweep.core.signals import exit_code

OK, NO, USAGE, CRASHED = 0, 1, 2, 70
SCRIPT = "mamba-sweep"
VERSION = f"mamba-scale-sweep {__version__}"

COMMANDS = {  # subcommand → what it is for; each is the `main` of a module
    "run": "a cell, or with -m a grid of them: mamba-sweep run model=2.7b alpha=0.9995",
    "compare": "the answer of any number of sweeps: terminal, tables, an HTML report",
    "runs": "which sweeps there are, what became of their cells, age and size",
    "store": "list, verify and prune stored calibrations",
    "track": "send finished cells to W&B",
    "quamba": "read scales saved by Quamba, or write them",
    "reproduce": "compute a finished cell again and compare bit by bit",
    "dashboard": "a W&B workspace for a sweep",
    "recipe": "for every layer and site the choice of a sweep that costs the network least",
}

Main = Callable[[list[str] | None], int]


class Parser(argparse.ArgumentParser):
    """argparse, with errors as the project words them: raises UsageError."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            name = max(action.option_strings, key=len, default=action.dest).lstrip("-")
            raise allowed(name, value, action.choices)


def parser(command: str, description: str | None, **options: Any) -> Parser:
    """A command's parser, called as the command was: `python -m sweep.runs` or `mamba-sweep runs`."""
    made = Parser(prog=spelled(command), description=description and typed(description), **options)
    made.add_argument("--version", action="version", version=VERSION)
    return made


def spelled(command: str) -> str:
    """How a command is typed, in the way that this process was started."""
    if Path(sys.argv[0]).name == SCRIPT:
        return f"{SCRIPT} {command}"
    return "python -m sweep" if command == "run" else f"python -m sweep.{command}"


def typed(text: str) -> str:
    """A text in which commands are spelled as this process was started."""
    return re.sub(r"python -m sweep(?:\.(\w+))?(?![\w.])", lambda name: spelled(name[1] or "run"), text)


def command(function: Main) -> Main:
    """A `main` that prints a UsageError as one line and returns 2 for it."""

    def main(arguments: list[str] | None = None) -> int:
        try:
            return function(arguments)
        except UsageError as error:
            return said(str(error))

    return main


def run(main: Main) -> NoReturn:
    """The whole process of a command, to its exit code."""
    spin_briefly()
    collect_rarely()
    with exit_code():
        code = _guarded(main)
        if "duckdb" not in sys.modules:  # whose binding calls what was not looked through leaked
            gc.freeze()  # what is left goes with the process; to look for garbage in it takes a second of a job
        sys.exit(code)


def spin_briefly() -> None:
    """Unless the user has chosen: before torch loads OpenMP. After every operation its threads spin, in case another
    follows, for milliseconds in which the observer's threads cannot have their cores. A thirtieth of that is enough
    for a forward pass, and five times as fast where other processes want the cores too."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def collect_rarely() -> None:
    """Python's garbage collector: importing torch and transformers makes a million objects that stay, and every 700 of
    them it goes through the young ones again, which is a second of a job."""
    gc.set_threshold(100_000)


def _guarded(main: Main) -> int:
    try:
        try:
            return main(None)
        finally:
            sys.stdout.flush()  # here, where something can be said about it
    except BrokenPipeError:
        unheard()
        return OK
    except UsageError as error:
        return said(str(error))
    except OSError as error:
        if error.errno is None:
            return _crashed()
        if error.filename is None:  # most who write a file name it
            unheard()
        return said(f"{error.filename or 'standard output or a file cannot be written'}: {error.strerror}")
    except Exception:
        return _crashed()


def said(message: str) -> int:
    """Print what a user can mend as one line, commands in it as they were typed; returns USAGE."""
    with suppress(OSError):
        print(f"error: {typed(message)}", file=sys.stderr, flush=True)
    return USAGE


def _crashed() -> int:
    with suppress(OSError):  # its reader may be gone, too
        traceback.print_exc()
    return CRASHED


def unheard() -> None:
    """From now on standard output goes nowhere: what is left in its buffer would fail again at exit."""
    with suppress(OSError, ValueError):  # a stream without a descriptor, in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def aside() -> Iterator[None]:
    """For words beside work that goes on: a pipe that nobody reads any more, as after `| head`, ends no grid.

    Raises UsageError where they cannot be written for another reason."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        unheard()
    except OSError as error:
        unheard()
        raise UsageError(f"standard output cannot be written: {error.strerror or error}") from error


def usage() -> str:
    """The text of `mamba-sweep --help`."""
    lines = [f"  {name:<10} {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {SCRIPT} COMMAND …",
            "",
            "Activation scales of quantized Mamba models: one forward pass answers the whole grid.",
            "",
            *lines,
            "",
            f"{SCRIPT} COMMAND --help says more; {SCRIPT} --version; `python -m sweep` is `{SCRIPT} run`.",
            "Exit codes: 0; 1 the answer is no (differs, damaged, not sent, a cell failed); 2 wrong input; 70 crashed.",
        ]
    )


def dispatch(given: list[str] | None = None) -> int:
    """`mamba-sweep COMMAND …`."""
    arguments = sys.argv[1:] if given is None else given
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return OK if arguments else USAGE
    if arguments[0] == "--version":
        print(VERSION)
        return OK
    if completion.asked(arguments):
        if not completion.of_run():
            print(completion.candidates(arguments, COMMANDS))
            return OK
        arguments = ["run", *arguments]
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        if name.startswith("-") or "=" in name:
            raise UsageError(f"{name} comes after a command: {SCRIPT} run {name}; see {SCRIPT} --help")
        raise allowed("command", name, COMMANDS)
    rooms = {"run": "sweep.__main__", "compare": "sweep.compare.__main__", "runs": "sweep.runs.__main__"}
    module = rooms.get(name, f"sweep.{name}")  # the other commands' doors
    main: Main = importlib.import_module(module).main
    return main(rest)


def script() -> NoReturn:
    """The console script."""
    run(dispatch)
