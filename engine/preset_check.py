"""Every mistake in a preset's merged tables, each as (path of the key, what is wrong, what to write instead)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from engine.catalogue import Argument, catalogue
from engine.errors import did_you_mean
from engine.schema import LossTable, ModelTable, OptimizerTable, Preset, SchedulerTable
from engine.toml_lines import KeyPath

Mistake = tuple[KeyPath, str, str]

WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text in quotes",
    "list_type": "an array",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}
PLAIN: dict[str, tuple[str, tuple[type, ...]]] = {
    "float": ("a number", (int, float)),
    "int": ("a whole number", (int,)),
    "bool": ("true or false", (bool,)),
}


def check(merged: dict[str, Any]) -> list[Mistake]:
    """Mistakes against the schema, then against the signatures of the libraries. `loss` is an array here."""
    mistakes = [*_schema_mistakes(merged)]
    mistakes += [(path, "is no number", "") for path in _not_numbers(merged) if path not in {path for path, _, _ in mistakes}]
    wrong = {path for path, _, _ in mistakes}
    return mistakes + [mistake for mistake in _library_mistakes(merged) if mistake[0] not in wrong]


def _not_numbers(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """TOML has nan, and no argument has a use for it."""
    if isinstance(value, float) and math.isnan(value):
        yield path
    elif isinstance(value, (dict, list)):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _not_numbers(each, (*path, key))


def _schema_mistakes(merged: dict[str, Any]) -> Iterator[Mistake]:
    try:
        Preset.model_validate(merged)
    except ValidationError as error:
        seen: set[KeyPath] = set()
        for detail in error.errors():
            path = _path_in_data(detail["loc"], merged, missing=detail["type"] == "missing")
            if path not in seen:
                seen.add(path)
                yield path, *_words(detail, path)


def _path_in_data(location: tuple[str | int, ...], merged: Any, *, missing: bool) -> KeyPath:
    """pydantic's location without the names of union members, which are no keys."""
    path: list[str | int] = []
    value = merged
    for part in location:
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        elif not (missing and part == location[-1]):
            continue
        path.append(part)
    return tuple(path)


def _words(detail: Mapping[str, Any], path: KeyPath) -> tuple[str, str]:
    kind, context, given = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "extra_forbidden":
        return "unknown key", did_you_mean(str(path[-1]), _keys_beside(path))
    if kind == "missing":
        return "is missing", ""
    if kind == "literal_error" and path[-1:] not in (("class_weights",), ("devices",)):
        expected = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return f"{_shown(given)} is not allowed", did_you_mean(str(given), expected)
    if path == ("launch", "devices"):
        return f"{_shown(given)} is not allowed", 'write "auto" or a whole number from 1'
    if path == ("launch", "slurm", "time") and kind == "string_pattern_mismatch":
        return f"{_shown(given)} is no time", 'write "HH:MM:SS" or "D-HH:MM:SS"'
    if path[-1:] == ("class_weights",):
        return f"{_shown(given)} is not allowed", 'write "auto" or an array with one number per class'
    if kind in WANTED:
        return f"wants {WANTED[kind]}, got {_shown(given)}", ""
    return f"{detail['msg'][0].lower()}{detail['msg'][1:]}, got {_shown(given)}", ""


def _keys_beside(path: KeyPath) -> list[str]:
    """The keys that the schema allows where the last part of `path` stands."""
    table: Any = Preset
    for part in path[:-1]:
        if isinstance(part, str):
            candidates = [table.model_fields[part].annotation]
            while not any(isinstance(each, type) and issubclass(each, BaseModel) for each in candidates):
                candidates = [inner for each in candidates for inner in get_args(each)]
            table = next(each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel))
    return [*table.model_fields, *(["extends"] if table is Preset else [])]


def _library_mistakes(merged: dict[str, Any]) -> Iterator[Mistake]:
    known = catalogue()
    if isinstance(model := merged.get("model"), dict):
        yield from _component(("model",), model, "architecture", known.models, set(ModelTable.model_fields))
        yield from _encoder(model)
    if isinstance(losses := merged.get("loss"), list):
        for index, loss in enumerate(losses):
            yield from _component(("loss", index), loss, "loss", known.losses, set(LossTable.model_fields))
            yield from _class_weights(("loss", index), loss)
    yield from _component(("optimizer",), merged.get("optimizer"), "optimizer", known.optimizers, set(OptimizerTable.model_fields))
    scheduler = merged.get("scheduler")
    if not (isinstance(scheduler, dict) and scheduler.get("type") == "none"):
        yield from _component(("scheduler",), scheduler, "scheduler", known.schedulers, set(SchedulerTable.model_fields))
    augment = merged.get("augment")
    if isinstance(augment, dict) and isinstance(augment.get("train"), list):
        for index, transform in enumerate(augment["train"]):
            yield from _transform(("augment", "train", index), transform)


