"""The command line: thin, each command imports its room late so that --help and bad use cost nothing."""

import json
import os
import shlex
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_type_hints

import rich
import typer
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from .eval.benchmarks import LIVE, NAMES

if TYPE_CHECKING:
    from .eval.doctor import Check
    from .reasoner.answer import Answer
    from .reasoner.plan import Plan
    from .train.pairs import Report
    from .train.recipes import FitRecipe

R = TypeVar("R")

app = typer.Typer(
    help="Ask a video what happens next.",
    epilog="Example: foretell ask clip.mp4 'Will the tower fall?'",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
evaluate = typer.Typer(no_args_is_help=True)
app.add_typer(
    evaluate,
    name="eval",
    help="Measure a model, with its controls.",
    epilog="Example: foretell eval exam worlds/test --out runs/exam.json",
)

Json = Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")]
Model = Annotated[str | None, typer.Option(metavar="DIR|HUB_ID", help="A Foretell model; left out: the embedded one.")]
Llm = Annotated[
    str | None, typer.Option(metavar="HUB_ID", help="Language model; left out: the one the bridge was trained for.")
]
FourBit = Annotated[bool, typer.Option("--load-in-4bit", help="Language model in 4 bits (bitsandbytes NF4).")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change one field; repeatable.")]
Data = Annotated[Path, typer.Argument(metavar="DATA", help="A folder that `foretell worlds` wrote.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder for checkpoints, logs and the result.")]
Track = Annotated[str, typer.Option(metavar="NAME", help="Metrics also go there: tensorboard, wandb, trackio or none.")]
Encoder = Annotated[
    str | None, typer.Option(metavar="DIR|HUB_ID", help="A V-JEPA 2 encoder; left out: the embedded one.")
]


@app.command(epilog="Example: foretell ask clip.mp4 'Will the tower fall?' --until 0.5 --options yes,no")
def ask(
    video: Annotated[Path, typer.Argument(help="A video file: mp4, mov, mkv, webm or avi.")],
    question: Annotated[str, typer.Argument(help="What to answer.")],
    until: Annotated[float | None, typer.Option(help="Show only the first seconds; left out: the whole video.")] = None,
    options: Annotated[str | None, typer.Option(metavar="A,B,...", help="Choose among these answers.")] = None,
    model: Model = None,
    llm: Llm = None,
    load_in_4bit: FourBit = False,
    save_plot: Annotated[Path | None, typer.Option(metavar="PNG", help="Picture: frames shown, answer.")] = None,
    as_json: Json = False,
) -> None:
    """Answer one question about a video: the answer, the odds of each option, and how sure the model is."""
    from .reasoner import alone  # noqa: F401  # first: it makes the start-up shorter
    from .reasoner import answer as room

    with _working("loading the model"):
        foretell = room.Foretell.load(model, llm, load_in_4bit, lora="beside")
    with _working("reading the video"):
        clip = foretell.read(video, until)
    if as_json or options is not None:
        with _working("thinking"):
            found = foretell.answer(clip, question, _listed(options))
    else:
        found = _streamed(foretell.stream(clip, question))
    rest = asdict(found)
    result = {"video": str(video), "question": question, "until": until, "answer": rest.pop("text"), **rest}
    said = [found.text] if options is not None else []
    _tell(result, Group(*said, _odds(found), _certainty(found)), as_json)
    if save_plot is not None:
        room.save_plot(clip, found, save_plot, question)


@app.command(epilog="Example: foretell answer questions.jsonl --out answers.jsonl")
def answer(
    questions: Annotated[Path, typer.Argument(metavar="QUESTIONS.jsonl", help="One question a line.")],
    out: Annotated[Path, typer.Option(metavar="ANSWERS.jsonl", help="One answer a line, in the same order.")],
    model: Model = None,
    llm: Llm = None,
    load_in_4bit: FourBit = False,
    as_json: Json = False,
) -> None:
    """Answer a file of questions. Run again, it asks only what is missing or failed. Exit status 1 when some failed."""
    from .reasoner import alone  # noqa: F401  # first: it makes the start-up shorter
    from .reasoner.answer import Foretell
    from .reasoner.batch import answer_file

    with _working("loading the model"):
        foretell = Foretell.load(model, llm, load_in_4bit)
    counts = answer_file(questions, out, foretell)
    text = f"{counts.answered} answered, {counts.kept} kept from before, {counts.failed} failed: {out}"
    _tell({"out": str(out), **asdict(counts)}, text, as_json)
    if counts.failed:
        raise typer.Exit(1)


@app.command("plan", epilog="Example: foretell plan clip.mp4 'make the tower fall to the left' --until 0.25")
def plan_action(
    video: Annotated[Path, typer.Argument(help="A video file: mp4, mov, mkv, webm or avi.")],
    goal: Annotated[str, typer.Argument(help="What to make happen; or a yes/no question that should become a yes.")],
    until: Annotated[float | None, typer.Option(help="Show only the first seconds; left out: the whole video.")] = None,
    model: Model = None,
    llm: Llm = None,
    load_in_4bit: FourBit = False,
    as_json: Json = False,
) -> None:
    """Choose what to do to the objects in a video, take one away or push it, so that something comes about."""
    from .reasoner import alone  # noqa: F401  # first: it makes the start-up shorter
    from .reasoner.answer import Foretell
    from .reasoner.plan import plan, read_goal

    wanted = read_goal(goal)
    with _working("loading the model"):
        foretell = Foretell.load(model, llm, load_in_4bit)
    with _working("reading the video"):
        clip = foretell.read(video, until)
    with _working("trying what could be done"):
        found = plan(foretell, clip, wanted)
    _tell({"video": str(video), "goal": goal, "until": until, **found.told()}, _considered(found), as_json)


@app.command(epilog="Example: foretell surprise clip.mp4 --save-plot surprise.png")
def surprise(
    video: Annotated[Path, typer.Argument(help="A video file: mp4, mov, mkv, webm or avi.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="DIR|HUB_ID", help="An encoder, or a pretraining run; left out: the embedded one."),
    ] = None,
    until: Annotated[
        float | None, typer.Option(help="Watch only the first seconds; left out: the whole video.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="Frames of a window that are shown; left out: up to 6 numbers of them.")
    ] = None,
    window: Annotated[int | None, typer.Option(help="Frames of a window; left out: all that the model sees.")] = None,
    save_plot: Annotated[Path | None, typer.Option(metavar="PNG", help="Picture: the curve above frames.")] = None,
    as_json: Json = False,
) -> None:
    """What a model's predictor did not expect, over time, and whether something broke."""
    from rich.progress import track

    from .eval import surprise as room

    with _working("loading the model"):
        watcher = room.open_watcher(model)
    follow = partial(track, description="watching", console=Console(stderr=True))
    found = room.watch_video(video, watcher, until, context, window, lambda parts: iter(follow(parts)))
    told = {"video": str(video), "until": until, **found.told()}
    _tell(told, Group(_course(told["curve"]), room.sentence(found)), as_json)
    if save_plot is not None:
        room.save_plot(found, save_plot)


@app.command(epilog="Example: foretell worlds worlds/test --clips 500 --seed 900000 --scenarios towers,collide")
def worlds(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write: clips/, clips.jsonl, questions.jsonl.")],
    clips: Annotated[int, typer.Option(help="How many clips.")],
    seed: Annotated[int, typer.Option(help="First clip seed; clips take the seeds from here on.")],
    scenarios: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Which worlds, or laws to break; left out: the first six, or all."),
    ] = None,
    shift: Annotated[
        str | None,
        typer.Option(
            metavar="views|shapes|camera",
            help="Views from anywhere, to learn from; other shapes and textures, or views, to test on.",
        ),
    ] = None,
    violations: Annotated[
        bool, typer.Option("--violations", help="In place of questions: 2 possible and 2 impossible clips a scene.")
    ] = False,
    interventions: Annotated[
        bool, typer.Option("--interventions", help="Also DIR/interventions.jsonl: questions of what would happen if.")
    ] = False,
    size: Annotated[int, typer.Option(help="Width and height in pixels.")] = 64,
    frames: Annotated[int, typer.Option(help="Frames a clip.")] = 16,
    fps: Annotated[float, typer.Option(help="Frames a second.")] = 8.0,
    shadows: Annotated[float, typer.Option(help="Share of clips with shadows (slow to draw).")] = 0.08,
    engine: Annotated[
        str, typer.Option(help="Who plays and draws: mujoco, or bullet (pip install 'foretell[bullet]').")
    ] = "mujoco",
    workers: Annotated[int, typer.Option(help="Processes that draw at once.")] = 1,
    preview: Annotated[Path | None, typer.Option(metavar="PNG", help="Also write a contact sheet.")] = None,
    as_json: Json = False,
) -> None:
    """Make worlds: clips with questions whose answers are exact, or quadruplets whose impossible half breaks a law."""
    from .train.worlds import PROPERTIES, Spec, generate, generate_violations
    from .train.worlds.whatif import write_whatif

    if violations and interventions:
        raise ValueError("--interventions asks about worlds with questions, --violations makes worlds without: choose")
    if interventions and engine != Spec.engine:
        raise ValueError(f"--interventions are played by {Spec.engine} alone, not by {engine}")
    usual, make = (tuple(PROPERTIES), generate_violations) if violations else (Spec().scenarios, generate)
    spec = Spec(_listed(scenarios) or usual, size, frames, fps, shadows, shift, engine)
    made = make(out, clips, seed, spec, workers, preview)
    more = write_whatif(out, clips, seed, spec, workers) if interventions else 0
    summary = {
        "out": str(made.out), "clips": made.clips, "questions": made.questions, "interventions": more,
        "by_type": made.by_type,
    }  # fmt: skip
    told = f"{made.clips // 4} quadruplets" if violations else f"{made.questions + more} questions"
    _tell(summary, f"{made.clips} clips and {told} in {made.out}", as_json)


@app.command("features", epilog="Example: foretell features worlds/train --encoder facebook/vjepa2-vitl-fpc64-256")
def build_features(
    data: Data,
    encoder: Encoder = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The cache; left out: DATA/features.")] = None,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Also of each clip's moved mirror image, for recipes that learn from it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compute the frozen world features of clips once, for `foretell train --features`. Any number of processes may do
    it at once, on one machine or many that share DIR (`accelerate launch -m foretell features ...`): they share the
    work. Stopped, it goes on where it was."""
    from .perception.encoder import VJEPA2World
    from .reasoner.answer import NANO
    from .train.data import cache_features, load_clips

    out = out or data / "features"
    packed, world = load_clips(data), VJEPA2World.from_pretrained(encoder or NANO / "encoder")
    count = sum(len(cache_features(view, world, out)[1]) for view in packed.views(mirror))
    _tell({"out": str(out), "clips": count}, f"features of {count} clips in {out}", as_json)


@app.command(epilog="Example: foretell pretrain nano --data worlds/train --out runs/encoder --set steps=40000")
def pretrain(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="nano (the embedded encoder) or tiny (seconds).")],
    data: Annotated[Path, typer.Option(metavar="DIR|NPY", help="A worlds folder, or clips uint8 [N, F, S, S, 3].")],
    out: Out,
    settings: Set = None,
    init: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Start from an encoder folder of the same class.")
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Encoder that objective=salt learns from.")
    ] = None,
    probe_labels: Annotated[
        Path | None,
        typer.Option(metavar="NPY", help="A row of numbers a clip [N, K]: how well features tell them is logged."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the newest checkpoint in --out.")] = True,
    track: Track = "tensorboard",
    as_json: Json = False,
) -> None:
    """Pretrain system 1, encoder and predictor, on video without labels."""
    from .train import pretrain as room
    from .train.data import load_clips
    from .train.recipes import ENCODERS

    chosen = _recipe(ENCODERS, recipe, settings)
    clips = load_clips(data).root / "frames.npy" if data.is_dir() else data
    encoder = room.run(clips, out, chosen, resume, init, probe_labels, teacher, track)
    _tell({"encoder": str(encoder), "recipe": asdict(chosen)}, f"encoder and predictor: {encoder}", as_json)


@app.command(
    epilog="Example: foretell train nano --data worlds/train --data mine.jsonl:0.5 --val val.jsonl --out runs/a"
)
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="nano, nano_rivals, tiny (seconds), vjepa2_l_smollm2, vjepa2_l_qwen3 or vjepa2_g_llama.",
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SET[:WEIGHT]", help="Worlds, or paired data: .jsonl, .json, .parquet, folder; repeatable."
        ),
    ] = None,
    val: Annotated[Path | None, typer.Option(metavar="SET", help="Another set, to validate and calibrate on.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for checkpoints, logs and the result.")
    ] = None,
    encoder: Encoder = None,
    llm: Annotated[str | None, typer.Option(metavar="HUB_ID", help="Language model; left out: the recipe's.")] = None,
    features: Annotated[Path | None, typer.Option(metavar="DIR", help="Feature cache; left out: OUT/features.")] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Go on from this model's bridge (stitched, if --encoder is another) and LoRA, or from a lora folder "
            "alone.",
        ),
    ] = None,
    settings: Set = None,
    max_bad: Annotated[float, typer.Option(min=0, max=1, help="Share of a set that may be set aside.")] = 0.05,
    check_data: Annotated[
        bool, typer.Option("--check-data", help="Only read the data, and say what is wrong.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what it would take: parameters, memory, time. Loads no weights.")
    ] = False,
    cluster: Annotated[
        str, typer.Option(metavar="NAME", help="With --plan: cpu2, a100x8, h100x8 or 2xh100x8.")
    ] = "cpu2",
    shard: Annotated[bool, typer.Option("--shard", help="Several ranks share the weights, not only the work.")] = False,
    track: Track = "tensorboard",
    as_json: Json = False,
) -> None:
    """Train a bridge and a LoRA on frozen features. Run again, it goes on from the newest checkpoint in --out, also on
    another number of ranks: `accelerate launch --config_file train/ddp.yaml -m foretell train ...` starts several.

    With --check-data the exit status is 1 where too much of a set cannot be used, 2 where nothing of it could be read.
    """
    from .train.pairs import Source
    from .train.recipes import RECIPES

    chosen = _recipe(RECIPES, recipe, settings)
    encoder, llm = encoder or chosen.encoder, llm or chosen.llm
    if plan:
        _tell_plan(replace(chosen, encoder=encoder, llm=llm), cluster, shard, as_json)
        return
    if not data:
        raise ValueError("train wants --data SET, or --plan to say only what it would take")
    sources = [Source.parse(one) for one in data]
    if check_data:
        paths = [one.path for one in sources] + ([] if val is None else [val])
        raise typer.Exit(_check_data(paths, out, features, max_bad, as_json))
    if val is None or out is None:
        raise ValueError("training wants --val SET and --out DIR; only --check-data and --plan do without")
    from .reasoner.answer import NANO
    from .train import fit

    model = fit.run(
        sources, val, encoder or NANO / "encoder", out, chosen, llm or None, features, init=init, max_bad=max_bad,
        sharded=shard, track=track,
    )  # fmt: skip
    aside = fit.told(model).get("set_aside", 0)
    told = f"model: {model}; ask it with `foretell ask VIDEO QUESTION --model {model}`"
    told += f"\n{aside} samples were set aside: {out / 'quarantine.jsonl'}" if aside else ""
    _tell({"model": str(model), "recipe": asdict(chosen), "set_aside": aside}, told, as_json)


@app.command("export", epilog="Example: foretell export runs/nano/model --out whole --merge --results runs/exam.json")
def export_model(
    model: Annotated[
        str | None, typer.Argument(metavar="DIR|HUB_ID", help="A Foretell model; left out: the embedded one.")
    ] = None,
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write: a new one, or an empty one.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge the LoRA into the language model; else it stays apart, for peft.")
    ] = False,
    push: Annotated[
        str | None, typer.Option(metavar="HUB_ID", help="Then upload it there; a new repository is made private.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(metavar="JSON", help="What `foretell eval exam` found of it, for the model card.")
    ] = None,
    llm: Llm = None,
    as_json: Json = False,
) -> None:
    """Write a model as one folder that holds all of it, the language model too, with a model card: for transformers'
    Auto classes, for `--model DIR`, and for a hub."""
    from .eval.card import card, exam_for
    from .reasoner import export as room

    where = push or out.resolve().name
    describe = partial(card, name=where.split("/")[-1], where=where, found=exam_for(model, results))
    if push is not None:
        room.reserve(push)
    with _working("writing the model"):
        folder = room.export(model, out, describe, merge, llm)
    told = f"model: {out}; ask it with `foretell ask VIDEO QUESTION --model {out}`"
    address = None if push is None else room.push(folder, push)
    _tell({"out": str(out), "merged": merge, "pushed": address}, "\n".join(filter(None, (told, address))), as_json)


@evaluate.command(epilog="Example: foretell eval exam worlds/test --out runs/exam.json --train worlds/train")
def exam(
    context: typer.Context,
    data: Data,
    out: Annotated[Path, typer.Option(metavar="JSON", help="The figures; beside it, a line for every question.")],
    model: Model = None,
    train: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Training worlds, for the controls blind and mean-features.")
    ] = None,
    control: Annotated[
        list[str] | None, typer.Option(metavar="NAME=DIR", help="Another model to put beside it; repeatable.")
    ] = None,
    altered: Annotated[
        bool,
        typer.Option(help="Also show the model shuffled frames, the first one only, other colours, and patches alone."),
    ] = True,
    limit: Annotated[int | None, typer.Option(help="About so many questions; left out: all of them.")] = None,
    per_clip: Annotated[int | None, typer.Option(help="At most so many questions a clip, its outcome first.")] = None,
    violations: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Quadruplets: also tell what surprises the model.")
    ] = None,
    rival: Annotated[
        list[str] | None, typer.Option(metavar="NAME=DIR", help="An encoder to surprise beside it; repeatable.")
    ] = None,
    layers: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Worlds to learn from: also probe every stage of the model.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer at once.")] = 1,
    as_json: Json = False,
) -> None:
    """Have a model and its controls answer held-out worlds; write the figures with their intervals."""
    from rich.progress import track

    from .eval import readouts
    from .eval.exam import MODEL, run
    from .eval.report import headline_table

    if rival and violations is None:
        raise ValueError("--rival names encoders to surprise: add --violations DIR")
    command = shlex.join(["foretell", *context.obj])
    follow = partial(track, description="surprise", console=Console(stderr=True))
    also: dict[str, Callable[[], Any]] = {}
    if violations is not None:
        surprised = {MODEL: model, **_named(rival)}
        also["surprise"] = partial(
            readouts.surprise_of, surprised, violations, out, command, lambda steps: iter(follow(steps))
        )
    if layers is not None:
        also["layers"] = partial(readouts.layers_of, model, data, layers, out, command)
    found = run(
        model, data, out, train_data=train, controls=_named(control), altered=altered, limit=limit, per_clip=per_clip,
        command=command, workers=workers, readouts=also,
    )  # fmt: skip
    _tell(found, f"{headline_table(found)}\n\nfigures: {out}", as_json)


@evaluate.command(epilog="Example: foretell eval probe worlds/test --train worlds/train --out runs/probe.json")
def probe(
    context: typer.Context,
    data: Data,
    train: Annotated[Path, typer.Option(metavar="DIR", help="Worlds to learn from; a fifth validates what is chosen.")],
    out: Annotated[Path, typer.Option(metavar="JSON", help="The figures; beside it each one as it comes, and curves.")],
    model: Encoder = None,
    probes: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Left out: ridge, knn, attentive1, attentive4; and attentive2, finetune."),
    ] = None,
    layers: Annotated[str | None, typer.Option(metavar="N,M,...", help="Left out: its taps; 0: patches.")] = None,
    variables: Annotated[str | None, typer.Option(metavar="A,B,...", help="Left out: all there is.")] = None,
    labels: Annotated[int | None, typer.Option(min=10, help="At most so many labelled clips a variable.")] = None,
    views: Annotated[
        int,
        typer.Option(
            min=0, help="Attentive probes learn from so many more views of a clip: moved, mirrored, lit anew."
        ),
    ] = 0,
    tubelets: Annotated[
        int | None, typer.Option(min=1, help="Features of the last so many alone; left out: of all.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Attentive heads train so long at falling rates, on every clip; all speak. Left out: the best.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask an encoder's frozen features, a random-init encoder's and raw pixels for outcomes and physical variables."""
    from rich.progress import track

    from .eval import probe as room
    from .reasoner.answer import NANO

    numbers = [_parsed(text, int, "--layers") for text in _listed(layers) or ()]
    found = room.run(
        model or NANO / "encoder", data, train, out, probes=_listed(probes) or room.PROBES, layers=numbers,
        variables=_listed(variables), labels=labels, views=views, tubelets=tubelets,
        how=room.Training(most=steps, patience=0, rates=room.TWO_RATES) if steps else None,
        command=shlex.join(["foretell", *context.obj]),
        track=lambda cells, total: iter(track(cells, "probes", total=total, console=Console(stderr=True))),
    )  # fmt: skip
    _tell(found, f"{room.table(found)}\n\nfigures: {out}", as_json)


@evaluate.command(epilog="Example: foretell eval diagnose worlds/test --train worlds/val --out runs/diagnose.json")
def diagnose(
    context: typer.Context,
    data: Data,
    train: Annotated[
        Path, typer.Option(metavar="DIR", help="Worlds that probes learn from, best not those the model learned from.")
    ],
    out: Annotated[Path, typer.Option(metavar="JSON", help="The figures; beside it each one as it comes, and a plot.")],
    model: Model = None,
    probes: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Left out: ridge; and attentive1, far slower.")
    ] = None,
    variables: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Left out: falls, touches, speed, shape, colour, count.")
    ] = None,
    labels: Annotated[int | None, typer.Option(min=10, help="Only so many of the first training clips.")] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Only so many of the first clips to test on.")] = None,
    as_json: Json = False,
) -> None:
    """Where on its way to the answer a signal is lost: one probe on encoder, bridge and every language-model layer."""
    from .eval import diagnose as room

    found = room.run(
        model, data, train, out, probes=_listed(probes) or ("ridge",), variables=_listed(variables), labels=labels,
        limit=limit, command=shlex.join(["foretell", *context.obj]),
    )  # fmt: skip
    told = "\n".join(room.words(found))
    _tell(found, f"{room.table(found)}\n\n{told}\n\nfigures: {out}", as_json)


@app.command(
    epilog="Example: foretell bench worlds/train --val worlds/val --test worlds/test --runs runs/bench --out bench.json"
)
def bench(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(metavar="DIR", help="Worlds to pretrain on, and to label probes from.")],
    val: Annotated[Path, typer.Option(metavar="DIR", help="Worlds on which learning rates are chosen.")],
    test: Annotated[Path, typer.Option(metavar="DIR", help="Worlds that the figures are about.")],
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Every run; a stopped benchmark goes on from here.")],
    out: Annotated[Path, typer.Option(metavar="JSON", help="Figures; plots beside it.")],
    quick: Annotated[bool, typer.Option("--quick", help="Minutes: does it run? The figures say nothing.")] = False,
    as_json: Json = False,
) -> None:
    """JEPA against pixel-generative rivals at equal compute: how much less of it does JEPA need, if any?"""
    from .eval import bench as room

    def tell(what: str, done: int, total: int) -> None:
        print(f"{what} (run {done + 1} of {total})", file=sys.stderr)

    plan = room.quick() if quick else room.Plan()
    command = shlex.join(["foretell", *context.obj])
    found = room.run(data, val, test, runs, out, plan, command=command, tell=tell)
    _tell(found, f"{room.table(found)}\n\nfigures: {out}", as_json)


@evaluate.command(epilog="Example: foretell eval gauges runs/bench --test worlds/test --out runs/gauges.json")
def gauges(
    context: typer.Context,
    runs: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Runs of `foretell bench`, or pretraining runs with probes.")
    ],
    out: Annotated[Path, typer.Option(metavar="JSON", help="The figures; beside it gauges as they come, and a plot.")],
    test: Annotated[Path | None, typer.Option(metavar="DIR", help="The benchmark's test worlds.")] = None,
    val: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Its validation worlds: tuning runs count too.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Whether gauges that take seconds and no labels rank encoders as probes do: trust one, or run the probe?"""
    from rich.progress import track

    from .eval import gauges as room

    follow = partial(track, description="gauges", console=Console(stderr=True))
    command = shlex.join(["foretell", *context.obj])
    found = room.run(runs, out, test=test, val=val, command=command, track=lambda asked: iter(follow(asked)))
    _tell(found, f"{room.table(found)}\n\nfigures: {out}", as_json)


@evaluate.command("surprise", epilog="Example: foretell eval surprise worlds/violations --out runs/surprise.json")
def eval_surprise(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A folder that `foretell worlds --violations` wrote.")],
    out: Annotated[Path, typer.Option(metavar="JSON", help="The figures; beside it, a line for every clip.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="DIR|HUB_ID", help="An encoder, or a pretraining run; left out: the embedded one."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Whether impossible clips surprise a model more than possible ones, beside the same model with nothing learned."""
    from rich.progress import track

    from .eval import violations as room

    follow = partial(track, description="watching", console=Console(stderr=True))
    command = shlex.join(["foretell", *context.obj])
    found = room.run(model, data, out, command=command, track=lambda steps: iter(follow(steps)))
    _tell(found, f"{room.table(found)}\n\nfigures: {out}", as_json)


@evaluate.command(
    epilog="Example: foretell eval rivals worlds/test --train worlds/train --val worlds/val --encoder V-JEPA=a/encoder "
    "--encoder VideoMAE=b/encoder --runs runs/rivals --out runs/rivals.json"
)
def rivals(
    context: typer.Context,
    data: Data,
    train: Annotated[Path, typer.Option(metavar="DIR", help="Worlds that every bridge learns from.")],
    val: Annotated[Path, typer.Option(metavar="DIR", help="Worlds that validate and calibrate.")],
    encoder: Annotated[
        list[str], typer.Option(metavar="NAME=DIR", help="An encoder; repeatable. Others are compared with the first.")
    ],
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the trainings; goes on where it was stopped.")],
    out: Annotated[Path, typer.Option(metavar="JSON", help="The figures; beside it, a plot and every answer.")],
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each encoder.")] = 3,
    imagination: Annotated[
        bool,
        typer.Option(
            "--imagination", help="Also the first encoder with its predictor's tokens, without and with surprise."
        ),
    ] = False,
    painter: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also the first encoder with films by this run of objective pixel_ar_raw."),
    ] = None,
    controls: Annotated[bool, typer.Option(help="Also an encoder that learned nothing, and raw pixels.")] = True,
    init: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The LoRA that all go on from; left out: the embedded one.")
    ] = None,
    llm: Annotated[
        str | None, typer.Option(metavar="HUB_ID", help="Language model; left out: the embedded one.")
    ] = None,
    settings: Set = None,
    limit: Annotated[int | None, typer.Option(help="About so many questions; left out: all of them.")] = None,
    per_clip: Annotated[int | None, typer.Option(help="At most so many questions a clip, its outcome first.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer at once.")] = 1,
    as_json: Json = False,
) -> None:
    """The same bridge on every encoder: behind which does the language model answer best?"""
    from .eval import rivals as room
    from .reasoner.answer import NANO
    from .train.recipes import RECIPES

    def tell(name: str, done: int, total: int) -> None:
        print(f"{name}: {done} of {total} trainings done", file=sys.stderr)

    recipe = _recipe(RECIPES, "nano_rivals", settings)
    found = room.run(
        data, train, val, _named(encoder), runs, out, recipe=recipe, seeds=seeds, imagination=imagination,
        painter=painter, controls=controls, limit=limit, per_clip=per_clip, llm=llm,
        init=init or (None if llm else NANO / "lora"), workers=workers,
        command=shlex.join(["foretell", *context.obj]), tell=tell,
    )  # fmt: skip
    _tell(found, f"{room.table(found)}\n\nfigures: {out}", as_json)


