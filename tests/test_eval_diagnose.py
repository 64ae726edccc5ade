"""Claims about the bridge diagnosis: it names the stage that kills a signal, and only where the interval carries it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foretell.eval import diagnose
from foretell.eval.diagnose import (
    EXCHANGES,
    Stage,
    apart,
    asking,
    change,
    dive,
    exchanged,
    hidden,
    largest_drop,
    measure_control,
    run,
    stages_of,
    table,
    words,
    world_of,
)
from foretell.eval.probe import Bench, Question, Training, frames_of
from foretell.perception.encoder import normalise
from foretell.reasoner.answer import Foretell
from foretell.train.data import load_clips
from foretell.train.worlds import Spec, generate

from .reasoner_tiny import tiny_foretell


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Worlds whose frames are noise, brighter where the outcome will happen: a signal that every layer can pass on."""
    root, rng = tmp_path_factory.mktemp("lab"), np.random.default_rng(0)
    for name, seed in (("train", 0), ("test", 900)):
        generate(root / name, 48, seed=seed, spec=Spec(("towers",)), progress=False)
        packed = load_clips(root / name)
        happens = np.array([clip["outcome"]["value"] for clip in packed.clips])
        planted = rng.integers(0, 100, packed.frames.shape) + 150 * happens.reshape(-1, 1, 1, 1, 1)
        np.save(root / name / "frames.npy", planted.astype(np.uint8))
    return root


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Foretell:
    """The tiny model, in place of whatever is named."""
    found = tiny_foretell()
    monkeypatch.setattr(diagnose, "load_model", lambda source: found)
    return found


def diagnosed(lab: Path, out: Path, **options: Any) -> dict[str, Any]:
    return run(
        "tiny", lab / "test", lab / "train", out, variables=("falls",), command="foretell eval diagnose", **options
    )


def test_a_signal_that_arrives_is_read_at_every_stage(lab: Path, tmp_path: Path, reader: Foretell) -> None:
    found = diagnosed(lab, tmp_path / "x.json")
    stages = [stage.name for stage in stages_of(reader.model.config)]
    assert [row["taker"] for row in found["figures"]] == stages and stages[0] == "raw pixels, input"
    assert stages[-1] == "language model, layer 2, last token, shuffled labels"
    for row in (one for one in found["figures"] if not one["shuffled"]):
        assert row["value"] > 0.9 and row["chance"] == 0.5 and row["n"] == 48, row
    assert all("no drop" in told or "no difference" in told for told in words(found))
    assert len(table(found).splitlines()) == 2 + len(stages)
    assert json.loads((tmp_path / "x.json").read_text())["command"] == "foretell eval diagnose"
    assert (tmp_path / "x.png").is_file()
    assert not list(tmp_path.glob("hidden-*"))


def test_a_bridge_that_kills_the_signal_is_named(lab: Path, tmp_path: Path, reader: Foretell) -> None:
    for intake in (reader.model.bridge.seen, reader.model.bridge.imagined):
        torch.nn.init.zeros_(intake.project.weight)
    found = diagnosed(lab, tmp_path / "x.json")
    drop = next(row for row in found["changes"] if row["path"] == "video")
    assert (drop["from"], drop["to"]) == ("encoder, taps side by side", "bridge, pooled") and drop["high"] < 0
    assert "largest drop" in words(found)[0] and "(bridge, pooled)" in words(found)[0]
    dead = [row for row in found["figures"] if row["stage"] in ("bridge", "language model")]
    assert all(row["value"] == 0.5 for row in dead)


def test_a_language_model_that_does_not_listen_is_named(lab: Path, tmp_path: Path, reader: Foretell) -> None:
    """The video's tokens still hold the signal; the last token never hears of it."""
    for layer in reader.model.language_model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    found = diagnosed(lab, tmp_path / "x.json")
    assert "end to end less arrives, from 1.00 (bridge, output) to 0.50" in words(found)[-1]
    held = [row["value"] for row in found["figures"] if row["place"] == "video" and not row["shuffled"]]
    assert min(held) > 0.9


