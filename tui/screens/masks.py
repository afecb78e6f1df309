"""The images of a result, one after the other: photograph, prediction, ground truth and where they differ."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rich.table import Table
from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid, Horizontal, VerticalScroll
from textual.screen import Screen
from textual.widgets import Static
from textual.worker import Worker, WorkerState, get_current_worker

from engine.errors import RequestError
from engine.palette import class_colours
from engine.prediction_record import PredictionRecord
from engine.results import PredictedImage, images_of, read_result
from tui.headless_view import shown_path, shown_score
from tui.themes import style
from tui.widgets.footer import Footer
from tui.widgets.mask_view import TITLES, MaskView, Mode
from tui.widgets.tabs import ScreenTabs

if TYPE_CHECKING:
    from textual.strip import Strip

    from engine.result_images import Picture

WITH_TRUTH: tuple[Mode, ...] = ("photograph", "prediction", "truth", "errors", "overlay")
WITHOUT_TRUTH: tuple[Mode, ...] = ("photograph", "prediction", "overlay")
WIDE = 120
"""Cells from which on the pictures are side by side at first."""
KEPT = 4
"""Pictures that are kept decoded."""


class MasksScreen(Screen[None]):
    """Reads and draws in a thread; of several that are asked for quickly only the last is drawn."""

    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (64, "-narrow"), (120, "-wide")]  # noqa: RUF012  as Textual declares it
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n,right,l", "step(1)", "Next", id="masks.next"),
        Binding("N,left,h", "step(-1)", "Previous", id="masks.previous"),
        Binding("o", "mode", "View", id="masks.mode"),
        Binding("g", "side_by_side", "Grid", id="masks.side_by_side"),
        Binding("y", "copy", "Copy path", id="masks.copy"),
        Binding("home", "edge(0)", "First", show=False, id="masks.first"),
        Binding("end", "edge(-1)", "Last", show=False, id="masks.last"),
        Binding("down,j", "scroll(1)", "Legend down", show=False, id="masks.down"),
        Binding("up,k", "scroll(-1)", "Legend up", show=False, id="masks.up"),
        Binding("escape", "dismiss", "Back", id="masks.back"),
    ]

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.record: PredictionRecord | None = None
        self.images: list[PredictedImage] = []
        self.at = 0
        self.mode: Mode = "prediction"
        self.side_by_side = False
        self._picture: Callable[[int], Picture] = lru_cache(maxsize=KEPT)(self._read)

    def compose(self) -> ComposeResult:
        yield ScreenTabs()
        yield Static("", id="headline")
        with Horizontal():
            with Grid(id="views"):
                for number in range(4):
                    yield MaskView(id=f"view-{number}")
            with VerticalScroll(id="legend", can_focus=False):
                yield Static("")
        yield Footer()

    def on_mount(self) -> None:
        self.sub_title = shown_path(self.folder)
        self.side_by_side = self.app.size.width >= WIDE
        self._lay_out()
        self._open()

    @work(thread=True, exclusive=True, group="open", exit_on_error=False)
    def _open(self) -> None:
        result = read_result(self.folder)
        try:
            images = images_of(result.folder, result.record) if result.record else []
        except RequestError as error:
            self.app.call_from_thread(self._opened, result.record, [], str(error))
        else:
            self.app.call_from_thread(self._opened, result.record, images, result.problem or "there are no images in this result")

    def _opened(self, record: PredictionRecord | None, images: list[PredictedImage], problem: str) -> None:
        self.record, self.images = record, images
        if not images:
            self.query_one("#view-0", MaskView).show(problem)
        self._lay_out()
        self._ask()

    @property
    def modes(self) -> tuple[Mode, ...]:
        return WITH_TRUTH if self.record is not None and self.record.scores else WITHOUT_TRUTH

    def _lay_out(self) -> None:
        """One large picture, or the modes side by side with their names above them."""
        shown = self.modes[:4] if self.side_by_side else (self.mode,)
        self.set_class(len(shown) == 1, "-one")
        for number, view in enumerate(self.query(MaskView)):
            view.display = number < len(shown)
            if view.display:
                view.mode = shown[number]
                view.border_title = TITLES[view.mode]

    def action_step(self, images: int) -> None:
        self._go(self.at + images)

    def action_edge(self, end: int) -> None:
        self._go(len(self.images) - 1 if end else 0)

    def _go(self, at: int) -> None:
        at = max(min(at, len(self.images) - 1), 0)
        if at != self.at:
            self.at = at
            self.query_one("#legend", VerticalScroll).scroll_home(animate=False)
            self._ask()

    def action_mode(self) -> None:
        if self.side_by_side:
            self.side_by_side = False
        else:
            self.mode = self.modes[(self.modes.index(self.mode) + 1) % len(self.modes)]
        self._lay_out()
        self._ask()

    def action_side_by_side(self) -> None:
        self.side_by_side = not self.side_by_side
        self._lay_out()
        self._ask()

    def action_scroll(self, lines: int) -> None:
        self.query_one("#legend", VerticalScroll).scroll_relative(y=lines, animate=False)

    def action_copy(self) -> None:
        path = self.images[self.at].photograph if self.images else None
        if path is None:
            self.notify("the photograph's path is not known", severity="warning")
        else:
            self.app.copy_to_clipboard(str(path))

    @on(MaskView.Resized)
    def _ask(self) -> None:
        """Say at once where we are; the picture follows."""
        if not self.images:
            return
        image = self.images[self.at]
        mode = "side by side" if self.side_by_side else TITLES[self.mode]
        score = f"mIoU {shown_score(image.mIoU)}" if image.mIoU is not None else "no ground truth"
        self.query_one("#headline", Static).update(
            Text.assemble((f"{self.at + 1}/{len(self.images)}", "bold"), f"  {score}  ", (mode, "reverse"), f"  {image.name}")
        )
        self._draw(self.at, [(view, view.mode, view.room) for view in self.query(MaskView) if view.display])

    @work(thread=True, exclusive=True, group="draw", exit_on_error=False)
    def _draw(self, at: int, views: list[tuple[MaskView, Mode, tuple[int, int]]]) -> None:
        from tui.mask_drawing import draw

        worker = get_current_worker()
        if at != self.at or self.record is None:  # passed over while this waited for its turn
            return
        picture = self._picture(at)
        colours = class_colours(self.record.classes)
        drawn = []
        for view, mode, (columns, rows) in views:
            if worker.is_cancelled:
                return
            drawn.append((view, draw(picture, mode, colours, columns, rows) if columns and rows else ""))
        self.app.call_from_thread(self._take, at, picture, drawn)
        if at == self.at < len(self.images) - 1:
            self._picture(at + 1)  # most likely the next to be asked for

    def _read(self, at: int) -> Picture:
        from engine.result_images import read_picture

        return read_picture(self.images[at])

    def _take(self, at: int, picture: Picture, drawn: list[tuple[MaskView, list[Strip] | str]]) -> None:
        if at != self.at or not self.is_current:
            return
        for view, content in drawn:
            view.show(content)
        assert self.record is not None
        self.query_one("#legend Static", Static).update(legend(self.record.classes, picture))

    def on_screen_resume(self) -> None:
        self._ask()

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.state is WorkerState.ERROR:
            self.notify(f"{type(event.worker.error).__name__}: {event.worker.error}", severity="error", markup=False)


def legend(classes: list[str], picture: Picture) -> Table:
    """The classes in this image: their colours, shares of the pixels in prediction and truth, and IoU."""
    scored = picture.truth is not None
    table = Table(box=None, pad_edge=False, padding=(0, 0, 0, 1), expand=True, header_style="dim")
    table.add_column("class", overflow="ellipsis", no_wrap=True, ratio=1)
    for name in ("pred.", "true", "IoU") if scored else ("pred.",):
        table.add_column(name, justify="right", no_wrap=True)
    colours = class_colours(classes)
    for share in picture.shares:
        known = share.index < len(classes)
        colour = "rgb({},{},{})".format(*colours[share.index]) if known else style("bad")
        label = Text.assemble(("■ ", colour), classes[share.index] if known else f"label {share.index} is no class")
        true = [f"{share.true:.1%}", f"{share.IoU:.2f}"] if share.true is not None and share.IoU is not None else []
        table.add_row(label, f"{share.predicted:.1%}", *true)
    if picture.wrong is not None:
        table.add_row(Text.assemble(("■ ", "rgb(255,60,60)"), ("wrong", "dim")), "", f"{picture.wrong:.1%}", "")
    if picture.ignored:
        table.add_row(Text.assemble(("■ ", "rgb(128,128,128)"), ("ignored", "dim")), "", f"{picture.ignored:.1%}", "")
    return table
