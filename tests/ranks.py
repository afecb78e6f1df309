"""Runs on two devices, which are two processes on the CPU."""

from __future__ import annotations

from pathlib import Path

import psutil

from engine.events import EventReader, Message
from tests.conftest import write_shapes
from tests.training import Headless, kill, record, write_preset

TWO = ("--deterministic", "--devices", "2", "--set", "train.resume_every=4")
# No batch normalisation, whose statistics are each device's own; most pixels are ignored, and not as many in each image.
EXACT = """
[model]
type = "Unet"
encoder_name = "tu-convnext_atto"
encoder_weights = "none"
encoder_depth = 4
decoder_channels = [32, 16, 16, 8]
decoder_use_norm = "identity"

[data]
root = "{root}"
batch_size = 4
workers = 1
background = "ignore"

[augment]
train = [{{ type = "HorizontalFlip", p = 0.5 }}]

[loss]
type = "CrossEntropyLoss"
class_weights = "auto"

[optimizer]
type = "SGD"
lr = 0.01
momentum = 0.9

[train]
epochs = 4
accumulate = 1
precision = "fp32"
clip_norm = 1.0
"""


def write_place(folder: Path) -> Path:
    """A folder with data, `tiny.toml`, and `exact.toml` for comparisons with one device."""
    root = write_shapes(folder / "data", train=26, val=7)
    write_preset(folder, root)
    (folder / "exact.toml").write_text(EXACT.format(root=root))
    return folder


def start(place: Path, name: str, runs: str, *arguments: str, **environment: str) -> Headless:
    return Headless.start(place / name, "--runs", place / runs, *arguments, WANDB_MODE="disabled", OMP_NUM_THREADS="1", **environment)


def finished(run: Headless) -> Headless:
    assert run.finish(300) == 0, (run.stderr(), run.events[-3:])
    return run


def folder_of(run: Headless, place: Path, runs: str) -> Path:
    return place / runs / run.of("run_started")[0]["run"]


def writes_to(process: psutil.Process, log: str) -> bool:
    return any(Path(file.path).name == log and file.fd == 1 for file in process.open_files())


def rank_of(run: Path, number: int) -> psutil.Process:
    """The process of a rank, by the log that it writes to."""
    log = f"log-rank{number}.txt" if number else "log.txt"
    return next(child for child in psutil.Process(record(run)["pid"]).children() if writes_to(child, log))


def weights(run: Path) -> bytes:
    return (run / "checkpoints" / "last.safetensors").read_bytes()


def kill_a_rank(place: Path, victim: int) -> Path:
    """A run on two devices of which one is killed within its second epoch; its folder, once it has gone on to its end."""
    runs = f"killed{victim}"
    run = start(place, "tiny.toml", runs, *TWO)
    run.until(lambda event: event["type"] == "step" and event["step"] >= 9)
    path = folder_of(run, place, runs)
    kill(rank_of(path, victim).pid)
    finished(run)
    told = [event["text"] for event in run.of("message") if "had died" in event["text"]]
    assert len(told) == 1
    assert "restart 1" in told[0]
    second = run.of("run_started")[1]
    assert 0 < second["resumed_step"] < 30
    log = EventReader(path / "events.jsonl").read()
    assert [event.seq for event in log] == list(range(1, len(log) + 1))
    assert any(isinstance(event, Message) and "had died" in event.text for event in log)
    return path
