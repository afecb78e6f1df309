"""Drawing the sample's images: littered ground under a low sun, each from (seed, number) alone."""

from __future__ import annotations

import colorsys
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

Array = NDArray[np.float64]

SIZE = 256
SHAPE = (SIZE, SIZE)


def draw_split(folder: Path, split: str, count: int, seed: int) -> None:
    """Draw `count` images into `folder/split` and their annotations into `folder/split.json`."""
    (folder / split).mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        things = _arrange(rng, index)
        file_name = f"{split}/{index + 1:04d}.jpg"
        _, jpeg = cv2.imencode(".jpg", _photograph(rng, things)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
        (folder / file_name).write_bytes(jpeg.tobytes())
        images.append({"id": index + 1, "file_name": file_name, "width": SIZE, "height": SIZE})
        for thing in things:
            number = len(annotations) + 1
            what = {"id": number, "image_id": index + 1, "category_id": KINDS.index(thing.kind) + 1, "iscrowd": 0}
            box = [float(side) for side in coco_mask.toBbox(thing.rle)]
            annotations.append({**what, "segmentation": _segmentation(thing, number), "area": thing.area, "bbox": box})
    categories = [{"id": number, "name": kind.name, "supercategory": "trash"} for number, kind in enumerate(KINDS, start=1)]
    content = {"info": {"description": f"segtui sample data set, {split}"}, "images": images}
    text = json.dumps({**content, "categories": categories, "annotations": annotations})
    (folder / f"{split}.json").write_text(text, encoding="utf-8")


def _segmentation(thing: Thing, number: int) -> list[list[float]] | dict[str, Any]:
    """Polygons, and now and then one of the two run-length forms, so that every form is met in every split."""
    if number % 12 == 5:
        return {"size": [SIZE, SIZE], "counts": thing.rle["counts"].decode("ascii")}
    if number % 12 == 11:
        changes = np.flatnonzero(np.diff(thing.mask.ravel(order="F"), prepend=0))
        return {"size": [SIZE, SIZE], "counts": np.diff([0, *changes, SIZE * SIZE]).tolist()}
    return thing.polygons


class Kind(NamedTuple):
    """A class of the set. `half` is half its usual length, `width` its width over its length, `common` weighs how often it occurs.

    `corners` outline it within -1..1 by -1..1, each shifted by up to `jitter`; `torn` is the share that lies in two pieces.
    `paint` gives colours (h, w, 3) in 0..255 and the opacity in 0..1 at coordinates (u, v) of that square, each (h, w).
    """

    name: str
    half: float
    width: float
    common: float
    paint: Callable[[Array, Array, np.random.Generator], tuple[Array, float]]
    corners: list[tuple[float, float]]
    jitter: float
    torn: float = 0.0


class Thing(NamedTuple):
    """An object in its place. `polygons` are flat xy lists in pixels, `to_square` is the (2, 3) map from pixels to (u, v)."""

    kind: Kind
    polygons: list[list[float]]
    to_square: Array
    rle: Any
    mask: NDArray[np.uint8]
    area: int


def _arrange(rng: np.random.Generator, index: int) -> list[Thing]:
    """Three to eight things that overlap without hiding each other."""
    count = int(rng.integers(3, 9))
    common = np.array([kind.common for kind in KINDS])
    chosen = rng.choice(len(KINDS), count, p=common / common.sum())
    # In turn, from the rare ones on: every class occurs in every split, the rare ones at least twice.
    chosen[0] = (index + 8) % len(KINDS)
    things: list[Thing] = []
    for number in chosen:
        for _ in range(40):
            thing = _place(rng, KINDS[number], zoom=1.15 - 0.045 * count)
            if not any(_contend(thing, other) for other in things):
                break
        things.append(thing)
    return things


def _contend(one: Thing, other: Thing) -> bool:
    """Whether one hides too much of the other, or equal areas leave open which lies on top."""
    return bool(one.area == other.area or np.count_nonzero(one.mask & other.mask) > 0.35 * min(one.area, other.area))


def _place(rng: np.random.Generator, kind: Kind, zoom: float) -> Thing:
    half = kind.half * zoom * rng.uniform(0.85, 1.15)
    angle = rng.uniform(0, 2 * np.pi)
    sides = [half * kind.width * rng.uniform(0.9, 1.1), half]
    to_pixels = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * sides
    centre = rng.uniform(0.55 * half, SIZE - 0.55 * half, 2)
    pieces = [kind.corners + rng.uniform(-kind.jitter, kind.jitter, (len(kind.corners), 2))]
    if rng.random() < kind.torn:
        pieces = [_cut(pieces[0], 1, -0.05, -1) + rng.uniform(-0.1, 0.1, 2) * [1, 0], _cut(pieces[0], 1, 0.05, 1)]
    pieces = [piece @ to_pixels.T + centre for piece in pieces]
    for axis, border, side in ((0, 0, 1), (0, SIZE, -1), (1, 0, 1), (1, SIZE, -1)):
        pieces = [_cut(piece, axis, border, side) for piece in pieces]
    flat = [piece.round(2).ravel().tolist() for piece in pieces if len(piece) > 2]
    rle = coco_mask.merge(coco_mask.frPyObjects(flat, SIZE, SIZE))
    to_square = np.linalg.inv([[*to_pixels[0], centre[0]], [*to_pixels[1], centre[1]], [0, 0, 1]])[:2]
    return Thing(kind, flat, to_square, rle, coco_mask.decode(rle), int(coco_mask.area(rle)))


def _cut(polygon: Array, axis: int, border: float, side: int) -> Array:
    """The part of a polygon (n, 2) above (side 1) or below (side -1) a border on one axis (Sutherland-Hodgman)."""
    corners = []
    for start, end in zip(np.roll(polygon, 1, axis=0), polygon, strict=True):
        before, after = side * (start[axis] - border), side * (end[axis] - border)
        if (before < 0) != (after < 0):
            corners.append(start + (end - start) * before / (before - after))
        if after >= 0:
            corners.append(end)
    return np.array(corners).reshape(-1, 2)


def _photograph(rng: np.random.Generator, things: list[Thing]) -> NDArray[np.uint8]:
    """Largest things first, as masks are painted, so that what is seen on top is what is labelled."""
    image = GROUNDS[rng.integers(len(GROUNDS))](rng)
    sun = rng.integers(-6, 7, 2)
    for thing in sorted(things, key=lambda thing: -thing.area):
        _lay_down(image, thing, sun, rng)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    light = rng.uniform(0.9, 1.08) + rng.uniform(-0.16, 0.16) * x + rng.uniform(-0.16, 0.16) * y - 0.07 * (x * x + y * y)
    exposed = cv2.GaussianBlur(image * light[..., None] * rng.uniform(0.96, 1.04, 3), (0, 0), 0.55)
    return np.asarray((exposed + rng.normal(0, 2.5, image.shape)).round().clip(0, 255), np.uint8)


def _lay_down(image: Array, thing: Thing, sun: NDArray[np.int_], rng: np.random.Generator) -> None:
    """Paint a thing and its shadow over `image` (h, w, 3), in place."""
    corners = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in thing.polygons])
    left, top = np.maximum(corners.min(axis=0).astype(int) - 16, 0)
    right, bottom = np.minimum(corners.max(axis=0).astype(int) + 16, SIZE)
    part = image[top:bottom, left:right]

    # The label itself, softened: what shows more than half is exactly what is labelled.
    cover = cv2.GaussianBlur(thing.mask[top:bottom, left:right].astype(float), (0, 0), 0.6, borderType=cv2.BORDER_REPLICATE)
    soft = cv2.GaussianBlur(cover, (0, 0), 4, borderType=cv2.BORDER_REPLICATE)
    shadow = np.pad(soft, 6, mode="edge")[6 - sun[0] :, 6 - sun[1] :][: soft.shape[0], : soft.shape[1]]

    # In COCO a pixel's centre is at .5.
    y, x = np.mgrid[top:bottom, left:right] + 0.5
    u, v = (row[0] * x + row[1] * y + row[2] for row in thing.to_square)
    colour, opacity = thing.kind.paint(u, v, rng)
    part *= 1 - 0.55 * opacity * shadow[..., None]
    part += (colour * (0.62 + 0.4 * soft)[..., None] - part) * (cover * opacity)[..., None]


