"""Earthformer: its network is the authors' own (tests/golden.py), and grids of any size are forecast by it."""

import re
from ast import literal_eval
from dataclasses import replace

import pytest
import torch
from golden import _path, assert_equals, golden

import xnowcast
from xnowcast import models
from xnowcast.models import families, published
from xnowcast.models.base import TrainingBatch
from xnowcast.models.earthformer import EarthformerNetwork, Form

SEVIR = Form(input_frames=5, target_frames=4, grid=(48, 36), widths=(4, 8, 16), heads=2, vectors=3)
ALL_OPTIONS = Form(
    input_frames=5,
    target_frames=3,
    grid=(20, 36),
    channels=2,
    widths=(4, 8),
    factors=(1, 2),
    convolutions=(2, 1),
    encoder=(("swin-2x4", 2), ("axial", 1)),
    decoder=(("axial", 1), ("divided", 2)),
    heads=2,
    vectors=3,
    vector_projections="shared",
    vector_feed_forward=True,
    vectors_in_decoder=True,
    by_cell=True,
    positions_by_level=True,
    start="newest",
    first_self_attention=True,
    gated=True,
    padding="ignore",
    published=True,
)

# ---------------------------------------------------------------- the authors' numbers


def said_and_published(name, form):
    found = golden(name, "golden_zoo")
    network = EarthformerNetwork(form).eval()
    network.load_state_dict(published.earthformer(network, found.of("weights")))
    return network(found.tensors["input/x"].movedim(-1, 2)), found.tensors["output/y"].movedim(-1, 2)


@pytest.mark.parametrize(("name", "form"), [("earthformer", SEVIR), ("earthformer_all_options", ALL_OPTIONS)])
@torch.no_grad()
def test_the_network_is_that_of_the_authors(name, form):
    assert_equals(*said_and_published(name, form), tolerance=3e-5)


@torch.no_grad()
def test_the_authors_code_hides_other_cells_from_the_vectors_than_those_that_fill_up():
    said, theirs = said_and_published("earthformer_all_options", replace(ALL_OPTIONS, published=False))
    assert (said - theirs).abs().max() > 0.1


@pytest.mark.parametrize(("size", "parameters"), [("full", 8_659_677), ("sevir-lr", 1_505_069)])
def test_networks_have_as_many_parameters_as_the_published_ones(size, parameters):
    with torch.device("meta"):
        model = models.build("earthformer", size=size)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert (model.task.input_frames, model.training_frames) == {"full": (13, 25), "sevir-lr": (7, 13)}[size]


def test_the_full_network_takes_the_tensors_of_the_published_checkpoint():
    rows = re.findall(r"^(\S+)\t(\(.*?\))", _path("earthformer_facts.txt", "golden_zoo").read_text(), re.MULTILINE)
    assert len(rows) == 286
    record = families.find("earthformer")
    ((name, options),) = record.systems.items()
    with torch.device("meta"):
        tensors = {key: torch.empty(literal_eval(shape)) for key, shape in rows}
        model = models.conversion.filled(record, name, dict(options), tensors, "earthformer_sevir.pt")
        with pytest.raises(ValueError, match=r"positions\.tables\.y"):
            models.conversion.filled(record, name, {**options, "grid": 256}, tensors, "earthformer_sevir.pt")
        with pytest.raises(ValueError, match=r"no place for 'dec_more'"):
            models.conversion.filled(record, name, dict(options), tensors | {"dec_more": tensors["z_proj.bias"]}, "")
    assert model.task.quantity == "vil"


# ---------------------------------------------------------------- grids of any size


@pytest.fixture
def model():
    """Untrained, but with a last layer that says something everywhere."""
    torch.manual_seed(0)
    model = models.build("earthformer", size="tiny", grid=24).eval()
    torch.nn.init.normal_(model.network.out.weight, std=0.3)
    torch.nn.init.constant_(model.network.out.bias, 0.5)
    return model


@pytest.fixture
def frames():
    torch.manual_seed(1)
    return torch.rand(1, 4, 1, 50, 61)


def forecast(model, frames, steps=3):
    return model.forecast(frames, frames >= 0, steps)


def test_a_square_is_forecast_by_the_network_as_it_is(model, frames):
    square = frames[..., :24, :24]
    with torch.no_grad():
        expected = model.network(square)[:, :3].clamp(0, 1)
    assert torch.equal(forecast(model, square), expected) and expected.std() > 0.01


def test_a_smaller_grid_is_part_of_a_square_without_rain_beyond_it(model, frames):
    filled = torch.zeros(1, 4, 1, 24, 24)
    filled[..., :17, :20] = frames[..., :17, :20]
    assert torch.equal(forecast(model, frames[..., :17, :20]), forecast(model, filled)[..., :17, :20])


def test_a_larger_grid_is_forecast_in_squares_that_become_one_another_without_a_seam(model, frames):
    """Two squares share six columns, the outer ones of which count for nothing."""
    wide = frames[..., :24, :42]
    with torch.no_grad():
        said, first, second = (model.ahead(part) for part in (wide, wide[..., :24], wide[..., 18:]))
    assert torch.allclose(said[..., :19], first[..., :19]) and torch.allclose(said[..., 23:], second[..., 5:])
    between, apart = said[..., 18:24] - second[..., :6], first[..., 18:] - second[..., :6]
    share = (between * apart).sum((0, 1, 2, 3)) / apart.square().sum((0, 1, 2, 3))
    assert share.tolist() == pytest.approx([1.0, 0.875, 0.625, 0.375, 0.125, 0.0], abs=1e-4)


