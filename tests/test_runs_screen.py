"""The list of runs, by its keys, against real run folders."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

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
    validation,
    whole_run,
)
from tui.app import SegtuiApp
from tui.screens.checkpoints import CheckpointsScreen
from tui.screens.confirm import Confirm
from tui.screens.run import RunScreen
from tui.screens.runs import RunsScreen
from tui.widgets.listing import Listing


def test_two_hundred_runs_are_listed_newest_first(tmp_path: Path) -> None:
    now = time.time()
    for number in range(200):
        new_run(tmp_path, f"run-{number:03d}", created=now - 1000 * ((number * 37) % 200), ended=now)
    expected = [f"run-{number:03d}" for number in sorted(range(200), key=lambda number: (number * 37) % 200)]

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: len(names(app)) == 200)
        assert names(app) == expected
        table = app.screen.query_one(Listing)
        await pilot.press("j", "j", "k")
        assert table.cursor_row == 1
        await pilot.press("ctrl+end")
        assert table.cursor_row == 199
        await pilot.press("j")
        assert table.cursor_row == 199
        await pilot.press("ctrl+home")
        assert table.cursor_row == 0

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
        assert app.focused is app.screen.query_one(Listing)
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
        await until(pilot, lambda: " lost " in seen(app))

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


def test_sorting_goes_round_and_the_cursor_stays_with_its_run(tmp_path: Path) -> None:
    now = time.time()
    new_run(tmp_path, "b", created=now - 300, ended=now - 290, best_mIoU=0.7, best_epoch=2)
    new_run(tmp_path, "a", created=now - 200, ended=now - 100, best_mIoU=0.5, best_epoch=1, state="failed")
    new_run(tmp_path, "c", created=now - 100, ended=now - 50)
    orders = {"mIoU": ["b", "a", "c"], "run": ["a", "b", "c"], "state": ["a", "c", "b"], "took": ["a", "c", "b"], "age": ["c", "a", "b"]}

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: names(app) == ["c", "a", "b"])
        assert "age ▾" in seen(app)
        await pilot.press("j")
        for column, expected in orders.items():
            await pilot.press("o")
            await until(pilot, lambda column=column: f"{column} ▾" in seen(app))  # type: ignore[misc]
            assert names(app) == expected
            chosen = on(app, RunsScreen).selected
            assert chosen is not None
            assert chosen.path.name == "a"

    play(tmp_path, scene)


def test_marks_survive_filter_sorting_and_refresh_and_esc_clears_both(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b", "c")):
        new_run(tmp_path, name, created=1000.0 - number)

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: names(app) == ["a", "b", "c"])
        screen = on(app, RunsScreen)
        await pilot.press("j", "space", "k", "k", "space")
        assert [Path(path).name for path in screen.marked] == ["b", "a"]
        await pilot.press("slash", *"c", "enter", "o")
        await until(pilot, lambda: names(app) == ["c"])
        new_run(tmp_path, "cc", created=2000.0)
        await until(pilot, lambda: len(names(app)) == 2)
        assert [Path(path).name for path in screen.marked] == ["b", "a"]
        await pilot.press("escape")
        await until(pilot, lambda: len(names(app)) == 4)
        assert screen.marked == []
        assert "●" not in seen(app)

    play(tmp_path, scene)


def test_deleting_takes_all_that_are_marked_and_names_what_runs(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    live = new_run(tmp_path, "live", created=4000.0, **running(sleeper))
    gone = [whole_run(tmp_path, name, created=created) for name, created in (("a", 3000.0), ("b", 2000.0))]
    kept = whole_run(tmp_path, "c", created=1000.0)

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: len(names(app)) == 4)
        await pilot.press("space", "space", "space", "x")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        assert "Delete 2 runs (a, b) with their checkpoints" in seen(app)
        assert any("live is running: stop it first" in text for text in said(app))
        await pilot.press("y")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen) and names(app) == ["live", "c"])

    play(tmp_path, scene)
    assert not any(run.path.exists() for run in gone)
    assert live.path.exists()
    assert kept.path.exists()


def test_the_curve_of_the_validations_is_beside_each_run(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    run = told(new_run(tmp_path, "a", **running(sleeper)), [begun("a"), *(validation(epoch, [epoch / 8] * 3) for epoch in range(1, 9))])
    new_run(tmp_path, "none")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: "▁▂▃▄▅▆▇█" in seen(app))
        told(run, [validation(9, [0.0] * 3)])
        await until(pilot, lambda: "██▁" in seen(app))

    play(tmp_path, scene, (80, 24))


@pytest.mark.parametrize("size", [(40, 10), (80, 24)])
def test_a_small_terminal_shows_what_matters_most(tmp_path: Path, size: tuple[int, int]) -> None:
    whole_run(tmp_path, "한국어-" + "x" * 120 + "_exp2", best_mIoU=0.8125)

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: "0.8125" in seen(app))
        text = seen(app)
        assert "finished" in text
        assert "한국" in text
        assert "exp2" in text
        assert ("epoch" in text.splitlines()[1]) == (size[0] >= 80)

    play(tmp_path, scene, size)
