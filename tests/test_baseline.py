"""Presets in Python: what a whole file becomes, and what is said of each mistake."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.baseline import NAMES, read_python_preset
from engine.errors import Problem, RequestError

BASELINE = '''
"""UNet++ on the recycling data set."""
import os
from os.path import join
from pathlib import Path

lr = 1e-4
crop = 512
_weights = [0.5, 1.0, 2.0]
dataset_path = "../input/data"


def annotation(name):
    return join(dataset_path, name)


model = dict(type="UnetPlusPlus", args=dict(encoder_name="resnet50", encoder_weights="imagenet", in_channels=3, classes=12))

flips = [dict(type="HorizontalFlip", p=0.5), dict(type="VerticalFlip", p=0.5)]
train_pipeline = [
    dict(type="OneOf", args=dict(transforms=flips, p=0.5)),
    dict(type="RandomResizedCrop", args=dict(height=crop, width=crop, scale=(0.5, 1.0), always_apply=True)),
    dict(
        type="GridDropout",
        args=dict(ratio=0.2, holes_number_x=5, holes_number_y=6, random_offset=True, fill_value=0, p=0.3),
    ),
    dict(type="CoarseDropout", args=dict(max_holes=8, max_height=32, max_width=32, p=0.5)),
    dict(type="Normalize", args=dict()),
    dict(type="ToTensorV2"),
]
val_pipeline = [dict(type="Normalize", args=dict()), dict(type="ToTensorV2", args=dict())]
test_pipeline = [dict(type="ToTensorV2")]

data = dict(
    train=dict(annotation=annotation("train.json"), batch_size=8, num_workers=4, pipeline=train_pipeline),
    val=dict(annotation=annotation("val.json"), batch_size=16, num_workers=2, pipeline=val_pipeline),
    test=dict(annotation=Path(dataset_path) / "test.json", batch_size=16, num_workers=2, pipeline=test_pipeline),
)

criterion = [
    dict(type="CrossEntropyLoss", args=dict(weight=_weights, label_smoothing=0.1), weight=0.75),
    dict(type="DiceLoss", args=dict(mode="multiclass", ignore_index=None), weight=0.25),
]
optimizer = dict(type="AdamW", args=dict(lr=lr, weight_decay=1e-6, betas=(0.9, 0.999)))
scheduler = dict(type="CosineAnnealingLR", args=dict(T_max=50, eta_min=1e-6))
wandb = dict(entity="me", team_entity="team", project="trash", run_name=None)
train = dict(num_epochs=50, seed=21)
save_freq = 5
val_every = 1
'''

EXPECTED: dict[str, Any] = {
    "model": {"type": "UnetPlusPlus", "encoder_name": "resnet50", "encoder_weights": "imagenet"},
    "data": {
        "root": "../input/data",
        "train": "train.json",
        "val": "val.json",
        "test": "test.json",
        "batch_size": 8,
        "workers": 4,
    },
    "augment": {
        "train": [
            {"type": "OneOf", "transforms": [{"type": "HorizontalFlip", "p": 0.5}, {"type": "VerticalFlip", "p": 0.5}], "p": 0.5},
            {"type": "RandomResizedCrop", "size": [512, 512], "scale": [0.5, 1.0], "p": 1},
            # albumentations 2.0.8 takes the rows first
            {"type": "GridDropout", "ratio": 0.2, "holes_number_xy": [6, 5], "random_offset": True, "fill": 0, "p": 0.3},
            {
                "type": "CoarseDropout",
                "num_holes_range": [8, 8],
                "hole_height_range": [32, 32],
                "hole_width_range": [32, 32],
                "p": 0.5,
            },
        ]
    },
    "loss": [
        {"type": "CrossEntropyLoss", "class_weights": [0.5, 1.0, 2.0], "label_smoothing": 0.1, "weight": 0.75},
        {"type": "DiceLoss", "mode": "multiclass", "ignore_index": None, "weight": 0.25},
    ],
    "optimizer": {"type": "AdamW", "lr": 1e-4, "weight_decay": 1e-6, "betas": [0.9, 0.999]},
    "scheduler": {"type": "CosineAnnealingLR", "T_max": 50, "eta_min": 1e-6, "interval": "epoch"},
    "train": {"epochs": 50, "seed": 21, "save_interval": 5, "val_every": 1},
    "wandb": {"entity": "me", "team_entity": "team", "project": "trash"},
}
MODEL = 'model = dict(type="Unet", args=dict(encoder_name="resnet18"))\n'


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Writes a preset, after a model unless it sets one, and gives its path."""

    def write(text: str) -> Path:
        path = tmp_path / "preset.py"
        path.write_text(text if re.search(r"\bmodel\b( =|\()", text) else MODEL + text)
        return path

    return write


