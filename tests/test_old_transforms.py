"""The rules for old albumentations arguments, each checked by building the transform that it gives."""

from __future__ import annotations

import inspect
import os
import warnings
from typing import Any

import numpy as np
import pytest

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

from engine.old_transforms import REMOVED, RULES, translate_transform

A = pytest.importorskip("albumentations")

# (old table, new table): together they use every old name of every rule.
CARRIED_OVER: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"type": "HorizontalFlip", "always_apply": True}, {"type": "HorizontalFlip", "p": 1}),
    ({"type": "HorizontalFlip", "always_apply": True, "p": 0.3}, {"type": "HorizontalFlip", "p": 1}),
    ({"type": "HorizontalFlip", "always_apply": False, "p": 0.3}, {"type": "HorizontalFlip", "p": 0.3}),
    (
        {"type": "AdvancedBlur", "sigmaX_limit": [0.3, 0.9], "sigmaY_limit": [0.4, 0.8]},
        {"type": "AdvancedBlur", "sigma_x_limit": [0.3, 0.9], "sigma_y_limit": [0.4, 0.8]},
    ),
    (
        {"type": "Affine", "rotate": [-5, 5], "scale": None, "mode": 1, "cval": 114, "cval_mask": 0},
        {"type": "Affine", "rotate": [-5, 5], "border_mode": 1, "fill": 114, "fill_mask": 0},
    ),
    (
        {"type": "Affine", "cval": 9},
        {
            "type": "Affine",
            "fill": 9,
            "scale": {"x": [0.9, 1.1], "y": [0.9, 1.1]},
            "translate_percent": {"x": [-0.1, 0.1], "y": [-0.1, 0.1]},
            "rotate": [-15, 15],
            "shear": {"x": [-10, 10], "y": [-10, 10]},
        },
    ),
    *(
        (
            {"type": kind, "height": 8, "width": 8, "pad_mode": 1, "pad_cval": 7, "pad_cval_mask": 2},
            {"type": kind, "height": 8, "width": 8, "border_mode": 1, "fill": 7, "fill_mask": 2},
        )
        for kind in ("CenterCrop", "RandomCrop")
    ),
    (
        {"type": "Crop", "x_max": 8, "y_max": 8, "pad_mode": 1, "pad_cval": 7, "pad_cval_mask": 2},
        {"type": "Crop", "x_max": 8, "y_max": 8, "border_mode": 1, "fill": 7, "fill_mask": 2},
    ),
    ({"type": "ChannelDropout", "fill_value": 3}, {"type": "ChannelDropout", "fill": 3}),
    (
        {
            "type": "CoarseDropout",
            "min_holes": 2,
            "max_holes": 5,
            "min_height": 4,
            "max_height": 16,
            "min_width": 3,
            "max_width": 9,
            "fill_value": 127,
            "mask_fill_value": 0,
            "p": 0.5,
        },
        {
            "type": "CoarseDropout",
            "num_holes_range": [2, 5],
            "hole_height_range": [4, 16],
            "hole_width_range": [3, 9],
            "fill": 127,
            "fill_mask": 0,
            "p": 0.5,
        },
    ),
    (
        {"type": "CoarseDropout", "max_height": 16, "mask_fill_value": None},
        {"type": "CoarseDropout", "num_holes_range": [8, 8], "hole_height_range": [16, 16], "hole_width_range": [8, 8]},
    ),
    (
        {"type": "CoarseDropout", "min_height": 4, "min_width": None},
        {"type": "CoarseDropout", "num_holes_range": [8, 8], "hole_height_range": [4, 8], "hole_width_range": [8, 8]},
    ),
    (
        {"type": "CoarseDropout", "max_holes": 1, "max_height": 0.25, "max_width": 0.125, "fill_value": [1, 2, 3]},
        {
            "type": "CoarseDropout",
            "num_holes_range": [1, 1],
            "hole_height_range": [0.25, 0.25],
            "hole_width_range": [0.125, 0.125],
            "fill": [1, 2, 3],
        },
    ),
    (
        {"type": "CropAndPad", "px": 4, "pad_mode": 0, "pad_cval": 5, "pad_cval_mask": 1},
        {"type": "CropAndPad", "px": 4, "border_mode": 0, "fill": 5, "fill_mask": 1},
    ),
    (
        {"type": "Cutout", "num_holes": 4, "max_h_size": 12, "max_w_size": 6, "fill_value": 9},
        {"type": "CoarseDropout", "num_holes_range": [4, 4], "hole_height_range": [12, 12], "hole_width_range": [6, 6], "fill": 9},
    ),
    (
        {"type": "Cutout", "p": 0.2},
        {"type": "CoarseDropout", "num_holes_range": [8, 8], "hole_height_range": [8, 8], "hole_width_range": [8, 8], "p": 0.2},
    ),
    (
        {"type": "Downscale", "scale_min": 0.2, "scale_max": 0.5, "interpolation": 1},
        {"type": "Downscale", "scale_range": [0.2, 0.5], "interpolation_pair": {"upscale": 1, "downscale": 1}},
    ),
    (
        {"type": "Downscale", "scale_min": 0.1, "interpolation": {"upscale": 0, "downscale": 1}},
        {"type": "Downscale", "scale_range": [0.1, 0.25], "interpolation_pair": {"upscale": 0, "downscale": 1}},
    ),
    (
        {"type": "ElasticTransform", "alpha": 40, "sigma": 5, "alpha_affine": 0, "value": 3, "mask_value": 4},
        {
            "type": "ElasticTransform",
            "alpha": 40,
            "sigma": 5,
            "fill": 3,
            "fill_mask": 4,
            "border_mode": 4,
            "noise_distribution": "uniform",
        },
    ),
    (
        {"type": "GaussNoise", "var_limit": [51, 51], "mean": 51},
        {"type": "GaussNoise", "mean_range": [0.2, 0.2], "std_range": [51**0.5 / 255] * 2},
    ),
    (
        {"type": "GaussNoise", "std_range": [0.1, 0.2], "always_apply": True},
        {"type": "GaussNoise", "std_range": [0.1, 0.2], "p": 1},
    ),
    (
        {"type": "GridDistortion", "value": 1, "mask_value": 2},
        {"type": "GridDistortion", "fill": 1, "fill_mask": 2, "border_mode": 4, "normalized": False},
    ),
    (
        {
            "type": "GridDropout",
            "ratio": 0.4,
            "holes_number_x": 5,
            "holes_number_y": 6,
            "shift_x": 1,
            "shift_y": 2,
            "random_offset": True,
            "fill_value": 7,
            "mask_fill_value": 0,
        },
        {
            "type": "GridDropout",
            "ratio": 0.4,
            "holes_number_xy": [6, 5],
            "shift_xy": [1, 2],
            "random_offset": True,
            "fill": 7,
            "fill_mask": 0,
        },
    ),
    (
        {"type": "GridDropout", "unit_size_min": 8, "unit_size_max": 8, "shift_x": 2, "holes_number_x": None},
        {"type": "GridDropout", "unit_size_range": [8, 9], "shift_xy": [2, 0], "random_offset": False},
    ),
    (
        {"type": "GridDropout", "unit_size_min": 8, "unit_size_max": 9, "holes_number_x": 3, "holes_number_y": 3},
        {"type": "GridDropout", "unit_size_range": [8, 10], "random_offset": False},
    ),
    (
        {"type": "ImageCompression", "quality_lower": 60, "quality_upper": 90, "compression_type": 1},
        {"type": "ImageCompression", "quality_range": [60, 90], "compression_type": "webp"},
    ),
    (
        {"type": "JpegCompression", "quality_lower": 70, "quality_upper": 100},
        {"type": "ImageCompression", "quality_range": [70, 100], "compression_type": "jpeg"},
    ),
    (
        {"type": "MaskDropout", "max_objects": 3, "image_fill_value": "inpaint", "mask_fill_value": 0},
        {"type": "MaskDropout", "max_objects": 3, "fill": "inpaint_ns", "fill_mask": 0},
    ),
    (
        {"type": "OpticalDistortion", "distort_limit": 0.1, "shift_limit": 0, "value": 1, "mask_value": 2},
        {"type": "OpticalDistortion", "distort_limit": 0.1, "fill": 1, "fill_mask": 2, "border_mode": 4},
    ),
    (
        {"type": "PadIfNeeded", "min_height": 64, "min_width": 64, "border_mode": 0, "value": [1, 2, 3], "mask_value": 255},
        {"type": "PadIfNeeded", "min_height": 64, "min_width": 64, "border_mode": 0, "fill": [1, 2, 3], "fill_mask": 255},
    ),
    (
        {"type": "PadIfNeeded", "min_height": 64, "min_width": 64, "value": None},
        {"type": "PadIfNeeded", "min_height": 64, "min_width": 64, "border_mode": 4},
    ),
    (
        {"type": "Perspective", "pad_mode": 0, "pad_val": 1, "mask_pad_val": 2},
        {"type": "Perspective", "border_mode": 0, "fill": 1, "fill_mask": 2},
    ),
    (
        {"type": "PiecewiseAffine", "mode": "symmetric", "cval": 1, "cval_mask": 2, "keypoints_threshold": 0.01},
        {"type": "PiecewiseAffine", "border_mode": 2, "fill": 1, "fill_mask": 2},
    ),
    (
        {"type": "RandomBrightness", "limit": 0.3, "p": 0.4},
        {"type": "RandomBrightnessContrast", "brightness_limit": 0.3, "contrast_limit": 0, "p": 0.4},
    ),
    ({"type": "RandomContrast", "limit": 0.3}, {"type": "RandomBrightnessContrast", "contrast_limit": 0.3, "brightness_limit": 0}),
    ({"type": "RandomFog", "fog_coef_lower": 0.1, "fog_coef_upper": 0.4}, {"type": "RandomFog", "fog_coef_range": [0.1, 0.4]}),
    ({"type": "RandomFog", "fog_coef_upper": 0.4}, {"type": "RandomFog", "fog_coef_range": [0.3, 0.4]}),
    ({"type": "RandomGamma", "gamma_limit": [80, 120], "eps": 1e-7}, {"type": "RandomGamma", "gamma_limit": [80, 120]}),
    (
        {"type": "RandomRain", "slant_lower": -5, "slant_upper": 5, "rain_type": None},
        {"type": "RandomRain", "slant_range": [-5, 5], "rain_type": "default", "drop_length": 20},
    ),
    *(
        ({"type": kind, "height": 8, "width": 12, **extra}, {"type": kind, "size": [8, 12], **extra})
        for kind, extra in (("RandomResizedCrop", {"scale": [0.5, 1.0]}), ("RandomSizedCrop", {"min_max_height": [8, 16]}))
    ),
    ({"type": "RandomRotate90", "always_apply": False}, {"type": "RandomRotate90", "p": 0.5}),
    ({"type": "RandomShadow", "num_shadows_lower": 2, "num_shadows_upper": 3}, {"type": "RandomShadow", "num_shadows_limit": [2, 3]}),
    ({"type": "RandomSnow", "snow_point_lower": 0.2, "snow_point_upper": 0.4}, {"type": "RandomSnow", "snow_point_range": [0.2, 0.4]}),
    (
        {"type": "RandomSunFlare", "angle_lower": 0.1, "angle_upper": 0.9, "num_flare_circles_lower": 2, "num_flare_circles_upper": 4},
        {"type": "RandomSunFlare", "angle_range": [0.1, 0.9], "num_flare_circles_range": [2, 4]},
    ),
    *(
        ({"type": kind, "value": 1, "mask_value": 2}, {"type": kind, "fill": 1, "fill_mask": 2, "border_mode": 4})
        for kind in ("Rotate", "SafeRotate", "ShiftScaleRotate")
    ),
    ({"type": "Solarize", "threshold": 51}, {"type": "Solarize", "threshold_range": [0.2, 0.2]}),
    ({"type": "Solarize", "threshold": [0, 255]}, {"type": "Solarize", "threshold_range": [0.0, 1.0]}),
    (
        {"type": "XYMasking", "num_masks_x": 1, "mask_x_length": 4, "fill_value": 1, "mask_fill_value": 2},
        {"type": "XYMasking", "num_masks_x": 1, "mask_x_length": 4, "fill": 1, "fill_mask": 2},
    ),
]

