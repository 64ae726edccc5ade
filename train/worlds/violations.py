"""Violations of expectation: quadruplets of clips, two of them possible and two not, one law broken at a known frame.

After IntPhys (Riochet et al. 2018, arXiv 1803.07616) and IntPhys 2 (Bordes et al. 2025, arXiv 2506.09849):
two possible tales, a and b, look alike at one frame, the break: behind a screen, or because things lie alike and only
move differently. The possible clips are aa and bb; in ab and ba the state of the world is exchanged for the other
tale's at the break. So every frame of an impossible clip is, at the same time, a frame of a possible one: neither a
frame, nor the first part, nor the last part tells them apart; only both parts together do.

Shapes: T frames, n of the cast. Lengths in metres, times in seconds.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .generate import ATTEMPTS, X264, Spec, Summary, check, contact_sheet, encode, make_all
from .parts import palette
from .physics import Painter, simulate
from .questions import Row
from .scene import Array, Body, Look, Rng, Scene, compile_scene, draw_look

STILL = f"{X264}:keyint=1"  # each frame on its own: after encoding, too, a frame does not tell what came before it
SLICK = 0.02  # friction of what moves: it slows down little and as mechanics says, so that two tales meet at the break
GRAVITY = 9.81
LEVELS = 8  # grey levels that do not count as a difference
AREA = 0.004  # share of the picture that must differ for a difference to be seen
MEMORY = 0.75  # seconds at most from the last look at the first part to the first look at what broke
GONE = (0.0, 0.0, -20.0, 1.0, 0.0, 0.0, 0.0)  # pose under the floor, where nothing is seen
SHAPES = ("box", "ball", "cylinder")


@dataclass(frozen=True)
class Screen:
    """A panel that hides things. It passes through `places` [K, 3], its centre, at `times` [K], straight in between."""

    half: tuple[float, float, float]
    times: tuple[float, ...]
    places: tuple[tuple[float, float, float], ...]

    def path(self, times: Array) -> Array:
        """Where it is: [T, 3]."""
        return np.stack([np.interp(times, self.times, axis) for axis in np.transpose(self.places)], axis=-1)


@dataclass(frozen=True)
class Plot:
    """Two tales: of each of the cast, how it starts in the one and in the other (None: it is not there).

    elevation: degrees between which the camera looks down. how: what kind of event it is, for the metadata.
    """

    cast: list[tuple[Body | None, Body | None]]
    how: str
    screen: Screen | None = None
    elevation: tuple[float, float] = (2.0, 9.0)
    focus: tuple[float, float, float] = (0.0, 0.0, 0.3)
    radius: float = 1.1


def thing(
    colour: str, shape: str, size: float, place: tuple[float, float, float], when: float = 0.0, speed: float = 0.0,
    density: float = 500.0,
) -> Body:  # fmt: skip
    """A box, ball or cylinder of half extent `size` whose base is at `place` at the time `when`, moving along x."""
    half = {"box": (size, size, size), "ball": (size,), "cylinder": (size, size)}[shape]
    rate, drag = (speed / size, 0.0) if shape == "ball" else (0.0, np.sign(speed) * SLICK * GRAVITY)
    (x, y, base), start = place, speed + drag * when
    return Body(
        colour, shape, half, (x - (speed + start) / 2 * when, y, base + size), (0.0, -rate * when, 0.0),
        (start, 0.0, 0.0), (0.0, rate, 0.0), density=density, friction=SLICK, rolling=1e-4,
    )  # fmt: skip


def block(colour: str, half: tuple[float, float, float], x: float, y: float = 0.0, friction: float = 0.7) -> Body:
    """A box too heavy to be moved by what runs into it."""
    return Body(colour, "box", half, (x, y, half[2]), density=20_000.0, friction=friction)


def sides(rng: Rng) -> int:
    """Left or right."""
    return 1 if rng.random() < 0.5 else -1


def size_of(rng: Rng) -> float:
    """Half extent of what a story is about."""
    return float(rng.uniform(0.15, 0.22))


def pace(rng: Rng) -> float:
    """At rest or slowly along x, m/s."""
    return 0.0 if rng.random() < 0.5 else sides(rng) * float(rng.uniform(0.2, 0.6))


def sweeping(rng: Rng, x: float, when: float, reach: float) -> Screen:
    """A panel that passes by, in front of x when it is time; `reach` to either side is hidden then."""
    half = (reach + float(rng.uniform(0.15, 0.25)), 0.02, float(rng.uniform(0.36, 0.44)))
    speed, y = sides(rng) * float(rng.uniform(1.6, 2.2)), -0.3
    ends = tuple((x + speed * span, y, half[2]) for span in (-4.0, 4.0))
    return Screen(half, (when - 4.0, when + 4.0), ends)


def curtain(rng: Rng, x: float, when: float, reach: float, lifts: bool, height: float = 0.42) -> Screen:
    """A panel that comes down in front of x shortly before it is time, and goes up again, or stays."""
    half = (reach + float(rng.uniform(0.1, 0.15)), 0.02, height)
    hold, fall = float(rng.uniform(0.08, 0.13)), float(rng.uniform(0.2, 0.3))
    times = (when - hold - fall, when - hold, when + hold, when + hold + fall)
    low, high = (x, -0.3, height), (x, -0.3, height + 2.4)
    return Screen(half, times if lifts else times[:2], (high, low, low, high) if lifts else (high, low))


def hidden_once(rng: Rng, x: float, when: float, reach: float) -> tuple[Screen, str]:
    """A panel that hides a place for a moment, and in which way."""
    if rng.random() < 0.5:
        return sweeping(rng, x, when, reach), "sweep"
    return curtain(rng, x, when, reach, lifts=True), "curtain"


def permanence(rng: Rng, when: float) -> Plot:
    """Something is there or is not; a panel hides the place for a moment; then it is not, or is."""
    size, x, speed = size_of(rng), float(rng.uniform(-0.4, 0.4)), pace(rng)
    body = thing(palette(rng)[0], str(rng.choice(SHAPES)), size, (x, 0.0, 0.0), when, speed)
    screen, how = hidden_once(rng, x, when, size)
    return Plot([(body, None)], f"{how}, {'moves' if speed else 'rests'}", screen)


def immutability(rng: Rng, when: float) -> Plot:
    """Something has one colour and shape; a panel hides it for a moment; then it has another colour or shape."""
    size, x, speed = size_of(rng), float(rng.uniform(-0.4, 0.4)), pace(rng)
    colour, other = palette(rng)[:2]
    shape, unlike = (str(one) for one in rng.permutation(SHAPES)[:2])
    recoloured = rng.random() < 0.5
    one = thing(colour, shape, size, (x, 0.0, 0.0), when, speed)
    two = thing(*((other, shape) if recoloured else (colour, unlike)), size, (x, 0.0, 0.0), when, speed)
    screen, how = hidden_once(rng, x, when, size)
    what = "colour" if recoloured else "shape"
    return Plot([(one, None), (None, two)], f"{what}, {how}, {'moves' if speed else 'rests'}", screen)


def continuity(rng: Rng, when: float) -> Plot:
    """Something is in one place; a panel hides two places for a moment; then it is in the other."""
    size, speed, apart = size_of(rng), pace(rng), float(rng.uniform(0.2, 0.3))
    colour, shape = palette(rng)[0], str(rng.choice(SHAPES))
    x = float(rng.uniform(-0.3, 0.3))
    here, there = (
        thing(colour, shape, size, (x + side * apart, 0.0, 0.0), when, speed) for side in rng.permutation([-1, 1])
    )
    screen, how = hidden_once(rng, x, when, size + apart)
    return Plot([(here, there)], f"{how}, {'moves' if speed else 'rests'}", screen)


def solidity(rng: Rng, when: float) -> Plot:
    """A wall stands in the way or beside it; a curtain falls; what runs behind it comes out again, or does not."""
    side, size, speed = sides(rng), float(rng.uniform(0.13, 0.18)), float(rng.uniform(1.3, 1.9))
    colour, walls, *_ = palette(rng)
    half = (0.07, 0.2, float(rng.uniform(0.28, 0.36)))
    start = -side * (size + half[0] + 0.03)
    runner = thing(colour, str(rng.choice(SHAPES)), size, (start, 0.0, 0.0), when, side * speed)
    screen = curtain(rng, 0.0, when, 2 * size + 0.12, lifts=False, height=0.5)
    wall = block(walls, half, 0.0), block(walls, half, 0.0, 0.6)
    return Plot([(runner, runner), wall], "wall", screen, elevation=(10.0, 18.0))


def collision(rng: Rng, when: float) -> Plot:
    """One thing lies in another's way or beside it; a curtain falls; out comes the one that was hit, or the other."""
    side, size, other = sides(rng), float(rng.uniform(0.13, 0.18)), float(rng.uniform(0.13, 0.18))
    colour, hit, *_ = palette(rng)
    speed = float(rng.uniform(1.5, 2.1))
    mover, shape = (str(one) for one in rng.choice(SHAPES, 2))
    start = -side * (size + other + 0.03)
    runner = thing(colour, mover, size, (start, 0.0, 0.0), when, side * speed, density=1500.0)
    target = tuple(thing(hit, shape, other, (0.0, y, 0.0), density=400.0) for y in (0.0, 0.6))
    screen = curtain(rng, -side * size, when, 2 * size + other, lifts=False, height=0.5)
    return Plot([(runner, runner), (target[0], target[1])], "hit", screen, elevation=(10.0, 18.0))


