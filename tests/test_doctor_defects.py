"""Planted defects: each is found, at its level, with the file and the fix.

The data set is drawn; SEGTUI_CAMVID=FOLDER plants them in a small copy of that one instead.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.checkup import CheckupRequest, Finding, Report
from engine.doctor import examine
from engine.events import Toggles
from engine.preset import load
from tests.conftest import write_shapes
from tests.training import write_preset

TRAIN, VAL = 8, 4


@dataclass
class DataSet:
    """A data set to spoil: its json files as objects, written back by `save`."""

    root: Path
    runs: Path
    json: dict[str, dict[str, Any]] = field(default_factory=dict)

    def image(self, split: str = "train", number: int = 0) -> Path:
        return self.root / self.json[split]["images"][number]["file_name"]

    @property
    def annotations(self) -> list[dict[str, Any]]:
        return self.json["train"]["annotations"]

    def box(self, **changes: Any) -> dict[str, Any]:
        """A new annotation: a square of 8 pixels in the first image."""
        outline = [[4.0, 4.0, 12.0, 4.0, 12.0, 12.0, 4.0, 12.0]]
        first = {key: self.annotations[0][key] for key in ("image_id", "category_id")}
        self.annotations.append({"id": 900_001, "segmentation": outline, "area": 64, **first} | changes)
        return self.annotations[-1]

    def save(self) -> None:
        for name, content in self.json.items():
            (self.root / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    root = tmp_path / "data"
    if source := os.environ.get("SEGTUI_CAMVID"):
        _copy_some(Path(source), root)
    else:
        write_shapes(root, train=TRAIN, val=VAL)
    return DataSet(root, tmp_path / "runs", {name: json.loads((root / f"{name}.json").read_bytes()) for name in ("train", "val")})


def _copy_some(source: Path, root: Path) -> None:
    for name, count in (("train", TRAIN), ("val", VAL)):
        content = json.loads((source / f"{name}.json").read_bytes())
        kept = content["images"][:: len(content["images"]) // count][:count]
        identities = {image["id"] for image in kept}
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] in identities]
        for image in kept:
            (root / image["file_name"]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / image["file_name"], root / image["file_name"])
        (root / f"{name}.json").write_text(json.dumps(content | {"images": kept}))


def checked(data: DataSet, *overrides: str, full: bool = False) -> Report:
    table = load(write_preset(data.root, data.root), overrides)
    return examine(CheckupRequest(table.model_dump(exclude_none=True), Toggles(), str(data.runs), full), lambda task, done, total: None)


Words = tuple[str, ...]
Defect = Callable[[DataSet], Words]
DEFECTS: list[Any] = []


def defect(level: str, about: str, *overrides: str, full: bool = False) -> Callable[[Defect], Defect]:
    """The function plants it and returns what the finding must say beside the level and the topic."""

    def register(plant: Defect) -> Defect:
        marks = [pytest.mark.slow] if full else []
        DEFECTS.append(pytest.param(plant, level, about, overrides, full, id=plant.__name__, marks=marks))
        return plant

    return register


# The json


@defect("error", "train json")
def cut_json(data: DataSet) -> Words:
    text = json.dumps(data.json.pop("train"))
    (data.root / "train.json").write_text(text[: len(text) // 2])
    return "train.json:1", "is not json"


@defect("error", "val json")
def json_that_is_not_there(data: DataSet) -> Words:
    del data.json["val"]
    (data.root / "val.json").unlink()
    return "val.json: does not exist", "The folder has: train.json"


@defect("error", "train json")
def json_of_something_else(data: DataSet) -> Words:
    data.json["train"] = {"hello": []}
    return "train.json: has no 'images' list", "train.json"


@defect("error", "train json")
def image_id_twice(data: DataSet) -> Words:
    images = data.json["train"]["images"]
    images[1]["id"] = images[0]["id"]
    return f"image id {images[0]['id']!r} occurs more than once", "train.json"


@defect("error", "train json")
def image_without_size(data: DataSet) -> Words:
    del data.json["train"]["images"][2]["height"]
    return "needs 'height' and 'width' in pixels", "train.json"


@defect("error", "train json")
def category_id_twice(data: DataSet) -> Words:
    categories = data.json["train"]["categories"]
    categories[1]["id"] = categories[0]["id"]
    return f"category id {categories[0]['id']} occurs 2 times", "train.json"


@defect("error", "train json")
def annotation_without_image(data: DataSet) -> Words:
    data.annotations[3]["image_id"] = 123_456
    return "belongs to image_id 123456, which is not in images", "train.json"


@defect("error", "train json")
def annotation_without_category(data: DataSet) -> Words:
    data.annotations[3]["category_id"] = 999
    return "has category_id 999, which is not in categories", "train.json"


@defect("error", "train json")
def annotation_without_outline(data: DataSet) -> Words:
    data.box(segmentation=None)
    return "annotation 900001 has no 'segmentation'", "train.json"


@defect("error", "train json")
def half_a_point(data: DataSet) -> Words:
    data.box(segmentation=[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]])
    return "annotation 900001 has a polygon that is not a list of x, y pairs", "train.json"


@defect("error", "train json")
def point_far_away(data: DataSet) -> Words:
    data.box(segmentation=[[1.0, 2.0, 99_999.0, 4.0, 5.0, 6.0]])
    return "annotation 900001 has a polygon with a point far outside its image", "train.json"


@defect("error", "train json")
def rle_of_another_size(data: DataSet) -> Words:
    data.box(segmentation={"size": [10, 10], "counts": [50, 50]})
    return "annotation 900001 has an RLE of size [10, 10], but its image is", "train.json"


@defect("error", "train json")
def rle_that_is_too_short(data: DataSet) -> Words:
    image = data.json["train"]["images"][0]
    data.box(segmentation={"size": [image["height"], image["width"]], "counts": [5, 5]})
    return "annotation 900001 has an RLE whose counts do not add up", "train.json"


# Odd, but possible


@defect("warning", "annotations")
def annotation_id_twice(data: DataSet) -> Words:
    data.box(id=data.annotations[0]["id"])
    return "train.json: annotation ids that occur more than once: 1", "Give each its own id"


@defect("warning", "annotations")
def outline_of_two_points(data: DataSet) -> Words:
    data.box(segmentation=[[1.0, 1.0, 9.0, 9.0]])
    return "train.json: ", "fewer than three points: 1 (the first: 900001)", "redraw or remove it"


@defect("warning", "annotations")
def empty_outline(data: DataSet) -> Words:
    data.box(segmentation=[])
    return "train.json: ", "an empty outline", "1 (the first: 900001)", "redraw or remove it"


@defect("warning", "annotations")
def points_outside_the_image(data: DataSet) -> Words:
    data.box(segmentation=[[-3.0, 4.0, 12.0, 4.0, 12.0, 12.0]])
    return "train.json: annotations with points outside their image: 1 (the first: 900001)", "scaled"


@defect("warning", "annotations")
def outline_on_a_line(data: DataSet) -> Words:
    data.box(segmentation=[[2.0, 2.0, 8.0, 8.0, 5.0, 5.0]])
    return "train.json: annotations without area: 1 (the first: 900001)", "redraw or remove them"


@defect("warning", "annotations")
def rle_of_nothing(data: DataSet) -> Words:
    image = data.json["train"]["images"][0]
    data.box(segmentation={"size": [image["height"], image["width"]], "counts": [image["height"] * image["width"]]})
    return "train.json: annotations without area: 1 (the first: 900001)", "redraw or remove them"


@defect("warning", "annotations")
def area_of_zero(data: DataSet) -> Words:
    data.box(area=0)
    return "train.json: annotations whose 'area' is 0 though they have pixels: 1 (the first: 900001)", "write the true area"


@defect("warning", "images")
def file_name_twice(data: DataSet) -> Words:
    images = data.json["train"]["images"]
    images[1]["file_name"] = images[0]["file_name"]
    return f"train.json: file names that occur more than once: 1 (the first: {images[0]['file_name']!r})", "keep one"


@defect("note", "images")
def image_without_annotation(data: DataSet) -> Words:
    first = data.json["train"]["images"][0]
    data.json["train"]["annotations"] = [each for each in data.annotations if each["image_id"] != first["id"]]
    return f"train.json: images without annotation: 1 (the first: {first['file_name']!r})", "leave them out"


@defect("error", "train json")
def path_that_climbs_out(data: DataSet) -> Words:
    shutil.copyfile(data.image(), data.root.parent / "outside.png")
    data.json["train"]["images"][0]["file_name"] = "../outside.png"
    return "train.json: names images outside of data.root: '../outside.png'", "data.allow_outside = true"


@defect("error", "train json")
def absolute_path(data: DataSet) -> Words:
    outside = shutil.copyfile(data.image(), data.root.parent / "outside.png")
    data.json["train"]["images"][0]["file_name"] = str(outside)
    return f"train.json: names images outside of data.root: {str(outside)!r}", "data.allow_outside = true"


@defect("error", "train json")
def link_that_leads_out(data: DataSet) -> Words:
    data.image().rename(data.root.parent / "outside.png")
    data.image().symlink_to(data.root.parent / "outside.png")
    return "train.json: names images outside of data.root", data.json["train"]["images"][0]["file_name"], "data.allow_outside = true"


@defect("error", "train json")
def linked_folder_that_leads_out(data: DataSet) -> Words:
    outside = data.root.parent / "elsewhere"
    outside.mkdir()
    shutil.copyfile(data.image(), outside / "a.png")
    (data.root / "linked").symlink_to(outside)
    data.json["train"]["images"][0]["file_name"] = "linked/a.png"
    return "train.json: names images outside of data.root: 'linked/a.png'", "data.allow_outside = true"


# Images


@defect("error", "images")
def image_that_is_not_there(data: DataSet) -> Words:
    data.image().unlink()
    return f"{data.image()} does not exist", "take it out of train.json"


@defect("error", "images")
def empty_image(data: DataSet) -> Words:
    data.image().write_bytes(b"")
    return f"{data.image()} is empty", "take it out of train.json"


@defect("error", "images")
def image_cut_off(data: DataSet) -> Words:
    data.image().write_bytes(data.image().read_bytes()[:-40])
    return f"{data.image()} is damaged or cut off", "take it out of train.json"


@defect("error", "images")
def text_in_place_of_an_image(data: DataSet) -> Words:
    data.image().write_text("<html>404 not found</html>")
    return f"{data.image()} is not an image that can be read", "take it out of train.json"


@defect("error", "images")
def image_of_another_size(data: DataSet) -> Words:
    Image.new("RGB", (50, 40)).save(data.image())
    return f"{data.image()} is 40x50 (height x width) but the json says", "take it out of train.json"


@defect("error", "images", "data.image_size=[64, 64]")
def image_turned_by_its_exif(data: DataSet) -> Words:
    image = data.json["train"]["images"][0]
    image["file_name"], image["height"], image["width"] = "turned.jpg", 40, 64
    data.json["train"]["annotations"] = [each for each in data.annotations if each["image_id"] != image["id"]]
    data.box(image_id=image["id"])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 40), "red").save(data.image(), exif=exif)
    return f"{data.image()} is 64x40", "EXIF orientation", "the json says 40x64"


@defect("error", "images", full=True)
def image_damaged_in_the_middle(data: DataSet) -> Words:
    image = data.json["train"]["images"][0]
    image["file_name"] = "damaged.png"
    noise = np.random.default_rng(1).integers(0, 255, (image["height"], image["width"], 3), np.uint8)
    Image.fromarray(noise).save(data.image())
    content = bytearray(data.image().read_bytes())
    content[len(content) // 2] ^= 0xFF
    data.image().write_bytes(content)
    return f"{data.image()} ", "take it out of train.json"


# Classes


@defect("warning", "classes")
def class_that_train_lacks(data: DataSet) -> Words:
    category = data.json["train"]["categories"][0]
    data.json["train"]["annotations"] = [each for each in data.annotations if each["category_id"] != category["id"]]
    return f"train.json has no pixel of {category['name']}, which val.json has", "move images over"


@defect("warning", "classes")
def class_that_val_lacks(data: DataSet) -> Words:
    category = data.json["val"]["categories"][0]
    kept = [each for each in data.json["val"]["annotations"] if each["category_id"] != category["id"]]
    data.json["val"]["annotations"] = kept
    return f"val.json has no pixel of {category['name']}", "cannot be measured", "move images over"


@defect("warning", "classes")
def class_that_nobody_has(data: DataSet) -> Words:
    for content in data.json.values():
        content["categories"].append({"id": 99, "name": "unicorn"})
    return "neither train.json nor val.json has a pixel of unicorn", "take it out"


@defect("error", "data")
def categories_that_differ(data: DataSet) -> Words:
    data.json["val"]["categories"][0]["name"] = "something else"
    return "val.json: categories: its categories differ from those of", "only in val.json: something else"


@defect("warning", "classes")
def names_alike(data: DataSet) -> Words:
    for content in data.json.values():
        names = content["categories"]
        names[1]["name"] = names[0]["name"].upper()
    return "train.json: category names that differ in case or blanks only: 2", "make them one"


@defect("error", "data")
def nothing_to_learn_from(data: DataSet) -> Words:
    data.json["train"]["annotations"] = []
    return ("train.json: has no annotations to learn from",)


# The same image twice


@defect("warning", "duplicates")
def training_image_in_val(data: DataSet) -> Words:
    shutil.copyfile(data.image("train", 0), data.image("val", 0))
    return (
        "train.json and val.json: images that they share: 1 (the first: ",
        data.json["val"]["images"][0]["file_name"],
        "take them out of one of them",
    )


@defect("note", "duplicates")
def copy_within_train(data: DataSet) -> Words:
    shutil.copyfile(data.image("train", 0), data.image("train", 1))
    return "train.json: images that are copies of others in it: 1", data.json["train"]["images"][1]["file_name"], "keep one of each"


@defect("warning", "duplicates", full=True)
def training_image_saved_again_in_val(data: DataSet) -> Words:
    first, image = data.json["train"]["images"][0], data.json["val"]["images"][0]
    image["file_name"] = "again.jpg"
    # Large shapes: what is hashed is their layout, and noise alone has none.
    picture = np.kron(np.random.default_rng(3).integers(0, 255, (8, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    shown = Image.fromarray(picture).resize((image["width"], image["height"]), Image.Resampling.BICUBIC)
    shown.save(data.root / "first.png")
    first["file_name"] = "first.png"
    shown.save(data.image("val", 0), quality=80)
    return "train.json and val.json: pairs of images that look the same: 1 (the first: 'first.png' is 'again.jpg')", "take them out"


# What the preset makes of it


@defect("error", "data", f"data.batch_size={TRAIN + 1}")
def batch_larger_than_the_set(data: DataSet) -> Words:
    return f"data.batch_size: is {TRAIN + 1}, but", f"train.json has {TRAIN} images", f"Set it to {TRAIN} or less"


@defect("error", "data")
def images_of_two_sizes(data: DataSet) -> Words:
    image = data.json["train"]["images"][0]
    Image.new("RGB", (image["width"] + 32, image["height"])).save(data.image())
    image["width"] += 32
    data.json["train"]["annotations"] = [each for each in data.annotations if each["image_id"] != image["id"]]
    data.box(image_id=image["id"])
    return "data.image_size: is not set, but the images of", "train.json differ in size", "Write for example image_size"


@defect("warning", "inputs", full=True)
def images_of_another_kind(data: DataSet) -> Words:
    for number in range(VAL):
        image = data.json["val"]["images"][number]
        image["file_name"] = f"white_{number}.png"
        white = np.random.default_rng(number).integers(250, 255, (image["height"], image["width"], 3), np.uint8)
        Image.fromarray(white).save(data.image("val", number))
    return "val.json: its images reach the network with mean", "look for another exposure"


@defect("error", "model", "model.decoder_segmentation_channels=-1", full=True)
def network_that_cannot_be_built(data: DataSet) -> Words:
    return ("model: FPN refuses these values",)


@defect("warning", "augment", 'augment.train=[{type="PiecewiseAffine"}]')
def slow_transform(data: DataSet) -> Words:
    return "augment.train: PiecewiseAffine takes about 6 s", "raise data.workers"


@defect("error", "preset", "optimizer.lr=-1.0", full=True)
def optimizer_that_refuses_its_values(data: DataSet) -> Words:
    return ("optimizer: AdamW refuses these values: Invalid learning rate: -1.0",)


@defect("error", "preset", 'loss=[{type="DiceLoss", classes=[90]}]', full=True)
def loss_that_cannot_be_computed(data: DataSet) -> Words:
    return ("loss: cannot be computed",)


# The machine


@defect("error", "runs")
def runs_that_cannot_be_written(data: DataSet) -> Words:
    shutil.rmtree(data.runs)
    data.runs.write_text("a file")
    return f"{data.runs}: cannot be written", "--runs"


@defect("warning", "disk space", "train.epochs=900000", "train.save_interval=1")
def more_checkpoints_than_the_disk_holds(data: DataSet) -> Words:
    return f"{data.runs} has", "GiB free", "raise train.save_interval"


@defect("warning", "shared memory", "data.workers=1000000")
def more_batches_than_shared_memory_holds(data: DataSet) -> Words:
    return "/dev/shm has", "lower data.workers or data.batch_size", "--shm-size"


@defect("warning", "memory", "data.workers=1000000")
def more_workers_than_memory_holds(data: DataSet) -> Words:
    return "network and loader workers need about", "are free", "lower data.batch_size or data.workers"


@defect("error", "devices", "data.batch_size=4", "launch.devices=3")
def batches_that_cannot_be_shared_out(data: DataSet) -> Words:
    return ("data.batch_size: is 4, which cannot be shared out to 3 devices. Set it to 3",)


@defect("error", "devices", "data.batch_size=4", "launch.nodes=2")
def machines_that_do_not_know_where_to_meet(data: DataSet) -> Words:
    return "launch.rendezvous: is not set", "--rendezvous NAME:29400"


@defect("warning", "W&B", 'wandb.mode="online"')
def tracking_without_a_key(data: DataSet) -> Words:
    return 'wandb.mode is "online", and the run would be offline: there is no API key', "wandb login"


@defect("warning", "test json")
def broken_test_json(data: DataSet) -> Words:
    (data.root / "test.json").write_text("{")
    return "test.json:1", "is not json"


@defect("warning", "images")
def missing_test_image(data: DataSet) -> Words:
    (data.root / "test.json").write_text(json.dumps({"images": [{"id": 1, "file_name": "gone.png", "height": 8, "width": 8}]}))
    return f"{data.root / 'gone.png'} does not exist", "take it out of test.json"


ALSO = {
    "nothing_to_learn_from": {"images"},
    "more_batches_than_shared_memory_holds": {"memory", "open files"},
    "more_workers_than_memory_holds": {"shared memory", "open files"},
}
"""Topics of what such a defect brings with it."""


@pytest.mark.parametrize(("plant", "level", "about", "overrides", "full"), DEFECTS)
def test_defect_is_found(
    plant: Defect, level: str, about: str, overrides: Words, full: bool, data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", "/nowhere")
    before = topics(checked(data).findings)
    words = plant(data)
    data.save()
    report = checked(data, *overrides, full=full)
    found = [finding for finding in report.findings if (finding.level, finding.about) == (level, about)]
    assert len([each for each in found if all(word in each.text for word in words)]) == 1, report.findings
    assert report.is_refused == (level == "error")
    others = topics(report.findings) - before - {(level, about)}
    assert {about for _, about in others} <= ALSO.get(plant.__name__, set()), report.findings


def topics(findings: list[Finding]) -> set[tuple[str, str]]:
    """Less those that depend on the machine: its cores, and whether it reaches a hub of weights."""
    return {(finding.level, finding.about) for finding in findings if finding.about not in ("workers", "weights")}


def test_few_open_files(data: DataSet) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        findings = checked(data).findings
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    found = [finding for finding in findings if finding.about == "open files"]
    assert [finding.level for finding in found] == ["warning"]
    assert "200 files may be open at once" in found[0].text
    assert "`ulimit -n" in found[0].text


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a GPU")
def test_half_precision_without_a_gpu(data: DataSet) -> None:
    report = checked(data, 'train.precision="fp16"')
    assert [finding.about for finding in report.findings if finding.level == "error"] == ["precision"]


def test_nothing_is_said_of_what_is_right(data: DataSet) -> None:
    findings = [finding for finding in checked(data).findings if finding.about != "workers"]
    assert findings == []
