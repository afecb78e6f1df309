"""The screens, by their keys, against real run folders."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
import torch
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import DataTable, Input, OptionList, RichLog, Static

from engine.checkpoint import save_weights
from engine.checkpoint_header import CheckpointHeader
from engine.events import AnyEvent, Epoch, EventLog, Images, Message, RunEnded, RunStarted, Step, Toggles, Validation
from engine.run import RunFolder, RunRecord, claim
from tests.conftest import write_shapes
from tests.training import kill, wait_for, write_preset
from tui.app import SegtuiApp
from tui.screens.checkpoints import CheckpointsScreen
from tui.screens.confirm import Confirm
from tui.screens.help import HelpScreen
from tui.screens.launch import LaunchScreen
from tui.screens.run import RunScreen
from tui.screens.runs import RunsScreen
from tui.widgets.iou_table import IoUTable
from tui.widgets.plot import Plot

ROOT = Path(__file__).parents[1]
SHAPES = ["Background", "square", "triangle"]
KOREAN = ["배경", "일반 쓰레기", "종이", "종이팩", "금속"]
SIZES = [(80, 24), (140, 45), (200, 60), (40, 10)]
Play = Callable[["Pilot[None]", SegtuiApp], Awaitable[None]]
AnyScreen = TypeVar("AnyScreen", bound=Screen[Any])
AnyWidget = TypeVar("AnyWidget", bound=Widget)


def new_run(runs: Path, name: str, **changes: Any) -> RunFolder:
    folder = claim(runs, name, debug=False)
    fields: dict[str, Any] = {
        "name": folder.path.name,
        "state": "finished",
        "preset": "tiny",
        "model": "FPN-resnet18",
        "toggles": Toggles(),
        "host": socket.gethostname(),
        "pid": 1,
        "pid_started": 0.0,
        "created": time.time() - 100,
        "ended": time.time() - 40,
        "epochs": 3,
        "epoch": 3,
    }
    folder.write(RunRecord(**fields | changes))
    folder.checkpoints.mkdir()
    return folder


def told(folder: RunFolder, events: Sequence[AnyEvent]) -> RunFolder:
    log = EventLog(folder.events)
    for seq, event in enumerate(events, log.last_seq + 1):
        event.seq, event.time = seq, 1_790_000_000.0 + seq
        log.append(event)
    log.close()
    return folder


def begun(name: str, classes: Sequence[str] = SHAPES, epochs: int = 3, steps: int = 10) -> RunStarted:
    return RunStarted(
        run=name,
        preset="tiny",
        classes=list(classes),
        epochs=epochs,
        steps_per_epoch=steps,
        device="cpu",
        world_size=1,
        images=Images(40, 8),
        toggles=Toggles(),
        model="FPN-resnet18",
    )


def validation(epoch: int, ious: Sequence[float | None], support: Sequence[int] | None = None, mIoU: float | None = None) -> Validation:
    known = [iou for iou in ious if iou is not None]
    mean = mIoU if mIoU is not None else sum(known) / len(known) if known else None
    scores: dict[str, Any] = {"acc": 0.5, "mean_acc": 0.5, "fwavacc": 0.5, "class_acc": [0.5] * len(ious), "best": True}
    support = support if support is not None else [100] * len(ious)
    return Validation(
        epoch=epoch, loss=1.0 / epoch, mIoU=mean, IoU=list(ious), support=list(support), best_epoch=epoch, best_mIoU=mean, **scores
    )


def history(name: str, classes: Sequence[str] = SHAPES, epochs: int = 3, steps: int = 10, loss: float | None = 1.0) -> list[AnyEvent]:
    """A whole run in which the last class gets better and the first one worse."""
    events: list[AnyEvent] = [begun(name, classes, epochs, steps), Message(level="info", text="masks are cached")]
    for epoch in range(1, epochs + 1):
        for step in range((epoch - 1) * steps + 1, epoch * steps + 1):
            events.append(Step(epoch=epoch, step=step, loss=loss and loss / step, lr=1e-3, images_per_s=9.0, data_wait=0.1))
        ious = [0.2 + 0.5 * index / len(classes) + 0.05 * epoch * (1 if index else -1) for index in range(len(classes))]
        events.append(Epoch(epoch=epoch, loss=loss, mIoU=0.5, IoU=list(ious), acc=list(ious)))
        events.append(validation(epoch, ious, [10 * (index + 1) for index in range(len(classes))]))
    return [*events, RunEnded(state="finished")]


def whole_run(runs: Path, name: str, classes: Sequence[str] = SHAPES, **changes: Any) -> RunFolder:
    folder = new_run(runs, name, **changes)
    return told(folder, history(folder.path.name, classes))


def checkpoint(run: RunFolder, stem: str, mIoU: float | None, *, epoch: int = 3, classes: Sequence[str] = SHAPES) -> Path:
    path = run.checkpoints / f"{stem}.safetensors"
    header = CheckpointHeader(
        segtui="0.1.0",
        kind="best" if stem == "best" else "interval",
        preset={"name": "tiny", "model": {"type": "FPN", "encoder_name": "resnet18"}, "data": {"root": "shapes"}},
        classes=list(classes),
        mean=[0.5] * 3,
        std=[0.2] * 3,
        epoch=epoch,
        mIoU=mIoU,
        IoU=[0.25 + 0.5 * index / len(classes) for index in range(len(classes))],
    )
    save_weights(path, {"weight": torch.zeros(4)}, header)
    return path


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that may be stopped, for records that say that they run."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def running(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    return {"state": "running", "pid": process.pid, "pid_started": psutil.Process(process.pid).create_time(), "ended": None, "epoch": 1}


def play(runs: Path, scene: Play, size: tuple[int, int] = (140, 45)) -> SegtuiApp:
    async def stage() -> SegtuiApp:
        app = SegtuiApp(runs)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await scene(pilot, app)
        return app

    resource_tracker.ensure_running()  # before the app, as the program does (Textualize/textual#3593)
    app = asyncio.run(stage())
    assert app.return_code in (0, None), app.return_code
    return app


async def until(pilot: Pilot[None], condition: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        await pilot.pause(0.02)
    await pilot.pause()


def on(app: SegtuiApp, kind: type[AnyScreen]) -> AnyScreen:
    assert isinstance(app.screen, kind), app.screen
    return app.screen


def seen(app: SegtuiApp) -> str:
    """What is on the terminal, line by line; a double-width letter takes two cells and is written once."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


