"""Streams that carry less than Unicode: what they cannot say is said in other letters, and nothing ever fails."""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata

PLAIN = {
    "–": "-", "—": "-", "−": "-", "…": "...", "±": "+-", "→": "->", "←": "<-", "×": "x", "·": ".", "≤": "<=", "≥": ">=",
    "≈": "~", "≠": "!=", "∞": "inf", "√": "sqrt", "Δ": "delta ", "α": "alpha", "σ": "sigma", "µ": "u", "μ": "u",
    "‘": "'", "’": "'", "“": '"', "”": '"', "•": "*", "█": "#", "━": "-", "─": "-", "│": "|", "┃": "|", "✓": "ok",
    "ß": "ss", "æ": "ae", "ø": "o", "ł": "l",
}  # fmt: skip


def plain(text: str) -> str:
    """ASCII that reads alike: accents are dropped, signs are spelt; of other scripts the number of the letter stays."""
    spelled = []
    for letter in text:
        same = PLAIN.get(letter) or unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
        spelled.append(same or letter.encode("ascii", "backslashreplace").decode())
    return "".join(spelled)


def _instead(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return plain(error.object[error.start : error.end]), error.end


codecs.register_error("plain", _instead)


def forgiving() -> None:
    """Make stdout and stderr say `plain` what their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")


def exact() -> None:
    """Make stdout UTF-8, whatever the locale: what a program reads is not to be told in other letters."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
