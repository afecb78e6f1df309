"""What the working process executes: accept or refuse the request, then train, predict or vote, and tell.

It is its own session, so that a lost terminal does not reach it, and it writes everything of its run.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import errors
from engine.errors import RequestError
from engine.events import Toggles
from engine.predict_request import PredictRequest, ScoreRequest, VoteRequest
from engine.reporter import Queue, Reporter
from engine.run import RunFolder
from engine.streams import detach_streams, log_to

if TYPE_CHECKING:
    from engine.jobs import Work

LAST_WORDS_S = 10.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Request:
    """What a launcher asks for. `preset` is the resolved preset as plain values; `resume` is a run's folder.
    `claimed` is the folder of a run that was queued, and has not begun.

    `warnings` is what the doctor warned of, for the run's log; None where it was not asked: the worker then says what it notices itself.
    """

    preset: dict[str, Any]
    toggles: Toggles
    runs: Path
    resume: Path | None = None
    claimed: Path | None = None
    warnings: tuple[str, ...] | None = None


AnyRequest = Request | PredictRequest | VoteRequest | ScoreRequest


@dataclass(frozen=True)
class Accepted:
    """The folder of the run or the result to come: from here on its files tell everything, beginning with event number `next_seq`."""

    folder: Path
    next_seq: int


@dataclass(frozen=True)
class Refused:
    """Why nothing was started; nothing was written."""

    error: RequestError


@dataclass(frozen=True)
class Crashed:
    """A defect, or a machine that fails, before there was a run to log it."""

    traceback: str


class StopSignal:
    """SIGTERM or SIGINT once: stop after this step. Twice: end at once. Before the run began: leave nothing.

    The exception that does the last is lost where it arises in a fork's own handlers: then the run stops after its first step.

    Signals are counted by a thread on Python's wake-up descriptor: the main thread may be in one long call of a
    library, and sees two signals that arrive meanwhile as one, and late.
    """

    def __init__(self) -> None:
        self.asked = False
        self.work: Work | None = None
        self._arrivals, wake_up = os.pipe()
        os.set_blocking(wake_up, False)
        signal.set_wakeup_fd(wake_up, warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, self._in_main_thread)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        threading.Thread(target=self._count, daemon=True, name="signals").start()

    def __call__(self) -> bool:
        return self.asked

    def _in_main_thread(self, _number: int, _frame: object) -> None:
        if self.work is None:
            raise SystemExit(errors.EXIT_INTERRUPTED)

    def _count(self) -> None:
        while arrived := os.read(self._arrivals, 1):
            if arrived[0] not in STOP_SIGNALS:
                continue
            if self.work is not None and self.work.is_over:  # only W&B is still at work
                continue
            if self.asked and self.work is not None:
                self.work.end_at_once()
            self.asked = True


def main(request: AnyRequest, answer: Connection, listener: Queue) -> None:
    """The child's entry point. Its exit code is that of the command line."""
    os.setsid()
    has_log = isinstance(request, Request)  # a job has none any more once it has ended
    if has_log:
        listener.cancel_join_thread()  # events that nobody takes must not keep the process from ending; the log has them
    try:
        code = _work(request, answer, Reporter(listener))
        if not has_log:
            _end_after(LAST_WORDS_S, code)
        sys.exit(code)
    finally:
        for child in multiprocessing.active_children():
            child.kill()  # a loader worker ignores the SIGTERM with which multiprocessing would end it, and then waits for it


def _work(request: AnyRequest, answer: Connection, report: Reporter) -> int:
    early_output = detach_streams()
    stop = StopSignal()
    try:
        work = _open(request, report, stop)
    except RequestError as error:
        _answer(answer, Refused(error))
        return errors.EXIT_REQUEST
    except Exception:  # noqa: BLE001  a defect of ours, before there is a log to keep it
        _answer(answer, Crashed(traceback.format_exc()))
        return errors.EXIT_FAILED
    stop.work = work
    if work.folder is not None:
        log_to(RunFolder(work.folder).log, early_output)
        _answer(answer, Accepted(work.folder, work.next_seq))
    return work.run_to_end()


def _open(request: AnyRequest, report: Reporter, stop: StopSignal) -> Work:
    """The imports here take seconds, and each kind of work needs its own."""
    match request:
        case Request():
            from engine.group import open_training

            return open_training(request, report, stop)
        case PredictRequest():
            from engine.predict import open_prediction

            return open_prediction(request, report, stop)
        case VoteRequest():
            from engine.votes import open_vote

            return open_vote(request, report, stop)
        case ScoreRequest():
            from engine.scoring import open_score

            return open_score(request, report, stop)


def _end_after(seconds: float, code: int) -> None:
    """The last events are in the queue alone, and the process waits for them to be taken; not for ever."""
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()


def _answer(launcher: Connection, answer: Accepted | Refused | Crashed) -> None:
    with contextlib.suppress(OSError):  # the launcher may be gone by now, and the run goes on without it
        launcher.send(answer)
        launcher.close()
