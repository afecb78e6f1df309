"""Wrong requests: each ends with exit code 2 and one message that names the place and the fix, and writes nothing.

Presets and arguments are refused in the terminal's process, through the command line. Data are refused by the doctor, which a
headless launch asks first, and like values that only a library can judge by the worker, in a process of its own.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from engine.catalogue import catalogue
from engine.errors import EXIT_REQUEST
from engine.events import Toggles
from engine.launch import Launched
from engine.preset import load
from engine.run import RunFolder, RunRecord
from engine.worker import Refused, Request
from engine.worker import main as worker_main
from tests.conftest import write_shapes
from tui.cli import main

TINY = """
[model]
type = "Unet"
encoder_name = "resnet18"
encoder_weights = "none"

[data]
root = "shapes"
batch_size = 2
workers = 0

[loss]
type = "CrossEntropyLoss"
label_smoothing = 0.1

[optimizer]
type = "AdamW"
lr = 1e-3

[train]
epochs = 1

[wandb]
mode = "disabled"
"""
TWO_LOSSES = 'extends = "tiny.toml"\n[[loss]]\ntype = "CrossEntropyLoss"\n[[loss]]\ntype = "DiceLoss"\n'
PYTHON = ["--headless", "a.py"]
OLD = """
model = dict(type="Unet", args=dict(encoder_name="resnet18"))
criterion = dict(type="CrossEntropyLoss")
optimizer = dict(type="AdamW", args=dict(lr=1e-3))
train_pipeline = [
    dict(type="{type}", args=dict({args})),
]
"""


def listing(folder: Path) -> dict[str, str]:
    """Every path below a folder with a digest of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def preset(name: str, text: str | bytes, place: str, *says: str, lines: int = 1) -> Any:
    """A case of a wrong preset file; text extends a preset that is right, bytes are the whole file. `place` is line, key and mistake."""
    content = text if isinstance(text, bytes) else f'extends = "tiny.toml"\n{text}\n'.encode()
    return pytest.param({"wrong.toml": content}, ["--headless", "wrong.toml"], (f"wrong.toml:{place}", *says), lines, id=name)


def transform(name: str, table: str, place: str, *says: str) -> Any:
    return preset(name, f"[augment]\ntrain = [{table}]", f"3: {place}", *says)


def command(name: str, arguments: list[str], *says: str, lines: int = 1, **files: str) -> Any:
    """A case of wrong arguments, beside the preset tiny.toml that is right; `a_py="..."` is a file a.py."""
    contents = {key.replace("_", "."): text.encode() for key, text in files.items()}
    return pytest.param(contents, arguments, says, lines, id=name)


def set_options(overrides: tuple[str, ...]) -> list[str]:
    return [part for each in overrides for part in ("--set", each)]


def override(name: str, *overrides: str, says: list[str], start: str = "tiny.toml", **files: str) -> Any:
    return command(name, ["--headless", start, *set_options(overrides)], *says, lines=1, **files)


