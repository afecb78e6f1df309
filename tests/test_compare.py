"""Runs compared: their curves, classes and presets, by keys and in numbers; and the spark lines of the list."""

from __future__ import annotations

import asyncio
import math
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from textual.events import Key
from textual.pilot import Pilot

from engine.events import AnyEvent, Step, encode
from engine.run import RunFolder
from tests.screens import (
    KOREAN,
    SIZES,
    begun,
    history,
    names,
    new_run,
    on,
    play,
    running,
    said,
    seen,
    told,
    until,
    validation,
    visible,
    whole_run,
)
from tui.app import SegtuiApp
from tui.comparing import Compared, Reader, RunColours, class_scores, mean_scores, preset_differences
from tui.screens.compare import CompareScreen, Part
from tui.screens.runs import RunsScreen
from tui.sparkline import BARS, ValidationCurves, sparkline
from tui.widgets.plot import Plot


def compared(folder: RunFolder, label: str = "A") -> Compared:
    run, reader = Compared(folder, label, "red"), Reader(folder)
    while (news := reader.read()).events:
        run.take(news)
    run.take(news)
    return run


def with_preset(folder: RunFolder, table: dict[str, object]) -> RunFolder:
    folder.preset.write_text(tomli_w.dumps(table))
    return folder


async def comparing(pilot: Pilot[None], app: SegtuiApp, count: int) -> CompareScreen:
    """The first runs of the list, marked and compared by keys; all of them read."""
    await until(pilot, lambda: len(names(app)) >= count)
    await pilot.press(*["space"] * count, "c")
    await until(pilot, lambda: isinstance(app.screen, CompareScreen))
    screen = on(app, CompareScreen)
    await until(pilot, lambda: all(run.was_read for run in screen.runs) and not screen._is_dirty and screen._tables_drawn is not None)
    return screen


# What a comparison knows


def test_the_table_holds_each_runs_best_epoch_and_its_difference_to_the_first(tmp_path: Path) -> None:
    first = told(new_run(tmp_path, "a"), [begun("a"), validation(1, [0.5, 0.6, 0.7]), validation(2, [0.5, 0.2, None])])
    other = told(new_run(tmp_path, "b"), [begun("b"), validation(1, [0.1, 0.1, 0.1]), validation(2, [0.75, 0.5, 0.7])])
    runs = [compared(first), compared(other, "B")]
    assert [run.best.epoch for run in runs if run.best] == [1, 2]
    assert mean_scores(runs).values == (pytest.approx(0.6), pytest.approx(0.65))
    rows = class_scores(runs)
    assert [row.name for row in rows] == ["Background", "square", "triangle"]
    assert [row.difference(1) for row in rows] == [pytest.approx(0.25), pytest.approx(-0.1), pytest.approx(0.0)]
    assert [row.is_best(1) for row in rows] == [True, False, False]
    assert [row.is_best(0) for row in rows] == [False, True, False]
    assert [row.name for row in class_scores(runs, by_difference=True)] == ["Background", "square", "triangle"]


def test_classes_are_matched_by_name_and_blank_where_a_run_has_none(tmp_path: Path) -> None:
    first = told(new_run(tmp_path, "a"), [begun("a", ["car", "sky", "road"]), validation(1, [0.1, 0.2, 0.3])])
    other = told(new_run(tmp_path, "b"), [begun("b", ["road", "배경", "car"]), validation(1, [0.4, 0.9, None])])
    third = told(new_run(tmp_path, "c"), [begun("c", ["road"]), validation(1, [0.8])])
    rows = class_scores([compared(first), compared(other, "B"), compared(third, "C")])
    assert {row.name: row.values for row in rows} == {
        "car": (0.1, None, None),
        "sky": (0.2, None, None),
        "road": (0.3, 0.4, 0.8),
        "배경": (None, 0.9, None),
    }
    by_name = {row.name: row for row in rows}
    assert by_name["road"].difference(2) == pytest.approx(0.5)
    assert by_name["배경"].difference(1) is None
    ordered = class_scores([compared(first), compared(other, "B"), compared(third, "C")], by_difference=True)
    assert [row.name for row in ordered] == ["road", "car", "sky", "배경"]


def test_the_best_epoch_is_the_first_of_equals_and_gaps_are_none(tmp_path: Path) -> None:
    events = [begun("a"), validation(1, [None] * 3), validation(2, [0.4] * 3), validation(3, [0.4] * 3)]
    best = compared(told(new_run(tmp_path, "a"), events)).best
    assert best is not None
    assert best.epoch == 2
    assert compared(new_run(tmp_path, "b")).best is None
    assert compared(told(new_run(tmp_path, "c"), [begun("c"), validation(1, [None] * 3)])).best is None


