"""The queue on the screens, by its keys: presets are marked and queued, what waits is moved and taken out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot

from engine.box_queue import BoxQueue
from engine.events import Toggles
from engine.preset import load
from engine.run import RunFolder
from tests.conftest import write_shapes
from tests.queues import quit_queue
from tests.screens import SIZES, new_run, on, play, said, seen, until, whole_run
from tests.training import write_preset
from tui.app import SegtuiApp
from tui.screens.confirm import Confirm
from tui.screens.launch import LaunchScreen
from tui.screens.run import RunScreen
from tui.screens.runs import RunsScreen
from tui.widgets.listing import Listing
from tui.widgets.preset_list import PresetList


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with three presets of its own; whatever works on its queue in the end is ended."""
    (tmp_path / "presets").mkdir()
    text = write_preset(tmp_path, write_shapes(tmp_path / "shapes")).read_text()
    for name in "abc":
        (tmp_path / "presets" / f"{name}.toml").write_text(f'name = "preset-{name}"\n{text}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    yield tmp_path
    quit_queue(tmp_path / "runs")


def queue_of(project: Path, count: int = 3) -> BoxQueue:
    """One that nobody works on."""
    queue = BoxQueue(project / "runs")
    queue.append([load(project / "presets" / f"{name}.toml") for name in "abc"[:count]], Toggles())
    return queue


def presets(app: SegtuiApp) -> list[str]:
    """Of the rows of the queue, from the top."""
    screen = on(app, RunsScreen)
    return [str(screen._queued.entries[key].preset["name"]) for key in screen.query_one(Listing).keys if key in screen._queued.entries]


def marked(app: SegtuiApp) -> list[str]:
    return [path.stem for path in on(app, LaunchScreen).query_one(PresetList).marked]


def test_marks_are_places_in_the_queue_and_esc_takes_them_back(project: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: on(app, LaunchScreen).resolved is not None, 60)
        await pilot.press("space", "j", "space")
        assert marked(app) == ["a", "c"]
        await until(pilot, lambda: "1 presets/a.toml" in seen(app) and "2 presets/c.toml" in seen(app))
        await until(pilot, lambda: "segtui --headless presets/a.toml presets/c.toml" in seen(app))
        await pilot.press("g", "home", "space")
        assert marked(app) == ["c"]
        await until(pilot, lambda: "1 presets/c.toml" in seen(app) and "segtui --headless presets/c.toml --queue" in seen(app))
        await pilot.press("escape")
        assert marked(app) == []
        assert "1 presets/c.toml" not in seen(app)

    play(project / "runs", scene)


def test_no_to_the_question_queues_nothing(project: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: on(app, LaunchScreen).resolved is not None, 60)
        await pilot.press("space", "space", "d", "ctrl+r")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        assert "Queue 2 presets with the toggles debug?" in seen(app)
        assert "presets/a.toml, presets/b.toml" in seen(app)
        await pilot.press("n")
        assert marked(app) == ["a", "b"]
        assert app.launched == []

    play(project / "runs", scene)
    assert not (project / "runs").exists()


def test_a_marked_preset_with_a_mistake_is_told_and_none_is_queued(project: Path) -> None:
    (project / "presets" / "b.toml").write_text("[model]\ntype = 3\n")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: on(app, LaunchScreen).resolved is not None, 60)
        await pilot.press("space", "space", "ctrl+r", "y")
        await until(pilot, lambda: any("b.toml" in text for text in said(app)), 60)
        on(app, LaunchScreen)
        assert marked(app) == ["a", "b"]

    play(project / "runs", scene)
    assert not (project / "runs").exists()


