"""Draw the README's picture from a real run: `python docs/picture.py runs/Unet-mobilenet_v2 docs/run.svg`."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console

from engine.events import EventReader
from engine.run import RunFolder
from tui.headless_view import ending, header, validation_table
from tui.run_state import RunState

run = RunFolder(Path(sys.argv[1]))
state = RunState()
for event in EventReader(run.events).read():
    state.add(event)
console = Console(record=True, width=84, file=io.StringIO(), force_terminal=True)
console.print(header(state), validation_table(state), *ending(state, run), sep="\n")
console.save_svg(sys.argv[2], title="segtui --headless presets/demo.toml")
