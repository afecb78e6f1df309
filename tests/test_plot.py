"""Curves in the terminal: ranges, scales, ticks and dots against brute force."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textual.app import App, ComposeResult

from engine.events import AnyEvent, Epoch, Images, RunStarted, Step, Toggles, Validation
from tui.curves import SMOOTHING, RunCurves
from tui.widgets.axis import Scale, number, ticks
from tui.widgets.braille import Canvas
from tui.widgets.plot import GUTTER, Curve, Plot
from tui.widgets.series import Series, Smoothed

values = st.floats(width=32, allow_infinity=False, allow_nan=False)
losses = st.none() | st.just(math.nan) | st.just(math.inf) | values
Dots = set[tuple[int, int]]


def limits(points: Sequence[float | None]) -> tuple[float, float] | None:
    finite = [value for value in points if value is not None and math.isfinite(value)]
    return (min(finite), max(finite)) if finite else None


def series_of(points: Sequence[float | None]) -> Series:
    series = Series()
    for step, value in enumerate(points, 1):
        series.append(step, value)
    return series


@given(st.lists(losses, max_size=300), st.data())
def test_a_range_is_the_least_and_the_greatest_of_its_points(points: list[float | None], data: st.DataObject) -> None:
    series = series_of(points)
    start = data.draw(st.integers(0, len(points)))
    end = data.draw(st.integers(start, len(points)))
    assert series.range(start, end) == limits(points[start:end])


def test_a_range_over_several_levels_is_the_least_and_the_greatest() -> None:
    rng = np.random.default_rng(1)
    points = np.where(rng.random(9000) < 0.2, math.nan, rng.normal(size=9000)).tolist()
    series = series_of(points)
    for start, end in rng.integers(0, 9001, (300, 2)):
        if start <= end:
            assert series.range(int(start), int(end)) == limits(points[start:end])
    assert series.range(0, 9000) == limits(points)


@given(st.lists(st.tuples(st.integers(1, 20), losses), max_size=120), st.integers(1, 40), st.integers(-20, 900), st.integers(1, 900))
def test_columns_share_out_every_point_in_view(steps: list[tuple[int, float | None]], count: int, first: int, width: int) -> None:
    series = Series()
    xs: list[int] = []
    for gap, value in steps:
        xs.append((xs[-1] if xs else 0) + gap)
        series.append(xs[-1], value)
    last = first + width
    edges = [first + (last - first) * column / count for column in range(count + 1)]
    expected = []
    for column, (low, high) in enumerate(pairwise(edges)):
        is_last = column == count - 1
        expected.append(limits([y for x, (_, y) in zip(xs, steps, strict=True) if low <= x and (x < high or (is_last and x <= last))]))
    assert series.columns(first, last, count) == expected


@given(st.lists(losses, max_size=200), st.lists(losses, max_size=200), st.data())
def test_what_is_told_again_replaces_what_was_told_from_there_on(
    before: list[float | None], again: list[float | None], data: st.DataObject
) -> None:
    series = series_of(before)
    kept = data.draw(st.integers(0, len(before)))
    for step, value in enumerate(again, kept + 1):
        series.append(step, value)
    points = before[:kept] + again if again else before
    assert list(series.x) == list(range(1, len(points) + 1))
    for start in range(0, len(points) + 1, 7):
        assert series.range(start, len(points)) == limits(points[start:])


@given(st.lists(losses, max_size=200), st.integers(-2, 210))
def test_keeping_to_a_step_drops_what_lies_after_it(points: list[float | None], step: int) -> None:
    series = series_of(points)
    series.keep_to(step)
    kept = points[: max(step, 0)]
    assert len(series) == len(kept)
    assert series.range(0, len(kept)) == limits(kept)
    series.append(1000, 5.0)
    assert series.range(0, len(series)) == limits([*kept, 5.0])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.floats(0, 0.99))
def test_the_smoothed_loss_is_the_weighted_mean_of_those_so_far(points: list[float], weight: float) -> None:
    smoothed = Smoothed(weight)
    for count in range(1, len(points) + 1):
        weights = [weight ** (count - 1 - index) for index in range(count)]
        expected = sum(w * value for w, value in zip(weights, points, strict=False)) / sum(weights)
        assert smoothed.add(points[count - 1]) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_a_loss_that_is_not_finite_is_a_gap_and_does_not_spoil_the_smoothed_one() -> None:
    smoothed = Smoothed(0.9)
    assert smoothed.add(2.0) == pytest.approx(2.0)
    assert [smoothed.add(value) for value in (None, math.nan, math.inf)] == [None, None, None]
    assert smoothed.add(2.0) == pytest.approx(2.0)


def started(step: int = 0, epoch: int = 0) -> RunStarted:
    return RunStarted(
        run="r",
        preset="p",
        classes=["a"],
        epochs=4,
        steps_per_epoch=10,
        device="cpu",
        world_size=1,
        images=Images(8, 4),
        toggles=Toggles(),
        resumed_step=step,
        resumed_epoch=epoch,
    )


def epochs_of(first_step: int, last_step: int, loss: Callable[[int], float | None]) -> list[AnyEvent]:
    events: list[AnyEvent] = []
    for step in range(first_step, last_step + 1):
        events.append(Step(epoch=(step - 1) // 10 + 1, step=step, loss=loss(step), lr=1e-3 / step, images_per_s=1.0, data_wait=0.0))
        if step % 10 == 0:
            scores: dict[str, Any] = {"epoch": step // 10, "loss": loss(step), "mIoU": step / 100}
            events.append(Epoch(**scores, IoU=[0.5], acc=[0.5]))
            rest: dict[str, Any] = {"acc": 0.5, "mean_acc": 0.5, "fwavacc": 0.5, "IoU": [0.5], "class_acc": [0.5], "support": [1]}
            events.append(Validation(**scores, **rest, best=True, best_epoch=1, best_mIoU=0.5))
    return events


def curves_of(events: Sequence[AnyEvent]) -> RunCurves:
    curves = RunCurves()
    for event in events:
        curves.add(event)
    return curves


NAMES = ("loss", "smoothed", "rate", "train_mIoU", "val_loss", "val_mIoU")


def test_a_run_resumed_after_its_second_epoch_has_the_curves_of_one_that_was_never_interrupted() -> None:
    def lost(step: int) -> float:
        return 100.0 + step  # so that any of the lost steps would show

    def kept(step: int) -> float:
        return 3.0 / step

    torn = [started(), *epochs_of(1, 20, kept), *epochs_of(21, 27, lost), started(20, 2), *epochs_of(21, 40, kept)]
    whole = curves_of([started(), *epochs_of(1, 40, kept)])
    found = curves_of(torn)
    for name in NAMES:
        assert list(getattr(found, name).x) == list(getattr(whole, name).x), name
        assert list(getattr(found, name).y) == pytest.approx(list(getattr(whole, name).y)), name
    assert list(found.val_mIoU.x) == [10, 20, 30, 40]


def test_a_run_resumed_within_an_epoch_keeps_the_steps_before() -> None:
    torn = [started(), *epochs_of(1, 17, lambda step: 1.0), started(15, 1), *epochs_of(16, 20, lambda step: 2.0)]
    curves = curves_of(torn)
    assert list(curves.loss.y) == [1.0] * 15 + [2.0] * 5
    assert list(curves.val_loss.x) == [10, 20]


def test_the_smoothed_curve_has_a_point_for_every_step_and_gaps_where_the_loss_has() -> None:
    curves = curves_of([started(), *epochs_of(1, 9, lambda step: None if step == 4 else 1.0)])
    assert len(curves.smoothed) == 9
    assert [math.isnan(value) for value in curves.smoothed.y] == [step == 4 for step in range(1, 10)]
    assert 0 < SMOOTHING < 1


scales = st.builds(
    lambda low, width, dots: Scale(low, low + width, dots),
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e6),
    st.integers(2, 400),
)
log_scales = st.builds(
    lambda low, ratio, dots: Scale(low, low * ratio, dots, log=True), st.floats(1e-9, 1e6), st.floats(1.01, 1e9), st.integers(2, 400)
)


@given(scales | log_scales, st.data())
def test_a_dot_and_its_value_are_each_others_inverse(scale: Scale, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, scale.dots - 1))
    assert scale.place(scale.value(place)) == place


@given(scales | log_scales, st.floats(0, 1))
def test_the_value_of_a_values_dot_is_at_most_half_a_dot_away(scale: Scale, share: float) -> None:
    value = scale.low + (scale.high - scale.low) * share
    place = scale.place(value)
    assert 0 <= place <= scale.dots - 1
    below, above = scale.value(place - 0.5), scale.value(place + 0.5)
    slack = 1e-6 * (scale.high - scale.low) + 1e-9 * abs(value)
    assert below - slack <= value <= above + slack


@given(scales, st.integers(1, 30))
def test_ticks_are_few_round_and_within_the_scale(scale: Scale, most: int) -> None:
    found = ticks(scale, most)
    assert len(found) <= most
    assert found == sorted(set(found))
    width = scale.high - scale.low
    assert all(scale.low - 1e-6 * width <= value <= scale.high + 1e-6 * width for value in found)
    if len(found) > 1:
        exact = found[1] - found[0]
        step = float(f"{exact:.0e}")
        assert exact == pytest.approx(step, rel=1e-3)
        assert f"{exact:.0e}"[0] in "125"
        assert all(abs(value / step - round(value / step)) < 1e-2 for value in found)


@given(scales, st.integers(3, 30))
def test_there_are_enough_ticks_to_read_a_scale(scale: Scale, most: int) -> None:
    assert len(ticks(scale, most)) >= most // 3


@given(log_scales, st.integers(2, 30))
def test_ticks_of_a_logarithmic_scale_are_decades(scale: Scale, most: int) -> None:
    found = ticks(scale, most)
    assert len(found) <= most
    assert all(scale.low * (1 - 1e-6) <= value <= scale.high * (1 + 1e-6) for value in found)
    if scale.high / scale.low >= 10.001:
        assert found
        assert all(abs(math.log10(value) - round(math.log10(value))) < 1e-6 for value in found)


@given(values)
def test_a_label_is_short_and_close_to_its_value(value: float) -> None:
    text = number(value)
    assert len(text) <= 7
    unit = {"k": 1e3, "M": 1e6}.get(text[-1], 1.0)
    assert float(text.rstrip("kM")) * unit == pytest.approx(value, rel=0.5)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (1500, "1500"), (12_000, "12k"), (3.4e6, "3.4M"), (1e-6, "1e-6"), (-0.5, "-0.5"), (1e9, "1e9")],
)
def test_labels_are_as_people_write_them(value: float, text: str) -> None:
    assert number(value) == text


def dots_of(rows: Sequence[str]) -> Dots:
    """(x, y) of every dot from the Unicode standard's numbering: dots 1 2 3 7 down the left, 4 5 6 8 down the right."""
    bits = {0: (0, 0), 1: (0, 1), 2: (0, 2), 3: (1, 0), 4: (1, 1), 5: (1, 2), 6: (0, 3), 7: (1, 3)}
    found: Dots = set()
    for y, row in enumerate(rows):
        for x, character in enumerate(row):
            if 0x2800 <= ord(character) <= 0x28FF:
                code = ord(character) - 0x2800
                found |= {(2 * x + dx, 4 * y + dy) for bit, (dx, dy) in bits.items() if code & 1 << bit}
    return found


