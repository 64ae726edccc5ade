"""Claims about users' paired data: every format gives the same samples, a bad one costs itself only, training runs."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, VJEPA2Model

from foretell.__main__ import main
from foretell.perception.encoder import VJEPA2World, tiny_config
from foretell.reasoner.answer import Calibration, Foretell
from foretell.train import fit
from foretell.train.data import Split
from foretell.train.facts import MISSING, FactHeads, Targets, word_loss
from foretell.train.pairs import Quarantine, Report, Sample, Source, Turn, check, read_samples, watched
from foretell.train.recipes import tiny
from foretell.train.worlds import generate

from .conftest import moving_square, write_video
from .reasoner_tiny import tiny_text_config, tiny_tokenizer

Row = dict[str, Any]
YES = Turn("Will it fall?", "yes", ("yes", "no"))
COLOUR = Turn("Which one moves?", "the red one", ("the red one", "the blue one"))
OPEN = Turn("What moves?", "A white square.")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder clips/ with ten videos of two seconds, and what is no video."""
    folder = tmp_path_factory.mktemp("paired")
    (folder / "clips").mkdir()
    for place in range(10):
        write_video(folder / "clips" / f"{place}.mp4", np.roll(moving_square(16), 5 * place, axis=2))
    (folder / "clips" / "text.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained encoder and an untrained language model on disk."""
    root = tmp_path_factory.mktemp("lab")
    torch.manual_seed(0)
    VJEPA2Model(tiny_config()).save_pretrained(root / "encoder")
    LlamaForCausalLM(tiny_text_config()).save_pretrained(root / "llm")
    tiny_tokenizer().save_pretrained(root / "llm")
    return root


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `foretell worlds` with 16 clips."""
    return generate(tmp_path_factory.mktemp("worlds"), 16, seed=50, progress=False).out


def write(path: Path, rows: Sequence[object]) -> Path:
    """Rows as JSON lines; a text is a line as it is."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def flat(place: int = 0, **changes: Any) -> Row:
    return {"video": f"clips/{place}.mp4", "question": "Will it fall?", "answer": "yes"} | changes


def fault(row: object, folder: Path) -> str:
    """Why the only row of a set cannot be used."""
    (sample,) = read_samples(write(folder / "one.jsonl", [row]), folder)
    assert sample.fault is not None
    return sample.fault


LLAVA = {
    "id": "a",
    "video": "clips/1.mp4",
    "conversations": [
        {"from": "human", "value": "<video>\nWill it fall?"},
        {"from": "gpt", "value": "Yes."},
        {"from": "human", "value": "What moves?"},
        {"from": "gpt", "value": "A white square."},
    ],
}
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Will it fall?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
    {"role": "user", "content": "What moves?"},
    {"role": "assistant", "content": "A white square."},
]
IN_CONTENT = [
    {"role": "user", "content": [{"type": "video", "path": "clips/1.mp4"}, {"type": "text", "text": "Will it fall?"}]},
    *MESSAGES[2:],
]


@pytest.mark.parametrize(
    "row",
    [
        LLAVA,
        {"id": "a", "messages": MESSAGES, "videos": ["clips/1.mp4"]},
        {"id": "a", "messages": MESSAGES, "file_name": "clips/1.mp4"},
        {"id": "a", "messages": IN_CONTENT},
    ],
    ids=["conversations", "messages", "file_name", "video in content"],
)
def test_conversations_and_messages_give_the_same_sample(row: Row, tmp_path: Path) -> None:
    lines, listed = write(tmp_path / "a.jsonl", [row]), tmp_path / "a.json"
    listed.write_text(json.dumps([row]))
    for path in (lines, listed):
        assert read_samples(path, tmp_path) == [Sample("a", path, tmp_path / "clips/1.mp4", None, (YES, OPEN))]


def test_a_flat_row_is_a_question_with_an_answer(tmp_path: Path) -> None:
    row = flat(2, until=0.5, id=7, scene="s1", scenario="towers", kind="predictive", type="falls", answer="No.")
    (sample,) = read_samples(write(tmp_path / "q.jsonl", [row]), tmp_path)
    assert (sample.name, sample.excerpt) == ("7", (tmp_path / "clips/2.mp4", 0.5))
    assert (sample.scene, sample.scenario, sample.kind) == ("s1", "towers", "predictive")
    assert sample.turns == (Turn("Will it fall?", "no", ("yes", "no")),)


