"""Test-time augmentation: the views of an image that a network is shown, and the way back from what it says of them.

No torch here: the terminal parses views and tells their cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from engine.errors import Problem, RequestError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT = "hflip,scale=0.75/1/1.25"
MOST_VIEWS = 128
SMALLEST, LARGEST = 0.25, 4.0


@dataclass(frozen=True, order=True)
class View:
    """One way to show an image: brightness times a factor, scaled, mirrored left to right, then `turns` quarter turns.

    Every combination of mirrors and quarter turns is one of the eight that `mirrored` and `turns` name (the symmetries
    of the square), so views that do the same are equal: rot180 is hflip and vflip.
    """

    mirrored: bool = False
    turns: int = 0
    scale: float = 1.0
    brightness: float = 1.0

    def __str__(self) -> str:
        parts = ["hflip"] if self.mirrored else []
        parts += [f"rot{90 * self.turns}"] if self.turns else []
        if (self.mirrored, self.turns) == (True, 2):
            parts = ["vflip"]
        parts += [f"scale {self.scale:g}"] if self.scale != 1 else []
        parts += [f"brightness {self.brightness:g}"] if self.brightness != 1 else []
        return " ".join(parts) or "identity"

    def apply(self, images: Tensor) -> Tensor:
        """(..., H, W), mirrored and turned: (..., H, W) or (..., W, H)."""
        shown = images.flip(-1) if self.mirrored else images
        return shown.rot90(self.turns, (-2, -1)) if self.turns else shown

    def undo(self, maps: Tensor) -> Tensor:
        """What the network said of `apply`, back in the image's own frame."""
        maps = maps.rot90(-self.turns, (-2, -1)) if self.turns else maps
        return maps.flip(-1) if self.mirrored else maps

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image is scaled to, before it is turned; a pixel at least."""
        return max(round(self.scale * height), 1), max(round(self.scale * width), 1)

    def then(self, other: View) -> View:
        """This mirroring and turning followed by another's. Mirroring swaps the sense of a turn."""
        turns = other.turns + (-self.turns if other.mirrored else self.turns)
        return View(self.mirrored != other.mirrored, turns % 4)


IDENTITY = View()
MIRRORS_AND_TURNS = {
    "identity": IDENTITY,
    "hflip": View(mirrored=True),
    "vflip": View(mirrored=True, turns=2),
    "rot90": View(turns=1),
    "rot180": View(turns=2),
    "rot270": View(turns=3),
}
FACTORS = ("scale", "brightness")


def parse_views(text: str) -> tuple[View, ...]:
    """The views of for example "hflip,vflip,scale=0.75/1/1.25,brightness=0.9/1/1.1", without duplicates.

    A mirror or turn doubles the views (with it and without); `scale` and `brightness` multiply them by their factors.
    Raises RequestError.
    """
    symmetries = [IDENTITY]
    factors: dict[str, list[float]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, values = (each.strip() for each in part.partition("="))
        if name in MIRRORS_AND_TURNS and not equals:
            symmetries = list(dict.fromkeys([*symmetries, *(view.then(MIRRORS_AND_TURNS[name]) for view in symmetries)]))
        elif name in FACTORS and equals and name not in factors:
            factors[name] = [_factor(name, value) for value in values.split("/")]
        else:
            raise _unknown(part, name, name in factors)
    scaled = product(symmetries, factors.get("scale", [1.0]), factors.get("brightness", [1.0]))
    views = tuple(dict.fromkeys(View(view.mirrored, view.turns, scale, brightness) for view, scale, brightness in scaled))
    if len(views) > MOST_VIEWS:
        raise RequestError(Problem(f"makes {len(views)} views of every image", key="--tta", fix=f"{MOST_VIEWS} are the most"))
    return views


def cost(views: tuple[View, ...]) -> float:
    """How many plain predictions the views take, by the pixels that go through the network."""
    return sum(view.scale**2 for view in views)


def _factor(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not SMALLEST <= value <= LARGEST:
        raise RequestError(
            Problem(
                f"{name}: {text!r} is no factor from {SMALLEST:g} to {LARGEST:g}", key="--tta", fix=f"write for example {name}=0.75/1/1.25"
            )
        )
    return value


def _unknown(part: str, name: str, twice: bool) -> RequestError:
    if twice:
        return RequestError(Problem(f"{name} is given twice", key="--tta", fix=f"write its factors together, as in {name}=0.75/1/1.25"))
    if name in FACTORS:
        return RequestError(Problem(f"{name} has no factors", key="--tta", fix=f"write for example {name}=0.75/1/1.25"))
    return RequestError(Problem(f"there is no view {part!r}", key="--tta", fix=did_you_mean(name, [*MIRRORS_AND_TURNS, *FACTORS])))
