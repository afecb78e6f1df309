"""What the process of one rank executes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from dataclasses import replace
from multiprocessing.connection import Connection

import torch

from engine import preset
from engine.board import Board
from engine.checkpoint import load_resume
from engine.dataset import start_workers
from engine.device import is_out_of_memory
from engine.distributed import Ranks, join, leave
from engine.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_STOPPED, RequestError, Stopped
from engine.prepare import prepare
from engine.reporter import Reporter
from engine.resuming import restore
from engine.run import RunFolder
from engine.session import Session, open_session
from engine.streams import detach_streams, log_to
from engine.train import Trainer
from engine.worker import STOP_SIGNALS, Accepted, Crashed, Refused, Request

Outcome = int | Refused | Crashed
"""The run's exit code, or why there is no run."""
ANSWERED_S = 1.0
"""By then the worker has told its ranks of a signal that it got too."""


class RunIsOver(Exception):
    """Rank 0 has ended the run and said why. It ends badly itself, so that the others, which may wait for it, are ended too."""


def train_as_rank(request: Request, board: Board, to_agent: Connection) -> Outcome:
    """Raises whatever ends this rank; all of them are then started again."""
    return EXIT_FAILED if board.is_over else _train(request, board, to_agent)


def _train(request: Request, board: Board, to_agent: Connection) -> Outcome:
    local_rank = int(os.environ["LOCAL_RANK"])
    board.sign_in(local_rank)
    signals = Signals(board)
    early_output = detach_streams()
    if board.folder:
        request = replace(request, resume=board.folder, warnings=())
    try:
        ranks = join()
        listener = None if board.folder else UntilAccepted(to_agent)
        halve = ranks.agree(board.is_out_of_memory)
        board.is_out_of_memory = False
        opened, session = _open(request, listener, board, ranks, halve=halve)
        opened = ranks.told(opened)
        if not isinstance(opened, Accepted):
            return opened
        signals.may_interrupt = False
        board.folder, board.has_main = opened.folder, ranks.is_main or board.has_main
        if listener and local_rank == 0:
            listener.accept(opened)
        run = RunFolder(opened.folder)
        log_to(run.log if ranks.is_main else run.path / f"log-rank{ranks.number}.txt", early_output)
        parts = ranks.told(session.setup.parts if session else 1)
        outcome = _lead(session, board) if session else _follow(request, run, board, ranks, parts)
        leave()
        return outcome
    except RunIsOver:
        raise
    except Exception as error:
        if board.is_over:
            return EXIT_FAILED
        board.is_out_of_memory = board.is_out_of_memory or is_out_of_memory(error)
        traceback.print_exc()
        raise
    finally:
        for child in multiprocessing.active_children():
            child.kill()  # as in the worker of one process


def _open(
    request: Request, listener: UntilAccepted | None, board: Board, ranks: Ranks, *, halve: bool
) -> tuple[Accepted | Refused | Crashed, Session | None]:
    """The run, opened by rank 0 for all, and what it tells the others of it; they have nothing to tell."""
    if not ranks.is_main:
        return Crashed(""), None
    try:
        session = open_session(request, Reporter(listener), lambda: board.stop_asked, ranks, halve=halve)
    except RequestError as error:
        return Refused(error), None
    except Exception:  # noqa: BLE001  the others wait for an answer
        return Crashed(traceback.format_exc()), None
    if ranks.restarts:
        died = f"one of the {ranks.count} processes had died (log.txt tells which)" if ranks.count > 1 else "the process had died"
        cause = f"out of memory: each batch is cut into {session.setup.parts} parts from now on" if halve else died
        session.setup.warnings.append(f"{cause}; going on from step {session.trainer.at.step}, restart {ranks.restarts}")
    return Accepted(session.run.path, session.next_seq), session


def _lead(session: Session, board: Board) -> int:
    code = session.run_to_end()
    if code == EXIT_FAILED:
        board.is_over = True
        raise RunIsOver
    return code


def _follow(request: Request, run: RunFolder, board: Board, ranks: Ranks, parts: int) -> int:
    """Train beside rank 0, which has opened the run and found everything in order."""
    table = preset.from_dict(request.preset)
    setup = prepare(table, request.toggles, request.runs / ".cache", _quiet, ranks, parts)
    torch.manual_seed(table.train.seed + ranks.number)  # as many different masks of dropout as there are images
    trainer = Trainer(setup, _quiet, lambda: board.stop_asked, _quiet)
    if request.resume:
        restore(trainer, run, load_resume(run.resume))
    start_workers(setup.train_loader, setup.batches)
    start_workers(setup.val_loader, setup.val_batches)
    try:
        trainer.train()
    except Stopped:
        return EXIT_STOPPED
    finally:
        del setup.train_loader, setup.val_loader
    return EXIT_DONE


def _quiet(*_: object) -> None:
    pass


class UntilAccepted:
    """Rank 0's listener while it opens the run: what takes a while is shown meanwhile, by way of the worker.

    From then on followers read the run's log: a queue between processes does not survive that one of them is killed.
    """

    def __init__(self, to_agent: Connection) -> None:
        self._to_agent = to_agent
        self._is_open = False

    def put_nowait(self, item: bytes, /) -> None:
        if not self._is_open:
            self._to_agent.send(item)

    def cancel_join_thread(self) -> None:
        pass

    def accept(self, opened: Accepted) -> None:
        self._is_open = True
        self._to_agent.send(opened)


class Signals:
    """SIGTERM and SIGINT are for the worker to answer, which the whole session's signals reach too. What reaches a rank alone is
    from the worker, to make room for new ranks, or tells that the worker is gone: the rank ends.

    Signals are heard by a thread: the main one may wait for another rank that will not answer any more.
    """

    def __init__(self, board: Board) -> None:
        self._board, self._agent = board, os.getppid()
        self.may_interrupt = True
        """The run is not open yet: what was begun is taken back."""
        self._arrivals, wake_up = os.pipe()
        os.set_blocking(wake_up, False)
        signal.set_wakeup_fd(wake_up, warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, self._in_main_thread)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        threading.Thread(target=self._hear, daemon=True, name="signals").start()

    def _in_main_thread(self, _number: int, _frame: object) -> None:
        if self.may_interrupt:
            raise SystemExit(EXIT_INTERRUPTED)

    def _hear(self) -> None:
        while arrived := os.read(self._arrivals, 1):
            if arrived[0] not in STOP_SIGNALS:
                continue
            time.sleep(ANSWERED_S)
            if not self._board.stop_asked or os.getppid() != self._agent:
                os._exit(EXIT_INTERRUPTED)