def test_a_resumed_runs_curves_are_those_of_a_run_that_was_never_stopped(tmp_path: Path) -> None:
    whole = history("a", epochs=4)
    at = next(index for index, event in enumerate(whole) if isinstance(event, Step) and event.step == 21)
    lost: list[AnyEvent] = [Step(epoch=3, step=step, loss=9.0, lr=1.0, images_per_s=1.0, data_wait=0.0) for step in range(21, 30)]
    again = begun("a", epochs=4)
    again.resumed_step, again.resumed_epoch = 20, 2
    straight = compared(told(new_run(tmp_path, "straight"), whole))
    resumed = compared(told(new_run(tmp_path, "resumed"), [*whole[:at], *lost, validation(3, [0.9] * 3), again, *whole[at:]]))
    for by_epoch in (False, True):
        for metric in ("validation mIoU", "validation loss", "training loss"):
            one = straight.series(metric, by_epoch=by_epoch)
            other = resumed.series(metric, by_epoch=by_epoch)
            assert list(one.x) == list(other.x)
            assert list(one.y) == pytest.approx(list(other.y))
    assert list(straight.series("training loss", by_epoch=True).x) == [step / 10 for step in range(1, 41)]
    assert list(straight.series("validation mIoU", by_epoch=True).x) == [1, 2, 3, 4]
    assert list(straight.series("validation mIoU", by_epoch=False).x) == [10, 20, 30, 40]


def test_only_the_keys_of_the_presets_that_differ_are_told() -> None:
    first = {"name": "a", "model": {"type": "PAN"}, "loss": [{"type": "Dice", "weight": 0.5}], "train": {"epochs": 3, "compile": False}}
    other = {"name": "b", "model": {"type": "PAN"}, "loss": [{"type": "Dice", "weight": 1.0}, {"type": "Focal"}], "train": {"epochs": 3}}
    assert preset_differences([first, other]) == [
        ("name", ["a", "b"]),
        ("loss[0].weight", ["0.5", "1.0"]),
        ("train.compile", ["false", None]),
        ("loss[1].type", [None, "Focal"]),
    ]
    assert preset_differences([first, first]) == []
    assert preset_differences([first, None]) == []
    assert preset_differences([first, None, other])[0] == ("name", ["a", None, "b"])


@given(st.lists(st.sampled_from("abcdefghij"), max_size=60))
def test_a_run_keeps_its_colour_and_no_two_that_are_marked_share_one(presses: list[str]) -> None:
    colours, marked, ever = RunColours(), list[str](), dict[str, str]()
    for run in presses:
        if run in marked:
            marked.remove(run)
            continue
        given_one = colours.give(run, marked)
        marked.append(run)
        if len(set(presses)) <= 8:
            assert ever.setdefault(run, given_one) == given_one
        assert len({colours.of(each) for each in marked}) == len(marked)


# The screen


