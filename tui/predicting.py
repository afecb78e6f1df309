"""`segtui predict`, `vote` and `score`: arguments into a request, whose process is then followed as a run is."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from fractions import Fraction
from pathlib import Path
from typing import Literal

from engine import preset
from engine.errors import Problem, RequestError
from engine.predict_request import (
    Places,
    PredictRequest,
    ScoreRequest,
    VoteRequest,
    default_name,
    find_checkpoint,
    results_folder,
)
from engine.prediction_record import Mode
from engine.views import parse_views
from tui import headless

STOPPING = "stopping; nothing will be kept. Once more ends at once"
LARGEST_SIDE = 4096
LONGEST_NAME = 200


def predict(options: Namespace, given: list[str]) -> int:
    """Raises RequestError for what is wrong with the arguments alone; the process finds the rest."""
    return headless.run(request(options, given), _view(options.json), STOPPING)


def vote(options: Namespace) -> int:
    weights = _weights(options.weights) if options.weights is not None else None
    if weights == "fit":
        raise RequestError(Problem("submissions have no probabilities to fit", key="--weights", fix="give numbers"))
    paths = tuple(path.absolute() for path in options.submissions)
    return headless.run(VoteRequest(paths, options.out.absolute(), weights, force=options.force), _view(options.json), STOPPING)


def score(options: Namespace) -> int:
    root = _root(options.data) or "sample"
    asked = ScoreRequest(options.submission.absolute(), root, options.split, options.background)
    return headless.run(asked, _view(options.json), STOPPING)


def request(options: Namespace, given: list[str]) -> PredictRequest:
    """The request that arguments make. Raises RequestError."""
    if options.tta is not None:
        if os.path.exists(options.tta):  # noqa: PTH110
            raise RequestError(
                Problem(f"took {options.tta!r} for its views", key="--tta", fix="write the checkpoints first, options after them")
            )
        parse_views(options.tta)
    if options.images and options.split:
        raise RequestError(Problem("give either --split or --images", key="--images"))
    _check_numbers(options)
    checkpoints = tuple(find_checkpoint(name, options.runs) for name in options.checkpoints)
    mode = _mode(options)
    split = options.split or "test"
    out = options.out.absolute() if options.out else None
    images = options.images.absolute() if options.images else None
    name = options.name or default_name(split, images, out, mode, tta=options.tta is not None, window=options.window)
    if name != Path(name).name or name.startswith(".") or len(name.encode()) > LONGEST_NAME:
        shown = name if len(name) <= LONGEST_NAME else f"{name[:40]}..."
        raise RequestError(
            Problem(f"{shown!r} is no name of a folder", key="--name", fix=f"at most {LONGEST_NAME} bytes, no slash, no dot first")
        )
    return PredictRequest(
        checkpoints=checkpoints,
        places=Places(
            folder=results_folder(checkpoints[0], options.runs) / name,
            out=out,
            masks=options.masks.absolute() if options.masks else None,
            overlay=options.overlay,
            probabilities=options.probabilities.absolute() if options.probabilities else None,
            force=options.force,
        ),
        caches=options.runs.absolute() / ".cache",
        mode=mode,
        arrays=tuple(path.absolute() for path in options.member),
        weights=_weights(options.weights) if options.weights is not None else None,
        split=split,
        images=images,
        data_root=_root(options.data),
        tta=options.tta,
        window=options.window,
        overlap=options.overlap,
        side=options.size,
        resize=options.resize,
        preset=preset.load(options.preset).model_dump(exclude_none=True) if options.preset else None,
        command=("segtui", "predict", *given),
    )


def _mode(options: Namespace) -> Mode:
    members = len(options.checkpoints) + len(options.member)
    voting = options.softvote or options.hardvote
    if members > 1 and not voting:
        raise RequestError(Problem(f"{members} members need a vote", fix="add --softvote (mean of probabilities) or --hardvote (majority)"))
    if members == 1 and voting:
        raise RequestError(Problem("a vote needs two members at least", fix="name more checkpoints, or a --member"))
    if options.weights is not None and not voting:
        raise RequestError(Problem("weights are for a vote", key="--weights", fix="add --softvote or --hardvote"))
    if options.weights == "fit" and not options.softvote:
        raise RequestError(Problem("fit is for --softvote", key="--weights", fix="give numbers for --hardvote"))
    return "soft" if options.softvote else "hard" if options.hardvote else "single"


def _weights(text: str) -> tuple[Fraction, ...] | Literal["fit"]:
    if text == "fit":
        return "fit"
    try:
        return tuple(Fraction(part.strip()) for part in text.split(","))
    except (ValueError, ZeroDivisionError):
        raise RequestError(Problem(f"{text!r} is no list of numbers", key="--weights", fix="write for example --weights 0.6,0.4")) from None


def _check_numbers(options: Namespace) -> None:
    if not 1 <= options.size <= LARGEST_SIDE:
        raise RequestError(Problem(f"is {options.size}", key="--size", fix=f"write a side of 1 to {LARGEST_SIDE} pixels"))
    if options.window is not None and options.window < 32:
        raise RequestError(Problem(f"is {options.window}", key="--window", fix="write a side of 32 pixels or more, as in --window 512"))
    if not 0 <= options.overlap < 1:
        raise RequestError(Problem(f"is {options.overlap:g}", key="--overlap", fix="write a share of 0 to below 1, as in 0.5"))


def _root(given: str | None) -> str | None:
    root = given or os.environ.get("SEGTUI_DATA")
    return root if root in (None, "sample") else str(Path(root).expanduser().absolute())


def _view(as_json: bool) -> headless.View:
    if as_json:
        return headless.JsonView()
    from tui.predict_view import PredictView

    return PredictView(live=sys.stderr.isatty())
