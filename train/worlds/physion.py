"""Physion's other scenarios (Bear et al. 2021, arXiv 2106.08261, section 2): drop, support, link, drape.

Where Physion asks whether a red object touches a yellow one, so do these; support asks, as towers do, what falls.
"""

from typing import Any

import numpy as np

from .parts import TOUCHES, Scenario, Verdict, contact, distractors, image_side, palette, solid, sunk
from .physics import Trajectory
from .scene import Array, Body, Look, Prop, Rng, Scene

# --- drop -------------------------------------------------------------------------------------------------------------


def build_drop(rng: Rng) -> Scene:
    """Red falls on what lies below: yellow, something that turns it away or passes it on, or the bare floor."""
    colours, side = palette(rng, "red", "yellow"), 1 if rng.random() < 0.5 else -1
    height, size = float(rng.uniform(1.0, 1.5)), float(rng.uniform(0.09, 0.16))
    place, other = side * float(rng.uniform(0.2, 0.75)), float(rng.uniform(0.12, 0.22))
    aim = float(rng.choice([0.0, place * rng.uniform(0.4, 1.1)]) + rng.normal() * 0.12)
    flight = float(np.sqrt(2 * (height - 2 * size) / 9.81))
    throw = float(rng.uniform(-1.0, 1.0))
    red = solid(
        rng, "red", size, aim - throw * flight, float(rng.normal() * 0.04), height - size, velocity=(throw, 0.0, 0.0)
    )
    red.friction = float(rng.uniform(0.1, 0.6))
    bodies = [red, solid(rng, "yellow", other, place, float(rng.normal() * 0.05))]
    if rng.random() < 0.75:
        high = float(rng.uniform(0.1, max(0.12, min(0.22, abs(place) - other))))
        bodies.append(solid(rng, colours[2], high, 0.0, density=1500.0))
    count = int(rng.choice([0, 0, 1, 2]))
    bodies += distractors(rng, colours[3:], count, 1.3)
    reach = max(abs(red.pos[0]), abs(place) + other)
    focus, view = (0.4 * place, 0.0, 0.45 * height), max(0.7 * height, 0.5 * reach + 0.45)
    return Scene(bodies, [], focus, view, {"needs_depth": count > 0}, contacts=True)


def judge_drop(scene: Scene, trajectory: Trajectory, look: Look) -> Verdict:
    """Falls on it: still falling, and on nothing else before, when it touches."""
    time = contact(trajectory, 0, 1)
    others = [t for (a, b), t in trajectory.contacts.items() if a == 0 and b > 1]
    if time is None:
        return Verdict(False, None, {"reason": "turned away" if others else "beside"})
    step = trajectory.at(time)
    sinking = trajectory.positions[max(step - 4, 0), 0, 2] - trajectory.positions[step, 0, 2]  # metres in 20 ms
    direct = sinking > 0.02 and min(others, default=time) >= time
    return Verdict(True, time, {"reason": "on it" if direct else "after a turn"})


# --- support ----------------------------------------------------------------------------------------------------------


def build_support(rng: Rng) -> Scene:
    """A plank over one or two pillars, with one to three things on it; all of one density, so that sizes tell all."""
    colours, count = palette(rng), int(rng.integers(1, 4))
    high, deep = float(rng.uniform(0.12, 0.28)), float(rng.uniform(0.12, 0.18))
    plank = (float(rng.uniform(0.4, 0.7)), deep, float(rng.uniform(0.03, 0.05)))
    spread = float(rng.choice([0.0, rng.uniform(0.2, 0.7)])) * plank[0]
    feet = [-spread, spread] if spread else [0.0]
    shift, wide = float(np.clip(rng.normal() * 0.3, -0.8, 0.8) * plank[0]), float(rng.uniform(0.05, 0.15))
    bodies = [
        Body(colours[k], "box", (wide, deep, high), (x, 0.0, high), density=2000.0, role="pillar")
        for k, x in enumerate(feet)
    ]
    top = 2 * (high + plank[2])
    bodies.append(Body(colours[len(feet)], "box", plank, (shift, 0.0, 2 * high + plank[2]), role="plank"))
    places = rng.permutation(np.linspace(-0.8, 0.8, 4))[:count] * plank[0] + shift
    bodies += [_load(rng, colours[len(feet) + 1 + k], float(x), deep, top) for k, x in enumerate(places)]
    carried = bodies[len(feet) :]
    mass = np.array([body.density * _volume(body) for body in carried])
    centre = float(mass @ [body.pos[0] for body in carried] / mass.sum())
    edges = [(max(x - wide, shift - plank[0]), min(x + wide, shift + plank[0])) for x in feet]
    edges = [(low, high) for low, high in edges if low < high]  # of where the plank lies on a pillar
    margin = min(centre - edges[0][0], edges[-1][1] - centre)
    extra = distractors(rng, colours[len(bodies) :], int(rng.choice([0, 0, 0, 1])), 1.2)
    notes = {"margins": [margin], "blocks": len(bodies), "pillars": len(feet), "needs_depth": bool(extra)}
    radius = max(1.1 * plank[0] + 0.4 * abs(shift), 0.65)
    return Scene([*bodies, *extra], [], (0.6 * shift, 0.0, 0.7 * top), radius, notes)


