"""Networks from checkpoints: our own, the baseline's, and files that are neither; nothing of a file ever runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.checkpoint_header import METADATA_KEY
from engine.errors import EXIT_DONE, EXIT_REQUEST, RequestError
from engine.loading import load_network
from engine.model import IMAGENET_MEAN, IMAGENET_STD
from engine.preset import from_dict
from tests.conftest import write_shapes
from tests.predicting import (
    CHANNELS,
    CLASSES,
    ENCODER,
    MEAN,
    STD,
    Segtui,
    files_below,
    mask_of,
    preset_for,
    rows_of,
    weights_of,
    write_checkpoint,
    write_test,
)

PRESET = """
[model]
type = "Unet"
encoder_name = "{encoder}"
encoder_weights = "{weights}"
decoder_channels = {channels}
[data]
root = "shapes"
batch_size = 2
workers = 0
[loss]
type = "CrossEntropyLoss"
[optimizer]
type = "AdamW"
lr = 1e-3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Data, and a preset for checkpoints that do not describe themselves."""
    write_test(write_shapes(tmp_path / "shapes", train=2, val=2), [(64, 64), (50, 70)])
    write_preset(tmp_path / "old.toml")
    return tmp_path


def write_preset(path: Path, encoder: str = ENCODER, weights: str = "none", channels: list[int] = CHANNELS) -> Path:
    path.write_text(PRESET.format(encoder=encoder, weights=weights, channels=channels))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A checkpoint of ours, as bytes."""
    path = tmp_path_factory.mktemp("whole") / "best.safetensors"
    return write_checkpoint(path, preset_for(Path("nowhere")), weights_of(0)).read_bytes()


def prefixed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"module.{name}": tensor for name, tensor in weights.items()}


