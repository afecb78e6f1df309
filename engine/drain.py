"""What works a queue off, as a process of its own: `python -m engine.drain RUNS`. It starts runs and waits for them; no more.

A run is a process and a session of its own, so it outlives this one. The next to work on the queue waits for those that it
finds: a run's process has its entry's ticket in its environment from its first moment on, and its record has it from then on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import IO, Protocol

import psutil

from engine.box_devices import device_variables, devices
from engine.box_queue import BoxQueue, Entry, EntryState, QueueState
from engine.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_REQUEST, RequestError, RunError
from engine.events import RunEnded
from engine.launch import Launched, exit_code
from engine.run import TICKET, RunFolder, RunRecord, all_runs, process_is
from engine.worker import Request

TICK_S = 0.25
FINISHING_S = 60.0
"""After a run's end its process may still hand over to W&B; that is bounded there. So long it keeps its devices."""


@dataclass(frozen=True)
class Outcome:
    """What became of an entry. "queued" is one whose process is gone before it had begun a run."""

    state: EntryState
    exit_code: int | None = None
    error: str | None = None


class Job(Protocol):
    """An entry at work. `run` is None until its folder is known."""

    @property
    def run(self) -> RunFolder | None: ...

    def poll(self) -> Outcome | None:
        """None as long as it needs its devices."""


class Started:
    """A run that this process started."""

    def __init__(self, entry: Entry, runs: Path) -> None:
        request = Request(entry.preset, entry.toggles, runs)
        variables = {TICKET: entry.ticket} | device_variables(entry.devices)
        folder = entry.folder if os.path.isdir(entry.folder) else runs  # noqa: PTH112
        with contextlib.chdir(folder), _environment(variables):
            self._launched = Launched(request)
        self._ended: RunEnded | None = None
        self._ended_at = 0.0

    @property
    def run(self) -> RunFolder | None:
        return self._launched.run

    def poll(self) -> Outcome | None:
        try:
            events = self._launched.poll(0)
        except RequestError as error:
            return Outcome("failed", EXIT_REQUEST, str(error))
        except RunError as error:
            stopped = self._launched.exit_code == EXIT_INTERRUPTED
            return Outcome("stopped" if stopped else "failed", self._launched.exit_code or EXIT_FAILED, str(error))
        for event in events:
            if isinstance(event, RunEnded):
                self._ended, self._ended_at = event, time.monotonic()
        if self._ended is None or not (self._launched.join(0) or time.monotonic() > self._ended_at + FINISHING_S):
            return None
        return Outcome(self._ended.state, exit_code(self._ended), self._ended.error)


class Adopted:
    """A run that an earlier process started, told from its files."""

    def __init__(self, entry: Entry, runs: Path) -> None:
        self._entry, self._runs = entry, runs
        self.run: RunFolder | None = RunFolder(runs / entry.run) if entry.run else None

    def poll(self) -> Outcome | None:
        if self.run is None:
            is_starting = _has_process(self._entry.ticket)  # asked first: what it did before its end is seen below
            self.run = _run_of(self._entry.ticket, self._runs)
            if self.run is None:
                return None if is_starting else Outcome("queued")
        try:
            record = self.run.read()
        except RequestError as error:
            return Outcome("failed", EXIT_FAILED, str(error))
        if record.ticket != self._entry.ticket:
            return Outcome("lost", EXIT_FAILED, f"{self.run.path} was deleted, and is another run now")
        if record.state in ("running", "queued") or _is_finishing(record):
            return None
        return Outcome(record.state, exit_code(RunEnded(state=record.state)), record.error)


