"""What a score must beat: a guesser trained on the text alone, the model shown an average of all videos, and the model
shown every video in a way that takes something away.

All answer in the terms of the exam: a probability for each option of each question.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ..perception.video import Clip

if TYPE_CHECKING:
    from torch import Tensor

    from ..reasoner.answer import Answer, Question

Row = Mapping[str, Any]
Probabilities = dict[str, float]
BOOSTED_COLUMNS = 48
MIN_PAIRS = 2  # rarer words are noise


@dataclass(frozen=True)
class Pair:
    """One option of one question, and all that can be known of it without the video. Times in seconds."""

    question: str
    option: str
    place: int
    options: int
    scenario: str
    until: float
    duration: float


def pairs(row: Row) -> list[Pair]:
    """The options of a question row that tells its video's `duration`. Without `until` the whole video is shown."""
    options, until = row["options"], row.get("until")
    shown = row["duration"] if until is None else until
    scenario = row.get("scenario", "")
    return [
        Pair(row["question"], option, place, len(options), scenario, shown, row["duration"])
        for place, option in enumerate(options)
    ]


def _words(pair: Pair) -> list[str]:
    """The option alone, and crossed with each word and word pair of the question, the scenario and the time shown.

    Crossed, because "no" is likelier after "not": a linear model of the words side by side cannot say so.
    """
    words = re.findall(r"\w+", pair.question.lower())
    grams = [*words, *(f"{a} {b}" for a, b in pairwise(words))]
    context = [f"scenario={pair.scenario}", f"until={pair.until:.1f}", f"duration={pair.duration:.1f}"]
    option = pair.option.lower()
    return [option, f"place={pair.place}/{pair.options}", *(f"{option}|{known}" for known in grams + context)]


def _numbers(asked: Sequence[Pair]) -> NDArray[np.float64]:
    """Times and places of pairs. [P, 7]"""
    rows = [
        (p.until, p.duration, p.until / max(p.duration, 1e-6), p.place, p.options, len(p.question), len(p.option))
        for p in asked
    ]
    return np.asarray(rows, dtype=np.float64)


