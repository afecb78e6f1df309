"""The tables of a comparison: who is compared, the classes side by side, the difference of the presets."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tui.comparing import Compared, Scores, class_scores, mean_scores, preset_differences
from tui.headless_view import shown_change, shown_score
from tui.themes import change_style, state_style, style

VALUE_CELLS = 24
"""The most that a preset's value takes; a longer one goes on in the next line."""


def legend(runs: Sequence[Compared]) -> Text:
    """A line a run: its colour and letter, how it stands, its best."""
    width = max((len(run.folder.path.name) for run in runs), default=0)
    lines = []
    for run in runs:
        line = Text.assemble(("━ ", run.colour), (f"{run.label} ", "bold"), f"{run.folder.path.name:<{width}}  ")
        if not run.was_read:
            lines.append(line.append("reading ...", "dim"))
            continue
        best, record = run.best, run.record
        if run.problem:
            line.append(f"{run.problem}  ", style("bad"))
        elif record:
            line.append(f"{record.state:<8}  ", state_style(record.state))
        if best:
            line.append(f"{shown_score(best.mIoU)}", "bold").append(f" in epoch {best.epoch}")
        else:
            line.append("no validation yet", "dim")
        if record:
            line.append(f"  epoch {record.epoch}/{record.epochs}  {record.model}", "dim")
        lines.append(line)
    return Text("\n").join(lines)


def class_table(runs: Sequence[Compared], *, by_difference: bool) -> RenderableType:
    """IoU of each class at each run's best epoch; from the second run on the difference to the first."""
    title = Text("IoU in the best epoch of each", style="bold")
    if not any(run.best for run in runs):
        return Group(title, Text("no validation yet", style="dim"))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("class" + ("" if by_difference else " ▾"), no_wrap=True)
    for number, run in enumerate(runs):
        table.add_column(Text.assemble(("━ ", run.colour), run.label), justify="right", no_wrap=True)
        if number:
            table.add_column(
                f"{run.label}-{runs[0].label}" + (" ▾" if by_difference and number == 1 else ""), justify="right", no_wrap=True
            )
    table.add_row(*_cells(mean_scores(runs), "bold"))
    for row in class_scores(runs, by_difference=by_difference):
        table.add_row(*_cells(row))
    return Group(title, table)


def _cells(row: Scores, name_style: str = "") -> list[Text]:
    cells = [Text(row.name, style=name_style)]
    for number, value in enumerate(row.values):
        cells.append(Text("" if value is None else shown_score(value), style="bold" if row.is_best(number) else ""))
        if number:
            change = row.difference(number)
            cells.append(Text(shown_change(change), style=change_style(change)))
    return cells


def preset_table(runs: Sequence[Compared]) -> RenderableType:
    """A line a key that differs, a column a run."""
    parts: list[RenderableType] = [Text("what differs in the presets", style="bold")]
    for run in runs:
        if run.preset_problem:
            parts.append(Text(f"{run.label}: {run.preset_problem}", style=style("warning")))
    rows = preset_differences([run.preset for run in runs])
    if not rows:
        alike = sum(run.preset is not None for run in runs)
        parts.append(Text("nothing: they are the same" if alike > 1 else "nothing to compare", style="dim"))
        return Group(*parts)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("key", no_wrap=True)
    for run in runs:
        table.add_column(Text.assemble(("━ ", run.colour), run.label), overflow="fold", max_width=VALUE_CELLS)
    for key, values in rows:
        table.add_row(Text(key), *(Text("-", style="dim") if value is None else Text(value) for value in values))
    return Group(*parts, table)
