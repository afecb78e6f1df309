"""One process's work on one run: open it (or refuse), train, save, and say how it ended."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import shutil
import socket
import subprocess
import time
import traceback
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
import torch

from engine import atomic, errors, preset
from engine.checkpoint import save_resume, save_weights
from engine.checkpoint_header import CheckpointHeader
from engine.dataset import start_workers
from engine.device import device_name, is_out_of_memory
from engine.distributed import ALONE, Ranks
from engine.errors import Problem, RequestError, RunError, Stopped
from engine.events import Checkpoint, EventLog, Images, Message, RunEnded, RunStarted, SavedWeights, State, Validation
from engine.failures import CANNOT_WRITE, in_one_line
from engine.overlays import draw_overlays, save_overlays
from engine.prepare import Setup, prepare
from engine.reporter import Reporter, task_progress
from engine.resuming import ResumeState, preset_hash, restore
from engine.run import SLURM_JOB, TICKET, RunFolder, RunLock, RunRecord, claim
from engine.schema import Preset
from engine.snapshot import Snapshots
from engine.system import Heartbeat, out_of_memory_kills
from engine.tracking import Tracker, TrackerSettings
from engine.train import Trainer, Validated
from engine.write_behind import WriteBehind

if TYPE_CHECKING:
    from engine.worker import Request

MOST_PARTS = 8
"""Of a batch: it is halved three times at most."""
VERSIONS = ("segtui", "torch", "torchvision", "segmentation-models-pytorch", "timm", "albumentations", "opencv-python-headless", "numpy")


def open_session(
    request: Request, report: Reporter, stop_asked: Callable[[], bool], ranks: Ranks = ALONE, *, halve: bool = False
) -> Session:
    """Check everything, then claim the run's folder. Raises RequestError, having written nothing but caches.

    `halve`: go on with batches in twice as many parts as before, where that can be.
    """
    table = preset.from_dict(request.preset)
    resumed = ResumeState(RunFolder(request.resume), table) if request.resume else None
    parts = _parts(table, ranks, resumed.record.parts if resumed else 1, halve=halve)
    setup = prepare(table, request.toggles, request.runs / ".cache", task_progress(report), ranks, parts)
    setup.warnings += setup.noticed if request.warnings is None else request.warnings
    if resumed:
        resumed.check_data(setup)
        setup.warnings += resumed.notes(setup)
    if resumed:
        run = resumed.run
    else:
        run = RunFolder(request.claimed) if request.claimed else claim(request.runs, table.run_name, debug=request.toggles.debug)
    try:
        return Session(setup, run, resumed, report, stop_asked)
    except BaseException as error:
        if resumed:
            with contextlib.suppress(OSError):  # it says what it said before where it cannot be written
                run.write(resumed.record)
        elif not request.claimed:
            shutil.rmtree(run.path, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in CANNOT_WRITE:
            fix = "free some space there, or name another folder with --runs"
            raise RequestError(Problem(f"cannot be written: {error.strerror}", file=str(run.path), fix=fix)) from None
        raise


class Session:
    """The run while this process works on it."""

    def __init__(self, setup: Setup, run: RunFolder, resumed: ResumeState | None, report: Reporter, stop_asked: Callable[[], bool]) -> None:
        self.setup, self.run, self.report = setup, run, report
        self.lock = resumed.lock if resumed else RunLock(run)
        self.trainer = Trainer(setup, report, stop_asked, self.keep, partial(self.save, [], resume=True))
        self.kills = out_of_memory_kills()
        self.snapshots, self.writer = Snapshots(), WriteBehind()
        self.last_validation: Validation | None = None
        if resumed:
            restore(self.trainer, run, resumed.state)
            remove_leftovers(run)
        else:
            atomic.write(run.preset, preset.to_toml(setup.preset))
            run.images.mkdir(exist_ok=True)  # a job may have begun before, and kept nothing to resume from
            if not setup.toggles.debug:
                run.checkpoints.mkdir(exist_ok=True)
        self.record = self._record(resumed.record if resumed else queued_record(run))
        run.write(self.record)
        self.next_seq = report.open(EventLog(run.events))
        start_workers(setup.train_loader, setup.batches)
        start_workers(setup.val_loader, setup.val_batches)
        self.tracker = self._tracker(resumed is not None)

    @property
    def folder(self) -> Path | None:
        return self.run.path

    @property
    def is_over(self) -> bool:
        return self.record.ended is not None

    def end_at_once(self) -> None:
        try:
            self.end("stopped", "ended at once by a second signal; the steps since the last saved state are not kept")
        finally:
            os._exit(errors.EXIT_INTERRUPTED)

    def run_to_end(self) -> int:
        """Train until something ends it; the exit code."""
        heartbeat = Heartbeat(self.report)
        try:
            self.tell_start()
            state = self.train_and_save()
            if state == "stopped" and self.record.slurm_job:
                self.hand_back()
            else:
                self.end(state)
            return errors.EXIT_DONE if state == "finished" else errors.EXIT_STOPPED
        except Exception as error:  # whatever it was: the record, the log and the listener must have it
            self.writer.settle()
            if self.is_worth_another_try(error):
                raise
            self.fail(error)
            return errors.EXIT_FAILED
        finally:
            heartbeat.stop()
            self.close_loaders()
            self.tracker.finish(failed=self.record.state == "failed")

    def tell_start(self) -> None:
        self.report(self._started())
        for text in self.setup.warnings:
            self.report(Message(level="warning", text=text))
        for text in self.setup.notes:
            self.report(Message(level="info", text=text))

    def train_and_save(self) -> State:
        """Raises whatever ends the training, or the saving, badly."""
        try:
            self.trainer.train()
        except Stopped:
            self.save([], resume=True)
            self.writer.wait()
            return "stopped"
        self.save([("last", "last")], resume=False)
        self.writer.wait()
        return "finished"

    def fail(self, error: Exception) -> None:
        """Say why it ended wherever that can still be written: the disk may be what failed."""
        cause, trace = self._explained(error), traceback.format_exc()
        with contextlib.suppress(OSError):
            traceback.print_exc()
        try:
            self.end("failed", cause, trace)
        except OSError:  # the record could not be written; the log or the listener may still take it
            with contextlib.suppress(OSError):
                self.report(RunEnded(state="failed", error=cause, traceback=trace))

    def is_worth_another_try(self, error: Exception) -> bool:
        """In fresh processes: with smaller parts where memory ran out; as before where another rank may have died."""
        ranks = self.setup.ranks
        if is_out_of_memory(error):
            return ranks.can_restart and can_halve(self.setup.preset, self.setup.parts, ranks)
        is_explained = isinstance(error, RunError) or getattr(error, "errno", None) in CANNOT_WRITE
        return ranks.count > 1 and not is_explained

    def close_loaders(self) -> None:
        """Let the loader workers end in their own way; what does not is killed with the process."""
        del self.setup.train_loader, self.setup.val_loader

    def keep(self, trainer: Trainer, validated: Validated | None) -> None:
        """After an epoch: the best weights, every n-th epoch's, the state to resume from, the pictures, the record."""
        epoch = trainer.at.epoch - 1
        every = self.setup.preset.train.save_interval
        if validated:
            self.last_validation = validated.event
        files: list[tuple[SavedWeights, str]] = []
        if validated and validated.event.best:
            files.append(("best", "best"))
        if every and epoch % every == 0:
            files.append(("interval", f"epoch_{epoch:03d}"))
        self.record.epoch, self.record.best_epoch, self.record.best_mIoU = epoch, trainer.at.best_epoch, trainer.at.best_mIoU
        self.save(files, resume=True)
        if validated:
            images = draw_overlays(trainer, validated)
            save_overlays(self.run.images, images, self.setup.classes)
            self.tracker.images(epoch, trainer.at.step, images)

    def save(self, files: list[tuple[SavedWeights, str]], *, resume: bool) -> None:
        """Write the weights as each of `files` (kind, name), the state to resume from, then the record: as they are now,
        but behind the loop. Raises what the last call failed with."""
        self.writer.wait()
        record = msgspec.structs.replace(self.record)
        if self.setup.toggles.debug:
            self.run.write(record)
            return
        at = self.trainer.at
        finished = at.epoch if at.batch else at.epoch - 1
        taken = self.snapshots.take({"weights": self.setup.evaluated.state_dict(), "resume": self._resume_state() if resume else None})
        described = [(kind, name, self._header(kind, at.epoch - 1)) for kind, name in files]

        def write() -> None:
            self.snapshots.wait()
            for kind, name, header in described:
                path = self.run.checkpoints / f"{name}.safetensors"
                save_weights(path, taken["weights"], header)
                self.report(Checkpoint(kind=kind, path=str(path), epoch=header.epoch, mIoU=header.mIoU))
            if resume:
                save_resume(self.run.resume, taken["resume"])
                self.report(Checkpoint(kind="resume", path=str(self.run.resume), epoch=finished, mIoU=None))
            self.run.write(record)

        self.writer.start(write)

    def _header(self, kind: SavedWeights, epoch: int) -> CheckpointHeader:
        setup = self.setup
        # Interval epochs that were not validated have no figures.
        event = self.last_validation if self.last_validation and (kind == "last" or self.last_validation.epoch == epoch) else None
        return CheckpointHeader(
            segtui=version("segtui"),
            kind=kind,
            preset=setup.preset.model_dump(exclude_none=True),
            classes=setup.classes,
            mean=list(setup.pretraining.mean),
            std=list(setup.pretraining.std),
            epoch=epoch,
            mIoU=event.mIoU if event else None,
            IoU=event.IoU if event else [],
        )

    def _resume_state(self) -> dict[str, Any]:
        toggles = self.setup.toggles
        return {
            "trainer": self.trainer.state_dict(),
            "random": self.trainer.random[0],
            "random_of_others": self.trainer.random[1:],
            "preset": preset_hash(self.setup.preset),
            "data": self.setup.digests,
            "world_size": self.setup.ranks.count,
            "toggles": [toggles.debug, toggles.deterministic, toggles.private],
            "versions": _versions(),
        }

    def end(self, state: State, error: str | None = None, trace: str | None = None) -> None:
        """Say how the run ended: in its record, then in its log."""
        self.record.state, self.record.ended = state, time.time()
        self.record.error, self.record.traceback = error, trace
        self.run.write(self.record)
        self.report(RunEnded(state=state, error=error, traceback=trace))

    def hand_back(self) -> None:
        """Of a Slurm job that was told to stop: whether it has another turn is for `engine.slurm_job` to say."""
        self.record.state, self.record.slurm_says = "queued", "stops: its state is saved"
        self.run.write(self.record)

    def _explained(self, error: Exception) -> str:
        """The failure in one line, for those kinds that a user can do something about."""
        text = str(error).strip()
        height, width = self.setup.image_size
        size = f"batch size {self.setup.preset.data.batch_size}, image size {height}x{width}"
        if isinstance(error, torch.cuda.OutOfMemoryError):
            peak = torch.cuda.max_memory_allocated() / 2**30
            fix = "Lower data.batch_size (and raise train.accumulate) or data.image_size"
            return f"out of GPU memory with {size}: the peak was {peak:.1f} GiB. {fix}"
        if "does not have a deterministic implementation" in text:
            fix = "run without the deterministic toggle, or with another model or loss"
            return f"{text.split(' does not')[0]} has no deterministic path on this device; {fix}"
        return in_one_line(error, self.kills)

    def _started(self) -> RunStarted:
        setup, at = self.setup, self.trainer.at
        return RunStarted(
            run=self.run.path.name,
            preset=setup.preset.name,
            classes=setup.classes,
            epochs=setup.preset.train.epochs,
            steps_per_epoch=setup.steps_per_epoch,
            device=self.record.device,
            world_size=setup.ranks.count,
            images=Images(train=len(setup.train), val=len(setup.val)),
            toggles=setup.toggles,
            model=setup.preset.run_name,
            encoder_weights=setup.pretraining.weights,
            parameters=sum(parameter.numel() for parameter in setup.model.parameters()),
            precision=setup.precision,
            resumed_step=at.step,
            resumed_epoch=at.epoch - 1,
        )

    def _record(self, before: RunRecord | None) -> RunRecord:
        process, setup = psutil.Process(self.setup.ranks.pid), self.setup
        record = RunRecord(
            name=self.run.path.name,
            state="running",
            preset=setup.preset.name,
            model=setup.preset.run_name,
            toggles=setup.toggles,
            host=socket.gethostname(),
            pid=process.pid,
            pid_started=process.create_time(),
            booted=psutil.boot_time(),
            created=time.time(),
            epoch=self.trainer.at.epoch - 1,
            epochs=setup.preset.train.epochs,
            best_epoch=self.trainer.at.best_epoch,
            best_mIoU=self.trainer.at.best_mIoU,
            device=f"{setup.ranks.count} x {device_name(setup.device)}" if setup.ranks.count > 1 else device_name(setup.device),
            encoder_weights=setup.pretraining.weights,
            warnings=setup.warnings,
            versions=_versions(),
            git_commit=_git_commit(),
            data=setup.digests,
            wandb_id=secrets.token_hex(4),
            ticket=os.environ.get(TICKET, ""),
            parts=setup.parts,
            slurm_job=os.environ.get(SLURM_JOB, ""),
        )
        if before:
            record.created, record.wandb_id = before.created, before.wandb_id or record.wandb_id
            record.resumed = before.resumed + self.run.events.exists()
            record.ticket = before.ticket
        return record

    def _tracker(self, resumed: bool) -> Tracker:
        setup, wandb = self.setup, self.setup.preset.wandb
        name = wandb.run_name or self.run.path.name
        settings = TrackerSettings(
            mode=wandb.mode,
            project=wandb.project,
            entity=(wandb.entity if setup.toggles.private else wandb.team_entity) or None,
            run_name=f"debug_{name}" if setup.toggles.debug and not name.startswith("debug_") else name,
            run_id=self.record.wandb_id,
            tags=(*wandb.tags, *(toggle for toggle in ("debug", "deterministic", "private") if getattr(setup.toggles, toggle))),
            config=self._config(),
            folder=self.run.path,
            class_names=setup.classes,
            resumed=resumed,
        )
        tracker = Tracker(settings, lambda text: self.report(Message(level="warning", text=text)))
        self.report.sinks.append(tracker.event)
        return tracker

    def _config(self) -> dict[str, Any]:
        """The resolved preset, and the names that one filters runs by."""
        table = self.setup.preset
        return table.model_dump(exclude_none=True) | {
            "model_name": table.model.type,
            "encoder_name": table.model.encoder_name,
            "loss_name": "+".join(loss.type for loss in table.loss),
            "optimizer_name": table.optimizer.type,
            "scheduler_name": table.scheduler.type if table.scheduler else "none",
            "classes": self.setup.classes,
        }


def _parts(table: Preset, ranks: Ranks, before: int, *, halve: bool) -> int:
    """Into how many a rank's share of a batch is cut; `before` is what the run had so far, perhaps on other devices."""
    parts = before if table.data.batch_size // ranks.count % before == 0 else 1
    return parts * 2 if halve and can_halve(table, parts, ranks) else parts


def can_halve(table: Preset, parts: int, ranks: Ranks) -> bool:
    """Whether a rank's share of a batch, in so many parts, may be cut into twice as many."""
    share = table.data.batch_size // ranks.count
    return table.train.on_oom == "halve" and parts < MOST_PARTS and share % (2 * parts) == 0


def queued_record(run: RunFolder) -> RunRecord | None:
    """What a folder that was claimed before tells of its run; None of a new one."""
    return run.read() if (run.path / "run.json").exists() else None


def remove_leftovers(run: RunFolder) -> None:
    """Half-written files of a process that was killed; nobody else writes here, the run is locked."""
    for leftover in [*run.path.glob(".*.tmp"), *run.path.glob("*/.*.tmp")]:
        leftover.unlink()


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in VERSIONS}


def _git_commit() -> str | None:
    """The commit of the folder that the run was started from; None outside a repository."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
