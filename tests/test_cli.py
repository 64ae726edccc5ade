"""The command line's promises: its options, what lands on stdout and stderr, and the exit status."""

import json
import re
import subprocess
import sys
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from foretell.__main__ import _fields, _parsed, _recipe, app, main
from foretell.eval.benchmarks import NAMES
from foretell.eval.surprise import Surprise, sentence
from foretell.perception.video import Clip, VideoError
from foretell.reasoner.actions import Nothing, Push
from foretell.reasoner.answer import Answer, Foretell
from foretell.reasoner.batch import Counts
from foretell.reasoner.plan import Choice, Goal, Plan
from foretell.train.pairs import Source
from foretell.train.recipes import ENCODERS, RECIPES, tiny

COMMANDS = {
    "ask": "VIDEO QUESTION --until --options --model --llm --load-in-4bit --save-plot --json",
    "answer": "QUESTIONS --out --model --llm --load-in-4bit --json",
    "plan": "VIDEO GOAL --until --model --llm --load-in-4bit --json",
    "surprise": "VIDEO --model --until --context --window --save-plot --json",
    "worlds": "OUT --clips --seed --scenarios --shift --violations --interventions --size --frames --fps --shadows "
    "--engine --workers --preview --json",
    "features": "DATA --encoder --out --mirror --json",
    "pretrain": "RECIPE --data --out --set --init --teacher --probe-labels --resume --no-resume --track --json",
    "train": "RECIPE --data --val --out --encoder --llm --features --init --set --max-bad --check-data --plan "
    "--cluster --shard --track --json",
    "export": "MODEL --out --merge --push --results --llm --json",
    "eval exam": "DATA --out --model --train --control --altered --no-altered --limit --per-clip --violations "
    "--rival --layers --workers --json",
    "eval probe": "DATA --train --out --model --probes --layers --variables --labels --views --tubelets --steps --json",
    "eval gauges": "RUNS --out --test --val --json",
    "eval diagnose": "DATA --train --out --model --probes --variables --labels --limit --json",
    "eval surprise": "DATA --out --model --json",
    "eval planning": "DATA --out --model --limit --json",
    "eval rivals": "DATA --train --val --encoder --runs --out --seeds --imagination --painter --controls --no-controls "
    "--init --llm --set --limit --per-clip --workers --json",
    **{f"eval {name}": "--data --out --model --limit --controls --no-controls --json" for name in NAMES},
    "eval iphyre": "--out --data --model --limit --controls --no-controls --json",
    "bench": "DATA --val --test --runs --out --quick --json",
    "doctor": "--json",
}
QUESTION = "Will the tower fall?"
CLIP = Clip(np.zeros((2, 8, 8, 3), np.uint8), np.array([0.375, 0.5]), duration=1.875, shown=0.5)


class Oracle(Foretell):
    """Foretell without weights: always 80% sure of the first option, or of "It [falls]." """

    def __init__(self) -> None:
        self.asked: list[tuple[str, float | None]] = []

    def read(self, path: str | Path, until: float | None = None) -> Clip:
        if not Path(path).is_file():
            raise VideoError(Path(path), "no such file")
        self.asked.append((str(path), until))
        return CLIP

    def answer(self, clip: Any, question: str, options: Sequence[str] | None = None) -> Answer:
        first, second = options or ("yes", "no")
        return Answer(first, 0.8, False, {first: 0.8, second: 0.2}, {"shown": clip.shown, "duration": clip.duration})

    def stream(self, clip: Any, question: str) -> Generator[str, None, Answer]:
        yield "It "
        yield "[falls]."
        return Answer("It [falls].", 0.8, True, None, {"shown": clip.shown, "duration": clip.duration})


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Oracle:
    """What every command gets in place of a loaded model."""
    fake = Oracle()
    monkeypatch.setattr(Foretell, "load", lambda *arguments, **options: fake)
    return fake


@pytest.fixture
def video(tmp_path: Path) -> str:
    path = tmp_path / "clip.mp4"
    path.touch()
    return str(path)


def one_line(text: str) -> str:
    """The text, which must be exactly one line that says what went wrong."""
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    return text


