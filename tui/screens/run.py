"""One run: live where it runs, whole where it has ended. The one number first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.widgets import RichLog, Static

from engine.errors import RequestError, RunError
from engine.events import AnyEvent, Gpu, Message, stretches
from engine.launch import Followed
from engine.run import RunFolder, check_resumable
from tui.curves import RunCurves
from tui.headless_view import shown_score
from tui.run_state import RunState, clock
from tui.screens.confirm import Confirm
from tui.themes import curve_style, level_style, state_style, style
from tui.widgets.footer import Footer
from tui.widgets.iou_table import IoUTable
from tui.widgets.plot import Curve, Plot
from tui.widgets.tabs import ScreenTabs

if TYPE_CHECKING:
    from tui.app import SegtuiApp

READ_S = 0.1
DRAW_S = 0.5
BUDGET_S = 0.02
"""For reading events in one turn; the rest follows in the next, so that keys are answered between."""
LOG_LINES = 2000
NEWS_S = 10.0
"""A warning no older than this is shown above the screen too."""


class RunScreen(Screen[None]):
    """A timer reads events, another draws what has changed twice a second, and only while this screen is in sight."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "stop", "Stop", id="run.stop"),
        Binding("r", "resume", "Resume", id="run.resume"),
        Binding("v", "next_view", "Plot/table/log", id="run.view"),
        Binding("f", "one_plot", "One plot", id="run.one_plot"),
        Binding("b", "checkpoints", "Its checkpoints", id="run.checkpoints"),
        Binding("c", "copy", "Copy path", id="run.copy"),
        Binding("escape", "app.switch_mode('runs')", "Runs", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.followed: Followed | None = None
        self._is_behind = False
        self._forget()

    @property
    def segtui(self) -> SegtuiApp:
        return cast("SegtuiApp", self.app)

    def _forget(self) -> None:
        self.state, self.curves = RunState(), RunCurves()
        self._dirty = True
        self._validations_drawn = -1

    def compose(self) -> ComposeResult:
        yield ScreenTabs()
        yield Static("no run is open: start one in Launch (1) or choose one in Runs (3)", id="headline", classes="note")
        with Horizontal(id="body"):
            with Vertical(id="plots"):
                yield Plot("loss", id="loss")
                yield Plot("mIoU", id="mIoU")
                yield Plot("learning rate", id="rate")
            with Vertical(id="side"):
                yield IoUTable()
                yield RichLog(max_lines=LOG_LINES, wrap=True, id="log")
        yield Footer()

    def on_mount(self) -> None:
        self.add_class("-view-plots")
        self.set_interval(READ_S, self._read)
        self.set_interval(DRAW_S, self._draw)
        self.app.theme_changed_signal.subscribe(self, lambda _: self._all_anew())

    def follow(self, followed: Followed, *, keep: bool = False) -> None:
        """Show this run from its first event on. `keep`: the run in sight goes on, after what it has told."""
        self.followed = followed
        self._is_behind = False
        if keep:
            return
        self._forget()
        if self.is_mounted:
            self.query_one(IoUTable).show((), ())
            self._show_curves()
            self.query_one(RichLog).clear()
            self._read()

    def _show_curves(self) -> None:
        curves = self.curves
        self.query_one("#loss", Plot).show(
            [
                Curve("train", curves.loss, curve_style("raw")),
                Curve("smoothed", curves.smoothed, curve_style("train")),
                Curve("validation", curves.val_loss, curve_style("validation")),
            ]
        )
        self.query_one("#mIoU", Plot).show(
            [
                Curve("train", curves.train_mIoU, curve_style("train")),
                Curve("validation", curves.val_mIoU, curve_style("validation")),
            ]
        )
        self.query_one("#rate", Plot).show([Curve("lr", curves.rate, curve_style("rate"))])

    def _read(self) -> None:
        if not self._is_behind:
            self._read_on()

    def _read_on(self) -> None:
        """Take what is there, for 20 ms at most; the rest of a long history in turns, between which keys are answered."""
        followed, began = self.followed, time.monotonic()
        while followed is not None and not followed.is_over:
            if time.monotonic() - began > BUDGET_S:
                self._is_behind = True
                self.call_later(self._read_on)
                return
            try:
                events = followed.poll(0.0)
            except (RequestError, RunError) as error:
                self.followed = None
                self.query_one("#headline", Static).update(Text(str(error), style=f"bold {style('bad')}"))
                return
            if not events:
                break
            self._take(events)
        if self._is_behind or (followed is not None and followed.is_over):
            self._is_behind = False
            self._draw()

    def _take(self, events: Sequence[AnyEvent]) -> None:
        self._dirty = True
        for some in stretches(events):
            if isinstance(some, list):
                self.curves.add_steps(some)
                self.state.add_steps(some)
                continue
            self.curves.add(some)
            self.state.add(some)
            if isinstance(some, Message):
                at = time.strftime("%H:%M:%S", time.localtime(some.time))
                self.query_one(RichLog).write(Text(f"{at} {some.text}", style=level_style(some.level)))
                if some.level != "info" and self.is_current and time.time() - some.time < NEWS_S:
                    self.notify(some.text, severity="warning", markup=False)  # the log may be out of sight

    def _draw(self) -> None:
        if not self._dirty or not self.is_current or self.followed is None:
            return
        self._dirty = False
        self.sub_title = self.followed.run.path.name if self.followed.run else "starting"
        self.query_one("#headline", Static).update(headline(self.state))
        for plot in self.query(Plot):
            plot.redraw()
        if self.state.started and len(self.state.validations) != self._validations_drawn:
            self._validations_drawn = len(self.state.validations)
            self.query_one(IoUTable).show(self.state.started.classes, self.state.validations)

    def _all_anew(self) -> None:
        """The colours have changed."""
        self._dirty = True
        self._validations_drawn = -1

    def on_screen_resume(self) -> None:
        self._dirty = True
        if not self.query_one("#loss", Plot).curves:
            self._show_curves()
        self._draw()

    def action_next_view(self) -> None:
        """Where there is no room for all: the plots, the table, the log, one at a time; else the table or the log."""
        order = ("-view-plots", "-view-table", "-view-log")
        now = next(name for name in order if self.has_class(name))
        self.remove_class(now)
        self.add_class(order[(order.index(now) + 1) % len(order)])

    def action_one_plot(self) -> None:
        """Each plot on the whole screen in turn, then all of them again."""
        order = ("", *(f"-one-{plot.id}" for plot in self.query(Plot)))
        now = next((name for name in order if name and self.has_class(name)), "")
        following = order[(order.index(now) + 1) % len(order)]
        self.remove_class(*filter(None, order), "-one")
        if following:
            self.add_class("-one", following)
            self.query_one(f"#{following.removeprefix('-one-')}").focus()

    def action_checkpoints(self) -> None:
        if self.followed and self.followed.run:
            self.segtui.browse(self.followed.run)

    def action_stop(self) -> None:
        followed = self.followed
        if followed is None or followed.is_over:
            self.notify("nothing runs here")
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._stop(followed)

        is_debug = self.state.started is not None and self.state.started.toggles.debug
        after = "A debug run keeps nothing to resume from." if is_debug else "It can be resumed."
        if self.state.queued is not None and self.state.started is None:
            self.app.push_screen(Confirm(f"Cancel job {self.state.queued.job}? The run has not begun."), answered)
        else:
            self.app.push_screen(Confirm(f"Stop this run after its step? {after}"), answered)

    @work(thread=True, group="stop", exit_on_error=False)
    def _stop(self, followed: Followed) -> None:
        """Slurm takes its time over what it is asked."""
        try:
            followed.stop()
        except RequestError as error:
            self.app.call_from_thread(self.segtui.tell, error)
            return
        if self.state.queued is None:
            self.app.call_from_thread(self.notify, "stopping after this step")

    def action_resume(self) -> None:
        run = self.followed.run if self.followed else None
        if run is not None:
            self._resume(run)

    @work(thread=True, exclusive=True, group="resume", exit_on_error=False)
    def _resume(self, run: RunFolder) -> None:
        from engine import preset, slurm, slurm_job  # with its schema as long in loading as the rest of this screen
        from engine.launch import Attached
        from engine.worker import Request

        try:
            record = slurm.read(run)
            if record.state in ("running", "queued"):
                raise RequestError(f"{run.path.name} is running")
            check_resumable(run, record)
            table = preset.load(run.preset, environment={}, run_programs=False)
            table = slurm_job.as_job(table) if record.slurm_job else table
            request = Request(table.model_dump(exclude_none=True), record.toggles, run.path.parent.absolute(), resume=run.path.absolute())
            if record.slurm_job:
                slurm_job.submit(request)
                self.app.call_from_thread(self.follow, Attached(run, from_now=True), keep=True)
                return
        except RequestError as error:
            self.app.call_from_thread(self.segtui.tell, error)
            return
        self.app.call_from_thread(self.segtui.start, request)

    def action_copy(self) -> None:
        if self.followed and self.followed.run:
            self.app.copy_to_clipboard(str(self.followed.run.path.absolute()))


def headline(state: RunState) -> Text:
    """mIoU now and best, where the run is and how long it takes; then what it is; then what the machine does."""
    last = state.validations[-1] if state.validations else None
    ended = state.ended
    name = ended.state if ended else "queued" if state.queued else "running" if state.started else "starting"
    text = Text()
    if ended and ended.error:
        text.append(f"{ended.error}\n", style=f"bold {style('bad')}")
    text.append("mIoU ")
    text.append(shown_score(last.mIoU if last else None), style="bold reverse" if last and last.best else "bold")
    if last:
        text.append(f"   best {shown_score(last.best_mIoU)} in epoch {last.best_epoch}", style="bold")
    started = state.started
    if started:
        epoch = min(state.done_steps // max(started.steps_per_epoch, 1) + 1, started.epochs)
        text.append(f"   epoch {epoch}/{started.epochs}  step {state.done_steps}/{state.total_steps}  ")
        if not ended and not state.queued:
            text.append(f"{clock(state.seconds_left)} left  ", style="bold")
    text.append(name if started else f"   {name}", style=f"bold {state_style(name)}")
    if state.queued:
        text.append(f"   {state.queued}", style=style("note"))
    elif state.progress and not ended:
        text.append(f"   {state.progress.task} {state.progress.done}/{state.progress.total}", style=style("note"))
    text.append("\n")
    if started:
        toggles = "" if str(started.toggles) == "none" else f" · {started.toggles}"
        text.append(f"{started.model} · preset {started.preset} · {started.device} {started.precision}{toggles}", style="dim")
    figures = []
    if state.step:
        figures += [
            f"lr {state.step.lr or 0:.2e}",
            f"{state.step.images_per_s or 0:.1f} img/s",
            f"data wait {state.step.data_wait or 0:.0%}",
        ]
    if state.system and not ended:
        figures += [f"cpu {state.system.cpu or 0:.0%}", f"ram {state.system.ram or 0:.0%}"]
        figures += [_told_gpu(number, gpu) for number, gpu in enumerate(state.system.gpu)]
    text.append("\n" + " · ".join(figures), style="dim")
    return text


def _told_gpu(number: int, gpu: Gpu) -> str:
    """Only what the card tells."""
    told = [f"gpu{number}"]
    told += [f"{gpu.util:.0%}"] if gpu.util is not None else []
    told += [f"mem {gpu.memory:.0%}"] if gpu.memory is not None else []
    told += [f"{gpu.temperature:.0f}°C"] if gpu.temperature is not None else []
    told += [f"{gpu.power:.0f} W"] if gpu.power is not None else []
    return " ".join(told)
