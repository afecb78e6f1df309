"""Augmentation as a pure function of (seed, epoch, index), what it does to masks, and the one normalisation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engine.augment import Augmentation, normalise
from engine.catalogue import catalogue
from engine.coco import IGNORED, Background, read_split
from engine.dataset import SegmentationData, TrainingBatches, ValidationBatches, loader
from engine.errors import RequestError
from engine.images import read_rgb
from engine.masks import mask_cache
from engine.schema import Component

Pixels = NDArray[np.uint8]
CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RNG = np.random.default_rng(0)
IMAGE: Pixels = cv2.GaussianBlur(RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8), (5, 5), 0).astype(np.uint8)
LABELS: Pixels = np.kron(RNG.choice([1, 4], (10, 14)), np.ones((4, 4))).astype(np.uint8)
ONE_CLASS: Pixels = np.full(IMAGE.shape[:2], 3, np.uint8)

# Those that cannot be made without arguments. A transform that joins them in a new release fails here until it is listed.
FLIP, NOISE = {"type": "HorizontalFlip"}, {"type": "GaussNoise", "p": 1.0}
NEEDED: dict[str, dict[str, Any]] = {
    "CenterCrop": {"height": 24, "width": 32},
    "CropNonEmptyMaskIfExists": {"height": 24, "width": 32},
    "GridElasticDeform": {"num_grid_xy": [4, 4], "magnitude": 5},
    "OneOf": {"transforms": [FLIP, NOISE]},
    "RandomCrop": {"height": 24, "width": 32},
    "RandomOrder": {"transforms": [FLIP, NOISE]},
    "RandomResizedCrop": {"size": [24, 32]},
    "RandomSizedCrop": {"min_max_height": [10, 30], "size": [24, 32]},
    "Resize": {"height": 24, "width": 32},
    "SelectiveChannelTransform": {"transforms": [NOISE]},
    "Sequential": {"transforms": [FLIP, NOISE]},
    "SomeOf": {"transforms": [FLIP, NOISE, {"type": "RandomRotate90"}]},
}
# Their defaults are for larger images, or do nothing.
SUITABLE: dict[str, dict[str, Any]] = {
    "Crop": {"x_max": 32, "y_max": 24},
    "CropAndPad": {"px": [-5, 9]},
    "LongestMaxSize": {"max_size": 48},
    "OneOrOther": {"transforms": [FLIP, NOISE]},
    "Pad": {"padding": 6},
    "PadIfNeeded": {"min_height": 64, "min_width": 64},
    "SmallestMaxSize": {"max_size": 48},
}


def augmentation(
    *transforms: Component,
    background: Background = "ignore",
    size: tuple[int, int] | None = None,
    fit: Literal["resize", "crop"] = "resize",
    seed: int = 21,
) -> Augmentation:
    return Augmentation(transforms, background, size, fit, seed)


def one(name: str, **arguments: Any) -> Component:
    return Component(type=name, **arguments)


def same(first: tuple[Pixels, Pixels], second: tuple[Pixels, Pixels]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


def test_the_arguments_of_this_file_are_those_that_are_needed() -> None:
    required = {name for name, arguments in catalogue().transforms.items() if any(each.required for each in arguments.values())}
    assert set(NEEDED) == required
    assert set(SUITABLE) <= set(catalogue().transforms)


@pytest.mark.parametrize("name", sorted(catalogue().transforms))
def test_every_transform_runs_repeats_and_brings_in_no_label(name: str) -> None:
    """An item asked for again after others, and by another process's pipeline in another order, is the same."""
    table = one(name, p=1.0, **NEEDED.get(name, SUITABLE.get(name, {})))
    pipeline, other = augmentation(table), augmentation(table)
    keys = [(1, 0), (1, 1), (2, 0)]
    found = {key: pipeline(IMAGE, LABELS, *key) for key in keys}
    before = IMAGE.copy(), LABELS.copy()
    for key in [keys[1], keys[2], keys[0], keys[0]]:
        assert same(pipeline(IMAGE, LABELS, *key), found[key])
        assert same(other(IMAGE, LABELS, *key), found[key])
    assert same((IMAGE, LABELS), before)
    for image, labels in found.values():
        assert image.dtype == labels.dtype == np.uint8
        assert image.shape == (*labels.shape, 3)
        assert set(np.unique(labels).tolist()) <= {1, 4, IGNORED}


