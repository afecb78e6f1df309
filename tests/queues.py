"""Real queues through the real command line: their processes, and what they tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from engine.box_queue import BoxQueue, Entry
from engine.run import TICKET
from tests.training import Command

ROOT = Path(__file__).parents[1]
CLI = [sys.executable, "-m", "tui.cli"]
ENVIRONMENT = {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}


class Queued(Command):
    """`segtui --headless A B ...`; a line for each change of the queue."""

    @classmethod
    def start(cls, *arguments: str | Path) -> Queued:
        command = [*CLI, "--headless", "--json", *map(str, arguments)]
        return cls(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | ENVIRONMENT, cwd=ROOT))


def queue_command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, *map(str, arguments)], capture_output=True, text=True, env=os.environ | ENVIRONMENT, cwd=ROOT, timeout=120, check=False
    )


def listed(runs: Path) -> list[dict[str, Any]]:
    """What `segtui queue` says."""
    done = queue_command("queue", "--json", "--runs", runs)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def ended(runs: Path, number: int) -> bool:
    return BoxQueue(runs).read().find(number).is_over


def queue_process(runs: Path) -> psutil.Process:
    """What works on the queue of these runs."""
    (found,) = queue_processes(runs)
    return found


def worker_of(entry: Entry) -> psutil.Process | None:
    """The process of its run, also before it has a record; not one that it started itself."""
    found = {process.pid: process for process in psutil.process_iter() if ticket_of(process) == entry.ticket}
    return next((process for process in found.values() if process.ppid() not in found), None)


def ticket_of(process: psutil.Process) -> str:
    try:
        return str(process.environ().get(TICKET, ""))
    except psutil.Error:  # another user's, or gone by now
        return ""


def quit_queue(runs: Path) -> None:
    """End what works on the queue, then what it started."""
    for process in queue_processes(runs):
        process.kill()
    for entry in BoxQueue(runs).read().entries:
        process = worker_of(entry)
        if process is not None:
            process.kill()


def queue_processes(runs: Path) -> list[psutil.Process]:
    """As `queue_process`, where there may be none."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cmdline()[-3:] == ["-m", "engine.drain", str(runs)] and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found
