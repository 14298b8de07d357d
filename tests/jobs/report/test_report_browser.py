"""The report in a browser: nothing leaves the file, no error is told, and a reader finds and uses what is there."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import GUARD
from landscape_jobs.report.page import write_report
from test_report import agreement, bowl, connectivity, curve, layers, path, spectrum, surface, trajectory, with_holes

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
SLOW = 1000 * GUARD  # ms after which a browser counts as hanging
playwright.expect.set_options(timeout=SLOW)

RESULTS = {
    "surface": trajectory,
    "holes": with_holes,
    "spectrum": spectrum,
    "layers": layers,
    "path": path,
    "curve": curve,
    "pairs": connectivity,
    "agreement": agreement,
    "row": lambda: surface(bowl()[:1]),
}


@dataclass
class Reader:
    """A page somebody reads, with all that it asked for and complained of."""

    page: Any
    requests: list[str]
    complaints: list[str]

    def section(self, name: str) -> Any:
        """The section of a result, its pictures drawn."""
        section = self.page.get_by_role("region", name=name, exact=True)
        for figure in section.locator("figure.picture").all():
            figure.scroll_into_view_if_needed()
            playwright.expect(figure.locator(".main-svg").first).to_be_visible()
        return section


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if program is None:
        pytest.skip("needs Chromium on the path: apt-get install chromium")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=[*sandbox, "--disable-3d-apis"], timeout=SLOW)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of everything, its name with letters that an address cannot hold."""
    folder = tmp_path_factory.mktemp("a report ä #1")
    return write_report({name: make() for name, make in RESULTS.items()}, folder / "report.html", title="all of it")


