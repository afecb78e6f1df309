"""What a checkpoint says about itself, read from its first bytes: a listing opens no weights and imports no torch."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import msgspec

METADATA_KEY = "segtui"
FORMAT = 1
OFFSETS = b'"data_offsets":['
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


class _Head(msgspec.Struct):
    """Of safetensors' own header what is wanted here; the tensors are checked to be json and passed over."""

    metadata: dict[str, str] = msgspec.field(name="__metadata__")


_description_decoder = msgspec.json.Decoder(CheckpointHeader)
_head_decoder = msgspec.json.Decoder(_Head)


class HeaderError(Exception):
    """A file that is no whole checkpoint of this program; the message says why, without the file's name."""


def read_header(path: Path | str) -> CheckpointHeader:
    """Raises HeaderError, also where the file is shorter than its header says (a torn copy)."""
    try:
        with open(path, "rb", buffering=0) as file:
            prefix = file.read(8)
            if len(prefix) < 8:
                raise HeaderError("is empty or cut off")
            length = struct.unpack("<Q", prefix)[0]
            if length > LARGEST_HEADER:
                raise HeaderError("is no safetensors file")
            head = file.read(length)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise HeaderError(f"cannot be read: {error.strerror}") from None
    try:
        content = _head_decoder.decode(head).metadata[METADATA_KEY].encode()
        end = _end_of_tensors(head)
    except (msgspec.ValidationError, KeyError):  # json of another kind
        raise HeaderError("was not written by segtui" if head.startswith(b"{") else "is no safetensors file") from None
    except (ValueError, RecursionError):
        raise HeaderError("is no safetensors file, or is cut off") from None
    if size < 8 + length + end:
        raise HeaderError(f"is cut off: {size} bytes of {8 + length + end}")
    try:
        header = _description_decoder.decode(content)
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"has a description that cannot be read: {error}") from None
    if not _names_a_model(header.preset):
        raise HeaderError("has a description that names no model")
    if header.format > FORMAT:
        raise HeaderError(f"is of a newer segtui ({header.segtui})")
    return header


def _end_of_tensors(head: bytes) -> int:
    """Where the data ends. The library lists tensors in the order of their data, and to decode all of them is most of the work."""
    at = head.rfind(OFFSETS)
    return int(head[at:].split(b",", 1)[1].split(b"]", 1)[0]) if at >= 0 else 0


def _names_a_model(preset: dict[str, Any]) -> bool:
    model = preset.get("model")
    named = isinstance(model, dict) and isinstance(model.get("type"), str) and isinstance(model.get("encoder_name"), str)
    return named and isinstance(preset.get("data", {}), dict)
