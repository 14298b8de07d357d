"""One HTML page of results: tables, interactive pictures and provenance in a single file that needs no network."""

from __future__ import annotations

import html
import json
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from types import NoneType
from typing import Any, get_args

from plotly.offline import get_plotlyjs

from landscape.errors import InputError, StoreError
from landscape.files import write_durably
from landscape.html import table_html
from landscape.opening import Result
from landscape.provenance import engine_version, time_now
from landscape.summary import result_tables
from landscape.tables import Cell, Table
from landscape_jobs.report_lines import pictures_of
from landscape_jobs.report_pictures import Picture

LIMIT = 8_000_000  # bytes of a page

_POINTS = (40_000, 10_000, 2_500, 600)  # of a picture: as many as the page has room for
_ROWS = 1_000  # of a table that are shown; its CSV holds all
_ALL_ROWS = 20_000  # of a table's CSV


@dataclass(frozen=True)
class Part:
    """One result of a page, and what is known of the run it is of."""

    result: Any = None  # None where there is nothing yet
    state: str = "complete"
    notes: tuple[str, ...] = ()  # what is missing, and what to do about it
    changes: Mapping[str, Any] | None = None  # of a sweep's cell: key -> value


def write_report(results: Any, path: str | Path, *, title: str = "", notes: Sequence[str] = ()) -> Path:
    """Write one self-contained HTML page of results, at most 8 MB, and return its path.

    `results` is one result, or {name: result, or `Part`} of any kinds; `title` heads the page (by default the names),
    and `notes` stand below it. Pictures are thinned, and say so, where the page would be larger; of many results the
    last are rows of the first table alone. Raises InputError for no or other results and StoreError where the file
    cannot be written.
    """
    path = Path(path)
    named = dict(results) if isinstance(results, Mapping) else {title or "result": results}
    if not named:
        raise InputError("no result is given; a report is of one or more")
    parts = {str(n): part if isinstance(part, Part) else Part(part) for n, part in named.items()}
    for name, part in parts.items():
        if not isinstance(part.result, (*get_args(Result), NoneType)):
            kinds = ", ".join(kind.__name__ for kind in get_args(Result))
            raise InputError(
                f"{name!r} is a {type(part.result).__name__}, which a report does not know; known: {kinds}"
            )
    page = report_html(parts, title or ", ".join(parts), notes)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, page.encode("utf-8"))
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error}. Free space, or name a file where you may write with -o FILE.html."
        ) from error
    return path


def report_html(parts: Mapping[str, Part], title: str, notes: Sequence[str] = ()) -> str:
    """The page as text, of fewer than `LIMIT` bytes."""
    tables = {name: _tables(f"result-{k}", name, part.result) for k, (name, part) in enumerate(parts.items(), 1)}
    left_out = 0
    for points in _POINTS:
        page = _page(parts, tables, title, notes, points, left_out)
        if len(page.encode("utf-8")) <= LIMIT:
            return page
    while True:  # the smallest pictures are too many: the last sections go
        left_out = min(len(parts), max(left_out + 1, int(left_out * 1.5)))
        page = _page(parts, tables, title, notes, _POINTS[-1], left_out)
        if len(page.encode("utf-8")) <= LIMIT or left_out == len(parts):
            return page


def _page(
    parts: Mapping[str, Part],
    tables: Mapping[str, str],
    title: str,
    notes: Sequence[str],
    points: int,
    left_out: int,
) -> str:
    told = dict(list(parts.items())[: len(parts) - left_out])
    pictures: list[Picture] = []
    sections = "".join(
        _section(f"result-{k}", name, part, tables[name], points, pictures)
        for k, (name, part) in enumerate(told.items(), 1)
    )
    if left_out:
        lacking = f"The last {left_out} of {len(parts)} results have no section here, which keeps the page small"
        notes = [*notes, f"{lacking}; report them one by one."]
    views = [{"views": dict(picture.views)} for picture in pictures]
    return Template(_asset("page.html")).substitute(
        title=_text(title),
        notes="".join(f'<p class="note">{_text(note)}</p>' for note in notes),
        overview=_overview(parts, len(told)) if len(parts) > 1 else "",
        sections=sections,
        written=_text(f"Written by loss-landscape-engine {engine_version()}, {time_now()[:16].replace('T', ' ')} UTC"),
        style=_asset("page.css"),
        script=_asset("page.js"),
        plotly=get_plotlyjs() if pictures else "",
        pictures=_json(views),
    )


