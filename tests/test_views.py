"""Views of test-time augmentation: which ones a text names, and the way back from each."""

from __future__ import annotations

import tracemalloc
from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.errors import RequestError
from engine.views import DEFAULT, IDENTITY, MIRRORS_AND_TURNS, MOST_VIEWS, View, cost, parse_views

EIGHT = [View(mirrored, turns) for mirrored in (False, True) for turns in range(4)]
# Odd, not square, and no two pixels alike: no two of the eight symmetries leave it the same.
ASYMMETRIC = np.arange(15).reshape(3, 5)
IN_NUMPY = {
    "identity": lambda image: image,
    "hflip": lambda image: image[:, ::-1],
    "vflip": lambda image: image[::-1],
    "rot90": lambda image: image.T[::-1],
    "rot180": lambda image: image[::-1, ::-1],
    "rot270": lambda image: image.T[:, ::-1],
}
LISTED = "(allowed: brightness, hflip, identity, rot180, rot270, rot90, scale, vflip)"

names = st.sampled_from(sorted(MIRRORS_AND_TURNS))
factors = st.lists(st.floats(0.25, 4), min_size=1, max_size=3)


def shown(view: View, image: NDArray[np.int64] = ASYMMETRIC) -> NDArray[np.int64]:
    return np.asarray(view.apply(torch.from_numpy(image.copy())))


def in_words(words: list[str], image: NDArray[np.int64] = ASYMMETRIC) -> NDArray[np.int64]:
    for word in words:
        image = IN_NUMPY[word](image)
    return image


def fingerprint(image: NDArray[np.int64]) -> tuple[tuple[int, ...], bytes]:
    return image.shape, np.ascontiguousarray(image).tobytes()


def refusal(text: str) -> str:
    with pytest.raises(RequestError) as refused:
        parse_views(text)
    return str(refused.value)


