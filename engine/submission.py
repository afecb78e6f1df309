"""Submissions: a CSV of `image_id` and `PredictionString` (a square of class ids, row-major, one space between).

Rows are written and read one at a time; votes are by pixel.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from engine.errors import Problem, RequestError

HEADER = "image_id,PredictionString"
MOST_ID = 254
IMAGES_AT_ONCE = 32
"""Rows that wait for their turn in memory."""
# The digits of each id and a space, as bytes; unused places are 0 and are left out.
DIGITS = np.array([list(f"{number} ".encode().ljust(4, b"\0")) for number in range(256)], np.uint8).view(np.uint32).ravel()
SPACE = ord(" ")


def encode_row(image_id: str, labels: NDArray[np.uint8]) -> bytes:
    """One line of a submission, for class ids of any shape (flattened row by row)."""
    cells = io.StringIO()
    csv.writer(cells, lineterminator="").writerow([image_id])
    return cells.getvalue().encode() + b"," + encode_labels(labels) + b"\n"


def encode_labels(labels: NDArray[np.uint8]) -> bytes:
    """Class ids as decimal numbers with one space between."""
    return DIGITS[labels.ravel()].tobytes().translate(None, b"\0")[:-1]


def decode_labels(text: bytes) -> NDArray[np.uint8]:
    """The ids of a PredictionString. Raises ValueError, saying what it is that stands there, for anything but ids of 0..254."""
    ids, ends = _ids_at_their_ends(text)
    # No id is 255: what does not end one is made that, and left out, by the quickest way there is.
    elsewhere = ends.view(np.uint8) - np.uint8(1)
    return np.frombuffer((ids.astype(np.uint8, copy=False) | elsewhere).tobytes().translate(None, b"\xff"), np.uint8)


def count_labels(text: bytes) -> tuple[int, int]:
    """How many ids there are, and the largest, in a quarter of the time. Raises ValueError as `decode_labels` does."""
    ids, ends = _ids_at_their_ends(text)
    return int(np.count_nonzero(ends)), int((ids * ends).max())


def _ids_at_their_ends(text: bytes) -> tuple[NDArray[np.uint8] | NDArray[np.int16], NDArray[np.bool_]]:
    """For each character the number that ends with it, and whether an id does end there."""
    codes = np.frombuffer(text, np.uint8)
    is_space = codes == SPACE
    if not codes.size:
        raise ValueError("it has no PredictionString")
    if (wrong := (codes - np.uint8(ord("0")) > 9) & ~is_space).any():
        raise ValueError(f"{_word_at(text, int(wrong.argmax()))!r} is no class id")
    digits = codes & np.uint8(0b1111)  # of the ten digits their value, of a space 0
    if is_space[0] or is_space[-1] or (is_space[1:] & is_space[:-1]).any():
        raise ValueError("there are two spaces in a row, or one at an end")
    # An id ends where a space or the text's end follows; beside a space, the digit before an id's last is 0.
    ends = np.append(is_space[1:], True)
    ids = digits.copy()
    ids[1:] += digits[:-1] * np.uint8(10)
    if not (long := ~(is_space[2:] | is_space[1:-1] | is_space[:-2])).any():
        return ids, ends
    return _with_hundreds(text, digits, ids, ends, long), ends


def _with_hundreds(
    text: bytes, digits: NDArray[np.uint8], ids: NDArray[np.uint8], ends: NDArray[np.bool_], long: NDArray[np.bool_]
) -> NDArray[np.int16]:
    """`long` says of each place from the third on whether it and the two before it are digits."""
    if (too_long := long[1:] & long[:-1]).any():
        raise ValueError(f"{_word_at(text, int(too_long.argmax()))!r} is no class id of 0 to {MOST_ID}")
    wide = ids.astype(np.int16)
    wide[2:] += digits[:-2].astype(np.int16) * 100 * long
    if (largest := int((wide * ends).max())) > MOST_ID:
        raise ValueError(f"{largest} is no class id of 0 to {MOST_ID}")
    return wide


class SubmissionReader:
    """A submission on disk, read once to the end and found right; rows are then read again by image id.

    It keeps where each row lies, not the rows. Raises RequestError naming the first row that is wrong.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}
        self.pixels = 0
        """Class ids in every row."""
        self.largest = 0
        """The largest class id, and the line where it is first."""
        self.largest_line = 0
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise RequestError(Problem(f"cannot be read: {error.strerror}", file=str(path))) from None
        offset = self._read_header()
        for number, line in enumerate(self._file, start=2):
            self._add(number, line, offset)
            offset += len(line)
        if not self._places:
            raise self._problem(2, "there is no row")

    def __len__(self) -> int:
        return len(self._places)

    @property
    def image_ids(self) -> list[str]:
        return list(self._places)

    @property
    def side(self) -> int:
        """Of the square. Raises RequestError where the number of ids is no square number."""
        side = math.isqrt(self.pixels)
        if side * side != self.pixels:
            raise RequestError(Problem(f"has {self.pixels} class ids in a row, which is no square", file=str(self.path)))
        return side

    def __getitem__(self, image_id: str) -> NDArray[np.uint8]:
        """uint8 (pixels)."""
        start, length = self._places[image_id]
        return decode_labels(os.pread(self._file.fileno(), length, start))

    def same_images(self, other: SubmissionReader) -> None:
        """Raises RequestError where two submissions are not of the same images, or not of one size."""
        if missing := [image_id for image_id in self._places if image_id not in other._places]:
            raise RequestError(Problem(f"has no row for {_few(missing)}, which {self.path} has", file=str(other.path)))
        if besides := [image_id for image_id in other._places if image_id not in self._places]:
            raise RequestError(Problem(f"has a row for {_few(besides)}, which {self.path} has not", file=str(other.path)))
        if self.pixels != other.pixels:
            raise RequestError(Problem(f"has {other.pixels} class ids in a row, {self.path} has {self.pixels}", file=str(other.path)))

    def _read_header(self) -> int:
        """Returns where the rows begin."""
        line = self._file.readline(1000)
        found = line.decode("utf-8-sig", "replace").strip()
        if found.replace('"', "").replace(" ", "") != HEADER:
            raise self._problem(1, f"its header is {found[:60]!r}", f"the first line must be {HEADER}")
        return len(line)

    def _add(self, number: int, line: bytes, offset: int) -> None:
        row = line.rstrip(b"\r\n")
        if not row:
            return
        name, separator, text = row.rpartition(b",")
        if not separator:
            raise self._problem(number, "there is no comma between image_id and PredictionString")
        start = offset + len(name) + 1
        if text[:1] == text[-1:] == b'"' and len(text) > 1:
            text, start = text[1:-1], start + 1
        try:
            (image_id,) = next(csv.reader([name.decode()], strict=True))
        except (ValueError, csv.Error, StopIteration):
            raise self._problem(number, f"its image_id {name[:60].decode(errors='replace')!r} is not one field of a CSV") from None
        if not image_id:
            raise self._problem(number, "its image_id is empty")
        if image_id in self._places:
            raise self._problem(number, f"image_id {image_id!r} is there already")
        try:
            count, largest = count_labels(text)
        except ValueError as error:
            raise self._problem(number, f"{image_id}: {error}") from None
        if self._places and count != self.pixels:
            raise self._problem(number, f"{image_id} has {count} class ids, the rows before have {self.pixels}")
        self.pixels = count
        if largest > self.largest or not self._places:
            self.largest, self.largest_line = largest, number
        self._places[image_id] = start, len(text)

    def _problem(self, line: int, message: str, fix: str = "") -> RequestError:
        return RequestError(Problem(message, file=str(self.path), line=line, fix=fix))


