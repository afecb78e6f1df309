"""A run's folder on disk: its name, its record, its state, and the list of all runs and checkpoints."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil

from engine import atomic
from engine.checkpoint_header import CheckpointHeader, HeaderError, read_header
from engine.errors import Problem, RequestError, did_you_mean
from engine.events import EventLog, RunEnded, State, Toggles

FORMAT = 1
SUFFIX = ".safetensors"
HEARTBEAT_S = 2.0
SILENT_S = 60.0
"""A run on another machine that has said nothing for this long is taken for lost."""
TICKET = "SEGTUI_TICKET"
"""The variable by which a queue knows the process of an entry, and its run."""
SLURM_JOB = "SEGTUI_SLURM_JOB"
"""The variable by which a run knows that it is a Slurm job of its own, and not in somebody's session there."""


class RunRecord(msgspec.Struct, kw_only=True):
    """run.json. Times are unix seconds. `pid_started` tells a process from a later one with the same number; `booted` is the
    system's start by the same clock, which may be put right while the run goes on (0 in records of before it was kept). `ticket` is
    what a queue gave it. `parts` is into how many a batch is cut, one after the other, since it did not fit into memory.
    `slurm_job` is the id of the Slurm job that it is; `slurm_says` is what that does where it does not train, as Slurm was asked.
    """

    format: int = FORMAT
    name: str
    state: State
    preset: str
    model: str
    toggles: Toggles
    host: str
    pid: int
    pid_started: float
    booted: float = 0.0
    created: float
    ended: float | None = None
    epoch: int = 0
    epochs: int
    best_epoch: int = 0
    best_mIoU: float | None = None
    device: str = ""
    encoder_weights: str | None = None
    warnings: list[str] = []
    versions: dict[str, str] = {}
    git_commit: str | None = None
    data: dict[str, str] = {}
    wandb_id: str = ""
    ticket: str = ""
    resumed: int = 0
    parts: int = 1
    slurm_job: str = ""
    slurm_says: str = ""
    error: str | None = None
    traceback: str | None = None


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run."""

    path: Path

    @property
    def preset(self) -> Path:
        return self.path / "preset.toml"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def resume(self) -> Path:
        return self.checkpoints / "resume.pt"

    @property
    def images(self) -> Path:
        return self.path / "images"

    def read(self) -> RunRecord:
        """The record with its true state: a run whose process is gone is lost. Raises RequestError where unreadable."""
        file = self.path / "run.json"
        try:
            record = msgspec.json.decode(file.read_bytes(), type=RunRecord)
        except OSError as error:
            raise RequestError(Problem(f"cannot be read: {error.strerror}", file=str(file))) from None
        except (ValueError, RecursionError) as error:
            raise RequestError(Problem(f"is not a run's record: {error}", file=str(file))) from None
        if record.state in ("running", "queued") and not self._is_alive(record):
            record.state = "lost"
            record.error = record.error or "its process is gone, and it never said that it ended"
        return record

    def write(self, record: RunRecord) -> None:
        atomic.write(self.path / "run.json", msgspec.json.format(msgspec.json.encode(record), indent=2))

    def _is_alive(self, record: RunRecord) -> bool:
        if record.slurm_job and record.state == "queued":
            return True  # only Slurm knows better: `engine.slurm` asks it
        if record.host == socket.gethostname():
            return process_is(record.pid, record.pid_started, record.booted)
        try:
            return time.time() - self.events.stat().st_mtime < SILENT_S
        except FileNotFoundError:
            return time.time() - record.created < SILENT_S


def process_is(pid: int, started: float, booted: float = 0.0) -> bool:
    """Whether `pid` runs and is the process that started then (a number is used again after some time).

    `booted` is the system's start by the clock that told `started`: where that clock has been put forward or back since, both moved.
    """
    try:
        process = psutil.Process(pid)
        moved = psutil.boot_time() - booted if booted else 0.0
        return bool(abs(process.create_time() - moved - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def claim(runs: Path, name: str, *, debug: bool) -> RunFolder:
    """A new folder for a run: `name`, or `name_exp2` and so on. A debug run replaces the last one of its name.

    Making the folder is the claim, so two runs that start at once get two names. Raises RequestError where the
    folder of runs cannot be written, or the debug run to be replaced still runs.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
        if debug:
            return _claim_debug(runs / f"debug_{name}")
        for number in range(1, 100_000):
            folder = runs / (name if number == 1 else f"{name}_exp{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return RunFolder(folder)
    except OSError as error:
        raise RequestError(Problem(f"cannot be written: {error.strerror}", file=str(runs), fix="name another folder with --runs")) from None
    raise RequestError(Problem(f"has 100,000 runs named {name}", file=str(runs)))


def _claim_debug(folder: Path) -> RunFolder:
    if folder.exists():
        previous = RunFolder(folder)
        if (folder / "run.json").exists() and previous.read().state in ("running", "queued"):
            raise RequestError(Problem("this debug run is still running", file=str(folder), fix=f"stop it first: segtui stop {folder}"))
        RunLock(previous)  # refuses while a process works on it that has no record yet
        replaced = folder.with_name(f".{folder.name}.replaced-{os.getpid()}")
        folder.rename(replaced)
        shutil.rmtree(replaced)
    folder.mkdir()
    return RunFolder(folder)


class RunLock:
    """Held by the one process that writes to a run; the system drops it when that process is gone, however it ended.

    A record lock, not `flock`: data-loader workers are forks and must not inherit it.
    """

    def __init__(self, folder: RunFolder) -> None:
        try:
            self._file = (folder.path / ".lock").open("a")
        except OSError as error:
            raise RequestError(Problem(f"cannot be written: {error.strerror}", file=str(folder.path))) from None
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise RequestError(
                Problem("another process is running this run", file=str(folder.path), fix=f"watch it: segtui attach {folder.path}")
            ) from None

    def release(self) -> None:
        """Before this process is gone."""
        self._file.close()


def conclude(run: RunFolder, state: State, cause: str | None) -> RunEnded:
    """Write the end that a dead worker could not write; it was the files' only writer, and it is gone.

    Where they cannot be written the event is told all the same: a record of a process that is gone reads as lost.
    """
    record = run.read()
    event = RunEnded(state=state, error=cause, time=time.time())
    record.state, record.error, record.ended, record.slurm_says = state, cause, event.time, ""
    try:
        with closing(EventLog(run.events)) as log:
            event.seq = log.last_seq + 1
            log.append(event)
        run.write(record)
    except OSError as error:
        told = f"{cause}; and this" if cause else "its end"
        event.error = f"{told} could not be written to {run.path}: {error.strerror}"
    return event


def find_run(name: str, runs: Path) -> RunFolder:
    """A run by its folder or by its name below `runs`. Raises RequestError with the nearest name."""
    for path in (Path(name), runs / name):
        if os.path.isfile(path / "run.json"):  # noqa: PTH113  pathlib's raises for a name that is too long
            return RunFolder(path)
    names = [run.path.name for run in all_runs(runs)]
    raise RequestError(
        Problem("there is no such run", file=name, fix=did_you_mean(name, names) or f"`segtui runs --runs {runs}` lists them")
    )


def check_resumable(run: RunFolder, record: RunRecord) -> None:
    """Raises RequestError where there is nothing to go on with."""
    if record.state == "finished":
        raise RequestError(Problem("has finished; there is nothing left to resume", file=str(run.path)))
    if record.toggles.debug:
        raise RequestError(Problem("is a debug run, which saves nothing to resume from", file=str(run.path)))
    if not run.resume.exists():
        fix = "a run can be resumed once it has ended an epoch or was stopped; start it again"
        raise RequestError(Problem("has no state to resume from", file=str(run.path), fix=fix))


def all_runs(runs: Path) -> Iterator[RunFolder]:
    """Every folder with a record, in no particular order; an absent folder has none."""
    if runs.is_dir():
        with os.scandir(runs) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and os.path.isfile(f"{entry.path}/run.json"):  # noqa: PTH113  a stat of a long list
                    yield RunFolder(Path(entry.path))


class EndedRuns:
    """Remembers the records of runs that have ended: one whose file has not changed costs a stat."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int], RunRecord]] = {}

    def read(self, run: RunFolder) -> RunRecord:
        """As `RunFolder.read`."""
        try:
            status = os.stat(f"{run.path}/run.json")  # noqa: PTH116  of a long list
        except OSError:
            return run.read()
        stamp = (status.st_mtime_ns, status.st_ino)
        known = self._known.get(run.path)
        if known is not None and known[0] == stamp:
            return known[1]
        record = run.read()
        if record.state in ("finished", "stopped", "failed"):
            self._known[run.path] = (stamp, record)
        return record


@dataclass(frozen=True)
class CheckpointRow:
    """A checkpoint file; `header` is None and `problem` says why where it cannot be used."""

    file: str
    """Its path: a long list has no time for thousands of `Path`."""
    run: str
    size: int
    modified: float
    header: CheckpointHeader | None
    problem: str = ""

    @property
    def path(self) -> Path:
        return Path(self.file)

    @property
    def name(self) -> str:
        """As in `best` or `epoch_003`."""
        return self.file.rpartition("/")[2].removesuffix(SUFFIX)

    def row(self) -> dict[str, Any]:
        """Plain values for a listing."""
        header = self.header
        return {
            "run": self.run,
            "path": self.file,
            "kind": header.kind if header else None,
            "epoch": header.epoch if header else None,
            "mIoU": header.mIoU if header else None,
            "model": f"{header.preset['model']['type']}-{header.preset['model']['encoder_name']}" if header else None,
            "preset": header.preset.get("name") if header else None,
            "classes": header.classes if header else None,
            "IoU": header.IoU if header else None,
            "bytes": self.size,
            "modified": self.modified,
            "problem": self.problem or None,
        }


def all_checkpoints(runs: Path) -> list[CheckpointRow]:
    """The checkpoints of all runs, best first; those that cannot be used last."""
    return sorted(
        checkpoint_rows(runs), key=lambda row: (row.header is None, -((row.header and row.header.mIoU) or 0.0), row.run, row.name)
    )


def checkpoint_rows(runs: Path, known: Mapping[str, CheckpointRow] | None = None) -> Iterator[CheckpointRow]:
    """The checkpoints of all runs, in no particular order. A file that is as it was when `known` (by path) was read is not read again."""
    known = known or {}
    for run in all_runs(runs):
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError), os.scandir(run.checkpoints) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX):
                    yield _checkpoint_row(entry, run.path.name, known.get(entry.path))


def _checkpoint_row(entry: os.DirEntry[str], run: str, known: CheckpointRow | None) -> CheckpointRow:
    file = entry.path
    try:
        status = entry.stat()
    except OSError as error:
        return CheckpointRow(file, run, 0, 0.0, None, f"cannot be read: {error.strerror}")
    if known and (known.size, known.modified) == (status.st_size, status.st_mtime):
        return known
    try:
        return CheckpointRow(file, run, status.st_size, status.st_mtime, read_header(file))
    except HeaderError as error:
        return CheckpointRow(file, run, status.st_size, status.st_mtime, None, str(error))
