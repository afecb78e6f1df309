"""The presets to choose from: those used last, the project's own, the built-in ones."""

from __future__ import annotations

from pathlib import Path

from engine import preset
from tui.memory import recent_presets

OWN = Path("presets")


def presets() -> dict[str, list[Path]]:
    """By heading; a preset used last is there once more under its own heading. A base is no preset to start."""
    own = sorted(path for path in [*OWN.glob("*.toml"), *OWN.glob("*.py")] if path.stem not in ("base", "__init__"))
    built_in = sorted(path for path in preset.BUILT_IN.glob("*.toml") if path.stem != "base")
    if OWN.resolve() == preset.BUILT_IN.resolve():
        built_in = []
    return {"used last": recent_presets(), "presets/": own, "built-in": built_in}


def label(path: Path) -> str:
    """A built-in preset's name; the path of any other, from here where it lies below."""
    if path.parent.resolve() == preset.BUILT_IN.resolve():
        return path.stem
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
