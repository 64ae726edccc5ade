"""The same stories in another engine: scenes played by Bullet and drawn by its software renderer (extra `bullet`).

Nothing of the embedded model has seen either, so worlds made here tell what its figures are worth away from MuJoCo.
Scenes, outcomes, `until` and questions are those of the other modules; contacts, friction, integrator and shading are
Bullet's. Floors and bodies are plain, as its primitives wear no texture, and nothing casts a shadow: its renderer
darkens a floor as wide as this one as a whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from .physics import HORIZON, Trajectory
from .scene import Array, Body, Look, Prop, Rng, Scene, camera_axes, tinted

EXTRA = "pip install 'foretell[bullet]'"
STEPS = 240  # a second, Bullet's own default
GROUND = 12.0  # metres, half a side
SPINNING = 0.003  # as in MuJoCo's worlds


def package() -> Any:
    """The module `pybullet`. Raises ValueError where it is not installed."""
    try:
        import pybullet
    except ModuleNotFoundError:
        raise ValueError(f"worlds by Bullet need the package pybullet: {EXTRA}") from None
    return pybullet


@dataclass(frozen=True)
class Cast:
    """A scene and its bodies' colours, [n, 3] in 0..1: what `Painter` draws."""

    scene: Scene
    colours: Array

    @classmethod
    def of(cls, scene: Scene, look: Look, rng: Rng) -> "Cast":
        return cls(scene, np.array([tinted(body.colour, look, rng) for body in scene.bodies]))


def turned(euler: tuple[float, float, float]) -> list[float]:
    """Bullet's quaternion (x, y, z, w) of MuJoCo's Euler angles: about the body's own x, then y, then z."""
    turn: list[float] = Rotation.from_euler("XYZ", euler).as_quat().tolist()
    return turn


def volume(body: Body) -> float:
    """Cubic metres."""
    match body.shape:
        case "box":
            return float(8 * np.prod(body.half))
        case "ball":
            return float(4 / 3 * np.pi * body.half[0] ** 3)
        case _:
            return float(2 * np.pi * body.half[0] ** 2 * body.half[1])


class Stage:
    """A Bullet world of its own, without a window."""

    def __init__(self) -> None:
        self.bullet = package()
        self.client = self.bullet.connect(self.bullet.DIRECT)

    def call(self, name: str, *args: Any, **options: Any) -> Any:
        """One of pybullet's functions, in this world."""
        return getattr(self.bullet, name)(*args, **options, physicsClientId=self.client)

    def close(self) -> None:
        self.call("disconnect")

    def build(self, cast: Cast, look: Look) -> list[int]:
        """Ground, props and bodies of a scene; the bodies' numbers."""
        self.call("resetSimulation")
        self.call("setPhysicsEngineParameter", fixedTimeStep=1 / STEPS, deterministicOverlappingPairs=1)
        self.call("setGravity", 0, 0, -9.81)
        self._fixed(Prop((GROUND, GROUND, 0.5), (0.0, 0.0, -0.5)), look.floor)
        for prop in cast.scene.props:
            self._fixed(prop, look.prop)
        return [self._body(body, rgb) for body, rgb in zip(cast.scene.bodies, cast.colours, strict=True)]

    def _fixed(self, prop: Prop, rgb: tuple[float, float, float]) -> None:
        self._add("GEOM_BOX", {"halfExtents": prop.half}, 0.0, prop.pos, prop.euler, rgb, lateralFriction=1.0)

    def _body(self, body: Body, rgb: Array) -> int:
        """Bullet multiplies the frictions of what touches: with 1 on ground and props the body's own remains."""
        shapes: dict[str, tuple[str, dict[str, Any]]] = {
            "box": ("GEOM_BOX", {"halfExtents": body.half}),
            "ball": ("GEOM_SPHERE", {"radius": body.half[0]}),
            "cylinder": ("GEOM_CYLINDER", {"radius": body.half[0], "height": 2 * body.half[-1]}),
        }
        number = self._add(
            *shapes[body.shape], body.density * volume(body), body.pos, body.euler, rgb, lateralFriction=body.friction,
            rollingFriction=0.0 if body.shape == "box" else body.rolling, spinningFriction=SPINNING, linearDamping=0.0,
            angularDamping=0.0,
        )  # fmt: skip
        self.call("resetBaseVelocity", number, body.velocity, body.spin)
        return number

    def _add(
        self, kind: str, shape: dict[str, Any], mass: float, pos: Any, euler: Any, rgb: Any, **dynamics: float
    ) -> int:
        kind = getattr(self.bullet, kind)
        solid = self.call("createCollisionShape", kind, **shape)
        drawn = {("length" if name == "height" else name): value for name, value in shape.items()}
        visible = self.call("createVisualShape", kind, **drawn, rgbaColor=[*rgb, 1.0])
        number: int = self.call("createMultiBody", mass, solid, visible, pos, turned(euler))
        self.call("changeDynamics", number, -1, **dynamics)
        return number

    def poses(self, bodies: list[int]) -> list[tuple[float, ...]]:
        """[x, y, z, qw, qx, qy, qz] of each body."""
        found = [self.call("getBasePositionAndOrientation", body) for body in bodies]
        return [(*place, turn[3], *turn[:3]) for place, turn in found]

    def run(self, cast: Cast, look: Look) -> Trajectory:
        """Step the physics for HORIZON seconds, noting contacts where the scene asks for them."""
        bodies = self.build(cast, look)
        numbers, contacts = {body: i for i, body in enumerate(bodies)}, dict[tuple[int, int], float]()
        poses = [self.poses(bodies)]
        for step in range(1, round(HORIZON * STEPS) + 1):
            self.call("stepSimulation")
            poses.append(self.poses(bodies))
            for touch in self.call("getContactPoints") if cast.scene.contacts else ():
                if touch[1] in numbers and touch[2] in numbers and touch[8] <= 0:
                    one, other = sorted((numbers[touch[1]], numbers[touch[2]]))
                    contacts.setdefault((one, other), step / STEPS)
        path = np.array(poses)  # [S, n, 7]
        return Trajectory(
            np.arange(len(path)) / STEPS, path[..., :3], path[..., 3:], path.reshape(len(path), -1), contacts
        )


