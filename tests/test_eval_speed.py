"""Claims about memory: what training the embedded model and loading in 4 bits hold above the imports."""

import pytest

from foretell.eval.speed import memory


@pytest.mark.slow
def test_training_and_loading_in_4_bits_stay_small() -> None:
    found = memory()
    assert found["training_embedded"] <= 1.5e9
    assert found["nf4_1b"] <= 1.0e9
