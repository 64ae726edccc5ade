"""A generated card says what a folder holds, where it comes from and under which licence, and its examples run."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, ModelCardData

from foretell.eval.card import card, exam_for
from foretell.eval.report import results
from foretell.reasoner.processing import ForetellProcessor

from .reasoner_tiny import tiny_hybrid_config, tiny_model, tiny_tokenizer


def carded(folder: Path, found: Any = None, facts: Any = None, **changed: Any) -> tuple[ModelCardData, str]:
    """Header and text of the card of a folder whose config says this."""
    config = tiny_hybrid_config()
    for name, value in changed.items():
        setattr(config, name, value)
    config.save_pretrained(folder)
    if facts is not None:
        (folder / "training.json").write_text(json.dumps(facts))
    read = ModelCard(card(folder, "mine", "me/mine", found))
    assert isinstance(read.data, ModelCardData)
    return read.data, " ".join(read.text.split())


def test_the_header_is_the_hubs(tmp_path: Path) -> None:
    found = results("exam")
    data, text = carded(tmp_path, found)
    assert (data.license, data.pipeline_tag, data.library_name) == (
        "apache-2.0",
        "video-text-to-text",
        "transformers",
    )
    assert data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert data.eval_results is not None
    figures = {one.metric_name: one.metric_value for one in data.eval_results}
    measured = found["figures"]["headlines"].values()
    assert figures == {row["label"]: row["takers"]["foretell"]["value"] for row in measured}
    assert found["command"] in text
    assert "Apache-2.0, as is the language model in it." in text


@pytest.mark.parametrize(
    ("llm", "encoder", "bases"),
    [
        ("Qwen/Qwen3-8B", "facebook/vjepa2-vitl-fpc64-256", ["Qwen/Qwen3-8B", "facebook/vjepa2-vitl-fpc64-256"]),
        ("Qwen/Qwen3-8B", "", ["Qwen/Qwen3-8B"]),
        ("my-own", "", None),
    ],
)
def test_parts_from_elsewhere_keep_their_licence(
    tmp_path: Path, llm: str, encoder: str, bases: list[str] | None
) -> None:
    data, text = carded(tmp_path, facts={"recipe": {"encoder": encoder}}, llm=llm)
    assert (data.license, data.license_name, data.base_model) == ("other", "that-of-the-language-model", bases)
    assert f"The weights of {llm} in this folder stay under the licence of {llm}" in text


def test_it_tells_training_and_what_became_of_the_lora(tmp_path: Path) -> None:
    _, text = carded(tmp_path, facts={"train_clips": 12000, "recipe": {"four_bit": True}}, adapter=True)
    assert "| train_clips | 12,000 |" in text
    assert "the LoRA apart in `lora`, for peft; it was trained on weights in 4 bits, and these are not" in text
    assert "Not measured; `foretell eval exam` does it" in text


def test_a_merged_model_of_unknown_training_says_so(tmp_path: Path) -> None:
    _, text = carded(tmp_path)
    assert "any LoRA merged into the weights" in text
    assert "tells nothing of its training" in text


def test_its_examples_run(
    tmp_path: Path, tiny_video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "whole")
    ForetellProcessor.for_model(model.config, tiny_tokenizer()).save_pretrained(str(tmp_path / "whole"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").symlink_to(tiny_video)
    examples = re.findall(r"```python\n(.*?)```", card(tmp_path / "whole", "whole", "whole"), re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        exec(example, {})
    assert "Answer(text=" in capsys.readouterr().out


def test_figures_are_those_of_the_model(tmp_path: Path) -> None:
    assert exam_for(None, None) == results("exam")
    assert exam_for("runs/nano", None) is None
    (tmp_path / "exam.json").write_text(json.dumps(results("exam")))
    assert exam_for("runs/nano", tmp_path / "exam.json") == results("exam")
    (tmp_path / "other.json").write_text('{"figures": {"accuracy": {}}}')
    with pytest.raises(ValueError, match=r"other.json holds no exam: name the file that `foretell eval exam --out`"):
        exam_for("runs/nano", tmp_path / "other.json")
