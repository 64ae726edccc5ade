"""The exam's other readouts, beside its questions: what surprises a model, and what a probe reads in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import diagnose, violations
from .violations import Track

LABELS, LIMIT = 1500, 1000
"""Clips that probes of layers learn from, and are asked about: the intervals of some points in half an hour."""
SOURCE = ("command", "commit", "date", "machine")


def surprise_of(
    models: Mapping[str, str | Path | None], data: Path, out: Path, command: str = "", track: Track = iter
) -> dict[str, Any]:
    """What quadruplets surprise of each model by name (None: the embedded one), each beside its untrained twin.

    A model that tells pixels is surprised by its own error in pixels. data: a folder that `foretell worlds
    --violations` wrote; out: the exam's file, the lines of every clip lie beside it.
    """
    found = {}
    for name, model in models.items():
        place = out.with_name(f"{out.stem}-surprise-{name.replace(' ', '-')}.json")
        found[name] = _without_source(violations.run(model, data, place, command=command, track=track))
    return found


def layers_of(model: str | Path | None, data: Path, train_data: Path, out: Path, command: str = "") -> dict[str, Any]:
    """What a ridge probe reads at every stage of a model; figures and plot lie beside the exam's file."""
    place = out.with_name(f"{out.stem}-layers.json")
    told = diagnose.run(model, data, train_data, place, labels=LABELS, limit=LIMIT, command=command)
    return {**_without_source(told), "words": diagnose.words(told), "plot": place.with_suffix(".png").name}


def _without_source(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in SOURCE}
