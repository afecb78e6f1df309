"""Slurm, asked and told by its own programs: what becomes of jobs, and what that means for the runs that they are. No torch."""

from __future__ import annotations

import contextlib
import math
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec

from engine.errors import Problem, RequestError, RunError
from engine.events import State
from engine.run import RunFolder, RunLock, RunRecord, conclude

WARNING_S = 120
"""So long before its time is over a job is told, to stop and be queued again."""
WARNED_EARLIER_S = 60
"""Slurm may tell it so much earlier."""
ASKED_EVERY_S = 10.0
ANSWER_S = 15.0
WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
OVER = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"),
}
NO_REASON = ("", "None", "(null)")


@dataclass(frozen=True)
class Job:
    """What Slurm says of a job, in its own words. `reason` is why it waits or ended, `nodes` where it runs."""

    id: str
    state: str
    reason: str
    nodes: str
    name: str
    said: str
    """The state as it was told: accounting has more in it, such as by whom a job was cancelled."""

    @property
    def waits(self) -> bool:
        return self.state in WAITING

    @property
    def is_over(self) -> bool:
        """The last of it is gone."""
        return self.state in OVER

    @property
    def wait(self) -> str:
        """What it waits for, in a few words."""
        release = f" (scontrol release {self.id})" if "held" in self.reason.lower() else ""
        return f"waits: {self.reason}{release}" if self.reason not in NO_REASON else "waits"

    @property
    def end(self) -> tuple[State, str]:
        """Of a run whose job is over, and which could not say how it ended."""
        why = f" ({self.reason})" if self.reason not in NO_REASON else ""
        where = f", on {self.nodes}" if self.nodes not in NO_REASON else ""
        return "stopped" if self.state == "CANCELLED" else "failed", f"Slurm ended job {self.id}: {self.said}{why}{where}"


def check_programs(*names: str) -> None:
    """Raises RequestError where Slurm's programs cannot be found."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        fix = "do this on a host of the cluster, such as its login node"
        raise RequestError(Problem(f"Slurm is not here: there is no {' or '.join(missing)} on the PATH", fix=fix))


# Asking


def ask(ids: Collection[str]) -> dict[str, Job]:
    """Those of the jobs that Slurm knows, in one question. Raises RunError where it does not answer.

    Without accounting it forgets a job some minutes after its end.
    """
    wanted = ",".join(sorted(ids))
    try:
        told = _run("squeue", "--noheader", "--states=all", f"--jobs={wanted}", "--format=%i|%T|%r|%N|%j")
    except RunError as error:
        if "Invalid job id" not in str(error):  # which it says where it knows none of them
            raise
        told = ""
    found = read_jobs(told)
    if unknown := ",".join(sorted(set(ids) - found.keys())):
        with contextlib.suppress(RunError):  # there is no accounting here
            options = ("--noheader", "--parsable2", "--allocations", "--format=JobID,State,Reason,NodeList,JobName")
            found |= read_jobs(_run("sacct", *options, f"--jobs={unknown}"))
    return found


def read_jobs(text: str) -> dict[str, Job]:
    """By id, from lines `id|state|reason|nodes|name`; anything else is passed over."""
    found = {}
    for line in text.splitlines():
        number, *rest = line.split("|", 4)
        if number.isdigit() and len(rest) == 4 and rest[0]:
            said, reason, nodes, name = rest
            found[number] = Job(number, said.split()[0] if said.split() else "", reason, nodes, name, said)
    return found


def _run(program: str, *options: str) -> str:
    """What it wrote. Raises RunError with what it complained of."""
    try:
        done = subprocess.run([program, *options], capture_output=True, text=True, errors="replace", timeout=ANSWER_S, check=False)
    except FileNotFoundError:
        raise RunError(f"there is no {program} on the PATH here") from None
    except OSError as error:
        raise RunError(f"{program} cannot be run here: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise RunError(f"{program} gave no answer in {ANSWER_S:.0f} s") from None
    if done.returncode:
        raise RunError(f"{program}: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout


# Runs that are jobs


def is_open(record: RunRecord) -> bool:
    """Whether Slurm is to be asked about it: the record of a job's run has no end yet."""
    return bool(record.slurm_job) and record.ended is None


def judged(record: RunRecord, jobs: Mapping[str, Job]) -> RunRecord:
    """The record in the light of what Slurm says of the jobs that it was asked about."""
    if not is_open(record):
        return record
    job = jobs.get(record.slurm_job)
    if job is None or job.name != record.name:  # the same number, on another cluster
        if record.state == "running":
            return record
        gone = f"Slurm knows nothing of job {record.slurm_job}: it was long ago, or on another cluster"
        return msgspec.structs.replace(record, state="lost", error=gone)
    if job.is_over:
        state, cause = job.end
        return msgspec.structs.replace(record, state=state, error=cause, slurm_says="")
    if record.state == "running":  # it tells so itself, and Slurm's answer may be older
        return record
    if job.waits:
        return msgspec.structs.replace(record, state="queued", error=None, slurm_says=job.wait)
    if record.state == "queued":
        does = f"{'leaves' if job.state == 'COMPLETING' else 'starts on'} {job.nodes}"
        return msgspec.structs.replace(record, slurm_says=record.slurm_says or does)
    return msgspec.structs.replace(record, state="running", error=None)


