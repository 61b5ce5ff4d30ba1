"""Where people are in a picture, and where their joints are (ViTPose; Xu et al., 2022).

The library's own way from picture to network and back needs scipy. Here it is in torch and Pillow:
the same cut (a box around the person, a quarter larger, in the network's shape), and the same
refinement of a heat map's peak by the shape of its surroundings (Zhang et al., DARK, 2020).
"""

from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional
from transformers import (
    AutoImageProcessor,
    AutoModelForObjectDetection,
    AutoModelForPoseEstimation,
)

from genserve.domain.model import ModelSpec
from genserve.pipelines import networks
from genserve.pipelines.base import BrokenModel, DeviceKind
from genserve.pipelines.shelf import Shelf
from genserve.pipelines.skeleton import JOINTS, Joint

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

_COCO = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
"""The order of a pose network's joints (the COCO data set's)."""
_PERSON_SCORE, _JOINT_SCORE = 0.5, 0.3
"""Below, it counts as not seen. What transformers' and OpenPose's own examples use."""
_MARGIN = 1.25
"""How much larger than the person's box the cut is: what ViTPose was trained with."""
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue in 0…1, which these networks are given normalised."""


class PeopleFinder:
    """An object detector of transformers that knows people."""

    def __init__(
        self, folder: Path, spec: ModelSpec, device: DeviceKind, shelf: Shelf, user: object
    ) -> None:
        """Raises `BrokenModel`."""
        self._network = networks.take(
            AutoModelForObjectDetection, folder, spec, device, shelf, user
        )
        self._processor = networks.processor(AutoImageProcessor, folder)
        names = self._network.config.id2label.items()
        people = [int(number) for number, name in names if name.casefold() == "person"]
        if not people:
            raise BrokenModel(f"{folder.name} detects no people: its labels have no person")
        self._person = people[0]

    @torch.no_grad()
    def find(self, image: Image.Image) -> list[Box]:
        """A box around each person, the surest first."""
        pixels = networks.pixels_for(self._network, self._processor, image)
        found = self._processor.post_process_object_detection(
            self._network(pixel_values=pixels),
            threshold=_PERSON_SCORE,
            target_sizes=[(image.height, image.width)],
        )[0]
        boxes = zip(found["labels"].tolist(), found["boxes"].tolist(), strict=True)
        return [tuple(box) for label, box in boxes if label == self._person]


class JointFinder:
    """A pose network of transformers for the COCO data set's joints."""

    def __init__(
        self, folder: Path, spec: ModelSpec, device: DeviceKind, shelf: Shelf, user: object
    ) -> None:
        """Raises `BrokenModel`."""
        self._network = networks.take(AutoModelForPoseEstimation, folder, spec, device, shelf, user)
        if self._network.config.num_labels != len(_COCO):
            raise BrokenModel(
                f"{folder.name} finds {self._network.config.num_labels} joints, not 17"
            )
        height, width = self._network.config.backbone_config.image_size
        self._size = (width, height)

    @torch.no_grad()
    def find(self, image: Image.Image, box: Box) -> list[Joint]:
        """The person's joints in the order of `skeleton.JOINTS`."""
        cut = cut_around(box, self._size)
        weight = next(self._network.parameters())
        pixels = _pixels(cut_out(image, cut, self._size)).to(weight.device, weight.dtype)
        extra = {}
        if getattr(self._network.config.backbone_config, "num_experts", 1) > 1:
            # ViTPose++ has parts for each data set; the first is COCO's.
            extra["dataset_index"] = torch.zeros(1, dtype=torch.long, device=weight.device)
        heatmaps = self._network(pixel_values=pixels, **extra).heatmaps[0].float().cpu()
        return openpose_joints([_placed(peak, cut, heatmaps) for peak in peaks(heatmaps)])


def cut_around(box: Box, shape: tuple[int, int]) -> Box:
    """What to cut out for a person: a margin around, and in the shape (width, height)."""
    left, top, right, bottom = box
    aspect = shape[0] / shape[1]
    width = max(right - left, (bottom - top) * aspect, 1.0) * _MARGIN
    height = width / aspect
    x, y = (left + right) / 2, (top + bottom) / 2
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def cut_out(image: Image.Image, cut: Box, size: tuple[int, int]) -> Image.Image:
    """The cut at `size`, black where it leaves the picture.

    Outermost pixel centres of both lie on the cut's border, as the network was trained ("unbiased
    data processing"): a heat map's first cell is the cut's left edge, its last the right one.
    """
    left, top, right, bottom = cut
    wide, high = (right - left) / (size[0] - 1), (bottom - top) / (size[1] - 1)
    # Pillow counts from a pixel's corner and samples at its centre.
    matrix = (wide, 0, left + 0.5 - wide / 2, 0, high, top + 0.5 - high / 2)
    return image.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def peaks(heatmaps: torch.Tensor) -> list[Joint]:
    """The highest point of each of joints x height x width, in cells, finer than whole cells."""
    joints, _, width = heatmaps.shape
    scores, places = heatmaps.reshape(joints, -1).max(dim=1)
    logarithms = functional.pad(_smoothed(heatmaps), (1, 1, 1, 1), mode="replicate")
    found: list[Joint] = []
    for joint, (score, place) in enumerate(zip(scores.tolist(), places.tolist(), strict=True)):
        if score < _JOINT_SCORE:
            found.append(None)
            continue
        row, column = divmod(place, width)
        around = logarithms[0, joint, row : row + 3, column : column + 3]
        found.append((column + _vertex(around[1]), row + _vertex(around[:, 1])))
    return found


def _smoothed(heatmaps: torch.Tensor) -> torch.Tensor:
    """1 x joints x height x width: the logarithm of what a small Gaussian blur leaves."""
    line = torch.exp(-torch.tensor([1.0, 0.0, 1.0]) / (2 * 0.8**2))
    kernel = torch.outer(line, line) / line.sum() ** 2
    blurred = functional.conv2d(
        functional.pad(heatmaps[:, None], (1, 1, 1, 1), mode="replicate"), kernel[None, None]
    )
    return blurred[:, 0].clamp(min=1e-3).log()[None]


def _vertex(line: torch.Tensor) -> float:
    """Where the parabola through three neighbouring values is highest: -0.5…0.5 from the middle."""
    before, middle, after = line.tolist()
    bend = before - 2 * middle + after
    return 0.0 if bend >= 0 else max(-0.5, min(0.5, (before - after) / (2 * bend)))


def _placed(peak: Joint, cut: Box, heatmaps: torch.Tensor) -> Joint:
    """From cells to pixels of the picture."""
    if peak is None:
        return None
    height, width = heatmaps.shape[-2:]
    left, top, right, bottom = cut
    x, y = peak[0] / (width - 1), peak[1] / (height - 1)
    return (left + x * (right - left), top + y * (bottom - top))


def openpose_joints(coco: list[Joint]) -> list[Joint]:
    """COCO's 17 joints as OpenPose's 18: in its order, with the neck between the shoulders."""
    by_name = dict(zip(_COCO, coco, strict=True))
    right, left = by_name["right_shoulder"], by_name["left_shoulder"]
    neck = None
    if right is not None and left is not None:
        neck = ((right[0] + left[0]) / 2, (right[1] + left[1]) / 2)
    return [(by_name | {"neck": neck})[name] for name in JOINTS]


def _pixels(image: Image.Image) -> torch.Tensor:
    """1 x 3 x height x width, normalised."""
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    pixels = flat.view(image.height, image.width, 3).permute(2, 0, 1)[None].float() / 255
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _DEVIATION))
    return (pixels - mean) / deviation
