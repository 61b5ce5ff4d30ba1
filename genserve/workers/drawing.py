"""From an assignment to finished files. Runs in the child; imported by nothing else."""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from genserve.domain.pool import Assignment
from genserve.domain.request import MAX_SEED, TOOL_MODES, GenerationRequest, ImageRole, Mode
from genserve.domain.task import Degraded, Result, ResultImage
from genserve.errors import InputLost
from genserve.pipelines import images, metadata
from genserve.pipelines.base import Cancelled, Pipeline, Stage
from genserve.pipelines.ladder import Ladder
from genserve.store.blobs import BlobStore
from genserve.workers.channel import Channel
from genserve.workers.dressing import Dressing
from genserve.workers.messages import Cancel, Decoding, Step, ToChild

log = logging.getLogger("child")

PREVIEW_EVERY_S = 0.5
"""A preview costs a few milliseconds; more of them than this nobody sees."""


class Reporter:
    """The hook of one assignment: tells the parent, times the stages, notices a `Cancel`."""

    def __init__(self, channel: Channel, assignment: Assignment) -> None:
        self.attempt = assignment.attempt
        self.stages_s: dict[str, float] = {}
        self.later: deque[ToChild] = deque()
        """What arrived meanwhile and is not about this task."""
        self._channel = channel
        self._assignment = assignment
        self._about = {"task_id": assignment.task_id, "attempt": assignment.attempt}
        self._cancel = Cancel(**self._about)
        self._picture = 0
        self._stage: Stage | None = None
        self._since = 0.0
        self._previews = assignment.previews
        self._preview: str | None = None
        self._previewed_at = time.perf_counter()

    def next_picture(self, number: int) -> None:
        """Picture `number` of the task, from 0, is drawn now."""
        self._picture = number

    def stage(self, stage: Stage | None) -> None:
        """The stage begins; None: nothing is timed for a while."""
        self.check_cancelled()
        now = time.perf_counter()
        if self._stage is not None:
            passed_s = now - self._since
            self.stages_s[self._stage] = self.stages_s.get(self._stage, 0.0) + passed_s
        self._stage, self._since = stage, now
        if stage is Stage.DECODE:
            self._channel.send(Decoding(**self._about))

    def step(self, done: int, total: int) -> None:
        """So many of this picture's steps are done; told as steps of the whole task."""
        self.check_cancelled()
        before, all_pictures = self._picture * total, self._assignment.request.count * total
        preview, self._preview = self._preview, None
        step, total = before + done, all_pictures
        self._channel.send(Step(**self._about, step=step, total=total, preview=preview))

    def preview(self, make: Callable[[], Image.Image]) -> None:
        """See `Hook.preview`: now and then, and only when the task wants it."""
        now = time.perf_counter()
        if not self._previews or now - self._previewed_at < PREVIEW_EVERY_S:
            return
        self._previewed_at = now
        try:
            self._preview = images.small_jpeg(make())
        except Exception:  # no picture is lost for its preview
            log.exception("no previews for this task")
            self._previews = False
        spent_s = time.perf_counter() - now
        self.stages_s[Stage.PREVIEW] = self.stages_s.get(Stage.PREVIEW, 0.0) + spent_s
        self._since += spent_s  # it does not count as the stage that it interrupts

    def check_cancelled(self) -> None:
        """Raises `Cancelled` when the parent has sent so."""
        while (message := self._channel.poll()) is not None:
            if not isinstance(message, Cancel):
                self.later.append(message)
            elif message == self._cancel:
                raise Cancelled


def sizes_of(assignment: Assignment) -> tuple[images.Size, images.Size]:
    """The size that was asked for, and the one that is drawn, which may be smaller."""
    request, spec = assignment.request, assignment.model
    asked = (request.width or spec.defaults.width, request.height or spec.defaults.height)
    return asked, images.drawing_size(spec, asked)


