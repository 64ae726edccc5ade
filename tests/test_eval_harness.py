"""Other people's harnesses. Where lmms-eval is installed (make lmms-eval), its evaluator runs a tiny model too."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foretell.eval import report
from foretell.eval.harness import text, worlds
from foretell.eval.harness.watched import Look, losses, video_of, written
from foretell.eval.record import mark
from foretell.reasoner.answer import NANO, Answer, Foretell

from .reasoner_tiny import noise, tiny_foretell

HARNESS = Path(text.__file__).parent
CHOICE = ("red", "Blue one.", "a very green block")


@pytest.fixture(scope="module")
def model() -> Foretell:
    return tiny_foretell()


@pytest.fixture(scope="module")
def look(model: Foretell) -> Look:
    return model.watch(noise(0))


# --- what lmms-eval asks


def test_a_visual_is_a_path_or_says_where_it_ends() -> None:
    assert video_of(["a.mp4"]) == ("a.mp4", None)
    assert video_of([{"type": "video", "url": "a.mp4", "video_end": 0.5}]) == ("a.mp4", 0.5)
    assert video_of([{"path": "a.mp4"}]) == ("a.mp4", None)
    assert video_of(worlds.video({"video": "clips/a.mp4", "until": 0.5}, {"folder": "w"})) == ("w/clips/a.mp4", 0.5)


@pytest.mark.parametrize(
    ("visuals", "message"),
    [
        (None, "one video at a time, got 0"),
        (["a.mp4", "b.mp4"], "one video at a time, got 2"),
        ([noise(0)], "video file from its beginning"),
        ([{"type": "image", "url": "a.png"}], "video file from its beginning"),
        ([{"url": "a.mp4", "video_start": 1.0}], "video file from its beginning"),
    ],
)
def test_what_is_no_single_video_is_refused(visuals: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        video_of(visuals)


def test_losses_are_those_of_an_answer(model: Foretell, look: Look) -> None:
    found = losses(model, look, "Which one falls first?", CHOICE)
    answer = model.answer(noise(0), "Which one falls first?", CHOICE)
    chances = torch.tensor([-loss for loss, _ in found]).softmax(0)
    assert answer.probabilities is not None
    np.testing.assert_allclose(list(answer.probabilities.values()), chances, atol=1e-5)
    assert losses(model, look, "Which one falls first?", CHOICE[1:2]) == [pytest.approx(found[1], abs=1e-5)]


def test_only_what_greedy_decoding_would_say_is_greedy(
    model: Foretell, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "generate_features", lambda *_: [Answer("A very green block", 1.0, False)])
    assert [greedy for _, greedy in losses(model, look, "Which?", CHOICE)] == [False, False, True]


def test_generation_answers_yes_no_questions_freely_within_its_limits(model: Foretell, look: Look) -> None:
    free = model.generate_features(*look, ["Will it fall?"])[0]
    assert free.probabilities is None and free.text not in ("yes", "no")
    short = model.generate_features(*look, ["Will it fall?"], limit=4)[0]
    assert 0 < len(short.text) < len(free.text) and free.text.startswith(short.text)
    stop = free.text[3]
    assert written(model, look, "Will it fall?", {"until": [stop]}) == free.text.partition(stop)[0]
    assert written(model, look, "Will it fall?", {"until": stop}) == free.text.partition(stop)[0]


@pytest.fixture
def adapter(model: Foretell, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("lmms_eval", reason="in an environment of its own: make lmms-eval")
    from lmms_eval.models import get_model

    monkeypatch.setattr(Foretell, "load", lambda *_: model)
    return get_model("foretell")  # through the entry point, with lmms-eval's own checks of the class


def test_lmms_eval_refuses_an_unknown_model_argument(adapter: Any) -> None:
    assert adapter.is_simple
    with pytest.raises(TypeError, match="pretraned"):
        adapter.create_from_arg_string("pretraned=runs/nano/model", {"batch_size": 1})


# What lmms-eval's own tests ask of a model (EvolvingLMMs-Lab/lmms-eval, test/), asked of this one: its fixtures know
# its own models only. Chat messages (test/eval/test_protocol.py) do not reach a simple model.


def test_the_registry_takes_foretell_for_a_simple_model(adapter: Any) -> None:
    """test/models/test_model_registry_v2.py: test_chat_precedence_and_force_simple, test_valid_simple_class,
    test_chat_resolved_but_is_simple_true_raises."""
    from lmms_eval.models import MODEL_REGISTRY_V2 as REGISTRY

    for force in (False, True):
        resolved = REGISTRY.resolve("foretell", force_simple=force)
        assert (resolved.model_id, resolved.model_type) == ("foretell", "simple")
        assert REGISTRY.get_model_class("foretell", force_simple=force) is adapter
    with pytest.raises(TypeError, match=r"resolved as chat but .*is_simple is True"):
        REGISTRY._validate_model_class(adapter, replace(resolved, model_type="chat"))


@pytest.fixture
def sitting(adapter: Any, tiny_video: Path) -> Any:
    lm = adapter.create_from_arg_string("", {"batch_size": 1, "device": None})
    lm.task_dict = {"demo": {"test": [{"video": str(tiny_video)}]}}
    return lm


def request(kind: str, *told: Any) -> Any:
    """An Instance as test/eval/test_construct_requests.py makes it: what is asked, then where the document lies."""
    from lmms_eval.api.instance import Instance

    metadata = {"task": "demo", "doc_id": 0, "repeats": 1, "split": "test"}
    return Instance(request_type=kind, arguments=(*told, 0, "demo", "test"), idx=0, metadata=metadata)


def shown(document: dict[str, Any]) -> list[str]:
    return [document["video"]]


def test_requests_are_unpacked_in_their_order(sitting: Any, model: Foretell, tiny_video: Path) -> None:
    """test/eval/test_construct_requests.py: the six arguments of generate_until and of loglikelihood;
    test/models/test_qwen3_vl_simple.py and test_llava_hf_generate_until.py: a string for every request."""
    look, settings = model.watch(model.read(tiny_video)), {"temperature": 0, "until": ["\n"], "max_new_tokens": 8}
    asked = [request("generate_until", question, settings, shown) for question in ("Which?", "Will it fall?")]
    assert sitting.generate_until(asked) == [written(model, look, one.args[0], settings) for one in asked]
    likely = request("loglikelihood", "Which?", lambda document: "red", shown)
    assert sitting.loglikelihood([likely]) == [pytest.approx(losses(model, look, "Which?", ["red"])[0])]


def test_rounds_are_refused_in_words(sitting: Any) -> None:
    """test/eval/test_construct_requests.py: the seven arguments of generate_until_multi_round."""
    asked = request("generate_until_multi_round", "Which?", {}, shown, lambda document: "Which?")
    with pytest.raises(NotImplementedError, match="tasks of one round"):
        sitting.generate_until_multi_round([asked])


def is_right(model: Foretell, kind: str, look: Look, answer: str) -> bool:
    """Foretell's own verdict on one document, without lmms-eval."""
    if kind == "multiple_choice":
        return model.answer_features(*look, [[("Which?", CHOICE)]])[0][0].text == answer
    if kind == "loglikelihood":
        return losses(model, look, "Which?", [answer])[0][1]
    return written(model, look, "Which?", {"until": ["\n\n"]}) == answer


