"""Training on several devices of which one, or the process that keeps them, is killed."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from engine.run import RunFolder
from tests.faults.conftest import Row
from tests.ranks import TWO, finished, folder_of, kill_a_rank, rank_of, start, weights, write_place
from tests.training import Headless, kill, record, wait_for

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_place(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def whole(place: Path) -> Headless:
    """An undisturbed run on two devices."""
    return finished(start(place, "tiny.toml", "whole", *TWO))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_is_killed(whole: Headless, place: Path, row: Row, victim: int) -> None:
    path = kill_a_rank(place, victim)
    assert weights(path) == weights(folder_of(whole, place, "whole"))
    which = "that reports and saves" if victim == 0 else "that only trains"
    row(f"SIGKILL of the process of a device, the one {which}", "within an epoch", "all start again from the last state; equal weights")


def test_after_the_last_restart_the_run_has_failed(place: Path, row: Row) -> None:
    run = start(place, "tiny.toml", "given_up", *TWO, "--set", "launch.max_restarts=0")
    run.until(lambda event: event["type"] == "step")
    path = folder_of(run, place, "given_up")
    kill(rank_of(path, 1).pid)
    assert run.finish() == 1
    assert run.events[-1]["state"] == "failed"
    assert "rank 1" in run.events[-1]["error"]
    assert "SIGKILL" in run.events[-1]["error"]
    assert record(path)["state"] == "failed"
    row("SIGKILL of the process of a device", "with no restart left", "the run fails, and says which process died and of what")


def test_the_killed_worker_takes_its_ranks_along_and_one_device_goes_on(place: Path, row: Row) -> None:
    run = start(place, "tiny.toml", "lost", *TWO)
    run.until(lambda event: event["type"] == "step" and event["step"] >= 2)
    path = folder_of(run, place, "lost")
    ranks = psutil.Process(record(path)["pid"]).children()
    kill(record(path)["pid"])
    assert run.finish() == 1
    assert run.events[-1]["state"] == "lost"
    wait_for(lambda: not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks), 20)
    assert RunFolder(path).read().state == "lost"
    again = finished(Headless.start("--resume", path, "--devices", "1", WANDB_MODE="disabled", OMP_NUM_THREADS="1"))
    assert again.of("run_started")[0]["world_size"] == 1
    assert any("2 devices so far, now on 1" in event["text"] and "byte" in event["text"] for event in again.of("message"))
    row("SIGKILL of the process that keeps the devices'", "training on two", "they end too; lost; resumed on one device, which it says")


def test_a_second_signal_ends_at_once(place: Path, row: Row) -> None:
    run = start(place, "tiny.toml", "twice", *TWO, "--set", "train.epochs=500")
    run.until(lambda event: event["type"] == "step")
    path = folder_of(run, place, "twice")
    ranks = psutil.Process(record(path)["pid"]).children()
    run.process.send_signal(signal.SIGTERM)
    run.process.send_signal(signal.SIGTERM)
    assert run.finish() in (3, 130)  # the first may have been obeyed already
    assert record(path)["state"] == "stopped"
    wait_for(lambda: not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks), 20)
    row("two SIGTERM to a run on two devices", "at once", "stopped, and no process is left")
