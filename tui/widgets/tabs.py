"""The line on top of every screen: the screens with their keys, and at the right what is open."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rich.cells import cell_len, set_cell_size
from textual.app import RenderResult
from textual.content import Content
from textual.events import Click
from textual.widget import Widget

if TYPE_CHECKING:
    from tui.app import SegtuiApp

TABS = {"launch": "Launch", "run": "Run", "runs": "Runs", "checkpoints": "Checkpoints", "predict": "Predict"}
"""The app's modes in the order of their keys, and what they are called."""


class ScreenTabs(Widget):
    """At the right is what the screen's `sub_title` says, else the app's: its end, where there is no room for all."""

    DEFAULT_CSS = """
    ScreenTabs { dock: top; height: 1; background: $panel; color: $foreground; text-wrap: nowrap; }
    """

    @property
    def segtui(self) -> SegtuiApp:
        return cast("SegtuiApp", self.app)

    def on_mount(self) -> None:
        for watched in (self.app, self.screen):
            self.watch(watched, "sub_title", self._retitle)

    def _retitle(self) -> None:
        self.refresh()

    def render(self) -> RenderResult:
        tabs = self._tabs()
        used = sum(cell_len(text) for _, text in tabs)
        parts: list[tuple[str, str]] = [(text, "reverse bold" if mode == self.segtui.current_mode else "") for mode, text in tabs]
        return Content.assemble(*parts, (_at_the_right(self._open, self.size.width - used - 1), "$text-muted"))

    @property
    def _open(self) -> str:
        title = self.screen.sub_title
        return (self.app.sub_title if title is None else title) or ""

    def _tabs(self) -> list[tuple[str, str]]:
        """Each mode and its text. Where there is no room for all names, only the screen in sight keeps its own."""
        keys = {mode: self.segtui.key_of(f"app.{mode}") for mode in TABS}
        whole = [(mode, f" {keys[mode]} {name} ") for mode, name in TABS.items()]
        if sum(cell_len(text) for _, text in whole) <= self.size.width:
            return whole
        return [(mode, text if mode == self.segtui.current_mode else f" {keys[mode]} ") for mode, text in whole]

    def on_click(self, event: Click) -> None:
        start = 0
        for mode, text in self._tabs():
            start += cell_len(text)
            if event.x < start:
                self.app.switch_mode(mode)
                return


def _at_the_right(text: str, width: int) -> str:
    """`text` in `width` cells, against their right end; too long, it loses its beginning."""
    if width < 4:
        return ""
    if cell_len(text) > width - 2:
        while cell_len(text) > width - 3:
            text = text[1:]
        text = f"…{text}"
    return set_cell_size("", width - cell_len(text)) + text
