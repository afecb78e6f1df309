"""Processes that are killed, stopped, or too many."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.faults.conftest import Row
from tests.faults.runs import (
    Reference,
    check_whole,
    listed_state,
    loader_workers,
    path_of,
    resume,
    resumed_to_the_end,
    saved,
    start,
    weights,
    worker,
)
from tests.training import record, wait_for

pytestmark = pytest.mark.faults


def test_a_loader_worker_is_killed(reference: Reference, tmp_path: Path, row: Row) -> None:
    parent = start(reference.preset, tmp_path)
    parent.until(saved("resume"))
    run = path_of(parent, tmp_path)
    loader_workers(worker(run))[0].kill()
    assert parent.finish() == 1
    assert "DataLoader worker" in parent.events[-1]["error"]
    assert "illed" in parent.events[-1]["error"]
    assert listed_state(run) == "failed"
    check_whole(run)
    assert resumed_to_the_end(run) == reference.weights
    row("SIGKILL of a data-loader worker", "after the first epoch", "the run fails and says so; resumed: equal weights")


def test_the_headless_parent_is_killed(reference: Reference, tmp_path: Path, row: Row) -> None:
    parent = start(reference.preset, tmp_path)
    parent.until(saved("resume"))
    run = path_of(parent, tmp_path)
    parent.process.kill()
    parent.process.wait()
    assert listed_state(run) == "running"
    wait_for(lambda: record(run)["state"] == "finished", 240)
    check_whole(run)
    assert weights(run) == reference.weights
    row("SIGKILL of the headless parent", "after the first epoch", "the run goes on as running to its end; equal weights")


def test_the_reader_of_the_queue_hangs(reference: Reference, tmp_path: Path, row: Row) -> None:
    """The worker neither waits nor hangs at its end; the reader, woken, tells every event once."""
    parent = start(reference.preset, tmp_path)
    parent.until(saved("resume"))
    run = path_of(parent, tmp_path)
    process = worker(run)
    parent.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: record(run)["state"] == "finished", 240)
    wait_for(lambda: not process.is_running() or process.status() == "zombie", 60)
    assert listed_state(run) == "finished"
    parent.process.send_signal(signal.SIGCONT)
    assert parent.finish() == 0
    told = check_whole(run)
    seqs = [event["seq"] for event in parent.events if event["seq"]]
    assert seqs == list(range(seqs[0], told[-1].seq + 1))
    assert weights(run) == reference.weights
    row(
        "The reader of the queue hangs",
        "SIGSTOP of the launching process after the first epoch, SIGCONT when the run is over",
        "the run finishes and its process ends; the reader then tells every event once; equal weights",
    )


def test_the_worker_is_stopped_and_continued(reference: Reference, tmp_path: Path, row: Row) -> None:
    parent = start(reference.preset, tmp_path)
    parent.until(saved("resume"))
    run = path_of(parent, tmp_path)
    process = worker(run)
    process.suspend()
    time.sleep(5)
    assert listed_state(run) == "running"
    process.resume()
    assert parent.finish() == 0, parent.stderr()
    check_whole(run)
    assert weights(run) == reference.weights
    row("SIGSTOP and SIGCONT of the worker", "for 5 s after the first epoch", "told as running all the while; equal weights")


def test_two_processes_resume_one_run(reference: Reference, tmp_path: Path, row: Row) -> None:
    parent = start(reference.preset, tmp_path)
    parent.until(saved("resume"))
    run = path_of(parent, tmp_path)
    worker(run).kill()
    assert parent.finish() == 1
    both = [resume(run), resume(run)]
    codes = [each.finish() for each in both]
    assert sorted(codes) == [0, 2]
    loser = both[codes.index(2)]
    assert "another process is running this run" in loser.stderr()
    assert not loser.of("run_started")
    assert record(run)["resumed"] == 1
    check_whole(run)
    assert weights(run) == reference.weights
    row("Two processes resume one run", "started at once", "one goes on, the other is told (exit code 2) and writes nothing; equal weights")
