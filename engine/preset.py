"""Loading a preset: files that extend each other, overrides, and every mistake in them at once.

The order in which a value is decided: the preset's bases, the preset, the variable SEGTUI_DATA (for `data.root`),
then `--set` from left to right. Tables merge, arrays replace; a component whose type changes keeps those of its
arguments that the new type has too.
"""

from __future__ import annotations

import datetime
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tomli_w

from engine.catalogue import catalogue
from engine.errors import Problem, RequestError, did_you_mean
from engine.preset_check import check
from engine.schema import LossTable, ModelTable, OptimizerTable, Preset, SchedulerTable
from engine.toml_lines import KeyPath, key_lines, read_toml

COMPONENTS = {"model": "models", "loss": "losses", "optimizer": "optimizers", "scheduler": "schedulers"}
FIELDS = {
    "model": set(ModelTable.model_fields),
    "loss": set(LossTable.model_fields),
    "optimizer": set(OptimizerTable.model_fields),
    "scheduler": set(SchedulerTable.model_fields),
}
MOST_SHOWN = 20
BUILT_IN = Path(__file__).parent.parent / "presets"


@dataclass(frozen=True)
class Layer:
    """One source of values: a file, a variable or an override. `text` is the file's where it is TOML."""

    name: str
    table: dict[str, Any]
    text: str = ""

    @cached_property
    def lines(self) -> dict[KeyPath, int]:
        return key_lines(self.text)

    def has(self, path: KeyPath) -> bool:
        return _find(self.table, path) is not None


@dataclass(frozen=True)
class Draft:
    """What a preset's layers add up to, with every mistake in it and the path of the key it belongs to.

    `table` is the merged table (`loss` as an array); `preset` is None where there is a mistake.
    """

    table: dict[str, Any]
    mistakes: tuple[tuple[KeyPath, Problem], ...]
    preset: Preset | None


class ProgramNotRun(RequestError):
    """The preset is a program, or extends one, and whoever asked did not say that it may run."""


def load(
    path: Path | str, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None, *, run_programs: bool = True
) -> Preset:
    """The resolved preset of a file, or of a built-in preset's name. Raises RequestError with every mistake found."""
    found = draft(path, overrides, environment, run_programs=run_programs)
    if found.preset is None:
        problems = sorted((problem for _, problem in found.mistakes), key=lambda problem: (problem.file, problem.line or 0, problem.key))
        more = [Problem(f"and {len(problems) - MOST_SHOWN} more mistakes", file=str(path))] if len(problems) > MOST_SHOWN else []
        raise RequestError([*problems[:MOST_SHOWN], *more])
    return found.preset


def draft(
    path: Path | str, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None, *, run_programs: bool = True
) -> Draft:
    """As `load`, for one who is still writing. Raises RequestError where a file cannot be read or an override has no place.

    Without `run_programs` it raises ProgramNotRun where a file is Python: for presets that nobody named.
    """
    environment = os.environ if environment is None else environment
    file = find(path)
    layers = _read_chain(file, run_programs=run_programs)
    if root := environment.get("SEGTUI_DATA"):
        layers.append(Layer("SEGTUI_DATA", {"data": {"root": root}}))
    merged = _merge(layers)
    for override in overrides:
        layers.append(_override(override, merged))
        merged = _merge(layers)
    if isinstance(merged.get("loss"), dict):
        merged["loss"] = [merged["loss"]]
    mistakes = tuple((key, _located(key, message, fix, layers)) for key, message, fix in check(merged))
    return Draft(merged, mistakes, None if mistakes else _resolved(Preset.model_validate(merged), file))


def _resolved(preset: Preset, file: Path) -> Preset:
    root = preset.data.root if preset.data.root == "sample" else str(Path(preset.data.root).expanduser().absolute())
    return preset.model_copy(
        update={
            "name": preset.name or file.stem,
            "data": preset.data.model_copy(update={"root": root}),
            "scheduler": None if preset.scheduler and preset.scheduler.type == "none" else preset.scheduler,
        }
    )