def gravity(rng: Rng, when: float) -> Plot:
    """A table ends or goes on; a panel hides its end; what slides over it falls or goes straight on."""
    side, size, speed = sides(rng), float(rng.uniform(0.1, 0.14)), float(rng.uniform(0.6, 0.9))
    colour, tables, *_ = palette(rng)
    height, back, ahead = float(rng.uniform(0.34, 0.42)), speed * when + 0.4, 1.1
    short = block(tables, (back / 2, 0.1, height / 2), -side * back / 2, friction=SLICK)
    long = block(tables, ((back + ahead) / 2, 0.1, height / 2), side * (ahead - back) / 2, friction=SLICK)
    slider = thing(colour, str(rng.choice(SHAPES)), size, (-side * 0.02, 0.0, height), when, side * speed)
    half = (0.7, 0.02, height / 2 + 0.03)
    rest = (side * 0.55, -0.16, half[2])
    screen = Screen(half, (when - 0.45, when - 0.05), ((rest[0] + side * 2.2, *rest[1:]), rest))
    return Plot(
        [(slider, slider), (short, None), (None, long)], "edge", screen, (0.5, 3.0), (0.0, 0.0, 0.35), 1.0
    )  # fmt: skip


def inertia(rng: Rng, when: float) -> Plot:
    """Something moves straight on or rests, or comes the other way; it stops, starts or turns back for no reason."""
    size, x, y = size_of(rng), float(rng.uniform(-0.2, 0.2)), float(rng.uniform(-0.2, 0.2))
    speed, turns = sides(rng) * float(rng.uniform(0.7, 1.3)), bool(rng.random() < 0.5)
    colour, shape = palette(rng)[0], str(rng.choice(SHAPES))
    one, two = (thing(colour, shape, size, (x, y, 0.0), when, v) for v in (speed, -speed if turns else 0.0))
    return Plot([(one, two)], "turns" if turns else "stops or starts", elevation=(6.0, 30.0))


