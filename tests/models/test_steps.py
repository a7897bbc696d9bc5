"""STEPS: noise with the field's spectrum and memory, members of their own, and rain where rain can be."""

import numpy as np
import pytest
import torch
import xarray as xr
from test_extrapolation import moving
from test_sprog import rough

import xnowcast
from xnowcast import models
from xnowcast.models.base import Grid
from xnowcast.models.steps import PARALLEL, STEPS, by_rank, directions, falling, growing, way
from xnowcast.nn.advection import bilinear_response
from xnowcast.nn.cascade import continued
from xnowcast.nn.field_noise import Process, blurred
from xnowcast.nn.moving_frame import carried_back
from xnowcast.nn.noise import Noise, member_generator
from xnowcast.nn.probability_matching import matched


def sources(count, seed=0):
    return Noise([member_generator(seed, 0, member) for member in range(count)])


def noise_of(frames, window=None, levels=5):
    """That of frames ``(t, y, x)``, all of them observed."""
    return Process.of(frames, levels).noise(torch.ones(frames.shape[1:], dtype=torch.bool), window)


def forecast(rain, steps=3, members=2, grid=None, observed=None, **options):
    """(t, y, x) to (m, steps, y, x)."""
    observed = torch.ones_like(rain, dtype=torch.bool) if observed is None else observed
    frames, valid = (part[None, :, None] for part in (rain, observed))
    return STEPS(**options).forecast(frames, valid, steps, sources(members), grid=grid)[:, :, 0]


@pytest.fixture
def rain():
    """Five frames that move and change a little, (t, y, x)."""
    scene = xnowcast.datasets.synthetic_radar(frames=5, shape=(96, 96), seed=3, coverage=False).rainfall_rate
    return torch.from_numpy(scene.values.astype("f4"))


@pytest.mark.parametrize("window", [None, 1000.0])
def test_noise_has_the_spectrum_of_the_field(window):
    field = rough((96, 96), 1, 0.02, 0.05) + 0.5 * rough((96, 96), 2, 0.05, 0.4)
    frames = torch.stack([rough((96, 96), 10 + t) for t in range(3)] + [field])  # nothing is remembered
    fields = next(iter(noise_of(frames, window).members(sources(40), 1)))
    assert float(fields.std()) == pytest.approx(float(field.std()), rel=0.05)
    k = torch.hypot(torch.fft.fftfreq(96)[:, None], torch.fft.rfftfreq(96)[None])
    for low, high in ((0.02, 0.05), (0.05, 0.1), (0.1, 0.2), (0.2, 0.4)):
        band = (k >= low) & (k < high)
        made, wanted = (torch.fft.rfft2(part).abs().square()[..., band].mean() for part in (fields, field))
        assert float(made / wanted) == pytest.approx(1.0, abs=0.15)


def test_noise_has_the_memory_of_the_frames():
    """x(t) = 0.9 x(t-1) - 0.2 x(t-2) + e has correlations of 0.75 and 0.475, and so has what begins from nothing."""
    generator = torch.Generator().manual_seed(1)
    series = [torch.zeros(32, 32), torch.zeros(32, 32)]
    for _ in range(400):
        series.append(0.9 * series[-1] - 0.2 * series[-2] + torch.randn(32, 32, generator=generator))
    made = noise_of(torch.stack(series[100:]))
    # of the largest scale, a few waves, 300 frames do not tell as much
    assert torch.allclose(made.first[4:-4, 4:], torch.tensor(0.9), atol=0.03)
    assert torch.allclose(made.second[4:-4, 4:], torch.tensor(-0.2), atol=0.03)
    # (1 + b) / (1 - b) ((1 - b)^2 - a^2), with a = 0.9 and b = -0.2: 0.42, of a variance of 1
    assert float(made.innovation.square().mean()) == pytest.approx(0.42, abs=0.05)
    fields = torch.stack(list(made.members(sources(20), 30)))
    assert float(fields[0].var() / fields[-1].var()) == pytest.approx(0.42, abs=0.05)
    near = (fields[-1] * fields[-2]).mean() / fields[-1].var()
    assert float(near) == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize("shape", [(48, 48), (33, 47)])
def test_without_noise_it_goes_on_as_s_prog(shape):
    steady = rough((1, *shape), 3, high=0.1)
    frames = 2 * steady + torch.stack([rough(shape, 10 + t, low=0.1) for t in range(5)])
    ahead = torch.stack(list(Process.of(frames, 6).continued(4)))
    wanted = continued(frames[None], 4)[0]
    assert float((ahead - wanted).std()) < 0.2 * float(wanted.std())


def test_local_noise_is_strong_where_the_field_is():
    field = torch.zeros(96, 96)
    field[:, :40] = rough((96, 40), 4)
    fields = next(
        iter(noise_of(torch.stack([rough((96, 96), t) for t in range(3)] + [field]), 8.0).members(sources(8), 1))
    )
    assert float(fields[..., :30].std()) > 10 * float(fields[..., 70:].std())


