from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from engine.errors import RequestError
from engine.sample import ensure_sample

NAMES = ["General trash", "Paper", "Paper pack", "Metal", "Glass", "Plastic", "Styrofoam", "Plastic bag", "Battery", "Clothing"]
COUNTS = {"train": 64, "val": 16, "test": 16}
ENSURE = "from engine.sample import ensure_sample; print(ensure_sample())"


def ensure_in(cache: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        return ensure_sample()


def ensure_in_process(cache: Path, code: str = ENSURE) -> subprocess.Popen[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    root = Path(__file__).parents[1]
    return subprocess.Popen([sys.executable, "-c", code], cwd=root, env=environment, stdout=subprocess.PIPE, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_in(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", params=list(COUNTS))
def split(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def coco(sample: Path, split: str) -> COCO:
    return COCO(sample / f"{split}.json")


def test_holds_the_three_splits_and_nothing_else(sample: Path) -> None:
    images = {f"{split}/{number:04d}.jpg" for split, count in COUNTS.items() for number in range(1, count + 1)}
    assert set(contents(sample)) == images | {"train.json", "val.json", "test.json"}


def test_every_image_is_listed_and_readable(sample: Path, split: str, coco: COCO) -> None:
    assert len(coco.imgs) == COUNTS[split]
    for image in coco.imgs.values():
        pixels = cv2.imread(str(sample / image["file_name"]))
        assert pixels is not None
        assert pixels.shape == (image["height"], image["width"], 3) == (256, 256, 3)
        assert pixels.std() > 20


def test_categories_are_the_ten_in_order(coco: COCO) -> None:
    assert {number: category["name"] for number, category in coco.cats.items()} == dict(enumerate(NAMES, start=1))


def test_images_hold_three_to_eight_things_some_of_which_overlap(coco: COCO) -> None:
    overlapping = 0
    for things in coco.imgToAnns.values():
        assert 3 <= len(things) <= 8
        layers = np.sum([coco.annToMask(annotation) for annotation in things], axis=0, dtype=int)
        overlapping += layers.max() > 1
    assert overlapping > len(coco.imgs) / 2


def test_masks_have_the_stated_area_and_box(coco: COCO) -> None:
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert mask.shape == (256, 256)
        assert annotation["area"] == mask.sum() >= 150
        assert annotation["bbox"] == [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        assert annotation["iscrowd"] == 0


def test_largest_first_has_one_meaning_and_leaves_everything_in_sight(coco: COCO) -> None:
    for things in coco.imgToAnns.values():
        by_area = sorted(things, key=lambda annotation: -annotation["area"])
        assert len({annotation["area"] for annotation in by_area}) == len(by_area)
        painted = np.zeros((256, 256), int)
        for annotation in by_area:
            painted[coco.annToMask(annotation) == 1] = annotation["id"]
        for annotation in by_area:
            assert (painted == annotation["id"]).sum() > 0.3 * annotation["area"]


def test_every_form_of_annotation_occurs(coco: COCO) -> None:
    forms: Counter[str] = Counter()
    for segmentation in (annotation["segmentation"] for annotation in coco.anns.values()):
        if isinstance(segmentation, dict):
            forms[f"run lengths as {type(segmentation['counts']).__name__}"] += 1
        else:
            assert all(len(polygon) >= 6 and min(polygon) >= 0 and max(polygon) <= 256 for polygon in segmentation)
            forms["several polygons" if len(segmentation) > 1 else "one polygon"] += 1
    assert min(forms[form] for form in ("one polygon", "several polygons", "run lengths as str", "run lengths as list")) >= 2
    assert forms["one polygon"] > len(coco.anns) / 2


def test_every_class_occurs_and_the_rare_ones_are_rare(coco: COCO) -> None:
    counts = Counter(coco.cats[annotation["category_id"]]["name"] for annotation in coco.anns.values())
    assert set(counts) == set(NAMES)
    rare, common = {"Battery", "Clothing"}, {"General trash", "Paper", "Plastic"}
    assert min(counts[name] for name in rare) >= 2
    assert max(counts[name] for name in rare) * 2 <= min(counts[name] for name in common)


def test_a_later_call_finds_the_set_without_drawing(sample: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sample.rglob("*")}
    quick = f"{ENSURE}; import sys; print(sorted({{'numpy', 'cv2', 'pycocotools'}} & set(sys.modules)))"
    output, _ = ensure_in_process(sample.parents[1], quick).communicate()
    assert output.splitlines() == [str(sample), "[]"]
    assert {path: path.stat().st_mtime_ns for path in sample.rglob("*")} == before


@pytest.mark.slow
def test_two_processes_at_once_end_with_one_copy_equal_to_any_other(sample: Path, tmp_path: Path) -> None:
    (tmp_path / "segtui").mkdir()
    leftover = tmp_path / "segtui" / ".sample-1.killed" / "sample-1" / "train"
    leftover.mkdir(parents=True)
    (leftover / "0001.jpg").write_bytes(b"half an im")

    processes = [ensure_in_process(tmp_path) for _ in range(2)]
    said = [process.communicate()[0].strip() for process in processes]

    assert [process.returncode for process in processes] == [0, 0]
    assert said == [str(tmp_path / "segtui" / "sample-1")] * 2
    assert sorted(os.listdir(tmp_path / "segtui")) == [".sample-1.killed", "sample-1"]
    assert contents(Path(said[0])) == contents(sample)


@pytest.mark.slow
def test_a_damaged_set_is_drawn_again(sample: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "segtui" / "sample-1"
    damaged.mkdir(parents=True)
    for name, content in contents(sample).items():
        (damaged / name).parent.mkdir(exist_ok=True)
        (damaged / name).write_bytes(b"" if name == "val/0003.jpg" else content)

    assert ensure_in(tmp_path) == damaged
    assert contents(damaged) == contents(sample)
    assert os.listdir(tmp_path / "segtui") == ["sample-1"]


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    with pytest.raises(RequestError) as caught:
        ensure_in(file / "cache")
    (problem,) = caught.value.problems
    assert str(file / "cache" / "segtui") in problem.message
    assert "XDG_CACHE_HOME" in problem.fix
    assert "data.root" in problem.fix
