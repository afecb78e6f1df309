"""What is predicted: a split of a data set, or any folder of images."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from engine.coco import Split, check_images, read_split
from engine.errors import Problem, RequestError
from engine.images import ImageError, displayed_size
from engine.sample import ensure_sample
from engine.schema import DataTable

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
MOST_SHOWN = 10
TaskProgress = Callable[[str, int, int], None]


def read_pictures(data: DataTable, split: str, images: Path | None, progress: TaskProgress) -> Split:
    """The images to predict, each found whole. Raises RequestError naming those that are not, or that share a name."""
    if images is not None:
        found = _read_folder(images, data, partial(progress, "read images"))
    else:
        found = read_named_split(data, split)
        check_images(found, partial(progress, f"check {split}"))
    if unwritable := [name for name in found.file_names if _not_in_a_row(name)]:
        text = f"{_not_in_a_row(unwritable[0])} in the file name {unwritable[0]!r}, which no row of a submission can hold"
        raise RequestError(Problem(text, file=str(found.json), fix="rename it"))
    twice = [name for name, times in Counter(found.file_names).items() if times > 1]
    if twice:
        text = f"has the file_name {twice[0]!r} more than once; a submission has one row for each"
        raise RequestError(Problem(text, file=str(found.json)))
    return found


def _not_in_a_row(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        return "there is something that is not UTF-8"
    return "there is a line break" if "\n" in name or "\r" in name else ""


def read_named_split(data: DataTable, split: str) -> Split:
    """`train`, `val`, `test` as the data table names them, or a json of another name in its folder."""
    root = ensure_sample() if data.root == "sample" else Path(data.root)
    if not root.is_dir():
        raise RequestError(Problem(f"there is no folder {str(root)!r}", key="--data", fix="name the data set's folder: --data ROOT"))
    name = {"train": data.train, "val": data.val, "test": data.test}.get(split, split)
    if not name.endswith(".json"):
        raise RequestError(Problem(f"there is no split {split!r}", key="--split", fix="write train, val, test, or a json's name"))
    return read_split(root, name, data.background, allow_outside=data.allow_outside)


def _read_folder(folder: Path, data: DataTable, progress: Callable[[int, int], None]) -> Split:
    """Every image below a folder, by name; hidden ones are left out."""
    if not folder.is_dir():
        raise RequestError(Problem("there is no such folder", file=str(folder), key="--images"))
    names = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not names:
        raise RequestError(Problem(f"holds no image ({', '.join(sorted(SUFFIXES))})", file=str(folder), key="--images"))
    sizes: list[tuple[int, int]] = []
    problems: list[str] = []
    with ThreadPoolExecutor(8) as pool:
        for done, found in enumerate(pool.map(_size_or_problem, [folder / name for name in names]), start=1):
            if isinstance(found, str):
                problems.append(found)
            else:
                sizes.append(found)
            progress(done, len(names))
    if problems:
        raise RequestError([Problem(problem) for problem in problems[:MOST_SHOWN]])
    return Split(
        json=folder,
        root=folder,
        digest=hashlib.sha256(repr((names, sizes)).encode()).hexdigest(),
        classes=(),
        background=data.background,
        file_names=tuple(names),
        sizes=np.array(sizes, np.int32).reshape(-1, 2),
        annotations=tuple(() for _ in names),
    )


def _size_or_problem(path: Path) -> tuple[int, int] | str:
    try:
        return displayed_size(path)
    except ImageError as error:
        return str(error)
