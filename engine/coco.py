"""A COCO json as classes, images and annotations, checked; and an annotation as a mask."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.errors import Problem, RequestError
from engine.images import ImageError, displayed_size
from engine.inside import check_inside

Background = Literal["class", "ignore"]
Overlap = Literal["area", "vertices"]
IGNORED = 255
MOST_CLASSES = 254
MOST_SHOWN = 10
MOST_PIXELS = 1 << 20
MOST_IN_IMAGE = 1 << 28
"""Of its label map, a byte each, which is drawn before the image itself is opened."""
# Sloppy outlines leave their image a little; pycocotools takes memory for every pixel on the way to a point.
FAR_OUTSIDE = 10


@dataclass(frozen=True)
class Annotation:
    """One object or region. `segmentation` is polygons, an uncompressed or a compressed RLE; `class_index` fits masks."""

    class_index: int
    segmentation: Any
    area: float | None


@dataclass(frozen=True)
class Split:
    """The images of one json, in its order. `sizes` is int32 (N, 2): height, width; `digest` names the content."""

    json: Path
    root: Path
    digest: str
    classes: tuple[str, ...]
    background: Background
    file_names: tuple[str, ...]
    sizes: NDArray[np.int32]
    annotations: tuple[tuple[Annotation, ...], ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.file_names)

    def paths(self) -> list[str]:
        return [str(self.root / name) for name in self.file_names]

    def select(self, indices: Sequence[int]) -> Split:
        """The same split with only these images."""
        digest = hashlib.sha256(f"{self.digest}{list(indices)}".encode()).hexdigest()
        return replace(
            self,
            digest=digest,
            file_names=tuple(self.file_names[index] for index in indices),
            sizes=self.sizes[list(indices)],
            annotations=tuple(self.annotations[index] for index in indices),
        )


def read_split(root: Path, name: str, background: Background, *, allow_outside: bool = False) -> Split:
    """Read and check a split. Raises RequestError with every kind of mistake found in the json.

    Its images lie below `root` unless `allow_outside`.
    """
    path = root / name
    content, data = _read_json(path, root)
    problems: list[str] = []
    images = _table_list(data, "images", problems)
    annotations = _table_list(data, "annotations", problems) if "annotations" in data else []
    nothing_named = not annotations and not data.get("categories")  # a test set may be a list of images and no more
    categories = [] if nothing_named else _table_list(data, "categories", problems)
    _refuse(path, problems)

    class_of = _classes(categories, background, problems)
    row_of = _rows(images, problems)
    grouped: list[list[Annotation]] = [[] for _ in images]
    skipped = 0
    for position, annotation in enumerate(annotations):
        where = f"annotation {annotation.get('id', f'number {position}')!r}"
        row, class_index = _get(row_of, annotation.get("image_id")), _get(class_of, annotation.get("category_id"))
        if row is None:
            problems.append(f"{where} belongs to image_id {annotation.get('image_id')!r}, which is not in images")
        elif class_index is None:
            problems.append(f"{where} has category_id {annotation.get('category_id')!r}, which is not in categories")
        elif _has_size(images[row]):
            segmentation, problem = _segmentation(annotation.get("segmentation"), images[row])
            if problem:
                problems.append(f"{where} {problem}")
            elif not segmentation:
                skipped += 1
            else:
                grouped[row].append(Annotation(class_index, segmentation, _area(annotation)))
    _refuse(path, problems)
    file_names = tuple(image["file_name"] for image in images)
    if not allow_outside:
        check_inside(root, path, file_names)
    names = [category["name"] for category in sorted(categories, key=lambda category: category["id"])]
    return Split(
        json=path,
        root=root,
        digest=hashlib.sha256(content).hexdigest(),
        classes=(("Background", *names) if background == "class" else tuple(names)),
        background=background,
        file_names=file_names,
        sizes=np.array([(image["height"], image["width"]) for image in images], np.int32).reshape(-1, 2),
        annotations=tuple(tuple(each) for each in grouped),
        notes=(f"{path}: {skipped} annotations with an empty outline were passed over",) if skipped else (),
    )


def check_images(split: Split, progress: Callable[[int, int], None] | None = None) -> None:
    """Every image is there, whole as far as its header and end tell, and of the size that the json says.

    Raises RequestError naming the files. Costs about 0.1 ms an image.
    """
    problems = []
    with ThreadPoolExecutor(8) as pool:
        for done, problem in enumerate(pool.map(image_problem, split.paths(), split.sizes.tolist()), start=1):
            problems += [problem] if problem else []
            if progress is not None:
                progress(done, len(split))
    _refuse(split.json, problems)


def same_classes(train: Split, val: Split) -> None:
    """Raises RequestError where two splits do not have the same classes."""
    if train.classes == val.classes:
        return
    only_train = [name for name in train.classes if name not in val.classes]
    only_val = [name for name in val.classes if name not in train.classes]
    details = [f"only in {train.json.name}: {', '.join(only_train)}" if only_train else ""]
    details += [f"only in {val.json.name}: {', '.join(only_val)}" if only_val else ""]
    text = "; ".join(filter(None, details)) or "the same names have different ids"
    raise RequestError(Problem(f"its categories differ from those of {train.json} ({text})", str(val.json), "categories"))


def rasterise(annotations: Iterable[Annotation], size: tuple[int, int], background: Background, overlap: Overlap) -> NDArray[np.uint8]:
    """The label map, uint8 (H, W). Later paint covers earlier: `area` paints the largest first."""
    from pycocotools import mask as coco_mask

    height, width = size
    painted = []
    for annotation in annotations:
        encoded = _encoded(annotation.segmentation, height, width)
        if overlap == "vertices":
            polygons = annotation.segmentation
            order = float(len(polygons[0])) if isinstance(polygons, list) else 0.0
        else:
            order = -(annotation.area if annotation.area is not None else float(coco_mask.area(encoded)))
        painted.append((order, annotation.class_index, encoded))
    labels = np.full((height, width), 0 if background == "class" else IGNORED, np.uint8)
    for _, class_index, encoded in sorted(painted, key=lambda each: each[0]):
        labels[coco_mask.decode(encoded) != 0] = class_index
    return labels


def debug_subset(split: Split, ratio: float, seed: int, at_least: int) -> Split:
    """A draw without replacement that holds every class of the split where its size allows; in the json's order."""
    count = min(len(split), max(at_least, round(ratio * len(split))))
    order = np.random.default_rng(seed).permutation(len(split)).tolist()
    present = {index: {annotation.class_index for annotation in split.annotations[index]} for index in order}
    images_with = Counter(class_index for classes in present.values() for class_index in classes)
    chosen: list[int] = []
    missing = set(images_with)
    while missing and len(chosen) < count:
        rarest = min(missing, key=lambda each: (images_with[each], each))
        having = [index for index in order if rarest in present[index]]
        chosen.append(max(having, key=lambda index: len(present[index] & missing)))
        missing -= present[chosen[-1]]
    taken = set(chosen)
    chosen += [index for index in order if index not in taken][: count - len(chosen)]
    return split.select(sorted(chosen))


