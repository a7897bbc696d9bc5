"""The recurrent cells and their blocks against the plain reading of their formulas, and cases worked by hand."""

import pytest
import torch
from reference_recurrent import plain, plain_attention, read_displaced
from rounding import assert_close
from torch import nn

from xnowcast.nn import local_attention as attention
from xnowcast.nn.discriminator import Discriminator
from xnowcast.nn.joint_convolution import JointConvolution
from xnowcast.nn.losses import gradient_difference_loss, pixel_loss
from xnowcast.nn.recurrent import CELLS, MIM, ConvLSTM, MotionRNN, PrecipLSTM, PredRNNPlusPlus, TrajGRU
from xnowcast.nn.recurrent.cell import gated, updated
from xnowcast.nn.warp import warp

WITH_MEMORY = [name for name in CELLS if name not in ("convlstm", "trajgru", "mk-lstm")]
each_cell = pytest.mark.parametrize("name", CELLS)

pytestmark = pytest.mark.usefixtures("one_thread")


def made(name, width=8, **options):
    if name == "preciplstm":
        options = {"window": 5} | options
    return CELLS[name](width, **options)


def run(cell, inputs, belows=None):
    """Outputs of a sequence (t, b, c, y, x), the memory of each step going to the next."""
    state = memory = None
    shown = []
    for t, x in enumerate(inputs):
        h, state, memory = cell(x, state, memory, below=None if belows is None else belows[t])
        shown.append(h)
    return torch.stack(shown), memory


# ---------------------------------------------------------------- cells


@each_cell
@pytest.mark.parametrize("recorded", [True, False], ids=["with gradient", "without gradient"])
def test_every_cell_of_a_stack_is_the_plain_reading_of_its_formulas(name, recorded):
    x, below = torch.randn(2, 3, 2, 8, 8, 12)
    options = {"window": 5} if name == "preciplstm" else {}
    for cell in CELLS[name].stack(8, 3, **options):
        with torch.set_grad_enabled(recorded):
            ours, memory = run(cell, x, below)
        with torch.no_grad():
            theirs, plain_memory = run(plain(cell), x, below)
        assert_close(ours, theirs)
        assert (memory is None) == (plain_memory is None)
        if memory is not None:
            assert_close(memory, plain_memory)


def test_a_convlstm_step_worked_by_hand():
    """One channel, all weights zero but the biases: i, f, g, o are the same number everywhere."""
    cell = ConvLSTM(1)
    nn.init.zeros_(cell.gates.weight)
    with torch.no_grad():
        cell.gates.bias.copy_(torch.tensor([[0.3, 0.1, 0.4, 0.2], [0.2, 0.4, 0.1, 0.3]]))  # sum 0.5 for all
        c = torch.full((1, 1, 3, 3), 2.0)
        h, (_, new), _ = cell(torch.zeros(1, 1, 3, 3), (torch.zeros(1, 1, 3, 3), c))
    sigmoid, tanh = 0.6224593, 0.4621172  # of 0.5
    torch.testing.assert_close(new, torch.full_like(c, sigmoid * 2 + sigmoid * tanh))
    torch.testing.assert_close(h, sigmoid * torch.tanh(new))


@each_cell
def test_a_state_that_is_not_there_is_zero(name):
    cell = made(name)
    x = torch.randn(1, 8, 8, 8)
    _, state, memory = cell(x)
    zeros = tuple(None if s is None else torch.zeros_like(s) for s in state)
    bare = cell(x)[0]
    given = cell(x, zeros, None if memory is None else torch.zeros_like(memory))[0]
    assert_close(bare, given)


@each_cell
def test_samples_of_a_batch_do_not_mix(name):
    cell = made(name)
    x = torch.randn(4, 3, 8, 8, 12)
    with torch.no_grad():
        together, _ = run(cell, x)
        for sample in range(3):
            alone, _ = run(cell, x[:, sample : sample + 1])
            assert_close(together[:, sample : sample + 1], alone)


