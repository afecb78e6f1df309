"""A photograph and its label maps as coloured half-blocks. Pure functions of arrays; imported where a mask is first looked at."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from engine.result_images import IGNORED, Picture
from tui.widgets.mask_view import Mode

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]

IGNORED_COLOUR: Colour = (128, 128, 128)
WRONG: Colour = (255, 60, 60)
DIMMED = 0.4
COLOUR_SHARE = 0.55
"""Of the classes' colours over a photograph."""


def draw(picture: Picture, mode: Mode, colours: Sequence[Colour], columns: int, rows: int) -> list[Strip] | str:
    """The picture in at most `columns` x `rows` cells, or why it cannot be shown."""
    shape = next((each.shape for each in (picture.photograph, picture.prediction, picture.truth) if each is not None), (1, 1))
    height, width = fitted(shape[0], shape[1], columns, rows)
    photograph, prediction, truth = picture.photograph, picture.prediction, picture.truth
    if mode == "photograph" and photograph is not None:
        return half_blocks(averaged(photograph, height, width))
    if mode == "prediction" and prediction is not None:
        return half_blocks(coloured(nearest(prediction, height, width), colours))
    if mode == "truth" and truth is not None:
        return half_blocks(coloured(nearest(truth, height, width), colours))
    if mode == "errors" and prediction is not None and truth is not None:
        return half_blocks(errors(photograph, prediction, truth, height, width))
    if mode == "overlay" and photograph is not None and prediction is not None:
        return half_blocks(blended(averaged(photograph, height, width), nearest(prediction, height, width), colours))
    needed = {"errors": ("prediction", "truth"), "overlay": ("photograph", "prediction")}.get(mode, (mode,))
    return "\n".join(picture.problems[each] for each in needed if each in picture.problems)


def fitted(height: int, width: int, columns: int, rows: int) -> tuple[int, int]:
    """The largest height and width in pixels of that shape; a cell has one pixel beside and two above each other."""
    scale = min(columns / width, 2 * rows / height)
    return max(min(round(height * scale), 2 * rows), 1), max(min(round(width * scale), columns), 1)


def averaged(image: Pixels, height: int, width: int) -> Pixels:
    """uint8 (H, W, 3) or (H, W) scaled; a pixel is the mean of the area that it stands for."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))


def nearest(labels: Pixels, height: int, width: int) -> Pixels:
    """uint8 (H, W) scaled; a pixel is the label in the middle of the area that it stands for."""
    rows, columns = (
        (2 * np.arange(count) + 1) * length // (2 * count) for count, length in zip((height, width), labels.shape, strict=True)
    )
    return labels[np.ix_(rows, columns)]


def coloured(labels: Pixels, colours: Sequence[Colour]) -> Pixels:
    """uint8 (H, W) as (H, W, 3); ignored pixels are grey."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    table[IGNORED] = IGNORED_COLOUR
    found: Pixels = table[labels]
    return found


def blended(photograph: Pixels, labels: Pixels, colours: Sequence[Colour]) -> Pixels:
    """The classes' colours over the photograph, both of one size."""
    mixed = photograph * (1 - COLOUR_SHARE) + coloured(labels, colours) * COLOUR_SHARE
    return mixed.round().astype(np.uint8)


def errors(photograph: Pixels | None, prediction: Pixels, truth: Pixels, height: int, width: int) -> Pixels:
    """Wrong pixels red over the dimmed grey photograph, ignored ones grey, scaled to (height, width, 3).

    A pixel that stands for many is as red as the share of them that is wrong, so that thin errors are seen too.
    """
    wrong = averaged(((prediction != truth) & (truth != IGNORED)).astype(np.uint8) * 255, height, width)[:, :, None] / 255
    ignored = averaged((truth == IGNORED).astype(np.uint8) * 255, height, width)[:, :, None] / 255
    below = np.zeros((height, width, 3))
    if photograph is not None:
        below += averaged(photograph, height, width).mean(axis=2, keepdims=True) * DIMMED
    mixed: NDArray[np.float64] = below * (1 - wrong - ignored).clip(0) + np.array(WRONG) * wrong + np.array(IGNORED_COLOUR) * ignored
    return mixed.round().clip(0, 255).astype(np.uint8)


def half_blocks(pixels: Pixels) -> list[Strip]:
    """uint8 (H, W, 3) in H/2 lines of W cells: the upper pixel is the letter's colour, the lower one what is behind it.

    Neighbours of the same colours are one segment: a label map takes few of them.
    """
    height, width = pixels.shape[:2]
    packed = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    lower = np.full(((height + 1) // 2, width), -1, np.int64)
    lower[: height // 2] = packed[1::2]
    lines = []
    for above, below in zip(packed[::2], lower, strict=True):
        starts = np.flatnonzero(np.concatenate(([True], (above[1:] != above[:-1]) | (below[1:] != below[:-1]))))
        lengths = np.diff(starts, append=width)
        segments = [
            Segment("▀" * length, Style.from_color(_colour(int(above[start])), _colour(int(below[start]))))
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
        ]
        lines.append(Strip(segments, width))
    return lines


@lru_cache(maxsize=1 << 14)
def _colour(packed: int) -> Color | None:
    return None if packed < 0 else Color.from_rgb(packed >> 16, packed >> 8 & 255, packed & 255)
