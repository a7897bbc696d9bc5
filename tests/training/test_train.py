"""Training learns, repeats itself bit for bit, survives being stopped, and refuses what cannot work."""

import csv
import math
import os
import re
import signal
import subprocess
import sys
import threading
import tomllib
from dataclasses import fields, replace
from datetime import timedelta
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import xnowcast
from xnowcast import models
from xnowcast.cli import main
from xnowcast.models.base import Loss, Task
from xnowcast.models.transforms import Reflectivity
from xnowcast.training import checkpoint
from xnowcast.training.loop import learning_rate
from xnowcast.training.settings import Config, DataSettings, TrainingSettings, read_config, write_config
from xnowcast.training.train import train_from_config

pytest.importorskip("lightning", reason="needs the extra train")

PACKAGE = Path(xnowcast.__file__).parent


class Critic(nn.Module):
    """Tells forecast frames from observed ones by one convolution."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=4), nn.LeakyReLU(), nn.Conv2d(4, 1, 1))

    def forward(self, frames):
        return self.net(frames).mean((1, 2, 3))

    def loss(self, truth, generated):
        real, fake = self(truth), self(generated)
        bce = nn.functional.binary_cross_entropy_with_logits
        return bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))


class Tiny(nn.Module):
    """Two convolutions over two frames give the change to the next."""

    training_frames = 4

    def __init__(self, width: int = 6, dropout: float = 0.0, adversarial: bool = False, sabotage: int = -1):
        super().__init__()
        self.task = self.declare(width, dropout, adversarial, sabotage)
        self.transform = Reflectivity()
        self.hidden = nn.Conv2d(2, width, 5, padding=2)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Conv2d(width, 1, 5, padding=2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.adversarial, self.sabotage = adversarial, sabotage

    @classmethod
    def declare(cls, width: int = 6, dropout: float = 0.0, adversarial: bool = False, sabotage: int = -1) -> Task:
        return Task("forecast", input_frames=2, quantity="rain_rate", grid_multiple=4, trained=True)

    def advance(self, frames):
        return frames[:, -1] + self.out(self.dropout(torch.relu(self.hidden(frames[:, -2:, 0]))))

    def forecast(self, frames, observed, steps, noise=None):
        for _ in range(steps):
            frames = torch.cat([frames, self.advance(frames)[:, None]], dim=1)
        return frames[:, -steps:]

    def loss(self, batch, *, progress, adversary=None):
        if self.training:
            self.calls += 1
        frames = self.transform(batch.rain)
        said = torch.stack([self.advance(frames[:, t - 2 : t]) for t in (2, 3)], dim=1)
        seen = batch.observed[:, 2:]
        error = (said - frames[:, 2:]).square()[seen].mean()
        if int(self.calls) == self.sabotage:
            error = error * math.nan
        if adversary is None:
            return Loss(error, {"error": error})
        fooled = nn.functional.softplus(-adversary(said.flatten(0, 1))).mean()
        return Loss(
            error + 0.001 * fooled, {"error": error, "fooled": fooled}, frames[:, 2:].flatten(0, 1), said.flatten(0, 1)
        )

    def adversary(self, shape):
        return Critic() if self.adversarial else None


class Reader(nn.Module):
    """Rain out of channels and static fields, scaled by what is told of them, by one convolution."""

    training_frames = 2

    def __init__(self, channels=("air_temperature",), static=("surface_altitude",)):
        super().__init__()
        self.task, self.transform = self.declare(channels, static), Reflectivity()
        self.read = nn.Conv2d(len(channels) + len(static), 1, 3, padding=1)
        for name, count in (("centre", len(channels)), ("spread", len(channels)), ("largest", len(static))):
            self.register_buffer(name, torch.full((count, 1, 1), torch.nan))

    @classmethod
    def declare(cls, channels=("air_temperature",), static=("surface_altitude",)) -> Task:
        return Task("postprocess", input_frames=1, channels=tuple(channels), static=tuple(static), trained=True)

    def set_channel_statistics(self, mean, std, low, high):
        assert ((low < mean) & (mean < high)).all()
        self.centre[:, 0, 0], self.spread[:, 0, 0] = mean, std

    def set_static_statistics(self, mean, std, low, high):
        self.largest[:, 0, 0] = high

    def loss(self, batch, *, progress, adversary=None):
        b, t = batch.rain.shape[:2]
        assert batch.channels.shape[:3] == (b, t, len(self.task.channels)) and batch.static.shape[0] == b
        fields = ((batch.channels - self.centre) / self.spread).nan_to_num(0.0)
        fixed = (batch.static / self.largest)[:, None].expand(-1, t, -1, -1, -1)
        said = self.read(torch.cat([fields, fixed], dim=2).flatten(0, 1)).unflatten(0, (b, t))
        return Loss((said - batch.rain)[batch.observed].square().mean())

    def adversary(self, shape):
        return None


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr("xnowcast.models.registry.REGISTRY", dict(models.REGISTRY))
    models.register("tiny", f"{__name__}:Tiny")
    models.register("reader", f"{__name__}:Reader")
    torch.set_num_threads(1)


def radar(seed=1, frames=32, shape=(48, 56), **options):
    return xnowcast.datasets.synthetic_radar(frames=frames, shape=shape, seed=seed, **options).load()


@pytest.fixture(scope="module")
def event():
    return radar()


SHORT = {"steps": 12, "crop": 16, "batch_size": 2, "validate_every": 4, "validation_crops": 4, "progress": False}
SHORT |= {"pictures_every": 0, "log_every": 1, "learning_rate": 3e-3}


def same(one, other):
    """Two state dicts are equal bit for bit."""
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def flat(state, place=""):
    """A checkpoint's tensors and numbers by their places."""
    if isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for key, value in items for k, v in flat(value, f"{place}/{key}").items()}
    return {place: state}


def same_checkpoints(one, other):
    one, other = flat(checkpoint.read(one)), flat(checkpoint.read(other))
    assert one.keys() == other.keys()
    differing = [
        name
        for name, value in one.items()
        if not (torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name])
    ]
    assert differing == []


def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


class Stop(Exception):
    pass


@pytest.fixture
def stop_after(monkeypatch):
    """Makes a training fail when it asks for its n-th sample, as a crash would."""
    from xnowcast.training.crops import Crops

    def arm(samples):
        read = Crops.__getitem__

        def limited(self, number):
            if self.stream == 0 and number >= samples:
                raise Stop
            return read(self, number)

        monkeypatch.setattr(Crops, "__getitem__", limited)
        return lambda: monkeypatch.setattr(Crops, "__getitem__", read)

    return arm


# ---------------------------------------------------------------- learning


def test_a_trained_model_beats_persistence_on_weather_that_it_never_saw():
    weather = [radar(seed=seed, motion=(12.0, 0.0)) for seed in (1, 2, 3)]
    model = xnowcast.train(
        "tiny",
        weather[:2],
        steps=250,
        crop=32,
        batch_size=4,
        learning_rate=5e-3,
        augment=False,
        progress=False,
        width=8,
    )
    starts = slice("2024-06-01T12:30", "2024-06-01T14:00", "10min")
    errors = {}
    for name, forecaster in {"tiny": model, "persistence": "persistence"}.items():
        forecast = weather[2].nowcast.forecast(forecaster, init_times=starts, steps=2).rainfall_rate
        observed = weather[2].rainfall_rate.sel(time=forecast.valid_time)
        errors[name] = float(np.abs(np.sqrt(forecast) - np.sqrt(observed)).mean())
    assert errors["tiny"] < 0.9 * errors["persistence"]


def test_the_model_comes_back_ready_for_a_forecast(event):
    model = xnowcast.train("tiny", event, **SHORT)
    assert not model.training and next(model.parameters()).device.type == "cpu"
    assert (model.task.step.total_seconds(), model.task.spacing, model.task.crop) == (300, 1000.0, SHORT["crop"])
    assert model.card.system == "tiny" and model.card.parameters == sum(p.numel() for p in model.parameters())
    assert "rainfall_rate" in model.card.training_data and "validation loss" in model.card.scores
    assert event.nowcast.forecast(model, steps=3).rainfall_rate.shape == (1, 3, 48, 56)
    with pytest.raises(ValueError, match="step of 5 min"):
        event.isel(time=slice(None, None, 2)).nowcast.forecast(model, steps=1)


