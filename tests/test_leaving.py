"""Leaving the interactive program in a real terminal: the terminal is as before, and the runs go on."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pexpect
import psutil
import pytest

from engine.run import RunFolder
from tests.conftest import write_shapes
from tests.training import kill, wait_for, write_preset

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
PROGRAM = """
import sys
from tui.app import SegtuiApp
from tui.cli import main

def action_break(self):
    raise ValueError("it broke")

SegtuiApp.action_help = action_break
sys.exit(main(sys.argv[1:]))
"""


CURSOR, WRAPPING = "25", "7"
"""Modes that a terminal has on."""


class Terminal:
    """A shell that tells the terminal's modes before and after the program."""

    def __init__(self, runs: Path, folder: Path) -> None:
        script = 'stty -g; "$0" -c "$1" --runs "$2"; code=$?; echo "code=$code="; stty -g; echo done'
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
        self.process = pexpect.spawn(
            "/bin/sh",
            ["-c", script, sys.executable, PROGRAM, str(runs)],
            dimensions=(30, 100),
            timeout=120,
            encoding="utf-8",
            cwd=str(folder),
            env=environment,
        )
        self.written = self.process.logfile_read = io.StringIO()
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
        printed = re.sub(r"\x1b\[[<?0-9;]*[A-Za-z]", "", self.process.before)
        assert after == self.before
        self.process.expect(pexpect.EOF)
        self.process.close()
        left_on = {mode for mode, switch in self.modes().items() if switch == "h"}
        assert left_on <= {CURSOR, WRAPPING}
        assert self.modes()[CURSOR] == "h"
        return code, printed

    def modes(self) -> dict[str, str]:
        """Of every private mode that was ever switched (mouse, alternate screen, pasting, focus ...): "h" where it is on, "l" off."""
        return dict(re.findall(r"\x1b\[\?(\d+)([hl])", self.written.getvalue()))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "presets").mkdir()
    preset = write_preset(tmp_path / "presets", write_shapes(tmp_path / "shapes", train=12, val=4))
    preset.write_text(preset.read_text().replace("epochs = 5", "epochs = 2000") + '\n[wandb]\nmode = "disabled"\n')
    return tmp_path


Way = Callable[[Terminal], object]
WAYS: dict[str, tuple[Way, int]] = {
    "q": (lambda terminal: terminal.process.send("q"), 0),
    "ctrl+q": (lambda terminal: terminal.process.send("\x11"), 0),
    "SIGINT": (lambda terminal: kill(terminal.program, signal.SIGINT), 130),
    "SIGTERM": (lambda terminal: kill(terminal.program, signal.SIGTERM), 143),
    "SIGHUP": (lambda terminal: kill(terminal.program, signal.SIGHUP), 129),
    "a defect": (lambda terminal: terminal.process.send("?"), 1),
}
every_way = pytest.mark.parametrize(("way", "expected"), WAYS.values(), ids=list(WAYS))


@every_way
def test_the_terminal_is_as_it_was(project: Path, way: Way, expected: int) -> None:
    terminal = Terminal(project / "runs", project)
    terminal.process.expect("FPN")  # the first preset is shown
    way(terminal)
    code, printed = terminal.leave()
    assert code == expected
    assert "Traceback" not in printed


def test_a_defect_is_told_in_a_line_and_its_traceback_is_kept(project: Path) -> None:
    terminal = Terminal(project / "runs", project)
    terminal.process.expect("FPN")
    terminal.process.send("?")
    _, printed = terminal.leave()
    told = [line for line in printed.splitlines() if line.startswith("segtui: ")]
    assert len(told) == 1
    assert "ValueError: it broke" in told[0]
    log = Path(told[0].rpartition(" is in ")[2])
    assert log.is_relative_to(os.environ["XDG_STATE_HOME"])
    assert "in action_break" in log.read_text()


def test_a_defect_is_told_whole_where_no_file_can_be_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "a file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(project / "a file"))
    terminal = Terminal(project / "runs", project)
    terminal.process.expect("FPN")
    terminal.process.send("?")
    code, printed = terminal.leave()
    assert code == 1
    assert "Traceback" in printed
    assert "ValueError: it broke" in printed


def test_a_lost_terminal_ends_the_program(project: Path) -> None:
    terminal = Terminal(project / "runs", project)
    terminal.process.expect("FPN")
    program = psutil.Process(terminal.program)
    terminal.process.ptyproc.fileobj.close()  # not by its number: that would be closed again, as somebody else's
    program.wait(60)


@every_way
def test_a_run_that_was_started_here_goes_on(project: Path, way: Way, expected: int) -> None:
    terminal = Terminal(project / "runs", project)
    terminal.process.expect("FPN")
    wait_for_preset(terminal)
    terminal.process.send("d")
    terminal.process.send("\r")
    run = RunFolder(project / "runs" / "debug_FPN-resnet18")
    wait_for(lambda: run.events.exists() and b'"step"' in run.events.read_bytes())
    way(terminal)
    code, printed = terminal.leave()
    assert code == expected
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
