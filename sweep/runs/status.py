"""The state of a run: under way, finished, or failed and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sweep.core.errors import UsageError, first_line

_USAGE = UsageError.__name__


class RunStatus(StrEnum):
    RUNNING = "running"  # or killed
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True)
class Failure:
    """Why a run failed. message: of the error, without its class. mendable: whoever asked for the run made a mistake or
    has to make room; otherwise the program crashed. error: name of the error's class, "" where there was none."""

    message: str
    mendable: bool = False
    error: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        return cls(str(error), isinstance(error, UsageError), type(error).__name__)

    @classmethod
    def in_one_line(cls, error: BaseException) -> Failure:
        return cls(first_line(error), isinstance(error, UsageError), type(error).__name__)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Failure:
        """From the keys `error`, `mendable` and `error_class` of a run.json; early files have `error` alone."""
        text, error = str(raw.get("error")), raw.get("error_class")
        if error is None:
            error = _USAGE if text.startswith(f"{_USAGE}: ") else ""
        message = text.removeprefix(f"{error}: ") if error else text
        return cls(message, bool(raw.get("mendable", error == _USAGE)), error)

    def to_dict(self) -> dict[str, Any]:
        return {"error": self._text, "mendable": self.mendable, "error_class": self.error}

    @property
    def _text(self) -> str:
        return f"{self.error}: {self.message}" if self.error else self.message

    def __str__(self) -> str:
        """One sentence for people: the class of a crash is part of it, that of a mistake says nothing."""
        return self.message if self.mendable else self._text
