"""For the YAML files beside it, which lmms-eval reads: where a question's clip lies, and how much of it is shown."""

from pathlib import Path
from typing import Any


def video(document: dict[str, Any], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """A row of questions.jsonl as one visual; settings["folder"] is where that file lies."""
    return [{"type": "video", "url": str(Path(settings["folder"], document["video"])), "video_end": document["until"]}]
