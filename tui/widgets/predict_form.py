"""The form of a prediction: its fields are options of `segtui predict`, and above them is the command that they amount to."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid, Vertical
from textual.widgets import Input, Label, Static

from engine.errors import RequestError
from engine.views import DEFAULT, cost, parse_views
from tui.headless_view import shown_path
from tui.themes import style

FIELDS = {
    "split": ("split", "val", "train, val, test, or a json's name"),
    "data": ("data", "", "a folder; empty: where the checkpoint was trained"),
    "tta": ("views", "", f"empty: the plain image; as in {DEFAULT}"),
    "weights": ("weights", "", "of an ensemble: 0.6,0.4 or fit; empty: equal"),
    "window": ("window", "", "side in pixels, for images too large for one pass"),
    "name": ("name", "", "of the result; empty: from the options"),
}


class Field(Input):
    """One of the form's; the arrows go from one to the next."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "app.focus_next", "Next field", show=False, id="field.next"),
        Binding("up", "app.focus_previous", "Previous field", show=False, id="field.previous"),
    ]


class PredictForm(Vertical):
    """`checkpoints` are those to predict with, `runs` the folder of all runs."""

    DEFAULT_CSS = """
    PredictForm { height: auto; }
    PredictForm #command { height: auto; max-height: 4; padding: 0 1; }
    PredictForm Grid { grid-size: 2; grid-columns: 10 1fr; grid-rows: 1; height: auto; padding: 0 1; margin: 0 0 1 0; }
    PredictForm Label { color: $text-muted; }
    """

    def __init__(self, runs: Path) -> None:
        super().__init__()
        self.runs = runs
        self.checkpoints: list[Path] = []

    def compose(self) -> ComposeResult:
        yield Static("", id="command")
        with Grid():
            for name, (label, value, hint) in FIELDS.items():
                yield Label(label)
                yield Field(value, placeholder=hint, id=f"field-{name}", compact=True)

    def on_mount(self) -> None:
        self._tell()

    def offer(self, checkpoints: Sequence[Path], views: str | None = None) -> None:
        """Predict with these; `views` are put in their field."""
        self.checkpoints = list(checkpoints)
        if views is not None:
            self.query_one("#field-tta", Input).value = views
        self._tell()

    def arguments(self) -> list[str]:
        """Of `segtui predict`."""
        values = {name: self.query_one(f"#field-{name}", Input).value.strip() for name in FIELDS}
        given = [shown_path(path) for path in self.checkpoints]
        for name, value in values.items():
            if value:
                given += [f"--{name}={value}"] if value.startswith("-") else [f"--{name}", value]
        given += ["--softvote"] if len(self.checkpoints) > 1 else []
        return given if self.runs == Path("runs") else [*given, "--runs", shown_path(self.runs)]

    @on(Input.Changed)
    def _tell(self) -> None:
        if self.checkpoints:
            text = Text.assemble(f"{self._cost()}\n", ("segtui predict " + shlex.join(self.arguments()), "dim"))
        else:
            text = Text(
                "choose a checkpoint first: c here; in Checkpoints i infers, t adds views, v votes with the marked ones", style("warning")
            )
        self.query_one("#command", Static).update(text)

    def _cost(self) -> str:
        views = self.query_one("#field-tta", Input).value.strip()
        try:
            found = parse_views(views) if views else ()
        except RequestError as error:
            return str(error)
        each = f"{len(found)} views, {cost(found):.3g} plain passes an image" if found else "one pass an image"
        return f"{each}, {len(self.checkpoints)} members" if len(self.checkpoints) > 1 else each
