"""The masks of a prediction that the engine made, looked at by keys: every mode, the worst image first, and files that are gone."""

from __future__ import annotations

import csv
import json
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from textual.pilot import Pilot
from textual.widgets import Static

from engine.palette import class_colours
from engine.prediction_record import read_record
from engine.results import images_of
from tests.conftest import write_shapes
from tests.predicting import CLASSES, write_run
from tests.screens import on, play, said, seen, until
from tui.app import SegtuiApp
from tui.cli import main
from tui.mask_drawing import coloured, fitted, half_blocks, nearest
from tui.screens.masks import MasksScreen
from tui.screens.predict import PredictScreen
from tui.widgets.listing import Listing
from tui.widgets.mask_view import MaskView

WIDE, NARROW = (140, 45), (80, 24)


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and a run that predicted its validation split (`val`) and a folder of photographs (`images`)."""
    import engine.predict  # noqa: F401  once, before the fork

    folder = tmp_path_factory.mktemp("predicted")
    write_run("one", write_shapes(folder / "shapes", train=1, val=4, size=(48, 64)))
    fork = multiprocessing.get_context("fork")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing, "get_context", lambda _=None: fork)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.chdir(folder)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # a fork has none of its parent's threads
        assert main(["predict", "one", "--split", "val"]) == 0
        assert main(["predict", "one", "--images", "shapes/images"]) == 0
        torch.set_num_threads(threads)
    return folder


@pytest.fixture
def place(predicted: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt; its records name the copy's files."""
    folder = tmp_path / "copy"
    shutil.copytree(predicted, folder)
    for record in folder.glob("runs/one/predictions/*/predict.json"):
        record.write_text(record.read_text().replace(str(predicted), str(folder)))
    return folder


def result(place: Path, name: str = "val") -> Path:
    return place / "runs/one/predictions" / name


def changed(folder: Path, **fields: Any) -> None:
    file = folder / "predict.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


async def looked_at(pilot: Pilot[None], app: SegtuiApp, folder: Path) -> MasksScreen:
    """Opened with `m` from the list of results."""
    await pilot.press("5")
    await until(pilot, lambda: isinstance(app.screen, PredictScreen) and app.screen.query_one(Listing).row_count > 0)
    listing = app.screen.query_one(Listing)
    listing.move_cursor(list(listing.keys).index(str(folder)))
    await pilot.press("m")
    await until(pilot, lambda: isinstance(app.screen, MasksScreen))
    screen = on(app, MasksScreen)
    await until(pilot, lambda: any(view._lines for view in screen.query(MaskView)))
    return screen


def headline(app: SegtuiApp) -> str:
    return str(on(app, MasksScreen).query_one("#headline", Static).render())


def test_the_worst_image_comes_first_and_keys_go_through_all(place: Path) -> None:
    with (result(place) / "images.csv").open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["mIoU"]))

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await looked_at(pilot, app, result(place))

        def at(number: int) -> bool:
            row = rows[number - 1]
            return headline(app) == f"{number}/4  mIoU {float(row['mIoU']):.4f}  prediction  {row['image_id']}"

        assert at(1)
        for keys, number in (
            (["N"], 1),
            (["n"], 2),
            (["right"], 3),
            (["l"], 4),
            (["n"], 4),
            (["N"], 3),
            (["left"], 2),
            (["h"], 1),
            (["end"], 4),
            (["home"], 1),
        ):
            await pilot.press(*keys)
            await until(pilot, lambda number=number: at(number))  # type: ignore[misc]
        await pilot.press("j", "k", "down", "up", "question_mark")
        await until(pilot, lambda: "Copy path" in seen(app))
        await pilot.press("escape", "escape")
        await until(pilot, lambda: isinstance(app.screen, PredictScreen))

    play(place / "runs", scene, NARROW)


def test_only_the_last_of_many_is_drawn_and_it_is_the_mask_that_was_predicted(place: Path) -> None:
    folder = result(place)
    worst_first = images_of(folder, read_record(folder))

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        screen = await looked_at(pilot, app, folder)
        view = screen.query_one("#view-0", MaskView)
        for presses, last in (("nnnN", 2), ("NNnn", 2), ("Nn", 2), ("NN", 0)):
            await pilot.press(*presses)
            mask = worst_first[last].mask
            assert mask is not None
            labels = np.asarray(Image.open(mask))
            height, width = fitted(*labels.shape, *view.room)
            expected = half_blocks(coloured(nearest(labels, height, width), class_colours(list(CLASSES))))
            await until(pilot, lambda expected=expected: view._lines == expected)  # type: ignore[misc]

    play(place / "runs", scene, NARROW)


