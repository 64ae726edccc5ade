"""Violation of expectation: do the impossible clips of quadruplets surprise a model more than the possible ones?

The metrics of Garrido et al. 2025 (arXiv 2502.11831; `compute_metrics` in the file that `surprise` names): a
clip's score is the average or the maximum of its windows' surprise. Beside every figure stands that of the same encoder
and predictor with nothing learned. Shapes: N clips, W windows a clip, C contexts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..bridge.cache import weights_digest
from ..perception.encoder import resize
from ..perception.video import frame_grid
from ..reasoner.answer import NANO
from ..train.data import Packed, load_clips
from ..train.worlds import PROPERTIES
from .record import Row, digest, line, mark, provenance, readable, rounded, write
from .stats import Figure, Statistic, auroc, figure, mean_of
from .stats import Floats as Weights
from .surprise import Floats, Watcher, contexts_of, errors_of, open_watcher, sliding

LISTING = "violations.jsonl"
STRICT = 0.9  # share of possible clips that the threshold of absolute accuracy lets pass
LEAST = "least"  # the least surprised of all contexts, window by window: "Filtered" in the published code
CLIPS_AT_ONCE = 8
DIGITS = 5  # of a surprise that are more than rounding, in fp32
Track = Callable[[Sequence[int]], Iterator[int]]


def windows_of(watcher: Watcher, packed: Packed, row: int) -> Tensor:
    """A clip's windows on the model's own time grid and at its size: uint8 [W, F, S, S, 3]."""
    count = int((packed.times[-1] + 1e-3) * watcher.rate) + 1
    if count < watcher.window:
        raise ValueError(
            f"clips of {count} frames at {watcher.rate:g} a second: the model wants {watcher.window} or more"
        )
    frames = packed.frames[row][frame_grid(packed.times, watcher.rate, count)]
    squares = resize(torch.from_numpy(frames), int(watcher.config.crop_size))
    return sliding(squares, watcher.window, watcher.tubelet)


def scores_of(watcher: Watcher, packed: Packed, contexts: Sequence[int], track: Track = iter) -> Floats:
    """Surprise of each window of each clip after each context: [N, C, W], the mean over what was foretold.

    Rounded, so that windows which two clips share score alike wherever they lie in a batch.
    """
    found = []
    for start in track(range(0, len(packed.clips), CLIPS_AT_ONCE)):
        rows = range(start, min(start + CLIPS_AT_ONCE, len(packed.clips)))
        windows = torch.cat([windows_of(watcher, packed, row) for row in rows])
        errors = errors_of(watcher, windows, contexts)
        found.append(np.nanmean(errors, axis=2).reshape(len(rows), -1, len(contexts)))
    return np.concatenate(found).transpose(0, 2, 1).round(DIGITS)


def by_context(scores: Floats, contexts: Sequence[int], tubelet: int) -> dict[str, Floats]:
    """Scores [N, W] for each context, named by its frames, and for the least surprised of all, which comes first."""
    each = {f"{context * tubelet} frames": scores[:, row] for row, context in enumerate(contexts)}
    return {LEAST: scores.min(1), **each}


def pairs_of(clips: Sequence[Row]) -> list[tuple[int, int]]:
    """The possible and the impossible clip of each pair, by row: they share all before the break.

    The two pairs of a quadruplet stand side by side. Raises ValueError where a pair is not whole.
    """
    pairs: dict[str, list[int]] = {}
    for row in sorted(range(len(clips)), key=lambda row: not clips[row]["possible"]):
        pairs.setdefault(clips[row]["pair"], []).append(row)
    if broken := [name for name, rows in pairs.items() if [clips[row]["possible"] for row in rows] != [True, False]]:
        raise ValueError(f"{LISTING}: pairs {', '.join(broken[:3])} want one possible and one impossible clip each")
    return [(possible, impossible) for possible, impossible in pairs.values()]


def absolute_accuracy(score: Floats, possible: NDArray[np.bool_]) -> Statistic:
    """Clips told possible from impossible by a threshold that nine in ten of the possible ones stay below."""
    order = np.argsort(score[possible], kind="stable")
    ordered = score[possible][order]

    def statistic(weights: Weights) -> Weights:
        mine = weights[:, possible][:, order]
        before = np.cumsum(mine, axis=1) - mine
        reached = before >= STRICT * mine.sum(1, keepdims=True)
        reached[:, -1] = True
        threshold = ordered[reached.argmax(1)][:, None]  # [B, 1]
        right = np.where(possible, score < threshold, score > threshold)
        accuracy: Weights = (weights * right).sum(1) / weights.sum(1)
        return accuracy

    return statistic


def more_surprised(score: Floats, pairs: NDArray[np.int64]) -> Floats:
    """Whether the second of each pair of rows [P, 2] scores higher: 1, 0, or one half where they score alike.

    The published code counts a tie wrong; but the window with the maximum is often one that both clips share, and
    guessing must score one half.
    """
    return np.asarray((1 + np.sign(score[pairs[:, 1]] - score[pairs[:, 0]])) / 2)


def figures_of(scores: Floats, clips: Sequence[Row]) -> dict[str, Figure]:
    """The published metrics of clips whose windows score [N, W], by name.

    Quadruplet accuracy is after IntPhys' relative error rate (Riochet et al. 2018): both impossible clips together
    against both possible ones. They hold the same frames, so that what merely looks surprising cancels out; within a
    pair it does not, and makes one pair of a quadruplet right and the other wrong.
    """
    pairs = np.array(pairs_of(clips))
    possible = np.array([clip["possible"] for clip in clips])
    scenes = [clip["quadruplet"] for clip in clips]
    paired = [scenes[row] for row in pairs[:, 0]]
    found = {}
    for name, score in (("average", scores.mean(1)), ("maximum", scores.max(1))):
        found[f"relative accuracy, {name}"] = figure(mean_of(more_surprised(score, pairs)), paired, 0.5)
        by_scene = pairs.reshape(-1, 2, 2)  # [quadruplets, pairs of each, possible and impossible]
        whole = more_surprised(score[by_scene].sum(1).ravel(), np.arange(len(pairs)).reshape(-1, 2))
        found[f"quadruplet accuracy, {name}"] = figure(mean_of(whole), paired[::2], 0.5)
        found[f"AUROC, {name}"] = figure(auroc(score, ~possible), scenes, 0.5)
    found["absolute accuracy, maximum"] = figure(absolute_accuracy(scores.max(1), possible), scenes, 0.5)
    return found


def measure(scores: Mapping[str, Floats], clips: Sequence[Row]) -> list[Row]:
    """Every figure of one model: for each property and for all together, each context, each metric."""
    rows = []
    names = [name for name in PROPERTIES if any(clip["property"] == name for clip in clips)]
    for name in ("all", *names):
        which = [row for row, clip in enumerate(clips) if name in ("all", clip["property"])]
        asked = [clips[row] for row in which]
        for context, windows in scores.items():
            for metric, found in figures_of(windows[which], asked).items():
                rows.append({"property": name, "context": context, "metric": metric, **asdict(found)})
    return rows


def run(model: str | Path | None, data: Path, out: Path, *, command: str = "", track: Track = iter) -> dict[str, Any]:
    """Measure a model and its untrained twin on quadruplets; figures to `out`, and a line a clip beside it, from which
    a run that was stopped between the two goes on.

    data: a folder that `foretell worlds --violations` wrote. Raises ValueError where it does not fit the model.
    """
    packed, watcher = load_clips(data, LISTING), open_watcher(model)
    contexts = contexts_of(watcher, watcher.window, None)
    figures, lines = [], out.with_suffix(".clips.jsonl")
    out.parent.mkdir(parents=True, exist_ok=True)
    for name, taker in (("trained", watcher), ("random init", watcher.untrained())):
        scores = _kept(name, taker, packed, contexts, lines, track)
        named = by_context(scores, contexts, watcher.tubelet)
        figures += [{"model": name, **row} for row in measure(named, packed.clips)]
    protocol = {
        "objective": watcher.objective, "weights": mark(model or NANO), "window": watcher.window,
        "stride": watcher.tubelet, "contexts": [context * watcher.tubelet for context in contexts],
    }  # fmt: skip
    found = {**provenance(command), "data": _data(packed), "protocol": protocol, "figures": figures}
    write(out, json.dumps(rounded(found), indent=1) + "\n")
    return found


def _kept(name: str, taker: Watcher, packed: Packed, contexts: Sequence[int], lines: Path, track: Track) -> Floats:
    """As `scores_of`; those on file of the same weights and clips are not computed again."""
    own = mark(weights_digest(taker.student, [taker.objective, *contexts]), digest(packed.root / LISTING))
    rows = list(readable(lines))
    found = {row["video"]: row["surprise"] for row in rows if row.get("mark") == own}
    if all(clip["video"] in found for clip in packed.clips):
        return np.array([found[clip["video"]] for clip in packed.clips])
    scores = scores_of(taker, packed, contexts, track)
    told = [
        {"model": name, "mark": own, "video": clip["video"], "possible": clip["possible"], "surprise": one.tolist()}
        for clip, one in zip(packed.clips, scores, strict=True)
    ]
    write(lines, "".join(map(line, [*(row for row in rows if row["model"] != name), *told])))
    return scores


def _data(packed: Packed) -> dict[str, Any]:
    """What was measured on: enough to make it again and to see that it is the same."""
    seeds = [clip["seed"] for clip in packed.clips]
    quadruplets = len({clip["quadruplet"] for clip in packed.clips})
    listing = digest(packed.root / LISTING)
    return {
        "clips": len(packed.clips),
        "quadruplets": quadruplets,
        "seeds": [min(seeds), max(seeds)],
        "sha256": listing,
    }


def table(found: Mapping[str, Any]) -> str:
    """As `rows_of`, in Markdown."""
    head, *rows = rows_of(found)
    written = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in written)


def rows_of(found: Mapping[str, Any]) -> list[list[str]]:
    """Accuracy on pairs and quadruplets by property, trained beside random init, under a head: the first context."""
    shown = ("relative accuracy, average", "relative accuracy, maximum", "quadruplet accuracy, average")
    cells = {(row["property"], row["model"], row["metric"]): row for row in found["figures"] if row["context"] == LEAST}
    columns = [(model, metric) for model in ("trained", "random init") for metric in shown]
    lines = [["property", "pairs", "chance", *(f"{model}: {metric}" for model, metric in columns)]]
    for name in dict.fromkeys(name for name, _, _ in cells):
        row = [cells[name, model, metric] for model, metric in columns]
        told = [f"{100 * one['value']:.1f} [{100 * one['low']:.1f}, {100 * one['high']:.1f}]" for one in row]
        lines.append([name, str(row[0]["n"]), f"{100 * row[0]['chance']:.1f}", *told])
    return lines
