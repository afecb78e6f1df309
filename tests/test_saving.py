"""Saving behind the loop: what is written is the state at the moment of asking, in order, and an error is not lost."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.checkpoint import save_resume
from engine.snapshot import Snapshots
from engine.write_behind import WriteBehind


def trained(steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    train(model, optimizer, steps)
    return model, optimizer


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        model(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()


def test_a_snapshot_is_the_state_at_its_moment(tmp_path: Path) -> None:
    """The file written after more steps is the one that would have been written before them."""
    model, optimizer = trained(2)
    now = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "rates": [0.1], "none": None}
    save_resume(tmp_path / "then.pt", now)
    taken = Snapshots().take(now)
    train(model, optimizer, 2)
    save_resume(tmp_path / "later.pt", taken)
    then, later = (torch.load(tmp_path / name, weights_only=True) for name in ("then.pt", "later.pt"))
    torch.testing.assert_close(later, then, rtol=0, atol=0)
    assert not torch.equal(model.state_dict()["0.weight"], later["model"]["0.weight"])
    assert isinstance(taken["model"], OrderedDict)
    assert taken["model"]["0.weight"].stride() == model.state_dict()["0.weight"].stride()


def test_the_next_snapshot_takes_the_memory_of_the_last_and_shared_tensors_are_copied_once() -> None:
    model, optimizer = trained(1)
    snapshots = Snapshots()
    first = snapshots.take({"weights": model.state_dict(), "resume": {"model": model.state_dict()}})
    assert first["weights"]["0.weight"].data_ptr() == first["resume"]["model"]["0.weight"].data_ptr()
    train(model, optimizer, 1)
    second = snapshots.take({"weights": model.state_dict()})
    assert second["weights"]["0.weight"].data_ptr() == first["weights"]["0.weight"].data_ptr()
    assert torch.equal(second["weights"]["0.weight"], model.state_dict()["0.weight"])


def test_work_is_done_in_order_and_one_at_a_time() -> None:
    writer, done, gate = WriteBehind(), [], threading.Event()

    def first() -> None:
        gate.wait(10)
        done.append(1)

    writer.start(first)
    assert not done
    threading.Timer(0.05, gate.set).start()
    writer.start(lambda: done.append(2))
    writer.wait()
    assert done == [1, 2]


def test_an_error_is_raised_once_where_it_is_waited_for() -> None:
    writer = WriteBehind()

    def full() -> None:
        raise OSError(28, "No space left on device")

    writer.start(full)
    with pytest.raises(OSError, match="No space left"):
        writer.start(lambda: pytest.fail("started though what was before it had failed"))
    writer.wait()


def test_an_error_that_comes_second_is_told_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    writer = WriteBehind()
    writer.start(lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    writer.settle()
    assert "ZeroDivisionError" in capsys.readouterr().err
