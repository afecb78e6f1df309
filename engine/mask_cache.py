"""Label maps kept run-length-coded on disk, read back: decoding one takes 0.1 ms. No torch here: the terminal reads them too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class MaskCache:
    """The label maps of a split. Opened anew in each process, so that loader workers share the pages and not copies.

    Raises OSError or ValueError where a file of it is missing or is not the array that was written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.values: NDArray[np.uint8] = _array(folder / "values.npy", np.uint8)
        self.lengths: NDArray[np.uint32] = _array(folder / "lengths.npy", np.uint32)
        self.offsets: NDArray[np.int64] = _array(folder / "offsets.npy", np.int64)
        self.sizes: NDArray[np.int32] = _array(folder / "sizes.npy", np.int32)
        self.pixels: NDArray[np.int64] = _array(folder / "pixels.npy", np.int64)
        """int64 (256,): how many pixels of the whole split have each label; 255 is the ignored one."""

    def __reduce__(self) -> tuple[type[MaskCache], tuple[Path]]:
        return MaskCache, (self.folder,)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """uint8 (H, W). Raises ValueError where its runs are not as long as it is large."""
        runs, (height, width) = slice(self.offsets[index], self.offsets[index + 1]), self.sizes[index].tolist()
        lengths = self.lengths[runs]
        if lengths.sum(dtype=np.int64) != height * width:
            raise ValueError(f"label map {index} of {self.folder} is damaged")
        return np.repeat(self.values[runs], lengths).reshape(height, width)

    def is_of(self, sizes: NDArray[np.int32], classes: int) -> bool:
        """Whether it is whole, and holds label maps of these sizes, int32 (N, 2), with labels below `classes` or 255."""
        ends, pixels = self.offsets[1:], self.sizes.astype(np.int64)
        return (
            np.array_equal(self.sizes, sizes)
            and len(self.offsets) == len(sizes) + 1
            and len(self.values) == len(self.lengths) == int(self.offsets[-1])
            and self.offsets[0] == 0
            and bool((np.diff(self.offsets) > 0).all())
            and np.array_equal(np.cumsum(self.lengths, dtype=np.int64)[ends - 1], np.cumsum(pixels[:, 0] * pixels[:, 1]))
            and bool(((self.values < classes) | (self.values == 255)).all())
            and np.array_equal(self.pixels, np.bincount(self.values, weights=self.lengths, minlength=256).astype(np.int64))
        )


def _array(file: Path, kind: type[np.generic]) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(file, mmap_mode="r")
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  its head is read by Python's own parser, which raises whatever it likes
        raise ValueError(f"{file} is no array: {error}") from None
    if array.dtype != kind or array.ndim != (2 if file.stem == "sizes" else 1):
        raise ValueError(f"{file} holds {array.dtype} of {array.ndim} dimensions")
    return array
