"""Training in several processes: the worker starts one for each device and, where one of them dies, all of them again.

The worker, torch's elastic agent, keeps what it is for every run: the session's leader, the run's process in its record, the
one that signals go to. Rank 0 opens the run, reports, saves and ends it, as the worker itself does where there is one process.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from engine import preset
from engine.board import Board
from engine.distributed import gpus
from engine.errors import EXIT_FAILED, EXIT_INTERRUPTED
from engine.events import decode
from engine.launch import cause_of_signal
from engine.rank import Outcome, train_as_rank
from engine.reporter import Reporter
from engine.run import RunFolder, conclude
from engine.schema import Preset
from engine.session import open_session
from engine.sharing import check_devices, devices_here
from engine.system import out_of_memory_kills
from engine.worker import Accepted, Crashed, Refused, Request

if TYPE_CHECKING:
    from engine.jobs import Work

POLL_S = 0.1
CLEANING_S = 5.0
MOST_HALVINGS = 3


def open_training(request: Request, report: Reporter, stop_asked: Callable[[], bool]) -> Work:
    """The run in this process where it has one device, else in a group of processes. Raises RequestError."""
    table = preset.from_dict(request.preset)
    devices = devices_here(table, gpus())
    if devices * table.launch.nodes == 1 and table.train.on_oom == "fail":
        return open_session(request, report, stop_asked)
    check_devices(table, gpus())
    group = Group(request, table, devices, stop_asked)
    try:
        group.open(report)
    except BaseException:
        group.abandon()
        raise
    return group


class Group:
    """The ranks on this machine, as the worker sees them."""

    def __init__(self, request: Request, table: Preset, devices: int, stop_asked: Callable[[], bool]) -> None:
        self._request, self._launch, self._devices, self._stop_asked = request, table.launch, devices, stop_asked
        self._restarts = 0  # of a debug run, which keeps no state to start again from
        if not request.toggles.debug:
            self._restarts = table.launch.max_restarts + (MOST_HALVINGS if table.train.on_oom == "halve" else 0)
        self._board = Board(devices)
        self._from_ranks, self._to_agent = multiprocessing.get_context("spawn").Pipe(duplex=False)
        self.folder: Path | None = None
        self.next_seq = 1
        self._outcome: Outcome | Exception = EXIT_FAILED
        self._kills = out_of_memory_kills()
        # A thread: in the main one torch would take over the signals.
        self._thread = threading.Thread(target=self._launch_ranks, daemon=True, name="elastic")

    @property
    def is_over(self) -> bool:
        return self._run.read().ended is not None

    @property
    def _run(self) -> RunFolder:
        assert self.folder is not None
        return RunFolder(self.folder)

    def open(self, report: Reporter) -> None:
        """Start the ranks, and wait until rank 0 has opened the run. Raises RequestError where it refuses."""
        self._thread.start()
        while self._thread.is_alive() or self._from_ranks.poll():
            if not self._from_ranks.poll(POLL_S):
                continue
            told = self._from_ranks.recv()
            if isinstance(told, Accepted):
                self.folder, self.next_seq = told.folder, told.next_seq
                return
            report(decode(told))
        match self._outcome:
            case Refused(error):
                raise error
            case Exception() as error:
                raise error
            case outcome:
                raise RuntimeError(outcome.traceback if isinstance(outcome, Crashed) else f"the ranks ended with exit code {outcome}")

    def run_to_end(self) -> int:
        while self._thread.is_alive():
            self._board.stop_asked = self._stop_asked()
            self._thread.join(POLL_S)
        return self._outcome if isinstance(self._outcome, int) else self._conclude()

    def end_at_once(self) -> None:
        try:
            self._kill()
            conclude(self._run, "stopped", "ended at once by a second signal; the steps since the last saved state are not kept")
        finally:
            os._exit(EXIT_INTERRUPTED)

    def abandon(self) -> None:
        """Nothing began: rank 0 removes what it has claimed, if it is given the time."""
        self._board.is_over = True
        self._signal(signal.SIGTERM)
        self._thread.join(CLEANING_S)
        self._kill()

    def _launch_ranks(self) -> None:
        """One call of torch's launcher, which starts the ranks again itself."""
        launch = self._launch
        if launch.nodes == 1:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # restarts of several machines hang otherwise (torch 2.15)
        with tempfile.TemporaryDirectory(prefix="segtui_ranks_") as errors:
            config = LaunchConfig(
                min_nodes=launch.nodes,
                max_nodes=launch.nodes,
                nproc_per_node=self._devices,
                run_id="segtui",
                rdzv_backend="c10d",
                rdzv_endpoint=launch.rendezvous or "localhost:0",
                local_addr=None if launch.rendezvous else "localhost",
                max_restarts=self._restarts,
                logs_specs=DefaultLogsSpecs(log_dir=errors),
            )
            try:
                outcomes = elastic_launch(config, train_as_rank)(self._request, self._board, self._to_agent)
                self._outcome = outcomes.get(0, next(iter(outcomes.values())))
            except Exception as error:  # noqa: BLE001  whatever it was, the main thread says it
                self._outcome = error

    def _conclude(self) -> int:
        """Say how the run ended, where rank 0 was here and could not say it."""
        if self._board.has_main and not self.is_over:
            conclude(self._run, "failed", self._cause())
        return EXIT_FAILED

    def _cause(self) -> str:
        match self._outcome:
            case ChildFailedError() as error:
                rank, failure = error.get_first_failure()
                killed = (out_of_memory_kills() or 0) > (self._kills or 0)
                text = cause_of_signal(-failure.exitcode, out_of_memory=killed) if failure.exitcode < 0 else failure.message.splitlines()[0]
                restarts = f", after {self._restarts} restarts" if self._restarts else ""
                return f"rank {rank}{restarts}: {text} ({self._run.log.name if rank == 0 else f'log-rank{rank}.txt'} has more)"
            case Refused(error):
                return str(error)
            case outcome:
                return outcome.traceback if isinstance(outcome, Crashed) else f"{type(outcome).__name__}: {outcome}"

    def _kill(self) -> None:
        """Every rank is gone afterwards. Torch, which has them as children, takes their exit codes."""
        self._board.is_over = True
        self._signal(signal.SIGKILL)
        deadline = time.monotonic() + CLEANING_S
        while any(is_running(pid) for pid in self._board.pids) and time.monotonic() < deadline:
            time.sleep(0.01)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._board.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
