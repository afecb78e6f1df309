"""What the events of a run add up to so far: the one place that every view of a run reads from."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.events import AnyEvent, Checkpoint, Epoch, Message, Progress, Queued, RunEnded, RunStarted, Step, System, Validation

RECENT_STEPS = 50


@dataclass
class RunState:
    """Feed it events in order. A resumed run's `run_started` drops what was told before of later steps and epochs."""

    started: RunStarted | None = None
    step: Step | None = None
    epochs: list[Epoch] = field(default_factory=list)
    validations: list[Validation] = field(default_factory=list)
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    system: System | None = None
    progress: Progress | None = None
    messages: list[Message] = field(default_factory=list)
    ended: RunEnded | None = None
    queued: Queued | None = None
    _step_times: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=RECENT_STEPS))
    _step_s: float | None = None
    _epoch_told: float = 0.0
    _validation_s: float = 0.0

    def add_steps(self, steps: Sequence[Step]) -> None:
        """As `add` of each."""
        self.step, self.progress = steps[-1], None
        self._step_times.extend((each.step, each.time) for each in steps[-RECENT_STEPS:])

    def add(self, event: AnyEvent) -> None:
        match event:
            case RunStarted():
                self.started, self.ended, self.queued = event, None, None
                self.step = self.step if self.step and self.step.step <= event.resumed_step else None
                self.epochs = [each for each in self.epochs if each.epoch <= event.resumed_epoch]
                known = (each for each in self.validations if len(each.IoU) == len(event.classes))
                self.validations = [each for each in known if each.epoch <= event.resumed_epoch]
                self._step_times.clear()
            case Step():
                self.add_steps([event])
            case Epoch():
                self.epochs.append(event)
                self._epoch_told = event.time
            case Validation():
                self.validations.append(event)
                self.progress = None
                self._validation_s = event.time - self._epoch_told
                self._step_s = self.step_seconds
                self._step_times.clear()
            case Checkpoint():
                self.checkpoints[event.kind] = event
            case System():
                self.system = event
            case Progress():
                self.progress = event
            case Message():
                self.messages.append(event)
            case Queued():
                self.queued, self.ended = event, None
            case RunEnded():
                self.ended, self.queued = event, None

    @property
    def total_steps(self) -> int:
        return self.started.epochs * self.started.steps_per_epoch if self.started else 0

    @property
    def done_steps(self) -> int:
        return self.step.step if self.step else self.started.resumed_step if self.started else 0

    @property
    def step_seconds(self) -> float | None:
        """Mean time of the recent steps, without validations between them; of those before a validation until there are new ones."""
        if len(self._step_times) < 2:
            return self._step_s
        (first, began), (last, ended) = self._step_times[0], self._step_times[-1]
        return (ended - began) / (last - first) if last > first else None

    @property
    def seconds_left(self) -> float | None:
        """To the end of the last epoch, with a validation after each as long as the last one was."""
        seconds = self.step_seconds
        if seconds is None or self.started is None:
            return None
        told = [self.started.resumed_epoch, *(each.epoch for each in self.validations)]
        every = told[-1] - told[-2] if len(told) > 1 else 1
        validations_left = (self.started.epochs - told[-1]) / max(every, 1)
        return max(0, self.total_steps - self.done_steps) * seconds + max(0.0, validations_left) * self._validation_s

    def change(self, class_index: int) -> float | None:
        """A class's IoU in the last validation less that in the one before."""
        if len(self.validations) < 2:
            return None
        before, now = (each.IoU[class_index] for each in self.validations[-2:])
        return None if before is None or now is None else now - before


def clock(seconds: float | None) -> str:
    """`1:02:03`, `2:03`, or `-:--` where unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "-:--"
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{whole:02d}" if hours else f"{minutes}:{whole:02d}"
