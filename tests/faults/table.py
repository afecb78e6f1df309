"""The page of docs/reliability.md: the same rows give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence

HEAD = """# What a run survives

Written by `make faults`, and only where every row held: each is a test that does this to real processes and real files, and then
looks at what is left. "Equal weights" means that the tensors of `last.safetensors` are, byte for byte, those of the run that nothing
disturbed.

| Fault | What was done | What survived | Verified by |
|---|---|---|---|
"""


def page(rows: Sequence[tuple[str, str, str, str]]) -> str:
    """Rows of (fault, what was done, what survived, the test's id)."""
    lines = []
    for fault, done, survived, test in rows:
        file, name = test.split("::", 1)
        lines.append(f"| {fault} | {done} | {survived} | `{name}` in [{file.rsplit('/', 1)[-1]}](../{file}) |\n")
    return HEAD + "".join(lines)
