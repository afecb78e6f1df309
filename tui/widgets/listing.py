"""A long list with columns and a cursor. Only the lines in sight are made, so ten thousand rows cost what forty do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click, Resize
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

Cell = tuple[str, str]
"""A text, and its style (rich's)."""
HEAD = 1
"""Lines above the rows: the names of the columns."""
GAP = 2
"""Cells between columns."""


@dataclass(frozen=True)
class Column:
    """`width` in cells. A column that `grows_to` more takes what the others leave; of those there is one at most.

    `at` is the width of the list, in cells, from which on the column is shown.
    """

    name: str
    width: int
    right: bool = False
    at: int = 0
    grows_to: int = 0


class Listing(ScrollView, can_focus=True):
    """Rows are known by their keys; `cells` makes the cells of one, a cell for each column, shown or not."""

    class Highlighted(Message):
        """The cursor is on another row."""

    class Selected(Message):
        """The row under the cursor was clicked."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1)", "Down", show=False, id="listing.down"),
        Binding("up,k", "move(-1)", "Up", show=False, id="listing.up"),
        Binding("pagedown,ctrl+d", "page(1)", "Page down", show=False, id="listing.page_down"),
        Binding("pageup,ctrl+u", "page(-1)", "Page up", show=False, id="listing.page_up"),
        Binding("home,g,ctrl+home", "edge(0)", "First", show=False, id="listing.first"),
        Binding("end,G,ctrl+end", "edge(-1)", "Last", show=False, id="listing.last"),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"listing--head", "listing--cursor"}
    DEFAULT_CSS = """
    Listing { height: 1fr; background: $background; overflow-x: hidden; padding: 0; }
    Listing > .listing--head { background: $panel; color: $foreground; text-style: bold; }
    Listing > .listing--cursor { background: $block-cursor-blurred-background; color: $block-cursor-blurred-foreground; }
    Listing:focus > .listing--cursor {
        background: $block-cursor-background; color: $block-cursor-foreground; text-style: $block-cursor-text-style;
    }
    """

    def __init__(self, columns: Sequence[Column], cells: Callable[[str], Sequence[Cell]]) -> None:
        super().__init__()
        self.columns, self.cells = columns, cells
        self.keys: Sequence[str] = ()
        self.cursor_row = 0
        self._order = ""
        self._drawn: list[Sequence[Cell]] = []

    def show(self, keys: Sequence[str], order: str = "", *, is_whole: bool = True) -> None:
        """These rows, in this order; the cursor stays with its row. `order` is the column that they are ordered by.

        Until the list is whole, a cursor on the first row stays there, whichever row that is.
        """
        before, at = self.selected if is_whole or self.cursor_row else None, self.cursor_row
        same = keys == self.keys and order == self._order
        self.keys, self._order = keys, order
        if same and self._drawn == [self.cells(key) for key in self._in_sight()]:
            return
        if not same:
            self.virtual_size = Size(0, HEAD + len(keys))
            self.cursor_row = keys.index(before) if before in keys else max(min(at, len(keys) - 1), 0)
            self._keep_in_sight()
            if self.selected != before:
                self.post_message(self.Highlighted())
        self.refresh()

    @property
    def row_count(self) -> int:
        return len(self.keys)

    @property
    def selected(self) -> str | None:
        """The key of the row under the cursor."""
        return self.keys[self.cursor_row] if self.cursor_row < len(self.keys) else None

    def move_cursor(self, row: int) -> None:
        """To that row, counted from 0, or the nearest that there is."""
        row = max(min(row, len(self.keys) - 1), 0)
        if row != self.cursor_row:
            self.cursor_row = row
            self._keep_in_sight()
            self.refresh()
            self.post_message(self.Highlighted())

    def action_move(self, rows: int) -> None:
        self.move_cursor(self.cursor_row + rows)

    def action_page(self, pages: int) -> None:
        self.move_cursor(self.cursor_row + pages * max(self._rows_in_sight - 1, 1))

    def action_edge(self, end: int) -> None:
        self.move_cursor(len(self.keys) - 1 if end else 0)

    def on_click(self, event: Click) -> None:
        row = event.y - HEAD + self.scroll_offset.y
        if event.y < HEAD or row >= len(self.keys):
            return
        if row == self.cursor_row:
            self.post_message(self.Selected())
        self.move_cursor(row)

    def on_resize(self, _: Resize) -> None:
        self._keep_in_sight()

    @property
    def _rows_in_sight(self) -> int:
        return max(self.size.height - HEAD, 1)

    def _in_sight(self) -> Sequence[str]:
        return self.keys[self.scroll_offset.y : self.scroll_offset.y + self._rows_in_sight]

    def _keep_in_sight(self) -> None:
        top = self.scroll_offset.y
        wanted = max(min(top, self.cursor_row), self.cursor_row - self._rows_in_sight + 1)
        if wanted != top:
            self.scroll_to(y=wanted, animate=False, immediate=True)

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        if y < HEAD:
            style = base + self.get_component_rich_style("listing--head")
            names = [(column.name + (" ▾" if column.name and column.name == self._order else ""), "") for column in self.columns]
            return self._strip(names, style, style)
        if y == HEAD:
            self._drawn = [self.cells(key) for key in self._in_sight()]
        row = self.scroll_offset.y + y - HEAD
        if y - HEAD >= len(self._drawn) or row >= len(self.keys):
            return Strip.blank(self.size.width, base)
        over = self.get_component_rich_style("listing--cursor") if row == self.cursor_row else Style.null()
        return self._strip(self._drawn[y - HEAD], base, over)

    def _strip(self, cells: Sequence[Cell], base: Style, over: Style) -> Strip:
        line = base + over
        segments = [Segment(" ", line)]
        for column, width, (text, style) in zip(self.columns, self._widths(), cells, strict=True):
            if width:
                segments.append(Segment(fitted(text, width, right=column.right), base + Style.parse(style) + over if style else line))
                segments.append(Segment(" " * GAP, line))
        return Strip(segments).adjust_cell_length(self.size.width, line)

    def _widths(self) -> list[int]:
        """Of every column; 0 for one that is not shown."""
        room = self.size.width
        widths = [column.width if room >= column.at else 0 for column in self.columns]
        left = room - 1 - sum(width + GAP for width in widths if width)
        return [
            max(min(width + left, column.grows_to), min(width, 8)) if column.grows_to else width
            for column, width in zip(self.columns, widths, strict=True)
        ]


def fitted(text: str, width: int, *, right: bool = False) -> str:
    """The text in exactly `width` cells; one that is too long loses its middle: names of runs differ at their ends."""
    length = cell_len(text)
    if length <= width:
        return " " * (width - length) + text if right else text + " " * (width - length)
    tail = (width - 1) // 2
    return set_cell_size(text, width - 1 - tail) + "…" + set_cell_size(text[::-1], tail)[::-1]
