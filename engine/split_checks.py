"""One split as the doctor knows it: read, checked and counted once for each content of its json, then remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine import atomic
from engine.annotation_checks import annotation_findings
from engine.checkup import Finding
from engine.coco import IGNORED, Split, read_split
from engine.errors import Problem, RequestError
from engine.events import Toggles
from engine.inside import check_inside
from engine.mask_cache import MaskCache
from engine.masks import mask_cache
from engine.schema import Preset
from engine.training_data import subset

FORMAT = 1


class SplitFacts(msgspec.Struct, kw_only=True):
    """What a json holds. In a debug run the images and counts are its subset's, the findings the whole json's.

    `pixels` and `images_with` go by class and are empty where nothing is labelled.
    """

    format: int = FORMAT
    digest: str
    classes: tuple[str, ...]
    file_names: tuple[str, ...]
    sizes: list[tuple[int, int]]
    annotations: int
    pixels: list[int]
    images_with: list[int]
    unlabelled: int
    findings: list[Finding]

    def split(self, root: Path, name: str, preset: Preset) -> Split:
        """The images, without their annotations."""
        return Split(
            json=root / name,
            root=root,
            digest=self.digest,
            classes=self.classes,
            background=preset.data.background,
            file_names=self.file_names,
            sizes=np.array(self.sizes, np.int32).reshape(-1, 2),
            annotations=((),) * len(self.file_names),
        )


def split_facts(
    root: Path, which: str, preset: Preset, toggles: Toggles, caches: Path, progress: Callable[[str, int, int], None]
) -> SplitFacts:
    """Of the json that the preset calls `which`: train, val or test. Raises RequestError with every mistake found in it.

    The first time draws its label maps, which training then finds; later ones read a file of a few kilobytes.
    """
    name = {"train": preset.data.train, "val": preset.data.val, "test": preset.data.test}[which]
    kept = caches / f"checked-{_key(root / name, which, preset, toggles)}.msgpack"
    try:
        facts = msgspec.msgpack.decode(kept.read_bytes(), type=SplitFacts)
        if facts.format == FORMAT:
            if not preset.data.allow_outside:  # links can change where the json does not
                check_inside(root, root / name, facts.file_names)
            return facts
    except (OSError, ValueError, RecursionError):
        pass  # the first time, or it is of another version
    split = read_split(root, name, preset.data.background, allow_outside=preset.data.allow_outside)
    findings = annotation_findings(root, name, preset.data)
    annotations = sum(map(len, split.annotations))
    if toggles.debug and which != "test":
        split = subset(split, preset, which)
    pixels, images_with = np.zeros(256, np.int64), np.zeros(256, np.int64)
    if any(split.annotations) and which != "test":
        masks = mask_cache(
            split, preset.data.overlap, caches, preset.data.workers, lambda done, total: progress(f"masks {which}", done, total)
        )
        pixels, images_with = masks.pixels, _images_with(masks)
    labelled = len(split.classes) if any(pixels) else 0
    facts = SplitFacts(
        digest=split.digest,
        classes=split.classes,
        file_names=split.file_names,
        sizes=[(height, width) for height, width in split.sizes.tolist()],
        annotations=annotations,
        pixels=pixels[:labelled].tolist(),
        images_with=images_with[:labelled].tolist(),
        unlabelled=int(pixels[IGNORED]),
        findings=findings,
    )
    try:
        atomic.write(kept, msgspec.msgpack.encode(facts))
    except UnicodeEncodeError as error:
        raise RequestError(Problem(f"has the name {error.object!r}, which is no text (UTF-8)", file=str(root / name))) from None
    return facts


def _key(path: Path, which: str, preset: Preset, toggles: Toggles) -> str:
    """Names what the facts depend on: the content of the json, how it is read, and the draw of a debug run.

    Its path too: findings name it. What `read_split` would refuse about the file itself makes no key of its own.
    """
    try:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        content = ""
    data = preset.data
    drawn = [preset.debug.ratio, preset.debug.seed, data.batch_size] if toggles.debug else None
    return hashlib.sha256(repr([content, str(path), which, data.background, data.overlap, drawn]).encode()).hexdigest()[:20]


def _images_with(masks: MaskCache) -> NDArray[np.int64]:
    """int64 (256,): in how many label maps each label has a pixel."""
    found = np.zeros((len(masks), 256), bool)
    found[np.repeat(np.arange(len(masks)), np.diff(masks.offsets)), masks.values] = True
    counts: NDArray[np.int64] = found.sum(axis=0, dtype=np.int64)
    return counts


def class_findings(facts: dict[str, SplitFacts], preset: Preset, toggles: Toggles) -> list[Finding]:
    """Classes that cannot be learned, or whose learning cannot be measured."""
    if not ("train" in facts and "val" in facts) or facts["train"].classes != facts["val"].classes:
        return []
    train, val = facts["train"], facts["val"]
    if not train.pixels:
        return []
    names = [name for number, name in enumerate(train.classes) if number or name != "Background"]
    in_train = {name for name, count in zip(train.classes, train.pixels, strict=True) if count}
    in_val = {name for name, count in zip(val.classes, val.pixels or [0] * len(val.classes), strict=True) if count}
    untaught = [name for name in names if name in in_val - in_train]
    unmeasured = [name for name in names if name in in_train - in_val]
    nowhere = [name for name in names if name not in in_train | in_val]
    where = f"the debug subset of {preset.data.train}" if toggles.debug else preset.data.train
    findings = []
    if untaught:
        text = f"{where} has no pixel of {', '.join(untaught)}, which {preset.data.val} has: it will be missed; move images over"
        findings.append(Finding("warning", "classes", text))
    if unmeasured:
        text = f"{preset.data.val} has no pixel of {', '.join(unmeasured)}: its IoU cannot be measured; move images over"
        findings.append(Finding("note" if toggles.debug else "warning", "classes", text))
    if nowhere:
        text = f"neither {preset.data.train} nor {preset.data.val} has a pixel of {', '.join(nowhere)}; take it out of the categories"
        findings.append(Finding("note" if toggles.debug else "warning", "classes", text))
    return findings


def json_problems(error: RequestError, which: str) -> list[Finding]:
    """Training does without a test split: what is wrong with it is told, and stops nothing."""
    return [Finding("warning" if which == "test" else "error", f"{which} json", str(problem)) for problem in error.problems]