def test_a_window_counts_what_is_there():
    assert torch.allclose(blurred(torch.ones(7, 9), 3.0), torch.ones(7, 9))


def test_members_spread_as_time_goes_on(rain):
    made = forecast(rain, steps=6, members=8, probability_matching=False)
    spread = made.std(0)[:, made.isfinite().all(0).all(0)].mean(1)
    assert (spread.diff() > 0).all() and spread[0] > 0
    far, near = (forecast(rain, steps=6, members=8, motion_error=e).nan_to_num(0.0).std(0).mean() for e in (2.0, 0.0))
    assert far > near


@pytest.mark.parametrize("noise", ["global", "local"])
def test_a_member_is_the_same_in_any_company_and_of_any_length(rain, noise):
    frames, valid = rain[None, :, None], torch.ones(1, 5, 1, 96, 96, dtype=torch.bool)
    model = STEPS(noise=noise)
    together = model.forecast(frames, valid, 4, sources(3))
    for member in range(3):
        alone = model.forecast(frames, valid, 2, Noise([member_generator(0, 0, member)]))
        assert torch.allclose(alone[0], together[member, :2], atol=1e-4, equal_nan=True)
    other = torch.cat([frames.flip(-1), frames])
    both = model.forecast(
        other, valid.expand(2, -1, -1, -1, -1), 4, Noise(sources(3, seed=5).generators + sources(3).generators)
    )
    assert torch.allclose(both[3:], together, atol=1e-4, equal_nan=True)


def test_many_members_at_once_are_those_of_one_at_a_time(rain):
    """As on a GPU."""
    from xnowcast.models.steps import Situation

    shared = Situation(STEPS(), rain, torch.ones_like(rain, dtype=torch.bool), 3, Grid())
    together = shared.members(sources(3))
    for member in range(3):
        alone = shared.members(Noise([member_generator(0, 0, member)]))
        assert torch.allclose(alone[0], together[member], atol=1e-3, equal_nan=True)


def test_total_rain_is_that_of_extrapolation(rain):
    made = forecast(rain, steps=6, members=3)
    moved = models.build("extrapolation", window=STEPS().options.window).forecast(
        rain[None, :, None], rain[None, :, None] >= 0, 6
    )[0, :, 0]
    wanted = torch.where(made[0].isnan(), 0.0, moved.nan_to_num(0.0)).sum((-2, -1))
    assert torch.allclose(made.nan_to_num(0.0).sum((-2, -1)), wanted.expand(3, -1), rtol=0.05)


def test_rain_appears_no_faster_than_the_mask_lets_it():
    rain = torch.zeros(5, 96, 96)
    rain[:, 30:50, 30:50] = 5.0 + rough((20, 20), 1)
    made = forecast(rain, steps=3, members=6, mask_speed=24.0)  # 2 cells of 1 km in 5 min
    assert not made[:, 0, :20].any() and not made[:, 0, :, 60:].any()
    assert (forecast(rain, steps=3, members=6, mask_speed=24.0, grid=Grid(5.0, (0.5, 0.5)))[:, 2, :15] == 0).all()


def test_the_mask_grows_with_time_by_the_kilometre():
    wet = torch.zeros(64, 64, dtype=torch.bool)
    wet[30:34, 30:34] = True
    masks = growing(wet, 48.0, Grid(5.0, (1.0, 2.0)), 4)  # 4 km a step
    area = (masks > 0).sum((1, 2))
    assert (area.diff() > 0).all() and masks[:, 31, 31].min() == 1
    reach = [int(edge.nonzero().max()) - 33 for edge in ((masks[-1, :, 31] > 0), (masks[-1, 31] > 0))]
    assert reach == [pytest.approx(16, abs=3), pytest.approx(8, abs=3)]


def test_a_dry_field_stays_dry():
    assert (forecast(torch.zeros(5, 40, 40), members=3) == 0).all()


def test_what_the_air_brings_from_outside_is_unknown_to_all_members():
    rain = moving(0.0, 4.0, frames=5)[0]
    observed = torch.ones_like(rain, dtype=torch.bool)
    observed[:, 50:60, 100:110] = False
    made = forecast(rain, 4, members=3, observed=observed)
    assert made[:, 3, 20:40, :12].isnan().all() and made[:, 3, 20:40, 30:].isfinite().all()
    assert made[:, 3, 53:57, 119:123].isnan().all()
    assert (made.isnan() == made[:1].isnan()).all()


def test_what_an_older_frame_does_not_know_is_as_in_the_next():
    frames = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    seen = torch.tensor([False, False, True]).view(1, 3, 1, 1)
    assert carried_back(frames, seen).flatten().tolist() == [3.0, 3.0, 3.0]
    assert carried_back(frames, ~seen).flatten().tolist() == [1.0, 2.0, 3.0]


def test_the_error_of_the_motion_adds_up_to_a_way():
    """By hand: the sum of 10.88 t ** 0.23 - 7.68 km/h over 60 min is that of its values, minute for minute."""
    speeds = [10.88 * (minute + 0.5) ** 0.23 - 7.68 for minute in range(60)]
    assert way(PARALLEL, 60.0) == pytest.approx(sum(speeds) / 60, abs=0.05)
    assert way(PARALLEL, 0.0) == 0.0