@evaluate.command(epilog="Example: foretell eval planning worlds/test --out runs/planning.json --limit 100")
def planning(
    context: typer.Context,
    data: Data,
    out: Annotated[Path, typer.Option(metavar="JSON", help="The figures; beside it, a line for every tower.")],
    model: Model = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many towers; left out: all of them.")] = None,
    as_json: Json = False,
) -> None:
    """Plan for towers and carry the plans out in the worlds behind the videos: how often is the goal reached, beside
    random choice and the best that could be done?"""
    from rich.progress import track

    from .eval import planning as room

    follow = partial(track, description="planning", console=Console(stderr=True))
    command = shlex.join(["foretell", *context.obj])
    found = room.run(model, data, out, limit=limit, command=command, track=lambda tasks: iter(follow(tasks)))
    _tell(found, f"{room.table(found)}\n\nfigures: {out}", as_json)


def _benchmark(name: str) -> Callable[..., None]:
    """The command of one public benchmark."""

    def command(
        context: typer.Context,
        data: Annotated[Path, typer.Option(metavar="DIR", help="Its data, laid out as its authors do.")],
        out: Annotated[Path, typer.Option(metavar="JSON", help="The figures; beside it, a line for every item.")],
        model: Model = None,
        limit: Annotated[int | None, typer.Option(help="About so many items, whole scenes; left out: all.")] = None,
        controls: Annotated[bool, typer.Option(help="Also score what needs no video, or no model.")] = True,
        as_json: Json = False,
    ) -> None:
        from .eval.benchmarks.run import run
        from .eval.report import metric_table

        called = shlex.join(["foretell", *context.obj])
        found = run(name, data, model, out, limit=limit, controls=controls, command=called)
        _tell(found, f"{metric_table(found)}\n\nfigures: {out}", as_json)

    return command


