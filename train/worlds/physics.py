"""Run a compiled scene and remember what questions ask about: poses, contacts, sinking; then draw the frames."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import mujoco
import numpy as np
from numpy.typing import NDArray

from .scene import Array, Body, Look, Rng, Scene, compile_scene

HORIZON = 3.0  # seconds within which an outcome counts (DESIGN, Outcomes)

Change = Callable[[mujoco.MjData], None]  # of poses and velocities
Act = tuple[int, Change]  # after which step, and what is done then


@dataclass
class Trajectory:
    """times [S], positions [S, n, 3], quaternions [S, n, 4] at every physics step; the first contact time of body pairs
    (where the scene asks for contacts). A cloth's position is the mean of its points, and it has no orientation.

    qpos [S, nq] are MuJoCo's own coordinates, for drawing.
    """

    times: Array
    positions: Array
    quaternions: Array
    qpos: Array
    contacts: dict[tuple[int, int], float] = field(default_factory=dict)

    def at(self, time: float) -> int:
        """The step nearest to a time (seconds)."""
        return int(np.clip(round(time / (self.times[1] - self.times[0])), 0, len(self.times) - 1))


def _rigid(scene: Scene) -> list[Body]:
    """All bodies but a cloth, which comes last."""
    return [body for body in scene.bodies if body.shape != "cloth"]


def _launch(model: mujoco.MjModel, scene: Scene) -> mujoco.MjData:
    data = mujoco.MjData(model)
    for i, body in enumerate(_rigid(scene)):
        data.qvel[6 * i : 6 * i + 3] = body.velocity
        data.qvel[6 * i + 3 : 6 * i + 6] = body.spin
    mujoco.mj_forward(model, data)
    return data


def _note_contacts(data: mujoco.MjData, bodies: dict[int, int], contacts: dict[tuple[int, int], float]) -> None:
    for one, other in data.contact.geom.tolist():
        if one in bodies and other in bodies:
            pair = (min(bodies[one], bodies[other]), max(bodies[one], bodies[other]))
            contacts.setdefault(pair, float(data.time))


def simulate(model: mujoco.MjModel, scene: Scene, seconds: float = HORIZON, act: Act | None = None) -> Trajectory:
    """Step the physics. act: an intervention; what it does is seen from the next step on."""
    data = _launch(model, scene)
    steps, n = round(seconds / model.opt.timestep), len(scene.bodies)
    qpos = np.empty((steps + 1, model.nq))
    geoms = {geom: body - 1 for geom, body in enumerate(model.geom_bodyid.tolist()) if body > 0}
    geoms |= {-1: n - 1} if model.nflex else {}  # a contact of a cloth has no geom on its side
    contacts: dict[tuple[int, int], float] = {}
    qpos[0] = data.qpos
    _note_contacts(data, geoms, contacts)
    note = partial(_note_contacts, data, geoms, contacts) if scene.contacts else None
    if act is None:
        _run(model, data, qpos[1:], note)
    else:
        when, change = act
        _run(model, data, qpos[1 : when + 1], note)
        change(data)
        _run(model, data, qpos[when + 1 :], note)
    poses = _poses(qpos, scene)
    return Trajectory(np.arange(steps + 1) * model.opt.timestep, poses[..., :3], poses[..., 3:], qpos, contacts)


def _poses(qpos: Array, scene: Scene) -> Array:
    """MuJoCo's coordinates [S, nq] as poses [S, n, 7]: seven of each rigid body, then a cloth's points as offsets."""
    count = len(_rigid(scene))
    poses = qpos[:, : 7 * count].reshape(len(qpos), count, 7)
    if count == len(scene.bodies):
        return poses
    moved = qpos[:, 7 * count :].reshape(len(qpos), -1, 3).mean(1)  # [S, 3]
    cloth = np.concatenate([scene.bodies[-1].pos + moved, np.tile([1.0, 0.0, 0.0, 0.0], (len(qpos), 1))], axis=-1)
    return np.concatenate([poses, cloth[:, None]], axis=1)


def play(scene: Scene, look: Look, rng: Rng) -> tuple[mujoco.MjModel, Trajectory]:
    """What is drawn, and what happens."""
    model = compile_scene(scene, look, rng)
    return model, simulate(model, scene)


def _run(model: mujoco.MjModel, data: mujoco.MjData, qpos: Array, note: Callable[[], None] | None) -> None:
    """Fill in the coming steps [S, nq]; once everything rests for 0.4 s the rest of the time repeats that state."""
    calm, end = 0, data.time + len(qpos) * model.opt.timestep
    for step in range(len(qpos)):
        mujoco.mj_step(model, data)
        qpos[step] = data.qpos
        if note is not None and data.ncon:
            note()
        calm = calm + 1 if (step + 1) % 4 or np.abs(data.qvel).max() < 4e-3 else 0
        if calm > 100:
            qpos[step + 1 :] = data.qpos
            data.time = end
            return


def load_llvm() -> None:
    """Load the LLVM of triton, where torch brought one, before Mesa loads its own: the other order crashes."""
    with suppress(ImportError):
        importlib.import_module("triton._C.libtriton")


class Painter:
    """Draws clips of many models through one GL context and one MjrContext.

    `mujoco.Renderer` would make both for every clip (120 ms); an MjrContext alone takes 14 ms, mostly for fonts. All
    worlds hold three textures of the same size, no mesh (a cloth is none: its points travel with the scene) and the
    same `extent`: only the textures are uploaded anew.
    """

    play = staticmethod(play)

    def __init__(self, size: int) -> None:
        load_llvm()
        self.size = size
        self.context = mujoco.GLContext(size, size)
        self.viewport = mujoco.MjrRect(0, 0, size, size)
        self.renderer: mujoco.MjrContext | None = None

    def _load(self, model: mujoco.MjModel) -> mujoco.MjrContext:
        self.context.make_current()  # another painter may have drawn since
        if self.renderer is None:
            model.vis.global_.offwidth = model.vis.global_.offheight = self.size
            self.renderer = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.renderer)
        for texture in range(model.ntex):
            mujoco.mjr_uploadTexture(model, self.renderer, texture)
        return self.renderer

    def draw(self, model: mujoco.MjModel, look: Look, states: Array) -> NDArray[np.uint8]:
        """Frames [T, size, size, 3] of the MuJoCo states [T, nq]."""
        scene = mujoco.MjvScene(model, maxgeom=64)
        scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = look.shadows
        frames = np.stack([frame.copy() for frame in self._drawn(model, scene, look, states, range(len(states)))])
        return np.ascontiguousarray(frames[:, ::-1])

    def pixels(self, model: mujoco.MjModel, look: Look, states: Array, frames: Sequence[int]) -> NDArray[np.int64]:
        """How many pixels each body fills in some of the frames: [len(frames), n]."""
        scene = mujoco.MjvScene(model, maxgeom=64)
        scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        scene.flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = scene.flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = True
        rigid = model.nbody - 1 - model.nflexvert  # each point of a cloth is a body of MuJoCo's own
        counts = np.zeros((len(frames), rigid + model.nflex), np.int64)
        for row, colours in zip(counts, self._drawn(model, scene, look, states, frames), strict=True):
            drawn = np.bincount((colours @ np.array([1, 1 << 8, 1 << 16])).ravel(), minlength=scene.ngeom + 1)
            for geom in scene.geoms[: scene.ngeom]:
                if geom.objtype == mujoco.mjtObj.mjOBJ_FLEX:
                    row[rigid] += drawn[geom.segid + 1]
                elif geom.objtype == mujoco.mjtObj.mjOBJ_GEOM and 0 < model.geom_bodyid[geom.objid] <= rigid:
                    row[model.geom_bodyid[geom.objid] - 1] += drawn[geom.segid + 1]
        return counts

    def _drawn(
        self, model: mujoco.MjModel, scene: mujoco.MjvScene, look: Look, states: Array, frames: Sequence[int]
    ) -> Iterator[NDArray[np.uint8]]:
        """Some of the frames, upside down, each in the same memory: [size, size, 3]."""
        renderer, frame = self._load(model), np.empty((self.size, self.size, 3), np.uint8)
        scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        option, data = mujoco.MjvOption(), mujoco.MjData(model)
        mujoco.mj_forward(model, data)  # without it the first frame would be empty sky
        shares = np.linspace(0, 1, len(states))
        for number in frames:
            camera, data.qpos[:] = self._camera(look.panned(shares[number])), states[number]
            mujoco.mj_kinematics(model, data)
            mujoco.mj_flex(model, data)
            mujoco.mj_camlight(model, data)
            mujoco.mjv_updateScene(model, data, option, None, camera, mujoco.mjtCatBit.mjCAT_ALL, scene)
            mujoco.mjr_render(self.viewport, scene, renderer)
            mujoco.mjr_readPixels(frame, None, self.viewport, renderer)
            yield frame

    @staticmethod
    def _camera(look: Look) -> mujoco.MjvCamera:
        camera = mujoco.MjvCamera()
        camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        camera.azimuth, camera.elevation, camera.distance = look.azimuth, look.elevation, look.distance
        camera.lookat[:] = look.lookat
        return camera

    def close(self) -> None:
        if self.renderer is not None:
            self.renderer.free()
        self.context.free()
