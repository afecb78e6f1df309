"""Benchmarks measure and tests do not; here only that a row can be read back, and is judged by its mark."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from benchmarks.measure import Mark, Row, at_least, at_most, by_turns, cells, faster

ROOT = Path(__file__).parents[1]


def test_a_rows_json_is_the_row() -> None:
    command = [sys.executable, "-m", "benchmarks.help", "--json"]
    lines = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.splitlines()
    (row,) = [msgspec.json.decode(line, type=Row) for line in lines]
    assert row.name == "segtui --help"
    assert row.mark == at_most(0.15)
    assert row.ours is not None
    assert row.reference is not None
    assert msgspec.json.decode(lines[0])["met"] is (row.ours <= 0.15)


@pytest.mark.parametrize(
    ("mark", "ours", "ratio", "met"),
    [
        (at_least(5), 1.0, 5.0, True),
        (at_least(5), 1.0, 4.9, False),
        (at_most(0.15), 0.15, None, True),
        (at_most(0.15), 0.16, 100.0, False),
        (Mark("ratio", "<=", 2.2), 1.0, 2.3, False),
        (at_least(5), 1.0, None, None),
        (None, 1.0, 3.0, None),
    ],
)
def test_a_mark_is_met_or_missed_or_was_not_measured(mark: Mark | None, ours: float, ratio: float | None, met: bool | None) -> None:
    row = Row("row", "s", None, ours, ratio, mark)
    assert row.met is met
    assert cells(row)[-1] == {True: "met", False: "missed", None: ""}[met]


def test_ways_are_timed_by_turns_after_each_was_tried_once() -> None:
    order: list[str] = []
    seconds = by_turns(lambda: order.append("a"), lambda: order.append("b"), rounds=3)
    assert order == ["a", "b"] * 4
    assert [len(each) for each in seconds] == [3, 3]


def test_faster_compares_medians() -> None:
    row = faster("row", [8.0, 2.0, 4.0], [1.0, 9.0, 2.0])
    assert (row.reference, row.ours, row.ratio) == (4.0, 2.0, 2.0)
