"""Decoded images kept on disk: reading one back is a copy of its pixels, a tenth of what decoding costs."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine import atomic
from engine.coco import Split
from engine.errors import Problem, RequestError
from engine.images import ImageError, read_rgb

FORMAT = 1
READERS = 8
"""Threads: OpenCV decodes without Python's lock."""


class DecodedImages:
    """The images of a split, one after the other in one file. Opened anew in each process, so that loader workers share its pages."""

    def __init__(self, file: Path, sizes: NDArray[np.int32]) -> None:
        self.file, self.sizes = file, sizes
        self._starts = _starts(sizes)
        self._pixels: NDArray[np.uint8] = np.memmap(file, np.uint8, "r", shape=(int(self._starts[-1]),))

    def __reduce__(self) -> tuple[type[DecodedImages], tuple[Path, NDArray[np.int32]]]:
        return DecodedImages, (self.file, self.sizes)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """uint8 (H, W, 3), RGB: a copy, which may be written to."""
        pixels = self._pixels[self._starts[index] : self._starts[index + 1]]
        return np.array(pixels).reshape(*self.sizes[index].tolist(), 3)


def decoded_images(split: Split, folder: Path, progress: Callable[[int, int], None]) -> DecodedImages:
    """The images of a split decoded below `folder`, now where that was not done before.

    The file's name holds the json's path, and a digest of the json and of its images' sizes and times: where one has changed the
    file is made anew and the old one goes. Raises RequestError where the disk has no room for it, or an image cannot be decoded.
    """
    of_json = hashlib.sha256(str(split.json.absolute()).encode()).hexdigest()[:12]
    file = folder / f"decoded-{of_json}-{_digest(split)}.rgb"
    needed = int(_starts(split.sizes)[-1])
    if not file.exists() or file.stat().st_size != needed:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob(f"decoded-{of_json}-*"):
                old.unlink()
            free = shutil.disk_usage(folder).free
            if needed > free:
                raise _no_room(split, folder, f"needs {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} are free")
            with atomic.replacing(file) as temporary:
                os.posix_fallocate(temporary.fileno(), 0, needed)
                _decode(split, temporary.fileno(), progress)
        except OSError as error:
            raise _no_room(split, folder, f"cannot be written: {error.strerror}") from None
    return DecodedImages(file, split.sizes)


def _decode(split: Split, file: int, progress: Callable[[int, int], None]) -> None:
    def decode(path: str, start: int) -> None:
        pixels = memoryview(read_rgb(path).tobytes())
        while pixels:
            written = os.pwrite(file, pixels, start)
            pixels, start = pixels[written:], start + written

    pool = ThreadPoolExecutor(READERS)
    try:
        for done, _ in enumerate(pool.map(decode, split.paths(), _starts(split.sizes).tolist()), start=1):
            progress(done, len(split))
    except ImageError as error:
        raise RequestError(Problem(str(error), fix="put the file right, or take it out of the json")) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _starts(sizes: NDArray[np.int32]) -> NDArray[np.int64]:
    """Where each image begins, in bytes; then the end of the last."""
    return np.concatenate(([0], np.cumsum(sizes.astype(np.int64).prod(axis=1) * 3)))


def _digest(split: Split) -> str:
    found = hashlib.sha256(f"{FORMAT} {split.digest}".encode())
    for path in split.paths():
        status = Path(path).stat()
        found.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    return found.hexdigest()[:20]


def _no_room(split: Split, folder: Path, text: str) -> RequestError:
    fix = "free some space, name another folder with --runs, or set data.keep_decoded = false"
    return RequestError(Problem(f"{text} (the decoded images of {split.json.name})", file=str(folder), key="data.keep_decoded", fix=fix))
