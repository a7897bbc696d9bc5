"""SwinIR and Swin-IR-Diff: the network is the authors' own (tests/golden.py), and what is around it."""

import re

import pytest
import torch
from golden import _path, assert_equals, golden
from rounding import assert_close
from torch.nn import functional as F

import xnowcast
from xnowcast import models
from xnowcast.models import published, weights
from xnowcast.models.base import TrainingBatch
from xnowcast.models.downscaler import coarsened
from xnowcast.models.published import swin
from xnowcast.nn import swin_ir
from xnowcast.nn.noise import Noise, member_generator
from xnowcast.nn.swin_ir import CLASSICAL, LIGHT, Shape, SwinIRNetwork, reflected, shape_of
from xnowcast.nn.video_unet import Denoiser
from xnowcast.nn.video_unet import Shape as UNet

pytestmark = pytest.mark.usefixtures("one_thread")

UPSAMPLING = {"pixelshuffle": "classical", "pixelshuffledirect": "direct", "": "classical"}
MEAN = torch.tensor(swin.MEAN)[:, None, None]


def count(network):
    return sum(one.numel() for one in network.parameters())


def tiny(name="swin-ir", **options):
    torch.manual_seed(0)
    few = {"sampling_steps": 2} if name == "swin-ir-diff" else {}
    return models.build(name, **({"size": "tiny", "factor": 4} | few | options)).eval()


def coarse(b=1, frames=3, shape=(8, 6), channels=1):
    values = 2 * torch.rand(b, frames, channels, *shape, generator=torch.Generator().manual_seed(1)) - 1
    return values, torch.ones(b, frames, 1, *shape, dtype=torch.bool)


def noise(members, frames=3):
    return Noise([member_generator(0, time, member) for member in members for time in range(frames)])


def batch(b=2, size=16):
    rain = 5 * torch.rand(b, 1, 1, size, size, generator=torch.Generator().manual_seed(2))
    return TrainingBatch(rain, torch.ones_like(rain, dtype=torch.bool))


# ---------------------------------------------------------------- the authors' numbers


def told(found):
    """The shape of a golden file's network."""
    given = found.about["constructor"]
    sizes = given["embed_dim"], tuple(given["depths"]), tuple(given["num_heads"]), given["window_size"]
    return given, Shape(*sizes, int(given["resi_connection"][0]), UPSAMPLING[given["upsampler"]])


@torch.inference_mode()
@pytest.mark.parametrize("name", ["swinir_x4", "swinir_x8", "swinir_light_x2", "swinir_x1"])
def test_the_network_is_the_published_one(name):
    found = golden(name, "golden_zoo")
    given, shape = told(found)
    colours = given["in_chans"]
    network = SwinIRNetwork(colours, shape, factor=given["upscale"], out=colours).eval()
    assert str(count(network)) in str(found.about["parameters_small"])
    network.load_state_dict(published.swin_ir(network, found.of("weights")))
    x, mean, scale = found.tensors["input/x"], MEAN if colours == 3 else 0.0, given["img_range"]
    assert_equals(network((x - mean) * scale) / scale + mean, found.tensors["output/y"])


@torch.inference_mode()
def test_one_field_is_a_grey_image(monkeypatch):
    found = golden("swinir_light_x2", "golden_zoo")
    _, shape = told(found)
    grey, colours = (SwinIRNetwork(n, shape, factor=2, out=n).eval() for n in (1, 3))
    colours.load_state_dict(published.swin_ir(colours, found.of("weights")))
    x = found.tensors["input/x"].mean(1, keepdim=True)
    for mean, tolerance in (((0.4, 0.4, 0.4), 1e-5), (swin.MEAN, 0.02)):  # the rim, where means of colours differ
        monkeypatch.setattr(swin, "MEAN", mean)
        grey.load_state_dict(published.swin_ir(grey, found.of("weights")))
        middle = torch.tensor(mean)[:, None, None]
        expected = (colours(x - middle) + middle).mean(1, keepdim=True)
        assert_equals(grey(x), expected, tolerance)


@pytest.mark.parametrize(
    ("channels", "shape", "factor", "parameters"),
    [
        (3, CLASSICAL, 4, 11_900_199),
        (3, CLASSICAL, 8, 12_047_911),
        (1, CLASSICAL, 4, 11_895_805),
        (3, LIGHT, 4, 929_628),
    ],
)
def test_networks_have_as_many_parameters_as_the_published_ones(channels, shape, factor, parameters):
    with torch.device("meta"):
        assert count(SwinIRNetwork(channels, shape, factor=factor, out=channels)) == parameters


