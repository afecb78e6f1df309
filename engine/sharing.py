"""Whether there are the devices that a preset asks for, and whether its batches can be shared out to them. No torch."""

from __future__ import annotations

import sys

from engine.errors import Problem, RequestError
from engine.schema import Preset


def devices_here(table: Preset, gpus: int) -> int:
    """How many of this machine train, which has so many GPUs."""
    return max(gpus, 1) if table.launch.devices == "auto" else table.launch.devices


def check_devices(table: Preset, gpus: int) -> None:
    """Raises RequestError where a machine with so many GPUs cannot do its part. Without a GPU, devices are processes."""
    launch, devices = table.launch, devices_here(table, gpus)
    if devices * launch.nodes > 1 and sys.platform != "linux":
        raise RequestError(Problem("needs Linux where it is more than one", key="launch.devices", fix="set it to 1"))
    if 0 < gpus < devices:
        raise RequestError(Problem(f"is {devices}, and there are only {gpus} GPUs", key="launch.devices", fix="lower it"))
    check_shares(table, devices * launch.nodes)
    if launch.nodes > 1 and not launch.rendezvous:
        fix = "give the same on each machine, such as --rendezvous NAME:29400 with the name of one of them"
        raise RequestError(Problem("is not set, and several machines have to meet", key="launch.rendezvous", fix=fix))


def check_shares(table: Preset, devices: int) -> None:
    """Raises RequestError where a batch is not the same number of images for each of all devices."""
    size = table.data.batch_size
    if size % devices:
        fix = f"set it to {max(size // devices, 1) * devices}, or use another number of devices"
        raise RequestError(Problem(f"is {size}, which cannot be shared out to {devices} devices", key="data.batch_size", fix=fix))
