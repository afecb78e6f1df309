"""The screens in a real pseudo-terminal of 140x45: `python -m benchmarks.screens [--json]`.

The program is a process of its own and is watched from outside: what it writes to the terminal, what the system says of its time
and memory. Nothing inside it knows that it is measured.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pexpect
import psutil

from engine.events import AnyEvent, Epoch, EventLog, Images, RunEnded, RunStarted, Step, Toggles, Validation
from engine.run import RunFolder, RunRecord, claim

RUNS = 200
STEPS = 100_000
STEPS_PER_EPOCH = 1000
EVENTS_PER_S = 2000
CLASSES = ["Background", *(f"class {number}" for number in range(1, 12))]
WATCHED_S = 10.0
ROUNDS = 3
KEYS = 7
ESCAPES = re.compile(rb"\x1b(\[[0-9;?>=$]*[a-zA-Z]|\][^\x07\x1b]*(\x07|\x1b\\)|[=>])")
PROGRAM = "import sys; from tui.cli import main; sys.exit(main(sys.argv[1:]))"
BARE = """
from textual.app import App
from textual.widgets import DataTable, Footer
class Bare(App):
    def compose(self):
        yield DataTable()
        yield Footer()
    def on_mount(self):
        table = self.query_one(DataTable)
        table.add_columns(*(f"column {number}" for number in range(8)))
        for row in range(200):
            table.add_row(*(f"run-{row:03d}" for _ in range(8)))
Bare().run()
"""


class Terminal:
    """A program in a pseudo-terminal, with all that it wrote and a thread that always reads on."""

    def __init__(self, program: str, *arguments: str) -> None:
        self.started = time.monotonic()
        environment = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        self._process = pexpect.spawn(sys.executable, ["-c", program, *arguments], dimensions=(45, 140), env=environment, timeout=60)
        self.process = psutil.Process(self._process.pid)
        self._written = b""
        self._mark = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                self._written += self._process.read_nonblocking(65536, timeout=None)
            except (pexpect.ExceptionPexpect, OSError):
                return

    def press(self, key: str) -> float:
        """When it was pressed; `until` looks at what is written from now on."""
        self._mark = len(self._written)
        pressed = time.monotonic()
        self._process.send(key)
        return pressed

    def until(self, text: str, timeout_s: float = 60) -> float:
        """When the text was on the terminal (to 2 ms)."""
        deadline = time.monotonic() + timeout_s
        looked_at = -1
        while True:
            if len(self._written) > looked_at:
                looked_at = len(self._written)
                shown = ESCAPES.sub(b"", self._written[self._mark : looked_at])
                if text.encode() in shown:
                    return time.monotonic()
            if time.monotonic() > deadline:
                raise SystemExit(f"waited for {text!r} and saw {shown[-500:]!r}")
            time.sleep(0.002)

    def cpu(self, seconds: float) -> float:
        """Its share of a core over that time."""
        before = self.process.cpu_times()
        time.sleep(seconds)
        after = self.process.cpu_times()
        return (after.user + after.system - before.user - before.system) / seconds

    def memory(self) -> float:
        """MiB that are its own or shared, in RAM."""
        return float(self.process.memory_info().rss) / 2**20

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = first_screen(folder / "many") | long_run(folder / "long") | live(folder / "live") | idle(folder / "many")
    if "--json" in sys.argv:
        print(json.dumps(rows))
        return
    for row, value in rows.items():
        print(f"{row:58} {value:8.2f}")


def first_screen(runs: Path) -> dict[str, float]:
    """From the start of Python to the newest run's row and the keys, by turns with a bare Textual program of as many rows."""
    for number in range(RUNS):
        whole_run(runs, f"run-{number:03d}", steps=200, created=time.time() - 100 * number - 100)
    ours, bare, memory = [], [], []
    for _ in range(ROUNDS):
        terminal = Terminal(PROGRAM, "--runs", str(runs))
        terminal.until("run-000")
        ours.append(terminal.until("Help") - terminal.started)
        time.sleep(2)  # the spark lines come after the rows
        memory.append(terminal.memory())
        terminal.close()
        terminal = Terminal(BARE)
        bare.append(terminal.until("run-000") - terminal.started)
        terminal.close()
    return {
        f"first screen with {RUNS} runs, s": min(ours),
        "first screen of bare Textual with as many rows, s": min(bare),
        f"memory with {RUNS} runs, MiB": max(memory),
    }


