"""A run as a line of the list of runs: its columns, what it can be ordered by, its cells."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine.events import Number
from engine.run import RunRecord
from tui.listings import duration, score
from tui.sparkline import sparkline
from tui.themes import state_style, style
from tui.widgets.listing import Cell, Column

CURVE_CELLS = 12
COLUMNS = (
    Column("", 1),
    Column("run", 14, grows_to=48),
    Column("state", 10),
    Column("mIoU", 6, right=True),
    Column("at", 4, right=True, at=100),
    Column("curve", CURVE_CELLS, at=70),
    Column("epoch", 7, right=True, at=60),
    Column("preset", 16, at=100),
    Column("toggles", 14, at=120),
    Column("took", 6, right=True, at=90),
    Column("age", 5, right=True, at=50),
)
STATES = ("running", "queued", "failed", "lost", "stopped", "finished")


def _by_state(record: RunRecord) -> Any:
    return (STATES.index(record.state), -record.created)


ORDERS: dict[str, Callable[[RunRecord], Any]] = {
    "age": lambda record: -record.created,
    "mIoU": lambda record: (record.best_mIoU is None, -(record.best_mIoU or 0.0)),
    "run": lambda record: record.name.lower(),
    "state": _by_state,
    "took": lambda record: -_took(record),
}
"""By their columns: newest first, best first, by name, what runs first, longest first. A run without a readable record comes last."""


def cells(path: str, record: RunRecord | str, curve: Sequence[Number]) -> tuple[Cell, ...]:
    """Of a run, after its mark; one whose record cannot be read says so."""
    spark = (sparkline(curve, CURVE_CELLS), style("note"))
    if isinstance(record, str):
        return ((Path(path).name, ""), ("unreadable", style("bad")), ("-", ""), ("", ""), spark, *[("", "")] * 5)
    return (
        (record.name, ""),
        (record.state, state_style(record.state)),
        (score(record.best_mIoU), "bold"),
        (f"@{record.best_epoch}" if record.best_epoch else "", "dim"),
        (record.slurm_says.removeprefix("waits: "), style("note")) if record.state == "queued" else spark,
        (f"{record.epoch}/{record.epochs}", ""),
        (record.preset, ""),
        ("" if str(record.toggles) == "none" else str(record.toggles), ""),
        (duration(_took(record)) if record.state != "lost" else "", ""),
        (duration(time.time() - record.created), "dim"),
    )


def _took(record: RunRecord) -> float:
    """Seconds from its start to its end, or to now; nobody knows how long a lost run took."""
    return 0.0 if record.state == "lost" else (record.ended or time.time()) - record.created


def searched(path: str, record: RunRecord | str) -> str:
    """What the filter looks into."""
    if isinstance(record, str):
        return f"{Path(path).name} unreadable"
    return f"{record.name} {record.state} {record.preset} {record.model} {record.toggles}"
