"""The kinds of files that are spoilt by the thousand: whole ones, and the doors through which the program reads them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from engine import preset
from engine.checkpoint import load_resume, load_weights, save_resume, save_weights
from engine.checkpoint_header import CheckpointHeader
from engine.coco import check_images, read_split
from engine.errors import EXIT_REQUEST, RequestError
from engine.events import EventReader, encode
from engine.images import ImageError, displayed_size, read_rgb
from engine.loading import load_network
from engine.mask_cache import MaskCache
from engine.masks import mask_cache
from engine.prediction_record import MemberRecord, PredictionRecord, Scored
from engine.probabilities import ProbabilityFile, Sidecar
from engine.results import images_of, read_result
from engine.run import RunFolder, all_checkpoints
from engine.submission import SubmissionReader, encode_row
from tests.conftest import write_shapes
from tests.screens import checkpoint, history, new_run
from tests.training import TINY
from tui import config
from tui.cli import main
from tui.comparing import Compared, Reader, class_scores
from tui.predict_view import told_result
from tui.terminal import Terminal

OVERRIDES = [b"train.epochs=3", b"augment.train.0.p=0.5", b'model.type="Unet"', b"loss.0.weight=2", b"data.image_size=[64, 64]"]
CONFIG = b'runs = "runs"\ndata = "sample"\ntheme = "nord"\n[keys]\n"app.quit" = "f9"\n'
MEMBER = {"name": "a", "path": "/runs/a/checkpoints/best.safetensors", "weight": 1.0, "epoch": 3, "mIoU": 0.5}


Read = Callable[[Path, bytes], None]


class Refused(Exception):
    """The file was refused, in these words."""


@dataclass(frozen=True)
class Kind:
    """One kind of file. `read` writes spoilt content to its place below a folder and reads it.

    It raises Refused, or whatever is a defect. `values` says that the content is json or TOML, whose values are spoilt too;
    `named` is what every message must hold: the file's name where empty.
    """

    name: str
    whole: Sequence[bytes]
    read: Read
    file: str
    values: str = ""
    named: str = ""


def all_kinds(folder: Path) -> list[Kind]:
    """`folder` holds what the spoilt files refer to, and is not written to later."""
    shapes = write_shapes(folder / "shapes")
    tiny = TINY.format(root=shapes).encode()
    splits = [(shapes / f"{name}.json").read_bytes() for name in ("train", "val")]
    runs = folder / "runs"
    run = new_run(runs, "FPN-resnet18")
    events = b"".join(encode(event) + b"\n" for event in history(run.path.name, steps=3))
    weights = checkpoint(run, "best", 0.5).read_bytes()
    return [
        Kind("preset", [tiny, (preset.BUILT_IN / "demo.toml").read_bytes()], partial(_preset, preset.BUILT_IN), "x.toml", "toml"),
        Kind("override", OVERRIDES, partial(_override, tiny), "x.toml", named="--set"),
        Kind("COCO json", [*splits, _run_lengths(splits[0])], partial(_split, shapes), "x.json", "json"),
        Kind("image", _images(folder), _image, "x.png"),
        Kind("checkpoint", [weights, _real_checkpoint(folder)], _checkpoint, "best.safetensors"),
        Kind("description", [_description(weights)], _described, "best.safetensors", "json"),
        Kind("old checkpoint", [_old(folder)], partial(_old_checkpoint, preset.load(_written(folder / "t.toml", tiny))), "x.pt"),
        Kind("resume state", [_resume(folder)], _resume_state, "resume.pt"),
        Kind("submission", [_submission(side) for side in (1, 4, 16)], _read_submission, "x.csv"),
        Kind("probabilities", [_array(folder)], _probabilities, "x.npy"),
        Kind("sidecar", [_sidecar()], partial(_described_array, _array(folder)), "x.npy", "json"),
        Kind("event log", [events], partial(_events, run.path), "events.jsonl", "lines"),
        Kind("run.json", [(run.path / "run.json").read_bytes().replace(b"\n", b"")], _run, "run.json", "json"),
        Kind("predict.json", [_prediction()], _result, "predict.json", "json"),
        Kind("images.csv", [b"image_id,mIoU,mask\na.png,0.5,a.png\nb/b.png,,b/b.png\n"], _result_images, "images.csv"),
        Kind("config.toml", [CONFIG], _config, "config.toml", "toml"),
        *_mask_kinds(folder, shapes),
    ]


def _written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@contextlib.contextmanager
def _refusing(error: type[Exception] = RequestError) -> Iterator[None]:
    try:
        yield
    except error as refusal:
        raise Refused(str(refusal)) from None


def _command(*arguments: str | Path) -> None:
    """A command in this process. Its messages, where it refuses."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8", newline=""), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(map(str, arguments)))
    out.flush()
    told = out.buffer.getvalue() + err.getvalue().encode()  # type: ignore[attr-defined]
    assert b"\x1b" not in told, told
    if code == EXIT_REQUEST:
        assert all(line.startswith("segtui: ") for line in err.getvalue().splitlines()), err.getvalue()
        raise Refused(err.getvalue())