for _name in (name for name in NAMES if name != LIVE):
    evaluate.command(
        _name,
        help=f"Put a model to the public benchmark {_name}, whose data you bring; write the official figures.",
        epilog=f"Example: foretell eval {_name} --data {_name} --out runs/{_name}.json",
    )(_benchmark(_name))


@evaluate.command(LIVE, epilog=f"Example: foretell eval {LIVE} --out runs/{LIVE}.json --limit 80")
def live(
    context: typer.Context,
    out: Annotated[Path, typer.Option(metavar="JSON", help="The figures; beside it, a line for every item.")],
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where clips are kept; left out: the user's cache folder.")
    ] = None,
    model: Model = None,
    limit: Annotated[
        int | None, typer.Option(min=2, help="About so many clips; left out: several of every game.")
    ] = None,
    controls: Annotated[bool, typer.Option(help="Also score what needs no video, or no model.")] = True,
    as_json: Json = False,
) -> None:
    """Play the games of I-PHYRE, a world that this project did not make, and ask a model which courses solve them.
    Wants `pip install 'foretell\\[iphyre]'`."""
    from .eval.benchmarks.run import run
    from .eval.report import metric_table
    from .reasoner.llm import cache_folder

    called = shlex.join(["foretell", *context.obj])
    found = run(LIVE, data or cache_folder() / LIVE, model, out, limit=limit, controls=controls, command=called)
    left_out = ", ".join(found["data"]["left_out"]) or "none"
    told = f"games left out, one of whose outcomes was not found: {left_out}\n\nfigures: {out}"
    _tell(found, f"{metric_table(found)}\n\n{told}", as_json)


