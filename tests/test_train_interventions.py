"""Claims about interventions: nothing done changes nothing, the past stays, and what is done has its effect."""

from typing import Any

import numpy as np
import pytest

from foretell.reasoner.actions import Nothing, Push, Remove, actions
from foretell.train.worlds import SCENARIOS, Spec
from foretell.train.worlds.generate import Story, find_story
from foretell.train.worlds.interventions import intervene, removable, without
from foretell.train.worlds.physics import Painter, Trajectory, simulate
from foretell.train.worlds.scene import compile_scene


@pytest.fixture(scope="module")
def painter() -> Painter:
    return Painter(64)


@pytest.fixture(scope="module")
def towers() -> list[Story]:
    return [find_story(SCENARIOS["towers"], seed, Spec()) for seed in range(6)]


@pytest.fixture(scope="module")
def standing(towers: list[Story]) -> Story:
    return next(one for one in towers if not one.verdict.outcome and one.scene.notes["blocks"] > 2)


def colours(story: Story) -> list[str]:
    """Of a tower's blocks, from below."""
    return [body.colour for body in story.scene.bodies[: story.scene.notes["blocks"]]]


def same(one: Trajectory, other: Trajectory, steps: int) -> bool:
    return np.array_equal(one.qpos[:steps], other.qpos[:steps])


@pytest.mark.parametrize("name", SCENARIOS)
def test_doing_nothing_gives_the_same_story_bit_for_bit(name: str) -> None:
    story = find_story(SCENARIOS[name], 7, Spec())
    again = intervene(story, Nothing(), story.until)
    assert same(again.trajectory, story.trajectory, len(story.trajectory.qpos))
    assert again.trajectory.contacts == story.trajectory.contacts
    assert (again.verdict.outcome, again.verdict.decided) == (story.verdict.outcome, story.verdict.decided)
    assert again.verdict.facts == {key: fact for key, fact in story.verdict.facts.items() if key != "reason"}


@pytest.mark.parametrize("time", [0.0, 0.25, 1.5])
def test_the_past_stays_as_it_was_bit_for_bit(towers: list[Story], time: float) -> None:
    """Also where the world had come to rest before."""
    for story in towers[:4]:
        steps = story.trajectory.at(time) + 1
        pushed = intervene(story, Push(colours(story)[-1], "left"), time).trajectory
        assert same(pushed, story.trajectory, steps)
        assert not same(pushed, story.trajectory, steps + 1)


def test_an_intervention_at_rest_tells_contacts_by_the_clock() -> None:
    """A world that rests is not simulated on, but its time goes by."""
    story = next(
        one
        for one in (find_story(SCENARIOS["collide"], seed, Spec()) for seed in range(40))
        if np.array_equal(one.trajectory.qpos[-1], one.trajectory.qpos[-100]) and not one.verdict.outcome
    )

    def meet(data: Any) -> None:
        data.qpos[:3] = data.qpos[7:10]

    path = simulate(story.model, story.scene, act=(500, meet))
    assert path.contacts[0, 1] == pytest.approx(501 * 0.005)


def test_taking_the_bottom_block_away_makes_a_tower_fall_and_the_top_one_does_not(standing: Story) -> None:
    bottom, *_, top = colours(standing)
    assert intervene(standing, Remove(bottom), standing.until).verdict.outcome
    left = intervene(standing, Remove(top), standing.until)
    assert not left.verdict.outcome
    assert top not in [body.colour for body in left.scene.bodies]
    assert f"falls/{top}" not in left.verdict.facts
    assert left.verdict.facts["blocks"] == left.verdict.facts["standing"] == len(colours(standing)) - 1


def test_what_would_have_been_without_a_block_is_what_is_without_it(standing: Story) -> None:
    """Taken away before anything moves, it leaves the world in which it never was."""
    away = intervene(standing, Remove(colours(standing)[0]), 0.0)
    scene = without(standing.scene, 0)
    alone = simulate(compile_scene(scene, standing.look, np.random.default_rng(0)), scene)
    assert away.scene == scene
    assert np.allclose(away.trajectory.positions[:100], alone.positions[:100], atol=1e-3)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_top_block_falls_to_the_side_it_is_pushed_to(towers: list[Story], side: str) -> None:
    pushed = [intervene(one, Push(colours(one)[-1], side), one.until) for one in towers if not one.verdict.outcome]  # type: ignore[arg-type]
    assert len(pushed) > 1
    assert all(one.verdict.facts.get("direction") in (side, None) for one in pushed)
    assert any(one.verdict.facts.get("direction") == side for one in pushed)


def test_a_push_goes_where_the_camera_sees_it_go(standing: Story, painter: Painter) -> None:
    top = colours(standing)[-1]
    at, later = standing.trajectory.at(standing.until), standing.trajectory.at(standing.until + 0.1)
    seen = []
    for side in ("left", "right"):
        path = intervene(standing, Push(top, side), standing.until).trajectory.qpos
        before, after = painter.draw(standing.model, standing.look, path[[at, later]]).astype(float)
        changed = np.abs(after - before).sum(-1)
        seen.append((changed.sum(0) * np.arange(64)).sum() / changed.sum())
    assert seen[0] < seen[1]


def test_what_an_outcome_is_about_cannot_be_taken_away() -> None:
    story = find_story(SCENARIOS["collide"], 1, Spec())
    assert not {"red", "yellow"} & set(removable(story))
    with pytest.raises(ValueError, match="cannot be taken away; those that can"):
        intervene(story, Remove("red"), story.until)
    missing = next(one for one in ("white", "green", "blue") if one not in [b.colour for b in story.scene.bodies])
    with pytest.raises(ValueError, match=f"nothing {missing} is there"):
        intervene(story, Push(missing, "left"), story.until)


def test_the_typed_set_is_to_wait_to_take_away_and_to_push_either_way() -> None:
    found = actions(["red", "blue"])
    assert len(found) == len(set(found)) == 7
    assert [str(one) for one in found[:4]] == [
        "Do nothing",
        "Take the red block away",
        "Push the red block to the left",
        "Push the red block to the right",
    ]