def _preset(built_in: Path, folder: Path, content: bytes) -> None:
    shutil.copyfile(built_in / "base.toml", folder / "base.toml")
    with _refusing():
        found = preset.load(_written(folder / "x.toml", content), environment={}, run_programs=False)
        assert preset.load(_written(folder / "again.toml", preset.to_toml(found).encode()), environment={}) == found


def _override(tiny: bytes, folder: Path, content: bytes) -> None:
    with _refusing():
        preset.load(_written(folder / "x.toml", tiny), [content.decode(errors="surrogateescape")], environment={})


def _split(shapes: Path, folder: Path, content: bytes) -> None:
    (folder / "images").symlink_to(shapes / "images")
    _written(folder / "x.json", content)
    with _refusing():
        split = read_split(folder, "x.json", "class", allow_outside=True)
        mask_cache(split, "area", folder / "cache", 0, lambda done, total: None)
        check_images(split)


def _run_lengths(split: bytes) -> bytes:
    """The same split with its polygons as run lengths, one in each of COCO's two forms."""
    data = json.loads(split)
    square = np.asfortranarray(np.pad(np.ones((20, 30), np.uint8), ((4, 40), (4, 30))))
    for number, annotation in enumerate(data["annotations"]):
        counts: Any = [10, 20, 64 * 64 - 30] if number % 2 else coco_mask.encode(square)["counts"].decode()
        annotation["segmentation"] = {"size": [64, 64], "counts": counts}
    return json.dumps(data).encode()


def _images(folder: Path) -> list[bytes]:
    """Of every kind that Pillow writes, whole; some of sizes that are refused, or hard."""
    rng = np.random.default_rng(3)
    rgb = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    wide = Image.new("RGB", (20_000, 1), "red")
    made: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (rgb, "JPEG", {}), (rgb, "JPEG", {"exif": turned}), (rgb, "PNG", {}), (rgb, "TIFF", {}), (rgb, "TIFF", {"compression": "tiff_lzw"}),
        (rgb, "BMP", {}), (rgb, "GIF", {}), (rgb, "WEBP", {}), (rgb.convert("CMYK"), "JPEG", {}), (rgb.convert("P"), "PNG", {}),
        (rgb.convert("P"), "PNG", {"transparency": 3}), (rgb.convert("RGBA"), "PNG", {}), (rgb.convert("LA"), "PNG", {}),
        (rgb.convert("1"), "PNG", {}), (Image.fromarray(rng.integers(0, 65536, (24, 32), dtype=np.uint16)), "PNG", {}),
        (rgb.convert("F"), "TIFF", {}), (Image.new("RGB", (1, 1)), "PNG", {}), (wide, "PNG", {}), (wide, "JPEG", {}), (rgb, "PPM", {}),
    ]  # fmt: skip
    found = []
    for image, kind, options in made:
        file = io.BytesIO()
        image.save(file, kind, **options)
        found.append(file.getvalue())
    png, jpeg = found[2], found[0]
    bomb = png[:16] + (60_000).to_bytes(4, "big") * 2 + png[24:]
    at = jpeg.index(b"\xff\xc0") + 5
    return [*found, bomb, jpeg[:at] + (65_000).to_bytes(2, "big") * 2 + jpeg[at + 4 :]]


def _image(folder: Path, content: bytes) -> None:
    path = _written(folder / "x.png", content)
    with _refusing(ImageError):
        size = displayed_size(path)
        pixels = read_rgb(path)
        assert pixels.dtype == np.uint8
        assert pixels.shape == (*size, 3)


