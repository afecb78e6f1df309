"""How the training process starts its data-loader workers, and what they do with signals."""

from __future__ import annotations

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
