"""Checkpoints of all runs to choose from: one, or several for an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from engine.run import CheckpointRow, all_checkpoints
from tui.checkpoint_rows import COLUMNS, cells, searched
from tui.widgets.filter import Filter
from tui.widgets.footer import Footer
from tui.widgets.listing import Cell, Listing


class PickCheckpoints(ModalScreen["list[Path] | None"]):
    """The marked ones in the order in which they were marked, else the one under the cursor; None where none is wanted."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "take", "Take", id="pick.take"),
        Binding("space", "mark", "Mark", id="pick.mark"),
        Binding("slash", "filter", "Filter", id="pick.filter"),
        Binding("escape", "leave", "Back", id="pick.leave"),
    ]
    DEFAULT_CSS = """
    PickCheckpoints { align: center middle; }
    PickCheckpoints > Vertical { width: 110; max-width: 96%; height: 80%; border: round $primary; background: $surface; }
    PickCheckpoints #empty { height: auto; display: none; color: $text-muted; padding: 1 2; }
    """

    def __init__(self, runs: Path, marked: Sequence[Path]) -> None:
        super().__init__()
        self.runs = runs
        self.marked = [str(path) for path in marked] if len(marked) > 1 else []
        self._rows: dict[str, CheckpointRow] = {}

    def compose(self) -> ComposeResult:
        with Vertical() as box:
            box.border_title = "predict with"
            yield Filter("filter by run, model, preset")
            yield Listing(COLUMNS, self._cells)
            yield Static("no checkpoints yet: a run keeps its best one", id="empty")
            yield Footer()

    def on_mount(self) -> None:
        self.query_one(Listing).focus()
        self._read()

    @work(thread=True, exclusive=True, group="checkpoints", exit_on_error=False)
    def _read(self) -> None:
        self.app.call_from_thread(self._take, all_checkpoints(self.runs))

    def _take(self, found: list[CheckpointRow]) -> None:
        self._rows = {str(row.path.absolute()): row for row in found}
        self.marked = [path for path in self.marked if path in self._rows]
        self._show()

    @on(Filter.Changed)
    def _show(self) -> None:
        wanted = self.query_one(Filter).matches
        self.query_one(Listing).show([path for path, row in self._rows.items() if wanted(searched(row))], "mIoU")
        self.query_one("#empty").display = not self._rows

    def _cells(self, path: str) -> Sequence[Cell]:
        return cells(self._rows[path], is_marked=path in self.marked)

    @on(Filter.Submitted)
    def _filtered(self) -> None:
        self.query_one(Listing).focus()

    def action_filter(self) -> None:
        self.query_one(Filter).open()

    def action_mark(self) -> None:
        listing = self.query_one(Listing)
        path = self._usable()
        if path is not None:
            self.marked = [each for each in self.marked if each != path] if path in self.marked else [*self.marked, path]
            listing.refresh()
            listing.action_move(1)

    def action_take(self) -> None:
        path = self._usable()
        if chosen := self.marked or ([path] if path else []):
            self.dismiss([Path(each) for each in chosen])

    def _usable(self) -> str | None:
        """The one under the cursor, where it can be predicted with."""
        path = self.query_one(Listing).selected
        if path is not None and self._rows[path].header is None:
            self.notify(f"{path} {self._rows[path].problem}", severity="warning", markup=False)
            return None
        return path

    def action_leave(self) -> None:
        filter_line = self.query_one(Filter)
        if filter_line.display:
            filter_line.close()
            self.query_one(Listing).focus()
        else:
            self.dismiss(None)
