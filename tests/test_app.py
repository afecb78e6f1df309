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
from tui.screens.confirm import Confirm
from tui.screens.help import HelpScreen
from tui.screens.launch import LaunchScreen
from tui.screens.run import RunScreen
from tui.screens.runs import RunsScreen
from tui.screens.too_small import TooSmallScreen
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


def test_the_first_line_names_the_screens_and_what_is_open(tmp_path: Path) -> None:
    name = "a-run-with-a-name-that-is-longer-than-what-is-left-of-the-line_exp3"
    whole_run(tmp_path, name)

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await opened(pilot, app, name)
        for width, tabs in ((140, " 1 Launch  2 Run  3 Runs  4 Checkpoints  5 Predict "), (80, None), (40, " 1  2 Run  3  4  5 ")):
            await pilot.resize_terminal(width, 24)
            await until(pilot, lambda: "_exp3" in seen(app).splitlines()[0])
            first = seen(app).splitlines()[0]
            assert first.rstrip().endswith(name if width == 140 else "-line_exp3" if width == 80 else "_exp3")
            assert tabs is None or first.startswith(tabs)
        await pilot.resize_terminal(80, 24)
        await pilot.click("ScreenTabs", offset=(30, 0))
        await until(pilot, lambda: isinstance(app.screen, CheckpointsScreen))
        await pilot.click("ScreenTabs", offset=(0, 0))
        await until(pilot, lambda: isinstance(app.screen, LaunchScreen))
        await pilot.click("ScreenTabs", offset=(70, 0))
        on(app, LaunchScreen)

    play(tmp_path, scene)


@pytest.mark.parametrize("width", [40, 57, 80, 97, 140])
def test_the_last_line_holds_whole_keys_and_always_help_and_the_way_out(tmp_path: Path, width: int) -> None:
    run = whole_run(tmp_path, "a")
    checkpoint(run, "best", 0.5)

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await opened(pilot, app, "a")
        for mode in ("1", "2", "3", "4"):
            await pilot.press(mode)
            await until(pilot, lambda: "q Quit" in seen(app).splitlines()[-1])
            last = seen(app).splitlines()[-1]
            assert "? Help" in last
            known = {each.binding.description for each in app.screen.active_bindings.values()}
            for key in app.screen.query("FooterKey"):
                assert key.region.right <= width
                assert key.description in known

    play(tmp_path, scene, (width, 24))


def test_a_terminal_that_is_too_small_is_told_until_it_grows(tmp_path: Path) -> None:
    whole_run(tmp_path, "a")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: "needs 40x10" in " ".join(seen(app).split()))
        await pilot.press("1", "x", "escape", "question_mark")
        for size in ((20, 6), (5, 2), (1, 1), (39, 10), (40, 9)):
            await pilot.resize_terminal(*size)
            on(app, TooSmallScreen)
        await until(pilot, lambda: "this terminal is 40x9" in " ".join(seen(app).split()))
        await pilot.resize_terminal(40, 10)
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
        await pilot.press("x")
        on(app, Confirm)
        await pilot.resize_terminal(30, 8)
        await until(pilot, lambda: isinstance(app.screen, TooSmallScreen))
        await pilot.press("y")
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("n")
        await until(pilot, lambda: "finished" in seen(app))
        await pilot.resize_terminal(30, 8)
        await until(pilot, lambda: isinstance(app.screen, TooSmallScreen))
        await pilot.press("q")

    assert play(tmp_path, scene, (30, 8)).return_code == 0


def test_the_palette_offers_the_actions_of_the_screen_then_the_screens(tmp_path: Path) -> None:
    whole_run(tmp_path, "a")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: "finished" in seen(app))
        await pilot.press("ctrl+p")
        await until(pilot, lambda: "Go to Launch  1" in seen(app))
        lines = [line.split() for line in seen(app).splitlines()]
        assert lines.index(["Delete", "x"]) < lines.index(["Go", "to", "Launch", "1"])
        await pilot.press(*"delete")
        await until(pilot, lambda: "Go to" not in seen(app) and "Delete  x" in seen(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("n", "ctrl+p", *"check")
        await until(pilot, lambda: "Go to Checkpoints" in seen(app) and "Go to Runs" not in seen(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, CheckpointsScreen))
        await pilot.press("ctrl+p", *"keys")
        await until(pilot, lambda: "Keys  ?" in seen(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        await pilot.press("escape", "ctrl+p", *"quit")
        await until(pilot, lambda: "Quit  q" in seen(app))
        await pilot.press("enter")
        await until(pilot, lambda: app.return_code == 0)

    play(tmp_path, scene, (80, 24))


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
