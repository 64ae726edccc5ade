"""Rivals through the same bridge: behind which frozen encoder does the language model answer best?

Every encoder gets a fresh bridge by the same recipe, on the same clips in the same order, once a seed, under a language
model that goes on from the same LoRA: it reads words in slots already, whoever says them, so that few questions have to
go through it. The same layers are read of all, none of them pixels. Two controls run beside them: an encoder of the
first one's shape that has learned nothing, and the pixels themselves, token by token. The first encoder may run again
with the tokens of its predictor, of what comes next alone and of how surprising it was so far, too: is it worth
something to imagine?

Intervals are over scenes and, at once, over the runs of an encoder.
"""

from __future__ import annotations

import json
import re
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import VJEPA2Config, VJEPA2Model

from ..perception.encoder import VJEPA2World, window_of
from ..reasoner.answer import Foretell
from ..train import fit
from ..train.data import Packed, cache_features, load_clips
from ..train.flops import Operations
from ..train.pairs import Source
from ..train.recipes import FitRecipe, plain
from .controls import Blind, Row
from .exam import (
    HEADLINES,
    Answers,
    Group,
    Headline,
    Taker,
    all_sit,
    by_frames,
    chosen,
    guessing,
    load_model,
    load_rows,
    look_of,
    measured,
    thinned,
    watching,
)
from .imagined import Filming, open_painter, watch_film
from .probe import random_init
from .record import digest, mark, provenance, rounded, write
from .report import percent
from .stats import holm, scene_weights, with_runs
from .turns import claim_of, in_turn

Floats = NDArray[np.float64]
Answered = Mapping[str, Sequence[Sequence[Row]]]
"""By arm, then by run: what was answered, question by question in the same order."""
BLIND, RANDOM, PIXELS = "blind", "random init", "raw pixels"
IMAGINING, SURPRISED, FILMING = ", imagining", ", imagining and surprised", ", imagining in pixels"
"""What is added to the first encoder's name where it is told what comes next, how surprising it was so far, too, and
where a film tells it."""
RESAMPLES = 1000
ALPHA = 0.05
LOOKS = 20
PICTURES = 8
"""So many frames a model of single pictures is shown: as many as the embedded encoder's window."""


@dataclass(frozen=True)
class Arm:
    """An encoder and how a bridge is trained on it."""

    name: str
    encoder: str
    recipe: FitRecipe
    painter: Path | None = None
    """The pretraining run that draws what it imagines; None: its predictor tells."""

    def run(self, seed: int) -> str:
        """What its run with this seed is called, also on disk."""
        return f"{re.sub(r'[^A-Za-z0-9]+', '-', self.name).strip('-').lower()}-{seed}"


def arms_of(
    encoders: Mapping[str, str | Path], recipe: FitRecipe, imagination: bool, painter: Path | None = None
) -> list[Arm]:
    """The encoders by name, the first also with imagination where it is wanted, without and with surprise, and with
    that of a painter; nobody else imagines.

    Raises ValueError for fewer than two to compare, where imagination is wanted of a recipe without its tokens, and for
    a painter that cannot draw for the first.
    """
    ways: list[tuple[str, bool, Path | None]] = []  # what it is called, whether surprise is told, who draws
    if imagination:
        ways += [(IMAGINING, False, None), (SURPRISED, True, None)]
    if painter is not None:
        ways += [(FILMING, False, painter)]
    if len(encoders) + len(ways) < 2:
        raise ValueError(f"given {', '.join(encoders) or 'no encoder'}: name two or more to compare, as NAME=DIR")
    if ways and not recipe.imagined_tokens:
        raise ValueError("imagination wants tokens to imagine with: set imagined_tokens above 0")
    arms = [Arm(name, str(path), _for_encoder(path, recipe)) for name, path in encoders.items()]
    first, told = arms[0], replace(recipe, frames=arms[0].recipe.frames)
    if painter is not None:  # what cannot draw is refused now, and not after hours
        open_painter(painter, fit.encoder_of(first.encoder, told))
    arms[1:1] = [
        Arm(first.name + way, first.encoder, replace(told, surprise=surprise), by) for way, surprise, by in ways
    ]
    if len({arm.run(0) for arm in arms}) < len(arms):
        raise ValueError(f"{', '.join(encoders)}: names must differ in letters and digits, as folders are called so")
    return arms


