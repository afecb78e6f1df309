"""The user's configuration: what comes before what, every mistake told with its line, keys and theme in the screens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.pilot import Pilot

from engine.errors import RequestError
from tests.screens import ROOT, on, play, seen, until, whole_run
from tui import config, keys, memory, places
from tui.app import SegtuiApp
from tui.cli import main
from tui.screens.checkpoints import CheckpointsScreen
from tui.screens.confirm import Confirm
from tui.screens.help import HelpScreen
from tui.screens.runs import RunsScreen

IDS = sorted(keys.actions())


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.toml"
    monkeypatch.setenv("SEGTUI_CONFIG", str(path))
    return path


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["runs", "--json", *arguments]) == 0
    return [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()]


def test_the_folder_of_runs_is_the_command_lines_then_the_variables_then_the_configurations(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("runs", "configured", "variable", "given"):
        whole_run(tmp_path / name, f"in-{name}")
    monkeypatch.chdir(tmp_path)
    file.write_text("")
    assert listed(capsys) == ["in-runs"]
    file.write_text(f'runs = "{tmp_path / "configured"}"')
    assert listed(capsys) == ["in-configured"]
    monkeypatch.setenv("SEGTUI_RUNS", str(tmp_path / "variable"))
    assert listed(capsys) == ["in-variable"]
    assert listed(capsys, "--runs", "given") == ["in-given"]


def test_the_file_in_the_users_configuration_folder_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole_run(tmp_path / "all", "found")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    from tui.places import config_file

    assert listed(capsys) == []
    config_file().parent.mkdir(parents=True)
    config_file().write_text('runs = "~/all"')
    assert listed(capsys) == ["found"]


@pytest.mark.slow
def test_the_data_folder_is_used_where_neither_the_option_nor_the_variable_names_one(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    submission = tmp_path / "a.csv"
    submission.write_text("image_id,PredictionString\nx.png,0 0 0 0\n")
    file.write_text(f'data = "{tmp_path / "configured"}"')

    def complaint(*arguments: str) -> str:
        assert main(["score", str(submission), "--split", "val", *arguments]) == 2
        return capsys.readouterr().err

    monkeypatch.setenv("SEGTUI_DATA", "")  # so that what is set from the configuration is taken back after the test
    assert str(tmp_path / "configured") in complaint()
    monkeypatch.setenv("SEGTUI_DATA", str(tmp_path / "variable"))
    assert str(tmp_path / "variable") in complaint()
    assert str(tmp_path / "given") in complaint("--data", str(tmp_path / "given"))


MISTAKES = """\
run = "/data/runs"
data = 7
theme = "drakula"

