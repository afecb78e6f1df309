"""What the program remembers from one start to the next: a small file in the user's state folder."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from engine import atomic
from tui.places import state_folder

VERSION = 1
MOST_PRESETS = 5


class State(msgspec.Struct):
    """`theme` is the one that was chosen last; `presets` are the absolute paths of those launched last, newest first."""

    theme: str = ""
    presets: list[str] = []
    version: int = VERSION


def remembered() -> State:
    """What was remembered last; nothing where there is no file, or none that this version can read."""
    try:
        state = msgspec.json.decode((state_folder() / "state.json").read_bytes(), type=State)
    except (OSError, ValueError, RecursionError):
        return State()
    return state if state.version == VERSION else State()


def remember_theme(name: str) -> None:
    """Raises OSError where the folder cannot be written."""
    _write(State(theme=name, presets=remembered().presets))


def recent_presets() -> list[Path]:
    """Those that are still there."""
    return [Path(path) for path in remembered().presets if Path(path).is_file()]


def remember_preset(preset: Path) -> None:
    """Put it first. A list that cannot be kept is no reason not to train."""
    path, state = str(preset.absolute()), remembered()
    presets = [path, *(each for each in state.presets if each != path)][:MOST_PRESETS]
    with contextlib.suppress(OSError):
        _write(State(state.theme, presets))


def _write(state: State) -> None:
    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write(folder / "state.json", msgspec.json.encode(state))
