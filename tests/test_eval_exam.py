"""The exam, its controls and its report, on models and worlds made here."""

import json
import re
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from torch import Tensor

from foretell.eval import exam, page, report
from foretell.eval.controls import ALTERED, Blind, MeanFeatures
from foretell.perception.video import Clip, read_clip
from foretell.reasoner.answer import Answer, Calibration
from foretell.train.data import load_clips

from .conftest import VideoMaker
from .reasoner_tiny import tiny_foretell

ROOT = Path(__file__).parents[1]
Row = dict[str, Any]
OWN = ["foretell", "own words", "blind", "mean features", "shuffled frames", "first frame only", "recoloured"]
FALLS, STANDS = 200, 50  # the brightness that tells a seeing model how a clip ends


def question(rng: np.random.Generator, scene: str, scenario: str, outcome: bool) -> list[Row]:
    """A negated or plain yes/no question and one about a colour; only the yes/no one depends on the outcome."""
    negated = bool(rng.integers(2))
    asked = f"Will it {'not ' if negated else ''}{'fall' if scenario == 'towers' else 'touch'}?"
    common = {"video": f"clips/{scene}.mp4", "until": 0.5, "scene": scene, "scenario": scenario}
    kind = {"kind": "predictive", "type": "falls" if scenario == "towers" else "touches", "negated": negated}
    colour = str(rng.choice(["red", "blue", "green"]))
    return [
        {"id": f"{scene}-0", **common, **kind, "question": asked, "options": ["yes", "no"]}
        | {"answer": "yes" if outcome != negated else "no"},
        {"id": f"{scene}-1", **common, "kind": "descriptive", "type": "colour", "negated": False}
        | {"question": "What colour is it?", "options": ["red", "blue", "green"], "answer": colour},
    ]


def make_worlds(folder: Path, clips: int, seed: int) -> Path:
    """A decoded worlds folder: 8 frames of 8x8 at 8/s, as bright as the outcome says."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    rows, questions = [], []
    frames = np.zeros((clips, 8, 8, 8, 3), dtype=np.uint8)
    for place in range(clips):
        scenario, outcome = ("towers", "collide")[place % 2], bool(place // 2 % 2)
        scene = f"{scenario}-{seed + place}"
        frames[place] = FALLS if outcome else STANDS
        rows.append({"scene": scene, "video": f"clips/{scene}.mp4", "seed": seed + place, "frames": 8, "fps": 8.0})
        questions += question(rng, scene, scenario, outcome)
    for name, lines in (("clips", rows), ("questions", questions)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    np.save(folder / "frames.npy", frames)
    (folder / "digests.json").write_text(json.dumps([""] * clips))
    return folder


class Seer:
    """Knows what brightness means, says the first colour, and can be told to fail."""

    frames, rate = 4, 8.0

    def __init__(self, sure: float = 0.9, fail_after: int | None = None, silent: bool = False) -> None:
        self.sure, self.fail_after, self.silent = sure, fail_after, silent
        self.asked: list[str] = []
        self.calibration = Calibration(temperature=9.0)

    def watch(self, clip: Clip) -> tuple[Tensor, None]:
        return torch.from_numpy(clip.frames).float().mean().view(1, 1, 1), None

    def answer_many(self, clip: Clip, questions: Sequence[tuple[str, Sequence[str] | None]]) -> list[Answer]:
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        return self.answer_features(*self.watch(clip), [questions])[0]

    def answer_features(
        self, features: Tensor, imagined: Tensor | None, questions: Sequence[Sequence[tuple[str, Sequence[str] | None]]]
    ) -> list[list[Answer]]:
        return [
            [self._answer(float(look), *one) for one in asked] for look, asked in zip(features, questions, strict=True)
        ]

    def generate_features(self, features: Tensor, imagined: Tensor | None, questions: Sequence[str]) -> list[Answer]:
        """Rightly what is asked with yes or no, in capitals, surer of the text than of the other; no colour at all."""
        light = float(features) > (FALLS + STANDS) / 2
        said = ["Nothing." if "colour" in one else "NO." if light == ("not" in one) else "Yes" for one in questions]
        return [Answer(text, 0.4, abstained=False) for text in said]

    def _answer(self, light: float, text: str, options: Sequence[str] | None) -> Answer:
        assert options is not None
        self.asked.append(text)
        said = options[int((light > (FALLS + STANDS) / 2) == ("not" in text))] if len(options) == 2 else options[0]
        odds = {option: self.sure if option == said else (1 - self.sure) / (len(options) - 1) for option in options}
        return Answer(said, self.sure, abstained=len(options) == 3, probabilities=None if self.silent else odds)


@pytest.fixture
def worlds(tmp_path: Path) -> Path:
    return make_worlds(tmp_path / "test", 40, seed=9000)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def seat(monkeypatch: pytest.MonkeyPatch, **models: Seer) -> None:
    """Have folders called so load as these models."""
    monkeypatch.setattr(exam, "load_model", lambda folder: models[Path(folder).name])


# --- the blind control


def texts(count: int, leak: str, seed: int) -> list[Row]:
    """Yes/no rows whose answers are coin flips, unless they leak through the wording or the time shown."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        until, negated, outcome = float(rng.uniform(0.2, 1.0)), bool(rng.integers(2)), bool(rng.integers(2))
        if leak == "until":
            outcome = 0.45 < until < 0.7
        if leak == "negation":
            outcome = True
        asked = f"Will the {rng.choice(['red', 'blue'])} tower {'not ' if negated else ''}fall?"
        rows.append(
            {"question": asked, "options": ["yes", "no"], "answer": "yes" if outcome != negated else "no"}
            | {"until": until, "duration": 2.0, "scenario": "towers", "kind": "predictive"}
        )
    return rows


