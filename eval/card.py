"""The model card of an exported model, from what lies in its folder and what an exam found of it."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from ..reasoner.model import LORA, ForetellConfig, is_hub_id
from .report import EXAM, Results, exam_section, header, results, training_table

CARD = """---
{metadata}
---
# {name}

Answers questions about what happens next in a short video. A frozen V-JEPA 2 encoder ({config.frames} frames of
{shown.crop_size}x{shown.crop_size} pixels at {config.rate:g} a second, {shown.num_hidden_layers} layers of width
{shown.hidden_size}) watches{imagination}; a trained bridge turns what it knows into {tokens} token embeddings; {llm}
answers. This folder holds all of it, {lora}.

## Use

```python
from foretell import Foretell

model = Foretell.load("{where}")
clip = model.read("clip.mp4", until=0.5)
print(model.answer(clip, "Will the tower fall?"))
```

The confidence of these answers is calibrated, and they say when they are too unsure to be relied on. Or with
transformers alone, which learns of the architecture from the first line:

```python
from foretell import Foretell, read_clip
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("{where}")
processor = AutoProcessor.from_pretrained("{where}")
clip = read_clip("clip.mp4", rate={config.rate}, count={config.frames}, until=0.5)
content = [{{"type": "video", "video": clip.frames}}, {{"type": "text", "text": "Will the tower fall?"}}]
inputs = processor.apply_chat_template(
    [{{"role": "user", "content": content}}],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
)
made = model.generate(**inputs, max_new_tokens=32, do_sample=False)
print(processor.tokenizer.decode(made[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```

## Training

{training}

## Figures

{figures}

## Limits

It was taught the kinds of scenes and questions that its training set held; on others, real footage among them, its
answers are guesses, and its confidence is only as good as what it was fitted on. What it sees of a video are
{config.frames} small frames. Not for decisions that matter.

## Licence

{licence}
"""


def card(folder: Path, name: str, where: str, found: Results | None = None) -> str:
    """The card of an exported folder. name: the model's; where: what the examples load; found: an exam's results."""
    config, facts = ForetellConfig.from_pretrained(folder), _facts(folder)
    llm = config.llm or "SmolLM2-135M-Instruct"
    return CARD.format(
        metadata=_metadata(config, facts, name, found).to_yaml(),
        name=name,
        where=where,
        config=config,
        shown=config.vision_config,
        imagination=", its predictor imagines the next moments" if config.imagination else "",
        tokens=config.bridge_config.tokens,
        llm=llm,
        lora=_lora(config, facts),
        training=training_table(facts) if facts else "What it was exported from tells nothing of its training.",
        figures=exam_section(found) if found else "Not measured; `foretell eval exam` does it, with controls.",
        licence=_licence(config, llm),
    )


def exam_for(model: str | None, path: Path | None) -> Results | None:
    """An exam's results for a model's card: those in a file, or else (model None) those of the embedded one.

    Raises ValueError where the file holds something else.
    """
    if path is None:
        return results(EXAM) if model is None else None
    found: Results = json.loads(path.read_text(encoding="utf-8"))
    if "headlines" not in found.get("figures", {}):
        raise ValueError(f"{path} holds no exam: name the file that `foretell eval exam --out` wrote")
    return found


def _facts(folder: Path) -> dict[str, Any]:
    path = folder / "training.json"
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return facts


def _metadata(config: ForetellConfig, facts: dict[str, Any], name: str, found: Results | None) -> ModelCardData:
    """The shipped model's header, with this one's parts: parts from elsewhere bring licences of their own."""
    fields = header(name, found)
    if config.llm is not None:
        encoder = facts.get("recipe", {}).get("encoder", "")
        fields["base_model"] = [part for part in (config.llm, encoder) if is_hub_id(part)] or None
        fields |= {"license": "other", "license_name": "that-of-the-language-model"}
    return ModelCardData(**fields)


def _lora(config: ForetellConfig, facts: dict[str, Any]) -> str:
    kept = f"the LoRA apart in `{LORA}`, for peft" if config.adapter else "any LoRA merged into the weights"
    quantised = facts.get("recipe", {}).get("four_bit", False)
    return f"{kept}; it was trained on weights in 4 bits, and these are not" if quantised else kept


def _licence(config: ForetellConfig, llm: str) -> str:
    if config.llm is None:
        return "Apache-2.0, as is the language model in it."
    return (
        f"Foretell is Apache-2.0. The weights of {llm} in this folder stay under the licence of {llm}, and an encoder "
        "from elsewhere under its own: read them before you pass this folder on."
    )
