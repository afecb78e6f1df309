"""What is left of a prediction that is killed, stopped, repeated or fails: a whole result, or none."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from engine.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_REQUEST
from tests.conftest import write_shapes
from tests.predicting import (
    Segtui,
    Told,
    files_below,
    record_of,
    rows_of,
    write_run,
    write_test,
)
from tests.training import wait_for
from tui.cli import main

ALL_OUTPUTS = ("--split", "val", "--out", "out.csv", "--masks", "masks", "--overlay", "--probabilities", "out.npy")


def test_a_result_is_replaced_only_when_that_is_asked_for(segtui: Segtui, one: Path, shapes: Path, tmp_path: Path) -> None:
    assert segtui("predict", "one", *ALL_OUTPUTS).code == EXIT_DONE
    (tmp_path / "masks" / "mine.txt").write_text("stays")
    write_run("other", shapes, seed=1)
    before = contents(tmp_path)
    for name in ("one", "other"):
        told = segtui("predict", name, *ALL_OUTPUTS)
        assert told.code == EXIT_REQUEST
        assert "--force" in told.err
        assert contents(tmp_path) == before
    shutil.copy(tmp_path / "runs/other/checkpoints/best.safetensors", one)
    assert segtui("predict", "one", *ALL_OUTPUTS, "--force").code == EXIT_DONE
    after = contents(tmp_path)
    assert after.keys() == before.keys()
    changed = {name for name in before if before[name] != after[name]}
    assert changed >= {"out.csv", "out.npy", "masks/images/val_0.png", "runs/one/predictions/out/predict.json"}
    assert after["masks/mine.txt"] == b"stays"


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_below(folder)}


def outputs(folder: Path) -> dict[str, bytes]:
    """What two predictions of the same have in common: all but times and logs."""
    timed = ("predict.json", "events.jsonl", "log.txt")
    return {name: b"" if name.endswith(timed) else content for name, content in contents(folder).items()}


def killed_at_change(number: int, arguments: list[str]) -> bool:
    """Run the command; its worker is killed just before it renames or removes a file for the n-th time. Whether it was."""

    def work() -> None:
        changes = 0

        def on_audit(event: str, _: object) -> None:
            nonlocal changes
            if event in ("os.rename", "os.remove"):
                changes += 1
                if changes == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(on_audit)
        sys.exit(main(arguments))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(120)
    assert process.exitcode in (EXIT_DONE, EXIT_FAILED)
    return process.exitcode == EXIT_FAILED


@pytest.mark.slow
@pytest.mark.parametrize("force", [[], ["--force"]], ids=["first", "forced"])
def test_killed_between_two_steps_of_publishing_the_same_command_succeeds(
    segtui: Segtui, tmp_path: Path, force: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_shapes(tmp_path / "shapes", train=2, val=2)
    write_run("one", tmp_path / "shapes")
    arguments = ["predict", "one", *ALL_OUTPUTS, *force]
    old = [] if not force else ["predict", "one", *ALL_OUTPUTS, "--tta", "vflip", "--name", "out"]
    plain = outputs_of_a_whole_run(segtui, arguments, tmp_path)
    steps = 0
    while True:
        start_afresh(tmp_path)
        if old:
            assert segtui(*old).code == EXIT_DONE
        if not killed_at_change(steps + 1, arguments):
            break
        steps += 1
        if not force:
            assert not (tmp_path / "runs/one/predictions/out").exists()
        told = segtui(*arguments)
        assert told.code == EXIT_DONE, (steps, told.err)
        assert outputs(tmp_path) == plain, steps
    assert steps > 5


@pytest.mark.slow
def test_killed_twice_while_publishing_the_same_command_succeeds(segtui: Segtui, tmp_path: Path) -> None:
    """The second time before it published anything: what the first one left must still be known as its own."""
    write_shapes(tmp_path / "shapes", train=2, val=2)
    write_run("one", tmp_path / "shapes")
    arguments = ["predict", "one", *ALL_OUTPUTS]
    plain = outputs_of_a_whole_run(segtui, arguments, tmp_path)
    start_afresh(tmp_path)
    step = 1
    while not ((tmp_path / "out.csv").exists() and (tmp_path / "masks").exists()):
        start_afresh(tmp_path)
        assert killed_at_change(step, arguments)
        step += 1
    assert killed_at_change(8, arguments)
    told = segtui(*arguments)
    assert told.code == EXIT_DONE, told.err
    assert outputs(tmp_path) == plain


def outputs_of_a_whole_run(segtui: Segtui, arguments: list[str], folder: Path) -> dict[str, bytes]:
    assert segtui(*arguments).code == EXIT_DONE
    return outputs(folder)


def start_afresh(folder: Path) -> None:
    for path in (folder / "masks", folder / "runs/one/predictions"):
        shutil.rmtree(path, ignore_errors=True)
    for path in (*folder.glob("*out.*"), *folder.glob(".masks*")):
        path.unlink() if path.is_file() else shutil.rmtree(path)


def write_many(root: Path, images: int) -> None:
    """A data set that takes seconds to predict: the network in several sizes and views."""
    write_shapes(root, train=1, val=1)
    write_test(root, [(32, 32)] * images)


SLOWLY = ("--tta", "hflip,vflip", "--out", "out.csv", "--masks", "masks", "--probabilities", "out.npy")


def started_in_a_fork(arguments: list[str]) -> Any:
    process = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(main(arguments)))
    process.start()
    return process


def worker_of(pid: int) -> int:
    """The child that is a session of its own."""
    (worker,) = (child.pid for child in psutil.Process(pid).children() if os.getsid(child.pid) == child.pid)
    return worker


def at_work(folder: Path) -> bool:
    """Images were predicted: rows of the submission are on disk under its hidden name."""
    hidden = folder / ".out.csv.partial"
    return hidden.exists() and hidden.stat().st_size > 200_000


@pytest.mark.parametrize("to_worker", [False, True], ids=["to the terminal's process", "to the worker"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_stopped_prediction_leaves_nothing(segtui: Segtui, tmp_path: Path, number: int, to_worker: bool) -> None:
    write_many(tmp_path / "shapes", 150)
    write_run("one", tmp_path / "shapes")
    before = contents(tmp_path)
    process = started_in_a_fork(["predict", "one", *SLOWLY])
    wait_for(lambda: at_work(tmp_path))
    os.kill(worker_of(process.pid) if to_worker else process.pid, number)
    process.join(60)
    assert process.exitcode == EXIT_INTERRUPTED
    assert contents(tmp_path) == before
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".cache"]


@pytest.mark.slow
def test_of_two_at_once_under_one_name_the_second_is_told(segtui: Segtui, tmp_path: Path) -> None:
    write_many(tmp_path / "shapes", 150)
    write_run("one", tmp_path / "shapes")
    first = started_in_a_fork(["predict", "one", *SLOWLY, "--name", "same"])
    wait_for(lambda: at_work(tmp_path))
    told = segtui("predict", "one", "--name", "same")
    assert told.code == EXIT_REQUEST
    assert len(told.err.splitlines()) == 1
    assert "another process is writing this result" in told.err
    assert "--name" in told.err
    first.join(120)
    assert first.exitcode == EXIT_DONE
    assert len(rows_of(tmp_path / "out.csv")) == 150
    assert record_of(tmp_path / "runs/one/predictions/same")["images"] == 150


@dataclass
class Command:
    """`segtui predict ... --json` as a process of its own."""

    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, folder: Path, *arguments: str) -> Command:
        command = [sys.executable, "-m", "tui.cli", "predict", *arguments, "--json"]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        return cls(subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment))

    def until(self, found: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found(event := json.loads(line)):
                return event  # type: ignore[no-any-return]
        raise AssertionError(f"ended without it: {self.process.stderr.read().decode()}")  # type: ignore[union-attr]

    def finish(self) -> Told:
        out, err = self.process.communicate(timeout=120)
        return Told(self.process.returncode, out.decode(), err.decode())


@pytest.mark.slow
def test_killed_prediction_leaves_nothing_that_looks_like_a_result_and_can_be_given_again(tmp_path: Path) -> None:
    write_many(tmp_path / "shapes", 120)
    write_run("one", tmp_path / "shapes", workers=2)
    before = files_below(tmp_path)
    command = Command.start(tmp_path, "one", *SLOWLY)
    command.until(lambda event: event["type"] == "progress" and event["task"] == "predict" and 0 < event["done"] < 80)
    os.kill(worker_of(command.process.pid), signal.SIGKILL)
    told = command.finish()
    assert told.code == EXIT_FAILED
    (ended,) = told.of("run_ended")
    assert ended["state"] == "failed"
    assert "SIGKILL" in ended["error"]
    left = files_below(tmp_path) - before
    assert not [name for name in left if not any(part.startswith(".") for part in Path(name).parts)]

    told = Command.start(tmp_path, "one", *SLOWLY).finish()
    assert told.code == EXIT_DONE, told.err
    assert told.err == ""
    assert len(rows_of(tmp_path / "out.csv")) == 120
    assert np.load(tmp_path / "out.npy").shape == (120, 3, 32, 32)
    assert len(files_below(tmp_path / "masks")) == 120
    assert record_of(tmp_path / "runs/one/predictions/out")["images"] == 120
    assert not [name for name in files_below(tmp_path) if any(part.startswith(".") for part in Path(name).parts)]


@pytest.mark.parametrize("at_its_end", [False, True], ids=["an image disappears", "the masks' place is taken"])
def test_why_a_prediction_failed_is_told(segtui: Segtui, tmp_path: Path, at_its_end: bool) -> None:
    write_many(tmp_path / "shapes", 40)
    write_run("one", tmp_path / "shapes")
    before = files_below(tmp_path)
    last = sorted((tmp_path / "shapes/images").glob("*39.png"))[0]

    def spoil() -> None:
        wait_for(lambda: at_work(tmp_path))
        (tmp_path / "masks").write_text("mine") if at_its_end else last.unlink()

    spoiler = threading.Thread(target=spoil)
    spoiler.start()
    told = segtui("predict", "one", "--out", "out.csv", "--masks", "masks", "--tta", "hflip,vflip", "--json")
    spoiler.join()
    assert told.code == EXIT_FAILED
    (ended,) = told.of("run_ended")
    assert ended["state"] == "failed"
    assert len(ended["error"].splitlines()) == 1
    assert (str(tmp_path / "masks") if at_its_end else f"{last} does not exist") in ended["error"]
    assert "Traceback" in ended["traceback"]
    if not at_its_end:
        assert files_below(tmp_path) - before == {"runs/one/predictions/out.log"}


@pytest.mark.slow
def test_image_that_disappears_fails_the_prediction_and_only_the_log_stays(tmp_path: Path) -> None:
    write_many(tmp_path / "shapes", 120)
    write_run("one", tmp_path / "shapes", workers=2)
    last = sorted((tmp_path / "shapes/images").glob("*119.png"))[0]
    before = files_below(tmp_path)
    command = Command.start(tmp_path, "one", *SLOWLY)
    command.until(lambda event: event["type"] == "prediction_started")
    last.unlink()
    told = command.finish()
    assert told.code == EXIT_FAILED
    assert told.err == ""
    (ended,) = told.of("run_ended")
    assert ended["state"] == "failed"
    log = tmp_path / "runs/one/predictions/out.log"
    assert ended["error"] == f"{last} does not exist (its log: {log})"
    assert "Traceback" in ended["traceback"]
    assert str(last) in log.read_text()
    left = files_below(tmp_path)
    assert left - before == {str(log.relative_to(tmp_path))}
    assert before - left == {str(last.relative_to(tmp_path))}
