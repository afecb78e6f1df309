"""The images that a preset trains and validates on, and what makes them too few or too different for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.coco import Split, debug_subset, read_split, same_classes
from engine.errors import Problem, RequestError
from engine.events import Toggles
from engine.sample import ensure_sample
from engine.schema import Preset


def data_root(preset: Preset) -> Path:
    """The folder of the data set; the built-in one is drawn by the first call. Raises RequestError."""
    return ensure_sample() if preset.data.root == "sample" else Path(preset.data.root)


def read_data(preset: Preset, toggles: Toggles) -> tuple[Split, Split]:
    """The training and validation splits, or their debug subsets. Raises RequestError."""
    data, root = preset.data, data_root(preset)
    train, val = (read_split(root, name, data.background, allow_outside=data.allow_outside) for name in (data.train, data.val))
    same_classes(train, val)
    check_annotated(train, sum(map(len, train.annotations)))
    if toggles.debug:
        train, val = (subset(split, preset, name) for split, name in ((train, "train"), (val, "val")))
    check_batch(preset, train)
    return train, val


def subset(split: Split, preset: Preset, name: str) -> Split:
    """What a debug run takes of the split that the preset calls `name`: at least one batch to train on."""
    return debug_subset(split, preset.debug.ratio, preset.debug.seed, preset.data.batch_size if name == "train" else 1)


def check_annotated(train: Split, annotations: int) -> None:
    """Raises RequestError where there is nothing to learn from."""
    if not annotations:
        raise RequestError(Problem("has no annotations to learn from", file=str(train.json)))


def check_batch(preset: Preset, train: Split) -> None:
    """Raises RequestError where the images do not fill one batch."""
    if len(train) < preset.data.batch_size:
        raise RequestError(
            Problem(
                f"is {preset.data.batch_size}, but {train.json} has {len(train)} images",
                key="data.batch_size",
                fix=f"set it to {len(train)} or less",
            )
        )


def training_size(preset: Preset, train: Split) -> tuple[int, int]:
    """(height, width) of every training image after augmentation. Raises RequestError where that is not one size."""
    if preset.data.image_size is not None:
        return preset.data.image_size[0], preset.data.image_size[1]
    sizes = np.unique(train.sizes, axis=0)
    if len(sizes) == 1:
        return int(sizes[0, 0]), int(sizes[0, 1])
    smallest, largest = sizes.min(axis=0), sizes.max(axis=0)
    raise RequestError(
        Problem(
            f"is not set, but the images of {train.json} differ in size ({smallest[0]}x{smallest[1]} to {largest[0]}x{largest[1]})",
            key="data.image_size",
            fix="write for example image_size = [512, 512]",
        )
    )
