"""A run's events as curves over its steps."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

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

    def add_steps(self, steps: Sequence[Step]) -> None:
        """As `add` of each."""
        at = array("d", [each.step for each in steps])
        losses = array("d", [math.nan if each.loss is None else each.loss for each in steps])
        self.loss.extend(at, losses)
        self.smoothed.extend(at, self._smooth.extend(losses))
        self.rate.extend(at, array("d", [math.nan if each.lr is None else each.lr for each in steps]))

    def add(self, event: AnyEvent) -> None:
        match event:
            case RunStarted():
                self._per_epoch = max(event.steps_per_epoch, 1)
                for series in (self.loss, self.smoothed, self.rate):
                    series.keep_to(event.resumed_step)
                for series in (self.train_mIoU, self.val_loss, self.val_mIoU):
                    series.keep_to(event.resumed_epoch * self._per_epoch)
                self._smooth = Smoothed(SMOOTHING)  # of the steps that are kept
                self._smooth.extend(self.loss.y)
            case Step():
                self.add_steps([event])
            case Epoch():
                self.train_mIoU.append(event.epoch * self._per_epoch, event.mIoU)
            case Validation():
                self.val_loss.append(event.epoch * self._per_epoch, event.loss)
                self.val_mIoU.append(event.epoch * self._per_epoch, event.mIoU)
