"""Images that a json names lie below data.root, unless the preset says that others are meant."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import preset
from engine.checkup import CheckupRequest, Finding
from engine.coco import check_images, read_split
from engine.doctor import examine
from engine.errors import EXIT_REQUEST, RequestError
from engine.events import Toggles
from engine.inside import check_inside
from engine.sample import ensure_sample
from tests.conftest import write_shapes
from tests.training import write_preset
from tui.cli import main

Spoil = Callable[[Path, str], str]


def climbs(root: Path, name: str) -> str:
    shutil.copyfile(root / name, root.parent / "other.png")
    return "../other.png"


def climbs_and_comes_back_elsewhere(root: Path, name: str) -> str:
    (root.parent / f"{root.name}-other").mkdir()
    shutil.copyfile(root / name, root.parent / f"{root.name}-other" / "x.png")
    return f"images/../../{root.name}-other/x.png"


def is_absolute(root: Path, name: str) -> str:
    climbs(root, name)
    return str(root.parent / "other.png")


def is_a_link(root: Path, name: str) -> str:
    climbs(root, name)
    (root / "link.png").symlink_to("../other.png")
    return "link.png"


def is_below_a_link(root: Path, name: str) -> str:
    (root.parent / "elsewhere").mkdir()
    shutil.copyfile(root / name, root.parent / "elsewhere" / "x.png")
    (root / "linked").symlink_to(root.parent / "elsewhere")
    return "linked/x.png"


LEAVE = [climbs, climbs_and_comes_back_elsewhere, is_absolute, is_a_link, is_below_a_link]


def renamed(root: Path, spoil: Spoil, name: str = "train.json") -> str:
    """The first image's new name in the json."""
    table = json.loads((root / name).read_text())
    image = table["images"][0]
    image["file_name"] = spoil(root, image["file_name"])
    (root / name).write_text(json.dumps(table))
    return str(image["file_name"])


@pytest.mark.parametrize("spoil", LEAVE)
def test_an_image_elsewhere_is_refused_by_name_with_the_fix(shapes: Path, spoil: Spoil) -> None:
    name = renamed(shapes, spoil)
    with pytest.raises(RequestError) as refused:
        read_split(shapes, "train.json", "class")
    (problem,) = refused.value.problems
    assert problem.file == str(shapes / "train.json")
    assert repr(name) in problem.message
    assert "data.allow_outside = true" in problem.fix


@pytest.mark.parametrize("spoil", LEAVE)
def test_it_is_read_where_the_preset_allows_it(shapes: Path, spoil: Spoil) -> None:
    renamed(shapes, spoil)
    check_images(read_split(shapes, "train.json", "class", allow_outside=True))


@pytest.mark.parametrize("spoil", LEAVE)
def test_what_the_doctor_says_is_what_a_launch_would(shapes: Path, spoil: Spoil, tmp_path: Path) -> None:
    """Also with its cache warm: a link can be turned where the json stays as it is."""
    file = write_preset(tmp_path, shapes)
    errors = examined(file, tmp_path)
    assert [each.text for each in errors] == []
    name = renamed(shapes, spoil)
    for _ in range(2):
        (error,) = examined(file, tmp_path)
        assert error.about == "train json"
        assert repr(name) in error.text
    assert examined(file, tmp_path, "data.allow_outside=true") == []


def test_a_link_that_is_turned_under_a_warm_cache_is_found(shapes: Path, tmp_path: Path) -> None:
    file = write_preset(tmp_path, shapes)
    name = renamed(shapes, lambda root, name: name)
    assert examined(file, tmp_path) == []
    (shapes / name).rename(tmp_path / "moved.png")
    (shapes / name).symlink_to(tmp_path / "moved.png")
    (error,) = examined(file, tmp_path)
    assert "data.allow_outside" in error.text


def examined(file: Path, runs: Path, *overrides: str) -> list[Finding]:
    table = preset.load(file, overrides).model_dump(exclude_none=True)
    report = examine(CheckupRequest(table, Toggles(), str(runs)), lambda task, done, total: None)
    return [each for each in report.findings if each.level == "error"]


@pytest.mark.slow
def test_a_launch_is_refused_and_leaves_nothing(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    renamed(shapes, climbs)
    file = write_preset(tmp_path, shapes)
    assert main(["--headless", str(file), "--runs", str(tmp_path / "runs")]) == EXIT_REQUEST
    assert "names images outside of data.root: '../other.png'" in capsys.readouterr().err
    assert [each.name for each in (tmp_path / "runs").glob("[!.]*")] == []


def test_a_root_that_is_a_link_itself_is_fine(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(shapes)
    check_images(read_split(tmp_path / "link", "train.json", "class"))


def test_links_and_dots_within_the_root_are_fine(shapes: Path) -> None:
    def inside(root: Path, name: str) -> str:
        (root / "other").symlink_to(root / "images")
        return f"images/../other/./{Path(name).name}"

    renamed(shapes, inside)
    check_images(read_split(shapes, "train.json", "class"))


def test_the_sample_lies_in_its_folder() -> None:
    root = ensure_sample()
    for name in ("train", "val", "test"):
        read_split(root, f"{name}.json", "class")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(["..", ".", "images", "x.png", "", "linked", "/", "\0", "a" * 300, "\udcff", "é"]), max_size=8).map("/".join)
)
def test_whatever_is_let_through_lies_below_the_root(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    root = tmp_path_factory.getbasetemp() / "root"
    if not root.exists():
        write_shapes(root)
        (root / "linked").symlink_to("/")
    try:
        check_inside(root, root / "x.json", [name])
    except RequestError:
        return
    try:
        found = (root / name).resolve(strict=True)
    except (OSError, ValueError):
        return  # there is no such file
    assert found.is_dir() or found.is_relative_to(root.resolve())
