"""The report as a document: what it holds, and that nothing in it is said twice or left empty."""

from __future__ import annotations

import re
from collections import Counter
from html import unescape
from pathlib import Path

import pytest
from synthetic import mamba, write

from sweep.compare import load
from sweep.compare.answer import answer
from sweep.compare.render.report import page


def texts(html: str, tag: str) -> list[str]:
    found = re.findall(rf"<{tag}[ >].*?</{tag}>", html, re.S)
    return [" ".join(unescape(re.sub(r"<span class=\"note\">.*?</span>|<[^>]+>", "", text)).split()) for text in found]


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    """minmax and three alphas in two formats, one scale per tensor, with Hydra's record of the sweep."""
    root = tmp_path_factory.mktemp("report")
    world = mamba(layers=3, size=200)
    for format in ("int8", "int4"):
        for alpha in (0.99, 0.9995, 0.9999):
            write(root / "s" / f"{format}-{alpha}", world, alpha=alpha, format=format)
        write(root / "s" / f"{format}-minmax", world, method="minmax", alpha=0.99, format=format)
    (root / "s" / "multirun.yaml").write_text(
        "hydra:\n  overrides:\n    task:\n    - method=percentile,minmax\n    - 'data.path=my text.txt'\n"
    )
    return page(answer(load(root / "s")))


def body(html: str) -> str:
    return html.split("<script", 1)[0]


def test_the_first_screen_says_what_was_asked(html: str) -> None:
    asked = body(html).split('id="contents"')[0]
    for text in ("stdlib", "512 × 128", "float32", "cpu, test", "2026-11-23 11:01"):
        assert text in asked
    assert unescape(asked).count("python -m sweep -m method=percentile,minmax 'data.path=my text.txt'") == 1
    assert 'data-name="ranking"' in asked
    assert 'id="chart-cost"' in asked


def test_no_heading_is_repeated(html: str) -> None:
    heads = [text for tag in ("h2", "h3", "summary") for text in texts(body(html), tag)]
    heads = [text for text in heads if not text.startswith(("matters", "dead", "no effect", "unresolved"))]
    assert [text for text, count in Counter(heads).items() if count > 1] == []


def test_sections_without_content_do_not_appear(html: str) -> None:
    sections = re.findall(r'<section id="([\w-]+)"', html)
    assert "groups" not in sections
    assert "sensitivity" not in sections
    assert "models" not in sections
    listed = re.findall(r'href="#([\w-]+)"', body(html))
    assert listed == sections[1:]
    for section in body(html).split("<section ")[1:]:
        assert (
            "<table" in section or "<figure" in section or "<dl" in section or "<details" in section or "<li" in section
        )


def test_minmax_has_no_alpha(html: str) -> None:
    table = re.search(r'data-name="cells".*?</table>', html, re.S)[0]  # type: ignore[index]
    at = texts(table, "th").index("alpha")
    rows = [texts(row, "td") for row in re.findall(r"<tr>.*?</tr>", table.split("<tbody>")[1], re.S)]
    assert {row[at] for row in rows if any("minmax" in cell for cell in row)} == {"–"}
    assert {row[at] for row in rows if not any("minmax" in cell for cell in row)} == {"0.99", "0.9995", "0.9999"}


def test_raw_values_stand_behind_the_shown_ones(html: str) -> None:
    ranking = re.search(r'data-name="ranking".*?</table>', html, re.S)[0]  # type: ignore[index]
    raw = [float(v) for v in re.findall(r'data-v="([\d.e-]+)"', ranking)]
    assert len(raw) >= 8
    assert any(len(str(v)) > 8 for v in raw)


def test_errors_stand_beside_their_values_and_no_column_is_empty(html: str) -> None:
    for table in re.findall(r'<details class="table.*?</table>', html, re.S):
        heads = texts(table, "th")
        assert not [head for head in heads if head.startswith("±")]
        rows = [texts(row, "td") for row in re.findall(r"<tr>.*?</tr>", table.split("<tbody>")[1], re.S)]
        empty = [head for head, *column in zip(heads, *rows, strict=True) if not {*column} - {"", "–"}]
        assert not [head for head in empty if head != "verdict"], heads
    settings = re.search(r'data-name="settings".*?</table>', html, re.S)[0]  # type: ignore[index]
    assert 'data-e="± dB"' in settings
    assert re.search(r'data-v="[\d.e-]+" data-e="[\d.e-]+">[+−][\d.]+ ± [\d.]+<', settings)


def test_charts_of_a_site_say_which(html: str) -> None:
    for chart in ("scales", "difference-scale", "difference-sqnr", "samples", "best-alpha"):
        figure = re.search(rf'id="figure-{chart}".*?</figcaption>', html, re.S)[0]  # type: ignore[index]
        assert "<span data-site>x_conv_out</span></h3>" in figure
    assert "data-site" not in re.search(r'id="figure-cost".*?</figcaption>', html, re.S)[0]  # type: ignore[index]


def test_how_to_cite_and_reproduce(html: str) -> None:
    last = unescape(re.search(r'<section id="reproduce".*?</section>', html, re.S)[0])  # type: ignore[index]
    for text in ("@software{", "version = {", "reproduce DIR", "method=percentile,minmax"):
        assert text in last


def test_one_cell_gives_its_own_result(tmp_path: Path) -> None:
    write(tmp_path / "s" / "only", mamba(layers=2, size=200))
    first = body(page(answer(load(tmp_path / "s")))).split('id="contents"')[0]
    assert re.search(r"\d+\.\d+ dB", re.sub(r"<[^>]+>", "", first))
    assert 'class="first alone"' in first