def test_the_saved_weights_forecast_the_same_bit_for_bit(event, tmp_path):
    model = xnowcast.train("tiny", event, out=tmp_path / "run", ema=0.9, **SHORT)
    weights = str(tmp_path / "run" / "model.safetensors")
    assert xnowcast.card(weights) == model.card
    assert event.nowcast.forecast(model, steps=3).equals(event.nowcast.forecast(weights, steps=3))
    best = str(tmp_path / "run" / "best.safetensors")
    assert event.nowcast.forecast(best, steps=3).rainfall_rate.equals(
        event.nowcast.forecast(model, steps=3).rainfall_rate
    )


def test_a_built_model_is_trained_in_place(event):
    built = Tiny()
    before = built.out.weight.clone()
    assert xnowcast.train(built, event, **SHORT) is built
    assert not torch.equal(before, built.out.weight)


def test_training_may_begin_from_other_weights(event, tmp_path):
    first = xnowcast.train("tiny", event, out=tmp_path / "first", **SHORT)
    start = str(tmp_path / "first" / "model.safetensors")
    barely = SHORT | {"steps": 1, "learning_rate": 1e-12, "validate_every": 1}
    again = xnowcast.train("tiny", event, start=start, **barely)
    for name, weight in first.named_parameters():
        torch.testing.assert_close(again.get_parameter(name), weight)
    assert not torch.equal(xnowcast.train("tiny", event, **barely).out.weight, first.out.weight)
    with pytest.raises(ValueError, match="holds weights of 'tiny', and 'ms-convlstm' is trained"):
        xnowcast.train("ms-convlstm", event, start=start, size="tiny", **SHORT)
    with pytest.raises(ValueError, match="there is no weights file"):
        xnowcast.train("tiny", event, start="none.safetensors", **SHORT)


def test_training_leaves_the_users_random_numbers_alone(event):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    xnowcast.train("tiny", event, **SHORT, dropout=0.5)
    assert torch.equal(torch.rand(3), expected)