def _real_checkpoint(folder: Path) -> bytes:
    """Of several tensors, so that their places can contradict each other."""
    tensors = {f"layer.{number}.weight": torch.randn(3, number + 1) for number in range(4)}
    header = CheckpointHeader(
        segtui="0.1.0",
        kind="best",
        preset={"model": {"type": "Unet", "encoder_name": "resnet18"}},
        classes=["a"],
        mean=[0.5] * 3,
        std=[0.2] * 3,
        epoch=1,
        mIoU=None,
        IoU=[None],
    )
    save_weights(folder / "real.safetensors", tensors, header)
    return (folder / "real.safetensors").read_bytes()


def _checkpoint(folder: Path, content: bytes) -> None:
    """Listed and loaded; listings tell of those that cannot be read."""
    run = new_run(folder, "a")
    path = _written(run.checkpoints / "best.safetensors", content)
    rows = [row.row() for row in all_checkpoints(folder)]
    assert len(rows) == 1
    _command("checkpoints", "--runs", folder)
    _command("checkpoints", "--runs", folder, "--json")
    with _refusing():
        load_weights(path)


def _description(weights: bytes) -> bytes:
    length = int.from_bytes(weights[:8], "little")
    return json.loads(weights[8 : 8 + length])["__metadata__"]["segtui"].encode()  # type: ignore[no-any-return]


