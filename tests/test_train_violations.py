"""Claims about violations of expectation: quadruplets are fair, break where they say, and carry nothing else."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from foretell.train.worlds import PROPERTIES, Spec, generate_violations
from foretell.train.worlds.physics import Painter
from foretell.train.worlds.scene import Look, Scene, draw_look
from foretell.train.worlds.violations import (
    GONE,
    LEVELS,
    Screen,
    make_quadruplet,
    poses,
    screen_poses,
    shown_at,
    thing,
)

SPEC = Spec(tuple(PROPERTIES))
Row = dict[str, Any]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One quadruplet of every property."""
    out = tmp_path_factory.mktemp("violations") / "data"
    generate_violations(out, 28, 5, SPEC, preview=out.parent / "sheet.png", progress=False)
    return out


@pytest.fixture(scope="module")
def look() -> Look:
    return draw_look(np.random.default_rng(0), Scene([]), 0.0)


def quadruplets(world: Path) -> list[list[Row]]:
    """Rows aa, bb, ab, ba of each."""
    rows = [json.loads(line) for line in (world / "violations.jsonl").read_text().splitlines()]
    return [rows[start : start + 4] for start in range(0, len(rows), 4)]


def decode(path: Path) -> NDArray[np.int16]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(np.int16)


def test_every_property_has_two_possible_and_two_impossible_clips_in_matched_pairs(world: Path) -> None:
    found = quadruplets(world)
    assert [rows[0]["property"] for rows in found] == list(PROPERTIES)
    for rows in found:
        assert len({row["quadruplet"] for row in rows}) == 1
        assert [row["possible"] for row in rows] == [True, True, False, False]
        assert [row["pair"][-1] for row in rows] == ["a", "b", "a", "b"]
        for row in rows:
            assert 0 < row["breaks"]["frame"] < row["shows"]["frame"] < row["frames"]
            assert all(row[moment]["seconds"] == row[moment]["frame"] / row["fps"] for moment in ("breaks", "shows"))
    assert (world.parent / "sheet.png").is_file()


def test_after_encoding_a_pair_is_identical_up_to_its_break_and_differs_where_it_says(world: Path) -> None:
    for rows in quadruplets(world):
        aa, bb, ab, ba = (decode(world / row["video"]) for row in rows)
        breaks, shows = rows[0]["breaks"]["frame"], rows[0]["shows"]["frame"]
        for possible, impossible in ((aa, ab), (bb, ba)):
            assert np.array_equal(possible[:breaks], impossible[:breaks]), rows[0]["quadruplet"]
            assert (np.abs(possible[shows] - impossible[shows]) > LEVELS).any(), rows[0]["quadruplet"]


def test_after_encoding_every_frame_of_an_impossible_clip_is_one_of_a_possible_clip(world: Path) -> None:
    """So no frame, no first part and no last part can tell them apart: first and last states are balanced."""
    for rows in quadruplets(world):
        aa, bb, ab, ba = (decode(world / row["video"]) for row in rows)
        breaks = rows[0]["breaks"]["frame"]
        assert np.array_equal(ab[breaks:], bb[breaks:]) and np.array_equal(ba[breaks:], aa[breaks:])
        assert not np.array_equal(aa[:breaks], bb[:breaks]) and not np.array_equal(aa[breaks:], bb[breaks:])


def test_a_quadruplet_is_a_function_of_property_and_seed(world: Path, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    rows = quadruplets(world)[-1]
    again = make_quadruplet(rows[0]["property"], rows[0]["seed"], SPEC, Painter(64), tmp_path)
    assert again == rows
    for row in rows:
        assert (tmp_path / row["video"]).read_bytes() == (world / row["video"]).read_bytes()


@pytest.mark.parametrize("shape", ["box", "ball", "cylinder"])
@pytest.mark.parametrize("speed", [0.0, -0.5, 1.5])
def test_a_thing_is_where_it_should_be_when_it_should_be(shape: str, speed: float, look: Look) -> None:
    """The tales meet at the break only if mechanics and the simulation agree: to 2 mm, a tenth of a pixel."""
    body = thing("red", shape, 0.2, (0.3, 0.1, 0.0), 1.0, speed)
    path = poses([None, body], look, np.array([0.0, 1.0, 1.5]))
    assert path[1, 1, :3] == pytest.approx([0.3, 0.1, 0.2], abs=2e-3)
    assert path[1, 1, 3:] == pytest.approx([1, 0, 0, 0], abs=0.02)
    assert path[:, 0].tolist() == [list(GONE)] * 3
    assert np.sign(path[2, 1, 0] - path[1, 1, 0]).round() == np.sign(speed) or speed == 0


def test_a_screen_moves_straight_between_its_places_and_then_stays() -> None:
    screen = Screen((0.3, 0.02, 0.4), (1.0, 2.0), ((0.0, 0.0, 2.0), (1.0, 0.0, 0.0)))
    path = screen_poses(screen, np.array([0.0, 1.5, 3.0]))
    assert path[:, 0, :3].tolist() == [[0, 0, 2], [0.5, 0, 1], [1, 0, 0]]


def tales(differing: list[int], count: int = 16) -> NDArray[np.uint8]:
    """Two grey clips that differ in a square at these frames."""
    frames = np.full((2, count, 20, 20, 3), 90, np.uint8)
    frames[1, differing, :5, :5] = 200
    return frames


@pytest.mark.parametrize(
    ("differing", "shown"),
    [
        ([5, 6, 10, 11], 10),
        ([5, 6, 8, 10, 11], None),  # told apart at the break
        ([10, 11], None),  # nothing to remember
        ([5, 6], None),  # nothing to see
        ([5, 6, 11], None),  # seen once only
        ([1, 2, 10, 11], None),  # too long ago
    ],
)
def test_only_what_looks_alike_at_the_break_and_nowhere_else_is_fair(differing: list[int], shown: int | None) -> None:
    assert shown_at(tales(differing), 8, 8.0) == shown


@pytest.mark.parametrize(
    ("clips", "scenarios", "words"), [(6, tuple(PROPERTIES), "multiple of 4"), (4, ("towers",), "allowed: permanence")]
)
def test_impossible_requests_say_what_is_allowed(
    tmp_path: Path, clips: int, scenarios: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        generate_violations(tmp_path / "w", clips, 0, Spec(scenarios), progress=False)
