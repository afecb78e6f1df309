"""One colour per class, the same everywhere: overlays, tables, masks on the screen."""

from __future__ import annotations

import colorsys

# Okabe and Ito (2008): told apart with every common colour blindness. Further classes step round the hue circle.
FIRST = [(0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0), (204, 121, 167), (86, 180, 233), (240, 228, 66)]
BACKGROUND = (96, 96, 96)
GOLDEN_ANGLE = 0.381966


def class_colours(classes: list[str]) -> list[tuple[int, int, int]]:
    """RGB in 0..255 for each class; a class named Background is grey."""
    colours: list[tuple[int, int, int]] = []
    for name in classes:
        number = len([colour for colour in colours if colour != BACKGROUND])
        colours.append(BACKGROUND if name == "Background" else _colour(number))
    return colours


def _colour(number: int) -> tuple[int, int, int]:
    if number < len(FIRST):
        return FIRST[number]
    turn = number - len(FIRST)
    red, green, blue = colorsys.hsv_to_rgb((0.08 + turn * GOLDEN_ANGLE) % 1, 0.45 + 0.4 * (turn % 2), 0.95 - 0.15 * (turn % 3))
    return round(red * 255), round(green * 255), round(blue * 255)
