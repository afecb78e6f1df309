"""`segtui --headless PRESET` asks the doctor first: errors stop it, warnings go into the run, an interruption leaves nothing."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest
from textual.pilot import Pilot

from engine.worker import Request
from tests.conftest import write_shapes
from tests.screens import on, play, until
from tests.training import Headless, record, wait_for, write_preset
from tui.app import SegtuiApp
from tui.screens.launch import LaunchScreen


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    """Its validation images have no triangle."""
    data = write_shapes(tmp_path / "data", train=8, val=4)
    val = json.loads((data / "val.json").read_text())
    val["annotations"] = [each for each in val["annotations"] if each["category_id"] != 2]
    (data / "val.json").write_text(json.dumps(val))
    return write_preset(tmp_path, data)


def start(preset: Path, *options: str) -> Headless:
    return Headless.start(preset, "--runs", preset.parent / "runs", *options, WANDB_MODE="disabled")


def test_what_the_doctor_refuses_is_not_started(preset: Path) -> None:
    """Every mistake that it finds, a line each, though training would have stopped at the first."""
    images = preset.parent / "data" / "images"
    (images / "train_3.png").unlink()
    (images / "val_1.png").write_bytes(b"no image")
    run = start(preset)
    assert run.finish() == 2
    told = run.stderr().splitlines()
    assert len(told) == 2
    assert told[0].startswith("segtui: ")
    assert "images/train_3.png does not exist" in told[0]
    assert "images/val_1.png is not an image" in told[1]
    assert run.events == []
    assert {path.name for path in (preset.parent / "runs").iterdir()} <= {".cache"}


@pytest.mark.slow
def test_what_the_doctor_warns_of_is_in_the_run(preset: Path) -> None:
    run = start(preset, "--debug", "--set", "train.epochs=1", "--set", 'augment.train=[{type="MaskDropout", p=0.0}]')
    assert run.finish() == 0, run.stderr()
    told = [event["text"] for event in run.of("message") if event["level"] == "warning"]
    assert len(told) == 1
    assert "MaskDropout" in told[0]
    assert "or raise data.workers" in told[0]
    folder = preset.parent / "runs" / run.of("run_started")[0]["run"]
    assert record(folder)["warnings"] == told


@pytest.mark.slow
def test_without_a_doctor_the_run_is_started_and_says_so(preset: Path, tmp_path: Path) -> None:
    """One that dies must not keep anybody from training."""
    (tmp_path / "sitecustomize.py").write_text("import os, sys\nif 'engine.doctor' in sys.orig_argv: os._exit(9)\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    run = Headless.start(preset, "--runs", tmp_path / "runs", "--debug", "--set", "train.epochs=1", WANDB_MODE="disabled", PYTHONPATH=path)
    assert run.finish() == 0, run.stderr()
    (told,) = [event["text"] for event in run.of("message") if event["level"] == "warning"]
    assert "without a check" in told
    assert "exit code 9" in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_the_doctor_looks(preset: Path, number: signal.Signals) -> None:
    """It reads a pipe into which nobody writes."""
    train = preset.parent / "data" / "train.json"
    train.unlink()
    os.mkfifo(train)
    run = start(preset)
    writer: list[int] = []

    def is_read() -> bool:
        try:
            writer.append(os.open(train, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody reads it yet
            return False
        return True

    wait_for(is_read, 60)
    (doctor,) = (child for child in psutil.Process(run.process.pid).children() if "engine.doctor" in child.cmdline())
    run.process.send_signal(number)
    assert run.finish() == 130
    os.close(writer[0])
    assert run.events == []
    assert "Traceback" not in run.stderr()
    assert not doctor.is_running()
    runs = preset.parent / "runs"
    assert not runs.exists() or [path.name for path in runs.iterdir()] == [".cache"]


@pytest.mark.slow
def test_launch_hands_over_what_the_doctor_warned_of(preset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = preset.parent
    (folder / "presets").mkdir()
    preset.rename(folder / "presets" / preset.name)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WANDB_MODE", "disabled")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        screen = on(app, LaunchScreen)
        await until(pilot, lambda: screen.report is not None, 60)
        await pilot.press("enter")
        await until(pilot, lambda: bool(app.launched))
        request = app.launched[0].request
        assert isinstance(request, Request)
        assert request.warnings is not None
        (told,) = request.warnings
        assert "no pixel of triangle" in told
        run = folder / "runs" / "FPN-resnet18"
        await until(pilot, lambda: (run / "run.json").exists(), 120)
        assert record(run)["warnings"][-1] == told
        app.launched[0].stop()
        await until(pilot, lambda: app.launched[0].join(0), 120)

    play(folder / "runs", scene)