# What 2.0.8 still takes as it was.
UNCHANGED: list[dict[str, Any]] = [
    {"type": "GaussianBlur", "blur_limit": [3, 7], "p": 0.2},
    {"type": "ISONoise", "color_shift": [0.01, 0.05], "intensity": [0.1, 0.5]},
    {"type": "CLAHE", "clip_limit": 4.0, "tile_grid_size": [8, 8]},
    {"type": "RandomGridShuffle", "grid": [3, 3]},
    {"type": "GridDropout", "holes_number_xy": [5, 6]},
    {"type": "Rotate", "limit": 30, "fill": 3},
    {"type": "OneOf", "p": 0.5, "transforms": [{"type": "HorizontalFlip", "p": 1}, {"type": "VerticalFlip", "p": 1}]},
]


def build(table: dict[str, Any]) -> Any:
    """The transform of albumentations, with every warning an error but for two that are about the class, not its arguments."""
    args = {name: value for name, value in table.items() if name != "type"}
    if "transforms" in args:
        args["transforms"] = [build(each) for each in args["transforms"]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "ShiftScaleRotate is a special case of Affine")
        warnings.filterwarnings("ignore", "This augmenter is very slow")
        return getattr(A, table["type"])(**args)


@pytest.mark.parametrize(("old", "new"), CARRIED_OVER, ids=[f"{old['type']}{index}" for index, (old, _) in enumerate(CARRIED_OVER)])
def test_an_old_table_becomes_one_that_albumentations_takes(old: dict[str, Any], new: dict[str, Any]) -> None:
    before = {**old}
    translated, problems = translate_transform(old, "train_pipeline[0]")
    assert problems == []
    assert translated == new
    assert type(build(translated)).__name__ == new["type"]
    assert old == before
    assert translate_transform(translated, "train_pipeline[0]") == (new, [])


