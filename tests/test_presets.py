"""Presets: loading, extending, overriding, where a mistake stands, and what a terminal process must not import."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

import engine
from engine.catalogue import catalogue, is_cached
from engine.errors import Problem, RequestError, did_you_mean
from engine.preset import BUILT_IN, find, from_dict, load, to_toml
from engine.schema import Preset
from engine.toml_lines import key_lines

BASE = """
[model]
type = "Unet"
encoder_name = "resnet18"
decoder_channels = [64, 32, 16, 8, 4]
activation = "sigmoid"

[augment]
train = [{ type = "HorizontalFlip", p = 0.5 }, { type = "Blur", p = 0.1 }]

[loss]
type = "CrossEntropyLoss"
label_smoothing = 0.1
class_weights = "auto"

[optimizer]
type = "AdamW"
lr = 1e-3
betas = [0.9, 0.99]
weight_decay = 1e-2

[scheduler]
type = "StepLR"
step_size = 3
interval = "step"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a test, with base.toml in it."""
    monkeypatch.chdir(tmp_path)
    Path("base.toml").write_text(BASE)
    return tmp_path


def above(text: str, *overrides: str, environment: dict[str, str] | None = None) -> Preset:
    """The preset of a file with `text`, which extends base.toml."""
    Path("above.toml").write_text(f'extends = "base.toml"\n{text}\n')
    return load("above.toml", overrides, environment or {})


def problems(text: str, *overrides: str, file: str = "above.toml") -> list[Problem]:
    """The mistakes of a file with exactly this text."""
    Path(file).write_text(text)
    with pytest.raises(RequestError) as refused:
        load(file, overrides, {})
    return list(refused.value.problems)


@pytest.mark.parametrize("file", sorted(BUILT_IN.glob("*.toml")), ids=lambda file: file.stem)
def test_built_in_presets_load_and_resolve_to_themselves(file: Path, tmp_path: Path) -> None:
    if file.stem == "base":
        with pytest.raises(RequestError, match="no such preset"):
            find("base")
        return
    preset = load(file)
    assert preset == load(file.stem)
    assert preset.name == file.stem
    assert preset.run_name == f"{preset.model.type}-{preset.model.encoder_name}"
    resolved = tmp_path / "preset.toml"
    resolved.write_text(to_toml(preset))
    assert load(resolved) == preset
    assert from_dict(preset.model_dump(exclude_none=True)) == preset


def test_tables_merge_and_arrays_replace_along_a_chain(folder: Path) -> None:
    (folder / "middle.toml").write_text('extends = "base.toml"\n[train]\nepochs = 7\nseed = 1\n[model]\nencoder_name = "resnet34"\n')
    (folder / "top.toml").write_text('extends = "middle.toml"\n[train]\nepochs = 9\n[augment]\ntrain = [{ type = "VerticalFlip" }]\n')
    preset = load("top.toml", environment={})
    assert (preset.train.epochs, preset.train.seed) == (9, 1)
    assert (preset.model.type, preset.model.encoder_name) == ("Unet", "resnet34")
    assert [transform.type for transform in preset.augment.train] == ["VerticalFlip"]
    assert preset.augment.train[0].args == {}
    assert preset.optimizer.args["betas"] == [0.9, 0.99]
    assert preset.name == "top"


def test_base_is_found_beside_the_file_that_names_it(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "above.toml").write_text('extends = "../base.toml"\n')
    assert load("inner/above.toml", environment={}).optimizer == load("base.toml", environment={}).optimizer


@pytest.mark.parametrize(
    ("key", "changes", "kept"),
    [
        ("model", ['type = "FPN"'], {"activation": "sigmoid"}),
        ("loss", ['type = "DiceLoss"'], {}),
        ("optimizer", ['type = "SGD"'], {"lr": 1e-3, "weight_decay": 1e-2}),
        ("scheduler", ['type = "MultiStepLR"', "milestones = [2]"], {"milestones": [2]}),
    ],
)
def test_changed_type_keeps_the_arguments_that_the_new_type_has(key: str, changes: list[str], kept: dict[str, Any]) -> None:
    preset = above("\n".join([f"[{key}]", *changes]))
    table: Any = getattr(preset, key)
    assert (table[0] if key == "loss" else table).args == kept
    assert preset.loss[0].class_weights == "auto"
    assert preset.scheduler is not None
    assert preset.scheduler.interval == "step"
    by_override = load("base.toml", [f"{key}.{change}" for change in changes], {})
    assert by_override.model_copy(update={"name": "above"}) == preset


def test_changed_type_of_one_of_several_losses_keeps_what_fits() -> None:
    losses = '[[loss]]\ntype = "CrossEntropyLoss"\nlabel_smoothing = 0.1\nweight = 0.25\n[[loss]]\ntype = "DiceLoss"'
    loss = above(losses, "loss.0.type=FocalLoss").loss[0]
    assert (loss.type, loss.weight, loss.args) == ("FocalLoss", 0.25, {})


def test_same_type_keeps_all_arguments() -> None:
    assert above('[optimizer]\ntype = "AdamW"\nlr = 2').optimizer.args == {"lr": 2, "betas": [0.9, 0.99], "weight_decay": 1e-2}


def test_no_scheduler() -> None:
    assert above('[scheduler]\ntype = "none"').scheduler is None


@pytest.mark.parametrize(
    ("override", "find_value", "value"),
    [
        ("train.epochs=10", lambda preset: preset.train.epochs, 10),
        ("train.epochs = 10", lambda preset: preset.train.epochs, 10),
        ("optimizer.lr=1e-4", lambda preset: preset.optimizer.args["lr"], 1e-4),
        ("train.compile=true", lambda preset: preset.train.compile, True),
        ("data.image_size=[64, 96]", lambda preset: preset.data.image_size, [64, 96]),
        ("wandb.project=my project", lambda preset: preset.wandb.project, "my project"),
        ('wandb.project="10"', lambda preset: preset.wandb.project, "10"),
        ("wandb.project=a=b", lambda preset: preset.wandb.project, "a=b"),
        ("wandb.project=", lambda preset: preset.wandb.project, ""),
        ("model.encoder_name=tu-convnext_tiny", lambda preset: preset.model.encoder_name, "tu-convnext_tiny"),
        ("augment.train.1.p=0.9", lambda preset: [each.args for each in preset.augment.train], [{"p": 0.5}, {"p": 0.9}]),
        ("augment.train=[]", lambda preset: preset.augment.train, []),
        ("model.decoder_channels.4=2", lambda preset: preset.model.args["decoder_channels"], [64, 32, 16, 8, 2]),
        ('scheduler={type="none"}', lambda preset: preset.scheduler, None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_override(override: str, find_value: Any, value: Any) -> None:
    assert find_value(load("base.toml", [override], {})) == value


def test_overrides_apply_from_left_to_right() -> None:
    two = '[[loss]]\ntype = "CrossEntropyLoss"\n[[loss]]\ntype = "DiceLoss"\nsmooth = 1.0'
    loss = above(two, "loss.0.weight=0.5", "loss.1.weight=0.25", "loss.0.weight=2").loss
    assert [(each.type, each.weight, each.args) for each in loss] == [("CrossEntropyLoss", 2, {}), ("DiceLoss", 0.25, {"smooth": 1.0})]


def test_data_root_is_decided_by_file_then_variable_then_override(folder: Path) -> None:
    in_file = '[data]\nroot = "from_file"'
    assert above(in_file).data.root == str(folder / "from_file")
    assert above(in_file, environment={"SEGTUI_DATA": "/from/variable"}).data.root == "/from/variable"
    assert above(in_file, "data.root=/from/set", environment={"SEGTUI_DATA": "/from/variable"}).data.root == "/from/set"
    assert above(in_file, "data.root=sample", environment={"SEGTUI_DATA": "/from/variable"}).data.root == "sample"
    assert above(in_file, environment={"SEGTUI_DATA": "~/x"}).data.root == str(Path.home() / "x")
    assert above("").data.root == "sample"


def test_data_root_follows_the_environment_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGTUI_DATA", "/from/variable")
    assert load("base.toml").data.root == "/from/variable"


TEXT = st.text(min_size=1, max_size=20)
NUMBERS = st.floats(allow_nan=False) | st.integers(-(2**62), 2**62)


TABLES = st.fixed_dictionaries(
    {
        "name": TEXT,
        "model": st.builds(lambda text: {"type": "Unet", "encoder_name": "resnet18", "activation": text}, st.text()),
        "data": st.fixed_dictionaries(
            {"root": st.just("/a/b")}, optional={"image_size": st.lists(st.integers(1, 9999), min_size=2, max_size=2)}
        ),
        "augment": st.fixed_dictionaries({"train": st.lists(st.builds(lambda p: {"type": "Blur", "p": p}, NUMBERS), max_size=3)}),
        "loss": st.lists(
            st.fixed_dictionaries(
                {"type": st.just("CrossEntropyLoss"), "weight": st.floats(1e-300, 1e300)},
                optional={"class_weights": st.just("auto") | st.lists(st.floats(0, 1e9), max_size=4)},
            ),
            min_size=1,
            max_size=3,
        ),
        "optimizer": st.fixed_dictionaries({"type": st.just("AdamW"), "lr": NUMBERS, "betas": st.lists(NUMBERS)}),
        "wandb": st.fixed_dictionaries({"project": st.text(), "tags": st.lists(st.text(), max_size=3)}),
    },
    optional={"scheduler": st.builds(lambda steps: {"type": "StepLR", "step_size": steps, "interval": "epoch"}, st.integers(1, 99))},
)


@settings(max_examples=60, deadline=None)
@given(table=TABLES)
def test_resolved_preset_reads_back_as_itself(table: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("round") / "preset.toml"
    file.write_bytes(tomli_w.dumps(table).encode())
    first = load(file, environment={})
    given_values = first.model_dump(exclude_unset=True)
    assert {key: given_values[key] for key in table} == table
    file.write_bytes(to_toml(first).encode())
    assert load(file, environment={}) == first


def place(problem: Problem) -> tuple[str, int | None, str]:
    return Path(problem.file).name, problem.line, problem.key


def test_every_mistake_is_told_with_file_key_line_and_nearest_match(folder: Path) -> None:
    (folder / "base.toml").write_text(BASE.replace("betas", "beta"))
    found = problems(
        'extends = "base.toml"\n'
        "[train]\n"
        "epoch = 3\n"
        'precision = "fp23"\n'
        "[augment]\n"
        "train = [\n"
        '  { type = "HorizontalFlip", p = 0.5 },\n'
        "  # a comment between\n"
        '  { type = "Blurr" },\n'
        '  { type = "OneOf", p = 1, transforms = [\n'
        '    { type = "Blur" },\n'
        '    { type = "GaussNoize" },\n'
        "  ] },\n"
        "]\n"
        "[[loss]]\n"
        'type = "DiceLoss"\n'
        "[[loss]]\n"
        'type = "DiceLos"\n'
        "weight = -1\n",
        "data.batch_size=0",
    )
    expected = {
        ("--set data.batch_size=0", None, "data.batch_size"): "",
        ("above.toml", 3, "train.epoch"): "did you mean 'epochs'?",
        ("above.toml", 4, "train.precision"): "did you mean 'fp32'?",
        ("above.toml", 9, "augment.train[1].type"): "did you mean 'Blur'?",
        ("above.toml", 12, "augment.train[2].transforms[1].type"): "did you mean 'GaussNoise'?",
        ("above.toml", 18, "loss[1].type"): "did you mean 'DiceLoss'?",
        ("above.toml", 19, "loss[1].weight"): "",
        ("base.toml", 19, "optimizer.beta"): "did you mean 'betas'?",
    }
    assert [place(problem) for problem in found] == list(expected)
    for problem, fix in zip(found, expected.values(), strict=True):
        assert problem.fix.startswith(fix)


def test_a_key_that_is_missing_is_told_at_its_table() -> None:
    assert [place(problem) for problem in problems("\n[model]\ntype = 'Unet'\n[loss]\n[optimizer]\ntype = 'SGD'\n")] == [
        ("above.toml", 2, "model.encoder_name"),
        ("above.toml", 4, "loss.type"),
    ]


def test_cycle_names_its_files(folder: Path) -> None:
    (folder / "other.toml").write_text('\nextends = "above.toml"\n')
    [problem] = problems('extends = "other.toml"\n')
    assert place(problem) == ("other.toml", 2, "extends")
    assert "above.toml" in str(problem)


@pytest.mark.parametrize(
    ("word", "allowed", "text"),
    [
        ("epoch", ["epochs", "seed"], "did you mean 'epochs'? (allowed: epochs, seed)"),
        ("PAM", ["pan", "fpn"], "did you mean 'pan'? (allowed: fpn, pan)"),
        ("zzz", ["b", "a"], "allowed: a, b"),
        ("zzz", [str(number) for number in range(13)], ""),
    ],
)
def test_nearest_word(word: str, allowed: list[str], text: str) -> None:
    assert did_you_mean(word, allowed) == text


SCALARS = st.sampled_from(["1", "true", "1e-3", '"text"', '"a # b"', '"]"', "'[x]'", '"\u2028"', "1979-05-27", "[]", "{}"])
FILLERS = st.sampled_from(["", "# a comment", "   ", "# [header]", "# key = [", "# next\u0085line"])
Line = tuple[str, tuple[tuple[str | int, ...], ...]]
"""A line's text, and the paths that appear with it."""


