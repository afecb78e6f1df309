"""The user's configuration file."""

from __future__ import annotations

import os
from collections.abc import Iterator

from pydantic import Field, ValidationError

from engine.errors import Problem, RequestError, did_you_mean
from engine.preset_check import WANTED
from engine.schema import Table
from engine.toml_lines import KeyPath, key_lines, read_toml
from tui.places import config_file

Mistake = tuple[KeyPath, str, str]


class Config(Table):
    """config.toml. What is given on the command line or in a variable comes before it."""

    runs: str = ""
    """Folder of all runs. Before it come --runs and the variable SEGTUI_RUNS."""
    data: str = ""
    """Folder of the data set, used as the variable SEGTUI_DATA is where that is not set."""
    theme: str = ""
    """Name of a theme. Empty: the one that was chosen last (ctrl+p, Theme)."""
    keys: dict[str, str] = Field(default_factory=dict)
    """The id of an action and its key, or several with commas between."""


def load(*, for_screens: bool = False) -> Config:
    """What the file says, defaults where there is none. Raises RequestError with every mistake in it.

    `for_screens`: names of themes and actions are held against those that exist, which imports Textual.
    """
    file = config_file()
    if not file.exists():
        if os.environ.get("SEGTUI_CONFIG"):
            raise RequestError(Problem("there is no such file", file=str(file), fix="unset SEGTUI_CONFIG, or name a file that exists"))
        return Config()
    table, text = read_toml(file)
    mistakes = list(_schema_mistakes(table))
    if for_screens:
        wrong = {path for path, _, _ in mistakes}
        mistakes += [each for each in _screen_mistakes(table) if each[0] not in wrong]
    if mistakes:
        lines = key_lines(text)
        problems = [Problem(message, str(file), _dotted(path), lines.get(path), fix) for path, message, fix in mistakes]
        raise RequestError(sorted(problems, key=lambda problem: (problem.line or 0, problem.key)))
    return Config.model_validate(table)


def _schema_mistakes(table: dict[str, object]) -> Iterator[Mistake]:
    try:
        Config.model_validate(table)
    except ValidationError as error:
        for detail in error.errors():
            path, kind, given = detail["loc"], detail["type"], detail["input"]
            if kind == "extra_forbidden":
                yield path, "unknown key", did_you_mean(str(path[-1]), Config.model_fields)
            elif path[0] == "keys" and isinstance(given, dict) and len(path) > 1:
                yield path, "an action's id has a dot in it", f'write it in quotes, as in "{path[1]}.{next(iter(given), "...")}" = "x"'
            else:
                yield path, f"wants {WANTED.get(kind, detail['msg'])}, got {given!r}", ""


def _screen_mistakes(table: dict[str, object]) -> Iterator[Mistake]:
    from tui import themes
    from tui.keys import mistakes

    theme, keys = table.get("theme"), table.get("keys")
    if isinstance(theme, str) and theme and theme not in themes.names():
        yield ("theme",), f"there is no theme {theme!r}", did_you_mean(theme, themes.names())
    if isinstance(keys, dict):
        for name, message, fix in mistakes({name: key for name, key in keys.items() if isinstance(key, str)}):
            yield ("keys", name), message, fix


def _dotted(path: KeyPath) -> str:
    return ".".join(f'"{part}"' if "." in str(part) else str(part) for part in path)
