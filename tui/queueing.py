"""`segtui --headless A.toml B.toml` and `segtui queue`: queue runs, follow them, list and change what waits."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.box_queue import BoxQueue, Entry, Where
from engine.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, RequestError, RunError
from engine.events import Toggles
from engine.visible import visible
from tui import listings
from tui.queue_rows import HEAD, Shown, shown

if TYPE_CHECKING:
    from engine.launch import Attached
    from engine.schema import Preset
    from tui.run_state import RunState

POLL_S = 0.5


def queue_up(names: Sequence[str], overrides: Sequence[str], runs: Path, toggles: Toggles, devices: int, *, as_json: bool) -> int:
    """Queue a run of every preset and follow them; nothing is queued where one of the presets has a mistake."""
    from engine import catalogue
    from engine.box_devices import devices as devices_here

    if not catalogue.is_cached():
        print("reading what torch, segmentation-models-pytorch and albumentations offer (once per version) ...", file=sys.stderr)
    presets = resolved([(name, overrides) for name in names])
    here = devices_here()
    if not 1 <= devices <= len(here):
        raise RequestError(f"--devices-per-run {devices}: this box has {len(here)} ({', '.join(here)})")
    queue = BoxQueue(runs)
    return _follow(queue, queue.append(presets, toggles, devices), as_json=as_json)


def resolved(asked: Sequence[tuple[str | Path, Sequence[str]]], *, run_programs: bool = True) -> list[Preset]:
    """Presets by file or name, each with its overrides. Raises RequestError with the mistakes of all of them."""
    from engine import preset

    presets, problems = [], []
    for name, overrides in asked:
        try:
            presets.append(preset.load(name, overrides, run_programs=run_programs))
        except RequestError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise RequestError(problems)
    return presets


def listing(runs: Path, *, as_json: bool) -> int:
    """In the order in which they were asked for and moved. Whether somebody works on it is told on stderr."""
    queue = BoxQueue(runs)
    state = queue.read()
    found = shown(state.entries, queue.runs)
    if as_json:
        listings.print_json([each.plain() for each in found])
    elif not found:
        return listings.nothing(runs, "nothing is queued: `segtui --headless A.toml B.toml` queues runs")
    else:
        listings.table(HEAD, [each.cells() for each in found])
    if not state.is_over and not queue.is_worked_on:
        print(f"nobody works on this queue: `{command(queue, 'start')}` goes on with it", file=sys.stderr)
    return EXIT_DONE


def start(runs: Path, *, as_json: bool) -> int:
    BoxQueue(runs).start(take_over=True)
    return listing(runs, as_json=as_json)


def move(number: int, where: Where, runs: Path, *, as_json: bool) -> int:
    BoxQueue(runs).move(number, where)
    return listing(runs, as_json=as_json)


def cancel(numbers: Sequence[int], runs: Path, *, as_json: bool) -> int:
    for number in numbers:
        BoxQueue(runs).cancel(number)
    return listing(runs, as_json=as_json)


def clear(runs: Path, *, as_json: bool) -> int:
    BoxQueue(runs).forget()
    return listing(runs, as_json=as_json)


def _follow(queue: BoxQueue, numbers: Sequence[int], *, as_json: bool) -> int:
    """Until those entries are over, or the user leaves; the queue goes on without us."""
    from tui.queue_view import queue_view

    left: list[bool] = []
    signal.signal(signal.SIGINT, lambda _number, _frame: left.append(True))
    queue.start()
    followed, view = Followed(queue, numbers), queue_view(as_json)
    view.note(f"queued: {', '.join(map(str, numbers))}. Ctrl-C leaves the queue going")
    try:
        while True:
            is_worked_on = queue.is_worked_on  # asked first: what it did before its end is read below
            found = followed.read()
            view.show(found)
            if followed.is_over or left or not is_worked_on:
                break
            time.sleep(POLL_S)
    finally:
        view.close()
    if followed.is_over:
        return exit_code([each.entry.state if each.entry.is_over else each.state for each in found])
    if left:
        view.note(f"left the queue going. `{command(queue)}` lists it, `{command(queue, 'cancel')} ID` takes out one that waits")
        view.note("`segtui stop RUN` stops one that runs, and the next one starts")
        return EXIT_DONE
    raise RunError(f"nobody works on the queue any more, runs go on; `{command(queue, 'start')}` goes on with it. Its log: {queue.log}")


class Followed:
    """Some entries of a queue, with the time that is left of those that run."""

    def __init__(self, queue: BoxQueue, numbers: Sequence[int]) -> None:
        self._queue = queue
        self._entries: dict[int, Entry | None] = dict.fromkeys(numbers)
        self._live: dict[Path, tuple[Attached, RunState]] = {}
        self.is_over = False

    def read(self) -> list[Shown]:
        entries = self._queue.read().entries
        known = {entry.id for entry in entries}
        self._entries |= {entry.id: entry for entry in entries if entry.id in self._entries}
        self.is_over = all(entry is None or entry.is_over or entry.id not in known for entry in self._entries.values())
        places = {each.entry.id: each.place for each in shown(entries, self._queue.runs)}
        found = shown([entry for entry in self._entries.values() if entry is not None], self._queue.runs)
        return [replace(each, place=places.get(each.entry.id), seconds_left=self._seconds_left(each)) for each in found]

    def _seconds_left(self, each: Shown) -> float | None:
        from engine.launch import Attached
        from tui.run_state import RunState

        if each.run is None or each.state != "running":
            return None
        attached, state = self._live.setdefault(each.run.path, (Attached(each.run), RunState()))
        for event in attached.poll(0):
            state.add(event)
        return state.seconds_left


def exit_code(states: Sequence[str]) -> int:
    """Of several runs: failed where one failed or was lost, stopped where one was stopped or cancelled."""
    if any(state in ("failed", "lost") for state in states):
        return EXIT_FAILED
    return EXIT_DONE if all(state == "finished" for state in states) else EXIT_STOPPED


def command(queue: BoxQueue, *words: str) -> str:
    """What to type, from here."""
    default = queue.runs == Path("runs").absolute()
    return visible(shlex.join(["segtui", "queue", *words, *([] if default else ["--runs", str(queue.runs)])]))
