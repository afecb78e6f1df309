"""The events of a run, their one-line JSON form, and the log that holds them.

A run is told as a sequence of events. The worker appends each to `events.jsonl` (the truth) and offers it to a queue
(the fast path). NaN and infinity are written as null and read as None: a gap.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, cast

import msgspec

SavedWeights = Literal["best", "interval", "last"]
State = Literal["queued", "running", "finished", "stopped", "failed", "lost"]
Number = float | None


def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Event(msgspec.Struct, kw_only=True, tag_field="type", tag=_snake_case):
    """`seq` counts from 1 without gaps within a run (also across resumes); `time` is in unix seconds."""

    seq: int = 0
    time: float = 0.0


class Toggles(msgspec.Struct, frozen=True):
    debug: bool = False
    deterministic: bool = False
    private: bool = False

    def __str__(self) -> str:
        return ", ".join(name for name in self.__struct_fields__ if getattr(self, name)) or "none"


class Images(msgspec.Struct, frozen=True):
    train: int
    val: int


class Queued(Event):
    """A Slurm job that has not begun, or waits for its next turn. Told by who follows it, without a number: it is in no log.

    `says` is what Slurm says of it ("waits: Resources"); empty until it was asked.
    """

    job: str
    says: str = ""

    def __str__(self) -> str:
        return f"job {self.job} {self.says}".strip()


class RunStarted(Event):
    """`resumed_step` and `resumed_epoch` are 0 for a fresh run; a reader drops what was told before of later steps and epochs."""

    run: str
    preset: str
    classes: list[str]
    epochs: int
    steps_per_epoch: int
    device: str
    world_size: int
    images: Images
    toggles: Toggles
    model: str = ""
    encoder_weights: str | None = None
    parameters: int = 0
    precision: str = "fp32"
    resumed_step: int = 0
    resumed_epoch: int = 0


class Step(Event):
    """One optimiser step. `step` counts from 1 over the whole run, `data_wait` is a share of the step's time, 0..1."""

    epoch: int
    step: int
    loss: Number
    lr: Number
    images_per_s: Number
    data_wait: Number


class Epoch(Event):
    """The training set over one epoch, as the model saw it while learning. Arrays go by class."""

    epoch: int
    loss: Number
    mIoU: Number
    IoU: list[Number]
    acc: list[Number]
    pixel_acc: Number = None
    mean_acc: Number = None
    fwavacc: Number = None


class Validation(Event):
    """A labelled set after an epoch of training, or predicted. Arrays go by class; `support` counts labelled pixels.

    `name` tells the scores of one prediction apart ("plain", "tta", a member's, "soft vote"); it is empty in training.
    """

    epoch: int
    loss: Number
    acc: Number
    mean_acc: Number
    mIoU: Number
    fwavacc: Number
    IoU: list[Number]
    class_acc: list[Number]
    support: list[int]
    best: bool
    best_epoch: int
    best_mIoU: Number
    name: str = ""


class PredictionStarted(Event):
    """`folder` is where the result will be; `passes` is its cost in plain predictions of one network."""

    name: str
    folder: str
    mode: Literal["single", "soft", "hard"]
    classes: list[str]
    images: int
    members: list[str]
    weights: list[Number]
    views: list[str]
    passes: float
    device: str
    precision: str
    scored: bool
    """Whether there is ground truth to compare with."""


class PredictionWritten(Event):
    """What a prediction left: by kind ("submission", "masks", "probabilities", "record") the path."""

    files: dict[str, str]
    ms_per_image: Number = None
    """Of the networks alone."""
    plain_ms_per_image: Number = None


class Checkpoint(Event):
    kind: SavedWeights | Literal["resume"]
    path: str
    epoch: int
    mIoU: Number


class Progress(Event):
    task: str
    done: int
    total: int
    per_s: Number


class Gpu(msgspec.Struct, frozen=True):
    """Shares in 0..1, temperature in degrees Celsius, power in watts."""

    util: Number
    memory: Number
    temperature: Number
    power: Number


