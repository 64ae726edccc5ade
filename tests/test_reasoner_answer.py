"""Answers: scored options, generated text, and a file of questions in which anything may be wrong."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foretell.perception.video import Clip
from foretell.reasoner.answer import Answer, Calibration, Foretell, Question, answer_text, is_yes_no, save_plot
from foretell.reasoner.batch import answer_file

from .reasoner_tiny import noise, tiny_foretell

VideoMaker = Callable[..., Path]
CHOICE = ("red", "Blue one.", "a very green block")


@pytest.fixture(scope="module")
def model() -> Foretell:
    return tiny_foretell()


def scored_alone(model: Foretell, seed: int, question: str, option: str) -> float:
    """Mean log-probability a token of one answer, by one plain forward pass."""
    prompt, answer = model.processor.prompt_ids(question), model.processor.answer_ids(answer_text(option))
    features, imagined = model.watch(noise(seed))
    ids = torch.tensor([prompt + answer])
    with torch.no_grad():
        logits = model.model(ids, world_features=features, imagined_features=imagined).logits[0].log_softmax(-1)
    return float(np.mean([logits[len(prompt) - 1 + place, token] for place, token in enumerate(answer)]))


def test_probabilities_are_a_softmax_over_whole_answers(model: Foretell) -> None:
    answer = model.answer(noise(0), "Which one falls first?", CHOICE)
    scores = torch.tensor([scored_alone(model, 0, "Which one falls first?", option) for option in CHOICE])
    assert answer.probabilities is not None
    assert list(answer.probabilities) == list(CHOICE)
    np.testing.assert_allclose(list(answer.probabilities.values()), scores.softmax(0), atol=1e-5)
    assert answer.text == CHOICE[int(scores.argmax())]
    assert answer.confidence == max(answer.probabilities.values())


def test_many_questions_at_once_are_answered_as_one_by_one(model: Foretell) -> None:
    questions = [("Will it fall?", None), ("Which?", CHOICE), ("What happens?", None), ("Is it red?", ("no", "yes"))]
    together = model.answer_many(noise(1), questions)
    for (question, options), answer in zip(questions, together, strict=True):
        alone = model.answer(noise(1), question, options)
        assert (answer.text, answer.abstained) == (alone.text, alone.abstained)
        assert answer.confidence == pytest.approx(alone.confidence, abs=1e-5)


def test_long_lists_of_questions_are_split_and_keep_their_order(
    model: Foretell, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [(f"Will block {number} fall?", None) for number in range(7)]
    whole = model.answer_many(noise(1), questions)
    monkeypatch.setattr("foretell.reasoner.answer.BATCH_TOKENS", 150)
    for answer, other in zip(whole, model.answer_many(noise(1), questions), strict=True):
        assert answer.confidence == pytest.approx(other.confidence, abs=1e-5)
        assert answer.text == other.text


def test_permuting_the_clips_permutes_the_answers(model: Foretell) -> None:
    watched = [model.watch(noise(seed)) for seed in range(3)]
    features, imagined = torch.cat([f for f, _ in watched]), torch.cat([i for _, i in watched if i is not None])
    questions: list[list[Question]] = [
        [("Will it fall?", None)],
        [("Which?", CHOICE), ("Will it?", None)],
        [("What is it?", CHOICE[:2])],
    ]
    order = [2, 0, 1]
    straight = model.answer_features(features, imagined, questions)
    turned = model.answer_features(features[order], imagined[order], [questions[place] for place in order])
    for place, answers in zip(order, turned, strict=True):
        assert [a.text for a in answers] == [a.text for a in straight[place]]
        assert [a.confidence for a in answers] == pytest.approx([a.confidence for a in straight[place]], abs=1e-5)
        for answer, other in zip(answers, model.answer_many(noise(place), questions[place]), strict=True):
            assert answer.confidence == pytest.approx(other.confidence, abs=1e-5)


def test_the_order_of_options_does_not_matter(model: Foretell) -> None:
    one, other = (model.answer(noise(0), "Which?", options) for options in (CHOICE, CHOICE[::-1]))
    assert one.text == other.text
    assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_temperature_flattens_and_the_threshold_abstains_but_keeps_the_guess(model: Foretell) -> None:
    plain = model.answer(noise(0), "Will it fall?")
    flat = Foretell(model.model, model.processor, Calibration(temperature=4.0)).answer(noise(0), "Will it fall?")
    assert 0.5 <= flat.confidence < plain.confidence
    strict = Foretell(model.model, model.processor, Calibration(threshold=0.999)).answer(noise(0), "Will it fall?")
    assert (strict.abstained, strict.text, strict.confidence) == (True, plain.text, plain.confidence)
    assert not plain.abstained


def test_yes_no_questions_need_no_options(model: Foretell) -> None:
    answer = model.answer(noise(0), "will the tower fall?")
    assert answer.probabilities is not None
    assert set(answer.probabilities) == {"yes", "no"}
    assert answer == model.answer(noise(0), "will the tower fall?", ["yes", "no"])


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Will it fall?", True),
        (" isn't it red?", True),
        ("Can't it fall?", True),
        ("Won’t the tower fall?", True),
        ("Isn‘t it red?", True),
        ("Won’t it be red or blue?", False),
        ("Will it fall or not?", True),
        ("Is it red or blue?", False),
        ("What is it?", False),
        ("Island or sea?", False),
        ("Why will it fall?", False),
        ("塔は倒れる？", False),
    ],
)
def test_which_questions_want_yes_or_no(question: str, expected: bool) -> None:
    assert is_yes_no(question) is expected


@pytest.mark.parametrize(
    ("option", "text"), [("yes", "Yes"), (" Yes. ", "Yes"), ("the red block.", "The red block"), ("élan", "Élan")]
)
def test_options_are_put_to_the_model_in_one_form(option: str, text: str) -> None:
    assert answer_text(option) == text


OPEN = ("What happens next?", "Why?", "Which of all the blocks in this tower moves first, and which one last?")


@pytest.mark.parametrize("question", OPEN)
def test_open_questions_asked_together_generate_what_transformers_generates_for_each(
    model: Foretell, question: str
) -> None:
    asked: list[Question] = [("Will it fall?", None), *((one, None) for one in OPEN)]
    answer = model.answer_many(noise(2), asked)[1 + OPEN.index(question)]
    features, imagined = model.watch(noise(2))
    prompt = model.processor.prompt_ids(question)
    hybrid: Any = model.model
    made = hybrid.generate(
        torch.tensor([prompt]),
        world_features=features,
        imagined_features=imagined,
        max_new_tokens=64,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = made.sequences[0, len(prompt) :]
    text = model.processor.tokenizer.decode(tokens, skip_special_tokens=True)
    assert answer.text == text.rstrip("\ufffd").strip()  # cut off within a character, its half is not shown
    chances = torch.stack(made.logits)[:, 0].log_softmax(-1).gather(1, tokens[:, None])
    assert answer.confidence == pytest.approx(math.exp(chances.sum()), rel=1e-4)
    assert answer.probabilities is None


def test_a_written_answer_is_as_sure_as_its_whole_text_is_likely_at_a_temperature_of_its_own(model: Foretell) -> None:
    plain = model.answer(noise(2), "Why?")
    for calibration, sure in ((Calibration(written_temperature=2.0), 0.5), (Calibration(temperature=2.0), 1.0)):
        other = Foretell(model.model, model.processor, calibration).answer(noise(2), "Why?")
        assert other.text == plain.text and not other.abstained
        assert other.confidence == pytest.approx(plain.confidence**sure, rel=1e-6)
    strict = Foretell(model.model, model.processor, Calibration(written_threshold=0.999))
    assert strict.answer(noise(2), "Why?").abstained and not strict.answer(noise(2), "Will it fall?").abstained


def test_a_stream_adds_up_to_the_answer(model: Foretell) -> None:
    stream, pieces = model.stream(noise(2), "What happens next?"), []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            answer: Answer = end.value
            break
    assert "".join(pieces).strip() == answer.text
    assert answer == model.answer(noise(2), "What happens next?")


def test_what_is_asked_beside_it_changes_no_open_answer(model: Foretell, monkeypatch: pytest.MonkeyPatch) -> None:
    many: list[Question] = [
        ("What happens next?", None),
        *((f"Question {n}: what do you see?", None) for n in range(6)),
    ]
    together = model.answer_many(noise(2), many)
    monkeypatch.setattr("foretell.reasoner.answer.WRITTEN_AT_ONCE", 2)
    in_pairs = model.answer_many(noise(2), many)
    alone = [model.answer(noise(2), question) for question, _ in many]
    for given in zip(together, in_pairs, alone, strict=True):
        assert len({one.text for one in given}) == 1
        assert given[0].confidence == pytest.approx(given[2].confidence, rel=1e-4)


def test_a_short_clip_repeats_its_first_frame_and_a_long_one_keeps_its_end(model: Foretell) -> None:
    frames = noise(3, count=12)
    assert model.answer(frames, "Will it fall?").confidence == model.answer(frames[-8:], "Will it fall?").confidence
    padded = np.concatenate([frames[:1].repeat(6, axis=0), frames[1:3]])
    assert model.answer(frames[:3], "Will it?").confidence == model.answer(padded[:8], "Will it?").confidence


def test_evidence_says_what_was_shown(model: Foretell) -> None:
    clip = Clip(frames=noise(0), times=np.arange(8) / 8, duration=3.0, shown=0.875)
    evidence = model.answer(clip, "Will it fall?").evidence
    assert evidence == {"times": [n / 8 for n in range(8)], "shown": 0.875, "duration": 3.0}


@pytest.mark.parametrize(
    ("question", "options", "reason"),
    [
        ("", None, "the question is empty"),
        (" \n", None, "the question is empty"),
        ("Will it fall?", ["yes"], r"options must be a list of two or more, got \['yes'\]"),
        ("Will it fall?", "yes,no", "options must be a list of two or more, got 'yes,no'"),
        ("Will it fall?", ["yes", "no", "Yes."], "options 'yes' and 'Yes.' are the same answer"),
        ("Will it fall?", ["yes", " "], "option 2 is empty"),
        ("Will it fall?", ["yes", 3], "option 2 must be text, got 3"),
        ("half \ud800 a pair", None, "the question holds half a UTF-16 pair"),
        ("Why? " * 2000, None, r"the question has \d+ tokens; the limit is 2000: shorten"),
        ("Which?", ["a" * 1500, "b" * 1500], r"the options together have \d+ tokens; the limit is 2000"),
    ],
)
def test_bad_questions_get_one_line(model: Foretell, question: str, options: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as error:
        model.answer(noise(0), question, options)
    assert "\n" not in str(error.value)


def test_long_and_foreign_questions_are_answered(model: Foretell) -> None:
    for question in ("Will it fall? " * 120, "塔は倒れますか？", "هل سيسقط البرج؟", "Will 🧱 fall?"):
        assert model.answer(noise(0), question, ["はい", "いいえ"]).text in {"はい", "いいえ"}


def test_frames_of_the_wrong_kind_are_refused(model: Foretell) -> None:
    wrong: list[Any] = [np.zeros((8, 16, 16), np.uint8), np.zeros((0, 16, 16, 3), np.uint8), np.zeros((8, 16, 16, 3))]
    for frames in wrong:
        with pytest.raises(ValueError, match=r"frames must be uint8 \[T, H, W, 3\], got"):
            model.answer(frames, "Will it fall?")


def test_calibration_is_read_where_there_is_one(tmp_path: Path) -> None:
    assert Calibration.read(tmp_path / "calibration.json") == Calibration(1.0, 0.0)
    (tmp_path / "calibration.json").write_text('{"temperature": 0.5, "threshold": 0.6}')
    assert Calibration.read(tmp_path / "calibration.json") == Calibration(0.5, 0.6, 1.0, 0.0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "no calibration"),
        ("[0.5, 0.6]", "no calibration"),
        ('{"heat": 2.0}', "no calibration .*heat"),
        ('{"temperature": "2"}', "no calibration"),
        ('{"temperature": 0}', r"temperatures \(0, 1\.0\), thresholds \(0\.0, 0\.0\)"),
        ('{"temperature": NaN}', r"temperatures \(nan, "),
        ('{"threshold": 60}', r"temperatures \(1\.0, 1\.0\), thresholds \(60, "),
        ('{"written_temperature": -1}', r"temperatures \(1\.0, -1\)"),
        ('{"written_threshold": 2}', r".* thresholds \(0\.0, 2\)"),
    ],
)
def test_a_calibration_that_is_none_is_refused_by_its_name(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(ValueError, match=rf"calibration\.json: {reason}.*temperature.*above 0.*0 to 1") as error:
        Calibration.read(tmp_path / "calibration.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [CHOICE, None])
def test_the_plot_is_a_picture(model: Foretell, tmp_path: Path, options: tuple[str, ...] | None) -> None:
    clip = Clip(frames=noise(0), times=np.arange(8) / 8, duration=3.0, shown=0.875)
    answer = replace(model.answer(clip, "What costs $5 and $6?", options), text="$\\frac{")
    save_plot(clip, answer, tmp_path / "plot.png", "What costs $5 and $6?")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


# A file of questions


def write_questions(path: Path, rows: list[Any]) -> Path:
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


BAD = [
    (b"{not json", "not JSON"),
    (b"\xff\xfe\x00", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b"[1, 2]", "not a JSON object"),
    ({"video": "a.mp4", "question": "Will it?"}, "id must be a text or a whole number, got None"),
    ({"id": "first", "video": "a.mp4", "question": "Will it?"}, "id 'first' is taken by line 1"),
    ({"id": "b", "question": "Will it?"}, "video must be a text, got None"),
    ({"id": "b", "video": "a.mp4", "question": 3}, "question must be a text, got 3"),
    ({"id": "b", "video": "a.mp4", "question": "Will it?", "options": "yes"}, "options must be a list of texts"),
    ({"id": "b", "video": "a.mp4", "question": "Will it?", "options": ["yes"]}, "a list of two or more"),
    ({"id": "b", "video": "a.mp4", "question": "Will it?", "until": "1"}, "until must be a number of seconds"),
    ({"id": "b", "video": "a.mp4", "question": "Will it?", "until": float("nan")}, "until must be a number of seconds"),
    ({"id": "b", "video": "a.mp4", "question": "Will it?", "until": True}, "until must be a number of seconds"),
    ({"id": "b", "video": "a.mp4", "question": "Will it?", "until": 10**400}, "until must be a number of seconds"),
    ({"id": "b", "video": "a.mp4", "question": "Will it?", "until": 99}, "a.mp4"),
    ({"id": "b", "video": "a.mp4", "question": "  "}, "the question is empty"),
    ({"id": "b", "video": "missing.mp4", "question": "Will it?"}, "missing.mp4"),
    ({"id": "b", "video": "nul\0.mp4", "question": "Will it?"}, "nul"),
    ({"id": "b", "video": "https://example.org/a.mp4", "question": "Will it?"}, "example.org"),
    ({"id": "b", "video": ".", "question": "Will it?"}, ""),
    ({"id": "b", "video": "text.mp4", "question": "Will it?"}, "text.mp4"),
]


def test_every_bad_row_gets_its_error_and_the_others_their_answers(
    model: Foretell, make_video: VideoMaker, tmp_path: Path
) -> None:
    make_video("a.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    good = {"video": "a.mp4", "question": "Will it fall?", "until": 0.5, "options": ["yes", "no"]}
    named = [
        row | {"id": f"b{n}"} if isinstance(row, dict) and row.get("id") == "b" else row
        for n, (row, _) in enumerate(BAD)
    ]
    questions = write_questions(tmp_path / "q.jsonl", [good | {"id": "first"}, *named, good | {"id": 7}])
    counts = answer_file(questions, tmp_path / "a.jsonl", model)
    assert (counts.answered, counts.failed, counts.status) == (2, len(BAD), 1)
    first, *failed, last = read_rows(tmp_path / "a.jsonl")
    for row, asked, (_, reason) in zip(failed, named, BAD, strict=True):
        assert row["id"] == (asked.get("id") if isinstance(asked, dict) else None)
        assert row["answer"] is row["confidence"] is None
        assert reason in row["error"]
        assert "\n" not in row["error"]
    assert (first["id"], last["id"]) == ("first", 7)
    for row in (first, last):
        assert row["answer"] in {"yes", "no"}
        assert row["confidence"] == row["probabilities"][row["answer"]]
        assert (row["abstained"], row["error"]) == (False, None)


def test_a_batch_answers_as_single_questions_do(model: Foretell, make_video: VideoMaker, tmp_path: Path) -> None:
    asked = [("a.mp4", 0.5), ("b.mp4", None), ("a.mp4", None), ("a.mp4", 0.5)]
    make_video("a.mp4")
    make_video("b.mp4", size=32)
    rows = [
        {"id": place, "video": video, "question": f"Will {place} fall?"} | ({} if until is None else {"until": until})
        for place, (video, until) in enumerate(asked)
    ]
    counts = answer_file(write_questions(tmp_path / "q.jsonl", rows), tmp_path / "new" / "a.jsonl", model)
    assert counts.status == 0
    for row, (video, until) in zip(read_rows(tmp_path / "new" / "a.jsonl"), asked, strict=True):
        alone = model.answer(model.read(tmp_path / video, until), f"Will {row['id']} fall?")
        assert row["answer"] == alone.text
        assert row["confidence"] == pytest.approx(alone.confidence, abs=1e-5)


class Counting:
    """A model that counts its work, and stops the run after so many videos."""

    def __init__(self, model: Foretell, stop_after: int = 1000) -> None:
        self.model, self.left, self.read_paths = model, stop_after, list[str]()
        self.asked = 0
        self.ask = model.ask

    def read(self, path: Path, until: float | None) -> Clip:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.read_paths.append(path.name)
        return self.model.read(path, until)

    def answer_many(self, clip: Clip, questions: list[Any]) -> list[Answer]:
        self.asked += len(questions)
        return self.model.answer_many(clip, questions)


def four_rows(make_video: VideoMaker, folder: Path) -> Path:
    make_video("a.mp4")
    make_video("b.mp4")
    names = ["a.mp4", "b.mp4", "a.mp4", "c.mp4"]
    rows = [{"id": f"q{n}", "video": name, "question": "Will it fall?"} for n, name in enumerate(names)]
    return write_questions(folder / "q.jsonl", rows)


def test_each_video_is_read_once(model: Foretell, make_video: VideoMaker, tmp_path: Path) -> None:
    counting: Any = Counting(model)
    answer_file(four_rows(make_video, tmp_path), tmp_path / "a.jsonl", counting)
    assert counting.read_paths == ["a.mp4", "b.mp4", "c.mp4"]


def test_a_second_run_asks_only_what_is_missing_or_failed(
    model: Foretell, make_video: VideoMaker, tmp_path: Path
) -> None:
    questions, out = four_rows(make_video, tmp_path), tmp_path / "a.jsonl"
    stopped: Any = Counting(model, stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        answer_file(questions, out, stopped)
    assert [row["id"] for row in read_rows(out)] == ["q0", "q2"]
    with out.open("ab") as file:
        file.write(b'{"id": "q1", "answ')  # a power cut in the middle of a line
    second: Any = Counting(model)
    counts = answer_file(questions, out, second)
    assert (counts.kept, counts.answered, counts.failed) == (2, 1, 1)
    assert second.read_paths == ["b.mp4", "c.mp4"]
    assert [row["id"] for row in read_rows(out)] == ["q0", "q1", "q2", "q3"]
    make_video("c.mp4")
    third: Any = Counting(model)
    before = read_rows(out)[:3]
    assert answer_file(questions, out, third).status == 0
    assert (third.read_paths, third.asked) == (["c.mp4"], 1)
    assert read_rows(out)[:3] == before


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_question_that_runs_out_of_memory_fails_alone(
    model: Foretell, make_video: VideoMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def greedy_for_memory(clip: Clip, questions: list[Any]) -> list[Answer]:
        if any(question == "Will it all fall?" for question, _ in questions):
            raise error
        return whole(clip, questions)

    whole = model.answer_many
    monkeypatch.setattr(model, "answer_many", greedy_for_memory)
    make_video("a.mp4")
    asked = ["Will it fall?", "Will it all fall?", "Will it stay?"]
    rows = [{"id": place, "video": "a.mp4", "question": question} for place, question in enumerate(asked)]
    counts = answer_file(write_questions(tmp_path / "q.jsonl", rows), tmp_path / "a.jsonl", model)
    assert (counts.answered, counts.failed) == (2, 1)
    assert read_rows(tmp_path / "a.jsonl")[1]["error"].startswith("memory ran out (")


def test_our_own_bugs_still_end_a_batch(
    model: Foretell, make_video: VideoMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)")

    monkeypatch.setattr(model, "answer_many", wrong)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        answer_file(four_rows(make_video, tmp_path), tmp_path / "a.jsonl", model)


def test_a_file_that_is_something_else_is_not_overwritten(
    model: Foretell, make_video: VideoMaker, tmp_path: Path
) -> None:
    questions = four_rows(make_video, tmp_path)
    other = write_questions(tmp_path / "other.jsonl", [{"id": "mine", "answer": "yes", "error": None}])
    before = other.read_bytes()
    for out, reason in ((other, "holds more than answers to these questions"), (questions, "overwrite the questions")):
        with pytest.raises(ValueError, match=reason):
            answer_file(questions, out, model)
    assert other.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [b'{"recipe": "nano"}', b'{"id": "mine", "answer": "yes"}', b"[1, 2]", b"once upon a time", b"[" * 100_000 + b"\n"],
)
def test_another_file_is_known_by_its_unfinished_line_or_deep_brackets(
    model: Foretell, make_video: VideoMaker, tmp_path: Path, content: bytes
) -> None:
    questions, out = four_rows(make_video, tmp_path), tmp_path / "other"
    out.write_bytes(content)
    with pytest.raises(ValueError, match="holds more than answers to these questions: name another file with --out"):
        answer_file(questions, out, model)
    assert out.read_bytes() == content


@pytest.mark.parametrize("cut", [0, 1, 5, 30, -1])
def test_a_last_answer_that_was_cut_off_anywhere_is_asked_anew(
    model: Foretell, make_video: VideoMaker, tmp_path: Path, cut: int
) -> None:
    questions, out = four_rows(make_video, tmp_path), tmp_path / "a.jsonl"
    answer_file(questions, out, model)
    whole = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(whole[0] + whole[1][:cut])
    counts = answer_file(questions, out, model)
    assert counts.kept == (2 if cut == -1 else 1)  # it lacks but its line's end
    assert out.read_bytes().splitlines(keepends=True)[:2] == whole[:2]


def test_what_is_no_regular_file_is_left_as_it_is(model: Foretell, make_video: VideoMaker, tmp_path: Path) -> None:
    questions = four_rows(make_video, tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for out in (tmp_path / "pipe", tmp_path / "null", tmp_path):
        with pytest.raises(ValueError, match="no regular file: answers are kept in one, so name a file with --out"):
            answer_file(questions, out, model)
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "null").is_char_device()


def test_answers_are_written_where_a_link_points(model: Foretell, make_video: VideoMaker, tmp_path: Path) -> None:
    questions, link, named = four_rows(make_video, tmp_path), tmp_path / "link", tmp_path / "far" / "a.jsonl"
    link.symlink_to(named)
    answer_file(questions, link, model)
    assert link.readlink() == named
    assert [row["id"] for row in read_rows(named)] == ["q0", "q1", "q2", "q3"]


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "not a file"), (b"", "holds no questions"), (b"\n \n", "holds no")]
)
def test_nothing_to_ask_is_an_error(model: Foretell, tmp_path: Path, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "q.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        answer_file(tmp_path / "q.jsonl", tmp_path / "a.jsonl", model)


def test_several_answers_are_written_as_each_alone(model: Foretell) -> None:
    asked = ["Will it fall?", "What is it?", "Will the red ball touch the yellow one?"]
    look = model.watch(np.zeros((8, 16, 16, 3), np.uint8))
    together = model.generate_features(*look, asked)
    alone = [model.generate_features(*look, [one])[0] for one in asked]
    assert [one.text for one in together] == [one.text for one in alone]
    assert all(one.probabilities is None for one in together)
