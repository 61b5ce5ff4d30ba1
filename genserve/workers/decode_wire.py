"""What the server and its decoding helper say to each other: a length and bytes, a fixed answer.

Imports nothing of ours, and no picture library: the server must not load one.
"""

import struct
from enum import IntEnum

REQUEST = struct.Struct(">Q")
"""How many bytes of picture follow."""
ANSWER = struct.Struct(">BIIQ")
"""A `Problem`, width, height, and how many bytes of PNG follow (none with a problem)."""


class Problem(IntEnum):
    """What is wrong with a picture."""

    NONE = 0
    WRONG_FORMAT = 1
    TOO_MANY_PIXELS = 2
    DAMAGED = 3
    TOO_MUCH_WORK = 4