@st.composite
def documents(draw: st.DrawFn) -> list[Line]:
    """A TOML file line by line; each name occurs once, so that every path has exactly one line."""
    lines: list[Line] = []
    for table in range(draw(st.integers(0, 4))):
        header: tuple[str | int, ...] = (f"t{table}",)
        kind = draw(st.sampled_from(["table", "dotted", "array"]))
        if kind == "dotted":
            lines.append((f"[t{table}.in]", (header, (*header, "in"))))
            header = (*header, "in")
        elif kind == "table":
            lines.append((f"[t{table}]", (header,)))
        for item in range(draw(st.integers(1, 2)) if kind == "array" else 1):
            path = (*header, item) if kind == "array" else header
            if kind == "array":
                lines.append((f"[[t{table}]]", (header, path) if item == 0 else (path,)))
            for key in range(draw(st.integers(0, 4))):
                lines += draw(entries(path, f"k{key}"))
                lines += [(filler, ()) for filler in draw(st.lists(FILLERS, max_size=2))]
    return lines


@st.composite
def entries(draw: st.DrawFn, above: tuple[str | int, ...], key: str) -> list[Line]:
    path = (*above, key)
    kind = draw(st.sampled_from(["scalar", "dotted", "inline", "text", "array"]))
    if kind == "scalar":
        return [(f"{key} = {draw(SCALARS)}", (path,))]
    if kind == "dotted":
        return [(f"{key}.x.y = 1", (path, (*path, "x"), (*path, "x", "y")))]
    if kind == "inline":
        return [(f"{key} = {{ x = 1, y = [2, 3] }}", (path, (*path, "x"), (*path, "y"), (*path, "y", 0), (*path, "y", 1)))]
    if kind == "text":
        return [(f'{key} = """', (path,)), ("[no.header]", ()), ("no = [", ()), ('"""', ())]
    return draw(arrays(f"{key} = ", path, depth=0))


