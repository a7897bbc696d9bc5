"""Members of a network that learns the CRPS: each is itself, they differ once the noise has weights; and the loss."""

import numpy as np
import properscoring
import pytest
import torch

from xnowcast import models
from xnowcast.models import crps
from xnowcast.models.base import TrainingBatch
from xnowcast.nn.losses import almost_fair_crps, area_means
from xnowcast.nn.noise import Noise, member_generator
from xnowcast.nn.perturbation import noise_maps


def noise(*members):
    return Noise([member_generator(3, 0, member) for member in members])


@pytest.fixture
def frames():
    torch.manual_seed(0)
    return torch.rand(1, 5, 1, 32, 36)


@pytest.fixture
def perturbed():
    """A network whose noise has weights."""
    torch.manual_seed(1)
    model = models.build("crps-rnn", size="tiny").eval()
    model.residual = True  # as in the layer: what it forecasts is not dry throughout
    for parameter in model.perturbation.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_untrained_noise_changes_nothing(frames):
    model = models.build("crps-rnn", size="tiny")
    members = model.forecast(frames, frames >= 0, 3, noise(0, 1))
    assert members.shape == (2, 3, 1, 32, 36)
    torch.testing.assert_close(members[0], members[1])
    same = models.build("ms-convlstm", size="tiny")
    same.network.load_state_dict(model.network.state_dict())
    torch.testing.assert_close(members[:1], same.forecast(frames, frames >= 0, 3))


def test_members_differ_and_each_is_itself_in_any_company(perturbed, frames):
    together = perturbed.forecast(frames, frames >= 0, 4, noise(0, 1, 2))
    assert (together[0] - together[1]).abs().mean() > 1e-4
    for member in range(3):
        alone = perturbed.forecast(frames, frames >= 0, 4, noise(member))
        torch.testing.assert_close(together[member : member + 1], alone)


def test_it_begins_from_a_network_without_members(frames):
    for begun in ("ms-convlstm", "db-convlstm"):
        model, other = models.build("crps-rnn", size="tiny"), models.build(begun, size="tiny")
        assert begun in model.begins_from
        model.begin_from(other)
        inside = other.forecasting if begun.startswith("db") else other.network
        for mine, theirs in zip(model.network.parameters(), inside.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_the_loss_learns_a_spread_that_fits(frames):
    """Truth is the last frame plus one number per sample: only members that differ can have the least CRPS."""
    torch.manual_seed(2)
    model = models.build("crps-rnn", size="tiny", input_frames=1, target_frames=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        rain = torch.full((8, 2, 1, 16, 16), 2.0)
        rain[:, 1] *= 10.0 ** torch.randn(8, 1, 1, 1).mul(0.3)
        loss = model.loss(TrainingBatch(rain, rain >= 0), progress=0.0).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    one = torch.full((1, 1, 1, 16, 16), 2.0)
    with torch.no_grad():
        members = model.forecast(model.transform(one), one >= 0, 1, noise(*range(20)))
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    assert members.std(0).mean() > 0.02


def test_the_almost_fair_crps_lies_between_the_usual_and_the_fair_one():
    members, truth = torch.rand(6, 5), torch.rand(6)
    usual = properscoring.crps_ensemble(truth.numpy(), members.numpy())
    apart = np.abs(members.numpy()[:, :, None] - members.numpy()[:, None]).sum((1, 2)) / 2
    fair = np.abs(members.numpy() - truth.numpy()[:, None]).mean(1) - apart / (5 * 4)
    np.testing.assert_allclose(almost_fair_crps(members, truth, 0.0), usual, rtol=1e-5)
    np.testing.assert_allclose(almost_fair_crps(members, truth, 1.0), fair, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(almost_fair_crps(members, truth, 0.95), 0.95 * fair + 0.05 * usual, rtol=1e-5, atol=1e-7)


def test_area_means_are_over_what_is_known():
    fields = torch.tensor([[[1.0, 3.0, 5.0, 9.0], [5.0, 7.0, 9.0, 9.0]]])
    known = torch.tensor([[[True, True, False, False], [False, False, True, False]]])
    means, enough = area_means(fields, known, 2)
    assert means.tolist() == [[[2.0, 9.0]]] and enough.tolist() == [[[True, False]]]


def test_noise_maps_change_slowly_and_keep_their_strength():
    torch.manual_seed(4)
    maps = [noise_maps(lambda *shape: torch.randn(40, *shape), (64, 64))]
    for _ in range(30):
        maps.append(noise_maps(lambda *shape: torch.randn(40, *shape), (64, 64), maps[-1]))
    for first, before, last in zip(maps[0], maps[-2], maps[-1], strict=True):
        assert float(last.std() / first.std()) == pytest.approx(1.0, abs=0.1)
        together = torch.corrcoef(torch.stack([last.flatten(), before.flatten()]))
        assert float(together[0, 1]) == pytest.approx(0.9, abs=0.03)


def test_noise_on_any_level_reaches_the_forecast(frames):
    for at in range(4):
        model = models.build("crps-rnn", size="tiny")
        model.residual = True
        torch.nn.init.normal_(model.perturbation.maps[at].weight)
        members = model.forecast(frames, frames >= 0, 2, noise(0, 1))
        assert (members[0] - members[1]).abs().max() > 1e-4


def test_members_drift_in_training_as_they_will_in_the_layer():
    """What is moved by a cell a step is two cells away at the second; what would be read from outside is left out."""
    fields = torch.arange(8.0).expand(2, 2, 8, 8)
    moved, inside = crps._drifted(fields, torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    assert moved[0, :, 3, 2].tolist() == [3.0, 4.0] and moved[1, :, 3, 2].tolist() == [2.0, 2.0]
    assert inside[0, 1, 3].tolist() == [True] * 6 + [False] * 2 and inside[1].all()
    layer = models.build("lagrangian", network="crps-rnn", size="tiny", motion_noise=0.4)
    assert layer.network.drift == 0.4
    torch.manual_seed(0)
    rain = 4.0 * torch.rand(1, 4 + 2, 1, 48, 48)
    losses = [float(layer.loss(TrainingBatch(rain, rain >= 0), progress=0.0).total.detach()) for _ in range(2)]
    assert losses[0] != losses[1]  # untrained noise changes nothing: only the drift is random


def test_on_squares_of_cells_the_finest_noise_still_has_a_number_for_each_cell(frames):
    model = models.build("crps-rnn", size="tiny", patch=2)
    assert model.task.grid_multiple == 8
    maps = noise_maps(lambda *shape: torch.randn(1, *shape), (32, 40), patch=2)
    assert [part.shape[-2:] for part in maps] == [(32, 40), (8, 10), (4, 5)]
    model.residual = True
    torch.nn.init.normal_(model.perturbation.maps[-1].weight)
    members = model.forecast(frames[..., :32], frames[..., :32] >= 0, 1, noise(0, 1))
    within = (members[0] - members[1])[0, 0].unflatten(0, (16, 2)).unflatten(2, (16, 2)).std((1, 3))
    assert within.mean() > 1e-4  # cells of one square differ
