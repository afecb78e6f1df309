"""Files written behind the training loop: in order, one after the other, by a thread of their own."""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Callable


class WriteBehind:
    """At most one piece of work at a time is under way; `wait` before what it uses is changed.

    What fails is raised by the next `wait`, in the thread that asked for the work.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Do `work` behind the caller's back, after what was started before it. Raises what that failed with."""
        self.wait()
        self._thread = threading.Thread(target=self._do, args=(work,), name="writer")
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is under way. Raises what it failed with, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def settle(self) -> None:
        """Like `wait`, for somebody who has an error already: this one is told in the log."""
        try:
            self.wait()
        except Exception:  # noqa: BLE001
            with contextlib.suppress(OSError):  # the log's disk may be what failed
                traceback.print_exc()

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  it is raised where it is waited for
            self._error = error
