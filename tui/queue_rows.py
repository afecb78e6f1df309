"""An entry of the queue with what its run tells: as a line of a table, as json."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engine.box_queue import Entry
from engine.errors import RequestError
from engine.run import RunFolder, RunRecord
from tui.listings import duration, score

HEAD = ("id", "state", "run", "preset", "epoch", "best mIoU", "time", "")


@dataclass(frozen=True)
class Shown:
    """`run` and `record` are None until there is a run; `seconds_left` where nobody knows. `place` counts those that wait, from 1."""

    entry: Entry
    run: RunFolder | None
    record: RunRecord | None
    place: int | None = None
    seconds_left: float | None = None

    @property
    def state(self) -> str:
        """That of its run where it has one, which may have been resumed since; "starting" before."""
        if self.record is not None:
            return self.record.state
        return "starting" if self.entry.state == "running" else self.entry.state

    @property
    def error(self) -> str:
        return (self.record.error if self.record else self.entry.error) or ""

    def cells(self) -> tuple[str, ...]:
        """As `HEAD` names them. The time is what is left of one that runs, what one that is over took."""
        entry, record = self.entry, self.record
        if self.state == "running":
            took = f"{duration(self.seconds_left)} left" if self.seconds_left is not None else ""
        else:
            took = duration((entry.ended or time.time()) - entry.started) if entry.started else ""
        return (
            str(entry.id),
            self.state,
            entry.run or entry.name,
            str(entry.preset.get("name", "")),
            f"{record.epoch}/{record.epochs}" if record else "",
            score(record.best_mIoU) + (f" @{record.best_epoch}" if record.best_epoch else "") if record else "",
            took,
            " ".join(self.error.splitlines()[:1]) or (f"on {', '.join(entry.devices)}" if self.state in ("running", "starting") else ""),
        )

    def plain(self) -> dict[str, Any]:
        """For json. Without what changes all the time: a line that is equal says that nothing happened."""
        entry, record = self.entry, self.record
        return {
            "id": entry.id,
            "state": self.state,
            "place": self.place,
            "name": entry.name,
            "preset": entry.preset.get("name"),
            "toggles": msgspec.to_builtins(entry.toggles),
            "run": str(self.run.path) if self.run else None,
            "devices": entry.devices,
            "epoch": record.epoch if record else None,
            "epochs": record.epochs if record else None,
            "best_mIoU": record.best_mIoU if record else None,
            "best_epoch": record.best_epoch if record else None,
            "exit_code": entry.exit_code,
            "error": self.error or None,
        }


def shown(entries: list[Entry], runs: Path) -> list[Shown]:
    """Each with its run's record, where it has one that can be read."""
    waiting = [entry.id for entry in entries if entry.state == "queued"]
    found = []
    for entry in entries:
        run = RunFolder(runs / entry.run) if entry.run else None
        record = _record(run, entry.ticket) if run else None
        found.append(Shown(entry, run if record else None, record, waiting.index(entry.id) + 1 if entry.id in waiting else None))
    return found


def _record(run: RunFolder, ticket: str) -> RunRecord | None:
    """None where it was deleted or is damaged, or another run has its name now."""
    try:
        record = run.read()
    except RequestError:
        return None
    return record if record.ticket == ticket else None