def long_run(runs: Path) -> dict[str, float]:
    """From `enter` on its row to its last step in the headline and its curves on the screen."""
    whole_run(runs, "long", steps=STEPS, created=time.time())
    seconds = []
    for _ in range(ROUNDS):
        terminal = Terminal(PROGRAM, "--runs", str(runs))
        terminal.until("long")
        time.sleep(1)
        pressed = terminal.press("\r")
        terminal.until(f"{STEPS}/{STEPS}")
        seconds.append(terminal.until("⣀") - pressed)
        terminal.close()
    return {f"a run of {STEPS} steps opened, s": min(seconds)}


def live(runs: Path) -> dict[str, float]:
    """A run whose events come at a steady rate: what following costs, and how long a key waits for its effect."""
    folder = claim(runs, "live", debug=False)
    writer = subprocess.Popen([sys.executable, "-c", f"from benchmarks.screens import write; write({str(folder.path)!r})"])
    try:
        while not (folder.path / "run.json").exists():
            time.sleep(0.05)
        terminal = Terminal(PROGRAM, "--runs", str(runs))
        terminal.until("live")
        terminal.press("\r")
        terminal.until("left")
        time.sleep(3)
        share = terminal.cpu(WATCHED_S)
        cursor, page = [], []
        for _ in range(KEYS):
            pressed = terminal.press("g")  # the first point of the plot that has the focus
            cursor.append(terminal.until("step 1 ") - pressed)
            terminal.press("0")
            time.sleep(0.3)
            pressed = terminal.press("?")
            page.append(terminal.until("esc closes") - pressed)
            terminal.press("\x1b")
            time.sleep(0.7)
        terminal.close()
    finally:
        writer.kill()
    return {
        f"following {EVENTS_PER_S} events/s, % of a core": share * 100,
        f"key to cursor at {EVENTS_PER_S} events/s, median ms": median(cursor) * 1000,
        f"key to cursor at {EVENTS_PER_S} events/s, worst of {KEYS} ms": max(cursor) * 1000,
        f"key to help at {EVENTS_PER_S} events/s, median ms": median(page) * 1000,
    }


def idle(runs: Path) -> dict[str, float]:
    """Nobody presses a key, nothing runs."""
    shares = {}
    for key, name in (("3", "runs"), ("4", "checkpoints"), ("2", "run"), ("1", "launch")):
        terminal = Terminal(PROGRAM, "--runs", str(runs))
        terminal.until("run-000")
        terminal.press(key)
        time.sleep(6)
        shares[f"idle on {name}, % of a core"] = terminal.cpu(WATCHED_S) * 100
        terminal.close()
    return shares


def whole_run(runs: Path, name: str, steps: int, created: float) -> None:
    folder = claim(runs, name, debug=False)
    epochs = max(steps // STEPS_PER_EPOCH, 5)
    record(folder, "finished", os.getpid(), epochs, created)
    log = EventLog(folder.events)
    append = appender(log)
    append(started(folder, epochs, steps // epochs))
    for step in range(1, steps + 1):
        append(Step(epoch=1 + (step - 1) // (steps // epochs), step=step, loss=1 + 1 / step, lr=1e-3, images_per_s=9.0, data_wait=0.1))
        if step % (steps // epochs) == 0:
            judged(append, step // (steps // epochs))
    append(RunEnded(state="finished"))
    log.close()


def write(path: str) -> None:
    """A run that steps on at a steady rate until it is killed; executed in a process of its own."""
    folder = RunFolder(Path(path))
    log = EventLog(folder.events)
    append = appender(log)
    append(started(folder, 1000, 100_000))
    record(folder, "running", os.getpid(), 1000, time.time())
    began, step = time.monotonic(), 0
    while True:
        while step < (time.monotonic() - began) * EVENTS_PER_S:
            step += 1
            append(Step(epoch=1, step=step, loss=1 + 1 / step, lr=1e-3, images_per_s=9.0, data_wait=0.1))
        time.sleep(0.005)


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


if __name__ == "__main__":
    main()
