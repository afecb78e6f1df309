"""Making an object of a library's class from a preset's table; what the class says against its arguments goes to the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from engine.errors import Problem, RequestError

T = TypeVar("T")


def construct(kind: Callable[..., T], arguments: Mapping[str, Any], key: str) -> T:
    """`kind(**arguments)`. Raises RequestError with the library's own words where it refuses the values."""
    try:
        return kind(**arguments)
    except Exception as error:
        name = getattr(kind, "__name__", str(kind))
        raise RequestError(Problem(f"{name} refuses these values: {_reason(error)}", key=key)) from error


def _reason(error: Exception) -> str:
    """One line: pydantic's errors are many, others say it in their first line."""
    if callable(details := getattr(error.__cause__ or error.__context__ or error, "errors", None)):
        return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in details())
    return (str(error).strip() or type(error).__name__).splitlines()[0]
