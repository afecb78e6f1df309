"""A hard vote of 6 submissions of 256x256, from files to a file: `python -m benchmarks.hard_vote [--json]`.

The reference counts each pixel in Python. Both run on fewer than the 800 images told of and are scaled: their time goes by the image.
"""

from __future__ import annotations

import csv
import tempfile
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Row, at_least, by_turns, faster, show
from engine.predict_request import VoteRequest
from engine.reporter import Reporter
from engine.submission import HEADER, encode_row
from engine.votes import open_vote

SIDE = 256
CLASSES = 11
MEMBERS = 6
TOLD = 800
IMAGES = 100
COUNTED = 2
ROUNDS = 3


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        many = submissions(Path(name), "many", IMAGES)
        few = submissions(Path(name), "few", COUNTED)
        out, counted_out = Path(name) / "vote.csv", Path(name) / "counted.csv"
        vote(few, out)
        count(few, counted_out)
        if out.read_bytes() != counted_out.read_bytes():
            raise SystemExit("the two ways voted differently")
        reference, ours = by_turns(lambda: count(few, counted_out), lambda: vote(many, out), rounds=ROUNDS)
        counted = [seconds * TOLD / COUNTED for seconds in reference]
        voted = [seconds * TOLD / IMAGES for seconds in ours]
        note = f"scaled: the reference counted {COUNTED} images, ours {IMAGES}"
        yield faster(f"hard vote of {MEMBERS} submissions of {TOLD} images", counted, voted, at_least(50), note)


def submissions(folder: Path, name: str, images: int) -> list[Path]:
    paths = [folder / f"{name}_{member}.csv" for member in range(MEMBERS)]
    for member, path in enumerate(paths):
        with path.open("wb") as file:
            file.write(HEADER.encode() + b"\n")
            for number, labels in enumerate(predictions(member, images)):
                file.write(encode_row(f"{number:04d}.jpg", labels))
    return paths


def predictions(member: int, images: int) -> Iterator[NDArray[np.uint8]]:
    """uint8 (SIDE, SIDE): blocks of 8x8 pixels of a class, a third of the pixels another one for each member."""
    common, own = np.random.default_rng(0), np.random.default_rng(member + 1)
    for _ in range(images):
        labels = np.kron(common.integers(0, CLASSES, (SIDE // 8, SIDE // 8), dtype=np.uint8), np.ones((8, 8), np.uint8))
        anything = own.integers(0, CLASSES, labels.shape, dtype=np.uint8)
        yield np.where(own.random(labels.shape) < 1 / 3, anything, labels)


def vote(paths: list[Path], out: Path) -> None:
    """As `segtui vote` does it, with every check."""
    request = VoteRequest(submissions=tuple(paths), weights=(Fraction(1),) * len(paths), out=out, force=True)
    open_vote(request, Reporter(None), lambda: False).run_to_end()


def count(paths: list[Path], out: Path) -> None:
    """A Counter for each pixel over the words of each file; of equals the first file's wins."""
    csv.field_size_limit(1 << 24)
    tables = []
    for path in paths:
        with path.open(newline="") as file:
            tables.append({row["image_id"]: row["PredictionString"].split() for row in csv.DictReader(file)})
    with out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER.split(","))
        for image_id in tables[0]:
            pixels = zip(*(table[image_id] for table in tables), strict=True)
            writer.writerow([image_id, " ".join(Counter(pixel).most_common(1)[0][0] for pixel in pixels)])


if __name__ == "__main__":
    show(rows())
