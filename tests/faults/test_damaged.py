"""Files that were torn, cut or changed after they were written."""

from __future__ import annotations

import copy
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import preset
from engine.checkpoint import load_resume, load_weights
from engine.errors import RequestError
from engine.events import EventLog, EventReader, Message, RunEnded, Toggles
from engine.launch import Attached
from engine.reporter import Reporter
from engine.run import RunFolder, all_checkpoints
from engine.session import open_session
from engine.worker import Request
from tests.faults.conftest import Row
from tests.faults.runs import ENVIRONMENT, Reference, listed_state, resume

pytestmark = pytest.mark.slow

FLIPS = 60
CUTS = 20
RESUME_FLIPS = 24  # of a file of 47 MB
RESUME_CUTS = 6


@pytest.fixture
def run(reference: Reference, tmp_path: Path) -> Path:
    """A copy of the undisturbed run, to be damaged."""
    return shutil.copytree(reference.run, tmp_path / "runs" / reference.run.name)


def test_a_log_torn_at_every_byte_of_its_last_line(run: Path, row: Row) -> None:
    log = run / "events.jsonl"
    content = log.read_bytes()
    lines = content.splitlines(keepends=True)
    for cut in range(len(lines[-1])):
        log.write_bytes(content[: len(content) - len(lines[-1]) + cut])
        reader = EventReader(log)
        assert [event.seq for event in reader.read()] == list(range(1, len(lines)))
        assert reader.unreadable == 0
        attached = Attached(RunFolder(run))
        told = attached.poll(0)
        while not attached.is_over:
            told += attached.poll(0)
        assert isinstance(told[-1], RunEnded)
        assert told[-1].state == "finished"  # as the record says
        writer = EventLog(log)
        writer.append(Message(seq=writer.last_seq + 1, level="info", text="goes on"))
        writer.close()
        assert [event.seq for event in EventReader(log).read()] == list(range(1, len(lines) + 1))
    assert listed_state(run) == "finished"
    row(
        "`events.jsonl` torn",
        "cut at every byte of its last line",
        "all whole lines are read, the run's end is told from its record, the next writer goes on after the last whole line",
    )


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("name", ["best", "last"])
def test_damaged_weights_are_refused(name: str, run: Path, row: Row) -> None:
    file = run / "checkpoints" / f"{name}.safetensors"
    content = file.read_bytes()
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    head = 8 + int.from_bytes(content[:8], "little")
    bits = [chance.randrange(head * 8) for _ in range(FLIPS)] + [chance.randrange(head * 8, len(content) * 8) for _ in range(FLIPS)]
    cuts = [0, 1, 7, 8, head, len(content) - 1, *(chance.randrange(len(content)) for _ in range(CUTS))]
    for damaged in (*(flipped(content, bit) for bit in bits), *(content[:length] for length in cuts)):
        file.write_bytes(damaged)
        if b'"checksum\\":' not in damaged and len(damaged) == len(content):
            continue  # the flip hit the word by which the sum is found: nothing else is damaged
        with pytest.raises(RequestError, match=rf"{name}\.safetensors"):
            load_weights(file)
        assert {row.path.stem for row in all_checkpoints(run.parent)} == {"best", "last", "epoch_002", "epoch_004"}
    file.write_bytes(content)
    load_weights(file)
    row(
        f"`{name}.safetensors` damaged",
        f"{2 * FLIPS} single bits flipped (half of them in the header), emptied, cut at {CUTS} random lengths and at every seam",
        "never loaded: one message names the file; it stays in the list, the other checkpoints load",
    )


def test_a_flipped_bit_is_told_on_the_command_line(run: Path, tmp_path: Path, row: Row) -> None:
    file = run / "checkpoints" / "best.safetensors"
    content = file.read_bytes()
    file.write_bytes(flipped(content, len(content) * 8 - 3))
    command = [sys.executable, "-m", "tui.cli", "predict", str(file), "--out", str(tmp_path / "out.csv")]
    found = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False)
    assert found.returncode == 2, found.stderr
    assert "best.safetensors: is damaged" in found.stderr
    assert not (tmp_path / "out.csv").exists()
    row("A flipped bit in weights", "one bit flipped, then `segtui predict`", "exit code 2, one message, no submission written")


