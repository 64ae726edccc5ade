"""Claims about probes: they find what is there, not what is not, and a stopped run goes on."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import VJEPA2Model

from foretell.eval import probe
from foretell.eval.probe import Bench, Question, Training, questions_of, r_squared, run, table, variables_of, volume
from foretell.perception.encoder import VJEPA2World, grid_of, tiny_config
from foretell.train.data import load_clips
from foretell.train.worlds import Spec, generate
from foretell.train.worlds.scene import COLOURS

QUICK = Training(batch=32, warmup=5, every=20, patience=4, most=160, width=48, rates=((1e-3, 0.01), (3e-3, 0.05)))
GRID = (2, 4, 4)


def planted(count: int, seed: int) -> tuple[probe.Features, dict[str, Question]]:
    """Tokens of noise, one of which shines: its side and column, how bright it is, and something that is not there."""
    rng = np.random.default_rng(seed)
    tokens = 0.05 * rng.standard_normal((count, 32, 6))
    column, bright = rng.integers(0, 4, count), rng.uniform(1, 3, count)
    tokens[np.arange(count), rng.integers(0, 8, count) * 4 + column, 0] += 2 * bright
    values = {"left": column < 2, "column": column, "bright": bright, "nothing": rng.random(count) < 0.5}
    kinds = {"left": 2, "column": 4, "bright": 0, "nothing": 2}
    scenes = [str(number) for number in range(count)]
    asked = {n: Question(n, np.arange(count), v.astype(np.float32), scenes, kinds[n]) for n, v in values.items()}
    return tokens.astype(np.float16), asked


@pytest.fixture(scope="module")
def bench() -> Bench:
    train, asked = planted(800, 0)
    test, answers = planted(400, 1)
    return Bench(train, test, GRID, asked, answers)


@pytest.mark.parametrize("kind", ["ridge", "knn", "attentive1", "attentive2"])
def test_a_probe_finds_what_is_there_and_nothing_else(bench: Bench, kind: str) -> None:
    bright = bench.measure("bright", kind, None, QUICK)
    nothing = bench.measure("nothing", kind, None, replace(QUICK, most=80))
    assert bright["value"] > (0.25 if kind == "knn" else 0.8) and bright["metric"] == "R2" and bright["low"] > 0
    assert nothing["low"] < 0.5 < nothing["high"] and nothing["chance"] == 0.5 and nothing["n"] == 400


@pytest.mark.parametrize("kind", ["ridge", "attentive1"])
def test_a_probe_reads_places(bench: Bench, kind: str) -> None:
    left = bench.measure("left", kind, None, QUICK)
    assert left["value"] > 0.9 and left["metric"] == "balanced accuracy"
    if kind != "ridge":
        steps = [step for step, _ in left["curve"]]
        assert steps == sorted(steps) and steps[0] == QUICK.every and left["steps"] in steps
        assert max(score for _, score in left["curve"]) == dict(map(tuple, left["curve"]))[left["steps"]]


@pytest.mark.parametrize("kind", ["ridge", "attentive1"])
def test_a_probe_tells_several_kinds(bench: Bench, kind: str) -> None:
    column = bench.measure("column", kind, None, QUICK)
    assert (
        column["value"] > (0.4 if kind == "ridge" else 0.8)
        and column["chance"] == 0.25
        and column["metric"] == "balanced accuracy"
    )


def test_what_is_learned_from_views_holds_where_only_they_looked() -> None:
    """Test clips shine darkly: a probe knows how much only if it has seen such views."""
    (train, asked), (test, answers) = planted(800, 0), planted(400, 1)
    plain = Bench(train, -test, GRID, asked, answers)
    seen = replace(plain, views=[-train])
    told = [one.measure("bright", "attentive1", None, QUICK)["value"] for one in (plain, seen)]
    assert told[0] < 0 and told[1] > 0.8


def test_rates_that_fall_end_at_nothing_and_at_the_last_step(bench: Bench) -> None:
    how = replace(QUICK, patience=0, most=100, rates=((1e-3, 0.01),))
    head = torch.nn.Linear(6, 1)
    heads = probe.Heads([head], [torch.optim.AdamW(head.parameters(), lr=1e-3)], bench.asked["bright"], how)
    rates = []
    for step in range(1, how.most + 1):
        heads.learn(step, torch.ones(2, 6), np.ones(2, dtype=np.float32))
        rates.append(heads.optimizers[0].param_groups[0]["lr"])
    assert rates[:4] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4], rel=0.01) and rates[49] == pytest.approx(5e-4, rel=0.05)
    assert rates[4:] == sorted(rates[4:], reverse=True) and rates[-1] < 1e-6


def test_heads_whose_rates_fall_are_heard_together_at_their_end(bench: Bench) -> None:
    how = replace(QUICK, patience=0)
    left = bench.measure("left", "attentive1", None, how)
    assert left["annealed"] == QUICK.most == left["curve"][-1][0] and left["heads"] == 2 and left["value"] > 0.9
    assert not left.keys() & {"converged", "steps", "lr"}, "none is chosen"


@pytest.mark.parametrize("kind", ["attentive1", "ridge"])
@pytest.mark.parametrize("patience", [0, 2])
def test_clips_are_kept_from_learning_only_where_something_is_chosen(
    bench: Bench, kind: str, patience: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe whose rates fall to nothing chooses nothing; a penalty is always chosen."""
    learned: list[int] = []

    def spy(*given: Any) -> probe.Told:
        learned.append(max(len(one.rows) for one in given if isinstance(one, Question) and one is not left))
        return probe.Told(np.zeros((400, 2), dtype=np.float32), {}, [])

    left = bench.answers["left"]
    monkeypatch.setattr(probe, "attentive", spy)
    monkeypatch.setitem(probe.POOLED, "ridge", spy)
    bench.tell("left", kind, 100, replace(QUICK, patience=patience))
    assert learned == [100 if kind == "attentive1" and not patience else 80]


