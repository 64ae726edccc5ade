"""A process of its own that trains a few steps of a recipe's stage and tells the most memory it held above its imports.

python plan_steps.py RECIPE STAGE STEPS [SWITCH ...]
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft  # noqa: F401  # `fit.build` imports it late, and imports are not counted
from torch import nn

from foretell.perception.encoder import VJEPA2World
from foretell.reasoner.answer import NANO
from foretell.train import fit
from foretell.train.learner import train_dtype
from foretell.train.plan import stand_in
from foretell.train.recipes import RECIPES, FitRecipe


def status(field: str) -> int:
    """A figure of this process, in bytes: VmRSS (now), VmHWM (the most since `forget`)."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(field))
    return int(line.split()[1]) * 1024


def forget() -> None:
    """Let VmHWM begin anew: what loading took for a moment is no part of a step."""
    Path("/proc/self/clear_refs").write_text("5")


def switched(recipe: FitRecipe, switches: Sequence[str]) -> FitRecipe:
    """The recipe with these fields on."""
    fields: dict[str, Any] = dict.fromkeys(switches, True)
    return replace(recipe, **fields)


def main(name: str, stage_name: str, steps: int, switches: Sequence[str]) -> None:
    recipe, imported = switched(RECIPES[name](), switches), status("VmRSS")
    trainee, _ = fit.build(recipe, VJEPA2World.from_pretrained(NANO / "encoder"), None)
    stage = recipe.stages[stage_name]
    optimizer = fit.optimizer_of(fit.trained(trainee, stage_name), stage)
    batch = stand_in(trainee, recipe, stage, 1, "cpu")
    trainee.train()
    forget()
    for _ in range(steps):
        fit.gradients(trainee, batch, stage)
        nn.utils.clip_grad_norm_([p for p in trainee.parameters() if p.requires_grad], recipe.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    print(json.dumps({"held": status("VmHWM") - imported, "dtype": str(train_dtype())}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
