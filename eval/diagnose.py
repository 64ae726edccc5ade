"""Where a signal is lost on its way to the answer: one probe at every stage from the encoder to the last layer.

The encoder's patches are pooled as `eval probe` does. From the bridge on every token is kept apart, the bridge's output
and all layers of the language model alike: a bridge's token has a role of its own, and a mean over tokens would mix
what one says of the outcome with what another says of a colour. Shapes: n clips, K video tokens, D channels.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from statistics import NormalDist
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..perception.encoder import VJEPA2World, normalise
from ..reasoner.answer import NANO, Foretell
from ..reasoner.model import ForetellConfig
from ..reasoner.processing import ForetellProcessor, Pack, collate, pack
from ..train.data import Packed, load_clips
from ..train.pairs import progress
from ..train.worlds.phrasings import PREDICTIVE
from .exam import load_model
from .probe import (
    Bench,
    Cells,
    Features,
    Floats,
    Grid,
    Question,
    Row,
    See,
    Training,
    frames_of,
    layer_of,
    plain_score,
    questions_of,
    raw_pixels,
    refuse,
    score_of,
    variables_of,
    watch,
)
from .record import digest, mark, provenance, rounded, write
from .stats import Figure, figure

VARIABLES = ("falls", "touches", "speed", "shape", "colour", "count")
PROBES = ("ridge", "attentive1")
ASKED = {fact: plain[0] for (_, fact), (plain, _) in reversed(PREDICTIVE.items())} | {
    "count": "How many coloured objects are there?",
    "colour": "What colour is the moving object?",
    "shape": "What shape is the moving object?",
    "speed": "How fast is the moving object?",
    "mass": "How heavy is the moving object?",
    "x": "How far to the right is the moving object?",
    "y": "How far down is the moving object?",
    "margin": "How close is the tower to falling?",
}
"""How each variable is asked about, in the same words for every clip: words that differ from clip to clip, a colour
say, would tell something of the clip by themselves."""
SIDE_BY_SIDE, POOLED, OUT = "taps side by side", "pooled", "output"
EXCHANGES = {"ridge": 20, "attentive1": 3}  # of a control's labels: it is told by all of them together
BATCH = 16  # clips a forward pass: all hidden states of 16 clips and 100 tokens of a small language model are 60 MB
HALF = float(torch.finfo(torch.float16).max)


@dataclass(frozen=True)
class Stage:
    """A point on the way: part and layer, and which tokens are read there.

    place: "patches" of the frames, "video" tokens, or the "last" token of the question. shuffled: a control whose
    labels are exchanged between training clips, so that there is nothing to learn.
    """

    part: str
    layer: int | str
    place: str
    shuffled: bool = False

    @property
    def name(self) -> str:
        layer = f"layer {self.layer}" if isinstance(self.layer, int) else self.layer
        last, shuffled = ", last token" * (self.place == "last"), ", shuffled labels" * self.shuffled
        return f"{self.part}, {layer}{last}{shuffled}"

    @property
    def told(self) -> Row:
        """As it is written down."""
        return {"stage": self.part, "layer": self.layer, "place": self.place, "shuffled": self.shuffled}


Splits = Mapping[str, Packed]  # "train", "test"
PIXELS = Stage("raw pixels", "input", "patches")


def stages_of(config: ForetellConfig) -> list[Stage]:
    """Every stage, in order, each part of the way followed by its control: raw pixels, the encoder's taps alone and as
    the bridge reads them, the bridge, the language model's layers at the video's tokens and at the question's last."""
    layers = range(1, config.text_config.num_hidden_layers + 1)
    ways = [
        [Stage("encoder", layer, "patches") for layer in (*config.taps, SIDE_BY_SIDE)],
        [Stage("bridge", layer, "video") for layer in (POOLED, OUT)],
        *([Stage("language model", layer, place) for layer in layers] for place in ("video", "last")),
    ]
    return [PIXELS, *(stage for way in ways for stage in (*way, replace(way[-1], shuffled=True)))]


def paths_of(stages: Sequence[Stage]) -> tuple[list[Stage], list[Stage]]:
    """What follows what: from the encoder through the video's tokens, and along the question's last token."""
    way = [stage for stage in stages if stage != PIXELS and not stage.shuffled]
    return [stage for stage in way if stage.place != "last"], [stage for stage in way if stage.place == "last"]