def test_nothing_is_written_without_a_folder(event, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    xnowcast.train("tiny", event, **SHORT)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- the same numbers again


def test_two_runs_are_equal_bit_for_bit(event, tmp_path):
    for name in "ab":
        xnowcast.train("tiny", event, out=tmp_path / name, ema=0.9, dropout=0.3, adversarial=True, **SHORT)
    same_checkpoints(tmp_path / "a" / "checkpoint.safetensors", tmp_path / "b" / "checkpoint.safetensors")
    other = xnowcast.train("tiny", event, seed=1, **SHORT)
    assert not torch.equal(other.out.weight, xnowcast.train("tiny", event, **SHORT).out.weight)


def test_workers_change_nothing(event):
    alone = xnowcast.train("tiny", event, **SHORT, dropout=0.3)
    for workers in (1, 3):
        assert same(
            alone.state_dict(), xnowcast.train("tiny", event, workers=workers, **SHORT, dropout=0.3).state_dict()
        )


def test_chunks_change_nothing(event):
    chunked = event.chunk(time=5, y=20)
    assert same(
        xnowcast.train("tiny", event, **SHORT).state_dict(), xnowcast.train("tiny", chunked, **SHORT).state_dict()
    )


@pytest.mark.parametrize("samples", [1, 9, 17])  # before the first checkpoint, between two, after the second
def test_a_run_that_crashed_and_was_resumed_equals_an_unbroken_one(event, tmp_path, stop_after, samples):
    options = SHORT | {"ema": 0.9, "dropout": 0.3, "adversarial": True, "workers": 2}
    unbroken = xnowcast.train("tiny", event, out=tmp_path / "unbroken", **options)
    repair = stop_after(samples)
    with pytest.raises(Stop):
        xnowcast.train("tiny", event, out=tmp_path / "broken", **options)
    repair()
    resumed = xnowcast.train("tiny", event, out=tmp_path / "broken", resume=True, **options)
    assert same(unbroken.state_dict(), resumed.state_dict())
    same_checkpoints(tmp_path / "unbroken" / "checkpoint.safetensors", tmp_path / "broken" / "checkpoint.safetensors")
    timeless = [
        [{k: v for k, v in row.items() if k != "samples_per_second"} for row in rows(tmp_path / name)]
        for name in ("unbroken", "broken")
    ]
    assert timeless[0] == timeless[1]


KILLED = """
import os, signal, sys, torch
sys.path.insert(0, {tests!r})
import test_train, xnowcast
from xnowcast.training.crops import Crops
torch.set_num_threads(1)
xnowcast.models.register("tiny", "test_train:Tiny")
read = Crops.__getitem__

def dying(crops, number):
    if crops.stream == 0 and number >= 24:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(crops, number)

Crops.__getitem__ = dying
xnowcast.train("tiny", test_train.radar(), out={out!r}, **test_train.KILLED_OPTIONS)
"""
KILLED_OPTIONS = SHORT | {"steps": 20, "schedule": "constant", "checkpoint_every": 5, "validate_every": 500}
KILLED_OPTIONS |= {"ema": 0.9, "dropout": 0.3}


def test_a_run_that_was_killed_and_resumed_equals_an_unbroken_one(event, tmp_path):
    out = tmp_path / "killed"
    words = [sys.executable, "-c", KILLED.format(tests=str(Path(__file__).parent), out=str(out))]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    assert checkpoint.read(out / "checkpoint.safetensors")["step"] in (5, 10)
    resumed = xnowcast.train("tiny", event, out=out, resume=True, **KILLED_OPTIONS)
    unbroken = xnowcast.train("tiny", event, out=tmp_path / "unbroken", **KILLED_OPTIONS)
    assert same(resumed.state_dict(), unbroken.state_dict())
    same_checkpoints(out / "checkpoint.safetensors", tmp_path / "unbroken" / "checkpoint.safetensors")


def test_a_finished_run_can_be_made_longer(event, tmp_path):
    options = SHORT | {"schedule": "constant", "keep": "last"}
    xnowcast.train("tiny", event, out=tmp_path / "run", **options)
    again = xnowcast.train("tiny", event, out=tmp_path / "run", resume=True, **options)
    longer = xnowcast.train("tiny", event, out=tmp_path / "run", resume=True, **options | {"steps": 16})
    assert same(longer.state_dict(), xnowcast.train("tiny", event, **options | {"steps": 16}).state_dict())
    assert same(again.state_dict(), xnowcast.train("tiny", event, **options).state_dict())


TOGETHER = """
import sys, torch
sys.path.insert(0, {tests!r})
import test_train, xnowcast
torch.set_num_threads(1)
xnowcast.models.register("tiny", "test_train:Tiny")
options = dict(test_train.SHORT, batch_size=1, keep="last", min_coverage=1.0, adversarial=True)
xnowcast.train("tiny", test_train.radar(coverage=False), out={out!r}, devices=2, device="cpu", **options)
"""


def test_two_devices_do_the_work_of_one(tmp_path):
    script = tmp_path / "together.py"
    script.write_text(TOGETHER.format(tests=str(Path(__file__).parent), out=str(tmp_path / "two")))
    subprocess.run([sys.executable, str(script)], check=True, capture_output=True)
    options = SHORT | {"batch_size": 2, "keep": "last", "min_coverage": 1.0, "adversarial": True}
    one = xnowcast.train("tiny", radar(coverage=False), out=tmp_path / "one", **options)
    two = xnowcast.load(tmp_path / "two" / "model.safetensors")
    torch.testing.assert_close(two.out.weight, one.out.weight, rtol=1e-3, atol=1e-5)
    for name in ("loss", "adversary", "gradient_norm"):
        alone, together = (float(rows(tmp_path / folder)[0][name]) for folder in ("one", "two"))
        assert together == pytest.approx(alone, rel=0.02 if name == "gradient_norm" else 1e-4)


# ---------------------------------------------------------------- arithmetic


def test_accumulated_batches_equal_one_large_batch(event):
    options = SHORT | {"keep": "last", "min_coverage": 1.0}  # fully covered, so that every cell weighs the same
    options |= {"optimizer": "adam", "steps": 5}
    whole = radar(coverage=False)
    large = xnowcast.train("tiny", whole, **options | {"batch_size": 4})
    small = xnowcast.train("tiny", whole, **options | {"batch_size": 2, "accumulate": 2})
    for name, value in large.state_dict().items():
        if name != "calls":
            torch.testing.assert_close(value, small.state_dict()[name], rtol=1e-3, atol=1e-5)


def test_the_average_of_the_weights_is_the_one_worked_out_by_hand(event, tmp_path):
    weights, options = [], SHORT | {"schedule": "constant", "keep": "last", "validation": 0}
    torch.manual_seed(0)
    weights.append(Tiny().out.weight)
    for steps in (1, 2, 3):
        xnowcast.train("tiny", event, out=tmp_path / f"{steps}", ema=0.15, **options | {"steps": steps})
        weights.append(checkpoint.read(tmp_path / f"{steps}" / "checkpoint.safetensors")["model"]["out.weight"])
    # (1 + n) / (10 + n) is 0.1, 0.1818..., 0.25; the last two exceed 0.15.
    first = 0.1 * weights[0] + 0.9 * weights[1]
    second = 0.15 * first + 0.85 * weights[2]
    third = 0.15 * second + 0.85 * weights[3]
    average = xnowcast.load(tmp_path / "3" / "model.safetensors").out.weight
    torch.testing.assert_close(average, third)


def test_the_learning_rate_follows_its_schedule(event, tmp_path):
    options = SHORT | {"steps": 6, "learning_rate": 0.01, "warmup": 2, "validate_every": 6}
    xnowcast.train("tiny", event, out=tmp_path / "cosine", **options)
    xnowcast.train("tiny", event, out=tmp_path / "constant", **options | {"schedule": "constant"})
    cosine, constant = ([float(row["learning_rate"]) for row in rows(tmp_path / n)] for n in ("cosine", "constant"))
    np.testing.assert_allclose(cosine, [0.005, 0.01, 0.01, 0.00853553, 0.005, 0.00146447], rtol=1e-5)
    np.testing.assert_allclose(constant, [0.005, 0.01, 0.01, 0.01, 0.01, 0.01])


@pytest.mark.parametrize("steps", [7, 40, 101])
def test_one_cycle_is_that_of_torch(steps):
    settings = TrainingSettings(steps=steps, learning_rate=0.01, schedule="onecycle")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
    for step in range(steps):
        assert learning_rate(settings, step) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        if step < steps - 1:
            scheduler.step()
    with pytest.raises(ValueError, match="'onecycle' rises by itself: leave warmup out"):
        TrainingSettings(schedule="onecycle", warmup=5)


def test_the_cosine_ends_at_the_least_learning_rate(event, tmp_path):
    options = SHORT | {"steps": 4, "learning_rate": 0.01, "min_learning_rate": 0.002, "validate_every": 4}
    xnowcast.train("tiny", event, out=tmp_path / "run", **options)
    rates = [float(row["learning_rate"]) for row in rows(tmp_path / "run")]
    share = (1 + np.cos(np.pi * np.arange(4) / 4)) / 2
    np.testing.assert_allclose(rates, 0.002 + 0.008 * share, rtol=1e-6)
    refused("where a cosine ends, and the schedule is 'constant'", event, min_learning_rate=1e-5, schedule="constant")


def test_without_averages_adam_moves_every_weight_by_the_learning_rate(event):
    def moved(**options):
        torch.manual_seed(0)
        built = Tiny()
        before = built.out.bias.detach().clone()
        settings = {"steps": 2, "validation": 0, "schedule": "constant", "learning_rate": 1e-3, "keep": "last"}
        xnowcast.train(built, event, **SHORT | settings | options)
        return float((built.out.bias.detach() - before).abs())

    # m = g and v = g**2, so that each step is the sign of the gradient
    assert min(abs(moved(betas=(0.0, 0.0)) - steps) for steps in (0.0, 2e-3)) < 1e-7
    assert min(abs(moved() - steps) for steps in (0.0, 2e-3)) > 1e-6


def test_gradients_are_clipped_to_their_norm(event):
    def moved(**options):
        built = Tiny()
        before = nn.utils.parameters_to_vector(built.parameters()).detach().clone()
        xnowcast.train(built, event, **SHORT | {"steps": 1, "validation": 0, "optimizer": "adam"} | options)
        return nn.utils.parameters_to_vector(built.parameters()).detach() - before

    torch.manual_seed(0)
    free = moved()
    torch.manual_seed(0)
    # Adam divides by the gradient's size, unless that is far below its epsilon of 1e-8.
    clipped = moved(clip=1e-12)
    assert free.abs().max() > 1e-3 > 1e-5 > clipped.abs().max() > 0


def test_weight_decay_pulls_the_weights_in(event):
    plain = xnowcast.train("tiny", event, **SHORT | {"keep": "last"}, optimizer="adamw")
    decayed = xnowcast.train("tiny", event, **SHORT | {"keep": "last"}, optimizer="adamw", weight_decay=10.0)
    assert decayed.out.weight.norm() < 0.95 * plain.out.weight.norm()


def test_bfloat16_trains_and_leaves_float32_weights(event):
    model = xnowcast.train("tiny", event, precision="bf16", **SHORT)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not same(model.state_dict(), xnowcast.train("tiny", event, **SHORT).state_dict())


def test_bfloat16_does_not_round_the_rain(event):
    class Watching(Tiny):
        def loss(self, batch, **options):
            assert batch.rain.dtype == torch.float32
            return super().loss(batch, **options)

    xnowcast.train(Watching(), event, precision="bf16", **SHORT)


def test_the_adversary_and_the_model_leave_each_other_alone(event, monkeypatch):
    seen = []

    class Watched(Tiny):
        def adversary(self, shape):
            self.critic_for_the_test = [Critic()]
            return self.critic_for_the_test[0]

        def loss(self, batch, *, progress, adversary=None):
            if adversary is not None:
                assert not any(p.requires_grad for p in adversary.parameters())
                seen.append([p.detach().clone() for p in (*self.parameters(), *adversary.parameters())])
            return super().loss(batch, progress=progress, adversary=adversary)

    def record(self, truth, generated):
        assert not truth.requires_grad and not generated.requires_grad
        model, critic = watched, self
        now = [p.detach().clone() for p in (*model.parameters(), *critic.parameters())]
        own = len(list(model.parameters()))
        changed = [not torch.equal(a, b) for a, b in zip(seen[-1], now, strict=True)]
        assert all(changed[:own]) and not any(changed[own:])
        after_model.append(now)
        return original(self, truth, generated)

    after_model, original, watched = [], Critic.loss, Watched()
    monkeypatch.setattr(Critic, "loss", record)
    xnowcast.train(watched, event, **SHORT)
    own = len(list(watched.parameters()))
    for before, after in zip(after_model, seen[1:], strict=False):
        changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert not any(changed[:own]) and all(changed[own:])
    assert len(after_model) == SHORT["steps"]


def test_an_adversary_may_judge_sequences_and_begin_late(event):
    """It is handed what the model hands out, of any rank, in the steps that have something."""
    judged = []

    class Sequences(Critic):
        def loss(self, truth, generated):
            judged.append((truth.shape, generated.shape))
            return super().loss(truth.flatten(0, 1), generated.flatten(0, 1))

    class Late(Tiny):
        def adversary(self, shape):
            return Sequences()

        def loss(self, batch, *, progress, adversary=None):
            loss = super().loss(batch, progress=progress)
            frames = self.transform(batch.rain)
            return replace(loss, truth=frames, generated=frames.detach()) if progress >= 0.5 else loss

    xnowcast.train(Late(), event, **SHORT)
    assert judged == (SHORT["steps"] // 2) * [2 * (torch.Size([2, 4, 1, 16, 16]),)]


def test_the_adversary_is_in_the_checkpoint_and_not_in_the_weights(event, tmp_path):
    from safetensors.torch import load_file

    model = xnowcast.train("tiny", event, out=tmp_path / "run", adversarial=True, **SHORT)
    state = checkpoint.read(tmp_path / "run" / "checkpoint.safetensors")
    assert state["adversary"].keys() == Critic().state_dict().keys()
    assert load_file(tmp_path / "run" / "model.safetensors").keys() == model.state_dict().keys()
    assert {"error", "fooled", "adversary", "gradient_norm"} <= rows(tmp_path / "run")[0].keys()


# ---------------------------------------------------------------- validation


def test_the_weights_of_the_best_validation_are_kept(event, tmp_path):
    options = SHORT | {"learning_rate": 0.05, "schedule": "constant", "validate_every": 1}
    best = xnowcast.train("tiny", event, out=tmp_path / "best", **options)
    scores = [float(row["validation"]) for row in rows(tmp_path / "best")]
    assert np.argmin(scores) < len(scores) - 1, "the case has to end worse than its best"
    assert best.card.scores["validation loss"] == pytest.approx(min(scores), rel=1e-6)
    last = xnowcast.train("tiny", event, keep="last", **options)
    assert last.card.scores["validation loss"] == pytest.approx(scores[-1], rel=1e-6)
    upto = options | {"steps": int(np.argmin(scores)) + 1}
    assert same(best.state_dict(), xnowcast.train("tiny", event, keep="last", **upto).state_dict())


def test_patience_ends_a_training_that_no_longer_gets_better(event, tmp_path):
    options = SHORT | {"learning_rate": 0.2, "schedule": "constant", "validate_every": 1, "steps": 60, "patience": 2}
    xnowcast.train("tiny", event, out=tmp_path / "run", **options)
    scores = [float(row["validation"]) for row in rows(tmp_path / "run")]
    assert len(scores) < 60 and len(scores) == np.argmin(scores) + 3


def test_validation_data_can_be_given(event, tmp_path):
    model = xnowcast.train("tiny", event, out=tmp_path / "run", validation=radar(seed=9), **SHORT)
    assert math.isfinite(model.card.scores["validation loss"])
    assert "29 windows to train on and 29 to validate on" in (tmp_path / "run" / "train.log").read_text()
    assert xnowcast.train("tiny", event, validation=0, **SHORT).card.scores == {}


def test_by_default_a_short_run_is_validated_every_ten_steps_and_at_its_end(event, tmp_path):
    assert [TrainingSettings(steps=n).every("validate") for n in (4, 100, 200, 2000)] == [10, 10, 10, 100]
    xnowcast.train("tiny", event, out=tmp_path / "run", **SHORT | {"validate_every": None})
    assert [row["step"] for row in rows(tmp_path / "run") if row["validation"]] == ["10", "12"]


# ---------------------------------------------------------------- further fields


@pytest.fixture(scope="module")
def weather(event):
    """The event with a temperature in degC that grows with the rain, and an altitude."""
    random = np.random.default_rng(1)
    rain = event.rainfall_rate
    altitude = xr.DataArray(random.uniform(0, 900, rain.shape[1:]).astype("f4"), dims=("y", "x"))
    return event.assign(
        t=(10 + rain).assign_attrs(standard_name="air_temperature", units="degC"),
        z=altitude.assign_attrs(standard_name="surface_altitude", units="m"),
    )


def test_a_model_learns_from_further_fields(weather):
    model = xnowcast.train("reader", weather, **SHORT | {"steps": 200, "learning_rate": 0.05, "validate_every": 50})
    assert model.centre.item() == pytest.approx(283.15, abs=3) and model.centre.item() > 283.15
    np.testing.assert_allclose(model.largest.item(), float(weather.z.max()), rtol=1e-6)
    assert model.read.weight[0, 0].sum().item() / model.spread.item() == pytest.approx(1.0, abs=0.2)  # mm/h a degree


def test_the_statistics_are_those_of_the_samples_and_belong_to_the_weights(weather, tmp_path):
    from xnowcast.training.statistics import measure

    random = np.random.default_rng(3)
    parts = [random.normal(1e5, 3.0, (2, n, 5)).astype("f4") for n in (1, 7, 4)]
    parts[0][0] = np.nan
    told = measure(parts, ["a", "b"])
    whole = np.concatenate(parts, axis=1).reshape(2, -1).astype("f8")
    for found, expected in (
        (told.mean, np.nanmean(whole, axis=1)),
        (told.std, np.nanstd(whole, axis=1)),
        (told.low, np.nanmin(whole, axis=1)),
        (told.high, np.nanmax(whole, axis=1)),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="'b': NaN throughout in the data to train on"):
        measure([np.array([[1.0], [np.nan]])], ["a", "b"])
    model = xnowcast.train("reader", weather, out=tmp_path / "run", **SHORT)
    saved = xnowcast.load(tmp_path / "run" / "model.safetensors")
    assert torch.equal(saved.centre, model.centre) and not saved.centre.isnan().any()


def test_a_rain_class_that_is_never_seen_is_told(weather, monkeypatch):
    monkeypatch.setattr(Reader, "thresholds", (0.1, 5000.0), raising=False)
    with pytest.warns(UserWarning, match=r"no rain of 5000 mm/h or more in 64 training crops, at most"):
        xnowcast.train("reader", weather, **SHORT)


def test_weights_to_begin_from_keep_the_scales_that_they_were_trained_with(weather, tmp_path):
    first = xnowcast.train("reader", weather, out=tmp_path / "run", **SHORT)
    warmer = weather.assign(t=(weather.t + 5).assign_attrs(weather.t.attrs))
    again = xnowcast.train("reader", warmer, start=tmp_path / "run" / "model.safetensors", **SHORT)
    assert torch.equal(again.centre, first.centre)
    assert xnowcast.train("reader", warmer, **SHORT).centre.item() == pytest.approx(first.centre.item() + 5, abs=0.01)


@pytest.mark.parametrize("samples", [3, 13])
def test_a_run_with_further_fields_repeats_and_resumes_bit_for_bit(weather, tmp_path, stop_after, samples):
    whole = xnowcast.train("reader", weather, out=tmp_path / "whole", **SHORT)
    ahead = xnowcast.train("reader", weather.chunk(time=5), workers=3, cache_gib=1e-4, **SHORT)
    assert same(whole.state_dict(), ahead.state_dict())
    again = stop_after(samples)
    with pytest.raises(Stop):
        xnowcast.train("reader", weather, out=tmp_path / "run", **SHORT)
    again()
    resumed = xnowcast.train("reader", weather, out=tmp_path / "run", resume=True, **SHORT)
    assert same(whole.state_dict(), resumed.state_dict())
    same_checkpoints(tmp_path / "whole" / "checkpoint.safetensors", tmp_path / "run" / "checkpoint.safetensors")


def test_components_of_vectors_turn_augmentation_off_and_the_log_says_so(weather, tmp_path):
    wind = weather.t.assign_attrs(standard_name="eastward_wind", units="m s-1")
    data = weather.assign(u=wind)
    own = {"channels": ["air_temperature", "eastward_wind"]}
    xnowcast.train("reader", data, out=tmp_path / "run", **own, **SHORT)
    log = (tmp_path / "run" / "train.log").read_text()
    assert "augment is off: flips and turns would have to turn eastward_wind too" in log
    assert not read_settings(tmp_path / "run")["augment"]
    xnowcast.train("reader", weather, out=tmp_path / "plain", **SHORT)
    assert "augment is off" not in (tmp_path / "plain" / "train.log").read_text()
    assert read_settings(tmp_path / "plain")["augment"]


def read_settings(folder):
    return tomllib.loads((folder / "config.toml").read_text())["training"]


def test_forecasts_train_along_their_valid_times(weather, tmp_path):
    """Two forecasts of 16 frames; the target is named, since what was forecast is rain as well."""
    leads = np.arange(1, 17) * np.timedelta64(5, "m").astype("m8[ns]")
    both = weather.drop_vars("time").rename(time="lead_time")
    parts = [both.isel(lead_time=slice(k, k + 16)).assign_coords(lead_time=leads) for k in (0, 16)]
    data = xr.concat(parts, "init_time", data_vars=["rainfall_rate", "t"]).assign_coords(
        init_time=weather.time[[0, 16]].values
    )
    data["guess"] = data.rainfall_rate.assign_attrs(standard_name="precipitation_flux")
    own = {"channels": ["rainfall_rate", "air_temperature"], "variable": "rainfall_rate", "validation": 0.0}
    model = xnowcast.train("reader", data, out=tmp_path / "run", **SHORT | own)
    assert "2 events; 30 windows to train on" in (tmp_path / "run" / "train.log").read_text()
    assert model.task.step.total_seconds() == 300
    with pytest.raises(ValueError, match="there are 2 precipitation fields"):
        xnowcast.train("reader", data, **SHORT | own | {"variable": None})


def test_the_crops_of_a_downscaler_are_multiples_of_its_coarse_grid(event):
    own = {"size": "tiny", "factor": 16, "frames": 1, "validation": 0.0, "progress": False, "steps": 1, "batch_size": 1}
    model = xnowcast.train("stvd", event, **own)
    assert model.task.crop == 48 and model.task.grid_multiple == 1
    with pytest.raises(ValueError, match=r"crop is 40; the model takes multiples of 16 \(1 coarse cells of 16 fine"):
        xnowcast.train("stvd", event, crop=40, **own)


def test_single_frames_are_learnt_from_data_of_different_steps_and_any_step_is_sharpened():
    fine, slow = radar(frames=8), radar(seed=2, frames=8, step="2min")
    assert np.diff(fine.time)[0] != np.diff(slow.time)[0]
    options = {"size": "tiny", "diffusion_steps": 20, "kernel_size": 3}
    short = {"steps": 2, "crop": 16, "batch_size": 1, "validation": 0.0, "progress": False}
    model = xnowcast.train("postcast", [fine, slow], **options, **short)
    assert model.task.step is None and "step" not in model.card.contract
    model.sampling_steps = 2
    for data in (fine, slow):
        sharp = data.isel(time=slice(2)).nowcast.deblur(model, seed=0, progress=False)
        assert sharp.rainfall_rate.sizes["time"] == 2
    with pytest.raises(ValueError, match="a model learns one step"):
        xnowcast.train("tiny", [fine, slow], **SHORT)


def test_mixed_data_make_a_model_for_all_that_lies_between():
    fine, slow = radar(frames=8), radar(seed=2, frames=8, step="10min")
    coarse = radar(seed=3, frames=8).nowcast.coarsen(2)
    with pytest.raises(ValueError, match="mixed=True"):
        xnowcast.train("tiny", [fine, coarse], **SHORT)
    model = xnowcast.train("tiny", [fine, slow, coarse], mixed=True, **SHORT | {"validation": 0.0})
    assert model.task.bounds("step") == (timedelta(minutes=5), timedelta(minutes=10))
    least, greatest = model.task.bounds("spacing")
    assert greatest == pytest.approx(2 * least, rel=0.01)
    assert model.card.task == model.task
    assert "5 to 10 minutes" in model.card.reads
    assert f"at {least / 1000:g} to {greatest / 1000:g} km" in model.card.reads
    between = radar(seed=4, frames=8, step="6min")
    assert between.nowcast.forecast(model, steps=2).sizes["lead_time"] == 2
    with pytest.raises(ValueError, match="steps of 5 to 10 min, and the data have 15 min"):
        radar(seed=4, frames=8, step="15min").nowcast.forecast(model, steps=2)
    with pytest.raises(ValueError, match=r"grid of .* to .* km"):
        radar(seed=4, frames=8).nowcast.coarsen(4).nowcast.forecast(model, steps=2)


# ---------------------------------------------------------------- the run folder


def test_the_run_folder_holds_what_was_promised(event, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    xnowcast.train("tiny", event, out=tmp_path / "run", **SHORT | {"pictures_every": 6})
    found = {str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*") if p.is_file()}
    logs = {name for name in found if name.startswith("tensorboard")}
    assert found - logs == {
        *("config.toml", "metrics.csv", "train.log", "checkpoint.safetensors", "best.safetensors"),
        *("model.safetensors", "samples/step_000006.png", "samples/step_000012.png"),
    }
    steps = [row["step"] for row in rows(tmp_path / "run")]
    assert steps == [str(n) for n in range(1, 13)]
    assert {"loss", "error", "learning_rate", "samples_per_second", "gradient_norm", "validation"} <= rows(
        tmp_path / "run"
    )[0].keys()
    assert [row["step"] for row in rows(tmp_path / "run") if row["validation"]] == ["4", "8", "12"]
    assert "windows to train on and" in (tmp_path / "run" / "train.log").read_text()


def test_tensorboard_has_the_curves(event, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    xnowcast.train("tiny", event, out=tmp_path / "run", **SHORT)
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [scalar.step for scalar in events.Scalars("validation")] == [4, 8, 12]
    assert len(events.Scalars("loss")) == 12


def test_progress_is_lines_where_nobody_watches_and_nothing_when_unwanted(event, capfd, monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # which tests of notebooks import
    xnowcast.train("tiny", event, **SHORT | {"progress": None})
    told = capfd.readouterr().err
    assert "step 12 of 12: loss" in told and "windows to train on" in told
    xnowcast.train("tiny", event, **SHORT | {"progress": True})
    assert "12/12" in capfd.readouterr().err
    xnowcast.train("tiny", event, **SHORT)
    assert capfd.readouterr().err == ""


def test_nothing_is_pickled_anywhere():
    """But the dates of MeteoNet's archives, which are pickles; their reader takes dates alone."""
    readers = ("io/meteonet.py", "io/pickled_dates.py", "models/published/checkpoint.py")
    paths = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).as_posix() not in readers]
    source = "\n".join(path.read_text() for path in paths).replace("``torch.load(path, weights_only=True)``", "")
    assert not re.findall(r"torch\.(?:save|load)\(|\bimport pickle|from pickle|\.load_checkpoint|fabric\.save", source)


def test_published_weights_are_read_as_weights_alone():
    source = (PACKAGE / "models" / "published" / "checkpoint.py").read_text()
    assert re.findall(r"torch\.load\((.*)\)", source) == ['path, map_location="cpu", weights_only=True']
    assert set(re.findall(r"pickle\.(\w+)", source)) == {"UnpicklingError"}, "the error is named, nothing is unpickled"


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    state = {
        "step": 3,
        "best": {"score": math.inf, "at": None},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.9, 0.999), "on": True}]},
        "model": {"a.b": torch.arange(3, dtype=torch.int64), "half": torch.ones(2, dtype=torch.bfloat16)},
    }
    checkpoint.write(tmp_path / "c.safetensors", state)
    back = checkpoint.read(tmp_path / "c.safetensors")
    assert back["optimizer"]["param_groups"] == [{"betas": (0.9, 0.999), "on": True}]
    assert back["best"] == {"score": math.inf, "at": None} and list(back["optimizer"]["state"]) == [0]
    assert torch.equal(back["model"]["half"], state["model"]["half"]) and back["model"]["half"].dtype == torch.bfloat16
    with pytest.raises(TypeError, match="best/at is a set"):
        checkpoint.write(tmp_path / "c.safetensors", {"best": {"at": {1}}})


