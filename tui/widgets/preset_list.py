"""The presets to choose from, under their headings; marked ones carry their place in the queue, edited ones a dot."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from tui.preset_list import label, presets
from tui.themes import style


class PresetList(OptionList):
    """`edited` are the presets that differ from their files."""

    class Marked(Message):
        """Other presets are marked now."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", "Down", show=False, id="launch.down"),
        Binding("k", "cursor_up", "Up", show=False, id="launch.up"),
        Binding("space", "mark", "Mark", id="launch.mark"),
    ]

    def __init__(self, edited: Callable[[], Collection[Path]]) -> None:
        super().__init__(id="presets")
        self._edited = edited
        self.marked: list[Path] = []
        """In the order in which they were marked."""

    def fill(self, matches: Callable[[str], bool]) -> bool:
        """With those that match; the cursor stays where it can. Whether there are any."""
        before = self.highlighted_option.id if self.highlighted_option else None
        self.clear_options()
        for heading, paths in presets().items():
            found = [path for path in paths if matches(label(path))]
            if found:
                self.add_option(Option(Text(heading, style="bold dim"), disabled=True))
                self.add_options([Option(self._line(path), id=f"{heading}:{path}") for path in found])
        ids = [option.id for option in self.options if option.id]
        if ids:
            self.highlighted = self.get_option_index(before if before in ids else ids[0])
        return bool(ids)

    def draw_again(self) -> None:
        """Marks and edits have changed."""
        for option in self.options:
            if option.id:
                self.replace_option_prompt(option.id, self._line(path_of(option.id)))

    def go_to(self, file: Path) -> None:
        ids = [option.id for option in self.options if option.id and path_of(option.id) == file]
        if ids:
            self.highlighted = self.get_option_index(ids[0])

    def unmark(self) -> None:
        self.marked = []
        self.draw_again()
        self.post_message(self.Marked())

    def action_mark(self) -> None:
        option = self.highlighted_option
        if option is None or option.id is None:
            return
        path = path_of(option.id)
        if path in self.marked:
            self.marked.remove(path)
        else:
            self.marked.append(path)
        self.draw_again()
        self.post_message(self.Marked())
        self.action_cursor_down()

    def _line(self, path: Path) -> Text:
        place = str(self.marked.index(path) + 1) if path in self.marked else ""
        dot = "●" if path in self._edited() else ""
        return Text.assemble((place, f"bold {style('note')}"), (dot, style("warning")), " " * (2 - len(place + dot)), label(path))


def path_of(option_id: str) -> Path:
    return Path(option_id.partition(":")[2])
