"""Worlds by another engine. Continuous integration does not install the extra, so most of this is skipped there; run
it after `pip install -e '.[bullet]'`."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from foretell.__main__ import main
from foretell.train.worlds import SCENARIOS, Spec, bullet, generate
from foretell.train.worlds.generate import find_story, make_clip
from foretell.train.worlds.parts import sunk
from foretell.train.worlds.scenarios import FIRST
from foretell.train.worlds.scene import Body, Scene, draw_look, project


@pytest.fixture(scope="module")
def painter() -> bullet.Painter:
    pytest.importorskip("pybullet", reason=f"wants the extra `bullet`: {bullet.EXTRA}")
    return bullet.Painter(64)


def test_without_the_package_one_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pybullet", None)
    assert main(["worlds", str(tmp_path / "w"), "--clips", "1", "--seed", "1", "--engine", "bullet"]) == 2
    told = capsys.readouterr().err
    assert told.endswith("error: worlds by Bullet need the package pybullet: pip install 'foretell[bullet]'\n")


def test_an_unknown_engine_is_refused_and_violations_know_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allowed: mujoco, bullet"):
        generate(tmp_path / "w", 1, seed=0, spec=Spec(engine="havok"), progress=False)
    assert (
        main(["worlds", str(tmp_path / "v"), "--clips", "4", "--seed", "1", "--violations", "--engine", "bullet"]) == 2
    )


def test_a_folder_of_mujoco_does_not_name_its_engine(tmp_path: Path) -> None:
    """Folders from before there was another one can still be gone on with."""
    generate(tmp_path / "w", 1, seed=0, progress=False)
    assert "engine" not in json.loads((tmp_path / "w" / "worlds.json").read_text())


def test_a_clip_is_a_function_of_scenario_and_seed(tmp_path: Path, painter: bullet.Painter) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "again" / "clips").mkdir(parents=True)
    made = [make_clip(scenario, 11, Spec(), painter, tmp_path) for scenario in FIRST]
    other = bullet.Painter(64)
    again = [make_clip(SCENARIOS[row["scenario"]], 11, Spec(), other, tmp_path / "again") for row in reversed(made)]
    assert made == again[::-1]
    for row in made:
        assert (tmp_path / row["video"]).read_bytes() == (tmp_path / "again" / row["video"]).read_bytes()


def test_stories_end_as_drawn_and_after_what_is_shown(painter: bullet.Painter) -> None:
    for scenario in FIRST:
        outcomes = set()
        for seed in range(12):
            verdict = (story := find_story(scenario, seed, Spec(), painter.play)).verdict
            assert verdict.decided is None or verdict.decided > story.until
            outcomes.add(verdict.outcome)
        assert outcomes == {True, False}


def test_a_block_falls_where_nothing_holds_it_and_rests_where_something_does(painter: bullet.Painter) -> None:
    for shift, falls in ((0.1, False), (0.3, True)):
        low = Body("red", "box", (0.2, 0.2, 0.2), (0.0, 0.0, 0.2))
        high = Body("blue", "box", (0.2, 0.2, 0.2), (shift, 0.0, 0.6))
        scene = Scene([low, high], contacts=True)
        _, path = painter.play(scene, draw_look(np.random.default_rng(0), scene, 0.0), np.random.default_rng(0))
        assert (sunk(path, 1, 0.4) is not None) == falls
        assert (0, 1) in path.contacts and path.positions.shape == (721, 2, 3)


@pytest.mark.parametrize("place", [(0.0, 0.0, 0.2), (0.4, 0.0, 0.2), (0.0, 0.4, 0.2)])
def test_projection_agrees_with_the_picture(painter: bullet.Painter, place: tuple[float, float, float]) -> None:
    """The red pixels of a red ball lie around the projection of its centre."""
    scene = SCENARIOS["collide"].build(np.random.default_rng(0))
    scene.bodies = [Body("red", "ball", (0.15,), place)]
    look = draw_look(np.random.default_rng(0), scene, 0.0)
    cast = bullet.Cast.of(scene, look, np.random.default_rng(0))
    frame = painter.draw(cast, look, np.array([[*place, 1.0, 0.0, 0.0, 0.0]]))[0].astype(float)
    red = frame[..., 0] - frame[..., 1:].max(-1)
    y, x = np.argwhere(red > red.max() * 0.3).mean(0)
    assert np.hypot(*(project(np.array(place), look) * 64 - (x + 0.5, y + 0.5))) < 2


def test_a_turn_means_what_it_means_to_mujoco(painter: bullet.Painter) -> None:
    import mujoco

    euler = (0.3, -0.5, 0.8)
    angles = " ".join(str(float(np.degrees(one))) for one in euler)
    model = mujoco.MjModel.from_xml_string(
        f'<mujoco><worldbody><body euler="{angles}"><geom size="1"/></body></worldbody></mujoco>'
    )
    x, y, z, w = bullet.turned(euler)
    assert np.allclose(model.body_quat[1], (w, x, y, z))
