"""Real runs through the real command line, for the tests that train."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Dropout draws from torch's generator, the moving average and the schedule have state: all of it must survive a resume.
TINY = """
[model]
type = "FPN"
encoder_name = "resnet18"
encoder_weights = "none"
decoder_segmentation_channels = 32

[data]
root = "{root}"
batch_size = 4
workers = 2

[augment]
train = [
  {{ type = "HorizontalFlip", p = 0.5 }},
  {{ type = "RandomRotate90", p = 0.5 }},
  {{ type = "OneOf", p = 0.5, transforms = [{{ type = "RandomBrightnessContrast", p = 1.0 }}, {{ type = "GaussNoise", p = 1.0 }}] }},
]

[[loss]]
type = "CrossEntropyLoss"
class_weights = "auto"

[[loss]]
type = "DiceLoss"
weight = 0.5

[optimizer]
type = "AdamW"
lr = 2e-3

[scheduler]
type = "CosineAnnealingLR"
interval = "step"
T_max = "auto"

[train]
epochs = 5
save_interval = 2
ema_decay = 0.9
warmup_steps = 4
clip_norm = 1.0
"""


def write_preset(folder: Path, root: Path) -> Path:
    path = folder / "tiny.toml"
    path.write_text(TINY.format(root=root))
    return path


@dataclass
class Command:
    """A command with `--json` as a process; the lines of its output as they come."""

    process: subprocess.Popen[bytes]
    lines: list[dict[str, Any]] = field(default_factory=list)

    def read(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told = json.loads(line)
            self.lines.append(told)
            yield told

    def until(self, found: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        for told in self.read():
            if found(told):
                return told
        raise AssertionError(f"ended without it: {self.stderr()}\n{self.lines[-3:]}")

    def finish(self, timeout_s: float = 120) -> int:
        for _ in self.read():
            pass
        return self.process.wait(timeout_s)

    def stderr(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()


class Headless(Command):
    """`segtui --headless PRESET`; its lines are the run's events."""

    @classmethod
    def start(cls, *arguments: str | Path, **environment: str) -> Headless:
        command = [sys.executable, "-m", "tui.cli", "--headless", "--json", *map(str, arguments)]
        return cls(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | environment))

    @property
    def events(self) -> list[dict[str, Any]]:
        return self.lines

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_bytes())  # type: ignore[no-any-return]


def wait_for(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    os.kill(pid, number)