PROPERTIES: dict[str, Callable[[Rng, float], Plot]] = {
    build.__name__: build for build in (permanence, immutability, continuity, solidity, gravity, inertia, collision)
}


def unused(rng: Rng, bodies: list[Body]) -> list[str]:
    """Colours that none of these has, in random order."""
    used = {body.colour for body in bodies}
    return [colour for colour in palette(rng) if colour not in used]


def bystanders(rng: Rng, bodies: list[Body]) -> list[Body]:
    """One or two resting things of other colours than these, behind all that happens."""
    places = rng.permutation([-0.8, 0.0, 0.8])[: rng.integers(1, 3)]
    return [
        thing(colour, str(rng.choice(SHAPES)), float(rng.uniform(0.07, 0.12)), (x, float(rng.uniform(0.9, 1.2)), 0.0))
        for colour, x in zip(unused(rng, bodies), places.tolist(), strict=False)
    ]


def poses(bodies: list[Body | None], look: Look, times: Array) -> Array:
    """One tale simulated: where each of the cast is, [T, n, 7]; those that are not there lie under the floor."""
    present = [place for place, body in enumerate(bodies) if body is not None]
    scene = Scene([body for body in bodies if body is not None])
    path = simulate(compile_scene(scene, look, np.random.default_rng(0)), scene, float(times[-1]))
    steps = [path.at(time) for time in times]
    found = np.tile(np.array(GONE), (len(times), len(bodies), 1))
    found[:, present] = np.concatenate([path.positions[steps], path.quaternions[steps]], axis=-1)
    return found