@pytest.mark.slow
def test_marked_presets_are_queued_with_their_edits_and_run(project: Path) -> None:
    """The first starts; it appears as a run once it has begun, and the others stay above it."""

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: on(app, LaunchScreen).resolved is not None, 60)
        screen = on(app, LaunchScreen)
        screen.edits[Path("presets/b.toml")] = {"train.epochs": "train.epochs=7"}
        await pilot.press("space", "space", "ctrl+r", "y")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen) and len(presets(app)) == 2, 60)
        assert "2 queued" in said(app)
        await until(pilot, lambda: "queue: 1 running, 1 waiting" in seen(app))
        assert "starting" in seen(app)
        await until(pilot, lambda: presets(app) == ["preset-b"], 120)
        listing = app.screen.query_one(Listing)
        assert [key.rpartition("/")[2] for key in listing.keys] == ["queue:2", "FPN-resnet18"]
        await pilot.press("G", "enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        await pilot.press("1")
        assert marked(app) == []

    play(project / "runs", scene)
    assert [entry.preset["train"]["epochs"] for entry in BoxQueue(project / "runs").read().entries] == [5, 7]
    assert RunFolder(project / "runs" / "FPN-resnet18").read().ticket


def test_what_waits_is_moved_by_its_keys_and_the_cursor_goes_with_it(project: Path) -> None:
    queue_of(project)
    whole_run(project / "runs", "older")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: presets(app) == ["preset-a", "preset-b", "preset-c"])
        await pilot.press("J")
        await until(pilot, lambda: presets(app) == ["preset-b", "preset-a", "preset-c"])
        await pilot.press("shift+down")
        await until(pilot, lambda: presets(app) == ["preset-b", "preset-c", "preset-a"])
        await pilot.press("K")
        await until(pilot, lambda: presets(app) == ["preset-b", "preset-a", "preset-c"])
        await pilot.press("shift+up")
        await until(pilot, lambda: presets(app) == ["preset-a", "preset-b", "preset-c"])
        assert on(app, RunsScreen).selected_queued == "queue:1"
        await pilot.press("o", "o")  # they stay on top however the runs are sorted
        assert presets(app) == ["preset-a", "preset-b", "preset-c"]
        await pilot.press("G", "K")
        assert any("only what waits in the queue can be moved" in text for text in said(app))
        await pilot.press("slash", *"preset-c", "enter")
        assert presets(app) == ["preset-c"]

    play(project / "runs", scene)


def test_what_waits_is_taken_out_once_that_is_confirmed(project: Path) -> None:
    queue = queue_of(project)

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: len(presets(app)) == 3)
        await pilot.press("j", "s")
        assert any("it has no run yet" in text for text in said(app))
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        assert "Take FPN-resnet18 (preset-b) out of the queue?" in seen(app)
        await pilot.press("n")
        assert len(queue.read().waiting) == 3
        await pilot.press("x", "y")
        await until(pilot, lambda: presets(app) == ["preset-a", "preset-c"])
        await pilot.press("space")  # a mark is for runs
        assert on(app, RunsScreen).marked == []

    play(project / "runs", scene)
    assert [entry.state for entry in queue.read().entries] == ["queued", "cancelled", "queued"]


def test_what_never_ran_says_why_and_is_forgotten(project: Path) -> None:
    queue = queue_of(project, 2)
    with queue.changing() as state:
        state.find(1).state, state.find(1).error = "failed", "val.json: [bold]is gone"

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: len(presets(app)) == 2)
        assert " failed " in seen(app)
        await pilot.press("enter")
        assert "val.json: [bold]is gone" in said(app)
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        assert "It never ran: val.json: [bold]is gone" in seen(app)
        await pilot.press("y")
        await until(pilot, lambda: presets(app) == ["preset-b"])

    play(project / "runs", scene)


@pytest.mark.slow
def test_enter_goes_on_with_a_queue_that_nobody_works_on(project: Path) -> None:
    queue = queue_of(project, 2)

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: "It stands still: enter on a waiting one goes on" in seen(app))
        await pilot.press("enter")
        await until(pilot, lambda: "queue: 1 running, 1 waiting" in seen(app) and "stands still" not in seen(app), 60)
        assert queue.is_worked_on
        await pilot.press("g", "enter")
        await until(pilot, lambda: any("is starting" in text for text in said(app)))
        await pilot.press("x")
        assert any("is starting: stop it once it runs" in text for text in said(app))
        await pilot.press("j", "enter")
        assert any("waits for its turn" in text for text in said(app))

    play(project / "runs", scene)


def test_a_damaged_queue_is_told_and_the_runs_are_listed(project: Path) -> None:
    new_run(project / "runs", "fine")
    queue = BoxQueue(project / "runs")
    queue.folder.mkdir()
    queue.file.write_text("{")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: "is not a queue's record" in seen(app))
        assert "fine" in seen(app)

    play(project / "runs", scene)
    assert queue.file.read_text() == "{"
    queue.file.unlink()


@pytest.mark.parametrize("size", SIZES)
def test_the_queue_at_every_size(project: Path, size: tuple[int, int]) -> None:
    queue_of(project)
    whole_run(project / "runs", "older")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        if size[0] >= 80:
            await until(pilot, lambda: len(presets(app)) == 3)
            assert "#1" in seen(app)
            assert "older" in seen(app)
        await pilot.press("J", "K", "j", "x", "n")

    play(project / "runs", scene, size=size)
