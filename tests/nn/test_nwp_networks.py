"""Networks of the post-processor: deformable convolution, InternImage, UPerNet and masking, against slow readings."""

import pytest
import reference_nwp as reference
import torch
from rounding import FLOAT64, assert_close
from torch.nn import functional as F

from xnowcast.nn import deformable
from xnowcast.nn.deformable import DeformableConvolution, deformable_sum
from xnowcast.nn.intern_image import INTERN_IMAGE_SIZES, Block, InternImage
from xnowcast.nn.masking import PatchMasking, random_mask
from xnowcast.nn.upernet import UPerNet


@pytest.fixture(autouse=True)
def _bags(monkeypatch, one_thread):
    monkeypatch.setattr(deformable, "FEW_POINTS", 0)  # unless a test says otherwise


def count(network):
    return sum(p.numel() for p in network.parameters())


def inputs(batch=2, ny=5, nx=4, groups=3, width=2, spread=2.0, dtype=torch.float64, points=9):
    """Values, offsets that also point far outside, and weights."""
    values = torch.randn(batch, ny, nx, groups, width, dtype=dtype)
    offsets = spread * torch.randn(batch, ny, nx, 2, groups, points, dtype=dtype)
    weights = torch.randn(batch, ny, nx, groups, points, dtype=dtype)
    return [part.requires_grad_() for part in (values, offsets, weights)]


def with_gradients(function, given):
    result = function(*given)
    seen = torch.randn(result.shape, dtype=result.dtype, generator=torch.Generator().manual_seed(1))
    return result, torch.autograd.grad((result * seen).sum(), given)


def grid_sampled(values, offsets, weights):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deformable, "FEW_POINTS", float("inf"))
        return deformable_sum(values, offsets, weights)


# ---------------------------------------------------------------- deformable convolution


@pytest.mark.parametrize("ours", [deformable_sum, grid_sampled, reference.deformable_sum_by_pixels])
@pytest.mark.parametrize("spread", [0.4, 3.0])
def test_sums_and_gradients_are_those_of_loops(ours, spread):
    given = inputs(spread=spread)
    expected, slopes = with_gradients(reference.deformable_sum, given)
    found, own = with_gradients(ours, given)
    assert_close(found, expected, FLOAT64)
    for mine, theirs in zip(own, slopes, strict=True):
        assert_close(mine, theirs, FLOAT64)


def test_gradients_are_those_of_finite_differences():
    values, offsets, weights = inputs(1, 4, 3, 2, 2, spread=1.0)
    # away from the kinks of the interpolation, whole positions
    offsets = (offsets.detach().floor() + 0.2 + 0.6 * torch.rand_like(offsets)).requires_grad_()
    assert torch.autograd.gradcheck(deformable_sum, (values, offsets, weights))


def test_more_cells_and_samples_than_are_gathered_at_once(monkeypatch):
    given = inputs(3, 6, 7, 2, 3)
    expected, slopes = with_gradients(deformable_sum, given)
    monkeypatch.setattr(deformable, "CELLS_AT_ONCE", 5)
    monkeypatch.setattr(deformable, "POINTS_AT_ONCE", 2 * 6 * 7 * 2 * 9)
    found, own = with_gradients(deformable_sum, given)
    torch.testing.assert_close((found, *own), (expected, *slopes))


def test_without_the_middle_eight_points_are_those_of_nine_with_no_weight_there():
    given = inputs(spread=3.0, points=8)
    expected, slopes = with_gradients(
        lambda values, offsets, weights: reference.deformable_sum(
            values, _with_a_middle(offsets), _with_a_middle(weights)
        ),
        given,
    )
    for ours in (deformable_sum, grid_sampled):
        found, own = with_gradients(ours, given)
        assert_close(found, expected, FLOAT64)
        for mine, theirs in zip(own, slopes, strict=True):
            assert_close(mine, theirs, FLOAT64)


def _with_a_middle(eight):
    return torch.cat([eight[..., :4], torch.zeros_like(eight[..., :1]), eight[..., 4:]], dim=-1)


def test_the_scale_of_offsets_moves_points_and_offsets():
    values, offsets, weights = inputs(spread=0.7)
    around = torch.tensor([[y, x] for y in (-1, 0, 1) for x in (-1, 0, 1)]).T[:, None].to(offsets)
    once_more = 2 * offsets + around  # a point at 1 is at 2, so it is moved by itself
    assert_close(deformable_sum(values, offsets, weights, 2.0), deformable_sum(values, once_more, weights), FLOAT64)


