"""DiffCast: networks, schedule and sampler are the authors' own (tests/golden.py), and what is around them."""

import pytest
import torch
from golden import assert_equals, golden, tabled

import xnowcast
from xnowcast import models
from xnowcast.models import published
from xnowcast.models.base import TrainingBatch
from xnowcast.models.diffcast import model as diffcast_model
from xnowcast.models.diffcast.model import Size
from xnowcast.models.published.residual_diffusion import diffusion_networks
from xnowcast.nn.noise import Noise, member_generator


def noise(*members):
    return Noise([member_generator(3, 0, member) for member in members])


class Told:
    """A noise source that gives what was drawn elsewhere, one draw after the other."""

    def __init__(self, draws):
        self.draws = list(draws)
        self.count = len(self.draws[0])

    def __len__(self):
        return self.count

    def normal(self, *shape):
        drawn = self.draws.pop(0)
        assert drawn.shape[1:] == shape
        return drawn


class Given:
    """A forecaster that says what it was given."""

    def __init__(self, said, **options):
        self.said = said
        self.task = models.declare("phydnet", **options)
        self.transform = models.build("phydnet", size="tiny").transform

    def forecast(self, frames, observed, steps, noise=None):
        return self.said[:, :steps]


@pytest.fixture
def authors(monkeypatch):
    """The golden file and the model of its weights, whose first stage says what the file's says."""
    found = golden("diffcast", "golden_zoo")
    monkeypatch.setitem(diffcast_model.SIZES, "tiny", Size(8, (1, 2, 4), 5, 5, 10, 3))
    first = Given(found.tensors["input/backbone"])
    model = models.build(
        "diffcast", size="tiny", first_stage=first, frozen=True, diffusion_steps=20, published=True
    ).eval()
    weights = {name: own for name, own in found.of("weights").items() if "." in name}
    model.load_state_dict(diffusion_networks(weights))
    return found, model


# ---------------------------------------------------------------- the authors' numbers


def contexts_of(found, model):
    frames = torch.cat([found.tensors["input/frames"], found.tensors["input/backbone"]], dim=1)
    return model._contexts(2 * frames - 1)


@torch.no_grad()
def test_contexts_are_those_of_the_authors_code(authors):
    found, model = authors
    for name, states in zip(("local", "global"), contexts_of(found, model), strict=True):
        for scale, state in enumerate(states):
            assert_equals(state, found.tensors[f"output/context_{name}_{scale}"])


@torch.no_grad()
def test_the_velocity_is_that_of_the_authors_code(authors):
    found, model = authors
    x, step, before, segment = (found.tensors[f"input/{name}"] for name in ("x_t", "step", "condition", "segment"))
    context = model.denoiser.project(contexts_of(found, model)[1])
    v = model.denoiser(x[:, :, 0], step, segment, before[:, :, 0], context)[:, :, None]
    assert_equals(v, found.tensors["output/v"])
    levels = model.schedule.levels_like(step, x)
    x0 = diffcast_model.VELOCITY.to_x0(v, x, *levels).clamp(-1, 1)
    assert_equals(x0, found.tensors["output/x_0_estimate"], 2e-5)


def test_noisy_segments_and_their_velocities_are_those_of_the_authors_code(authors):
    found, model = authors
    x0, eps, step = found.tensors["input/x_0"], found.tensors["noise/x_0"], found.tensors["input/step"]
    assert_equals(model.schedule.add_noise(x0, eps, step), found.tensors["output/x_t_of_x_0"])
    target = diffcast_model.VELOCITY.target(x0, eps, *model.schedule.levels_like(step, x0))
    assert_equals(target, found.tensors["output/v_target_of_x_0"])


def test_forecasts_are_those_of_the_authors_code(authors):
    found, model = authors
    frames = found.tensors["input/frames"]
    drawn = Told(found.tensors[f"noise/segment_{number}"][:, :, 0] for number in range(2))
    said = model.forecast(frames, frames >= 0, 10, drawn)
    assert_equals(said, found.tensors["output/forecast"], 8e-5)


def test_networks_have_as_many_parameters_as_the_published_ones():
    with torch.device("meta"):
        model = models.build("diffcast")
    parts = {"denoiser": 39_593_349, "context": 6_676_544, "first_stage": 3_091_732}
    found = {name: sum(p.numel() for p in model.get_submodule(name).parameters()) for name in parts}
    assert found == parts


def test_the_full_network_takes_the_tensors_of_a_checkpoint():
    with torch.device("meta"):
        model = models.build("diffcast", published=True)
        tensors = {name: torch.empty(shape) for name, shape in tabled("diffcast").items()}
        state = published.diffcast(model, tensors)
    assert len(tensors) == 507
    assert {name: own.shape for name, own in state.items()} == {n: p.shape for n, p in model.state_dict().items()}