@st.composite
def arrays(draw: st.DrawFn, start: str, path: tuple[str | int, ...], depth: int) -> list[Line]:
    """An array over several lines: numbers, tables, and tables that hold such arrays."""
    lines: list[Line] = [(f"{start}[", (path,))]
    for item in range(draw(st.integers(0, 3))):
        inner = (*path, item)
        kind = draw(st.sampled_from(["number", "table", "nested", "filler"] if depth < 2 else ["number", "table"]))
        if kind == "table":
            lines.append((f'  {{ type = "x", p = {item} }},', (inner, (*inner, "type"), (*inner, "p"))))
        elif kind == "nested":
            nested = draw(arrays('  { type = "x", transforms = ', (*inner, "transforms"), depth=depth + 1))
            first, *rest = nested
            last = rest.pop()
            lines += [(first[0], (inner, (*inner, "type"), *first[1])), *rest, (f"{last[0]} }},", last[1])]
        else:
            lines += [("  # ] } comment", ())] if kind == "filler" else []
            lines.append((f"  {item},", (inner,)))
    return [*lines, ("]", ())]


@settings(max_examples=150, deadline=None)
@given(lines=documents(), end=st.sampled_from(["\n", "\r\n"]))
def test_key_lines_are_those_that_the_file_was_made_with(lines: list[Line], end: str) -> None:
    text = end.join(line for line, _ in lines)
    tomllib.loads(text)
    expected = {path: number for number, (_, paths) in enumerate(lines, start=1) for path in paths}
    assert key_lines(text) == expected


