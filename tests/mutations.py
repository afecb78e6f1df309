"""Bad input by the thousand: `python -m tests.mutations --seed 7 --count 5000`.

Each kind of file that the program reads is spoilt at random, in its bytes and in its values, and read through the same doors
as the user's. What must come of it: the content, or one error that names the file. Never another exception, more than
20 seconds, 2 GiB beyond what the process has, or a file that was not there before.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import tomli_w

from tests.mutated_kinds import Kind, Refused, all_kinds

LONGEST_S = 20.0
MOST_BYTES = 2 << 30
LONGEST_MESSAGE = 20_000
WEIRD: list[Any] = [
    None, True, False, -1, 0, 1, 255, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 10**400,
    0.5, -0.0, 1e308, 1e-308, float("nan"), float("inf"), -float("inf"),
    "", " ", "\0", "\ud800", "\udc80", "\x1b]0;pwned\x07", "\u202e", "../../etc/passwd", "/dev/zero", "ÿ", "1", "a\nb", "x" * 70_000,
    [], {}, [[]], [{}], {"": {}}, [None], list(range(3000)), {"type": 1}, [1e999, -1], {"a": {"b": {"c": [{"d": 0}]}}},
]  # fmt: skip


class TookTooLong(BaseException):
    """No handler of the program's may take it for an error of its own."""


@dataclass
class Outcome:
    accepted: Counter[str]
    refused: Counter[str]
    defects: list[str]
    slowest_s: float = 0.0
    slowest: str = ""


def run(kinds: Sequence[Kind], seed: int, count: int, keep: Path | None = None) -> Outcome:
    """Spoil and read `count` files, kind after kind; `keep` is where those that found a defect go."""
    outcome = Outcome(Counter(), Counter(), [])
    rng = random.Random(seed)
    before = signal.signal(signal.SIGALRM, _too_long)
    try:
        with _limited_memory():
            for number in range(count):
                kind = kinds[number % len(kinds)]
                content = spoilt(kind, rng)
                _one(kind, content, f"{kind.name} {number} of seed {seed}", outcome, keep)
    finally:
        signal.signal(signal.SIGALRM, before)
    return outcome


def _one(kind: Kind, content: bytes, name: str, outcome: Outcome, keep: Path | None) -> None:
    folder = Path(tempfile.mkdtemp(prefix="segtui-mutations-"))
    began = time.monotonic()
    problem = ""
    signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
    try:
        kind.read(folder, content)
        outcome.accepted[kind.name] += 1
    except Refused as refused:
        outcome.refused[kind.name] += 1
        problem = _wrong_words(str(refused), kind.named or kind.file)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001  a panic of a library written in Rust is none of Exception
        problem = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    took = time.monotonic() - began
    if took > outcome.slowest_s:
        outcome.slowest_s, outcome.slowest = took, name
    left = sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.name.startswith(".") and each.suffix == ".tmp")
    if left and not problem:
        problem = f"half-written files were left: {left}"
    if problem:
        outcome.defects.append(f"{name}: {problem}")
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{name.replace(' ', '_')}-{kind.file}").write_bytes(content)
    shutil.rmtree(folder)


def _wrong_words(text: str, named: str) -> str:
    if named not in text:
        return f"the message does not name {named}: {text[:500]!r}"
    if len(text) > LONGEST_MESSAGE:
        return f"the message has {len(text)} characters: {text[:200]!r} ..."
    return f"a traceback: {text[:500]}" if "Traceback" in text else ""


def spoilt(kind: Kind, rng: random.Random) -> bytes:
    """One of the kind's whole files with one to four mistakes in it."""
    content = rng.choice(kind.whole)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        in_values = kind.values and rng.random() < 0.6
        content = _spoilt_values(content, kind.values, rng) if in_values else rng.choice(BYTES)(content, rng)
    return content


