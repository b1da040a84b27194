"""The one exception a user can cause."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """A mistake in what was asked for: says what is wrong, where, what is allowed, and what to do.

    Entry points print it as one `error: …` line and exit with code 2, without a traceback.
    """


def allowed(key: str, value: object, choices: Iterable[str]) -> UsageError:
    """The error for a `value` of `key` that is none of `choices`; suggests the closest one."""
    options = list(choices)
    close = difflib.get_close_matches(str(value), options, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return UsageError(f"{key}={value} is unknown; allowed: {', '.join(options)}{hint}")
