"""A picture of dots, two by four to a character cell, each cell in one colour."""

from __future__ import annotations

EMPTY = "\u2800"
# The bit of each dot of a cell, by row and column (Unicode 15, "Braille Patterns").
BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
# Those of a part of a cell's column: by column, first row and last row.
COLUMNS = [[[sum(BITS[row][column] for row in range(first, last + 1)) for last in range(4)] for first in range(4)] for column in range(2)]


class Canvas:
    """`width` by `height` cells. Dots count from the top left; what lies outside is not drawn."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._bits = [[0] * width for _ in range(height)]
        self.colours: list[list[str | None]] = [[None] * width for _ in range(height)]

    def column(self, x: int, top: int, bottom: int, colour: str) -> None:
        """The dots from `top` to `bottom` of one dot column, in either order."""
        if not 0 <= x < 2 * self.width:
            return
        first, last = max(min(top, bottom), 0), min(max(top, bottom), 4 * self.height - 1)
        cell = x // 2
        for row in range(first // 4, last // 4 + 1):
            self._bits[row][cell] |= COLUMNS[x % 2][max(first - 4 * row, 0)][min(last - 4 * row, 3)]
            self.colours[row][cell] = colour

    def line(self, start: tuple[int, int], end: tuple[int, int], colour: str) -> None:
        """A connected line between two dots (x, y), start before end."""
        (x0, y0), (x1, y1) = start, end
        if x1 <= x0:
            self.column(x0, y0, y1, colour)
            return
        previous: int | None = None
        for x in range(max(x0, 0), min(x1, 2 * self.width - 1) + 1):
            y = y0 + round((y1 - y0) * (x - x0) / (x1 - x0))
            if previous is None:  # where it starts, or comes in from the left
                previous = y if x == x0 else y0 + round((y1 - y0) * (x - 1 - x0) / (x1 - x0))
            joined = previous if abs(y - previous) <= 1 else previous + (1 if y > previous else -1)
            self.column(x, y if joined == previous else joined, y, colour)
            previous = y

    def row(self, y: int) -> list[tuple[str, str | None]]:
        """The cells of one row: character and colour."""
        return [(chr(0x2800 + bits) if bits else " ", colour) for bits, colour in zip(self._bits[y], self.colours[y], strict=True)]
