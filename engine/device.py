"""The device that computes, and the precision it computes in."""

from __future__ import annotations

import torch

from engine.errors import Problem, RequestError

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device() -> torch.device:
    """The accelerator that is there, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_precision(wanted: str, device: torch.device) -> str:
    if wanted == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if wanted == "fp16" and device.type == "cpu":
        raise RequestError(Problem("fp16 needs a GPU, and there is none", key="train.precision", fix='write "auto", "bf16" or "fp32"'))
    return wanted


def inference_precision(trained: str, device: torch.device) -> str:
    """As in training where the device has it. Without gradients fp16 is safe on every GPU; a CPU gains nothing from it."""
    if device.type != "cuda":
        return "fp32"
    if trained == "fp32":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, AUTOCAST.get(precision), enabled=precision in AUTOCAST)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device had no memory left. For a CPU there is no exception of its own; the last words are oneDNN's, of its work space."""
    words = ("DefaultCPUAllocator", "Cannot allocate memory", "could not create a primitive")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(each in str(error) for each in words)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
