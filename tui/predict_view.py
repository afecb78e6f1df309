"""What a prediction tells: bars with the time left on stderr, tables of scores on stdout, files and the next command."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from engine.events import AnyEvent, Message, Number, PredictionStarted, PredictionWritten, Progress, RunEnded, Validation
from engine.palette import class_colours
from engine.prediction_record import PredictionRecord, Scored
from engine.run import RunFolder
from engine.visible import visible
from tui.headless_view import BAR_CELLS, bar, shown_change, shown_path, shown_score
from tui.listings import duration
from tui.run_state import clock
from tui.terminal import Terminal
from tui.themes import change_style, level_style, state_style, style

Score = Validation | Scored
PLAIN_EVERY_S = 10.0
MOST_SHOWN = 8


class PredictView:
    """Bars where stderr is a terminal, a line every ten seconds where it is none."""

    def __init__(self, *, live: bool) -> None:
        self._console = Terminal(stderr=True) if live else Terminal(stderr=True, width=100, force_terminal=False, highlight=False)
        self._note = "starting: checking checkpoints and data ..."
        self._started: PredictionStarted | None = None
        self._progress: Progress | None = None
        self._scores: list[Validation] = []
        self._written: PredictionWritten | None = None
        self._ended: RunEnded | None = None
        self._told = time.monotonic()
        self._live = Live(get_renderable=self._bars, console=self._console, refresh_per_second=4, transient=True) if live else None
        if self._live:
            self._live.start()

    def show(self, events: Sequence[AnyEvent]) -> None:
        for event in events:
            match event:
                case PredictionStarted():
                    self._started, self._note = event, ""
                    if event.views:
                        self._console.print(header(event))
                case Progress():
                    self._progress, self._note = event, ""
                    self._tell_progress()
                case Message():
                    self._console.print(Text(f"{event.level}: {event.text}", style=level_style(event.level)), soft_wrap=True)
                case Validation():
                    self._scores.append(event)
                case PredictionWritten():
                    self._written = event
                case RunEnded():
                    self._ended = event

    def note(self, text: str) -> None:
        self._note = text
        if self._live is None:
            self._console.print(Text(text))

    def close(self, run: RunFolder | None) -> None:  # noqa: ARG002  where the result lies is in its events
        if self._live:
            self._live.stop()
        if self._ended is None:
            return
        if self._scores and self._started and self._ended.state == "finished":
            print_scores(self._started, self._scores)
        for line in ending(self._ended, self._written):
            self._console.print(line, soft_wrap=True)

    def _tell_progress(self) -> None:
        if self._live is None and self._progress and time.monotonic() - self._told > PLAIN_EVERY_S:
            self._told = time.monotonic()
            self._console.print(Text(f"{self._progress.task} {self._progress.done}/{self._progress.total} · {left(self._progress)}"))

    def _bars(self) -> RenderableType:
        lines: list[RenderableType] = [Text(self._note, style=style("warning"))] if self._note else []
        if self._progress is not None:
            lines.append(bar(self._progress.task, self._progress.done, self._progress.total, left(self._progress)))
        return Group(*lines)


def header(started: PredictionStarted) -> RenderableType:
    """What predicts what, and how."""
    grid = Table.grid(padding=(0, 2))
    weights = [f"  × {weight:.3g}" if len(started.weights) > 1 else "" for weight in started.weights]
    members = [f"{name}{weight}" for name, weight in zip(started.members, weights, strict=True)]
    vote = {"soft": "soft vote of ", "hard": "hard vote of "}.get(started.mode, "")
    named = f"{vote}{members[0]}" if len(members) == 1 else vote + "\n".join([f"{len(members)} members", *members])
    grid.add_row(Text("network" if len(members) == 1 else "networks", style="dim"), Text(named))
    scored = "with ground truth" if started.scored else "without ground truth"
    grid.add_row(Text("images", style="dim"), Text(f"{started.images} {scored}, {len(started.classes)} classes"))
    if len(started.views) > 1 or started.views != ["identity"]:
        more = f" and {len(started.views) - MOST_SHOWN} more" if len(started.views) > MOST_SHOWN else ""
        shown = f"{', '.join(started.views[:MOST_SHOWN])}{more}"
        grid.add_row(Text("views", style="dim"), Text(f"{len(started.views)}, as {started.passes:.3g} plain passes an image: {shown}"))
    grid.add_row(Text("device", style="dim"), Text(f"{started.device}, {started.precision}"))
    return Panel(grid, title=Text(started.name), title_align="left", box=box.ROUNDED, expand=False)


def print_scores(started: PredictionStarted, scores: Sequence[Validation]) -> None:
    """Tables on a terminal; columns with tabs between, never cut, where another program reads them."""
    if sys.stdout.isatty():
        console = Terminal()
        if len(scores) > 1:
            console.print(summary_table(scores))
        console.print(class_table(started.classes, started.members, scores))
        return
    names = [visible(each.name) for each in scores]
    print("\t".join(["class", *names, "accuracy", "pixels"]))
    for index, name in enumerate(started.classes):
        cells = [shown_score(each.IoU[index]) for each in scores]
        print("\t".join([visible(name), *cells, shown_score(scores[-1].class_acc[index]), str(scores[-1].support[index])]))
    print("\t".join(["mIoU", *(shown_score(each.mIoU) for each in scores), shown_score(scores[-1].mean_acc), str(sum(scores[-1].support))]))


def summary_table(scores: Sequence[Score]) -> Table:
    """One row for each way to predict; the result is the last."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    for name in ("mIoU", "result's gain", "pixel accuracy", "fw IoU"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in scores:
        is_result = each is scores[-1]
        gain = None if is_result else _difference(scores[-1].mIoU, each.mIoU)
        cells = [shown_score(each.mIoU), shown_change(gain), shown_score(each.acc), shown_score(each.fwavacc)]
        table.add_row(*(Text(cell, style="bold" if is_result else "") for cell in [each.name, *cells]))
    return table


