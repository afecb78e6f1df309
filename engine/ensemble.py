"""Members into one answer: soft voting averages probabilities, hard voting counts votes; and weights that fit best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray

from engine.dataset import Batch
from engine.members import Member
from engine.submission import majority, whole_weights

Resize = Literal["probabilities", "nearest"]


@dataclass
class Answer:
    """Of a batch: `labels` uint8 (N, H, W) on the device; `ids` uint8 (N, side, side), the submission's.

    `plain` are the labels without test-time augmentation, `members` those of each member; where they are asked for.
    """

    labels: torch.Tensor
    ids: NDArray[np.uint8]
    probabilities: torch.Tensor | None = None
    plain: torch.Tensor | None = None
    members: list[torch.Tensor] = field(default_factory=list)


class Voting(Protocol):
    def __call__(self, batch: Batch, *, compare: bool) -> Answer:
        """`compare`: also what each member says alone, and what the plain images would have given."""


@dataclass(frozen=True)
class SoftVote:
    """The weighted mean of the members' probabilities; with one member its own. The weights sum to 1."""

    members: Sequence[Member]
    weights: Sequence[float]
    side: int
    resize: Resize

    def __call__(self, batch: Batch, *, compare: bool) -> Answer:
        total = plain = None
        alone: list[torch.Tensor] = []
        for member, weight in zip(self.members, self.weights, strict=True):
            seen = member.predict(batch, plain=compare)
            total = _weighted(total, seen.probabilities, weight)
            if compare and seen.plain is not None:
                plain = _weighted(plain, seen.plain, weight)
                alone.append(classes_of(seen.probabilities))
        assert total is not None
        labels = classes_of(total)
        ids = submission_ids(total, labels, self.side, self.resize)
        return Answer(labels, ids, total, classes_of(plain) if plain is not None else None, alone)


@dataclass(frozen=True)
class HardVote:
    """The class that most members give a pixel; of equals the first-listed member's."""

    members: Sequence[Member]
    weights: Sequence[Fraction]
    side: int
    resize: Resize

    def __call__(self, batch: Batch, *, compare: bool) -> Answer:
        votes, ids, plain_votes = [], [], []
        for member in self.members:
            seen = member.predict(batch, plain=compare)
            votes.append(classes_of(seen.probabilities))
            ids.append(submission_ids(seen.probabilities, votes[-1], self.side, self.resize))
            if compare and seen.plain is not None:
                plain_votes.append(classes_of(seen.plain))
        weights = whole_weights(self.weights)
        return Answer(
            labels=_majority(votes, weights),
            ids=majority(np.stack(ids), weights),
            plain=_majority(plain_votes, weights) if compare else None,
            members=votes if compare else [],
        )


def classes_of(probabilities: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) to uint8 (N, H, W): the most probable class."""
    return probabilities.argmax(dim=1).to(torch.uint8)


def submission_ids(probabilities: torch.Tensor, labels: torch.Tensor, side: int, how: Resize) -> NDArray[np.uint8]:
    """uint8 (N, side, side): probabilities are scaled and then decided; "nearest" scales what was decided, as the baseline did."""
    if how == "nearest":
        decided = labels.cpu().numpy()
        return np.stack([cv2.resize(image, (side, side), interpolation=cv2.INTER_NEAREST) for image in decided]).astype(np.uint8)
    at_size = tuple(probabilities.shape[-2:]) == (side, side)
    small = labels if at_size else classes_of(scaled(probabilities, side, side))
    return small.cpu().numpy()


def scaled(probabilities: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(N, C, height, width). Each pixel is the mean of those that it stands for, so classes still sum to 1."""
    if tuple(probabilities.shape[-2:]) == (height, width):
        return probabilities
    return functional.interpolate(probabilities, (height, width), mode="bilinear", align_corners=False, antialias=True)


def fit_weights(of_truth: NDArray[np.float64], labels: NDArray[np.uint8], steps: int = 1000) -> NDArray[np.float64]:
    """Weights >= 0 with sum 1, (M,), under which a mixture of M members finds the truth most probable.

    `of_truth` (pixels, M) is the probability that each member gives a pixel's true class. Maximises the mean over the
    classes of the mean log probability, a concave function of the weights, by expectation-maximisation for mixture
    proportions (Dempster, Laird and Rubin, 1977, section 4.3): each step is exact, and never worse.
    """
    count = np.bincount(labels, minlength=256)
    share = (1 / count[labels]) / np.count_nonzero(count)
    probable = np.maximum(of_truth, 1e-12)
    weights: NDArray[np.float64] = np.full(of_truth.shape[1], 1 / of_truth.shape[1])
    for _ in range(steps):
        mixed = probable @ weights
        better: NDArray[np.float64] = weights * ((share / mixed) @ probable)
        better /= better.sum()
        if np.abs(better - weights).max() < 1e-7:
            return better
        weights = better
    return weights


def _weighted(total: torch.Tensor | None, probabilities: torch.Tensor, weight: float) -> torch.Tensor:
    return probabilities * weight if total is None else total.add_(probabilities, alpha=weight)


def _majority(votes: list[torch.Tensor], weights: list[int]) -> torch.Tensor:
    found = majority(torch.stack(votes).cpu().numpy(), weights)
    return torch.from_numpy(found).to(votes[0].device)
