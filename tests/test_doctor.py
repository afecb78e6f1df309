"""The doctor: its numbers, its caches, its process, and `segtui check`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from engine.checkup import Checkup, CheckupRequest, Report, decode, encode
from engine.doctor import examine
from engine.errors import RunError
from engine.events import Progress, Toggles
from engine.machine_checks import GIB, Machine, machine_findings
from engine.model_facts import ModelFacts
from engine.preset import load
from engine.schema import Preset
from engine.training_data import read_data
from tests.conftest import write_shapes
from tests.training import write_preset
from tui.cli import main

CLASSES = 3
SIZE = (24, 20)


def request(root: Path, runs: Path, *overrides: str, toggles: Toggles | None = None, full: bool = False) -> CheckupRequest:
    table = load(write_preset(root, root), overrides)
    return CheckupRequest(table.model_dump(exclude_none=True), toggles or Toggles(), str(runs), full)


def checked(asked: CheckupRequest) -> Report:
    return examine(asked, lambda task, done, total: None)


def without_time(report: Report) -> dict[str, Any]:
    return msgspec.to_builtins(report) | {"seconds": 0}  # type: ignore[no-any-return]


def write_label_maps(root: Path, split: str, maps: list[NDArray[np.uint8]], categories: list[int]) -> None:
    """A split with exactly these label maps (0 where nothing is): each label one run-length code, columns first."""
    images, annotations = [], []
    for number, labels in enumerate(maps):
        name = f"{split}_{number}.png"
        Image.fromarray(np.random.default_rng([number, len(split)]).integers(0, 255, (*SIZE, 3), np.uint8)).save(root / name)
        images.append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        for label, category in enumerate(categories, start=1):
            flat = (labels == label).T.ravel()
            if flat.any():
                edges = np.flatnonzero(np.diff(np.concatenate(([False], flat, [not flat[-1]])).astype(int)))
                counts = np.diff(np.concatenate(([0], edges))).tolist()
                outline = {"size": list(SIZE), "counts": counts}
                annotations.append({"id": len(annotations), "image_id": number, "category_id": category, "segmentation": outline})
    names = [{"id": category, "name": f"class {category}"} for category in categories]
    (root / f"{split}.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": names}))


@pytest.mark.parametrize("background", ["class", "ignore"])
def test_counts_are_those_of_the_label_maps(tmp_path: Path, background: str) -> None:
    rng = np.random.default_rng(7)
    drawn = {}
    for split, count in (("train", 9), ("val", 5)):
        # Blocks of 4x4 pixels; each image has its own few classes.
        maps = [np.kron(rng.choice(rng.permutation(4)[: rng.integers(1, 5)], (6, 5)), np.ones((4, 4), int)) for _ in range(count)]
        drawn[split] = [labels.astype(np.uint8) for labels in maps]
        write_label_maps(tmp_path, split, drawn[split], [3, 7, 12])
    report = checked(request(tmp_path, tmp_path / "runs", f'data.background="{background}"', 'model.type="Unet"', "data.batch_size=2"))
    first = 0 if background == "class" else 1
    assert report.classes == ["Background", "class 3", "class 7", "class 12"][first:]
    for split, maps in drawn.items():
        assert report.pixels[split] == [sum(int((labels == label).sum()) for labels in maps) for label in range(first, 4)]
        assert report.images_with[split] == [sum(bool((labels == label).any()) for labels in maps) for label in range(first, 4)]
        assert report.unlabelled[split] == (0 if first == 0 else sum(int((labels == 0).sum()) for labels in maps))


def test_a_report_of_what_is_right(shapes: Path, tmp_path: Path) -> None:
    report = checked(request(shapes, tmp_path / "runs", "train.epochs=7", "data.batch_size=2", "train.accumulate=3"))
    assert not report.is_refused
    assert report.images == {"train": 8, "val": 4, "test": None}
    assert report.classes == ["Background", "square", "triangle"]
    assert (report.image_size, report.sizes) == ((64, 64), ((64, 64), (64, 64)))
    assert (report.batch_size, report.epochs, report.steps_per_epoch, report.steps) == (2, 7, 2, 14)
    assert report.wandb.startswith("offline")
    assert report.device
    assert report.precision in ("bf16", "fp32")
    assert report.inputs == {}


def test_a_debug_run_is_counted_by_its_subset(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "data", train=40, val=20)
    asked = request(root, tmp_path / "runs", "debug.ratio=0.2", toggles=Toggles(debug=True))
    report = checked(asked)
    train, val = read_data(Preset.model_validate(asked.preset), asked.toggles)
    assert report.images == {"train": len(train), "val": len(val), "test": None} == {"train": 8, "val": 4, "test": None}
    assert sum(report.pixels["train"]) == 8 * 64 * 64
    assert report.images_with["train"][0] == 8
    assert report.checkpoint_bytes == 0


def test_what_was_seen_is_remembered_and_looked_at_again_where_it_changed(shapes: Path, tmp_path: Path) -> None:
    asked = request(shapes, tmp_path / "runs")
    first = checked(asked)
    assert without_time(checked(asked)) == without_time(first)

    image = shapes / "images" / "train_3.png"
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    assert [finding.about for finding in checked(asked).findings if finding.level == "error"] == ["images"]
    image.write_bytes(content)
    assert without_time(checked(asked)) == without_time(first)

    table = json.loads((shapes / "train.json").read_bytes())
    table["annotations"] = [each for each in table["annotations"] if each["category_id"] == 1]
    (shapes / "train.json").write_text(json.dumps(table))
    assert checked(asked).pixels["train"][2] == 0


@pytest.mark.parametrize("content", [b"", b"\x00garbage", b"\x93\x01\x02\x03"], ids=["empty", "garbage", "of another form"])
def test_a_damaged_cache_is_made_again(shapes: Path, tmp_path: Path, content: bytes) -> None:
    asked = request(shapes, tmp_path / "runs")
    first = checked(asked)
    kept = [*(tmp_path / "runs" / ".cache").glob("*.msgpack")]
    assert len(kept) == 3
    for file in kept:
        file.write_bytes(content)
    assert without_time(checked(asked)) == without_time(first)
    assert all(file.read_bytes() != content for file in kept)


def test_a_folder_of_runs_that_is_not_there_is_made(shapes: Path, tmp_path: Path) -> None:
    runs = tmp_path / "new" / "runs"
    assert not checked(request(shapes, runs)).is_refused
    assert [each.name for each in runs.iterdir()] == [".cache"]


def test_names_that_are_no_text_are_refused(shapes: Path, tmp_path: Path) -> None:
    table = json.loads((shapes / "train.json").read_bytes())
    table["images"][0]["file_name"] = "images/\udc80.png"
    (shapes / "train.json").write_text(json.dumps(table))
    report = checked(request(shapes, tmp_path / "runs"))
    assert [finding.about for finding in report.findings if finding.level == "error"] == ["train json"]
    msgspec.json.encode(report)


ODD = [
    None,
    True,
    -1,
    0,
    10**30,
    0.5,
    float("nan"),
    "",
    "\0",
    "x" * 300,
    "../..",
    "\ud800",
    "\x1b[2J",
    [],
    [[]],
    {},
    [1, 2, 3],
    {"counts": "!!", "size": [64, 64]},
]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_json_makes_it_fail(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One to three values anywhere in a json become something else: the answer is a report that can be written."""
    if not (root := tmp_path_factory.getbasetemp() / "mutated").exists():
        write_shapes(root)
    table = json.loads((root / "val.json").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        places = list(_places(table))
        holder, key = places[data.draw(st.integers(0, len(places) - 1))]
        holder[key] = deepcopy(data.draw(st.sampled_from(ODD)))
    (root / "mutated.json").write_text(json.dumps(table))
    which = data.draw(st.sampled_from(["train", "val", "test"]))
    report = checked(request(root, root / "runs", f'data.{which}="mutated.json"', "data.batch_size=2"))
    assert decode(encode(report)) == report


def _places(table: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in it, as what holds it and its key there."""
    items = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else []
    for key, value in list(items):
        yield table, key
        yield from _places(value)


@pytest.mark.slow
def test_the_full_form_measures_the_network_and_what_it_sees(shapes: Path, tmp_path: Path) -> None:
    import segmentation_models_pytorch as smp

    asked = request(shapes, tmp_path / "runs", "augment.train=[]", full=True)
    report = checked(asked)
    network = smp.FPN("resnet18", encoder_weights=None, classes=CLASSES, decoder_segmentation_channels=32)
    assert report.parameters == sum(parameter.numel() for parameter in network.parameters())
    # By hand: files, ImageNet's mean and std.
    for split, count in (("train", 8), ("val", 4)):
        pixels = np.stack([np.asarray(Image.open(shapes / "images" / f"{split}_{number}.png")) for number in range(count)]) / 255
        tensors = (pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        seen = report.inputs[split]
        np.testing.assert_allclose(seen.mean, tensors.mean((0, 1, 2)), atol=1e-4)
        np.testing.assert_allclose(seen.std, tensors.std((0, 1, 2)), atol=1e-4)
        np.testing.assert_allclose((seen.min, seen.max), (tensors.min(), tensors.max()), atol=1e-4)
    quick = checked(msgspec.structs.replace(asked, full=False))
    assert quick.parameters == report.parameters
    assert quick.checkpoint_bytes == report.checkpoint_bytes


@pytest.mark.parametrize(
    ("facts", "free", "level"),
    [
        (ModelFacts(14_000_000, 1300), 8 * GIB, None),
        (ModelFacts(14_000_000, 1300), 1 * GIB, "warning"),
        (None, 64 * GIB, None),
        (None, 8 * GIB, "note"),
        (None, 1 * GIB, "warning"),
    ],
    ids=["measured and enough", "measured and too little", "enough", "too little for many", "too little for any"],
)
def test_gpu_memory(shapes: Path, facts: ModelFacts | None, free: int, level: str | None) -> None:
    """16 images of 512x512 in bf16: about 3 GiB for Unet-resnet18, 2 for the smallest networks, 10 for those of common size."""
    table = load(write_preset(shapes, shapes), ["data.batch_size=16", "data.workers=0"])
    findings = machine_findings(Machine("cuda", "GPU", free, 9), table, "bf16", facts, (512, 512), None)
    assert [finding.level for finding in findings if finding.about == "GPU memory"] == ([level] if level else [])


def test_no_network_is_not_waited_for(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://192.0.2.1")  # an address that nobody has
    report = checked(request(shapes, tmp_path / "runs"))
    assert report.wandb.startswith("offline")
    assert "answer" in report.wandb
    assert report.seconds < 2


# Its process


def test_the_protocol(shapes: Path, tmp_path: Path) -> None:
    (shapes / "images" / "train_0.png").unlink()
    table = load(write_preset(shapes, shapes))
    asked = {"preset": table.model_dump(exclude_none=True), "toggles": {"debug": False}, "runs": str(tmp_path / "runs"), "full": False}
    child = subprocess.run([sys.executable, "-m", "engine.doctor"], input=json.dumps(asked).encode(), capture_output=True, check=True)
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    assert [line["type"] for line in lines] == [*["progress"] * (len(lines) - 1), "report"]
    assert all({"task", "done", "total"} <= line.keys() for line in lines[:-1])
    assert child.stderr == b""
    report = decode(child.stdout.splitlines()[-1])
    assert isinstance(report, Report)
    assert report.images["train"] == 8
    assert lines[-1]["image_size"] == [64, 64]
    assert lines[-1]["findings"][0] == {"level": "error", "about": "images", "text": report.findings[0].text}


def test_the_quick_form_imports_no_training_library(shapes: Path, tmp_path: Path) -> None:
    code = (
        "import sys, engine.doctor; engine.doctor.main()\n"
        "sys.exit(' '.join({'torch', 'albumentations', 'wandb', 'textual', 'rich', 'tui'} & set(sys.modules)) or 0)"
    )
    asked = msgspec.json.encode(request(shapes, tmp_path / "runs"))
    child = subprocess.run([sys.executable, "-c", code], input=asked, capture_output=True, check=False)
    assert (child.returncode, child.stderr) == (0, b"")


def test_a_checkup_from_another_process(shapes: Path, tmp_path: Path) -> None:
    answers = list(Checkup(request(shapes, tmp_path / "runs")))
    assert isinstance(answers[-1], Report)
    assert all(isinstance(answer, Progress) for answer in answers[:-1])


def test_a_checkup_that_cannot_be_done_says_why(tmp_path: Path) -> None:
    asked = CheckupRequest({"model": "none"}, Toggles(), str(tmp_path / "runs"))
    with pytest.raises(RunError, match=r"(?s)without a report .* validation errors? for Preset"):
        list(Checkup(asked))


def test_a_checkup_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "data", train=600, val=4)
    for pause_s in (0.0, 0.005, 0.02, 0.08):
        checkup = Checkup(request(root, tmp_path / "runs", "data.workers=2"))
        for answer in checkup:
            assert isinstance(answer, Progress)
            for _ in range(3):  # whoever is in a hurry asks again
                checkup.stop()
                time.sleep(pause_s)
        _no_children_left()
        assert [each.name for each in (tmp_path / "runs" / ".cache").iterdir()] == []


def test_a_checkup_that_nobody_wants_any_more_ends(tmp_path: Path) -> None:
    answers = iter(Checkup(request(write_shapes(tmp_path / "data", train=600, val=4), tmp_path / "runs", "data.workers=2")))
    next(answers)
    del answers
    _no_children_left()


def test_a_doctor_that_is_killed_takes_those_who_draw_with_it(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "data", train=600, val=4)
    asked = msgspec.json.encode(request(root, tmp_path / "runs", "data.workers=2"))
    with subprocess.Popen([sys.executable, "-m", "engine.doctor"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(asked)
        child.stdin.close()
        child.stdout.readline()
        drawing = psutil.Process(child.pid).children()
        assert len(drawing) == 2
        child.kill()
    _, alive = psutil.wait_procs(drawing, timeout=10)
    assert alive == []


def _no_children_left() -> None:
    deadline = time.monotonic() + 10
    while any(each.status() != psutil.STATUS_ZOMBIE for each in _children()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _children() -> Iterator[psutil.Process]:
    for each in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "engine.doctor" in each.cmdline():
                yield each


# The command


def test_check_says_what_there_is(shapes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(write_preset(shapes, shapes)), "--runs", str(tmp_path / "runs")]) == 0
    out, err = capfd.readouterr()
    for words in ("8 train · 4 val images", "FPN-resnet18", "■ triangle", "nothing wrong", "5 epochs of 2 steps with 4 images: 10 steps"):
        assert words in out
    assert err == ""


def test_check_refuses_what_a_launch_would(shapes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (shapes / "images" / "val_1.png").unlink()
    assert main(["check", str(write_preset(shapes, shapes)), "--runs", str(tmp_path / "runs")]) == 2
    out, _ = capfd.readouterr()
    assert "a launch would be refused: 1 error" in out
    assert "val_1.png does not exist" in " ".join(out.split())


def test_check_refuses_a_preset_with_a_mistake(shapes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(write_preset(shapes, shapes)), "--set", "train.epoch=3"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "Did you mean 'epochs'?" in err


def test_check_in_json_is_the_report_and_nothing_else(shapes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["check", str(write_preset(shapes, shapes)), "--json", "--debug", "--private", "--runs", str(tmp_path / "runs")]
    assert main([*arguments, "--set", "debug.ratio=0.5"]) == 0
    out, _ = capfd.readouterr()
    report = decode(out.encode())
    assert isinstance(report, Report)
    assert report.images["train"] == 4


def test_names_from_files_do_not_command_the_terminal(shapes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val"):
        table = json.loads((shapes / f"{split}.json").read_bytes())
        table["categories"][0]["name"] = "evil\x1b[2J\x07"
        table["images"][0]["file_name"] = "images/\x1b]0;title\x07.png"
        (shapes / f"{split}.json").write_text(json.dumps(table))
    assert main(["check", str(write_preset(shapes, shapes)), "--runs", str(tmp_path / "runs")]) == 2
    out, err = capfd.readouterr()
    assert "\x1b" not in out + err
    assert "\x07" not in out + err
    assert "\\x1b" in out


@pytest.mark.skipif(os.getuid() == 0, reason="the superuser writes everywhere")
def test_a_read_only_folder_of_runs(shapes: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir(mode=0o500)
    report = checked(request(shapes, runs))
    assert [finding.about for finding in report.findings if finding.level == "error"] == ["runs"]
    assert report.pixels["train"]
