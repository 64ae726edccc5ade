"""Who reaches a score with less compute: curves of scores against operations, and the ratio of two sides' operations.

Shapes: B bootstrap resamples of scenes and runs (the first is the figure itself), P points of a curve, L levels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .probe import Question, score_of
from .stats import over_runs, scene_weights

Floats = NDArray[Any]


def resamples_of(question: Question, count: int = 1000) -> Floats:
    """Weights of the clips: all 1, then one row a resample of scenes: [1 + count, n]."""
    return np.concatenate([np.ones((1, len(question.scenes))), *scene_weights(question.scenes, count, 0)])


@dataclass(frozen=True)
class Curve:
    """One run under one probe and variable: operations [P], seconds [P] on its machine, what was told at each point."""

    objective: str
    flops: Floats
    seconds: Floats
    machine: str
    told: list[Floats]

    def scores(self, question: Question, weights: Floats) -> Floats:
        """At every point, in every resample of scenes: [B, P]."""
        return np.stack([score_of(question, told)(weights) for told in self.told], axis=1)


def crossings(flops: Floats, scores: Floats, start: Floats, levels: Floats) -> Floats:
    """The operations at which a curve first reaches each level, in every resample, inf where it never does: [B, L].

    flops [P], scores [B, P]; the curve begins with no operations at random init's score, start [B]; linear between.
    """
    xs = np.concatenate([[0.0], flops])
    ys = np.maximum.accumulate(np.concatenate([start[:, None], scores], axis=1), axis=1)  # [B, P + 1]
    reached = ys[:, :, None] >= levels  # [B, P + 1, L]
    first = reached.argmax(axis=1)  # [B, L]
    rows = np.arange(len(ys))[:, None]
    before = np.maximum(first - 1, 0)
    low, high = ys[rows, before], ys[rows, first]
    share = np.where(high > low, (levels - low) / np.where(high > low, high - low, 1), 1.0)
    at = np.where(first == 0, 0.0, xs[before] + share * (xs[first] - xs[before]))
    return np.where(reached.any(axis=1), at, np.inf)


def resampled(curves: Sequence[Curve], question: Question, weights: Floats, rng: np.random.Generator) -> Floats:
    """Mean scores over an objective's runs, in every resample of scenes and, beyond the first, of runs too: [B, P]."""
    return over_runs(np.stack([curve.scores(question, weights) for curve in curves]), rng)


def ratios(
    jepa: Sequence[Curve], rival: Sequence[Curve], base: Floats, question: Question, levels: int = 9
) -> Floats | None:
    """Log10 of the rival's operations over JEPA's at levels above random init's interval, up to the last that both
    reach, or, where one never gets above it, the other: [B, L].

    base: what random init told. None where neither gets above it. A variable that one side alone learns counts, too:
    left out, the ratio would be of what both can do.
    """
    weights, rng = resamples_of(question), np.random.default_rng(0)
    start = score_of(question, base)(weights)
    ours, theirs = (resampled(side, question, weights, rng) for side in (jepa, rival))
    low = float(np.percentile(start[1:], 97.5))
    above = [top for side in (ours, theirs) if (top := float(side[0].max())) > low]
    if not above:
        return None
    wanted = np.linspace(low, min(above), levels + 1)[1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.log10(crossings(rival[0].flops, theirs, start, wanted))
        return found - np.log10(crossings(jepa[0].flops, ours, start, wanted))


LESS, MORE = "JEPA needs less", "JEPA needs more"
UNKNOWN: dict[str, Any] = {"value": None, "low": None, "high": None}
"""A ratio that nobody knows."""


def verdict(found: Sequence[Floats]) -> dict[str, Any]:
    """Rival's compute over JEPA's: the median over all levels of all measurable curves, each of a variable and a probe,
    and its interval."""
    if not found:
        return UNKNOWN | {"words": "not measurable: nobody beats random init"}
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # a resample in which neither side reaches any level says nothing
        medians = np.nanmedian(np.concatenate(found, axis=1), axis=1)  # [B]
        low, high = np.nanpercentile(medians[1:], (2.5, 97.5), method="nearest")
    numbers = {"value": medians[0], "low": low, "high": high}
    words = LESS if low > 0 else MORE if high < 0 else "the interval carries no verdict"
    told = {name: float(10**log) if np.isfinite(log) else None for name, log in numbers.items()}
    return {**told, "words": words, "curves": len(found), "levels": int(sum(one.shape[1] for one in found))}


CLAIMED = 2.0
"""The least that is claimed in public: a model of pixels needs twice JEPA's compute (published: 2 to 10 times)."""


def half(told: Mapping[str, Any]) -> str:
    """Whether JEPA needs at most half of its rival's compute, as far as a verdict's interval says."""
    out_of_reach = {
        "low": math.inf if told["words"] == LESS else 0.0,
        "high": 0.0 if told["words"] == MORE else math.inf,
    }
    low, high = (beyond if told[end] is None else told[end] for end, beyond in out_of_reach.items())
    return "yes" if low >= CLAIMED else "no" if high < CLAIMED else "not shown"
