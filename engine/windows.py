"""Images that are too large for one pass: overlapping windows, blended by a Gaussian."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import torch
import torch.nn.functional as functional

SIGMA = 1 / 8
"""Of the window's side, as nnU-Net's `compute_gaussian` (Isensee et al., 2021): the rim of a window sees little of its surroundings."""
LEAST = 1e-3
"""No weight is smaller, so that a pixel that only rims cover has a well-defined mean."""


def starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin along one side: evenly spread, the last one at the end, neighbours sharing at least `overlap` of a window."""
    if length <= window:
        return [0]
    stride = max(int(window * (1 - overlap)), 1)
    steps = -(-(length - window) // stride)
    return [round(step * (length - window) / steps) for step in range(steps + 1)]


def predict_in_windows(
    images: torch.Tensor, predict: Callable[[torch.Tensor], torch.Tensor], window: int, overlap: float, together: int
) -> torch.Tensor:
    """Probabilities (N, C, H, W) of images (N, 3, H, W), as the Gaussian-weighted mean over windows.

    `predict` maps (B, 3, window, window) to probabilities of that size; `together` windows go through it at once.
    Images smaller than a window are padded at the right and the bottom, and cropped back.
    """
    count, _, height, width = images.shape
    padded = functional.pad(images, (0, max(window - width, 0), 0, max(window - height, 0)))
    weight = _gaussian(window, images.device)
    places = [
        (image, top, left)
        for image in range(count)
        for top in starts(padded.shape[-2], window, overlap)
        for left in starts(padded.shape[-1], window, overlap)
    ]
    total = weights = None
    for group in _groups(places, max(together, 1)):
        crops = torch.stack([padded[image, :, top : top + window, left : left + window] for image, top, left in group])
        answers = predict(crops.contiguous(memory_format=torch.channels_last))
        if total is None or weights is None:
            total = answers.new_zeros(count, answers.shape[1], *padded.shape[-2:])
            weights = answers.new_zeros(count, 1, *padded.shape[-2:])
        for (image, top, left), answer in zip(group, answers, strict=True):
            here = (image, slice(None), slice(top, top + window), slice(left, left + window))
            total[here] += answer * weight
            weights[here] += weight
    assert total is not None
    assert weights is not None
    return (total / weights)[..., :height, :width]


def _groups(places: list[tuple[int, int, int]], size: int) -> Iterator[list[tuple[int, int, int]]]:
    return (places[first : first + size] for first in range(0, len(places), size))


@cache
def _gaussian(window: int, device: torch.device) -> torch.Tensor:
    """float32 (window, window), 1 in the middle."""
    distance = (torch.arange(window, dtype=torch.float32) - (window - 1) / 2) / (window * SIGMA)
    line = torch.exp(-0.5 * distance**2)
    return (line[:, None] * line[None, :]).clamp_min(LEAST).to(device)