def screen_poses(screen: Screen, times: Array) -> Array:
    """Where the screen is, [T, 1, 7]."""
    upright = np.tile([1.0, 0.0, 0.0, 0.0], (len(times), 1))
    return np.concatenate([screen.path(times), upright], axis=1)[:, None]


def play(plot: Plot, rng: Rng, spec: Spec, painter: Painter) -> NDArray[np.uint8]:
    """The pictures of both tales: [2, T, S, S, 3]. One look, one set of bystanders for both."""
    extras = bystanders(rng, [body for pair in plot.cast for body in pair if body is not None])
    cast = [*plot.cast, *((body, body) for body in extras)]
    bodies = [body for one, two in cast if (body := one or two) is not None]
    tales = [[pair[tale] for pair in cast] for tale in (0, 1)]
    screens = [] if plot.screen is None else [plot.screen]
    panels = [Body(unused(rng, bodies)[0], "box", screen.half, GONE[:3]) for screen in screens]
    scene = Scene(
        bodies + panels, [], plot.focus, plot.radius, {"needs_depth": True}, camera_low=plot.screen is not None
    )  # fmt: skip
    look = replace(draw_look(rng, scene, spec.shadows), elevation=-float(rng.uniform(*plot.elevation)))
    model = compile_scene(scene, look, rng)
    hidden = [screen_poses(screen, spec.times) for screen in screens]
    states = [np.concatenate([poses(tale, look, spec.times), *hidden], axis=1) for tale in tales]  # each [T, n, 7]
    return np.stack([painter.draw(model, look, state.reshape(len(state), -1)) for state in states])


@dataclass(frozen=True)
class Quadruplet:
    """Pictures [2, T, S, S, 3] of two tales that look alike at the frame `breaks`; `shows`: the first frame after it
    at which they do not."""

    how: str
    frames: NDArray[np.uint8]
    breaks: int
    shows: int

    def clip(self, first: int, last: int) -> NDArray[np.uint8]:
        """Begun as one tale and ended as another: [T, S, S, 3]."""
        return np.concatenate([self.frames[first, : self.breaks], self.frames[last, self.breaks :]])


def shown_at(frames: NDArray[np.uint8], breaks: int, fps: float) -> int | None:
    """The first frame that shows what broke, where two tales [2, T, S, S, 3] make a fair quadruplet, else None.

    Fair: nothing tells them apart at the break, while both parts can be told apart, and from the last look at the first
    part to the first look at the last one no more than MEMORY passes.
    """
    one, two = frames.astype(np.int16)
    differs = (np.abs(one - two) > LEVELS).any(-1).mean((1, 2))  # [T]
    seen = np.flatnonzero(differs >= AREA)
    before, after = seen[seen < breaks], seen[seen > breaks]
    if differs[breaks] or not len(before) or len(after) < 2 or after[0] - before[-1] > MEMORY * fps:
        return None
    return int(after[0])


