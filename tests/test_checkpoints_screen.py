"""The list of checkpoints, by its keys."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from textual.pilot import Pilot

from tests.screens import (
    checkpoint,
    new_run,
    on,
    opened,
    paths,
    play,
    running,
    said,
    seen,
    until,
    visible,
    whole_run,
)
from tui.app import SegtuiApp
from tui.screens.checkpoints import CheckpointsScreen, Details
from tui.screens.confirm import Confirm
from tui.widgets.listing import Listing


def test_checkpoints_are_listed_best_first_with_damaged_ones_last(tmp_path: Path) -> None:
    run = whole_run(tmp_path, "a")
    for stem, mIoU in (("best", 0.71), ("epoch_002", 0.3), ("epoch_001", None), ("last", 0.6)):
        checkpoint(run, stem, mIoU)
    (run.checkpoints / "torn.safetensors").write_bytes((run.checkpoints / "best.safetensors").read_bytes()[:-3])

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await pilot.press("4")
        await until(pilot, lambda: len(paths(app)) == 5)
        assert paths(app) == ["a/best", "a/last", "a/epoch_002", "a/epoch_001", "a/torn"]
        await until(pilot, lambda: "mIoU 0.7100" in seen(app))
        assert "square" in seen(app)
        assert "0.4167" in seen(app)
        await pilot.press("ctrl+end")
        await until(pilot, lambda: "cut off" in seen(app))
        await pilot.press("space")
        assert on(app, CheckpointsScreen).marked == []

    play(tmp_path, scene)


def test_marks_keep_their_order_and_survive_filtering(tmp_path: Path) -> None:
    run = whole_run(tmp_path, "a")
    files = [checkpoint(run, stem, mIoU) for stem, mIoU in (("best", 0.7), ("last", 0.6), ("epoch_001", 0.5))]

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await pilot.press("4")
        await until(pilot, lambda: len(paths(app)) == 3)
        screen = on(app, CheckpointsScreen)
        await pilot.press("j", "space", "k", "k", "space")
        assert screen.marked == [str(files[1]), str(files[0])]
        assert [" ● " in line for line in seen(app).splitlines() if " a " in line] == [True, True, False]
        await pilot.press("slash", *"epoch", "enter")
        await until(pilot, lambda: paths(app) == ["a/epoch_001"])
        await pilot.press("space")
        assert screen.marked == [str(files[1]), str(files[0]), str(files[2])]
        await pilot.press("space")
        assert screen.marked == [str(files[1]), str(files[0])]
        await pilot.press("escape")
        await until(pilot, lambda: len(paths(app)) == 3)
        assert screen.marked == []

    play(tmp_path, scene)


def test_copying_gives_the_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = whole_run(Path("runs"), "a")
    path = checkpoint(run, "best", 0.7)

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await opened(pilot, app, "a")
        await pilot.press("c")
        assert app.clipboard == str(tmp_path / "runs" / "a")
        await pilot.press("4")
        await until(pilot, lambda: paths(app) == ["a/best"])
        await pilot.press("y")
        assert app.clipboard == str(tmp_path / path)
        await pilot.press("x", "n")
        assert path.exists()
        await pilot.press("x", "y")
        await until(pilot, lambda: "no checkpoints yet" in seen(app))
        assert not path.exists()

    play(Path("runs"), scene)


def test_sorting_goes_round_and_keeps_marks_and_the_cursors_checkpoint(tmp_path: Path) -> None:
    for name, stem, mIoU, epoch, modified in (("b", "best", 0.7, 1, 3000), ("a", "last", 0.9, 2, 2000), ("c", "last", 0.8, 3, 1000)):
        os.utime(checkpoint(whole_run(tmp_path, name), stem, mIoU, epoch=epoch), (modified, modified))
    orders = {"age": ["b", "a", "c"], "run": ["a", "b", "c"], "size": ["a", "b", "c"], "epoch": ["c", "a", "b"], "mIoU": ["a", "c", "b"]}

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await pilot.press("4")
        await until(pilot, lambda: [each[0] for each in paths(app)] == orders["mIoU"])
        screen = on(app, CheckpointsScreen)
        await pilot.press("space", "space")
        marked = list(screen.marked)
        for column, expected in orders.items():
            await pilot.press("o")
            await until(pilot, lambda column=column: f"{column} ▾" in seen(app))  # type: ignore[misc]
            if column != "size":  # as good as equal here
                assert [each[0] for each in paths(app)] == expected
            assert screen.selected is not None
            assert screen.selected.run == "b"
        assert screen.marked == marked

    play(tmp_path, scene, (100, 24))


def test_enter_opens_the_details_in_the_lists_place_or_beside_it(tmp_path: Path) -> None:
    checkpoint(whole_run(tmp_path, "a"), "best", 0.7, classes=[f"class {number}" for number in range(60)])

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await pilot.press("4")
        await until(pilot, lambda: paths(app) == ["a/best"])
        screen = on(app, CheckpointsScreen)
        await pilot.press("space")
        assert not visible(app, Details)
        await pilot.press("enter")
        await until(pilot, lambda: visible(app, Details) and not visible(app, Listing))
        assert "class 0" in seen(app)
        await pilot.press("j", "k", "end")
        await until(pilot, lambda: "class 59" in seen(app))
        await pilot.press("escape")
        await until(pilot, lambda: visible(app, Listing) and not visible(app, Details))
        assert len(screen.marked) == 1
        await pilot.resize_terminal(140, 45)
        await until(pilot, lambda: visible(app, Details) and visible(app, Listing))
        await pilot.press("enter")
        assert app.focused is screen.query_one(Details)
        await pilot.press("escape")
        assert app.focused is screen.query_one(Listing)

    play(tmp_path, scene, (80, 24))


def test_deleting_asks_once_for_all_that_are_marked(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    live = new_run(tmp_path, "live", **running(sleeper))
    files = [checkpoint(live, stem, mIoU) for stem, mIoU in (("best", 0.9), ("epoch_001", 0.8), ("epoch_002", 0.7), ("last", 0.6))]

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await pilot.press("4")
        await until(pilot, lambda: len(paths(app)) == 4)
        await pilot.press("space", "space", "space", "x")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        assert "Delete 2 checkpoints (live/epoch_001.safetensors, live/epoch_002.safetensors)" in " ".join(seen(app).split())
        assert any("live/best.safetensors" in text for text in said(app))
        await pilot.press("y")
        await until(pilot, lambda: isinstance(app.screen, CheckpointsScreen) and paths(app) == ["live/best", "live/last"])

    play(tmp_path, scene, (140, 45))
    assert [file.exists() for file in files] == [True, False, False, True]