def opened(browser: Any, file: Path, width: int, scheme: str) -> Reader:
    """A new page of that width and colour scheme."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(SLOW)
    reader = Reader(page, [], [])
    page.on("request", lambda request: reader.requests.append(request.url))
    page.on("pageerror", lambda error: reader.complaints.append(str(error)))
    page.on("console", lambda said: reader.complaints.append(said.text))
    page.goto(file.as_uri())
    return reader


@pytest.fixture(scope="module")
def reader(browser: Any, file: Path) -> Iterator[Reader]:
    """A wide page."""
    reader = opened(browser, file, 1280, "light")
    yield reader
    reader.page.close()


@pytest.fixture(scope="module")
def phone(browser: Any, file: Path) -> Iterator[Reader]:
    """A narrow page, of somebody who likes it dark."""
    reader = opened(browser, file, 390, "dark")
    yield reader
    reader.page.close()


def test_what_a_reader_finds_by_its_role(reader: Reader) -> None:
    page = reader.page
    assert page.get_by_role("heading", level=1).inner_text() == "all of it"
    assert page.get_by_role("heading", level=2).all_inner_texts() == list(RESULTS)
    assert (
        page.get_by_role("navigation", name="results").get_by_role("link", name="pairs").get_attribute("href")
        == "#result-7"
    )
    section = reader.section("layers")
    table = section.get_by_role("table", name=re.compile("value")).first
    assert table.get_by_role("columnheader").count() > 3
    assert section.get_by_role("img", name="largest eigenvalue is highest in block.conv2 (20)").count() == 1
    assert section.get_by_role("button", name="Download plot").count() == 1
    assert section.get_by_role("button", name=re.compile("share|cloud|upload", re.IGNORECASE)).count() == 0
    link = section.get_by_role("link", name="Download CSV").first
    with page.expect_download() as download:
        link.click()
    assert download.value.suggested_filename.endswith(".csv")
    assert "model,net" in Path(download.value.path()).read_text().replace('"', "")


def test_a_table_sorts_by_keyboard(reader: Reader) -> None:
    section = reader.section("layers")
    table = section.locator(".sortable table").first
    heading = table.get_by_role("columnheader", name=re.compile("largest"))
    names = lambda: [row.inner_text().split("\t")[0] for row in table.locator("tbody tr").all()]  # noqa: E731
    assert names() == ["block.conv1", "block.conv2", "head"]
    heading.get_by_role("button").focus()
    reader.page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert names() == ["block.conv1", "block.conv2", "head"]  # what has no number comes last
    reader.page.keyboard.press("Space")
    assert heading.get_attribute("aria-sort") == "descending"
    assert names()[1:] == ["block.conv2", "block.conv1"]
    other = table.get_by_role("columnheader", name=re.compile("layer"))
    other.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") is None
    assert names() == ["block.conv1", "block.conv2", "head"]


def test_hovering_tells_coordinates_value_and_error(reader: Reader) -> None:
    section = reader.section("surface")
    area = section.locator(".nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    reader.page.mouse.move(box["x"] + 0.625 * box["width"], box["y"] + 0.5 * box["height"])
    label = section.locator(".hovertext").first
    playwright.expect(label).to_contain_text("x = 0.25, y = 0")
    playwright.expect(label).to_contain_text("loss 1.25 ± 0.12")
    holes = reader.section("holes")
    area = holes.locator(".nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    reader.page.mouse.move(box["x"] + 0.95 * box["width"], box["y"] + 0.5 * box["height"])
    playwright.expect(holes.locator(".hovertext").first).to_contain_text("not computed")


def test_contours_and_their_scale(reader: Reader) -> None:
    section = reader.section("surface")
    assert section.locator(".contourlayer .contourlevel").count() > 8
    assert section.locator(".scatterlayer .trace").count() == 2  # the centre, and the trajectory
    scale = section.get_by_role("button", name="Log scale")
    assert scale.get_attribute("aria-pressed") == "false"
    ticks = section.locator(".cbaxis text")
    linear = ticks.all_text_contents()
    scale.press("Enter")
    assert scale.get_attribute("aria-pressed") == "true"
    assert linear == ["2.4", "4", "5.6", "7.2", "8.8"]
    assert ticks.all_text_contents() != linear
    section.get_by_role("combobox").select_option("accuracy")
    playwright.expect(scale).to_have_attribute("aria-pressed", "false")
    section.get_by_role("combobox").select_option("loss")
    playwright.expect(scale).to_have_attribute("aria-pressed", "true")  # as it was chosen
    section.get_by_role("combobox").select_option("accuracy")
    playwright.expect(section.locator(".cbtitle-container, .cbtitle").first).to_contain_text("accuracy")
    assert reader.section("holes").get_by_role("button", name="Log scale").is_visible()
    assert reader.section("holes").locator("pattern").count() >= 2  # hatches


def test_the_values_of_a_picture_by_keyboard(reader: Reader) -> None:
    section = reader.section("holes")
    values = section.locator("details.values")
    assert section.locator(".modebar-btn").first.get_attribute("tabindex") == "-1"
    values.locator("summary").press("Enter")
    rows = values.get_by_role("row")
    playwright.expect(rows).to_have_count(1 + 63)
    assert [cell.inner_text() for cell in rows.nth(1).get_by_role("cell").all()][2:] == ["NaN", "", "true"]
    with reader.page.expect_download() as download:
        values.get_by_role("button", name="Download CSV").press("Enter")
    assert download.value.suggested_filename == "holes-surface.csv"
    text = Path(download.value.path()).read_text().splitlines()
    assert (len(text), text[0]) == (64, '"x","y","loss","loss_stderr","computed"')
    assert '"Inf"' in text[2]
    values.locator("summary").press("Enter")


@pytest.mark.parametrize(("name", "because"), [("surface", "WebGL"), ("row", "two points or more")])
def test_where_3d_cannot_be_shown_the_contours_stay_and_it_says_why(reader: Reader, name: str, because: str) -> None:
    section = reader.section(name)
    section.get_by_role("button", name="3-D").click()
    playwright.expect(section.get_by_role("status")).to_contain_text(because)
    assert section.locator(".main-svg").first.is_visible()
    section.get_by_role("button", name="3-D").click()
    playwright.expect(section.get_by_role("status")).to_have_text("")


def test_keyboard_reaches_the_results_and_is_seen(phone: Reader) -> None:
    page = phone.page
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the results")
    playwright.expect(skip).to_be_focused()
    assert skip.bounding_box()["x"] >= 0
    page.keyboard.press("Tab")
    assert page.evaluate("() => getComputedStyle(document.activeElement).outlineWidth") == "3px"
    skip.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "content"


def test_a_phone_scrolls_downwards_alone(phone: Reader) -> None:
    for name in RESULTS:
        phone.section(name)
    assert phone.page.evaluate("() => document.documentElement.scrollWidth") == 390
    wide = phone.section("layers").locator(".sortable .wide").first
    assert "goes-on" in str(wide.get_attribute("class"))
    playwright.expect(phone.section("layers").locator(".goes-on + .hint").first).to_be_visible()
    ends = "(all) => all.map((picture) => picture.getBoundingClientRect().right)"
    assert max(phone.page.locator(".plot .main-svg").evaluate_all(ends)) <= 390


def test_light_and_dark(reader: Reader) -> None:
    page = reader.page
    ground = "() => getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)"
    axis = "() => getComputedStyle(document.querySelector('.xtick text')).fill"
    button = page.get_by_role("button", name="Dark")
    light, ink = page.evaluate(ground), page.evaluate(axis)
    assert min(light) > 200
    assert button.get_attribute("aria-pressed") == "false"
    button.press("Enter")
    assert max(page.evaluate(ground)) < 60
    assert page.evaluate(axis) != ink
    assert button.get_attribute("aria-pressed") == "true"
    button.press("Enter")
    assert page.evaluate(ground) == light


def test_a_printed_page_is_light_whole_and_static(phone: Reader) -> None:
    page = phone.page
    page.emulate_media(media="print")
    page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("() => document.documentElement.dataset.theme") == "light"
    assert page.locator("details:not([open], .values)").count() == 0
    seen = "(figure) => [figure.querySelector('.main-svg').clientWidth, figure.querySelector('.tools').clientHeight]"
    figures = page.locator("figure.picture").evaluate_all(f"(all) => all.map({seen})")
    assert len(figures) > len(RESULTS)
    assert {tuple(one) for one in figures} == {(640, 0)}
    assert not page.get_by_role("link", name="Download CSV").first.is_visible()
    page.emulate_media(media="screen")
    page.evaluate("() => window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("() => document.documentElement.dataset.theme") == "dark"
    assert page.locator("details[open]").count() == 0


def test_nothing_left_the_file_and_nothing_was_complained_of(reader: Reader, phone: Reader) -> None:
    """Last, after all that the tests above did."""
    for one in (reader, phone):
        for name in RESULTS:
            assert one.section(name).locator(".main-svg").count() > 0, name
        assert one.complaints == []
        assert {url.partition(":")[0] for url in one.requests} <= {"file", "data", "blob"}
        assert sum(url.startswith("file") for url in one.requests) == 1