def problems_of(path: Path) -> tuple[Problem, ...]:
    with pytest.raises(RequestError) as caught:
        read_python_preset(path)
    assert all(problem.file == str(path) for problem in caught.value.problems)
    return caught.value.problems


def test_a_whole_baseline_preset_becomes_what_toml_would_give(written: Any) -> None:
    assert read_python_preset(written(BASELINE)) == EXPECTED


def test_the_result_holds_nothing_but_what_toml_and_none_can(written: Any) -> None:
    def types(value: Any) -> set[type]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return {type(value)}.union(*map(types, inner))

    assert types(read_python_preset(written(BASELINE))) == {dict, list, str, int, float, bool, type(None)}


def test_the_process_that_reads_a_preset_imports_no_training_library() -> None:
    code = "import sys, engine.baseline; print({'torch', 'albumentations', 'cv2', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("text", "part", "expected"),
    [
        ("", "model", {"type": "Unet", "encoder_name": "resnet18"}),
        ('model = dict(type="FPN", encoder_weights=None)', "model", {"type": "FPN", "encoder_weights": "none"}),
        ('optimizer = dict(type="SGD", lr=0.1, args=dict(momentum=0.9))', "optimizer", {"type": "SGD", "lr": 0.1, "momentum": 0.9}),
        ('criterion = dict(type="CrossEntropyLoss")', "loss", {"type": "CrossEntropyLoss"}),
        (
            'criterion = dict(type="CrossEntropyLoss", weight=(1, 2))',
            "loss",
            {"type": "CrossEntropyLoss", "class_weights": [1, 2]},
        ),
        ('criterion = dict(type="A", weight=2, args=dict(weight=[1]))', "loss", {"type": "A", "weight": 2, "class_weights": [1]}),
        ('criterion = dict(type="A", args=dict(class_weights="auto"))', "loss", {"type": "A", "class_weights": "auto"}),
        ('criterion = dict(type="A", args=dict(weight=None))', "loss", {"type": "A"}),
        ('scheduler = dict(type="OneCycleLR", interval="step")', "scheduler", {"type": "OneCycleLR", "interval": "step"}),
        ('scheduler = dict(type="OneCycleLR", args=None)', "scheduler", {"type": "OneCycleLR", "interval": "epoch"}),
        ("scheduler = None", "scheduler", None),
        ("wandb = None", "wandb", None),
        ("wandb = dict(entity=None)", "wandb", None),
        ("runner = dict(max_epochs=30)\nseed = 3\nepochs = None", "train", {"epochs": 30, "seed": 3}),
        ("epochs = 30\nrunner = dict(max_epochs=30)", "train", {"epochs": 30}),
        ("train_pipeline = []", "augment", {"train": []}),
        ("val_pipeline = [dict(type='ToTensor')]", "augment", None),
        ("data = dict(train=dict(pipeline=[dict(type='Blur')]), val=None)", "augment", {"train": [{"type": "Blur"}]}),
        (
            "train_pipeline = [dict(type='Compose', args=dict(transforms=[dict(type='Normalize'), dict(type='Blur')]))]",
            "augment",
            {"train": [{"type": "Compose", "transforms": [{"type": "Blur"}]}]},
        ),
        (
            "from enum import IntEnum\nE = IntEnum('E', 'A B')\ntrain_pipeline = [dict(type='T', n=E.B)]",
            "augment",
            {"train": [{"type": "T", "n": 2}]},
        ),
        (
            "data = dict(train=dict(annotation='/opt/ml/train.json'), val=dict(annotation='/opt/ml/folds/val.json'))",
            "data",
            {"root": "/opt/ml", "train": "train.json", "val": "folds/val.json"},
        ),
        ("data = dict(train=dict(annotation='train.json'))", "data", {"root": ".", "train": "train.json"}),
        ("data = dict(train=dict(annotation='./data/train.json'))", "data", {"root": "data", "train": "train.json"}),
        (
            "data_root = 'data/'\ndata = dict(train=dict(annotation='train.json'), val=dict(annotation='/else/val.json'))",
            "data",
            {"root": "data", "train": "train.json", "val": "/else/val.json"},
        ),
        ("data_root = dataset_path = 'sample'", "data", {"root": "sample"}),
        ("data = dict(val=dict(batch_size=1, num_workers=9))", "data", None),
        ("data = dict(train=dict(batch_size=4, num_workers=0))", "data", {"batch_size": 4, "workers": 0}),
    ],
)
def test_one_part_of_a_preset(written: Any, text: str, part: str, expected: Any) -> None:
    assert read_python_preset(written(text)).get(part) == expected


