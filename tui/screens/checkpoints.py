"""All checkpoints of all runs: filter, sort, mark, look into, infer, copy, delete."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import Screen
from textual.widgets import Static
from textual.worker import get_current_worker

from engine.errors import RequestError
from engine.run import CheckpointRow, RunFolder, checkpoint_rows
from tui.checkpoint_rows import COLUMNS, ORDERS, cells, details, in_order, searched
from tui.screens.confirm import Confirm, named
from tui.widgets.filter import Filter
from tui.widgets.footer import Footer
from tui.widgets.listing import Cell, Listing
from tui.widgets.tabs import ScreenTabs

if TYPE_CHECKING:
    from tui.app import SegtuiApp

REFRESH_S = 5.0
HAND_OVER_S = 0.25
"""At first, what is found is shown this often."""


class Details(VerticalScroll):
    """All that the checkpoint under the cursor says about itself."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "scroll_down", "Down", show=False),
        Binding("k", "scroll_up", "Up", show=False),
    ]


class CheckpointsScreen(Screen[None]):
    """Headers are read in a thread, each file once as long as it does not change; the panel beside tells of the one under the cursor."""

    AUTO_FOCUS: ClassVar[str | None] = "Listing"  # keys that come before the first picture are not for the filter
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "details", "Details", id="checkpoints.details"),
        Binding("space", "mark", "Mark", id="checkpoints.mark"),
        Binding("i", "predict(False)", "Infer", id="checkpoints.infer"),
        Binding("t", "predict(True)", "TTA", id="checkpoints.tta"),
        Binding("v", "vote", "Soft vote", id="checkpoints.vote"),
        Binding("slash", "filter", "Filter", id="checkpoints.filter"),
        Binding("o", "order", "Sort", id="checkpoints.order"),
        Binding("y", "copy", "Copy path", id="checkpoints.copy"),
        Binding("x", "delete", "Delete", id="checkpoints.delete"),
        Binding("escape", "clear", "Back, or clear filter and marks", show=False, id="checkpoints.clear"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, CheckpointRow] = {}
        self._is_reading = False
        self._is_first = True
        self._order = "mIoU"
        self.marked: list[str] = []
        """Paths in the order in which they were marked."""

    @property
    def segtui(self) -> SegtuiApp:
        return cast("SegtuiApp", self.app)

    def compose(self) -> ComposeResult:
        yield ScreenTabs()
        yield Filter("filter by run, model, preset")
        with Horizontal():
            yield Listing(COLUMNS, lambda path: self._cells(path))
            with Details():
                yield Static("")
        yield Static("", classes="note", id="empty")
        yield Footer()

    def on_mount(self) -> None:
        self._read_on()
        self.set_interval(REFRESH_S, self._read_on)

    def on_screen_resume(self) -> None:
        self._read_on()

    def _read_on(self) -> None:
        if self.is_current and not self._is_reading:
            self._is_reading = True
            self._read(self._rows)

    @work(thread=True, group="checkpoints", exit_on_error=False)
    def _read(self, known: dict[str, CheckpointRow]) -> None:
        worker, told = get_current_worker(), time.monotonic()
        found: dict[str, CheckpointRow] = {}
        try:
            for row in checkpoint_rows(self.segtui.runs, known):
                if worker.is_cancelled:
                    return
                found[row.file] = row
                if self._is_first and time.monotonic() - told > HAND_OVER_S:
                    self.app.call_from_thread(self._take, dict(found))
                    told = time.monotonic()
            self.app.call_from_thread(self._take, found)
            self._is_first = False
        finally:
            self._is_reading = False

    def _take(self, found: dict[str, CheckpointRow]) -> None:
        is_new = found.keys() != self._rows.keys() or any(row is not self._rows[path] for path, row in found.items())
        self._rows = found
        self.marked = [path for path in self.marked if path in found]
        if is_new or not found:
            self._show()

    def _show(self) -> None:
        wanted = self.query_one(Filter).matches
        rows = [row for row in self._rows.values() if wanted(searched(row))]
        paths = [row.file for row in in_order(rows, self._order)]
        self.query_one(Listing).show(paths, self._order, is_whole=not self._is_first)
        nothing = "no checkpoint matches the filter: esc clears it" if self._rows else "no checkpoints yet: a run keeps its best one"
        empty = self.query_one("#empty", Static)
        empty.display = not rows
        empty.update(nothing)
        self._describe()

    def _cells(self, path: str) -> Sequence[Cell]:
        return cells(self._rows[path], is_marked=path in self.marked)

    @property
    def selected(self) -> CheckpointRow | None:
        return self._rows.get(self.query_one(Listing).selected or "")

    @on(Listing.Highlighted)
    def _describe(self) -> None:
        row = self.selected
        self.query_one("Details > Static", Static).update(details(row) if row else "")

    @on(Listing.Selected)
    def _clicked(self) -> None:
        self.action_details()

    def action_details(self) -> None:
        """Into the panel, to scroll it; where it has no place beside the list, it takes the list's."""
        if self.selected is not None:
            self.add_class("-details")
            self.query_one(Details).focus()

    def action_clear(self) -> None:
        """Out of the details; else no filter and no marks any more."""
        if self.focused is self.query_one(Details):
            self.remove_class("-details")
        else:
            self.query_one(Filter).close()
            self.marked = []
            self._show()
        self.query_one(Listing).focus()

    def action_mark(self) -> None:
        listing, row = self.query_one(Listing), self.selected
        if row is None or row.header is None:
            return
        path = row.file
        self.marked = [each for each in self.marked if each != path] if path in self.marked else [*self.marked, path]
        self._show()
        listing.action_move(1)

    def action_order(self) -> None:
        names = list(ORDERS)
        self._order = names[(names.index(self._order) + 1) % len(names)]
        self._show()

    def action_predict(self, tta: bool) -> None:
        row = self.selected
        if row is not None and row.header is not None:
            self.segtui.predict([row.path], tta=tta)

    def action_vote(self) -> None:
        if len(self.marked) < 2:
            self.notify("mark two checkpoints or more with space", severity="warning")
            return
        self.segtui.predict([Path(path) for path in self.marked])

    def action_filter(self) -> None:
        self.query_one(Filter).open()

    def only(self, run: str) -> None:
        """Those of one run."""
        if self.is_mounted:
            self.query_one(Filter).open(run)
            self.query_one(Listing).focus()
        else:
            self.call_after_refresh(self.only, run)

    @on(Filter.Changed)
    def _filter(self) -> None:
        self._show()

    @on(Filter.Submitted)
    def _filtered(self) -> None:
        self.query_one(Listing).focus()

    def action_copy(self) -> None:
        if row := self.selected:
            self.app.copy_to_clipboard(str(row.path.absolute()))

    def action_delete(self) -> None:
        """The marked ones; with none marked, the one under the cursor."""
        selected = self.selected
        rows = [self._rows[path] for path in self.marked] or ([selected] if selected else [])
        needed = [row for row in rows if _is_needed(row)]
        if needed:
            text = f"{named(_names(needed))}: the best of a run that is still running is kept"
            self.notify(text, severity="warning", markup=False)
        rest = [row for row in rows if row not in needed]
        if not rest:
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._delete(rest)

        what = _names(rest)[0] if len(rest) == 1 else f"{len(rest)} checkpoints ({named(_names(rest))})"
        self.app.push_screen(Confirm(f"Delete {what}? This cannot be undone."), answered)

    @work(thread=True, group="delete", exit_on_error=False)
    def _delete(self, rows: Sequence[CheckpointRow]) -> None:
        for row in rows:
            try:
                row.path.unlink()
            except OSError as error:
                self.app.call_from_thread(self.notify, f"{row.path}: {error.strerror}", severity="error", markup=False)
        self.app.call_from_thread(self._read_on)


def _is_needed(row: CheckpointRow) -> bool:
    """It is the best of a run that goes on."""
    return row.path.name == "best.safetensors" and is_running(row.path)


def is_running(checkpoint: Path) -> bool:
    run = RunFolder(checkpoint.parent.parent)
    try:
        return run.read().state in ("running", "queued")
    except RequestError:  # nobody knows
        return False


def _names(rows: Sequence[CheckpointRow]) -> list[str]:
    return [f"{row.run}/{row.path.name}" for row in rows]
