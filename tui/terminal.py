"""A rich console that a class name, a file name or a log line cannot command: rich itself lets escape characters through."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from engine.visible import harmless


class Terminal(Console):
    """Every console of the program is one of these."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich's; what rich itself says to the terminal (the cursor, colours) is not text, and stays."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(harmless(segment.text), segment.style)
