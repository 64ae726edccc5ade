"""An exported folder is the whole model: it loads by itself, answers as its source does, and goes to a hub and back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import close_session, constants
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from foretell.reasoner import llm, model
from foretell.reasoner.answer import Foretell
from foretell.reasoner.export import export, push, reserve
from foretell.reasoner.model import ForetellForConditionalGeneration, Lora, add_lora, load, save_parts
from foretell.reasoner.processing import ForetellProcessor

from .fake_hub import REPO, TOKEN, Hub, open_hub
from .reasoner_tiny import chat, noise, tiny_hybrid_config, tiny_tokenizer

QUESTIONS = [("Will it fall?", None), ("Which one?", ["red", "blue", "green"]), ("What happens?", None)]
FACTS = {"train_clips": 12, "recipe": {"lora_rank": 4}}


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (llm, model):
        monkeypatch.setattr(room, "native_dtype", lambda: torch.float32)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as training leaves it: parts, a LoRA that says something, and a language model elsewhere."""
    folder = tmp_path_factory.mktemp("trained")
    config = tiny_hybrid_config()
    config.bridge_config.words, config.bridge_config.slots = 3, [[0, 2], [1]]
    torch.manual_seed(0)
    made: Any = ForetellForConditionalGeneration(config)
    made.language_model.save_pretrained(folder / "llm")
    tiny_tokenizer().save_pretrained(folder / "llm")
    for name, parameter in add_lora(made, rank=4).named_parameters():
        if "lora_B" in name or "slots" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    made.config.llm = str(folder / "llm")
    save_parts(made, folder / "model", dtype=torch.float16)
    (folder / "model" / "calibration.json").write_text('{"temperature": 0.5, "threshold": 0.6}')
    (folder / "model" / "training.json").write_text(json.dumps(FACTS))
    return folder / "model"


def described(folder: Path) -> str:
    """A card that tells what was there to be described."""
    return " ".join(sorted(path.name for path in folder.iterdir()))


def answers(source: str | Path) -> list[Any]:
    return Foretell.load(source).answer_many(noise(0), QUESTIONS)


@torch.no_grad()
def logits_of(folder: str | Path) -> Tensor:
    """What the Auto classes make of a folder."""
    twin, reader = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert isinstance(twin, ForetellForConditionalGeneration)
    assert isinstance(reader, ForetellProcessor)
    found: Tensor = twin(**chat(reader)).logits
    return found


@torch.no_grad()
def expected(parts: Path, lora: Lora) -> Tensor:
    source = load(parts, lora=lora)
    found: Tensor = source(**chat(ForetellProcessor.for_model(source.config, tiny_tokenizer()))).logits
    return found


@pytest.mark.parametrize(("merge", "lora"), [(False, "trainable"), (True, "folded")])
def test_auto_classes_give_back_the_source_bit_by_bit(parts: Path, tmp_path: Path, merge: bool, lora: Lora) -> None:
    out = export(parts, tmp_path / "whole", described, merge)
    assert torch.equal(logits_of(out), expected(parts, lora))
    assert (out / "lora").is_dir() is not merge


@pytest.mark.parametrize("merge", [False, True])
def test_it_answers_as_its_source_with_its_calibration(parts: Path, tmp_path: Path, merge: bool) -> None:
    ours, theirs = answers(export(parts, tmp_path / "whole", described, merge)), answers(parts)
    assert [(one.text, one.abstained) for one in ours] == [(one.text, one.abstained) for one in theirs]
    assert [one.confidence for one in ours] == pytest.approx([one.confidence for one in theirs], abs=1e-4)
    assert Foretell.load(tmp_path / "whole").calibration.threshold == 0.6


@pytest.mark.parametrize("lora", ["folded", "beside", "trainable"])
def test_a_kept_lora_is_put_on_as_asked(parts: Path, tmp_path: Path, lora: Lora) -> None:
    twin = load(export(parts, tmp_path / "whole", described), lora=lora)
    assert hasattr(twin.language_model, "peft_config") is (lora == "trainable")
    with torch.no_grad():
        found = twin(**chat(ForetellProcessor.for_model(twin.config, tiny_tokenizer()))).logits
    torch.testing.assert_close(found, expected(parts, "trainable"), atol=1e-4, rtol=0)


def test_a_kept_lora_can_be_merged_later(parts: Path, tmp_path: Path) -> None:
    later = export(export(parts, tmp_path / "kept", described), tmp_path / "later", described, merge=True)
    assert torch.equal(logits_of(later), expected(parts, "folded"))
    assert not (later / "lora").exists()


