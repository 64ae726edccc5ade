"""Claims about what can be seen: pixels are counted as drawn, and descriptions are asked about what shows."""

from typing import Any

import numpy as np
import pytest

from foretell.train.facts import words_of
from foretell.train.worlds import SCENARIOS, Spec, bullet
from foretell.train.worlds.generate import find_story
from foretell.train.worlds.physics import Painter
from foretell.train.worlds.questions import ask, family
from foretell.train.worlds.sight import count_seen, in_sight, out_of_sight


def shown_without(painter: Any, story: Any, body: int, frame: int) -> int:
    """How many pixels change where one body is taken far away."""
    states = story.trajectory.qpos[::150]
    gone = states.copy()
    rigid = sum(one.shape != "cloth" for one in story.scene.bodies)
    heights = slice(7 * body + 2, 7 * body + 3) if body < rigid else slice(7 * rigid + 2, None, 3)
    gone[:, heights] -= 50
    there, without = (painter.draw(story.model, story.look, one)[frame] for one in (states, gone))
    return int((there != without).any(-1).sum())


@pytest.mark.parametrize("name", SCENARIOS)
def test_pixels_are_counted_as_they_are_drawn(name: str) -> None:
    painter = Painter(64)
    story = find_story(SCENARIOS[name], 4, Spec(shadows=0.0))
    states = story.trajectory.qpos[::150]
    counted = painter.pixels(story.model, story.look, states, [0, 2])
    assert counted.shape == (2, len(story.scene.bodies)) and counted.sum(1).max() < 64**2 and counted.any()
    for body in range(len(story.scene.bodies)):
        for row, frame in enumerate((0, 2)):
            changed, pixels = shown_without(painter, story, body, frame), counted[row, body]
            assert abs(changed - pixels) <= 4 * np.sqrt(pixels) + 4, "but for smoothed edges"
    assert np.array_equal(painter.pixels(story.model, story.look, states, [2])[0], counted[1])
    painter.close()


def test_bullet_counts_pixels_as_it_draws_them() -> None:
    pytest.importorskip("pybullet", reason=f"wants the extra `bullet`: {bullet.EXTRA}")
    painter = bullet.Painter(64)
    story = find_story(SCENARIOS["collide"], 4, Spec(shadows=0.0, engine="bullet"), painter.play)
    states = story.trajectory.qpos[::150]
    counted = painter.pixels(story.model, story.look, states, [1])
    for body, pixels in enumerate(counted[0]):
        assert abs(shown_without(painter, story, body, 1) - pixels) <= 2


def clip(**visible: int) -> dict[str, Any]:
    """A contain clip of objects by colour, with the most pixels that each fills."""
    objects = [{"colour": colour, "shape": "ball", "half": [0.1]} for colour in visible]
    return {
        "scene": "contain-7", "scenario": "contain", "seed": 7, "video": "x.mp4", "until": 0.5, "size": 64,
        "outcome": {"name": "contained", "value": True}, "objects": objects, "visible": list(visible.values()),
        "facts": {"reason": "between the walls"}, "notes": {},
    }  # fmt: skip


def test_of_an_object_enough_shows_nothing_shows_or_it_is_doubtful() -> None:
    one = clip(red=100, blue=0, green=11)
    assert [found["colour"] for found in in_sight(one)] == ["red"]
    assert [found["colour"] for found in out_of_sight(one)] == ["blue"]
    assert count_seen(one) is None and count_seen(clip(red=100, blue=0)) == 1 and count_seen(clip(red=12, blue=99)) == 2
    assert count_seen({**clip(red=40, blue=12), "size": 128}) is None, "of larger pictures more must be filled"
    old = clip(red=1, blue=0)
    del old["visible"]
    assert count_seen(old) == 2, "of older clips it is not known"


def asked(one: dict[str, Any]) -> list[dict[str, Any]]:
    """Everything that is asked about a clip with some random stream, and in its families."""
    streams = [np.random.default_rng(seed) for seed in range(60)]
    return [more for rng in streams for row in ask(one, rng) for more in family(row, one, rng)]


def test_what_is_hidden_is_not_asked_about() -> None:
    told = asked(clip(red=100, blue=0))
    assert {row["answer"] for row in told if row["type"] == "count"} == {"1"}
    assert {row["answer"] for row in told if row["type"] == "colour"} == {"red"}
    named = [row for row in told if "blue" in row["question"]]
    assert not named, "neither its shape nor whether it is there"
    assert any("red" in row["question"] for row in told if row["type"] == "present")


def test_what_hardly_shows_is_neither_counted_nor_named() -> None:
    told = asked(clip(red=100, blue=5))
    assert not [row for row in told if row["type"] == "count"]
    assert not [row for row in told if "blue" in row["question"]]
    told = asked(clip(red=20, blue=50))
    assert {row["answer"] for row in told if row["type"] == "count"} == {"2"}
    assert not [row for row in told if row["type"] == "shape" and "red" in row["question"]], "too small for its shape"
    assert [row for row in told if row["type"] == "shape" and "blue" in row["question"]]
    told = asked(clip(red=0, blue=50))
    assert not [row for row in told if row["type"] == "colour"], "the falling object does not show"


def test_slots_say_what_shows() -> None:
    told = words_of(clip(red=100, blue=0, green=5))
    assert told["red shape"] == " ball" and told["blue shape"] == " none" and "green shape" not in told
    assert "count" not in told and told["moving"] == " red"
    assert words_of(clip(red=0, blue=50))["count"] == "1" and "moving" not in words_of(clip(red=0, blue=50))
