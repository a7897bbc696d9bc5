"""Cuboid attention against its definition, cell by cell; Earthformer's test compares it with the authors' numbers."""

import pytest
import torch

from xnowcast.nn.cuboid_attention import CuboidAttention, CuboidBlock, FrameCrossAttention
from xnowcast.nn.cuboids import PATTERNS, Cuboid

CUBOIDS = {
    "blocks": Cuboid((2, 2, 3)),
    "moved blocks": Cuboid((2, 2, 4), shift=(1, 1, 2)),
    "blocks of cells that lie apart": Cuboid((1, 2, 2), dilated=True),
    "blocks that do not divide the map": Cuboid((3, 2, 4)),
    "lines that are longer than the map": Cuboid((1, 1, 9)),
}
SHAPE = (4, 4, 6)
PLACES = [(t, y, x) for t in range(SHAPE[0]) for y in range(SHAPE[1]) for x in range(SHAPE[2])]


def block_of(cuboid, place):
    """Which block a cell belongs to, by the definition in the paper."""
    numbers = []
    for at, n, size, shift in zip(place, SHAPE, cuboid.size, cuboid.shift, strict=True):
        blocks = -(-n // size)
        moved = (at - shift) % (blocks * size)
        numbers.append(at % blocks if cuboid.dilated else (moved // size, at < shift))
    return numbers


def place_within(cuboid, place):
    """Where in its block a cell lies."""
    fitted = cuboid.on(SHAPE)
    if cuboid.dilated:
        return [at // -(-n // size) for at, n, size in zip(place, SHAPE, fitted.size, strict=True)]
    return [(at - shift) % size for at, shift, size in zip(place, fitted.shift, fitted.size, strict=True)]


def sees(cuboid):
    """Which cells attend to which, ``(query, key)``."""
    blocks = [block_of(cuboid, place) for place in PLACES]
    return torch.tensor([[one == other for other in blocks] for one in blocks])


def drawn(width=8, heads=2, **options):
    torch.manual_seed(0)
    layer = CuboidAttention(width, heads, **options).eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return layer, torch.randn(2, *SHAPE, width)


@pytest.mark.parametrize("kind", CUBOIDS)
def test_maps_come_back_from_their_cuboids(kind):
    cuboid = CUBOIDS[kind].on(SHAPE)
    whole = tuple(-(-n // size) * size for n, size in zip(SHAPE, cuboid.size, strict=True))
    x = torch.randn(2, *whole, 3)
    parts = cuboid.split(x)
    assert parts.shape[2] == cuboid.size[0] * cuboid.size[1] * cuboid.size[2]
    assert torch.equal(cuboid.join(parts, whole), x)


@pytest.mark.parametrize("kind", CUBOIDS)
@torch.no_grad()
def test_a_cell_attends_to_its_cuboid_and_to_the_vectors(kind):
    """With one head, a table that is read by the distance along each axis, and projections written out."""
    cuboid = CUBOIDS[kind]
    layer, x = drawn(heads=1, cuboid=cuboid, vectors="own", padding="ignore")
    vectors = torch.randn(2, 3, 8)
    cells = layer.norm(x).flatten(1, 3)
    q, k, v = layer.qkv(cells).chunk(3, dim=-1)
    scores = q @ k.mT / 8**0.5
    inside = torch.tensor([place_within(cuboid, place) for place in PLACES])
    dt, dy, dx = (inside[:, None] - inside + torch.tensor(cuboid.size) - 1).unbind(-1)
    _, ry, rx = (2 * size - 1 for size in cuboid.size)
    scores = scores + layer.bias[(dt * ry + dy) * rx + dx, 0]
    scores = scores.masked_fill(~sees(cuboid), -torch.inf)
    exchange, told = layer.exchange, layer.vector_norm(vectors)
    key, value = exchange.vector_key_value(told).chunk(2, dim=-1)
    to_vectors = exchange.cell_query(cells) @ key.mT / 8**0.5
    weights = torch.cat([scores, to_vectors], dim=-1).softmax(dim=-1)
    expected = layer.out(weights @ torch.cat([v, value], dim=1))
    said, said_to_vectors = layer(x, vectors)
    torch.testing.assert_close(said.flatten(1, 3), expected, atol=1e-4, rtol=1e-4)

    q, k, v = exchange.among(told).chunk(3, dim=-1)
    scores = torch.cat([exchange.vector_query(told) @ exchange.cell_key(cells).mT, q @ k.mT], dim=-1) / 8**0.5
    expected = layer.vector_out(scores.softmax(dim=-1) @ torch.cat([exchange.cell_value(cells), v], dim=1))
    torch.testing.assert_close(said_to_vectors, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_what_fills_a_map_up_counts_as_zeros_or_not_at_all():
    (ignoring, x), (counting, _) = (drawn(cuboid=Cuboid((1, 1, 4)), padding=one) for one in ("ignore", "zeros"))
    differs = (ignoring(x)[0] - counting(x)[0]).abs().amax((0, -1)) > 1e-6
    assert not differs[..., :4].any() and differs[..., 4:].all()  # two columns and two that are not there


@torch.no_grad()
def test_shared_projections_of_vectors_are_those_of_cells_and_one_more():
    layer, x = drawn(cuboid=Cuboid((1, 1, 6)), vectors="shared")
    vectors = torch.randn(2, 3, 8)
    own, _ = drawn(cuboid=Cuboid((1, 1, 6)), vectors="own")
    q, k, v = layer.qkv.weight.chunk(3)
    own.load_state_dict(
        {name: one for name, one in layer.state_dict().items() if "exchange" not in name}
        | {f"exchange.{name}.weight": one for name, one in (("cell_query", q), ("cell_key", k), ("cell_value", v))}
        | {"exchange.among.weight": layer.exchange.vector.weight}
        | {"exchange.vector_query.weight": layer.exchange.vector.weight[:8]}
        | {"exchange.vector_key_value.weight": layer.exchange.vector.weight[8:]}
    )
    for said, expected in zip(layer(x, vectors), own(x, vectors), strict=True):
        torch.testing.assert_close(said, expected)


@torch.no_grad()
def test_a_cell_looks_up_its_own_past_in_the_memory():
    torch.manual_seed(0)
    layer = FrameCrossAttention(8, 1, (5, 3)).eval()
    torch.nn.init.normal_(layer.bias)
    x, memory = torch.randn(1, 3, 2, 4, 8), torch.randn(1, 5, 2, 4, 8)
    q = layer.query(layer.norm(x[0, :, 1, 2]))
    k, v = layer.key_value(memory[0, :, 1, 2]).chunk(2, dim=-1)
    apart = torch.tensor([[to - of + 7 for of in range(5)] for to in range(3)])
    weights = (q @ k.mT / 8**0.5 + layer.bias[apart, 0]).softmax(dim=-1)
    torch.testing.assert_close(layer(x, memory)[0, :, 1, 2], layer.out(weights @ v))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_takes_a_map_of_any_shape_and_learns(pattern):
    torch.manual_seed(0)
    block = CuboidBlock(8, 2, PATTERNS[pattern]((3, 6, 7)), vectors="own", gated=True, vector_feed_forward=True)
    for shape in ((3, 6, 7), (2, 5, 3)):
        x, vectors = torch.randn(1, *shape, 8), torch.randn(1, 2, 8)
        said, told = block(x, vectors)
        assert said.shape == x.shape and told.shape == vectors.shape
        assert not torch.allclose(said, x) and not torch.allclose(told, vectors)
    (said.square().sum() + told.square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in block.parameters())


def test_dropout_is_for_training_alone():
    layer, x = drawn(cuboid=Cuboid((1, 1, 6)), dropout=0.5)
    assert torch.equal(layer(x)[0], layer(x)[0])
    layer.train()
    assert not torch.equal(layer(x)[0], layer(x)[0])
