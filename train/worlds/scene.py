"""What a world is made of, and how it looks: bodies, static props, a camera, a light; compiled to a MuJoCo model.

Lengths are metres, masses kilograms, angles radians unless a name says degrees. z is up; a scene's story runs along
x, and the camera looks roughly along +y, so that the image's right is +x before the look turns the camera.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from ...perception.edit import PAINTS, WHITE

Rng = np.random.Generator
Array = NDArray[np.float64]

BOUNCE_STIFFNESS = 20_000.0  # 1/s^2: a hit lasts about four steps of the physics
RING = 8  # straight pieces of a ring: each costs as much to draw as a ball
CLOTH = 8  # points along a cloth's side
AIR = 0.002  # N s/m that brakes each point of a cloth: without it, steps of 10 ms can shake it off what it lies on
Pattern = Callable[[mujoco.MjModel], None]  # paints a compiled model

COLOURS: dict[str, tuple[float, float, float]] = {**PAINTS, WHITE: (0.95, 0.95, 0.95)}
SHAPES = {"box": "box", "ball": "sphere", "cylinder": "cylinder"}
"""Shapes that have a name in questions, and MuJoCo's name for them."""


@dataclass
class Body:
    """A movable object. `half` is (hx, hy, hz) of a box, (r,) of a ball, (r, hz) of a cylinder standing upright.

    Of shapes without a name in questions: (hx, hy, hz) of an ellipsoid, a cross (a plus sign seen from above) and an
    arch, (r, hz) of a capsule (cylinder part) and a prism (hexagonal), (r of the centre line, r of the tube) of a ring,
    (hx, hy, thickness) of a cloth, of which a scene has one at most, as its last body.
    bounce: the share of its speed that it keeps when it hits something; 0 is MuJoCo's own contact, which keeps little.
    """

    colour: str
    shape: str
    half: tuple[float, ...]
    pos: tuple[float, float, float]
    euler: tuple[float, float, float] = (0.0, 0.0, 0.0)
    velocity: tuple[float, float, float] = (0.0, 0.0, 0.0)
    spin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    density: float = 500.0
    friction: float = 0.7
    rolling: float = 0.0005
    role: str = "object"
    bounce: float = 0.0

    @property
    def height(self) -> float:
        """Full vertical extent at the start, metres (unrotated)."""
        return 2 * (self.half[0] if self.shape == "ball" else self.half[-1])


@dataclass
class Prop:
    """A static box: ramp, table, wall, screen."""

    half: tuple[float, float, float]
    pos: tuple[float, float, float]
    euler: tuple[float, float, float] = (0.0, 0.0, 0.0)
    friction: float = 0.7


@dataclass
class Scene:
    """Bodies and props, and what the camera should hold in view (a point and a radius).

    notes: what the scenario knows before anything moves (centre-of-mass margins, gap widths, ...), JSON values.
    camera_low: the camera must stay near the ground (a screen hides something only from there).
    contacts: whether the physics must note who touches whom (it costs time).
    timestep: of the physics, seconds.
    """

    bodies: list[Body]
    props: list[Prop] = field(default_factory=list)
    focus: tuple[float, float, float] = (0.0, 0.0, 0.4)
    radius: float = 1.2
    notes: dict[str, Any] = field(default_factory=dict)
    camera_low: bool = False
    contacts: bool = False
    timestep: float = 0.005


