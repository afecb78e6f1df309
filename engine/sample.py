"""The built-in sample data set: littered ground, drawn once into the user's cache folder.

It makes every part of the program usable before there is any data: 96 images of 256x256 pixels with ten classes that differ
in shape, colour and texture, annotated with polygons and both run-length forms. Each is drawn from (split, number) alone, in
float64, whose last bit may differ between processors but is lost in rounding: the files depend on library versions only.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path

from engine.errors import Problem, RequestError

FORMAT = 1
IMAGES = {"train": 64, "val": 16, "test": 16}


def ensure_sample() -> Path:
    """The folder of the sample data set, drawn by the first call (seconds) and found by later ones (about a millisecond).

    It holds `train.json`, `val.json` and `test.json` in COCO form, each with annotations, and their images as
    `train/0001.jpg` and so on: RGB JPEG of 256x256 pixels. The folder is there whole or not at all.

    Raises RequestError where the cache folder cannot be written.
    """
    cache = user_cache_path("segtui")
    folder = cache / f"sample-{FORMAT}"
    if _is_whole(folder):
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _draw_into_place(folder)
    except OSError as error:
        message = f"the sample data set cannot be written to {cache} ({error.strerror or error})"
        fix = "set XDG_CACHE_HOME to a folder that can be written, or data.root to the folder of a data set of your own"
        raise RequestError(Problem(message, key="data.root", fix=fix)) from error
    return folder


def _is_whole(folder: Path) -> bool:
    """Cleaners of cache folders delete file by file, and a power cut leaves empty files: such a set is drawn again."""
    try:
        images = {split: sum(file.stat().st_size > 0 for file in os.scandir(folder / split)) for split in IMAGES}
        return images == IMAGES and all((folder / f"{split}.json").stat().st_size > 0 for split in IMAGES)
    except OSError:
        return False


def _draw_into_place(folder: Path) -> None:
    # Importing what draws takes far longer than finding a set that is already there.
    from engine.sample_drawing import draw_split

    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        whole = temporary / folder.name
        whole.mkdir()
        for split, count in IMAGES.items():
            draw_split(whole, split, count, seed=list(IMAGES).index(split))
        if not _is_whole(folder):
            with suppress(FileNotFoundError):
                folder.rename(temporary / "damaged")
        try:
            whole.rename(folder)
        except OSError:
            # Another process has put its copy there, which is byte-equal.
            if not _is_whole(folder):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
