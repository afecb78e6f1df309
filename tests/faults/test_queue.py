"""The queue of a box, whose process or whose run is killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from engine.box_queue import BoxQueue
from tests.faults.conftest import Row
from tests.faults.runs import SMALL, Reference, check_whole, listed_state, resumed_to_the_end, weights, worker
from tests.queues import Queued, listed, queue_command, queue_process, queue_processes, quit_queue
from tests.training import wait_for

pytestmark = pytest.mark.faults


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "runs"
    quit_queue(tmp_path / "runs")


def start(reference: Reference, runs: Path) -> Queued:
    """Three times the run that nothing disturbs in the reference."""
    presets = [reference.preset] * 3
    return Queued.start(*presets, *SMALL, "--set", "train.epochs=4", "--runs", runs)


def test_the_process_of_the_queue_is_killed(reference: Reference, runs: Path, row: Row) -> None:
    """Twice: while a run trains, and while one starts and has no folder yet."""
    command = start(reference, runs)
    run = Path(command.until(lambda row: row["epoch"])["run"])
    queue_process(runs).kill()
    assert command.finish() == 1
    assert "nobody works on the queue any more, runs go on" in command.stderr()
    assert listed_state(run) == "running"
    assert [row["state"] for row in listed(runs)] == ["running", "queued", "queued"]
    assert queue_command("queue", "start", "--runs", runs).returncode == 0
    wait_for(lambda: listed(runs)[1]["state"] == "starting", 240)
    queue_process(runs).kill()
    assert queue_command("queue", "start", "--runs", runs).returncode == 0
    wait_for(lambda: BoxQueue(runs).read().is_over, 480)
    rows = listed(runs)
    assert [(row["state"], row["exit_code"]) for row in rows] == [("finished", 0)] * 3
    assert len(list(runs.glob("*/run.json"))) == 3
    for each in rows:
        check_whole(Path(each["run"]))
        assert weights(Path(each["run"])) == reference.weights
    row(
        "SIGKILL of the queue's process",
        "while a run trains; of the one that goes on, while the next run starts",
        "the runs go on; `segtui queue start` waits for them and starts the rest, each of them once; equal weights",
    )


def test_the_process_of_the_queue_is_killed_again_and_again(reference: Reference, runs: Path, row: Row) -> None:
    """At moments that have nothing to do with what it does: before, while and after a run starts."""
    queue, random, kills = BoxQueue(runs), Random(7), 0
    command = start(reference, runs)
    command.until(lambda row: row["state"] == "starting")
    while not queue.read().is_over:
        time.sleep(random.uniform(0, 4))
        for process in queue_processes(runs):
            process.kill()
            kills += 1
        queue_command("queue", "start", "--runs", runs)
    command.finish()
    assert kills > 5
    rows = listed(runs)
    assert [(row["state"], row["exit_code"]) for row in rows] == [("finished", 0)] * 3
    assert len(list(runs.glob("*/run.json"))) == 3
    for each in rows:
        check_whole(Path(each["run"]))
        assert weights(Path(each["run"])) == reference.weights
    row("SIGKILL of the queue's process, again and again", "every few seconds", "every run is started once; equal weights")


def test_a_run_of_the_queue_is_killed(reference: Reference, runs: Path, row: Row) -> None:
    command = start(reference, runs)
    run = Path(command.until(lambda row: row["epoch"])["run"])
    worker(run).kill()
    assert command.finish() == 1
    assert [row["state"] for row in listed(runs)] == ["lost", "finished", "finished"]
    assert listed_state(run) == "lost"
    assert weights(Path(listed(runs)[1]["run"])) == reference.weights
    check_whole(run)
    assert resumed_to_the_end(run) == reference.weights
    assert listed(runs)[0]["state"] == "finished"
    row("SIGKILL of a run of the queue", "after the first epoch", "told as lost, and the next one starts; resumed by hand: equal weights")
