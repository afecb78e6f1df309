"""The line of keys at the bottom: those that fit, whole, and always the way to help and out."""

from __future__ import annotations

from rich.cells import cell_len
from textual import widgets
from textual.app import ComposeResult
from textual.events import Resize
from textual.widgets._footer import FooterKey

ALWAYS = ("help", "quit")
PADDING = 3
"""Cells of a key beside its own text."""


class Footer(widgets.Footer):
    """Textual's cuts the last keys off; this one leaves out what has no room, which `?` and the palette still tell."""

    _width = 0

    def compose(self) -> ComposeResult:
        keys = [each for each in super().compose() if isinstance(each, FooterKey)]
        palette = [each for each in keys if each.has_class("-command-palette")]
        always = [each for each in keys if each.action in ALWAYS]
        others = [each for each in keys if each not in palette and each not in always]
        room = self.size.width - sum(map(_cells, always))
        shown = []
        for key in others:
            room -= _cells(key)
            if room < 0:
                break
            shown.append(key)
        yield from (*shown, *always)
        if len(shown) == len(others) and all(_cells(key) + 1 <= room for key in palette):
            yield from palette

    def on_resize(self, event: Resize) -> None:
        if event.size.width != self._width:
            self._width = event.size.width
            self.call_after_refresh(self.recompose)


def _cells(key: FooterKey) -> int:
    return cell_len(key.key_display) + cell_len(key.description) + PADDING
