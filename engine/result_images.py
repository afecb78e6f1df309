"""One image of a result: photograph, predicted and true label map, and what each class has of them. Pillow and numpy alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from engine.mask_cache import MaskCache
from engine.pillow_images import ImageError, read_with_pillow
from engine.results import AGAIN, PredictedImage

IGNORED = 255


@dataclass(frozen=True)
class ClassShare:
    """A class in one image: its shares of the pixels in 0..1, and its IoU. Ignored pixels count in neither.

    Without ground truth `true` and `IoU` are None.
    """

    index: int
    predicted: float
    true: float | None
    IoU: float | None


@dataclass(frozen=True)
class Picture:
    """photograph uint8 (H, W, 3) RGB; labels uint8 (H, W), 255 is ignored. What is None has its reason in `problems`, by its name."""

    photograph: NDArray[np.uint8] | None
    prediction: NDArray[np.uint8] | None
    truth: NDArray[np.uint8] | None
    problems: dict[str, str]
    shares: list[ClassShare]
    wrong: float | None
    """Share of the pixels that count whose class is wrong, in 0..1; None where it is not known."""
    ignored: float
    """Share of the pixels that count nowhere, in 0..1."""


def read_picture(image: PredictedImage) -> Picture:
    """Everything that there is of an image; what is missing, damaged or of another size is said, not raised."""
    problems: dict[str, str] = {}
    photograph = prediction = truth = None
    try:
        photograph = _photograph(image)
    except ImageError as error:
        problems["photograph"] = str(error)
    try:
        prediction = _prediction(image)
    except ImageError as error:
        problems["prediction"] = str(error)
    try:
        truth = _truth(image)
    except ImageError as error:
        problems["truth"] = str(error)
    if photograph is not None and prediction is not None and photograph.shape[:2] != prediction.shape:
        problems["photograph"] = f"{image.photograph} is {_size(photograph)} and its mask {_size(prediction)}: it has changed since"
        photograph = None
    if truth is not None and prediction is not None and truth.shape != prediction.shape:
        problems["truth"] = f"the true label map is {_size(truth)} and the predicted one {_size(prediction)}: the data have changed since"
        truth = None
    shares = class_shares(prediction, truth) if prediction is not None else []
    ignored = float((truth == IGNORED).mean()) if truth is not None else 0.0
    wrong = wrong_share(prediction, truth) if prediction is not None and truth is not None else None
    return Picture(photograph, prediction, truth, problems, shares, wrong, ignored)


def wrong_share(prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Of the pixels that count, in 0..1; 0 where none does. uint8 (H, W) both."""
    counted = truth != IGNORED
    return float((prediction[counted] != truth[counted]).mean()) if counted.any() else 0.0


def class_shares(prediction: NDArray[np.uint8], truth: NDArray[np.uint8] | None) -> list[ClassShare]:
    """Of every class that is in either label map, uint8 (H, W) both, in class order."""
    counted = prediction.reshape(-1) if truth is None else prediction[truth != IGNORED]
    predicted = np.bincount(counted, minlength=256)
    pixels = max(counted.size, 1)
    if truth is None:
        return [ClassShare(index, predicted[index] / pixels, None, None) for index in np.flatnonzero(predicted).tolist()]
    true = np.bincount(truth.reshape(-1), minlength=256)
    true[IGNORED] = 0
    hits = np.bincount(prediction[prediction == truth], minlength=256)
    return [
        ClassShare(index, predicted[index] / pixels, true[index] / pixels, hits[index] / (predicted[index] + true[index] - hits[index]))
        for index in np.flatnonzero(predicted + true).tolist()
    ]


def _photograph(image: PredictedImage) -> NDArray[np.uint8]:
    if image.photograph is None:
        raise ImageError(f"an older segtui did not write down where the photographs are: {AGAIN}")
    try:
        return read_with_pillow(image.photograph)
    except UnidentifiedImageError:
        raise ImageError(f"{image.photograph} is not an image that can be shown here") from None


def _prediction(image: PredictedImage) -> NDArray[np.uint8]:
    if image.mask is None:
        raise ImageError(f"an older segtui kept no masks of this result: {AGAIN}")
    try:
        with Image.open(image.mask) as opened:
            if opened.mode not in ("P", "L"):
                raise ImageError(f"{image.mask} is no label map: its pixels are {opened.mode}")
            return np.asarray(opened)
    except FileNotFoundError:
        raise ImageError(f"{image.mask} does not exist: {AGAIN}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{image.mask} is damaged: {error}") from None


def _truth(image: PredictedImage) -> NDArray[np.uint8]:
    if image.truth is None:
        missing = image.mIoU is None
        raise ImageError("there is no ground truth" if missing else f"an older segtui did not write down where the truth is: {AGAIN}")
    try:
        return MaskCache(Path(image.truth))[image.row]
    except FileNotFoundError:
        raise ImageError(f"the true label maps are no longer in {image.truth}: {AGAIN}") from None
    except (OSError, ValueError, IndexError) as error:
        raise ImageError(f"the true label maps in {image.truth} are damaged: {error}") from None


def _size(image: NDArray[np.uint8]) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
