"""Claims about the comparison of encoders behind one bridge: the same training for all, nothing made twice, intervals
over scenes and runs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import VJEPA2Config, VJEPA2Model

from foretell.bridge.cache import FeatureCache
from foretell.eval import report, rivals
from foretell.eval.imagined import Filming
from foretell.perception.encoder import VJEPA2World, normalise, tiny_config
from foretell.reasoner.answer import Foretell
from foretell.train import fit, pretrain
from foretell.train.objectives import pixels_of
from foretell.train.recipes import FitRecipe, nano_rivals, tiny, tiny_encoder

from .fit_lab import make_lab

RECIPE = replace(tiny(), imagined_tokens=2, magnify=0, mirror=False)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_lab(tmp_path_factory.mktemp("rivals"), clips=12)
    torch.manual_seed(1)
    single = tiny_config().to_diff_dict() | {"frames_per_clip": 1, "tubelet_size": 1}
    VJEPA2Model(VJEPA2Config(**single)).save_pretrained(root / "pictures")
    np.save(root / "clips.npy", np.random.default_rng(0).integers(0, 256, (24, 8, 16, 16, 3), dtype=np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "gemm_peak", lambda dtype, device: 1e9)
        rate = VJEPA2World.from_pretrained(root / "encoder").rate
        recipe = replace(tiny_encoder(), objective="pixel_ar_raw", steps=2, rate=rate)
        pretrain.run(root / "clips.npy", root / "painter", recipe)
    return root


def compared(lab: Path, out: Path, **more: Any) -> dict[str, Any]:
    names = {"V-JEPA": lab / "encoder", "MAE": lab / "pictures"}
    given: dict[str, Any] = {"recipe": RECIPE, "seeds": 2, "imagination": True, "painter": lab / "painter"}
    given |= {"controls": False, "per_clip": 4}
    data = lab / "data"
    return rivals.run(data, data, data, names, lab / "runs", out, llm=str(lab / "llm"), **given | more)


@pytest.fixture(scope="module")
def found(lab: Path) -> dict[str, Any]:
    compared(lab, lab / "rivals.json")
    read: dict[str, Any] = json.loads((lab / "rivals.json").read_text())
    return read


def test_every_encoder_gets_the_same_training_and_imagination_is_an_arm_of_its_own(
    lab: Path, found: dict[str, Any]
) -> None:
    ways = ("", ", imagining", ", imagining and surprised", ", imagining in pixels")
    assert list(found["arms"]) == [*(f"V-JEPA{way}" for way in ways), "MAE"]
    names = ("v-jepa-1", "v-jepa-imagining-1", "v-jepa-imagining-and-surprised-1", "v-jepa-imagining-in-pixels-1")
    told = [fit.told(lab / "runs" / name / "model")["recipe"] for name in (*names, "mae-1")]
    assert [one.pop("imagined_tokens") for one in told] == [0, 2, 2, 2, 0]
    assert [one.pop("surprise") for one in told] == [False, False, True, False, False]
    assert [one.pop("frames") for one in told] == [0, 0, 0, 0, rivals.PICTURES]
    assert all(one == told[0] for one in told)
    assert told[0]["seed"] == 1


def test_films_are_read_in_training_and_in_the_exam(lab: Path, found: dict[str, Any]) -> None:
    (films,) = (lab / "runs" / "films").iterdir()
    drawn, told = (FeatureCache.open(one) for one in (films, lab / "runs" / "features"))
    keys = list(drawn.place)
    assert len(keys) == 12 and all(key in told for key in keys)
    (seen, film), (same, expected) = (one.rows(keys) for one in (drawn, told))
    torch.testing.assert_close(seen, same)
    assert film.shape == expected.shape and ((film - expected).abs().amax((1, 2)) > 0.1).all()
    pixels = next(
        arm for arm in rivals.arms_of({"V-JEPA": lab / "encoder"}, RECIPE, True, lab / "painter") if arm.painter
    )
    assert isinstance(rivals.opened_as(pixels, lab / "runs" / pixels.run(0) / "model"), Filming)


def test_what_an_answer_takes_grows_with_what_is_imagined(found: dict[str, Any]) -> None:
    takes = {name: one["flops"] for name, one in found["answer"].items()}
    ways = ("", ", imagining", ", imagining and surprised", ", imagining in pixels")
    grown = [takes[f"V-JEPA{way}"] for way in ways]
    assert grown == sorted(set(grown))
    assert all(one["seconds"] > 0 for one in found["answer"].values())


def test_figures_are_means_over_runs_and_differences_of_them(found: dict[str, Any]) -> None:
    for line in found["figures"].values():
        assert list(line["arms"]) == [*found["arms"], rivals.BLIND]
        for name, arm in line["arms"].items():
            assert len(arm["runs"]) == (1 if name == rivals.BLIND else 2)
            assert arm["value"] == pytest.approx(np.mean(arm["runs"]), abs=1e-4)
            assert arm["low"] <= arm["value"] <= arm["high"]
        for name, ahead in line["ahead_of"].items():
            assert ahead["value"] == pytest.approx(
                line["arms"]["V-JEPA"]["value"] - line["arms"][name]["value"], abs=2e-4
            )
        features, pixels = (line["arms"][f"V-JEPA{way}"]["value"] for way in (rivals.IMAGINING, rivals.FILMING))
        (apart,) = line["imagining_ahead_of"].values()
        assert apart["value"] == pytest.approx(features - pixels, abs=2e-4) and apart["low"] <= apart["high"]


def test_differences_are_adjusted_for_how_many_there_are() -> None:
    rng = np.random.default_rng(0)

    def rows(share: float) -> list[list[dict[str, Any]]]:
        asked = ("yes", "no") * 300
        kept = {"kind": "predictive", "type": "falls", "scenario": "towers", "options": ["yes", "no"]}
        return [
            [{**kept, "scene": str(n), "truth": truth, "right": rng.random() < share} for n, truth in enumerate(asked)]
            for _ in range(3)
        ]

    two = {"J": rows(0.6), "worse": rows(0.4)}
    few, many = rivals.figures(two), rivals.figures({**two, **{f"alike {n}": rows(0.6) for n in range(6)}})
    for line in (*few.values(), *many.values()):
        assert line["ahead_of"]["worse"]["p"] < 0.001 and "J is ahead of worse" in rivals._verdict(
            "J", line["ahead_of"]
        )
    assert few["towers_falls"]["ahead_of"]["worse"]["p"] < many["towers_falls"]["ahead_of"]["worse"]["p"]
    assert all(one["p"] > 0.05 for name, one in many["towers_falls"]["ahead_of"].items() if name != "worse")


def test_what_was_trained_and_answered_is_not_made_again(
    lab: Path, found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "run", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(rivals, "film", lambda *_: pytest.fail("drawn again"))
    monkeypatch.setattr(Foretell, "load", lambda *_, **__: pytest.fail("asked again"))
    again = compared(lab, lab / "rivals.json")
    assert list(again["arms"]) == list(found["arms"])
    assert json.loads((lab / "rivals.json").read_text())["figures"] == found["figures"]
    with pytest.raises(ValueError, match="another encoder, data or recipe: remove it"):
        compared(lab, lab / "other.json", recipe=replace(RECIPE, width=48))
    other = rivals.arms_of({"V-JEPA": lab / "pictures", "MAE": lab / "encoder"}, RECIPE, False)[0]
    with pytest.raises(ValueError, match="another encoder, data or recipe"):
        rivals.trained(
            replace(other, recipe=replace(RECIPE, imagined_tokens=0)),
            0,
            lab / "data",
            lab / "data",
            lab / "runs",
            None,
            None,
        )


def test_a_table_says_what_intervals_allow(found: dict[str, Any]) -> None:
    told = rivals.table(found)
    assert told.splitlines()[2].startswith("| V-JEPA |")
    section = report.rivals_section(found)
    assert section.startswith(told) and f"on {found['data']['questions']} questions" in section
    assert section.endswith(
        "95% intervals over scenes and 2 trainings each, whose spread few of them tell: Student's t."
    )
    assert "one training each" in report.rivals_section({**found, "seeds": 1})
    for verdicts, words in (
        ({"a": (0.01, 0.02, 0.01), "b": (-0.1, 0.2, 0.6)}, "J is ahead of a; no difference is shown to b"),
        ({"a": (-0.2, -0.1, 0.04)}, "J is behind a"),
        ({"a": (0.01, 0.2, 0.2)}, "by its own interval alone ahead of a"),
        ({"a": (-0.2, -0.01, 0.2)}, "by its own interval alone behind a"),
    ):
        line = {
            "label": "towers",
            "imagining_ahead_of": {},
            "ahead_of": {name: dict(zip(("low", "high", "p"), one, strict=True)) for name, one in verdicts.items()},
        }
        assert rivals.words({"arms": {"J": []}, "figures": {"towers": line}}) == [f"towers: {words}."]
    line |= {"ahead_of": {}, "imagining_ahead_of": {"J, imagining in pixels": {"low": 0.01, "high": 0.2, "p": 0.01}}}
    (said,) = rivals.words({"arms": {"J": []}, "figures": {"towers": line}})
    assert said.endswith(" J, imagining: it is ahead of J, imagining in pixels.")


def test_a_plot_lies_beside_the_figures(lab: Path, found: dict[str, Any]) -> None:
    from PIL import Image

    with Image.open(lab / "rivals.png") as picture:
        assert picture.width > 300 < picture.height * 3


@pytest.mark.parametrize(
    ("names", "recipe", "imagination", "words"),
    [
        (["encoder"], RECIPE, False, "two or more to compare"),
        (["encoder", "pictures"], replace(RECIPE, imagined_tokens=0), True, "imagined_tokens above 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    lab: Path, names: list[str], recipe: FitRecipe, imagination: bool, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        rivals.arms_of({name: lab / name for name in names}, recipe, imagination)
    data = lab / "data"
    with pytest.raises(ValueError, match="a control is called so"):
        rivals.run(data, data, data, {"blind": lab / "encoder"}, lab / "runs", lab / "x.json", recipe=RECIPE)
    with pytest.raises(ValueError, match="nowhere: no pretraining run there"):
        compared(lab, lab / "x.json", painter=lab / "nowhere")
    with pytest.raises(ValueError, match="names must differ"):
        rivals.arms_of({"V-JEPA": lab / "encoder", "V JEPA": lab / "encoder"}, RECIPE, False)


def test_the_budget_is_what_the_comparison_promises() -> None:
    recipe = nano_rivals()
    assert sum(s.steps * s.batch * s.questions for s in recipe.stages.values() if s.questions) <= 10_048
    assert 0 not in recipe.taps and not recipe.mirror


def test_controls_have_the_shape_of_the_first_encoder_and_pixels_pass_unchanged(tmp_path: Path) -> None:
    torch.manual_seed(7)
    VJEPA2Model(tiny_config()).save_pretrained(tmp_path / "encoder")
    folders = rivals.controls_of(tmp_path / "encoder", replace(RECIPE, rate=8.0), tmp_path / "runs")
    learned, random, pixels = (
        VJEPA2World.from_pretrained(one, rate=8.0) for one in (tmp_path / "encoder", *folders.values())
    )
    clip = torch.randint(0, 256, (2, 8, 16, 16, 3), dtype=torch.uint8)
    seen, unlearned = learned.encode(clip), random.encode(clip)
    assert unlearned.shape == seen.shape and not torch.allclose(unlearned, seen)
    told = pixels.encode(clip)
    plain = pixels_of(normalise(clip), learned.model.config)  # the same numbers in another order
    torch.testing.assert_close(told.sort(-1).values, plain.sort(-1).values, atol=1e-5, rtol=0)
    assert rivals.arms_of(folders, RECIPE, False)[1].recipe.taps == (0,)


def test_pictures_models_watch_frame_by_frame(lab: Path) -> None:
    world = VJEPA2World.from_pretrained(lab / "pictures", rate=8.0, frames=8)
    one = VJEPA2World.from_pretrained(lab / "pictures", rate=8.0)
    clip = torch.randint(0, 256, (2, 8, 16, 16, 3), dtype=torch.uint8)
    assert (world.frames, world.grid, world.tokens_per_clip) == (8, (8, 4, 4), 128)
    apart = torch.cat([one.encode(clip[:, t : t + 1]) for t in range(8)], dim=1)
    torch.testing.assert_close(world.encode(clip), apart)
    with pytest.raises(ValueError, match="sees 8 frames at a time, so not 12"):
        VJEPA2World.from_pretrained(lab / "encoder", rate=8.0, frames=12)
    with pytest.raises(ValueError, match="expects nothing next"):
        fit.encoder_of(lab / "pictures", replace(RECIPE, frames=8, rate=8.0))