@dataclass(frozen=True, slots=True)
class Drawing:
    """One assignment and what it is drawn with.

    `control_map` takes the place of the photo that it was made from.
    """

    assignment: Assignment
    pipeline: Pipeline
    ladder: Ladder
    reporter: Reporter
    dressing: Dressing
    control_map: Image.Image | None = None

    def draw(self, load_s: float) -> Result:
        """Draw, encode and store every picture.

        Raises `Cancelled`, `UnusablePicture`, `NoMemory`, `GenServeError`, or what libraries raise.
        """
        began_at = time.perf_counter()
        request, spec = self.assignment.request, self.assignment.model
        asked, drawn = sizes_of(self.assignment)
        inputs = self._inputs(drawn)
        native = inputs[ImageRole.REFERENCE].size if request.mode is Mode.UPSCALE else drawn
        keep = self._keeper(asked)
        left_out = self._dress()
        finished = []
        for number in range(request.count):
            self.reporter.next_picture(number)
            seed = ((request.seed or 0) + number) % (MAX_SEED + 1)
            image = self._picture(request, seed, drawn, inputs)
            stretch = bool(inputs.keys() & {ImageRole.INIT, ImageRole.CONTROL})
            image = keep(images.enlarge(image, asked, stretch=stretch))
            finished.append(self._store(image, seed, native))
        return Result(
            images=tuple(finished),
            served_by=spec.id,
            native_width=native[0],
            native_height=native[1],
            degraded=(*self.ladder.taken, *left_out),
            load_s=load_s,
            generation_s=time.perf_counter() - began_at,
            stages_s=self.reporter.stages_s,
        )

    def _inputs(self, drawn: images.Size) -> dict[ImageRole, Image.Image]:
        self.reporter.stage(Stage.INPUT)
        try:
            inputs = images.read_inputs(self.assignment.request, self.assignment.inputs, drawn)
        except (OSError, KeyError):
            raise InputLost from None
        if self.control_map is not None:
            inputs[ImageRole.CONTROL] = self.control_map
        return inputs

    def _dress(self) -> tuple[Degraded, ...]:
        """Put on the LoRAs. The model takes them off when a task asks for others."""
        self.reporter.stage(Stage.LORAS)
        return self.ladder.run(
            lambda: self.dressing.dress(
                self.pipeline,
                self.assignment.request,
                self.assignment.loras,
                model_id=self.assignment.model.id,
                check=self.reporter.check_cancelled,
            )
        )

    def _keeper(self, asked: images.Size) -> Callable[[Image.Image], Image.Image]:
        """What makes sure that a masked picture is the caller's own outside of the mask."""
        if self.assignment.request.image(ImageRole.MASK) is None:
            return lambda picture: picture
        try:
            return images.keeper(self.assignment.request, self.assignment.inputs, asked)
        except (OSError, KeyError):
            raise InputLost from None

    def _picture(
        self,
        request: GenerationRequest,
        seed: int,
        drawn: images.Size,
        inputs: dict[ImageRole, Image.Image],
    ) -> Image.Image:
        request = request.model_copy(update={"width": drawn[0], "height": drawn[1]})
        image = self.ladder.run(
            lambda: self.pipeline.generate(request, seed, inputs, self.reporter)
        )
        if request.mode not in TOOL_MODES:  # a white page enlarged is a white page
            images.refuse_constant(image)
        return image

    def _store(self, image: Image.Image, seed: int, native: images.Size) -> ResultImage:
        request = self.assignment.request
        self.reporter.stage(Stage.ENCODE)
        text = metadata.parameters(
            request,
            self.assignment.model,
            seed=seed,
            native=native,
            distilled_guidance=self.pipeline.distilled_guidance,
            loras=self.assignment.loras,
        )
        data = images.encode(image, request.output, text, metadata.xmp(request))
        self.reporter.stage(Stage.STORE)
        sha256 = BlobStore(Path(self.assignment.output_folder)).put(data)
        self.reporter.stage(None)
        return ResultImage(
            sha256=sha256,
            media_type=images.MEDIA_TYPES[request.output.format],
            size_bytes=len(data),
            width=image.width,
            height=image.height,
            seed=seed,
        )