@pytest.mark.parametrize("table", UNCHANGED, ids=[table["type"] for table in UNCHANGED])
def test_a_table_without_old_names_is_left_alone(table: dict[str, Any]) -> None:
    assert translate_transform(table, "train_pipeline[0]") == (table, [])
    build(table)


def test_every_old_name_of_every_rule_is_tried() -> None:
    used: dict[str, set[str]] = {}
    for old, _ in CARRIED_OVER:
        used.setdefault(old["type"], {"always_apply"}).update(old)
    missing = {kind: rule.old_names - used.get(kind, set()) for kind, rule in RULES.items()}
    assert {kind: names for kind, names in missing.items() if names} == {}


def test_the_rules_agree_with_the_signatures() -> None:
    for kind, rule in RULES.items():
        arguments = set(inspect.signature(getattr(A, rule.becomes or kind)).parameters)
        assert not arguments & rule.old_names, kind
        assert {*rule.renames.values(), *rule.pairs, *rule.values, *rule.defaults, *rule.added} <= arguments, kind


def test_the_removed_classes_are_gone_and_every_successor_named_is_there() -> None:
    for kind, fix in REMOVED.items():
        assert not hasattr(A, kind)
        translated, (problem,) = translate_transform({"type": kind, "p": 0.5}, "train_pipeline[3]")
        assert translated == {"type": kind, "p": 0.5}
        assert problem.key == "train_pipeline[3].type"
        assert kind in problem.message
        assert problem.fix == fix
    named = [fix.split()[1].rstrip(",") for kind, fix in REMOVED.items() if kind.startswith("IAA")]
    assert len(named) == 10
    assert all(hasattr(A, name) for name in (*named, "HorizontalFlip", "VerticalFlip", "D4", "SelectiveChannelTransform"))


