"""What the doctor says of the preset in hand, as soon as it stays unchanged for a moment."""

from __future__ import annotations

import time

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static
from textual.worker import get_current_worker

from engine.checkup import Checkup, CheckupRequest, Report
from engine.errors import RunError
from engine.events import Progress
from tui.checkup_view import report_view
from tui.themes import style

SETTLED_S = 0.5
"""How long a preset stays unchanged before the doctor looks at it."""


class CheckupPanel(VerticalScroll, can_focus=True):
    """`report` is that of what was asked last; None until the doctor has looked."""

    def __init__(self) -> None:
        super().__init__(id="check")
        self.report: Report | None = None
        self._checkup: Checkup | None = None
        self._request: CheckupRequest | None = None

    def compose(self) -> ComposeResult:
        yield Static("")

    def examine(self, request: CheckupRequest) -> None:
        """Ask the doctor; what was asked before is passed over."""
        self._stop()
        self.report, self._request = None, request
        self._ask(request)

    def tell(self, text: str) -> None:
        """Instead of a report."""
        self._stop()
        self.report = self._request = None
        self.query_one(Static).update(Text(text))

    @work(thread=True, exclusive=True, group="check", exit_on_error=False)
    def _ask(self, request: CheckupRequest) -> None:
        worker = get_current_worker()
        time.sleep(SETTLED_S)
        if worker.is_cancelled:
            return
        self._checkup = checkup = Checkup(request)
        try:
            for answer in checkup:
                self.app.call_from_thread(self._answered, request, answer)
        except RunError as error:
            self.app.call_from_thread(self._answered, request, error)

    def _stop(self) -> None:
        """A doctor that nobody listens to any more; leaving the program would wait for it."""
        self.workers.cancel_group(self, "check")
        if self._checkup is not None:
            self._checkup.stop()
            self._checkup = None

    def on_unmount(self) -> None:
        self._stop()

    def _answered(self, request: CheckupRequest, answer: Progress | Report | RunError) -> None:
        if request is not self._request:
            return
        panel = self.query_one(Static)
        match answer:
            case Report():
                self.report = answer
                panel.update(report_view(answer))
            case Progress():
                panel.update(f"{answer.task} {answer.done}/{answer.total} ...")
            case RunError():
                panel.update(Text(str(answer), style=style("bad")))