def test_an_answer_becomes_the_option_that_it_spells(tmp_path: Path) -> None:
    row = flat(question="Which one moves?", options=["the red one", "the blue one"], answer="The red one.")
    assert read_samples(write(tmp_path / "q.jsonl", [row]), tmp_path)[0].turns == (COLOUR,)


def test_a_videofolder_names_its_files_from_the_folder(videos: Path, tmp_path: Path) -> None:
    rows = [{"file_name": "a.mp4", "question": "Will it fall?", "answer": "yes"}]
    write(tmp_path / "metadata.jsonl", rows)
    (sample,) = read_samples(tmp_path, tmp_path)
    assert (sample.video, sample.turns) == (tmp_path / "a.mp4", (YES,))


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "not a JSON object"),
        (flat(video=None), "names 0 videos"),
        (flat(videos=["clips/1.mp4"]), "names 2 videos"),
        (flat(video=3), "must be the path of a file, got 3"),
        (flat(video="https://a.b/c.mp4"), "a URL, which is not fetched"),
        (flat(video={"bytes": "abc"}), "are text or numbers: name the path of a file"),
        (flat(video={"bytes": [1, 2], "path": "a.mp4"}), "are text or numbers: name the path of a file"),
        (flat(answer=" . "), "the answer is empty"),
        (flat(answer=None), "the answer must be text, got None"),
        (flat(question=""), "the question is empty"),
        (flat(question="Why? " * 400), "the question takes 2,000 bytes: at most 1,500"),
        (flat(options=["red", "blue"]), "the answer 'yes' is none of the options ['red', 'blue']"),
        (flat(options=["yes"]), "a list of two or more"),
        (flat(options="yes,no"), "options must be a list of texts"),
        (flat(until=-1), "until must be a number of seconds"),
        (flat(until="1"), "until must be a number of seconds"),
        (flat(id="\ud800"), "id must be a text"),
        (LLAVA | {"conversations": LLAVA["conversations"][1:]}, "turns are by assistant, user, assistant"),
        (LLAVA | {"conversations": []}, "the question must be text"),
        (LLAVA | {"conversations": ["hello"]}, "no object"),
        (LLAVA | {"options": ["yes", "no"]}, "a row of its own"),
        (LLAVA | {"conversations": [{"from": ["human"], "value": "?"}]}, "human, user, gpt, assistant, system"),
        (
            {"video": "a.mp4", "messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "more than text and video",
        ),
    ],
)
def test_a_row_with_a_fault_says_what_is_allowed(row: object, told: str, tmp_path: Path) -> None:
    assert told in fault(row, tmp_path)


def test_only_videos_that_decode_up_to_until_are_shown(videos: Path) -> None:
    (videos / "folder.mp4").mkdir()
    os.mkfifo(videos / "pipe.mp4")
    names = ["clips/none.mp4", "clips/text.mp4", "folder.mp4", "pipe.mp4"]
    rows = [flat(), *(flat(video=name) for name in names), flat(1, until=1.5), flat(1, until=9)]
    samples = watched(read_samples(write(videos / "watched.jsonl", rows), videos))
    told = ["No such file", "not a video", "a directory", "a device, pipe or socket", None, "until 9 s lies outside"]
    assert samples[0].fault is None
    for sample, reason in zip(samples[1:], told, strict=True):
        assert (sample.fault is None) if reason is None else (sample.fault and reason in sample.fault)


def test_a_set_and_its_weight_are_told_apart(tmp_path: Path) -> None:
    assert Source.parse("a.jsonl") == Source(Path("a.jsonl"), 1.0)
    assert Source.parse("b.json:0.3") == Source(Path("b.json"), 0.3)
    odd = tmp_path / "of 12:30"
    odd.mkdir()
    assert Source.parse(str(odd)) == Source(odd) and Source.parse(f"{odd}:2") == Source(odd, 2.0)
    for wrong in ("a.jsonl:0", "a.jsonl:-1", "a.jsonl:nan"):
        with pytest.raises(ValueError, match="a number above 0"):
            Source.parse(wrong)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("none.jsonl", None, "no data: name a folder"),
        ("empty.jsonl", "\n", "holds no rows"),
        ("a.json", "{", "not JSON"),
        ("a.json", '{"video": "a.mp4"}', "a JSON dict: write a list of rows"),
        ("a.txt", "hello", "no data: name a folder"),
    ],
)
def test_a_set_that_cannot_be_read_says_so(name: str, text: str | None, told: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=told):
        read_samples(tmp_path / name, tmp_path)