def test_catalogue_has_the_names_that_presets_use() -> None:
    known = catalogue()
    architectures = "Unet UnetPlusPlus MAnet Linknet FPN PSPNet DeepLabV3 DeepLabV3Plus PAN UPerNet Segformer DPT"
    assert set(known.models) == set(architectures.split())
    assert {"resnet18", "efficientnet-b3", "mit_b2", "tu-convnext_tiny"} <= set(known.encoders)
    assert "imagenet" in known.encoders["resnet34"]
    assert known.models["PAN"].keys().isdisjoint({"classes", "in_channels"})
    assert known.optimizers["SGD"]["lr"].default == "0.001"
    assert known.schedulers["StepLR"]["step_size"].required


@pytest.mark.slow
def test_catalogue_is_what_the_libraries_offer() -> None:
    import segmentation_models_pytorch as smp
    import timm

    known = catalogue()
    exported = {kind.__name__ for kind in vars(smp).values() if isinstance(kind, type) and issubclass(kind, smp.base.SegmentationModel)}
    assert exported <= set(known.models)
    assert {name for name in known.encoders if not name.startswith("tu-")} == set(smp.encoders.encoders)
    assert {name for name in known.encoders if name.startswith("tu-")} == {f"tu-{name}" for name in timm.list_models()}