@pytest.mark.parametrize(
    ("table", "key", "words"),
    [
        ({"type": "GridDropout", "holes_number_x": 5}, "holes_number_x", "holes_number_y"),
        ({"type": "GridDropout", "unit_size_max": 5}, "unit_size_max", "unit_size_min"),
        ({"type": "RandomResizedCrop", "height": 512}, "height", "width"),
        ({"type": "RandomSizedCrop", "width": 512, "min_max_height": [8, 16]}, "width", "height"),
        ({"type": "ElasticTransform", "alpha_affine": 50}, "alpha_affine", "Affine"),
        ({"type": "OpticalDistortion", "shift_limit": 0.05}, "shift_limit", "translate_px"),
        ({"type": "GaussNoise", "var_limit": [10, 50]}, "var_limit", "std_range=(0.0124, 0.02773)"),
        ({"type": "GaussNoise", "var_limit": 50}, "var_limit", "std_range=(0, 0.02773)"),
        ({"type": "GaussNoise", "mean": 0}, "var_limit", "the former default var_limit=(10, 50)"),
        ({"type": "GaussNoise", "var_limit": "loud"}, "var_limit", "std_range"),
        ({"type": "GaussNoise", "var_limit": [5, 5], "mean": 10**400}, "mean", "mean_range"),
        ({"type": "Solarize", "threshold": 300}, "threshold", "threshold_range"),
        ({"type": "CoarseDropout", "max_height": 0.1}, "max_height", "fractions"),
        ({"type": "CropAndPad", "px": 4, "pad_cval": [0, 255]}, "pad_cval", "fill"),
        ({"type": "Rotate", "value": 1, "fill": 2}, "value", "old name of fill"),
        ({"type": "RandomFog", "fog_coef_lower": 0.2, "fog_coef_range": [0.2, 1]}, "fog_coef_lower", "fog_coef_range"),
        ({"type": "CoarseDropout", "fill_value": 1, "hole_height_range": 5, "max_holes": "x"}, None, ""),
    ],
)
def test_what_cannot_be_carried_over_is_named_with_what_to_write(table: dict[str, Any], key: str | None, words: str) -> None:
    _, problems = translate_transform(table, "train_pipeline[1]")
    assert [problem.key for problem in problems] == ([f"train_pipeline[1].{key}"] if key else [])
    assert all(words in f"{problem.message} {problem.fix}" for problem in problems)


