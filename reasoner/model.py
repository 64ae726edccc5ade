"""The hybrid: a frozen V-JEPA 2 encoder, a trained bridge and a LoRA-tuned language model as one transformers model."""

from . import lean  # noqa: F401  # before anything else imports transformers

# isort: split

import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from textwrap import shorten
from typing import Any, ClassVar, Literal

import torch
from huggingface_hub.dataclasses import strict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, VJEPA2Config, VJEPA2Model
from transformers.cache_utils import Cache
from transformers.configuration_utils import PreTrainedConfig
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForImageTextToText, AutoModelForMultimodalLM
from transformers.utils.hub import cached_file

from ..bridge.projector import BridgeConfig, Slots, WorldProjector, word_embeddings
from ..perception.predictor import watched
from .llm import ANEW, four_bit, keep_trainable, load_llm, native_dtype, quiet, sparingly, unbroken

Lora = Literal["folded", "beside", "trainable"]
"""How a LoRA is put on a language model: folded into its weights (fastest answers), beside them (soonest first answer:
folding copies weights that are otherwise mapped from disk), or as peft's, to be trained on."""

LORA, ADAPTER, ADAPTER_CONFIG = "lora", "adapter_model.safetensors", "adapter_config.json"
"""A model's peft folder, and what is in it."""
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@strict
class ForetellConfig(PreTrainedConfig):
    """What the three parts are and how they meet.

    vision_config: the V-JEPA 2 encoder and predictor; bridge_config: the projector; text_config: any causal language
    model. video_token_id: the placeholder of one bridge token in input_ids. taps: encoder layers (0: patches) that are
    read, side by side; rate, frames: how many a second, and how many at all, the encoder is shown (0: one window of
    it). llm: hub id or folder of the language model that a folder of parts was trained with (None: the embedded one).
    adapter: the weights of a whole model are without its LoRA, which lies in the folder `lora` beside them.
    """

    model_type = "foretell"
    sub_configs: ClassVar[dict[str, Any]] = {
        "vision_config": VJEPA2Config,
        "bridge_config": BridgeConfig,
        "text_config": AutoConfig,
    }

    # A dict when read from JSON, a config object ever after.
    vision_config: Any = None
    bridge_config: Any = None
    text_config: Any = None
    video_token_id: int = 5
    taps: list[int] | tuple[int, ...] = (2, 4, 6)
    rate: float = 8.0
    frames: int = 0
    llm: str | None = None
    adapter: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self.vision_config = _config(self.vision_config, VJEPA2Config)
        self.bridge_config = _config(self.bridge_config, BridgeConfig)
        if isinstance(self.text_config, dict):
            fields = {k: v for k, v in self.text_config.items() if k != "model_type"}
            self.text_config = AutoConfig.for_model(self.text_config.get("model_type", "llama"), **fields)
        elif self.text_config is None:
            self.text_config = AutoConfig.for_model("llama")
        self.frames = self.frames or int(self.vision_config.frames_per_clip)
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    @property
    def imagination(self) -> bool:
        """Whether the predictor's expectation of the next moments enters as tokens (bridge_config decides)."""
        return bool(self.bridge_config.imagined_tokens)


def _config(given: dict[str, Any] | PreTrainedConfig | None, kind: type[PreTrainedConfig]) -> PreTrainedConfig:
    return given if isinstance(given, PreTrainedConfig) else kind(**(given or {}))


class ForetellForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Asks a language model about a video through the features of a frozen world model.

    `video_token_id` in input_ids stands for one bridge token; each video takes `config.bridge_config.tokens` of them.
    Their embedding comes from pixel_values_videos [B, T, C, H, W], or from features that were computed before
    (world_features [B, N, C], imagined_features [B, M, D]); video b fills the b-th run of placeholders.
    """

    config: ForetellConfig
    config_class = ForetellConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ["video", "text"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ["past_key_values"]

    def __init__(
        self,
        config: ForetellConfig,
        encoder: VJEPA2Model | None = None,
        language_model: PreTrainedModel | None = None,
    ) -> None:
        """encoder, language_model: parts that exist already; otherwise they are made from the config."""
        super().__init__(config)
        self.encoder = encoder if encoder is not None else VJEPA2Model._from_config(config.vision_config)
        self.bridge = WorldProjector(config.bridge_config)
        self.language_model = (
            language_model if language_model is not None else AutoModelForCausalLM.from_config(config.text_config)
        )
        self.encoder.requires_grad_(False)
        self.post_init()  # type: ignore[no-untyped-call]
        self.train(self.training)
        if self.generation_config is not None:
            self.generation_config.suppress_tokens = [config.video_token_id]  # a placeholder is never said

    def _init_weights(self, module: nn.Module) -> None:
        """The bridge's modules initialise themselves; encoder and language model have rules of their own.

        Only what no file holds is lost when a model is made without memory and then filled: it is set here again.
        """
        if isinstance(module, Slots):
            module.allow(self.config.bridge_config.slots)

    def train(self, mode: bool = True) -> "ForetellForConditionalGeneration":
        super().train(mode)
        self.encoder.eval()
        return self

    @property
    def dtype(self) -> torch.dtype:
        """The language model's; encoder and bridge may compute in another."""
        dtype: torch.dtype = self.language_model.dtype
        return dtype

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.language_model.get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        head: nn.Module = self.language_model.get_output_embeddings()
        return head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def watch(self, pixel_values_videos: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the frozen encoder sees, and what its predictor adds to it.

        pixel_values_videos [B, T, C, H, W] -> features [B, N, C], imagined [B, M, D] (None where imagination is off).
        """
        pixels = pixel_values_videos.to(self.encoder.device, self.encoder.dtype)
        taps, surprise = tuple(self.config.taps), self.config.bridge_config.surprise
        return watched(self.encoder, pixels, taps, self.config.imagination, surprise)

    def video_embeds(self, features: Tensor, imagined: Tensor | None = None) -> Tensor:
        """World features [B, N, C] (and imagined ones [B, M, D]) -> token embeddings [B, K, D]."""
        embeds: Tensor = self.bridge(features, imagined)
        return embeds

    def embed(self, input_ids: Tensor, video_embeds: Tensor | None = None) -> Tensor:
        """Token embeddings [B, L, D] of input_ids [B, L], with video_embeds [V, K, D] at the placeholders, in order.

        Raises ValueError where the placeholders are not exactly V * K.
        """
        places = input_ids == self.config.video_token_id  # [B, L]
        # A placeholder's own embedding is never read, so its id may lie outside the language model's vocabulary.
        embeds: Tensor = self.get_input_embeddings()(input_ids.masked_fill(places, 0))
        wanted, given = int(places.sum()), 0 if video_embeds is None else video_embeds.shape[:2].numel()
        if wanted != given:
            raise ValueError(
                f"input_ids hold {wanted} video placeholders (id {self.config.video_token_id}), but the videos given "
                f"fill {given}, {self.config.bridge_config.tokens} each: build the prompt with ForetellProcessor"
            )
        if video_embeds is None:
            return embeds
        return embeds.masked_scatter(places[..., None], video_embeds.to(embeds.device, embeds.dtype))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        world_features: Tensor | None = None,
        imagined_features: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Next-token logits [B, L, V] (and the loss where labels came).

        attention_mask is [B, L], or ready-made [B, 1, L, S] (packed questions behind one video). logits_to_keep keeps
        the last n positions, or those of an index tensor. Raises ValueError unless exactly one of input_ids and
        inputs_embeds came.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if input_ids is not None:
            if pixel_values_videos is not None:
                world_features, imagined_features = self.watch(pixel_values_videos)
            video = None if world_features is None else self.video_embeds(world_features, imagined_features)
            inputs_embeds = self.embed(input_ids, video)
        assert inputs_embeds is not None
        if attention_mask is not None and attention_mask.is_floating_point():
            attention_mask = attention_mask.to(inputs_embeds.dtype)
        output: CausalLMOutputWithPast = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            labels=labels,
            logits_to_keep=logits_to_keep,
            use_cache=use_cache,
            **kwargs,
        )
        return output

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        """The video enters with the prompt only; later steps read it from the KV cache."""
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)  # type: ignore[misc]  # a mixin's own protocol
        if kwargs.get("use_cache", True) and not kwargs.get("is_first_iteration"):
            for name in ("pixel_values_videos", "world_features", "imagined_features"):
                inputs.pop(name, None)
        return inputs

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, lora: Lora = "trainable", **kwargs: Any
    ) -> Any:
        """As in transformers; a LoRA that was kept apart is put on as `lora` says."""
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if kwargs.get("output_loading_info") else loaded
        if model.config.adapter:
            _load_lora(model, _fetched_lora(pretrained_model_name_or_path, kwargs), lora)
        return loaded

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """The whole model, language model included; a LoRA that is apart stays so, as a peft folder called `lora`.

        Raises ValueError where a LoRA of ours lies beside the weights, or the weights under it are in 4 bits.
        """
        apart, beside = hasattr(self.language_model, "peft_config"), any(isinstance(m, Beside) for m in self.modules())
        if quantised(self) and (apart or beside or not getattr(self, "is_quantized", False)):
            raise ValueError(
                "the language model's weights are in 4 bits: they can neither take the LoRA in nor be saved with it. "
                "Load the model without 4 bits, or on the language model's unquantised original (--llm HUB_ID); what "
                "is saved then can be loaded in 4 bits (--load-in-4bit)"
            )
        if beside:
            raise ValueError('the LoRA lies beside the weights: load the model with lora="folded" to save it whole')
        if apart:
            _save_lora(self.language_model, Path(save_directory) / LORA, None)
            kwargs["state_dict"] = _without_lora(kwargs.get("state_dict") or self.state_dict())
        self.config.adapter = apart
        forget_paths(self.config)
        super().save_pretrained(save_directory, *args, **kwargs)


def _without_lora(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names that they had before peft wrapped the language model and its linears."""
    names = {name: name.replace("language_model.base_model.model.", "language_model.", 1) for name in weights}
    return {names[n].replace(".base_layer.", "."): t for n, t in weights.items() if ".lora_" not in n}


def _fetched_lora(source: str | Path, options: dict[str, Any]) -> Path:
    """The peft folder beside a whole model's weights; options: those of from_pretrained that say where on a hub."""
    known = ("cache_dir", "force_download", "local_files_only", "token", "revision")
    where = {name: options[name] for name in known if name in options}
    where["subfolder"] = str(Path(options.get("subfolder", ""), LORA))
    config, _ = [cached_file(source, name, **where) for name in (ADAPTER_CONFIG, ADAPTER)]
    return Path(str(config)).parent


def quantised(model: ForetellForConditionalGeneration) -> bool:
    """Whether the language model's weights are in 4 bits, loaded so alone or with the whole."""
    return any(getattr(part, "is_quantized", False) for part in (model, model.language_model))


def forget_paths(config: ForetellConfig) -> None:
    """Leave out where this machine had the parts."""
    for part in (config.text_config, config.vision_config):
        part.name_or_path = ""


AutoConfig.register("foretell", ForetellConfig, exist_ok=True)
AutoModelForImageTextToText.register(ForetellConfig, ForetellForConditionalGeneration, exist_ok=True)
AutoModelForMultimodalLM.register(ForetellConfig, ForetellForConditionalGeneration, exist_ok=True)


def add_lora(
    model: ForetellForConditionalGeneration,
    rank: int = 16,
    alpha: int = 32,
    dropout: float = 0.0,
    rslora: bool = False,
    dora: bool = False,
) -> ForetellForConditionalGeneration:
    """Freeze the language model and give its linears trainable low-rank updates (Hu et al. 2021), in place.

    rslora: scaled by alpha / sqrt(rank) (Kalajdzievski 2023); dora: beside trainable lengths (Liu et al. 2024).
    Applied to the language model alone: on the whole, "all-linear" would wrap encoder and bridge too.
    """
    from peft import LoraConfig, TaskType, get_peft_model, prepare_model_for_kbit_training

    llm = model.language_model
    if getattr(llm, "is_loaded_in_4bit", False):
        llm = prepare_model_for_kbit_training(llm, use_gradient_checkpointing=False)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM, r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear",
        use_rslora=rslora, use_dora=dora,
    )  # fmt: skip
    model.language_model = get_peft_model(llm, config)
    return model


