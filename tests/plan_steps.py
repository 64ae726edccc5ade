"""A process of its own that trains a few steps of a recipe's stage and tells the most memory it held above its imports.

python plan_steps.py RECIPE STAGE STEPS [FIELD[=VALUE] ...]
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import peft  # noqa: F401  # `fit.build` imports it late, and imports are not counted

from foretell.eval.speed import steps_held
from foretell.train.learner import train_dtype
from foretell.train.recipes import RECIPES, FitRecipe


def switched(recipe: FitRecipe, switches: Sequence[str]) -> FitRecipe:
    """The recipe with these fields on, or set to what is said."""
    parted = (switch.partition("=") for switch in switches)
    fields: dict[str, Any] = {name: json.loads(value or "true") for name, _, value in parted}
    return replace(recipe, **fields)


def main(name: str, stage: str, steps: int, switches: Sequence[str]) -> None:
    held = steps_held(switched(RECIPES[name](), switches), stage, steps)
    print(json.dumps({"held": held, "dtype": str(train_dtype())}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
