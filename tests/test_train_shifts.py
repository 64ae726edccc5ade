"""Claims about the shifted tests: something new to see, the same stories and rules."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from foretell.eval.probe import variables_of
from foretell.train.facts import SLOTS, words_of
from foretell.train.worlds import SCENARIOS, SHIFTS, Spec, generate
from foretell.train.worlds.generate import describe, find_story, make_clip
from foretell.train.worlds.physics import Painter
from foretell.train.worlds.questions import ask_stream
from foretell.train.worlds.scene import COLOURS, SHAPES, Look, draw_look, project

RIGID = [name for name in SCENARIOS if name != "drape"]


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shifted_clip_is_a_function_of_its_seed(shift: str, tmp_path: Path) -> None:
    painter = Painter(64)
    for folder in ("plain", "one", "two"):
        (tmp_path / folder / "clips").mkdir(parents=True)
        spec = Spec(shift=None if folder == "plain" else shift)
        row = make_clip(SCENARIOS["collide"], 3, spec, painter, tmp_path / folder)
    plain, one, two = ((tmp_path / folder / row["video"]).read_bytes() for folder in ("plain", "one", "two"))
    assert one == two != plain


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("name", RIGID)
def test_shifted_worlds_keep_their_rules(shift: str, name: str) -> None:
    spec = Spec(shift=shift)
    for seed in (60, 61):
        story = find_story(SCENARIOS[name], seed, spec)
        assert story.verdict.clear
        assert story.verdict.decided is None or story.verdict.decided > story.until
        clip = json.loads(json.dumps(describe(story, seed, spec)))
        asked = ask_stream(clip)
        assert {row["kind"] for row in asked} == {"predictive", "descriptive", "explanatory"}
        assert all(word in SLOTS[slot] for slot, word in words_of(clip).items())
        assert variables_of(clip)[SCENARIOS[name].outcome] == story.verdict.outcome
        if shift == "shapes":
            assert not any(one["shape"] in SHAPES for one in clip["objects"])
            assert not any(row["type"] == "shape" for row in asked)


def test_another_camera_shows_the_same_scene_as_without_it() -> None:
    """Where the camera is no part of the outcome: what it costs can be counted clip by clip."""
    for seed in range(4):
        one, other = (find_story(SCENARIOS["towers"], seed, Spec(shift=shift)) for shift in (None, "camera"))
        assert (one.scene, one.until, one.verdict.outcome) == (other.scene, other.until, other.verdict.outcome)
        assert other.look.elevation < -40 and not 28 <= other.look.fovy <= 60


def told(look: Look) -> tuple[float, float, float]:
    """How far above the ground, how far to the side, how wide."""
    return -look.elevation, abs(look.azimuth % 180 - 90), float(np.log(look.fovy))


def test_views_to_learn_from_come_from_everywhere_and_hold_what_the_test_looks_from() -> None:
    scene, rng = SCENARIOS["collide"].build(np.random.default_rng(0)), np.random.default_rng(1)
    seen = [draw_look(rng, scene, 0.0) for _ in range(400)]
    views = [SHIFTS["views"].look(look, scene, rng) for look in seen]
    tests = [SHIFTS["camera"].look(look, scene, rng) for look in seen]
    for place in range(3):
        low, high = np.quantile([told(one)[place] for one in views], (0.02, 0.98))
        before = np.quantile([told(one)[place] for one in seen if not one.flat], (0.02, 0.98))
        assert high - low > 1.5 * np.ptp(before)
        assert np.mean([low < told(one)[place] < high for one in tests]) > 0.5
    low = replace(scene, camera_low=True)
    assert all(SHIFTS["views"].look(look, low, rng).elevation > -15 for look in seen)


def test_a_turning_camera_is_told_in_the_states() -> None:
    story = find_story(SCENARIOS["collide"], 1, Spec(shift="camera"))
    story.look = replace(story.look, pan=30.0)
    states = np.array(describe(story, 1, Spec())["states"])  # [16, n, 9]
    step = story.trajectory.at(15 / 8)
    seen = project(story.trajectory.positions[step], story.look.panned(1.0))
    assert np.allclose(states[-1, :, 7:], seen, atol=1e-3)
    assert not np.allclose(states[-1, :, 7:], project(story.trajectory.positions[step], story.look), atol=1e-2)


def test_colours_keep_their_names_under_other_textures() -> None:
    """Of all named colours the nearest hue of a painted body is its own."""
    for seed in range(6):
        story = find_story(SCENARIOS["collide"], seed, Spec(shift="shapes", shadows=0.0))
        plain = find_story(SCENARIOS["collide"], seed, Spec(shadows=0.0))
        bodies = story.model.geom_bodyid
        for body, one in enumerate(story.scene.bodies, start=1):
            rgb = story.model.geom_rgba[np.flatnonzero(bodies == body)[0], :3]
            assert nearest(rgb) == one.colour
        assert story.model.tex_data.shape == plain.model.tex_data.shape


def nearest(rgb: NDArray[np.float32]) -> str:
    """The named colour that is nearest at full brightness."""
    bright = {name: np.array(one) / max(one) for name, one in COLOURS.items()}
    return min(bright, key=lambda name: float(np.linalg.norm(bright[name] - rgb / rgb.max())))


def test_a_folder_says_its_shift(tmp_path: Path) -> None:
    generate(tmp_path, 2, seed=0, spec=Spec(scenarios=("collide",), shift="camera"), progress=False)
    assert json.loads((tmp_path / "worlds.json").read_text())["shift"] == "camera"
    with pytest.raises(ValueError, match="holds other worlds"):
        generate(tmp_path, 2, seed=0, spec=Spec(scenarios=("collide",)), progress=False)
    with pytest.raises(ValueError, match="unknown shift fog; allowed: views, shapes, camera"):
        generate(tmp_path / "other", 2, seed=0, spec=Spec(shift="fog"), progress=False)
