"""The public benchmarks: each in its official layout, made here; the figures against values worked out by hand."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from foretell.__main__ import main
from foretell.eval import exam, report
from foretell.eval.benchmarks import NAMES
from foretell.eval.benchmarks import run as room
from foretell.eval.benchmarks.catalogue import BENCHMARKS
from foretell.eval.benchmarks.clevrer import CLEVRER
from foretell.eval.benchmarks.run import run
from foretell.eval.benchmarks.watch import filmed, pixel_change, surprise_of, whole
from foretell.eval.surprise import open_watcher, watch_video
from foretell.perception.encoder import tiny_config
from foretell.perception.video import read_clip
from foretell.reasoner.answer import NANO

from .conftest import moving_square, write_video
from .reasoner_tiny import tiny_foretell

Row = Mapping[str, Any]
Build = Callable[[Path, Path], None]  # the folder to fill, a video to copy
WORLD = NANO / "examples" / "collide.mp4"  # of this project's own worlds: 24 pictures, 3 s


@cache
def pictures() -> NDArray[np.uint8]:
    """The first three pictures of it."""
    return read_clip(WORLD, rate=8, count=3).frames


def put(video: Path, *paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def table(path: Path, head: str, *rows: str) -> None:
    write(path, "\n".join([head, *rows]) + "\n")


def build_clevrer(folder: Path, video: Path) -> None:
    def chosen(number: int, kind: str, *answers: str) -> dict[str, Any]:
        choices = [{"choice_id": k, "choice": f"Event {k}", "answer": answer} for k, answer in enumerate(answers)]
        return {"question_id": number, "question": "Which?", "question_type": kind, "choices": choices}

    def told(answer: str) -> dict[str, Any]:
        return {"question_id": 0, "question": "What colour?", "question_type": "descriptive", "answer": answer}

    first = [told("red"), chosen(1, "explanatory", "correct", "wrong"), chosen(2, "predictive", "wrong", "correct")]
    first.append(chosen(3, "counterfactual", "wrong", "wrong", "correct"))
    second = [told("2"), chosen(1, "predictive", "correct", "wrong")]
    scenes = [
        {"scene_index": 10000 + k, "video_filename": f"video_{10000 + k}.mp4", "questions": questions}
        for k, questions in enumerate((first, second))
    ]
    write(folder / "validation.json", json.dumps(scenes))
    chunk = folder / "video_validation" / "video_10000-11000"
    put(video, chunk / "video_10000.mp4", chunk / "video_10001.mp4")


def build_intphys2(folder: Path, video: Path) -> None:
    head = "SceneIndex,name,file_name,game_name,condition,env,type,occluder,Difficulty,Camera"
    rows = []
    for scene, (condition, difficulty) in enumerate([("solidity", "Easy"), ("continuity_swap", "Hard")]):
        for kind in ("1_Possible", "1_Impossible", "2_Impossible", "2_Possible"):
            name = f"Videos/{scene}{kind}.mp4"
            rows.append(f"{scene},x,{name},Box,{condition},env,{kind},None,{difficulty},Fixed")
            put(video, folder / "Main" / name)
    table(folder / "Main" / "metadata.csv", head, *rows)


def build_mvp(folder: Path, video: Path) -> None:
    for subset, pairs in (("intuitive_physics", 2), ("temporal_reasoning", 1)):
        lines = [
            {"video_id": f"clevrer_{pair}_{turn}", "video_path": f"clevrer/{pair}_{turn}.mp4", "source": "clevrer"}
            | {"question": "Which?", "candidates": "['left', 'right']", "answer": ("left", "right")[turn]}
            for pair in range(pairs)
            for turn in range(2)
        ]
        write(folder / f"{subset}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        put(video, *(folder / "videos" / str(line["video_path"]) for line in lines))


def build_causalvqa(folder: Path, video: Path) -> None:
    head = "qid,type,question,choices1,correct1,choices2,correct2,difficulty,renamed_video"
    choices = ("1. go|2. stay|3. sit|4. lie|5. run", "1. leave|2. rest|3. sit|4. lie|5. run")
    rows = [
        f"{qid},{kind},Why?,{choices[0]},2,{choices[1]},1,easy,{qid}.mp4"
        for qid, kind in (("a", "Anticipation"), ("b", "Planning"))
    ]
    table(folder / "debug" / "debug_metadata.csv", head, *rows)
    put(video, *(folder / "debug" / "videos" / f"{qid}.mp4" for qid in "ab"))


def build_perceptiontest(folder: Path, video: Path) -> None:
    def asked(number: int, area: str, reasoning: str, answer: int) -> dict[str, Any]:
        options = ["one", "two", "three"]
        return {"id": number, "question": "How many?", "options": options, "answer_id": answer, "tag": []} | {
            "area": area,
            "reasoning": reasoning,
        }

    videos = {
        "video_1": [asked(0, "Physics", "predictive", 2), asked(1, "Memory", "descriptive", 0)],
        "video_2": [asked(0, "Physics", "descriptive", 1)],
    }
    metadata = {"frame_rate": 8.0, "num_frames": 16, "split": "valid"}
    nested = {name: {"metadata": metadata, "mc_question": questions} for name, questions in videos.items()}
    write(folder / "mc_question_valid.json", json.dumps(nested))
    write(folder / "cut_frame_mapping_valid.json", json.dumps({"video_1": 9, "video_2": -1}))
    put(video, *(folder / "videos" / f"{name}.mp4" for name in videos))


def build_intphys(folder: Path, video: Path) -> None:
    for block in ("O1", "O2"):
        for movie, possible in enumerate((True, False, False, True), start=1):
            place = folder / "dev" / block / "01" / str(movie)
            write(place / "status.json", json.dumps({"header": {"is_possible": possible}, "frames": []}))
            (place / "scene").mkdir()
            for number, frame in enumerate(pictures(), start=1):
                Image.fromarray(frame).save(place / "scene" / f"scene_{number:03d}.png")


def build_physion(folder: Path, video: Path) -> None:
    trials = {"pilot_it2_collision_0001_img": "True", "pilot_it2_collision_0002_img": "False"}
    more = {f"pilot_towers_nb2_{number:04d}_img": str(number != 2) for number in (1, 2, 3)}
    table(folder / "labels.csv", ",ground truth outcome", *(f"{k},{v}" for k, v in (trials | more).items()))
    for scenario, names in (("Collide", trials), ("Support", more)):
        put(video, *(folder / scenario / "mp4s-redyellow" / f"{n[:-9]}-redyellow{n[-9:]}.mp4" for n in names))
    last = folder / "Support" / "mp4s-redyellow" / "pilot_towers_nb2-redyellow_0003_img.mp4"
    last.rename(last.with_name("pilot_towers_nb2_0003_img-redyellow.mp4"))


def build_shapestacks(folder: Path, video: Path) -> None:
    scenarios = {
        "blocks_all": ["env_blocks-easy-h=2-vcom=0-vpsf=0-v=1", "env_blocks-easy-h=3-vcom=1-vpsf=0-v=2"],
        "ccs_all": ["env_ccs-hard-h=6-vcom=0-vpsf=2-v=3"],
    }
    for split, names in scenarios.items():
        table(folder / "splits" / split / "test.txt", *names)
        for name in names:
            place = folder / "recordings" / name
            place.mkdir(parents=True)
            for picture in ("rgb-w=5-f=1-l=1-c=0-cam_1-mono-0.png", "vseg-w=0-f=0-l=0-c=0-cam_1-mono-0.map"):
                Image.fromarray(pictures()[0]).save(place / picture, format="PNG")


def build_cophy(folder: Path, video: Path) -> None:
    for blocks, moved in ((3, 0.0), (3, 0.2), (4, 0.2)):
        place = folder / "blocktowerCF" / str(blocks) / f"{int(moved * 10)}7" / "cd"
        put(video, place / "rgb.mp4")
        states = np.zeros((30, 4, 13))
        states[-1, 0, 2] = moved
        np.save(place / "states.npy", states)
    table(folder / "splits" / "blocktowerCF_test_3_normal.txt", "07", "27")
    table(folder / "splits" / "blocktowerCF_test_4_normal.txt", "27")


def build_grasp(folder: Path, video: Path) -> None:
    for test, count in (("Collision", 2), ("Inertia2", 1)):
        numbers = [f"{place:03d}.mp4" for place in range(count)]
        put(video, *(folder / "level2" / f"{outcome}_{test}" / n for outcome in ("P", "IP") for n in numbers))


def build_inflevel(folder: Path, video: Path) -> None:
    for kind in ("vv", "ii", "iv", "vi"):
        put(video, folder / "continuity" / f"center__continuity__cup__duck__{kind}__LR.mp4")
    for principle in ("solidity", "gravity"):
        put(video, *(folder / principle / f"left__{principle}__cup__duck__{k}.mp4" for k in ("ui", "cv", "uv", "ci")))
    put(video, folder / "gravity" / "left__gravity__cup__ball__ui.mp4")
    put(
        video,
        *(folder / "inflevel_sim" / "gravity" / f"left__gravity__A__B__{k}.mp4" for k in ("ui", "cv", "uv", "ci")),
    )


def build_physics_iq(folder: Path, video: Path) -> None:
    for number, view in (("0001", "left"), ("0002", "center")):
        name = f"{number}_testing-videos_30FPS_perspective-{view}_take-1_trimmed-ball-hits-duck.mp4"
        put(video, folder / "split-videos" / "testing" / "30FPS" / name)
        put(video, folder / "split-videos" / "testing" / "30FPS" / name.replace("0", "1").replace("take-1", "take-2"))
        put(video, folder / "generated" / "sora" / f"{number}_perspective-{view}_trimmed-ball-hits-duck.mp4")
    put(video, folder / "generated" / "pika" / "0002_anything.mp4")


def build_iphyre(folder: Path, video: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": f"{game}-{number}-{answer}", "video": f"clips/{game}-{number}-{answer}.mp4", "question": "Will it fall?"}
        | {"options": ["yes", "no"], "answer": answer, "scene": game, "kind": kind, "until": 1.0, "decided": 1.5}
        for game, kind, pairs in (("support", "basic", 2), ("noisy_support", "noisy", 1))
        for number in range(pairs)
        for answer in ("yes", "no")
    ]
    write(folder / "questions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    put(video, *(folder / row["video"] for row in rows))


LAYOUTS: dict[str, Build] = {
    "causalvqa": build_causalvqa,
    "clevrer": build_clevrer,
    "cophy": build_cophy,
    "grasp": build_grasp,
    "inflevel": build_inflevel,
    "intphys": build_intphys,
    "intphys2": build_intphys2,
    "iphyre": build_iphyre,
    "mvp": build_mvp,
    "perceptiontest": build_perceptiontest,
    "physics-iq": build_physics_iq,
    "physion": build_physion,
    "shapestacks": build_shapestacks,
}


@pytest.fixture
def laid_out(tmp_path: Path) -> Callable[[str], Path]:
    def build(name: str) -> Path:
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        LAYOUTS[name](folder, WORLD)
        return folder

    return build


def answered(rows: Iterable[Row], wrong: Iterable[str]) -> list[Row]:
    """All right but those of these ids, which must be there."""
    rows, missed = list(rows), set(wrong)
    assert missed <= {row["id"] for row in rows}
    return [{**row, "right": row["id"] not in missed} for row in rows]


def values(name: str, rows: Sequence[Row]) -> dict[str, float]:
    return {metric: figure.value for metric, figure in BENCHMARKS[name].figures(rows).items()}


# --- what holds for all of them


def test_the_command_line_knows_every_benchmark() -> None:
    assert set(NAMES) == set(BENCHMARKS) == set(LAYOUTS)


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_model_scores_one_and_chance_is_what_the_table_says(
    name: str, laid_out: Callable[[str], Path]
) -> None:
    benchmark = BENCHMARKS[name]
    rows = benchmark.read(laid_out(name))
    assert len({row["id"] for row in rows}) == len(rows)
    perfect = [{**row, "right": True, "surprise": 0.0 if row.get("possible") else 1.0} for row in rows]
    figures = benchmark.figures(perfect)
    assert {figure.value for figure in figures.values()} == {1.0}
    assert figures[benchmark.headline].chance == pytest.approx(benchmark.chance)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_something_else_is_refused_with_what_to_do(name: str, tmp_path: Path) -> None:
    (tmp_path / "holiday.mp4").touch()
    benchmark = BENCHMARKS[name]
    with pytest.raises(ValueError, match=r"is not .*Expected: ") as refused:
        benchmark.read(tmp_path)
    told = str(refused.value)
    assert benchmark.layout in told and benchmark.data in told and benchmark.licence in told
    with pytest.raises(ValueError, match="there is no such folder"):
        benchmark.read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "told"),
    [
        ("clevrer", "validation.json", '"choice_id"', '"number"', "a choice of .* question of validation.json lacks"),
        ("clevrer", "validation.json", "[", "{", "is no JSON"),
        ("intphys2", "Main/metadata.csv", "file_name", "file", r"lacks the columns \['file_name'\]"),
        ("intphys2", "Main/metadata.csv", "2_Impossible", "2_Strange", "type '2_Strange'"),
        ("mvp", "intuitive_physics.jsonl", "['left', 'right']", "left, or right", "are no list"),
        ("mvp", "intuitive_physics.jsonl", '"answer": "left"', '"answer": "up"', "none of its options"),
        ("causalvqa", "debug/debug_metadata.csv", ",2,", ",9,", "correct1 of question a is '9'"),
        ("perceptiontest", "mc_question_valid.json", "answer_id", "answer", "a question of video_1 lacks"),
        ("physion", "labels.csv", "True", "perhaps", "the outcome of pilot_it2_collision_0001_img is 'perhaps'"),
        ("intphys", "dev/O1/01/1/status.json", "true", "false", "not two possible and two impossible movies"),
    ],
)
def test_what_is_wrong_in_a_file_is_told(
    name: str, file: str, old: str, new: str, told: str, laid_out: Callable[[str], Path]
) -> None:
    path = laid_out(name) / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=told):
        BENCHMARKS[name].read(path.parents[len(Path(file).parts) - 1])


def forget(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).unlink()


def add(path: str) -> Callable[[Path], None]:
    return lambda folder: write(folder / path, "")


@pytest.mark.parametrize(
    ("name", "spoil", "told"),
    [
        ("cophy", forget("blocktowerCF/3/07/cd/states.npy"), "blocktowerCF/3/07/cd/states.npy is missing"),
        ("grasp", forget("level2/IP_Inertia2/000.mp4"), "the first is P_Inertia2/000"),
        (
            "inflevel",
            add("gravity/left__gravity__cup__ball__xx.mp4"),
            "ball__xx.mp4 is not called camera__gravity__cover",
        ),
        ("intphys", forget("dev/O1/01/1/status.json"), "O1/01 is not two possible and two impossible movies, but 3"),
        ("physics-iq", add("generated/pika/0099_ball.mp4"), "0099_ball.mp4 has no filmed video of the id 0099"),
        (
            "shapestacks",
            forget("recordings/env_ccs-hard-h=6-vcom=0-vpsf=2-v=3/rgb-w=5-f=1-l=1-c=0-cam_1-mono-0.png"),
            "recordings/env_ccs-hard-h=6-vcom=0-vpsf=2-v=3 holds no picture",
        ),
    ],
)
def test_what_is_wrong_among_the_files_is_told(
    name: str, spoil: Callable[[Path], None], told: str, laid_out: Callable[[str], Path]
) -> None:
    folder = laid_out(name)
    spoil(folder)
    with pytest.raises(ValueError, match=told):
        BENCHMARKS[name].read(folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_loader_cites_the_files_that_its_layout_and_metric_come_from(name: str) -> None:
    told = sys.modules[BENCHMARKS[name].load.__module__].__doc__ or ""
    assert re.search(r"[\w-]+/[\w-]+[,)' ]", told) and re.search(r"\w\.(py|ipynb|md|yaml|json)\b", told)
    assert "arXiv" in told or "et al." in told


@pytest.mark.parametrize("name", sorted({*NAMES} - {"intphys", "shapestacks", "physics-iq", "grasp", "inflevel"}))
def test_missing_videos_are_counted_and_named(name: str, laid_out: Callable[[str], Path]) -> None:
    folder = laid_out(name)
    total = len(BENCHMARKS[name].read(folder))
    for video in folder.rglob("*.mp4"):
        video.unlink()
    with pytest.raises(ValueError, match=f"{total} of {total} videos are missing, the first is .*mp4"):
        BENCHMARKS[name].read(folder)


# --- each of them


def test_clevrer_counts_options_and_whole_questions(laid_out: Callable[[str], Path]) -> None:
    rows = CLEVRER.read(laid_out("clevrer"))
    assert rows[0]["options"] == ["2", "red"]
    assert (rows[2]["question"], rows[2]["answer"]) == ("Which? Is this right: Event 1?", "no")
    assert rows[0]["video"] == "video_validation/video_10000-11000/video_10000.mp4"
    # Wrong: one of two explanatory options, one of four predictive ones (of two questions), one of two descriptive.
    found = values("clevrer", answered(rows, ["video_10000-1-0", "video_10001-1-1", "video_10001-0"]))
    assert found == {
        "explanatory, per question": 0.0,
        "explanatory, per option": 0.5,
        "predictive, per question": 0.5,
        "predictive, per option": 0.75,
        "counterfactual, per question": 1.0,
        "counterfactual, per option": 1.0,
        "overall, per question": 0.5,
        "overall, per option": pytest.approx(7 / 9),
        "descriptive": 0.5,
    }
    figures = CLEVRER.figures(answered(rows, []))
    assert figures["counterfactual, per question"].chance == 0.125
    assert figures["descriptive"].chance == 0.5


def test_intphys2_compares_within_a_prefix_only(laid_out: Callable[[str], Path]) -> None:
    rows = BENCHMARKS["intphys2"].read(laid_out("intphys2"))
    # Scene 0: pair 1 right, pair 2 wrong although its impossible video beats the possible one of pair 1.
    # Scene 1: pair 1 a tie, pair 2 right.
    surprises = [1, 2, 3, 4, 1, 1, 5, 2]
    rated = [{**row, "surprise": float(value)} for row, value in zip(rows, surprises, strict=True)]
    assert values("intphys2", rated) == {
        "pairs": 0.625,
        "Easy": 0.5,
        "Hard": 0.75,
        "solidity": 0.5,
        "continuity": 0.75,
    }


def test_intphys2_knows_no_difficulty_of_some_videos(laid_out: Callable[[str], Path]) -> None:
    folder = laid_out("intphys2")
    metadata = folder / "Main" / "metadata.csv"
    metadata.write_text(metadata.read_text().replace(",Hard,", ",,"))
    kinds = [row["kind"] for row in BENCHMARKS["intphys2"].read(folder)]
    assert kinds == ["Easy"] * 4 + ["unknown"] * 4


def test_intphys2_wants_two_videos_a_pair(laid_out: Callable[[str], Path]) -> None:
    folder = laid_out("intphys2")
    metadata = folder / "Main" / "metadata.csv"
    metadata.write_text("".join(metadata.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="1 pairs are not one possible and one impossible video, the first is 1-2"):
        BENCHMARKS["intphys2"].read(folder)


def test_mvp_wants_both_videos_and_weighs_subsets_the_same(laid_out: Callable[[str], Path]) -> None:
    rows = BENCHMARKS["mvp"].read(laid_out("mvp"))
    assert rows[0]["options"] == ["left", "right"]
    # Intuitive physics: one video of two pairs wrong, 1/2 of pairs and 3/4 of videos; temporal reasoning: all right.
    assert values("mvp", answered(rows, ["intuitive_physics/clevrer_1_0"])) == {
        "pairs": 0.75,
        "single videos": 0.875,
        "intuitive_physics, pairs": 0.5,
        "intuitive_physics, single": 0.75,
        "temporal_reasoning, pairs": 1.0,
        "temporal_reasoning, single": 1.0,
    }


def test_causalvqa_wants_both_wordings(laid_out: Callable[[str], Path]) -> None:
    rows = BENCHMARKS["causalvqa"].read(laid_out("causalvqa"))
    assert [row["answer"] for row in rows] == ["stay", "leave"] * 2
    assert values("causalvqa", answered(rows, ["b-2"])) == {
        "pairs": 0.5,
        "single": 0.75,
        "anticipation": 1.0,
        "planning": 0.0,
    }


def test_perception_test_is_cut_before_the_frame_that_is_told(laid_out: Callable[[str], Path]) -> None:
    rows = BENCHMARKS["perceptiontest"].read(laid_out("perceptiontest"))
    assert [row["until"] for row in rows] == [1.0, 1.0, None]  # frame 9 at 8 a second: the last shown is frame 8
    found = values("perceptiontest", answered(rows, ["video_1-0"]))
    assert found["top-1"] == pytest.approx(2 / 3)
    assert {key: value for key, value in found.items() if key != "top-1"} == {
        "memory": 1.0,
        "physics": 0.5,
        "descriptive": 1.0,
        "predictive": 0.0,
    }


def test_intphys_sums_a_quadruplet_and_ranks_all_movies(laid_out: Callable[[str], Path]) -> None:
    rows = BENCHMARKS["intphys"].read(laid_out("intphys"))
    # O1: possible 1 + 4 < impossible 3 + 3. O2: possible 2 + 2 = impossible 0 + 4, a tie.
    rated = [{**row, "surprise": float(s)} for row, s in zip(rows, [1, 3, 3, 4, 2, 0, 4, 2], strict=True)]
    found = values("intphys", rated)
    assert found["relative"] == 0.75
    assert (found["O1"], found["O2"]) == (1.0, 0.5)
    # Impossible 3, 3, 0, 4 against possible 1, 4, 2, 2: 3 wins + 3 wins + 0 + 3.5 of 16.
    assert found["absolute"] == pytest.approx(9.5 / 16)


def test_physion_shows_red_and_yellow_for_a_second_and_a_half(laid_out: Callable[[str], Path]) -> None:
    rows = BENCHMARKS["physion"].read(laid_out("physion"))
    assert [row["video"] for row in rows][:1] == [
        "Collide/mp4s-redyellow/pilot_it2_collision-redyellow_0001_img.mp4",
    ]
    assert ([row["answer"] for row in rows], rows[0]["until"]) == (["yes", "no", "yes", "no", "yes"], 1.5)
    found = values("physion", answered(rows, ["pilot_it2_collision_0002_img"]))
    assert found == {"mean of scenarios": 0.75, "all trials": 0.8, "Collide": 0.5, "Support": 1.0}


def test_shapestacks_labels_come_from_the_name(laid_out: Callable[[str], Path]) -> None:
    rows = BENCHMARKS["shapestacks"].read(laid_out("shapestacks"))
    assert [row["answer"] for row in rows] == ["no", "yes", "yes"]
    found = values("shapestacks", answered(rows, [rows[0]["id"]]))
    assert found == {"mean of splits": 0.75, "all pictures": pytest.approx(2 / 3), "blocks_all": 0.5, "ccs_all": 1.0}


def test_cophy_shows_the_first_picture_and_asks_whether_it_stays(laid_out: Callable[[str], Path]) -> None:
    rows = BENCHMARKS["cophy"].read(laid_out("cophy"))
    assert [(row["id"], row["answer"], row["until"]) for row in rows] == [
        ("3/07", "no", 0.0),
        ("3/27", "yes", 0.0),
        ("4/27", "yes", 0.0),
    ]
    found = values("cophy", answered(rows, ["3/27"]))
    assert found == {"mean of heights": 0.75, "all towers": pytest.approx(2 / 3), "3 blocks": 0.5, "4 blocks": 1.0}


def test_iphyre_weighs_both_answers_the_same(laid_out: Callable[[str], Path]) -> None:
    rows = BENCHMARKS["iphyre"].read(laid_out("iphyre"))
    assert [(row["scene"], row["until"]) for row in rows[3:5]] == [("support", 1.0), ("noisy_support", 1.0)]
    found = values("iphyre", answered(rows[:5], ["support-0-yes"]))  # of three that solve their game two, of others two
    assert found == {"balanced accuracy": pytest.approx((2 / 3 + 1) / 2), "basic": 0.75, "noisy": 1.0}


def rated(rows: Iterable[Row], surprises: Mapping[str, float]) -> list[Row]:
    return [{**row, "surprise": surprises[row["id"]]} for row in rows]


def test_grasp_pairs_by_number_and_weighs_tests_the_same(laid_out: Callable[[str], Path]) -> None:
    folder = laid_out("grasp")
    found = rated(
        BENCHMARKS["grasp"].read(folder),
        {"P_Collision/000": 1, "IP_Collision/000": 2, "P_Collision/001": 3, "IP_Collision/001": 1}
        | {"P_Inertia2/000": 1, "IP_Inertia2/000": 9},
    )
    assert values("grasp", found) == {"mean of tests": 0.75, "Collision": 0.5, "Inertia2": 1.0}
    (folder / "level2" / "IP_Inertia2" / "000.mp4").unlink()
    with pytest.raises(ValueError, match="1 videos have no partner in P_ or IP_, the first is P_Inertia2/000"):
        BENCHMARKS["grasp"].read(folder)


def test_inflevel_compares_all_four_and_skips_groups_that_are_not_whole(laid_out: Callable[[str], Path]) -> None:
    rows = BENCHMARKS["inflevel"].read(laid_out("inflevel"))
    assert len(rows) == 12  # the lonely ball is left out, and what is not filmed in the lab
    by_type = {"vv": 1, "ii": 3, "iv": 2, "vi": 3} | {"ui": 1, "cv": 1, "uv": 2, "ci": 0}
    found = values("inflevel", [{**row, "surprise": float(by_type[row["id"].split("__")[4]])} for row in rows])
    # Continuity: magic 2 and 3 against real 1 and 3: 1, 0, 1, 1/2 of four. Else: magic 2 and 0 against real 1 and 1.
    assert (found["continuity"], found["solidity"], found["gravity"]) == (0.625, 0.5, 0.5)
    assert found["mean of principles"] == pytest.approx(1.625 / 3)


def test_physics_iq_ranks_generators_against_the_camera(laid_out: Callable[[str], Path]) -> None:
    rows = BENCHMARKS["physics-iq"].read(laid_out("physics-iq"))
    assert {row["scene"] for row in rows} == {"trimmed-ball-hits-duck"}
    filmed_take_1 = {row["video"] for row in rows if row["possible"]}
    assert len(filmed_take_1) == 2 and all("take-1" in video for video in filmed_take_1)
    surprises = {"sora/0001": (1, 2), "sora/0002": (2, 1), "pika/0002": (2, 3)}
    found = [{**row, "surprise": float(surprises[row["unit"]][not row["possible"]])} for row in rows]
    assert values("physics-iq", found) == {"mean of generators": 0.75, "pika": 1.0, "sora": 0.5}


# --- pictures, surprise


def test_pictures_become_the_same_frames(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3), dtype=np.uint8)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"scene_{number:03d}.png")
    with filmed(tmp_path, 15.0) as path:
        clip = read_clip(path, rate=15.0, count=5)
        assert np.array_equal(clip.frames, frames)
        assert clip.duration == pytest.approx(4 / 15, abs=2e-3)
    assert not path.exists()
    with filmed(tmp_path / "scene_002.png") as path:
        assert np.array_equal(read_clip(path, rate=8.0, count=1).frames, frames[2:3])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="a folder without a picture"), filmed(tmp_path / "empty"):
        pass


def test_a_video_is_watched_from_its_first_frame_to_its_last(tiny_video: Path) -> None:
    assert len(whole(tiny_video, 8.0, 4, 64)) == 16
    assert len(whole(tiny_video, 8.0, 30, 64)) == 30
    still, moving = np.zeros((16, 16, 16, 3), np.uint8), moving_square(16, 16)
    paths = [write_video(tiny_video.parent / f"{n}.mp4", f) for n, f in (("still", still), ("moving", moving))]
    assert pixel_change(paths[0]) < 0.1 < pixel_change(paths[1])


def save_encoder(folder: Path) -> Path:
    import torch
    from transformers import VJEPA2Model

    torch.manual_seed(0)
    VJEPA2Model(tiny_config()).save_pretrained(folder)
    return folder


def test_surprise_is_that_of_foretell_surprise(tmp_path: Path, tiny_video: Path) -> None:
    save_encoder(tmp_path / "model" / "encoder")
    expected = watch_video(tiny_video, open_watcher(tmp_path / "model")).told()["average"]
    assert surprise_of(tmp_path / "model")(tiny_video) == pytest.approx(expected, rel=1e-5)
    still = write_video(tmp_path / "still.mp4", np.zeros((16, 16, 16, 3), np.uint8))
    assert surprise_of(tmp_path / "model")(still) != pytest.approx(expected, rel=1e-3)


# --- the whole way


def test_a_benchmark_of_questions_with_its_controls(
    tmp_path: Path, laid_out: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exam, "load_model", lambda source: tiny_foretell())
    folder, out = laid_out("physion"), tmp_path / "physion.json"
    command = ["eval", "physion", "--data", str(folder), "--model", "m", "--out", str(out)]
    assert main(command) == 0
    assert "| mean of scenarios | 5 | 50.0 |" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert list(found["figures"]["mean of scenarios"]) == ["foretell", "blind", "mean features"]
    assert (found["data"]["rows"], found["data"]["whole"], found["headline"]) == (5, True, "mean of scenarios")
    assert found["command"].startswith("foretell eval physion --data")
    asked_again = lambda *_: pytest.fail("answers that are there are not asked for again")  # noqa: E731
    monkeypatch.setattr(exam, "load_model", asked_again)
    assert main(command) == 0


def test_folds_need_scenes(tmp_path: Path, laid_out: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exam, "load_model", lambda source: tiny_foretell())
    found = run("physion", laid_out("physion"), "m", tmp_path / "out.json", limit=2)
    assert list(found["figures"]["all trials"]) == ["foretell", "mean features"]


def test_a_benchmark_of_surprise_rates_each_video_once(
    tmp_path: Path, laid_out: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def surprise(path: Path) -> float:
        seen.append(path.name)
        return 0.0 if "take-1" in path.name else 1.0

    monkeypatch.setattr(room, "surprise_of", lambda model: surprise)
    folder, out = laid_out("physics-iq"), tmp_path / "out.json"
    found = run("physics-iq", folder, "m", out, controls=False)
    assert found["figures"]["mean of generators"]["foretell"]["value"] == 1.0
    assert len(seen) == len(set(seen)) == 5  # two filmed, three generated
    run("physics-iq", folder, "m", out, controls=False)
    assert len(seen) == 5


def test_pictures_are_rated_beside_their_control(tmp_path: Path, laid_out: Callable[[str], Path]) -> None:
    found = run("intphys", laid_out("intphys"), save_encoder(tmp_path / "encoder"), tmp_path / "out.json", limit=4)
    assert list(found["figures"]["relative"]) == ["foretell", "pixel change"]
    assert (found["data"]["rows"], found["data"]["whole"]) == (4, False)
    assert found["figures"]["relative"]["pixel change"]["value"] == 0.5  # all movies are the same here


def test_a_wrong_folder_is_one_line_at_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "clevrer", "--data", str(tmp_path), "--out", str(tmp_path / "o.json")]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "validation.json is nowhere in it" in told and "CC0" in told


# --- the README's table


def test_the_table_says_ours_or_bring_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    figure = {"value": 0.6, "low": 0.5, "high": 0.7, "n": 10, "chance": 0.5}
    found: dict[str, Any] = {"figures": {"pairs": {"foretell": figure, "pixel change": {**figure, "value": 0.5}}}}
    found |= {
        "data": {"whole": False, "rows": 20, "scenes": 5},
        "command": "c",
        "commit": "d",
        "date": "e",
        "machine": "f",
    }
    (tmp_path / "intphys2.json").write_text(json.dumps(found))
    text, *measured = report.block("benchmarks").split("\n\n")
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines()}
    assert len(text.splitlines()) == 2 + len(NAMES)
    assert lines["IntPhys 2"].endswith("| 60.0 [50.0, 70.0], a part; pixel change 50.0 [50.0, 70.0] |")
    assert [line.partition(". In brackets")[0] for line in measured] == [
        "IntPhys 2: measured by `c` at commit `d` on e (f), on 20 items of 5 scenes"
    ]
    assert lines["MVP"].endswith("| bring the data: `foretell eval mvp` |")
    assert "92.9 (arXiv 2506.09987, abstract)" in lines["MVP"]
