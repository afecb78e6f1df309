"""Work that is done whole or leaves nothing: predictions, votes, scores. Training, which can be resumed, is a session."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from engine.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, Stopped
from engine.events import RunEnded
from engine.failures import in_one_line
from engine.reporter import Reporter
from engine.system import out_of_memory_kills


class Work(Protocol):
    """What a worker does once a request is accepted. `folder` holds its events and log, where it has one."""

    next_seq: int

    @property
    def folder(self) -> Path | None: ...

    @property
    def is_over(self) -> bool:
        """Its end was told."""

    def run_to_end(self) -> int:
        """Whatever happens, tell how it ended; returns the exit code."""

    def end_at_once(self) -> None:
        """Tell the end now, from another thread; the process exits after it."""


class Job:
    """`work` does it; `clean` (told whether to keep the log) removes what it left before its end, and says where its log is."""

    def __init__(
        self, work: Callable[[], None], clean: Callable[[bool], str], report: Reporter, folder: Path | None = None, next_seq: int = 1
    ) -> None:
        self._work, self._clean, self._report = work, clean, report
        self.folder: Path | None = folder
        self.next_seq = next_seq
        self.is_over = False

    def run_to_end(self) -> int:
        kills = out_of_memory_kills()
        try:
            self._work()
        except Stopped:
            self._clean(False)
            return self._end(RunEnded(state="stopped", error="nothing was kept"), EXIT_INTERRUPTED)
        except Exception as error:  # noqa: BLE001  whatever it was: the log and the listener must have it
            traceback.print_exc()
            log = self._clean(True)
            where = f" (its log: {log})" if log else ""
            ended = RunEnded(state="failed", error=in_one_line(error, kills) + where, traceback=traceback.format_exc())
            return self._end(ended, EXIT_FAILED)
        return self._end(RunEnded(state="finished"), EXIT_DONE)

    def end_at_once(self) -> None:
        self._end(RunEnded(state="stopped", error="ended at once by a second signal"), EXIT_INTERRUPTED)
        os._exit(EXIT_INTERRUPTED)

    def _end(self, event: RunEnded, code: int) -> int:
        self.is_over = True
        self._report(event)
        return code
