"""Attention, residual blocks and embeddings: against readings by hand, and by what must and must not change."""

import math
from functools import partial

import pytest
import torch
from einops import rearrange
from rounding import assert_close
from torch import nn

from xnowcast.nn import attention as attention_module
from xnowcast.nn.attention import LinearSpatialAttention, SpatialAttention, TemporalAttention, linear_attention
from xnowcast.nn.blocks import (
    ChannelNorm,
    ConvolutionBlock,
    NearestUp,
    ResidualBlock,
    SpaceToDepth,
    StandardizedConvolution,
    strided_down,
    transposed_up,
)
from xnowcast.nn.embedding import FourierEmbedding, SinusoidalEmbedding, StepEmbedding

LINEAR, FULL = {"linear": True}, {"linear": False}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def count(module):
    return sum(p.numel() for p in module.parameters())


# ---------------------------------------------------------------- linear attention


def test_linear_attention_by_hand():
    # one feature: softmax over it is 1, so every query gets the mean of v that softmax(k) weights
    k = torch.tensor([[0.0], [math.log(3.0)]])
    v = torch.tensor([[4.0], [8.0]])
    torch.testing.assert_close(linear_attention(torch.randn(2, 1), k, v), torch.full((2, 1), 7.0))


@pytest.mark.parametrize("shape", [(3, 2, 5, 32), (4, 64, 8)])
def test_both_orders_of_contraction_agree(shape):
    q, k, v = torch.randn(3, *shape)
    features, tokens = (linear_attention(q, k, v, order) for order in ("features", "tokens"))
    assert_close(features, tokens)
    assert_close(linear_attention(q, k, v), features)


def test_linear_attention_is_the_double_sum():
    q, k, v = torch.randn(3, 3, 4, dtype=torch.float64)  # 3 tokens of 4 features
    weights_q, weights_k = q.softmax(1) / 2, k.softmax(0)
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for n in range(3):
        for e in range(4):
            expected[n, e] = sum(weights_q[n, d] * weights_k[m, d] * v[m, e] for m in range(3) for d in range(4))
    torch.testing.assert_close(linear_attention(q, k, v), expected)


# ---------------------------------------------------------------- over space


def test_linear_spatial_attention_is_its_definition():
    layer = LinearSpatialAttention(6, heads=2, head_width=4, patch=3)
    x = torch.randn(2, 6, 6, 9)
    normed = (x - x.mean(1, keepdim=True)) / torch.sqrt(x.var(1, keepdim=True, unbiased=False) + 1e-5)
    projected = torch.einsum("oc, bcyx -> boyx", layer.qkv.weight, normed)
    q, k, v = rearrange(projected, "b (i e d) (r p) (s q) -> i b e r s d (p q)", i=3, e=2, p=3, q=3)
    context = torch.einsum("bersdn, bersfn -> bersdf", k.softmax(-1), v)
    out = torch.einsum("bersdf, bersdn -> bersfn", context, q.softmax(-2) / 2)
    out = layer.out(rearrange(out, "b e r s f (p q) -> b (r p) (s q) (e f)", p=3))
    out = (out - out.mean(-1, keepdim=True)) / torch.sqrt(out.var(-1, keepdim=True, unbiased=False) + 1e-5)
    assert_close(layer(x), x + out.movedim(-1, 1))


def test_patches_do_not_leak():
    layer = LinearSpatialAttention(8, heads=2, head_width=4, patch=4)
    x = torch.randn(1, 8, 8, 8)
    other = x.clone()
    other[0, :, 1, 2] += torch.randn(8)  # a constant would vanish in the norm
    changed = (layer(x) != layer(other)).any(1)[0]
    assert changed[:4, :4].all() and not changed[4:].any() and not changed[:4, 4:].any()


def test_without_patches_all_cells_are_seen():
    layer = LinearSpatialAttention(8, heads=2, head_width=4)
    x = torch.randn(1, 8, 6, 10)
    other = x.clone()
    other[0, :, 0, 0] += 5 * torch.randn(8)
    assert (layer(x) != layer(other)).any(1).float().mean() > 0.9


@pytest.mark.parametrize(
    "layer", [SpatialAttention(8, heads=2, head_width=4), LinearSpatialAttention(8, heads=2, head_width=4)]
)
def test_attention_over_space_knows_no_order_of_cells(layer):
    x = torch.randn(3, 8, 4, 5)
    order = torch.randperm(20)
    shuffled = x.flatten(2)[..., order].reshape(x.shape)
    assert_close(layer(shuffled), layer(x).flatten(2)[..., order].reshape(x.shape))


