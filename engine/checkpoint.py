"""Checkpoints that describe themselves, and the state from which a run goes on byte for byte."""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch
import torch

from engine import atomic
from engine.checkpoint_header import METADATA_KEY, CheckpointHeader
from engine.errors import Problem, RequestError

RESUME_FORMAT = 1
RESUME_PARTS = {"trainer": dict, "random": dict, "preset": str, "data": dict}
CHECKSUM = re.compile(r'"checksum":(\d+)')
DAMAGED_FIX = "take a copy of it, or another checkpoint of the run: `segtui checkpoints` lists them"


def save_weights(path: Path, weights: dict[str, torch.Tensor], header: CheckpointHeader) -> None:
    """Write weights and their description as safetensors, atomically. Raises OSError where the disk is full.

    One metadata key: the library writes several in no fixed order, and equal weights must give equal files.
    """
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in weights.items()}
    described = msgspec.structs.replace(header, checksum=_checksum(tensors, header.to_json())).to_json()
    with atomic.replacing(path) as file:
        try:
            safetensors.torch.save_file(tensors, file.name, {METADATA_KEY: described})
        except safetensors.SafetensorError as error:  # by name: into memory, it would keep other threads waiting all the while
            raise _system_error(error) from None


def _system_error(error: safetensors.SafetensorError) -> Exception:
    """A full disk, as the system says it: the library has it in words only."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else error


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, on the CPU. Raises RequestError where the file is no whole checkpoint, or its bytes have changed."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            description = (file.metadata() or {}).get(METADATA_KEY, "")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
    except (OSError, safetensors.SafetensorError) as error:
        raise RequestError(Problem(f"is not a whole checkpoint: {error}", file=str(path))) from None
    written = CHECKSUM.search(description)
    if written and int(written[1]) != _checksum(tensors, description):
        raise RequestError(Problem("is damaged: its bytes are not those that were written", file=str(path), fix=DAMAGED_FIX))
    return tensors


def _checksum(tensors: dict[str, torch.Tensor], description: str) -> int:
    """CRC-32 of the description without its checksum, and of every tensor with its name: safetensors does not notice a flipped bit.

    Of the text as it stands in the file: a later version may write the same description in other words.
    """
    found = zlib.crc32(CHECKSUM.sub('"checksum":null', description).encode())
    for name, tensor in sorted(tensors.items()):
        found = zlib.crc32(name.encode(), found)
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return found


def save_resume(path: Path, state: dict[str, Any]) -> None:
    """Write a resume state, atomically: tensors and plain values only, so that reading it back runs no code."""
    with atomic.replacing(path) as file:
        try:
            torch.save(state | {"format": RESUME_FORMAT}, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # a full disk, which torch then hides behind its own message
                raise error.__context__ from None
            raise


def load_resume(path: Path) -> dict[str, Any]:
    """A state of `save_resume`, on the CPU. Raises RequestError where there is none, or it is damaged, foreign or too new."""
    try:
        damaged = zipfile.is_zipfile(path) and _damaged_part(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RequestError(
            Problem(
                "there is no state to resume from", file=str(path), fix="a run can be resumed once it has ended an epoch or was stopped"
            )
        ) from None
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RequestError(Problem(f"cannot be read as a resume state: {first}", file=str(path), fix=DAMAGED_FIX)) from error
    if damaged:
        raise RequestError(Problem(f"is damaged: {damaged} is not as it was written", file=str(path), fix=DAMAGED_FIX))
    if not isinstance(state, dict) or state.get("format") != RESUME_FORMAT:
        raise RequestError(Problem("is of another version of segtui", file=str(path)))
    wrong = [part for part, kind in RESUME_PARTS.items() if not isinstance(state.get(part), kind)]
    wrong += [f"data.{split}" for split in ("train", "val") if "data" not in wrong and not isinstance(state["data"].get(split), str)]
    if wrong:
        text = f"is no whole resume state: it lacks {', '.join(wrong)}, or has another kind of value there"
        raise RequestError(Problem(text, file=str(path), fix=DAMAGED_FIX))
    return state


def _damaged_part(path: Path) -> str | None:
    """The first part of the archive whose CRC is wrong; torch does not look."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


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
