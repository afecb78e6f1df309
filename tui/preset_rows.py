"""A preset as the rows of a form: every field of the schema, every argument of its components, with what may be written there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from engine.catalogue import Argument, Catalogue
from engine.preset import COMPONENTS, Draft
from engine.schema import Component, Preset
from engine.toml_lines import KeyPath

UNSET = "-"
PLAIN = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True)
class Row:
    """One field. `path` is empty for a heading; `value` and `before` (the file's) are as TOML writes them, text without quotes.

    `choices` are all that may be written, `names` are suggestions. `problem` is what is wrong with the field now.
    """

    path: KeyPath
    label: str
    value: str = ""
    before: str = ""
    is_set: bool = True
    is_text: bool = False
    choices: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    help: str = ""
    problem: str = ""

    @property
    def key(self) -> str:
        return dotted(self.path)

    @property
    def is_changed(self) -> bool:
        return self.value != self.before


def dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))


def rows(now: Draft, file: Draft, known: Catalogue, *, everything: bool) -> list[Row]:
    """`everything`: also the arguments that nobody has set, with the library's defaults."""
    before = {row.path: row.value for _, fields in _sections(file.table, known, everything=True) for row in fields}
    problems = {path: problem.message + (f". {problem.fix}" if problem.fix else "") for path, problem in now.mistakes}
    found: list[Row] = []
    for heading, section in _sections(now.table, known, everything):
        fields = list(section)
        there = {row.path for row in fields}
        missing = [path for path in problems if path[:1] == (heading,) and path not in there]
        fields += [Row(path, dotted(path[1:]) or heading, UNSET, is_set=False) for path in missing]
        found.append(Row((), heading))
        found += [replace(row, before=before.get(row.path, UNSET), problem=problems.get(row.path, "")) for row in fields]
    return found


def shown(value: Any) -> str:
    """A value in one line: text bare, everything else as TOML."""
    return value if isinstance(value, str) else _inline(value)


def override(row: Row, text: str) -> str:
    """What the field's new text is as an override (`--set`)."""
    return f"{row.key}={_quoted(text) if row.is_text else text}"


def _inline(value: Any) -> str:
    match value:
        case None:
            return UNSET
        case bool():
            return str(value).lower()
        case str():
            return _quoted(value)
        case Mapping():
            return "{ " + ", ".join(f"{key} = {_inline(each)}" for key, each in value.items()) + " }"
        case Sequence():
            return "[" + ", ".join(_inline(each) for each in value) + "]"
    return repr(value)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in escaped) + '"'


def _sections(table: Mapping[str, Any], known: Catalogue, everything: bool) -> Iterator[tuple[str, Iterator[Row]]]:
    """The preset's tables in the schema's order."""
    for name, info in Preset.model_fields.items():
        value = table.get(name)
        match name:
            case "name":
                continue
            case "loss":
                yield name, _losses(value, known, everything)
            case "augment":
                yield name, _augment(value, known, everything)
            case _:
                content = value if isinstance(value, Mapping) else MappingProxyType({})
                yield name, _table((name,), content, _model(info.annotation), _arguments(name, content, known), known, everything)


def _losses(losses: Any, known: Catalogue, everything: bool) -> Iterator[Row]:
    model = _model(Preset.model_fields["loss"].annotation)
    for index, loss in enumerate(losses if isinstance(losses, list) else []):
        if isinstance(loss, Mapping):
            yield from _table(("loss", index), loss, model, _arguments("loss", loss, known), known, everything)


def _augment(table: Any, known: Catalogue, everything: bool) -> Iterator[Row]:
    transforms = table.get("train", []) if isinstance(table, Mapping) else []
    yield Row(("augment", "train"), "train", shown(transforms), help="Transforms in order, as an array of tables.")
    for index, transform in enumerate(transforms if isinstance(transforms, list) else []):
        if isinstance(transform, Mapping):
            arguments = known.transforms.get(str(transform.get("type")), {})
            yield from _table(("augment", "train", index), transform, Component, arguments, known, everything)


def _table(
    path: KeyPath,
    table: Mapping[str, Any],
    model: type[BaseModel],
    arguments: Mapping[str, Argument],
    known: Catalogue,
    everything: bool,
) -> Iterator[Row]:
    for name, info in model.model_fields.items():
        value = table.get(name, None if info.is_required() else info.default)
        choices = _choices(info.annotation)
        yield Row(
            (*path, name),
            _label((*path, name)),
            shown(value),
            is_set=name in table,
            is_text=_is_text(info.annotation),
            choices=choices,
            names=_names((*path, name), table, known),
            help=_help(info, choices),
        )
    for name, argument in arguments.items():
        is_needed = argument.required and path[0] != "loss"  # the loop gives a loss its mode
        if name in model.model_fields or not (name in table or everything or is_needed):
            continue
        choices = ("true", "false") if argument.annotation in ("<class 'bool'>", "bool") else ()
        value = shown(table[name]) if name in table else argument.default or UNSET
        annotation = argument.annotation.removeprefix("<class '").removesuffix("'>").replace("typing.", "")
        default = f", {argument.default} by default" if argument.default else ""
        yield Row((*path, name), _label((*path, name)), value, is_set=name in table, choices=choices, help=f"{annotation}{default}")
    for name in table:
        if name not in model.model_fields and name not in arguments:
            yield Row((*path, name), _label((*path, name)), shown(table[name]))


def _label(path: KeyPath) -> str:
    return dotted(path[1:])


def _arguments(name: str, table: Mapping[str, Any], known: Catalogue) -> Mapping[str, Argument]:
    if name not in COMPONENTS:
        return {}
    kinds: Mapping[str, Mapping[str, Argument]] = getattr(known, COMPONENTS[name])
    return kinds.get(str(table.get("type")), {})


def _names(path: KeyPath, table: Mapping[str, Any], known: Catalogue) -> tuple[str, ...]:
    """What a field of text may name: types, encoders and their weights."""
    match path:
        case ("model", "encoder_name"):
            return tuple(known.encoders)
        case ("model", "encoder_weights"):
            return ("auto", "none", *known.encoders.get(str(table.get("encoder_name")), []))
        case ("augment", "train", int(), "type"):
            return tuple(known.transforms)
        case (str() as name, *_, "type") if name in COMPONENTS:
            return (*getattr(known, COMPONENTS[name]), *(["none"] if name == "scheduler" else []))
    return ()


def _model(annotation: Any) -> type[BaseModel]:
    """The table in an annotation such as `list[LossTable]` or `SchedulerTable | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(_model(each) for each in get_args(annotation) if each is not type(None))


def _choices(annotation: Any) -> tuple[str, ...]:
    if annotation is bool:
        return ("true", "false")
    return tuple(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ()


def _is_text(annotation: Any) -> bool:
    return annotation is str or get_origin(annotation) is Literal


def _help(info: FieldInfo, choices: tuple[str, ...]) -> str:
    kind = " | ".join(choices) or next((words for plain, words in PLAIN.items() if info.annotation is plain), "")
    return f"{info.description or ''}" + (f" · {kind}" if kind else "")
