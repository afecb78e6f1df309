"""How large a network is, measured once and kept: the quick form of the doctor imports no torch to ask it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from engine import atomic
from engine.checkup import Level
from engine.schema import ModelTable, OptimizerTable

FORMAT = 1
# Of what torch.optim keeps for each parameter; two of its size is the most that any keeps by default.
OPTIMIZER_COPIES = {"SGD": 0, "ASGD": 1, "Adagrad": 1, "Adafactor": 0, "RMSprop": 1, "Muon": 1}


class ModelFacts(msgspec.Struct, frozen=True):
    """`bytes_per_pixel` is what one image pixel leaves in memory for the backward pass, in float32."""

    parameters: int
    bytes_per_pixel: float
    format: int = FORMAT

    def weights_bytes(self) -> int:
        return 4 * self.parameters

    def resume_bytes(self, optimizer: OptimizerTable, ema_decay: float) -> int:
        """Of a state to resume from: weights, what the optimizer keeps, the moving average."""
        copies = OPTIMIZER_COPIES.get(optimizer.type, 2)
        if optimizer.type == "SGD" and optimizer.args.get("momentum"):
            copies = 1
        return self.weights_bytes() * (1 + copies + bool(ema_decay))


SMALL = ModelFacts(parameters=5_000_000, bytes_per_pixel=1000)
TYPICAL = ModelFacts(parameters=30_000_000, bytes_per_pixel=4000)
"""Measured: Unet-resnet18 14 M and 1,300, UnetPlusPlus-resnet50 49 M and 6,000, DeepLabV3Plus-efficientnet-b5 29 M and 9,000."""


class Shortage(NamedTuple):
    """`basis` says how far `needed`, in bytes, can be trusted; a guess that may be wrong is a note."""

    level: Level
    needed: int
    basis: str


def shortage(facts: ModelFacts | None, needed: Callable[[ModelFacts], int], free: int) -> Shortage | None:
    """Whether a network needs more than there is; without facts, whether a small one or one of common size would."""
    measure = "`segtui check --full` measures it"
    cases: list[tuple[ModelFacts, Level, str]] = [(facts, "warning", "an estimate")] if facts else []
    cases = cases or [(SMALL, "warning", f"if it is small; {measure}"), (TYPICAL, "note", f"if it is of common size; {measure}")]
    for size, level, basis in cases:
        if needed(size) > free:
            return Shortage(level, needed(size), basis)
    return None


def known(caches: Path, table: ModelTable, classes: int) -> ModelFacts | None:
    """What was measured before; None where nothing was, or by another version."""
    try:
        facts = msgspec.json.decode(_file(caches, table, classes).read_bytes(), type=ModelFacts)
    except (OSError, ValueError, RecursionError):
        return None
    return facts if facts.format == FORMAT else None


def keep(caches: Path, table: ModelTable, classes: int, facts: ModelFacts) -> None:
    """Raises OSError."""
    atomic.write(_file(caches, table, classes), msgspec.json.encode(facts))


def _file(caches: Path, table: ModelTable, classes: int) -> Path:
    described = table.model_dump_json(exclude={"encoder_weights"}) + str(classes)
    return caches / f"model-{hashlib.sha256(described.encode()).hexdigest()[:20]}.json"