def _noise(rng: np.random.Generator, shape: tuple[int, ...], *cell: float) -> Array:
    """Smooth noise of variance about 1, with features `cell` pixels apart (one number, or vertical and horizontal)."""
    rows, columns = (int(np.ceil(side / step)) + 3 for side, step in zip(shape, cell * 2, strict=False))
    wide = cv2.resize(rng.standard_normal((rows, columns)), None, fx=cell[-1], fy=cell[0], interpolation=cv2.INTER_CUBIC)
    return np.asarray(wide[int(cell[0]) :, int(cell[-1]) :][: shape[0], : shape[1]] * 1.3)


def _relief(height: Array) -> Array:
    """How much brighter a surface is where it faces the light: its slope towards the upper left, per pixel."""
    return np.asarray(np.add(*np.gradient(height)))


def _between(x: Array, low: float, high: float, soft: float = 0.04) -> Array:
    """1 where low < x < high, else 0, with edges `soft` wide."""
    return np.asarray(np.clip((x - low) / soft + 0.5, 0, 1) * np.clip((high - x) / soft + 0.5, 0, 1))


def _mix(under: Array | tuple[float, ...], over: Array | tuple[float, ...], share: Array) -> Array:
    return np.asarray(np.asarray(under) + np.subtract(over, under) * share[..., None])


