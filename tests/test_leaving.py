"""Leaving the interactive program in a real terminal: the terminal is as before, and the runs go on."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pexpect
import psutil
import pytest

from engine.run import RunFolder
from tests.conftest import write_shapes
from tests.training import kill, wait_for, write_preset

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
PROGRAM = "import sys; from tui.cli import main; sys.exit(main(sys.argv[1:]))"
BROKEN = """
import sys
from tui.app import SegtuiApp
from tui.cli import main

def action_break(self):
    raise ValueError("it broke")

SegtuiApp.action_help = action_break
sys.exit(main(sys.argv[1:]))
"""


class Terminal:
    """A shell that tells the terminal's modes before and after the program."""

    def __init__(self, runs: Path, folder: Path, program: str = PROGRAM) -> None:
        script = 'stty -g; "$0" -c "$1" --runs "$2"; code=$?; echo "code=$code="; stty -g; echo done'
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
        self.process = pexpect.spawn(
            "/bin/sh",
            ["-c", script, sys.executable, program, str(runs)],
            dimensions=(30, 100),
            timeout=120,
            encoding="utf-8",
            cwd=str(folder),
            env=environment,
        )
        self.process.expect(r"([0-9a-f:]{20,})\r\n")
        self.before = self.process.match.group(1)
        self.process.expect_exact("\x1b[?1049h")

    @property
    def program(self) -> int:
        """The program's process, not its shell."""
        return next(child.pid for child in psutil.Process(self.process.pid).children() if "python" in child.name())

    def leave(self) -> tuple[int, str]:
        """The exit code and what was printed from now on; the terminal must be as it was."""
        self.process.expect_exact("\x1b[?1049l")
        self.process.expect(r"code=(\d+)=\r\n([0-9a-f:]{20,})\r\ndone")
        code, after = int(self.process.match.group(1)), self.process.match.group(2)
        printed = self.process.before
        assert after == self.before
        self.process.expect(pexpect.EOF)
        self.process.close()
        return code, printed


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "presets").mkdir()
    preset = write_preset(tmp_path / "presets", write_shapes(tmp_path / "shapes", train=12, val=4))
    preset.write_text(preset.read_text().replace("epochs = 5", "epochs = 2000") + '\n[wandb]\nmode = "disabled"\n')
    return tmp_path


@pytest.mark.parametrize("key", ["q", "\x11"], ids=["q", "ctrl+q"])
def test_a_key_leaves_the_terminal_as_it_was(project: Path, key: str) -> None:
    terminal = Terminal(project / "runs", project)
    terminal.process.expect("FPN")  # the first preset is shown
    terminal.process.send(key)
    assert terminal.leave()[0] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_the_terminal_as_it_was(project: Path, number: signal.Signals) -> None:
    terminal = Terminal(project / "runs", project)
    terminal.process.expect("FPN")
    kill(terminal.program, number)
    code, printed = terminal.leave()
    assert code in (0, 128 + number)
    assert "Traceback" not in printed


def test_an_exception_inside_leaves_the_terminal_as_it_was_and_is_told(project: Path) -> None:
    terminal = Terminal(project / "runs", project, BROKEN)
    terminal.process.expect("FPN")
    terminal.process.send("?")
    code, printed = terminal.leave()
    assert code == 1
    assert "it broke" in re.sub(r"\x1b\[[0-9;]*m", "", printed)


def test_a_lost_terminal_ends_the_program(project: Path) -> None:
    terminal = Terminal(project / "runs", project)
    terminal.process.expect("FPN")
    program = psutil.Process(terminal.program)
    os.close(terminal.process.child_fd)
    program.wait(60)


def test_a_run_that_was_started_here_goes_on_after_leaving(project: Path) -> None:
    terminal = Terminal(project / "runs", project)
    terminal.process.expect("FPN")
    wait_for_preset(terminal)
    terminal.process.send("d")
    terminal.process.send("\r")
    run = RunFolder(project / "runs" / "debug_FPN-resnet18")
    wait_for(lambda: run.events.exists() and b'"step"' in run.events.read_bytes())
    terminal.process.send("q")
    code, printed = terminal.leave()
    assert code == 0
    assert f"segtui attach {run.path}" in printed
    assert "Traceback" not in printed
    record = run.read()
    assert record.state == "running"
    size = run.events.stat().st_size
    wait_for(lambda: run.events.stat().st_size > size + 2000)
    kill(record.pid, signal.SIGTERM)
    wait_for(lambda: run.read().state == "stopped")


def wait_for_preset(terminal: Terminal) -> None:
    """A preset is read in a thread; until then `enter` only says so."""
    terminal.process.expect("encoder_name")
