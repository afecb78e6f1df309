"""Losses and rates against the libraries' own and against formulas written as loops."""

from __future__ import annotations

import io
import math
import statistics
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from engine.catalogue import catalogue
from engine.coco import IGNORED
from engine.errors import RequestError
from engine.events import Validation
from engine.objective import Objective, Schedule, build_optimizer, class_weights
from engine.schema import LossTable, OptimizerTable, SchedulerTable

CLASSES = 5
WEIGHTS = [0.5, 2.0, 0.0, 1.25, 3.0]


def batch(seed: int = 0, ignored: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, CLASSES, 6, 7, generator=generator) * 3
    labels = torch.randint(0, CLASSES, (2, 6, 7), generator=generator, dtype=torch.uint8)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = IGNORED
    return logits.requires_grad_(), labels


def value_and_gradient(loss: nn.Module, logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, torch.Tensor]:
    value = loss(logits, labels)
    assert value.dtype == torch.float32
    (gradient,) = torch.autograd.grad(value, logits)
    return value.item(), gradient


def objective(*tables: LossTable, auto: list[float] | None = None) -> Objective:
    return Objective(tables, CLASSES, auto or [1.0] * CLASSES)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("ignored", [0.0, 0.3, 0.95])
def test_cross_entropy_equals_torchs_own_mean(weights: list[float] | None, smoothing: float, ignored: float) -> None:
    logits, labels = batch(ignored=ignored)
    weight = torch.tensor(weights) if weights else None
    reference = nn.CrossEntropyLoss(weight, ignore_index=IGNORED, label_smoothing=smoothing)
    expected = reference(logits, labels.long())
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    found, gradient = value_and_gradient(
        objective(LossTable(type="CrossEntropyLoss", class_weights=weights, label_smoothing=smoothing)), logits, labels
    )
    assert found == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-6)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_negative_log_likelihood_equals_torchs_own_mean(weights: list[float] | None) -> None:
    logits, labels = batch()
    reference = nn.NLLLoss(torch.tensor(weights) if weights else None, ignore_index=IGNORED)
    found, _ = value_and_gradient(objective(LossTable(type="NLLLoss", class_weights=weights)), logits, labels)
    assert found == pytest.approx(reference(logits.log_softmax(dim=1), labels.long()).item(), abs=1e-6)


@pytest.mark.parametrize("arguments", [{}, {"class_weights": WEIGHTS}, {"pos_weight": [1.0, 2.0, 3.0, 4.0, 0.5]}])
def test_binary_cross_entropy_equals_a_loop(arguments: dict[str, Any]) -> None:
    """The mean over classes and labelled pixels of -(p y log s + (1 - y) log(1 - s)), weighted by class."""
    logits, labels = batch()
    weight = arguments.get("class_weights", [1.0] * CLASSES)
    positive = arguments.get("pos_weight", [1.0] * CLASSES)
    total, decisions = 0.0, 0
    for n, y, x in torch.nonzero(labels != IGNORED).tolist():
        for c in range(CLASSES):
            share = 1 / (1 + math.exp(-logits[n, c, y, x].item()))
            log_likelihood = positive[c] * math.log(share) if labels[n, y, x] == c else math.log(1 - share)
            total -= weight[c] * log_likelihood
            decisions += 1
    found, _ = value_and_gradient(objective(LossTable(type="BCEWithLogitsLoss", **arguments)), logits, labels)
    assert found == pytest.approx(total / decisions, rel=1e-4)


@pytest.mark.parametrize("name", sorted(catalogue().losses))
def test_every_loss_ignores_unlabelled_pixels(name: str) -> None:
    loss = objective(LossTable(type=name))
    logits, labels = batch()
    value, gradient = value_and_gradient(loss, logits, labels)
    assert math.isfinite(value)
    assert gradient.isfinite().all()
    ignored = (labels == IGNORED).unsqueeze(1).expand_as(gradient)
    assert not gradient[ignored].any()
    assert gradient[~ignored].any()
    changed = torch.where(ignored, logits.detach() + 5, logits.detach()).requires_grad_()
    assert value_and_gradient(loss, changed, labels)[0] == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("name", sorted(catalogue().losses))