def test_the_keys_of_the_comparison(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b", "c")):
        folder = whole_run(tmp_path, name, created=1000.0 - number)
        with_preset(folder, {"name": name, "model": {"type": "FPN"}, "train": {"epochs": 3}})

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        screen = await comparing(pilot, app, 2)
        plot = screen.query_one(Plot)
        assert [run.folder.path.name for run in screen.runs] == ["a", "b"]
        assert app.focused is plot
        text = seen(app)
        assert all(part in text for part in ("━ A a", "━ B b", "2 runs by epoch", "B-A", "what differs in the presets", "validation mIoU"))
        assert "model.type" not in text
        assert [list(curve.series.x) for curve in plot.curves] == [[1, 2, 3]] * 2
        await pilot.press("m")
        await until(pilot, lambda: "validation loss" in seen(app))
        assert [list(curve.series.y) for curve in plot.curves] == [[1.0, 0.5, pytest.approx(1 / 3)]] * 2
        await pilot.press("m")
        await until(pilot, lambda: "smoothed training loss" in seen(app))
        await pilot.press("e")
        await until(pilot, lambda: "2 runs by step" in seen(app))
        assert list(plot.curves[0].series.x) == list(range(1, 31))
        await pilot.press("home", "l")
        await until(pilot, lambda: "step 2 " in seen(app))
        await pilot.press("e")
        assert plot.cursor is None
        await pilot.press("m", "y")
        await until(pilot, lambda: "validation mIoU log" in seen(app))
        await pilot.press("o")
        await until(pilot, lambda: "B-A ▾" in seen(app))
        await pilot.press("o")
        await until(pilot, lambda: "class ▾" in seen(app))
        for goal in ("classes", "presets"):
            await pilot.press("v")
            await until(pilot, lambda goal=goal: app.focused is screen.query_one(f"#{goal}"))  # type: ignore[misc]
            await pilot.press("j", "k", "l", "h", "end", "home")
        await pilot.press("v")
        await until(pilot, lambda: app.focused is plot)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
        assert [Path(path).name for path in on(app, RunsScreen).marked] == ["a", "b"]

    play(tmp_path, scene)


def test_on_a_narrow_terminal_the_parts_take_turns(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with_preset(whole_run(tmp_path, name), {"name": name})

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        screen = await comparing(pilot, app, 2)
        seen_parts = []
        for _ in range(4):
            await until(pilot, lambda: sum([visible(app, Plot), *(part.region.height > 0 for part in screen.query(Part))]) == 1)
            text = seen(app)
            seen_parts.append([each for each in ("0.2┤", "IoU in the best epoch", "what differs") if each in text])
            await pilot.press("v")
            await pilot.pause(0.1)
        assert seen_parts[1:3] == [["IoU in the best epoch"], ["what differs"]]
        assert visible(app, Part)
        await pilot.resize_terminal(140, 45)
        await until(pilot, lambda: visible(app, Plot) and all(part.region.height > 0 for part in screen.query(Part)))

    play(tmp_path, scene, (80, 24))


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    for number in range(9):
        new_run(tmp_path, f"run-{number}", created=1000.0 - number)

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: len(names(app)) == 9)
        await pilot.press("c")
        assert any("mark them with space" in text for text in said(app))
        await pilot.press("space", "c")
        on(app, RunsScreen)
        await pilot.press(*["space"] * 8, "c")
        assert any("9 are marked: unmark some" in text for text in said(app))
        on(app, RunsScreen)
        await pilot.press("G", "space", "c")
        await until(pilot, lambda: isinstance(app.screen, CompareScreen))
        await until(pilot, lambda: seen(app).count("no validation yet") >= 8)
        assert "H: preset.toml is missing" in seen(app)
        assert "no points yet" in seen(app)
        assert "nothing to compare" in seen(app)

    play(tmp_path, scene)


def test_a_live_run_goes_on_and_one_that_is_deleted_is_said(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    live = told(new_run(tmp_path, "live", created=2000.0, **running(sleeper)), [begun("live"), validation(1, [0.5] * 3)])
    gone = whole_run(tmp_path, "gone", created=1000.0)

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        screen = await comparing(pilot, app, 2)
        told(live, [validation(2, [0.625] * 3)])
        await until(pilot, lambda: "0.6250 in epoch 2" in seen(app))
        assert list(screen.query_one(Plot).curves[0].series.y) == [0.5, 0.625]
        shutil.rmtree(gone.path)
        await until(pilot, lambda: "was deleted" in seen(app) and any("gone was deleted" in text for text in said(app)))
        told(live, [validation(3, [0.75] * 3)])
        await until(pilot, lambda: "0.7500 in epoch 3" in seen(app))
        assert len(screen.runs[1].by_epoch["validation mIoU"]) == 3
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen) and names(app) == ["live"])
        assert [Path(path).name for path in on(app, RunsScreen).marked] == ["live"]

    play(tmp_path, scene)


def test_files_that_cannot_be_read_are_said_and_the_others_shown(tmp_path: Path) -> None:
    with_preset(whole_run(tmp_path, "good", created=2000.0), {"name": "good"})
    broken = whole_run(tmp_path, "broken", created=1000.0)
    broken.preset.write_text("name = [")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await comparing(pilot, app, 2)
        assert "B: preset.toml cannot be read" in seen(app)
        assert "0.6833" in seen(app)

    play(tmp_path, scene)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_eight_runs_of_sixty_classes_and_korean_names_fit_every_terminal(tmp_path: Path, size: tuple[int, int]) -> None:
    for number in range(6):
        whole_run(tmp_path, f"sixty-{number}", [f"class number {index} with a long name" for index in range(60)])
    whole_run(tmp_path, "한국어-실행", KOREAN)
    new_run(tmp_path, "empty [b]" + "x" * 150)

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        screen = await comparing(pilot, app, 8)
        for key in ("m", "e", "o", "v", "j", "l", "end", "v", "j", "o", "v", "m", "home", "plus", "minus", "0", "question_mark", "escape"):
            await pilot.press(key)
            await pilot.pause(0.02)
            assert len(seen(app).splitlines()) == size[1]
        if size[0] >= 140:
            await pilot.press("v")
            screen.query_one("#classes", Part).scroll_home(animate=False)
            await until(pilot, lambda: "종이팩" in seen(app))
        for width, height in SIZES:
            await pilot.resize_terminal(width, height)
        await pilot.press("escape")
        on(app, RunsScreen)

    play(tmp_path, scene, size)


