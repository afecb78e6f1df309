"""The devices of this machine, as runs are given them. No torch: it takes seconds to import."""

from __future__ import annotations

import os

from engine.machine_checks import find_machine
from engine.system import gpus


def devices() -> list[str]:
    """What runs are spread over: the CUDA devices as CUDA_VISIBLE_DEVICES names them; else the one that torch would choose."""
    machine, _ = find_machine()
    if machine.kind != "cuda":
        return [machine.kind]
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in asked.split(",")] if asked else [str(number) for number in range(len(gpus()))]


def device_variables(given: list[str]) -> dict[str, str]:
    """Environment variables by which a process sees these devices alone."""
    if given in (["cpu"], ["mps"]):
        return {}
    # Numbers that come from the driver are in its order; those that the user gave stay in the order that the user has.
    order = {} if os.environ.get("CUDA_VISIBLE_DEVICES") else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return {"CUDA_VISIBLE_DEVICES": ",".join(given)} | order
