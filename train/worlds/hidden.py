"""Hidden properties: mass, friction, elasticity, after Physion++ (Tung et al. 2023, arXiv 2306.15668).

No still picture shows them. What happens before `until` does, and what happens after it turns on them: clips come in
minimal pairs, the same scene with much and with little of the property, and red touches yellow in one of them alone.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from .parts import TOUCHES, Scenario, Verdict, contact, distractors, image_side, palette, solid
from .physics import Trajectory
from .scene import Body, Look, Rng, Scene

HEAVY, LIGHT = 4000.0, 150.0  # kg/m^3; what hits has 800
ROUGH, SLICK = (0.25, 0.4), (0.04, 0.1)  # friction, drawn between these
LIVELY, DULL = 0.85, 0.35  # share of the speed that a bounce keeps
NOTICED = 0.15  # seconds of motion that show a property


def _notes(extra: list[Body]) -> dict[str, Any]:
    """A camera on the ground would see what stands by in front of the story."""
    return {"needs_depth": bool(extra)}


def _with(scene: Scene, red: Body) -> Scene:
    return replace(scene, bodies=[red, *scene.bodies[1:]])


# --- mass -------------------------------------------------------------------------------------------------------------


def build_mass(rng: Rng) -> Scene:
    """Something runs into red, which slides on towards yellow; how far depends on how heavy it is."""
    colours, side = palette(rng, "red", "yellow"), 1 if rng.random() < 0.5 else -1
    size, other, speed = float(rng.uniform(0.11, 0.17)), float(rng.uniform(0.1, 0.17)), float(rng.uniform(1.4, 2.2))
    shape, gap = str(rng.choice(["box", "cylinder"])), float(rng.uniform(0.45, 1.0))
    red = solid(rng, "red", size, 0.0, shape=shape, turned=False, friction=float(rng.uniform(0.06, 0.15)))
    yellow = solid(rng, "yellow", other, side * (size + gap + other), float(rng.normal() * 0.03), density=1500.0)
    start = -side * (2 * size + float(rng.uniform(0.15, 0.5)))
    runner = Body(
        colours[2], "box", (size, size, size), (start, float(rng.normal() * 0.02), size + 1e-3),
        velocity=(side * speed, 0.0, 0.0), density=800.0, friction=0.1, role="mover",
    )  # fmt: skip
    extra = distractors(rng, colours[3:], int(rng.choice([0, 0, 1])), 1.3)
    ends = (start - side * size, yellow.pos[0] + side * other)
    focus, view = (sum(ends) / 2, 0.0, 0.15), abs(ends[1] - ends[0]) * 0.6
    return Scene([red, yellow, runner, *extra], [], focus, view, _notes(extra), contacts=True)


def hide_mass(scene: Scene, much: bool) -> Scene:
    return _with(scene, replace(scene.bodies[0], density=HEAVY if much else LIGHT))


def judge_mass(scene: Scene, trajectory: Trajectory, look: Look) -> Verdict:
    hit, heavy = contact(trajectory, 0, 2), scene.bodies[0].density == HEAVY
    return _verdict(trajectory, look, heavy, "heavy" if heavy else "light", hit)


# --- friction ---------------------------------------------------------------------------------------------------------


def build_friction(rng: Rng) -> Scene:
    """Red slides towards yellow and slows down, little or much."""
    colours, side = palette(rng, "red", "yellow"), 1 if rng.random() < 0.5 else -1
    size, other, speed = float(rng.uniform(0.1, 0.18)), float(rng.uniform(0.1, 0.18)), float(rng.uniform(1.2, 2.2))
    shape, gap = str(rng.choice(["box", "cylinder"])), float(rng.uniform(0.5, 1.5))
    red = solid(rng, "red", size, 0.0, shape=shape, turned=False, velocity=(side * speed, 0.0, 0.0))
    yellow = solid(rng, "yellow", other, side * (size + gap + other), float(rng.normal() * 0.03))
    extra = distractors(rng, colours[2:], int(rng.choice([0, 0, 1, 2])), 1.3)
    span = gap + 2 * (size + other)
    notes = _notes(extra) | {"rough": float(rng.uniform(*ROUGH)), "slick": float(rng.uniform(*SLICK))}
    focus, view = (side * (span / 2 - size), 0.0, 0.15), 0.6 * span + 0.1
    return Scene([red, yellow, *extra], [], focus, view, notes, contacts=True)


def hide_friction(scene: Scene, much: bool) -> Scene:
    return _with(scene, replace(scene.bodies[0], friction=scene.notes["rough" if much else "slick"]))


def judge_friction(scene: Scene, trajectory: Trajectory, look: Look) -> Verdict:
    rough = scene.bodies[0].friction == scene.notes["rough"]
    return _verdict(trajectory, look, rough, "rough" if rough else "slick", 0.0)


# --- elasticity -------------------------------------------------------------------------------------------------------


def build_elasticity(rng: Rng) -> Scene:
    """A red ball bounces on the floor towards a yellow wall: over it where it is lively, against it where it is not."""
    colours, side = palette(rng, "red", "yellow"), 1 if rng.random() < 0.5 else -1
    size, drop, speed = float(rng.uniform(0.08, 0.12)), float(rng.uniform(1.0, 1.5)), float(rng.uniform(0.6, 1.0))
    first = float(np.sqrt(2 * (drop - size) / 9.81))  # seconds until it bounces
    second = 2 * LIVELY * first  # and again, where it is lively
    wall = (0.04, float(rng.uniform(0.2, 0.35)), float(rng.uniform(0.12, 0.2)))
    place = side * speed * (first + second * float(rng.uniform(0.5, 0.78)))
    red = Body("red", "ball", (size,), (0.0, 0.0, drop), velocity=(side * speed, 0.0, 0.0), friction=0.3)
    red.spin = (0.0, side * speed / size, 0.0)  # it rolls on: the floor does not brake it
    yellow = Body("yellow", "box", wall, (place, 0.0, wall[2]), density=20_000.0, role="wall")
    extra = distractors(rng, colours[2:], int(rng.choice([0, 0, 1, 2])), 1.4)
    focus, view = (0.55 * place, 0.0, 0.4 * drop), 0.6 * max(drop, abs(place)) + 0.15
    return Scene([red, yellow, *extra], [], focus, view, _notes(extra), contacts=True)


def hide_elasticity(scene: Scene, much: bool) -> Scene:
    return _with(scene, replace(scene.bodies[0], bounce=LIVELY if much else DULL))


def judge_elasticity(scene: Scene, trajectory: Trajectory, look: Look) -> Verdict:
    lively, height = scene.bodies[0].bounce == LIVELY, trajectory.positions[:, 0, 2]
    bounced = float(trajectory.times[np.argmax(np.diff(height) > 0)])
    return _verdict(trajectory, look, lively, "lively" if lively else "dull", bounced)


def _verdict(trajectory: Trajectory, look: Look, much: bool, reason: str, shows: float | None) -> Verdict:
    """shows: when red began to move in a way that tells (None: never)."""
    time = contact(trajectory, 0, 1)
    facts = {"reason": reason, "property": much}
    if shows is None:
        return Verdict(time is not None, time, facts, clear=False)
    moved = image_side(trajectory.positions[0, 0], trajectory.positions[trajectory.at(shows + NOTICED), 0], look)
    return Verdict(time is not None, time, facts | ({"direction": moved} if moved else {}), shows=shows + NOTICED)


HIDDEN = (
    Scenario("mass", "touches", TOUCHES, build_mass, judge_mass, (0.375, 0.5), hide=hide_mass),
    Scenario("friction", "touches", TOUCHES, build_friction, judge_friction, (0.5, 0.625, 0.75), hide=hide_friction),
    Scenario("elasticity", "touches", TOUCHES, build_elasticity, judge_elasticity, (0.625, 0.75), hide=hide_elasticity),
)
