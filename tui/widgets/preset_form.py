"""A form of many fields in one list: a cursor, and an editor that opens over the field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.events import Click
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.suggester import SuggestFromList
from textual.widgets import Input, Static

from tui.preset_rows import Row
from tui.themes import style

EMPTY = '""'
DIM = Style(dim=True)
MOST_LABEL = 24
EDITOR_LINES = 4
"""The field, and what is wrong with it, under it."""


class Fields(ScrollView, can_focus=True):
    """The rows, drawn by line; headings are passed over by the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,e", "edit", "Edit", id="form.edit"),
        Binding("space", "choose", "Next choice", id="form.choose"),
        Binding("u", "reset", "Undo edit", id="form.reset"),
        Binding("down,j", "move(1)", "Down", show=False, id="form.down"),
        Binding("up,k", "move(-1)", "Up", show=False, id="form.up"),
        Binding("pagedown,ctrl+d", "move(10)", "Ten down", show=False, id="form.far_down"),
        Binding("pageup,ctrl+u", "move(-10)", "Ten up", show=False, id="form.far_up"),
        Binding("home,g", "move(-10000)", "First", show=False, id="form.first"),
        Binding("end,G", "move(10000)", "Last", show=False, id="form.last"),
        Binding("right_curly_bracket", "section(1)", "Next table", show=False, id="form.next_table"),
        Binding("left_curly_bracket", "section(-1)", "Previous table", show=False, id="form.previous_table"),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"fields--cursor", "fields--heading", "fields--changed", "fields--wrong"}
    DEFAULT_CSS = """
    Fields { height: 1fr; background: $background; overflow-x: hidden; scrollbar-size-vertical: 1; }
    Fields > .fields--cursor { background: $block-cursor-blurred-background; }
    Fields:focus > .fields--cursor { background: $block-cursor-background; color: $block-cursor-foreground; }
    Fields > .fields--heading { color: $primary; text-style: bold; }
    Fields > .fields--changed { color: $warning; text-style: bold; }
    Fields > .fields--wrong { color: $error; }
    """

    @dataclass
    class Moved(Message):
        row: Row

    @dataclass
    class Wanted(Message):
        """`what`: edit, choose or reset."""

        row: Row
        what: str

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Row] = []
        self.at = 0
        self._lines: list[tuple[int, Text]] = []

    def show(self, rows: Sequence[Row]) -> None:
        """The cursor stays with its field where that is still there."""
        key = self.row.key if self.row else ""
        self.rows = list(rows)
        places = {row.key: index for index, row in enumerate(self.rows) if row.path}
        self.at = places.get(key, next(iter(places.values()), 0))
        self._lay_out()

    @property
    def row(self) -> Row | None:
        return self.rows[self.at] if self.at < len(self.rows) and self.rows[self.at].path else None

    def line_of(self, index: int) -> int:
        """Where a row's first line is on the screen of this widget."""
        return next((line for line, (row, _) in enumerate(self._lines) if row == index), 0) - self.scroll_offset.y

    def on_resize(self) -> None:
        self._lay_out()

    def _lay_out(self) -> None:
        width = max(self.scrollable_content_region.width, 20)
        label = min(max((len(row.label) for row in self.rows), default=0), MOST_LABEL, width // 2)
        self._lines = []
        for index, row in enumerate(self.rows):
            self._lines += [(index, line) for line in self._texts(row, label, width)]
        self.virtual_size = Size(width, len(self._lines))
        self._keep_in_sight()
        self.refresh()

    def _texts(self, row: Row, label: int, width: int) -> list[Text]:
        if not row.path:
            return [Text.assemble((row.label, self._style("heading")))]
        mark = "● " if row.is_changed else "  "
        text = Text.assemble((mark, self._style("changed")))
        text.append(f"{row.label[: label + 1]:<{label + 2}}", style=Style() if row.is_set else DIM)
        text.append(row.value or EMPTY, style=self._style("changed") if row.is_changed else Style() if row.is_set else DIM)
        if row.is_changed:
            text.append(f"  was {row.before or EMPTY}", style=DIM)
        text.truncate(width, overflow="ellipsis")
        if not row.problem:
            return [text]
        wrong = Text.assemble((row.problem, self._style("wrong"))).wrap(self.app.console, max(width - 4, 10))
        return [text, *(Text.assemble("    ", line) for line in wrong[:3])]

    def _style(self, name: str) -> Style:
        """Without a background: the cursor's line has its own."""
        style = self.get_component_rich_style(f"fields--{name}", partial=True)
        return Style(color=style.color, bold=style.bold)

    def render_line(self, y: int) -> Strip:
        line = y + self.scroll_offset.y
        width = self.size.width
        if line >= len(self._lines):
            return Strip.blank(width, self.rich_style)
        index, text = self._lines[line]
        strip = Strip([Segment(part.text, part.style) for part in text.render(self.app.console) if part.text])
        style = self.rich_style
        if index == self.at:
            style = self.get_component_rich_style("fields--cursor")
            if self.has_focus:  # one colour that is sure to be read on the cursor's
                return Strip([Segment(text.plain)]).adjust_cell_length(width).apply_style(style)
        return strip.adjust_cell_length(width).apply_style(style)

    def _keep_in_sight(self) -> None:
        lines = [line for line, (row, _) in enumerate(self._lines) if row == self.at]
        if not lines or not self.size.height:
            return
        height, top = self.scrollable_content_region.height, self.scroll_offset.y
        first, last = lines[0] - (1 if self.at and not self.rows[self.at - 1].path else 0), lines[-1]
        if first < top:
            self.scroll_to(y=first, animate=False, immediate=True)
        elif last >= top + height:
            self.scroll_to(y=last - height + 1, animate=False, immediate=True)

    def go_to(self, index: int) -> None:
        if 0 <= index < len(self.rows) and self.rows[index].path:
            self.at = index
            self._keep_in_sight()
            self.refresh()
            self.post_message(self.Moved(self.rows[index]))

    def action_move(self, by: int) -> None:
        fields = [index for index, row in enumerate(self.rows) if row.path]
        if fields:
            place = fields.index(self.at) + by if self.at in fields else 0
            self.go_to(fields[max(0, min(place, len(fields) - 1))])

    def action_section(self, by: int) -> None:
        heads = [index + 1 for index, row in enumerate(self.rows[:-1]) if not row.path and self.rows[index + 1].path]
        if heads:
            here = max((place for place, head in enumerate(heads) if head <= self.at), default=0)
            self.go_to(heads[(here + by) % len(heads)])

    def on_click(self, event: Click) -> None:
        line = event.y + self.scroll_offset.y
        if line < len(self._lines):
            self.go_to(self._lines[line][0])

    def action_edit(self) -> None:
        if self.row:
            self.post_message(self.Wanted(self.row, "edit"))

    def action_choose(self) -> None:
        if self.row:
            self.post_message(self.Wanted(self.row, "choose"))

    def action_reset(self) -> None:
        if self.row:
            self.post_message(self.Wanted(self.row, "reset"))


class PresetForm(Vertical):
    """Rows in, edits out: what is right is judged by whoever shows it, by `judge` while one types, by `show` once it is taken."""

    DEFAULT_CSS = """
    PresetForm { layers: base editor; }
    PresetForm > #help { height: auto; max-height: 2; color: $text-muted; padding: 0 1; border-top: solid $surface; }
    PresetForm > #editor { layer: editor; position: absolute; height: auto; width: 100%; display: none; background: $panel; padding: 0 1; }
    PresetForm > #editor > #label { height: 1; width: 1fr; text-style: bold; }
    PresetForm > #editor > Static { height: auto; max-height: 3; width: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Leave the field", show=False, id="form.leave")]

    @dataclass
    class Typed(Message):
        """Not taken yet: to be judged."""

        row: Row
        text: str

    @dataclass
    class Entered(Message):
        row: Row
        text: str

    @dataclass
    class Reset(Message):
        """Back to what the file says."""

        row: Row

    def __init__(self) -> None:
        super().__init__()
        self._editing: Row | None = None

    def compose(self) -> ComposeResult:
        yield Fields()
        yield Static("", id="help", markup=False)
        with Vertical(id="editor"):
            yield Static("", id="label", markup=False)
            yield Input(compact=True, id="value")
            yield Static("", id="judgement", markup=False)

    @property
    def fields(self) -> Fields:
        return self.query_one(Fields)

    @property
    def is_editing(self) -> bool:
        return self._editing is not None

    def show(self, rows: Sequence[Row]) -> None:
        self.fields.show(rows)
        self._tell(self.fields.row)

    def judge(self, text: str, problem: str) -> None:
        """What is wrong with the text in the editor; a judgement about an older text is passed over."""
        if self._editing and self.query_one("#value", Input).value == text:
            self._say(problem or self._editing.help, is_wrong=bool(problem))

    def take(self) -> None:
        """The text in the editor was right: close it."""
        self._close()

    @on(Fields.Moved)
    def _moved(self, event: Fields.Moved) -> None:
        self._tell(event.row)

    def _tell(self, row: Row | None) -> None:
        self.query_one("#help", Static).update(row.help if row else "")

    @on(Fields.Wanted)
    def _wanted(self, event: Fields.Wanted) -> None:
        event.stop()
        row = event.row
        match event.what:
            case "edit":
                self._open(row)
            case "reset" if row.is_changed:
                self.post_message(self.Reset(row))
            case "choose" if row.choices:
                at = row.choices.index(row.value) + 1 if row.value in row.choices else 0
                self.post_message(self.Entered(row, row.choices[at % len(row.choices)]))
            case "choose":
                self._open(row)

    def _open(self, row: Row) -> None:
        self._editing = row
        editor, field = self.query_one("#editor"), self.query_one("#value", Input)
        self.query_one("#label", Static).update(row.key)
        line = min(self.fields.line_of(self.fields.at), max(self.size.height - EDITOR_LINES - 1, 0))
        editor.styles.offset = (0, max(line, 0))
        editor.display = True
        field.suggester = SuggestFromList(row.names or row.choices, case_sensitive=False) if row.names or row.choices else None
        field.value = "" if not row.is_text and row.value == "-" else row.value
        field.cursor_position = len(field.value)
        self._say(row.problem or row.help, is_wrong=bool(row.problem))
        field.focus()

    def _say(self, text: str, *, is_wrong: bool) -> None:
        self.query_one("#judgement", Static).update(Text(text, style=f"bold {style('bad')}" if is_wrong else "dim"))

    @on(Input.Changed, "#value")
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        if self._editing is not None:
            self.post_message(self.Typed(self._editing, event.value))

    @on(Input.Submitted, "#value")
    def _entered(self, event: Input.Submitted) -> None:
        event.stop()
        if self._editing is not None:
            self.post_message(self.Entered(self._editing, event.value))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002  Textual's signature
        """Outside the editor `esc` is the screen's."""
        return action != "leave" or self.is_editing

    def action_leave(self) -> None:
        self._close()

    def _close(self) -> None:
        self._editing = None
        self.query_one("#editor").display = False
        self.fields.focus()
