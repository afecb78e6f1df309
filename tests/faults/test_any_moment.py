"""SIGKILL of the worker, again and again in one run: at any moment, and inside the writing of a checkpoint."""

from __future__ import annotations

import random
import time
from pathlib import Path

import psutil
import pytest

from engine.events import Checkpoint, EventReader, RunStarted
from tests.conftest import write_shapes
from tests.faults.conftest import Row
from tests.faults.runs import check_whole, listed_state, path_of, resume, saved, start, weights, worker
from tests.training import Headless, wait_for, write_preset

pytestmark = [pytest.mark.faults, pytest.mark.timeout(2400)]

KILLS = 25
WRITES = 10
STARTS = 4
LEAST_INSIDE = 5
EPOCHS = KILLS + 3  # a resumed run is killed before it has ended its second epoch


def in_its_first_seconds(run: Path, parent: Headless, chance: random.Random) -> psutil.Process:
    """While it imports, reads the saved state or opens the run."""
    child: list[psutil.Process] = []

    def is_there() -> bool:
        child[:] = [each for each in psutil.Process(parent.process.pid).children() if "spawn_main" in " ".join(each.cmdline())]
        return bool(child)

    log = log_from_now(run)
    wait_for(is_there)
    deadline = time.monotonic() + chance.uniform(0, 12)
    while time.monotonic() < deadline and not log.read():
        time.sleep(0.002)
    return child[0]


def while_training(run: Path, parent: Headless, chance: random.Random) -> psutil.Process:
    """At any moment until its first epoch is saved."""
    reader = log_from_now(run)
    wait_for(lambda: parent.process.poll() is not None or any(isinstance(event, RunStarted) for event in reader.read()), 240)
    deadline = time.monotonic() + chance.uniform(0, 6)
    while time.monotonic() < deadline and not any(isinstance(event, Checkpoint) and event.kind == "resume" for event in reader.read()):
        time.sleep(0.002)
    return worker(run)


def inside_a_write(run: Path, parent: Headless, chance: random.Random) -> psutil.Process:
    """As soon as there is a half-written checkpoint: a random one of those that an epoch writes."""
    reader = log_from_now(run)
    wait_for(lambda: parent.process.poll() is not None or any(isinstance(event, RunStarted) for event in reader.read()), 240)
    wanted = chance.choice([".*.tmp", ".resume.pt.*.tmp"])
    deadline = time.monotonic() + 120
    while not list((run / "checkpoints").glob(wanted)):
        assert time.monotonic() < deadline, "nothing was written"
        assert parent.process.poll() is None, parent.stderr()
        time.sleep(0.0005)
    time.sleep(chance.uniform(0, 0.02))
    return worker(run)


def log_from_now(run: Path) -> EventReader:
    reader = EventReader(run / "events.jsonl")
    reader.read()
    return reader


def test_killed_at_any_moment_a_run_loses_only_what_was_not_saved(tmp_path: Path, row: Row) -> None:
    """After each of 25 kills all that is there loads, and the run is told as lost; at the end the weights are those of a quiet run."""
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    preset = write_preset(tmp_path, write_shapes(tmp_path / "data", train=14, val=4))
    quiet = start(preset, tmp_path / "quiet", EPOCHS)
    moments = [*[inside_a_write] * WRITES, *[in_its_first_seconds] * STARTS, *[while_training] * (KILLS - WRITES - STARTS)]
    chance.shuffle(moments)

    parent = start(preset, tmp_path / "runs", EPOCHS)
    parent.until(saved("resume"))
    run = path_of(parent, tmp_path / "runs")
    worker(run).kill()
    assert parent.finish() == 1
    inside = 0
    for number, moment in enumerate(moments, start=1):
        parent = resume(run)
        process = moment(run, parent, chance)
        process.kill()
        assert parent.finish() == 1, parent.stderr()
        leftovers = [file.name for file in (run / "checkpoints").glob(".*.tmp")]
        inside += moment is inside_a_write and bool(leftovers)
        told = check_whole(run)
        assert listed_state(run) == "lost"
        epochs = [event.epoch for event in told if isinstance(event, Checkpoint) and event.kind == "resume"]
        print(number, moment.__name__, leftovers, "saved epochs", epochs[-1])
    assert inside >= LEAST_INSIDE

    last = resume(run)
    assert last.finish() == 0, last.stderr()
    check_whole(run)
    assert not list(run.glob("**/*.tmp"))
    assert quiet.finish() == 0, quiet.stderr()
    assert weights(run) == weights(path_of(quiet, tmp_path / "quiet"))
    row(
        "SIGKILL of the worker",
        f"{KILLS} times in one run: {STARTS} while starting, {KILLS - WRITES - STARTS} at random moments of training, "
        f"{WRITES} while a checkpoint is written (at least {LEAST_INSIDE} of them left a half-written file)",
        "after every kill: all checkpoints load, the log is whole, `segtui runs` says lost, `--resume` goes on; in the end equal weights",
    )
