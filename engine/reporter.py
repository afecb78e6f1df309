"""Where a worker's events go: the run's log first, then whoever listens."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

from engine.events import AnyEvent, EventLog, Message, Progress, RunEnded, encode

PROGRESS_EVERY_S = 0.25


class Queue(Protocol):
    """The launching process's end of a bounded multiprocessing queue."""

    def put_nowait(self, item: bytes, /) -> None: ...
    def cancel_join_thread(self) -> None: ...


class Reporter:
    """Numbers events, appends them to the log and offers them to the queue, which drops what nobody takes.

    Called from several threads. Before a run has its log, events are offered without a number (0) and kept; they are
    the log's first. Raises OSError where the log cannot be written; the listener is told all the same.
    """

    def __init__(self, listener: Queue | None) -> None:
        self._listener = listener
        self._lock = threading.Lock()
        self._log: EventLog | None = None
        self._early: list[AnyEvent] = []
        self._ended = False
        self.sinks: list[Callable[[AnyEvent], None]] = []

    def __call__(self, event: AnyEvent) -> None:
        with self._lock:
            event.time = event.time or time.time()
            if self._ended:  # the end is the last event; W&B may still have a word for the run's log.txt
                if isinstance(event, Message):
                    print(f"{event.level}: {event.text}", file=sys.stderr)
                return
            self._ended = isinstance(event, RunEnded)
            if self._log is None:
                self._early.append(event)
                self._offer(encode(event))
            else:
                try:
                    self._offer(self._append(self._log, event))
                except OSError:
                    event.seq = 0  # it is not in the log, and its number will be another's
                    self._offer(encode(event))
                    raise
        for sink in self.sinks:
            sink(event)

    def _offer(self, line: bytes) -> None:
        if self._listener is not None:
            with contextlib.suppress(queue.Full):
                self._listener.put_nowait(line)

    def open(self, log: EventLog) -> int:
        """From now on everything goes to `log`, after what it has. Returns the number of the next event."""
        with self._lock:
            for event in self._early:
                self._append(log, event)
            self._early.clear()
            self._log = log
            return log.last_seq + 1

    @staticmethod
    def _append(log: EventLog, event: AnyEvent) -> bytes:
        event.seq = log.last_seq + 1
        return log.append(event)


def task_progress(report: Reporter) -> Callable[[str, int, int], None]:
    """Progress events for what takes a while before the first step; quick things are not told."""
    began: dict[str, float] = {}
    told: dict[str, float] = {}

    def progress(task: str, done: int, total: int) -> None:
        now = time.monotonic()
        start = began.setdefault(task, now)
        if now - told.get(task, start) >= PROGRESS_EVERY_S or (done == total and task in told):
            told[task] = now
            report(Progress(task=task, done=done, total=total, per_s=done / max(now - start, 1e-9)))

    return progress
