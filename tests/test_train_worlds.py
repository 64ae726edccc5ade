"""Claims about the worlds: deterministic, balanced, decided after what is shown, and no leak of the future."""

import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from foretell.train.worlds import SCENARIOS, Spec, generate
from foretell.train.worlds.generate import Story, encode, find_story, make_clip
from foretell.train.worlds.parts import sunk
from foretell.train.worlds.physics import Painter, simulate
from foretell.train.worlds.questions import ask, balance
from foretell.train.worlds.scenarios import margins
from foretell.train.worlds.scene import Body, compile_scene, draw_look, project


@pytest.fixture(scope="module")
def painter() -> Painter:
    return Painter(64)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("worlds") / "data"
    generate(out, 24, seed=3, preview=out.parent / "sheet.png", progress=False)
    return out


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def decode(path: Path) -> NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def draw(painter: Painter, story: Story) -> NDArray[np.uint8]:
    return painter.draw(story.model, story.look, story.trajectory.qpos[::150])


def test_a_clip_is_a_function_of_scenario_and_seed(world: Path, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    last = json.loads((world / "clips.jsonl").read_text().splitlines()[-1])
    again = make_clip(SCENARIOS[last["scenario"]], last["seed"], Spec(), Painter(64), tmp_path)
    assert json.loads(json.dumps(again)) == last
    assert (tmp_path / last["video"]).read_bytes() == (world / last["video"]).read_bytes()


def test_drawing_does_not_depend_on_what_was_drawn_before(painter: Painter) -> None:
    stories = [find_story(scenario, 11, Spec(shadows=1.0)) for scenario in SCENARIOS.values()]
    in_turn = [draw(painter, story) for story in stories]
    fresh = Painter(64)
    assert np.array_equal(in_turn[-1], draw(fresh, stories[-1]))
    assert np.array_equal(in_turn[0], draw(fresh, stories[0]))


def test_triton_can_be_imported_after_drawing() -> None:
    """Mesa's LLVM and triton's in the wrong order end in a segmentation fault."""
    code = "from foretell.train.worlds.physics import Painter; Painter(64); import torch._dynamo, torch; import triton"
    pytest.importorskip("triton")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_first_frame_shows_the_scene_not_empty_sky(world: Path) -> None:
    for row in rows(world / "clips.jsonl"):
        frames = decode(world / str(row["video"]))
        assert len(frames) == 16
        assert frames[0].reshape(-1, 3).std(0).max() > 4, row["scene"]
        assert np.abs(frames[0].astype(int) - frames[1]).mean() < 30, row["scene"]


def test_shown_frames_do_not_carry_the_future(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(0, 255, (1, 64, 64, 3), dtype=np.uint8), 16, axis=0)
    for t in range(16):
        frames[t, 10:20, t : t + 10] = 250
    other = frames.copy()
    other[7:] = rng.integers(0, 255, other[7:].shape, dtype=np.uint8)
    for name, clip in (("one", frames), ("other", other)):
        encode(clip, tmp_path / f"{name}.mp4", 8.0)
    one, two = decode(tmp_path / "one.mp4"), decode(tmp_path / "other.mp4")
    assert np.array_equal(one[:7], two[:7])
    assert not np.array_equal(one[7:], two[7:])


def test_outcomes_are_decided_after_the_last_frame_shown(world: Path) -> None:
    clips = rows(world / "clips.jsonl")
    times = [(row["outcome"]["time"], row["until"]) for row in clips]
    assert any(time is not None for time, _ in times)
    assert all(time is None or time > until for time, until in times)
    assert all((row["outcome"]["time"] is None) == (not row["outcome"]["value"]) for row in clips)


def test_answers_are_balanced_in_every_stratum() -> None:
    clips = [fake_clip(seed) for seed in range(400)]
    questions = balance(
        [q for clip in clips for q in ask(clip, np.random.default_rng(clip["seed"]))], np.random.default_rng(0)
    )
    strata: dict[tuple[object, ...], Counter[str]] = defaultdict(Counter)
    for q in questions:
        strata[q["type"], q["negated"], q["until"]][q["answer"]] += 1
        assert q["answer"] in q["options"] and len(set(q["options"])) == len(q["options"])
    assert len(strata) >= 8
    assert all(len(counts) > 1 and len(set(counts.values())) == 1 for counts in strata.values())


def fake_clip(seed: int) -> dict[str, Any]:
    """A collide clip's row without physics: the outcome leans to yes, which balancing must undo."""
    rng = np.random.default_rng(seed)
    touches = bool(rng.random() < 0.7)
    objects = [{"colour": c, "shape": str(rng.choice(["box", "ball", "cylinder"]))} for c in ("red", "yellow")]
    facts = {
        "reason": "meets" if touches else str(rng.choice(["stops", "passes"])),
        "direction": str(rng.choice(["left", "right"])),
    }
    outcome = {"name": "touches", "value": touches}
    return {"scene": f"collide-{seed}", "scenario": "collide", "seed": seed, "video": "x.mp4", "outcome": outcome,
            "until": float(rng.choice([0.25, 0.5])), "objects": objects, "facts": facts}  # fmt: skip


def test_until_tells_nothing_of_the_outcome() -> None:
    """Both are drawn before any scene is; here their independence is counted over many seeds."""
    untils, outcomes = [], []
    for seed in range(4000):
        rng = np.random.default_rng([seed, 0])
        outcomes.append(bool(rng.random() < 0.5))
        untils.append(int(rng.integers(4)))
    table = np.array(
        [[sum(o == a and u == b for o, u in zip(outcomes, untils, strict=True)) for b in range(4)] for a in (0, 1)]
    )
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    assert ((table - expected) ** 2 / expected).sum() < 11.3  # chi-square with 3 degrees of freedom, p = .01
    story = find_story(SCENARIOS["towers"], 5, Spec())
    assert (story.verdict.outcome, story.until) == (outcomes[5], SCENARIOS["towers"].untils[untils[5]])


def test_a_centre_of_mass_outside_its_support_falls_and_inside_stands() -> None:
    for shift, falls in ((0.1, False), (0.3, True)):
        low = Body("red", "box", (0.2, 0.2, 0.2), (0.0, 0.0, 0.2))
        high = Body("blue", "box", (0.2, 0.2, 0.2), (shift, 0.0, 0.6))
        assert (margins([low, high])[0] < 0) == falls
        scene = SCENARIOS["towers"].build(np.random.default_rng(0))
        scene.bodies, scene.notes = [low, high], {"blocks": 2, "margins": margins([low, high])}
        look = draw_look(np.random.default_rng(0), scene, 0.0)
        path = simulate(compile_scene(scene, look, np.random.default_rng(0)), scene)
        assert (sunk(path, 1, 0.4) is not None) == falls


@pytest.mark.parametrize("place", [(0.0, 0.0, 0.2), (0.4, 0.0, 0.2), (0.0, 0.4, 0.2)])
def test_projection_agrees_with_the_picture(painter: Painter, place: tuple[float, float, float]) -> None:
    """The red pixels of a red ball lie around the projection of its centre."""
    scene = SCENARIOS["collide"].build(np.random.default_rng(0))
    scene.bodies = [Body("red", "ball", (0.15,), place)]
    look = draw_look(np.random.default_rng(0), scene, 0.0)
    model = compile_scene(scene, look, np.random.default_rng(0))
    frame = painter.draw(model, look, model.qpos0[None])[0].astype(float)
    red = frame[..., 0] - frame[..., 1:].max(-1)
    y, x = np.argwhere(red > red.max() * 0.6).mean(0)
    assert np.hypot(*(project(np.array(place), look) * 64 - (x + 0.5, y + 0.5))) < 2


def test_a_stopped_generation_goes_on(world: Path, tmp_path: Path) -> None:
    questions = (world / "questions.jsonl").read_text()
    (world / "parts" / "00000.jsonl").unlink()
    generate(world, 24, seed=3, progress=False)
    assert (world / "questions.jsonl").read_text() == questions
    assert (world.parent / "sheet.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("clips", "spec", "words"),
    [
        (0, Spec(), "clips >= 1"),
        (1, Spec(size=32), "64..256"),
        (1, Spec(scenarios=("tower",)), "allowed: towers"),
        (1, Spec(fps=4.0), "16 frames at 4 fps.* at most 13 frames at this rate, or 5 fps or more"),
    ],
)
def test_impossible_requests_say_what_is_allowed(tmp_path: Path, clips: int, spec: Spec, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        generate(tmp_path / "w", clips, seed=0, spec=spec, progress=False)


def test_a_folder_of_other_worlds_is_left_alone(world: Path) -> None:
    with pytest.raises(ValueError, match="holds other worlds"):
        generate(world, 25, seed=3, progress=False)