def test_a_checkpoint_that_is_cut_short_or_foreign_is_refused(event, tmp_path):
    xnowcast.train("tiny", event, out=tmp_path / "run", **SHORT)
    path = tmp_path / "run" / "checkpoint.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="no whole checkpoint"):
        xnowcast.train("tiny", event, out=tmp_path / "run", resume=True, **SHORT)
    path.write_bytes((tmp_path / "run" / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="no checkpoint of xnowcast"):
        xnowcast.train("tiny", event, out=tmp_path / "run", resume=True, **SHORT)


# ---------------------------------------------------------------- stopping


def interrupt_at(monkeypatch, *numbers):
    """Sends Ctrl-C to this process whenever these samples are read."""
    from xnowcast.training.crops import Crops

    read = Crops.__getitem__

    def interrupting(self, number):
        if self.stream == 0 and number in numbers:
            os.kill(os.getpid(), signal.SIGINT)
        return read(self, number)

    monkeypatch.setattr(Crops, "__getitem__", interrupting)


def test_ctrl_c_leaves_a_checkpoint_from_which_the_run_goes_on(event, tmp_path, monkeypatch, capfd):
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 9)
        with pytest.raises(
            KeyboardInterrupt, match=r"after step 5 of 12; its checkpoint is in .*run: go on with resume"
        ):
            xnowcast.train("tiny", event, out=tmp_path / "run", **SHORT | {"progress": None})
    assert signal.getsignal(signal.SIGINT) is before
    assert "interrupted" not in capfd.readouterr().err  # the error itself says it
    assert "interrupted after step 5 of 12" in (tmp_path / "run" / "train.log").read_text()
    assert checkpoint.read(tmp_path / "run" / "checkpoint.safetensors")["step"] == 5
    resumed = xnowcast.train("tiny", event, out=tmp_path / "run", resume=True, **SHORT)
    assert same(resumed.state_dict(), xnowcast.train("tiny", event, **SHORT).state_dict())


