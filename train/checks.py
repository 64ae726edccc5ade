"""Validation while a bridge trains, and the calibration of what came out: what slots say, what the model answers.

The caller switches the model to evaluation.
"""

from collections.abc import Iterator

import numpy as np
import torch

from ..reasoner.answer import Foretell
from ..reasoner.calibration import abstention_threshold, fit_temperature
from ..reasoner.model import ForetellForConditionalGeneration
from .data import Row, Split
from .facts import MISSING, OUTCOMES, SLOTS, WORDS


@torch.no_grad()
def check_words(model: ForetellForConditionalGeneration, split: Split) -> dict[str, float]:
    """Validation of the slots: balanced accuracy of each scenario's outcome, accuracy of all words, of each slot's."""
    said = []
    for start in range(0, len(split.keys), 64):
        pooled = model.bridge.read(*_features(model, split, split.keys[start : start + 64]))
        said.append(model.bridge.said(pooled).cpu())
    logits, words = torch.cat(said), split.targets.words  # [N, S, W], [N, S]
    right, known = logits.argmax(-1) == words, words != MISSING
    scores = {"val_words": float(right[known].float().mean())}
    scores |= {f"val_slot/{slot}": float(right[known[:, s], s].float().mean()) for s, slot in enumerate(SLOTS)}
    place = list(SLOTS).index("outcome")
    for scenario, pair in OUTCOMES.items():
        false, true = (WORDS.index(word) for word in pair)
        mine = torch.tensor([name == scenario for name in split.scenarios])
        guess, truth = logits[mine, place, true] > logits[mine, place, false], words[mine, place] == true
        scores[f"val_{scenario}"] = float(
            torch.stack([(guess == truth)[truth == t].float().mean() for t in (False, True)]).mean()
        )
    return scores


def _features(
    model: ForetellForConditionalGeneration, split: Split, keys: list[str]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Features of some clips, and imagined ones where the bridge takes them, on the model's device."""
    features, imagined = (part.to(model.device) for part in split.cache.rows(keys))
    return features, imagined if model.config.bridge_config.imagined_tokens else None


@torch.no_grad()
def check_answers(model: Foretell, split: Split, clips: int = 96) -> dict[str, float]:
    """Validation through the language model on the first clips: accuracy by kind, of predictions by type."""
    right: dict[str, list[bool]] = {}
    for row, score in score_rows(model, split, split.questions[:clips]):
        hit = row["options"][int(np.argmax(score))] == row["answer"]
        for name in (row["kind"], *((f"{row['scenario']}_{row['type']}",) if row["kind"] == "predictive" else ())):
            right.setdefault(f"val_{name}", []).append(hit)
    return {name: float(np.mean(values)) for name, values in right.items()}


def score_rows(
    model: Foretell, split: Split, questions: list[list[Row]], together: int = 8
) -> Iterator[tuple[Row, list[float]]]:
    """Questions with options, given by clip (row of the split), each with the score of each of its options."""
    asked = [n for n, rows in enumerate(questions) if rows]
    for start in range(0, len(asked), together):
        rows = asked[start : start + together]
        prompts = [[model.ask(q["question"], q["options"]) for q in questions[n]] for n in rows]
        scores = model.score(prompts, *_features(model.model, split, [split.keys[n] for n in rows]))
        for n, clip in zip(rows, scores, strict=True):
            yield from zip(questions[n], clip, strict=True)


def calibrate(model: Foretell, split: Split, clips: int) -> dict[str, float]:
    """Temperature and abstention threshold (90% of the answers given are right) on yes/no questions of validation."""
    closed = [[row for row in rows if row["options"] == ["yes", "no"]] for rows in split.questions[:clips]]
    scored = list(score_rows(model, split, closed))
    scores = np.array([score for _, score in scored])  # [N, 2]
    truth = [row["options"].index(row["answer"]) for row, _ in scored]
    temperature = fit_temperature(list(scores), truth)
    odds = torch.tensor(scores / temperature).softmax(-1).numpy()
    threshold = abstention_threshold(odds.max(-1), odds.argmax(-1) == np.array(truth))
    return {"temperature": round(temperature, 4), "threshold": round(threshold, 4)}
