"""Claims about the benchmark: it finds a planted ratio, says when there is none, and goes on where it stopped."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count as numbers
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from transformers import VJEPA2Config, VJEPA2Model

from foretell.eval import bench, gauges, race
from foretell.eval.bench import Plan, axis_jobs, cost, main_jobs, recipe_of, run, table, tuning_jobs
from foretell.eval.probe import Bench, Cells, Question, Training
from foretell.eval.race import Curve, crossings, ratios, verdict
from foretell.perception.encoder import VJEPA2World, normalise, tiny_config
from foretell.train import learner, pretrain
from foretell.train.alarm import Unhealthy
from foretell.train.data import load_clips
from foretell.train.objectives import pixels_of
from foretell.train.recipes import tiny_encoder
from foretell.train.worlds import Spec, generate

COUNT = 400


def asked() -> Question:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2, COUNT).astype(np.float32)
    return Question("falls", np.arange(COUNT), values, [str(i) for i in range(COUNT)], 2)


def told(question: Question, right: float, seed: int) -> Any:
    """Columns that are right on a share of the clips."""
    wrong = np.random.default_rng(seed).random(COUNT) >= right
    answer = np.where(wrong, 1 - question.values, question.values)
    return np.stack([1 - answer, answer], axis=1).astype(np.float32)


def planted(question: Question, needs: float, seed: int) -> list[Curve]:
    """Three runs that rise from .5 to .9 along `needs` units of compute."""
    flops = needs * np.array([1.0, 2.0, 4.0, 8.0])
    rises = list(enumerate((0.6, 0.7, 0.8, 0.9)))
    points = [[told(question, right, 10 * seed + 100 * run + k) for k, right in rises] for run in range(3)]
    return [Curve("x", flops, flops, "here", one) for one in points]


def test_a_curve_crosses_a_level_between_its_points_or_never() -> None:
    scores, start = np.array([[0.6, 0.55, 0.8], [0.5, 0.5, 0.5]]), np.array([0.5, 0.5])
    found = crossings(np.array([10.0, 20.0, 30.0]), scores, start, np.array([0.5, 0.55, 0.7, 0.8, 0.9]))
    np.testing.assert_allclose(found, [[0, 5, 25, 30, np.inf], [0, np.inf, np.inf, np.inf, np.inf]])


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_a_planted_ratio_is_found_within_its_interval(factor: float) -> None:
    question = asked()
    found = ratios(planted(question, 1.0, 1), planted(question, factor, 2), told(question, 0.5, 3), question)
    assert found is not None
    said = verdict([found])
    assert said["low"] <= said["value"] <= said["high"]
    assert said["low"] < factor < said["high"] and said["value"] == pytest.approx(factor, rel=0.35)
    words = {0.25: "JEPA needs more", 1.0: "the interval carries no verdict", 4.0: "JEPA needs less"}
    assert said["words"] == words[factor]


def test_there_is_no_ratio_where_random_init_is_not_beaten() -> None:
    question = asked()
    assert ratios(planted(question, 1.0, 1), planted(question, 2.0, 2), told(question, 0.95, 3), question) is None
    assert verdict([])["value"] is None and "not measurable" in verdict([])["words"]


@pytest.mark.parametrize("learns", ["jepa", "rival"])
def test_what_one_side_alone_learns_counts(learns: str) -> None:
    """The other never gets there: its compute is beyond any."""
    question, flops = asked(), np.array([1.0, 2.0])
    never = [
        Curve("x", flops, flops, "here", [told(question, 0.5, 90 + run), told(question, 0.5, run)]) for run in (1, 2, 3)
    ]
    jepa, rival = (planted(question, 1.0, 1) if side == learns else never for side in ("jepa", "rival"))
    found = ratios(jepa, rival, told(question, 0.6, 3), question)
    assert found is not None and (found[0] == (np.inf if learns == "jepa" else -np.inf)).all()
    said = verdict([found])
    assert said["value"] is None and said["words"] == ("JEPA needs less" if learns == "jepa" else "JEPA needs more")


@pytest.mark.parametrize(
    ("low", "high", "words", "said"),
    [
        (0.2, 1.1, "the interval carries no verdict", "no"),
        (0.2, None, "the interval carries no verdict", "not shown"),
        (None, 1.9, "the interval carries no verdict", "no"),
        (None, None, race.MORE, "no"),
        (1.2, 3.0, race.LESS, "not shown"),
        (2.0, None, race.LESS, "yes"),
        (None, None, race.LESS, "yes"),
        (None, None, "not known yet: vjepa has yet to run", "not shown"),
    ],
)
def test_half_of_the_compute_is_told_of_where_the_interval_leaves_no_doubt(
    low: float | None, high: float | None, words: str, said: str
) -> None:
    assert race.half({"low": low, "high": high, "words": words}) == said


def test_rivals_get_the_same_compute_and_the_same_choices() -> None:
    plan = Plan(steps=100)
    for kind, (jepa, rival) in bench.SIDES.items():
        both = [recipe_of(plan, kind, objective, plan.steps) for objective in (jepa, rival)]
        spent = [recipe.steps * cost(recipe) for recipe in both]
        assert both[0].steps == 100 and spent[1] == pytest.approx(spent[0], rel=0.02)
    tried: dict[str, list[float]] = {}
    for job in (job for kind in bench.SIDES for job in tuning_jobs(plan, kind)):
        tried.setdefault(job.recipe.objective, []).append(job.recipe.lr)
    assert set(tried) == {"vjepa", "videomae", "ijepa", "mae"} and set(map(tuple, tried.values())) == {plan.rates}


def test_the_tuning_run_that_was_chosen_is_the_first_of_its_side() -> None:
    plan = Plan(steps=100)
    rates = {"vjepa": 1.2e-3, "videomae": 3e-4, "ijepa": 6e-4, "mae": 6e-4}
    main = [job for kind in bench.SIDES for job in main_jobs(plan, kind, rates)]
    firsts = {job.name for kind in bench.SIDES for job in main if job in tuning_jobs(plan, kind)}
    assert firsts == {"vjepa-0.0012-0", "videomae-0.0003-0", "ijepa-0.0006-0", "mae-0.0006-0"}
    assert all(sum(step == job.recipe.steps for step in job.recipe.snapshots) == 1 for job in main)


def test_the_plan_has_three_seeds_a_side_one_of_the_rest_and_a_data_axis_of_equal_steps() -> None:
    rates = {"vjepa": 1e-3, "videomae": 2e-3, "ijepa": 3e-3, "mae": 4e-3}
    jobs = [job for kind in bench.SIDES for job in main_jobs(Plan(steps=100), kind, rates)]
    seeds = {job.recipe.objective: 0 for job in jobs}
    rates |= {f"{rival}_published": rates[rival] for rival in ("videomae", "mae")}
    for job in jobs:
        seeds[job.recipe.objective] += 1
        assert job.kind == ("images" if job.recipe.objective in ("ijepa", "mae", "mae_published") else "videos")
        assert job.recipe.lr == rates.get(job.recipe.objective, 1e-3) and job.recipe.snapshots[-1] == job.recipe.steps
    assert seeds == {"vjepa": 3, "videomae": 3, "ijepa": 3, "mae": 3, **dict.fromkeys(bench.OTHERS, 1)}
    names = [job.name for job in jobs]
    assert all(not job.teacher or names.index(job.teacher) < names.index(job.name) for job in jobs)
    axis = axis_jobs(Plan(), rates)
    assert len(axis) == 2 * 3 * 4
    assert {job.recipe.objective for job in axis} == {"vjepa", "videomae"}
    assert {job.recipe.steps for job in axis} == {Plan().axis_steps}
    assert Plan().axis_steps * axis[0].recipe.batch >= max(Plan().axis_clips)


def test_neighbouring_pixels_lie_side_by_side_and_none_is_lost() -> None:
    world = VJEPA2World(VJEPA2Model(tiny_config()))
    frames = torch.randint(0, 256, (2, 8, 16, 16, 3), dtype=torch.uint8)
    tokens = pixels_of(normalise(frames), world.model.config)  # [2, 4 * 4 * 4, P]
    found = bench.raw_pixels(world)(frames)
    assert found.shape == (2, 4 * 2 * 2, 4 * tokens.shape[-1])
    assert torch.equal(found[:, 0], torch.cat([tokens[:, place] for place in (0, 1, 4, 5)], dim=-1))
    assert torch.equal(found.flatten(1).sort().values, tokens.flatten(1).sort().values)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Worlds whose decoded frames are shrunk to what the tiny encoders see."""
    root = tmp_path_factory.mktemp("bench")
    for name, seed, count in (("train", 0, 60), ("val", 500, 40), ("test", 900, 40)):
        generate(root / name, count, seed=seed, spec=Spec(("towers", "collide")), progress=False)
        frames = np.array(load_clips(root / name).frames[:, :, ::4, ::4])
        np.save(root / name / "frames.npy", frames)
    return root


