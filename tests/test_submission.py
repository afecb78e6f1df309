"""Submissions against csv, a slow parser and counted votes; `segtui vote` and `segtui score` against files and scikit-learn."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import itertools
import json
import random
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from pycocotools.coco import COCO
from sklearn import metrics as reference  # type: ignore[import-untyped]

from engine.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_REQUEST, RequestError
from engine.events import AnyEvent, PredictionStarted, RunEnded, Validation
from engine.predict_request import ScoreRequest, VoteRequest
from engine.reporter import Reporter
from engine.scoring import open_score
from engine.submission import HEADER, SubmissionReader, decode_labels, encode_labels, encode_row, majority, sole_decider, whole_weights
from engine.votes import open_vote
from tests.conftest import write_shapes
from tui.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools with NumPy 2

Rows = dict[str, list[int]]
# A file_name holds no line break; surrogates are no text in UTF-8.
IMAGE_IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1) | st.text(
    "aé名 ,\"'.;/0\t", min_size=1, max_size=6
)
CLASS_IDS = st.integers(0, 254) | st.sampled_from([0, 9, 10, 99, 100, 254])
LABELS = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=1, max_dims=3, max_side=9), elements=CLASS_IDS)


def csv_text(rows: dict[str, list[int]], **dialect: Any) -> str:
    """As any other program writes it."""
    cells = io.StringIO(newline="")
    writer = csv.writer(cells, **{"lineterminator": "\n"} | dialect)
    writer.writerow(["image_id", "PredictionString"])
    writer.writerows([image_id, " ".join(str(number) for number in ids)] for image_id, ids in rows.items())
    return cells.getvalue()


def csv_rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file, strict=True))


def slow_ids(text: bytes) -> list[int] | None:
    """The ids of a PredictionString word by word; None where one is not."""
    found = []
    for word in text.split(b" "):
        if not 1 <= len(word) <= 3 or any(code not in b"0123456789" for code in word) or int(word) > 254:
            return None
        found.append(int(word))
    return found


@given(image_id=IMAGE_IDS, labels=LABELS)
@settings(deadline=None, max_examples=300)
def test_a_row_is_what_csv_writes_and_reads_back(image_id: str, labels: NDArray[np.uint8]) -> None:
    line = encode_row(image_id, labels)
    cells = io.StringIO(newline="")
    csv.writer(cells, lineterminator="\n").writerow([image_id, " ".join(str(number) for number in labels.ravel().tolist())])
    assert line == cells.getvalue().encode()
    ((read_id, text),) = csv.reader([line.decode()], strict=True)
    assert read_id == image_id
    found = decode_labels(text.encode())
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, labels.ravel())


def test_every_id_is_written_and_read() -> None:
    assert encode_labels(np.arange(255, dtype=np.uint8)).decode() == " ".join(str(number) for number in range(255))
    assert decode_labels(" ".join(str(number) for number in range(255)).encode()).tolist() == list(range(255))


@given(labels=arrays.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=CLASS_IDS))
def test_views_are_written_in_their_own_order(labels: NDArray[np.uint8]) -> None:
    for view in (labels.T, labels[::-1], labels[:, ::2]):
        assert encode_labels(view) == b" ".join(str(number).encode() for row in view.tolist() for number in row)


@st.composite
def damaged_texts(draw: st.DrawFn) -> bytes:
    """A right text with some of its bytes replaced, left out or put in."""
    text = bytearray(" ".join(str(number) for number in draw(st.lists(CLASS_IDS, max_size=12))).encode())
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(text)))
        length = draw(st.integers(0, 2))
        text[place : place + length] = draw(
            st.sampled_from([b"", b" ", b"0", b"2", b"5", b"9", b"-", b"+", b"_", b"e", b".", b"\t", b"\0"]) | st.binary(max_size=2)
        )
    return bytes(text)


@given(text=damaged_texts() | st.text("0125 -", max_size=12).map(str.encode) | st.binary(max_size=6))
@settings(deadline=None, max_examples=600)
def test_what_is_no_list_of_ids_is_refused_and_nothing_else(text: bytes) -> None:
    expected = slow_ids(text)
    if expected is None:
        with pytest.raises(ValueError, match=r"class id|spaces|no PredictionString"):
            decode_labels(text)
    else:
        assert decode_labels(text).tolist() == expected


@given(
    rows=st.integers(1, 6).flatmap(
        lambda count: st.dictionaries(IMAGE_IDS, st.lists(CLASS_IDS, min_size=count, max_size=count), min_size=1, max_size=5)
    ),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    line_end=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
    last_line_ends=st.booleans(),
    empty_lines=st.integers(0, 2),
    order=st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=150)
def test_submissions_of_any_csv_writer_are_read(
    rows: Rows, quoting: int, line_end: str, bom: bool, last_line_ends: bool, empty_lines: int, order: random.Random
) -> None:
    text = csv_text(rows, quoting=quoting, lineterminator=line_end)
    text = text + line_end * empty_lines if last_line_ends else text.removesuffix(line_end)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "submission.csv"
        path.write_bytes(text.encode("utf-8-sig" if bom else "utf-8"))
        reader = SubmissionReader(path)
        assert reader.image_ids == list(rows)
        assert len(reader) == len(rows)
        assert reader.pixels == len(next(iter(rows.values())))
        assert reader.largest == max(max(ids) for ids in rows.values())
        anyhow = list(rows)
        order.shuffle(anyhow)
        for image_id in anyhow:
            assert reader[image_id].tolist() == rows[image_id]


def test_the_largest_id_is_known_with_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(csv_text({"a": [1, 2], "b": [7, 0], "c": [7, 7]}))
    assert (SubmissionReader(path).largest, SubmissionReader(path).largest_line) == (7, 3)
    path.write_text(csv_text({"a": [0, 0], "b": [0, 0]}))
    assert (SubmissionReader(path).largest, SubmissionReader(path).largest_line) == (0, 2)


@pytest.mark.parametrize(("pixels", "side"), [(1, 1), (4, 2), (65536, 256), (2, None), (65535, None)])
def test_a_submission_is_of_squares(tmp_path: Path, pixels: int, side: int | None) -> None:
    path = tmp_path / "a.csv"
    path.write_text(csv_text({"a": [3] * pixels}))
    reader = SubmissionReader(path)
    if side is None:
        with pytest.raises(RequestError, match=rf"a\.csv: has {pixels} class ids"):
            _ = reader.side
    else:
        assert reader.side == side


GOOD = "image_id,PredictionString\na.jpg,0 1 2 3\n"
WRONG_FILES = [
    pytest.param("", 1, "header", id="empty file"),
    pytest.param("a.jpg,0 1 2 3\n", 1, "header", id="no header"),
    pytest.param("PredictionString,image_id\n0 1,a.jpg\n", 1, "header", id="columns in another order"),
    pytest.param("image_id;PredictionString\na.jpg;0 1\n", 1, "header", id="semicolons"),
    pytest.param(HEADER + "\n", 2, "no row", id="header alone"),
    pytest.param(HEADER, 2, "no row", id="header without its line end"),
    pytest.param(HEADER + "\r\n\r\n", 2, "no row", id="empty lines"),
    pytest.param(GOOD + "b.jpg\n", 3, "no comma", id="no comma"),
    pytest.param(GOOD + "b.jpg,\n", 3, "PredictionString", id="no PredictionString"),
    pytest.param(GOOD + 'b.jpg,""\n', 3, "PredictionString", id="quoted nothing"),
    pytest.param(GOOD + "b.jpg,0 1 2\n", 3, "3 class ids", id="too few ids"),
    pytest.param(GOOD + "b.jpg,0 1 2 3 4\n", 3, "5 class ids", id="too many ids"),
    pytest.param(GOOD + "b.jpg,0 1 2 255\n", 3, "255", id="the ignored label"),
    pytest.param(GOOD + "b.jpg,0 1 2 256\n", 3, "256", id="more than a byte"),
    pytest.param(GOOD + "b.jpg,0 1 2 1000\n", 3, "1000", id="four digits"),
    pytest.param(GOOD + "b.jpg,0 1 sky 3\n", 3, "sky", id="letters"),
    pytest.param(GOOD + "b.jpg,0 1 -1 3\n", 3, "-1", id="negative"),
    pytest.param(GOOD + "b.jpg,0 1 2.0 3\n", 3, "2.0", id="fraction"),
    pytest.param(GOOD + "b.jpg,nan nan nan nan\n", 3, "nan", id="nan"),
    pytest.param(GOOD + "b.jpg,0  1 2 3\n", 3, "spaces", id="two spaces"),
    pytest.param(GOOD + "b.jpg, 0 1 2 3\n", 3, "spaces", id="space at the start"),
    pytest.param(GOOD + "b.jpg,0 1 2 3 \n", 3, "spaces", id="space at the end"),
    pytest.param(GOOD + 'b.jpg,"0 1 2 3\n', 3, '"0', id="open quote"),
    pytest.param(GOOD + "b.jpg,0 1,2 3\n", 3, "one field", id="three fields"),
    pytest.param(GOOD + '"b"x".jpg,0 1 2 3\n', 3, "one field", id="quote within quotes"),
    pytest.param(GOOD + ",0 1 2 3\n", 3, "image_id", id="empty image_id"),
    pytest.param(GOOD + "b.jpg,0 1 2 3\n\na.jpg,3 2 1 0\n", 5, "'a.jpg' is there already", id="twice"),
    pytest.param(GOOD + '"a.jpg",3 2 1 0\n', 3, "'a.jpg' is there already", id="twice, once in quotes"),
    pytest.param(GOOD.encode("utf-16"), 1, "header", id="UTF-16"),
    pytest.param(GOOD.encode() + b"\xffb.jpg,0 1 2 3\n", 3, "one field", id="no UTF-8"),
    pytest.param(GOOD.encode()[:-1] + b"\0" * 512, 2, "no class id", id="zeros of a crash at the end"),
]


@pytest.mark.parametrize(("content", "line", "says"), WRONG_FILES)
def test_what_is_no_submission_is_refused_by_file_and_line(tmp_path: Path, content: str | bytes, line: int, says: str) -> None:
    path = tmp_path / "wrong.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RequestError) as refused:
        SubmissionReader(path)
    (problem,) = refused.value.problems
    assert str(problem).startswith(f"{path}:{line}: ")
    assert says in str(problem)


@pytest.mark.parametrize("name", ["missing.csv", "."])
def test_a_submission_that_cannot_be_opened_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        SubmissionReader(tmp_path / name)


def counted_majority(votes: Sequence[int], weights: Sequence[Fraction]) -> int:
    """The heaviest class; of equals the one whose first voter is listed first, as Counter keeps its keys."""
    counter: Counter[int] = Counter()
    for vote, weight in zip(votes, weights, strict=True):
        counter[vote] += weight  # type: ignore[assignment]  # fractions count too
    return counter.most_common(1)[0][0]


WEIGHT = st.fractions(0, 3, max_denominator=40) | st.sampled_from([Fraction(part) for part in ("0", "1", "1/3", "0.1", "0.2", "0.3")])


@given(
    votes=arrays.arrays(
        np.uint8, st.tuples(st.integers(1, 7), st.integers(1, 4), st.integers(1, 5)), elements=st.integers(0, 4) | st.integers(250, 254)
    ),
    weights=st.none() | st.lists(WEIGHT, min_size=7, max_size=7),
)
@settings(deadline=None, max_examples=150)
def test_majority_equals_a_counter_at_every_pixel(votes: NDArray[np.uint8], weights: list[Fraction] | None) -> None:
    shares = weights[: len(votes)] if weights else [Fraction(1)] * len(votes)
    if not any(shares):
        shares[0] = Fraction(1)
    found = majority(votes, whole_weights(shares))
    assert found.dtype == np.uint8
    assert found.shape == votes.shape[1:]
    for row, column in np.ndindex(found.shape):
        assert found[row, column] == counted_majority(votes[:, row, column].tolist(), shares)


def test_weights_that_sum_to_the_same_are_equal() -> None:
    """0.1 + 0.2 is more than 0.3 in floating point: the second class would win."""
    votes = np.array([[5], [9], [9]], np.uint8)
    assert majority(votes, whole_weights([Fraction("0.3"), Fraction("0.1"), Fraction("0.2")])).tolist() == [5]
    assert majority(votes, whole_weights([Fraction("0.3"), Fraction("0.1"), Fraction("0.2000001")])).tolist() == [9]


@pytest.mark.parametrize("members", [200, 255, 256, 300])
def test_a_vote_of_more_members_than_a_byte_counts(members: int) -> None:
    votes = np.full((members, 1), 3, np.uint8)
    votes[: members // 2 - 1] = 8
    assert majority(votes, [1] * members).tolist() == [3]


def test_weights_too_fine_for_64_bits() -> None:
    fine = Fraction(1, 10**30)
    votes = np.array([[1, 1], [2, 2], [3, 2]], np.uint8)
    assert majority(votes, whole_weights([Fraction(1, 2), Fraction(1, 2) + fine, Fraction(1, 3)])).tolist() == [2, 2]
    assert majority(votes, whole_weights([Fraction(1, 2) + fine, Fraction(1, 2), fine])).tolist() == [1, 1]


@given(weights=st.lists(WEIGHT, min_size=1, max_size=6).filter(any))
def test_whole_weights_keep_the_proportions(weights: list[Fraction]) -> None:
    whole = whole_weights(weights)
    assert all(isinstance(each, int) for each in whole)
    assert [Fraction(each, sum(whole)) for each in whole] == [each / sum(weights) for each in weights]


@given(weights=st.lists(st.integers(0, 6), min_size=2, max_size=4).filter(any))
@settings(deadline=None)
def test_a_member_that_decides_alone_is_told_and_no_other(weights: list[int]) -> None:
    """Against every way in which the members can vote."""
    members = len(weights)
    votes = np.array(list(itertools.product(range(members), repeat=members)), np.uint8).T
    found = majority(votes, weights)
    deciders = [f"member {member}" for member in range(members) if np.array_equal(found, votes[member])]
    warning = sole_decider([f"member {member}" for member in range(members)], weights)
    assert [name for name in deciders if warning.startswith(name)] == deciders
    assert bool(warning) == bool(deciders)


def listing(folder: Path) -> dict[str, str]:
    """Every path below a folder with a digest of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder; a command leaves its signal handlers behind."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


