"""What needs no Slurm: its words read, a record in their light, the preset's table and the options for it."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import preset
from engine.checkup import CheckupRequest
from engine.doctor import examine
from engine.errors import RequestError
from engine.events import Queued, Toggles
from engine.resuming import preset_hash
from engine.run import RunFolder, RunRecord
from engine.schema import Preset, SlurmTable
from engine.slurm import OVER, WAITING, Job, judged, read_jobs, seconds
from engine.slurm_job import as_job
from tests.conftest import write_shapes
from tests.screens import begun, new_run
from tests.training import write_preset
from tui import cli
from tui.run_state import RunState

ROOT = Path(__file__).parents[1]
WORDS = st.text(st.characters(blacklist_characters="|\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), max_size=30)
STATES = st.sampled_from([*sorted(WAITING | OVER), "RUNNING", "COMPLETING", "CANCELLED by 1000"])


@given(st.lists(st.tuples(st.integers(1, 10**8).map(str), STATES, WORDS, WORDS, WORDS), unique_by=lambda row: row[0]))
def test_jobs_are_read_as_they_are_told(rows: list[tuple[str, str, str, str, str]]) -> None:
    found = read_jobs("".join("|".join(row) + "\n" for row in rows))
    assert {job.id: (job.said, job.reason, job.nodes, job.name) for job in found.values()} == {row[0]: row[1:] for row in rows}
    assert all(job.state == job.said.split()[0] for job in found.values())
    assert all(job.waits + job.is_over <= 1 for job in found.values())


@given(st.text())
def test_anything_else_is_passed_over(text: str) -> None:
    assert all(number.isdigit() for number in read_jobs(text))


@given(st.integers(0, 9), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_times(days: int, hours: int, minutes: int, rest: int) -> None:
    span = timedelta(days=days, hours=hours, minutes=minutes, seconds=rest)
    clock = f"{hours:02d}:{minutes:02d}:{rest:02d}"
    whole = f"{days}-{clock}" if days else clock
    assert seconds(whole) == span.total_seconds()
    assert SlurmTable(time=whole).minutes == -(-span.total_seconds() // 60)
    assert SlurmTable(time=f"{days}-{hours}").minutes == days * 1440 + hours * 60
    assert SlurmTable(time=str(minutes)).minutes == minutes
    assert seconds("UNLIMITED") > seconds("9-00:00:00")


def a_record(**changes: Any) -> RunRecord:
    fields: dict[str, Any] = {
        "name": "PAN",
        "state": "queued",
        "preset": "pan",
        "model": "PAN",
        "toggles": {},
        "host": "gpu7",
        "pid": 1,
        "pid_started": 0.0,
        "created": time.time(),
        "epochs": 3,
        "slurm_job": "7",
    }
    return msgspec.convert(fields | changes, RunRecord)


def a_job(state: str, reason: str = "None", name: str = "PAN") -> dict[str, Job]:
    return read_jobs(f"7|{state}|{reason}|n[1-2]|{name}")


@pytest.mark.parametrize(
    ("state", "jobs", "judgement", "says"),
    [
        ("queued", a_job("PENDING", "Resources"), "queued", "waits: Resources"),
        ("queued", a_job("PENDING", "launch failed requeued held"), "queued", "waits: launch failed requeued held (scontrol release 7)"),
        ("lost", a_job("PENDING", "BeginTime"), "queued", "waits: BeginTime"),  # its last turn was killed
        ("queued", a_job("RUNNING"), "queued", "starts on n[1-2]"),
        ("queued", a_job("COMPLETING"), "queued", "leaves n[1-2]"),  # between two turns
        ("running", a_job("RUNNING"), "running", ""),
        ("running", a_job("PENDING"), "running", ""),  # an older answer than what the run tells itself
        ("lost", a_job("RUNNING"), "running", ""),  # it has begun its next turn
        ("queued", a_job("CANCELLED by 1000"), "stopped", ""),
        ("running", a_job("TIMEOUT", "TimeLimit"), "failed", ""),
        ("lost", a_job("NODE_FAIL"), "failed", ""),
        ("running", a_job("OUT_OF_MEMORY"), "failed", ""),
        ("queued", {}, "lost", ""),
        ("queued", a_job("PENDING", name="another's"), "lost", ""),  # the same number on another cluster
        ("running", {}, "running", ""),
    ],
)
def test_a_record_in_the_light_of_what_slurm_says(state: str, jobs: dict[str, Job], judgement: str, says: str) -> None:
    found = judged(a_record(state=state), jobs)
    assert (found.state, found.slurm_says) == (judgement, says)
    for job in jobs.values():
        if job.is_over:
            assert found.error is not None
            assert job.said in found.error
            assert (job.reason in found.error) == (job.reason != "None")


def test_a_run_that_stops_says_so_itself() -> None:
    """Its turn is not over yet, and Slurm knows only that."""
    stopping = a_record(slurm_says="stops")
    assert judged(stopping, a_job("RUNNING")).slurm_says == "stops"
    assert judged(stopping, a_job("PENDING", "BeginTime")).slurm_says == "waits: BeginTime"
    assert judged(stopping, a_job("CANCELLED")).slurm_says == ""


def test_what_has_ended_is_not_judged() -> None:
    record = a_record(state="stopped", ended=1.0)
    assert judged(record, a_job("NODE_FAIL")) == record


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_preset(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "launch.slurm.time=soon",
            '--set launch.slurm.time=soon: launch.slurm.time: \'soon\' is no time. Write "HH:MM:SS" or "D-HH:MM:SS"',
        ),
        ("launch.slurm.partitio=gpu", "Did you mean 'partition'?"),
        ("launch.slurm.gpus_per_node=-1", "launch.slurm.gpus_per_node"),
        ("launch.slurm=gpu", "wants a table"),
    ],
)
def test_mistakes_in_the_table(tiny: Path, override: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        preset.load(tiny, [override], environment={})
    assert said in str(caught.value)


def slurm_table(tiny: Path, *given: str) -> SlurmTable:
    """What `--slurm` makes of it."""
    options = argparse.Namespace(slurm=",".join(given), presets=[])
    found = preset.load(tiny, cli._slurm_overrides(options), environment={}).launch.slurm
    assert found is not None
    return found


def test_options_on_the_command_line(tiny: Path) -> None:
    found = slurm_table(tiny, "partition=8", "time=02:00:00", "gpus_per_node=4", "cpus-per-task=6", "nodelist=n7", "exclusive=true")
    assert (found.partition, found.minutes, found.gpus_per_node, found.cpus_per_task) == ("8", 120, 4, 6)
    assert found.extra == {"nodelist": "n7", "exclusive": True}
    with pytest.raises(RequestError, match="is not KEY=VALUE"):
        slurm_table(tiny, "partition=gpu", "exclusive")


def table(tiny: Path, *overrides: str) -> Preset:
    return preset.load(tiny, overrides, environment={})


def test_devices_follow_the_gpus_that_are_asked_for(tiny: Path) -> None:
    assert as_job(table(tiny)).launch.devices == 1
    assert as_job(table(tiny, "launch.slurm.gpus_per_node=2")).launch.devices == 2
    assert as_job(table(tiny, "launch.slurm.gpus_per_node=2", 'launch.devices="auto"')).launch.devices == 2
    assert as_job(table(tiny, 'launch.devices="auto"')).launch.devices == "auto"
    with pytest.raises(RequestError, match=r'launch.devices: is 1, and the job asks for 2 GPUs. Write launch.devices = "auto", or 2'):
        as_job(table(tiny, "launch.slurm.gpus_per_node=2", "launch.devices=1"))
    with pytest.raises(RequestError, match=r"cannot be shared out to 3 devices\. Set it to 3"):
        as_job(table(tiny, "launch.nodes=3"))


def test_the_table_does_not_decide_the_weights(tiny: Path) -> None:
    assert preset_hash(table(tiny)) == preset_hash(table(tiny, "launch.slurm.partition=gpu", "launch.nodes=2"))


def without_slurm(tmp_path: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """On a machine whose PATH has Python alone."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    environment = os.environ | {"PATH": str(tmp_path / "bin"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tui.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60, check=False)


