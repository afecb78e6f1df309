"""Presets: choose one, edit it, set the toggles, see what data and machine make of it, start it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.reactive import reactive
from textual.screen import Screen
from textual.widgets import OptionList, Static

from engine import catalogue, preset
from engine.box_queue import BoxQueue
from engine.checkup import CheckupRequest, Report
from engine.errors import RequestError, RunError
from engine.events import Toggles
from engine.preset import Draft, ProgramNotRun
from engine.preset_saving import save_as
from engine.schema import Preset
from engine.worker import Request
from tui.memory import remember_preset
from tui.preset_list import OWN, label
from tui.preset_rows import Row, override, rows
from tui.queueing import resolved
from tui.screens.ask import Ask
from tui.screens.confirm import Confirm, named
from tui.themes import style
from tui.widgets.checkup_panel import CheckupPanel
from tui.widgets.filter import Filter
from tui.widgets.footer import Footer
from tui.widgets.preset_form import Fields, PresetForm
from tui.widgets.preset_list import PresetList, path_of
from tui.widgets.tabs import ScreenTabs

if TYPE_CHECKING:
    from tui.app import SegtuiApp


class LaunchScreen(Screen[None]):
    """Everything that reads presets or data does so in a thread; what comes back for another preset is passed over."""

    AUTO_FOCUS: ClassVar[str | None] = "PresetList"  # keys that come before the first picture are not for the filter
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r", "start", "Start", id="launch.start"),
        Binding("d", "switch('debug')", "Debug", id="launch.debug"),
        Binding("D", "switch('deterministic')", "Deterministic", id="launch.deterministic"),
        Binding("p", "switch('private')", "Private", id="launch.private"),
        Binding("slash", "filter", "Filter", id="launch.filter"),
        Binding("a", "everything", "All arguments", id="launch.everything"),
        Binding("ctrl+s", "save", "Save as", id="launch.save"),
        Binding("v", "next_view", "Form/check", id="launch.view"),
        Binding("right,l", "focus_form", "Edit fields", show=False, id="launch.form"),
        Binding("left,h", "focus_list", "Presets", show=False, id="launch.list"),
        Binding("escape", "clear", "Back, or clear filter and marks", show=False, id="launch.clear"),
    ]

    toggles: reactive[Toggles] = reactive(Toggles)

    def __init__(self) -> None:
        super().__init__()
        self.path: Path | None = None
        self.draft: Draft | None = None
        self.edits: dict[Path, dict[str, str]] = {}
        """By preset and key, as overrides in the order in which they were made. They are kept while one looks at other presets."""
        self._everything = False
        self._may_run: set[Path] = set()
        """Presets in Python whose code the user asked for, by name; moving the cursor over one runs nothing."""
        self._not_run = False
        """Whether the preset under the cursor waits to be asked for."""

    @property
    def segtui(self) -> SegtuiApp:
        return cast("SegtuiApp", self.app)

    @property
    def resolved(self) -> Preset | None:
        """What would be launched; None while it is read, or has a mistake."""
        return self.draft.preset if self.draft else None

    def compose(self) -> ComposeResult:
        yield ScreenTabs()
        yield Static("", id="toggles")
        yield Filter("filter presets")
        with Horizontal():
            yield PresetList(lambda: [path for path, edits in self.edits.items() if edits])
            with Vertical(id="edit"):
                yield PresetForm()
                yield Static("", id="problem")
                yield Static("", id="command")
            yield CheckupPanel()
        yield Footer()

    def on_mount(self) -> None:
        self.add_class("-view-form")
        self._list()
        self.segtui.warm_up()

    def on_screen_resume(self) -> None:
        self._list()

    def watch_toggles(self, toggles: Toggles) -> None:
        text = Text(" ")
        for name, key in (("debug", "d"), ("deterministic", "D"), ("private", "p")):
            on = getattr(toggles, name)
            text.append(f" {'■' if on else '□'} {name} ", style="bold reverse" if on else "dim")
            text.append(f"{key}  ", style="dim")
        self.query_one("#toggles", Static).update(text)
        self._show_command()
        self._examine()

    # The list of presets

    def _list(self) -> None:
        if not self.query_one(PresetList).fill(self.query_one(Filter).matches):
            self._forget()
            self._tell("no preset matches the filter: esc clears it")

    @on(OptionList.OptionHighlighted)
    def _highlighted(self, event: OptionList.OptionHighlighted) -> None:
        if event.option_id is None:
            return
        path = path_of(event.option_id)
        if path != self.path or self.draft is None:
            self._forget()
            self.path = path
            self._read()

    def _forget(self) -> None:
        self.path = self.draft = None
        self._not_run = False
        self.query_one(PresetForm).show([])
        self.query_one(CheckupPanel).tell("")
        self._show_command()

    # The preset and its edits

    @property
    def overrides(self) -> list[str]:
        return list(self.edits.get(self.path, {}).values()) if self.path else []

    def _read(self) -> None:
        if self.path is not None:
            self._draft(self.path, self.overrides)

    @work(thread=True, exclusive=True, group="read", exit_on_error=False)
    def _draft(self, path: Path, overrides: list[str]) -> None:
        if not catalogue.is_cached():
            text = "reading what torch, segmentation-models-pytorch and albumentations offer (once per version) ..."
            self.app.call_from_thread(self._tell, text, "warning")
        try:
            may_run = path in self._may_run
            draft, file = (preset.draft(path, each, run_programs=may_run) for each in (overrides, ()))
        except ProgramNotRun as error:
            self.app.call_from_thread(self._held_back, path, error.problems[0].file)
            return
        except RequestError as error:
            self.app.call_from_thread(self._tell, str(error), "bad")
            return
        found = rows(draft, file, catalogue.catalogue(), everything=self._everything)
        self.app.call_from_thread(self._drafted, path, draft, found)

    def _held_back(self, path: Path, program: str) -> None:
        if path == self.path:
            self._not_run = True
            self._tell(f"{program}\n\na preset in Python is a program: enter runs it, to read it", "warning")

    def _run_program(self) -> None:
        if self.path is not None:
            self._may_run.add(self.path)
            self._not_run = False
            self._tell("")
            self._read()

    def _drafted(self, path: Path, draft: Draft, found: list[Row]) -> None:
        if path != self.path:
            return
        self.draft = draft
        self._tell("")
        self.query_one(PresetForm).show(found)
        self._show_command()
        self._examine()

    def _tell(self, text: str, meaning: str = "") -> None:
        """In the place of the form."""
        problem = self.query_one("#problem", Static)
        problem.update(Text(text, style=style(meaning) if meaning in ("bad", "warning") else ""))  # type: ignore[arg-type]
        problem.display = bool(text)
        self.query_one(PresetForm).display = not text

    @on(PresetForm.Typed)
    def _typed(self, event: PresetForm.Typed) -> None:
        self._judge(event.row, event.text, is_entered=False)

    @on(PresetForm.Entered)
    def _entered(self, event: PresetForm.Entered) -> None:
        self._judge(event.row, event.text, is_entered=True)

    @work(thread=True, exclusive=True, group="judge", exit_on_error=False)
    def _judge(self, row: Row, text: str, *, is_entered: bool) -> None:
        """Is this right in this field, whatever is wrong elsewhere? A new type may want arguments that come next."""
        path = self.path
        if path is None:
            return
        edits = {key: value for key, value in self.edits.get(path, {}).items() if key != row.key}
        is_back = text == row.before or (not text and not row.is_text)
        if not is_back:
            edits[row.key] = override(row, text)
        try:
            draft = preset.draft(path, list(edits.values()))
            wrong = [problem for key, problem in draft.mistakes if key == row.path]
            problem = wrong[0].message + (f". {wrong[0].fix}" if wrong[0].fix else "") if wrong and not is_back else ""
        except RequestError as error:
            problem = error.problems[0].message
        self.app.call_from_thread(self._judged, path, edits, text, problem, is_entered)

    def _judged(self, path: Path, edits: dict[str, str], text: str, problem: str, is_entered: bool) -> None:
        form = self.query_one(PresetForm)
        if path != self.path:
            return
        if problem or not is_entered:
            form.judge(text, problem)
            return
        if form.is_editing:
            form.take()
        self._take(edits)

    @on(PresetForm.Reset)
    def _reset(self, event: PresetForm.Reset) -> None:
        """An item of an array goes back with its array, where that is what was edited."""
        if self.path is not None:
            key = event.row.key
            self._take(
                {each: text for each, text in self.edits.get(self.path, {}).items() if each != key and not key.startswith(f"{each}.")}
            )

    def _take(self, edits: dict[str, str]) -> None:
        if self.path is None:
            return
        self.edits[self.path] = edits
        self.query_one(PresetList).draw_again()
        self._read()

    @on(PresetList.Marked)
    def _show_command(self) -> None:
        """What would do the same without a screen; no one command does it for marked presets with edits of their own."""
        marked = self.query_one(PresetList).marked
        paths = marked or ([self.path] if self.path else [])
        command = ""
        if paths and not any(self.edits.get(path) for path in marked):
            switches = [f"--{name}" for name in self.toggles.__struct_fields__ if getattr(self.toggles, name)]
            switches += ["--queue"] if len(marked) == 1 else []
            sets = [part for each in self.overrides for part in ("--set", each)] if not marked else []
            command = shlex.join(["segtui", "--headless", *map(label, paths), *switches, *sets])
        self.query_one("#command", Static).update(Text(command, style="dim"))

    # What the doctor says

    @property
    def report(self) -> Report | None:
        """Of the preset as it is now; None until the doctor has looked."""
        return self.query_one(CheckupPanel).report

    def _examine(self) -> None:
        panel = self.query_one(CheckupPanel)
        if self.resolved is None:
            panel.tell("" if self.draft is None else "the preset has mistakes: the form shows them")
        else:
            table = self.resolved.model_dump(exclude_none=True)
            panel.examine(CheckupRequest(table, self.toggles, str(self.segtui.runs.absolute())))

    # Keys

    @on(OptionList.OptionSelected)
    def _selected(self) -> None:
        if self._not_run:
            self._run_program()
        else:
            self.action_start()

    def action_start(self) -> None:
        """The preset under the cursor; with some marked, those, one after another."""
        resolved, marked = self.resolved, self.query_one(PresetList).marked
        if self.query_one(PresetForm).is_editing:
            self.notify("a field is open: enter takes it, esc leaves it as it was", severity="warning")
            return
        if marked:
            self._ask_to_queue(list(marked))
            return
        if resolved is None or self.path is None:
            self.notify("this preset has a mistake, or is not read yet", severity="warning")
            return
        if self.report is not None and self.report.is_refused:
            wrong = next(finding.text for finding in self.report.findings if finding.level == "error")
            self.notify(wrong, title="not started", severity="error", timeout=10, markup=False)
            return
        remember_preset(self.path)
        warnings = self.report.warnings if self.report is not None else None
        self.segtui.start(Request(resolved.model_dump(exclude_none=True), self.toggles, self.segtui.runs.absolute(), warnings=warnings))

    def _ask_to_queue(self, paths: list[Path]) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self._queue([(path, list(self.edits.get(path, {}).values())) for path in paths], self.toggles)

        what = "this preset" if len(paths) == 1 else f"{len(paths)} presets"
        toggles = "" if self.toggles == Toggles() else f" with the toggles {self.toggles}"
        question = (
            f"Queue {what}{toggles}?\n{named([label(path) for path in paths])}\n\nThey run one after another, one on each free device."
        )
        self.app.push_screen(Confirm(question), answered)

    @work(thread=True, group="queue", exit_on_error=False)
    def _queue(self, asked: list[tuple[Path, list[str]]], toggles: Toggles) -> None:
        queue = BoxQueue(self.segtui.runs)
        try:
            may_run = all(path in self._may_run for path, _ in asked if path.suffix == ".py")
            queue.append(resolved(asked, run_programs=may_run), toggles)
            queue.start()
        except (RequestError, RunError) as error:
            self.app.call_from_thread(self.notify, str(error), title="not queued", severity="error", timeout=10, markup=False)
            return
        self.app.call_from_thread(self._queued, [path for path, _ in asked])

    def _queued(self, paths: list[Path]) -> None:
        for path in reversed(paths):
            remember_preset(path)
        self.query_one(PresetList).unmark()
        self.notify(f"{len(paths)} queued", markup=False)
        self.app.switch_mode("runs")

    def action_save(self) -> None:
        path, overrides = self.path, self.overrides
        if path is None or self.resolved is None:
            self.notify("a preset with a mistake is not saved", severity="warning")
            return

        def answered(name: str | None) -> None:
            if not name:
                return
            try:
                file = save_as(OWN / f"{Path(name).name.removesuffix('.toml')}.toml", overrides, path)
            except RequestError as error:
                self.segtui.tell(error)
                return
            self.edits.pop(path, None)
            self.notify(f"saved as {file}", markup=False)
            self._list()
            self.query_one(PresetList).go_to(file)

        self.app.push_screen(Ask(f"Save under which name, in {OWN}/?", f"{path.stem}-2"), answered)

    def action_switch(self, name: str) -> None:
        now = self.toggles
        values = {each: getattr(now, each) for each in now.__struct_fields__}
        self.toggles = Toggles(**(values | {name: not values[name]}))

    def action_everything(self) -> None:
        self._everything = not self._everything
        self._read()

    def action_next_view(self) -> None:
        """Where there is no room for both: the form or what the doctor says."""
        self.toggle_class("-view-form", "-view-check")

    def action_focus_form(self) -> None:
        if self._not_run:
            self._run_program()
        self.query_one(Fields).focus()

    def action_focus_list(self) -> None:
        self.query_one(PresetList).focus()

    def action_filter(self) -> None:
        self.query_one(Filter).open()

    @on(Filter.Changed)
    def _filter(self, event: Filter.Changed) -> None:
        if event.input is self.query_one(Filter):
            self._list()

    @on(Filter.Submitted)
    def _filtered(self) -> None:
        self.action_focus_list()

    def action_clear(self) -> None:
        """From the form to the list; from the list to all presets, none of them marked."""
        if self.focused is self.query_one(PresetList):
            self.query_one(Filter).close()
            self.query_one(PresetList).unmark()
        self.action_focus_list()