def controls_of(first: str | Path, recipe: FitRecipe, runs: Path) -> dict[str, Path]:
    """Folders of the controls, made from the first encoder's shape where they are not there yet."""
    world = VJEPA2World.from_pretrained(first, rate=recipe.rate or 1.0)
    made = {RANDOM: partial(random_init, world), PIXELS: partial(pass_through, world)}
    folders = {name: runs / "encoders" / name.replace(" ", "-") for name in made}
    for name, folder in folders.items():
        if not (folder / "model.safetensors").is_file():
            made[name]().model.save_pretrained(folder)
    return folders


def pass_through(like: VJEPA2World) -> VJEPA2World:
    """An encoder whose layer 0 is the pixels: a token has a channel for each of its numbers, none of them mixed."""
    shape, window = like.model.config, window_of(like.model.config)
    width = 3 * window.tubelet * window.patch**2
    small = {"hidden_size": width, "num_attention_heads": width // 32, "num_hidden_layers": 1, "taps": [0]}
    model = VJEPA2Model(VJEPA2Config(**shape.to_diff_dict() | small)).eval().requires_grad_(False)
    project: Any = model.encoder.embeddings.patch_embeddings.proj
    project.weight.copy_(torch.eye(width).view_as(project.weight))
    project.bias.zero_()
    return VJEPA2World(model, (0,), like.rate, like.frames)


def _for_encoder(path: str | Path, recipe: FitRecipe) -> FitRecipe:
    """Without imagination; a model of single pictures is shown PICTURES of them, one by one; of pixels there is no
    layer but the first."""
    world = VJEPA2World.from_pretrained(path, rate=recipe.rate or 1.0)
    recipe = replace(recipe, taps=(0,)) if world.taps == (0,) else recipe
    return replace(recipe, imagined_tokens=0, surprise=False, frames=PICTURES if world.frames == 1 else 0)


def trained(arm: Arm, seed: int, train: Path, val: Path, runs: Path, llm: str | None, init: Path | None) -> Path:
    """The model of one run, trained where it is not there yet. Raises ValueError where the folder holds another run."""
    recipe, out = replace(arm.recipe, seed=seed), runs / arm.run(seed)
    order = out / "order.json"
    wanted = {"encoder": mark(arm.encoder), "data": digest(train / "questions.jsonl"), "recipe": plain(recipe)}
    wanted |= {"painter": mark(arm.painter)} if arm.painter else {}
    held: dict[str, Any] = json.loads(order.read_text(encoding="utf-8")) if order.is_file() else wanted
    if {**held, "recipe": plain(FitRecipe()) | held["recipe"]} != wanted:  # a field that came later had its default
        raise ValueError(f"{out} holds a run of another encoder, data or recipe: remove it, or choose another --runs")
    out.mkdir(parents=True, exist_ok=True)
    write(order, json.dumps(wanted) + "\n")
    if fit.told(out / "model"):
        return out / "model"
    features = runs / "features"
    if arm.painter:
        features = runs / "films" / str(wanted["painter"])
        film(arm, arm.painter, (train, val), features)
    return fit.run([Source(train)], val, arm.encoder, out, recipe, llm, features, init=init)


def film(arm: Arm, run: Path, worlds: Sequence[Path], folder: Path) -> None:
    """Fill a cache with features whose imagined part is drawn: a training that finds it there computes none."""
    world = fit.encoder_of(arm.encoder, arm.recipe)
    look = partial(watch_film, open_painter(run, world))
    for one in worlds:
        for view in load_clips(one).views(arm.recipe.mirror):
            cache_features(view, world, folder, look)


def run(
    data: Path,
    train_data: Path,
    val_data: Path,
    encoders: Mapping[str, str | Path],
    runs: Path,
    out: Path,
    *,
    recipe: FitRecipe,
    seeds: int = 3,
    imagination: bool = False,
    painter: Path | None = None,
    controls: bool = True,
    limit: int | None = None,
    per_clip: int | None = None,
    llm: str | None = None,
    init: Path | None = None,
    workers: int = 1,
    command: str = "",
    tell: Callable[[str, int, int], object] = lambda name, done, total: None,
) -> dict[str, Any]:
    """Train a bridge on every encoder, once a seed, examine them on `data`; write figures to `out`, a plot beside it.

    encoders: name -> folder; the first is what the others are compared with. runs: folder of the trainings and of the
    controls' encoders; what is there is not made again, and several processes that are given the same share
    what is not. imagination: whether the first also runs with what its predictor tells; painter: the run of a model of
    pixels with whose films it runs, too. controls: whether random init and raw pixels run, too. recipe: of all alike,
    its imagined_tokens of the arms that imagine alone. llm, init: as in fit.run. limit, per_clip, workers: as in the
    exam. tell: hears each run's name, how many are done, of how many.
    Raises ValueError for what cannot be compared.
    """
    if taken := encoders.keys() & {RANDOM, PIXELS, BLIND}:
        raise ValueError(f"{', '.join(sorted(taken))}: a control is called so: choose another name")
    first = next(iter(encoders.values()), None)
    claims = runs / ".claims"
    runs.mkdir(parents=True, exist_ok=True)
    with claim_of(claims, "controls", wait=True):
        added = controls_of(first, recipe, runs) if controls and first is not None else {}
    arms = arms_of({**encoders, **added}, recipe, imagination, painter)
    packed, learned = load_clips(data), load_clips(train_data)
    groups = chosen([thinned(group, per_clip) for group in by_frames(load_rows(packed))], limit)
    if not groups:
        raise ValueError(f"{data} holds no question with options and an answer: make some with `foretell worlds`")
    by_run = {arm.run(seed): (arm, seed) for seed in range(seeds) for arm in arms}
    train_it = partial(trained, train=train_data, val=val_data, runs=runs, llm=llm, init=init)
    work = {name: partial(train_it, *one) for name, one in by_run.items()}
    made: dict[str, tuple[Arm, Path]] = {}
    for done, (name, do) in enumerate(in_turn(claims, work)):
        tell(name, done, len(work))
        made[name] = by_run[name][0], do()
    asked, seen = digest(packed.root / "questions.jsonl"), digest(learned.root / "questions.jsonl")
    takers = [
        Taker(name, mark(model, asked), partial(_answers, arm, model, packed)) for name, (arm, model) in made.items()
    ]
    takers += [Taker(BLIND, mark(asked, seen), lambda: guessing(Blind.fit(load_rows(learned))), shared=False)]
    firsts = {arm.name: made[arm.run(0)] for arm in arms}
    with claim_of(claims, f"exam {out.resolve()}", wait=True):  # whoever comes second finds every answer there
        kept = all_sit(takers, groups, out.with_suffix(".samples.jsonl"), workers)
        takes = costs_of_answers(firsts, packed, groups[0], runs / "answers.json")
    rows = [row for group in groups for row in group]
    answered = {arm.name: [kept.of(arm.run(seed), rows) for seed in range(seeds)] for arm in arms}
    found = {
        **provenance(command),
        "data": {"questions": len(rows), "scenes": len({row["scene"] for row in rows}), "sha256": asked},
        "seeds": seeds,
        "recipe": plain(recipe),
        "arms": {arm.name: [_cost(made[arm.run(seed)][1]) for seed in range(seeds)] for arm in arms},
        "answer": takes,
        "figures": figures({**answered, BLIND: [kept.of(BLIND, rows)]}),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write(out, json.dumps(rounded(found), indent=1, ensure_ascii=False) + "\n")
    plot(found, out.with_suffix(".png"))
    return found


def _cost(model: Path) -> dict[str, Any]:
    """What a run took: seconds and operations of each stage."""
    told = fit.told(model)
    return {name: told[name] for name in ("wall_seconds", "flops")}


def opened_as(arm: Arm, model: Path) -> Foretell:
    """A trained model that imagines as its arm does."""
    foretell = load_model(model)
    if arm.painter is None:
        return foretell
    return Filming(foretell, open_painter(arm.painter, fit.encoder_of(arm.encoder, arm.recipe)))


def _answers(arm: Arm, model: Path, packed: Packed) -> Answers:
    return watching(opened_as(arm, model), packed)


def costs_of_answers(
    models: Mapping[str, tuple[Arm, Path]], packed: Packed, group: Group, kept: Path
) -> dict[str, dict[str, float]]:
    """What one answer takes, from frames on, by arm: operations, and seconds (the median of LOOKS, the arms taking
    turns, so that what else a machine does falls upon all alike). Measured once, and kept in a file."""
    marks = {name: mark(model) for name, (_, model) in models.items()}
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    if known.get("marks") != marks:
        asks = {name: _ask(arm, model, packed, group[0]) for name, (arm, model) in models.items()}
        flops = {name: _operations(ask) for name, ask in asks.items()}
        turns = [{name: timeit.timeit(ask, number=1) for name, ask in asks.items()} for _ in range(LOOKS)]
        takes = {name: {"flops": flops[name], "seconds": median(turn[name] for turn in turns)} for name in asks}
        known = {"marks": marks, "takes": takes}
        write(kept, json.dumps(known) + "\n")
    told: dict[str, dict[str, float]] = known["takes"]
    return told


def _ask(arm: Arm, model: Path, packed: Packed, row: Row) -> Callable[[], object]:
    """A model's answer to one question, to be measured."""
    foretell = opened_as(arm, model)
    return partial(foretell.answer, look_of(foretell, packed, row), row["question"], row["options"])


def _operations(do: Callable[[], object]) -> float:
    with Operations() as counted:
        do()
    return float(counted.flops)


def figures(answered: Answered) -> dict[str, Any]:
    """Every headline that has questions: each arm's mean over runs, and how far the others lie from the first arm, and
    imagining in pixels from imagining in features, p adjusted for all of these comparisons."""
    first = next(iter(answered.values()))[0]
    found = {line.key: _headline(line, answered) for line in HEADLINES if any(map(line.holds, first))}
    compared = [other for line in found.values() for other in differences(line)]
    for other, p in zip(compared, holm([other["p"] for other in compared]), strict=True):
        other["p"] = p
    return found


def differences(line: Mapping[str, Any]) -> list[dict[str, float]]:
    """All that are told of a headline."""
    return [*line["ahead_of"].values(), *line["imagining_ahead_of"].values()]


def _headline(line: Headline, answered: Answered) -> dict[str, Any]:
    kept = {name: [[row for row in rows if line.holds(row)] for rows in runs] for name, runs in answered.items()}
    some = next(iter(kept.values()))[0]
    metric, _, chance = measured(some)
    scenes = [row["scene"] for row in some]
    weights = np.concatenate([np.ones((1, len(some))), *scene_weights(scenes, RESAMPLES, 0)])  # [B, n]
    scores = {name: np.stack([measured(rows)[1](weights) for rows in runs]) for name, runs in kept.items()}  # [R, B]
    first = next(iter(scores))
    told, drawn = first + IMAGINING, first + FILMING
    arms = {name: _arm(values) | {"n": len(some), "chance": chance} for name, values in scores.items()}
    found: dict[str, Any] = {"label": line.label, "metric": metric, "arms": arms}
    found["ahead_of"] = {name: _ahead(scores[first], values) for name, values in list(scores.items())[1:]}
    both = {told, drawn} <= scores.keys()
    return found | {"imagining_ahead_of": {drawn: _ahead(scores[told], scores[drawn])} if both else {}}


def _arm(scores: Floats) -> dict[str, Any]:
    """The mean over an arm's runs [R, B], its interval over scenes and runs, and each run."""
    found = with_runs(scores.mean(axis=0), scores[:, 0])
    return {**{name: found[name] for name in ("value", "low", "high")}, "runs": scores[:, 0].tolist()}


def _ahead(ours: Floats, theirs: Floats) -> dict[str, float]:
    """How far one arm's mean lies above another's [R, B], of the same scenes."""
    return with_runs(ours.mean(axis=0) - theirs.mean(axis=0), ours[:, 0], theirs[:, 0])


def table(found: Mapping[str, Any]) -> str:
    """Markdown: a row an arm, a column a headline, in percent; then what the intervals allow to say."""
    lines = found["figures"].values()
    names = [*found["arms"], BLIND]
    head = ["encoder", *(f"{line['label']} (n {_count(line):,})" for line in lines)]
    rows = [[name, *(percent(line["arms"][name]) for line in lines), _takes(found, name)] for name in names]
    written = [[*head, "an answer takes"], ["---", *(["---:"] * (len(lines) + 1))], *rows]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in written), "", *words(found)])


