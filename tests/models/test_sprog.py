"""S-PROG: scales that persist are kept, scales that do not are forgotten, and the frame moves."""

import numpy as np
import pytest
import torch
from test_extrapolation import moving

import xnowcast
from xnowcast import models
from xnowcast.models.sprog import SPROG
from xnowcast.nn.cascade import autoregression, continued, level_weights
from xnowcast.nn.moving_frame import motion_of


def rough(shape, seed, low=0.0, high=0.5):
    """White noise between two wavenumbers, in cycles per cell."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    k = torch.hypot(torch.fft.fftfreq(shape[-2])[:, None], torch.fft.rfftfreq(shape[-1])[None])
    return torch.fft.irfft2(torch.fft.rfft2(noise) * ((k >= low) & (k < high)), s=shape[-2:])


def forecast(rain, steps=3, **options):
    """(b, t, y, x) to (b, steps, y, x)."""
    return SPROG(**options).forecast(rain[:, :, None], rain[:, :, None] >= 0, steps)[:, :, 0]


def test_levels_run_from_the_whole_grid_to_two_cells():
    weights = level_weights((64, 64), levels=5)
    assert weights.sum(0) == pytest.approx(torch.ones(64, 33))
    along_x = weights[:, 0]
    assert along_x[:, 0].argmax() == 0 and along_x[:, 32].argmax() == 4
    between = [int(level.argmax()) for level in along_x[1:4]]
    assert between == [2, 6, 13]  # whole wavenumbers near 32 ** (1/4), (1/2), (3/4)


def test_the_coefficients_of_a_known_process_are_found():
    generator = torch.Generator().manual_seed(1)
    series = [torch.zeros(32, 32), torch.zeros(32, 32)]
    for _ in range(300):
        series.append(1.2 * series[-1] - 0.4 * series[-2] + torch.randn(32, 32, generator=generator))
    parts = torch.stack(series[100:])[None, :, None]
    first, second = autoregression(parts / parts.std())
    assert float(first) == pytest.approx(1.2, abs=0.02) and float(second) == pytest.approx(-0.4, abs=0.02)


@pytest.mark.parametrize("near", [-1.0, 0.2, 0.99, 1.0])
def test_no_process_grows_without_end(near):
    first_frame = rough((1, 1, 1, 32, 32), 0)
    parts = torch.cat([first_frame, near * first_frame, first_frame, near * first_frame], 1)
    first, second = (float(c) for c in autoregression(parts))
    assert abs(second) <= 1.001 and abs(first) <= 1.001 - second


def test_rain_that_begins_in_the_newest_frame_is_kept_where_it_is():
    frames = torch.zeros(1, 5, 32, 32)
    frames[0, -1, 10:14, 20:24] = 0.5
    ahead = continued(frames, steps=3)
    assert float((ahead - frames[:, -1:]).abs().max()) < 0.01
    frames[0, -2, 10:14, 20:24] = 0.5  # two frames tell that it persists
    assert float((continued(frames, steps=3) - frames[:, -1:]).abs().max()) < 0.01


def test_large_scales_that_persist_are_kept_and_noise_is_forgotten():
    steady = 3 * rough((64, 64), 5, high=0.05)
    frames = torch.stack([steady + rough((64, 64), 10 + t, low=0.2) for t in range(6)])[None]
    ahead = continued(frames, steps=8)[0]
    noise = frames[0, -1] - steady
    assert float((ahead[-1] - steady).std()) < 0.2 * float(noise.std())
    # persistence of the newest frame is wrong by all of its noise
    assert float((ahead[0] - steady).std()) < 0.5 * float(noise.std())


def test_with_pysteps_it_agrees_on_what_is_left_after_a_quarter_of_an_hour():
    pytest.importorskip("pysteps", reason="pysteps is the independent implementation")
    from pysteps import nowcasts

    rain = xnowcast.datasets.synthetic_radar(frames=5, shape=(128, 128), seed=3, motion=(0.0, 0.0), coverage=False)
    rain = rain.rainfall_rate.values.astype("f4")
    scaled = SPROG().scaling(torch.from_numpy(rain))
    ours = continued(scaled[None, -3:], steps=3)[0].numpy()
    decibel = np.where(rain >= 0.1, 10 * np.log10(np.maximum(rain, 0.1)), -15.0)[-3:]
    still = np.zeros((2, 128, 128))
    theirs = nowcasts.get_method("sprog")(decibel, still, 3, precip_thr=-10.0, probmatching_method=None)
    for step, least in ((0, 0.97), (2, 0.9)):  # the levels of the two are not quite the same
        assert np.corrcoef(ours[step].ravel(), theirs[step].ravel())[0, 1] > least


def test_rain_that_keeps_its_shape_moves_on():
    rain = moving(1.5, -2.0, frames=8)
    ahead = forecast(rain[:, :5])
    inner = ahead[0, :, 40:150, 40:150]
    truth = rain[0, 5:, 40:150, 40:150]
    assert float((inner - truth).abs().mean()) < 0.12 * float(truth.mean())


def test_matched_it_has_the_rates_of_the_newest_frame_and_unmatched_it_fades():
    rain = xnowcast.datasets.synthetic_radar(frames=5, shape=(128, 128), seed=3, coverage=False).rainfall_rate
    rain = torch.from_numpy(rain.values.astype("f4"))[None]
    peaks = [
        float(forecast(rain, 6, probability_matching=m)[0, -1].nan_to_num().quantile(0.999)) for m in (True, False)
    ]
    assert peaks[0] == pytest.approx(float(rain[0, -1].quantile(0.999)), rel=0.1) and peaks[1] < 0.8 * peaks[0]


def test_it_is_nan_where_the_air_comes_from_outside():
    rain = moving(0.0, 4.0, frames=5)
    motion = motion_of(rain, rain >= 0, window=64.0)
    ahead = forecast(rain, 5)
    assert float(motion[0, 1].median()) == pytest.approx(4.0, abs=0.2)
    assert ahead[0, 4, :, :15].isnan().all() and ahead[0, 4, :, 30:].isfinite().all()


def test_it_needs_no_weights_and_is_an_xarray_forecast():
    radar = xnowcast.datasets.synthetic_radar(frames=6, shape=(64, 64))
    made = radar.nowcast.forecast("sprog", steps=2)
    assert made.attrs["nowcast_model"] == "sprog" and made.rainfall_rate.sizes["lead_time"] == 2
    assert float(made.rainfall_rate.max()) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_frames": 2}, "fitted to at least 3 frames"),
        ({"levels": 1}, "at least 2"),
        ({"window": 0}, "window is 0.*above 0"),
        ({"scaling": "dbz"}, "scaling is 'dbz': choose one of"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        models.declare("sprog", **options)
    with pytest.raises(ValueError, match=message):
        models.build("sprog", **options)


def test_two_frames_are_too_few():
    with pytest.raises(ValueError, match="2 frames were given"):
        continued(torch.zeros(1, 2, 32, 32), 1)