def registered() -> dict[str, Any]:
    """Every command by its name, those of groups as "eval exam"."""
    found: dict[str, Any] = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        members = getattr(command, "commands", None)
        found |= {name: command} if members is None else {f"{name} {one}": members[one] for one in members}
    return found


def spelled(parameter: Any) -> list[str]:
    """How a parameter is written: VIDEO, or --resume and --no-resume."""
    return [name.upper() if not name.startswith("-") else name for name in (*parameter.opts, *parameter.secondary_opts)]


def test_options_are_frozen() -> None:
    found = {
        name: " ".join(word for parameter in one.params for word in spelled(parameter))
        for name, one in registered().items()
    }
    assert found == COMMANDS


@pytest.mark.parametrize("command", ["", "eval", *COMMANDS])
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert f"Example: foretell {command or 'ask'}" in capsys.readouterr().out


def test_help_loads_nothing_heavy() -> None:
    code = (
        "from foretell.__main__ import main; main(['ask', '--help']); import sys; print(*sys.modules, file=sys.stderr)"
    )
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.split()
    assert "typer" in modules
    assert {"torch", "transformers", "mujoco", "matplotlib", "numpy", "av"}.isdisjoint(modules)


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "foretell", "answer"]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (child.returncode, child.stdout) == (2, "")
    assert "See `foretell answer --help`." in one_line(child.stderr)


