"""What training minimises, and how: losses, optimizer and learning rate, from a preset's tables."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as functional
from torch import nn

from engine.coco import IGNORED
from engine.construct import construct
from engine.errors import Problem, RequestError
from engine.events import Validation
from engine.schema import LossTable, OptimizerTable, SchedulerTable

FUSED = ("Adam", "AdamW")
"""Updated in one pass over the weights where the user does not choose another way: half the time and more on every device."""
TINY = torch.finfo(torch.float32).tiny


Across = Callable[[torch.Tensor], torch.Tensor]
"""From a count of this batch to its mean over the ranks, for a loss that is a mean over what is counted: the mean of the ranks' losses,
and of their gradients, is then that of the whole batch."""


def alone(count: torch.Tensor) -> torch.Tensor:
    return count


class Objective(nn.Module):
    """A weighted sum of losses over pixels that are not ignored.

    Losses that are no mean over pixels (Dice, Jaccard, Tversky, Lovasz, MCC) are each rank's own, on several ranks.
    """

    def __init__(self, tables: Sequence[LossTable], classes: int, auto_weights: Sequence[float]) -> None:
        super().__init__()
        several = len(tables) > 1
        self.terms = nn.ModuleList(
            _term(table, classes, auto_weights, f"loss[{number}]" if several else "loss") for number, table in enumerate(tables)
        )
        self.weights = [table.weight for table in tables]

    def forward(self, logits: torch.Tensor, labels: torch.Tensor, across: Across = alone) -> torch.Tensor:
        """float (N, C, H, W) logits and uint8 (N, H, W) labels, 255 ignored, to a scalar in float32."""
        logits, labels = logits.float(), labels.long()
        losses = [term(logits, labels, across) if isinstance(term, Mean) else term(logits, labels) for term in self.terms]
        return torch.stack([weight * loss for weight, loss in zip(self.weights, losses, strict=True)]).sum()


class Mean(nn.Module):
    """A loss that is a mean over what it counts."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss


class PixelLoss(Mean):
    """torch.nn's cross-entropy or negative log-likelihood, averaged over the labelled pixels by their class weights.

    The library's own mean over (N, C, H, W) has no deterministic path on CUDA, and is 0/0 for a batch without labels.
    """

    def forward(self, logits: torch.Tensor, labels: torch.Tensor, across: Across = alone) -> torch.Tensor:
        scores = logits.log_softmax(dim=1) if isinstance(self.loss, nn.NLLLoss) else logits
        per_pixel = self.loss(scores, labels)
        labelled = labels != IGNORED
        weight = getattr(self.loss, "weight", None)
        share = labelled if weight is None else weight[torch.where(labelled, labels, 0)] * labelled
        mean: torch.Tensor = per_pixel.sum() / across(share.sum()).clamp_min(TINY).float()
        return mean


class NoLabelsNoLoss(Mean):
    """A loss whose own mean over the labelled pixels is 0/0 for a batch without any; it waits for the device anyway."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor, across: Across = alone) -> torch.Tensor:
        labelled = (labels != IGNORED).sum()
        share = (labelled / across(labelled).clamp_min(TINY)).float()
        return self.loss(logits, labels) * share if labelled else logits.sum() * 0


class BinaryLoss(Mean):
    """A loss of one decision per class and pixel (sigmoid, not softmax)."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor, across: Across = alone) -> torch.Tensor:
        labelled = (labels != IGNORED).unsqueeze(1)
        target = functional.one_hot(torch.where(labelled[:, 0], labels, 0), logits.shape[1]).movedim(-1, 1).to(logits.dtype)
        per_decision = self.loss(logits, target) * labelled
        mean: torch.Tensor = per_decision.sum() / across(labelled.sum() * logits.shape[1]).clamp_min(TINY).float()
        return mean


