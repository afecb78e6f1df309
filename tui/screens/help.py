"""Help, made from the bindings of what has the focus: the keys as the user has set them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import ActiveBinding, Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static


class HelpScreen(ModalScreen[None]):
    """Every key that works where it was asked for and the name that its action has in config.toml: first what the footer is about,
    then what moves about, last Textual's own."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,f1", "dismiss", "Back")]
    DEFAULT_CSS = """
    HelpScreen { align: center middle; }
    HelpScreen > VerticalScroll { width: 76; max-width: 95%; height: auto; max-height: 90%; }
    HelpScreen > VerticalScroll { border: round $primary; padding: 0 1; background: $surface; }
    HelpScreen Static { width: 1fr; height: auto; }
    """

    def __init__(self, active: Sequence[ActiveBinding]) -> None:
        super().__init__()
        told = [each.binding for each in active if each.binding.description and not each.binding.system]
        told = [each for each in told if each.action != "screen.copy_text"]  # there is nothing that could be selected
        self.active = sorted(told, key=lambda each: (not each.show, not each.id))

    def compose(self) -> ComposeResult:
        with VerticalScroll() as scroll:
            scroll.border_title = "keys · esc closes"
            yield Static(self._table())

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(no_wrap=True)
        table.add_column(ratio=1)
        table.add_column(no_wrap=True, style="dim")
        by_action: dict[str, list[Binding]] = {}
        for binding in self.active:
            by_action.setdefault(binding.action, []).append(binding)
        for bindings in by_action.values():
            keys = " ".join(self.app.get_key_display(each) for each in bindings)
            what = Text(bindings[0].tooltip or bindings[0].description)
            table.add_row(Text(keys, style="bold"), what, Text(bindings[0].id or "" if self.app.size.width >= 60 else ""))
        return table
