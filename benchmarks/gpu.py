"""What a GPU gains: training of four networks at 512x512, and inference with 12 views. Under eight minutes on a recent GPU.

`python -m benchmarks.gpu [--json] [--compile] [--small]`. Needs no data: photographs are drawn. `--small` runs everything once with
small images and networks, on whatever device there is, to see that it runs.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.measure import Mark, Row, at_least, joined, show
from benchmarks.training_parts import MEAN, STD, BaselineData, baseline_histogram, baseline_scores, drawn_stars, loaders_ended
from engine import preset
from engine.augment import normalise
from engine.dataset import start_workers
from engine.device import inference_precision
from engine.events import Toggles
from engine.inference import Inference, Manner
from engine.model import predict_logits
from engine.prepare import Setup, prepare
from engine.processes import start_loader_worker
from engine.train import Trainer
from engine.views import parse_views

SMALL = "--small" in sys.argv
COMPILE = "--compile" in sys.argv
NETWORKS = [("DeepLabV3Plus", "efficientnet-b5"), ("UnetPlusPlus", "resnet50"), ("PAN", "efficientnet-b3"), ("Segformer", "mit_b2")]
SIZE, BATCH, WORKERS, STEPS, SLOW_STEPS = (192, 2, 2, 2, 1) if SMALL else (512, 16, 16, 40, 8)
VIEWS = "hflip,vflip,scale=0.75/1/1.25"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def training(kind: str, encoder: str, root: Path, caches: Path) -> Iterator[Row]:
    """Images a second: the baseline's loop on real files, ours on real files, ours on one batch that is on the device already."""
    name = f"{kind} {encoder}"
    overrides = (f'model.type="{kind}"', f'model.encoder_name="{encoder}"', 'model.encoder_weights="none"', f'data.root="{root}"')
    sizes = (f"data.batch_size={BATCH}", f"data.workers={WORKERS}", f"train.compile={str(COMPILE).lower()}")
    table = preset.load(Path("presets/unet.toml"), [*overrides, *sizes])
    setup = prepare(table, Toggles(), caches, lambda *_: None)
    began = time.perf_counter()
    ours = Ours(setup)
    ours.epoch()
    first = time.perf_counter() - began
    per_s = BATCH * len(setup.batches) / timed(ours.epoch)
    synthetic = BATCH * STEPS / timed(partial(on_device_already, ours.trainer, STEPS))
    del ours
    baseline = Baseline(table, kind, encoder)
    baseline.steps(1)
    reference = BATCH * SLOW_STEPS / timed(partial(baseline.steps, SLOW_STEPS))
    memory = f"{torch.cuda.max_memory_allocated() / 2**30:.0f} GiB at most" if DEVICE.type == "cuda" else ""
    note = joined(setup.precision, "compiled" if COMPILE else "", f"first epoch of {len(setup.batches)} steps after {first:.0f} s", memory)
    yield Row(f"{name}: training", "images/s", reference, per_s, per_s / reference, at_least(2.5), note)
    yield Row(
        f"{name}: of the rate on synthetic data",
        "images/s",
        synthetic,
        per_s,
        per_s / synthetic,
        Mark("ratio", ">=", 0.95),
        "the ratio is a share",
    )


class Ours:
    """`Trainer.train_epoch` over real files, with its metrics and its reports."""

    def __init__(self, setup: Setup) -> None:
        self.trainer = Trainer(setup, lambda _: None, lambda: False, lambda *_: None)
        start_workers(setup.train_loader, setup.batches)

    def epoch(self) -> None:
        self.trainer.train_epoch()
        self.trainer.start_next_epoch()


def on_device_already(trainer: Trainer, steps: int) -> None:
    """Forward, loss, backward, update: nothing else."""
    setup = trainer.setup
    height, width = setup.image_size
    images = torch.rand(BATCH, height, width, 3, device=DEVICE).permute(0, 3, 1, 2)
    labels = torch.randint(0, len(setup.classes), (BATCH, height, width), dtype=torch.uint8, device=DEVICE)
    for _ in range(steps):
        with setup.autocast():
            logits = predict_logits(trainer.network, images)
        setup.objective(logits, labels).backward()
        trainer.update_weights()


