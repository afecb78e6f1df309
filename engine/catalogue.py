"""What the libraries offer: type names and their constructors' arguments, as plain data.

Importing torch, segmentation-models-pytorch and albumentations takes seconds, and a terminal process must not do it.
So a child process reads their signatures once per set of installed versions, and everybody else reads its json.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from platformdirs import user_cache_path

from engine import atomic

LIBRARIES = ("torch", "segmentation-models-pytorch", "timm", "albumentations")
FORMAT = 4

# torch.nn has many losses; these take logits (N, C, H, W) and class indices, directly or through a known conversion.
TORCH_LOSSES = ("CrossEntropyLoss", "NLLLoss", "BCEWithLogitsLoss")
NOT_LOSSES = {"MCCLoss"}  # two classes only
# Those that need a closure, or only sparse gradients, cannot drive this loop.
NOT_OPTIMIZERS = {"Optimizer", "LBFGS", "SparseAdam"}
# Those built from functions or from other schedulers cannot be written in a table.
NOT_SCHEDULERS = {"LRScheduler", "LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler"}
# Bases; what the engine does itself; what needs boxes or reference images beside the image and its mask.
NOT_TRANSFORMS = {
    *("BasicTransform", "DualTransform", "ImageOnlyTransform", "BaseCompose", "Compose", "ReplayCompose", "Lambda"),
    *("TimeMasking", "FrequencyMasking"),  # for spectrograms: XYMasking is the same for images
    *("Normalize", "ToTensorV2", "ToFloat", "FromFloat", "ToRGB"),
    *("AtLeastOneBBoxRandomCrop", "BBoxSafeRandomCrop", "RandomSizedBBoxSafeCrop", "RandomCropNearBBox", "ConstrainedCoarseDropout"),
    *("Mosaic", "OverlayElements", "TextImage", "FDA", "HistogramMatching", "PixelDistributionAdaptation", "TemplateTransform"),
}
# Seconds for an image of 512x512, measured.
SLOW_TRANSFORMS = {"MaskDropout": 16.5, "PiecewiseAffine": 6.0}
# Known from the data, or handed over by the loop.
GIVEN = {"models": {"in_channels", "classes"}, "optimizers": {"params"}, "schedulers": {"optimizer", "last_epoch"}}


class Argument(msgspec.Struct, frozen=True):
    """One constructor argument; `default` is its text, empty where it is required."""

    annotation: str
    default: str
    required: bool


class Catalogue(msgspec.Struct, frozen=True):
    """Type name -> argument name -> argument, by kind; `encoders` maps a name to its sets of pretrained weights."""

    models: dict[str, dict[str, Argument]]
    losses: dict[str, dict[str, Argument]]
    optimizers: dict[str, dict[str, Argument]]
    schedulers: dict[str, dict[str, Argument]]
    transforms: dict[str, dict[str, Argument]]
    compositions: list[str]
    encoders: dict[str, list[str]]


@cache
def catalogue() -> Catalogue:
    """The catalogue of the installed libraries; the first call for a set of versions takes some seconds."""
    path = _cache_path()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Catalogue)
    except (FileNotFoundError, ValueError, RecursionError):
        content = _read_in_child()
    found = msgspec.json.decode(content, type=Catalogue)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, content)
    except OSError as error:
        print(f"cannot keep the catalogue of library arguments: {error}", file=sys.stderr)
    return found


def slow_transforms(names: Iterable[str]) -> list[str]:
    """A sentence for each that takes longer than a step of training."""
    return [f"{name} takes about {SLOW_TRANSFORMS[name]:.0f} s for an image of 512x512" for name in names if name in SLOW_TRANSFORMS]


def is_cached() -> bool:
    """Whether `catalogue()` answers at once."""
    return _cache_path().exists()


def _cache_path() -> Path:
    versions = {name: version(name) for name in LIBRARIES} | {"python": sys.version, "format": str(FORMAT)}
    key = hashlib.sha256(json.dumps(versions, sort_keys=True).encode()).hexdigest()[:16]
    return user_cache_path("segtui") / f"catalogue-{key}.json"


def _read_in_child() -> bytes:
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}
    child = subprocess.run(
        [sys.executable, "-c", "from engine.catalogue import print_libraries; print_libraries()"],
        capture_output=True,
        env=environment,
        cwd=Path(__file__).parent.parent,
        check=False,
    )
    if child.returncode:
        raise RuntimeError(f"the installed libraries cannot be imported:\n{child.stderr.decode(errors='replace')}")
    return child.stdout


def print_libraries() -> None:
    """Print the catalogue of the installed libraries as json. Imports them all."""
    import albumentations
    import segmentation_models_pytorch as smp
    import timm
    import torch

    base = torch.optim.lr_scheduler.LRScheduler
    transforms = _classes(albumentations, (albumentations.BasicTransform, albumentations.BaseCompose), NOT_TRANSFORMS)
    transforms = {name: kind for name, kind in transforms.items() if not issubclass(kind, albumentations.Transform3D)}
    losses = {name: getattr(torch.nn, name) for name in TORCH_LOSSES} | _classes(smp.losses, torch.nn.Module, NOT_LOSSES)
    content = Catalogue(
        models=_arguments("models", {kind.__name__: kind for kind in smp.MODEL_ARCHITECTURES_MAPPING.values()}),
        losses=_arguments("losses", losses),
        optimizers=_arguments("optimizers", _classes(torch.optim, torch.optim.Optimizer, NOT_OPTIMIZERS)),
        schedulers=_arguments("schedulers", _classes(torch.optim.lr_scheduler, base, NOT_SCHEDULERS)),
        transforms=_arguments("transforms", transforms),
        compositions=sorted(name for name, kind in transforms.items() if issubclass(kind, albumentations.BaseCompose)),
        encoders={name: sorted(entry["pretrained_settings"]) for name, entry in smp.encoders.encoders.items()}
        | {f"tu-{name}": (["imagenet"] if timm.is_model_pretrained(name) else []) for name in timm.list_models()},
    )
    sys.stdout.buffer.write(msgspec.json.encode(content))


def _classes(module: Any, base: type | tuple[type, ...], without: set[str]) -> dict[str, type]:
    public = {name: kind for name, kind in vars(module).items() if inspect.isclass(kind) and not name.startswith("_")}
    return {name: kind for name, kind in sorted(public.items()) if issubclass(kind, base) and name not in without}


def _arguments(kind: str, classes: dict[str, type]) -> dict[str, dict[str, Argument]]:
    """Each constructor's named arguments. `**kwargs` is no argument: it would let a typing mistake pass."""
    found = {}
    for name, constructor in classes.items():
        parameters = list(inspect.signature(constructor.__init__).parameters.values())[1:]  # type: ignore[misc]
        named = [each for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
        found[name] = {each.name: _argument(each) for each in named if each.name not in GIVEN.get(kind, set())}
    return found


def _argument(parameter: inspect.Parameter) -> Argument:
    required = parameter.default is parameter.empty
    annotation = "" if parameter.annotation is parameter.empty else str(parameter.annotation)
    return Argument(annotation, "" if required else repr(parameter.default), required)
