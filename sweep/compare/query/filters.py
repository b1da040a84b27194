"""Filters of cells and rows: values, comma lists, `*` in names, ranges of layers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase

import duckdb

from sweep.core.errors import UsageError
from sweep.runs.compared import Cell


@dataclass(frozen=True)
class Filters:
    """An empty tuple lets everything pass. Names may hold `*`, in any case; layers are numbers, alphas floats."""

    site: tuple[str, ...] = ()
    layer: tuple[int, ...] = ()
    model: tuple[str, ...] = ()
    method: tuple[str, ...] = ()
    alpha: tuple[float, ...] = ()
    format: tuple[str, ...] = ()
    granularity: tuple[str, ...] = ()

    @classmethod
    def parse(cls, **given: object) -> Filters:
        """From strings ("x_*,out_proj_in", "0-3,7"), numbers or sequences of them. Raises UsageError."""
        known = [f.name for f in fields(cls)]
        for key in given:
            if key not in known:
                raise UsageError(f"{key} is no filter; allowed: {', '.join(known)}")
        parsed: dict[str, tuple[object, ...]] = {}
        for key, value in given.items():
            words = _words(value)
            try:
                if key == "layer":
                    parsed[key] = tuple(n for word in words for n in _range(word))
                elif key == "alpha":
                    parsed[key] = tuple(float(word) for word in words)
                else:
                    parsed[key] = tuple(words)
            except ValueError:
                example = "0-3,7" if key == "layer" else "0.9995,0.99999"
                what = "layers, or ranges of them from low to high" if key == "layer" else "numbers"
                raise UsageError(f"{key}={value} is no list of {what}; for example {key}={example}") from None
        return cls(**parsed)  # type: ignore[arg-type]

    def cells(self, cells: list[Cell]) -> list[Cell]:
        """The cells that pass. Raises UsageError naming what there is, where a filter matches none."""
        for key in ("model", "method", "format", "granularity"):
            wanted = getattr(self, key)
            kept = [c for c in cells if not wanted or any(_like(getattr(c, key), w) for w in wanted)]
            cells = _some(key, wanted, kept, (getattr(c, key) for c in cells))
        kept = [c for c in cells if not self.alpha or c.asked_alpha in self.alpha]
        return _some("alpha", self.alpha, kept, (c.asked_alpha for c in cells))

    @property
    def rows(self) -> str:
        """The SQL condition on layer and site."""
        sites = " OR ".join(f"lower(site) GLOB '{_literal(site.lower())}'" for site in self.site) or "TRUE"
        return f"{self.layers} AND ({sites})"

    @property
    def layers(self) -> str:
        """The SQL condition on layer alone, for tables that are of one site."""
        return f"layer IN {(*self.layer, -1)}" if self.layer else "TRUE"

    def check(self, database: duckdb.DuckDBPyConnection, everything: str) -> None:
        """Raises UsageError naming what there is, where the filters leave no row. everything: unfiltered rows."""
        if not (self.site or self.layer) or database.execute("SELECT 1 FROM rows LIMIT 1").fetchall():
            return
        there = database.execute(f"SELECT DISTINCT site, layer FROM {everything}").fetchall()
        sites, layers = sorted({s for s, _ in there}), sorted({n for _, n in there})
        raise UsageError(
            f"no rows for site={','.join(self.site) or '*'} layer={','.join(map(str, self.layer)) or '*'}; "
            f"there are sites {', '.join(sites)} and layers {layers[0]}-{layers[-1]}"
        )


def _like(value: str, pattern: str) -> bool:
    """Names are typed without regard to case: --method MinMax."""
    return fnmatchcase(value.lower(), pattern.lower())


def _words(value: object) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str) or not isinstance(value, Iterable):
        value = str(value).split(",")
    return [word for v in value if (word := str(v).strip())]


def _range(word: str) -> list[int]:
    """The layers of `3` or `0-3`. Raises ValueError where there are none."""
    first, _, last = word.partition("-")
    if not (layers := list(range(int(first), int(last or first) + 1))):
        raise ValueError(word)
    return layers


def _literal(text: str) -> str:
    return text.replace("'", "''").replace("[", "[[]").replace("?", "[?]")


def _some(key: str, wanted: tuple[object, ...], kept: list[Cell], there: Iterable[object]) -> list[Cell]:
    if kept or not wanted:
        return kept
    values = sorted({str(v) for v in there})
    raise UsageError(f"no cell has {key}={','.join(map(str, wanted))}; there are: {', '.join(values)}")
