"""Masks in half-blocks against computations pixel by pixel, and what each class has of an image against scikit-learn."""

from __future__ import annotations

import asyncio
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from rich.style import Style
from sklearn import metrics as reference  # type: ignore[import-untyped]
from textual.app import App, ComposeResult
from textual.strip import Strip

from engine.palette import class_colours
from engine.result_images import Picture, class_shares, wrong_share
from tui.mask_drawing import DIMMED, IGNORED_COLOUR, WRONG, averaged, blended, coloured, draw, errors, fitted, half_blocks, nearest
from tui.widgets.mask_view import MaskView

Pixels = NDArray[np.uint8]
COLOURS = class_colours(["Background", "square", "triangle"])
sides = st.integers(1, 7)
labels = arrays.arrays(np.uint8, st.tuples(sides, sides), elements=st.sampled_from([0, 1, 2, 255]))
pictures = arrays.arrays(np.uint8, st.tuples(sides, sides, st.just(3)), elements=st.sampled_from([0, 1, 254, 255]))


def cells(strip: Strip) -> list[tuple[str, Style]]:
    return [(letter, segment.style or Style()) for segment in strip for letter in segment.text]


def shown(strips: list[Strip]) -> list[list[tuple[int, ...] | None]]:
    """The pixels that a terminal would show: the letter's colours, then what is behind the letters."""
    rows: list[list[tuple[int, ...] | None]] = []
    for strip in strips:
        assert {letter for letter, _ in cells(strip)} == {"▀"}
        styles = [style for _, style in cells(strip)]
        rows.append([tuple(style.color.get_truecolor()) if style.color else None for style in styles])
        rows.append([tuple(style.bgcolor.get_truecolor()) if style.bgcolor else None for style in styles])
    return rows


