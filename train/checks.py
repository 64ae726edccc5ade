"""Validation while a bridge trains, and the calibration of what came out: what slots say, what the model answers.

The caller switches the model to evaluation.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np
import torch

from ..reasoner.answer import YES_NO, Asked, Calibration, Foretell, answer_text, is_yes_no
from ..reasoner.calibration import abstention_threshold, fit_temperature, fit_written_temperature
from ..reasoner.model import ForetellForConditionalGeneration
from .data import Row, Split
from .facts import MISSING, OUTCOMES, SLOTS, WORDS, FactHeads, shapes_here


@torch.no_grad()
def check_words(model: ForetellForConditionalGeneration, split: Split) -> dict[str, float]:
    """Validation of the slots: balanced accuracy of each scenario's outcome, accuracy of all words, of each slot's.

    Nothing where no world tells facts about the clips.
    """
    if not len(split.known):
        return {}
    said = []
    keys, scenarios = ([values[n] for n in split.known] for values in (split.keys, split.scenarios))
    for start in range(0, len(keys), 64):
        pooled = model.bridge.read(*_features(model, split, keys[start : start + 64]))
        said.append(model.bridge.said(pooled).cpu())
    logits, words = torch.cat(said), split.targets.words[split.known]  # [N, S, W], [N, S]
    right, known = logits.argmax(-1) == words, words != MISSING
    scores = {"val_words": float(right[known].float().mean())}
    scores |= {f"val_slot/{slot}": float(right[known[:, s], s].float().mean()) for s, slot in enumerate(SLOTS)}
    place = list(SLOTS).index("outcome")
    for scenario, pair in OUTCOMES.items():
        if scenario not in scenarios:
            continue
        false, true = (WORDS.index(word) for word in pair)
        mine = torch.tensor([name == scenario for name in scenarios])
        guess, truth = logits[mine, place, true] > logits[mine, place, false], words[mine, place] == true
        scores[f"val_{scenario}"] = float(
            torch.stack([(guess == truth)[truth == t].float().mean() for t in (False, True)]).mean()
        )
    return scores


@torch.no_grad()
def check_shapes(model: ForetellForConditionalGeneration, heads: FactHeads, split: Split) -> dict[str, float]:
    """Validation of what looks into patches: the share of objects whose shape their patch tells, where not all are
    boxes. Nothing where no clip has others, or nothing looks into patches."""
    kinds = shapes_here(split.targets.batch(range(len(split.keys))))  # [N, colours]
    shaped = np.flatnonzero((kinds > 0).any(1).numpy())
    bridge, right = model.bridge, []
    for start in range(0, len(shaped) if bridge.config.magnify else 0, 64):
        rows = shaped[start : start + 64]
        features, _ = _features(model, split, [split.keys[row] for row in rows])
        batch = {name: part.to(features.device) for name, part in split.targets.batch(rows).items()}
        told = heads.shapes_told(bridge.last_tubelet(bridge.take_in(features)), batch)
        wanted = shapes_here(batch)
        right.append((told.argmax(-1) == wanted)[wanted != MISSING].cpu())
    return {"val_shapes": float(torch.cat(right).float().mean())} if right else {}


def _features(
    model: ForetellForConditionalGeneration, split: Split, keys: list[str]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Features of some clips, and imagined ones where the bridge takes them, on the bridge's device."""
    device = next(model.bridge.parameters()).device
    features, imagined = (part.to(device) for part in split.cache.rows(keys))
    return features, imagined if model.config.bridge_config.imagined_tokens else None


