"""What bridge trainings in tests need, on disk: a world, an untrained encoder, an untrained language model."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import LlamaForCausalLM, VJEPA2Model

from foretell.perception.encoder import tiny_config
from foretell.train.worlds import generate

from .reasoner_tiny import tiny_text_config, tiny_tokenizer


def make_lab(root: Path, clips: int = 24) -> Path:
    """data/, encoder/ and llm/ in a folder."""
    generate(root / "data", clips, seed=50, progress=False)
    torch.manual_seed(0)
    config = tiny_config()
    config.taps = [0, 2, 3]  # a magnifier looks into patches
    VJEPA2Model(config).save_pretrained(root / "encoder")
    LlamaForCausalLM(tiny_text_config()).save_pretrained(root / "llm")
    tiny_tokenizer().save_pretrained(root / "llm")
    return root


def losses(out: Path) -> list[tuple[str, int, float]]:
    """Stage, step and loss of everything that a run has logged."""
    return [
        (stage, row["step"], row["loss"])
        for stage in ("warm", "align", "tune")
        for row in map(json.loads, (out / stage / "metrics.jsonl").read_text().splitlines())
    ]


class Order(Protocol):
    def __call__(self, out: Path, **order: Any) -> list[int]: ...


@contextmanager
def trainings(lab: Path) -> Iterator[Order]:
    """Have bridges trained in processes of their own (fit_forks); returns the exit statuses of a training's ranks."""
    command = [sys.executable, str(Path(__file__).with_name("fit_forks.py")), str(lab)]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # a forked process has none of its parent's threads
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=alone) as server:

        def order(out: Path, **wanted: Any) -> list[int]:
            assert server.stdin is not None and server.stdout is not None
            server.stdin.write(json.dumps({"out": str(out), **wanted}) + "\n")
            server.stdin.flush()
            statuses: list[int] = json.loads(server.stdout.readline())
            return statuses

        yield order
