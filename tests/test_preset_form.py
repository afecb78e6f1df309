"""The rows of the form, what an edit is as an override, and an edited preset that is saved."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.catalogue import catalogue
from engine.errors import RequestError
from engine.preset import BUILT_IN, draft, load
from engine.preset_saving import save_as
from tui.memory import MOST_PRESETS, recent_presets, remember_preset
from tui.preset_rows import Row, override, rows, shown

NAMES = sorted(path.stem for path in BUILT_IN.glob("*.toml") if path.stem != "base")


def form(name: str, *overrides: str, everything: bool = False) -> dict[str, Row]:
    found = rows(draft(name, overrides), draft(name), catalogue(), everything=everything)
    return {row.key: row for row in found if row.path}


@pytest.mark.parametrize("name", NAMES)
def test_every_value_of_a_preset_is_a_row_and_typed_again_changes_nothing(name: str) -> None:
    preset = load(name).model_dump(exclude_none=True)
    found = form(name)
    for table in ("model", "data", "optimizer", "train", "wandb", "debug"):
        for key, value in preset[table].items():
            if (table, key) != ("data", "root"):  # resolved, it is absolute
                assert found[f"{table}.{key}"].value == shown(value)
    typed = [override(row, row.value) for row in found.values() if row.value != "-" and row.is_set]
    assert load(name, typed).model_dump(exclude_none=True) == preset
    assert not any(row.is_changed or row.problem for row in found.values())


def test_a_changed_value_has_what_the_file_says_beside_it() -> None:
    found = form("pan", "train.epochs=7", "augment.train.0.p=0.9", "data.image_size=[64, 96]")
    assert (found["train.epochs"].value, found["train.epochs"].before) == ("7", "50")
    assert (found["augment.train.0.p"].value, found["augment.train.0.p"].before) == ("0.9", "0.5")
    assert (found["data.image_size"].value, found["data.image_size"].before) == ("[64, 96]", "-")
    assert {key for key, row in found.items() if row.is_changed} == {
        "train.epochs",
        "augment.train",
        "augment.train.0.p",
        "data.image_size",
    }


def test_mistakes_stand_at_their_rows_and_what_is_missing_gets_one() -> None:
    found = form("pan", "train.epochs=x", "scheduler.type=StepLR", "optimizer.lrr=1", "model.encoder_name=resnet5")
    assert found["train.epochs"].problem == "wants a whole number, got 'x'"
    assert found["scheduler.step_size"].problem.startswith("is missing: StepLR needs it")
    assert "did you mean 'lr'" in found["optimizer.lrr"].problem
    assert "no encoder 'resnet5'" in found["model.encoder_name"].problem
    assert len([row for row in found.values() if row.problem]) == 4


def test_all_arguments_have_the_defaults_of_the_library() -> None:
    few, all_of_them = form("pan"), form("pan", everything=True)
    assert "optimizer.betas" not in few
    assert all_of_them["optimizer.betas"].value == "(0.9, 0.999)"
    assert not all_of_them["optimizer.betas"].is_set
    assert not any(row.is_changed for row in all_of_them.values())
    typed = form("pan", "optimizer.betas=[0.8, 0.9]")["optimizer.betas"]
    assert (typed.value, typed.is_changed) == ("[0.8, 0.9]", True)


def test_what_may_be_written_is_offered() -> None:
    found = form("pan")
    assert found["data.background"].choices == ("class", "ignore")
    assert found["train.compile"].choices == ("true", "false")
    assert "resnet18" in found["model.encoder_name"].names
    assert set(found["optimizer.type"].names) == set(catalogue().optimizers)
    assert "imagenet" in found["model.encoder_weights"].names
    assert "Images in one step" in found["data.batch_size"].help


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_text_in_a_field_of_text_is_that_text(text: str) -> None:
    row = Row(("wandb", "project"), "project", is_text=True)
    key, _, value = override(row, text).partition("=")
    assert key == "wandb.project"
    assert tomllib.loads(f"value = {value}")["value"] == text


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_preset_loads_as_it_was_edited(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    edits = ["train.epochs=3", "optimizer.type=SGD", "optimizer.lr=0.5", "augment.train=[]", "model.type=FPN"]
    monkeypatch.setenv("SEGTUI_DATA", str(tmp_path))
    saved = save_as(tmp_path / "presets" / "mine.toml", edits, BUILT_IN / f"{name}.toml")
    expected = load(name, edits, environment={}).model_dump(exclude_none=True) | {"name": "mine"}
    assert load(saved, environment={}).model_dump(exclude_none=True) == expected
    assert "extends" not in tomllib.loads(saved.read_text())  # an installed preset lies elsewhere on another machine
    assert str(tmp_path) not in saved.read_text()


def test_a_preset_of_the_project_is_extended_unless_something_was_taken_away(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(load_text("pan"))
    changed = save_as(tmp_path / "two.toml", ["train.epochs=3", "augment.train.0.p=1.0"], tmp_path / "one.toml")
    table = tomllib.loads(changed.read_text())
    assert table["extends"] == "one.toml"
    assert table["train"] == {"epochs": 3}
    assert table["augment"]["train"][0]["p"] == 1.0
    taken = save_as(tmp_path / "three.toml", ["scheduler.type=none"], tmp_path / "one.toml")
    assert load(taken).scheduler is None


def load_text(name: str) -> str:
    from engine.preset import to_toml

    return to_toml(load(name)).replace(f'name = "{name}"\n', "")


def test_saving_refuses_what_is_there_and_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("mine")
    with pytest.raises(RequestError, match="is there already"):
        save_as(tmp_path / "mine.toml", [], BUILT_IN / "pan.toml")
    assert (tmp_path / "mine.toml").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot be written"):
        save_as(tmp_path / "file" / "mine.toml", [], BUILT_IN / "pan.toml")


def test_the_presets_used_last_come_first_once_and_only_while_they_are_there(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.toml" for number in range(MOST_PRESETS + 2)]
    for file in files:
        file.write_text("")
        remember_preset(file)
    assert recent_presets() == files[:1:-1][:MOST_PRESETS]
    remember_preset(files[4])
    assert recent_presets()[0] == files[4]
    assert len(set(recent_presets())) == len(recent_presets()) == MOST_PRESETS
    files[4].unlink()
    assert files[4] not in recent_presets()
