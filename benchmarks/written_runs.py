"""Runs as the worker leaves them, written through the engine: for benchmarks that read or follow them."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from engine.events import AnyEvent, Epoch, EventLog, Images, RunEnded, RunStarted, Step, Toggles, Validation
from engine.run import RunFolder, RunRecord, claim

STEPS_PER_EPOCH = 1000
CLASSES = ["Background", *(f"class {number}" for number in range(1, 12))]


def whole_run(runs: Path, name: str, steps: int, created: float) -> RunFolder:
    """A finished run with an epoch and a validation after every thousand steps, or five of them."""
    folder = claim(runs, name, debug=False)
    epochs = max(steps // STEPS_PER_EPOCH, 5)
    record(folder, "finished", os.getpid(), epochs, created)
    log = EventLog(folder.events)
    append = appender(log)
    append(started(folder, epochs, steps // epochs))
    for step in range(1, steps + 1):
        append(told_step(1 + (step - 1) // (steps // epochs), step))
        if step % (steps // epochs) == 0:
            judged(append, step // (steps // epochs))
    append(RunEnded(state="finished"))
    log.close()
    return folder


def write(path: str, per_s: int) -> None:
    """A run of so many steps a second until it is killed; to be executed in a process of its own."""
    folder = RunFolder(Path(path))
    log = EventLog(folder.events)
    append = appender(log)
    append(started(folder, 1000, 100_000))
    record(folder, "running", os.getpid(), 1000, time.time())
    began, step = time.monotonic(), 0
    while True:
        while step < (time.monotonic() - began) * per_s:
            step += 1
            append(told_step(1, step))
        time.sleep(0.005)


@contextmanager
def written_live(runs: Path, per_s: int) -> Iterator[RunFolder]:
    """A run that another process steps on, until the block ends."""
    folder = claim(runs, "live", debug=False)
    program = f"from benchmarks.written_runs import write; write({str(folder.path)!r}, {per_s})"
    writer = subprocess.Popen([sys.executable, "-c", program])
    try:
        while not (folder.path / "run.json").exists():
            time.sleep(0.05)
        yield folder
    finally:
        writer.kill()
        writer.wait()


def told_step(epoch: int, step: int) -> Step:
    """A step with numbers as long as measured ones are: a falling loss with noise, a rate that falls."""
    noise = math.sin(step * 12.9898) * 43758.5453 % 1
    loss, rate = 1 / (1 + step / 5000) + 0.2 * noise, 1e-3 / (1 + step / 100_000)
    return Step(epoch=epoch, step=step, loss=loss, lr=rate, images_per_s=9 + noise, data_wait=0.1 * noise)


def appender(log: EventLog) -> Callable[[AnyEvent], None]:
    seq = log.last_seq

    def append(event: AnyEvent) -> None:
        nonlocal seq
        seq += 1
        event.seq, event.time = seq, time.time()
        log.append(event)

    return append


def started(folder: RunFolder, epochs: int, steps: int) -> RunStarted:
    return RunStarted(
        run=folder.path.name,
        preset="bench",
        classes=CLASSES,
        epochs=epochs,
        steps_per_epoch=steps,
        device="cpu",
        world_size=1,
        images=Images(100, 10),
        toggles=Toggles(),
        model="FPN-resnet18",
    )


def judged(append: Callable[[AnyEvent], None], epoch: int) -> None:
    scores = [0.5 - 0.4 / (epoch + 1)] * len(CLASSES)
    append(Epoch(epoch=epoch, loss=0.5, mIoU=scores[0], IoU=list(scores), acc=list(scores)))
    append(
        Validation(
            epoch=epoch,
            loss=0.5,
            acc=0.5,
            mean_acc=0.5,
            mIoU=scores[0],
            fwavacc=0.5,
            IoU=list(scores),
            class_acc=list(scores),
            support=[100] * len(CLASSES),
            best=True,
            best_epoch=epoch,
            best_mIoU=scores[0],
        )
    )


def record(folder: RunFolder, state: str, pid: int, epochs: int, created: float) -> None:
    folder.checkpoints.mkdir(exist_ok=True)
    folder.write(
        RunRecord(
            name=folder.path.name,
            state=state,  # type: ignore[arg-type]
            preset="bench",
            model="FPN-resnet18",
            toggles=Toggles(),
            host=socket.gethostname(),
            pid=pid,
            pid_started=psutil.Process(pid).create_time(),
            created=created,
            ended=None if state == "running" else created + 60,
            epochs=epochs,
            epoch=epochs,
            best_epoch=epochs,
            best_mIoU=0.5,
        )
    )