def test_spatial_attention_is_that_of_torch():
    layer = SpatialAttention(8, heads=2, head_width=4)
    torchs = nn.MultiheadAttention(8, 2, bias=False, batch_first=True)
    torchs.load_state_dict({"in_proj_weight": layer.qkv.weight, "out_proj.weight": layer.out.weight})
    x = torch.randn(3, 8, 4, 5)
    tokens = nn.functional.layer_norm(x.flatten(2).mT, (8,))
    expected = torchs(tokens, tokens, tokens)[0] + layer.out.bias
    assert_close(layer(x), x + expected.mT.reshape(x.shape))


def test_patches_that_do_not_divide_the_grid_are_refused():
    with pytest.raises(ValueError, match="patches of 4 cells do not divide a grid of 8 x 6"):
        LinearSpatialAttention(8, heads=2, head_width=4, patch=4)(torch.randn(1, 8, 8, 6))


# ---------------------------------------------------------------- over time


def test_temporal_attention_is_that_of_torch():
    layer = TemporalAttention(8, heads=2, head_width=4)
    torchs = nn.MultiheadAttention(8, 2, bias=False, batch_first=True)
    torchs.load_state_dict({"in_proj_weight": layer.qkv.weight, "out_proj.weight": layer.out.weight})
    x = torch.randn(2 * 5, 8, 3, 4)  # two samples of five frames
    tokens = nn.functional.layer_norm(rearrange(x, "(b t) c y x -> (b y x) t c", t=5), (8,))
    expected = torchs(tokens, tokens, tokens)[0] + layer.out.bias
    expected = rearrange(expected, "(b y x) t c -> (b t) c y x", y=3, x=4)
    assert_close(layer(x, 5), x + expected)


@pytest.mark.parametrize("kind", [LINEAR, FULL], ids=["linear", "full"])
@pytest.mark.parametrize("whole_map", [False, True])
@pytest.mark.parametrize("norm_over", ["channels", "time"])
def test_attention_over_time_knows_no_order_of_frames(kind, whole_map, norm_over):
    layer = TemporalAttention(8, heads=2, head_width=4, whole_map=whole_map, norm_over=norm_over, **kind)
    x = torch.randn(2, 5, 8, 3, 4)
    order = torch.randperm(5)
    there = layer(x.flatten(0, 1), 5).unflatten(0, (2, 5))
    shuffled = layer(x[:, order].flatten(0, 1), 5).unflatten(0, (2, 5))
    assert_close(shuffled, there[:, order])


@pytest.mark.parametrize("kind", [LINEAR, FULL], ids=["linear", "full"])
@pytest.mark.parametrize("whole_map", [False, True])
def test_frames_of_one_sample_see_each_other_and_no_other_sample(kind, whole_map):
    layer = TemporalAttention(8, heads=2, head_width=4, whole_map=whole_map, **kind)
    x = torch.randn(2, 5, 8, 3, 4)
    other = x.clone()
    other[0, 2, :, 1, 1] += torch.randn(8)
    changed = (layer(x.flatten(0, 1), 5) != layer(other.flatten(0, 1), 5)).any(1).unflatten(0, (2, 5))
    assert changed[0, :, 1, 1].all() and not changed[1].any()
    elsewhere = changed[0].clone()
    elsewhere[:, 1, 1] = False
    assert bool(elsewhere.any()) is whole_map  # cells are apart unless a token is a whole map


def test_a_whole_map_is_one_token_per_frame_and_head():
    layer = TemporalAttention(4, heads=2, head_width=3, whole_map=True)
    x = torch.randn(5, 4, 2, 2)
    projected = rearrange(
        layer.qkv(nn.functional.layer_norm(x.movedim(1, -1), (4,))), "t y x (i e d) -> i e t y x d", i=3, e=2
    )
    q, k, v = projected
    weights = (torch.einsum("etyxd, esyxd -> ets", q, k) / math.sqrt(3)).softmax(-1)
    out = layer.out(rearrange(torch.einsum("ets, esyxd -> etyxd", weights, v), "e t y x d -> t y x (e d)"))
    assert_close(layer(x, 5), x + out.movedim(-1, 1))


def test_a_norm_over_time_leaves_nothing_of_a_single_frame():
    x = torch.randn(1, 8, 3, 4)
    layer = TemporalAttention(8, heads=2, head_width=4, norm_over="time")
    torch.testing.assert_close(layer(x, 1), x + layer.out.bias[:, None, None])
    state = TemporalAttention(8, heads=2, head_width=4).state_dict()
    assert layer.load_state_dict(state)  # the parameters are the same


@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_how_much_is_attended_to_at_once_changes_nothing(tokens, monkeypatch):
    x = torch.randn(10, 8, 4, 6)
    layers = [
        LinearSpatialAttention(8, heads=2, head_width=4, patch=2),
        partial(TemporalAttention(8, heads=2, head_width=4), frames=5),
        partial(TemporalAttention(8, heads=2, head_width=4, linear=True), frames=5),
    ]
    whole = [layer(x) for layer in layers]
    monkeypatch.setattr(attention_module, "TOKENS_AT_ONCE", tokens)
    for layer, expected in zip(layers, whole, strict=True):
        assert_close(layer(x), expected)


