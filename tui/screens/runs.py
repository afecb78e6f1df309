"""All runs, under what waits for its turn: filter, sort, mark, compare, open, stop, delete."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Static
from textual.worker import get_current_worker

from engine import slurm
from engine.box_queue import Where
from engine.errors import RequestError
from engine.events import Number
from engine.run import EndedRuns, RunFolder, RunRecord, all_runs
from engine.slurm import JobWatch
from tui.comparing import MOST, RunColours
from tui.run_rows import COLUMNS, ORDERS, cells, searched
from tui.screens.confirm import Confirm, named
from tui.sparkline import ValidationCurves
from tui.themes import style
from tui.widgets.filter import Filter
from tui.widgets.footer import Footer
from tui.widgets.listing import Cell, Listing
from tui.widgets.queue_line import QueueLine, QueueRows, read_queue
from tui.widgets.tabs import ScreenTabs

if TYPE_CHECKING:
    from tui.app import SegtuiApp

REFRESH_S = 2.0
HAND_OVER_S = 0.25
"""Curves are shown as they are read, this often."""


class RunsScreen(Screen[None]):
    """The list is read in a thread every two seconds while it is in sight; the curves follow the rows."""

    AUTO_FOCUS: ClassVar[str | None] = "Listing"  # keys that come before the first picture are not for the filter
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open", id="runs.open"),
        Binding("slash", "filter", "Filter", id="runs.filter"),
        Binding("o", "order", "Sort", id="runs.order"),
        Binding("space", "mark", "Mark", id="runs.mark"),
        Binding("c", "compare", "Compare", id="runs.compare"),
        Binding("s", "stop", "Stop", id="runs.stop"),
        Binding("x", "delete", "Delete", id="runs.delete"),
        Binding("K,shift+up", "move_queued('up')", "Earlier in the queue", show=False, id="runs.queue_up"),
        Binding("J,shift+down", "move_queued('down')", "Later in the queue", show=False, id="runs.queue_down"),
        Binding("escape", "clear", "Clear filter and marks", show=False, id="runs.clear"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, RunRecord | str] = {}
        self._order = "age"
        self._colours = RunColours()
        self.marked: list[str] = []
        """Paths in the order in which they were marked."""
        self._logs = ValidationCurves()
        self._records = EndedRuns()
        self._jobs = JobWatch()
        self._were_live: set[str] = set()
        self._is_reading_logs = False
        self._curves: dict[str, tuple[Number, ...]] = {}

    @property
    def segtui(self) -> SegtuiApp:
        return cast("SegtuiApp", self.app)

    def compose(self) -> ComposeResult:
        yield ScreenTabs()
        yield Filter("filter by name, preset, state")
        yield QueueLine(lambda: self.segtui.runs)
        yield Listing(COLUMNS, self._cells)
        yield Static("", classes="note", id="empty")
        yield Static("", id="job")
        yield Footer()

    def on_mount(self) -> None:
        self.set_interval(REFRESH_S, self._read)

    def on_screen_resume(self) -> None:
        self._read()

    @on(QueueLine.Changed)
    def _queue_changed(self) -> None:
        self._read()

    @work(thread=True, exclusive=True, group="runs", exit_on_error=False)
    def _read(self) -> None:
        if not self.is_current:
            return
        records: dict[RunFolder, RunRecord] = {}
        unreadable: dict[str, str] = {}
        for run in all_runs(self.segtui.runs):
            try:
                records[run] = self._records.read(run)
            except RequestError as error:
                unreadable[str(run.path)] = str(error)
        found = {str(run.path): record for run, record in self._jobs.judged(records).items()} | unreadable
        self.app.call_from_thread(self._take, found, read_queue(self.segtui.runs))

    def _take(self, found: dict[str, RunRecord | str], queued: QueueRows) -> None:
        self._rows = found
        self.query_one(QueueLine).show(queued)
        self.marked = [path for path in self.marked if path in found]
        self._show()
        if not self._is_reading_logs:
            self._is_reading_logs = True
            live = {path for path, record in found.items() if isinstance(record, RunRecord) and record.ended is None}
            wanted = [
                path
                for path in self.query_one(Listing).keys
                if path in found and (path in live | self._were_live or path not in self._curves)
            ]
            self._were_live = live  # what they wrote last is read once more after their end
            self._read_curves(wanted)

    @work(thread=True, group="curves", exit_on_error=False)
    def _read_curves(self, paths: Sequence[str]) -> None:
        """After the rows are there, from the first row on; handed over four times a second."""
        worker, told, found = get_current_worker(), time.monotonic(), {}
        try:
            for path in paths:
                if worker.is_cancelled:
                    return
                found[path] = self._logs.read(RunFolder(Path(path)).events)
                if time.monotonic() - told > HAND_OVER_S:
                    self.app.call_from_thread(self._take_curves, found)
                    told, found = time.monotonic(), {}
            self.app.call_from_thread(self._take_curves, found)
        finally:
            self._is_reading_logs = False

    def _take_curves(self, found: dict[str, tuple[Number, ...]]) -> None:
        if found:
            self._curves |= found
            self._show()

    def _show(self) -> None:
        wanted = self.query_one(Filter).matches
        order = ORDERS[self._order]
        readable = {path: record for path, record in self._rows.items() if isinstance(record, RunRecord)}
        paths = sorted(readable, key=lambda path: order(readable[path])) + sorted(path for path in self._rows if path not in readable)
        queued = [key for key in self._queued.entries if wanted(self._queued.searched(key))]
        shown = queued + [path for path in paths if wanted(searched(path, self._rows[path]))]
        self.query_one(Listing).show(shown, self._order)
        self._show_job()
        empty = self.query_one("#empty", Static)
        empty.display = not shown
        if not shown:
            empty.update(Text("no run matches the filter: esc clears it" if self._rows else _nothing(self.segtui.runs)))

    @on(Listing.Highlighted)
    def _show_job(self) -> None:
        """What Slurm says of the run under the cursor, in full."""
        record = self._rows.get(self.query_one(Listing).selected or "")
        job = self.query_one("#job", Static)
        job.display = isinstance(record, RunRecord) and bool(record.slurm_says)
        if isinstance(record, RunRecord) and record.slurm_says:
            job.update(Text(f"{record.name}: job {record.slurm_job} {record.slurm_says}", style=style("note"), no_wrap=True))

    def _cells(self, path: str) -> Sequence[Cell]:
        if path in self._queued.entries:
            return (("", ""), *self._queued.cells(path))
        mark = ("●", self._colours.of(path)) if path in self.marked else ("", "")
        return (mark, *cells(path, self._rows[path], self._curves.get(path, ())))

    @property
    def _queued(self) -> QueueRows:
        return self.query_one(QueueLine).rows

    @property
    def selected(self) -> RunFolder | None:
        key = self.query_one(Listing).selected
        return RunFolder(Path(key)) if key in self._rows else None

    @property
    def selected_queued(self) -> str | None:
        """The key of the row under the cursor, where it has no run yet."""
        key = self.query_one(Listing).selected
        return key if key in self._queued.entries else None

    @on(Listing.Selected)
    def _open(self) -> None:
        self.action_open()

    def action_open(self) -> None:
        if run := self.selected:
            self.segtui.open_run(run)
        elif key := self.selected_queued:
            self.query_one(QueueLine).open(key)

    def action_move_queued(self, where: Where) -> None:
        if key := self.selected_queued:
            self.query_one(QueueLine).move(key, where)
        else:
            self.notify("only what waits in the queue can be moved", severity="warning")

    def action_filter(self) -> None:
        self.query_one(Filter).open()

    @on(Filter.Changed)
    def _filter(self) -> None:
        self._show()

    @on(Filter.Submitted)
    def _filtered(self) -> None:
        self.query_one(Listing).focus()

    def action_clear(self) -> None:
        self.query_one(Filter).close()
        self.marked = []
        self._show()
        self.query_one(Listing).focus()

    def action_order(self) -> None:
        names = list(ORDERS)
        self._order = names[(names.index(self._order) + 1) % len(names)]
        self._show()

    def action_mark(self) -> None:
        listing = self.query_one(Listing)
        path = listing.selected
        if path not in self._rows:
            return
        if path in self.marked:
            self.marked.remove(path)
        else:
            self._colours.give(path, self.marked)
            self.marked.append(path)
        self._show()
        listing.action_move(1)

    def action_compare(self) -> None:
        if not 2 <= len(self.marked) <= MOST:
            what = f"{len(self.marked)} are marked: unmark some with space" if self.marked[MOST:] else "mark them with space"
            self.notify(f"two to eight runs can be compared; {what}", severity="warning")
            return
        from tui.screens.compare import CompareScreen

        self.app.push_screen(CompareScreen([(Path(path), self._colours.of(path)) for path in self.marked]))

    def action_stop(self) -> None:
        run = self.selected
        if run is None:
            if self.selected_queued:
                self.notify("it has no run yet: x takes it out of the queue", severity="warning")
            return

        record = self._rows.get(str(run.path))
        job = record.slurm_job if isinstance(record, RunRecord) and record.state == "queued" else ""

        def answered(yes: bool | None) -> None:
            if yes:
                self._stop(run, f"job {job} was cancelled" if job else f"{run.path.name} stops after its step")

        if job:
            self.app.push_screen(Confirm(f"Cancel job {job}? {run.path.name} waits for its turn."), answered)
            return
        is_debug = isinstance(record, RunRecord) and record.toggles.debug
        after = "A debug run keeps nothing to resume from." if is_debug else "It can be resumed."
        self.app.push_screen(Confirm(f"Stop {run.path.name} after its step? {after}"), answered)

    @work(thread=True, group="stop", exit_on_error=False)
    def _stop(self, run: RunFolder, said: str) -> None:
        """Slurm takes its time over what it is asked."""
        from engine.launch import stop

        try:
            stop(run)
        except RequestError as error:
            self.app.call_from_thread(self.segtui.tell, error)
            return
        self.app.call_from_thread(self.notify, said, markup=False)
        self.app.call_from_thread(self._read)

    def action_delete(self) -> None:
        """The marked ones; with none marked, the one under the cursor."""
        if (key := self.selected_queued) and not self.marked:
            self.query_one(QueueLine).remove_row(key)
            return
        selected = self.selected
        paths = self.marked or ([str(selected.path)] if selected else [])
        live = [path for path in paths if _is_live(self._rows[path])]
        if live:
            one = len(live) == 1
            text = f"{named(_names(live))} {'is' if one else 'are'} running: stop {'it' if one else 'them'} first"
            self.notify(text, severity="warning", markup=False)
        ended = [path for path in paths if path not in live]
        if not ended:
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._delete([RunFolder(Path(path)) for path in ended])

        what = Path(ended[0]).name if len(ended) == 1 else f"{len(ended)} runs ({named(_names(ended))})"
        self.app.push_screen(
            Confirm(f"Delete {what} with {'its' if len(ended) == 1 else 'their'} checkpoints? This cannot be undone."), answered
        )

    @work(thread=True, group="delete", exit_on_error=False)
    def _delete(self, runs: Sequence[RunFolder]) -> None:
        for run in runs:
            problem = _deleted(run)
            if problem:
                self.app.call_from_thread(self.notify, problem, severity="error", markup=False)
        self.app.call_from_thread(self._read)


def _deleted(run: RunFolder) -> str:
    """Delete a run's folder; what went wrong, else nothing."""
    try:
        if slurm.read(run).state in ("running", "queued"):  # resumed since the question was asked
            return f"{run.path.name} runs again: stop it first"
    except RequestError:  # nobody can run what has no readable record
        pass
    try:
        shutil.rmtree(run.path)
    except OSError as error:
        return f"{error.filename or run.path}: {error.strerror}"
    return ""


def _is_live(record: RunRecord | str) -> bool:
    return isinstance(record, RunRecord) and record.state in ("running", "queued")


def _names(paths: Sequence[str]) -> list[str]:
    return [Path(path).name for path in paths]


def _nothing(runs: Path) -> str:
    return f"no runs in {runs} yet: start one in Launch (1)"
