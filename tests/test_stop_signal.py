"""A stop that is asked for in the moment in which loader workers are forked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = """
import os, signal, time
from engine.worker import StopSignal

stop = StopSignal()
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGTERM))
if os.fork() == 0:
    os._exit(0)
os.wait()

class Work:
    is_over = False

stop.work = Work()
deadline = time.monotonic() + 10
while not stop() and time.monotonic() < deadline:
    time.sleep(0.01)
print("went on, asked to stop:", stop())
"""


def test_a_stop_while_a_process_forks_is_not_lost() -> None:
    """Python drops an exception of a handler that runs there."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "Exception ignored" in found.stderr
    assert "SystemExit: 130" in found.stderr
    assert found.stdout == "went on, asked to stop: True\n"
