"""One HTML page of results: tables, interactive pictures and provenance in a single file that needs no network."""

from __future__ import annotations

import html
import json
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from landscape.arguments import checked
from landscape.errors import InputError, StoreError
from landscape.files.durable import write_durably
from landscape.files.provenance import engine_version, time_now
from landscape.pictures.views import Picture
from landscape.results.html import table_html
from landscape.results.kind import kind_of
from landscape.results.summary import result_tables
from landscape.results.tables import Cell, Table
from landscape_jobs.report.values import file_name, value_rows

LIMIT = 8_000_000  # bytes of a page

# Points of a picture and rows of its values: as many as the page has room for, the values thinned last
_SIZES = (
    (40_000, 50_000),
    (10_000, 50_000),
    (10_000, 10_000),
    (2_500, 10_000),
    (2_500, 1_000),
    (600, 1_000),
    (600, 100),
    (600, 20),
)
_ROWS = 1_000  # of a table that are shown; its CSV holds all
_ALL_ROWS = 20_000  # of a table's CSV
_MODELS = 3  # that a page's title names


@dataclass(frozen=True)
class Part:
    """One result of a page, and what is known of the run it is of."""

    result: Any = None  # None where there is nothing yet
    state: str = "complete"
    notes: tuple[str, ...] = ()  # what is missing, and what to do about it
    changes: Mapping[str, Any] | None = None  # of a sweep's cell: key -> value


@checked()
def write_report(results: Any, path: str | Path, *, title: str = "", notes: Sequence[str] = ()) -> Path:
    """Write one self-contained HTML page of results, at most 8 MB, and return its path.

    `results` is one result, or {name: result, or `Part`} of any kinds, a `Topology` too; `title` heads the page (by
    default the names), and `notes` stand below it. Pictures and then their values are thinned, and say so, where the
    page would be larger; of many results the last are rows of the first table alone. Raises InputError for no or other
    results and StoreError where the file cannot be written.
    """
    path = Path(path)
    named = dict(results) if isinstance(results, Mapping) else {title or "result": results}
    if not named:
        raise InputError("no result is given; a report is of one or more")
    parts = {str(n): part if isinstance(part, Part) else Part(part) for n, part in named.items()}
    for name, part in parts.items():
        if part.result is None:
            continue
        try:
            kind_of(part.result)
        except InputError as error:
            raise InputError(f"{name!r} cannot be reported: {error}") from None
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
    for size in _SIZES:
        page = _page(parts, tables, title, notes, size, left_out)
        if len(page.encode("utf-8")) <= LIMIT:
            return page
    while True:  # the smallest pictures are too many: the last sections go
        left_out = min(len(parts), max(left_out + 1, int(left_out * 1.5)))
        page = _page(parts, tables, title, notes, _SIZES[-1], left_out)
        if len(page.encode("utf-8")) <= LIMIT or left_out == len(parts):
            return page


def _page(
    parts: Mapping[str, Part],
    tables: Mapping[str, str],
    title: str,
    notes: Sequence[str],
    size: tuple[int, int],
    left_out: int,
) -> str:
    told = dict(list(parts.items())[: len(parts) - left_out])
    if len(parts) == 1:  # one notice, below the heading
        notes = [*notes, *(note for part in parts.values() for note in part.notes)]
        told = {name: replace(part, notes=()) for name, part in told.items()}
    pictures: list[dict[str, Any]] = []
    sections = "".join(
        _section(f"result-{k}", name, part, tables[name], size, pictures)
        for k, (name, part) in enumerate(told.items(), 1)
    )
    if left_out:
        lacking = f"The last {left_out} of {len(parts)} results have no section here, which keeps the page small"
        notes = [*notes, f"{lacking}; report them one by one."]
    return Template(_asset("page.html")).substitute(
        title=_text(title),
        about=_text(_about(parts)),
        notes=_notice(notes),
        overview=_overview(parts, len(told)) if len(parts) > 1 else "",
        sections=sections,
        written=_text(f"Written by loss-landscape-engine {engine_version()}, {time_now()[:16].replace('T', ' ')} UTC"),
        style=_asset("page.css"),
        script=_asset("page.js"),
        plotly=get_plotlyjs() if pictures else "",
        pictures=_json(pictures),
    )


