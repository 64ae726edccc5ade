"""Work that several processes share: each piece is done by one of them, and known to all in the given order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from ..bridge.cache import claimed

Work = TypeVar("Work")


def in_turn(
    lock: Path, work: Mapping[str, Callable[[], Work]], told_later: tuple[type[Exception], ...] = ()
) -> Iterator[tuple[str, Callable[[], Work]]]:
    """Pieces of work by name, in order, each to be called while no other process is at it; lock: a file of their own.

    Where another one is, the next that nobody is at is done in the meantime: the work itself keeps what is done, so
    that it will be known when its turn comes, and so will be the errors `told_later`.
    """
    for number, name in enumerate(work):
        later = iter([*work][number + 1 :])
        while True:
            with claim_of(lock, name, wait=False) as mine:
                if mine:
                    yield name, work[name]
                    break
            if (other := next(later, None)) is None:
                with claim_of(lock, name, wait=True):
                    yield name, work[name]
                break
            with claim_of(lock, other, wait=False) as free:
                if free:
                    with suppress(*told_later):
                        work[other]()


def claim_of(lock: Path, name: str, wait: bool) -> AbstractContextManager[bool]:
    """Whether this process alone is at the work called `name`."""
    return claimed(lock, sha256(name.encode()).hexdigest(), wait)