@pytest.mark.parametrize("kind", ["multiple_choice", "generate_until", "loglikelihood"])
def test_lmms_eval_scores_what_foretell_answers(
    adapter: Any, model: Foretell, kind: str, tiny_video: Path, tmp_path: Path
) -> None:
    from lmms_eval.api.task import ConfigurableTask
    from lmms_eval.evaluator import evaluate

    rows: list[dict[str, Any]] = [
        {"video": str(tiny_video), "until": until, "question": "Which?", "options": list(CHOICE), "answer": answer}
        for until, answer in ((0.5, "red"), (1.0, "Blue one."), (1.5, "a very green block"))
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metric = {"multiple_choice": "acc", "generate_until": "exact_match", "loglikelihood": "acc"}[kind]
    config: dict[str, Any] = {
        "task": "tiny",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "questions.jsonl")}, "cache_dir": str(tmp_path)},
        "test_split": "test",
        "output_type": kind,
        "doc_to_visual": lambda document: [{"url": document["video"], "video_end": document["until"]}],
        "doc_to_text": "{{question}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True}],
    }
    if kind == "multiple_choice":
        config["doc_to_choice"] = "options"
    if kind == "loglikelihood":  # without this, 0.7.3 unpacks a list of one pair as if it were the pair
        config["process_results"] = lambda document, results: {"acc": float(results[0][1])}
    task = ConfigurableTask(config=config)
    lm = adapter.create_from_arg_string("", {"batch_size": 1, "device": None})
    lm.task_dict["tiny"] = task.dataset
    found = evaluate(lm, {"tiny": task}, cli_args=None)["results"]["tiny"][f"{metric},none"]

    looks = [model.watch(model.read(tiny_video, row["until"])) for row in rows]
    right = [is_right(model, kind, look, row["answer"]) for look, row in zip(looks, rows, strict=True)]
    assert found == pytest.approx(np.mean(right))


