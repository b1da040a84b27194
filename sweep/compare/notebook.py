"""A comparison in Python: DataFrames, sentences, and charts that a notebook shows.

    from sweep.compare import load

    runs = load("runs/*", model="2.7b", method="MinMax,percentile")
    runs                      # in a notebook: the ranked table
    runs.settings()           # the same as a DataFrame
    runs.table("formats")     # any table of `python -m sweep.compare --table …`; runs.tables() names them
    runs.conclusions()        # what follows, in at most eight sentences
    runs.chart("scales")      # any chart of the report; runs.charts() names them
    runs.scales()             # every row of every scales.parquet
    runs.frame("SELECT …")    # DuckDB's SQL on `cells`, `rows`, `points`, `deployed` and `scales()`

Names of tables and of their columns are those of `--format csv`, and stay. torch is never imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.compare.query import comparison
from sweep.compare.query.comparison import Comparison
from sweep.core.errors import allowed

if TYPE_CHECKING:
    import pandas as pd

    from sweep.compare.facts import Answer
    from sweep.compare.tables.table import Table


@dataclass(frozen=True, eq=False)
class Runs(Comparison):
    """Cells of any number of sweeps with everything that can be said of them; see the module for examples.

    What takes time is done when first asked for, once."""

    @cached_property
    def answer(self) -> Answer:
        """Verdicts, advice and costs as objects."""
        from sweep.compare.answer import answer

        return answer(self)

    @cached_property
    def _tables(self) -> dict[str, list[Table]]:
        from sweep.compare.tables.catalogue import tables

        by_name: dict[str, list[Table]] = {}
        for table in tables(self.answer):
            by_name.setdefault(table.name, []).append(table)
        return by_name

    def tables(self) -> list[str]:
        """Names of the tables that these cells make."""
        return list(self._tables)

    def table(self, name: str) -> pd.DataFrame:
        """A table's raw values; tables of one name are concatenated and told apart by `title`.

        Raises UsageError for a name that is none of `tables()`."""
        import pandas as pd

        if name not in self._tables:
            raise allowed("table", name, self._tables)
        frames = [(table.title, table.frame()) for table in self._tables[name]]
        if len(frames) == 1:
            return frames[0][1]
        return pd.concat([frame.assign(title=title) for title, frame in frames], ignore_index=True)

    def settings(self) -> pd.DataFrame:
        """Every setting, best first by context: costs in nats per token, SQNR in dB, shares as fractions."""
        return self.table("settings")

    def verdicts(self) -> pd.DataFrame:
        """The verdicts, a row per question."""
        return self.table("verdicts")

    def conclusions(self) -> list[str]:
        """The conclusions, at most eight sentences."""
        from sweep.compare.answer import headlines

        return headlines(self.answer)

    def charts(self) -> list[str]:
        """Names of the charts that these cells make."""
        from sweep.compare.charts import charts

        return list(charts(self.answer))

    def chart(self, name: str) -> Drawing:
        """A chart that a notebook shows. Raises UsageError for a name that is none of `charts()`."""
        from sweep.compare.charts import charts
        from sweep.compare.render.pictures import caption, standalone

        drawn = charts(self.answer)
        if name not in drawn:
            raise allowed("chart", name, drawn)
        return Drawing(standalone(drawn[name], self.answer), drawn[name].title, caption(drawn[name], self.answer))

    def _repr_html_(self) -> str:
        return str(self.settings()._repr_html_())


@dataclass(frozen=True)
class Drawing:
    """A chart. spec: a complete Vega-Lite description; caption: title, site, choices, and what must be known."""

    spec: dict[str, Any]
    title: str
    caption: str

    def svg(self) -> str:
        """The picture, in light colours, as wide as a page of a paper."""
        import vl_convert

        return str(vl_convert.vegalite_to_svg(self.spec))

    def _repr_svg_(self) -> str:
        return self.svg()


def load(*paths: str | Path, **filters: object) -> Runs:
    """Open the cells under directories or globs; under the latest sweep of runs/ if none is given.

    filters: site, layer, model, method, alpha, format, granularity – a value, a comma list or a sequence; `*` is
    allowed in names, `0-3` in layers, and case does not matter. Raises UsageError where nothing matches. Damaged cells
    do not raise: they are in `.problems`."""
    return Runs(**vars(comparison.load(*paths, **filters)))