PRESETS = [
    preset("unknown table", '[modle]\ntype = "PAN"', "2: modle: unknown key", "'model'"),
    preset("unknown key", "[train]\nepoch = 3", "3: train.epoch: unknown key", "'epochs'"),
    preset("unknown architecture", '[model]\ntype = "Unnet"', "3: model.type", "'Unnet'", "'Unet'", "PAN"),
    preset("unknown argument", "[model]\ndecoder_channel = [1]", "3: model.decoder_channel", "Unet", "'decoder_channels'"),
    preset("unknown encoder", '[model]\nencoder_name = "resnet19"', "3: model.encoder_name", "'resnet19'", "'resnet18'"),
    preset("unknown timm encoder", '[model]\nencoder_name = "tu-convnext_tini"', "3: model.encoder_name", "'tu-convnext_tiny'"),
    preset("unknown encoder weights", '[model]\nencoder_weights = "imagnet"', "3: model.encoder_weights", "'imagnet'", "'imagenet'"),
    preset("unknown loss", '[loss]\ntype = "DicesLoss"', "3: loss.type", "'DicesLoss'", "'DiceLoss'"),
    preset("scheduler without its argument", '[scheduler]\ntype = "StepLR"', "2: scheduler.step_size: is missing", "StepLR"),
    preset("unknown interval", '[scheduler]\ntype = "StepLR"\nstep_size = 1\ninterval = "steps"', "5: scheduler.interval", "'step'"),
    transform("unknown transform", '{ type = "HorizontalFlp" }', "augment.train[0].type", "'HorizontalFlip'"),
    transform("unknown argument of a transform", '{ type = "VerticalFlip", prob = 1 }', "augment.train[0].prob", "Allowed: p"),
    transform("unknown inner", '{ type = "OneOf", transforms = [{ type = "Blurr" }] }', "augment.train[0].transforms[0].type", "'Blur'"),
    transform("transforms of OneOf no array", '{ type = "OneOf", transforms = 3 }', "augment.train[0].transforms", "array"),
    preset("transform without type", "[augment]\ntrain = [{ p = 0.5 }]", "3: augment.train[0].type: is missing"),
    command(
        "transform without type, where the preset below has one",
        ["--headless", "wrong.toml"],
        "wrong.toml:3: augment.train[0].type: is missing",
        wrong_toml='extends = "below.toml"\n[augment]\ntrain = [{ p = 0.5 }]\n',
        below_toml='extends = "tiny.toml"\n[augment]\ntrain = [{ type = "VerticalFlip" }]\n',
    ),
    command(
        "a preset below that is no TOML",
        ["--headless", "a.toml"],
        "b.toml:1: is not TOML",
        "It is what a.toml extends",
        a_toml='extends = "b.toml"\n',
        b_toml="[x\n",
    ),
    transform("transform as text", '"HorizontalFlip"', "augment.train[0]: wants a table"),
    transform("normalisation as augmentation", '{ type = "Normalize" }', "augment.train[0].type: Normalize", "Leave it out"),
    preset("text for a whole number", '[train]\nepochs = "three"', "3: train.epochs: wants a whole number", "'three'"),
    preset("fraction for a whole number", "[data]\nbatch_size = 2.5", "3: data.batch_size: wants a whole number", "2.5"),
    preset("text for an optimizer's number", '[optimizer]\nlr = "fast"', "3: optimizer.lr: wants a number", "'fast'"),
    preset("text for a scheduler's number", '[scheduler]\ntype = "StepLR"\nstep_size = "x"', "4: scheduler.step_size", "'x'"),
    preset("text for true or false", '[train]\ncompile = "yes"', "3: train.compile: wants true or false"),
    preset("text for a table", 'model = "PAN"', "2: model: wants a table", "'PAN'"),
    preset("epochs out of range", "[train]\nepochs = 0", "3: train.epochs", "greater than 0"),
    preset("seed out of range", "[train]\nseed = 4294967296", "3: train.seed", "less than 4294967296"),
    preset("decay out of range", "[train]\nema_decay = 1.0", "3: train.ema_decay", "less than 1"),
    preset("image size of one number", "[data]\nimage_size = [64]", "3: data.image_size", "2 items"),
    preset("unknown precision", '[train]\nprecision = "bf61"', "3: train.precision", "'bf61'", "'bf16'"),
    preset("no loss at all", "loss = []", "2: loss"),
    preset("type of a loss no text", '[loss]\ntype = ["DiceLoss"]\nclass_weights = "auto"', "3: loss.type: wants text in quotes"),
    preset("weight of a second loss", '[[loss]]\ntype = "DiceLoss"\n[[loss]]\ntype = "FocalLoss"\nweight = -1', "6: loss[1].weight"),
    preset("loss without weights", '[loss]\ntype = "LovaszLoss"\nclass_weights = "auto"', "4: loss.class_weights", "CrossEntropyLoss"),
    preset("empty file", b"", " model: is missing", " loss: is missing", " optimizer: is missing", lines=3),
    preset("no number", "[train]\nclip_norm = nan", "3: train.clip_norm", "nan"),
    preset("no number as an argument", "[optimizer]\nlr = nan", "3: optimizer.lr", "number"),
    preset("not TOML", "[train\nepochs = 3", "2: is not TOML"),
    preset("a key twice", "[train]\nepochs = 3\nepochs = 4", "4: is not TOML"),
    preset("nested too deeply", b"a = " + b"[" * 5000, "", "nested"),
    preset("not UTF-8", b"[train]\n# caf\xe9\n", " is not UTF-8 text", "byte 13"),
    preset("line break in a key", '"a\\nb" = 1', "2", "unknown key"),
    preset("missing base", b'\nextends = "tinny.toml"\n', "2: extends", "'tinny.toml'", "'tiny.toml'"),
    preset("base of itself", b'extends = "wrong.toml"\n', "1: extends: "),
    preset("base no text", b"extends = 3\n", "1: extends: wants a file name", 'extends = "base.toml"'),
    preset("several mistakes", "[train]\nepoch = 3\n[data]\nworkers = -1", "3: train.epoch", "5: data.workers", lines=2),
    command("missing preset", ["--headless", "tinny.toml"], "tinny.toml: there is no such preset", "'tiny.toml'"),
    command("missing built-in preset", ["--headless", "unett"], "unett: there is no such preset", "'unet'"),
    command("name longer than a file's", ["--headless", "a" * 300], "aaa: "),
    command("folder as preset", ["--headless", "shapes"], "shapes: is a folder", "Name a file"),
    command("Python preset with a syntax error", PYTHON, "a.py:1: is not Python", a_py="model = dict(\n"),
    command("Python preset that raises", PYTHON, "a.py:2: raised KeyError: 'x'", a_py="\nmodel = {}['x']\n"),
    command("Python preset that raises lines", PYTHON, "a.py:1", "two", a_py='raise ValueError("two\\nlines")'),
    command("old transform", PYTHON, "a.py:6", "IAAPerspective", "Perspective", a_py=OLD.format(type="IAAPerspective", args="")),
    command("old argument", PYTHON, "a.py:6", "var_limit", "std_range", a_py=OLD.format(type="GaussNoise", args="var_limit=(10, 50)")),
    command("unknown argument in Python", PYTHON, "a.py: ", "Blur", "'kernel'", a_py=OLD.format(type="Blur", args="kernel=3")),
    override("override without value", "train.epochs", says=["--set train.epochs: is not KEY=VALUE", "--set train.epochs=10"]),
    override("override without key", "=3", says=["--set =3: is not KEY=VALUE", "--set train.epochs=10"]),
    override("override of an unknown key", "train.epoch=3", says=["--set train.epoch=3: train.epoch: unknown key", "'epochs'"]),
    override("override of the wrong type", "train.epochs=many", says=["--set train.epochs=many: train.epochs: wants a whole number"]),
    override("override of no item", "augment.train=[]", "augment.train.0.p=1", says=["--set augment.train.0.p=1", "no item 0"]),
    override("override of the base", "extends=tiny.toml", says=["--set extends=tiny.toml", "in the file"]),
    override("several losses", "loss.weight=2", start="two.toml", two_toml=TWO_LOSSES, says=["loss.weight=2", "loss.0.weight"]),
    override("a line break in an override", "train.epochs=1\nx", says=["train.epochs: wants a whole number"]),
    command("unknown option", ["--headless", "tiny.toml", "--epochs", "3"], "--epochs", "--help"),
    command("no preset", ["--headless", "--debug"], "name a preset", "--resume"),
    command("resume with a preset", ["--headless", "tiny.toml", "--resume", "run"], "--resume", "nothing beside it"),
    command("resume of a missing run", ["--headless", "--resume", "Unet"], "Unet: there is no such run", "segtui runs"),
    command("attach to a missing run", ["attach", "Unet"], "Unet: there is no such run", "segtui runs"),
    command("attach without a run", ["attach"], "RUN", "segtui attach --help"),
    command("attach to a name longer than a file's", ["attach", "a" * 300], "aaa: there is no such run"),
    command("stop of a missing run", ["stop", "Unet"], "Unet: there is no such run", "segtui runs"),
    command("unknown option of a listing", ["runs", "--jsn"], "--jsn", "segtui runs --help"),
]


