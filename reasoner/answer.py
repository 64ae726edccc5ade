"""A question about a clip in, an Answer out: options are scored by likelihood, open questions are generated."""

import json
import math
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..perception.video import OVERSAMPLE, Clip, read_clip
from .llm import load_tokenizer
from .model import ForetellForConditionalGeneration, Lora, companion, load
from .processing import ForetellProcessor, Pack, collate, pack

NANO = Path(__file__).parent / "nano"
YES_NO = ("yes", "no")
MAX_QUESTION = 2000
"""Tokens; the options of a question together may take as many."""
MAX_ANSWER = 64
"""Tokens of a generated answer."""
WRITTEN_AT_ONCE = 16
"""Open questions about one clip that are answered side by side."""
BATCH_TOKENS = 1024
"""Tokens of one forward pass over packed questions, where a single question does not need more."""

_YES_NO_QUESTION = re.compile(
    r"(will|would|is|are|was|were|does|do|did|can|could|has|have|had|should|shall|may|might|must)(n't)?\b|(won|can)'t\b",
    re.IGNORECASE,
)

_WANTED = (
    'write {"temperature": above 0, "threshold": 0 to 1, "written_temperature": above 0, "written_threshold": 0 to 1}, '
    "or remove the file: nothing abstains then"
)
_APOSTROPHES = dict.fromkeys(map(ord, "’‘"), "'")

Question = tuple[str, Sequence[str] | None]
Frames: TypeAlias = Clip | NDArray[np.uint8]
T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """What the model says and how sure it is.

    text: one of the options verbatim, or generated text. confidence: its probability among the options; of generated
    text that of the whole text, to the power of 1 / written_temperature. abstained: too unsure to be relied on; text is
    then the best guess. evidence: what was shown, in seconds from the first frame.
    """

    text: str
    confidence: float
    abstained: bool
    probabilities: dict[str, float] | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Calibration:
    """Fitted on a validation split: scores of options are divided by temperature, log-probabilities of generated texts
    by written_temperature; below the confidence threshold of either we abstain."""

    temperature: float = 1.0
    threshold: float = 0.0
    written_temperature: float = 1.0
    written_threshold: float = 0.0

    @classmethod
    def read(cls, path: Path | None) -> "Calibration":
        """From calibration.json; what it does not hold changes nothing, and makes nothing abstain. Raises ValueError
        where it holds anything else than temperatures above 0 and thresholds between 0 and 1."""
        if path is None or not path.is_file():
            return cls()
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
            heats, bars = (found.temperature, found.written_temperature), (found.threshold, found.written_threshold)
            usable = all(0 < heat < math.inf for heat in heats) and all(0 <= bar <= 1 for bar in bars)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: no calibration ({error}): {_WANTED}") from None
        if not usable:
            raise ValueError(f"{path}: temperatures {heats}, thresholds {bars}: {_WANTED}")
        return found


@dataclass(frozen=True)
class Asked:
    """A question made ready: options is None where it is open."""

    prompt: list[int]
    options: tuple[str, ...] | None
    answers: list[list[int]]

    @property
    def size(self) -> int:
        """Tokens it takes in a packed row."""
        return len(self.prompt) + sum(map(len, self.answers))


def answer_text(option: str) -> str:
    """How an option is put to the language model, in training and in scoring: capital letter first, no full stop."""
    text = option.strip().removesuffix(".").rstrip()
    return text[:1].upper() + text[1:]


def is_yes_no(question: str) -> bool:
    """Whether a question wants yes or no: it starts with an auxiliary verb and offers no other choice (red or blue)."""
    alternative = re.search(r"\bor\b(?! not\b)", question, re.IGNORECASE)
    return bool(_YES_NO_QUESTION.match(question.strip().translate(_APOSTROPHES))) and not alternative


