"""Ask a video what happens next: a frozen V-JEPA watches, a trained bridge translates, a language model answers."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .perception.video import Clip, VideoError, read_clip
    from .reasoner.answer import Answer, Foretell

__version__ = "0.1.0"
__all__ = ["Answer", "Clip", "Foretell", "VideoError", "__version__", "read_clip"]

_ROOMS = {
    "Answer": ".reasoner.answer",
    "Clip": ".perception.video",
    "Foretell": ".reasoner.answer",
    "VideoError": ".perception.video",
    "read_clip": ".perception.video",
}


def __getattr__(name: str) -> object:
    """Public names are imported when first used: torch and transformers take seconds."""
    if name not in _ROOMS:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}; its public names are {', '.join(__all__)}"
        )
    return getattr(import_module(_ROOMS[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
