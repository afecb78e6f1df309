"""Start a run in a process of its own, follow it, attach to it, stop it."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import socket
import sys
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Protocol

import msgspec

from engine import errors, slurm
from engine.errors import Problem, RequestError, RunError
from engine.events import AnyEvent, EventReader, Queued, RunEnded, State, decode
from engine.run import RunFolder, RunRecord, conclude, process_is
from engine.slurm import JobWatch
from engine.system import out_of_memory_kills
from engine.worker import AnyRequest, Crashed, Refused, Request, main

QUEUE_EVENTS = 2000
BLOCK_BYTES = 1 << 18
"""Of a log that is read at once: a screen that reads it answers keys between."""
ANSWER_S = 10.0
"""A worker answers before its first numbered event, or within moments of it."""


_is_warm = False


def warm_up() -> None:
    """Keep a process ready that has the libraries imported; runs started from then on begin seconds earlier.

    Returns once it is ready, after about ten seconds: call it from a daemon thread, once. It ends with this process;
    the runs that came from it go on. Where it cannot be had, every run imports for itself.
    """
    global _is_warm
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["engine.warm"])
    first = context.Process(target=_nothing, daemon=True)
    try:
        first.start()  # waits for the imports
    except (OSError, EOFError):
        return
    first.join()
    _is_warm = first.exitcode == 0


def _nothing() -> None:
    pass


class Followed(Protocol):
    """A run seen from outside, wherever it was started. `run` is None until its folder is known."""

    run: RunFolder | None

    def poll(self, wait_s: float) -> list[AnyEvent]:
        """The events since the last call, in order and without gaps; waits up to `wait_s` for the first."""

    @property
    def is_over(self) -> bool:
        """Nothing more will come."""

    def stop(self) -> None:
        """Ask the run to stop after its step; asked again, to end at once."""


class Launched:
    """A run that this process started. Leaving without stopping it leaves it running."""

    def __init__(self, request: AnyRequest) -> None:
        context = multiprocessing.get_context("forkserver") if _is_warm else multiprocessing.get_context("spawn")
        resource_tracker.ensure_running()
        self.run: RunFolder | None = None
        self.request = request
        self._queue: multiprocessing.Queue[bytes] = context.Queue(QUEUE_EVENTS)
        self._answer, child_end = context.Pipe(duplex=False)
        self._process = context.Process(target=main, args=(request, child_end, self._queue), name="segtui worker", daemon=False)
        self._kills = out_of_memory_kills()
        with _no_main_module():
            self._process.start()
        child_end.close()
        self._next_seq = 1
        self._reader: EventReader | None = None
        self._over = False

    @property
    def is_over(self) -> bool:
        return self._over

    @property
    def exit_code(self) -> int | None:
        """As the shell counts: 128 + n for signal n. None while it runs."""
        code = self._process.exitcode
        return code if code is None or code >= 0 else 128 - code

    def poll(self, wait_s: float) -> list[AnyEvent]:
        """Raises RequestError where the worker refuses, RunError where it dies before it has a folder."""
        events: list[AnyEvent] = []
        ended = self._process.exitcode is not None  # asked first: what it wrote before its end is read below
        self._take_answer()
        try:
            event = decode(self._queue.get(timeout=wait_s))
            while True:
                events += self._in_order(event)
                event = decode(self._queue.get_nowait())
        except queue.Empty:
            pass
        if not events:  # of a run on several devices the file alone tells
            events = self._from_file()
        if ended:
            self._take_answer()
            events += self._last_words(events)
        self._over = self._over or any(isinstance(event, RunEnded) for event in events)
        return events

    def stop(self) -> None:
        if self._process.pid is not None and self._process.exitcode is None:
            os.kill(self._process.pid, signal.SIGTERM)

    def join(self, wait_s: float) -> bool:
        """Wait for the process after its last event; whether it is gone."""
        self._process.join(wait_s)
        return self._process.exitcode is not None

    def _take_answer(self, wait_s: float = 0.0) -> None:
        if self.run is None and self._answer.poll(wait_s):
            try:
                answer = self._answer.recv()
            except EOFError:  # it died without an answer
                return
            if isinstance(answer, Refused):
                self._process.join()
                raise answer.error
            if isinstance(answer, Crashed):
                self._process.join()
                raise RunError(f"the worker failed before the run began:\n{answer.traceback}")
            self.run = RunFolder(answer.folder)
            self._next_seq = answer.next_seq
            self._reader = EventReader(self.run.events)

    def _in_order(self, event: AnyEvent) -> list[AnyEvent]:
        """The event, with those before it that the full queue dropped: they are in the file."""
        if event.seq == 0:  # told before the run had a log
            return [event]
        self._take_answer(ANSWER_S)
        missed = self._from_file() if event.seq > self._next_seq else []
        if event.seq < self._next_seq:
            return missed
        self._next_seq = event.seq + 1
        return [*missed, event]

    def _from_file(self) -> list[AnyEvent]:
        """Everything that the file has and was not told yet; what the queue still brings of it is then passed over."""
        if self._reader is None:
            return []
        events = [event for event in self._reader.read() if event.seq >= self._next_seq]
        if events:
            self._next_seq = events[-1].seq + 1
        return events

    def _last_words(self, told: list[AnyEvent]) -> list[AnyEvent]:
        """The process is gone: what only the file still has, and how it died where it could not say so."""
        if self._over or any(isinstance(event, RunEnded) for event in told):
            return []
        if not isinstance(self.request, Request):
            events = self._from_file()
            return events if any(isinstance(event, RunEnded) for event in events) else [*events, self._end_of_job()]
        if self.run is None:
            raise RunError(f"the worker ended before the run began: {self._cause()}")
        events = self._from_file()
        if not any(isinstance(event, RunEnded) for event in events):
            record = self.run.read()
            if record.state == "lost" and record.pid == self._process.pid:
                events.append(conclude(self.run, "lost", self._cause()))
            else:  # it ended and could not log it, or somebody resumed it since: not ours to write
                events.append(RunEnded(state=record.state, error=record.error, time=time.time()))
        return events

    def _end_of_job(self) -> RunEnded:
        """A job leaves a whole result or none, and its exit code says which."""
        states: dict[int | None, State] = {errors.EXIT_DONE: "finished", errors.EXIT_INTERRUPTED: "stopped"}
        state = states.get(self.exit_code, "failed")
        return RunEnded(state=state, error=None if state == "finished" else self._cause(), time=time.time())

    def _cause(self) -> str:
        code = self._process.exitcode or 0
        if code >= 0:
            return f"its process ended with exit code {code}"
        killed = (out_of_memory_kills() or 0) > (self._kills or 0)
        return cause_of_signal(-code, out_of_memory=killed)


class Attached:
    """A run started elsewhere, or finished: told from its files; with `from_now`, without what it has told so far."""

    def __init__(self, run: RunFolder, *, from_now: bool = False) -> None:
        self.run: RunFolder | None = run
        self._folder = run
        self._reader = EventReader(run.events)
        if from_now:
            self._reader.offset = run.events.stat().st_size
        self._jobs = JobWatch()
        self._queued: Queued | None = None
        self._last: AnyEvent | None = None
        self._over = False

    @property
    def is_over(self) -> bool:
        return self._over

    def poll(self, wait_s: float) -> list[AnyEvent]:
        """A long history comes in blocks, one a call."""
        deadline = time.monotonic() + wait_s
        while True:
            record = self._jobs.judged({self._folder: self._folder.read()})[self._folder]
            events = self._reader.read(BLOCK_BYTES) or self._news_of_job(record)
            if not events and record.state not in ("running", "queued"):
                self._over = True
                if not isinstance(self._last, RunEnded):  # the record is written before the last event
                    ended = record.ended or time.time()
                    events = [RunEnded(state=record.state, error=record.error, traceback=record.traceback, time=ended)]
            self._last = events[-1] if events else self._last
            if events or self._over or time.monotonic() >= deadline:
                return events
            time.sleep(0.1)

    def stop(self) -> None:
        stop(self._folder)

    def _news_of_job(self, record: RunRecord) -> list[AnyEvent]:
        """That it waits, and what for; not in its log, which nobody writes meanwhile."""
        before = self._queued
        self._queued = Queued(job=record.slurm_job, says=record.slurm_says) if record.slurm_job and record.state == "queued" else None
        if self._queued is None or self._queued == before:
            return []
        return [msgspec.structs.replace(self._queued, time=time.time())]


def stop(run: RunFolder) -> None:
    """Ask a run to stop after its step; a Slurm job that still waits is cancelled, and Slurm's programs may take seconds.

    Raises RequestError where it does not run, or cannot be reached from this machine.
    """
    record = run.read()
    if slurm.is_open(record):
        slurm.stop(run, record)
        return
    if record.state not in ("running", "queued"):
        raise RequestError(Problem(f"is not running: it is {record.state}", file=str(run.path)))
    if record.host != socket.gethostname():
        raise RequestError(Problem(f"runs on {record.host}, not here", file=str(run.path), fix=f"stop it there: kill {record.pid}"))
    try:
        os.kill(record.pid, signal.SIGTERM)
    except ProcessLookupError:
        return  # it ended just now
    except PermissionError:
        raise RequestError(Problem("belongs to another user", file=str(run.path))) from None


def wait_until_over(run: RunFolder, wait_s: float) -> RunRecord:
    """The record once the run's process has gone, or after `wait_s` seconds."""
    deadline = time.monotonic() + wait_s
    record = run.read()
    while time.monotonic() < deadline and (
        run.read().ended is None if slurm.is_open(record) else process_is(record.pid, record.pid_started, record.booted)
    ):
        time.sleep(0.1)
    return slurm.read(run)


def cause_of_signal(number: int, *, out_of_memory: bool) -> str:
    """What killed a process, in words."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "unknown"
    text = f"its process was killed by signal {number} ({name})"
    if out_of_memory:
        return f"{text}: the kernel's out-of-memory killer. Lower data.workers, data.batch_size or data.image_size"
    return f"{text}; the kernel's log (`dmesg`) tells whether memory ran out" if number == signal.SIGKILL else text


@contextmanager
def _no_main_module() -> Iterator[None]:
    """spawn imports the launching program's main module again in the child; the worker must not import a screen."""
    main_module = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main_module


def exit_code(ended: RunEnded) -> int:
    """The command line's exit code for a run that ended so."""
    return {"finished": errors.EXIT_DONE, "stopped": errors.EXIT_STOPPED}.get(ended.state, errors.EXIT_FAILED)
