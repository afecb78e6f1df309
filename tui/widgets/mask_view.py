"""One picture in half-blocks, in the middle of its room; or words where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.text import Text
from textual.events import Resize
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

Mode = Literal["photograph", "prediction", "truth", "errors", "overlay"]
TITLES: dict[Mode, str] = {
    "photograph": "photograph",
    "prediction": "prediction",
    "truth": "ground truth",
    "errors": "errors",
    "overlay": "prediction over the photograph",
}


class MaskView(Widget):
    """Shows what it is given and draws nothing itself: `room` says how large a picture may be."""

    @dataclass
    class Resized(Message):
        """There is another room for the picture."""

        view: MaskView

    DEFAULT_CSS = """
    MaskView { width: 1fr; height: 1fr; background: $background; color: $text-muted; }
    """

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.mode: Mode = "prediction"
        self._lines: list[Strip] = []

    @property
    def room(self) -> tuple[int, int]:
        """In cells: columns and rows."""
        return self.size.width, self.size.height

    def show(self, drawn: Sequence[Strip] | str) -> None:
        """Lines of a picture no larger than the room, or words."""
        self._lines = self._words(drawn) if isinstance(drawn, str) else list(drawn)
        self.refresh()

    def on_resize(self, _: Resize) -> None:
        self.post_message(self.Resized(self))

    def render_line(self, y: int) -> Strip:
        width, height = self.room
        style = self.rich_style
        line = y - max((height - len(self._lines)) // 2, 0)
        if not 0 <= line < len(self._lines):
            return Strip.blank(width, style)
        picture = self._lines[line]
        left = max((width - picture.cell_length) // 2, 0)
        return Strip.join([Strip.blank(left, style), picture.apply_style(style)]).adjust_cell_length(width, style)

    def _words(self, text: str) -> list[Strip]:
        width = max(min(self.size.width - 2, 72), 1)
        options = self.app.console.options.update(width=width, height=None)
        return [Strip(line) for line in self.app.console.render_lines(Text(text), options)]