def test_the_folder_holds_all_and_nothing_of_this_machine(parts: Path, tmp_path: Path) -> None:
    out = export(parts, tmp_path / "whole", described)
    assert json.loads((out / "training.json").read_text()) == FACTS
    assert {"calibration.json", "config.json", "model.safetensors", "tokenizer.json", "lora"} <= set(
        (out / "README.md").read_text().split()
    )
    here = (str(tmp_path).encode(), str(parts.parent).encode())
    files = [path for path in out.rglob("*") if path.is_file()]
    assert [path.name for path in files if any(place in path.read_bytes() for place in here)] == []


def test_a_folder_with_something_in_it_is_refused(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    export(parts, tmp_path / "whole", described)
    with pytest.raises(ValueError, match="is there already: name a folder that is empty or does not exist"):
        export(parts, tmp_path / "whole", described)
    with pytest.raises(ValueError, match="is there already"):
        export(parts, tmp_path / "whole" / "config.json", described)


def test_what_fails_midway_leaves_nothing(parts: Path, tmp_path: Path) -> None:
    def full(folder: Path) -> str:
        assert (folder / "model.safetensors").is_file()
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        export(parts, tmp_path / "whole", full)
    assert list(tmp_path.iterdir()) == []


def test_a_whole_model_takes_no_other_language_model(parts: Path, tmp_path: Path) -> None:
    out = export(parts, tmp_path / "whole", described, merge=True)
    with pytest.raises(ValueError, match="holds its own language model: leave --llm other out"):
        load(out, llm="other")


@pytest.mark.parametrize("merge", [False, True])
def test_weights_in_4_bits_take_no_lora_in(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, merge: bool
) -> None:
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(model, "load_llm", lambda source, load_in_4bit, dtype: llm.load_llm(source, True, dtype))
    with pytest.raises(
        ValueError, match=r"weights are in 4 bits.*on the language model's unquantised original \(--llm"
    ):
        export(parts, tmp_path / "whole", described, merge)
    assert list(tmp_path.iterdir()) == []


def test_what_was_exported_loads_in_4_bits_with_its_lora(parts: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    twin = load(export(parts, tmp_path / "whole", described), load_in_4bit=True)
    assert model.quantised(twin)
    found = twin.language_model.model.layers[0].mlp.up_proj
    assert type(found).__name__ == "Linear4bit" and found.beside.up.abs().sum() > 0


# A hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub of this machine in place of the real one, with a token for it."""
    with open_hub() as fake:
        for name, value in {
            "ENDPOINT": fake.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": fake.address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path_factory.mktemp("cache")),
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        close_session()
        yield fake
        close_session()


def test_pushed_it_loads_from_the_hub(parts: Path, tmp_path: Path, hub: Hub) -> None:
    reserve(REPO)
    assert (hub.created["organization"], hub.created["name"], hub.created["visibility"]) == ("owner", "name", "private")
    out = export(parts, tmp_path / "whole", described)
    assert push(out, REPO).startswith(f"{hub.address}/{REPO}")
    assert hub.files == {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert answers(REPO) == answers(out)
    assert torch.equal(logits_of(REPO), logits_of(out))


def test_from_the_hub_it_loads_in_4_bits(parts: Path, tmp_path: Path, hub: Hub) -> None:
    pytest.importorskip("bitsandbytes")
    reserve(REPO)
    push(export(parts, tmp_path / "whole", described), REPO)
    assert model.quantised(load(REPO, load_in_4bit=True))


def test_the_models_own_push_takes_the_lora_along(parts: Path, hub: Hub) -> None:
    source: Any = load(parts, lora="trainable")
    source.push_to_hub(REPO)
    assert {"config.json", "model.safetensors", "lora/adapter_model.safetensors"} <= hub.files.keys()


def test_a_refused_push_says_what_is_needed(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ValueError, match=r"cannot push to owner/name: .*\(it takes a token with write access"):
        reserve(REPO)
    (tmp_path / "config.json").touch()
    with pytest.raises(ValueError, match=rf"`hf upload owner/name {tmp_path}` sends it again"):
        push(tmp_path, REPO)


def test_without_a_token_or_a_network_nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foretell.reasoner.export.get_token", lambda: TOKEN)
    with pytest.raises(ValueError, match=r"cannot push to owner/name: .*offline.*HF_HUB_OFFLINE unset"):
        reserve(REPO)
    with pytest.raises(ValueError, match="Repo id must"):
        reserve("no such/place/here")
    monkeypatch.setattr("foretell.reasoner.export.get_token", lambda: None)
    with pytest.raises(ValueError, match=r"no token to push to owner/name with: log in by `hf auth login`"):
        reserve(REPO)
