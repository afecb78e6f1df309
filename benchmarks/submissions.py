"""Writing and hard voting of submissions against plain Python: `python -m benchmarks.submissions [--json]`.

Both sides of a row are measured in one run, by turns, and of several rounds the best counts: other work on the machine
only ever makes one slower. Before anything is measured, both must give the same bytes and the same votes.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.submission import HEADER, SubmissionReader, encode_row, vote

SIDE = 256
CLASSES = 11
WRITTEN = 100
MEMBERS = 6
VOTED = 20
LOOPED = 2
ROUNDS = 3
Submission = dict[str, NDArray[np.uint8]]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = {"write": writing(folder), "vote": voting(folder)}
    if "--json" in sys.argv:
        print(json.dumps({row: {"images/s": ours, "plain images/s": plain, "ratio": ours / plain} for row, (ours, plain) in rows.items()}))
        return
    for row, (ours, plain) in rows.items():
        print(f"{row:5}  {ours:8.1f} images/s   plain {plain:8.1f} images/s   {ours / plain:6.1f} times")


def writing(folder: Path) -> tuple[float, float]:
    """Images a second, ours and the baseline's way."""
    images = predictions(0, WRITTEN)
    ours, plain = folder / "ours.csv", folder / "plain.csv"
    write(ours, images)
    write_plain(plain, images)
    if ours.read_bytes() != plain.read_bytes():
        raise SystemExit("the two ways wrote different submissions")
    seconds = fastest(lambda: write(ours, images), lambda: write_plain(plain, images))
    return WRITTEN / seconds[0], WRITTEN / seconds[1]


def voting(folder: Path) -> tuple[float, float]:
    """Images a second from files to a file; the loop runs on fewer images."""
    many = [folder / f"{number}.csv" for number in range(MEMBERS)]
    few = [folder / f"{number}_few.csv" for number in range(MEMBERS)]
    for number, (path, few_path) in enumerate(zip(many, few, strict=True)):
        images = predictions(number, VOTED)
        write(path, images)
        write(few_path, dict(list(images.items())[:LOOPED]))
    out, plain_out = folder / "vote.csv", folder / "vote_plain.csv"
    vote_files(few, out)
    vote_plain(few, plain_out)
    if out.read_bytes() != plain_out.read_bytes():
        raise SystemExit("the two ways voted differently")
    seconds = fastest(lambda: vote_files(many, out), lambda: vote_plain(few, plain_out))
    return VOTED / seconds[0], LOOPED / seconds[1]


def predictions(member: int, count: int) -> Submission:
    """Blocks of 8x8 pixels of a class, a third of the pixels another one for each member."""
    common, own = np.random.default_rng(0), np.random.default_rng(member + 1)
    found = {}
    for number in range(count):
        blocks = common.integers(0, CLASSES, (SIDE // 8, SIDE // 8), dtype=np.uint8)
        labels = np.kron(blocks, np.ones((8, 8), np.uint8))
        anything = own.integers(0, CLASSES, labels.shape, dtype=np.uint8)
        found[f"batch_01_vt/{number:04d}.jpg"] = np.where(own.random(labels.shape) < 1 / 3, anything, labels)
    return found


def write(path: Path, images: Submission) -> None:
    with path.open("wb") as file:
        file.write(HEADER.encode() + b"\n")
        for image_id, labels in images.items():
            file.write(encode_row(image_id, labels))


def write_plain(path: Path, images: Submission) -> None:
    """As the baseline: every row a list of words, all rows in memory, written at the end."""
    texts = [" ".join(str(each) for each in row.flatten().tolist()) for row in images.values()]
    write_csv(path, list(images), texts)


def write_csv(path: Path, image_ids: list[str], texts: list[str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER.split(","))
        writer.writerows(zip(image_ids, texts, strict=True))


def vote_files(paths: list[Path], out: Path) -> None:
    readers = [SubmissionReader(path) for path in paths]
    for reader in readers[1:]:
        readers[0].same_images(reader)
    with out.open("wb") as file:
        file.write(HEADER.encode() + b"\n")
        for image_id, ids in vote(readers, [1] * len(readers)):
            file.write(encode_row(image_id, ids))


def vote_plain(paths: list[Path], out: Path) -> None:
    """A Counter for each pixel over the words of each file; of equals the first file's wins."""
    csv.field_size_limit(1 << 24)
    tables = []
    for path in paths:
        with path.open(newline="") as file:
            tables.append({row["image_id"]: row["PredictionString"].split() for row in csv.DictReader(file)})
    texts = []
    for image_id in tables[0]:
        pixels = zip(*(table[image_id] for table in tables), strict=True)
        texts.append(" ".join(Counter(pixel).most_common(1)[0][0] for pixel in pixels))
    write_csv(out, list(tables[0]), texts)


def fastest(*ways: Callable[[], None]) -> list[float]:
    """The best time of each way, taken by turns."""
    best = [float("inf")] * len(ways)
    for _ in range(ROUNDS):
        for number, way in enumerate(ways):
            began = time.perf_counter()
            way()
            best[number] = min(best[number], time.perf_counter() - began)
    return best


if __name__ == "__main__":
    main()
