"""Samples a second from file to batch: decoded, labelled, augmented; and what each stage of ours costs.

`python -m benchmarks.data_pipeline [--json]`
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.measure import Mark, Row, at_least, by_turns, show, spread
from benchmarks.training_parts import BaselineData, camvid, default_preset, drawn_stars, loaders_ended, split_of
from engine.augment import Augmentation
from engine.coco import Split
from engine.dataset import InTurn, SegmentationData, TrainingBatches, loader
from engine.decoded import decoded_images
from engine.images import read_rgb
from engine.masks import mask_cache
from engine.processes import start_loader_worker
from engine.schema import Preset
from engine.training_data import training_size

WORKERS = 2
SAMPLES = 48
OURS = 5 * SAMPLES
"""More of what is quick: a round must last longer than its start."""
BATCH = 8


def rows(name: str, root: Path, caches: Path) -> Iterator[Row]:
    table = default_preset(root, f"data.batch_size={BATCH}")
    split = split_of(table)
    data = ours(table, split, caches)
    kept = SegmentationData(split, data.masks, data.augmentation, decoded_images(split, caches, lambda *_: None))
    yield from throughput(name, table, data, kept)
    yield from stages(name, data)


def ours(table: Preset, split: Split, caches: Path) -> SegmentationData:
    masks = mask_cache(split, table.data.overlap, caches, 0, lambda *_: None)
    augmentation = Augmentation(table.augment.train, table.data.background, training_size(table, split), "crop", table.train.seed)
    return SegmentationData(split, masks, augmentation)


def throughput(name: str, table: Preset, data: SegmentationData, kept: SegmentationData) -> Iterator[Row]:
    """All with the same number of workers, which stay between epochs; `kept` is the same data with `data.keep_decoded`."""
    baseline = torch.utils.data.Subset(BaselineData(table, table.data.train, augmented=True), range(SAMPLES))
    reference_loader: DataLoader[Any] = DataLoader(
        baseline, batch_size=BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True, worker_init_fn=start_loader_worker
    )
    loaders = [loader(each, TrainingBatches(OURS, BATCH, 21), WORKERS, torch.device("cpu"), passing=True) for each in (data, kept)]
    reference, *taken = by_turns(*(partial(drain, each) for each in (reference_loader, *loaders)), rounds=5)
    before = SAMPLES / median(reference)
    for way, each in zip(("samples", "samples, data.keep_decoded"), taken, strict=True):
        after = OURS / median(each)
        per_s = f"{SAMPLES} samples {spread(reference)} s, {OURS} of ours {spread(each)} s; {WORKERS} workers each"
        yield Row(f"{name}: {way}", "1/s", before, after, after / before, at_least(10), per_s)


def drain(batches: DataLoader[Any]) -> None:
    for _ in batches:
        pass


def stages(name: str, data: SegmentationData) -> Iterator[Row]:
    """One process, one thread, milliseconds a sample. Whole samples and their decoding are timed by turns."""
    start_loader_worker(0)
    torch.set_num_threads(1)
    indices = range(min(SAMPLES, len(data)))
    contents = [np.frombuffer(Path(data.path(index)).read_bytes(), np.uint8) for index in indices]
    images = [read_rgb(data.path(index)) for index in indices]
    assert data.masks is not None
    assert data.augmentation is not None
    masks, augmentation = data.masks, data.augmentation
    labels = [masks[index] for index in indices]
    ways: dict[str, Callable[[int], object]] = {
        "decoding the JPEG": lambda index: cv2.imdecode(contents[index], cv2.IMREAD_COLOR),
        "a whole sample": lambda index: data[1, index],
        "reading as RGB, checked": lambda index: read_rgb(data.path(index)),
        "label map from the cache": lambda index: masks[index],
        "augmentation": lambda index: augmentation(images[index], labels[index], 1, index),
    }
    times = by_turns(*(partial(over, way, indices) for way in ways.values()), rounds=7)
    cost = {way: 1000 * median(each) / len(indices) for way, each in zip(ways, times, strict=True)}
    items = [data[1, index] for index in indices[:BATCH]]
    cost["its share of stacking a batch"] = 1000 * median(by_turns(partial(InTurn(), items), rounds=20)[0]) / BATCH
    decoding = cost["decoding the JPEG"]
    sample = cost.pop("a whole sample")
    limit = Mark("ratio", "<=", 2.2)
    yield Row(
        f"{name}: a sample against its decoding", "ms", decoding, sample, sample / decoding, limit, "the ratio is of costs: less is better"
    )
    for stage, milliseconds in cost.items():
        yield Row(f"{name}: {stage}", "ms", None, milliseconds)


def over(way: Callable[[int], object], indices: range) -> None:
    for index in indices:
        way(index)


def main() -> None:
    with loaders_ended():
        measure()


def measure() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = [*rows("camvid", camvid(), Path(folder) / "caches")]
        stars = drawn_stars(Path(folder) / "stars")
        found += rows("512x512, 8 polygons", stars, Path(folder) / "caches")
    show(found)


if __name__ == "__main__":
    main()
