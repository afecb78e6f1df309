"""The README tells the truth: its commands parse, its files exist, its preset loads, its layout is the real one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from engine import preset
from engine.errors import RequestError
from tui import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands(program: str) -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    words = [[word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)] for line in lines]
    return [each[1:] for each in words if each and each[0] == program]


@pytest.mark.parametrize("arguments", commands("segtui"), ids=" ".join)
def test_every_command_is_understood(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Up to what only the machine at hand can lack: a run of that name. Presets are resolved, nothing is trained."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "presets").symlink_to(ROOT / "presets")
    monkeypatch.setattr("tui.headless._launch", lambda request, as_json: preset.from_dict(request.preset) and 0)
    monkeypatch.setattr("tui.headless.run", lambda *_: 0)
    code = cli.main(arguments)
    text = capsys.readouterr().err
    lacking = "there is no such run" in text and "PAN-efficientnet-b3" in arguments
    assert code == 0 or lacking, text


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {each[0] for each in commands("make")} | set(re.findall(r"`make (\w+)`", README))
    assert {"demo", "test", "check"} <= named
    assert all(re.search(rf"^{name}:", makefile, re.M) for name in named)


def test_the_preset_loads(tmp_path: Path) -> None:
    for name in ("base.toml",):
        (tmp_path / name).write_text((ROOT / "presets" / name).read_text())
    (text,) = blocks("toml")
    (tmp_path / "mine.toml").write_text(text)
    loaded = preset.load(tmp_path / "mine.toml", environment={})
    assert loaded.loss[1].weight == 0.5
    assert loaded.train.warmup_steps == 200


def test_the_example_of_mistakes_is_what_is_said(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(
        'extends = "base.toml"\n\n[model]\ntype = "PAN"\nencoder_name = "efficentnet-b3"\n\n[augment]\ntrain = [\n'
        '  { type = "HorizontalFlip", p = 1.0 }, { type = "HorizontalFlip", pp = 0.5 },\n]\n'
    )
    (tmp_path / "base.toml").write_text((ROOT / "presets" / "base.toml").read_text())
    with pytest.raises(RequestError) as caught:
        preset.load(tmp_path / "my.toml", environment={})
    said = [f"segtui: {problem}".replace(f"{tmp_path}/", "") for problem in caught.value.problems]
    assert said == blocks("text")[0].splitlines()


def test_linked_files_exist() -> None:
    links = [target for target in re.findall(r"\]\(([^)]+)\)", README) if not target.startswith("http")]
    assert "docs/run.svg" in links
    assert all((ROOT / target).exists() for target in links)


def test_named_presets_exist() -> None:
    named = re.search(r"`presets/` has (.*?); all extend", README, re.S)
    assert named is not None
    assert {f"{name}.toml" for name in re.findall(r"`(\w+)`", named[1])} == {path.name for path in (ROOT / "presets").glob("*.toml")} - {
        "base.toml"
    }
