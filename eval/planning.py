"""Planning put to the test: what the planner chooses is carried out in the world that the video shows, simulated again.

A task is a tower and a goal that would not come true by itself. All that can be done to the tower is simulated too, so
that random choice and the best possible are known exactly. *words* is what the goal's text gives away without a video:
a push to the side that it names, of any object; without a side, taking any object away.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ..reasoner.actions import SIDES, Action, Nothing, Push, Remove, actions
from ..reasoner.answer import NANO, Foretell
from ..reasoner.plan import BEAM, PRESENT, PUSHED, SLIDE, Choice, NothingThere, Plan, plan, read_goal
from ..train.data import Packed, load_clips
from ..train.worlds import SCENARIOS, Spec
from ..train.worlds.generate import Story, find_story
from ..train.worlds.interventions import PUSH, intervene
from ..train.worlds.parts import Verdict
from .exam import clip_of, load_model
from .record import digest, line, mark, provenance, readable, rounded, write
from .stats import Floats, Statistic, figure, mean_of

Row = dict[str, Any]
Track = Callable[[Sequence["Task"]], Iterable["Task"]]

STAND = "stand"
GOALS: dict[str, str] = {
    STAND: "make the tower stay standing",
    **{side: f"make the tower fall to the {side}" for side in SIDES},
}
TIMES, MORE, SURER = "times random choice", "above words", "confidence above success"
TAKERS = ("planner", "proposal alone", "words", "random choice", "best possible")


@dataclass(frozen=True)
class Task:
    """A tower, by its row of clips.jsonl, and which of GOALS is to be reached."""

    clip: Row
    goal: str


def reached(goal: str, verdict: Verdict) -> bool:
    """Whether a goal has come true."""
    return not verdict.outcome if goal == STAND else verdict.facts.get("direction") == goal


def tasks(clips: Iterable[Row], count: int | None) -> list[Task]:
    """The first `count` towers (None: all), each with a goal that does not come true by itself: the one that was
    asked least so far."""
    asked = dict.fromkeys(GOALS, 0)
    found: list[Task] = []
    for clip in (one for one in clips if one["scenario"] == "towers"):
        if len(found) == count:
            break
        falls, side = clip["outcome"]["value"], clip["facts"].get("direction")
        goal = min((goal for goal in GOALS if goal != side and (falls or goal != STAND)), key=asked.__getitem__)
        asked[goal] += 1
        found.append(Task(clip, goal))
    return found


def story_of(clip: Row) -> Story:
    """The world behind a clip, made again from its seed. Raises ValueError where it is not the one on record."""
    story = find_story(SCENARIOS[clip["scenario"]], clip["seed"], Spec())
    if story.verdict.facts != clip["facts"] or story.until != clip["until"]:
        raise ValueError(
            f"{clip['scene']} was made by another version of the worlds: what happens in it cannot be simulated again; "
            "make the worlds anew (foretell worlds)"
        )
    return story


def outcomes(task: Task) -> dict[Action, bool]:
    """Whether the goal is reached, for each thing that can be done to the objects after the last frame shown."""
    story = story_of(task.clip)
    known = actions(one["colour"] for one in task.clip["objects"])
    return {one: reached(task.goal, intervene(story, one, story.until).verdict) for one in known}


def by_words(goal: str, action: Action) -> bool:
    """Whether an action is one that the goal's text alone suggests."""
    return isinstance(action, Remove) if goal == STAND else isinstance(action, Push) and action.side == goal


def scored(task: Task, made: Plan, table: Mapping[Action, bool]) -> Row:
    """One line of the per-sample file. An action on an object that is not there reaches nothing."""
    alone = max(made.choices, key=lambda one: one.proposed).action
    return {
        "scene": task.clip["scene"],
        "goal": task.goal,
        "planner": float(table.get(made.best.action, False)),
        "proposal alone": float(table.get(alone, False)),
        "words": fmean(good for one, good in table.items() if by_words(task.goal, one)),
        "random choice": fmean(table.values()),
        "best possible": float(any(table.values())),
        "confidence": made.confidence,
        "abstained": made.abstained,
        "chosen": str(made.best.action),
        "reaching": [str(one) for one, good in table.items() if good],
    }


def attempt(foretell: Foretell, packed: Packed, task: Task) -> Row:
    """Plan from the frames shown, then see what comes of it. A planner that sees no object does nothing."""
    video, until, goal = task.clip["video"], task.clip["until"], read_goal(GOALS[task.goal])
    clip = clip_of(packed, video, until, rate=foretell.rate, count=foretell.frames)
    try:
        made = plan(foretell, clip, goal)
    except NothingThere:
        made = Plan(goal, (Choice(Nothing(), 1.0, 0.0),), abstained=True)
    return scored(task, made, outcomes(task))


