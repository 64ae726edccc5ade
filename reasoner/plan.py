"""A goal in, a plan out: what to do so that something comes about (the first form: one action, now).

Patches of one colour are found in the frames, and the model is asked which of them are objects. The language model
proposes: of the typed set of actions on these, those are tried first that it
finds likelier with the goal in mind than without. Each is then pictured in the shown frames and watched as if it had
been filmed: the encoder sees it, its predictor imagines what follows (where the bridge reads that: the embedded one
does not), and the model answers whether the goal comes true. The action with the best odds is the plan. No simulator is
asked, and no model was trained on what is asked here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..perception.edit import Mask, find_objects, ground, moved, taken_out, width
from ..perception.encoder import resize
from ..perception.video import Clip
from .actions import SIDES, Action, Nothing, Remove, actions
from .answer import YES_NO, Foretell, Question, is_yes_no

BEAM = 12
"""Actions that are verified, the likeliest ones first."""
SLIDE = 1.0
"""How far a pushed object is pictured to slide, in widths of its own."""
PUSHED = 2
"""Frames that picture a push."""
PRESENT = "Is there a {} object?"
"""Asked of every colour that is found."""
_GOAL = re.compile(r"(?:make|let|have)\s+(?P<clause>.+?)(?:\s+to\s+the\s+(?P<side>left|right))?[.!]?", re.IGNORECASE)

Frames = NDArray[np.uint8]  # [T, S, S, 3]


class NothingThere(ValueError):
    """No object is seen that could be acted on."""


@dataclass(frozen=True)
class Goal:
    """What should come about: questions, their options, and the answers that are wanted, all of them at once."""

    text: str
    wanted: tuple[tuple[str, tuple[str, ...], str], ...]

    @property
    def questions(self) -> list[Question]:
        return [(question, options) for question, options, _ in self.wanted]


@dataclass(frozen=True)
class Choice:
    """An action that was considered.

    proposed: its share of the language model's preference. reached: how likely the goal then comes true, expected: the
    answers to the goal's questions; None and empty where it was not verified.
    """

    action: Action
    proposed: float
    reached: float | None = None
    expected: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Plan:
    """What to do; `choices` holds the best first, those that were not verified last. abstained: too unsure to be relied
    on."""

    goal: Goal
    choices: tuple[Choice, ...]
    abstained: bool

    @property
    def best(self) -> Choice:
        return self.choices[0]

    @property
    def confidence(self) -> float:
        """The chance that the best action reaches the goal, as the model sees it."""
        assert self.best.reached is not None, self.best
        return self.best.reached

    def told(self) -> dict[str, Any]:
        """What is written down: the action and what it is expected to lead to, then all that was considered."""
        return {
            "action": str(self.best.action),
            "expected": self.best.expected,
            "confidence": self.confidence,
            "abstained": self.abstained,
            "considered": [
                {"action": str(one.action), "proposed": one.proposed, "reached": one.reached, "expected": one.expected}
                for one in self.choices
            ],
        }


@dataclass(frozen=True)
class Sight:
    """What is there to act on: the shown frames, where the objects are in each, and the last one without any."""

    frames: Frames
    objects: Sequence[Mapping[str, Mask]]
    bare: Frames  # [S, S, 3]

    @classmethod
    def of(cls, frames: Frames) -> "Sight":
        """Raises NothingThere where no object is found."""
        objects = [find_objects(frame) for frame in frames]
        if not objects[-1]:
            raise NothingThere("no coloured object is found in the last frame shown, so there is nothing to act on")
        return cls(frames, objects, ground(frames[-1], objects[-1]))

    def only(self, colours: Sequence[str]) -> "Sight":
        """With no objects but those of these colours."""
        objects = [{colour: mask for colour, mask in frame.items() if colour in colours} for frame in self.objects]
        return Sight(self.frames, objects, ground(self.frames[-1], objects[-1]))

    def after(self, action: Action) -> Frames:
        """The frames as an action would make them; as many as before, or some more at the end."""
        if isinstance(action, Nothing):
            return self.frames
        now = self.objects[-1][action.colour]
        if isinstance(action, Remove):
            masks = [objects.get(action.colour, now) for objects in self.objects]
            return np.stack([taken_out(*both, self.bare) for both in zip(self.frames, masks, strict=True)])
        reach = SLIDE * width(now) * (1 if action.side == "right" else -1)
        pushed = [moved(self.frames[-1], now, self.bare, round(reach * part)) for part in _braking(PUSHED)]
        return np.concatenate([self.frames, pushed])


def _braking(frames: int) -> NDArray[np.float64]:
    """How much of its way something has gone at each frame, if it is braked evenly and stops at the last."""
    return 1 - (1 - np.arange(1, frames + 1) / frames) ** 2


def read_goal(text: str) -> Goal:
    """'make the tower fall to the left' as: Will the tower fall? yes; Which way will the tower fall? left.

    A yes/no question is a goal too: that its answer be yes. Raises ValueError for anything else.
    """
    text = " ".join(text.split())
    if text.endswith("?") and is_yes_no(text):
        return Goal(text, ((text, YES_NO, "yes"),))
    found = _GOAL.fullmatch(text)
    if found is None:
        raise ValueError(
            f"the goal {text!r} is not understood: write what to make happen, as in 'make the tower fall to the left' "
            "or 'make the tower stay standing', or a yes/no question whose answer should be yes"
        )
    clause, side = found["clause"], found["side"]
    comes_true = (f"Will {clause}?", YES_NO, "yes")
    return Goal(text, (comes_true, (f"Which way will {clause}?", SIDES, side.lower())) if side else (comes_true,))


def plan(foretell: Foretell, clip: Clip | Frames, goal: Goal, beam: int = BEAM) -> Plan:
    """The action most likely to reach a goal, of those that the language model proposes first (`beam` of them).

    clip: as for Foretell.answer. Raises NothingThere.
    """
    sight = confirmed(foretell, Sight.of(seen(foretell, clip)))
    proposed = sorted(propose(foretell, sight, goal), key=lambda one: -one.proposed)
    tried = sorted(verify(foretell, sight, goal, proposed[:beam]), key=lambda one: -(one.reached or 0.0))
    unsure = (tried[0].reached or 0.0) < foretell.calibration.threshold
    return Plan(goal, (*tried, *proposed[beam:]), unsure)


def confirmed(foretell: Foretell, sight: Sight) -> Sight:
    """Without what the model takes for no object: a patch of colour may be a wall, a shirt or the sky. Raises
    NothingThere where that leaves none."""
    colours = [*sight.objects[-1]]
    questions: list[Question] = [(PRESENT.format(colour), YES_NO) for colour in colours]
    (answers,) = foretell.answer_features(*foretell.watch(sight.frames), [questions])
    there = [colour for colour, one in zip(colours, answers, strict=True) if one.text == "yes"]
    if not there:
        raise NothingThere(
            f"{' and '.join(colours)} is found in the last frame shown, but the model sees no object of such a colour, "
            "so there is nothing to act on: it plans for blocks, balls and cylinders of one colour each"
        )
    return sight.only(there)


def seen(foretell: Foretell, clip: Clip | Frames) -> Frames:
    """The last frames of a clip at the encoder's own size."""
    frames = clip.frames if isinstance(clip, Clip) else clip
    size = foretell.model.config.vision_config.crop_size
    return resize(torch.from_numpy(np.ascontiguousarray(frames[-foretell.frames :])), size).numpy()


