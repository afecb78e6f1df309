"""Where a prediction's files go: written beside their places under hidden names, and put there together at the end."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from engine.errors import Problem, RequestError
from engine.mask_files import mask_names, overlay_name, write_mask, write_overlay
from engine.predict_request import Places
from engine.prediction_record import NAME, PredictionRecord, read_record
from engine.probabilities import ProbabilityWriter, Sidecar, sidecar_path, sidecar_text
from engine.run import RunFolder, RunLock
from engine.submission import HEADER, encode_row


def check_places(places: Places, file_names: Sequence[str]) -> None:
    """Raises RequestError where a result is there already, or a file could not be written."""
    problems = [_parent_problem(path) for path in (places.out, places.masks, places.probabilities) if path is not None]
    targets = [places.folder, *filter(None, (places.out, places.probabilities))]
    targets += [sidecar_path(places.probabilities)] if places.probabilities else []
    ours = _of_a_killed_run(places)
    if places.masks is not None and str(places.masks) not in ours:
        targets += [places.masks / name for name in _mask_files(places, file_names)]
    there = [path for path in targets if path.exists() and str(path) not in ours]
    if there and not places.force:
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        fix = "--force replaces it" + (", --name gives the result another name" if there[0] == places.folder else "")
        problems.append(Problem(f"is there already{more}", file=str(there[0]), fix=fix))
    for path, key in ((places.out, "--out"), (places.probabilities, "--probabilities")):
        if path is not None and path.is_dir():
            problems.append(Problem("is a folder", file=str(path), key=key, fix="name a file"))
    if places.masks is not None and places.masks.exists() and not places.masks.is_dir():
        problems.append(Problem("is no folder", file=str(places.masks), key="--masks", fix="name another folder"))
    named = [path for path in (places.out, places.masks, places.probabilities) if path is not None]
    if len(set(named)) < len(named):
        problems.append(Problem("is named for two results", file=str(next(path for path in named if named.count(path) > 1))))
    if any(problems):
        raise RequestError([problem for problem in problems if problem])


def claim(places: Places) -> RunLock:
    """Make the work folder, empty and locked. Raises RequestError where another process works in it, or it cannot be written."""
    try:
        replaced = _hidden(places.folder, "replaced")
        if replaced.exists():  # a process was killed between two renames
            if places.folder.exists():
                shutil.rmtree(replaced)
            else:
                replaced.rename(places.folder)
        places.work.mkdir(parents=True, exist_ok=True)
        lock = _lock(places)
        for leftover in places.work.iterdir():
            if leftover.is_dir():
                shutil.rmtree(leftover)
            elif leftover.name not in (".lock", NAME):  # the record says which files a killed run put in place
                leftover.unlink()
    except OSError as error:
        fix = "name another folder of runs with --runs"
        raise RequestError(Problem(f"cannot be written: {error.strerror}", file=str(places.folder.parent), fix=fix)) from None
    return lock


class Outputs:
    """Takes images in order; nothing is in its place before `publish`."""

    def __init__(self, places: Places, file_names: Sequence[str], classes: Sequence[str], sidecar: Sidecar | None) -> None:
        self.places, self.file_names, self.classes, self.sidecar = places, file_names, classes, sidecar
        self._submission_work = _hidden(places.out, "partial") if places.out else places.work / "submission.csv"
        self._submission: BinaryIO = self._submission_work.open("wb")
        self._submission.write(HEADER.encode() + b"\n")
        self._masks = _hidden(places.masks, "partial") if places.masks else places.work / "masks"
        self._mask_names = mask_names(file_names)
        shutil.rmtree(self._masks, ignore_errors=True)
        self._masks.mkdir()
        self._probabilities: ProbabilityWriter | None = None
        self._description: Path | None = None
        if places.probabilities and sidecar:
            shape = (len(file_names), len(classes), *sidecar.size)
            self._description = _hidden(sidecar_path(places.probabilities), "partial")
            self._probabilities = ProbabilityWriter(_hidden(places.probabilities, "partial"), shape)

    def add(
        self,
        index: int,
        image: NDArray[np.uint8],
        labels: NDArray[np.uint8],
        ids: NDArray[np.uint8],
        probabilities: NDArray[np.float32] | None,
    ) -> None:
        """One image: (H, W, 3), (H, W), (side, side), and (C, h, w) where probabilities are kept."""
        self._submission.write(encode_row(self.file_names[index], ids))
        name = self._mask_names[index]
        write_mask(self._masks / name, labels, self.classes)
        if self.places.overlay:
            write_overlay(self._masks / overlay_name(name), image, labels, self.classes)
        if self._probabilities is not None and probabilities is not None:
            self._probabilities.write(probabilities[None])

    def files(self) -> dict[str, str]:
        """Where everything will be, by kind."""
        places = self.places
        found = {"submission": places.out or places.folder / "submission.csv", "masks": places.masks or places.folder / "masks"}
        found |= {"probabilities": places.probabilities} if places.probabilities else {}
        return {kind: str(path) for kind, path in (found | {"record": places.folder / NAME}).items()}

    def publish(self, record: PredictionRecord) -> None:
        """Put everything in its place, the folder with the record last."""
        places = self.places
        self._submission.flush()
        os.fsync(self._submission.fileno())
        self._submission.close()
        if self._probabilities is not None:
            self._probabilities.close()
        record.write(places.work)
        log_of_failure(places).unlink(missing_ok=True)
        if places.out:
            self._submission_work.replace(places.out)
        if places.masks:
            _move_into(self._masks, places.masks)
        if self._probabilities is not None and self._description is not None and places.probabilities and self.sidecar:
            self._description.write_bytes(sidecar_text(self.sidecar))
            self._description.replace(sidecar_path(places.probabilities))
            self._probabilities.path.replace(places.probabilities)
        replaced = _hidden(places.folder, "replaced")
        if places.folder.exists():
            places.folder.rename(replaced)
        (places.work / ".lock").unlink()
        places.work.rename(places.folder)
        shutil.rmtree(replaced, ignore_errors=True)

    def discard(self) -> None:
        self._submission.close()
        for path in (self._submission_work, self._probabilities.path if self._probabilities else None, self._description):
            if path is not None:
                path.unlink(missing_ok=True)
        shutil.rmtree(self._masks, ignore_errors=True)


def log_of_failure(places: Places) -> Path:
    """Beside the place where the result would have been."""
    return places.folder.with_name(f"{places.folder.name}.log")


def _hidden(path: Path, state: str) -> Path:
    return path.with_name(f".{path.name}.{state}")


def _parent_problem(path: Path) -> Problem | None:
    if not path.parent.is_dir():
        return Problem("there is no such folder", file=str(path.parent), fix="make it first")
    if not os.access(path.parent, os.W_OK):
        return Problem("cannot be written", file=str(path.parent))
    return None


def _move_into(source: Path, target: Path) -> None:
    """Every file of a folder; others that are there stay."""
    if not target.exists():
        source.rename(target)
        return
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)
    shutil.rmtree(source)


def _mask_files(places: Places, file_names: Sequence[str]) -> list[str]:
    names = mask_names(file_names)
    return names + ([overlay_name(name) for name in names] if places.overlay else [])


def _lock(places: Places) -> RunLock:
    try:
        return RunLock(RunFolder(places.work))
    except RequestError:
        fix = "wait for it, or give this one another --name"
        raise RequestError(Problem("another process is writing this result", file=str(places.folder), fix=fix)) from None


def _of_a_killed_run(places: Places) -> set[str]:
    """Files that a run put in place before it was killed: its record was complete, its folder not yet renamed."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        files = read_record(places.work).files
        return {*files.values(), *(str(sidecar_path(Path(files[kind]))) for kind in files if kind == "probabilities")}
    return set()