def find(name: str, seed: int, spec: Spec, painter: Painter) -> Quadruplet:
    """The break first, around the middle of the clip; then plot after plot until one makes a fair quadruplet."""
    rng = np.random.default_rng([seed, list(PROPERTIES).index(name), 104])
    breaks = int(rng.integers(round(0.4 * spec.frames), round(0.6 * spec.frames) + 1))
    for _ in range(ATTEMPTS):
        plot = PROPERTIES[name](rng, breaks / spec.fps)
        frames = play(plot, rng, spec, painter)
        shows = shown_at(frames, breaks, spec.fps)
        if shows is not None:
            return Quadruplet(plot.how, frames, breaks, shows)
    raise RuntimeError(f"{name} with seed {seed}: no plot made a fair quadruplet in {ATTEMPTS} tries")


def make_quadruplet(name: str, seed: int, spec: Spec, painter: Painter, out: Path) -> list[Row]:
    """Write the four clips aa, bb (possible), ab and ba (not); returns their rows of violations.jsonl.

    `pair` names the two clips, one possible and one not, that share all before the break.
    """
    made, scene = find(name, seed, spec, painter), f"{name}-{seed}"
    rows = []
    for first, last in ((0, 0), (1, 1), (0, 1), (1, 0)):
        video = f"clips/{scene}-{'ab'[first]}{'ab'[last]}.mp4"
        encode(made.clip(first, last), out / video, spec.fps, STILL)
        rows.append(
            {"quadruplet": scene, "property": name, "seed": seed, "how": made.how, "video": video,
             "pair": f"{scene}-{'ab'[first]}", "possible": first == last, "fps": spec.fps, "frames": spec.frames,
             "size": spec.size, "breaks": _when(made.breaks, spec), "shows": _when(made.shows, spec)}
        )  # fmt: skip
    return rows


def _when(frame: int, spec: Spec) -> Row:
    return {"frame": frame, "seconds": frame / spec.fps}


def _numbered(number: int, painter: Painter, out: Path, seed: int, spec: Spec) -> list[Row]:
    return make_quadruplet(spec.scenarios[number % len(spec.scenarios)], seed + number, spec, painter, out)


def generate_violations(
    out: Path, clips: int, seed: int, spec: Spec, workers: int = 1, preview: Path | None = None, progress: bool = True
) -> Summary:
    """Write out/clips/*.mp4 and violations.jsonl: clips / 4 quadruplets, seeds from `seed` on; resumable by parts.

    spec.scenarios: properties, taken in turn. Raises ValueError on an impossible request or a folder with other worlds.
    """
    if spec.shift is not None:
        raise ValueError("violations come without a shift: leave out --shift or --violations")
    if clips % 4:
        raise ValueError(f"{clips} clips: quadruplets have 4 clips each, give a multiple of 4")
    if spec.engine != Spec.engine:
        raise ValueError(f"violations are played by {Spec.engine} alone, not by {spec.engine}")
    check(out, clips, seed, spec, PROPERTIES)
    rows = make_all(out, clips // 4, spec, partial(_numbered, out=out, seed=seed, spec=spec), workers, progress)
    (out / "violations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if preview:
        contact_sheet(out, rows, preview, _caption)
    return Summary(out, len(rows), 0, dict(Counter(row["property"] for row in rows)))


def _caption(row: Row) -> str:
    told = "possible" if row["possible"] else f"impossible, shown at {row['shows']['seconds']:.2f} s"
    return f"{row['pair']}\n{row['how']}\nbreak at {row['breaks']['seconds']:.2f} s\n{told}"
