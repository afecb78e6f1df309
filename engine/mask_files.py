"""Predicted masks as files: indexed PNGs with the classes' colours, and photographs with the colours over them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.coco import IGNORED
from engine.palette import class_colours

COLOUR_SHARE = 0.6


def mask_names(file_names: Sequence[str]) -> list[str]:
    """`a/x.jpg` becomes `a/x.png`; where two images would share a name, all keep their own ending: `a/x.jpg.png`."""
    inside = [str(PurePosixPath(*(part for part in PurePosixPath(name).parts if part not in ("/", "..")))) for name in file_names]
    short = [str(PurePosixPath(name).with_suffix(".png")) for name in inside]
    long = [f"{name}.png" for name in inside]
    numbered = [f"{number}/{name}" for number, name in enumerate(long)]  # "x.jpg" beside "../x.jpg"
    return next(names for names in (short, long, numbered) if len(set(names)) == len(names))


def overlay_name(mask_name: str) -> str:
    return f"{mask_name.removesuffix('.png')}_overlay.jpg"


def write_mask(path: Path, labels: NDArray[np.uint8], classes: Sequence[str]) -> None:
    """uint8 (H, W) as a PNG whose pixel values are the class indices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    image.putpalette([value for colour in class_colours(list(classes)) for value in colour])
    image.save(path, "PNG", compress_level=3)


def write_overlay(path: Path, image: NDArray[np.uint8], labels: NDArray[np.uint8], classes: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blend(image, labels, classes)).save(path, "JPEG", quality=88)


def blend(image: NDArray[np.uint8], labels: NDArray[np.uint8], classes: Sequence[str]) -> NDArray[np.uint8]:
    """uint8 (H, W, 3): the classes' colours over the image; ignored pixels show the image alone."""
    colours = np.zeros((256, 3), np.float32)
    colours[: len(classes)] = class_colours(list(classes))
    share = np.where(labels == IGNORED, 0.0, COLOUR_SHARE)[:, :, None].astype(np.float32)
    return (image * (1 - share) + colours[labels] * share).astype(np.uint8)
