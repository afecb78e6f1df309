"""Label maps against pycocotools, and the order in which batches come."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import pickle
import time
import types
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from engine.augment import Augmentation
from engine.coco import IGNORED, Annotation, Background, Overlap, Split, debug_subset, rasterise, read_split
from engine.dataset import Batch, SegmentationData, TrainingBatches, ValidationBatches, loader
from engine.mask_cache import MaskCache
from engine.masks import mask_cache, run_lengths
from engine.sample import ensure_sample
from engine.schema import Component

BACKGROUNDS: tuple[Background, ...] = ("class", "ignore")
OVERLAPS: tuple[Overlap, ...] = ("area", "vertices")
CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools with NumPy 2


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


def reference_maps(data: dict[str, Any], background: Background, overlap: Overlap) -> list[NDArray[np.uint8]]:
    """Every annotation by `COCO.annToMask`, painted in the order that the preset's documentation states."""
    coco = COCO()
    coco.dataset = data
    coco.createIndex()
    first = 1 if background == "class" else 0
    class_of = {identity: first + rank for rank, identity in enumerate(sorted(coco.cats))}
    maps = []
    for image in data["images"]:
        annotations = [each for each in data.get("annotations", []) if each["image_id"] == image["id"]]
        if overlap == "vertices":
            order = [len(each["segmentation"][0]) if isinstance(each["segmentation"], list) else 0 for each in annotations]
        else:
            order = [-each.get("area", float(coco.annToMask(each).sum())) for each in annotations]
        labels = np.full((image["height"], image["width"]), 0 if background == "class" else IGNORED, np.uint8)
        for position in sorted(range(len(annotations)), key=lambda position: (order[position], position)):
            labels[coco.annToMask(annotations[position]) == 1] = class_of[annotations[position]["category_id"]]
        maps.append(labels)
    return maps


def drawn(split: Split, index: int, overlap: Overlap) -> NDArray[np.uint8]:
    height, width = split.sizes[index].tolist()
    return rasterise(split.annotations[index], (height, width), split.background, overlap)


def real_data() -> Path:
    camvid = Path(os.environ.get("SEGTUI_CAMVID", Path(__file__).parents[1] / "../shared/data/camvid"))
    return camvid if (camvid / "val.json").is_file() else ensure_sample()


@pytest.mark.parametrize(("background", "overlap"), [("class", "vertices"), ("ignore", "area")])
def test_every_map_of_a_real_split_equals_pycocotools(tmp_path: Path, background: Background, overlap: Overlap) -> None:
    root = real_data()
    split = read_split(root, "val.json", background)
    cache = mask_cache(split, overlap, tmp_path, 0, quiet)
    reference = reference_maps(json.loads((root / "val.json").read_bytes()), background, overlap)
    assert len(reference) == len(split) == len(cache) > 0
    for index, expected in enumerate(reference):
        np.testing.assert_array_equal(drawn(split, index, overlap), expected, err_msg=split.file_names[index])
        np.testing.assert_array_equal(cache[index], expected, err_msg=split.file_names[index])
    np.testing.assert_array_equal(cache.pixels, sum(np.bincount(each.ravel(), minlength=256) for each in reference))


@st.composite
def segmentations(draw: st.DrawFn, height: int, width: int) -> Any:
    kind = draw(st.sampled_from(["polygons", "counts", "text"]))
    if kind == "polygons":
        # Corners may lie outside the image, and polygons may have no area.
        number = st.floats(-3, max(height, width) + 3, allow_nan=False, width=32) | st.integers(0, 10)
        polygon = st.integers(3, 6).flatmap(lambda corners: st.lists(number, min_size=2 * corners, max_size=2 * corners))
        return draw(st.lists(polygon, min_size=1, max_size=3))
    mask = np.random.default_rng(draw(st.integers(0, 999))).random((height, width)) < draw(st.sampled_from([0.0, 0.1, 0.6, 1.0]))
    if kind == "text":
        return {"size": [height, width], "counts": coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()}
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat, prepend=False))  # the first run is of zeros, maybe none
    return {"size": [height, width], "counts": np.diff(changes, prepend=0, append=flat.size).tolist()}