def test_a_km_is_a_km_on_any_grid_and_clock():
    motion = torch.zeros(2, 11, 21)
    motion[1] = 1000.0  # fast, along x
    along, across = directions(motion, Grid(10.0, (2.0, 0.5)))
    # of 20 cells of 0.5 km that are 2 units wide, and of 10 cells of 2 km
    assert along[5, 5].tolist() == [pytest.approx(0.2, rel=1e-3), 0.0]
    assert [abs(v) for v in across[5, 5].tolist()] == [0.0, pytest.approx(0.1, rel=1e-3)]
    still, _ = directions(torch.zeros(2, 11, 21), Grid())
    assert not still.any()


def test_members_move_apart_by_the_minute_not_by_the_step():
    rain = moving(0.0, 2.0, frames=5)[0]
    options = {"members": 6, "mask_speed": None, "probability_matching": False, "noise": "global"}
    slow, fast = (forecast(rain, 1, grid=Grid(m), **options).nan_to_num(0.0) for m in (1.0, 15.0))
    assert float(fast.std(0).mean()) > float(slow.std(0).mean())


def test_rates_fall_to_zero():
    rain = torch.tensor([[0.0, 3.0, 0.1], [200.0, 0.0, 3.0]])
    assert torch.allclose(falling(rain), torch.tensor([200.0, 3.0, 3.0, 0.1, 0.0]))


def test_ranks_are_those_of_probability_matching():
    fields = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(1))
    wanted = (torch.rand(40 * 50, generator=torch.Generator().manual_seed(2)) * 30 - 15).clamp_min(0)
    exact = matched(fields, wanted.view(1, 1, 40, 50).expand_as(fields))[0].flatten(1)
    made = by_rank(fields[0].flatten(1), torch.cat([wanted.sort(descending=True).values, torch.zeros(1)]))
    assert float((made - exact).abs().max()) < 0.15
    assert torch.allclose(made.mean(1), exact.mean(1), rtol=1e-2)


def test_the_data_tell_their_step_and_spacing():
    """The same cells on a grid twice as fine have members that are further apart, in cells."""
    radar = xnowcast.datasets.synthetic_radar(frames=6, shape=(96, 96), seed=3, coverage=False)
    fine = radar.assign_coords(y=radar.y / 4, x=radar.x / 4)
    options = {"steps": 3, "members": 4, "noise": "global", "mask_speed": None}
    spread = [float(ds.nowcast.forecast("steps", **options).rainfall_rate.std("member").mean()) for ds in (radar, fine)]
    assert spread[1] > spread[0]
    unknown = radar.drop_vars(["y", "x", "lat", "lon"], errors="ignore")
    made = xr.DataArray(unknown.rainfall_rate.values, dims=("time", "y", "x"), coords={"time": radar.time})
    made.attrs = {"units": "mm h-1", "standard_name": "rainfall_rate"}
    assert np.isfinite(made.nowcast.forecast("steps", steps=2, members=2)).mean() > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_frames": 2}, "fitted to at least 3 frames"),
        ({"levels": 1}, "at least 2"),
        ({"window": 0}, "window is 0.*above 0"),
        ({"noise": "loud"}, "noise is 'loud': choose one of"),
        ({"noise_window": 0.0}, "noise_window is 0.*above 0"),
        ({"noise": "global", "noise_window": 4.0}, "noise_window is an option for noise 'local' alone"),
        ({"motion_error": -1.0}, "motion_error is -1.*at least 0"),
        ({"mask_speed": -1.0}, "mask_speed is -1.*at least 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        models.declare("steps", **options)


def test_members_need_noise():
    with pytest.raises(ValueError, match="no noise sources"):
        STEPS().forecast(torch.zeros(1, 5, 1, 32, 32), torch.ones(1, 5, 1, 32, 32, dtype=torch.bool), 2)


def test_a_forecast_with_members_takes_it_where_no_model_is_named():
    radar = xnowcast.datasets.synthetic_radar(frames=6, shape=(32, 32), seed=2, spacing_km=0.5, step="2min")
    made = radar.nowcast.forecast(members=3, steps=2)
    assert made.attrs["nowcast_model"] == "steps" and made.sizes["member"] == 3


def test_what_reading_between_cells_takes_is_known():
    field = rough((64, 64), 1)
    places = torch.rand(200, 2, generator=torch.Generator().manual_seed(2))
    moved = torch.stack(
        [
            (1 - v) * ((1 - u) * field + u * field.roll(1, 1)) + v * ((1 - u) * field + u * field.roll(1, 1)).roll(1, 0)
            for u, v in places.tolist()
        ]
    )
    left = torch.fft.rfft2(moved).abs().square().mean(0).sqrt() / torch.fft.rfft2(field).abs()
    assert torch.allclose(left[:20, :20], bilinear_response((64, 64))[:20, :20], atol=0.06)
