"""Where a working process writes what it and its libraries print."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path


def detach_streams() -> int:
    """No standard input; output into a nameless file until there is a log. Returns that file's descriptor."""
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    with tempfile.TemporaryFile() as file:
        output = os.dup(file.fileno())
    os.dup2(output, 1)
    os.dup2(output, 2)
    return output


def log_to(path: Path, early_output: int) -> None:
    """From now on into `path`, after what it has and what was written so far."""
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)  # for the user alone: libraries write here what they like
    os.lseek(early_output, 0, os.SEEK_SET)
    while block := os.read(early_output, 1 << 16):
        os.write(log, block)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.close(early_output)
