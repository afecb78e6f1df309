"""W&B's own process: it may die or hang, the run does not care."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.conftest import Row
from tests.faults.runs import Reference, check_whole, listed_state, path_of, start, weights, worker
from tests.training import wait_for

pytestmark = pytest.mark.faults

STARTING_S = 60


def service_of(process: psutil.Process) -> psutil.Process:
    found: list[psutil.Process] = []

    def is_there() -> bool:
        found[:] = [child for child in process.children() if child.name() == "wandb-core"]
        return bool(found)

    wait_for(is_there, STARTING_S)
    return found[0]


@pytest.mark.parametrize(("number", "what"), [(signal.SIGKILL, "killed"), (signal.SIGSTOP, "hangs")])
def test_the_service_of_wandb(number: signal.Signals, what: str, reference: Reference, tmp_path: Path, row: Row) -> None:
    """More epochs would only give it more time: it starts while the run trains."""
    parent = start(reference.preset, tmp_path, WANDB_MODE="offline")
    parent.until(lambda event: event["type"] == "run_started")
    run = path_of(parent, tmp_path)
    service = service_of(worker(run))
    service.send_signal(number)
    began = time.monotonic()
    assert parent.finish() == 0, parent.stderr()
    assert listed_state(run) == "finished"
    assert time.monotonic() - began < 120
    check_whole(run)
    assert weights(run) == reference.weights
    assert not service.is_running() or service.status() == "zombie", "the service outlives the run"
    after_its_end = [line for line in (run / "log.txt").read_text().splitlines() if line.startswith("warning: W&B")]
    told = [event["text"] for event in parent.of("message") if event["level"] == "warning" and "W&B" in event["text"]]
    assert len(told + after_its_end) == 1, told + after_its_end
    row(
        f"The W&B process {'is killed' if what == 'killed' else 'hangs'}", f"{number.name} of wandb's service", "one warning; equal weights"
    )