VOTERS: tuple[Rows, Rows, Rows] = (
    {"c, d.jpg": [0, 1, 2, 3], "a.jpg": [4, 4, 4, 4], "b/é.jpg": [254, 10, 0, 7]},
    {"a.jpg": [4, 5, 6, 7], "b/é.jpg": [1, 10, 0, 8], "c, d.jpg": [1, 2, 2, 4]},
    {"b/é.jpg": [1, 3, 254, 9], "c, d.jpg": [1, 0, 9, 4], "a.jpg": [0, 5, 5, 5]},
)


@pytest.fixture
def voters(place: Path) -> Path:
    for name, rows in zip(("a.csv", "b.csv", "c.csv"), VOTERS, strict=True):
        (place / name).write_text(csv_text(rows))
    return place


def expected_vote(weights: Sequence[str] = ("1", "1", "1")) -> list[list[str]]:
    rows = [["image_id", "PredictionString"]]
    for image_id, first in VOTERS[0].items():
        pixels = zip(first, VOTERS[1][image_id], VOTERS[2][image_id], strict=True)
        rows.append([image_id, " ".join(str(counted_majority(each, [Fraction(weight) for weight in weights])) for each in pixels)])
    return rows


@pytest.mark.parametrize(
    "weights", [None, ("1", "1", "1"), ("0.3", "0.1", "0.2"), ("1", "2.5", "2"), ("1/3", "0", "2/3"), ("1e-9", "1e9", "1")]
)
def test_vote_joins_rows_by_image_id_in_the_first_files_order(voters: Path, weights: tuple[str, ...] | None) -> None:
    before = listing(voters)
    options = ["--weights", ",".join(weights)] if weights else []
    assert main(["vote", "a.csv", "b.csv", "c.csv", "--out", "vote.csv", *options]) == EXIT_DONE
    assert csv_rows(voters / "vote.csv") == expected_vote(weights or ("1", "1", "1"))
    after = listing(voters)
    del after["vote.csv"]
    assert after == before