@each_cell
@pytest.mark.parametrize("shape", [(2, 2), (5, 9), (9, 5), (16, 8)])
def test_one_cell_works_on_every_grid(name, shape):
    cell = made(name)
    shown, memory = run(cell, torch.randn(2, 1, 8, *shape))
    assert shown.shape == (2, 1, 8, *shape) and torch.isfinite(shown).all()
    assert (memory is not None) == (name in WITH_MEMORY)


@each_cell
def test_without_gradient_no_state_or_input_is_overwritten(name):
    cell = made(name)
    x = torch.randn(1, 8, 8, 8)
    with torch.inference_mode():
        _, state, memory = cell(x)
        kept = [s.clone() for s in (x, *state, memory) if s is not None]
        cell(x, state, memory)
        for before, after in zip(kept, [s for s in (x, *state, memory) if s is not None], strict=True):
            assert torch.equal(before, after)


@each_cell
@pytest.mark.parametrize("how", ["converted", "autocast"])
def test_bfloat16_comes_out_where_it_goes_in(name, how):
    cell = made(name)
    x = torch.randn(2, 1, 8, 8, 8)
    with torch.no_grad():
        exact, _ = run(cell, x)
        if how == "converted":
            rough, _ = run(cell.to(torch.bfloat16), x.bfloat16())
        else:
            with torch.autocast("cpu", torch.bfloat16):
                rough, _ = run(cell, x)
    assert how == "autocast" or rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().max() < 0.1


@each_cell
def test_gradients_are_those_of_finite_differences(name):
    """In double precision, through two steps."""
    cell = made(name, width=4).double()
    x = torch.randn(2, 1, 4, 4, 4, dtype=torch.double, requires_grad=True)
    direction = torch.randn_like(x)
    (run(cell, x)[0].square().sum()).backward()
    step = 1e-4
    with torch.no_grad():
        up, down = (run(cell, x + sign * step * direction)[0].square().sum() for sign in (1, -1))
    # maps are read at displaced positions in float32
    tolerance = 1e-3 if name in ("trajgru", "motionrnn") else 1e-6
    expected = float((up - down) / (2 * step))
    assert float((x.grad * direction).sum()) == pytest.approx(expected, rel=tolerance, abs=tolerance)


@each_cell
def test_every_trained_parameter_is_reached_by_the_gradient(name):
    options = {"window": 5} if name == "preciplstm" else {}
    for cell in CELLS[name].stack(8, 3, **options):
        shown, memory = run(cell, torch.randn(3, 1, 8, 8, 8))
        (shown.sum() + (0 if memory is None else memory.sum())).backward()
        for parameter, tensor in cell.named_parameters():
            assert tensor.requires_grad != parameter.startswith(("idle", "cell.idle")), parameter
            assert not tensor.requires_grad or tensor.grad.abs().sum() > 0, parameter


def test_weights_that_nothing_reads_are_not_trained_and_may_be_left_out():
    for kind in (MIM, MotionRNN, PredRNNPlusPlus):
        for full, lean in zip(kind.stack(8, 3), kind.stack(8, 3, lean=True), strict=True):
            trained = sum(p.numel() for p in full.parameters() if p.requires_grad)
            assert trained == sum(p.numel() for p in lean.parameters())
            idle = {k: v for k, v in full.state_dict().items() if "idle" in k}
            lean.load_state_dict({k: v for k, v in full.state_dict().items() if k not in idle})
            x = torch.randn(2, 1, 8, 8, 8)
            assert torch.equal(run(full, x)[0], run(lean, x)[0])


def test_only_the_second_cell_of_predrnn_plus_plus_has_the_highway():
    assert [hasattr(c, "highway") for c in PredRNNPlusPlus.stack(4, 4)] == [False, True, False, False]


def test_the_last_motionrnn_cell_is_one_of_mim_and_only_the_first_sees_no_change():
    cells = MotionRNN.stack(4, 4)
    assert [hasattr(c, "motion") for c in cells] == [True, True, True, False]
    assert [c.cell.first for c in cells] == [True, False, False, False]
    x, below = torch.randn(2, 3, 1, 4, 8, 8)
    assert torch.equal(run(cells[-1], x, below)[0], run(cells[-1].cell, x, below)[0])


