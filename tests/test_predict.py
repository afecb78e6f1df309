"""`segtui predict` through its command line: what it writes against computations by hand, and what is left when it is killed.

The real command line and the real worker; all but the tests of signals start the worker as a fork.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import psutil
import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from sklearn import metrics as reference  # type: ignore[import-untyped]

from engine.checkpoint import save_weights
from engine.checkpoint_header import CheckpointHeader
from engine.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_REQUEST
from engine.events import Toggles
from engine.mask_cache import MaskCache
from engine.palette import class_colours
from engine.preset import from_dict
from engine.run import RunFolder, RunRecord
from tests.conftest import write_shapes
from tests.training import wait_for
from tui.cli import main

CLASSES = ("Background", "square", "triangle")
ENCODER = "tu-mobilenetv3_small_050"
CHANNELS = [16, 8, 8, 8, 8]
# Of no encoder: whoever takes the usual ones instead of the checkpoint's is found out.
MEAN, STD = (0.3, 0.5, 0.4), (0.2, 0.3, 0.25)
# Two probabilities closer than this may change places in single precision.
SURE = 1e-4
Predicted = NDArray[np.float64]


@dataclass(frozen=True)
class Told:
    code: int
    out: str
    err: str

    def of(self, kind: str) -> list[dict[str, Any]]:
        events = [json.loads(line) for line in self.out.splitlines()]
        return [event for event in events if event["type"] == kind]


Segtui = Callable[..., Told]


@contextmanager
def command_line(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Segtui]:
    """`segtui ...` in `folder`. Its worker is a fork of this process: importing torch anew for each would take seconds."""
    import engine.predict  # once, before the fork
    import engine.votes  # noqa: F401

    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda _=None: fork)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # a fork cannot use a GPU that its parent has looked at
    monkeypatch.chdir(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a fork has none of its parent's threads
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: str | Path) -> Told:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Told(code, *capsys.readouterr())

    yield run
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def segtui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Segtui]:
    with command_line(tmp_path, monkeypatch, capsys) as run:
        yield run


@cache
def weights_of(seed: int, classes: int = len(CLASSES)) -> dict[str, torch.Tensor]:
    """A network that nobody trained, and that still says every class somewhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = smp.Unet(ENCODER, encoder_weights=None, decoder_channels=CHANNELS, classes=classes).eval()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.7, 1.3)  # type: ignore[union-attr]
        head = model.segmentation_head[0]
        with torch.no_grad():
            logits = model(torch.randn(1, 3, 64, 64))
            head.weight /= logits.std() / 2
            head.bias -= logits.mean(dim=(0, 2, 3)) / (logits.std() / 2)
        return dict(model.state_dict())


def preset_for(root: Path, *, encoder_weights: str = "none", **data: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "model": {"type": "Unet", "encoder_name": ENCODER, "encoder_weights": encoder_weights, "decoder_channels": CHANNELS},
        "data": {"root": str(root), "batch_size": 2, "workers": 0} | data,
        "loss": [{"type": "CrossEntropyLoss"}],
        "optimizer": {"type": "AdamW", "lr": 1e-3},
        "train": {"precision": "fp32"},
    }


def write_checkpoint(
    path: Path,
    preset: dict[str, Any],
    weights: dict[str, torch.Tensor],
    classes: tuple[str, ...] = CLASSES,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] = (MEAN, STD),
) -> Path:
    header = CheckpointHeader(
        segtui="0.1.0",
        kind="best",
        preset=from_dict(preset).model_dump(exclude_none=True),
        classes=list(classes),
        mean=list(statistics[0]),
        std=list(statistics[1]),
        epoch=3,
        mIoU=0.25,
        IoU=[0.25] * len(classes),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, weights, header)
    return path


