"""Everything that a prediction needs, found and checked before anything is written but caches."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import torch

from engine import preset
from engine.coco import Split, check_images
from engine.dataset import SegmentationData
from engine.device import choose_device, inference_precision
from engine.errors import Problem, RequestError
from engine.inference import Inference, Manner
from engine.loading import Loaded, load_network
from engine.masks import mask_cache
from engine.members import ArrayMember, NetworkMember
from engine.outputs import check_places
from engine.pictures import TaskProgress, read_named_split, read_pictures
from engine.predict_request import PredictRequest, member_name
from engine.prediction_record import MemberRecord
from engine.probabilities import ProbabilityFile, Sidecar, class_order
from engine.processes import keep_memory
from engine.schema import DataTable
from engine.submission import sole_decider
from engine.views import IDENTITY, parse_views


@dataclass(frozen=True)
class Gathered:
    """The parts of a prediction. `fit_on` is the labelled validation split where weights are to be fitted."""

    request: PredictRequest
    classes: tuple[str, ...]
    data: DataTable
    pictures: Split
    dataset: SegmentationData
    scored: bool
    fit_on: SegmentationData | None
    networks: list[NetworkMember]
    arrays: list[ArrayMember]
    records: list[MemberRecord]
    weights: list[Fraction]
    manner: Manner
    device: torch.device
    precision: str
    sidecar: Sidecar | None
    warnings: list[str]

    @property
    def members(self) -> list[NetworkMember | ArrayMember]:
        return [*self.networks, *self.arrays]


def gather(request: PredictRequest, progress: TaskProgress, tell: Callable[[str], None]) -> Gathered:
    """Raises RequestError for everything that is wrong with the request."""
    described = preset.from_dict(request.preset) if request.preset else None
    manner = Manner(parse_views(request.tta) if request.tta is not None else (IDENTITY,), request.window, request.overlap)
    weights = _weights(request)
    loaded = [load_network(path, described) for path in request.checkpoints]
    classes = loaded[0].classes
    orders = [class_order(each.classes, classes, str(each.path)) for each in loaded]
    data = _data(request, loaded[0])
    pictures = read_pictures(data, request.split, request.images, progress)
    scored = any(pictures.annotations)
    if scored:
        _same_classes(pictures, classes, loaded[0].path)
    files = [ProbabilityFile(path) for path in request.arrays]
    checked = [file.check(pictures.file_names, classes, partial(progress, f"check {file.path.name}")) for file in files]
    fit_split = _fit_split(request, data, pictures, classes, loaded[0], progress)
    check_places(request.places, pictures.file_names)
    sidecar = _sidecar(request, pictures, classes)
    device = choose_device()
    if device.type == "cpu":
        keep_memory()
    precision = inference_precision(loaded[0].preset.train.precision, device)
    names = _unique([*(member_name(each.path) for each in loaded), *(path.name for path in request.arrays)])
    networks = [
        NetworkMember(name, _inference(each, device, precision, manner, tell), order)
        for name, each, order in zip(names, loaded, orders, strict=False)
    ]
    arrays = [ArrayMember(file, order, device) for file, (order, _) in zip(files, checked, strict=True)]
    records = [
        MemberRecord(name=name, path=str(each.path), weight=float(weight), epoch=each.epoch, mIoU=each.mIoU)
        for name, each, weight in zip(names, loaded, weights, strict=False)
    ]
    records += [
        MemberRecord(name=name, path=str(file.path), weight=float(weight))
        for name, file, weight in zip(names[len(loaded) :], files, weights[len(loaded) :], strict=True)
    ]
    return Gathered(
        request=request,
        classes=classes,
        data=data,
        pictures=pictures,
        dataset=_dataset(pictures, data, request.caches, progress, labelled=scored),
        scored=scored,
        fit_on=_dataset(fit_split, data, request.caches, progress, labelled=True) if fit_split else None,
        networks=networks,
        arrays=arrays,
        records=records,
        weights=weights,
        manner=manner,
        device=device,
        precision=precision,
        sidecar=sidecar,
        warnings=[
            *(warning for _, warning in checked if warning),
            *filter(None, [sole_decider(names, weights) if request.mode == "hard" else ""]),
            *_class_warning(pictures, classes),
            *pictures.notes,
        ],
    )


def _weights(request: PredictRequest) -> list[Fraction]:
    """One for each member, with sum 1."""
    count = len(request.checkpoints) + len(request.arrays)
    if request.weights is None or request.weights == "fit":
        return [Fraction(1, count)] * count
    if len(request.weights) != count:
        raise RequestError(Problem(f"names {len(request.weights)} weights for {count} members", key="--weights", fix="give one for each"))
    total = sum(request.weights)
    if min(request.weights) < 0 or total <= 0:
        raise RequestError(Problem("weights must not be negative, nor all 0", key="--weights"))
    return [weight / total for weight in request.weights]


def _data(request: PredictRequest, first: Loaded) -> DataTable:
    data = first.preset.data
    return data.model_copy(update={"root": request.data_root}) if request.data_root else data


def _same_classes(split: Split, classes: tuple[str, ...], checkpoint: Path) -> None:
    if split.classes != classes:
        text = f"its classes ({', '.join(split.classes)}) are not those of {checkpoint} ({', '.join(classes)})"
        raise RequestError(Problem(text, file=str(split.json), key="categories", fix="name the data it was trained for: --data ROOT"))


def _class_warning(split: Split, classes: tuple[str, ...]) -> list[str]:
    named = split.classes not in ((), ("Background",), classes)
    return [f"{split.json} names other classes than the checkpoint; the checkpoint's are used"] if named else []


def _fit_split(
    request: PredictRequest, data: DataTable, pictures: Split, classes: tuple[str, ...], first: Loaded, progress: TaskProgress
) -> Split | None:
    """The validation split, labelled; what is predicted itself where that is the one."""
    if request.weights != "fit":
        return None
    split = read_named_split(data, "val")
    check_images(split, partial(progress, "check val"))
    _same_classes(split, classes, first.path)
    if len(split) < 2 or not any(split.annotations):
        raise RequestError(Problem("has too few labelled images to fit weights on", file=str(split.json), key="--weights"))
    if request.arrays and split.digest != pictures.digest:
        text = f"fit needs every member on {split.json}, and {request.arrays[0]} is of {pictures.json}"
        raise RequestError(Problem(text, key="--weights", fix="fit with --split val, then give the weights it found"))
    return split


def _sidecar(request: PredictRequest, pictures: Split, classes: tuple[str, ...]) -> Sidecar | None:
    """What `--probabilities` will write: at the images' size where they share one, else at the submission's."""
    path = request.places.probabilities
    if path is None:
        return None
    if request.mode == "hard":
        raise RequestError(Problem("hard voting has no probabilities to write", key="--probabilities", fix="use --softvote"))
    sizes = {(int(height), int(width)) for height, width in pictures.sizes}
    size = sizes.pop() if len(sizes) == 1 else (request.side, request.side)
    needed = 2 * len(pictures) * len(classes) * size[0] * size[1]
    if needed > (free := shutil.disk_usage(path.parent).free):
        text = f"needs {needed / 2**30:.1f} GiB, and {path.parent} has {free / 2**30:.1f}"
        raise RequestError(Problem(text, file=str(path), key="--probabilities"))
    members = [str(each) for each in (*request.checkpoints, *request.arrays)]
    return Sidecar(classes=list(classes), images=list(pictures.file_names), size=size, members=members)


def _dataset(split: Split, data: DataTable, caches: Path, progress: TaskProgress, *, labelled: bool) -> SegmentationData:
    masks = mask_cache(split, data.overlap, caches, data.workers, partial(progress, f"masks {split.json.stem}")) if labelled else None
    return SegmentationData(split, masks, None)


def _inference(loaded: Loaded, device: torch.device, precision: str, manner: Manner, tell: Callable[[str], None]) -> Inference:
    return Inference(loaded.model, loaded.mean, loaded.std, loaded.preset.data.input_size, device, precision, manner, tell)


def _unique(names: list[str]) -> list[str]:
    """Equal names are told apart by number."""
    return [name if names.index(name) == row else f"{name} #{names[: row + 1].count(name)}" for row, name in enumerate(names)]