def look_after(runs: Mapping[str, RunFolder]) -> dict[str, Job]:
    """What Slurm says of the jobs of these runs, by id. Where one is over and its run never said how it ended, that is written down.

    Raises RunError where Slurm does not answer.
    """
    jobs = ask(runs.keys()) if runs else {}
    for number, job in jobs.items():
        if job.is_over:
            _settle(runs[number], job)
    return jobs


_settling = threading.Lock()
"""A run's lock does not keep threads of one process apart."""


def _settle(run: RunFolder, job: Job) -> None:
    with _settling, contextlib.suppress(RequestError):  # it is not ours to write, or somebody works on it
        lock = RunLock(run)
        try:
            record = run.read()
            if is_open(record) and (record.slurm_job, record.name) == (job.id, job.name):
                conclude(run, *job.end)
        finally:
            lock.release()


def read(run: RunFolder) -> RunRecord:
    """As `RunFolder.read`; Slurm is asked where the run is a job of it, which may take seconds."""
    record = run.read()
    if is_open(record):
        with contextlib.suppress(RunError):  # then what the files say has to do
            record = judged(record, look_after({record.slurm_job: run}))
    return record


class JobWatch:
    """What Slurm says of runs that are its jobs, for those who cannot wait: it is asked in a thread, every ten seconds at most."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] | None = None
        self._asked: set[str] = set()
        self._asked_at = 0.0
        self._thread: threading.Thread | None = None

    def judged(self, found: Mapping[RunFolder, RunRecord]) -> dict[RunFolder, RunRecord]:
        """The records in the light of the last answer; until there is one, a run is taken for what it was."""
        runs = {record.slurm_job: run for run, record in found.items() if is_open(record)}
        if runs:
            self._look(runs)
        return {run: self._judged(record) if is_open(record) else record for run, record in found.items()}

    def _judged(self, record: RunRecord) -> RunRecord:
        if record.slurm_job not in self._asked:
            return msgspec.structs.replace(record, state="running", error=None) if record.state == "lost" else record
        return record if self._jobs is None else judged(record, self._jobs)

    def _look(self, runs: dict[str, RunFolder]) -> None:
        is_due = not self._asked >= runs.keys() or time.monotonic() - self._asked_at > ASKED_EVERY_S
        if is_due and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._ask, args=(runs,), daemon=True, name="slurm")
            self._thread.start()

    def _ask(self, runs: dict[str, RunFolder]) -> None:
        found = None
        try:
            with contextlib.suppress(RunError):
                found = look_after(runs)
        finally:
            self._jobs, self._asked, self._asked_at = found, set(runs), time.monotonic()


def stop(run: RunFolder, record: RunRecord) -> None:
    """Cancel its job where that waits; else ask the run to stop after its step. Raises RequestError where that cannot be."""
    number = record.slurm_job
    try:
        job = _job_of(record)
        if job.waits:
            _run("scancel", "--state=PENDING", number)  # never one that has begun since
            job = _job_of(record)
            if job.state == "CANCELLED":
                turn = "its next turn" if run.events.exists() else "it"
                conclude(run, "stopped", f"job {number} was cancelled before {turn} began")
                return
        if job.is_over:
            _settle(run, job)
        elif job.state == "COMPLETING":  # between two turns
            _run("scancel", number)
        else:
            _run("scancel", "--signal=INT", number)
    except RunError as error:
        problem = f"is job {number} of Slurm's, and cannot be stopped from here: {error}"
        fix = f"stop it on a host of its cluster (segtui stop, scancel --signal=INT {number}); delete it where that has forgotten it"
        raise RequestError(Problem(problem, str(run.path), fix=fix)) from None


def _job_of(record: RunRecord) -> Job:
    job = ask([record.slurm_job]).get(record.slurm_job)
    if job is None or job.name != record.name:
        raise RunError("Slurm does not know it here")
    return job


# From within a job


def requeue(number: str, restarts: int, *, has_begun: bool) -> str:
    """Have Slurm queue this job again, which ends its tasks, unless it is about to do so; nothing, or why the job has no other turn.

    `restarts` is how often it was queued again before this turn, `has_begun` whether this one came to train.
    """
    try:
        words = [word.partition("=") for word in _run("scontrol", "show", "job", "--oneliner", number).split()]
        said = {key: value for key, _, value in words}
        if int(said.get("Restarts", 0)) > restarts:
            return ""
        if said.get("JobState") != "RUNNING":
            return f"Slurm ended job {number}: cancelled, preempted for good or out of time"
        if not has_begun and seconds(said.get("TimeLimit", "")) - seconds(said.get("RunTime", "")) < WARNING_S + WARNED_EARLIER_S:
            return f"the time of job {number} was nearly over before training began. Raise launch.slurm.time ({said['TimeLimit']})"
        _run("scontrol", "requeue", number)
        return ""
    except RunError as error:
        return f"job {number} had to stop, and could not be queued again: {error}"


def seconds(clock: str) -> float:
    """Of a time as Slurm writes it, D-HH:MM:SS; infinite for a word such as UNLIMITED."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", clock)
    if found is None:
        return math.inf
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest
