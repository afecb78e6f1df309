"""Why something failed, in the one line that its user needs."""

from __future__ import annotations

import errno

from engine.errors import RunError
from engine.pillow_images import ImageError
from engine.system import out_of_memory_kills

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CANNOT_WRITE = (*DISK_FULL, errno.EROFS, errno.EACCES, errno.EPERM)


def in_one_line(error: Exception, kills_before: int | None) -> str:
    """`kills_before` is `out_of_memory_kills()` from before the work began."""
    text = str(error).strip()
    if isinstance(error, RunError):
        return text
    if isinstance(error, OSError) and error.errno in CANNOT_WRITE and error.filename:
        fix = "Free some space" if error.errno in DISK_FULL else "Make it writable"
        return f"{error.filename} could not be written: {error.strerror}. {fix}; what was saved before is whole"
    if "DataLoader worker" in text:
        if "killed by signal" in (below := str(error.__cause__)):  # torch says in one of two places how it ended
            text = below
        elif "exited unexpectedly" in text:
            text = f"{text.splitlines()[0]}: it was killed, or crashed; the kernel's log (`dmesg`) tells whether memory ran out"
        killed = (out_of_memory_kills() or 0) > (kills_before or 0)
        cause = "; the kernel killed a process for lack of memory: lower data.workers or data.batch_size" if killed else ""
        reason = text.splitlines()[-1] if "Original Traceback" in text else text.splitlines()[0]
        return f"{reason.removeprefix(f'{ImageError.__module__}.ImageError: ')}{cause}"
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"