def test_a_second_ctrl_c_stops_at_once(event, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 8, 9)
    with pytest.raises(KeyboardInterrupt) as caught:
        xnowcast.train("tiny", event, out=tmp_path / "run", **SHORT)
    assert "go on" not in str(caught.value)
    assert checkpoint.read(tmp_path / "run" / "checkpoint.safetensors")["step"] == 4


def test_a_training_in_a_thread_leaves_signals_alone(event):
    before, found = signal.getsignal(signal.SIGINT), []
    thread = threading.Thread(target=lambda: found.append(xnowcast.train("tiny", event, **SHORT)))
    thread.start()
    thread.join()
    assert same(found[0].state_dict(), xnowcast.train("tiny", event, **SHORT).state_dict())
    assert signal.getsignal(signal.SIGINT) is before


def test_a_loss_that_is_nan_stops_the_run_and_names_its_samples(event, tmp_path):
    options = SHORT | {"sabotage": 6, "validate_every": 2, "adversarial": False}
    with pytest.raises(FloatingPointError, match=r"the loss is nan in step 6") as caught:
        xnowcast.train("tiny", event, out=tmp_path / "run", **options)
    named = re.findall(
        r"dataset 1, 2024-06-01 [\d:]+ to 2024-06-01 [\d:]+, rows \d+ to \d+, columns", str(caught.value)
    )
    assert len(named) == 2
    state = checkpoint.read(tmp_path / "run" / "checkpoint.safetensors")
    assert state["step"] == 4 and all(v.isfinite().all() for v in state["model"].values())


