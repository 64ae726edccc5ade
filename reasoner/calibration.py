"""How sure an answer may be called: temperature and abstention threshold, fitted on a validation split.

Shapes: N questions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def surest_first(confidence: ArrayLike, right: ArrayLike) -> tuple[NDArray[np.int64], Floats, NDArray[np.bool_]]:
    """Order by falling confidence; each one's error there, shared evenly among equals; where a run of equals ends."""
    stated, wrong = np.asarray(confidence, dtype=np.float64), 1.0 - np.asarray(right, dtype=np.float64)
    order = np.argsort(-stated, kind="stable")
    _, tie = np.unique(-stated[order], return_inverse=True)
    shared = np.bincount(tie, wrong[order]) / np.bincount(tie)
    return order, shared[tie], np.append(tie[1:] != tie[:-1], True)


def fit_temperature(logits: Sequence[ArrayLike], truth: Sequence[int]) -> float:
    """The one divisor of all logits under which the validation answers are likeliest (Guo et al. 2017, section 4.2).

    `logits`: for each question one score an option (any number of options); `truth`: the index of the right option.
    Searched between e^-4 and e^4.
    """
    from scipy.special import log_softmax

    rows = [np.asarray(row, dtype=np.float64) for row in logits]
    if not rows or len(rows) != len(truth):
        raise ValueError(f"{len(rows)} rows of logits and {len(truth)} true options: give one of each a question")
    padded = np.full((len(rows), max(map(len, rows))), -np.inf)  # [N, most options]
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    at_truth = np.arange(len(rows)), np.asarray(truth)

    return _best_temperature(lambda heat: -float(log_softmax(padded / heat, axis=1)[at_truth].mean()))


def fit_written_temperature(log_chance: ArrayLike, right: ArrayLike) -> float:
    """The divisor of the log-probabilities of whole generated texts under which it is likeliest that those of them are
    right that are: how likely a text is, to the power of 1 / temperature, is how often such texts are right.

    Searched between e^-4 and e^4.
    """
    stated, hit = np.asarray(log_chance, dtype=np.float64), np.asarray(right, dtype=bool)
    if not len(stated) or stated.shape != hit.shape:
        raise ValueError(f"{len(stated)} texts and {len(hit)} judgements: give one of each a question")
    stated = np.minimum(stated, -1e-9)  # a text that cannot be otherwise may still be wrong

    def loss(heat: float) -> float:
        return -float(np.where(hit, stated / heat, np.log(-np.expm1(stated / heat))).mean())

    return _best_temperature(loss)


def _best_temperature(loss: Callable[[float], float]) -> float:
    """The temperature of least loss between e^-4 and e^4."""
    from scipy.optimize import minimize_scalar

    found: Any = minimize_scalar(
        lambda log: loss(float(np.exp(log))), bounds=(-4.0, 4.0), method="bounded", options={"xatol": 1e-4}
    )
    return float(np.exp(found.x))


def abstention_threshold(confidence: ArrayLike, right: ArrayLike, *, target: float = 0.9, at_least: int = 50) -> float:
    """The lowest confidence at which to answer such that, on validation, `target` of the given answers are right.

    Counted over every answer at or above the threshold, and only where there are `at_least` of them (fewer are luck).
    1.0, nearly always abstaining, where no threshold reaches the target.
    """
    order, wrong, last = surest_first(confidence, right)
    given = np.arange(1, len(wrong) + 1)
    good = np.flatnonzero(last & (given >= at_least) & (1.0 - np.cumsum(wrong) / given >= target - 1e-12))
    return float(np.asarray(confidence, dtype=np.float64)[order[good[-1]]]) if len(good) else 1.0
