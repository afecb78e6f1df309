"""Batches: which images make one, and the processes that read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from engine.augment import Augmentation
from engine.coco import IGNORED, Split
from engine.decoded import DecodedImages
from engine.distributed import ALONE, Ranks
from engine.images import ImageError, read_rgb
from engine.mask_cache import MaskCache
from engine.processes import START_METHOD, start_loader_worker

Item = tuple[NDArray[np.uint8], NDArray[np.uint8], int]
Key = tuple[int, int]
AHEAD = 4
"""Batches that a loader's worker reads ahead."""


class Batch(NamedTuple):
    """images uint8 (N, H, W, 3) RGB; labels uint8 (N, H, W), 255 is ignored; indices int64 (N) into the split."""

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor


class SegmentationData(Dataset[Item]):
    """The images and label maps of a split (255 everywhere where it has none). Asked by (epoch, index), so that
    augmentation depends on nothing else.

    It holds no list of annotations: loader workers would each grow their own copy of one.
    """

    def __init__(
        self, split: Split, masks: MaskCache | None, augmentation: Augmentation | None, decoded: DecodedImages | None = None
    ) -> None:
        paths = [path.encode() for path in split.paths()]
        self._paths = np.frombuffer(b"".join(paths), np.uint8)
        self._ends = np.cumsum([len(path) for path in paths])
        self.sizes = split.sizes
        self.masks = masks
        self.augmentation = augmentation
        self.decoded = decoded

    def __len__(self) -> int:
        return len(self.sizes)

    def path(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return bytes(self._paths[start : self._ends[index]]).decode()

    def __getitem__(self, key: Key) -> Item:
        """Raises ImageError where the file is gone, damaged, or no longer of the json's size."""
        epoch, index = key
        image = read_rgb(self.path(index)) if self.decoded is None else self.decoded[index]
        labels = self.masks[index] if self.masks is not None else np.full(self.sizes[index], IGNORED, np.uint8)
        if image.shape[:2] != labels.shape:
            raise ImageError(f"{self.path(index)} is {image.shape[:2]} (height, width) but the json says {labels.shape}")
        if self.augmentation is not None:
            image, labels = self.augmentation(image, labels, epoch, index)
        return image, labels, index


class TrainingBatches(Sampler[list[Key]]):
    """The batches of one epoch in an order drawn from (seed, epoch); the last short one is dropped.

    A batch is the same images for any number of ranks; each reads its share of it, in the same place of every batch.
    Set `epoch` and `first` before iterating: an epoch can be entered at any batch, without reading those before it.
    """

    def __init__(self, images: int, batch_size: int, seed: int, ranks: Ranks = ALONE) -> None:
        self.images, self.batch_size, self.seed, self.ranks = images, batch_size, seed, ranks
        self.epoch, self.first = 1, 0
        self.idle = False

    def __len__(self) -> int:
        return self.images // self.batch_size - self.first

    def __iter__(self) -> Iterator[list[Key]]:
        if self.idle:
            return
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.images).tolist()
        for batch in range(self.first, self.images // self.batch_size):
            indices = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield self.ranks.share([(self.epoch, index) for index in indices])


class ValidationBatches(Sampler[list[Key]]):
    """Every image once, on one of the ranks; images of one size share a batch, so that none has to be changed.

    A rank's batches are as large as a part of its share of a training batch.
    """

    def __init__(self, sizes: NDArray[np.int32], batch_size: int, ranks: Ranks = ALONE, parts: int = 1) -> None:
        each = batch_size // ranks.count // parts
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, size in enumerate(sizes.tolist()):
            by_size.setdefault(tuple(size), []).append(index)
        batches = [
            [(0, index) for index in group[start : start + each]] for group in by_size.values() for start in range(0, len(group), each)
        ]
        self.batches = ranks.deal(batches)
        self.idle = False

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(() if self.idle else self.batches)


class InOrder(Sampler[list[Key]]):
    """Images one after the other; neighbours of one size share a batch, up to `batch_size` images and `most_pixels`."""

    def __init__(self, sizes: NDArray[np.int32], indices: Sequence[int], batch_size: int, most_pixels: int) -> None:
        self.batches: list[list[Key]] = []
        shape: tuple[int, ...] = ()
        for index in indices:
            height, width = sizes[index].tolist()
            room = min(batch_size, max(most_pixels // (height * width), 1))
            if shape != (height, width) or len(self.batches[-1]) >= room:
                self.batches.append([])
                shape = (height, width)
            self.batches[-1].append((0, index))

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)


def loader(
    data: SegmentationData, batches: Sampler[list[Key]], workers: int, device: torch.device, *, passing: bool = False
) -> DataLoader[Item]:
    """Yields Batch. Its own generator: iterating would otherwise draw from torch's global one and change training.

    With `passing`, and workers, a batch is good until the next one is asked for: its memory is used again.
    """
    return DataLoader(
        data,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=InTurn() if passing and workers else stack,
        pin_memory=device.type == "cuda",
        worker_init_fn=start_loader_worker,
        persistent_workers=workers > 0,
        prefetch_factor=AHEAD if workers else None,
        generator=torch.Generator(),
        multiprocessing_context=START_METHOD if workers else None,
    )


def start_workers(loader: DataLoader[Item], batches: TrainingBatches | ValidationBatches) -> None:
    """Fork a loader's workers now, with nothing to read yet; they stay for all its epochs.

    They must be there before a thread starts another program: a fork at the wrong moment inherits the pipe on which
    that thread waits, and it would wait until the workers end.
    """
    batches.idle = True
    iter(loader)
    batches.idle = False


def stack(items: Sequence[Item]) -> Batch:
    """In a loader's worker torch's own collation puts them together in the memory that the trainer will see: nothing is copied twice."""
    images, labels, indices = zip(*items, strict=True)
    return Batch(_together(images), _together(labels), torch.tensor(indices))


def _together(arrays: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
    found: torch.Tensor = default_collate([torch.from_numpy(np.ascontiguousarray(each)) for each in arrays])
    return found


class InTurn:
    """`stack` in a worker's own shared memory, which its batches take in turn: new pages for each would cost as much as decoding.

    The loader gives a worker its next batch when one of its `AHEAD` is taken, and the taken one is in use meanwhile.
    """

    def __init__(self) -> None:
        self._memory = [(torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.uint8)) for _ in range(AHEAD + 2)]
        self._next = 0

    def __call__(self, items: Sequence[Item]) -> Batch:
        images, labels, indices = zip(*items, strict=True)
        self._next = (self._next + 1) % len(self._memory)
        kept = self._memory[self._next]
        self._memory[self._next] = kept = (_room(kept[0], images), _room(kept[1], labels))
        return Batch(_into(kept[0], images), _into(kept[1], labels), torch.tensor(indices))


def _room(memory: torch.Tensor, arrays: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
    size = sum(each.size for each in arrays)
    if len(memory) < size:
        memory = torch.empty(size, dtype=torch.uint8)
        memory.share_memory_()  # type: ignore[no-untyped-call]
    return memory


def _into(memory: torch.Tensor, arrays: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
    together = memory[: sum(each.size for each in arrays)].view(len(arrays), *arrays[0].shape)
    np.stack(arrays, out=together.numpy())
    return together
