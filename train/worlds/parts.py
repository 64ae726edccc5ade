"""What every scenario is made of: its form, the verdict on how a scene ended, bodies, and measures of what happened."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .physics import Trajectory
from .scene import COLOURS, Array, Body, Look, Rng, Scene, camera_axes


@dataclass
class Verdict:
    """What happened: the yes/no outcome and when it came true (s), facts of finite vocabularies, the reason.

    shows: from when on (s) a viewer has seen what decides the outcome.
    """

    outcome: bool
    decided: float | None
    facts: dict[str, Any] = field(default_factory=dict)
    clear: bool = (
        True  # False: too close to call, or the reason on record is not what happened; the scene is drawn again
    )
    shows: float = 0.0


@dataclass(frozen=True)
class Scenario:
    """untils: the seconds shown, drawn evenly and independently of what happens.

    foreseen: the outcome that mechanics gives before any simulation, where it can (the simulation must then agree).
    hide: the same scene with much or little of a property that no still picture shows; clips come in pairs that differ
    in it, and in how they end.
    """

    name: str
    outcome: str
    definition: str
    build: Callable[[Rng], Scene]
    judge: Callable[[Scene, Trajectory, Look], Verdict]
    untils: tuple[float, ...]
    foreseen: Callable[[Scene], bool | None] = lambda scene: None
    hide: Callable[[Scene, bool], Scene] | None = None


TOUCHES = "a contact between the red and the yellow object within 3 s"


def contact(trajectory: Trajectory, one: int, other: int) -> float | None:
    """When two bodies first touched, or None."""
    return trajectory.contacts.get((min(one, other), max(one, other)))


def palette(rng: Rng, *fixed: str) -> list[str]:
    """All colours in random order, the fixed ones first."""
    rest = [str(c) for c in rng.permutation([c for c in COLOURS if c not in fixed])]
    return [*fixed, *rest]


def solid(rng: Rng, colour: str, size: float, x: float, y: float = 0.0, base: float = 0.0, **more: Any) -> Body:
    """A box, ball or cylinder of about `size` (half extent, metres) resting on height `base`."""
    shape = more.pop("shape", None) or str(rng.choice(["box", "ball", "cylinder"]))
    half = {"box": (size, size, size), "ball": (size,), "cylinder": (size, size)}[shape]
    turn = float(rng.uniform(-0.6, 0.6)) if shape == "box" and more.pop("turned", True) else 0.0
    more.pop("turned", None)
    return Body(colour, shape, half, (x, y, base + size + 1e-3), (0.0, 0.0, turn), **more)


def distractors(rng: Rng, colours: list[str], count: int, radius: float) -> list[Body]:
    """Resting objects far from the story."""
    places = rng.permutation(6)[:count]
    return [
        solid(
            rng,
            colour,
            float(rng.uniform(0.07, 0.14)),
            float((place % 3 - 1) * radius * 0.55),
            float(side),
            role="distractor",
        )
        for colour, place in zip(colours, places, strict=False)
        for side in [radius * (0.75 if place < 3 else -0.55) + rng.uniform(-0.1, 0.1)]
    ]


def sunk(trajectory: Trajectory, index: int, height: float) -> float | None:
    """When the centre of a body has sunk by more than half its height, or None (DESIGN, Outcomes)."""
    drop = trajectory.positions[0, index, 2] - trajectory.positions[:, index, 2]
    below = np.flatnonzero(drop > height / 2)
    return float(trajectory.times[below[0]]) if len(below) else None


def toppled(trajectory: Trajectory, index: int) -> float | None:
    """When a body's long axis first leans more than 45 degrees, or None."""
    _, x, y, _ = trajectory.quaternions[:, index].T
    lying = np.flatnonzero(1 - 2 * (x**2 + y**2) < np.cos(np.pi / 4))
    return float(trajectory.times[lying[0]]) if len(lying) else None


def image_side(before: Array, after: Array, look: Look) -> str | None:
    """'left' or 'right' as the camera sees a displacement; None where it mostly goes along the line of sight."""
    _, forward, right, _ = camera_axes(look)
    across, along = float((after - before) @ right), float((after - before) @ (forward * [1, 1, 0]))
    return None if abs(across) < max(0.08, 0.6 * abs(along)) else "right" if across > 0 else "left"