def _notice(notes: Sequence[str]) -> str:
    return f'<p class="note">{_text(" ".join(notes))}</p>' if notes else ""


def _about(parts: Mapping[str, Part]) -> str:
    """What was measured, of which models and loss."""
    results = [part.result for part in parts.values() if part.result is not None]
    if not results:
        return "Loss landscape report"
    about = [result.attributes for result in results]
    kinds = dict.fromkeys(kind_of(result).words for result in results)
    models = dict.fromkeys(str(one["model"]) for one in about if one.get("model"))
    losses = dict.fromkeys(str(one["loss"]).replace("_", " ") for one in about if one.get("loss"))
    text = ", ".join(kinds)
    if 0 < len(models) <= _MODELS:
        text += f" of {', '.join(models)}"
    if len(losses) == 1:
        text += f", loss {next(iter(losses))}"
    return text[:1].upper() + text[1:]


def _section(
    place: str, name: str, part: Part, tables: str, size: tuple[int, int], pictures: list[dict[str, Any]]
) -> str:
    """One result: what is missing, its pictures, its tables; provenance folded."""
    body = [_notice(part.notes)]
    if part.result is not None:
        body += [f'<p class="lead">{_text(_said(part.result))}</p>']
        drawn = list(kind_of(part.result).views()(part.result, size[0]))
        for k, picture in enumerate(drawn):
            values, thin = value_rows(picture.values, size[1])
            file = file_name(name, picture.title)
            body.append(_figure(f"{place}-picture-{k + 1}", len(pictures), picture, thin))
            pictures.append({"views": dict(picture.views), "values": {"file": file, **values}})
        if not drawn:
            body.append('<p class="note">Nothing that could be drawn is known yet.</p>')
        body.append(tables)
    heading = f'<h2 id="{place}-name">{_text(name)}</h2>'
    return f'<section id="{place}" aria-labelledby="{place}-name">{heading}{"".join(body)}</section>'


def _tables(place: str, name: str, result: Any) -> str:
    if result is None:
        return ""
    tables = result_tables(result, "what was measured")
    return "".join(_table(f"{place}-table-{k}", name, table) for k, table in enumerate(tables, 1))


def _figure(place: str, number: int, picture: Picture, thin: str) -> str:
    alt = html.escape(picture.alt)
    title = _text(picture.title)
    values = (
        f'<details class="values"><summary>Values<span class="unseen"> of {title}</span></summary>'
        f'<p class="download"><button type="button">Download CSV<span class="unseen"> of the values of {title}</span>'
        f'</button> {_text(thin)}</p><div class="wide" role="region" tabindex="0" aria-label="values of {title}"></div>'
        '<p class="hint" aria-hidden="true">The table goes on to the right →</p></details>'
    )
    notes = "".join(f"<li>{_text(note)}</li>" for note in picture.notes)
    return (
        f'<figure id="{place}" class="picture" data-picture="{number}"><h3>{_text(picture.title)}</h3>'
        f'<div class="tools"></div><div class="plot" role="img" aria-label="{alt}"></div>'
        f'<p class="said" role="status"></p><figcaption>{alt}<ul>{notes}</ul></figcaption>{values}</figure>'
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
        f'<div class="wide" role="region" tabindex="0" aria-label="{title}">{inner}</div>'
        f'<p class="hint" aria-hidden="true">The table goes on to the right →</p>{more}{_download(name, table)}'
    )
    if table.title == "provenance":
        return f'<details id="{place}" class="table"><summary>Provenance</summary>{body}</details>'
    sort = "" if table.pairs or len(shown.rows) < 2 else " sortable"
    return f'<div id="{place}" class="table{sort}"><h3>{title}</h3>{body}</div>'


def _download(name: str, table: Table) -> str:
    """A link that holds the table as comma-separated text."""
    text = Table(table.title, table.columns, table.rows[:_ALL_ROWS]).to_csv()
    file = file_name(name, table.title)
    of = f" of the first {_ALL_ROWS:,} rows" if len(table.rows) > _ALL_ROWS else ""
    return (
        f'<p class="download"><a download="{file}" href="data:text/csv;charset=utf-8,'
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
    return (resources.files("landscape_jobs.report") / "assets" / name).read_text(encoding="utf-8")
