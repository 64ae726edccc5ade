"""Claims about calibration: a known temperature is recovered, the threshold keeps its promise."""

import numpy as np
import pytest

from foretell.reasoner.calibration import abstention_threshold, fit_temperature, fit_written_temperature


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    random = np.random.default_rng(5)
    sharp = [random.normal(size=random.integers(2, 5)) * 2 for _ in range(6000)]
    chance = [np.exp(row) / np.exp(row).sum() for row in sharp]
    truth = [int(random.choice(len(p), p=p)) for p in chance]
    assert fit_temperature([row * temperature for row in sharp], truth) == pytest.approx(temperature, rel=0.06)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_how_likely_a_text_is_becomes_how_often_such_texts_are_right(temperature: float) -> None:
    random = np.random.default_rng(6)
    chance = random.uniform(0.05, 1.0, size=6000)
    right = random.random(6000) < chance
    assert fit_written_temperature(np.log(chance) * temperature, right) == pytest.approx(temperature, rel=0.06)
    certain = fit_written_temperature([0.0, 0.0, -0.1], [True, False, True])
    assert np.isfinite(certain), "a text of probability 1 may be wrong"
    with pytest.raises(ValueError, match="1 texts and 2 judgements"):
        fit_written_temperature([-0.1], [True, False])


def test_temperature_asks_for_one_truth_a_row() -> None:
    with pytest.raises(ValueError, match="1 rows of logits and 2 true options"):
        fit_temperature([[0.0, 1.0]], [0, 1])


def test_the_threshold_is_the_lowest_that_keeps_the_promise() -> None:
    confidence = [0.95, 0.9, 0.85, 0.8, 0.7, 0.6]
    right = [1, 1, 1, 0, 1, 0]
    # answering the top 5 gives 4/5 right; all 6 only 4/6
    assert abstention_threshold(confidence, right, target=0.8, at_least=1) == 0.7
    assert abstention_threshold(confidence, right, target=0.9, at_least=1) == 0.85
    assert abstention_threshold(confidence, right, target=0.9, at_least=4) == 1.0


def test_the_threshold_never_parts_equal_confidences() -> None:
    assert abstention_threshold([0.9, 0.9, 0.5], [1, 0, 0], target=0.9, at_least=1) == 1.0
