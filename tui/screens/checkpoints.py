"""All checkpoints of all runs, best first: filter, look into, copy, delete."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Header, Static

from engine.errors import RequestError
from engine.palette import class_colours
from engine.run import CheckpointRow, RunFolder, all_checkpoints
from tui.listings import duration, score
from tui.screens.confirm import Confirm
from tui.widgets.filter import Filter

if TYPE_CHECKING:
    from tui.app import SegtuiApp

REFRESH_S = 5.0
COLUMNS = ("", "mIoU", "run", "checkpoint", "epoch", "model", "size", "age")
BAR_CELLS = 12


class CheckpointsScreen(Screen[None]):
    """Headers are read in a thread; `space` marks, and the panel beside tells of the one under the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "Mark", id="checkpoints.mark"),
        Binding("i", "predict(False)", "Infer", id="checkpoints.infer"),
        Binding("t", "predict(True)", "TTA", id="checkpoints.tta"),
        Binding("v", "vote", "Soft vote", id="checkpoints.vote"),
        Binding("slash", "filter", "Filter", id="checkpoints.filter"),
        Binding("y", "copy", "Copy path", id="checkpoints.copy"),
        Binding("x", "delete", "Delete", id="checkpoints.delete"),
        Binding("j", "cursor(1)", "Down", show=False),
        Binding("k", "cursor(-1)", "Up", show=False),
        Binding("escape", "clear", "Clear filter and marks", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, CheckpointRow] = {}
        self._shown: list[str] = []
        self.marked: list[str] = []
        """Paths in the order in which they were marked."""

    @property
    def segtui(self) -> SegtuiApp:
        return cast("SegtuiApp", self.app)

    def compose(self) -> ComposeResult:
        yield Header(icon="")
        yield Filter("filter by run, model, preset")
        with Horizontal():
            yield DataTable(cursor_type="row")
            with VerticalScroll(id="details"):
                yield Static("")
        yield Static("", classes="note", id="empty")
        yield Footer()

    def on_mount(self) -> None:
        self.sub_title = "checkpoints"
        table = self.query_one(DataTable)
        for name in COLUMNS:
            table.add_column(name, key=name or "mark")
        table.focus()
        self._read()
        self.set_interval(REFRESH_S, self._read)

    def on_screen_resume(self) -> None:
        self._read()

    @work(thread=True, exclusive=True, group="checkpoints", exit_on_error=False)
    def _read(self) -> None:
        if self.is_current:
            self.app.call_from_thread(self._take, {str(each.path): each for each in all_checkpoints(self.segtui.runs)})

    def _take(self, found: dict[str, CheckpointRow]) -> None:
        changed = {path: (row.modified, row.size) for path, row in found.items()} != {
            path: (row.modified, row.size) for path, row in self._rows.items()
        }
        self._rows = found
        self.marked = [path for path in self.marked if path in found]
        if changed or not found:
            self._show()

    def _show(self) -> None:
        table: DataTable[Text] = self.query_one(DataTable)
        wanted_by = self.query_one(Filter).matches
        at = self.selected
        wanted = {path: cells(row, path in self.marked) for path, row in self._rows.items()}
        self._shown = [path for path, texts in wanted.items() if wanted_by(" ".join(texts))]
        table.clear()
        for path in self._shown:
            style = "" if self._rows[path].header else "dim red"
            table.add_row(*(Text(text, style="bold" if number == 1 else style) for number, text in enumerate(wanted[path])), key=path)
        if at is not None and str(at.path) in self._shown:
            table.move_cursor(row=self._shown.index(str(at.path)))
        empty = self.query_one("#empty", Static)
        empty.display = not self._shown
        empty.update("no checkpoint matches the filter: esc clears it" if self._rows else "no checkpoints yet: a run keeps its best one")
        self._describe()

    @property
    def selected(self) -> CheckpointRow | None:
        table = self.query_one(DataTable)
        if not table.row_count:
            return None
        key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        return self._rows.get(key or "")

    @on(DataTable.RowHighlighted)
    def _describe(self) -> None:
        row = self.selected
        self.query_one("#details Static", Static).update(details(row) if row else "")

    def action_cursor(self, rows: int) -> None:
        table = self.query_one(DataTable)
        table.move_cursor(row=table.cursor_row + rows)

    def action_mark(self) -> None:
        row = self.selected
        if row is None or row.header is None:
            return
        path = str(row.path)
        self.marked = [each for each in self.marked if each != path] if path in self.marked else [*self.marked, path]
        self.query_one(DataTable).update_cell(path, "mark", Text("●" if path in self.marked else "", style="bold"))
        self.action_cursor(1)

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

    @on(Filter.Changed)
    def _filter(self) -> None:
        self._show()

    @on(Filter.Submitted)
    def _filtered(self) -> None:
        self.query_one(DataTable).focus()

    def action_clear(self) -> None:
        self.query_one(Filter).close()
        self.marked = []
        self._show()
        self.query_one(DataTable).focus()

    def action_copy(self) -> None:
        if row := self.selected:
            self.app.copy_to_clipboard(str(row.path.absolute()))
            self.notify(str(row.path.absolute()), title="copied", markup=False)

    def action_delete(self) -> None:
        row = self.selected
        if row is None:
            return
        if row.path.name == "best.safetensors" and is_running(row.path):
            self.notify("this is the best of a run that is still running", severity="warning")
            return

        def answered(yes: bool | None) -> None:
            if not yes:
                return
            try:
                row.path.unlink()
            except OSError as error:
                self.notify(f"{row.path}: {error.strerror}", severity="error", markup=False)
            self._read()

        self.app.push_screen(Confirm(f"Delete {row.run}/{row.path.name}? This cannot be undone."), answered)


def is_running(checkpoint: Path) -> bool:
    run = RunFolder(checkpoint.parent.parent)
    try:
        return run.read().state in ("running", "queued")
    except RequestError:  # nobody knows
        return False


def cells(row: CheckpointRow, marked: bool) -> tuple[str, ...]:
    header = row.header
    table = header.preset["model"] if header else {}
    model = f"{table.get('type', '')}-{table.get('encoder_name', '')}" if header else row.problem
    return (
        "●" if marked else "",
        score(header.mIoU if header else None),
        row.run,
        row.path.stem,
        str(header.epoch) if header else "",
        model,
        f"{row.size / 2**20:.1f} MiB",
        duration(time.time() - row.modified),
    )


def details(row: CheckpointRow) -> Text:
    """What the header says: scores of every class, preset, path."""
    header = row.header
    if header is None:
        return Text(f"{row.path}\n\n{row.problem}", style="red")
    text = Text()
    text.append(f"mIoU {score(header.mIoU)}", style="bold")
    text.append(f"  epoch {header.epoch}  {header.kind}\n\n")
    width = max((len(name) for name in header.classes), default=0)
    ious = header.IoU or [None] * len(header.classes)
    for name, colour, iou in zip(header.classes, class_colours(header.classes), ious, strict=False):
        style = "rgb({},{},{})".format(*colour)
        text.append("■ ", style=style)
        text.append(f"{name:<{width}}  {score(iou)}  ")
        text.append("█" * round((iou or 0) * BAR_CELLS) + "\n", style=style)
    data = header.preset.get("data", {})
    text.append(f"\npreset  {header.preset.get('name', '')}\ndata    {data.get('root', '')}\nsegtui  {header.segtui}\n", style="dim")
    text.append(f"{row.path}", style="dim")
    return text
