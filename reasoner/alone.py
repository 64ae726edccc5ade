"""For a process that only answers, on one machine: transformers without torch's compiler and its sharding.

Import it before anything else imports transformers. Both are loaded for a few names alone, a quarter of the start-up
of `foretell ask`. Sharding is looked up as if this torch had been built without it, for the life of the process. The
compiler's modules stand aside: decorators that only mean something to it leave functions as they are, and whatever else
is wanted of it, now or later, brings the real one in.
"""

import importlib
import sys
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch

COMPILER = "torch._dynamo"


class Aside(ModuleType):
    """A module that is not loaded until something is asked of it that it was not given."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and (name, self.__name__) != ("__path__", COMPILER):  # the import system itself asks
            raise AttributeError(name)
        return getattr(self.real(), name)

    def real(self) -> ModuleType:
        """The module itself; nothing stands aside any longer."""
        for name in [name for name, module in sys.modules.items() if isinstance(module, Aside)]:
            del sys.modules[name]
        return importlib.import_module(self.__name__)

    def later(self, name: str) -> Any:
        """A callable of this module that is imported when it is called."""
        return lambda *given: getattr(self.real(), name)(*given)


def untouched(function: Any = None, *_: Any, **__: Any) -> Any:
    """A decorator, with or without arguments, that does nothing."""
    return function if function is not None else untouched


def stand_aside() -> None:
    """Put stand-ins where torch's compiler is looked for, unless it is there already."""
    compiler, masks, utils = (Aside(COMPILER + rest) for rest in ("", "._trace_wrapped_higher_order_op", ".utils"))
    vars(compiler).update(disable=untouched, assume_constant_result=untouched, allow_in_graph=untouched)
    vars(masks).update(TransformGetItemToIndex=masks.later("TransformGetItemToIndex"))  # for transformers' masks
    vars(utils).update(is_compile_supported=utils.later("is_compile_supported"))  # for torchvision's detectors
    if COMPILER not in sys.modules:
        sys.modules.update({one.__name__: one for one in (compiler, masks, utils)})


if "transformers" not in sys.modules:
    stand_aside()
    with patch.object(torch.distributed, "is_available", lambda: False):
        from . import lean  # noqa: F401
