"""What the machine does, every two seconds; also the sign that a run is alive."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import psutil

from engine.events import Gpu, System
from engine.run import HEARTBEAT_S


class Heartbeat:
    """A thread that reports a `System` event every two seconds until `stop`."""

    def __init__(self, report: Callable[[System], None]) -> None:
        self._report = report
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=HEARTBEAT_S)

    def _beat(self) -> None:
        devices = gpus()
        psutil.cpu_percent()
        while not self._stop.wait(HEARTBEAT_S):
            system = System(
                cpu=psutil.cpu_percent() / 100, ram=psutil.virtual_memory().percent / 100, gpu=[_gpu(device) for device in devices]
            )
            with contextlib.suppress(OSError):  # the log cannot be written: the trainer finds out at its next event, and ends the run
                self._report(system)


def gpus() -> list[Any]:
    """NVML handles; none on a machine without an NVIDIA driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def _gpu(device: Any) -> Gpu:
    import pynvml

    def read(function: Callable[[Any], Any]) -> Any:
        try:
            return function(device)
        except pynvml.NVMLError:  # one figure that a card does not have
            return None

    use, memory, power = (
        read(pynvml.nvmlDeviceGetUtilizationRates),
        read(pynvml.nvmlDeviceGetMemoryInfo),
        read(pynvml.nvmlDeviceGetPowerUsage),
    )
    temperature = read(lambda handle: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
    return Gpu(
        util=use and use.gpu / 100,
        memory=memory and memory.used / memory.total,
        temperature=temperature,
        power=power and power / 1000,
    )


def out_of_memory_kills() -> int | None:
    """How many processes of this control group the kernel has killed for memory so far; None where it does not tell."""
    for path in _memory_event_files():
        try:
            with open(path) as file:
                for line in file:
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
        except OSError:
            continue
    return None


def _memory_event_files() -> list[str]:
    try:
        with open("/proc/self/cgroup") as file:
            groups = [line.strip().split(":", 2)[2] for line in file if line.startswith("0::")]
    except OSError:
        groups = []
    return [*(f"/sys/fs/cgroup{group.rstrip('/')}/memory.events" for group in groups), "/sys/fs/cgroup/memory.events"]