def _load(rng: Rng, colour: str, x: float, deep: float, base: float) -> Body:
    size, high = float(rng.uniform(0.06, 0.1)), float(rng.uniform(0.06, 0.18))
    shape, half = ("box", (size, min(size, deep), high)) if rng.random() < 0.7 else ("cylinder", (size, high))
    return Body(colour, shape, half, (x, 0.0, base + high), role="load")


def _volume(body: Body) -> float:
    return float(8 * np.prod(body.half)) if body.shape == "box" else float(2 * np.pi * body.half[0] ** 2 * body.half[1])


def judge_support(scene: Scene, trajectory: Trajectory, look: Look) -> Verdict:
    count, margin = scene.notes["blocks"], scene.notes["margins"][0]
    times = [sunk(trajectory, i, scene.bodies[i].height) for i in range(count)]
    fallen = [i for i, time in enumerate(times) if time is not None]
    facts: dict[str, Any] = {"blocks": count, "standing": count - len(fallen)}
    facts |= {f"falls/{scene.bodies[i].colour}": i in fallen for i in range(count)}
    facts["reason"] = "supported" if margin > 0 else "unsupported"
    if fallen:
        side = image_side(trajectory.positions[0, fallen[-1]], trajectory.positions[-1, fallen[-1]], look)
        facts |= {"direction": side} if side else {}
    clear = bool(fallen) == (margin < 0) and abs(margin) > 0.012
    return Verdict(bool(fallen), min((time for time in times if time is not None), default=None), facts, clear)


# --- link -------------------------------------------------------------------------------------------------------------


def build_link(rng: Rng) -> Scene:
    """A red ring slides towards yellow; a post stands inside of it and holds it back once it is taut, or beside it."""
    colours, side = palette(rng, "red", "yellow"), 1 if rng.random() < 0.5 else -1
    radius, tube = float(rng.uniform(0.18, 0.27)), float(rng.uniform(0.028, 0.04))
    thick = float(rng.uniform(0.025, 0.04))
    room = 0.92 * radius - tube - 1.5 * thick  # how far from the ring's centre a post fits
    if rng.random() < 0.7:
        away, turn = room * float(np.sqrt(rng.random())), float(rng.uniform(0, 2 * np.pi))
        post = np.array([np.cos(turn), np.sin(turn)]) * away
    else:
        post = np.array([rng.uniform(-0.2, 0.5), rng.choice([-1, 1]) * (radius + tube + rng.uniform(0.07, 0.2))])
    speed, high = float(rng.uniform(0.8, 2.4)), float(rng.uniform(0.18, 0.35))
    red = Body("red", "ring", (radius, tube), (0.0, 0.0, tube + 1e-3), velocity=(side * speed, 0.0, 0.0))
    red.friction = float(rng.uniform(0.05, 0.45))
    gap, other = float(rng.choice([rng.uniform(0.04, 0.2), rng.uniform(0.1, 0.9)])), float(rng.uniform(0.1, 0.18))
    place = side * (radius + tube + gap + other)
    yellow = solid(rng, "yellow", other, place, float(rng.normal() * 0.1))
    foot = (side * float(post[0]), float(post[1]), high)
    extra = distractors(rng, colours[2:], int(rng.choice([0, 0, 1, 2])), 1.2)
    notes = {"linked": bool(np.hypot(*post) < radius), "needs_depth": True}
    focus, view = (0.45 * place, 0.0, 0.1), 0.5 * abs(place) + radius + 0.25
    return Scene([red, yellow, *extra], [Prop((thick, thick, high), foot)], focus, view, notes, contacts=True)


def judge_link(scene: Scene, trajectory: Trajectory, look: Look) -> Verdict:
    """Held back: it was threaded and came to rest against the post."""
    time, linked, post = contact(trajectory, 0, 1), scene.notes["linked"], scene.props[0]
    end = trajectory.positions[-1, 0, :2]
    radius, tube = scene.bodies[0].half
    taut = float(np.hypot(*(end - post.pos[:2]))) > radius - tube - 2.2 * post.half[0]
    reason = "meets" if time is not None else "held back" if linked and taut else _why_not(trajectory)
    moved = image_side(trajectory.positions[0, 0], trajectory.positions[trajectory.at(0.5), 0], look)
    return Verdict(time is not None, time, {"reason": reason} | ({"direction": moved} if moved else {}))


