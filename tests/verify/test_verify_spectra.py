"""Spectral scores: waves and noise of known power, against pysteps, invariances and errors."""

import dask
import numpy as np
import pytest
import xarray as xr

from xnowcast.data.synthetic import synthetic_radar
from xnowcast.verify import spectra
from xnowcast.verify.kernels.spectra import rings

SCORES = {
    "spectral_ratio": spectra.spectral_ratio,
    "bands": lambda o, f, **options: spectra.spectral_ratio(o, f, bands=[(4, 8), (8, 16)], **options),
    "effective_resolution": spectra.effective_resolution,
    "log_spectral_distance": spectra.log_spectral_distance,
}


def of_array(values, spacing, **options):
    """Wavelengths and power of fields ``(..., y, x)``."""
    field = xr.DataArray(values, dims=("time", "y", "x")[-values.ndim :])
    power = spectra.power_spectrum(field, spacing_km=spacing, **options)
    return power["wavelength"].values, power.values


def wave(shape, spacing, length, axis):
    """A cosine of a wavelength in km along an axis."""
    along = np.arange(shape[axis]) * spacing[axis]
    values = np.cos(2 * np.pi * along / length)
    return xr.DataArray(np.broadcast_to(values[:, None] if axis == 0 else values, shape).copy(), dims=("y", "x"))


@pytest.fixture
def rain():
    """Observations (time, y, x) and forecasts (member, time, y, x) on 1 x 2 km cells, NaN not alike."""
    rng = np.random.default_rng(3)
    sizes = {"member": 3, "time": 4, "y": 32, "x": 24}
    fields = []
    for dims in (("time", "y", "x"), ("member", "time", "y", "x")):
        values = rng.gamma(0.5, 4.0, [sizes[d] for d in dims]).astype("f4")
        values[..., :5, :3] = np.nan
        values[..., 1, 10:12, :] = np.nan
        coords = {d: np.arange(sizes[d]) for d in dims}
        coords["y"] = ("y", 1000.0 * np.arange(32)[::-1], {"units": "m", "standard_name": "projection_y_coordinate"})
        coords["x"] = ("x", 2.0 * np.arange(24), {"units": "km", "standard_name": "projection_x_coordinate"})
        fields.append(xr.DataArray(values, dims=dims, coords=coords, name="rr", attrs={"units": "mm h-1"}))
    return tuple(fields)


# ---------------------------------------------------------------- known power


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("shape", "spacing"), [((64, 64), (1.0, 1.0)), ((32, 64), (1.0, 0.5)), ((48, 96), (2.0, 1.0))])
def test_a_wave_is_found_at_its_wavelength_in_every_direction(shape, spacing, axis):
    """On a grid that is not square, too, where rings of index numbers are not of one wavelength."""
    power = spectra.power_spectrum(wave(shape, spacing, 8.0, axis), spacing_km=spacing)
    assert float(power["wavelength"][int(power.argmax("wavenumber"))]) == pytest.approx(8.0)


def test_rings_of_index_numbers_misplace_a_wave_on_a_grid_that_is_not_square():
    array = wave((16, 32), (1.0, 1.0), 4.0, 0)
    found = {}
    for binning in ("physical", "pysteps"):
        power = spectra.power_spectrum(array, spacing_km=1.0, binning=binning)
        found[binning] = float(power["wavenumber"][int(power.argmax("wavenumber"))])
    assert found == {"physical": 0.25, "pysteps": 0.125}


@pytest.mark.parametrize("window", [None, "hann"])
def test_density_of_noise_depends_neither_on_the_grid_nor_on_the_window(window):
    """White noise of variance 1 on cells of a km2 has a density of a at every wavelength."""
    noise = np.random.default_rng(0)
    for shape, spacing in (((3, 64, 64), (2.0, 2.0)), ((64, 96), (1.0, 3.0))):
        _, power = of_array(noise.standard_normal(shape), spacing, window=window)
        assert power[4:].mean() == pytest.approx(spacing[0] * spacing[1], rel=0.1)