def class_table(classes: list[str], members: Sequence[str], scores: Sequence[Score]) -> Table:
    """The result's IoU of each class, and its gain over the plain images and over the best member."""
    result = scores[-1]
    pixels = max(sum(result.support), 1)
    references = _references(members, scores)
    title = Text.assemble(f"{result.name}   ", ("mIoU ", "bold"), (shown_score(result.mIoU), "bold"))
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("class", overflow="ellipsis", no_wrap=True)
    for name in ("IoU", *(f"vs {name}" for name, _ in references), "accuracy", "pixels"):
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("", no_wrap=True, overflow="crop")
    cells = BAR_CELLS if len(references) < 2 else BAR_CELLS * 2 // 3
    for index, (name, colour) in enumerate(zip(classes, class_colours(classes), strict=True)):
        iou = result.IoU[index]
        tone = "rgb({},{},{})".format(*colour)
        gains = [_difference(iou, reference.IoU[index]) for _, reference in references]
        table.add_row(
            Text.assemble(("■ ", tone), name),
            Text(shown_score(iou) if iou is not None else "not seen", style="" if iou is not None else "dim"),
            *(Text(shown_change(gain), style=change_style(gain)) for gain in gains),
            shown_score(result.class_acc[index]),
            f"{result.support[index] / pixels:.1%}",
            Text("█" * round(min(iou or 0, 1) * cells), style=tone),
        )
    seen = sum(value is not None for value in result.IoU)
    overall = (
        f"pixel accuracy {shown_score(result.acc)} · mean accuracy {shown_score(result.mean_acc)} · fw IoU {shown_score(result.fwavacc)}"
    )
    table.caption = f"mean over {seen} of {len(classes)} classes\n{overall}"
    table.caption_justify = "left"
    return table


def ending(ended: RunEnded, written: PredictionWritten | None) -> list[Text]:
    """How it ended, what it cost, and where things lie."""
    lines = [Text.assemble((ended.state, f"bold {state_style(ended.state)}"), f": {ended.error}" if ended.error else "")]
    if ended.state != "finished" or written is None:
        return lines
    return lines + cost_and_files(written)


def cost_and_files(written: PredictionWritten | PredictionRecord) -> list[Text]:
    lines = []
    if written.ms_per_image is not None:
        cost = f"{written.ms_per_image:.1f} ms an image"
        if written.plain_ms_per_image:
            cost += f"; the plain images {written.plain_ms_per_image:.1f} ms: {written.ms_per_image / written.plain_ms_per_image:.1f} times"
        lines.append(Text(f"{'networks':<14} {cost}"))
    return lines + [Text(f"{kind:<14} {shown_path(Path(path))}") for kind, path in written.files.items()]


def told_result(folder: Path, record: PredictionRecord) -> list[RenderableType]:
    """A result as it was recorded: what it is of, its tables, what it cost, and where things lie."""
    age = duration(time.time() - record.created)
    title = Text.assemble((record.name, "bold"), f"  {split_of(record)}, {record.images} images, {age} ago", ("   m masks", "dim"))
    vote = {"soft": "soft vote of ", "hard": "hard vote of "}.get(record.mode, "")
    weighed = [f"{each.name} × {each.weight:.3g}" if len(record.members) > 1 else each.name for each in record.members]
    parts: list[RenderableType] = [title, Text(f"{vote}{', '.join(weighed)}", style="dim")]
    if len(record.views) > 1:
        parts.append(Text(f"{len(record.views)} views, as {record.passes:.3g} plain passes: {', '.join(record.views)}", style="dim"))
    if record.window:
        parts.append(Text(f"in windows of {record.window} pixels", style="dim"))
    parts += [summary_table(record.scores)] if len(record.scores) > 1 else []
    if record.scores:
        parts.append(class_table(record.classes, [each.name for each in record.members], record.scores))
    else:
        parts.append(Text("\nwithout ground truth there is nothing to score\n", style="dim"))
    return [*parts, *cost_and_files(record), Text(f"{'folder':<14} {shown_path(folder)}")]


def split_of(record: PredictionRecord) -> str:
    """`val` and so on; the folder's name where a folder of images was predicted."""
    return Path(record.source).name.removesuffix(".json")


def _references(members: Sequence[str], scores: Sequence[Score]) -> list[tuple[str, Score]]:
    alone = [each for each in scores[:-1] if each.name in members]
    plain = [each for each in scores[:-1] if each.name not in members]
    found = [("plain", plain[0])] if plain else []
    if alone:
        found.append(("best member", max(alone, key=lambda each: each.mIoU or 0.0)))
    return found


def _difference(one: Number, other: Number) -> Number:
    return None if one is None or other is None else one - other


def left(progress: Progress) -> str:
    if not progress.per_s or not progress.done:
        return ""
    return f"{progress.per_s:.1f}/s · {clock((progress.total - progress.done) / progress.per_s)} left"