[keys]
"runs.delte" = "delete"
"runs.stop" = "dlete"
"runs.filter" = "o"
"run.copy" = ["c"]
"""


def test_all_mistakes_are_told_at_once_each_with_its_line_and_the_nearest_right_word(file: Path) -> None:
    file.write_text(MISTAKES)
    with pytest.raises(RequestError) as caught:
        config.load(for_screens=True)
    told = [(problem.line, problem.key, str(problem)) for problem in caught.value.problems]
    assert [(line, key) for line, key, _ in told] == [
        (1, "run"),
        (2, "data"),
        (3, "theme"),
        (6, 'keys."runs.delte"'),
        (7, 'keys."runs.stop"'),
        (8, 'keys."runs.filter"'),
        (9, 'keys."run.copy"'),
    ]
    for (_, _, text), expected in zip(
        told,
        (
            "'runs'",
            "wants text in quotes, got 7",
            "'dracula'",
            "'runs.delete'",
            "'delete'",
            "'o' is also Sort (runs.order)",
            "wants text in quotes",
        ),
        strict=True,
    ):
        assert text.startswith(f"{file}:")
        assert expected in text


def test_a_listing_tells_them_too_with_exit_code_2(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("runs = 1\nfolder = 2\n")
    assert main(["runs"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 2
    assert f"{file}:1: runs: wants text in quotes, got 1" in told.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runs = \n", ":1: is not TOML"),
        ('[keys]\nruns.delete = "delete"\n', 'write it in quotes, as in "runs.delete" = "x"'),
        ("keys = 3\n", "keys: wants a table, got 3"),
        ("\xff", "is not UTF-8"),
    ],
)
def test_a_file_that_is_no_configuration_is_told(file: Path, text: str, expected: str) -> None:
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(RequestError) as caught:
        config.load(for_screens=True)
    assert expected.lower() in str(caught.value).lower()


def test_a_named_file_that_does_not_exist_is_told_and_an_unnamed_one_is_not_needed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="there is no such file"):
        config.load()
    monkeypatch.delenv("SEGTUI_CONFIG")
    assert config.load() == config.Config()


@given(st.dictionaries(st.one_of(st.sampled_from(IDS), st.text()), st.text(), max_size=5))
def test_whatever_the_key_map_says_is_judged_by_its_own_keys(key_map: dict[str, str]) -> None:
    told = list(keys.mistakes(key_map))
    assert {name for name, _, _ in told} <= set(key_map)
    assert {name for name in key_map if name not in IDS} <= {name for name, _, _ in told}


@given(st.sets(st.sampled_from(IDS), max_size=12))
def test_keys_that_nothing_else_uses_are_right(chosen: set[str]) -> None:
    assert not list(keys.mistakes({name: f"f{number}" for number, name in enumerate(sorted(chosen), start=12)}))


@pytest.mark.parametrize("name", IDS)
def test_every_action_can_be_given_its_own_default_keys(name: str) -> None:
    own = ",".join(dict.fromkeys(binding.key for binding in keys._all_bindings() if binding.id == name))
    assert not list(keys.mistakes({name: own}))


def test_two_actions_may_change_places() -> None:
    assert not list(keys.mistakes({"app.launch": "2", "app.run": "1"}))
    assert list(keys.mistakes({"app.launch": "2"}))


def test_the_screens_follow_the_key_map_and_so_does_the_help(tmp_path: Path) -> None:
    whole_run(tmp_path, "a")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: "finished" in seen(app))
        await pilot.press("x")
        on(app, RunsScreen)
        await pilot.press("delete")
        on(app, Confirm)
        await pilot.press("n", "question_mark")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen) and "Delete" in seen(app))
        assert next(line for line in seen(app).splitlines() if "Delete" in line).split()[1] == "del"
        await pilot.press("escape", "4")
        on(app, RunsScreen)
        assert "f6 Checkpoints" in seen(app)
        await pilot.press("f6")
        await until(pilot, lambda: isinstance(app.screen, CheckpointsScreen))

    play(tmp_path, scene, keys={"runs.delete": "delete", "app.checkpoints": "f6"})


def test_a_theme_that_was_chosen_in_the_palette_is_there_at_the_next_start(tmp_path: Path) -> None:
    whole_run(tmp_path, "a")

    async def choose(pilot: Pilot[None], app: SegtuiApp) -> None:
        await pilot.press("ctrl+p", *"theme")
        await until(pilot, lambda: "Theme" in seen(app))
        await pilot.press("enter")
        await until(pilot, lambda: "themes" in seen(app))
        await pilot.press(*"gruvbox")
        await until(pilot, lambda: "gruvbox" in seen(app).split("🔎")[-1].partition("\n")[2])
        await pilot.press("enter")
        await until(pilot, lambda: app.theme == "gruvbox")

    play(tmp_path, choose)
    assert memory.remembered().theme == "gruvbox"


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 2, "theme": 3}', b'{"version": 9, "theme": "nord"}'])
def test_what_was_remembered_in_another_form_is_left_aside(content: bytes) -> None:
    memory.remember_theme("nord")
    assert memory.remembered().theme == "nord"
    (places.state_folder() / "state.json").write_bytes(content)
    assert memory.remembered() == memory.State()


@pytest.mark.slow
def test_the_program_starts_with_the_configured_theme_else_the_remembered_one_and_refuses_a_wrong_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    environment = os.environ | {"SEGTUI_CONFIG": str(file), "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    memory.remember_theme("nord")

    def start() -> pexpect.spawn:
        arguments = ["-m", "tui.cli", "--runs", str(tmp_path / "runs")]
        return pexpect.spawn(
            sys.executable, arguments, dimensions=(24, 80), timeout=60, encoding="utf-8", env=environment, cwd=str(tmp_path)
        )

    for text, background in (("", "48;2;46;52;64"), ('theme = "gruvbox"', "48;2;40;40;40")):
        file.write_text(text)
        program = start()
        program.expect_exact(background)
        program.expect("Launch")
        program.send("q")
        program.expect(pexpect.EOF)
        program.close()
        assert program.exitstatus == 0
    file.write_text(MISTAKES)
    program = start()
    program.expect(pexpect.EOF)
    program.close()
    assert program.exitstatus == 2
    assert "Traceback" not in program.before
    assert program.before.count("segtui: ") == 7


def test_help_reads_no_configuration_and_a_listing_without_one_imports_neither_textual_nor_pydantic(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("this is wrong")
    program = "import sys; from tui.cli import main; code = main(sys.argv[1:]); print(sorted(sys.modules), file=sys.stderr); sys.exit(code)"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT)

    assert run("--help").returncode == 0
    monkeypatch.delenv("SEGTUI_CONFIG")
    found = run("runs", "--runs", str(tmp_path))
    assert found.returncode == 0
    assert not {"textual", "pydantic"} & set(eval(found.stderr.splitlines()[-1]))
