"""A system inside another that begins with what it says: which will do, how it learns, and how it is taken over."""

from dataclasses import replace
from datetime import timedelta

import pytest
import torch
from torch import nn

import xnowcast
from xnowcast import models
from xnowcast.models.base import TrainingBatch
from xnowcast.models.first_stage import FirstStage, FirstStageOptions


@pytest.fixture
def frames():
    torch.manual_seed(0)
    return torch.rand(1, 4, 1, 32, 32)


def tiny(**options):
    torch.manual_seed(1)
    return models.build("diffcast", size="tiny", **options)


def batch_of(frames):
    rain = 10.0 * torch.cat([frames, frames], dim=1).square()
    return TrainingBatch(rain, torch.ones_like(rain, dtype=torch.bool))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_stage": "stldm"}, r"first_stage is 'stldm', which makes members: give one with a single answer"),
        ({"first_stage": "postcast"}, r"first_stage is 'postcast', which is for deblur: give one for forecast"),
        ({"first_stage": "extrapolation"}, r"'extrapolation', which does not learn with another: give frozen=True"),
        ({"first_stage": 3}, r"first_stage is 3: give the name of a system, or one that was built"),
        ({"first_stage": "phydnetz"}, r"there is no model 'phydnetz'; did you mean 'phydnet'"),
        ({"first_stage_options": {"widht": 3}}, r"'phydnet' has no option 'widht'"),
    ],
)
def test_a_first_stage_that_will_not_do_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FirstStageOptions(**options)


def test_options_of_a_built_first_stage_are_refused():
    with pytest.raises(ValueError, match="first_stage_options are those of a system that is named"):
        FirstStageOptions(first_stage=models.build("phydnet", size="tiny"), first_stage_options={"size": "tiny"})


def test_a_named_first_stage_has_size_frames_and_scaling_of_the_system_unless_told_otherwise():
    inside = tiny(scaling="hko-7", target_frames=2).first_stage.network.options
    assert (inside.size, inside.input_frames, inside.target_frames, inside.scaling) == ("tiny", 4, 2, "hko-7")
    told = tiny(first_stage="ms-convlstm", first_stage_options={"width": 8, "input_frames": 3}).first_stage.network
    assert told.options.width == 8 and told.task.input_frames == 3
    assert models.declare("diffcast", size="tiny", scaling="sevir").quantity == "vil"
    small = models.declare("diffcast", size="small", first_stage="ms-convlstm")  # which has no small one
    assert small.input_frames == 5


def test_it_is_told_what_the_system_is_trained_on():
    model = tiny()
    model.task = replace(model.task, step=timedelta(minutes=5), spacing=2000.0, crop=64)
    inside = model.first_stage.network.task
    assert (inside.step, inside.spacing, inside.crop) == (timedelta(minutes=5), 2000.0, 64)
    assert inside.grid_multiple == 4


@pytest.mark.parametrize("name", ["phydnet", "convlstm", "ms-predrnn"])
def test_the_answer_in_training_is_that_of_a_forecast_and_has_a_gradient(name, frames):
    first = tiny(first_stage=name).first_stage.eval()
    said, loss = first.learn(batch_of(frames), 1.0, frames, frames >= 0, 4)
    torch.testing.assert_close(said.detach().clamp(0, 1), first.answer(frames, frames >= 0, 4))
    assert said.requires_grad and loss.total.requires_grad
    assert not first.answer(frames, frames >= 0, 4).requires_grad


def test_a_frozen_one_stays_as_it_began(frames):
    class Normed(nn.Module):
        task, transform = models.declare("phydnet", input_frames=4), tiny().transform

        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(1)

        def forecast(self, frames, observed, steps, noise=None):
            return self.norm(frames[:, -1])[:, None].expand(-1, steps, -1, -1, -1)

    model = tiny(first_stage=Normed(), frozen=True).train()
    before = {name: own.clone() for name, own in model.first_stage.state_dict().items()}
    loss = model.loss(batch_of(frames), progress=0.0)
    loss.total.backward()
    assert set(loss.parts) == {"diffusion"} and float(loss.total.detach()) == float(loss.parts["diffusion"])
    assert all(p.grad is None for p in model.first_stage.parameters())
    assert all(torch.equal(own, before[name]) for name, own in model.first_stage.state_dict().items())
    assert model.denoiser.training and not model.first_stage.network.training


def test_any_forecaster_will_do_whatever_its_scale_and_where_it_knows_nothing(frames):
    """Rain of extrapolation is in mm/h, and NaN where it comes from outside."""
    frames = torch.stack([frames[:, 0].roll(3 * step, -1) for step in range(4)], dim=1)
    first = FirstStage(FirstStageOptions(first_stage="extrapolation", frozen=True))
    said = first.answer(frames, frames >= 0, 3)
    rain = first.transform.inverse(frames)
    expected = first.network.forecast(rain, frames >= 0, 3)
    assert 0 < said.isnan().float().mean() < 0.5 and said.isnan().equal(expected.isnan())
    torch.testing.assert_close(said, first.transform(expected), equal_nan=True)
    model = tiny(first_stage="extrapolation", frozen=True)
    assert model.loss(batch_of(frames), progress=1.0).total.isfinite()


def test_weights_of_one_that_was_trained_alone_are_taken_over(tmp_path):
    radar = xnowcast.datasets.synthetic_radar(frames=14, shape=(40, 44))
    settings = {"steps": 1, "batch_size": 1, "crop": 32, "validation": 0}
    frames = {"input_frames": 4, "target_frames": 2}
    alone = xnowcast.train("phydnet", radar, size="tiny", out=tmp_path / "alone", **frames, **settings)
    start = str(tmp_path / "alone" / "model.safetensors")
    model = xnowcast.train("diffcast", radar, size="tiny", frozen=True, start=start, **frames, **settings)
    for name, own in alone.state_dict().items():
        torch.testing.assert_close(model.first_stage.network.state_dict()[name], own)
    assert tiny().begins_from == ("phydnet",)
    assert tiny(first_stage="db-convlstm").begins_from == ("db-convlstm", "ms-convlstm")
    with pytest.raises(ValueError, match="holds weights of 'phydnet', and 'diffcast' is trained"):
        xnowcast.train("diffcast", radar, size="tiny", first_stage="convlstm", start=start, **frames, **settings)
    again = tiny()
    again.begin_from(model.to("cpu"))
    torch.testing.assert_close(dict(again.state_dict()), dict(model.state_dict()))