def _spoilt_values(content: bytes, syntax: str, rng: random.Random) -> bytes:
    try:
        value = tomllib.loads(content.decode()) if syntax == "toml" else [json.loads(line) for line in content.splitlines()]
    except (ValueError, RecursionError):
        return _flip(content, rng)
    places = list(_places(value))
    if not places:
        return _flip(content, rng)
    holder, key = rng.choice(places)
    match rng.randrange(6):
        case 0 if isinstance(holder, dict):
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.insert(rng.randrange(len(holder) + 1), json.loads(json.dumps(holder[key], default=str)))
        case 2 if isinstance(holder, dict):
            holder[str(rng.choice(WEIRD))[:5000]] = holder[key]
        case 3:
            other_holder, other_key = rng.choice(places)
            holder[key] = json.loads(json.dumps(other_holder[other_key], default=str)) if other_holder is not holder else rng.choice(WEIRD)
        case 4 if isinstance(holder[key], (int, float)):
            holder[key] = rng.choice(
                (-holder[key], holder[key] * 10**6, [holder[key]], f"{holder[key]:.3g}" if abs(holder[key]) < 1e300 else "")
            )
        case _:
            holder[key] = rng.choice(WEIRD)
    try:
        if syntax == "toml":
            return tomli_w.dumps(value).encode()
        return b"\n".join(json.dumps(line).encode() for line in value) + (b"\n" if syntax == "lines" else b"")
    except (TypeError, ValueError, RecursionError):  # TOML has no null; half a character is not UTF-8
        return _flip(content, rng)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (dict or list, key) below a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _flip(content: bytes, rng: random.Random) -> bytes:
    spoilt = bytearray(content)
    for _ in range(rng.choice((1, 3, 30)) if content else 0):
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def _flip_head(content: bytes, rng: random.Random) -> bytes:
    """Where most formats say their sizes."""
    return _flip(content[:64], rng) + content[64:]


def _splice(content: bytes, rng: random.Random) -> bytes:
    start, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    place = rng.randrange(len(content) + 1)
    return content[:place] + content[start:end] + content[place:]


def _take_out(content: bytes, rng: random.Random) -> bytes:
    start, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:start] + content[end:]


def _insert(content: bytes, rng: random.Random) -> bytes:
    what = rng.choice(
        (
            b"\0",
            b"\xff",
            b"\xef\xbb\xbf",
            b"\xed\xa0\x80",
            b"\x1b[2J",
            b"\r",
            b"\n",
            b'"',
            b",",
            b"[" * 20_000,
            b'{"a":' * 5000,
            b"9" * 5000,
        )
    )
    place = rng.randrange(len(content) + 1)
    return content[:place] + what + content[place:]


def _replace(content: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"", b"\0" * 100, rng.randbytes(300), b"{}", b"[]", b"null", b"\xff\xfe" + content, content + content))


BYTES = [_cut, _flip, _flip_head, _splice, _take_out, _insert, _replace]


def _too_long(_number: int, _frame: object) -> None:
    raise TookTooLong


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    """What asks for too much gets a MemoryError, which nothing of the program's takes for an error of the file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MOST_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def report(outcome: Outcome, kinds: Sequence[Kind], seed: int, took_s: float) -> str:
    """The run in a table."""
    lines = [f"seed {seed}", f"{'kind':<16}{'inputs':>8}{'read':>8}{'refused':>9}"]
    for kind in kinds:
        read, refused = outcome.accepted[kind.name], outcome.refused[kind.name]
        lines.append(f"{kind.name:<16}{read + refused:>8}{read:>8}{refused:>9}")
    read, refused = sum(outcome.accepted.values()), sum(outcome.refused.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lines.append(f"{'all':<16}{read + refused:>8}{read:>8}{refused:>9}")
    lines.append(f"{took_s:.0f} s; the slowest took {outcome.slowest_s:.2f} s ({outcome.slowest}); at most {peak:.2f} GiB of memory")
    return "\n".join([*lines, f"defects: {len(outcome.defects)}"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--only", nargs="*", help="kinds to spoil (default: all)")
    parser.add_argument("--keep", type=Path, help="a folder for the files that found a defect")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kinds = [kind for kind in all_kinds(Path(folder)) if not options.only or kind.name in options.only]
        began = time.monotonic()
        outcome = run(kinds, options.seed, options.count, options.keep)
        for defect in outcome.defects:
            print(defect, file=sys.stderr)
        print(report(outcome, kinds, options.seed, time.monotonic() - began))
    return 1 if outcome.defects else 0


if __name__ == "__main__":
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    sys.exit(main())
