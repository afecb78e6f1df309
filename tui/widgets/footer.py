"""The line of keys at the bottom: those that fit, whole, and always the way to help and out."""

from __future__ import annotations

from rich.cells import cell_len
from textual.app import RenderResult
from textual.binding import Binding
from textual.content import Content
from textual.events import Click
from textual.screen import Screen
from textual.widget import Widget

ALWAYS = ("help", "quit")
PADDING = 3
"""Cells of a key beside its own text."""


class Footer(Widget):
    """One line, drawn at once: a widget for each key, as Textual's own has it, takes longer than the rest of a screen.

    What has no room is left out; `?` and the palette tell it.
    """

    DEFAULT_CSS = "Footer { dock: bottom; height: 1; background: $footer-background; color: $footer-foreground; }"

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._changed)

    def _changed(self, screen: Screen[object]) -> None:
        if screen is self.screen:
            self.refresh()

    def render(self) -> RenderResult:
        parts: list[str | tuple[str, str]] = []
        for binding in self.shown():
            parts += [(f" {self.app.get_key_display(binding)} ", "bold $footer-key-foreground"), f"{binding.description} "]
        return Content.assemble(*parts)

    def shown(self) -> list[Binding]:
        """The first key of each action that says something, in the order of the screen; the palette where all others fit."""
        active = self.screen.active_bindings
        found: dict[str, Binding] = {}
        for _, binding, enabled, _ in active.values():
            if binding.show and enabled and binding.description:
                found.setdefault(binding.action, binding)
        palette = active[self.app.COMMAND_PALETTE_BINDING].binding if self.app.COMMAND_PALETTE_BINDING in active else None
        always = [found.pop(action) for action in ALWAYS if action in found]
        room = self.size.width - sum(map(self._cells, always))
        shown = []
        for binding in found.values():
            room -= self._cells(binding)
            if room < 0:
                break
            shown.append(binding)
        are_all = len(shown) == len(found)
        return [*shown, *always, *([palette] if palette and are_all and self._cells(palette) <= room else [])]

    def _cells(self, binding: Binding) -> int:
        return cell_len(self.app.get_key_display(binding)) + cell_len(binding.description) + PADDING

    def on_click(self, event: Click) -> None:
        start = 0
        for binding in self.shown():
            start += self._cells(binding)
            if event.x < start:
                self.app.simulate_key(binding.key)
                return