def tiny_picture() -> VJEPA2Config:
    return VJEPA2Config(**tiny_config().to_diff_dict() | {"frames_per_clip": 1, "tubelet_size": 1})


def tiny_plan() -> Plan:
    short = Training(batch=8, every=4, patience=1, most=4, width=24)
    return Plan(
        steps=4, points=(0.5, 1.0), rates=(1e-3, 2e-3), seeds=2, labels=20,
        curve_labels=12, axis_clips=(20, 40), axis_encoders=("tiny",), axis_steps=2, curve=short, final=short,
        others=("salt", "lejepa", "videomae_published", "mae_published"),
        encoders={"videos": "tiny", "images": "tiny_picture"},
        base=replace(tiny_encoder(), steps=4, warmup=1, held_out=8),
    )  # fmt: skip


def judge_gauges(folder: Path, worlds: Path) -> None:
    """Gauges are held against all that a benchmark's probes said, and measured once."""
    out, folders = folder / "gauges.json", [folder / "runs"]
    found = gauges.run(folders, out, test=worlds / "test", val=worlds / "val", command="foretell eval gauges")
    kept = out.with_suffix(".cells.jsonl").read_text()
    again = gauges.run(folders, out, test=worlds / "test", val=worlds / "val", command="foretell eval gauges")
    assert again == found == json.loads(out.read_text()) | {"rows": found["rows"], "points": found["points"]}
    assert out.with_suffix(".cells.jsonl").read_text() == kept and out.with_suffix(".png").is_file()
    runs = {Path(point["run"]).name for point in found["points"]}
    assert runs >= {"mae-0.001-0", "mae-0.002-0", "vjepa-0.001-1", "axis-vjepa-tiny-20"}
    assert not any(run.startswith("lejepa") for run in runs)
    for seed in range(2):
        steps = [point["step"] for point in found["points"] if Path(point["run"]).name == f"vjepa-0.001-{seed}"]
        assert sorted(steps) == [2, 2, 4, 4], "a point under each probe along the run, the chosen run's end told once"
    known = {(point["objective"], *point["gauges"]) for point in found["points"] if point["step"] == 4}
    assert ("vjepa", *gauges.GAUGES) in known, "the predictor is held against guesses, the last step has its loss"
    pooled = [row for row in found["rows"] if row["objective"] == gauges.ALL]
    assert {row["probe"] for row in pooled} == {f"{probe} ({kind})" for probe in bench.ALONG for kind in bench.SIDES}
    assert all(row["low"] <= row["value"] <= row["high"] for row in pooled if row["runs"] >= gauges.FEWEST)
    (gone,) = (folder / "runs" / "axis-vjepa-tiny-20" / "snapshots").iterdir()
    (gone / "config.json").unlink()
    fewer = gauges.run(folders, out, test=worlds / "test", val=worlds / "val")
    assert fewer["left_out"] == [str(gone)] and str(gone) in gauges.table(fewer) and not found["left_out"]
    assert {Path(point["run"]).name for point in fewer["points"]} == runs - {"axis-vjepa-tiny-20"}
    with pytest.raises(ValueError, match="other clips than probes were asked about"):
        gauges.run(folders, out, test=worlds / "train")
    with pytest.raises(ValueError, match="pass --test"):
        gauges.run(folders, out)


