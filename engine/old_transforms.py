"""Transforms as albumentations before 2.0 named them, turned into those of 2.0.8.

The rules are data, read off albumentations 1.3.1 (the last release in which the old names were the only ones) and
2.0.8. A table that uses an old name is an old table: arguments that it leaves out, and whose default has changed
since, are written out with the old default. A table without any old name is taken as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

from engine.errors import Problem

BORDER_CONSTANT, BORDER_REPLICATE, BORDER_REFLECT, BORDER_WRAP, BORDER_REFLECT_101 = range(5)
"""OpenCV's border modes, which the presets hold as numbers."""

REQUIRED = object()
"""Default of half a pair without which the other half cannot be carried over."""
SAME = object()
"""Default of a range's lower end that used to follow its upper end."""


@dataclass(frozen=True)
class Pair:
    """Two old arguments that one new argument holds, in this order, with the old defaults."""

    first: str
    second: str
    default_first: Any = REQUIRED
    default_second: Any = REQUIRED


@dataclass(frozen=True)
class Gone:
    """An argument that has no successor. At one of its `idle` values it did nothing; without any it never did anything here."""

    idle: tuple[Any, ...] = ()
    fix: str = ""


@dataclass(frozen=True)
class Rule:
    """How one transform of old becomes one of 2.0.8.

    `finish` sees (old table, new table), completes the new one from the old arguments named in `by_hand`, and returns
    (argument, message, fix) for each mistake.
    """

    becomes: str = ""
    renames: Mapping[str, str] = field(default_factory=dict)
    pairs: Mapping[str, Pair] = field(default_factory=dict)
    gone: Mapping[str, Gone] = field(default_factory=dict)
    values: Mapping[str, Mapping[Any, Any]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    added: Mapping[str, Any] = field(default_factory=dict)
    by_hand: tuple[str, ...] = ()
    finish: Callable[[Mapping[str, Any], dict[str, Any]], list[tuple[str, str, str]]] | None = None

    @property
    def old_names(self) -> set[str]:
        halves = {half for pair in self.pairs.values() for half in (pair.first, pair.second)}
        return {*self.renames, *self.gone, *self.by_hand, *halves, "always_apply"}


def _coarse_dropout(_old: Mapping[str, Any], new: dict[str, Any]) -> list[tuple[str, str, str]]:
    ranges = [new[name] for name in ("hole_height_range", "hole_width_range") if isinstance(new[name], list)]
    if len({isinstance(size, float) for ends in ranges for size in ends}) < 2:
        return []
    fix = "write max_height and max_width (and min_ of both, where given) either all as whole pixels or all as fractions of the image"
    return [("max_height", "holes mix pixels and fractions of the image", fix)]


def _grid_dropout(old: Mapping[str, Any], new: dict[str, Any]) -> list[tuple[str, str, str]]:
    # 2.0.8 reads holes_number_xy as (rows, columns), whatever its name says, and never draws the upper unit size.
    if "holes_number_xy" in new and "holes_number_xy" not in old:
        new["holes_number_xy"].reverse()
    if "unit_size_range" in new and "unit_size_range" not in old:
        low, high = new["unit_size_range"]
        new["unit_size_range"] = [low, high + 1 if isinstance(high, int) else high]
        new.pop("holes_number_xy", None)  # the unit size used to win; in 2.0.8 the number of holes does
    return []


def _gauss_noise(old: Mapping[str, Any], new: dict[str, Any]) -> list[tuple[str, str, str]]:
    if (mean := old.get("mean")) is not None:
        if not (_is_number(mean) and -255 <= mean <= 255):
            return [("mean", "wants a number of grey levels", "write mean_range instead: two fractions of 255")]
        new["mean_range"] = [mean / 255, mean / 255]
    if "std_range" in old and old.get("var_limit") is None:
        return []
    limit = [10, 50] if old.get("var_limit") is None else old["var_limit"]
    limit = [0, limit] if _is_number(limit) else limit
    if not (isinstance(limit, list) and len(limit) == 2 and all(_is_number(end) and 0 <= end <= 255**2 for end in limit)):
        return [("var_limit", "wants a variance, or a range of two", "write std_range instead: two fractions of 255")]
    low, high = (sqrt(end) / 255 for end in limit)
    if low != high:
        what = "var_limit" if old.get("var_limit") is not None else "the former default var_limit=(10, 50)"
        why = "drew the variance evenly; albumentations 2 draws the standard deviation evenly, which is other noise"
        return [("var_limit", f"{what} {why}", f"write std_range=({low:.4g}, {high:.4g}) for the same ends of the range")]
    new["std_range"] = [low, high]
    return []


def _solarize(old: Mapping[str, Any], new: dict[str, Any]) -> list[tuple[str, str, str]]:
    if (threshold := old.get("threshold")) is None:
        return []
    ends = [threshold, threshold] if _is_number(threshold) else threshold
    if not (isinstance(ends, list) and len(ends) == 2 and all(_is_number(end) and 0 <= end <= 255 for end in ends)):
        return [("threshold", "wants a grey level of 0 to 255, or a range of two", "write threshold_range instead: two fractions of 255")]
    new["threshold_range"] = [end / 255 for end in ends]
    return []


def _downscale(old: Mapping[str, Any], new: dict[str, Any]) -> list[tuple[str, str, str]]:
    pair = new.get("interpolation_pair")
    if "interpolation" in old and isinstance(pair, int):
        new["interpolation_pair"] = {"upscale": pair, "downscale": pair}
    return []


def _crop_and_pad(old: Mapping[str, Any], _new: dict[str, Any]) -> list[tuple[str, str, str]]:
    message = "a list was a choice of values to draw from; albumentations 2 reads it as one value per channel"
    drawn = [name for name in ("pad_cval", "pad_cval_mask") if isinstance(old.get(name), list)]
    return [(name, message, f"write one number as {_PAD_CVAL[name]}") for name in drawn]


def _affine(old: Mapping[str, Any], new: dict[str, Any]) -> list[tuple[str, str, str]]:
    motions = ("scale", "translate_percent", "translate_px", "rotate", "shear")
    for name in motions:
        if old.get(name) is None:
            new.pop(name, None)
    if not any(name in new for name in motions):  # 2.0.8 would do nothing
        new |= {"scale": _both(0.9, 1.1), "translate_percent": _both(-0.1, 0.1), "rotate": [-15, 15], "shear": _both(-10, 10)}
    return []


def _both(low: float, high: float) -> dict[str, list[float]]:
    return {"x": [low, high], "y": [low, high]}


_BORDER_FILL = {"value": "fill", "mask_value": "fill_mask"}
_DROP_FILL = {"fill_value": "fill", "mask_fill_value": "fill_mask"}
_PAD_CVAL = {"pad_mode": "border_mode", "pad_cval": "fill", "pad_cval_mask": "fill_mask"}
_CVAL = {"mode": "border_mode", "cval": "fill", "cval_mask": "fill_mask"}
_REFLECTED = {"border_mode": BORDER_REFLECT_101}
_SIZE = {"size": Pair("height", "width")}
_QUALITY = {"quality_range": Pair("quality_lower", "quality_upper", 99, 100)}
_SKIMAGE_BORDER = {
    "constant": BORDER_CONSTANT,
    "edge": BORDER_REPLICATE,
    "symmetric": BORDER_REFLECT,
    "wrap": BORDER_WRAP,
    "reflect": BORDER_REFLECT_101,
}

RULES: dict[str, Rule] = {
    "AdvancedBlur": Rule(renames={"sigmaX_limit": "sigma_x_limit", "sigmaY_limit": "sigma_y_limit"}),
    "Affine": Rule(renames=_CVAL, finish=_affine),
    "CenterCrop": Rule(renames=_PAD_CVAL),
    "ChannelDropout": Rule(renames={"fill_value": "fill"}),
    "CoarseDropout": Rule(
        renames=_DROP_FILL,
        pairs={
            "num_holes_range": Pair("min_holes", "max_holes", SAME, 8),
            "hole_height_range": Pair("min_height", "max_height", SAME, 8),
            "hole_width_range": Pair("min_width", "max_width", SAME, 8),
        },
        defaults={"num_holes_range": [8, 8], "hole_height_range": [8, 8], "hole_width_range": [8, 8]},
        finish=_coarse_dropout,
    ),
    "Crop": Rule(renames=_PAD_CVAL),
    "CropAndPad": Rule(renames=_PAD_CVAL, finish=_crop_and_pad),
    "Cutout": Rule(
        becomes="CoarseDropout",
        renames={"fill_value": "fill"},
        pairs={
            "num_holes_range": Pair("num_holes", "num_holes", 8, 8),
            "hole_height_range": Pair("max_h_size", "max_h_size", 8, 8),
            "hole_width_range": Pair("max_w_size", "max_w_size", 8, 8),
        },
        defaults={"num_holes_range": [8, 8], "hole_height_range": [8, 8], "hole_width_range": [8, 8]},
    ),
    "Downscale": Rule(
        renames={"interpolation": "interpolation_pair"},
        pairs={"scale_range": Pair("scale_min", "scale_max", 0.25, 0.25)},
        finish=_downscale,
    ),
    "ElasticTransform": Rule(
        renames=_BORDER_FILL,
        gone={"alpha_affine": Gone((0,), "leave it out, and write an Affine before this one for its random affine part")},
        defaults=_REFLECTED | {"noise_distribution": "uniform"},
    ),
    "GaussNoise": Rule(by_hand=("var_limit", "mean"), finish=_gauss_noise),
    "GridDistortion": Rule(renames=_BORDER_FILL, defaults=_REFLECTED | {"normalized": False}),
    "GridDropout": Rule(
        renames=_DROP_FILL,
        pairs={
            "unit_size_range": Pair("unit_size_min", "unit_size_max"),
            "holes_number_xy": Pair("holes_number_x", "holes_number_y"),
            "shift_xy": Pair("shift_x", "shift_y", 0, 0),
        },
        defaults={"random_offset": False},
        finish=_grid_dropout,
    ),
    "ImageCompression": Rule(pairs=_QUALITY, values={"compression_type": {0: "jpeg", 1: "webp"}}),
    "JpegCompression": Rule(becomes="ImageCompression", pairs=_QUALITY, added={"compression_type": "jpeg"}),
    "MaskDropout": Rule(
        renames={"image_fill_value": "fill", "mask_fill_value": "fill_mask"},
        values={"fill": {"inpaint": "inpaint_ns"}},
    ),
    "OpticalDistortion": Rule(
        renames=_BORDER_FILL,
        gone={"shift_limit": Gone((0, [0, 0]), "leave it out; Affine shifts an image, by translate_px")},
        defaults=_REFLECTED,
    ),
    "PadIfNeeded": Rule(renames=_BORDER_FILL, defaults=_REFLECTED),
    "Perspective": Rule(renames={"pad_mode": "border_mode", "pad_val": "fill", "mask_pad_val": "fill_mask"}),
    "PiecewiseAffine": Rule(
        renames=_CVAL,
        gone={"keypoints_threshold": Gone()},
        values={"border_mode": _SKIMAGE_BORDER},
    ),
    "RandomBrightness": Rule(becomes="RandomBrightnessContrast", renames={"limit": "brightness_limit"}, added={"contrast_limit": 0}),
    "RandomContrast": Rule(becomes="RandomBrightnessContrast", renames={"limit": "contrast_limit"}, added={"brightness_limit": 0}),
    "RandomCrop": Rule(renames=_PAD_CVAL),
    "RandomFog": Rule(pairs={"fog_coef_range": Pair("fog_coef_lower", "fog_coef_upper", 0.3, 1)}),
    "RandomGamma": Rule(gone={"eps": Gone()}),
    "RandomRain": Rule(
        pairs={"slant_range": Pair("slant_lower", "slant_upper", -10, 10)},
        values={"rain_type": {None: "default"}},
        defaults={"drop_length": 20},
    ),
    "RandomResizedCrop": Rule(pairs=_SIZE),
    "RandomRotate90": Rule(defaults={"p": 0.5}),
    "RandomShadow": Rule(pairs={"num_shadows_limit": Pair("num_shadows_lower", "num_shadows_upper", 1, 2)}),
    "RandomSizedCrop": Rule(pairs=_SIZE),
    "RandomSnow": Rule(pairs={"snow_point_range": Pair("snow_point_lower", "snow_point_upper", 0.1, 0.3)}),
    "RandomSunFlare": Rule(
        pairs={
            "angle_range": Pair("angle_lower", "angle_upper", 0, 1),
            "num_flare_circles_range": Pair("num_flare_circles_lower", "num_flare_circles_upper", 6, 10),
        }
    ),
    "Rotate": Rule(renames=_BORDER_FILL, defaults=_REFLECTED),
    "SafeRotate": Rule(renames=_BORDER_FILL, defaults=_REFLECTED),
    "ShiftScaleRotate": Rule(renames=_BORDER_FILL, defaults=_REFLECTED),
    "Solarize": Rule(by_hand=("threshold",), finish=_solarize),
    "XYMasking": Rule(renames=_DROP_FILL),
}

_ALIKE = {
    "IAAAdditiveGaussianNoise": "GaussNoise",
    "IAAAffine": "Affine",
    "IAACropAndPad": "CropAndPad",
    "IAAEmboss": "Emboss",
    "IAAFliplr": "HorizontalFlip",
    "IAAFlipud": "VerticalFlip",
    "IAAPerspective": "Perspective",
    "IAAPiecewiseAffine": "PiecewiseAffine",
    "IAASharpen": "Sharpen",
    "IAASuperpixels": "Superpixels",
}
REMOVED: dict[str, str] = {name: f"write {successor}, with that class's own arguments" for name, successor in _ALIKE.items()} | {
    "Flip": "write HorizontalFlip or VerticalFlip, or D4 for all eight flips and turns (Flip drew one of three: either flip, or both)",
    "PerChannel": "leave it out, or write SelectiveChannelTransform",
    "TemplateTransform": "leave it out: it needs template images, which a preset cannot hold",
}
"""Classes without a successor that does the same, and what to write instead."""


def translate_transform(table: Mapping[str, Any], key: str, chosen_by: str = "") -> tuple[dict[str, Any], list[Problem]]:
    """A transform's flat table (`type` beside its arguments) in the terms of albumentations 2.0.8, nested ones too.

    `key` is the table's place, and begins the key of each Problem (`train_pipeline[2].alpha_affine`); `chosen_by` is the
    class of the composition around it. What is neither old nor known is passed on as it is: whether a class has an argument
    is for its signature to say. The table given is not changed.
    """
    problems: list[Problem] = []
    table = {name: _nested(value, f"{key}.{name}", str(table.get("type", "")), problems) for name, value in table.items()}
    kind = table.get("type")
    if isinstance(kind, str) and kind in REMOVED:
        return table, [*problems, Problem(f"{kind} is not in albumentations 2", key=f"{key}.type", fix=REMOVED[kind])]
    rule = RULES.get(kind, Rule()) if isinstance(kind, str) else Rule()
    if not rule.becomes and not rule.old_names & set(table):
        return table, problems
    new, mistakes = _translated(table, rule)
    # OneOf applies the one that it draws anyway, and p is the weight of the draw there.
    if table.get("always_apply") and chosen_by != "OneOf":
        new["p"] = 1
    problems += [Problem(message, key=f"{key}.{name}", fix=fix) for name, message, fix in mistakes]
    return new, problems


def _translated(old: Mapping[str, Any], rule: Rule) -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
    mistakes: list[tuple[str, str, str]] = []
    new = {name: value for name, value in old.items() if name not in rule.old_names}
    new["type"] = rule.becomes or old["type"]
    for name, gone in rule.gone.items():
        if name in old and gone.idle and old[name] not in gone.idle:
            mistakes.append((name, "is not in albumentations 2", gone.fix))
    for name, successor in rule.renames.items():
        if old.get(name) is None:  # None stood for the default, which 2.0.8 does not take
            continue
        if successor in new:
            mistakes.append((name, f"is the old name of {successor}, which is given too", f"leave {name} out"))
        new[successor] = old[name]
    for name, pair in rule.pairs.items():
        given = [half for half in (pair.first, pair.second) if old.get(half) is not None]
        if not given:
            continue
        if name in new:
            mistakes.append((given[0], f"is the old name of a part of {name}, which is given too", f"leave {given[0]} out"))
            continue
        second = old.get(pair.second) if pair.second in given else pair.default_second
        first = old.get(pair.first) if pair.first in given else second if pair.default_first is SAME else pair.default_first
        if REQUIRED in (first, second):
            missing = pair.second if given == [pair.first] else pair.first
            mistakes.append((given[0], f"albumentations 2 takes {pair.first} and {pair.second} together, as {name}", f"give {missing} too"))
            continue
        new[name] = [first, second]
    for name, meaning in rule.values.items():
        if name in new and _hashable(new[name]) and new[name] in meaning:
            new[name] = meaning[new[name]]
    for name, default in (*rule.defaults.items(), *rule.added.items()):
        if name not in new:
            new[name] = list(default) if isinstance(default, list) else default
    if rule.finish and not mistakes:
        mistakes += rule.finish(old, new)
    return new, mistakes


def _nested(value: Any, key: str, chosen_by: str, problems: list[Problem]) -> Any:
    """The value with every transform in it translated: a composition holds them in lists, or one by one."""
    if isinstance(value, list):
        return [_nested(each, f"{key}[{index}]", chosen_by, problems) for index, each in enumerate(value)]
    if isinstance(value, dict) and "type" in value:
        translated, found = translate_transform(value, key, chosen_by)
        problems += found
        return translated
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _hashable(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)
