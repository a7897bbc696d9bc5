"""Windows and the attention within them: against loops over cells, in two and in three dims."""

from itertools import product

import pytest
import torch
from rounding import assert_close

from xnowcast.nn.window_attention import WindowAttention, WindowLayers, Windows, relative_positions

CASES = [((4, 6), (2, 3)), ((2, 4, 6), (2, 2, 3))]


def by_loops(attention, windows, grid):
    """The answer of each cell: what it attends to are the cells that share its window once the grid is rolled back."""
    sizes = grid.shape[1:-1]
    q, k, v = attention.qkv(grid).unflatten(-1, (3, attention.heads, -1)).unbind(-3)
    table = attention.bias.reshape(*(2 * one - 1 for one in windows.size), attention.heads)

    def window(place):  # and the part of it that was not rolled over the end
        rolled = [(at - by) % all_ for at, by, all_ in zip(place, windows.shift, sizes, strict=True)]
        over = [at < by for at, by in zip(place, windows.shift, strict=True)]
        return [at // one for at, one in zip(rolled, windows.size, strict=True)], over

    answer = torch.zeros_like(q)
    for here in product(*map(range, sizes)):
        others = [there for there in product(*map(range, sizes)) if window(there) == window(here)]
        apart = [tuple(h - t + one - 1 for h, t, one in zip(here, o, windows.size, strict=True)) for o in others]
        bias = torch.stack([table[distance] for distance in apart])
        keys, values = (torch.stack([part[(slice(None), *o)] for o in others]) for part in (k, v))
        scores = (q[(slice(None), *here)] * keys).sum(-1) / q.shape[-1] ** 0.5 + bias[:, None]
        answer[(slice(None), *here)] = (scores.softmax(0)[..., None] * values).sum(0)
    return attention.out(answer.flatten(-2))


@torch.no_grad()
@pytest.mark.parametrize("kind", [Windows.plain, Windows.shifted])
@pytest.mark.parametrize(("sizes", "window"), CASES)
def test_attention_is_that_of_loops_over_the_cells(sizes, window, kind):
    torch.manual_seed(0)
    windows, attention = kind(window), WindowAttention(6, window, 2)
    attention.bias.normal_()
    grid = torch.randn(2, *sizes, 6)
    said = windows.joined(attention(windows.cut(grid), windows.mask(sizes)), sizes)
    assert_close(said, by_loops(attention, windows, grid))


@pytest.mark.parametrize(("sizes", "window"), CASES)
def test_windows_come_back(sizes, window):
    windows, grid = Windows.shifted(window), torch.randn(2, *sizes, 3)
    cut = windows.cut(grid)
    cells = torch.tensor(window).prod()
    assert cut.shape == (2, torch.tensor(sizes).prod() // cells, cells, 3)
    assert windows.joined(cut, sizes).equal(grid)


def test_each_distance_has_a_number_of_its_own():
    numbers = relative_positions((2, 3, 2))
    assert numbers.unique().tolist() == list(range(3 * 5 * 3))
    assert (numbers + numbers.mT == 2 * numbers[0, 0]).all(), "the other way round it is as far on the other side"


@torch.no_grad()
def test_cells_see_their_window_and_with_a_second_layer_others():
    torch.manual_seed(0)
    seen = []
    for depth in (1, 2):
        layers = WindowLayers(4, (4, 4), 2, hidden=8, drop_path=[0.0] * depth).eval()
        grid = torch.randn(1, 8, 8, 4)
        other = grid.clone()
        other[0, 3, 3, 0] += 1  # a norm would take away the same of all channels
        seen.append((layers(other) - layers(grid)).abs().amax(-1)[0] > 0)
    assert seen[0][:4, :4].all() and not seen[0][4:].any() and not seen[0][:, 4:].any()
    assert seen[1][:6, :6].all(), "the shifted window from 2 to 6 hands it on"
    assert not seen[1][6:].any() and not seen[1][:, 6:].any(), "and nothing comes round the end of the grid"


def test_what_will_not_do_is_refused():
    with pytest.raises(ValueError, match=r"windows of \(4, 4\) cells do not divide a grid of \(6, 8\)"):
        Windows.plain((4, 4)).cut(torch.zeros(1, 6, 8, 1))
    with pytest.raises(ValueError, match="3 heads do not divide a width of 8"):
        WindowAttention(8, (2, 2), 3)
