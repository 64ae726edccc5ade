"""Claims about the bridge: shapes, places are kept, imagination is a switch."""

import pytest
import torch

from foretell.bridge.projector import BridgeConfig, WorldProjector, average


def small(imagined: int = 2, sharp: int = 0, magnify: int = 0, magnified: int = 1) -> WorldProjector:
    torch.manual_seed(0)
    config = BridgeConfig(
        feature_width=12, grid=(2, 4, 4), imagined_width=6, imagined_grid=(1, 4, 4), width=16, depth=1, heads=2,
        cells=(1, 2, 2), global_tokens=3, imagined_tokens=imagined, llm_width=20, token_scale=0.5, sharp_tubelets=sharp,
        magnify=magnify, magnified=magnified, magnify_width=4, magnify_channels=5 if magnify else 0,
    )  # fmt: skip
    return WorldProjector(config).eval()


def features(batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 32, 12, generator=generator), torch.randn(batch, 16, 6, generator=generator)


def test_default_bridge_takes_at_most_32_tokens() -> None:
    assert BridgeConfig().tokens <= 32


def test_tokens_have_the_language_models_width_and_scale() -> None:
    bridge = small()
    tokens = bridge(*features())
    assert tokens.shape == (3, bridge.config.tokens, 20)
    assert tokens.std(-1).mean().item() == pytest.approx(0.5, rel=0.1)


def test_moving_a_feature_to_another_place_changes_the_tokens() -> None:
    """A pooler without position codes would be blind to this."""
    bridge, (seen, imagined) = small(), features()
    shuffled = seen[:, torch.randperm(32, generator=torch.Generator().manual_seed(2))]
    assert (bridge(seen, imagined) - bridge(shuffled, imagined)).abs().max() > 1e-3


def test_permuting_the_batch_permutes_the_tokens() -> None:
    bridge, (seen, imagined) = small(), features()
    order = torch.tensor([2, 0, 1])
    assert torch.allclose(bridge(seen, imagined)[order], bridge(seen[order], imagined[order]), atol=1e-5)


def test_imagination_reaches_the_tokens_and_can_be_switched_off() -> None:
    bridge, (seen, imagined) = small(), features()
    assert (bridge(seen, imagined) - bridge(seen, imagined + 1)).abs().max() > 1e-3
    without = small(imagined=0)
    assert without(seen).shape[1] == bridge.config.tokens - 2
    assert not any("imagined" in name for name, _ in without.named_parameters())


@pytest.mark.parametrize(("imagined", "given"), [(2, False), (0, True)])
def test_a_missing_or_unexpected_imagination_is_an_error(imagined: int, given: bool) -> None:
    seen, expected = features()
    with pytest.raises(ValueError, match="imagined tokens"):
        small(imagined)(seen, expected if given else None)


def test_standardised_channels_do_not_depend_on_the_encoders_scale() -> None:
    (seen, imagined), plain, scaled = features(), small(), small()
    plain.standardise((seen.mean((0, 1)), seen.std((0, 1))))
    scaled.standardise(((7 * seen + 3).mean((0, 1)), (7 * seen + 3).std((0, 1))))
    assert torch.allclose(plain(seen, imagined), scaled(7 * seen + 3, imagined), atol=1e-4)


def test_what_is_older_than_the_sharp_tubelets_is_averaged_two_by_two() -> None:
    bridge, (seen, imagined) = small(sharp=1), features()
    tokens = torch.arange(2 * 4 * 4.0).reshape(1, 32, 1).expand(1, 32, 16)
    blurred = bridge.foveate(tokens)
    assert blurred[0, :4, 0].tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(blurred[:, 4:], tokens[:, 16:])
    swapped = seen.clone()
    swapped[:, [0, 1]] = seen[:, [1, 0]]  # neighbours within one 2x2 cell
    assert (bridge(seen, imagined) - bridge(swapped, imagined)).abs().max() < 1e-5
    swapped = seen.clone()
    swapped[:, [16, 17]] = seen[:, [17, 16]]
    assert (bridge(seen, imagined) - bridge(swapped, imagined)).abs().max() > 1e-3


@pytest.mark.parametrize("magnify", [2, 4])
def test_a_magnifier_adds_nothing_at_first_and_then_to_the_last_tubelet_alone(magnify: int) -> None:
    plain, close, (seen, imagined) = small(), small(magnify=magnify), features()
    own = {name: one for name, one in close.state_dict().items() if name.startswith("magnifier")}
    close.load_state_dict(plain.state_dict() | own)
    assert torch.equal(close(seen, imagined), plain(seen, imagined))
    torch.nn.init.normal_(close.magnifier.close.weight)
    taken, before = close.take_in(seen), plain.take_in(seen)
    assert torch.equal(taken[:, :16], before[:, :16])
    assert ((taken[:, 16:] - before[:, 16:]).abs().amax(-1) > 1e-3).all()


