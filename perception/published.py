"""Published pixel-generative rivals, transformers' own classes as they are, in the shape of one of our encoders."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import VideoMAEConfig, VideoMAEForPreTraining, ViTMAEConfig, ViTMAEForPreTraining, VJEPA2Config

Published = VideoMAEForPreTraining | ViTMAEForPreTraining


def shape_of(like: VJEPA2Config) -> dict[str, Any]:
    """What both configs share: the encoder's shape, and its predictor's for the decoder. Pixels are told standardised,
    the better of MAE's two ways (arXiv 2111.06377, table 1d) and VideoMAE's only one."""
    return {
        "image_size": like.crop_size,
        "patch_size": like.patch_size,
        "hidden_size": like.hidden_size,
        "num_hidden_layers": like.num_hidden_layers,
        "num_attention_heads": like.num_attention_heads,
        "intermediate_size": int(like.hidden_size * like.mlp_ratio),
        "decoder_hidden_size": like.pred_hidden_size,
        "decoder_num_hidden_layers": like.pred_num_hidden_layers,
        "decoder_num_attention_heads": like.pred_num_attention_heads,
        "decoder_intermediate_size": int(like.pred_hidden_size * like.pred_mlp_ratio),
        "norm_pix_loss": True,
    }


def videomae(like: VJEPA2Config) -> VideoMAEForPreTraining:
    """VideoMAE with nothing learned (Tong et al. 2022, arXiv 2203.12602); its encoder ends in a norm, as the released
    pretraining weights do."""
    clip: dict[str, Any] = {
        "num_frames": like.frames_per_clip,
        "tubelet_size": like.tubelet_size,
        "use_mean_pooling": False,
    }
    return VideoMAEForPreTraining(VideoMAEConfig(**shape_of(like), **clip))


def mae(like: VJEPA2Config) -> ViTMAEForPreTraining:
    """MAE with nothing learned (He et al. 2022, arXiv 2111.06377), on single frames.

    transformers 5.18 leaves the positions of a fresh one zero (`_init_weights` of ViTMAEPreTrainedModel skips the
    encoder's and clears the decoder's), so that no token knows where it is: they are set here by its own code.
    """
    model = ViTMAEForPreTraining(ViTMAEConfig(**shape_of(like)))
    patches: Any = model.vit.embeddings.patch_embeddings
    patches.projection._is_hf_initialized = False
    model.vit.embeddings.initialize_weights()
    model.decoder.initialize_weights(patches.num_patches)
    return model


def settled(model: Published) -> Published:
    """A model ready to learn: MAE's positions are fixed (`from_pretrained` forgets it), and pixels, targets and loss
    are float32 whatever type the weights between compute in, as they are where the published code trains."""
    if isinstance(model, ViTMAEForPreTraining):
        model.vit.embeddings.position_embeddings.requires_grad_(False)
        model.decoder.decoder_pos_embed.requires_grad_(False)
    for first in (projection(model), model.decoder.decoder_layers[0]):
        first.register_forward_pre_hook(_narrowed)
    told(model).register_forward_hook(_widened)
    return model


def _narrowed(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return inputs[0].to(next(module.parameters()).dtype), *inputs[1:]


def _widened(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    return output.float()


def projection(model: Published) -> nn.Module:
    """From pixels into the encoder."""
    trunk = model.videomae if isinstance(model, VideoMAEForPreTraining) else model.vit
    patches: nn.Module = trunk.embeddings.patch_embeddings.projection
    return patches


def told(model: Published) -> nn.Module:
    """From the decoder into pixels."""
    head: nn.Module = model.decoder.head if isinstance(model, VideoMAEForPreTraining) else model.decoder.decoder_pred
    return head


def entry(model: Published) -> nn.Module:
    """From the encoder into the decoder."""
    between: nn.Module = (
        model.encoder_to_decoder if isinstance(model, VideoMAEForPreTraining) else model.decoder.decoder_embed
    )
    return between


class Trunk(NamedTuple):
    """An encoder taken apart: its layers, its final norm, and how many tokens of no place come before the others."""

    layers: nn.ModuleList
    norm: nn.Module
    extra: int


def trunk(model: Published) -> Trunk:
    if isinstance(model, VideoMAEForPreTraining):
        return Trunk(model.videomae.encoder.layer, model.videomae.layernorm or nn.Identity(), 0)
    return Trunk(model.vit.layers, model.vit.layernorm, 1)


def embedded(model: Published, pixels: Tensor) -> Tensor:
    """All tokens of clips [B, T, 3, H, W] before the first layer, nothing hidden: [B, extra + N, D].

    MAE's own forward always hides some, so its parts are called one by one.
    """
    if isinstance(model, VideoMAEForPreTraining):
        hidden: Tensor = model.videomae.embeddings(pixels, None)
        return hidden
    embeddings = model.vit.embeddings
    places = embeddings.position_embeddings
    first = (embeddings.cls_token + places[:, :1]).expand(len(pixels), -1, -1)
    return torch.cat([first, embeddings.patch_embeddings(pixels[:, 0]) + places[:, 1:]], dim=1)


def loss_of(model: Published, pixels: Tensor, hidden: Tensor) -> Tensor:
    """The class's own loss: pixels [B, T, 3, H, W] normalised by ImageNet's statistics (VideoMAE undoes them), hidden
    bool [B, N], as many a clip. MAE draws its mask by ranks of noise, which are given so that they say `hidden`."""
    if isinstance(model, VideoMAEForPreTraining):
        loss: Tensor = model(pixels, bool_masked_pos=hidden).loss
        return loss
    ranks = torch.arange(hidden.shape[1], device=hidden.device) / hidden.shape[1]
    output = model(pixels[:, 0], noise=hidden + ranks)
    assert torch.equal(output.mask.bool(), hidden), "another share is hidden than the config's mask_ratio"
    whole: Tensor = output.loss
    return whole