@dataclass(frozen=True)
class Look:
    """Everything that changes the picture and nothing that changes the physics."""

    azimuth: float  # degrees, as MuJoCo's free camera
    elevation: float  # degrees, negative looks down
    distance: float
    fovy: float  # degrees
    lookat: tuple[float, float, float]
    flat: bool  # even light, near-orthographic side view: the look of two-dimensional worlds
    floor: tuple[float, float, float]
    floor_other: tuple[float, float, float]
    floor_texture: str
    floor_repeat: float
    sky: tuple[float, float, float]
    sky_other: tuple[float, float, float]
    prop: tuple[float, float, float]
    light: tuple[float, float, float]
    ambient: float
    diffuse: float
    specular: float
    shadows: bool
    body_texture: float  # contrast of a checker on the bodies; 0 is plain
    tint: float  # jitter of the bodies' colours
    lamp: tuple[float, float, float] = (0.0, 0.0, 6.0)  # where the light stands: shadows fall within 4 m of its beam
    tone: tuple[float, float, float] = (1.0, 1.0, 1.0)  # colour of the light
    pan: float = 0.0  # degrees that the camera turns around the scene in the course of a clip
    pattern: Pattern | None = None  # painted over the textures

    def panned(self, share: float) -> "Look":
        """As the camera sees it after a share of the clip (0..1)."""
        return replace(self, azimuth=self.azimuth + self.pan * share)


def grey(rng: Rng, low: float, high: float, chroma: float = 0.08) -> tuple[float, float, float]:
    """A low-saturation colour, so that named colours belong to bodies alone."""
    rgb = rng.uniform(low, high) + rng.uniform(-chroma, chroma, 3)
    return tuple(np.clip(rgb, 0, 1))


def draw_look(rng: Rng, scene: Scene, shadows: float) -> Look:
    """Domain randomisation: camera, light, colours, textures; a sixth of the clips look two-dimensional."""
    flat = bool(rng.random() < 0.17) and not scene.notes.get("needs_depth", False)
    low = flat or scene.camera_low
    fovy = float(rng.uniform(6, 10) if flat else rng.uniform(28, 60))
    elevation = -float(rng.uniform(0, 3) if flat else rng.uniform(1, 9) if low else rng.uniform(6, 38))
    turn = 0.0 if flat else float(rng.uniform(-12, 12) if low else rng.uniform(-35, 35))
    margin = rng.uniform(0.95, 1.25)
    lookat = np.array(scene.focus) + rng.uniform(-0.08, 0.08, 3) * scene.radius
    towards = rng.normal(size=3) * 0.5 + np.array([0.0, 0.4, -1.0])
    return Look(
        azimuth=90 + turn + (180 if rng.random() < 0.5 and not scene.camera_low else 0),
        elevation=elevation,
        distance=float(margin * scene.radius / np.tan(np.radians(fovy / 2))),
        fovy=fovy,
        lookat=tuple(lookat),
        flat=flat,
        floor=grey(rng, 0.2, 0.85),
        floor_other=grey(rng, 0.2, 0.85),
        floor_texture=str(rng.choice(["checker", "gradient", "flat"])),
        floor_repeat=float(rng.uniform(1, 6)),
        sky=grey(rng, 0.15, 0.95, 0.12),
        sky_other=grey(rng, 0.15, 0.95, 0.12),
        prop=grey(rng, 0.25, 0.7, 0.1),
        light=tuple(towards / np.linalg.norm(towards)),
        ambient=float(rng.uniform(0.85, 1.0) if flat else rng.uniform(0.3, 0.6)),
        diffuse=float(rng.uniform(0.0, 0.1) if flat else rng.uniform(0.35, 0.75)),
        specular=float(rng.uniform(0, 0.5) * (not flat)),
        shadows=bool(rng.random() < shadows) and not flat,
        body_texture=float(rng.choice([0, 0, rng.uniform(0.1, 0.35)])),
        tint=float(rng.uniform(0, 0.09)),
    )


def _numbers(values: Any) -> str:
    return " ".join(f"{float(v):.6g}" for v in values)


def _assets(look: Look) -> str:
    texture = (
        f'<texture name="floor" type="2d" builtin="{look.floor_texture}" width="64" height="64" '
        f'rgb1="{_numbers(look.floor)}" rgb2="{_numbers(look.floor_other)}"/>'
        f'<texture type="skybox" builtin="gradient" width="32" height="32" rgb1="{_numbers(look.sky)}" '
        f'rgb2="{_numbers(look.sky if look.flat else look.sky_other)}"/>'
        f'<texture name="body" type="cube" builtin="checker" width="32" height="32" rgb1="1 1 1" '
        f'rgb2="{_numbers([1 - look.body_texture] * 3)}"/>'
    )
    return (
        f'<asset>{texture}<material name="floor" texture="floor" texrepeat="{_numbers([look.floor_repeat] * 2)}" '
        f'texuniform="true"/><material name="body" texture="body" specular="{look.specular:.3g}"/></asset>'
    )


