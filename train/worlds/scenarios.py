"""Every kind of story: the first six are set up and judged here, the others in `physion` and `hidden`.

A scenario is a `Scenario`: `build` draws a scene, `judge` reads facts off the simulated trajectory. `outcome` names
the balanced yes/no outcome; `decided` is when it came true (None: it did not within 3 s).
"""

from typing import Any

import numpy as np

from .hidden import HIDDEN
from .parts import Scenario, Verdict, distractors, image_side, palette, solid, sunk, toppled
from .physics import Trajectory
from .physion import PHYSION
from .scene import Body, Look, Prop, Rng, Scene, camera_axes

# --- towers -----------------------------------------------------------------------------------------------------------


def margins(bodies: list[Body]) -> list[float]:
    """For each block but the top one: how far inside its support the centre of mass of all above lies, metres.

    Negative: outside (ShapeStacks, Groth et al. 2018, section 3, calls these VCOM violations). The tower's own axes.
    """
    result = []
    for k in range(len(bodies) - 1):
        above = bodies[k + 1 :]
        mass = np.array([b.density * np.prod(b.half) for b in above])
        centre = (mass[:, None] * np.array([b.pos[:2] for b in above])).sum(0) / mass.sum()
        low = np.maximum(
            np.subtract(bodies[k].pos[:2], bodies[k].half[:2]), np.subtract(above[0].pos[:2], above[0].half[:2])
        )
        high = np.minimum(np.add(bodies[k].pos[:2], bodies[k].half[:2]), np.add(above[0].pos[:2], above[0].half[:2]))
        result.append(float(np.minimum(centre - low, high - centre).min()))
    return result


def build_tower(rng: Rng) -> Scene:
    count, sway = int(rng.integers(2, 7)), float(rng.uniform(0.2, 1.0))
    colours, x, y, z = palette(rng), 0.0, 0.0, 0.0
    uneven = rng.random() < 0.3
    blocks: list[Body] = []
    for k in range(count):
        half = (float(rng.uniform(0.13, 0.3)), float(rng.uniform(0.13, 0.26)), float(rng.uniform(0.09, 0.2)))
        if blocks:
            x += float(rng.normal() * sway * blocks[-1].half[0])
            y += float(rng.normal() * 0.25 * sway * blocks[-1].half[1])
        density = float(rng.uniform(200, 1500)) if uneven else 500.0
        blocks.append(
            Body(
                colours[k],
                "box",
                half,
                (x, y, z + half[2]),
                density=density,
                friction=float(rng.uniform(0.6, 1.0)),
                role="block",
            )
        )
        z += 2 * half[2]
    inside = margins(blocks)
    yaw = float(rng.choice([0.0, rng.uniform(-0.5, 0.5)]))
    turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    for block in blocks:
        block.pos = (*(turn @ block.pos[:2]), block.pos[2])
        block.euler = (0.0, 0.0, yaw)
    mean = np.mean([b.pos[:2] for b in blocks], axis=0)
    extra = distractors(rng, colours[count:], int(rng.choice([0, 0, 0, 1])), 1.1)
    notes = {"margins": inside, "blocks": count}
    return Scene([*blocks, *extra], [], (float(mean[0]), float(mean[1]), z * 0.45), max(0.62 * z, 0.75), notes)


def judge_tower(scene: Scene, trajectory: Trajectory, look: Look) -> Verdict:
    count = scene.notes["blocks"]
    times = [sunk(trajectory, i, scene.bodies[i].height) for i in range(count)]
    fallen = [i for i, t in enumerate(times) if t is not None]
    facts: dict[str, Any] = {"blocks": count, "standing": count - len(fallen)}
    facts |= {f"falls/{scene.bodies[i].colour}": i in fallen for i in range(count)}
    facts |= {"bottom": scene.bodies[0].colour, "top": scene.bodies[count - 1].colour}
    worst = int(np.argmin(scene.notes["margins"]))
    facts["reason"] = f"outside {worst + 1}" if min(scene.notes["margins"]) < 0 else "inside"
    if fallen:
        first = min(fallen, key=lambda i: times[i] or 0.0)
        facts["first"] = scene.bodies[first].colour
        side = image_side(trajectory.positions[0, fallen[-1]], trajectory.positions[-1, fallen[-1]], look)
        facts |= {"direction": side} if side else {}
    thin = min(scene.notes["margins"])
    clear = bool(fallen) == (thin < 0) and abs(thin) > 0.008
    return Verdict(bool(fallen), min((t for t in times if t is not None), default=None), facts, clear)


# --- collide ----------------------------------------------------------------------------------------------------------


