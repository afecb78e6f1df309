"""Runs as jobs of a real Slurm of two nodes: submitted, followed, stopped, queued again, preempted, and with a node that goes down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file
from textual.pilot import Pilot

from engine.events import EventReader
from engine.run import RunFolder
from tests.conftest import write_shapes
from tests.screens import headline, names, on, play, said, seen, until
from tests.slurm.cluster import Cluster, why_not
from tests.training import Headless, record, wait_for, write_preset
from tui.app import SegtuiApp
from tui.screens.runs import RunsScreen

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
NAME = "FPN-resnet18"
STEPS = 30
TIMEOUT_S = 200


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    if problem := why_not():
        pytest.fail(f"no Slurm to test with: {problem}")
    cluster = Cluster()
    yield cluster
    cluster.stop()


@pytest.fixture(autouse=True)
def _free(slurm: Cluster) -> Iterator[None]:
    yield
    slurm.clear()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slurm")
    write_preset(folder, write_shapes(folder / "data", train=26, val=7))
    return folder


def start(place: Path, runs: str, *arguments: str | Path) -> Headless:
    return Headless.start(place / "tiny.toml", "--runs", place / runs, "--deterministic", *arguments, **ENVIRONMENT)


def submit(place: Path, runs: str, *arguments: str) -> Headless:
    return start(place, runs, "--slurm", "time=00:30:00", *arguments)


def segtui(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tui.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | ENVIRONMENT, cwd=ROOT, timeout=150, check=False)


def listed(runs: Path) -> dict[str, Any]:
    """The only run, as `segtui runs` lists it."""
    done = segtui("runs", "--runs", runs, "--json")
    assert done.returncode == 0, done.stderr
    (row,) = (json.loads(line) for line in done.stdout.splitlines())
    return row  # type: ignore[no-any-return]


def tasks(run: Path) -> list[psutil.Process]:
    """The job's own processes, on both nodes."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cmdline()[-3:] == ["-m", "submitit.core._submit", str(run / "slurm")]:
                found.append(process)
    return found


def has_step(number: int) -> Any:
    return lambda event: event["type"] == "step" and event["step"] >= number


