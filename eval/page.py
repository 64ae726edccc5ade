"""One self-contained HTML page about an exam: figures with intervals, plots, confusions, and the worst errors to watch.

Made from the results, the per-sample rows and the clips that were asked about, and from nothing else. Its sentences
say what the intervals allow and no more.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from ..train.data import Packed
from .report import (
    MODEL,
    PAINTED,
    Results,
    abstention_line,
    guessing,
    painted,
    percent,
    provenance,
    takers_of,
    takers_told,
    title,
)
from .violations import rows_of

Row = Mapping[str, Any]
WORST = 12
MOST_ANSWERS, LONGEST_ANSWER = 10, 20
"""Answers of a question type, and letters of one, whose confusions fit a table."""

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Foretell: exam</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #e5e5e5; vertical-align: top }
th:first-child, td:first-child { text-align: left }
.scroll { overflow-x: auto } img { max-width: 100% } .note { color: #555; font-size: 14px }
.tables { display: flex; flex-wrap: wrap; gap: 0 2.5rem }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem }
.card { border: 1px solid #ddd; border-radius: 6px; padding: .6rem; font-size: 14px }
.card img { width: 100%; image-rendering: pixelated }
.bar { background: #0072B2; height: .5rem } .wrong { color: #a00 } .right { color: #060 }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd } .note { color: #aaa } }
</style></head><body>
<h1>Exam</h1>
<p class="note">{{ provenance }}</p>
<p>Noise floor: {{ floor }}</p>
<h2>In words</h2>
<ul>{% for sentence in words %}<li>{{ sentence }}</li>{% endfor %}</ul>
<p>{{ abstention }}</p>
<h2>Headlines</h2>
<div class="scroll">{{ table(headlines) }}</div>
<p class="note">{{ columns }}</p>
<p><img alt="headline figures with intervals" src="{{ plots.headlines }}"></p>
<h2>Against each control, question by question</h2>
<p class="note">Difference in percentage points of questions answered right, on the same questions, with an interval
over scenes; discordant: questions that only one of both got right. McNemar's exact test takes questions as independent,
which those about one scene are not, so the interval decides; p is adjusted for {{ pairs | length - 1 }} comparisons
(Holm).</p>
<div class="scroll">{{ table(pairs) }}</div>
{% if surprise %}<h2>What surprises it</h2>
<p class="note">Per cent of pairs, and of quadruplets, of clips whose impossible half surprises more than the possible
one, by the least surprised of all contexts, with intervals over scenes; random init: the same model untrained.</p>
{% for name, rows in surprise %}<h3>{{ name }}</h3><div class="scroll">{{ table(rows) }}</div>{% endfor %}{% endif %}
{% if layers %}<h2>Where a signal is lost</h2>
<p class="note">The same ridge probe at every stage, from the encoder through the bridge to the language model's last
layer.</p>
<ul>{% for sentence in layers.words %}<li>{{ sentence }}</li>{% endfor %}</ul>
<p><img alt="probes at every stage" src="{{ layers_plot }}"></p>{% endif %}
<h2>Can its confidence be trusted?</h2>
<p>{% for kind in ("reliability", "risk-coverage") %}{% if kind in plots %}
<img alt="{{ kind }}" style="max-width: 48%" src="{{ plots[kind] }}">{% endif %}{% endfor %}</p>
<h2>Every scenario and type of question</h2>
<div class="scroll">{{ table(types) }}</div>
{% if options | length > 1 %}<h2>Option by option</h2>
<p class="note">Each option by itself: held to be likelier than not where it is true, and only there.</p>
<div class="scroll">{{ table(options) }}</div>{% endif %}
{% if minimal | length > 1 %}<h2>Minimal pairs</h2>
<p class="note">Two clips that differ in what no single picture shows, the same question, two answers: both right.</p>
<div class="scroll">{{ table(minimal) }}</div>{% endif %}
<h2>What is taken for what</h2>
<p class="note">Rows: what is true; columns: what was answered.</p>
<div class="tables">{% for name, rows in confusions %}
<div><h3>{{ name }}</h3><div class="scroll">{{ table(rows) }}</div></div>{% endfor %}</div>
<h2>The worst errors</h2>
<p class="note">Wrong answers of which the model was surest. What it did not see has a red rim.</p>
<div class="cards">{% for one in worst %}<div class="card">
<img alt="the clip" src="{{ one.clip }}">
<p><b>{{ one.question }}</b>{% if one.until is not none %} (shown: {{ "%.2f" | format(one.until) }} s){% endif %}<br>
<span class="wrong">said: {{ one.answer }} ({{ "%.0f" | format(100 * one.confidence) }}%)</span>;
<span class="right">true: {{ one.truth }}</span></p>
{% for option, chance in one.odds.items() %}<div>{{ option }}<div class="bar" style="width: {{ 100 * chance }}%"></div>
</div>{% endfor %}</div>{% endfor %}</div>
</body></html>
"""


