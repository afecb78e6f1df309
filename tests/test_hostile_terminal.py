"""Names, logs and errors with what a terminal would obey: real bytes, as they go to the terminal."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text
from textual.pilot import Pilot

from engine.errors import EXIT_DONE, EXIT_REQUEST, RequestError
from engine.events import Message
from engine.run import RunFolder
from engine.visible import harmless, visible, visible_lines
from tests.screens import checkpoint, history, new_run, on, play, said, seen, told, until
from tui.app import SegtuiApp
from tui.cli import main
from tui.screens.checkpoints import CheckpointsScreen
from tui.terminal import Terminal

TITLE = "\x1b]0;pwned\x07"
OBEYED = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
CLASSES = ["Background", f"square{TITLE}", "tri\u202eangle\x9b2J"]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """One run that is hostile in every text that it tells."""
    folder = tmp_path / "runs"
    run = new_run(folder, f"run{TITLE}x", preset=f"tiny\x1b[31m{TITLE}", model="FPN\x1b[2J", error=f"it failed\r{TITLE}")
    events = history(run.path.name, CLASSES)
    told(run, [events[0], Message(level="warning", text=f"a message{TITLE}\x1b[5n"), *events[1:]])
    checkpoint(run, "best", 0.5, classes=CLASSES)
    checkpoint(run, f"bad{TITLE}", 0.4).write_bytes(b"")
    return folder


def commands(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(list(map(str, arguments))) in (EXIT_DONE, EXIT_REQUEST)
    told_all = capfd.readouterr()
    return told_all.out + told_all.err


@pytest.mark.parametrize("command", ["runs", "checkpoints", "attach", "stop"])
@pytest.mark.parametrize("as_json", [False, True])
def test_commands_tell_of_it_without_obeying(runs: Path, capfd: pytest.CaptureFixture[str], command: str, as_json: bool) -> None:
    (run,) = [each for each in runs.iterdir() if not each.name.startswith(".")]
    named = [run.name] if command in ("attach", "stop") else []
    text = commands(capfd, command, *named, "--runs", runs, *(["--json"] if as_json else []))
    assert "pwned" in text
    assert re.findall("[\0-\x09\x0b-\x1f]" if as_json else OBEYED, text) == []  # json is for programs


def test_a_run_that_is_not_there_is_named_without_obeying(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = commands(capfd, "attach", f"x{TITLE}", "--runs", tmp_path / f"r{TITLE}")
    assert r"x\x1b]0;pwned\x07: there is no such run" in text
    assert OBEYED.findall(text) == []
    text = commands(capfd, "runs", "--runs", tmp_path / f"r{TITLE}")
    assert OBEYED.findall(text) == []


def test_names_that_are_no_utf8_are_listed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = new_run(tmp_path, "whole")
    run.path.rename(os.fsdecode(os.fsencode(tmp_path) + b"/half\xff"))
    assert commands(capfd, "runs", "--runs", tmp_path).count("whole") == 1
    assert "half\ufffd" in commands(capfd, "attach", "half\udcff", "--runs", tmp_path)
    rows = [json.loads(line) for line in commands(capfd, "runs", "--json", "--runs", tmp_path).splitlines()]
    assert [Path(row["path"]).name for row in rows] == ["half\udcff"]


def test_presets_with_such_keys_and_values(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.toml").write_text('"wrong\\u001b]0;pwned\\u0007" = 1\nname = "a"\nmodel = "\\u009b2J"\n')
    assert main(["--headless", str(tmp_path / "x.toml")]) == EXIT_REQUEST
    text = capfd.readouterr().err
    assert r"wrong\x1b]0;pwned\x07: unknown key" in text
    assert OBEYED.findall(text) == []


def test_richs_own_console_would_obey() -> None:
    """The reason for a console of our own; where this fails, it is needed no longer."""
    file = io.StringIO()
    Console(file=file).print(Text(TITLE))
    assert "\x1b]0;pwned" in file.getvalue()


def test_a_table_on_a_terminal_keeps_its_columns_and_its_own_colours() -> None:
    file = io.StringIO()
    table = Table()
    table.add_column(Text(f"class{TITLE}"))
    table.add_row(Text(f"square\x1b[2J\x9b1m{TITLE}", style="bold red"))
    table.add_row("triangle and more than that")
    Terminal(file=file, force_terminal=True, color_system="standard", width=50).print(table)
    written = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())
    assert "\x1b[1;31m" in file.getvalue()
    assert OBEYED.findall(written) == []
    assert len({cell_len(line) for line in written.splitlines()}) == 1


def test_no_screen_hands_it_to_the_terminal(runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / f"x{TITLE}.toml").write_text('"a\\u001b[2J" = 1\n')
    found: dict[str, str] = {}

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        (run,) = [each for each in runs.iterdir() if not each.name.startswith(".")]
        await until(pilot, lambda: "pwned" in seen(app))
        found["runs"] = seen(app)
        app.open_run(RunFolder(run))
        await until(pilot, lambda: "square" in seen(app))
        found["run"] = seen(app)
        await pilot.press("4")
        await until(pilot, lambda: "best" in seen(app))
        on(app, CheckpointsScreen)
        found["checkpoints"] = seen(app)
        await pilot.press("1")
        await until(pilot, lambda: "presets/x]0;pwned" in seen(app), 60)
        found["launch"] = seen(app)
        app.tell(RequestError(f"a mistake{TITLE}\nin two lines"))
        await pilot.pause(0.2)
        found["notification"] = seen(app)
        assert said(app)[-1] == "a mistake\\x1b]0;pwned\\x07\nin two lines"

    play(runs, scene)
    assert {name: OBEYED.findall(text) for name, text in found.items()} == {name: [] for name in found}
    assert "pwned" in found["runs"]
    assert "pwned" in found["checkpoints"]


@given(st.text())
def test_nothing_that_is_obeyed_is_left(text: str) -> None:
    assert OBEYED.findall(visible(text)) == []
    assert "\n" not in visible(text)
    assert OBEYED.findall(visible_lines(text)) == []
    assert OBEYED.findall(harmless(text)) == []
    assert harmless(text).encode() is not None
    if text.isprintable():
        assert visible(text) == harmless(text) == text


@given(st.text(st.characters(categories=["Cc", "Cf", "Cs", "Lu", "Lo"], exclude_characters="\n\t\u00ad")))
def test_what_is_left_is_as_wide_as_it_was(text: str) -> None:
    """Else the rest of a line would be moved."""
    if "\u200d" not in text and "\ufe0f" not in text:  # rich joins what follows those
        assert cell_len(harmless(text)) == cell_len(text)


def test_letters_of_all_scripts_stay() -> None:
    for name in ("일반 쓰레기", "Straße", "naïve", "شارع", "道路 ①", "🚗 car"):
        assert visible(name) == harmless(name) == name
