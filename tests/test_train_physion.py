"""Claims about Physion's other scenarios and about hidden properties; and that the first six stayed what they were."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foretell.reasoner.answer import NANO
from foretell.train.facts import MISSING, SLOTS, Targets, slot_words, words_of
from foretell.train.worlds import SCENARIOS, Spec, generate
from foretell.train.worlds.generate import Story, check, describe, find_pair, find_story, make_clip
from foretell.train.worlds.hidden import HIDDEN
from foretell.train.worlds.parts import Scenario, Verdict, contact
from foretell.train.worlds.physics import Painter, simulate
from foretell.train.worlds.physion import PHYSION
from foretell.train.worlds.questions import ask_stream, family
from foretell.train.worlds.scenarios import FIRST
from foretell.train.worlds.scene import Body, Scene, compile_scene, draw_look

NEW = (*PHYSION, *HIDDEN)
FEW = {"drape": 4}  # a cloth is slow
CLIPS = {one.name: [(one, seed) for seed in range(40, 40 + FEW.get(one.name, 8))] for one in NEW}


@pytest.fixture(scope="module")
def stories() -> dict[str, list[Story]]:
    return {name: [find_story(one, seed, Spec()) for one, seed in some] for name, some in CLIPS.items()}


@pytest.fixture(scope="module")
def rows(stories: dict[str, list[Story]]) -> list[dict[str, Any]]:
    told = [(story, seed) for name, some in CLIPS.items() for story, (_, seed) in zip(stories[name], some, strict=True)]
    return [json.loads(json.dumps(describe(story, seed, Spec()))) for story, seed in told]


def test_the_first_six_are_what_they_were() -> None:
    """A stored sum over models and views of two seeds each: with another, published figures are of other clips."""
    told = hashlib.sha256()
    for scenario, seed in ((one, seed) for one in FIRST for seed in (0, 1)):
        rng = np.random.default_rng([seed, list(SCENARIOS).index(scenario.name)])
        scene = scenario.build(rng)
        look = draw_look(rng, scene, 0.5)
        model = compile_scene(scene, look, rng)
        told.update(model.tex_data.tobytes())
        for values in (model.geom_size, model.geom_friction, model.geom_rgba, model.body_pos, model.body_quat):
            told.update((np.round(values, 5) + 0.0).astype(np.float32).tobytes())
        view = [look.azimuth, look.elevation, look.distance, look.fovy, *look.light]
        told.update(np.array(view, np.float32).tobytes())
    assert told.hexdigest()[:16] == "ab0ef55db4f6d62e"


def test_the_usual_mix_and_the_record_of_old_folders_are_what_they_were(tmp_path: Path) -> None:
    assert Spec().scenarios == ("towers", "collide", "roll", "dominoes", "contain", "occlude") == tuple(SCENARIOS)[:6]
    check(tmp_path, 5, 7, Spec(), SCENARIOS)
    assert json.loads((tmp_path / "worlds.json").read_text()) == {
        "clips": 5, "seed": 7, "scenarios": list(Spec().scenarios), "size": 64, "frames": 16, "fps": 8.0,
        "shadows": 0.08,
    }  # fmt: skip


def test_the_slots_are_those_of_the_shipped_weights() -> None:
    assert slot_words() == json.loads((NANO / "config.json").read_text())["bridge_config"]["slots"]


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Painter:
    """A painter that has drawn a cloth."""
    painter, out = Painter(64), tmp_path_factory.mktemp("cloth")
    (out / "clips").mkdir()
    make_clip(SCENARIOS["drape"], 41, Spec(), painter, out)
    return painter


@pytest.mark.parametrize("scenario", NEW, ids=lambda one: one.name)
def test_a_new_scenario_is_a_function_of_its_seed_whatever_was_drawn_before(
    scenario: Scenario, used: Painter, tmp_path: Path
) -> None:
    for painter, folder in ((used, "one"), (Painter(64), "two")):
        (tmp_path / folder / "clips").mkdir(parents=True)
        row = make_clip(scenario, 40, Spec(), painter, tmp_path / folder)
    assert (tmp_path / "one" / row["video"]).read_bytes() == (tmp_path / "two" / row["video"]).read_bytes()


@pytest.mark.parametrize("name", CLIPS)
def test_new_outcomes_come_both_ways_and_are_decided_after_what_is_shown(
    name: str, stories: dict[str, list[Story]]
) -> None:
    for story in stories[name]:
        told = story.verdict
        assert told.clear and (told.decided is None) == (not told.outcome)
        assert told.decided is None or told.decided > story.until
        assert told.shows <= story.until
        if story.scenario.outcome == "touches":
            cloth = len(story.scene.bodies) - 1
            assert told.decided == contact(story.trajectory, 0, cloth if name == "drape" else 1)
    assert {story.verdict.outcome for story in stories[name]} == {False, True}


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_plank_tips_where_its_load_lies_beyond_the_pillar(shift: int) -> None:
    pillar = Body("blue", "box", (0.1, 0.15, 0.2), (0.0, 0.0, 0.2), density=2000.0)
    for off, falls in ((0.08, False), (0.12, True)):
        plank = Body("red", "box", (0.5, 0.15, 0.04), (shift * off, 0.0, 0.44))
        scene = Scene([pillar, plank], notes={"margins": [0.1 - off], "blocks": 2, "pillars": 1})
        look = draw_look(np.random.default_rng(0), scene, 0.0)
        trajectory = simulate(compile_scene(scene, look, np.random.default_rng(0)), scene)
        told = SCENARIOS["support"].judge(scene, trajectory, look)
        assert (told.outcome, told.facts["falls/red"], told.clear) == (falls, falls, True)


def slid(linked: bool) -> Verdict:
    """A ring that slides 1.2 m where nothing holds it, with a post inside or beside it."""
    rng = np.random.default_rng(0)
    scene = SCENARIOS["link"].build(rng)
    scene.bodies = [
        Body("red", "ring", (0.25, 0.03), (0.0, 0.0, 0.031), velocity=(1.8, 0.0, 0.0), friction=0.1),
        Body("yellow", "ball", (0.1,), (1.0, 0.0, 0.1)),
    ]
    scene.props[0].pos, scene.notes["linked"] = (0.0, 0.0 if linked else 0.4, 0.2), linked
    look = draw_look(rng, scene, 0.0)
    return SCENARIOS["link"].judge(scene, simulate(compile_scene(scene, look, rng), scene), look)


def test_a_ring_around_a_post_is_held_back_and_one_beside_it_is_not() -> None:
    held, free = slid(linked=True), slid(linked=False)
    assert (held.outcome, held.facts["reason"]) == (False, "held back")
    assert (free.outcome, free.facts["reason"]) == (True, "meets")


def test_a_cloth_lies_on_what_it_falls_on(stories: dict[str, list[Story]]) -> None:
    for story in stories["drape"]:
        ends = story.trajectory.positions[-1, -1, 2]
        assert -0.01 < ends < 0.6 * story.scene.bodies[-1].pos[2]
        assert np.isfinite(story.trajectory.qpos).all() and np.abs(story.trajectory.qpos).max() < 3


@pytest.mark.parametrize("bounce", [0.35, 0.85])
def test_a_ball_keeps_about_its_share_of_the_speed_when_it_bounces(bounce: float) -> None:
    scene = Scene([Body("red", "ball", (0.1,), (0.0, 0.0, 1.1), bounce=bounce)])
    look = draw_look(np.random.default_rng(0), scene, 0.0)
    height = simulate(compile_scene(scene, look, np.random.default_rng(0)), scene).positions[:, 0, 2] - 0.1
    bounced = int(np.argmax(np.diff(height) > 0))
    assert np.sqrt(height[bounced : bounced + 200].max()) == pytest.approx(bounce, abs=0.06)  # of a fall of 1 m


@pytest.mark.parametrize("scenario", HIDDEN, ids=lambda one: one.name)
def test_a_minimal_pair_differs_in_what_is_hidden_alone(scenario: Scenario) -> None:
    assert scenario.hide is not None
    for number in range(3):
        one, other = find_pair(scenario, number, Spec())
        assert one.verdict.outcome != other.verdict.outcome
        assert (one.until, one.look) == (other.until, other.look)
        assert scenario.hide(one.scene, True) == scenario.hide(other.scene, True)
        assert one.verdict.facts["property"] != other.verdict.facts["property"]
        painter = Painter(64)
        first, last = (0, one.trajectory.at(one.until))
        pictures = [painter.draw(s.model, s.look, s.trajectory.qpos[[first, last]]) for s in (one, other)]
        assert np.array_equal(pictures[0][0], pictures[1][0])
        assert not np.array_equal(pictures[0][1], pictures[1][1])  # and what was shown by `until` tells them apart


def test_pairs_stay_together_and_are_asked_the_same(tmp_path: Path) -> None:
    generate(tmp_path, 8, seed=10, spec=Spec(scenarios=("mass", "elasticity")), progress=False)
    clips = [json.loads(line) for line in (tmp_path / "clips.jsonl").read_text().splitlines()]
    assert [clip["pair"] for clip in clips] == [
        f"{name}-{number}" for name, number in zip(["elasticity", "mass"] * 2, (5, 6, 7, 8), strict=True) for _ in "ab"
    ]
    asked = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    ends: dict[str, list[tuple[str, str]]] = {}
    for row in asked:
        if row["type"] == "touches":
            ends.setdefault(row["pair"], []).append((row["question"], row["answer"]))
    assert len(ends) == 4
    assert all(len({q for q, _ in pair}) == 1 and {a for _, a in pair} == {"yes", "no"} for pair in ends.values())


def test_what_is_asked_of_new_scenarios_is_true_both_ways_round(rows: list[dict[str, Any]]) -> None:
    for clip in rows:
        asked = ask_stream(clip)
        assert {"predictive", "descriptive", "explanatory"} <= {row["kind"] for row in asked}
        for row in asked:
            told = family(row, clip, np.random.default_rng(0))
            if row["options"] == ["yes", "no"]:
                assert [one["negated"] == row["negated"] for one in told[:2]] == [True, False]
                assert told[0]["answer"] != told[1]["answer"]
            if row["type"] == "shape":
                assert all(one["answer"] in one["options"] for one in told)
        assert not any("ring" in row["options"] or "cloth" in row["options"] for row in asked)


def test_new_clips_say_only_words_that_their_slots_have(rows: list[dict[str, Any]]) -> None:
    for clip in rows:
        told = words_of(clip)
        assert all(word in SLOTS[slot] for slot, word in told.items())
        assert "outcome" in told and "scene" not in told
    unnamed = [clip for clip in rows if clip["scenario"] in ("link", "drape")]
    place = list(SLOTS).index("red shape")
    assert (Targets.of(unnamed).words[:, place] == MISSING).all()
