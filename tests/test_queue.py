"""The queue of a box: its state, its commands, its process; real processes and, where it says slow, real training."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.box_devices import device_variables, devices
from engine.box_queue import WHERE, BoxQueue, Entry, QueueState
from engine.errors import RequestError
from engine.events import Toggles
from engine.preset import load
from engine.schema import Preset
from tests.conftest import write_shapes
from tests.queues import CLI, ENVIRONMENT, Queued, ended, listed, queue_command, queue_process, quit_queue, ticket_of, worker_of
from tests.screens import new_run, whole_run
from tests.training import kill, wait_for, write_preset
from tui.queueing import exit_code

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Preset:
    folder = tmp_path_factory.mktemp("preset")
    return load(write_preset(folder, folder / "nowhere"))


def order(queue: BoxQueue) -> list[int]:
    return [entry.id for entry in queue.read().waiting]


# Its state


def test_a_queue_is_empty_where_there_is_none_and_nothing_is_written_to_read_it(tmp_path: Path) -> None:
    queue = BoxQueue(tmp_path / "runs")
    assert queue.read().entries == []
    assert not queue.is_worked_on
    queue.forget()
    queue.start()
    for wrong in (lambda: queue.move(1, "up"), lambda: queue.cancel(1)):
        with pytest.raises(RequestError, match="no entry 1"):
            wrong()
    assert not (tmp_path / "runs").exists()


def test_an_entry_is_what_was_asked_for_whatever_becomes_of_the_file(shapes: Path, tmp_path: Path) -> None:
    file = write_preset(tmp_path, shapes)
    asked = load(file, ["train.epochs=7"])
    queue = BoxQueue(tmp_path / "runs")
    assert queue.append([asked], Toggles(debug=True)) == [1]
    file.write_text("")
    (entry,) = queue.read().entries
    assert Preset.model_validate(entry.preset) == asked
    assert (entry.name, entry.toggles, entry.state, entry.devices_wanted) == ("debug_FPN-resnet18", Toggles(debug=True), "queued", 1)
    assert entry.folder == str(Path.cwd())


@given(
    states=st.lists(st.sampled_from(["queued", "queued", "running", "finished"]), min_size=1, max_size=6),
    moves=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(WHERE)), max_size=12),
)
def test_moving_changes_the_order_of_those_that_wait_alone(states: list[Any], moves: list[tuple[int, Any]]) -> None:
    state = QueueState(entries=[entry(number, each) for number, each in enumerate(states, 1)])
    before = {each.id: each for each in state.entries}
    expected = [each.id for each in state.entries if each.state == "queued"]
    for at, where in moves:
        if at >= len(expected):
            continue
        number = expected[at]
        state.move(number, where)
        if where == "first":
            expected = [number, *expected[:at], *expected[at + 1 :]]
        elif where == "up" and at > 0:
            expected[at - 1], expected[at] = expected[at], expected[at - 1]
        elif where == "down" and at < len(expected) - 1:
            expected[at + 1], expected[at] = expected[at], expected[at + 1]
        assert [each.id for each in state.waiting] == expected
    assert {each.id: each for each in state.entries} == before
    assert msgspec.json.decode(msgspec.json.encode(state), type=QueueState) == state


def entry(number: int, state: Any) -> Entry:
    return Entry(
        id=number, name=f"run{number}", preset={}, toggles=Toggles(), ticket=str(number), folder="/", asked=float(number), state=state
    )


def test_what_has_begun_or_is_over_is_neither_moved_nor_cancelled(preset: Preset, tmp_path: Path) -> None:
    queue = BoxQueue(tmp_path)
    queue.append([preset] * 4, Toggles())
    with queue.changing() as state:
        state.find(1).state = "finished"
        state.find(2).state, state.find(2).run = "running", "FPN"
    for number, word in ((1, "finished"), (2, "running")):
        with pytest.raises(RequestError, match=f"does not wait: it is {word}"):
            queue.move(number, "first")
    with pytest.raises(RequestError, match="does not wait: it is finished"):
        queue.cancel(1)
    with pytest.raises(RequestError, match=f"Stop its run, and the next one starts: segtui stop {tmp_path}/FPN"):
        queue.cancel(2)
    queue.cancel(4)
    queue.move(3, "up")
    assert [(entry.id, entry.state) for entry in queue.read().entries] == [(1, "finished"), (2, "running"), (4, "cancelled"), (3, "queued")]
    queue.forget()
    assert [entry.id for entry in queue.read().entries] == [2, 3]
    assert queue.append([preset], Toggles()) == [5]  # a number is given once


def test_many_processes_append_at_once_and_none_is_lost(preset: Preset, tmp_path: Path) -> None:
    queue = BoxQueue(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: BoxQueue(tmp_path).append([preset] * 2, Toggles()), range(16)))
    assert sorted(number for pair in numbers for number in pair) == list(range(1, 33))
    assert sorted(order(queue)) == list(range(1, 33))
    assert len({entry.ticket for entry in queue.read().entries}) == 32


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not a queue's record"),
        (b"\xff\x00", "is not a queue's record"),
        (b'{"entries": [{"id": "one"}]}', "is not a queue's record"),
        (b"[" * 100_000, "is not a queue's record"),
        (b'{"format": 2}', "was written by a newer segtui"),
    ],
)
def test_a_damaged_file_is_told_and_left_alone(content: bytes, message: str, preset: Preset, tmp_path: Path) -> None:
    queue = BoxQueue(tmp_path)
    queue.folder.mkdir()
    queue.file.write_bytes(content)
    for ask in (queue.read, lambda: queue.append([preset], Toggles()), lambda: queue.cancel(1), queue.start):
        with pytest.raises(RequestError, match=message) as told:
            ask()
        assert str(queue.file) in str(told.value)
    assert queue.file.read_bytes() == content


def test_a_queue_of_another_machine_is_not_touched_unless_it_is_taken_over(preset: Preset, tmp_path: Path) -> None:
    queue = BoxQueue(tmp_path)
    queue.append([preset], Toggles())
    with queue.changing() as state:
        state.host = "elsewhere"
    for ask in (lambda: queue.append([preset], Toggles()), queue.start):
        with pytest.raises(RequestError, match="that of elsewhere"):
            ask()
    assert not queue.is_worked_on
    with queue.changing() as state:
        state.find(1).state = "finished"
    queue.append([preset], Toggles())  # it was over
    assert queue.read().host == socket.gethostname()


# Devices


def test_devices_are_those_that_the_user_left_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices()  # whatever this machine has
    assert device_variables(["cpu"]) == {}
    assert device_variables(["0", "3"]) == {"CUDA_VISIBLE_DEVICES": "0,3", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aaa,GPU-bbb")
    assert device_variables(["GPU-bbb"]) == {"CUDA_VISIBLE_DEVICES": "GPU-bbb"}


# Its commands


def test_several_ended_runs_have_one_exit_code() -> None:
    assert exit_code(["finished", "finished"]) == 0
    assert exit_code(["finished", "cancelled", "stopped"]) == 3
    assert exit_code(["stopped", "failed"]) == 1
    assert exit_code(["finished", "lost"]) == 1


def test_a_mistake_in_one_preset_queues_none_and_all_mistakes_are_told(shapes: Path, tmp_path: Path) -> None:
    good = write_preset(tmp_path, shapes)
    (tmp_path / "wrong.toml").write_text(good.read_text().replace('"FPN"', '"FPNN"'))
    done = queue_command("--headless", good, tmp_path / "wrong.toml", "nosuch.toml", "--runs", tmp_path / "runs")
    assert done.returncode == 2
    assert "there is no architecture 'FPNN'" in done.stderr
    assert "there is no such preset" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.toml", "b.toml"], "add --headless"),
        (["--headless", "a.toml", "--devices-per-run", "1"], "--devices-per-run is for several presets"),
        (["--headless", "--resume", "x", "a.toml", "b.toml"], "--resume takes its preset"),
        (["--headless", "--resume", "x", "--queue"], "--resume takes its preset"),
        (["--headless", "demo", "demo", "--devices-per-run", "0"], "--devices-per-run 0: this box has"),
        (["--headless", "demo", "demo", "--devices-per-run", "99"], "--devices-per-run 99: this box has"),
        (["queue", "move", "1", "sideways"], "invalid choice: 'sideways'"),
        (["queue", "move", "one", "up"], "invalid int value"),
        (["queue", "cancel"], "ID"),
        (["queue", "cancel", "7"], "the queue has no entry 7"),
        (["queue", "dance"], "unrecognized arguments: dance"),
    ],
)
def test_a_wrong_request_is_one_message_and_writes_nothing(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = queue_command(*arguments, "--runs", tmp_path / "runs")
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("segtui: ") == 1
    assert not (tmp_path / "runs").exists()


def test_the_listing_tells_of_every_entry_and_that_nobody_works_on_it(preset: Preset, tmp_path: Path) -> None:
    queue = BoxQueue(tmp_path)
    queue.append([preset] * 4, Toggles(private=True))
    whole_run(tmp_path, "FPN-resnet18", best_mIoU=0.61, best_epoch=2, ticket=queue.read().find(1).ticket)
    with queue.changing() as state:
        first, second = state.find(1), state.find(2)
        first.state, first.run, first.exit_code, first.started, first.ended = "finished", "FPN-resnet18", 0, 100.0, 160.0
        second.state, second.exit_code, second.error = "failed", 2, "train.json: \x1b[2Jis gone"
    done = queue_command("queue", "move", "4", "first", "--runs", tmp_path)
    assert done.returncode == 0
    head, *rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert head == ["id", "state", "run", "preset", "epoch", "best mIoU", "time", ""]
    assert rows[0] == ["1", "finished", "FPN-resnet18", "tiny", "3/3", "0.6100 @2", "1m", ""]
    assert rows[1] == ["2", "failed", "FPN-resnet18", "tiny", "", "", "", r"train.json: \x1b[2Jis gone"]
    assert [row[:2] for row in rows[2:]] == [["4", "queued"], ["3", "queued"]]
    assert "nobody works on this queue: `segtui queue start --runs" in done.stderr
    told = listed(tmp_path)
    assert [(row["id"], row["state"], row["place"]) for row in told] == [
        (1, "finished", None),
        (2, "failed", None),
        (4, "queued", 1),
        (3, "queued", 2),
    ]
    assert told[0]["run"] == str(tmp_path / "FPN-resnet18")
    assert told[0]["toggles"] == {"debug": False, "deterministic": False, "private": True}
    queue_command("queue", "cancel", "3", "4", "--runs", tmp_path)
    queue_command("queue", "clear", "--runs", tmp_path)
    assert listed(tmp_path) == []


def test_a_run_that_was_resumed_by_hand_is_told_as_it_is_now(preset: Preset, tmp_path: Path) -> None:
    queue = BoxQueue(tmp_path)
    queue.append([preset], Toggles())
    run = new_run(tmp_path, "FPN", state="finished", ticket=queue.read().find(1).ticket)
    with queue.changing() as state:
        state.find(1).state, state.find(1).run = "lost", "FPN"
    assert listed(tmp_path)[0]["state"] == "finished"
    run.write(msgspec.structs.replace(run.read(), ticket="another"))  # deleted, and the name was free again
    assert (listed(tmp_path)[0]["state"], listed(tmp_path)[0]["run"]) == ("lost", None)
    (tmp_path / "FPN" / "run.json").unlink()
    assert listed(tmp_path)[0]["state"] == "lost"


def test_listing_imports_neither_textual_nor_torch_nor_pydantic(preset: Preset, tmp_path: Path) -> None:
    BoxQueue(tmp_path).append([preset], Toggles())
    program = "import sys; from tui.cli import main; main(sys.argv[1:]); print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program, "queue", "--runs", str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert not {"textual", "torch", "pydantic"} & set(eval(done.stderr.splitlines()[-1]))


# Its process; what it starts is refused at once (the data is not there), and takes seconds for its imports


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Path]:
    """A folder of runs; what works on its queue in the end is ended, and what it started with it."""
    yield tmp_path / "runs"
    quit_queue(tmp_path / "runs")


@pytest.mark.slow
def test_what_is_refused_is_told_and_the_next_one_starts(preset: Preset, runs: Path) -> None:
    queue = BoxQueue(runs)
    queue.append([preset, preset], Toggles())
    queue.start()
    assert queue.is_worked_on
    process = queue_process(runs)
    assert os.getsid(process.pid) != os.getsid(0)
    assert process.terminal() is None
    queue.start()  # one is enough
    assert queue_process(runs).pid == process.pid
    wait_for(lambda: queue.read().is_over)
    for entry in queue.read().entries:
        assert (entry.state, entry.exit_code, entry.run) == ("failed", 2, None)
        assert "nowhere" in (entry.error or "")
    wait_for(lambda: not queue.is_worked_on)
    wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    assert [line.split(" ", 2)[2] for line in queue.log.read_text().splitlines() if "starts" in line] == [
        "1: FPN-resnet18 starts on cpu",
        "2: FPN-resnet18 starts on cpu",
    ]
    assert queue.log.stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_what_was_started_when_its_process_was_killed_is_neither_lost_nor_started_twice(preset: Preset, runs: Path) -> None:
    """Killed while the worker still imports: it has no record yet, and is known by its ticket."""
    queue = BoxQueue(runs)
    queue.append([preset], Toggles())
    queue.start()
    wait_for(lambda: queue.read().find(1).state == "running")
    wait_for(lambda: worker_of(queue.read().find(1)) is not None)
    worker = worker_of(queue.read().find(1))
    assert worker is not None
    worker.suspend()
    queue_process(runs).kill()
    wait_for(lambda: not queue.is_worked_on)
    queue.start()
    time.sleep(2)
    assert queue.read().find(1).state == "running"
    assert [each.pid for each in psutil.process_iter() if ticket_of(each) == queue.read().find(1).ticket] == [worker.pid]
    worker.kill()  # before it has begun a run: it gets another go, and that one is refused
    wait_for(lambda: queue.read().is_over)
    assert queue.read().find(1).exit_code == 2
    assert queue.log.read_text().count("1: FPN-resnet18 starts") == 2


@pytest.mark.slow
def test_sigterm_ends_its_process_and_nothing_else(preset: Preset, runs: Path) -> None:
    queue = BoxQueue(runs)
    queue.append([preset, preset], Toggles())
    queue.start()
    wait_for(lambda: worker_of(queue.read().find(1)) is not None)
    worker = worker_of(queue.read().find(1))
    assert worker is not None
    worker.suspend()
    queue_process(runs).terminate()
    wait_for(lambda: not queue.is_worked_on)
    assert worker.is_running()
    assert [entry.state for entry in queue.read().entries] == ["running", "queued"]
    assert "1 of its runs go on" in queue.log.read_text()


TWO_GPUS = """
import engine.box_devices
engine.box_devices.devices = lambda: ["0", "1"]
"""


@pytest.mark.slow
def test_two_devices_run_two_at_once_and_each_sees_its_own(
    preset: Preset, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This machine is told that it has two GPUs; the runs wait where one can look at them. The third wants both, and is not overtaken."""
    (tmp_path / "gpus").mkdir()
    (tmp_path / "gpus" / "sitecustomize.py").write_text(TWO_GPUS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "gpus"), str(ROOT)]))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    queue = BoxQueue(runs)
    queue.append([preset, preset], Toggles())
    queue.append([preset], Toggles(), devices=2)
    queue.append([preset], Toggles())
    queue.append([preset], Toggles(), devices=3)
    queue.start()

    def state(number: int) -> str:
        return queue.read().find(number).state

    wait_for(lambda: worker_of(queue.read().find(1)) is not None and worker_of(queue.read().find(2)) is not None)
    workers = [worker_of(queue.read().find(number)) for number in (1, 2)]
    for worker, device in zip(workers, ("0", "1"), strict=True):
        assert worker is not None
        worker.suspend()
        assert {name: worker.environ()[name] for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")} == {
            "CUDA_VISIBLE_DEVICES": device,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        }
    assert workers[0] is not None
    assert workers[1] is not None
    workers[1].resume()
    wait_for(lambda: state(2) == "failed")
    time.sleep(1)
    assert (state(3), state(4)) == ("queued", "queued")  # one device is free; the third wants two
    workers[0].resume()
    wait_for(lambda: state(3) == "running")
    assert queue.read().find(3).devices == ["0", "1"]
    assert state(4) == "queued"
    wait_for(lambda: queue.read().is_over)
    assert queue.read().find(4).devices == ["0"]
    assert (state(5), queue.read().find(5).error) == ("failed", "wants 3 devices, and this box has 2")


