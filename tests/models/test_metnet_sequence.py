"""KoMet's MetNet: what it is, what its norms keep, and that it learns what one lead time cannot tell."""

from datetime import timedelta

import numpy as np
import pytest
import torch
import xarray as xr
from rounding import assert_close
from scipy.ndimage import gaussian_filter

import xnowcast
from xnowcast import models
from xnowcast.models.base import PostprocessModel, Task, TrainableModel, TrainingBatch
from xnowcast.models.metnet_sequence import NwpMetNetSequence
from xnowcast.nn import positional_attention
from xnowcast.nn.sequence_norm import SequenceNorm

HOUR = np.timedelta64(1, "h").astype("m8[ns]")
THREE = ("rainfall_rate", "air_temperature at 2 m", "eastward_wind at 10 m")

pytestmark = pytest.mark.usefixtures("one_thread")


def sequence(**options):
    """A tiny one whose channels are z-scores already."""
    model = NwpMetNetSequence(**{"size": "tiny", "channels": THREE} | options)
    model.scaling.mean.zero_()
    model.scaling.std.fill_(1)
    return model.eval()


def probabilities(model, fields):
    return model.postprocess(fields, fields[:, -1, :1] < 9)


# ---------------------------------------------------------------- what it is


def test_the_full_size_is_the_published_one():
    model = NwpMetNetSequence()
    assert sum(p.numel() for p in model.parameters()) == 360_787
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.network.named_children()}
    assert parts == {
        **{"enter": 2352, "widen": 4704, "cells": 299_328, "blocks": 45_568},
        **{"refine": 4128, "leave": 4656, "read": 51},
    }
    assert model.network.cells[0].places.shape == (1, 32, 25, 32)
    assert sum(p.numel() for p in NwpMetNetSequence(size="tiny").parameters()) == 15_127


def test_it_keeps_the_promises_of_its_verb_and_of_training():
    model = models.build("nwp-metnet-sequence", size="tiny")
    assert isinstance(model, PostprocessModel) and isinstance(model, TrainableModel)
    assert model.task.lead_offsets == (-2, -1, 0) and model.task == models.declare("nwp-metnet-sequence")
    assert (model.task.input_frames, model.training_frames, model.task.grid_multiple) == (3, 3, 1)
    assert "at 3 lead times (-2, -1, 0 steps)" in xnowcast.card("nwp-metnet-sequence").reads
    far = NwpMetNetSequence(size="tiny", lead_offsets=[-3, 0, 1])
    assert (far.task.input_frames, far.training_frames) == (3, 5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lead_offsets": [0]}, r"lead_offsets is \[0\]: give two or more; 'nwp-metnet' reads one"),
        ({"lead_offsets": [0, -1]}, r"lead_offsets is \[0, -1\]: give whole numbers that rise, 0 among them"),
        ({"lead_offsets": [-2, -1]}, "0 among them"),
        ({"lead_offsets": [-0.5, 0]}, "lead_offsets is"),
        ({"grid": [50]}, r"grid is \[50\]: give two numbers of cells"),
        ({"size": "small"}, "size is 'small'"),
    ],
)
def test_options_that_will_not_do_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        models.declare("nwp-metnet-sequence", **options)


def test_a_task_of_ones_own_is_checked_as_well():
    with pytest.raises(ValueError, match="lead_offsets is"):
        Task("postprocess", 2, lead_offsets=(1, 0))


@pytest.mark.parametrize("shape", [(50, 65), (16, 16), (9, 70), (8, 8)])
def test_probabilities_sum_to_one_on_any_grid(shape):
    fields = torch.randn(2, 3, 3, *shape)
    made = probabilities(sequence(), fields)
    assert made.shape == (2, 3, *shape) and made.dtype == torch.float32 and not made.requires_grad
    torch.testing.assert_close(made.sum(dim=1), torch.ones(2, *shape))


def test_every_lead_time_counts_and_their_order():
    model, fields = sequence(), torch.randn(1, 3, 3, 16, 16)
    before = probabilities(model, fields)
    for step in range(3):
        other = fields.clone()
        other[:, step] += torch.randn(1, 3, 16, 16)
        assert (probabilities(model, other) - before).abs().max() > 1e-4
    assert (probabilities(model, fields.flip(1)) - before).abs().max() > 1e-4


