"""The IoU of every class after the last validation, with its change, its best so far, accuracy and support."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich import box
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from engine.events import Number, Validation
from engine.palette import class_colours
from tui.headless_view import shown_change, shown_score
from tui.themes import change_style

ORDERS = ("class", "IoU", "change", "pixels")
BAR_CELLS = 10


class IoUTable(VerticalScroll, can_focus=True):
    """`o` goes through the orders: as the classes are, worst IoU first, greatest loss first, most pixels first."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("o", "order", "Sort classes", id="iou.order"),
        Binding("j", "scroll_down", "Down", show=False),
        Binding("k", "scroll_up", "Up", show=False),
    ]
    DEFAULT_CSS = "IoUTable { height: 1fr; } IoUTable > Static { width: 1fr; height: auto; }"

    def __init__(self) -> None:
        super().__init__()
        self._names: Sequence[str] = ()
        self._validations: Sequence[Validation] = ()
        self._order = 0

    def compose(self) -> ComposeResult:
        yield Static("no validation yet")

    def show(self, classes: Sequence[str], validations: Sequence[Validation]) -> None:
        self._names, self._validations = classes, validations
        self._draw()

    def action_order(self) -> None:
        self._order = (self._order + 1) % len(ORDERS)
        self._draw()

    def _draw(self) -> None:
        static = self.query_one(Static)
        static.update(self._table() if self._validations else "no validation yet")

    def _table(self) -> Table:
        last = self._validations[-1]
        before = self._validations[-2] if len(self._validations) > 1 else None
        pixels = max(sum(last.support), 1)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), expand=True)
        table.add_column("class" + _mark(self._order == 0), overflow="ellipsis", no_wrap=True, ratio=1, min_width=8)
        for name in ("IoU", "change", "best", "acc", "pixels"):
            table.add_column(name + _mark(ORDERS[self._order] == name), justify="right", no_wrap=True)
        table.add_column("", width=BAR_CELLS)
        colours = class_colours(list(self._names))
        for index in self._in_order(last, before):
            iou, change = last.IoU[index], _change(last, before, index)
            colour = "rgb({},{},{})".format(*colours[index])
            best = max((each.IoU[index] or 0.0 for each in self._validations), default=0.0)
            table.add_row(
                Text.assemble(("■ ", colour), self._names[index]),
                Text(shown_score(iou) if iou is not None else "not seen", style="bold" if iou is not None else "dim"),
                Text(shown_change(change), style=change_style(change)),
                Text(shown_score(best), style="dim"),
                shown_score(last.class_acc[index]),
                f"{last.support[index] / pixels:.1%}",
                Text("█" * round(min(iou or 0, 1) * BAR_CELLS), style=colour),
            )
        return table

    def _in_order(self, last: Validation, before: Validation | None) -> list[int]:
        indices = list(range(len(self._names)))
        match ORDERS[self._order]:
            case "IoU":
                return sorted(indices, key=lambda index: _or(last.IoU[index], 2.0))
            case "change":
                return sorted(indices, key=lambda index: _or(_change(last, before, index), 2.0))
            case "pixels":
                return sorted(indices, key=lambda index: -last.support[index])
        return indices


def _change(last: Validation, before: Validation | None, index: int) -> Number:
    if before is None or before.IoU[index] is None or last.IoU[index] is None:
        return None
    return (last.IoU[index] or 0.0) - (before.IoU[index] or 0.0)


def _or(value: Number, instead: float) -> float:
    return instead if value is None else value


def _mark(is_order: bool) -> str:
    return " ▾" if is_order else ""
