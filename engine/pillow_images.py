"""Reading an image file with Pillow alone: whatever OpenCV does not read as a person sees it. No OpenCV here: the terminal reads too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError


class ImageError(Exception):
    """An image that is missing, truncated or no image. The message names the file."""


def read_with_pillow(path: Path | str) -> NDArray[np.uint8]:
    """RGB, upright, 8 bits, transparency over white: uint8 (H, W, 3).

    Raises ImageError, and UnidentifiedImageError for what Pillow does not know, which may still be an image.
    """
    try:
        with Image.open(path) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
    except UnidentifiedImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{path} is too large to be read safely") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"{path} is damaged or cut off: {error}") from None
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image).astype(np.float64)
        is_16_bit = image.mode.startswith("I;16") or grey.max(initial=0) > 255
        grey = np.clip(grey / 257 if is_16_bit else grey, 0, 255).round().astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))