def drawn(canvas: Canvas) -> Dots:
    return dots_of(["".join(character for character, _ in canvas.row(y)) for y in range(canvas.height)])


@given(st.integers(1, 12), st.integers(1, 6), st.integers(-3, 30), st.integers(-9, 40), st.integers(-9, 40))
def test_a_column_of_dots_is_where_it_was_asked_for(width: int, height: int, x: int, top: int, bottom: int) -> None:
    canvas = Canvas(width, height)
    canvas.column(x, top, bottom, "red")
    rows = range(min(top, bottom), max(top, bottom) + 1)
    assert drawn(canvas) == {(x, y) for y in rows if 0 <= x < 2 * width and 0 <= y < 4 * height}


points_around = st.tuples(st.integers(-20, 40), st.integers(-20, 60))


@given(points_around, points_around)
def test_a_line_is_connected_close_to_the_straight_one_and_cut_at_the_edges(start: tuple[int, int], end: tuple[int, int]) -> None:
    start, end = sorted((start, end))
    small, large = Canvas(10, 10), Canvas(60, 60)
    small.line(start, end, "red")
    shift = 40
    large.line((start[0] + shift, start[1] + shift), (end[0] + shift, end[1] + shift), "red")
    whole = {(x - shift, y - shift) for x, y in drawn(large)}
    assert drawn(small) == {(x, y) for x, y in whole if 0 <= x < 20 and 0 <= y < 40}
    assert {start, end} <= whole
    (x0, y0), (x1, y1) = start, end
    for x, y in whole:
        assert x0 <= x <= x1
        ideal = y0 + (y1 - y0) * (x - x0) / (x1 - x0) if x1 > x0 else y
        assert abs(y - ideal) <= abs(y1 - y0) / max(x1 - x0, 1) + 1
    for x in range(x0, x1):
        here, after = ({y for at, y in whole if at == column} for column in (x, x + 1))
        assert min(abs(a - b) for a in here for b in after) <= 1


