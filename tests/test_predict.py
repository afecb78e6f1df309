"""`segtui predict` through its command line: what it writes against computations by hand.

The real command line and the real worker, which is started as a fork.
"""

from __future__ import annotations

import csv
import json
import random
import socket
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics as reference  # type: ignore[import-untyped]

from engine.errors import EXIT_DONE
from engine.mask_cache import MaskCache
from engine.palette import class_colours
from tests.predicting import (
    CLASSES,
    MEAN,
    STD,
    Predicted,
    Segtui,
    assert_decides,
    by_hand,
    files_below,
    ground_truth,
    mask_of,
    network,
    preset_for,
    record_of,
    resized,
    rows_of,
    weights_of,
    write_checkpoint,
    write_run,
    write_test,
)


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