def said(app: SegtuiApp) -> list[str]:
    return [notification.message for notification in app._notifications]


def names(app: SegtuiApp) -> list[str]:
    """The first column of the list of runs."""
    table = on(app, RunsScreen).query_one(DataTable)
    return [str(table.get_row_at(row)[0]) for row in range(table.row_count)]


def paths(app: SegtuiApp) -> list[str]:
    table = on(app, CheckpointsScreen).query_one(DataTable)
    return [f"{table.get_row_at(row)[2]}/{table.get_row_at(row)[3]}" for row in range(table.row_count)]


async def opened(pilot: Pilot[None], app: SegtuiApp, name: str) -> RunScreen:
    """Found by the filter and opened by enter, as a person would."""
    await pilot.press("3")
    await until(pilot, lambda: isinstance(app.screen, RunsScreen) and app.screen.query_one(DataTable).row_count > 0)
    await pilot.press("escape", "slash")
    app.screen.query_one("#filter", Input).value = name
    await until(pilot, lambda: name in names(app))
    app.screen.query_one(DataTable).move_cursor(row=names(app).index(name))
    await pilot.press("enter", "enter")
    await until(pilot, lambda: isinstance(app.screen, RunScreen))
    screen = on(app, RunScreen)
    await until(pilot, lambda: screen.followed is None or (screen.followed.is_over and not screen._dirty))
    return screen


def headline(app: SegtuiApp) -> str:
    return str(on(app, RunScreen).query_one("#headline", Static).render())


