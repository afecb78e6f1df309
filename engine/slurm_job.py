"""A run as a Slurm job: how it is submitted, and what its tasks execute, one on each node.

The first turn of the job begins the run; each later one goes on with it. Slurm sends SIGTERM to every process of a task: before
the job's time is over, when it is preempted or requeued, when it is cancelled. SIGINT is `segtui stop`.
After either the run stops after its step, and this decides whether it is over.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import time
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from engine import atomic, errors, slurm
from engine.errors import Problem, RequestError
from engine.events import EventLog, Message
from engine.reporter import Reporter
from engine.run import SLURM_JOB, RunFolder, RunLock, RunRecord, claim, conclude
from engine.streams import detach_streams, log_to
from engine.worker import Request, StopSignal

if TYPE_CHECKING:
    from engine.schema import Preset, SlurmTable

FIRST_PORT, PORTS = 20_000, 10_000
"""Where the nodes of a job meet: below those that the system gives away itself."""
LAST_TURN_S = 120.0
"""What is left of the turn before, on a node that Slurm took for dead, may take so long to end."""


def as_job(table: Preset) -> Preset:
    """The preset as a job runs it: as many devices as it asks for. Raises RequestError where the two do not fit."""
    from engine.schema import SlurmTable
    from engine.sharing import check_shares

    launch = table.launch
    asked = launch.slurm or SlurmTable()
    devices, gpus = launch.devices, asked.gpus_per_node
    if gpus and (devices == "auto" or "devices" not in launch.model_fields_set):
        devices = gpus
    if gpus and devices != gpus:
        fix = f'write launch.devices = "auto", or {gpus}'
        raise RequestError(Problem(f"is {devices}, and the job asks for {gpus} GPUs", key="launch.devices", fix=fix))
    check_shares(table, launch.nodes * (1 if devices == "auto" else devices))
    return table.model_copy(update={"launch": launch.model_copy(update={"slurm": asked, "devices": devices})})


def submit(request: Request) -> RunFolder:
    """Claim the run's folder, or take that of the run to be resumed, and hand it to Slurm; it is listed as queued from then on.

    Raises RequestError where Slurm refuses; nothing is left of the run then, or it is as it was.
    """
    from engine import preset

    slurm.check_programs("sbatch", "squeue", "scancel")
    table = preset.from_dict(request.preset)
    asked = table.launch.slurm
    assert asked is not None  # `as_job` saw to it
    before = RunFolder(request.resume).read() if request.resume else None
    run = RunFolder(request.resume) if request.resume else claim(request.runs, table.run_name, debug=request.toggles.debug)
    try:
        unfinished = {"state": "queued", "ended": None, "error": None, "traceback": None, "slurm_job": ""}
        run.write(msgspec.structs.replace(before or _new_record(run, table, request), **unfinished | _submitter()))
        number = _sbatch(run, replace(request, claimed=run.path, resume=None), table.launch.nodes, asked)
    except BaseException:
        if before:
            run.write(before)
        else:
            shutil.rmtree(run.path, ignore_errors=True)
        raise
    atomic.write(run.preset, preset.to_toml(table))
    if not (now := run.read()).slurm_job:  # a job that has begun has written it itself
        run.write(msgspec.structs.replace(now, state="queued", error=None, slurm_job=number))
    return run


def _new_record(run: RunFolder, table: Preset, request: Request) -> RunRecord:
    return RunRecord(
        name=run.path.name,
        state="queued",
        preset=table.name,
        model=table.run_name,
        toggles=request.toggles,
        created=time.time(),
        epochs=table.train.epochs,
        warnings=list(request.warnings or ()),
        **_submitter(),
    )


def _submitter() -> dict[str, Any]:
    """Who has the run until its job begins."""
    process = psutil.Process()
    return {"host": socket.gethostname(), "pid": process.pid, "pid_started": process.create_time(), "booted": psutil.boot_time()}


def _sbatch(run: RunFolder, request: Request, nodes: int, asked: SlurmTable) -> str:
    """Submit one task for each node; the job's id."""
    os.environ.setdefault("SUBMITIT_LOG_LEVEL", "WARNING")  # it would log into stdout, which is data
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    options = {
        "partition": asked.partition,
        "gpus_per_node": asked.gpus_per_node,
        "cpus_per_task": asked.cpus_per_task,
        "mem": asked.memory,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "srun_args": [f"--cpus-per-task={asked.cpus_per_task}"] if asked.cpus_per_task else [],  # srun does not inherit it
    }
    executor = SlurmExecutor(folder=run.path / "slurm", python=shlex.quote(sys.executable))
    extra = {name.replace("_", "-"): value for name, value in asked.extra.items() if value is not False}
    executor.update_parameters(
        job_name=run.path.name,
        nodes=nodes,
        ntasks_per_node=1,
        time=asked.minutes,
        stderr_to_stdout=True,
        additional_parameters={"signal": f"TERM@{slurm.WARNING_S}", "requeue": True, **extra},
        **{name: value for name, value in options.items() if value},
    )
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # where submitit repeats what it raises
            return executor.submit(run_turn, request).job_id
    except (FailedJobError, FailedSubmissionError) as error:
        said = " ".join(re.sub(r"(sbatch: )?error: ", "", str(error)).split())
        raise RequestError(Problem(f"Slurm refuses the job: {said}", key="launch.slurm", fix="`sinfo` lists its partitions")) from None


