"""From a preset to everything that a run needs, or to what is wrong with the request. Writes nothing but caches."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from engine.augment import Augmentation
from engine.catalogue import slow_transforms
from engine.coco import Split, check_images
from engine.dataset import SegmentationData, TrainingBatches, ValidationBatches, loader
from engine.decoded import DecodedImages, decoded_images
from engine.device import autocast, choose_device, choose_precision
from engine.distributed import ALONE, Ranks, synchronised
from engine.errors import Problem, RequestError
from engine.events import Toggles
from engine.masks import mask_cache
from engine.model import Pretraining, build_model, check_sizes
from engine.objective import Objective, Schedule, build_optimizer, class_weights
from engine.processes import keep_memory
from engine.schema import Preset
from engine.training_data import read_data, training_size

ReportProgress = Callable[[str, int, int], None]


@dataclass
class Setup:
    """The parts of a run, on their device and ready for the first step."""

    preset: Preset
    toggles: Toggles
    ranks: Ranks
    parts: int
    """Into how many a rank's share of a batch is cut: they go through the network one after the other, and their gradients add up."""
    device: torch.device
    precision: str
    classes: list[str]
    train: SegmentationData
    val: SegmentationData
    image_size: tuple[int, int]
    """(height, width) of every training image."""
    batches: TrainingBatches
    val_batches: ValidationBatches
    train_loader: DataLoader[Any]
    val_loader: DataLoader[Any]
    model: nn.Module
    average: AveragedModel | None
    pretraining: Pretraining
    objective: Objective
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    digests: dict[str, str]
    warnings: list[str] = field(default_factory=list)
    noticed: list[str] = field(default_factory=list)
    """What the doctor warns of too, where it was asked."""
    notes: list[str] = field(default_factory=list)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps."""
        return -(-(self.batches.images // self.batches.batch_size) // self.preset.train.accumulate)

    @property
    def images_per_pass(self) -> int:
        """What this rank's network is trained on at once."""
        return self.batches.batch_size // self.ranks.count // self.parts

    def autocast(self) -> torch.autocast:
        return autocast(self.device, self.precision)

    @property
    def evaluated(self) -> nn.Module:
        """The weights that are validated and saved: the moving average where that is on."""
        return self.average.module if self.average is not None else self.model


def prepare(preset: Preset, toggles: Toggles, caches: Path, progress: ReportProgress, ranks: Ranks = ALONE, parts: int = 1) -> Setup:
    """Raises RequestError for everything that is wrong with preset, data or machine."""
    seed_everything(preset.train.seed, deterministic=toggles.deterministic)
    device = choose_device()
    if device.type == "cpu":
        keep_memory()
    precision = choose_precision(preset.train.precision, device)

    train, val = read_data(preset, toggles)
    for name, split in (("train", train), ("val", val)) if ranks.is_main else ():
        check_images(split, partial(progress, f"check {name}"))
    size = training_size(preset, train)
    augmentation = Augmentation(preset.augment.train, preset.data.background, size, _fit(preset), preset.train.seed)

    model, pretraining = build_model(preset.model, len(train.classes))
    sizes = {size} if preset.data.input_size else {size, *((int(height), int(width)) for height, width in val.sizes)}
    check_sizes(model, preset.model, sorted(sizes))
    if preset.train.sync_batchnorm:
        model = synchronised(model, ranks, device)
    model = model.to(device).to(memory_format=torch.channels_last)
    average = None
    if preset.train.ema_decay:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(preset.train.ema_decay))  # type: ignore[no-untyped-call]
    batches = TrainingBatches(len(train), preset.data.batch_size, preset.train.seed, ranks)
    optimizer = build_optimizer(preset.optimizer, model.parameters())
    steps = -(-len(batches) // preset.train.accumulate) * preset.train.epochs
    schedule = Schedule(preset.scheduler, optimizer, preset.train.epochs, steps, preset.train.warmup_steps)

    masks = {
        name: mask_cache(split, preset.data.overlap, caches, preset.data.workers, partial(progress, f"masks {name}"))
        for name, split in (("train", train), ("val", val))
    }
    pixels = masks["train"].pixels[: len(train.classes)].tolist()
    balanced = class_weights(pixels)
    objective = Objective(preset.loss, len(train.classes), balanced).to(device)
    check_loss(objective, len(train.classes), device)
    decoded = _decoded(preset, toggles, {"train": train, "val": val}, caches, progress)
    train_data = SegmentationData(train, masks["train"], augmentation, decoded.get("train"))
    val_data = SegmentationData(val, masks["val"], None, decoded.get("val"))
    val_batches = ValidationBatches(val.sizes, preset.data.batch_size, ranks, parts)
    return Setup(
        preset=preset,
        toggles=toggles,
        ranks=ranks,
        parts=parts,
        device=device,
        precision=precision,
        classes=list(train.classes),
        train=train_data,
        val=val_data,
        image_size=size,
        batches=batches,
        val_batches=val_batches,
        train_loader=loader(train_data, batches, preset.data.workers, device, passing=True),
        val_loader=loader(val_data, val_batches, preset.data.workers, device, passing=True),
        model=model,
        average=average,
        pretraining=pretraining,
        objective=objective,
        optimizer=optimizer,
        schedule=schedule,
        scaler=torch.amp.GradScaler(device.type, enabled=precision == "fp16"),
        digests={"train": train.digest, "val": val.digest},
        warnings=[pretraining.warning] if pretraining.warning else [],
        noticed=[*_noticed(preset, train, pixels), *train.notes, *val.notes],
        notes=[_told_weights(train.classes, balanced)] if any(table.class_weights == "auto" for table in preset.loss) else [],
    )


def seed_everything(seed: int, *, deterministic: bool) -> None:
    """Seed the weights; batches and augmentation are seeded for themselves. CUBLAS_WORKSPACE_CONFIG must be set before CUDA starts."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic


def check_loss(objective: Objective, classes: int, device: torch.device) -> None:
    """Some losses judge their values only when they are computed. Raises RequestError."""
    try:
        objective(torch.zeros(1, classes, 8, 8, device=device), torch.zeros(1, 8, 8, dtype=torch.uint8, device=device))
    except Exception as error:  # a loss may raise anything; its arguments are the user's
        raise RequestError(Problem(f"cannot be computed: {str(error).splitlines()[0]}", key="loss")) from error


def _fit(preset: Preset) -> Any:
    """Images of one size that augmentation turned on their side are cropped back, never squeezed."""
    return preset.data.fit if preset.data.image_size is not None else "crop"


def _noticed(preset: Preset, train: Split, pixels: list[int]) -> list[str]:
    slow = slow_transforms(table.type for table in preset.augment.train)
    absent = [name for name, count in zip(train.classes, pixels, strict=True) if not count]
    return slow + ([f"the training images have no pixel of: {', '.join(absent)}"] if absent else [])


def _told_weights(classes: tuple[str, ...], weights: list[float]) -> str:
    return "class weights: " + ", ".join(f"{name} {weight:.3g}" for name, weight in zip(classes, weights, strict=True))


def _decoded(
    preset: Preset, toggles: Toggles, splits: dict[str, Split], caches: Path, progress: ReportProgress
) -> dict[str, DecodedImages]:
    """Nothing for a debug run: its few images would take the place of all."""
    if not preset.data.keep_decoded or toggles.debug:
        return {}
    return {name: decoded_images(split, caches, partial(progress, f"decode {name}")) for name, split in splits.items()}