def find(path: Path | str) -> Path:
    """The file that a path or a built-in preset's name means. Raises RequestError where there is none."""
    file = Path(path)
    if os.path.isfile(file):  # noqa: PTH113  pathlib's raises for a name that is too long
        return file
    if os.path.isdir(file):  # noqa: PTH112
        raise RequestError(Problem("is a folder, not a preset", file=str(path), fix=f"name a file in it, such as {file / 'pan.toml'}"))
    built_in = {preset.stem: preset for preset in BUILT_IN.glob("*.toml") if preset.stem != "base"}
    if str(path) in built_in:
        return built_in[str(path)]
    beside = [each.name for each in _beside(file) if each.suffix in (".toml", ".py")]
    hint = did_you_mean(file.name, beside or built_in) if file.suffix else did_you_mean(file.name, built_in)
    raise RequestError(Problem("there is no such preset", file=str(path), fix=hint or "give a .toml or .py file"))


def _beside(file: Path) -> list[Path]:
    return list(file.parent.glob("*")) if os.path.isdir(file.parent) else []  # noqa: PTH112


def to_toml(preset: Preset) -> str:
    """The preset as TOML; `load` of it gives the same preset."""
    return tomli_w.dumps(preset.model_dump(exclude_none=True))


def from_dict(table: dict[str, Any]) -> Preset:
    """A preset that `model_dump` gave, as it travels between processes and in checkpoints."""
    return Preset.model_validate(table)


def _read_chain(file: Path, *, run_programs: bool) -> list[Layer]:
    """The preset's layers, bases first."""
    layers: list[Layer] = []
    chain: list[Path] = []
    while True:
        if file.resolve() in chain:
            circle = " -> ".join(each.name for each in [*chain[chain.index(file.resolve()) :], file])
            raise RequestError(
                Problem(
                    f"goes round in a circle, {circle}",
                    file=layers[-1].name,
                    key="extends",
                    line=layers[-1].lines.get(("extends",)),
                    fix="leave it out in one of them",
                )
            )
        chain.append(file.resolve())
        if file.suffix == ".py" and not run_programs:
            raise ProgramNotRun(Problem("is a program: reading it runs it", file=str(file)))
        layer = _read(file, layers[-1].name if layers else "")
        layers.append(layer)
        base = layer.table.pop("extends", None)
        if base is None:
            return layers[::-1]
        line = layer.lines.get(("extends",))
        if not isinstance(base, str):
            raise RequestError(Problem("wants a file name", file=layer.name, key="extends", line=line, fix='write extends = "base.toml"'))
        file = file.parent / base
        if not os.path.isfile(file):  # noqa: PTH113  as above
            beside = [each.name for each in _beside(file) if each.suffix == ".toml"]
            raise RequestError(
                Problem(f"there is no file {base!r} beside it", file=layer.name, key="extends", line=line, fix=did_you_mean(base, beside))
            )


def _read(file: Path, extended_by: str) -> Layer:
    if file.suffix == ".py":
        from engine.baseline import read_python_preset

        return Layer(str(file), read_python_preset(file))
    try:
        table, text = read_toml(file)
    except RequestError as error:
        if not extended_by:
            raise
        raise RequestError(problem._replace(fix=f"it is what {extended_by} extends") for problem in error.problems) from None
    return Layer(str(file), table, text)


