"""From an assignment to finished files. Runs in the child; imported by nothing else."""

import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from genserve.domain.pool import Assignment
from genserve.domain.request import MAX_SEED, GenerationRequest, ImageRole
from genserve.domain.task import Result, ResultImage
from genserve.errors import InputLost
from genserve.pipelines import images, metadata
from genserve.pipelines.base import Cancelled, Pipeline, Stage
from genserve.pipelines.ladder import Ladder
from genserve.store.blobs import BlobStore
from genserve.workers.channel import Channel
from genserve.workers.messages import Cancel, Decoding, Step, ToChild


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
        self._channel.send(Step(**self._about, step=before + done, total=all_pictures))

    def check_cancelled(self) -> None:
        """Raises `Cancelled` when the parent has sent so."""
        while (message := self._channel.poll()) is not None:
            if not isinstance(message, Cancel):
                self.later.append(message)
            elif message == self._cancel:
                raise Cancelled


@dataclass(frozen=True, slots=True)
class Drawing:
    """One assignment and what it is drawn with."""

    assignment: Assignment
    pipeline: Pipeline
    ladder: Ladder
    reporter: Reporter

    def draw(self, load_s: float) -> Result:
        """Draw, encode and store every picture.

        Raises `Cancelled`, `UnusablePicture`, `NoMemory`, `GenServeError`, or what libraries raise.
        """
        began_at = time.perf_counter()
        request, spec = self.assignment.request, self.assignment.model
        asked = (request.width or spec.defaults.width, request.height or spec.defaults.height)
        drawn = images.drawing_size(spec, asked)
        inputs = self._inputs(drawn)
        finished = []
        for number in range(request.count):
            self.reporter.next_picture(number)
            seed = ((request.seed or 0) + number) % (MAX_SEED + 1)
            image = self._picture(request, seed, drawn, inputs)
            stretch = ImageRole.INIT in inputs
            finished.append(self._store(images.enlarge(image, asked, stretch=stretch), seed, drawn))
        return Result(
            images=tuple(finished),
            served_by=spec.id,
            native_width=drawn[0],
            native_height=drawn[1],
            degraded=self.ladder.taken,
            load_s=load_s,
            generation_s=time.perf_counter() - began_at,
            stages_s=self.reporter.stages_s,
        )

    def _inputs(self, drawn: images.Size) -> dict[ImageRole, Image.Image]:
        self.reporter.stage(Stage.INPUT)
        try:
            return images.read_inputs(self.assignment.request, self.assignment.inputs, drawn)
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
        images.refuse_constant(image)
        return image

    def _store(self, image: Image.Image, seed: int, drawn: images.Size) -> ResultImage:
        request = self.assignment.request
        self.reporter.stage(Stage.ENCODE)
        text = metadata.parameters(
            request,
            self.assignment.model,
            seed=seed,
            native=drawn,
            distilled_guidance=self.pipeline.distilled_guidance,
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