def test_missing_values_count_as_the_mean():
    model, fields = sequence(), torch.randn(1, 3, 3, 16, 16)
    gaps, filled = fields.clone(), fields.clone()
    gaps[:, 0, 1, 4:9], filled[:, 0, 1, 4:9] = torch.nan, 0
    torch.testing.assert_close(probabilities(model, gaps), probabilities(model, filled))


def test_a_field_is_answered_alike_alone_and_in_a_batch_but_by_the_batchs_statistics():
    fields = torch.randn(3, 3, 3, 16, 16)
    kept, published = sequence(), sequence(batch_statistics=True)
    assert_close(probabilities(kept, fields)[1:2], probabilities(kept, fields[1:2]))
    apart = (probabilities(published, fields)[1:2] - probabilities(published, fields[1:2])).abs().max()
    assert apart > 1e-3 and "mean" not in {name.split(".")[-1] for name in published.network.state_dict()}


def test_lines_in_parts_are_the_same(monkeypatch):
    model, fields = sequence(), torch.randn(2, 3, 3, 16, 18)
    whole = probabilities(model, fields)
    monkeypatch.setattr(positional_attention, "LARGEST_SIMILARITY", 2000)
    assert_close(probabilities(model, fields), whole)


def test_bfloat16_is_close_and_activation_is_told():
    model, fields = sequence(), torch.randn(1, 3, 3, 16, 16)
    exact = probabilities(model, fields)
    model.precision = "bfloat16"
    rounded = probabilities(model, fields)
    assert not rounded.equal(exact)
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0)
    seen = model.explain(fields, fields[:, -1, :1] < 9, 1)
    assert seen.shape == (1, 16, 16) and seen.min() >= 0 and seen.max() <= 1


# ---------------------------------------------------------------- what its norms keep


def test_each_step_of_a_sequence_has_its_own_statistics():
    torch.manual_seed(0)
    norm, plain = SequenceNorm(2, steps=2), torch.nn.BatchNorm2d(2)
    steps = [torch.randn(4, 2, 6, 6), 5 + 3 * torch.randn(4, 2, 6, 6)]
    for _ in range(200):
        trained = [norm(x, step) for step, x in enumerate(steps)]
        torch.testing.assert_close(trained[0], plain(steps[0]))
    norm.eval(), plain.eval()
    for step, x in enumerate(steps):
        torch.testing.assert_close(norm(x, step), trained[step], atol=0.02, rtol=0)
    assert_close(norm(steps[0], 0), plain(steps[0]))


def test_trained_long_on_a_batch_it_says_of_it_what_it_said_in_training():
    model = sequence().train()
    fields = torch.randn(4, 3, 3, 24, 24)
    with torch.no_grad():
        for _ in range(60):
            last = model.network(fields)
        apart = (model.eval().network(fields) - last).abs().mean()  # a spread of n cells is kept as that of n - 1
        for layer in model.modules():
            if isinstance(layer, SequenceNorm):  # those of all lead times together, as plain norms would keep
                layer.mean[:], layer.variance[:] = layer.mean.mean(0), layer.variance.mean(0)
        assert apart < 0.1 and (model.network(fields) - last).abs().mean() > 2 * apart


def test_the_loss_is_that_of_the_lead_time_that_is_corrected():
    model = sequence(lead_offsets=[-2, 0, 1])
    rain, channels = 5 * torch.rand(2, 4, 1, 16, 16), torch.randn(2, 4, 3, 16, 16)
    observed = torch.ones_like(rain, dtype=torch.bool)

    def loss(rain, channels):
        return model.loss(TrainingBatch(rain, observed, channels), progress=0.0).total.item()

    before = loss(rain, channels)
    others = rain.clone()
    others[:, [0, 1, 3]] = 0  # the window is -2 to 1
    unread = channels.clone()
    unread[:, 1] = 0
    assert loss(others, unread) == before
    others[:, 2] = 0
    assert loss(others, channels) != before and loss(rain, channels.flip(1)) != before


