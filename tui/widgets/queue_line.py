"""The queue above the list of runs: how much waits, and the rows of what has no run yet; what can be done to those."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.text import Text
from textual import work
from textual.message import Message
from textual.widgets import Static

from engine.box_queue import BoxQueue, Entry, Where
from engine.errors import RequestError, RunError
from tui.listings import duration
from tui.screens.confirm import Confirm
from tui.themes import state_style, style
from tui.widgets.listing import Cell


@dataclass(frozen=True)
class QueueRows:
    """Those without a run, by the keys of their rows, in their order. `text` sums the queue up; nothing where it is over."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    text: str = ""
    is_worked_on: bool = True

    def searched(self, key: str) -> str:
        """What the filter looks into."""
        entry = self.entries[key]
        return f"{entry.name} {_state(entry)} {entry.preset.get('name', '')} {entry.toggles}"

    def cells(self, key: str) -> tuple[Cell, ...]:
        """As those of a run, after its mark: its place stands where a run's score is, why it failed where the curve is."""
        entry = self.entries[key]
        waiting = [each for each in self.entries if self.entries[each].state == "queued"]
        epochs = entry.preset.get("train", {}).get("epochs", "")
        return (
            (entry.name, ""),
            (_state(entry), state_style(entry.state)),
            (f"#{waiting.index(key) + 1}" if key in waiting else "", "dim"),
            ("", ""),
            ((entry.error or "").partition("\n")[0], style("bad")),
            (f"0/{epochs}" if epochs else "", "dim"),
            (str(entry.preset.get("name", "")), ""),
            ("" if str(entry.toggles) == "none" else str(entry.toggles), ""),
            ("", ""),
            (duration(time.time() - entry.asked), "dim"),
        )


def read_queue(runs: Path) -> QueueRows:
    """Files are read: not for the thread of the screens."""
    queue = BoxQueue(runs)
    try:
        state = queue.read()
    except RequestError as error:
        return QueueRows(text=str(error), is_worked_on=False)
    entries = {f"queue:{entry.id}": entry for entry in state.entries if entry.run is None and entry.state not in ("cancelled", "stopped")}
    if state.is_over:
        return QueueRows(entries)
    text = f"queue: {sum(entry.state == 'running' for entry in state.entries)} running, {len(state.waiting)} waiting"
    if queue.is_worked_on:
        return QueueRows(entries, text)
    return QueueRows(entries, f"{text}. It stands still" + (": enter on a waiting one goes on" if entries else ""), is_worked_on=False)


class QueueLine(Static):
    """Nothing while the queue is empty."""

    class Changed(Message):
        """The queue was changed from here."""

    DEFAULT_CSS = "QueueLine { display: none; height: auto; padding: 0 1; }"

    def __init__(self, runs: Callable[[], Path]) -> None:
        super().__init__()
        self._runs = runs
        self.rows = QueueRows()

    def show(self, rows: QueueRows) -> None:
        self.rows = rows
        self.display = bool(rows.text)
        self.update(Text(rows.text, style="dim" if rows.is_worked_on else style("warning")))

    def open(self, key: str) -> None:
        """Say what it waits for, or go on with a queue that nobody works on."""
        entry = self.rows.entries[key]
        if entry.state in ("queued", "running") and not self.rows.is_worked_on:
            self._change(lambda queue: queue.start())
        elif entry.state == "queued":
            self.notify(f"{entry.name} waits for its turn", markup=False)
        elif entry.state == "running":
            self.notify(f"{entry.name} is starting: preset and data are checked", markup=False)
        else:
            self.notify(entry.error or "it ended before its run began", title=f"{entry.name} did not start", severity="error", markup=False)

    def move(self, key: str, where: Where) -> None:
        number = self.rows.entries[key].id
        self._change(lambda queue: queue.move(number, where))

    def remove_row(self, key: str) -> None:
        """Cancel one that waits, forget one that never ran; once that is confirmed."""
        entry = self.rows.entries[key]

        def answered(yes: bool | None) -> None:
            if yes:
                self._change(lambda queue: queue.cancel(entry.id) if entry.state == "queued" else queue.forget(entry.id))

        if entry.state == "running":
            self.notify(f"{entry.name} is starting: stop it once it runs", severity="warning", markup=False)
        elif entry.state == "queued":
            self.app.push_screen(Confirm(f"Take {entry.name} ({entry.preset.get('name', '')}) out of the queue?"), answered)
        else:
            self.app.push_screen(Confirm(f"Forget {entry.name}? It never ran: {entry.error}"), answered)

    @work(thread=True, group="queue", exit_on_error=False)
    def _change(self, change: Callable[[BoxQueue], None]) -> None:
        try:
            change(BoxQueue(self._runs()))
        except (RequestError, RunError) as error:
            self.app.call_from_thread(self.notify, str(error), severity="error", markup=False)
        self.post_message(self.Changed())


def _state(entry: Entry) -> str:
    return "starting" if entry.state == "running" else entry.state