@pytest.mark.slow
def test_keys_are_answered_while_long_histories_are_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = new_run(tmp_path, name)
        lines = [encode(begun(name, epochs=10, steps=10_000))]
        for epoch in range(1, 11):
            first = (epoch - 1) * 10_000 + 1
            steps = (
                Step(epoch=epoch, step=step, loss=1 / step, lr=1e-3, images_per_s=9.0, data_wait=0.1)
                for step in range(first, first + 10_000)
            )
            lines += [*map(encode, steps), encode(validation(epoch, [epoch / 20] * 3))]
        folder.events.write_bytes(b"\n".join(lines) + b"\n")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: len(names(app)) == 2)
        await pilot.press("space", "space")
        app.post_message(Key("c", "c"))  # the pilot's own presses wait until there is nothing left to do
        while not isinstance(app.screen, CompareScreen):
            await asyncio.sleep(0.001)
        screen = on(app, CompareScreen)
        waits = []
        while len(screen.runs[1].by_epoch["validation mIoU"]) < 10:
            before, began = screen._metric, time.perf_counter()
            app.post_message(Key("m", "m"))
            while screen._metric == before and time.perf_counter() < began + 10:
                await asyncio.sleep(0.001)
            waits.append(time.perf_counter() - began)
        assert len(waits) > 10
        assert sorted(waits)[len(waits) // 2] < 0.1
        await until(pilot, lambda: len(screen.runs[1].by_epoch["training loss"]) == 100_000)

    play(tmp_path, scene)


# Spark lines


def test_spark_lines_go_from_the_lowest_to_the_highest() -> None:
    assert sparkline([], 8) == ""
    assert sparkline([None, math.nan], 8) == ""
    assert sparkline([0.5], 8) == "▄"
    assert sparkline([0.5] * 4, 8) == "▄▄▄▄"
    assert sparkline([0.1, None, 0.3, math.inf], 8) == "▁ █ "
    assert sparkline([index / 7 for index in range(8)], 8) == BARS
    assert sparkline([0.0, 0.0, 1.0, 1.0], 2) == "▁█"
    assert sparkline([None, 0.0, None, 1.0], 2) == "▁█"


@given(st.lists(st.none() | st.floats(-1e6, 1e6)), st.integers(1, 40))
def test_a_spark_line_never_takes_more_than_its_cells(values: list[float | None], cells: int) -> None:
    line = sparkline(values, cells)
    assert len(line) <= min(cells, len(values))
    assert set(line) <= {" ", *BARS}
    if any(value is not None for value in values):
        assert set(line) & set(BARS)


def test_a_log_is_read_on_where_it_has_grown_and_anew_where_it_is_another(tmp_path: Path) -> None:
    curves, folder = ValidationCurves(), new_run(tmp_path, "a")
    assert curves.read(folder.events) == ()
    told(folder, [begun("a"), validation(1, [0.1] * 3), validation(2, [None] * 3)])
    assert curves.read(folder.events) == (pytest.approx(0.1), None)
    told(folder, [validation(3, [0.3] * 3)])
    with folder.events.open("ab") as file:
        file.write(encode(validation(4, [0.4] * 3))[:40])  # torn
    assert curves.read(folder.events) == (pytest.approx(0.1), None, pytest.approx(0.3))
    again = begun("a")
    again.resumed_epoch = 1
    told(folder, [again, validation(2, [0.25] * 3)])
    assert curves.read(folder.events) == (pytest.approx(0.1), pytest.approx(0.25))
    folder.events.unlink()
    assert curves.read(folder.events) == ()
    told(folder, [begun("a"), validation(1, [0.9] * 3)])
    assert curves.read(folder.events) == (pytest.approx(0.9),)


def test_the_curve_is_the_same_as_from_decoding_every_line(tmp_path: Path) -> None:
    folder = told(new_run(tmp_path, "a"), history("a", epochs=40, steps=300))
    assert folder.events.stat().st_size > 1 << 20  # more than one block
    curve = ValidationCurves().read(folder.events)
    assert curve == tuple(compared(folder).by_epoch["validation mIoU"].y)
    assert len(curve) == 40


def test_a_log_with_other_things_in_it_is_read_all_the_same(tmp_path: Path) -> None:
    folder = new_run(tmp_path, "a")
    lines = [b"not json", b'{"type":"validation"', encode(validation(1, [0.5] * 3)), b"", b'{"type":"run_started"}', b"\xff\xfe"]
    folder.events.write_bytes(b"\n".join(lines) + b"\n")
    assert ValidationCurves().read(folder.events) == (0.5,)