def ratio(one: Sequence[float], other: Sequence[float]) -> Statistic:
    """How many times one mean is the other; of a resample in which the other is 0, nothing is told: 0."""
    both = np.array([one, other], dtype=np.float64).T  # [N, 2]

    def statistic(weights: Floats) -> Floats:
        mine, theirs = (weights @ both).T
        told: Floats = np.divide(mine, theirs, out=np.zeros_like(mine), where=theirs > 0)
        return told

    return statistic


def figures(rows: Sequence[Row]) -> list[Row]:
    """Success of every taker for all goals together and for each, and how the planner's compares: how many times random
    choice's it is, how much it is above what words alone give away, and below what the planner itself expects."""
    found = []
    for goal in ("all", *GOALS):
        some = [row for row in rows if goal in ("all", row["goal"])]
        if not some:
            continue
        scenes, chance = [row["scene"] for row in some], fmean(row["random choice"] for row in some)
        for taker in TAKERS:
            told = figure(mean_of([row[taker] for row in some]), scenes, chance)
            found.append({"goal": goal, "taker": taker, "metric": "success", **asdict(told)})
        names = ("planner", "random choice", "words", "confidence")
        mine, random, words, stated = ([row[name] for row in some] for name in names)
        for metric, statistic, even in (
            (TIMES, ratio(mine, random), 1.0),
            (MORE, mean_of(np.subtract(mine, words)), 0.0),
            (SURER, mean_of(np.subtract(stated, mine)), 0.0),
        ):
            told = figure(statistic, scenes, even)
            found.append({"goal": goal, "taker": "planner", "metric": metric, **asdict(told)})
    return found


def run(
    model: str | Path | None, data: Path, out: Path, *, limit: int | None = None, command: str = "", track: Track = iter
) -> Row:
    """Have a model plan for towers of a folder that `foretell worlds` wrote; figures to `out`, and a line a task beside
    it, from which a run that was stopped goes on. limit: towers."""
    packed = load_clips(data)
    asked = tasks(packed.clips, limit)
    if not asked:
        raise ValueError(f"{data} holds no towers to plan for: make some with `foretell worlds --scenarios towers`")
    settings = {"beam": BEAM, "slide": SLIDE, "pushed": PUSHED, "push": PUSH, "present": PRESENT}
    name = mark(model or NANO, digest(data / "clips.jsonl"), json.dumps(settings))
    samples = out.with_suffix(".samples.jsonl")
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = list(_answered(model, packed, asked, samples, name, track))
    protocol = {"goals": GOALS, "weights": mark(model or NANO), **settings}
    seeds = [task.clip["seed"] for task in asked]
    about = {"towers": len(asked), "seeds": [min(seeds), max(seeds)], "sha256": digest(data / "clips.jsonl")}
    found = {**provenance(command), "data": about, "protocol": protocol, "figures": figures(rows)}
    write(out, json.dumps(rounded(found), indent=1) + "\n")
    return found


def _answered(
    model: str | Path | None, packed: Packed, asked: Sequence[Task], samples: Path, name: str, track: Track
) -> Iterator[Row]:
    """A row a task: those on file under the same mark, then those that are still missing, written down as they come."""
    known = {(row["scene"], row["goal"]): row for row in readable(samples) if row["mark"] == name}
    write(samples, "".join(map(line, known.values())))
    yield from (known[key] for task in asked if (key := (task.clip["scene"], task.goal)) in known)
    missing = [task for task in asked if (task.clip["scene"], task.goal) not in known]
    if not missing:
        return
    foretell = load_model(model or NANO)
    with samples.open("a", encoding="utf-8") as file:
        for task in track(missing):
            row = {"mark": name, **attempt(foretell, packed, task)}
            file.write(line(row))
            file.flush()
            yield row


def table(found: Mapping[str, Any]) -> str:
    """Success by goal and taker as Markdown, in per cent with intervals; then how the planner's compares."""
    cells = {(row["goal"], row["taker"], row["metric"]): row for row in found["figures"]}
    columns = [(taker, "success", 100) for taker in TAKERS]
    columns += [("planner", metric, scale) for metric, scale in ((TIMES, 1), (MORE, 100), (SURER, 100))]
    names = [taker if metric == "success" else f"{taker} {metric}" for taker, metric, _ in columns]
    lines = [["goal", "towers", *names], ["---", *["---:"] * (len(columns) + 1)]]
    for goal in dict.fromkeys(goal for goal, _, _ in cells):
        row = [(cells[goal, taker, metric], scale) for taker, metric, scale in columns]
        lines.append([GOALS.get(goal, goal), str(row[0][0]["n"]), *(_cell(*one) for one in row)])
    return "\n".join(f"| {' | '.join(one)} |" for one in lines)


def _cell(told: Mapping[str, float], scale: int) -> str:
    """A figure with its interval: per cent in whole ones, a ratio to a decimal."""
    value, low, high = (f"{scale * told[name]:.{1 if scale == 1 else 0}f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