def test_another_first_stage_has_no_place_for_published_weights():
    model = models.build("diffcast", size="tiny", first_stage="convlstm")
    with pytest.raises(ValueError, match="first_stage is 'convlstm': published weights have a PhyDNet"):
        published.diffcast(model, {})


# ---------------------------------------------------------------- what is around them


@pytest.fixture
def frames():
    torch.manual_seed(0)
    return torch.rand(2, 4, 1, 16, 20)


@pytest.fixture
def model():
    torch.manual_seed(1)
    return models.build("diffcast", size="tiny").eval()


def batch_of(frames):
    """Rain of 8 frames, all measured."""
    rain = 10.0 * torch.cat([frames, frames.flip(1)], dim=1).square()
    return TrainingBatch(rain, torch.ones_like(rain, dtype=torch.bool))


def test_members_differ_and_each_is_itself_in_any_company(model, frames):
    together = model.forecast(frames, frames >= 0, 4, noise(0, 1, 2, 5, 6, 7))
    assert (together[0] - together[1]).abs().mean() > 1e-3
    for member in range(3):
        alone = model.forecast(frames[:1], frames[:1] >= 0, 4, noise(member))
        torch.testing.assert_close(together[member : member + 1], alone, atol=1e-4, rtol=0)


def test_a_shorter_forecast_is_the_beginning_of_a_longer_one(model, frames):
    few, many = (model.forecast(frames, frames >= 0, steps, noise(0, 1)) for steps in (1, 4))
    torch.testing.assert_close(many[:, :1], few)
    with pytest.raises(ValueError, match=r"5 steps: this model forecasts 1 to 4"):
        model.forecast(frames, frames >= 0, 5, noise(0, 1))


def test_members_are_the_first_stage_and_what_the_diffusion_adds(model, frames):
    model.inflation = 0.0
    first = model.first_stage.answer(frames, frames >= 0, 4)
    torch.testing.assert_close(model.forecast(frames, frames >= 0, 4, noise(0, 1)), first)


def test_the_segment_before_has_a_say(model, frames):
    context = model.denoiser.project(model.context(frames))
    x = torch.randn(2, 2, 16, 20)
    said = [model.denoiser(x, torch.tensor([7]), torch.tensor([1]), before, context) for before in (0 * x, x)]
    assert (said[0] - said[1]).abs().max() > 1e-3


def test_the_context_of_all_frames_is_that_of_all_segments_other_than_as_published(frames):
    sequence = torch.cat([frames, frames], dim=1)
    ours, theirs = (models.build("diffcast", size="tiny", published=flag) for flag in (False, True))
    theirs.load_state_dict(ours.state_dict())
    (first, later), (first_published, later_published) = ours._contexts(sequence), theirs._contexts(sequence)
    for one, other in ((first, later), (later, later_published), (first_published, ours.context(sequence[:, :6]))):
        torch.testing.assert_close(one, other)
    assert (first[0] - first_published[0]).abs().max() > 1e-3


def test_what_a_segment_adds_keeps_the_sum_within_bounds_unless_as_published(frames):
    """A denoiser that always wants more rain, on a first stage that says none."""
    for flag, highest in ((False, 1.0), (True, 0.5)):
        first = Given(torch.zeros(2, 4, 1, 16, 20), input_frames=4)
        model = models.build("diffcast", size="tiny", first_stage=first, frozen=True, published=flag).eval()
        torch.nn.init.constant_(model.denoiser.read.bias, -1e3)
        said = model.forecast(frames, frames >= 0, 4, noise(0, 1))
        torch.testing.assert_close(said, torch.full_like(said, highest), atol=1e-3, rtol=0)


def test_tiles_of_a_large_grid_are_blended(model):
    torch.manual_seed(2)
    frames = torch.rand(1, 4, 1, 64, 96)
    whole = model.forecast(frames, frames >= 0, 2, noise(0))
    model.tile = 48
    seen = []
    model.context.register_forward_hook(lambda module, given, said: seen.append(given[0].shape[-2:]))
    tiled = model.forecast(frames, frames >= 0, 2, noise(0))
    assert len(seen) == 6 and set(seen) == {(48, 48)}
    assert 0 < (tiled - whole).abs().mean() < 0.05


# ---------------------------------------------------------------- what it minimises


