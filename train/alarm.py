"""What stops a pretraining run gone wrong: features that say less and less, weights or losses that run away."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from torch import Tensor

from ..perception.gauges import centred_rank, feature_std
from .recipes import PretrainRecipe

LOOK_EVERY = 10
"""Steps between two looks at held-out features: rare enough to cost little, soon enough to fire within 50."""
RANK_KEPT, STD_KEPT = 0.5, 0.3
"""A run has collapsed where its features keep less than this of the most directions, or of the largest spread, that
they have had, untrained ones included (LOG.md has what healthy and sick runs keep)."""
GROWN = 3.0
"""A run diverges where its weights grow to more than this many times their norm between two looks."""
LEAP, WINDOW, FEWEST = 3.0, 50, 20
"""A loss leaps where it is LEAP times the median of the last WINDOW, of which FEWEST must be there."""


class Unhealthy(ArithmeticError):
    """A run that would only get worse: what happened, and what to change."""


@dataclass
class Alarm:
    """What a run has been like so far: its last losses, the most directions and spread that its features had, and the
    norm of its weights at the last look.

    collapses: whether the objective can collapse at all; one that tells pixels, or a frozen teacher's features, cannot.
    """

    recipe: PretrainRecipe
    collapses: bool
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    rank: float = 0.0
    std: float = 0.0
    weights: float = 0.0

    def hear(self, step: int, loss: float) -> None:
        """Take a step's loss. Raises Unhealthy where it leaps."""
        usual = median(self.losses) if len(self.losses) >= FEWEST else float("inf")
        if loss > LEAP * usual:
            raise Unhealthy(
                f"step {step}: the loss leapt to {loss:.3g}, {loss / usual:.1f} times its usual {usual:.3g}: "
                f"{self._calmer()}"
            )
        self.losses.append(loss)

    def weigh(self, step: int, weights: float) -> None:
        """Take the norm of all weights, at every look. Raises Unhealthy where they run away."""
        before, self.weights = self.weights, weights
        if before and weights > GROWN * before:
            raise Unhealthy(
                f"step {step}: the weights grew to {weights / before:.1f} times their norm in {LOOK_EVERY} steps: "
                f"{self._calmer()}"
            )

    def look(self, step: int, tokens: Tensor) -> None:
        """Take the student's last features of held-out clips [n, D]. Raises Unhealthy where they have collapsed."""
        if not self.collapses:
            return
        rank, std = centred_rank(tokens), feature_std(tokens)
        self.rank, self.std = max(self.rank, rank), max(self.std, std)
        if rank < RANK_KEPT * self.rank or std < STD_KEPT * self.std:
            raise Unhealthy(
                f"step {step}: features collapsed: {rank:.1f} directions where there were {self.rank:.1f}, a spread of "
                f"{std:.2f} where it was {self.std:.2f}: {self._remedy()}, or set a lower lr (now {self.recipe.lr:g})"
            )

    def _calmer(self) -> str:
        recipe = self.recipe
        return (
            f"set a lower lr (now {recipe.lr:g}), a longer warmup ({recipe.warmup} steps) or a smaller "
            f"clip_grad ({recipe.clip_grad:g})"
        )

    def _remedy(self) -> str:
        recipe = self.recipe
        if recipe.objective == "lejepa":
            return f"raise sigreg_weight (now {recipe.sigreg_weight:g})"
        slower = f"slow the teacher down (ema_start, now {recipe.ema_start:g})"
        return f"raise variance_weight (now {recipe.variance_weight:g}), {slower}"

    def state(self) -> dict[str, Any]:
        """For a checkpoint: JSON."""
        return {"losses": list(self.losses), "rank": self.rank, "std": self.std, "weights": self.weights}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.losses.extend(state["losses"])
        self.rank, self.std, self.weights = state["rank"], state["std"], state["weights"]
