"""Picture tools through the API: control maps from photos, enlarging, each with a real child."""

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from PIL import Image, ImageDraw

from genserve.api.dialects import native_docs, native_docs_tools
from tests.api.pictures import opened, png, uri
from tests.serving import MODELS, RunningServer, serving

CANNY: dict[str, Any] = {
    "family": "canny",
    "modes": ["preprocess"],
    "control_types": ["canny"],
    "multiple_of": 1,
    "max_pixels": 1_000_000,
}
TOOLS: dict[str, Any] = {
    "canny": CANNY,
    "depth": {
        "family": "depth",
        "folder": "depth-anything-v2-small",
        "modes": ["preprocess"],
        "control_types": ["depth"],
    },
    "lanczos": {
        "family": "lanczos",
        "modes": ["upscale"],
        "multiple_of": 1,
        "max_pixels": 1_000_000,
    },
    "sharp-4x": {"family": "spandrel", "modes": ["upscale"], "options": {"scale": 4}},
}
"""Beside the models that the fake family draws for."""
SQUARE = (20, 30, 60, 70)
"""Left, top, right, bottom of what `photo` shows."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    fake = {name: {"family": "fake", "multiple_of": 8} | more for name, more in MODELS.items()}
    with serving(tmp_path_factory.mktemp("tools"), models=fake | TOOLS) as running:
        yield running


def photo(width: int = 100, height: int = 100) -> bytes:
    """A white square on black."""
    image = Image.new("RGB", (width, height))
    ImageDraw.Draw(image).rectangle(SQUARE, fill="white")
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def edges(image: Image.Image) -> set[tuple[int, int]]:
    """Where a map is white."""
    grey = image.convert("L")
    points = ((x, y) for x in range(grey.width) for y in range(grey.height))
    return {point for point in points if grey.getpixel(point) == 255}


def is_the_square(found: set[tuple[int, int]]) -> bool:
    """Whether lines of one pixel run along the square's sides, and nowhere else."""
    left, top, right, bottom = SQUARE
    outline = {(x, y) for x in range(left, right + 1) for y in (top, bottom)}
    outline |= {(x, y) for y in range(top, bottom + 1) for x in (left, right)}

    def near(point: tuple[int, int], others: set[tuple[int, int]]) -> bool:
        x, y = point
        return any((x + dx, y + dy) in others for dx in (-1, 0, 1) for dy in (-1, 0, 1))

    return all(near(p, outline) for p in found) and all(near(p, found) for p in outline)


