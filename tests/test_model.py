"""Networks that take images of any size, and encoder weights that cannot be had."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from torch import nn

from engine.catalogue import catalogue
from engine.errors import RequestError
from engine.model import Pretraining, build_model, check_sizes, decide_weights, predict_logits
from engine.schema import ModelTable


def table_of(name: str) -> ModelTable:
    return ModelTable(type=name, encoder_name="tu-vit_tiny_patch16_224" if name == "DPT" else "resnet18", encoder_weights="none")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(catalogue().models))
def test_every_architecture_takes_odd_sizes(name: str) -> None:
    model, pretraining = build_model(table_of(name), 7)
    assert (pretraining.weights, pretraining.warning) == (None, "")
    model.eval()
    images = torch.randn(1, 3, 131, 197, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = predict_logits(model, images)
        # The mean colour is 0 after normalisation.
        whole = model(nn.functional.pad(images, (0, 224 - 197, 0, 160 - 131)))
    assert logits.shape == (1, 7, 131, 197)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits, whole[..., :131, :197])


def test_sizes_that_a_network_cannot_take_are_refused() -> None:
    model, _ = build_model(table_of("Linknet"), 3)
    model.train()
    check_sizes(model, table_of("Linknet"), [(40, 50), (33, 64)])
    assert model.training
    with pytest.raises(RequestError, match="Unet refuses these values"):
        build_model(ModelTable(type="Unet", encoder_name="resnet18", encoder_weights="none", encoder_depth=9), 3)


@pytest.fixture
def empty_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No weights in the cache, no proxy, and a client that would ask the network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.fixture
def silent() -> Iterator[str]:
    """A server whose queue of connections is full: the system answers no further one."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def reason_without(endpoint: str, encoder: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    began = time.perf_counter()
    name, reason = decide_weights(encoder, "auto")
    assert time.perf_counter() - began < 2.5
    assert name is None
    return reason


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "https://hub.invalid"])
def test_without_a_network_the_reason_comes_quickly(empty_hub: pytest.MonkeyPatch, endpoint: str, encoder: str) -> None:
    assert "does not answer" in reason_without(endpoint, encoder, empty_hub)
    assert decide_weights(encoder, "none") == (None, "")


def test_a_server_that_never_answers_is_not_waited_for(empty_hub: pytest.MonkeyPatch, silent: str) -> None:
    assert "does not answer" in reason_without(silent, "resnet18", empty_hub)


def test_weights_that_cannot_be_had_are_told_or_refused(empty_hub: pytest.MonkeyPatch) -> None:
    assert decide_weights("resnet18", "unheard-of") == (None, "there are no weights of that name for it")
    empty_hub.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in decide_weights("resnet18", "imagenet")[1]
    _, pretraining = build_model(ModelTable(type="FPN", encoder_name="resnet18", encoder_weights="auto"), 3)
    assert isinstance(pretraining, Pretraining)
    assert pretraining.weights is None
    assert "resnet18 starts from scratch" in pretraining.warning
    with pytest.raises(RequestError, match=r"model\.encoder_weights: 'imagenet' weights of resnet18 cannot be had"):
        build_model(ModelTable(type="FPN", encoder_name="resnet18", encoder_weights="imagenet"), 3)