def test_a_share_of_the_centre_is_that_of_the_cell_itself():
    layer = DeformableConvolution(8, 2, centre_share=True)
    x = torch.randn(1, 5, 6, 8)
    torch.nn.init.constant_(layer.centre.bias, 40.0)  # all of it
    assert_close(layer(x), layer.out(layer.values(x)))
    torch.nn.init.constant_(layer.centre.bias, -40.0)
    plain = DeformableConvolution(8, 2)
    plain.load_state_dict({name: own for name, own in layer.state_dict().items() if not name.startswith("centre")})
    assert_close(layer(x), plain(x))


def test_a_fresh_layer_is_a_mean_over_three_by_three_cells():
    layer = DeformableConvolution(8, 2)
    x = torch.randn(2, 6, 5, 8)
    values = layer.values(x).permute(0, 3, 1, 2)
    mean = F.avg_pool2d(values, 3, stride=1, padding=1).permute(0, 2, 3, 1)
    assert_close(layer(x), layer.out(mean))


def test_whole_offsets_shift_the_map():
    values, offsets, weights = inputs(spread=0.3, ny=8, nx=9)
    shifted = offsets + torch.tensor([1.0, -2.0], dtype=torch.float64)[:, None, None]
    moved = torch.zeros_like(values)
    moved[:, :-1, 2:] = values[:, 1:, :-2]
    inner = (slice(None), slice(3, 5), slice(4, 6))  # whose points are inside of both maps
    torch.testing.assert_close(
        deformable_sum(values, shifted, weights)[inner], deformable_sum(moved, offsets, weights)[inner]
    )


def test_weights_of_the_points_sum_to_one():
    layer = DeformableConvolution(8, 2)
    torch.nn.init.normal_(layer.weight.weight)
    torch.nn.init.normal_(layer.offset.weight, std=0.3)
    torch.nn.init.zeros_(layer.values.weight)
    torch.nn.init.ones_(layer.values.bias)  # V is 1 everywhere, so that sums of weights come out
    torch.nn.init.eye_(layer.out.weight)
    out = layer(torch.randn(1, 12, 12, 8))
    assert_close(out[:, 5:7, 5:7], torch.ones(1, 2, 2, 8))


def test_positions_keep_their_digits_in_bfloat16():
    layer = DeformableConvolution(16, 4)
    torch.nn.init.normal_(layer.offset.weight, std=0.2)
    x = torch.rand(1, 4, 200, 16, requires_grad=True)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = layer(x)
    (slope,) = torch.autograd.grad(rounded.float().sum(), x)
    assert slope.isfinite().all()
    error = (rounded - exact).abs().mean(dim=(0, 1, 3))
    assert error[150:].mean() < 2 * error[:50].mean()  # no worse far from the first column


def test_groups_have_to_divide_the_channels():
    with pytest.raises(ValueError, match="10 channels have no 4 groups"):
        DeformableConvolution(10, 4)


# ---------------------------------------------------------------- InternImage and UPerNet


def test_parameters_are_those_of_intern_image_t():
    with torch.device("meta"):
        backbone, of_images = InternImage(16), InternImage(3)
    assert count(of_images) == 28_769_520 and count(backbone) == 28_773_264
    assert count(of_images.stem) == 19_584 and count(backbone.stem) == 23_328
    assert [count(stage) for stage in backbone.stages] == [272_432, 1_075_296, 15_091_296, 12_310_912]
    block = backbone.stages[0].blocks[0]
    assert count(block) == 49_580 and count(block.gather) == 16_108
    parts = block.gather
    assert count(parts.depthwise) + count(parts.norm) == 768
    assert [count(p) for p in (parts.offset, parts.weight, parts.values, parts.out)] == [4_680, 2_340, 4_160, 4_160]


@pytest.mark.parametrize(
    ("size", "parameters", "in_print"),
    [
        ("s", 48_502_560, 50),
        ("b", 94_909_920, 97),
        ("l", 218_952_370, 223),
        ("xl", 328_971_228, 335),
        ("h", 1_073_246_640, 1080),
    ],
)
def test_larger_sizes_have_the_parameters_in_print_but_for_what_makes_classes(size, parameters, in_print):
    """Wang et al. (2023), tables 1 and 2, in millions, with 1,000 classes."""
    own = INTERN_IMAGE_SIZES[size]
    with torch.device("meta"):
        found = count(InternImage(3, own.width, own.depths, own.groups, own.drop_path, own.variant))
    assert found == parameters and 0.96 * in_print < found / 1e6 < in_print


def test_parameters_are_those_of_upernet():
    with torch.device("meta"):
        heads = [UPerNet((64, 128, 256, 512), out) for out in (3, 16)]
    assert [count(head) for head in heads] == [29_603_331, 29_610_000]


def test_maps_have_the_shapes_of_the_paper():
    backbone = InternImage(16, depths=(1, 1, 1, 1)).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 16, 224, 128))
        logits = UPerNet(backbone.widths, 3, 32).eval()(maps)
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 56, 32), (128, 28, 16), (256, 14, 8), (512, 7, 4)]
    assert logits.shape == (1, 3, 56, 32)


