"""What a worker and its ranks tell each other in shared memory, which outlives a rank that is killed."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

LONGEST_PATH = 4096


class Board:
    """One for the ranks of one machine."""

    def __init__(self, ranks: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._flags = context.RawArray("b", 4)
        self._pids = context.RawArray("i", ranks)
        self._folder = context.RawArray("c", LONGEST_PATH)

    @property
    def stop_asked(self) -> bool:
        """The run was asked to stop."""
        return bool(self._flags[0])

    @stop_asked.setter
    def stop_asked(self, value: bool) -> None:
        self._flags[0] = value

    @property
    def is_over(self) -> bool:
        """The run's end was told, or it is given up: ranks that are started again have nothing to do."""
        return bool(self._flags[1])

    @is_over.setter
    def is_over(self, value: bool) -> None:
        self._flags[1] = value

    @property
    def has_main(self) -> bool:
        """Rank 0 is on this machine."""
        return bool(self._flags[2])

    @has_main.setter
    def has_main(self, value: bool) -> None:
        self._flags[2] = value

    @property
    def is_out_of_memory(self) -> bool:
        """A rank on this machine has died for lack of its device's memory."""
        return bool(self._flags[3])

    @is_out_of_memory.setter
    def is_out_of_memory(self, value: bool) -> None:
        self._flags[3] = value

    @property
    def folder(self) -> Path | None:
        """The run's folder, once it is open: ranks that are started again go on with it."""
        return Path(os.fsdecode(self._folder.value)) if self._folder.value else None

    @folder.setter
    def folder(self, path: Path) -> None:
        self._folder.value = os.fsencode(path)

    @property
    def pids(self) -> list[int]:
        """The processes of the ranks, of those that have begun."""
        return [pid for pid in self._pids if pid]

    def sign_in(self, local_rank: int) -> None:
        self._pids[local_rank] = os.getpid()
