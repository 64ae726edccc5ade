"""I-PHYRE, played live. Continuous integration does not install the extra, so most of this is skipped there; run it
after `pip install -e '.[iphyre]'`. How its folder is read and scored is in test_eval_benchmarks.py."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from foretell.__main__ import main
from foretell.eval import exam
from foretell.eval.benchmarks import iphyre as room
from foretell.perception.video import read_clip

from .reasoner_tiny import tiny_foretell

pytestmark = [
    pytest.mark.filterwarnings("ignore:Arrays of 2-dimensional vectors:DeprecationWarning"),  # iphyre's np.cross
    pytest.mark.filterwarnings("ignore:pkg_resources"),  # pygame's
]
NEVER = room.Course(actions=[(250.0, 400.0, 0.0), (250.0, 500.0, 0.0)], until=2, solves=False, decided=0.0)
BOTH = room.Course(actions=[(250.0, 400.0, 0.45), (250.0, 500.0, 1.45)], until=2, solves=True, decided=2.8)


@pytest.fixture
def games(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package's names, once it is known to be there; `support` is a ball on two grey blocks."""
    pytest.importorskip("iphyre", reason=f"wants the extra `iphyre`: {room.EXTRA}")
    room.package()
    from iphyre import games as names

    return names


def test_without_the_package_one_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "iphyre", None)
    assert main(["eval", "iphyre", "--data", str(tmp_path), "--out", str(tmp_path / "o.json")]) == 2
    told = capsys.readouterr().err
    assert told == "error: playing I-PHYRE needs the package iphyre: pip install 'foretell[iphyre]'\n"


def test_the_help_says_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "iphyre", "--help"]) == 0
    assert room.EXTRA in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", ["support", "seesaw_angle", "multi_ball_lever"])
def test_a_course_ends_as_the_package_says(games: Any, name: str) -> None:
    from iphyre.simulator import IPHYRE

    random = np.random.default_rng(0)
    places = [place for place in room.opened(name).get_action_space() if any(place)]
    for _ in range(3):
        actions, game = room.drawn(places, 2, random), IPHYRE(name)
        game.reset()
        solved, _, seconds = game.simulate([list(action) for action in actions])
        course = room.play(name, actions, 2)
        assert course.solves == bool(solved) and course.decided <= seconds


def test_clicks_come_before_the_last_moment_shown_and_each_at_its_own() -> None:
    for seed in range(20):
        times = [time for _, _, time in room.drawn([(0.0, float(y)) for y in range(6)], 2, np.random.default_rng(seed))]
        clicked = [time for time in times if time]
        assert all(time <= 1.9 for time in clicked) and len(set(clicked)) == len(clicked)


def test_a_pair_has_both_outcomes_undecided_at_the_same_moment(games: Any) -> None:
    solving, failing = pair = room.find_pair("support", 0)
    assert solving.solves and not failing.solves
    assert solving.until == failing.until < min(solving.decided, failing.decided)
    assert room.find_pair("support", 0) == pair != room.find_pair("support", 1)


def ball(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray((picture == (255, 0, 0)).all(-1))


def test_pictures_show_the_clicks_and_a_red_ball(games: Any) -> None:
    still, moving = room.film("support", NEVER), room.film("support", BOTH)
    assert still.shape == moving.shape == (61, 600, 600, 3)
    assert np.array_equal(still[:14], moving[:14])
    blocks = [(picture[400, 250].tolist(), picture[500, 250].tolist()) for picture in moving[[13, 14, 44]]]
    grey, gone = [164, 164, 164], [255, 255, 255]
    assert blocks == [(grey, grey), (gone, grey), (gone, gone)]
    assert [int(np.nonzero(ball(picture))[0].mean() > 420) for picture in (still[-1], moving[-1])] == [0, 1]


def played(folder: Path, games: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Only two games, both outcomes of one of them found; the list of what is filmed."""
    monkeypatch.setattr(games, "GAMES", ["support", "hinder"])
    monkeypatch.setattr(room, "PAIRS", 1)
    monkeypatch.setattr(room, "find_pair", lambda name, number: [BOTH, NEVER] if name == "support" else [])
    film, filmed = room.film, list[str]()

    def noted(name: str, course: room.Course) -> NDArray[np.uint8]:
        filmed.append(name)
        return film(name, course)

    monkeypatch.setattr(room, "film", noted)
    return filmed


def test_a_game_without_both_outcomes_is_left_out_and_named(
    tmp_path: Path, games: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    filmed = played(tmp_path, games, monkeypatch)
    made = room.make(tmp_path, None)
    assert made["left_out"] == ["hinder"] and set(made) == {"iphyre", "pymunk", "left_out"}
    rows = room.IPHYRE.read(tmp_path)
    assert [(row["id"], row["answer"]) for row in rows] == [("support-0-yes", "yes"), ("support-0-no", "no")]
    clip = read_clip(tmp_path / rows[0]["video"], rate=8, count=17, until=rows[0]["until"])
    assert (clip.duration, clip.shown) == (2.0, 2.0)  # nothing of the rest is in the file
    assert room.make(tmp_path, None) == made and filmed == ["support", "support"]
    monkeypatch.setattr(room, "package", lambda: {"iphyre": "9", "pymunk": "6"})
    with pytest.raises(ValueError, match="choose another folder"):
        room.make(tmp_path, None)


def test_a_model_is_asked_about_courses_played_here(
    tmp_path: Path, games: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    played(tmp_path, games, monkeypatch)
    monkeypatch.setattr(exam, "load_model", lambda source: tiny_foretell())
    out = tmp_path / "out.json"
    assert main(["eval", "iphyre", "--data", str(tmp_path / "data"), "--model", "m", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "| balanced accuracy | 2 | 50.0 |" in told and "hinder" in told
    found = json.loads(out.read_text())
    assert list(found["figures"]["balanced accuracy"]) == ["foretell", "mean features"]
    assert (found["data"]["whole"], found["data"]["left_out"]) == (True, ["hinder"])
