"""The doctor: preset, data and machine looked at before any training step. It trains nothing and writes nothing but caches.

Run as `python -m engine.doctor` it reads a `CheckupRequest` from stdin and writes a line of json for each `Progress` and one
for the `Report`; `engine.checkup` has these, and starts it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from engine import model_facts, preset
from engine.box_devices import devices
from engine.catalogue import slow_transforms
from engine.checkup import CheckupRequest, Finding, Level, Report, encode
from engine.coco import MOST_SHOWN, Split, same_classes
from engine.duplicates import shared_images
from engine.errors import RequestError
from engine.events import Progress, Toggles
from engine.image_checks import ImageCache
from engine.machine_checks import expected_precision, find_machine, machine_findings
from engine.model_facts import TYPICAL, ModelFacts
from engine.runs_checks import caches_of, checkpoint_bytes, disk_findings
from engine.schema import Preset
from engine.sharing import check_devices
from engine.split_checks import SplitFacts, class_findings, json_problems, split_facts
from engine.tracking_checks import TrackingCheck
from engine.training_data import check_annotated, check_batch, data_root, training_size

PROGRESS_EVERY_S = 0.25
LONGEST_END_S = 2
TellProgress = Callable[[str, int, int], None]


def examine(request: CheckupRequest, progress: TellProgress) -> Report:
    """Everything that can be told; what is wrong is a finding of the report, and never raised."""
    began = time.monotonic()
    table, toggles, runs = preset.from_dict(request.preset), request.toggles, Path(request.runs)
    report = Report(batch_size=table.data.batch_size, epochs=table.train.epochs, images={"train": None, "val": None, "test": None})
    slow = slow_transforms(transform.type for transform in table.augment.train)
    report.findings += [Finding("warning", "augment", f"augment.train: {text}: leave it out, or raise data.workers") for text in slow]
    splits: dict[str, Split] = {}
    facts = None
    with caches_of(runs, report.findings) as caches:
        try:
            splits = _examine_data(report, table, toggles, caches, progress)
            if splits:
                _examine_images(report, splits, caches, progress, decode=request.full)
            facts = model_facts.known(caches, table.model, len(report.classes))
            if request.full:
                facts = _examine_network(report, table, splits, caches, progress) or facts
        except OSError as error:  # what is wrong with a file of the data set is told as such
            text = f"{error.filename or caches}: {error.strerror}: free some room, or name another folder with --runs"
            report.findings.append(Finding("error", "caches", text))
    tracking = TrackingCheck(table.wandb, toggles)  # a thread: not before those that fork
    if not request.elsewhere:
        _examine_machine(report, table, splits, facts)
    report.parameters = facts.parameters if facts else None
    report.checkpoint_bytes = checkpoint_bytes(table, toggles, facts or TYPICAL)
    report.findings += disk_findings(runs, table, toggles, facts)
    report.wandb, findings = tracking.result()
    report.findings += findings
    report.findings.sort(key=lambda finding: ("error", "warning", "note").index(finding.level))
    report.seconds = time.monotonic() - began
    return report


def _examine_data(report: Report, table: Preset, toggles: Toggles, caches: Path, progress: TellProgress) -> dict[str, Split]:
    """What the json files say; the splits that could be read, by name, without their annotations."""
    facts: dict[str, SplitFacts] = {}
    splits: dict[str, Split] = {}
    try:
        root = data_root(table)
    except RequestError as error:
        report.findings += _errors("data", error)
        return splits
    for name, json in (("train", table.data.train), ("val", table.data.val), ("test", table.data.test)):
        if name == "test" and not os.path.exists(root / json):  # noqa: PTH110  pathlib's raises for a name that is too long
            continue  # training does without
        if name == "val" and not root.is_dir():
            continue  # was told
        try:
            facts[name] = split_facts(root, name, table, toggles, caches, progress)
        except RequestError as error:
            report.findings += json_problems(error, name)
            continue
        splits[name] = facts[name].split(root, json, table)
        report.images[name] = len(splits[name])
        report.findings += facts[name].findings
    for name in ("train", "val"):
        if name in facts:
            report.pixels[name], report.images_with[name] = facts[name].pixels, facts[name].images_with
            report.unlabelled[name] = facts[name].unlabelled
    report.findings += class_findings(facts, table, toggles)
    if "train" in splits:
        report.classes = list(splits["train"].classes)
        _examine_training_set(report, table, splits, facts["train"].annotations)
    return splits


def _examine_training_set(report: Report, table: Preset, splits: dict[str, Split], annotations: int) -> None:
    """What a launch refuses though every file is right."""
    train = splits["train"]
    report.sizes = min(_sizes(train), key=_area), max(_sizes(train), key=_area)
    checks: list[Callable[[], None]] = [partial(check_annotated, train, annotations), partial(check_batch, table, train)]
    if "val" in splits:
        checks.insert(0, partial(same_classes, train, splits["val"]))
    for check in checks:
        try:
            check()
        except RequestError as error:
            report.findings += _errors("data", error)
    try:
        report.image_size = training_size(table, train)
    except RequestError as error:
        report.findings += _errors("data", error)
    if batches := len(train) // table.data.batch_size:
        report.steps_per_epoch = -(-batches // table.train.accumulate)
        report.steps = report.steps_per_epoch * table.train.epochs


def _examine_images(report: Report, splits: dict[str, Split], caches: Path, progress: TellProgress, *, decode: bool) -> None:
    cache = ImageCache(caches, next(iter(splits.values())).root)
    for name, split in splits.items():
        problems = cache.look(split, partial(progress, f"images {name}"), decode=decode)
        told = [f"{problem}. Put it right, or take it out of {split.json.name}" for problem in problems[:MOST_SHOWN]]
        more = [f"{split.json}: {len(problems) - MOST_SHOWN} more of its images have mistakes"] if len(problems) > MOST_SHOWN else []
        level: Level = "warning" if name == "test" else "error"
        report.findings += [Finding(level, "images", text) for text in told + more]
    cache.save()
    report.findings += shared_images(splits, cache.images)


def _examine_network(report: Report, table: Preset, splits: dict[str, Split], caches: Path, progress: TellProgress) -> ModelFacts | None:
    """Its size where it could be built."""
    if report.image_size is None or not report.classes:
        return None
    from engine.network_checks import check_network, input_findings, network_inputs

    others = set() if table.data.input_size else set(_sizes(splits.get("val", splits["train"])))
    pixels = report.pixels["train"] or [0] * len(report.classes)
    facts, findings = check_network(table, pixels, report.steps or 1, [report.image_size, *others])
    report.findings += findings
    if facts:
        model_facts.keep(caches, table.model, len(report.classes), facts)
    try:
        report.inputs = network_inputs(table, splits, report.image_size, progress)
    except RequestError as error:
        report.findings += _errors("augment", error)
    report.findings += input_findings(report.inputs, splits)
    return facts


def _examine_machine(report: Report, table: Preset, splits: dict[str, Split], facts: ModelFacts | None) -> None:
    machine, findings = find_machine()
    report.device, report.precision = machine.name, expected_precision(table.train.precision, machine)
    largest = max(_sizes(splits["val"]), key=_area) if "val" in splits else None
    report.findings += findings
    report.findings += machine_findings(machine, table, report.precision, facts, report.image_size, largest)
    try:
        check_devices(table, len(devices()) if machine.kind == "cuda" else 0)
    except RequestError as error:
        report.findings += _errors("devices", error)


def _errors(about: str, error: RequestError) -> list[Finding]:
    return [Finding("error", about, str(problem)) for problem in error.problems]


def _sizes(split: Split) -> list[tuple[int, int]]:
    return [(height, width) for height, width in split.sizes.tolist()]


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def main() -> None:
    stopped = False

    def stop(*_: object) -> None:
        """Ends at the next progress, where nothing is half-done: an exception from here could leave a pool locked."""
        nonlocal stopped
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.alarm(LONGEST_END_S)  # which ends the process
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=CheckupRequest)
    began: dict[str, float] = {}
    told = 0.0

    def progress(task: str, done: int, total: int) -> None:
        nonlocal told
        if stopped:
            sys.exit(128 + signal.SIGTERM)
        now = time.monotonic()
        start = began.setdefault(task, now)
        if now - told >= PROGRESS_EVERY_S:
            told = now
            _write(Progress(task=task, done=done, total=total, per_s=done / max(now - start, 1e-9)))

    _write(examine(request, progress))


def _write(answer: Progress | Report) -> None:
    sys.stdout.buffer.write(encode(answer) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit(1)  # nobody reads any more
