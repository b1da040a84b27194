"""One HTML file that answers the comparison: opens from disk, needs no network, can be mailed.

Verdicts come first, evidence below, definitions last. Everything that comes from a run is escaped: it is
text in the page and data in the charts, never markup and never code.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from sweep.compare.answer import Answer
from sweep.compare.charts import charts, shared
from sweep.compare.render.html import answer, definitions, header, section, seed, title, toolbar, warnings
from sweep.compare.render.theme import CONFIG, variables
from sweep.compare.tables.catalogue import tables as every
from sweep.compare.tables.table import Table
from sweep.core.files import draft

HERE = Path(__file__).parent
# Nothing but what is in the file may load: a report cannot phone home.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"

# heading, what it shows: names of charts and tables
SECTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("settings", "Which setting?", ("sqnr-alpha", "settings", "formats", "choices")),
    ("scales", "What happens to the scales?", ("scales", "difference-scale", "difference-sqnr", "alpha", "layers")),
    ("range", "What does SiLU do, and what is clipped?", ("gain", "silu", "ratio", "histogram", "tail", "minmax")),
    ("data", "Does more data help?", ("samples", "data")),
    ("models", "Does the size of the model matter?", ("sizes",)),
    ("groups", "What does a scale's shape mean?", ("groups", "structure")),
    ("sensitivity", "Which layers are sensitive?", ("sensitivity",)),
    ("cells", "Cells", ("cells", "problems", "verdicts")),
)


def write(a: Answer, path: Path) -> None:
    """Write the report. Raises OSError if the file cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft(path) as file:
        file.write_text(page(a), encoding="utf-8")


def page(a: Answer) -> str:
    """The report as one HTML document."""
    import vl_convert

    drawn = charts(a)
    tables: dict[str, list[Table]] = {}
    for table in every(a):
        tables.setdefault(table.name, []).append(table)
    sections = [(key, heading, section(names, drawn, tables)) for key, heading, names in SECTIONS]
    layers = len(a.runs.sql("SELECT DISTINCT layer FROM rows"))
    values = variables([a.runs.listed[n] for n in a.shown], layers)
    parts = [
        header(a),
        warnings(a),
        answer(a),
        seed(a),
        toolbar(a) if drawn else "",
        *(f'<section id="{key}"><h2>{escape(heading)}</h2>{body}</section>' for key, heading, body in sections if body),
        definitions(),
    ]
    data = {
        "config": CONFIG,
        "params": shared(a),
        "charts": {
            name: {"spec": _packed(c.spec), "selects": {k: v[2] for k, v in c.selects.items()}}
            for name, c in drawn.items()
        },
    }
    bundle = vl_convert.javascript_bundle("window.vegaEmbed=vegaEmbed;", vl_version="6.4")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title(a))}</title>\n<style>{_variables(values)}{_asset('page.css')}</style>\n</head>\n"
        f"<body>\n<main>\n{''.join(parts)}\n</main>\n"
        f'<script type="application/json" id="drawings">{_json(data)}</script>\n'
        f"<script>{_script(bundle)}</script>\n<script>{_asset('page.js')}</script>\n</body>\n</html>\n"
    )


def _variables(values: dict[str, tuple[str, str]]) -> str:
    light = "".join(f"--{name}:{pair[0]};" for name, pair in values.items())
    dark = "".join(f"--{name}:{pair[1]};" for name, pair in values.items())
    return (
        f":root{{{light}color-scheme:light}}"
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}color-scheme:dark}}}}"
        f"@media screen{{:root[data-theme=dark]{{{dark}color-scheme:dark}}}}\n"
    )


def _packed(spec: Any) -> Any:
    """A chart whose rows are columns, words numbered: a fifth of the size. page.js makes rows of them again."""
    if isinstance(spec, list):
        return [_packed(part) for part in spec]
    if not isinstance(spec, dict):
        return spec
    return {key: _columns(part["values"]) if key == "data" else _packed(part) for key, part in spec.items()}


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name in rows[0] if rows else ():
        column = [row[name] for row in rows]
        words = list(dict.fromkeys(column))
        if all(isinstance(word, str) for word in words):
            number = {word: i for i, word in enumerate(words)}
            columns[name] = {"words": words, "at": [number[word] for word in column]}
        else:
            columns[name] = {"numbers": column}
    return {"columns": columns, "length": len(rows)}


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON that no string inside can end: in a script element only `</` and `<!` mean anything."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _script(code: str) -> str:
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")
