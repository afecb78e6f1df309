"""The members of an ensemble: whatever gives class probabilities for a batch of images."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from engine.dataset import Batch
from engine.errors import RunError
from engine.inference import Inference, Seen
from engine.model import resize
from engine.probabilities import ProbabilityFile


class Member(Protocol):
    """`predict` gives probabilities in the first member's order of classes, at the images' own size, on the device."""

    name: str

    def predict(self, batch: Batch, *, plain: bool) -> Seen: ...


class NetworkMember:
    """A network; `order` is where each class of the ensemble lies among its own."""

    def __init__(self, name: str, inference: Inference, order: Sequence[int]) -> None:
        self.name, self.inference = name, inference
        self.order = None if list(order) == list(range(len(order))) else torch.tensor(order, device=inference.device)

    def predict(self, batch: Batch, *, plain: bool) -> Seen:
        seen = self.inference(batch.images.to(self.inference.device, non_blocking=True), plain=plain)
        if self.order is None:
            return seen
        return Seen(
            seen.probabilities.index_select(1, self.order),
            seen.plain.index_select(1, self.order) if seen.plain is not None else None,
        )

    def leave_device(self) -> None:
        self.inference.model.to("cpu")
        if self.inference.device.type == "cuda":
            torch.cuda.empty_cache()

    def enter_device(self) -> None:
        self.inference.model.to(self.inference.device)


class ArrayMember:
    """A `.npy` of another program, or of an earlier ensemble. What it holds is one view: it has no plain one."""

    def __init__(self, file: ProbabilityFile, order: Sequence[int], device: torch.device) -> None:
        self.name = file.path.name
        self.file, self.order, self.device = file, list(order), device

    def predict(self, batch: Batch, *, plain: bool) -> Seen:
        arrays = np.stack([self.file[index][self.order] for index in batch.indices.tolist()])
        found = torch.from_numpy(arrays).to(self.device)
        found = resize(found / found.sum(dim=1, keepdim=True), (batch.images.shape[1], batch.images.shape[2]))
        return Seen(found, found if plain else None)


class SpilledMember:
    """What a network said of every image, kept in half precision on disk: for networks that do not fit the GPU together."""

    def __init__(self, member: NetworkMember, classes: int, sizes: NDArray[np.int32], folder: Path, *, plain: bool) -> None:
        self.name, self.device = member.name, member.inference.device
        self.classes, self.sizes = classes, sizes
        pixels = sizes.prod(axis=1, dtype=np.int64)
        self._starts = np.concatenate(([0], np.cumsum(pixels))) * classes * 2
        needed = int(self._starts[-1]) * (2 if plain else 1)
        if needed > (free := shutil.disk_usage(folder).free):
            text = f"the models do not fit the GPU together, and keeping what one says takes {needed / 2**30:.1f} GiB"
            raise RunError(f"{text}; {folder} has {free / 2**30:.1f}")
        self._files = [(folder / f"{name}.f16").open("w+b") for name in (["all", "plain"] if plain else ["all"])]

    def keep(self, batch: Batch, seen: Seen) -> None:
        for file, values in zip(self._files, (seen.probabilities, seen.plain), strict=False):
            assert values is not None
            for index, image in zip(batch.indices.tolist(), values.half().cpu().numpy(), strict=True):
                file.seek(self._starts[index])
                file.write(image.tobytes())

    def predict(self, batch: Batch, *, plain: bool) -> Seen:
        found = self._read(0, batch)
        return Seen(found, (self._read(1, batch) if len(self._files) > 1 else found) if plain else None)

    def _read(self, which: int, batch: Batch) -> torch.Tensor:
        shape = (self.classes, batch.images.shape[1], batch.images.shape[2])
        self._files[which].flush()
        images = [
            np.frombuffer(os.pread(self._files[which].fileno(), 2 * int(np.prod(shape)), self._starts[index]), np.float16).reshape(shape)
            for index in batch.indices.tolist()
        ]
        return torch.from_numpy(np.stack(images)).to(self.device).float()


def spill(
    members: Sequence[NetworkMember | ArrayMember],
    batches: Callable[[], Iterable[Batch]],
    sizes: NDArray[np.int32],
    classes: int,
    folder: Path,
    done: Callable[[int], None],
    *,
    plain: bool,
) -> list[Member]:
    """Run the networks one after another over all batches; members that read what they said. `done` counts images."""
    spilled: list[Member] = []
    for number, member in enumerate(members):
        if isinstance(member, ArrayMember):
            spilled.append(member)
            continue
        own = folder / f"member_{number}"
        own.mkdir()
        kept = SpilledMember(member, classes, sizes, own, plain=plain)
        member.enter_device()
        for batch in batches():
            kept.keep(batch, member.predict(batch, plain=plain))
            done(len(batch.indices))
        member.leave_device()
        spilled.append(kept)
    return spilled


def fit_together(members: Sequence[NetworkMember], height: int, width: int) -> bool:
    """Whether all networks and the largest image fit the device. Leaves them on it where they do, off it where not."""
    device = members[0].inference.device
    if device.type != "cuda" or len(members) == 1:
        for member in members:
            member.enter_device()
        return True
    largest = Batch(torch.zeros(1, height, width, 3, dtype=torch.uint8), torch.empty(0), torch.tensor([0]))
    fits = True
    try:
        for member in members:
            member.enter_device()
        for member in members:
            member.inference.try_on(largest.images.to(device))
    except torch.OutOfMemoryError:
        fits = False
    if not fits:
        for member in members:
            member.leave_device()
    return fits