def test_a_gradient_that_is_nan_stops_the_run_before_it_reaches_the_weights(event, tmp_path):
    class Rooted(Tiny):
        def loss(self, batch, *, progress, adversary=None):
            total = super().loss(batch, progress=progress).total
            return Loss(total + (self.out.bias * 0).square().sum().sqrt())  # 0, with an infinite slope

    model = Rooted()
    with pytest.raises(FloatingPointError, match="the gradient is nan in step 1"):
        xnowcast.train(model, event, **SHORT)
    assert all(p.isfinite().all() for p in model.parameters())


# ---------------------------------------------------------------- bad input


def refused(match, data, model="tiny", **options):
    with pytest.raises(ValueError, match=match):
        xnowcast.train(model, data, **SHORT | options)


def test_data_that_will_not_do_are_refused(event):
    refused(r"no window of 4 frames fits.*has 3 frames \(dataset 1\), and 4 are needed", event.isel(time=slice(3)))
    refused(r"no window of 4 frames, every 20\. of the data, fits.* 61 are needed", event, stride=20)
    dry, blind = (
        event.assign(rainfall_rate=event.rainfall_rate.copy(data=v))
        for v in (event.rainfall_rate.values * 0, np.full((32, 48, 56), np.nan, "f4"))
    )
    refused("there is no rain anywhere: all 32 frames of dataset 1 are dry", dry)
    refused("nothing was measured: all 32 frames of dataset 1 are NaN", blind)
    refused(r"crop is 60 cells, and the largest grid has 48 x 56", event, crop=60)
    refused(r"crop is 18; the model takes multiples of 4 from 8 on: 16 would do", event, crop=18)
    refused("dataset 1 has a step of 5 min and dataset 2 one of 10 min", [event, event.isel(time=slice(None, None, 2))])
    refused("a grid spacing of 1000 m and dataset 2 one of 2000 m", [event, radar(spacing_km=2.0)])
    refused("there are no data", [])
    refused("data holds a int", [event, 3])
    refused("data are a int", 3)
    refused("validation is True; it must be a share", event, validation=True)
    refused("there is no file nowhere.nc", "nowhere.nc")
    refused("dataset 1: there is no precipitation field", event.drop_vars("rainfall_rate"))
    refused("validation=0.2 leaves 0 of 9 windows to train on", event.isel(time=slice(12)))
    vil = event.rainfall_rate.rename("vil").assign_attrs(standard_name="", units="kg m-2")
    refused("'tiny' reads rain_rate, and dataset 1 is vil", vil)


def test_impossible_values_are_named_with_their_place(event):
    broken = event.copy(deep=True)
    broken.rainfall_rate[:, 0, 0] = -999.0
    refused(r"dataset 1, 2024-06-01 \d\d:\d\d to .*: the field has negative rain, down to -999", broken)


def test_models_that_will_not_do_are_refused(event, tmp_path):
    refused("'extrapolation' is not trained; systems that are: .*tiny", event, "extrapolation")
    refused("did you mean 'tiny'", event, "tinny")
    refused("'tiny' has no option 'depth'", event, depth=3)
    refused("model is a Conv2d, which has no task, transform, training_frames, loss", event, nn.Conv2d(1, 1, 1))
    refused("leave out width", event, Tiny(), width=3)
    refused("give its name and options instead of a built model", event, Tiny(), out=tmp_path / "run")

    class Other(Tiny):
        task = None

        def __init__(self, **known):
            super().__init__()
            self.task = Task("forecast", input_frames=2, **known)

    from datetime import timedelta

    refused("made for a step of 0:10:00, and the data have 0:05:00", event, Other(step=timedelta(minutes=10)))
    refused("made for a grid of 4000 m, and the data have 1000 m", event, Other(spacing=4000.0))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("steps", 0, "whole number of 1 or more"),
        ("steps", 2.5, "whole number"),
        ("batch_size", True, "whole number"),
        ("seed", -1, "whole number of 0 or more"),
        ("seed", 2**63, "up to"),
        ("learning_rate", 0.0, "number above 0"),
        ("learning_rate", math.nan, "number above 0"),
        ("weight_decay", -1.0, "0 or more"),
        ("ema", 1.0, "from 0 to below 1"),
        ("rain_preference", 1.0, "from 0 to below 1"),
        ("min_coverage", 1.5, "from 0 to 1"),
        ("clip", 0.0, "above 0"),
        ("cache_gib", 0, "above 0"),
        ("schedule", "linear", "'cosine', 'constant' or 'onecycle'"),
        ("optimizer", "sgd", "'adam' or 'adamw'"),
        ("precision", "64", "'32', 'bf16' or '16'"),
        ("keep", "first", "'best' or 'last'"),
        ("augment", "yes", "True or False"),
        ("warmup", 12, "end before the training does"),
        ("patience", 0, "1 or more"),
        ("pictures_every", -1, "0 or more"),
        ("min_learning_rate", 1.0, "from 0 to learning_rate"),
        ("betas", 0.9, "two numbers"),
        ("halve_at", 5, "a list of steps"),
        ("halve_at", [0], "whole number of 1 or more"),
        ("halve_at", [5], "for the schedule 'constant'"),
        ("betas", (0.9, 1.0), "from 0 to below 1"),
        ("stride", 0, "1 or more"),
        ("validation", 1.0, "from 0 to below 1"),
        ("zr", (1, 2, 3), "two numbers"),
    ],
)
def test_settings_outside_their_range_are_refused(event, setting, value, words):
    refused(f"{setting} is .*{words}", event, **{setting: value})