def test_a_stopped_diagnosis_goes_on(
    lab: Path, tmp_path: Path, reader: Foretell, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, ask = tmp_path / "x.json", {"labels": 30, "limit": 20}
    found = diagnosed(lab, out, **ask)
    assert found["clips"] == {"train": 30, "test": 20}
    cells = out.with_suffix(".cells.jsonl")
    lines = cells.read_text().splitlines(keepends=True)
    cells.write_text("".join(lines[:-1]) + lines[-1][:20])
    measured = []

    def counted(*given: Any) -> Any:
        measured.append(given)
        return measure_control(*given)

    monkeypatch.setattr(diagnose, "measure_control", counted)
    assert diagnosed(lab, out, **ask)["figures"] == found["figures"] and len(measured) == 1
    monkeypatch.setattr(diagnose, "Views", None)  # nothing is left to look at
    assert diagnosed(lab, out, **ask)["figures"] == found["figures"]


def test_what_is_read_is_what_the_model_holds_when_it_is_asked_alone(lab: Path, tmp_path: Path) -> None:
    reader, packed = tiny_foretell(), load_clips(lab / "test")
    names, world = ("count", "falls"), world_of(reader)
    depths = dive(reader, world, packed, names, tmp_path / "test")
    pixels = normalise(torch.from_numpy(frames_of(packed, world, [17])))
    ids = torch.tensor([reader.processor.prompt_ids(diagnose.ASKED["falls"])])
    with torch.no_grad():
        output = reader.model(input_ids=ids, pixel_values_videos=pixels, output_hidden_states=True)
        output_tokens = reader.model.video_embeds(*reader.model.watch(pixels))
    places = ids[0] == reader.processor.video_token_id
    for layer, states in enumerate(output.hidden_states):
        np.testing.assert_allclose(depths.video[layer, 17], states[0, places], atol=2e-2)
        np.testing.assert_allclose(depths.last["falls"][layer, 17, 0], states[0, -1], atol=2e-2)
    np.testing.assert_allclose(depths.video[0, 17], output_tokens[0], atol=1e-2)


def test_questions_behind_one_video_do_not_see_each_other() -> None:
    reader = tiny_foretell()
    video = torch.randn(1, reader.model.config.bridge_config.tokens, 32)
    with torch.no_grad():
        both, alone = (asking(reader.processor, names) for names in (("count", "falls"), ("falls",)))
        first, second = (hidden(reader, [one], video)[:, 0, one.sources[-1]] for one in (both, alone))
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)


def test_shuffled_labels_are_the_same_labels_on_other_clips() -> None:
    values = np.tile([0.0, 1.0], 500).astype(np.float32)
    asked = Question("falls", np.arange(1000), values, [str(k) for k in range(1000)], 2)
    shuffled = exchanged(asked, 0)
    assert shuffled.values.sum() == values.sum() and abs(np.mean(shuffled.values == values) - 0.5) < 0.05
    assert shuffled.scenes == asked.scenes and np.array_equal(asked.values, values)
    assert not np.array_equal(shuffled.values, exchanged(asked, 1).values)


def test_a_control_of_shuffled_labels_is_at_chance_beside_a_label_that_outshines_all_else() -> None:
    rng, stage = np.random.default_rng(0), Stage("language model", 30, "last", shuffled=True)
    truth = np.tile([0.0, 1.0], 500).astype(np.float32)
    features = (0.3 * rng.normal(size=(1000, 1, 64)) + (2 * truth - 1)[:, None, None]).astype(np.float16)
    asked = Question("falls", np.arange(1000), truth, [str(k) for k in range(1000)], 2)

    def benches() -> Iterator[Bench]:
        for seed in range(EXCHANGES["ridge"]):
            labels = {"falls": exchanged(asked, seed)}
            yield Bench(features, features, (1, 1, 1), labels, {"falls": asked}, pool=apart)

    told = measure_control(benches(), stage, "falls", "ridge", Training())
    assert told["shuffled"] and told["exchanges"] == EXCHANGES["ridge"] and told["n"] == 1000
    assert abs(told["value"] - 0.5) < 0.15
    assert told["low"] < 0.3 and told["high"] > 0.7  # one exchange alone would tell something else


def rows_of(right: list[float], truth: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """Cells that are right on so large a share of the clips, the first ones."""
    said = [np.where(np.arange(len(truth)) < share * len(truth), truth, 1 - truth).tolist() for share in right]
    return [{"taker": f"stage {k}", "variable": "falls", "probe": "ridge", "said": one} for k, one in enumerate(said)]


def test_the_largest_drop_is_found_and_its_interval_widens_with_the_looks() -> None:
    truth = np.tile([0.0, 1.0], 100).astype(np.float32)
    asked = Question("falls", np.arange(200), truth, [str(k) for k in range(200)], 2)
    rows = rows_of([0.9, 0.88, 0.7, 0.75, 0.74], truth)
    drop = largest_drop(asked, rows)
    assert (drop["from"], drop["to"], drop["looks"]) == ("stage 1", "stage 2", 4)
    assert drop["value"] == pytest.approx(-0.18) and drop["high"] < 0
    once = change(asked, rows[1], rows[2])
    assert drop["low"] < once["low"] < once["value"] == drop["value"] < once["high"] < drop["high"]
    assert change(asked, rows[3], rows[4])["high"] >= 0


def test_what_does_not_exist_is_refused(lab: Path, tmp_path: Path, reader: Foretell) -> None:
    with pytest.raises(ValueError, match="variable taste is unknown: choose from colour, count"):
        run("tiny", lab / "test", lab / "train", tmp_path / "x.json", variables=("taste",))
    with pytest.raises(ValueError, match="probe knn is unknown: choose from ridge, attentive1"):
        run("tiny", lab / "test", lab / "train", tmp_path / "x.json", probes=("knn",))


def test_attentive_probes_see_every_token(lab: Path, tmp_path: Path, reader: Foretell) -> None:
    quick = Training(batch=16, warmup=2, every=10, patience=2, most=20, width=24, rates=((3e-3, 0.01),))
    found = diagnosed(lab, tmp_path / "x.json", probes=("attentive1",), how=quick)
    values = [row["value"] for row in found["figures"] if not row["shuffled"]]
    assert len(values) == len(found["figures"]) - 4 and np.mean(values) > 0.8