def test_the_share_of_unlabelled_pixels_does_not_scale_a_loss(name: str) -> None:
    """A border of ignored pixels, as a crop of a small image has, changes neither the loss nor its gradients."""
    loss = objective(LossTable(type=name))
    logits, labels = batch()
    value, gradient = value_and_gradient(loss, logits, labels)
    wide = nn.functional.pad(logits.detach(), (0, 20)).requires_grad_()
    bordered, bordered_gradient = value_and_gradient(loss, wide, nn.functional.pad(labels, (0, 20), value=IGNORED))
    assert bordered == pytest.approx(value, abs=1e-6)
    torch.testing.assert_close(bordered_gradient[..., :7], gradient, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", sorted(catalogue().losses))
def test_every_loss_of_a_batch_without_labels_is_finite(name: str) -> None:
    """A random crop of a sparsely labelled image can be such a batch; training must go on."""
    logits, labels = batch(ignored=1.1)
    value, gradient = value_and_gradient(objective(LossTable(type=name)), logits, labels)
    assert math.isfinite(value)
    assert not gradient.any()
    if name in ("CrossEntropyLoss", "NLLLoss", "BCEWithLogitsLoss"):
        assert value == 0


@pytest.mark.parametrize("name", sorted(catalogue().losses))
def test_every_loss_takes_half_precision_logits_and_returns_float32(name: str) -> None:
    logits, labels = batch()
    half = logits.detach().to(torch.bfloat16).requires_grad_()
    value, gradient = value_and_gradient(objective(LossTable(type=name)), half, labels)
    assert value == pytest.approx(objective(LossTable(type=name))(half.detach().float(), labels).item(), rel=1e-6)
    assert gradient.dtype == torch.bfloat16


def test_several_losses_are_a_weighted_sum() -> None:
    logits, labels = batch()
    tables = [
        LossTable(type="CrossEntropyLoss", weight=0.5),
        LossTable(type="DiceLoss", weight=2.0),
        LossTable(type="FocalLoss", gamma=1.0),
    ]
    single = [value_and_gradient(objective(LossTable(type=table.type, **table.args)), logits, labels) for table in tables]
    value, gradient = value_and_gradient(objective(*tables), logits, labels)
    assert value == pytest.approx(sum(table.weight * each for table, (each, _) in zip(tables, single, strict=True)), rel=1e-6)
    torch.testing.assert_close(gradient, sum(table.weight * each for table, (_, each) in zip(tables, single, strict=True)))


@given(pixels=st.lists(st.integers(0, 10**12) | st.just(0), min_size=1, max_size=20))
@settings(deadline=None)
def test_class_weights_balance_by_the_median(pixels: list[int]) -> None:
    """With w = median share / share, every present class weighs as much as the median one: pixels times weight is one number."""
    total = sum(pixels)
    found = class_weights(pixels)
    if not total:
        assert found == [1.0] * len(pixels)
        return
    median = statistics.median(count / total for count in pixels if count)
    for count, weight in zip(pixels, found, strict=True):
        assert weight == pytest.approx(median / (count / total) if count else 0.0)


def test_auto_weights_and_wrong_weights() -> None:
    logits, labels = batch()
    auto = objective(LossTable(type="CrossEntropyLoss", class_weights="auto"), auto=WEIGHTS)
    assert torch.equal(auto(logits, labels), objective(LossTable(type="CrossEntropyLoss", class_weights=WEIGHTS))(logits, labels))
    for name in ("CrossEntropyLoss", "BCEWithLogitsLoss", "DiceLoss", "FocalLoss"):
        with pytest.raises(RequestError, match="has 2 numbers for 5 classes"):
            objective(LossTable(type=name, class_weights=[1.0, 2.0]))
        weighted = objective(LossTable(type=name, class_weights=WEIGHTS))(logits, labels)
        assert not torch.allclose(weighted, objective(LossTable(type=name))(logits, labels))
    for table in (LossTable(type="CrossEntropyLoss", reduction="sum"), LossTable(type="DiceLoss", mode="binary")):
        with pytest.raises(RequestError, match=r"loss\.(reduction|mode)"):
            objective(table)


STEPS, EPOCHS = 24, 6
SCHEDULERS: dict[str, dict[str, Any]] = {
    "ConstantLR": {"factor": 0.5, "total_iters": 3},
    "CosineAnnealingLR": {"T_max": "auto"},
    "CosineAnnealingWarmRestarts": {"T_0": 2, "T_mult": 2},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 4},
    "ExponentialLR": {"gamma": 0.9},
    "LinearLR": {"start_factor": 0.2, "total_iters": 4},
    "MultiStepLR": {"milestones": [2, 3, 9], "gamma": 0.3},
    "OneCycleLR": {"max_lr": 0.3, "total_steps": "auto"},
    "PolynomialLR": {"total_iters": "auto", "power": 2.0},
    "StepLR": {"step_size": 2, "gamma": 0.5},
}


def two_groups() -> Optimizer:
    first, second = (nn.Parameter(torch.ones(2)) for _ in range(2))
    groups: list[dict[str, Any]] = [{"params": [first]}, {"params": [second], "lr": 0.02}]
    return SGD(groups, lr=0.1, momentum=0.9)