def test_vote_tells_json_and_nothing_else(voters: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["vote", "a.csv", "b.csv", "c.csv", "--out", "vote.csv", "--json"]) == EXIT_DONE
    told = capfd.readouterr()
    events = [json.loads(line) for line in told.out.splitlines()]
    assert told.err == ""
    assert [event["type"] for event in events] == ["prediction_written", "run_ended"]
    assert events[0]["files"] == {"submission": str(voters / "vote.csv")}
    assert events[1]["state"] == "finished"


def test_vote_says_where_it_wrote(voters: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["vote", "a.csv", "b.csv", "c.csv", "--out", "vote.csv"]) == EXIT_DONE
    told = capfd.readouterr()
    assert told.out == ""
    finished, written = told.err.splitlines()
    assert finished == "finished"
    assert "vote.csv" in written


def test_vote_of_two_is_told_to_be_that_of_the_first(voters: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["vote", "b.csv", "a.csv", "--out", "vote.csv"]) == EXIT_DONE
    assert csv_rows(voters / "vote.csv") == csv_rows(voters / "b.csv")
    (warning,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert f"{voters / 'b.csv'} decides every pixel" in warning


def test_vote_replaces_what_is_there_only_when_forced(voters: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (voters / "vote.csv").write_text("mine")
    before = listing(voters)
    assert main(["vote", "a.csv", "b.csv", "c.csv", "--out", "vote.csv"]) == EXIT_REQUEST
    (line,) = capfd.readouterr().err.splitlines()
    assert str(voters / "vote.csv") in line
    assert "--force" in line
    assert listing(voters) == before
    assert main(["vote", "a.csv", "b.csv", "c.csv", "--out", "vote.csv", "--force"]) == EXIT_DONE
    assert csv_rows(voters / "vote.csv") == expected_vote()


def test_a_vote_that_is_stopped_keeps_nothing(voters: Path) -> None:
    events: list[AnyEvent] = []
    report = Reporter(None)
    report.sinks.append(events.append)
    before = listing(voters)
    asked = iter([False, True])
    request = VoteRequest((voters / "a.csv", voters / "b.csv", voters / "c.csv"), voters / "vote.csv")
    assert open_vote(request, report, lambda: next(asked)).run_to_end() == EXIT_INTERRUPTED
    assert [type(event) for event in events] == [RunEnded]
    assert listing(voters) == before


def test_vote_may_replace_one_of_its_own_files(voters: Path) -> None:
    assert main(["vote", "a.csv", "b.csv", "c.csv", "--out", "a.csv", "--force"]) == EXIT_DONE
    assert csv_rows(voters / "a.csv") == expected_vote()
    assert sorted(path.name for path in voters.iterdir()) == ["a.csv", "b.csv", "c.csv"]


A, B, _ = VOTERS
WRONG_VOTES = [
    pytest.param(
        {image_id: ids for image_id, ids in B.items() if image_id != "a.jpg"}, ["other.csv: has no row for 'a.jpg'"], id="missing row"
    ),
    pytest.param(B | {"z.jpg": [0, 0, 0, 0]}, ["other.csv: has a row for 'z.jpg'"], id="additional row"),
    pytest.param({"x.jpg": [0, 1, 2, 3]}, ["other.csv: has no row for 'c, d.jpg' and 2 more"], id="other images"),
    pytest.param(
        {image_id: [*ids, 1, 1, 1, 1, 1] for image_id, ids in B.items()}, ["other.csv: has 9 class ids", "has 4"], id="other size"
    ),
    pytest.param({image_id: [0, 1, 2, 255] for image_id in B}, ["other.csv:2:", "255"], id="ignored label"),
    pytest.param("", ["other.csv:1:", "header"], id="empty file"),
    pytest.param(None, ["other.csv", "cannot be read"], id="no file"),
]


@pytest.mark.parametrize(("other", "says"), WRONG_VOTES)
def test_vote_refuses_submissions_that_do_not_fit(
    voters: Path, capfd: pytest.CaptureFixture[str], other: Rows | str | None, says: list[str]
) -> None:
    if other is not None:
        (voters / "other.csv").write_text(csv_text(other) if isinstance(other, dict) else other)
    before = listing(voters)
    assert main(["vote", "a.csv", "b.csv", "other.csv", "--out", "vote.csv"]) == EXIT_REQUEST
    told = capfd.readouterr()
    (line,) = told.err.splitlines()
    assert all(word in line for word in says), line
    assert told.out == ""
    assert listing(voters) == before


WRONG_OPTIONS = [
    pytest.param(["a.csv", "--out", "vote.csv"], ["two"], id="one file"),
    pytest.param(["a.csv", "b.csv"], ["--out"], id="no out"),
    pytest.param(["--out", "vote.csv"], ["FILE.csv"], id="no file"),
    pytest.param(["a.csv", "b.csv", "--out", "nowhere/vote.csv"], ["nowhere", "no such folder"], id="no folder"),
    pytest.param(["a.csv", "b.csv", "--out", "folder"], ["folder", "is a folder"], id="out is a folder"),
    pytest.param(["a.csv", "b.csv", "--out", "folder", "--force"], ["folder", "is a folder"], id="out is a folder, forced"),
    pytest.param(["a.csv", "b.csv", "--out", "vote.csv", "--weights", "1"], ["--weights", "1 weights for 2"], id="too few weights"),
    pytest.param(["a.csv", "b.csv", "--out", "vote.csv", "--weights", "1,2,3"], ["--weights", "3 weights for 2"], id="too many weights"),
    pytest.param(["a.csv", "b.csv", "--out", "vote.csv", "--weights", "0,0"], ["--weights", "all 0"], id="no weight"),
    pytest.param(["a.csv", "b.csv", "--out", "vote.csv", "--weights", "2,-1"], ["--weights", "negative"], id="negative weight"),
    pytest.param(["a.csv", "b.csv", "--out", "vote.csv", "--weights", "one,two"], ["--weights", "'one,two'"], id="words for weights"),
    pytest.param(["a.csv", "b.csv", "--out", "vote.csv", "--weights", "1/0,1"], ["--weights", "'1/0,1'"], id="weight over zero"),
    pytest.param(["a.csv", "b.csv", "--out", "vote.csv", "--weights", "nan,1"], ["--weights", "'nan,1'"], id="weight that is no number"),
    pytest.param(["a.csv", "b.csv", "--out", "vote.csv", "--weights", "inf,1"], ["--weights", "'inf,1'"], id="endless weight"),
    pytest.param(["a.csv", "b.csv", "--out", "vote.csv", "--weights", ""], ["--weights"], id="empty weights"),
    pytest.param(["a.csv", "b.csv", "--out", "vote.csv", "--weights", "fit"], ["--weights", "fit"], id="weights to fit"),
    pytest.param(["a.csv", "b.csv", "--out", "vote.csv", "--softvote"], ["--softvote"], id="an option of predict"),
]


@pytest.mark.parametrize(("arguments", "says"), WRONG_OPTIONS)
def test_vote_refuses_wrong_options(voters: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], says: list[str]) -> None:
    (voters / "folder").mkdir()
    before = listing(voters)
    assert main(["vote", *arguments, "--json"]) == EXIT_REQUEST
    told = capfd.readouterr()
    (line,) = told.err.splitlines()
    assert all(word in line for word in says), line
    assert told.out == ""
    assert listing(voters) == before


Background = Literal["class", "ignore"]


def middle_labels(root: Path, side: int, background: Background) -> dict[str, NDArray[np.uint8]]:
    """Of each pixel of a square, the label in its middle: every annotation by pycocotools, the largest first."""
    data = json.loads((root / "val.json").read_bytes())
    coco = COCO()
    coco.dataset = data
    with contextlib.redirect_stdout(io.StringIO()):  # it prints, and what is printed is tested here
        coco.createIndex()
    found = {}
    for image in data["images"]:
        labels = np.full((image["height"], image["width"]), 0 if background == "class" else 255, np.uint8)
        annotations = [each for each in data["annotations"] if each["image_id"] == image["id"]]
        for annotation in sorted(annotations, key=lambda each: -each["area"]):
            labels[coco.annToMask(annotation) == 1] = annotation["category_id"] - (1 if background == "ignore" else 0)
        rows, columns = ((2 * np.arange(side) + 1) * length // (2 * side) for length in labels.shape)
        found[image["file_name"]] = labels[np.ix_(rows, columns)]
    return found


def guesses(truth: dict[str, NDArray[np.uint8]], classes: int, seed: int = 0) -> dict[str, NDArray[np.uint8]]:
    """Right in most pixels, and never of the last class in the last image."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, labels in truth.items():
        anything = rng.integers(0, classes, labels.shape, dtype=np.uint8)
        found[name] = np.where((rng.random(labels.shape) < 0.7) & (labels < classes), labels, anything).astype(np.uint8)
    found[name][found[name] == classes - 1] = 0
    return found


def write_submission(path: Path, predictions: dict[str, NDArray[np.uint8]]) -> Path:
    path.write_text(csv_text({name: labels.ravel().tolist() for name, labels in predictions.items()}))
    return path


def scored(path: Path, root: Path, background: Background) -> tuple[PredictionStarted, Validation]:
    events: list[AnyEvent] = []
    report = Reporter(None)
    report.sinks.append(events.append)
    assert open_score(ScoreRequest(path, str(root), "val", background), report, lambda: False).run_to_end() == EXIT_DONE
    assert isinstance(events[-1], RunEnded)
    (started,) = [event for event in events if isinstance(event, PredictionStarted)]
    (validation,) = [event for event in events if isinstance(event, Validation)]
    return started, validation


@pytest.mark.parametrize(("size", "side"), [((64, 64), 64), ((64, 64), 16), ((40, 56), 24), ((30, 90), 48)])
@pytest.mark.parametrize("background", ["class", "ignore"])
def test_scores_of_a_submission_equal_scikit_learns(tmp_path: Path, background: Background, size: tuple[int, int], side: int) -> None:
    root = write_shapes(tmp_path / "shapes", train=1, val=3, size=size)
    classes = ["Background", "square", "triangle"] if background == "class" else ["square", "triangle"]
    truth = middle_labels(root, side, background)
    predictions = guesses(truth, len(classes))
    in_another_order = dict(reversed(predictions.items()))
    started, found = scored(write_submission(tmp_path / "a.csv", in_another_order), root, background)
    assert started.classes == classes

    labels = np.concatenate([truth[name].ravel() for name in truth])
    predicted = np.concatenate([predictions[name].ravel() for name in truth])[labels != 255]
    labels = labels[labels != 255]
    matrix = reference.confusion_matrix(labels, predicted, labels=range(len(classes)))
    assert found.support == matrix.sum(axis=1).tolist()
    assert (np.array(found.support) > 0).all()
    assert found.acc == pytest.approx(reference.accuracy_score(labels, predicted))
    assert found.IoU == pytest.approx(reference.jaccard_score(labels, predicted, average=None))
    assert found.mIoU == pytest.approx(reference.jaccard_score(labels, predicted, average="macro"))
    assert found.class_acc == pytest.approx(reference.recall_score(labels, predicted, average=None))


def test_a_class_that_is_nowhere_has_no_score(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "shapes", train=1, val=2)
    data = json.loads((root / "val.json").read_bytes())
    data["annotations"] = [each for each in data["annotations"] if each["category_id"] == 1]
    (root / "val.json").write_text(json.dumps(data))
    truth = middle_labels(root, 16, "class")
    _, found = scored(write_submission(tmp_path / "a.csv", truth), root, "class")
    assert found.IoU == [1.0, 1.0, None]
    assert found.mIoU == 1.0
    assert found.support[2] == 0


@pytest.mark.slow
def test_score_prints_the_table_that_scikit_learn_gives(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = write_shapes(place / "shapes", train=1, val=3)
    truth = middle_labels(root, 32, "class")
    predictions = guesses(truth, 3, seed=3)
    write_submission(place / "a.csv", predictions)
    before = listing(place)
    assert main(["score", "a.csv", "--data", "shapes"]) == EXIT_DONE
    told = capfd.readouterr()
    labels, predicted = (np.concatenate([each[name].ravel() for name in truth]) for each in (truth, predictions))
    iou = reference.jaccard_score(labels, predicted, average=None)
    recall = reference.recall_score(labels, predicted, average=None)
    rows = [line.split("\t") for line in told.out.splitlines()]
    assert rows[0] == ["class", "a.csv", "accuracy", "pixels"]
    for index, name in enumerate(["Background", "square", "triangle"]):
        assert rows[1 + index] == [name, f"{iou[index]:.4f}", f"{recall[index]:.4f}", str((labels == index).sum())]
    assert rows[4] == ["mIoU", f"{iou.mean():.4f}", f"{recall.mean():.4f}", str(labels.size)]
    assert len(rows) == 5
    assert listing(place) == before


@pytest.mark.slow
def test_score_tells_json_and_nothing_else(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = write_shapes(place / "shapes", train=1, val=2)
    truth = middle_labels(root, 16, "ignore")
    write_submission(place / "a.csv", {name: np.where(labels == 255, np.uint8(0), labels) for name, labels in truth.items()})
    assert main(["score", "a.csv", "--data", "shapes", "--background", "ignore", "--json"]) == EXIT_DONE
    told = capfd.readouterr()
    events = [json.loads(line) for line in told.out.splitlines()]
    assert told.err == ""
    assert [event["type"] for event in events] == ["prediction_started", "validation", "run_ended"]
    assert events[1]["IoU"] == [1.0, 1.0]


ZEROS = [0] * 16
NAMES = ["images/val_0.png", "images/val_1.png"]
WRONG_SCORES = [
    pytest.param({NAMES[0]: ZEROS}, "class", ["a.csv: has no row for 'images/val_1.png'"], id="missing row"),
    pytest.param(
        {Path(name).name: ZEROS for name in NAMES}, "class", ["a.csv: has no row for", "2 are missing"], id="names without folder"
    ),
    pytest.param(dict.fromkeys([*NAMES, "more.png"], ZEROS), "class", ["a.csv: has a row for 'more.png'"], id="additional row"),
    pytest.param({NAMES[0]: ZEROS, NAMES[1]: [2] * 15 + [3]}, "class", ["a.csv:3:", "class id 3", "0 to 2"], id="class id too large"),
    pytest.param({name: [0] * 15 + [2] for name in NAMES}, "ignore", ["a.csv:2:", "class id 2", "0 to 1"], id="trained with Background"),
    pytest.param({name: [0] * 15 for name in NAMES}, "class", ["a.csv: has 15 class ids", "square"], id="no square"),
    pytest.param({NAMES[0]: ZEROS, NAMES[1]: [255] * 16}, "class", ["a.csv:3:", "255"], id="ignored label"),
]


@pytest.mark.parametrize(("rows", "background", "says"), WRONG_SCORES)
def test_score_refuses_submissions_that_do_not_fit(tmp_path: Path, rows: Rows, background: Background, says: list[str]) -> None:
    root = write_shapes(tmp_path / "shapes", train=1, val=2)
    path = tmp_path / "a.csv"
    path.write_text(csv_text(rows))
    with pytest.raises(RequestError) as refused:
        open_score(ScoreRequest(path, str(root), "val", background), Reporter(None), lambda: False)
    (problem,) = refused.value.problems
    assert all(word in str(problem) for word in says), str(problem)


def test_score_refuses_a_split_without_ground_truth(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "shapes", train=1, val=2)
    data = json.loads((root / "val.json").read_bytes())
    (root / "test.json").write_text(json.dumps({"images": data["images"]}))
    path = tmp_path / "a.csv"
    path.write_text(csv_text(dict.fromkeys(NAMES, ZEROS)))
    with pytest.raises(RequestError, match=r"test\.json.*no annotations"):
        open_score(ScoreRequest(path, str(root), "test"), Reporter(None), lambda: False)


WRONG_PLACES = [
    pytest.param("missing.csv", "shapes", "val", ["missing.csv", "cannot be read"], id="no submission"),
    pytest.param("a.csv", "nowhere", "val", ["nowhere", "--data"], id="no data"),
    pytest.param("a.csv", "shapes", "vall", ["--split", "'vall'"], id="unknown split"),
    pytest.param("a.csv", "shapes", "more.json", ["more.json", "val.json"], id="no such json"),
]


@pytest.mark.parametrize(("submission", "data", "split", "says"), WRONG_PLACES)
def test_score_names_what_is_not_there(tmp_path: Path, submission: str, data: str, split: str, says: list[str]) -> None:
    write_shapes(tmp_path / "shapes", train=1, val=2)
    (tmp_path / "a.csv").write_text(csv_text(dict.fromkeys(NAMES, ZEROS)))
    with pytest.raises(RequestError) as refused:
        open_score(ScoreRequest(tmp_path / submission, str(tmp_path / data), split), Reporter(None), lambda: False)
    (problem,) = refused.value.problems
    assert all(word in str(problem) for word in says), str(problem)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["a.csv", "--data", "shapes", "--split", "vall"], ["--split", "'vall'"], id="unknown split", marks=pytest.mark.slow),
        pytest.param(["a.csv", "--data", "shapes", "--background", "none"], ["--background", "'none'"], id="unknown background"),
        pytest.param(["a.csv", "b.csv", "--data", "shapes"], ["b.csv"], id="two submissions"),
        pytest.param(["--data", "shapes"], ["FILE.csv"], id="no submission"),
    ],
)
def test_score_refuses_wrong_options(place: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], says: list[str]) -> None:
    write_shapes(place / "shapes", train=1, val=2)
    (place / "a.csv").write_text(csv_text(dict.fromkeys(NAMES, ZEROS)))
    before = listing(place)
    assert main(["score", *arguments]) == EXIT_REQUEST
    told = capfd.readouterr()
    (line,) = told.err.splitlines()
    assert all(word in line for word in says), line
    assert told.out == ""
    assert listing(place) == before
