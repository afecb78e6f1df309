"""Events as lines, and the log that holds them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.events import AnyEvent, Event, EventLog, EventReader, Gpu, Images, Message, Toggles, decode, encode

WHOLE = st.integers(-(2**53), 2**53)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
KINDS = get_args(AnyEvent)


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    if hint == float | None:
        return st.none() | st.floats()
    if hint == list[float | None]:
        return st.lists(st.none() | st.floats())
    if hint in (Toggles, Images, Gpu):
        return st.fixed_dictionaries({name: values_of(each) for name, each in get_type_hints(hint).items()}).map(
            lambda given: hint(**given)
        )
    if hint == list[Gpu]:
        return st.lists(values_of(Gpu), max_size=3)
    return {int: WHOLE, float: FINITE, list[int]: st.lists(WHOLE)}.get(hint, st.from_type(hint))


def event_of(kind: type[Event]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({name: values_of(hint) for name, hint in get_type_hints(kind).items()}).map(lambda given: kind(**given))


def with_gaps(value: Any) -> Any:
    """The same value with None in place of NaN and infinity."""
    if isinstance(value, dict):
        return {key: with_gaps(each) for key, each in value.items()}
    if isinstance(value, list):
        return [with_gaps(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain(event: Any) -> Any:
    """Field names and values, nested ones too, not through the encoder under test."""
    if isinstance(event, msgspec.Struct):
        return {name: plain(getattr(event, name)) for name in event.__struct_fields__}
    return [plain(each) for each in event] if isinstance(event, list) else event


@given(event=st.one_of([event_of(kind) for kind in KINDS]))
@settings(deadline=None, max_examples=400)
def test_an_event_comes_back_from_its_line(event: AnyEvent) -> None:
    line = encode(event)
    assert b"\n" not in line
    in_two_words = {
        "RunStarted": "run_started",
        "RunEnded": "run_ended",
        "PredictionStarted": "prediction_started",
        "PredictionWritten": "prediction_written",
    }
    assert json.loads(line)["type"] == in_two_words.get(type(event).__name__, type(event).__name__.lower())
    back = decode(line)
    assert type(back) is type(event)
    assert plain(back) == with_gaps(plain(event))


@pytest.mark.parametrize("line", [b"", b"{}", b"null", b'{"type":"unheard_of"}', b'{"type":"step"}', b'{"type":"message","seq":1', b"\xff"])
def test_what_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(line)


def message(seq: int, text: str = "a\nb \r é \u2028 \x00") -> Message:
    return Message(seq=seq, time=1.5, level="info", text=text)


def test_a_torn_last_line_is_the_end_for_now(tmp_path: Path) -> None:
    """Cut at every byte of the last line: a reader waits for the rest, a writer goes on after the last whole line."""
    lines = [encode(message(seq)) + b"\n" for seq in (1, 2, 3)]
    path = tmp_path / "events.jsonl"
    for cut in range(len(lines[2])):
        path.write_bytes(lines[0] + lines[1] + lines[2][:cut])
        reader = EventReader(path)
        assert [event.seq for event in reader.read()] == [1, 2]
        assert reader.read() == []
        with path.open("ab") as file:
            file.write(lines[2][cut:])
        assert reader.read() == [message(3)]
        assert reader.unreadable == 0

        path.write_bytes(lines[0] + lines[1] + lines[2][:cut])
        log = EventLog(path)
        assert log.last_seq == 2
        log.append(message(log.last_seq + 1, "again"))
        log.close()
        assert path.read_bytes() == lines[0] + lines[1] + encode(message(3, "again")) + b"\n"


def test_garbage_within_a_log_is_passed_over_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(encode(message(1)) + b"\n\x00\xff garbage\n" + encode(message(2))[:20] + b"\n" + encode(message(3)) + b"\n")
    reader = EventReader(path)
    assert [event.seq for event in reader.read()] == [1, 3]
    assert reader.unreadable == 2
    assert EventLog(path).last_seq == 3


def test_a_log_read_in_small_blocks_or_before_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    early = EventReader(path)
    assert early.read() == []
    log = EventLog(path)
    for seq in range(1, 30):
        log.append(message(seq, "x" * seq))
    for limit in (1, 7, 200, 100_000):
        reader = EventReader(path)
        seqs: list[int] = []
        while block := reader.read(limit):
            seqs += [event.seq for event in block]
        assert seqs == list(range(1, 30))
    assert [event.seq for event in early.read()] == list(range(1, 30))
