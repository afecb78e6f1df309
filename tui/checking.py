"""`segtui check`: the doctor's report as text or json on stdout, its progress on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.live import Live
from rich.table import Table
from rich.text import Text

from engine import catalogue, preset
from engine.checkup import Checkup, CheckupRequest, Finding, Report, encode
from engine.errors import EXIT_DONE, EXIT_REQUEST
from engine.events import Progress, Toggles
from engine.palette import class_colours
from engine.schema import Preset
from engine.visible import visible
from tui.headless_view import bar
from tui.run_state import clock
from tui.terminal import Terminal

QUIET_S = 2.0
"""What is quicker than this shows no bar."""
BAR_CELLS = 10
GIB = 2**30
MARKS = {"error": ("✗", "bold red"), "warning": ("!", "bold yellow"), "note": ("·", "dim")}


def check(name: str, overrides: Sequence[str], runs: Path, *, debug: bool, private: bool, full: bool, as_json: bool) -> int:
    """Returns 0, or 2 where a launch would be refused. Raises RequestError for what is wrong with the preset itself."""
    if not catalogue.is_cached():
        print("reading what torch, segmentation-models-pytorch and albumentations offer (once per version) ...", file=sys.stderr)
    table = preset.load(name, overrides)
    toggles = Toggles(debug=debug, private=private)
    report = _follow(Checkup(CheckupRequest(table.model_dump(exclude_none=True), toggles, str(runs.absolute()), full)))
    if as_json:
        sys.stdout.buffer.write(encode(report) + b"\n")
        sys.stdout.flush()
    else:
        _print(report, table, toggles)
    return EXIT_REQUEST if report.is_refused else EXIT_DONE


def _follow(checkup: Checkup) -> Report:
    console, began = Terminal(stderr=True), time.monotonic()
    with ExitStack() as ending:
        ending.callback(checkup.stop)
        live: Live | None = None
        for answer in checkup:
            if isinstance(answer, Report):
                return answer
            if live is None and console.is_terminal and time.monotonic() - began > QUIET_S:
                live = ending.enter_context(Live(console=console, refresh_per_second=4, transient=True))
            if live is not None:
                live.update(_bar(answer))
    raise AssertionError("a checkup that was not stopped ends with a report or an exception")


def _bar(progress: Progress) -> Table:
    left = f"{clock((progress.total - progress.done) / progress.per_s)} left" if progress.per_s else ""
    grid = Table.grid()
    grid.add_row(bar(progress.task, progress.done, progress.total, f"{progress.done}/{progress.total} {left}"))
    return grid


def _print(report: Report, table: Preset, toggles: Toggles) -> None:
    is_terminal = sys.stdout.isatty()
    console = Terminal(highlight=False) if is_terminal else Terminal(width=100, color_system=None, force_terminal=False, highlight=False)
    _print_rows(console, [(Text(f"{name:<8}", "dim"), Text(visible(value))) for name, value in _summary(report, table, toggles)])
    if any(report.pixels.values()):
        console.print()
        console.print(class_table(report))
    if report.inputs:
        console.print()
        console.print(_inputs_table(report))
    console.print()
    _print_rows(console, [finding_texts(finding) for finding in report.findings])
    console.print(verdict(report), soft_wrap=True)


def _print_rows(console: Terminal, rows: list[tuple[Text, Text]]) -> None:
    """Two columns on a terminal; for another program a line each, however long."""
    if not console.is_terminal:
        for left, right in rows:
            console.print(Text.assemble(left, " ", right), soft_wrap=True)
    elif rows:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for row in rows:
            grid.add_row(*row)
        console.print(grid)


def _summary(report: Report, table: Preset, toggles: Toggles) -> list[tuple[str, str]]:
    """What is known, a line each."""
    subset = ", the debug subset" if toggles.debug else ""
    images = " · ".join(f"{count:,} {name}" for name, count in report.images.items() if count is not None)
    rows = [("preset", table.name), ("data", f"{table.data.root}  {images + ' images' if images else ''}{subset}")]
    if report.sizes is not None:
        smallest, largest = (f"{height}x{width}" for height, width in report.sizes)
        files = smallest if smallest == largest else f"{smallest} to {largest}"
        fit = {"crop": "in crops of", "resize": "scaled to"}[table.data.fit]
        seen = ", {} {}x{}".format(fit, *report.image_size) if report.image_size and report.image_size != report.sizes[0] else ""
        rows.append(("images", f"{files} (height x width){seen}"))
    size = f", {report.parameters / 1e6:.1f} M parameters" if report.parameters else ""
    rows.append(("network", table.run_name + size))
    if report.steps is not None:
        steps = f"{report.epochs} epochs of {report.steps_per_epoch} steps with {report.batch_size} images: {report.steps:,} steps"
        rows.append(("training", steps))
    rows.append(("device", f"{report.device}, {report.precision}"))
    if report.checkpoint_bytes:
        about = "about" if report.parameters else "very roughly"
        rows.append(("disk", f"{about} {report.checkpoint_bytes / GIB:.1f} GiB of checkpoints"))
    return [*rows, ("W&B", report.wandb)]


def class_table(report: Report) -> Table:
    """By class the share of the labelled pixels, as a bar too, and the images that have it, in train and val."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("class", overflow="ellipsis", no_wrap=True)
    splits = [name for name in ("train", "val") if report.pixels.get(name)]
    for name in splits:
        table.add_column(f"{name} pixels", justify="right", no_wrap=True, min_width=len(f"{name} pixels"))
        table.add_column("", no_wrap=True, width=BAR_CELLS)
        table.add_column("images", justify="right", no_wrap=True, min_width=len("images"))
    totals = {name: max(sum(report.pixels[name]), 1) for name in splits}
    largest = max((count / totals[name] for name in splits for count in report.pixels[name]), default=1.0) or 1.0
    for index, (label, colour) in enumerate(zip(report.classes, class_colours(report.classes), strict=True)):
        style = "rgb({},{},{})".format(*colour)
        cells = [Text.assemble(("■ ", style), visible(label))]
        for name in splits:
            share = report.pixels[name][index] / totals[name]
            cells.append(Text(f"{share:.2%}" if share else "none", style="" if share else "bold yellow"))
            cells.append(Text("█" * max(round(share / largest * BAR_CELLS), 1 if share else 0), style=style))
            cells.append(Text(f"{report.images_with[name][index]:,}"))
        table.add_row(*cells)
    if any(report.unlabelled.values()):
        cells = [Text("unlabelled", style="dim")]
        for name in splits:
            share = report.unlabelled[name] / (totals[name] + report.unlabelled[name])
            cells += [Text(f"{share:.2%}", style="dim"), Text("of all", style="dim"), Text("")]
        table.add_row(*cells)
    return table