@dataclass(frozen=True)
class Depths:
    """What bridge and language model hold of n clips: memory-mapped files in half precision.

    pooled: the bridge's tokens before they enter the language model's space [n, K, width]. video: at the video's
    tokens, the bridge's output and then each of L layers [L + 1, n, K, D]. last: of each variable, at the last token
    of the question about it [L + 1, n, 1, D], 0 for clips without the variable. The last layer is normed.
    """

    pooled: Features
    video: Features
    last: dict[str, Features]

    @classmethod
    def empty(cls, folder: Path, config: ForetellConfig, clips: int, names: Sequence[str]) -> "Depths":
        def room(name: str, *shape: int) -> Features:
            return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, shape)

        folder.mkdir()
        bridge, states = config.bridge_config, config.text_config.num_hidden_layers + 1
        video = room("video", states, clips, bridge.tokens, bridge.llm_width)
        last = {name: room(f"last-{name}", states, clips, 1, bridge.llm_width) for name in names}
        return cls(room("pooled", clips, bridge.tokens, bridge.width), video, last)

    def at(self, stage: Stage, variable: str) -> Features:
        """[n, K or 1, channels]"""
        if stage.layer == POOLED:
            return self.pooled
        states = self.last[variable] if stage.place == "last" else self.video
        held: Features = states[stage.layer if isinstance(stage.layer, int) else 0]
        return held


def world_of(reader: Foretell) -> VJEPA2World:
    """The model's encoder by itself."""
    return VJEPA2World(reader.model.encoder, tuple(reader.model.config.taps), reader.rate, reader.frames)


@torch.no_grad()
def dive(reader: Foretell, world: VJEPA2World, packed: Packed, names: Sequence[str], folder: Path) -> Depths:
    """One forward pass a clip: its video, and behind it side by side the questions about the variables it has."""
    depths = Depths.empty(folder, reader.model.config, len(packed.clips), names)
    had = [tuple(name for name in names if name in variables_of(clip)) for clip in packed.clips]
    tree = cache(lambda some: asking(reader.processor, some))
    starts = range(0, len(packed.clips), BATCH)
    for start in progress(starts, len(starts), f"watching {folder.name}"):
        rows = range(start, min(start + BATCH, len(packed.clips)))
        pixels = normalise(torch.from_numpy(frames_of(packed, world, rows)))
        pooled = reader.model.bridge.read(*reader.model.watch(pixels))  # [B, K, width]
        packs = [tree(had[row]) for row in rows]
        states = hidden(reader, packs, reader.model.bridge.embed(pooled))  # [L + 1, B, T, D]
        end = 1 + int((packs[0].ids == reader.processor.video_token_id).nonzero().max())
        depths.pooled[rows.start : rows.stop] = halved(pooled)
        depths.video[:, rows.start : rows.stop] = halved(states[:, :, end - pooled.shape[1] : end])
        for place, (row, one) in enumerate(zip(rows, packs, strict=True)):
            for name, source in zip(had[row], one.sources.tolist(), strict=True):
                depths.last[name][:, row, 0] = halved(states[:, place, source])
    return depths


def asking(processor: ForetellProcessor, names: Sequence[str]) -> Pack:
    """A video and the questions about some variables behind it, blind to each other; `sources`: their last tokens."""
    prompts = {name: processor.split(processor.prompt_ids(ASKED[name])) for name in ASKED}
    prefix, _ = prompts["count"]
    return pack(prefix, [(prompts[name][1], [[processor.end_token_id]]) for name in names])


def hidden(reader: Foretell, packs: Sequence[Pack], video: Tensor) -> Tensor:
    """What the language model holds at every token, before its first and after each layer: [L + 1, B, T, D]."""
    batch = {name: value.to(video.device) for name, value in collate(packs).items()}
    embeds = reader.model.embed(batch.pop("input_ids"), video)
    output = reader.model(
        inputs_embeds=embeds, **batch, logits_to_keep=1, use_cache=False, output_hidden_states=True
    )  # fmt: skip
    assert output.hidden_states is not None
    return torch.stack(output.hidden_states)


def halved(states: Tensor) -> Features:
    """In half precision; the few huge channels of some language models, alike in all clips, are cut to its range."""
    half: Features = states.float().clamp(-HALF, HALF).half().cpu().numpy()
    return half


def apart(features: Features, grid: Grid) -> Floats:
    """Every token kept, side by side: [n, K, C] -> [n, K C]."""
    flat: Floats = features.reshape(len(features), -1).astype(np.float32)
    return flat