@pytest.mark.parametrize(
    ("text", "key", "line", "words"),
    [
        ("model = dict(type='Unet',\n  args=dict(\n  in_channels=1))", "model.in_channels", 3, "3 channels"),
        ("model = 5", "model", 1, "not 5"),
        ("def model(): ...", "model", None, "not the function model"),
        ("model = dict(type=int)", "model", 1, "no type"),
        ("model = {'type': 'Unet', 'args': [1]}", "model.args", 1, "wants a dict"),
        ("model = dict(type='Unet', p=1,\n args={'p': 2})", "model.p", 1, "beside type and in args"),
        ("model = dict(type='Unet', act=print)", "model.act", 1, "the function print"),
        ("class B: ...\nmodel = dict(type='Unet', args=dict(\nact=B))", "model.act", 3, "the class B"),
        ("model = dict(type='Unet', s={1, 2})", "model.s", 1, "a set"),
        ("model = dict(type='Unet', s=[0, b'x'])", "model.s[1]", 1, "a bytes"),
        ("model = dict(type='Unet', s=10**5000)", "model.s", 1, "a int"),
        ("model = dict(type='Unet', s={1: 2})", "model.s", 1, "1 is no key"),
        ("a = []\na.append(a)\nmodel = dict(type='Unet', s=a)", "model.s[0]", 3, "holds itself"),
        ("optimzer = dict(type='AdamW')", "optimzer", 2, "did you mean 'optimizer'?"),
        ("zzz = [1]", "zzz", 2, "Remove it"),
        ("wandb = dict(team='x')", "wandb.team", 2, "team_entity"),
        ("data = dict(trian=dict())", "data.trian", 2, "did you mean 'train'?"),
        ("data = dict(train=dict(batchsize=8))", "data.train.batchsize", 2, "did you mean 'batch_size'?"),
        ("data = dict(train=dict(annotation=5))", "data.train.annotation", 2, "wants a path, not 5"),
        ("data = dict(train=dict(batch_size={1}))", "data.train.batch_size", 2, "a set"),
        ("data = dict(train=dict(annotation='/a/b'), val=dict(annotation='c'))", "data", 2, "data_root"),
        ("data_root = 'a'\ndataset_path = 'b'", "dataset_path", 3, "another folder"),
        ("train = dict(epoch=3)", "train.epoch", 2, "did you mean 'epochs'?"),
        ("epochs = 3\ntrain = dict(\nmax_epochs=4)", "train.max_epochs", 4, "is 4, and epochs is 3"),
        ("epochs = print", "epochs", 2, "the function print"),
        ("scheduler = dict(type='StepLR', interval='batch')", "scheduler.interval", 2, '"epoch" or "step"'),
        ("criterion = []", "criterion", 2, "at least one"),
        ("criterion = [None]", "criterion[0]", 2, "not None"),
        ("criterion = [dict(type='A'),\n dict(type='B', args=dict(weight=2))]", "criterion[1].weight", 3, "per class"),
        ("criterion = dict(type='A', args=dict(weight=[1], class_weights='auto'))", "criterion.weight", 2, "keep one"),
        ("train_pipeline = dict(type='Blur')", "train_pipeline", 2, "wants a list of transforms"),
        ("train_pipeline = ['Blur']", "train_pipeline[0]", 2, "not 'Blur'"),
        (
            "val_pipeline = [\n dict(type='Normalize'),\n dict(type='Resize', args=dict(height=2))]",
            "val_pipeline[1]",
            4,
            "read as they are",
        ),
        ("test_pipeline = [dict(type='Resize')]", "test_pipeline[0]", 2, "test images are read as they are"),
        ("data = dict(val=dict(pipeline=[\n dict(type='Resize')]))", "data.val.pipeline[0]", 3, "read as they are"),
        ("flip = dict(\n type='Flip')\ntrain_pipeline = [flip]", "train_pipeline[0].type", 3, "HorizontalFlip"),
        (
            "train_pipeline = [dict(type='Blur'),\n dict(type='GridDropout',\n args=dict(\n holes_number_x=4))]",
            "train_pipeline[1].holes_number_x",
            5,
            "holes_number_y",
        ),
        (
            "mine = [dict(type='ElasticTransform', alpha_affine=9)]\ndata = dict(train=dict(pipeline=mine))",
            "mine[0].alpha_affine",
            2,
            "Affine",
        ),
        (
            "train_pipeline = [dict(type='OneOf', args=dict(transforms=[\n dict(type='Blur'),\n dict(type='IAAEmboss')]))]",
            "train_pipeline[0].transforms[1].type",
            4,
            "write Emboss",
        ),
        (
            "train_pipeline = [dict(type='OneOf', transforms=[dict(type='Normalize'), dict(type='Blur')])]",
            "train_pipeline[0].transforms",
            2,
            "normalised, by the engine",
        ),
        (
            "train_pipeline = []\ndata = dict(train=dict(pipeline=[dict(type='Blur')]))",
            "train_pipeline",
            2,
            "not what data.train.pipeline holds",
        ),
        ("x = 1\ny = 1 / 0", "", 3, "ZeroDivisionError: division by zero"),
        ("def f():\n    raise ValueError('too late')\nf()", "", 3, "ValueError: too late"),
        ("import sys\nsys.exit('bye')", "", 3, "SystemExit: bye"),
        ("raise GeneratorExit", "", 2, "raised GeneratorExit"),
        ("import no_such_module_at_all", "", 2, "No module named 'no_such_module_at_all'"),
        ("x = (1,\ny = 2", "", 2, "is not Python"),
        ("x = 1\nreturn x", "", 3, "'return' outside function"),
    ],
)
def test_a_mistake_names_its_key_its_line_and_what_to_write(written: Any, text: str, key: str, line: int | None, words: str) -> None:
    (problem,) = problems_of(written(text))
    assert (problem.key, problem.line) == (key, line)
    assert words.lower() in str(problem).lower()


