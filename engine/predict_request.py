"""What is asked of a prediction, and where its result will be. No torch here: the terminal makes requests."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from engine.errors import Problem, RequestError
from engine.prediction_record import Mode
from engine.run import find_run

Resize = Literal["probabilities", "nearest"]


@dataclass(frozen=True)
class Places:
    """Absolute paths. `folder` holds the record and, without `out` and `masks`, the submission and the masks."""

    folder: Path
    out: Path | None = None
    masks: Path | None = None
    overlay: bool = False
    probabilities: Path | None = None
    force: bool = False

    @property
    def work(self) -> Path:
        """The result's folder until it is one."""
        return self.folder.with_name(f".{self.folder.name}.partial")


@dataclass(frozen=True)
class PredictRequest:
    """Paths are absolute. `weights` go by member, checkpoints first; None: equal ones. `tta` is None without it.

    `preset` describes those checkpoints that do not describe themselves. `side` is that of a submission's square.
    """

    checkpoints: tuple[Path, ...]
    places: Places
    caches: Path
    mode: Mode = "single"
    arrays: tuple[Path, ...] = ()
    weights: tuple[Fraction, ...] | Literal["fit"] | None = None
    split: str = "test"
    images: Path | None = None
    data_root: str | None = None
    tta: str | None = None
    window: int | None = None
    overlap: float = 0.5
    side: int = 256
    resize: Resize = "probabilities"
    preset: dict[str, Any] | None = None
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class VoteRequest:
    """Hard voting over submissions into one at `out`; `weights` go by file, None: equal ones."""

    submissions: tuple[Path, ...]
    out: Path
    weights: tuple[Fraction, ...] | None = None
    force: bool = False


@dataclass(frozen=True)
class ScoreRequest:
    """A submission against the ground truth of a split. `split` is train, val, test, or a json's name."""

    submission: Path
    data_root: str
    split: str = "val"
    background: Literal["class", "ignore"] = "class"


def find_checkpoint(name: str, runs: Path) -> Path:
    """A checkpoint's file, or the best one of a run that is named. Raises RequestError."""
    path = Path(name)
    if os.path.isfile(path):  # noqa: PTH113  pathlib's raises for a name that is too long
        return path.absolute()
    if path.suffix:
        raise RequestError(Problem("there is no such checkpoint", file=name, fix="`segtui checkpoints` lists those there are"))
    best = find_run(name, runs).checkpoints / "best.safetensors"
    if not best.exists():
        raise RequestError(Problem("this run has no best checkpoint yet", file=str(best.parent), fix="name a checkpoint's file"))
    return best.absolute()


def run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that a checkpoint is of; None for one that was copied elsewhere."""
    run = checkpoint.parent.parent
    return run if checkpoint.parent.name == "checkpoints" and (run / "run.json").is_file() else None


def member_name(checkpoint: Path) -> str:
    """`Unet-resnet18/best` for a checkpoint of a run, else the file's name."""
    run = run_of(checkpoint)
    return f"{run.name}/{checkpoint.stem}" if run else checkpoint.name


def results_folder(checkpoint: Path, runs: Path) -> Path:
    """The run's `predictions`; where the checkpoint is of no run, or its run cannot be written to, that of all runs."""
    run = run_of(checkpoint)
    return (run if run is not None and os.access(run, os.W_OK) else runs.absolute()) / "predictions"


def default_name(split: str, images: Path | None, out: Path | None, mode: Mode, *, tta: bool, window: int | None) -> str:
    """`test`, `val-tta-softvote` and so on; the submission's own name where it has one."""
    if out is not None:
        return out.stem
    parts = [images.name if images else split.removesuffix(".json").replace("/", "_")]
    parts += ["tta"] if tta else []
    parts += [f"window{window}"] if window else []
    parts += [f"{mode}vote"] if mode != "single" else []
    return "-".join(parts)
