"""Claims about published models here: they are transformers' own, nothing hidden is seen, places are known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import VideoMAEForPreTraining, ViTMAEForPreTraining, VJEPA2Model

from foretell.perception.encoder import (
    Eyes,
    VJEPA2World,
    World,
    grid_of,
    open_model,
    seen,
    tiny_config,
    window_of,
)
from foretell.perception.published import loss_of, mae, settled, videomae
from foretell.train.learner import FRESH
from foretell.train.masks import SCATTERED, TUBES, tubes
from foretell.train.objectives import patches

MAKERS = {"videomae": (videomae, TUBES), "mae": (mae, SCATTERED)}


def hidden_of(model: Eyes, share: float, batch: int = 2) -> Tensor:
    grid = grid_of(model.config)
    mask = tubes(np.random.default_rng(0), grid, batch, share)
    return torch.zeros(batch, int(np.prod(grid)), dtype=torch.bool).scatter(1, mask.target, True)


def pixels_for(model: Eyes, batch: int = 2) -> Tensor:
    return torch.randn(batch, window_of(model.config).frames, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def under(model: Eyes, hidden: Tensor) -> Tensor:
    """Which pixels hidden tokens [B, N] cover: bool [B, T, 1, S, S]."""
    time, height, width = grid_of(model.config)
    _, tubelet, size, patch = window_of(model.config)
    cells = hidden.reshape(-1, time, 1, height, 1, width, 1).expand(-1, -1, tubelet, -1, patch, -1, patch)
    return cells.reshape(-1, time * tubelet, 1, size, size)


@pytest.mark.parametrize(("make", "share"), MAKERS.values(), ids=MAKERS)
@torch.no_grad()
def test_a_published_model_tells_hidden_pixels_from_the_others(make: object, share: float) -> None:
    assert callable(make)
    torch.manual_seed(0)
    model = settled(make(tiny_config()))
    pixels, hidden = pixels_for(model), hidden_of(model, share)
    caught: list[Tensor] = []
    head = model.decoder.head if isinstance(model, VideoMAEForPreTraining) else model.decoder.decoder_pred
    head.register_forward_hook(lambda _module, _inputs, output: caught.append(output))
    cover = under(model, hidden)
    for given in (pixels, pixels + cover, pixels + ~cover):
        loss_of(model, given, hidden)
    torch.testing.assert_close(caught[0], caught[1])
    assert not torch.allclose(caught[0], caught[2], rtol=0, atol=1e-5)  # fresh weights tell little of what they see


@torch.no_grad()
def test_mae_s_loss_is_that_of_our_standardised_patches() -> None:
    torch.manual_seed(0)
    model = mae(tiny_config())
    settled(model)
    pixels, hidden = pixels_for(model), hidden_of(model, SCATTERED)
    caught: list[Tensor] = []
    model.decoder.decoder_pred.register_forward_hook(lambda _module, _inputs, output: caught.append(output[:, 1:]))
    loss = loss_of(model, pixels, hidden)
    # Numbers in a patch come in another order here than there, which a mean over all of them does not see.
    theirs = model.patchify(pixels[:, 0])
    wanted = (theirs - theirs.mean(-1, keepdim=True)) / (theirs.var(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(wanted.sort(-1).values, patches(pixels, model.config).sort(-1).values)
    torch.testing.assert_close(loss, (caught[0] - wanted)[hidden].square().mean())


@torch.no_grad()
def test_all_tokens_are_those_of_the_model_s_own_forward() -> None:
    torch.manual_seed(0)
    clips, pictures = videomae(tiny_config()), mae(tiny_config())
    pixels = pixels_for(clips)
    own = clips.videomae(pixels, output_hidden_states=True)
    states = seen(clips, pixels, (0, 1, 2, 3))
    for ours, theirs in zip(states[:3], own.hidden_states, strict=False):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(states[3], own.last_hidden_state)
    pictures.vit.config.mask_ratio = 0.0
    whole = pictures.vit(pixels[:, 0], noise=torch.arange(16.0).expand(2, -1)).last_hidden_state
    torch.testing.assert_close(seen(pictures, pixels[:, :1], (3,))[0], whole[:, 1:])


@pytest.mark.parametrize("kind", [VideoMAEForPreTraining, ViTMAEForPreTraining])
@torch.no_grad()
def test_a_published_model_knows_places(kind: type[Eyes]) -> None:
    """The same patch everywhere: only positions tell its tokens apart."""
    torch.manual_seed(0)
    model = FRESH[kind](tiny_config())
    flat = torch.ones(1, window_of(model.config).frames, 3, 16, 16)
    (tokens,) = seen(model, flat, (1,))
    assert torch.pdist(tokens[0]).min() > 0.01
    if isinstance(model, ViTMAEForPreTraining):
        assert torch.pdist(model.decoder.decoder_pos_embed[0]).min() > 0.01


def test_positions_stay_fixed_after_loading(tmp_path: Path) -> None:
    mae(tiny_config()).save_pretrained(tmp_path)
    loaded = open_model(tmp_path)
    assert isinstance(loaded, ViTMAEForPreTraining)
    fixed = [name for name, parameter in settled(loaded).named_parameters() if not parameter.requires_grad]
    assert fixed == ["vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"]


@pytest.mark.parametrize(("make", "share"), MAKERS.values(), ids=MAKERS)
def test_in_bf16_targets_and_loss_stay_exact(make: object, share: float) -> None:
    assert callable(make)
    torch.manual_seed(0)
    model = settled(make(tiny_config()))
    pixels, hidden = pixels_for(model), hidden_of(model, share)
    exact = loss_of(model, pixels, hidden).item()
    loss = loss_of(torch.nn.Module.to(model, torch.bfloat16), pixels, hidden)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact, rel=5e-3)
    assert all(p.grad is not None and p.grad.dtype == torch.bfloat16 for p in model.parameters() if p.requires_grad)


def test_a_world_opens_any_kind_and_v_jepa_s_refuses_others(tmp_path: Path) -> None:
    VJEPA2Model(tiny_config()).save_pretrained(tmp_path / "jepa")
    model = videomae(tiny_config())
    model.config.rate = 8.0
    model.save_pretrained(tmp_path / "videomae")
    world = World(open_model(tmp_path / "videomae"))
    assert (world.grid, world.frames, world.size, world.rate) == ((4, 4, 4), 8, 16, 8.0)
    frames = torch.randint(0, 256, (2, 8, 16, 16, 3), dtype=torch.uint8)
    assert world.encode(frames).shape == (2, 64, 3 * 48)
    assert VJEPA2World.from_pretrained(tmp_path / "jepa").width == 3 * 48
    with pytest.raises(ValueError, match="is a VideoMAEForPreTraining: this wants V-JEPA's architecture"):
        VJEPA2World.from_pretrained(tmp_path / "videomae")
