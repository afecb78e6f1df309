"""The list of checkpoints, by its keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable

from tests.screens import (
    checkpoint,
    on,
    opened,
    paths,
    play,
    seen,
    until,
    whole_run,
)
from tui.app import SegtuiApp
from tui.screens.checkpoints import CheckpointsScreen


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
        table = screen.query_one(DataTable)
        assert [str(table.get_row_at(row)[0]) for row in range(3)] == ["●", "●", ""]
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