def _term(table: LossTable, classes: int, auto_weights: Sequence[float], key: str) -> nn.Module:
    from_torch = hasattr(nn, table.type)
    kind = getattr(nn if from_torch else smp.losses, table.type)
    known = inspect.signature(kind.__init__).parameters
    arguments = table.args
    per_pixel = from_torch or table.type.startswith("Soft")
    if "reduction" in arguments and per_pixel:
        raise RequestError(Problem("the loss is always the mean over labelled pixels", key=f"{key}.reduction", fix="leave it out"))
    arguments |= {
        name: value for name, value in (("ignore_index", IGNORED), ("mode", "multiclass")) if name in known and name not in arguments
    }
    if arguments.get("mode", "multiclass") != "multiclass":
        raise RequestError(
            Problem(f"{arguments['mode']!r} does not fit one class per pixel", key=f"{key}.mode", fix='leave it out, or write "multiclass"')
        )
    weights = list(auto_weights) if table.class_weights == "auto" else table.class_weights
    if weights is not None and len(weights) != classes:
        raise RequestError(Problem(f"has {len(weights)} numbers for {classes} classes", key=f"{key}.class_weights"))
    per_class = (classes, 1, 1) if "BCE" in table.type else (classes,)
    if "class_weights" in known:
        arguments |= {"class_weights": weights}
    elif weights is not None:
        arguments |= {"weight": torch.tensor(weights).view(per_class)}
    if isinstance(arguments.get("pos_weight"), list):
        arguments["pos_weight"] = torch.tensor(arguments["pos_weight"], dtype=torch.float32).view(-1, 1, 1)
    if per_pixel:
        arguments["reduction"] = "none"
    if table.type == "SoftCrossEntropyLoss":
        arguments.setdefault("smooth_factor", 0.0)  # its own default of None fails
    loss = construct(kind, arguments, key)
    if table.type == "FocalLoss":
        return NoLabelsNoLoss(loss)
    if "BCE" in table.type:
        return BinaryLoss(loss)
    return PixelLoss(loss) if per_pixel else loss


def class_weights(pixels: Sequence[int]) -> list[float]:
    """Median frequency balancing (Eigen and Fergus, 2015): median share / class share; 0 for a class without pixels."""
    present = sorted(count for count in pixels if count)
    if not present:
        return [1.0] * len(pixels)
    middle = len(present) // 2
    median = present[middle] if len(present) % 2 else (present[middle - 1] + present[middle]) / 2
    return [median / count if count else 0.0 for count in pixels]


def build_optimizer(table: OptimizerTable, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Any optimizer of torch.optim. Raises RequestError in the library's words where it refuses the values."""
    arguments: dict[str, Any] = table.args | {"params": list(parameters)}
    if table.type in FUSED and not arguments.keys() & {"fused", "foreach", "differentiable"}:
        arguments["fused"] = True
    optimizer: torch.optim.Optimizer = construct(getattr(torch.optim, table.type), arguments, "optimizer")
    return optimizer


class Schedule:
    """The learning rate: a scheduler of torch.optim.lr_scheduler, and a linear warm-up that multiplies what it says.

    "auto" as an argument means the run's whole length, in the scheduler's own interval.
    """

    def __init__(self, table: SchedulerTable | None, optimizer: torch.optim.Optimizer, epochs: int, steps: int, warmup_steps: int) -> None:
        self.optimizer, self.warmup_steps = optimizer, warmup_steps
        self.by_step = table is not None and table.interval == "step"
        self.scheduler: Any = None
        if table is not None:
            arguments: dict[str, Any] = {
                name: (steps if self.by_step else epochs) if value == "auto" else value for name, value in table.args.items()
            }
            if table.type == "ReduceLROnPlateau":
                if self.by_step:
                    raise RequestError(
                        Problem("ReduceLROnPlateau looks at validations", key="scheduler.interval", fix='write interval = "epoch"')
                    )
                arguments.setdefault("mode", "max")
            kind = getattr(torch.optim.lr_scheduler, table.type)
            self.scheduler = construct(kind, arguments | {"optimizer": optimizer}, "scheduler")
        self.rates = self._current()

    def before_step(self, step: int) -> float:
        """Set the rate of optimizer step `step` (from 1) and return it (of the first parameter group)."""
        factor = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        self._set([rate * factor for rate in self.rates])
        return self._current()[0]

    def after_step(self) -> None:
        self._set(self.rates)
        if self.by_step:
            self.scheduler.step()
            self.rates = self._current()

    def after_epoch(self, validation: Validation | None) -> None:
        """`validation` is that after this epoch, None where there was none."""
        if self.scheduler is None or self.by_step:
            return
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            metric = None if validation is None else validation.mIoU if self.scheduler.mode == "max" else validation.loss
            if metric is not None:
                self.scheduler.step(metric)
        else:
            self.scheduler.step()
        self.rates = self._current()

    def state_dict(self) -> dict[str, Any]:
        return {"rates": self.rates, "scheduler": self.scheduler.state_dict() if self.scheduler else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.scheduler:
            self.scheduler.load_state_dict(state["scheduler"])
        self.rates = list(state["rates"])
        self._set(self.rates)

    def _current(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def _set(self, rates: Sequence[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
