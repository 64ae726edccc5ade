"""`foretell worlds`: clips, states and questions on disk, the same for the same (scenario, seed), whoever asks.

Clip number i of seed S has seed S + i and draws everything from it: the scenario's turn, whether the outcome should
happen, `until` (independently of that), then scene after scene until one ends as drawn and is decided after `until`.
Where a property is hidden, clips 2k and 2k + 1 are a minimal pair: one scene, drawn until the property decides its end.
"""

import json
import math
import multiprocessing
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from ...perception.video import last_shown
from . import bullet
from .parts import Scenario, Verdict
from .physics import HORIZON, Painter, Trajectory, play
from .questions import Row, ask_stream, balance
from .scenarios import FIRST, SCENARIOS
from .scene import Look, Rng, Scene, draw_look, project
from .shifts import SHIFTS

X264 = "qp=12:bframes=0:rc-lookahead=0:mbtree=0:scenecut=0:weightp=0"  # shown frames must not carry the future (DESIGN)
PART = 200  # clips a resumable part
ATTEMPTS = 400

ENGINES: dict[str, Callable[[int], Any]] = {"mujoco": Painter, "bullet": bullet.Painter}
"""Who plays and draws, for an image size in pixels: `play` plays a scene, `draw` draws what came, `close` ends it."""
Play = Callable[[Scene, Look, np.random.Generator], tuple[Any, Trajectory]]
Make = Callable[[int, Any], list[Row]]  # the rows of one number, its clips drawn and written


@dataclass(frozen=True)
class Spec:
    """How clips are made: image size in pixels, frames, frames/s, share of clips with shadows, the shift's name, who
    plays them."""

    scenarios: tuple[str, ...] = tuple(one.name for one in FIRST)
    size: int = 64
    frames: int = 16
    fps: float = 8.0
    shadows: float = 0.08
    shift: str | None = None
    engine: str = "mujoco"

    @property
    def times(self) -> NDArray[np.float64]:
        """When each frame is seen, seconds [frames]."""
        return np.arange(self.frames) / self.fps


@dataclass(frozen=True)
class Summary:
    """What was written: clips, questions, and questions by scenario and type (of violations: clips by property)."""

    out: Path
    clips: int
    questions: int
    by_type: dict[str, int]


def encode(frames: NDArray[np.uint8], path: Path, fps: float, x264: str = X264) -> None:
    """Write frames [T, H, W, 3] as H.264 whose shown frames do not depend on the later ones."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=round(fps))
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.options = {"x264-params": x264, "preset": "veryfast"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@dataclass
class Story:
    """One scene played: what happened and how it looks."""

    scenario: Scenario
    scene: Scene
    look: Look
    model: Any  # what its engine draws
    trajectory: Trajectory
    verdict: Verdict
    until: float

    def wanted(self, outcome: bool) -> bool:
        """It ended so, was decided after the last frame shown, and what decides it shows before."""
        told = self.verdict
        in_time = told.shows <= self.until and (told.decided is None or told.decided > self.until + 0.01)
        return told.clear and told.outcome == outcome and in_time


def _states(story: Story, times: NDArray[np.float64]) -> list[list[list[float]]]:
    """A frame's objects as [x, y, z, qw, qx, qy, qz, u, v]: pose in metres, then the centre in the image (0..1)."""
    path, steps = story.trajectory, [story.trajectory.at(t) for t in times]
    poses = np.concatenate([path.positions[steps], path.quaternions[steps]], -1)
    views = [story.look.panned(share) for share in np.linspace(0, 1, len(times))]
    seen = [project(centres, view) for centres, view in zip(poses[..., :3], views, strict=True)]
    states: list[list[list[float]]] = np.concatenate([poses, seen], -1).round(4).tolist()
    return states


def _objects(scene: Scene) -> list[Row]:
    return [
        {"colour": b.colour, "shape": b.shape, "half": [round(h, 4) for h in b.half], "density": round(b.density, 1),
         "friction": round(b.friction, 3), "role": b.role, **({"bounce": b.bounce} if b.bounce else {})}
        for b in scene.bodies
    ]  # fmt: skip


