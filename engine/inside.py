"""Where a json's images lie: below the data set's folder. One from elsewhere could otherwise name any file of the user's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.errors import Problem, RequestError


def check_inside(root: Path, json: Path, names: Sequence[str]) -> None:
    """Raises RequestError where file names lead out of `root`: absolute, through `..`, or by a link. `root` itself may be one."""
    if outside := list(_leaving(root, names)):
        more = f" and {len(outside) - 1} more" if len(outside) > 1 else ""
        raise RequestError(
            Problem(
                f"names images outside of data.root: {outside[0]!r}{more}",
                file=str(json),
                fix="copy them into it, or say that they are meant: data.allow_outside = true",
            )
        )


def _leaving(root: Path, names: Sequence[str]) -> Iterator[str]:
    inside = os.path.realpath(root)
    folders: dict[str, str] = {}
    for name in names:
        if not _can_be_a_file(name):
            continue  # reading it says so
        path = os.path.join(root, name)  # noqa: PTH118  thousands of them
        folder = os.path.dirname(path)  # noqa: PTH120
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        is_link = os.path.islink(path)  # noqa: PTH114
        target = os.path.realpath(path) if is_link else f"{folders[folder]}/"
        if not target.startswith(inside.rstrip("/") + "/"):
            yield name


def _can_be_a_file(name: str) -> bool:
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:  # half a character
        return False