@pytest.mark.parametrize(
    ("size", "factor", "parameters"),
    [
        *(("full", 8, 12_043_517), ("full", 3, 11_932_733), ("light", 8, 937_204), ("large", 4, 28_007_585)),
        ("tiny", 4, 11_828),
    ],
)
def test_sizes_have_the_parameters_that_are_documented(size, factor, parameters):
    with torch.device("meta"):
        assert count(models.build("swin-ir", size=size, factor=factor)) == parameters


def test_the_denoiser_is_that_of_stvd_without_time_and_maps():
    with torch.device("meta"):
        model = models.build("swin-ir-diff")
        of_stvd = Denoiser(1, UNet())
    assert count(model.first_stage) == 12_043_517 and count(model.denoiser) == DENOISER
    assert not [name for name, _ in model.denoiser.named_parameters() if "temporal" in name]
    # a block that reads maps has twice the filters in its first convolution, and a shortcut for both
    lost = sum(p.numel() for name, p in of_stvd.named_parameters() if "temporal" in name)
    widths = [w for w in UNet().widths[:-1] for _ in range(2)] + [UNet().widths[-1]] * 2
    lost += sum(9 * w * w + 2 * w * w + w for w in widths)
    assert count(of_stvd) - lost == DENOISER


DENOISER = 18_755_073


def published_table():
    """Names and shapes of the published classical network for a factor of 4."""
    table = _path("swinir_facts.txt", "golden_zoo").read_text().split("---- Key table")[1].splitlines()[1:]
    rows = (line.split("\t") for line in table if line.strip())
    return {name: tuple(map(int, re.findall(r"\d+", shape))) for name, shape, *_ in rows}


@pytest.mark.parametrize("channels", [1, 3])
def test_the_full_network_takes_the_tensors_of_a_checkpoint(channels):
    with torch.device("meta"):
        tensors = {name: torch.empty(shape) for name, shape in published_table().items()}
        network = SwinIRNetwork(channels, CLASSICAL, factor=4, out=channels)
        state = published.swin_ir(network, tensors)
    assert len(tensors) == 550
    assert {n: own.shape for n, own in state.items()} == {n: own.shape for n, own in network.state_dict().items()}


