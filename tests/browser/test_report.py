"""The report in a real Chromium, opened from disk."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic import mamba
from synthetic import write as write_cell

from sweep.compare import load
from sweep.compare.answer import answer
from sweep.compare.render.report import write
from tests.harness import browser, require

pytestmark = pytest.mark.browser

HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "'); document.title='owned'; ('",
    "../../../etc/passwd",
    "very-long-" + "name" * 60,
    "名前 ёжик 🐍 </script><b>",
    "datum.x + 1; ${1+1} {{7*7}}",
)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    driver = browser({"browser": "ALL", "performance": "ALL"})
    require(driver, "Chromium and its driver: apt-get install chromium chromium-driver")
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 cells of every kind, evaluated ones and groups among them."""
    root = tmp_path_factory.mktemp("report")
    world = mamba(layers=6, size=300)
    layers = [
        {"layer": i, "only": {"perplexity": 8.0 + i / 10, "kl": 0.01 * i + 0.01, "kl_se": 0.002},
         "all_but": {"perplexity": 9 - i / 10, "kl": 0.2 - 0.01 * i, "kl_se": 0.02}}
        for i in range(6)
    ]  # fmt: skip
    evaluation = {"perplexity": 9.0, "perplexity_se": 0.1, "baseline": {"perplexity": 8.0}, "layers": layers}
    for alpha in (0.9, 0.99, 0.999, 0.9995, 0.9999, 0.99999):
        for format in ("int8", "int4"):
            for grid in (None, (4, 4)):
                cell = root / "sweep" / f"{alpha}-{format}-{grid}"
                write_cell(cell, world, alpha=alpha, format=format, grid=grid, evaluation=evaluation if grid else None)
    path = root / "compare.html"
    write(answer(load(root / "sweep")), path)
    return path


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    for i, name in enumerate(HOSTILE):
        world = mamba(layers=2, size=100, model=name, data=name)
        for alpha in (0.99, 0.9995):
            cell = root / "s" / f"{i}-{alpha}"
            write_cell(cell, world, alpha=alpha, name=name)
            run = json.loads((cell / "run.json").read_text())
            run["sweep"] = name
            (cell / "run.json").write_text(json.dumps(run))
    failed = write_cell(root / "s" / "failed", mamba(layers=1, size=50), status="failed", error=HOSTILE[0])
    assert failed.exists()
    path = root / "compare.html"
    write(answer(load(root / "s")), path)
    return path


