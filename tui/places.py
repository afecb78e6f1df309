"""Where the user's own files lie. Light, since every command looks there."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_config_path, user_state_path


def config_file() -> Path:
    """The user's configuration; SEGTUI_CONFIG names another."""
    named = os.environ.get("SEGTUI_CONFIG")
    return Path(named).expanduser() if named else user_config_path("segtui") / "config.toml"


def is_configured() -> bool:
    """Whether there is a configuration to read, or to complain about."""
    return bool(os.environ.get("SEGTUI_CONFIG")) or config_file().exists()


def state_folder() -> Path:
    """What the program remembers, and its crash logs."""
    return user_state_path("segtui")
