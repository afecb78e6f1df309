"""A run in a real terminal: Ctrl-C, and a terminal that goes away."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pexpect
import pytest

from engine.run import process_is
from tests.conftest import write_shapes
from tests.training import record, wait_for, write_preset

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminal")
    write_preset(folder, write_shapes(folder / "data", train=26, val=6))
    return folder


def start(place: Path, runs: str, *overrides: str) -> pexpect.spawn:
    sets = [word for override in ("wandb.mode=disabled", *overrides) for word in ("--set", override)]
    arguments = ["-m", "tui.cli", "--headless", str(place / "tiny.toml"), "--runs", str(place / runs), *sets]
    # The tests themselves may run under nohup; a terminal that is closed then would have to be left by Ctrl-C, which stops the run.
    return pexpect.spawn(sys.executable, arguments, dimensions=(24, 80), timeout=240, encoding="utf-8", preexec_fn=listen_to_hangup)


def listen_to_hangup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_ctrl_c_once_stops_after_the_step_and_can_be_resumed(place: Path) -> None:
    terminal = start(place, "once", "train.epochs=500")
    terminal.expect("loss [0-9]")
    terminal.sendintr()
    terminal.expect("stopping after this step")
    terminal.expect("next +segtui --headless --resume")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 3
    assert record(place / "once" / "FPN-resnet18")["state"] == "stopped"


def test_ctrl_c_twice_ends_at_once_within_a_step(place: Path) -> None:
    terminal = start(place, "twice", "train.epochs=500", "data.image_size=[640, 640]")
    terminal.expect("loss [0-9]")
    terminal.sendintr()
    terminal.expect("stopping after this step")
    terminal.sendintr()
    terminal.expect("ended at once")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 130
    assert record(place / "twice" / "FPN-resnet18")["state"] == "stopped"


def test_ctrl_c_before_the_run_began_leaves_nothing(place: Path) -> None:
    terminal = start(place, "early")
    terminal.expect("starting")
    terminal.sendintr()
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 130
    assert not (place / "early").exists()


def test_closing_the_terminal_leaves_the_run_alive_to_its_end(place: Path) -> None:
    terminal = start(place, "closed")
    terminal.expect("loss [0-9]")
    path = place / "closed" / "FPN-resnet18"
    found = record(path)
    terminal.close(force=True)
    assert process_is(found["pid"], found["pid_started"])
    wait_for(lambda: record(path)["state"] == "finished", 240)
    assert (path / "checkpoints" / "last.safetensors").exists()
    wait_for(lambda: not process_is(found["pid"], found["pid_started"]), 120)
