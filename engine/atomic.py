"""Files that are whole or not there: written beside, flushed to disk, then renamed over the old one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file (its path is `.name`) that becomes `path` when the block ends well, and disappears when it does not.

    Raises OSError where the folder cannot be written or the disk is full; `path` is then what it was before.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # the user knows no temporary name
    temporary = Path(name)
    try:
        os.close(descriptor)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a write's error does not know its file
            error.filename = str(path)
        raise
    _flush_folder(path.parent)


def write(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content` (text as UTF-8), atomically."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _flush_folder(folder: Path) -> None:
    """A rename is on disk only once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
