"""Where the user's own files lie. Light, since every command looks there."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_config_path, user_state_path


def config_file() -> Path:
    """The user's configuration; SEGTUI_CONFIG names another."""
    named = os.environ.get("SEGTUI_CONFIG")
    return Path(named).expanduser() if named else user_config_path("segtui") / "config.toml"


def state_folder() -> Path:
    """What the program remembers, and its crash logs."""
    return user_state_path("segtui")
