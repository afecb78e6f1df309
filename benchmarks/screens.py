"""The screens in a real pseudo-terminal of 140x45: `python -m benchmarks.screens [--json]`.

The program is a process of its own and is watched from outside: what it writes to the terminal, what the system says of its time
and memory. Nothing inside it knows that it is measured.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.measure import Row, at_most, faster, show, spread
from benchmarks.terminal import PROGRAM, Terminal
from benchmarks.written_runs import whole_run, written_live

RUNS = 200
EVENTS_PER_S = 2000
WATCHED_S = 10.0
ROUNDS = 3
KEYS = 7
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


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield from first_screen(folder / "many")
        yield from live(folder / "live")
        yield from idle(folder / "many")


def first_screen(runs: Path) -> Iterator[Row]:
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
    note = "the reference is a bare Textual program of as many rows"
    yield faster(f"first screen with {RUNS} runs", bare, ours, at_most(0.6), note)
    yield Row(f"memory with {RUNS} runs", "MiB", None, max(memory))


def live(runs: Path) -> Iterator[Row]:
    """How long a key waits for its effect while events come at a steady rate."""
    with written_live(runs, EVENTS_PER_S) as folder:
        terminal = Terminal(PROGRAM, "--runs", str(folder.path.parent))
        terminal.until("live")
        terminal.press("\r")
        terminal.until("left")
        time.sleep(3)
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
    for key, seconds in (("cursor", cursor), ("help page", page)):
        row = f"key to {key} at {EVENTS_PER_S:,} events/s"
        yield Row(row, "s", None, median(seconds), mark=at_most(0.1), note=spread(seconds))


def idle(runs: Path) -> Iterator[Row]:
    """Nobody presses a key, nothing runs."""
    for key, name in (("3", "runs"), ("4", "checkpoints"), ("2", "run"), ("1", "launch")):
        terminal = Terminal(PROGRAM, "--runs", str(runs))
        terminal.until("run-000")
        terminal.press(key)
        time.sleep(6)
        yield Row(f"idle on {name}", "% of a core", None, terminal.cpu(WATCHED_S) * 100)
        terminal.close()


if __name__ == "__main__":
    show(rows())
