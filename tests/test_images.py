"""Images against Pillow and against the pixels that were written; and damaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from engine.coco import check_images, read_split
from engine.errors import RequestError
from engine.images import ImageError, displayed_size, read_rgb

RNG = np.random.default_rng(1)
# Blocks of 8 pixels, as JPEG's: its loss stays small.
RGB = np.kron(RNG.integers(0, 256, (3, 5, 3)), np.ones((8, 8, 1))).astype(np.uint8)
DEEP = RNG.integers(0, 2**16, (9, 7, 3), dtype=np.uint16)
JPEG_LOSS = 12


def assert_reads(path: Path, expected: NDArray[Any], tolerance: float = 0) -> None:
    found = read_rgb(path)
    assert found.dtype == np.uint8
    assert found.shape == (*expected.shape[:2], 3)
    assert displayed_size(path) == found.shape[:2]
    difference = np.abs(found - (expected if expected.ndim == 3 else expected[..., None]).astype(float))
    assert difference.max() <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
def test_images_are_turned_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    path = tmp_path / f"image.{kind}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(path, exif=exif, **({"quality": 95, "subsampling": 0} if kind == "jpg" else {"lossless": True}))
    plain = Image.fromarray(RGB)
    plain.getexif()[0x0112] = orientation
    assert_reads(path, np.asarray(ImageOps.exif_transpose(plain)), JPEG_LOSS if kind == "jpg" else 0)


@pytest.mark.parametrize("kind", ["png", "tif", "bmp"])
@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P"])
def test_plain_and_palette_images(tmp_path: Path, mode: str, kind: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    image.save(tmp_path / f"image.{kind}")
    assert_reads(tmp_path / f"image.{kind}", np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["png", "tif", "webp"])
def test_transparency_is_over_white(tmp_path: Path, kind: str) -> None:
    alpha = RNG.integers(0, 256, RGB.shape[:2], dtype=np.uint8)
    alpha[:3], alpha[-3:] = 0, 255
    Image.fromarray(np.dstack([RGB, alpha])).save(tmp_path / f"image.{kind}", lossless=True)
    share = alpha[..., None] / 255
    assert_reads(tmp_path / f"image.{kind}", RGB * share + 255 * (1 - share), tolerance=3)


def test_grey_and_palette_transparency_is_over_white(tmp_path: Path) -> None:
    Image.merge("LA", [Image.new("L", (4, 3), 40), Image.new("L", (4, 3), 0)]).save(tmp_path / "la.png")
    assert_reads(tmp_path / "la.png", np.full((3, 4), 255))
    palette = Image.new("P", (4, 3), 1)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.save(tmp_path / "p.png", transparency=1)
    assert_reads(tmp_path / "p.png", np.full((3, 4), 255))
    Image.new("RGB", (4, 3), (1, 2, 3)).save(tmp_path / "key.png", transparency=(1, 2, 3))
    assert_reads(tmp_path / "key.png", np.full((3, 4), 255))


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_16_bits_become_8(tmp_path: Path, kind: str) -> None:
    cv2.imwrite(str(tmp_path / f"rgb.{kind}"), DEEP[..., ::-1])
    assert_reads(tmp_path / f"rgb.{kind}", DEEP / 257, tolerance=1)
    Image.fromarray(DEEP[..., 0]).save(tmp_path / f"grey.{kind}")
    assert_reads(tmp_path / f"grey.{kind}", DEEP[..., 0] / 257, tolerance=1)


@pytest.mark.parametrize("kind", ["jpg", "tif"])
def test_cmyk(tmp_path: Path, kind: str) -> None:
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / f"image.{kind}", quality=95)
    assert_reads(tmp_path / f"image.{kind}", RGB, tolerance=16)


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_truncated_images_are_errors_that_name_the_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"torn image.{kind}"
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    for length in [0, 1, 8, 30, *range(100, len(content) - 20, len(content) // 12)]:
        path.write_bytes(content[:length])
        for read in (read_rgb, displayed_size):
            with pytest.raises(ImageError, match=f"torn image.{kind}"):
                read(path)
    images = [{"id": 1, "file_name": path.name, "height": 64, "width": 64}]
    (tmp_path / "x.json").write_text(json.dumps({"images": images, "categories": [{"id": 1, "name": "thing"}]}))
    with pytest.raises(RequestError, match=f"torn image.{kind}"):
        check_images(read_split(tmp_path, "x.json", "class"))


def test_a_png_damaged_within_and_what_is_no_image_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "damaged.png"
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"damaged\.png"):
        read_rgb(path)
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    for name in ("text.jpg", "folder.png", "missing.tif"):
        for read in (read_rgb, displayed_size):
            with pytest.raises(ImageError, match=name):
                read(tmp_path / name)