class TestPreprocess:
    def test_a_map_shows_the_edges_where_they_are(self, server: RunningServer) -> None:
        asked = {"preprocessor": "canny", "input_image": uri(photo())}
        answer = server.client("generation").post("/preprocess", json=asked)
        assert answer.status_code == 200, answer.text
        native_docs.Generated.model_validate(answer.json())
        shown = opened(answer.json()["image"])
        assert shown.mode == "RGB"
        assert shown.size == (100, 100)
        assert is_the_square(edges(shown))
        metadata = answer.json()["metadata"]
        assert (metadata["model_id"], metadata["mode"]) == ("canny", "preprocess")
        assert (metadata["steps"], metadata["cfg"], metadata["scheduler"]) == (None, None, None)
        assert shown.info["parameters"].startswith("Preprocessor: canny")
        assert "algorithmicMedia" in shown.info["XML:com.adobe.xmp"]

    def test_a_form_and_a_picture_as_the_answer(self, server: RunningServer) -> None:
        answer = server.client("generation", Accept="image/png").post(
            "/preprocess",
            data={"preprocessor": "canny", "low_threshold": "", "width": "50"},
            files={"input_image": ("photo.png", photo())},
        )
        assert answer.status_code == 200, answer.text
        assert opened(answer.content).size == (50, 50)

    def test_thresholds_decide_what_is_an_edge(self, server: RunningServer) -> None:
        faint = Image.new("RGB", (64, 64), (100, 100, 100))
        ImageDraw.Draw(faint).rectangle((20, 20, 44, 44), fill=(110, 110, 110))
        buffer = BytesIO()
        faint.save(buffer, "PNG")
        asked = {"preprocessor": "canny", "input_image": uri(buffer.getvalue())}
        client = server.client("generation")
        empty = client.post("/preprocess", json=asked)
        assert empty.status_code == 200, "a black map is a map"
        assert edges(opened(empty.json()["image"])) == set()
        more = client.post("/preprocess", json=asked | {"low_threshold": 5, "high_threshold": 10})
        assert edges(opened(more.json()["image"]))

    def test_without_waiting(self, server: RunningServer) -> None:
        client = server.client("generation")
        asked = {"preprocessor": "canny", "input_image": uri(photo()), "async": True}
        accepted = client.post("/preprocess", json=asked)
        assert accepted.status_code == 202
        with client.stream("GET", accepted.json()["events_url"]) as events:
            assert "event: finished" in events.read().decode()
        task = client.get(accepted.json()["status_url"]).json()
        assert (task["status"], task["mode"]) == ("completed", "preprocess")
        assert is_the_square(edges(opened(task["image"])))

    def test_the_same_idempotency_key_gives_the_same_task(self, server: RunningServer) -> None:
        client = server.client("generation", **{"Idempotency-Key": "one map"})
        asked = {"preprocessor": "canny", "input_image": uri(photo())}
        first, second = (client.post("/preprocess", json=asked) for _ in range(2))
        assert first.json()["task_id"] == second.json()["task_id"]
        assert second.headers["Idempotency-Replayed"] == "true"
        other = client.post("/preprocess", json=asked | {"low_threshold": 50})
        assert other.json()["code"] == "idempotency_mismatch"

    def test_transparent_parts_are_white(self, server: RunningServer) -> None:
        image = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
        buffer = BytesIO()
        image.save(buffer, "PNG")
        asked = {"preprocessor": "canny", "input_image": uri(buffer.getvalue())}
        answer = server.client("generation").post("/preprocess", json=asked)
        assert edges(opened(answer.json()["image"])) == set()

    @pytest.mark.parametrize(
        ("change", "code", "words"),
        [
            ({"preprocessor": "depth"}, "model_not_installed", "models/depth-anything-v2-small"),
            ({"preprocessor": "none"}, "unknown_model", "canny"),
            ({"preprocessor": "flux1-dev"}, "unsupported_mode", "preprocess"),
            ({"input_image": None}, "missing_image", "input_image"),
            ({"input_image": 7}, "validation_error", "input_image"),
            ({"low_threshold": 300}, "validation_error", "high_threshold"),
            ({"low_threshold": -1}, "validation_error", "low_threshold"),
            ({"preprocessor": "depth", "low_threshold": 5}, "validation_error", "only a canny"),
            ({"model_id": "canny"}, "validation_error", "did you mean preprocessor"),
            ({"width": 2000}, "too_many_pixels", "2000x2000"),
        ],
    )
    def test_what_is_wrong_is_said(
        self, server: RunningServer, change: dict[str, Any], code: str, words: str
    ) -> None:
        asked = {"preprocessor": "canny", "input_image": uri(photo())} | change
        answer = server.client("generation").post("/preprocess", json=asked)
        assert answer.json()["code"] == code, answer.text
        assert 400 <= answer.status_code < 500
        assert words in answer.json()["detail"]

    def test_it_needs_the_permission(self, server: RunningServer) -> None:
        assert server.client("readonly").post("/preprocess", json={}).status_code == 403


class TestPreprocessors:
    def test_they_are_listed_with_what_is_missing(self, server: RunningServer) -> None:
        answer = server.client("readonly").get("/preprocessors").json()
        native_docs_tools.PreprocessorList.model_validate(answer)
        found = {one["id"]: one for one in answer["preprocessors"]}
        assert found.keys() == {"canny", "depth"}
        assert found["canny"]["installed"]
        assert found["canny"]["missing"] is None
        assert [one["name"] for one in found["canny"]["parameters"]] == [
            "low_threshold",
            "high_threshold",
        ]
        assert not found["depth"]["installed"]
        assert found["depth"]["missing"] == "models/depth-anything-v2-small"


class TestControlMapsOnTheWay:
    """`preprocess: true` makes the map from a photo before the picture is drawn."""

    def ask(self, **changes: Any) -> dict[str, Any]:
        return {
            "prompt": "a square",
            "model_id": "flux1-canny-dev",
            "mode": "controlnet",
            "width": 64,
            "height": 64,
            "num_inference_steps": 2,
            "control_image": uri(photo()),
            "preprocess": True,
        } | changes

    def test_a_photo_is_accepted(self, server: RunningServer) -> None:
        answer = server.client("generation").post("/generate", json=self.ask())
        assert answer.status_code == 200, answer.text
        report = server.call(server.runtime.service.status())
        assert "canny" in report.workers[0].loaded, "the preprocessor ran in the worker"

    def test_a_form_takes_it_too(self, server: RunningServer) -> None:
        form = {**self.ask(low_threshold=50), "preprocess": "true"}
        form = {name: str(value) for name, value in form.items() if name != "control_image"}
        answer = server.client("generation").post(
            "/generate/upload", data=form, files={"control_image": photo()}
        )
        assert answer.status_code == 200, answer.text

    @pytest.mark.parametrize(
        ("change", "code", "words"),
        [
            (
                {"model_id": "flux1-depth-dev"},
                "preprocessor_not_installed",
                "models/depth-anything-v2-small",
            ),
            ({"model_id": "flux1-openpose-dev"}, "unsupported_control", "canny"),
            ({"preprocess": False, "low_threshold": 5}, "validation_error", "low_threshold"),
            ({"model_id": "flux1-depth-dev", "high_threshold": 5}, "validation_error", "canny"),
            ({"low_threshold": 30, "high_threshold": 20}, "validation_error", "high_threshold"),
        ],
    )
    def test_what_is_wrong_is_said(
        self, server: RunningServer, change: dict[str, Any], code: str, words: str
    ) -> None:
        answer = server.client("generation").post("/generate", json=self.ask(**change))
        assert answer.json()["code"] == code, answer.text
        assert words in answer.json()["detail"]

    def test_other_modes_do_not_take_it(self, server: RunningServer) -> None:
        asked = {"prompt": "x", "width": 64, "height": 64, "preprocess": True, "low_threshold": 0}
        answer = server.client("generation").post("/generate", json=asked)
        assert answer.json()["code"] == "validation_error"
        assert "preprocess: mode text2img" in answer.json()["detail"]
        assert "low_threshold: mode text2img" in answer.json()["detail"]


