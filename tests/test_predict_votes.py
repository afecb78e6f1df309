"""Votes of several members through `segtui predict`, against computations by hand."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from engine.errors import EXIT_DONE
from tests.predicting import (
    CLASSES,
    Segtui,
    assert_decides,
    by_hand,
    ground_truth,
    network,
    preset_for,
    record_of,
    resized,
    rows_of,
    weights_of,
    write_checkpoint,
    write_run,
)


def test_soft_vote_is_the_weighted_mean_of_probabilities(segtui: Segtui, one: Path, shapes: Path) -> None:
    other = write_run("other", shapes, seed=1)
    told = segtui("predict", "one", "other", "--softvote", "--weights", "0.6,0.2", "--split", "val", "--probabilities", "both.npy")
    assert told.code == EXIT_DONE
    found = np.load("both.npy")
    assert (found.dtype, found.shape) == (np.float16, (4, 3, 64, 64))
    models = network(one), network(other)
    rows = rows_of(Path("runs/one/predictions/val-softvote/submission.csv"))
    for row, name in enumerate(ground_truth(shapes)):
        first, second = (by_hand(model, shapes / name) for model in models)
        mean = 0.75 * first + 0.25 * second
        np.testing.assert_allclose(found[row], mean, atol=5e-4)
        assert_decides(rows[name].reshape(256, 256), resized(mean, 256))


def test_probabilities_join_later_as_the_network_that_said_them_would(segtui: Segtui, one: Path, shapes: Path) -> None:
    write_run("other", shapes, seed=1)
    together = ("--softvote", "--split", "val", "--out")
    assert segtui("predict", "other", "one", *together, "direct.csv").code == EXIT_DONE
    assert segtui("predict", "one", "--split", "val", "--probabilities", "one.npy").code == EXIT_DONE
    told = segtui("predict", "other", "--member", "one.npy", *together, "joined.csv", "--json")
    assert told.code == EXIT_DONE
    assert not [each for each in told.of("message") if each["level"] == "warning"]
    direct, joined = rows_of(Path("direct.csv")), rows_of(Path("joined.csv"))
    assert list(direct) == list(joined)
    model, other = network(one), network(Path("runs/other/checkpoints/best.safetensors"))
    for name in direct:
        mean = resized((by_hand(model, shapes / name) + by_hand(other, shapes / name)) / 2, 256)
        assert_decides(joined[name].reshape(256, 256), mean, sure=5e-4)
        assert (direct[name] == joined[name]).mean() > 0.995, "half precision moves only pixels that are as good as undecided"


def test_probabilities_of_another_framework_join_without_a_description(segtui: Segtui, one: Path, shapes: Path) -> None:
    truth = ground_truth(shapes)
    probabilities = np.stack([np.eye(3, dtype=np.float32)[labels].transpose(2, 0, 1) for labels in truth.values()])
    np.save("truth.npy", probabilities[:, :, ::2, ::2])
    arguments = ("predict", "one", "--member", "truth.npy", "--softvote", "--split", "val", "--weights", "0,1", "--json")
    told = segtui(*arguments)
    assert told.code == EXIT_DONE
    (warning,) = [each["text"] for each in told.of("message") if each["level"] == "warning"]
    assert "truth.npy" in warning
    assert "taken to be in the order" in warning
    alone, _, vote = told.of("validation")
    assert vote["mIoU"] > 0.8 > alone["mIoU"], "half the resolution loses edges, no more"


@pytest.mark.parametrize("weights", [None, "1,2,2", "0.5,1/3,1/6"])
@pytest.mark.parametrize("count", [2, 3])
def test_hard_vote_is_the_vote_of_the_members_submissions(segtui: Segtui, one: Path, shapes: Path, count: int, weights: str | None) -> None:
    names = ["one", "other", "third"][:count]
    for seed, name in enumerate(names[1:], start=1):
        write_run(name, shapes, seed=seed)
    weighted = ["--weights", ",".join(weights.split(",")[:count])] if weights else []
    assert segtui("predict", *names, "--hardvote", *weighted, "--out", "hard.csv").code == EXIT_DONE
    for name in names:
        assert segtui("predict", name, "--out", f"{name}.csv").code == EXIT_DONE
    assert segtui("vote", *(f"{name}.csv" for name in names), *weighted, "--out", "vote.csv").code == EXIT_DONE
    assert Path("hard.csv").read_bytes() == Path("vote.csv").read_bytes()
    votes = np.stack([np.stack(list(rows_of(Path(f"{name}.csv")).values())) for name in names])
    assert not (votes == votes[0]).all()
    numbers = np.array([float(Fraction(part)) for part in weights.split(",")[:count]] if weights else [1.0] * count)
    support = np.stack([((votes == vote) * numbers[:, None, None]).sum(axis=0) for vote in votes])
    expected = np.take_along_axis(votes, support.round(6).argmax(axis=0)[None], axis=0)[0]
    np.testing.assert_array_equal(np.stack(list(rows_of(Path("hard.csv")).values())), expected)


def test_members_may_have_their_classes_in_another_order(segtui: Segtui, one: Path, shapes: Path) -> None:
    write_run("other", shapes, seed=1)
    order = [2, 0, 1]
    turned = {name: tensor[order] if name.startswith("segmentation_head") else tensor for name, tensor in weights_of(1).items()}
    write_checkpoint(Path("turned.safetensors"), preset_for(shapes), turned, tuple(CLASSES[index] for index in order))
    assert segtui("predict", "one", "other", "--softvote", "--out", "same.csv").code == EXIT_DONE
    assert segtui("predict", "one", "turned.safetensors", "--softvote", "--out", "turned.csv").code == EXIT_DONE
    same, turned_rows = rows_of(Path("same.csv")), rows_of(Path("turned.csv"))
    assert all((same[name] == turned_rows[name]).mean() > 0.999 for name in same)


def test_fitted_weights_go_to_the_member_that_is_right(segtui: Segtui, one: Path, shapes: Path) -> None:
    labels = np.stack(list(ground_truth(shapes).values()))
    noise = np.random.default_rng(2).dirichlet([1, 1, 1], labels.shape).transpose(0, 3, 1, 2)
    probabilities = (0.9 * np.eye(3)[labels].transpose(0, 3, 1, 2) + 0.1 * noise).astype(np.float32)
    np.save("good.npy", probabilities)
    told = segtui("predict", "one", "--member", "good.npy", "--softvote", "--weights", "fit", "--split", "val", "--json")
    assert told.code == EXIT_DONE
    record = record_of(Path("runs/one/predictions/val-softvote"))
    weights = [member["weight"] for member in record["members"]]
    assert sum(weights) == pytest.approx(1)
    assert weights[1] > 0.9
    fit = record["fit"]
    assert (fit["fitted_on"], fit["scored_on"]) == (2, 2)
    assert fit["fitted"]["mIoU"] >= fit["equal"]["mIoU"]
    assert [each["name"] for each in fit["members"]] == ["one/best", "good.npy"]
