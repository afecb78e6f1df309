"""A network from a checkpoint: from our own, which describe themselves, or from the baseline's with a preset beside them."""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from engine.checkpoint import load_weights
from engine.checkpoint_header import HeaderError, read_header
from engine.coco import read_split
from engine.errors import Problem, RequestError
from engine.model import IMAGENET_MEAN, IMAGENET_STD, build_model
from engine.preset import from_dict
from engine.sample import ensure_sample
from engine.schema import Preset

OLD_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
MOST_NAMED = 3


@dataclass(frozen=True)
class Loaded:
    """A network on the CPU and what one must know to use it. `epoch` and `mIoU` are None where the file does not say."""

    path: Path
    model: nn.Module
    preset: Preset
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    epoch: int | None = None
    mIoU: float | None = None


def load_network(path: Path, preset: Preset | None) -> Loaded:
    """The network of a checkpoint; `preset` is for those that do not describe themselves. Nothing is fetched.

    Raises RequestError where the file is no whole checkpoint, or its weights do not fit its model.
    """
    if not path.exists():
        raise RequestError(Problem("there is no such checkpoint", file=str(path), fix="`segtui checkpoints` lists those there are"))
    if path.suffix in OLD_SUFFIXES:
        return _load_old(path, preset)
    try:
        header = read_header(path)
    except HeaderError as error:
        raise RequestError(Problem(str(error), file=str(path), fix="`segtui checkpoints` lists those that can be used")) from None
    if len(header.mean) != 3 or len(header.std) != 3 or not all(header.std):
        raise RequestError(Problem(f"its mean and std ({header.mean}, {header.std}) are not of three channels", file=str(path)))
    try:
        table = from_dict(header.preset)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise RequestError(Problem(f"its preset cannot be used: {place}: {first['msg']}", file=str(path))) from None
    model = _fill(path, table, len(header.classes), load_weights(path))
    return Loaded(path, model, table, tuple(header.classes), tuple(header.mean), tuple(header.std), epoch=header.epoch, mIoU=header.mIoU)


def _load_old(path: Path, preset: Preset | None) -> Loaded:
    """`torch.save({"net": model.state_dict()})`. The classes are those of the preset's data."""
    if preset is None:
        fix = "name the preset it was trained with: --preset PRESET"
        raise RequestError(Problem("is a checkpoint of the old kind, which does not describe itself", file=str(path), fix=fix))
    weights = _unpickled_weights(path)
    root = ensure_sample() if preset.data.root == "sample" else Path(preset.data.root)
    data = preset.data
    classes = read_split(root, data.train, data.background, allow_outside=data.allow_outside).classes
    # The baseline's Normalize had ImageNet's numbers, whatever the encoder.
    return Loaded(path, _fill(path, preset, len(classes), weights), preset, classes, IMAGENET_MEAN, IMAGENET_STD)


def _unpickled_weights(path: Path) -> dict[str, torch.Tensor]:
    """Only tensors and plain containers are unpickled; whatever else the file holds, none of it runs."""
    how = "nothing of it was run. Save the weights alone: torch.save({'net': model.state_dict()}, 'weights.pt')"
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({named[1]})" if named else ""
        raise RequestError(
            Problem(f"is a pickle that holds more than weights{what}, and loading it would run its code", file=str(path), fix=how)
        ) from None
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RequestError(Problem(f"is no checkpoint of torch, or is cut off ({reason})", file=str(path))) from error
    if isinstance(content, dict) and "net" in content:
        content = content["net"]
    if not isinstance(content, dict) or not content or not all(isinstance(each, torch.Tensor) for each in content.values()):
        raise RequestError(
            Problem("holds no {'net': state_dict}", file=str(path), fix="save it as torch.save({'net': model.state_dict()}, ...)")
        )
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _fill(path: Path, preset: Preset, classes: int, weights: dict[str, torch.Tensor]) -> nn.Module:
    """The preset's network with these weights; every name and shape must fit."""
    table = preset.model.model_copy(update={"encoder_weights": "none"})
    try:
        model, _ = build_model(table, classes)
    except (RequestError, KeyError) as error:
        reason = error.problems[0].message if isinstance(error, RequestError) else f"there is no {error}"
        raise RequestError(Problem(f"its model cannot be built: {reason}", file=str(path))) from None
    wanted = model.state_dict()
    missing = sorted(wanted.keys() - weights.keys())
    unknown = sorted(weights.keys() - wanted.keys())
    shapes = [
        f"{name} is {_shape(weights[name])}, not {_shape(wanted[name])}"
        for name in wanted.keys() & weights.keys()
        if weights[name].shape != wanted[name].shape
    ]
    details = [_named("lacks", missing), _named("has besides", unknown), _named("", sorted(shapes))]
    if any(details):
        model_name = f"{preset.model.type} with {preset.model.encoder_name} and {classes} classes"
        raise RequestError(Problem(f"does not fit {model_name}: it {'; '.join(filter(None, details))}", file=str(path)))
    model.load_state_dict(weights)
    return model


def _named(verb: str, names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{verb} {', '.join(names[:MOST_NAMED])}{more}".strip() if names else ""


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