HEAVY = {"torch", "torchvision", "segmentation_models_pytorch", "timm", "albumentations", "cv2", "wandb", "textual"}


def imported_by(code: str, *arguments: str) -> set[str]:
    """The top-level modules that a fresh process has after running `code`."""
    program = f"import sys\n{code}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}), file=sys.stderr)"
    told = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=dict(os.environ), check=True)
    return set(told.stderr.splitlines()[-1].split())


def test_loading_a_preset_imports_no_training_library() -> None:
    catalogue()
    assert is_cached()
    modules = imported_by("import engine.preset\nengine.preset.load(sys.argv[1])", str(BUILT_IN / "pan.toml"))
    assert "engine" in modules
    assert modules.isdisjoint(HEAVY)


@pytest.mark.parametrize("arguments", [("--help",), ("runs",), ("checkpoints",), ("runs", "--json"), ("attach", "--help")], ids=" ".join)
def test_listings_and_help_import_no_heavy_library(arguments: tuple[str, ...], folder: Path) -> None:
    code = "from tui.cli import main\ntry: code = main(sys.argv[1:])\nexcept SystemExit as ended: code = ended.code\nassert not code"
    modules = imported_by(code, *arguments)
    assert "tui" in modules
    assert modules.isdisjoint(HEAVY)
    assert [path.name for path in folder.iterdir()] == ["base.toml"]


@pytest.mark.slow
def test_engine_imports_nothing_of_the_screen() -> None:
    names = [module.name for module in pkgutil.walk_packages(engine.__path__, "engine.")]
    names.remove("engine.warm")  # it takes the streams away, and imports others of them
    assert "engine.train" in names
    modules = imported_by("import importlib\nfor name in sys.argv[1:]: importlib.import_module(name)", *names)
    assert "torch" in modules
    assert modules.isdisjoint({"textual", "tui"})
