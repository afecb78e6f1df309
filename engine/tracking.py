"""Weights & Biases as one more reader of a run's events, strictly best effort.

One daemon thread owns everything of wandb. The training loop hands events to a bounded queue and never waits: where W&B
is slow, hangs, crashes or is not there, rows are left out and one warning says so. `wandb sync` sends offline files later.
"""

from __future__ import annotations

import atexit
import configparser
import contextlib
import logging
import math
import netrc
import os
import queue
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import numpy as np
import psutil

from engine.events import AnyEvent, Epoch, Number, RunEnded, RunStarted, Step, System, Validation
from engine.network import why_unreachable

if TYPE_CHECKING:
    from wandb import Run

# About seven minutes at ten rows a second: longer than any start of wandb takes.
QUEUE_EVENTS = 4096
# Images are megabytes: a service that hangs must not fill the memory with them.
QUEUE_IMAGE_LISTS = 4
INIT_TIMEOUT_S = 60.0
# The x axis of every chart. W&B's own step only counts rows: it drops a row whose step is smaller than the last, and a run
# that was resumed after a crash tells steps again.
STEP = "global_step"
IGNORED = 255
# Neither terminal output, nor code, git state, packages or machine are wandb's to tell: the run's own files hold them.
OFF: dict[str, Any] = {
    **dict.fromkeys(("silent", "disable_code", "disable_git", "label_disable", "x_disable_stats", "x_disable_machine_info"), True),
    **dict.fromkeys(("save_code", "x_save_requirements", "symlink", "use_dot_wandb"), False),
}
# wandb's own default. Older versions of it kept the key of the same service under api.wandb.ai.
DEFAULT_URL = "https://api.forge.coreweave.com"

