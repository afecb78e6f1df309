"""Text to the clipboard of whoever sits at the terminal, by a program of this machine that has one to talk to."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping

TIMEOUT_S = 2.0


def copy(text: str) -> str | None:
    """The name of the program that took it, None where none did. Takes a second or two where one hangs: call it in a thread."""
    return next((command[0] for command, encoding in _tools(os.environ) if _takes(command, text.encode(encoding))), None)


def copy_to_tmux(text: str) -> bool:
    """Into tmux's buffer; tmux hands it on to the terminal outside where that and its `set-clipboard` allow it."""
    return "TMUX" in os.environ and _takes(["tmux", "load-buffer", "-w", "-"], text.encode())


def _tools(environment: Mapping[str, str]) -> Iterator[tuple[list[str], str]]:
    """Commands that read the text, and its encoding. Over SSH the machine's own clipboard is not the one in front of the user."""
    if "SSH_CONNECTION" not in environment:
        yield ["pbcopy"], "utf-8"
        if "WSL_DISTRO_NAME" in environment:
            yield ["clip.exe"], "utf-16"
    if environment.get("WAYLAND_DISPLAY"):
        yield ["wl-copy"], "utf-8"
    if environment.get("DISPLAY"):
        yield ["xclip", "-selection", "clipboard"], "utf-8"
        yield ["xsel", "--clipboard", "--input"], "utf-8"


def _takes(command: list[str], content: bytes) -> bool:
    if shutil.which(command[0]) is None:
        return False
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # wl-copy and xclip stay behind to serve the text: a pipe would wait for them
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C and a hang-up are not meant for them
    ) as process:
        try:
            process.communicate(content, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return False
    return process.returncode == 0
