"""Training on several devices: two processes on the CPU, against one, against themselves, and with one of them killed."""

from __future__ import annotations

import json
import os
import signal
import socket
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.multiprocessing.spawn import spawn

from engine import preset
from engine.coco import IGNORED
from engine.dataset import TrainingBatches, ValidationBatches
from engine.distributed import Several, join, leave
from engine.events import Toggles
from engine.objective import Objective
from engine.prepare import prepare
from engine.schema import LossTable
from engine.train import Trainer
from tests.ranks import EXACT, TWO, finished, folder_of, kill_a_rank, rank_of, start, weights, write_place
from tests.training import Headless, kill, record, wait_for

CLASSES = 3


class Rank(Several):
    """A rank that nobody has to be met for."""

    def __init__(self, number: int, count: int) -> None:
        self.number, self.count = number, count


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**31), st.data())
def test_a_batch_is_the_same_images_for_any_number_of_ranks(count: int, each: int, seed: int, data: st.DataObject) -> None:
    images = data.draw(st.integers(count * each, 40))
    whole = list(TrainingBatches(images, count * each, seed))
    shares = [list(TrainingBatches(images, count * each, seed, Rank(number, count))) for number in range(count)]
    assert [list(chain(*parts)) for parts in zip(*shares, strict=True)] == whole
    assert all(len(batch) == each for share in shares for batch in share)


@given(st.integers(1, 4), st.integers(1, 3), st.lists(st.sampled_from([(8, 8), (8, 16), (4, 4)]), min_size=1, max_size=30))
def test_every_validation_image_is_on_one_rank(count: int, each: int, sizes: list[tuple[int, int]]) -> None:
    array = np.array(sizes, np.int32)
    dealt = [ValidationBatches(array, count * each, Rank(number, count)).batches for number in range(count)]
    assert sorted(index for batches in dealt for batch in batches for _, index in batch) == list(range(len(sizes)))
    assert all(len({sizes[index] for _, index in batch}) == 1 and len(batch) <= each for batches in dealt for batch in batches)


def test_without_ranks_nothing_is_shared() -> None:
    assert ValidationBatches(np.array([(8, 8)] * 5, np.int32), 2).batches == [[(0, 0), (0, 1)], [(0, 2), (0, 3)], [(0, 4)]]


