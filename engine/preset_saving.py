"""An edited preset under a new name: what it changes in the preset that it came from, where that says all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from engine import atomic, preset
from engine.errors import Problem, RequestError
from engine.preset import BUILT_IN


def save_as(file: Path, overrides: Sequence[str], source: Path) -> Path:
    """Write the preset of `source` with `overrides` to a new file: extending it where both are the project's own, else whole.

    Loading the new file gives the same preset, under its own name. Raises RequestError where the file is there already,
    cannot be written, or the preset has a mistake.
    """
    if file.exists():
        raise RequestError(Problem("is there already", file=str(file), fix="choose another name"))
    # SEGTUI_DATA is the shell's; written down, it would hold for everybody
    edited, before = (preset.load(source, changes, environment={}) for changes in (overrides, ()))
    name = {"name": file.stem} if edited.name == source.stem else {}
    wanted = edited.model_dump(exclude_none=True) | {"name": file.stem if name else edited.name}
    whole = tomli_w.dumps(wanted)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if _can_be_extended(source, file):
            difference = _difference(before.model_dump(exclude_none=True), edited.model_dump(exclude_none=True))
            base = {"extends": os.path.relpath(source.absolute(), file.parent.absolute())}
            atomic.write(file, tomli_w.dumps(base | name | difference).encode())
            if _loads_as(file, wanted):
                return file
        atomic.write(file, whole.encode())
    except OSError as error:
        raise RequestError(Problem(f"cannot be written: {error.strerror}", file=str(file))) from None
    return file


def _can_be_extended(source: Path, file: Path) -> bool:
    """An installed preset lies elsewhere on every machine; one in Python would be run again by each that extends it."""
    installed = source.resolve().is_relative_to(BUILT_IN.resolve()) and not file.resolve().is_relative_to(BUILT_IN.resolve())
    return source.suffix == ".toml" and not installed


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be written over `before`. What only `before` has cannot be taken away so: the caller looks."""
    found: dict[str, Any] = {}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            if inner := _difference(old, value):
                found[key] = inner
        elif value != old:
            found[key] = value
    return found


def _loads_as(file: Path, wanted: Mapping[str, Any]) -> bool:
    try:
        return preset.load(file, environment={}).model_dump(exclude_none=True) == wanted
    except RequestError:
        return False
