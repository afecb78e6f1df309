"""What several tests share: small COCO data sets on disk, and caches that do not touch the user's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.predicting import Segtui

os.environ["WANDB_MODE"] = "offline"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Neither the user's environment and configuration, nor what the program remembers of earlier starts."""
    for name in ("SEGTUI_DATA", "SEGTUI_RUNS", "SEGTUI_CONFIG", "NO_COLOR", "TMUX"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))


def write_shapes(root: Path, *, train: int = 8, val: int = 4, size: tuple[int, int] = (64, 64)) -> Path:
    """A data set of coloured rectangles and triangles: two categories, polygons, PNG images in a subfolder."""
    rng = np.random.default_rng(5)
    (root / "images").mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(count):
            name = f"images/{split}_{number}.png"
            picture = rng.integers(0, 60, (*size, 3), dtype=np.uint8)
            images.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
            for category in (1, 2):
                x, y = rng.integers(0, size[1] // 2), rng.integers(0, size[0] // 2)
                side = int(rng.integers(12, 28))
                corners = (
                    [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]
                    if category == 1
                    else [(x, y), (x + side, y), (x, y + side)]
                )
                cv2.fillPoly(picture, [np.array(corners)], (250, 40, 40) if category == 1 else (40, 40, 250))
                polygon = [float(value) for corner in corners for value in corner]
                area = side * side if category == 1 else side * side / 2
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": number,
                        "category_id": category,
                        "segmentation": [polygon],
                        "area": area,
                        "iscrowd": 0,
                    }
                )
            cv2.imwrite(str(root / name), picture)
        categories = [{"id": 1, "name": "square"}, {"id": 2, "name": "triangle"}]
        (root / f"{split}.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return root


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    return write_shapes(tmp_path / "shapes")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that may be stopped, for records that say that they run."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


@pytest.fixture
def segtui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Segtui]:
    """The command line, in a folder of its own."""
    from tests.predicting import command_line

    with command_line(tmp_path, monkeypatch, capsys) as run:
        yield run


@pytest.fixture
def one(shapes: Path) -> Path:
    """The run `one` and the data it is of: validation images with ground truth, three test images without."""
    from tests.predicting import write_run, write_test

    write_test(shapes, [(64, 64), (64, 64), (50, 70)])
    return write_run("one", shapes)