def test_parameters_are_those_of_the_published_networks():
    # STLDM, first level down: attention over patches and over time, each with its norm
    assert count(LinearSpatialAttention(32, patch=16)) == 16_480
    assert count(TemporalAttention(32)) == 16_448
    assert count(ResidualBlock(64, 32, 256)) == 46_368 and count(ResidualBlock(32, 32)) == 18_624
    assert count(strided_down(32, 64)) == 32_832
    assert count(StepEmbedding(SinusoidalEmbedding(64), 64, 256)) == 82_432
    # STVD: random frequencies, which are not trained
    assert count(StepEmbedding(FourierEmbedding(16), 33, 256)) == 74_512 - 16


# ---------------------------------------------------------------- blocks


def test_channel_norm_leaves_mean_zero_and_the_gain():
    norm = ChannelNorm(16)
    norm.gain.data.fill_(2.0)
    out = norm(torch.randn(2, 16, 3, 3) * 5 + 1)
    assert_close(out - out.mean(1, keepdim=True), out)
    assert_close(out.std(1, unbiased=False), torch.full((2, 3, 3), 2.0))


def test_standardized_filters_forget_their_mean_and_scale():
    one, other = StandardizedConvolution(4, 6, 3, padding=1), StandardizedConvolution(4, 6, 3, padding=1)
    other.weight.data = 7 * one.weight.data + 3
    other.bias.data = one.bias.data
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(other(x), one(x), atol=1e-3, rtol=1e-3)
    assert isinstance(ConvolutionBlock(4, 8, standardized=True).convolution, StandardizedConvolution)


def test_the_step_scales_and_shifts_before_the_activation():
    block = ConvolutionBlock(4, 8)
    x = torch.randn(2, 4, 5, 5)
    scale, shift = torch.randn(2, 2, 8, 1, 1)
    expected = nn.functional.silu(block.norm(block.convolution(x)) * (1 + scale) + shift)
    torch.testing.assert_close(block(x, scale, shift), expected)


def test_a_residual_block_that_adds_nothing_is_its_shortcut():
    block = ResidualBlock(8, 8, 16)
    for parameter in block.second.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(block(x, torch.randn(2, 16)), x)
    with pytest.raises(ValueError, match="step embedding"):
        block(x)


def test_ways_down_and_up_have_their_shapes():
    x = torch.randn(2, 8, 6, 10)
    for down in (strided_down(8, 12), SpaceToDepth(8, 12)):
        assert down(x).shape == (2, 12, 3, 5)
    for up in (transposed_up(8, 12), NearestUp(8, 12)):
        assert up(x).shape == (2, 12, 12, 20)


# ---------------------------------------------------------------- embeddings


def test_the_sinusoid_by_hand():
    embedded = SinusoidalEmbedding(4)(torch.tensor([0, 3]))
    angles = [3.0, 3.0 / 10000]  # the fastest and the slowest
    expected = [[0, 0, 1, 1], [math.sin(angles[0]), math.sin(angles[1]), math.cos(angles[0]), math.cos(angles[1])]]
    torch.testing.assert_close(embedded, torch.tensor(expected, dtype=torch.float32))
    guided = SinusoidalEmbedding(4, "guided-diffusion")(torch.tensor([3]))[0]  # cosines first, 3 and 3 / 100
    torch.testing.assert_close(guided, torch.tensor([math.cos(3), math.cos(0.03), math.sin(3), math.sin(0.03)]))
    with pytest.raises(ValueError, match="even"):
        SinusoidalEmbedding(5)


def test_every_step_has_a_code_of_its_own_also_in_half_precision():
    network = StepEmbedding(SinusoidalEmbedding(64), 64, 32)
    codes = SinusoidalEmbedding(64)(torch.arange(1000))
    assert torch.cdist(codes, codes).fill_diagonal_(9.0).min() > 0.1
    half = StepEmbedding(SinusoidalEmbedding(64), 64, 32).to(torch.bfloat16)
    half.load_state_dict(network.state_dict())
    steps = torch.tensor([0, 17, 49])
    assert half(steps).dtype == torch.bfloat16
    torch.testing.assert_close(half(steps).float(), network(steps), atol=0.02, rtol=0.05)


def test_fourier_frequencies_are_random_fixed_and_saved():
    embedding = FourierEmbedding(3)
    embedded = embedding(torch.tensor([0.0, 0.25]))
    assert embedded.shape == (2, 7) and embedded[0].tolist() == [0, 0, 0, 0, 1, 1, 1]
    torch.testing.assert_close(embedded[1, 1:4], torch.sin(2 * math.pi * 0.25 * embedding.frequencies))
    assert not list(embedding.parameters()) and "frequencies" in embedding.state_dict()