def write_run(name: str, root: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A finished run below `runs` beside the data, with a best checkpoint; returns that."""
    run = root.parent / "runs" / name
    run.mkdir(parents=True)
    RunFolder(run).write(
        RunRecord(
            name=name,
            state="finished",
            preset="tiny",
            model="Unet",
            toggles=Toggles(),
            host="here",
            pid=1,
            pid_started=0.0,
            created=0.0,
            epochs=3,
        )
    )
    return write_checkpoint(run / "checkpoints" / "best.safetensors", preset_for(root, **changes), weights_of(seed))


def write_test(root: Path, sizes: list[tuple[int, int]]) -> list[str]:
    """test.json, images alone: their names neither in the order of the alphabet nor all plain words for a CSV."""
    rng = np.random.default_rng(7)
    names = [f"images/{'z,' if number % 3 == 0 else 'a'}{number}.png" for number in range(len(sizes))]
    images = []
    for number, (name, (height, width)) in enumerate(zip(names, sizes, strict=True)):
        small = rng.integers(0, 255, (max(height // 8, 1), max(width // 8, 1), 3), dtype=np.uint8)
        Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(root / name)
        images.append({"id": number + 1, "file_name": name, "height": height, "width": width})
    (root / "test.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    return names


@pytest.fixture
def one(shapes: Path) -> Path:
    """The run `one` and the data it is of: validation images with ground truth, three test images without."""
    write_test(shapes, [(64, 64), (64, 64), (50, 70)])
    return write_run("one", shapes)


def network(checkpoint: Path) -> torch.nn.Module:
    """The checkpoint in the library's own network, in double precision."""
    model = smp.Unet(ENCODER, encoder_weights=None, decoder_channels=CHANNELS, classes=3)
    model.load_state_dict(safetensors.torch.load_file(checkpoint))
    return model.double().eval()


@torch.no_grad()
def by_hand(model: torch.nn.Module, image: Path) -> Predicted:
    """Probabilities (C, H, W) in double precision."""
    pixels = np.asarray(Image.open(image).convert("RGB"), np.float64)
    height, width = pixels.shape[:2]
    shown = np.zeros((3, -(-height // 32) * 32, -(-width // 32) * 32))
    shown[:, :height, :width] = ((pixels / 255 - MEAN) / STD).transpose(2, 0, 1)
    logits = model(torch.from_numpy(shown)[None])[0, :, :height, :width].numpy()
    exponents = np.exp(logits - logits.max(axis=0))
    return np.asarray(exponents / exponents.sum(axis=0))


def resized(probabilities: Predicted, side: int) -> Predicted:
    """(C, side, side): each pixel the mean, weighted by a triangle, of those that it stands for."""
    rows, columns = (triangles(length, side) for length in probabilities.shape[1:])
    return np.asarray(rows @ probabilities @ columns.T)


def triangles(length: int, side: int) -> Predicted:
    step = length / side
    centres = (np.arange(side)[:, None] + 0.5) * step
    weights = np.maximum(1 - np.abs(np.arange(length) + 0.5 - centres) / max(step, 1), 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def assert_decides(labels: NDArray[np.uint8], probabilities: Predicted, sure: float = SURE) -> None:
    """The labels are the most probable classes; where two are as good as equal, either of them."""
    best = np.sort(probabilities, axis=0)
    decided = best[-1] - best[-2] > sure
    assert decided.mean() > 0.98
    np.testing.assert_array_equal(labels[decided], probabilities.argmax(axis=0)[decided])


def rows_of(submission: Path) -> dict[str, NDArray[np.uint8]]:
    csv.field_size_limit(10**9)
    with submission.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image_id", "PredictionString"]
    assert len({name for name, _ in rows[1:]}) == len(rows) - 1
    return {name: np.array(text.split(" "), np.uint8) for name, text in rows[1:]}


def ground_truth(root: Path, split: str = "val") -> dict[str, NDArray[np.uint8]]:
    """Label maps by pycocotools: smaller areas over larger ones."""
    coco = COCO(root / f"{split}.json")
    found = {}
    for image in coco.loadImgs(coco.getImgIds()):
        labels = np.zeros((image["height"], image["width"]), np.uint8)
        for annotation in sorted(coco.loadAnns(coco.getAnnIds(image["id"])), key=lambda each: -each["area"]):
            labels[coco.annToMask(annotation) == 1] = annotation["category_id"]
        found[image["file_name"]] = labels
    return found


def mask_of(folder: Path, file_name: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open((folder / file_name).with_suffix(".png")))


def files_below(folder: Path) -> set[str]:
    """All files but the caches."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() or path.is_symlink()}
    return {name for name in found if not name.startswith("runs/.cache/")}


def record_of(result: Path) -> dict[str, Any]:
    return json.loads((result / "predict.json").read_bytes())  # type: ignore[no-any-return]


def test_submission_is_what_the_network_says_of_each_image(segtui: Segtui, one: Path, shapes: Path) -> None:
    names = write_test(shapes, [(64, 64), (50, 70), (300, 280), (64, 64), (33, 90), (256, 256)])
    assert segtui("predict", "one", "--json").code == EXIT_DONE
    rows = rows_of(Path("runs/one/predictions/test/submission.csv"))
    assert list(rows) == names
    model = network(one)
    classes: set[int] = set()
    for name, ids in rows.items():
        assert ids.shape == (256 * 256,)
        assert_decides(ids.reshape(256, 256), resized(by_hand(model, shapes / name), 256))
        classes |= set(ids.tolist())
    assert classes == {0, 1, 2}


def test_images_are_seen_at_the_size_of_training_and_masks_have_their_own(segtui: Segtui, shapes: Path) -> None:
    (name,) = write_test(shapes, [(50, 70)])
    checkpoint = write_run("scaled", shapes, image_size=[64, 96])
    assert segtui("predict", "scaled", "--masks", "masks", "--json").code == EXIT_DONE
    mask = mask_of(Path("masks"), name)
    assert mask.shape == (50, 70)
    pixels = torch.from_numpy(np.asarray(Image.open(shapes / name), np.float64).transpose(2, 0, 1))[None] / 255
    shown = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        logits = network(checkpoint)(torch.nn.functional.interpolate(shown, (64, 96), mode="bilinear"))
        back = torch.nn.functional.interpolate(logits, (50, 70), mode="bilinear")
    assert_decides(mask, back.softmax(dim=1)[0].numpy())


@pytest.mark.parametrize("side", [256, 31])
def test_nearest_scales_the_decided_pixels_as_the_baseline_did(segtui: Segtui, one: Path, shapes: Path, side: int) -> None:
    assert segtui("predict", "one", "--size", str(side), "--resize", "nearest", "--masks", "masks").code == EXIT_DONE
    for name, ids in rows_of(Path("runs/one/predictions/test/submission.csv")).items():
        mask = mask_of(Path("masks"), name)
        rows, columns = (np.arange(side) * length // side for length in mask.shape)
        np.testing.assert_array_equal(ids.reshape(side, side), mask[np.ix_(rows, columns)])


def test_score_is_scikit_learns_of_the_masks_that_were_written(segtui: Segtui, one: Path, shapes: Path) -> None:
    told = segtui("predict", "one", "--split", "val", "--masks", "masks", "--json")
    assert told.code == EXIT_DONE
    truth = ground_truth(shapes)
    masks = {name: mask_of(Path("masks"), name) for name in truth}
    flat_truth, flat = (np.concatenate([each.ravel() for each in maps.values()]) for maps in (truth, masks))
    result = Path("runs/one/predictions/val")
    (scored,) = record_of(result)["scores"]
    iou = reference.jaccard_score(flat_truth, flat, average=None)
    assert len(iou) == 3
    assert scored["IoU"] == pytest.approx(iou.tolist())
    assert scored["mIoU"] == pytest.approx(iou.mean())
    assert scored["acc"] == pytest.approx(reference.accuracy_score(flat_truth, flat))
    assert scored["mean_acc"] == pytest.approx(reference.balanced_accuracy_score(flat_truth, flat))
    assert scored["fwavacc"] == pytest.approx(reference.jaccard_score(flat_truth, flat, average="weighted"))
    assert scored["support"] == np.bincount(flat_truth).tolist()
    (told_score,) = told.of("validation")
    assert (told_score["mIoU"], told_score["IoU"]) == (scored["mIoU"], scored["IoU"])

    with (result / "images.csv").open(newline="") as file:
        by_image = list(csv.DictReader(file))
    assert [row["image_id"] for row in by_image] == list(truth)
    for row in by_image:
        label, mask = (maps[row["image_id"]].ravel() for maps in (truth, masks))
        assert float(row["mIoU"]) == pytest.approx(reference.jaccard_score(label, mask, average="macro"), abs=1e-6)


def test_masks_are_indexed_in_the_classes_colours_and_overlays_show_them_over_the_photograph(
    segtui: Segtui, one: Path, shapes: Path
) -> None:
    assert segtui("predict", "one", "--split", "val", "--masks", "masks", "--overlay").code == EXIT_DONE
    model = network(one)
    colours = np.array(class_colours(list(CLASSES)), np.float64)
    names = list(ground_truth(shapes))
    assert files_below(Path("masks")) == {name.replace(".png", end) for name in names for end in (".png", "_overlay.jpg")}
    for name in names:
        image = Image.open(Path("masks", name))
        assert image.mode == "P"
        labels = np.asarray(image)
        assert_decides(labels, by_hand(model, shapes / name))
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), colours[labels])
        blended = 0.4 * np.asarray(Image.open(shapes / name).convert("RGB")) + 0.6 * colours[labels]
        overlay = np.asarray(Image.open(Path("masks", name.replace(".png", "_overlay.jpg"))), np.float64)
        np.testing.assert_allclose(means_of_blocks(overlay), means_of_blocks(blended), atol=8)


def means_of_blocks(image: Predicted) -> Predicted:
    """Of 16 by 16 pixels: a JPEG keeps the colour of a region, not that of every pixel."""
    height, width, channels = image.shape
    return np.asarray(image.reshape(height // 16, 16, width // 16, 16, channels).mean(axis=(1, 3)))


def test_encoder_weights_are_never_asked_for(segtui: Segtui, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hub that would be asked, and an empty cache: whoever tries the network leaves a note."""
    write_test(shapes, [(64, 64)])
    write_run("pretrained", shapes, encoder_weights="imagenet")
    write_run("scratch", shapes)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *asked, **_: (tmp_path / "asked").write_text(str(asked)))
    for name in ("pretrained", "scratch"):
        assert segtui("predict", name).code == EXIT_DONE
    assert not (tmp_path / "asked").exists()
    first, second = (Path(f"runs/{name}/predictions/test/submission.csv").read_bytes() for name in ("pretrained", "scratch"))
    assert first == second


def test_any_folder_of_images_can_be_predicted(segtui: Segtui, one: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    (photos / ".thumbs").mkdir()
    noise = np.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    for name in ("b.PNG", "sub/a.jpg", "a.webp", ".hidden.png", ".thumbs/a.png"):
        Image.fromarray(noise).save(photos / name)
    (photos / "notes.txt").write_text("not an image")
    assert segtui("predict", "one", "--images", "photos", "--masks", "masks").code == EXIT_DONE
    assert list(rows_of(Path("runs/one/predictions/photos/submission.csv"))) == ["a.webp", "b.PNG", "sub/a.jpg"]
    assert files_below(Path("masks")) == {"a.png", "b.png", "sub/a.png"}
    assert_decides(mask_of(Path("masks"), "b.png"), by_hand(network(one), photos / "b.PNG"))
    assert record_of(Path("runs/one/predictions/photos"))["scores"] == []


def test_every_result_keeps_its_masks_and_says_where_photographs_and_truth_are(segtui: Segtui, one: Path, shapes: Path) -> None:
    photos = shapes / "images"
    Image.open(photos / "val_0.png").save(photos / "val_0.jpg")  # shares its name with another
    assert segtui("predict", "one", "--split", "val", "--overlay").code == EXIT_DONE
    assert segtui("predict", "one", "--images", photos).code == EXIT_DONE
    truth = ground_truth(shapes)
    for name, folder in (("val", shapes), ("images", photos)):
        result = Path("runs/one/predictions", name)
        record = record_of(result)
        assert record["files"]["masks"] == str((result / "masks").absolute())
        assert record["root"] == str(folder)
        with (result / "images.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == record["images"]
        for row in rows:
            labels = np.asarray(Image.open(result / "masks" / row["mask"]))
            assert_decides(labels, by_hand(network(one), folder / row["image_id"]))
            assert (result / "masks" / row["mask"].replace(".png", "_overlay.jpg")).exists() == (name == "val")
        if name == "val":
            cache = MaskCache(Path(record["truth"]))
            assert [row["image_id"] for row in rows] == list(truth)
            for number, row in enumerate(rows):
                np.testing.assert_array_equal(cache[number], truth[row["image_id"]])
        else:
            assert record["truth"] is None
            assert {row["mIoU"] for row in rows} == {""}
            assert "val_0.jpg.png" in {row["mask"] for row in rows}


def test_record_tells_what_the_result_was_made_of(segtui: Segtui, one: Path, shapes: Path, tmp_path: Path) -> None:
    other = write_run("other", shapes, seed=1)
    arguments = ["predict", "one", str(other), "--softvote", "--weights", "3,1", "--split", "val", "--tta", "hflip,scale=0.5/1"]
    arguments += ["--masks", "masks", "--probabilities", "both.npy", "--json"]
    told = segtui(*arguments)
    assert told.code == EXIT_DONE
    result = tmp_path / "runs/one/predictions/val-tta-softvote"
    record = record_of(result)
    assert record["command"] == ["segtui", *arguments]
    assert record["mode"] == "soft"
    members = [{"name": "one/best", "path": str(one), "weight": 0.75, "epoch": 3, "mIoU": 0.25}]
    members += [{"name": "other/best", "path": str(other), "weight": 0.25, "epoch": 3, "mIoU": 0.25}]
    assert record["members"] == members
    assert sorted(record["views"]) == ["hflip", "hflip scale 0.5", "identity", "scale 0.5"]
    assert record["passes"] == 2 * (1 + 0.25)
    assert [each["name"] for each in record["scores"]] == ["one/best", "other/best", "soft vote, plain", "soft vote, tta"]
    assert (record["images"], record["classes"], record["size"], record["resize"]) == (4, list(CLASSES), 256, "probabilities")
    assert record["source"] == str(shapes / "val.json")
    files = {"submission": result / "submission.csv", "masks": tmp_path / "masks", "probabilities": tmp_path / "both.npy"}
    files |= {"record": result / "predict.json", "images": result / "images.csv", "scores": result / "scores.csv"}
    assert record["files"] == {kind: str(path) for kind, path in files.items()}
    assert all(path.exists() for path in files.values())
    (written,) = told.of("prediction_written")
    assert written["files"] == record["files"]
    started, ended = told.of("prediction_started")[0], told.of("run_ended")[0]
    assert (started["members"], started["weights"], started["images"]) == (["one/best", "other/best"], [0.75, 0.25], 4)
    assert (ended["state"], ended["error"]) == ("finished", None)
    seqs = [json.loads(line)["seq"] for line in (result / "events.jsonl").read_text().splitlines()]
    assert seqs == list(range(1, len(seqs) + 1))
    sidecar = json.loads(Path("both.npy.json").read_bytes())
    assert (sidecar["classes"], sidecar["images"]) == (list(CLASSES), list(ground_truth(shapes)))
    assert (sidecar["members"], sidecar["weights"]) == ([str(one), str(other)], [0.75, 0.25])


def test_soft_vote_is_the_weighted_mean_of_probabilities(segtui: Segtui, one: Path, shapes: Path) -> None:
    other = write_run("other", shapes, seed=1)
    told = segtui("predict", "one", "other", "--softvote", "--weights", "0.6,0.2", "--split", "val", "--probabilities", "both.npy")
    assert told.code == EXIT_DONE
    found = np.load("both.npy")
    assert (found.dtype, found.shape) == (np.float16, (4, 3, 64, 64))
    models = network(one), network(other)
    rows = rows_of(Path("runs/one/predictions/val-softvote/submission.csv"))
    for row, name in enumerate(ground_truth(shapes)):
        first, second = (by_hand(model, shapes / name) for model in models)
        mean = 0.75 * first + 0.25 * second
        np.testing.assert_allclose(found[row], mean, atol=5e-4)
        assert_decides(rows[name].reshape(256, 256), resized(mean, 256))


def test_probabilities_join_later_as_the_network_that_said_them_would(segtui: Segtui, one: Path, shapes: Path) -> None:
    write_run("other", shapes, seed=1)
    together = ("--softvote", "--split", "val", "--out")
    assert segtui("predict", "other", "one", *together, "direct.csv").code == EXIT_DONE
    assert segtui("predict", "one", "--split", "val", "--probabilities", "one.npy").code == EXIT_DONE
    told = segtui("predict", "other", "--member", "one.npy", *together, "joined.csv", "--json")
    assert told.code == EXIT_DONE
    assert not [each for each in told.of("message") if each["level"] == "warning"]
    direct, joined = rows_of(Path("direct.csv")), rows_of(Path("joined.csv"))
    assert list(direct) == list(joined)
    model, other = network(one), network(Path("runs/other/checkpoints/best.safetensors"))
    for name in direct:
        mean = resized((by_hand(model, shapes / name) + by_hand(other, shapes / name)) / 2, 256)
        assert_decides(joined[name].reshape(256, 256), mean, sure=5e-4)
        assert (direct[name] == joined[name]).mean() > 0.995, "half precision moves only pixels that are as good as undecided"


def test_probabilities_of_another_framework_join_without_a_description(segtui: Segtui, one: Path, shapes: Path) -> None:
    truth = ground_truth(shapes)
    probabilities = np.stack([np.eye(3, dtype=np.float32)[labels].transpose(2, 0, 1) for labels in truth.values()])
    np.save("truth.npy", probabilities[:, :, ::2, ::2])
    arguments = ("predict", "one", "--member", "truth.npy", "--softvote", "--split", "val", "--weights", "0,1", "--json")
    told = segtui(*arguments)
    assert told.code == EXIT_DONE
    (warning,) = [each["text"] for each in told.of("message") if each["level"] == "warning"]
    assert "truth.npy" in warning
    assert "taken to be in the order" in warning
    alone, _, vote = told.of("validation")
    assert vote["mIoU"] > 0.8 > alone["mIoU"], "half the resolution loses edges, no more"


@pytest.mark.parametrize("weights", [None, "1,2,2", "0.5,1/3,1/6"])
@pytest.mark.parametrize("count", [2, 3])
def test_hard_vote_is_the_vote_of_the_members_submissions(segtui: Segtui, one: Path, shapes: Path, count: int, weights: str | None) -> None:
    names = ["one", "other", "third"][:count]
    for seed, name in enumerate(names[1:], start=1):
        write_run(name, shapes, seed=seed)
    weighted = ["--weights", ",".join(weights.split(",")[:count])] if weights else []
    assert segtui("predict", *names, "--hardvote", *weighted, "--out", "hard.csv").code == EXIT_DONE
    for name in names:
        assert segtui("predict", name, "--out", f"{name}.csv").code == EXIT_DONE
    assert segtui("vote", *(f"{name}.csv" for name in names), *weighted, "--out", "vote.csv").code == EXIT_DONE
    assert Path("hard.csv").read_bytes() == Path("vote.csv").read_bytes()
    votes = np.stack([np.stack(list(rows_of(Path(f"{name}.csv")).values())) for name in names])
    assert not (votes == votes[0]).all()
    numbers = np.array([float(Fraction(part)) for part in weights.split(",")[:count]] if weights else [1.0] * count)
    support = np.stack([((votes == vote) * numbers[:, None, None]).sum(axis=0) for vote in votes])
    expected = np.take_along_axis(votes, support.round(6).argmax(axis=0)[None], axis=0)[0]
    np.testing.assert_array_equal(np.stack(list(rows_of(Path("hard.csv")).values())), expected)


def test_members_may_have_their_classes_in_another_order(segtui: Segtui, one: Path, shapes: Path) -> None:
    write_run("other", shapes, seed=1)
    order = [2, 0, 1]
    turned = {name: tensor[order] if name.startswith("segmentation_head") else tensor for name, tensor in weights_of(1).items()}
    write_checkpoint(Path("turned.safetensors"), preset_for(shapes), turned, tuple(CLASSES[index] for index in order))
    assert segtui("predict", "one", "other", "--softvote", "--out", "same.csv").code == EXIT_DONE
    assert segtui("predict", "one", "turned.safetensors", "--softvote", "--out", "turned.csv").code == EXIT_DONE
    same, turned_rows = rows_of(Path("same.csv")), rows_of(Path("turned.csv"))
    assert all((same[name] == turned_rows[name]).mean() > 0.999 for name in same)


def test_fitted_weights_go_to_the_member_that_is_right(segtui: Segtui, one: Path, shapes: Path) -> None:
    labels = np.stack(list(ground_truth(shapes).values()))
    noise = np.random.default_rng(2).dirichlet([1, 1, 1], labels.shape).transpose(0, 3, 1, 2)
    probabilities = (0.9 * np.eye(3)[labels].transpose(0, 3, 1, 2) + 0.1 * noise).astype(np.float32)
    np.save("good.npy", probabilities)
    told = segtui("predict", "one", "--member", "good.npy", "--softvote", "--weights", "fit", "--split", "val", "--json")
    assert told.code == EXIT_DONE
    record = record_of(Path("runs/one/predictions/val-softvote"))
    weights = [member["weight"] for member in record["members"]]
    assert sum(weights) == pytest.approx(1)
    assert weights[1] > 0.9
    fit = record["fit"]
    assert (fit["fitted_on"], fit["scored_on"]) == (2, 2)
    assert fit["fitted"]["mIoU"] >= fit["equal"]["mIoU"]
    assert [each["name"] for each in fit["members"]] == ["one/best", "good.npy"]


def test_people_get_a_table_and_where_everything_is(segtui: Segtui, one: Path) -> None:
    told = segtui("predict", "one", "--split", "val", "--tta", "hflip")
    assert told.code == EXIT_DONE
    lines = [line.split("\t") for line in told.out.splitlines()]
    scores = record_of(Path("runs/one/predictions/val-tta"))["scores"]
    assert lines[0] == ["class", "plain", "tta", "accuracy", "pixels"]
    assert [line[0] for line in lines[1:]] == [*CLASSES, "mIoU"]
    assert [float(cell) for cell in lines[-1][1:3]] == pytest.approx([each["mIoU"] for each in scores], abs=1e-3)
    assert "runs/one/predictions/val-tta/submission.csv" in told.err
    assert "ms an image" in told.err


def test_result_of_a_checkpoint_without_a_run_is_below_the_folder_of_runs(segtui: Segtui, shapes: Path) -> None:
    write_test(shapes, [(64, 64)])
    write_checkpoint(Path("copied.safetensors"), preset_for(shapes), weights_of(0))
    assert segtui("predict", "copied.safetensors", "--runs", "all", "--name", "mine").code == EXIT_DONE
    assert (Path("all/predictions/mine/predict.json")).exists()
    assert record_of(Path("all/predictions/mine"))["members"][0]["name"] == "copied.safetensors"


ALL_OUTPUTS = ("--split", "val", "--out", "out.csv", "--masks", "masks", "--overlay", "--probabilities", "out.npy")


def test_a_result_is_replaced_only_when_that_is_asked_for(segtui: Segtui, one: Path, shapes: Path, tmp_path: Path) -> None:
    assert segtui("predict", "one", *ALL_OUTPUTS).code == EXIT_DONE
    (tmp_path / "masks" / "mine.txt").write_text("stays")
    write_run("other", shapes, seed=1)
    before = contents(tmp_path)
    for name in ("one", "other"):
        told = segtui("predict", name, *ALL_OUTPUTS)
        assert told.code == EXIT_REQUEST
        assert "--force" in told.err
        assert contents(tmp_path) == before
    shutil.copy(tmp_path / "runs/other/checkpoints/best.safetensors", one)
    assert segtui("predict", "one", *ALL_OUTPUTS, "--force").code == EXIT_DONE
    after = contents(tmp_path)
    assert after.keys() == before.keys()
    changed = {name for name in before if before[name] != after[name]}
    assert changed >= {"out.csv", "out.npy", "masks/images/val_0.png", "runs/one/predictions/out/predict.json"}
    assert after["masks/mine.txt"] == b"stays"


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_below(folder)}


def outputs(folder: Path) -> dict[str, bytes]:
    """What two predictions of the same have in common: all but times and logs."""
    timed = ("predict.json", "events.jsonl", "log.txt")
    return {name: b"" if name.endswith(timed) else content for name, content in contents(folder).items()}


def killed_at_change(number: int, arguments: list[str]) -> bool:
    """Run the command; its worker is killed just before it renames or removes a file for the n-th time. Whether it was."""

    def work() -> None:
        changes = 0

        def on_audit(event: str, _: object) -> None:
            nonlocal changes
            if event in ("os.rename", "os.remove"):
                changes += 1
                if changes == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(on_audit)
        sys.exit(main(arguments))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(120)
    assert process.exitcode in (EXIT_DONE, EXIT_FAILED)
    return process.exitcode == EXIT_FAILED


@pytest.mark.slow
@pytest.mark.parametrize("force", [[], ["--force"]], ids=["first", "forced"])
def test_killed_between_two_steps_of_publishing_the_same_command_succeeds(
    segtui: Segtui, tmp_path: Path, force: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_shapes(tmp_path / "shapes", train=2, val=2)
    write_run("one", tmp_path / "shapes")
    arguments = ["predict", "one", *ALL_OUTPUTS, *force]
    old = [] if not force else ["predict", "one", *ALL_OUTPUTS, "--tta", "vflip", "--name", "out"]
    plain = outputs_of_a_whole_run(segtui, arguments, tmp_path)
    steps = 0
    while True:
        start_afresh(tmp_path)
        if old:
            assert segtui(*old).code == EXIT_DONE
        if not killed_at_change(steps + 1, arguments):
            break
        steps += 1
        if not force:
            assert not (tmp_path / "runs/one/predictions/out").exists()
        told = segtui(*arguments)
        assert told.code == EXIT_DONE, (steps, told.err)
        assert outputs(tmp_path) == plain, steps
    assert steps > 5


@pytest.mark.slow
def test_killed_twice_while_publishing_the_same_command_succeeds(segtui: Segtui, tmp_path: Path) -> None:
    """The second time before it published anything: what the first one left must still be known as its own."""
    write_shapes(tmp_path / "shapes", train=2, val=2)
    write_run("one", tmp_path / "shapes")
    arguments = ["predict", "one", *ALL_OUTPUTS]
    plain = outputs_of_a_whole_run(segtui, arguments, tmp_path)
    start_afresh(tmp_path)
    step = 1
    while not ((tmp_path / "out.csv").exists() and (tmp_path / "masks").exists()):
        start_afresh(tmp_path)
        assert killed_at_change(step, arguments)
        step += 1
    assert killed_at_change(8, arguments)
    told = segtui(*arguments)
    assert told.code == EXIT_DONE, told.err
    assert outputs(tmp_path) == plain


def outputs_of_a_whole_run(segtui: Segtui, arguments: list[str], folder: Path) -> dict[str, bytes]:
    assert segtui(*arguments).code == EXIT_DONE
    return outputs(folder)


def start_afresh(folder: Path) -> None:
    for path in (folder / "masks", folder / "runs/one/predictions"):
        shutil.rmtree(path, ignore_errors=True)
    for path in (*folder.glob("*out.*"), *folder.glob(".masks*")):
        path.unlink() if path.is_file() else shutil.rmtree(path)


def write_many(root: Path, images: int) -> None:
    """A data set that takes seconds to predict: the network in several sizes and views."""
    write_shapes(root, train=1, val=1)
    write_test(root, [(32, 32)] * images)


SLOWLY = ("--tta", "hflip,vflip", "--out", "out.csv", "--masks", "masks", "--probabilities", "out.npy")


def started_in_a_fork(arguments: list[str]) -> Any:
    process = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(main(arguments)))
    process.start()
    return process


def worker_of(pid: int) -> int:
    """The child that is a session of its own."""
    (worker,) = (child.pid for child in psutil.Process(pid).children() if os.getsid(child.pid) == child.pid)
    return worker


def at_work(folder: Path) -> bool:
    """Images were predicted: rows of the submission are on disk under its hidden name."""
    hidden = folder / ".out.csv.partial"
    return hidden.exists() and hidden.stat().st_size > 200_000


@pytest.mark.parametrize("to_worker", [False, True], ids=["to the terminal's process", "to the worker"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_stopped_prediction_leaves_nothing(segtui: Segtui, tmp_path: Path, number: int, to_worker: bool) -> None:
    write_many(tmp_path / "shapes", 150)
    write_run("one", tmp_path / "shapes")
    before = contents(tmp_path)
    process = started_in_a_fork(["predict", "one", *SLOWLY])
    wait_for(lambda: at_work(tmp_path))
    os.kill(worker_of(process.pid) if to_worker else process.pid, number)
    process.join(60)
    assert process.exitcode == EXIT_INTERRUPTED
    assert contents(tmp_path) == before
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".cache"]


@pytest.mark.slow
def test_of_two_at_once_under_one_name_the_second_is_told(segtui: Segtui, tmp_path: Path) -> None:
    write_many(tmp_path / "shapes", 150)
    write_run("one", tmp_path / "shapes")
    first = started_in_a_fork(["predict", "one", *SLOWLY, "--name", "same"])
    wait_for(lambda: at_work(tmp_path))
    told = segtui("predict", "one", "--name", "same")
    assert told.code == EXIT_REQUEST
    assert len(told.err.splitlines()) == 1
    assert "another process is writing this result" in told.err
    assert "--name" in told.err
    first.join(120)
    assert first.exitcode == EXIT_DONE
    assert len(rows_of(tmp_path / "out.csv")) == 150
    assert record_of(tmp_path / "runs/one/predictions/same")["images"] == 150


@dataclass
class Command:
    """`segtui predict ... --json` as a process of its own."""

    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, folder: Path, *arguments: str) -> Command:
        command = [sys.executable, "-m", "tui.cli", "predict", *arguments, "--json"]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        return cls(subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment))

    def until(self, found: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found(event := json.loads(line)):
                return event  # type: ignore[no-any-return]
        raise AssertionError(f"ended without it: {self.process.stderr.read().decode()}")  # type: ignore[union-attr]

    def finish(self) -> Told:
        out, err = self.process.communicate(timeout=120)
        return Told(self.process.returncode, out.decode(), err.decode())


@pytest.mark.slow
def test_killed_prediction_leaves_nothing_that_looks_like_a_result_and_can_be_given_again(tmp_path: Path) -> None:
    write_many(tmp_path / "shapes", 120)
    write_run("one", tmp_path / "shapes", workers=2)
    before = files_below(tmp_path)
    command = Command.start(tmp_path, "one", *SLOWLY)
    command.until(lambda event: event["type"] == "progress" and event["task"] == "predict" and 0 < event["done"] < 80)
    os.kill(worker_of(command.process.pid), signal.SIGKILL)
    told = command.finish()
    assert told.code == EXIT_FAILED
    (ended,) = told.of("run_ended")
    assert ended["state"] == "failed"
    assert "SIGKILL" in ended["error"]
    left = files_below(tmp_path) - before
    assert not [name for name in left if not any(part.startswith(".") for part in Path(name).parts)]

    told = Command.start(tmp_path, "one", *SLOWLY).finish()
    assert told.code == EXIT_DONE, told.err
    assert told.err == ""
    assert len(rows_of(tmp_path / "out.csv")) == 120
    assert np.load(tmp_path / "out.npy").shape == (120, 3, 32, 32)
    assert len(files_below(tmp_path / "masks")) == 120
    assert record_of(tmp_path / "runs/one/predictions/out")["images"] == 120
    assert not [name for name in files_below(tmp_path) if any(part.startswith(".") for part in Path(name).parts)]


@pytest.mark.parametrize("at_its_end", [False, True], ids=["an image disappears", "the masks' place is taken"])
def test_why_a_prediction_failed_is_told(segtui: Segtui, tmp_path: Path, at_its_end: bool) -> None:
    write_many(tmp_path / "shapes", 40)
    write_run("one", tmp_path / "shapes")
    before = files_below(tmp_path)
    last = sorted((tmp_path / "shapes/images").glob("*39.png"))[0]

    def spoil() -> None:
        wait_for(lambda: at_work(tmp_path))
        (tmp_path / "masks").write_text("mine") if at_its_end else last.unlink()

    spoiler = threading.Thread(target=spoil)
    spoiler.start()
    told = segtui("predict", "one", "--out", "out.csv", "--masks", "masks", "--tta", "hflip,vflip", "--json")
    spoiler.join()
    assert told.code == EXIT_FAILED
    (ended,) = told.of("run_ended")
    assert ended["state"] == "failed"
    assert len(ended["error"].splitlines()) == 1
    assert (str(tmp_path / "masks") if at_its_end else f"{last} does not exist") in ended["error"]
    assert "Traceback" in ended["traceback"]
    if not at_its_end:
        assert files_below(tmp_path) - before == {"runs/one/predictions/out.log"}


@pytest.mark.slow
def test_image_that_disappears_fails_the_prediction_and_only_the_log_stays(tmp_path: Path) -> None:
    write_many(tmp_path / "shapes", 120)
    write_run("one", tmp_path / "shapes", workers=2)
    last = sorted((tmp_path / "shapes/images").glob("*119.png"))[0]
    before = files_below(tmp_path)
    command = Command.start(tmp_path, "one", *SLOWLY)
    command.until(lambda event: event["type"] == "prediction_started")
    last.unlink()
    told = command.finish()
    assert told.code == EXIT_FAILED
    assert told.err == ""
    (ended,) = told.of("run_ended")
    assert ended["state"] == "failed"
    log = tmp_path / "runs/one/predictions/out.log"
    assert ended["error"] == f"{last} does not exist (its log: {log})"
    assert "Traceback" in ended["traceback"]
    assert str(last) in log.read_text()
    left = files_below(tmp_path)
    assert left - before == {str(log.relative_to(tmp_path))}
    assert before - left == {str(last.relative_to(tmp_path))}


def test_predictions_do_not_depend_on_the_batch_or_the_processes_that_read(segtui: Segtui, shapes: Path) -> None:
    sizes = [(64, 64), (48, 64)]
    write_test(shapes, random.Random(3).choices(sizes, k=12))
    for name, batch_size, workers in (("one", 1, 0), ("many", 5, 2)):
        write_run(name, shapes, batch_size=batch_size, workers=workers)
        assert segtui("predict", name).code == EXIT_DONE
    first, second = (rows_of(Path(f"runs/{name}/predictions/test/submission.csv")) for name in ("one", "many"))
    assert list(first) == list(second)
    for name in first:
        assert (first[name] == second[name]).mean() > 0.999
