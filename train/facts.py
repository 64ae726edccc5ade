"""Direct supervision of the bridge from a world's metadata: facts as classes, object places as numbers.

Only the warm-up uses it, and users' data need not have it: the heads are thrown away after training.
"""

from bisect import bisect
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..bridge.projector import Reader

Row = dict[str, Any]
AHEAD = (0.5, 1.0)  # seconds after the last shown frame at which places are asked for
OUTCOME_WEIGHT = 4.0  # of the one fact that most questions are about, beside 1 for every other
MARGINS = (-0.08, -0.04, 0.0, 0.04, 0.08)  # metres: classes of how far a centre of mass lies inside its support
GAPS = (1.1, 1.5, 2.5)  # classes of two objects' closest approach, in sums of their half sizes
MISSING = -100


def facts_of(clip: Row) -> dict[str, str]:
    """What is true of a clip, as names and values of finite vocabularies."""
    scenario = clip["scenario"]
    facts = {f"{scenario}/{name}": str(value) for name, value in clip["facts"].items()}
    for level, margin in enumerate(clip["notes"].get("margins", ())):
        facts[f"{scenario}/margin/{level}"] = str(bisect(MARGINS, margin))
    if scenario == "collide":
        facts["collide/gap"] = str(bisect(GAPS, closest(clip, 0, 1)))
    shapes = {one["colour"]: one["shape"] for one in clip["objects"]}
    facts |= {f"shape/{colour}": shape for colour, shape in shapes.items()}
    return facts | {f"{scenario}/outcome": str(clip["outcome"]["value"]), "count": str(len(clip["objects"]))}


def closest(clip: Row, one: int, other: int) -> float:
    """The smallest distance of two objects' centres after the last shown frame, in sums of their half sizes."""
    centres = np.array(clip["states"])[round(clip["until"] * clip["fps"]) :, :, :3]  # [F, n, 3]
    sizes = clip["objects"][one]["half"][0] + clip["objects"][other]["half"][0]
    return float(np.linalg.norm(centres[:, one] - centres[:, other], axis=-1).min() / sizes)


def places_of(clip: Row) -> dict[str, list[float]]:
    """For each colour: its place in the image (0..1) at the last shown frame, then its moves until each of AHEAD."""
    uv = np.array(clip["states"])[:, :, 7:]  # [F, n, 2]
    frames = [min(round((clip["until"] + ahead) * clip["fps"]), len(uv) - 1) for ahead in (0.0, *AHEAD)]
    now, *later = uv[frames].clip(-0.5, 1.5)
    columns = np.concatenate([now, *(2 * (then - now) for then in later)], axis=-1)  # [n, 2 + 2 * len(AHEAD)]
    return {one["colour"]: column.tolist() for one, column in zip(clip["objects"], columns, strict=True)}


@dataclass(frozen=True)
class FactSpace:
    """Every fact name with its possible values, and the colours whose places are asked for."""

    values: dict[str, list[str]]
    colours: list[str]

    @classmethod
    def of(cls, clips: Sequence[Row]) -> "FactSpace":
        """The vocabulary of a training set; a colour that is not there has the shape 'absent'."""
        seen: dict[str, set[str]] = defaultdict(set)
        for clip in clips:
            for name, value in facts_of(clip).items():
                seen[name].add(value)
        colours = sorted(name.split("/")[1] for name in seen if name.startswith("shape/"))
        for colour in colours:
            seen[f"shape/{colour}"].add("absent")
        return cls({name: sorted(values) for name, values in sorted(seen.items()) if len(values) > 1}, colours)

    def targets(self, clips: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Class indices int64 [N, facts] (MISSING where undefined) and places [N, colours, P] (NaN where absent)."""
        classes = torch.full((len(clips), len(self.values)), MISSING)
        places = torch.full((len(clips), len(self.colours), 2 + 2 * len(AHEAD)), float("nan"))
        for n, clip in enumerate(clips):
            facts = {f"shape/{colour}": "absent" for colour in self.colours} | facts_of(clip)
            for k, (name, values) in enumerate(self.values.items()):
                if facts.get(name) in values:
                    classes[n, k] = values.index(facts[name])
            for colour, place in places_of(clip).items():
                if colour in self.colours:
                    places[n, self.colours.index(colour)] = torch.tensor(place)
        return classes, places


class FactHeads(nn.Module):
    """A learned query a fact reads the bridge's pooled tokens; linear layers name its value, and colours' places."""

    def __init__(self, space: FactSpace, width: int, heads: int) -> None:
        super().__init__()
        self.space = space
        self.queries = nn.Parameter(torch.randn(len(space.values), width) * 0.5)
        self.reader = Reader(width, heads)
        self.norm = nn.LayerNorm(width)
        self.classes = nn.ModuleList(nn.Linear(width, len(values)) for values in space.values.values())
        self.places = nn.Linear(width, 2 + 2 * len(AHEAD))
        names = list(space.values)
        self.weights = [OUTCOME_WEIGHT if name.endswith("/outcome") else 1.0 for name in names]
        self.coloured = [names.index(f"shape/{colour}") for colour in space.colours]

    def forward(self, pooled: Tensor) -> tuple[list[Tensor], Tensor]:
        """pooled [B, K, D] -> a list of logits [B, values] a fact, places [B, colours, P]; float32."""
        read = self.norm(self.reader(self.queries, pooled))  # [B, facts, D]
        logits = [head(read[:, k]).float() for k, head in enumerate(self.classes)]
        return logits, self.places(read[:, self.coloured]).float()

    def loss(self, pooled: Tensor, classes: Tensor, places: Tensor) -> dict[str, Tensor]:
        """Weighted mean cross-entropy of the facts that are defined, smooth L1 of the places of objects there."""
        logits, told = self(pooled)
        each = [
            weight * F.cross_entropy(logit, classes[:, k], ignore_index=MISSING, reduction="sum")
            for k, (weight, logit) in enumerate(zip(self.weights, logits, strict=True))
        ]
        total = ((classes != MISSING) * classes.new_tensor(self.weights)).sum().clamp_min(1)
        there = ~places.isnan()
        apart = F.smooth_l1_loss(told[there], places[there], beta=0.05)
        return {"facts": torch.stack(each).sum() / total, "places": apart}
