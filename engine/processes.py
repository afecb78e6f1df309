"""How the training process starts its data-loader workers, what they do with signals, and what both do with memory."""

from __future__ import annotations

import ctypes
import platform
import signal
import sys

import cv2

# A spawned process hands "spawn" on to its children, and each of them would import torch again: 6 s before the first image.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"


def start_loader_worker(_: int) -> None:
    """A signal to the whole group must not end the workers before the trainer has saved."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    keep_memory()


def keep_memory() -> None:
    """What this process frees stays with it, for the next image or the next step. Only with glibc.

    Its malloc otherwise gives large blocks back at once, and the system finds and clears the same gigabytes of pages in every
    step: a third of a step on a CPU. The names are those of malloc.h.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)
    mallopt(M_TOP_PAD, 1 << 26)