LOSSES = [
    [LossTable(type="CrossEntropyLoss", class_weights=[0.5, 2.0, 1.0])],
    [LossTable(type="BCEWithLogitsLoss"), LossTable(type="FocalLoss", weight=0.5)],
    [LossTable(type="SoftCrossEntropyLoss", smooth_factor=0.1)],
]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """The second half has few labels, its last image none."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(4, 2, 8, 8, generator=generator)
    labels = torch.randint(0, CLASSES, (4, 8, 8), generator=generator, dtype=torch.uint8)
    labels[2][torch.rand(8, 8, generator=generator) < 0.9] = IGNORED
    labels[3] = IGNORED
    return images, labels


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Conv2d(2, CLASSES, 3, padding=1)


def meet(number: int, port: int) -> Any:
    ours = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": str(port)}
    os.environ |= ours | {"MASTER_ADDR": "localhost", "GLOO_SOCKET_IFNAME": "lo", "TORCHELASTIC_RESTART_COUNT": "0"}
    return join()


def as_one_of_two(number: int, port: int, folder: Path) -> None:
    """What two ranks compute together, saved by rank 0."""
    ranks = meet(number, port)
    images, labels = batch()
    mine = ranks.share(list(range(4)))
    found: dict[str, Any] = {}
    for index, tables in enumerate(LOSSES):
        model = network() if ranks.is_main else nn.Conv2d(2, CLASSES, 3, padding=1)  # rank 0's weights count
        wrapped = ranks.wrap(model)
        objective = Objective(tables, CLASSES, [1.0] * CLASSES)
        losses = []
        for part in (mine[:1], mine[1:]):  # two batches whose gradients make one step
            with ranks.gradients_later() if part == mine[:1] else torch.enable_grad():
                loss = objective(wrapped(images[part]), labels[part], ranks.mean)
                (loss / 2).backward()
            losses.append(ranks.mean(loss).item())
        found[f"loss {index}"] = losses
        found[f"gradient {index}"] = model.weight.grad
    counts = torch.tensor([number + 1, 10])
    ranks.collect(counts)
    ranks.collect(counts)  # a second time changes nothing
    found["collected"] = counts.tolist()
    found["gathered"] = ranks.gather({"rank": number})
    found["told"] = ranks.told(f"from {number}")
    found["agreed"] = [ranks.agree(False), ranks.agree(number == 1)]
    found["in passing"] = [ranks.agree_in_passing(number == 1 and step == 2) for step in range(5)]
    torch.save(found, folder / f"{number}.pt")
    leave()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    spawn(as_one_of_two, (port, folder), nprocs=2)
    return [torch.load(folder / f"{number}.pt") for number in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(LOSSES)))
def test_two_ranks_have_the_gradients_of_the_whole_batch(together: list[dict[str, Any]], index: int) -> None:
    """Though one of them has nearly all of the labels: the mean is over the pixels of both."""
    images, labels = batch()
    model = network()
    objective = Objective(LOSSES[index], CLASSES, [1.0] * CLASSES)
    losses = []
    for part in ([0, 2], [1, 3]):
        loss = objective(model(images[part]), labels[part])
        (loss / 2).backward()
        losses.append(loss.item())
    for found in together:
        assert found[f"loss {index}"] == pytest.approx(losses, abs=1e-6)
        assert model.weight.grad is not None
        torch.testing.assert_close(found[f"gradient {index}"], model.weight.grad, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_what_ranks_tell_each_other(together: list[dict[str, Any]]) -> None:
    main, other = together
    assert (main["collected"], other["collected"]) == ([3, 20], [0, 0])
    assert (main["gathered"], other["gathered"]) == ([{"rank": 0}, {"rank": 1}], [])
    for found in together:
        assert found["told"] == "from 0"
        assert found["agreed"] == [False, True]
        assert found["in passing"] == [False, False, False, True, False]  # one call late, on both at the same one


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_place(tmp_path_factory.mktemp("distributed"))


@pytest.fixture(scope="module")
def whole(place: Path) -> Headless:
    """An undisturbed run on two devices."""
    return finished(start(place, "tiny.toml", "whole", *TWO))


@pytest.mark.slow
def test_two_devices_follow_one(place: Path) -> None:
    one, two = finished(start(place, "exact.toml", "one")), finished(start(place, "exact.toml", "two", "--devices", "2"))
    assert two.of("run_started")[0]["world_size"] == 2
    assert two.of("run_started")[0]["steps_per_epoch"] == one.of("run_started")[0]["steps_per_epoch"] == 6
    losses = [[step["loss"] for step in run.of("step")[:20]] for run in (one, two)]
    assert len(losses[0]) == 20
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert losses[0][19] != pytest.approx(losses[0][0], abs=1e-3)  # something was learned


@pytest.mark.slow
def test_equal_weights_are_judged_equally(place: Path) -> None:
    """Seven images on two ranks, nothing learned between: every count is that of one process."""
    options = ("--set", "optimizer.lr=0.0", "--set", "train.epochs=1")
    one, two = (
        finished(start(place, "exact.toml", "judged", *options)),
        finished(start(place, "exact.toml", "judged2", "--devices", "2", *options)),
    )
    first, second = one.of("validation")[0], two.of("validation")[0]
    for figure in ("support", "IoU", "class_acc", "acc", "mIoU", "fwavacc", "best_mIoU"):
        assert second[figure] == first[figure], figure
    assert sum(first["support"]) > 0
    for figure in ("IoU", "acc"):
        assert two.of("epoch")[0][figure] == one.of("epoch")[0][figure], figure
    drawn = [
        sorted(path.name for path in (folder_of(run, place, runs) / "images").iterdir())
        for run, runs in ((one, "judged"), (two, "judged2"))
    ]
    assert drawn[0] == drawn[1]  # the worst ones were found on both ranks


@pytest.mark.slow
def test_the_story_is_told_once(whole: Headless, place: Path) -> None:
    run = folder_of(whole, place, "whole")
    numbered = [event for event in whole.events if event["seq"]]
    assert [event["seq"] for event in numbered] == list(range(numbered[0]["seq"], numbered[-1]["seq"] + 1))
    lines = (run / "events.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines][-len(numbered) :] == numbered
    assert [step["step"] for step in whole.of("step")] == list(range(1, 31))
    assert {"log.txt", "log-rank1.txt"} <= {path.name for path in run.iterdir()}
    assert record(run)["state"] == "finished"
    assert record(run)["device"] == "2 x cpu"


@pytest.mark.slow
def test_stopped_and_resumed_with_two(whole: Headless, place: Path) -> None:
    run = start(place, "tiny.toml", "stopped", *TWO)
    run.until(lambda event: event["type"] == "step" and event["step"] >= 8)
    path = folder_of(run, place, "stopped")
    kill(record(path)["pid"], signal.SIGTERM)
    assert run.finish() == 3, run.stderr()
    assert record(path)["state"] == "stopped"
    again = finished(Headless.start("--resume", path, WANDB_MODE="disabled", OMP_NUM_THREADS="1"))
    assert again.of("run_started")[0]["resumed_step"] > 0
    assert not [event for event in again.of("message") if "byte" in event["text"]]
    assert weights(path) == weights(folder_of(whole, place, "whole"))


@pytest.mark.slow
def test_a_killed_rank_changes_nothing(whole: Headless, place: Path) -> None:
    path = kill_a_rank(place, 1)
    assert weights(path) == weights(folder_of(whole, place, "whole"))


@pytest.mark.slow
def test_interrupted_before_it_began_it_leaves_nothing(place: Path) -> None:
    run = start(place, "tiny.toml", "early", *TWO)
    workers: list[psutil.Process] = []
    wait_for(lambda: bool(workers.extend(psutil.Process(run.process.pid).children(recursive=True)) or len(workers) > 2))
    run.process.send_signal(signal.SIGTERM)
    assert run.finish() == 130
    assert [each.name for each in (place / "early").glob("[!.]*")] == []
    wait_for(lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in workers), 30)


@pytest.mark.slow
def test_what_cannot_be_is_refused_and_leaves_nothing(place: Path) -> None:
    for arguments, said in (
        (("--devices", "3"), "cannot be shared out to 3 devices"),
        (("--devices", "2", "--set", "train.sync_batchnorm=true"), "train.sync_batchnorm: works between GPUs only"),
        (("--nodes", "2"), "launch.rendezvous: is not set"),
        (("--devices", "none"), 'Write "auto" or a whole number from 1'),
    ):
        run = start(place, "tiny.toml", "refused", *arguments)
        assert run.finish() == 2, run.events[-3:]
        assert said in run.stderr()
    assert [each.name for each in (place / "refused").glob("[!.]*")] == []


@pytest.mark.slow
def test_a_failure_that_is_explained_is_not_tried_again(place: Path) -> None:
    """A loss that is not finite is so again."""
    steep = ("--set", "optimizer.lr=1e18", "--set", "train.clip_norm=0.0", "--set", "train.warmup_steps=0")
    run = start(place, "tiny.toml", "nan", *TWO, *steep)
    assert run.finish() == 1
    assert len(run.of("run_started")) == 1
    assert "at step" in run.events[-1]["error"]
    assert "and the other devices' images" in run.events[-1]["error"]


@pytest.mark.slow
def test_a_batch_in_parts_has_the_gradients_of_the_whole(place: Path) -> None:
    (place / "plain.toml").write_text(EXACT.format(root=place / "data").replace('class_weights = "auto"', ""))
    table = preset.load(place / "plain.toml", ["data.background=class", "data.workers=0"])
    found = []
    for parts in (1, 2):
        setup = prepare(table, Toggles(deterministic=True), place / "cache", lambda *_: None, parts=parts)
        trainer = Trainer(setup, lambda _: None, lambda: False, lambda *_: None)
        setup.model.train()
        loss, indices = trainer.backward(iter(setup.train_loader), 1)
        found.append((loss, [parameter.grad for parameter in setup.model.parameters()], indices, trainer.matrix))
    (loss, gradients, indices, matrix), (loss2, gradients2, indices2, matrix2) = found
    assert indices.tolist() == indices2.tolist()
    assert torch.equal(matrix, matrix2)
    torch.testing.assert_close(loss2, loss, rtol=0, atol=1e-6)
    torch.testing.assert_close(gradients2, gradients, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_out_of_memory_goes_on_with_half_as_much(place: Path) -> None:
    """The process's memory is limited to what it has in the middle of its run; the next tensor does not fit."""
    run = start(place, "exact.toml", "oom", "--set", "train.on_oom=halve", "--set", "train.resume_every=2", MALLOC_MMAP_THRESHOLD_="65536")
    run.until(lambda event: event["type"] == "step" and event["step"] >= 5)
    path = folder_of(run, place, "oom")
    assert run.of("run_started")[0]["world_size"] == 1
    rank = rank_of(path, 0)
    rank.rlimit(psutil.RLIMIT_AS, (rank.memory_info().vms, psutil.RLIM_INFINITY))
    finished(run)
    told = [event["text"] for event in run.of("message") if "out of memory" in event["text"]]
    assert len(told) == 1
    assert "cut into 2 parts" in told[0]
    assert record(path)["parts"] == 2
    assert record(path)["resumed"] == 1
    first, second = run.of("run_started")
    assert second["steps_per_epoch"] == first["steps_per_epoch"]
    assert run.of("step")[-1]["step"] == 24


@pytest.mark.slow
def test_states_within_an_epoch(place: Path) -> None:
    """One process: killed in its first epoch, it goes on from the last state that it has kept there."""
    run = start(place, "tiny.toml", "every", "--deterministic", "--set", "train.resume_every=2", "--set", "train.epochs=1")
    undisturbed = finished(run)
    path = folder_of(undisturbed, place, "every")
    kept = [event for event in undisturbed.of("checkpoint") if event["kind"] == "resume"]
    assert [event["epoch"] for event in kept] == [1, 1, 1]
    second = start(place, "tiny.toml", "every", "--deterministic", "--set", "train.resume_every=2", "--set", "train.epochs=1")
    second.until(lambda event: event["type"] == "checkpoint" and event["kind"] == "resume")
    other = folder_of(second, place, "every")
    kill(record(other)["pid"])
    assert second.finish() == 1
    again = finished(Headless.start("--resume", other, WANDB_MODE="disabled", OMP_NUM_THREADS="1"))
    assert again.of("run_started")[0]["resumed_step"] >= 2
    assert weights(other) == weights(path)
