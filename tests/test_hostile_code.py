"""Nothing of a file runs unless its user named it: no pickle that can hold code, no preset in Python that was only looked at."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList

from engine import preset
from engine.errors import EXIT_REQUEST, RequestError
from engine.preset import ProgramNotRun
from tests.screens import ROOT, new_run, on, play, seen, until
from tui.app import SegtuiApp
from tui.cli import main
from tui.screens.launch import LaunchScreen

PROGRAM = """
from pathlib import Path

with Path("{ran}").open("a") as file:
    file.write("ran\\n")
model = dict(type="Unet", args=dict(encoder_name="resnet18"))
"""
RUNS_CODE = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "cloudpickle", "yaml"}
DANGEROUS = {"eval", "exec", "compile", "os.system", "os.popen"}


def calls(*folders: str) -> Iterator[tuple[str, ast.Call, str]]:
    """Every call below the folders: its place, and what is called as it is written."""
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call):
                    yield f"{file.relative_to(ROOT)}:{node.lineno}", node, ast.unparse(node.func)


def argument(call: ast.Call, name: str) -> object:
    return next((ast.literal_eval(each.value) for each in call.keywords if each.arg == name), None)


def test_torch_unpickles_weights_alone() -> None:
    found = [(place, call) for place, call, name in calls("engine", "tui", "benchmarks") if name == "torch.load"]
    assert len(found) >= 2
    assert [place for place, call in found if argument(call, "weights_only") is not True] == []


def test_numpy_unpickles_nothing() -> None:
    assert [place for place, call, _ in calls("engine", "tui", "benchmarks") if argument(call, "allow_pickle")] == []


def test_nothing_else_that_runs_what_it_reads_is_called() -> None:
    found = {name for _, _, name in calls("engine", "tui") if name.split(".")[0] in RUNS_CODE or name in DANGEROUS}
    assert found == set()
    programs = [place.split(":")[0] for place, _, name in calls("engine", "tui") if name.startswith("runpy.")]
    assert programs == ["engine/baseline.py"]  # presets in Python, which are programs


def test_what_runs_a_shell_is_not_called() -> None:
    assert [place for place, call, name in calls("engine", "tui") if argument_is_true(call, "shell")] == []


def argument_is_true(call: ast.Call, name: str) -> bool:
    return any(each.arg == name and ast.unparse(each.value) != "False" for each in call.keywords)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Presets of which two are programs: one is Python, one extends it."""
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "a.py").write_text(PROGRAM.format(ran=tmp_path / "ran"))
    (tmp_path / "presets" / "b.toml").write_text('extends = "a.py"\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_preset_in_python_runs_where_it_is_named(project: Path) -> None:
    with pytest.raises(RequestError, match="optimizer: is missing"):
        preset.load("presets/a.py")
    assert (project / "ran").exists()


@pytest.mark.parametrize("name", ["a.py", "b.toml"])
def test_a_preset_in_python_that_nobody_named_is_not_run(project: Path, name: str) -> None:
    with pytest.raises(ProgramNotRun, match=r"presets/a\.py: is a program"):
        preset.draft(f"presets/{name}", run_programs=False)
    assert not (project / "ran").exists()


def test_moving_over_a_preset_in_python_runs_nothing_until_it_is_asked_for(project: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        launch = on(app, LaunchScreen)
        await until(pilot, lambda: "a preset in Python is a program: enter runs it" in seen(app), 60)
        assert "presets/a.py" in seen(app)
        await pilot.press("j")
        await until(pilot, lambda: launch.path == Path("presets/b.toml") and "is a program" in seen(app))
        await pilot.press("ctrl+r", "ctrl+s", "d")  # starting, saving and toggles are no reason to run it either
        await pilot.pause(0.3)
        assert not (project / "ran").exists()
        assert app.launched == []
        await pilot.press("j", "k", "enter")
        await until(pilot, lambda: launch.draft is not None)
        assert (project / "ran").exists()
        assert "is a program" not in seen(app)
        times = len((project / "ran").read_text().splitlines())
        await pilot.press("k")
        await until(pilot, lambda: "is a program" in seen(app))
        await pilot.pause(0.3)
        assert len((project / "ran").read_text().splitlines()) == times

    play(project / "runs", scene)


def test_going_into_the_fields_of_a_preset_in_python_asks_for_it(project: Path) -> None:
    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: "is a program" in seen(app), 60)
        await pilot.press("l")
        await until(pilot, lambda: on(app, LaunchScreen).draft is not None)
        assert (project / "ran").exists()
        await pilot.press("h")
        assert isinstance(app.focused, OptionList)

    play(project / "runs", scene, size=(80, 24))


def test_resuming_a_run_whose_preset_was_made_a_program_runs_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = new_run(project / "runs", "FPN-resnet18", state="stopped")
    run.resume.write_bytes(b"")
    run.preset.write_text('extends = "../../presets/a.py"\n')
    assert main(["--headless", "--resume", "FPN-resnet18", "--runs", str(project / "runs")]) == EXIT_REQUEST
    assert "is a program" in capsys.readouterr().err
    assert not (project / "ran").exists()
