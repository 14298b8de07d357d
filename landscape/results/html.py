"""HTML of tables and pictures, for notebooks and reports."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING

from landscape.results.tables import Cell, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_ROWS = 12  # of a table
_PIXELS = (880, 600, 440, 300)  # longer side of a picture, the first that makes it small enough
_BYTES = 90_000  # of a picture
_COLOURS = 128
_STYLE = """<style>
.landscape-parts { display: flex; flex-wrap: wrap; gap: 1.5em; align-items: flex-start }
.landscape-parts > div { flex: 1 1 24em; min-width: 0; overflow-x: auto }
.landscape-parts > img { background: white; width: 440px; max-width: 100%; height: auto }
.landscape-result table { border-collapse: collapse; margin: 0 0 0.8em 0; font-size: 90% }
.landscape-result caption { text-align: left; font-style: italic }
.landscape-result th, .landscape-result td { text-align: left; vertical-align: top; padding: 0.1em 0.8em 0.1em 0 }
</style>"""


def card_html(heading: str, tables: Iterable[Table], draw: Callable[[], Figure]) -> str:
    """A heading, the picture that `draw` makes, and tables as one piece of HTML, which needs nothing beside it.

    Long tables are cut and say so. Names and what they stand for are folded away, but for a table that stands first and
    those that hold a number with an error. Where no picture can be drawn the reason stands in its place.
    """
    what: list[Table] = []
    numbers: list[Table] = []
    folded: list[Table] = []
    for place, table in enumerate(tables):
        measured = any(cell.stderr is not None for row in table.rows for cell in row)
        (numbers if measured or not table.pairs else folded if place else what).append(table)
    details = "".join(
        f"<details><summary>{escape(table.title)}</summary>{table_html(table, caption=False)}</details>"
        for table in folded
    )
    return (
        f'<div class="landscape-result">{_STYLE}<p><b>{escape(heading)}</b></p><div class="landscape-parts">'
        f"{_picture(heading, draw)}<div>{''.join(table_html(_cut(table)) for table in (*numbers, *what))}</div></div>"
        f"{details}</div>"
    )


def table_html(table: Table, *, caption: bool = True) -> str:
    """A table as HTML, every text escaped; cells carry their number as `data-value`, by which a page may sort."""
    head = "" if table.pairs else f"<thead><tr>{''.join(map(_heading, table.columns))}</tr></thead>"
    rows = "".join(_row(row, table.pairs) for row in table.rows)
    title = f"<caption>{escape(table.title)}</caption>" if caption else ""
    return f"<table>{title}{head}<tbody>{rows}</tbody></table>"


def _heading(name: str) -> str:
    return f'<th scope="col">{escape(name)}</th>'


def _row(row: tuple[Cell, ...], pairs: bool) -> str:
    cells = [f"<td{_number(cell)}>{escape(cell.text)}</td>" for cell in row]
    if pairs:
        cells[0] = f'<th scope="row">{escape(row[0].text)}</th>'
    return f"<tr>{''.join(cells)}</tr>"


def _number(cell: Cell) -> str:
    return "" if cell.value is None else f' data-value="{cell.value!r}"'


def _cut(table: Table) -> Table:
    if table.pairs or len(table.rows) <= _ROWS:
        return table
    more = (Cell(f"and {len(table.rows) - _ROWS} more"), *[Cell("")] * (len(table.columns) - 1))
    return replace(table, rows=(*table.rows[:_ROWS], more))


def _picture(heading: str, draw: Callable[[], Figure]) -> str:
    """The picture as an `img` on white, whatever the page's colours are; where there is none, why."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that cannot be drawn; the tables tell of them
            image = _png(draw())
    except Exception as error:  # a notebook shows the numbers even where the picture of them fails
        return f"<p><em>no picture: {escape(str(error) or type(error).__name__)}</em></p>"
    source = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    return f'<img src="{source}" alt="picture of {escape(heading)}">'


def _png(figure: Figure) -> bytes:
    """The figure as PNG of few colours, as fine as its size in bytes allows."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_PIXELS[0] / max(figure.get_size_inches()), facecolor="white")
    image = Image.open(drawn).convert("RGB")
    for pixels in _PIXELS:
        image.thumbnail((pixels, pixels))
        file = io.BytesIO()
        image.quantize(_COLOURS, dither=Image.Dither.NONE).save(file, format="png", optimize=True)
        if file.tell() <= _BYTES:
            break
    return file.getvalue()
