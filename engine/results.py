"""Results of predictions, read back: the list of all, and the images of one. Reads records and tables alone, no pictures."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.errors import Problem, RequestError
from engine.prediction_record import FORMAT, NAME, PredictionRecord, read_record
from engine.run import all_runs

AGAIN = "predict again to have them"


@dataclass(frozen=True)
class Result:
    """A result's folder; `record` is None and `problem` says why where it cannot be read."""

    folder: Path
    record: PredictionRecord | None
    problem: str = ""


@dataclass(frozen=True)
class PredictedImage:
    """One image of a result. `row` is its place in the json; `mIoU` is None without ground truth.

    A path is None where the record does not say it; `truth` is the folder of the mask cache.
    """

    name: str
    row: int
    mIoU: float | None
    photograph: Path | None
    mask: Path | None
    truth: Path | None


def all_results(runs: Path) -> list[Result]:
    """Of all runs, and of checkpoints that are of none; newest first, those that cannot be read last."""
    places = [*(run.path / "predictions" for run in all_runs(runs)), runs / "predictions"]
    found = [read_result(folder) for place in places for folder in _results_in(place)]
    return sorted(found, key=lambda each: (each.record is None, -each.record.created if each.record else 0.0, str(each.folder)))


def read_result(folder: Path) -> Result:
    try:
        record = read_record(folder)
    except OSError as error:
        return Result(folder, None, f"{folder / NAME} cannot be read: {error.strerror}")
    except (ValueError, RecursionError) as error:
        return Result(folder, None, f"{folder / NAME} is not a prediction's record: {str(error)[:300]}")
    if record.format > FORMAT:
        return Result(folder, None, f"{folder / NAME} is of a newer segtui ({record.segtui})")
    return Result(folder, record)


def images_of(folder: Path, record: PredictionRecord) -> list[PredictedImage]:
    """Worst mIoU first where there is ground truth, else in the json's order. Raises RequestError where the table is missing or damaged."""
    table = folder / "images.csv"
    masks = _masks_of(folder, record)
    try:
        with table.open(newline="", encoding="utf-8") as file:
            found = [
                PredictedImage(
                    name=row["image_id"],
                    row=number,
                    mIoU=_number(row["mIoU"]),
                    photograph=Path(record.root) / row["image_id"] if record.root else None,
                    mask=masks / row["mask"] if masks and row.get("mask") else None,
                    truth=Path(record.truth) if record.truth else None,
                )
                for number, row in enumerate(csv.DictReader(file))
            ]
    except FileNotFoundError:
        raise RequestError(Problem("is missing: an older segtui listed no images here", file=str(table), fix=AGAIN)) from None
    except OSError as error:
        raise RequestError(Problem(f"cannot be read: {error.strerror}", file=str(table))) from None
    except (KeyError, TypeError, ValueError, csv.Error):
        raise RequestError(Problem("is not a result's table of images", file=str(table), fix=AGAIN)) from None
    return sorted(found, key=lambda image: (image.mIoU is None, image.mIoU or 0.0, image.row))


def _results_in(place: Path) -> Iterator[Path]:
    """Folders with a record; those that begin with a dot are not whole yet."""
    if place.is_dir():
        with os.scandir(place) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and os.path.isfile(f"{entry.path}/{NAME}"):  # noqa: PTH113  a stat of a long list
                    yield Path(entry.path)


def _masks_of(folder: Path, record: PredictionRecord) -> Path | None:
    """Masks that were written beside the record are beside it wherever the folder is now."""
    if "masks" not in record.files:
        return None
    written = Path(record.files["masks"])
    return folder / "masks" if written.parent == Path(record.files["record"]).parent else written


def _number(text: str) -> float | None:
    value = float(text) if text else math.nan
    return None if math.isnan(value) else value
