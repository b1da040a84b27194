"""A table: title, typed columns, rows. How it looks is decided in one place, for every output."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweep.compare.analysis.cost import Estimate

if TYPE_CHECKING:
    import pandas as pd

Value = str | int | float | None


@dataclass(frozen=True)
class Column:
    """kind: text, count, scale (4 significant digits), nats (3 of them), number, db, change (relative, shown in %),
    share (%), p. A column named "±" is the standard error of the one before it."""

    name: str
    kind: str = "text"

    def show(self, value: Value) -> str:
        """For people. None and NaN are an en dash."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "–"
        if isinstance(value, str):
            return value
        if self.kind == "count":
            return f"{value:,}"
        if math.isinf(value):
            return "∞" if value > 0 else "−∞"
        text = {
            "scale": "{:#.4g}", "number": "{:.2f}", "db": "{:.2f}", "gain": "{:+.2f}", "change": "{:+.2%}",
            "share": "{:.3%}", "error": "{:.2%}", "nats": "{:.3g}", "p": "{:.1e}" if 0 < value < 1e-3 else "{:.3f}",
        }.get(self.kind, "{:g}").format(value)  # fmt: skip
        if not text.strip("+-0.%"):  # a small effect must not read as none
            least = text.lstrip("+-").replace("%", "")[:-1] + "1" + "%" * text.endswith("%")
            return "0" if value == 0 else f"<{least}" if value > 0 else f">−{least}"
        return text.replace("-", "−", 1) if text.startswith("-") else text

    def show_with(self, value: Value, error: Value) -> str:
        """For people: a value with its error, both to the first digit of the error; alone if the error is unknown."""
        shown = self.show(value)
        if not isinstance(value, float) or not isinstance(error, float) or not math.isfinite(value) or not error > 0:
            return shown
        unit, times = ("%", 100) if self.kind in ("change", "error", "share") else ("", 1)
        value, error = value * times, error * times
        decimals = max(0, -math.floor(math.log10(error))) if math.isfinite(error) else 9
        if decimals > 6:
            return shown if not math.isfinite(error) else f"{shown} ± {error:.1g}{unit}"
        signed = "+" if value and self.kind in ("change", "gain") else ""
        return f"{value:{signed}.{decimals}f} ± {error:.{decimals}f}{unit}".replace("-", "−", 1)

    @property
    def right(self) -> bool:
        return self.kind != "text"


@dataclass(frozen=True)
class Table:
    """name: for file names and `--table`. caption: limits and definitions that keep a reader from being misled."""

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]

    @classmethod
    def of(cls, name: str, title: str, caption: str, specification: str, rows: Iterable[tuple[Value, ...]]) -> Table:
        """A table whose columns are spelt out as for `columns`."""
        return cls(name, title, caption, columns(specification), tuple(rows))

    def frame(self) -> pd.DataFrame:
        """The unformatted values as a DataFrame; relative changes as fractions."""
        import pandas as pd

        return pd.DataFrame(list(self.rows), columns=[c.name for c in self.columns])

    def pairs(self) -> list[tuple[int, int | None]]:
        """(number of a column, number of the column of its errors if it has any): of the columns that hold something;
        of all that are no errors if none does."""
        every = range(len(self.columns))
        held = [i for i in every if any(row[i] not in (None, "") and row[i] == row[i] for row in self.rows)]
        values = [i for i, column in enumerate(self.columns) if not column.name.startswith("±")]
        errors = set(held).difference(values)
        return [(i, i + 1 if i + 1 in errors else None) for i in values if i in held or not set(held) & set(values)]

    def merged(self) -> tuple[list[str], list[list[str]], list[bool]]:
        """Headings, rows and sides (right or left) as shown on paper: errors beside their values, to the digit that
        they allow; columns that hold nothing are left out."""
        pairs = self.pairs()
        rows = [[self.text(row, *pair) for pair in pairs] for row in self.rows]
        return [self.columns[i].name for i, _ in pairs], rows, [self.columns[i].right for i, _ in pairs]

    def text(self, row: tuple[Value, ...], at: int, error: int | None = None) -> str:
        """The value of a row in column `at` as people read it, with its error from column `error`."""
        return self.columns[at].show_with(row[at], None if error is None else row[error])

    def shown(self) -> list[list[str]]:
        return [[c.show(v) for c, v in zip(self.columns, row, strict=True)] for row in self.rows]


def naming(heads: list[str], rows: list[list[str]], right: list[bool]) -> int:
    """How many of the first columns name a row: one, and a second one that is a rank, layer or text, too; more of them
    where these name several rows alike and the texts beside them do not."""
    least = 3 if heads[1:2] == ["rank"] else 2 if heads[1:2] == ["layer"] or right[1:2] == [False] else 1
    texts = right.index(True) if True in right else len(right)
    for count in range(least, texts + 1):
        if len({tuple(row[:count]) for row in rows}) == len(rows):
            return count
    return least


def columns(specification: str) -> tuple[Column, ...]:
    """`"layer:count | scale 0.9995:scale | ±:error"` → columns; text where no kind is given."""
    parts = [part.strip().rsplit(":", 1) for part in specification.split("|")]
    return tuple(Column(p[0], p[1] if len(p) > 1 else "text") for p in parts)


def with_error(value: Estimate | None) -> tuple[Value, Value]:
    """The two cells of a row that show a value and its standard error."""
    if value is None:
        return None, None
    return value.value, None if math.isnan(value.se) else value.se