def test_every_mistake_of_a_file_is_told_at_once_in_the_order_of_its_lines(written: Any) -> None:
    text = "criterion = 5\noptimizer = dict(lr=1)\nschedular = dict(type='StepLR')\nepochs = {}\nwandb = dict(projekt='x')\n"
    assert [(problem.key, problem.line) for problem in problems_of(written(text))] == [
        ("criterion", 2),
        ("optimizer", 3),
        ("schedular", 4),
        ("wandb.projekt", 6),
    ]


def test_a_pipeline_used_twice_is_complained_of_once(written: Any) -> None:
    text = "val_pipeline = [dict(type='Resize')]\ndata = dict(val=dict(pipeline=val_pipeline), test=dict(pipeline=val_pipeline))"
    assert [problem.key for problem in problems_of(written(text)) if "validation" in problem.message] == ["val_pipeline[0]"]


@pytest.mark.parametrize(
    "text",
    [
        "import os, sys\nfrom os.path import join\nfrom os import environ as settings_of_the_machine",
        "lr = 1e-4\ncrop = 512\nname = 'x'",
        "_hidden = dict(a=1)\n__all__ = ['model']",
        "def helper(x=[1]): return {'a': x}\nclass C:\n    table = {}",
        "sizes = [1, 2]\nlargest = max(sizes)",
        "sizes = [1, 2]\nsizes.append(3)",
        "extra = dict(lr=1)\noptimizer = dict(type='SGD', args=extra)",
        "if True:\n    optimizer = dict(type='SGD')\nelse:\n    optimizer = None",
        "optimizer: dict = dict(type='SGD')\noptimizer['lr'] = 0.1",
    ],
)
def test_what_a_program_may_hold_beside_the_preset(written: Any, text: str) -> None:
    assert read_python_preset(written(text))["model"]["type"] == "Unet"


