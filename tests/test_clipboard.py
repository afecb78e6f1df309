"""Copying: real programs on PATH take the text, a real tmux holds it, and what became of it is said."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot

from tests.screens import opened, play, said, until, whole_run
from tui import clipboard
from tui.app import SegtuiApp

TEXT = "/runs/모델 'a' $(b)\n\\n"
DISPLAYS = ("SSH_CONNECTION", "WSL_DISTRO_NAME", "WAYLAND_DISPLAY", "DISPLAY")
TAKES = '#!/bin/sh\ncat > "$TAKEN.$(basename "$0")"\n'


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is first on PATH, on a machine without any display."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("TAKEN", str(tmp_path / "taken"))
    for name in DISPLAYS:
        monkeypatch.delenv(name, raising=False)
    return folder


def program(folder: Path, name: str, script: str = TAKES) -> None:
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)


def taken(tmp_path: Path) -> dict[str, bytes]:
    return {path.suffix[1:] or path.name: path.read_bytes() for path in tmp_path.glob("taken.*")}


@pytest.mark.parametrize(
    ("environment", "name", "encoding"),
    [
        ({}, "pbcopy", "utf-8"),
        ({"WAYLAND_DISPLAY": "wayland-1"}, "wl-copy", "utf-8"),
        ({"DISPLAY": ":0"}, "xclip", "utf-8"),
        ({"DISPLAY": "localhost:10.0", "SSH_CONNECTION": "a"}, "xsel", "utf-8"),
        ({"WSL_DISTRO_NAME": "Ubuntu"}, "clip.exe", "utf-16"),
    ],
)
def test_a_program_with_a_display_takes_the_text(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], name: str, encoding: str
) -> None:
    program(programs, name)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert clipboard.copy(TEXT) == name
    assert [content.decode(encoding) for content in taken(tmp_path).values()] == [TEXT]


def test_without_a_display_and_over_ssh_the_programs_are_not_asked(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pbcopy", "wl-copy", "xclip", "xsel", "clip.exe"):
        program(programs, name)
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22")
    monkeypatch.setenv("WSL_DISTRO_NAME", "Ubuntu")
    assert clipboard.copy(TEXT) is None
    assert not taken(tmp_path)


def test_one_that_fails_or_hangs_is_left_for_the_next(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-1")
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(clipboard, "TIMEOUT_S", 0.3)
    program(programs, "wl-copy", "#!/bin/sh\nexit 1\n")
    program(programs, "xclip", "#!/bin/sh\nexec sleep 60\n")
    program(programs, "xsel")
    began = time.monotonic()
    assert clipboard.copy(TEXT) == "xsel"
    assert time.monotonic() - began < 5


def test_one_that_stays_behind_to_serve_the_text_is_not_waited_for(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-1")
    program(programs, "wl-copy", "#!/bin/sh\ncat > /dev/null\nsleep 5 &\nexit 0\n")
    began = time.monotonic()
    assert clipboard.copy(TEXT) == "wl-copy"
    assert time.monotonic() - began < 2


@pytest.fixture
def tmux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A server of our own, in whose session the program believes to run."""
    if shutil.which("tmux") is None:
        pytest.skip("there is no tmux here")
    socket = tmp_path / "tmux"
    command = ["tmux", "-S", str(socket), "-f", "/dev/null"]
    subprocess.run([*command, "new-session", "-d", "-x", "80", "-y", "24", "sleep 600"], check=True)
    monkeypatch.setenv("TMUX", f"{socket},{os.getpid()},0")
    yield command
    subprocess.run([*command, "kill-server"], check=True)


def buffer(tmux: list[str]) -> str:
    return subprocess.run([*tmux, "show-buffer"], capture_output=True, text=True, check=True).stdout


def test_tmux_holds_the_text(programs: Path, tmux: list[str]) -> None:
    assert clipboard.copy_to_tmux(TEXT)
    assert buffer(tmux) == TEXT


def test_outside_of_tmux_there_is_no_buffer(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMUX", raising=False)
    assert not clipboard.copy_to_tmux(TEXT)


def copied_from_a_screen(runs: Path, key: str = "c") -> tuple[str, list[tuple[str, str]]]:
    """The path of a run, and the (title, text) of what the program said when it was copied."""
    run = whole_run(runs, "copied")
    told: list[tuple[str, str]] = []

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await opened(pilot, app, "copied")
        await pilot.press(key)
        await until(pilot, lambda: str(run.path) in said(app))
        told.extend((each.title, each.message) for each in app._notifications)

    play(runs, scene)
    return str(run.path), told


def test_from_a_screen_to_a_program(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-1")
    program(programs, "wl-copy")
    path, told = copied_from_a_screen(tmp_path / "runs")
    assert told == [("copied", path)]
    assert taken(tmp_path) == {"wl-copy": path.encode()}


def test_from_a_screen_to_tmux(programs: Path, tmp_path: Path, tmux: list[str]) -> None:
    path, told = copied_from_a_screen(tmp_path / "runs")
    assert told == [("copied to tmux's buffer", path)]
    assert buffer(tmux) == path


def test_from_a_screen_to_nobody_who_answers_shows_the_text(programs: Path, tmp_path: Path) -> None:
    path, told = copied_from_a_screen(tmp_path / "runs")
    assert told == [("sent to the terminal; if it did not take it, select it here", path)]