@app.command(epilog="Example: foretell doctor --json")
def doctor(as_json: Json = False) -> None:
    """What works on this machine, and how to mend what does not. Exit status 1 when no question can be answered."""
    from .eval.doctor import examine

    with _working("examining this machine"):
        checks = list(examine())
    broken = [check for check in checks if check.essential and not check.works]
    _tell({"works": not broken, "checks": [asdict(check) for check in checks]}, _diagnosis(checks), as_json)
    if broken:
        raise typer.Exit(1)


def _listed(text: str | None) -> tuple[str, ...] | None:
    """The parts of a comma-separated option; None where it was left out."""
    return None if text is None else tuple(part.strip() for part in text.split(","))


def _working(what: str) -> AbstractContextManager[object]:
    """A spinner on stderr while something takes long; nothing where stderr is no terminal."""
    return Console(stderr=True).status(what)


def _streamed(pieces: Generator[str, None, "Answer"]) -> "Answer":
    """Print an answer's pieces as they come; returns the whole."""
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            print()
            answer: Answer = end.value
            return answer
        print(piece, end="", flush=True)


def _odds(answer: "Answer") -> Table:
    """The odds of each option, with bars; empty for an open answer."""
    table = Table.grid(padding=(0, 1))
    for option, odds in (answer.probabilities or {}).items():
        table.add_row(
            "", option, f"{odds:.0%}", "\u2588" * round(20 * odds), style="bold" if option == answer.text else ""
        )
    return table


