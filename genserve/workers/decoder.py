"""Untrusted pictures are decoded in helper processes that may die of them; the server does not.

A helper that dies or takes too long is replaced, and its picture is refused.
"""

import asyncio
import json
import logging
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from genserve.errors import BadImage
from genserve.workers.decode_wire import ANSWER, REQUEST, Problem
from genserve.workers.process import ChildProcess, child_environment, describe_exit

HELPER = (sys.executable, "-m", "genserve.workers.decode_child")
HELPERS = 2
"""So that one slow picture does not hold up everybody."""
MEMORY_BYTES = 2 * 1024**3
"""Of address space for each helper: enough for 40 megapixels in every mode, see the tests."""
CLOCK_FACTOR = 3
"""By the clock a picture may take so many times its CPU time: others use the CPU too."""
_STREAM_BYTES = 1024 * 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A picture as it may be used: PNG, upright, L, RGB or RGBA of 8 bits, without metadata."""

    data: bytes
    media_type: str
    width: int
    height: int


class ImageDecoder:
    """Decodes pictures, at most `HELPERS` at a time. Call `start` first and `stop` at the end."""

    def __init__(
        self,
        *,
        max_megapixels: float,
        memory_limit_bytes: int = MEMORY_BYTES,
        timeout_s: float = 10,
        command: Sequence[str] = HELPER,
    ) -> None:
        """`timeout_s` is the CPU time that a picture may take. `command` is what a helper runs."""
        self._max_megapixels = max_megapixels
        self._memory_bytes = memory_limit_bytes
        self._timeout_s = timeout_s
        self._command = command
        self._helpers: asyncio.Queue[ChildProcess | None] = asyncio.Queue()

    async def start(self) -> None:
        """Start the helpers."""
        for _ in range(HELPERS):
            self._helpers.put_nowait(await self._start_helper())

    async def stop(self) -> None:
        """End the helpers; pictures in work are finished first."""
        for _ in range(HELPERS):
            helper = await self._helpers.get()
            if helper is not None:
                await helper.close()

    async def decode(self, data: bytes, field: str) -> DecodedImage:
        """The picture, cleaned. `field` is the request's field, for messages. Raises `BadImage`."""
        if not _is_picture(data):
            raise self._refusal(field, Problem.WRONG_FORMAT)
        helper = await self._helpers.get()
        kept: ChildProcess | None = None
        try:
            helper = helper or await self._start_helper()
            async with asyncio.timeout(CLOCK_FACTOR * self._timeout_s):
                decoded = await _ask(helper, data)
            kept = helper
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            decoded = Problem.TOO_MUCH_WORK
        finally:
            if helper is not None and kept is None:
                helper.kill()
                log.warning("an image helper was lost: %s", describe_exit(await helper.ended()))
                await helper.close()
            self._helpers.put_nowait(kept)
        if isinstance(decoded, Problem):
            raise self._refusal(field, decoded)
        return decoded

    async def _start_helper(self) -> ChildProcess:
        settings = {
            "parent_pid": os.getpid(),
            "memory_bytes": self._memory_bytes,
            "cpu_s": math.ceil(self._timeout_s),
            "max_pixels": int(self._max_megapixels * 1_000_000),
        }
        return await ChildProcess.start(
            self._command,
            lambda fd: json.dumps({**settings, "fd": fd}),
            child_environment({}),
            limit_bytes=_STREAM_BYTES,
        )

    def _refusal(self, field: str, problem: Problem) -> BadImage:
        words = {
            Problem.WRONG_FORMAT: "it is not a PNG, JPEG or WebP picture",
            Problem.TOO_MANY_PIXELS: f"it has more than {self._max_megapixels:g} megapixels",
            Problem.DAMAGED: "it is damaged or incomplete",
            Problem.TOO_MUCH_WORK: "decoding it needs more time or memory than is allowed",
        }
        return BadImage(field=field, problem=words[problem])


async def _ask(helper: ChildProcess, data: bytes) -> DecodedImage | Problem:
    helper.write(REQUEST.pack(len(data)))
    helper.write(data)
    await helper.drain()
    problem, width, height, size = ANSWER.unpack(await helper.read_exactly(ANSWER.size))
    if problem != Problem.NONE:
        return Problem(problem)
    return DecodedImage(await helper.read_exactly(size), "image/png", width, height)


def _is_picture(data: bytes) -> bool:
    """Whether the first bytes are those of a format that is accepted."""
    if data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return True
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"
