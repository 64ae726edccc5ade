"""Prompts and pixels for the hybrid model: the chat template, the video placeholders, and text that cannot command."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import AutoProcessor
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import PILImageResampling
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.video_processing_utils import BaseVideoProcessor

from ..perception.encoder import IMAGENET_MEAN, IMAGENET_STD, normalise, resize
from .model import ForetellConfig

VIDEO_TOKENS = ("<|video_pad|>", "<file_sep>", "<|reserved_special_token_0|>", "<unused0>")
"""Control tokens that language models carry and a dialogue never uses, in order of preference."""

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'video' %}{{ 'VIDEO\n' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Short, the video first and no system prompt: all questions on one video share their prefix up to the question."""

PLAIN = CHATML.replace("'<|im_start|>' + ", "").replace("<|im_end|>", "").replace("<|im_start|>", "")
PLAIN = "{{ bos_token }}" + PLAIN
"""For tokenizers without ChatML's control tokens; their answers end with the end-of-sequence token."""


def video_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """The placeholder for one bridge token: an unused control token, else a new one (which is never embedded)."""
    vocabulary = tokenizer.get_vocab()
    for token in VIDEO_TOKENS:
        if token in vocabulary:
            return token
    tokenizer.add_tokens([AddedToken("<|video|>", special=True, normalized=False)], special_tokens=True)
    return "<|video|>"


