"""Label maps, drawn once and kept run-length-coded on disk: drawing one takes 7 ms and more."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.coco import Annotation, Background, Overlap, Split, rasterise
from engine.errors import Problem, RequestError
from engine.mask_cache import MaskCache
from engine.processes import START_METHOD, start_loader_worker

FORMAT = 1
Runs = tuple[NDArray[np.uint8], NDArray[np.uint32]]


def mask_cache(split: Split, overlap: Overlap, folder: Path, workers: int, progress: Callable[[int, int], None]) -> MaskCache:
    """The cache of a split below `folder`, made where it is missing.

    Its name holds a digest of the json, so that a changed json makes a new one. It is drawn beside and renamed, so
    that several runs at once end with one whole cache. `progress(done, total)` is called while it is made.
    """
    name = hashlib.sha256(f"{FORMAT} {split.digest} {split.background} {overlap}".encode()).hexdigest()[:20]
    final = folder / f"masks-{name}"
    if kept := _kept(final, split):
        return kept
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder, prefix=f".masks-{name}."))
    except OSError as error:
        raise _cannot_be_written(folder, error) from None
    try:
        _draw(split, overlap, temporary, workers, progress)
        temporary.rename(final)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise _cannot_be_written(folder, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return MaskCache(final)


def _cannot_be_written(folder: Path, error: OSError) -> RequestError:
    fix = "free some space there, or name another folder with --runs"
    return RequestError(Problem(f"cannot be written: {error.strerror or error}", file=str(folder.parent), fix=fix))


def _kept(folder: Path, split: Split) -> MaskCache | None:
    """None where there is none, or only a damaged one, which is then taken away."""
    try:
        kept = MaskCache(folder)
        if kept.is_of(split.sizes, len(split.classes)):
            return kept
    except (FileNotFoundError, NotADirectoryError):
        if not folder.is_dir():
            return None
    except ValueError:
        pass
    except OSError as error:  # perhaps whole: not ours to take away
        raise RequestError(Problem(f"cannot be read: {error.strerror}", file=str(folder), fix="delete it: it is drawn again")) from None
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise _cannot_be_written(folder.parent, error) from None
    return None


def run_lengths(labels: NDArray[np.uint8]) -> Runs:
    """The values and lengths of the runs of a label map, row by row."""
    flat = labels.reshape(-1)
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    return flat[starts], np.diff(starts, append=flat.size).astype(np.uint32)


def _draw(split: Split, overlap: Overlap, folder: Path, workers: int, progress: Callable[[int, int], None]) -> None:
    values, lengths, pixels = [], [], np.zeros(256, np.int64)
    with closing(_drawn(split, overlap, workers)) as drawn:
        for done, (value, length) in enumerate(drawn, start=1):
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


def _drawn(split: Split, overlap: Overlap, workers: int) -> Generator[Runs]:
    """The label maps' run lengths, in order. Threads would take turns: drawing is Python and C that holds its lock."""
    draw = partial(_draw_one, background=split.background, overlap=overlap)
    sizes = split.sizes.tolist()
    if workers == 0 or len(split) <= 64:  # starting processes would take longer than drawing
        yield from map(draw, split.annotations, sizes)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(START_METHOD), _start_drawing)
    try:
        yield from pool.map(draw, split.annotations, sizes, chunksize=8)
    finally:
        pool.shutdown(cancel_futures=True)


def _draw_one(annotations: tuple[Annotation, ...], size: tuple[int, int], background: Background, overlap: Overlap) -> Runs:
    return run_lengths(rasterise(annotations, size, background, overlap))


def _start_drawing() -> None:
    start_loader_worker(0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's process otherwise waits for work for ever where its parent was killed."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
