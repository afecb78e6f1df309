"""What went wrong, said to the person who can mend it.

Two kinds: a `RequestError` is a mistake in what was asked for (exit code 2, nothing was written), a `RunError` is a
failure while running that we can explain (exit code 1). Anything else is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_REQUEST = 2
EXIT_STOPPED = 3
EXIT_INTERRUPTED = 130
LONGEST = 4000
"""Characters of one problem: it may quote a file's content, which may be anything."""


class Problem(NamedTuple):
    """One mistake: what is wrong, where it stands, and what to write instead. No dataclass: `--help` would wait for `inspect`.

    `file` is the path as the user gave it, `key` a dotted path such as `model.encoder_name`, `line` counts from 1.
    """

    message: str
    file: str = ""
    key: str = ""
    line: int | None = None
    fix: str = ""

    def __str__(self) -> str:
        place = self.file + (f":{self.line}" if self.file and self.line else "")
        text = ": ".join(part for part in (place, self.key, self.message) if part)
        text = f"{text}. {self.fix[:1].upper()}{self.fix[1:]}" if self.fix else text
        return text if len(text) <= LONGEST else f"{text[: LONGEST * 3 // 4]} ... {text[-LONGEST // 4 :]}"


class RequestError(Exception):
    """The request was wrong. Holds every problem that was found, not only the first."""

    def __init__(self, problems: Problem | Iterable[Problem] | str) -> None:
        if isinstance(problems, str):
            problems = Problem(problems)
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[RequestError], tuple[tuple[Problem, ...]]]:
        return RequestError, (self.problems,)


class RunError(Exception):
    """A run failed for a reason that we can name in one message (out of memory, a loss that is not finite, ...)."""


class Stopped(Exception):
    """The work was asked to stop, and has come to a point where it can: training after a whole step."""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """The nearest allowed word as a sentence, or the allowed words where none is near (all of up to 12, else none)."""
    from difflib import get_close_matches  # `--help` makes no mistakes

    choices = sorted(set(allowed))
    by_lower = {choice.lower(): choice for choice in choices}
    near = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    listed = f"allowed: {', '.join(choices)}" if 0 < len(choices) <= 12 else ""
    if near:
        return f"did you mean {by_lower[near[0]]!r}?" + (f" ({listed})" if listed else "")
    return listed
