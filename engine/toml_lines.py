"""On which line of a TOML file a key stands: the parser does not tell, but a mistake is quicker to mend with it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from itertools import product
from typing import Any

KeyPath = tuple[str | int, ...]
# A line ends inside arrays, each of them in another one or in a table that is in one.
CLOSINGS = ("", *("]" + "".join(outer) for depth in range(4) for outer in product(("]", "}]"), repeat=depth)), '"""', "'''")


def key_lines(text: str) -> dict[KeyPath, int]:
    """Each key's path (array items by number) and its line, from 1. `text` must be valid TOML.

    No grammar of our own: a file is parsed prefix by prefix, and a key stands on the line whose prefix first has it.
    A prefix that ends inside arrays parses once they are closed.
    """
    found: dict[KeyPath, int] = {}
    prefix = ""
    for number, line in enumerate(text.split("\n"), start=1):
        prefix += line + "\n"
        for closing in CLOSINGS:
            try:
                table = tomllib.loads(prefix + closing)
            except tomllib.TOMLDecodeError:
                continue
            for path in _paths(table):
                found.setdefault(path, number)
            break
    return found


def _paths(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _paths(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _paths(item, (*path, index))