def majority(votes: NDArray[np.uint8], weights: Sequence[int]) -> NDArray[np.uint8]:
    """The most voted class of each pixel: votes (members, ...) to (...). Of equals, the first-listed member's wins.

    `weights` are whole numbers, so that equal sums are equal: `whole_weights` makes them of fractions.
    """
    kind = np.min_scalar_type(sum(weights))
    support = [np.full(votes.shape[1:], weight, kind) for weight in weights]
    for one in range(len(votes)):
        for other in range(one):
            agree = votes[one] == votes[other]
            support[one] += agree if weights[other] == 1 else agree.astype(kind) * kind.type(weights[other])
            support[other] += agree if weights[one] == 1 else agree.astype(kind) * kind.type(weights[one])
    winner: NDArray[np.uint8] = votes[0].copy()
    most = support[0]
    for vote, its_support in zip(votes[1:], support[1:], strict=True):
        np.copyto(winner, vote, where=its_support > most)
        most = np.maximum(most, its_support)
    return winner


def whole_weights(weights: Sequence[Fraction]) -> list[int]:
    """Whole numbers in the same proportions."""
    common = math.lcm(*(weight.denominator for weight in weights))
    return [int(weight * common) for weight in weights]


def sole_decider(names: Sequence[str], weights: Sequence[Fraction] | Sequence[int]) -> str:
    """A warning where one member's weight is that of all others together, or more; of two equal ones the first decides."""
    heaviest = max(range(len(weights)), key=lambda member: weights[member])
    surplus = 2 * weights[heaviest] - sum(weights)
    if surplus < 0 or (surplus == 0 and heaviest > 0) or len(weights) == 1:  # of equals the first-listed wins
        return ""
    return f"{names[heaviest]} decides every pixel: the others together weigh no more. A vote wants three members at least"


def vote(readers: Sequence[SubmissionReader], weights: Sequence[int], pool: Executor) -> Iterator[bytes]:
    """The rows of a submission: each image of the first one with the class ids that most of them give its pixels."""

    def row(image_id: str) -> bytes:
        return encode_row(image_id, majority(np.stack([reader[image_id] for reader in readers]), weights))

    image_ids = readers[0].image_ids
    for start in range(0, len(image_ids), IMAGES_AT_ONCE):
        yield from pool.map(row, image_ids[start : start + IMAGES_AT_ONCE])


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]!r}{more}"


def _word_at(text: bytes, place: int) -> str:
    start = text.rfind(b" ", 0, place + 1) + 1
    end = text.find(b" ", place)
    return text[start : end if end > 0 else None][:20].decode(errors="replace")
