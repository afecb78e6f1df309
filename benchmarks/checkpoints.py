"""`segtui checkpoints` over 10,000 checkpoints: `python -m benchmarks.checkpoints [--json]`.

Ours is the whole command in a fresh process. The reference is `torch.load` of each file, of 200 and scaled, without the start of
Python and the import of torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch
from torch import nn

from benchmarks.measure import Row, at_most, by_turns, show, spread
from benchmarks.written_runs import CLASSES, record
from engine.checkpoint import save_weights
from engine.checkpoint_header import CheckpointHeader
from engine.model import IMAGENET_MEAN, IMAGENET_STD
from engine.preset import load
from engine.run import claim

RUNS = 100
EACH = 100
LOADED = 200
ROUNDS = 3
COMMAND = [sys.executable, "-c", "import sys; from tui.cli import main; sys.exit(main(sys.argv[1:]))", "checkpoints", "--runs"]


def rows() -> Iterator[Row]:
    layers = [layer for _ in range(20) for layer in (nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32))]
    weights = nn.Sequential(*layers).state_dict()
    with tempfile.TemporaryDirectory() as name:
        runs, plain = Path(name) / "runs", Path(name) / "plain"
        write(runs, weights)
        plain.mkdir()
        for number in range(LOADED):
            torch.save({"net": weights, "epoch": number, "mIoU": 0.5}, plain / f"{number}.pt")
        reference, ours = by_turns(lambda: load_each(plain), lambda: list_all(runs), rounds=ROUNDS)
    scaled = [seconds * RUNS * EACH / LOADED for seconds in reference]
    note = f"the reference loaded {LOADED} and is scaled; reference {spread(scaled)}, ours {spread(ours)}"
    before, after = median(scaled), median(ours)
    yield Row(f"{RUNS * EACH:,} checkpoints listed", "s", before, after, before / after, at_most(1), note)


def write(runs: Path, weights: dict[str, torch.Tensor]) -> None:
    """A checkpoint of every run is saved, the others of the run are hard links to it: a listing opens and reads each all the same."""
    preset = load("demo").model_dump(exclude_none=True)
    for number in range(RUNS):
        folder = claim(runs, f"run-{number:03d}", debug=False)
        record(folder, "finished", os.getpid(), EACH, time.time())
        header = CheckpointHeader(
            segtui="0",
            kind="interval",
            preset=preset,
            classes=CLASSES,
            mean=list(IMAGENET_MEAN),
            std=list(IMAGENET_STD),
            epoch=EACH,
            mIoU=number / RUNS,
            IoU=[number / RUNS] * len(CLASSES),
        )
        first = folder.checkpoints / "epoch_001.safetensors"
        save_weights(first, weights, header)
        for epoch in range(2, EACH + 1):
            os.link(first, folder.checkpoints / f"epoch_{epoch:03d}.safetensors")


def list_all(runs: Path) -> None:
    listed = subprocess.check_output([*COMMAND, str(runs)]).count(b"\n") - 1
    if listed != RUNS * EACH:
        raise SystemExit(f"{listed} were listed")


def load_each(folder: Path) -> None:
    for file in folder.iterdir():
        torch.load(file, map_location="cpu", weights_only=True)


if __name__ == "__main__":
    show(rows())