def tinted(colour: str, look: Look, rng: Rng) -> Array:
    """A body's own shade of its colour, RGB in 0..1."""
    return np.clip(np.array(COLOURS[colour]) + rng.uniform(-look.tint, look.tint, 3), 0, 1)


def _box(half: Iterable[float], pos: Iterable[float] = (0, 0, 0), turn: float = 0.0) -> str:
    """Part of a body: a box, turned about z (degrees)."""
    return f'type="box" size="{_numbers(half)}" pos="{_numbers(pos)}" euler="0 0 {turn:.6g}"'


def _prism(r: float, hz: float) -> list[str]:
    """Three boxes fill a hexagon: each spans two opposite sides."""
    return [_box((r / 2, r * np.sqrt(0.75), hz), turn=turn) for turn in (0, 60, 120)]


def _cross(hx: float, hy: float, hz: float) -> list[str]:
    return [_box((hx, 0.45 * hy, hz)), _box((0.45 * hx, hy, hz))]


def _arch(hx: float, hy: float, hz: float) -> list[str]:
    legs = [_box((hx, 0.3 * hy, 0.7 * hz), (0, side * 0.7 * hy, -0.3 * hz)) for side in (-1, 1)]
    return [_box((hx, hy, 0.3 * hz), (0, 0, 0.7 * hz)), *legs]


def _ring(radius: float, tube: float) -> list[str]:
    angles = np.linspace(0, 2 * np.pi, RING + 1)
    joints = radius * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=-1)  # [RING + 1, 3]
    return [f'type="capsule" size="{tube:.6g}" fromto="{_numbers([*one, *other])}"' for one, other in pairwise(joints)]


COMPOUNDS: dict[str, tuple[Callable[..., list[str]], float]] = {
    "prism": (_prism, np.sqrt(27) / np.pi),
    "cross": (_cross, 0.9),
    "arch": (_arch, 0.72),
    "ring": (_ring, 1.0),
}
"""How a body is put together, and the volume of the parts over that of the box or the cylinder around it: prism, cross
and arch weigh as much as what they replace, or what is known of centres of mass would be wrong."""
ROLLING = ("ball", "cylinder", "ellipsoid", "capsule")


def _parts(body: Body) -> list[str]:
    """A body's geoms: type, size and place of each."""
    if body.shape in COMPOUNDS:
        return COMPOUNDS[body.shape][0](*body.half)
    return [f'type="{SHAPES.get(body.shape, body.shape)}" size="{_numbers(body.half)}"']


def _solref(bounce: float) -> str:
    """A contact as a spring and a damper (MuJoCo's direct solref) that gives back this share of the speed."""
    if not bounce:
        return ""
    log = np.log(bounce)
    damping = -2 * np.sqrt(BOUNCE_STIFFNESS) * log / np.hypot(np.pi, log)
    return f' solref="{-BOUNCE_STIFFNESS:.6g} {-damping:.6g}"'


def _body_xml(body: Body, index: int, rng: Rng, look: Look) -> str:
    rgb = tinted(body.colour, look, rng)
    friction = f"{body.friction:.4g} 0.003 {body.rolling:.5g}"
    if body.shape == "cloth":
        return _cloth_xml(body, friction, rgb)
    condim = 6 if body.shape in ROLLING else 3  # what rolls needs rolling friction
    density = body.density / COMPOUNDS[body.shape][1] if body.shape in COMPOUNDS else body.density
    geoms = "".join(
        f'<geom {part} density="{density:.5g}" friction="{friction}" condim="{condim}" priority="1"'
        f'{_solref(body.bounce)} material="body" rgba="{_numbers(rgb)} 1"/>'
        for part in _parts(body)
    )
    euler = _numbers(np.degrees(body.euler))
    return f'<body name="body{index}" pos="{_numbers(body.pos)}" euler="{euler}"><freejoint/>{geoms}</body>'