# Whole runs


@pytest.mark.slow
def test_runs_go_one_after_another_and_a_second_command_joins(tmp_path: Path, runs: Path) -> None:
    file = write_preset(tmp_path, write_shapes(tmp_path / "shapes", train=8, val=4))
    small = ["--set", 'model.encoder_name="mobilenet_v2"', "--set", "train.epochs=2", "--runs", str(runs)]
    first = Queued.start(file, file, *small)
    assert first.until(lambda row: row["state"] == "running")["id"] == 1
    second = Queued.start("--queue", file, *small, "--set", "train.epochs=1")
    assert second.until(lambda row: True)["id"] == 3
    assert second.finish() == 0
    assert first.finish() == 0
    rows = listed(runs)
    assert [(row["id"], row["state"], row["epochs"], row["exit_code"]) for row in rows] == [
        (1, "finished", 2, 0),
        (2, "finished", 2, 0),
        (3, "finished", 1, 0),
    ]
    assert len({row["run"] for row in rows}) == 3
    times = [(entry.started, entry.ended) for entry in BoxQueue(runs).read().entries]
    assert all(before[1] <= after[0] for before, after in pairwise(times))  # type: ignore[operator]
    states = [row["state"] for row in first.lines if row["id"] == 2]
    assert list(dict.fromkeys(states)) == ["queued", "starting", "running", "finished"]
    assert [row["epoch"] for row in first.lines if row["id"] == 1][-1] == 2