def _why_not(trajectory: Trajectory) -> str:
    """What kept red from yellow: it stopped by itself on the way, or it went by."""
    path = trajectory.positions[:, 0, :2]
    towards = trajectory.positions[0, 1, :2] - path[0]
    ahead = float((trajectory.positions[-1, 1, :2] - path[-1]) @ towards)
    return "stops" if ahead > 0 and np.linalg.norm(path[-1] - path[-50]) < 5e-3 else "passes"


# --- drape ------------------------------------------------------------------------------------------------------------


def build_drape(rng: Rng) -> Scene:
    """A red cloth comes down over yellow, beside it, or on taller things that hold it up like a tent."""
    colours = palette(rng, "yellow", "red")
    half, height = float(rng.uniform(0.35, 0.55)), float(rng.uniform(0.8, 1.1))
    size = float(rng.uniform(0.06, 0.13))
    yellow = solid(rng, "yellow", size, 0.0, 0.0, density=2000.0)
    around = float(rng.uniform(0, np.pi))
    apart = 1.4 * size + float(rng.uniform(0.1, 0.22))
    count = int(rng.choice([0, 1, 2, 2, 2]))
    bodies = [yellow] + [
        _pillar(rng, colours[2 + k], apart * side * np.cos(around), apart * side * np.sin(around))
        for k, side in enumerate((1, -1)[:count])
    ]
    off = float(rng.choice([rng.uniform(0, 0.3), rng.uniform(0.6, 1.4)])) * (half + size)
    turn = float(rng.uniform(0, 2 * np.pi))
    pos = (off * float(np.cos(turn)), off * float(np.sin(turn)), height)
    cloth = Body("red", "cloth", (half, half, 0.012), pos, density=0.4, friction=float(rng.uniform(0.3, 0.8)))
    focus = (0.4 * pos[0], 0.4 * pos[1], 0.35 * height)
    notes = {"pillars": count}
    return Scene([*bodies, cloth], [], focus, 0.5 * height + 0.4 * off + 0.35, notes, contacts=True, timestep=0.01)


def _pillar(rng: Rng, colour: str, x: float, y: float) -> Body:
    wide, high = float(rng.uniform(0.05, 0.1)), float(rng.uniform(0.15, 0.35))
    return Body(colour, "box", (wide, wide, high), (float(x), float(y), high), density=4000.0, role="pillar")


def judge_drape(scene: Scene, trajectory: Trajectory, look: Look) -> Verdict:
    """Not touched: something else that the cloth lies on holds it up, or it has come down beside yellow."""
    cloth = len(scene.bodies) - 1
    time = contact(trajectory, 0, cloth)
    held = any(cloth in pair for pair in trajectory.contacts)
    reason = "over it" if time is not None else "held up" if held and _above(scene) else "beside"
    return Verdict(time is not None, time, {"reason": reason})


def foresee_drape(scene: Scene) -> bool | None:
    """Nothing is there to hold a cloth up that hangs over yellow, or it hangs well clear of yellow."""
    cloth, yellow = scene.bodies[-1], scene.bodies[0]
    clear = float(np.abs(np.subtract(yellow.pos[:2], cloth.pos[:2])).max()) - cloth.half[0]
    return True if clear < -0.05 and not scene.notes["pillars"] else False if clear > 0.25 else None


def _above(scene: Scene) -> bool:
    """Whether yellow stands under the cloth at the start."""
    cloth, yellow = scene.bodies[-1], scene.bodies[0]
    off: Array = np.abs(np.subtract(yellow.pos[:2], cloth.pos[:2]))
    return bool((off < cloth.half[0]).all())


PHYSION = (
    Scenario("drop", "touches", TOUCHES, build_drop, judge_drop, (0.125, 0.25)),
    Scenario(
        "support",
        "falls",
        "within 3 s the centre of the plank, a pillar or something on the plank sinks by more than half its height",
        build_support,
        judge_support,
        (0.0, 0.125, 0.25),
        lambda scene: bool(scene.notes["margins"][0] < 0),
    ),
    Scenario("link", "touches", TOUCHES, build_link, judge_link, (0.0, 0.125)),
    Scenario("drape", "touches", TOUCHES, build_drape, judge_drape, (0.0, 0.125, 0.25), foresee_drape),
)
