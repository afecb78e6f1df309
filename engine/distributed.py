"""Ranks: the processes that train one network together, each on its share of every batch. Nobody else knows how many there are.

Every rank makes the same calls in the same order: most of them wait for the others.
"""

from __future__ import annotations

import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from engine.errors import Problem, RequestError

T = TypeVar("T")

PATIENCE = timedelta(hours=1)
"""How long a rank waits for another: rank 0 alone reads the data for the first time, and draws pictures."""


class Ranks:
    """One process alone: there is nothing to share and nobody to ask."""

    number = 0
    count = 1
    restarts = 0
    """How often these processes were started again because one of them had died."""
    can_restart = False
    """Whether they would be."""

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that reports and saves."""
        return self.number == 0

    @property
    def pid(self) -> int:
        """The process that takes the run's signals, and whose end is the run's."""
        return os.getpid()

    def share(self, batch: list[T]) -> list[T]:
        """What this rank takes of a batch; together the ranks take all of it."""
        return batch

    def deal(self, batches: list[T]) -> list[T]:
        """The batches that are this rank's; a rank may have one more than another."""
        return batches

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with gradients that are the mean over the ranks, and rank 0's weights."""
        return network

    def gradients_later(self) -> AbstractContextManager[Any]:
        """For the backward passes whose gradients another one will add to."""
        return nullcontext()

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of the ranks' values; whole numbers give float64. Carries no gradient."""
        return value

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of the ranks' values, in place of this one's."""
        return value

    def collect(self, value: torch.Tensor) -> None:
        """Rank 0's value becomes the sum, the others' zero: what is added up over the ranks stays the same."""

    def gather(self, value: T) -> list[T]:
        """Rank 0 gets everybody's values in order, the others nothing."""
        return [value]

    def told(self, value: T) -> T:
        """Rank 0's value."""
        return value

    def agree(self, asked: bool) -> bool:
        """Whether any rank was asked."""
        return asked

    def agree_in_passing(self, asked: bool) -> bool:
        """Whether any rank was asked, as of the call before this one: nobody waits for a rank that is still at its step."""
        return asked

    def same_buffers(self, network: nn.Module) -> None:
        """Give every rank rank 0's running statistics, which are those that are saved."""


class Only(Ranks):
    """The only rank, in a process that the worker started and would start again."""

    can_restart = True

    def __init__(self) -> None:
        self.restarts = int(os.environ["TORCHELASTIC_RESTART_COUNT"])

    @property
    def pid(self) -> int:
        return os.getppid()


class Several(Only):
    """This process as one of those that `torch.distributed` has brought together."""

    def __init__(self) -> None:
        super().__init__()
        self.number, self.count = dist.get_rank(), dist.get_world_size()
        self._network: DistributedDataParallel | None = None
        self._asked: tuple[torch.Tensor, dist.Work] | None = None

    def share(self, batch: list[T]) -> list[T]:
        each = len(batch) // self.count
        return batch[self.number * each : (self.number + 1) * each]

    def deal(self, batches: list[T]) -> list[T]:
        return batches[self.number :: self.count]

    def wrap(self, network: nn.Module) -> nn.Module:
        # Running statistics are not sent round in every step: training does not read them, and `same_buffers` sees to validation.
        # Some encoders have layers that nothing is asked of; they have no gradient to wait for.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of another name for broadcast_buffers, which older versions lack
            self._network = DistributedDataParallel(
                network, broadcast_buffers=False, find_unused_parameters=True, gradient_as_bucket_view=True
            )
        return self._network

    def gradients_later(self) -> AbstractContextManager[Any]:
        assert self._network is not None
        return self._network.no_sync()

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        value = value.detach()
        value = value.clone() if value.is_floating_point() else value.to(torch.float64)
        return self.sum(value) / self.count

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(value)
        return value

    def collect(self, value: torch.Tensor) -> None:
        self.sum(value)
        if not self.is_main:
            value.zero_()

    def gather(self, value: T) -> list[T]:
        values: list[Any] | None = [None] * self.count if self.is_main else None
        dist.gather_object(value, values, dst=0)
        return values or []

    def told(self, value: T) -> T:
        values = [value]
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def agree(self, asked: bool) -> bool:
        return bool(self.sum(torch.tensor(int(asked))))

    def agree_in_passing(self, asked: bool) -> bool:
        before = self._asked
        # On the CPU: a GPU would have to be waited for. By the next step this one's answer is there.
        answer = torch.tensor(int(asked))
        self._asked = answer, dist.all_reduce(answer, async_op=True)
        if before is None:
            return False
        before[1].wait()
        return bool(before[0])

    def same_buffers(self, network: nn.Module) -> None:
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)


ALONE = Ranks()


def join() -> Ranks:
    """Meet the ranks that were started together with this one, as the environment of `elastic_launch` tells; take this rank's device."""
    if os.environ["WORLD_SIZE"] == "1":
        return Only()
    local, local_count = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if torch.cuda.is_available():
        torch.cuda.set_device(local)
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=PATIENCE)
    else:
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(torch.get_num_threads() // local_count, 1))
        dist.init_process_group("gloo", timeout=PATIENCE)
    return Several()


def leave() -> None:
    """Before the process ends well; the others may go on without it."""
    if dist.is_initialized():
        dist.destroy_process_group()


def gpus() -> int:
    """The GPUs that this process may use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def synchronised(network: nn.Module, ranks: Ranks, device: torch.device) -> nn.Module:
    """The network with batch normalisation over the whole batch. Raises RequestError where the device cannot."""
    if ranks.count == 1:
        return network
    if device.type != "cuda":
        fix = "leave it out, or set launch.devices = 1"
        raise RequestError(Problem("works between GPUs only, and there is none", key="train.sync_batchnorm", fix=fix))
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return converted
