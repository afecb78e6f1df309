"""Soft-voting weights fitted on half of the validation images, and scored on the other half, which they never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from engine.coco import IGNORED
from engine.dataset import Batch
from engine.ensemble import classes_of, fit_weights
from engine.errors import RunError
from engine.members import Member
from engine.prediction_record import Fit
from engine.scoreboard import Scoreboard

PIXELS = 4_000_000
"""Drawn over all images, the same number from each: memory does not grow with their number."""
SEED = 21

Batches = Callable[[Sequence[int]], Iterable[Batch]]


def halves(images: int) -> tuple[list[int], list[int]]:
    """Indices of two random halves, each ascending; the first is the one that weights are fitted on."""
    order = np.random.default_rng(SEED).permutation(images)
    return sorted(order[: images // 2].tolist()), sorted(order[images // 2 :].tolist())


def fit(
    members: Sequence[Member], batches: Batches, images: int, classes: int, device: torch.device, done: Callable[[int], None]
) -> tuple[list[float], Fit]:
    """The weights, and what they gain. `batches` gives the images of some indices; `done` is told how many came through."""
    first, second = halves(images)
    of_truth, labels = _sampled(members, batches(first), PIXELS // max(len(first), 1), done)
    if not len(labels):
        raise RunError("weights cannot be fitted: the validation images drawn for it have no labelled pixel")
    weights = fit_weights(of_truth, labels).tolist()
    equal = [1 / len(members)] * len(members)
    names = ["equal weights", "fitted weights", *(member.name for member in members)]
    board = Scoreboard(classes, names, images, device)
    for batch in batches(second):
        totals: list[torch.Tensor | None] = [None, None]
        alone = []
        for number, member in enumerate(members):
            found = member.predict(batch, plain=False).probabilities
            for which, weight in enumerate((equal[number], weights[number])):
                total = totals[which]
                totals[which] = found * weight if total is None else total.add_(found, alpha=weight)
            alone.append(classes_of(found))
        board.add(batch.labels.to(device), batch.indices, [*(classes_of(total) for total in totals if total is not None), *alone])
        done(len(batch.indices))
    scored = board.scored()
    return weights, Fit(fitted_on=len(first), scored_on=len(second), equal=scored[0], fitted=scored[1], members=scored[2:])


def _sampled(
    members: Sequence[Member], batches: Iterable[Batch], pixels_each: int, done: Callable[[int], None]
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """What each member gives the true class, (pixels, M), at pixels drawn from every image; and their classes (pixels,)."""
    of_truth: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.uint8]] = []
    for batch in batches:
        truth = batch.labels.flatten(1)
        places = []
        for index, image in zip(batch.indices.tolist(), truth, strict=True):
            labelled = torch.nonzero(image != IGNORED).flatten().numpy()
            random = np.random.default_rng((SEED, index))
            places.append(torch.from_numpy(random.permutation(labelled)[:pixels_each]))
            labels.append(image[places[-1]].numpy())
        by_member = []
        for member in members:
            found = member.predict(batch, plain=False).probabilities.flatten(2)
            picked = [
                image[truth[row, place].long().to(image.device), place.to(image.device)]
                for row, (image, place) in enumerate(zip(found, places, strict=True))
            ]
            by_member.append(torch.cat(picked).cpu().numpy())
        of_truth.append(np.stack(by_member, axis=1))
        done(len(batch.indices))
    return np.concatenate(of_truth).astype(np.float64), np.concatenate(labels)
