"""What a score is worth: each figure comes with an interval clustered by scene, its n and its chance.

Shapes: N questions, S scenes, B bootstrap resamples. A *statistic* maps the weights of the questions [B, N] to values
[B], so one definition gives the figure (all weights 1) and its interval (weights: how often a resample drew the scene).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, t

from ..reasoner.calibration import surest_first

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
BINS = 15
ROWS_AT_ONCE = 250  # resamples held in memory together: 250 x 10,000 questions is 20 MB


@dataclass(frozen=True)
class Figure:
    """A measured value with its 95% interval, the number of questions behind it, and what guessing would score."""

    value: float
    low: float
    high: float
    n: int
    chance: float | None


def figure(
    statistic: Statistic, scenes: Sequence[str], chance: float | None, *, resamples: int = 2000, seed: int = 0
) -> Figure:
    """Measure a statistic with the percentile bootstrap over whole scenes (Efron & Tibshirani 1993, ch. 13).

    Questions about one scene stand or fall together; resampling them one by one would make the interval too narrow.
    """
    if not scenes:
        raise ValueError("no questions to measure: give at least one")
    drawn = np.concatenate([statistic(weights) for weights in scene_weights(scenes, resamples, seed)])  # [B]
    low, high = np.percentile(drawn, (2.5, 97.5))
    value = statistic(np.ones((1, len(scenes))))[0]
    return Figure(float(value), float(low), float(high), len(scenes), chance)


def scene_weights(scenes: Sequence[str], resamples: int, seed: int) -> Iterator[Floats]:
    """How often each question is drawn when scenes are drawn with replacement: blocks of [<=ROWS_AT_ONCE, N]."""
    names, scene_of = np.unique(np.asarray(scenes), return_inverse=True)
    random = np.random.default_rng(seed)
    for start in range(0, resamples, ROWS_AT_ONCE):
        rows = min(ROWS_AT_ONCE, resamples - start)
        drawn = random.integers(len(names), size=(rows, len(names))) + len(names) * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * len(names)).reshape(rows, len(names))  # [rows, S]
        yield counts[:, scene_of].astype(np.float64)


def over_runs(scores: Floats, rng: np.random.Generator) -> Floats:
    """Means over R runs in every resample; all but the first, which is the figure itself, lie off by what R runs leave
    open: Student's t with R - 1 degrees of freedom along the runs' own deviations: [R, B, ...] -> [B, ...].

    Drawing three runs anew would show two thirds of their variance, and take it for known. One run says nothing of it.
    """
    mean: Floats = scores.mean(axis=0)
    if len(scores) == 1:
        return mean
    runs, count = scores.shape[:2]
    off = rng.standard_normal((runs, count)) / np.sqrt(rng.chisquare(runs - 1, count) * runs)
    off[:, 0] = 0.0
    drawn: Floats = mean + np.einsum("rb,rb...->b...", off, scores - mean)
    return drawn


def with_runs(drawn: Floats, *sides: Floats) -> dict[str, float]:
    """A figure that rests on few runs of one side or of two, its 95% interval over scenes and runs, and the chance p of
    one as far from 0 where there is nothing.

    drawn [B]: the figure, then its resamples of scenes with all runs. sides: each side's figures by run [R]. Variances
    add up, with as many degrees of freedom as Welch and Satterthwaite say; a side of one run adds nothing.
    """
    between = [(side.var(ddof=1) / len(side), len(side) - 1) for side in sides if len(side) > 1]
    variance = max(drawn[1:].var() + sum(part for part, _ in between), 1e-18)
    known = sum(part**2 / freedom for part, freedom in between)
    freedom = variance**2 / known if known else np.inf
    half = t.ppf(0.975, freedom) * variance**0.5
    p = 2 * t.sf(abs(drawn[0]) / variance**0.5, freedom)
    return {"value": float(drawn[0]), "low": float(drawn[0] - half), "high": float(drawn[0] + half), "p": float(p)}


def mean_of(values: ArrayLike) -> Statistic:
    """The plain mean: of rights and wrongs it is the accuracy, of squared errors the Brier score."""
    column = np.asarray(values, dtype=np.float64)  # [N]
    return lambda weights: (weights @ column) / weights.sum(1)


def balanced_accuracy(right: ArrayLike, truth: Sequence[str]) -> Statistic:
    """The mean over true answers of the share got right: always saying the same scores 1 / number of answers.

    As sklearn's `balanced_accuracy_score`, from rights and wrongs, so that a missing answer is simply wrong. A true
    answer that a resample did not draw is left out of that resample's mean.
    """
    is_class = np.equal.outer(np.asarray(truth), np.unique(np.asarray(truth))).astype(np.float64)  # [N, classes]
    hits = is_class * np.asarray(right, dtype=np.float64)[:, None]

    def statistic(weights: Floats) -> Floats:
        count = weights @ is_class  # [B, classes]
        recall = np.divide(weights @ hits, count, out=np.zeros_like(count), where=count > 0)
        balanced: Floats = recall.sum(1) / (count > 0).sum(1)
        return balanced

    return statistic


def auroc(score: ArrayLike, positive: ArrayLike) -> Statistic:
    """How often a positive scores higher than a negative, ties one half: the area under the ROC curve.

    As sklearn's `roc_auc_score` with sample weights (Hanley & McNeil 1982). A resample without one of both has 1/2.
    """
    stated, is_positive = np.asarray(score, dtype=np.float64), np.asarray(positive, dtype=bool)
    above, below = stated[is_positive], stated[~is_positive]
    wins = (above[:, None] > below) + 0.5 * (above[:, None] == below)  # [P, N]

    def statistic(weights: Floats) -> Floats:
        won = (weights[:, is_positive] @ wins * weights[:, ~is_positive]).sum(1)
        pairs = weights[:, is_positive].sum(1) * weights[:, ~is_positive].sum(1)
        area: Floats = np.divide(won, pairs, out=np.full_like(won, 0.5), where=pairs > 0)
        return area

    return statistic


def spearman(one: ArrayLike, other: ArrayLike) -> Statistic:
    """Rank correlation (Spearman 1904), ties at their mean rank: as scipy's `spearmanr` of a resample's points.

    A resample in which either does not vary says nothing: 0.
    """
    below = [_below(np.asarray(values, dtype=np.float64)) for values in (one, other)]

    def statistic(weights: Floats) -> Floats:
        total = weights.sum(1, keepdims=True)
        ranks = [weights @ matrix for matrix in below]  # [B, N], up to a constant
        x, y = (rank - (weights * rank).sum(1, keepdims=True) / total for rank in ranks)
        spread = np.sqrt((weights * x**2).sum(1) * (weights * y**2).sum(1))
        told: Floats = np.divide((weights * x * y).sum(1), spread, out=np.zeros_like(spread), where=spread > 1e-9)
        return told

    return statistic


def _below(values: Floats) -> Floats:
    """Which value, by row, lies below which, by column; of ties a half: [N, N]."""
    below: Floats = (values[:, None] < values) + 0.5 * (values[:, None] == values)
    return below


def brier(probability: ArrayLike, outcome: ArrayLike) -> Statistic:
    """Mean squared distance of the stated probability from what happened (0 or 1); 0.25 for always saying one half."""
    return mean_of((np.asarray(probability, dtype=np.float64) - np.asarray(outcome, dtype=np.float64)) ** 2)


def _bin_of(confidence: Floats, bins: int) -> NDArray[np.int64]:
    """The equal-width bin (b/bins, (b+1)/bins] of each confidence; 0 belongs to the first."""
    inner = np.arange(1, bins) / bins
    return np.searchsorted(inner, confidence, side="left").astype(np.int64)


def ece(confidence: ArrayLike, right: ArrayLike, bins: int = BINS) -> Statistic:
    """Expected calibration error: how far confidence is from accuracy, over equal-width bins weighted by their count.

    Guo et al. 2017 (arXiv 1706.04599), section 2. Noise inside bins only adds to it, so its interval leans upwards.
    """
    stated = np.asarray(confidence, dtype=np.float64)
    in_bin = np.equal.outer(_bin_of(stated, bins), np.arange(bins)).astype(np.float64)  # [N, bins]
    gap = in_bin * (stated - np.asarray(right, dtype=np.float64))[:, None]
    return lambda weights: np.abs(weights @ gap).sum(1) / weights.sum(1)


def reliability(confidence: ArrayLike, right: ArrayLike, bins: int = BINS) -> list[dict[str, float]]:
    """The filled bins of a reliability diagram: mean confidence, accuracy and count of each."""
    stated, hit = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    index = _bin_of(stated, bins)
    return [
        {"confidence": float(stated[index == b].mean()), "accuracy": float(hit[index == b].mean()), "n": count}
        for b, count in enumerate(np.bincount(index, minlength=bins).tolist())
        if count
    ]


def risk_coverage(confidence: ArrayLike, right: ArrayLike) -> tuple[Floats, Floats]:
    """Share answered [N] and share of those that are wrong [N], when only the surest k answers are given (k = 1..N).

    El-Yaniv & Wiener 2010. Answers of equal confidence have no order: they share their errors evenly.
    """
    _, wrong, _ = surest_first(confidence, right)
    count = np.arange(1, len(wrong) + 1)
    return count / len(wrong), np.cumsum(wrong) / count


def aurc(confidence: ArrayLike, right: ArrayLike) -> Statistic:
    """Area under the risk-coverage curve: the mean risk over all coverages; the error rate if confidence is useless."""
    order, wrong, _ = surest_first(confidence, right)

    def statistic(weights: Floats) -> Floats:
        ordered = weights[:, order]
        given = np.cumsum(ordered, axis=1)
        risk = np.divide(np.cumsum(ordered * wrong, axis=1), given, out=np.zeros_like(given), where=given > 0)
        area: Floats = (ordered * risk).sum(1) / given[:, -1]
        return area

    return statistic


def versus(ours: Sequence[bool], theirs: Sequence[bool], scenes: Sequence[str]) -> dict[str, Any]:
    """Two takers on the same questions: the difference of their shares right with its interval over scenes, the
    questions that only one got right, and McNemar's exact p for them (two-sided)."""
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    only_ours, only_theirs = int((a > b).sum()), int((b > a).sum())
    discordant = only_ours + only_theirs
    p = float(binomtest(only_ours, discordant).pvalue) if discordant else 1.0
    difference = asdict(figure(mean_of(a - b), scenes, 0.0))
    return {"difference": difference, "only_model": only_ours, "only_other": only_theirs, "p": p}


def holm(ps: Sequence[float]) -> list[float]:
    """P-values adjusted for being many, so that any below alpha may be called a finding (Holm 1979)."""
    order = np.argsort(ps)
    steps = np.maximum.accumulate(np.asarray(ps, dtype=np.float64)[order] * np.arange(len(ps), 0, -1))
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(steps, 1.0)
    return [float(p) for p in adjusted]
