"""A queue of runs for one box: what waits, what runs, what became of it.

One queue for each folder of runs. Its state is a file that whoever asks reads and changes; `engine.drain` is the process that
works it off. Where that process is gone, everything is still there, and another one goes on.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, get_args

import msgspec

from engine import atomic
from engine.errors import Problem, RequestError, RunError, did_you_mean
from engine.events import Toggles

if TYPE_CHECKING:
    from engine.schema import Preset

FORMAT = 1
EntryState = Literal["queued", "running", "finished", "stopped", "failed", "lost", "cancelled"]
Where = Literal["up", "down", "first"]
WHERE: tuple[Where, ...] = get_args(Where)
CHECKED_S = 1.0
"""Whoever asks whether the queue is worked on holds the lock for a moment; a process that wants to work on it waits so long."""


class Entry(msgspec.Struct, kw_only=True):
    """One run that was asked for, its preset resolved then: a later edit of the file does not change it. Times are unix seconds.

    `name` is that of its run, before a number is added; `run` the name of the run's folder, once it has one. `ticket` is in its
    process's environment and in its run's record. `folder` is where it was asked for. `devices` are those it was given, as
    CUDA_VISIBLE_DEVICES names them.
    """

    id: int
    name: str
    preset: dict[str, Any]
    toggles: Toggles
    ticket: str
    folder: str
    devices_wanted: int = 1
    asked: float
    state: EntryState = "queued"
    devices: list[str] = []
    run: str | None = None
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    error: str | None = None

    @property
    def is_over(self) -> bool:
        return self.state not in ("queued", "running")


class QueueState(msgspec.Struct, kw_only=True):
    """queue.json. Those that wait do so in the order of `entries`; a number is given once."""

    format: int = FORMAT
    host: str = ""
    next_id: int = 1
    entries: list[Entry] = []

    @property
    def waiting(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.state == "queued"]

    @property
    def is_over(self) -> bool:
        return all(entry.is_over for entry in self.entries)

    def find(self, number: int) -> Entry:
        """Raises RequestError where there is none."""
        for entry in self.entries:
            if entry.id == number:
                return entry
        known = did_you_mean(str(number), [str(entry.id) for entry in self.entries])
        raise RequestError(f"the queue has no entry {number}" + (f" ({known})" if known else ""))

    def move(self, number: int, where: Where) -> None:
        """As `BoxQueue.move`."""
        entry, waiting = self.find(number), self.waiting
        if entry.state != "queued":
            raise RequestError(f"entry {number} does not wait: it is {entry.state}")
        at = waiting.index(entry)
        to = {"up": max(at - 1, 0), "down": min(at + 1, len(waiting) - 1), "first": 0}[where]
        waiting.insert(to, waiting.pop(at))
        self.entries = [each for each in self.entries if each.state != "queued"] + waiting


class BoxQueue:
    """The queue of a folder of runs."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs.absolute()
        self.folder = self.runs / ".queue"
        self.file = self.folder / "queue.json"
        self.log = self.folder / "log.txt"

    def read(self) -> QueueState:
        """Raises RequestError where the file cannot be read."""
        try:
            state = msgspec.json.decode(self.file.read_bytes(), type=QueueState)
        except FileNotFoundError:
            return QueueState(host=socket.gethostname())
        except OSError as error:
            raise RequestError(Problem(f"cannot be read: {error.strerror}", file=str(self.file))) from None
        except (ValueError, RecursionError) as error:
            fix = "delete it to begin a new queue; runs are not touched"
            raise RequestError(Problem(f"is not a queue's record: {error}", file=str(self.file), fix=fix)) from None
        if state.format > FORMAT:
            raise RequestError(Problem("was written by a newer segtui", file=str(self.file), fix="use that one"))
        return state

    @contextmanager
    def changing(self) -> Iterator[QueueState]:
        """The state for the caller alone, written when the block ends well. Raises RequestError where it cannot be read or written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / ".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                state = self.read()
                yield state
                atomic.write(self.file, msgspec.json.encode(state))
        except OSError as error:
            fix = "free some space there, or name another folder with --runs"
            raise RequestError(Problem(f"cannot be written: {error.strerror}", file=str(self.folder), fix=fix)) from None

    def append(self, presets: Sequence[Preset], toggles: Toggles, devices: int = 1) -> list[int]:
        """Queue a run of each, with `devices` devices each; their numbers. Raises RequestError."""
        with self.changing() as state:
            _check_host(state, self.runs)
            state.host = socket.gethostname()
            first = state.next_id
            for number, table in enumerate(presets, first):
                entry = Entry(
                    id=number,
                    name=f"debug_{table.run_name}" if toggles.debug else table.run_name,
                    preset=table.model_dump(exclude_none=True),
                    toggles=toggles,
                    ticket=os.urandom(8).hex(),
                    folder=str(Path.cwd()),
                    devices_wanted=devices,
                    asked=time.time(),
                )
                state.entries.append(entry)
            state.next_id = first + len(presets)
        return list(range(first, state.next_id))

    def move(self, number: int, where: Where) -> None:
        """Change the order of those that wait; the first goes no further up. Raises RequestError where the entry does not wait."""
        self.read().find(number)  # a wrong number writes nothing
        with self.changing() as state:
            state.move(number, where)

    def cancel(self, number: int) -> None:
        """Take out one that waits. Raises RequestError where it has begun or is over."""
        self.read().find(number)
        with self.changing() as state:
            entry = state.find(number)
            if entry.state == "running":
                fix = f"stop its run, and the next one starts: segtui stop {self.runs / entry.run}" if entry.run else "wait until it has"
                raise RequestError(Problem(f"entry {number} {'runs' if entry.run else 'is starting and has no run yet'}", fix=fix))
            if entry.is_over:
                raise RequestError(f"entry {number} does not wait: it is {entry.state}")
            entry.state, entry.ended = "cancelled", time.time()

    def forget(self, number: int | None = None) -> None:
        """Forget those that are over, or that one of them. Their runs stay."""
        if any(entry.is_over for entry in self.read().entries):
            with self.changing() as state:
                state.entries = [entry for entry in state.entries if not entry.is_over or number not in (None, entry.id)]

    @property
    def is_worked_on(self) -> bool:
        """Whether a process works it off now."""
        try:
            with self._lock_file.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True

    def take(self) -> IO[str] | None:
        """The lock of the one process that works on it, dropped when it is closed or that process is gone; None where another has it."""
        file = self._lock_file.open("a")
        deadline = time.monotonic() + CHECKED_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file
            except BlockingIOError:
                if time.monotonic() > deadline:
                    file.close()
                    return None
                time.sleep(0.05)

    def start(self, *, take_over: bool = False) -> None:
        """Let a process of its own session work on it, if none does; returns once it is at work.

        Raises RequestError where the queue is another machine's (with `take_over` it becomes this one's), RunError where no such
        process can be had.
        """
        if self.is_worked_on:
            return
        if take_over:
            with self.changing() as state:
                state.host = socket.gethostname()
        state = self.read()
        _check_host(state, self.runs)
        if state.is_over:
            return
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "engine.drain", str(self.runs)],
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                cwd=Path(__file__).parent.parent,
                start_new_session=True,
                check=False,
            )
        finally:
            os.close(descriptor)
        if ended.returncode:
            raise RunError(f"the process that works on the queue could not be started; {self.log} says why")

    @property
    def _lock_file(self) -> Path:
        return self.folder / ".worker"


def _check_host(state: QueueState, runs: Path) -> None:
    if state.host != socket.gethostname() and not state.is_over:
        fix = "use it there; if that machine is gone, `segtui queue start` goes on with it here"
        raise RequestError(Problem(f"the queue of this folder is that of {state.host}", file=str(runs), fix=fix))
