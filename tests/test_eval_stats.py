"""Each statistic against a value worked out by hand, or against the library that defines it."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, roc_auc_score

from foretell.eval.stats import (
    Statistic,
    aurc,
    auroc,
    balanced_accuracy,
    brier,
    ece,
    figure,
    holm,
    mean_of,
    reliability,
    risk_coverage,
    spearman,
    versus,
)


def value(statistic: Statistic, n: int) -> float:
    return float(statistic(np.ones((1, n)))[0])


def own(n: int) -> list[str]:
    """Each question its own scene."""
    return [f"scene-{i}" for i in range(n)]


def test_accuracy_is_the_share_of_rights() -> None:
    assert value(mean_of([1, 1, 1, 0]), 4) == 0.75


def test_rank_correlation_is_scipys_of_the_points_that_a_resample_drew() -> None:
    random = np.random.default_rng(0)
    one, other = random.integers(9, size=30), random.integers(9, size=30) + np.arange(30) / 8  # ties in one
    weights = np.concatenate([np.ones((1, 30)), random.integers(4, size=(3, 30))])
    drawn = [np.repeat(np.arange(30), row.astype(int)) for row in weights]
    expected = [spearmanr(one[rows], other[rows]).statistic for rows in drawn]
    assert spearman(one, other)(weights).tolist() == pytest.approx(expected)
    assert value(spearman(np.ones(5), np.arange(5)), 5) == 0


def test_auroc_is_sklearns_weights_included() -> None:
    random = np.random.default_rng(0)
    positive, score = random.integers(2, size=40), random.integers(6, size=40)  # many ties
    weights = random.integers(4, size=(3, 40)).astype(float)
    expected = [roc_auc_score(positive, score, sample_weight=row) for row in weights]
    assert auroc(score, positive)(weights).tolist() == pytest.approx(expected)
    assert auroc(score, positive)(positive[None].astype(float)).tolist() == [0.5]


def test_always_yes_scores_one_half_balanced_however_many_are_yes() -> None:
    truth = ["yes"] * 9 + ["no"]
    right = [t == "yes" for t in truth]
    assert value(balanced_accuracy(right, truth), 10) == 0.5


def test_balanced_accuracy_is_sklearns() -> None:
    random = np.random.default_rng(0)
    truth = random.choice(["yes", "no", "left"], 200)
    guess = random.choice(["yes", "no", "left"], 200)
    ours = value(balanced_accuracy(truth == guess, truth.tolist()), 200)
    assert ours == pytest.approx(balanced_accuracy_score(truth, guess))


def test_a_class_no_resample_holds_is_left_out_of_its_mean() -> None:
    statistic = balanced_accuracy([True, False], ["yes", "no"])
    assert statistic(np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])).tolist() == [1.0, 0.0, 0.5]


def test_brier_by_hand_and_by_sklearn() -> None:
    stated, happened = [0.9, 0.4, 0.5], [1, 0, 1]
    assert value(brier(stated, happened), 3) == pytest.approx((0.01 + 0.16 + 0.25) / 3)
    assert value(brier(stated, happened), 3) == pytest.approx(brier_score_loss(happened, stated))


def test_perfect_calibration_has_no_error() -> None:
    confidence = [0.75] * 4 + [0.5] * 2
    right = [1, 1, 1, 0, 1, 0]
    assert value(ece(confidence, right), 6) == 0.0


def test_ece_by_hand() -> None:
    # bins of one fifth: (.8, 1] holds .9 and 1.0, half right; (.4, .6] holds .6 (its upper edge) and .5, all right
    confidence, right = [0.9, 1.0, 0.6, 0.5], [1, 0, 1, 1]
    assert value(ece(confidence, right, bins=5), 4) == pytest.approx(0.5 * (0.95 - 0.5) + 0.5 * (1 - 0.55))


def test_reliability_bins_tell_the_same_story_as_ece() -> None:
    random = np.random.default_rng(1)
    confidence = random.uniform(0, 1, 300)
    right = random.uniform(0, 1, 300) < 0.6
    bins = reliability(confidence, right)
    gap = sum(b["n"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / 300
    assert gap == pytest.approx(value(ece(confidence, right), 300))


def test_risk_coverage_by_hand() -> None:
    coverage, risk = risk_coverage([0.6, 0.9, 0.8, 0.7], [0, 1, 1, 0])
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert value(aurc([0.6, 0.9, 0.8, 0.7], [0, 1, 1, 0]), 4) == pytest.approx((1 / 3 + 1 / 2) / 4)


def test_a_confidence_that_says_nothing_has_the_error_rate_as_its_area() -> None:
    assert value(aurc([0.5] * 4, [0, 0, 0, 1]), 4) == pytest.approx(0.75)


def test_the_interval_covers_the_truth_as_often_as_it_claims() -> None:
    random = np.random.default_rng(2)
    covered = 0
    for trial in range(100):
        right = random.uniform(size=150) < 0.7
        found = figure(mean_of(right), own(150), 0.5, resamples=400, seed=trial)
        covered += found.low <= 0.7 <= found.high
    assert 88 <= covered <= 100


def test_the_interval_of_independent_questions_is_the_binomial_one() -> None:
    right = [True] * 320 + [False] * 80
    found = figure(mean_of(right), own(400), 0.5)
    half = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert (found.value, found.n, found.chance) == (0.8, 400, 0.5)
    assert found.low == pytest.approx(0.8 - half, abs=0.006)
    assert found.high == pytest.approx(0.8 + half, abs=0.006)


def test_asking_a_scene_nine_times_does_not_narrow_the_interval() -> None:
    right = np.random.default_rng(3).uniform(size=100) < 0.7
    once = figure(mean_of(right), own(100), 0.5)
    nine = figure(mean_of(np.repeat(right, 9)), np.repeat(own(100), 9).tolist(), 0.5)
    naive = figure(mean_of(np.repeat(right, 9)), own(900), 0.5)
    assert (nine.low, nine.high) == (once.low, once.high)
    assert nine.high - nine.low > 2.5 * (naive.high - naive.low)


def test_the_same_seed_gives_the_same_interval_and_another_does_not() -> None:
    error = np.random.default_rng(4).uniform(size=97)
    assert figure(mean_of(error), own(97), None) == figure(mean_of(error), own(97), None)
    assert figure(mean_of(error), own(97), None) != figure(mean_of(error), own(97), None, seed=1)


def test_no_questions_is_an_error() -> None:
    with pytest.raises(ValueError, match="no questions"):
        figure(mean_of([]), [], None)


def test_two_takers_are_compared_on_the_questions_that_only_one_got_right() -> None:
    ours, theirs = [True] * 9 + [False] + [True] * 10, [False] * 9 + [True] + [True] * 10
    found = versus(ours, theirs, own(20))
    assert (found["only_model"], found["only_other"]) == (9, 1)
    assert found["p"] == pytest.approx(2 * 11 / 2**10)  # 0 or 1 of ten fair coins, both sides
    assert found["difference"]["value"] == pytest.approx(0.4) and found["difference"]["low"] > 0
    assert versus(ours, ours, own(20))["p"] == 1.0


def test_many_p_values_are_adjusted_as_holm_says() -> None:
    assert holm([0.01, 0.04, 0.03, 0.9]) == pytest.approx([0.04, 0.09, 0.09, 0.9])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0]) and holm([]) == []
