"""What is predicted, found on disk: splits and folders; and masks as files that other programs read."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from engine.coco import IGNORED, Split
from engine.errors import RequestError
from engine.images import read_rgb
from engine.mask_files import blend, mask_names, overlay_name, write_mask, write_overlay
from engine.palette import BACKGROUND, class_colours
from engine.pictures import read_named_split, read_pictures
from engine.schema import DataTable
from tests.conftest import write_shapes

DATA = DataTable()


def quiet(task: str, done: int, total: int) -> None:
    assert task
    assert 0 < done <= total


def save(path: Path, size: tuple[int, int] = (4, 6), orientation: int | None = None) -> None:
    """An image of noise, stored as (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path, exif=exif)


def of_folder(folder: Path) -> Split:
    return read_pictures(DATA, "test", folder, quiet)


def write_json(root: Path, name: str, **table: Any) -> None:
    (root / name).write_text(json.dumps(table))


def entry(number: int, name: str, size: tuple[int, int] = (4, 6)) -> dict[str, Any]:
    return {"id": number, "file_name": name, "height": size[0], "width": size[1]}


def test_a_folder_is_read_to_its_depth_in_the_order_of_names(tmp_path: Path) -> None:
    sizes = {
        "10.jpg": (8, 5),
        "2.png": (3, 9),
        "a/b/c/deep.bmp": (2, 2),
        "a/é ü.JPEG": (7, 7),
        "b.tiff": (6, 4),
        "with space/x,y.webp": (5, 6),
        "Z.TIF": (1, 12),
    }
    for name, size in sizes.items():
        save(tmp_path / name, size)
    found = of_folder(tmp_path)
    assert list(found.file_names) == sorted(sizes)
    assert found.sizes.tolist() == [list(sizes[name]) for name in sorted(sizes)]
    for path, size in zip(found.paths(), found.sizes.tolist(), strict=True):
        assert list(read_rgb(path).shape[:2]) == size
    assert found.annotations == ((),) * len(sizes)
    assert found.classes == ()


def test_what_is_no_image_or_hidden_is_left_out(tmp_path: Path) -> None:
    for name in ("seen.png", "folder/seen.jpg", ".hidden.png", "._seen.png", ".cache/thumb.png", "folder/.thumbs/deep/small.jpg"):
        save(tmp_path / name)
    for name in ("notes.txt", "train.json", "seen.png.bak", "jpg"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "gone.jpg")
    assert of_folder(tmp_path).file_names == ("folder/seen.jpg", "seen.png")


def test_a_folder_below_a_hidden_one_is_read(tmp_path: Path) -> None:
    save(tmp_path / ".data" / "images" / "a.png")
    assert of_folder(tmp_path / ".data" / "images").file_names == ("a.png",)


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_those_of_upright_images(tmp_path: Path, kind: str, orientation: int) -> None:
    save(tmp_path / f"a.{kind}", (4, 6), orientation)
    assert of_folder(tmp_path).sizes.tolist() == [[6, 4] if orientation >= 5 else [4, 6]]
    assert read_rgb(tmp_path / f"a.{kind}").shape[:2] == tuple(of_folder(tmp_path).sizes[0])


@pytest.mark.parametrize("content", [[], ["notes.txt"], [".hidden.png"], ["empty/"]])
def test_a_folder_without_images_is_refused(tmp_path: Path, content: list[str]) -> None:
    for name in content:
        (tmp_path / name).mkdir() if name.endswith("/") else save(tmp_path / name) if name.endswith("png") else (tmp_path / name).touch()
    with pytest.raises(RequestError, match=r"holds no image \(.*\.jpg") as refused:
        of_folder(tmp_path)
    assert str(tmp_path) in str(refused.value)


@pytest.mark.parametrize("name", ["missing", "file.png"])
def test_what_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    save(tmp_path / "file.png")
    with pytest.raises(RequestError, match=f"{name}: --images: there is no such folder"):
        of_folder(tmp_path / name)


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
def test_damaged_images_are_named_and_no_others(tmp_path: Path, kind: str) -> None:
    for name in ("good", "torn", "text", "nothing"):
        save(tmp_path / "in" / f"{name}.{kind}", (64, 64))
    torn = tmp_path / "in" / f"torn.{kind}"
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    (tmp_path / "in" / f"text.{kind}").write_text("no image")
    (tmp_path / "in" / f"nothing.{kind}").write_bytes(b"")
    with pytest.raises(RequestError) as refused:
        of_folder(tmp_path / "in")
    told = [str(problem) for problem in refused.value.problems]
    assert len(told) == 3
    for name, problem in zip(("nothing", "text", "torn"), told, strict=True):
        assert f"{name}.{kind}" in problem


def test_ten_damaged_images_are_enough_to_be_told(tmp_path: Path) -> None:
    for number in range(25):
        (tmp_path / f"{number:02d}.png").write_text("no image")
    with pytest.raises(RequestError) as refused:
        of_folder(tmp_path)
    assert [f"{number:02d}.png" in str(problem) for number, problem in enumerate(refused.value.problems)] == [True] * 10