def _guesser(columns: int, seed: int) -> Any:
    """A logistic regression over crossed words, and boosted trees over their components and the times; averaged."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import FeatureUnion, make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    words = TfidfVectorizer(analyzer=_words, min_df=MIN_PAIRS, sublinear_tf=True, dtype=np.float32)
    numbers = make_pipeline(FunctionTransformer(_numbers), StandardScaler())
    components = make_pipeline(words, TruncatedSVD(columns, random_state=seed))
    linear = make_pipeline(FeatureUnion([("words", words), ("numbers", numbers)]), LogisticRegression(max_iter=300))
    boosted = make_pipeline(
        FeatureUnion([("components", components), ("numbers", numbers)]),
        HistGradientBoostingClassifier(random_state=seed),
    )
    return VotingClassifier([("linear", linear), ("boosted", boosted)], voting="soft")


@dataclass(frozen=True)
class Blind:
    """Guesses from question, options, scenario, `until` and duration; never sees a frame. One guesser a kind."""

    guessers: dict[str, Any]

    @classmethod
    def fit(cls, rows: Iterable[Row], seed: int = 0) -> "Blind":
        """Learn P(option is the answer) from training rows that carry `options`, `answer`, `kind` and `duration`."""
        by_kind: dict[str, list[Row]] = {}
        for row in rows:
            by_kind.setdefault(row["kind"], []).append(row)
        return cls({kind: _fit(asked, seed) for kind, asked in sorted(by_kind.items())})

    def answer_rows(self, rows: Sequence[Row]) -> list[Probabilities]:
        """For each row the probability of each option, summing to 1."""
        answers: list[Probabilities] = [{} for _ in rows]
        for kind in sorted({row["kind"] for row in rows}):
            places = [place for place, row in enumerate(rows) if row["kind"] == kind]
            for place, answer in zip(places, self._answer(kind, [rows[place] for place in places]), strict=True):
                answers[place] = answer
        return answers

    def _answer(self, kind: str, rows: Sequence[Row]) -> Iterator[Probabilities]:
        if kind not in self.guessers:
            raise ValueError(f"no training question is {kind!r}; the blind guesser knows {sorted(self.guessers)}")
        asked = [pair for row in rows for pair in pairs(row)]
        right = iter(self.guessers[kind].predict_proba(asked)[:, 1].tolist())
        for row in rows:
            odds = [next(right) for _ in row["options"]]
            yield {option: odd / sum(odds) for option, odd in zip(row["options"], odds, strict=True)}


def _fit(rows: Sequence[Row], seed: int) -> Any:
    asked = [pair for row in rows for pair in pairs(row)]
    right = np.array([pair.option == row["answer"] for row in rows for pair in pairs(row)])
    seen = Counter(word for pair in asked for word in set(_words(pair)))
    repeated = sum(times >= MIN_PAIRS for times in seen.values())
    return _guesser(min(BOOSTED_COLUMNS, repeated), seed).fit(asked, right)


def shuffled(clip: Clip) -> Clip:
    """The same frames in a random order, the same for the same frames: what is left without the order of time."""
    order = np.random.default_rng(crc32(clip.frames.tobytes())).permutation(len(clip.frames))
    return replace(clip, frames=clip.frames[order])


def first_only(clip: Clip) -> Clip:
    """The first frame throughout: what a picture tells."""
    return replace(clip, frames=np.repeat(clip.frames[:1], len(clip.frames), axis=0))


def recoloured(clip: Clip) -> Clip:
    """Red, green and blue exchanged in a ring: the same things in other colours. Who goes by colour fails."""
    return replace(clip, frames=np.roll(clip.frames, 1, axis=-1))


ALTERED: dict[str, Callable[[Clip], Clip]] = {
    "shuffled frames": shuffled,
    "first frame only": first_only,
    "recoloured": recoloured,
}
"""Controls that show the model something else than it was trained on, by name."""


class Watcher(Protocol):
    """A model whose look at a clip can be kept apart from its answers."""

    @property
    def frames(self) -> int: ...

    @property
    def rate(self) -> float: ...

    def watch(self, clip: Clip) -> "tuple[Tensor, Tensor | None]": ...

    def answer_features(
        self, features: "Tensor", imagined: "Tensor | None", questions: "Sequence[Sequence[Question]]"
    ) -> "list[list[Answer]]": ...


@dataclass
class MeanFeatures:
    """A model that is shown the average training clip whatever the clip: what its language side knows by itself.

    world [1, N, C] and imagined [1, M, D] are means over training clips, token by token; own: so many channels, the
    first ones, stay the clip's.
    """

    model: Watcher
    world: "Tensor"
    imagined: "Tensor | None"
    own: int = 0
    frames: int = field(init=False)
    rate: float = field(init=False)

    def __post_init__(self) -> None:
        self.frames, self.rate = self.model.frames, self.model.rate
        self._known: dict[tuple[str, tuple[str, ...] | None], Answer] = {}

    @classmethod
    def of(cls, model: Watcher, clips: Iterable[Clip]) -> "MeanFeatures":
        """Average what the model sees in, and imagines after, some training clips."""
        looks = 0
        world, imagined = None, None
        for clip in clips:
            seen, expected = model.watch(clip)
            world = seen if world is None else world + seen
            imagined = expected if imagined is None or expected is None else imagined + expected
            looks += 1
        if world is None:
            raise ValueError("no training clips to average: give at least one")
        return cls(model, world / looks, None if imagined is None else imagined / looks)

    def answer_many(self, clip: Clip, questions: "Sequence[Question]") -> "list[Answer]":
        """The same answer for every clip that keeps nothing of its own, so each question is put to the model once."""
        if self.own:
            from torch import cat

            world = cat([self.model.watch(clip)[0][..., : self.own], self.world[..., self.own :]], dim=-1)
            return self.model.answer_features(world, self.imagined, [questions])[0]
        keys = [(text, None if options is None else tuple(options)) for text, options in questions]
        fresh = [key for key in dict.fromkeys(keys) if key not in self._known]
        if fresh:
            answers = self.model.answer_features(self.world, self.imagined, [fresh])[0]
            self._known.update(zip(fresh, answers, strict=True))
        return [self._known[key] for key in keys]
