"""Presets written in Python, the form of the competition baseline: module-level `dict(type=..., args=dict(...))`.

A preset in Python is a program: reading it runs it, with all that it does. It is run only when a user names the file.
What comes back is the plain nested dict that the same preset in TOML would give.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import runpy
import sys
import traceback
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

from engine.errors import Problem, RequestError, did_you_mean
from engine.old_transforms import translate_transform

SETTINGS = {
    "epochs": ("epochs", "max_epochs", "num_epochs"),
    "seed": ("seed",),
    "save_interval": ("save_interval", "save_freq"),
    "val_every": ("val_every", "val_freq"),
}
"""Keys of our [train], and the names that a Python preset may give them."""
SETTING_NAMES = tuple(name for names in SETTINGS.values() for name in names)
SPLITS = ("train", "val", "test")
ROOTS = ("data_root", "dataset_path")
COMPONENTS = ("model", "criterion", "optimizer", "scheduler", "train_pipeline", "val_pipeline", "test_pipeline")
NAMES = (*COMPONENTS, "data", *ROOTS, "wandb", "train", "runner", *SETTING_NAMES)
"""Every name that means something at the top of a Python preset."""
WANDB_KEYS = ("mode", "project", "entity", "team_entity", "run_name", "tags")
DONE_BY_THE_ENGINE = ("Normalize", "ToTensorV2", "ToTensor")


class PythonSource:
    """Where the parts of a Python preset stand in its text, and which of its names are used."""

    def __init__(self, tree: ast.Module) -> None:
        self.assigned: dict[str, tuple[int, ast.expr]] = {}
        self.uses = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
        self.stored: set[str] = set()
        nodes: list[ast.AST] = [tree]
        while nodes:
            node = nodes.pop()
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
                continue
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self.stored.add(node.id)
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [each.id for each in targets if isinstance(each, ast.Name)]
                self.assigned |= dict.fromkeys(names, (node.lineno, node.value))
                self.uses.subtract(each.id for each in ast.walk(node.value) if isinstance(each, ast.Name) and each.id in names)
            nodes += reversed(list(ast.iter_child_nodes(node)))

    def is_unused(self, name: str) -> bool:
        """Whether the file itself sets the name, and no other statement of it reads it."""
        return name in self.stored and self.uses[name] <= 0

    def line(self, key: str) -> int | None:
        """The line, from 1, of a key such as `train_pipeline[2].p`, or of the nearest part around it that is written out."""
        name, *parts = re.findall(r"[^.\[\]]+", key) or [""]
        line, node = self.assigned.get(name, (None, None))
        for part in parts:
            if node is None or (child := self.child(node, part)) is None:
                break
            line, node = child
        return line

    def child(self, node: ast.expr, part: str) -> tuple[int, ast.expr] | None:
        for _ in range(20):  # a name may stand for another name, and an argument may stand in args
            children: dict[object, tuple[int, ast.expr]] = {}
            if isinstance(node, ast.Name) and node.id in self.assigned:
                node = self.assigned[node.id][1]
                continue
            if isinstance(node, ast.List | ast.Tuple) and not any(isinstance(each, ast.Starred) for each in node.elts):
                children = {str(index): (each.lineno, each) for index, each in enumerate(node.elts)}
            elif isinstance(node, ast.Call):
                children = {keyword.arg: (keyword.lineno, keyword.value) for keyword in node.keywords}
            elif isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values, strict=True)
                children = {key.value: (key.lineno, each) for key, each in pairs if isinstance(key, ast.Constant)}
            if part in children or "args" not in children:
                return children.get(part)
            node = children["args"][1]
        return None


def read_python_preset(path: Path) -> dict[str, Any]:
    """The preset in a Python file as the dict that our TOML form would give; keys that the file leaves out are absent.

    Runs the file: a preset in Python is a program, so read one only when its user asked for it. What it prints goes to
    stderr. Raises RequestError with every mistake found, each with the key in the file's own terms (arguments in `args` are
    named as if they stood beside `type`); also where the file cannot be read, is not Python, or raises.
    """
    source = _parse(path)
    found = _run(path)
    reading = Reading(str(path), source)
    reading.refuse_unknown(found)
    preset = {
        "model": reading.model(found.get("model")),
        "data": reading.data(found),
        "augment": reading.augment(found),
        "loss": reading.losses(found.get("criterion")),
        "optimizer": reading.component(found.get("optimizer"), "optimizer"),
        "scheduler": reading.scheduler(found.get("scheduler")),
        "train": reading.settings(found),
        "wandb": reading.own_table(found.get("wandb"), "wandb", WANDB_KEYS),
    }
    if reading.problems:
        raise RequestError(sorted(reading.problems, key=lambda problem: (problem.line or 0, problem.key)))
    return {name: table for name, table in preset.items() if table is not None}


def _parse(path: Path) -> PythonSource:
    try:
        return PythonSource(ast.parse(path.read_bytes(), filename=str(path)))
    except OSError as error:
        raise RequestError(Problem(f"cannot be read: {error.strerror}", file=str(path))) from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RequestError(_not_python(path, error)) from None


def _run(path: Path) -> dict[str, Any]:
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return runpy.run_path(str(path))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  SystemExit too: nothing that a preset does may end the program
        if isinstance(error, SyntaxError) and error.filename == str(path):
            raise RequestError(_not_python(path, error)) from None
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        message = f"raised {type(error).__name__}" + (f": {error}" if str(error) else "")
        raise RequestError(Problem(message, file=str(path), line=frames[-1].lineno if frames else None)) from None


def _not_python(path: Path, error: Exception) -> Problem:
    message, line = (error.msg, error.lineno) if isinstance(error, SyntaxError) else (str(error) or type(error).__name__, None)
    return Problem(f"is not Python: {message}", file=str(path), line=line)


@dataclass
class Reading:
    """One file while it is read: each method gives a part of the preset, and notes what is wrong with it."""

    file: str
    source: PythonSource
    problems: list[Problem] = field(default_factory=list)

    def problem(self, key: str, message: str, fix: str = "") -> None:
        self.note(Problem(message, key=key, fix=fix))

    def note(self, problem: Problem) -> None:
        problem = problem._replace(file=self.file, line=self.source.line(problem.key))
        if problem not in self.problems:
            self.problems.append(problem)

    def refuse_unknown(self, found: Mapping[str, Any]) -> None:
        """Notes every dict or list that nothing uses (a name written wrong), and a file without any component."""
        for name, value in found.items():
            if name not in NAMES and name[:1] != "_" and isinstance(value, dict | list) and self.source.is_unused(name):
                self.problem(name, "is no part of a preset, and nothing in the file uses it", did_you_mean(name, NAMES) or "remove it")
        if all(found.get(name) is None for name in COMPONENTS) and not self.problems:
            self.problem("", f"is no preset: it sets none of {', '.join(COMPONENTS)}", 'write at least model = dict(type="...")')

    def model(self, value: Any) -> dict[str, Any] | None:
        table = self.component(value, "model")
        if table is None:
            return None
        if table.pop("in_channels", 3) != 3:
            self.problem("model.in_channels", "images are read with 3 channels", "remove it, or write 3")
        table.pop("classes", None)
        if "encoder_weights" in table and table["encoder_weights"] is None:
            table["encoder_weights"] = "none"
        return table

    def losses(self, value: Any) -> Any:
        """A loss's table, or one for each where there are several."""
        if not isinstance(value, list | tuple):
            return self.loss(value, "criterion")
        if not value:
            self.problem("criterion", "is empty", "give at least one loss")
        return [self.loss(each, f"criterion[{index}]", required=True) for index, each in enumerate(value)]

    def loss(self, value: Any, key: str, required: bool = False) -> dict[str, Any] | None:
        """`weight` beside `type` is the loss's weight in the sum; torch's own `weight`, in `args` or a list, is one per class."""
        beside = value.get("weight") if isinstance(value, dict) else None
        number = isinstance(beside, int | float)
        table = self.component({name: each for name, each in value.items() if name != "weight"} if number else value, key, required)
        if table is None:
            return None
        if (weights := table.pop("weight", None)) is not None:
            if not isinstance(weights, list):
                self.problem(f"{key}.weight", "in args is the weight per class", "give a list, or put the loss's own weight beside type")
            elif table.setdefault("class_weights", weights) is not weights:
                self.problem(f"{key}.weight", "is the weight per class, and class_weights is given too", "keep one of them")
        return table | {"weight": beside} if number else table

    def scheduler(self, value: Any) -> dict[str, Any] | None:
        table = self.component(value, "scheduler")
        if table is None:
            return None
        interval = table.setdefault("interval", "epoch")
        if interval not in ("epoch", "step"):
            self.problem("scheduler.interval", f"is {_named(interval)}", 'write "epoch" or "step"')
        return table

    def settings(self, found: Mapping[str, Any]) -> dict[str, Any] | None:
        """Our [train], from the module's top, `train = dict(...)` and `runner = dict(...)`."""
        given: dict[str, dict[str, Any]] = {setting: {} for setting in SETTINGS}
        tables = [(f"{name}.", self.own_table(found.get(name), name, SETTING_NAMES) or {}) for name in ("train", "runner")]
        top = {name: self.plain(found[name], name) for name in SETTING_NAMES if found.get(name) is not None}
        for place, table in (("", top), *tables):
            for setting, names in SETTINGS.items():
                given[setting] |= {f"{place}{name}": table[name] for name in names if name in table}
        for values in given.values():
            for key, value in values.items():
                if value != values[first := next(iter(values))]:
                    self.problem(key, f"is {_named(value)}, and {first} is {_named(values[first])}", "keep one of them")
        return {setting: next(iter(values.values())) for setting, values in given.items() if values} or None

    def data(self, found: Mapping[str, Any]) -> dict[str, Any] | None:
        """Our [data]. How validation and test images are batched only changes the speed, so only training's counts."""
        keys = ("annotation", "batch_size", "num_workers", "pipeline")
        given = self.known_keys(found.get("data"), "data", SPLITS)
        splits = {split: self.known_keys(value, f"data.{split}", keys) for split, value in given.items()}
        found_paths = {split: self.path(table.get("annotation"), f"data.{split}.annotation") for split, table in splits.items()}
        annotations = {split: path for split, path in found_paths.items() if path}
        root = self.root(found, annotations)
        table: dict[str, Any] = {"root": root} if root else {}
        table |= {split: _below(root, path) for split, path in annotations.items()}
        for name, ours in (("batch_size", "batch_size"), ("num_workers", "workers")):
            if (value := splits.get("train", {}).get(name)) is not None:
                table[ours] = self.plain(value, f"data.train.{name}")
        return table or None

    def root(self, found: Mapping[str, Any], annotations: Mapping[str, str]) -> str | None:
        given = {name: root for name in ROOTS if (root := self.path(found.get(name), name))}
        if len(set(given.values())) > 1:
            self.problem(ROOTS[1], f"is another folder than {ROOTS[0]}", "keep one of them")
        if given or not annotations:
            return next(iter(given.values()), None)
        try:
            return os.path.commonpath([PurePath(path).parent for path in annotations.values()]) or "."
        except ValueError:
            self.problem("data", "the annotations have no folder in common", 'write data_root = "the folder of the data set"')
            return None

    def path(self, value: Any, key: str) -> str | None:
        if value is None:
            return None
        if not isinstance(value, str | PurePath) or not str(value):
            self.problem(key, f"wants a path, not {_named(value)}", "write it as text")
            return None
        return os.path.normpath(str(value))

    def augment(self, found: Mapping[str, Any]) -> dict[str, Any] | None:
        pipelines: dict[str, list[dict[str, Any]] | None] = {}
        for split in SPLITS:
            name = f"{split}_pipeline"
            top = found.get(name)
            pipelines[name] = self.pipeline(top, name, split)
            data = found.get("data")
            table = data.get(split) if isinstance(data, dict) else None
            used = table.get("pipeline") if isinstance(table, dict) else None
            if used is None or used is top:
                continue
            key = next((other for other, value in found.items() if isinstance(used, list) and value is used), f"data.{split}.pipeline")
            inner = self.pipeline(used, key, split)
            if top is not None and inner != pipelines[name]:
                self.problem(name, f"is not what data.{split}.pipeline holds", "keep one of them")
            pipelines[name] = inner
        train = pipelines["train_pipeline"]
        return None if train is None else {"train": train}

    def pipeline(self, value: Any, key: str, split: str) -> list[dict[str, Any]] | None:
        """A pipeline's transforms in albumentations 2.0.8's terms, without those that the engine itself does."""
        if value is None:
            return None
        if not isinstance(value, list | tuple):
            self.problem(key, f"wants a list of transforms, not {_named(value)}")
            return None
        transforms = []
        for index, each in enumerate(value):
            place = f"{key}[{index}]"
            table = None if _is_done_by_engine(each) else self.component(each, place, required=True)
            if table is not None and split != "train":
                message = f"{table['type']}: {'validation' if split == 'val' else 'test'} images are read as they are"
                self.problem(place, message, "remove it; the engine normalises, pads and crops back on its own")
            elif table is not None:
                translated, mistakes = translate_transform(table, place)
                for mistake in mistakes:
                    self.note(mistake)
                transforms.append(self.without_engine_steps(translated, place))
        return transforms

    def without_engine_steps(self, table: Any, key: str) -> Any:
        inner = table.get("transforms") if isinstance(table, dict) else None
        if not isinstance(inner, list):
            return table
        if any(map(_is_done_by_engine, inner)) and table.get("type") not in ("Compose", "Sequential"):
            self.problem(f"{key}.transforms", "every image is normalised, by the engine", f"remove {' and '.join(DONE_BY_THE_ENGINE)}")
        places = [(f"{key}.transforms[{index}]", each) for index, each in enumerate(inner)]
        steps = [self.without_engine_steps(each, place) for place, each in places if not _is_done_by_engine(each)]
        return table | {"transforms": steps}

    def component(self, value: Any, key: str, required: bool = False) -> dict[str, Any] | None:
        """A `dict(type=..., args=dict(...))` with the arguments beside `type`. None where there is none, or it is wrong."""
        if value is None and not required:
            return None
        if not isinstance(value, dict):
            self.problem(key, f"wants dict(type=..., args=dict(...)), not {_named(value)}")
            return None
        if not isinstance(value.get("type"), str):
            self.problem(key, "has no type", 'name the class: type="..."')
            return None
        return self.plain_table(value, key, (id(value),))

    def own_table(self, value: Any, key: str, keys: Iterable[str]) -> dict[str, Any] | None:
        """A dict whose keys are ours, without those that are None."""
        table = self.known_keys(value, key, keys)
        return {name: self.plain(each, f"{key}.{name}") for name, each in table.items() if each is not None} or None

    def known_keys(self, value: Any, key: str, keys: Iterable[str]) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.problem(key, f"wants a dict, not {_named(value)}")
            return {}
        for name in value:
            if not isinstance(name, str):
                self.problem(key, f"{_named(name)} is no key", did_you_mean("", keys))
            elif name not in keys:
                self.problem(f"{key}.{name}", "unknown key", did_you_mean(name, keys))
        return {name: value[name] for name in value if name in keys}

    def plain(self, value: Any, key: str, around: tuple[int, ...] = ()) -> Any:
        """The value as TOML holds it: tuples become lists, enumerations their value, a component's `args` stand beside `type`."""
        if isinstance(value, Enum):
            value = value.value
        for kind in (bool, int, float, str):
            if isinstance(value, kind) and (not isinstance(value, int) or value.bit_length() < 64):
                return kind(value)
        if value is None:
            return None
        if id(value) in around or len(around) > 50:
            self.problem(key, "holds itself, or is nested too deep")
            return None
        around = (*around, id(value))
        if isinstance(value, list | tuple):
            return [self.plain(each, f"{key}[{index}]", around) for index, each in enumerate(value)]
        if isinstance(value, dict):
            return self.plain_table(value, key, around)
        self.problem(key, f"is {_named(value)}, which a preset cannot hold", "write a number, text, a list or a dict")
        return None

    def plain_table(self, value: dict[Any, Any], key: str, around: tuple[int, ...]) -> dict[str, Any]:
        args = value.get("args") if "type" in value else None
        if args is not None and not isinstance(args, dict):
            self.problem(f"{key}.args", f"wants a dict, not {_named(args)}")
        outer = {name: each for name, each in value.items() if name != "args"} if "type" in value else value
        table: dict[str, Any] = {}
        for name, each in (*outer.items(), *(args.items() if isinstance(args, dict) else ())):
            if not isinstance(name, str):
                self.problem(key, f"{_named(name)} is no key", "write it as text")
            elif name in table:
                self.problem(f"{key}.{name}", "stands beside type and in args", "keep one of them")
            else:
                table[name] = self.plain(each, f"{key}.{name}", around)
        return table


def _is_done_by_engine(value: Any) -> bool:
    kind = value.get("type") if isinstance(value, dict) else None
    return isinstance(kind, str) and kind in DONE_BY_THE_ENGINE


def _below(root: str | None, path: str) -> str:
    """An annotation's path as seen from the root; one that is relative already, or lies elsewhere, stays as it is."""
    return PurePath(path).relative_to(root).as_posix() if root and PurePath(path).is_relative_to(root) else path


def _named(value: Any) -> str:
    """What a value is, in a few words: its own text where it is short, else its type."""
    number = isinstance(value, float) or (isinstance(value, int) and value.bit_length() < 64)
    if value is None or number or (isinstance(value, str) and len(value) <= 40):
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"the function {value.__name__}" if callable(value) and hasattr(value, "__name__") else f"a {type(value).__name__}"
