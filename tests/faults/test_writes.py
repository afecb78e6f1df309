"""A single write that fails, at every length that can still be written: quick, and without a run."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from engine import atomic
from engine.events import EventLog, EventReader, Message
from engine.reporter import Reporter
from engine.run import process_is
from tests.faults.conftest import Row


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: a write fails in its middle, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


class Listener:
    """Takes what is offered, as the launching process does."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def put_nowait(self, item: bytes, /) -> None:
        self.lines.append(item)

    def cancel_join_thread(self) -> None:
        pass


def test_a_log_line_that_does_not_fit(tmp_path: Path, row: Row) -> None:
    """Room for every number of bytes of the third line: it is told to the listener, and the log goes on after the second."""
    room = 0
    while True:
        path, listener = tmp_path / f"{room}.jsonl", Listener()
        report = Reporter(listener)
        report.open(EventLog(path))
        for text in ("one", "two"):
            report(Message(level="info", text=text, time=1.5))
        whole = path.read_bytes()
        with largest_file(len(whole) + room):
            try:
                report(Message(level="info", text="three", time=1.5))
                break
            except OSError as error:
                assert error.filename == str(path)  # noqa: PT017  the loop ends where the line fits
        assert path.read_bytes() == whole
        assert b"three" in listener.lines[-1]
        report(Message(level="info", text="four", time=1.5))
        reader = EventReader(path)
        assert [(event.seq, event.text) for event in reader.read() if isinstance(event, Message)] == [(1, "one"), (2, "two"), (3, "four")]
        assert reader.unreadable == 0
        room += 1
    assert room == len(path.read_bytes()) - len(whole)
    row(
        "A log line that does not fit",
        "room for every number of its bytes",
        "the log is cut back to whole lines and goes on; the listener is told",
    )


def test_a_file_that_does_not_fit(tmp_path: Path, row: Row) -> None:
    path = tmp_path / "run.json"
    atomic.write(path, "before")
    for room in range(100):
        with largest_file(room), pytest.raises(OSError, match=r"run\.json"):
            atomic.write(path, "x" * 100)
        assert path.read_text() == "before"
        assert [each.name for each in tmp_path.iterdir()] == ["run.json"]
    row("A record that does not fit", "room for every number of its bytes", "the record is what it was, nothing half-written stays")


def test_a_clock_that_is_put_right_does_not_make_a_run_lost(monkeypatch: pytest.MonkeyPatch, row: Row) -> None:
    started, booted = psutil.Process().create_time(), psutil.boot_time()
    assert process_is(psutil.Process().pid, started, booted)
    for step in (-7200.0, -2.0, 3600.0):
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda step=step: booted + step)
        monkeypatch.setattr("psutil.boot_time", lambda step=step: booted + step)
        assert psutil.Process().create_time() == pytest.approx(started + step)
        assert process_is(psutil.Process().pid, started, booted)
        assert not process_is(psutil.Process().pid, started - 10, booted)
    row("The clock is put right", "by hours, back and forward, while a process of a run lives", "it is still known as the run's process")
