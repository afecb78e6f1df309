"""predict.json: what a prediction was made of, what it scored, and where its pictures are."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from engine import atomic

FORMAT = 1
NAME = "predict.json"

Mode = Literal["single", "soft", "hard"]


class MemberRecord(msgspec.Struct, kw_only=True):
    """`path` is absolute; `epoch` and `mIoU` are what the checkpoint says of itself."""

    name: str
    path: str
    weight: float
    epoch: int | None = None
    mIoU: float | None = None


class Scored(msgspec.Struct, kw_only=True):
    """The scores of one way to predict; arrays go by class."""

    name: str
    mIoU: float | None
    acc: float | None
    mean_acc: float | None
    fwavacc: float | None
    IoU: list[float | None]
    class_acc: list[float | None]
    support: list[int]


class Fit(msgspec.Struct, kw_only=True):
    """How weights were fitted on one half of the validation images, and what they gain on the other, which they never saw."""

    fitted_on: int
    scored_on: int
    equal: Scored
    fitted: Scored
    members: list[Scored]


class PredictionRecord(msgspec.Struct, kw_only=True):
    """`size` is the side of the submission's square; times are of the networks alone.

    `files` are absolute paths by kind ("submission", "masks", "images" ...); "images" is the table of the images, in the
    json's order: `image_id` (its file name below `root`), `mIoU` (empty without ground truth) and `mask` (below "masks").
    `truth` is the folder of the mask cache whose label maps, in the same order, are the ground truth.
    """

    format: int = FORMAT
    segtui: str
    name: str
    created: float
    seconds: float
    command: list[str]
    mode: Mode
    members: list[MemberRecord]
    views: list[str]
    passes: float
    window: int | None
    overlap: float
    source: str
    data: str
    images: int
    classes: list[str]
    size: int
    resize: str
    device: str
    precision: str
    fit: Fit | None
    scores: list[Scored]
    ms_per_image: float
    plain_ms_per_image: float | None
    files: dict[str, str]
    root: str | None = None
    truth: str | None = None

    def write(self, folder: Path) -> None:
        atomic.write(folder / NAME, msgspec.json.format(msgspec.json.encode(self), indent=2))


def read_record(folder: Path) -> PredictionRecord:
    """Raises OSError where there is none, ValueError or RecursionError where it is of another kind."""
    record = msgspec.json.decode((folder / NAME).read_bytes(), type=PredictionRecord)
    scored = [*record.scores, *([record.fit.equal, record.fit.fitted, *record.fit.members] if record.fit else [])]
    if any(len(array) != len(record.classes) for each in scored for array in (each.IoU, each.class_acc, each.support)):
        raise ValueError("its scores do not go by its classes")
    return record
