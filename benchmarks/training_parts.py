"""What the training rows share: the data sets, the networks, and the baseline's way of feeding and measuring them, in our words."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import albumentations
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from torch.utils.data import Dataset

from engine import preset
from engine.coco import Split, read_split
from engine.schema import Preset

CAMVID = Path(os.environ.get("SEGTUI_DATA", "../shared/data/camvid"))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def camvid() -> Path:
    """The folder of the photographs. Raises SystemExit where they are not there."""
    if not (CAMVID / "train.json").exists():
        raise SystemExit(f"{CAMVID / 'train.json'} is not there: set SEGTUI_DATA to the folder of CamVid as COCO json")
    return CAMVID.absolute()


def drawn_stars(folder: Path, images: int = 256, size: int = 512, polygons: int = 8, classes: int = 10) -> Path:
    """Noise of a photograph's weight (JPEG, quality 90, size x size), with star-shaped polygons of 24 corners on it."""
    random = np.random.default_rng(1)
    annotations: list[dict[str, Any]] = []
    (folder / "images").mkdir(parents=True)
    for index in range(images):
        coarse = random.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.int16) + random.normal(0, 2, (size, size, 3))
        cv2.imwrite(str(folder / f"images/{index}.jpg"), image.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
        for _ in range(polygons):
            angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
            radius = random.uniform(0.05, 0.2) * size * random.uniform(0.6, 1, 24)
            middle = random.uniform(0.2, 0.8, 2) * size
            corners = np.stack([middle[0] + radius * np.cos(angles), middle[1] + radius * np.sin(angles)], axis=1).clip(0, size - 1)
            x, y, right, bottom = *corners.min(axis=0), *corners.max(axis=0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": int(random.integers(1, classes + 1)),
                    "segmentation": [corners.round(1).ravel().tolist()],
                    "area": float((right - x) * (bottom - y) / 2),
                    "bbox": [float(x), float(y), float(right - x), float(bottom - y)],
                    "iscrowd": 0,
                }
            )
    files = [{"id": index + 1, "file_name": f"images/{index}.jpg", "height": size, "width": size} for index in range(images)]
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, classes + 1)]
    (folder / "train.json").write_text(json.dumps({"images": files, "annotations": annotations, "categories": categories}))
    return folder


def part_of_camvid(folder: Path, train: int, val: int) -> Path:
    """The first so many images of each split; the files themselves stay where they are."""
    source = camvid()
    folder.mkdir()
    for name, count in (("train.json", train), ("val.json", val)):
        content = json.loads((source / name).read_bytes())
        content["images"] = content["images"][:count]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] in kept]
        (folder / name).write_text(json.dumps(content))
    for batch in source.iterdir():
        if batch.is_dir():
            (folder / batch.name).symlink_to(batch)
    return folder


def default_preset(root: Path, *overrides: str) -> Preset:
    """`base.toml` with a small network, on the data of `root`."""
    small = ('model.type="Unet"', 'model.encoder_name="resnet18"', 'model.encoder_weights="none"')
    data = (f'data.root="{root}"', "data.allow_outside=true")
    return preset.load(Path("presets/unet.toml"), [*small, *data, *overrides])


def split_of(table: Preset) -> Split:
    return read_split(Path(table.data.root), table.data.train, table.data.background)


@contextmanager
def loaders_ended() -> Iterator[None]:
    """Loader workers ignore the SIGTERM with which multiprocessing would end them, and it would wait for them for ever."""
    try:
        yield
    finally:
        for child in multiprocessing.active_children():
            child.kill()


class BaselineData(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A competition baseline's data set: every annotation drawn anew for every sample, float32 images, the same augmentations."""

    def __init__(self, table: Preset, name: str, *extra: Any, augmented: bool) -> None:
        self.root = Path(table.data.root)
        with redirect_stdout(sys.stderr):  # it prints
            self.coco = COCO(str(self.root / name))
        self.ids = sorted(self.coco.imgs)
        self.number = {category: index for index, category in enumerate(sorted(self.coco.cats), start=1)}
        steps = [getattr(albumentations, each.type)(**each.args) for each in table.augment.train] if augmented else []
        normalised = albumentations.Normalize(mean=MEAN, std=STD, max_pixel_value=1.0)
        self.pipeline, self.last = albumentations.Compose([*steps, normalised]), albumentations.Compose(extra)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        file = self.coco.imgs[self.ids[index]]
        image = cv2.cvtColor(cv2.imread(str(self.root / file["file_name"])), cv2.COLOR_BGR2RGB).astype(np.float32) / 255
        mask = np.zeros((file["height"], file["width"]), np.uint8)
        annotations = self.coco.loadAnns(self.coco.getAnnIds(imgIds=file["id"]))
        for annotation in sorted(annotations, key=lambda each: each["area"], reverse=True):
            mask[self.coco.annToMask(annotation) == 1] = self.number[annotation["category_id"]]
        found = self.pipeline(image=image, mask=mask)
        if found["mask"].shape[0] > found["mask"].shape[1]:  # on its side: batches need one size
            found = {name: np.ascontiguousarray(np.rot90(each)) for name, each in found.items()}
        found = self.last(**found)
        chw = np.ascontiguousarray(found["image"].transpose(2, 0, 1))
        return torch.from_numpy(chw), torch.from_numpy(np.ascontiguousarray(found["mask"]).astype(np.int64))


def baseline_histogram(labels: NDArray[np.int64], predictions: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """One image's confusion matrix the way baselines add it up: a boolean index, then bincount over int64."""
    inside = (labels >= 0) & (labels < classes)
    counted = np.bincount(classes * labels[inside] + predictions[inside], minlength=classes**2)
    return counted.reshape(classes, classes).astype(np.float64)


def baseline_scores(matrix: NDArray[np.float64]) -> tuple[float, float, float, float, NDArray[np.float64]]:
    """acc, mean acc, mIoU, fwavacc, IoU; recomputed from the whole matrix whenever it is called."""
    with np.errstate(all="ignore"):
        hits, rows, columns = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
        iou = hits / (rows + columns - hits)
        frequency = rows / matrix.sum()
        return (
            float(hits.sum() / matrix.sum()),
            float(np.nanmean(hits / rows)),
            float(np.nanmean(iou)),
            float((frequency[frequency > 0] * iou[frequency > 0]).sum()),
            iou,
        )
