"""All runs, newest first: filter, open, stop, delete."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Header, Static

from engine import launch
from engine.errors import RequestError
from engine.run import RunFolder, RunRecord, all_runs
from tui.listings import duration, score
from tui.screens.confirm import Confirm
from tui.widgets.filter import Filter

if TYPE_CHECKING:
    from tui.app import SegtuiApp

REFRESH_S = 2.0
COLUMNS = ("run", "state", "best mIoU", "epoch", "preset", "toggles", "took", "age")
STATE_STYLES = {"running": "bold green", "queued": "cyan", "finished": "", "stopped": "yellow", "failed": "bold red", "lost": "red"}


class RunsScreen(Screen[None]):
    """The list is read in a thread every two seconds while it is in sight; only rows that changed are drawn again."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open", id="runs.open"),
        Binding("slash", "filter", "Filter", id="runs.filter"),
        Binding("s", "stop", "Stop", id="runs.stop"),
        Binding("x", "delete", "Delete", id="runs.delete"),
        Binding("j", "cursor(1)", "Down", show=False),
        Binding("k", "cursor(-1)", "Up", show=False),
        Binding("escape", "clear", "Clear filter", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, RunRecord | str] = {}
        self._shown: dict[str, tuple[str, ...]] = {}

    @property
    def segtui(self) -> SegtuiApp:
        return cast("SegtuiApp", self.app)

    def compose(self) -> ComposeResult:
        yield Header(icon="")
        yield Filter("filter by name, preset, state")
        yield DataTable(cursor_type="row", zebra_stripes=False)
        yield Static("", classes="note", id="empty")
        yield Footer()

    def on_mount(self) -> None:
        self.sub_title = "runs"
        table = self.query_one(DataTable)
        for name in COLUMNS:
            table.add_column(name, key=name)
        table.focus()
        self._read()
        self.set_interval(REFRESH_S, self._read)

    def on_screen_resume(self) -> None:
        self._read()

    @work(thread=True, exclusive=True, group="runs", exit_on_error=False)
    def _read(self) -> None:
        if not self.is_current:
            return
        found: dict[str, RunRecord | str] = {}
        for run in all_runs(self.segtui.runs):
            try:
                found[str(run.path)] = run.read()
            except RequestError as error:
                found[str(run.path)] = str(error)
        self.app.call_from_thread(self._take, found)

    def _take(self, found: dict[str, RunRecord | str]) -> None:
        self._rows = found
        self._show()

    def _show(self) -> None:
        table: DataTable[Text] = self.query_one(DataTable)
        wanted_by = self.query_one(Filter).matches
        order = sorted(self._rows, key=lambda path: -_created(self._rows[path]))
        wanted = {path: row(path, self._rows[path]) for path in order}
        wanted = {path: cells for path, cells in wanted.items() if wanted_by(" ".join(cells))}
        if list(wanted) != list(self._shown):
            at = self.selected
            table.clear()
            for path, cells in wanted.items():
                table.add_row(*_styled(cells), key=path)
            if at is not None and str(at.path) in wanted:
                table.move_cursor(row=list(wanted).index(str(at.path)))
        else:
            for path, cells in wanted.items():
                for column, old, new, styled in zip(COLUMNS, self._shown[path], cells, _styled(cells), strict=True):
                    if old != new:
                        table.update_cell(path, column, styled)
        self._shown = wanted
        empty = self.query_one("#empty", Static)
        empty.display = not wanted
        if not wanted:
            text = "no run matches the filter: esc clears it" if self._rows else _nothing(self.segtui.runs)
            empty.update(Text(text))

    @property
    def selected(self) -> RunFolder | None:
        table = self.query_one(DataTable)
        if not table.row_count:
            return None
        key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        return RunFolder(Path(key)) if key else None

    @on(DataTable.RowSelected)
    def _open(self) -> None:
        self.action_open()

    def action_open(self) -> None:
        if run := self.selected:
            self.segtui.open_run(run)

    def action_cursor(self, rows: int) -> None:
        table = self.query_one(DataTable)
        table.move_cursor(row=table.cursor_row + rows)

    def action_filter(self) -> None:
        self.query_one(Filter).open()

    @on(Filter.Changed)
    def _filter(self) -> None:
        self._show()

    @on(Filter.Submitted)
    def _filtered(self) -> None:
        self.query_one(DataTable).focus()

    def action_clear(self) -> None:
        self.query_one(Filter).close()
        self.query_one(DataTable).focus()

    def action_stop(self) -> None:
        run = self.selected
        if run is None:
            return

        def answered(yes: bool | None) -> None:
            if not yes:
                return
            try:
                launch.stop(run)
                self.notify(f"{run.path.name} stops after its step", markup=False)
            except RequestError as error:
                self.segtui.tell(error)

        self.app.push_screen(Confirm(f"Stop {run.path.name} after its step? It can be resumed."), answered)

    def action_delete(self) -> None:
        run = self.selected
        if run is None:
            return
        record = self._rows.get(str(run.path))
        if isinstance(record, RunRecord) and record.state in ("running", "queued"):
            self.notify(f"{run.path.name} is {record.state}: stop it first", severity="warning", markup=False)
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._delete(run)

        self.app.push_screen(Confirm(f"Delete {run.path.name} with its checkpoints? This cannot be undone."), answered)

    @work(thread=True, group="delete", exit_on_error=False)
    def _delete(self, run: RunFolder) -> None:
        try:
            shutil.rmtree(run.path)
        except OSError as error:
            self.app.call_from_thread(self.notify, f"{run.path}: {error.strerror}", severity="error", markup=False)
        self.app.call_from_thread(self._read)


def row(path: str, record: RunRecord | str) -> tuple[str, ...]:
    """The cells of a run; one whose record cannot be read says so."""
    if isinstance(record, str):
        return (Path(path).name, "unreadable", "-", "", "", "", "", "")
    best = score(record.best_mIoU) + (f" @{record.best_epoch}" if record.best_epoch else "")
    took = duration((record.ended or time.time()) - record.created) if record.state != "lost" else ""
    toggles = "" if str(record.toggles) == "none" else str(record.toggles)
    epochs = f"{record.epoch}/{record.epochs}"
    return (record.name, record.state, best, epochs, record.preset, toggles, took, duration(time.time() - record.created))


def _styled(cells: tuple[str, ...]) -> list[Text]:
    style = STATE_STYLES.get(cells[1], "red")
    return [Text(cell, style=style if number == 1 else "bold" if number == 2 else "") for number, cell in enumerate(cells)]


def _created(record: RunRecord | str) -> float:
    return 0.0 if isinstance(record, str) else record.created


def _nothing(runs: Path) -> str:
    return f"no runs in {runs} yet: start one in Launch (1)"
