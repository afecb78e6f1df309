"""A run's events as curves over its steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import cast

from engine.events import AnyEvent, Epoch, RunStarted, Step, Validation
from tui.widgets.series import Series, Smoothed

SMOOTHING = 0.98


@dataclass
class RunCurves:
    """Feed it events in order. Epochs lie at their last step. What a resumed run tells again replaces what it told before."""

    loss: Series = field(default_factory=Series)
    smoothed: Series = field(default_factory=Series)
    rate: Series = field(default_factory=Series)
    train_mIoU: Series = field(default_factory=Series)
    val_loss: Series = field(default_factory=Series)
    val_mIoU: Series = field(default_factory=Series)
    _smooth: Smoothed = field(default_factory=lambda: Smoothed(SMOOTHING))
    _per_epoch: int = 1

    def extend(self, events: Iterable[AnyEvent]) -> None:
        """As `add` of each: a long history is nearly all steps, and those come together."""
        for is_step, some in groupby(events, key=lambda event: type(event) is Step):
            if is_step:
                self._add_steps(cast("list[Step]", list(some)))
            else:
                for event in some:
                    self.add(event)

    def _add_steps(self, steps: list[Step]) -> None:
        at, losses = [each.step for each in steps], [each.loss for each in steps]
        self.loss.extend(at, losses)
        self.smoothed.extend(at, [self._smooth.add(loss) for loss in losses])
        self.rate.extend(at, [each.lr for each in steps])

    def add(self, event: AnyEvent) -> None:
        match event:
            case RunStarted():
                self._per_epoch = max(event.steps_per_epoch, 1)
                for series in (self.loss, self.smoothed, self.rate):
                    series.keep_to(event.resumed_step)
                for series in (self.train_mIoU, self.val_loss, self.val_mIoU):
                    series.keep_to(event.resumed_epoch * self._per_epoch)
                self._smooth = Smoothed(SMOOTHING)  # of the steps that are kept
                for loss in self.loss.y:
                    self._smooth.add(loss)
            case Step():
                self._add_steps([event])
            case Epoch():
                self.train_mIoU.append(event.epoch * self._per_epoch, event.mIoU)
            case Validation():
                self.val_loss.append(event.epoch * self._per_epoch, event.loss)
                self.val_mIoU.append(event.epoch * self._per_epoch, event.mIoU)
