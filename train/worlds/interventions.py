"""What would have happened: a story simulated again with something done to it at some moment.

Up to that moment the new story is the old one, bit for bit. An outcome is judged as the scenario judges it, over the
same seconds and from the same start; a body that was taken away is no part of the story that is judged.
"""

from dataclasses import replace

import mujoco
import numpy as np

from ...reasoner.actions import Action, Nothing, Push, Remove
from .generate import Story
from .parts import Verdict
from .physics import Change, Trajectory, simulate
from .scene import Array, Scene, camera_axes

PUSH = 2.5  # m/s: what is pushed slides about 0.45 m where friction is 0.7, about a block's width
AWAY = 25.0  # metres to the side, where no camera looks
OUTCOME_OF: dict[str, tuple[int, ...]] = {"towers": (), "dominoes": (-1,), "collide": (0, 1)}
"""The bodies that a scenario's outcome is about, by place; of scenarios not named here it is the first."""


def intervene(story: Story, action: Action, time: float) -> Story:
    """The story with an action at a time (seconds), simulated again and judged again.

    Its trajectory's `qpos` are those of the story's own model, which draws them. Its facts are without the reason: that
    is told of a scene before anything moves. Raises ValueError where no body has the colour, or the outcome would be
    about a body that is not there.
    """
    act = _act(story, action)
    path = simulate(story.model, story.scene, act=None if act is None else (story.trajectory.at(time), act))
    scene, seen = story.scene, path
    if isinstance(action, Remove):
        gone = place_of(scene, action.colour)
        scene, seen = without(scene, gone), _unseen(path, gone)
    verdict = story.scenario.judge(scene, seen, story.look)
    facts = {name: fact for name, fact in verdict.facts.items() if name != "reason"}
    return replace(story, scene=scene, trajectory=seen, verdict=Verdict(verdict.outcome, verdict.decided, facts))


def place_of(scene: Scene, colour: str) -> int:
    """Which body has a colour. Raises ValueError where none has."""
    colours = [body.colour for body in scene.bodies]
    if colour not in colours:
        raise ValueError(f"nothing {colour} is there to act on; there are: {', '.join(colours)}")
    return colours.index(colour)


def removable(story: Story) -> list[str]:
    """Colours of the bodies that the outcome can do without."""
    kept = OUTCOME_OF.get(story.scenario.name, (0,))
    bodies = story.scene.bodies
    return [body.colour for place, body in enumerate(bodies) if place not in kept and place - len(bodies) not in kept]


def without(scene: Scene, gone: int) -> Scene:
    """The scene without one body; of a tower or a chain it says how many blocks are left."""
    counts = {
        key: scene.notes[key] - (scene.bodies[gone].role == role)
        for key, role in (("blocks", "block"), ("dominoes", "domino"))
        if key in scene.notes
    }
    bodies = [body for place, body in enumerate(scene.bodies) if place != gone]
    return replace(scene, bodies=bodies, notes=scene.notes | counts)


def _act(story: Story, action: Action) -> Change | None:
    """What an action does to the running physics; None for nothing."""
    if isinstance(action, Nothing):
        return None
    place, right = place_of(story.scene, action.colour), camera_axes(story.look)[2]
    if isinstance(action, Push):
        velocity = PUSH * right * (1 if action.side == "right" else -1)
        return lambda data: _knock(data, place, velocity)
    if action.colour not in removable(story):
        raise ValueError(
            f"the outcome {story.scenario.outcome!r} is about the {action.colour} object, which cannot be taken away; "
            f"those that can: {', '.join(removable(story)) or 'none'}"
        )
    height = story.scene.bodies[place].height
    rest = np.array([*(AWAY * right[:2]), height / 2, 1.0, 0.0, 0.0, 0.0])
    return lambda data: _lay(data, place, rest)


def _knock(data: mujoco.MjData, place: int, velocity: Array) -> None:
    data.qvel[6 * place : 6 * place + 3] += velocity


def _lay(data: mujoco.MjData, place: int, pose: Array) -> None:
    """At rest on the floor, out of reach and out of sight."""
    data.qpos[7 * place : 7 * place + 7] = pose
    data.qvel[6 * place : 6 * place + 6] = 0.0


def _unseen(path: Trajectory, gone: int) -> Trajectory:
    """A trajectory without one body; those after it move up by one."""
    contacts = {
        (one - (one > gone), other - (other > gone)): time
        for (one, other), time in path.contacts.items()
        if gone not in (one, other)
    }
    positions, quaternions = (np.delete(poses, gone, axis=1) for poses in (path.positions, path.quaternions))
    return replace(path, positions=positions, quaternions=quaternions, contacts=contacts)