@torch.no_grad()
def check_answers(model: Foretell, split: Split, clips: int = 96) -> dict[str, float]:
    """Validation through the language model on the first clips: accuracy by kind, of predictions by type.

    Open questions count in val_open_loss, the mean cross-entropy a token of their answers.
    """
    right: dict[str, list[bool]] = {}
    losses: list[float] = []
    for row, score in score_rows(model, split, split.asked(clips)):
        if row["options"] is None:
            losses += [-score[0]]
            continue
        hit = row["options"][int(np.argmax(score))] == row["answer"]
        typed = row["kind"] == "predictive" and "type" in row
        for name in (row["kind"], *((f"{row['scenario']}_{row['type']}",) if typed else ())):
            right.setdefault(f"val_{name}", []).append(hit)
    found = {name: float(np.mean(values)) for name, values in right.items()}
    return found | ({"val_open_loss": float(np.mean(losses))} if losses else {})


def score_rows(
    model: Foretell, split: Split, questions: list[list[Row]], together: int = 8
) -> Iterator[tuple[Row, list[float]]]:
    """Questions, given by clip (row of the split), each with the score of each of its options, or of its own answer."""
    asked = [n for n, rows in enumerate(questions) if rows]
    for start in range(0, len(asked), together):
        rows = asked[start : start + together]
        prompts = [[asked_of(model, question) for question in questions[n]] for n in rows]
        scores = model.score(prompts, *_features(model.model, split, [split.keys[n] for n in rows]))
        for n, clip in zip(rows, scores, strict=True):
            yield from zip(questions[n], clip, strict=True)


def asked_of(model: Foretell, row: Row) -> Asked:
    """A question as `ask` puts it; an open one with its own answer in the place of options."""
    if row["options"] is not None:
        return model.ask(row["question"], row["options"])
    answer: str = row["answer"]
    return Asked(
        model.processor.prompt_ids(row["question"]), (answer,), [model.processor.answer_ids(answer_text(answer))]
    )


def calibrate(model: Foretell, split: Split, clips: int) -> dict[str, float]:
    """Temperatures and abstention thresholds (90% of the answers given are right) on the first clips of validation: of
    options by yes/no questions, of generated texts by those with other options, of which none is told.

    model: as yet uncalibrated. Of what is not asked nothing is changed, and nothing abstains.
    """
    rows = split.asked(clips)
    closed = [[row for row in one if row["options"] == [*YES_NO]] for one in rows]
    others = [[row for row in one if row["options"] and not is_yes_no(row["question"])] for one in rows]
    fitted = Calibration()
    if scored := list(score_rows(model, split, closed)):
        scores = np.array([score for _, score in scored])  # [N, 2]
        truth = [row["options"].index(row["answer"]) for row, _ in scored]
        heat = fit_temperature(list(scores), truth)
        odds = torch.tensor(scores / heat).softmax(-1).numpy()
        bar = abstention_threshold(odds.max(-1), odds.argmax(-1) == np.array(truth))
        fitted = replace(fitted, temperature=round(heat, 4), threshold=round(bar, 4))
    if told := list(written_rows(model, split, others)):
        log_chance, right = (np.array(part) for part in zip(*told, strict=True))  # [N] both
        heat = fit_written_temperature(log_chance, right)
        bar = abstention_threshold(np.exp(log_chance / heat), right)
        fitted = replace(fitted, written_temperature=round(heat, 4), written_threshold=round(bar, 4))
    return asdict(fitted)


def written_rows(model: Foretell, split: Split, questions: list[list[Row]]) -> Iterator[tuple[float, bool]]:
    """The log-probability of what a model writes to each question, given by clip, and whether it is the answer.

    Texts are cut off where they have become longer than every answer to the same clip: they are wrong by then.
    """
    for key, rows in zip(split.keys, questions, strict=False):
        if not key or not rows:
            continue
        limit = max(len(model.processor.answer_ids(answer_text(row["answer"]))) for row in rows)
        written = model.generate_features(
            *_features(model.model, split, [key]), [row["question"] for row in rows], limit
        )
        for row, answer in zip(rows, written, strict=True):
            said = answer_text(answer.text).casefold() == answer_text(row["answer"]).casefold()
            yield math.log(max(answer.confidence, sys.float_info.min)), said
