"""The key of Weights & Biases stays where the user put it, and what libraries write freely is the user's alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from engine.errors import EXIT_DONE, EXIT_FAILED
from tests.training import Headless, write_preset

KEY = "5e9710c0ffee" + "0123456789abcdef" + "000011112222"
"""Forty hexadecimal digits, as W&B's are."""


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["well", "badly"])
def test_the_key_is_in_nothing_that_a_run_writes_or_says(shapes: Path, tmp_path: Path, ends: str) -> None:
    preset = write_preset(tmp_path, shapes)
    arguments = ["--set", "train.epochs=1", "--set", "data.workers=0", "--runs", tmp_path / "runs"]
    if ends == "badly":  # the loss is not finite
        arguments += [
            "--set",
            "optimizer.lr=1e30",
            "--set",
            "train.epochs=20",
            "--set",
            "train.clip_norm=0.0",
            "--set",
            "train.warmup_steps=0",
        ]
    before = os.umask(0o022)
    try:
        run = Headless.start(preset, *arguments, WANDB_API_KEY=KEY, WANDB_MODE="offline", TMPDIR=str(tmp_path))
        code = run.finish()
    finally:
        os.umask(before)
    assert code == (EXIT_DONE if ends == "well" else EXIT_FAILED), run.stderr()
    (folder,) = (tmp_path / "runs").glob("[!.]*")
    assert list(folder.glob("wandb/offline-run-*/*.wandb"))
    holders = [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert holders == []
    assert KEY not in str(run.events) + run.stderr()
    found = modes(folder)
    assert found["wandb"] == 0o700
    assert found["log.txt"] == 0o600
    assert found["run.json"] == found["events.jsonl"] == 0o644  # a team may look at each other's runs
