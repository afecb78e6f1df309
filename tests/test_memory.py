"""Memory that a process frees stays with it: what a step gave back, the next one has without a page fault."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import numpy as np
from engine.processes import keep_memory

if sys.argv[1] == "kept":
    keep_memory()


def step():
    blocks = [np.full(48 << 20, 1, np.uint8) for _ in range(3)]  # larger than what glibc ever keeps by itself


step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_freed_memory_is_had_again_without_page_faults() -> None:
    faults = {
        way: int(subprocess.run([sys.executable, "-c", STEPS, way], capture_output=True, text=True, check=True).stdout)
        for way in ("kept", "given back")
    }
    assert faults["kept"] * 10 < faults["given back"], faults
