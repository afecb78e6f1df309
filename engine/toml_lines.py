"""Reading TOML for people who may have to mend it: what is no TOML, and on which line a key stands, which the parser does not tell."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from engine.errors import Problem, RequestError

KeyPath = tuple[str | int, ...]
# A line ends inside arrays, each of them in another one or in a table that is in one.
LARGEST = 1 << 20
"""Bytes of a file that a person wrote."""
MOST_PARSED = 1_000_000
"""Characters that finding the lines may take in all: a second."""
CLOSINGS = ("", *("]" + "".join(outer) for depth in range(4) for outer in product(("]", "}]"), repeat=depth)), '"""', "'''")


def read_toml(file: Path) -> tuple[dict[str, Any], str]:
    """A file's table and its text. Raises RequestError where it cannot be read or is no TOML."""
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise RequestError(Problem("is larger than 1 MiB, which no preset or configuration is", file=str(file)))
        text = content.decode("utf-8-sig")
        return tomllib.loads(text), text
    except UnicodeDecodeError as error:
        raise RequestError(Problem(f"is not UTF-8 text ({error.reason} at byte {error.start})", file=str(file))) from None
    except tomllib.TOMLDecodeError as error:
        at = re.search(r" \(at line (\d+), column (\d+)\)| \(at end of document\)", str(error))
        line = int(at[1]) if at and at[1] else None
        message = str(error)[: at.start()] if at else str(error)
        raise RequestError(Problem(f"is not TOML: {message}", file=str(file), line=line)) from None
    except ValueError as error:  # a whole number of thousands of digits
        raise RequestError(Problem(f"is not TOML: {error}", file=str(file))) from None
    except RecursionError:
        raise RequestError(Problem("is nested too deeply", file=str(file))) from None
    except OSError as error:
        raise RequestError(Problem(f"cannot be read: {error.strerror}", file=str(file))) from None


def key_lines(text: str) -> dict[KeyPath, int]:
    """Each key's path (array items by number) and its line, from 1. `text` must be valid TOML.

    No grammar of our own: a file is parsed prefix by prefix, and a key stands on the line whose prefix first has it.
    A prefix that ends inside arrays parses once they are closed. Of a very long file only the first keys are found.
    """
    found: dict[KeyPath, int] = {}
    prefix, parsed = "", 0
    for number, line in enumerate(text.split("\n"), start=1):
        prefix += line + "\n"
        for closing in CLOSINGS:
            if (parsed := parsed + len(prefix)) > MOST_PARSED:
                return found
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
