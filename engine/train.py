"""The loop. `Trainer.train` can be read aloud; each line of it is a phase with a name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
import torch
from torch import nn

from engine.augment import normalise
from engine.checkpoint import random_state
from engine.compiling import compiled
from engine.dataset import Batch
from engine.errors import Stopped
from engine.events import AnyEvent, Epoch, Progress, Validation
from engine.metrics import Scores, confusion_matrices, confusion_matrix, image_mIoU, scores
from engine.model import predict_logits
from engine.prepare import Setup
from engine.step_log import StepLog

Report = Callable[[AnyEvent], None]


@dataclass
class Position:
    """Where a run is: `batch` counts the batches done of `epoch` (from 1), `step` the optimizer steps of the whole run."""

    epoch: int = 1
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    best_epoch: int = 0
    best_mIoU: float | None = None
    stale: int = 0
    """Validations since the best one."""


@dataclass(frozen=True)
class Validated:
    """A validation and the mean IoU of each of its images, float32 (N,)."""

    event: Validation
    scores: Scores
    by_image: torch.Tensor


class Trainer:
    """Trains a setup. `report` takes events, `stop_asked` is looked at after each step, `keep` saves after each epoch,
    `keep_state` the state to resume from within one."""

    def __init__(
        self,
        setup: Setup,
        report: Report,
        stop_asked: Callable[[], bool],
        keep: Callable[[Trainer, Validated | None], None],
        keep_state: Callable[[], None] = lambda: None,
    ) -> None:
        self.setup, self.report, self.stop_asked, self.keep, self.keep_state = setup, report, stop_asked, keep, keep_state
        self.ranks = setup.ranks
        self.random: list[dict[str, Any]] = []
        """torch's generators on every rank, as of `hand_over`."""
        self.at = Position()
        self.matrix = torch.zeros(len(setup.classes), len(setup.classes), dtype=torch.int64, device=setup.device)
        self.network = compiled(setup, report) if setup.preset.train.compile else setup.model
        self.steps = StepLog(setup, report)

    def train(self) -> None:
        """Run to the last epoch or to the end of patience. Raises Stopped, or RunError where training cannot go on."""
        self.network = self.ranks.wrap(self.network)
        if self.ranks.can_restart and self.at.step == 0:  # one of them may die, and all of them then go on from here
            self.hand_over()
            self.keep_state()
        while self.at.epoch <= self.setup.preset.train.epochs and not self.is_patience_spent():
            self.train_epoch()
            self.report_epoch()
            validated = self.validate() if self.is_validation_due() else None
            self.setup.schedule.after_epoch(validated.event if validated else None)
            self.start_next_epoch()
            self.hand_over()
            self.keep(self, validated)

    def train_epoch(self) -> None:
        setup, at = self.setup, self.at
        setup.batches.epoch, setup.batches.first = at.epoch, at.batch
        setup.model.train()
        left = len(setup.batches)
        stream = iter(setup.train_loader) if left else iter(())
        self.steps.start()
        while left:
            group = min(setup.preset.train.accumulate, left)
            rate = setup.schedule.before_step(at.step + 1)
            losses, indices = self.backward(stream, group)
            self.update_weights()
            setup.schedule.after_step()
            left -= group
            at.batch += group
            at.step += 1
            self.steps.add(at, self.ranks.mean(losses), rate, indices)
            if self.ranks.agree_in_passing(self.stop_asked()):
                self.steps.flush(at)
                self.hand_over()
                raise Stopped
            if left and self.is_state_due():
                self.steps.flush(at)
                self.hand_over()
                self.keep_state()
        self.steps.flush(at)

    def backward(self, stream: Iterator[Batch], group: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Add up the gradients of `group` batches; their mean loss on the device, and their images' indices."""
        losses: list[torch.Tensor] = []
        indices: list[torch.Tensor] = []
        passes = group * self.setup.parts
        for _ in range(group):
            batch = self.steps.wait_for(stream)
            whole = self.on_device(batch)
            for images, labels in zip(*(tensor.chunk(self.setup.parts) for tensor in whole), strict=True):
                is_last = len(losses) + 1 == passes
                with nullcontext() if is_last else self.ranks.gradients_later():
                    with self.setup.autocast():
                        logits = predict_logits(self.network, images)
                    loss = self.setup.objective(logits, labels, self.ranks.mean)
                    self.setup.scaler.scale(loss / passes).backward()
                self.matrix += confusion_matrix(labels, logits.detach().argmax(dim=1), len(self.setup.classes))
                losses.append(loss.detach())
            indices.append(batch.indices)
        return torch.stack(losses).mean(), torch.cat(indices)

    def update_weights(self) -> None:
        setup = self.setup
        if setup.preset.train.clip_norm:
            setup.scaler.unscale_(setup.optimizer)
            nn.utils.clip_grad_norm_(setup.model.parameters(), setup.preset.train.clip_norm)
        setup.scaler.step(setup.optimizer)
        setup.scaler.update()
        setup.optimizer.zero_grad(set_to_none=True)
        if setup.average is not None:
            setup.average.update_parameters(setup.model)

    def report_epoch(self) -> None:
        self.ranks.collect(self.matrix)
        found = scores(self.matrix.cpu().numpy())
        self.report(
            Epoch(
                epoch=self.at.epoch,
                loss=self.at.loss_sum / max(self.at.loss_count, 1),
                mIoU=found.mIoU,
                IoU=found.IoU,
                acc=found.class_acc,
                pixel_acc=found.acc,
                mean_acc=found.mean_acc,
                fwavacc=found.fwavacc,
            )
        )

    @torch.no_grad()
    def validate(self) -> Validated:
        """Every validation image once, judged at full size. Raises Stopped between batches.

        Ranks have different numbers of batches: they meet before the first and after the last one only.
        """
        setup, model = self.setup, self.setup.evaluated
        self.ranks.same_buffers(model)
        model.eval()
        matrix = torch.zeros_like(self.matrix)
        losses, by_image, order, done, told = [], [], [], 0, time.monotonic()
        for batch in setup.val_loader:
            images, labels = self.on_device(batch)
            with setup.autocast():
                logits = predict_logits(model, images, setup.preset.data.input_size)
            per_image = confusion_matrices(labels, logits.argmax(dim=1), len(setup.classes))
            matrix += per_image.sum(dim=0)
            by_image.append(image_mIoU(per_image))
            losses.append(setup.objective(logits, labels) * len(labels))
            order.append(batch.indices)
            done += len(labels)
            if time.monotonic() - told > 0.5:
                told = time.monotonic()
                self.report(Progress(task="validate", done=min(done * self.ranks.count, len(setup.val)), total=len(setup.val), per_s=None))
            if self.stop_asked():
                break
        if self.ranks.agree(self.stop_asked()):
            self.hand_over()
            raise Stopped
        by_index = torch.zeros(len(setup.val))
        if order:
            by_index[torch.cat(order)] = torch.cat(by_image).cpu()
        by_index = self.ranks.sum(by_index)
        total = torch.stack(losses).sum() if losses else torch.zeros((), device=setup.device)
        loss = float(self.ranks.sum(total)) / len(setup.val)
        found = scores(self.ranks.sum(matrix).cpu().numpy())
        event = self.judge(found, loss)
        self.report(event)
        return Validated(event, found, by_index)

    def judge(self, found: Scores, loss: float) -> Validation:
        """Best is by validation mIoU; the earlier of two equals stays."""
        at = self.at
        best = found.mIoU is not None and (at.best_mIoU is None or found.mIoU > at.best_mIoU)
        if best:
            at.best_epoch, at.best_mIoU = at.epoch, found.mIoU
        at.stale = 0 if best else at.stale + 1
        return Validation(epoch=at.epoch, loss=loss, best=best, best_epoch=at.best_epoch, best_mIoU=at.best_mIoU, **asdict(found))

    def is_validation_due(self) -> bool:
        train = self.setup.preset.train
        return self.at.epoch % train.val_every == 0 or self.at.epoch == train.epochs

    def is_patience_spent(self) -> bool:
        patience = self.setup.preset.train.patience
        return patience > 0 and self.at.stale >= patience

    def is_state_due(self) -> bool:
        every = self.setup.preset.train.resume_every
        return every > 0 and self.at.step % every == 0

    def hand_over(self) -> None:
        """What the other ranks alone have of the state, to rank 0, which saves it."""
        self.ranks.collect(self.matrix)
        self.random = self.ranks.gather(random_state(self.setup.device))

    def start_next_epoch(self) -> None:
        self.at.epoch += 1
        self.at.batch, self.at.loss_sum, self.at.loss_count = 0, 0.0, 0
        self.matrix.zero_()

    def on_device(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        device, pretraining = self.setup.device, self.setup.pretraining
        images = batch.images.to(device, non_blocking=True)
        return normalise(images, pretraining.mean, pretraining.std), batch.labels.to(device, non_blocking=True)

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on. Its tensors are those that training changes: copy them before it goes on."""
        setup = self.setup
        return {
            "position": asdict(self.at),
            "matrix": self.matrix,
            "model": setup.model.state_dict(),
            "average": setup.average.state_dict() if setup.average is not None else None,
            "optimizer": setup.optimizer.state_dict(),
            "scaler": setup.scaler.state_dict(),
            "schedule": setup.schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises one of the errors of torch, KeyError, TypeError or ValueError where it is another trainer's."""
        setup = self.setup
        self.at = msgspec.convert(state["position"], Position)
        check_shape("matrix", state["matrix"], self.matrix)
        self.matrix.copy_(state["matrix"] if self.ranks.is_main else torch.zeros_like(state["matrix"]))
        setup.model.load_state_dict(state["model"])
        if setup.average is not None:
            setup.average.load_state_dict(state["average"])
        setup.optimizer.load_state_dict(state["optimizer"])
        if lacking := setup.optimizer.defaults.keys() - setup.optimizer.param_groups[0].keys():
            raise ValueError(f"the optimizer's state lacks {', '.join(sorted(lacking))}")
        for parameter, values in setup.optimizer.state.items():
            for name, value in values.items():
                check_shape(name, value, parameter)
        setup.scaler.load_state_dict(state["scaler"])
        setup.schedule.load_state_dict(state["schedule"])


def check_shape(name: str, value: Any, like: torch.Tensor) -> None:
    """Raises ValueError for a tensor that does not stand beside `like` element by element; torch takes such a state without a look."""
    if not isinstance(value, torch.Tensor) or value.dim() == 0:
        return
    if value.dim() != like.dim() or any(size not in (1, wanted) for size, wanted in zip(value.shape, like.shape, strict=True)):
        raise ValueError(f"{name} has the shape {tuple(value.shape)}, and what it belongs to {tuple(like.shape)}")