def test_a_misspelt_argument_is_told_from_an_option_of_the_model(event):
    refused(
        "'tiny' has no option 'learning_rte'; did you mean 'learning_rate', a setting of the training",
        event,
        learning_rte=0.1,
    )
    refused("'tiny' has no option 'augmentation'; did you mean 'augment', a setting", event, augmentation=False)
    refused("'tiny' has no option 'widht'; did you mean 'width'", event, widht=3)


def test_an_option_that_is_named_like_a_setting_can_be_given(event):
    class Scheduled(Tiny):
        def __init__(self, schedule: str = "ramp"):
            super().__init__()
            self.schedule = schedule

        @classmethod
        def declare(cls, schedule: str = "ramp", *rest) -> Task:
            return super().declare()

    globals()["Scheduled"] = Scheduled
    models.register("scheduled", f"{__name__}:Scheduled")
    model = xnowcast.train("scheduled", event, **SHORT, schedule="constant", model_options={"schedule": "fixed"})
    assert model.schedule == "fixed" and model.card.options == {"schedule": "fixed"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(event):
    refused("device is 'cuda', and torch sees no GPU here", event, device="cuda")
    refused("precision='16' needs a GPU", event, precision="16")


def test_a_folder_that_holds_something_is_refused_and_kept(event, tmp_path):
    (tmp_path / "notes.txt").write_text("precious")
    refused("is not empty", event, out=tmp_path)
    refused("is a file", event, out=tmp_path / "notes.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    xnowcast.train("tiny", event, out=tmp_path, resume=True, **SHORT)  # no checkpoint: it starts anew
    refused("is not empty", event, out=tmp_path)
    refused("name it with out=", event, resume=True)


def test_a_run_is_not_resumed_with_another_model_settings_or_data(event, tmp_path):
    xnowcast.train("tiny", event, out=tmp_path / "run", **SHORT)
    kept = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    again = {"out": tmp_path / "run", "resume": True}
    refused("option width: None then, 7 now", event, **again, width=7)
    refused(
        "learning_rate: 0.003 then, 0.1 now; seed: 0 then, 4 now", event, **again | {"learning_rate": 0.1, "seed": 4}
    )
    refused("samples_per_step: 2 then, 3 now", event, **again, batch_size=3)
    refused("of another run.*events: ", radar(frames=40), **again)
    xnowcast.train("tiny", event, **SHORT | again | {"batch_size": 1, "accumulate": 2, "workers": 1, "log_every": 3})
    assert checkpoint.read(tmp_path / "run" / "checkpoint.safetensors")["step"] == 12
    assert len((tmp_path / "run" / "checkpoint.safetensors").read_bytes()) == len(kept)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume": "yes"}, "resume is 'yes'"),
        ({"progress": 1}, "progress is 1"),
        ({"out": 3}, "out is 3"),
        ({"mixed": "no"}, "mixed is 'no'"),
        ({"stride": 0}, "stride is 0"),
        ({"validation": 2.0}, "validation is 2.0"),
        ({"validation": True}, "validation is True"),
        ({"start": 3}, "start is 3"),
        ({"variable": ["rain"]}, "variable is"),
        ({"model_options": 3}, "model_options is 3"),
        ({"betas": 3}, "betas is 3"),
        ({"keep": ["best"]}, "keep is"),
        ({"device": 3}, "device is 3"),
        ({"steps": None}, "steps is None"),
    ],
    ids=str,
)
def test_every_argument_is_refused_by_its_own_name(event, options, message):
    refused(message, event, **options)


def test_numbers_of_numpy_are_numbers(event, tmp_path):
    xnowcast.train(
        "tiny", event, out=tmp_path / "a", **SHORT | {"steps": np.int64(4), "learning_rate": np.float32(0.003)}
    )
    assert "steps = 4" in (tmp_path / "a" / "config.toml").read_text()


def test_two_runs_do_not_write_one_folder(event, tmp_path, monkeypatch):
    from xnowcast.archive.run import lock
    from xnowcast.training.folder import LOCK

    out = tmp_path / "run"
    xnowcast.train("tiny", event, out=out, **SHORT)
    with lock.StoreLock(out / LOCK):  # as another training of this folder holds it
        refused("run is being written by process", event, out=out, resume=True)
    write, planned = checkpoint.write, []

    def meanwhile(path, state):
        if not planned:
            planned.append(path)
            refused("run is being written by process", event, out=out, resume=True)
        write(path, state)

    monkeypatch.setattr(checkpoint, "write", meanwhile)
    xnowcast.train("tiny", event, out=out, resume=True, **SHORT | {"steps": 14})
    assert planned and not (out / LOCK).exists()


def test_a_run_that_another_has_overtaken_while_it_was_planned_is_refused(event, tmp_path, monkeypatch):
    from xnowcast.training import loop

    out, run = tmp_path / "run", loop.run
    options = SHORT | {"progress": False, "out": out}

    def late(plan):
        monkeypatch.setattr(loop, "run", run)
        xnowcast.train("tiny", event, **options)
        return run(plan)

    monkeypatch.setattr(loop, "run", late)
    with pytest.raises(ValueError, match=r"another run wrote to .*run while this one was planned"):
        xnowcast.train("tiny", event, **options)


def test_a_lock_alone_is_no_run(event, tmp_path):
    from xnowcast.training.folder import LOCK

    (tmp_path / LOCK).write_text("")  # the machine went down as the first run began
    xnowcast.train("tiny", event, out=tmp_path, **SHORT)
    assert not (tmp_path / LOCK).exists()


def test_a_checkpoint_from_before_a_setting_was_there_had_its_default(event, tmp_path):
    xnowcast.train("tiny", event, out=tmp_path / "run", **SHORT)
    file = tmp_path / "run" / "checkpoint.safetensors"
    state = checkpoint.read(file)
    del state["fingerprint"]["betas"], state["fingerprint"]["min_learning_rate"]
    checkpoint.write(file, state)
    with pytest.raises(ValueError, match=r"betas: \[0.9, 0.999\] then, \[0.5, 0.9\] now"):
        xnowcast.train("tiny", event, out=tmp_path / "run", resume=True, betas=(0.5, 0.9), **SHORT)
    xnowcast.train("tiny", event, out=tmp_path / "run", resume=True, **SHORT | {"steps": 14})