def exchanged(question: Question, seed: int) -> Question:
    """The same labels, dealt out among the clips anew."""
    return replace(question, values=np.random.default_rng(seed).permutation(question.values))


class Views:
    """Training and test clips as every stage holds them, and what is asked of them."""

    def __init__(self, reader: Foretell, splits: Splits, names: Sequence[str], folder: Path) -> None:
        """names: the variables; folder: where the hidden states of both splits are put, 1.2 MB a clip for a language
        model of 30 layers and 576 channels."""
        self.reader, self.world, self.splits = reader, world_of(reader), splits
        self.asked, self.answers = (questions_of(part.clips) for part in splits.values())
        self.depths = [dive(reader, self.world, part, names, folder / key) for key, part in splits.items()]
        self._seen: tuple[Stage, list[Features]] | None = None

    def bench(self, stage: Stage, variable: str, exchange: int | None = None) -> Bench:
        """exchange: the seed by which a control's labels are exchanged."""
        asked = self.asked if exchange is None else {variable: exchanged(self.asked[variable], exchange)}
        if stage.place == "patches":
            train, test = self._patches(replace(stage, shuffled=False))
            return Bench(train, test, self.world.grid, asked, self.answers)
        train, test = (depths.at(stage, variable) for depths in self.depths)
        return Bench(train, test, (train.shape[1], 1, 1), asked, self.answers, pool=apart)

    def _patches(self, stage: Stage) -> list[Features]:
        """Those of the last stage are kept: they are large, and all variables are asked of them in turn."""
        if self._seen is None or self._seen[0] != stage:
            self._seen = None
            self._seen = stage, [watch(part, self._see(stage), self.world) for part in self.splits.values()]
        return self._seen[1]

    def _see(self, stage: Stage) -> See:
        if stage == PIXELS:
            return raw_pixels(self.world)
        if isinstance(stage.layer, int):
            return layer_of(self.world, stage.layer)
        return lambda frames: self.reader.model.watch(normalise(frames))[0]


def measure(bench: Bench, stage: Stage, variable: str, probe: str, how: Training) -> Row:
    """One figure, and what the probe said of every test clip: a kind's number or a measure."""
    asked, told = bench.answers[variable], bench.tell(variable, probe, None, how).values
    found = figure(score_of(asked, told), asked.scenes, asked.chance)
    said = told.argmax(1).tolist() if asked.kinds else [round(float(one), 4) for one in told[:, 0]]
    return stage.told | {"metric": asked.metric, **asdict(found), "said": said}


def measure_control(benches: Iterable[Bench], stage: Stage, variable: str, probe: str, how: Training) -> Row:
    """The mean over exchanges of the labels, and between what 95% of them lie.

    One exchange would not do: where one label outshines all else in the features, as an outcome does where a language
    model answers, labels that agree with the true ones for 51 clips in a hundred make a probe read the true ones, or
    their opposite.
    """
    scores = []
    for bench in benches:
        asked = bench.answers[variable]
        scores.append(plain_score(asked, bench.tell(variable, probe, None, how).values))
    low, high = np.percentile(scores, (2.5, 97.5))
    found = Figure(float(np.mean(scores)), float(low), float(high), len(asked.rows), asked.chance)
    return stage.told | {"metric": asked.metric, **asdict(found), "exchanges": len(scores)}


def told_again(asked: Question, row: Row) -> Floats:
    """What a probe said, as `score_of` wants it: [n, kinds or 1]."""
    return replace(asked, values=np.array(row["said"], dtype=np.float32)).columns


def change(asked: Question, before: Row, after: Row, looks: int = 1) -> Row:
    """How much more is read at one stage than at another, of the same test clips, with an interval over scenes.

    looks: how many such changes it was picked from; the interval is widened so that all of theirs hold together
    (Bonferroni 1936, by normal quantiles).
    """
    earlier, later = (score_of(asked, told_again(asked, row)) for row in (before, after))
    found = figure(lambda weights: later(weights) - earlier(weights), asked.scenes, 0.0)
    wider = NormalDist().inv_cdf(1 - 0.025 / looks) / NormalDist().inv_cdf(0.975)
    ends = {end: found.value + wider * (getattr(found, end) - found.value) for end in ("low", "high")}
    where = {key: before[key] for key in ("variable", "probe")}
    return where | {"from": before["taker"], "to": after["taker"], **asdict(found), **ends, "looks": looks}


