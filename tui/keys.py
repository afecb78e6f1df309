"""The user's key map held against the actions that the screens have."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

from textual.app import App
from textual.binding import Binding
from textual.dom import DOMNode
from textual.keys import REPLACED_KEYS, Keys, key_to_character
from textual.screen import ModalScreen, Screen
from textual.widget import Widget

from engine.errors import did_you_mean
from tui.app import SegtuiApp

NAMED = {key.value for key in Keys} | set(REPLACED_KEYS)


def actions() -> dict[str, Binding]:
    """Every action whose key can be changed, by its id."""
    return {binding.id: binding for binding in _all_bindings() if binding.id}


def mistakes(keys: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Of a key map: (action id, what is wrong, what to write instead)."""
    known = actions()
    right: dict[str, list[str]] = {}
    for name, wanted in keys.items():
        parts = [part.strip() for part in wanted.split(",")]
        wrong = [part for part in parts if not _is_key(part)]
        if name not in known:
            yield name, "there is no such action", did_you_mean(name, known) or "`?` in a screen shows its actions"
        elif wrong:
            yield name, f"{wrong[0]!r} is no key", did_you_mean(wrong[0], NAMED) or 'write for example "delete", "ctrl+d" or "D"'
        else:
            right[name] = [binding.key for binding in Binding.make_bindings([(wanted, "")])]
    yield from _clashes(right)


def _is_key(text: str) -> bool:
    last = text.rpartition("+")[2]
    return len(text) == 1 or text in NAMED or last in NAMED or key_to_character(last) is not None


def _clashes(keys: Mapping[str, list[str]]) -> Iterator[tuple[str, str, str]]:
    """Two actions on one key, where the user put one of them there. Some of ours share a key on purpose, the inner one first."""
    defaults: dict[str, set[str]] = {}
    for binding in _all_bindings():
        defaults.setdefault(binding.id or "", set()).add(binding.key)
    told: set[frozenset[str]] = set()
    for screen in (each for each in _ours(Widget) if issubclass(each, Screen)):
        by_key: dict[str, dict[str, Binding]] = {}
        for binding in _in_reach(screen):
            for key in keys.get(binding.id or "", [binding.key]):
                by_key.setdefault(key, {}).setdefault(binding.action, binding)
        for key, found in by_key.items():
            moved = sorted(each.id for each in found.values() if each.id and each.id in keys and key not in defaults[each.id])
            names = frozenset(each.id or each.action for each in found.values())
            if len(found) < 2 or not moved or names in told:
                continue
            told.add(names)
            others = ", ".join(f"{each.description} ({each.id or each.action})" for each in found.values() if each.id != moved[0])
            yield moved[0], f"{key!r} is also {others}", "give one of them another key"


def _in_reach(screen: type[Widget]) -> list[Binding]:
    """What keys can do in a screen: the actions of our widgets that its module names, its own, and, if it is no question, the app's."""
    named = [each for each in vars(sys.modules[screen.__module__]).values() if isinstance(each, type)]
    places: list[type[DOMNode]] = [each for each in _ours(Widget) if each in named and not issubclass(each, Screen)]
    places += [screen] if issubclass(screen, ModalScreen) else [screen, SegtuiApp]
    return [binding for place in places for binding in _bindings(place)]


def _all_bindings() -> list[Binding]:
    places: list[type[DOMNode]] = [SegtuiApp, *_ours(Widget)]
    return [binding for place in places for binding in _bindings(place)]


def _bindings(place: type[DOMNode]) -> list[Binding]:
    """One for each key: our own, and those that Textual gives every app."""
    declared = [vars(each)["BINDINGS"] for each in place.__mro__ if "BINDINGS" in vars(each) and (each is App or _is_ours(each))]
    return [binding for bindings in declared for binding in Binding.make_bindings(bindings)]


def _ours(kind: type[Widget]) -> list[type[Widget]]:
    found: list[type[Widget]] = []
    for each in kind.__subclasses__():
        found += [each, *_ours(each)]
    return [each for each in dict.fromkeys(found) if _is_ours(each)]


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("tui.")