def test_a_folder_has_another_digest_once_it_changes(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    digests = [of_folder(tmp_path).digest, of_folder(tmp_path).digest]
    save(tmp_path / "b.png")
    digests.append(of_folder(tmp_path).digest)
    save(tmp_path / "b.png", (9, 9))
    digests.append(of_folder(tmp_path).digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


@pytest.mark.parametrize("name", ["line\nbreak.png", "return\r.png", "both\r\n.png"])
def test_names_with_line_breaks_are_refused_since_no_row_can_hold_them(tmp_path: Path, name: str) -> None:
    save(tmp_path / "in" / "good.png")
    save(tmp_path / "in" / name)
    with pytest.raises(RequestError, match="line break"):
        of_folder(tmp_path / "in")
    write_json(tmp_path / "in", "test.json", images=[entry(1, "good.png"), entry(2, name)])
    with pytest.raises(RequestError, match="line break"):
        read_pictures(DataTable(root=str(tmp_path / "in")), "test", None, quiet)


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take names in UTF-8 only")
def test_names_that_are_no_text_are_refused_before_anything_is_predicted(tmp_path: Path) -> None:
    save(tmp_path / "good.png")
    (tmp_path / "good.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/Stra\xdfe.png"))
    with pytest.raises(RequestError, match="UTF-8"):
        of_folder(tmp_path)


@pytest.mark.parametrize("name", ["nul\0.png", "half a character \ud83d.png", "long" * 99 + ".png"])
def test_names_that_no_file_has_are_refused_by_the_json_that_has_them(tmp_path: Path, name: str) -> None:
    write_json(tmp_path, "test.json", images=[entry(1, name)])
    with pytest.raises(RequestError, match=r"test\.json"):
        read_pictures(DataTable(root=str(tmp_path)), "test", None, quiet)


@pytest.mark.parametrize("background", ["class", "ignore"])
@pytest.mark.parametrize("table", [{}, {"annotations": []}, {"categories": []}, {"annotations": [], "categories": [], "info": {}}])
def test_a_test_split_may_be_a_list_of_images_and_no_more(tmp_path: Path, table: dict[str, Any], background: str) -> None:
    save(tmp_path / "b" / "2.png", (5, 7))
    save(tmp_path / "1.jpg", (8, 8))
    write_json(tmp_path, "test.json", images=[entry(7, "b/2.png", (5, 7)), entry(3, "1.jpg", (8, 8))], **table)
    found = read_pictures(DataTable.model_validate({"root": str(tmp_path), "background": background}), "test", None, quiet)
    assert found.file_names == ("b/2.png", "1.jpg")
    assert found.sizes.tolist() == [[5, 7], [8, 8]]
    assert found.annotations == ((), ())


def test_a_test_split_with_categories_alone_has_their_classes(tmp_path: Path) -> None:
    save(tmp_path / "1.png")
    write_json(tmp_path, "test.json", images=[entry(1, "1.png")], categories=[{"id": 9, "name": "b"}, {"id": 4, "name": "a"}])
    found = read_pictures(DataTable(root=str(tmp_path)), "test", None, quiet)
    assert found.classes == ("Background", "a", "b")
    assert found.annotations == ((),)


def test_splits_go_by_the_names_that_the_data_table_gives_them(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "shapes", train=3, val=2)
    (root / "val.json").rename(root / "holdout.json")
    (root / "more").mkdir()
    (root / "more" / "some.json").write_bytes((root / "train.json").read_bytes())
    data = DataTable(root=str(root), val="holdout.json")
    assert len(read_named_split(data, "val")) == 2
    assert len(read_named_split(data, "train")) == 3
    assert len(read_named_split(data, "holdout.json")) == 2
    assert len(read_named_split(data, "more/some.json")) == 3


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ("valid", ["--split", "'valid'"]),
        ("test", ["test.json", "does not exist", "train.json", "val.json"]),
        ("x.json", ["x.json", "does not exist"]),
    ],
)
def test_a_split_that_is_not_there_is_named(shapes: Path, split: str, says: list[str]) -> None:
    with pytest.raises(RequestError) as refused:
        read_pictures(DataTable(root=str(shapes)), split, None, quiet)
    assert all(word in str(refused.value) for word in says), str(refused.value)


def test_images_of_a_split_are_found_whole_before_anything_is_predicted(shapes: Path) -> None:
    torn = shapes / "images" / "val_2.png"
    torn.write_bytes(torn.read_bytes()[:-30])
    (shapes / "images" / "val_3.png").unlink()
    save(shapes / "images" / "val_1.png", (64, 65))
    with pytest.raises(RequestError) as refused:
        read_pictures(DataTable(root=str(shapes)), "val", None, quiet)
    told = [str(problem) for problem in refused.value.problems]
    assert [name in problem for name, problem in zip(("val_1.png", "val_2.png", "val_3.png"), told, strict=True)] == [True] * 3


