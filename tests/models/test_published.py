"""The networks are the authors' own: with their weights they say what the authors' code says (tests/golden.py)."""

import re
from dataclasses import replace

import pytest
import torch
from einops import rearrange
from golden import assert_equals, golden, listed, tabled

from xnowcast import models
from xnowcast.diffusion.pieces import cut
from xnowcast.models import published
from xnowcast.models import stvd as stvd_model
from xnowcast.models.metnet_sequence import SequenceNetwork, Shape
from xnowcast.models.published.cells import of_cell
from xnowcast.models.residual_diffusion import Inputs
from xnowcast.models.stldm.model import SIZES, Size
from xnowcast.nn.deformable import deformable_sum
from xnowcast.nn.guided_unet import GuidedUNet
from xnowcast.nn.intern_image import INTERN_IMAGE_SIZES, InternImage, Variant
from xnowcast.nn.noise import Noise
from xnowcast.nn.recurrent import CELLS

# ---------------------------------------------------------------- PostCast: guided diffusion


def guided_unet(about, **options):
    """The network of a golden file."""
    given = about["constructor_arguments"]
    return GuidedUNet(
        **{"channels": given["in_channels"]} | options,
        base=given["model_channels"],
        multipliers=given["channel_mult"],
        blocks=given["num_res_blocks"],
        attention=given["attention_resolutions"],
        head_width=given["num_head_channels"],
    ).eval()


@pytest.fixture(params=["guided_diffusion", "guided_diffusion_three_levels"])
def guided(request):
    return golden(request.param)


def test_the_prior_is_the_network_of_guided_diffusion(guided):
    network, x = guided_unet(guided.about), guided.tensors["input/x"]
    network.load_state_dict(published.guided_diffusion(network, guided.of("weights")))
    noise = {name: said[:, : x.shape[1]] for name, said in guided.of("output").items()}  # then the variance
    with torch.no_grad():
        assert_equals(network.embedding[0](guided.tensors["input/steps"]), guided.tensors["output/step_features"])
        for step in guided.tensors["input/steps"].tolist():
            assert_equals(network(x, torch.tensor([float(step)])), noise[f"unet_step_{step}"])
        assert_equals(network(x, torch.tensor([37.0, 500.0])), noise["unet_steps_37_and_500"])


def test_weights_of_images_begin_a_prior_of_one_channel():
    guided = golden("guided_diffusion")
    network, frame = guided_unet(guided.about, channels=1), guided.tensors["input/x"][:, :1]
    grey = guided_unet(guided.about)
    grey.load_state_dict(published.guided_diffusion(grey, guided.of("weights")))
    network.load_state_dict(published.guided_diffusion(network, guided.of("weights")))
    step = torch.tensor([37.0])
    with torch.no_grad():
        assert_equals(network(frame, step), grey(frame.expand(-1, 3, -1, -1), step).mean(1, keepdim=True))


def test_the_full_prior_takes_all_tensors_of_the_published_one():
    """Names and shapes of the published network of 256 x 256 cells, whose numbers are not here."""
    with torch.device("meta"):
        network = models.build("postcast").network
        tensors = {name: torch.empty(shape) for name, shape in listed("guided_diffusion_256x256_uncond").items()}
        state = published.guided_diffusion(network, tensors)
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in network.state_dict().items()
    }


def test_weights_of_other_networks_are_refused():
    guided = golden("guided_diffusion")
    network = guided_unet(guided.about)
    with pytest.raises(ValueError, match=r"no place for 'label_emb\.weight'"):
        published.guided_diffusion(network, guided.of("weights") | {"label_emb.weight": torch.zeros(3, 3)})
    with pytest.raises(ValueError, match="no 'input_blocks"):
        published.guided_diffusion(GuidedUNet(base=32, multipliers=(1, 1, 1)), guided.of("weights"))


# ---------------------------------------------------------------- recurrent networks: MS-RNN

RECURRENT = {
    "convlstm": "convlstm",
    "trajgru": "trajgru",
    "predrnn": "predrnn",
    "predrnn++": "predrnn_plus_plus",
    "mim": "mim",
    "motionrnn": "motionrnn",
    "preciplstm": "preciplstm",
    "mk-lstm": "mk_lstm",
}
WINDOW = {"preciplstm": {"window": 7}}
SLIPS = ("trajgru", "motionrnn", "preciplstm")
"""Cells whose published code has some; "corrected" is without them."""


VARIANTS = [
    *((name, "as_published") for name in RECURRENT if name not in SLIPS),
    *((name, variant) for name in SLIPS for variant in ("corrected", "as_published")),
]


