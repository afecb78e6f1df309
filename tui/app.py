"""The interactive program: its screens, its keys, and how it is left."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from textual import work
from textual.app import App
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.filter import LineFilter
from textual.screen import Screen

from engine.box_queue import BoxQueue
from engine.errors import RequestError
from engine.run import RunFolder, all_runs
from engine.visible import visible, visible_lines
from tui import clipboard, themes
from tui.commands import Commands
from tui.line_filter import HARMLESS
from tui.memory import remember_theme, remembered
from tui.places import state_folder
from tui.screens.help import HelpScreen
from tui.screens.runs import RunsScreen
from tui.screens.too_small import TooSmallScreen, is_too_small
from tui.widgets.tabs import TABS

if TYPE_CHECKING:  # the first screen does not wait for what only others need
    from engine.launch import Followed, Launched
    from engine.worker import AnyRequest

AnyScreen = TypeVar("AnyScreen", bound=Screen[Any])


def _launch() -> Screen[None]:
    from tui.screens.launch import LaunchScreen

    return LaunchScreen()


def _run() -> Screen[None]:
    from tui.screens.run import RunScreen

    return RunScreen()


def _checkpoints() -> Screen[None]:
    from tui.screens.checkpoints import CheckpointsScreen

    return CheckpointsScreen()


def _predict() -> Screen[None]:
    from tui.screens.predict import PredictScreen

    return PredictScreen()


LEAVING_S = 5.0


class SegtuiApp(App[None]):
    """Launch a preset, watch a run, look through runs and checkpoints. Leaving it never stops a run."""

    TITLE = "segtui"
    CSS_PATH: ClassVar = [
        "app.tcss",
        "screens/launch.tcss",
        "screens/runs.tcss",
        "screens/compare.tcss",
        "screens/run.tcss",
        "screens/checkpoints.tcss",
        "screens/predict.tcss",
        "screens/masks.tcss",
    ]
    MODES: ClassVar = {
        "launch": _launch,
        "runs": RunsScreen,
        "run": _run,
        "checkpoints": _checkpoints,
        "predict": _predict,
    }
    DEFAULT_MODE = "runs"
    COMMANDS: ClassVar = {Commands}
    ALLOW_SELECT = False  # Textual 8.2.8 can crash on a selection that a refresh removes (Textualize/textual#6643)
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-wide")]  # noqa: RUF012  as Textual declares it
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(number), f"switch_mode('{mode}')", name, show=False, id=f"app.{mode}")
            for number, (mode, name) in enumerate(TABS.items(), start=1)
        ),
        Binding("question_mark,f1", "help", "Help", id="app.help"),
        Binding("q", "quit", "Quit", id="app.quit"),  # Textual's own ctrl+q does so too, in a field as well
    ]

    def __init__(self, runs: Path, *, theme: str = "", keys: Mapping[str, str] | None = None) -> None:
        """`theme` and `keys` as in the user's configuration."""
        super().__init__()
        self.runs = runs
        self.sub_title = str(runs)
        self.launched: list[Launched] = []
        self.may_warm_up = False
        self.crash: str = ""
        """What was thrown at us, and where its traceback is."""
        self.register_theme(themes.colorblind())
        self.set_keymap(dict(keys or {}))
        if theme in self.available_themes:
            self.theme = theme
        themes.follow(self.current_theme)

    def on_mount(self) -> None:
        if not any(True for _ in all_runs(self.runs)) and not BoxQueue(self.runs).file.exists():
            self.switch_mode("launch")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            # A dropped line or a polite kill: put the terminal back as it was; the runs go on.
            loop.add_signal_handler(number, self._leave, 128 + number)

    def _leave(self, code: int) -> None:
        """Textual's own way out can wait for ever for a terminal that is gone."""
        self.exit(None, code)
        deadline = threading.Timer(LEAVING_S, os._exit, (code,))
        deadline.daemon = True
        deadline.start()

    def on_resize(self, event: Resize) -> None:
        covered = isinstance(self.screen, TooSmallScreen)
        if is_too_small(event.size) and not covered:
            self.push_screen(TooSmallScreen())
        elif covered and not is_too_small(event.size):
            self.pop_screen()

    def watch_theme(self, name: str) -> None:
        themes.follow(self.current_theme)
        if self.is_running:  # chosen now, in the palette
            try:
                remember_theme(name)
            except OSError as error:
                self.notify(f"the theme is not remembered: {state_folder()}: {error.strerror}", severity="warning", markup=False)

    def copy_to_clipboard(self, text: str) -> None:
        """By what can be confirmed first; says what became of it."""
        self._copy(text)

    @work(thread=True, exclusive=True, group="clipboard", exit_on_error=False)
    def _copy(self, text: str) -> None:
        if clipboard.copy(text):
            self.call_from_thread(self.notify, text, title="copied", markup=False)
            return
        self.call_from_thread(super().copy_to_clipboard, text)  # OSC 52, to which terminals give no answer
        if clipboard.copy_to_tmux(text):
            self.call_from_thread(self.notify, text, title="copied to tmux's buffer", markup=False)
        else:
            title = "sent to the terminal; if it did not take it, select it here"
            self.call_from_thread(self.notify, text, title=title, timeout=15, markup=False)

    def warm_up(self) -> None:
        """Something is likely to be started soon: have the libraries imported by then."""
        if self.may_warm_up:
            from engine.launch import warm_up

            self.may_warm_up = False
            threading.Thread(target=warm_up, daemon=True, name="warm-up").start()

    def start(self, request: AnyRequest) -> None:
        """Start a run in a process of its own and watch it."""
        from engine.launch import Launched
        from engine.worker import Request

        launched = Launched(request)
        self.launched.append(launched)
        self.follow(launched, keep=isinstance(request, Request) and request.resume is not None)

    def open_run(self, run: RunFolder) -> None:
        """Watch a run wherever it was started, or look at a finished one."""
        from engine.launch import Attached
        from tui.screens.run import RunScreen

        shown = self._switched("run", RunScreen).followed
        if shown is None or shown.is_over or shown.run is None or shown.run.path.absolute() != run.path.absolute():
            self.follow(Attached(run))  # also one that was started here: its queue has told its beginning already

    def follow(self, followed: Followed, *, keep: bool = False) -> None:
        from tui.screens.run import RunScreen

        self._switched("run", RunScreen).follow(followed, keep=keep)

    def predict(self, checkpoints: Sequence[Path], *, tta: bool = False) -> None:
        """Hand checkpoints over to the screen that predicts with them."""
        from tui.screens.predict import PredictScreen

        self._switched("predict", PredictScreen).offer(checkpoints, tta=tta)

    def browse(self, run: RunFolder) -> None:
        """The checkpoints of one run."""
        from tui.screens.checkpoints import CheckpointsScreen

        self._switched("checkpoints", CheckpointsScreen).only(run.path.name)

    def _switched(self, mode: str, kind: type[AnyScreen]) -> AnyScreen:
        """The lowest screen of a mode, in sight or about to be."""
        self.switch_mode(mode)
        screen = self.screen_stack[0]
        assert isinstance(screen, kind)
        return screen

    def key_of(self, binding_id: str) -> str:
        """The key of one of the app's own actions, as it is written on the screen."""
        bindings = self._bindings.copy()
        bindings.apply_keymap(self._keymap)
        return next(self.get_key_display(each) for _, each in bindings if each.id == binding_id)

    def action_help(self) -> None:
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(list(self.screen.active_bindings.values())))

    def tell(self, error: RequestError) -> None:
        self.notify(visible_lines(str(error)), severity="error", timeout=10, markup=False)

    def get_line_filters(self) -> Sequence[LineFilter]:
        return [*super().get_line_filters(), HARMLESS]

    def _fatal_error(self) -> None:
        """A defect of ours: the traceback goes to a file, not over the terminal."""
        self.crash = _logged(traceback.format_exc())
        self._close_messages_no_wait()

    def live(self) -> list[str]:
        """What was started here and goes on without us, in a line each; the queue, whoever started it."""
        lines = [_goes_on(each) for each in self.launched if not each.is_over and each.exit_code is None]
        queue = BoxQueue(self.runs)
        if queue.is_worked_on:
            from tui.queueing import command

            lines.append(f"the queue goes on: {command(queue)}")
        return lines