def test_a_cell_has_the_colour_of_what_was_drawn_last() -> None:
    canvas = Canvas(2, 1)
    canvas.column(0, 0, 3, "red")
    canvas.column(1, 2, 2, "blue")
    assert canvas.row(0) == [("⡧", "blue"), (" ", None)]


Look = Callable[[Plot], None]


class OnePlot(App[None]):
    def __init__(self, curves: Sequence[Curve]) -> None:
        super().__init__()
        self.curves = curves

    def compose(self) -> ComposeResult:
        yield Plot("loss", self.curves)


class Picture:
    """A plot in a terminal: its lines, and the dots between its axes."""

    def __init__(self, plot: Plot) -> None:
        self.lines = [plot.render_line(y).text for y in range(plot.size.height)]
        self.rows = [line[GUTTER:] for line in self.lines[1:-2]]
        self.dots = dots_of(self.rows)
        self.cells = plot.size.width - GUTTER
        self.height = 4 * len(self.rows)


def picture(series: Sequence[Series], size: tuple[int, int] = (80, 20), keys: Sequence[str] = (), log: bool = False) -> Picture:
    async def draw() -> Picture:
        app = OnePlot([Curve(f"c{index}", each, "cyan") for index, each in enumerate(series)])
        async with app.run_test(size=size) as pilot:
            plot = app.query_one(Plot)
            plot.focus()
            plot.log_scale = log
            await pilot.press(*keys)
            await pilot.pause()
            found = Picture(plot)
            assert {len(line) for line in found.lines} <= {plot.size.width}
            return found

    return asyncio.run(draw())


