"""A curve that grows: any part of it as one range of values per column, however many points it has."""

from __future__ import annotations

import itertools
import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

INFINITIES = (math.inf, -math.inf)
BRANCH = 8
"""Points, or ranges of the level below, that one range of a level covers."""


class Series:
    """Points (x, y), x strictly ascending. A y that is NaN or infinite is a gap.

    Ranges are kept in levels, each of BRANCH times fewer entries, and extended when somebody looks: drawing a million points
    again takes no longer than drawing two thousand.
    """

    def __init__(self) -> None:
        self.x = array("d")
        self.y = array("d")
        self._lows: list[array[float]] = []
        self._highs: list[array[float]] = []

    def __len__(self) -> int:
        return len(self.x)

    def append(self, x: float, y: float | None) -> None:
        """A point after the last. One that is not later than it replaces what comes from there on: a run that was resumed tells again."""
        if self.x and x <= self.x[-1]:
            self.truncate(bisect_left(self.x, x))
        self.x.append(x)
        self.y.append(math.nan if y is None or y in INFINITIES else y)

    def extend(self, xs: Sequence[float], ys: Sequence[float | None]) -> None:
        """As `append` of each point, in a fifth of the time where all come after the last."""
        if (self.x and xs and xs[0] <= self.x[-1]) or any(one >= other for one, other in pairwise(xs)):
            for x, y in zip(xs, ys, strict=True):
                self.append(x, y)
            return
        self.x.extend(xs)
        self.y.extend([math.nan if y is None or y in INFINITIES else y for y in ys])

    def keep_to(self, x: float) -> None:
        """Drop what lies after `x`."""
        if self.x and self.x[-1] > x:
            self.truncate(bisect_right(self.x, x))

    def truncate(self, count: int) -> None:
        """Keep the first `count` points."""
        del self.x[count:], self.y[count:]
        for levels in (self._lows, self._highs):
            for level, entries in enumerate(levels, start=1):
                del entries[count // BRANCH**level :]

    def columns(self, first: float, last: float, count: int) -> list[tuple[float, float] | None]:
        """(lowest, highest) of the points in each of `count` equal parts of [first, last]; None where there is none."""
        if not self.x or last <= first:
            return [None] * count
        edges = [bisect_left(self.x, first + (last - first) * column / count) for column in range(count)]
        edges.append(bisect_left(self.x, math.nextafter(last, math.inf)))
        return [self.range(start, end) for start, end in pairwise(edges)]

    def range(self, start: int, end: int) -> tuple[float, float] | None:
        """(lowest, highest) of points start..end-1; None where all are gaps or there is none."""
        self._grow()
        low, high = math.inf, -math.inf
        for lows, highs, begin, stop in self._pieces(start, end):
            for index in range(begin, stop):
                low = lows[index] if lows[index] < low else low
                high = highs[index] if highs[index] > high else high
        return (low, high) if low <= high else None

    def _pieces(self, start: int, end: int) -> Iterator[tuple[Sequence[float], Sequence[float], int, int]]:
        """The fewest ranges that cover start..end-1, from the points up."""
        lows: Sequence[float] = self.y
        highs: Sequence[float] = self.y
        for level in range(len(self._lows) + 1):
            inner_start, inner_end = -(-start // BRANCH), end // BRANCH
            whole = level < len(self._lows) and inner_end > inner_start and inner_end <= len(self._lows[level])
            if not whole:
                yield lows, highs, start, end
                return
            yield lows, highs, start, inner_start * BRANCH
            yield lows, highs, inner_end * BRANCH, end
            start, end = inner_start, inner_end
            lows, highs = self._lows[level], self._highs[level]

    def _grow(self) -> None:
        """Bring the levels up to the points. An entry is made once all that it covers is there."""
        lows: array[float] = self.y
        highs: array[float] = self.y
        for level in itertools.count():
            if len(lows) < BRANCH:
                return
            if level == len(self._lows):
                self._lows.append(array("d"))
                self._highs.append(array("d"))
            for start in range(len(self._lows[level]) * BRANCH, len(lows) - BRANCH + 1, BRANCH):
                self._lows[level].append(_lowest(lows[start : start + BRANCH]))
                self._highs[level].append(_highest(highs[start : start + BRANCH]))
            lows, highs = self._lows[level], self._highs[level]


def _lowest(values: Sequence[float]) -> float:
    return min(values) if _has_no_gap(values) else min((value for value in values if value == value), default=math.inf)


def _highest(values: Sequence[float]) -> float:
    return max(values) if _has_no_gap(values) else max((value for value in values if value == value), default=-math.inf)


def _has_no_gap(values: Sequence[float]) -> bool:
    """Three times as fast as looking at each: a NaN makes the sum one."""
    total = sum(values)
    return total == total


class Smoothed:
    """An exponential moving average without a bias towards its start (as Adam's, Kingma and Ba, 2015); gaps are passed over."""

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self._sum = 0.0
        self._total = 0.0

    def add(self, value: float | None) -> float | None:
        if value is None or not math.isfinite(value):
            return None
        self._sum = self.weight * self._sum + (1 - self.weight) * value
        self._total = self.weight * self._total + (1 - self.weight)
        return self._sum / self._total
