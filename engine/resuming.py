"""Going on with a run: its saved state, found to fit the preset and the data, and put back into a trainer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from engine.checkpoint import DAMAGED_FIX, canonical, load_resume, restore_random_state
from engine.errors import Problem, RequestError
from engine.prepare import Setup
from engine.run import RunFolder, RunLock, check_resumable
from engine.schema import Preset
from engine.train import Trainer

BESIDE_THE_WEIGHTS = {"name", "wandb", "debug", "launch"}


class ResumeState:
    """The saved state of a run, locked for this process and found to fit the preset. Raises RequestError otherwise."""

    def __init__(self, run: RunFolder, table: Preset) -> None:
        self.run = run
        self.lock = RunLock(run)
        self.record = run.read()
        check_resumable(run, self.record)
        self.state = load_resume(run.resume)
        if self.state["preset"] != preset_hash(table):
            raise RequestError(
                Problem("has changed since the run started", file=str(run.preset), fix="put it back, or start a new run with it")
            )

    def check_data(self, setup: Setup) -> None:
        for split in ("train", "val"):
            if self.state["data"][split] != setup.digests[split]:
                name = getattr(setup.preset.data, split)
                raise RequestError(
                    Problem(
                        "has changed since the run started",
                        file=str(Path(setup.preset.data.root) / name),
                        fix="put it back, or start a new run",
                    )
                )

    def notes(self, setup: Setup) -> list[str]:
        """What has to be said about going on from here."""
        before, now = self.state.get("world_size", 1), setup.ranks.count
        if before == now:
            return []
        return [
            f"trained on {before} device{'s' * (before > 1)} so far, now on {now}: it goes on from the same state, "
            "but does not give the same weights byte for byte"
        ]


def restore(trainer: Trainer, run: RunFolder, state: dict[str, Any]) -> None:
    """Put the trainer where it was. Raises RequestError where the state is that of another network, optimizer or schedule."""
    try:
        trainer.load_state_dict(state["trainer"])
        ranks = trainer.ranks
        random = [state["random"], *state.get("random_of_others", [])]
        if state.get("world_size", 1) == ranks.count:
            restore_random_state(random[ranks.number], trainer.setup.device)
        elif ranks.is_main:
            restore_random_state(random[0], trainer.setup.device)
    except torch.OutOfMemoryError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        why = f"lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:300]
        raise RequestError(Problem(f"is not the state of this run: {why}", file=str(run.resume), fix=DAMAGED_FIX)) from error


def preset_hash(table: Preset) -> str:
    """Of what decides the weights. Where the data lies, where and how it is trained, and how it is tracked, do not.

    Values at their default are left out: a later version that adds a field must be able to resume.
    """
    values = table.model_dump(exclude=BESIDE_THE_WEIGHTS, exclude_defaults=True)
    for key in ("root", "allow_outside", "keep_decoded"):
        values.get("data", {}).pop(key, None)
    for key in ("resume_every", "on_oom"):
        values.get("train", {}).pop(key, None)
    return hashlib.sha256(canonical(values).encode()).hexdigest()
