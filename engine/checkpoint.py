"""Checkpoints that describe themselves, and the state from which a run goes on byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from engine import atomic
from engine.checkpoint_header import METADATA_KEY, CheckpointHeader
from engine.errors import Problem, RequestError

RESUME_FORMAT = 1


def save_weights(path: Path, weights: dict[str, torch.Tensor], header: CheckpointHeader) -> None:
    """Write weights and their description as safetensors, atomically. Raises OSError where the disk is full.

    One metadata key: the library writes several in no fixed order, and equal weights must give equal files.
    """
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in weights.items()}
    atomic.write(path, safetensors.torch.save(tensors, {METADATA_KEY: header.to_json()}))


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, on the CPU. Raises RequestError where the file is no whole checkpoint."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise RequestError(Problem(f"is not a whole checkpoint: {error}", file=str(path))) from None


def save_resume(path: Path, state: dict[str, Any]) -> None:
    """Write a resume state, atomically: tensors and plain values only, so that reading it back runs no code."""
    with atomic.replacing(path) as file:
        torch.save(state | {"format": RESUME_FORMAT}, file)


def load_resume(path: Path) -> dict[str, Any]:
    """A state of `save_resume`, on the CPU. Raises RequestError where there is none, or it is damaged or too new."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RequestError(
            Problem(
                "there is no state to resume from", file=str(path), fix="a run can be resumed once it has ended an epoch or was stopped"
            )
        ) from None
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RequestError(Problem(f"cannot be read as a resume state: {first}", file=str(path))) from error
    if not isinstance(state, dict) or state.get("format") != RESUME_FORMAT:
        raise RequestError(Problem("is of another version of segtui", file=str(path)))
    return state


def random_state(device: torch.device) -> dict[str, Any]:
    """torch's generators. Batches and augmentation have none: they are functions of (seed, epoch, index)."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None}


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def canonical(value: Any) -> str:
    """Plain values as one text, equal for equal values."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