def options_of(name, variant):
    slips = {"published": True} if name in SLIPS and variant == "as_published" else {}
    return WINDOW.get(name, {}) | slips


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
@pytest.mark.parametrize("kind", ["plain", "ms"])
def test_recurrent_networks_are_those_of_ms_rnn(name, variant, kind):
    """Four frames are read and two more steps are fed what the network said."""
    stack = golden(f"msrnn_stack_{RECURRENT[name]}")
    model = models.build(name if kind == "plain" else f"ms-{name}", size="tiny", **options_of(name, variant)).eval()
    model.network.load_state_dict(published.ms_rnn(model.network, stack.of("weights")))
    said, carried, frames = [], None, stack.tensors["input/frames"]
    with torch.no_grad():
        for step in range(6):
            (shown,), carried = model.advance(frames[:, step] if step < 4 else said[-1], carried)
            said.append(shown)
    expected = stack.tensors[f"output/{variant}/{'stacked' if kind == 'plain' else 'multiscale'}"]
    assert_equals(torch.stack(said, dim=1), expected)


STATES = {
    "convlstm": "h c",
    "trajgru": "h",
    "predrnn": "h c",
    "predrnn++": "h c z",
    "mim": "h c n s before",
    "motionrnn": "h c n s before F D",
    "preciplstm": "h c ms mt before",
    "mk-lstm": "h c_3 c_5",
}
LAYERS = {"predrnn++": (0, 1), "mim": (0, 1), "motionrnn": (0, 1, 5)}


def first_state(name, given):
    """The state of the warm start; displacements have (y, x) here."""
    first = {part: given.get(f"initial_{part}", given.get("before")) for part in STATES[name].split()}
    for part in first.keys() & {"F", "D"}:
        first[part] = first[part].unflatten(1, (9, 2)).flip(2).flatten(1, 2)
    if name in ("mim", "motionrnn"):
        first["before"] = given["before"][0]
    return tuple(first.values())


CELL_CASES = [(*case, layer) for case in VARIANTS for layer in LAYERS.get(case[0], (None,))]


@pytest.mark.parametrize("start", ["cold", "warm"])
@pytest.mark.parametrize(("name", "variant", "layer"), CELL_CASES)
def test_recurrent_cells_are_those_of_ms_rnn(name, variant, layer, start):
    """Three steps, each with a memory that is given."""
    found = golden(f"msrnn_cell_{RECURRENT[name]}")
    cell = CELLS[name].stack(8, 6, **options_of(name, variant))[layer or 0].eval()
    cell.load_state_dict(of_cell(cell, found.of("weights")))
    variant = "as_published" if layer == 5 else variant  # it shows no motion, so there is nothing to correct
    place, given = "" if layer is None else f"/layer_{layer}", found.of("input")
    expected = found.of(f"output/{variant}{place}/{start}")
    state = first_state(name, given) if start == "warm" else None
    for step, x in enumerate(given["x"]):
        following = given["before"][step + 1] if name in ("mim", "motionrnn") and step < 2 else None
        memory = given["memory"][step] if "memory" in given and (step or start == "warm") else None
        with torch.no_grad():
            shown, state, memory = cell(x, state, memory, below=following)
        assert_equals(shown, expected["output"][step])
        if "memory" in expected:
            assert_equals(memory, expected["memory"][step])


def as_saved(tensors):
    """Names of the whole model where a file has those of its parts."""
    return {re.sub(r"^(embed|fc)\.", r"\1.conv_\1.", name): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(("name", "file"), [("mk-lstm", "mk_lstm"), ("ms-mk-lstm", "ms_lstm")])
@torch.no_grad()
def test_ms_lstm_and_its_baseline_are_the_published_ones(name, file):
    """Three frames are read and three more steps are fed what the network said."""
    found = golden(file, "golden_zoo")
    model = models.build(name, width=6, input_frames=3).eval()
    model.network.load_state_dict(published.ms_rnn(model.network, as_saved(found.of("weights"))))
    (said,) = model.rollout(found.tensors["input/x"], 6, known=3)
    assert_equals(said, found.tensors["output/y"])


@torch.no_grad()
def test_a_step_of_mk_lstm_leaves_the_published_memories():
    found = golden("mk_lstm_cell", "golden_zoo")
    cell, given = CELLS["mk-lstm"](6), found.of("input")
    cell.load_state_dict(of_cell(cell, found.of("weights")))
    _, state, _ = cell(given["x"], (given["h"], given["c_3"], given["c_5"]))
    for said, name in zip(state, ("h", "c_3", "c_5"), strict=True):
        assert_equals(said, found.tensors[f"output/{name}"])


def test_the_full_ms_lstm_takes_all_tensors_of_the_published_one():
    with torch.device("meta"):
        network = models.build("ms-mk-lstm", width=64).network
        tensors = {name: torch.empty(shape) for name, shape in as_saved(tabled("ms_lstm")).items()}
        state = published.ms_rnn(network, tensors)
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in network.state_dict().items()
    }
    assert sum(tensor.numel() for tensor in network.cells.state_dict().values()) == 7_576_704