def rates(optimizer: Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def library_rates(name: str, by_step: bool) -> list[list[float]]:
    """The rates of every optimizer step, by the library's scheduler alone."""
    optimizer = two_groups()
    length = STEPS if by_step else EPOCHS
    arguments = {key: length if value == "auto" else value for key, value in SCHEDULERS[name].items()}
    scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **arguments)
    found = []
    for step in range(1, STEPS + 1):
        found.append(rates(optimizer))
        optimizer.step()
        if by_step or step % (STEPS // EPOCHS) == 0:
            scheduler.step()
    return found


def new_schedule(name: str, by_step: bool, warmup: int = 0) -> Schedule:
    table = SchedulerTable(type=name, interval="step" if by_step else "epoch", **SCHEDULERS[name])
    return Schedule(table, two_groups(), EPOCHS, STEPS, warmup)


def validation(mIoU: float | None, loss: float = 1.0) -> Validation:
    given: dict[str, Any] = {"epoch": 1, "acc": None, "mean_acc": None, "fwavacc": None, "IoU": [], "class_acc": [], "support": []}
    return Validation(**given, mIoU=mIoU, loss=loss, best=False, best_epoch=0, best_mIoU=None)


def run_steps(schedule: Schedule, steps: range) -> list[list[float]]:
    """As the training loop does: the rate is set, the step is made, and an epoch may end."""
    found = []
    for step in steps:
        first = schedule.before_step(step)
        found.append(rates(schedule.optimizer))
        assert first == found[-1][0]
        schedule.optimizer.step()
        schedule.after_step()
        if step % (STEPS // EPOCHS) == 0:
            schedule.after_epoch(validation(0.5))
    return found


def test_every_scheduler_is_tested() -> None:
    assert {*SCHEDULERS, "ReduceLROnPlateau"} == set(catalogue().schedulers)


@pytest.mark.parametrize("by_step", [True, False])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_rates_equal_the_librarys_own(name: str, by_step: bool) -> None:
    found = run_steps(new_schedule(name, by_step), range(1, STEPS + 1))
    assert found == library_rates(name, by_step)
    assert len({tuple(each) for each in found}) > 1


@pytest.mark.parametrize("by_step", [True, False])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_warm_up_multiplies_what_the_scheduler_says(name: str, by_step: bool) -> None:
    found = run_steps(new_schedule(name, by_step, warmup=10), range(1, STEPS + 1))
    expected = [[rate * min(1.0, step / 10) for rate in each] for step, each in enumerate(library_rates(name, by_step), start=1)]
    assert found == [pytest.approx(each, rel=1e-12) for each in expected]


def test_without_a_scheduler_the_rate_is_constant_after_warm_up() -> None:
    found = run_steps(Schedule(None, two_groups(), EPOCHS, STEPS, 4), range(1, STEPS + 1))
    assert [each[0] for each in found] == pytest.approx([0.025, 0.05, 0.075] + [0.1] * 21)


@pytest.mark.parametrize("by_step", [True, False])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_schedule_goes_on_from_its_state(name: str, by_step: bool) -> None:
    """Stopped in the middle of an epoch and of the warm-up, and read back without running code."""
    whole = run_steps(new_schedule(name, by_step, warmup=12), range(1, STEPS + 1))
    stopped = new_schedule(name, by_step, warmup=12)
    assert run_steps(stopped, range(1, 11)) == whole[:10]
    assert resumed_rates(stopped, new_schedule(name, by_step, warmup=12), range(11, STEPS + 1)) == whole[10:]


def resumed_rates(stopped: Schedule, fresh: Schedule, steps: range) -> list[list[float]]:
    file = io.BytesIO()
    torch.save({"optimizer": stopped.optimizer.state_dict(), "schedule": stopped.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    fresh.optimizer.load_state_dict(state["optimizer"])
    fresh.load_state_dict(state["schedule"])
    return run_steps(fresh, steps)


def plateau(**arguments: Any) -> Schedule:
    return Schedule(SchedulerTable(type="ReduceLROnPlateau", factor=0.5, patience=1, **arguments), two_groups(), EPOCHS, STEPS, 0)


def test_a_plateau_of_the_miou_lowers_the_rate() -> None:
    schedule = plateau()
    found = []
    for mIoU in (0.1, 0.2, 0.3, 0.3, None, 0.2, 0.3, 0.3):
        schedule.after_epoch(None if mIoU is None else validation(mIoU))
        found.append(schedule.before_step(1))
    assert found == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.025])

    by_loss = plateau(mode="min")
    for loss in (1.0, 0.9, 0.8, 0.7):
        by_loss.after_epoch(validation(0.5, loss))
    assert by_loss.before_step(1) == 0.1
    with pytest.raises(RequestError, match=r"scheduler\.interval"):
        plateau(interval="step")


def test_a_plateau_goes_on_from_its_state() -> None:
    whole, stopped = plateau(), plateau()
    expected = run_steps(whole, range(1, STEPS + 1))
    assert run_steps(stopped, range(1, 14)) == expected[:13]
    assert resumed_rates(stopped, plateau(), range(14, STEPS + 1)) == expected[13:]
    assert expected[-1][0] < expected[0][0]


def test_wrong_values_of_optimizers_and_schedulers_are_the_users() -> None:
    parameters = [nn.Parameter(torch.ones(1))]
    assert isinstance(build_optimizer(OptimizerTable(type="Adam", lr=0.3), parameters), Adam)
    with pytest.raises(RequestError, match="optimizer: Adam refuses"):
        build_optimizer(OptimizerTable(type="Adam", lr=-1.0), parameters)
    with pytest.raises(RequestError, match="scheduler: StepLR refuses"):
        Schedule(SchedulerTable(type="StepLR", step_siz=3), two_groups(), EPOCHS, STEPS, 0)
