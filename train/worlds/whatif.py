"""Questions about what would happen if something were done, or had not been there: answered by simulating again.

Counterfactual: an object had never been there. Interventional: one is taken away or pushed after the last frame shown.
"""

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np

from ...reasoner.actions import SIDES, Action, Push, Remove
from .generate import Spec, Story, find_story, make_all, scenario_of
from .interventions import intervene, removable
from .parts import Verdict
from .physics import Painter
from .questions import YES_NO, Row, balance
from .scene import Rng

Phrasings = tuple[str, ...]

LISTING = "interventions.jsonl"
OUTCOMES: dict[str, tuple[Phrasings, Phrasings]] = {
    "towers": (
        ("would the tower have fallen?", "would any other block have fallen?", "would the rest have come down?"),
        ("would the tower have stayed standing?", "would the other blocks have held?", "would nothing have fallen?"),
    ),
    "collide": (
        ("would the red object have touched the yellow one?", "would red have hit yellow?", "would they have touched?"),
        ("would the red object have missed the yellow one?", "would red and yellow have stayed apart?"),
    ),
    "dominoes": (
        ("would the {last} domino have fallen?", "would the last domino have been knocked over?"),
        ("would the {last} domino have stayed upright?", "would the last domino have stayed standing?"),
    ),
}
"""How it would have ended, of the scenarios that have objects to do without; and the negation."""
ABSENT: Phrasings = (
    "Had the {colour} {noun} not been there, ",
    "If the {colour} {noun} had not been there, ",
    "Without the {colour} {noun}, ",
)
PUSHED: Phrasings = (
    "If the {colour} block is pushed to the {side}, ",
    "If somebody pushes the {colour} block {side}, ",
)
FALL: tuple[Phrasings, Phrasings] = (
    ("will the tower fall?", "will any block fall?", "does the tower come down?"),
    ("will the tower stay standing?", "will all of the blocks stay up?", "does the tower hold?"),
)
WHICH_WAY: Phrasings = ("which way will the tower fall?", "to which side does the tower fall?")
SAFE: Phrasings = (
    "Which block can be taken away safely?",
    "Which block can be taken away so that the others stay up?",
    "Which block must be taken away so that no other falls?",
)
WHICH_PUSH: Phrasings = (
    "Which block must be pushed to the {side} to make the tower fall to the {side}?",
    "Which block makes the tower fall to the {side} if it is pushed there?",
)


def ask_whatif(story: Story, seed: int) -> list[Row]:
    """Every question of this kind that a clip can answer, as rows of questions.jsonl."""
    rng, name = np.random.default_rng([seed, 100, 1]), story.scenario.name
    if name not in OUTCOMES:
        return []
    scene = f"{name}-{seed}"
    common = {"video": f"clips/{scene}.mp4", "scene": scene, "scenario": name, "until": story.until}
    sources = (_absent, _pushed, _safe, _which_push) if name == "towers" else (_absent,)
    rows = [row for source in sources for row in source(rng, story)]
    return [{"id": f"{scene}-if{number}", **common, **row} for number, row in enumerate(rows)]


def _absent(rng: Rng, story: Story) -> list[Row]:
    """Had something not been there; of a tower every other time its top block, without which much can happen."""
    colours = removable(story)
    if not colours:
        return []
    top = story.scene.notes["blocks"] - 1 if story.scenario.name == "towers" else 0
    place = top if rng.random() < 0.5 else int(rng.integers(len(colours)))
    verdict = intervene(story, Remove(colours[place]), 0.0).verdict
    noun = {"towers": "block", "dominoes": "domino"}.get(story.scenario.name, "object")
    names = {"colour": colours[place], "noun": noun, "last": story.scene.bodies[-1].colour}
    outcome = OUTCOMES[story.scenario.name]
    return [_yes_no(rng, "counterfactual", "absent", verdict.outcome, ABSENT, outcome, names)]