def _takes(found: Mapping[str, Any], name: str) -> str:
    """What an answer takes, of arms that watch."""
    one = found["answer"].get(name)
    return f"{one['flops'] / 1e9:.2f} GFLOP, {1000 * one['seconds']:.0f} ms" if one else ""


def _count(line: Mapping[str, Any]) -> int:
    return int(next(iter(line["arms"].values()))["n"])


def words(found: Mapping[str, Any]) -> list[str]:
    """For every headline: whom the first arm beats, who beats it, and of whom neither can be said; then what an
    interval alone says, but not all comparisons together; and imagining in features beside imagining in pixels."""
    first = next(iter(found["arms"]))
    return [
        f"{line['label']}: {_verdict(first, line['ahead_of'])}."
        + (f" {first}{IMAGINING}: {_verdict('it', two)}." if (two := line["imagining_ahead_of"]) else "")
        for line in found["figures"].values()
    ]


def _verdict(first: str, ahead_of: Mapping[str, Mapping[str, float]]) -> str:
    ahead = [name for name, one in ahead_of.items() if one["low"] > 0]
    behind = [name for name, one in ahead_of.items() if one["high"] < 0]
    sure = {name for name, one in ahead_of.items() if one["p"] < ALPHA}
    level = [name for name in ahead_of if name not in (*ahead, *behind)]
    told = [
        (f"{first} is ahead of", [name for name in ahead if name in sure]),
        (f"{first} is behind", [name for name in behind if name in sure]),
        ("no difference is shown to", level),
        ("by its own interval alone ahead of", [name for name in ahead if name not in sure]),
        ("by its own interval alone behind", [name for name in behind if name not in sure]),
    ]
    return "; ".join(f"{phrase} {', '.join(names)}" for phrase, names in told if names)


def plot(found: Mapping[str, Any], path: Path) -> None:
    """A panel for every headline: each arm's mean with its interval, its runs as dots, chance as a line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    lines, names = list(found["figures"].values()), [*found["arms"], BLIND]
    picture = Picture(figsize=(2.2 * len(lines) + 1.5, 0.4 * len(names) + 1.4), layout="constrained")
    FigureCanvasAgg(picture)
    panels = picture.subplots(1, len(lines), sharey=True, squeeze=False)[0]
    for axes, line in zip(panels, lines, strict=True):
        for place, name in enumerate(names):
            arm = line["arms"][name]
            axes.plot([arm["low"], arm["high"]], [place, place], color="tab:blue", linewidth=2)
            axes.plot(arm["runs"], [place] * len(arm["runs"]), ".", color="grey", markersize=4)
            axes.plot(arm["value"], place, "o", color="tab:blue", markersize=5)
        axes.axvline(line["arms"][names[0]]["chance"], color="black", linewidth=0.8, linestyle=":")
        axes.set_title(line["label"], fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
    panels[0].invert_yaxis()
    picture.savefig(path, dpi=120, metadata={"Software": None})
