"""World features to language-model token embeddings: attentive pooling that keeps *where*, then an MLP.

V-JEPA 2 carries positions only inside its rotary attention, so pooled tokens alone are a set without places. Every
token therefore gets a (t, y, x) code before self-attention compares objects and queries pool them.
"""

from dataclasses import field

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.configuration_utils import PreTrainedConfig


@strict
class BridgeConfig(PreTrainedConfig):
    """Shape of the bridge.

    feature_width: channels of a world feature (all tapped layers side by side); grid: its tokens as (t, y, x).
    sharp_tubelets: the last tubelets, read at full resolution; earlier ones are averaged 2x2 (0: all are sharp).
    magnify: into how many cells a side each patch is opened (0: none) in the last `magnified` tubelets, of
    magnify_width channels; magnify_channels: the patch embedding's, which come first in a feature.
    cells: the coarse grid of pooled tokens (t, y, x); global_tokens: queries without a place; imagined_tokens: queries
    that read the predictor's features of what has not been seen (0 switches imagination off), imagined_width and
    imagined_grid: their channels and grid; surprise: whether its first half tells how what was seen last was not as
    expected. token_scale: standard deviation of the language model's token embeddings.
    words: how many words of the language model the bridge can say; slots: for each token that speaks in them, which
    (indices). Without slots every token is a free vector. word_tokens: of each word the token ids of one or more texts;
    a word's embedding is the sum of theirs, each the mean of its tokens (empty: it is stored with the weights).
    """

    model_type = "foretell_bridge"

    feature_width: int = 576
    grid: list[int] | tuple[int, int, int] = (4, 8, 8)
    imagined_width: int = 192
    imagined_grid: list[int] | tuple[int, int, int] = (2, 8, 8)
    surprise: bool = False
    sharp_tubelets: int = 0
    magnify: int = 0
    magnified: int = 1
    magnify_width: int = 64
    magnify_channels: int = 0
    width: int = 192
    depth: int = 2
    heads: int = 6
    cells: list[int] | tuple[int, int, int] = (1, 4, 4)
    global_tokens: int = 8
    imagined_tokens: int = 8
    llm_width: int = 576
    token_scale: float = 0.1
    words: int = 0
    slots: list[list[int]] = field(default_factory=list)
    word_tokens: list[list[list[int]]] = field(default_factory=list)

    @property
    def seen_tokens(self) -> int:
        t, y, x = self.cells
        return len(self.slots) + t * y * x + self.global_tokens

    @property
    def tokens(self) -> int:
        """Token embeddings a clip takes in the language model's context."""
        return self.seen_tokens + self.imagined_tokens


