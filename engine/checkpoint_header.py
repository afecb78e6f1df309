"""What a checkpoint says about itself, read from its first bytes: a listing opens no weights and imports no torch."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import msgspec

METADATA_KEY = "segtui"
FORMAT = 1
LARGEST_HEADER = 100_000_000  # as the safetensors library's own limit


class CheckpointHeader(msgspec.Struct, frozen=True, kw_only=True):
    """`preset` is the resolved preset; `mean` and `std` are per channel of images in 0..1; `IoU` goes by class.

    `checksum` is the CRC-32 of the description without it and of the tensors; None in files of before it was kept.
    """

    format: int = FORMAT
    segtui: str
    kind: str
    preset: dict[str, Any]
    classes: list[str]
    mean: list[float]
    std: list[float]
    epoch: int
    mIoU: float | None
    IoU: list[float | None]
    checksum: int | None = None

    def to_json(self) -> str:
        return msgspec.json.encode(self, order="deterministic").decode()


class HeaderError(Exception):
    """A file that is no whole checkpoint of this program; the message says why, without the file's name."""


def read_header(path: Path) -> CheckpointHeader:
    """Raises HeaderError, also where the file is shorter than its header says (a torn copy)."""
    try:
        with path.open("rb") as file:
            prefix = file.read(8)
            if len(prefix) < 8:
                raise HeaderError("is empty or cut off")
            length = struct.unpack("<Q", prefix)[0]
            if length > LARGEST_HEADER:
                raise HeaderError("is no safetensors file")
            table = json.loads(file.read(length))
            size = file.seek(0, 2)
    except OSError as error:
        raise HeaderError(f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise HeaderError("is no safetensors file, or is cut off") from None
    if not isinstance(table, dict):
        raise HeaderError("is no safetensors file")
    metadata = table.pop("__metadata__", None)
    try:
        end = max((int(entry["data_offsets"][1]) for entry in table.values()), default=0)
        content = metadata[METADATA_KEY]
        content = content.encode()
    except (KeyError, TypeError, IndexError, ValueError, AttributeError):
        raise HeaderError("was not written by segtui") from None
    if size < 8 + length + end:
        raise HeaderError(f"is cut off: {size} bytes of {8 + length + end}")
    try:
        header = msgspec.json.decode(content, type=CheckpointHeader)
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"has a description that cannot be read: {error}") from None
    if not _names_a_model(header.preset):
        raise HeaderError("has a description that names no model")
    if header.format > FORMAT:
        raise HeaderError(f"is of a newer segtui ({header.segtui})")
    return header


def _names_a_model(preset: dict[str, Any]) -> bool:
    model = preset.get("model")
    named = isinstance(model, dict) and all(isinstance(model.get(key), str) for key in ("type", "encoder_name"))
    return named and isinstance(preset.get("data", {}), dict)