def weights(run: Path) -> dict[str, bytes]:
    """Byte for byte; the files differ in what they tell of the preset: one was a job."""
    tensors = load_file(run / "checkpoints" / "last.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def has_no_gap(run: Path, steps_in_all: int = STEPS) -> bool:
    """Every event counted, every step of the whole run told."""
    events = EventReader(run / "events.jsonl").read()
    steps = {event.step for event in events if hasattr(event, "images_per_s")}
    return [event.seq for event in events] == list(range(1, len(events) + 1)) and steps == set(range(1, steps_in_all + 1))


@pytest.fixture(scope="module")
def undisturbed(place: Path) -> dict[str, bytes]:
    """The weights of the same preset, trained without Slurm."""
    run = start(place, "local")
    assert run.finish(TIMEOUT_S) == 0, run.stderr()
    return weights(place / "local" / NAME)


def test_a_job_waits_runs_and_goes_on_after_a_requeue(slurm: Cluster, place: Path, undisturbed: dict[str, bytes]) -> None:
    runs, marker = place / "requeued", place / "go"
    slurm.fill(marker)
    run = submit(place, "requeued")
    run.until(lambda event: event["type"] == "queued" and event["says"] == "waits: Resources")
    job = listed(runs)["slurm_job"]
    assert (listed(runs)["state"], listed(runs)["slurm_says"]) == ("queued", "waits: Resources")
    marker.touch()
    run.until(has_step(8))
    assert record(runs / NAME)["state"] == "running"
    slurm.run("scontrol", "requeue", job)
    run.until(lambda event: event["type"] == "message" and "next turn" in event["text"])
    assert run.finish(TIMEOUT_S) == 0, (run.stderr(), run.events[-3:])
    first, second = run.of("run_started")
    assert first["resumed_step"] == 0
    assert second["resumed_step"] >= 8
    assert [step["step"] for step in run.of("step")] == list(range(1, STEPS + 1))
    assert has_no_gap(runs / NAME)
    assert (record(runs / NAME)["resumed"], record(runs / NAME)["slurm_job"]) == (1, job)
    assert weights(runs / NAME) == undisturbed


def test_stopped_resumed_and_preempted(slurm: Cluster, place: Path, undisturbed: dict[str, bytes]) -> None:
    run, path = submit(place, "stopped"), place / "stopped" / NAME
    run.until(has_step(5))
    done = segtui("stop", path)
    assert done.returncode == 0, done.stderr
    assert run.finish(TIMEOUT_S) == 3, run.stderr()
    assert (record(path)["state"], record(path)["error"], record(path)["slurm_says"]) == ("stopped", None, "")
    before = record(path)["slurm_job"]
    slurm.wait(lambda: slurm.state(before) == "FAILED")  # with the exit code of a run that was stopped
    refused = segtui("--headless", "--resume", path, "--slurm", "partition=nowhere")
    assert (refused.returncode, record(path)["state"], record(path)["slurm_job"]) == (2, "stopped", before)
    again = Headless.start("--resume", path, **ENVIRONMENT)  # a job again: it was one
    again.until(has_step(12))
    job = record(path)["slurm_job"]
    assert job != before
    marker = place / "urgent"
    urgent = slurm.fill(marker, "urgent")
    again.until(lambda event: event["type"] == "queued" and event["says"])
    assert RunFolder(path).read().state == "queued"
    marker.touch()
    slurm.wait(lambda: slurm.state(urgent) == "COMPLETED")
    assert again.finish(TIMEOUT_S) == 0, (again.stderr(), again.events[-3:])
    assert has_no_gap(path)
    assert (record(path)["resumed"], record(path)["slurm_job"]) == (2, job)
    assert weights(path) == undisturbed


def test_on_two_nodes_with_one_that_goes_down(slurm: Cluster, place: Path) -> None:
    run = submit(place, "nodes", "--nodes", "2", "--set", "train.resume_every=4", "--set", "train.epochs=2")
    path = place / "nodes" / NAME
    run.until(has_step(5))
    job = record(path)["slurm_job"]
    assert run.of("run_started")[0]["world_size"] == 2
    slurm.run("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
    run.until(lambda event: event["type"] == "queued" and event["says"])
    wait_for(lambda: not tasks(path))  # else Slurm starts it beside what is left there, and holds it then
    slurm.run("scontrol", "update", "NodeName=n2", "State=RESUME")
    assert run.finish(TIMEOUT_S) == 0, (run.stderr(), run.events[-3:])
    assert run.of("run_started")[-1]["resumed_step"] >= 4
    assert record(path)["slurm_job"] == job
    assert {"log.txt", "log-rank1.txt"} <= {each.name for each in path.iterdir()}
    assert has_no_gap(path, steps_in_all=12)
    slurm.wait(lambda: slurm.state(job) == "COMPLETED")


def test_cancelled_in_slurm(slurm: Cluster, place: Path) -> None:
    """Killed before its first step, where it cannot say anything."""
    run, path = submit(place, "cancelled"), place / "cancelled" / NAME
    run.until(lambda event: event["type"] == "queued")
    slurm.run("scancel", record(path)["slurm_job"])
    assert run.finish(TIMEOUT_S) == 3, run.stderr()
    assert record(path)["state"] == "stopped"
    assert "cancelled" in record(path)["error"].lower()


def test_a_waiting_job_is_cancelled_from_the_screens(slurm: Cluster, place: Path) -> None:
    marker = place / "never"
    slurm.fill(marker)
    run, path = submit(place, "screens"), place / "screens" / NAME
    run.until(lambda event: event["type"] == "queued" and event["says"] == "waits: Resources")
    run.process.send_signal(signal.SIGINT)
    assert run.finish() == 0
    assert "left" in run.stderr()
    job = record(path)["slurm_job"]

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: f"job {job} waits: Resources" in seen(app))
        assert names(app) == [NAME]
        await pilot.press("enter")
        await until(pilot, lambda: "Resources" in headline(app))
        assert "queued" in headline(app)
        await pilot.press("3")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
        await pilot.press("s")
        await until(pilot, lambda: f"Cancel job {job}?" in seen(app))
        await pilot.press("y")
        await until(pilot, lambda: f"job {job} was cancelled" in said(app))
        await until(pilot, lambda: "stopped" in seen(app))
        on(app, RunsScreen)

    play(place / "screens", scene, size=(80, 24))
    assert slurm.state(job) == "CANCELLED"
    assert record(path)["state"] == "stopped"
    assert "before it began" in record(path)["error"]


def test_what_slurm_refuses_leaves_nothing(slurm: Cluster, place: Path) -> None:
    run = submit(place, "refused", "--set", "launch.slurm.partition=nowhere")
    assert run.finish() == 2
    assert "Slurm refuses the job: invalid partition specified: nowhere" in run.stderr()
    assert [each.name for each in (place / "refused").glob("[!.]*")] == []


def test_what_the_job_refuses_is_told(slurm: Cluster, place: Path) -> None:
    """It waited, and meanwhile its data went away."""
    marker = place / "later"
    slurm.fill(marker)
    data = place / "moved"
    data.symlink_to(place / "data")
    run, path = submit(place, "late", "--set", f"data.root={data}"), place / "late" / NAME
    run.until(lambda event: event["type"] == "queued")
    data.unlink()
    marker.touch()
    assert run.finish(TIMEOUT_S) == 1, run.stderr()
    assert record(path)["state"] == "failed"
    assert str(data) in record(path)["error"]


def test_warned_killed_and_requeued_by_hand(slurm: Cluster, place: Path) -> None:
    """The warning before its time is over is sent as Slurm sends it. What kills the next turn is told in Slurm's words."""
    run, path = submit(place, "warned"), place / "warned" / NAME
    run.until(has_step(3))
    job = record(path)["slurm_job"]
    slurm.run("scancel", "--signal=TERM", job)
    run.until(lambda event: event["type"] == "message" and "next turn" in event["text"])
    run.until(has_step(8))
    assert "Restarts=1" in slurm.run("scontrol", "show", "job", job)
    for task in tasks(path):
        task.kill()
    assert run.finish(TIMEOUT_S) == 1
    assert record(path)["state"] == "failed"
    assert record(path)["error"].startswith(f"Slurm ended job {job}: FAILED")
    slurm.run("scontrol", "requeue", job)
    wait_for(lambda: record(path)["state"] == "running")
    again = Headless(attached(path))
    again.until(lambda event: event["type"] == "message" and "cut off" in event["text"])
    slurm.run("scancel", job)  # as others stop a job; it may still save what it has
    assert again.finish(TIMEOUT_S) == 3
    assert record(path)["state"] == "stopped"
    assert record(path)["error"].startswith(f"Slurm ended job {job}")
    assert record(path)["resumed"] == 2


def attached(run: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tui.cli", "attach", str(run), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | ENVIRONMENT, cwd=ROOT)
