"""Imports transformers without two packages that it would load for nothing here: a second of start-up less.

scikit-learn serves its assisted decoding, SciPy (with pandas behind them) its losses for object detectors. Both are
optional to it, so for the moment of its import they look as if they were not installed.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Packages that are not imported yet cannot be found."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None is Python's mark for "not there"
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


with hidden("sklearn", "scipy", "pandas"):
    import transformers.generation.utils
    import transformers.loss.loss_utils
    import transformers.modeling_utils  # noqa: F401