def _considered(plan: "Plan") -> Group:
    """What to do and how sure that is, then all that was considered: chance of reaching the goal, share proposed."""
    table = Table("", Column("goal reached", justify="right"), Column("proposed", justify="right"), "then", box=None)
    for one in plan.choices:
        odds = "" if one.reached is None else f"{one.reached:.0%}"
        table.add_row(str(one.action), odds, f"{one.proposed:.0%}", ", ".join((one.expected or {}).values()))
    sure = "too unsure to rely on" if plan.abstained else "sure enough to act"
    return Group(str(plan.best.action), f"confidence {plan.confidence:.0%} ({sure})", table)


def _course(curve: Sequence[Mapping[str, float]]) -> Table:
    """Surprise over time, with bars."""
    table = Table("seconds", "surprise", "", box=None)
    most = max(point["surprise"] for point in curve)
    for point in curve:
        bar = "\u2588" * round(20 * point["surprise"] / most)
        table.add_row(f"{point['seconds']:.2f}", f"{point['surprise']:.3f}", bar)
    return table


def _certainty(answer: "Answer") -> str:
    sure = "too unsure to rely on" if answer.abstained else "sure enough to answer"
    shown, duration = answer.evidence["shown"], answer.evidence["duration"]
    return f"confidence {answer.confidence:.0%} ({sure}); shown: up to {shown:.2f} s of {duration:.2f} s"