# --- what tuning cost the language model


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (HARNESS / name).read_text().splitlines()]


def test_facts_have_four_options_and_one_answer() -> None:
    facts = read("facts.jsonl")
    assert len(facts) >= 100 and len({fact["question"] for fact in facts}) == len(facts)
    assert all(len(set(fact["options"])) == text.OPTIONS and fact["answer"] in fact["options"] for fact in facts)
    places = np.bincount([fact["options"].index(fact["answer"]) for fact in facts]) / len(facts)
    assert (places < 0.4).all()


def test_prose_is_whole_passages() -> None:
    passages = [row["text"] for row in read("prose.jsonl")]
    assert len(set(passages)) == len(passages) >= 20
    assert all(60 < len(passage.split()) < 200 and passage.endswith(".") for passage in passages)


def test_a_perplexity_weighs_words_not_passages() -> None:
    statistic = text.perplexity([-10.0, -2.0], [5, 5])
    np.testing.assert_allclose(statistic(np.array([[1.0, 1.0], [2.0, 0.0]])), [math.exp(1.2), math.exp(2.0)])


BEFORE: text.Scores = {"facts": [1.0, 1.0, 0.0, 1.0], "chat": [0.0] * 4, "prose": [(-30.0, 10), (-30.0, 10)]}
AFTER: text.Scores = {"facts": [1.0, 0.0, 0.0, 1.0], "chat": [0.0] * 4, "prose": [(-40.0, 10), (-30.0, 10)]}


def test_changes_are_differences_of_accuracies_and_quotients_of_perplexities() -> None:
    found = text.compared(BEFORE, AFTER)
    facts, prose = found["facts"], found["prose"]
    assert [facts[name]["value"] for name in ("before", "after", "change")] == [0.75, 0.5, -0.25]
    assert facts["change"]["low"] <= -0.25 <= facts["change"]["high"] == 0.0 and facts["before"]["chance"] == 0.25
    expected = [math.exp(3.0), math.exp(3.5), math.exp(0.5)]
    assert [prose[name]["value"] for name in ("before", "after", "change")] == pytest.approx(expected)
    assert (found["chat"]["change"]["value"], facts["before"]["n"], prose["before"]["n"]) == (0.0, 4, 2)


def test_a_folder_without_a_lora_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert text.main(["--model", str(tmp_path), "--out", str(tmp_path / "text.json")]) == 2
    assert "holds no lora/" in capsys.readouterr().err


def test_without_lm_eval_the_environment_that_has_it_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(text, "find_spec", lambda _: None)
    assert text.main(["--out", str(tmp_path / "text.json")]) == 2
    assert "make lm-eval" in capsys.readouterr().err


def test_the_shipped_lora_is_the_one_that_was_examined() -> None:
    assert report.results(f"{NANO.name}-text")["model"]["lora"] == mark(NANO / "lora")


def test_the_card_shows_what_tuning_cost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert report.text_section("tiny") == "Not measured: `make lm-eval`."
    told = {"command": "c", "harness": "lm-eval 0", "commit": "d", "date": "e", "model": {"lora": "f"}}
    (tmp_path / "tiny-text.json").write_text(json.dumps({**told, "figures": text.compared(BEFORE, AFTER)}))
    section = report.text_section("tiny")
    assert "| everyday facts | accuracy | 4 | 25.0 | 75.0 [" in section and "| -25.0 [" in section
    assert "| English prose | perplexity a word | 2 |  | 20.1 [" in section and "× 1.65 [" in section