def page(found: Results, samples: Sequence[Row], asked: Sequence[Row], packed: Packed, folder: Path) -> str:
    """The page. samples: the model's own per-sample rows; asked: their questions, in the same order; packed: the clips
    that they name; folder: where plots of other readouts lie."""
    layers = found.get("layers")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.globals["table"] = table
    plots = {kind: data_url(painted(found, kind), "image/png") for kind in PAINTED if drawable(found, kind)}
    return environment.from_string(TEMPLATE).render(
        provenance=provenance(found),
        floor=noise(found),
        columns=takers_told(found),
        words=list(words(found)),
        abstention=abstention_line(found),
        headlines=score_rows(found, [(row["label"], row) for row in found["figures"]["headlines"].values()]),
        pairs=pair_rows(found),
        types=score_rows(
            found, [(f"{r['scenario']}: {r['type']} ({r['kind']})", r) for r in found["figures"]["by_type"]]
        ),
        options=score_rows(found, [(row["label"], row) for row in found["figures"]["by_option"]]),
        minimal=score_rows(found, [(row["label"], row) for row in found["figures"]["minimal_pairs"]]),
        plots=plots,
        surprise=[(title(name), rows_of(one)) for name, one in found.get("surprise", {}).items()],
        layers=layers,
        layers_plot=data_url((folder / layers["plot"]).read_bytes(), "image/png") if layers else "",
        confusions=list(confusions(samples)),
        worst=[shown(sample, row, packed) for sample, row in worst(samples, asked)],
    )


def table(rows: Sequence[Sequence[str]]) -> Markup:
    """Rows of cells as HTML, the first as its head."""
    parts = []
    for number, row in enumerate(rows):
        cell = "th" if number == 0 else "td"
        parts.append(Markup("<tr>") + Markup("").join(Markup(f"<{cell}>{{}}</{cell}>").format(one) for one in row))
    return Markup("<table>") + Markup("\n").join(parts) + Markup("</table>")


def data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"


def drawable(found: Results, kind: str) -> bool:
    """Reliability and risk are about yes/no answers: an exam without such questions has none."""
    return kind == "headlines" or MODEL in found["figures"]["calibration"]


def noise(found: Results) -> str:
    """What is worth nothing, before any figure is told."""
    told = [f"{row['label']}{guessing(row)} %" for row in found["figures"]["headlines"].values()]
    return f"95% of those who choose by lot score within these bounds. {'; '.join(told)}."


def words(found: Results) -> Iterator[str]:
    """A sentence a headline: against chance, and against each control, as far as the intervals carry it."""
    pairs = found["figures"]["pairs"]
    for key, row in found["figures"]["headlines"].items():
        model, others = takers_of(found)[0], takers_of(found)[1:]
        own = row["takers"][model]
        verdict = "above" if own["low"] > own["chance"] else "below" if own["high"] < own["chance"] else "not told from"
        said = [f"{row['label']}: {percent(own)} %, {verdict} chance ({100 * own['chance']:.1f})"]
        compared = {one["other"]: one["difference"] for one in pairs if one["headline"] == key}
        for name, heading in (("better", "better than"), ("worse", "worse than"), ("open", "not told from")):
            which = [title(other) for other in others if other in compared and standing(compared[other]) == name]
            said += [f"{heading} {', '.join(which)}"] if which else []
        yield "; ".join(said) + "."