def test_items_differ_by_seed_epoch_and_index() -> None:
    table = one("GaussNoise", p=1.0)
    items = [augmentation(table, seed=seed)(IMAGE, LABELS, epoch, index)[0] for seed in (1, 2) for epoch in (1, 2) for index in (0, 1)]
    assert len({item.tobytes() for item in items}) == len(items)


def test_choices_within_choices_repeat() -> None:
    inner = {
        "type": "OneOf",
        "p": 0.8,
        "transforms": [{"type": "Rotate", "p": 0.7}, {"type": "SomeOf", "n": 1, "transforms": [FLIP, NOISE]}],
    }
    table = one("OneOf", p=0.9, transforms=[inner, {"type": "Sequential", "transforms": [{"type": "Blur"}, {"type": "CoarseDropout"}]}])
    keys = [(epoch, index) for epoch in (1, 2) for index in range(12)]
    pipeline = augmentation(table)
    found = {key: pipeline(IMAGE, LABELS, *key) for key in keys}
    assert len({image.tobytes() for image, _ in found.values()}) > 6
    other = augmentation(table)
    assert all(same(other(IMAGE, LABELS, *key), found[key]) for key in reversed(keys))


GEOMETRIC: dict[str, dict[str, Any]] = {
    "Affine": {"translate_percent": [0.3, 0.3]},
    "Rotate": {"limit": [40, 40]},
    "SafeRotate": {"limit": [40, 40]},
    "ShiftScaleRotate": {"scale_limit": [-0.5, -0.4]},
    "Perspective": {"scale": [0.3, 0.3], "fit_output": True},
    "PadIfNeeded": {"min_height": 64, "min_width": 64},
    "RandomCrop": {"height": 64, "width": 64, "pad_if_needed": True},
    "CenterCrop": {"height": 64, "width": 64, "pad_if_needed": True},
    "Pad": {"padding": 6},
    "CropAndPad": {"px": 6},
    "OneOf": {"transforms": [{"type": "Sequential", "transforms": [{"type": "Pad", "padding": 6, "p": 1.0}], "p": 1.0}]},
}


@pytest.mark.parametrize("name", sorted(GEOMETRIC))
def test_what_comes_in_from_outside_the_image_is_ignored_or_background(name: str) -> None:
    table = one(name, p=1.0, **GEOMETRIC[name])
    for background, fill in (("ignore", IGNORED), ("class", 0)):
        labels = augmentation(table, background=background)(IMAGE, ONE_CLASS, 1, 0)[1]  # type: ignore[arg-type]
        assert set(np.unique(labels).tolist()) == {3, fill}, background


def test_a_fill_that_is_asked_for_is_kept() -> None:
    labels = augmentation(one("Pad", padding=6, fill_mask=4, p=1.0))(IMAGE, ONE_CLASS, 1, 0)[1]
    assert set(np.unique(labels).tolist()) == {3, 4}


# The last two are made for spectrograms.
DROPOUTS = {"CoarseDropout", "Erasing", "GridDropout", "XYMasking", "PixelDropout"} | (
    {"TimeMasking", "FrequencyMasking"} & set(catalogue().transforms)
)


@pytest.mark.parametrize("name", sorted(DROPOUTS))
@pytest.mark.parametrize("background", ["ignore", "class"])
def test_dropouts_leave_the_mask(name: str, background: Background) -> None:
    arguments = {"num_masks_x": 1, "mask_x_length": 9, "num_masks_y": 1, "mask_y_length": 9} if name == "XYMasking" else {}
    pipeline = augmentation(one(name, p=1.0, **arguments), background=background)
    items = [pipeline(IMAGE, LABELS, 1, index) for index in range(4)]
    assert all(np.array_equal(labels, LABELS) for _, labels in items)
    assert any(not np.array_equal(image, IMAGE) for image, _ in items)