def _tell_plan(recipe: "FitRecipe", cluster: str, shard: bool, as_json: bool) -> None:
    """What a training would take, as a table or JSON."""
    from .train import plan as planning

    with _working("planning"):
        found = planning.plan(recipe, cluster, "fsdp" if shard else "ddp")
    _tell({"recipe": asdict(recipe), **asdict(found)}, planning.table(found), as_json)


def _check_data(paths: Sequence[Path], out: Path | None, features: Path | None, max_bad: float, as_json: bool) -> int:
    """Read sets of paired data and tell what is wrong with them; returns the exit status."""
    from tempfile import TemporaryDirectory

    from .train.pairs import check

    with TemporaryDirectory() as scratch:
        kept = features or (Path(scratch) if out is None else out / "features")
        reports = check(paths, kept / "videos", None if out is None else out / "quarantine.jsonl")
    status = max(one.status(max_bad) for one in reports)
    sets = [asdict(one) for one in reports]
    _tell({"usable": status == 0, "max_bad": max_bad, "sets": sets}, _inventory(reports, max_bad), as_json)
    return status


def _inventory(reports: Sequence["Report"], max_bad: float) -> Group:
    """A column a set, and below it what was wrong in each, the most frequent reasons first."""
    table = Table("", *(Column(one.set, justify="right", overflow="fold") for one in reports), box=None)
    table.add_row("", *(Text(*(("broken", "red") if one.status(max_bad) else ("ok", "green"))) for one in reports))
    for name in ("samples", "questions", "videos", "bad", "answer_median", "answer_longest"):
        unit = " (characters)" if name.startswith("answer") else ""
        table.add_row(name.replace("_", ", ") + unit, *(f"{getattr(one, name):,}" for one in reports))
    table.add_row("yes/no questions", *(f"{one.yes_no:.0%}" for one in reports))
    table.add_row("of which yes", *("-" if one.yes is None else f"{one.yes:.0%}" for one in reports))
    faults = [Table("bad", f"reason, in {one.set}", box=None) for one in reports if one.bad]
    for found, one in zip(faults, (one for one in reports if one.bad), strict=True):
        for reason, count in list(one.reasons.items())[:8]:
            found.add_row(f"{count:,}", reason)
    return Group(table, *faults)