@pytest.mark.parametrize("kind", [MIM, MotionRNN])
def test_what_the_input_is_compared_with_is_a_choice(kind):
    torch.manual_seed(1)
    below, own = kind(8, difference="below"), kind(8, difference="own")
    own.load_state_dict(below.state_dict())
    x, other = torch.randn(2, 3, 1, 8, 8, 8)
    assert torch.equal(run(below, x, x)[0], run(own, x)[0])
    assert torch.equal(run(own, x, other)[0], run(own, x)[0])
    assert not torch.equal(run(below, x, other)[0], run(below, x, x)[0])


def test_a_still_input_gives_preciplstm_no_change_to_see():
    cell = PrecipLSTM(4, window=3)
    x = torch.randn(1, 4, 6, 6)
    _, state, memory = cell(x)
    assert torch.equal(state[-1], x)
    changed = cell(x, (*state[:-1], torch.randn_like(x)), memory)[0]
    assert not torch.equal(changed, cell(x, state, memory)[0])


def test_bad_options_of_cells_are_refused():
    with pytest.raises(ValueError, match=r"kernel is 4 cells wide: choose an odd width"):
        ConvLSTM(4, kernel=4)
    with pytest.raises(ValueError, match=r"difference is 'above': choose one of below, own"):
        MIM(4, difference="above")
    with pytest.raises(ValueError, match=r"width is 6: MotionRNN quarters it"):
        MotionRNN(6)
    with pytest.raises(ValueError, match=r"window is 30 cells wide: it needs a middle"):
        PrecipLSTM(4, window=30)


# ---------------------------------------------------------------- gates


def test_updates_in_place_equal_updates_with_gradient():
    gates, memory = torch.randn(2, 12, 5, 5), torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        fast = updated(gates.clone(), memory), updated(gates.clone(), None), gated(gates.clone()[:, :4], memory)
    slow = updated(gates, memory), updated(gates, None), gated(gates[:, :4], memory)
    for a, b in zip(fast, slow, strict=True):
        assert_close(a, b)
    assert_close(slow[1], updated(gates, torch.zeros_like(memory)))


@pytest.mark.parametrize("separate", [True, False])
def test_a_joint_convolution_is_initialised_as_its_parts(separate):
    joint = JointConvolution((4, 12), 64, 3, separate=separate)
    fans = (4 * 9, 12 * 9) if separate else (16 * 9,) * 2
    for weight, fan in zip(joint.weight.split((4, 12), dim=1), fans, strict=True):
        assert 0.9 * fan**-0.5 < weight.detach().abs().max().item() <= fan**-0.5
    assert joint.bias.shape == ((2, 64) if separate else (1, 64))


# ---------------------------------------------------------------- warp


def test_no_displacement_changes_nothing():
    for shape in ((7, 9), (32, 33), (160, 160), (1, 1), (2, 5), (512, 3)):
        field = torch.randn(2, 3, *shape)
        read = warp(field, torch.zeros(2, 4, 2, *shape))
        assert torch.equal(read, field.unsqueeze(2).expand_as(read))


def test_whole_displacements_shift_and_outside_is_zero():
    field = torch.arange(1.0, 13.0).reshape(1, 1, 3, 4)
    flow = torch.zeros(1, 2, 2, 3, 4)
    flow[:, 0, 0] = 1.0  # read one row further down
    flow[:, 1, 1] = -1.0  # read one column to the left
    down, left = warp(field, flow)[0, 0]
    torch.testing.assert_close(down, torch.tensor([[5.0, 6, 7, 8], [9, 10, 11, 12], [0, 0, 0, 0]]))
    torch.testing.assert_close(left, torch.tensor([[0.0, 1, 2, 3], [0, 5, 6, 7], [0, 9, 10, 11]]))


def test_warp_equals_bilinear_reading_by_hand():
    field, flow = torch.randn(2, 3, 8, 11), 3 * torch.randn(2, 4, 2, 8, 11)
    read = warp(field, flow)
    for n in range(4):
        expected = read_displaced(field, flow[:, n, 0], flow[:, n, 1])
        assert_close(read[:, :, n], expected)


