"""Does a long run leak? `python -m benchmarks.long_run [--epochs 2000]`: open files, memory and time per epoch, first fifth against last.

A toy preset trains through `segtui --headless --json`, with loader workers, validation and checkpoints, and `segtui attach` shows the
same run on a terminal of its own. Every few seconds the system is asked about each process.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from tests.conftest import write_shapes

SAMPLE_S = 5.0
SIDE = 32
FLAT = 0.05
"""A share of the first figure. Allocators settle: what leaks grows by more over a thousand epochs."""
FEW_FILES = 4
PRESET = """
[model]
type = "Unet"
encoder_name = "tu-test_efficientnet"
encoder_weights = "none"
decoder_channels = [16, 16, 8, 8, 8]

[data]
root = "{root}"
batch_size = 4
workers = 1

[augment]
train = [{{ type = "HorizontalFlip", p = 0.5 }}]

[loss]
type = "CrossEntropyLoss"

[optimizer]
type = "AdamW"
lr = 1e-3

[scheduler]
type = "CosineAnnealingLR"
interval = "step"
T_max = "auto"

[train]
epochs = {epochs}
save_interval = 500

[wandb]
mode = "disabled"
"""


@dataclass(frozen=True)
class Sample:
    """Of one moment. Files are counted, memory is resident and in MiB; the worker's are those of its loaders too."""

    epoch: int
    time: float
    worker_files: int
    worker_memory: float
    launcher_files: int
    launcher_memory: float
    attached_files: int
    attached_memory: float


ROWS = {
    "open files: worker and loaders": ("worker_files", "{:.0f}"),
    "open files: segtui --headless": ("launcher_files", "{:.0f}"),
    "open files: segtui attach": ("attached_files", "{:.0f}"),
    "MiB: worker and loaders": ("worker_memory", "{:.1f}"),
    "MiB: segtui --headless": ("launcher_memory", "{:.1f}"),
    "MiB: segtui attach": ("attached_memory", "{:.1f}"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=2000)
    epochs = parser.parse_args().epochs
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        samples, ends = run(Path(folder), epochs)
    print(f"{len(ends)} epochs in {time.monotonic() - began:.0f} s, {len(samples)} samples")
    report(samples, ends)


def run(folder: Path, epochs: int) -> tuple[list[Sample], list[float]]:
    """The samples, and the times at which the epochs ended."""
    preset = folder / "toy.toml"
    preset.write_text(PRESET.format(root=write_shapes(folder / "data", train=8, val=4, size=(SIDE, SIDE)), epochs=epochs))
    command = [sys.executable, "-m", "tui.cli", "--headless", "--json", "--runs", str(folder / "runs"), str(preset)]
    samples: list[Sample] = []
    ends: list[float] = []
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # the images are too small for more
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=one_thread) as launcher:
        assert launcher.stdout is not None
        watch: threading.Thread | None = None
        for line in launcher.stdout:
            event = json.loads(line)
            if event["type"] == "run_started":
                watch = threading.Thread(target=sample, args=(folder / "runs" / event["run"], launcher.pid, ends, samples), daemon=True)
                watch.start()
            elif event["type"] == "validation":
                ends.append(event["time"])
    if launcher.returncode or watch is None:
        sys.exit(f"the run ended with exit code {launcher.returncode}")
    watch.join(60)
    return samples, ends


def sample(run: Path, launcher: int, ends: Sequence[float], samples: list[Sample]) -> None:
    """Until the run is over; with a second follower, on a terminal."""
    attached = attach(run)
    worker = psutil.Process(json.loads((run / "run.json").read_bytes())["pid"])
    followers = psutil.Process(launcher), psutil.Process(attached.pid)
    while attached.poll() is None:
        time.sleep(SAMPLE_S)
        try:
            working = figures([worker, *worker.children(recursive=True)])
            samples.append(Sample(len(ends), time.time(), *working, *figures(followers[:1]), *figures(followers[1:])))
        except psutil.Error:  # one of them ended meanwhile
            continue


def figures(processes: Sequence[psutil.Process]) -> tuple[int, float]:
    """Their open files, and their resident memory in MiB."""
    return sum(each.num_fds() for each in processes), sum(each.memory_info().rss for each in processes) / 2**20


def attach(run: Path) -> subprocess.Popen[bytes]:
    """`segtui attach` on a terminal whose screen nobody looks at."""
    ours, its = pty.openpty()
    process = subprocess.Popen([sys.executable, "-m", "tui.cli", "attach", str(run)], stdin=its, stdout=its, stderr=its)
    os.close(its)

    def drain() -> None:
        try:
            while os.read(ours, 1 << 16):
                pass
        except OSError:  # the terminal's other end is closed
            os.close(ours)

    threading.Thread(target=drain, daemon=True).start()
    return process


def report(samples: Sequence[Sample], ends: Sequence[float]) -> None:
    fifth = max(1, len(samples) // 5)
    first, last = samples[1 : 1 + fifth], samples[-fifth:]  # the first is of followers that are just starting
    print(f"{'median of':34s}{'first fifth':>12s}{'last fifth':>12s}{'change':>9s}")
    for name, (field, form) in ROWS.items():
        row(name, form, *(median(getattr(each, field) for each in part) for part in (first, last)))
    times = [after - before for before, after in pairwise(ends)]
    fifth = max(1, len(times) // 5)
    row("ms per epoch", "{:.0f}", *(1000 * median(part) for part in (times[:fifth], times[-fifth:])))


def row(name: str, form: str, first: Any, last: Any) -> None:
    allowed = max(FLAT * first, FEW_FILES if "files" in name else 0)
    verdict = "flat" if last - first <= allowed else "NOT FLAT"
    print(f"{name:34s}{form.format(first):>12s}{form.format(last):>12s}{last / first - 1:>+9.1%}  {verdict}")


if __name__ == "__main__":
    main()
