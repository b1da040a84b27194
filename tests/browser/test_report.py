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
        {"layer": i, "only": {"perplexity": 8.0 + i / 10}, "all_but": {"perplexity": 9 - i / 10}} for i in range(6)
    ]
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
    "sqnr-alpha", "scales", "difference-scale", "difference-sqnr", "histogram", "gain", "samples", "groups",
    "sensitivity",
)  # fmt: skip


def test_opens_from_disk_without_network_or_errors(chromium: Any, report: Path) -> None:
    open_page(chromium, report)
    assert chromium.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith("data:")} == {report.as_uri()}


def test_is_small_and_quick(chromium: Any, report: Path) -> None:
    assert report.stat().st_size <= 6e6
    assert min(open_page(chromium, report) for _ in range(3)) <= 2.0


@pytest.mark.parametrize("chart", CHARTS)
def test_every_chart_has_marks(chromium: Any, report: Path, chart: str) -> None:
    open_page(chromium, report)
    assert marks(chromium, chart) > 5
    box = chromium.execute_script(f"return document.querySelector('#chart-{chart} svg').getBoundingClientRect().width")
    assert box > 700


def test_hover_tells_the_value(chromium: Any, report: Path) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    open_page(chromium, report)
    point = chromium.find_elements(By.CSS_SELECTOR, "#chart-scales .mark-symbol path")[3]
    chromium.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", point)
    # a hand does not jump: the first event after a scroll may still be answered with the old layout
    ActionChains(chromium).move_to_element(point).move_by_offset(2, 0).move_by_offset(-2, 0).perform()
    wait(chromium, "return !document.getElementById('tip').hidden")
    text = chromium.find_element(By.ID, "tip").text
    assert "percentile" in text
    assert "scale" in text


def test_cells_leave_every_chart(chromium: Any, report: Path) -> None:
    open_page(chromium, report)
    before = {chart: marks(chromium, chart) for chart in ("scales", "difference-scale", "samples")}
    chromium.execute_script("document.querySelectorAll('.chip input')[0].click()")
    wait(chromium, f"return document.querySelectorAll('#chart-scales .mark-symbol path').length < {before['scales']}")
    for chart, count in before.items():
        assert marks(chromium, chart) < count or chart == "difference-scale"
    chromium.execute_script("document.querySelector('[data-all=\"\"]').click()")
    wait(chromium, "return document.querySelectorAll('#chart-scales .mark-symbol path').length === 0")
    chromium.execute_script("document.querySelector('[data-all=\"1\"]').click()")
    wait(chromium, "return document.querySelectorAll('#chart-scales .mark-symbol path').length > 0")
    assert marks(chromium, "scales") == before["scales"]


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
    pdf = chromium.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert len(pdf) > 50_000
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


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
    chips = chromium.execute_script("return [...document.querySelectorAll('.chip input')].map((i) => i.value)")
    assert all(any(name in chip for chip in chips) for name in HOSTILE)
    before = marks(chromium, "scales")
    chromium.execute_script("document.querySelectorAll('.chip input').forEach((i, n) => n && i.click())")
    wait(chromium, "return document.querySelectorAll('#chart-scales .mark-symbol path').length === 2")
    assert before > marks(chromium, "scales")