def test_dropped_paths_leave_the_sample_as_it_was_and_keep_the_mean():
    block = Block(8, 2, drop_path=0.5).train()
    x = torch.randn(400, 2, 2, 8)
    branch = block.gather_scale * block.gather(block.gather_norm(x))
    dropped = block._drop(branch)
    kept = dropped.abs().sum(dim=(1, 2, 3)) > 0
    assert 0.4 < kept.float().mean() < 0.6
    torch.testing.assert_close(dropped[kept], 2 * branch[kept])
    torch.testing.assert_close(block.eval()._drop(branch), branch)


def test_drop_paths_rise_linearly_over_all_blocks():
    network = InternImage(1, 8, (2, 3), (1, 1), drop_path=0.2)
    chances = [block.drop_path for stage in network.stages for block in stage.blocks]
    assert chances == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_the_decoder_looks_at_every_map():
    decoder = UPerNet((4, 8, 16), 2, 6).eval()
    maps = [torch.randn(1, 4 * 2**i, 16 >> i, 12 >> i, requires_grad=True) for i in range(3)]
    slopes = torch.autograd.grad(decoder(maps).sum(), maps)
    assert all(slope.abs().sum() > 0 for slope in slopes)


# ---------------------------------------------------------------- masking


@pytest.mark.parametrize(("ratio", "hidden"), [(0.9, 403), (0.25, 112), (0.0, 0), (1.0, 448)])
def test_masks_have_exact_counts(ratio, hidden):
    assert PatchMasking(16, width=8).tokens(224, 128) == 448
    masks = random_mask(5, 448, ratio)
    assert masks.sum(dim=1).tolist() == [hidden] * 5


def test_masks_come_from_the_seed_and_know_no_structure():
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(random_mask(200, 48, 0.25))
    assert draws[0].equal(draws[1]) and not draws[0].equal(draws[2])
    assert not draws[0][0].equal(draws[0][1])
    often = draws[0].float().mean(dim=0)  # every token alike: 12 of 48, 200 times
    assert (often - 0.25).abs().max() < 5 * (0.25 * 0.75 / 200) ** 0.5


def test_a_mask_ratio_beyond_one_is_refused():
    with pytest.raises(ValueError, match="ratio is 90"):
        random_mask(1, 8, 90)


def test_nothing_masked_is_the_tokeniser_alone():
    masking = PatchMasking(6, patch=8, width=32, places=(2, 3))
    x = torch.randn(2, 6, 16, 24)
    torch.testing.assert_close(masking(x, random_mask(2, masking.tokens(16, 24), 0.0)), masking(x))


def test_masked_patches_are_not_seen_and_others_are_as_they_were():
    masking = PatchMasking(8, patch=8, width=32, places=(2, 2))
    x, other = torch.randn(1, 8, 16, 16), torch.randn(1, 8, 16, 16)
    hidden = random_mask(1, 8, 0.5)
    cells = masking.cells(hidden, 16, 16)
    assert cells.float().mean() == 0.5
    torch.testing.assert_close(masking(torch.where(cells, other, x), hidden), masking(x, hidden))
    torch.testing.assert_close(masking(x, hidden)[~cells], masking(x)[~cells])


def test_the_tokeniser_is_a_convolution_whose_stride_is_its_kernel():
    masking = PatchMasking(8, patch=4, width=5, places=(2, 3))
    x = torch.randn(1, 8, 8, 12)
    kernel = masking.embed.weight.view(5, 1, 4, 4, 4)
    tokens = F.conv3d(x[:, None], kernel, masking.embed.bias, stride=4)[0]
    torch.testing.assert_close(masking.embed(masking._patches(x))[0], tokens.permute(1, 2, 3, 0))


def test_patches_go_back_to_where_they_came_from():
    masking = PatchMasking(6, patch=4, width=5)  # the last patch is filled with zeros
    x = torch.randn(2, 6, 8, 12)
    torch.testing.assert_close(masking._fields(masking._patches(x)), x)


def test_codes_for_place_fit_any_grid():
    masking = PatchMasking(4, patch=8, width=16, places=(4, 3))
    assert masking._places(4, 3) is masking.place_code
    with torch.no_grad():
        masking.place_code[..., 0] = torch.arange(4.0)[:, None]  # how far down a patch lies
    torch.testing.assert_close(masking._places(8, 6)[1:-1, 2, 0], torch.arange(0.25, 3, 0.5))
    assert masking(torch.randn(1, 4, 64, 48)).shape == (1, 4, 64, 48)


def test_a_grid_without_whole_patches_is_refused():
    with pytest.raises(ValueError, match="grid of 20 x 16 cells has no whole patches of 16"):
        PatchMasking(4, width=8)(torch.zeros(1, 4, 20, 16))