def by_hand(model, batch):
    """The loss in the paper's words, segment by segment, with the numbers that the model draws."""
    scaled = model.transform(batch.rain)
    first = model.first_stage.network.continued(scaled[:, :4], 4)
    residual = 2 * (scaled[:, 4:] - first)[:, :, 0]
    context = model.context(2 * torch.cat([scaled[:, :4], first], dim=1) - 1)
    steps = model.schedule.draw_steps(4, residual.device)
    eps = torch.randn(4, 2, 16, 20)
    total = 0
    for sample in range(2):
        for segment in range(2):
            drawn = 2 * sample + segment
            clean = residual[sample, 2 * segment : 2 * segment + 2]
            before = residual[sample, :2] if segment else torch.zeros_like(clean)
            signal, level = model.schedule.levels(int(steps[drawn]))
            noisy = signal * clean + level * eps[drawn]
            given = model.denoiser.project([part[sample : sample + 1] for part in context])
            which = torch.tensor([segment])
            velocity = model.denoiser(noisy[None], steps[drawn : drawn + 1], which, before[None], given)[0]
            said = level * noisy + signal * velocity  # of the noise
            total = total + (said - eps[drawn]).square().mean() / 4
    return total


def test_the_loss_is_that_of_the_noise_and_that_of_the_first_stage(model, frames):
    batch = batch_of(frames)
    torch.manual_seed(5)
    said = model.loss(batch, progress=1.0)
    torch.manual_seed(5)
    diffusion, first = by_hand(model, batch), model.first_stage.network.loss(batch, progress=1.0).total
    torch.testing.assert_close(said.parts["diffusion"], diffusion.detach(), rtol=1e-4, atol=0)
    torch.testing.assert_close(said.total, 0.5 * diffusion + 0.5 * first, rtol=1e-4, atol=0)


def test_the_diffusion_trains_the_first_stage_too(frames):
    model = models.build("diffcast", size="tiny", diffusion_share=1.0)
    model.loss(batch_of(frames), progress=0.0).total.backward()
    assert all(
        p.grad is not None and p.grad.abs().max() > 0 for p in model.first_stage.network.network.read.parameters()
    )


def test_what_was_not_measured_says_nothing_of_the_loss(model, frames):
    batch, losses = batch_of(frames), []
    observed = batch.observed.clone()
    observed[:, 5, :, :7] = False
    observed[:, 7] = False
    for other in (batch.rain, batch.rain.masked_fill(~observed, 50.0)):
        torch.manual_seed(3)
        losses.append(
            model.loss(TrainingBatch(other.masked_fill(~observed & (other == 50), 50.0), observed), progress=1.0)
        )
    torch.testing.assert_close(losses[0].total, losses[1].total)


def test_a_step_may_learn_from_a_few_segments(frames, monkeypatch):
    model = models.build("diffcast", size="tiny", trained_segments=1)
    numbers = {tuple(sorted(model._drawn_segments(3, 2).flatten().tolist())) for _ in range(20)}
    assert len(numbers) > 1
    seen = []
    model.denoiser.register_forward_hook(lambda module, given, said: seen.append(len(given[0])))
    model.loss(batch_of(frames), progress=0.0).total.backward()
    assert seen == [2]


def test_training_lowers_the_loss(model, frames):
    batch = batch_of(frames[:1, ..., :8, :8])
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)

    def validation():
        torch.manual_seed(0)
        with torch.no_grad():
            return sum(float(model.loss(batch, progress=1.0).parts["diffusion"]) for _ in range(4))

    before = validation()
    for _ in range(16):
        loss = model.loss(batch, progress=0.0).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert validation() < 0.85 * before


@pytest.mark.parametrize("system", ["diffcast", "lagrangian"])
def test_it_is_trained_and_forecasts_alone_and_in_the_layer(system, tmp_path):
    inside = {"network": "diffcast"} if system == "lagrangian" else {}
    radar = xnowcast.datasets.synthetic_radar(frames=16, shape=(40, 44))
    settings = {"out": tmp_path, "steps": 2, "batch_size": 2, "crop": 32, "validation": 0}
    xnowcast.train(system, radar, size="tiny", **inside, **settings)
    members = radar.nowcast.forecast(str(tmp_path / "model.safetensors"), members=2, steps=3, seed=0, sampling_steps=2)
    rain = members.rainfall_rate
    assert rain.sizes["member"] == 2 and rain.notnull().mean() > 0.5
    assert float(abs(rain.isel(member=0) - rain.isel(member=1)).max()) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_frames": 3}, r"target_frames is 3: choose a multiple of 2, a segment"),
        ({"sampling_steps": 1001}, r"sampling_steps is 1001: the training had 1000"),
        ({"diffusion_share": 1.5}, r"diffusion_share is 1.5: it is a share, up to 1"),
        ({"trained_segments": 3}, r"trained_segments is 3: a sample has 2"),
        ({"first_stage_options": {"input_frames": 9}}, r"input_frames is 4: the first stage reads 9"),
        ({"first_stage": "stldm"}, r"first_stage is 'stldm', which makes members"),
        ({"tile": 5}, r"tile is 5 cells: choose a multiple of 4"),
        ({"input_frames": 1, "target_frames": 4, "published": True}, r"published needs 6 frames"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        models.declare("diffcast", size="tiny", **options)