def find_story(scenario: Scenario, seed: int, spec: Spec, play: Play = play) -> Story:
    """Draw the outcome and `until` first, then scenes until one fits: `until` tells nothing of what happens."""
    if scenario.hide is not None:
        return find_pair(scenario, seed // 2, spec, play)[seed % 2]
    rng, shifting = _streams(scenario, seed)
    outcome, until = _drawn(scenario, rng)
    for _ in range(ATTEMPTS):
        scene = scenario.build(rng)
        if scenario.foreseen(scene) == (not outcome):
            continue
        scene, look = _seen(scene, rng, shifting, spec)
        story = _played(scenario, scene, look, rng, until, play)
        if story.wanted(outcome):
            return story
    raise RuntimeError(
        f"{scenario.name} with seed {seed}: no scene ended with {scenario.outcome}={outcome} in {ATTEMPTS} tries"
    )


@lru_cache(maxsize=1)  # the other of a pair is wanted next
def find_pair(scenario: Scenario, number: int, spec: Spec, play: Play = play) -> tuple[Story, Story]:
    """A minimal pair, in random order: one scene and look, with much and little of what is hidden, and two outcomes."""
    hide = scenario.hide
    assert hide is not None
    rng, shifting = _streams(scenario, number)
    outcome, until = _drawn(scenario, rng)
    for _ in range(ATTEMPTS):
        scene, look = _seen(scenario.build(rng), rng, shifting, spec)
        paints, both = int(rng.integers(2**32)), (hide(scene, True), hide(scene, False))
        told = [_played(scenario, one, look, np.random.default_rng(paints), until, play) for one in both]
        one, other = told if told[0].verdict.outcome == outcome else told[::-1]
        if one.wanted(outcome) and other.wanted(not outcome):
            return one, other
    raise RuntimeError(f"{scenario.name} with pair {number}: what is hidden decided no scene in {ATTEMPTS} tries")


def _streams(scenario: Scenario, number: int) -> tuple[Rng, Rng]:
    """Random streams for a story, and for what a shift changes of it."""
    place = list(SCENARIOS).index(scenario.name)
    return np.random.default_rng([number, place]), np.random.default_rng([number, place, 105])


def _drawn(scenario: Scenario, rng: Rng) -> tuple[bool, float]:
    """Outcome and `until`, before any scene is."""
    return bool(rng.random() < 0.5), float(scenario.untils[int(rng.integers(len(scenario.untils)))])


def _seen(scene: Scene, rng: Rng, shifting: Rng, spec: Spec) -> tuple[Scene, Look]:
    """A scene and how it looks, shifted where that is asked for."""
    look = draw_look(rng, scene, spec.shadows)
    if spec.shift is None:
        return scene, look
    shift = SHIFTS[spec.shift]
    return shift.scene(scene, shifting), shift.look(look, scene, shifting)


def _played(scenario: Scenario, scene: Scene, look: Look, rng: Rng, until: float, play: Play) -> Story:
    model, trajectory = play(scene, look, rng)
    return Story(scenario, scene, look, model, trajectory, scenario.judge(scene, trajectory, look), until)


def describe(story: Story, seed: int, spec: Spec) -> Row:
    """The clips.jsonl row of a story."""
    scene_id, verdict = f"{story.scenario.name}-{seed}", story.verdict
    outcome = {"name": story.scenario.outcome, "value": verdict.outcome, "time": verdict.decided}
    pair = {"pair": f"{story.scenario.name}-{seed // 2}"} if story.scenario.hide else {}
    return {
        "scene": scene_id, "scenario": story.scenario.name, "seed": seed, "video": f"clips/{scene_id}.mp4",
        "fps": spec.fps, "frames": spec.frames, "size": spec.size, "until": story.until,
        "outcome": {**outcome, "definition": story.scenario.definition}, "facts": verdict.facts,
        "notes": story.scene.notes, "objects": _objects(story.scene), "states": _states(story, spec.times),
        **pair,
    }  # fmt: skip


def make_clip(scenario: Scenario, seed: int, spec: Spec, painter: Any, out: Path) -> Row:
    """Simulate, draw and encode one clip by a painter of ENGINES; returns its clips.jsonl row, which tells the most
    pixels that each object fills in the first, the middle and the last of the shown frames."""
    story = find_story(scenario, seed, spec, painter.play)
    row = describe(story, seed, spec)
    states = story.trajectory.qpos[[story.trajectory.at(t) for t in spec.times]]
    encode(painter.draw(story.model, story.look, states), out / row["video"], spec.fps)
    last = min(last_shown(story.until, spec.fps), spec.frames - 1)
    shown = painter.pixels(story.model, story.look, states, sorted({0, last // 2, last}))
    return row | {"visible": shown.max(0).tolist()}


def scenario_of(number: int, seed: int, spec: Spec) -> Scenario:
    """Whose turn it is at clip `number` of a request: each takes a clip, or a pair where something is hidden in one."""
    chosen = [SCENARIOS[name] for name in spec.scenarios]
    turn = (seed + number) // 2 if any(one.hide for one in chosen) else number
    return chosen[turn % len(chosen)]


def _numbered(number: int, painter: Any, out: Path, seed: int, spec: Spec) -> list[Row]:
    return [make_clip(scenario_of(number, seed, spec), seed + number, spec, painter, out)]


def _make_part(part: int, out: Path, count: int, painter_of: Callable[[], Any], make: Make) -> None:
    """Numbers [part * PART, ...) into parts/NNNNN.jsonl by one rename; done parts are left alone."""
    path = out / "parts" / f"{part:05d}.jsonl"
    if not path.exists():
        painter = painter_of()
        rows = [row for number in range(part * PART, min((part + 1) * PART, count)) for row in make(number, painter)]
        painter.close()
        path.with_suffix(".tmp").write_text("".join(json.dumps(row) + "\n" for row in rows))
        path.with_suffix(".tmp").replace(path)


def check(out: Path, clips: int, seed: int, spec: Spec, known: Collection[str]) -> None:
    """Refuse what cannot be made, and a folder that holds something else; `known`: the names of all scenarios."""
    if spec.engine not in ENGINES:
        raise ValueError(f"unknown engine {spec.engine}; allowed: {', '.join(ENGINES)}")
    first = {one.name for one in FIRST}
    if spec.engine != Spec.engine and (spec.shift is not None or not first.issuperset(spec.scenarios)):
        raise ValueError(f"{spec.engine} plays {', '.join(sorted(first))}, unshifted; the rest is {Spec.engine}'s")
    unknown = [s for s in spec.scenarios if s not in known]
    if unknown:
        raise ValueError(f"unknown scenarios {', '.join(unknown)}; allowed: {', '.join(known)}")
    if (
        clips < 1
        or seed < 0
        or not 64 <= spec.size <= 256
        or spec.size % 2
        or spec.frames < 16
        or spec.fps <= 0
        or spec.fps % 1
    ):
        raise ValueError(
            f"given {clips} clips, seed {seed}, {spec}; allowed: clips >= 1, seed >= 0, even size 64..256, "
            "frames >= 16, whole fps > 0"
        )
    if spec.shift not in (None, *SHIFTS):
        raise ValueError(f"unknown shift {spec.shift}; allowed: {', '.join(SHIFTS)}")
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(spec).items()}
    request = {"clips": clips, "seed": seed, **given}
    for name in ("shift", "engine"):
        if request[name] == getattr(Spec, name):
            del request[name]  # as in folders made before there was a choice
    recipe = out / "worlds.json"
    if recipe.exists() and json.loads(recipe.read_text()) != request:
        raise ValueError(f"{out} holds other worlds ({recipe.read_text()}); choose another folder or remove it")
    (out / "parts").mkdir(parents=True, exist_ok=True)
    (out / "clips").mkdir(exist_ok=True)
    recipe.write_text(json.dumps(request))


def _check_end(spec: Spec) -> None:
    """Raises ValueError where frames lie beyond what is played: they would show a world that stands still."""
    if spec.frames - 1 > HORIZON * spec.fps > 0:
        raise ValueError(
            f"given {spec.frames} frames at {spec.fps:g} fps, but worlds are played for {HORIZON:g} s; allowed: "
            f"at most {int(HORIZON * spec.fps) + 1} frames at this rate, or {math.ceil((spec.frames - 1) / HORIZON)} "
            "fps or more for so many frames"
        )


def _parts(out: Path, count: int, spec: Spec, make: Make, workers: int) -> Iterator[None]:
    painter_of = partial(ENGINES[spec.engine], spec.size)
    work = partial(_make_part, out=out, count=count, painter_of=painter_of, make=make)
    numbers = range(-(-count // PART))
    if workers == 1:
        yield from map(work, numbers)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(work, numbers)


def make_all(out: Path, count: int, spec: Spec, make: Make, workers: int, progress: bool) -> list[Row]:
    """What `make` gives for each number below `count`, in order; parts that are on disk already are not made again."""
    from rich.console import Console
    from rich.progress import track

    parts = _parts(out, count, spec, make, workers)
    for _ in track(parts, "worlds", total=-(-count // PART), disable=not progress, console=Console(stderr=True)):
        pass
    files = sorted((out / "parts").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def generate(
    out: Path,
    clips: int,
    seed: int,
    spec: Spec | None = None,
    workers: int = 1,
    preview: Path | None = None,
    progress: bool = True,
) -> Summary:
    """Write out/clips/*.mp4, clips.jsonl and questions.jsonl for clip seeds [seed, seed + clips); resumable by parts.

    preview: a PNG contact sheet. Raises ValueError on an impossible request or a folder that holds other worlds.
    """
    spec = spec or Spec()
    _check_end(spec)
    check(out, clips, seed, spec, SCENARIOS)
    rows = make_all(out, clips, spec, partial(_numbered, out=out, seed=seed, spec=spec), workers, progress)
    (out / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions = write_questions(out, rows, seed)
    if preview:
        contact_sheet(out, rows, preview, _caption)
    return Summary(out, len(rows), len(questions), dict(Counter(f"{q['scenario']}/{q['type']}" for q in questions)))


def write_questions(out: Path, rows: list[Row], seed: int) -> list[Row]:
    """questions.jsonl of these clips. Its random streams are apart from those that drew outcomes and `until`."""
    asked = [question for row in rows for question in ask_stream(row)]
    questions = balance(asked, np.random.default_rng([seed, 101]))
    (out / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    return questions


def _caption(row: Row) -> str:
    outcome = row["outcome"]
    when = f"at {outcome['time']:.2f} s" if outcome["time"] is not None else ""
    story = f"{row['scene']}\n{outcome['name']}: {outcome['value']} {when}"
    return f"{story}\nshown to {row['until']} s\n{row['facts']['reason']}"


def contact_sheet(out: Path, rows: list[Row], path: Path, caption: Callable[[Row], str], most: int = 28) -> None:
    """A PNG to look at: a row a clip, frames over time, a few words beside it."""
    from PIL import Image, ImageDraw

    picked = rows[:most]
    size, shown = picked[0]["size"], 8
    sheet = Image.new("RGB", (220 + shown * size, len(picked) * size), "white")
    pen = ImageDraw.Draw(sheet)
    for y, row in enumerate(picked):
        with av.open(str(out / row["video"])) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        for x, index in enumerate(np.linspace(0, len(frames) - 1, shown).astype(int)):
            sheet.paste(Image.fromarray(frames[index]), (220 + x * size, y * size))
        pen.text((4, y * size + 4), caption(row), "black")
    sheet.save(path)
