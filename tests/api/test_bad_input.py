"""Whatever is sent: a 4xx with a code and a reason, nothing leaked and nothing queued."""

import re
import struct
import zlib
from typing import Any

import httpx2
import pytest

from tests.api.pictures import png, uri
from tests.serving import RunningServer

LEAKS = re.compile(r"Traceback|0x[0-9a-f]{6,}|/(work|tmp|home|usr|root|var)/|\.py\b|Error\b|<class")
EDIT = {"mode": "img2img", "width": 64, "height": 64}
FILL = {"model_id": "flux1-fill-dev", "mode": "fill", "width": 64, "height": 64}


def bomb(width: int, height: int) -> bytes:
    """A valid PNG of one grey colour: few bytes, many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width // 8 + 1) * min(height, 64)))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
Case = tuple[int, str, str]

JSON_CASES: dict[str, tuple[dict[str, Any], Case]] = {
    "no prompt": ({}, (422, "validation_error", "prompt")),
    "empty prompt": ({"prompt": ""}, (422, "validation_error", "prompt")),
    "long prompt": ({"prompt": "x" * 20_001}, (422, "validation_error", "20000")),
    "unknown field": ({"prompt": "x", "promtp": 1}, (422, "validation_error", "prompt")),
    "steps": ({"prompt": "x", "num_inference_steps": 101}, (422, "validation_error", "100")),
    "steps as text": ({"prompt": "x", "num_inference_steps": "5"}, (422, "validation_error", "")),
    "cfg": ({"prompt": "x", "cfg": 51}, (422, "validation_error", "cfg")),
    "seed": ({"prompt": "x", "seed": 2**32}, (422, "validation_error", "seed")),
    "size zero": ({"prompt": "x", "width": 0}, (422, "validation_error", "width")),
    "size multiple": ({"prompt": "x", "width": 65}, (422, "size_not_multiple", "8")),
    "size huge": ({"prompt": "x", "width": 16384, "height": 16384}, (422, "too_many_pixels", "")),
    "model": ({"prompt": "x", "model_id": "nope"}, (400, "unknown_model", "flux1-dev")),
    "model path": ({"prompt": "x", "model_id": "../../etc/passwd"}, (400, "unknown_model", "")),
    "not installed": ({"prompt": "x", "model_id": "missing-dev"}, (400, "model_not_installed", "")),
    "mode": ({"prompt": "x", "mode": "draw"}, (400, "unknown_mode", "text2img")),
    "mode of model": (
        {"prompt": "x", "model_id": "flux1-canny-dev"},
        (400, "unsupported_mode", "flux1-canny-dev does not support text2img; it supports: contr"),
    ),
    "control of model": (
        {
            "prompt": "x",
            "model_id": "flux1-canny-dev",
            "mode": "controlnet",
            "controlnet_type": "depth",
            "control_image": uri(png()),
        },
        (400, "unsupported_control", "canny"),
    ),
    "scheduler": ({"prompt": "x", "scheduler": "nope"}, (400, "unknown_scheduler", "euler")),
    "sigmas": ({"prompt": "x", "sigmas": "nope"}, (422, "validation_error", "karras")),
    "sigmas of model": ({"prompt": "x", "sigmas": "karras"}, (400, "unsupported_sigmas", "")),
    "clip_skip": ({"prompt": "x", "clip_skip": 13}, (422, "validation_error", "12")),
    "clip_skip of model": ({"prompt": "x", "clip_skip": 2}, (400, "unsupported_clip_skip", "")),
    "vae of model": ({"prompt": "x", "vae": "../x"}, (400, "unsupported_vae", "")),
    "vae path": (
        {"prompt": "x", "model_id": "flux1-kontext-dev", "vae": "../../etc/passwd"},
        (400, "unknown_vae", "no VAE ../../etc/passwd. Available: "),
    ),
    "vae above": (
        {"prompt": "x", "model_id": "flux1-kontext-dev", "vae": ".."},
        (400, "unknown_vae", "directly below the models folder"),
    ),
    "control without its mode": (
        {"prompt": "x", "control_weight": 0.5},
        (422, "validation_error", "control_weight"),
    ),
    "control_weight": ({"prompt": "x", "control_weight": 3}, (422, "validation_error", "2")),
    "lora": ({"prompt": "x", "loras": [{"name": "../x"}]}, (400, "unknown_lora", "")),
    "negative prompt": (
        {"prompt": "x", "negative_prompt": "y"},
        (400, "unsupported_negative_prompt", ""),
    ),
    "priority": ({"prompt": "x", "priority": -1}, (403, "", "priorit")),
    "no image": ({"prompt": "x", **EDIT}, (400, "missing_image", "input_image")),
    "no image to fill": (
        {"prompt": "x", **FILL, "mask_image": uri(png())},
        (400, "missing_image", "Mode fill needs input_image"),
    ),
    "no mask to fill": (
        {"prompt": "x", **FILL, "input_image": uri(png())},
        (400, "missing_image", "Mode fill needs mask_image"),
    ),
    "mask of another size": (
        {"prompt": "x", **FILL, "input_image": uri(png(64, 48)), "mask_image": uri(png(32, 48))},
        (400, "mask_size", "mask_image is 32x48 pixels and input_image 64x48; both must have the"),
    ),
    "no control image": (
        {"prompt": "x", "model_id": "flux1-canny-dev", "mode": "controlnet"},
        (400, "missing_image", "Mode controlnet needs control_image"),
    ),
    "no reference": (
        {"prompt": "x", "model_id": "flux1-redux-dev", "mode": "redux"},
        (400, "missing_image", "Mode redux needs input_image"),
    ),
    "nothing to edit": (
        {"prompt": "x", "model_id": "flux1-kontext-dev", "mode": "edit"},
        (400, "missing_image", "Mode edit needs input_image"),
    ),
    "image for text2img": (
        {"prompt": "x", "input_image": uri(png())},
        (422, "validation_error", "input_image"),
    ),
    "broken base64": ({"prompt": "x", **EDIT, "input_image": "@@@"}, (400, "bad_image", "base64")),
    "other data uri": (
        {"prompt": "x", **EDIT, "input_image": uri(b"%PDF", "application/pdf")},
        (400, "bad_image", "application/pdf"),
    ),
    "a url": (
        {"prompt": "x", **EDIT, "input_image": "http://127.0.0.1/x.png"},
        (400, "bad_image", "base64"),
    ),
    "no picture": ({"prompt": "x", **EDIT, "input_image": uri(b"hello")}, (400, "bad_image", "")),
    "svg": ({"prompt": "x", **EDIT, "input_image": uri(SVG)}, (400, "bad_image", "")),
    "truncated": (
        {"prompt": "x", **EDIT, "input_image": uri(png(512, 512)[:200])},
        (400, "bad_image", "input_image"),
    ),
    "bomb": (
        {"prompt": "x", **EDIT, "input_image": uri(bomb(50_000, 50_000))},
        (400, "bad_image", "input_image"),
    ),
    "lora without name": ({"prompt": "x", "loras": [{}]}, (422, "validation_error", "loras.0.n")),
}
RAW_CASES: dict[str, tuple[bytes, Case]] = {
    "nothing": (b"", (400, "malformed_body", "JSON")),
    "broken json": (b'{"prompt": "x"', (400, "malformed_body", "JSON")),
    "a list": (b"[]", (400, "malformed_body", "object")),
    "not utf-8": (b'{"prompt": "\xff"}', (400, "malformed_body", "UTF-8")),
    "deep": (b'{"prompt":' + b"[" * 5000 + b"]" * 5000 + b"}", (400, "malformed_body", "deeper")),
    "twice": (b'{"prompt":"x","prompt":"y"}', (400, "malformed_body", "twice")),
    "nan": (b'{"prompt":"x","cfg":NaN}', (400, "malformed_body", "NaN")),
    "infinity": (b'{"prompt":"x","cfg":1e999}', (422, "validation_error", "cfg")),
    "huge number": (b'{"prompt":"x","seed":1' + b"0" * 5000 + b"}", (400, "malformed_body", "")),
    "surrogate": (b'{"prompt":"\\ud800"}', (422, "validation_error", "prompt")),
    "surrogate name": (b'{"prompt":"x","\\ud800":1}', (422, "validation_error", "")),
    "nul": (b'{"prompt":"a\\u0000b"}', (422, "validation_error", "prompt")),
    "xml": (b"<prompt>x</prompt>", (400, "malformed_body", "JSON")),
    "many values": (b'{"loras":[' + b"{}," * 40_000 + b"{}]}", (400, "malformed_body", "many")),
}


def check(server: RunningServer, answer: httpx2.Response, expected: Case) -> None:
    status, code, words = expected
    assert answer.status_code == status, answer.text
    content = answer.json()
    if status == 403:
        assert content.keys() == {"detail"}
    else:
        assert content.keys() == {"success", "error", "detail", "code", "task_id"}
        assert (content["success"], content["code"], content["task_id"]) == (False, code, None)
    assert words in content["detail"]
    assert not LEAKS.search(answer.text), answer.text
    counts = server.client("readonly").get("/status").json()["queue"]
    assert counts["pending"] == counts["processing"] == 0


@pytest.mark.parametrize("name", JSON_CASES)
def test_wrong_json(server: RunningServer, name: str) -> None:
    fields, expected = JSON_CASES[name]
    answer = server.client("generation").post("/generate", json=fields)
    check(server, answer, expected)


@pytest.mark.parametrize("name", RAW_CASES)
def test_wrong_bytes(server: RunningServer, name: str) -> None:
    content, expected = RAW_CASES[name]
    answer = server.client("generation").post("/generate", content=content)
    check(server, answer, expected)


FORM_CASES: dict[str, tuple[dict[str, Any], Case]] = {
    "no prompt": ({"seed": (None, "1")}, (422, "validation_error", "prompt")),
    "steps": (
        {"prompt": (None, "x"), "num_inference_steps": (None, "x")},
        (422, "validation_error", ""),
    ),
    "nan": ({"prompt": (None, "x"), "cfg": (None, "nan")}, (422, "validation_error", "cfg")),
    "loras": ({"prompt": (None, "x"), "loras": (None, "[{")}, (422, "validation_error", "loras")),
    "loras object": (
        {"prompt": (None, "x"), "loras": (None, "{}")},
        (422, "validation_error", "l"),
    ),
    "unknown": (
        {"prompt": (None, "x"), "input_imge": ("a.png", png())},
        (422, "validation_error", "input_imge"),
    ),
    "file as prompt": ({"prompt": ("a.txt", b"x")}, (422, "validation_error", "prompt")),
    "no picture": (
        {"prompt": (None, "x"), "mode": (None, "img2img"), "input_image": ("x.png", b"hello")},
        (400, "bad_image", "input_image"),
    ),
    "empty file": (
        {"prompt": (None, "x"), "mode": (None, "img2img"), "input_image": ("", b"")},
        (400, "missing_image", "input_image"),
    ),
    "large file": (
        {
            "prompt": (None, "x"),
            "mode": (None, "img2img"),
            "input_image": ("../../x.png", bytes(26 * 1024 * 1024)),
        },
        (413, "image_too_large", "25 MiB"),
    ),
}


@pytest.mark.parametrize("name", FORM_CASES)
def test_wrong_forms(server: RunningServer, name: str) -> None:
    parts, expected = FORM_CASES[name]
    answer = server.client("generation").post("/generate/upload", files=parts)
    check(server, answer, expected)


MULTIPART = {"Content-Type": "multipart/form-data; boundary=b"}
BROKEN_FORMS: dict[str, tuple[bytes, dict[str, str], Case]] = {
    "json": (b"{}", {"Content-Type": "application/json"}, (400, "malformed_body", "form")),
    "no boundary": (b"x", {"Content-Type": "multipart/form-data"}, (400, "malformed_body", "form")),
    "rubbish": (b"rubbish", MULTIPART, (400, "malformed_body", "form")),
    "never ends": (
        b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx',
        MULTIPART,
        (400, "malformed_body", "form"),
    ),
    "twice": (
        b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n'
        b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\ny\r\n--b--\r\n',
        MULTIPART,
        (400, "malformed_body", "prompt is given twice"),
    ),
    "many fields": (
        b"".join(
            b'--b\r\nContent-Disposition: form-data; name="f%d"\r\n\r\nx\r\n' % n for n in range(99)
        )
        + b"--b--\r\n",
        MULTIPART,
        (400, "malformed_body", "form"),
    ),
    "no name": (
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        MULTIPART,
        (400, "malformed_body", "form"),
    ),
}


@pytest.mark.parametrize("name", BROKEN_FORMS)
def test_broken_forms(server: RunningServer, name: str) -> None:
    content, headers, expected = BROKEN_FORMS[name]
    client = server.client("generation")
    check(server, client.post("/generate/upload", content=content, headers=headers), expected)


def test_a_form_sent_to_the_json_route_is_told_where_to_go(server: RunningServer) -> None:
    answer = server.client("generation").post("/generate", files={"prompt": (None, "x")})
    check(server, answer, (400, "malformed_body", "/generate/upload"))


@pytest.mark.parametrize(
    "path", ["/tasks?limit=0", "/tasks?limit=x", "/tasks?status=gone", "/tasks?before=%00"]
)
def test_wrong_queries(server: RunningServer, path: str) -> None:
    name = path.partition("?")[2].partition("=")[0]
    check(server, server.client("readonly").get(path), (422, "validation_error", name))
