"""Prediction: networks and probabilities of others, over a split or a folder, into a submission, masks and scores."""

from __future__ import annotations

import csv
import io
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import torch

from engine import atomic
from engine.dataset import Batch, InOrder, SegmentationData, loader
from engine.device import device_name
from engine.ensemble import Answer, HardVote, SoftVote, Voting, scaled
from engine.errors import Stopped
from engine.events import EventLog, Message, PredictionStarted, PredictionWritten
from engine.fitting import fit
from engine.gathering import Gathered, gather
from engine.jobs import Job
from engine.mask_files import mask_names
from engine.members import Member, fit_together, spill
from engine.outputs import Outputs, claim, log_of_failure
from engine.predict_request import PredictRequest
from engine.prediction_record import Fit, PredictionRecord, Scored
from engine.reporter import Reporter, task_progress
from engine.run import RunFolder
from engine.scoreboard import Scoreboard, as_event
from engine.system import Heartbeat
from engine.views import cost

MOST_VALUES = 2**27
"""Of a batch's probabilities: half a GiB in float32."""


def open_prediction(request: PredictRequest, report: Reporter, stop_asked: Callable[[], bool]) -> Job:
    """Check everything, then claim the result's folder. Raises RequestError, having written nothing but caches."""
    gathered = gather(request, task_progress(report), lambda text: report(Message(level="warning", text=text)))
    prediction = Prediction(gathered, report, stop_asked)
    work = request.places.work
    next_seq = report.open(EventLog(RunFolder(work).events))
    return Job(prediction.run, prediction.clean, report, work, next_seq)


