"""The headless view, on stderr: live bars and tables on a terminal, plain lines where there is none."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from engine.events import AnyEvent, Message, Queued, RunEnded, RunStarted, Step, Validation
from engine.palette import class_colours
from engine.run import RunFolder
from tui.run_state import RunState, clock
from tui.terminal import Terminal

PLAIN_EVERY_S = 10.0
BAR_CELLS = 12


class TerminalView:
    """Bars at the bottom, everything that stays above them."""

    def __init__(self) -> None:
        self._console = Terminal(stderr=True)
        self._state = RunState()
        self._note = "starting: importing torch and checking preset and data ..."
        self._live = Live(get_renderable=self._bars, console=self._console, refresh_per_second=4, transient=True)
        self._live.start()

    def show(self, events: Sequence[AnyEvent]) -> None:
        for event in events:
            _follow(self._state, event)
            match event:
                case RunStarted():
                    self._note = ""
                    self._console.print(header(self._state))
                case Validation() if self._state.started:
                    self._console.print(validation_table(self._state))
                case Message():
                    self._console.print(Text(f"{event.level}: {event.text}", style="yellow" if event.level == "warning" else ""))

    def note(self, text: str) -> None:
        self._note = text

    def close(self, run: RunFolder | None) -> None:
        self._live.stop()
        if run is not None and self._state.ended is not None:
            self._console.print(*ending(self._state, run), sep="\n", soft_wrap=True)

    def _bars(self) -> RenderableType:
        state = self._state
        lines: list[RenderableType] = [Text(self._note, style="yellow")] if self._note else []
        lines += [Text(str(state.queued), style="yellow")] if state.queued else []
        if state.progress is not None:
            done, total, per_s = state.progress.done, state.progress.total, state.progress.per_s
            left = f"{clock((total - done) / per_s)} left" if per_s else ""
            lines.append(bar(state.progress.task, done, total, left))
        if state.started is not None and state.ended is None and state.queued is None:
            per_epoch, step = state.started.steps_per_epoch, state.done_steps
            epoch = min(step // per_epoch + 1, state.started.epochs) if per_epoch else 0
            in_epoch = step - (epoch - 1) * per_epoch
            lines.append(bar(f"epoch {epoch}/{state.started.epochs}", step, state.total_steps, f"{clock(state.seconds_left)} left"))
            lines.append(bar(f"step {in_epoch}/{per_epoch}", in_epoch, per_epoch, figures(state)))
        return Group(*lines)


class PlainView:
    """Lines for a log file: a step every ten seconds, every validation, warnings and the end."""

    def __init__(self) -> None:
        self._console = Terminal(stderr=True, width=100, color_system=None, force_terminal=False, highlight=False)
        self._state = RunState()
        self._told = 0.0

    def show(self, events: Sequence[AnyEvent]) -> None:
        for event in events:
            _follow(self._state, event)
            match event:
                case RunStarted():
                    self._print(header(self._state))
                case Step() if self._state.started and time.monotonic() - self._told > PLAIN_EVERY_S:
                    self._told = time.monotonic()
                    state = self._state
                    assert state.started is not None
                    place = f"epoch {event.epoch}/{state.started.epochs} step {event.step}/{state.total_steps}"
                    self._print(f"{place} · {figures(state)} · {clock(state.seconds_left)} left")
                case Validation() if self._state.started:
                    self._print(validation_table(self._state))
                case Message():
                    self._print(Text(f"{event.level}: {event.text}"))
                case Queued() if event.says:
                    self._print(Text(str(event)))

    def note(self, text: str) -> None:
        self._print(text)

    def close(self, run: RunFolder | None) -> None:
        if run is not None and self._state.ended is not None:
            for line in ending(self._state, run):
                self._print(line)

    def _print(self, what: RenderableType) -> None:
        self._console.print(what, soft_wrap=not isinstance(what, (Table, Panel)))
        sys.stderr.flush()


def _follow(state: RunState, event: AnyEvent) -> None:
    """Of the thousands of epochs of a long run these views show the last, and how it differs from the one before."""
    state.add(event)
    del state.epochs[:-1], state.validations[:-2]


def header(state: RunState) -> RenderableType:
    """What runs, on what, with which toggles."""
    started = state.started
    assert started is not None
    grid = Table.grid(padding=(0, 2))
    weights = started.encoder_weights or "from scratch"
    rows = [
        ("model", f"{started.model}  ({started.parameters / 1e6:.1f} M parameters, encoder {weights})"),
        ("data", f"{started.images.train} training and {started.images.val} validation images, {len(started.classes)} classes"),
        ("device", f"{started.device}, {started.precision}"),
        ("toggles", str(started.toggles)),
    ]
    rows += [("resumed", f"after step {started.resumed_step}")] if started.resumed_step else []
    for name, value in rows:
        grid.add_row(Text(name, style="dim"), Text(value))
    return Panel(grid, title=Text(f"{started.run}  ·  preset {started.preset}"), title_align="left", box=box.ROUNDED, expand=False)


def figures(state: RunState) -> str:
    """The numbers of the last step."""
    if state.step is None:
        return "waiting for the first step"
    step = state.step
    loss = "not finite" if step.loss is None else f"{step.loss:.4f}"
    return f"loss {loss} · lr {step.lr or 0:.2e} · {step.images_per_s or 0:.1f} img/s · data wait {step.data_wait or 0:.0%}"


def validation_table(state: RunState) -> Table:
    """IoU, its change, accuracy and support of each class; the mean says how many classes it is over."""
    assert state.started is not None
    last = state.validations[-1]
    classes = state.started.classes
    pixels = max(sum(last.support), 1)
    mean_change = (
        last.mIoU - state.validations[-2].mIoU
        if len(state.validations) > 1 and last.mIoU is not None and state.validations[-2].mIoU is not None
        else None
    )
    best = (
        Text("  best so far", style="bold green")
        if last.best
        else Text(f"  best {shown_score(last.best_mIoU)} in epoch {last.best_epoch}", style="dim")
    )
    title = Text.assemble(
        f"epoch {last.epoch}   ", ("mIoU ", "bold"), (shown_score(last.mIoU), "bold"), f" {shown_change(mean_change)}", best
    )
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("class", overflow="ellipsis", no_wrap=True)
    for name in ("IoU", "change", "accuracy", "pixels"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for index, (name, colour) in enumerate(zip(classes, class_colours(classes), strict=True)):
        iou, change = last.IoU[index], state.change(index)
        style = "rgb({},{},{})".format(*colour)
        table.add_row(
            Text.assemble(("■ ", style), name),
            Text(shown_score(iou) if iou is not None else "not seen", style="" if iou is not None else "dim"),
            Text(shown_change(change), style="green" if (change or 0) > 0 else "red" if (change or 0) < 0 else "dim"),
            shown_score(last.class_acc[index]),
            f"{last.support[index] / pixels:.1%}",
            Text("█" * round(min(iou or 0, 1) * BAR_CELLS), style=style),
        )
    seen = sum(value is not None for value in last.IoU)
    overall = f"loss {shown_score(last.loss)} · pixel accuracy {shown_score(last.acc)} · fw IoU {shown_score(last.fwavacc)}"
    table.caption = f"mean over {seen} of {len(classes)} classes\n{overall}"
    table.caption_justify = "left"
    return table


def ending(state: RunState, run: RunFolder) -> list[Text]:
    """How it ended, where things lie, and the next command to type."""
    ended = state.ended
    assert ended is not None
    folder = shown_path(run.path)
    colour = {"finished": "bold green", "stopped": "bold yellow"}.get(ended.state, "bold red")
    lines = [Text.assemble((ended.state, colour), f": {ended.error}" if ended.error else "")]
    if state.validations:
        last = state.validations[-1]
        lines.append(Text(f"best mIoU   {shown_score(last.best_mIoU)} in epoch {last.best_epoch}"))
    if "best" in state.checkpoints:
        lines.append(Text(f"checkpoint  {shown_path(Path(state.checkpoints['best'].path))}"))
    lines.append(Text(f"run         {folder}"))
    lines.append(Text(f"next        {_next_command(ended, run)}"))
    return lines


def _next_command(ended: RunEnded, run: RunFolder) -> str:
    quoted = shlex.quote(shown_path(run.path))
    default = run.path.parent.absolute() == Path("runs").absolute()
    if ended.state == "finished":
        return "segtui checkpoints" + ("" if default else f" --runs {shlex.quote(shown_path(run.path.parent))}")
    if run.resume.exists():
        return f"segtui --headless --resume {quoted}"
    return f"less {shlex.quote(shown_path(run.log))}"


def shown_path(path: Path) -> str:
    """Relative to the working folder where that is shorter."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def bar(name: str, done: int, total: int, text: str) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_row(Text(f"{name:<14}"), ProgressBar(total=max(total, 1), completed=done, width=24), Text(text, style="dim"))
    return grid


def shown_score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def shown_change(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"