def build_collide(rng: Rng) -> Scene:
    """Red moves; yellow rests or moves; red arrives, misses, stops short, or something stands between them."""
    colours = palette(rng, "red", "yellow")
    size, other = float(rng.uniform(0.12, 0.24)), float(rng.uniform(0.12, 0.26))
    distance = float(rng.uniform(0.9, 1.7))
    side = 1 if rng.random() < 0.5 else -1
    aim = float(rng.normal() * rng.choice([0.05, 0.35]) * distance * 0.6)
    speed = float(rng.uniform(0.9, 2.8))
    heading = np.array([distance, aim]) / np.hypot(distance, aim)
    velocity = tuple(float(v) for v in (*(heading * speed * [side, 1]), 0.0))
    red = solid(rng, "red", size, -side * distance / 2, 0.0, velocity=velocity, friction=float(rng.uniform(0.05, 0.4)))
    red.rolling = float(rng.choice([0.0005, rng.uniform(0.005, 0.03)]))
    if red.shape == "ball":
        red.spin = (-velocity[1] / size, velocity[0] / size, 0.0)
    moves = rng.random() < 0.35
    drift = (float(rng.uniform(-0.6, 1.2) * side), float(rng.uniform(-0.8, 0.8)), 0.0) if moves else (0.0, 0.0, 0.0)
    yellow = solid(
        rng, "yellow", other, side * distance / 2, 0.0, velocity=drift, friction=float(rng.uniform(0.1, 0.5))
    )
    bodies = [red, yellow]
    if rng.random() < 0.2:
        bodies.append(
            solid(
                rng,
                colours[2],
                float(rng.uniform(0.08, 0.16)),
                float(rng.uniform(-0.15, 0.15)),
                float(rng.normal() * 0.15),
                density=1500.0,
            )
        )
    bodies += distractors(rng, colours[3:], int(rng.choice([0, 0, 1, 2])), 1.2)
    return Scene(bodies, [], (0.0, 0.0, 0.15), 0.66 * distance + 0.3, contacts=True)


def judge_collide(scene: Scene, trajectory: Trajectory, look: Look) -> Verdict:
    time = trajectory.contacts.get((0, 1))
    others = [t for (a, b), t in trajectory.contacts.items() if a == 0 and b > 1]
    path = trajectory.positions[:, 0]
    travelled = float(np.linalg.norm(path[-1, :2] - path[0, :2]))
    rests = float(np.linalg.norm(path[-1, :2] - path[-50, :2])) < 5e-3
    gap = float(np.linalg.norm(scene.bodies[1].pos[0] - scene.bodies[0].pos[0]))
    reason = (
        "meets" if time is not None else "blocked" if others else "stops" if rests and travelled < gap else "passes"
    )
    facts: dict[str, Any] = {"reason": reason}
    moved = image_side(path[0], path[trajectory.at(1.0)], look)
    return Verdict(time is not None, time, facts | ({"direction": moved} if moved else {}))


# --- roll -------------------------------------------------------------------------------------------------------------


def build_roll(rng: Rng) -> Scene:
    """A ramp onto a table that ends in a ledge; sometimes a bumper guards the edge, sometimes friction wins."""
    side = 1 if rng.random() < 0.5 else -1
    slope, long = float(rng.uniform(0.12, 0.6)), float(rng.uniform(0.35, 0.6))
    table, length = float(rng.uniform(0.25, 0.6)), float(rng.uniform(0.3, 0.9))
    top = Prop((length, 0.35, table / 2), (0.0, 0.0, table / 2), friction=0.6)
    foot = -side * length
    centre = (
        float(foot - side * long * np.cos(slope) + side * 0.02 * np.sin(slope)),
        0.0,
        float(table + long * np.sin(slope) - 0.02 * np.cos(slope)),
    )
    ramp = Prop((long, 0.35, 0.02), centre, (0.0, side * slope, 0.0), friction=0.6)
    size = float(rng.uniform(0.08, 0.15))
    up = float(rng.uniform(0.2, 0.8)) * 2 * long
    shape = str(rng.choice(["ball", "ball", "box", "cylinder"]))
    lift = size + 0.002
    spot = (
        float(foot - side * (up * np.cos(slope) - lift * np.sin(slope))),
        0.0,
        float(table + up * np.sin(slope) + lift * np.cos(slope)),
    )
    euler = (0.0, side * slope, 0.0) if shape != "cylinder" else (np.pi / 2, 0.0, 0.0)
    half = {"box": (size,) * 3, "ball": (size,), "cylinder": (size, float(rng.uniform(0.1, 0.2)))}[shape]
    body = Body(
        palette(rng)[0],
        shape,
        half,
        spot,
        euler,
        friction=float(rng.uniform(0.05, 0.6)),
        role="mover",
    )
    body.rolling = float(rng.choice([0.0005, rng.uniform(0.01, 0.12)])) * size
    props = [top, ramp]
    if rng.random() < 0.25:
        high = float(rng.uniform(0.02, 0.2))
        props.append(Prop((0.03, 0.35, high), (side * (length - 0.03), 0.0, table + high)))
    extra = distractors(rng, palette(rng, body.colour)[1:], int(rng.choice([0, 0, 1])), 1.3)
    notes = {"table": table, "slope": slope}
    return Scene([body, *extra], props, (-side * long * 0.5, 0.0, table * 0.8), length + long * 0.75, notes)


