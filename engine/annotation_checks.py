"""What is odd in a COCO json that is right in form: told before training, which goes on without it or in spite of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.checkup import Finding, Level
from engine.schema import DataTable

OUTSIDE_PX = 1.0
"""Outlines round to the next pixel; what lies further out is cut off."""


class Oddity(NamedTuple):
    """The annotations or images (by id or name) that something is true of, and what to do about them."""

    what: str
    cases: list[Any]
    fix: str
    level: Level = "warning"


def annotation_findings(root: Path, name: str, table: DataTable) -> list[Finding]:
    """Of a json that `read_split` accepts, by its content alone: one for each kind of oddity, with its count and its first case."""
    path = root / name
    data = json.loads(path.read_bytes())
    images, annotations, categories = data["images"], data.get("annotations") or [], data.get("categories") or []
    return [
        *_told(path, "annotations", _odd_annotations(images, annotations, table)),
        *_told(path, "images", _odd_images(images)),
        *_told(path, "images", _unlabelled_images(images, annotations, table)),
        *_told(path, "classes", _odd_names(categories)),
    ]


def _told(path: Path, about: str, oddities: Iterator[Oddity]) -> list[Finding]:
    return [
        Finding(oddity.level, about, f"{path}: {oddity.what}: {len(oddity.cases)} (the first: {oddity.cases[0]!r}). {oddity.fix}")
        for oddity in oddities
        if oddity.cases
    ]


def _odd_annotations(images: list[dict[str, Any]], annotations: list[dict[str, Any]], table: DataTable) -> Iterator[Oddity]:
    size_of = {image["id"]: (image["height"], image["width"]) for image in images}
    identities = Counter(annotation["id"] for annotation in annotations if isinstance(annotation.get("id"), (int, str)))
    twice = [each for each, times in identities.items() if times > 1]

    short, outside, flat, without_area = [], [], [], []
    for number, annotation in enumerate(annotations):
        identity, outline = annotation.get("id", f"number {number}"), annotation.get("segmentation")
        if isinstance(outline, list):
            whole = [np.array(polygon, np.float64).reshape(-1, 2) for polygon in outline if len(polygon) >= 6]
            if not whole or len(whole) < len(outline):
                short.append(identity)
            if any(_is_outside(points, size_of[annotation["image_id"]]) for points in whole):
                outside.append(identity)
            has_pixels = any(_area(points) > 0 for points in whole)
            if whole and not has_pixels:
                flat.append(identity)
        elif not (has_pixels := _has_pixels(annotation["segmentation"])):
            flat.append(identity)
        area = annotation.get("area")
        if has_pixels and isinstance(area, (int, float)) and area <= 0:
            without_area.append(identity)
    yield Oddity("annotation ids that occur more than once", twice, "Give each its own id")
    yield Oddity("annotations with an empty outline, or one of fewer than three points", short, "It paints nothing: redraw or remove it")
    yield Oddity("annotations with points outside their image", outside, "They are cut off: was the image scaled after it was labelled?")
    yield Oddity("annotations without area", flat, "They paint nothing, or a line of pixels: redraw or remove them")
    if table.overlap == "area":
        fix = "They are painted over all others: write the true area, or leave it out"
        yield Oddity("annotations whose 'area' is 0 though they have pixels", without_area, fix)


def _odd_images(images: list[dict[str, Any]]) -> Iterator[Oddity]:
    twice = [name for name, times in Counter(image["file_name"] for image in images).items() if times > 1]
    yield Oddity("file names that occur more than once", twice, "Each is an image of its own: keep one, with all its annotations")


def _unlabelled_images(images: list[dict[str, Any]], annotations: list[dict[str, Any]], table: DataTable) -> Iterator[Oddity]:
    if not annotations:
        return
    labelled = {annotation["image_id"] for annotation in annotations}
    empty = [image["file_name"] for image in images if image["id"] not in labelled]
    if table.background == "ignore":
        yield Oddity("images without annotation", empty, "Nothing is learned from them: label them or leave them out")
    else:
        yield Oddity("images without annotation", empty, "They are all Background: leave them out if that is not meant", "note")


def _odd_names(categories: list[dict[str, Any]]) -> Iterator[Oddity]:
    names = [category["name"] for category in categories]
    times = Counter(name.strip().casefold() for name in names)
    alike = [name for name in names if times[name.strip().casefold()] > 1]
    yield Oddity(
        "category names that differ in case or blanks only", alike, "They are different classes: make them one if that is not meant"
    )


def _is_outside(points: np.ndarray, size: tuple[int, int]) -> bool:
    height, width = size
    return bool((points < -OUTSIDE_PX).any() or (points > (width + OUTSIDE_PX, height + OUTSIDE_PX)).any())


def _area(points: np.ndarray) -> float:
    """Of a polygon, in pixels."""
    x, y = points.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _has_pixels(encoded: dict[str, Any]) -> bool:
    from pycocotools import mask as coco_mask

    counts = encoded["counts"]
    return sum(counts[1::2]) > 0 if isinstance(counts, list) else bool(coco_mask.area(encoded))
