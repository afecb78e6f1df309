"""Predict with the checkpoints that were handed over: the command it amounts to, its progress, and what it scored."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from rich.console import Group, RenderableType
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid, VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Header, Input, Label, Static

from engine.errors import RequestError, RunError
from engine.events import AnyEvent, Message, PredictionStarted, PredictionWritten, Progress, RunEnded, Validation
from engine.launch import Launched
from engine.views import DEFAULT, cost, parse_views
from tui import predicting
from tui.predict_view import class_table, ending, left, summary_table
from tui.screens.confirm import Confirm

if TYPE_CHECKING:
    from tui.app import SegtuiApp

READ_S = 0.2
FIELDS = {
    "split": ("split", "val", "train, val, test, or a json's name"),
    "data": ("data", "", "the data set's folder; empty: where the checkpoint was trained"),
    "tta": ("views", "", f"empty: the plain image; as in {DEFAULT}"),
    "weights": ("weights", "", "of an ensemble: 0.6,0.4 or fit; empty: equal"),
    "name": ("name", "", "of the result; empty: from the options"),
}


class PredictScreen(Screen[None]):
    """A form whose fields are options of `segtui predict`; the process that it starts checks everything again."""

    AUTO_FOCUS = "#result"  # in a field, the keys of the other screens would be typed
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r", "start(False)", "Start", id="predict.start"),
        Binding("ctrl+f", "start(True)", "Start, replace", id="predict.force"),
        Binding("ctrl+s", "stop", "Stop", id="predict.stop"),
        Binding("escape", "app.switch_mode('checkpoints')", "Checkpoints", id="predict.back"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.checkpoints: list[Path] = []
        self.launched: Launched | None = None
        self._forget()

    @property
    def segtui(self) -> SegtuiApp:
        return cast("SegtuiApp", self.app)

    def _forget(self) -> None:
        self.started: PredictionStarted | None = None
        self.progress: Progress | None = None
        self.scores: list[Validation] = []
        self.messages: list[Message] = []
        self.written: PredictionWritten | None = None
        self.ended: RunEnded | None = None
        self.error = ""

    def compose(self) -> ComposeResult:
        yield Header(icon="")
        yield Static("", id="command")
        with Grid(id="form"):
            for name, (label, value, hint) in FIELDS.items():
                yield Label(label)
                yield Input(value, placeholder=hint, id=f"field-{name}", compact=True)
        with VerticalScroll(id="result", can_focus=True):
            yield Static("")
        yield Footer()

    def on_mount(self) -> None:
        self.sub_title = "predict"
        self._tell_command()
        self._draw()
        self.set_interval(READ_S, self._read)

    def offer(self, checkpoints: Sequence[Path], *, tta: bool) -> None:
        """Predict with these; a prediction that runs goes on, and is still shown."""
        self.checkpoints = list(checkpoints)
        if self.is_mounted:
            self.query_one("#field-tta", Input).value = DEFAULT if tta else ""
            self._tell_command()
            self.query_one("#result").focus()
        else:
            self.call_after_refresh(self.offer, checkpoints, tta=tta)

    def arguments(self) -> list[str]:
        """Of `segtui predict`."""
        values = {name: self.query_one(f"#field-{name}", Input).value.strip() for name in FIELDS}
        given = [str(path) for path in self.checkpoints]
        for name, value in values.items():
            given += [f"--{name}", value] if value else []
        given += ["--softvote"] if len(self.checkpoints) > 1 else []
        return [*given, "--runs", str(self.segtui.runs)]

    @on(Input.Changed)
    def _tell_command(self) -> None:
        text = Text()
        if not self.checkpoints:
            text.append(
                "choose a checkpoint first: in Checkpoints (4), i infers, t adds views, v votes with the marked ones", style="yellow"
            )
        else:
            text.append("segtui predict " + shlex.join(self.arguments()), style="dim")
            text.append(f"\n{self._cost()}")
        self.query_one("#command", Static).update(text)

    def _cost(self) -> str:
        views = self.query_one("#field-tta", Input).value.strip()
        try:
            found = parse_views(views) if views else ()
        except RequestError as error:
            return str(error)
        each = f"{len(found)} views, {cost(found):.3g} plain passes an image" if found else "one pass an image"
        return f"{each}, {len(self.checkpoints)} members" if len(self.checkpoints) > 1 else each

    @on(Input.Submitted)
    def _submitted(self) -> None:
        self.action_start(False)

    def action_start(self, force: bool) -> None:
        from tui.cli import predict_parser

        if self.launched is not None and not self.launched.is_over:
            self.notify("a prediction is running: ctrl+s stops it", severity="warning")
            return
        if not self.checkpoints:
            self.notify("choose a checkpoint first (4)", severity="warning")
            return
        given = [*self.arguments(), *(["--force"] if force else [])]
        self._forget()
        try:
            self.launched = Launched(predicting.request(predict_parser().parse_args(given), given))
        except RequestError as error:
            self.error = str(error)
        else:
            self.segtui.launched.append(self.launched)
            self.query_one("#result").focus()
        self._draw()

    def action_stop(self) -> None:
        launched = self.launched
        if launched is None or launched.is_over:
            self.notify("nothing is being predicted")
            return

        def answered(yes: bool | None) -> None:
            if yes:
                launched.stop()

        self.app.push_screen(Confirm("Stop this prediction? Nothing of it will be kept."), answered)

    def _read(self) -> None:
        if self.launched is None or self.launched.is_over:
            return
        try:
            events = self.launched.poll(0.0)
        except (RequestError, RunError) as error:
            self.launched, self.error = None, str(error)
            self._draw()
            return
        for event in events:
            self._take(event)
        if events:
            self._draw()

    def _take(self, event: AnyEvent) -> None:
        match event:
            case PredictionStarted():
                self.started = event
            case Progress():
                self.progress = event
            case Validation():
                self.scores.append(event)
            case Message():
                self.messages.append(event)
            case PredictionWritten():
                self.written = event
            case RunEnded():
                self.ended = event

    def _draw(self) -> None:
        parts: list[RenderableType] = []
        if self.error:
            parts.append(Text(self.error, style="red"))
            parts += [Text("ctrl+f replaces it", style="dim")] if "--force" in self.error else []
        elif self.launched is not None and self.ended is None:
            done = (
                f"{self.progress.task} {self.progress.done}/{self.progress.total}  {left(self.progress)}"
                if self.progress
                else "starting ..."
            )
            parts.append(Text(done, style="bold"))
        parts += [Text(message.text, style="yellow" if message.level == "warning" else "") for message in self.messages]
        if self.ended is not None:
            parts += ending(self.ended, self.written)
        if self.started is not None and self.scores and self.ended is not None:
            parts += [summary_table(self.scores)] if len(self.scores) > 1 else []
            parts.append(class_table(self.started, self.scores))
        self.query_one("#result Static", Static).update(Group(*parts))
