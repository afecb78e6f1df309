"""How long training stands still to save the best weights and the state to resume from.

`python -m benchmarks.checkpoint_writes [--json]`. The network is Unet with resnet50 (32 million weights, AdamW: 373 MiB in all).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import segmentation_models_pytorch as smp
import torch

from benchmarks.measure import Mark, Row, by_turns, joined, show, spread
from engine.checkpoint import save_resume, save_weights
from engine.checkpoint_header import CheckpointHeader
from engine.snapshot import Snapshots
from engine.write_behind import WriteBehind

ROUNDS = 7


def rows() -> Iterator[Row]:
    model = smp.Unet("resnet50", encoder_weights=None, classes=11).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    header = CheckpointHeader(
        segtui="", kind="best", preset={}, classes=["a"] * 11, mean=[0.0] * 3, std=[1.0] * 3, epoch=1, mIoU=0.5, IoU=[0.5] * 11
    )
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        writer, snapshots = WriteBehind(), Snapshots()

        def reference() -> None:
            torch.save({"net": model.state_dict()}, folder / "best.pt")
            torch.save({"net": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / "last.pt")

        def ours() -> None:
            """What the loop waits for: the copy. The files are written while the next epoch runs."""
            taken = snapshots.take(
                {"weights": model.state_dict(), "resume": {"model": model.state_dict(), "optimizer": optimizer.state_dict()}}
            )

            def write() -> None:
                save_weights(folder / "best.safetensors", taken["weights"], header)
                save_resume(folder / "resume.pt", taken["resume"])

            writer.start(write)

        def written() -> None:
            writer.wait()

        before, stalled, behind = by_turns(reference, ours, written, rounds=ROUNDS)
    middle = [sorted(each)[len(each) // 2] for each in (before, stalled, behind)]
    note = joined(
        f"reference {spread(before)}, ours {spread(stalled)}",
        f"then {middle[2]:.2g} s behind the loop, with checksum, fsync and rename, which the reference does not do",
    )
    yield Row("standing still for best + resume", "s", middle[0], middle[1], middle[0] / middle[1], Mark("ratio", ">=", 3), note)


def main() -> None:
    show(rows())


if __name__ == "__main__":
    main()