class System(Event):
    """The machine every two seconds, and so the run's heartbeat. Shares in 0..1."""

    cpu: Number
    ram: Number
    gpu: list[Gpu]


class Message(Event):
    level: Literal["info", "warning", "error"]
    text: str


class RunEnded(Event):
    state: State
    error: str | None = None
    traceback: str | None = None


AnyEvent = (
    Queued
    | RunStarted
    | Step
    | Epoch
    | Validation
    | PredictionStarted
    | PredictionWritten
    | Checkpoint
    | Progress
    | System
    | Message
    | RunEnded
)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def encode(event: AnyEvent) -> bytes:
    """One line of JSON, without its newline."""
    return _encoder.encode(event)


def decode(line: bytes) -> AnyEvent:
    """The event of one line. Raises ValueError or RecursionError for anything else."""
    return _decoder.decode(line)


def stretches(events: Sequence[AnyEvent]) -> Iterator[list[Step] | AnyEvent]:
    """Steps that follow one another together, everything else alone, in order: a long history is nearly all steps."""
    start = 0
    for at in [at for at, event in enumerate(events) if type(event) is not Step]:
        if start < at:
            yield cast("list[Step]", events[start:at])
        yield events[at]
        start = at + 1
    if start < len(events):
        yield cast("list[Step]", events[start:])


class EventLog:
    """Appends events to a file: one writer, one `write` a line, so that a reader sees whole lines.

    Opening an existing log cuts off a torn last line and goes on after the last sequence number.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.last_seq = 0
        if path.exists():
            reader = EventReader(path)
            for event in reader.read():
                self.last_seq = max(self.last_seq, event.seq)
            os.truncate(path, reader.offset)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._size = os.fstat(self._descriptor).st_size

    def append(self, event: AnyEvent) -> bytes:
        """The line as it was written. Raises OSError where it cannot be written whole (a full disk); the log is then what it was before."""
        line = encode(event) + b"\n"
        try:
            written = os.write(self._descriptor, line)
            if written != len(line):
                os.write(self._descriptor, line[written:])
        except OSError as error:
            os.truncate(self._descriptor, self._size)  # the next line must not go on where this one broke off
            raise OSError(error.errno, error.strerror, str(self._path)) from None
        self._size += len(line)
        self.last_seq = event.seq
        return line

    def close(self) -> None:
        os.close(self._descriptor)


class EventReader:
    """Reads a log as it grows. A torn last line is the end, for now; a line that is no event is counted and passed over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.unreadable = 0
        self._classes: int | None = None

    def read(self, limit_bytes: int | None = None) -> list[AnyEvent]:
        """Whole lines since the last call, at most about `limit_bytes` of them. A log not yet there is empty."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                block = file.read(limit_bytes)
                if limit_bytes is not None and block and b"\n" not in block:
                    block += file.readline()
        except FileNotFoundError:
            return []
        whole = block[: block.rfind(b"\n") + 1]
        self.offset += len(whole)
        events = self._decoded(whole)
        fitting = [event for event in events if type(event) is Step or self._fits(event)]
        self.unreadable += len(events) - len(fitting)
        return fitting

    def _decoded(self, whole: bytes) -> list[AnyEvent]:
        """All lines in one call, which takes half the time, where each of them is one event; else one by one."""
        with suppress(ValueError, RecursionError):
            events = _decoder.decode_lines(whole)
            if len(events) == whole.count(b"\n"):
                return events
        events = []
        for line in whole.splitlines():
            try:
                events.append(decode(line))
            except (ValueError, RecursionError):
                self.unreadable += 1
        return events

    def _fits(self, event: AnyEvent) -> bool:
        """Whether its arrays go by the classes of the run: everybody indexes them so."""
        if isinstance(event, RunStarted):
            self._classes = len(event.classes)
        if not isinstance(event, Validation):
            return True
        return len(event.IoU) == len(event.class_acc) == len(event.support) and self._classes in (None, len(event.IoU))
