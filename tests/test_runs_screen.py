"""The list of runs, by its keys, against real run folders."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import DataTable, Input

from tests.screens import (
    begun,
    checkpoint,
    headline,
    names,
    new_run,
    on,
    paths,
    play,
    running,
    said,
    seen,
    told,
    until,
    whole_run,
)
from tui.app import SegtuiApp
from tui.screens.checkpoints import CheckpointsScreen
from tui.screens.confirm import Confirm
from tui.screens.run import RunScreen
from tui.screens.runs import RunsScreen


def test_two_hundred_runs_are_listed_newest_first(tmp_path: Path) -> None:
    now = time.time()
    for number in range(200):
        new_run(tmp_path, f"run-{number:03d}", created=now - 1000 * ((number * 37) % 200), ended=now)
    expected = [f"run-{number:03d}" for number in sorted(range(200), key=lambda number: (number * 37) % 200)]

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: len(names(app)) == 200)
        assert names(app) == expected
        table = app.screen.query_one(DataTable)
        await pilot.press("j", "j", "k")
        assert table.cursor_row == 1
        await pilot.press("ctrl+end")
        assert table.cursor_row == 199
        await pilot.press("j")
        assert table.cursor_row == 199

    play(tmp_path, scene)


def test_a_new_run_appears_in_the_list_and_the_cursor_stays_with_its_run(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        new_run(tmp_path, name)

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: len(names(app)) == 3)
        await pilot.press("j")
        screen = on(app, RunsScreen)
        chosen = screen.selected
        new_run(tmp_path, "d", created=time.time())
        await until(pilot, lambda: len(names(app)) == 4)
        assert names(app)[0] == "d"
        assert screen.selected == chosen

    play(tmp_path, scene)


def test_the_filter_of_runs_takes_every_word_by_name_preset_and_state(tmp_path: Path) -> None:
    new_run(tmp_path, "PAN-b3", preset="pan")
    new_run(tmp_path, "PAN-b4", preset="pan", state="stopped")
    new_run(tmp_path, "FPN-b3", preset="fpn", state="stopped")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: len(names(app)) == 3)
        await pilot.press("slash", *"pan", "space", *"stopped")
        await until(pilot, lambda: names(app) == ["PAN-b4"])
        await pilot.press("enter")
        assert app.focused is app.screen.query_one(DataTable)
        assert names(app) == ["PAN-b4"]
        await pilot.press("escape")
        await until(pilot, lambda: len(names(app)) == 3)
        assert not app.screen.query_one("#filter", Input).display
        await pilot.press("slash", *"q123?x")
        await until(pilot, lambda: "no run matches the filter" in seen(app))
        on(app, RunsScreen)

    play(tmp_path, scene)


def test_stopping_asks_and_no_does_nothing_and_yes_sends_the_signal(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    told(new_run(tmp_path, "live", **running(sleeper)), [begun("live")])

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: names(app) == ["live"])
        for no in ("n", "escape", "enter", "q"):
            await pilot.press("s")
            await until(pilot, lambda: isinstance(app.screen, Confirm))
            assert "Stop live" in seen(app)
            await pilot.press("x", "1", no)
            on(app, RunsScreen)
        assert sleeper.poll() is None
        await pilot.press("s", "y")
        await until(pilot, lambda: sleeper.poll() is not None)
        assert sleeper.poll() == -signal.SIGTERM
        await until(pilot, lambda: str(app.screen.query_one(DataTable).get_row_at(0)[1]) == "lost")

    play(tmp_path, scene)


def test_stopping_a_finished_run_says_that_it_does_not_run(tmp_path: Path) -> None:
    whole_run(tmp_path, "a")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: names(app) == ["a"])
        await pilot.press("s", "y")
        await until(pilot, lambda: any("is not running: it is finished" in text for text in said(app)))

    play(tmp_path, scene)


def test_deleting_asks_and_takes_the_whole_folder(tmp_path: Path) -> None:
    run = whole_run(tmp_path, "a")
    checkpoint(run, "best", 0.5)
    kept = whole_run(tmp_path, "b", created=1.0)

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: names(app) == ["a", "b"])
        await pilot.press("x")
        await until(pilot, lambda: "Delete a with its checkpoints" in seen(app))
        await pilot.press("n")
        assert run.path.exists()
        await pilot.press("x", "y")
        await until(pilot, lambda: names(app) == ["b"])
        assert not run.path.exists()
        assert kept.path.exists()

    play(tmp_path, scene)


def test_a_running_run_is_not_deleted(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    run = new_run(tmp_path, "live", **running(sleeper))
    best, interval = checkpoint(run, "best", 0.5), checkpoint(run, "epoch_001", 0.4)

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: names(app) == ["live"])
        await pilot.press("x")
        on(app, RunsScreen)
        assert any("stop it first" in text for text in said(app))
        await pilot.press("y", "4")
        await until(pilot, lambda: paths(app) == ["live/best", "live/epoch_001"])
        await pilot.press("x")
        on(app, CheckpointsScreen)
        assert any("still running" in text for text in said(app))
        await pilot.press("j", "x", "y")
        await until(pilot, lambda: paths(app) == ["live/best"])

    play(tmp_path, scene)
    assert best.exists()
    assert not interval.exists()


def test_a_record_that_cannot_be_read_is_a_row_that_says_so(tmp_path: Path) -> None:
    whole_run(tmp_path, "good")
    bad = new_run(tmp_path, "bad")
    best = checkpoint(bad, "best", 0.9)
    (bad.path / "run.json").write_text("{ torn")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: names(app) == ["good", "bad"])
        assert "unreadable" in seen(app)
        await pilot.press("j", "enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen) and "is not a run's record" in headline(app))
        await pilot.press("4")
        await until(pilot, lambda: "bad/best" in paths(app))
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: paths(app) == [])
        await pilot.press("3")
        await pilot.press("x", "y")
        await until(pilot, lambda: names(app) == ["good"])

    play(tmp_path, scene)
    assert not best.exists()
