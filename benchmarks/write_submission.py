"""Predictions of 256x256 into a submission: `python -m benchmarks.write_submission [--json]`."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.hard_vote import predictions
from benchmarks.measure import Row, by_turns, faster, show
from engine.submission import HEADER, encode_row

IMAGES = 100


def rows() -> Iterator[Row]:
    images = list(predictions(0, IMAGES))
    with tempfile.TemporaryDirectory() as name:
        out, plain = Path(name) / "ours.csv", Path(name) / "plain.csv"
        reference, ours = by_turns(lambda: write_plain(plain, images), lambda: write(out, images))
        if out.read_bytes() != plain.read_bytes():
            raise SystemExit("the two ways wrote different submissions")
    yield faster(f"submission of {IMAGES} images written", reference, ours)


def write(path: Path, images: list[NDArray[np.uint8]]) -> None:
    with path.open("wb") as file:
        file.write(HEADER.encode() + b"\n")
        for number, labels in enumerate(images):
            file.write(encode_row(f"{number:04d}.jpg", labels))


def write_plain(path: Path, images: list[NDArray[np.uint8]]) -> None:
    """As baselines do: every row a list of words, all rows in memory, written at the end."""
    texts = [" ".join(str(each) for each in labels.flatten().tolist()) for labels in images]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER.split(","))
        writer.writerows((f"{number:04d}.jpg", text) for number, text in enumerate(texts))


if __name__ == "__main__":
    show(rows())
