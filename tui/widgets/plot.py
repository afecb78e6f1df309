"""Curves in a terminal: braille lines with axes, a logarithmic scale, zoom, and a cursor that reads values by keyboard."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.app import RenderResult
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from tui.widgets.axis import Scale, number, ticks
from tui.widgets.braille import Canvas
from tui.widgets.series import Series

GUTTER = 8
"""Cells for the labels of the y axis, its line included."""
SMALLEST = (GUTTER + 8, 5)
NEAREST = 4.0
"""The least width of a zoomed view, in x."""


@dataclass(frozen=True)
class Curve:
    """A series with a name and a colour (any of rich's). The first curve of a plot lies under the others."""

    name: str
    series: Series
    colour: str


class Plot(Widget, can_focus=True):
    """Any number of curves over one x axis. Call `redraw` when they have grown."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(-1)", "cursor", show=False, id="plot.left"),
        Binding("right,l", "move(1)", "cursor", show=False, id="plot.right"),
        Binding("shift+left,H", "move(-10)", "cursor by ten", show=False, id="plot.far_left"),
        Binding("shift+right,L", "move(10)", "cursor by ten", show=False, id="plot.far_right"),
        Binding("home,g", "edge(0)", "first point", show=False, id="plot.first"),
        Binding("end,G", "edge(1)", "last point", show=False, id="plot.last"),
        Binding("plus,equals_sign", "zoom(0.5)", "zoom in", show=False, id="plot.in"),
        Binding("minus", "zoom(2.0)", "zoom out", show=False, id="plot.out"),
        Binding("0", "whole", "whole", show=False, id="plot.whole"),
        Binding("y", "toggle_log", "log scale", show=False, id="plot.log"),
    ]
    DEFAULT_CSS = "Plot { height: 1fr; min-height: 5; }"

    log_scale: reactive[bool] = reactive(False)

    def __init__(self, title: str, curves: Sequence[Curve] = (), *, unit: str = "step", id: str | None = None) -> None:
        super().__init__(id=id)
        self.plot_title, self.unit = title, unit
        self.curves: tuple[Curve, ...] = tuple(curves)
        self.view: tuple[float, float] | None = None
        """The part of the x axis that is shown; None: all of it, however it grows."""
        self.cursor: float | None = None
        self._strips: list[Strip] = []
        self._drawn: Size | None = None

    def show(self, curves: Sequence[Curve]) -> None:
        self.curves = tuple(curves)
        self.redraw()

    def redraw(self) -> None:
        """The curves have grown, or something about the view has changed."""
        self._drawn = None
        self.refresh()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._drawn = None

    def watch_log_scale(self) -> None:
        self.redraw()

    def render(self) -> RenderResult:
        return ""

    def render_line(self, y: int) -> Strip:
        if self._drawn != self.size:
            self._strips, self._drawn = self._draw(self.rich_style), self.size
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width, self.rich_style)

    def extent(self) -> tuple[float, float] | None:
        """From the first to the last x of all curves."""
        ends = [(curve.series.x[0], curve.series.x[-1]) for curve in self.curves if len(curve.series)]
        return (min(first for first, _ in ends), max(last for _, last in ends)) if ends else None

    def shown(self) -> tuple[float, float] | None:
        """The x range in view; a single point gets some room."""
        whole = self.extent()
        if whole is None:
            return None
        first, last = self.view or whole
        return (first, last) if last > first else (first - 0.5, last + 0.5)

    def action_move(self, columns: int) -> None:
        """To the nearest point of the first curve, at least one dot column away."""
        shown, points = self.shown(), self._points()
        if shown is None or not points:
            return
        dot = (shown[1] - shown[0]) / max(2 * self._cells[0] - 1, 1)
        at = len(points) - 1 if self.cursor is None else bisect_left(points, self.cursor)
        if self.cursor is not None:
            goal = bisect_left(points, self.cursor + columns * dot)
            at = min(goal, at + columns) if columns < 0 else max(goal, at + columns)
        self.cursor = points[max(0, min(at, len(points) - 1))]
        self._keep_cursor_in_view()
        self.redraw()

    def action_edge(self, end: int) -> None:
        points = self._points()
        if points:
            self.cursor = points[-1] if end else points[0]
            self._keep_cursor_in_view()
            self.redraw()

    def action_zoom(self, factor: float) -> None:
        """About the cursor, or the end of what is shown."""
        whole, shown = self.extent(), self.shown()
        if whole is None or shown is None:
            return
        width = max((shown[1] - shown[0]) * factor, NEAREST)
        if width >= whole[1] - whole[0]:
            self.view = None
        else:
            middle = self.cursor if self.cursor is not None else shown[1] - width / 2
            first = max(whole[0], min(middle - width / 2, whole[1] - width))
            self.view = (first, first + width)
        self.redraw()

    def action_whole(self) -> None:
        self.view = self.cursor = None
        self.redraw()

    def action_toggle_log(self) -> None:
        self.log_scale = not self.log_scale

    def reading(self, curve: Curve) -> str:
        """The curve's value at the cursor, or its last one; `-` where it ended well before the cursor."""
        series = curve.series
        if not len(series):
            return ""
        at = len(series) - 1 if self.cursor is None else bisect_left(series.x, self.cursor)
        if at == len(series):
            at -= 1
            if self.cursor is not None and at and self.cursor - series.x[at] > series.x[at] - series.x[at - 1]:
                return "-"
        value = series.y[at]
        return "not finite" if math.isnan(value) else f"{value:.4g}"

    def _points(self) -> Sequence[float]:
        return max((curve.series.x for curve in self.curves), key=len, default=())

    def _keep_cursor_in_view(self) -> None:
        if self.view is None or self.cursor is None:
            return
        first, last = self.view
        move = min(self.cursor - first, 0) + max(self.cursor - last, 0)
        self.view = (first + move, last + move)

    @property
    def _cells(self) -> tuple[int, int]:
        """(width, height) of the canvas: without the labels, the title and the x axis."""
        return max(self.size.width - GUTTER, 1), max(self.size.height - 3, 1)

    def _draw(self, style: Style) -> list[Strip]:
        width = self.size.width
        shown = self.shown()
        if self.size.width < SMALLEST[0] or self.size.height < SMALLEST[1] or shown is None:
            empty = "no points yet" if shown is None else "too small"
            head = Strip([Segment(f"{self.plot_title}: {empty}"[:width], style + Style(dim=True))])
            return [head.adjust_cell_length(width, style)]
        cells, rows = self._cells
        y_scale = self._y_scale(shown, 4 * rows)
        x_scale = Scale(*shown, 2 * cells)
        canvas = Canvas(cells, rows)
        if y_scale is not None:
            for curve in self.curves:
                _draw_curve(canvas, curve, x_scale, y_scale)
        cursor = x_scale.place(self.cursor) // 2 if self.cursor is not None else None
        lines = [self._title(style), *self._rows(canvas, y_scale, cursor, style), *_x_axis(x_scale, cells, style)]
        return [Strip(line).adjust_cell_length(width, style) for line in lines]

    def _y_scale(self, shown: tuple[float, float], dots: int) -> Scale | None:
        """Over what is in view; None where that has no finite value, or none that a logarithm has."""
        found = []
        for curve in self.curves:
            series = curve.series
            start, end = bisect_left(series.x, shown[0]), bisect_left(series.x, math.nextafter(shown[1], math.inf))
            if limits := series.range(start, end):
                found.append(limits)
        if not found:
            return None
        low, high = min(low for low, _ in found), max(high for _, high in found)
        if self.log_scale:
            if high <= 0:
                return None
            return Scale(max(low, high * 1e-6), high * 1.0001, dots, log=True)
        margin = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
        return Scale(low - margin, high + margin, dots)

    def _title(self, style: Style) -> list[Segment]:
        scale = " log" if self.log_scale else ""
        segments = [Segment(f"{self.plot_title}{scale}  ", style + Style(bold=True))]
        if self.cursor is not None:
            segments.append(Segment(f"{self.unit} {self.cursor:.0f}  ", style))
        for curve in self.curves:
            mark, colour = ("━ ", Style.parse(curve.colour)) if len(self.curves) > 1 else ("", Style(dim=self.cursor is None))
            segments.append(Segment(f"{mark}{curve.name} ", style + colour))
            segments.append(Segment(f"{self.reading(curve)}  ", style + Style(dim=self.cursor is None)))
        return segments

    def _rows(self, canvas: Canvas, scale: Scale | None, cursor: int | None, style: Style) -> list[list[Segment]]:
        labels: dict[int, str] = {}
        for value in ticks(scale, max(canvas.height // 3, 2)) if scale else []:
            labels[canvas.height - 1 - scale.place(value) // 4 if scale else 0] = number(value)
        dim = style + Style(dim=True)
        lines = []
        for row in range(canvas.height):
            line = [Segment(f"{labels.get(row, ''):>{GUTTER - 1}}{'┤' if row in labels else '│'}", dim)]
            cells = list(enumerate(canvas.row(row)))
            for (colour, is_cursor), run in groupby(cells, key=lambda cell: (cell[1][1], cell[0] == cursor)):
                text = "".join(character for _, (character, _) in run)
                run_style = style + Style.parse(colour) if colour else style
                if is_cursor:
                    line.append(Segment("│" if text == " " else text, run_style + Style(bold=True, bgcolor="grey30")))
                else:
                    line.append(Segment(text, run_style))
            lines.append(line)
        return lines


def _draw_curve(canvas: Canvas, curve: Curve, x_scale: Scale, y_scale: Scale) -> None:
    series, bottom = curve.series, 4 * canvas.height - 1
    start = max(bisect_left(series.x, x_scale.low) - 1, 0)
    end = min(bisect_left(series.x, math.nextafter(x_scale.high, math.inf)) + 1, len(series))
    if end - start <= 2 * canvas.width:
        _draw_points(canvas, curve, x_scale, y_scale, range(start, end))
        return
    previous: tuple[int, int] | None = None
    for x, limits in enumerate(series.columns(x_scale.low, x_scale.high, 2 * canvas.width)):
        if limits is None or (y_scale.log and limits[1] <= 0):
            previous = None
            continue
        low, high = (bottom - y_scale.place(value) for value in limits)
        if previous is not None:  # where two columns lie apart, the line between them belongs to the later one
            top, low_end = previous
            high_end = high
            canvas.column(x, min(high_end, low_end), max(low, top), curve.colour)
        else:
            canvas.column(x, high, low, curve.colour)
        previous = (high, low)


def _draw_points(canvas: Canvas, curve: Curve, x_scale: Scale, y_scale: Scale, points: range) -> None:
    """Few points: lines from one to the next, broken where one is a gap."""
    bottom = 4 * canvas.height - 1
    previous: tuple[int, int] | None = None
    for index in points:
        value = curve.series.y[index]
        if math.isnan(value) or (y_scale.log and value <= 0):
            previous = None
            continue
        here = (x_scale.place(curve.series.x[index]), bottom - y_scale.place(value))
        canvas.line(previous or here, here, curve.colour)
        previous = here


def _x_axis(scale: Scale, cells: int, style: Style) -> list[list[Segment]]:
    dim = style + Style(dim=True)
    line = ["─"] * cells
    labels = [" "] * cells
    free = 0
    for value in (each for each in ticks(scale, max(cells // 12, 1)) if each == round(each)):  # steps and epochs
        cell, text = scale.place(value) // 2, number(value)
        start = max(min(cell - len(text) // 2, cells - len(text)), 0)
        if not 0 <= cell < cells or start < free:
            continue
        line[cell] = "┴"
        labels[start : start + len(text)] = text
        free = start + len(text) + 2
    return [[Segment(" " * (GUTTER - 1) + "└" + "".join(line), dim)], [Segment(" " * GUTTER + "".join(labels), dim)]]
