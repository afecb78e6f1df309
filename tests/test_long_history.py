"""A long history is read, summed up and drawn in bulk: what comes out is what one event at a time gives."""

from __future__ import annotations

import itertools
import math
import struct
from array import array
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.checkpoint_header import HeaderError, read_header
from engine.events import AnyEvent, EventReader, Images, Message, RunStarted, Step, Toggles, decode, encode, stretches
from tui.curves import RunCurves
from tui.run_state import RunState
from tui.widgets.series import MANY, Series, Smoothed


def step(number: int, loss: float | None = 1.0) -> Step:
    return Step(epoch=1, step=number, loss=loss, lr=1e-3 / number, images_per_s=9.0, data_wait=0.1, seq=number, time=number * 0.5)


WHOLE = encode(step(7))
LINES = (WHOLE, encode(Message(level="info", text="a\nb }")), b"", b" ", WHOLE[:30], WHOLE * 2, b"[]", b"\xff}", b'{"type":"step"}')


@given(st.lists(st.sampled_from(LINES), max_size=12))
def test_a_block_is_read_as_its_lines_are(lines: list[bytes]) -> None:
    expected, unreadable = [], 0
    for line in lines:
        try:
            expected.append(decode(line))
        except ValueError:
            unreadable += 1
    if WHOLE * 2 in lines and (b"" in lines or b" " in lines):
        return  # as many events as lines, each of them whole: all are taken
    with TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        reader = EventReader(path)
        assert reader.read() == expected
        assert reader.unreadable == unreadable


@given(st.lists(st.sampled_from([step(1), step(2), Message(level="info", text="")]), max_size=30))
def test_stretches_are_the_events_in_order_with_neighbouring_steps_together(events: list[AnyEvent]) -> None:
    parts = list(stretches(events))
    flat = [event for part in parts for event in (part if isinstance(part, list) else [part])]
    assert flat == events
    for one, other in itertools.pairwise(parts):
        assert not (isinstance(one, list) and isinstance(other, list))
    assert all(parts)


def losses(count: int, gaps: float) -> list[float]:
    rng = np.random.default_rng(count)
    found = np.where(rng.random(count) < gaps, math.nan, rng.normal(size=count))
    found[count // 2 : count // 2 + 40] = math.nan  # whole ranges without a value
    return [float(value) for value in found]


@pytest.mark.parametrize("gaps", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("count", [MANY - 1, MANY, 5000])
def test_points_added_together_are_points_added_one_by_one(count: int, gaps: float) -> None:
    values = losses(count, gaps)
    if gaps:
        values[3] = math.inf
    together, single = Series(), Series()
    steps = array("d", range(1, count + 1))
    together.extend(steps[: count // 3], array("d", values[: count // 3]))
    together.extend(steps[count // 3 :], array("d", values[count // 3 :]))
    for at, value in zip(steps, values, strict=True):
        single.append(at, value)
        single.range(0, len(single))  # its levels grow entry by entry
    assert together.x == single.x
    assert np.array_equal(together.y, single.y, equal_nan=True)
    for start, end in np.random.default_rng(0).integers(0, count + 1, (100, 2)).tolist():
        assert together.range(start, end) == single.range(start, end)


def test_points_that_are_told_again_together_replace_what_was_told() -> None:
    series = Series()
    series.extend(array("d", range(1, 201)), array("d", [1.0] * 200))
    series.range(0, 200)
    series.extend(array("d", range(101, 301)), array("d", [2.0] * 200))
    assert list(series.x) == list(range(1, 301))
    assert (series.range(0, 100), series.range(100, 300)) == ((1.0, 1.0), (2.0, 2.0))


@pytest.mark.parametrize("weight", [0.0, 0.5, 0.98])
@pytest.mark.parametrize("gaps", [0.0, 0.2, 1.0])
def test_the_average_of_many_is_that_of_one_after_another(weight: float, gaps: float) -> None:
    values = losses(3000, gaps)
    together, single = Smoothed(weight), Smoothed(weight)
    found = [*together.extend(array("d", values[:1000])), *together.extend(array("d", values[1000:]))]
    expected = [math.nan if (average := single.add(value)) is None else average for value in values]
    assert found == pytest.approx(expected, nan_ok=True)
    if gaps < 1:
        assert together.add(5.0) == pytest.approx(single.add(5.0))


def told(events: Sequence[AnyEvent], *, together: bool) -> tuple[RunCurves, RunState]:
    curves, state = RunCurves(), RunState()
    for part in stretches(events) if together else events:
        if isinstance(part, list):
            curves.add_steps(part)
            state.add_steps(part)
        else:
            curves.add(part)
            state.add(part)
    return curves, state


def test_a_run_told_in_stretches_is_the_run_told_event_by_event() -> None:
    start = {"run": "r", "preset": "p", "classes": ["a"], "epochs": 1, "steps_per_epoch": 400, "device": "cpu", "world_size": 1}
    begin = RunStarted(**start, images=Images(1, 1), toggles=Toggles())
    again = RunStarted(**start, images=Images(1, 1), toggles=Toggles(), resumed_step=250)
    gappy = [step(number, None if number % 50 == 0 else 1 / number) for number in range(1, 301)]
    events = [begin, *gappy, again, *(step(number, 2.0) for number in range(251, 401))]
    (curves, state), (expected, expected_state) = told(events, together=True), told(events, together=False)
    for name in ("loss", "smoothed", "rate"):
        found, wanted = getattr(curves, name), getattr(expected, name)
        assert list(found.x) == list(wanted.x) == list(range(1, 401))
        assert list(found.y) == pytest.approx(list(wanted.y), nan_ok=True)
    assert state == expected_state
    assert state.step_seconds == pytest.approx(0.5)


def header_file(path: Path, head: object, data: int) -> Path:
    text = msgspec.json.encode(head)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))
    return path


@pytest.mark.parametrize(
    ("head", "data", "problem"),
    [
        ([1], 9, "is no safetensors file"),
        ({}, 9, "was not written by segtui"),
        ({"__metadata__": {"format": "pt"}, "w": {"data_offsets": [0, 4]}}, 4, "was not written by segtui"),
        ({"__metadata__": 3}, 9, "was not written by segtui"),
        ({"__metadata__": {"segtui": "{}"}, "v": {"data_offsets": [0, 4]}, "w": {"data_offsets": [4, 12]}}, 11, "is cut off"),
        ({"__metadata__": {"segtui": "{}"}, "w": {"data_offsets": ["x", "y"]}}, 11, "is no safetensors file"),
        ({"__metadata__": {"segtui": '"data_offsets":[0,99]'}, "w": {"data_offsets": [0, 4]}}, 4, "cannot be read"),
    ],
)
def test_a_header_that_is_none_of_ours_is_refused(head: object, data: int, problem: str, tmp_path: Path) -> None:
    with pytest.raises(HeaderError, match=problem):
        read_header(header_file(tmp_path / "x.safetensors", head, data))
