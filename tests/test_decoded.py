"""Decoded images on disk: the same pixels as in the files, made anew where the files have changed, or refused."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from engine import preset
from engine.coco import Split, read_split
from engine.dataset import SegmentationData, TrainingBatches, loader
from engine.decoded import DecodedImages, decoded_images
from engine.errors import RequestError
from engine.events import Toggles
from engine.images import read_rgb
from engine.prepare import prepare
from tests.conftest import write_shapes
from tests.training import write_preset


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Eight pictures, of two sizes."""
    found = read_split(write_shapes(tmp_path / "shapes"), "train.json", "class")
    sizes = found.sizes.copy()
    for index, path in enumerate(found.paths()[:3]):
        cv2.imwrite(path, cv2.imread(path)[:40, :48])
        sizes[index] = (40, 48)
    return replace(found, sizes=sizes)


def never(done: int, total: int) -> None:
    raise AssertionError("decoded again")


def quiet(*_: object) -> None:
    pass


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_pixels_are_those_of_the_files(split: Split, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    decoded = decoded_images(split, tmp_path / "caches", lambda *progress: told.append(progress))
    assert told == [(done, 8) for done in range(1, 9)]
    copy: DecodedImages = pickle.loads(pickle.dumps(decoded))
    for index, path in enumerate(split.paths()):
        for found in (decoded[index], copy[index]):
            np.testing.assert_array_equal(found, read_rgb(path))
            found[:] = 0  # the caller's own: augmentation may write into it
        np.testing.assert_array_equal(decoded[index], read_rgb(path))
    again = decoded_images(split, tmp_path / "caches", never)
    np.testing.assert_array_equal(again[7], read_rgb(split.paths()[7]))


def test_workers_read_them(split: Split, tmp_path: Path) -> None:
    same = split.select(range(3, 8))
    plain = SegmentationData(same, None, None)
    fast = SegmentationData(same, None, None, decoded_images(same, tmp_path / "caches", quiet))
    batches = TrainingBatches(len(same), 2, seed=1)
    for expected, found in zip(
        loader(plain, batches, 0, torch.device("cpu")), loader(fast, batches, 2, torch.device("cpu"), passing=True), strict=True
    ):
        assert torch.equal(found.images, expected.images)
        assert found.indices.tolist() == expected.indices.tolist()


def test_changed_files_are_decoded_anew_and_take_the_place_of_the_old(split: Split, tmp_path: Path) -> None:
    caches = tmp_path / "caches"
    decoded_images(split, caches, quiet)
    (before,) = kept(caches)
    path = Path(split.paths()[0])
    changed = 255 - cv2.imread(str(path))
    cv2.imwrite(str(path), changed)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    np.testing.assert_array_equal(decoded_images(split, caches, quiet)[0], changed[..., ::-1])
    (after,) = kept(caches)
    assert after != before
    with (caches / after).open("r+b") as file:
        file.truncate(100)
    np.testing.assert_array_equal(decoded_images(split, caches, quiet)[0], changed[..., ::-1])


def test_no_room_and_broken_images_are_refused_and_leave_nothing(split: Split, tmp_path: Path) -> None:
    caches = tmp_path / "caches"
    huge = replace(split, sizes=np.full((8, 2), 1 << 20, np.int32))
    with pytest.raises(RequestError, match=r"data\.keep_decoded: needs 24576\.0 GiB, and .* are free \(.* images of train\.json\)"):
        decoded_images(huge, caches, quiet)
    broken = Path(split.paths()[5])
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(RequestError, match=broken.name):
        decoded_images(split, caches, quiet)
    assert kept(caches) == []


def test_a_preset_asks_for_them(tmp_path: Path) -> None:
    table = preset.load(write_preset(tmp_path, write_shapes(tmp_path / "shapes")), ["data.keep_decoded=true"])
    setup = prepare(table, Toggles(), tmp_path / "caches", quiet)
    assert setup.train.decoded is not None
    assert setup.val.decoded is not None
    rehearsal = prepare(table, Toggles(debug=True), tmp_path / "caches", quiet)
    assert rehearsal.train.decoded is None  # its few images would take the place of all
