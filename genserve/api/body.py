"""Reading bodies: JSON and forms, each within limits that hold before memory is spent.

The size of a whole body is capped in `gate`, byte by byte as it arrives. Here JSON is looked at
before it is parsed (how deep, how many values) and forms while they stream in.
"""

import json
import re
from typing import NoReturn
from urllib.parse import parse_qsl

from fastapi import Request
from pydantic import JsonValue
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from genserve.api.auth import visit_of
from genserve.api.language import say
from genserve.config import Api
from genserve.errors import ImageTooLarge, Language, MalformedBody

MAX_QUOTES = 100_000
"""Quotation marks in a JSON body: more than the longest prompt made of nothing else needs."""
MAX_SKELETON_BYTES = 64 * 1024
"""What is left of a JSON body without its texts: bounds how many values it can hold."""
MAX_FORM_FIELDS = 64
MAX_FORM_FILES = 8
# A text to its closing quotation mark, or to the end; possessive, so that it never backtracks.
TEXTS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+\\?"?', re.DOTALL)
BRACKETS = re.compile(rb"[\[\]{}]")

FormValue = str | bytes
"""A text field, or a file's content."""


def mebibytes(size: float) -> int:
    """MiB in bytes."""
    return int(size * 1024 * 1024)


async def read_json(request: Request, limits: Api) -> dict[str, JsonValue]:
    """The body as a JSON object, whatever its Content-Type says. Raises `MalformedBody`."""
    language = visit_of(request).language
    content = parse_json(await request.body(), limits.max_json_depth, language)
    if not isinstance(content, dict):
        raise MalformedBody(problem=say(language, "not_an_object"))
    return content


def parse_json(data: bytes, max_depth: int, language: Language) -> JsonValue:
    """`data` parsed once, strictly: UTF-8, no duplicate keys, no NaN, no deeper than `max_depth`.

    Raises `MalformedBody`.
    """

    def refuse(text: str, **names: object) -> NoReturn:
        raise MalformedBody(problem=say(language, text, **names))

    def unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            refuse("given_twice", field=twice[:64])
        return found

    if data.count(b'"') > MAX_QUOTES:
        refuse("too_many_values")
    skeleton = TEXTS.sub(b"", data)
    if len(skeleton) > MAX_SKELETON_BYTES:
        refuse("too_many_values")
    if depth_of(skeleton) > max_depth:
        refuse("too_deep", limit=max_depth)
    try:
        text = data.decode("utf-8-sig")
        parsed: JsonValue = json.loads(
            text, object_pairs_hook=unique, parse_constant=lambda _: refuse("bad_number")
        )
    except UnicodeDecodeError:
        refuse("not_utf8")
    except json.JSONDecodeError as error:
        refuse("not_json", line=error.lineno, column=error.colno)
    except ValueError:  # an integer of more digits than Python converts
        refuse("bad_number")
    return parsed


def depth_of(skeleton: bytes) -> int:
    """How deep lists and objects are nested in JSON whose texts were taken out."""
    deepest = depth = 0
    for bracket in BRACKETS.findall(skeleton):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


async def read_form(request: Request, limits: Api) -> dict[str, FormValue]:
    """The fields of a form in either encoding; an empty file counts as not given.

    Raises `MalformedBody`, and `ImageTooLarge` as soon as a file is larger than an image may be.
    """
    language = visit_of(request).language
    kind = content_type(request)
    if kind == "multipart/form-data":
        items = await _multipart(request, limits, language)
    elif kind in ("application/x-www-form-urlencoded", ""):
        items = await _urlencoded(request, language)
    else:
        raise MalformedBody(problem=say(language, "not_a_form"))
    fields: dict[str, FormValue] = {}
    for name, value in items:
        if name in fields:
            raise MalformedBody(problem=say(language, "given_twice", field=name[:64]))
        fields[name] = value
    return {name: value for name, value in fields.items() if value != b""}


async def read_fields(request: Request, limits: Api) -> dict[str, JsonValue]:
    """The fields of a form or of a JSON object, for routes that take either."""
    if content_type(request).endswith("json"):
        return await read_json(request, limits)
    fields = await read_form(request, limits)
    return {name: value for name, value in fields.items() if isinstance(value, str)}


def content_type(request: Request) -> str:
    """The body's media type without parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().casefold()


async def _multipart(
    request: Request, limits: Api, language: Language
) -> list[tuple[str, FormValue]]:
    parser = _ImageForm(
        request.headers,
        request.stream(),
        max_files=MAX_FORM_FILES,
        max_fields=MAX_FORM_FIELDS,
        # An image may also come as text; base64 takes 4 bytes for 3.
        max_part_size=mebibytes(limits.max_image_mib) * 4 // 3 + 1024,
    )
    parser.max_file_mib = limits.max_image_mib
    try:
        form = await parser.parse()
    except MultiPartException:
        raise MalformedBody(problem=say(language, "bad_form")) from None
    try:
        if not parser.complete:
            raise MalformedBody(problem=say(language, "bad_form"))
        return [(name, await _content(value)) for name, value in form.multi_items()]
    finally:
        await form.close()


async def _content(value: UploadFile | str) -> FormValue:
    return value if isinstance(value, str) else await value.read()


async def _urlencoded(request: Request, language: Language) -> list[tuple[str, FormValue]]:
    try:
        text = (await request.body()).decode()
        return list(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS))
    except ValueError:  # not UTF-8, or too many fields
        raise MalformedBody(problem=say(language, "bad_form")) from None


class _ImageForm(MultiPartParser):
    """Starlette's parser, with files capped like texts and a form that just ends refused.

    Files stay in memory: the cap on the body bounds them, and nothing is written to disk.
    """

    max_file_mib: float = 0
    spool_max_size = 2**31
    complete = False

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self._written = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._current_part
        self._written += end - start
        most = self.max_part_size if part.file is None else mebibytes(self.max_file_mib)
        if self._written > most:
            raise ImageTooLarge(field=part.field_name[:64], limit=f"{self.max_file_mib:g} MiB")
        super().on_part_data(data, start, end)

    def on_end(self) -> None:
        self.complete = True