def blind_accuracy(leak: str) -> float:
    guesses = Blind.fit(texts(500, leak, seed=0)).answer_rows(rows := texts(400, leak, seed=1))
    assert all(sum(odds.values()) == pytest.approx(1) and list(odds) == ["yes", "no"] for odds in guesses)
    return float(
        np.mean([max(odds, key=odds.__getitem__) == row["answer"] for odds, row in zip(guesses, rows, strict=True)])
    )


def test_blind_is_at_chance_where_text_and_time_tell_nothing() -> None:
    assert 0.42 < blind_accuracy("nothing") < 0.58


@pytest.mark.parametrize("leak", ["until", "negation"])
def test_blind_finds_a_leak(leak: str) -> None:
    assert blind_accuracy(leak) > 0.9


def test_blind_says_which_kinds_it_knows() -> None:
    blind = Blind.fit(texts(20, "nothing", seed=0))
    with pytest.raises(ValueError, match=r"'explanatory'; the blind guesser knows \['predictive'\]"):
        blind.answer_rows([{**texts(1, "nothing", seed=0)[0], "kind": "explanatory"}])


# --- mean features


def clip_at(light: int) -> Clip:
    return Clip(np.full((4, 8, 8, 3), light, np.uint8), np.arange(4) / 8, duration=1.0, shown=0.375)


def test_mean_features_shows_the_average_and_asks_each_question_once() -> None:
    model = Seer()
    control = MeanFeatures.of(model, [clip_at(0), clip_at(240)])
    assert (float(control.world), control.frames, control.rate) == (120.0, 4, 8.0)
    asked = [("Will it fall?", ["yes", "no"]), ("Will it not fall?", ["yes", "no"])]
    assert control.answer_many(clip_at(0), asked) == control.answer_many(clip_at(240), asked)
    assert model.asked == ["Will it fall?", "Will it not fall?"]


def test_patches_alone_keep_the_first_channels_and_no_others() -> None:
    shown: list[Tensor] = []

    class Channels(Seer):
        """Sees a channel for every row of its frames."""

        def watch(self, clip: Clip) -> tuple[Tensor, None]:
            return torch.from_numpy(clip.frames[:1, None, :, 0, 0].astype(np.float32)), None

        def answer_features(self, features: Tensor, *given: Any) -> list[list[Answer]]:
            shown.append(features)
            return [[]]

    control = replace(MeanFeatures.of(Channels(), [clip_at(0), clip_at(240)]), own=3)
    for light in (200, 10):
        control.answer_many(clip_at(light), [("Will it fall?", ["yes", "no"])])
    assert [one.flatten().tolist() for one in shown] == [[200.0] * 3 + [120.0] * 5, [10.0] * 3 + [120.0] * 5]


