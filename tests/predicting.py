"""Small checkpoints, the command line that predicts with them, and the same by hand."""

from __future__ import annotations

import csv
import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO

from engine.checkpoint import save_weights
from engine.checkpoint_header import CheckpointHeader
from engine.events import Toggles
from engine.preset import from_dict
from engine.run import RunFolder, RunRecord
from tui.cli import main

CLASSES = ("Background", "square", "triangle")
ENCODER = "tu-mobilenetv3_small_050"
CHANNELS = [16, 8, 8, 8, 8]
# Of no encoder: whoever takes the usual ones instead of the checkpoint's is found out.
MEAN, STD = (0.3, 0.5, 0.4), (0.2, 0.3, 0.25)
# Two probabilities closer than this may change places in single precision.
SURE = 1e-4
Predicted = NDArray[np.float64]


@dataclass(frozen=True)
class Told:
    code: int
    out: str
    err: str

    def of(self, kind: str) -> list[dict[str, Any]]:
        events = [json.loads(line) for line in self.out.splitlines()]
        return [event for event in events if event["type"] == kind]


Segtui = Callable[..., Told]


@contextmanager
def command_line(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Segtui]:
    """`segtui ...` in `folder`. Its worker is a fork of this process: importing torch anew for each would take seconds."""
    import engine.predict  # once, before the fork
    import engine.votes  # noqa: F401

    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda _=None: fork)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # a fork cannot use a GPU that its parent has looked at
    monkeypatch.chdir(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a fork has none of its parent's threads
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: str | Path) -> Told:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Told(code, *capsys.readouterr())

    yield run
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@cache
def weights_of(seed: int, classes: int = len(CLASSES)) -> dict[str, torch.Tensor]:
    """A network that nobody trained, and that still says every class somewhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = smp.Unet(ENCODER, encoder_weights=None, decoder_channels=CHANNELS, classes=classes).eval()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.7, 1.3)  # type: ignore[union-attr]
        head = model.segmentation_head[0]
        with torch.no_grad():
            logits = model(torch.randn(1, 3, 64, 64))
            head.weight /= logits.std() / 2
            head.bias -= logits.mean(dim=(0, 2, 3)) / (logits.std() / 2)
        return dict(model.state_dict())


def preset_for(root: Path, *, encoder_weights: str = "none", **data: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "model": {"type": "Unet", "encoder_name": ENCODER, "encoder_weights": encoder_weights, "decoder_channels": CHANNELS},
        "data": {"root": str(root), "batch_size": 2, "workers": 0} | data,
        "loss": [{"type": "CrossEntropyLoss"}],
        "optimizer": {"type": "AdamW", "lr": 1e-3},
        "train": {"precision": "fp32"},
    }


def write_checkpoint(
    path: Path,
    preset: dict[str, Any],
    weights: dict[str, torch.Tensor],
    classes: tuple[str, ...] = CLASSES,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] = (MEAN, STD),
) -> Path:
    header = CheckpointHeader(
        segtui="0.1.0",
        kind="best",
        preset=from_dict(preset).model_dump(exclude_none=True),
        classes=list(classes),
        mean=list(statistics[0]),
        std=list(statistics[1]),
        epoch=3,
        mIoU=0.25,
        IoU=[0.25] * len(classes),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, weights, header)
    return path


def write_run(name: str, root: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A finished run below `runs` beside the data, with a best checkpoint; returns that."""
    run = root.parent / "runs" / name
    run.mkdir(parents=True)
    RunFolder(run).write(
        RunRecord(
            name=name,
            state="finished",
            preset="tiny",
            model="Unet",
            toggles=Toggles(),
            host="here",
            pid=1,
            pid_started=0.0,
            created=0.0,
            epochs=3,
        )
    )
    return write_checkpoint(run / "checkpoints" / "best.safetensors", preset_for(root, **changes), weights_of(seed))


