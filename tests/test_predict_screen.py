"""Predicting from the screens, by their keys: handed over from the list of checkpoints, started, and read."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Static

from engine.prediction_record import read_record
from tests.screens import on, play, said, seen, until
from tests.test_predict import write_run
from tui.app import SegtuiApp
from tui.screens.checkpoints import CheckpointsScreen
from tui.screens.confirm import Confirm
from tui.screens.predict import PredictScreen


@pytest.fixture
def two(shapes: Path) -> Path:
    """The folder of two runs, each with a best checkpoint of a network that nobody trained."""
    write_run("one", shapes)
    write_run("two", shapes, seed=1)
    return shapes.parent / "runs"


async def listed(pilot: Pilot[None], app: SegtuiApp) -> None:
    await pilot.press("4")
    await until(pilot, lambda: isinstance(app.screen, CheckpointsScreen) and app.screen.query_one(DataTable).row_count == 2)
    app.screen.query_one(DataTable).move_cursor(row=0)
    await pilot.pause()


def command(app: SegtuiApp) -> str:
    return str(on(app, PredictScreen).query_one("#command", Static).render()).replace("\n", " ")


@pytest.mark.parametrize(("key", "says"), [("i", "one pass an image"), ("t", "6 views, 6.25 plain passes")])
def test_a_checkpoint_is_handed_over_with_what_it_will_cost(two: Path, key: str, says: str) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await listed(pilot, app)
        await pilot.press(key)
        await until(pilot, lambda: isinstance(app.screen, PredictScreen) and says in command(app))
        assert "one/checkpoints/best.safetensors --split val" in command(app)
        assert ("--tta" in command(app)) == (key == "t")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, CheckpointsScreen))

    play(two, scene)


def test_a_vote_needs_two_marked_checkpoints_and_takes_them_in_that_order(two: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await listed(pilot, app)
        await pilot.press("v")
        assert said(app) == ["mark two checkpoints or more with space"]
        await pilot.press("j", "space", "k", "k", "space", "v")
        await until(pilot, lambda: isinstance(app.screen, PredictScreen) and "--softvote" in command(app))
        assert command(app).index("two/checkpoints") < command(app).index("one/checkpoints")
        assert "2 members" in command(app)

    play(two, scene)


def test_what_is_wrong_is_said_while_it_is_typed_and_when_it_is_started(two: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await pilot.press("5")
        await until(pilot, lambda: isinstance(app.screen, PredictScreen) and "choose a checkpoint first" in command(app))
        await pilot.press("ctrl+r", "ctrl+s")
        assert said(app) == ["choose a checkpoint first (4)", "nothing is being predicted"]
        await listed(pilot, app)
        await pilot.press("i")
        await until(pilot, lambda: isinstance(app.screen, PredictScreen))
        on(app, PredictScreen).query_one("#field-tta", Input).value = "hflop"
        await until(pilot, lambda: "there is no view 'hflop'" in command(app))
        await pilot.press("ctrl+r")
        await until(pilot, lambda: seen(app).count("there is no view 'hflop'") == 2)
        assert on(app, PredictScreen).launched is None

    play(two, scene)


@pytest.mark.parametrize("size", [(80, 24), (200, 60), (40, 10)])
def test_every_size_of_terminal_shows_it(two: Path, size: tuple[int, int]) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await listed(pilot, app)
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, PredictScreen) and "views" in seen(app))

    play(two, scene, size)


@pytest.mark.slow
def test_a_soft_vote_by_keys_ends_with_its_table_and_is_not_overwritten(two: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await listed(pilot, app)
        await pilot.press("space", "space", "v")
        await until(pilot, lambda: isinstance(app.screen, PredictScreen))
        screen = on(app, PredictScreen)
        screen.query_one("#field-name", Input).value = "mine"
        await pilot.press("ctrl+r")
        await until(pilot, lambda: screen.ended is not None, 120)
        assert screen.ended is not None
        assert screen.ended.state == "finished"
        await until(pilot, lambda: "soft vote" in seen(app) and "predict.json" in seen(app))
        await pilot.press("ctrl+r")
        await until(pilot, lambda: "is there already" in seen(app), 120)
        assert "ctrl+f replaces it" in seen(app)
        await pilot.press("ctrl+f")
        await until(pilot, lambda: screen.started is not None or screen.ended is not None, 120)
        if screen.ended is None:
            await pilot.press("ctrl+s")
            await until(pilot, lambda: isinstance(app.screen, Confirm))
            await pilot.press("n")
        await until(pilot, lambda: screen.ended is not None, 120)
        assert screen.launched is not None
        await until(pilot, lambda: app.live() == [], 60)

    play(two, scene)
    record = read_record(two / "one" / "predictions" / "mine")
    assert record.mode == "soft"
    assert [member.name for member in record.members] == ["one/best", "two/best"]
