"""Shifted worlds: another look at the same stories, questions and rules.

To learn from: `views`, a camera anywhere from near the ground to high above and from in front to nearly the side, in
half of the clips turning, any lens, plain, coloured or dim light.
To test on: `shapes`, other shapes, floors and bodies with other patterns, hues turned a little; `camera`, views from
high up and from the side at once, through a long or a wide lens, turning further, light that may be hard with shadows.
Under `views` and `camera` a clip keeps the scene that its seed has without them, unless the view decides the outcome
(occlude): what is lost can be counted clip by clip.
"""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass, replace

import mujoco
import numpy as np
from numpy.typing import NDArray

from .scene import Body, Look, Rng, Scene

Pixels = NDArray[np.float64]
HUE = 0.025  # of the circle: 9 degrees, less than half the way between any two named colours


@dataclass(frozen=True)
class Shift:
    """How a scene is changed, and how it looks."""

    scene: Callable[[Scene, Rng], Scene]
    look: Callable[[Look, Scene, Rng], Look]


# --- shapes -----------------------------------------------------------------------------------------------------------


def _ball(body: Body, rng: Rng) -> Body:
    """An ellipsoid or a capsule that lie across x, along which stories run: they roll."""
    (r,), (x, y, z) = body.half, body.spin
    if rng.random() < 0.5:
        return replace(body, shape="ellipsoid", half=(r, 1.5 * r, r))
    spin = (x, z, -y)  # MuJoCo counts it in the body's own axes
    return replace(body, shape="capsule", half=(r, 0.6 * r), euler=(np.pi / 2, 0.0, 0.0), spin=spin)


def _cylinder(body: Body, rng: Rng) -> Body:
    """A prism where it stands; where it lies, as on a ramp, a capsule of the same length."""
    r, hz = body.half
    if body.euler[0]:
        return replace(body, shape="capsule", half=(r, max(hz - r, 0.2 * r)))
    return replace(body, shape="prism")


def _block(body: Body, rng: Rng) -> Body:
    return replace(body, shape=str(rng.choice(["cross", "arch"])))


REPLACED: dict[str, Callable[[Body, Rng], Body]] = {"ball": _ball, "cylinder": _cylinder, "box": _block}


def new_shapes(scene: Scene, rng: Rng) -> Scene:
    """Every body of a named shape gets one without a name, of the same height and about the same size."""
    bodies = [REPLACED[body.shape](body, rng) if body.shape in REPLACED else body for body in scene.bodies]
    return replace(scene, bodies=bodies)


def _stripes(size: int, rng: Rng) -> Pixels:
    """Slanted, 3 to 6 of them."""
    y, x = np.mgrid[:size, :size] / size
    turn, count = rng.uniform(0, np.pi), rng.integers(3, 7)
    return np.asarray(np.sin(2 * np.pi * count * (x * np.cos(turn) + y * np.sin(turn))) > 0, float)


def _dots(size: int, rng: Rng) -> Pixels:
    y, x = np.mgrid[:size, :size] / size * rng.integers(3, 6)
    return np.asarray((x % 1 - 0.5) ** 2 + (y % 1 - 0.5) ** 2 < 0.09, float)


