"""What lmms-eval asks, in Foretell's terms: which frames, how likely each option, what it says freely."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from torch import Tensor

from ...reasoner.answer import MAX_ANSWER, Foretell, answer_text

Look: TypeAlias = tuple[Tensor, Tensor | None]
"""World features [1, N, C] of a clip and what its encoder expects next [1, M, D]."""


def video_of(visuals: Sequence[Any] | None) -> tuple[str, float | None]:
    """Path of the one video that a document shows, and up to which second.

    A visual is a path, or {"url" or "path": ..., "video_end": seconds} (`ConfigurableMessagesTask._visual_to_content`
    of lmms-eval). Raises ValueError for any other.
    """
    if visuals is None or len(visuals) != 1:
        raise ValueError(f"foretell answers about one video at a time, got {len(visuals or ())} visuals")
    visual = visuals[0]
    told: Mapping[str, Any] = {"url": visual} if isinstance(visual, str) else visual
    path = (told.get("url") or told.get("path")) if isinstance(told, Mapping) else None
    if not isinstance(path, str) or told.get("type", "video") != "video" or told.get("video_start"):
        raise ValueError(
            f"foretell watches a video file from its beginning, got {visual!r}: give its path, or "
            '{"type": "video", "url": path, "video_end": seconds}'
        )
    return path, told.get("video_end")


def losses(model: Foretell, look: Look, question: str, options: Sequence[str]) -> list[tuple[float, bool]]:
    """Of each option its loss, the mean negative log-probability a token, and whether greedy decoding would say it.

    Losses and not log-likelihoods, as the models of lmms-eval return them: its multiple choice takes the smallest
    (`ConfigurableTask.process_results`). They rank options as `Foretell.answer` does.
    """
    texts = [answer_text(option) for option in options]
    answers = [model.processor.answer_ids(text) for text in texts]
    asked = replace(model.ask(question), options=tuple(options), answers=answers)
    (scores,) = model.score([[asked]], *look)[0]
    said = model.generate_features(*look, [question], max(map(len, answers)))[0].text
    return [(-score, text == said) for score, text in zip(scores, texts, strict=True)]


def written(model: Foretell, look: Look, question: str, settings: Mapping[str, Any]) -> str:
    """The greedy answer in free text, within a task's `max_new_tokens` and up to the first of its `until` strings."""
    limit = int(settings.get("max_new_tokens") or MAX_ANSWER)
    text = model.generate_features(*look, [question], limit)[0].text
    stops = settings.get("until") or []
    for stop in filter(None, [stops] if isinstance(stops, str) else stops):
        text = text.partition(stop)[0]
    return text
