"""Presets: choose one, set the toggles, see what it resolves to, start it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from rich.syntax import Syntax
from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.reactive import reactive
from textual.screen import Screen
from textual.widgets import Footer, Header, OptionList, Static
from textual.widgets.option_list import Option

from engine import catalogue, preset
from engine.errors import RequestError
from engine.events import Toggles
from engine.schema import Preset
from engine.worker import Request
from tui.widgets.filter import Filter

if TYPE_CHECKING:
    from tui.app import SegtuiApp

OWN = Path("presets")


class LaunchScreen(Screen[None]):
    """The project's own presets first, then the built-in ones. A preset is resolved in a thread as the cursor comes to it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r", "start", "Start", id="launch.start"),
        Binding("d", "switch('debug')", "Debug", id="launch.debug"),
        Binding("D", "switch('deterministic')", "Deterministic", id="launch.deterministic"),
        Binding("p", "switch('private')", "Private", id="launch.private"),
        Binding("slash", "filter", "Filter", id="launch.filter"),
        Binding("j", "cursor(1)", "Down", show=False),
        Binding("k", "cursor(-1)", "Up", show=False),
        Binding("escape", "clear", "Clear filter", show=False),
    ]

    toggles: reactive[Toggles] = reactive(Toggles)

    def __init__(self) -> None:
        super().__init__()
        self.resolved: Preset | None = None

    @property
    def segtui(self) -> SegtuiApp:
        return cast("SegtuiApp", self.app)

    def compose(self) -> ComposeResult:
        yield Header(icon="")
        yield Static("", id="toggles")
        yield Filter("filter presets")
        with Horizontal():
            yield OptionList(id="presets")
            with VerticalScroll(id="preset"):
                yield Static("")
        yield Footer()

    def on_mount(self) -> None:
        self.sub_title = "launch"
        self._list()
        self.query_one(OptionList).focus()

    def watch_toggles(self, toggles: Toggles) -> None:
        text = Text(" ")
        for name, key in (("debug", "d"), ("deterministic", "D"), ("private", "p")):
            on = getattr(toggles, name)
            text.append(f" {'■' if on else '□'} {name} ", style="bold reverse" if on else "dim")
            text.append(f"{key}  ", style="dim")
        self.query_one("#toggles", Static).update(text)

    def _list(self) -> None:
        wanted_by = self.query_one(Filter).matches
        options = self.query_one(OptionList)
        options.clear_options()
        for path in presets():
            if wanted_by(str(path)):
                options.add_option(Option(Text(path.stem if path.parent == preset.BUILT_IN else str(path)), id=str(path)))
        if options.option_count:
            options.highlighted = 0
        else:
            self.resolved = None
            self.query_one("#preset Static", Static).update("no preset matches the filter: esc clears it")

    @on(OptionList.OptionHighlighted)
    def _highlighted(self, event: OptionList.OptionHighlighted) -> None:
        self.resolved = None
        if event.option_id:
            self._resolve(event.option_id)

    @work(thread=True, exclusive=True, group="resolve", exit_on_error=False)
    def _resolve(self, path: str) -> None:
        if not catalogue.is_cached():
            text = "reading what torch, segmentation-models-pytorch and albumentations offer (once per version) ..."
            self.app.call_from_thread(self._say, Text(text, style="yellow"))
        try:
            found = preset.load(path)
        except RequestError as error:
            self.app.call_from_thread(self._say, Text(str(error), style="red"))
            return
        self.app.call_from_thread(self._resolved, path, found)

    def _resolved(self, path: str, found: Preset) -> None:
        options = self.query_one(OptionList)
        if options.highlighted is None or options.get_option_at_index(options.highlighted).id != path:
            return
        self.resolved = found
        self._say(Syntax(preset.to_toml(found), "toml", background_color="default", word_wrap=True))

    def _say(self, what: Text | Syntax) -> None:
        self.query_one("#preset Static", Static).update(what)

    @on(OptionList.OptionSelected)
    def _selected(self) -> None:
        self.action_start()

    def action_start(self) -> None:
        if self.resolved is None:
            self.notify("this preset has a mistake, or is still being read", severity="warning")
            return
        self.segtui.start(Request(self.resolved.model_dump(exclude_none=True), self.toggles, self.segtui.runs.absolute()))

    def action_switch(self, name: str) -> None:
        now = self.toggles
        values = {each: getattr(now, each) for each in now.__struct_fields__}
        self.toggles = Toggles(**(values | {name: not values[name]}))

    def action_cursor(self, rows: int) -> None:
        options = self.query_one(OptionList)
        (options.action_cursor_down if rows > 0 else options.action_cursor_up)()

    def action_filter(self) -> None:
        self.query_one(Filter).open()

    @on(Filter.Changed)
    def _filter(self) -> None:
        self._list()

    @on(Filter.Submitted)
    def _filtered(self) -> None:
        self.query_one(OptionList).focus()

    def action_clear(self) -> None:
        self.query_one(Filter).close()
        self.query_one(OptionList).focus()


def presets() -> list[Path]:
    """The project's own, then the built-in ones; by name. A base is no preset to start."""
    own = sorted(path for path in [*OWN.glob("*.toml"), *OWN.glob("*.py")] if path.stem != "base" and path.stem != "__init__")
    is_here = OWN.resolve() == preset.BUILT_IN.resolve()
    built_in = sorted(path for path in preset.BUILT_IN.glob("*.toml") if path.stem != "base")
    return own if is_here else [*own, *built_in]
