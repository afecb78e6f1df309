"""What happens to an image between the file and the network: augmentation in training, normalisation always."""

from __future__ import annotations

import hashlib
import os
import random
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # its import asks a server for its newest version otherwise
import albumentations

from engine.catalogue import catalogue
from engine.coco import Background
from engine.construct import construct
from engine.schema import Component


class Augmentation:
    """A training pipeline. An item is a pure function of (seed, epoch, index), whatever process makes it, in any order.

    albumentations repeats the same random stream in every loader worker and epoch; here the pipeline's one generator
    is keyed anew for each item.
    """

    def __init__(
        self,
        transforms: Sequence[Component],
        background: Background,
        size: tuple[int, int] | None,
        fit: Literal["resize", "crop"],
        seed: int,
    ) -> None:
        # Some transforms can fill a mask with 0 only: where that is a class, labels are shifted so that 0 is the ignored one.
        self.shift = np.uint8(1 if background == "ignore" else 0)
        fill = int(self.shift)
        steps = [_transform(table.type, table.args, fill, f"augment.train[{number}]") for number, table in enumerate(transforms)]
        self.size = size
        self.seed = seed
        self.pipeline = construct(albumentations.Compose, {"transforms": steps, "strict": True}, "augment.train")
        self.fit = construct(albumentations.Compose, {"transforms": _fit(size, fit), "strict": True}, "data.image_size")
        self._bits = np.random.PCG64(0)
        self._python = random.Random(0)
        for pipeline in (self.pipeline, self.fit):
            pipeline.set_random_state(np.random.Generator(self._bits), self._python)

    def __call__(
        self, image: NDArray[np.uint8], labels: NDArray[np.uint8], epoch: int, index: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """(H, W, 3) and (H, W), both uint8, to the same at the training size."""
        self._key(epoch, index)
        result = self.pipeline(image=image, mask=labels + self.shift)
        if self.size is not None and result["mask"].shape != self.size:
            result = self.fit(image=result["image"], mask=result["mask"])
        return result["image"], result["mask"] - self.shift

    def _key(self, epoch: int, index: int) -> None:
        digest = hashlib.blake2b(struct.pack("<QQQ", self.seed, epoch, index), digest_size=48).digest()
        state, increment, python = (int.from_bytes(digest[start : start + 16], "little") for start in (0, 16, 32))
        self._bits.state = {
            "bit_generator": "PCG64",
            "state": {"state": state, "inc": increment | 1},
            "has_uint32": 0,
            "uinteger": 0,
        }
        self._python.seed(python)


def _fit(size: tuple[int, int] | None, fit: Literal["resize", "crop"]) -> list[Any]:
    if size is None:
        return []
    height, width = size
    if fit == "resize":
        return [albumentations.Resize(height, width)]
    return [albumentations.RandomCrop(height, width, pad_if_needed=True, fill=0, fill_mask=0, pad_position="random")]


class RandomRotate90(albumentations.RandomRotate90):  # type: ignore[misc]
    """The same turns: OpenCV's take 0.2 ms for 512x512, copying NumPy's view 2.6."""

    TURNS = (None, cv2.ROTATE_90_COUNTERCLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_CLOCKWISE)

    def apply(self, img: NDArray[np.uint8], factor: Literal[0, 1, 2, 3], **_: Any) -> NDArray[np.uint8]:
        turn = self.TURNS[factor]
        return img if turn is None else cast(NDArray[np.uint8], cv2.rotate(img, turn))


def _transform(name: str, arguments: Mapping[str, Any], fill: int, key: str) -> Any:
    """One transform, or a composition of others. What a transform brings in from outside the image is not labelled."""
    arguments = dict(arguments)
    if isinstance(arguments.get("fill_mask"), (int, float)):
        arguments["fill_mask"] = (arguments["fill_mask"] + fill) % 256
    if name in catalogue().compositions:
        inner = arguments["transforms"]
        arguments["transforms"] = [
            _transform(each["type"], {name: value for name, value in each.items() if name != "type"}, fill, f"{key}.transforms[{number}]")
            for number, each in enumerate(inner)
        ]
    kind = RandomRotate90 if name == "RandomRotate90" else getattr(albumentations, name)
    return construct(kind, arguments, key)


def normalise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W), channels last in memory: (image / 255 - mean) / std.

    The one normalisation of training, validation, test and inference, on whatever device the images are.
    """
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), images.device)
    return torch.addcmul(shift, images.to(torch.float32), scale).permute(0, 3, 1, 2)


@cache
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Made once: a tensor made from Python numbers on a GPU waits for it."""
    scale = torch.tensor([1 / (255 * each) for each in std], device=device)
    shift = torch.tensor([-middle / each for middle, each in zip(mean, std, strict=True)], device=device)
    return scale, shift
