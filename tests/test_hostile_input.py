"""Spoilt files of every kind that the program reads, and single ones that the mutations turned up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from engine import preset
from engine.checkpoint_header import HeaderError, read_header
from engine.coco import read_split
from engine.errors import EXIT_DONE, RequestError
from engine.events import EventReader, encode
from engine.masks import mask_cache
from engine.results import read_result
from engine.toml_lines import key_lines
from tests import mutations
from tests.mutated_kinds import all_kinds
from tests.screens import history, told, validation, whole_run
from tui.cli import main


@pytest.mark.slow
def test_a_thousand_spoilt_files_give_their_content_or_one_error_that_names_them(tmp_path: Path) -> None:
    """`python -m tests.mutations --count 5000` is the long run."""
    kinds = all_kinds(tmp_path)
    outcome = mutations.run(kinds, seed=20261, count=1000)
    assert not outcome.defects, "\n".join(outcome.defects[:5])
    assert sum(outcome.accepted.values()) + sum(outcome.refused.values()) == 1000
    for kind in kinds:  # each is refused at times, but for those whose damage is passed over or mended
        assert outcome.refused[kind.name] or kind.name == "event log" or kind.name.startswith("masks")


def test_whole_files_are_read(tmp_path: Path) -> None:
    """Else the mutations would be of files that were refused from the start."""
    for kind in all_kinds(tmp_path / "whole"):
        if kind.name in ("image", "description", "old checkpoint"):
            continue  # bombs are among the images, and the weights are of no network
        for number, content in enumerate(kind.whole):
            place = tmp_path / kind.name.replace(" ", "_") / str(number)
            place.mkdir(parents=True)
            kind.read(place, content)


def test_a_defect_would_be_found(tmp_path: Path) -> None:
    def read(folder: Path, content: bytes) -> None:
        raise KeyError(content[:1])

    kind = mutations.Kind("faulty", [b"abc"], read, "x")
    outcome = mutations.run([kind], seed=1, count=3, keep=tmp_path)
    assert [each.splitlines()[-1][:8] for each in outcome.defects] == ["KeyError"] * 3
    assert len(list(tmp_path.iterdir())) == 3


def test_memory_without_bound_would_be_found() -> None:
    def read(folder: Path, content: bytes) -> None:
        np.ones(mutations.MOST_BYTES * 2, np.uint8)

    outcome = mutations.run([mutations.Kind("greedy", [b"abc"], read, "x")], seed=1, count=1)
    assert len(outcome.defects) == 1
    assert "MemoryError" in outcome.defects[0]


def coco(root: Path, **image: Any) -> Path:
    outline = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]], "area": 40}
    table = {"images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 20} | image], "annotations": [outline]}
    (root / "x.json").write_text(json.dumps(table | {"categories": [{"id": 1, "name": "a"}]}))
    return root


def test_an_image_said_to_have_a_million_million_pixels_is_refused_before_its_label_map_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"x\.json: image 1 needs 'height' and 'width'"):
        read_split(coco(tmp_path, height=1 << 20, width=1 << 20), "x.json", "class")


@pytest.mark.parametrize("name", ["values", "lengths", "offsets", "sizes", "pixels"])
def test_a_damaged_cache_of_label_maps_is_drawn_anew(tmp_path: Path, name: str) -> None:
    """One flipped byte of its numbers, which NumPy reads without a word."""
    split = read_split(coco(tmp_path), "x.json", "class")
    whole = mask_cache(split, "area", tmp_path / "cache", 0, lambda done, total: None)
    before = whole[0].copy()
    file = whole.folder / f"{name}.npy"
    content = bytearray(file.read_bytes())
    content[128] ^= 0x48
    file.write_bytes(content)
    again = mask_cache(split, "area", tmp_path / "cache", 0, lambda done, total: None)
    np.testing.assert_array_equal(again[0], before)
    assert file.read_bytes() != content


def test_lines_of_a_preset_of_three_thousand_lines_are_found_in_seconds() -> None:
    text = "train = [\n" + "    0,\n" * 3000 + "]\nlast = 1\n"
    assert key_lines(text).get(("train",)) == 1
    assert key_lines("[model]\n" + "# a line\n" * 50 + "x = 1\n")["model", "x"] == 52


def test_a_preset_larger_than_any_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "x.toml").open("wb") as file:
        file.truncate(50 << 30)  # without a byte on the disk
    with pytest.raises(RequestError, match=r"x\.toml: is larger than 1 MiB"):
        preset.load(tmp_path / "x.toml")


def test_thousands_of_mistakes_are_told_as_twenty_and_a_number(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("\n".join(f"wrong_{number} = 1" for number in range(1000)))
    with pytest.raises(RequestError) as refused:
        preset.load(tmp_path / "x.toml")
    assert len(refused.value.problems) == 21
    assert str(refused.value.problems[-1]).endswith("and 983 more mistakes")


def test_an_endless_value_is_quoted_in_part(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(f'[model]\ntype = "{"x" * 900_000}"\n')
    with pytest.raises(RequestError) as refused:
        preset.load(tmp_path / "x.toml")
    assert max(len(str(problem)) for problem in refused.value.problems) < 5000


def test_a_checkpoint_whose_description_names_no_model_is_told_apart(tmp_path: Path) -> None:
    described = {"segtui": "0", "kind": "best", "preset": {}, "classes": [], "mean": [], "std": [], "epoch": 1, "mIoU": None, "IoU": []}
    table = json.dumps({"__metadata__": {"segtui": json.dumps(described)}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(table).to_bytes(8, "little") + table)
    with pytest.raises(HeaderError, match="names no model"):
        read_header(tmp_path / "x.safetensors")


@pytest.mark.parametrize("content", [b'{"name": "\xff"}', b'{"a":' * 50_000, b"[" * 50_000, b"\xff\xfe", b"null"])
def test_a_record_that_is_no_json_is_a_row_that_says_so(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    whole_run(tmp_path, "good")
    whole_run(tmp_path, "bad").path.joinpath("run.json").write_bytes(content)
    assert main(["runs", "--runs", str(tmp_path)]) == EXIT_DONE
    told_rows = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[:2] for line in told_rows[1:]] == [["good", "finished"], ["bad", "unreadable"]]
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "predict.json").write_bytes(content)
    assert "predict.json is not a prediction's record" in read_result(tmp_path / "result").problem


def scores(ious: Sequence[float | None], supports: int) -> bytes:
    event = validation(1, ious, [10] * supports)
    return encode(event) + b"\n"


def test_scores_that_do_not_go_by_the_runs_classes_are_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = whole_run(tmp_path, "a")
    run.events.unlink()
    events = history("a")
    told(run, events[:2])
    with run.events.open("ab") as file:
        file.write(scores([0.5], 1))  # of one class, where the run has three
        file.write(scores([0.5] * 3, 2))  # fewer supports than scores
        file.write(b"[" * 100_000 + b"\n")
    told(run, events[2:])
    reader = EventReader(run.events)
    assert [type(event) for event in reader.read()] == [type(event) for event in events]
    assert reader.unreadable == 3
    assert main(["attach", str(run.path)]) == EXIT_DONE
    assert capsys.readouterr().err.count("best so far") == 3


def test_a_log_without_its_beginning_is_shown_as_far_as_it_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = whole_run(tmp_path, "a")
    run.events.write_bytes(b"\n".join(run.events.read_bytes().splitlines()[1:]) + b"\n")
    assert main(["attach", str(run.path)]) == EXIT_DONE
    assert "masks are cached" in capsys.readouterr().err


def test_a_base_with_a_name_longer_than_a_files(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(f'extends = "{"x" * 5000}"\n')
    with pytest.raises(RequestError, match=r"x\.toml:1: extends: there is no file"):
        preset.load(tmp_path / "x.toml")


def test_what_msgspec_raises_besides_its_own() -> None:
    """The reason for ValueError and RecursionError where records are read."""
    with pytest.raises(UnicodeDecodeError):
        msgspec.json.decode(b'"\xff"', type=str)
    with pytest.raises(RecursionError):
        msgspec.json.decode(b"[" * 50_000)
