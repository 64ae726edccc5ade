"""Claims about planning: goals are read, proposals are a distribution, the best that was imagined is chosen."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from foretell.reasoner.actions import Nothing, Push, Remove, actions
from foretell.reasoner.answer import Answer, Calibration, Foretell
from foretell.reasoner.plan import PRESENT, NothingThere, Sight, confirmed, plan, propose, read_goal, seen, verify

from .reasoner_tiny import tiny_foretell
from .test_perception_edit import stack

ASKED = re.compile(PRESENT.format(r"(\w+)").replace("?", r"\?"))
LEFT = "make the tower fall to the left"
Frames = NDArray[np.uint8]


def clip(*colours: str, size: int = 64) -> Frames:
    """A still clip of a tower, [8, size, size, 3]."""
    return np.repeat(stack(*colours, size=size)[None], 8, axis=0)


@pytest.fixture(scope="module")
def foretell() -> Foretell:
    return tiny_foretell()


class Sees(Foretell):
    """Foretell that takes patches of some colours for objects."""

    def __init__(self, other: Foretell, *colours: str, threshold: float = 0.0) -> None:
        super().__init__(other.model, other.processor, Calibration(threshold=threshold))
        self.colours = colours

    def answer_features(self, features: Any, imagined: Any, questions: Any) -> list[list[Answer]]:
        asked = [[match[1] for question, _ in clip if (match := ASKED.fullmatch(question))] for clip in questions]
        if not any(asked):
            return super().answer_features(features, imagined, questions)
        return [[_sure("yes", "no", float(colour in self.colours)) for colour in colours] for colours in asked]


class Judge(Sees):
    """One whose answers are read off what it watches: a pile that reaches further left of the middle is likelier
    to fall, and falls to the left."""

    def watch(self, clip: object) -> tuple[torch.Tensor, None]:
        colourful = np.ptp(np.asarray(clip)[-1], axis=-1) > 60
        return torch.tensor([[[float(colourful[:, :8].sum() - colourful[:, 8:].sum())]]]), None

    def score(self, asked: object, features: torch.Tensor, imagined: object) -> list[list[list[float]]]:
        return [[[0.0] * 7, [0.0] * 7]]

    def answer_features(self, features: Any, imagined: Any, questions: Any) -> list[list[Answer]]:
        if ASKED.fullmatch(questions[0][0][0]):
            return super().answer_features(features, imagined, questions)
        odds = (features.flatten() / 20).sigmoid().tolist()
        return [[_sure("yes", "no", p), _sure("left", "right", p)] for p in odds]


def _sure(one: str, other: str, odds: float) -> Answer:
    return Answer(one if odds >= 0.5 else other, max(odds, 1 - odds), False, {one: odds, other: 1 - odds})


def test_a_goal_is_the_questions_whose_answers_it_wants() -> None:
    falls = ("Will the tower fall?", ("yes", "no"), "yes")
    assert read_goal("make the tower fall").wanted == (falls,)
    assert read_goal(f" {LEFT.capitalize()}. ").wanted == (
        falls,
        ("Which way will the tower fall?", ("left", "right"), "left"),
    )
    assert read_goal("let it not fall").wanted[0][0] == "Will it not fall?"
    for question in ("Will they touch?", "Won’t they touch?"):
        assert read_goal(question).wanted == ((question, ("yes", "no"), "yes"),)


@pytest.mark.parametrize("goal", ["", "fall", "Which way will it fall?", "make"])
def test_a_goal_that_is_none_is_refused_with_an_example(goal: str) -> None:
    with pytest.raises(ValueError, match="as in 'make the tower fall to the left'"):
        read_goal(goal)


def test_the_language_model_prefers_among_all_actions_on_what_is_seen(foretell: Foretell) -> None:
    sight = Sight.of(seen(foretell, clip("red", "blue", size=16)))
    found = propose(foretell, sight, read_goal(LEFT))
    assert [one.action for one in found] == actions(["red", "blue"])
    assert sum(one.proposed for one in found) == pytest.approx(1)
    other = propose(foretell, sight, read_goal("make the tower stay standing"))
    assert [one.proposed for one in other] != [one.proposed for one in found]


def test_each_action_is_watched_as_if_it_had_been_filmed(foretell: Foretell) -> None:
    """What is asked of an action is asked of its picture: the odds are those of a clip that shows it."""
    sight, goal = Sight.of(seen(foretell, clip("red", "blue", size=16))), read_goal("make the tower fall")
    choices = propose(foretell, sight, goal)
    for one in verify(foretell, sight, goal, choices):
        filmed = foretell.answer(sight.after(one.action), "Will the tower fall?")
        assert filmed.probabilities is not None
        assert one.reached == pytest.approx(filmed.probabilities["yes"], abs=1e-4)
        assert one.expected == {"Will the tower fall?": filmed.text}


def test_a_picture_of_an_action_shows_it_and_only_it() -> None:
    frames = clip("red", "green", "blue")
    sight = Sight.of(frames)
    assert sight.after(Nothing()) is frames
    assert np.array_equal(sight.after(Push("blue", "left"))[:8], frames)
    blue = (frames[0, 40, 30] == sight.after(Push("blue", "left"))).all(-1)  # [T, 64, 64]
    lefts = [np.flatnonzero(frame.any(0)).min() for frame in blue]
    assert lefts[:8] == [24] * 8
    assert 24 > lefts[8] > lefts[9]
    gone = sight.after(Remove("blue"))
    assert gone.shape == frames.shape
    assert not (gone == frames[0, 40, 30]).all(-1).any()


def test_the_best_that_was_imagined_is_chosen(foretell: Foretell) -> None:
    made = plan(
        Judge(foretell, "red", "blue"), clip("red", "blue", "blue", size=16), read_goal(LEFT)
    )  # the larger is blue
    assert made.best.action == Push("blue", "left")
    assert made.best.expected == {"Will the tower fall?": "yes", "Which way will the tower fall?": "left"}
    reached = [one.reached for one in made.choices if one.reached is not None]
    assert reached == sorted(reached, reverse=True)
    assert made.confidence == reached[0]


def test_what_lies_beyond_the_beam_is_not_verified(foretell: Foretell) -> None:
    made = plan(Sees(foretell, "red", "blue"), clip("red", "blue", size=16), read_goal(LEFT), beam=2)
    assert [one.reached is None for one in made.choices] == [False, False, *[True] * 5]
    proposed = [one.proposed for one in made.choices]
    assert min(proposed[:2]) >= max(proposed[2:])


def test_a_plan_abstains_below_the_threshold(foretell: Foretell) -> None:
    frames = clip("red", "blue", size=16)
    judges = [Judge(foretell, "red", "blue", threshold=threshold) for threshold in (0.0, 1.1)]
    sure, unsure = (plan(judge, frames, read_goal(LEFT)) for judge in judges)
    assert not sure.abstained and unsure.abstained


def test_nothing_to_act_on_is_an_error(foretell: Foretell) -> None:
    with pytest.raises(NothingThere, match="nothing to act on"):
        plan(foretell, np.full((8, 16, 16, 3), 90, np.uint8), read_goal(LEFT))


def test_a_patch_that_the_model_takes_for_no_object_is_left_alone(foretell: Foretell) -> None:
    frames = clip("red", "blue", size=16)
    sight = confirmed(Sees(foretell, "blue"), Sight.of(frames))
    assert all(set(objects) == {"blue"} for objects in sight.objects)
    red = Sight.of(frames).objects[-1]["red"]
    kept = [(one.bare == frames[-1]).all(-1)[red].any() for one in (sight, Sight.of(frames))]
    assert kept == [True, False], "it is a part of the scene"
    with pytest.raises(NothingThere, match=r"red and blue is found .* sees no object"):
        plan(Sees(foretell), frames, read_goal(LEFT))