# ---------------------------------------------------------------- what it learns


def an_hour_late(runs, seed, leads=5, size=24):
    """Pairs whose forecast has the rain of the hour before; lead times do not resemble each other."""
    random = np.random.default_rng(seed)
    patterns = gaussian_filter(random.standard_normal((runs, leads, size, size)), (0, 0, 3, 3), mode="wrap")
    rain = np.clip(4 * (patterns / patterns.std() - 0.5), 0, None).astype("f4")
    fell = np.concatenate([np.full_like(rain[:, :1], np.nan), rain[:, :-1]], axis=1)
    start = np.datetime64("2024-06-01", "ns") + 24 * np.arange(runs) * HOUR
    metres = 5e3 * np.arange(size)
    dims, attrs = ("init_time", "lead_time", "y", "x"), {"standard_name": "rainfall_rate", "units": "mm h-1"}
    return xr.Dataset(
        {"rain": (dims, rain, attrs), "observed_rain": (dims, fell, attrs)},
        {
            **{"init_time": start, "lead_time": np.arange(1, leads + 1) * HOUR},
            **{"y": ("y", metres[::-1], {"units": "m"}), "x": ("x", metres, {"units": "m"})},
        },
    )


def learnt(system, pairs, steps=50, **options):
    return xnowcast.train(
        system,
        pairs,
        **{
            "size": "tiny",
            "channels": ["rainfall_rate"],
            "variable": "observed_rain",
            "class_weights": [1.0, 1.0, 1.0],
        },
        **{"steps": steps, "crop": 24, "batch_size": 4, "learning_rate": 0.02, "validation": 0, "progress": False},
        **options,
    )


def csi(corrected, pairs):
    """Of 0.1 mm/h, where it is known."""
    fell = pairs.observed_rain.sel(lead_time=corrected.lead_time)
    said, rained = (corrected.rain_category >= 1).where(fell.notnull(), False), fell >= 0.1
    return float((said & rained).sum() / (said | rained).sum())


@pytest.mark.filterwarnings("ignore:there is no rain of 10 mm/h")
def test_it_learns_what_the_lead_time_before_tells_and_is_the_same_saved(tmp_path):
    pairs, others = an_hour_late(16, 0), an_hour_late(4, 1)
    model = learnt("nwp-metnet-sequence", pairs, lead_offsets=[-1, 0], out=tmp_path / "run")
    alone = learnt("nwp-metnet", pairs)
    corrected = others.nowcast.postprocess(model)
    assert csi(corrected, others) > 0.6 > 0.3 > csi(others.nowcast.postprocess(alone), others)
    assert model.task.step == timedelta(hours=1) and alone.task.step is None
    assert (model.task.lead_offsets, corrected.lead_time.size) == ((-1, 0), 4)

    saved = tmp_path / "run" / "model.safetensors"
    xr.testing.assert_equal(others.nowcast.postprocess("nwp-metnet-sequence", weights=saved), corrected)
    assert xnowcast.card(saved).contract["step"] == 3600 and "a step of 60 minutes" in xnowcast.card(saved).reads

    coarse = others.assign_coords(lead_time=3 * others.lead_time)
    with pytest.raises(ValueError, match=r"made for a step of 60 min, and the data have 180 min: .* stride=3"):
        coarse.nowcast.postprocess(saved)
    with pytest.warns(UserWarning, match="made for a step of 60 min"):
        assert coarse.nowcast.postprocess(saved, on_mismatch="warn").lead_time.size == 4


def test_runs_of_one_lead_time_are_no_sequence():
    pairs = an_hour_late(8, 0)
    one = pairs.isel(lead_time=[2])
    with pytest.raises(ValueError, match="one lead_time, and the model reads several"):
        learnt("nwp-metnet-sequence", one)
    with pytest.raises(ValueError, match="the data have one lead_time"):
        learnt("nwp-metnet-sequence", one.squeeze("lead_time").rename(init_time="time"))
    with pytest.raises(ValueError, match="no window of 3 frames fits"):
        learnt("nwp-metnet-sequence", pairs.isel(lead_time=[0, 1, 3, 4]))