def judge_roll(scene: Scene, trajectory: Trajectory, look: Look) -> Verdict:
    off = np.flatnonzero(trajectory.positions[:, 0, 2] < scene.notes["table"])
    time = float(trajectory.times[off[0]]) if len(off) else None
    moved = float(np.linalg.norm(trajectory.positions[-1, 0] - trajectory.positions[0, 0])) > 0.1
    facts: dict[str, Any] = {
        "reason": "over the edge" if len(off) else "stops on the table" if moved else "stays on the ramp"
    }
    facts["moves"] = moved
    return Verdict(time is not None, time, facts)


# --- dominoes ---------------------------------------------------------------------------------------------------------


def build_dominoes(rng: Rng) -> Scene:
    """A row of thin tall boxes, the first one pushed; a wide gap may break the chain."""
    count, tall = int(rng.integers(3, 7)), float(rng.uniform(0.22, 0.34))
    thin, wide, colours = float(rng.uniform(0.03, 0.05)), float(rng.uniform(0.09, 0.16)), palette(rng)
    side = 1 if rng.random() < 0.5 else -1
    gaps = rng.uniform(0.5, 1.2, count - 1) * tall
    if rng.random() < 0.55:
        gaps[rng.integers(count - 1)] = rng.uniform(2.0, 3.0) * tall
    x = np.concatenate([[0.0], np.cumsum(gaps + 2 * thin)])
    x = (x - x.mean()) * side
    bodies = [
        Body(colours[i], "box", (thin, wide, tall), (float(p), 0.0, tall + 1e-3), friction=0.5, role="domino")
        for i, p in enumerate(x)
    ]
    push = float(rng.uniform(0.6, 3.2))
    bodies[0].spin = (0.0, side * push, 0.0)
    bodies[0].velocity = (side * push * tall, 0.0, 0.0)
    notes = {"dominoes": count, "gap": float(gaps.max() / tall), "last": colours[count - 1]}
    return Scene(bodies, [], (0.0, 0.0, tall * 0.8), max(float(np.ptp(x)) * 0.62, 0.8), notes)


def judge_dominoes(scene: Scene, trajectory: Trajectory, look: Look) -> Verdict:
    times = [toppled(trajectory, i) for i in range(len(scene.bodies))]
    standing = sum(t is None for t in times)
    facts: dict[str, Any] = {
        "blocks": len(times),
        "standing": standing,
        "reason": "reaches" if times[-1] is not None else "first stays" if times[0] is None else "gap",
    }
    facts |= {f"falls/{b.colour}": t is not None for b, t in zip(scene.bodies, times, strict=True)}
    return Verdict(times[-1] is not None, times[-1], facts)


# --- contain ----------------------------------------------------------------------------------------------------------


def build_contain(rng: Rng) -> Scene:
    """Something is dropped or thrown at an open box."""
    half, high, wall = float(rng.uniform(0.22, 0.4)), float(rng.uniform(0.1, 0.25)), 0.02
    size = float(rng.uniform(0.09, min(0.16, half * 0.5)))
    drop = float(rng.uniform(0.9, 1.4))
    flight = float(np.sqrt(2 * (drop - size) / 9.81))
    across = float(rng.choice([rng.normal() * 0.4 * half, rng.uniform(-1, 1) * 2.6 * half]))
    throw = float(rng.uniform(-1.6, 1.6))
    body = solid(
        rng, palette(rng)[0], size, across - throw * flight, 0.0, drop - size, role="mover", velocity=(throw, 0.0, 0.0)
    )
    props = [Prop((wall, half, high), (s * (half + wall), 0.0, high)) for s in (-1, 1)]
    props += [Prop((half + 2 * wall, wall, high), (0.0, s * (half + wall), high)) for s in (-1, 1)]
    extra = distractors(rng, palette(rng, body.colour)[1:], int(rng.choice([0, 0, 1])), 1.3)
    notes = {"half": half, "high": 2 * high}
    return Scene(
        [body, *extra],
        props,
        (0.5 * body.pos[0], 0.0, drop * 0.45),
        max(0.72 * drop, 0.6 * abs(body.pos[0]) + half),
        notes,
    )