def test_squares_are_as_large_as_the_crops_of_the_training(model, frames):
    model.task = replace(model.task, crop=16)
    assert model.square == 16
    with torch.no_grad():
        expected = model.network(frames[..., :16, :16])[:, :3].clamp(0, 1)
    assert torch.equal(forecast(model, frames[..., :16, :16]), expected)
    assert forecast(model, frames).shape == (1, 3, 1, 50, 61)
    model.task = replace(model.task, crop=512)
    assert model.square == 24


def test_crops_that_it_has_no_places_for_are_refused(model):
    rain = torch.ones(1, 8, 1, 24, 32)
    with pytest.raises(ValueError, match="crops have 32 cells, and the network places for 24: build it with grid=32"):
        model.loss(TrainingBatch(rain, rain > 0), progress=0.0)
    with pytest.raises(ValueError, match="24 x 32 cells: the network is made for up to"):
        model.network(torch.rand(1, 4, 1, 24, 32))


# ---------------------------------------------------------------- what it learns


def blobs(count, frames, ny, nx, seed):
    """Rain in mm/h, ``(count, frames, 1, ny, nx)``: blobs that move by a cell in each frame, and grow."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(ny), torch.arange(nx), indexing="ij")
    fields = torch.zeros(count, frames, 1, ny, nx)
    for field in fields:
        for _ in range(max(2, ny * nx // 250)):
            cy, cx = (float(torch.rand((), generator=generator)) * n for n in (ny, nx))
            for k, frame in enumerate(field):
                frame += (3 + k) * torch.exp(-((y - cy) ** 2 + (x - cx - k) ** 2) / 12)
    return torch.where(fields > 0.1, fields, 0.0)


def squared_error(model, rain):
    with torch.no_grad():
        frames = model.transform(rain)
        known = model.task.input_frames
        return float((model.continued(frames[:, :known], frames.shape[1] - known) - frames[:, known:]).square().mean())


def crops_of(rain, seed):
    """A crop of 24 x 24 of each sequence."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 36, (len(rain), 2), generator=generator).tolist()
    return torch.stack([one[..., y : y + 24, x : x + 24] for one, (y, x) in zip(rain, corners, strict=True)])


def test_it_learns_to_forecast_and_forecasts_larger_grids_as_well_as_crops(one_thread):
    torch.manual_seed(0)
    model = models.build("earthformer", size="tiny", grid=24, input_frames=2, target_frames=2, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    rain, losses = blobs(6, 4, 60, 70, seed=0), []
    for step in range(50):
        batch = crops_of(rain, step)
        loss = model.loss(TrainingBatch(batch, batch >= 0), progress=0.0).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    model.eval()
    others = blobs(4, 4, 60, 70, seed=9)
    crops, large = squared_error(model, crops_of(others.repeat(4, 1, 1, 1, 1), 1)), squared_error(model, others)
    dry = float(model.transform(others)[:, 2:].square().mean())
    assert sum(losses[-8:]) < 0.5 * sum(losses[:8]) and crops < 0.5 * dry
    assert large < 1.1 * crops


def test_the_loss_is_the_squared_error_of_what_was_measured(model):
    model.eval()
    rain = blobs(1, 8, 24, 24, seed=3)
    batch = TrainingBatch(rain, rain >= 0)
    assert float(model.loss(batch, progress=0.0).total.detach()) == pytest.approx(squared_error(model, rain), rel=1e-5)


@pytest.mark.parametrize("pattern", ["axial", "local-dilated-4"])
def test_all_that_can_learn_does_but_how_the_last_layer_tells_the_vectors(pattern):
    torch.manual_seed(0)
    model = models.build("earthformer", size="tiny", pattern=pattern)
    rain = blobs(1, 8, 48, 48, seed=0)
    model.loss(TrainingBatch(rain, rain >= 0), progress=0.0).total.backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    last = model.network.encoder.levels[-1][-1].attentions[-1]
    told = "vector_query", "cell_key", "cell_value", "among"
    of_last = {id(p) for part in told for p in last.exchange.get_submodule(part).parameters()}
    of_last |= {id(p) for p in last.vector_out.parameters()}
    assert {id(p) for name, p in model.named_parameters() if name in idle} == of_last


@pytest.mark.parametrize(("option", "value"), [("dropout", 1.0), ("vectors", -1), ("grid", 4), ("pattern", "round")])
def test_options_that_will_not_do_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} is"):
        models.declare("earthformer", **{option: value})


def test_untrained_in_the_layer_it_is_extrapolation():
    torch.manual_seed(0)
    layer = models.build("lagrangian", network="earthformer", size="tiny").eval()
    rain = blobs(1, 4, 40, 44, seed=5)
    said = layer.forecast(layer.transform(rain), rain >= 0, steps=3)
    expected = models.build("extrapolation", input_frames=4).forecast(rain, rain >= 0, steps=3)
    inside = expected.isfinite() & (expected > 0.2)
    torch.testing.assert_close(layer.transform.inverse(said)[inside], expected[inside], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("system", ["earthformer", "lagrangian"])
def test_it_is_trained_and_forecasts_alone_and_in_the_layer(system, tmp_path):
    inside = {"network": "earthformer"} if system == "lagrangian" else {}
    radar = xnowcast.datasets.synthetic_radar(frames=16, shape=(40, 44))
    settings = {"out": tmp_path, "steps": 3, "batch_size": 2, "crop": 32, "validation": 0, "progress": False}
    xnowcast.train(system, radar, size="tiny", target_frames=2, **inside, **settings)
    path = str(tmp_path / "model.safetensors")
    assert xnowcast.load(path).task.crop == 32
    rain = radar.nowcast.forecast(path, steps=4).rainfall_rate
    assert rain.sizes["lead_time"] == 4 and rain.notnull().mean() > 0.5
