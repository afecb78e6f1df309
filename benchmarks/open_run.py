"""A run of 1,000,000 steps opened in the TUI, and its curve drawn: `python -m benchmarks.open_run [--json]`."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from textual.app import App, ComposeResult

from benchmarks.measure import Mark, Row, at_most, by_turns, faster, show, spread
from benchmarks.terminal import PROGRAM, Terminal
from benchmarks.written_runs import whole_run
from engine.events import EventReader, stretches
from engine.run import RunFolder
from tui.curves import RunCurves
from tui.widgets.plot import Curve, Plot

STEPS = 1_000_000
FEW_STEPS = 2_000
BLOCK = 1 << 20
ROUNDS = 3
DRAWS = 50
CELLS = (140, 45)


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        many = whole_run(Path(name) / "many", "long", STEPS, created=time.time())
        few = whole_run(Path(name) / "few", "short", FEW_STEPS, created=time.time())
        curves = curves_of(many)
        check(curves, many)
        yield from opening(many, last_loss=curves.loss.y[-1])
        yield drawing(curves, curves_of(few))


def check(curves: RunCurves, run: RunFolder) -> None:
    """First, last, least and greatest of the loss are the file's, which is read once more by the standard library alone."""
    with run.events.open() as file:
        losses = [event["loss"] for event in map(json.loads, file) if event["type"] == "step"]
    found = curves.loss
    if (found.y[0], found.y[-1], found.range(0, len(found))) != (losses[0], losses[-1], (min(losses), max(losses))):
        raise SystemExit("the curve is not the file's")


def opening(run: RunFolder, last_loss: float) -> Iterator[Row]:
    """From `enter` on the run's row to its last step in the headline and its last loss above the curves."""
    seconds, memory = [], []
    for _ in range(ROUNDS):
        terminal = Terminal(PROGRAM, "--runs", str(run.path.parent))
        terminal.until(run.path.name)
        time.sleep(1)
        pressed = terminal.press("\r")
        terminal.until(f"{STEPS}/{STEPS}")
        seconds.append(terminal.until(f"train {last_loss:.4g}") - pressed)
        memory.append(terminal.memory())
        terminal.close()
    size = run.events.stat().st_size / 2**20
    yield Row(
        f"a run of {STEPS:,} steps opened", "s", None, median(seconds), mark=at_most(2), note=f"a log of {size:.0f} MiB; {spread(seconds)}"
    )
    yield Row("memory of the TUI with it", "MiB", None, max(memory), mark=at_most(300))


def drawing(many: RunCurves, few: RunCurves) -> Row:
    """The same plot of both runs, drawn by turns in one program."""

    class Both(App[None]):
        def compose(self) -> ComposeResult:
            for curves in (many, few):
                yield Plot("loss", [Curve("train", curves.loss, "blue"), Curve("smoothed", curves.smoothed, "red")])

        CSS = "Plot { height: 45; }"

    async def measure() -> list[list[float]]:
        app = Both()
        async with app.run_test(size=CELLS):
            one, other = app.query(Plot)
            return by_turns(lambda: draw(other), lambda: draw(one), rounds=DRAWS)

    reference, ours = asyncio.run(measure())
    mark = Mark("ratio", ">=", 1 / 1.1)
    return faster(f"a plot of {STEPS:,} steps drawn", reference, ours, mark, f"the reference is the same plot of {FEW_STEPS:,} steps")


def draw(plot: Plot) -> None:
    plot.redraw()
    plot.render_line(0)


def curves_of(run: RunFolder) -> RunCurves:
    curves, reader = RunCurves(), EventReader(run.events)
    while events := reader.read(BLOCK):
        for some in stretches(events):
            if isinstance(some, list):
                curves.add_steps(some)
            else:
                curves.add(some)
    return curves


if __name__ == "__main__":
    show(rows())
