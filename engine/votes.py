"""Hard voting over submissions: no network, no data set, only the files."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

from engine import atomic
from engine.errors import Problem, RequestError, Stopped
from engine.events import Message, PredictionWritten
from engine.jobs import Job
from engine.predict_request import VoteRequest
from engine.reporter import Reporter, task_progress
from engine.submission import HEADER, SubmissionReader, sole_decider, vote, whole_weights

THREADS = min(os.cpu_count() or 1, 8)
"""NumPy works without Python's lock."""


def open_vote(request: VoteRequest, report: Reporter, stop_asked: Callable[[], bool]) -> Job:
    """Read and check every submission. Raises RequestError, having written nothing."""
    weights = _weights(request)
    _check_out(request)
    progress = task_progress(report)
    readers = []
    pool = ThreadPoolExecutor(THREADS)
    for number, reader in enumerate(pool.map(SubmissionReader, request.submissions), start=1):
        readers.append(reader)
        progress("read submissions", number, len(request.submissions))
    for reader in readers[1:]:
        readers[0].same_images(reader)

    def run() -> None:
        """Write the vote, whole or not at all. Raises Stopped."""
        if warning := sole_decider([str(path) for path in request.submissions], weights):
            report(Message(level="warning", text=warning))
        with atomic.replacing(request.out) as file:
            file.write(HEADER.encode() + b"\n")
            for done, row in enumerate(vote(readers, weights, pool), start=1):
                file.write(row)
                progress("vote", done, len(readers[0]))
                if stop_asked():
                    raise Stopped
        report(PredictionWritten(files={"submission": str(request.out)}))

    return Job(run, lambda _: "", report)


def _weights(request: VoteRequest) -> list[int]:
    count = len(request.submissions)
    if count < 2:
        raise RequestError(Problem("a vote needs two submissions at least", fix="segtui vote A.csv B.csv C.csv --out VOTE.csv"))
    weights = request.weights or (Fraction(1),) * count
    if len(weights) != count:
        raise RequestError(Problem(f"names {len(weights)} weights for {count} submissions", key="--weights", fix="give one for each"))
    if min(weights) < 0 or not any(weights):
        raise RequestError(Problem("weights must not be negative, nor all 0", key="--weights"))
    return whole_weights(weights)


def _check_out(request: VoteRequest) -> None:
    out = request.out
    if not out.parent.is_dir():
        raise RequestError(Problem("there is no such folder", file=str(out.parent), fix="make it first"))
    if not os.access(out.parent, os.W_OK):
        raise RequestError(Problem("cannot be written", file=str(out.parent)))
    if out.is_dir():
        raise RequestError(Problem("is a folder", file=str(out), key="--out", fix="name a file, as in --out vote.csv"))
    if out.exists() and not request.force:
        raise RequestError(Problem("is there already", file=str(out), fix="--force replaces it"))
