"""What every benchmark shares: a row, how two ways are timed by turns, how rows are shown.

A benchmark's `main` gives its rows to `show`. `all` reads them back from `--json`, one object a line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import Literal

import msgspec
from rich.console import Console
from rich.table import Table


class Mark(msgspec.Struct, frozen=True):
    """A limit, on the ratio or on our own figure (in the row's unit)."""

    on: Literal["ratio", "ours"]
    sign: Literal[">=", "<="]
    limit: float

    def __str__(self) -> str:
        return f"{self.sign} {self.limit:g}" + ("x" if self.on == "ratio" else "")

    def met(self, row: Row) -> bool | None:
        """None where the figure was not measured."""
        figure = row.ratio if self.on == "ratio" else row.ours
        if figure is None:
            return None
        return figure >= self.limit if self.sign == ">=" else figure <= self.limit


class Row(msgspec.Struct, frozen=True):
    """One line of the table. `ratio` says how many times better ours is than the reference, unless `note` says otherwise."""

    name: str
    unit: str
    reference: float | None
    ours: float | None
    ratio: float | None = None
    mark: Mark | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        return None if self.mark is None else self.mark.met(self)


def at_least(times: float) -> Mark:
    """The ratio is no less than this."""
    return Mark("ratio", ">=", times)


def at_most(figure: float) -> Mark:
    """Our own figure is no more than this."""
    return Mark("ours", "<=", figure)


def by_turns(*ways: Callable[[], object], rounds: int = 5) -> list[list[float]]:
    """Seconds of every way in every round, taken A B A B; a first round that nobody times warms both up."""
    for way in ways:
        way()
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, taken in zip(ways, seconds, strict=True):
            began = time.perf_counter()
            way()
            taken.append(time.perf_counter() - began)
    return seconds


def faster(name: str, reference: list[float], ours: list[float], mark: Mark | None = None, note: str = "") -> Row:
    """A row of two lists of seconds: medians, how many times faster ours is, and how far the rounds lie apart."""
    before, after = median(reference), median(ours)
    return Row(name, "s", before, after, before / after, mark, joined(note, f"reference {spread(reference)}, ours {spread(ours)}"))


def spread(figures: list[float]) -> str:
    """The least and the greatest of several rounds."""
    return f"{min(figures):.3g} to {max(figures):.3g}"


def joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def show(rows: Iterable[Row]) -> None:
    """A table, or with `--json` one object a line as soon as each row is there."""
    if "--json" in sys.argv:
        for row in rows:
            print(msgspec.json.encode(msgspec.to_builtins(row) | {"met": row.met}).decode(), flush=True)
        return
    rows = list(rows)
    table = Table("row", "unit", *HEADINGS, box=None, header_style="bold", pad_edge=False)
    for column in table.columns[2:5]:
        column.justify = "right"
    for row in rows:
        table.add_row(row.name, row.unit, *cells(row))
    console = Console(markup=False, highlight=False)
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"{row.name}: {row.note}", style="dim")


HEADINGS = ("reference", "ours", "ratio", "mark", "reached")


def cells(row: Row) -> tuple[str, str, str, str, str]:
    """The texts under HEADINGS; an empty one where nothing was measured or asked for."""
    reached = {True: "met", False: "missed", None: ""}[row.met]
    ratio = "" if row.ratio is None else f"{number(row.ratio)}x"
    return number(row.reference), number(row.ours), ratio, "" if row.mark is None else str(row.mark), reached


def number(figure: float | None) -> str:
    """Three digits that count, thousands apart: 0.0123, 4.56, 12,300."""
    if figure is None:
        return ""
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"
