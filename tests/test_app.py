"""What all screens share: switching, help, sizes, and what the program does not import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from textual.pilot import Pilot

from tests.screens import (
    KOREAN,
    ROOT,
    SIZES,
    checkpoint,
    on,
    opened,
    play,
    said,
    seen,
    until,
    whole_run,
)
from tui.app import SegtuiApp
from tui.screens.checkpoints import CheckpointsScreen
from tui.screens.help import HelpScreen
from tui.screens.launch import LaunchScreen
from tui.screens.run import RunScreen
from tui.screens.runs import RunsScreen
from tui.widgets.iou_table import IoUTable


def test_the_numbers_switch_between_the_four_screens(tmp_path: Path) -> None:
    whole_run(tmp_path, "a")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        on(app, RunsScreen)
        for key, kind in (("1", LaunchScreen), ("2", RunScreen), ("4", CheckpointsScreen), ("3", RunsScreen)):
            await pilot.press(key)
            await until(pilot, lambda kind=kind: isinstance(app.screen, kind))  # type: ignore[misc]

    play(tmp_path, scene)


def test_without_any_run_the_program_begins_with_the_presets(tmp_path: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: isinstance(app.screen, LaunchScreen))
        await pilot.press("3")
        await until(pilot, lambda: "no runs in" in seen(app))
        await pilot.press("enter", "s", "x", "j", "k", "escape")
        on(app, RunsScreen)
        await pilot.press("4")
        await until(pilot, lambda: "no checkpoints yet" in seen(app))
        await pilot.press("space", "y", "x", "j", "k", "escape")
        on(app, CheckpointsScreen)
        await pilot.press("2")
        await until(pilot, lambda: "no run is open" in seen(app))
        await pilot.press("s", "r", "c", "v", "v", "v")
        assert "nothing runs here" in said(app)
        on(app, RunScreen)

    play(tmp_path / "none [yet]" / "[/]", scene)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_sixty_classes_and_korean_names_fit(tmp_path: Path, size: tuple[int, int]) -> None:
    whole_run(tmp_path, "sixty", [f"class number {index} with a long name" for index in range(60)])
    whole_run(tmp_path, "korean", KOREAN)

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await opened(pilot, app, "sixty")
        await pilot.press("v")
        app.screen.query_one(IoUTable).focus()
        await pilot.press("j", "k", "end", "o", "o", "o", "o")
        await opened(pilot, app, "korean")
        if size[0] >= 80:
            app.screen.query_one(IoUTable).scroll_home(animate=False)
            await until(pilot, lambda: "일반" in seen(app))

    play(tmp_path, scene, size)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_every_screen_fits_every_terminal(tmp_path: Path, size: tuple[int, int]) -> None:
    run = whole_run(tmp_path, "a-run-with-a-name-that-is-longer-than-most-terminals-are-wide-" * 2)
    checkpoint(run, "best", 0.5)

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await opened(pilot, app, run.path.name)
        for key in ("1", "2", "v", "v", "v", "3", "4"):
            await pilot.press(key)
            await pilot.pause(0.05)
            lines = seen(app).splitlines()
            assert len(lines) == size[1]
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        await pilot.press("escape")
        for width, height in SIZES:
            await pilot.resize_terminal(width, height)
        await pilot.press("2")

    play(tmp_path, scene, size)


@pytest.mark.slow
def test_help_lists_the_keys_of_where_it_was_asked_for(tmp_path: Path) -> None:
    run = whole_run(tmp_path, "a")
    checkpoint(run, "best", 0.5)

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        for key, kind in (("1", LaunchScreen), ("2", RunScreen), ("3", RunsScreen), ("4", CheckpointsScreen)):
            await pilot.press(key)
            await until(pilot, lambda kind=kind: isinstance(app.screen, kind))  # type: ignore[misc]
            await pilot.press("question_mark")
            await until(pilot, lambda: isinstance(app.screen, HelpScreen))
            text = seen(app)
            for binding in [*kind.BINDINGS, *SegtuiApp.BINDINGS]:
                if binding.description not in ("Runs",):
                    assert binding.description in text, (kind, binding.description)
            await pilot.press("escape")
            on(app, kind)
            await pilot.press("f1")
            await until(pilot, lambda: isinstance(app.screen, HelpScreen))
            await pilot.press("question_mark")
            on(app, kind)

    play(tmp_path, scene, (140, 60))


@pytest.mark.slow
def test_the_screens_import_no_training_library(tmp_path: Path) -> None:
    run = whole_run(tmp_path, "a")
    checkpoint(run, "best", 0.5)
    program = """
import asyncio, sys
from pathlib import Path
from tui.cli import main
from tui.app import SegtuiApp

async def show():
    app = SegtuiApp(Path(sys.argv[1]))
    async with app.run_test(size=(140, 45)) as pilot:
        for key in ("1", "2", "3", "enter", "4", "question_mark", "escape", "1"):
            await pilot.press(key)
            await pilot.pause(0.3)
        for _ in range(600):
            if app.screen.resolved is not None:
                break
            await pilot.pause(0.1)
        assert app.screen.resolved is not None

asyncio.run(show())
print(sorted({name.split(".")[0] for name in sys.modules}))
"""
    found = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert found.returncode == 0, found.stderr
    heavy = {"torch", "torchvision", "segmentation_models_pytorch", "timm", "albumentations", "cv2", "wandb", "numpy"}
    assert not heavy & set(eval(found.stdout.splitlines()[-1]))
