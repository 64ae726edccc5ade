"""What can be done to a scene: the typed set that a planner chooses from, and that worlds can carry out.

Sides are the camera's. A push is one strength, that of `train.worlds.interventions.PUSH`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = ("left", "right")


@dataclass(frozen=True)
class Nothing:
    """Let things take their course."""

    def __str__(self) -> str:
        return "Do nothing"


@dataclass(frozen=True)
class Remove:
    """Take an object away, so fast that nothing else is moved."""

    colour: str

    def __str__(self) -> str:
        return f"Take the {self.colour} block away"


@dataclass(frozen=True)
class Push:
    """Knock an object to one side."""

    colour: str
    side: Side

    def __str__(self) -> str:
        return f"Push the {self.colour} block to the {self.side}"


Action = Nothing | Remove | Push


def actions(colours: Iterable[str]) -> list[Action]:
    """All that can be done where objects of these colours are."""
    found: list[Action] = [Nothing()]
    for colour in colours:
        found += [Remove(colour), *(Push(colour, side) for side in SIDES)]
    return found
