"""Segmentation metrics, all from one confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from engine.coco import IGNORED


def confusion_matrix(labels: torch.Tensor, predictions: torch.Tensor, classes: int) -> torch.Tensor:
    """int64 (classes, classes) on the tensors' device: pixels of label i (row) predicted as j (column).

    `labels` and `predictions` are uint8 of one shape; pixels labelled 255 are not counted. Nothing waits for a GPU.
    """
    bins = classes * classes
    kind = torch.uint8 if bins < 2**8 else torch.int16 if bins < 2**15 else torch.int32
    cell = labels.to(kind) * classes + predictions.to(kind)
    cell = torch.where(labels == IGNORED, bins, cell).flatten()
    return _count(cell, bins + 1)[:bins].view(classes, classes)


def confusion_matrices(labels: torch.Tensor, predictions: torch.Tensor, classes: int) -> torch.Tensor:
    """int64 (N, classes, classes): one matrix for each image of a batch (N, H, W)."""
    matrices = [confusion_matrix(label, prediction, classes) for label, prediction in zip(labels, predictions, strict=True)]
    return torch.stack(matrices)


def _count(cell: torch.Tensor, bins: int) -> torch.Tensor:
    """How often each value of 0..bins-1 occurs.

    On CUDA bincount waits for the device to learn its own output's size, and histc does not. histc is listed as not
    deterministic because it adds atomically; sums of integers do not depend on the order, so the ban is lifted for it.
    """
    if cell.device.type != "cuda":
        return torch.bincount(cell, minlength=bins)
    strict = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        return torch.histc(cell.to(torch.int32), bins=bins, min=0, max=bins).to(torch.int64)
    finally:
        torch.use_deterministic_algorithms(strict)


@dataclass(frozen=True)
class Scores:
    """None where a figure does not exist: a class without pixels, a mean over no class. Arrays go by class."""

    acc: float | None
    mean_acc: float | None
    mIoU: float | None
    fwavacc: float | None
    IoU: list[float | None]
    class_acc: list[float | None]
    support: list[int]

    @property
    def seen(self) -> int:
        """How many classes the mean IoU is over."""
        return sum(value is not None for value in self.IoU)


def scores(matrix: NDArray[np.int64]) -> Scores:
    """Pixel accuracy, mean accuracy, mean IoU and frequency-weighted IoU of a confusion matrix (rows are labels).

    The definitions of Long, Shelhamer and Darrell (2015), section 5. A class absent from labels and predictions has
    no IoU and is left out of the mean; one without labels has no accuracy.
    """
    hits = np.diag(matrix).astype(np.float64)
    labelled = matrix.sum(axis=1).astype(np.float64)
    predicted = matrix.sum(axis=0).astype(np.float64)
    iou = _ratio(hits, labelled + predicted - hits)
    accuracy = _ratio(hits, labelled)
    total = labelled.sum()
    return Scores(
        acc=float(hits.sum() / total) if total else None,
        mean_acc=_mean(accuracy),
        mIoU=_mean(iou),
        fwavacc=float((labelled * np.nan_to_num(iou)).sum() / total) if total else None,
        IoU=_listed(iou),
        class_acc=_listed(accuracy),
        support=matrix.sum(axis=1).tolist(),
    )


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _listed(values: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def image_mIoU(matrices: torch.Tensor) -> torch.Tensor:
    """int64 (N, C, C) to float32 (N,): each image's mean IoU over the classes in its labels or prediction; 1 where none is."""
    hits = matrices.diagonal(dim1=1, dim2=2).float()
    union = (matrices.sum(dim=1) + matrices.sum(dim=2)).float() - hits
    present = union > 0
    total = torch.where(present, hits / union.clamp_min(1), 0).sum(dim=1)
    return torch.where(present.any(dim=1), total / present.sum(dim=1).clamp_min(1), 1)
