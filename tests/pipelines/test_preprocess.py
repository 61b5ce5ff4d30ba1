"""Control maps: edges where they are, near and far, and joints where a heat map has its peaks.

The networks are real ones of transformers with random weights: they prove shapes, sizes and the
way there and back, not what a trained one sees.
"""

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTImageProcessorPil,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessorPil,
    RTDetrResNetConfig,
    VitPoseBackboneConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
)

from genserve.domain.model import ModelSpec
from genserve.domain.request import (
    Control,
    ControlType,
    FileRef,
    GenerationRequest,
    ImageRole,
    InputImage,
    Mode,
)
from genserve.pipelines import pose, registry
from genserve.pipelines.base import BrokenModel
from genserve.pipelines.shelf import Shelf
from genserve.pipelines.skeleton import JOINTS
from tests.pipelines.conftest import Watcher


def made(spec: ModelSpec, photo: Image.Image, **control: Any) -> Image.Image:
    """The map of a photo, at the photo's size, by way of the registry."""
    pipeline = registry.make(spec.family)
    pipeline.load(spec, "cpu", Shelf("cpu"))
    file = FileRef(sha256="0" * 64, media_type="image/png", width=1, height=1, size_bytes=1)
    asked = GenerationRequest(
        model=spec.id,
        mode=Mode.PREPROCESS,
        prompt="",
        width=photo.width,
        height=photo.height,
        images=(InputImage(file=file, role=ImageRole.CONTROL, control=Control(**control)),),
    )
    drawn = pipeline.generate(asked, 0, {ImageRole.CONTROL: photo}, Watcher())
    assert (drawn.mode, drawn.size) == ("RGB", photo.size)
    return drawn


def spec(family: str, folder: Path = Path("none"), **options: Any) -> ModelSpec:
    return ModelSpec(id=family, family=family, folder=folder, options=options)


class TestCanny:
    def photo(self, inside: str = "white", outside: str = "black") -> Image.Image:
        photo = Image.new("RGB", (80, 60), outside)
        ImageDraw.Draw(photo).rectangle((20, 15, 60, 45), fill=inside)
        return photo

    def test_edges_are_white_and_where_they_are(self) -> None:
        drawn = made(spec("canny"), self.photo(), type=ControlType.CANNY)
        assert set(drawn.get_flattened_data()) == {(0, 0, 0), (255, 255, 255)}
        box = drawn.getbbox()
        assert box is not None
        assert all(abs(one - other) <= 1 for one, other in zip(box, (20, 15, 61, 46), strict=True))
        assert drawn.crop((24, 19, 56, 41)).getbbox() is None, "nothing inside"

    def test_equally_bright_colours_have_an_edge_too(self) -> None:
        red, green = (255, 0, 0), (0, 130, 0)
        grey = [Image.new("RGB", (1, 1), c).convert("L").tobytes()[0] for c in (red, green)]
        assert abs(grey[0] - grey[1]) <= 1
        photo = Image.new("RGB", (40, 40), red)
        photo.paste(green, (20, 0, 40, 40))
        assert made(spec("canny"), photo).getbbox() is not None

    def test_the_thresholds_are_the_requests(self) -> None:
        faint = self.photo("#6e6e6e", "#646464")
        assert made(spec("canny"), faint).getbbox() is None
        seen = made(spec("canny"), faint, low_threshold=5, high_threshold=20)
        assert seen.getbbox() is not None


@pytest.fixture(scope="module")
def depth_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "depth"
    backbone = Dinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 16, 24, 32],
        fusion_hidden_size=16,
        head_hidden_size=8,
    )
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    DPTImageProcessorPil(
        size={"height": 56, "width": 56}, ensure_multiple_of=14, keep_aspect_ratio=True
    ).save_pretrained(folder)
    return folder


