"""Predicting from the screens, by their keys: checkpoints handed over or chosen, started, and the results there are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from engine.prediction_record import MemberRecord, PredictionRecord, Scored, read_record
from tests.predicting import CLASSES, write_run
from tests.screens import on, play, said, seen, until
from tui.app import SegtuiApp
from tui.screens.checkpoints import CheckpointsScreen
from tui.screens.confirm import Confirm
from tui.screens.masks import MasksScreen
from tui.screens.pick_checkpoints import PickCheckpoints
from tui.screens.predict import PredictScreen
from tui.widgets.listing import Listing


@pytest.fixture
def two(shapes: Path) -> Path:
    """The folder of two runs, each with a best checkpoint of a network that nobody trained."""
    write_run("one", shapes)
    write_run("two", shapes, seed=1)
    return shapes.parent / "runs"


async def listed(pilot: Pilot[None], app: SegtuiApp) -> None:
    await pilot.press("4")
    await until(pilot, lambda: isinstance(app.screen, CheckpointsScreen) and app.screen.query_one(Listing).row_count == 2)
    app.screen.query_one(Listing).move_cursor(row=0)
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
        assert said(app) == ["choose a checkpoint first: c", "nothing is being predicted"]
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
def test_a_soft_vote_by_keys_ends_with_its_table_and_is_not_overwritten(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(two.parent)

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
        await until(pilot, lambda: "vs best member" in seen(app) and "predict.json" in seen(app))
        await pilot.press("m")
        await until(pilot, lambda: isinstance(app.screen, MasksScreen) and "1/4  mIoU" in seen(app))
        await pilot.press("escape", "4", "v")  # the same again: the one that has ended is forgotten
        await until(pilot, lambda: app.screen is screen and not screen.is_predicting)
        assert "starting" not in seen(app)
        screen.query_one("#field-name", Input).value = "mine"
        await pilot.press("ctrl+r")
        await until(pilot, lambda: "is there already" in seen(app), 120)
        assert "ctrl+f replaces it" in seen(app)
        await pilot.press("ctrl+f")
        await until(pilot, lambda: screen.progress is not None or screen.ended is not None, 120)
        assert screen.ended is not None or "━" in seen(app)
        if screen.ended is None:
            await pilot.press("ctrl+s")
            await until(pilot, lambda: isinstance(app.screen, Confirm))
            await pilot.press("n")
        await until(pilot, lambda: screen.ended is not None, 120)
        assert screen.launched is not None
        await until(pilot, lambda: app.live() == [], 60)

    play(Path("runs"), scene)
    record = read_record(two / "one" / "predictions" / "mine")
    assert record.mode == "soft"
    assert [member.name for member in record.members] == ["one/best", "two/best"]


def write_result(place: Path, name: str, age_s: float, members: Sequence[str] = ("one/best",), **fields: Any) -> Path:
    """The record that the engine writes, of scores that are made up; the newest has the least age."""
    record = PredictionRecord(
        segtui="0.1.0",
        name=name,
        created=time.time() - age_s,
        seconds=1.0,
        command=["segtui", "predict"],
        mode="single" if len(members) == 1 else "soft",
        members=[MemberRecord(name=each, path=f"/{each}", weight=1 / len(members)) for each in members],
        views=["identity"],
        passes=1.0,
        window=None,
        overlap=0.5,
        source="/data/val.json",
        data="",
        images=4,
        classes=list(CLASSES),
        size=256,
        resize="probabilities",
        device="cpu",
        precision="fp32",
        fit=None,
        scores=[],
        ms_per_image=1.5,
        plain_ms_per_image=None,
        files={"record": str(place / name / "predict.json")},
    )
    (place / name).mkdir(parents=True)
    msgspec.structs.replace(record, **fields).write(place / name)
    return place / name


def scored(name: str, mIoU: float) -> Scored:
    means: dict[str, Any] = {"acc": 0.9, "mean_acc": 0.8, "fwavacc": 0.7}
    return Scored(name=name, mIoU=mIoU, IoU=[mIoU, mIoU - 0.1, None], class_acc=[0.5, 0.5, None], support=[10, 5, 0], **means)


async def predict_screen(pilot: Pilot[None], app: SegtuiApp) -> PredictScreen:
    await pilot.press("5")
    await until(pilot, lambda: isinstance(app.screen, PredictScreen))
    screen = on(app, PredictScreen)
    await pilot.pause(0.1)
    return screen


def test_checkpoints_are_chosen_here_too_marked_or_under_the_cursor(two: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        screen = await predict_screen(pilot, app)

        async def listed_here() -> Listing:
            await pilot.press("c")
            await until(pilot, lambda: isinstance(app.screen, PickCheckpoints) and app.screen.query_one(Listing).row_count == 2)
            return app.screen.query_one(Listing)

        await listed_here()
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)
        assert screen.form.checkpoints == []
        await listed_here()
        await pilot.press("j", "enter")
        await until(pilot, lambda: app.screen is screen and "two/checkpoints/best.safetensors" in command(app))
        assert "one/checkpoints" not in command(app)
        listing = await listed_here()
        await pilot.press("slash", *"two")
        await until(pilot, lambda: listing.row_count == 1)
        await pilot.press("enter", "space", "escape")
        await until(pilot, lambda: listing.row_count == 2)
        await pilot.press("k", "k", "space", "space")
        marked = [Path(path).parent.parent.name for path in on(app, PickCheckpoints).marked]
        assert marked == ["one"]
        await pilot.press("space", "enter")
        await until(pilot, lambda: app.screen is screen and "--softvote" in command(app))
        assert command(app).index("one/checkpoints") < command(app).index("two/checkpoints")
        (two / "one/checkpoints/best.safetensors").write_bytes(b"torn")
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, PickCheckpoints) and app.screen.query_one(Listing).row_count == 2)
        assert len(on(app, PickCheckpoints).marked) == 2
        await pilot.press("end", "space")
        assert "cut off" in said(app)[-1]

    play(two, scene)


def test_a_field_takes_digits_and_letters_and_esc_leaves_it(two: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        screen = await predict_screen(pilot, app)
        await pilot.press("e")
        assert screen.focused is screen.query_one("#field-split")
        await pilot.press("down", "down", "down", "down", *"512", "down", *"1cmq3", "up", "down")
        assert screen.query_one("#field-name", Input).value == "1cmq3"
        await pilot.press("escape")
        assert screen.focused is not None
        assert not isinstance(screen.focused, Input)
        await listed(pilot, app)
        await pilot.press("i")
        await until(pilot, lambda: isinstance(app.screen, PredictScreen) and "--window 512 --name 1cmq3" in command(app))
        for field, says in (("window", "invalid int value: '-h'"), ("tta", "there is no view '-h'")):
            screen.query_one(f"#field-{field}", Input).value = "-h"
            await pilot.press("ctrl+r")
            await until(pilot, lambda says=says: says in screen.error)  # type: ignore[misc]
            screen.query_one(f"#field-{field}", Input).value = ""
        await pilot.press("escape")
        assert screen.error == ""
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, CheckpointsScreen))

    play(two, scene)


def test_earlier_results_are_listed_newest_first_and_opened(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []
    monkeypatch.setattr(SegtuiApp, "copy_to_clipboard", lambda _, text: copied.append(text))
    write_result(two / "one/predictions", "old", 7200, scores=[scored("plain", 0.25)])
    both = [scored("one/best", 0.5), scored("two/best", 0.4), scored("soft vote", 0.55)]
    voted = write_result(two / "two/predictions", "voted", 60, ("one/best", "two/best"), scores=both)
    write_result(two / "predictions", "일반-photos", 600, source="/data/photos")
    broken = two / "one/predictions/broken"
    broken.mkdir()
    (broken / "predict.json").write_text("{")
    (two / "one/predictions/.half.partial").mkdir()
    (two / "one/predictions/.half.partial/predict.json").write_text("{")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        screen = await predict_screen(pilot, app)
        listing = screen.query_one(Listing)
        await until(pilot, lambda: listing.row_count == 4)
        assert [Path(key).name for key in listing.keys] == ["voted", "일반-photos", "old", "broken"]
        rows = {Path(key).name: [text for text, _ in listing.cells(key)] for key in listing.keys}
        assert rows["voted"] == ["voted", "0.5500", "val", "4", "1m", "one/best, two/best"]
        assert rows["old"] == ["old", "0.2500", "val", "4", "2h00m", "one/best"]
        assert rows["일반-photos"][1:3] == ["", "photos"]
        assert "일반" in seen(app)
        await pilot.press("y", "enter")
        assert copied == [str(voted)]
        await until(pilot, lambda: "soft vote of one/best × 0.5, two/best × 0.5" in seen(app))
        assert "+0.0500" in seen(app)
        assert not screen.form.display
        await pilot.press("j", "k", "down", "m")
        await until(pilot, lambda: isinstance(app.screen, MasksScreen))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)
        await pilot.press("escape")
        await until(pilot, lambda: listing.display and screen.form.display and screen.focused is listing)
        await pilot.press("end", "enter")
        await until(pilot, lambda: "is not a prediction's record" in said(app)[-1])
        await pilot.press("m")
        assert "is not a prediction's record" in said(app)[-1]
        await pilot.press("k", "k", "enter")
        await until(pilot, lambda: "without ground truth there is nothing to score" in seen(app))
        await pilot.press("e")
        await until(pilot, lambda: screen.focused is screen.query_one("#field-split"))
        assert screen.opened is None

    play(two, scene)


def test_without_results_it_says_how_to_get_one(two: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await predict_screen(pilot, app)
        await until(pilot, lambda: "no results yet: c chooses checkpoints" in seen(app))
        await pilot.press("enter", "y", "j", "k", "m")
        assert said(app) == ["there is no result here to look at"]

    play(two, scene, (80, 24))
