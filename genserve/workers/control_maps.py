"""The control map that is made from a photo before the picture is drawn. Runs in the child."""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from genserve.domain.pool import Assignment
from genserve.domain.request import ImageRole, Mode
from genserve.errors import InputLost
from genserve.pipelines import images
from genserve.pipelines.base import Pipeline, Stage
from genserve.workers.drawing import Reporter, sizes_of


@dataclass(slots=True)
class _Quiet:
    """The hook of a preprocessor: its steps are not the picture's, but it can be cancelled."""

    reporter: Reporter
    attempt: int

    def stage(self, stage: Stage) -> None:
        self.reporter.stage(stage)

    def step(self, done: int, total: int) -> None:
        self.reporter.check_cancelled()

    def preview(self, make: Callable[[], Image.Image]) -> None:
        pass


def control_map(assignment: Assignment, preprocessor: Pipeline, reporter: Reporter) -> Image.Image:
    """The map at the drawn size. Raises `Cancelled`, `InputLost`, or what drawing raises."""
    reporter.stage(Stage.INPUT)
    _, drawn = sizes_of(assignment)
    try:
        inputs = images.read_inputs(assignment.request, assignment.inputs, drawn)
    except (OSError, KeyError):
        raise InputLost from None
    request = assignment.request.model_copy(
        update={"mode": Mode.PREPROCESS, "width": drawn[0], "height": drawn[1]}
    )
    photo = {ImageRole.CONTROL: inputs[ImageRole.CONTROL]}
    made = preprocessor.generate(request, 0, photo, _Quiet(reporter, assignment.attempt))
    reporter.stage(None)
    return made
