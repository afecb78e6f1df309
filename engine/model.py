"""The network: an architecture of segmentation-models-pytorch, its encoder's weights, and images of any size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as functional
from huggingface_hub import constants as hub
from huggingface_hub import try_to_load_from_cache
from torch import nn

from engine.construct import construct
from engine.errors import Problem, RequestError
from engine.network import why_unreachable
from engine.schema import ModelTable

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ARCHITECTURES: dict[str, type[nn.Module]] = {kind.__name__: kind for kind in smp.MODEL_ARCHITECTURES_MAPPING.values()}


@dataclass(frozen=True)
class Pretraining:
    """What the encoder starts from. `weights` is None from scratch; `warning` says why where that was not asked for."""

    weights: str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    warning: str = ""


def build_model(table: ModelTable, classes: int) -> tuple[nn.Module, Pretraining]:
    """The network for `classes` classes, on the CPU, and what its encoder starts from.

    Raises RequestError where the arguments do not fit each other, or weights that are insisted on cannot be had.
    """
    weights, reason = decide_weights(table.encoder_name, table.encoder_weights)
    if weights is not None:
        try:
            model = _construct(table, classes, weights)
            return model, Pretraining(weights, *statistics(table.encoder_name, weights))
        except RequestError as error:
            if table.encoder_weights != "auto":
                raise
            reason = f"loading its {weights} weights failed ({error.problems[0].message})"
    if reason and table.encoder_weights not in ("auto", "none"):
        fix = f'put the hub\'s cache ({hub.HF_HUB_CACHE}) of a machine with a network here, or set model.encoder_weights = "auto"'
        raise RequestError(
            Problem(
                f"{table.encoder_weights!r} weights of {table.encoder_name} cannot be had: {reason}", key="model.encoder_weights", fix=fix
            )
        )
    warning = f"{table.encoder_name} starts from scratch: {reason}" if reason else ""
    return _construct(table, classes, None), Pretraining(None, IMAGENET_MEAN, IMAGENET_STD, warning)


def decide_weights(encoder: str, wanted: str) -> tuple[str | None, str]:
    """(the set of weights to load, or None; the reason where a wanted set cannot be had). Takes at most 2 s."""
    if wanted == "none":
        return None, ""
    source = _source(encoder, wanted)
    if source is None:
        return None, "there are no weights of that name for it"
    name, repository, revision, files = source
    if all(isinstance(try_to_load_from_cache(repository, file, revision=revision), str) for file in files):
        return name, ""
    if hub.HF_HUB_OFFLINE:
        return None, "HF_HUB_OFFLINE is set and the weights are not in the hub's cache"
    if problem := why_unreachable(hub.ENDPOINT):
        return None, f"its weights are not in the hub's cache, and {problem}"
    return name, ""


def statistics(encoder: str, weights: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) per channel, of images in 0..1, that the encoder's weights were trained with."""
    settings = smp.encoders.get_preprocessing_params(encoder, pretrained=weights)
    return tuple(settings["mean"]), tuple(settings["std"])


def predict_logits(model: nn.Module, images: torch.Tensor, input_size: tuple[int, int] | None = None) -> torch.Tensor:
    """(N, 3, H, W) normalised images to (N, classes, H, W), for any H and W.

    Where the network was trained on images scaled to `input_size`, it sees them so scaled, and the logits are scaled
    back. Sizes that the network's stride does not divide are padded with the mean colour, at the right and the bottom,
    and the logits are cropped back.
    """
    shown = resize(images, input_size) if input_size else images
    logits = _predict_padded(model, shown)
    return resize(logits, (images.shape[-2], images.shape[-1]))


def resize(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(N, C, H, W) to (N, C, *size): bilinear between pixel centres, as OpenCV's INTER_LINEAR that training images are scaled with."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return functional.interpolate(maps.float(), size, mode="bilinear", align_corners=False)


def _predict_padded(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[-2:]
    stride = _stride(model)
    right, bottom = -width % stride, -height % stride
    if right or bottom:
        images = functional.pad(images, (0, right, 0, bottom))
    logits: torch.Tensor = model(images)
    return logits[..., :height, :width]


def check_sizes(model: nn.Module, table: ModelTable, sizes: Sequence[tuple[int, int]]) -> None:
    """Try the smallest image. Raises RequestError where the network cannot take it."""
    height, width = min(sizes, key=math.prod)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            predict_logits(model, torch.zeros(1, 3, height, width))
    except (RuntimeError, ValueError, AssertionError, AttributeError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise RequestError(
            Problem(
                f"{table.type} with {table.encoder_name} cannot take images of {height}x{width}: {first}",
                key="model",
                fix="choose a larger data.image_size, or another model",
            )
        ) from error
    finally:
        model.train(training)


def _stride(model: nn.Module) -> int:
    model = getattr(model, "module", model)
    model = getattr(model, "_orig_mod", model)
    # Unet takes sizes that do not divide, but its skip connections then are resized: padding keeps one rule for all.
    return max(32, int(model.encoder.output_stride))  # type: ignore[union-attr, arg-type]


def _construct(table: ModelTable, classes: int, weights: str | None) -> nn.Module:
    arguments = table.args | {"encoder_name": table.encoder_name, "encoder_weights": weights, "in_channels": 3, "classes": classes}
    if table.type == "DPT":
        arguments["dynamic_img_size"] = True  # its vision transformer otherwise takes the size it was trained with only
    return construct(ARCHITECTURES[table.type], arguments, "model")


def _source(encoder: str, wanted: str) -> tuple[str, str, str | None, tuple[str, ...]] | None:
    """(name of the set, the hub's repository, its revision, the files needed), or None where there is no such set."""
    if encoder.startswith("tu-"):
        settings = timm.get_pretrained_cfg(encoder.removeprefix("tu-"))
        if settings is None or not settings.hf_hub_id:
            return None
        return "imagenet", settings.hf_hub_id, None, (settings.hf_hub_filename or "model.safetensors",)
    sets = smp.encoders.encoders[encoder]["pretrained_settings"]
    name = ("imagenet" if "imagenet" in sets else next(iter(sets), None)) if wanted == "auto" else wanted
    if name is None or name not in sets:
        return None
    return name, sets[name]["repo_id"], sets[name]["revision"], ("config.json", "model.safetensors")
