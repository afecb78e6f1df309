"""What events cost the worker and who follows it: `python -m benchmarks.events [--json]`."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.measure import Row, at_most, show, spread
from benchmarks.terminal import PROGRAM, Terminal
from benchmarks.written_runs import told_step, written_live
from engine.events import EventLog
from engine.launch import QUEUE_EVENTS
from engine.reporter import Reporter

EVENTS = 20_000
ROUNDS = 7
PER_S = 5_000
WATCHED_S = 8.0
ONE_MESSAGE_EACH = """
import sys
from pathlib import Path
from textual import work
from textual.app import App
from textual.message import Message
from textual.widgets import Static
from engine.events import EventReader, Step
class Told(Message):
    def __init__(self, event):
        super().__init__()
        self.event = event
class Plain(App):
    def compose(self):
        yield Static("waiting")
    def on_mount(self):
        self.reader = EventReader(Path(sys.argv[1]))
        self.set_interval(0.1, self.read)
    def read(self):
        for event in self.reader.read():
            self.post_message(Told(event))
    def on_told(self, told):
        if isinstance(told.event, Step):
            self.query_one(Static).update(f"step {told.event.step} loss {told.event.loss:.4f}")
Plain().run()
"""


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        yield reporting(Path(name) / "events.jsonl")
        reference, rate = following(Path(name) / "reference", "step")
        ours, our_rate = following(Path(name) / "tui", "left")
        headless, headless_rate = following(Path(name) / "headless", "step")
    plain = "the reference posts a message for each event and updates a line of text with it, and draws no curves"
    for row, share, its_rate in (("in the TUI", ours, our_rate), ("without a screen", headless, headless_rate)):
        note = f"{plain}; {rate:,.0f} events/s were written for it, {its_rate:,.0f} for ours"
        yield Row(f"following {PER_S:,} events/s {row}", "% of a core", reference, share, reference / share, at_most(10), note)


def reporting(path: Path) -> Row:
    """Reporter calls as the worker makes them: a line appended to the log, then offered to a queue that is full as soon as nobody reads."""
    queue: multiprocessing.Queue[bytes] = multiprocessing.get_context("spawn").Queue(QUEUE_EVENTS)
    queue.cancel_join_thread()
    log = EventLog(path)
    report = Reporter(queue)
    report.open(log)
    seconds = []
    for _ in range(ROUNDS):
        events = [told_step(1, step) for step in range(1, EVENTS + 1)]
        while not queue.empty():
            queue.get()
        began = time.perf_counter()
        for event in events:
            report(event)
        seconds.append((time.perf_counter() - began) / EVENTS * 1e6)
    log.close()
    return Row("an event reported by the worker", "us", None, median(seconds), mark=at_most(20), note=spread(seconds))


def following(runs: Path, seen: str) -> tuple[float, float]:
    """Percent of a core, and how many events a second the writer came to meanwhile."""
    with written_live(runs, PER_S) as folder:
        if runs.name == "reference":
            terminal = Terminal(ONE_MESSAGE_EACH, str(folder.events))
        elif runs.name == "headless":
            terminal = Terminal(PROGRAM, "attach", str(folder.path))
        else:
            terminal = Terminal(PROGRAM, "--runs", str(runs))
            terminal.until("live")
            terminal.press("\r")
        terminal.until(seen)
        time.sleep(3)
        began, before = time.monotonic(), lines(folder.events)
        share = terminal.cpu(WATCHED_S)
        rate = (lines(folder.events) - before) / (time.monotonic() - began)
        terminal.close()
    return share * 100, rate


def lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


if __name__ == "__main__":
    show(rows())