def test_too_little_disk_is_refused(event, tmp_path, monkeypatch):
    from xnowcast.training import folder

    monkeypatch.setattr(folder.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5000})())
    refused("has 5 kB free, and the run needs .*two checkpoints of", event, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_size_of_the_files_is_known_before_they_are_written(event, tmp_path, ema):
    from xnowcast.training.plan import _sizes

    options = {"width": 300, "adversarial": True}
    xnowcast.train("tiny", event, out=tmp_path / "run", **SHORT | {"steps": 1, "ema": ema}, **options)
    told = _sizes(Tiny(**options), Critic(), TrainingSettings(ema=ema))
    for size, name in zip(told, ("checkpoint.safetensors", "model.safetensors"), strict=True):
        assert size == pytest.approx((tmp_path / "run" / name).stat().st_size, rel=0.03)


def test_without_lightning_the_extra_is_named(event, monkeypatch):
    monkeypatch.setattr(sys.modules["xnowcast.training.train"], "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'xnowcast\[train\]'"):
        xnowcast.train("tiny", event, **SHORT)


# ---------------------------------------------------------------- configuration


def test_the_signature_has_the_settings_and_their_defaults():
    given = {name: p.default for name, p in signature(xnowcast.train).parameters.items()}
    assert {f.name: f.default for f in fields(TrainingSettings)}.items() <= given.items()
    assert (given["stride"], given["validation"]) == (DataSettings().stride, DataSettings().validation)


CONFIG = """
[model]
name = "tiny"
width = 5

[data]
paths = ["{data}"]

[training]
out = "{out}"
steps = 12
crop = 16
batch_size = 2
validate_every = 4
validation_crops = 4
pictures_every = 0
learning_rate = 3e-3
"""


@pytest.fixture
def config(event, tmp_path):
    event.to_netcdf(tmp_path / "radar.nc")
    path = tmp_path / "run.toml"
    path.write_text(CONFIG.format(data=tmp_path / "radar.nc", out=tmp_path / "run"))
    return path


def test_a_configuration_comes_back_as_it_was_written(tmp_path):
    config = Config(
        "tiny",
        {"width": 5},
        DataSettings(paths=["a.nc"], zr=(58.53, 1.56), stride=2),
        TrainingSettings(clip=1.0, precision="bf16", patience=3, betas=(0.5, 0.9)),
        "runs/a",
    )
    write_config(config, tmp_path / "c.toml", {"xnowcast": "0"})
    assert read_config(tmp_path / "c.toml") == config


def test_the_written_configuration_shows_all_that_can_be_set(tmp_path):
    path = tmp_path / "c.toml"
    write_config(Config("tiny", {}, DataSettings(paths=["a.nc"]), TrainingSettings()), path, {})
    text = path.read_text()
    for name in [f.name for kind in (TrainingSettings, DataSettings) for f in fields(kind) if f.name != "in_memory"]:
        assert len(re.findall(rf"^(?:# )?{name} = ", text, flags=re.M)) == 1, name
    assert "# patience = ... (not set)\n" in text and "\nema = 0.0\n" in text
    path.write_text(text.replace("# patience = ... (not set)", "patience = 3"))
    assert read_config(path).training == TrainingSettings(patience=3)


def test_the_resolved_configuration_repeats_the_run(config, tmp_path):
    first = train_from_config(config, progress=False)
    resolved = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert resolved["training"]["seed"] == 0 and resolved["about"]["xnowcast"] == xnowcast.__version__
    again = train_from_config(tmp_path / "run" / "config.toml", out=tmp_path / "again", progress=False)
    assert same(first.state_dict(), again.state_dict())
    python = xnowcast.train("tiny", tmp_path / "radar.nc", **SHORT, width=5)
    assert same(first.state_dict(), python.state_dict())


def test_a_run_with_data_in_memory_says_that_its_configuration_cannot_repeat_it(event, tmp_path):
    xnowcast.train("tiny", event, out=tmp_path / "run", **SHORT)
    with pytest.raises(ValueError, match="data in memory"):
        read_config(tmp_path / "run" / "config.toml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[traning]\nsteps = 1", "no section 'traning'; did you mean 'training'"),
        ("[training]\nlearning_rat = 1", "no key in .training. 'learning_rat'; did you mean 'learning_rate'"),
        ("[data]\npath = ['a']", "no key in .data. 'path'; did you mean 'paths'"),
        ("[model]\nwidth = 3", "has no name"),
        ("model = 3", "must be a section"),
        ("[training", "is no TOML"),
        ("[model]\nname = 'tiny'", "has no paths"),
        ("[model]\nname = 'tiny'\n[data]\npaths = 'a.nc'", "must be a list of paths"),
        ("[model]\nname = 'tiny'\n[data]\npaths = ['a.nc']\n[training]\nsteps = 'many'", "steps is 'many'"),
    ],
)
def test_a_configuration_that_will_not_do_is_refused(tmp_path, text, words):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_config(tmp_path / "c.toml")


def test_the_command_line_trains_resumes_and_forecasts(config, tmp_path, capsys):
    assert main(["train", str(config), "--set", "training.steps=8", "--set", "training.keep=last"]) == 0
    assert capsys.readouterr().out.startswith("tiny: Two convolutions")
    assert main(["train", str(config)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["train", str(config), "--resume", "--set", "training.steps=9"]) == 0
    assert checkpoint.read(tmp_path / "run" / "checkpoint.safetensors")["step"] == 9
    assert main(["train", str(config), "--resume", "--set", "training.steps=7"]) == 2
    assert "is of step 9, and steps is 7" in capsys.readouterr().err
    weights = str(tmp_path / "run" / "model.safetensors")
    assert (
        main(["forecast", str(tmp_path / "radar.nc"), str(tmp_path / "f.nc"), "--model", weights, "--steps", "2"]) == 0
    )
    assert xr.open_dataset(tmp_path / "f.nc").sizes["lead_time"] == 2


def test_the_command_line_tells_of_errors_in_one_line(config, tmp_path, capsys):
    for words, told in (
        (["absent.toml"], "there is no configuration absent.toml"),
        ([str(config), "--set", "steps=3"], "section.key=value"),
        ([str(config), "--set", "training.stepps=3"], "did you mean 'steps'"),
        ([str(config), "--set", "model.name=tinny"], "did you mean 'tiny'"),
        ([str(config), "--set", "model.sabotage=2"], "the loss is nan in step 2"),
    ):
        assert main(["train", *words]) == 2
        lines = [line for line in capsys.readouterr().err.strip().splitlines() if line.startswith("xnowcast: ")]
        assert len(lines) == 1 and told in lines[0]


def test_the_command_line_says_how_to_go_on_after_ctrl_c(config, monkeypatch, capsys):
    interrupt_at(monkeypatch, 3)
    assert main(["train", str(config)]) == 130
    told = capsys.readouterr().err
    assert "--resume" in told.splitlines()[-1] and told.count("interrupted") == 1


CONFIGS = sorted((PACKAGE.parent / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_the_full_size_recipes_can_be_read_and_built(path):
    config = read_config(path)
    assert models.declare(config.model, **config.options).trained
    assert config.out is not None and config.training.crop is not None


def test_there_is_a_recipe_for_each_data_set_and_each_system():
    assert {path.stem for path in CONFIGS} >= {"sevir", "hko-7", "meteonet", "dwd-12"}
    assert {read_config(path).model for path in CONFIGS} == {
        *("db-convlstm", "earthformer", "simvp", "diffcast", "cascast", "postcast"),
        *("stvd", "swin-ir", "swin-ir-diff", "nwp-mae"),
    }


def test_settings_may_be_those_of_another_run_or_of_a_file(event, tmp_path):
    from xnowcast.training.settings import TrainingSettings

    known = {name: value for name, value in SHORT.items() if name in TrainingSettings.__dataclass_fields__}
    others = {name: value for name, value in SHORT.items() if name not in known}
    path = tmp_path / "run.toml"
    lines = [
        f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for name, value in known.items()
    ]
    path.write_text("[training]\n" + "\n".join(lines))
    trained = [
        xnowcast.train("tiny", event, **others, **given)
        for given in (known, {"settings": TrainingSettings(**known)}, {"settings": path}, {"settings": str(path)})
    ]
    first, *rest = (flat(model.state_dict()) for model in trained)
    assert all(set(first) == set(one) and all((first[k] == one[k]).all() for k in first) for one in rest)
    longer = xnowcast.train("tiny", event, **others, settings=path, steps=1)
    assert any((first[key] != value).any() for key, value in flat(longer.state_dict()).items())


def test_settings_that_are_none_are_refused(event, tmp_path):
    with pytest.raises(ValueError, match="settings is 3; it must be a TrainingSettings or the path of a TOML file"):
        xnowcast.train("tiny", event, settings=3)
    path = tmp_path / "run.toml"
    path.write_text("[data]\n")
    with pytest.raises(ValueError, match=r"has no section \[training\]"):
        xnowcast.train("tiny", event, settings=path)


def test_every_setting_is_in_the_help_with_its_default():
    from xnowcast.training.settings import TrainingSettings

    taken = signature(xnowcast.train).parameters
    for name, setting in TrainingSettings.__dataclass_fields__.items():
        assert taken[name].default == setting.default
        assert re.search(rf"^    (\w+, )*{name}(, \w+)* : ", xnowcast.train.__doc__, re.M), name
