"""What is saved, as it was at one moment: copied into memory of its own, so that training can go on while it is written."""

from __future__ import annotations

import copy
from typing import Any

import torch


class Snapshots:
    """Copies of a tree of tensors on the CPU, one at a time: the next one is taken into the memory of the last.

    New memory for every copy would cost more than the copying. A GPU copies in its own order, behind the steps before
    and in front of those after: `take` does not wait for it, `wait` does.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[Any, ...], torch.Tensor] = {}
        self._copied: torch.cuda.Event | None = None

    def take(self, tree: Any) -> Any:
        """The same dicts, lists and values with every tensor copied; a tensor that is there twice is copied once."""
        buffers, self._buffers = self._buffers, {}
        found = self._copy(tree, buffers)
        if any(device.type == "cuda" for device, *_ in self._buffers):
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()
        return found

    def wait(self) -> None:
        """Until what was taken is there. From any thread."""
        if self._copied is not None:
            self._copied.synchronize()

    def _copy(self, value: Any, buffers: dict[tuple[Any, ...], torch.Tensor]) -> Any:
        if isinstance(value, torch.Tensor):
            return self._copy_tensor(value.detach(), buffers)
        if isinstance(value, dict):
            found = copy.copy(value)
            for key, each in value.items():
                found[key] = self._copy(each, buffers)
            return found
        if isinstance(value, (list, tuple)):
            return type(value)(self._copy(each, buffers) for each in value)
        return value

    def _copy_tensor(self, tensor: torch.Tensor, buffers: dict[tuple[Any, ...], torch.Tensor]) -> torch.Tensor:
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if key not in self._buffers:
            buffer = buffers.get(key)
            if buffer is None:
                buffer = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._buffers[key] = buffer.copy_(tensor, non_blocking=tensor.is_cuda)
        return self._buffers[key]