def _override(text: str, merged: dict[str, Any]) -> Layer:
    """`a.b=VALUE` as a layer. A value that is not TOML is taken as text, since a shell eats the quotes."""
    name = f"--set {text}"
    key, equals, value_text = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(re.fullmatch(r"[A-Za-z0-9_-]+", part) for part in parts):
        raise RequestError(Problem("is not KEY=VALUE", file=name, fix="write for example --set train.epochs=10"))
    try:
        value = tomllib.loads(f"value = {value_text}")["value"]
    except (ValueError, RecursionError):  # TOMLDecodeError is one; a number of thousands of digits is another
        value = value_text.strip()
    if isinstance(value, (datetime.date, datetime.time)):  # as in 08:00:00, which no key wants
        value = value_text.strip()
    if parts == ["extends"]:
        raise RequestError(Problem("cannot be overridden", file=name, key="extends", fix="write it in the file"))
    path: KeyPath = tuple(int(part) if part.isdigit() else part for part in parts)
    if path[:2] == ("loss", 0) and isinstance(merged.get("loss"), dict):
        path = ("loss", *path[2:])  # one loss may be called the first
    if path[0] == "loss" and len(path) > 1 and isinstance(path[1], str) and isinstance(merged.get("loss"), list):
        raise RequestError(Problem("the preset has several losses", file=name, fix="name one by its number, as in loss.0.weight"))
    return Layer(name, _nested(path, value, merged, name))


def _nested(path: KeyPath, value: Any, present: Any, name: str, key: str = "") -> Any:
    """`value` at `path`; an array is copied from what is present, because arrays replace."""
    if not path:
        return value
    head, *rest = path
    if isinstance(head, int):
        if not isinstance(present, list) or head >= len(present):
            raise RequestError(Problem(f"there is no item {head}", file=name, fix="items of an array count from 0"))
        changed = _nested(tuple(rest), value, present[head], name)
        below = present[head]
        if (
            key in COMPONENTS
            and isinstance(changed, dict)
            and isinstance(below, dict)
            and changed.get("type") not in (None, below.get("type"))
        ):
            below = _fitting_table(key, below, changed["type"])
        item = _merged(below, changed) if isinstance(changed, dict) else changed
        return [*present[:head], item, *present[head + 1 :]]
    inner = present.get(head) if isinstance(present, dict) else None
    return {head: _nested(tuple(rest), value, inner, name, head)}


def _merge(layers: Sequence[Layer]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merged(_fitting(merged, layer.table), layer.table)
    return merged


def _fitting(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """What is below, less the arguments of a component whose type changes above and has no such arguments."""
    fitting = dict(below)
    for key in COMPONENTS:
        old, new = below.get(key), above.get(key)
        if isinstance(old, dict) and isinstance(new, dict) and new.get("type") not in (None, old.get("type")):
            fitting[key] = _fitting_table(key, old, new["type"])
    return fitting


def _fitting_table(key: str, old: dict[str, Any], new_type: Any) -> dict[str, Any]:
    arguments = getattr(catalogue(), COMPONENTS[key]).get(new_type, {}) if isinstance(new_type, str) else {}
    return {name: value for name, value in old.items() if name in arguments or name in FIELDS[key]}


def _merged(below: Any, above: Any) -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return below | {key: _merged(below.get(key), value) for key, value in above.items()}


def _located(path: KeyPath, message: str, fix: str, layers: Sequence[Layer]) -> Problem:
    """The problem with the place that set the key: the last layer that has it, or the longest part of its path.

    What is in an array is of the layer that set the array, as arrays replace.
    """
    key = re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, path)))
    one_loss = not any(isinstance(layer.table.get("loss"), list) for layer in layers)
    if one_loss and path[:2] == ("loss", 0):
        path, key = ("loss", *path[2:]), key.replace("loss[0]", "loss")
    in_array = next((place for place, part in enumerate(path) if isinstance(part, int)), len(path))
    setting = [layer for layer in reversed(layers) if layer.has(path[:in_array])]
    for length in range(len(path), 0, -1):
        for layer in setting[:1] if in_array < len(path) else reversed(layers):
            if layer.has(path[:length]):
                return Problem(message, layer.name, key, layer.lines.get(path[:length]) if layer.text else None, fix)
    return Problem(
        message, [layer for layer in layers if layer.name != "SEGTUI_DATA" and not layer.name.startswith("--set")][-1].name, key, None, fix
    )


def _find(table: Any, path: KeyPath) -> Any:
    for part in path:
        if isinstance(part, int) and isinstance(table, list) and part < len(table):
            table = table[part]
        elif isinstance(part, str) and isinstance(table, dict) and part in table:
            table = table[part]
        else:
            return None
    return table
