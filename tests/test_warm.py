"""A process kept ready for runs to come: the same run, from a process that has its imports behind it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import write_shapes
from tests.training import Headless, record, write_preset

LAUNCH = """
import json, sys, time
from pathlib import Path
from engine import launch, preset
from engine.events import RunEnded, Toggles
from engine.worker import Request

launch.warm_up()
table, runs = preset.load(Path(sys.argv[1]), ["train.epochs=2"]), Path(sys.argv[2])
launched = launch.Launched(Request(table.model_dump(exclude_none=True), Toggles(deterministic=True), runs))
imported = None
while not launched.is_over:
    for event in launched.poll(0.1):
        print(json.dumps(event.__struct_config__.tag), flush=True)
launched.join(30)
print(json.dumps({"run": str(launched.run.path), "code": launched.exit_code}), flush=True)
"""


@pytest.mark.slow
def test_a_run_from_the_warm_process_is_the_same_run(tmp_path: Path) -> None:
    """Equal weights, its own session and log, nothing on our streams; the process that was kept ready ends with us."""
    preset = write_preset(tmp_path, write_shapes(tmp_path / "data", train=10, val=3))
    cold = Headless.start(preset, "--deterministic", "--runs", tmp_path / "cold", "--set", "train.epochs=2", WANDB_MODE="disabled")
    assert cold.finish() == 0, cold.stderr()
    command = [sys.executable, "-c", LAUNCH, str(preset), str(tmp_path / "warm")]
    warm = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"WANDB_MODE": "disabled"}, timeout=300, check=False)
    assert warm.returncode == 0, warm.stderr
    assert warm.stderr == ""
    lines = [json.loads(line) for line in warm.stdout.splitlines()]
    assert lines[-2:] == ["run_ended", {"run": str(tmp_path / "warm" / cold.of("run_started")[0]["run"]), "code": 0}]
    run = Path(lines[-1]["run"])
    assert record(run)["state"] == "finished"
    assert weights(run) == weights(tmp_path / "cold" / run.name)


def weights(run: Path) -> bytes:
    """Without the description, which names the version and the preset."""
    content = (run / "checkpoints" / "last.safetensors").read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]