class JobSignals(StopSignal):
    """SIGINT twice ends at once; SIGTERM comes several times, and what does not end in time is killed anyway."""

    by_user = False

    def _in_main_thread(self, number: int, frame: object) -> None:
        self.by_user = self.by_user or (number == signal.SIGINT and self.work is None)
        super()._in_main_thread(number, frame)

    def _count(self) -> None:
        while arrived := os.read(self._arrivals, 1):
            if arrived[0] == signal.SIGINT:
                if self.by_user and self.asked and self.work is not None and not self.work.is_over:
                    self.work.end_at_once()
                self.by_user = self.asked = True
            elif arrived[0] == signal.SIGTERM:
                self.asked = True


def run_turn(request: Request) -> None:
    """One turn of the run in `request.claimed`. Exits with the run's code, which Slurm shows."""
    assert request.claimed is not None
    os.environ[SLURM_JOB] = os.environ["SLURM_JOB_ID"]
    folder = RunFolder(request.claimed)
    stop = JobSignals()
    try:
        code = _train(_this_turn(request, folder), folder, stop)
        sys.exit(_after(folder, stop) if code in (errors.EXIT_STOPPED, errors.EXIT_INTERRUPTED) else code)
    finally:
        for child in multiprocessing.active_children():
            child.kill()  # as in the worker


def _this_turn(request: Request, folder: RunFolder) -> Request:
    """Where its nodes meet, whether there is something to go on from, and what of the last turn has to be said."""
    warnings = request.warnings
    if _restarts():  # of the doctor's warnings the first turn has told
        is_cut_off = folder.read().state != "queued"
        warnings = ("the job's last turn was cut off, as where a node goes down; it goes on from the last saved state",) * is_cut_off
    launch = dict(request.preset["launch"])
    if launch["nodes"] > 1:
        port = FIRST_PORT + (int(os.environ["SLURM_JOB_ID"]) + _restarts()) % PORTS
        launch["rendezvous"] = f"{os.environ['SLURM_LAUNCH_NODE_IPADDR']}:{port}"  # of the job's first node: it needs no name
    resume = folder.path if folder.resume.exists() else None
    return replace(request, preset=request.preset | {"launch": launch}, resume=resume, warnings=warnings)


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


def _train(request: Request, folder: RunFolder, stop: JobSignals) -> int:
    early_output = detach_streams()
    try:
        _wait_for_last_turn(folder)
        from engine.group import open_training

        work = open_training(request, Reporter(None), stop)
    except SystemExit:
        return errors.EXIT_INTERRUPTED
    except RequestError as error:
        return _refused(folder, str(error), errors.EXIT_REQUEST)
    except Exception as error:  # noqa: BLE001  a defect of ours, or a machine that fails: the run must have it
        from engine.failures import in_one_line

        traceback.print_exc()
        return _refused(folder, f"{in_one_line(error, None)} ({folder.log.name} has more)", errors.EXIT_FAILED)
    else:
        stop.work = work
    finally:
        log_to(folder.log, early_output)
    return work.run_to_end()


def _wait_for_last_turn(folder: RunFolder) -> None:
    """Its lock is tried, and not kept. Raises RequestError where somebody keeps it."""
    deadline = time.monotonic() + LAST_TURN_S
    while _leads():
        try:
            RunLock(folder).release()
            return
        except RequestError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _leads() -> bool:
    """Of the job's tasks this is the first: it speaks for those that have not begun the run."""
    return os.environ.get("SLURM_PROCID", "0") == "0"


def _refused(folder: RunFolder, why: str, code: int) -> int:
    if _leads():
        conclude(folder, "failed", why)
    return code


def _after(folder: RunFolder, stop: JobSignals) -> int:
    """The run has stopped after its step, or before it began: over, or waiting for its next turn?"""
    record, has_begun = folder.read(), stop.work is not None
    is_ours = (record.pid, record.host) == (os.getpid(), socket.gethostname()) if has_begun else _leads()
    if record.ended is not None or not is_ours:
        return errors.EXIT_STOPPED
    number = os.environ["SLURM_JOB_ID"]
    if stop.by_user:
        conclude(folder, "stopped", None if has_begun else "asked to stop before training began")
    elif why := slurm.requeue(number, _restarts(), has_begun=has_begun):
        conclude(folder, "stopped", why)
    else:
        folder.write(msgspec.structs.replace(record, state="queued", error=None, slurm_says=""))
        with contextlib.closing(EventLog(folder.events)) as log:
            text = f"Slurm wants its nodes back, or the time is nearly over: job {number} waits for its next turn, and goes on from here"
            log.append(Message(level="info", text=text, seq=log.last_seq + 1, time=time.time()))
    return errors.EXIT_STOPPED
