"""Ensembles: votes, fitted weights and the submission's square, against every number kept and counted in float64."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]
from sklearn.metrics import accuracy_score, jaccard_score  # type: ignore[import-untyped]
from torch import nn

from engine.coco import IGNORED
from engine.dataset import Batch
from engine.ensemble import HardVote, SoftVote, classes_of, fit_weights, scaled, submission_ids
from engine.errors import RunError
from engine.fitting import fit, halves
from engine.inference import Inference, Manner
from engine.members import ArrayMember, Member, NetworkMember, SpilledMember, fit_together, spill
from engine.probabilities import ProbabilityFile, Sidecar, class_order, sidecar_path, sidecar_text
from engine.scoreboard import Scoreboard, as_event
from engine.submission import HEADER, SubmissionReader, encode_row, majority, vote
from engine.views import parse_views

Array = NDArray[np.float64]
Size = tuple[int, int]

CPU = torch.device("cpu")
CLASSES = ("Background", "tree", "car", "road")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
PLAIN = Manner()


class Encoder(nn.Module):
    output_stride = 32


class Network(nn.Module):
    """One convolution that knows left from right and up from down."""

    def __init__(self, seed: int, classes: int = len(CLASSES)) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.layer = nn.Conv2d(3, classes, 3, padding=1)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(self.layer.weight.shape, generator=generator) * 0.3)
            self.layer.bias.copy_(torch.randn(classes, generator=generator))  # type: ignore[union-attr]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.layer(images)
        return answer


def network_member(
    seed: int, own: Sequence[str] = CLASSES, manner: Manner = PLAIN, input_size: Size | None = None, name: str = ""
) -> NetworkMember:
    inference = Inference(Network(seed, len(own)), MEAN, STD, input_size, CPU, "fp32", manner, print)
    return NetworkMember(name or f"network {seed}", inference, class_order(own, CLASSES, "here"))


def in_float64(seed: int, images: torch.Tensor, own: Sequence[str] = CLASSES, input_size: Size | None = None) -> Array:
    """Probabilities (N, C, H, W) in the order of CLASSES, of a plain network: each step by itself."""
    size = (images.shape[1], images.shape[2])
    normal = ((images.double() / 255 - torch.tensor(MEAN, dtype=torch.float64)) / torch.tensor(STD, dtype=torch.float64)).permute(
        0, 3, 1, 2
    )
    shown = functional.interpolate(normal, input_size, mode="bilinear") if input_size else normal
    with torch.no_grad():
        logits = deepcopy(Network(seed, len(own))).double()(shown)
    found = functional.interpolate(logits, size, mode="bilinear").softmax(1).numpy()
    return np.stack([found[:, list(own).index(name)] for name in CLASSES], axis=1)


def array_member(folder: Path, values: NDArray[np.floating], own: Sequence[str] | None = None) -> ArrayMember:
    """A .npy of (N, C, H, W), as another program would leave it."""
    path = folder / f"member_{len(list(folder.iterdir()))}.npy"
    np.save(path, values)
    names = [str(index) for index in range(len(values))]
    if own:
        sidecar_path(path).write_bytes(sidecar_text(Sidecar(classes=list(own), images=names, size=values.shape[2:], members=[])))
    file = ProbabilityFile(path)
    wanted = CLASSES if own else [str(index) for index in range(values.shape[1])]
    order, _ = file.check(names, wanted, lambda done, total: None)
    return ArrayMember(file, order, CPU)


def random_probabilities(shape: tuple[int, int, int, int], seed: int) -> Array:
    logits = np.random.default_rng(seed).normal(0, 2, shape)
    powers = np.exp(logits)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def batch_of(size: Size, indices: Sequence[int], labels: torch.Tensor | None = None) -> Batch:
    """Each index has its own picture, whatever batch it comes in."""
    images = [np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8) for index in indices]
    labels = torch.full((len(indices), *size), IGNORED, dtype=torch.uint8) if labels is None else labels
    return Batch(torch.from_numpy(np.stack(images)), labels, torch.tensor(list(indices)))


def assert_same_classes(found: NDArray[np.uint8], probabilities: Array, margin: float = 2e-3) -> None:
    """Equal to the most probable class wherever the second is not as probable, which must be nearly everywhere."""
    ordered = np.sort(probabilities, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > margin
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(found[clear], probabilities.argmax(axis=1)[clear])


def seen(member: Member, batch: Batch) -> Array:
    return np.asarray(member.predict(batch, plain=False).probabilities, np.float64)


@pytest.mark.parametrize("weights", [(0.25, 0.25, 0.25, 0.25), (0.5, 0.1, 0.3, 0.1), (0.0, 1.0, 0.0, 0.0)])
def test_soft_voting_equals_a_mean_over_everything_kept(weights: tuple[float, ...], tmp_path: Path) -> None:
    """Of networks with their classes in other orders and other input sizes, and of an array in other classes and sizes still."""
    other, third = ("car", "road", "Background", "tree"), ("road", "tree", "car", "Background")
    kept = random_probabilities((5, 4, 17, 23), 3).astype(np.float16)
    members = [
        network_member(0),
        network_member(1, other),
        network_member(2, third, input_size=(32, 64)),
        array_member(tmp_path, kept, other),
    ]
    voting = SoftVote(members, weights, 20, "probabilities")
    for size, indices in (((33, 47), [0, 1]), ((40, 29), [2, 3, 4])):
        batch = batch_of(size, indices)
        array = kept[indices].astype(np.float64)
        array = array[:, [other.index(name) for name in CLASSES]] / array.sum(axis=1, keepdims=True)
        everything = [
            in_float64(0, batch.images),
            in_float64(1, batch.images, other),
            in_float64(2, batch.images, third, (32, 64)),
            functional.interpolate(torch.from_numpy(array), size, mode="bilinear").numpy(),
        ]
        wanted = np.average(everything, axis=0, weights=weights)
        answer = voting(batch, compare=True)
        assert answer.probabilities is not None
        np.testing.assert_allclose(answer.probabilities.numpy(), wanted, rtol=0, atol=1e-3)
        assert answer.labels.dtype == torch.uint8
        assert_same_classes(answer.labels.numpy(), wanted)
        assert_same_classes(answer.ids, averaged(wanted, 20, 20))
        for alone, each in zip(answer.members, everything, strict=True):
            assert_same_classes(alone.numpy(), each)


def test_probabilities_that_were_rounded_weigh_as_much_as_others(tmp_path: Path) -> None:
    """A file's pixels may sum to a little less than 1; the member's vote does not."""
    exact = random_probabilities((2, 4, 6, 9), 0)
    sums = np.random.default_rng(0).uniform(0.991, 1.009, (2, 1, 6, 9))
    np.testing.assert_allclose(seen(array_member(tmp_path, exact * sums), batch_of((6, 9), [0, 1])), exact, rtol=0, atol=1e-6)


def test_members_in_another_order_of_classes_say_the_same_as_in_the_first_ones() -> None:
    """The same network with its outputs shuffled is the same member."""
    own = ("road", "Background", "car", "tree")
    shuffled, straight = Network(5), Network(5)
    places = [CLASSES.index(name) for name in own]
    with torch.no_grad():
        shuffled.layer.weight.copy_(straight.layer.weight[places])
        shuffled.layer.bias.copy_(straight.layer.bias[places])  # type: ignore[index, union-attr]
    inferences = [Inference(each, MEAN, STD, None, CPU, "fp32", Manner(parse_views("hflip")), print) for each in (shuffled, straight)]
    batch = batch_of((33, 40), [0, 1])
    found = NetworkMember("shuffled", inferences[0], class_order(own, CLASSES, "")).predict(batch, plain=True)
    wanted = NetworkMember("straight", inferences[1], class_order(CLASSES, CLASSES, "")).predict(batch, plain=True)
    torch.testing.assert_close(found.probabilities, wanted.probabilities, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.plain, wanted.plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [SoftVote, HardVote])
def test_the_plain_answer_is_the_vote_without_views(kind: type[SoftVote] | type[HardVote]) -> None:
    weights = [Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)]
    with_views = [network_member(seed, manner=Manner(parse_views("hflip,rot90"))) for seed in range(3)]
    without = [network_member(seed) for seed in range(3)]
    batch = batch_of((32, 32), [0, 1])

    def voted(members: list[NetworkMember]) -> HardVote | SoftVote:
        return (
            HardVote(members, weights, 32, "probabilities")
            if kind is HardVote
            else SoftVote(members, [float(weight) for weight in weights], 32, "probabilities")
        )

    answer, plain = voted(with_views)(batch, compare=True), voted(without)(batch, compare=False)
    assert answer.plain is not None
    assert torch.equal(answer.plain, plain.labels)
    assert not torch.equal(answer.plain, answer.labels)
    assert plain.plain is None
    assert plain.members == []


def test_predicting_leaves_a_members_answer_as_it_was() -> None:
    """The sum is taken in place, and of one member's only it may not be."""
    member = network_member(0, manner=Manner(parse_views("hflip")))
    batch = batch_of((32, 32), [0])
    first = member.predict(batch, plain=True)
    before = first.probabilities.clone()
    again = SoftVote([member, network_member(1)], [0.5, 0.5], 32, "probabilities")(batch, compare=True)
    assert torch.equal(first.probabilities, before)
    assert torch.equal(again.members[0], classes_of(before))