def write_test(root: Path, sizes: list[tuple[int, int]]) -> list[str]:
    """test.json, images alone: their names neither in the order of the alphabet nor all plain words for a CSV."""
    rng = np.random.default_rng(7)
    names = [f"images/{'z,' if number % 3 == 0 else 'a'}{number}.png" for number in range(len(sizes))]
    images = []
    for number, (name, (height, width)) in enumerate(zip(names, sizes, strict=True)):
        small = rng.integers(0, 255, (max(height // 8, 1), max(width // 8, 1), 3), dtype=np.uint8)
        Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(root / name)
        images.append({"id": number + 1, "file_name": name, "height": height, "width": width})
    (root / "test.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    return names


def network(checkpoint: Path) -> torch.nn.Module:
    """The checkpoint in the library's own network, in double precision."""
    model = smp.Unet(ENCODER, encoder_weights=None, decoder_channels=CHANNELS, classes=3)
    model.load_state_dict(safetensors.torch.load_file(checkpoint))
    return model.double().eval()


@torch.no_grad()
def by_hand(model: torch.nn.Module, image: Path) -> Predicted:
    """Probabilities (C, H, W) in double precision."""
    pixels = np.asarray(Image.open(image).convert("RGB"), np.float64)
    height, width = pixels.shape[:2]
    shown = np.zeros((3, -(-height // 32) * 32, -(-width // 32) * 32))
    shown[:, :height, :width] = ((pixels / 255 - MEAN) / STD).transpose(2, 0, 1)
    logits = model(torch.from_numpy(shown)[None])[0, :, :height, :width].numpy()
    exponents = np.exp(logits - logits.max(axis=0))
    return np.asarray(exponents / exponents.sum(axis=0))


def resized(probabilities: Predicted, side: int) -> Predicted:
    """(C, side, side): each pixel the mean, weighted by a triangle, of those that it stands for."""
    rows, columns = (triangles(length, side) for length in probabilities.shape[1:])
    return np.asarray(rows @ probabilities @ columns.T)


def triangles(length: int, side: int) -> Predicted:
    step = length / side
    centres = (np.arange(side)[:, None] + 0.5) * step
    weights = np.maximum(1 - np.abs(np.arange(length) + 0.5 - centres) / max(step, 1), 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def assert_decides(labels: NDArray[np.uint8], probabilities: Predicted, sure: float = SURE) -> None:
    """The labels are the most probable classes; where two are as good as equal, either of them."""
    best = np.sort(probabilities, axis=0)
    decided = best[-1] - best[-2] > sure
    assert decided.mean() > 0.98
    np.testing.assert_array_equal(labels[decided], probabilities.argmax(axis=0)[decided])


def rows_of(submission: Path) -> dict[str, NDArray[np.uint8]]:
    csv.field_size_limit(10**9)
    with submission.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image_id", "PredictionString"]
    assert len({name for name, _ in rows[1:]}) == len(rows) - 1
    return {name: np.array(text.split(" "), np.uint8) for name, text in rows[1:]}


def ground_truth(root: Path, split: str = "val") -> dict[str, NDArray[np.uint8]]:
    """Label maps by pycocotools: smaller areas over larger ones."""
    coco = COCO(root / f"{split}.json")
    found = {}
    for image in coco.loadImgs(coco.getImgIds()):
        labels = np.zeros((image["height"], image["width"]), np.uint8)
        for annotation in sorted(coco.loadAnns(coco.getAnnIds(image["id"])), key=lambda each: -each["area"]):
            labels[coco.annToMask(annotation) == 1] = annotation["category_id"]
        found[image["file_name"]] = labels
    return found


def mask_of(folder: Path, file_name: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open((folder / file_name).with_suffix(".png")))


def files_below(folder: Path) -> set[str]:
    """All files but the caches."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() or path.is_symlink()}
    return {name for name in found if not name.startswith("runs/.cache/")}


def record_of(result: Path) -> dict[str, Any]:
    return json.loads((result / "predict.json").read_bytes())  # type: ignore[no-any-return]
