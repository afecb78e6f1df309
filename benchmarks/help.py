"""From the shell to the prompt: `segtui --help` in a fresh process: `python -m benchmarks.help [--json]`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from statistics import median

from benchmarks.measure import Row, at_most, by_turns, show, spread

ROUNDS = 10
BARE = [sys.executable, "-c", "pass"]
HELP = [sys.executable, "-c", "import sys; from tui.cli import main; sys.exit(main(['--help']))"]


def rows() -> Iterator[Row]:
    bare, ours = by_turns(lambda: run(BARE), lambda: run(HELP), rounds=ROUNDS)
    note = f"the reference is a bare Python start; reference {spread(bare)}, ours {spread(ours)}"
    yield Row("segtui --help", "s", median(bare), median(ours), mark=at_most(0.15), note=note)


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    show(rows())