def largest_drop(asked: Question, rows: Sequence[Row]) -> Row:
    """The step between neighbouring stages at which most is lost."""
    scores = [plain_score(asked, told_again(asked, row)) for row in rows]
    place = int(np.argmin(np.diff(scores)))
    return change(asked, rows[place], rows[place + 1], looks=len(rows) - 1)


def changes(stages: Sequence[Stage], cells: Cells, asked: Question, probe: str) -> Iterator[Row]:
    """Of one variable the largest drop along each path, and how much of the bridge's output reaches the answer."""
    video, last = ([cells.done[stage.name, asked.name, probe] for stage in path] for path in paths_of(stages))
    output = next(row for row in video if row["layer"] == OUT)
    yield {"path": "video", **largest_drop(asked, video)}
    yield {"path": "last", **largest_drop(asked, last)}
    yield {"path": "end to end", **change(asked, output, last[-1])}


def run(
    model: str | Path | None,
    data: Path,
    train_data: Path,
    out: Path,
    *,
    probes: Sequence[str] = ("ridge",),
    variables: Sequence[str] | None = None,
    labels: int | None = None,
    limit: int | None = None,
    how: Training | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Probe every stage of a model (None: the embedded one) on worlds; write figures to `out` and a plot beside it.

    data, train_data: worlds to test and to train on, of which a fifth validates; limit, labels: only so many of their
    first clips. On worlds that the bridge was trained on it is surer than on new ones, and probes learn to trust it too
    much: better give others. Every figure is kept in `out` with the ending .cells.jsonl as soon as it is there, and not
    made again. Raises ValueError for a probe or variable that does not exist.
    """
    how = how or Training()
    splits = {"train": first(load_clips(train_data), labels), "test": first(load_clips(data), limit)}
    known, answers = (questions_of(part.clips) for part in splits.values())
    shared = sorted(known.keys() & answers.keys())
    names = list(variables or (name for name in VARIABLES if name in shared))
    refuse(probes, PROBES, "probe")
    refuse(names, shared, "variable")
    reader = load_model(model or NANO)
    stages = stages_of(reader.model.config)
    digests = (digest(part.root / "clips.jsonl") for part in splits.values())
    settings = f"{labels} {limit} {EXCHANGES} exchanges"
    depends = mark(model or NANO, *digests, *ASKED.values(), settings, json.dumps(asdict(how)))
    cells = Cells(out.with_suffix(".cells.jsonl"), depends)
    wanted = [(stage, name, probe) for stage in stages for name in names for probe in probes]
    if missing := [cell for cell in wanted if (cell[0].name, *cell[1:]) not in cells.done]:
        with TemporaryDirectory(prefix="hidden-", dir=out.parent) as folder:
            views = Views(reader, splits, names, Path(folder))
            for stage, name, probe in progress(missing, len(missing), "probes"):
                if stage.shuffled:
                    benches = (views.bench(stage, name, seed) for seed in range(EXCHANGES[probe]))
                    told = measure_control(benches, stage, name, probe, how)
                else:
                    told = measure(views.bench(stage, name), stage, name, probe, how)
                cells.keep((stage.name, name, probe), told)
    figures = [cells.done[stage.name, name, probe] for stage, name, probe in wanted]
    found = {
        **provenance(command),
        "clips": {key: len(part.clips) for key, part in splits.items()},
        "asked": {name: ASKED[name] for name in names},
        "figures": [{key: value for key, value in row.items() if key != "said"} for row in figures],
        "changes": [row for name in names for probe in probes for row in changes(stages, cells, answers[name], probe)],
    }
    write(out, json.dumps(rounded(found), indent=1) + "\n")
    plot(found, out.with_suffix(".png"))
    return found


def first(packed: Packed, count: int | None) -> Packed:
    """The first clips; a folder of worlds mixes its scenarios evenly."""
    return replace(packed, clips=packed.clips[:count])


def words(found: Mapping[str, Any]) -> list[str]:
    """For every variable in a sentence or two: where most is lost, if the interval carries it, and what arrives."""
    values = {(row["taker"], row["variable"], row["probe"]): row["value"] for row in found["figures"]}

    def told(row: Row) -> str:
        before, after = (values[row[end], row["variable"], row["probe"]] for end in ("from", "to"))
        where = f"from {before:.2f} ({row['from']}) to {after:.2f} ({row['to']})"
        return f"{where}: {row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"

    lines = []
    for row in found["changes"]:
        head = f"{row['variable']}, {row['probe']}: "
        if row["path"] == "end to end":
            verdict = "less arrives" if row["high"] < 0 else "more arrives" if row["low"] > 0 else "no difference shown"
            lines.append(f"{head}end to end {verdict}, {told(row)}.")
            continue
        along = {"video": "along the video's tokens", "last": "along the question's last token"}[row["path"]]
        if row["high"] < 0:
            lines.append(f"{head}{along} the largest drop is {told(row)}.")
        else:
            lines.append(f"{head}{along} no drop between neighbouring stages is carried by its interval.")
    return lines


def table(found: Mapping[str, Any]) -> str:
    """The figures as Markdown: a row for every stage and probe, a column for every variable."""
    cells = {(row["taker"], row["probe"], row["variable"]): row for row in found["figures"]}
    metrics = {row["variable"]: row["metric"] for row in found["figures"]}
    rows = [["stage", "probe", *(f"{name} ({metric})" for name, metric in metrics.items())]]
    rows.append(["---"] * 2 + ["---:"] * len(metrics))
    for taker, probe in dict.fromkeys((taker, probe) for taker, probe, _ in cells):
        told = (cells[taker, probe, name] for name in metrics)
        rows.append([taker, probe, *(f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" for one in told)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


SHORT = {SIDE_BY_SIDE: "all", POOLED: "b", OUT: "out"}
STYLES = dict(zip(PROBES, ("-", "--"), strict=True))


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Scores along the way with their intervals, a panel for every variable; raw pixels and chance as level lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    names = list(dict.fromkeys(row["variable"] for row in found["figures"]))
    columns = min(2, len(names))
    lines = -(-len(names) // columns)
    picture = Picture(figsize=(6.5 * columns, 0.6 + 2.9 * lines), layout="constrained")
    FigureCanvasAgg(picture)
    panels = list(picture.subplots(lines, columns, squeeze=False).flat)
    for axes, name in zip(panels, names, strict=False):
        _panel(axes, [row for row in found["figures"] if row["variable"] == name])
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    picture.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", fontsize=8, ncols=4)
    picture.savefig(path, dpi=80, metadata={"Software": None})


def _panel(axes: Any, rows: Sequence[Row]) -> None:
    """One variable: a line and a band for what is read through the video, one for the question's last token."""
    way = [row for row in rows if row["stage"] != PIXELS.part and not row["shuffled"]]
    steps = list(dict.fromkeys((row["stage"], row["layer"]) for row in way))
    for probe in dict.fromkeys(row["probe"] for row in rows):
        for label, last, colour in (("through the video's tokens", False, "C0"), ("question's last token", True, "C1")):
            line = [row for row in way if row["probe"] == probe and (row["place"] == "last") == last]
            x = [steps.index((row["stage"], row["layer"])) for row in line]
            axes.plot(x, [row["value"] for row in line], STYLES[probe], c=colour, lw=1.2, label=f"{label}, {probe}")
            axes.fill_between(
                x, *([row[end] for row in line] for end in ("low", "high")), color=colour, alpha=0.2, lw=0
            )
        controls = [row for row in rows if row["shuffled"] and row["probe"] == probe]
        x = [steps.index((row["stage"], row["layer"])) for row in controls]
        value, low, high = ([row[end] for row in controls] for end in ("value", "low", "high"))
        ends = np.subtract(value, low), np.subtract(high, value)
        axes.errorbar(x, value, ends, fmt="kx", ms=4, lw=0.8, label=f"shuffled labels, {probe}")
        pixels = next(row["value"] for row in rows if row["stage"] == PIXELS.part and row["probe"] == probe)
        axes.axhline(pixels, c="C2", ls=STYLES[probe], lw=0.8, label=f"raw pixels, {probe}")
    axes.axhline(rows[0]["chance"], c="grey", ls=":", lw=1, label="chance")
    marked = [place for place, (part, layer) in enumerate(steps) if part != "language model" or layer % 5 == 0]
    axes.set_xticks(marked, [SHORT.get(steps[k][1], f"{steps[k][0][0]}{steps[k][1]}") for k in marked], fontsize=7)
    axes.set(
        title=rows[0]["variable"], ylabel=rows[0]["metric"], xlabel="encoder, bridge, layers of the language model"
    )
