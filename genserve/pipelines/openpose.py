"""Control maps of poses: networks find people and their joints, `skeleton` draws them."""

from PIL import Image

from genserve.domain.model import ModelSpec
from genserve.domain.request import GenerationRequest
from genserve.pipelines.base import BrokenModel, DeviceKind, Hook
from genserve.pipelines.picture_tool import PictureTool
from genserve.pipelines.pose import JointFinder, PeopleFinder
from genserve.pipelines.shelf import Shelf
from genserve.pipelines.skeleton import draw_people


def pipeline() -> PictureTool:
    """The family `openpose`."""
    return PictureTool(OpenPose())


class OpenPose:
    """A skeleton for each person."""

    def __init__(self) -> None:
        self._joints: JointFinder | None = None
        self._people: PeopleFinder | None = None

    def load(self, spec: ModelSpec, device: DeviceKind, shelf: Shelf, user: object) -> None:
        """Read the pose model and the detector: the folder beside it that `options` names.

        Without a detector the whole picture counts as one person.
        """
        self._joints = JointFinder(spec.folder, spec, device, shelf, user)
        detector = spec.options.get("detector")
        if detector is not None:
            folder = spec.folder.parent / str(detector)
            if not folder.is_dir():
                raise BrokenModel(f"its detector is missing; put it into models/{folder.name}")
            self._people = PeopleFinder(folder, spec, device, shelf, user)

    def apply(self, image: Image.Image, request: GenerationRequest, hook: Hook) -> Image.Image:
        """The skeletons on black; black alone when there is nobody."""
        if self._joints is None:
            raise LookupError("nothing was loaded")
        whole = (0.0, 0.0, float(image.width), float(image.height))
        boxes = self._people.find(image) if self._people else [whole]
        people = []
        for done, box in enumerate(boxes, start=1):
            people.append(self._joints.find(image, box))
            hook.step(done, len(boxes))
        return draw_people(people, image.size)