# ---------------------------------------------------------------- STLDM

STLDM_OPTIONS = {"stldm_3d": {"temporal_norm": "time"}, "stldm_2d": {"frame_wise": True}}


class GivenNoise:
    """Hands out, for two samples, what the authors' code drew."""

    def __init__(self, *drawn):
        self.drawn = list(drawn)

    def __len__(self):
        return 2

    def normal(self, *shape):
        assert self.drawn[0].shape[1:] == shape
        return self.drawn.pop(0)


@pytest.fixture(params=STLDM_OPTIONS)
def found_and_stldm(request, monkeypatch):
    """A golden file, and the function that builds its model with further options."""
    found = golden(request.param)
    sizes = Size(8, 4, 16, 3, 8, (2, 3, 4), 2, 8, 8, 3, 4)
    monkeypatch.setitem(SIZES, "tiny", sizes)

    def built(**options):
        steps = {"diffusion_steps": 12, "sampling_steps": 4}
        model = models.build("stldm", size="tiny", **steps, **STLDM_OPTIONS[request.param], **options)
        model.load_state_dict(published.stldm(model, found.of("weights")))
        return model.eval()

    return found, built


@torch.inference_mode()
def test_the_networks_of_stldm_are_the_published_ones(found_and_stldm):
    found, built = found_and_stldm
    model, given, expected = built(), found.of("input"), found.of("output")
    for name, moment in zip(("mean", "log_variance"), model.autoencoder.encode(given["frames"][0]), strict=True):
        assert_equals(moment, expected[f"encoder_{name}"])
    assert_equals(model.autoencoder.decode(given["decoder_latents"]), expected["decoder_frames"])
    for name, moment in zip(("mean", "log_variance"), model.translator(given["translator_latents"]), strict=True):
        assert_equals(moment, expected[f"translator_{name}"])
    z, steps = given["denoiser_latents"], given["denoiser_steps"]
    condition = model.denoiser.project(given["denoiser_condition"])
    assert_equals(model.denoiser(z, steps, condition), expected["denoiser_conditioned"])
    assert_equals(model.denoiser(z, steps, None), expected["denoiser_unconditioned"])


def test_forecasts_of_stldm_are_the_published_ones(found_and_stldm):
    found, built = found_and_stldm
    model = built(sampled_condition=True, guidance=0.7)
    noise, expected, frames = found.of("noise"), found.of("output"), found.tensors["input/frames"]
    said = model.forecast(frames, frames >= 0, 4, GivenNoise(noise["past_latents"], noise["start"]))
    assert_equals(said, expected["sampling_forecast"], tolerance=2e-5)
    model = built(sampled_condition=True, return_first_estimate=True)
    said = model.forecast(frames, frames >= 0, 4, GivenNoise(noise["past_latents"], noise["first_estimate"]))
    assert_equals(said, expected["sampling_first_estimate"])


@pytest.mark.parametrize(("name", "options"), [("stldm_3d_128_hko7", {}), ("stldm_2d_128", {"frame_wise": True})])
def test_the_full_stldm_takes_all_tensors_of_the_published_one(name, options):
    with torch.device("meta"):
        model = models.build("stldm", **options)
        state = published.stldm(model, {name: torch.empty(shape) for name, shape in listed(name).items()})
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }


def test_weights_of_stldm_in_3d_are_not_taken_for_those_in_2d():
    with pytest.raises(ValueError, match="weights of the published 3D network: build it with frame_wise=False"):
        published.stldm(models.build("stldm", size="tiny", frame_wise=True), golden("stldm_3d").of("weights"))


# ---------------------------------------------------------------- STVD


class GivenGenerator:
    """Draws once, what is given."""

    def __init__(self, drawn):
        self.drawn = [drawn.numpy()]

    def standard_normal(self, shape, dtype):
        assert self.drawn[0].shape == shape
        return self.drawn.pop()