def now_and_then(draw: Callable[..., None]) -> Callable[..., None]:
    """Every fortieth picture, the first among them: each takes seconds, and the benchmark draws one after every run."""
    asked = numbers()

    def maybe(*given: Any) -> None:
        if next(asked) % 40 == 0:
            draw(*given)

    return maybe


def test_a_stopped_benchmark_goes_on_and_tells_all_it_was_asked(
    worlds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(learner.CONFIGS, "tiny_picture", tiny_picture)
    monkeypatch.setitem(bench.VARIABLES, "videos", ("falls", "touches", "speed"))
    folders = worlds / "train", worlds / "val", worlds / "test"
    report, tell = tmp_path / "out" / "bench.json", Bench.tell
    asked_for: list[str] = []
    begun: list[str] = []
    words: set[tuple[int, str]] = set()

    def counted(self: Bench, name: str, *given: Any) -> Any:
        asked_for.append(name)
        if len(asked_for) == 25:
            raise KeyboardInterrupt
        if given[0] in bench.FINAL:
            (kind,) = (kind for kind, variables in bench.VARIABLES.items() if name in variables)
            said = json.loads(report.read_text())[kind]["flops_ratio"]["words"]
            assert "not known yet" not in said, "the ratio waits for the strongest probes"
        if report.is_file():
            early = json.loads(report.read_text())
            sides = {row["objective"] for row in early["images"]["curves"]}
            words.add((len(sides & {"ijepa", "mae"}), early["images"]["flops_ratio"]["words"]))
        return tell(self, name, *given)

    def doomed(data: Path, out: Path, *given: Any, **named: Any) -> Path:
        if out.name == "vjepa-0.001-0":
            early = json.loads(report.read_text())
            assert early["missing"] == ["videos", "data axis"] and early["images"]["finals"], "images wait for videos"
            assert early["videos"]["flops_ratio"]["words"] == "not known yet: vjepa and videomae have yet to run"
        if out.name in ("vjepa-0.002-0", "lejepa-0.001-0"):
            begun.append(out.name)
            raise Unhealthy(f"{out.name} was stopped")
        return train(data, out, *given, **named)

    train = pretrain.run
    for room in (bench, gauges):
        monkeypatch.setattr(room, "plot", now_and_then(room.plot))
    monkeypatch.setattr(pretrain, "run", doomed)
    monkeypatch.setattr(Bench, "tell", counted)
    with pytest.raises(KeyboardInterrupt):
        run(*folders, tmp_path / "runs", report, tiny_plan())
    found = run(*folders, tmp_path / "runs", report, tiny_plan(), command="foretell bench")
    files = [tmp_path / "runs" / name for name in ("cells.jsonl", "finals.jsonl")]
    cells = sum(len(file.read_text().splitlines()) for file in files)
    assert len(asked_for) == cells + 1, "a probe was asked twice"
    assert json.loads(report.read_text())["command"] == "foretell bench" and report.with_suffix(".png").is_file()
    for kind, (jepa, rival) in bench.SIDES.items():
        assert set(found[kind]["flops_ratio"]) >= {"value", "low", "high", "words"}
        assert {row["objective"] for row in found[kind]["curves"]} >= {jepa, rival}
        features = {row["features"] for row in found[kind]["finals"]}
        assert features >= {jepa, rival, f"{rival}_published", bench.RANDOM, *bench.controls_of(kind)}
        assert f"{rival}_published" in {row["objective"] for row in found[kind]["curves"]}
        assert set(found[kind]["gap_to_random_init"]) == set(bench.VARIABLES[kind])
    assert found["missing"] == []
    assert (1, "not known yet: mae has yet to run") in words and not any("yet" in said for n, said in words if n == 2)
    assert found["tuning"]["chosen"]["vjepa"] == 1e-3 and "vjepa-0.002-0" in found["tuning"]["stopped"]
    assert found["stopped"] == {"lejepa-0.001-0": "lejepa-0.001-0 was stopped"}
    assert begun == ["vjepa-0.002-0", "lejepa-0.001-0"], "a run that the alarm stopped was begun again"
    flops = {row["objective"]: row["flops"][-1] for row in found["videos"]["curves"]}
    assert flops["salt"] > 1.5 * flops["vjepa"], "a teacher's cost is part of its student's"
    longer = run(*folders, tmp_path / "runs", report, replace(tiny_plan(), axis_clips=(20, 40, 4000)))
    assert longer["missing"] == ["axis-vjepa-tiny-4000", "axis-videomae-tiny-4000"], "wants more clips than there are"
    assert "for want of clips: axis-vjepa-tiny-4000" in table(longer) and "want of clips" not in table(found)
    assert longer["data_axis"] == found["data_axis"] and len(asked_for) == cells + 1
    made = (
        copytree(tmp_path / "runs" / "axis-vjepa-tiny-40", tmp_path / "runs" / "axis-vjepa-tiny-4000") / "recipe.json"
    )
    recipe = json.loads(made.read_text())
    with pytest.raises(ValueError, match=r"another recipe \(clips 40 -> 4000\): remove it"):
        run(*folders, tmp_path / "runs", report, replace(tiny_plan(), axis_clips=(20, 40, 4000)))
    made.write_text(json.dumps(recipe | {"clips": 4000}))  # as if made elsewhere
    brought = run(*folders, tmp_path / "runs", report, replace(tiny_plan(), axis_clips=(20, 40, 4000)))
    assert brought["missing"] == ["axis-videomae-tiny-4000"] and len(asked_for) == cells + 1 + 3 * 2
    grown = {(row["objective"], row["most"]) for row in brought["data_growth"]}
    assert grown == {("vjepa", 4000), ("videomae", 40)} and "| vjepa | tiny | 4,000 for 20 |" in table(brought)
    assert {row["machine"] for row in brought["data_axis"]} == set(found["videos"]["curves"][0]["seconds"])
    judge_gauges(tmp_path, worlds)
    assert len(found["data_axis"]) == 2 * 2 * len(bench.VARIABLES["videos"]) * 2 and "| vjepa | falls |" in table(found)


def test_answers_stay_known_where_worlds_to_pretrain_on_grow(worlds: Path, tmp_path: Path) -> None:
    whole = load_clips(worlds / "train")
    fewer = bench.part_of(whole, np.arange(len(whole.clips) - 1))
    others = bench.part_of(whole, np.arange(1, len(whole.clips)))
    marks = [
        bench.cells_of(tiny_plan(), False, tmp_path, bench.labelled(packed, tiny_plan()), (worlds / "test",)).mark
        for packed in (whole, fewer, others)
    ]
    assert marks[0] == marks[1] != marks[2]


def test_what_another_process_kept_is_known(tmp_path: Path) -> None:
    one, other = (Cells(tmp_path / "cells.jsonl", "mark") for _ in range(2))
    one.keep(("encoder", "falls", "ridge"), {"value": 0.5})
    other.keep(("encoder", "speed", "ridge"), {"value": 0.25})
    Cells(tmp_path / "cells.jsonl", "another")
    one.refresh()
    assert {variable: row["value"] for (_, variable, _), row in one.done.items()} == {"falls": 0.5, "speed": 0.25}
