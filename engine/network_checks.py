"""What only the training libraries can tell: how large the network is, which weights it starts from, and what it is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from engine.augment import Augmentation, normalise
from engine.checkup import Channels, Finding
from engine.coco import Split
from engine.dataset import SegmentationData
from engine.errors import RequestError
from engine.images import ImageError
from engine.model import IMAGENET_MEAN, IMAGENET_STD, build_model, check_sizes, decide_weights, predict_logits, resize, statistics
from engine.model_facts import ModelFacts
from engine.objective import Objective, Schedule, build_optimizer, class_weights
from engine.prepare import check_loss
from engine.schema import Preset

SAMPLE = 64
"""Images of each split that are shown."""
LARGEST_PROBE = 512
FAR_MEANS = 1.0
FAR_SPREAD = 2.0
"""Means a whole standard deviation apart, or one split's spread twice another's: not the same kind of image."""


def check_network(
    preset: Preset, pixels: Sequence[int], steps: int, sizes: Sequence[tuple[int, int]]
) -> tuple[ModelFacts | None, list[Finding]]:
    """Build what trains, the network without its weights, measure it, and try the smallest of `sizes` (height, width).

    `pixels` are the training set's by class, `steps` the run's. The first size is that of a training image.
    """
    table = preset.model
    findings = []
    weights, reason = decide_weights(table.encoder_name, table.encoder_weights)
    if weights is None and table.encoder_weights != "none":
        level, text = ("warning", "starts from scratch") if table.encoder_weights == "auto" else ("error", "cannot have its weights")
        fix = "" if table.encoder_weights == "auto" else ': set model.encoder_weights = "auto"'
        findings.append(Finding(level, "weights", f"{table.encoder_name} {text}: {reason}{fix}"))  # type: ignore[arg-type]
    try:
        model, _ = build_model(table.model_copy(update={"encoder_weights": "none"}), len(pixels))
        check_sizes(model, table, sizes)
    except RequestError as error:
        return None, [*findings, *_errors("model", error)]
    try:
        optimizer = build_optimizer(preset.optimizer, model.parameters())
        Schedule(preset.scheduler, optimizer, preset.train.epochs, steps, preset.train.warmup_steps)
        check_loss(Objective(preset.loss, len(pixels), class_weights(pixels)), len(pixels), torch.device("cpu"))
    except RequestError as error:
        findings += _errors("preset", error)
    return measure(model, sizes[0]), findings


def _errors(about: str, error: RequestError) -> list[Finding]:
    return [Finding("error", about, str(problem)) for problem in error.problems]


def measure(model: nn.Module, size: tuple[int, int]) -> ModelFacts:
    """Parameters, and bytes that an image pixel leaves for the backward pass: of two images of at most 512x512, on the CPU."""
    height, width = (min(side, LARGEST_PROBE) for side in size)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: list[torch.Tensor] = []  # alive, so that no two have one address

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        predict_logits(model, torch.zeros(2, 3, height, width)).float().log_softmax(1).mean()
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    left = sum(size for pointer, size in storages.items() if pointer not in own)
    return ModelFacts(sum(parameter.numel() for parameter in model.parameters()), left / (2 * height * width))


def network_inputs(
    preset: Preset, splits: Mapping[str, Split], size: tuple[int, int], progress: Callable[[str, int, int], None]
) -> dict[str, Channels]:
    """Of up to 64 images of each split as the network gets them: augmented (train), scaled (the others), normalised."""
    weights, _ = decide_weights(preset.model.encoder_name, preset.model.encoder_weights)
    mean, std = statistics(preset.model.encoder_name, weights) if weights else (IMAGENET_MEAN, IMAGENET_STD)
    fit = preset.data.fit if preset.data.image_size is not None else "crop"
    augmentation = Augmentation(preset.augment.train, preset.data.background, size, fit, preset.train.seed)
    found = {}
    for name, split in splits.items():
        data = SegmentationData(split, None, augmentation if name == "train" else None)
        shown = np.linspace(0, len(split) - 1, min(SAMPLE, len(split))).astype(int).tolist()
        pixels, total, squares = 0, np.zeros(3), np.zeros(3)
        lowest, highest = np.inf, -np.inf
        for done, images in enumerate(_images(data, shown), start=1):
            tensor = normalise(images[None], mean, std)
            if name != "train" and preset.data.input_size:
                tensor = resize(tensor, preset.data.input_size)
            values = tensor[0].flatten(1).double()
            pixels += values.shape[1]
            total += values.sum(1).numpy()
            squares += values.square().sum(1).numpy()
            lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
            progress(f"inputs {name}", done, len(shown))
        if pixels:
            average = total / pixels
            spread = np.sqrt(np.maximum(squares / pixels - average**2, 0))
            found[name] = Channels(average.tolist(), spread.tolist(), lowest, highest)
    return found


def _images(data: SegmentationData, indices: list[int]) -> Iterator[torch.Tensor]:
    """Those that can be read: what cannot was told by the checks of the files."""
    for index in indices:
        try:
            yield torch.from_numpy(data[(1, index)][0])
        except ImageError:
            continue


def input_findings(inputs: Mapping[str, Channels], splits: Mapping[str, Split]) -> list[Finding]:
    """Splits that do not look like the training images to the network."""
    findings = []
    train = inputs.get("train")
    for name, other in inputs.items():
        if train is None or name == "train":
            continue
        apart = np.abs(np.subtract(train.mean, other.mean)).max()
        ratio = np.divide(np.maximum(train.std, 1e-6), np.maximum(other.std, 1e-6))
        if apart > FAR_MEANS or max(ratio.max(), (1 / ratio).max()) > FAR_SPREAD:
            text = (
                f"{splits[name].json}: its images reach the network with mean {_listed(other.mean)} and std {_listed(other.std)}, "
                f"those of train with {_listed(train.mean)} and {_listed(train.std)}: look for another exposure, bit depth or camera, "
                "or for a transform in augment.train that changes brightness for good"
            )
            findings.append(Finding("warning", "inputs", text))
    return findings


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)
