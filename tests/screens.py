"""Screens under test: real run folders, keys pressed, what is then on the terminal."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input, Static

from engine.checkpoint import save_weights
from engine.checkpoint_header import CheckpointHeader
from engine.events import AnyEvent, Epoch, EventLog, Images, Message, RunEnded, RunStarted, Step, Toggles, Validation
from engine.run import RunFolder, RunRecord, claim
from tui.app import SegtuiApp
from tui.screens.checkpoints import CheckpointsScreen
from tui.screens.run import RunScreen
from tui.screens.runs import RunsScreen
from tui.widgets.listing import Listing

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


def running(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    return {"state": "running", "pid": process.pid, "pid_started": psutil.Process(process.pid).create_time(), "ended": None, "epoch": 1}


def play(runs: Path, scene: Play, size: tuple[int, int] = (140, 45), **options: Any) -> SegtuiApp:
    async def stage() -> SegtuiApp:
        app = SegtuiApp(runs, **options)
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
    """The runs that are listed, from the top."""
    return [Path(key).name for key in on(app, RunsScreen).query_one(Listing).keys]


def paths(app: SegtuiApp) -> list[str]:
    """The checkpoints that are listed, from the top: `run/checkpoint`."""
    files = [Path(key) for key in on(app, CheckpointsScreen).query_one(Listing).keys]
    return [f"{file.parent.parent.name}/{file.stem}" for file in files]


async def opened(pilot: Pilot[None], app: SegtuiApp, name: str) -> RunScreen:
    """Found by the filter and opened by enter, as a person would."""
    await pilot.press("3")
    await until(pilot, lambda: isinstance(app.screen, RunsScreen) and app.screen.query_one(Listing).row_count > 0)
    await pilot.press("escape", "slash")
    app.screen.query_one("#filter", Input).value = name
    await until(pilot, lambda: name in names(app))
    app.screen.query_one(Listing).move_cursor(row=names(app).index(name))
    await pilot.press("enter", "enter")
    await until(pilot, lambda: isinstance(app.screen, RunScreen))
    screen = on(app, RunScreen)
    await until(pilot, lambda: screen.followed is None or (screen.followed.is_over and not screen._dirty))
    return screen


def headline(app: SegtuiApp) -> str:
    return str(on(app, RunScreen).query_one("#headline", Static).render())


def visible(app: SegtuiApp, kind: type[AnyWidget]) -> bool:
    return any(each.region.height > 0 and each.region.width > 0 and each.display for each in app.screen.query(kind))
