"""Probabilities in `.npy` files against numpy.save and numpy.load, and every way in which a file is none."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy
from numpy.typing import NDArray

from engine.errors import RequestError
from engine.probabilities import ProbabilityFile, ProbabilityWriter, Sidecar, class_order, sidecar_path, sidecar_text

NAMES = ["a.jpg", "b/b.jpg", "c.jpg"]
CLASSES = ["Background", "square", "triangle", "circle"]
SHAPE = (3, 4, 5, 6)


def softmax(shape: Sequence[int], seed: int = 0) -> NDArray[np.float64]:
    """Probabilities over the second axis, some of them near 0 and near 1."""
    logits = np.random.default_rng(seed).normal(0, 4, tuple(shape))
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


def describe(path: Path, **changes: Any) -> None:
    """A sidecar as another program writes it."""
    table = {"format": 1, "classes": CLASSES, "images": NAMES, "size": SHAPE[2:], "members": ["elsewhere"]} | changes
    Path(f"{path}.json").write_text(json.dumps(table))


def assert_refused(action: Callable[[], Any], path: Path, *says: str) -> None:
    with pytest.raises(RequestError) as refused:
        action()
    (problem,) = refused.value.problems
    assert str(problem).startswith(str(path))
    assert all(word in str(problem) for word in says), str(problem)


@st.composite
def chunked(draw: st.DrawFn) -> tuple[NDArray[np.float32], list[int]]:
    """Probabilities, and the sizes of the batches in which they come."""
    shape = draw(st.tuples(st.integers(1, 7), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6)))
    cuts = sorted(draw(st.sets(st.integers(1, shape[0] - 1)))) if shape[0] > 1 else []
    return softmax(shape, draw(st.integers(0, 99))).astype(np.float32), np.diff([0, *cuts, shape[0]]).tolist()


@given(case=chunked())
@settings(deadline=None)
def test_what_is_written_is_a_npy_of_float16_that_numpy_maps(case: tuple[NDArray[np.float32], list[int]]) -> None:
    probabilities, batches = case
    with TemporaryDirectory() as folder:
        path = Path(folder) / "p.npy"
        writer = ProbabilityWriter(path, probabilities.shape)  # type: ignore[arg-type]  # numpy's shapes have no length
        first = 0
        for count in batches:
            writer.write(probabilities[first : first + count])
            first += count
        writer.close()
        mapped = np.load(path, mmap_mode="r")
        assert mapped.dtype == np.float16
        np.testing.assert_array_equal(mapped, probabilities.astype(np.float16))
        expected = io.BytesIO()
        np.save(expected, probabilities.astype(np.float16))
        assert path.read_bytes() == expected.getvalue()
        reader = ProbabilityFile(path)
        assert reader.shape == probabilities.shape
        for index in reversed(range(len(reader))):
            np.testing.assert_array_equal(reader[index], probabilities[index].astype(np.float16).astype(np.float32))


def test_batches_of_any_memory_order_are_written_row_by_row(tmp_path: Path) -> None:
    probabilities = softmax(SHAPE).astype(np.float32)
    channels_last = np.ascontiguousarray(probabilities.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    writer = ProbabilityWriter(tmp_path / "p.npy", SHAPE)
    writer.write(channels_last)
    writer.close()
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), probabilities.astype(np.float16))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("kind", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"])
def test_files_of_any_float_and_version_are_read(tmp_path: Path, kind: str, version: tuple[int, int]) -> None:
    path = tmp_path / "p.npy"
    probabilities = softmax(SHAPE).astype(kind)
    with path.open("wb") as file:
        npy.write_array(file, probabilities, version=version)
    found = ProbabilityFile(path)
    assert len(found) == SHAPE[0]
    assert found.sidecar is None
    for index in range(SHAPE[0]):
        assert found[index].dtype == np.float32
        np.testing.assert_array_equal(found[index], probabilities[index].astype(np.float32))
    order, warning = found.check(NAMES, CLASSES, quiet)
    assert order == [0, 1, 2, 3]
    assert "p.npy.json" in warning


def test_every_image_is_looked_at(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", softmax(SHAPE))
    seen: list[tuple[int, int]] = []
    ProbabilityFile(tmp_path / "p.npy").check(NAMES, CLASSES, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_many_classes_in_float16_sum_to_1_nearly_enough(tmp_path: Path) -> None:
    """Probabilities that are all alike are rounded the same way, so that the errors add up."""
    for classes in (2, 3, 19, 150, 254):
        values = np.full((1, classes, 2, 2), 1 / classes, np.float16)
        np.save(tmp_path / "p.npy", values)
        ProbabilityFile(tmp_path / "p.npy").check(["a"], [str(number) for number in range(classes)], quiet)


def spoiled(value: float, *others: float) -> NDArray[np.float32]:
    """Probabilities with another value in image 1, class 2, row 3, column 4; `others` go to the classes beside it."""
    values = softmax(SHAPE).astype(np.float32)
    values[1, 2, 3, 4] = value
    for number, other in enumerate(others):
        values[1, number, 3, 4] = other
    return values


PLACE = "row 3, column 4"
NO_PROBABILITIES = [
    pytest.param(spoiled(np.nan), ["b/b.jpg", PLACE, "not a finite"], id="NaN"),
    pytest.param(spoiled(np.inf), ["b/b.jpg", PLACE, "not a finite"], id="infinity"),
    pytest.param(spoiled(-np.inf), ["b/b.jpg", PLACE, "not a finite"], id="negative infinity"),
    pytest.param(spoiled(np.inf, -np.inf), ["b/b.jpg", PLACE, "not a finite"], id="infinities of both signs"),
    pytest.param(spoiled(-0.5, 1.5, 0.0), ["b/b.jpg", "negative", "-0.5", "softmax"], id="negative, and the sum is 1"),
    pytest.param(spoiled(0.5, 0.2, 0.1), ["b/b.jpg", PLACE, "not to 1"], id="sum of another"),
    pytest.param(np.random.default_rng(0).normal(0, 4, SHAPE), ["image 0 (a.jpg)", "softmax"], id="logits"),
    pytest.param(softmax(SHAPE) * 100, ["image 0 (a.jpg)", "sum to 100"], id="percent"),
    pytest.param(np.zeros(SHAPE), ["image 0 (a.jpg)", "sum to 0"], id="zeros"),
    pytest.param(softmax((3, 5, 4, 6)).transpose(0, 2, 1, 3), ["image 0 (a.jpg)", "not to 1"], id="classes on another axis"),
    pytest.param(1 / (1 + np.exp(-np.random.default_rng(0).normal(0, 4, SHAPE))), ["image 0 (a.jpg)", "not to 1"], id="sigmoids"),
]


@pytest.mark.parametrize(("values", "says"), NO_PROBABILITIES)
def test_numbers_that_are_no_probabilities_are_refused(tmp_path: Path, values: NDArray[Any], says: list[str]) -> None:
    path = tmp_path / "p.npy"
    np.save(path, np.ascontiguousarray(values))
    assert_refused(lambda: ProbabilityFile(path).check(NAMES, CLASSES, quiet), path, *says)


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_objects_are_refused_without_being_unpickled(tmp_path: Path) -> None:
    path, sprung = tmp_path / "p.npy", tmp_path / "sprung"
    np.save(path, np.array([[[[Trap(sprung)]]]], object), allow_pickle=True)
    assert_refused(lambda: ProbabilityFile(path), path, "object", "floating-point")
    path.write_bytes(pickle.dumps(Trap(sprung)))
    assert_refused(lambda: ProbabilityFile(path), path, "no .npy file")
    assert not sprung.exists()


OTHER_ARRAYS = [
    pytest.param(np.zeros(SHAPE, np.uint8), ["uint8", "floating-point"], id="whole numbers"),
    pytest.param(np.zeros(SHAPE, np.complex64), ["complex64", "floating-point"], id="complex"),
    pytest.param(np.zeros(SHAPE, [("p", "<f4")]), ["floating-point"], id="records"),
    pytest.param(softmax(SHAPE)[0], ["(4, 5, 6)", "(N, C, H, W)"], id="three dimensions"),
    pytest.param(softmax(SHAPE)[None], ["(1, 3, 4, 5, 6)", "(N, C, H, W)"], id="five dimensions"),
    pytest.param(np.zeros((0, 4, 5, 6)), ["(0, 4, 5, 6)"], id="no image"),
    pytest.param(np.zeros((3, 4, 0, 6)), ["(3, 4, 0, 6)"], id="no row"),
    pytest.param(np.asfortranarray(softmax(SHAPE)), ["Fortran", "ascontiguousarray"], id="Fortran order"),
]


@pytest.mark.parametrize(("array", "says"), OTHER_ARRAYS)
def test_other_arrays_are_refused(tmp_path: Path, array: NDArray[Any], says: list[str]) -> None:
    np.save(tmp_path / "p.npy", array)
    assert_refused(lambda: ProbabilityFile(tmp_path / "p.npy"), tmp_path / "p.npy", *says)


def whole_file() -> bytes:
    content = io.BytesIO()
    np.save(content, softmax(SHAPE).astype(np.float16))
    return content.getvalue()


WHOLE = whole_file()


@pytest.mark.parametrize("length", [0, 1, 5, 6, 8, 9, 10, 11, 40, 127, 128, 129, len(WHOLE) // 2, len(WHOLE) - 1])
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "p.npy"
    path.write_bytes(WHOLE[:length])
    assert_refused(lambda: ProbabilityFile(path), path, "is cut off" if length >= 128 else "no .npy file")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.npy", None, "no such file"),
        ("text.npy", b"0.1 0.9\n", "no .npy file"),
        ("p.npz", b"PK\x03\x04" + bytes(40), "no .npy file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert_refused(lambda: ProbabilityFile(tmp_path / name), tmp_path / name, says)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert_refused(lambda: ProbabilityFile(tmp_path), tmp_path, "no .npy file")


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 90), st.sampled_from(b"'{}(),:<>f248O|L-+ \n#\0\xff[]\"\\") | st.integers(0, 255)), min_size=1, max_size=4
    )
)
@settings(deadline=None, max_examples=600)
def test_a_damaged_head_is_refused_or_read(changes: list[tuple[int, int]]) -> None:
    """Whatever it says, the file is either an array of the right size, or refused by name."""
    content = bytearray(WHOLE)
    for place, code in changes:
        content[place] = code
    with TemporaryDirectory() as folder:
        path = Path(folder) / "p.npy"
        path.write_bytes(content)
        try:
            found = ProbabilityFile(path)
        except RequestError as error:
            problem = str(error)
        else:
            problem = ""
            assert found[len(found) - 1].shape == found.shape[1:]
        assert not problem or problem.startswith(str(path))


@pytest.mark.parametrize(
    "head",
    [
        "{'descr': '<f2', 'fortran_order': False, 'shape': (3, 4, 5, 6, }",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (3, 4, 5, 6)",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (3, -4, -5, 6), }",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (-3, 4, 5, 6), }",
        f"{{'descr': '<f2', 'fortran_order': False, 'shape': ({2**62}, 4, 1, 1), }}",
        "{'descr': '<f2', b'fortran_order': False, 'shape': (3, 4, 5, 6), }",
        "{'descr': '<f2', 'fortran_order': False, 'shape': 3 4, }",
        "(" * 3000,
    ],
)
def test_heads_that_no_program_should_write_are_refused(tmp_path: Path, head: str) -> None:
    path = tmp_path / "p.npy"
    text = head.encode() + b"\n"
    path.write_bytes(npy.magic(1, 0) + len(text).to_bytes(2, "little") + text + WHOLE[128:])
    with pytest.raises(RequestError, match=r"p\.npy"):
        ProbabilityFile(path)


@pytest.mark.parametrize(
    ("shape", "says"),
    [((2, 4, 5, 6), ["holds 2 images", "has 3"]), ((3, 3, 5, 6), ["holds 3 classes", "has 4"])],
)
def test_a_file_without_sidecar_must_fit_in_number(tmp_path: Path, shape: tuple[int, ...], says: list[str]) -> None:
    path = tmp_path / "p.npy"
    np.save(path, softmax(shape))
    assert_refused(lambda: ProbabilityFile(path).check(NAMES, CLASSES, quiet), path, *says)


def test_a_sidecar_that_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "p.npy"
    path.write_bytes(WHOLE)
    sidecar = Sidecar(classes=["Hintergrund", 'a "b"', "ü,\n", "c"], images=NAMES, size=(5, 6), members=["Unet/best"], weights=[0.25])
    sidecar_path(path).write_bytes(sidecar_text(sidecar))
    assert ProbabilityFile(path).sidecar == sidecar
    assert json.loads((tmp_path / "p.npy.json").read_text())["size"] == [5, 6]


def test_a_sidecar_of_the_same_needs_no_warning(tmp_path: Path) -> None:
    path = tmp_path / "p.npy"
    path.write_bytes(WHOLE)
    describe(path)
    assert ProbabilityFile(path).check(NAMES, CLASSES, quiet) == ([0, 1, 2, 3], "")


@given(order=st.permutations(range(4)))
@settings(deadline=None)
def test_classes_in_another_order_are_put_back(order: list[int]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "p.npy"
        ours = softmax(SHAPE).astype(np.float32)
        np.save(path, np.ascontiguousarray(ours[:, order]))
        describe(path, classes=[CLASSES[index] for index in order])
        found = ProbabilityFile(path)
        back, warning = found.check(NAMES, CLASSES, quiet)
        assert warning == ""
        for index in range(len(found)):
            np.testing.assert_array_equal(found[index][back], ours[index])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"images": ["b/b.jpg", "a.jpg", "c.jpg"]}, ["the same images in another order", "image 0", "'b/b.jpg'"], id="order"),
        pytest.param({"images": ["a.jpg", "b/b.jpg", "d.jpg"]}, ["other images", "image 2", "'d.jpg'", "'c.jpg'"], id="other images"),
        pytest.param({"images": ["a.jpg", "a.jpg", "c.jpg"]}, ["other images", "image 1"], id="an image twice"),
        pytest.param({"classes": ["Background", "square", "triangle", "star"]}, ["lacks circle", "besides star"], id="other classes"),
        pytest.param({"classes": ["Background", "square", "triangle", "triangle"]}, ["lacks circle"], id="a class twice"),
    ],
)
def test_a_sidecar_of_other_things_is_refused(tmp_path: Path, changes: dict[str, Any], says: list[str]) -> None:
    path = tmp_path / "p.npy"
    path.write_bytes(WHOLE)
    describe(path, **changes)
    assert_refused(lambda: ProbabilityFile(path).check(NAMES, CLASSES, quiet), path, *says)


@pytest.mark.parametrize(
    "changes",
    [{"classes": CLASSES[:3]}, {"classes": [*CLASSES, "more"]}, {"images": NAMES[:2]}, {"size": (6, 5)}, {"images": [], "classes": []}],
)
def test_a_sidecar_of_another_array_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "p.npy"
    path.write_bytes(WHOLE)
    describe(path, **changes)
    assert_refused(lambda: ProbabilityFile(path), Path(f"{path}.json"), "describes an array", "(3, 4, 5, 6)")


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: content[: len(content) // 2], id="torn"),
        pytest.param(lambda content: b"[]", id="no object"),
        pytest.param(lambda content: b"{}", id="nothing in it"),
        pytest.param(lambda content: content.replace(b'"size": [5, 6]', b'"size": [5, 6, 7]'), id="size of three"),
        pytest.param(lambda content: content.replace(b'"size": [5, 6]', b'"size": 5'), id="size of one"),
        pytest.param(lambda content: content.replace(b"square", b"Stra\xdfe"), id="no UTF-8"),
        pytest.param(lambda content: b"\0" * len(content), id="zeros of a crash"),
    ],
)
def test_a_sidecar_that_says_nothing_is_refused(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "p.npy"
    path.write_bytes(WHOLE)
    describe(path)
    sidecar = Path(f"{path}.json")
    assert spoil(sidecar.read_bytes()) != sidecar.read_bytes()
    sidecar.write_bytes(spoil(sidecar.read_bytes()))
    assert_refused(lambda: ProbabilityFile(path), sidecar, "does not describe p.npy")


@given(own=st.permutations(["a", "b", "c", "d", "e"]), wanted=st.permutations(["a", "b", "c", "d", "e"]))
def test_class_order_sorts_a_members_classes(own: list[str], wanted: list[str]) -> None:
    assert [own[index] for index in class_order(own, wanted, "file")] == wanted


@pytest.mark.parametrize(
    ("own", "says"),
    [
        (["a", "b"], "lacks c"),
        (["a", "b", "c", "d"], "besides d"),
        (["a", "b", "d"], "lacks c.*besides d"),
        (["a", "b", "c", "c"], "twice"),
        (["A", "b", "c"], "lacks a.*besides A"),
    ],
)
def test_other_classes_are_named(own: list[str], says: str) -> None:
    with pytest.raises(RequestError, match=f"(?s)file.*{says}"):
        class_order(own, ["a", "b", "c"], "file")
