"""One run on the screen: live, whole, failed, gone."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import RichLog

from engine.events import AnyEvent, EventLog, Message, RunEnded, Step
from tests.screens import (
    KOREAN,
    begun,
    checkpoint,
    headline,
    history,
    names,
    new_run,
    on,
    opened,
    paths,
    play,
    running,
    said,
    seen,
    told,
    until,
    validation,
    visible,
    whole_run,
)
from tui.app import SegtuiApp
from tui.screens.checkpoints import CheckpointsScreen
from tui.screens.run import RunScreen
from tui.screens.runs import RunsScreen
from tui.widgets.iou_table import IoUTable
from tui.widgets.plot import Plot


def test_enter_opens_the_run_and_esc_goes_back(tmp_path: Path) -> None:
    whole_run(tmp_path, "a")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: names(app) == ["a"])
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen) and "mIoU 0." in headline(app))
        ious = [0.2 + 0.5 * index / 3 + 0.15 * (1 if index else -1) for index in range(3)]
        assert f"mIoU {sum(ious) / 3:.4f}" in headline(app)
        assert "epoch 3/3  step 30/30" in headline(app)
        assert "finished" in headline(app)
        assert "FPN-resnet18" in headline(app)
        screen = on(app, RunScreen)
        assert list(screen.curves.loss.x) == list(range(1, 31))
        assert list(screen.curves.val_mIoU.x) == [10, 20, 30]
        assert any("a" in str(each.sub_title) for each in (screen,))
        await pilot.press("escape")
        on(app, RunsScreen)

    play(tmp_path, scene)


@pytest.mark.slow
def test_another_run_replaces_the_one_shown_with_nothing_left_of_it(tmp_path: Path) -> None:
    whole_run(tmp_path, "many", KOREAN)
    new_run(tmp_path, "empty")
    told(new_run(tmp_path, "short"), [begun("short"), Message(level="info", text="only this")])

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        screen = await opened(pilot, app, "many")
        assert "종이팩" in seen(app)
        await opened(pilot, app, "short")
        assert "mIoU -" in headline(app)
        assert "no validation yet" in seen(app)
        assert len(screen.curves.loss) == 0
        await pilot.press("v", "v")
        await until(pilot, lambda: "only this" in seen(app))
        assert "masks are cached" not in seen(app)
        await pilot.press("v")
        await opened(pilot, app, "many")
        assert "종이팩" in seen(app)
        await opened(pilot, app, "empty")
        await until(pilot, lambda: "종이팩" not in seen(app))
        assert "no validation yet" in seen(app)

    play(tmp_path, scene)


def test_stopping_from_the_run_screen_asks_and_a_dead_run_is_shown_as_lost(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    told(new_run(tmp_path, "live", **running(sleeper)), [begun("live")])

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: names(app) == ["live"])
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen) and "running" in headline(app))
        await pilot.press("s", "n")
        on(app, RunScreen)
        assert sleeper.poll() is None
        await pilot.press("s", "y")
        await until(pilot, lambda: sleeper.poll() is not None)
        await until(pilot, lambda: "lost" in headline(app))
        await pilot.press("s")
        assert "nothing runs here" in said(app)

    play(tmp_path, scene)


def test_a_warning_that_comes_while_one_looks_is_seen_whatever_the_view(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    run = told(new_run(tmp_path, "live", **running(sleeper)), [begun("live"), Message(level="warning", text="of long ago")])

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: names(app) == ["live"])
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen) and "running" in headline(app))
        log = EventLog(run.events)
        log.append(Message(level="warning", text="[b]one of the 2 processes had died", seq=3, time=time.time()))
        log.close()
        await until(pilot, lambda: "[b]one of the 2 processes had died" in said(app))
        assert "of long ago" not in said(app)

    play(tmp_path, scene)


def test_a_failed_run_shows_its_error_first(tmp_path: Path) -> None:
    error = "CUDA out of memory [in layer 3]: lower data.batch_size"
    run = new_run(tmp_path, "broken", state="failed", error=error)
    told(run, [*history("broken")[:20], RunEnded(state="failed", error=error, traceback="Traceback ...")])

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await opened(pilot, app, "broken")
        assert headline(app).startswith(error)
        shown = [line for line in seen(app).splitlines() if line.strip()]
        assert error in shown[1]
        assert "failed" in headline(app)

    play(tmp_path, scene)


def test_a_run_without_any_event_is_shown_by_its_record(tmp_path: Path) -> None:
    new_run(tmp_path, "silent", state="failed", error="the data set is gone")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await opened(pilot, app, "silent")
        assert headline(app).startswith("the data set is gone")
        assert "no points yet" in seen(app)
        await pilot.press("v", "v", "v", "tab", "left", "plus", "y", "o")

    play(tmp_path, scene)


def test_losses_that_are_not_numbers_are_gaps(tmp_path: Path) -> None:
    run = new_run(tmp_path, "nan")
    told(run, [*history("nan", loss=None)[:-1], validation(4, [None, None, None]), RunEnded(state="finished")])

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        screen = await opened(pilot, app, "nan")
        assert all(value != value for value in screen.curves.loss.y)
        assert "not finite" in seen(app)
        assert "mIoU -" in headline(app)
        assert "not seen" in seen(app)

    play(tmp_path, scene)


def test_a_very_long_path_is_opened_and_copied_whole(tmp_path: Path) -> None:
    runs = tmp_path
    for _ in range(8):
        runs = runs / ("long [b]folder[/b] name " * 4)
    run = whole_run(runs, "a")
    weights = checkpoint(run, "best", 0.5)

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await opened(pilot, app, "a")
        await pilot.press("c")
        assert app.clipboard == str(run.path.absolute())
        await pilot.press("4")
        await until(pilot, lambda: paths(app) == ["a/best"])
        await pilot.press("y")
        assert app.clipboard == str(weights.absolute())

    play(runs, scene, (80, 24))


def test_a_run_that_is_deleted_while_it_is_open_says_so(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    run = told(new_run(tmp_path, "live", **running(sleeper)), [begun("live")])

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: names(app) == ["live"])
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen) and "running" in headline(app))
        for file in run.path.iterdir():
            file.rmdir() if file.is_dir() else file.unlink()
        run.path.rmdir()
        await until(pilot, lambda: "cannot be read" in headline(app))
        await pilot.press("s", "c", "r", "v", "escape")
        await until(pilot, lambda: "no runs in" in seen(app))

    play(tmp_path, scene)


def test_the_views_take_turns_where_there_is_no_room_for_all(tmp_path: Path) -> None:
    whole_run(tmp_path, "a")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await opened(pilot, app, "a")
        shown = []
        for _ in range(4):
            shown.append((visible(app, Plot), visible(app, IoUTable), visible(app, RichLog)))
            await pilot.press("v")
            await pilot.pause(0.05)
        plots, table, log = (True, False, False), (False, True, False), (False, False, True)
        assert shown == [plots, table, log, plots]

    play(tmp_path, scene, (80, 24))


def test_a_wide_terminal_shows_plots_beside_the_table_or_the_log(tmp_path: Path) -> None:
    whole_run(tmp_path, "a")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await opened(pilot, app, "a")
        assert (visible(app, Plot), visible(app, IoUTable), visible(app, RichLog)) == (True, True, False)
        await pilot.press("v", "v")
        await pilot.pause(0.05)
        assert (visible(app, Plot), visible(app, IoUTable), visible(app, RichLog)) == (True, False, True)
        assert "masks are cached" in seen(app)

    play(tmp_path, scene)


def test_classes_are_sorted_by_iou_by_change_and_by_pixels(tmp_path: Path) -> None:
    run = new_run(tmp_path, "a")
    first, last = [0.50, 0.80, 0.30, None], [0.60, 0.40, 0.35, 0.10]
    support = [10, 40, 20, 30]
    told(run, [begun("a", ["ash", "beech", "cedar", "dogwood"]), validation(1, first, support), validation(2, last, support)])

    def order(app: SegtuiApp) -> list[str]:
        text = seen(app)
        return sorted(("ash", "beech", "cedar", "dogwood"), key=lambda name: text.index(f"■ {name}"))

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await opened(pilot, app, "a")
        app.screen.query_one(IoUTable).focus()
        expected = [
            ["ash", "beech", "cedar", "dogwood"],
            ["dogwood", "cedar", "beech", "ash"],
            ["beech", "cedar", "ash", "dogwood"],
            ["beech", "dogwood", "cedar", "ash"],
        ]
        for names_in_order in expected:
            await pilot.pause(0.05)
            assert order(app) == names_in_order
            await pilot.press("o")
        await pilot.pause(0.05)
        assert order(app) == expected[0]

    play(tmp_path, scene)


def test_the_keys_of_a_plot_work_on_the_screen(tmp_path: Path) -> None:
    whole_run(tmp_path, "a")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        screen = await opened(pilot, app, "a")
        plot = screen.query_one("#loss", Plot)
        plot.focus()
        await pilot.press("g", "l", "l", "y", "plus")
        assert plot.cursor == 3
        assert plot.log_scale
        assert plot.view is not None
        await pilot.pause(0.05)
        assert "step 3" in seen(app)
        assert f"train {1 / 3:.4g}" in seen(app)
        await pilot.press("0")
        assert plot.view is None

    play(tmp_path, scene)


def test_a_run_that_cannot_be_resumed_says_why(tmp_path: Path) -> None:
    whole_run(tmp_path, "done")
    new_run(tmp_path, "early", state="stopped")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await opened(pilot, app, "done")
        await pilot.press("r")
        await until(pilot, lambda: any("has finished" in text for text in said(app)))
        await opened(pilot, app, "early")
        await pilot.press("r")
        await until(pilot, lambda: any("no state to resume from" in text for text in said(app)))
        assert app.launched == []

    play(tmp_path, scene)


def test_a_long_history_of_a_live_run_is_shown_whole_and_in_order(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    count = 40_000
    run = new_run(tmp_path, "live", **running(sleeper))
    steps: list[AnyEvent] = [Step(epoch=1, step=step, loss=1.0, lr=1e-3, images_per_s=1.0, data_wait=0.0) for step in range(1, count + 1)]
    told(run, [begun("live", epochs=1, steps=2 * count), *steps])

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: names(app) == ["live"])
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        screen = on(app, RunScreen)
        log = EventLog(run.events)
        last = count
        while len(screen.curves.loss) < count:
            last += 1
            log.append(Step(epoch=1, step=last, loss=1.0, lr=1e-3, images_per_s=1.0, data_wait=0.0, seq=last + 1, time=time.time()))
            await pilot.pause(0.02)
        log.close()
        await until(pilot, lambda: screen.state.step is not None and screen.state.step.step == last)
        assert list(screen.curves.loss.x) == list(range(1, last + 1))

    play(tmp_path, scene)


def test_each_plot_takes_the_whole_screen_in_turn(tmp_path: Path) -> None:
    whole_run(tmp_path, "a")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        screen = await opened(pilot, app, "a")

        def in_sight() -> list[str]:
            return [str(plot.id) for plot in screen.query(Plot) if plot.region.height > 0]

        before = in_sight()
        for plot in ("loss", "mIoU", "rate"):
            await pilot.press("f")
            await until(pilot, lambda plot=plot: in_sight() == [plot])  # type: ignore[misc]
            assert app.focused is screen.query_one(f"#{plot}")
            assert not visible(app, IoUTable)
        await pilot.press("f")
        await until(pilot, lambda: in_sight() == before)

    play(tmp_path, scene, (80, 24))


def test_the_checkpoints_of_the_run_in_sight_are_a_key_away(tmp_path: Path) -> None:
    checkpoint(whole_run(tmp_path, "mine"), "best", 0.5)
    checkpoint(whole_run(tmp_path, "another"), "best", 0.6)

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await opened(pilot, app, "mine")
        await pilot.press("b")
        await until(pilot, lambda: isinstance(app.screen, CheckpointsScreen) and paths(app) == ["mine/best"])
        await pilot.press("escape")
        await until(pilot, lambda: len(paths(app)) == 2)

    play(tmp_path, scene)
