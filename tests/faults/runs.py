"""Small runs to disturb, and what must hold of any run whatever was done to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.checkpoint import load_resume, load_weights
from engine.checkpoint_header import read_header
from engine.events import AnyEvent, EventReader
from engine.run import RunFolder
from tests.conftest import write_shapes
from tests.training import Headless, write_preset

EPOCHS = 4
SMALL = ("--deterministic", "--set", 'model.encoder_name="mobilenet_v2"')
# One thread: the runs of several tests share the machine's cores.
ENVIRONMENT = {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Reference:
    """A run that nothing disturbed: its preset, its data, its folder and its final weights."""

    preset: Path
    data: Path
    run: Path
    weights: bytes


def run_whole(folder: Path, epochs: int = EPOCHS) -> Reference:
    data = write_shapes(folder / "data", train=14, val=4)
    preset = write_preset(folder, data)
    run = start(preset, folder / "runs", epochs)
    assert run.finish() == 0, run.stderr()
    path = path_of(run, folder / "runs")
    return Reference(preset, data, path, weights(path))


def start(preset: Path, runs: Path, epochs: int = EPOCHS, *more: str, **environment: str) -> Headless:
    """`segtui --headless` with the small network."""
    return Headless.start(preset, *SMALL, "--runs", runs, "--set", f"train.epochs={epochs}", *more, **ENVIRONMENT | environment)


def resume(run: Path, **environment: str) -> Headless:
    return Headless.start("--resume", run, **ENVIRONMENT | environment)


def path_of(run: Headless, runs: Path) -> Path:
    return runs / run.of("run_started")[0]["run"]


def saved(kind: str, epoch: int = 1) -> Any:
    """An event that says that this was saved after at least `epoch` epochs."""
    return lambda event: event["type"] == "checkpoint" and event["kind"] == kind and event["epoch"] >= epoch


def weights(run: Path) -> bytes:
    """The bytes of the final weights' tensors, without the description: that names the folder of the data."""
    content = (run / "checkpoints" / "last.safetensors").read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def check_whole(run: Path) -> list[AnyEvent]:
    """Whatever happened: every checkpoint of the folder loads, and the log is readable and without gaps. Returns its events."""
    for file in run.glob("checkpoints/*.safetensors"):
        assert load_weights(file), file
        assert read_header(file).classes == ["Background", "square", "triangle"]
    if (run / "checkpoints" / "resume.pt").exists():
        load_resume(run / "checkpoints" / "resume.pt")
    reader = EventReader(run / "events.jsonl")
    told = reader.read()
    assert reader.unreadable == 0
    assert [event.seq for event in told] == list(range(1, len(told) + 1))
    return told


def listed_state(run: Path) -> str:
    """What `segtui runs` says of the run."""
    command = [sys.executable, "-m", "tui.cli", "runs", "--json", "--runs", str(run.parent)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    states = {row["name"]: row["state"] for row in map(json.loads, found.splitlines())}
    return str(states[run.name])


def worker(run: Path) -> psutil.Process:
    return psutil.Process(json.loads((run / "run.json").read_bytes())["pid"])


def loader_workers(process: psutil.Process) -> list[psutil.Process]:
    """A loader's workers are forks: they have their parent's command line."""
    return [child for child in process.children() if child.cmdline() == process.cmdline()]


def resumed_to_the_end(run: Path) -> bytes:
    """Resume; the final weights."""
    second = resume(run)
    assert second.finish() == 0, second.stderr()
    assert RunFolder(run).read().state == "finished"
    check_whole(run)
    return weights(run)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own of this size, in memory. Needs to be root."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


def fill(disk: Path) -> Path:
    """A file that takes what is left of the disk."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for block in (1 << 20, 1):
            try:
                while file.write(b"\0" * block) == block:
                    pass
            except OSError:
                continue
    assert os.statvfs(disk).f_bavail == 0
    return filler
