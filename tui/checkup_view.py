"""What the doctor found, beside the form: data, balance of the classes, machine, and what is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from engine.checkup import Report
from engine.palette import class_colours
from tui.themes import level_style, style

BAR_CELLS = 6
MARKS = {"error": "✗", "warning": "!", "note": "·"}


def report_view(report: Report) -> RenderableType:
    """What is wrong first."""
    wrong = _findings(report, ("error", "warning"))
    parts: list[RenderableType] = [*([wrong] if wrong else []), _figures(report)]
    if any(report.pixels.values()):
        parts += [Text(), _balance(report)]
    return Group(*parts, Text(), _findings(report, ("note",)))


def _figures(report: Report) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    images = " · ".join(f"{count} {split}" for split, count in report.images.items() if count is not None)
    figures = {"images": images}
    if report.image_size:
        height, width = report.image_size
        figures["size"] = f"{height}x{width}" + _range(report)
    if report.steps_per_epoch and report.steps:
        figures["steps"] = f"{report.steps_per_epoch} an epoch of batches of {report.batch_size}, {report.steps} in all"
    figures["device"] = f"{report.device}, {report.precision}" if report.device else ""
    figures["W&B"] = report.wandb
    for name, text in figures.items():
        if text:
            table.add_row(name, Text(text))
    return table


def _range(report: Report) -> str:
    if report.sizes is None or report.sizes[0] == report.sizes[1] == report.image_size:
        return ""
    (low, narrow), (high, wide) = report.sizes
    return f"; files {low}x{narrow}" + (f" to {high}x{wide}" if (low, narrow) != (high, wide) else "")


def _balance(report: Report) -> Table:
    """Each class's share of the labelled pixels, and in how many training images it is."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), expand=True)
    table.add_column("class", ratio=1, no_wrap=True, overflow="ellipsis", min_width=10)
    table.add_column("", width=BAR_CELLS)
    table.add_column("train", justify="right", no_wrap=True)
    table.add_column("images", justify="right", no_wrap=True)
    table.add_column("val", justify="right", no_wrap=True)
    train, val = (_shares(report.pixels.get(split, []), len(report.classes)) for split in ("train", "val"))
    images = report.images_with.get("train", [])
    most = max(train, default=0.0) or 1.0
    for index, (name, colour) in enumerate(zip(report.classes, class_colours(report.classes), strict=True)):
        paint = "rgb({},{},{})".format(*colour)
        table.add_row(
            Text.assemble(("■ ", paint), name),
            Text("█" * (max(round(train[index] / most * BAR_CELLS), 1) if train[index] else 0), style=paint),
            _percent(train[index]),
            str(images[index]) if index < len(images) else "",
            _percent(val[index]),
        )
    return table


def _percent(share: float) -> Text:
    if share == 0:
        return Text("none", style=style("warning"))
    return Text(f"{share:.1%}" if share >= 0.001 else "<0.1%")


def _shares(pixels: Sequence[int], classes: int) -> list[float]:
    total = sum(pixels)
    return [count / total for count in pixels] if total else [0.0] * classes


def _findings(report: Report, levels: Sequence[str]) -> Text:
    text = Text()
    for finding in report.findings:
        if finding.level in levels:
            text.append(f"{MARKS[finding.level]} {finding.about}: ", style=level_style(finding.level) or "dim")
            text.append(f"{finding.text}\n")
    return text
