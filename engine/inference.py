"""What one network says of a batch: class probabilities in the images' own frame, over all views, in whole images or windows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import nn

from engine.augment import normalise
from engine.device import autocast
from engine.errors import RunError
from engine.model import predict_logits, resize
from engine.views import IDENTITY, View
from engine.windows import predict_in_windows

WINDOWS_AT_ONCE = 16


@dataclass(frozen=True)
class Seen:
    """Probabilities float32 (N, C, H, W) on the device, over all views; and those of the plain image where asked for."""

    probabilities: torch.Tensor
    plain: torch.Tensor | None


@dataclass(frozen=True)
class Manner:
    """How images are shown: the views, and the side of a window and its overlap (0..1) for images too large for one pass."""

    views: tuple[View, ...] = (IDENTITY,)
    window: int | None = None
    overlap: float = 0.5


class Inference:
    """A network with its normalisation, on a device. `input_size` is what it saw in training, None: images at their own size.

    Where the device runs out of memory, fewer images go through at once from then on; `tell` is told.
    """

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        input_size: tuple[int, int] | None,
        device: torch.device,
        precision: str,
        manner: Manner,
        tell: Callable[[str], None],
    ) -> None:
        self.model = model.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mean, self.std = tuple(mean), tuple(std)
        self.input_size = None if manner.window else input_size
        self.device, self.precision, self.manner, self.tell = device, precision, manner, tell
        self.at_once: int | None = None
        """The most images that go through together; None until memory ran out."""
        self.time_all, self.time_plain = Stopwatch(device), Stopwatch(device)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, *, plain: bool) -> Seen:
        """Probabilities of uint8 images (N, H, W, 3) on the device, averaged over the views. Raises RunError."""
        plain_view = self._timed_plain(images) if plain and self.manner.views != (IDENTITY,) else None
        with self.time_all.running():
            done = plain_view is not None and IDENTITY in self.manner.views
            total = plain_view.clone() if done and plain_view is not None else None
            views = [view for view in self.manner.views if not (done and view == IDENTITY)]
            for group in self._groups(views, images):
                for view_probabilities in self._predict(images, group):
                    total = view_probabilities if total is None else total.add_(view_probabilities)
            assert total is not None
            mean = total.div_(len(self.manner.views))
        if plain and plain_view is None:
            plain_view = mean
        return Seen(mean, plain_view)

    def try_on(self, images: torch.Tensor) -> None:
        """One plain pass. Raises torch.OutOfMemoryError where the device cannot hold it."""
        self._predict_together(images, [IDENTITY], 1)

    def seconds(self) -> tuple[float, float]:
        """(all views, the plain view alone) so far, of the network and what belongs to it; equal without other views."""
        if self.manner.views == (IDENTITY,):
            return self.time_all.seconds, self.time_all.seconds
        shared = self.time_plain.seconds if IDENTITY in self.manner.views else 0.0
        return self.time_all.seconds + shared, self.time_plain.seconds

    def _timed_plain(self, images: torch.Tensor) -> torch.Tensor:
        with self.time_plain.running():
            return next(self._predict(images, [IDENTITY]))

    def _groups(self, views: list[View], images: torch.Tensor) -> Iterator[list[View]]:
        """Views that can share a batch: those of one shape. Without a GPU one at a time, as sharing gains nothing there."""
        if self.device.type == "cpu":
            yield from ([view] for view in views)
            return
        by_shape: dict[tuple[float, int], list[View]] = {}
        square = images.shape[1] == images.shape[2] if self.input_size is None else self.input_size[0] == self.input_size[1]
        for view in views:
            by_shape.setdefault((view.scale, 0 if square else view.turns % 2), []).append(view)
        yield from by_shape.values()

    def _predict(self, images: torch.Tensor, views: list[View]) -> Iterator[torch.Tensor]:
        """Probabilities (N, C, H, W) for each of the views, as many of them together as memory holds."""
        count = len(images)
        while views:
            at_once = self.at_once or max(count * len(views), WINDOWS_AT_ONCE if self.manner.window else 1)
            together = views[: max(at_once // count, 1)]
            found = None
            with suppress(torch.OutOfMemoryError):  # what the failed attempt holds is let go only outside of this block
                found = self._predict_together(images, together, at_once)
            if found is None:
                self._shrink(at_once if self.manner.window else min(at_once, count * len(together)), images.shape)
                continue
            yield from found
            views = views[len(together) :]

    def _shrink(self, at_once: int, shape: Sequence[int]) -> None:
        height, width = (self.manner.window, self.manner.window) if self.manner.window else self.input_size or shape[1:3]
        if at_once == 1:
            fix = "Choose a smaller --window" if self.manner.window else "Predict it in windows: --window 512"
            raise RunError(f"out of GPU memory with a single image of {height}x{width}. {fix}")
        self.at_once = at_once // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.tell(f"out of GPU memory: from now on {self.at_once} images of {height}x{width} at once")

    def _predict_together(self, images: torch.Tensor, views: list[View], at_once: int) -> list[torch.Tensor]:
        full = (images.shape[1], images.shape[2])
        base = self.input_size or full
        shown = torch.cat([view.apply(resize(self._normalised(images, view), view.size(*base))) for view in views])
        if self.manner.window:
            answers = predict_in_windows(shown, self._softmax, self.manner.window, self.manner.overlap, at_once)
        else:
            answers = torch.cat([self._logits(piece) for piece in torch.split(shown, at_once)])
        return [self._undo(view, maps, full) for view, maps in zip(views, torch.split(answers, len(images)), strict=True)]

    def _normalised(self, images: torch.Tensor, view: View) -> torch.Tensor:
        brighter = images.float().mul_(view.brightness).clamp_(0, 255) if view.brightness != 1 else images
        return normalise(brighter, self.mean, self.std)

    def _undo(self, view: View, maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Probabilities in the image's frame: of logits, or already of probabilities where windows were blended."""
        maps = resize(view.undo(maps), size)
        return maps if self.manner.window else maps.softmax(dim=1)

    def _softmax(self, shown: torch.Tensor) -> torch.Tensor:
        return self._logits(shown).softmax(dim=1)

    def _logits(self, shown: torch.Tensor) -> torch.Tensor:
        with autocast(self.device, self.precision):
            return predict_logits(self.model, shown).float()


class Stopwatch:
    """Adds up the time that a device spends between `with` and its end, without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._sum = 0.0
        self._pending: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        if not self._on_gpu:
            began = time.perf_counter()
            yield
            self._sum += time.perf_counter() - began
            return
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        first.record()
        yield
        last.record()
        self._pending.append((first, last))
        while self._pending and self._pending[0][1].query():  # type: ignore[no-untyped-call]
            self._fold()

    def _fold(self) -> None:
        first, last = self._pending.pop(0)
        self._sum += first.elapsed_time(last) / 1000

    @property
    def seconds(self) -> float:
        """Waits for what is still running on the device."""
        while self._pending:
            self._pending[0][1].synchronize()
            self._fold()
        return self._sum