def _diagnosis(checks: Sequence["Check"]) -> Table:
    table = Table("", "what", Column("found", overflow="fold"), "how to mend it", box=None)
    for check in checks:
        mark, style = (
            ("ok", "green") if check.works else ("broken", "red") if check.essential else ("missing", "yellow")
        )
        table.add_row(Text(mark, style), check.name, check.found, check.mend or "")
    return table


UNWRAPPED = 10_000
"""Columns of what is no terminal: a row of a table is a line, for grep and for logs."""


def _tell(result: Mapping[str, Any], text: RenderableType, as_json: bool) -> None:
    """The result of a command on stdout, as one line of JSON or for people, text just as it is; all else goes to
    stderr. Of several ranks one tells it."""
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        print(_printable(json.dumps(result, ensure_ascii=False)))
        return
    console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else UNWRAPPED)
    for part in text.renderables if isinstance(text, Group) else [text]:
        if isinstance(part, str):
            print(_printable(part))  # rich would wrap it
        else:
            console.print(part)


def _printable(text: str) -> str:
    """Text whose bytes that are no UTF-8, as in the names of files, are written out as JSON does: \\udcff."""
    return text.encode("utf-8", "backslashreplace").decode()


def _named(pairs: Sequence[str] | None) -> dict[str, str]:
    """NAME=DIR options as a mapping."""
    split = [pair.partition("=") for pair in pairs or ()]
    if wrong := ["".join(parts) for parts in split if not all(parts)]:
        raise ValueError(f"{', '.join(wrong)}: wants NAME=DIR")
    return {name: folder for name, _, folder in split}


