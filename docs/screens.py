"""Take the pictures of the screens, from real runs: `python docs/screens.py RUNS docs/screens`.

RUNS needs two runs that have ended and a result with ground truth; the first row of each list is what is opened.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from multiprocessing import resource_tracker
from pathlib import Path

from tui.app import SegtuiApp

SIZE = (140, 42)
SHOTS: dict[str, Sequence[str]] = {
    "launch": ("1", "wait", "l", "wait", "wait"),
    "run": ("3", "wait", "enter", "wait"),
    "runs": ("3", "wait"),
    "compare": ("3", "wait", "space", "space", "c", "wait"),
    "checkpoints": ("4", "wait", "space"),
    "predict": ("5", "wait", "enter", "wait"),
    "masks": ("5", "wait", "enter", "wait", "m", "wait", "wait"),
}


async def take(runs: Path, folder: Path, name: str, keys: Sequence[str]) -> None:
    app = SegtuiApp(runs)
    async with app.run_test(size=SIZE) as pilot:
        for key in keys:
            await pilot.pause(2) if key == "wait" else await pilot.press(key)
        await pilot.pause(1)
        (folder / f"{name}.svg").write_text(app.export_screenshot(title=f"segtui: {name}"))


def main() -> None:
    runs, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    resource_tracker.ensure_running()  # before the app, as the program does
    for name, keys in SHOTS.items():
        asyncio.run(take(runs, folder, name, keys))


if __name__ == "__main__":
    main()
