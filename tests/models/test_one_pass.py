"""What forecasters of one pass share, on a network whose frames can be worked out by hand."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from xnowcast import models
from xnowcast.models.base import Task, TrainingBatch
from xnowcast.models.one_pass import OnePassForecaster, OnePassOptions


@dataclass(frozen=True, kw_only=True)
class FadingOptions(OnePassOptions):
    def task(self):
        return Task("forecast", input_frames=self.input_frames, quantity="rain_rate", trained=True)


class Fading(OnePassForecaster[FadingOptions]):
    """Two frames ahead, half and a quarter of the newest."""

    def __init__(self, **options):
        super().__init__(**options)
        self.network = Halves()


class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def forward(self, frames):
        newest = frames[:, -1:]
        return torch.cat([self.factor * newest, self.factor**2 * newest], dim=1)


def frames_of(*values):
    return torch.tensor(values)[None, :, None, None, None].expand(-1, -1, -1, 8, 8)


def test_forecasts_go_on_from_what_the_pass_before_made_and_end_where_they_are_asked_to():
    frames = frames_of(0.0, 0.2, 0.8)
    forecast = Fading(input_frames=2).forecast(frames, frames >= 0, steps=5)
    assert forecast[0, :, 0, 3, 4].tolist() == pytest.approx([0.4, 0.2, 0.1, 0.05, 0.025])


def test_a_residual_one_says_the_difference_from_the_newest_frame():
    frames, model = frames_of(0.0, 0.4), Fading(input_frames=2)
    model.become_residual()
    assert model.forecast(frames, frames >= 0, steps=3)[0, :, 0, 0, 0].tolist() == pytest.approx([0.6, 0.5, 0.75])


def test_the_loss_is_the_squared_error_of_measured_cells_of_all_frames_ahead():
    model = Fading(input_frames=1, target_frames=3)
    scaled = frames_of(0.8, 0.4, 0.2, 0.25)
    observed = torch.ones_like(scaled, dtype=torch.bool)
    rain = model.transform.inverse(scaled)
    batch = TrainingBatch(rain, observed)
    error = float(model.loss(batch, progress=0.5).total.detach())
    assert error == pytest.approx(0.15**2 / 3, rel=1e-3)
    observed = observed.clone()
    observed[:, 3] = False
    assert float(model.loss(TrainingBatch(rain, observed), progress=0.5).total.detach()) == pytest.approx(0, abs=1e-8)


def test_it_is_a_network_of_the_layer_that_moves_with_the_rain():
    layer = models.build("lagrangian", network=Fading(input_frames=3))
    frames = torch.from_numpy(np.random.default_rng(0).random((1, 4, 1, 32, 40), dtype="f4"))
    assert layer.forecast(frames, frames >= 0, steps=3).shape == (1, 3, 1, 32, 40)