class TestDepth:
    def photo(self) -> Image.Image:
        return Image.radial_gradient("L").resize((90, 60)).convert("RGB")

    def test_a_map_uses_the_whole_range(self, depth_folder: Path) -> None:
        drawn = made(spec("depth", depth_folder), self.photo())
        levels = drawn.getextrema()
        assert levels == ((0, 255),) * 3
        assert drawn.getchannel(0).tobytes() == drawn.getchannel(2).tobytes()

    def test_metres_are_turned_round(self, depth_folder: Path, tmp_path: Path) -> None:
        """A metric model's figures grow with distance, so the largest must be black."""
        network = DepthAnythingForDepthEstimation.from_pretrained(depth_folder)
        network.config.depth_estimation_type = "metric"
        network.config.max_depth = 20
        with torch.no_grad():  # random weights make a nearly flat map
            network.head.conv3.weight.mul_(1000)
        metric = tmp_path / "metric"
        network.save_pretrained(metric)
        processor = DPTImageProcessorPil.from_pretrained(depth_folder)
        processor.save_pretrained(metric)
        again = DepthAnythingForDepthEstimation.from_pretrained(metric)
        with torch.no_grad():
            metres = again(**processor(self.photo(), return_tensors="pt")).predicted_depth
        far = torch.nn.functional.interpolate(metres[:, None], (60, 90), mode="bicubic")
        near = numpy.asarray(made(spec("depth", metric), self.photo()).convert("L"), float)
        assert numpy.corrcoef(near.ravel(), far.numpy().ravel())[0, 1] < -0.95

    def test_a_folder_of_something_else_is_refused(
        self, depth_folder: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        VitPoseForPoseEstimation(pose_config()).save_pretrained(other)
        with pytest.raises(BrokenModel, match="other is no model for DepthEstimation"):
            made(spec("depth", other), self.photo())

    def test_missing_weights_are_not_made_up(self, depth_folder: Path, tmp_path: Path) -> None:
        half = tmp_path / "half"
        network = DepthAnythingForDepthEstimation.from_pretrained(depth_folder)
        weights = network.state_dict()
        weights.pop("head.conv3.weight")
        network.save_pretrained(half, state_dict=weights)
        DPTImageProcessorPil.from_pretrained(depth_folder).save_pretrained(half)
        with pytest.raises(BrokenModel, match=r"half lacks weights: head\.conv3\.weight"):
            made(spec("depth", half), self.photo())

    def test_one_without_its_image_processor_is_refused(
        self, tmp_path: Path, depth_folder: Path
    ) -> None:
        bare = tmp_path / "bare"
        DepthAnythingForDepthEstimation.from_pretrained(depth_folder).save_pretrained(bare)
        with pytest.raises(BrokenModel, match=r"bare/preprocessor_config\.json is missing"):
            made(spec("depth", bare), self.photo())


def pose_config(joints: int = 17) -> VitPoseConfig:
    backbone = VitPoseBackboneConfig(
        image_size=[64, 48],
        patch_size=[16, 16],
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        out_indices=[2],
    )
    return VitPoseConfig(backbone_config=backbone, num_labels=joints)


@pytest.fixture(scope="module")
def pose_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pose network, and a detector that is sure of people wherever it looks."""
    torch.manual_seed(0)
    models = tmp_path_factory.mktemp("models")
    network = VitPoseForPoseEstimation(pose_config())
    torch.nn.init.constant_(network.head.conv.bias, 1.0)
    network.save_pretrained(models / "pose")
    save_detector(models / "people", {0: "cat", 1: "person"}, sure_of=1)
    save_detector(models / "cats", {0: "cat", 1: "person"}, sure_of=0)
    save_detector(models / "things", {0: "cup", 1: "chair"}, sure_of=0)
    return models / "pose"


def save_detector(folder: Path, names: dict[int, str], *, sure_of: int) -> None:
    backbone = RTDetrResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 16, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=32,
        encoder_in_channels=[16, 16, 16],
        encoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_in_channels=[32, 32, 32],
        d_model=32,
        num_queries=3,
        decoder_layers=1,
        decoder_ffn_dim=32,
        decoder_attention_heads=2,
        decoder_n_points=2,
        num_denoising=0,
        id2label=names,
        label2id={name: number for number, name in names.items()},
    )
    network = RTDetrForObjectDetection(config)
    with torch.no_grad():
        for head in network.model.decoder.class_embed:
            head.weight.zero_()
            head.bias.fill_(-9)
            head.bias[sure_of] = 9
    network.save_pretrained(folder)
    RTDetrImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)


class TestPose:
    def photo(self) -> Image.Image:
        return Image.radial_gradient("L").resize((90, 60)).convert("RGB")

    def test_the_whole_photo_is_one_person(self, pose_folder: Path) -> None:
        assert made(spec("openpose", pose_folder), self.photo()).getbbox() is not None

    def test_each_person_that_is_found_is_drawn(self, pose_folder: Path) -> None:
        assert (
            made(spec("openpose", pose_folder, detector="people"), self.photo()).getbbox()
            is not None
        )

    def test_without_people_it_is_black(self, pose_folder: Path) -> None:
        assert made(spec("openpose", pose_folder, detector="cats"), self.photo()).getbbox() is None

    @pytest.mark.parametrize(
        ("detector", "words"),
        [("nobody", "put it into models/nobody"), ("things", "things detects no people")],
    )
    def test_a_detector_that_is_none(self, pose_folder: Path, detector: str, words: str) -> None:
        with pytest.raises(BrokenModel, match=words):
            made(spec("openpose", pose_folder, detector=detector), self.photo())

    def test_other_joints_are_refused(self, tmp_path: Path) -> None:
        VitPoseForPoseEstimation(pose_config(joints=21)).save_pretrained(tmp_path / "hand")
        with pytest.raises(BrokenModel, match="hand finds 21 joints, not 17"):
            made(spec("openpose", tmp_path / "hand"), self.photo())


class TestFromHeatMapsToJoints:
    """The way there and back: what lies at a pixel of the photo is found at that pixel."""

    def heatmap(self, x: float, y: float) -> torch.Tensor:
        """17 x 64 x 48 cells, each with a peak between the cells at x, y."""
        rows, columns = torch.arange(64.0)[:, None], torch.arange(48.0)[None]
        peak = torch.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * 2.0**2))
        return peak.expand(17, -1, -1)

    @pytest.mark.parametrize(("x", "y"), [(20.0, 30.0), (20.3, 30.4), (11.8, 50.1), (24.5, 8.5)])
    def test_a_peak_is_found_between_the_cells(self, x: float, y: float) -> None:
        found = pose.peaks(self.heatmap(x, y))
        assert found == [pytest.approx((x, y), abs=0.06)] * 17

    def test_a_faint_peak_is_nobody(self) -> None:
        assert pose.peaks(self.heatmap(20, 30) * 0.2) == [None] * 17

    def test_a_peak_at_the_border_stays_there(self) -> None:
        for x, y in ((0, 0), (47, 63)):
            found = pose.peaks(self.heatmap(x, y))[0]
            assert found == pytest.approx((x, y), abs=0.5)

    @pytest.mark.parametrize("box", [(10.0, 20.0, 50.0, 90.0), (0.0, 0.0, 90.0, 40.0)])
    def test_the_cut_has_the_networks_shape_and_a_margin(self, box: pose.Box) -> None:
        left, top, right, bottom = pose.cut_around(box, (48, 64))
        assert (right - left) / (bottom - top) == pytest.approx(48 / 64)
        assert left <= box[0]
        assert top <= box[1]
        assert right >= box[2]
        assert bottom >= box[3]
        assert (left + right) / 2 == pytest.approx((box[0] + box[2]) / 2)

    def test_what_is_cut_out_lies_where_the_joints_will_be_placed(self) -> None:
        """A white dot of the photo, found in the cut, and placed back."""
        photo = Image.new("L", (200, 200))
        dot = (83, 121)
        ImageDraw.Draw(photo).rectangle((dot[0] - 3, dot[1] - 3, dot[0] + 3, dot[1] + 3), fill=255)
        cut = pose.cut_around((60.0, 60.0, 120.0, 180.0), (192, 256))
        small = pose.cut_out(photo.convert("RGB"), cut, (192, 256)).convert("L")
        box = small.point(lambda level: 255 * (level > 127)).getbbox()
        assert box is not None
        x, y = (box[0] + box[2] - 1) / 2, (box[1] + box[3] - 1) / 2
        cells = torch.zeros(17, 256, 192)
        assert pose._placed((x, y), cut, cells) == pytest.approx(dot, abs=0.5)

    def test_cocos_joints_become_openposes(self) -> None:
        coco: list[Any] = [(float(number), 0.0) for number in range(17)]
        found = dict(zip(JOINTS, pose.openpose_joints(coco), strict=True))
        assert found["nose"] == (0, 0)
        assert found["left_eye"] == (1, 0)
        assert found["right_eye"] == (2, 0)
        assert found["right_ankle"] == (16, 0)
        assert found["neck"] == (5.5, 0), "between the shoulders"
        coco[6] = None
        assert pose.openpose_joints(coco)[JOINTS.index("neck")] is None
