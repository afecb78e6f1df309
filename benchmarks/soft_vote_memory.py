"""Peak memory of a two-member soft vote over 50 and over 500 images: `python -m benchmarks.soft_vote_memory [--json]`.

Each vote is a process of its own; what counts is the largest resident memory that the system saw of it (ru_maxrss) and of
its data-loader workers. Probabilities are written too, since they are the largest output.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.measure import Mark, Row, show
from engine.checkpoint import save_weights
from engine.checkpoint_header import CheckpointHeader
from engine.errors import EXIT_DONE
from engine.model import IMAGENET_MEAN, IMAGENET_STD, build_model
from engine.predict import open_prediction
from engine.predict_request import Places, PredictRequest
from engine.preset import from_dict
from engine.reporter import Reporter

COUNTS = (50, 500)
SIDE = 256
CLASSES = ["Background", *(f"class {number}" for number in range(1, 11))]
MEMBERS = {"Unet": "resnet18", "FPN": "mobilenet_v2"}


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        few, many = (
            json.loads(subprocess.check_output([sys.executable, "-m", "benchmarks.soft_vote_memory", "vote", name, str(count)]))
            for count in COUNTS
        )
    note = f"the reference is ours over {COUNTS[0]} images: memory is flat where the ratio is about 1"
    name = f"memory of a soft vote over {COUNTS[1]} images"
    yield Row(name, "MiB", few["MiB"], many["MiB"], many["MiB"] / few["MiB"], Mark("ratio", "<=", 1.1), note)


def prepare(folder: Path) -> None:
    """Two networks with random weights, and noise to look at."""
    rng = np.random.default_rng(0)
    for count in COUNTS:
        (folder / str(count)).mkdir()
        for number in range(count):
            cv2.imwrite(str(folder / str(count) / f"{number:04d}.jpg"), rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    for architecture, encoder in MEMBERS.items():
        table = {
            "model": {"type": architecture, "encoder_name": encoder, "encoder_weights": "none"},
            "data": {"workers": 1},
            "loss": [{"type": "CrossEntropyLoss"}],
            "optimizer": {"type": "AdamW"},
        }
        torch.manual_seed(0)
        model, _ = build_model(from_dict(table).model, len(CLASSES))
        header = CheckpointHeader(
            segtui="0",
            kind="best",
            preset=table,
            classes=CLASSES,
            mean=list(IMAGENET_MEAN),
            std=list(IMAGENET_STD),
            epoch=1,
            mIoU=None,
            IoU=[],
        )
        save_weights(folder / f"{architecture}.safetensors", model.state_dict(), header)


def vote(folder: Path, count: int) -> None:
    """Print this process's peak memory after the vote."""
    places = Places(folder / f"result {count}", probabilities=folder / f"{count}.npy")
    request = PredictRequest(
        checkpoints=tuple(folder / f"{architecture}.safetensors" for architecture in MEMBERS),
        places=places,
        caches=folder / "caches",
        mode="soft",
        weights=(Fraction(1), Fraction(2)),
        images=folder / str(count),
    )
    if open_prediction(request, Reporter(None), lambda: False).run_to_end() != EXIT_DONE:
        raise SystemExit("the vote failed")
    own, workers = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"MiB": own, "worker MiB": workers}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["vote"]:
        vote(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        show(rows())