def test_real_world_checkpoints_find_their_places_and_others_are_refused():
    steps = ["conv_before_upsample.0", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
    names = {name for name in published_table() if not name.startswith(("conv_before", "upsample", "conv_last"))}
    with torch.device("meta"):
        network = SwinIRNetwork(3, shape_of("full", "nearest"), factor=4, out=3)
        tensors = {name: torch.empty(published_table()[name]) for name in names}
        for name, width_in, out in zip(steps, (180, 64, 64, 64, 64), (64, 64, 64, 64, 3), strict=True):
            tensors |= {f"{name}.weight": torch.empty(out, width_in, 3, 3), f"{name}.bias": torch.empty(out)}
        network.load_state_dict(published.swin_ir(network, tensors))
        with pytest.raises(ValueError, match=r"no place for 'conv_extra\.weight'"):
            published.swin_ir(network, tensors | {"conv_extra.weight": torch.empty(1)})
        del tensors["conv_hr.bias"]
        with pytest.raises(ValueError, match=r"there is none for 'head\.8\.bias'"):
            published.swin_ir(network, tensors)


@torch.inference_mode()
def test_a_checkpoint_becomes_a_file_of_weights(tmp_path, monkeypatch):
    found = golden("swinir_x4", "golden_zoo")
    monkeypatch.setitem(swin_ir.SIZES, "tiny", told(found)[1])
    torch.save({"params": found.of("weights")}, tmp_path / "theirs.pth")
    path = tmp_path / "ours.safetensors"
    with pytest.raises(ValueError, match="does not tell factor"):
        models.convert("swin-ir-classical", tmp_path / "theirs.pth", path)
    card = models.convert("swin-ir-classical", tmp_path / "theirs.pth", path, size="tiny", factor=4)
    assert "grey image" in card.description and "Apache-2.0" in card.licence and "not rain" in card.training_data
    x = found.tensors["input/x"]
    said = weights.load(path).downscale((2 * x - 1)[:, None], x[:, None] >= 0, 4)[:, 0]
    assert_close((said + 1) / 2, found.tensors["output/y"].clamp(0, 1))


# ---------------------------------------------------------------- the grid


def test_a_mirror_at_the_rim_is_that_of_torch_and_beyond_what_torch_can():
    x = torch.rand(1, 1, 6, 9)
    assert reflected(x, 8).equal(F.pad(x, (0, 7, 0, 2), mode="reflect"))
    assert reflected(x, 3).equal(x)
    assert reflected(torch.tensor([[1, 2]]), 8)[3].tolist() == [1, 2, 1, 2, 1, 2, 1, 2]
    assert reflected(torch.tensor([[5]]), 3).equal(torch.full((3, 3), 5))


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
@pytest.mark.parametrize("upsampling", ["classical", "direct", "nearest"])
def test_each_way_to_the_fine_grid_and_each_factor(factor, upsampling):
    model = tiny(factor=factor, upsampling=upsampling)
    frames, observed = coarse(frames=1, shape=(3, 5))
    fine = model.downscale(frames, observed, factor)
    assert fine.shape == (1, 1, 1, 3 * factor, 5 * factor) and fine.isfinite().all()


@pytest.mark.parametrize("name", ["swin-ir", "swin-ir-diff"])
def test_frames_are_refined_one_by_one(name):
    model, (frames, observed) = tiny(name), coarse(2)
    sources = [noise([0, 0]), noise([0], 1)] if name == "swin-ir-diff" else [None, None]
    together = model.downscale(frames, observed, 4, noise=sources[0])
    alone = model.downscale(frames[1:, :1], observed[1:, :1], 4, noise=sources[1])
    assert_close(together[1:, :1], alone)


def test_tiles_of_a_large_grid_say_nearly_what_the_whole_does():
    frames, observed = coarse(frames=1, shape=(16, 40))
    whole, tiled = (tiny(tile=tile).downscale(frames, observed, 4) for tile in (384, 96))
    assert whole.shape == tiled.shape and 0 < float((whole - tiled).abs().mean()) < 0.05 * float(whole.std())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 6}, "factor is 6: it must be 3 or a power of two"),
        ({"size": "huge"}, "'full', 'large', 'light', 'tiny'"),
        ({"upsampling": "bicubic"}, "'classical', 'direct', 'nearest'"),
        ({"factor": 3, "tile": 100}, "choose a multiple of 3"),
        ({"channels": ["wind", "wind"]}, "give a list of different standard names"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    for make in (models.declare, models.build):
        with pytest.raises(ValueError, match=message):
            make("swin-ir", **options)


# ---------------------------------------------------------------- further fields

FIELDS = {"channels": ["eastward_wind"], "static": ["surface_altitude"]}


@pytest.mark.parametrize("name", ["swin-ir", "swin-ir-diff"])
def test_further_fields_are_read_cell_by_cell(name):
    model = tiny(name, **FIELDS)
    model.set_ranges({"eastward_wind": (-20.0, 20.0), "surface_altitude": (0.0, 3000.0)})
    frames, observed = coarse(channels=2)
    height = torch.zeros(1, 32, 24)
    height[0, 5, 6] = 3000.0
    read = model._coarse_inputs(frames, height)
    assert read.shape == (1, 3, 2 + 16, 8, 6)
    assert (read[:, :, 2:] > 0).nonzero().tolist() == [[0, time, 1 * 4 + 2, 1, 1] for time in range(3)]
    given = (noise([0]),) if name == "swin-ir-diff" else ()
    one, other = (model.downscale(frames, observed, 4, h, *given) for h in (height, 3000 - height))
    assert (one - other).abs().max() > 1e-3
    with pytest.raises(ValueError, match="0 static fields"):
        model.downscale(frames, observed, 4)


# ---------------------------------------------------------------- the loss


def test_the_loss_is_the_absolute_error_where_rain_was_measured():
    model, data = tiny(), batch()
    observed = data.observed.clone()
    observed[0, ..., :4, :3] = False  # three quarters of a coarse cell: it counts nowhere
    observed[1, ..., 9, 9] = False
    loss = model.loss(TrainingBatch(data.rain, observed), progress=0.0)
    means, seen = coarsened(data.rain, observed, 4)
    said = model.network((model.transform(means)[:, 0] + 1) / 2)
    truth = (model.transform(data.rain)[:, 0] + 1) / 2
    counts = (observed & seen.repeat_interleave(4, -1).repeat_interleave(4, -2))[:, 0]
    assert int((~counts).sum()) == 16 + 1
    assert_close(loss.total, (said - truth).abs()[counts].mean())


def test_both_stages_learn_by_their_own_losses():
    model, data = tiny("swin-ir-diff").train(), batch()
    torch.manual_seed(3)
    loss = model.loss(data, progress=0.0)
    torch.manual_seed(3)
    means, _ = coarsened(data.rain, data.observed, 4)
    scaled, truth = model.transform(means), model.transform(data.rain)
    estimate = model.first_stage((scaled[:, 0] + 1) / 2)[:, None] * 2 - 1
    steps, eps = torch.randint(0, 1400, (2,)), torch.randn_like(truth)
    signal, level = model.schedule.levels_like(steps, truth)
    known = estimate.detach()
    fine = F.interpolate(scaled[:, :, 0], scale_factor=4, mode="bicubic").clamp(-1, 1)[:, :, None]
    noisy = signal * (truth - known) + level * eps
    said = model.denoiser(noisy, (steps + 1) / 1400, model.denoiser.project(fine, known, []))
    diffusion = (said - (signal * eps - level * (truth - known))).square().mean()
    error = (estimate - truth).abs().mean() / 2
    assert_close(loss.parts["diffusion"], diffusion)
    assert_close(loss.total, diffusion + error)
    loss.total.backward()
    found = model.first_stage.enter.weight.grad
    (alone,) = torch.autograd.grad(error, [model.first_stage.enter.weight])
    assert_close(found, alone)
    assert model.denoiser.read.weight.grad.abs().max() > 0


def test_a_frozen_first_stage_begins_from_one_that_was_trained_alone():
    first = tiny(**FIELDS)
    first.set_ranges({"eastward_wind": (-20.0, 20.0), "surface_altitude": (0.0, 3000.0)})
    model = tiny("swin-ir-diff", frozen=True, **FIELDS)
    with pytest.raises(ValueError, match="SwinIR is frozen and was never trained"):
        model.adversary((16, 16))
    with pytest.raises(ValueError, match=r"the weights have factor 2, and this model has 4"):
        model.begin_from(tiny(factor=2))
    model.begin_from(first)
    assert model.adversary((16, 16)) is None and model.largest.tolist() == [20.0, 3000.0]
    frames, observed = coarse(channels=2)
    height = torch.rand(1, 32, 24)
    assert_close(model.downscale(frames, observed, 4, height), first.downscale(frames, observed, 4, height))
    alone = tiny("swin-ir-diff", frozen=True)
    alone.begin_from(tiny())
    loss = alone.loss(batch(), progress=0.0)
    loss.total.backward()
    assert loss.parts.keys() == {"diffusion"} and alone.first_stage.enter.weight.grad is None


def test_a_network_for_one_factor_begins_with_one_for_another():
    model, other = tiny(factor=4), tiny(factor=2)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    head = model.network.head[0].weight.clone()
    model.begin_from(other)
    assert model.network.head[0].weight.equal(head)
    assert model.network.enter.weight.equal(other.network.enter.weight)
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.begin_from(tiny(channels=["eastward_wind"]))


# ---------------------------------------------------------------- members and learning


def test_members_differ_and_each_is_itself_in_any_company():
    model, (frames, observed) = tiny("swin-ir-diff", sampling_steps=3), coarse(2)
    fine = model.downscale(frames, observed, 4, noise=noise([0, 1, 0, 1]))
    assert fine.shape == (4, 3, 1, 32, 24) and fine.min() >= -1 and fine.max() <= 1
    assert (fine[0] - fine[1]).abs().mean() > 1e-2
    assert_close(model.downscale(frames[1:], observed[1:], 4, noise=noise([1])), fine[3:])


def test_fields_of_squares_are_learnt():
    """A coarse cell of 4 mm/h is a square of 16 in its first quarter: the network learns where, not the mean."""
    model = tiny(factor=2).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    torch.manual_seed(1)
    wet = torch.rand(8, 1, 1, 6, 6) > 0.5
    fine = torch.zeros(8, 1, 1, 12, 12)
    fine[..., ::2, ::2] = 16.0 * wet
    losses = []
    for _ in range(80):
        losses.append(model.loss(TrainingBatch(fine, fine >= 0), progress=0.0).total)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("name", ["swin-ir", "swin-ir-diff"])
def test_it_is_trained_and_refines_through_the_verb(name, tmp_path):
    radar = xnowcast.datasets.synthetic_radar(frames=6, shape=(32, 40), coverage=False)
    settings = {"steps": 2, "batch_size": 2, "crop": 16, "validation": 0, "progress": False}
    own = {"size": "tiny", "factor": 4} | ({"sampling_steps": 2} if name == "swin-ir-diff" else {})
    xnowcast.train(name, radar, out=tmp_path, **own, **settings)
    model = str(tmp_path / "model.safetensors")
    members = {"members": 2} if name == "swin-ir-diff" else {}
    fine = radar.nowcast.coarsen(4).nowcast.downscale(model, factor=4, **members).rainfall_rate
    assert fine.sizes["x"] == 40 and bool(fine.notnull().all()) and ("member" in fine.dims) == bool(members)


def test_a_training_goes_on_from_the_first_stage(tmp_path):
    radar = xnowcast.datasets.synthetic_radar(frames=6, shape=(32, 40), coverage=False)
    settings = {"steps": 1, "batch_size": 2, "crop": 16, "validation": 0, "progress": False}
    own = {"size": "tiny", "factor": 4}
    first = xnowcast.train("swin-ir", radar, out=tmp_path, **own, **settings)
    start = tmp_path / "model.safetensors"
    model = xnowcast.train("swin-ir-diff", radar, start=start, frozen=True, **own, **settings)
    for theirs, ours in zip(first.network.parameters(), model.first_stage.parameters(), strict=True):
        assert ours.equal(theirs)
