"""What a training step costs besides forward, backward and the weights' update: transfer, metrics, reporting, the queue.

`python -m benchmarks.training_step [--json]`
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks.measure import Mark, Row, by_turns, show, spread
from benchmarks.training_parts import baseline_histogram, baseline_scores, camvid, default_preset
from engine.augment import normalise
from engine.dataset import Batch
from engine.events import EventLog, Step, Toggles
from engine.metrics import confusion_matrix
from engine.prepare import Setup, prepare
from engine.reporter import Reporter
from engine.train import Trainer

STEPS = 4
ROUNDS = 7
BATCH = 4
SIZE = (192, 256)


class Loaded:
    """Batches that are in memory already: only what comes after the data is looked at here."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


class Epoch:
    """As many steps as there are batches, for the trainer."""

    epoch, first = 1, 0
    batch_size, images = BATCH, BATCH * STEPS

    def __len__(self) -> int:
        return STEPS


class Sink:
    """A queue that somebody empties."""

    def put_nowait(self, item: bytes, /) -> None: ...
    def cancel_join_thread(self) -> None: ...


def rows(device_limit: float) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        setup = prepare(
            default_preset(
                camvid(), f"data.batch_size={BATCH}", f"data.image_size=[{SIZE[0]},{SIZE[1]}]", 'data.fit="crop"', "data.workers=0"
            ),
            Toggles(),
            Path(folder) / "caches",
            lambda *_: None,
        )
        classes = len(setup.classes)
        batches = [
            Batch(
                torch.randint(0, 256, (BATCH, *SIZE, 3), dtype=torch.uint8),
                torch.randint(0, classes, (BATCH, *SIZE), dtype=torch.uint8),
                torch.arange(BATCH),
            )
            for _ in range(STEPS)
        ]
        reporter = Reporter(Sink())
        reporter.open(EventLog(Path(folder) / "events.jsonl"))
        bare = Bare(setup, batches)
        ours = Ours(setup, batches, reporter)
        baseline = Baseline(setup, batches)
        times = by_turns(bare.steps, ours.steps, baseline.steps, rounds=ROUNDS)
        bare_s, ours_s, baseline_s = (1000 * median(each) / STEPS for each in times)
        # The difference of two noisy numbers: pairs taken next to each other say it best.
        over = [median(100 * (way / plain - 1) for way, plain in zip(each, times[0], strict=True)) for each in (times[2], times[1])]
        alone = spread([1000 * each / STEPS for each in times[0]])
        note = f"a bare step takes {bare_s:.0f} ms ({alone}), ours {ours_s:.0f}, the baseline's {baseline_s:.0f}"
        yield Row(
            "overhead over a bare step",
            "%",
            over[0],
            over[1],
            over[0] / over[1] if over[1] > 0 else None,
            Mark("ours", "<=", device_limit),
            note,
        )
        yield from parts(setup, batches, reporter, bare_s)


def parts(setup: Setup, batches: list[Batch], reporter: Reporter, bare_ms: float) -> Iterator[Row]:
    """The same overhead, part by part, as a share of the bare step."""
    images, labels, _ = batches[0]
    mean, std = setup.pretraining.mean, setup.pretraining.std
    logits = setup.model(normalise(images, mean, std)).detach()
    predictions = logits.argmax(dim=1)
    step = Step(epoch=1, step=1, loss=0.1, lr=0.1, images_per_s=1.0, data_wait=0.0)
    ways = {
        "normalisation": lambda: normalise(images, mean, std),
        "argmax": lambda: logits.argmax(dim=1),
        "confusion matrix": lambda: confusion_matrix(labels, predictions, len(setup.classes)),
        "an event": lambda: reporter(step),
    }
    for name, each in zip(ways, by_turns(*ways.values(), rounds=15), strict=True):
        yield Row(name, "% of a step", None, 100 * 1000 * median(each) / bare_ms)


class Bare:
    """Forward, torch's own loss, backward, update; on data that is normalised and in place."""

    def __init__(self, setup: Setup, batches: list[Batch]) -> None:
        self.setup = setup
        self.batches = [
            (normalise(batch.images.to(setup.device), setup.pretraining.mean, setup.pretraining.std), batch.labels.to(setup.device).long())
            for batch in batches
        ]
        self.loss = nn.CrossEntropyLoss(ignore_index=255)

    def steps(self) -> None:
        setup = self.setup
        setup.model.train()
        for images, labels in self.batches:
            with setup.autocast():
                loss = self.loss(setup.model(images).float(), labels)
            loss.backward()
            setup.optimizer.step()
            setup.optimizer.zero_grad(set_to_none=True)
        synchronise(setup.device)


class Ours:
    """`Trainer.train_epoch`, whole, with its events into a log and a queue."""

    def __init__(self, setup: Setup, batches: list[Batch], reporter: Reporter) -> None:
        setup.train_loader, setup.batches = Loaded(batches), Epoch()  # type: ignore[assignment]
        self.trainer = Trainer(setup, reporter, lambda: False, lambda *_: None)

    def steps(self) -> None:
        self.trainer.at.batch = 0
        self.trainer.train_epoch()
        synchronise(self.trainer.setup.device)


class Baseline:
    """The same network and update; predictions to the CPU, a histogram per image and all metrics anew in every step."""

    def __init__(self, setup: Setup, batches: list[Batch]) -> None:
        self.setup = setup
        self.batches = batches
        self.loss = nn.CrossEntropyLoss(ignore_index=255)
        self.mean, self.std = (torch.tensor(each).view(1, 3, 1, 1) for each in (setup.pretraining.mean, setup.pretraining.std))

    def steps(self) -> None:
        setup, classes = self.setup, len(self.setup.classes)
        matrix: Any = 0.0
        setup.model.train()
        for batch in self.batches:
            images = ((batch.images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std).to(setup.device)
            labels = batch.labels.long().to(setup.device)
            with setup.autocast():
                logits = setup.model(images).float()
            loss = self.loss(logits, labels)
            loss.backward()
            setup.optimizer.step()
            setup.optimizer.zero_grad(set_to_none=True)
            predicted = logits.detach().argmax(dim=1).cpu().numpy()
            for truth, found in zip(labels.cpu().numpy(), predicted, strict=True):
                matrix = matrix + baseline_histogram(truth, found, classes)
            baseline_scores(matrix)
            loss.item()


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    show(rows(2 if torch.cuda.is_available() else 3))


if __name__ == "__main__":
    main()
