"""Disks that are full, and folders that cannot be written any more."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.conftest import Row
from tests.faults.runs import (
    EPOCHS,
    Reference,
    check_whole,
    fill,
    listed_state,
    path_of,
    resize,
    resumed_to_the_end,
    saved,
    small_disk,
    start,
)

pytestmark = pytest.mark.faults


def test_the_disk_is_full_when_a_checkpoint_is_written(reference: Reference, tmp_path: Path, row: Row) -> None:
    """Room for what the first epoch saves (12 and 47 MB), not for a second resume state beside the first."""
    with small_disk(tmp_path / "disk", "90m") as disk:
        parent = start(reference.preset, disk)
        assert parent.finish() == 1
        run = path_of(parent, disk)
        assert "could not be written: No space left on device" in parent.events[-1]["error"]
        assert "resume.pt" in parent.events[-1]["error"]
        assert listed_state(run) == "failed"
        assert not list(run.glob("**/*.tmp"))
        assert check_whole(run)[-1].error == parent.events[-1]["error"]  # type: ignore[union-attr]
        resize(disk, "1g")
        assert resumed_to_the_end(run) == reference.weights
    row(
        "Disk full while a checkpoint is written",
        "a small file system; the second epoch's `resume.pt` does not fit",
        "the run fails and names the file; the first epoch's state loads, no half file stays; with room again, resumed: equal weights",
    )


def test_the_disk_is_full_to_the_last_byte(reference: Reference, tmp_path: Path, row: Row) -> None:
    """Neither log nor record nor log.txt can be written; the listener learns it all the same."""
    with small_disk(tmp_path / "disk", "400m") as disk:
        parent = start(reference.preset, disk)
        parent.until(saved("resume"))
        run = path_of(parent, disk)
        filler = fill(disk)
        assert parent.finish() == 1
        assert parent.events[-1]["type"] == "run_ended"
        assert "could not be written: No space left on device" in parent.events[-1]["error"]
        assert "Traceback" not in parent.stderr()
        assert listed_state(run) in ("failed", "lost")
        check_whole(run)
        filler.unlink()
        assert resumed_to_the_end(run) == reference.weights
    row(
        "Disk full while the event log is written",
        "another program fills the disk to its last byte after the first epoch",
        "the launching process is told why; the log ends in a whole line; never told as running; with room again, resumed: equal weights",
    )


@pytest.mark.parametrize("size", ["4k", "24k"])
def test_the_disk_is_full_when_the_cache_is_drawn(size: str, reference: Reference, tmp_path: Path, row: Row) -> None:
    with small_disk(tmp_path / "disk", size) as disk:
        parent = start(reference.preset, disk)
        assert parent.finish() == 2
        assert "cannot be written: No space left on device" in parent.stderr()
        assert "Traceback" not in parent.stderr()
        assert not [path for path in disk.iterdir() if path.name != ".cache"]
        assert not list(disk.glob(".cache/.masks-*"))
    row(
        f"Disk full at the start ({size} left)",
        "the mask cache or the run's first files do not fit",
        "refused: exit code 2; no half cache, no run",
    )


@contextmanager
def read_only(*folders: Path) -> Iterator[None]:
    """Nothing can be made, replaced or removed in these folders; not even by root."""
    root = os.geteuid() == 0
    if root and shutil.which("chattr") is None:
        pytest.skip("running as root, and there is no chattr: nothing makes a folder read-only to root")
    for folder in folders:
        if root:
            changed = subprocess.run(["chattr", "+i", folder], capture_output=True, text=True, check=False)
            if changed.returncode:
                pytest.skip(f"running as root, and this file system has no immutable folders: {changed.stderr.strip()}")
        else:
            folder.chmod(0o555)
    try:
        yield
    finally:
        for folder in folders:
            if root:
                subprocess.run(["chattr", "-i", folder], check=True)
            else:
                folder.chmod(0o755)


def test_the_folder_turns_read_only(reference: Reference, tmp_path: Path, row: Row) -> None:
    parent = start(reference.preset, tmp_path / "runs")
    parent.until(saved("resume"))
    run = path_of(parent, tmp_path / "runs")
    with read_only(run / "checkpoints", run):
        assert parent.finish() == 1
        assert parent.events[-1]["state"] == "failed"
        assert "could not be written" in parent.events[-1]["error"]
        assert "Traceback" not in parent.stderr()
        assert listed_state(run) in ("failed", "lost")
        refused = start(reference.preset, run, EPOCHS)  # a folder of runs that cannot be written at all
        assert refused.finish() == 2
        assert "cannot be written" in refused.stderr()
        check_whole(run)
    assert resumed_to_the_end(run) == reference.weights
    row(
        "The runs folder turns read-only",
        "after the first epoch; then a new run is started there",
        "the run fails and names the file, is never told as running; the new one is refused; writable again, resumed: equal weights",
    )
