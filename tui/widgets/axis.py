"""Scales of a plot: where a value lies, and the round numbers to label."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Values `low`..`high` over `dots` places, 0 first. A logarithmic one takes positive values only."""

    low: float
    high: float
    dots: int
    log: bool = False

    def place(self, value: float) -> int:
        """The dot of a value, also outside of the range."""
        low, high, at = (self._bent(each) for each in (self.low, self.high, value))
        return round((at - low) / (high - low) * (self.dots - 1)) if high > low else (self.dots - 1) // 2

    def value(self, place: float) -> float:
        """The value at a dot: the inverse of `place`."""
        low, high = self._bent(self.low), self._bent(self.high)
        at = low + (high - low) * place / max(self.dots - 1, 1)
        return 10.0**at if self.log else at

    def _bent(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.log else value


def ticks(scale: Scale, most: int) -> list[float]:
    """At most `most` round values within the scale: multiples of 1, 2 or 5 times a power of ten; decades where it is logarithmic."""
    if most < 1 or not math.isfinite(scale.high - scale.low) or scale.high <= scale.low:
        return [scale.low] if math.isfinite(scale.low) else []
    if scale.log and scale.high / scale.low >= 10:
        first, last = math.ceil(math.log10(scale.low) - 1e-9), math.floor(math.log10(scale.high) + 1e-9)
        stride = max(-(-(last - first + 1) // most), 1)
        return [10.0**power for power in range(first, last + 1, stride)]
    step = _round_up((scale.high - scale.low) / (3 * most))
    while len(multiples := _multiples(step, scale)) > most:
        step = _round_up(step * 1.5)
    return [multiple * step for multiple in multiples]


def _multiples(step: float, scale: Scale) -> range:
    """The whole numbers of steps within the scale, its ends included."""
    return range(math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9) + 1)


def _round_up(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def number(value: float) -> str:
    """A short label of at most seven characters: 0.25, 1500, 12k, 3.4M, 1e-6. Digits that do not fit are rounded away."""
    texts = (_written(value, digits) for digits in (4, 3, 2, 1))
    return next(text for text in texts if len(text) <= 7)


def _written(value: float, digits: int) -> str:
    size = abs(value)
    if value == 0:
        return "0"
    if size >= 1e9 or size < 1e-3:
        mantissa, power = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(power)}"
    for unit, name in ((1e6, "M"), (1e4, "k")):
        if size >= unit:
            divisor = 1e6 if name == "M" else 1e3
            return f"{value / divisor:.4g}{name}"
    return f"{value:.{digits}g}"
