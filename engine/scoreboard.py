"""The scores of several predictions of the same images side by side."""

from __future__ import annotations

from dataclasses import asdict

import torch

from engine.events import Validation
from engine.metrics import confusion_matrices, image_mIoU, scores
from engine.prediction_record import Scored


class Scoreboard:
    """One confusion matrix for each name, on the device; `by_image` is the mean IoU of each image under the last name."""

    def __init__(self, classes: int, names: list[str], images: int, device: torch.device) -> None:
        self.classes, self.names = classes, names
        self._matrices = {name: torch.zeros(classes, classes, dtype=torch.int64, device=device) for name in names}
        self.by_image = torch.zeros(images)

    def add(self, truth: torch.Tensor, indices: torch.Tensor, predictions: list[torch.Tensor]) -> None:
        """Labels uint8 (N, H, W) on the device, as ground truth (255 is not counted) and by name."""
        for name, prediction in zip(self.names, predictions, strict=True):
            by_image = confusion_matrices(truth, prediction, self.classes)
            self._matrices[name] += by_image.sum(dim=0)
        self.by_image[indices] = image_mIoU(by_image).cpu()

    def scored(self) -> list[Scored]:
        return [Scored(name=name, **asdict(scores(matrix.cpu().numpy()))) for name, matrix in self._matrices.items()]


def as_event(scored: Scored) -> Validation:
    return Validation(
        epoch=0,
        loss=None,
        acc=scored.acc,
        mean_acc=scored.mean_acc,
        mIoU=scored.mIoU,
        fwavacc=scored.fwavacc,
        IoU=scored.IoU,
        class_acc=scored.class_acc,
        support=scored.support,
        best=False,
        best_epoch=0,
        best_mIoU=None,
        name=scored.name,
    )