def test_a_damaged_resume_state_is_refused(run: Path, row: Row) -> None:
    """Some bytes of the archive are padding: a flip there must change nothing."""
    file = run / "checkpoints" / "resume.pt"
    content = file.read_bytes()
    good = load_resume(file)["trainer"]
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    refused = 0
    for bit in (chance.randrange(len(content) * 8) for _ in range(RESUME_FLIPS)):
        file.write_bytes(flipped(content, bit))
        try:
            found = load_resume(file)["trainer"]
        except RequestError:
            refused += 1
        else:
            assert found["model"].keys() == good["model"].keys()
            assert all(torch.equal(value, good["model"][key]) for key, value in found["model"].items()), bit
    assert refused > RESUME_FLIPS * 0.9
    for length in (0, 1, 100, len(content) - 1, *(chance.randrange(len(content)) for _ in range(RESUME_CUTS))):
        file.write_bytes(content[:length])
        with pytest.raises(RequestError, match=r"resume\.pt"):
            load_resume(file)

    record = (run / "run.json").read_text()
    (run / "run.json").write_text(record.replace('"finished"', '"stopped"'))
    file.write_bytes(flipped(content, len(content) * 4))
    before = {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    asked = resume(run)
    assert asked.finish() == 2
    assert "resume.pt: is damaged" in asked.stderr()
    assert listed_state(run) == "stopped"
    assert {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()} == before
    row(
        "`resume.pt` damaged",
        f"{RESUME_FLIPS} single bits flipped, emptied, cut at {RESUME_CUTS} random lengths; then `segtui --headless --resume`",
        "never resumed from changed values: exit code 2, one message, nothing written, the weights beside it load",
    )


Spoil = Callable[[dict[str, Any]], object]
FOREIGN: dict[str, tuple[Spoil, str]] = {
    "no trainer": (lambda state: state.pop("trainer"), "is no whole resume state: it lacks trainer"),
    "a digest that is no text": (lambda state: state.update(preset=7), "is no whole resume state: it lacks preset"),
    "no optimizer": (lambda state: state["trainer"].pop("optimizer"), "lacks 'optimizer'"),
    "no position": (lambda state: state["trainer"].update(position={"epoch": "three"}), "Expected `int`"),
    "another confusion matrix": (lambda state: state["trainer"].update(matrix=torch.zeros(5, 5)), r"matrix has the shape \(5, 5\)"),
    "another network": (lambda state: state["trainer"]["model"].update({next(iter(state["trainer"]["model"])): torch.zeros(3)}), "size"),
    "a network that lacks a layer": (lambda state: state["trainer"]["model"].popitem(), "Missing key"),
    "moments of other shapes": (lambda state: first_moments(state).update(exp_avg=torch.zeros(2, 7)), r"exp_avg has the shape \(2, 7\)"),
    "another optimizer": (lambda state: state["trainer"]["optimizer"]["param_groups"][0].pop("betas"), "lacks betas"),
    "fewer parameters": (lambda state: state["trainer"]["optimizer"]["param_groups"][0]["params"].pop(), "parameter group"),
    "no generator": (lambda state: state["random"].update(cpu=3), "set_rng_state|Tensor|int"),
}


def first_moments(state: dict[str, Any]) -> dict[str, Any]:
    moments: dict[str, Any] = state["trainer"]["optimizer"]["state"][0]
    return moments


def test_a_foreign_resume_state_is_refused(run: Path, row: Row) -> None:
    """Whole for torch.load, and not this run's: hand-edited, or another run's."""
    file = run / "checkpoints" / "resume.pt"
    good = torch.load(file, weights_only=True)
    record = (run / "run.json").read_text().replace('"finished"', '"stopped"')
    request = Request(
        preset.load(run / "preset.toml", environment={}, run_programs=False).model_dump(exclude_none=True),
        Toggles(),
        run.parent,
        resume=run,
    )
    for name, (spoil, says) in FOREIGN.items():
        state = copy.deepcopy(good)
        spoil(state)
        torch.save(state, file)
        (run / "run.json").write_text(record)
        before = {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}
        with pytest.raises(RequestError, match=says) as refused:
            open_session(request, Reporter(None), lambda: False)
        assert "resume.pt: is no" in str(refused.value), name
        assert len(str(refused.value).splitlines()) == 1, name
        assert RunFolder(run).read().state == "stopped", name
        assert changed(before, run) <= {Path("run.json"), Path(".lock")}, name

    asked = resume(run)
    assert asked.finish() == 2
    told = asked.stderr()
    assert "resume.pt: is not the state of this run" in told
    assert len(told.splitlines()) == 1
    assert listed_state(run) == "stopped"
    row(
        "`resume.pt` of something else",
        f"a state that torch reads, changed in {len(FOREIGN)} ways: parts missing or of other kinds, another network, optimizer, shapes",
        "`--resume` is refused with one message (exit code 2), the run stays as it was",
    )


def changed(before: dict[Path, bytes], run: Path) -> set[Path]:
    now = {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    return {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