class Drain:
    """Starts what waits, in its order, wherever there are devices for it."""

    def __init__(self, queue: BoxQueue, devices: list[str]) -> None:
        self.queue, self.devices = queue, devices
        self.jobs: dict[int, Job] = {}
        self.given: dict[int, list[str]] = {}
        self.leaves = False
        """Asked to end; what runs goes on."""

    def work(self, lock: IO[str]) -> None:
        """Until nothing waits or runs any more. The lock is dropped while the state is ours: what is queued later finds it free."""
        for entry in self.queue.read().entries:
            if entry.state == "running":
                self._take(entry, Adopted(entry, self.queue.runs))
        while not self.leaves:
            self._look_after()
            self._start()
            if not self.jobs and not self.queue.read().waiting:
                with self.queue.changing() as state:
                    if not state.waiting:
                        lock.close()
                        return
            time.sleep(TICK_S)

    def _take(self, entry: Entry, job: Job) -> None:
        self.jobs[entry.id], self.given[entry.id] = job, entry.devices

    def _look_after(self) -> None:
        for number, job in list(self.jobs.items()):
            before = job.run
            outcome = job.poll()
            if outcome is not None or job.run != before:
                with self.queue.changing() as state:
                    _note(state.find(number), job.run, outcome)
            if outcome is not None:
                del self.jobs[number], self.given[number]
                say(f"{number}: {outcome.state}" + (f": {outcome.error}" if outcome.error else ""))

    def _start(self) -> None:
        """The state says that an entry runs before it does: killed in between, the next of us finds no process and queues it again."""
        while (entry := self._next(self.queue.read())) is not None:
            with self.queue.changing() as state:
                entry = self._next(state)  # it may have been cancelled since
                if entry is None:
                    return
                if entry.devices_wanted > len(self.devices):
                    text = f"wants {entry.devices_wanted} devices, and this box has {len(self.devices)}"
                    _note(entry, None, Outcome("failed", EXIT_REQUEST, text))
                    continue
                entry.state, entry.started, entry.devices = "running", time.time(), self._free[: entry.devices_wanted]
            say(f"{entry.id}: {entry.name} starts on {', '.join(entry.devices)}")
            try:
                self._take(entry, Started(entry, self.queue.runs))
            except OSError as error:
                with self.queue.changing() as state:
                    _note(state.find(entry.id), None, Outcome("failed", EXIT_FAILED, f"no process could be started: {error}"))

    @property
    def _free(self) -> list[str]:
        taken = {device for devices in self.given.values() for device in devices}
        return [device for device in self.devices if device not in taken]

    def _next(self, state: QueueState) -> Entry | None:
        """The first that waits, where it can start or never will. Nobody overtakes: what wants many devices would wait for ever."""
        if not state.waiting:
            return None
        entry = state.waiting[0]
        if entry.devices_wanted > len(self.devices):
            return entry
        running = [each.name for each in state.entries if each.state == "running"]
        replaces_a_live_one = entry.toggles.debug and entry.name in running
        return entry if entry.devices_wanted <= len(self._free) and not replaces_a_live_one else None


def say(text: str) -> None:
    """Into the queue's log."""
    print(time.strftime("%Y-%m-%d %H:%M:%S"), text, flush=True)


def _note(entry: Entry, run: RunFolder | None, outcome: Outcome | None) -> None:
    entry.run = run.path.name if run else None
    if outcome is not None:
        entry.state, entry.exit_code, entry.error = outcome.state, outcome.exit_code, outcome.error
        entry.ended = None if outcome.state == "queued" else time.time()


def _has_process(ticket: str) -> bool:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # another user's, or gone by now
            if process.environ().get(TICKET) == ticket:
                return True
    return False


def _run_of(ticket: str, runs: Path) -> RunFolder | None:
    for run in all_runs(runs):
        with contextlib.suppress(RequestError):  # a record that cannot be read is not that of a process that just began
            if run.read().ticket == ticket:
                return run
    return None


def _is_finishing(record: RunRecord) -> bool:
    is_new = record.ended is not None and time.time() - record.ended < FINISHING_S
    return is_new and process_is(record.pid, record.pid_started, record.booted)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """For processes that are started in the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def main() -> None:
    """Ends once a process works on the queue: a child of this one, which nobody waits for, or one that did so already."""
    queue = BoxQueue(Path(sys.argv[1]))
    lock = queue.take()
    if lock is None or os.fork():
        os._exit(0)
    code = EXIT_FAILED
    try:
        drain = Drain(queue, devices())

        def leave(_number: int, _frame: object) -> None:
            drain.leaves = True

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, leave)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        resource_tracker.ensure_running()  # now: started with a run it would have that run's ticket
        drain.work(lock)
        say(f"ends; {len(drain.jobs)} of its runs go on" if drain.jobs else "ends: nothing waits any more")
        code = EXIT_DONE
    except Exception:  # noqa: BLE001  the log must have it, whatever it is
        traceback.print_exc()
    finally:
        os._exit(code)  # a usual exit would wait for the runs


if __name__ == "__main__":
    main()