@pytest.mark.parametrize(("files", "arguments", "says", "lines"), PRESETS)
def test_request_is_refused_before_a_worker_starts(
    files: dict[str, bytes],
    arguments: list[str],
    says: tuple[str, ...],
    lines: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def started(*_: object) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(Launched, "__init__", started)
    monkeypatch.chdir(tmp_path)
    for name, content in ({"tiny.toml": TINY.encode()} | files).items():
        Path(name).write_bytes(content)
    Path("shapes").mkdir()
    before = listing(tmp_path)
    catalogue()

    assert main(arguments) == EXIT_REQUEST
    told = capsys.readouterr()
    assert_one_message(told.out, told.err, says, lines)
    assert listing(tmp_path) == before


def assert_one_message(out: str, err: str, says: tuple[str, ...], lines: int = 1) -> None:
    assert out == ""
    assert "Traceback" not in err
    assert all(line.startswith("segtui: ") for line in err.splitlines()), err
    assert len(err.splitlines()) == lines, err
    for text in says:
        assert text in err


def test_stop_of_a_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs" / "Unet-resnet18")
    before = listing(tmp_path)
    assert main(["stop", "Unet-resnet18", "--runs", str(tmp_path / "runs")]) == EXIT_REQUEST
    told = capsys.readouterr()
    assert_one_message(told.out, told.err, ("Unet-resnet18", "finished"))
    assert listing(tmp_path) == before


def write_run(folder: Path, state: Any = "finished", *, debug: bool = False) -> RunFolder:
    """What a run leaves behind, less its weights."""
    run = RunFolder(folder)
    run.path.mkdir(parents=True)
    (run.path / ".lock").touch()
    told = {"name": folder.name, "preset": "tiny", "model": "Unet-resnet18", "epochs": 1}
    process = {"host": "elsewhere", "pid": 1, "pid_started": 0.0, "created": time.time()}
    run.write(msgspec.convert(told | process | {"state": state, "toggles": {"debug": debug}}, RunRecord))
    return run


Spoil = Callable[[Path], None]


def edited(change: Callable[[Any], object], name: str = "train.json") -> Spoil:
    def spoil(root: Path) -> None:
        data = json.loads((root / name).read_text())
        change(data)
        (root / name).write_text(json.dumps(data))

    return spoil


def annotation(**values: Any) -> Spoil:
    return edited(lambda data: data["annotations"][3].update(values))


def top(name: str = "train.json", **values: Any) -> Spoil:
    return edited(lambda data: data.update(values), name)


def image(**values: Any) -> Spoil:
    return edited(lambda data: data["images"][1].update(values))


def rle(**values: Any) -> Spoil:
    return annotation(segmentation={"size": [64, 64]} | values)


def category(**values: Any) -> Spoil:
    return edited(lambda data: data["categories"][1].update(values))


def written(content: bytes, name: str = "train.json") -> Spoil:
    def spoil(root: Path) -> None:
        (root / name).write_bytes(content)

    return spoil


def removed(name: str) -> Spoil:
    return lambda root: (root / name).unlink()


def no_change(_: Path) -> None:
    pass


def first_image(content: bytes, height: int = 64, width: int = 64, name: str = "images/photo.jpg") -> Spoil:
    """The training set's first image is another file, of the size in the json that is given here."""

    def spoil(root: Path) -> None:
        (root / name).write_bytes(content)
        edited(lambda data: data["images"][0].update(file_name=name, height=height, width=width))(root)

    return spoil


def jpeg(height: int = 64, width: int = 64, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise = np.random.default_rng(3).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", exif=exif)
    return file.getvalue()


def case(name: str, spoil: Spoil, *says: str, overrides: tuple[str, ...] = (), draws_masks: bool = False) -> Any:
    return pytest.param(spoil, overrides, says, draws_masks, id=name)


def value(name: str, *overrides: str, says: list[str]) -> Any:
    """A wrong value in a right data set. Losses are made last, since class weights may come from the masks."""
    return case(name, no_change, *says, overrides=overrides, draws_masks=overrides[0].startswith("loss."))


DATA = [
    case("json missing", removed("train.json"), "train.json: does not exist", "val.json"),
    case("json is a folder", removed("train.json"), "images: cannot be read", overrides=("data.train=images",)),
    case("json of another name", no_change, "training.json: does not exist", "train.json", overrides=("data.train=training.json",)),
    case("data folder missing", no_change, "data.root: there is no folder", "nowhere", "SEGTUI_DATA", overrides=("data.root=nowhere",)),
    case("json cut off", written(b'{"images": [\n{"id": 1,'), "train.json:2: is not json"),
    case("json of another encoding", written('{"images": "é"}'.encode("latin-1")), "train.json: cannot be read as json"),
    case("json nested too deeply", written(b"[" * 100_000), "train.json: cannot be read as json"),
    case("json is a list", written(b"[]"), "train.json: is not a COCO json"),
    case("no images list", top(images=None), "train.json: has no 'images' list"),
    case("images no list", top(images={}), "train.json: 'images' is not a list"),
    case("no images", top(images=[], annotations=[]), "train.json: its 'images' list is empty"),
    case("no categories", top("val.json", categories=[]), "val.json: its 'categories' list is empty"),
    case("no annotations", top(annotations=[]), "train.json: has no annotations to learn from"),
    case("category id twice", category(id=1), "train.json: category id 1 occurs 2 times"),
    case("category name twice", category(name="square"), "train.json: category name 'square' occurs 2 times"),
    case("category without name", category(name=" "), "train.json: category number 1 needs", "'name'"),
    case("a Background", category(name="Background"), "train.json: has a category named 'Background'", 'data.background = "ignore"'),
    case("too many categories", top(categories=[{"id": n, "name": f"{n}"} for n in range(300)]), "train.json: has 300 categories", "253"),
    case("other categories", category(name="circle"), "val.json: categories", "only in train.json: circle", "only in val.json: triangle"),
    case("image id twice", image(id=0), "train.json: image id 0 occurs more than once", "image_id 1"),
    case("image without file name", image(file_name=""), "train.json: image 1 has no 'file_name'"),
    case("image without size", image(height=None), "train.json: image 1 needs 'height' and 'width'"),
    case("image of an impossible size", image(height=10**12), "train.json: ", "1000000000000"),
    case("annotation of an unknown image", annotation(image_id=99), "train.json: annotation 3 belongs to image_id 99"),
    case("annotation of an unknown category", annotation(category_id=7), "train.json: annotation 3 has category_id 7"),
    case("annotation without outline", annotation(segmentation=None), "train.json: annotation 3 has no 'segmentation'"),
    case("odd polygon", annotation(segmentation=[[1, 2, 30, 4, 5, 30, 7]]), "train.json: annotation 3 has a polygon", "x, y pairs"),
    case("polygon with text", annotation(segmentation=[["1", 2, 30, 4, 5, 30]]), "train.json: annotation 3 has a polygon", "x, y pairs"),
    case("RLE of another size", rle(size=[64, 32], counts=[2048]), "annotation 3 has an RLE of size [64, 32]", "[64, 64]"),
    case("RLE that does not add up", rle(counts=[100]), "annotation 3 has an RLE whose counts", "4096"),
    case("RLE without counts", rle(), "train.json: annotation 3 has an RLE without 'counts'"),
    case("compressed RLE of another size", rle(counts="PPYo0"), "train.json: annotation 3 has an RLE", draws_masks=True),
    case("image missing", removed("images/train_2.png"), "train.json: ", "images/train_2.png does not exist"),
    case("image empty", written(b"", "images/val_1.png"), "val.json: ", "images/val_1.png is empty"),
    case("image cut in half", first_image(jpeg()[: len(jpeg()) // 2]), "train.json: ", "images/photo.jpg is damaged or cut off"),
    case("text as image", first_image(b"not an image"), "train.json: ", "images/photo.jpg is not an image"),
    case("image of another size", first_image(jpeg(48, 80)), "images/photo.jpg is 48x80 (height x width) but the json says 64x64"),
    case("turned by EXIF", first_image(jpeg(48, 64, 6), 48, 64), "photo.jpg is 64x48 (height x width) but the json says 48x64", "EXIF"),
    case("images of several sizes", first_image(jpeg(96, 80), 96, 80), "data.image_size: is not set", "64x64 to 96x80", "image_size = ["),
    value("batch too large", "data.batch_size=5", says=["data.batch_size: is 5", "train.json has 4 images", "Set it to 4 or less"]),
    value("class weights of another length", "loss.class_weights=[1, 2]", says=["loss.class_weights: has 2 numbers for 3 classes"]),
    value("mode of a loss", "loss.type=DiceLoss", "loss.mode=binary", says=["loss.mode: 'binary'", '"multiclass"']),
    value("reduction of a loss", "loss.reduction=sum", says=["loss.reduction", "Leave it out"]),
    value("smoothing out of range", "loss.label_smoothing=2", says=["loss", "label_smoothing"]),
    value("probability of a transform", 'augment.train=[{type="Blur", p=2}]', says=["augment.train[0]: Blur refuses these values: p"]),
    value("negative rate", "optimizer.lr=-1", says=["optimizer: AdamW refuses these values", "Invalid learning rate: -1"]),
    value("plateau by step", 'scheduler={type="ReduceLROnPlateau", interval="step"}', says=["scheduler.interval", 'interval = "epoch"']),
    value("scheduler's value", 'scheduler={type="OneCycleLR", max_lr=1, total_steps=-1}', says=["OneCycleLR refuses", "total_steps"]),
    value("fp16 without a GPU", "train.precision=fp16", says=["train.precision: fp16 needs a GPU", '"bf16" or "fp32"']),
    value("no network", "model.encoder_weights=imagenet", says=["model.encoder_weights", "resnet18", "HF_HUB_OFFLINE", "a network"]),
    value("model's value", "model.encoder_depth=9", says=["model: Unet refuses these values", "depth"]),
    case("runs folder is a file", written(b"", "../runs"), "runs", "cannot be written", "--runs"),
    value("image too small", "model.type=PAN", says=["model: PAN with resnet18 cannot take images of 64x64", "data.image_size"]),
]


@pytest.mark.parametrize(("spoil", "overrides", "says", "draws_masks"), DATA)
def test_worker_refuses(spoil: Spoil, overrides: tuple[str, ...], says: tuple[str, ...], draws_masks: bool, tmp_path: Path) -> None:
    request = spoiled(tmp_path, spoil, overrides)
    before = listing(tmp_path)
    assert_refused(request, tmp_path, says)
    after = listing(tmp_path)
    added = after.keys() - before.keys()
    assert {name: after.get(name) for name in before} == before
    assert not added or draws_masks
    assert all(name in ("runs", "runs/.cache") or name.startswith("runs/.cache/masks-") for name in added), added


@pytest.mark.parametrize(
    ("state", "debug", "says"),
    [
        pytest.param("finished", False, ("Unet-resnet18: has finished",), id="finished"),
        pytest.param("stopped", True, ("Unet-resnet18: is a debug run",), id="debug"),
        pytest.param("stopped", False, ("no state to resume from", "ended an epoch"), id="nothing saved"),
    ],
)
def test_worker_refuses_to_resume(state: str, debug: bool, says: tuple[str, ...], tmp_path: Path) -> None:
    request = spoiled(tmp_path, no_change)
    run = write_run(tmp_path / "runs" / "Unet-resnet18", state, debug=debug)
    before = listing(tmp_path)
    assert_refused(Request(request.preset, request.toggles, request.runs, resume=run.path), tmp_path, says)
    assert listing(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "overrides", "says", "draws_masks"),
    [each for each in DATA if each.id in ("json is a list", "a Background", "image cut in half", "batch too large")],
)
def test_command_line_tells_what_the_doctor_refuses(
    spoil: Spoil, overrides: tuple[str, ...], says: tuple[str, ...], draws_masks: bool, tmp_path: Path
) -> None:
    spoiled(tmp_path, spoil)
    before = listing(tmp_path)
    command = [sys.executable, "-m", "tui.cli", "--headless", "tiny.toml", *set_options(overrides)]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == EXIT_REQUEST
    assert_one_message(told.stdout, told.stderr, tuple(text.removesuffix(": ") for text in says))
    after = listing(tmp_path)
    assert {name: after.get(name) for name in before} == before
    assert all(name == "runs" or name.startswith("runs/.cache") for name in after.keys() - before.keys())


def spoiled(folder: Path, spoil: Spoil, overrides: tuple[str, ...] = ()) -> Request:
    spoil(write_shapes(folder / "shapes", train=4, val=2))
    (folder / "tiny.toml").write_text(TINY)
    table = load(folder / "tiny.toml", (f"data.root={folder / 'shapes'}", *overrides), environment={})
    return Request(table.model_dump(exclude_none=True), Toggles(), folder / "runs")


def assert_refused(request: Request, folder: Path, says: tuple[str, ...]) -> None:
    """The real worker, in a fork of this process: importing torch anew for each case would take seconds."""
    import engine.session  # noqa: F401  once, before the fork

    context = multiprocessing.get_context("fork")
    answer, child_end = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(request, child_end, context.Queue(), folder))
    process.start()
    child_end.close()
    process.join(60)
    process.kill()
    assert process.exitcode == EXIT_REQUEST
    refused = answer.recv()
    assert isinstance(refused, Refused)
    message = str(refused.error)
    assert len(message.splitlines()) == len(refused.error.problems)
    for text in says:
        assert text in message


def work(request: Request, answer: Any, listener: Any, folder: Path) -> None:
    import huggingface_hub.constants
    import torch

    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)  # a fork has none of its parent's threads
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    huggingface_hub.constants.HF_HUB_CACHE = str(folder / "hub")
    worker_main(request, answer, listener)