def _goes_on(launched: Launched) -> str:
    from engine.predict_request import PredictRequest

    if isinstance(launched.request, PredictRequest):
        return f"a prediction goes on; its result will be {launched.request.places.folder}"
    if launched.run is None:
        return "a run is starting and goes on: `segtui runs` lists it"
    return f"goes on: segtui attach {launched.run.path}"


def _logged(text: str) -> str:
    """One line on what was thrown, and where all of it is."""
    file = state_folder() / f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)  # a traceback quotes what it fell over
        file.write_text(text)
    except OSError:
        return text
    return f"segtui: a defect of ours, {text.strip().splitlines()[-1]}; the traceback is in {file}"


def run_app(runs: Path, *, theme: str = "", keys: Mapping[str, str] | None = None) -> int:
    """The program until the user leaves it; the exit code. Without a `theme`, the one that was chosen last."""
    _start_resource_tracker()
    app = SegtuiApp(runs, theme=theme or remembered().theme, keys=keys)
    app.may_warm_up = True
    app.run()
    for line in (*([app.crash] if app.crash else []), *app.live()):
        print(visible(line), file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    if app.launched:
        os._exit(app.return_code or 0)  # a usual exit would wait for the runs, which go on
    return app.return_code or 0


def _start_resource_tracker() -> None:
    """Now: started later, it would inherit descriptors that Textual has closed (Textualize/textual#3593).

    A run that goes on keeps its queue's semaphores, of which the tracker would warn on the terminal once we are gone.
    """
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker:UserWarning"
    try:
        resource_tracker.ensure_running()
    finally:
        del os.environ["PYTHONWARNINGS"]
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before