def _inputs_table(report: Report) -> Table:
    """What the network gets: by split, of each channel."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("network sees", "mean of R, G, B", "std of R, G, B", "min", "max"):
        table.add_column(name, no_wrap=True)
    for split, seen in report.inputs.items():
        means, stds = ("  ".join(f"{value:5.2f}" for value in values) for values in (seen.mean, seen.std))
        table.add_row(split, means, stds, f"{seen.min:.2f}", f"{seen.max:.2f}")
    return table


def finding_texts(finding: Finding) -> tuple[Text, Text]:
    """Its level, and what it says."""
    mark, style = MARKS[finding.level]
    return Text(f"{mark} {finding.level:<7}", style), Text.assemble((f"{finding.about}: ", "bold"), visible(finding.text))


def verdict(report: Report) -> Text:
    """One line: whether a launch would be refused, and how much was found."""
    counts = {level: sum(finding.level == level for finding in report.findings) for level in MARKS}
    told = ", ".join(f"{count} {level}{'s' * (count > 1)}" for level, count in counts.items() if count and level != "note")
    took = f" ({report.seconds:.1f} s)"
    if report.is_refused:
        return Text.assemble(("a launch would be refused", "bold red"), f": {told}{took}")
    if told:
        return Text.assemble(("can be launched", "bold yellow"), f": {told}{took}")
    return Text.assemble(("nothing wrong", "bold green"), took)