@pytest.mark.slow
def test_ctrl_c_leaves_the_queue_going_and_stopping_a_run_starts_the_next(tmp_path: Path, runs: Path) -> None:
    file = write_preset(tmp_path, write_shapes(tmp_path / "shapes", train=8, val=4))
    small = ["--set", 'model.encoder_name="mobilenet_v2"', "--set", "train.epochs=400", "--runs", str(runs)]
    command = Queued.start(file, file, file, *small)
    run = Path(command.until(lambda row: row["state"] == "running" and row["epoch"])["run"])
    kill(command.process.pid, signal.SIGINT)
    assert command.finish() == 0
    said = command.stderr()
    assert "Ctrl-C leaves the queue going" in said
    assert "`segtui stop RUN` stops one that runs" in said
    assert listed(runs)[0]["state"] == "running"
    refused = queue_command("queue", "cancel", "1", "--runs", runs)
    assert (refused.returncode, f"segtui stop {run}" in refused.stderr) == (2, True)
    assert queue_command("queue", "cancel", "2", "--runs", runs).returncode == 0
    stopped = subprocess.run([*CLI, "stop", str(run)], env=os.environ | ENVIRONMENT, cwd=ROOT, check=False)
    assert stopped.returncode == 0
    wait_for(lambda: ended(runs, 1))
    wait_for(lambda: listed(runs)[2]["state"] == "running")
    assert [row["state"] for row in listed(runs)] == ["stopped", "cancelled", "running"]
    assert listed(runs)[0]["exit_code"] == 3
    assert (run / "checkpoints" / "resume.pt").exists()
    record: dict[str, Any] = json.loads((run / "run.json").read_bytes())
    assert record["ticket"] == BoxQueue(runs).read().find(1).ticket