def counted(votes: NDArray[np.uint8], weights: Sequence[Fraction | int]) -> NDArray[np.uint8]:
    """A ballot for each pixel. Of equals the one that was there first, as a Counter keeps its keys in order."""
    winners = []
    for pixel in votes.reshape(len(votes), -1).T.tolist():
        ballot: Counter[int] = Counter()
        for choice, weight in zip(pixel, weights, strict=True):
            ballot[choice] += weight  # type: ignore[assignment]
        winners.append(max(ballot, key=lambda choice: ballot[choice]))
    return np.array(winners, np.uint8).reshape(votes.shape[1:])


fractions = st.fractions(0, 3, max_denominator=1000) | st.sampled_from([Fraction("0.1"), Fraction("0.3"), Fraction(1)])


@given(
    members=st.integers(1, 6),
    classes=st.integers(2, 5) | st.just(255),
    seed=st.integers(0, 2**32 - 1),
    weights=st.lists(fractions, min_size=6, max_size=6),
    equal=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_hard_voting_equals_a_ballot_for_every_pixel(members: int, classes: int, seed: int, weights: list[Fraction], equal: bool) -> None:
    """With few classes ties are common."""
    choices = np.random.default_rng(seed).integers(0, classes, (members, 2, 5, 5), dtype=np.uint8)
    given_weights = [Fraction(1)] * members if equal or not any(weights[:members]) else weights[:members]
    with tempfile.TemporaryDirectory() as name:
        each = [array_member(Path(name), np.eye(classes, dtype=np.float32)[choice].transpose(0, 3, 1, 2)) for choice in choices]
        answer = HardVote(each, given_weights, 5, "probabilities")(batch_of((5, 5), [0, 1]), compare=True)
    wanted = counted(choices, given_weights)
    np.testing.assert_array_equal(answer.labels.numpy(), wanted)
    np.testing.assert_array_equal(answer.ids, wanted)
    np.testing.assert_array_equal(np.stack([votes.numpy() for votes in answer.members]), choices)
    assert answer.plain is not None
    np.testing.assert_array_equal(answer.plain.numpy(), wanted)


@given(
    votes=st.lists(st.sampled_from([0, 1, 2, 254, 255]), min_size=1, max_size=9),
    weights=st.lists(st.integers(0, 3) | st.sampled_from([127, 128, 255, 2**16 - 1, 2**32, 2**63, 10**30]), min_size=9, max_size=9),
)
@settings(deadline=None)
def test_a_ballot_holds_weights_of_any_size(votes: list[int], weights: list[int]) -> None:
    ballot = np.array(votes, np.uint8)[:, None]
    np.testing.assert_array_equal(majority(ballot, weights[: len(votes)]), counted(ballot, weights[: len(votes)]))


def test_of_equals_the_first_listed_members_class_wins() -> None:
    def winner(*votes: int, weights: Sequence[int] | None = None) -> int:
        return int(majority(np.array(votes, np.uint8)[:, None], weights or [1] * len(votes))[0])

    assert winner(3, 1) == 3
    assert winner(1, 3) == 1
    assert winner(2, 1, 1, 2) == 2
    assert winner(0, 2, 1, 1, 2) == 2
    assert winner(5, 4, 4, weights=[2, 1, 1]) == 5
    assert winner(5, 4, 4, weights=[2, 1, 2]) == 4


@pytest.mark.parametrize("three_first", [True, False])
def test_three_tenths_are_three_tenths(three_first: bool, tmp_path: Path) -> None:
    """In floating point 0.1 + 0.1 + 0.1 is more than 0.3."""
    tenths = [(1, Fraction("0.1"))] * 3
    ballots = [*tenths, (2, Fraction("0.3"))] if three_first else [(2, Fraction("0.3")), *tenths]
    members = [
        array_member(tmp_path, np.broadcast_to(np.eye(3, dtype=np.float32)[choice][None, :, None, None], (1, 3, 4, 4)))
        for choice, _ in ballots
    ]
    answer = HardVote(members, [weight for _, weight in ballots], 4, "probabilities")(batch_of((4, 4), [0]), compare=False)
    assert set(answer.labels.unique().tolist()) == {1 if three_first else 2}
    assert (answer.ids == (1 if three_first else 2)).all()


@pytest.mark.parametrize("how", ["probabilities", "nearest"])
def test_hard_voting_over_networks_is_hard_voting_over_their_submissions(how: str, tmp_path: Path) -> None:
    members = [network_member(seed) for seed in range(4)]
    weights = [Fraction(2), Fraction(1), Fraction(1), Fraction(1)]
    batch = batch_of((40, 56), [0, 1, 2])
    readers = []
    for number, member in enumerate(members):
        alone = SoftVote([member], [1.0], 16, how)(batch, compare=False)  # type: ignore[arg-type]
        path = tmp_path / f"{number}.csv"
        path.write_bytes(HEADER.encode() + b"\n" + b"".join(encode_row(f"{row}.png", ids) for row, ids in enumerate(alone.ids)))
        readers.append(SubmissionReader(path))
    answer = HardVote(members, weights, 16, how)(batch, compare=False)  # type: ignore[arg-type]
    with ThreadPoolExecutor() as pool:
        voted = list(vote(readers, [2, 1, 1, 1], pool))
    assert voted == [encode_row(f"{row}.png", answer.ids[row]) for row in range(3)]


@pytest.mark.parametrize("plain", [True, False])
def test_networks_one_after_another_give_what_they_give_together(plain: bool, tmp_path: Path) -> None:
    """To half precision; for images of several sizes, and asked for in other batches than those they came in."""
    sizes = np.array([(33, 40), (33, 40), (20, 27), (33, 40), (50, 21)], np.int32)
    spilling = [[0, 1], [2], [3], [4]]
    asked = [[3, 1, 0], [4], [2]]
    manner = Manner(parse_views("hflip"))
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    array = array_member(arrays, random_probabilities((5, 4, 8, 8), 0), CLASSES)

    def batches(groups: list[list[int]]) -> list[Batch]:
        return [batch_of(tuple(sizes[group[0]].tolist()), group) for group in groups]

    networks = [network_member(0, manner=manner), network_member(1, CLASSES[::-1], manner, (32, 32))]
    assert fit_together(networks, 33, 40)
    done: list[int] = []
    spilled = spill([networks[0], array, networks[1]], lambda: batches(spilling), sizes, 4, tmp_path, done.append, plain=plain)
    assert done == [2, 1, 1, 1] * 2
    assert [type(member) for member in spilled] == [SpilledMember, ArrayMember, SpilledMember]
    assert [member.name for member in spilled] == ["network 0", array.name, "network 1"]
    for network in networks:
        network.enter_device()
    weights = [0.5, 0.2, 0.3]
    for batch in batches(asked):
        for direct, kept in zip((networks[0], networks[1]), (spilled[0], spilled[2]), strict=True):
            now, then = direct.predict(batch, plain=plain), kept.predict(batch, plain=plain)
            torch.testing.assert_close(then.probabilities, now.probabilities, rtol=2**-10, atol=1e-6)
            assert (then.plain is not None) == plain
            if plain:
                torch.testing.assert_close(then.plain, now.plain, rtol=2**-10, atol=1e-6)
                assert not torch.allclose(now.probabilities, now.plain, atol=0.01)  # type: ignore[arg-type]
        together = SoftVote([networks[0], array, networks[1]], weights, 16, "probabilities")(batch, compare=plain)
        apart = SoftVote(spilled, weights, 16, "probabilities")(batch, compare=plain)
        assert together.probabilities is not None
        assert apart.probabilities is not None
        torch.testing.assert_close(apart.probabilities, together.probabilities, rtol=0, atol=1e-3)
        assert_same_classes(apart.labels.numpy(), together.probabilities.double().numpy())


def test_what_does_not_fit_the_disk_is_told_before_it_is_begun(tmp_path: Path) -> None:
    sizes = np.full((1000, 2), 2**20, np.int32)
    with pytest.raises(
        RunError, match=r"^the models do not fit the GPU together, and keeping what one says takes 8192000\.0 GiB; .* has \d+\.\d$"
    ):
        spill([network_member(0)], lambda: iter(()), sizes, 4, tmp_path, lambda images: None, plain=False)


def likelihood(weights: NDArray[np.floating], of_truth: Array, labels: NDArray[np.uint8]) -> float:
    """The mean over the classes of the mean log probability of the truth."""
    logs = np.log(of_truth @ weights)
    return float(np.mean([logs[labels == label].mean() for label in np.unique(labels)]))


def optimum(of_truth: Array, labels: NDArray[np.uint8]) -> Array:
    """By sequential quadratic programming, from every corner of the simplex and its middle."""
    count = of_truth.shape[1]
    corners = 0.9 * np.eye(count) + 0.1 / count
    found = [
        minimize(
            lambda weights: -likelihood(weights, of_truth, labels),
            start,
            bounds=[(0, 1)] * count,
            constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
            options={"ftol": 1e-12, "maxiter": 500},
        )
        for start in (np.full(count, 1 / count), *corners)
    ]
    best = min(found, key=lambda each: each.fun).x.clip(0)
    return np.asarray(best / best.sum())


def drawn(members: int, pixels: int, seed: int, classes: int = 5) -> tuple[Array, NDArray[np.uint8]]:
    """Members that each know some classes better than others; some classes are rare."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(pixels) ** 2 * classes).astype(np.uint8)
    skill = rng.uniform(0.3, 4, (members, classes))
    return rng.beta(skill[:, labels].T, 1.5).clip(1e-4, 1), labels


@given(members=st.integers(2, 5), pixels=st.integers(20, 400), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=25)
def test_fitted_weights_are_as_likely_as_quadratic_programmings(members: int, pixels: int, seed: int) -> None:
    of_truth, labels = drawn(members, pixels, seed)
    found, wanted = fit_weights(of_truth, labels), optimum(of_truth, labels)
    assert found.shape == (members,)
    assert (found >= 0).all()
    assert found.sum() == pytest.approx(1, abs=1e-9)
    assert likelihood(found, of_truth, labels) >= likelihood(wanted, of_truth, labels) - 5e-5
    np.testing.assert_allclose(of_truth @ found, of_truth @ wanted, rtol=0, atol=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_the_weight_between_two_is_the_best_of_a_fine_grid(seed: int) -> None:
    of_truth, labels = drawn(2, 500, seed)
    grid = np.linspace(0, 1, 2001)
    best = grid[np.argmax([likelihood(np.array([weight, 1 - weight]), of_truth, labels) for weight in grid])]
    assert fit_weights(of_truth, labels)[0] == pytest.approx(best, abs=2e-3)


def test_a_useless_member_gets_no_weight() -> None:
    of_truth, labels = drawn(2, 2000, 7)
    useless = np.random.default_rng(0).uniform(0.001, 0.01, (2000, 1))
    found = fit_weights(np.hstack([of_truth, useless]), labels)
    assert found[2] < 1e-3
    np.testing.assert_allclose(found[:2], fit_weights(of_truth, labels), rtol=0, atol=1e-3)


def test_a_member_that_is_always_surer_of_the_truth_gets_all_of_it() -> None:
    of_truth, labels = drawn(1, 1000, 8)
    np.testing.assert_allclose(fit_weights(np.hstack([of_truth * 0.7, of_truth]), labels), [0, 1], rtol=0, atol=1e-3)


def test_a_member_that_is_there_twice_is_no_more_likely_than_once() -> None:
    of_truth, labels = drawn(2, 1000, 9)
    once, twice = fit_weights(of_truth, labels), fit_weights(of_truth[:, [0, 0, 1]], labels)
    assert twice[0] + twice[1] == pytest.approx(once[0], abs=1e-3)
    assert likelihood(twice, of_truth[:, [0, 0, 1]], labels) == pytest.approx(likelihood(once, of_truth, labels), abs=1e-6)
    np.testing.assert_allclose(fit_weights(of_truth[:, [0, 0]], labels).sum(), 1)


def test_a_class_counts_the_same_however_many_pixels_it_has() -> None:
    """A rare class is not drowned by its background."""
    of_truth, labels = drawn(3, 600, 10)
    repeats = np.where(labels == 0, 50, 1)
    found = fit_weights(np.repeat(of_truth, repeats, axis=0), np.repeat(labels, repeats))
    np.testing.assert_allclose(found, fit_weights(of_truth, labels), rtol=0, atol=1e-4)


def test_members_that_rule_the_truth_out_can_be_weighed() -> None:
    of_truth = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    found = fit_weights(of_truth, np.zeros(4, np.uint8))
    # Two of the three that anybody knows are the first member's.
    np.testing.assert_allclose(found, [2 / 3, 1 / 3], rtol=0, atol=0.01)
    np.testing.assert_array_equal(fit_weights(np.full((5, 1), 0.2), np.zeros(5, np.uint8)), [1.0])


@given(images=st.integers(0, 300))
@settings(deadline=None)
def test_halves_are_apart_and_leave_no_image_out(images: int) -> None:
    first, second = halves(images)
    assert sorted([*first, *second]) == list(range(images))
    assert len(second) - len(first) in (0, 1)
    assert (first, second) == (sorted(first), sorted(second))
    assert halves(images) == (first, second)


def test_halves_are_drawn_and_not_cut() -> None:
    """Neighbours in a json are often frames of one film."""
    first, second = halves(100)
    assert 10 < sum(index < 50 for index in first) < 40
    assert list(range(0, 100, 2)) not in (first, second)


class Labelled:
    """Images in batches of three, with ground truth that the first network mostly agrees with."""

    def __init__(self, images: int, size: Size = (24, 31), unlabelled: Sequence[int] = ()) -> None:
        self.asked: list[list[int]] = []
        self.size = size
        rng = np.random.default_rng(4)
        truth = in_float64(0, batch_of(size, range(images)).images).argmax(axis=1).astype(np.uint8)
        noise, random = rng.random(truth.shape), rng.integers(0, 4, truth.shape)
        truth = np.where(noise < 0.3, random, truth)
        truth = np.where(noise > 0.9, IGNORED, truth).astype(np.uint8)
        truth[list(unlabelled)] = IGNORED
        self.truth = truth

    def __call__(self, indices: Sequence[int]) -> Iterator[Batch]:
        self.asked.append(list(indices))
        for start in range(0, len(indices), 3):
            group = list(indices[start : start + 3])
            yield batch_of(self.size, group, torch.from_numpy(self.truth[group]))


def test_weights_are_fitted_on_one_half_and_scored_on_the_other() -> None:
    data = Labelled(11)
    members = [network_member(0, name="good"), network_member(1, CLASSES[::-1], name="other"), network_member(2, name="third")]
    done: list[int] = []
    weights, fitted = fit(members, data, 11, 4, CPU, done.append)
    assert sum(done) == 11
    first, second = data.asked
    assert sorted([*first, *second]) == list(range(11))
    assert (fitted.fitted_on, fitted.scored_on) == (len(first), len(second)) == (5, 6)

    def everything(indices: list[int]) -> Array:
        """(M, N, C, H, W)."""
        images = batch_of(data.size, indices).images
        return np.stack([in_float64(0, images), in_float64(1, images, CLASSES[::-1]), in_float64(2, images)])

    truth = data.truth[first]
    labelled = truth != IGNORED
    of_truth = np.stack(
        [np.take_along_axis(each, np.minimum(truth, 3)[:, None], axis=1)[:, 0][labelled] for each in everything(first)], axis=1
    )
    np.testing.assert_allclose(weights, optimum(of_truth, truth[labelled]), rtol=0, atol=2e-3)
    assert weights[0] == max(weights)

    truth = data.truth[second]
    labelled = truth != IGNORED
    each = everything(second)
    answers = [each.mean(axis=0), np.average(each, axis=0, weights=weights), *each]
    named = [fitted.equal, fitted.fitted, *fitted.members]
    assert [scored.name for scored in named] == ["equal weights", "fitted weights", "good", "other", "third"]
    for scored, answer in zip(named, answers, strict=True):
        prediction = answer.argmax(axis=1)[labelled]
        assert scored.mIoU == pytest.approx(jaccard_score(truth[labelled], prediction, average="macro"), abs=2e-3)
        assert scored.acc == pytest.approx(accuracy_score(truth[labelled], prediction), abs=2e-3)
        assert sum(scored.support) == labelled.sum()
    assert fitted.fitted.acc is not None
    assert fitted.equal.acc is not None
    assert fitted.fitted.acc > fitted.equal.acc


def test_weights_fitted_twice_are_the_same() -> None:
    members = [network_member(0), network_member(1)]
    first, second = (fit(members, Labelled(6), 6, 4, CPU, lambda images: None) for _ in range(2))
    assert first == second


def test_fitting_draws_as_many_pixels_from_every_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few thousand pixels find nearly the weights that all of them find."""
    members = [network_member(0), network_member(1)]
    whole, _ = fit(members, Labelled(8, (40, 40)), 8, 4, CPU, lambda images: None)
    monkeypatch.setattr("engine.fitting.PIXELS", 4 * 400)
    some, _ = fit(members, Labelled(8, (40, 40)), 8, 4, CPU, lambda images: None)
    assert some != whole
    np.testing.assert_allclose(some, whole, rtol=0, atol=0.1)


def test_fitting_on_images_without_a_labelled_pixel_ends_with_the_reason() -> None:
    data = Labelled(4, unlabelled=halves(4)[0])
    with pytest.raises(RunError, match="labelled pixel"):
        fit([network_member(0), network_member(1)], data, 4, 4, CPU, lambda images: None)


def test_a_scoreboard_scores_every_name_by_itself() -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice(np.array([0, 1, 2, 3, IGNORED], np.uint8), (7, 9, 11))
    predictions = {
        name: np.where(rng.random(truth.shape) < right, np.minimum(truth, 3), rng.integers(0, 4, truth.shape)).astype(np.uint8)
        for name, right in (("a", 0.2), ("b", 0.5), ("c", 0.8))
    }
    board = Scoreboard(4, [*predictions], 7, CPU)
    for group in ([6, 0, 3], [1], [5, 4, 2]):
        board.add(*(torch.tensor(each) for each in (truth[group], group)), [torch.from_numpy(each[group]) for each in predictions.values()])
    labelled = truth != IGNORED
    for scored, (name, prediction) in zip(board.scored(), predictions.items(), strict=True):
        assert scored.name == name
        assert scored.mIoU == pytest.approx(jaccard_score(truth[labelled], prediction[labelled], average="macro"))
        assert scored.acc == pytest.approx(accuracy_score(truth[labelled], prediction[labelled]))
        assert scored.IoU == pytest.approx(jaccard_score(truth[labelled], prediction[labelled], average=None).tolist())
        event = as_event(scored)
        assert (event.name, event.mIoU, event.IoU, event.support) == (name, scored.mIoU, scored.IoU, scored.support)
    for image, found in enumerate(board.by_image.tolist()):
        here = labelled[image]
        wanted = jaccard_score(truth[image][here], predictions["c"][image][here], average="macro")
        assert found == pytest.approx(wanted, abs=1e-6)


def triangle(length: int, wanted: int) -> Array:
    """(wanted, length): a triangle as wide as two pixels of the coarser side, about the place that a pixel stands for."""
    step = length / wanted
    width = max(step, 1)
    weights = np.array([[max(0, 1 - abs(column + 0.5 - (row + 0.5) * step) / width) for column in range(length)] for row in range(wanted)])
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def averaged(probabilities: Array, height: int, width: int) -> Array:
    rows, columns = triangle(probabilities.shape[2], height), triangle(probabilities.shape[3], width)
    return np.asarray(rows @ probabilities @ columns.T)


def test_half_the_size_weighs_four_pixels_of_a_line() -> None:
    np.testing.assert_allclose(triangle(12, 6)[2], [0, 0, 0, 1 / 8, 3 / 8, 3 / 8, 1 / 8, 0, 0, 0, 0, 0])
    line = torch.zeros(1, 1, 12, 12)
    line[0, 0, :, 5] = 1.0
    np.testing.assert_allclose(scaled(line, 6, 6)[0, 0, 3], [0, 0, 3 / 8, 1 / 8, 0, 0], atol=1e-6)


@given(size=st.tuples(st.integers(1, 70), st.integers(1, 70)), side=st.integers(1, 40), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_scaled_probabilities_are_weighted_by_triangles(size: Size, side: int, seed: int) -> None:
    probabilities = random_probabilities((2, 3, *size), seed)
    found = scaled(torch.from_numpy(probabilities).float(), side, side).numpy()
    np.testing.assert_allclose(found, averaged(probabilities, side, side), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (90, 51), (20, 32), (32, 32), (100, 32)], ids=str)
def test_a_submission_decides_after_scaling(size: Size) -> None:
    probabilities = random_probabilities((2, 5, *size), 1)
    given_probabilities = torch.from_numpy(probabilities).float()
    found = submission_ids(given_probabilities, classes_of(given_probabilities), 32, "probabilities")
    assert (found.dtype, found.shape) == (np.uint8, (2, 32, 32))
    assert_same_classes(found, averaged(probabilities, 32, 32))


def test_deciding_before_scaling_is_something_else() -> None:
    """Two pixels of a faint class against one of a sure one: labels say the first, probabilities the second."""
    probabilities = torch.tensor([[0.45, 0.45, 0.45, 0.45], [0.55, 0.55, 0.55, 0.55]]).reshape(1, 2, 2, 2).clone()
    probabilities[0, :, 1, 1] = torch.tensor([1.0, 0.0])
    labels = classes_of(probabilities)
    assert labels.tolist() == [[[1, 1], [1, 0]]]
    assert submission_ids(probabilities, labels, 1, "probabilities").tolist() == [[[0]]]
    assert submission_ids(probabilities, labels, 1, "nearest").tolist() == [[[1]]]


@pytest.mark.parametrize("side", [256, 64, 31])
@pytest.mark.parametrize("size", [(512, 512), (480, 640), (372, 420), (186, 744), (256, 256), (33, 47), (1, 1)], ids=str)
def test_nearest_scales_what_was_decided_as_opencv_does(size: Size, side: int) -> None:
    """The baseline scaled its label maps with OpenCV. 372 to 256 is where rounding shows."""
    labels = np.random.default_rng(0).integers(0, 255, (2, *size), dtype=np.uint8)
    found = submission_ids(torch.zeros(2, 1, *size), torch.from_numpy(labels), side, "nearest")
    assert found.dtype == np.uint8
    for image, answer in zip(labels, found, strict=True):
        np.testing.assert_array_equal(answer, cv2.resize(image, (side, side), interpolation=cv2.INTER_NEAREST))