class Foretell:
    """Answers questions about clips."""

    def __init__(
        self,
        model: ForetellForConditionalGeneration,
        processor: ForetellProcessor,
        calibration: Calibration = Calibration(),  # frozen
    ) -> None:
        self.model = model
        self.processor = processor
        self.calibration = calibration

    @classmethod
    def load(
        cls,
        source: str | Path | None = None,
        llm: str | None = None,
        load_in_4bit: bool = False,
        dtype: torch.dtype | None = None,
        lora: Lora = "folded",
    ) -> "Foretell":
        """The embedded model (None), or a folder or hub id; `llm` names another language model than the folder does.

        dtype: what encoder and language model compute in (None: float32 for the embedded language model). lora:
        "folded" for many answers, "beside" for the first one soon.
        """
        folder = source or NANO
        model = load(folder, llm, load_in_4bit, dtype, lora)
        if torch.cuda.is_available():
            model.to("cuda")  # type: ignore[arg-type]  # transformers wraps Module.to without its signature
        if (Path(folder) / "bridge.safetensors").is_file():
            processor = ForetellProcessor.for_model(model.config, load_tokenizer(llm or model.config.llm))
        else:
            processor = ForetellProcessor.from_pretrained(str(folder))
        return cls(model, processor, Calibration.read(companion(folder, "calibration.json")))

    @property
    def frames(self) -> int:
        """Frames that the encoder is shown."""
        return int(self.model.config.frames)

    @property
    def rate(self) -> float:
        """Frames per second that the encoder is shown."""
        return float(self.model.config.rate)

    def read(self, path: str | Path, until: float | None = None) -> Clip:
        """The frames of a video file that the encoder is shown, up to `until` seconds. Raises VideoError."""
        size = OVERSAMPLE * self.model.config.vision_config.crop_size
        return read_clip(path, rate=self.rate, count=self.frames, until=until, size=size)

    def answer(self, clip: Frames, question: str, options: Sequence[str] | None = None) -> Answer:
        """One answer. clip: a Clip, or frames uint8 [T, H, W, 3] at the model's rate that end at the last one shown.

        Without options a yes/no question is scored over yes and no; any other is answered in free text. Raises
        ValueError for an empty or too long question, and for empty, repeated or fewer than two options.
        """
        return self.answer_many(clip, [(question, options)])[0]

    def answer_many(self, clip: Frames, questions: Sequence[Question]) -> list[Answer]:
        """Several questions about one clip, which is encoded once; all that have options share one forward pass."""
        asked = [self.ask(*question) for question in questions]
        features, imagined = self.watch(clip)
        return self._answer([asked], features, imagined, [evidence_of(clip)])[0]

    def answer_features(
        self, features: Tensor, imagined: Tensor | None, questions: Sequence[Sequence[Question]]
    ) -> list[list[Answer]]:
        """As answer_many, for B clips whose features [B, N, C] (and imagined ones [B, M, D]) were computed before."""
        asked = [[self.ask(*question) for question in clip] for clip in questions]
        return self._answer(asked, features, imagined, [{}] * len(asked))

    def generate_features(
        self, features: Tensor, imagined: Tensor | None, questions: Sequence[str], limit: int = MAX_ANSWER
    ) -> list[Answer]:
        """Free text, to yes/no questions too, about one clip whose features [1, N, C] were computed before.

        limit: tokens. Raises ValueError as `answer` does.
        """
        asked = [replace(self.ask(question), options=None) for question in questions]
        return list(self._write(asked, features, imagined, {}, limit))

    def stream(self, clip: Frames, question: str) -> Generator[str, None, Answer]:
        """The answer to one question piece by piece as it is generated; the generator's return value is the Answer."""
        asked = self.ask(question)
        features, imagined = self.watch(clip)
        if asked.options is None:
            return (yield from self._generate([asked], features, imagined, evidence_of(clip)))[0]
        answer = self._answer([[asked]], features, imagined, [evidence_of(clip)])[0][0]
        yield answer.text
        return answer

    def ask(self, question: str, options: Sequence[str] | None = None) -> Asked:
        """Check a question and turn it into tokens. Raises ValueError as `answer` does."""
        check_text("the question", question)
        if options is None and is_yes_no(question):
            options = YES_NO
        prompt = self.processor.prompt_ids(question)
        answers = [self.processor.answer_ids(text) for text in distinct(options)] if options is not None else []
        _check_length("the question has", len(prompt))
        _check_length("the options together have", sum(map(len, answers)))
        return Asked(prompt, None if options is None else tuple(options), answers)

    def watch(self, clip: Frames) -> tuple[Tensor, Tensor | None]:
        """World features [1, N, C] of a clip, and what its encoder expects next [1, M, D]."""
        return self.model.watch(self.pixels(clip))

    def pixels(self, clip: Frames) -> Tensor:
        """A clip as the encoder is given it: normalised [1, T, 3, S, S]."""
        frames = clip.frames if isinstance(clip, Clip) else clip
        videos = self.processor.video_processor(videos=[_fit(frames, self.frames)], return_tensors="pt")
        pixels: Tensor = videos["pixel_values_videos"]
        return pixels

    @torch.no_grad()
    def score(
        self, asked: Sequence[Sequence[Asked]], features: Tensor, imagined: Tensor | None
    ) -> list[list[list[float]]]:
        """Mean log-probability a token of each option, of each question of each of B clips with features [B, N, C].

        An open question has no options: its list is empty.
        """
        scores: list[list[list[float]]] = [[[] for _ in clip] for clip in asked]
        for rows in _groups(list(self._rows(asked)), lambda row: len(row.pack.ids), BATCH_TOKENS):
            clips = torch.tensor([row.clip for row in rows], device=features.device)
            video = self.model.video_embeds(features[clips], None if imagined is None else imagined[clips])
            for row, found in zip(rows, self._likelihoods([row.pack for row in rows], video), strict=True):
                each = iter(found)
                for place in row.places:
                    scores[row.clip][place] = [next(each) for _ in asked[row.clip][place].answers]
        return scores

    def _rows(self, asked: Sequence[Sequence[Asked]]) -> Iterator["_Row"]:
        """A clip's questions with options behind one prefix, in as many rows as they need."""
        for clip, questions in enumerate(asked):
            scored = [place for place, question in enumerate(questions) if question.answers]
            for places in _groups(scored, lambda place: questions[place].size, BATCH_TOKENS):  # noqa: B023
                splits = [self.processor.split(questions[place].prompt) for place in places]
                branches = [(rest, questions[p].answers) for (_, rest), p in zip(splits, places, strict=True)]
                yield _Row(clip, places, pack(splits[0][0], branches))

    def _likelihoods(self, packs: Sequence[Pack], video: Tensor) -> Iterator[list[float]]:
        """For each row the mean log-probability a token of each of its answers. video: [B, K, D]"""
        batch = {name: value.to(video.device) for name, value in collate(packs).items()}
        kept = torch.cat([one.sources for one in packs]).unique()  # the union: [n]
        embeds = self.model.embed(batch.pop("input_ids"), video)
        output = self.model(inputs_embeds=embeds, **batch, logits_to_keep=kept.to(video.device), use_cache=False)
        for logits, one in zip(output.logits.cpu(), packs, strict=True):
            chances = logits[torch.searchsorted(kept, one.sources)].float().log_softmax(-1)  # [n, V]
            picked = chances.gather(1, one.targets[:, None])[:, 0]
            counts = one.owners.bincount()
            yield (picked.new_zeros(len(counts)).index_add(0, one.owners, picked) / counts).tolist()

    def _answer(
        self,
        asked: Sequence[Sequence[Asked]],
        features: Tensor,
        imagined: Tensor | None,
        evidence: Sequence[dict[str, Any]],
    ) -> list[list[Answer]]:
        answers = []
        for clip, (questions, scores) in enumerate(zip(asked, self.score(asked, features, imagined), strict=True)):
            own = features[clip, None], None if imagined is None else imagined[clip, None]
            written = self._write([one for one in questions if one.options is None], *own, evidence[clip])
            answers.append(
                [
                    next(written) if one.options is None else self._choose(one.options, found, evidence[clip])
                    for one, found in zip(questions, scores, strict=True)
                ]
            )
        return answers

    def _write(
        self,
        asked: Sequence[Asked],
        features: Tensor,
        imagined: Tensor | None,
        evidence: dict[str, Any],
        limit: int = MAX_ANSWER,
    ) -> Iterator[Answer]:
        """Answers to the open questions about one clip, in order."""
        for some in _groups(asked, lambda one: 1, WRITTEN_AT_ONCE):
            yield from _drain(self._generate(some, features, imagined, evidence, limit))

    def _choose(self, options: tuple[str, ...], scores: list[float], evidence: dict[str, Any]) -> Answer:
        """The likeliest option, by a softmax over the scores at the fitted temperature."""
        chances = (torch.tensor(scores, dtype=torch.float64) / self.calibration.temperature).softmax(0).tolist()
        best = max(range(len(options)), key=chances.__getitem__)
        abstained = chances[best] < self.calibration.threshold
        return Answer(options[best], chances[best], abstained, dict(zip(options, chances, strict=True)), evidence)

    def _written(self, text: str, log_chance: float, evidence: dict[str, Any]) -> Answer:
        """A generated text, as sure as the whole of it is likely, at its fitted temperature."""
        confidence = math.exp(log_chance / self.calibration.written_temperature)
        return Answer(text, confidence, not text or confidence < self.calibration.written_threshold, None, evidence)

    def _generate(
        self,
        asked: Sequence[Asked],
        features: Tensor,
        imagined: Tensor | None,
        evidence: dict[str, Any],
        limit: int = MAX_ANSWER,
    ) -> Generator[str, None, list[Answer]]:
        """Greedy decoding of questions about one clip: the pieces of their texts as they come, then the Answers."""
        texts = [_Text(self.processor) for _ in asked]
        for step in self.greedy([one.prompt for one in asked], features, imagined, limit):
            for place, (token, chance) in step.items():
                if piece := texts[place].add(token, chance):
                    yield piece
        return [self._written(text.shown.strip(), text.log_chance, evidence) for text in texts]

    @torch.no_grad()
    def greedy(
        self, prompts: Sequence[list[int]], features: Tensor, imagined: Tensor | None, limit: int
    ) -> Iterator[dict[int, tuple[int, float]]]:
        """The likeliest next token of every prompt about one clip, with its log-probability, until each has ended or
        has `limit` of them; what ended is left out.

        What the prompts begin with, the video, is read once: all share its keys and values.
        """
        shared = min(_alike(prompts), min(map(len, prompts)) - 1)
        prefix = torch.tensor([prompts[0][:shared]], device=features.device)
        video = {"world_features": features, "imagined_features": imagined}
        cache = self.model(input_ids=prefix, use_cache=True, logits_to_keep=1, **video).past_key_values
        cache.batch_repeat_interleave(len(prompts))
        ids, seen = (part.to(features.device) for part in _left_padded([prompt[shared:] for prompt in prompts]))
        seen = torch.cat([seen.new_ones(len(prompts), shared), seen], dim=1)  # [n, tokens so far]
        positions, asking = (seen.cumsum(1) - 1)[:, shared:].clamp_min(0), list(range(len(prompts)))
        for _ in range(limit):
            output = self.model(
                input_ids=ids, attention_mask=seen, position_ids=positions, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
            chances, tokens = self._sayable(output.logits[:, -1]).max(-1)  # [n]
            told = list(zip(tokens.tolist(), chances.tolist(), strict=True))
            yield dict(zip(asking, told, strict=True))
            going = [row for row, (token, _) in enumerate(told) if token not in self.ends]
            if not going:
                return
            if len(going) < len(asking):
                cache.batch_select_indices(torch.tensor(going, device=features.device))
            asking = [asking[row] for row in going]
            ids, positions = tokens[going, None], positions[going, -1:] + 1
            seen = torch.cat([seen[going], seen.new_ones(len(going), 1)], dim=1)

    @property
    def ends(self) -> set[int]:
        return {self.processor.end_token_id, self.processor.tokenizer.eos_token_id}

    def _sayable(self, logits: Tensor) -> Tensor:
        """Log-probabilities [n, V]; the video's placeholder, perhaps outside the vocabulary, is never said."""
        chances = logits.float().log_softmax(-1)
        placeholder = self.processor.video_token_id
        chances[:, placeholder : placeholder + 1] = -torch.inf
        return chances


class _Text:
    """An answer while it is generated."""

    def __init__(self, processor: ForetellProcessor) -> None:
        self.tokenizer, self.end = processor.tokenizer, {processor.end_token_id, processor.tokenizer.eos_token_id}
        self.made: list[int] = []
        self.log_chance = 0.0
        """Of all tokens together, its end's included."""
        self.shown = ""

    def add(self, token: int, chance: float) -> str:
        """What a token adds to the text that can be shown: nothing at its end, or while half a character is missing."""
        self.log_chance += chance
        if token in self.end:
            return ""
        self.made.append(token)
        text: str = self.tokenizer.decode(self.made, skip_special_tokens=True)
        if text.endswith("\ufffd"):
            return ""
        piece, self.shown = text[len(self.shown) :], text
        return piece


def _alike(rows: Sequence[Sequence[int]]) -> int:
    """How many ids all rows begin with."""
    differ = (place for place, ids in enumerate(zip(*rows, strict=False)) if len(set(ids)) > 1)
    return next(differ, min(map(len, rows)))


def _left_padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids that end together and which of them are there: int64 [n, L] both."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    seen = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, seen


@dataclass(frozen=True)
class _Row:
    """One packed row: of which clip, and which of its questions."""

    clip: int
    places: list[int]
    pack: Pack


def _groups(items: Sequence[T], size: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Neighbours together up to a total size; an item beyond it alone."""
    group: list[T] = []
    for item in items:
        if group and sum(map(size, group)) + size(item) > limit:
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def _drain(pieces: Generator[str, None, list[Answer]]) -> list[Answer]:
    """The Answers at the end of a stream whose pieces nobody watches."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            answers: list[Answer] = end.value
            return answers


def distinct(options: Sequence[str]) -> list[str]:
    """The options as they are scored. Raises ValueError where they are empty, repeated or fewer than two."""
    if isinstance(options, str) or len(options) < 2:
        raise ValueError(f"options must be a list of two or more, got {options!r}: leave them out for an open question")
    seen: dict[str, str] = {}
    for place, option in enumerate(options, start=1):
        check_text(f"option {place}", option)
        text = answer_text(option)
        if text in seen:
            raise ValueError(f"options {seen[text]!r} and {option!r} are the same answer: give each once")
        seen[text] = option
    return list(seen)


def check_text(what: str, text: object) -> None:
    """Raises ValueError for what is no text, or says nothing; `what` names it."""
    if not isinstance(text, str):
        raise ValueError(f"{what} must be text, got {text!r}")
    if not answer_text(text):
        raise ValueError(f"{what} is empty: write it out")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError(f"{what} holds half a UTF-16 pair, which is no character: save the text as UTF-8")


def _check_length(what: str, tokens: int) -> None:
    if tokens > MAX_QUESTION:
        raise ValueError(f"{what} {tokens} tokens; the limit is {MAX_QUESTION}: shorten the text")


def _fit(frames: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """The last `count` frames; a short clip repeats its first one (DESIGN, Frames shown)."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"frames must be uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}: use read_clip")
    missing = max(0, count - len(frames))
    return np.concatenate([frames[:1].repeat(missing, axis=0), frames[-count:]])


def evidence_of(clip: Frames) -> dict[str, Any]:
    """What was shown: the times of the frames, that of the last one, and the length of the whole video (s)."""
    if not isinstance(clip, Clip):
        return {"frames": len(clip)}
    return {"times": [float(t) for t in clip.times], "shown": clip.shown, "duration": clip.duration}


def save_plot(clip: Clip, answer: Answer, path: str | Path, question: str = "") -> None:
    """A strip of the frames that were shown, with the answer and its probabilities, as an image file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    odds = answer.probabilities or {answer.text or "(no answer)": answer.confidence}
    count = len(clip.frames)
    figure = Figure(figsize=(1.5 * count, 2.2 + 0.32 * len(odds)), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.9, 0.3 + 0.32 * len(odds)])
    strip, bars = parts
    strip.suptitle(_title(answer, question), wrap=True)
    for axes, frame, time in zip(strip.subplots(1, count, squeeze=False)[0], clip.frames, clip.times, strict=True):
        axes.imshow(frame)
        axes.set_title(f"{time:.2f} s", fontsize=8)
        axes.set_axis_off()
    _plot_odds(bars.subplots(), odds)
    figure.savefig(path)


def _title(answer: Answer, question: str) -> str:
    sure = "not sure, " if answer.abstained else ""
    return f"{question}  {answer.text} ({sure}{answer.confidence:.0%})".strip().replace("$", r"\$")


def _plot_odds(axes: Any, odds: dict[str, float]) -> None:
    names = [name.replace("$", r"\$") for name in odds]
    bars = axes.barh(names, list(odds.values()), color="tab:blue")
    axes.bar_label(bars, [f"{chance:.0%}" for chance in odds.values()], padding=3)
    axes.set_xlim(0, 1.1)
    axes.invert_yaxis()
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_xticks([])