@st.composite
def coco_jsons(draw: st.DrawFn) -> dict[str, Any]:
    """Ids of categories in any order, of images numbers or texts; areas that tie, lie or lack."""
    category_ids = draw(st.lists(st.integers(0, 900), min_size=1, max_size=4, unique=True))
    image_ids = draw(st.lists(st.integers(0, 99) | st.text(min_size=1, max_size=3), min_size=1, max_size=3, unique=True))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, identity in enumerate(image_ids):
        height, width = draw(st.integers(1, 14)), draw(st.integers(1, 14))
        images.append({"id": identity, "file_name": f"batch_0{number}/{number}.jpg", "height": height, "width": width})
        for _ in range(draw(st.integers(0, 5))):
            annotation = {"id": len(annotations) + 1, "image_id": identity, "category_id": draw(st.sampled_from(category_ids))}
            annotation["segmentation"] = draw(segmentations(height, width))
            area = draw(st.none() | st.sampled_from([1, 20, 20.5]))
            annotations.append(annotation | ({"area": area} if area is not None else {}))
    categories = [{"id": identity, "name": f"name of {identity}"} for identity in category_ids]
    return {"images": images, "annotations": draw(st.permutations(annotations)), "categories": categories}


@given(data=coco_jsons(), background=st.sampled_from(BACKGROUNDS), overlap=st.sampled_from(OVERLAPS))
@settings(deadline=None, max_examples=120)
def test_every_form_of_annotation_is_drawn_as_pycocotools_draws_it(data: dict[str, Any], background: Background, overlap: Overlap) -> None:
    with TemporaryDirectory() as folder:
        (Path(folder) / "made.json").write_text(json.dumps(data))
        split = read_split(Path(folder), "made.json", background)
    names = [f"name of {each}" for each in sorted(each["id"] for each in data["categories"])]
    assert list(split.classes) == (["Background", *names] if background == "class" else names)
    assert list(split.file_names) == [image["file_name"] for image in data["images"]]
    for index, expected in enumerate(reference_maps(data, background, overlap)):
        np.testing.assert_array_equal(drawn(split, index, overlap), expected)


