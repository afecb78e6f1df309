"""Colours that mean something: they follow the theme, the colour-blind theme tells good from bad, and nothing needs a colour."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.color import Color as RichColor
from rich.style import Style
from textual.color import Color
from textual.filter import Monochrome
from textual.pilot import Pilot
from textual.theme import BUILTIN_THEMES

from engine.events import RunEnded
from tests.screens import checkpoint, history, new_run, on, opened, play, seen, told, until, whole_run
from tui import themes
from tui.app import SegtuiApp
from tui.memory import State, remembered
from tui.screens.run import RunScreen
from tui.widgets.iou_table import IoUTable

MEANINGS: tuple[themes.Meaning, ...] = ("good", "bad", "warning", "note")
# Linear RGB to what a person without red (protan), green (deutan) or blue (tritan) cones sees: Viénot 1999, Brettel 1997 as one matrix.
BLINDNESS = {
    "protan": ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0)),
    "deutan": ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0)),
    "tritan": ((1.0, 0.1461, -0.1461), (0.0, 0.8569, 0.1431), (0.0, 0.8569, 0.1431)),
}


@pytest.fixture(autouse=True)
def _default_colours_afterwards() -> Iterator[None]:
    yield
    themes.follow(BUILTIN_THEMES[themes.DEFAULT])


def lab(rgb: tuple[float, float, float]) -> tuple[float, float, float]:
    """CIE L*a*b* (D65) of linear RGB."""
    red, green, blue = rgb
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.089
    x, y, z = (value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116 for value in (x, y, z))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def difference(one: str, other: str, blindness: str) -> float:
    """CIE76 between two colours as a colour-blind person sees them; 20 and more are told apart at a glance."""
    seen_as = []
    for text in (one, other):
        red, green, blue = (
            value / 255 / 12.92 if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in Color.parse(text).rgb
        )
        rows = BLINDNESS[blindness]
        seen_as.append(lab(tuple(min(max(a * red + b * green + c * blue, 0.0), 1.0) for a, b, c in rows)))  # type: ignore[arg-type]
    return sum((a - b) ** 2 for a, b in zip(*seen_as, strict=True)) ** 0.5


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_the_colour_blind_theme_tells_good_from_bad(blindness: str) -> None:
    themes.follow(themes.colorblind())
    for one, other in (("good", "bad"), ("good", "warning"), ("bad", "note")):
        assert difference(themes.style(one), themes.style(other), blindness) > 50, (one, other)


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_the_curves_of_one_plot_are_told_apart_with_every_colour_blindness(blindness: str) -> None:
    assert difference(themes.CURVES["train"], themes.CURVES["validation"], blindness) > 50


def test_without_colours_the_curves_of_a_plot_differ_in_their_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    styles = [Style.parse(themes.curve_style(name)) for name in ("raw", "train", "validation")]
    assert all(style.color is None for style in styles)
    assert len(set(map(str, styles))) == 3


@pytest.mark.parametrize("name", sorted(themes.names()))
def test_every_theme_gives_styles_that_rich_can_show(name: str) -> None:
    themes.follow(themes.colorblind() if name == themes.COLORBLIND else BUILTIN_THEMES[name])
    for meaning in MEANINGS:
        assert Style.parse(f"bold {themes.style(meaning)}").color is not None
    for state in ("running", "queued", "finished", "stopped", "failed", "lost"):
        assert Style.parse(themes.state_style(state)).color is not None


@pytest.mark.parametrize("name", [themes.DEFAULT, "nord", themes.COLORBLIND])
def test_the_program_starts_with_its_themes_colours_and_remembers_only_what_was_chosen(tmp_path: Path, name: str) -> None:
    themes.follow(BUILTIN_THEMES["dracula"])
    play(tmp_path, nothing, theme="" if name == themes.DEFAULT else name)
    theme = themes.colorblind() if name == themes.COLORBLIND else BUILTIN_THEMES[name]
    assert themes.style("good") == theme.success
    assert remembered() == State()


async def nothing(pilot: Pilot[None], app: SegtuiApp) -> None: ...


def test_a_run_in_sight_changes_its_colours_with_the_theme(tmp_path: Path) -> None:
    whole_run(tmp_path, "a")

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        screen = await opened(pilot, app, "a")

        def colours_of(start: str) -> set[RichColor | None]:
            segments = [segment for strip in screen._compositor.render_strips() for segment in strip]
            return {each.style.color for each in segments if each.style and each.text.strip().startswith(start)}

        for theme, good in ((themes.COLORBLIND, "#56b4e9"), ("nord", "#a3be8c")):
            app.theme = theme
            await until(pilot, lambda good=good: colours_of("+0.0") == {RichColor.parse(good)})  # type: ignore[misc]
            assert colours_of("finished") == {RichColor.parse(good)}

    play(tmp_path, scene)


def colours(app: SegtuiApp) -> set[tuple[int, ...]]:
    """RGB of everything that is written to the terminal, after Textual's filters."""
    found = set()
    for strip in app.screen._compositor.render_strips():
        for each in app._filters:
            strip = strip.apply_filter(each, app.screen.background_colors[1])
        styles = [segment.style for segment in strip if segment.style]
        found |= {tuple(colour.get_truecolor()) for style in styles for colour in (style.color, style.bgcolor) if colour}
    return found


def greys_only(app: SegtuiApp) -> bool:
    return all(red == green == blue for red, green, blue in colours(app))


def test_without_colours_states_changes_and_classes_are_told_by_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    for state in ("finished", "stopped", "failed"):
        whole_run(tmp_path, state, state=state)
    failed = new_run(tmp_path, "broken", state="failed")
    told(failed, [*history("broken")[:-1], RunEnded(state="failed", error="it broke")])

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await until(pilot, lambda: all(state in seen(app) for state in ("finished", "stopped", "failed")))
        assert greys_only(app)
        await opened(pilot, app, "broken")
        await until(pilot, lambda: "it broke" in seen(app) and "square" in seen(app))
        table = "\n".join(line for line in seen(app).splitlines() if any(name in line for name in ("Background", "square", "triangle")))
        assert "-0.0500" in table
        assert "+0.0500" in table
        assert "█" in table
        assert greys_only(app)
        app._filters = [each for each in app._filters if not isinstance(each, Monochrome)]
        assert not greys_only(app)  # of which there would be some

    play(tmp_path, scene)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), (40, 10)])
@pytest.mark.parametrize("theme", [themes.COLORBLIND, "textual-light", "ansi-dark"])
def test_every_screen_shows_in_every_kind_of_theme(tmp_path: Path, theme: str, size: tuple[int, int]) -> None:
    run = whole_run(tmp_path, "a")
    checkpoint(run, "best", 0.5)

    async def scene(pilot: Pilot[None], app: SegtuiApp) -> None:
        await opened(pilot, app, "a")
        for key in ("v", "v", "v", "1", "3", "4", "5", "2"):
            await pilot.press(key)
            await pilot.pause(0.05)
        on(app, RunScreen).query_one(IoUTable)

    play(tmp_path, scene, size, theme=theme)
