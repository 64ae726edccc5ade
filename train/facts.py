"""Direct supervision of the bridge from a world's metadata: words for its slots, measures as classes, where objects lie
and what shape they are.

Users' data need not have it. The words are what the slots say to the language model; the heads for measures and places
only shape the bridge and are thrown away after training.
"""

import math
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..bridge.projector import Reader
from ..perception.video import last_shown
from .worlds.scene import COLOURS, SHAPES
from .worlds.sight import count_seen, in_sight, out_of_sight

Row = dict[str, Any]
AHEAD = (0.5, 1.0)  # seconds after the last shown frame at which places are asked for
MARGINS = (-0.08, -0.04, 0.0, 0.04, 0.08)  # metres: classes of how far a centre of mass lies inside its support
GAPS = (1.1, 1.5, 2.5)  # classes of two objects' closest approach, in sums of their half sizes
MISSING = -100

OUTCOMES = {
    "towers": (" stand", " fall"),
    "collide": (" miss", " touch"),
    "roll": (" stay", " drop"),
    "dominoes": (" stand", " fall"),
    "contain": (" outside", " inside"),
    "occlude": (" hidden", " appear"),
    "support": (" stand", " fall"),
    **dict.fromkeys(("drop", "link", "drape", "mass", "friction", "elasticity"), (" miss", " touch")),
}
"""What is said of a scenario whose outcome is False, and of one where it is True. The words are those that the shipped
bridge has: later scenarios take the ones that mean the same, and what has no word is not said."""
SCENES = {
    "towers": " tower",
    "collide": " collision",
    "roll": " ramp",
    "dominoes": " chain",
    "contain": " container",
    "occlude": " screen",
}
REASONS = {
    "inside": " inside",
    "meets": " meets",
    "passes": " passes",
    "stops": " stops",
    "blocked": " blocked",
    "over the edge": " edge",
    "stops on the table": " table",
    "stays on the ramp": " ramp",
    "reaches": " reach",
    "gap": " gap",
    "first stays": " weak",
    "between the walls": " between",
    "outside the walls": " outside",
    "fast enough": " fast",
    "stops behind": " behind",
    "stops before": " before",
    "supported": " inside",
    "unsupported": " outside",
    "on it": " meets",
    "over it": " meets",
    "beside": " passes",
    "after a turn": " reach",
    "turned away": " blocked",
    "held back": " blocked",
    "held up": " blocked",
}
DIGITS = tuple("0123456789")
PAINTS = tuple(f" {colour}" for colour in COLOURS)
SLOTS: dict[str, tuple[str, ...]] = {
    "scene": tuple(SCENES.values()),
    "outcome": tuple(dict.fromkeys(word for words in OUTCOMES.values() for word in words)),
    "reason": (*dict.fromkeys(REASONS.values()), *DIGITS[1:6]),
    "direction": (" left", " right"),
    "first": PAINTS,
    "standing": DIGITS,
    "count": DIGITS,
    "bottom": PAINTS,
    "top": PAINTS,
    "moving": PAINTS,
    **{f"{colour} shape": (" none", " box", " ball", " cylinder") for colour in COLOURS},
    **{f"{colour} falls": (" stand", " fall") for colour in COLOURS},
}
"""The slots of the worlds' bridge: what each is about, and the words it may say."""
WORDS = tuple(dict.fromkeys(word for words in SLOTS.values() for word in words))
VERDICTS = {word: verdict for words in OUTCOMES.values() for word, verdict in zip(words, ("No", "Yes"), strict=True)}
VERDICTS |= {" none": "No", " box": "Yes", " ball": "Yes", " cylinder": "Yes"}
"""Words that also answer whether something happens or is there, whatever the scenario: turning an answer round is then
learned once, not once a scenario."""
SHAPE_SLOTS = [list(SLOTS).index(f"{colour} shape") for colour in COLOURS]
SLOT_WEIGHTS = tuple(4.0 if slot == "outcome" else 1.0 for slot in SLOTS)
"""The outcome is what most questions are about."""


def slot_words() -> list[list[int]]:
    """For each slot the words it may say, as places in WORDS."""
    return [[WORDS.index(word) for word in words] for words in SLOTS.values()]


