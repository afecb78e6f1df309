"""A run without a screen: start or attach, follow its events, show them, and turn its end into an exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from engine import catalogue, launch, preset, slurm, slurm_job
from engine.checkup import Checkup, CheckupRequest, Report
from engine.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, Problem, RequestError, RunError
from engine.events import AnyEvent, RunEnded, Toggles, encode
from engine.launch import Attached, Followed, Launched
from engine.run import RunFolder, check_resumable, find_run
from engine.visible import visible
from engine.worker import AnyRequest, Request
from tui.run_state import clock

if TYPE_CHECKING:
    from engine.schema import Preset

POLL_S = 0.2
TELL_EVERY_S, PRINT_EVERY_S = 2.0, 10.0
"""The doctor's progress, on a terminal and in a file; what is quicker tells none."""
FINISHING_S = 30.0
"""After a run's end its process may still hand over to W&B; that is bounded there."""


class View(Protocol):
    """Shows events as they come."""

    def show(self, events: Sequence[AnyEvent]) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self, run: RunFolder | None) -> None: ...


def train(
    name: str,
    overrides: Sequence[str],
    runs: Path,
    *,
    debug: bool,
    deterministic: bool,
    private: bool,
    as_job: bool = False,
    as_json: bool,
) -> int:
    """`as_job`: Slurm runs it, as the preset's table `launch.slurm` says."""
    if not catalogue.is_cached():
        print("reading what torch, segmentation-models-pytorch and albumentations offer (once per version) ...", file=sys.stderr)
    table = preset.load(name, overrides)
    toggles = Toggles(debug, deterministic, private)
    if as_job:
        return _submit(slurm_job.as_job(table), toggles, runs.absolute(), as_json=as_json)
    return _launch(Request(table.model_dump(exclude_none=True), toggles, runs.absolute()), as_json=as_json)


def resume(name: str, overrides: Sequence[str], runs: Path, *, as_job: bool | None = None, as_json: bool) -> int:
    """`overrides` are of the table `launch`: where it goes on. `as_job`: as a Slurm job, or not; None: as it was."""
    run = find_run(name, runs)
    record = slurm.read(run)
    if record.state in ("running", "queued"):
        raise RequestError(Problem("is running", file=str(run.path), fix=f"watch it: segtui attach {run.path}"))
    check_resumable(run, record)
    table = preset.load(run.preset, overrides, environment={}, run_programs=False)
    runs = run.path.parent.absolute()
    if as_job or (as_job is None and record.slurm_job):
        return _submit(slurm_job.as_job(table), record.toggles, runs, resume=run.path.absolute(), as_json=as_json)
    return _launch(Request(table.model_dump(exclude_none=True), record.toggles, runs, resume=run.path.absolute()), as_json=as_json)


def attach(name: str, runs: Path, *, as_json: bool) -> int:
    return _watch(find_run(name, runs), _view(as_json))


def _watch(run: RunFolder, view: View, *, from_now: bool = False) -> int:
    """Until it is over, or until the user leaves: it goes on without us."""
    followed = Attached(run, from_now=from_now)
    left: list[bool] = []
    signal.signal(signal.SIGINT, lambda _number, _frame: left.append(True))
    ended = _follow(followed, view, left)
    view.close(run)
    if ended is None:
        record = run.read()
        job = f" as job {record.slurm_job} of Slurm's" if record.slurm_job else ""
        print(f"left {visible(str(run.path))} {record.state}{job}", file=sys.stderr)
        return EXIT_DONE
    return launch.exit_code(ended)


def stop(name: str, runs: Path) -> int:
    run = find_run(name, runs)
    launch.stop(run)
    record = run.read()
    if record.ended is not None:  # a job that waited
        print(f"{visible(str(run.path))} is {record.state}: {record.error}", file=sys.stderr)
        return EXIT_DONE
    print(f"asked {visible(str(run.path))} to stop after its step ...", file=sys.stderr)
    record = launch.wait_until_over(run, wait_s=120)
    if record.state in ("running", "queued"):
        raise RunError(f"{run.path} is still busy with its step; it will stop after it")
    print(f"{visible(str(run.path))} is {record.state}", file=sys.stderr)
    return EXIT_DONE


def _launch(request: Request, *, as_json: bool) -> int:
    view = _view(as_json)
    if request.resume is None:
        try:
            request = _examined(request, view)
        except BaseException:
            view.close(None)
            raise
    return run(request, view, "stopping after this step; once more ends at once")