@pytest.mark.parametrize("shape", [(32, 32), (31, 48), (20, 33), (33, 20)])
def test_power_in_all_rings_is_the_variance(shape):
    """Parseval: density times the area of the modes in wavenumber space."""
    noise = xr.DataArray(np.random.default_rng(0).gamma(0.3, size=shape) + 5, dims=("y", "x"))
    dy, dx = 2.0, 0.7
    power = spectra.power_spectrum(noise, spacing_km=(dy, dx), binning="corners")
    variance = float((power * power["modes"]).fillna(0).sum()) / (shape[0] * dy * shape[1] * dx)
    assert variance == pytest.approx(float(noise.var()), rel=1e-12)
    assert int(power["modes"].sum()) == shape[0] * shape[1] - 1


def test_rings_end_where_both_directions_resolve():
    assert rings((64, 64), (1.0, 1.0)).wavenumber[-1] == 0.5
    assert rings((64, 64), (1.0, 2.0)).wavenumber[-1] == 0.25
    assert rings((65, 64), (1.0, 1.0)).wavenumber[-1] <= 0.5


def test_ratio_resolution_and_distance_worked_by_hand():
    shape, spacing = (64, 64), (1.0, 1.0)
    observed = sum(wave(shape, spacing, km, 1) for km in (32, 16, 8, 4))
    forecast = sum(a * wave(shape, spacing, km, 1) for a, km in ((1.0, 32), (0.9, 16), (0.5, 8), (0.1, 4)))
    sums = spectra.spectrum_sums(observed, forecast, spacing_km=1.0).sel(wavenumber=[1 / 32, 1 / 16, 1 / 8, 1 / 4])
    np.testing.assert_allclose(spectra.spectral_ratio(sums), [1.0, 0.81, 0.25, 0.01], rtol=1e-9)
    assert float(spectra.effective_resolution(sums)) == 16.0
    assert float(spectra.effective_resolution(sums, ratio=0.2)) == 8.0
    decibel = 10 * np.log10([1.0, 0.81, 0.25, 0.01])
    assert float(spectra.log_spectral_distance(sums)) == pytest.approx(np.sqrt(np.mean(decibel**2)))
    assert float(spectra.log_spectral_distance(sums, wavelengths=(4, 4))) == pytest.approx(20.0)
    # power of bands is added up before it is divided: 2 waves of power 1 each, and of 0.25 and 0.01
    modes = sums["modes"].values
    expected = (0.25 / modes[2] * modes[2] + 0.01 / modes[3] * modes[3]) / 2
    np.testing.assert_allclose(spectra.spectral_ratio(sums, bands=[(4, 8)]), [expected], rtol=1e-9)


def test_without_power_scores_are_nan_or_infinite():
    dry = xr.DataArray(np.zeros((16, 16)), dims=("y", "x"))
    wet = xr.DataArray(np.random.default_rng(0).random((16, 16)), dims=("y", "x"))
    assert np.isnan(spectra.spectral_ratio(dry, dry, spacing_km=1.0)).all()
    assert np.isnan(spectra.effective_resolution(wet, dry, spacing_km=1.0))
    assert np.isnan(spectra.log_spectral_distance(dry, dry, spacing_km=1.0))
    assert np.isinf(spectra.log_spectral_distance(wet, dry, spacing_km=1.0))
    assert np.isinf(spectra.spectral_ratio(dry, wet, spacing_km=1.0)).all()


# ---------------------------------------------------------------- not measured


def test_not_measured_is_filled_in_both_fields(rain):
    o, f = rain
    pairs = o.notnull() & f.notnull()
    found = spectra.spectrum_sums(o, f)
    expected = spectra.spectrum_sums(o.where(pairs, 0), f.where(pairs, 0))
    xr.testing.assert_allclose(found.transpose(*expected.dims), expected, rtol=1e-6)
    filled = spectra.spectrum_sums(o, f, fill=-5.0)
    assert not np.allclose(filled["observed"], found["observed"])


def test_fields_with_too_much_missing_are_left_out(rain):
    o, f = rain
    f = f.copy()
    f[1, 2] = np.nan  # nothing of one member at one time
    f[2, 3, :16] = np.nan  # half of another
    n = {limit: int(spectra.spectrum_sums(o, f, max_missing=limit)["n"][0]) for limit in (1.0, 0.4, 0.05, 0.0)}
    assert n == {1.0: 11, 0.4: 10, 0.05: 7, 0.0: 0}
    assert np.isnan(spectra.spectral_ratio(o, f, max_missing=0.0)).all()
    assert np.isnan(spectra.power_spectrum(o, max_missing=0.0)).all()
    assert np.isnan(spectra.power_spectrum(o, skipna=False)).all()
    assert np.isnan(spectra.effective_resolution(o, f, skipna=False))


