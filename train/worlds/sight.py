"""What of a clip's objects its shown frames show: descriptions are asked about that and about nothing else."""

from typing import Any

Row = dict[str, Any]
SEEN, SHAPED = 12 / 64**2, 30 / 64**2
"""Shares of the picture that an object must fill, in one of the shown frames, to be there for who watches; and for its
shape to be told."""


def _shares(clip: Row) -> list[float]:
    """What each object fills; of clips made before it was noted, enough."""
    pixels: list[int] | None = clip.get("visible")
    return [1.0] * len(clip["objects"]) if pixels is None else [count / clip["size"] ** 2 for count in pixels]


def in_sight(clip: Row, least: float = SEEN) -> list[Row]:
    """The objects that fill so much of the picture."""
    return [one for one, share in zip(clip["objects"], _shares(clip), strict=True) if share >= least]


def out_of_sight(clip: Row) -> list[Row]:
    """The objects of which nothing shows. What is neither in sight nor out of it is not asked about."""
    return [one for one, share in zip(clip["objects"], _shares(clip), strict=True) if share == 0]


def count_seen(clip: Row) -> int | None:
    """How many objects can be seen; None where it is doubtful of one of them."""
    seen = len(in_sight(clip))
    return seen if seen + len(out_of_sight(clip)) == len(clip["objects"]) else None
