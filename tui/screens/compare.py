"""Runs side by side: their curves over each other, their classes, and what their presets differ in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from rich.console import RenderableType
from rich.measure import Measurement
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, ScrollableContainer
from textual.screen import Screen
from textual.widgets import Static
from textual.worker import get_current_worker

from engine.run import RunFolder
from tui.compare_view import class_table, legend, preset_table
from tui.comparing import METRICS, Compared, News, Reader
from tui.widgets.footer import Footer
from tui.widgets.plot import Curve, Plot
from tui.widgets.tabs import ScreenTabs

READ_S = 0.5
DRAW_S = 0.25
WIDEST = 10_000
PARTS = ("-plot", "-classes", "-presets")


class Part(ScrollableContainer, can_focus=True):
    """A table in its natural width, scrolled by keys where it is larger than its place."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "scroll_down", "Down", show=False),
        Binding("k", "scroll_up", "Up", show=False),
        Binding("h", "scroll_left", "Left", show=False),
        Binding("l", "scroll_right", "Right", show=False),
    ]

    def compose(self) -> ComposeResult:
        yield Static()

    def show(self, table: RenderableType) -> None:
        console = self.app.console
        static = self.query_one(Static)
        static.styles.width = Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
        static.update(table)


class CompareScreen(Screen[None]):
    """A thread reads the runs, a block of a log at a time, again and again; what changed is drawn four times a second."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("m", "metric", "Metric", tooltip="Validation mIoU, validation loss, training loss", id="compare.metric"),
        Binding("e", "axis", "Epoch/step", tooltip="Curves by epoch or by step", id="compare.axis"),
        Binding("o", "order", "Sort", tooltip="Classes in their order, or by the largest difference", id="compare.order"),
        Binding("v", "next_part", "View", tooltip="Curves, classes, presets in turn", id="compare.view"),
        Binding("escape", "back", "Back", id="compare.back"),
    ]

    def __init__(self, runs: Sequence[tuple[Path, str]]) -> None:
        """`runs` with their colours; the first is what the others are compared with."""
        super().__init__()
        self.runs = [Compared(RunFolder(path), chr(ord("A") + number), colour) for number, (path, colour) in enumerate(runs)]
        self._readers = [Reader(run.folder) for run in self.runs]
        self._is_reading = False
        self._is_dirty = False
        self._tables_drawn: object = None
        self._metric = 0
        self._by_epoch = True
        self._by_difference = False

    def compose(self) -> ComposeResult:
        yield ScreenTabs()
        yield Static(legend(self.runs), id="legend")
        yield Plot("")
        with Horizontal(id="tables"):
            yield Part(id="classes")
            yield Part(id="presets")
        yield Footer()

    def on_mount(self) -> None:
        self.add_class(PARTS[0])
        self._show_curves()
        self.query_one(Plot).focus()
        self._read_on()
        self.set_interval(READ_S, self._read_on)
        self.set_interval(DRAW_S, self._draw)

    def on_screen_resume(self) -> None:
        self._is_dirty = True

    def _read_on(self) -> None:
        if self.is_current and not self._is_reading:
            self._is_reading = True
            self._read()

    @work(thread=True, group="compare", exit_on_error=False)
    def _read(self) -> None:
        """All that the logs have by now, run by run, in blocks: keys are answered between them."""
        worker = get_current_worker()
        try:
            for run, reader in zip(self.runs, self._readers, strict=True):
                while not worker.is_cancelled:
                    news = reader.read()
                    self.app.call_from_thread(self._take, run, news)
                    if not news.events:
                        break
        finally:
            self._is_reading = False

    def _take(self, run: Compared, news: News) -> None:
        before = (run.was_read, run.record, run.problem, run.preset_problem)
        if news.problem and news.problem != run.problem:
            self.notify(f"{run.folder.path.name} {news.problem}", severity="warning", markup=False)
        run.take(news)
        self._is_dirty = self._is_dirty or bool(news.events) or before != (run.was_read, run.record, run.problem, run.preset_problem)

    def _draw(self) -> None:
        if not self._is_dirty or not self.is_current:
            return
        self._is_dirty = False
        self.query_one("#legend", Static).update(legend(self.runs))
        self.query_one(Plot).redraw()
        told = [(len(run.state.validations), run.best, run.preset_problem, run.was_read) for run in self.runs]
        if told != self._tables_drawn:
            self._tables_drawn = told
            self._draw_tables()

    def _draw_tables(self) -> None:
        self.query_one("#classes", Part).show(class_table(self.runs, by_difference=self._by_difference))
        self.query_one("#presets", Part).show(preset_table(self.runs))

    def _show_curves(self) -> None:
        metric, plot = METRICS[self._metric], self.query_one(Plot)
        plot.unit = "epoch" if self._by_epoch else "step"
        plot.plot_title = f"smoothed {metric}" if metric == "training loss" else metric
        self.sub_title = f"{len(self.runs)} runs by {plot.unit}"
        plot.show([Curve(run.label, run.series(metric, by_epoch=self._by_epoch), run.colour) for run in self.runs])

    def action_metric(self) -> None:
        self._metric = (self._metric + 1) % len(METRICS)
        self._show_curves()

    def action_axis(self) -> None:
        self._by_epoch = not self._by_epoch
        self.query_one(Plot).action_whole()  # a place on the old axis is none on the new one
        self._show_curves()

    def action_order(self) -> None:
        self._by_difference = not self._by_difference
        self._draw_tables()

    def action_next_part(self) -> None:
        """To the plot, the classes, the presets in turn. Where there is no room for all, the others go out of sight."""
        now = next(part for part in PARTS if self.has_class(part))
        then = PARTS[(PARTS.index(now) + 1) % len(PARTS)]
        self.remove_class(now)
        self.add_class(then)
        self.query_one({"-plot": "Plot", "-classes": "#classes", "-presets": "#presets"}[then]).focus()

    def action_back(self) -> None:
        self.dismiss()
