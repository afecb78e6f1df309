"""Programs in a real pseudo-terminal, watched from outside: what they write, and what the system says of their time and memory."""

from __future__ import annotations

import os
import re
import sys
import threading
import time

import pexpect
import psutil

PROGRAM = "import sys; from tui.cli import main; sys.exit(main(sys.argv[1:]))"
ESCAPES = re.compile(rb"\x1b(\[[0-9;?>=$]*[a-zA-Z]|\][^\x07\x1b]*(\x07|\x1b\\)|[=>])")


class Terminal:
    """A Python program in a pseudo-terminal of 140x45, with all that it wrote and a thread that always reads on."""

    def __init__(self, program: str, *arguments: str) -> None:
        self.started = time.monotonic()
        environment = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        self._process = pexpect.spawn(sys.executable, ["-c", program, *arguments], dimensions=(45, 140), env=environment, timeout=60)
        self.process = psutil.Process(self._process.pid)
        self._written = b""
        self._mark = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                self._written += self._process.read_nonblocking(65536, timeout=None)
            except (pexpect.ExceptionPexpect, OSError):
                return

    def press(self, key: str) -> float:
        """When it was pressed; `until` looks at what is written from now on."""
        self._mark = len(self._written)
        pressed = time.monotonic()
        self._process.send(key)
        return pressed

    def until(self, text: str, timeout_s: float = 60) -> float:
        """When the text was on the terminal (to 2 ms)."""
        deadline = time.monotonic() + timeout_s
        looked_at = -1
        while True:
            if len(self._written) > looked_at:
                looked_at = len(self._written)
                shown = ESCAPES.sub(b"", self._written[self._mark : looked_at])
                if text.encode() in shown:
                    return time.monotonic()
            if time.monotonic() > deadline:
                raise SystemExit(f"waited for {text!r} and saw {shown[-500:]!r}")
            time.sleep(0.002)

    def cpu(self, seconds: float) -> float:
        """Its share of a core over that time."""
        before = self.process.cpu_times()
        time.sleep(seconds)
        after = self.process.cpu_times()
        return float(after.user + after.system - before.user - before.system) / seconds

    def memory(self) -> float:
        """MiB that are its own or shared, in RAM."""
        return float(self.process.memory_info().rss) / 2**20

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