@pytest.mark.parametrize("name", IN_NUMPY)
def test_each_named_view_shows_what_its_name_says(name: str) -> None:
    """A turn is counter-clockwise, as in NumPy, PyTorch and albumentations."""
    np.testing.assert_array_equal(shown(MIRRORS_AND_TURNS[name]), IN_NUMPY[name](ASYMMETRIC))
    if name.startswith("rot"):
        np.testing.assert_array_equal(shown(MIRRORS_AND_TURNS[name]), np.rot90(ASYMMETRIC, int(name[3:]) // 90))


def test_mirrors_and_turns_are_the_eight_symmetries_of_the_square() -> None:
    assert len({fingerprint(shown(view)) for view in EIGHT}) == len(set(EIGHT)) == 8


@pytest.mark.parametrize(("first", "second"), list(product(EIGHT, EIGHT)), ids=str)
def test_one_view_after_another_is_the_view_that_both_make(first: View, second: View) -> None:
    together = first.then(second)
    assert together in EIGHT
    np.testing.assert_array_equal(shown(together), shown(second, shown(first)))


@pytest.mark.parametrize("size", [(3, 5), (5, 3), (4, 4), (7, 7), (1, 6), (1, 1)], ids=str)
@pytest.mark.parametrize("view", EIGHT, ids=str)
def test_every_view_is_undone(view: View, size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    there = view.apply(maps)
    assert tuple(there.shape[-2:]) == (size if view.turns % 2 == 0 else size[::-1])
    assert torch.equal(view.undo(there), maps)
    assert torch.equal(view.apply(view.undo(maps)), maps)


@pytest.mark.parametrize("view", EIGHT, ids=str)
def test_a_view_is_told_in_the_words_that_make_it(view: View) -> None:
    np.testing.assert_array_equal(in_words(str(view).split()), shown(view))


def test_views_are_told_apart_by_their_words() -> None:
    views = parse_views("hflip,vflip,rot90,scale=0.75/1/1.25,brightness=0.9/1")
    assert len({str(view) for view in views}) == len(views) == 48
    assert str(View(True, 1, 0.75, 1.1)) == "hflip rot90 scale 0.75 brightness 1.1"
    assert (str(View(True, 2)), str(View(False, 2)), str(IDENTITY)) == ("vflip", "rot180", "identity")


@given(
    mirrors=st.lists(names, max_size=5),
    scales=st.none() | factors,
    brightness=st.none() | factors,
    spaces=st.booleans(),
)
@settings(deadline=None)
def test_a_text_names_every_combination_and_none_twice(
    mirrors: list[str], scales: list[float] | None, brightness: list[float] | None, spaces: bool
) -> None:
    """Each mirror or turn with it and without, in the order they are written; what shows the same picture is one view."""
    parts = list(mirrors)
    parts += [f"scale={'/'.join(map(repr, scales))}"] if scales else []
    parts += [f"brightness={'/'.join(map(repr, brightness))}"] if brightness else []
    text = (" , " if spaces else ",").join(parts)
    pictures = {fingerprint(in_words(list(chosen))) for count in range(len(mirrors) + 1) for chosen in combinations(mirrors, count)}
    expected = set(product(pictures, scales or [1.0], brightness or [1.0]))
    views = parse_views(text)
    assert {(fingerprint(shown(view)), view.scale, view.brightness) for view in views} == expected
    assert len(views) == len(set(views)) == len(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["identity"]),
        ("identity", ["identity"]),
        (",hflip,", ["identity", "hflip"]),
        ("hflip,vflip", ["identity", "hflip", "vflip", "rot180"]),
        ("rot180,hflip,vflip", ["identity", "rot180", "hflip", "vflip"]),
        ("rot90,rot180", ["identity", "rot90", "rot180", "rot270"]),
        ("scale=0.5/1/0.50", ["scale 0.5", "identity"]),
        ("hflip, scale = 0.5 / 2", ["scale 0.5", "scale 2", "hflip scale 0.5", "hflip scale 2"]),
        ("brightness=0.9,hflip", ["brightness 0.9", "hflip brightness 0.9"]),
        (DEFAULT, ["scale 0.75", "identity", "scale 1.25", "hflip scale 0.75", "hflip", "hflip scale 1.25"]),
    ],
)
def test_views_of_a_text_written_out(text: str, expected: list[str]) -> None:
    assert [str(view) for view in parse_views(text)] == expected


def test_all_eight_symmetries_come_from_a_mirror_and_the_turns() -> None:
    for text in ("hflip,rot90,rot180", "vflip,rot90,rot180", "hflip,vflip,rot90", "hflip,rot90,rot180,rot270,vflip"):
        assert set(parse_views(text)) == set(EIGHT)
    assert set(parse_views("hflip,vflip,rot180")) == {View(False, 0), View(True, 0), View(False, 2), View(True, 2)}


def test_naming_a_view_over_and_over_takes_no_more_memory() -> None:
    tracemalloc.start()
    try:
        views = parse_views(",".join(["hflip"] * 16))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [str(view) for view in views] == ["identity", "hflip"]
    assert peak < 2**18


def test_cost_counts_pixels_that_go_through_the_network() -> None:
    assert cost(parse_views("")) == 1
    assert cost(parse_views("hflip,brightness=0.9/1.1")) == 4
    assert cost(parse_views("hflip,scale=0.5/1/2")) == pytest.approx(2 * (0.25 + 1 + 4))
    assert cost(parse_views(DEFAULT)) == pytest.approx(2 * (0.5625 + 1 + 1.5625))


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), scale=st.floats(0.25, 4))
@settings(deadline=None)
def test_a_scaled_image_has_the_nearest_whole_size_and_a_pixel_at_least(height: int, width: int, scale: float) -> None:
    for found, side in zip(View(scale=scale).size(height, width), (height, width), strict=True):
        assert found >= 1
        assert abs(found - scale * side) <= 0.5 or (found == 1 and scale * side < 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hflp", f"--tta: there is no view 'hflp'. Did you mean 'hflip'? {LISTED}"),
        ("hflip,ROT9", f"--tta: there is no view 'ROT9'. Did you mean 'rot90'? {LISTED}"),
        ("zebra", f"--tta: there is no view 'zebra'. {LISTED[1:-1].capitalize()}"),
        ("scales=0.5/1", f"--tta: there is no view 'scales=0.5/1'. Did you mean 'scale'? {LISTED}"),
        ("hflip=2", f"--tta: there is no view 'hflip=2'. Did you mean 'hflip'? {LISTED}"),
        ("scale=1,hflip,scale=2", "--tta: scale is given twice. Write its factors together, as in scale=0.75/1/1.25"),
        ("brightness=1,brightness=1", "--tta: brightness is given twice. Write its factors together, as in brightness=0.75/1/1.25"),
        ("scale", "--tta: scale has no factors. Write for example scale=0.75/1/1.25"),
        ("brightness=", "--tta: brightness: '' is no factor from 0.25 to 4. Write for example brightness=0.75/1/1.25"),
        ("scale=0.5/", "--tta: scale: '' is no factor from 0.25 to 4. Write for example scale=0.75/1/1.25"),
        ("scale=big", "--tta: scale: 'big' is no factor from 0.25 to 4. Write for example scale=0.75/1/1.25"),
        ("scale=1/0.2", "--tta: scale: '0.2' is no factor from 0.25 to 4. Write for example scale=0.75/1/1.25"),
        ("scale=4.01", "--tta: scale: '4.01' is no factor from 0.25 to 4. Write for example scale=0.75/1/1.25"),
        ("brightness=-1", "--tta: brightness: '-1' is no factor from 0.25 to 4. Write for example brightness=0.75/1/1.25"),
        ("scale=nan", "--tta: scale: 'nan' is no factor from 0.25 to 4. Write for example scale=0.75/1/1.25"),
        ("scale=inf", "--tta: scale: 'inf' is no factor from 0.25 to 4. Write for example scale=0.75/1/1.25"),
    ],
)
def test_a_wrong_view_is_told_with_what_to_write_instead(text: str, message: str) -> None:
    assert refusal(text) == message


def test_the_most_views_are_allowed_and_one_factor_more_is_not() -> None:
    scales = [f"{0.5 + number / 16:g}" for number in range(17)]
    assert len(parse_views(f"hflip,rot90,rot180,scale={'/'.join(scales[:16])}")) == MOST_VIEWS == 128
    expected = "--tta: makes 136 views of every image. 128 are the most"
    assert refusal(f"hflip,rot90,rot180,scale={'/'.join(scales)}") == expected