def test_o_goes_round_the_modes_and_each_shows_another_picture(place: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        screen = await looked_at(pilot, app, result(place))
        view = screen.query_one("#view-0", MaskView)
        pictures = [view._lines]
        for mode in ("ground truth", "errors", "prediction over the photograph", "photograph"):
            await pilot.press("o")
            assert f"  {mode}  images/" in headline(app)
            await until(pilot, lambda: view._lines not in pictures)
            pictures.append(view._lines)
        await pilot.press("o")
        await until(pilot, lambda: view._lines == pictures[0])

    play(place / "runs", scene, NARROW)


def test_side_by_side_on_a_wide_terminal_and_one_alone_on_a_narrow_one(place: Path) -> None:
    def shown(app: SegtuiApp) -> list[str]:
        return [view.mode for view in app.screen.query(MaskView) if view.display and view._lines]

    four = ["photograph", "prediction", "truth", "errors"]

    async def wide(pilot: Pilot[None], app: SegtuiApp) -> None:
        await looked_at(pilot, app, result(place))
        await until(pilot, lambda: shown(app) == four)
        assert all(title in seen(app) for title in ("photograph", "prediction", "ground truth", "errors"))
        await pilot.press("o")
        await until(pilot, lambda: shown(app) == ["prediction"])
        await pilot.press("g", "n")
        await until(pilot, lambda: shown(app) == four and headline(app).startswith("2/4"))
        await pilot.resize_terminal(*NARROW)
        await pilot.press("g")
        await until(pilot, lambda: shown(app) == ["prediction"])

    async def narrow(pilot: Pilot[None], app: SegtuiApp) -> None:
        await looked_at(pilot, app, result(place))
        assert shown(app) == ["prediction"]

    play(place / "runs", wide, WIDE)
    play(place / "runs", narrow, NARROW)


def test_the_legend_tells_the_shares_and_the_IoU_of_each_class(place: Path) -> None:
    changed(result(place), classes=["배경", "종이팩", "일반 쓰레기가 아주 많은 곳"])
    first = images_of(result(place), read_record(result(place)))[0]
    assert first.mask is not None
    labels = np.asarray(Image.open(first.mask))

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await looked_at(pilot, app, result(place))
        lines = [line.split("■ ")[1].split() for line in seen(app).splitlines() if "■ " in line]
        assert [line[0] for line in lines] == ["배경", "종이팩", "일반", "wrong"]
        assert [line[-3] for line in lines[:3]] == [f"{np.mean(labels == index):.1%}" for index in range(3)]
        ious = [float(line[-1]) for line in lines[:3]]
        assert first.mIoU is not None
        assert np.mean(ious) == pytest.approx(first.mIoU, abs=0.01)

    play(place / "runs", scene, NARROW)


def test_without_ground_truth_images_are_in_their_order_and_have_three_modes(place: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await looked_at(pilot, app, result(place, "images"))
        assert headline(app) == "1/5  no ground truth  prediction  train_0.png"
        assert "true" not in seen(app)
        for mode in ("prediction over the photograph", "photograph", "prediction"):
            await pilot.press("o")
            assert f"  {mode}  train_0.png" in headline(app)
        await pilot.press("g")
        await until(
            pilot, lambda: [view.mode for view in app.screen.query(MaskView) if view.display] == ["photograph", "prediction", "overlay"]
        )

    play(place / "runs", scene, NARROW)


def test_y_copies_the_photograph(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(place / "shapes" / images_of(result(place), read_record(result(place)))[1].name)
    copied: list[str] = []
    monkeypatch.setattr(SegtuiApp, "copy_to_clipboard", lambda _, text: copied.append(text))

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await looked_at(pilot, app, result(place))
        await pilot.press("n", "y")
        assert copied == [path]
        changed(result(place), root=None)
        await pilot.press("escape")
        await looked_at(pilot, app, result(place))
        await pilot.press("y")
        assert copied == [path]
        assert said(app)[-1] == "the photograph's path is not known"

    play(place / "runs", scene, NARROW)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def older(folder: Path) -> None:
    record = json.loads((folder / "predict.json").read_text())
    del record["root"], record["truth"], record["files"]["masks"]
    (folder / "predict.json").write_text(json.dumps(record))
    with (folder / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (folder / "images.csv").write_text(
        "".join(f"{row['image_id']},{row['mIoU']}\n" for row in [{"image_id": "image_id", "mIoU": "mIoU"}, *rows])
    )


Spoil = Callable[[Path], object]


@pytest.mark.parametrize(
    ("spoil", "mode", "says"),
    [
        (lambda f: shutil.rmtree(f / "shapes/images"), "photograph", "does not exist"),
        (lambda f: [cut(path) for path in (f / "shapes/images").iterdir()], "photograph", "damaged or cut off"),
        (lambda f: [path.write_text("x") for path in (f / "shapes/images").iterdir()], "photograph", "not an image"),
        (lambda f: [Image.new("RGB", (9, 9)).save(path) for path in (f / "shapes/images").iterdir()], "photograph", "has changed since"),
        (lambda f: shutil.rmtree(result(f) / "masks"), "prediction", "does not exist: predict again"),
        (lambda f: [cut(path) for path in (result(f) / "masks/images").iterdir()], "prediction", "is damaged"),
        (lambda f: [Image.new("RGB", (9, 9)).save(path) for path in (result(f) / "masks/images").iterdir()], "prediction", "no label map"),
        (lambda f: shutil.rmtree(f / "runs/.cache"), "ground truth", "are no longer in"),
        (lambda f: shutil.rmtree(f / "runs/.cache"), "errors", "are no longer in"),
        (lambda f: [cut(path) for path in f.glob("runs/.cache/*/sizes.npy")], "ground truth", "damaged"),
        (lambda f: older(result(f)), "photograph", "an older segtui did not write down where the photographs are"),
        (lambda f: older(result(f)), "prediction", "an older segtui kept no masks"),
        (lambda f: older(result(f)), "ground truth", "an older segtui did not write down where the truth is"),
    ],
)
def test_what_is_gone_or_damaged_is_said_in_its_place(place: Path, spoil: Spoil, mode: str, says: str) -> None:
    spoil(place)

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await looked_at(pilot, app, result(place))
        for _ in range(5):
            if f"  {mode}  " in headline(app):
                break
            await pilot.press("o")
        await until(pilot, lambda: says in " ".join(words(app).split()))
        await pilot.press("n", "N", "g", "g", "n")
        await until(pilot, lambda: says in " ".join(words(app).split()))

    play(place / "runs", scene, NARROW)


def words(app: SegtuiApp) -> str:
    """What the one view in sight says, without the breaks of its lines."""
    return " ".join(line.text.strip() for view in list(app.screen.query(MaskView))[:1] for line in view._lines)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "images.csv").unlink(), "an older segtui listed no images here"),
        (lambda folder: (folder / "images.csv").write_text("a,b\n1,2\n"), "is not a result's table of images"),
        (lambda folder: (folder / "images.csv").write_bytes(b"\xff\xfe\x00"), "is not a result's table of images"),
        (lambda folder: (folder / "images.csv").write_text("image_id,mIoU,mask\n"), "there are no images in this result"),
        (lambda folder: (folder / "predict.json").unlink(), "cannot be read"),
        (lambda folder: (folder / "predict.json").write_text("{}"), "is not a prediction's record"),
        (lambda folder: changed(folder, format=2), "is of a newer segtui"),
    ],
)
def test_a_result_that_cannot_be_read_is_said(place: Path, spoil: Spoil, says: str) -> None:
    spoil(result(place))

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        app.push_screen(MasksScreen(result(place)))
        await until(pilot, lambda: isinstance(app.screen, MasksScreen) and says in " ".join(words(app).split()))
        await pilot.press("n", "N", "o", "g", "g", "y", "home", "end", "j", "escape")
        await until(pilot, lambda: not isinstance(app.screen, MasksScreen))

    play(place / "runs", scene, NARROW)


@pytest.mark.slow
@pytest.mark.parametrize("size", [NARROW, WIDE, (200, 60), (40, 10), (20, 5)])
def test_every_size_of_terminal_shows_it(place: Path, size: tuple[int, int]) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await looked_at(pilot, app, result(place))
        for key in ("o", "o", "g", "n", "o"):
            await pilot.press(key)
            await pilot.pause(0.05)
        await pilot.resize_terminal(*size)
        await pilot.pause(0.1)
        assert len(seen(app).splitlines()) == size[1]
        for key in ("g", "n", "g", "o", "N"):
            await pilot.press(key)
        await pilot.pause(0.1)
        if size >= (40, 10):
            await until(pilot, lambda: "▀" in seen(app))

    play(place / "runs", scene, NARROW)
