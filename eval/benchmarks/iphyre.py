"""I-PHYRE: will the balls of a game fall out of the picture after what was done to it? (Li et al., arXiv 2312.03009).

A world whose physics (pymunk) and pictures this project did not make: the package `iphyre` is played here, nobody has
to bring data. Games, clicks that eliminate grey blocks, 15 s and success (all red balls below the picture, `abyss`) are
iphyre.simulator's; when blocks are clicked is drawn as iphyre.utils.generate_actions does (a grid of 0.1 s, a fifth of
the blocks left alone, no click from `max_action_time` on, at most 7 s in scripts/generate_actions_all.py of
lishiqianhugh/IPHYRE). That time is also the last one shown: all clicks are seen, and from there on physics decides.

The paper scores those who play, agents and people; nobody published a score of this question.

Rows come in pairs of one game, a course that solves it and one that does not, with the same last moment shown, after
which a ball was still to move in both: the text tells nothing. A clip ends there, so no byte of it knows the rest.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..record import write
from ..stats import balanced_accuracy, figure
from .shape import YES_NO, Benchmark, Figures, Row, by_kind, fields, question, read_lines, singles

QUESTION = "Will all red balls fall into the abyss?"
PAIRS = 4  # a game: 40 games make intervals of about 5 points
UNTILS = (2, 3, 4, 5, 6, 7)  # seconds
INTERVAL = 0.1  # seconds between two possible clicks
LEFT_ALONE = 0.2
TRIES = 2000  # courses a pair: with 400, activated_pendulum and most of seesaw_angle are not found
STILL = 1.0  # pixels a second
FPS = 30  # the simulator steps 60 times a second
EXTRA = "pip install 'foretell[iphyre]'"

Action = tuple[float, float, float]  # x, y and second of a click; second 0: never


@dataclass(frozen=True)
class Course:
    """What was done to a game and how it ended. decided: when a ball that had not fallen moved last (s)."""

    actions: list[Action]
    until: int
    solves: bool
    decided: float


def package() -> dict[str, str]:
    """The versions that a game's course depends on. Raises ValueError where the package cannot play."""
    os.environ |= {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy", "PYGAME_HIDE_SUPPORT_PROMPT": "1"}
    try:
        import iphyre  # noqa: F401  # it imports pygame and pymunk, which it does not declare
    except ModuleNotFoundError as error:
        raise ValueError(f"playing I-PHYRE needs the package {error.name}: {EXTRA}") from None
    versions = {name: version(name) for name in ("iphyre", "pymunk")}
    if int(versions["pymunk"].split(".")[0]) > 6:
        raise ValueError(f"iphyre {versions['iphyre']} breaks on pymunk {versions['pymunk']}: {EXTRA}")
    return versions


def opened(name: str) -> Any:
    """A game before its first moment, in a space of its own: what was played before leaves no trace."""
    from iphyre.simulator import IPHYRE

    game = IPHYRE(name)
    game.reset()
    return game


def drawn(places: Sequence[Sequence[float]], until: int, random: np.random.Generator) -> list[Action]:
    """When each grey block is clicked."""
    times = random.choice(np.arange(round(until / INTERVAL)), len(places), replace=False) * INTERVAL
    times *= random.random(len(places)) > LEFT_ALONE
    return [(float(x), float(y), time) for (x, y), time in zip(places, times.round(1).tolist(), strict=True)]


def moments(game: Any, actions: Sequence[Action]) -> Iterator[float]:
    """Plays a game as its `simulate` does: the second of each step, once its click is done."""
    waiting, time = sorted(actions, key=lambda action: action[2]), 0.0
    while time < game.max_time and not game.examine_success():
        if waiting and time >= waiting[0][2]:
            x, y, at = waiting.pop(0)
            if at:
                game.eliminate((x, y))
        yield time
        game.space.step(game.timestep)
        time += game.timestep


def play(name: str, actions: list[Action], until: int) -> Course:
    """The whole course of a game."""
    game, decided = opened(name), 0.0
    balls = game.space.bodies[-game.num_ball :]
    for time in moments(game, actions):
        if any(ball.position.y <= game.HEIGHT and ball.velocity.length > STILL for ball in balls):
            decided = time
    return Course(actions, until, game.examine_success(), decided)


def find_pair(name: str, number: int) -> list[Course]:
    """A course that solves a game and one that does not, undecided at the same `until`; none where TRIES were in vain.

    The same for the same game and number.
    """
    from iphyre.games import GAMES

    random = np.random.default_rng([GAMES.index(name), number])
    places = [place for place in opened(name).get_action_space() if any(place)]  # it is padded with zeros
    found: dict[int, dict[bool, Course]] = {until: {} for until in UNTILS}
    for _ in range(TRIES):
        until = int(random.choice(UNTILS))
        course = play(name, drawn(places, until, random), until)
        if course.decided > until:
            found[until].setdefault(course.solves, course)
        if len(found[until]) == 2:
            return [found[until][True], found[until][False]]
    return []


def film(name: str, course: Course) -> NDArray[np.uint8]:
    """The package's own pictures up to `until`. uint8 [T, 600, 600, 3]"""
    import pygame

    game = opened(name)
    game.init_screen()
    pictures = []
    for step, _ in enumerate(islice(moments(game, course.actions), course.until * game.FPS + 1)):
        if step % (game.FPS // FPS) == 0:
            game.screen.fill("white")
            game.space.debug_draw(game.draw_options)
            pictures.append(pygame.surfarray.array3d(game.screen).swapaxes(0, 1))
    return np.stack(pictures)


def _asked(folder: Path, name: str, number: int, course: Course) -> Row:
    """The row of a course, whose clip is written."""
    from iphyre.games import FOLD_LIST, GAMES

    from ...train.worlds.generate import encode

    answer = YES_NO[0] if course.solves else YES_NO[1]
    id = f"{name}-{number}-{answer}"
    video = f"clips/{id}.mp4"
    encode(film(name, course), folder / video, FPS)
    kind = FOLD_LIST[GAMES.index(name) * len(FOLD_LIST) // len(GAMES)]
    asked = question(id, video, QUESTION, YES_NO, answer, scene=name, kind=kind, until=float(course.until))
    return {**asked, "actions": course.actions, "decided": round(course.decided, 2)}


def _pair(folder: Path, name: str, number: int) -> list[Row]:
    """The rows of a pair, made where they are not there yet."""
    path = folder / "pairs" / f"{name}-{number}.json"
    if not path.is_file():
        write(path, json.dumps([_asked(folder, name, number, course) for course in find_pair(name, number)]))
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def _check(folder: Path, recipe: Row) -> None:
    """Refuse a folder that holds something else."""
    for place in ("pairs", "clips"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    path = folder / "iphyre.json"
    if path.is_file() and (held := json.loads(path.read_text(encoding="utf-8"))) != recipe:
        raise ValueError(f"{folder} was played by {held}, not by {recipe}: choose another folder, or remove it")
    write(path, json.dumps(recipe))


def make(folder: Path, limit: int | None) -> dict[str, Any]:
    """Play games until there are `limit` rows (None: PAIRS a game), a pair of every game before a second one of any.

    Writes clips/ and questions.jsonl, which `foretell answer` reads too; what was played before is kept. Tells what
    played, and which games are left out from the pair on of which one outcome was not found.
    """
    from rich.console import Console
    from rich.progress import track

    versions = package()
    drawing = {"untils": list(UNTILS), "interval": INTERVAL, "left_alone": LEFT_ALONE, "tries": TRIES, "still": STILL}
    _check(folder, {**versions, **drawing, "fps": FPS})
    from iphyre.games import GAMES

    order = [GAMES[place] for place in np.random.default_rng(0).permutation(len(GAMES))]
    turns = [(name, number) for number in range(PAIRS) for name in order]
    rows: list[Row] = []
    left_out: set[str] = set()
    for name, number in track(turns, "playing", console=Console(stderr=True)):
        if limit is not None and len(rows) >= limit:
            break
        pair = [] if name in left_out else _pair(folder, name, number)
        rows += pair
        if not pair:
            left_out.add(name)
    write(folder / "questions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return {**versions, "left_out": sorted(left_out)}


def load(folder: Path) -> list[Row]:
    """The courses of the last `make`; `kind` is the split, `scene` the game."""
    names = ("id", "video", "question", "options", "answer", "scene", "kind", "until")
    rows = [fields(row, names, "a row of questions.jsonl") for row in read_lines(folder / "questions.jsonl")]
    return [
        question(
            row["id"], row["video"], row["question"], row["options"], row["answer"], scene=row["scene"],
            kind=row["kind"], until=row["until"],
        )
        for row in rows
    ]  # fmt: skip


def figures(rows: Sequence[Row]) -> Figures:
    """Balanced accuracy over all courses, and the accuracy (as balanced) of each split; intervals over games."""
    right, truth = [row["right"] for row in rows], [row["answer"] for row in rows]
    overall = figure(balanced_accuracy(right, truth), [row["scene"] for row in rows], 1 / len(YES_NO))
    return {"balanced accuracy": overall, **by_kind(singles(rows))}


IPHYRE = Benchmark(
    name="iphyre",
    title="I-PHYRE (live)",
    asks="answers",
    protocol="played here: do the clicks shown solve the game; half of each game's courses do, undecided when shown",
    headline="balanced accuracy",
    chance=0.5,
    layout="questions.jsonl and clips/*.mp4, as `foretell eval iphyre` writes them",
    data=f"nothing to fetch, it is played here: {EXTRA}",
    licence="MIT (the package's)",
    load=load,
    figures=figures,
    make=make,
)