def test_without_slurm_nothing_is_submitted(tiny: Path, tmp_path: Path) -> None:
    done = without_slurm(tmp_path, "--headless", tiny, "--slurm")
    assert done.returncode == 2
    assert done.stderr.count("segtui: ") == 1
    assert "Slurm is not here: there is no sbatch or squeue or scancel on the PATH" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--slurm", "--queue"), "Slurm has a queue of its own"),
        (("pan", "--slurm"), "Slurm has a queue of its own"),
        (("--slurm", "--rendezvous", "a:1"), "its nodes find each other"),
    ],
)
def test_what_does_not_go_with_it(tiny: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = without_slurm(tmp_path, "--headless", tiny, *arguments)
    assert done.returncode == 2
    assert said in done.stderr


def a_jobs_run(tmp_path: Path) -> RunFolder:
    return new_run(tmp_path / "runs", "PAN", state="queued", ended=None, slurm_job="7", pid=1)


def test_a_host_without_slurm_says_that_it_cannot_ask(tmp_path: Path) -> None:
    run = a_jobs_run(tmp_path)
    listed = without_slurm(tmp_path, "runs", "--json")
    assert listed.returncode == 0
    assert msgspec.json.decode(listed.stdout)["state"] == "queued"
    assert "what Slurm says of jobs 7 is not known: there is no squeue on the PATH here" in listed.stderr
    stopped = without_slurm(tmp_path, "stop", "PAN")
    assert stopped.returncode == 2
    assert "is job 7 of Slurm's, and cannot be stopped from here" in stopped.stderr
    assert run.read().state == "queued"


def test_a_run_that_was_a_job_is_not_resumed_here_by_mistake(tmp_path: Path, tiny: Path) -> None:
    run = new_run(tmp_path / "runs", "FPN", state="stopped", slurm_job="7")
    run.preset.write_text(preset.to_toml(table(tiny, "launch.slurm.partition=gpu")))
    run.resume.touch()
    done = without_slurm(tmp_path, "--headless", "--resume", "FPN")
    assert done.returncode == 2
    assert "Slurm is not here" in done.stderr
    assert run.read().state == "stopped"


def test_what_a_job_waits_for_is_shown_until_it_begins() -> None:
    state = RunState()
    state.add(Queued(job="7", says="waits: Priority"))
    assert str(state.queued) == "job 7 waits: Priority"
    state.add(begun("PAN"))
    assert state.queued is None


def test_the_doctor_does_not_judge_this_machine_for_a_job(tmp_path: Path) -> None:
    """A login node has no GPU; the job's nodes may."""
    write_preset(tmp_path, write_shapes(tmp_path / "data"))
    asked = table(tmp_path / "tiny.toml", f"data.root={tmp_path / 'data'}", "train.precision=fp16", "data.workers=200")
    found = {}
    for elsewhere in (False, True):
        request = CheckupRequest(asked.model_dump(exclude_none=True), Toggles(), str(tmp_path / "runs"), elsewhere=elsewhere)
        found[elsewhere] = examine(request, lambda *_: None)
    assert {"precision", "workers"} <= {finding.about for finding in found[False].findings}
    assert not {"precision", "workers", "memory", "open files"} & {finding.about for finding in found[True].findings}
    assert found[True].images == found[False].images
    assert found[True].checkpoint_bytes == found[False].checkpoint_bytes