def _section(place: str, name: str, part: Part, tables: str, points: int, pictures: list[Picture]) -> str:
    """One result: what is missing, its pictures, its tables; provenance folded."""
    body = [f'<p class="note">{_text(note)}</p>' for note in part.notes]
    if part.result is not None:
        body += [f'<p class="lead">{_text(_said(part.result))}</p>']
        drawn = list(pictures_of(part.result, points))
        for k, picture in enumerate(drawn):
            body.append(_figure(f"{place}-picture-{k + 1}", len(pictures), picture))
            pictures.append(picture)
        if not drawn:
            body.append('<p class="note">Nothing that could be drawn is known yet.</p>')
        body.append(tables)
    heading = f'<h2 id="{place}-name">{_text(name)}</h2>'
    return f'<section id="{place}" aria-labelledby="{place}-name">{heading}{"".join(body)}</section>'


def _tables(place: str, name: str, result: Any) -> str:
    tables = [] if result is None else result_tables(result, "what was measured")
    return "".join(_table(f"{place}-table-{k}", name, table) for k, table in enumerate(tables, 1))


def _figure(place: str, number: int, picture: Picture) -> str:
    alt = html.escape(picture.alt)
    notes = "".join(f"<li>{_text(note)}</li>" for note in picture.notes)
    return (
        f'<figure id="{place}" class="picture" data-picture="{number}"><h3>{_text(picture.title)}</h3>'
        f'<div class="tools"></div><div class="plot" role="img" aria-label="{alt}"></div>'
        f'<p class="said" role="status"></p><figcaption>{alt}<ul>{notes}</ul></figcaption></figure>'
    )


def _table(place: str, name: str, table: Table) -> str:
    shown = Table(table.title, table.columns, table.rows[:_ROWS])
    more = f'<p class="note">The first {_ROWS:,} of {len(table.rows):,} rows.</p>' if len(table.rows) > _ROWS else ""
    title = _text(table.title.replace(" +- ", " ± "))
    # the title stands above what scrolls sideways, and is the table's name
    inner = (
        table_html(shown, caption=False).replace(" +- ", " ± ").replace("<table>", f'<table aria-label="{title}">', 1)
    )
    body = (
        f'<div class="wide" role="region" tabindex="0" aria-label="{title}">{inner}</div>{more}{_download(name, table)}'
    )
    if table.title == "provenance":
        return f'<details id="{place}" class="table"><summary>Provenance</summary>{body}</details>'
    sort = "" if table.pairs or len(shown.rows) < 2 else " sortable"
    return f'<div id="{place}" class="table{sort}"><h3>{title}</h3>{body}</div>'


def _download(name: str, table: Table) -> str:
    """A link that holds the table as comma-separated text."""
    text = Table(table.title, table.columns, table.rows[:_ALL_ROWS]).to_csv()
    file = re.sub(r"[^\w.-]+", "-", f"{name}-{table.title}").strip("-")[:80] or "table"
    of = f" of the first {_ALL_ROWS:,} rows" if len(table.rows) > _ALL_ROWS else ""
    return (
        f'<p class="download"><a download="{html.escape(file)}.csv" href="data:text/csv;charset=utf-8,'
        f'{urllib.parse.quote(text)}">Download CSV<span class="unseen"> of {_text(table.title)}</span>{of}</a></p>'
    )


def _overview(parts: Mapping[str, Part], told: int) -> str:
    """A line for each result with a link to its section; of a sweep what each cell changes."""
    keys = list(dict.fromkeys(key for part in parts.values() for key in part.changes or {}))
    columns = ("result", *keys, "state", "what")
    rows = tuple(
        (
            Cell(name),
            *(_cell((part.changes or {}).get(key, "")) for key in keys),
            Cell(part.state),
            Cell("nothing yet" if part.result is None else _said(part.result)),
        )
        for name, part in parts.items()
    )
    table = Table("results on this page", columns, rows)
    page = _table("overview", "report", table)
    names = iter(enumerate(parts, 1))

    def link(row: re.Match[str]) -> str:
        k, _ = next(names)
        return f'<tr><td><a href="#result-{k}">{row[1]}</a></td>' if k <= told else row[0]

    linked = re.sub(r"<tr><td>(.*?)</td>", link, page, flags=re.DOTALL)
    return f'<nav aria-label="results">{linked}</nav>'


def _said(result: Any) -> str:
    """A result in a line: what it is, and what it holds."""
    kind, _, held = repr(result).partition("(")
    return f"{kind}: {held.removesuffix(')')}".replace(" +- ", " ± ")


def _cell(value: Any) -> Cell:
    number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    return Cell(str(value), number)


def _text(text: str) -> str:
    return html.escape(str(text))


def _json(value: Any) -> str:
    """JSON that can stand inside a script element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _asset(name: str) -> str:
    return (resources.files("landscape_jobs") / "report_page" / name).read_text(encoding="utf-8")
