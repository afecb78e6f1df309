"""What the doctor is asked and what it answers, as plain data; and the doctor at work in a process of its own.

Its checks import OpenCV, and with `full` torch: a terminal process starts `Checkup` and reads its lines.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal

import msgspec

from engine.errors import RunError
from engine.events import Progress, Toggles

Level = Literal["error", "warning", "note"]


class Finding(msgspec.Struct, frozen=True):
    """One sentence with the file and the fix. An error is what a launch would refuse; `about` is its topic in a word or two."""

    level: Level
    about: str
    text: str


class Channels(msgspec.Struct, frozen=True):
    """What the network gets: mean and std of each channel of the normalised tensors, and their extremes."""

    mean: list[float]
    std: list[float]
    min: float
    max: float


class Report(msgspec.Struct, kw_only=True, tag_field="type", tag="report"):
    """What was found. Where a mistake makes a part unknown, it is None or empty, and an error says why.

    Dictionaries go by split ("train", "val", "test"), lists within them by class. A debug run's numbers are its subset's.
    """

    images: dict[str, int | None] = {}
    classes: list[str] = []
    pixels: dict[str, list[int]] = {}
    images_with: dict[str, list[int]] = {}
    unlabelled: dict[str, int] = {}
    """Pixels of no class (255)."""
    image_size: tuple[int, int] | None = None
    """(height, width) of a training image as the network sees it."""
    sizes: tuple[tuple[int, int], tuple[int, int]] | None = None
    """Smallest and largest (height, width) of the training files."""
    batch_size: int = 0
    steps_per_epoch: int | None = None
    """Optimizer steps."""
    steps: int | None = None
    epochs: int = 0
    device: str = ""
    precision: str = ""
    wandb: str = ""
    parameters: int | None = None
    """Of the network; None where nothing has counted them yet."""
    checkpoint_bytes: int | None = None
    """Of all files that the run will keep, at the most; an estimate."""
    inputs: dict[str, Channels] = {}
    """With `full` only."""
    findings: list[Finding] = []
    seconds: float = 0.0

    @property
    def is_refused(self) -> bool:
        """A launch would be."""
        return any(finding.level == "error" for finding in self.findings)

    @property
    def warnings(self) -> tuple[str, ...]:
        """For the log of a run that is launched in spite of them. What became of W&B is told there by its tracker."""
        return tuple(finding.text for finding in self.findings if finding.level == "warning" and finding.about != "W&B")


class CheckupRequest(msgspec.Struct, frozen=True):
    """`preset` is what its `model_dump(exclude_none=True)` gave, `runs` an absolute path.

    `elsewhere`: another machine will train, and this one is not judged.
    """

    preset: dict[str, Any]
    toggles: Toggles
    runs: str
    full: bool = False
    elsewhere: bool = False


class Checkup:
    """`python -m engine.doctor` as a child: iterate it for its progress and, last, the report; `stop` from any thread."""

    def __init__(self, request: CheckupRequest) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "engine.doctor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
            start_new_session=True,
        )
        assert self._child.stdin is not None
        with self._child.stdin as stdin:
            stdin.write(msgspec.json.encode(request))
        self._stopped = False

    def __iter__(self) -> Generator[Progress | Report]:
        """Ends early after `stop`. Raises RunError where the child ends without a report, with what it said."""
        assert self._child.stdout is not None
        assert self._child.stderr is not None
        with self._child, self._child.stdout as lines:
            try:
                for line in lines:
                    answer = decode(line)
                    yield answer
                    if isinstance(answer, Report):
                        return
                said = self._child.stderr.read().decode(errors="replace").strip()
                code = self._child.wait()
                if not self._stopped:
                    raise RunError(f"the doctor ended without a report (exit code {code}): {said or 'it said nothing'}")
            finally:
                self._child.terminate()  # where nobody wants the rest
                self._child.wait()  # leaving the block does not, where that is an interruption

    def stop(self) -> None:
        """End it where it has not ended by itself; what it was writing is removed."""
        self._stopped = True
        self._child.terminate()


def encode(answer: Progress | Report) -> bytes:
    """One line of json, without its newline."""
    return msgspec.json.encode(answer)


_decoder: msgspec.json.Decoder[Progress | Report] = msgspec.json.Decoder(Progress | Report)


def decode(line: bytes) -> Progress | Report:
    """Raises msgspec.DecodeError (a ValueError) for anything else."""
    return _decoder.decode(line)
