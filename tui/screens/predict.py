"""Predict with chosen checkpoints: the command it amounts to, its progress, what it scored, and the results there are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from rich.console import Group, RenderableType
from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Input, Static

from engine.errors import RequestError, RunError
from engine.events import AnyEvent, Message, PredictionWritten, Progress, RunEnded
from engine.launch import Launched
from engine.results import Result, all_results, read_result
from engine.views import DEFAULT
from tui import predicting
from tui.headless_view import bar, shown_score
from tui.listings import duration
from tui.predict_view import ending, left, split_of, told_result
from tui.screens.confirm import Confirm
from tui.screens.masks import MasksScreen
from tui.screens.pick_checkpoints import PickCheckpoints
from tui.themes import level_style, style
from tui.widgets.footer import Footer
from tui.widgets.listing import Cell, Column, Listing
from tui.widgets.predict_form import Field, PredictForm
from tui.widgets.tabs import ScreenTabs

if TYPE_CHECKING:
    from tui.app import SegtuiApp

READ_S = 0.25
LIST_S = 5.0
COLUMNS = (
    Column("result", 18, at=60),
    Column("mIoU", 6, right=True),
    Column("of", 8),
    Column("images", 6, right=True, at=60),
    Column("age", 6, right=True),
    Column("with", 16, grows_to=120),
)


class PredictScreen(Screen[None]):
    """A form whose fields are options of `segtui predict`, which checks everything again; below it the results, one of
    them opened, or what is being predicted.
    """

    AUTO_FOCUS = "Listing"  # in a field, the keys of the other screens would be typed
    VERTICAL_BREAKPOINTS = [(0, "-short"), (18, "-tall")]  # noqa: RUF012  as Textual declares it
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open", id="predict.open"),
        Binding("m", "masks", "Masks", id="predict.masks"),
        Binding("c", "pick", "Checkpoints", id="predict.pick"),
        Binding("e", "edit", "Options", id="predict.edit"),
        Binding("ctrl+r", "start(False)", "Start", id="predict.start"),
        Binding("ctrl+f", "start(True)", "Start, replace", id="predict.force", show=False),
        Binding("ctrl+s", "stop", "Stop", id="predict.stop"),
        Binding("y", "copy", "Copy path", id="predict.copy", show=False),
        Binding("down,j", "scroll(1)", "Down", show=False, id="predict.down"),
        Binding("up,k", "scroll(-1)", "Up", show=False, id="predict.up"),
        Binding("escape", "back", "Back", id="predict.back"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.opened: Result | None = None
        self.results: dict[str, Result] = {}
        self._dirty = False
        self._forget()

    @property
    def segtui(self) -> SegtuiApp:
        return cast("SegtuiApp", self.app)

    @property
    def form(self) -> PredictForm:
        return self.query_one(PredictForm)

    @property
    def is_predicting(self) -> bool:
        return self.launched is not None and self.ended is None

    def _forget(self) -> None:
        """The last prediction, which has ended or was never there."""
        self.launched: Launched | None = None
        self.progress: Progress | None = None
        self.messages: list[Message] = []
        self.written: PredictionWritten | None = None
        self.ended: RunEnded | None = None
        self.error = ""

    def compose(self) -> ComposeResult:
        yield ScreenTabs()
        yield PredictForm(self.segtui.runs)
        yield Listing(COLUMNS, self._cells)
        yield Static("no results yet: c chooses checkpoints, ctrl+r predicts with them", classes="note", id="empty")
        with VerticalScroll(id="result", can_focus=True):
            yield Static("")
        yield Footer()

    def on_mount(self) -> None:
        self.segtui.warm_up()
        self._draw()
        self._list()
        self.set_interval(READ_S, self._read)
        self.set_interval(LIST_S, self._list)

    def on_screen_resume(self) -> None:
        self._dirty = True
        self._list()

    def offer(self, checkpoints: Sequence[Path], *, tta: bool) -> None:
        """Predict with these; a prediction that runs goes on, and is still shown."""
        if not self.is_mounted:
            self.call_after_refresh(self.offer, checkpoints, tta=tta)
            return
        for _ in self.app.screen_stack[1:]:
            self.app.pop_screen()
        self._choose(checkpoints, DEFAULT if tta else "")

    def _choose(self, checkpoints: Sequence[Path], views: str | None = None) -> None:
        self.form.offer(checkpoints, views)
        self.opened = None
        if not self.is_predicting:
            self._forget()
        self._draw()

    def action_pick(self) -> None:
        def picked(checkpoints: list[Path] | None) -> None:
            if checkpoints:
                self._choose(checkpoints)

        self.app.push_screen(PickCheckpoints(self.segtui.runs, self.form.checkpoints), picked)

    def action_edit(self) -> None:
        if self.opened is not None:
            self.action_back()
        self.query_one("#field-split").focus()

    # What is being predicted

    @on(Input.Submitted)
    def _submitted(self) -> None:
        self.action_start(False)

    def action_start(self, force: bool) -> None:
        from tui.cli import predict_parser

        if self.is_predicting:
            self.notify("a prediction is running: ctrl+s stops it", severity="warning")
            return
        if not self.form.checkpoints:
            self.notify("choose a checkpoint first: c", severity="warning")
            return
        given = [*self.form.arguments(), *(["--force"] if force else [])]
        self._forget()
        self.opened = None
        try:
            options = predict_parser().parse_args(given)
            options.runs = self.segtui.runs
            self.launched = Launched(predicting.request(options, given))
        except RequestError as error:
            self.launched, self.error = None, str(error)
        else:
            self.segtui.launched.append(self.launched)
            self._focus_pane()
        self._draw()

    def action_stop(self) -> None:
        launched = self.launched
        if launched is None or not self.is_predicting:
            self.notify("nothing is being predicted")
            return

        def answered(yes: bool | None) -> None:
            if yes:
                launched.stop()

        self.app.push_screen(Confirm("Stop this prediction? Nothing of it will be kept."), answered)

    def _read(self) -> None:
        if self.launched is not None and self.is_predicting:
            try:
                events = self.launched.poll(0.0)
            except (RequestError, RunError) as error:
                self.launched, self.error = None, str(error)
                self._dirty = True
            else:
                for event in events:
                    self._take(event)
                self._dirty = self._dirty or bool(events)
        if self._dirty and self.is_current:
            self._draw()

    def _take(self, event: AnyEvent) -> None:
        match event:
            case Progress():
                self.progress = event
            case Message():
                self.messages.append(event)
            case PredictionWritten():
                self.written = event
            case RunEnded():
                self.ended = event
                if event.state == "finished" and self.written is not None:
                    self._open(Path(self.written.files["record"]).parent)

    # What there is

    @work(thread=True, exclusive=True, group="list", exit_on_error=False)
    def _list(self) -> None:
        if self.is_current:
            self.app.call_from_thread(self._listed, {str(each.folder): each for each in all_results(self.segtui.runs)})

    def _listed(self, found: dict[str, Result]) -> None:
        self.results = found
        self.query_one(Listing).show(list(found))
        self._draw()

    def _cells(self, folder: str) -> list[Cell]:
        result = self.results[folder]
        record = result.record
        if record is None:
            bad = f"dim {style('bad')}"
            return [(result.folder.name, bad), ("", ""), ("", ""), ("", ""), ("", ""), (result.problem, bad)]
        score = shown_score(record.scores[-1].mIoU) if record.scores else ""
        age = duration(time.time() - record.created)
        members = ", ".join(member.name for member in record.members)
        return [(record.name, ""), (score, "bold"), (split_of(record), ""), (str(record.images), ""), (age, "dim"), (members, "")]

    @property
    def _under_cursor(self) -> Result | None:
        """The result that is opened, else the one under the cursor."""
        if self.opened is not None:
            return self.opened
        return self.results.get(self.query_one(Listing).selected or "") if self.query_one(Listing).display else None

    @on(Listing.Selected)
    def action_open(self) -> None:
        result = self._under_cursor
        if result is not None and self.opened is None:
            self._open(result.folder)

    @work(thread=True, exclusive=True, group="open", exit_on_error=False)
    def _open(self, folder: Path) -> None:
        self.app.call_from_thread(self._show, read_result(folder))

    def _show(self, result: Result) -> None:
        if result.record is None:
            self.notify(result.problem, severity="error", markup=False)
            return
        self.opened = result
        self._draw()
        self.query_one("#result").scroll_home(animate=False)

    def action_masks(self) -> None:
        result = self._under_cursor
        if result is None:
            self.notify("there is no result here to look at", severity="warning")
        elif result.record is None:
            self.notify(result.problem, severity="error", markup=False)
        else:
            self.app.push_screen(MasksScreen(result.folder))

    def action_copy(self) -> None:
        if result := self._under_cursor:
            self.app.copy_to_clipboard(str(result.folder.absolute()))

    def action_scroll(self, lines: int) -> None:
        self.query_one("#result").scroll_relative(y=lines, animate=False)

    def action_back(self) -> None:
        """Out of a field, then out of a result, then to the checkpoints."""
        if isinstance(self.focused, Field):
            self._focus_pane()
            self._draw()
        elif self.opened is not None or self.error or self.ended is not None:
            self.opened = None
            if not self.is_predicting:
                self._forget()
            self._list()
            self._draw()
        else:
            self.app.switch_mode("checkpoints")

    def _draw(self) -> None:
        self._dirty = False
        parts = self._parts()
        listing = self.query_one(Listing)
        listing.display = not parts and bool(self.results)
        self.query_one("#empty").display = not parts and not self.results
        self.query_one("#result").display = bool(parts)
        is_typing = isinstance(self.focused, Field)  # what is typed must not become keys because a prediction has ended
        self.form.set_class(self.opened is not None and not is_typing, "-away")
        self.query_one("#result Static", Static).update(Group(*parts))
        if not is_typing:
            self._focus_pane()

    def _parts(self) -> list[RenderableType]:
        """Of a prediction that runs or has ended, then of the result that is opened; none of the list."""
        parts: list[RenderableType] = []
        if self.error:
            parts.append(Text(self.error, style=style("bad")))
            parts += [Text("ctrl+f replaces it", style="dim")] if "--force" in self.error else []
        elif self.is_predicting:
            told = self.progress
            parts.append(bar(told.task, told.done, told.total, _counted(told)) if told else Text("starting ...", style="bold"))
        parts += [Text(message.text, style=level_style(message.level)) for message in self.messages]
        if self.ended is not None and self.ended.state != "finished":
            parts += ending(self.ended, None)
        if self.opened is not None and self.opened.record is not None:
            parts += told_result(self.opened.folder, self.opened.record)
        return parts

    def _focus_pane(self) -> None:
        result = self.query_one("#result")
        (result if result.display else self.query_one(Listing)).focus()


def _counted(progress: Progress) -> str:
    return f"{progress.done}/{progress.total}  {left(progress)}"