class GridCode(nn.Module):
    """One learned code an axis, summed: tells a token where and when it is. [t*y*x, D]"""

    def __init__(self, grid: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.axes = nn.ParameterList([nn.Parameter(torch.randn(n, width) * 0.2) for n in grid])

    def forward(self) -> Tensor:
        t, y, x = self.axes
        codes: Tensor = t[:, None, None] + y[None, :, None] + x[None, None, :]
        return codes.flatten(0, 2)


class Intake(nn.Module):
    """Standardise channels by training statistics, project, and add the place: [B, N, C] -> [B, N, D]."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, grid: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.project = nn.Linear(channels, width)
        self.code = GridCode(grid, width)

    def standard(self, features: Tensor) -> Tensor:
        """Of the first C channels, in the type of the weights: [B, N, C] -> [B, N, C]."""
        mean, std = (part[: features.shape[-1]] for part in (self.mean, self.std))
        return ((features.to(mean.dtype) - mean) / std).to(self.project.weight.dtype)

    def forward(self, features: Tensor) -> Tensor:
        placed: Tensor = self.project(self.standard(features)) + self.code()
        return placed


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (He et al. 2016, arXiv 1603.05027): [B, C, h, w] -> [B, C, h, w]"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.found = nn.Sequential(
            nn.GroupNorm(1, width), nn.GELU(), nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(1, width), nn.GELU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, cells: Tensor) -> Tensor:
        joined: Tensor = cells + self.found(cells)
        return joined


class Magnifier(nn.Module):
    """Looks at small things inside patches; what it finds joins tokens, at first nothing. [B, N, C] -> [B, N, D]

    The patch embedding is close to a rotation of its pixels, so that what a patch shows is still there, but where in it
    is mixed into all channels: a ball one pixel further is another token. Sub-pixel convolution (Shi et al. 2016, arXiv
    1609.05158) opens every token into cells, and convolutions look at them alike wherever they lie, each tubelet apart
    from the others.
    """

    def __init__(self, channels: int, grid: tuple[int, ...], factor: int, inner: int, width: int) -> None:
        super().__init__()
        if factor < 2 or factor % 2:
            raise ValueError(f"magnify {factor}: a patch is opened into 2, 4, ... cells a side (0: no magnifier)")
        self.grid, self.factor = grid[1:], factor
        self.open = nn.Linear(channels, inner * factor**2)
        wide, coarse = 2 * inner, factor // 2
        self.look = nn.Sequential(
            nn.Conv2d(inner, inner, 3, padding=1), Residual(inner),
            nn.Conv2d(inner, wide, 3, padding=1, stride=2), Residual(wide), Residual(wide),
            nn.Conv2d(wide, 2 * wide, coarse, stride=coarse), Residual(2 * wide), nn.GroupNorm(1, 2 * wide), nn.GELU(),
        )  # fmt: skip
        self.close = nn.Conv2d(2 * wide, width, 1)
        for parameter in self.close.parameters():
            nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        opened = self.open(tokens).unflatten(1, (-1, *self.grid)).flatten(0, 1).movedim(-1, 1)  # [B * t, ..., h, w]
        cells = nn.functional.pixel_shuffle(opened, self.factor)  # [B * t, inner, factor * h, factor * w]
        cells = cells.contiguous(memory_format=torch.channels_last)  # GELU's and GroupNorm's backward take a third
        found: Tensor = self.close(self.look(cells)).movedim(1, -1).unflatten(0, (len(tokens), -1)).flatten(1, 3)
        return found


class Reader(nn.Module):
    """Queries read a set of tokens by cross-attention, then a residual MLP: [K, D], [B, N, D] -> [B, K, D]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_query, self.norm_tokens, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        queries = queries.expand(len(tokens), -1, -1)  # [B, K, D]
        keys = self.norm_tokens(tokens)
        read: Tensor = queries + self.attention(self.norm_query(queries), keys, keys, need_weights=False)[0]
        mixed: Tensor = read + self.mlp(self.norm_mlp(read))
        return mixed


def block(width: int, heads: int) -> nn.TransformerEncoderLayer:
    """Self-attention and an MLP, normed first: [B, N, D] -> [B, N, D]."""
    return nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )


