"""Foretell as a model of lmms-eval 0.7, found through the entry point in pyproject.toml.

    lmms-eval --model foretell --model_args pretrained=runs/nano/model --tasks ...

Only lmms-eval imports this, in an environment of its own (`make lmms-eval`). It is a "simple" model, because lmms-eval
asks "chat" models nothing but generation: multiple choice and log-likelihoods would be out of reach.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from rich.console import Console
from rich.progress import track

from ...reasoner.answer import Foretell
from .watched import Look, losses, video_of, written


def manifest() -> ModelManifest:
    """What the entry point announces (lmms_eval/models/registry_v2.py)."""
    return ModelManifest("foretell", simple_class_path=f"{__name__}.{ForetellModel.__name__}")


class Pair(tuple, GenerationResult):  # type: ignore[misc, type-arg]  # lmms-eval is not where the type checker is
    """(loss, greedy). A plain pair is turned into text by the evaluator of 0.7.3, whose multiple choice then fails
    (`unwrap_generation_output` in lmms_eval/api/instance.py); of this one it keeps what it was made of."""


class ForetellModel(lmms):  # type: ignore[misc]
    """Any Foretell model. A clip that several requests share is watched once."""

    def __init__(
        self,
        pretrained: str | None = None,
        llm: str | None = None,
        load_in_4bit: bool = False,
        batch_size: object = None,
        max_batch_size: object = None,
        device: object = None,
    ) -> None:
        """pretrained: folder or hub id (None: the embedded model); llm and load_in_4bit as in `Foretell.load`.

        The others are lmms-eval's own and change nothing: requests are answered one by one, on the GPU where there is
        one.
        """
        super().__init__()
        self.foretell = Foretell.load(pretrained, llm, load_in_4bit)
        self.look: Callable[[str, float | None], Look] = lru_cache(maxsize=1)(self._look)

    def _look(self, path: str, until: float | None) -> Look:
        return self.foretell.watch(self.foretell.read(path, until))

    def _seen(self, doc_to_visual: Callable[[Any], Any], document: Any) -> Look:
        return self.look(*video_of(doc_to_visual(document)))

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(loss, greedy) of each request; neighbours that ask the same of the same document are scored together."""
        found: list[tuple[float, bool]] = []
        asked = groupby((request.args for request in requests), lambda args: (args[0], args[3:]))
        for together in _shown([list(group) for _, group in asked], "scoring"):
            question, _, doc_to_visual, doc_id, task, split = together[0]
            document = self.task_dict[task][split][doc_id]
            targets = (args[1] for args in together)
            options = [target(document) if callable(target) else target for target in targets]
            found += map(Pair, losses(self.foretell, self._seen(doc_to_visual, document), question, options))
        return found

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answer to each request in free text."""
        return [self._written(*request.args) for request in _shown(requests, "generating")]

    def _written(
        self, question: str, settings: dict[str, Any], doc_to_visual: Any, doc_id: int, task: str, split: str
    ) -> str:
        look = self._seen(doc_to_visual, self.task_dict[task][split][doc_id])
        return written(self.foretell, look, question, settings)

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise NotImplementedError("foretell answers single questions: choose tasks of one round")


def _shown(items: Sequence[Any], doing: str) -> Iterable[Any]:
    """With a progress bar."""
    return track(items, description=doing, console=Console(stderr=True))
