"""Data and clocks that change while a run trains."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from engine.events import RunEnded
from engine.run import RunFolder
from tests.faults.conftest import Row
from tests.faults.runs import Reference, check_whole, listed_state, path_of, resume, resumed_to_the_end, saved, start, weights, worker
from tests.training import kill, write_preset

pytestmark = pytest.mark.faults


@pytest.fixture
def preset(reference: Reference, tmp_path: Path) -> Path:
    """The preset with a copy of its data, to be changed."""
    return write_preset(tmp_path, shutil.copytree(reference.data, tmp_path / "data"))


def test_an_image_is_deleted_during_training(reference: Reference, preset: Path, tmp_path: Path, row: Row) -> None:
    parent = start(preset, tmp_path / "runs")
    parent.until(saved("resume"))
    run = path_of(parent, tmp_path / "runs")
    away = [path.rename(path.with_suffix(".away")) for path in (tmp_path / "data" / "images").glob("train_*.png")]
    assert parent.finish() == 1
    assert "images/train_" in parent.events[-1]["error"]
    assert "Traceback" not in parent.events[-1]["error"]
    assert listed_state(run) == "failed"
    check_whole(run)
    for path in away:
        path.rename(path.with_suffix(".png"))
    assert resumed_to_the_end(run) == reference.weights
    row(
        "Images are deleted during training",
        "after the first epoch",
        "the run fails and names the image; put back and resumed: equal weights",
    )


def test_a_json_is_edited_during_training(reference: Reference, preset: Path, tmp_path: Path, row: Row) -> None:
    """The run has read it; one that is resumed later would read another."""
    parent = start(preset, tmp_path / "runs")
    parent.until(saved("resume"))
    run = path_of(parent, tmp_path / "runs")
    file = tmp_path / "data" / "train.json"
    content = file.read_text()
    table = json.loads(content)
    del table["annotations"][0]
    file.write_text(json.dumps(table))
    parent.until(saved("resume", 2))
    kill(worker(run).pid, signal.SIGTERM)
    assert parent.finish() in (0, 3)
    check_whole(run)
    if RunFolder(run).read().state == "stopped":
        refused = resume(run)
        assert refused.finish() == 2
        assert "train.json: has changed" in refused.stderr()
        file.write_text(content)
        assert resumed_to_the_end(run) == reference.weights
    assert weights(run) == reference.weights
    row(
        "A json is edited during training",
        "after the first epoch; the run is stopped after the second, and resumed",
        "the run goes on with what it has read; resuming is refused (exit code 2) until the json is put back; then equal weights",
    )


CLOCK = """
import os, time
real = time.time
time.time = lambda: real() - (3600 if os.path.exists({flag!r}) else 0)
import psutil
boot_time = psutil._pslinux.boot_time
psutil._pslinux.boot_time = lambda: boot_time() - (3600 if os.path.exists({flag!r}) else 0)
"""


def test_the_clock_steps_back(reference: Reference, tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour back for every process of the run: the time, and with it the times at which the system and its processes began."""
    flag = tmp_path / "an hour back"
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(CLOCK.format(flag=str(flag)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "clock"))
    parent = start(reference.preset, tmp_path / "runs")
    parent.until(saved("resume"))
    run = path_of(parent, tmp_path / "runs")
    process = worker(run)
    flag.touch()
    process.suspend()
    assert listed_state(run) == "running"
    process.resume()
    assert parent.finish() == 0, parent.stderr()
    told = check_whole(run)
    assert isinstance(told[-1], RunEnded)
    assert told[-1].time < told[0].time  # it did step back
    assert listed_state(run) == "finished"
    assert weights(run) == reference.weights
    row(
        "The clock steps back",
        "by an hour, after the first epoch, for all processes",
        "told as running; the log stays in order; equal weights",
    )
