"""What the command palette (ctrl+p) offers: the actions of the screen in sight, the screens, the theme, the keys, the way out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content

from tui.widgets.tabs import TABS

if TYPE_CHECKING:
    from tui.app import SegtuiApp


class Command(NamedTuple):
    name: str
    key: str
    run: Callable[[], Any]


class Commands(Provider):
    """Made from the bindings, as the help is, so that nothing has to be added here for a new action."""

    def commands(self) -> Iterator[Command]:
        app = cast("SegtuiApp", self.app)
        yield from self._actions(in_footer=True)
        for mode, name in TABS.items():
            yield Command(f"Go to {name}", app.key_of(f"app.{mode}"), partial(app.switch_mode, mode))
        yield Command("Theme", "", app.action_change_theme)
        yield Command("Keys", app.key_of("app.help"), partial(app.run_action, "help", app))
        yield Command("Quit", app.key_of("app.quit"), app.action_quit)
        yield from self._actions(in_footer=False)

    def _actions(self, *, in_footer: bool) -> Iterator[Command]:
        told = set()
        for node, binding, enabled, _ in self.screen.active_bindings.values():
            if node is not self.app and binding.id and binding.show == in_footer and enabled and binding.action not in told:
                told.add(binding.action)
                what = binding.tooltip or binding.description
                yield Command(
                    what[:1].upper() + what[1:], self.app.get_key_display(binding), partial(self.app.run_action, binding.action, node)
                )

    async def discover(self) -> Hits:
        for command in self.commands():
            yield DiscoveryHit(_line(Content(command.name), command.key), command.run, command.name)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for command in self.commands():
            if (score := matcher.match(command.name)) > 0:
                yield Hit(score, _line(matcher.highlight(command.name), command.key), command.run, command.name)


def _line(name: Content, key: str) -> Content:
    return Content.assemble(name, "  ", (key, "$text-muted"))
