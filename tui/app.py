"""The interactive program: its screens, its keys, and how it is left."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType

from engine.errors import RequestError
from engine.launch import Attached, Followed, Launched
from engine.predict_request import PredictRequest
from engine.run import RunFolder, all_runs
from engine.worker import AnyRequest, Request
from tui.screens.checkpoints import CheckpointsScreen
from tui.screens.help import HelpScreen
from tui.screens.launch import LaunchScreen
from tui.screens.predict import PredictScreen
from tui.screens.run import RunScreen
from tui.screens.runs import RunsScreen


class SegtuiApp(App[None]):
    """Launch a preset, watch a run, look through runs and checkpoints. Leaving it never stops a run."""

    TITLE = "segtui"
    CSS_PATH: ClassVar = [
        "app.tcss",
        "screens/launch.tcss",
        "screens/runs.tcss",
        "screens/run.tcss",
        "screens/checkpoints.tcss",
        "screens/predict.tcss",
    ]
    MODES: ClassVar = {
        "launch": LaunchScreen,
        "runs": RunsScreen,
        "run": RunScreen,
        "checkpoints": CheckpointsScreen,
        "predict": PredictScreen,
    }
    DEFAULT_MODE = "runs"
    ALLOW_SELECT = False  # Textual 8.2.8 can crash on a selection that a refresh removes (Textualize/textual#6643)
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-wide")]  # noqa: RUF012  as Textual declares it
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "switch_mode('launch')", "Launch", id="app.launch"),
        Binding("2", "switch_mode('run')", "Run", id="app.run"),
        Binding("3", "switch_mode('runs')", "Runs", id="app.runs"),
        Binding("4", "switch_mode('checkpoints')", "Checkpoints", id="app.checkpoints"),
        Binding("5", "switch_mode('predict')", "Predict", id="app.predict"),
        Binding("question_mark,f1", "help", "Help", id="app.help"),
        Binding("q,ctrl+q", "quit", "Quit", priority=False, id="app.quit"),
    ]

    def __init__(self, runs: Path) -> None:
        super().__init__()
        self.runs = runs
        self.launched: list[Launched] = []

    def on_mount(self) -> None:
        if not any(True for _ in all_runs(self.runs)):
            self.switch_mode("launch")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            # A dropped line or a polite kill: put the terminal back as it was; the runs go on.
            loop.add_signal_handler(number, self.exit)

    def start(self, request: AnyRequest) -> None:
        """Start a run in a process of its own and watch it."""
        launched = Launched(request)
        self.launched.append(launched)
        self.follow(launched, keep=isinstance(request, Request) and request.resume is not None)

    def open_run(self, run: RunFolder) -> None:
        """Watch a run wherever it was started, or look at a finished one."""
        self.switch_mode("run")
        screen = self.screen_stack[0]
        shown = screen.followed if isinstance(screen, RunScreen) else None
        if shown is None or shown.is_over or shown.run is None or shown.run.path.absolute() != run.path.absolute():
            self.follow(Attached(run))  # also one that was started here: its queue has told its beginning already

    def follow(self, followed: Followed, *, keep: bool = False) -> None:
        self.switch_mode("run")
        screen = self.screen_stack[0]
        if isinstance(screen, RunScreen):
            screen.follow(followed, keep=keep)

    def predict(self, checkpoints: Sequence[Path], *, tta: bool = False) -> None:
        """Hand checkpoints over to the screen that predicts with them."""
        self.switch_mode("predict")
        screen = self.screen_stack[0]
        if isinstance(screen, PredictScreen):
            screen.offer(checkpoints, tta=tta)

    def action_help(self) -> None:
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(list(self.screen.active_bindings.values())))

    def tell(self, error: RequestError) -> None:
        self.notify(str(error), severity="error", timeout=10, markup=False)

    def live(self) -> list[str]:
        """What was started here and goes on without us, in a line each."""
        return [_goes_on(each) for each in self.launched if not each.is_over and each.exit_code is None]


def _goes_on(launched: Launched) -> str:
    if isinstance(launched.request, PredictRequest):
        return f"a prediction goes on; its result will be {launched.request.places.folder}"
    if launched.run is None:
        return "a run is starting and goes on: `segtui runs` lists it"
    return f"goes on: segtui attach {launched.run.path}"


def run_app(runs: Path) -> int:
    """The program until the user leaves it; the exit code."""
    _start_resource_tracker()
    app = SegtuiApp(runs)
    app.run()
    for line in app.live():
        print(line, file=sys.stderr)
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