@pytest.mark.parametrize("size", [(24, 32), (40, 56), (64, 80), (24, 80)])
@pytest.mark.parametrize("fit", ["resize", "crop"])
@pytest.mark.parametrize(("background", "fill"), [("ignore", IGNORED), ("class", 0)])
def test_items_come_to_the_training_size(size: tuple[int, int], fit: Literal["resize", "crop"], background: Background, fill: int) -> None:
    pipeline = augmentation(one("RandomScale", scale_limit=0.3, p=0.7), size=size, fit=fit, background=background)
    for index in range(6):
        image, labels = pipeline(IMAGE, LABELS, 1, index)
        assert (image.shape, labels.shape) == ((*size, 3), size)
        assert set(np.unique(labels).tolist()) <= {1, 4} | ({fill} if fit == "crop" else set())


def test_a_crop_is_a_piece_of_the_image_and_of_its_mask() -> None:
    marked = np.arange(40 * 56).reshape(40, 56)
    image = np.dstack([marked % 256, marked // 256, LABELS]).astype(np.uint8)
    for index in range(10):
        cropped, labels = augmentation(size=(24, 80), fit="crop")(image, LABELS, 1, index)
        np.testing.assert_array_equal(cropped[..., 2], np.where(labels == IGNORED, 0, labels))
        assert (labels != IGNORED).sum() == 24 * 56
        places = (cropped[..., 0] + 256 * cropped[..., 1].astype(int))[labels != IGNORED].reshape(24, 56)
        np.testing.assert_array_equal(places - places[0, 0], marked[:24] - marked[0, 0])


def test_an_image_of_the_training_size_is_left_as_it_is() -> None:
    for fit in ("resize", "crop"):
        assert same(augmentation(size=(40, 56), fit=fit)(IMAGE, LABELS, 1, 0), (IMAGE, LABELS))


@pytest.mark.parametrize(
    "table", [one("Rotate", limt=3), one("OneOf", transforms=[{"type": "Rotate", "limt": 3}]), one("Pad", padding="x")]
)
def test_arguments_that_a_transform_does_not_take_are_refused(table: Component) -> None:
    with pytest.raises(RequestError, match=r"augment\.train.*(limt|padding)"):
        augmentation(table)


def test_training_validation_and_test_tensors_of_an_image_are_identical(shapes: Path, tmp_path: Path) -> None:
    """One image in three splits, the last without annotations; read with no pipeline and with an empty one."""
    content = json.loads((shapes / "train.json").read_bytes())
    content["images"] = content["images"][:1]
    of_image = [each for each in content["annotations"] if each["image_id"] == content["images"][0]["id"]]
    without = {key: content[key] for key in ("images", "categories")}
    for name, table in (("train", {**content, "annotations": of_image}), ("val", {**content, "annotations": of_image}), ("test", without)):
        (shapes / f"{name}.json").write_text(json.dumps(table))

    tensors = {}
    for name in ("train", "val", "test"):
        split = read_split(shapes, f"{name}.json", "class")
        masks = mask_cache(split, "area", tmp_path / "caches", 0, quiet)
        for pipeline in (None, augmentation(), augmentation(size=(64, 64), fit="resize"), augmentation(size=(64, 64), fit="crop")):
            data = SegmentationData(split, masks, pipeline)
            for batches in (TrainingBatches(1, 1, 3), ValidationBatches(split.sizes, 1)):
                (batch,) = loader(data, batches, 0, CPU)
                tensors[name, pipeline, type(batches)] = normalise(batch.images, MEAN, STD)
    assert len(tensors) == 24
    first = next(iter(tensors.values()))
    assert all(torch.equal(tensor, first) for tensor in tensors.values())

    image = read_rgb(shapes / content["images"][0]["file_name"]).astype(np.float64)
    expected = ((image / 255 - np.array(MEAN)) / np.array(STD)).transpose(2, 0, 1)[None]
    assert np.abs(first.numpy().astype(np.float64) - expected).max() < 1e-6


def test_normalisation_of_every_value() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(2, 16, 16, 3)
    found = normalise(images, MEAN, STD)
    assert (found.dtype, found.shape) == (torch.float32, (2, 3, 16, 16))
    assert found.is_contiguous(memory_format=torch.channels_last)
    expected = (images.double() / 255 - torch.tensor(MEAN).double()) / torch.tensor(STD).double()
    torch.testing.assert_close(found.double(), expected.permute(0, 3, 1, 2), rtol=0, atol=1e-6)