def visible(app: SegtuiApp, kind: type[AnyWidget]) -> bool:
    return any(each.region.height > 0 and each.region.width > 0 and each.display for each in app.screen.query(kind))


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
        assert f"step 3  train {1 / 3:.4g}" in seen(app)
        await pilot.press("0")
        assert plot.view is None

    play(tmp_path, scene)


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


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with presets of its own."""
    (tmp_path / "presets").mkdir()
    write_preset(tmp_path / "presets", write_shapes(tmp_path / "shapes", train=12, val=4))
    (tmp_path / "presets" / "wrong.toml").write_text('[model]\ntype = "FPNN"\n')
    (tmp_path / "presets" / "base.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def options(app: SegtuiApp) -> list[str]:
    listed = on(app, LaunchScreen).query_one(OptionList)
    return [str(listed.get_option_at_index(index).prompt) for index in range(listed.option_count)]


def test_presets_are_the_projects_own_then_the_built_in_ones(project: Path) -> None:
    built_in = sorted(path.stem for path in (ROOT / "presets").glob("*.toml") if path.stem != "base")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        assert options(app) == ["presets/tiny.toml", "presets/wrong.toml", *built_in]
        await until(pilot, lambda: 'encoder_name = "resnet18"' in seen(app), 60)
        await pilot.press("j")
        await until(pilot, lambda: "FPNN" in seen(app))
        await pilot.press("ctrl+r")
        assert any("has a mistake" in text for text in said(app))
        await pilot.press("k")
        await until(pilot, lambda: 'encoder_name = "resnet18"' in seen(app))
        await pilot.press("slash", *"unet", "enter")
        assert options(app) == ["unet", "unetplusplus"]
        assert app.focused is app.screen.query_one(OptionList)
        await pilot.press("escape")
        assert len(options(app)) == 2 + len(built_in)
        await pilot.press("slash", *"nosuch")
        await until(pilot, lambda: "no preset matches the filter" in seen(app))
        await pilot.press("enter", "ctrl+r")
        assert app.launched == []

    play(project / "runs", scene)


def test_the_toggles_are_shown_and_kept(project: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        screen = on(app, LaunchScreen)
        for key, name in (("d", "debug"), ("D", "deterministic"), ("p", "private")):
            assert f"□ {name}" in seen(app)
            await pilot.press(key)
            await until(pilot, lambda name=name: f"■ {name}" in seen(app))  # type: ignore[misc]
        assert screen.toggles == Toggles(debug=True, deterministic=True, private=True)
        await pilot.press("D")
        assert screen.toggles == Toggles(debug=True, private=True)
        await pilot.press("2", "1")
        assert on(app, LaunchScreen).toggles == Toggles(debug=True, private=True)

    play(project / "runs", scene)


@pytest.mark.slow
def test_a_run_started_by_keys_is_watched_to_its_score_and_goes_on_after_leaving(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = project / "presets" / "tiny.toml"
    preset.write_text(preset.read_text().replace("epochs = 5", "epochs = 500") + '\n[wandb]\nmode = "disabled"\n')
    runs = project / "runs"

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: on(app, LaunchScreen).resolved is not None, 60)
        await pilot.press("d", "enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        screen = on(app, RunScreen)
        await until(pilot, lambda: "mIoU 0." in headline(app), 120)
        told_steps = len(screen.curves.loss)
        assert told_steps > 0
        await pilot.press("3")
        await until(pilot, lambda: names(app) == ["debug_FPN-resnet18"])
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen) and "mIoU 0." in headline(app))
        assert len(on(app, RunScreen).curves.loss) >= told_steps
        assert on(app, RunScreen).curves.loss.x[0] == 1
        assert app.live() == [f"goes on: segtui attach {runs / 'debug_FPN-resnet18'}"]
        await pilot.press("q")

    play(runs, scene)
    run = RunFolder(runs / "debug_FPN-resnet18")
    record = run.read()
    assert record.state == "running"
    size = run.events.stat().st_size
    wait_for(lambda: run.events.stat().st_size > size + 2000)
    kill(record.pid, signal.SIGTERM)
    wait_for(lambda: run.read().state == "stopped")


@pytest.mark.slow
def test_a_run_stopped_and_resumed_by_keys_keeps_the_curves_of_before(project: Path) -> None:
    preset = project / "presets" / "tiny.toml"
    preset.write_text(preset.read_text().replace("epochs = 5", "epochs = 500") + '\n[wandb]\nmode = "disabled"\n')
    runs = project / "runs"

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: on(app, LaunchScreen).resolved is not None, 60)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        screen = on(app, RunScreen)
        await until(pilot, lambda: "mIoU 0." in headline(app), 120)
        await pilot.press("s", "y")
        await until(pilot, lambda: "stopped" in headline(app), 60)
        before = list(screen.curves.loss.x)
        last_epoch = screen.state.validations[-1].epoch
        await until(pilot, lambda: app.live() == [], 60)
        await pilot.press("r")
        await until(pilot, lambda: screen.state.validations[-1].epoch > last_epoch, 120)
        steps = list(screen.curves.loss.x)
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) > len(before)
        assert [each.epoch for each in screen.state.validations] == list(range(1, screen.state.validations[-1].epoch + 1))
        await pilot.press("s", "y")
        await until(pilot, lambda: "stopped" in headline(app), 60)

    play(runs, scene)
    assert RunFolder(runs / "FPN-resnet18").read().state == "stopped"


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
