"""People as OpenPose draws them: by the colour of single pixels."""

import pytest
from PIL import Image

from genserve.pipelines.skeleton import BONES, COLOURS, JOINTS, Joint, draw_people

SIZE = (512, 512)
PERSON: dict[str, tuple[float, float]] = {
    "nose": (256, 90),
    "neck": (256, 150),
    "right_shoulder": (200, 150),
    "right_elbow": (170, 220),
    "right_wrist": (150, 290),
    "left_shoulder": (312, 150),
    "left_elbow": (345, 220),
    "left_wrist": (400, 180),
    "right_hip": (220, 300),
    "right_knee": (210, 390),
    "right_ankle": (205, 470),
    "left_hip": (292, 300),
    "left_knee": (300, 390),
    "left_ankle": (305, 470),
    "right_eye": (236, 70),
    "left_eye": (276, 70),
    "right_ear": (210, 85),
    "left_ear": (302, 85),
}


def person(**changes: Joint) -> list[Joint]:
    return [(PERSON | changes)[name] for name in JOINTS]


def at(image: Image.Image, point: tuple[float, float]) -> object:
    return image.getpixel((round(point[0]), round(point[1])))


def middle(start: str, end: str) -> tuple[float, float]:
    (x, y), (u, v) = PERSON[start], PERSON[end]
    return ((x + u) / 2, (y + v) / 2)


def test_the_colours_are_openposes() -> None:
    """The first and last ones of its table, and one on each side of the circle."""
    assert len(COLOURS) == len(JOINTS) == 18
    assert len(BONES) == 17
    assert COLOURS[0] == (255, 0, 0)
    assert COLOURS[1] == (255, 85, 0)
    assert COLOURS[6] == (0, 255, 0)
    assert COLOURS[12] == (0, 0, 255)
    assert COLOURS[17] == (255, 0, 85)


@pytest.mark.parametrize("name", JOINTS)
def test_each_joint_has_its_colour(name: str) -> None:
    image = draw_people([person()], SIZE)
    assert at(image, PERSON[name]) == COLOURS[JOINTS.index(name)]


@pytest.mark.parametrize(("number", "bone"), list(enumerate(BONES)))
def test_each_bone_has_its_colour_and_is_darker(number: int, bone: tuple[str, str]) -> None:
    image = draw_people([person()], SIZE)
    assert at(image, middle(*bone)) == tuple(int(level * 0.6) for level in COLOURS[number])


def test_around_there_is_black() -> None:
    image = draw_people([person()], SIZE)
    assert (image.mode, image.size) == ("RGB", SIZE)
    colours = image.getcolors(maxcolors=100)
    assert colours is not None
    assert len(colours) == 1 + 17 + 18
    assert sum(count for count, colour in colours if colour == (0, 0, 0)) > 0.9 * 512 * 512


def test_what_was_not_seen_is_left_out() -> None:
    image = draw_people([person(left_wrist=None)], SIZE)
    assert at(image, PERSON["left_wrist"]) == (0, 0, 0)
    assert at(image, middle("left_elbow", "left_wrist")) == (0, 0, 0)
    assert at(image, PERSON["left_elbow"]) == COLOURS[JOINTS.index("left_elbow")]


def test_several_people_and_nobody() -> None:
    other = [(x / 4, y / 4) for x, y in PERSON.values()]
    image = draw_people([person(), other], SIZE)
    assert at(image, other[1]) == COLOURS[1]
    assert at(image, PERSON["neck"]) == COLOURS[1]
    assert draw_people([], (8, 4)).getcolors() == [(32, (0, 0, 0))]


def test_lines_grow_with_the_picture() -> None:
    """Eight pixels across a joint at 512, as OpenPose draws; on a small picture still visible."""

    def width_at(size: int) -> int:
        alone: list[Joint] = [None] * len(JOINTS)
        alone[0] = (size / 2, size / 2)
        line = draw_people([alone], (size, size)).crop((0, size // 2, size, size // 2 + 1))
        return sum(pixel != (0, 0, 0) for pixel in line.get_flattened_data())

    assert width_at(512) == pytest.approx(9, abs=1)
    assert width_at(1024) == pytest.approx(17, abs=1)
    assert width_at(64) >= 2


def test_joints_outside_the_picture_are_no_trouble() -> None:
    draw_people([[(-50.0, 700.0)] * len(JOINTS)], (64, 64))