@pytest.mark.parametrize(("taps", "channels"), [([0, 3, 6], 192), ([2, 4], 0), ([0], 0), (None, 0)])
def test_patches_are_told_apart_only_where_they_are_read_beside_other_layers(
    tmp_path: Path, taps: list[int] | None, channels: int
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"taps": taps, "vision_config": {"hidden_size": 192}}))
    assert exam.patch_channels(tmp_path) == channels
    assert exam.patch_channels(tmp_path.parent) == 0, "no config, nothing known"


# --- clips shown otherwise


def test_altered_clips_lose_what_they_should_and_nothing_else() -> None:
    frames = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3)
    clip = Clip(frames, np.arange(4) / 8, duration=1.0, shown=0.375)
    shown = {name: alter(clip) for name, alter in ALTERED.items()}
    assert all((one.shown, one.duration) == (0.375, 1.0) for one in shown.values())
    mixed = shown["shuffled frames"].frames
    assert sorted(frame.tobytes() for frame in mixed) == [frame.tobytes() for frame in frames]
    assert not np.array_equal(mixed, frames) and np.array_equal(ALTERED["shuffled frames"](clip).frames, mixed)
    assert (shown["first frame only"].frames == frames[0]).all()
    assert np.array_equal(shown["recoloured"].frames, frames[..., [2, 0, 1]])


# --- the exam


def test_the_whole_exam(tmp_path: Path, worlds: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = make_worlds(tmp_path / "train", 80, seed=0)
    (other := tmp_path / "other").mkdir()
    seat(monkeypatch, model=Seer(), other=Seer(silent=True))
    out = tmp_path / "results" / "tiny.json"
    exam.run(weights, worlds, out, train_data=train, controls={"random-init": other}, command="foretell eval exam")
    found = json.loads(out.read_text())
    lines = found["figures"]["headlines"]
    assert list(lines) == ["towers_falls", "collide_touches", "predictive_yes_no", "descriptive"]
    assert list(lines["towers_falls"]["takers"]) == [*OWN, "random-init"]
    assert lines["towers_falls"]["metric"] == "balanced accuracy"
    perfect = {"value": 1.0, "low": 1.0, "high": 1.0, "n": 20, "chance": 0.5}
    assert lines["towers_falls"]["takers"]["foretell"] == perfect
    assert found["takers"]["recoloured"].startswith("the model, not trained again") and list(found["takers"])[:7] == OWN
    low, high = lines["towers_falls"]["guessing"]  # balanced accuracy of 20 coins: a standard deviation of .11
    assert 0.25 <= low <= 0.35 and 0.65 <= high <= 0.75
    assert lines["towers_falls"]["takers"]["own words"] == perfect
    assert lines["descriptive"]["takers"]["own words"]["value"] == 0.0, "a text that is no option is wrong"
    (options,) = found["figures"]["by_option"]
    share = lines["descriptive"]["takers"]["foretell"]["value"]  # of three options one is held: right, or two are wrong
    assert options["takers"]["foretell"]["value"] == pytest.approx((share + 0.5 + share / 2) / 2, abs=1e-3)
    assert options["takers"]["own words"]["value"] == 0.5 and found["figures"]["minimal_pairs"] == []
    for control in ("blind", "mean features"):
        figure = lines["predictive_yes_no"]["takers"][control]
        assert figure["low"] <= figure["chance"] <= figure["high"]
    assert lines["predictive_yes_no"]["takers"]["random-init"]["value"] == 0.0
    assert lines["descriptive"]["takers"]["foretell"]["chance"] == pytest.approx(1 / 3, abs=1e-4)
    assert [(row["scenario"], row["type"]) for row in found["figures"]["by_type"]][-1] == ("towers", "falls")
    assert found["figures"]["calibration"]["foretell"]["ece"]["value"] == pytest.approx(0.1)
    assert found["figures"]["calibration"]["foretell"]["brier"]["value"] == pytest.approx(0.01)
    assert found["figures"]["calibration"]["random-init"]["brier"]["value"] == 1.0
    assert found["figures"]["abstention"]["answered"]["value"] == 0.5
    assert found["figures"]["abstention"]["right_when_answered"]["value"] == 1.0
    assert found["data"]["test"]["seeds"] == [9000, 9039]
    assert (found["data"]["test"]["questions"], found["data"]["train"]["questions"]) == (80, 160)
    assert found["command"] == "foretell eval exam"
    pair = next(
        one for one in found["figures"]["pairs"] if one["headline"] == "towers_falls" and one["other"] == "random-init"
    )
    assert (pair["only_model"], pair["only_other"], pair["difference"]["value"]) == (20, 0, 1.0) and pair["p"] < 0.001


def test_both_clips_of_a_minimal_pair_must_be_right() -> None:
    def asked(pair: str, answer: str, question: str = "Will they touch?") -> Row:
        return {"pair": pair, "question": question, "answer": answer, "options": ["yes", "no"], "scenario": pair[:4]}

    rows = [asked("mass-1", "yes"), asked("mass-1", "no"), asked("fric-2", "no"), asked("fric-2", "yes")]
    rows += [asked("mass-3", "yes", "Is it red?"), asked("mass-3", "yes", "Is it red?"), asked("mass-4", "yes")]
    right = [{"right": one} for one in (True, True, True, False, True, True, True)]
    told = exam.minimal_pairs({"foretell": right}, rows)
    figures = {row["label"]: row["takers"]["foretell"] for row in told}
    assert {name: (one["value"], one["n"]) for name, one in figures.items()} == {
        "all minimal pairs": (0.5, 2), "fric": (0.0, 1), "mass": (1.0, 1)
    }  # fmt: skip
    assert figures["mass"]["chance"] == 0.25


def test_worlds_elsewhere_are_told_with_their_minimal_pairs() -> None:
    line: Row = {"takers": {"foretell": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 40, "chance": 0.25}}}
    made: Row = {"command": "foretell eval exam", "commit": "0" * 40, "date": "2026-01-01"}
    plain = {**made, "figures": {"headlines": {"falls": {"label": "falls", **line}}}}
    paired = {**made, "figures": plain["figures"] | {"minimal_pairs": [{"label": "all", **line}, {"label": "mass"}]}}
    assert "minimal pairs" not in report.elsewhere_section({"as trained": plain})
    told = report.elsewhere_section({"as trained": plain, "later": paired}).splitlines()
    assert told[0] == "| questions | as trained | later |"
    assert told[3] == "| minimal pairs: both right (chance 25) | – | 50.0 [40.0, 60.0] (n 40) |"