def standing(difference: Mapping[str, float]) -> str:
    """What an interval of a difference allows to say."""
    return "better" if difference["low"] > 0 else "worse" if difference["high"] < 0 else "open"


def score_rows(found: Results, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[list[str]]:
    """A figure of every taker in percent."""
    takers = takers_of(found)
    told = [["questions", "metric", "n", "chance", *map(title, takers)]]
    for label, row in rows:
        figures = [row["takers"][taker] for taker in takers]
        first = figures[0]
        told.append([label, row["metric"], f"{first['n']:,}", f"{100 * first['chance']:.1f}", *map(percent, figures)])
    return told


def pair_rows(found: Results) -> list[list[str]]:
    """Every headline against every control."""
    labels = {key: row["label"] for key, row in found["figures"]["headlines"].items()}
    told = [["questions", "against", "difference", "discordant (model, other)", "p (Holm)"]]
    for one in found["figures"]["pairs"]:
        counts = f"{one['only_model']}, {one['only_other']}"
        p = f"{one['p']:.2g}" if one["p"] else "below 1e-300"
        told.append([labels[one["headline"]], title(one["other"]), percent(one["difference"]), counts, p])
    return told


def confusions(samples: Sequence[Row]) -> Iterator[tuple[str, list[list[str]]]]:
    """For every type of question with few, short answers, of which one was wrong: counts of answers by truth."""
    by_type: dict[str, list[Row]] = {}
    for row in samples:
        by_type.setdefault(f"{row['kind']}: {row['type']}", []).append(row)
    for name, rows in sorted(by_type.items()):
        answers = sorted({str(row["truth"]) for row in rows} | {str(row["answer"]) for row in rows})
        if len(answers) > MOST_ANSWERS or max(map(len, answers)) > LONGEST_ANSWER or all(row["right"] for row in rows):
            continue
        counts = Counter((str(row["truth"]), str(row["answer"])) for row in rows)
        told = [[truth, *(f"{counts[truth, answer]:,}" for answer in answers)] for truth in answers]
        yield name, [["true", *answers], *told]


def worst(samples: Sequence[Row], asked: Sequence[Row]) -> list[tuple[Row, Row]]:
    """The surest wrong answers, each about another video."""
    wrong = [pair for pair in zip(samples, asked, strict=True) if not pair[0]["right"]]
    picked: dict[str, tuple[Row, Row]] = {}
    for pair in sorted(wrong, key=lambda pair: -pair[0]["confidence"]):
        picked.setdefault(pair[1]["video"], pair)
    return list(picked.values())[:WORST]


def shown(sample: Row, row: Row, packed: Packed) -> Row:
    """What a card tells of one answer, its clip included."""
    until, odds = row.get("until"), sample["probabilities"] or {}
    seen = len(packed.times) if until is None else int((packed.times <= until + 1e-6).sum())
    clip = data_url(animation(packed.frames[packed.index[row["video"]]], seen, packed.times), "image/webp")
    kept = {key: sample[key] for key in ("answer", "truth", "confidence")}
    return {**kept, "clip": clip, "question": row["question"], "until": until, "odds": odds}


def animation(frames: NDArray[np.uint8], seen: int, times: NDArray[np.float64]) -> bytes:
    """A clip uint8 [F, S, S, 3] as an animated WebP, with a red rim from frame number `seen` on."""
    frames, held = frames.copy(), BytesIO()
    for rim in (np.s_[:, :1], np.s_[:, -1:], np.s_[:, :, :1], np.s_[:, :, -1:]):
        frames[seen:][rim] = (200, 0, 0)
    pictures, wait = [Image.fromarray(frame) for frame in frames], 1000 * float(np.diff(times).mean())
    pictures[0].save(held, "WEBP", save_all=True, append_images=pictures[1:], duration=round(wait), loop=0, quality=90)
    return held.getvalue()