def test_a_curve_of_falling_rates_is_of_what_heads_say_as_they_learn(bench: Bench) -> None:
    """Heads that are right of every third batch and wrong of the others."""
    how = replace(QUICK, patience=0, most=6, every=3, batch=800, rates=((0.0, 0.0),))
    question = bench.asked["left"]

    class Third(probe.Heads):
        def learn(self, step: int, tokens: torch.Tensor, values: probe.Floats) -> probe.Floats:
            right = np.stack([1 - values, values], axis=1)
            return (right if step % 3 == 2 else 1 - right)[None]

    head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32 * 6, 2))
    heads = Third([head], [torch.optim.SGD(head.parameters(), lr=0.0)], question, how)
    told = probe.trained(heads, bench.train, bench.test, question, question, bench.answers["left"], how)
    steps, scores = zip(*told.curve, strict=True)
    assert steps == (3, 6) and scores == pytest.approx((1 / 3, 1 / 3))


def test_heads_say_in_the_variables_own_units_what_they_did_before_a_step(bench: Bench) -> None:
    question, how = bench.asked["bright"], replace(QUICK, rates=((1.0, 0.0),))
    head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32 * 6, 1))
    heads = probe.Heads([head], [torch.optim.SGD(head.parameters(), lr=1.0)], question, how)
    before = heads.tell_all(bench.train, question.rows[:64])
    said = heads.learn(5, torch.from_numpy(bench.train[:64]).float(), question.values[:64])
    np.testing.assert_allclose(said, before, rtol=1e-5)
    assert not np.allclose(heads.tell_all(bench.train, question.rows[:64]), before)


def test_what_heads_say_together_is_their_mean(bench: Bench) -> None:
    how, question = replace(QUICK, patience=0, most=2, rates=((0.0, 0.0),) * 2), bench.asked["bright"]
    modules = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32 * 6, 1)) for _ in how.rates]
    heads = probe.Heads([*modules], [torch.optim.SGD(one.parameters(), lr=0.0) for one in modules], question, how)
    told = probe.trained(heads, bench.train, bench.test, question, question, bench.answers["bright"], how)
    with torch.no_grad():
        said = np.mean([one(torch.from_numpy(bench.test).float()).numpy() for one in modules], axis=0)
    np.testing.assert_allclose(told.values, said * question.values.std() + question.values.mean(), rtol=1e-4)


def test_labels_limit_what_is_learned_from(bench: Bench) -> None:
    few, many = (bench.measure("bright", "ridge", labels, QUICK) for labels in (20, None))
    assert (few["labels"], many["labels"]) == (20, 800) and few["value"] < many["value"]