class Prediction:
    """One prediction while this process works on it."""

    def __init__(self, gathered: Gathered, report: Reporter, stop_asked: Callable[[], bool]) -> None:
        self.gathered, self.request = gathered, gathered.request
        self.report, self.stop_asked = report, stop_asked
        self.progress = task_progress(report)
        self.began = time.time()
        self.outputs: Outputs | None = None
        self.lock = claim(self.request.places)

    def run(self) -> None:
        """Predict, then put everything in its place. Raises Stopped, or RunError."""
        self.announce()
        heartbeat = Heartbeat(self.report)
        try:
            weights, fitted = self.fit_weights()
            self.outputs = Outputs(self.request.places, self.gathered.pictures.file_names, self.gathered.classes, self.gathered.sidecar)
            scored, times = self.predict(weights)
            self.finish(scored, times, fitted, weights)
        finally:
            heartbeat.stop()

    def announce(self) -> None:
        gathered = self.gathered
        self.report(
            PredictionStarted(
                name=self.request.places.folder.name,
                folder=str(self.request.places.folder),
                mode=self.request.mode,
                classes=list(gathered.classes),
                images=len(gathered.pictures),
                members=[record.name for record in gathered.records],
                weights=[record.weight for record in gathered.records],
                views=[str(view) for view in gathered.manner.views],
                passes=cost(gathered.manner.views),
                device=device_name(gathered.device),
                precision=gathered.precision,
                scored=gathered.scored,
            )
        )
        for text in gathered.warnings:
            self.report(Message(level="warning", text=text))

    def fit_weights(self) -> tuple[list[float], Fit | None]:
        """The members' weights; fitted where that was asked for."""
        gathered = self.gathered
        if gathered.fit_on is None:
            return [float(weight) for weight in gathered.weights], None
        data = gathered.fit_on
        done = Counted("fit weights", len(data), self.progress, self.stop_asked)
        members = self.ready(data, "fit", plain=False)
        weights, fitted = fit(members, lambda indices: self.batches(data, indices), len(data), len(gathered.classes), gathered.device, done)
        self.report(Message(level="info", text=told_fit(fitted, [record.name for record in gathered.records], weights)))
        return weights, fitted

    def predict(self, weights: list[float]) -> tuple[list[Scored], tuple[float, float]]:
        """Every image once. Returns the scores, the result's own last, and the networks' seconds: all views, and the plain one."""
        gathered = self.gathered
        compare = gathered.scored
        before = self.seconds()
        members = self.ready(gathered.dataset, "predict", plain=compare)
        names = self.score_names()
        board = Scoreboard(len(gathered.classes), names, len(gathered.pictures), gathered.device) if compare else None
        voting = self.voting(members, weights)
        done = Counted("predict", len(gathered.pictures), self.progress, self.stop_asked)
        for batch in self.batches(gathered.dataset, range(len(gathered.pictures))):
            answer = voting(batch, compare=compare)
            if board is not None:
                board.add(batch.labels.to(gathered.device), batch.indices, self.compared(answer))
            self.write(batch, answer)
            done(len(batch.indices))
        after = self.seconds()
        if board is not None:
            self.write_table("scores.csv", score_table(gathered.classes, board.scored()))
        listed = gathered.pictures.file_names
        by_image = [f"{value:.6f}" for value in board.by_image.tolist()] if board is not None else [""] * len(listed)
        self.write_table("images.csv", [("image_id", "mIoU", "mask"), *zip(listed, by_image, mask_names(listed), strict=True)])
        return board.scored() if board else [], (after[0] - before[0], after[1] - before[1])

    def voting(self, members: Sequence[Member], weights: list[float]) -> Voting:
        side, resize = self.request.side, self.request.resize
        if self.request.mode == "hard":
            return HardVote(members, self.gathered.weights, side, resize)
        return SoftVote(members, weights, side, resize)

    def score_names(self) -> list[str]:
        """Members alone, then the plain images, then the result; in the order of `compared`."""
        several = [record.name for record in self.gathered.records] if len(self.gathered.records) > 1 else []
        vote = {"single": "", "soft": "soft vote", "hard": "hard vote"}[self.request.mode]
        if self.has_views:
            return [*several, f"{vote}, plain" if vote else "plain", f"{vote}, tta" if vote else "tta"]
        return [*several, vote or "plain"]

    def compared(self, answer: Answer) -> list[torch.Tensor]:
        several = answer.members if len(self.gathered.records) > 1 else []
        plain = [answer.plain] if self.has_views and answer.plain is not None else []
        return [*several, *plain, answer.labels]

    @property
    def has_views(self) -> bool:
        return self.request.tta is not None

    def ready(self, data: SegmentationData, name: str, *, plain: bool) -> list[Member]:
        """The members, all on the device; where they do not fit together, as what each said when it was there alone."""
        gathered = self.gathered
        height, width = max(((int(h), int(w)) for h, w in data.sizes), key=lambda size: size[0] * size[1])
        if fit_together(gathered.networks, height, width):
            return [*gathered.members]
        self.report(Message(level="info", text="the models do not fit the GPU together: they run one after another"))
        folder = self.request.places.work / f"spilled-{name}"
        folder.mkdir()
        done = Counted("predict each", len(data) * len(gathered.networks), self.progress, self.stop_asked)
        return spill(
            gathered.members, lambda: self.batches(data, range(len(data))), data.sizes, len(gathered.classes), folder, done, plain=plain
        )

    def batches(self, data: SegmentationData, indices: Sequence[int]) -> Iterator[Batch]:
        table = self.gathered.data
        order = InOrder(data.sizes, indices, table.batch_size, MOST_VALUES // len(self.gathered.classes))
        workers = min(table.workers, len(order))
        return iter(loader(data, order, workers, self.gathered.device))

    def write(self, batch: Batch, answer: Answer) -> None:
        assert self.outputs is not None
        sidecar = self.gathered.sidecar
        labels = answer.labels.cpu().numpy()
        kept = scaled(answer.probabilities, *sidecar.size).cpu().numpy() if sidecar and answer.probabilities is not None else None
        for row, index in enumerate(batch.indices.tolist()):
            self.outputs.add(index, batch.images[row].numpy(), labels[row], answer.ids[row], kept[row] if kept is not None else None)

    def write_table(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        atomic.write(self.request.places.work / name, text.getvalue())

    def finish(self, scored: list[Scored], times: tuple[float, float], fitted: Fit | None, weights: list[float]) -> None:
        assert self.outputs is not None
        gathered, request = self.gathered, self.request
        for member, weight in zip(gathered.records, weights, strict=True):
            member.weight = weight
        if gathered.sidecar is not None:
            gathered.sidecar.weights = weights
        images = len(gathered.pictures)
        ms, plain_ms = (seconds / images * 1000 for seconds in times)
        tables = {"images": "images.csv"} | ({"scores": "scores.csv"} if scored else {})
        files = self.outputs.files() | {kind: str(request.places.folder / name) for kind, name in tables.items()}
        for each in scored:
            self.report(as_event(each))
        record = PredictionRecord(
            segtui=version("segtui"),
            name=request.places.folder.name,
            created=self.began,
            seconds=time.time() - self.began,
            command=list(request.command),
            mode=request.mode,
            members=gathered.records,
            views=[str(view) for view in gathered.manner.views],
            passes=cost(gathered.manner.views),
            window=request.window,
            overlap=request.overlap,
            source=str(gathered.pictures.json),
            data=gathered.pictures.digest,
            images=images,
            classes=list(gathered.classes),
            size=request.side,
            resize=request.resize,
            device=device_name(gathered.device),
            precision=gathered.precision,
            fit=fitted,
            scores=scored,
            ms_per_image=ms,
            plain_ms_per_image=plain_ms if self.has_views and gathered.scored else None,
            files=files,
            root=str(gathered.pictures.root.absolute()),
            truth=str(truth.folder.absolute()) if (truth := gathered.dataset.masks) else None,
        )
        for spilled in request.places.work.glob("spilled-*"):
            shutil.rmtree(spilled)
        self.outputs.publish(record)
        self.report(PredictionWritten(files=files, ms_per_image=ms, plain_ms_per_image=record.plain_ms_per_image))

    def seconds(self) -> tuple[float, float]:
        """The networks' time so far: all views, and the plain one."""
        found = [network.inference.seconds() for network in self.gathered.networks]
        return sum(whole for whole, _ in found), sum(plain for _, plain in found)

    def clean(self, keep_log: bool) -> str:
        """Leave nothing, or the log alone, beside the place where the result would have been; returns its path."""
        if self.outputs is not None:
            self.outputs.discard()
        places = self.request.places
        log = log_of_failure(places)
        if keep_log:
            with suppress(OSError):
                RunFolder(places.work).log.replace(log)
        shutil.rmtree(places.work, ignore_errors=True)
        with suppress(OSError):  # others are in it
            places.folder.parent.rmdir()
        return str(log) if keep_log and log.exists() else ""


def score_table(classes: Sequence[str], scored: Sequence[Scored]) -> list[Sequence[Any]]:
    """A row for each class, then their means: the IoU of each way to predict, and the result's accuracy and pixels. None is empty."""
    result = scored[-1]
    rows: list[Sequence[Any]] = [("class", *(f"IoU {each.name}" for each in scored), "accuracy", "pixels")]
    for index, name in enumerate(classes):
        rows.append((name, *(each.IoU[index] for each in scored), result.class_acc[index], result.support[index]))
    return [*rows, ("mean", *(each.mIoU for each in scored), result.mean_acc, sum(result.support))]


def told_fit(fitted: Fit, names: list[str], weights: list[float]) -> str:
    """In a sentence, what weights were found and what they gain."""
    found = ", ".join(f"{name} {weight:.3f}" for name, weight in zip(names, weights, strict=True))
    best = max(fitted.members, key=lambda member: member.mIoU or 0.0)
    gain = f"mIoU {fitted.fitted.mIoU or 0:.4f} with them, {fitted.equal.mIoU or 0:.4f} with equal ones"
    gain = f"{gain}, {best.mIoU or 0:.4f} {best.name} alone"
    return f"weights fitted on {fitted.fitted_on} validation images: {found}. On the other {fitted.scored_on}: {gain}"


class Counted:
    """Counts images, tells progress, and raises Stopped where that was asked for."""

    def __init__(self, task: str, total: int, progress: Callable[[str, int, int], None], stop_asked: Callable[[], bool]) -> None:
        self.task, self.total, self.done = task, total, 0
        self._progress, self._stop_asked = progress, stop_asked
        progress(task, 0, total)

    def __call__(self, images: int) -> None:
        self.done += images
        self._progress(self.task, self.done, self.total)
        if self._stop_asked():
            raise Stopped
