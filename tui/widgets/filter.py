"""The line above a list that narrows it down: opened with `/`, left with enter, cleared with esc."""

from __future__ import annotations

from textual.widgets import Input


class Filter(Input):
    """Not in sight before it is opened."""

    DEFAULT_CSS = "Filter { display: none; border: none; height: 1; padding: 0 1; }"

    def __init__(self, placeholder: str) -> None:
        super().__init__(placeholder=placeholder, id="filter", compact=True)

    @property
    def words(self) -> list[str]:
        return self.value.lower().split()

    def matches(self, text: str) -> bool:
        """Every word is in it, in any order."""
        return all(word in text.lower() for word in self.words)

    def open(self, value: str | None = None) -> None:
        """With what was looked for before, or with `value`."""
        self.value = self.value if value is None else value
        self.display = True
        self.focus()

    def close(self) -> None:
        self.value = ""
        self.display = False