def _submit(table: Preset, toggles: Toggles, runs: Path, *, resume: Path | None = None, as_json: bool) -> int:
    """Hand a run to Slurm and follow it; Ctrl-C leaves it to Slurm."""
    slurm.check_programs("sbatch", "squeue", "scancel")
    request = Request(table.model_dump(exclude_none=True), toggles, runs, resume=resume)
    view = _view(as_json)
    try:
        run = slurm_job.submit(request if resume else _examined(request, view, elsewhere=True))
    except BaseException:
        view.close(None)
        raise
    view.note(f"{visible(run.path.name)} is job {run.read().slurm_job} of Slurm's. Ctrl-C leaves it going; `segtui stop` stops it")
    return _watch(run, view, from_now=resume is not None)


def _examined(request: Request, view: View, *, elsewhere: bool = False) -> Request:
    """The request with what the doctor warns of. Raises RequestError with what it would refuse, KeyboardInterrupt where it is stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = told = time.monotonic()
    every = TELL_EVERY_S if sys.stderr.isatty() else PRINT_EVERY_S
    try:
        with closing(iter(Checkup(CheckupRequest(request.preset, request.toggles, str(request.runs), elsewhere=elsewhere)))) as answers:
            for answer in answers:
                if isinstance(answer, Report):
                    if answer.is_refused:
                        raise RequestError(Problem(finding.text) for finding in answer.findings if finding.level == "error")
                    if told > began:
                        view.note("checked" if elsewhere else "checked; starting: importing torch ...")
                    return replace(request, warnings=answer.warnings)
                if time.monotonic() - told > every:
                    told = time.monotonic()
                    left = f", {clock((answer.total - answer.done) / answer.per_s)} left" if answer.per_s else ""
                    view.note(f"checking before the start: {answer.task} {answer.done}/{answer.total}{left}")
    except RunError as error:  # ours or the machine's, and no reason not to train
        return replace(request, warnings=(f"started without a check of preset, data and machine: {error}",))
    raise AssertionError("a checkup that was not stopped ends with a report or an exception")


def run(request: AnyRequest, view: View, stopping: str) -> int:
    """Start a request's process, show what it tells, and stop it when asked to; the exit code. `stopping` says what that does."""
    launched = Launched(request)
    asked = 0

    def on_stop(_number: int, _frame: object) -> None:
        nonlocal asked
        asked += 1
        launched.stop()
        view.note(stopping if asked == 1 else "ending at once")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_stop)
    try:
        ended = _follow(launched, view, [])
        launched.join(FINISHING_S)
        view.close(launched.run)
        code = launched.exit_code
        return EXIT_INTERRUPTED if code == EXIT_INTERRUPTED else launch.exit_code(ended) if ended else EXIT_FAILED
    except RequestError:
        view.close(None)
        raise
    except RunError:
        view.close(None)
        if asked:
            return EXIT_INTERRUPTED
        raise
    except BrokenPipeError:
        os._exit(EXIT_DONE)  # nobody reads us any more; the run goes on
    except BaseException:  # noqa: BLE001  whatever it is, it is told, and the run goes on without us
        with contextlib.suppress(OSError):
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(EXIT_FAILED)  # a usual exit would wait for the run, which goes on


def _follow(followed: Followed, view: View, left: list[bool]) -> RunEnded | None:
    """Show events until the run is over (its last event) or the user leaves (None)."""
    ended: RunEnded | None = None
    while not left:
        events = followed.poll(POLL_S)
        view.show(events)
        ended = next((event for event in reversed(events) if isinstance(event, RunEnded)), ended)
        if followed.is_over:
            return ended
    return None


def _view(as_json: bool) -> View:
    if as_json:
        return JsonView()
    from tui.headless_view import PlainView, TerminalView

    return TerminalView() if sys.stderr.isatty() else PlainView()


class JsonView:
    """One event a line on stdout, and nothing else."""

    def show(self, events: Sequence[AnyEvent]) -> None:
        for event in events:
            sys.stdout.buffer.write(encode(event) + b"\n")
        sys.stdout.buffer.flush()

    def note(self, text: str) -> None:
        print(text, file=sys.stderr)

    def close(self, run: RunFolder | None) -> None:
        pass
