"""DESIGN's claim on outcomes: text, `until` and duration together score chance. Worlds without pictures."""

import json
from typing import Any

import numpy as np
import pytest

from foretell.eval.controls import Blind
from foretell.train.worlds import SCENARIOS, Spec
from foretell.train.worlds.generate import describe, find_story
from foretell.train.worlds.questions import ask_stream, balance

CLIPS = {name: 70 if place < 6 else 28 for place, name in enumerate(SCENARIOS)}


@pytest.fixture(scope="module")
def questions() -> list[dict[str, Any]]:
    numbered = [(SCENARIOS[name], seed) for name, count in CLIPS.items() for seed in range(count)]
    clips = [describe(find_story(scenario, seed, Spec()), seed, Spec()) for scenario, seed in numbered]
    asked = balance([row for clip in clips for row in ask_stream(clip)], np.random.default_rng(0))
    return [{**row, "duration": 1.875} for row in json.loads(json.dumps(asked))]


def test_a_trained_reader_of_the_text_scores_chance(questions: list[dict[str, Any]]) -> None:
    scenes = sorted({row["scene"] for row in questions})
    train = [row for row in questions if scenes.index(row["scene"]) % 2]
    test = [row for row in questions if not scenes.index(row["scene"]) % 2]
    guesses = Blind.fit(train).answer_rows(test)
    for kind in ("predictive", "descriptive", "explanatory"):
        hits, chance = [], []
        for row, odds in zip(test, guesses, strict=True):
            if row["kind"] == kind:
                hits.append(max(odds, key=odds.__getitem__) == row["answer"])
                chance.append(1 / len(row["options"]))
        error = (np.mean(chance) * (1 - np.mean(chance)) / len(hits)) ** 0.5
        assert len(hits) > 60, kind
        assert np.mean(hits) < np.mean(chance) + 3.5 * error, kind


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_phrasing_and_until_are_drawn_apart_from_the_outcome(scenario: str, questions: list[dict[str, Any]]) -> None:
    """Were they tied (one random stream for both), balancing would have to drop most outcome questions."""
    kept = [row for row in questions if row["scenario"] == scenario and row["type"] == SCENARIOS[scenario].outcome]
    assert len(kept) > 0.4 * CLIPS[scenario]
    few = CLIPS[scenario] < 70  # one side of the negation may have been too uneven to keep
    assert few or {row["negated"] for row in kept} == {False, True}
