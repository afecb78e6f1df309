"""Step events without waiting for the device in every step: losses stay there and are read back about once a second."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.dataset import Batch
from engine.errors import RunError
from engine.events import AnyEvent, Step

if TYPE_CHECKING:
    from engine.prepare import Setup
    from engine.train import Position

READ_EVERY_S = 1.0
MOST_PENDING = 256


@dataclass(frozen=True)
class _Pending:
    event: Step
    loss: torch.Tensor
    indices: torch.Tensor


class StepLog:
    """Measures steps, and reports them once their losses are read.

    A loss that is not finite is found here, at the latest when the log is flushed at the end of an epoch, and so
    before anything is saved.
    """

    def __init__(self, setup: Setup, report: Callable[[AnyEvent], None]) -> None:
        self._setup, self._report = setup, report
        self._pending: list[_Pending] = []
        self.start()

    def start(self) -> None:
        self._step_began = self._last_read = time.perf_counter()
        self._waited = 0.0

    def wait_for(self, stream: Iterator[Batch]) -> Batch:
        """The next batch; the time until it is there counts as data wait."""
        began = time.perf_counter()
        batch = next(stream)
        self._waited += time.perf_counter() - began
        return batch

    def add(self, at: Position, loss: torch.Tensor, rate: float, indices: torch.Tensor) -> None:
        now = time.perf_counter()
        took = max(now - self._step_began, 1e-9)
        event = Step(
            epoch=at.epoch,
            step=at.step,
            loss=None,
            lr=rate,
            images_per_s=len(indices) * self._setup.ranks.count / took,
            data_wait=min(self._waited / took, 1.0),
            time=time.time(),
        )
        self._pending.append(_Pending(event, loss, indices))
        self._step_began, self._waited = now, 0.0
        if now - self._last_read > READ_EVERY_S or len(self._pending) >= MOST_PENDING:
            self.flush(at)

    def flush(self, at: Position) -> None:
        """Read the losses (one wait for the device) and report their steps. Raises RunError for one that is not finite."""
        pending, self._pending = self._pending, []
        self._last_read = time.perf_counter()
        if not pending:
            return
        for each, loss in zip(pending, torch.stack([each.loss for each in pending]).tolist(), strict=True):
            each.event.loss = loss
            self._report(each.event)
            if not math.isfinite(loss) and self._setup.ranks.is_main:  # it says so for all
                raise RunError(self._not_finite(each, loss))
            at.loss_sum += loss
            at.loss_count += 1

    def _not_finite(self, found: _Pending, loss: float) -> str:
        names = ", ".join(self._setup.train.path(index) for index in found.indices.tolist())
        others = " and the other devices' images" if self._setup.ranks.count > 1 else ""
        return (
            f"the loss is {loss} at step {found.event.step} (epoch {found.event.epoch}), in the batch of: {names}{others}. "
            "The last good checkpoint is kept. A lower optimizer.lr, train.clip_norm or train.warmup_steps often helps"
        )
