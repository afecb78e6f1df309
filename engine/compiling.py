"""torch.compile where it works; the network as it is, and a message, where it does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from engine.events import AnyEvent, Message
from engine.model import predict_logits

if TYPE_CHECKING:
    from engine.prepare import Setup


def compiled(setup: Setup, report: Callable[[AnyEvent], None]) -> nn.Module:
    """The network of a setup compiled, and tried forward and backward on a black batch.

    A compiler that is missing or gives up shows itself only then: it must not end a run. Weights, running statistics and
    generators are afterwards what they were.
    """
    model, device = setup.model, setup.device
    report(Message(level="info", text="compiling the network: this takes a minute or more, once"))
    began = time.monotonic()
    network = cast(nn.Module, torch.compile(model))
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            images = torch.zeros(setup.images_per_pass, *setup.image_size, 3, device=device).permute(0, 3, 1, 2)
            with setup.autocast():
                logits = predict_logits(network, images)
            logits.float().mean().backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001  any of the compiler's many
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        report(Message(level="warning", text=f"torch.compile failed ({reason}): training goes on without it, more slowly"))
        return model
    finally:
        model.zero_grad(set_to_none=True)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    report(Message(level="info", text=f"the network was compiled in {time.monotonic() - began:.0f} s"))
    return network
