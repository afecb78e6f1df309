"""Whole runs: what they tell, what they leave on disk, and that an interrupted one ends in the same weights."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import psutil
import pytest

from engine import events
from engine.checkpoint_header import read_header
from engine.run import RunFolder
from tests.conftest import write_shapes
from tests.training import Headless, kill, record, wait_for, write_preset
from tests.wandb_files import history, read_offline_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_preset(folder, write_shapes(folder / "data", train=26, val=6))
    return folder


@pytest.fixture(scope="module")
def whole(place: Path) -> Headless:
    """An uninterrupted deterministic run."""
    run = Headless.start(place / "tiny.toml", "--deterministic", "--runs", place / "runs", "--set", 'wandb.team_entity="team"')
    assert run.finish() == 0, run.stderr()
    return run


@pytest.fixture(scope="module")
def folder(whole: Headless, place: Path) -> Path:
    return place / "runs" / whole.of("run_started")[0]["run"]


def test_a_run_tells_its_story(whole: Headless, folder: Path) -> None:
    """Every event once and in order; the file is what stdout said."""
    numbered = [event for event in whole.events if event["seq"]]
    assert [event["seq"] for event in numbered] == list(range(numbered[0]["seq"], numbered[-1]["seq"] + 1))
    lines = (folder / "events.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines][-len(numbered) :] == numbered
    started = whole.of("run_started")[0]
    assert started["classes"] == ["Background", "square", "triangle"]
    assert started["steps_per_epoch"] == 6  # 26 images, batch 4, the short batch dropped
    assert [step["step"] for step in whole.of("step")] == list(range(1, 31))
    assert [each["epoch"] for each in whole.of("validation")] == [1, 2, 3, 4, 5]
    assert sum(whole.of("validation")[0]["support"]) == 6 * 64 * 64  # no validation image is dropped
    assert whole.events[-1] | {"time": 0, "seq": 0} == {
        "type": "run_ended",
        "state": "finished",
        "error": None,
        "traceback": None,
        "time": 0,
        "seq": 0,
    }


def test_it_learns_warms_up_and_anneals(whole: Headless) -> None:
    rates = [step["lr"] for step in whole.of("step")]
    assert rates[0] == pytest.approx(2e-3 / 4)
    assert max(rates) <= 2e-3
    assert rates[-1] < 1e-4
    assert whole.of("epoch")[-1]["loss"] < whole.of("epoch")[0]["loss"]


def test_the_folder_holds_what_it_should(whole: Headless, folder: Path) -> None:
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    assert names == {"best.safetensors", "epoch_002.safetensors", "epoch_004.safetensors", "last.safetensors", "resume.pt"}
    header = read_header(folder / "checkpoints" / "best.safetensors")
    best = max(whole.of("validation"), key=lambda each: each["mIoU"])
    assert (header.epoch, header.mIoU, header.IoU) == (best["epoch"], best["mIoU"], best["IoU"])
    assert header.classes == ["Background", "square", "triangle"]
    assert header.preset["model"]["type"] == "FPN"
    found = record(folder)
    assert found["state"] == "finished"
    assert found["best_mIoU"] == best["mIoU"]
    assert found["toggles"] == {"debug": False, "deterministic": True, "private": False}
    assert {path.name.split("_")[0] for path in (folder / "images").iterdir()} == {"fixed", "worst"}
    assert not list(folder.glob("**/*.tmp"))


def test_wandb_has_every_metric_of_the_baseline(folder: Path) -> None:
    found = read_offline_run(folder)
    for name in ("square", "triangle", "Background"):
        assert {f"{name}/train_IoU", f"{name}/train_acc", f"{name}/valid_IoU", f"{name}/valid_acc"} <= found.metrics
    wanted = ("train/loss", "train/mIoU", "valid/loss", "valid/mIoU", "valid/acc", "valid/cls_acc", "valid/fwavacc")
    assert {*wanted, "epoch/best_epoch", "optimizer/lr", "valid/images"} <= found.metrics
    assert sum("valid/images" in row for row in history(folder)) == 5  # none was dropped: W&B followed from the start
    assert found.name == folder.name
    assert found.entity == "team"
    assert found.config["model"]["type"] == "FPN"
    assert found.config["optimizer_name"] == "AdamW"
    assert found.config["loss_name"] == "CrossEntropyLoss+DiceLoss"


def test_two_deterministic_runs_give_equal_files(whole: Headless, folder: Path, place: Path) -> None:
    assert whole.process.returncode == 0
    again = Headless.start(
        *(place / "tiny.toml", "--deterministic", "--runs", place / "runs", "--set", 'wandb.team_entity="team"'), WANDB_MODE="disabled"
    )
    assert again.finish() == 0, again.stderr()
    second = place / "runs" / again.of("run_started")[0]["run"]
    assert second.name == f"{folder.name}_exp2"
    assert [step["loss"] for step in again.of("step")] == [step["loss"] for step in whole.of("step")]
    for name in ("last", "best", "epoch_002"):
        assert (second / f"checkpoints/{name}.safetensors").read_bytes() == (folder / f"checkpoints/{name}.safetensors").read_bytes()


def resumed_weights(run: Path) -> bytes:
    second = Headless.start("--resume", run, WANDB_MODE="disabled")
    assert second.finish() == 0, second.stderr()
    assert second.of("run_started")[0]["resumed_step"] > 0
    return (run / "checkpoints" / "last.safetensors").read_bytes()


def test_stopped_at_a_random_step_and_resumed(whole: Headless, folder: Path, place: Path) -> None:
    """SIGTERM ends after the step with exit code 3; the resumed run ends in the bytes of the uninterrupted one."""
    assert whole.process.returncode == 0
    stop_after = random.randint(1, 20)
    run = Headless.start(place / "tiny.toml", "--deterministic", "--runs", place / "term", "--set", 'wandb.team_entity="team"')
    run.until(lambda event: event["type"] == "step" and event["step"] >= stop_after)
    path = place / "term" / run.of("run_started")[0]["run"]
    kill(record(path)["pid"], signal.SIGTERM)
    assert run.finish() == 3, (stop_after, run.stderr())
    assert record(path)["state"] == "stopped"
    assert resumed_weights(path) == (folder / "checkpoints" / "last.safetensors").read_bytes(), stop_after
    log = events.EventReader(path / "events.jsonl").read()
    assert [each.seq for each in log] == list(range(1, len(log) + 1))


def test_killed_between_checkpoints_and_resumed(whole: Headless, folder: Path, place: Path) -> None:
    """SIGKILL loses the steps since the last saved state and nothing else; the record and the exit tell the cause."""
    assert whole.process.returncode == 0
    kill_after = random.randint(8, 22)
    run = Headless.start(place / "tiny.toml", "--deterministic", "--runs", place / "killed", "--set", 'wandb.team_entity="team"')
    run.until(lambda event: event["type"] == "checkpoint" and event["kind"] == "resume")
    if run.of("step")[-1]["step"] < kill_after:
        run.until(lambda event: event["type"] == "step" and event["step"] >= kill_after)
    path = place / "killed" / run.of("run_started")[0]["run"]
    kill(record(path)["pid"])
    assert run.finish() == 1
    assert run.events[-1]["state"] == "lost"
    assert "SIGKILL" in run.events[-1]["error"]
    assert RunFolder(path).read().state == "lost"
    assert resumed_weights(path) == (folder / "checkpoints" / "last.safetensors").read_bytes(), kill_after


def test_resume_is_refused_where_something_changed(whole: Headless, folder: Path, place: Path) -> None:
    """Finished, a changed preset, changed data: one message and exit code 2 each."""
    finished = Headless.start("--resume", folder)
    assert finished.finish() == 2
    assert "has finished" in finished.stderr()
    path = place / "term" / folder.name
    found = record(path)
    (path / "run.json").write_text((path / "run.json").read_text().replace('"finished"', '"stopped"'))
    preset_text = (path / "preset.toml").read_text()
    (path / "preset.toml").write_text(preset_text.replace("lr = 0.002", "lr = 0.003"))
    changed = Headless.start("--resume", path)
    assert changed.finish() == 2
    assert "has changed" in changed.stderr()
    (path / "preset.toml").write_text(preset_text)
    data = place / "data" / "train.json"
    content = data.read_text()
    data.write_text(content + " ")
    other = Headless.start("--resume", path)
    assert other.finish() == 2
    assert "train.json: has changed" in other.stderr()
    data.write_text(content)
    assert found["state"] == "finished"


def test_a_loss_that_is_not_finite_fails_with_step_and_images(place: Path) -> None:
    run = Headless.start(
        *(
            place / "tiny.toml",
            "--runs",
            place / "nan",
            "--set",
            "optimizer.lr=1e18",
            "--set",
            "train.clip_norm=0.0",
            "--set",
            "train.warmup_steps=0",
        )
    )
    assert run.finish() == 1, run.stderr()
    error = run.events[-1]["error"]
    assert run.events[-1]["state"] == "failed"
    assert "at step" in error
    assert "images/train_" in error
    path = place / "nan" / run.of("run_started")[0]["run"]
    assert record(path)["error"] == error
    assert "Traceback" in record(path)["traceback"]
    assert "Traceback" in (path / "log.txt").read_text()


def test_a_killed_loader_worker_fails_the_run_with_its_cause(place: Path) -> None:
    run = Headless.start(place / "tiny.toml", "--runs", place / "loader", "--set", "train.epochs=500")
    run.until(lambda event: event["type"] == "step")
    path = place / "loader" / run.of("run_started")[0]["run"]
    loaders = [child for child in psutil.Process(record(path)["pid"]).children() if "python" in child.name() or "pt_data" in child.name()]
    loaders[-1].kill()
    assert run.finish() == 1
    assert "DataLoader worker" in run.events[-1]["error"]
    assert "illed" in run.events[-1]["error"]


def test_a_debug_run_keeps_no_checkpoint_and_is_replaced(place: Path) -> None:
    for _ in range(2):
        run = Headless.start(place / "tiny.toml", "--debug", "--private", "--runs", place / "debug", "--set", "train.epochs=1")
        assert run.finish() == 0, run.stderr()
    assert [each.name for each in (place / "debug").iterdir() if not each.name.startswith(".")] == ["debug_FPN-resnet18"]
    path = place / "debug" / "debug_FPN-resnet18"
    assert not (path / "checkpoints").exists()
    assert run.of("run_started")[0]["images"] == {"train": 4, "val": 1}
    found = read_offline_run(path)
    assert found.name.startswith("debug_")
    assert found.entity == ""  # private, and no entity of one's own given: the account's default


def test_the_launcher_killed_leaves_the_run_going(place: Path) -> None:
    run = Headless.start(place / "tiny.toml", "--runs", place / "alone")
    run.until(lambda event: event["type"] == "run_started")
    path = place / "alone" / run.of("run_started")[0]["run"]
    run.process.kill()
    run.process.wait()
    wait_for(lambda: record(path)["state"] == "finished", 240)
    assert (path / "checkpoints" / "last.safetensors").stat().st_size > 0