def test_stretched_positions_by_hand():
    """Of four cells, 0, 1, 2 and 3 are read at -1/2, 5/6, 13/6 and 7/2; beyond the edge is 0."""
    field = torch.tensor([6.0, 12, 18, 24]).expand(1, 1, 4, 4)
    flow = torch.zeros(1, 1, 2, 4, 4)
    inner = warp(field, flow, stretched=True)[0, 0, 0, 1]
    assert_close(inner, torch.tensor([3.0, 11, 19, 12]))
    assert_close(warp(field, flow, stretched=True)[0, 0, 0, 0], inner / 2)  # half of it lies beyond the edge


def test_positions_are_exact_in_bfloat16():
    field = torch.randint(0, 100, (1, 1, 8, 300)).bfloat16()  # exact in bfloat16
    assert torch.equal(warp(field, torch.zeros(1, 1, 2, 8, 300).bfloat16())[:, :, 0], field)


def test_a_flow_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"flow has shape \(1, 2, 8, 8\) and field \(1, 3, 8, 8\)"):
        warp(torch.zeros(1, 3, 8, 8), torch.zeros(1, 2, 8, 8))


def test_links_of_trajgru_follow_their_flow():
    """With a constant flow of one cell along x, the candidate sees H of one cell before."""
    cell = TrajGRU(1, links=1)
    for parameter in cell.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        cell.flow.bias.copy_(torch.tensor([0.0, 1.0]))
        cell.hidden.weight[2] = 1.0  # h~ = r.h_warped with r = z = 1/2
    h = torch.zeros(1, 1, 4, 4)
    h[..., 1, 1] = 8.0
    new = cell(torch.zeros_like(h), (h,))[0][0, 0].detach()
    expected = torch.zeros(4, 4)
    expected[1, 1], expected[1, 2] = 4.0, 2.0  # z.H stays, (1 - z).h~ moved on
    assert_close(new, expected)


def test_only_the_published_motion_mixes_the_samples_of_a_batch():
    x = torch.randn(2, 2, 8, 8, 8)
    for published in (False, True):
        torch.manual_seed(1)
        cell = MotionRNN(8, published=published)
        together, alone = run(cell, x)[0][:, :1], run(cell, x[:, :1])[0]
        assert torch.allclose(together, alone, atol=1e-5) != published


# ---------------------------------------------------------------- local attention


@pytest.mark.parametrize(("window", "shape"), [(1, (5, 5)), (3, (8, 16)), (5, (19, 37)), (7, (6, 6)), (31, (20, 24))])
def test_local_attention_is_that_of_every_offset_in_turn(window, shape):
    q, k, v = torch.randn(3, 2, 4, *shape)
    ours = attention.local_attention(q, k, v, window)
    assert_close(ours, plain_attention(q, k, v, window))


def test_blocks_of_any_size_give_the_same(monkeypatch):
    q, k, v = torch.randn(3, 1, 4, 21, 23)
    one = attention.local_attention(q, k, v, 9)
    for block in ((1, 1), (5, 7), (64, 64)):
        monkeypatch.setattr(attention, "BLOCKS", {"cpu": block})
        assert_close(attention.local_attention(q, k, v, 9), one)


def test_keys_outside_the_window_and_the_map_have_no_weight():
    q, k = torch.zeros(2, 1, 1, 9, 9)
    value = torch.zeros(1, 1, 9, 9)
    value[..., 4, 4] = 9.0
    seen = attention.local_attention(q, k, value, 3)[0, 0]
    expected = torch.zeros(9, 9)
    expected[3:6, 3:6] = 1.0  # the mean over 3 x 3 equal weights
    torch.testing.assert_close(seen, expected)
    corner = attention.local_attention(q, k, torch.ones(1, 1, 9, 9), 3)
    torch.testing.assert_close(corner, torch.ones_like(corner))  # a zero from outside would lower the corners