@pytest.mark.parametrize("clips", [20, 80])
def test_a_ridge_of_fewer_clips_than_features_is_sklearns_too(clips: int) -> None:
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    features, columns, new = (
        rng.standard_normal(shape).astype(np.float32) + 1 for shape in ((clips, 40), (clips, 3), (5, 40))
    )
    for penalty, fit in probe.ridges(features, columns, (1.0, 1e3)).items():
        expected = Ridge(penalty).fit(features, columns).predict(new)
        assert probe.told_by(fit, new) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_r_squared_is_sklearns() -> None:
    from sklearn.metrics import r2_score

    rng = np.random.default_rng(0)
    truth = rng.standard_normal(50).astype(np.float32)
    told = (0.5 * truth + 0.1).astype(np.float32)
    counts = rng.integers(0, 3, (1, 50)).astype(np.float64)
    assert r_squared(told, truth)(counts)[0] == pytest.approx(r2_score(truth, told, sample_weight=counts[0]), abs=1e-6)


def test_variables_are_read_off_the_last_shown_frame() -> None:
    still = [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    clip: dict[str, Any] = {
        "scenario": "roll", "scene": "s", "until": 0.25, "fps": 8.0, "frames": 4,
        "outcome": {"name": "drops", "value": True},
        "objects": [{"shape": "ball", "colour": "yellow", "half": [0.1], "density": 500.0}],
        "states": [[[0.3 * t, 0.4 * t, *still[2:], 0.1 * t, 0.5]] for t in range(4)],
    }  # fmt: skip
    told = variables_of(clip)
    assert told == pytest.approx(
        {"drops": 1.0, "x": 0.2, "y": 0.5, "speed": 4.0, "mass": math.log(500 * 4 / 3 * math.pi * 1e-3)}
        | {"count": 1.0, "shape": 1.0, "colour": float(list(COLOURS).index("yellow"))}
    )
    assert volume({"shape": "box", "half": [1, 2, 3]}) == 48
    assert volume({"shape": "cylinder", "half": [1, 2]}) == pytest.approx(4 * math.pi)
    assert "speed" not in variables_of({**clip, "until": 0.0})
    assert variables_of({**clip, "fps": 6.0})["x"] == pytest.approx(0.1)  # the third frame comes later than `until`


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lab")
    for name, seed in (("train", 0), ("test", 900)):
        generate(root / name, 40, seed=seed, spec=Spec(("towers", "roll")), progress=False)
    torch.manual_seed(0)
    VJEPA2Model(tiny_config()).save_pretrained(root / "encoder")
    return root


def test_controls_stand_beside_the_encoder_and_a_stopped_run_goes_on(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = {"probes": ("ridge", "attentive1"), "layers": (3,), "variables": ("falls", "speed")}
    quick = Training(batch=8, every=5, patience=1, most=5, width=24)
    out = tmp_path / "probe.json"
    found = run(lab / "encoder", lab / "test", lab / "train", out, how=quick, command="foretell eval probe", **ask)  # type: ignore[arg-type]
    takers = {one["taker"] for one in found["figures"]}
    assert takers == {"encoder, layer 3", "random init, layer 3", "raw pixels"} and len(found["figures"]) == 12
    assert all(one["low"] <= one["value"] <= one["high"] for one in found["figures"])
    assert json.loads(out.read_text())["command"] == "foretell eval probe" and out.with_suffix(".png").is_file()
    assert len(table(found).splitlines()) == 2 + 2 * 3

    lines = out.with_suffix(".cells.jsonl").read_text().splitlines(keepends=True)
    out.with_suffix(".cells.jsonl").write_text("".join(lines[:-1]) + lines[-1][:20])
    measured: list[str] = []
    measure = Bench.measure

    def counted(self: Bench, name: str, *given: Any) -> Any:
        measured.append(name)
        return measure(self, name, *given)

    monkeypatch.setattr(Bench, "measure", counted)
    again = run(lab / "encoder", lab / "test", lab / "train", out, how=quick, command="foretell eval probe", **ask)  # type: ignore[arg-type]
    assert len(measured) == 1
    assert [one["value"] for one in again["figures"]] == pytest.approx([one["value"] for one in found["figures"]])


def test_views_are_the_same_for_everybody_and_of_the_clips_asked(lab: Path) -> None:
    world, train = VJEPA2World.from_pretrained(lab / "encoder"), load_clips(lab / "train")
    see = probe.raw_pixels(world)
    first, second = probe.views_of(train, see, world, 2)
    again, layer = probe.views_of(train, see, world, 1)[0], probe.views_of(train, probe.layer_of(world, 0), world, 1)[0]
    plain = probe.watch(train, see, world)
    assert (
        first.shape == second.shape == plain.shape
        and np.array_equal(first, again)
        and not np.array_equal(first, second)
    )
    far = np.abs(first[:, None].astype(np.float32) - plain[None].astype(np.float32)).mean((2, 3))  # [views, clips]
    assert (far.argmin(1) == np.arange(len(plain))).mean() > 0.5
    embedded = probe.layer_of(world, 0)(torch.from_numpy(probe.frames_of(train, world, [0])))
    assert layer.shape[2] == embedded.shape[2]


def test_the_last_tubelets_alone_are_read(lab: Path, tmp_path: Path) -> None:
    world, test = VJEPA2World.from_pretrained(lab / "encoder"), load_clips(lab / "test")
    grid = grid_of(world.model.config)
    whole = probe.watch(test, probe.raw_pixels(world), world)
    last = probe.watch(test, probe.latest(probe.raw_pixels(world), grid, 1), world)
    assert np.array_equal(last, whole[:, -grid[1] * grid[2] :]) and grid[0] > 1
    for see in (probe.raw_pixels(world), probe.layer_of(world, 0)):
        told = probe.watch(test, probe.latest(see, grid, 1), world)
        alone = probe.watch(test, see, world, last=world.model.config.tubelet_size)
        np.testing.assert_allclose(alone, told, atol=2e-3)
    quick = Training(batch=8, every=4, patience=0, most=8, width=24)
    ask = {"probes": ("ridge", "attentive2"), "layers": (3,), "views": 1, "tubelets": 1, "how": quick}
    found = run(lab / "encoder", lab / "test", lab / "train", tmp_path / "x.json", **ask)  # type: ignore[arg-type]
    assert {one["variable"] for one in found["figures"]}.isdisjoint(probe.PLACES) and len(found["figures"]) == 3 * 2 * 8
    assert {one["annealed"] for one in found["figures"] if one["probe"] == "attentive2"} == {8}


def test_finetuning_teaches_the_encoder_what_its_features_lack(lab: Path, tmp_path: Path) -> None:
    """Labels that a random-init encoder's frozen features tell badly: it learns them, and its own weights stay."""
    world = VJEPA2World.from_pretrained(lab / "encoder")
    before = {name: tensor.clone() for name, tensor in world.model.state_dict().items()}
    train, test = load_clips(lab / "train"), load_clips(lab / "test")
    asked, answers = (questions_of(part.clips)["y"] for part in (train, test))
    held, known = asked.part(np.arange(8)), asked.part(np.arange(8, 40))
    how = Training(batch=16, warmup=5, every=20, patience=3, most=120, width=24)
    told = probe.finetuned(world, 3, train, test, known, held, answers, how)
    assert told.values.shape == (40, 1) and told.curve[0][0] == 20 and told.setting["lr"] in probe.FINE_RATES
    assert max(score for _, score in told.curve) > 0.2
    assert all(torch.equal(tensor, before[name]) for name, tensor in world.model.state_dict().items())
    ask = {"probes": ("ridge", "finetune"), "layers": (3,), "variables": ("falls",)}
    quick = Training(batch=8, every=2, patience=1, most=2, width=24)
    found = run(lab / "encoder", lab / "test", lab / "train", tmp_path / "x.json", how=quick, **ask)  # type: ignore[arg-type]
    tuned = {one["taker"] for one in found["figures"] if one["probe"] == "finetune"}
    assert tuned == {"encoder, layer 3", "random init, layer 3"} and "raw pixels" in table(found)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"probes": ("magic",)}, "probe magic is unknown: choose from ridge"),
        ({"layers": (9,)}, "layer 9 is unknown"),
        ({"variables": ("taste",)}, "variable taste is unknown: choose from colour, count, drops, falls"),
        (
            {"variables": ("x",), "views": 2},
            "variable of moved views x is unknown: choose from colour, count, drops, falls",
        ),
        ({"tubelets": 9}, "--tubelets 9 is unknown: choose from 1, 2"),
        ({"probes": ("finetune",), "views": 2}, "finetune learns from whole clips as they are: leave out --views"),
        ({"probes": ("ridge", "knn"), "views": 2}, "--views 2: only attentive probes learn from views"),
    ],
)
def test_what_does_not_exist_is_refused(lab: Path, tmp_path: Path, change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        run(lab / "encoder", lab / "test", lab / "train", tmp_path / "x.json", **change)


def test_every_variable_of_the_worlds_is_known(lab: Path) -> None:
    asked = questions_of(load_clips(lab / "train").clips)
    assert asked.keys() == {"falls", "drops", "margin", "mass", "speed", "x", "y", "count", "shape", "colour"}
    kinds = {name: question.kinds for name, question in asked.items() if question.kinds}
    assert kinds == {"falls": 2, "drops": 2, "shape": 3, "colour": len(COLOURS)} and len(asked["x"].rows) == 40