def test_a_name_that_refers_to_itself_does_not_hang_the_search_for_a_line(written: Any) -> None:
    text = "opt = dict(lr=[])\nopt = dict(args=opt)\noptimizer = dict(type='SGD', args=opt)\noptimizer['args']['args'] = {'x': {1}}"
    assert [problem.key for problem in problems_of(written(text))] == ["optimizer.args.x"]


def test_what_a_preset_prints_stays_out_of_stdout(written: Any, capfd: pytest.CaptureFixture[str]) -> None:
    read_python_preset(written("print('loading')"))
    assert capfd.readouterr() == ("", "loading\n")


def test_a_file_without_a_component_is_no_preset(tmp_path: Path) -> None:
    path = tmp_path / "helpers.py"
    path.write_text("lr = 1e-4\nepochs = 3\nmodel = None\n")
    (problem,) = problems_of(path)
    assert "sets none of model, criterion" in problem.message


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "binary.py"
    path.write_bytes(b"model = '\0'")
    (problem,) = problems_of(path)
    assert "is not Python" in problem.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path / "none.py")
    assert "No such file" in problem.message


def test_an_interrupt_of_the_user_stays_one(written: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        read_python_preset(written("raise KeyboardInterrupt"))


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**30), 10**30),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8"), max_size=5),
    st.binary(max_size=3),
    st.sampled_from(["Normalize", "OneOf", "GridDropout", "GaussNoise", "CoarseDropout", "Solarize", "Affine", "ElasticTransform"]),
    st.frozensets(st.integers(), min_size=1, max_size=2),
    st.complex_numbers(allow_nan=False, allow_infinity=False),
)
KEYS = st.one_of(
    st.sampled_from(
        ["type", "args", "weight", "train", "val", "annotation", "pipeline", "batch_size", "transforms", "p", "epochs", "interval"]
    ),
    st.sampled_from(
        ["always_apply", "holes_number_x", "unit_size_min", "unit_size_max", "var_limit", "mean", "threshold", "max_height", "cval"]
    ),
    st.integers(),
    st.text(st.characters(codec="utf-8"), max_size=3),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(KEYS, inner, max_size=4),
        st.builds(lambda table, kind: {"type": kind, **table}, st.dictionaries(KEYS, inner, max_size=4), LEAVES),
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([*NAMES, "helper", "Modle"]), VALUES, max_size=6))
def test_no_mess_of_values_raises_anything_but_a_request_error(tmp_path: Path, values: dict[str, Any]) -> None:
    path = tmp_path / "mess.py"
    path.write_text("".join(f"{name} = {value!r}\n" for name, value in values.items()), encoding="utf-8")
    preset, problems = {}, list[Problem]()
    try:
        preset = read_python_preset(path)
    except RequestError as error:
        problems += error.problems
    assert set(preset) <= {"model", "data", "augment", "loss", "optimizer", "scheduler", "train", "wandb"}
    assert all(problem.message and problem.file == str(path) for problem in problems)
