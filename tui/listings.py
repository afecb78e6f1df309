"""`segtui runs` and `segtui checkpoints`: tables for people, json lines for programs."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from engine import slurm
from engine.errors import EXIT_DONE, RequestError, RunError
from engine.run import SUFFIX, RunFolder, RunRecord, all_checkpoints, all_runs
from engine.visible import visible


def runs(folder: Path, *, as_json: bool) -> int:
    """Newest first. A record that cannot be read is a row that says so."""
    rows: list[dict[str, Any]] = []
    jobs: dict[str, RunFolder] = {}
    for run in all_runs(folder):
        try:
            record = run.read()
            rows.append(msgspec.to_builtins(record) | {"path": str(run.path)})
            if slurm.is_open(record):
                jobs[record.slurm_job] = run
        except RequestError as error:
            rows.append({"name": run.path.name, "path": str(run.path), "state": "unreadable", "created": 0.0, "error": str(error)})
    _ask_slurm(rows, jobs)
    rows.sort(key=lambda row: -row["created"])
    if as_json:
        return print_json(rows)
    if not rows:
        return nothing(folder, "no runs yet: start one with `segtui --headless presets/demo.toml`")
    table(
        ("run", "state", "preset", "epoch", "best mIoU", "toggles", "took", "age"),
        [
            (
                row["name"],
                row["state"] + (f" (job {row['slurm_job']} {row['slurm_says']})" if row.get("slurm_says") else ""),
                row.get("preset", ""),
                f"{row['epoch']}/{row['epochs']}" if "epochs" in row else "",
                score(row.get("best_mIoU")) + (f" @{row['best_epoch']}" if row.get("best_epoch") else ""),
                " ".join(name for name, on in row.get("toggles", {}).items() if on),
                duration((row.get("ended") or time.time()) - row["created"]) if row["created"] and row["state"] != "lost" else "",
                duration(time.time() - row["created"]) if row["created"] else "",
            )
            for row in rows
        ],
    )
    return EXIT_DONE


def _ask_slurm(rows: list[dict[str, Any]], jobs: dict[str, RunFolder]) -> None:
    """Once for all that are its jobs, and nothing where there are none."""
    if not jobs:
        return
    try:
        found = slurm.look_after(jobs)
    except RunError as error:
        print(f"what Slurm says of jobs {', '.join(jobs)} is not known: {error}", file=sys.stderr)
        return
    for row in rows:
        if row.get("slurm_job") in jobs:
            row |= msgspec.to_builtins(slurm.judged(msgspec.convert(row, RunRecord), found))


def checkpoints(folder: Path, *, as_json: bool) -> int:
    """Best first, from the files' headers alone."""
    gc.disable()  # it would look through thousands of presets again and again, and there is no cycle to find
    try:
        rows = [row.row() for row in all_checkpoints(folder)]
    finally:
        gc.enable()
    if as_json:
        return print_json(rows)
    if not rows:
        return nothing(folder, "no checkpoints yet: a run keeps its best after the first validation (debug runs keep none)")
    table(
        ("mIoU", "run", "checkpoint", "epoch", "model", "size", "age"),
        [
            (
                score(row["mIoU"]),
                row["run"],
                row["path"].rpartition("/")[2].removesuffix(SUFFIX),
                "" if row["epoch"] is None else str(row["epoch"]),
                row["model"] or row["problem"],
                f"{row['bytes'] / 2**20:.1f} MiB",
                duration(time.time() - row["modified"]),
            )
            for row in rows
        ],
    )
    return EXIT_DONE


def print_json(rows: Iterable[dict[str, Any]]) -> int:
    for row in rows:
        try:
            line = msgspec.json.encode(row)
        except UnicodeEncodeError:  # a name that is no UTF-8
            line = json.dumps(row).encode()
        sys.stdout.buffer.write(line + b"\n")
    sys.stdout.flush()
    return EXIT_DONE


def nothing(folder: Path, text: str) -> int:
    print(f"{visible(str(folder))}: {text}", file=sys.stderr)
    return EXIT_DONE


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """rich's table on a terminal; plain columns, never cut, where another program reads them."""

    from rich.table import Table
    from rich.text import Text

    from tui.terminal import Terminal

    if not sys.stdout.isatty():
        print("\n".join("\t".join(map(visible, row)) for row in [head, *rows]))
        return
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in head:
        grid.add_column(name, overflow="fold", justify="right" if name in ("mIoU", "epoch", "size", "age", "took") else "left")
    for row in rows:
        grid.add_row(*(Text(visible(cell)) for cell in row))
    Terminal().print(grid)


def score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def duration(seconds: float) -> str:
    """Two units at most: `45s`, `12m`, `3h05m`, `2d04h`."""
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
