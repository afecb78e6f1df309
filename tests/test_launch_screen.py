"""From a preset to a run, by keys; real training."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList

from engine.events import Toggles
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
from tui.screens.launch import LaunchScreen
from tui.screens.run import RunScreen


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
