"""Questions with exact answers, in several phrasings, from a clip's facts; balanced by dropping, not by relabelling."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .phrasings import HIDDEN_PROPERTIES, PREDICTIVE, REASONS, WHY
from .scene import COLOURS, SHAPES, Rng
from .sight import SHAPED, count_seen, in_sight

Row = dict[str, Any]
YES_NO = ("yes", "no")
NOUNS = {"dominoes": ("domino", "dominoes"), "support": ("object", "objects")}  # towers are of blocks
TOUCHING = ("collide", "drop", "link", "drape", "mass", "friction", "elasticity")
FIXED = dict.fromkeys(TOUCHING, ("red", "yellow"))  # colours that a scenario always has
NUMBERS = {1: "1st", 2: "2nd", 3: "3rd", 4: "4th", 5: "5th"}


def tower_reason(code: str) -> str:
    """'outside 2' -> the sentence about the 2nd block from below; 'inside' -> the tower is supported everywhere."""
    if code == "inside":
        return "The centre of mass above every block lies over its support"
    return f"The centre of mass above the {NUMBERS[int(code.split()[1])]} block lies outside its support"


def _pick(rng: Rng, phrasings: tuple[str, ...], **names: Any) -> str:
    return phrasings[int(rng.integers(len(phrasings)))].format(**names)


def _row(kind: str, type_: str, question: str, options: Iterable[str], answer: str, negated: bool = False) -> Row:
    return {
        "kind": kind,
        "type": type_,
        "question": question,
        "options": list(options),
        "answer": answer,
        "negated": negated,
    }


def _pooled(kind: str, type_: str, question: str, count: int, answer: str) -> Row:
    """A question whose wrong options `balance` draws, so many options in all."""
    return {**_row(kind, type_, question, (), answer), "choices": count}


def _yes_no(
    rng: Rng, kind: str, type_: str, truth: bool, plain: tuple[str, ...], negations: tuple[str, ...], **names: Any
) -> Row:
    negated = bool(negations) and bool(rng.random() < 0.4)
    return _row(
        kind, type_, _pick(rng, negations if negated else plain, **names), YES_NO, YES_NO[truth == negated], negated
    )


def _choice(rng: Rng, answer: str, others: Iterable[str], count: int) -> list[str]:
    """The answer among `count` options in random order."""
    pool = [o for o in dict.fromkeys(others) if o != answer]
    picked = [pool[int(i)] for i in rng.permutation(len(pool))[: count - 1]] + [answer]
    return [picked[int(i)] for i in rng.permutation(len(picked))]


def _names(clip: Row) -> dict[str, str]:
    """Colours that an outcome's phrasings may name."""
    return {"last": clip["objects"][-1]["colour"], "mover": clip["objects"][0]["colour"]}


def _falls(clip: Row) -> dict[str, bool]:
    """Which blocks of a tower or dominoes of a chain fall, by colour."""
    return {key.split("/")[1]: value for key, value in clip["facts"].items() if key.startswith("falls/")}


def _free(clip: Row) -> list[str]:
    """Colours whose presence may be asked about: one that is always there gives itself away."""
    return [colour for colour in COLOURS if colour not in FIXED.get(clip["scenario"], ())]


def _shape(rng: Rng, one: Row) -> Row:
    ask = (
        f"What shape is the {one['colour']} object?",
        f"Which shape does the {one['colour']} object have?",
        f"Is the {one['colour']} object a box, a ball or a cylinder?",
        f"What kind of object is {one['colour']}?",
    )
    return _row("descriptive", "shape", _pick(rng, ask), ("box", "ball", "cylinder"), one["shape"])


