"""Claims about edited pictures: objects are found by colour, vanish without a trace, and move by what they are told."""

import numpy as np
import pytest
from numpy.typing import NDArray

from foretell.perception.edit import PAINTS, WHITE, find_objects, ground, moved, taken_out, width
from foretell.train.worlds import SCENARIOS, Spec
from foretell.train.worlds.generate import find_story
from foretell.train.worlds.physics import Painter
from foretell.train.worlds.scene import COLOURS, project

GREY = (110, 115, 120)
Picture = NDArray[np.uint8]


def stack(*colours: str, size: int = 64) -> Picture:
    """Boxes of these colours on each other, from below, before grey: [size, size, 3]."""
    picture, high = np.full((size, size, 3), GREY, np.uint8), 10 * size // 64
    for level, colour in enumerate(colours):
        rows = slice(size - high * (level + 1), size - high * level)
        picture[rows, 3 * size // 8 : 5 * size // 8] = np.round(255 * np.array(COLOURS[colour]))
    return picture


def test_the_colours_that_are_found_are_those_that_worlds_have() -> None:
    assert {**PAINTS, WHITE: COLOURS[WHITE]} == COLOURS


def test_objects_are_found_in_the_light_and_in_the_shade() -> None:
    picture = stack(*PAINTS)
    for light in (1.0, 0.5):
        found = find_objects((picture * light).astype(np.uint8))
        assert list(found) == list(PAINTS)
        assert all(mask.sum() == 160 for mask in found.values())


def test_white_is_told_from_grey() -> None:
    assert list(find_objects(stack("red", "white"))) == ["red", "white"]
    assert find_objects(np.full((64, 64, 3), GREY, np.uint8)) == {}


def test_objects_of_rendered_towers_lie_where_the_worlds_put_them() -> None:
    painter, off = Painter(64), []
    for seed in range(6):
        story = find_story(SCENARIOS["towers"], seed, Spec())
        found = find_objects(painter.draw(story.model, story.look, story.trajectory.qpos[:1])[0])
        for body in (one for one in story.scene.bodies if one.colour in found and one.colour != WHITE):
            y, x = np.nonzero(found[body.colour])
            off.append(np.hypot(*(project(np.array(body.pos), story.look) * 64 - (x.mean() + 0.5, y.mean() + 0.5))))
    assert len(off) >= 10
    assert np.median(off) < 3


def test_what_is_taken_out_leaves_the_ground_and_nothing_else_changes() -> None:
    picture, less = stack("red", "green", "blue"), stack("red", "green")
    objects = find_objects(picture)
    after = taken_out(picture, objects["blue"], ground(picture, objects))
    assert np.array_equal(after[:44], less[:44])  # the rim of one pixel that goes with it is the green block's
    assert list(find_objects(after)) == ["red", "green"]
    assert np.array_equal(after[46:], picture[46:])


@pytest.mark.parametrize("by", [-7, 5, 60])
def test_what_is_moved_is_moved_by_so_many_pixels_and_cut_at_the_rim(by: int) -> None:
    picture = stack("red", "green")
    objects = find_objects(picture)
    after = moved(picture, objects["green"], ground(picture, objects), by)
    columns = np.arange(24, 40) + by
    where = (after == picture[50, 30]).all(-1).nonzero()  # the green block's
    assert set(where[1].tolist()) == set(columns[columns < 64].tolist())
    assert np.array_equal(after[56:], picture[56:])


def test_an_object_knows_its_width() -> None:
    assert {width(mask) for mask in find_objects(stack("red", "green", "blue")).values()} == {16}