def _read_json(path: Path, root: Path) -> tuple[bytes, dict[str, Any]]:
    if not root.is_dir():
        raise RequestError(
            Problem(
                f"there is no folder {str(root)!r}", key="data.root", fix="set data.root or SEGTUI_DATA to the folder of the json files"
            )
        )
    try:
        content = path.read_bytes()
        data = json.loads(content)
    except FileNotFoundError:
        jsons = sorted(each.name for each in root.glob("*.json"))
        raise RequestError(Problem("does not exist", file=str(path), fix=f"the folder has: {', '.join(jsons) or 'no json file'}")) from None
    except json.JSONDecodeError as error:
        raise RequestError(Problem(f"is not json: {error.msg}", file=str(path), line=error.lineno)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(Problem(f"cannot be read as json: {error}", file=str(path))) from None
    if not isinstance(data, dict):
        raise RequestError(Problem("is not a COCO json: its top level is no object", file=str(path)))
    return content, data


def _table_list(data: dict[str, Any], key: str, problems: list[str]) -> list[dict[str, Any]]:
    value = data.get(key)
    if value is None:
        problems.append(f"has no {key!r} list")
    elif not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        problems.append(f"{key!r} is not a list of objects")
    elif not value and key != "annotations":
        problems.append(f"its {key!r} list is empty")
    else:
        return value
    return []


def _classes(categories: list[dict[str, Any]], background: Background, problems: list[str]) -> dict[int, int]:
    """Category id -> class index: ascending ids, after Background where that is a class."""
    for position, category in enumerate(categories):
        if not _is_whole(category.get("id")) or not isinstance(category.get("name"), str) or not category["name"].strip():
            problems.append(f"category number {position} needs a whole-number 'id' and a 'name'")
    if problems:
        return {}
    problems += [f"category id {each} occurs {n} times" for each, n in Counter(each["id"] for each in categories).items() if n > 1]
    names = Counter(each["name"] for each in categories)
    problems += [f"category name {each!r} occurs {n} times" for each, n in names.items() if n > 1]
    if background == "class" and "Background" in names:
        problems.append("has a category named 'Background', which is class 0 already; rename it or set data.background = \"ignore\"")
    first = 1 if background == "class" else 0
    if len(categories) + first > MOST_CLASSES:
        problems.append(f"has {len(categories)} categories; masks of 8 bits hold {MOST_CLASSES - first}")
    return {identity: index for index, identity in enumerate(sorted(each["id"] for each in categories), start=first)}


def _rows(images: list[dict[str, Any]], problems: list[str]) -> dict[Any, int]:
    rows: dict[Any, int] = {}
    for row, image in enumerate(images):
        identity, name = image.get("id"), image.get("file_name")
        where = f"image {identity!r}" if identity is not None else f"image number {row}"
        if not (_is_whole(identity) or isinstance(identity, str)):
            problems.append(f"{where} needs an 'id', a number or text")
            continue
        if not isinstance(name, str) or not name:
            problems.append(f"{where} has no 'file_name'")
        if not _has_size(image):
            problems.append(
                f"{where} needs 'height' and 'width' in pixels (2^28 in all), not {image.get('height')!r} and {image.get('width')!r}"
            )
        if identity in rows:
            problems.append(f"image id {identity!r} occurs more than once")
        rows[identity] = row
    return rows


def _has_size(image: dict[str, Any]) -> bool:
    fits = all(_is_whole(image.get(side)) and 0 < image[side] <= MOST_PIXELS for side in ("height", "width"))
    return fits and bool(image["height"] * image["width"] <= MOST_IN_IMAGE)


def _segmentation(value: Any, image: dict[str, Any]) -> tuple[Any, str]:
    """(segmentation, what is wrong with it). Polygons of fewer than three points paint nothing and are left out."""
    if isinstance(value, list):
        for polygon in value:
            if not isinstance(polygon, list) or len(polygon) % 2 or not all(_is_number(number) for number in polygon):
                return None, "has a polygon that is not a list of x, y pairs"
            if any(abs(number) > FAR_OUTSIDE * max(image["height"], image["width"]) for number in polygon):
                return None, "has a polygon with a point far outside its image"
        return [polygon for polygon in value if len(polygon) >= 6], ""
    if not isinstance(value, dict):
        return None, "has no 'segmentation' (a list of polygons, or an RLE with 'size' and 'counts')"
    size, counts = value.get("size"), value.get("counts")
    if size != [image["height"], image["width"]]:
        return None, f"has an RLE of size {size}, but its image is [{image['height']}, {image['width']}]"
    if isinstance(counts, list):
        if not all(_is_whole(count) and count >= 0 for count in counts) or sum(counts) != size[0] * size[1]:
            return None, f"has an RLE whose counts do not add up to its {size[0] * size[1]} pixels"
        return value, ""
    if not isinstance(counts, str) or not counts.isascii():
        return None, "has an RLE without 'counts' (a list of numbers, or COCO's compressed text)"
    if _pixels_of(counts) != size[0] * size[1]:
        return None, f"has an RLE whose counts do not add up to its {size[0] * size[1]} pixels"
    return value, ""


def _pixels_of(counts: str) -> int:
    """The sum of COCO's compressed counts, or -1 where the text is none (`rleFrString` of the COCO API in C).

    Six bits a character: five of the value and one that says that more follow. From the fourth on, a count is the
    difference to the one before the last.
    """
    codes = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        return -1
    ends = np.flatnonzero(codes & 0x20 == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    place = np.arange(codes.size) - np.repeat(starts, ends - starts + 1)
    if place.max() > 11:
        return -1
    lengths = np.add.reduceat((codes & 0x1F) << (5 * place), starts)
    lengths -= np.where(codes[ends] & 0x10, np.int64(1) << (5 * (place[ends] + 1)), 0)
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return -1 if lengths.min() < 0 else int(lengths.sum())


def _encoded(segmentation: Any, height: int, width: int) -> Any:
    """As pycocotools' `COCO.annToRLE`."""
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return segmentation


def image_problem(path: str, size: list[int]) -> str:
    """Why the file is no whole image of (height, width) as the json says; empty where it is."""
    try:
        found = displayed_size(path)
    except ImageError as error:
        return str(error)
    if list(found) == size:
        return ""
    turned = "; it is turned by its EXIF orientation, the json seems made without it" if list(found[::-1]) == size else ""
    return f"{path} is {found[0]}x{found[1]} (height x width) but the json says {size[0]}x{size[1]}{turned}"


def _refuse(path: Path, problems: list[str]) -> None:
    if problems:
        more = [f"and {len(problems) - MOST_SHOWN} more"] if len(problems) > MOST_SHOWN else []
        raise RequestError([Problem(problem, file=str(path)) for problem in problems[:MOST_SHOWN] + more])


def _area(annotation: dict[str, Any]) -> float | None:
    area = annotation.get("area")
    return float(area) if isinstance(area, (int, float)) and _is_number(area) else None


def _get(table: dict[Any, int], key: Any) -> int | None:
    return table.get(key) if isinstance(key, (int, str)) and not isinstance(key, bool) else None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9
