"""The interactive program in a real terminal, killed while the run that it started trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.faults.conftest import Row
from tests.faults.runs import ENVIRONMENT, EPOCHS, Reference, check_whole, listed_state, weights
from tests.test_leaving import Terminal, wait_for_preset
from tests.training import record, wait_for, write_preset

pytestmark = pytest.mark.faults


@pytest.fixture
def project(reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the reference's preset, the options of its command line written into it."""
    (tmp_path / "presets").mkdir()
    preset = write_preset(tmp_path / "presets", reference.data)
    text = preset.read_text().replace("epochs = 5", f"epochs = {EPOCHS}").replace('"resnet18"', '"mobilenet_v2"')
    preset.write_text(text)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def test_the_screens_are_killed(reference: Reference, project: Path, row: Row) -> None:
    terminal = Terminal(project / "runs", project)
    terminal.process.expect("FPN")
    wait_for_preset(terminal)
    terminal.process.send("D")  # deterministic, as the reference
    terminal.process.send("\r")
    run = project / "runs" / "FPN-mobilenet_v2"
    wait_for((run / "checkpoints" / "resume.pt").exists, 240)
    program = psutil.Process(terminal.program)
    program.kill()
    terminal.process.expect(r"code=137=")
    terminal.process.close()
    assert not program.is_running()
    assert listed_state(run) == "running"

    again = Terminal(project / "runs", project)
    again.process.expect(r"FPN-\S*v2")  # its name, shortened
    again.process.expect("running")
    again.process.send("q")
    assert again.leave()[0] == 0
    assert record(run)["toggles"]["deterministic"]
    assert listed_state(run) == "running"

    command = [sys.executable, "-m", "tui.cli", "attach", "--json", str(run)]
    attached = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert attached.returncode == 0, attached.stderr
    seen = [json.loads(line)["seq"] for line in attached.stdout.splitlines()]
    assert seen == [event.seq for event in check_whole(run)]
    assert listed_state(run) == "finished"
    assert weights(run) == reference.weights
    row(
        "SIGKILL of the screens",
        "after the first epoch of a run that was started from Launch",
        "the run goes on, told as running by a second `segtui` and `segtui runs`; `segtui attach` shows it to its end; equal weights",
    )
