"""Label maps kept run-length-coded on disk, read back: decoding one takes 0.1 ms. No torch here: the terminal reads them too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class MaskCache:
    """The label maps of a split. Opened anew in each process, so that loader workers share the pages and not copies.

    Raises OSError or ValueError where a file of it is missing or is no array.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.values: NDArray[np.uint8] = np.load(folder / "values.npy", mmap_mode="r")
        self.lengths: NDArray[np.uint32] = np.load(folder / "lengths.npy", mmap_mode="r")
        self.offsets: NDArray[np.int64] = np.load(folder / "offsets.npy", mmap_mode="r")
        self.sizes: NDArray[np.int32] = np.load(folder / "sizes.npy", mmap_mode="r")
        self.pixels: NDArray[np.int64] = np.load(folder / "pixels.npy")
        """int64 (256,): how many pixels of the whole split have each label; 255 is the ignored one."""

    def __reduce__(self) -> tuple[type[MaskCache], tuple[Path]]:
        return MaskCache, (self.folder,)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """uint8 (H, W)."""
        runs = slice(self.offsets[index], self.offsets[index + 1])
        return np.repeat(self.values[runs], self.lengths[runs]).reshape(tuple(self.sizes[index]))