def _recipe(recipes: Mapping[str, Callable[[], R]], name: str, settings: Sequence[str] | None) -> R:
    """A recipe by its name, with FIELD=VALUE settings read as the fields' types say (stages.tune.steps=100)."""
    if name not in recipes:
        raise ValueError(f"no recipe {name!r}; there are: {', '.join(recipes)}")
    recipe: Any = recipes[name]()
    hints = dict(_fields(recipe, type(recipe)))
    for setting in settings or ():
        field, equals, text = setting.partition("=")
        if not equals or field not in hints:
            known = ", ".join(f"{one} ({_type_name(hint)})" for one, hint in hints.items())
            raise ValueError(f"--set {setting!r}: wants FIELD=VALUE with one of these fields: {known}")
        recipe = _changed(recipe, field.split("."), _parsed(text, hints[field], field))
    made: R = recipe
    return made


def _fields(value: Any, hint: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and types of what can be set, through nested dataclasses and mappings of them."""
    if is_dataclass(value):
        for one, inner in get_type_hints(type(value)).items():
            yield from _fields(getattr(value, one), inner, f"{name}{one}.")
    elif isinstance(value, dict):
        for one, part in value.items():
            yield from _fields(part, type(part), f"{name}{one}.")
    else:
        yield name.removesuffix("."), hint


def _changed(value: Any, path: Sequence[str], new: Any) -> Any:
    """A copy with the field at this path replaced."""
    if not path:
        return new
    head, *rest = path
    if isinstance(value, dict):
        return {**value, head: _changed(value[head], rest, new)}
    return replace(value, **{head: _changed(getattr(value, head), rest, new)})


def _parsed(text: str, hint: Any, field: str) -> Any:
    """Text as a value of a field's type: 3, 1e-4, true, nano, or 2,4,6 for a tuple."""
    inner = get_args(hint)
    parts = text.split(",") if text else []  # nothing: an empty tuple
    if inner and Ellipsis not in inner and len(parts) != len(inner):
        raise ValueError(f"--set {field}={text}: wants {len(inner)} values with commas between, got {len(parts)}")
    if inner:
        return tuple(_parsed(part, inner[0], field) for part in parts)
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"--set {field}={text}: wants true or false")
        return text.lower() == "true"
    assert hint in (int, float, str), f"{field}: no way to read a {hint} yet"
    try:
        return hint(text)
    except ValueError:
        raise ValueError(f"--set {field}={text}: wants {_type_name(hint)}") from None


def _type_name(hint: Any) -> str:
    return str(hint) if get_args(hint) else hint.__name__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; every user's error is one line on stderr. Returns the exit status."""
    rich.reconfigure(stderr=True)
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status: int | None = app(args=given, obj=given, prog_name="foretell", standalone_mode=False)
    except typer.TyperException as error:
        return _complain(error.format_message(), 2, error)
    except ArithmeticError as error:
        return _complain(str(error), 1)
    except (ValueError, OSError) as error:
        return _complain(str(error), 2)
    return status or 0


def _complain(message: str, status: int, error: object = None) -> int:
    """One line on stderr, with the help that would have told (none where help was just shown)."""
    context = getattr(error, "ctx", None)
    hint = f" See `{context.command_path} --help`." if context is not None else ""
    if message:
        print(f"error: {' '.join(message.split())}{hint}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
