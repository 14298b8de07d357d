"""Results as HTML: a picture, numbers and provenance, for a notebook of any theme."""

from __future__ import annotations

import base64
import functools
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from made import ABOUT, EVERY, KINDS
from matplotlib.figure import Figure
from PIL import Image

import landscape as ls
from landscape.results.html import card_html, table_html
from landscape.results.tables import Cell, Table, number, pairs_table

VOID = {"img", "br"}


class Page(HTMLParser):
    """Tags, attributes and texts; fails where tags are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.folded: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.folded if "details" in self.open else self.texts).append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def coarse(figure: Figure) -> bytes:
    """Everything in the figure drawn, in a third of the time that its layout and a fine picture take."""
    file = io.BytesIO()
    figure.set_layout_engine("none")
    figure.savefig(file, format="png", dpi=30)
    return file.getvalue()


@functools.cache
def shown(kind: str, case: str) -> str:
    """The card, with the picture as users have it where the case is whole."""
    with pytest.MonkeyPatch.context() as patch:
        if case != "whole":
            patch.setattr("landscape.results.html._png", coarse)
        return str(KINDS[kind](case)._repr_html_())


def figure() -> Figure:
    made = Figure(figsize=(4, 3))
    made.add_subplot().plot([0, 1])
    return made


# -- tables ----------------------------------------------------------------------------------------------------------


def test_a_table_is_escaped_and_carries_its_numbers() -> None:
    found = table_html(Table("a & b", ("<x>", "n"), ((Cell("<script>"), number(0.1, 3, 0.5)),)))
    read = Page(found)
    assert "<script>" in read.texts
    assert "<x>" in read.texts
    assert [cell.get("data-value") for cell in read.of("td")] == [None, "0.1"]
    assert [heading["scope"] for heading in read.of("th")] == ["col", "col"]
    assert "a & b" in read.texts
    assert "a & b" not in Page(table_html(pairs_table("a & b", {"x": 1}), caption=False)).texts
    assert [heading["scope"] for heading in Page(table_html(pairs_table("t", {"x": 1}))).of("th")] == ["row"]


# -- cards -----------------------------------------------------------------------------------------------------------


def test_a_surface_shows_its_picture_its_numbers_and_where_it_is_from() -> None:
    surface = KINDS["surface"]("whole")
    read = Page(shown("surface", "whole"))
    [image] = read.of("img")
    assert image["alt"] == f"picture of {surface!r}"
    assert image["src"] is not None
    kind, _, data = image["src"].partition(",")
    assert kind == "data:image/png;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    assert picture.getpixel((2, 2)) == (255, 255, 255)  # white of its own, on a dark page too
    assert len(picture.getcolors(1 << 20) or []) > 10
    assert "0.25 +- 0.0025" in read.texts
    assert {"plane", "provenance", "node7"} <= set(read.folded)
    assert "node7" not in read.texts
    assert "ValueError: no such <luck>" in read.texts


@pytest.mark.parametrize(("kind", "case"), EVERY)
def test_anything_is_shown_and_small(kind: str, case: str) -> None:
    result = KINDS[kind](case)
    assert len(shown(kind, case)) < 200_000
    read = Page(shown(kind, case))
    assert repr(result) in read.texts
    assert "provenance" in read.folded
    reasons = [text for text in read.texts if text.startswith("no picture: ")]
    assert len(read.of("img")) + len(reasons) == 1
    if case in ("whole", "one", "row", "constant"):
        assert read.of("img")
    if case == "masked" and kind in ("spectrum", "curve", "connectivity"):
        assert reasons


def test_a_picture_that_fails_leaves_its_reason() -> None:
    def failing() -> Figure:
        raise ZeroDivisionError("drawn <badly>")

    read = Page(card_html("a < b", [pairs_table("what", {"x": 1})], failing))
    assert "no picture: drawn <badly>" in read.texts
    assert "a < b" in read.texts
    assert not read.of("img")


def test_what_is_open_what_is_folded_and_what_is_cut() -> None:
    rows = tuple((Cell(f"row {k}"), number(k)) for k in range(40))
    tables = [
        pairs_table("what", {"x": "first"}),
        pairs_table("plane", {"y": "folded"}),
        pairs_table("trace", {"z": number(1.0, stderr=0.5)}),
        Table("many", ("name", "n"), rows),
    ]
    read = Page(card_html("h", tables, figure))
    assert {"first", "1 +- 0.5", "row 0"} <= set(read.texts)
    assert read.folded[:2] == ["plane", "y"]
    assert "row 39" not in read.texts
    assert "and 28 more" in read.texts


def test_a_picture_of_noise_is_made_small() -> None:
    x = np.linspace(-1, 1, 120)
    loss = np.random.default_rng(0).normal(size=(120, 120))
    noise = ls.Surface({"x": x, "y": x}, {"loss": loss}, {"loss": loss}, np.ones(loss.shape, dtype=bool), None, ABOUT)
    small = str(noise._repr_html_())
    assert len(small) < 200_000
    assert '<img src="data:image/png' in small


def test_nothing_is_fetched_and_nothing_runs() -> None:
    for kind in KINDS:
        assert not re.search(r"<script|<link|https?://|url\(|@import|\son\w+=", shown(kind, "whole")), kind
