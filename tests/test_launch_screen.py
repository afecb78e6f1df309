"""From a preset to a run, by keys; real training."""

from __future__ import annotations

import signal
import tomllib
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList

from engine.events import Toggles
from engine.preset import load
from engine.run import RunFolder
from tests.conftest import write_shapes
from tests.screens import (
    ROOT,
    headline,
    names,
    on,
    play,
    said,
    seen,
    until,
)
from tests.training import kill, wait_for, write_preset
from tui.app import SegtuiApp
from tui.memory import recent_presets
from tui.preset_rows import Row
from tui.screens.launch import LaunchScreen
from tui.screens.run import RunScreen
from tui.widgets.preset_form import Fields, PresetForm


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with presets of its own."""
    (tmp_path / "presets").mkdir()
    write_preset(tmp_path / "presets", write_shapes(tmp_path / "shapes", train=12, val=4))
    (tmp_path / "presets" / "wrong.toml").write_text('[model]\ntype = "FPNN"\n')
    (tmp_path / "presets" / "base.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(app: SegtuiApp) -> OptionList:
    return on(app, LaunchScreen).query_one("#presets", OptionList)


def options(app: SegtuiApp) -> list[str]:
    """The presets and the headings over them, without the mark of an edit."""
    return [str(option.prompt).strip() for option in listed(app).options]


def test_presets_are_the_projects_own_then_the_built_in_ones(project: Path) -> None:
    built_in = sorted(path.stem for path in (ROOT / "presets").glob("*.toml") if path.stem != "base")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        assert options(app) == ["presets/", "presets/tiny.toml", "presets/wrong.toml", "built-in", *built_in]
        await until(pilot, lambda: "encoder_name  " in seen(app) and "resnet18" in seen(app), 60)
        await pilot.press("j")
        await until(pilot, lambda: "there is no architecture 'FPNN'" in seen(app))
        await pilot.press("ctrl+r")
        assert any("has a mistake" in text for text in said(app))
        await pilot.press("k")
        await until(pilot, lambda: on(app, LaunchScreen).resolved is not None)
        await pilot.press("slash", *"unet", "enter")
        assert options(app) == ["built-in", "unet", "unetplusplus"]
        assert app.focused is listed(app)
        await pilot.press("escape")
        assert len(options(app)) == 4 + len(built_in)
        await pilot.press("slash", *"nosuch")
        await until(pilot, lambda: "no preset matches the filter" in seen(app))
        await pilot.press("enter", "ctrl+r")
        assert app.launched == []

    play(project / "runs", scene)


def row(app: SegtuiApp, key: str) -> Row:
    return next(row for row in on(app, LaunchScreen).query_one(Fields).rows if row.key == key)


async def edit(pilot: Pilot[None], app: SegtuiApp, key: str, text: str) -> None:
    """Move to a field by keys and type into it."""
    fields = on(app, LaunchScreen).query_one(Fields)
    await pilot.press("l", "g")
    while fields.row is None or fields.row.key != key:
        before = fields.at
        await pilot.press("j")
        assert fields.at != before, f"there is no field {key}"
    await pilot.press("enter", "ctrl+e", "ctrl+u", *text)


async def read(pilot: Pilot[None], app: SegtuiApp) -> None:
    await until(pilot, lambda: on(app, LaunchScreen).resolved is not None, 60)


def test_a_field_is_judged_as_one_types_and_marked_once_it_differs(project: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await read(pilot, app)
        screen = on(app, LaunchScreen)
        await edit(pilot, app, "train.epochs", "ten")
        await until(pilot, lambda: "wants a whole number, got 'ten'" in seen(app))
        await pilot.press("enter")
        assert screen.query_one(PresetForm).is_editing  # what is wrong is not taken
        await pilot.press("ctrl+r")
        assert any("a field is open" in text for text in said(app))
        assert app.launched == []
        await pilot.press("ctrl+u", *"12")
        await until(pilot, lambda: "wants a whole number" not in seen(app))
        await pilot.press("enter")
        await until(pilot, lambda: screen.resolved is not None and screen.resolved.train.epochs == 12)
        assert (row(app, "train.epochs").value, row(app, "train.epochs").before) == ("12", "5")
        assert "was 5" in seen(app)
        assert "● presets/tiny.toml" in seen(app)
        assert "segtui --headless presets/tiny.toml --set train.epochs=12" in seen(app)
        await pilot.press("u")
        await until(pilot, lambda: not row(app, "train.epochs").is_changed)
        assert screen.overrides == []
        assert "● presets/tiny.toml" not in seen(app)

    play(project / "runs", scene)


def test_esc_leaves_the_field_as_it_was_and_then_the_form(project: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await read(pilot, app)
        screen = on(app, LaunchScreen)
        await edit(pilot, app, "train.epochs", "q1d?/p")
        assert screen.toggles == Toggles()  # the keys of the screen are text here
        await pilot.press("escape")
        assert app.focused is screen.query_one(Fields)
        assert screen.overrides == []
        await pilot.press("escape")
        assert app.focused is listed(app)

    play(project / "runs", scene)


def test_choices_are_gone_through_by_space_and_arguments_follow_the_type(project: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await read(pilot, app)
        screen = on(app, LaunchScreen)
        await edit(pilot, app, "data.overlap", "")
        await pilot.press("escape", "space")
        await until(pilot, lambda: screen.resolved is not None and screen.resolved.data.overlap == "vertices")
        await pilot.press("space")
        await until(pilot, lambda: screen.resolved is not None and screen.resolved.data.overlap == "area")
        assert screen.overrides == []  # back to what the file has

        await edit(pilot, app, "optimizer.type", "SG")
        await until(pilot, lambda: "there is no optimizer 'SG'" in seen(app))
        await pilot.press("right", "enter")  # the suggestion
        await until(pilot, lambda: screen.resolved is not None and screen.resolved.optimizer.type == "SGD")
        assert not any(each.key == "optimizer.momentum" for each in screen.query_one(Fields).rows)
        await pilot.press("a")
        await until(pilot, lambda: any(each.key == "optimizer.momentum" for each in screen.query_one(Fields).rows))
        await edit(pilot, app, "optimizer.momentum", "0.9")
        await pilot.press("enter")
        await until(pilot, lambda: screen.resolved is not None and screen.resolved.optimizer.args.get("momentum") == 0.9)

    play(project / "runs", scene)


def test_a_type_that_needs_an_argument_asks_for_it_on_its_own_row(project: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await read(pilot, app)
        screen = on(app, LaunchScreen)
        await edit(pilot, app, "scheduler.type", "StepLR")
        await pilot.press("enter")
        await until(pilot, lambda: row(app, "scheduler.type").value == "StepLR")
        assert "needs it" in row(app, "scheduler.step_size").problem
        assert screen.resolved is None
        await pilot.press("ctrl+r")
        assert any("has a mistake" in text for text in said(app))
        await edit(pilot, app, "scheduler.step_size", "2")
        await pilot.press("enter")
        await until(pilot, lambda: screen.resolved is not None)
        assert screen.resolved is not None
        assert screen.resolved.scheduler is not None
        assert screen.resolved.scheduler.args["step_size"] == 2

    play(project / "runs", scene)


def test_edits_are_kept_while_one_looks_at_another_preset(project: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await read(pilot, app)
        screen = on(app, LaunchScreen)
        await edit(pilot, app, "train.seed", "7")
        await pilot.press("enter")
        await until(pilot, lambda: screen.resolved is not None and screen.resolved.train.seed == 7)
        await pilot.press("escape", "j", "k")
        await until(pilot, lambda: screen.resolved is not None and screen.resolved.train.seed == 7)
        await pilot.press("3", "1")
        await until(pilot, lambda: row(app, "train.seed").is_changed)

    play(project / "runs", scene)


def test_an_edited_preset_is_saved_under_a_new_name_and_never_over_another(project: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await read(pilot, app)
        screen = on(app, LaunchScreen)
        await edit(pilot, app, "train.epochs", "12")
        await pilot.press("enter")
        await until(pilot, lambda: screen.resolved is not None and screen.resolved.train.epochs == 12)
        await pilot.press("ctrl+s", "ctrl+u", *"wrong", "enter")
        await until(pilot, lambda: any("is there already" in text for text in said(app)))
        await pilot.press("ctrl+s", "ctrl+u", *"longer", "enter")
        await until(pilot, lambda: screen.path == Path("presets/longer.toml"))
        await read(pilot, app)
        assert "presets/longer.toml" in options(app)
        assert screen.overrides == []

    play(project / "runs", scene)
    assert tomllib.loads(Path("presets/longer.toml").read_text()) == {
        "extends": "tiny.toml",
        "name": "longer",
        "train": {"epochs": 12},
    }
    assert load("presets/longer.toml").train.epochs == 12
    assert '[model]\ntype = "FPNN"' in Path("presets/wrong.toml").read_text()


def test_the_cursor_of_the_form_goes_by_rows_tens_tables_and_to_both_ends(project: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await read(pilot, app)
        fields = on(app, LaunchScreen).query_one(Fields)
        keys = [each.key for each in fields.rows if each.path]

        async def at(key: str, expected: str) -> None:
            await pilot.press(key)
            assert fields.row is not None
            assert fields.row.key == expected, key

        await pilot.press("right")
        assert app.focused is fields
        for first, last in (("g", "G"), ("home", "end")):
            await at(last, keys[-1])
            await at(first, keys[0])
        for down, up in (("j", "k"), ("down", "up")):
            await at(down, keys[1])
            await at(up, keys[0])
        for down, up in (("pagedown", "pageup"), ("ctrl+d", "ctrl+u")):
            await at(down, keys[10])
            await at(up, keys[0])
        await at("}", next(key for key in keys if key.startswith("data.")))
        await at("{", keys[0])
        await at("{", next(key for key in keys if key.startswith("wandb.")))  # round
        await pilot.press("left")
        assert app.focused is listed(app)
        await pilot.press("l", "h")
        assert app.focused is listed(app)

    play(project / "runs", scene)


def test_the_form_and_the_doctor_take_turns_where_there_is_no_room_for_both(project: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await read(pilot, app)
        screen = on(app, LaunchScreen)
        assert (screen.query_one("#edit").region.width > 0, screen.query_one("#check").region.width > 0) == (True, False)
        await pilot.press("v")
        assert (screen.query_one("#edit").region.width > 0, screen.query_one("#check").region.width > 0) == (False, True)
        await pilot.press("v")
        assert screen.query_one("#edit").region.width > 0

    play(project / "runs", scene, (80, 24))


@pytest.mark.slow
def test_the_doctor_says_what_the_data_and_the_machine_are(project: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await read(pilot, app)
        screen = on(app, LaunchScreen)
        await until(pilot, lambda: screen.report is not None, 60)
        assert "12 train · 4 val" in seen(app)
        assert "square" in seen(app)
        await edit(pilot, app, "data.root", str(project / "nowhere"))
        await pilot.press("enter")
        await until(pilot, lambda: screen.report is not None and screen.report.is_refused, 60)
        assert "nowhere" in seen(app)
        await pilot.press("ctrl+r")
        assert app.launched == []
        assert any("nowhere" in text for text in said(app))

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
    assert recent_presets() == [preset]
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
