"""The queue while it is followed: a table that changes on a terminal, a line for each change where there is none, or json."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Protocol

from rich.live import Live
from rich.table import Table
from rich.text import Text

from engine.visible import visible
from tui.listings import print_json
from tui.queue_rows import HEAD, Shown
from tui.terminal import Terminal

STYLES = {"running": "bold", "starting": "bold", "finished": "green", "failed": "bold red", "lost": "bold red", "stopped": "yellow"}


class QueueView(Protocol):
    """Shows the entries as they are now."""

    def show(self, entries: Sequence[Shown]) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...


def queue_view(as_json: bool) -> QueueView:
    if as_json:
        return JsonQueueView()
    return TerminalQueueView() if sys.stderr.isatty() else PlainQueueView()


class TerminalQueueView:
    def __init__(self) -> None:
        self._console = Terminal(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False)
        self._live.start()

    def show(self, entries: Sequence[Shown]) -> None:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for name in HEAD:
            table.add_column(
                name, overflow="ellipsis", no_wrap=True, justify="right" if name in ("id", "epoch", "best mIoU", "time") else "left"
            )
        for each in entries:
            table.add_row(*(Text(visible(cell)) for cell in each.cells()), style=STYLES.get(each.state, ""))
        self._live.update(table, refresh=True)

    def note(self, text: str) -> None:
        self._console.print(Text(text, style="dim"))

    def close(self) -> None:
        self._live.stop()


class PlainQueueView:
    def __init__(self) -> None:
        self._told: dict[int, tuple[str, ...]] = {}

    def show(self, entries: Sequence[Shown]) -> None:
        for each in entries:
            cells = each.cells()
            without_time = tuple(cell for name, cell in zip(HEAD, cells, strict=True) if name != "time")
            if self._told.get(each.entry.id) != without_time:
                self._told[each.entry.id] = without_time
                self.note("  ".join(cell for cell in cells if cell))

    def note(self, text: str) -> None:
        print(visible(text), file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class JsonQueueView:
    """An entry a line on stdout, whenever something of it has changed."""

    def __init__(self) -> None:
        self._told: dict[int, dict[str, Any]] = {}

    def show(self, entries: Sequence[Shown]) -> None:
        rows = {each.entry.id: each.plain() for each in entries}
        print_json(row for number, row in rows.items() if self._told.get(number) != row)
        self._told = rows

    def note(self, text: str) -> None:
        print(visible(text), file=sys.stderr)

    def close(self) -> None:
        pass