def test_two_images_of_one_name_are_refused_since_a_submission_has_one_row_for_each(tmp_path: Path) -> None:
    save(tmp_path / "1.png")
    write_json(tmp_path, "test.json", images=[entry(1, "1.png"), entry(2, "1.png")])
    with pytest.raises(RequestError, match=r"test\.json: has the file_name '1\.png' more than once"):
        read_pictures(DataTable(root=str(tmp_path)), "test", None, quiet)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a/x.jpg", "y.JPEG", "z"], ["a/x.png", "y.png", "z.png"]),
        (["a/x.jpg", "b/x.jpg"], ["a/x.png", "b/x.png"]),
        (["x.jpg", "x.png"], ["x.jpg.png", "x.png.png"]),
        (["x.jpg", "x.png", "y.tif"], ["x.jpg.png", "x.png.png", "y.tif.png"]),
        (["x.1.jpg", "x.2.jpg"], ["x.1.png", "x.2.png"]),
        (["/data/x.jpg"], ["data/x.png"]),
        (["../other/x.jpg"], ["other/x.png"]),
    ],
)
def test_masks_are_named_after_their_images(names: list[str], expected: list[str]) -> None:
    assert mask_names(names) == expected


@given(
    names=st.lists(
        st.tuples(
            st.lists(st.sampled_from(["a", "b", ".."]), max_size=3),
            st.text("xy.", min_size=1, max_size=3),
            st.sampled_from([".jpg", ".png"]),
        ).map(lambda parts: "/".join([*parts[0], f"n{parts[1]}{parts[2]}"])),
        min_size=1,
        max_size=6,
        unique=True,
    )
)
@settings(max_examples=300)
def test_no_mask_overwrites_another_or_leaves_its_folder(names: list[str]) -> None:
    """Each image's mask is a file of its own below the folder; overlays lie beside them."""
    masks = mask_names(names)
    files = masks + [overlay_name(name) for name in masks]
    assert len(set(files)) == 2 * len(names), masks
    assert all(name.endswith(".png") for name in masks)
    for name in files:
        assert not Path(name).is_absolute()
        assert ".." not in Path(name).parts


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 17, 21, 254])
def test_masks_are_indexed_pngs_of_class_ids_in_the_classes_colours(tmp_path: Path, count: int) -> None:
    """Pillow packs few colours into fewer bits: the ids must outlive that."""
    classes = ["Background", *(f"class {number}" for number in range(1, count))]
    labels = np.random.default_rng(count).integers(0, count, (37, 53), dtype=np.uint8)
    labels.flat[:count] = np.arange(count)
    path = tmp_path / "new" / "folder" / "mask.png"
    write_mask(path, labels, classes)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), labels)
        colours = np.array(class_colours(classes), np.uint8)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), colours[labels])
        palette = image.getpalette()
    assert palette is not None
    assert palette[: 3 * count] == colours.ravel().tolist()


@pytest.mark.parametrize("names", [["Background", "a", "b"], ["a", "b", "c"], [f"class {number}" for number in range(254)]])
def test_every_class_has_a_colour_of_its_own(names: list[str]) -> None:
    colours = class_colours(names)
    assert len(set(colours)) == len(names)
    assert (BACKGROUND in colours) == ("Background" in names)
    assert all(0 <= value <= 255 for colour in colours for value in colour)


def slow_blend(image: NDArray[np.uint8], labels: NDArray[np.uint8], classes: list[str]) -> NDArray[np.float64]:
    """Sixty parts colour, forty parts image; ignored pixels are the image."""
    colours = class_colours(classes)
    found = image.astype(float)
    for row, column in np.ndindex(labels.shape):
        if labels[row, column] != IGNORED:
            colour = colours[labels[row, column]]
            found[row, column] = [0.4 * own + 0.6 * over for own, over in zip(image[row, column].tolist(), colour, strict=True)]
    return found


def test_overlays_show_the_classes_colours_over_the_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    classes = ["Background", "a", "b"]
    image = np.kron(rng.integers(0, 256, (4, 5, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    labels = np.kron(rng.choice(np.array([0, 1, 2, IGNORED]), (4, 5)), np.ones((8, 8))).astype(np.uint8)
    expected = slow_blend(image, labels, classes)
    assert np.abs(blend(image, labels, classes) - expected).max() <= 1
    write_overlay(tmp_path / "new" / "x_overlay.jpg", image, labels, classes)
    with Image.open(tmp_path / "new" / "x_overlay.jpg") as stored:
        assert stored.format == "JPEG"
        assert np.abs(np.asarray(stored) - expected).mean() < 8  # what JPEG's halved colour loses at the edges of blocks


def test_masks_of_an_upright_image_have_its_size(tmp_path: Path) -> None:
    with TemporaryDirectory() as folder:
        save(Path(folder) / "turned.jpg", (4, 6), 6)
        found = of_folder(Path(folder))
        height, width = found.sizes[0].tolist()
        write_mask(tmp_path / mask_names(found.file_names)[0], np.ones((height, width), np.uint8), ["Background", "a"])
    with Image.open(tmp_path / "turned.png") as mask:
        assert mask.size == (4, 6)
