"""The score of a submission that has ground truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from engine.coco import Split, rasterise
from engine.errors import Problem, RequestError, Stopped
from engine.events import PredictionStarted
from engine.jobs import Job
from engine.metrics import confusion_matrix, scores
from engine.pictures import read_named_split
from engine.predict_request import ScoreRequest
from engine.prediction_record import Scored
from engine.reporter import Reporter, task_progress
from engine.schema import DataTable
from engine.scoreboard import as_event
from engine.submission import SubmissionReader


def open_score(request: ScoreRequest, report: Reporter, stop_asked: Callable[[], bool]) -> Job:
    """Read and check submission and ground truth. Raises RequestError; nothing is ever written."""
    split = read_named_split(DataTable(root=request.data_root, background=request.background), request.split)
    if not any(split.annotations):
        raise RequestError(Problem("has no annotations to score with", file=str(split.json), key="--split"))
    reader = SubmissionReader(request.submission)
    _check(reader, split)

    def run() -> None:
        """Each image of the split once. Raises Stopped."""
        started = PredictionStarted(
            name=request.submission.name,
            folder="",
            mode="single",
            classes=list(split.classes),
            images=len(split),
            members=[request.submission.name],
            weights=[1.0],
            views=[],
            passes=0,
            device="cpu",
            precision="",
            scored=True,
        )
        report(started)
        progress = task_progress(report)
        matrix = torch.zeros(len(split.classes), len(split.classes), dtype=torch.int64)
        for index, name in enumerate(split.file_names):
            truth = small_truth(split, index, reader.side)
            found = reader[name].reshape(reader.side, reader.side)
            matrix += confusion_matrix(torch.from_numpy(truth), torch.from_numpy(found), len(split.classes))
            progress("score", index + 1, len(split))
            if stop_asked():
                raise Stopped
        report(as_event(Scored(name=request.submission.name, **asdict(scores(matrix.numpy())))))

    return Job(run, lambda _: "", report)


def small_truth(split: Split, index: int, side: int) -> NDArray[np.uint8]:
    """uint8 (side, side): of each pixel of the submission, the label in its middle."""
    height, width = split.sizes[index].tolist()
    labels = rasterise(split.annotations[index], (height, width), split.background, "area")
    small: NDArray[np.uint8] = np.asarray(cv2.resize(labels, (side, side), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    return small


def _check(reader: SubmissionReader, split: Split) -> None:
    file = str(reader.path)
    named, wanted = set(reader.image_ids), set(split.file_names)
    if missing := [name for name in split.file_names if name not in named]:
        raise RequestError(Problem(f"has no row for {missing[0]!r} of {split.json} ({len(missing)} are missing)", file=file))
    if besides := [name for name in reader.image_ids if name not in wanted]:
        raise RequestError(Problem(f"has a row for {besides[0]!r}, which is not in {split.json}", file=file))
    if reader.largest >= len(split.classes):
        text = f"has class id {reader.largest}, but {split.json} has classes 0 to {len(split.classes) - 1}"
        fix = 'say how it was trained: --background ignore has no class Background, "class" has'
        raise RequestError(Problem(text, file=file, line=reader.largest_line, fix=fix))
    _ = reader.side