def test_nothing_asked_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Example: foretell ask" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["wrold"], "'wrold'"),
        (["ask"], "'video'"),
        (["ask", "clip.mp4", "Why?", "--until", "soon"], "--until"),
        (["worlds", "there", "--seed", "1"], "--clips"),
        (["worlds", "there", "--clips", "1", "--seed", "1", "--scenarios", "tower"], "towers"),
        (["pretrain", "big", "--data", "x.npy", "--out", "there"], "nano, tiny"),
        (["pretrain", "tiny", "--data", "none.npy", "--out", "there"], "none.npy"),
        (["pretrain", "tiny", "--data", "x.npy", "--out", "there", "--set", "speed=1"], "steps (int)"),
        (
            ["train", "nano", "--data", "x", "--val", "x", "--out", "there", "--set", "steps=1"],
            "stages.tune.lr (float)",
        ),
        (["train", "nano", "--data", "x"], "--val SET"),
        (["train", "nano", "--plan", "--cluster", "h200"], "cpu2, a100x8, h100x8, 2xh100x8"),
        (["export", "nowhere", "--out", "there"], "nowhere: no model there"),
        (["export"], "--out"),
        (["export", "--out", "there", "--results", "none.json"], "none.json"),
        (["export", "--out", "there", "--push", "a/b/c"], "a/b/c"),
        (["features", "nowhere", "--encoder", "nowhere"], "nowhere holds no clips.jsonl"),
        (["eval", "exam", "nowhere", "--out", "x.json"], "nowhere holds no clips.jsonl"),
        (["surprise", "none.mp4"], "none.mp4: cannot be opened"),
        (["surprise", "none.mp4", "--window", "3"], "multiples of 2 up to 8"),
        (["surprise", "none.mp4", "--context", "8"], "2, 4, 6 are allowed"),
        (["surprise", "none.mp4", "--model", "nowhere"], "nowhere: no encoder there"),
        (["worlds", "there", "--clips", "6", "--seed", "1", "--violations"], "a multiple of 4"),
        (["worlds", "there", "--clips", "4", "--seed", "1", "--violations", "--shift", "camera"], "leave out --shift"),
        (["worlds", "there", "--clips", "1", "--seed", "1", "--shift", "light"], "views, shapes, camera"),
        (["worlds", "there", "--clips", "4", "--seed", "1", "--violations", "--scenarios", "towers"], "permanence"),
        (["worlds", "there", "--clips", "4", "--seed", "1", "--violations", "--interventions"], "choose"),
        (["plan", "clip.mp4", "fall"], "as in 'make the tower fall to the left'"),
        (["eval", "planning", "nowhere", "--out", "x.json"], "nowhere holds no clips.jsonl"),
        (["eval", "exam", "nowhere", "--out", "x.json", "--rival", "a=b"], "add --violations DIR"),
        (["eval", "surprise", "nowhere", "--out", "x.json"], "nowhere holds no violations.jsonl"),
        (["eval", "exam", "nowhere", "--out", "x.json", "--control", "random"], "NAME=DIR"),
    ],
)
def test_bad_use_is_one_line_and_status_2(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert told in one_line(printed.err)
    assert printed.out == ""


def test_an_answer_to_options(oracle: Oracle, video: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", video, QUESTION, "--until", "0.5", "--options", "left, right"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].strip() == "left"
    assert "80%" in printed
    assert "0.50 s of 1.88 s" in printed
    assert oracle.asked == [(video, 0.5)]
    long = "it falls to the left " * 8
    assert main(["ask", video, QUESTION, "--options", f"right, {long}"]) == 0
    assert any(long.strip() in line and "%" in line for line in capsys.readouterr().out.splitlines()), "wrapped"


def test_a_plan_is_told_with_all_that_was_considered(
    oracle: Oracle, video: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def plan(foretell: Foretell, clip: Clip, goal: Goal) -> Plan:
        expected = {question: want for question, _, want in goal.wanted}
        return Plan(goal, (Choice(Push("red", "left"), 0.3, 0.9, expected), Choice(Nothing(), 0.7)), abstained=False)

    monkeypatch.setattr("foretell.reasoner.plan.plan", plan)
    command = ["plan", video, "make the tower fall to the left", "--until", "0.5"]
    assert main(command) == 0
    first, sure, *rest = capsys.readouterr().out.splitlines()
    assert (first, sure) == ("Push the red block to the left", "confidence 90% (sure enough to act)")
    assert any("Do nothing" in line and "70%" in line for line in rest)
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["expected"] == {"Will the tower fall?": "yes", "Which way will the tower fall?": "left"}
    assert (told["action"], told["confidence"], told["until"]) == (first, 0.9, 0.5)
    assert [one["reached"] for one in told["considered"]] == [0.9, None]
    assert oracle.asked == [(video, 0.5)] * 2


def test_an_open_answer_is_streamed_once(oracle: Oracle, video: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", video, "What happens next?"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("It [falls].\n")
    assert printed.count("falls") == 1
    assert "too unsure" in printed


def test_json_is_all_of_stdout(oracle: Oracle, video: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", video, QUESTION, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["answer"], told["probabilities"], told["abstained"]) == ("yes", {"yes": 0.8, "no": 0.2}, False)
    assert told["evidence"] == {"shown": 0.5, "duration": 1.875}


def test_a_plot_is_saved(oracle: Oracle, video: str, tmp_path: Path) -> None:
    assert main(["ask", video, QUESTION, "--save-plot", str(tmp_path / "plot.png"), "--json"]) == 0
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("option", [":fire: [red] wins", "word " * 40 + "end", "w" * 200, "a\tb"])
def test_stdout_begins_with_the_answer_as_it_is(
    oracle: Oracle, video: str, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert main(["ask", video, QUESTION, "--options", f"{option},no"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{option}\n")
    assert "\N{FIRE}" not in told


def test_a_file_name_that_is_no_utf_8_is_told(
    oracle: Oracle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "clip\udcff.mp4"
    video.touch()
    assert main(["ask", str(video), QUESTION, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["video"] == str(video)


@pytest.mark.parametrize(("name", "told"), [("missing/plot.png", "missing/plot.png"), ("plot.xyz", "'xyz'")])
def test_an_answer_is_told_though_its_plot_cannot_be_saved(
    oracle: Oracle, video: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, told: str
) -> None:
    assert main(["ask", video, QUESTION, "--save-plot", str(tmp_path / name), "--json"]) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["answer"] == "yes"
    assert told in one_line(printed.err)


def test_a_surprise_is_told_though_its_plot_cannot_be_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Surprise(CLIP, np.array([0.25, 0.5]), np.array([1.0, 2.0]), np.ones((1, 1, 1)))
    monkeypatch.setattr("foretell.eval.surprise.open_watcher", lambda model: None)
    monkeypatch.setattr("foretell.eval.surprise.watch_video", lambda *arguments: found)
    assert main(["surprise", "clip.mp4", "--save-plot", "missing/plot.png"]) == 2
    printed = capsys.readouterr()
    assert sentence(found) in printed.out
    assert "missing/plot.png" in one_line(printed.err)


def test_a_bad_video_is_named(oracle: Oracle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", str(tmp_path / "none.mp4"), QUESTION]) == 2
    assert "none.mp4: no such file" in one_line(capsys.readouterr().err)


def test_our_own_bugs_keep_their_traceback(video: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Foretell, "load", lambda *arguments, **options: None)
    with pytest.raises(AttributeError):
        main(["ask", video, QUESTION])


def test_a_batch_with_failures_has_status_1(
    oracle: Oracle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = Counts(answered=1, kept=0, failed=1)
    monkeypatch.setattr("foretell.reasoner.batch.answer_file", lambda questions, out, model: counts)
    assert main(["answer", "questions.jsonl", "--out", str(tmp_path / "answers.jsonl"), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told == {"out": str(tmp_path / "answers.jsonl"), "answered": 1, "kept": 0, "failed": 1}


def test_a_batch_that_cannot_start_has_status_2(
    oracle: Oracle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["answer", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "answers.jsonl")]) == 2
    assert "none.jsonl" in one_line(capsys.readouterr().err)


def test_worlds_defaults_are_those_of_the_room() -> None:
    from foretell.train.worlds import Spec

    defaults = {one.name: one.default for one in registered()["worlds"].params}
    assert {name: defaults[name] for name in ("size", "frames", "fps", "shadows")} == {
        name: getattr(Spec(), name) for name in ("size", "frames", "fps", "shadows")
    }


def test_worlds_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from foretell.train.worlds import Spec, Summary

    given: list[Any] = []

    def generate(*arguments: Any) -> Summary:
        given.extend(arguments)
        return Summary(tmp_path, 3, 7, {"towers/falls": 7})

    monkeypatch.setattr("foretell.train.worlds.generate", generate)
    assert main(["worlds", str(tmp_path), "--clips", "3", "--seed", "5", "--json"]) == 0
    assert given == [tmp_path, 3, 5, Spec(), 1, None]
    told = json.loads(capsys.readouterr().out)
    about = {"out": str(tmp_path), "clips": 3, "questions": 7, "by_type": {"towers/falls": 7}}
    assert told == {**about, "interventions": 0}
    monkeypatch.setattr("foretell.train.worlds.whatif.write_whatif", lambda *arguments: arguments[1] + arguments[2])
    assert main(["worlds", str(tmp_path), "--clips", "3", "--seed", "5", "--interventions"]) == 0
    assert "3 clips and 15 questions" in capsys.readouterr().out


@pytest.mark.parametrize("broken", [True, False])
def test_doctor_fails_only_where_no_question_can_be_answered(
    broken: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ill() -> str:
        raise RuntimeError("no such thing\nand more")

    checks = [("first", True, lambda: "version 1", "buy one"), ("second", broken, ill, "mend it")]
    monkeypatch.setattr("foretell.eval.doctor.CHECKS", checks)
    assert main(["doctor", "--json"]) == int(broken)
    told = json.loads(capsys.readouterr().out)
    assert told["works"] is not broken
    assert [check["found"] for check in told["checks"]] == ["version 1", "no such thing"]
    assert [check["mend"] for check in told["checks"]] == [None, "mend it"]


@pytest.mark.parametrize("name", ["python", "torch", "video", "language model", "4-bit", "rendering"])
def test_this_machine_is_well(name: str) -> None:
    from foretell.eval.doctor import CHECKS

    (check,) = [check for one, _, check, _ in CHECKS if one == name]
    assert check()


def test_settings_are_read_as_the_fields_say() -> None:
    settings = ["stages.tune.steps=5", "stages.tune.lr=1e-4", "cells=2,4,4", "stages.tune.batch=3"]
    changed = _recipe(RECIPES, "tiny", settings)
    tune = replace(tiny().stages["tune"], steps=5, lr=1e-4, batch=3)
    assert changed == replace(tiny(), cells=(2, 4, 4), stages={**tiny().stages, "tune": tune})


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("width", "wants FIELD=VALUE"),
        ("width=1.5", "width=1.5: wants int"),
        ("cells=1,x,1", "cells=x: wants int"),
        ("cells=1,2", "wants 3 values"),
        ("stages.tune=1", "stages.tune.steps (int), stages.tune.batch (int)"),
        ("speed=1", "width (int)"),
    ],
)
def test_settings_that_do_not_fit_say_what_would(setting: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        _recipe(RECIPES, "tiny", [setting])


@pytest.mark.parametrize("make", [*ENCODERS.values(), *RECIPES.values()])
def test_every_field_of_a_recipe_can_be_set(make: Any) -> None:
    recipe = make()
    for field, hint in _fields(recipe, type(recipe)):
        value: Any = recipe
        for name in field.split("."):
            value = value[name] if isinstance(value, dict) else getattr(value, name)
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert _parsed(text, hint, field) == value


@pytest.mark.parametrize("command", ["pretrain", "train"])
def test_help_names_every_recipe(command: str) -> None:
    (argument,) = [one for one in registered()[command].params if one.name == "recipe"]
    for name in {"pretrain": [*ENCODERS], "train": [*RECIPES]}[command]:
        assert name in re.findall(r"\w+", argument.help)


def test_training_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given: list[Any] = []

    def run(*arguments: Any, **options: Any) -> Path:
        given.extend([*arguments, options])
        return tmp_path / "model"

    monkeypatch.setattr("foretell.train.fit.run", run)
    asked = [
        "train",
        "tiny",
        "--data",
        "a",
        "--data",
        "b.json:0.5",
        "--val",
        "b",
        "--out",
        "c",
        "--encoder",
        "d",
        "--set",
        "seed=4",
        "--init",
        "e",
        "--shard",
        "--track",
        "none",
        "--json",
    ]
    assert main(asked) == 0
    sources, options = (
        [Source(Path("a")), Source(Path("b.json"), 0.5)],
        {"init": Path("e"), "max_bad": 0.05, "sharded": True, "track": "none"},
    )
    assert given == [sources, Path("b"), "d", Path("c"), replace(tiny(), seed=4), None, None, options]
    told = json.loads(capsys.readouterr().out)
    assert (told["model"], told["recipe"]["seed"]) == (str(tmp_path / "model"), 4)


def test_an_export_is_told_and_pushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[Any] = []

    def export(*arguments: Any) -> Path:
        given.extend(arguments)
        return tmp_path / "whole"

    monkeypatch.setattr("foretell.reasoner.export.reserve", given.append)
    monkeypatch.setattr("foretell.reasoner.export.export", export)
    monkeypatch.setattr("foretell.reasoner.export.push", lambda folder, repo: f"https://hub/{repo}/{folder.name}")
    monkeypatch.chdir(tmp_path)
    assert main(["export", "runs/a", "--out", "whole", "--merge", "--push", "me/mine", "--json"]) == 0
    repo, source, out, describe, *rest = given
    assert (repo, source, out, rest) == ("me/mine", "runs/a", Path("whole"), [True, None])
    assert describe.keywords == {"name": "mine", "where": "me/mine", "found": None}
    told = json.loads(capsys.readouterr().out)
    assert told == {"out": "whole", "merged": True, "pushed": "https://hub/me/mine/whole"}


def test_an_exam_records_its_own_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(model: str | None, data: Path, out: Path, **given: Any) -> dict[str, Any]:
        return {"model": model, "data": str(data), "controls": given["controls"], "command": given["command"]}

    monkeypatch.setattr("foretell.eval.exam.run", run)
    monkeypatch.setattr("foretell.eval.report.headline_table", lambda found: "| table |")
    asked = ["eval", "exam", "my worlds", "--out", "x.json", "--control", "random=runs/random", "--json"]
    assert main(asked) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["command"] == "foretell eval exam 'my worlds' --out x.json --control random=runs/random --json"
    assert told["controls"] == {"random": "runs/random"}