def halve(grid: tuple[int, ...]) -> tuple[int, int, int]:
    """The grid after 2x2 spatial average pooling (axes of one cell stay)."""
    t, y, x = grid
    return t, max(y // 2, 1), max(x // 2, 1)


def average(tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Average 2x2 neighbours: [B, t*y*x, E] -> [B, t*(y/2)*(x/2), E]."""
    volume = tokens.unflatten(1, grid).permute(0, 4, 1, 2, 3)  # [B, E, t, y, x]
    return nn.functional.adaptive_avg_pool3d(volume, halve(grid)).flatten(2).transpose(1, 2)


@torch.no_grad()
def word_embeddings(table: nn.Module, words: list[list[list[int]]]) -> Tensor:
    """The embeddings of words by their tokens (BridgeConfig.word_tokens), float32 [W, llm_width]; table: the language
    model's token embeddings."""
    place = next(table.parameters()).device
    texts = [[table(torch.tensor(ids, device=place)).float().mean(0) for ids in texts] for texts in words]
    return torch.stack([torch.stack(parts).sum(0) for parts in texts])


class Slots(nn.Module):
    """Tokens that speak the language model's own words: each is what its slot is about plus an average of the few words
    it may say, weighted by their chances.

    The average is AlignVLM's (Masry et al. 2025, arXiv 2502.01341, section 3), over a slot's words instead of the whole
    vocabulary. What such a token means need not be learned by the language model: it has read these words before.
    """

    words: Tensor  # [W, llm_width]
    allowed: Tensor  # bool [S, W]

    def __init__(self, config: BridgeConfig) -> None:
        super().__init__()
        self.register_buffer("words", torch.zeros(config.words, config.llm_width))
        self.register_buffer("allowed", torch.empty(len(config.slots), config.words, dtype=torch.bool), False)
        self.allow(config.slots)
        self.queries = nn.Parameter(torch.randn(len(config.slots), config.width) * 0.5)
        self.names = nn.Parameter(torch.zeros(len(config.slots), config.llm_width))
        self.norm = nn.LayerNorm(config.width)
        self.chances = nn.Linear(config.width, config.words)

    def allow(self, slots: list[list[int]]) -> None:
        """Let each slot say its words and no others: the config tells them, not the weights."""
        self.allowed.zero_()
        for slot, words in enumerate(slots):
            self.allowed[slot, words] = True

    @torch.no_grad()
    def learn(self, words: Tensor, names: Tensor) -> None:
        """Take the language model's embeddings of the words [W, llm_width] and of the slots' names [S, llm_width]."""
        self.words.copy_(words)
        self.names.copy_(names)

    def logits(self, pooled: Tensor) -> Tensor:
        """How likely each slot says each word: [B, S, width] -> float32 [B, S, W], -inf for words of other slots."""
        scores: Tensor = self.chances(self.norm(pooled)).float()
        return scores.masked_fill(~self.allowed, -torch.inf)

    def forward(self, pooled: Tensor, told: Tensor | None = None) -> Tensor:
        """[B, S, width] -> token embeddings [B, S, llm_width].

        told: places in `words` that are said whatever the slots think, int64 [B, S], below 0 for none.
        """
        chances = self.logits(pooled).softmax(-1).to(self.names.dtype)
        if told is not None:
            sure = nn.functional.one_hot(told.clamp_min(0), len(self.words)).to(chances.dtype)
            chances = torch.where(told[..., None] >= 0, sure, chances)
        said: Tensor = chances @ self.words.to(chances.dtype) + self.names
        return said


class WorldProjector(nn.Module):
    """The bridge: features of what was seen, and of what is expected next, become K token embeddings.

    Pooling follows the attentive probe of V-JEPA (Bardes et al. 2024, section 4) with self-attention before it; queries
    follow Perceiver IO (Jaegle et al. 2021). Imagined tokens are average-pooled 2x2 and join the same self-attention
    under a type code of their own. Slots come first among the tokens; they compare notes in a block of self-attention.
    """

    def __init__(self, config: BridgeConfig) -> None:
        super().__init__()
        self.config = config
        width, heads = config.width, config.heads
        self.seen = Intake(config.feature_width, tuple(config.grid), width)
        if config.magnify:
            self.magnifier = Magnifier(
                config.magnify_channels, tuple(config.grid), config.magnify, config.magnify_width, width
            )
        self.blocks = nn.ModuleList(block(width, heads) for _ in range(config.depth))
        self.cells = GridCode(tuple(config.cells), width)
        self.globals = nn.Parameter(torch.randn(config.global_tokens, width) * 0.5)
        if config.imagined_tokens:
            self.imagined = Intake(config.imagined_width, halve(tuple(config.imagined_grid)), width)
            self.imagined_type = nn.Parameter(torch.randn(width) * 0.2)
            self.imagined_queries = nn.Parameter(torch.randn(config.imagined_tokens, width) * 0.5)
        self.reader = Reader(width, heads)
        if config.slots:
            self.slots = Slots(config)
            self.settle = block(width, heads)
        self.out = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, config.llm_width),
            nn.GELU(),
            nn.Linear(config.llm_width, config.llm_width),
        )
        self.out_norm = nn.LayerNorm(config.llm_width)

    def forward(self, features: Tensor, imagined: Tensor | None = None) -> Tensor:
        """features [B, N, C], imagined [B, M, E] or None -> [B, K, llm_width].

        Raises ValueError where imagination is switched on but no imagined features came, or the other way round.
        """
        return self.embed(self.read(features, imagined))

    def read(self, features: Tensor, imagined: Tensor | None = None) -> Tensor:
        """The pooled tokens before they are put into the language model's space: [B, K, width]."""
        return self.pool(self.take_in(features), imagined)

    def pool(self, taken: Tensor, imagined: Tensor | None = None) -> Tensor:
        """As `read`, of tokens that were taken in: [B, N, width] -> [B, K, width]."""
        if (imagined is None) == bool(self.config.imagined_tokens):
            given = "none came" if imagined is None else "some came"
            raise ValueError(
                f"the bridge has {self.config.imagined_tokens} imagined tokens, but of imagined features {given}"
            )
        tokens = self.foveate(taken)  # [B, N', D]
        queries = torch.cat([self.cells(), self.globals])  # [K', D]
        if self.config.slots:
            queries = torch.cat([self.slots.queries, queries])
        if imagined is not None:
            tokens = torch.cat(
                [tokens, self.imagined(average(imagined, tuple(self.config.imagined_grid))) + self.imagined_type], dim=1
            )
            queries = torch.cat([queries, self.imagined_queries])
        for one in self.blocks:
            tokens = one(tokens)
        read: Tensor = self.reader(queries, tokens)
        return self.settle(read) if self.config.slots else read

    def take_in(self, features: Tensor) -> Tensor:
        """Every token of what was seen on its own, the last tubelets' looked into: [B, N, C] -> [B, N, width]."""
        tokens: Tensor = self.seen(features)
        if not self.config.magnify:
            return tokens
        _, y, x = self.config.grid
        count = self.config.magnified * y * x
        patches = features[:, -count:, : self.config.magnify_channels]
        found = tokens[:, -count:] + self.magnifier(self.seen.standard(patches))
        return torch.cat([tokens[:, :-count], found], dim=1)

    def last_tubelet(self, tokens: Tensor) -> Tensor:
        """[B, t*y*x, D] -> [B, y*x, D]"""
        _, y, x = self.config.grid
        return tokens[:, -y * x :]

    def said(self, pooled: Tensor) -> Tensor:
        """Logits of the words that the slots say: [B, K, width] -> float32 [B, S, W]."""
        return self.slots.logits(pooled[:, : len(self.config.slots)])

    def embed(self, pooled: Tensor, told: Tensor | None = None) -> Tensor:
        """[B, K, width] -> token embeddings of the language model's scale [B, K, llm_width]; told: as in Slots."""
        count = len(self.config.slots)
        free: Tensor = self.out_norm(self.out(pooled[:, count:])) * self.config.token_scale
        return torch.cat([self.slots(pooled[:, :count], told).to(free.dtype), free], dim=1) if count else free

    def foveate(self, tokens: Tensor) -> Tensor:
        """Blur what is older than the sharp tubelets, codes included: [B, N, D] -> [B, fewer, D]."""
        t, y, x = self.config.grid
        old = t - self.config.sharp_tubelets
        if not self.config.sharp_tubelets or old <= 0:
            return tokens
        return torch.cat([average(tokens[:, : old * y * x], (old, y, x)), tokens[:, old * y * x :]], dim=1)

    @torch.no_grad()
    def standardise(self, features: tuple[Tensor, Tensor], imagined: tuple[Tensor, Tensor] | None = None) -> None:
        """Store the (mean [C], std [C]) of the training features, of imagined ones too where they are used."""
        intakes = [(self.seen, features)] + ([(self.imagined, imagined)] if imagined is not None else [])
        for intake, (mean, std) in intakes:
            intake.mean.copy_(mean)
            intake.std.copy_(std.clamp_min(1e-3))
