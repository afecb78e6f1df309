"""Metrics against scikit-learn, and against their formulas written as loops."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as reference  # type: ignore[import-untyped]

from engine.coco import IGNORED
from engine.metrics import Scores, confusion_matrices, confusion_matrix, image_mIoU, scores

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
# The last class counts of the 8, 16 and 32 bit paths and those after them, up to the most that a mask holds.
EDGES = (2, 15, 16, 181, 182, 200, 254)


class Masks(NamedTuple):
    classes: int
    labels: NDArray[np.uint8]
    predictions: NDArray[np.uint8]


@st.composite
def masks(draw: st.DrawFn) -> Masks:
    """A batch (N, H, W) in which only some classes occur, and not the same ones in labels and predictions."""
    classes = draw(st.sampled_from(EDGES) | st.integers(2, 200))
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20)))
    some_classes = st.lists(st.integers(0, classes - 1) | st.just(classes - 1), min_size=1, max_size=8)
    ignored = draw(st.sampled_from([0.0, 0.2, 0.9, 1.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.choice(np.array(draw(some_classes), np.uint8), shape)
    predictions = rng.choice(np.array(draw(some_classes), np.uint8), shape)
    predictions = np.where(rng.random(shape) < 0.5, labels, predictions)
    return Masks(classes, np.where(rng.random(shape) < ignored, np.uint8(IGNORED), labels), predictions)


def matrix_of(case: Masks, device: str = "cpu") -> NDArray[np.int64]:
    labels, predictions = (torch.from_numpy(each).to(device) for each in (case.labels, case.predictions))
    matrix = confusion_matrix(labels, predictions, case.classes)
    assert matrix.dtype == torch.int64
    assert matrix.device.type == device
    return matrix.cpu().numpy()


def counted(case: Masks) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    labelled = case.labels != IGNORED
    return case.labels[labelled], case.predictions[labelled]


def expected_matrix(case: Masks) -> NDArray[np.int64]:
    labels, predictions = counted(case)
    if not labels.size:
        return np.zeros((case.classes, case.classes), np.int64)
    return np.asarray(reference.confusion_matrix(labels, predictions, labels=range(case.classes)))


def by_class(case: Masks, present: NDArray[np.uint8], values: NDArray[np.float64]) -> list[float | None]:
    listed: list[float | None] = [None] * case.classes
    for class_index, value in zip(present.tolist(), values.tolist(), strict=True):
        listed[class_index] = value
    return listed


def assert_close(found: list[float | None], expected: list[float | None]) -> None:
    assert [value is None for value in found] == [value is None for value in expected]
    assert [value for value in found if value is not None] == pytest.approx([value for value in expected if value is not None], abs=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@given(case=masks())
@settings(deadline=None, max_examples=150)
def test_confusion_matrix_equals_scikit_learns(device: str, case: Masks) -> None:
    np.testing.assert_array_equal(matrix_of(case, device), expected_matrix(case))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("classes", EDGES)
def test_confusion_matrix_counts_every_pair_of_classes(device: str, classes: int) -> None:
    """Each cell (i, j) has its own count, and each label is also met by 255 beside it."""
    pairs = np.arange(classes * classes)
    counts = pairs % 3 + 1
    labels = np.repeat(pairs // classes, counts).astype(np.uint8)
    predictions = np.repeat(pairs % classes, counts).astype(np.uint8)
    ignored = np.full(predictions.shape, IGNORED, np.uint8)
    case = Masks(classes, np.stack([labels, ignored])[None], np.stack([predictions, predictions])[None])
    np.testing.assert_array_equal(matrix_of(case, device), counts.reshape(classes, classes))


@pytest.mark.parametrize("device", DEVICES)
def test_confusion_matrix_holds_in_deterministic_mode_and_leaves_the_mode_alone(device: str) -> None:
    rng = np.random.default_rng(0)
    case = Masks(11, rng.integers(0, 11, (2, 64, 64), dtype=np.uint8), rng.integers(0, 11, (2, 64, 64), dtype=np.uint8))
    torch.use_deterministic_algorithms(True)
    try:
        np.testing.assert_array_equal(matrix_of(case, device), expected_matrix(case))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@given(case=masks())
@settings(deadline=None)
def test_matrices_of_images_sum_to_the_batchs(case: Masks) -> None:
    matrices = confusion_matrices(torch.from_numpy(case.labels), torch.from_numpy(case.predictions), case.classes)
    assert matrices.shape == (len(case.labels), case.classes, case.classes)
    np.testing.assert_array_equal(matrices.sum(dim=0).numpy(), matrix_of(case))
    for image, matrix in enumerate(matrices):
        one = Masks(case.classes, case.labels[image], case.predictions[image])
        np.testing.assert_array_equal(matrix.numpy(), expected_matrix(one))


@given(case=masks())
@settings(deadline=None, max_examples=150)
def test_scores_equal_scikit_learns(case: Masks) -> None:
    found = scores(matrix_of(case))
    labels, predictions = counted(case)
    assert found.support == [int((labels == class_index).sum()) for class_index in range(case.classes)]
    if not labels.size:
        nothing: list[float | None] = [None] * case.classes
        assert found == Scores(None, None, None, None, nothing, nothing, [0] * case.classes)
        assert found.seen == 0
        return

    seen = np.union1d(labels, predictions)
    iou = reference.jaccard_score(labels, predictions, labels=seen, average=None, zero_division=0)
    assert_close(found.IoU, by_class(case, seen, iou))
    assert found.mIoU == pytest.approx(reference.jaccard_score(labels, predictions, labels=seen, average="macro", zero_division=0))
    assert found.seen == len(seen)

    labelled = np.unique(labels)
    recall = reference.recall_score(labels, predictions, labels=labelled, average=None, zero_division=0)
    assert_close(found.class_acc, by_class(case, labelled, recall))
    assert found.mean_acc == pytest.approx(recall.mean())
    assert found.acc == pytest.approx(reference.accuracy_score(labels, predictions))


@given(case=masks())
@settings(deadline=None)
def test_frequency_weighted_iou_equals_its_formula(case: Masks) -> None:
    """(1 / sum_k t_k) * sum_i t_i n_ii / (t_i + sum_j n_ji - n_ii), with t_i the pixels of class i."""
    n = expected_matrix(case).tolist()
    total = weighted = 0.0
    for i in range(case.classes):
        t = sum(n[i])
        total += t
        if t:
            weighted += t * n[i][i] / (t + sum(row[i] for row in n) - n[i][i])
    found = scores(matrix_of(case)).fwavacc
    assert found == (pytest.approx(weighted / total) if total else None)


@given(case=masks())
@settings(deadline=None)
def test_image_miou_equals_scikit_learns_of_each_image(case: Masks) -> None:
    found = image_mIoU(confusion_matrices(torch.from_numpy(case.labels), torch.from_numpy(case.predictions), case.classes))
    expected = []
    for image in range(len(case.labels)):
        labels, predictions = counted(Masks(case.classes, case.labels[image], case.predictions[image]))
        if not labels.size:
            expected.append(1.0)
            continue
        seen = np.union1d(labels, predictions)
        expected.append(float(reference.jaccard_score(labels, predictions, labels=seen, average="macro", zero_division=0)))
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_scores_of_a_matrix_written_out() -> None:
    """Class 2 is nowhere, class 3 is only predicted: the first has no IoU, the second has one of 0 and no accuracy."""
    matrix = np.array([[6, 2, 0, 0], [1, 3, 0, 4], [0, 0, 0, 0], [0, 0, 0, 0]], np.int64)
    found = scores(matrix)
    assert found.IoU == [pytest.approx(6 / 9), pytest.approx(3 / 10), None, 0.0]
    assert found.class_acc == [6 / 8, 3 / 8, None, None]
    assert found.mIoU == pytest.approx((6 / 9 + 3 / 10 + 0) / 3)
    assert found.seen == 3
    assert found.mean_acc == pytest.approx((6 / 8 + 3 / 8) / 2)
    assert found.acc == pytest.approx(9 / 16)
    assert found.fwavacc == pytest.approx((8 * 6 / 9 + 8 * 3 / 10) / 16)


def test_scores_of_an_epoch_larger_than_32_bits() -> None:
    matrix = np.array([[3 * 2**40, 2**40], [2**40, 3 * 2**40]], np.int64)
    found = scores(matrix)
    assert found.acc == 0.75
    assert found.IoU == [pytest.approx(0.6), pytest.approx(0.6)]
    assert found.support == [2**42, 2**42]