def test_keys_beyond_the_map_count_where_the_published_code_counts_them(monkeypatch):
    q, k, v = torch.randn(3, 2, 4, 9, 13)
    padded = [torch.nn.functional.pad(m, (2,) * 4) for m in (q, k, v)]
    expected = plain_attention(*padded, 5)[..., 2:-2, 2:-2]  # there the edge is further away than the window reaches
    assert_close(attention.local_attention(q, k, v, 5, beyond=True), expected)
    monkeypatch.setattr(attention, "BLOCKS", {"cpu": (4, 5)})
    assert_close(attention.local_attention(q, k, v, 5, beyond=True), expected)


def test_memory_does_not_grow_with_cells_times_window():
    """Unfolded, the keys and values of 160 x 160 cells would be 2 x 961 x 24 x 25,600 numbers, 4.7 GB."""
    largest = 0

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else (result,):
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.untyped_storage().nbytes())
            return result

    q = torch.zeros(1, 24, 160, 160)
    with Sizes(), torch.no_grad():
        attention.local_attention(q, q, q, 31)
    assert largest <= 4 * q.nbytes


def test_attention_recomputed_for_the_gradient_has_the_same_gradient():
    module = attention.LocalAttention(4, window=5)
    x = torch.randn(1, 4, 9, 9, requires_grad=True)
    module(x).square().sum().backward()
    recomputed, x.grad = x.grad, None
    q, k, v = module.project(x).chunk(3, dim=1)
    attention.local_attention(q, k, v, 5).square().sum().backward()
    torch.testing.assert_close(recomputed, x.grad)


# ---------------------------------------------------------------- losses and adversary


def test_cells_that_were_not_measured_do_not_count():
    truth, forecast = torch.rand(2, 2, 3, 1, 8, 8)
    observed = torch.rand(2, 3, 1, 8, 8) > 0.3
    elsewhere = torch.where(observed, forecast, 99.0)
    for loss in (pixel_loss, gradient_difference_loss):
        torch.testing.assert_close(loss(forecast, truth, observed), loss(elsewhere, truth, observed))
        assert float(loss(truth, truth, observed)) == 0
        assert float(loss(forecast, truth, torch.zeros_like(observed))) == 0


def test_the_gradient_difference_worked_by_hand():
    """|dx| of the truth 1, 0 and |dy| 0, 1, 1 in a 2 x 3 map; the forecast is flat."""
    truth = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    everywhere = torch.ones(2, 3, dtype=torch.bool)
    assert float(gradient_difference_loss(torch.zeros(2, 3), truth, everywhere)) == pytest.approx(
        (1 + 0 + 0 + 1 + 1) / 6
    )
    assert float(gradient_difference_loss(-truth, truth, everywhere)) == 0  # steepness has no sign


WIDTHS = [((16, 20, 20), 10, 11_701), ((16, 20, 32), 10, 16_873), ((16, 32, 32), 16, 26_881)]


@pytest.mark.parametrize(("widths", "hidden", "parameters"), WIDTHS)
def test_the_discriminators_have_the_sizes_of_tables_one_and_two(widths, hidden, parameters):
    judge = Discriminator((160, 160), widths, hidden)
    assert sum(p.numel() for p in judge.parameters()) == parameters
    assert judge.decide[0].in_features in (500, 800)
    assert judge(torch.rand(3, 1, 160, 160)).shape == (3,)


def test_a_discriminator_reads_other_sizes():
    judge = Discriminator((36, 70))
    assert judge(torch.rand(2, 1, 36, 70)).shape == (2,)
    with pytest.raises(ValueError, match=r"32 x 32 cells or more, and these have 24 x 64"):
        Discriminator((24, 64))


def test_the_adversary_learns_to_tell_and_its_loss_is_finite_when_it_is_sure():
    judge = Discriminator((32, 32))
    real, false = torch.ones(4, 1, 32, 32), torch.zeros(4, 1, 32, 32, requires_grad=True)
    optimiser = torch.optim.Adam(judge.parameters(), 1e-2)
    for _ in range(30):
        optimiser.zero_grad()
        loss = judge.loss(real, false)
        loss.backward()
        optimiser.step()
    assert false.grad is None
    assert judge.loss(real, false).item() < 0.1
    assert torch.isfinite(judge.loss(1e6 * real, 1e6 * false))