def test_a_magnifier_looks_at_what_lies_next_to_a_token_and_not_far_from_it() -> None:
    bridge, (seen, _) = small(magnify=4), features(1)
    torch.nn.init.normal_(bridge.magnifier.close.weight)
    for part in bridge.magnifier.look.modules():
        if isinstance(part, torch.nn.GroupNorm):  # it looks at all of the picture
            part.forward = lambda cells: cells  # type: ignore[method-assign, assignment]
    there = seen.clone()
    there[:, 16, :5] += 1  # the patch of the first token of the last tubelet
    moved = (bridge.take_in(there) - bridge.take_in(seen)).abs().amax(-1)[0].view(2, 4, 4)
    assert (moved[1, :2, :2] > 1e-4).all() and moved[1, 0, 0] > 5 * moved[1, 3, 3]
    assert not moved[0].any()


def test_a_magnifier_looks_into_as_many_tubelets_as_it_is_told() -> None:
    plain, close, (seen, _) = small(), small(magnify=4, magnified=2), features()
    close.load_state_dict(
        plain.state_dict() | {n: one for n, one in close.state_dict().items() if n.startswith("magn")}
    )
    torch.nn.init.normal_(close.magnifier.close.weight)
    assert ((close.take_in(seen) - plain.take_in(seen)).abs().amax(-1) > 1e-3).all()
    turned = seen.unflatten(1, (2, 16)).flip(1).flatten(1, 2)
    one, other = (close.magnifier(close.seen.standard(tokens[..., :5])) for tokens in (seen, turned))
    torch.testing.assert_close(one.unflatten(1, (2, 16)).flip(1).flatten(1, 2), other, msg="tubelets got mixed up")


def test_a_patch_is_opened_into_an_even_number_of_cells() -> None:
    with pytest.raises(ValueError, match=r"magnify 3: a patch is opened into 2, 4, ... cells a side"):
        small(magnify=3)


def test_averaging_keeps_axes_of_one_cell() -> None:
    assert average(torch.ones(2, 6, 3), (2, 1, 3)).shape == (2, 2, 3)


def speaking() -> WorldProjector:
    torch.manual_seed(0)
    config = BridgeConfig(
        feature_width=12, grid=(2, 4, 4), width=16, depth=1, heads=2, cells=(1, 2, 2), global_tokens=1,
        imagined_tokens=0, llm_width=20, words=5, slots=[[0, 1], [1, 2, 4]],
    )  # fmt: skip
    bridge = WorldProjector(config).eval()
    bridge.slots.learn(torch.randn(5, 20), torch.randn(2, 20))
    return bridge


def test_a_slot_says_its_own_words_only() -> None:
    bridge, (seen, _) = speaking(), features()
    pooled = bridge.read(seen)
    chances = bridge.said(pooled).softmax(-1)
    assert pooled.shape[1] == bridge.config.tokens == 7 and chances.shape == (3, 2, 5)
    assert torch.equal(chances > 0, torch.tensor([[1, 1, 0, 0, 0], [0, 1, 1, 0, 1]]).bool().expand(3, -1, -1))


def test_a_slot_that_is_sure_becomes_its_word_beside_its_name() -> None:
    bridge, (seen, _) = speaking(), features()
    with torch.no_grad():
        bridge.slots.chances.bias[4] = 100.0
    tokens = bridge(seen)
    assert torch.allclose(tokens[:, 1], bridge.slots.words[4] + bridge.slots.names[1], atol=1e-5)


def test_a_slot_says_what_it_is_told_and_nothing_is_told_below_zero() -> None:
    bridge, (seen, _) = speaking(), features()
    pooled = bridge.read(seen)
    own, told = bridge.embed(pooled), bridge.embed(pooled, torch.tensor([[1, -100], [-100, 2], [-100, -100]]))
    assert torch.allclose(told[0, 0], bridge.slots.words[1] + bridge.slots.names[0], atol=1e-6)
    assert torch.allclose(told[1, 1], bridge.slots.words[2] + bridge.slots.names[1], atol=1e-6)
    changed = (own != told).any(-1)  # [B, K]
    assert changed[:, :2].tolist() == [[True, False], [False, True], [False, False]] and not changed[:, 2:].any()


def test_what_the_language_model_reads_reaches_the_slots_chances() -> None:
    bridge, (seen, _) = speaking(), features()
    bridge(seen)[:, 0].square().sum().backward()
    weight = bridge.slots.chances.weight.grad
    assert weight is not None and weight[:2].abs().max() > 0 and weight[2:].abs().max() == 0
