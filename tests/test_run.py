"""Run folders, and what checkpoint files say about themselves."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import torch

from engine.checkpoint import load_resume, load_weights, save_resume, save_weights
from engine.checkpoint_header import CheckpointHeader, HeaderError, read_header
from engine.errors import RequestError
from engine.events import Toggles
from engine.run import SILENT_S, RunFolder, RunLock, RunRecord, all_checkpoints, claim, find_run

ROOT = Path(__file__).parents[1]


def record(**changes: Any) -> RunRecord:
    own = psutil.Process()
    fields = {"name": "r", "state": "running", "preset": "p", "model": "m", "toggles": Toggles(), "host": socket.gethostname()}
    return RunRecord(**{**fields, "pid": own.pid, "pid_started": own.create_time(), "created": time.time(), "epochs": 3, **changes})


def new_run(runs: Path, name: str, **changes: Any) -> RunFolder:
    folder = claim(runs, name, debug=False)
    folder.write(record(name=name, **changes))
    folder.checkpoints.mkdir()
    return folder


def test_runs_of_one_name_are_numbered(tmp_path: Path) -> None:
    assert [claim(tmp_path / "runs", "PAN-b3", debug=False).path.name for _ in range(3)] == ["PAN-b3", "PAN-b3_exp2", "PAN-b3_exp3"]


def _claim_twenty(runs: Path, barrier: Any, found: Any) -> None:
    barrier.wait()
    for _ in range(20):
        found.put(claim(runs, "PAN-b3", debug=False).path.name)


def test_runs_that_start_at_once_get_different_names(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = [folder.path.name for folder in pool.map(lambda _: claim(tmp_path / "threads", "PAN-b3", debug=False), range(40))]
    assert len(set(names)) == 40

    fork = multiprocessing.get_context("fork")
    barrier, found = fork.Barrier(2), fork.Queue()
    processes = [fork.Process(target=_claim_twenty, args=(tmp_path / "processes", barrier, found)) for _ in range(2)]
    for process in processes:
        process.start()
    names = [found.get(timeout=30) for _ in range(40)]
    for process in processes:
        process.join()
    assert len(set(names)) == 40


def test_a_debug_run_replaces_the_last_one_unless_it_still_runs(tmp_path: Path) -> None:
    first = claim(tmp_path, "PAN-b3", debug=True)
    (first.path / "log.txt").write_text("old")
    first.write(record(state="finished"))
    second = claim(tmp_path, "PAN-b3", debug=True)
    assert second.path == first.path == tmp_path / "debug_PAN-b3"
    assert list(second.path.iterdir()) == []
    assert [each.name for each in tmp_path.iterdir()] == ["debug_PAN-b3"]

    second.write(record(state="running"))
    with pytest.raises(RequestError, match="still running"):
        claim(tmp_path, "PAN-b3", debug=True)
    assert (second.path / "run.json").exists()


def test_a_run_is_lost_when_its_process_is_gone(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    started = psutil.Process(gone.pid).create_time()
    gone.wait()
    assert new_run(tmp_path, "own").read().state == "running"
    assert new_run(tmp_path, "dead", pid=gone.pid, pid_started=started).read().state == "lost"
    assert new_run(tmp_path, "number used again", pid_started=1.0).read().state == "lost"
    assert new_run(tmp_path, "ended", state="finished", pid=gone.pid, pid_started=started).read().state == "finished"


def test_a_run_on_another_machine_is_lost_when_it_falls_silent(tmp_path: Path) -> None:
    run = new_run(tmp_path, "remote", host="another-machine", pid=1)
    run.events.touch()
    assert run.read().state == "running"
    silent_since = time.time() - SILENT_S - 5
    os.utime(run.events, (silent_since, silent_since))
    assert run.read().state == "lost"


def test_a_run_is_found_by_name_or_folder_and_the_nearest_is_suggested(tmp_path: Path) -> None:
    run = new_run(tmp_path, "Unet-resnet18")
    new_run(tmp_path, "PAN-efficientnet-b3")
    assert find_run("Unet-resnet18", tmp_path).path == run.path
    assert find_run(str(run.path), tmp_path / "elsewhere").path == run.path
    with pytest.raises(RequestError, match="Did you mean 'Unet-resnet18'"):
        find_run("unet-resnet81", tmp_path)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_bytes((run.path / "run.json").read_bytes()[:40])
    with pytest.raises(RequestError, match=r"run\.json"):
        find_run("torn", tmp_path).read()


# The child stands for a data-loader worker: it outlives its parent, and must not keep the lock.
HOLDER = """
import os, sys, time
from pathlib import Path
from engine.run import RunFolder, RunLock
lock = RunLock(RunFolder(Path(sys.argv[1])))
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(120)
"""


def test_a_run_has_one_writer_and_its_lock_ends_with_it(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(RequestError, match="another process"):
            RunLock(RunFolder(tmp_path))
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert psutil.pid_exists(child)
        RunLock(RunFolder(tmp_path))
    finally:
        holder.kill()
        os.kill(child, signal.SIGKILL)


PRESET = {"name": "demo", "model": {"type": "Unet", "encoder_name": "resnet18"}}
WEIGHTS = {
    "conv": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
    "half": torch.tensor([1.5, float("nan"), -0.0], dtype=torch.bfloat16),
    "bn.num_batches_tracked": torch.tensor(7),
    "none": torch.zeros(0, 3),
}


def header(mIoU: float | None = 0.5, **changes: Any) -> CheckpointHeader:
    fields = {
        "segtui": "0",
        "kind": "best",
        "preset": PRESET,
        "classes": ["Background", "Glass", "é"],
        "mean": [0.1, 0.2, 0.3],
        "std": [1, 2, 3],
    }
    return CheckpointHeader(**{**fields, "epoch": 3, "mIoU": mIoU, "IoU": [0.25, None, 0.75], **changes})


def test_weights_and_header_come_back(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    save_weights(path, WEIGHTS, header())
    assert msgspec.structs.replace(read_header(path), checksum=None) == header()
    loaded = load_weights(path)
    assert loaded.keys() == WEIGHTS.keys()
    for name, tensor in WEIGHTS.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name].nan_to_num(9.0), tensor.nan_to_num(9.0))
    assert [each.name for each in tmp_path.iterdir()] == ["best.safetensors"]


def test_a_cut_file_is_refused_at_every_length(tmp_path: Path) -> None:
    path = tmp_path / "whole.safetensors"
    save_weights(path, WEIGHTS, header())
    content = path.read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in [*range(0, len(content), 7), len(content) - 1]:
        cut.write_bytes(content[:length])
        with pytest.raises(HeaderError):
            read_header(cut)
        with pytest.raises(RequestError, match=r"cut\.safetensors"):
            load_weights(cut)


def safetensors_with(table: bytes, tail: bytes = b"") -> bytes:
    return struct.pack("<Q", len(table)) + table + tail


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04 a zip file, as torch.save writes it",
        safetensors_with(b"[]"),
        safetensors_with(b"[" * 200_000),
        safetensors_with(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"1234"),
        safetensors_with(b'{"a":{"data_offsets":["0","4"]},"__metadata__":{"segtui":"{}"}}'),
        safetensors_with(b'{"a":1,"__metadata__":{"segtui":"{}"}}'),
        safetensors_with(b'{"__metadata__":{"segtui":"{}"}}'),
        safetensors_with(b'{"__metadata__":{"segtui":4}}'),
        safetensors_with(json.dumps({"__metadata__": {"segtui": header(format=99).to_json()}}).encode()),
    ],
    ids=["zip", "list", "deep", "foreign", "offsets", "entries", "empty description", "number", "newer"],
)
def test_a_file_of_something_else_is_refused_and_listed(tmp_path: Path, content: bytes) -> None:
    run = new_run(tmp_path, "run")
    file = run.checkpoints / "best.safetensors"
    file.write_bytes(content)
    with pytest.raises(HeaderError):
        read_header(file)
    (row,) = all_checkpoints(tmp_path)
    assert row.header is None
    assert row.row()["problem"]


REWRITE = """
import sys
from pathlib import Path
from tests.test_run import WEIGHTS, header, save_weights
save_weights(Path(sys.argv[1]), dict(reversed(WEIGHTS.items())), header())
"""


def test_equal_weights_give_equal_files(tmp_path: Path) -> None:
    reordered = header(preset={"model": {"encoder_name": "resnet18", "type": "Unet"}, "name": "demo"})
    for name, described in (("1", header()), ("2", header()), ("3", reordered)):
        save_weights(tmp_path / name, {key: tensor.clone() for key, tensor in WEIGHTS.items()}, described)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes() == (tmp_path / "3").read_bytes()


@pytest.mark.slow
def test_equal_weights_give_equal_files_in_another_process(tmp_path: Path) -> None:
    save_weights(tmp_path / "1", WEIGHTS, header())
    environment = os.environ | {"PYTHONHASHSEED": "3", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", REWRITE, str(tmp_path / "2")], cwd=ROOT, env=environment, check=True)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_checkpoints_are_listed_best_first_and_broken_ones_last(tmp_path: Path) -> None:
    a, b = new_run(tmp_path, "a"), new_run(tmp_path, "b")
    for run, name, score in ((a, "best", 0.4), (a, "last", 0.1), (b, "best", 0.9), (b, "last", None), (b, "epoch_003", 0.4)):
        save_weights(run.checkpoints / f"{name}.safetensors", WEIGHTS, header(score))
    (a.checkpoints / "torn.safetensors").write_bytes((a.checkpoints / "best.safetensors").read_bytes()[:-1])
    (a.checkpoints / "a folder.safetensors").mkdir()
    (a.checkpoints / "resume.pt").write_bytes(b"not listed")
    rows = all_checkpoints(tmp_path)
    order = [("b", "best"), ("a", "best"), ("b", "epoch_003"), ("a", "last"), ("b", "last"), ("a", "a folder"), ("a", "torn")]
    assert [(row.run, row.path.stem) for row in rows] == order
    assert [bool(row.problem) for row in rows] == [False] * 5 + [True] * 2
    assert [row.row()["mIoU"] for row in rows] == [0.9, 0.4, 0.4, 0.1, None, None, None]
    assert rows[0].row()["model"] == "Unet-resnet18"


def test_a_checkpoint_whose_target_is_gone_is_listed_as_broken(tmp_path: Path) -> None:
    run = new_run(tmp_path, "a")
    save_weights(run.checkpoints / "best.safetensors", WEIGHTS, header())
    (run.checkpoints / "link.safetensors").symlink_to(tmp_path / "gone.safetensors")
    assert [row.path.stem for row in all_checkpoints(tmp_path)] == ["best", "link"]


def test_a_resume_state_comes_back_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    trainer = {"model": WEIGHTS["conv"], "epoch": 3, "best": None, "rates": [0.1, 1e-9], "nested": {"text": "é", "list": [1, (2, True)]}}
    state = resume_state(trainer)
    path = tmp_path / "resume.pt"
    save_resume(path, state)
    loaded = load_resume(path)
    assert torch.equal(loaded["trainer"].pop("model"), trainer.pop("model"))
    assert {name: loaded[name] for name in state} == state

    content = path.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(RequestError, match=r"resume\.pt"):
            load_resume(path)
    torch.save({"format": 0}, path)
    with pytest.raises(RequestError, match="another version"):
        load_resume(path)
    with pytest.raises(RequestError, match="no state to resume"):
        load_resume(tmp_path / "missing.pt")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"trainer": None}, "trainer"),
        ({"trainer": WEIGHTS["conv"]}, "trainer"),
        ({"random": [1, 2]}, "random"),
        ({"preset": 3}, "preset"),
        ({"data": {"train": "a digest"}}, "data.val"),
        ({"data": {"train": "a digest", "val": 7}}, "data.val"),
    ],
)
def test_a_resume_state_of_other_kinds_of_values_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    save_resume(tmp_path / "resume.pt", resume_state({}) | changes)
    with pytest.raises(RequestError, match=rf"resume\.pt: is no whole resume state: .*{says}") as refused:
        load_resume(tmp_path / "resume.pt")
    assert len(refused.value.problems) == 1


@pytest.mark.parametrize("part", ["trainer", "random", "preset", "data"])
def test_a_resume_state_that_lacks_a_part_is_refused(tmp_path: Path, part: str) -> None:
    state = resume_state({})
    del state[part]
    save_resume(tmp_path / "resume.pt", state)
    with pytest.raises(RequestError, match=f"is no whole resume state: it lacks {part}"):
        load_resume(tmp_path / "resume.pt")


def resume_state(trainer: dict[str, Any]) -> dict[str, Any]:
    return {"trainer": trainer, "random": {}, "preset": "a digest", "data": {"train": "a digest", "val": "a digest"}}


class RunsCode:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_that_would_run_code_is_refused_and_nothing_runs(tmp_path: Path, how: str) -> None:
    marker, path = tmp_path / "it ran", tmp_path / "resume.pt"
    state = {"format": 1, "model": RunsCode(marker)}
    if how == "torch":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(state, protocol=2))
    with pytest.raises(RequestError):
        load_resume(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(RunsCode(marker)))
    assert marker.exists(), "the pickle of this test does run code where nothing stops it"
