"""Pictures of a validation: a fixed few images and the worst few, with what the network said of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from engine import atomic
from engine.dataset import Batch
from engine.mask_files import blend
from engine.model import predict_logits
from engine.tracking import TrackedImage
from engine.train import Trainer, Validated

FIXED = 4
WORST = 4


@torch.no_grad()
def draw_overlays(trainer: Trainer, validated: Validated) -> list[TrackedImage]:
    """Predict the chosen images once more; the same fixed ones in every epoch, evenly spread over the set."""
    setup = trainer.setup
    count = len(setup.val)
    fixed = np.unique(np.linspace(0, count - 1, FIXED).round().astype(int)).tolist()
    worst = [index for index in validated.by_image.argsort().tolist() if index not in fixed][:WORST]
    setup.evaluated.eval()
    drawn = []
    for kind, index in [*(("fixed", index) for index in fixed), *(("worst", index) for index in worst)]:
        image, truth, _ = setup.val[(0, index)]
        images, _ = trainer.on_device(_single(image, truth, index))
        with setup.autocast():
            prediction = (
                predict_logits(setup.evaluated, images, setup.preset.data.input_size).argmax(dim=1)[0].to(torch.uint8).cpu().numpy()
            )
        name = Path(setup.val.path(index)).stem
        caption = f"{kind}: {name}, epoch {validated.event.epoch}, mIoU {validated.by_image[index]:.3f}"
        drawn.append(TrackedImage(f"{kind}_{name}", caption, image, prediction, truth))
    return drawn


def save_overlays(folder: Path, images: Sequence[TrackedImage], classes: list[str]) -> None:
    """Replace the folder's pictures: image, prediction and ground truth side by side, as JPEG."""
    folder.mkdir(exist_ok=True)
    kept = set()
    for tracked in images:
        panels = [tracked.image, blend(tracked.image, tracked.prediction, classes)]
        panels += [blend(tracked.image, tracked.truth, classes)] if tracked.truth is not None else []
        content = io.BytesIO()
        Image.fromarray(np.concatenate(panels, axis=1)).save(content, "JPEG", quality=88)
        path = folder / f"{tracked.name}.jpg"
        atomic.write(path, content.getvalue())
        kept.add(path)
    for old in set(folder.glob("worst_*.jpg")) - kept:
        old.unlink()


def _single(image: NDArray[np.uint8], truth: NDArray[np.uint8], index: int) -> Batch:
    return Batch(torch.from_numpy(image)[None], torch.from_numpy(truth)[None], torch.tensor([index]))