class Baseline:
    """float32, NCHW, eager; metrics on the CPU and anew in every step, with a read-back of the loss."""

    def __init__(self, table: preset.Preset, kind: str, encoder: str) -> None:
        data = BaselineData(table, table.data.train, augmented=True)
        self.classes = len(data.number) + 1
        self.model: nn.Module = getattr(smp, kind)(encoder, encoder_weights=None, classes=self.classes).to(DEVICE).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.loss = nn.CrossEntropyLoss()
        self.loader: DataLoader[Any] = DataLoader(
            data, BATCH, shuffle=True, drop_last=True, num_workers=WORKERS, persistent_workers=True, worker_init_fn=start_loader_worker
        )

    def steps(self, count: int) -> None:
        matrix: Any = 0.0
        for number, (images, labels) in enumerate(self.loader):
            if number == count:
                break
            images, labels = images.to(DEVICE), labels.to(DEVICE)
            logits = self.model(images)
            loss = self.loss(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            predicted = logits.detach().argmax(dim=1).cpu().numpy()
            for truth, found in zip(labels.cpu().numpy(), predicted, strict=True):
                matrix = matrix + baseline_histogram(truth, found, self.classes)
            baseline_scores(matrix)
            loss.item()


def inference() -> Row:
    """Twelve views: all that share a shape together in the device's best precision, against one at a time in float32, logits to the CPU."""
    views = parse_views(VIEWS)
    model = smp.PAN("efficientnet-b3", encoder_weights=None, classes=11)
    images = torch.randint(0, 256, (BATCH, SIZE, SIZE, 3), dtype=torch.uint8)
    ours = Inference(
        model, MEAN, STD, None, DEVICE, inference_precision("bf16", DEVICE), Manner(views), lambda text: print(text, file=sys.stderr)
    )

    def together() -> None:
        ours(images.to(DEVICE), plain=False).probabilities.argmax(dim=1).to(torch.uint8).cpu()

    eager = smp.PAN("efficientnet-b3", encoder_weights=None, classes=11).to(DEVICE).eval()

    @torch.no_grad()
    def one_by_one() -> None:
        shown = normalise(images, MEAN, STD).contiguous().to(DEVICE)
        total = 0
        for view in views:
            scaled = nn.functional.interpolate(shown, view.size(SIZE, SIZE), mode="bilinear")
            pad = [-side % 32 for side in scaled.shape[2:]]
            logits = eager(nn.functional.pad(view.apply(scaled), (0, pad[1], 0, pad[0])))[..., : scaled.shape[2], : scaled.shape[3]].cpu()
            total = total + nn.functional.interpolate(view.undo(logits), (SIZE, SIZE), mode="bilinear").softmax(dim=1)
        total.argmax(dim=1)

    taken = [BATCH / timed(each) for each in (one_by_one, together)]
    return Row(
        f"inference with {len(views)} views", "images/s", taken[0], taken[1], taken[1] / taken[0], at_least(4), "PAN efficientnet-b3"
    )


def timed(work: Callable[[], object], rounds: int = 1 if SMALL else 3) -> float:
    """The median of the seconds that it takes, once it has run."""
    work()
    seconds = []
    for _ in range(rounds):
        synchronise()
        began = time.perf_counter()
        work()
        synchronise()
        seconds.append(time.perf_counter() - began)
    return median(seconds)


def synchronise() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        root = drawn_stars(Path(name) / "stars", images=BATCH * STEPS, size=SIZE)
        (root / "val.json").write_text((root / "train.json").read_text())
        for kind, encoder in NETWORKS[2:3] if SMALL else NETWORKS:
            yield from training(kind, encoder, root, Path(name) / "caches")
            if DEVICE.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
    yield inference()


def main() -> None:
    with loaders_ended():
        measure()


def measure() -> None:
    if DEVICE.type == "cuda" or SMALL:
        show(rows())
        return
    note = "not measured on a GPU: there is none here"
    training_rows = [Row(f"{kind} {encoder}: training", "images/s", None, None, None, at_least(2.5), note) for kind, encoder in NETWORKS]
    show([*training_rows, Row("inference with 12 views", "images/s", None, None, None, at_least(4), note)])


if __name__ == "__main__":
    main()