def rows_by_hand(points: Sequence[float], height: int) -> list[int]:
    """The dot row of every point of a plot that leaves 4 % free above and below."""
    low, high = min(points), max(points)
    low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)
    return [height - 1 - round((value - low) / (high - low) * (height - 1)) for value in points]


def test_a_hundred_thousand_points_are_drawn_as_brute_force_would() -> None:
    rng = np.random.default_rng(2)
    points = (3 * np.exp(-np.arange(100_000) / 30_000) + rng.normal(size=100_000) * 0.1).tolist()
    points[71_234] = 9.0  # one outlier of a single step must not be lost
    found = picture([series_of(points)])
    columns = 2 * found.cells
    rows = rows_by_hand(points, found.height)
    first, last = 1, len(points)
    by_column: list[list[int]] = [[] for _ in range(columns)]
    for step, row in enumerate(rows, 1):
        by_column[min(int((step - first) / (last - first) * columns), columns - 1)].append(row)
    expected: Dots = set()
    before: tuple[int, int] | None = None
    for x, here in enumerate(by_column):
        top, bottom = min(here), max(here)
        joined = (top, bottom) if before is None else (min(top, before[1]), max(bottom, before[0]))
        expected |= {(x, y) for y in range(joined[0], joined[1] + 1)}
        before = (top, bottom)
    assert found.dots == expected
    assert (min(rows), max(rows)) == (min(y for _, y in found.dots), max(y for _, y in found.dots))


def test_a_few_points_are_joined_by_lines() -> None:
    points = [4.0, 1.0, 3.0, 2.0]
    found = picture([series_of(points)])
    rows = rows_by_hand(points, found.height)
    xs = [round(index / 3 * (2 * found.cells - 1)) for index in range(4)]
    assert set(zip(xs, rows, strict=True)) <= found.dots
    assert {x for x, _ in found.dots} == set(range(2 * found.cells))
    for (x0, y0), (x1, y1) in pairwise(zip(xs, rows, strict=True)):
        for x in range(x0, x1 + 1):
            assert any(abs(y - (y0 + (y1 - y0) * (x - x0) / (x1 - x0))) <= 1 for at, y in found.dots if at == x)