def _component(path: KeyPath, table: Any, what: str, known: dict[str, dict[str, Argument]], own: set[str]) -> Iterator[Mistake]:
    """The type's name and its arguments. What is no table is the schema's to report."""
    if not isinstance(table, dict) or not isinstance(table.get("type"), str):
        return
    name = table["type"]
    if name not in known:
        yield (*path, "type"), f"there is no {what} {name!r}", did_you_mean(name, known) or f"allowed: {', '.join(sorted(known))}"
        return
    arguments = known[name]
    for key in table:
        if key not in own and key not in arguments:
            allowed = [*arguments, *(own - {"type"})]
            yield (*path, key), f"{name} has no argument {key!r}", did_you_mean(key, allowed) or f"allowed: {', '.join(sorted(allowed))}"
        elif key in arguments and not (what == "scheduler" and table[key] == "auto") and (wanted := _wanted(arguments[key], table[key])):
            yield (*path, key), f"wants {wanted}, got {_shown(table[key])}", ""
    for key, argument in arguments.items():
        if argument.required and key not in table and not (what == "loss" and key == "mode"):
            yield (*path, key), f"is missing: {name} needs it", ""


def _wanted(argument: Argument, value: Any) -> str:
    """What an argument annotated as one plain number or switch wants, where `value` is none; others the library judges."""
    annotation = argument.annotation.removeprefix("<class '").removesuffix("'>").removesuffix(" | torch.Tensor")
    if annotation not in PLAIN:
        return ""
    words, kinds = PLAIN[annotation]
    fits = isinstance(value, kinds) and isinstance(value, bool) == (annotation == "bool")
    return "" if fits else words


def _encoder(model: dict[str, Any]) -> Iterator[Mistake]:
    encoders = catalogue().encoders
    name, weights = model.get("encoder_name"), model.get("encoder_weights", "auto")
    if not isinstance(name, str) or not isinstance(weights, str):
        return
    if name not in encoders and name.split(".")[0] not in encoders:
        yield (
            ("model", "encoder_name"),
            f"there is no encoder {name!r}",
            did_you_mean(name, encoders) or "use one of segmentation-models-pytorch, or of timm with tu- before it",
        )
        return
    sets = encoders.get(name, encoders.get(name.split(".")[0], []))
    if weights not in ("auto", "none", *sets):
        yield ("model", "encoder_weights"), f"{name} has no weights {weights!r}", did_you_mean(weights, ["auto", "none", *sets])


def _class_weights(path: KeyPath, loss: Any) -> Iterator[Mistake]:
    if (
        not isinstance(loss, dict)
        or loss.get("class_weights") is None
        or not isinstance(loss.get("type"), str)
        or loss["type"] not in (losses := catalogue().losses)
    ):
        return
    if not {"weight", "class_weights"} & set(losses[loss["type"]]):
        able = [name for name, arguments in losses.items() if {"weight", "class_weights"} & set(arguments)]
        yield (*path, "class_weights"), f"{loss['type']} takes no class weights", f"these do: {', '.join(able)}"


def _transform(path: KeyPath, table: Any) -> Iterator[Mistake]:
    known = catalogue()
    if isinstance(table, dict) and table.get("type") in ("Normalize", "ToTensorV2", "ToFloat"):
        yield (*path, "type"), f"{table['type']} is not an augmentation here: every image is normalised by the engine", "leave it out"
        return
    yield from _component(path, table, "transform", known.transforms, {"type"})
    if not isinstance(table, dict) or table.get("type") not in known.compositions or "transforms" not in table:
        return
    if not isinstance(table["transforms"], list):
        yield (*path, "transforms"), f"wants an array of transforms, got {table['transforms']!r}", ""
    else:
        for index, inner in enumerate(table["transforms"]):
            if not isinstance(inner, dict) or not isinstance(inner.get("type"), str):
                yield (*path, "transforms", index), 'wants a table with a "type"', ""
            else:
                yield from _transform((*path, "transforms", index), inner)


def _shown(value: Any) -> str:
    """A value as TOML writes it, as far as that differs."""
    return str(value).lower() if isinstance(value, bool) else repr(value)
