"""The autoencoder of latent diffusion and its loss: the authors' own numbers (tests/golden.py), and by hand."""

import math

import pytest
import torch
from golden import assert_equals, golden
from torch import nn

from xnowcast.models import published
from xnowcast.nn import kl_autoencoder as module
from xnowcast.nn.discriminator import PatchDiscriminator
from xnowcast.nn.kl_autoencoder import AutoencoderLoss, KLAutoencoder, gradient_ratio
from xnowcast.nn.latent import gaussian_divergence

TINY = {"widths": (8, 16), "groups": 4, "blocks": 1}


def theirs(name):
    """A golden file and the network of its weights."""
    found = golden(name, "golden_zoo")
    told = found.about["constructor"]
    widths, blocks = told["block_out_channels"], told["layers_per_block"]
    network = KLAutoencoder(
        latent=told["latent_channels"], widths=widths, blocks=blocks, groups=told["norm_num_groups"]
    )
    network.load_state_dict(published.kl_autoencoder(network, found.of("weights")))
    return found, network


@torch.no_grad()
@pytest.mark.parametrize("name", ["cascast_autoencoder", "prediff_vae"])
def test_it_says_what_the_authors_networks_say(name):
    found, network = theirs(name)
    expected = found.of("output")
    mean, log_variance = network.encode(found.tensors["input/x"])
    latent = mean + torch.exp(0.5 * log_variance) * found.tensors["noise/z"]
    assert_equals(mean, expected["mean"])
    assert_equals(log_variance, expected["log_variance"])
    assert_equals(gaussian_divergence(mean, log_variance).sum((1, 2, 3)), expected["kl"])
    assert_equals(network.decode(latent), expected["decoded"])
    if "decoded_mean" in expected:
        assert_equals(network.decode(mean), expected["decoded_mean"])


@pytest.mark.parametrize(("latent", "parameters"), [(4, 83_649_253), (64, 84_499_393)])
def test_it_has_as_many_parameters_as_those_of_cascast_and_prediff(latent, parameters):
    with torch.device("meta"):
        network = KLAutoencoder(latent=latent)
    assert sum(p.numel() for p in network.parameters()) == parameters and network.reduction == 8


@torch.no_grad()
def test_frames_are_coded_a_few_at_a_time_and_come_out_the_same(monkeypatch):
    torch.manual_seed(0)
    network, frames = KLAutoencoder(**TINY), torch.rand(5, 1, 8, 12)
    whole, counted = network.encode(frames), []
    monkeypatch.setattr(module, "CELLS_AT_ONCE", {"cpu": 2 * 8 * 12})
    network.encoder.enter.register_forward_hook(lambda layer, given, said: counted.append(len(said)))
    network.decoder.enter.register_forward_hook(lambda layer, given, said: counted.append(len(said)))
    parts = network.encode(frames)
    network.decode(parts[0])
    assert counted == 2 * [2, 2, 1]
    torch.testing.assert_close(parts, whole)


# ---------------------------------------------------------------- loss


class Half(nn.Module):
    """Says of every frame half of it; of one latent cell the mean is 2 and the variance e."""

    reduction = 2

    def __init__(self):
        super().__init__()
        self.last_layer = nn.Parameter(torch.tensor(0.5))

    def encode(self, frames):
        self.frames = frames
        mean = torch.zeros(len(frames), 1, 1, 2)
        mean[..., 0], log_variance = 2.0, torch.zeros_like(mean)
        log_variance[..., 0] = 1.0
        return mean, log_variance

    def decode(self, latent):
        return self.last_layer * self.frames


@pytest.fixture
def frames():
    """Two of 2 x 4 cells, 0.8 everywhere but for a cell of the second that was not measured."""
    frames = torch.full((2, 1, 2, 4), 0.8)
    frames[1, 0, 0, 3] = 100.0
    return frames, frames < 100.0


def test_likelihood_and_divergence_are_sums_over_frames(frames):
    loss = AutoencoderLoss()
    nn.init.constant_(loss.log_scale, math.log(2.0))
    total, parts, shown = loss(Half(), *frames)
    # 15 cells of two frames, each 0.4 off with a scale of 2; (e + 4 - 1 - 1) / 2 in one latent cell of each frame
    likelihood, divergence = 7.5 * (0.4 / 2.0 + math.log(2.0)), (math.e + 2.0) / 2.0
    assert float(parts["reconstruction"]) == pytest.approx(0.4) and float(parts["kl"]) == pytest.approx(divergence)
    assert float(total.detach()) == pytest.approx(likelihood + 1e-6 * divergence, rel=1e-6)
    assert shown[1, 0, 0, 3] == 100.0 and float(shown[0, 0, 0, 0]) == pytest.approx(0.4)


