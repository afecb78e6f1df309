"""Label maps, drawn once and kept run-length-coded on disk: decoding one takes 0.1 ms, drawing it 7 ms and more."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from engine.coco import Overlap, Split, rasterise
from engine.errors import Problem, RequestError
from engine.processes import START_METHOD, start_loader_worker

FORMAT = 1


class MaskCache:
    """The label maps of a split. Opened anew in each process, so that loader workers share the pages and not copies."""

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


def mask_cache(split: Split, overlap: Overlap, folder: Path, workers: int, progress: Callable[[int, int], None]) -> MaskCache:
    """The cache of a split below `folder`, made where it is missing.

    Its name holds a digest of the json, so that a changed json makes a new one. It is drawn beside and renamed, so
    that several runs at once end with one whole cache. `progress(done, total)` is called while it is made.
    """
    name = hashlib.sha256(f"{FORMAT} {split.digest} {split.background} {overlap}".encode()).hexdigest()[:20]
    final = folder / f"masks-{name}"
    if final.exists():
        return MaskCache(final)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            Problem(f"cannot be written: {error.strerror}", file=str(folder.parent), fix="name another folder with --runs")
        ) from None
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=f".masks-{name}."))
    try:
        _draw(split, overlap, temporary, workers, progress)
        temporary.rename(final)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return MaskCache(final)


class _Drawn(Dataset[Any]):
    def __init__(self, split: Split, overlap: Overlap) -> None:
        self.split, self.overlap = split, overlap

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
        height, width = self.split.sizes[index].tolist()
        return run_lengths(rasterise(self.split.annotations[index], (height, width), self.split.background, self.overlap))


def run_lengths(labels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """The values and lengths of the runs of a label map, row by row."""
    flat = labels.reshape(-1)
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    return flat[starts], np.diff(starts, append=flat.size).astype(np.uint32)


def _draw(split: Split, overlap: Overlap, folder: Path, workers: int, progress: Callable[[int, int], None]) -> None:
    few = len(split) <= 64  # starting processes would take longer than drawing
    workers = 0 if few else workers
    loader = DataLoader(
        _Drawn(split, overlap),
        batch_size=None,
        num_workers=workers,
        generator=torch.Generator(),
        collate_fn=_as_is,
        worker_init_fn=start_loader_worker,
        multiprocessing_context=START_METHOD if workers else None,
    )
    values, lengths, pixels = [], [], np.zeros(256, np.int64)
    for done, (value, length) in enumerate(loader, start=1):
        values.append(value)
        lengths.append(length)
        pixels += np.bincount(value, weights=length, minlength=256).astype(np.int64)
        progress(done, len(split))
    np.save(folder / "offsets.npy", np.cumsum([0, *(len(each) for each in values)], dtype=np.int64))
    np.save(folder / "values.npy", np.concatenate(values))
    np.save(folder / "lengths.npy", np.concatenate(lengths))
    np.save(folder / "sizes.npy", split.sizes)
    np.save(folder / "pixels.npy", pixels)
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _as_is(item: Any) -> Any:
    return item
