"""Several runs side by side: their curves over steps and epochs, the classes of each one's best epoch, what their presets differ in."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engine.errors import RequestError
from engine.events import AnyEvent, EventReader, Number, RunStarted, Step, Validation
from engine.palette import class_colours
from engine.run import RunFolder, RunRecord
from tui.curves import RunCurves
from tui.run_state import RunState
from tui.widgets.series import Series

MOST = 8
"""Runs in one comparison: as many as there are colours that everyone can tell apart."""
BLOCK = 1 << 16
"""Bytes of a log that are taken in one turn: some 400 steps, 10 ms."""
Metric = Literal["validation mIoU", "validation loss", "training loss"]
METRICS: tuple[Metric, ...] = ("validation mIoU", "validation loss", "training loss")
"""The training loss is the smoothed one."""


class RunColours:
    """A run keeps the colour it was given first, unless one that is marked with it has got it since."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def give(self, run: str, among: Collection[str]) -> str:
        """The colour of `run`, which none of `among` has."""
        taken = {self._numbers[each] for each in among if each != run and each in self._numbers}
        if run not in self._numbers or self._numbers[run] in taken:
            fresh = (number for number in range(MOST) if number not in self._numbers.values())
            self._numbers[run] = next(itertools.chain(fresh, (number for number in itertools.count() if number not in taken)))
        return self.of(run)

    def of(self, run: str) -> str:
        """rich's name of the colour that the run was given."""
        number = self._numbers[run]
        return "rgb({},{},{})".format(*class_colours([str(each) for each in range(number + 1)])[number])


@dataclass(frozen=True)
class News:
    """What one look into a run's folder brought. `problem` and `preset_problem` say why there is no record, or no preset."""

    record: RunRecord | None
    problem: str
    preset: Mapping[str, Any] | None
    preset_problem: str
    events: Sequence[AnyEvent]


class Reader:
    """Looks into a run's folder, a block of its log at a time. For one thread."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._log = EventReader(folder.events)
        self._preset: Mapping[str, Any] | None = None

    def read(self) -> News:
        record, problem = None, ""
        try:
            record = self._folder.read()
        except RequestError as error:
            problem = str(error) if self._folder.path.exists() else "was deleted; what it told before is kept here"
        return News(record, problem, *self._read_preset(), self._log.read(BLOCK))

    def _read_preset(self) -> tuple[Mapping[str, Any] | None, str]:
        """The preset, once it could be read, and what is wrong with it."""
        file = self._folder.preset
        try:
            self._preset = self._preset or tomllib.loads(file.read_text())
        except FileNotFoundError:
            return None, f"{file.name} is missing"
        except (OSError, ValueError) as error:
            return None, f"{file.name} cannot be read: {error}"
        return self._preset, ""


class Compared:
    """One run of a comparison. `label` is its letter, `colour` rich's name of its colour."""

    def __init__(self, folder: RunFolder, label: str, colour: str) -> None:
        self.folder, self.label, self.colour = folder, label, colour
        self.state, self.curves = RunState(), RunCurves()
        self.by_epoch: dict[Metric, Series] = {metric: Series() for metric in METRICS}
        self.record: RunRecord | None = None
        self.problem = ""
        self.preset: Mapping[str, Any] | None = None
        self.preset_problem = ""
        self.was_read = False
        self._per_epoch = 1

    def take(self, news: News) -> None:
        self.record = news.record or self.record
        self.problem, self.preset, self.preset_problem, self.was_read = news.problem, news.preset, news.preset_problem, True
        for event in news.events:
            self._add(event)

    def _add(self, event: AnyEvent) -> None:
        self.state.add(event)
        self.curves.add(event)
        losses = self.by_epoch["training loss"]
        match event:
            case RunStarted():
                self._per_epoch = max(event.steps_per_epoch, 1)
                losses.keep_to(event.resumed_step / self._per_epoch)
                self.by_epoch["validation loss"].keep_to(event.resumed_epoch)
                self.by_epoch["validation mIoU"].keep_to(event.resumed_epoch)
            case Step():
                losses.append(event.step / self._per_epoch, self.curves.smoothed.y[-1])
            case Validation():
                self.by_epoch["validation loss"].append(event.epoch, event.loss)
                self.by_epoch["validation mIoU"].append(event.epoch, event.mIoU)

    def series(self, metric: Metric, *, by_epoch: bool) -> Series:
        if by_epoch:
            return self.by_epoch[metric]
        curves = self.curves
        return {"validation mIoU": curves.val_mIoU, "validation loss": curves.val_loss, "training loss": curves.smoothed}[metric]

    @property
    def classes(self) -> Sequence[str]:
        return self.state.started.classes if self.state.started else ()

    @property
    def best(self) -> Validation | None:
        """The validation with the highest mIoU, of several the first."""
        known = [each for each in self.state.validations if each.mIoU is not None]
        return max(known, key=lambda each: each.mIoU or 0.0, default=None)

    def iou(self, name: str) -> Number:
        """Of the class of this name in the best epoch; None where the run has no such class, or never saw it."""
        best = self.best
        return best.IoU[self.classes.index(name)] if best and name in self.classes else None


@dataclass(frozen=True)
class Scores:
    """One line of the table: a score of every run, None where it has none."""

    name: str
    values: tuple[Number, ...]

    def difference(self, run: int) -> Number:
        """To the first run."""
        here, first = self.values[run], self.values[0]
        return None if here is None or first is None else here - first

    @property
    def largest_difference(self) -> float:
        """Of all runs to the first, without its sign; -1 where there is nothing to compare."""
        found = [self.difference(run) for run in range(1, len(self.values))]
        return max((abs(each) for each in found if each is not None), default=-1.0)

    def is_best(self, run: int) -> bool:
        """It has the highest value, and not all have it."""
        known = [value for value in self.values if value is not None]
        return len(set(known)) > 1 and self.values[run] == max(known)


def mean_scores(runs: Sequence[Compared]) -> Scores:
    return Scores("mIoU", tuple(run.best.mIoU if run.best else None for run in runs))


def class_scores(runs: Sequence[Compared], *, by_difference: bool = False) -> list[Scores]:
    """The IoU of each class in each run's best epoch, by the classes' names: the first run's classes, then what others have besides."""
    names = dict.fromkeys(name for run in runs for name in run.classes)
    rows = [Scores(name, tuple(run.iou(name) for run in runs)) for name in names]
    return sorted(rows, key=lambda row: -row.largest_difference) if by_difference else rows


def preset_differences(presets: Sequence[Mapping[str, Any] | None]) -> list[tuple[str, list[str | None]]]:
    """The keys that not all presets agree in, dotted, with each one's value as text; None where it has no such key, or is missing."""
    flat = [None if preset is None else dict(_flat(preset)) for preset in presets]
    there = [each for each in flat if each is not None]
    keys = dict.fromkeys(key for each in there for key in each)
    return [(key, [None if each is None else each.get(key) for each in flat]) for key in keys if len({each.get(key) for each in there}) > 1]


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Tables by their dotted keys, tables in arrays by their number (`augment.train[0].p`), everything else as one text."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{name}[{number}]")
    else:
        yield name, {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
