"""Images that two splits share: scores of what was trained on say nothing about what was not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from engine.checkup import Finding, Level
from engine.coco import Split
from engine.image_checks import ImageFacts

NEAR_BITS = 3
"""Of 64. A copy saved again or scaled differs in 0 to 3 (street scenes), different scenes of one town in 7 and more."""
FLAT_BITS = 4
"""A picture with fewer bits set, or all but so few, is sky or a blank page: any two of them look alike."""
BLOCK = 1024


def shared_images(splits: Mapping[str, Split], images: Mapping[str, ImageFacts]) -> list[Finding]:
    """Files of the same bytes, within a split and between two; those that only look alike where pixels were read."""
    findings = []
    for split in splits.values():
        by_digest: dict[bytes, str] = {}
        pairs = []
        for name in dict.fromkeys(split.file_names):
            if (facts := images.get(name)) and (copied := by_digest.setdefault(facts.digest, name)) != name:
                pairs.append((copied, name))
        findings += _told(
            "note", pairs, f"{split.json}: images that are copies of others in it", "They count more than others: keep one of each"
        )
    for first, second in combinations(splits.values(), 2):
        names = f"{first.json} and {second.json.name}"
        advice = "A score on images that were trained on says nothing about new ones: take them out of one of them"
        same = list(_same(first, second, images))
        findings += _told("warning", same, f"{names}: images that they share", advice)
        near = [pair for pair in _near(first, second, images) if pair not in set(same)]
        findings += _told("warning", near, f"{names}: pairs of images that look the same", advice)
    return findings


def _told(level: Level, pairs: list[tuple[str, str]], text: str, advice: str) -> list[Finding]:
    if not pairs:
        return []
    one, other = pairs[0]
    case = f"{one!r}" if one == other else f"{one!r} is {other!r}"
    return [Finding(level, "duplicates", f"{text}: {len(pairs)} (the first: {case}). {advice}")]


def _same(first: Split, second: Split, images: Mapping[str, ImageFacts]) -> Iterator[tuple[str, str]]:
    by_digest = {images[name].digest: name for name in first.file_names if name in images}
    for name in dict.fromkeys(second.file_names):
        if name in images and images[name].digest in by_digest:
            yield by_digest[images[name].digest], name


def _near(first: Split, second: Split, images: Mapping[str, ImageFacts]) -> Iterator[tuple[str, str]]:
    """The nearest of `first` for each of `second`, where near enough."""
    (names, looks), (others, other_looks) = _looks(first, images), _looks(second, images)
    if not names:
        return
    for start in range(0, len(others), BLOCK):
        block = other_looks[start : start + BLOCK]
        distance = np.bitwise_count(block[:, None] ^ looks[None, :])
        nearest = distance.argmin(axis=1)
        for row in np.flatnonzero(distance[np.arange(len(block)), nearest] <= NEAR_BITS).tolist():
            yield names[nearest[row]], others[start + row]


def _looks(split: Split, images: Mapping[str, ImageFacts]) -> tuple[list[str], NDArray[np.uint64]]:
    found = {}
    for name in split.file_names:
        facts = images.get(name)
        if facts and facts.look is not None and FLAT_BITS <= facts.look.bit_count() <= 64 - FLAT_BITS:
            found[name] = facts.look
    return list(found), np.array(list(found.values()), np.uint64)