def _cloth_xml(body: Body, friction: str, rgb: Array) -> str:
    """A square grid of points, their distances kept: `density` is of its area, kg/m^2."""
    hx, hy, thick = body.half
    spacing = (2 * hx / (CLOTH - 1), 2 * hy / (CLOTH - 1), 1.0)  # the last is of layers, and there is one
    return (
        f'<flexcomp name="cloth" type="grid" dim="2" count="{CLOTH} {CLOTH} 1" spacing="{_numbers(spacing)}" '
        f'pos="{_numbers(body.pos)}" mass="{4 * hx * hy * body.density:.5g}" radius="{thick:.5g}" '
        f'rgba="{_numbers(rgb)} 1"><edge equality="true" damping="0.01"/>'
        f'<contact selfcollide="none" friction="{friction}"/></flexcomp>'
    )


def compile_scene(scene: Scene, look: Look, rng: Rng) -> mujoco.MjModel:
    """The scene as a MuJoCo model: body i of the scene is `body{i}`, body i + 1 of the model (0 is the world)."""
    props = "".join(
        f'<geom type="box" size="{_numbers(p.half)}" pos="{_numbers(p.pos)}" euler="{_numbers(np.degrees(p.euler))}" '
        f'friction="{p.friction:.4g} 0.003 0.0005" rgba="{_numbers(look.prop)} 1"/>'
        for p in scene.props
    )
    bodies = "".join(_body_xml(body, i, rng, look) for i, body in enumerate(scene.bodies))
    xml = (
        '<mujoco><compiler angle="degree"/>'
        f'<option timestep="{scene.timestep:.4g}" integrator="implicitfast" iterations="20"/>'
        '<statistic extent="4" center="0 0 0"/>'
        f'<visual><headlight ambient="{_numbers([look.ambient] * 3)}" diffuse="0 0 0" specular="0 0 0"/>'
        f'<global fovy="{look.fovy:.4g}"/><quality shadowsize="512" offsamples="0"/>'
        '<map znear="0.02" zfar="200"/></visual>'
        f'{_assets(look)}<worldbody><light directional="true" dir="{_numbers(look.light)}" pos="{_numbers(look.lamp)}" '
        f'castshadow="{str(look.shadows).lower()}" diffuse="{_numbers(look.diffuse * np.array(look.tone))}" '
        f'ambient="0 0 0" specular="{_numbers([look.specular] * 3)}"/>'
        f'<geom type="plane" size="30 30 1" material="floor"/>{props}{bodies}</worldbody></mujoco>'
    )
    model = mujoco.MjModel.from_xml_string(xml)
    if model.nflex:
        model.dof_damping[6 * (len(scene.bodies) - 1) :] = AIR
    if look.pattern is not None:
        look.pattern(model)
    return model


def camera_axes(look: Look) -> tuple[Array, Array, Array, Array]:
    """Position, and the unit vectors forward, right and up, of MuJoCo's free camera."""
    az, el = np.radians(look.azimuth), np.radians(look.elevation)
    forward = np.array([np.cos(el) * np.cos(az), np.cos(el) * np.sin(az), np.sin(el)])
    right = np.array([np.sin(az), -np.cos(az), 0.0])
    return np.array(look.lookat) - look.distance * forward, forward, right, np.cross(right, forward)


def project(points: Array, look: Look) -> Array:
    """World points [..., 3] to image coordinates [..., 2]: (0, 0) is the top left corner, (1, 1) the bottom right."""
    position, forward, right, up = camera_axes(look)
    ray = points - position
    scale = 2 * (ray @ forward) * np.tan(np.radians(look.fovy / 2))
    return np.stack([0.5 + (ray @ right) / scale, 0.5 - (ray @ up) / scale], axis=-1)