class TestUpscale:
    def ask(self, **changes: Any) -> dict[str, Any]:
        return {"mode": "upscale", "input_image": uri(photo(60, 40))} | changes

    @pytest.mark.parametrize(
        ("change", "size"),
        [
            ({}, (120, 80)),
            ({"scale": 1.5}, (90, 60)),
            ({"width": 180}, (180, 120)),
            ({"height": 20}, (30, 20)),
            ({"width": 50, "height": 50}, (50, 50)),
        ],
    )
    def test_the_size_is_what_was_asked_for(
        self, server: RunningServer, change: dict[str, Any], size: tuple[int, int]
    ) -> None:
        answer = server.client("generation").post("/generate", json=self.ask(**change))
        assert answer.status_code == 200, answer.text
        native_docs.Generated.model_validate(answer.json())
        assert opened(answer.json()["image"]).size == size
        metadata = answer.json()["metadata"]
        assert (metadata["model_id"], metadata["served_by"]) == ("lanczos", "lanczos")
        assert (metadata["native_width"], metadata["native_height"]) == (60, 40)
        assert (metadata["width"], metadata["height"]) == size

    def test_the_picture_is_the_same_but_larger(self, server: RunningServer) -> None:
        answer = server.client("generation").post("/generate", json=self.ask(scale=4))
        shown = opened(answer.json()["image"])
        assert shown.getpixel((4 * 40, 4 * 36)) == (255, 255, 255)
        assert shown.getpixel((4 * 10, 4 * 10)) == (0, 0, 0)
        assert shown.info["parameters"].startswith(
            "Postprocess upscale by: 4, Postprocess upscaler: lanczos"
        )

    def test_a_form(self, server: RunningServer) -> None:
        answer = server.client("generation", Accept="image/webp").post(
            "/generate/upload",
            data={"mode": "upscale", "scale": "3", "output_format": "webp"},
            files={"input_image": photo(60, 40)},
        )
        assert answer.headers["content-type"] == "image/webp"
        assert opened(answer.content).size == (180, 120)

    def test_a_plain_picture_stays_plain(self, server: RunningServer) -> None:
        answer = server.client("generation").post(
            "/generate", json=self.ask(input_image=uri(png(1, 1, "green")))
        )
        assert opened(answer.json()["image"]).getcolors() == [(4, (0, 128, 0))]

    @pytest.mark.parametrize(
        ("change", "code", "words"),
        [
            ({"scale": 16, "input_image": uri(photo(100, 100))}, "too_many_pixels", "1600x1600"),
            ({"scale": 2, "width": 100}, "validation_error", "either scale or width"),
            ({"scale": 0.5}, "validation_error", "scale: must be at least 1"),
            ({"model_id": "sharp-4x"}, "model_not_installed", "sharp-4x"),
            ({"model_id": "canny"}, "unsupported_mode", "upscale"),
            ({"prompt": "a cat"}, "validation_error", "prompt: is not a field"),
            ({"input_image": ""}, "missing_image", "input_image"),
        ],
    )
    def test_what_is_wrong_is_said(
        self, server: RunningServer, change: dict[str, Any], code: str, words: str
    ) -> None:
        answer = server.client("generation").post("/generate", json=self.ask(**change))
        assert answer.json()["code"] == code, answer.text
        assert words in answer.json()["detail"]

    def test_an_unknown_mode_is_told_of_it(self, server: RunningServer) -> None:
        answer = server.client("generation").post("/generate", json={"prompt": "x", "mode": "no"})
        assert "upscale" in answer.json()["detail"]
