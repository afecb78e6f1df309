"""A curve that grows: any part of it as one range of values per column, however many points it has."""

from __future__ import annotations

import itertools
import math
from array import array
from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import Literal

INFINITIES = (math.inf, -math.inf)
BRANCH = 16
"""Points, or ranges of the level below, that one range of a level covers."""
FINEST = 64
"""So many entries of a level tell a column well: its edges may move by one of them."""
MANY = 64
"""Values at once that are worth numpy, and its import: a history is told in so many, a live run is not."""


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

    def extend(self, xs: array[float], ys: array[float]) -> None:
        """As `append` of each point, in a tenth of the time where there are many and all come after the last."""
        if len(xs) >= MANY:
            import numpy as np

            many_x, many_y = np.frombuffer(xs), np.frombuffer(ys)
            if (not self.x or xs[0] > self.x[-1]) and (many_x[1:] > many_x[:-1]).all():
                self.x.extend(xs)
                self.y.frombytes(np.where(np.isinf(many_y), np.nan, many_y).tobytes())
                return
        for x, y in zip(xs, ys, strict=True):
            self.append(x, y)

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
        """(lowest, highest) of the points in each of `count` equal parts of [first, last]; None where there is none.

        Every point counts in one column. Of very many, those at an edge may count in the next one: less than a 64th of a column.
        """
        if not self.x or last <= first:
            return [None] * count
        edges = [bisect_left(self.x, first + (last - first) * column / count) for column in range(count)]
        edges.append(bisect_left(self.x, math.nextafter(last, math.inf)))
        whole = 1
        while (edges[-1] - edges[0]) >= count * FINEST * whole * BRANCH:
            whole *= BRANCH
        edges[1:-1] = [max(edge - edge % whole, edges[0]) for edge in edges[1:-1]]
        self._grow()
        return [self._range(start, end) for start, end in pairwise(edges)]

    def range(self, start: int, end: int) -> tuple[float, float] | None:
        """(lowest, highest) of points start..end-1; None where all are gaps or there is none."""
        self._grow()
        return self._range(start, end)

    def _range(self, start: int, end: int) -> tuple[float, float] | None:
        """From the points up: at each level what lies before and after the whole entries of the level above."""
        lows = highs = self.y
        low, high = math.inf, -math.inf
        for above_lows, above_highs in zip(self._lows, self._highs, strict=True):
            inner_start, inner_end = -(-start // BRANCH), min(end // BRANCH, len(above_lows))
            if inner_end <= inner_start:
                break
            for begin, stop in ((start, inner_start * BRANCH), (inner_end * BRANCH, end)):
                if begin < stop:
                    low = min(low, *lows[begin:stop])  # a NaN is not less than what comes before it, and so passed over
                    high = max(high, *highs[begin:stop])
            start, end = inner_start, inner_end
            lows, highs = above_lows, above_highs
        if start < end:
            low, high = min(low, *lows[start:end]), max(high, *highs[start:end])
        return (low, high) if low <= high else None

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
            told, whole = len(self._lows[level]) * BRANCH, len(lows) - len(lows) % BRANCH
            if told == whole:  # then nothing above has changed either
                return
            self._lows[level].extend(_of_each("min", lows[told:whole], math.inf))
            self._highs[level].extend(_of_each("max", highs[told:whole], -math.inf))
            lows, highs = self._lows[level], self._highs[level]


def _of_each(choose: Literal["min", "max"], values: array[float], nothing: float) -> array[float]:
    """The least or the greatest of every BRANCH values; of gaps alone `nothing`."""
    if len(values) >= MANY:
        import numpy as np

        rows = np.frombuffer(values).reshape(-1, BRANCH)
        return array("d", getattr(np.where(np.isnan(rows), nothing, rows), choose)(axis=1).tobytes())
    groups = (values[start : start + BRANCH] for start in range(0, len(values), BRANCH))
    one = min if choose == "min" else max
    return array("d", [one((value for value in group if value == value), default=nothing) for group in groups])


class Smoothed:
    """An exponential moving average without a bias towards its start (as Adam's, Kingma and Ba, 2015); gaps are passed over."""

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self._sum = 0.0
        self._total = 0.0

    def add(self, value: float | None) -> float | None:
        """The average after this value; None for a gap."""
        if value is None or not math.isfinite(value):
            return None
        self._sum = self.weight * self._sum + (1 - self.weight) * value
        self._total = self.weight * self._total + (1 - self.weight)
        return self._sum / self._total

    def extend(self, values: array[float]) -> array[float]:
        """The average after each of them; NaN for a gap."""
        if len(values) < MANY:
            return array("d", [math.nan if (average := self.add(value)) is None else average for value in values])
        import numpy as np

        averages = np.array(values)
        finite = np.isfinite(averages)
        known = averages[finite]
        if len(known):
            sums = (1 - self.weight) * np.stack([known, np.ones_like(known)])
            sums[:, 0] += self.weight * np.array([self._sum, self._total])
            reach = 1
            while reach < len(known):  # a prefix sum by doubling (Hillis and Steele, 1986): each holds `reach` terms, then twice as many
                sums[:, reach:] += self.weight**reach * sums[:, :-reach]
                reach *= 2
            self._sum, self._total = sums[:, -1].tolist()
            averages[finite] = sums[0] / sums[1]
        averages[~finite] = np.nan
        return array("d", averages.tobytes())