def test_nested_transforms_are_carried_over_with_their_place_in_the_key() -> None:
    table = {
        "type": "OneOf",
        "p": 0.5,
        "transforms": [
            {"type": "ShiftScaleRotate", "value": 0, "always_apply": True, "p": 0.7},
            {"type": "Sequential", "transforms": [{"type": "Blur", "always_apply": True}, {"type": "Flip"}]},
        ],
    }
    translated, problems = translate_transform(table, "train_pipeline[4]")
    assert [problem.key for problem in problems] == ["train_pipeline[4].transforms[1].transforms[1].type"]
    drawn, sequence = translated["transforms"]
    assert drawn == {"type": "ShiftScaleRotate", "fill": 0, "border_mode": 4, "p": 0.7}, "p is the weight of the draw"
    assert sequence["transforms"][0] == {"type": "Blur", "p": 1}


def test_the_number_of_holes_stays_along_its_axis() -> None:
    table, _ = translate_transform({"type": "GridDropout", "holes_number_x": 2, "holes_number_y": 6, "always_apply": True}, "")
    image = build(table)(image=np.full((120, 120, 3), 255, np.uint8))["image"][..., 0]
    along = [max(np.count_nonzero(np.diff(line.astype(int)) > 0) for line in lines) for lines in (image, image.T)]
    assert along == [2, 6]


def test_a_unit_size_without_a_range_can_be_drawn() -> None:
    table, _ = translate_transform({"type": "GridDropout", "unit_size_min": 20, "unit_size_max": 20, "always_apply": True}, "")
    image = build(table)(image=np.full((120, 120, 3), 255, np.uint8))["image"]
    assert (image == 0).mean() == pytest.approx(0.25)


def test_noise_keeps_its_mean_and_variance_in_grey_levels() -> None:
    table, _ = translate_transform({"type": "GaussNoise", "var_limit": [49, 49], "mean": 10, "always_apply": True}, "")
    noise = build(table)(image=np.full((256, 256, 3), 100, np.uint8))["image"] - 100.0
    assert noise.mean() == pytest.approx(10, abs=0.6)  # a level is cut off, not rounded
    assert noise.std() == pytest.approx(7, rel=0.03)


def test_solarize_turns_the_same_grey_levels() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    for threshold in (0, 1, 77, 128, 255):
        table, _ = translate_transform({"type": "Solarize", "threshold": threshold, "always_apply": True}, "")
        expected = np.where(image >= threshold, 255 - image, image)
        np.testing.assert_array_equal(build(table)(image=image)["image"], expected)
