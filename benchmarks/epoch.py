"""An epoch of training and its validation, as wall time: `Trainer` against a baseline's loop.

`python -m benchmarks.epoch [--json]`. The same network, batches, workers and photographs; on the CPU the first images of CamVid
only, at their full size.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import albumentations
import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.measure import Row, at_least, by_turns, faster, show
from benchmarks.training_parts import BaselineData, baseline_histogram, baseline_scores, default_preset, loaders_ended, part_of_camvid
from engine.dataset import start_workers
from engine.events import Toggles
from engine.prepare import prepare
from engine.processes import start_loader_worker
from engine.schema import Preset
from engine.train import Trainer

TRAIN, VAL, BATCH, WORKERS, ROUNDS = 16, 4, 4, 2, 3


class Ours:
    def __init__(self, table: Preset, caches: Path) -> None:
        setup = prepare(table, Toggles(), caches, lambda *_: None)
        self.trainer = Trainer(setup, lambda _: None, lambda: False, lambda *_: None)
        start_workers(setup.train_loader, setup.batches)
        start_workers(setup.val_loader, setup.val_batches)

    def epoch(self) -> None:
        self.trainer.train_epoch()
        self.trainer.report_epoch()
        self.trainer.validate()
        self.trainer.start_next_epoch()


class Baseline:
    """float32, NCHW; predictions to the CPU and all metrics anew in every step."""

    def __init__(self, table: Preset) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # The network takes multiples of 32 only, which a baseline's data set sees to.
        padded = albumentations.PadIfNeeded(384, 480, border_mode=cv2.BORDER_CONSTANT, position="top_left", fill=0, fill_mask=0)
        train, val = (
            BaselineData(table, name, padded, augmented=augmented)
            for name, augmented in ((table.data.train, True), (table.data.val, False))
        )
        self.classes = len(train.number) + 1
        self.model = smp.Unet("resnet18", encoder_weights=None, classes=self.classes).to(self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.loss = nn.CrossEntropyLoss()
        self.train: DataLoader[tuple[torch.Tensor, torch.Tensor]] = self._loader(train, shuffle=True)
        self.val = self._loader(val, shuffle=False)

    def _loader(self, data: BaselineData, *, shuffle: bool) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
        return DataLoader(data, BATCH, shuffle=shuffle, num_workers=WORKERS, persistent_workers=True, worker_init_fn=start_loader_worker)

    def epoch(self) -> None:
        self.model.train()
        matrix = np.zeros((self.classes, self.classes))
        for images, labels in self.train:
            images, labels = images.to(self.device), labels.to(self.device)
            logits = self.model(images)
            loss = self.loss(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            matrix += self._matrix(logits, labels)
            baseline_scores(matrix)
            loss.item()
        self.model.eval()
        matrix = np.zeros((self.classes, self.classes))
        with torch.no_grad():
            for images, labels in self.val:
                images, labels = images.to(self.device), labels.to(self.device)
                logits = self.model(images)
                self.loss(logits, labels).item()
                matrix += self._matrix(logits, labels)
        baseline_scores(matrix)

    def _matrix(self, logits: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
        predicted = logits.detach().argmax(dim=1).cpu().numpy()
        pairs = zip(labels.cpu().numpy(), predicted, strict=True)
        return np.sum([baseline_histogram(truth, found, self.classes) for truth, found in pairs], axis=0)


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = part_of_camvid(folder / "camvid", TRAIN, VAL)
        table = default_preset(root, f"data.batch_size={BATCH}", f"data.workers={WORKERS}")
        ours, baseline = Ours(table, folder / "caches"), Baseline(table)
        reference, taken = by_turns(baseline.epoch, ours.epoch, rounds=ROUNDS)
        note = f"{TRAIN} + {VAL} photographs of 480x360, Unet resnet18, batch {BATCH}, {WORKERS} workers"
        yield faster("an epoch with its validation", reference, taken, at_least(2), note)


def main() -> None:
    with loaders_ended():
        measure()


def measure() -> None:
    show(rows())


if __name__ == "__main__":
    main()