def test_kernel_takes_not_measured_as_dry():
    values = np.random.default_rng(0).gamma(0.5, size=(16, 16))
    values[:3] = 0.0
    holed = values.copy()
    holed[:3] = np.nan
    np.testing.assert_array_equal(of_array(holed, 1.0), of_array(values, 1.0))


# ---------------------------------------------------------------- against independent code


@pytest.mark.parametrize("shape", [(64, 64), (65, 65), (48, 64), (64, 51), (33, 20)])
def test_pysteps_binning_is_that_of_pysteps(shape):
    rapsd = pytest.importorskip("pysteps.utils.spectral", reason="needs the extra pysteps").rapsd
    values = np.random.default_rng(0).gamma(0.3, size=shape)
    expected, frequency = rapsd(values, fft_method=np.fft, return_freq=True, d=2.0)
    power = spectra.power_spectrum(
        xr.DataArray(values, dims=("y", "x")), spacing_km=2.0, binning="pysteps", detrend=None
    )
    np.testing.assert_allclose(power, expected, rtol=1e-12)
    np.testing.assert_allclose(power["wavenumber"], frequency)


def test_physical_rings_of_a_square_grid_are_those_of_pysteps():
    rapsd = pytest.importorskip("pysteps.utils.spectral", reason="needs the extra pysteps").rapsd
    values = synthetic_radar(frames=1, shape=(64, 64), coverage=False).rainfall_rate.values[0]
    wavelength, power = of_array(values, 1.0)
    expected, frequency = rapsd(values, fft_method=np.fft, return_freq=True)
    np.testing.assert_allclose(power[:-1], expected[1:], rtol=1e-4)  # theirs stops short of two cells
    np.testing.assert_allclose(1 / wavelength[:-1], frequency[1:])


def test_bands_are_those_of_a_plain_transform():
    """Rings against every mode on its own, as a plain annulus of a tapered field."""
    rng = np.random.default_rng(0)
    fields = [rng.gamma(0.3, size=(256, 256)) for _ in range(2)]
    taper = np.hanning(256)[:, None] * np.hanning(256)
    k = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256))
    annulus = (k >= 1 / 8) & (k <= 1 / 4)
    plain = [(np.abs(np.fft.fft2((a - a.mean()) * taper)) ** 2)[annulus].mean() for a in fields]
    o, f = (xr.DataArray(a, dims=("y", "x")) for a in fields)
    found = spectra.spectral_ratio(o, f, bands=[(4, 8)], spacing_km=1.0, window="hann")
    assert float(found[0]) == pytest.approx(plain[1] / plain[0], rel=0.02)


# ---------------------------------------------------------------- invariances


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("dim", [None, "time", []])
def test_chunks_do_not_matter(rain, name, dim):
    o, f = rain
    expected = SCORES[name](o, f, dim=dim)
    for chunks in ({"time": 1}, {"member": 2, "y": 7}):
        found = SCORES[name](o.chunk({d: n for d, n in chunks.items() if d in o.dims}), f.chunk(chunks), dim=dim)
        assert found.chunks is not None
        xr.testing.assert_allclose(found, expected, rtol=1e-12)


def test_sums_of_parts_add_up(rain):
    o, f = rain
    whole = spectra.spectrum_sums(o, f)
    parts = [spectra.spectrum_sums(o.isel(time=p), f.isel(time=p)) for p in (slice(1), slice(1, None))]
    xr.testing.assert_allclose(parts[0] + parts[1], whole, rtol=1e-12)
    by_time = spectra.spectrum_sums(o, f, dim="member")
    np.testing.assert_allclose(spectra.spectral_ratio(by_time.sum("time")), spectra.spectral_ratio(o, f), rtol=1e-12)


def test_nothing_is_computed_while_the_graph_is_built(rain, nothing_may_run):
    o, f = (a.chunk(time=1) for a in rain)
    with nothing_may_run:
        lazy = [score(o, f) for score in SCORES.values()] + [spectra.power_spectrum(f)]
    assert all(dask.is_dask_collection(array.data) for array in lazy)