def test_latent_cells_of_what_was_not_measured_are_free(frames):
    nothing = torch.zeros_like(frames[1])
    nothing[..., 2:] = True
    _, parts, _ = AutoencoderLoss()(Half(), frames[0], nothing)
    assert float(parts["kl"]) == 0.0  # that of the right latent cell


def test_the_scale_learns_the_mean_absolute_error(frames):
    loss = AutoencoderLoss()
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        loss(Half(), *frames)[0].backward()
        optimizer.step()
    assert float(loss.log_scale.exp()) == pytest.approx(0.4, abs=0.01)


def test_the_discriminator_pulls_half_as_hard_as_the_likelihood(frames):
    def brightness(shown):
        return 7.0 * shown[:, :, :, :3].flatten(1).mean(1)

    half, loss = Half(), AutoencoderLoss()
    total, parts, _ = loss(half, *frames, adversary=brightness)
    (with_it,) = torch.autograd.grad(total, half.last_layer)
    (alone,) = torch.autograd.grad(loss(half, *frames)[0], half.last_layer)
    assert float(parts["adversarial"]) == pytest.approx(-7.0 * 0.4)
    assert float(with_it) == pytest.approx(1.5 * float(alone), rel=1e-4) and float(alone) < 0  # both want it brighter


def test_gradients_that_are_nothing_have_a_ratio_all_the_same():
    weights = torch.ones(3, requires_grad=True)
    assert float(gradient_ratio(weights.sum(), 0.0 * weights.sum(), weights)) == 1e4


# ---------------------------------------------------------------- discriminator


def test_a_logit_sees_a_patch_of_70_cells():
    torch.manual_seed(0)
    judge = PatchDiscriminator(width=4).eval()
    frames = torch.rand(1, 1, 160, 160, requires_grad=True)
    judge(frames)[0, 0, 9, 9].backward()
    seen = frames.grad[0, 0] != 0
    assert seen.any(1).sum() == 70 and seen.any(0).sum() == 70


def test_its_loss_is_the_hinge_of_both_verdicts(monkeypatch):
    judge = PatchDiscriminator(width=4)
    monkeypatch.setattr(judge, "forward", lambda frames: frames)
    truth, generated = torch.tensor([0.5, 3.0]), torch.tensor([-2.0, 1.0], requires_grad=True)
    assert float(judge.loss(truth, generated)) == pytest.approx(0.5 * (0.25 + 1.0))


def test_it_takes_tensors_of_any_rank():
    torch.manual_seed(0)
    judge, sequences = PatchDiscriminator(width=4).eval(), torch.rand(2, 3, 1, 24, 32)
    torch.testing.assert_close(judge(sequences), judge(sequences.flatten(0, 1)))
    torch.testing.assert_close(judge(sequences[0, 0]), judge(sequences)[:1])


def test_frames_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match=r"reads frames of 24 x 24 cells or more, and these have 24 x 16"):
        PatchDiscriminator()(torch.rand(1, 1, 24, 16))


def test_it_learns_to_tell_and_the_autoencoder_to_pass():
    """A few steps each lower what each of them minimises, the other as it is."""
    torch.manual_seed(0)
    network, loss, judge = KLAutoencoder(**TINY), AutoencoderLoss(), PatchDiscriminator(width=4)
    frames = torch.rand(4, 1, 24, 24).round()
    everywhere = frames >= 0

    def steps(parameters, what, count=12):
        said, optimizer = [], torch.optim.Adam(parameters, lr=2e-3)
        for _ in range(count):
            optimizer.zero_grad()
            value = what()
            value.backward()
            optimizer.step()
            said.append(float(value.detach()))
        return said

    shown = loss(network, frames, everywhere)[2].detach()
    told = steps(judge.parameters(), lambda: judge.loss(frames, shown))
    assert told[-1] < 0.5 * told[0]
    judge.requires_grad_(False)
    learnt = steps([*network.parameters(), *loss.parameters()], lambda: loss(network, frames, everywhere)[0])
    assert learnt[-1] < 0.9 * learnt[0]
    fooled = [float(loss(network, frames, everywhere, judge)[1]["adversarial"])]
    steps([*network.parameters()], lambda: loss(network, frames, everywhere, judge)[0])
    fooled.append(float(loss(network, frames, everywhere, judge)[1]["adversarial"]))
    assert fooled[1] < fooled[0]