@pytest.fixture
def downscaling(monkeypatch):
    """The golden file, and a model with its weights."""
    found = golden("stvd")
    monkeypatch.setitem(stvd_model.SIZES, "tiny", stvd_model.Shape(8, (1, 1, 2, 3), 4, 32))
    fields = {"channels": [f"field {n}" for n in range(10)], "static": ["surface_altitude"]}
    steps = {"diffusion_steps": 20, "sampling_steps": 4}
    model = models.build("stvd", size="tiny", published=True, **fields, **steps).eval()
    model.set_ranges(dict.fromkeys([*fields["channels"], *fields["static"]], (0.0, 1.0)))
    model.load_state_dict(published.stvd(model, found.of("weights")))
    return found, model


@torch.inference_mode()
def test_the_networks_of_stvd_are_the_published_ones(downscaling):
    found, model = downscaling
    given, expected = found.of("input"), found.of("output")
    x, residual = given["downscaler_input"][None], given["residual"][None]
    estimate, context = model.downscaler(x)
    assert_equals(estimate[0], expected["downscaler_estimate"])
    for number, part in enumerate(context):
        assert_equals(part, expected[f"downscaler_context.{number:02}"])
    condition = model.denoiser.project(x, estimate, context)
    same = model.denoiser(residual, given["same_step"][:1], condition)
    assert_equals(same[0], expected["denoiser_same_step"])
    apart = model.denoiser(residual, given["step_per_frame"][None], condition)
    assert_equals(apart[0], expected["denoiser_step_per_frame"])
    assert_equals(model.denoiser.time(given["step_per_frame"]), expected["step_embedding"])


@torch.inference_mode()
def test_samples_of_stvd_are_the_published_ones(downscaling):
    found, model = downscaling
    given, expected = found.of("input"), found.of("output")
    rain_and_fields = torch.cat([2 * given["coarse"][:, :, :1] - 1, given["coarse"][:, :, 1:]], dim=2)
    topography = 2 * given["fine"][:, :, 1:] - 1  # another one for each frame, which no model here reads
    x = torch.cat([model._fine_inputs(rain_and_fields, None), topography], dim=2)
    pieces = cut(5, (32, 24), length=5, tile=384, multiple=model.shape.multiple)
    noise = Noise([GivenGenerator(drawn) for drawn in found.tensors["noise/start"]])
    said = model._refined(model._refining_networks(), Inputs(x, given["coarse"]), pieces, noise)
    assert_equals((said + 1) / 2, expected["sampling_fine"], tolerance=2e-5)


@torch.inference_mode()
def test_weights_of_the_authors_code_with_three_by_three_cells_are_taken_too(downscaling):
    """A kernel whose rim is zero reads single cells, as the published one does."""
    found, model = downscaling
    state = {
        name: torch.nn.functional.pad(own, (1, 1, 1, 1)) if name.endswith("to_qkv.weight") else own
        for name, own in found.of("weights").items()
    }
    own = model.options
    wide = models.build("stvd", **vars(own) | {"attention_kernel": 3}).eval()
    wide.load_state_dict(published.stvd(wide, state))
    estimate, context = wide.downscaler(found.tensors["input/downscaler_input"][None])
    assert_equals(estimate[0], found.tensors["output/downscaler_estimate"])
    for number, part in enumerate(context):
        assert_equals(part, found.tensors[f"output/downscaler_context.{number:02}"])
    with pytest.raises(RuntimeError, match=r"size mismatch for downscaler.*qkv\.weight"):
        model.load_state_dict(published.stvd(model, state))


def test_weights_of_stvd_are_not_taken_for_those_of_the_paper():
    with pytest.raises(ValueError, match="build it with published=True"):
        published.stvd(models.build("stvd", size="tiny"), golden("stvd").of("weights"))


# ---------------------------------------------------------------- NWP-MAE: InternImage


VARIANTS_OF_INTERN_IMAGE = {
    "internimage_t": Variant(),
    "internimage_t_layer_scale": Variant(layer_scale=1e-5),
    "internimage_l": Variant(norms="after", layer_scale=1e-5, offset_scale=2.0),
    "internimage_h": Variant(norms="both", depthwise=5, centre_share=True, normed_blocks=(1,)),
    "internimage_remove_center": Variant(centre=False),
}