def test_classes_go_by_ascending_category_id(tmp_path: Path) -> None:
    half = [[0, 0, 2, 0, 2, 4, 0, 4]]
    annotations = [
        {"id": n, "image_id": "a", "category_id": c, "segmentation": s}
        for n, (c, s) in enumerate([(300, half), (7, [[2, 0, 4, 0, 4, 2, 2, 2]])])
    ]
    categories = [{"id": 90, "name": "ninety"}, {"id": 7, "name": "seven"}, {"id": 300, "name": "three hundred"}]
    images = [{"id": "a", "file_name": "sub/folder/a.png", "height": 4, "width": 4}]
    (tmp_path / "x.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    as_class, ignored = (read_split(tmp_path, "x.json", background) for background in BACKGROUNDS)
    assert as_class.classes == ("Background", "seven", "ninety", "three hundred")
    assert ignored.classes == ("seven", "ninety", "three hundred")
    assert as_class.paths() == [str(tmp_path / "sub/folder/a.png")]
    assert drawn(as_class, 0, "area").tolist() == [[3, 3, 1, 1]] * 2 + [[3, 3, 0, 0]] * 2
    assert drawn(ignored, 0, "area").tolist() == [[2, 2, 0, 0]] * 2 + [[2, 2, 255, 255]] * 2


@given(flat=st.lists(st.tuples(st.integers(0, 255), st.integers(1, 9)), min_size=1), rows=st.integers(1, 4))
def test_run_lengths_round_trip(flat: list[tuple[int, int]], rows: int) -> None:
    row = np.repeat(*np.array(flat).T).astype(np.uint8)
    labels = np.stack([np.roll(row, shift) for shift in range(rows)])
    values, lengths = run_lengths(labels)
    assert values.dtype == np.uint8
    assert lengths.dtype == np.uint32
    assert (values[1:] != values[:-1]).all()
    np.testing.assert_array_equal(np.repeat(values, lengths).reshape(labels.shape), labels)


def test_a_changed_json_or_order_gives_a_new_cache(shapes: Path, tmp_path: Path) -> None:
    caches = tmp_path / "caches"

    def folder_of(background: Background = "class", overlap: Overlap = "area") -> Path:
        return mask_cache(read_split(shapes, "val.json", background), overlap, caches, 0, quiet).folder

    first = folder_of()
    made = first.stat().st_mtime_ns
    assert (folder_of(), first.stat().st_mtime_ns) == (first, made)
    assert len({first, folder_of("ignore"), folder_of(overlap="vertices")}) == 3
    content = json.loads((shapes / "val.json").read_bytes())
    content["annotations"][0]["category_id"] = 3 - content["annotations"][0]["category_id"]
    (shapes / "val.json").write_text(json.dumps(content))
    split = read_split(shapes, "val.json", "class")
    changed = mask_cache(split, "area", caches, 0, quiet)
    assert changed.folder != first
    np.testing.assert_array_equal(changed[0], drawn(split, 0, "area"))
    assert split.select([0, 1]).digest != split.select([1, 0]).digest != split.digest


def _make_cache(split: Split, folder: Path, both_have_drawn: Any) -> None:
    mask_cache(split, "area", folder, 0, lambda done, total: both_have_drawn.wait(60) if done == total else None)


def test_two_processes_that_make_one_cache_at_once_end_with_one(shapes: Path, tmp_path: Path) -> None:
    split = read_split(shapes, "train.json", "class")
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(2)
    processes = [fork.Process(target=_make_cache, args=(split, tmp_path / "caches", barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    assert [process.exitcode for process in processes] == [0, 0]
    (only,) = (tmp_path / "caches").iterdir()
    cache = MaskCache(only)
    for index in range(len(split)):
        np.testing.assert_array_equal(cache[index], drawn(split, index, "area"))


def test_a_cache_travels_as_its_path(shapes: Path, tmp_path: Path) -> None:
    split = read_split(shapes, "train.json", "class")
    cache = mask_cache(split, "area", tmp_path, 0, quiet)
    pickled = pickle.dumps(cache)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    for index in range(len(split)):
        np.testing.assert_array_equal(again[index], cache[index])


def split_with(present: list[set[int]]) -> Split:
    annotations = tuple(tuple(Annotation(each, [[0, 0, 1, 0, 1, 1]], None) for each in classes) for classes in present)
    names = tuple(f"{number}.png" for number in range(len(present)))
    sizes = np.full((len(present), 2), 4, np.int32)
    return Split(Path("x.json"), Path(), "digest", ("a", "b", "c", "d", "e"), "ignore", names, sizes, annotations)


def classes_in(split: Split) -> set[int]:
    return {each.class_index for annotations in split.annotations for each in annotations}


PRESENT = st.lists(st.sets(st.integers(0, 4), max_size=3), min_size=1, max_size=9)


@given(present=PRESENT, ratio=st.floats(0.01, 1), seed=st.integers(0, 2**32 - 1), at_least=st.integers(1, 12))
@settings(deadline=None)
def test_a_debug_subset_is_a_draw_that_holds_every_class(present: list[set[int]], ratio: float, seed: int, at_least: int) -> None:
    split = split_with(present)
    subset = debug_subset(split, ratio, seed, at_least)
    assert len(subset) == min(len(split), max(at_least, round(ratio * len(split))))
    rows = [split.file_names.index(name) for name in subset.file_names]
    assert rows == sorted(set(rows))
    assert [subset.annotations[position] for position in range(len(rows))] == [split.annotations[row] for row in rows]
    again = debug_subset(split, ratio, seed, at_least)
    assert (again.file_names, again.digest) == (subset.file_names, subset.digest)
    assert classes_in(subset) == classes_in(split) or len(subset) < len(classes_in(split))


@pytest.mark.parametrize(("present", "places"), [([{0, 1, 2, 3}, {0, 1}, {2, 3}, {1, 2}, {3, 0}], 1), ([{0, 1, 2}, {3}, {0}, {1}, {2}], 2)])
def test_a_debug_subset_takes_images_of_many_classes_where_places_are_few(present: list[set[int]], places: int) -> None:
    for seed in range(12):
        assert classes_in(debug_subset(split_with(present), 0.01, seed, places)) == {0, 1, 2, 3}


def test_debug_subsets_of_other_seeds_differ() -> None:
    split = split_with([{number % 3} for number in range(40)])
    assert len({debug_subset(split, 0.1, seed, 1).file_names for seed in range(10)}) > 5


@given(images=st.integers(1, 50), size=st.integers(1, 9), seed=st.integers(0, 2**32 - 1), epoch=st.integers(1, 99), first=st.integers(0, 9))
def test_training_batches(images: int, size: int, seed: int, epoch: int, first: int) -> None:
    batches = TrainingBatches(images, size, seed)
    batches.epoch = epoch
    whole = list(batches)
    keys = [key for batch in whole for key in batch]
    assert len(whole) == len(batches) == images // size
    assert all(len(batch) == size for batch in whole)
    assert len(set(keys)) == len(keys)
    assert all(key[0] == epoch and 0 <= key[1] < images for key in keys)
    assert list(batches) == whole
    batches.first = min(first, len(whole))
    assert list(batches) == whole[batches.first :]
    assert len(batches) == len(whole) - batches.first


def test_training_orders_differ_between_epochs_and_seeds_and_repeat() -> None:
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        batches = TrainingBatches(30, 5, seed)
        batches.epoch = epoch
        return tuple(index for batch in batches for _, index in batch)

    orders = [order(seed, epoch) for seed in range(5) for epoch in range(1, 6)]
    assert len(set(orders)) == 25
    assert all(sorted(each) == list(range(30)) for each in orders)
    assert orders == [order(seed, epoch) for seed in range(5) for epoch in range(1, 6)]


@given(sides=st.lists(st.sampled_from([(4, 4), (4, 6), (6, 4)]), min_size=1, max_size=30), size=st.integers(1, 7))
def test_validation_batches_hold_every_image_once_and_one_size_each(sides: list[tuple[int, int]], size: int) -> None:
    batches = ValidationBatches(np.array(sides, np.int32), size)
    assert len(list(batches)) == len(batches)
    assert Counter(index for batch in batches for _, index in batch) == Counter(range(len(sides)))
    assert all(1 <= len(batch) <= size and len({sides[index] for _, index in batch}) == 1 for batch in batches)


@pytest.fixture
def augmented(shapes: Path, tmp_path: Path) -> SegmentationData:
    split = read_split(shapes, "train.json", "class")
    transforms = [Component(type="RandomRotate90"), Component(type="GaussNoise", p=0.7), Component(type="RandomScale", p=0.5)]
    return SegmentationData(
        split, mask_cache(split, "area", tmp_path / "caches", 0, quiet), Augmentation(transforms, "class", (48, 56), "crop", 7)
    )


def as_bytes(batches: list[Batch]) -> list[tuple[bytes, bytes, list[int]]]:
    return [(batch.images.numpy().tobytes(), batch.labels.numpy().tobytes(), batch.indices.tolist()) for batch in batches]


def test_items_do_not_depend_on_what_reads_them(augmented: SegmentationData) -> None:
    """With and without loader workers, forwards and backwards, after any other item; and torch's generator stays as it was."""
    batches = TrainingBatches(len(augmented), 2, 3)
    state = torch.get_rng_state()
    alone: list[Batch] = list(loader(augmented, batches, 0, CPU))
    shared: list[Batch] = list(loader(augmented, batches, 2, CPU))
    assert torch.equal(torch.get_rng_state(), state)
    assert as_bytes(alone) == as_bytes(shared)
    assert alone[0].images.shape == (2, 48, 56, 3)
    assert sorted(index for batch in alone for index in batch.indices.tolist()) == list(range(8))

    keys = [(epoch, index) for epoch in (1, 2) for index in range(len(augmented))]
    forwards = {key: augmented[key] for key in keys}
    backwards = {key: augmented[key] for key in reversed(keys)}
    for key in keys:
        np.testing.assert_array_equal(forwards[key][0], backwards[key][0])
        np.testing.assert_array_equal(forwards[key][1], backwards[key][1])
    assert any(not np.array_equal(forwards[1, index][0], forwards[2, index][0]) for index in range(len(augmented)))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_passing_batch_is_whole_until_the_next(augmented: SegmentationData, workers: int) -> None:
    """Its memory is used again; the workers are far ahead by the time that it is looked at."""
    batches = TrainingBatches(len(augmented), 1, 3)
    passing = loader(augmented, batches, workers, CPU, passing=True)
    for batches.epoch in range(1, 5):
        kept = as_bytes(list(loader(augmented, batches, 0, CPU)))
        for batch, expected in zip(passing, kept, strict=True):
            time.sleep(0.02)
            assert as_bytes([batch]) == [expected]


def test_data_holds_arrays_and_no_object_per_image(augmented: SegmentationData, tmp_path: Path) -> None:
    """Loader workers are forks: each object that they touch is a page of memory that they copy."""

    def objects(images: int) -> int:
        split = read_split(real_data(), "val.json", "ignore").select(range(images))
        data = SegmentationData(split, mask_cache(split, "area", tmp_path / "caches", 0, quiet), None)
        seen: dict[int, Any] = {}
        waiting: list[Any] = [vars(data)]
        while waiting:
            each = waiting.pop()
            if id(each) not in seen and not isinstance(each, (type, types.ModuleType, types.FunctionType)):
                seen[id(each)] = each
                waiting += gc.get_referents(each)
        assert not any(isinstance(each, (Annotation, Split)) for each in seen.values())
        return len(seen)

    assert objects(12) <= objects(2) + 4
    assert augmented.path(3).endswith("images/train_3.png")