def words_of(clip: Row) -> dict[str, str]:
    """What is true of a clip, slot by slot; what means nothing for it, or cannot be seen, is left out."""
    scenario, facts, objects = clip["scenario"], clip["facts"], clip["objects"]
    there = {one["colour"] for one in objects} - {one["colour"] for one in out_of_sight(clip)}
    words = {
        "outcome": OUTCOMES[scenario][clip["outcome"]["value"]],
        **{f"{colour} shape": " none" for colour in COLOURS if colour not in there},
    }
    words |= {"count": str(count)} if (count := count_seen(clip)) is not None else {}
    words |= {"scene": SCENES[scenario]} if scenario in SCENES else {}
    words |= _reason(facts["reason"])
    words |= {f"{one['colour']} shape": f" {one['shape']}" for one in in_sight(clip) if one["shape"] in SHAPES}
    words |= {slot: f" {facts[slot]}" for slot in ("direction", "first", "bottom", "top") if slot in facts}
    if "standing" in facts:
        words["standing"] = str(facts["standing"])
    if scenario in ("roll", "contain", "occlude") and objects[0] in in_sight(clip):
        words["moving"] = f" {objects[0]['colour']}"
    falls = {name.split("/")[1]: fell for name, fell in facts.items() if name.startswith("falls/")}
    return words | {f"{colour} falls": (" stand", " fall")[fell] for colour, fell in falls.items()}


def _reason(told: str) -> dict[str, str]:
    """'outside 2' (of a tower) is said as the number of the block; of some reasons there is no word."""
    place = told.removeprefix("outside ")
    word = place if place.isdigit() else REASONS.get(told)
    return {} if word is None else {"reason": word}


def measures_of(clip: Row) -> dict[str, int]:
    """What decides an outcome, in classes: a tower's margins from below, the closest approach of red and yellow."""
    margins = clip["notes"].get("margins", ())
    measures = {f"margin/{level}": bisect(MARGINS, margin) for level, margin in enumerate(margins)}
    return measures | ({"gap": bisect(GAPS, closest(clip, 0, 1))} if clip["scenario"] == "collide" else {})


MEASURES = {**{f"margin/{level}": len(MARGINS) + 1 for level in range(5)}, "gap": len(GAPS) + 1}
"""Classes of each measure."""


def closest(clip: Row, one: int, other: int) -> float:
    """The smallest distance of two objects' centres after the last shown frame, in sums of their half sizes."""
    centres = np.array(clip["states"])[last_shown(clip["until"], clip["fps"]) :, :, :3]  # [F, n, 3]
    sizes = clip["objects"][one]["half"][0] + clip["objects"][other]["half"][0]
    return float(np.linalg.norm(centres[:, one] - centres[:, other], axis=-1).min() / sizes)


def places_of(clip: Row) -> dict[str, list[float]]:
    """For each colour: its place in the image (0..1) at the last shown frame, then its moves until each of AHEAD."""
    uv = np.array(clip["states"])[:, :, 7:]  # [F, n, 2]
    frames = [min(last_shown(clip["until"] + ahead, clip["fps"]), len(uv) - 1) for ahead in (0.0, *AHEAD)]
    now, *later = uv[frames].clip(-0.5, 1.5)
    columns = np.concatenate([now, *(2 * (then - now) for then in later)], axis=-1)  # [n, 2 + 2 * len(AHEAD)]
    return {one["colour"]: column.tolist() for one, column in zip(clip["objects"], columns, strict=True)}


@dataclass(frozen=True)
class Targets:
    """What a bridge should know of N clips.

    words: places in WORDS, int64 [N, slots]; classes: of MEASURES, int64 [N, measures]; both MISSING where undefined.
    places: float [N, colours, P], NaN where a colour is absent.
    """

    words: Tensor
    classes: Tensor
    places: Tensor

    @classmethod
    def of(cls, clips: Sequence[Row]) -> "Targets":
        words = [[_index(WORDS, told.get(slot)) for slot in SLOTS] for told in map(words_of, clips)]
        classes = [[told.get(name, MISSING) for name in MEASURES] for told in map(measures_of, clips)]
        nowhere = [float("nan")] * (2 + 2 * len(AHEAD))
        places = [[told.get(colour, nowhere) for colour in COLOURS] for told in map(places_of, clips)]
        return cls(torch.tensor(words), torch.tensor(classes), torch.tensor(places, dtype=torch.float32))

    @classmethod
    def unknown(cls, count: int) -> "Targets":
        """Of clips that no world tells anything about."""
        places = torch.full((count, len(COLOURS), 2 + 2 * len(AHEAD)), torch.nan)
        return cls(torch.full((count, len(SLOTS)), MISSING), torch.full((count, len(MEASURES)), MISSING), places)

    @classmethod
    def join(cls, parts: Sequence["Targets"]) -> "Targets":
        """Of several sets of clips, one after the other."""
        words, classes, places = zip(*((one.words, one.classes, one.places) for one in parts), strict=True)
        return cls(torch.cat(words), torch.cat(classes), torch.cat(places))

    def batch(self, rows: Sequence[int] | np.ndarray[Any, Any]) -> dict[str, Tensor]:
        """The targets of some clips, by name."""
        return {"words": self.words[rows], "classes": self.classes[rows], "places": self.places[rows]}


