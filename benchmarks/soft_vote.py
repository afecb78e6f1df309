"""A soft vote of two members over images of 512x512 and 11 classes: `python -m benchmarks.soft_vote [--json]`.

From probabilities to the class ids of a submission. The networks' forward pass is left out: it is common to both sides.
Every measurement is a process of its own, since what counts beside its time is the most memory that it had.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from statistics import median

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import Row, at_least, faster, show
from engine.dataset import Batch
from engine.ensemble import SoftVote
from engine.inference import Seen

SIDE, SMALL = 512, 256
CLASSES = 11
AT_ONCE = 8
MEMBERS = 2
COMPARED = (96, 192)
"""Images: the reference keeps 11.5 MB of each for each member, and half as much again while it grows."""
ROUNDS = (1, 3)
ALL = 800


def rows() -> Iterator[Row]:
    small, large = (by_turns(images, rounds) for images, rounds in zip(COMPARED, ROUNDS, strict=True))
    if small["ours"][0]["labels"] != small["reference"][0]["labels"]:
        raise SystemExit("the two ways voted differently")
    for images, found in zip(COMPARED, (small, large), strict=True):
        seconds = {way: [each["s"] for each in found[way]] for way in found}
        memory = {way: median(each["MiB"] for each in found[way]) for way in found}
        mark = at_least(5) if found is large else None
        yield faster(f"soft vote of {images} images", seconds["reference"], seconds["ours"], mark, "without the forward pass")
        yield Row("its memory", "MiB", memory["reference"], memory["ours"], memory["reference"] / max(memory["ours"], 1.0))
    whole = measured("ours", ALL)
    yield Row(f"soft vote of {ALL} images", "s", None, whole["s"], note="the reference would grow to 30 GB")
    yield Row("its memory", "MiB", None, whole["MiB"], note="flat, as `soft_vote_memory` finds of the whole prediction")


def by_turns(images: int, rounds: int) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {"reference": [], "ours": []}
    for _ in range(rounds):
        for way, so_far in found.items():
            so_far.append(measured(way, images))
    return found


def measured(way: str, images: int) -> dict[str, float]:
    """Seconds, MiB beyond what there was before the vote and the class ids, and a sum over them: equal votes have equal sums."""
    answer: dict[str, float] = json.loads(subprocess.check_output([sys.executable, "-m", "benchmarks.soft_vote", way, str(images)]))
    return answer


def measure(way: str, images: int) -> None:
    """What `measured` reads."""
    members = [Told(member) for member in range(MEMBERS)]
    vote = grown if way == "reference" else streamed
    vote(members, AT_ONCE)
    before = peak()
    began = time.perf_counter()
    labels = vote(members, images)
    seconds, memory = time.perf_counter() - began, peak() - before - labels.nbytes / 2**20
    print(json.dumps({"s": seconds, "MiB": memory, "labels": int(labels.astype(np.int64).sum())}))


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Told:
    """A member that has its answer for a batch ready, and gives it again and again, laid out as its side's networks give it."""

    def __init__(self, number: int) -> None:
        self.name = f"member {number}"
        torch.manual_seed(number)
        coarse = torch.randn(AT_ONCE, CLASSES, SIDE // 16, SIDE // 16)
        self.contiguous = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear").mul_(3).softmax(dim=1)
        self.channels_last = self.contiguous.contiguous(memory_format=torch.channels_last)

    def predict(self, batch: Batch, *, plain: bool) -> Seen:  # noqa: ARG002
        return Seen(self.channels_last, self.channels_last if plain else None)


def streamed(members: list[Told], images: int) -> NDArray[np.uint8]:
    """As `segtui predict --softvote --resize nearest`: a batch at a time."""
    vote = SoftVote(members, [1 / MEMBERS] * MEMBERS, SMALL, "nearest")
    ids = np.empty((images, SMALL, SMALL), np.uint8)
    shown = torch.zeros(AT_ONCE, 1, 1, 3, dtype=torch.uint8)
    for start in range(0, images, AT_ONCE):
        ids[start : start + AT_ONCE] = vote(Batch(shown, torch.empty(0), torch.arange(AT_ONCE)), compare=False).ids
    return ids


def grown(members: list[Told], images: int) -> NDArray[np.uint8]:
    """As baselines do: every member's probabilities of all images in one array that each batch is joined to; then mean, argmax, resize."""
    kept = []
    for member in members:
        found = np.empty((0, CLASSES, SIDE, SIDE), np.float32)
        for _ in range(0, images, AT_ONCE):
            found = np.concatenate([found, member.contiguous.numpy()])
        kept.append(found)
    labels = np.argmax(sum(kept) / len(kept), axis=1)
    return np.stack([cv2.resize(each.astype(np.uint8), (SMALL, SMALL), interpolation=cv2.INTER_NEAREST) for each in labels])


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["reference"]):
        measure(sys.argv[1], int(sys.argv[2]))
    else:
        show(rows())