def id_of(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """The id of one token."""
    index = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(index, int), (token, index)
    return index


class ForetellVideoProcessor(BaseVideoProcessor):
    """Arrays [T, H, W, 3] uint8 -> pixel_values_videos [B, T, 3, S, S]: the whole frame squashed to a square, ImageNet
    normalisation, nothing cropped (an object at the rim may decide the outcome). Paths and URLs are refused."""

    model_input_names = ["pixel_values_videos"]

    def __init__(self, **kwargs: Any) -> None:
        square = {
            "size": {"height": 256, "width": 256},
            "resample": PILImageResampling.BILINEAR,
            "image_mean": list(IMAGENET_MEAN),
            "image_std": list(IMAGENET_STD),
            **dict.fromkeys(("do_resize", "do_rescale", "do_normalize"), True),
            "do_sample_frames": False,
        }
        super().__init__(**{**square, **kwargs})

    def fetch_videos(self, video_url_or_urls: Any, sample_indices_fn: Any = None) -> Any:
        given = type(video_url_or_urls).__name__
        raise ValueError(f"videos must be arrays [T, H, W, 3], got {given}: read files with read_clip")

    def _preprocess(  # type: ignore[override]  # only what this processor reads is named
        self, videos: list[Tensor], size: Any, return_tensors: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """videos: [T, 3, H, W] each, channels first by now."""
        squares = torch.stack([resize(video.movedim(1, -1), size.height) for video in videos])  # [B, T, S, S, 3]
        return BatchFeature({"pixel_values_videos": normalise(squares)}, tensor_type=return_tensors)


class ForetellProcessorKwargs(ProcessingKwargs, total=False):
    _defaults = {  # type: ignore[misc]  # as every processor of transformers does it
        "text_kwargs": {"add_special_tokens": False, "padding": False},
        "videos_kwargs": {},
    }


class ForetellProcessor(ProcessorMixin):
    """Tokenizer and video processor of the hybrid model.

    Its chat template takes {"type": "video"} and {"type": "text"}; a video becomes `video_tokens` placeholders.
    Text of the user is made harmless first: a control token spelled out in it stays text.
    """

    valid_processor_kwargs = ForetellProcessorKwargs

    def __init__(
        self,
        video_processor: BaseVideoProcessor,
        tokenizer: PreTrainedTokenizerBase,
        video_tokens: int = 32,
        chat_template: str | None = None,
    ) -> None:
        self.video_token = video_token(tokenizer)
        self.video_token_id = id_of(tokenizer, self.video_token)
        self.video_tokens = video_tokens
        chatml = "<|im_end|>" in tokenizer.get_vocab()
        self.end_token: str = "<|im_end|>" if chatml else tokenizer.eos_token
        self.end_token_id = id_of(tokenizer, self.end_token)
        template = chat_template or (CHATML if chatml else PLAIN).replace("VIDEO", self.video_token)
        super().__init__(video_processor, tokenizer, chat_template=template)  # type: ignore[no-untyped-call]
        added = tokenizer.added_tokens_decoder.values()
        self._control = sorted({token.content for token in added if token.special and len(token.content) > 1})

    @classmethod
    def for_model(cls, config: ForetellConfig, tokenizer: PreTrainedTokenizerBase) -> "ForetellProcessor":
        """The processor that fits a model: its frame size, its number of bridge tokens."""
        side = config.vision_config.crop_size
        video_processor = ForetellVideoProcessor(size={"height": side, "width": side})
        return cls(video_processor, tokenizer, video_tokens=config.bridge_config.tokens)

    def harmless(self, text: str) -> str:
        """The text with every control token broken by a space, so that it is read, not obeyed."""
        while found := next((token for token in self._control if token in text), None):
            text = text.replace(found, f"{found[0]} {found[1:]}")
        return text

    def prompt_ids(self, question: str) -> list[int]:
        """Ids of the prompt for one question about one video: placeholders first, then the question."""
        content = [{"type": "video"}, {"type": "text", "text": question.strip()}]
        text = self.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        ids: list[int] = self.tokenizer(
            text.replace(self.video_token, self.video_token * self.video_tokens), add_special_tokens=False
        ).input_ids
        return ids

    def split(self, prompt: list[int]) -> tuple[list[int], list[int]]:
        """A prompt's ids up to the end of its video, the same for every question, and the rest."""
        end = len(prompt) - prompt[::-1].index(self.video_token_id)
        return prompt[:end], prompt[end:]

    def answer_ids(self, answer: str) -> list[int]:
        """Ids of an answer and the token that ends it: what is trained on and what is scored."""
        ids: list[int] = self.tokenizer(self.harmless(answer), add_special_tokens=False).input_ids
        return [*ids, self.end_token_id]

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, with the texts of the conversation made harmless first."""
        batched = bool(conversation) and isinstance(conversation[0], list | tuple)
        talks = conversation if batched else [conversation]
        safe = [[{**message, "content": self._safe(message["content"])} for message in talk] for talk in talks]
        return super().apply_chat_template(safe if batched else safe[0], *args, **kwargs)

    def _safe(self, content: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
        if isinstance(content, str):
            return self.harmless(content)
        return [{**part, "text": self.harmless(part["text"])} if "text" in part else part for part in content]

    def replace_video_token(self, video_inputs: dict[str, Any], video_idx: int, **kwargs: Any) -> str:
        return self.video_token * self.video_tokens


@dataclass(frozen=True)
class Pack:
    """Questions on one video as a tree in one row: the video's prefix, each question behind it, each answer behind its
    question. Every answer sees exactly what it would see alone, and the video is read once.

    ids, positions: int64 [L]; visible: bool [L, L], who sees whom. For each of the n answer tokens, sources: where it
    is predicted, targets: what it is, owners: which answer it belongs to; int64 [n].
    """

    ids: Tensor
    positions: Tensor
    visible: Tensor
    sources: Tensor
    targets: Tensor
    owners: Tensor


def pack(prefix: Sequence[int], branches: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]) -> Pack:
    """Lay out a tree: the shared prefix, then for each branch a question's ids and those of its answers."""
    tree = _Tree()
    root = tree.grow(prefix, parent=None)
    for question, answers in branches:
        stem = tree.grow(question, parent=root)
        for answer in answers:
            tree.hang(answer, stem)
    return tree.pack()


@dataclass(frozen=True)
class _Node:
    depth: int  # tokens from the root to the node's end
    path: tuple[range, ...]  # the places of the node and of all above it


class _Tree:
    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.nodes: list[_Node] = []
        self.sources: list[int] = []
        self.targets: list[int] = []
        self.owners: list[int] = []

    def grow(self, ids: Sequence[int], parent: _Node | None) -> _Node:
        above, depth = (parent.path, parent.depth) if parent else ((), 0)
        start = len(self.ids)
        node = _Node(depth + len(ids), (*above, range(start, start + len(ids))))
        self.ids += ids
        self.positions += range(depth, node.depth)
        self.nodes.append(node)
        return node

    def hang(self, answer: Sequence[int], stem: _Node) -> None:
        """An answer's first token is predicted from the end of its question, the others from the token before."""
        start = self.grow(answer[:-1], stem).path[-1].start
        self.sources += [stem.path[-1].stop - 1, *range(start, start + len(answer) - 1)]
        self.targets += answer
        self.owners += [self.owners[-1] + 1 if self.owners else 0] * len(answer)

    def pack(self) -> Pack:
        visible = torch.zeros(len(self.ids), len(self.ids), dtype=torch.bool)
        for node in self.nodes:
            own = node.path[-1]
            for place in node.path:
                visible[own.start : own.stop, place.start : place.stop] = True
        rows = (self.ids, self.positions, self.sources, self.targets, self.owners)
        ids, positions, sources, targets, owners = (torch.tensor(row, dtype=torch.int64) for row in rows)
        return Pack(ids, positions, visible.tril(), sources, targets, owners)


def join(packs: Sequence[Pack]) -> Pack:
    """Several packs in one row, blind to each other: what is padding in a batch of them becomes room for another."""
    lengths, answers = [len(one.ids) for one in packs], [int(one.owners.max()) + 1 for one in packs]
    starts, firsts = ([0, *accumulate(sizes)] for sizes in (lengths, answers))
    return Pack(
        torch.cat([one.ids for one in packs]),
        torch.cat([one.positions for one in packs]),
        torch.block_diag(*(one.visible for one in packs)).bool(),
        torch.cat([one.sources + start for one, start in zip(packs, starts, strict=False)]),
        torch.cat([one.targets for one in packs]),
        torch.cat([one.owners + first for one, first in zip(packs, firsts, strict=False)]),
    )


def level(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Share items out among rows of about the same total length, the longest first: places of items, row by row."""
    shared: list[list[int]] = [[] for _ in range(min(rows, len(lengths)))]
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        min(shared, key=lambda row: sum(lengths[k] for k in row)).append(place)
    return shared


def collate(packs: Sequence[Pack], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """One batch, padded on the right: input_ids, position_ids [B, L] and the attention_mask [B, 1, L, L] that is added
    to attention scores, 0 where visible and -inf elsewhere; a padding token sees itself only."""
    length = max(len(one.ids) for one in packs)
    ids, positions = (torch.zeros(len(packs), length, dtype=torch.int64) for _ in range(2))
    visible = torch.eye(length, dtype=torch.bool).repeat(len(packs), 1, 1)
    for row, one in enumerate(packs):
        size = len(one.ids)
        ids[row, :size], positions[row, :size], visible[row, :size, :size] = one.ids, one.positions, one.visible
    mask = torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, -torch.inf)
    return {"input_ids": ids, "position_ids": positions, "attention_mask": mask[:, None]}


AutoVideoProcessor.register(ForetellConfig, ForetellVideoProcessor, exist_ok=True)
AutoProcessor.register(ForetellConfig, ForetellProcessor, exist_ok=True)
