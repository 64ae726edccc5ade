"""Claims about the planning test: fair tasks, success by re-simulation, exact chance and best; a stop costs nothing."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foretell.eval import planning
from foretell.eval.planning import (
    GOALS,
    MORE,
    STAND,
    SURER,
    TIMES,
    Task,
    by_words,
    figures,
    outcomes,
    ratio,
    scored,
    tasks,
)
from foretell.eval.planning import run as run_planning
from foretell.reasoner.actions import Action, Nothing, Push, Remove
from foretell.reasoner.answer import Foretell
from foretell.reasoner.plan import Choice, Plan, read_goal
from foretell.train.data import load_clips
from foretell.train.worlds import Spec, generate

from .reasoner_tiny import tiny_foretell

Row = dict[str, Any]
TABLE: Mapping[Action, bool] = {Nothing(): False, Remove("red"): False, Push("red", "left"): True}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("planning") / "worlds"
    generate(out, 6, 40, Spec(("towers",)), progress=False)
    return out


@pytest.fixture(scope="module")
def clips(data: Path) -> list[Row]:
    return [json.loads(line) for line in (data / "clips.jsonl").read_text().splitlines()]


def made(action: Action, goal: str = "left") -> Plan:
    """A plan for one action; what was proposed first is to do nothing."""
    return Plan(read_goal(GOALS[goal]), (Choice(action, 0.4, 0.9, {}), Choice(Nothing(), 0.6, 0.1, {})), False)


def test_no_goal_comes_true_by_itself_and_all_are_asked_as_often(clips: list[Row]) -> None:
    many = [
        {"scenario": "towers", "outcome": {"value": falls}, "facts": {"direction": side} if side else {}}
        for falls, side in [(True, "left"), (False, None), (True, None), (False, None)] * 15
    ]  # fmt: skip
    found = tasks([*many, {"scenario": "roll"}], None)
    assert len(found) == 60
    assert all(one.goal != one.clip["facts"].get("direction") for one in found)
    assert all(one.clip["outcome"]["value"] for one in found if one.goal == STAND)
    assert set(Counter(one.goal for one in found)) == set(GOALS)
    assert np.ptp(list(Counter(one.goal for one in found).values())) <= 1
    assert [one.goal for one in tasks(many, 7)] == [one.goal for one in found[:7]]
    for task in tasks(clips, 3):
        assert not outcomes(task)[Nothing()]


def test_an_action_is_worth_what_the_world_makes_of_it(clips: list[Row]) -> None:
    standing = next(clip for clip in clips if not clip["outcome"]["value"])
    table, top = outcomes(Task(standing, "left")), standing["facts"]["top"]
    assert len(table) == 1 + 3 * len(standing["objects"])
    assert not any(good for one, good in table.items() if one == Push(top, "right"))
    assert any(outcomes(Task(clip, "left")).get(Push(clip["facts"]["top"], "left")) for clip in clips)


def test_worlds_that_cannot_be_made_again_are_refused(clips: list[Row]) -> None:
    with pytest.raises(ValueError, match="made by another version"):
        outcomes(Task({**clips[0], "facts": {}}, "left"))


def test_success_of_each_taker_is_read_off_what_would_happen() -> None:
    task = Task({"scene": "s"}, "left")
    row = scored(task, made(Push("red", "left")), TABLE)
    assert (row["planner"], row["proposal alone"], row["words"]) == (1.0, 0.0, 1.0)
    assert (row["random choice"], row["best possible"]) == (pytest.approx(1 / 3), 1.0)
    assert row["reaching"] == ["Push the red block to the left"]
    assert scored(task, made(Push("blue", "left")), TABLE)["planner"] == 0.0


def test_a_planner_that_sees_no_object_has_not_reached_its_goal(
    data: Path, clips: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foretell.reasoner.plan.find_objects", lambda picture: {})
    row = planning.attempt(tiny_foretell(), load_clips(data), tasks(clips, 1)[0])
    assert (row["planner"], row["chosen"], row["abstained"]) == (0.0, "Do nothing", True)


def test_words_are_a_push_to_the_named_side_or_else_to_take_something_away() -> None:
    assert [by_words("left", one) for one in TABLE] == [False, False, True]
    assert [by_words("right", one) for one in TABLE] == [False, False, False]
    assert [by_words(STAND, one) for one in TABLE] == [False, True, False]


def test_the_ratio_of_means_is_that_of_the_resample() -> None:
    times = ratio([1.0, 0.0, 1.0], [0.5, 0.25, 0.0])
    assert times(np.array([[1.0, 1.0, 1.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]])).tolist() == pytest.approx(
        [2 / 0.75, 2 / 1.25, 0.0]
    )


def test_a_run_that_was_stopped_goes_on_and_gives_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[object] = []

    def load(source: object) -> Foretell:
        loads.append(source)
        return tiny_foretell()

    monkeypatch.setattr(planning, "load_model", load)
    monkeypatch.setattr(planning, "mark", lambda *parts: "marked")
    whole = run_planning("tiny", data, tmp_path / "whole.json", limit=3, command="foretell eval planning")
    samples = tmp_path / "whole.samples.jsonl"
    rows = samples.read_text().splitlines(keepends=True)
    (tmp_path / "again.samples.jsonl").write_text("".join(rows[:1]) + rows[1][:20])
    again = run_planning("tiny", data, tmp_path / "again.json", limit=3, command="foretell eval planning")
    assert (tmp_path / "again.samples.jsonl").read_text() == samples.read_text()
    assert again == whole
    assert len(loads) == 2
    assert run_planning("tiny", data, tmp_path / "again.json", limit=3)["figures"] == whole["figures"]
    assert len(loads) == 2
    assert whole["data"]["towers"] == 3
    assert {"all"} < {row["goal"] for row in whole["figures"]} <= {"all", *GOALS}
    assert "| all | 3 |" in planning.table(whole)


def test_figures_say_chance_and_n() -> None:
    rows = [
        {**scored(Task({"scene": str(k)}, "left"), made(Push("red", side)), TABLE)}  # type: ignore[arg-type]
        for k, side in enumerate(["left", "left", "right", "left"])
    ]
    found = {(row["goal"], row["taker"], row["metric"]): row for row in figures(rows)}
    mine = found["left", "planner", "success"]
    assert (mine["value"], mine["n"], mine["chance"]) == (0.75, 4, pytest.approx(1 / 3))
    assert mine["low"] < 0.75 < mine["high"] <= 1
    assert found["all", "planner", TIMES]["value"] == pytest.approx(2.25)
    assert found["all", "planner", MORE]["value"] == pytest.approx(-0.25)
    assert found["all", "planner", SURER]["value"] == pytest.approx(0.15)
    told = planning.table({"figures": list(found.values())}).splitlines()
    assert told[0].endswith("| planner times random choice | planner above words | planner confidence above success |")
    assert told[2].startswith("| all | 4 | 75 [25, 100] | 0 [0, 0] | 100 [100, 100] | 33 [33, 33] |")


def test_worlds_without_towers_are_refused(tmp_path: Path) -> None:
    generate(tmp_path / "roll", 1, 1, Spec(("roll",)), progress=False)
    with pytest.raises(ValueError, match="no towers"):
        run_planning(None, tmp_path / "roll", tmp_path / "x.json")