def test_spectrum_of_members_is_not_that_of_their_mean(rain):
    o, f = rain
    expected = spectra.spectral_ratio(o, f.mean("member"))
    xr.testing.assert_allclose(spectra.spectral_ratio(o, f, member_dim="member"), expected)
    assert float(expected.mean()) < 0.6 * float(spectra.spectral_ratio(o, f).mean())


def test_spacing_is_read_from_the_coordinates(rain):
    o, _ = rain
    xr.testing.assert_identical(spectra.power_spectrum(o), spectra.power_spectrum(o, spacing_km=(1.0, 2.0)))
    bare = o.drop_vars(["y", "x"])
    with pytest.raises(ValueError, match=r"the grid spacing is unknown, .* give spacing_km="):
        spectra.power_spectrum(bare)


def test_datasets_names_and_attributes(rain):
    o, f = (a.to_dataset(name="rr").assign(other=a * 2) for a in rain)
    found = spectra.spectral_ratio(o, f)
    assert set(found.data_vars) == {"rr", "other"}
    np.testing.assert_allclose(found["other"], found["rr"], rtol=1e-5)
    assert spectra.spectrum_sums(o, f)["n"].dims == ("variable", "wavenumber")
    assert spectra.power_spectrum(o["rr"], keep_attrs=True).attrs == {"units": "mm h-1"}
    assert spectra.power_spectrum(o["rr"]).attrs == {}
    for name in ("spectral_ratio", "effective_resolution", "log_spectral_distance"):
        assert SCORES[name](o["rr"], f["rr"]).name == name
    assert spectra.spectral_ratio(o["rr"], f["rr"], bands=[(4, 8)])["band"].values.tolist() == ["4-8 km"]


def test_single_precision_is_enough(rain):
    o, _ = rain
    np.testing.assert_allclose(spectra.power_spectrum(o), spectra.power_spectrum(o.astype("f8")), rtol=1e-4)


def test_inputs_are_left_as_they_were(rain):
    o, f = rain
    before = o.copy(deep=True), f.copy(deep=True)
    spectra.spectral_ratio(o.fillna(0), f.fillna(0), window="hann")
    spectra.power_spectrum(o, detrend=None)
    xr.testing.assert_identical(o, before[0])
    xr.testing.assert_identical(f, before[1])


# ---------------------------------------------------------------- errors and the real thing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": "hamming"}, "window is 'hamming'; it can be 'hann' or None"),
        ({"detrend": "linear"}, "detrend is 'linear'; it can be 'mean' or None"),
        ({"binning": "octaves"}, "binning is 'octaves'; it can be 'physical' or 'corners' or 'pysteps'"),
        ({"max_missing": 30}, "max_missing is 30; it is a part of the cells, 0 to 1"),
        ({"spacing_km": 0.0}, "the grid spacing is 0.0 by 0.0 km; it must be over 0"),
        ({"bands": [(100, 200)]}, "no ring of the spectrum has a wavelength within 100 and 200 km; it has them from 4"),
        ({"dim": "z"}, "dim 'z' is in neither array"),
    ],
)
def test_wrong_arguments_are_named(rain, options, message):
    with pytest.raises(ValueError, match=message):
        spectra.spectral_ratio(*rain, **options)


def test_wrong_fields_are_named(rain):
    o, f = rain
    with pytest.raises(ValueError, match="the grid is 3 x 24; a spectrum needs at least 4 x 4 cells"):
        spectra.power_spectrum(o.isel(y=slice(3)))
    with pytest.raises(TypeError, match="spectral_ratio takes observations and forecasts, or a Dataset from"):
        spectra.spectral_ratio(o)
    with pytest.raises(ValueError, match="dim 'x' differs"):
        spectra.spectral_ratio(o, f.assign_coords(x=f["x"] + 1))


def test_smoothing_a_real_event_costs_its_small_scales(shared_data):
    with xr.open_dataset(shared_data / "fmi_20160928_crop512.nc") as event:
        rain = event[next(n for n in event.data_vars if event[n].ndim == 3)].isel(time=slice(0, 3)).load()
    smooth = rain.rolling(y=9, x=9, center=True, min_periods=1).mean().where(rain.notnull())
    ratio = spectra.spectral_ratio(rain, smooth, bands=[(4, 8), (32, 64)], window="hann")
    assert float(ratio[0]) < 0.1
    assert float(ratio[1]) > 0.7
    assert 10 < float(spectra.effective_resolution(rain, smooth, window="hann")) < 30