class Painter:
    """Plays and draws: the counterpart of MuJoCo's painter. Raises ValueError where pybullet is not installed."""

    def __init__(self, size: int) -> None:
        self.size, self.stage = size, Stage()

    def play(self, scene: Scene, look: Look, rng: Rng) -> tuple[Cast, Trajectory]:
        """What is drawn, and what happens."""
        cast = Cast.of(scene, look, rng)
        return cast, self.stage.run(cast, look)

    def draw(self, cast: Cast, look: Look, states: Array) -> NDArray[np.uint8]:
        """Frames [T, size, size, 3] of the poses [T, n * 7]."""
        return np.stack([picture for picture, _, _ in self._drawn(cast, look, states, range(len(states)))])

    def pixels(self, cast: Cast, look: Look, states: Array, frames: Sequence[int]) -> NDArray[np.int64]:
        """How many pixels each body fills in some of the frames: [len(frames), n]."""
        drawn = self._drawn(cast, look, states, frames)
        return np.array([[(seen == body).sum() for body in bodies] for _, seen, bodies in drawn], np.int64)

    def _drawn(
        self, cast: Cast, look: Look, states: Array, frames: Sequence[int]
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[Any], list[int]]]:
        """Some of the frames, what is seen at each pixel (below 0: nothing), and the bodies' numbers there."""
        bodies = self.stage.build(cast, look)
        for state in states.reshape(len(states), -1, 7)[list(frames)]:
            for body, (x, y, z, *turn) in zip(bodies, state, strict=True):
                self.stage.call("resetBasePositionAndOrientation", body, [x, y, z], [*turn[1:], turn[0]])
            yield *self._picture(look), bodies

    def _picture(self, look: Look) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        bullet, (eye, _, _, _) = self.stage.bullet, camera_axes(look)
        _, _, rgba, _, seen = self.stage.call(
            "getCameraImage", self.size, self.size,
            bullet.computeViewMatrix(eye.tolist(), look.lookat, [0, 0, 1]),
            bullet.computeProjectionMatrixFOV(look.fovy, 1.0, 0.05 * look.distance, look.distance + 2 * GROUND),
            lightDirection=[-one for one in look.light], shadow=0, lightAmbientCoeff=look.ambient,
            lightDiffuseCoeff=look.diffuse, lightSpecularCoeff=look.specular, renderer=bullet.ER_TINY_RENDERER,
        )  # fmt: skip
        picture = np.array(rgba, np.uint8).reshape(self.size, self.size, 4)[..., :3].copy()
        what = np.reshape(seen, (self.size, self.size))
        picture[what < 0] = self._sky(look)[what < 0]
        return picture, what

    def _sky(self, look: Look) -> NDArray[np.uint8]:
        """A gradient from top to bottom; Bullet's own sky is white."""
        down = np.linspace(0, 1, self.size)[:, None, None]
        top, bottom = np.array(look.sky), np.array(look.sky if look.flat else look.sky_other)
        return np.broadcast_to(255 * (top + (bottom - top) * down), (self.size, self.size, 3)).astype(np.uint8)

    def close(self) -> None:
        self.stage.close()