def test_without_datasets_one_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'datasets>=4\.6'$"):
        read_samples(tmp_path / "a.parquet", tmp_path)


def test_parquet_gives_the_same_samples_as_json(videos: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="wants the extra `data`: pip install 'datasets>=4.6'")
    rows = [flat(1, until=0.5, options=None), flat(2, until=None, options=["yes", "no"])]
    conversations = {name: LLAVA[name] for name in ("video", "conversations")}
    for name, given in {"flat": rows, "talk": [conversations]}.items():
        datasets.Dataset.from_list(given).to_parquet(videos / f"{name}.parquet")
        told = read_samples(write(videos / f"{name}.jsonl", given), tmp_path)
        found = read_samples(videos / f"{name}.parquet", tmp_path)
        assert [replace(one, source=told[0].source) for one in found] == told


def test_videos_inside_of_parquet_are_unpacked_once(videos: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="wants the extra `data`: pip install 'datasets>=4.6'")
    content = (videos / "clips/3.mp4").read_bytes()
    rows = [flat(video={"bytes": content, "path": "3.mp4"}), flat(video={"bytes": content, "path": "4.mp4"})]
    table = datasets.Dataset.from_list(rows).cast_column("video", datasets.Video(decode=False))
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        table.to_parquet(tmp_path / "hub" / f"{split}-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"holds the splits train, test: name the files of one"):
        read_samples(tmp_path / "hub", tmp_path / "videos")
    samples = read_samples(tmp_path / "hub" / "train-*.parquet", tmp_path / "videos")
    (unpacked,) = (tmp_path / "videos").iterdir()
    assert unpacked.read_bytes() == content and [one.video for one in samples] == [unpacked, unpacked]
    assert [one.fault for one in watched(samples)] == [None, None]


REMOTE = "configs:\n- config_name: default\n  data_files: {}\n"


@pytest.mark.parametrize(
    ("card", "text", "told"),
    [
        ("README.md", "---\n" + REMOTE.format("hf://datasets/a/b/c.parquet") + "---\nWords\n", "by URL, which are not"),
        (".huggingface.yaml", REMOTE.format("[{split: train, path: [https://a.b/c.jsonl]}]"), "by URL, which are not"),
        ("README.md", "---\nconfigs: [\n---\n", "not YAML .*: mend it"),
        (".huggingface.yaml", "made: 2024-99-99\n", "not YAML .*: mend it"),
    ],
)
def test_a_folder_whose_card_names_files_elsewhere_is_refused_and_nothing_is_fetched(
    card: str, text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets", reason="wants the extra `data`: pip install 'datasets>=4.6'")
    monkeypatch.setattr(datasets, "load_dataset", lambda **given: pytest.fail(f"datasets was asked for {given}"))
    (tmp_path / card).write_text(text)
    with pytest.raises(ValueError, match=told):
        read_samples(tmp_path, tmp_path)


@pytest.mark.parametrize("files", ["data/*.parquet", "&files [data/a.parquet, *files]"])
def test_a_card_may_name_local_files_and_pages(files: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="wants the extra `data`: pip install 'datasets>=4.6'")
    rows = datasets.Dataset.from_list([flat()]).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda **given: {"train": rows})
    (tmp_path / "README.md").write_text(f"---\nhomepage: https://a.b\n{REMOTE.format(files)}---\nSee https://a.b\n")
    assert [one.turns for one in read_samples(tmp_path, tmp_path)] == [(YES,)]


def test_too_many_faults_stop_the_run_and_are_written_down(tmp_path: Path) -> None:
    samples = read_samples(
        write(tmp_path / "a.jsonl", [flat(n, id=n, answer="yes" if n else "") for n in range(10)]), tmp_path
    )
    Quarantine(tmp_path / "q.jsonl", 0.1).hold(samples)
    with pytest.raises(
        ValueError, match=r"a\.jsonl: 1 of 10 samples .* 9\.0% may be so \(--max-bad\): 0: the answer is"
    ):
        Quarantine(tmp_path / "q.jsonl", 0.09).hold(samples)
    (row,) = map(json.loads, (tmp_path / "q.jsonl").read_text().splitlines())
    assert (row["id"], row["file"], row["video"]) == ("0", str(tmp_path / "a.jsonl"), str(tmp_path / "clips/0.mp4"))
    assert row["reason"] == "the answer is empty: write it out"


def test_the_report_counts_what_is_there(videos: Path, tmp_path: Path) -> None:
    rows = [flat(1), flat(1, answer="no"), flat(2), LLAVA, flat(1, answer=""), flat(2, answer=""), "{"]
    (report,) = check([write(videos / "report.jsonl", rows)], tmp_path, tmp_path / "out" / "quarantine.jsonl")
    reasons = {"the answer is empty: write it out": 2, "not JSON: write one object a line": 1}
    path = str(videos / "report.jsonl")
    assert report == Report(path, 7, 5, 2, 3, reasons, 3, 15, 0.8, 0.75)
    assert [report.status(most) for most in (0.5, 0.4)] == [0, 1]
    assert len((tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(("bad", "status"), [(0, 0), (1, 1), (4, 2)])
def test_checking_data_tells_by_its_exit_status(
    bad: int, status: int, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(videos / f"check{bad}.jsonl", [flat(n, answer="" if n < bad else "yes") for n in range(4)])
    assert main(["train", "nano", "--data", str(path), "--check-data", "--json"]) == status
    told = json.loads(capsys.readouterr().out)
    assert told["usable"] is (status == 0) and told["sets"][0]["bad"] == bad
    assert main(["train", "nano", "--data", str(path), "--check-data"]) == status
    printed = capsys.readouterr().out
    assert "of which yes" in printed and ("the answer is empty" in printed) is (bad > 0)


def mixed(videos: Path, lab: Path, rows: Sequence[object], name: str, most: float = 0.5) -> Split:
    world = VJEPA2World.from_pretrained(lab / "encoder")
    return Split.pairs(write(videos / name, rows), world, lab / "features", Quarantine(None, most))


def drawn(split: Split, questions: int, steps: int = 40) -> list[list[tuple[str, str]]]:
    """(video, question) of what each step asks, in order."""
    asked = []
    for step in range(steps):
        rng = np.random.default_rng([0, step])
        clips = split.draw(rng, split.asked_about, 3)
        asked.append(
            [(r["video"], r["question"]) for c in clips for r in fit.draw_questions(rng, split.questions[c], questions)]
        )
    return asked


def test_what_is_set_aside_leaves_all_else_in_its_order(videos: Path, lab: Path) -> None:
    rows: list[Row] = [flat(n, question=f"Is it {word}?") for n in range(5) for word in ("red", "blue", "green")]
    shutil.copy(videos / "clips/text.mp4", videos / "clips/later.mp4")
    broken = [row | {"answer": ""} if n == 4 else row for n, row in enumerate(rows)]
    broken = [row | {"video": "clips/later.mp4"} if row["video"] == "clips/3.mp4" else row for row in broken]
    whole, rest = mixed(videos, lab, rows, "whole.jsonl"), mixed(videos, lab, broken, "broken.jsonl")
    lost = {(str(videos / "clips/1.mp4"), "Is it blue?")}
    lost |= {(str(videos / "clips/3.mp4"), f"Is it {word}?") for word in ("red", "blue", "green")}
    before, after = drawn(whole, 2), drawn(rest, 2)
    assert any(lost & set(step) for step in before)
    assert after == [[one for one in step if one not in lost] for step in before]


def test_a_step_that_drew_only_what_was_set_aside_learns_nothing(videos: Path, lab: Path) -> None:
    split = mixed(videos, lab, [flat(), flat(1, answer="")], "half.jsonl")
    prompts = fit.Prompts(fit.build(tiny(), VJEPA2World.from_pretrained(lab / "encoder"), str(lab / "llm"))[1])
    stage = replace(tiny().stages["tune"], batch=1, extra=0)
    draws = [fit.draw(step, stage, split, prompts, 0) for step in range(12)]
    assert {(len(one.asked), len(one.questions), len(one.told)) for one in draws} == {(0, 0, 0), (1, 1, 1)}


def test_weights_are_odds_of_a_clip(videos: Path, lab: Path) -> None:
    one, other = (mixed(videos, lab, [flat(5 * k + n) for n in range(5)], f"set{k}.jsonl") for k in range(2))
    even, third = Split.mix([one, other], [1, 1]), Split.mix([one, other], [3, 1])
    counts = {
        name: sum(split.draw(np.random.default_rng(step), split.asked_about, 1)[0] < 5 for step in range(2000))
        for name, split in {"even": even, "third": third}.items()
    }
    assert counts["even"] == pytest.approx(1000, abs=100) and counts["third"] == pytest.approx(1500, abs=100)
    rng, again = np.random.default_rng(1), np.random.default_rng(1)
    clips = third.asked_about
    assert np.array_equal(third.draw(rng, clips, 4), third.draw(again, clips, 4))


def test_clips_without_facts_cost_the_heads_nothing() -> None:
    unknown = Targets.unknown(3)
    pooled = torch.randn(3, 4, 8, requires_grad=True)
    losses = FactHeads(8, 2).loss(pooled, unknown.batch([0, 1, 2]))
    assert {name: loss.item() for name, loss in losses.items()} == {"measures": 0.0, "places": 0.0}
    assert (unknown.words == MISSING).all() and word_loss(torch.randn(3, unknown.words.shape[1], 7), unknown.words) == 0


def logged(folder: Path) -> list[Row]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_paired_data_trains_a_model_that_answers(
    videos: Path, lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [flat(n, answer="yes" if n % 2 else "no", until=1.0) for n in range(6)]
    rows += [LLAVA, flat(video="clips/text.mp4"), flat(2, question="What moves?", answer="A square.")]
    data, val = write(videos / "mine.jsonl", rows), write(videos / "val.jsonl", rows[:4] + rows[-1:])
    asked = ["train", "tiny", "--data", str(data), "--val", str(val), "--out", str(tmp_path / "run")]
    asked += ["--encoder", str(lab / "encoder"), "--llm", str(lab / "llm"), "--max-bad", "0.2", "--json"]
    assert main(asked) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert "left out: warm" in printed.err and told["set_aside"] == 1 and not (tmp_path / "run" / "warm").exists()
    last = logged(tmp_path / "run" / "tune")[-1]
    assert np.isfinite(last["loss"]) and 0 <= last["val_answers"] <= 1 and last["val_open_loss"] > 0
    model = Foretell.load(Path(told["model"]), str(lab / "llm"))
    assert model.answer(model.read(videos / "clips/0.mp4", 1.0), "Will it fall?").text in ("yes", "no")
    assert json.loads((Path(told["model"]) / "training.json").read_text())["train_clips"] == 6


def test_worlds_and_paired_data_mix(worlds: Path, videos: Path, lab: Path, tmp_path: Path) -> None:
    data = write(videos / "some.jsonl", [flat(n, question="What moves?", answer="A square.") for n in range(4)])
    sources = [Source(worlds), Source(data, 0.5)]
    fit.run(sources, data, lab / "encoder", tmp_path / "run", tiny(), str(lab / "llm"), lab / "features")
    assert [row["step"] for row in logged(tmp_path / "run" / "warm")] == [1, 2, 3, 4]
    assert all(np.isfinite(row["loss"]) for stage in ("warm", "tune") for row in logged(tmp_path / "run" / stage))
    calibration = json.loads((tmp_path / "run" / "model" / "calibration.json").read_text())
    assert calibration == asdict(Calibration()), "no question with options was there to calibrate on"


def test_worlds_read_as_paired_data_have_the_features_of_worlds(worlds: Path, lab: Path, tmp_path: Path) -> None:
    world = VJEPA2World.from_pretrained(lab / "encoder")
    facts = Split.open(worlds, world, tmp_path / "facts")
    rows = Split.pairs(worlds / "questions.jsonl", world, tmp_path / "rows", Quarantine(None, 0.0))
    assert set(rows.keys) == {key for key, asked in zip(facts.keys, facts.questions, strict=True) if asked}
    (ours, _), (theirs, _) = rows.cache.rows(rows.keys), facts.cache.rows(rows.keys)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-2)
