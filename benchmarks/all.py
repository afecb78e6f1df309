"""Every benchmark, one after another, into RESULTS.md: `python -m benchmarks.all [NAME...]` (`make bench`)."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import msgspec
import psutil

from benchmarks.measure import HEADINGS, Row, cells
from engine import atomic

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
NOT_ROWS = {"__init__", "all", "long_run", "measure", "terminal", "training_parts", "written_runs"}
PACKAGES = ("torch", "segmentation-models-pytorch", "albumentations", "textual", "msgspec", "numpy")


def main(names: list[str]) -> None:
    """With names: those alone, into the terminal and not into the file."""
    parts = []
    for name in names or sorted(file.stem for file in HERE.glob("*.py") if file.stem not in NOT_ROWS):
        print(f"python -m benchmarks.{name}", file=sys.stderr, flush=True)
        parts.append(measured(name))
        print(parts[-1], flush=True)
    if not names:
        atomic.write(RESULTS, "\n".join(["# Results", "", machine(), "", *parts]))


def measured(name: str) -> str:
    """Its part of the page; one that fails says with what."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--json"], capture_output=True, text=True)
    took = f"`python -m benchmarks.{name}`, {time.monotonic() - began:.0f} s"
    rows = [msgspec.json.decode(line, type=Row) for line in done.stdout.splitlines() if line.startswith("{")]
    table = [f"## {name}", "", took, ""]
    if rows:
        table += [line(("row", "unit", *HEADINGS)), line(("---", "---", "---:", "---:", "---:", "---", "---"))]
        table += [line((row.name, row.unit, *cells(row))) for row in rows]
        table += ["", *(f"- {row.name}: {row.note}" for row in rows if row.note)]
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        table += ["", f"**Failed** with exit code {done.returncode}: `{last}`"]
    return "\n".join([*table, ""])


def line(texts: tuple[str, ...]) -> str:
    return f"| {' | '.join(texts)} |"


def machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    memory = psutil.virtual_memory().total / 2**30
    load = os.getloadavg()[1]
    return (
        f"{processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}; Python {platform.python_version()}, {packages}.\n"
        f"{time.strftime('%Y-%m-%d')}; the load average over the last five minutes was {load:.1f}."
    )


def processor() -> str:
    with Path("/proc/cpuinfo").open() as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main(sys.argv[1:])