def _rgb(hue: float, saturation: float, value: float) -> Array:
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _mirrored(right_side: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A silhouette from its right side, top to bottom."""
    return right_side + [(-u, v) for u, v in reversed(right_side)]


def _paint_general_trash(u: Array, v: Array, rng: np.random.Generator) -> tuple[Array, float]:
    base = _rgb(rng.uniform(0.03, 0.12), 0.28, rng.uniform(0.24, 0.34))
    colour = _mix(base, _rgb(rng.uniform(0, 0.1), 0.65, 0.5), np.clip(_noise(rng, u.shape, 11) - 0.7, 0, 0.8))
    folds = _relief(np.abs(_noise(rng, u.shape, 11)) + 0.5 * np.abs(_noise(rng, u.shape, 5)))
    return colour * (1.1 - 0.2 * np.hypot(u, v) + 1.5 * folds.clip(-0.5, 0.7))[..., None], 1.0


def _paint_paper(u: Array, v: Array, rng: np.random.Generator) -> tuple[Array, float]:
    words = rng.random((20, 20)) < 0.8
    row, column = (np.floor((axis + 1) * 10).astype(int).clip(0, 19) for axis in (v, u))
    text = words[row, column] * _between((v + 1) * 10 - row, 0.25, 0.65, 0.3) * (np.abs(u) < 0.75) * (np.abs(v) < 0.8)
    colour = _mix(_rgb(rng.uniform(0.11, 0.15), 0.16, 0.95), (95, 90, 85), 0.75 * text)
    return colour * (1 - 0.1 * (u * rng.uniform(-0.6, 0.6) + v > rng.uniform(-0.3, 0.3)))[..., None], 1.0


def _paint_paper_pack(u: Array, v: Array, rng: np.random.Generator) -> tuple[Array, float]:
    print_colour = _rgb(rng.uniform(0.55, 0.64), 0.72, 0.72)
    colour = _mix((214, 178, 128), print_colour, _between(v, -0.42, -0.1) + _between(v, 0.62, 0.86))
    radius = np.hypot(u - 0.05, (v - 0.26) * 1.3)
    colour = _mix(_mix(colour, (245, 240, 228), _between(radius, -1, 0.3)), print_colour, _between(radius, -1, 0.15))
    seams = _between(v, -0.45, -0.4) + _between(v, -0.84, -0.8) + _between(u, -0.42, -0.37) * (v > -0.42)
    side = 1 - 0.28 * (u < -0.4) - 0.16 * (v < -0.42)
    return colour * (side * (1 - 0.4 * seams.clip(0, 1)))[..., None], 1.0


def _paint_metal(u: Array, v: Array, rng: np.random.Generator) -> tuple[Array, float]:
    bright = 0.62 - 0.25 * u * u + 0.55 / (1 + ((u + rng.uniform(0.2, 0.5)) / 0.13) ** 2) + 0.2 / (1 + ((u - 0.65) / 0.1) ** 2)
    brushed = rng.normal(0, 0.05, 64)[np.floor((v.clip(-1, 1) + 1) * 31.9).astype(int)]
    rims = _between(np.abs(v), 0.78, 0.83) + 0.6 * _between(np.abs(v), 0.9, 0.94)
    colour = _mix((185, 205, 232), _rgb(rng.uniform(-0.04, 0.0), 0.9, 0.85), 0.9 * _between(v, -0.2, 0.28))
    return colour * ((bright + brushed) * (1 - 0.5 * rims))[..., None], 1.0


def _paint_glass(u: Array, v: Array, rng: np.random.Generator) -> tuple[Array, float]:
    across = u / np.interp(v, [-0.42, 0.08, 1.0], [0.3, 0.93, 0.95])
    colour = _mix(_rgb(rng.uniform(0.37, 0.44), 0.75, 0.5), (8, 40, 28), np.clip(np.abs(across) - 0.55, 0, 0.45) * 1.9)
    streaks = _between(across, -0.62, -0.42, 0.1) * (0.5 + 0.5 * (v > -0.4)) + 0.5 * _between(across, 0.5, 0.6, 0.1)
    return _mix(colour, (225, 255, 240), streaks * 0.75 * _between(v, -0.8, 0.85, 0.1)), 0.8


def _paint_plastic(u: Array, v: Array, rng: np.random.Generator) -> tuple[Array, float]:
    colour = _mix(_rgb(rng.uniform(0.02, 0.09), 0.92, 0.98), (250, 245, 235), _between(v, -1.1, -0.78))
    ribs = (1 + 0.22 * np.sin(v * 24) * (v > -0.45)) * (1.02 - 0.35 * u * u)
    return _mix(colour * ribs[..., None], (255, 245, 225), 0.65 * _between(u, -0.5, -0.25, 0.15) * (v > -0.7)), 1.0


def _paint_styrofoam(u: Array, v: Array, rng: np.random.Generator) -> tuple[Array, float]:
    beads = 0.13 * _relief(_noise(rng, u.shape, 3.2)).clip(-0.9, 0.9) - 0.16 * (_noise(rng, u.shape, 4) > 1.5)
    return np.array([212, 234, 255]) * (1.02 + beads - 0.14 * _between(v + 0.15 * u, 0.45, 2))[..., None], 1.0


def _paint_plastic_bag(u: Array, v: Array, rng: np.random.Generator) -> tuple[Array, float]:
    wrinkles = np.clip(1 - 3.2 * np.abs(_noise(rng, u.shape, 16)), 0, 1) + 0.7 * np.clip(1 - 3 * np.abs(_noise(rng, u.shape, 9)), 0, 1)
    shade = 1 - 0.08 * v + 0.8 * _relief(_noise(rng, u.shape, 14)).clip(-0.3, 0.3)
    return _mix(_rgb(rng.uniform(0.78, 0.86), 0.3, 0.82) * shade[..., None], (255, 250, 255), 0.6 * wrinkles.clip(0, 1)), 0.78


def _paint_battery(u: Array, v: Array, rng: np.random.Generator) -> tuple[Array, float]:
    colour = _mix((34, 34, 40), _rgb(rng.uniform(0.1, 0.13), 0.85, 0.92), _between(v, -0.86, -0.15, 0.08))
    colour = _mix(colour, (215, 215, 220), _between(v, -1.2, -0.86, 0.08) + _between(v, 0.9, 1.2, 0.08))
    return colour * (0.7 + 0.75 / (1 + ((u + 0.35) / 0.25) ** 2))[..., None], 1.0


def _paint_clothing(u: Array, v: Array, rng: np.random.Generator) -> tuple[Array, float]:
    folds = _noise(rng, u.shape, 20)
    stripes = _between(4.5 * (v + 0.035 * folds) % 1, 0.25, 0.75, 0.12)
    colour = _mix(_rgb(rng.uniform(0.6, 0.66), 0.75, 0.45), _rgb(rng.uniform(0.92, 0.97), 0.55, 0.9), stripes)
    weave = 0.13 * np.sign(np.sin(u * 80) * np.sin(v * 80))
    return colour * (1 + weave + 1.6 * _relief(folds).clip(-0.2, 0.2))[..., None], 1.0


def _concrete(rng: np.random.Generator) -> Array:
    base = _rgb(rng.uniform(0.08, 0.6), 0.05, rng.uniform(0.5, 0.62))
    stains = 0.05 * _noise(rng, SHAPE, 48) + 0.035 * _noise(rng, SHAPE, 12) + 0.05 * rng.standard_normal(SHAPE)
    crack = np.clip(1 - 30 * np.abs(_noise(rng, SHAPE, 90)), 0, 1) * _noise(rng, SHAPE, 60).clip(0, 1)
    return np.asarray(base * (1 + stains - 0.35 * crack)[..., None])


def _grass(rng: np.random.Generator) -> Array:
    hue = rng.uniform(0.22, 0.27)
    image = np.full((*SHAPE, 3), _rgb(hue, 0.6, 0.22), np.uint8)
    for depth in np.linspace(0, 1, 30):
        roots = rng.uniform(-10, SIZE + 10, (130, 2))
        blades = np.stack([roots, roots + rng.normal(0, 7, (130, 2))], axis=1).round().astype(np.int32)
        colour = _rgb(hue + rng.uniform(-0.06, 0.03), rng.uniform(0.45, 0.65), 0.27 + 0.3 * depth)
        cv2.polylines(image, list(blades), False, colour.tolist(), 1, cv2.LINE_AA)
    return np.asarray(image * (1 + 0.09 * _noise(rng, SHAPE, 40))[..., None])


def _soil(rng: np.random.Generator) -> Array:
    clods = 0.45 * _relief(_noise(rng, SHAPE, 7)) + 0.3 * _relief(_noise(rng, SHAPE, 3)) + 0.08 * _noise(rng, SHAPE, 50)
    base = _rgb(rng.uniform(0.06, 0.09), 0.42, rng.uniform(0.42, 0.5))
    pebbles = (_noise(rng, SHAPE, 6) * 3 - 5.7).clip(0, 0.8)
    return np.asarray(_mix(base, (150, 142, 130), pebbles) * (1 + clods).clip(0.5, 1.5)[..., None])


def _wood(rng: np.random.Generator) -> Array:
    plank = int(rng.integers(44, 64))
    rows = np.arange(SIZE) + int(rng.integers(plank))
    tones = rng.uniform(0.88, 1.1, SIZE)[rows // plank] * np.where(rows % plank < 2, 0.45, 1)
    grain = 0.09 * _noise(rng, SHAPE, 3, 70) + 0.05 * _noise(rng, SHAPE, 1.5, 30)
    planks = tones[:, None] * (1 + grain)
    return _rgb(rng.uniform(0.07, 0.09), 0.45, rng.uniform(0.6, 0.7)) * (planks if rng.random() < 0.5 else planks.T)[..., None]


RING = [(0.83 * math.cos(turn), 0.83 * math.sin(turn)) for turn in (math.tau * step / 22 for step in range(22))]
SHEET = _mirrored([(0.9, -0.9), (0.9, 0.9)])
CARTON = _mirrored([(0.62, -1.0), (0.62, -0.82), (0.95, -0.42), (0.95, 1.0)])
CAN = _mirrored([(0.55, -1.0), (0.8, -0.96), (0.96, -0.84), (0.96, 0.84), (0.8, 0.96), (0.55, 1.0)])
FLASK = _mirrored([(0.36, -1.0), (0.36, -0.88), (0.28, -0.86), (0.3, -0.42), (0.6, -0.22), (0.93, 0.08), (0.95, 0.9), (0.8, 1.0)])
BOTTLE = _mirrored([(0.34, -1.0), (0.34, -0.8), (0.55, -0.74), (0.85, -0.5), (0.92, -0.1), (0.82, 0.05), (0.92, 0.86), (0.75, 1.0)])
CHUNK = [(-0.9, -0.75), (-0.1, -0.95), (0.85, -0.8), (0.95, 0.1), (0.75, 0.9), (-0.2, 0.8), (-0.85, 0.9), (-0.95, 0.0)]
CARRIER = _mirrored([(0.28, -0.45), (0.4, -0.98), (0.68, -0.98), (0.72, -0.45), (0.88, 0.0), (0.95, 0.45), (0.8, 0.88), (0.3, 0.97)])
CELL = _mirrored([(0.38, -1.0), (0.4, -0.88), (0.95, -0.86), (0.95, 0.98)])
SHIRT = _mirrored([(0.2, -0.75), (0.42, -0.92), (0.98, -0.5), (0.8, -0.12), (0.56, -0.28), (0.6, 0.3), (0.56, 0.92)])
GROUNDS = (_concrete, _grass, _soil, _wood)
KINDS = (
    Kind("General trash", 40, 1.0, 5.0, _paint_general_trash, RING, 0.16),
    Kind("Paper", 46, 0.75, 5.0, _paint_paper, SHEET, 0.1, torn=0.25),
    Kind("Paper pack", 48, 0.6, 2.5, _paint_paper_pack, CARTON, 0.03),
    Kind("Metal", 46, 0.6, 3.0, _paint_metal, CAN, 0.02),
    Kind("Glass", 58, 0.34, 2.5, _paint_glass, FLASK, 0.015),
    Kind("Plastic", 52, 0.46, 5.0, _paint_plastic, BOTTLE, 0.02),
    Kind("Styrofoam", 44, 0.85, 3.0, _paint_styrofoam, CHUNK, 0.13, torn=0.4),
    Kind("Plastic bag", 56, 0.75, 3.0, _paint_plastic_bag, CARRIER, 0.08),
    Kind("Battery", 32, 0.44, 0.6, _paint_battery, CELL, 0.02),
    Kind("Clothing", 60, 0.95, 0.5, _paint_clothing, SHIRT, 0.06),
)