def _pushed(rng: Rng, story: Story) -> list[Row]:
    """If one block is pushed: does the tower fall, and which way. A type a side: the side must not tell the way."""
    push = Push(_any(rng, _blocks(story)), SIDES[int(rng.integers(2))])
    verdict, names = intervene(story, push, story.until).verdict, vars(push)
    rows = [_yes_no(rng, "interventional", "pushed", verdict.outcome, PUSHED, FALL, names)]
    if "direction" in verdict.facts:
        question = (_any(rng, PUSHED) + _any(rng, WHICH_WAY)).format(**names)
        rows.append(
            _row("interventional", f"direction_pushed_{push.side}", question, SIDES, verdict.facts["direction"])
        )
    return rows


def _safe(rng: Rng, story: Story) -> list[Row]:
    """The one block without which the others stay up."""
    return _only(rng, story, "safe", SAFE, Remove, lambda verdict: not verdict.outcome)


def _which_push(rng: Rng, story: Story) -> list[Row]:
    """The one block that brings the tower down to a side when pushed there."""
    side = SIDES[int(rng.integers(2))]
    asked = tuple(one.format(side=side) for one in WHICH_PUSH)
    falls = partial(_falls_to, side)
    return _only(rng, story, "which_push", asked, lambda colour: Push(colour, side), falls)


def _falls_to(side: str, verdict: Verdict) -> bool:
    return bool(verdict.facts.get("direction") == side)


def _only(
    rng: Rng,
    story: Story,
    type_: str,
    asked: Phrasings,
    act: Callable[[str], Action],
    wanted: Callable[[Verdict], bool],
) -> list[Row]:
    """Which block, acted on, brings about what is wanted: asked of three blocks of which one does."""
    works = {colour: wanted(intervene(story, act(colour), story.until).verdict) for colour in _blocks(story)}
    right = [colour for colour, good in works.items() if good]
    wrong = [colour for colour, good in works.items() if not good]
    if len(wrong) < 2 or not right:
        return []
    answer = _any(rng, right)
    options = rng.permutation([answer, *rng.permutation(wrong)[:2]]).tolist()
    return [_row("interventional", type_, _any(rng, asked), options, answer)]


def _blocks(story: Story) -> list[str]:
    """Colours of a tower's blocks, from below."""
    return [body.colour for body in story.scene.bodies[: story.scene.notes["blocks"]]]


def _any(rng: Rng, some: Phrasings | list[str]) -> str:
    return some[int(rng.integers(len(some)))]


def _yes_no(
    rng: Rng, kind: str, type_: str, truth: bool, first: Phrasings, then: tuple[Phrasings, Phrasings], names: Row
) -> Row:
    negated = bool(rng.random() < 0.4)
    question = (_any(rng, first) + _any(rng, then[negated])).format(**names)
    return _row(kind, type_, question, YES_NO, YES_NO[truth == negated], negated)


def _row(kind: str, type_: str, question: str, options: Iterable[str], answer: str, negated: bool = False) -> Row:
    return {
        "kind": kind, "type": type_, "question": question, "options": list(options), "answer": answer,
        "negated": negated,
    }  # fmt: skip


def _numbered(number: int, painter: Painter, seed: int, spec: Spec) -> list[Row]:
    return ask_whatif(find_story(scenario_of(number, seed, spec), seed + number, spec), seed + number)


def write_whatif(out: Path, clips: int, seed: int, spec: Spec, workers: int = 1, progress: bool = True) -> int:
    """out/interventions.jsonl, balanced as questions.jsonl is, about the clips that `generate` makes of the same
    request; resumable by parts. Returns how many questions."""
    parts = out / "interventions"
    (parts / "parts").mkdir(parents=True, exist_ok=True)
    asked = make_all(parts, clips, spec, partial(_numbered, seed=seed, spec=spec), workers, progress)
    questions = balance(asked, np.random.default_rng([seed, 105]))
    (out / LISTING).write_text("".join(json.dumps(question) + "\n" for question in questions))
    return len(questions)