Asked = Literal["auto", "online", "offline", "disabled"]
Mode = Literal["online", "offline", "disabled"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrackerSettings:
    """`folder` is the run's own: files go to `folder/wandb`. A resumed run goes on under the same `run_id`."""

    mode: Asked
    project: str
    entity: str | None
    run_name: str
    run_id: str
    tags: tuple[str, ...]
    config: dict[str, Any]
    folder: Path
    class_names: list[str]
    resumed: bool


@dataclass(frozen=True)
class TrackedImage:
    """`image` is (H, W, 3) uint8 RGB; `prediction` and `truth` are (H, W) uint8 class indices, 255 in `truth` is ignored.

    The arrays are read later, by another thread: they belong to the tracker from here on.
    """

    name: str
    caption: str
    image: np.ndarray
    prediction: np.ndarray
    truth: np.ndarray | None


class Tracker:
    """Follows one run. A process has one tracker at a time, because wandb's service is the process's own.

    `warn` gets one line without secrets, from the tracker's thread or, in `finish`, from the caller's.
    """

    def __init__(self, settings: TrackerSettings, warn: Callable[[str], None]) -> None:
        """Returns at once: wandb is imported and started in the thread."""
        self._settings = settings
        self._warn = warn
        self._sync_hint = f"`wandb sync` sends what is in {settings.folder / 'wandb'}"
        self._queue: queue.Queue[Callable[[Run], object]] = queue.Queue(QUEUE_EVENTS)
        self._image_lists = threading.BoundedSemaphore(QUEUE_IMAGE_LISTS)
        self._lock = threading.Lock()
        self._step = 0
        self._dropped = 0
        self._failure_told = False
        self._closed = threading.Event()
        self._finished = False
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    def event(self, event: AnyEvent) -> None:
        """Hand over one event. Never blocks, never raises."""
        if isinstance(event, RunStarted):
            self._step = event.resumed_step
        elif isinstance(event, Step):
            self._step = event.step
        if isinstance(event, Step) and self._queue.qsize() * 2 > QUEUE_EVENTS:
            self._drop()
        else:
            self._offer(partial(self._log_event, event, self._step))

    def images(self, epoch: int, step: int, images: list[TrackedImage]) -> None:
        """Hand over the example images of an epoch (from 1) at a global step. Never blocks, never raises."""
        if not self._image_lists.acquire(blocking=False):
            self._drop()
        elif not self._offer(partial(self._log_images, epoch, step, images)):
            self._image_lists.release()

    def finish(self, failed: bool, wait_s: float = 15.0) -> None:
        """Wait at most about `wait_s` seconds for W&B to take the rest, then give up with one warning. Twice is once."""
        if self._finished:
            return
        self._finished = True
        atexit.unregister(self.finish)
        deadline = time.monotonic() + wait_s
        with contextlib.suppress(queue.Full):
            self._queue.put(partial(self._finish_run, failed), timeout=wait_s)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._tell_failure(f"W&B did not finish within {wait_s:g} s and was given up; {self._sync_hint}")
            self._closed.set()
            _kill_service()
            self._thread.join(1.0)
        elif self._dropped and not self._failure_told:
            self._tell(f"W&B was too slow: {self._dropped} events are not in it. They are in the run's own log")

    def _offer(self, item: Callable[[Run], object]) -> bool:
        if self._closed.is_set():
            return False
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._drop()
            return False
        return True

    def _drop(self) -> None:
        with self._lock:
            self._dropped += not self._closed.is_set()

    def _work(self) -> None:
        with contextlib.ExitStack() as at_end:
            # SystemExit: wandb's teardown exits where its service ended badly.
            try:
                self._follow(at_end)
            except (Exception, SystemExit) as error:  # noqa: BLE001
                if not self._closed.is_set():
                    _log.error("%s", _hide_keys(traceback.format_exc()))
                    self._tell_failure(f"W&B failed, and the run goes on without it: {_one_line(error)}; {self._sync_hint}")
            finally:
                self._closed.set()
                # Lets go of the images, and of a `finish` that waits for a place in the queue.
                with contextlib.suppress(queue.Empty):
                    while True:
                        self._queue.get_nowait()

    def _follow(self, at_end: contextlib.ExitStack) -> None:
        mode, why = choose_mode(self._settings.mode)
        _log.info("W&B is %s: %s", mode, why)
        if mode == "disabled":
            return
        asked = os.environ.get("WANDB_MODE") if self._settings.mode == "auto" else self._settings.mode
        if mode == "offline" and asked == "online":
            self._tell(f"W&B was asked to be online, and is OFFLINE: {why}; {self._sync_hint}")
        # The service process reports its own crashes to its makers unless told not to; a training machine's are not theirs.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        # A service inherited from whoever launched this run is not ours to stop.
        os.environ.pop("WANDB_SERVICE", None)
        import wandb

        if self._closed.is_set():
            return
        # At the end, because it raises the same exception again where the service is gone, with a traceback that says less.
        at_end.enter_context(contextlib.suppress(Exception, SystemExit))
        at_end.callback(wandb.teardown)
        hooks = sys.exit, sys.excepthook
        try:
            run = self._start(mode)
        finally:
            # wandb replaces both to learn how the process ends; `finish` tells it.
            sys.exit, sys.excepthook = hooks
        run.define_metric(STEP, hidden=True)
        run.define_metric("*", step_metric=STEP)
        while not self._closed.is_set():
            self._queue.get()(run)

    def _start(self, mode: Literal["online", "offline"]) -> Run:
        import wandb

        settings = self._wandb_settings(mode)
        (self._settings.folder / "wandb").mkdir(mode=0o700, exist_ok=True)  # its own logs are there
        wandb.setup(settings)
        # After wandb's own exit hook, so that it runs before it: that one waits for the service without end.
        atexit.unregister(self.finish)
        atexit.register(self.finish, failed=True, wait_s=5.0)
        try:
            return wandb.init(config=self._settings.config, settings=settings)
        except Exception as error:
            if mode == "offline" or self._closed.is_set():
                raise
            self._tell(f"W&B could not start online, and is OFFLINE: {_one_line(error)}; {self._sync_hint}")
        # The service refuses a second run of the same id.
        wandb.teardown()
        return self._start("offline")

    def _wandb_settings(self, mode: Literal["online", "offline"]) -> Any:
        import wandb

        settings = self._settings
        return wandb.Settings(
            mode=mode,
            base_url=_base_url(),
            root_dir=str(settings.folder),
            project=settings.project,
            entity=settings.entity or None,
            run_id=settings.run_id,
            run_name=settings.run_name,
            run_tags=settings.tags,
            resume="allow" if settings.resumed else None,
            reinit="create_new",
            console="off",
            init_timeout=INIT_TIMEOUT_S,
            x_transaction_log_flush_interval=2.0,
            **OFF,
        )

    def _log_event(self, event: AnyEvent, step: int, run: Run) -> None:
        if isinstance(event, RunEnded):
            run.summary["state"] = event.state
        elif row := metrics(event, self._settings.class_names):
            run.log({**row, STEP: step})

    def _log_images(self, epoch: int, step: int, images: list[TrackedImage], run: Run) -> None:
        import wandb
        from PIL import Image

        names = dict(enumerate(self._settings.class_names))
        found = []
        for image in images:
            masks = {"prediction": {"mask_data": image.prediction, "class_labels": names}}
            if image.truth is not None:
                masks["ground_truth"] = {"mask_data": image.truth, "class_labels": {**names, IGNORED: "ignored"}}
            caption = ": ".join(part for part in (image.name, image.caption) if part)
            # As PIL's, because wandb rescales the values of an array.
            found.append(wandb.Image(Image.fromarray(image.image), caption=caption, masks=masks))
        run.log({"valid/images": found, "epoch/epoch": epoch, STEP: step})
        self._image_lists.release()

    def _finish_run(self, failed: bool, run: Run) -> None:
        run.finish(exit_code=int(failed))
        self._closed.set()

    def _tell_failure(self, line: str) -> None:
        with self._lock:
            first, self._failure_told = not self._failure_told, True
        if first:
            self._tell(line)

    def _tell(self, line: str) -> None:
        try:
            self._warn(line)
        except Exception:  # noqa: BLE001
            _log.exception("a warning could not be told: %s", line)


def metrics(event: AnyEvent, class_names: Sequence[str]) -> dict[str, float]:
    """The row of an event under the original baseline's names. None, NaN and infinity are left out."""
    row: dict[str, Number] = {}
    by_class: dict[str, list[Number]] = {}
    if isinstance(event, Step):
        row = {"train/step_loss": event.loss, "optimizer/lr": event.lr}
    elif isinstance(event, Epoch):
        row = {"train/loss": event.loss, "train/mIoU": event.mIoU, "train/acc": event.pixel_acc}
        row |= {"train/mean_acc": event.mean_acc, "train/fwavacc": event.fwavacc}
        by_class = {"train_IoU": event.IoU, "train_acc": event.acc}
    elif isinstance(event, Validation):
        row = {"valid/loss": event.loss, "valid/mIoU": event.mIoU, "valid/acc": event.acc}
        row |= {"valid/cls_acc": event.mean_acc, "valid/fwavacc": event.fwavacc}
        row |= {"epoch/epoch": event.epoch, "epoch/best_epoch": event.best_epoch, "epoch/best_mIoU": event.best_mIoU}
        by_class = {"valid_IoU": event.IoU, "valid_acc": event.class_acc}
    elif isinstance(event, System):
        row = {"system/cpu": event.cpu, "system/ram": event.ram}
        for index, gpu in enumerate(event.gpu):
            row |= {f"system/gpu{index}/{name}": getattr(gpu, name) for name in ("util", "memory", "temperature", "power")}
    for metric, values in by_class.items():
        row |= {f"{name}/{metric}": value for name, value in zip(class_names, values, strict=False)}
    return {name: value for name, value in row.items() if value is not None and math.isfinite(value)}


def _kill_service() -> None:
    """A service that hangs answers to nothing less."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.name() == "wandb-core":
                child.kill()


def choose_mode(mode: Asked) -> tuple[Mode, str]:
    """What can be had of what was asked for, and one sentence why. Takes at most 2 s.

    "auto" is what WANDB_MODE or wandb's settings file says, else "online". Online needs a key and a host that answers.
    """
    if mode == "auto":
        told = os.environ.get("WANDB_MODE") or _settings_file().get("mode", "")
        mode = "disabled" if told == "disabled" else "offline" if told in ("offline", "dryrun") else "online"
    if mode in ("offline", "disabled"):
        return mode, "it was asked for"
    url = _base_url()
    if not urlsplit(url).hostname:
        return "offline", f"WANDB_BASE_URL is not a URL: {url}"
    if not (os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or _netrc_key(url)):
        return "offline", f"there is no API key: set WANDB_API_KEY, or run `wandb login` for {urlsplit(url).hostname}"
    if problem := why_unreachable(url):
        return "offline", problem
    return "online", f"there is an API key and {urlsplit(url).hostname} answers"


def _base_url() -> str:
    return (os.environ.get("WANDB_BASE_URL") or _settings_file().get("base_url", "") or DEFAULT_URL).rstrip("/")


def _settings_file() -> dict[str, str]:
    """What `wandb login --host` and `wandb offline` wrote. Empty where there is none, or it cannot be read."""
    parser = configparser.ConfigParser(interpolation=None)
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    try:
        parser.read(folder / "settings")
        return dict(parser["default"])
    except (configparser.Error, KeyError, OSError, ValueError):
        return {}


def _netrc_key(url: str) -> str:
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    machines = [urlsplit(url).netloc] + ["api.wandb.ai"] * (url == DEFAULT_URL)
    try:
        entries = netrc.netrc(str(path))
    except (netrc.NetrcParseError, OSError, ValueError):
        return ""
    found = [entries.authenticators(machine) for machine in machines]
    return next((entry[2] for entry in found if entry and entry[2]), "")


def _one_line(error: BaseException) -> str:
    return " ".join(_hide_keys(f"{type(error).__name__}: {error}").split())[:300]


def _hide_keys(text: str) -> str:
    for key in filter(None, (os.environ.get("WANDB_API_KEY"), _netrc_key(_base_url()))):
        text = text.replace(key, "<key>")
    return re.sub(r"\b(wandb_v\d_\w+|[0-9a-fA-F]{40})\b", "<key>", text)
