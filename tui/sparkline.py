"""A run's validation mIoU over its epochs in a few characters, read from its log without decoding the rest of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from engine.events import Number, RunStarted, Validation, decode

BARS = "▁▂▃▄▅▆▇█"
BLOCK = 1 << 20
"""Bytes that are searched in one turn: about a millisecond, so that keys are answered between."""
TAGS = (b'{"type":"validation"', b'{"type":"run_started"')


def sparkline(values: Sequence[Number], cells: int) -> str:
    """A character a value, from the lowest to the highest; more values than cells are averaged, a gap is a space.

    Values that are all the same lie in the middle.
    """
    shown = [_mean(part) for part in _parts(values, cells)]
    known = [value for value in shown if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    return "".join(" " if value is None else BARS[_level(value, low, high)] for value in shown)


def _parts(values: Sequence[Number], most: int) -> list[Sequence[Number]]:
    count = min(len(values), most)
    edges = [len(values) * part // count for part in range(count + 1)] if count else []
    return [values[start:end] for start, end in pairwise(edges)]


def _mean(values: Sequence[Number]) -> Number:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else None


def _level(value: float, low: float, high: float) -> int:
    return min(int((value - low) / (high - low) * len(BARS)), len(BARS) - 1) if high > low else len(BARS) // 2 - 1


@dataclass
class _Log:
    inode: int = 0
    offset: int = 0
    by_epoch: dict[int, Number] = field(default_factory=dict)


class ValidationCurves:
    """Remembers how far it has read each log: one that has not grown costs a stat."""

    def __init__(self) -> None:
        self._logs: dict[Path, _Log] = {}

    def read(self, events: Path) -> tuple[Number, ...]:
        """The validation mIoU of each epoch, in order; what a resumed run tells again replaces what it told before."""
        try:
            status = events.stat()
        except OSError:
            self._logs.pop(events, None)
            return ()
        log = self._logs.get(events)
        if log is None or log.inode != status.st_ino or status.st_size < log.offset:  # new, or another run of this name
            log = self._logs[events] = _Log(status.st_ino)
        if status.st_size > log.offset:
            try:
                _read_on(events, log)
            except OSError:  # deleted just now, or not ours to read: the list says so in its own way
                return ()
        return tuple(log.by_epoch.values())


def _read_on(events: Path, log: _Log) -> None:
    with events.open("rb") as file:
        file.seek(log.offset)
        while block := file.read(BLOCK):
            if not block.endswith(b"\n"):
                block += file.readline()
            whole = block[: block.rfind(b"\n") + 1]
            for line in _tagged(whole):
                _add(line, log.by_epoch)
            log.offset += len(whole)
            if len(whole) < len(block):  # a torn last line: the end, for now
                return


def _tagged(block: bytes) -> Iterator[bytes]:
    """The lines that begin with one of the tags, in order."""
    for start in sorted(start for tag in TAGS for start in _places(block, tag)):
        yield block[start : block.index(b"\n", start)]


def _places(block: bytes, tag: bytes) -> Iterator[int]:
    at = block.find(tag)
    while at >= 0:
        if at == 0 or block[at - 1] == ord("\n"):
            yield at
        at = block.find(tag, at + 1)


def _add(line: bytes, by_epoch: dict[int, Number]) -> None:
    try:
        event = decode(line)
    except ValueError:  # not whole: passed over, as by every reader of the log
        return
    if isinstance(event, Validation):
        by_epoch[event.epoch] = event.mIoU
    elif isinstance(event, RunStarted):
        for epoch in [epoch for epoch in by_epoch if epoch > event.resumed_epoch]:
            del by_epoch[epoch]