def _noise(size: int, rng: Rng) -> Pixels:
    """Blotches of an eighth of the picture."""
    return np.asarray(np.kron(rng.random((8, 8)), np.ones((size // 8, size // 8))), float)


PATTERNS = (_stripes, _dots, _noise)


@dataclass(frozen=True)
class Paint:
    """Patterns [S, S] of 0..1 for the floor and for the bodies; how far the bodies' hues and brightness are moved.

    dark: what the bodies' colour is multiplied with where the pattern is 1.
    """

    floor: Pixels
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]
    body: Pixels
    dark: float
    hue: float
    value: float

    def __call__(self, model: mujoco.MjModel) -> None:
        floor = self.floor[..., None] * self.colours[0] + (1 - self.floor[..., None]) * self.colours[1]
        _upload(model, "floor", floor)
        _upload(model, "body", np.tile((1 - (1 - self.dark) * self.body)[..., None], (6, 1, 3)))
        for geom in np.flatnonzero(model.geom_bodyid):
            model.geom_rgba[geom, :3] = self._moved(model.geom_rgba[geom, :3])
        for flex in range(model.nflex):
            model.flex_rgba[flex, :3] = self._moved(model.flex_rgba[flex, :3])

    def _moved(self, rgb: NDArray[np.float32]) -> tuple[float, float, float]:
        hue, saturation, value = colorsys.rgb_to_hsv(*rgb.tolist())
        return colorsys.hsv_to_rgb((hue + self.hue) % 1, saturation, value * self.value)


def _upload(model: mujoco.MjModel, name: str, pixels: Pixels) -> None:
    """Replace a texture's pixels by [height, width, 3] of 0..1."""
    texture = model.tex(name)
    start = texture.adr[0]
    model.tex_data[start : start + pixels.size] = np.round(255 * pixels).astype(np.uint8).ravel()


def new_textures(look: Look, scene: Scene, rng: Rng) -> Look:
    """Stripes, dots or blotches on the floor and on the bodies."""
    floor, body = (PATTERNS[int(kind)] for kind in rng.integers(len(PATTERNS), size=2))
    paint = Paint(
        floor(64, rng), (look.floor, look.floor_other), body(32, rng), float(rng.uniform(0.5, 0.8)),
        float(rng.uniform(-HUE, HUE)), float(rng.uniform(0.75, 1.0)),
    )  # fmt: skip
    return replace(look, pattern=paint)


# --- camera -----------------------------------------------------------------------------------------------------------


def any_view(look: Look, scene: Scene, rng: Rng) -> Look:
    """From 4 to 65 degrees above and up to 70 to the side, through any lens; in half of the clips it turns."""
    low = scene.camera_low
    fovy = float(np.exp(rng.uniform(np.log(12), np.log(75))))
    turn = float(rng.uniform(-24, 24) if low else rng.uniform(-70, 70))
    elevation = -float(rng.uniform(1, 14) if low else rng.uniform(4, 65))
    pan = 0.0 if low or rng.random() < 0.5 else float(rng.uniform(-12, 12))
    view = _seen_from(look, scene, rng, fovy, turn, elevation, pan, 1.05)
    return (_plain, _coloured, _dim)[int(rng.integers(3))](view, rng)


def new_view(look: Look, scene: Scene, rng: Rng) -> Look:
    """Above 42 degrees and more than 40 to the side, through a long or a wide lens; in half of the clips it turns."""
    low = scene.camera_low
    fovy = float(rng.uniform(*((14, 22), (66, 80))[int(rng.integers(2))]))
    side, way = (1 if coin < 0.5 else -1 for coin in rng.random(2))
    turn = float(rng.uniform(14, 24) if low else rng.uniform(40, 62)) * side
    elevation = -float(rng.uniform(10, 14) if low else rng.uniform(42, 62))
    pan = 0.0 if low or rng.random() < 0.5 else way * float(rng.uniform(8, 20))
    view = _seen_from(look, scene, rng, fovy, turn, elevation, pan, 1.1)
    return LIGHTS[int(rng.integers(len(LIGHTS)))](view, rng)


def _seen_from(
    look: Look, scene: Scene, rng: Rng, fovy: float, turn: float, elevation: float, pan: float, nearest: float
) -> Look:
    """Through this lens, from this side or the one across.

    A screen hides something only from near the ground and from the front: there the changes are smaller, and the camera
    stands still.
    """
    facing = 180.0 if not scene.camera_low and rng.random() < 0.5 else 0.0
    distance = float(rng.uniform(nearest, 1.4) * scene.radius / np.tan(np.radians(fovy / 2)))
    return replace(
        look, flat=False, fovy=fovy, azimuth=90 + facing + turn, elevation=elevation, distance=distance, pan=pan
    )


def _plain(look: Look, rng: Rng) -> Look:
    return look


def _coloured(look: Look, rng: Rng) -> Look:
    tone = colorsys.hsv_to_rgb(rng.random(), 0.45, 1.0)
    return replace(look, tone=tone, ambient=0.3, diffuse=0.7, specular=0.3)


def _dim(look: Look, rng: Rng) -> Look:
    return replace(look, ambient=float(rng.uniform(0.2, 0.28)), diffuse=float(rng.uniform(0.2, 0.3)), specular=0.0)


def _hard(look: Look, rng: Rng) -> Look:
    """Bright light from the side, 35 to 48 degrees high."""
    turn, sink = rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1.1)
    x, y, z = (np.array([np.cos(turn), np.sin(turn), -sink]) / np.hypot(1, sink)).tolist()
    lit = replace(look, light=(x, y, z), lamp=(-6 * x, -6 * y, -6 * z), shadows=True)
    return replace(lit, ambient=0.15, diffuse=0.85, specular=0.4)


LIGHTS = (_coloured, _dim, _hard)

SHIFTS: dict[str, Shift] = {
    "views": Shift(lambda scene, rng: scene, any_view),
    "shapes": Shift(new_shapes, new_textures),
    "camera": Shift(lambda scene, rng: scene, new_view),
}
