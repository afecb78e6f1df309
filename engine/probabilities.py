"""Probabilities in files: `.npy` (N, C, H, W) with a json beside it that says which images and classes they are of.

Files are read and written piece by piece, never mapped: a mapped file counts as this process's memory, page by page.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.errors import Problem, RequestError

TOLERANCE = 0.01
"""Of a pixel's sum. Twenty classes in float16 are off by 0.002."""
FORMAT = 1


class Sidecar(msgspec.Struct, kw_only=True):
    """FILE.npy.json. `size` is (height, width), `images` are file names in the array's order."""

    format: int = FORMAT
    classes: list[str]
    images: list[str]
    size: tuple[int, int]
    members: list[str]
    weights: list[float] = []


def sidecar_path(array: Path) -> Path:
    return array.with_name(array.name + ".json")


class ProbabilityFile:
    """A `.npy` of probabilities, opened and its head checked; images are read one at a time.

    Raises RequestError where it is no float array (N, C, H, W), or shorter than it says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: BinaryIO = path.open("rb")
            shape, fortran, dtype = _read_head(self._file)
        except FileNotFoundError:
            raise RequestError(Problem("there is no such file", file=str(path))) from None
        except (OSError, ValueError) as error:
            raise RequestError(Problem(f"is no .npy file: {str(error).splitlines()[0]}", file=str(path))) from None
        if len(shape) != 4 or dtype.kind != "f" or min(shape) < 1:
            wanted = "probabilities are floating-point numbers (N, C, H, W)"
            raise RequestError(Problem(f"holds {dtype} {shape}; {wanted}", file=str(path)))
        if fortran:
            raise RequestError(Problem("is in Fortran order", file=str(path), fix="save it as np.save(file, np.ascontiguousarray(array))"))
        self.shape: tuple[int, int, int, int] = shape
        self._dtype = dtype
        self._start = self._file.tell()
        whole = self._start + math.prod(shape) * dtype.itemsize
        if path.stat().st_size < whole:
            raise RequestError(Problem(f"is cut off: {path.stat().st_size} bytes of {whole}", file=str(path)))
        self.sidecar = _read_sidecar(path, self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """float32 (C, H, W)."""
        count = math.prod(self.shape[1:])
        size = count * self._dtype.itemsize
        content = os.pread(self._file.fileno(), size, self._start + index * size)
        return np.frombuffer(content, self._dtype, count).astype(np.float32).reshape(self.shape[1:])

    def check(self, names: Sequence[str], classes: Sequence[str], progress: Callable[[int, int], None]) -> tuple[list[int], str]:
        """Look at every number. Returns where each of `classes` lies in the file, and a warning where there is no sidecar.

        Raises RequestError where the images or classes differ, or a pixel holds no probabilities.
        """
        file = str(self.path)
        if len(self) != len(names):
            raise RequestError(Problem(f"holds {len(self)} images, but the split has {len(names)}", file=file))
        order, warning = list(range(len(classes))), ""
        if self.sidecar is None:
            warning = f"{file} has no {sidecar_path(self.path).name}: its images and classes are taken to be in the order of the data"
            if self.shape[1] != len(classes):
                raise RequestError(Problem(f"holds {self.shape[1]} classes, but the checkpoint has {len(classes)}", file=file))
        else:
            order = class_order(self.sidecar.classes, classes, file)
            differs = next((row for row, (own, name) in enumerate(zip(self.sidecar.images, names, strict=True)) if own != name), None)
            if differs is not None:
                same = "the same images in another order" if sorted(self.sidecar.images) == sorted(names) else "other images"
                text = f"is of {same}: image {differs} is {self.sidecar.images[differs]!r} there and {names[differs]!r} here"
                raise RequestError(Problem(text, file=file))
        for index in range(len(self)):
            if problem := _not_probabilities(self[index]):
                raise RequestError(Problem(f"image {index} ({names[index]}): {problem}", file=file))
            progress(index + 1, len(self))
        return order, warning


class ProbabilityWriter:
    """Writes float16 (N, C, H, W) image by image, in order, as a `.npy` file."""

    def __init__(self, path: Path, shape: tuple[int, int, int, int]) -> None:
        self.path, self.shape, self.written = path, shape, 0
        self._file = path.open("wb")
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": np.lib.format.dtype_to_descr(np.dtype("<f2")), "fortran_order": False, "shape": shape}
        )

    def write(self, probabilities: NDArray[np.float32]) -> None:
        """(n, C, H, W)."""
        assert probabilities.shape[1:] == self.shape[1:]
        self._file.write(np.ascontiguousarray(probabilities, np.dtype("<f2")).tobytes())
        self.written += len(probabilities)

    def close(self) -> None:
        assert self.written == self.shape[0]
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def sidecar_text(sidecar: Sidecar) -> bytes:
    """A sidecar's text."""
    return msgspec.json.format(msgspec.json.encode(sidecar), indent=2)


def class_order(own: Sequence[str], wanted: Sequence[str], file: str) -> list[int]:
    """Where each wanted class lies among a member's own. Raises RequestError where they are not the same by name."""
    if sorted(own) == sorted(wanted):
        return [list(own).index(name) for name in wanted]
    lacks = [name for name in wanted if name not in own]
    besides = [name for name in own if name not in wanted]
    details = [f"it lacks {', '.join(lacks)}" if lacks else "", f"it has besides {', '.join(besides)}" if besides else ""]
    text = f"its classes differ from those of the first checkpoint: {'; '.join(filter(None, details)) or 'a name occurs twice'}"
    raise RequestError(Problem(text, file=file))


def _not_probabilities(values: NDArray[np.float32]) -> str:
    """What is wrong with (C, H, W), or nothing."""
    with np.errstate(invalid="ignore"):  # of infinities of both signs
        sums = values.sum(axis=0)
    if not np.isfinite(sums).all():  # the sum has a NaN wherever a class has one
        row, column = np.argwhere(~np.isfinite(sums))[0]
        return f"a probability at row {row}, column {column} is not a finite number"
    if values.min() < -TOLERANCE:
        return f"a probability is negative ({values.min():g}); are these logits? Save their softmax over the classes"
    off = np.abs(sums - 1) > TOLERANCE
    if off.any():
        row, column = np.argwhere(off)[0]
        return f"the classes at row {row}, column {column} sum to {sums[row, column]:g}, not to 1"
    return ""


def _read_head(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        return read(file)
    except Exception as error:  # noqa: BLE001  numpy's own reader lets through whatever Python's parser raises
        raise ValueError(f"its head is damaged ({type(error).__name__})") from None


def _read_sidecar(path: Path, shape: tuple[int, int, int, int]) -> Sidecar | None:
    file = sidecar_path(path)
    try:
        sidecar = msgspec.json.decode(file.read_bytes(), type=Sidecar)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(Problem(f"does not describe {path.name}: {error}", file=str(file))) from None
    described = (len(sidecar.images), len(sidecar.classes), *sidecar.size)
    if described != shape:
        raise RequestError(Problem(f"describes an array {described}, but {path.name} is {shape}", file=str(file)))
    return sidecar
