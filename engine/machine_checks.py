"""What the machine has, against what a run will ask of it. No torch: it takes seconds to import."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import psutil

from engine.checkup import Finding
from engine.model_facts import ModelFacts, shortage
from engine.schema import Preset
from engine.system import gpus

GIB = 2**30
PREFETCHED = 4
"""Batches that each loader worker has ready."""
BATCHES_KEPT = PREFETCHED + 2
"""Batches for which each keeps memory."""
OPEN_FILES = 256
"""Of a training process without its loaders: libraries, logs, W&B."""
PROCESS_BYTES = 2 * GIB
WORKER_BYTES = GIB // 8
HALF = {"bf16", "fp16"}


@dataclass(frozen=True)
class Machine:
    """`free` is the GPU's memory that nobody uses, in bytes; `capability` its CUDA compute capability."""

    kind: Literal["cuda", "mps", "cpu"]
    name: str
    free: int | None = None
    capability: int = 0


def find_machine() -> tuple[Machine, list[Finding]]:
    """The device that torch would choose, from the driver alone."""
    cpu = Machine("cpu", f"CPU, {cores()} core{'s' * (cores() > 1)}")
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return Machine("mps", "Apple GPU"), []
    device = _visible_gpu()
    if device is None:
        return cpu, []
    import pynvml

    name = _ask(pynvml.nvmlDeviceGetName, device) or "NVIDIA GPU"
    if not _torch_has_cuda():
        text = f"torch is built without CUDA, so {name} would stay idle: install torch for CUDA (pytorch.org/get-started)"
        return cpu, [Finding("warning", "device", text)]
    memory, capability = _ask(pynvml.nvmlDeviceGetMemoryInfo, device), _ask(pynvml.nvmlDeviceGetCudaComputeCapability, device)
    return Machine("cuda", name, int(memory.free) if memory else None, capability[0] if capability else 0), []


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def expected_precision(wanted: str, machine: Machine) -> str:
    """As `engine.device.choose_precision` decides with torch."""
    if wanted == "auto":
        return "bf16" if machine.kind == "cuda" and machine.capability >= 8 else "fp32"
    return wanted


def machine_findings(
    machine: Machine,
    preset: Preset,
    precision: str,
    facts: ModelFacts | None,
    train_size: tuple[int, int] | None,
    val_size: tuple[int, int] | None,
) -> list[Finding]:
    """Sizes are (height, width) of a training image and of the largest validation image, None where unknown."""
    findings = []
    if precision == "fp16" and machine.kind == "cpu":
        text = 'train.precision: fp16 needs a GPU, and there is none: write "auto", "bf16" or "fp32"'
        findings.append(Finding("error", "precision", text))
    pixels = preset.data.batch_size * train_size[0] * train_size[1] if train_size else 0
    training: Callable[[ModelFacts], int] = partial(_training_bytes, preset, precision, pixels)
    if machine.free is not None and (short := shortage(facts, training, machine.free)):
        text = f"the network needs about {_gib(short.needed)} of GPU memory ({short.basis}), {machine.name} has {_gib(machine.free)} free"
        fix = "lower data.batch_size (and raise train.accumulate) or data.image_size"
        findings.append(Finding(short.level, "GPU memory", f"{text}: {fix}"))
    workers = preset.data.workers
    processes = PROCESS_BYTES + 2 * workers * WORKER_BYTES
    free = free_memory()
    if short := shortage(facts, lambda facts: processes + (0 if machine.kind == "cuda" else training(facts)), free):
        text = f"network and loader workers need about {_gib(short.needed)} of memory ({short.basis}), {_gib(free)} are free"
        findings.append(Finding(short.level, "memory", f"{text}: lower data.batch_size or data.workers"))
    if train_size:
        findings += _shared_memory(preset, train_size, val_size)
    findings += _open_files(workers)
    if workers > cores():
        findings.append(Finding("note", "workers", f"data.workers is {workers} and there are {cores()} cores: more workers are not faster"))
    return findings


def free_memory() -> int:
    """Bytes that new processes can have, within the limit of this control group."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        return min(free, limit - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):  # no limit ("max"), or another system
        return free


def _visible_gpu() -> Any:
    """The NVML handle of the first GPU that CUDA_VISIBLE_DEVICES leaves, None where there is none."""
    import pynvml

    devices = gpus()
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None or not devices:
        return devices[0] if devices else None
    first = asked.split(",")[0].strip()
    if first.startswith("MIG-"):
        return _ask(pynvml.nvmlDeviceGetHandleByUUID, first)
    if first.startswith("GPU-"):  # its beginning is enough
        return next((device for device in devices if (_ask(pynvml.nvmlDeviceGetUUID, device) or "").startswith(first)), None)
    return devices[int(first)] if first.isdecimal() and int(first) < len(devices) else None


def _ask(function: Callable[[Any], Any], what: Any) -> Any:
    """None where the driver does not tell."""
    import pynvml

    try:
        return function(what)
    except pynvml.NVMLError:
        return None


def _torch_has_cuda() -> bool:
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    return re.search(r"^cuda.*= *['\"]", Path(spec.origin).with_name("version.py").read_text(), re.MULTILINE) is not None


def _training_bytes(preset: Preset, precision: str, pixels: int, facts: ModelFacts) -> int:
    """Weights, gradients, optimizer, average; what `pixels` leave for the backward pass; a fifth for the libraries' workspace.

    On a CPU within 15 % of the measured peak (Unet-resnet18, FPN-efficientnet-b4, Segformer-mit_b2).
    """
    fixed = facts.resume_bytes(preset.optimizer, preset.train.ema_decay) + facts.weights_bytes()
    activations = pixels * facts.bytes_per_pixel * (0.5 if precision in HALF else 1.0)
    return int(1.2 * (fixed + activations))


def _shared_memory(preset: Preset, train_size: tuple[int, int], val_size: tuple[int, int] | None) -> list[Finding]:
    folder = Path("/dev/shm")
    if not preset.data.workers or not folder.is_dir():
        return []
    pixels = sum(height * width for height, width in filter(None, (train_size, val_size)))
    needed = preset.data.workers * BATCHES_KEPT * preset.data.batch_size * pixels * 4  # RGB and label, a byte each
    free = shutil.disk_usage(folder).free
    if needed <= free:
        return []
    text = f"/dev/shm has {_gib(free)} free, and {preset.data.workers} loader workers fill up to {_gib(needed)} with batches"
    fix = "lower data.workers or data.batch_size, or enlarge it (docker run --shm-size, mount -o remount,size=)"
    return [Finding("warning", "shared memory", f"{text}; where it is full they die of a bus error: {fix}")]


def _open_files(workers: int) -> list[Finding]:
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = OPEN_FILES + 2 * workers * PREFETCHED * 3  # images, labels, indices of a batch are a file each
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return []
    fix = f"`ulimit -n {needed}` in this shell" if most == resource.RLIM_INFINITY or most >= needed else "ask who runs the machine"
    return [Finding("warning", "open files", f"{limit} files may be open at once and the run needs about {needed}: {fix}")]


def _gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB"