def _falling(colour: str, noun: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Phrasings of: this block falls; and of its negation."""
    return (
        f"Will the {colour} {noun} fall?",
        f"Is the {colour} {noun} going to fall?",
        f"Does the {colour} {noun} come down?",
        f"Is the {colour} {noun} about to fall?",
    ), (
        f"Will the {colour} {noun} stay in place?",
        f"Will the {colour} {noun} not fall?",
        f"Does the {colour} {noun} stay up?",
        f"Is the {colour} {noun} going to stay where it is?",
    )


def _presence(colour: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Phrasings of: something has this colour; and of its negation."""
    return (
        f"Is there a {colour} object?",
        f"Do you see something {colour}?",
        f"Is any object {colour}?",
        f"Can you see a {colour} object?",
        f"Does the video show anything {colour}?",
    ), (
        f"Is there no {colour} object?",
        f"Is nothing here {colour}?",
        f"Does the video show no {colour} object?",
    )


def family(row: Row, clip: Row, rng: Rng) -> list[Row]:
    """A question and more of its type about the same clip, as training asks them: every yes/no one in pairs the other
    way round; what belongs to one colour also of another colour; the shape of every object.

    Side by side they say what an answer turns on. Apart, outcome and negation are an exclusive-or that a learner meets
    with no first-order signal, and so are a colour and what the scene holds.
    """
    if row["options"] == list(YES_NO):
        other = _twin(_twin(row, clip, rng), clip, rng) if _whole(row) else _other_colour(row, clip, rng)
        return [row, _twin(row, clip, rng), other, _twin(other, clip, rng)]
    if row["type"] == "shape":
        others = [one for one in in_sight(clip, SHAPED) if one["colour"] != _colour(row) and one["shape"] in SHAPES]
        return [row, *({**row, **_shape(rng, one)} for one in others)]
    return [row]


def _whole(row: Row) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Phrasings of a yes/no question about the whole clip, and of its negation; None where it is about one colour."""
    return (
        HIDDEN_PROPERTIES[row["scenario"]]
        if row["type"] == "property"
        else PREDICTIVE.get((row["scenario"], row["type"]))
    )


def _colour(row: Row) -> str:
    return next(colour for colour in COLOURS if re.search(rf"\b{colour}\b", row["question"]))


def _phrasings(row: Row, colour: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return _presence(colour) if row["type"] == "present" else _falling(colour, row["type"].removesuffix("_falls"))


def _twin(row: Row, clip: Row, rng: Rng) -> Row:
    """A yes/no question about the same fact the other way round: a negated one for a plain one, and back."""
    phrasings = _whole(row) or _phrasings(row, _colour(row))
    question = _pick(rng, phrasings[not row["negated"]], **_names(clip))
    return {**row, "question": question, "answer": YES_NO[row["answer"] == "yes"], "negated": not row["negated"]}


def _other_colour(row: Row, clip: Row, rng: Rng) -> Row:
    """The same asked of another colour, one whose answer differs where there is one."""
    truths = _presences(clip) if row["type"] == "present" else _falls(clip)
    mine = _colour(row)
    differing = [colour for colour, truth in truths.items() if truth != truths[mine]] or list(truths)
    colour = differing[int(rng.integers(len(differing)))]
    question = _pick(rng, _phrasings(row, colour)[row["negated"]])
    return {**row, "question": question, "answer": YES_NO[truths[colour] == row["negated"]]}


def _presences(clip: Row) -> dict[str, bool]:
    """Whether something of a colour is there, by colour; without those of which it is doubtful, or that are hidden."""
    there, seen = ({one["colour"] for one in objects} for objects in (clip["objects"], in_sight(clip)))
    return {colour: colour in seen for colour in _free(clip) if colour in seen or colour not in there}


def _outcome(rng: Rng, clip: Row) -> list[Row]:
    fact = clip["outcome"]["name"]
    plain, negations = PREDICTIVE[clip["scenario"], fact]
    names = _names(clip)
    return [_yes_no(rng, "predictive", fact, clip["outcome"]["value"], plain, negations, **names)]


def _blocks(rng: Rng, clip: Row) -> list[Row]:
    """Which block falls, which first, how many still stand: towers, dominoes, and what a plank carries."""
    facts, rows = clip["facts"], []
    noun, many = NOUNS.get(clip["scenario"], ("block", "blocks"))
    falls = _falls(clip)
    colour = list(falls)[int(rng.integers(len(falls)))]
    plain, negations = _falling(colour, noun)
    rows.append(_yes_no(rng, "predictive", f"{noun}_falls", falls[colour], plain, negations))
    ask = (
        f"How many {many} will still stand at the end?",
        f"How many {many} will not fall?",
        f"How many {many} stay standing?",
    )
    rows.append(_pooled("predictive", "standing", _pick(rng, ask), 4, str(facts["standing"])))
    if "first" in facts:
        ask = (
            f"Which {noun} falls first?",
            f"Which {noun} will fall first?",
            f"What colour is the {noun} that falls first?",
        )
        rows.append(
            _row("predictive", "first", _pick(rng, ask), _choice(rng, facts["first"], falls, 3), facts["first"])
        )
    return rows


def _direction(rng: Rng, clip: Row) -> list[Row]:
    ask = {
        "towers": (
            "Which way will it fall?",
            "To which side does the tower fall?",
            "Will the tower fall to the left or to the right?",
        ),
        "contain": (
            "On which side of the container will it end?",
            "Will it miss the container to the left or to the right?",
        ),
        "support": ("Which way will it fall?", "To which side will the plank tip?"),
        **dict.fromkeys(TOUCHING, ("Which way does the red object move?", "Is the red object going left or right?")),
    }
    side = clip["facts"].get("direction")
    kind = "descriptive" if clip["scenario"] in TOUCHING else "predictive"
    if kind == "descriptive" and clip["objects"][0] not in in_sight(clip):
        return []
    return [_row(kind, "direction", _pick(rng, ask[clip["scenario"]]), ("left", "right"), side)] if side else []


def _why(rng: Rng, clip: Row) -> list[Row]:
    reason, scenario = clip["facts"]["reason"], clip["scenario"]
    answer = tower_reason(reason) if scenario == "towers" else REASONS[scenario][reason]
    return [_pooled("explanatory", "why", _pick(rng, WHY[scenario]), 3, answer)]


def _property(rng: Rng, clip: Row) -> list[Row]:
    """How large what is hidden is."""
    plain, negations = HIDDEN_PROPERTIES[clip["scenario"]]
    return [_yes_no(rng, "descriptive", "property", clip["facts"]["property"], plain, negations)]


def _description(rng: Rng, clip: Row) -> list[Row]:
    """Colour, count, shape, presence, place: what can be seen already."""
    objects, rows = clip["objects"], []
    colours = [o["colour"] for o in objects]
    one = objects[int(rng.integers(len(objects)))]
    if clip["scenario"] not in ("towers", "dominoes") and one["shape"] in SHAPES and one in in_sight(clip, SHAPED):
        rows.append(_shape(rng, one))
    ask = ("How many coloured objects are there?", "How many objects can you see?", "Count the coloured objects.")
    if count := count_seen(clip):
        rows.append(_pooled("descriptive", "count", _pick(rng, ask), 4, str(count)))
    free = _free(clip)
    asked, presences = free[int(rng.integers(len(free)))], _presences(clip)
    if asked in presences:
        plain, negations = _presence(asked)
        rows.append(_yes_no(rng, "descriptive", "present", presences[asked], plain, negations))
    named = {"towers": [("top", "the top block"), ("bottom", "the bottom block")], "dominoes": []}.get(clip["scenario"])
    if named is None:
        role = {"roll": "the object on the ramp", "contain": "the falling object", "occlude": "the moving object"}.get(
            clip["scenario"]
        )
        named = [("mover", role)] if role else []
    if named:
        key, noun = named[int(rng.integers(len(named)))]
        answer = clip["facts"].get(key, colours[0])
    if named and answer in {one["colour"] for one in in_sight(clip)}:
        ask = (f"What colour is {noun}?", f"Which colour does {noun} have?", f"Name the colour of {noun}.")
        rows.append(_pooled("descriptive", "colour", _pick(rng, ask), 4, answer))
    return rows


ASKED: dict[str, tuple[Callable[[Rng, Row], list[Row]], ...]] = {
    "towers": (_outcome, _blocks, _direction, _why, _description),
    "collide": (_outcome, _direction, _why, _description),
    "roll": (_outcome, _why, _description),
    "dominoes": (_outcome, _blocks, _why, _description),
    "contain": (_outcome, _direction, _why, _description),
    "occlude": (_outcome, _why, _description),
    "drop": (_outcome, _why, _description),
    "support": (_outcome, _blocks, _direction, _why, _description),
    "link": (_outcome, _direction, _why, _description),
    "drape": (_outcome, _why, _description),
    **dict.fromkeys(HIDDEN_PROPERTIES, (_outcome, _property, _direction, _why, _description)),
}


def ask(clip: Row, rng: Rng) -> list[Row]:
    """Every question this clip can answer, as rows of questions.jsonl; frames are shown up to the clip's `until`."""
    common: Row = {key: clip[key] for key in ("video", "scene", "scenario", "until", "pair") if key in clip}
    rows = [row for source in ASKED[clip["scenario"]] for row in source(rng, clip)]
    return [{"id": f"{clip['scene']}-{n}", **common, **row} for n, row in enumerate(rows)]


def ask_stream(clip: Row) -> list[Row]:
    """`ask` with the clip's own random stream, apart from those ([seed, scenario]) that drew outcome and `until`.

    Both of a minimal pair are asked the same, in the same words.
    """
    number = clip["seed"] - clip["seed"] % 2 if "pair" in clip else clip["seed"]
    return ask(clip, np.random.default_rng([number, 100, 0]))


def balance(rows: list[Row], rng: Rng, floor: float = 0.2) -> list[Row]:
    """Drop questions until, in every scenario x type x negation x `until`, each answer is right equally often.

    An answer rarer than `floor` of the commonest one is dropped altogether, as it would cost too many others. Wrong
    options are drawn from the answers that are left, so that no option is likelier than another to be right.
    """
    groups: dict[tuple[Any, ...], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row["scenario"], row["type"], row["negated"]][row["answer"]].append(row)
    kept = {id(row) for answers in groups.values() for row in _even(answers, rng, floor)}
    return [row for row in rows if id(row) in kept]


def _even(answers: dict[str, list[Row]], rng: Rng, floor: float) -> list[Row]:
    """One group's questions, thinned so that its common answers are equally frequent for every `until`."""
    most = max(map(len, answers.values()))
    common = {answer: rows for answer, rows in answers.items() if len(rows) >= floor * most}
    kept: list[Row] = []
    for until in sorted({row["until"] for rows in common.values() for row in rows}):
        shown = [[row for row in rows if row["until"] == until] for rows in common.values()]
        least = min(map(len, shown))
        kept += [rows[int(i)] for rows in shown for i in rng.permutation(len(rows))[:least]]
    for row in kept:
        count = row.pop("choices", None)
        if count is not None:
            row["options"] = _choice(rng, row["answer"], common, count)
    return kept if len(common) > 1 else []
