"""Colours that people with any colour vision tell apart, and that differ in grey: Okabe and Ito's, and Tol's muted."""

from __future__ import annotations

# Every figure of the package and of the docs takes its colours from here.
BEFORE, AFTER = "#0072B2", "#D55E00"
PINNED, MIXED = "#BBBBBB", "#666666"
DIVERGING, SURFACE = "PuOr", "cividis"  # matplotlib's maps: of signed values, and of heights
# They repeat, so numbers stand beside them; the lines of a figure take them in order.
COLOURS = (
    BEFORE, AFTER, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#332288", "#999933", "#882255", "#44AA99", "#AA4499",
    "#117733",
)  # fmt: skip


def group_colour(number: int, kind: str = "free") -> str:
    """The colour of a group, as #RRGGBB.

    The second round is shifted against the first: blocks of a network are often 12 groups apart.
    """
    n = len(COLOURS)
    return PINNED if kind == "pinned" else COLOURS[(7 * number + number // n) % n]


def dark_text(colour: str) -> bool:
    """True where black text reads better than white on a #RRGGBB colour (relative luminance, WCAG)."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179