def judge_contain(scene: Scene, trajectory: Trajectory, look: Look) -> Verdict:
    x, y, z = (trajectory.positions[:, 0, k] for k in range(3))
    half, high = scene.notes["half"], scene.notes["high"]
    inside = (np.abs(x) < half) & (np.abs(y) < half) & (z < high)
    ends = bool(inside[-1])
    time = float(trajectory.times[len(inside) - int(np.argmin(inside[::-1]))]) if ends else None
    side = image_side(np.zeros(3), trajectory.positions[-1, 0], look)
    facts: dict[str, Any] = {"reason": "between the walls" if ends else "outside the walls"}
    return Verdict(ends, time, facts | ({"direction": side} if side and not ends else {}))


# --- occlude ----------------------------------------------------------------------------------------------------------


def build_occlude(rng: Rng) -> Scene:
    """Something passes behind a screen; whether it comes out again depends on its speed and its braking."""
    side = 1 if rng.random() < 0.5 else -1
    size, wide = float(rng.uniform(0.11, 0.2)), float(rng.uniform(0.22, 0.5))
    start, speed = float(rng.uniform(0.3, 0.7)) + wide, float(rng.uniform(0.8, 2.4))
    shape = str(rng.choice(["ball", "box", "cylinder"]))
    body = solid(
        rng,
        palette(rng)[0],
        size,
        -side * start,
        float(rng.uniform(0.05, 0.25)),
        shape=shape,
        velocity=(side * speed, 0.0, 0.0),
        role="mover",
    )
    body.friction = float(rng.uniform(0.03, 0.3))
    if shape == "ball":
        body.spin, body.rolling = (
            (0.0, side * speed / size, 0.0),
            float(rng.choice([0.0005, rng.uniform(0.05, 0.3)])) * size,
        )
    screen = Prop((wide, 0.02, float(rng.uniform(0.22, 0.4))), (0.0, -0.25, 0.0))
    screen.pos = (0.0, -0.25, screen.half[2])
    extra = distractors(rng, palette(rng, body.colour)[1:], int(rng.choice([0, 0, 1])), 1.2)
    extra = [e for e in extra if e.pos[1] > 0.5]
    notes = {"wide": wide, "side": side, "needs_depth": True}
    return Scene([body, *extra], [screen], (0.0, 0.0, 0.25), start + 0.15, notes, camera_low=True)


def judge_occlude(scene: Scene, trajectory: Trajectory, look: Look) -> Verdict:
    """Comes out: its centre passes the screen's far edge, as the camera sees both."""
    eye = np.array(look.lookat) - look.distance * camera_axes(look)[1]
    side, edge = scene.notes["side"], scene.notes["wide"]
    x, y = trajectory.positions[:, 0, 0], trajectory.positions[:, 0, 1]
    at_screen = eye[0] + (x - eye[0]) * (-0.25 - eye[1]) / (
        y - eye[1]
    )  # where the line of sight meets the screen's plane
    out = np.flatnonzero(side * at_screen > edge)
    hidden = np.flatnonzero(side * at_screen > -edge)
    time = float(trajectory.times[out[0]]) if len(out) else None
    reason = "fast enough" if len(out) else "stops behind" if len(hidden) else "stops before"
    return Verdict(time is not None, time, {"reason": reason})


FIRST = (
    Scenario(
        "towers",
        "falls",
        "within 3 s the centre of some block sinks by more than half its height",
        build_tower,
        judge_tower,
        (0.0, 0.125, 0.25, 0.375),
        lambda scene: min(scene.notes["margins"]) < 0,
    ),
    Scenario(
        "collide",
        "touches",
        "a contact between the red and the yellow object within 3 s",
        build_collide,
        judge_collide,
        (0.125, 0.25, 0.375),
    ),
    Scenario(
        "roll",
        "drops",
        "within 3 s the object's centre is below the table's top",
        build_roll,
        judge_roll,
        (0.25, 0.5, 0.75),
    ),
    Scenario(
        "dominoes",
        "last_falls",
        "within 3 s the last domino leans more than 45 degrees",
        build_dominoes,
        judge_dominoes,
        (0.25, 0.375, 0.5),
    ),
    Scenario(
        "contain",
        "contained",
        "after 3 s the object's centre lies between the walls and below their rim",
        build_contain,
        judge_contain,
        (0.125, 0.25),
    ),
    Scenario(
        "occlude",
        "comes_out",
        "within 3 s the object's centre passes the screen's far edge as the camera sees it",
        build_occlude,
        judge_occlude,
        (0.25, 0.375),
    ),
)
"""The mix that is made unless others are named, and that the embedded model was trained on."""

SCENARIOS: dict[str, Scenario] = {one.name: one for one in (*FIRST, *PHYSION, *HIDDEN)}
"""A scenario's place seeds its clips: new ones are appended."""