def _index(words: tuple[str, ...], word: str | None) -> int:
    return MISSING if word is None else words.index(word)


def turned(words: Tensor, mirrored: Tensor) -> Tensor:
    """The words of clips, left and right exchanged in those that are mirrored: int64 [B, slots], bool [B]."""
    left, right = (WORDS.index(word) for word in SLOTS["direction"])
    other = torch.where(words == left, right, torch.where(words == right, left, words))
    return torch.where(mirrored[:, None], other, words)


def word_weights(words: Tensor) -> Tensor:
    """How much each slot's word counts, 0 where it is undefined: int64 [B, S] -> [B, S]."""
    return (words != MISSING) * torch.tensor(SLOT_WEIGHTS, device=words.device)


def word_loss(said: Tensor, words: Tensor) -> Tensor:
    """Weighted sum of the cross-entropy of what the slots say [B, S, W], where it is defined: words int64 [B, S]."""
    each = F.cross_entropy(said.transpose(1, 2), words, ignore_index=MISSING, reduction="none")  # [B, S]
    return (each * word_weights(words)).sum()


def fact_counts(batch: Mapping[str, Tensor]) -> dict[str, float]:
    """What `word_loss` and the sums of `FactHeads.loss` over a batch are divided by, to be means."""
    return {
        "words": float(word_weights(batch["words"]).sum()),
        "measures": float((batch["classes"] != MISSING).sum()),
        "places": float((~batch["places"].isnan()).sum()),
        "shapes": float((shapes_here(batch) != MISSING).sum()),
    }


def shapes_here(batch: Mapping[str, Tensor]) -> Tensor:
    """Places in SHAPES of the objects of each colour that lie in the picture when it was last seen: int64 [B, colours],
    MISSING for all others."""
    told = batch["words"][:, SHAPE_SLOTS]  # [B, colours]
    kinds = torch.full_like(told, MISSING)
    for kind, shape in enumerate(SHAPES):
        kinds[told == WORDS.index(f" {shape}")] = kind
    where = batch["places"][..., :2]
    inside = ((where >= 0) & (where < 1)).all(-1)  # NaN, of what is not there, is neither
    return torch.where(inside, kinds, MISSING)


class FactHeads(nn.Module):
    """Learned queries read the bridge's pooled tokens; linear layers tell measures in classes, and colours' places."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(MEASURES) + len(COLOURS), width) * 0.5)
        self.reader = Reader(width, heads)
        self.norm = nn.LayerNorm(width)
        self.classes = nn.ModuleList(nn.Linear(width, count) for count in MEASURES.values())
        self.places = nn.Linear(width, 2 + 2 * len(AHEAD))
        self.shapes = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(SHAPES)))

    def forward(self, pooled: Tensor) -> tuple[list[Tensor], Tensor]:
        """pooled [B, K, D] -> a list of logits [B, classes] a measure, places [B, colours, P]; float32."""
        read = self.norm(self.reader(self.queries, pooled))  # [B, measures + colours, D]
        logits = [head(read[:, k]).float() for k, head in enumerate(self.classes)]
        return logits, self.places(read[:, len(MEASURES) :]).float()

    def loss(self, pooled: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums: cross-entropy of the measures that are defined, smooth L1 of the places of objects that are there."""
        (logits, told), classes, places = self(pooled), batch["classes"], batch["places"]
        each = [
            F.cross_entropy(logit, classes[:, k], ignore_index=MISSING, reduction="sum")
            for k, logit in enumerate(logits)
        ]
        there = ~places.isnan()
        off = F.smooth_l1_loss(told, places.nan_to_num(), beta=0.05, reduction="none")  # no index: shapes stay known
        return {
            "measures": torch.stack(each).sum(),
            "places": (off * there).sum(),
        }

    def shapes_loss(self, taken: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Sum of the cross-entropy of the shapes of objects, told by the patch that they lie in: taken [B, y*x, D]."""
        told = self.shapes_told(taken, batch).flatten(0, 1)
        return F.cross_entropy(told, shapes_here(batch).flatten(), ignore_index=MISSING, reduction="sum")

    def shapes_told(self, taken: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """What patches say of the objects that lie in them: taken [B, side * side, D] -> [B, colours, shapes]."""
        side = math.isqrt(taken.shape[1])
        cells = (batch["places"][..., :2].nan_to_num() * side).long().clamp(0, side - 1)  # [B, colours, 2]
        here = taken[torch.arange(len(taken), device=taken.device)[:, None], cells[..., 1] * side + cells[..., 0]]
        told: Tensor = self.shapes(here).float()
        return told
