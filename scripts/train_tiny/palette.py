"""The colours that captions can name, as 8-bit RGB, and small helpers to shade them."""

from __future__ import annotations

RGB = tuple[int, int, int]

# Chosen to look well together and to stay apart in RGB (nearest pair about 85 apart), because the
# evaluation names a colour by the nearest entry of this table.
COLOURS: dict[str, RGB] = {
    "red": (220, 45, 45),
    "orange": (248, 142, 32),
    "yellow": (250, 216, 62),
    "green": (56, 166, 72),
    "cyan": (72, 208, 222),
    "blue": (48, 92, 216),
    "purple": (142, 68, 188),
    "pink": (250, 150, 188),
    "brown": (128, 80, 44),
    "white": (247, 247, 244),
    "gray": (138, 141, 148),
    "black": (28, 28, 33),
}

WHITE: RGB = (255, 255, 255)
INK: RGB = (34, 28, 38)
SKIN: RGB = (252, 208, 170)
TRUNK: RGB = (112, 72, 40)
LEAF: RGB = (34, 122, 52)


def mix(colour: RGB, other: RGB, share: float) -> RGB:
    """`colour` moved towards `other` by `share` (0 keeps it, 1 replaces it)."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue


def darker(colour: RGB, share: float = 0.3) -> RGB:
    """A shade of `colour`; black has no darker shade, so it becomes lighter instead."""
    if sum(colour) < 150:
        return mix(colour, WHITE, share * 0.7)
    return mix(colour, (0, 0, 0), share)


def lighter(colour: RGB, share: float = 0.4) -> RGB:
    """A tint of `colour`; white has no lighter tint, so it becomes a little darker instead."""
    if sum(colour) > 720:
        return mix(colour, (150, 150, 165), share * 0.6)
    return mix(colour, WHITE, share)


def ink_on(colour: RGB) -> RGB:
    """A line colour that can be seen on `colour`."""
    return INK if sum(colour) > 150 else (235, 232, 225)