def open_page(driver: Any, path: Path, width: int = 1280, dark: bool = False) -> float:
    """Open the page and wait until every chart is drawn; returns the seconds that took."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 640}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    for log in ("browser", "performance"):
        driver.get_log(log)
    started = time.perf_counter()
    driver.get(path.as_uri())
    wait(driver, "return document.body.dataset.ready === 'yes'")
    return time.perf_counter() - started


def wait(driver: Any, condition: str, seconds: float = 20.0) -> None:
    until = time.perf_counter() + seconds
    while not driver.execute_script(condition):
        assert time.perf_counter() < until, (condition, driver.get_log("browser"))
        time.sleep(0.02)


def marks(driver: Any, chart: str) -> int:
    each = ", ".join(f"#chart-{chart} .role-mark {shape}" for shape in ("path", "text", "line"))
    return int(driver.execute_script("return document.querySelectorAll(arguments[0]).length", each))


CHARTS = (
    "cost", "methods-formats", "cost-map", "best-alpha", "scales", "difference-scale", "difference-sqnr", "histogram",
    "gain", "samples", "groups", "sensitivity",
)  # fmt: skip


def test_opens_from_disk_without_network_or_errors(chromium: Any, report: Path) -> None:
    open_page(chromium, report)
    assert chromium.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith("data:")} == {report.as_uri()}


def test_is_small_and_its_first_screen_quick(chromium: Any, report: Path) -> None:
    assert report.stat().st_size <= 4e6
    mark = "return performance.getEntriesByName('first-screen')[0].startTime"
    first, whole = [], []
    for _ in range(3):
        whole.append(open_page(chromium, report))
        first.append(chromium.execute_script(mark))
    assert min(first) <= 1000  # milliseconds since the page was asked for
    assert min(whole) <= 4.0


def test_every_chart_has_marks(chromium: Any, report: Path) -> None:
    open_page(chromium, report)
    width = "return document.querySelector('#chart-{} svg').getBoundingClientRect().width"
    for chart in CHARTS:
        assert marks(chromium, chart) > 5, chart
        at_least = 450 if chart == "cost" else 700  # which stands beside the ranking
        assert chromium.execute_script(width.format(chart)) > at_least, chart


def test_hover_tells_the_value(chromium: Any, report: Path) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    open_page(chromium, report)
    point = chromium.find_elements(By.CSS_SELECTOR, "#chart-scales .role-mark.mark-symbol path")[3]
    chromium.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", point)
    # a hand does not jump: the first event after a scroll may still be answered with the old layout
    ActionChains(chromium).move_to_element(point).move_by_offset(2, 0).move_by_offset(-2, 0).perform()
    wait(chromium, "return !document.getElementById('tip').hidden")
    text = chromium.find_element(By.ID, "tip").text
    assert "percentile" in text
    assert "scale" in text


POINTS = "document.querySelectorAll('#chart-scales .role-mark.mark-symbol path').length"


def test_what_is_switched_off_leaves_every_chart(chromium: Any, report: Path) -> None:
    open_page(chromium, report)
    shown = ("scales", "difference-scale", "samples")
    before = {chart: marks(chromium, chart) for chart in shown}
    points = chromium.execute_script(f"return {POINTS}")
    chromium.execute_script("document.querySelector('.chip input[data-key=setting]').click()")
    wait(chromium, f"return {POINTS} < {points}")
    for chart, count in before.items():
        assert marks(chromium, chart) < count, chart
    all_of_them = "document.querySelector('[data-all=setting]').click()"
    chromium.execute_script(all_of_them)  # one is off: all on
    wait(chromium, f"return {POINTS} === {points}")
    assert marks(chromium, "scales") == before["scales"]
    chromium.execute_script(all_of_them)
    wait(chromium, f"return {POINTS} === 0")


def test_a_view_can_be_shared(chromium: Any, report: Path) -> None:
    open_page(chromium, report)
    chromium.execute_script(
        "document.querySelector('.chip input[value=int4]').click();"
        "const site = document.getElementById('site'); site.value = 'out_proj_in';"
        "site.dispatchEvent(new Event('change'));"
        "document.querySelector('[data-name=ranking] th:nth-child(2) button').click();"
        "document.getElementById('theme').click()"
    )
    wait(chromium, "return location.hash.includes('theme')")
    left = chromium.execute_script(
        f"return [location.href, {POINTS}, document.querySelector('[data-name=ranking] tbody').textContent]"
    )
    chromium.get("about:blank")
    chromium.get(left[0])
    wait(chromium, "return document.body.dataset.ready === 'yes'")
    assert chromium.execute_script(f"return {POINTS}") == left[1]
    assert chromium.execute_script("return document.querySelector('[data-name=ranking] tbody').textContent") == left[2]
    assert chromium.execute_script("return document.getElementById('site').value") == "out_proj_in"
    assert not chromium.execute_script("return document.querySelector('.chip input[value=int4]').checked")
    assert chromium.execute_script("return document.documentElement.dataset.theme") == "dark"
    chromium.execute_script("document.querySelector('#contents a').click()")  # which leaves the state alone
    assert "off=format" in chromium.execute_script("return location.hash")


def test_tables_sort_and_download(chromium: Any, report: Path, tmp_path: Path) -> None:
    import pandas as pd

    chromium.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    open_page(chromium, report)
    column = (
        "return [...document.querySelectorAll('[data-name=cells] tbody tr')].map((r) => r.cells[arguments[0]])"
        ".map((c) => c.dataset.v ?? c.textContent)"
    )
    heads = chromium.execute_script(
        "return [...document.querySelectorAll('[data-name=cells] th')].map((t) => t.textContent)"
    )
    at = heads.index("mean SQNR dB")
    press = "document.querySelectorAll('[data-name=cells] th button')[arguments[0]].click()"
    for descending in (False, True):
        chromium.execute_script(press, at)
        values = [float(v) for v in chromium.execute_script(column, at)]
        assert values == sorted(values, reverse=descending)
    chromium.execute_script("document.querySelector('[data-name=cells] .csv').click()")
    file, until = tmp_path / "cells.csv", time.perf_counter() + 10
    while not file.exists() and time.perf_counter() < until:
        time.sleep(0.05)
    frame = pd.read_csv(file)
    assert [name for name in frame.columns if not name.startswith("±")] == heads
    assert (frame["± perplexity"].dropna() == 0.1).all()  # beside its value in the page, a column of its own here
    assert frame["± perplexity"].notna().any()
    assert frame["mean SQNR dB"].tolist() == values


def test_a_click_on_the_map_opens_the_distribution(chromium: Any, report: Path) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    open_page(chromium, report)
    chromium.execute_script("document.documentElement.style.scrollBehavior = 'auto'")
    cells = chromium.find_elements(By.CSS_SELECTOR, "#chart-cost-map .role-mark path")
    wanted = next(
        c
        for c in cells
        if "layer: 5" in c.get_attribute("aria-label") and "x_conv_out" in c.get_attribute("aria-label")
    )
    chromium.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", wanted)
    ActionChains(chromium).move_to_element(wanted).move_by_offset(2, 0).click().perform()
    wait(chromium, "return document.querySelector('[data-chart=histogram]').value === '5'")
    assert chromium.execute_script("return document.getElementById('site').value") == "x_conv_out"
    top = "return document.getElementById('figure-histogram').getBoundingClientRect().top"
    wait(chromium, top.replace("return ", "return Math.abs(") + ") < 200")


def test_site_and_layer_can_be_chosen(chromium: Any, report: Path) -> None:
    open_page(chromium, report)
    picture = "return document.querySelector('#chart-{} .role-frame').innerHTML"
    for select, chart in (
        ("#site", "scales"),
        ("[data-chart=histogram]", "histogram"),
        ("[data-chart=groups]", "groups"),
    ):
        before = chromium.execute_script(picture.format(chart))
        chromium.execute_script(
            "const s = document.querySelector(arguments[0]); s.selectedIndex = s.selectedIndex ? 0 : 1;"
            "s.dispatchEvent(new Event('change'))",
            select,
        )
        wait(chromium, picture.format(chart) + f" !== {json.dumps(before)}")


def test_zoom_and_back(chromium: Any, report: Path) -> None:
    open_page(chromium, report)
    labels = (
        "return [...document.querySelectorAll('#chart-scales .role-axis-label text')].map((t) => t.textContent).join()"
    )
    before = chromium.execute_script(labels)
    chromium.execute_script(
        "const svg = document.querySelector('#chart-scales svg');"
        "svg.scrollIntoView({block: 'center', behavior: 'instant'});"
        "const r = svg.getBoundingClientRect(), x = r.x + r.width / 2, y = r.y + r.height / 2;"
        "for (let i = 0; i < 4; i++) document.elementFromPoint(x, y).dispatchEvent(new WheelEvent('wheel',"
        "{deltaY: -200, ctrlKey: true, bubbles: true, cancelable: true, clientX: x, clientY: y}))"
    )
    wait(chromium, labels + f" !== {json.dumps(before)}")
    chromium.execute_script(
        "document.querySelector('#chart-scales').dispatchEvent(new MouseEvent('dblclick', {bubbles: true}))"
    )
    wait(chromium, labels + f" === {json.dumps(before)}")


def test_light_dark_and_print(chromium: Any, report: Path) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    grid = "return getComputedStyle(document.querySelector('#chart-scales .role-axis-grid line')).stroke"
    open_page(chromium, report)
    light = (chromium.execute_script(paper), chromium.execute_script(grid))
    assert light[0] == "rgb(255, 255, 255)"
    chromium.execute_script("document.getElementById('theme').click()")
    assert chromium.execute_script(paper) != light[0]
    assert chromium.execute_script(grid) != light[1]  # charts follow without being drawn again
    open_page(chromium, report, dark=True)
    assert chromium.execute_script(paper) == "rgb(20, 23, 28)"
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert chromium.execute_script(paper) == "rgb(255, 255, 255)"
    assert cut_off(chromium) == []
    pdf = chromium.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert len(pdf) > 50_000
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def cut_off(driver: Any) -> list[str]:
    """Charts of which a legend reaches beyond the picture."""
    found: list[str] = driver.execute_script(
        "return [...document.querySelectorAll('.chart')].filter((c) => [...c.querySelectorAll('.role-legend')].some("
        "(l) => l.getBoundingClientRect().right > c.querySelector('svg').getBoundingClientRect().right + 1))"
        ".map((c) => c.id)"
    )
    return found


def test_a_printed_table_breaks_no_word_into_letters(chromium: Any, report: Path) -> None:
    open_page(chromium, report, width=1040)  # a landscape page; wide tables are printed on such
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    chromium.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    crushed = chromium.execute_script(
        "const text = (c) => (c.querySelector('button') ?? c).firstChild ?? c;"
        "const lines = (c) => { const r = document.createRange(); r.selectNodeContents(text(c));"
        "return new Set([...r.getClientRects()].map((b) => Math.round(b.top))).size; };"
        "return [...document.querySelectorAll('td, th')].map((c) => [c.textContent.trim(), lines(c)])"
        ".filter(([text, n]) => n > text.split(/[\\s\\/]+/).length && text.length / n < 5)"
    )
    rows = chromium.execute_script(
        "return [...document.querySelectorAll('.verdicts .row p')].map((p) => p.offsetHeight)"
    )
    legends = chromium.execute_script("return document.querySelectorAll('.role-legend').length")
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert crushed == []
    assert min(rows) > 0
    assert legends > 8


def test_letters_of_printed_charts_are_as_large_as_on_the_screen(chromium: Any, report: Path) -> None:
    open_page(chromium, report)
    chromium.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    widths = (
        "return ['scales', 'samples', 'cost-map'].map((c) => document.querySelector(`#chart-${c} svg`).clientWidth)"
    )
    assert max(chromium.execute_script(widths)) <= 702  # what A4 is wide in pixels, less its margins
    chromium.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert min(chromium.execute_script(widths)) > 1100


def test_best_and_tied_are_seen_on_a_phone(chromium: Any, report: Path) -> None:
    open_page(chromium, report, width=375)
    right = (
        "return Math.max(...[...document.querySelectorAll('.first .tie')].map((c) => c.getBoundingClientRect().right))"
    )
    assert chromium.execute_script(right) <= 375


def test_legends_and_names_on_a_phone(chromium: Any, report: Path) -> None:
    open_page(chromium, report, width=375)
    assert cut_off(chromium) == []
    for chart in ("methods-formats", "difference-scale"):
        names = chromium.execute_script(
            f"return [...document.querySelectorAll('#chart-{chart} .role-axis-label text')].map((t) => t.textContent)"
        )
        assert not [name for name in names if "…" in name], chart
    chips = chromium.execute_script("return [...document.querySelectorAll('.chip')].map((c) => c.textContent.trim())")
    assert len(set(chips)) == len(chips)
    hidden = chromium.execute_script(
        "return [...document.querySelectorAll('.chips')].filter((c) => c.scrollHeight > c.clientHeight + 1).length"
    )
    assert hidden == 0


@pytest.mark.parametrize("which", ["report", "hostile"])
def test_no_sideways_scrolling_on_a_phone(chromium: Any, request: pytest.FixtureRequest, which: str) -> None:
    open_page(chromium, request.getfixturevalue(which), width=375)
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= 375
    wide = chromium.execute_script(
        "return [...document.querySelectorAll('body *')].filter((e) => !e.closest('.scroll') && !e.closest('svg') &&"
        "e.getBoundingClientRect().right > 376).map((e) => e.outerHTML.slice(0, 120))"
    )
    assert wide == []


def test_hostile_names_are_text(chromium: Any, hostile: Path) -> None:
    open_page(chromium, hostile)
    assert chromium.get_log("browser") == []
    assert chromium.title.startswith("Scales of ")
    assert chromium.execute_script("return document.images.length") == 0
    assert chromium.execute_script("return document.scripts.length") == 3
    text = chromium.execute_script("return document.body.textContent")
    for name in HOSTILE:
        assert name in text
    chips = chromium.execute_script("return [...document.querySelectorAll('[data-key=model]')].map((i) => i.value)")
    assert sorted(chips) == sorted(HOSTILE)
    before = marks(chromium, "scales")
    chromium.execute_script("document.querySelectorAll('[data-key=model]').forEach((i, n) => n && i.click())")
    wait(chromium, f"return {POINTS} === 4")  # two cells of one model, two layers
    assert before > marks(chromium, "scales")
