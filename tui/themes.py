"""Colours that mean something, in one place: they follow the theme, and the colour-blind theme changes them all.

Imports nothing of Textual, so that the headless views can use it too; they show rich's own colours.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from textual.theme import Theme

DEFAULT = "textual-dark"
COLORBLIND = "segtui-colorblind"

Meaning = Literal["good", "bad", "warning", "note"]

_RICH: dict[Meaning, str] = {"good": "green", "bad": "red", "warning": "yellow", "note": "cyan"}
_colours = dict(_RICH)

# Okabe and Ito (2008), told apart with every common colour blindness.
CURVES = {"raw": "grey50", "train": "#56b4e9", "validation": "#e69f00", "rate": "#cc79a7"}
"""The same in every theme."""
_CURVES_WITHOUT_COLOUR = {"raw": "dim", "train": "", "validation": "underline", "rate": ""}


def style(meaning: Meaning) -> str:
    """Of rich, for text that means this: a colour of the theme in use. `f"bold {style('bad')}"` adds to it."""
    return _colours[meaning]


def state_style(state: str) -> str:
    """Of rich, for a run's state."""
    match state:
        case "running":
            return f"bold {style('good')}"
        case "queued" | "starting":
            return style("note")
        case "finished":
            return style("good")
        case "stopped":
            return style("warning")
    return f"bold {style('bad')}"


def change_style(change: float | None) -> str:
    """Of rich, for a difference of scores: more is good."""
    return style("good") if (change or 0) > 0 else style("bad") if (change or 0) < 0 else "dim"


def level_style(level: str) -> str:
    """Of rich, for a message of this level (info, warning, error)."""
    return {"warning": style("warning"), "error": style("bad")}.get(level, "")


def curve_style(curve: str) -> str:
    """Of rich, for one of the curves of a run; without colours they differ in their attributes."""
    return (_CURVES_WITHOUT_COLOUR if os.environ.get("NO_COLOR") else CURVES)[curve]


def follow(theme: Theme) -> None:
    """From now on `style` gives this theme's colours; what is drawn already must be drawn again."""
    chosen = {"good": theme.success, "bad": theme.error, "warning": theme.warning, "note": theme.primary}
    for meaning, ordinary in _RICH.items():
        _colours[meaning] = (chosen[meaning] or ordinary).replace("ansi_", "")


def names() -> set[str]:
    """Of all themes; imports Textual."""
    from textual.theme import BUILTIN_THEMES

    return {*BUILTIN_THEMES, COLORBLIND}


def colorblind() -> Theme:
    """Good is blue and bad is orange; nothing is told by red against green."""
    from textual.theme import Theme

    return Theme(
        name=COLORBLIND,
        primary="#009e73",
        secondary="#0072b2",
        accent="#cc79a7",
        success="#56b4e9",
        warning="#f0e442",
        error="#e69f00",
        foreground="#e0e0e0",
        background="#121212",
        surface="#1e1e1e",
        panel="#262626",
        dark=True,
    )
