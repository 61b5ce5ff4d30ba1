"""The decoding helper: turns untrusted pictures into clean PNGs, and may die trying.

It holds no secrets, no open files and no network, may not write a file, and the kernel limits its
memory and its CPU time. Everything that a picture carries beside its pixels is dropped.
"""

import ctypes
import io
import json
import os
import resource
import socket
import sys
from typing import Any

from PIL import Image, ImageOps, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from genserve.workers import orphans
from genserve.workers.decode_wire import ANSWER, REQUEST, Problem

FORMATS = ("PNG", "JPEG", "WEBP")
_PLUGINS = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin)  # loaded before files are forbidden
_PNG_LEVEL = 1
_PR_SET_NO_NEW_PRIVS = 38
"""From linux/prctl.h."""
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
"""One channel of 16 bits, as depth maps have. Pillow opens 16-bit PNGs so."""


class Refused(Exception):
    """The picture is not to be used."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.name)


def confine(memory_bytes: int) -> None:
    """Give up whatever decoding does not need, for good."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    Image.MAX_IMAGE_PIXELS = None  # our own limit is checked before anything is decoded


def allow_cpu(seconds: int) -> None:
    """Let the kernel end this process when one picture takes more CPU time than that."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def normalise(data: bytes, max_pixels: int) -> tuple[bytes, int, int]:
    """A PNG with the first frame's pixels the right way up (L, RGB or RGBA), width and height.

    Raises `Refused`, or whatever the library raises on a damaged picture.
    """
    if _webp_pixels(data) > max_pixels:  # Pillow would allocate the canvas to open it
        raise Refused(Problem.TOO_MANY_PIXELS)
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        if opened.width * opened.height > max_pixels:
            raise Refused(Problem.TOO_MANY_PIXELS)
        opened.load()
        upright = ImageOps.exif_transpose(opened)
    image = _plain(upright)
    image.info.clear()
    clean = io.BytesIO()
    image.save(clean, "PNG", compress_level=_PNG_LEVEL)
    return clean.getvalue(), image.width, image.height


def _plain(image: Image.Image) -> Image.Image:
    """The picture as L, RGB or RGBA of 8 bits."""
    if image.mode in _DEEP_MODES:
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode in ("L", "1"):
        return image.convert("L")
    return image.convert("RGB")


def _webp_pixels(data: bytes) -> int:
    """Pixels of the canvas as a WebP file's header says (RFC 9649); 0 for another format."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return 0
    kind, head = data[12:16], data[20:30]
    if kind == b"VP8X":
        return (1 + int.from_bytes(head[4:7], "little")) * (
            1 + int.from_bytes(head[7:10], "little")
        )
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return (1 + (bits & 0x3FFF)) * (1 + (bits >> 14 & 0x3FFF))
    sides = int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")
    return (sides[0] & 0x3FFF) * (sides[1] & 0x3FFF)


def answer(data: bytes, max_pixels: int) -> bytes:
    """The answer to one picture, whatever it is."""
    try:
        clean, width, height = normalise(data, max_pixels)
    except Refused as error:
        return ANSWER.pack(error.problem, 0, 0, 0)
    except MemoryError:
        return ANSWER.pack(Problem.TOO_MUCH_WORK, 0, 0, 0)
    except Exception:  # noqa: BLE001 - the edge: decoders raise anything on damaged files
        return ANSWER.pack(Problem.DAMAGED, 0, 0, 0)
    return ANSWER.pack(Problem.NONE, width, height, len(clean)) + clean


def _receive(sock: socket.socket, size: int) -> bytes | None:
    data = bytearray(size)
    view, filled = memoryview(data), 0
    while filled < size:
        count = sock.recv_into(view[filled:])
        if count == 0:
            return None
        filled += count
    return bytes(data)


def main() -> None:
    """Run as `python -m genserve.workers.decode_child SETTINGS`."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    orphans.die_with(settings["parent_pid"])
    orphans.leave_signals_to_parent()
    os.set_inheritable(settings["fd"], False)
    confine(settings["memory_bytes"])
    with socket.socket(fileno=settings["fd"]) as sock:
        while (head := _receive(sock, REQUEST.size)) is not None:
            allow_cpu(settings["cpu_s"])
            data = _receive(sock, REQUEST.unpack(head)[0])
            if data is None:
                return
            sock.sendall(answer(data, settings["max_pixels"]))


if __name__ == "__main__":
    main()