def _described(folder: Path, content: bytes) -> None:
    """The description that a checkpoint carries, in a file that is whole."""
    metadata = {"segtui": content.decode(errors="replace")}
    table = json.dumps({"__metadata__": metadata, "weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    path = folder / "a" / "checkpoints" / "best.safetensors"
    _checkpoint(folder, len(table).to_bytes(8, "little") + table + bytes(16))
    with _refusing():
        load_network(path, None)


def _old(folder: Path) -> bytes:
    torch.save({"net": {"weight": torch.zeros(3, 3), "bias": torch.zeros(3)}}, folder / "old.pt")
    return (folder / "old.pt").read_bytes()


def _old_checkpoint(table: preset.Preset, folder: Path, content: bytes) -> None:
    with _refusing():
        load_network(_written(folder / "x.pt", content), table)


def _resume(folder: Path) -> bytes:
    state = {"trainer": {"model": {"weight": torch.zeros(5)}, "at": {"epoch": 1}}, "random": {"cpu": torch.get_rng_state(), "cuda": None}}
    save_resume(folder / "resume.pt", state | {"preset": "0" * 64, "data": {"train": "a", "val": "b"}, "world_size": 1})
    return (folder / "resume.pt").read_bytes()


def _resume_state(folder: Path, content: bytes) -> None:
    with _refusing():
        load_resume(_written(folder / "resume.pt", content))


def _submission(side: int) -> bytes:
    rng = np.random.default_rng(side)
    rows = [encode_row(name, rng.integers(0, 12, (side, side), dtype=np.uint8)) for name in ("a.png", 'b "b",.png', "ç/c.png")]
    return b"image_id,PredictionString\n" + b"".join(rows)


def _read_submission(folder: Path, content: bytes) -> None:
    with _refusing():
        reader = SubmissionReader(_written(folder / "x.csv", content))
        assert reader.side**2 == reader.pixels == len(reader[reader.image_ids[0]])


def _array(folder: Path) -> bytes:
    values = np.full((2, 4, 3, 3), 0.25, np.float16)
    np.save(folder / "whole.npy", values)
    return (folder / "whole.npy").read_bytes()


def _probabilities(folder: Path, content: bytes) -> None:
    with _refusing():
        array = ProbabilityFile(_written(folder / "x.npy", content))
        for index in range(min(len(array), 50)):
            array[index]


def _sidecar() -> bytes:
    whole = Sidecar(classes=["a", "b", "c", "d"], images=["1.png", "2.png"], size=(3, 3), members=["m"])
    return msgspec.json.encode(whole)


def _described_array(array: bytes, folder: Path, content: bytes) -> None:
    _written(folder / "x.npy.json", content)
    with _refusing():
        file = ProbabilityFile(_written(folder / "x.npy", array))
        file.check(["1.png", "2.png"], ["a", "b", "c", "d"], lambda done, total: None)


def _events(run: Path, folder: Path, content: bytes) -> None:
    """Followed as a finished run is; what is no event is passed over."""
    shutil.copytree(run, folder / "a")
    path = _written(folder / "a" / "events.jsonl", content)
    reader = EventReader(path)
    while reader.read(1000):
        pass
    assert reader.offset <= len(content)
    compared, looks = Compared(RunFolder(folder / "a"), "A", "red"), Reader(RunFolder(folder / "a"))
    while (news := looks.read()).events:
        compared.take(news)
    class_scores([compared])
    _command("attach", folder / "a", "--runs", folder)
    _command("attach", folder / "a", "--runs", folder, "--json")


def _run(folder: Path, content: bytes) -> None:
    _written(folder / "a" / "run.json", content)
    _command("runs", "--runs", folder)
    _command("runs", "--runs", folder, "--json")
    stopped = _record_of(folder / "a")
    if stopped:
        _command("attach", folder / "a", "--runs", folder)


def _record_of(folder: Path) -> bool:
    """Whether there is a record of a run that has ended; another would be followed for ever."""
    with _refusing():
        return RunFolder(folder).read().state not in ("running", "queued")


def _prediction() -> bytes:
    scored: dict[str, Any] = {"mIoU": 0.5, "acc": 0.5, "mean_acc": None, "fwavacc": 0.5}
    scores = [Scored(name=name, IoU=[0.5, None], class_acc=[0.5, None], support=[9, 0], **scored) for name in ("plain", "tta")]
    record = PredictionRecord(
        segtui="0.1.0", name="test", created=time.time(), seconds=1.0, command=["segtui", "predict"], mode="soft",
        members=[msgspec.convert(MEMBER | {"name": name}, MemberRecord) for name in "ab"],
        views=["identity", "hflip"], passes=2.0, window=None, overlap=0.5, source="/data/val.json", data="/data", images=2,
        classes=["Background", "square"], size=256, resize="probabilities", device="cpu", precision="fp32", fit=None, scores=scores,
        ms_per_image=3.0, plain_ms_per_image=1.0, files={"submission": "/x/s.csv", "record": "/x/predict.json", "masks": "/x/masks"},
        root="/data", truth="/runs/.cache/masks-1",
    )  # fmt: skip
    return msgspec.json.encode(record)


def _result(folder: Path, content: bytes) -> None:
    _written(folder / "predict.json", content)
    result = read_result(folder)
    if result.record is None:
        raise Refused(result.problem)
    terminal = io.StringIO()
    for part in told_result(folder, result.record):
        Terminal(file=terminal, width=100, color_system=None).print(part)
    assert "\x1b" not in terminal.getvalue()


def _result_images(folder: Path, content: bytes) -> None:
    record = read_result(_written(folder / "predict.json", _prediction()).parent).record
    assert record is not None
    _written(folder / "images.csv", content)
    with _refusing():
        images_of(folder, record)


def _config(folder: Path, content: bytes) -> None:
    before = os.environ.get("SEGTUI_CONFIG")
    os.environ["SEGTUI_CONFIG"] = str(_written(folder / "config.toml", content))
    try:
        with _refusing():
            config.load(for_screens=True)
    finally:
        os.environ.pop("SEGTUI_CONFIG")
        if before is not None:
            os.environ["SEGTUI_CONFIG"] = before


def _mask_kinds(folder: Path, shapes: Path) -> list[Kind]:
    """Each file of the cache of label maps; a damaged one is drawn anew."""
    split = read_split(shapes, "val.json", "class")
    whole = mask_cache(split, "area", folder / "masks", 0, lambda done, total: None)
    labels = [whole[index] for index in range(len(whole))]

    def read(name: str, place: Path, content: bytes) -> None:
        shutil.copytree(whole.folder, place / "cache" / whole.folder.name)
        _written(place / "cache" / whole.folder.name / name, content)
        found: MaskCache = mask_cache(split, "area", place / "cache", 0, lambda done, total: None)
        shapes_found = [found[index].shape for index in range(len(found))]
        assert shapes_found == [each.shape for each in labels]
        assert all(found[index].max() < len(split.classes) for index in range(len(found)))

    names: Sequence[str] = sorted(each.name for each in whole.folder.iterdir())
    return [Kind(f"masks {name.removesuffix('.npy')}", [(whole.folder / name).read_bytes()], partial(read, name), name) for name in names]
