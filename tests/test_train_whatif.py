"""Claims about questions of what would happen: exact, answerable, balanced, and beside worlds that stay as they are."""

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foretell.reasoner.actions import Push, Remove
from foretell.train.pairs import read_samples
from foretell.train.worlds import SCENARIOS, Spec, generate
from foretell.train.worlds.generate import Story, find_story
from foretell.train.worlds.interventions import intervene
from foretell.train.worlds.questions import balance
from foretell.train.worlds.scene import COLOURS
from foretell.train.worlds.whatif import LISTING, ask_whatif, write_whatif

Row = dict[str, Any]


@pytest.fixture(scope="module")
def asked() -> list[tuple[Story, Row]]:
    found = []
    for seed in range(12):
        story = find_story(SCENARIOS["towers"], seed, Spec())
        found += [(story, row) for row in ask_whatif(story, seed)]
    return found


def of(asked: list[tuple[Story, Row]], type_: str) -> list[tuple[Story, Row]]:
    some = [(story, row) for story, row in asked if row["type"].startswith(type_)]
    assert some
    return some


def colour_in(question: str) -> str:
    return next(colour for colour in COLOURS if re.search(rf"\b{colour}\b", question))


def side_in(question: str) -> str:
    return "left" if re.search(r"\bleft\b", question) else "right"


def test_had_it_not_been_there_is_answered_by_a_world_without_it(asked: list[tuple[Story, Row]]) -> None:
    for story, row in of(asked, "absent"):
        falls = intervene(story, Remove(colour_in(row["question"])), 0.0).verdict.outcome
        assert row["answer"] == ("yes" if falls != row["negated"] else "no")
        assert row["kind"] == "counterfactual"


def test_if_it_is_pushed_is_answered_by_a_world_in_which_it_is(asked: list[tuple[Story, Row]]) -> None:
    for story, row in [*of(asked, "pushed"), *of(asked, "direction_pushed")]:
        push = Push(colour_in(row["question"]), side_in(row["question"]))  # type: ignore[arg-type]
        verdict = intervene(story, push, story.until).verdict
        if row["type"] == "pushed":
            assert row["answer"] == ("yes" if verdict.outcome != row["negated"] else "no")
        else:
            assert (row["type"], row["answer"]) == (f"direction_pushed_{push.side}", verdict.facts["direction"])


def test_which_block_has_one_right_option(asked: list[tuple[Story, Row]]) -> None:
    for story, row in of(asked, "safe"):
        safe = [not intervene(story, Remove(one), story.until).verdict.outcome for one in row["options"]]
        assert [one for one, good in zip(row["options"], safe, strict=True) if good] == [row["answer"]]
    for story, row in of(asked, "which_push"):
        side = side_in(row["question"])
        acts = [Push(one, side) for one in row["options"]]  # type: ignore[arg-type]
        falls = [intervene(story, act, story.until).verdict.facts.get("direction") == side for act in acts]
        assert [one for one, good in zip(row["options"], falls, strict=True) if good] == [row["answer"]]


def test_a_negated_question_says_so(asked: list[tuple[Story, Row]]) -> None:
    words = ("standing", "held", "nothing", "stay up", "hold")
    for _, row in asked:
        if row["options"] == ["yes", "no"]:
            assert any(word in row["question"] for word in words) == row["negated"]
    assert len({row["question"] for _, row in asked}) > 20


def test_other_scenarios_are_asked_about_what_their_outcome_can_do_without() -> None:
    chain = [row for seed in range(3) for row in ask_whatif(find_story(SCENARIOS["dominoes"], seed, Spec()), seed)]
    assert [row["type"] for row in chain] == ["absent"] * 3
    assert all("domino" in row["question"] for row in chain)
    assert ask_whatif(find_story(SCENARIOS["roll"], 0, Spec()), 0) == []


def test_answers_are_balanced_as_all_questions_are(asked: list[tuple[Story, Row]]) -> None:
    many = [{**row, "id": f"{row['id']}-{copy}"} for copy in range(2) for _, row in asked]
    strata: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
    for row in balance(many, np.random.default_rng(0)):
        strata[row["type"], row["negated"], row["until"]][row["answer"]] += 1
    assert strata
    assert all(len(set(counts.values())) == 1 for counts in strata.values())


def test_the_questions_lie_beside_worlds_that_stay_as_they_are_and_can_be_trained_on(tmp_path: Path) -> None:
    spec, out = Spec(("towers",)), tmp_path / "worlds"
    generate(out, 12, 0, spec, progress=False)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    count = write_whatif(out, 12, 0, spec, progress=False)
    rows = [json.loads(line) for line in (out / LISTING).read_text().splitlines()]
    assert len(rows) == count > 0
    assert all(path.read_bytes() == content for path, content in before.items())
    assert all((out / row["video"]).is_file() for row in rows)
    until = {clip["scene"]: clip["until"] for clip in map(json.loads, (out / "clips.jsonl").read_text().splitlines())}
    assert all(row["until"] == until[row["scene"]] for row in rows)
    assert len(read_samples(out / LISTING, tmp_path)) == count


def test_the_questions_are_about_the_clips_that_are_there_where_pairs_take_turns_too(tmp_path: Path) -> None:
    spec = Spec(("towers", "mass"))
    generate(tmp_path, 4, 3, spec, progress=False)
    write_whatif(tmp_path, 4, 3, spec, progress=False)
    asked = [json.loads(line) for line in (tmp_path / "interventions/parts/00000.jsonl").read_text().splitlines()]
    assert {row["scene"] for row in asked} == {"towers-4", "towers-5"}
    assert all((tmp_path / row["video"]).is_file() for row in asked)
