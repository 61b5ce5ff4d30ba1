"""Running a network over a picture that is too large for it, piece by piece."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

TILE = 256
"""Side of a piece in pixels, without what is added around it. As Real-ESRGAN's own programs."""
OVERLAP = 32
"""What each piece gets to see of its neighbours, in pixels on each side, so that no seam shows."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One piece: `own` is its part of the picture, `seen` what the network gets."""

    own: tuple[slice, slice]
    """Rows, columns; so is `seen`."""
    seen: tuple[slice, slice]


def tiles_of(height: int, width: int, tile: int = TILE, overlap: int = OVERLAP) -> Iterator[Tile]:
    """Pieces whose own parts cover the picture once, row by row."""
    for top in range(0, height, tile):
        rows = _part(top, height, tile, overlap)
        for left in range(0, width, tile):
            columns = _part(left, width, tile, overlap)
            yield Tile(own=(rows[0], columns[0]), seen=(rows[1], columns[1]))


def _part(start: int, length: int, tile: int, overlap: int) -> tuple[slice, slice]:
    end = min(start + tile, length)
    return slice(start, end), slice(max(0, start - overlap), min(length, end + overlap))


def run(
    network: Callable[[torch.Tensor], torch.Tensor],
    picture: torch.Tensor,
    scale: int,
    after_tile: Callable[[], None],
    *,
    tile: int = TILE,
    overlap: int = OVERLAP,
) -> torch.Tensor:
    """What the network makes of 3 x height x width bytes: `scale` times as large, as bytes.

    `network` takes and gives 1 x 3 x height x width in 0…1. Only one piece at a time is anything
    but bytes, so that the memory for it does not grow with the picture.
    """
    _, height, width = picture.shape
    large = torch.empty(3, height * scale, width * scale, dtype=torch.uint8)
    for piece in tiles_of(height, width, tile, overlap):
        pixels = picture[:, piece.seen[0], piece.seen[1]][None].float() / 255
        made = network(pixels)[0]
        rows, columns = (
            slice((own.start - seen.start) * scale, (own.stop - seen.start) * scale)
            for own, seen in zip(piece.own, piece.seen, strict=True)
        )
        target = tuple(slice(own.start * scale, own.stop * scale) for own in piece.own)
        levels = (made[:, rows, columns].clamp(0, 1) * 255).round()
        large[:, target[0], target[1]] = levels.to("cpu", torch.uint8)
        after_tile()
    return large
