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
    over_runs,
    reliability,
    risk_coverage,
    spearman,
    versus,
    with_runs,
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


def few_runs(rng: np.random.Generator, resamples: int = 400) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Three runs' figures around 0, far apart, and the same scenes' luck in every resample: [3, 1 + B]."""
    runs, scenes = rng.normal(0, 1, (3, 1)), rng.normal(0, 0.3, resamples + 1)
    scenes[1:] += scenes[0]
    return runs + scenes


def test_an_interval_over_three_runs_covers_the_truth_as_often_as_it_claims() -> None:
    rng = np.random.default_rng(0)
    found = [with_runs(scores.mean(0), scores[:, 0]) for scores in (few_runs(rng) for _ in range(400))]
    assert 0.93 < np.mean([one["low"] < 0 < one["high"] for one in found]) < 0.985
    assert np.mean([one["p"] < 0.01 for one in found]) < 0.025


def test_two_sides_of_three_runs_differ_by_luck_no_oftener_than_p_says() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(400):
        ours, theirs = few_runs(rng), rng.normal(0, 1, (3, 1)) + rng.normal(0, 0.1, 401)
        found.append(with_runs(ours.mean(0) - theirs.mean(0), ours[:, 0], theirs[:, 0]))
    assert 0.93 < np.mean([one["low"] < 0 < one["high"] for one in found]) < 0.99
    assert np.mean([one["p"] < 0.05 for one in found]) < 0.07


def test_runs_that_agree_leave_the_scenes_interval() -> None:
    scenes = np.concatenate([[0.3], np.random.default_rng(0).normal(0.3, 0.1, 20_000)])
    alone, alike = with_runs(scenes, np.array([0.3])), with_runs(scenes, np.array([0.3, 0.3, 0.3]))
    assert alone == alike and alone["value"] == 0.3
    assert (alone["high"] - alone["low"]) / 2 == pytest.approx(1.96 * 0.1, rel=0.02)
    assert alone["p"] == pytest.approx(0.0027, rel=0.1)


def test_curves_of_few_runs_are_drawn_as_far_apart_as_those_leave_open() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        runs = rng.normal(0, 1, (3, 1, 2))  # two points of a curve
        drawn = over_runs(np.repeat(runs, 401, axis=1), rng)
        assert drawn[0] == pytest.approx(runs[:, 0].mean(0))
        low, high = np.percentile(drawn[1:], (2.5, 97.5), axis=0)
        covered.append((low < 0) & (high > 0))
    assert (np.abs(np.mean(covered, axis=0) - 0.95) < 0.03).all()
    assert over_runs(rng.normal(0, 1, (1, 5)), rng).shape == (5,)


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
