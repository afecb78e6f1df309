"""A checkpoint as a line of the list of checkpoints: its columns, what it can be ordered by, its cells, and all that its header says."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from engine.palette import class_colours
from engine.run import CheckpointRow
from tui.listings import duration, score
from tui.themes import style
from tui.widgets.listing import Cell, Column

BAR_CELLS = 12
COLUMNS = (
    Column("", 1),
    Column("mIoU", 6, right=True),
    Column("run", 14, grows_to=40),
    Column("checkpoint", 10, at=36),
    Column("epoch", 7, right=True, at=50),
    Column("model", 24, at=100),
    Column("size", 9, right=True, at=60),
    Column("age", 5, right=True, at=70),
)
ORDERS: dict[str, Callable[[CheckpointRow], Any]] = {
    "mIoU": lambda row: (-(_score(row)), row.run, row.name),
    "age": lambda row: -row.modified,
    "run": lambda row: (row.run, row.name),
    "size": lambda row: (-row.size, row.run),
    "epoch": lambda row: (-(row.header.epoch if row.header else 0), row.run),
}
"""By their columns: best first, newest first, by run and name, largest first, latest epoch first."""


def in_order(rows: Sequence[CheckpointRow], order: str) -> list[CheckpointRow]:
    """Those that cannot be used come last, whatever the order."""
    key = ORDERS[order]
    return sorted(rows, key=lambda row: (row.header is None, key(row)))


def _score(row: CheckpointRow) -> float:
    return (row.header.mIoU if row.header else None) or 0.0


def model(row: CheckpointRow) -> str:
    """What it is, or what is wrong with it."""
    table = row.header.preset["model"] if row.header else {}
    return f"{table.get('type', '')}-{table.get('encoder_name', '')}" if row.header else row.problem


def searched(row: CheckpointRow) -> str:
    """What the filter looks into."""
    return f"{row.run} {row.name} {model(row)} {row.header.preset.get('name', '') if row.header else ''}"


def cells(row: CheckpointRow, *, is_marked: bool) -> tuple[Cell, ...]:
    """One whose header cannot be read says why."""
    header = row.header
    usual = "" if header else f"dim {style('bad')}"
    return (
        ("●" if is_marked else "", "bold"),
        (score(header.mIoU if header else None), "bold" if header else usual),
        (row.run, usual),
        (row.name, usual),
        (str(header.epoch) if header else "", usual),
        (model(row), usual),
        (f"{row.size / 2**20:.1f} MiB", usual),
        (duration(time.time() - row.modified), usual or "dim"),
    )


def details(row: CheckpointRow) -> Text:
    """What the header says: scores of every class, preset, path."""
    header = row.header
    if header is None:
        return Text(f"{row.path}\n\n{row.problem}", style=style("bad"))
    text = Text()
    text.append(f"{row.run}/{row.name}\n", style="bold")
    text.append(f"mIoU {score(header.mIoU)}", style="bold")
    text.append(f"  epoch {header.epoch}  {header.kind}\n\n")
    width = max((cell_len(name) for name in header.classes), default=0)
    ious = header.IoU or [None] * len(header.classes)
    for name, colour, iou in zip(header.classes, class_colours(header.classes), ious, strict=False):
        class_style = "rgb({},{},{})".format(*colour)
        text.append("■ ", style=class_style)
        text.append(f"{name}{' ' * (width - cell_len(name))}  {score(iou)}  ")
        text.append("█" * round(min(iou or 0, 1) * BAR_CELLS) + "\n", style=class_style)
    data = header.preset.get("data", {})
    text.append(f"\nmodel   {model(row)}\npreset  {header.preset.get('name', '')}\ndata    {data.get('root', '')}\n", style="dim")
    text.append(f"size    {row.size / 2**20:.1f} MiB\nsegtui  {header.segtui}\n{row.path}", style="dim")
    return text
