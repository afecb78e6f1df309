"""Whether the folder of runs can take a run, and the room for what it will keep."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.checkup import Finding
from engine.events import Toggles
from engine.model_facts import ModelFacts, shortage
from engine.schema import Preset

GIB = 2**30
SMALL_FILES = 64 * 2**20
"""Events, log, pictures, what waits for W&B."""


@contextmanager
def caches_of(runs: Path, findings: list[Finding]) -> Iterator[Path]:
    """The folder of caches below `runs`, made where it is missing; a temporary one, and an error, where that cannot be."""
    caches = runs / ".cache"
    try:
        caches.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=caches), tempfile.TemporaryFile(dir=runs):
            pass
    except OSError as error:
        text = f"{runs}: cannot be written: {error.strerror}. Name another folder with --runs"
        findings.append(Finding("error", "runs", text))
        with tempfile.TemporaryDirectory(prefix="segtui-") as temporary:
            yield Path(temporary)
    else:
        yield caches


def checkpoint_bytes(preset: Preset, toggles: Toggles, facts: ModelFacts) -> int:
    """Of all that a run keeps, and of the copy that is being written."""
    if toggles.debug:
        return 0
    every = preset.train.save_interval
    kept = 2 + (preset.train.epochs // every if every else 0)  # best and last
    return kept * facts.weights_bytes() + 2 * facts.resume_bytes(preset.optimizer, preset.train.ema_decay)


def disk_findings(runs: Path, preset: Preset, toggles: Toggles, facts: ModelFacts | None) -> list[Finding]:
    """`facts` are None where the network was not measured. A folder that is not there has its own finding."""
    if not runs.is_dir():
        return []
    free = shutil.disk_usage(runs).free
    if free < SMALL_FILES:
        text = f"{runs}: its disk has {free / 2**20:.0f} MiB left, too little for a run's log: free some, or name another with --runs"
        return [Finding("error", "disk space", text)]
    short = shortage(facts, lambda facts: SMALL_FILES + checkpoint_bytes(preset, toggles, facts), free)
    if short is None:
        return []
    text = f"{runs} has {free / GIB:.1f} GiB free, and the run's checkpoints take about {short.needed / GIB:.1f} ({short.basis})"
    fix = f"free some, name another folder with --runs, or raise train.save_interval ({preset.train.save_interval})"
    return [Finding(short.level, "disk space", f"{text}: {fix}")]