def test_nan_is_a_gap_between_few_points() -> None:
    found = picture([series_of([1.0, 1.0, math.nan, 1.0, 1.0])])
    last = 2 * found.cells - 1
    gap = range(round(last / 4) + 1, round(last * 3 / 4))
    assert {x for x, _ in found.dots} == set(range(last + 1)) - set(gap)


def test_nan_is_a_gap_between_many_points() -> None:
    points = [1.0 + index % 3 for index in range(10_000)]
    points[4000:6000] = [math.nan] * 2000
    found = picture([series_of(points)])
    columns = 2 * found.cells
    empty = set(range(columns)) - {x for x, _ in found.dots}
    assert empty == set(range(min(empty), max(empty) + 1))
    assert min(empty) == pytest.approx(0.4 * columns, abs=1)
    assert max(empty) == pytest.approx(0.6 * columns, abs=1.5)


def test_only_nan_is_an_empty_plot_with_its_axes() -> None:
    found = picture([series_of([math.nan] * 50)])
    assert found.dots == set()
    assert "not finite" in found.lines[0]


@pytest.mark.parametrize("count", [12, 5000])
def test_zeros_on_a_logarithmic_scale_are_no_points(count: int) -> None:
    points = [10.0 ** -(index % 4) for index in range(count)]
    zeros = slice(count // 3, count // 2)
    with_zeros = [*points]
    with_zeros[zeros] = [0.0] * len(points[zeros])
    with_gaps = [*points]
    with_gaps[zeros] = [math.nan] * len(points[zeros])
    found = picture([series_of(with_zeros), series_of([1e-6] * count)], log=True)
    expected = picture([series_of(with_gaps), series_of([1e-6] * count)], log=True)
    assert " log" in found.lines[0]
    edge = {round(2 * found.cells * share) + off for share in (1 / 3, 1 / 2) for off in (-1, 0, 1)} if count > 100 else set()
    assert {dot for dot in found.dots if dot[0] not in edge} == {dot for dot in expected.dots if dot[0] not in edge}


def test_a_logarithmic_scale_puts_decades_at_equal_distances() -> None:
    found = picture([series_of([1.0, 0.1, 0.01, 0.001])], log=True, size=(80, 33))
    last = 2 * found.cells - 1
    rows = [min(y for x, y in found.dots if x == round(index / 3 * last)) for index in range(4)]
    steps = [below - above for above, below in pairwise(rows)]
    assert max(steps) - min(steps) <= 1
    labelled = [line[: GUTTER - 1].strip() for line in found.lines]
    assert {"1", "0.1", "0.01", "0.001"} <= set(labelled)


def test_nothing_positive_on_a_logarithmic_scale_is_an_empty_plot() -> None:
    assert picture([series_of([0.0, -1.0, 0.0])], log=True).dots == set()


def test_one_point_is_one_dot() -> None:
    assert len(picture([series_of([0.5])]).dots) == 1


def test_an_empty_plot_says_so() -> None:
    assert "no points yet" in picture([Series()]).lines[0]
    assert "no points yet" in picture([]).lines[0]


@pytest.mark.parametrize("size", [(40, 10), (16, 5), (15, 4), (3, 2), (1, 1), (300, 90)])
def test_a_plot_fits_any_terminal(size: tuple[int, int]) -> None:
    for points in ([], [1.0], [1.0, 2.0, math.nan], list(range(5000))):
        found = picture([series_of(points)], size=size, keys=["left", "plus", "minus", "y"])
        assert len(found.lines) >= min(size[1], 1)


def test_labels_never_push_a_curve_aside() -> None:
    for points in ([0.001002, 0.001004], [-1e-4, -1.2e-4], [-3e38, 1e10], [1e-45, 2e-45], [123456.0, 123457.0]):
        found = picture([series_of(points)])
        assert all(line[GUTTER - 1] in "│┤" for line in found.lines[1:-2])
        assert found.lines[-2][GUTTER - 1] == "└"


@settings(max_examples=10, deadline=None)
@given(st.lists(losses, max_size=40), st.booleans())
def test_any_losses_can_be_drawn(points: list[float | None], log: bool) -> None:
    found = picture([series_of(points)], size=(30, 9), log=log, keys=["left"])
    if not log and limits(points):
        assert found.dots


def test_the_label_of_a_tick_stands_in_its_row() -> None:
    points = [0.0, 1.0]
    found = picture([series_of(points)])
    low, high = -0.04, 1.04
    for row, line in enumerate(found.lines[1:-2]):
        if label := line[: GUTTER - 1].strip():
            place = (float(label) - low) / (high - low) * (found.height - 1)
            assert (found.height - 1 - round(place)) // 4 == row
    assert any(line[: GUTTER - 1].strip() for line in found.lines[1:-2])


def interact(series: Series, keys: Sequence[str], look: Look) -> None:
    async def play() -> None:
        app = OnePlot([Curve("c", series, "cyan")])
        async with app.run_test(size=(88, 20)) as pilot:
            plot = app.query_one(Plot)
            plot.focus()
            await pilot.press(*keys)
            await pilot.pause()
            look(plot)

    asyncio.run(play())


def test_the_cursor_reads_the_value_of_its_step() -> None:
    series = series_of([step / 4 for step in range(1, 41)])
    for keys, step in (
        (["home"], 1),
        (["g"], 1),
        (["end"], 40),
        (["G"], 40),
        (["left"], 40),
        (["left", "left", "left"], 38),
        (["g", "l", "right"], 3),
    ):

        def look(plot: Plot, step: int = step) -> None:
            assert plot.cursor == step
            assert f"step {step} " in plot.render_line(0).text
            assert f"c {step / 4:.4g}" in plot.render_line(0).text

        interact(series, keys, look)


def test_the_cursor_moves_by_ten() -> None:
    series = series_of([1.0] * 40)
    interact(series, ["g", "L"], lambda plot: _at(plot, 11))
    interact(series, ["g", "shift+right", "H"], lambda plot: _at(plot, 1))
    interact(series, ["g", "shift+right", "shift+left"], lambda plot: _at(plot, 1))
    interact(series, ["g", "left"], lambda plot: _at(plot, 1))


def _at(plot: Plot, step: float) -> None:
    assert plot.cursor == step


def test_the_cursor_moves_by_something_seen_among_many_points() -> None:
    def look(plot: Plot) -> None:
        assert plot.cursor is not None
        assert 1 + 10_000 / 160 - 2 <= plot.cursor <= 1 + 10_000 / 160 + 3

    interact(series_of([1.0] * 10_000), ["g", "right"], look)


def test_zooming_keeps_the_cursor_in_view_and_comes_back_to_the_whole() -> None:
    series = series_of([math.sin(step / 10) for step in range(1000)])

    def near(plot: Plot) -> None:
        assert plot.view is not None
        assert plot.cursor is not None
        assert plot.view[0] <= plot.cursor <= plot.view[1]
        assert plot.view[1] - plot.view[0] == pytest.approx(999 / 4)

    def whole(plot: Plot) -> None:
        assert plot.shown() == (1, 1000)

    interact(series, ["plus", "equals_sign"], lambda plot: _shows(plot, 1000 - 999 / 4, 1000))
    interact(series, ["g", "plus", "plus", *["right"] * 5], near)
    interact(series, ["plus", "plus", "minus", "minus"], whole)
    interact(series, ["g", "plus", "plus", "0"], whole)
    interact(series, ["plus"] * 30, lambda plot: _shows(plot, 996, 1000))


def _shows(plot: Plot, first: float, last: float) -> None:
    assert plot.shown() == pytest.approx((first, last))


def test_a_zoomed_plot_scales_to_what_is_in_view() -> None:
    points = [1000.0] * 50 + [1.0, 2.0] * 25
    found = picture([series_of(points)], keys=["plus", "plus"])
    rows = {y for _, y in found.dots}
    assert max(rows) - min(rows) > 0.8 * found.height
    assert [line[: GUTTER - 1].strip() for line in found.lines if "1.5" in line[:GUTTER]] == ["1.5"]


def test_a_line_that_comes_from_outside_of_the_view_enters_at_its_slope() -> None:
    series = Series()
    for x, y in ((0, 0.0), (60, 6.0), (70, -5.0), (100, 10.0)):
        series.append(x, y)
    found = picture([series], keys=["plus"])
    low, high = -5.0 - 0.04 * 15, 10.0 + 0.04 * 15
    entry = found.height - 1 - (5.0 - low) / (high - low) * (found.height - 1)
    assert [y for x, y in found.dots if x == 0] == [pytest.approx(entry, abs=1)]