def propose(foretell: Foretell, sight: Sight, goal: Goal) -> list[Choice]:
    """Every action on the objects seen, with the language model's preference for it.

    Preference is how much likelier, a token, its words become once the goal is told in place of no goal in particular:
    likelihood alone prefers short and common words (Holtzman et al. 2021, arXiv 2104.08315, section 3).
    """
    known = actions(sight.objects[-1])
    words = [str(one) for one in known]
    asked = [foretell.ask(f"What should be done to {end}?", words) for end in (_told(goal), "make something happen")]
    told, untold = (torch.tensor(scores) for scores in foretell.score([asked], *foretell.watch(sight.frames))[0])
    shares = (told - untold).softmax(0).tolist()
    return [Choice(action, share) for action, share in zip(known, shares, strict=True)]


def _told(goal: Goal) -> str:
    """A goal as it goes on after "What should be done to"."""
    asks = goal.text.endswith("?")
    return f'get a yes to "{goal.text}"' if asks else goal.text.rstrip(".!").lower()


def verify(foretell: Foretell, sight: Sight, goal: Goal, choices: Sequence[Choice]) -> list[Choice]:
    """Watch what each action would look like, and ask the goal's questions of it."""
    features, imagined = zip(*(foretell.watch(sight.after(one.action)) for one in choices), strict=True)
    expected = [one for one in imagined if one is not None]  # all of them, or none where imagination is off
    answers = foretell.answer_features(
        torch.cat(features), torch.cat(expected) if expected else None, [goal.questions] * len(choices)
    )
    verified = []
    for choice, given in zip(choices, answers, strict=True):
        odds = [(one.probabilities or {})[want] for one, (*_, want) in zip(given, goal.wanted, strict=True)]
        told = {question: one.text for one, (question, _) in zip(given, goal.questions, strict=True)}
        verified.append(Choice(choice.action, choice.proposed, float(np.prod(odds)), told))
    return verified
