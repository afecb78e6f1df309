"""Wrong requests to predict: each ends with exit code 2 and one line for each problem that names the place; nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from engine.errors import EXIT_REQUEST
from tests.conftest import write_shapes
from tests.predicting import CLASSES, Segtui, command_line, preset_for, weights_of, write_checkpoint, write_run, write_test
from tests.test_loading import spoil_pickle, write_preset
from tests.test_wrong_inputs import listing

Spoil = Callable[[Path], Any]
BEST = "runs/one/checkpoints/best.safetensors"
SOFT = ["one", "other", "--softvote"]
JOINED = ["one", "--member", "a.npy", "--softvote", "--split", "val"]


@pytest.fixture
def segtui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Segtui]:
    """Two runs that are right, and the data they are of."""
    shapes = write_shapes(tmp_path / "shapes", train=2, val=3)
    write_test(shapes, [(64, 64), (64, 64)])
    write_run("one", shapes)
    write_run("other", shapes, seed=1)
    write_preset(tmp_path / "old.toml")
    with command_line(tmp_path, monkeypatch, capsys) as run:
        yield run


def unreadable(folder: Path) -> None:
    (folder / BEST).unlink()
    (folder / BEST).mkdir()


def no_change(_: Path) -> None:
    pass


def written(name: str, content: bytes = b"") -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return spoil


def made(name: str) -> Spoil:
    return lambda folder: (folder / name).mkdir(parents=True)


def removed(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def edited(name: str, change: Callable[[dict[str, Any]], Any]) -> Spoil:
    def spoil(folder: Path) -> None:
        data = json.loads((folder / "shapes" / name).read_bytes())
        change(data)
        (folder / "shapes" / name).write_text(json.dumps(data))

    return spoil


def cut(name: str, share: float) -> Spoil:
    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return spoil


def checkpoint(name: str, classes: tuple[str, ...]) -> Spoil:
    return lambda folder: write_checkpoint(folder / name, preset_for(folder / "shapes"), weights_of(2, len(classes)), classes)


def of_others(folder: Path) -> None:
    safetensors.torch.save_file(weights_of(0), folder / "others.safetensors", {"format": "pt"})


def of_a_lost_data_set(folder: Path) -> None:
    write_checkpoint(folder / "moved.safetensors", preset_for(folder / "gone"), weights_of(0))


def resume_state(folder: Path) -> None:
    torch.save({"model": weights_of(0), "epoch": 3, "format": 1}, folder / "runs/one/checkpoints/resume.pt")


def array(
    shape: tuple[int, ...] = (3, 3, 64, 64),
    change: Callable[[Any], Any] = lambda values: values,
    images: list[str] | None = None,
    size: tuple[int, int] = (64, 64),
    classes: tuple[str, ...] = CLASSES,
) -> Spoil:
    """a.npy of even probabilities, changed; beside it what it says of itself where `images` are given."""

    def spoil(folder: Path) -> None:
        values = np.full(shape, 1 / shape[1] if len(shape) > 1 else 1.0, np.float32)
        changed = change(values)
        np.save(folder / "a.npy", values if changed is None else changed)
        if images is not None:
            described = {"classes": list(classes), "images": images, "size": size, "members": []}
            (folder / "a.npy.json").write_text(json.dumps(described))

    return spoil


def at(index: tuple[int, ...], value: float) -> Callable[[Any], None]:
    def change(values: Any) -> None:
        values[index] = value

    return change


def all_of(*spoils: Spoil) -> Spoil:
    return lambda folder: [spoil(folder) for spoil in spoils]


def two_damaged(folder: Path) -> None:
    (folder / "photos").mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.new("RGB", (40, 40), "red").save(folder / "photos" / name)
    for name in ("a.jpg", "c.jpg"):
        cut(f"photos/{name}", 0.5)(folder)


VAL = [f"images/val_{number}.png" for number in range(3)]
RIGHT = array(images=VAL)


def rename_triangle(data: dict[str, Any]) -> None:
    data["categories"][1]["name"] = "circle"


def case(name: str, arguments: list[str], *says: str, spoil: Spoil = no_change, lines: int = 1) -> Any:
    return pytest.param(spoil, arguments, says, lines, id=name)


CASES = [
    case("no checkpoint", [], "CHECKPOINT"),
    case("missing checkpoint", ["nowhere.safetensors"], "nowhere.safetensors: there is no such checkpoint", "segtui checkpoints"),
    case("missing run", ["onne"], "onne: there is no such run", "Did you mean 'one'?"),
    case("run without a best checkpoint", ["one"], "no best checkpoint yet", spoil=removed(BEST)),
    case("torn checkpoint", ["one"], "best.safetensors: is cut off", "segtui checkpoints", spoil=cut(BEST, 0.7)),
    case("torn in its header", ["one"], "best.safetensors: is no safetensors file, or is cut off", spoil=cut(BEST, 0.001)),
    case("empty checkpoint", ["e.safetensors"], "e.safetensors: is empty or cut off", spoil=written("e.safetensors")),
    case("text as checkpoint", ["t.safetensors"], "t.safetensors: is no safetensors file", spoil=written("t.safetensors", b"x" * 999)),
    case("picture as checkpoint", ["shapes/images/val_0.png"], "val_0.png: is no safetensors file"),
    case("safetensors of others", ["others.safetensors"], "others.safetensors: was not written by segtui", spoil=of_others),
    case("folder as checkpoint", ["photos"], "photos: there is no such run", spoil=made("photos")),
    case("checkpoint that cannot be read", ["one"], "best.safetensors: cannot be read", spoil=unreadable),
    case(
        "malicious pickle",
        ["bad.pt", "--preset", "old.toml"],
        "bad.pt: is a pickle that holds more than weights (posix.system)",
        spoil=lambda folder: spoil_pickle(folder / "bad.pt"),
    ),
    case(
        "old checkpoint without a preset", ["bad.pt"], "describe itself", "--preset", spoil=lambda folder: spoil_pickle(folder / "bad.pt")
    ),
    case("state to resume from", ["runs/one/checkpoints/resume.pt"], "resume.pt: is", spoil=resume_state),
    case("preset missing", ["one", "--preset", "nowhere.toml"], "nowhere.toml"),
    case(
        "classes that differ between members",
        ["one", "c.safetensors", "--softvote"],
        "c.safetensors: its classes differ",
        "lacks triangle",
        "has besides circle",
        spoil=checkpoint("c.safetensors", ("Background", "square", "circle")),
    ),
    case(
        "more classes in a member",
        ["one", "c.safetensors", "--softvote"],
        "c.safetensors: its classes differ",
        "has besides circle",
        spoil=checkpoint("c.safetensors", (*CLASSES, "circle")),
    ),
    case(
        "classes that differ from the data",
        ["one", "--split", "val"],
        "val.json: categories: its classes",
        "circle",
        "--data",
        spoil=edited("val.json", rename_triangle),
    ),
    case("two members without a vote", ["one", "other"], "2 members need a vote", "--softvote", "--hardvote"),
    case("one member with a vote", ["one", "--softvote"], "a vote needs two members"),
    case("both votes", [*SOFT, "--hardvote"], "--hardvote: not allowed with argument --softvote"),
    case("too few weights", [*SOFT, "--weights", "1"], "--weights: names 1 weights for 2 members"),
    case("too many weights", [*SOFT, "--weights", "1,1,1"], "--weights: names 3 weights for 2 members"),
    case("negative weights", [*SOFT, "--weights=-1,2"], "--weights: weights must not be negative"),
    case("no weight at all", [*SOFT, "--weights", "0,0"], "--weights: weights must not be negative, nor all 0"),
    case("weights that are no numbers", [*SOFT, "--weights", "a,b"], "--weights: 'a,b' is no list of numbers", "0.6,0.4"),
    case("weights that are not finite", [*SOFT, "--weights", "nan,inf"], "--weights: 'nan,inf' is no list of numbers"),
    case("weights by zero", [*SOFT, "--weights", "1/0,1"], "--weights: '1/0,1' is no list of numbers"),
    case("weights without a vote", ["one", "--weights", "1"], "--weights: weights are for a vote"),
    case("fit with hard voting", ["one", "other", "--hardvote", "--weights", "fit"], "--weights: fit is for --softvote"),
    case(
        "fit with probabilities of another split",
        ["one", "--member", "a.npy", "--softvote", "--weights", "fit"],
        "--weights: fit needs every member on",
        "val.json",
        "--split val",
        spoil=array((2, 3, 64, 64)),
    ),
    case("fit without a validation split", [*SOFT, "--weights", "fit"], "val.json: does not exist", spoil=removed("shapes/val.json")),
    case(
        "fit without labels",
        [*SOFT, "--weights", "fit"],
        "val.json: --weights: has too few labelled images",
        spoil=edited("val.json", lambda data: data.update(annotations=[])),
    ),
    case("unknown view", ["one", "--tta", "hflp"], "--tta: there is no view 'hflp'", "Did you mean 'hflip'?"),
    case("scale out of range", ["one", "--tta", "scale=9"], "--tta: scale: '9' is no factor"),
    case("too many views", ["one", "--tta", f"scale={'/'.join(f'{1 + n / 200}' for n in range(200))}"], "--tta: makes 200 views", "128"),
    case("--tta that swallowed a checkpoint", ["one", "--softvote", "--tta", BEST], "--tta: took", "best.safetensors", "checkpoints first"),
    case("unknown split", ["one", "--split", "tset"], "--split: there is no split 'tset'", "train, val, test"),
    case("split that is not there", ["one", "--split", "dev.json"], "dev.json: does not exist", "val.json"),
    case("missing data root", ["one", "--data", "nowhere"], "--data: there is no folder", "nowhere"),
    case("data that moved", ["moved.safetensors"], "--data: there is no folder", "gone", "--data ROOT", spoil=of_a_lost_data_set),
    case("a split and a folder", ["one", "--split", "val", "--images", "shapes"], "--images: give either"),
    case("folder without an image", ["one", "--images", "empty"], "empty: --images: holds no image", ".png", spoil=made("empty")),
    case("missing folder", ["one", "--images", "nowhere"], "nowhere: --images: there is no such folder"),
    case("damaged image of a split", ["one"], "test.json: ", "a1.png is damaged", spoil=cut("shapes/images/a1.png", 0.5)),
    case("missing image of a split", ["one"], "test.json: ", "a1.png does not exist", spoil=removed("shapes/images/a1.png")),
    case("damaged images of a folder", ["one", "--images", "photos"], "a.jpg is damaged", "c.jpg is damaged", spoil=two_damaged, lines=2),
    case(
        "file name twice",
        ["one"],
        "test.json: has the file_name 'images/z,0.png' more than once",
        spoil=edited("test.json", lambda data: data["images"][1].update(file_name="images/z,0.png")),
    ),
    case("missing probabilities", JOINED, "a.npy: there is no such file"),
    case("text as probabilities", JOINED, "a.npy: is no .npy file", spoil=written("a.npy", b"hello")),
    case("empty probabilities", JOINED, "a.npy: is no .npy file", spoil=written("a.npy")),
    case("torn probabilities", JOINED, "a.npy: is cut off", spoil=all_of(RIGHT, cut("a.npy", 0.9))),
    case(
        "NaN", JOINED, "a.npy: image 1 (images/val_1.png)", "row 5, column 9 is not a finite", spoil=array(change=at((1, 2, 5, 9), np.nan))
    ),
    case("infinity", JOINED, "a.npy: image 2", "is not a finite number", spoil=array(change=at((2, 0, 0, 0), np.inf))),
    case("rows that do not sum to 1", JOINED, "a.npy: image 0", "sum to 1.16667", spoil=array(change=at((0, 1, 3, 4), 0.5))),
    case("logits", JOINED, "a.npy: image 0", "are these logits?", "softmax", spoil=array(change=lambda values: values * 3 - 2)),
    case("probabilities of fewer images", JOINED, "a.npy: holds 2 images, but the split has 3", spoil=array((2, 3, 64, 64))),
    case("probabilities of fewer classes", JOINED, "a.npy: holds 2 classes, but the checkpoint has 3", spoil=array((3, 2, 64, 64))),
    case("no array of four dimensions", JOINED, "a.npy: holds float32 (3, 3)", "(N, C, H, W)", spoil=array((3, 3))),
    case("whole numbers", JOINED, "a.npy: holds uint8", spoil=array(change=lambda values: values.astype(np.uint8))),
    case("Python objects", JOINED, "a.npy: ", spoil=lambda f: np.save(f / "a.npy", np.array([{}], object), allow_pickle=True)),
    case("images in another order", JOINED, "a.npy: is of the same images in another order", spoil=array(images=VAL[::-1])),
    case("probabilities of other images", JOINED, "a.npy: is of other images", "'x.png'", spoil=array(images=[*VAL[:2], "x.png"])),
    case(
        "probabilities of other classes", JOINED, "its classes differ", "circle", spoil=array(images=VAL, classes=(*CLASSES[:2], "circle"))
    ),
    case("description of another array", JOINED, "a.npy.json: describes an array", spoil=array(images=VAL, size=(32, 64))),
    case("torn description", JOINED, "a.npy.json: does not describe a.npy", spoil=all_of(RIGHT, cut("a.npy.json", 0.5))),
    case("probabilities of a hard vote", ["one", "other", "--hardvote", "--probabilities", "p.npy"], "--probabilities: hard voting has no"),
    case("no size", ["one", "--size", "0"], "--size: is 0"),
    case("enormous size", ["one", "--size", "100000"], "--size: is 100000", "4096"),
    case("size that is no number", ["one", "--size", "big"], "--size", "'big'"),
    case("small window", ["one", "--window", "8"], "--window: is 8", "--window 512"),
    case("windows that overlap wholly", ["one", "--window", "32", "--overlap", "1"], "--overlap: is 1"),
    case("overlap that is no number", ["one", "--window", "32", "--overlap", "nan"], "--overlap: is nan"),
    case("--out in a missing folder", ["one", "--out", "nowhere/a.csv"], "nowhere: there is no such folder", "Make it first"),
    case("--out that is there", ["one", "--out", "a.csv"], "a.csv: is there already", "--force", spoil=written("a.csv", b"mine")),
    case("--out that is a folder", ["one", "--out", "shapes", "--force"], "shapes: --out: is a folder"),
    case("masks in a missing folder", ["one", "--masks", "nowhere/masks"], "nowhere: there is no such folder"),
    case("a mask that is there", ["one", "--masks", "m"], "m/images/a1.png: is there already", spoil=written("m/images/a1.png")),
    case("masks in a file", ["one", "--masks", "m", "--force"], "m: ", spoil=written("m", b"mine")),
    case("probabilities that are there", ["one", "--probabilities", "p.npy"], "p.npy: is there already", spoil=written("p.npy")),
    case("probabilities into a folder", ["one", "--probabilities", "p.npy", "--force"], "p.npy: ", spoil=made("p.npy")),
    case("a description that is there", ["one", "--probabilities", "p.npy"], "p.npy.json: is there", spoil=written("p.npy.json")),
    case("two results in one file", ["one", "--out", "a.npy", "--probabilities", "a.npy"], "a.npy"),
    case("submission over its own member", [*JOINED, "--probabilities", "a.npy"], "a.npy: is there already", spoil=RIGHT),
    case("name with a slash", ["one", "--name", "a/b"], "--name: 'a/b' is no name of a folder"),
    case("name of the folder above", ["one", "--name", ".."], "--name: '..' is no name of a folder"),
    case("hidden name", ["one", "--name", ".a"], "--name: '.a' is no name of a folder"),
    case("name that is too long", ["one", "--name", "n" * 300], "--name: "),
    case(
        "folder of runs is a file",
        ["best.safetensors", "--runs", "old.toml"],
        "old.toml/predictions: cannot be written",
        "--runs",
        spoil=lambda folder: (folder / BEST).rename(folder / "best.safetensors"),
    ),
    case("unknown option", ["one", "--softvoting"], "--softvoting"),
]


@pytest.mark.parametrize(("spoil", "arguments", "says", "lines"), CASES)
def test_request_is_refused(segtui: Segtui, tmp_path: Path, spoil: Spoil, arguments: list[str], says: tuple[str, ...], lines: int) -> None:
    spoil(tmp_path)
    before = listing(tmp_path)
    told = segtui("predict", *arguments)
    assert (told.code, told.out) == (EXIT_REQUEST, ""), told.err
    assert len(told.err.splitlines()) == lines, told.err
    assert all(line.startswith("segtui: ") for line in told.err.splitlines())
    for text in says:
        assert text in told.err
    assert {name: digest for name, digest in listing(tmp_path).items() if not name.startswith("runs/.cache")} == before


def test_data_set_of_the_environment_is_told_like_an_argument(segtui: Segtui, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGTUI_DATA", "nowhere")
    told = segtui("predict", "one")
    assert told.code == EXIT_REQUEST
    assert "there is no folder" in told.err
    assert "nowhere" in told.err


def test_what_is_right_is_not_refused(segtui: Segtui, tmp_path: Path) -> None:
    """Or the cases above would prove nothing of what they change."""
    RIGHT(tmp_path)
    assert segtui("predict", *JOINED, "--weights", "1,1").code == 0
    assert segtui("predict", *SOFT, "--weights", "fit", "--masks", "m", "--overlay", "--probabilities", "p.npy").code == 0
    assert segtui("predict", "one", "--window", "32", "--overlap", "0", "--size", "1", "--out", "a.csv", "--tta").code == 0