def test_a_written_answer_is_the_option_that_it_says() -> None:
    yes, unsure = (exam.among(Answer(*one, False), ("yes", "no")) for one in ((" YES. ", 0.8), ("No", 0.3)))
    assert yes == {"answer": "yes", "probabilities": {"yes": 0.8, "no": pytest.approx(0.2)}, "abstained": False}
    assert unsure == {"answer": "no", "probabilities": {"yes": 0.7, "no": 0.3}, "abstained": False}
    assert exam.among(Answer("perhaps", 0.9, False), ("yes", "no"))["probabilities"] is None


def test_the_page_of_an_exam_stands_alone_and_shows_the_surest_errors(
    tmp_path: Path, worlds: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [json.loads(row) for row in (worlds / "questions.jsonl").read_text().splitlines()]
    questions[1] |= {"question": "<script>alert(1)</script> What colour is it?", "answer": "green"}
    (worlds / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    seat(monkeypatch, model=Seer())
    exam.run(weights, worlds, tmp_path / "r.json", train_data=make_worlds(tmp_path / "train", 40, seed=0))
    text = (tmp_path / "r.html").read_text()
    assert "towers: will it fall?: 100.0 [100.0, 100.0] %, above chance (50.0); better than blind" in text
    assert text.index("Noise floor: 95% of those who choose by lot") < text.index("In words")
    assert "shuffled frames: the model, not trained again, shown the clips so" in text
    assert set(re.findall(r'(?:src|href)="(\w+:)', text)) == {"data:"} and "http" not in text
    assert "<script>" not in text and "&lt;script&gt;" in text
    assert text.count('class="card"') == page.WORST and "<th>blue</th>" in text
    clip = Image.open(BytesIO(b64decode(re.findall(r'src="data:image/webp;base64,([^"]+)', text)[0])))
    frames = [np.asarray(frame.convert("RGB"), dtype=int) for frame in ImageSequence.Iterator(clip)]
    rims = [bool(frame[0, 4, 0] > frame[0, 4, 1] + 50) for frame in frames]
    assert (rims[0], rims[-1]) == (False, True), "what was not shown has a red rim"


def test_other_readouts_join_the_figures_and_the_page(
    tmp_path: Path, worlds: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seat(monkeypatch, model=Seer())

    def layers() -> dict[str, Any]:
        Image.new("RGB", (4, 4)).save(tmp_path / "r-layers.png")
        told, kind = ["falls: the signal dies <here>."], {"variable": "falls", "probe": "ridge"}
        figures = [{**kind, "taker": name, "value": value} for name, value in (("tap", 0.9), ("answer", 0.6))]
        change = {**kind, "from": "tap", "to": "answer", "value": -0.3, "low": -0.4}
        changes = [{**change, "path": path, "high": high} for path, high in (("video", -0.2), ("last", 0.1))]
        clips = {"train": 1500, "test": 1000}
        return {"figures": figures, "changes": changes, "words": told, "plot": "r-layers.png", "clips": clips}

    row = {"property": "all", "context": "least", "value": 0.75, "low": 0.7, "high": 0.8, "n": 40, "chance": 0.5}
    metrics = ("relative accuracy, average", "relative accuracy, maximum", "quadruplet accuracy, average")
    told = [{**row, "model": who, "metric": metric} for who in ("trained", "random init") for metric in metrics]
    surprise = {"foretell": {"figures": told, "data": {"quadruplets": 20, "sha256": "0" * 64}}}
    also = {"layers": layers, "surprise": lambda: surprise}
    found = exam.run(weights, worlds, tmp_path / "r.json", altered=False, readouts=also)
    text = (tmp_path / "r.html").read_text()
    assert found["layers"]["plot"] == "r-layers.png" and found["surprise"] == surprise
    head, _, *lines = report.surprise_section(found).splitlines()[:4]
    assert head == "| property | of | n | chance | Foretell: trained | Foretell: random init |"
    scores = "40 | 50.0 | 75.0 [70.0, 80.0] | 75.0 [70.0, 80.0] |"
    assert lines == [f"| all | pairs | {scores}", f"| all | quadruplets | {scores}"]
    drop, _, about = report.layers_section(found).splitlines()
    assert drop.startswith(
        "- falls, ridge: along the video's tokens the largest drop is from 0.90 (tap) to 0.60 (answer)"
    )
    assert about.endswith("on 1,000 clips, from labels of 1,500 others.")
    assert "the signal dies &lt;here&gt;." in text and "75.0 [70.0, 80.0]" in text
    assert set(re.findall(r'(?:src|href)="(\w+:)', text)) == {"data:"}
    plain = exam.run(weights, worlds, tmp_path / "r.json", altered=False)
    assert "layers" not in plain and "What surprises it" not in (tmp_path / "r.html").read_text()


def test_a_missing_or_broken_answer_is_wrong(worlds: Path) -> None:
    rows = exam.load_rows(load_clips(worlds))[:3]
    taker = exam.Taker(
        "m", "1", lambda: lambda group: [{"probabilities": {"yes": np.nan, "no": 0.5}, "abstained": False}]
    )
    samples = exam.Samples(worlds / "s.jsonl", [taker])
    exam.sit(taker, [rows], samples)
    kept = samples.of("m", rows)
    assert [(row["right"], row["answer"], row["confidence"]) for row in kept] == [(False, None, 0.0)] * 3
    assert exam.score(kept)[1].value == 0.0


def test_answers_of_a_taker_who_is_not_there_this_time_stay(worlds: Path, tmp_path: Path) -> None:
    rows = exam.load_rows(load_clips(worlds))[:2]
    answer: dict[str, Any] = {"probabilities": {"yes": 1.0}, "abstained": False}
    here, away = (exam.Taker(name, "1", lambda: lambda group: [answer] * len(group)) for name in ("here", "away"))
    samples = exam.Samples(tmp_path / "s.jsonl", [here, away])
    for taker in (here, away):
        exam.sit(taker, [rows], samples)
    alone = exam.Samples(tmp_path / "s.jsonl", [exam.Taker("here", "2", here.open)])
    assert alone.rows == {}, "weights changed, and the other's answers are nobody's here"
    again = exam.Samples(tmp_path / "s.jsonl", [here, away])
    assert {name for name, _ in again.rows} == {"away"} and len(again.rows) == 2


def test_an_answer_that_is_no_option_is_wrong(worlds: Path) -> None:
    rows = exam.load_rows(load_clips(worlds))[:1]
    taker = exam.Taker("m", "1", lambda: lambda group: [{"probabilities": {"perhaps": 1.0}, "abstained": False}])
    samples = exam.Samples(worlds / "s.jsonl", [taker])
    exam.sit(taker, [rows], samples)
    assert samples.of("m", rows)[0]["right"] is False


def test_an_exam_that_was_stopped_goes_on_where_it_was(
    tmp_path: Path, worlds: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "r.json", tmp_path / "whole.json"
    seat(monkeypatch, model=Seer(fail_after=30))
    with pytest.raises(KeyboardInterrupt):
        exam.run(weights, worlds, out, altered=False)
    with (tmp_path / "r.samples.jsonl").open("a") as file:
        file.write('{"taker": "foretell", "id": "cut o')
    second = Seer()
    seat(monkeypatch, model=second)
    exam.run(weights, worlds, out, altered=False)
    assert len(second.asked) == 80 - 30
    seat(monkeypatch, model=Seer())
    exam.run(weights, worlds, whole, altered=False)
    assert json.loads(out.read_text())["figures"] == json.loads(whole.read_text())["figures"]


def test_two_processes_find_what_one_does(
    tmp_path: Path, worlds: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seat(monkeypatch, model=Seer())
    one = exam.run(weights, worlds, tmp_path / "one.json", altered=False)["figures"]
    two = exam.run(weights, worlds, tmp_path / "two.json", workers=2, altered=False)["figures"]
    assert one == two
    assert len(list(tmp_path.glob("*.samples.jsonl"))) == 2, "what each process wrote joined the per-sample file"


def test_a_real_model_says_the_same_in_any_number_of_processes_and_questions_at_once(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, worlds = tiny_foretell(), make_worlds(tmp_path / "few", 12, seed=9000)
    monkeypatch.setattr(exam, "load_model", lambda folder: model)
    answered = []
    for name, workers, together in (("one", 1, 8), ("again", 1, 8), ("two", 2, 8), ("four", 4, 8), ("apart", 1, 1)):
        if together == 1:
            monkeypatch.setattr(exam, "by_frames", lambda rows: [[row] for row in rows])
        exam.run(weights, worlds, tmp_path / f"{name}.json", workers=workers, altered=False)
        rows = map(json.loads, (tmp_path / f"{name}.samples.jsonl").read_text().splitlines())
        answered.append({(row["taker"], row["id"]): row for row in rows})
    first, again, *others = answered
    assert first == again and len(first) == 2 * 24
    for other in others:
        assert {key: row["answer"] for key, row in other.items()} == {key: row["answer"] for key, row in first.items()}
        for key, row in first.items():
            assert other[key]["probabilities"] == pytest.approx(row["probabilities"], abs=1e-5)


def test_a_failing_process_is_told(
    tmp_path: Path, worlds: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seat(monkeypatch, model=Seer(fail_after=30))
    with pytest.raises(RuntimeError, match=r"foretell: 2 of 2 processes failed"):
        exam.run(weights, worlds, tmp_path / "r.json", workers=2, altered=False)


def test_other_weights_are_asked_anew(
    tmp_path: Path, worlds: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seat(monkeypatch, model=Seer())
    exam.run(weights, worlds, tmp_path / "r.json", altered=False)
    (weights / "README.md").write_text("a card is no weight")
    seat(monkeypatch, model=(same := Seer()))
    exam.run(weights, worlds, tmp_path / "r.json", altered=False)
    assert same.asked == []
    (weights / "bridge.safetensors").write_bytes(b"new")
    seat(monkeypatch, model=(other := Seer()))
    exam.run(weights, worlds, tmp_path / "r.json", altered=False)
    assert len(other.asked) == 80


def test_a_limit_takes_whole_clips(
    tmp_path: Path, worlds: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seat(monkeypatch, model=(model := Seer()))
    found = exam.run(weights, worlds, tmp_path / "r.json", limit=21, altered=False)
    assert len(model.asked) == 22
    assert found["data"]["test"] | {"sha256": ""} == {
        "questions": 22,
        "clips": 11,
        "scenes": 11,
        "seeds": [9000, 9039],
        "sha256": "",
    }


def test_no_questions_is_an_error(tmp_path: Path, worlds: Path, weights: Path) -> None:
    (worlds / "questions.jsonl").write_text("")
    with pytest.raises(ValueError, match="no question with options"):
        exam.run(weights, worlds, tmp_path / "r.json")


def test_the_exam_shows_the_frames_that_a_user_would_see(tmp_path: Path, make_video: VideoMaker) -> None:
    path = make_video("clip.mp4", count=16, size=64, rate=8)
    clip = {"video": "clip.mp4", "seed": 0, "frames": 16, "size": 64, "fps": 8.0}
    (tmp_path / "clips.jsonl").write_text(json.dumps(clip) + "\n")
    packed = load_clips(tmp_path)
    for until in (0.5, 1.25, None):
        ours = exam.clip_of(packed, "clip.mp4", until, rate=8.0, count=8)
        theirs = read_clip(path, rate=8.0, count=8, until=until)
        assert np.array_equal(ours.frames, theirs.frames)
        assert ours.times == pytest.approx(theirs.times)
        assert (ours.shown, ours.duration) == pytest.approx((theirs.shown, theirs.duration))


# --- the report


@pytest.fixture
def measured(tmp_path: Path, worlds: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one README, one model folder and one set of results, named after the exam."""
    seat(monkeypatch, model=Seer())
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    exam.run(weights, worlds, tmp_path / "exam.json", command="foretell eval exam")
    (weights / "training.json").write_text(json.dumps({"data": {"clips": 12000}, "stages": ["align", "tune"]}))
    readme = tmp_path / "README.md"
    readme.write_text("# Mine\n\n<!-- figures:begin exam -->\nold\n<!-- figures:end -->\n\nthe rest\n")
    return readme


def test_a_readme_is_rewritten_between_its_markers_only(measured: Path) -> None:
    assert report.main(["--check", str(measured)]) == 1
    assert report.main([str(measured)]) == 0
    text = measured.read_text()
    assert text.startswith("# Mine\n\n<!-- figures:begin exam -->\n| questions |")
    assert text.endswith("<!-- figures:end -->\n\nthe rest\n")
    assert re.search(
        r"towers: will it fall\? \| balanced accuracy \| 20 \| 50\.0 \[\d\d\.\d, \d\d\.\d\] \| 100\.0 ", text
    ), text
    assert report.main(["--check", str(measured)]) == 0
    measured.write_text(text.replace("| 20 | 50.0 [", "| 21 | 50.0 ["))
    assert report.main(["--check", str(measured)]) == 1


def test_a_model_card_tells_training_and_figures(measured: Path) -> None:
    card = measured.parent / "model" / "README.md"
    assert report.main(["--check", str(card)]) == 1
    assert report.main([str(card)]) == 0
    assert report.main(["--check", str(card)]) == 0
    body = card.read_text().split("---\n", 2)[2]
    data = ModelCard(card.read_text()).data
    assert isinstance(data, ModelCardData)
    assert data.eval_results is not None
    first = data.eval_results[0]
    assert (first.metric_type, first.metric_name, first.metric_value) == (
        "balanced_accuracy",
        "towers: will it fall?",
        1.0,
    )
    assert (data.license, data.pipeline_tag) == ("apache-2.0", "video-text-to-text")
    assert "| data.clips | 12,000 |" in body
    assert "| stages | align<br>tune |" in body
    assert "towers: falls (predictive)" in body


def test_plots_are_pictures_and_the_same_each_time(measured: Path) -> None:
    first = {path.name: path.read_bytes() for path in report.plots("exam", measured.parent / "a")}
    second = {path.name: path.read_bytes() for path in report.plots("exam", measured.parent / "b")}
    assert first == second
    assert sorted(first) == ["exam-headlines.png", "exam-reliability.png", "exam-risk-coverage.png"]
    pixels: NDArray[np.uint8] = np.asarray(Image.open(measured.parent / "a" / "exam-headlines.png"))
    assert pixels.std() > 10


def test_report_errors_teach(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured.write_text("<!-- figures:begin other -->\n<!-- figures:end -->\n")
    assert report.main([str(measured)]) == 2
    assert "no results called 'other'" in capsys.readouterr().err
    measured.write_text("nothing")
    assert report.main(["--check", str(measured)]) == 2
    assert "figures:begin NAME" in capsys.readouterr().err


def test_published_tables_are_the_measured_ones() -> None:
    assert report.stale([ROOT / "README.md", ROOT / "reasoner" / "nano" / "README.md"]) == []