@given(picture=pictures)
def test_every_pixel_is_half_a_cell_of_its_own_colour(picture: Pixels) -> None:
    strips = half_blocks(picture)
    height, width = picture.shape[:2]
    assert [strip.cell_length for strip in strips] == [width] * ((height + 1) // 2)
    rows = shown(strips)
    for row, column in product(range(height), range(width)):
        assert rows[row][column] == tuple(picture[row, column].tolist())
    if height % 2:
        assert rows[height] == [None] * width


def test_equal_neighbours_are_one_piece() -> None:
    striped = np.zeros((4, 6, 3), np.uint8)
    striped[:, 3:] = 9
    assert [len(list(strip)) for strip in half_blocks(striped)] == [2, 2]


@given(height=st.integers(1, 9000), width=st.integers(1, 9000), columns=st.integers(1, 300), rows=st.integers(1, 120))
def test_a_picture_is_as_large_as_its_room_allows_and_keeps_its_shape(height: int, width: int, columns: int, rows: int) -> None:
    tall, wide = fitted(height, width, columns, rows)
    assert 1 <= tall <= 2 * rows
    assert 1 <= wide <= columns
    assert tall == 2 * rows or wide == columns
    scale = min(columns / width, 2 * rows / height)
    assert tall == pytest.approx(max(height * scale, 1), abs=0.51)
    assert wide == pytest.approx(max(width * scale, 1), abs=0.51)


@given(small=pictures, times=st.integers(1, 4))
def test_photographs_are_scaled_by_the_mean_of_each_area(small: Pixels, times: int) -> None:
    rng = np.random.default_rng(0)
    height, width = small.shape[:2]
    large = rng.integers(0, 256, (height * times, width * times, 3), dtype=np.uint8)
    expected = large.reshape(height, times, width, times, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(averaged(large, height, width), expected, atol=1.01)  # Pillow rounds by row, then by column


@given(label=labels, height=st.integers(1, 9), width=st.integers(1, 9))
def test_label_maps_are_scaled_to_labels_that_were_there(label: Pixels, height: int, width: int) -> None:
    scaled = nearest(label, height, width)
    for row, column in product(range(height), range(width)):
        y, x = int((row + 0.5) * label.shape[0] / height + 1e-9), int((column + 0.5) * label.shape[1] / width + 1e-9)
        assert scaled[row, column] == label[y, x]


@given(truth=labels, seed=st.integers(0, 99))
def test_errors_are_red_over_the_dimmed_photograph_and_ignored_pixels_grey(truth: Pixels, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prediction = rng.integers(0, 3, truth.shape, dtype=np.uint8)
    photograph = rng.integers(0, 256, (*truth.shape, 3), dtype=np.uint8)
    drawn = errors(photograph, prediction, truth, *truth.shape)
    for place in np.ndindex(*truth.shape):
        if truth[place] == 255:
            expected = [float(value) for value in IGNORED_COLOUR]
        elif truth[place] != prediction[place]:
            expected = [float(value) for value in WRONG]
        else:
            expected = [float(np.mean(photograph[place])) * DIMMED] * 3
        np.testing.assert_allclose(drawn[place], expected, atol=0.51)


def test_a_pixel_that_stands_for_many_is_as_red_as_they_are_wrong() -> None:
    truth = np.zeros((4, 8), np.uint8)
    prediction = truth.copy()
    prediction[0, 0] = prediction[1, 4:8] = 1
    drawn = errors(None, prediction, truth, 1, 2)
    np.testing.assert_allclose(drawn[0, 0], np.array(WRONG) / 16, atol=1)
    np.testing.assert_allclose(drawn[0, 1], np.array(WRONG) / 4, atol=1)


@given(label=labels)
def test_label_maps_have_the_classes_colours(label: Pixels) -> None:
    photograph = np.full((*label.shape, 3), 100, np.uint8)
    over = blended(photograph, label, COLOURS)
    for place in np.ndindex(*label.shape):
        colour = IGNORED_COLOUR if label[place] == 255 else COLOURS[label[place]]
        assert tuple(coloured(label, COLOURS)[place].tolist()) == colour
        np.testing.assert_allclose(over[place], 45 + 0.55 * np.array(colour), atol=0.51)


@given(truth=labels, seed=st.integers(0, 99))
def test_shares_and_IoU_of_an_image_are_scikit_learns(truth: Pixels, seed: int) -> None:
    prediction = np.random.default_rng(seed).integers(0, 3, truth.shape, dtype=np.uint8)
    flat, flat_truth = prediction[truth != 255], truth[truth != 255]
    shares = class_shares(prediction, truth)
    assert [each.index for each in shares] == sorted(set(flat.tolist()) | set(flat_truth.tolist()))
    for each in shares:
        assert each.predicted == pytest.approx(np.mean(flat == each.index))
        assert each.true == pytest.approx(np.mean(flat_truth == each.index))
        assert each.IoU == pytest.approx(reference.jaccard_score(flat_truth == each.index, flat == each.index))
    if flat.size:
        assert wrong_share(prediction, truth) == pytest.approx(reference.zero_one_loss(flat_truth, flat))
    alone = class_shares(prediction, None)
    assert sum(each.predicted for each in alone) == pytest.approx(1)
    assert {each.IoU for each in alone} == {None}


def test_what_is_missing_is_said_instead_of_the_picture() -> None:
    label = np.ones((4, 4), np.uint8)
    picture = Picture(None, label, None, {"photograph": "a.jpg does not exist", "truth": "there is no ground truth"}, [], None, 0.0)
    assert isinstance(draw(picture, "prediction", COLOURS, 4, 4), list)
    assert draw(picture, "photograph", COLOURS, 4, 4) == "a.jpg does not exist"
    assert draw(picture, "overlay", COLOURS, 4, 4) == "a.jpg does not exist"
    assert draw(picture, "errors", COLOURS, 4, 4) == "there is no ground truth"
    nothing = Picture(None, None, None, {"photograph": "no a.jpg", "prediction": "no a.png", "truth": "no truth"}, [], None, 0.0)
    assert draw(nothing, "errors", COLOURS, 4, 4) == "no a.png\nno truth"


@pytest.mark.parametrize(("size", "left", "top"), [((9, 7), 3, 2), ((3, 2), 0, 0), ((4, 3), 0, 0), ((2, 1), 0, 0)])
def test_the_picture_is_in_the_middle_and_never_over_the_edge(size: tuple[int, int], left: int, top: int) -> None:
    picture = half_blocks(np.full((6, 3, 3), 200, np.uint8))

    class OneView(App[None]):
        def compose(self) -> ComposeResult:
            yield MaskView()

    async def scene() -> None:
        app = OneView()
        async with app.run_test(size=size) as pilot:
            view = app.query_one(MaskView)
            view.show(picture)
            await pilot.pause()
            lines = [strip.text for strip in app.screen._compositor.render_strips()]
            assert [len(line) for line in lines] == [size[0]] * size[1]
            expected = [" " * left + "▀▀▀" if top <= row < top + 3 else "" for row in range(size[1])]
            assert [line.rstrip() for line in lines] == [line[: size[0]] for line in expected]
            view.show("[red]no such file[/] 가나다")
            await pilot.pause()
            assert view.room == size

    asyncio.run(scene())
