"""train.compile: what the compiler cannot do costs a message, never the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import write_shapes
from tests.training import Headless, write_preset


@pytest.mark.slow
def test_without_a_compiler_the_run_goes_on_as_if_it_had_not_been_asked_for(tmp_path: Path) -> None:
    preset = write_preset(tmp_path, write_shapes(tmp_path / "data", train=10, val=3))
    runs = [
        Headless.start(
            *(preset, "--deterministic", "--runs", tmp_path / "runs", "--set", "train.epochs=1", "--set", f"train.compile={wanted}"),
            WANDB_MODE="disabled",
            CXX=str(tmp_path / "no-such-compiler"),
            TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"),
        )
        for wanted in ("true", "false")
    ]
    assert [run.finish(300) for run in runs] == [0, 0], runs[0].stderr()
    texts = [event["text"] for event in runs[0].of("message")]
    assert any("torch.compile failed" in text and "training goes on without it" in text for text in texts), texts
    losses = [[step["loss"] for step in run.of("step")] for run in runs]
    assert losses[0] == losses[1]