@pytest.mark.parametrize("few", [True, False], ids=["as on a GPU", "in bags"])
@pytest.mark.parametrize("name", VARIANTS_OF_INTERN_IMAGE)
@torch.inference_mode()
def test_the_encoder_of_nwp_mae_is_internimage(name, few, monkeypatch):
    if not few:
        monkeypatch.setattr("xnowcast.nn.deformable.FEW_POINTS", 0)
    found = golden(name)
    given, expected = found.about["constructor_arguments"], found.of("output")
    sizes = {"width": given["channels"], "depths": given["depths"], "groups": given["groups"]}
    network = InternImage(3, **sizes, variant=VARIANTS_OF_INTERN_IMAGE[name]).eval()
    network.load_state_dict(published.intern_image(network, found.of("weights")))
    for number, said in enumerate(network(found.tensors["input/image"])):
        assert_equals(said, expected[f"stage_{number}"])
    block, features = network.stages[0].blocks[0], found.tensors["input/features"]
    assert_equals(block.gather(features), expected["first_dcnv3"])
    assert_equals(block(features), expected["first_block"])


@pytest.mark.parametrize(("name", "size"), [("internimage_l", "l"), ("internimage_h", "h")])
def test_sizes_have_the_variant_that_their_golden_file_has(name, size):
    own, golden_one = INTERN_IMAGE_SIZES[size].variant, VARIANTS_OF_INTERN_IMAGE[name]
    assert replace(own, normed_blocks=golden_one.normed_blocks) == golden_one
    assert bool(own.normed_blocks) == (size == "h")


def test_weights_of_another_variant_are_refused():
    network = InternImage(3, width=8, depths=(1, 1, 2, 1), groups=(1, 2, 4, 8))
    with pytest.raises(ValueError, match=r"there is none for 'stages\.0\.norm\.bias'"):
        published.intern_image(network, golden("internimage_l").of("weights"))
    with pytest.raises(ValueError, match=r"no place for 'levels\.0\.blocks\.0\.dcn\.center_feature_scale_proj_bias'"):
        published.intern_image(network, golden("internimage_h").of("weights"))


@pytest.mark.parametrize("few", [True, False], ids=["as on a GPU", "in bags"])
def test_the_sum_over_deformed_points_is_that_of_dcnv3(few, monkeypatch):
    found = golden("dcnv3_core")
    if not few:
        monkeypatch.setattr("xnowcast.nn.deformable.FEW_POINTS", 0)
    values = rearrange(found.tensors["input/x"], "b y x (g c) -> b y x g c", g=2)
    points = "b y x (g right down {}) -> {} b y x g (down right)"
    offsets = rearrange(found.tensors["input/plain/offset"], points.format("two", "two"), g=2, right=3, down=3)
    weights = rearrange(found.tensors["input/plain/mask"], points.format("", ""), g=2, right=3, down=3)
    said = deformable_sum(values, offsets.flip(0).movedim(0, 3), weights)
    assert_equals(said.flatten(-2), found.tensors["output/plain"])


# ---------------------------------------------------------------- KoMet: MetNet


@pytest.fixture
def komet():
    """Its golden file and the network with its weights."""
    file = golden("komet_metnet")
    given = file.about["constructor_arguments"]
    network = SequenceNetwork(
        given["in_channels"],
        given["num_cls"],
        Shape(given["start_dim"]),
        steps=given["window_size"],
        grid=(50, 65),
        batch_statistics=True,
    ).eval()
    network.load_state_dict(published.komet_metnet(network, file.of("weights")))
    return file, network


def test_the_sequence_is_read_as_in_komets_metnet(komet):
    file, network = komet
    fields, said = file.tensors["input/fields"], file.of("output")
    with torch.no_grad():
        downsampled = torch.stack(network.downsampled(fields), dim=1)
        assert_equals(downsampled, said["downsampled"])
        assert_equals(network.remembered(said["downsampled"].unbind(1)), said["encoded"])
        assert_equals(network.aggregated(said["encoded"]), said["aggregated"])
        assert_equals(network.decoded(said["aggregated"], (50, 65)), said["classes"])
        # norms of the aggregation enlarge the last digit of what is encoded: so they do from float64 to float32
        assert_equals(network(fields), said["classes"], tolerance=5e-5)


def test_weights_of_komets_metnet_need_a_network_without_statistics(komet):
    file, _ = komet
    keeps = SequenceNetwork(5, 3, Shape(8), steps=3, grid=(50, 65))
    with pytest.raises(ValueError, match=r"there is no 'spatial_downsampler\.0\.bn\.mean'"):
        published.komet_metnet(keeps, file.of("weights"))
    without = SequenceNetwork(5, 3, Shape(8, blocks=1), steps=3, grid=(50, 65), batch_statistics=True)
    with pytest.raises(ValueError, match=r"no place for 'spatial_aggregator\.1"):
        published.komet_metnet(without, file.of("weights"))