def merge_lora(model: ForetellForConditionalGeneration) -> ForetellForConditionalGeneration:
    """Fold the LoRA into the language model's weights, in place; the model is then an ordinary one."""
    wrapped: Any = model.language_model
    model.language_model = wrapped.merge_and_unload()
    return model


def save_parts(model: ForetellForConditionalGeneration, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Everything but the language model: config.json, encoder/, bridge.safetensors, lora/ (where there is one).

    dtype: what floats are stored in (None: as they are); `load` computes in float32 whatever was stored.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    forget_paths(model.config)  # config.llm is what load goes by
    model.config.save_pretrained(folder)
    model.encoder.save_pretrained(folder / "encoder", state_dict=stored(model.encoder.state_dict(), dtype))
    bridge = model.bridge.state_dict()
    if model.config.bridge_config.word_tokens:
        bridge.pop("slots.words")  # the language model has them
    save_file(stored(bridge, dtype), folder / "bridge.safetensors")
    if hasattr(model.language_model, "peft_config"):
        _save_lora(model.language_model, folder / LORA, dtype)


def stored(tensors: dict[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Tensors as they go to disk."""
    return {name: (t.to(dtype) if dtype and t.is_floating_point() else t).contiguous() for name, t in tensors.items()}


def _save_lora(language_model: Any, folder: Path, dtype: torch.dtype | None) -> None:
    """An ordinary peft folder without the base model's path, which is this machine's, and without an empty card."""
    language_model.peft_config["default"].base_model_name_or_path = ""
    language_model.save_pretrained(folder)
    (folder / "README.md").unlink()
    weights = folder / ADAPTER
    save_file(stored(load_file(weights), dtype), weights, metadata={"format": "pt"})


def load(
    source: str | Path,
    llm: str | None = None,
    load_in_4bit: bool = False,
    dtype: torch.dtype | None = None,
    lora: Lora = "folded",
) -> ForetellForConditionalGeneration:
    """A model from a folder of parts (save_parts), or from an ordinary save_pretrained folder or hub id.

    llm: hub id or folder of the language model, where it is not the one that the folder names.
    lora: how the LoRA of a folder of parts is put on; on 4-bit weights a folded one stays beside them.
    Raises ValueError where there is no model, or a damaged one, or the language model is not as wide as the bridge was
    trained for.
    """
    folder = Path(source)
    parts = (folder / "bridge.safetensors").is_file()
    if not (folder / "config.json").is_file() and not is_hub_id(source):
        raise ValueError(f"{source}: no model there (no config.json): name a model folder or a hub id like owner/name")
    if parts and not (folder / "encoder" / "config.json").is_file():
        raise ValueError(f"{source}: its folder encoder is missing: copy the model anew, with all that is in it")
    with quiet(), unbroken(source, ANEW):
        if parts:
            return _load_parts(folder, llm, load_in_4bit, dtype, lora)
        if llm is not None:
            raise ValueError(f"{source} holds its own language model: leave --llm {llm} out")
        return _load_whole(str(source), load_in_4bit, dtype, lora)


def is_hub_id(source: str | Path) -> bool:
    """Whether a model is named by its id on a hub: owner/name, which is no path here."""
    return bool(_HUB_ID.fullmatch(str(source))) and not Path(source).exists()


def companion(source: str | Path, name: str) -> Path | None:
    """A file beside a model's config.json, fetched where the model is on a hub; None where there is none."""
    found = cached_file(str(source), name, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


def _load_parts(
    folder: Path, llm: str | None, load_in_4bit: bool, dtype: torch.dtype | None, lora: Lora
) -> ForetellForConditionalGeneration:
    config = ForetellConfig.from_pretrained(folder)
    config.llm = llm = llm or config.llm
    language_model = load_llm(llm, load_in_4bit=load_in_4bit, dtype=dtype)
    _check_width(config, language_model, llm)
    encoder = VJEPA2Model.from_pretrained(folder / "encoder", dtype=dtype or torch.float32)
    config.text_config = language_model.config
    model = ForetellForConditionalGeneration(config, encoder, language_model)
    bridge = load_file(folder / "bridge.safetensors")
    if words := config.bridge_config.word_tokens:
        bridge["slots.words"] = word_embeddings(language_model.get_input_embeddings(), words)
    try:
        model.bridge.load_state_dict(bridge)
    except RuntimeError as error:
        raise ValueError(
            f"{folder}/bridge.safetensors is not the bridge that its config.json describes, or another version of "
            f"foretell made it: train it anew, or use that version ({shorten(str(error).splitlines()[1], 120)})"
        ) from None
    model.bridge.to(language_model.device)
    if (folder / LORA).is_dir():
        _load_lora(model, folder / LORA, lora)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _load_whole(
    source: str, load_in_4bit: bool, dtype: torch.dtype | None, lora: Lora
) -> ForetellForConditionalGeneration:
    """In the precision that it was saved in, where float32; else in the machine's own."""
    exact = ForetellConfig.from_pretrained(source).dtype == torch.float32 and not load_in_4bit
    options: dict[str, Any] = {"dtype": dtype or (torch.float32 if exact else native_dtype()), "use_safetensors": True}
    if load_in_4bit:
        options["quantization_config"] = four_bit(options["dtype"], skip=["encoder", "bridge", "lm_head"])
    with sparingly() if load_in_4bit else nullcontext():
        model: ForetellForConditionalGeneration = ForetellForConditionalGeneration.from_pretrained(
            source, lora=lora, **options
        )
    keep_trainable(model)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _check_width(config: ForetellConfig, language_model: PreTrainedModel, llm: str | None) -> None:
    width, wanted = language_model.config.hidden_size, config.bridge_config.llm_width
    if width != wanted:
        raise ValueError(
            f"this bridge speaks to a language model of width {wanted}, but {llm or 'the embedded one'} has {width}: "
            "name the language model that it was trained with, or train a bridge for this one (foretell train)"
        )


def _load_lora(model: ForetellForConditionalGeneration, folder: Path, lora: Lora) -> None:
    """Put a LoRA on the language model; on 4-bit weights a folded one lies beside them."""
    dora = json.loads((folder / ADAPTER_CONFIG).read_text()).get("use_dora")  # no mere sum: left to peft
    if lora == "folded" and not dora and not quantised(model):
        fold_lora(model.language_model, folder)
    elif lora != "trainable" and not dora:
        hang_lora(model.language_model, folder)
    else:
        from peft import PeftModel

        model.language_model = PeftModel.from_pretrained(
            model.language_model, str(folder), is_trainable=lora == "trainable"
        )
        if lora == "folded":
            merge_lora(model)


def lora_pairs(folder: Path) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Of each module in a peft folder: its name, B [out, r] times its scale, A [r, in]."""
    config = json.loads((folder / ADAPTER_CONFIG).read_text())
    weights = load_file(folder / ADAPTER)
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
    for name in (key for key in weights if key.endswith(".lora_A.weight")):
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        yield module, weights[name.replace(".lora_A.", ".lora_B.")].float() * scale, weights[name].float()


@torch.no_grad()
def fold_lora(language_model: PreTrainedModel, folder: Path) -> None:
    """W += scale * B A for every pair of a peft folder: what peft's merge does, without seconds of importing it."""
    for module, up, down in lora_pairs(folder):
        weight = language_model.get_parameter(f"{module}.weight")
        weight.addmm_(up.to(weight), down.to(weight))  # [out, in] += [out, r] @ [r, in]


class Beside(nn.Module):
    """Part of a linear and forward hook on it: y + B A x. up [out, r], down [r, in]; they are in no state_dict."""

    def __init__(self, up: Tensor, down: Tensor) -> None:
        super().__init__()
        self.up, self.down = nn.Buffer(up, persistent=False), nn.Buffer(down, persistent=False)

    def forward(self, linear: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return output + (inputs[0].to(self.down) @ self.down.T @ self.up.T).to(output)


def hang_lora(language_model: PreTrainedModel, folder: Path) -> None:
    """The answers of `fold_lora` with the weights left as they are."""
    dtype = language_model.dtype
    for module, up, down in lora_pairs(folder):
        linear = language_model.get_submodule(module)
        device = language_model.get_parameter(f"{module}.weight").device
        linear.beside = Beside(up.to(device, dtype), down.to(device, dtype))
        linear.register_forward_hook(linear.beside)