class Malicious:
    """Unpickling this would run a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def test_network_is_the_one_that_was_saved(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "best.safetensors", preset_for(tmp_path, image_size=[32, 64]), weights_of(0))
    loaded = load_network(path, None)
    assert (loaded.path, loaded.classes, loaded.epoch, loaded.mIoU) == (path, CLASSES, 3, 0.25)
    assert (loaded.mean, loaded.std) == (MEAN, STD)
    assert loaded.preset.data.input_size == (32, 64)
    assert isinstance(loaded.model, smp.Unet)
    found = loaded.model.state_dict()
    assert found.keys() == weights_of(0).keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights_of(0).items())


@pytest.mark.parametrize("kind", ["our own", "old"])
@pytest.mark.parametrize(("encoder", "channels"), [(ENCODER, CHANNELS), ("mobilenet_v2", [8, 8, 8, 8, 8])])
def test_encoder_weights_are_not_fetched_whatever_the_preset_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, encoder: str, channels: list[int]
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *host, **_: asked.append(host))
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: asked.append(address))
    weights = dict(smp.Unet(encoder, encoder_weights=None, decoder_channels=channels, classes=3).state_dict())
    table = preset_for(folder / "shapes", encoder_weights="imagenet")
    table["model"] |= {"encoder_name": encoder, "decoder_channels": channels}
    if kind == "old":
        torch.save({"net": weights}, folder / "old.pt")
        loaded = load_network(folder / "old.pt", from_dict(table))
    else:
        loaded = load_network(write_checkpoint(folder / "own.safetensors", table, weights), None)
    assert not asked
    assert all(torch.equal(loaded.model.state_dict()[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize("name", ["best.pt", "best.pth"])
@pytest.mark.parametrize("data_parallel", [False, True], ids=["plain", "of DataParallel"])
def test_baseline_checkpoint_gives_the_same_masks_as_its_weights_in_our_format(
    segtui: Segtui, folder: Path, name: str, data_parallel: bool
) -> None:
    weights = prefixed(weights_of(0)) if data_parallel else weights_of(0)
    torch.save({"net": weights}, folder / name)
    write_checkpoint(folder / "own.safetensors", preset_for(folder / "shapes"), weights_of(0), statistics=(IMAGENET_MEAN, IMAGENET_STD))
    assert segtui("predict", name, "--preset", "old.toml", "--masks", "old", "--out", "old.csv").code == EXIT_DONE
    assert segtui("predict", "own.safetensors", "--masks", "own", "--out", "own.csv").code == EXIT_DONE
    assert files_below(folder / "old") == files_below(folder / "own")
    names = list(rows_of(folder / "own.csv"))
    assert len(names) == 2
    for each in names:
        np.testing.assert_array_equal(mask_of(folder / "old", each), mask_of(folder / "own", each))
    assert (folder / "old.csv").read_bytes() == (folder / "own.csv").read_bytes()


def test_bare_state_dict_loads_as_the_baselines(folder: Path) -> None:
    torch.save(weights_of(0), folder / "bare.pt")
    loaded = load_network(folder / "bare.pt", from_dict(preset_for(folder / "shapes")))
    assert loaded.classes == CLASSES
    assert (loaded.epoch, loaded.mIoU) == (None, None)
    assert all(torch.equal(loaded.model.state_dict()[name], tensor) for name, tensor in weights_of(0).items())


def test_old_and_own_checkpoints_vote_together(segtui: Segtui, folder: Path) -> None:
    torch.save({"net": weights_of(0)}, folder / "old.pt")
    write_checkpoint(folder / "own.safetensors", preset_for(folder / "shapes"), weights_of(1))
    arguments = ("predict", "own.safetensors", "old.pt", "--preset", "old.toml", "--softvote")
    assert segtui(*arguments).code == EXIT_DONE
    assert len(rows_of(folder / "runs/predictions/test-softvote/submission.csv")) == 2


def spoil_other_architecture(path: Path) -> None:
    torch.save({"net": smp.FPN("resnet18", encoder_weights=None, classes=3).state_dict()}, path)


def spoil_other_classes(path: Path) -> None:
    torch.save({"net": weights_of(0, 5)}, path)


def spoil_one_missing(path: Path) -> None:
    torch.save({"net": {name: tensor for name, tensor in weights_of(0).items() if name != "segmentation_head.0.bias"}}, path)


def spoil_whole_model(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)


def spoil_whole_model_under_net(path: Path) -> None:
    torch.save({"net": torch.nn.Linear(2, 2)}, path)


def spoil_torn(path: Path) -> None:
    content = io.BytesIO()
    torch.save({"net": weights_of(0)}, content)
    path.write_bytes(content.getvalue()[: len(content.getvalue()) // 2])


def spoil_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Malicious(f"touch {path.parent / 'ran'}"), protocol=2))


def spoil_pickle_in_zip(path: Path) -> None:
    torch.save({"net": weights_of(0), "optimizer": Malicious(f"touch {path.parent / 'ran'}")}, path)


OLD = {
    "of another architecture": (spoil_other_architecture, ("does not fit Unet", "lacks", "has besides")),
    "of other classes": (spoil_other_classes, ("does not fit Unet", "segmentation_head.0.weight is 5x8x3x3, not 3x8x3x3")),
    "lacks a tensor": (spoil_one_missing, ("does not fit Unet", "lacks segmentation_head.0.bias")),
    "a whole model": (spoil_whole_model, ("holds more than weights", "Nothing of it was run", "state_dict()")),
    "a whole model under net": (spoil_whole_model_under_net, ("holds more than weights", "Nothing of it was run")),
    "torn": (spoil_torn, ("is no checkpoint of torch, or is cut off",)),
    "empty": (lambda path: path.write_bytes(b""), ("is no checkpoint of torch, or is cut off",)),
    "text": (lambda path: path.write_text("hello"), ("bad.pt",)),
    "a list": (lambda path: torch.save([torch.zeros(2)], path), ("holds no {'net': state_dict}",)),
    "numbers": (lambda path: torch.save({"net": {"a": 3}}, path), ("holds no {'net': state_dict}",)),
    "nothing": (lambda path: torch.save({"net": {}}, path), ("holds no {'net': state_dict}",)),
    "a pickle that runs a command": (spoil_pickle, ("holds more than weights (posix.system)", "Nothing of it was run")),
    "a zip that runs a command": (spoil_pickle_in_zip, ("holds more than weights (posix.system)", "Nothing of it was run")),
}


@pytest.mark.parametrize(("spoil", "says"), OLD.values(), ids=OLD)
def test_old_checkpoint_that_cannot_be_used_is_refused_in_one_line(segtui: Segtui, folder: Path, spoil: Any, says: tuple[str, ...]) -> None:
    spoil(folder / "bad.pt")
    before = files_below(folder)
    told = segtui("predict", "bad.pt", "--preset", "old.toml")
    assert (told.code, told.out) == (EXIT_REQUEST, "")
    assert len(told.err.splitlines()) == 1
    for text in ("bad.pt", *says):
        assert text in told.err
    assert files_below(folder) == before
    assert not (folder / "ran").exists()


def test_malicious_pickle_would_have_run_with_the_usual_load(folder: Path) -> None:
    """Or the two cases above would prove nothing."""
    spoil_pickle_in_zip(folder / "bad.pt")
    torch.load(folder / "bad.pt", weights_only=False)
    assert (folder / "ran").exists()


def test_old_checkpoint_without_a_preset_is_refused_before_it_is_read(segtui: Segtui, folder: Path) -> None:
    spoil_pickle(folder / "bad.pt")
    told = segtui("predict", "bad.pt")
    assert told.code == EXIT_REQUEST
    assert len(told.err.splitlines()) == 1
    assert "--preset" in told.err
    assert not (folder / "ran").exists()


def test_pickle_under_the_name_of_our_own_is_not_unpickled(segtui: Segtui, folder: Path) -> None:
    spoil_pickle(folder / "bad.safetensors")
    told = segtui("predict", "bad.safetensors", "--preset", "old.toml")
    assert told.code == EXIT_REQUEST
    assert "no safetensors file" in told.err
    assert not (folder / "ran").exists()


def saved(weights: dict[str, torch.Tensor], header: dict[str, Any]) -> bytes:
    return safetensors.torch.save(weights, {METADATA_KEY: json.dumps(header)})


def described(content: bytes) -> dict[str, Any]:
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"][METADATA_KEY])  # type: ignore[no-any-return]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_torn_copy_of_a_checkpoint_is_refused(whole: bytes, tmp_path: Path, data: st.DataObject) -> None:
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    length = data.draw(st.integers(0, header + 64) | st.integers(0, len(whole) - 1))
    path = tmp_path / "torn.safetensors"
    path.write_bytes(whole[:length])
    with pytest.raises(RequestError, match=r"torn\.safetensors"):
        load_network(path, None)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_spoiled_bytes_of_a_header_are_refused_or_harmless(whole: bytes, tmp_path: Path, data: st.DataObject) -> None:
    """A flipped byte may fall into a word that nobody reads; whatever it does, it is no crash of ours."""
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    spoiled = bytearray(whole)
    for place in data.draw(st.lists(st.integers(0, header - 1), min_size=1, max_size=4)):
        spoiled[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "spoiled.safetensors"
    path.write_bytes(spoiled)
    refused = ""
    try:
        assert len(load_network(path, None).classes) == len(CLASSES)
    except RequestError as error:
        refused = str(error)
    assert not refused or refused.startswith(str(path))


DESCRIPTIONS = {
    "other classes": ({"classes": ["Background", "square"]}, ("does not fit Unet", "2 classes")),
    "newer": ({"format": 99, "segtui": "9.0"}, ("newer segtui", "9.0")),
    "lacks a field": ({"mean": None}, ("cannot be read", "mean")),
    "statistics of two channels": ({"mean": [0.5, 0.5]}, ("mean",)),
    "unknown key of a preset": ({"preset": preset_for(Path("x")) | {"modle": {}}}, ("its preset cannot be used", "modle")),
    "no preset": ({"preset": {}}, ("names no model",)),
    "unknown architecture": ({"preset.model.type": "Unetti"}, ("its model cannot be built", "Unetti")),
    "unknown encoder": ({"preset.model.encoder_name": "resnet19"}, ("its model cannot be built", "resnet19")),
    "unknown timm encoder": ({"preset.model.encoder_name": "tu-resnet19"}, ("its model cannot be built", "resnet19")),
    "unknown argument": ({"preset.model.decoder_chanels": [1]}, ("its model cannot be built", "decoder_chanels")),
    "impossible argument": ({"preset.model.encoder_depth": 9}, ("its model cannot be built",)),
    "another decoder": ({"preset.model.decoder_channels": [8, 8, 8, 8, 8]}, ("does not fit Unet", "decoder.blocks")),
    "another encoder": ({"preset.model.encoder_name": "resnet18"}, ("does not fit Unet with resnet18",)),
}


@pytest.mark.parametrize(("changes", "says"), DESCRIPTIONS.values(), ids=DESCRIPTIONS)
def test_checkpoint_whose_description_is_wrong_is_refused(
    whole: bytes, tmp_path: Path, changes: dict[str, Any], says: tuple[str, ...]
) -> None:
    header = described(whole) | {"checksum": None}  # it would tell the change before the loader looks
    for key, value in changes.items():
        table = header
        *parents, last = key.split(".")
        for parent in parents:
            table = table[parent]
        table[last] = value
    path = tmp_path / "best.safetensors"
    path.write_bytes(saved(weights_of(0), header))
    with pytest.raises(RequestError) as refused:
        load_network(path, None)
    message = str(refused.value)
    assert len(message.splitlines()) == 1
    for text in (str(path), *says):
        assert text in message
