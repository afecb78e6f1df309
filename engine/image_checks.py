"""Each image file looked at once: kept beside the masks, it is looked at again only where its time or length has changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path

import msgspec
from PIL import Image

from engine import atomic
from engine.coco import Split, image_problem
from engine.images import ImageError, displayed_size, read_rgb

FORMAT = 1
THREADS = 8


class ImageFacts(msgspec.Struct, frozen=True, array_like=True):
    """A file that is an image. `modified` is in nanoseconds, `size` is (height, width) as shown, `digest` of its bytes.

    `look` is what it looks like in 64 bits, where it was decoded.
    """

    modified: int
    length: int
    size: tuple[int, int]
    digest: bytes
    look: int | None = None


class _Kept(msgspec.Struct):
    format: int
    images: dict[str, ImageFacts]


class ImageCache:
    """The facts of the images below one folder, by file name. A damaged cache, or one of another format, is an empty one."""

    def __init__(self, caches: Path, root: Path) -> None:
        self._file = caches / f"images-{hashlib.sha256(str(root).encode()).hexdigest()[:20]}.msgpack"
        self.images: dict[str, ImageFacts] = {}
        self._changed = False
        try:
            kept = msgspec.msgpack.decode(self._file.read_bytes(), type=_Kept)
        except (OSError, ValueError, RecursionError):
            return
        if kept.format == FORMAT:
            self.images = kept.images

    def save(self) -> None:
        """Raises OSError."""
        if self._changed:
            atomic.write(self._file, msgspec.msgpack.encode(_Kept(FORMAT, self.images)))

    def look(self, split: Split, progress: Callable[[int, int], None], *, decode: bool) -> list[str]:
        """What is wrong with the split's images, one sentence for each that is; the others' facts are in `images` then.

        `decode` reads every pixel, else only the header and the end are looked at. Costs 10 us for a known image.
        """
        problems = []
        with ThreadPoolExecutor(THREADS) as pool:
            found = pool.map(partial(self._facts, decode=decode), split.file_names, split.paths(), split.sizes.tolist())
            for done, (name, facts) in enumerate(zip(split.file_names, found, strict=True), start=1):
                if isinstance(facts, str):
                    problems.append(facts)
                    self._changed |= self.images.pop(name, None) is not None
                elif facts is not self.images.get(name):
                    self.images[name] = facts
                    self._changed = True
                progress(done, len(split))
        return problems

    def _facts(self, name: str, path: str, size: Sequence[int], *, decode: bool) -> ImageFacts | str:
        known = self.images.get(name)
        try:
            status = os.stat(path)  # noqa: PTH116  thousands of them
            if known is None or (known.modified, known.length) != (status.st_mtime_ns, status.st_size) or (decode and known.look is None):
                known = _look_at(path, status, decode=decode)
        except ImageError as error:
            return str(error)
        except (OSError, ValueError):
            known = None
        if known is not None and known.size == tuple(size):
            return known
        return image_problem(path, list(size)) or f"{path} changed while it was looked at"


def _look_at(path: str, status: os.stat_result, *, decode: bool) -> ImageFacts:
    """Raises ImageError or OSError."""
    look = None
    size = displayed_size(path)
    if decode:
        pixels = read_rgb(path)
        size, look = (pixels.shape[0], pixels.shape[1]), _difference_hash(Image.fromarray(pixels))
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16)).digest()
    return ImageFacts(status.st_mtime_ns, status.st_size, size, digest, look)


def _difference_hash(image: Image.Image) -> int:
    """64 bits: whether each pixel of the picture in 9x8 greys is brighter than its right neighbour."""
    grey = list(image.convert("L").resize((9, 8), Image.Resampling.LANCZOS).tobytes())
    rows = (grey[start : start + 9] for start in range(0, 72, 9))
    bits = [left > right for row in rows for left, right in pairwise(row)]
    return int("".join(map(str, map(int, bits))), 2)
