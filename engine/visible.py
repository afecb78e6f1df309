"""Text from files as a terminal may show it: class names, file names and error texts can hold what a terminal would obey."""

from __future__ import annotations

import re

# What has no width and is obeyed: control characters of both sets but the line feed, and those that turn the direction of writing.
_OBEYED = re.compile("[\0-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_HALF = re.compile("[\ud800-\udfff]")


def visible(text: str) -> str:
    """In one line, with the code of every character that is not printed."""
    return text if text.isprintable() else "".join(map(_shown, text))


def visible_lines(text: str) -> str:
    """As `visible`, line by line."""
    return "\n".join(map(visible, text.splitlines()))


def harmless(text: str) -> str:
    """As wide on a terminal as it was, without what would be obeyed; half a character (from a name that is no UTF-8) is a mark."""
    if text.isprintable():
        return text
    return _HALF.sub("\ufffd", _OBEYED.sub("", text))


def _shown(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
