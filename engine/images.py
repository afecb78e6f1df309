"""Reading an image file as what a person sees: RGB, upright, 8 bits, transparency over white; or an error that names it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from engine.pillow_images import ImageError as ImageError
from engine.pillow_images import read_with_pillow

EXIF_ORIENTATION = 0x0112
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_END = b"IEND\xaeB`\x82"
PNG_GREY, PNG_RGB = 0, 2  # colour types without palette and alpha


def read_rgb(path: Path | str) -> NDArray[np.uint8]:
    """The image as uint8 (H, W, 3), RGB. Raises ImageError.

    OpenCV is fastest but returns a truncated file as a whole image with a grey half, and drops alpha: it reads the
    files that are known to be whole and opaque, Pillow all others.
    """
    content = _content(path)
    if _is_whole_opaque(content):
        return _read_with_opencv(path, content)
    return _read_with_pillow(path, content)


def displayed_size(path: Path | str) -> tuple[int, int]:
    """(height, width) as shown, after EXIF rotation, from the header alone. Raises ImageError.

    A JPEG or PNG whose end is missing is found here too, without decoding it.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
            kind = image.format
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        height, width = read_rgb(path).shape[:2]
        return height, width
    if kind == "TIFF":  # Pillow itself turns it, at a moment that depends on its version
        height, width = read_rgb(path).shape[:2]
        return height, width
    if kind in ("JPEG", "PNG") and not _has_end(path, kind):
        read_rgb(path)
    return (width, height) if turned else (height, width)


def _content(path: Path | str) -> bytes:
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist") from None
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:  # it has a NUL, or half a character
        raise ImageError(f"{str(path)!r} is no file's name") from None
    if not content:
        raise ImageError(f"{path} is empty")
    return content


def _is_whole_opaque(content: bytes) -> bool:
    if content.startswith(b"\xff\xd8\xff"):
        return content.endswith(b"\xff\xd9")
    if content.startswith(PNG_SIGNATURE):
        return content.endswith(PNG_END) and content[25] in (PNG_GREY, PNG_RGB) and b"tRNS" not in content[: content.find(b"IDAT")]
    return False


def _has_end(path: Path | str, kind: str) -> bool:
    ending = PNG_END if kind == "PNG" else b"\xff\xd9"
    with open(path, "rb") as file:
        file.seek(-min(len(ending), os.fstat(file.fileno()).st_size), os.SEEK_END)
        return file.read() == ending


def _read_with_pillow(path: Path | str, content: bytes) -> NDArray[np.uint8]:
    try:
        return read_with_pillow(path)
    except UnidentifiedImageError:
        return _read_with_opencv(path, content)


def _read_with_opencv(path: Path | str, content: bytes) -> NDArray[np.uint8]:
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        raise ImageError(f"{path} is too large to be read safely, or is damaged") from None
    if image is None:
        raise ImageError(f"{path} is not an image that can be read")
    return cast(NDArray[np.uint8], image)
