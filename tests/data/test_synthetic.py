"""The synthetic radar: its truth is known, so it is held to it."""

import cf_xarray  # noqa: F401
import numpy as np
import pytest
import xarray as xr

from xnowcast.data.synthetic import _gaussian_field, synthetic_motion, synthetic_radar


def rain_of(**options) -> np.ndarray:
    options = {"coverage": False, "shape": (64, 96), "frames": 8} | options
    return synthetic_radar(**options).rainfall_rate.values


def shift_between(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """Rows and columns by which ``first`` moved, from the peak of the cross-correlation of log rain."""
    a, b = (np.log10(np.maximum(z, 0.05)) for z in (first, second))
    a, b = a - a.mean(), b - b.mean()
    peak = np.fft.irfft2(np.conj(np.fft.rfft2(a)) * np.fft.rfft2(b), s=a.shape)
    row, column = np.unravel_index(peak.argmax(), peak.shape)
    rows, columns = a.shape
    return int((row + rows // 2) % rows - rows // 2), int((column + columns // 2) % columns - columns // 2)


def test_same_seed_same_rain_and_another_seed_other_rain():
    np.testing.assert_array_equal(rain_of(seed=4), rain_of(seed=4))
    assert not np.array_equal(rain_of(seed=4), rain_of(seed=5))


@pytest.mark.parametrize("chunks", ["auto", 1, 3, -1, {"time": 2}, {"time": 5, "y": 16, "x": 40}, {"y": 20}])
@pytest.mark.parametrize("rotation", [0.0, 20.0])
def test_chunking_changes_nothing(chunks, rotation):
    whole = rain_of(seed=1, rotation=rotation, chunks=8)
    np.testing.assert_array_equal(rain_of(seed=1, rotation=rotation, chunks=chunks), whole)


def test_chunks_are_those_asked_for():
    radar = synthetic_radar(frames=8, shape=(64, 96), chunks={"time": 5, "y": 16, "x": 40})
    assert radar.rainfall_rate.chunks == ((5, 3), (16,) * 4, (40, 40, 16))
    assert synthetic_radar(frames=8, shape=(8, 8), chunks=3).rainfall_rate.chunks[0] == (3, 3, 2)


def test_a_longer_sequence_begins_with_the_shorter():
    np.testing.assert_array_equal(rain_of(frames=12)[:5], rain_of(frames=5))


def test_a_finer_step_passes_through_the_same_frames():
    np.testing.assert_array_equal(rain_of(frames=9, step="5min")[::2], rain_of(frames=5, step="10min"))


def test_building_computes_nothing(nothing_may_run):
    with nothing_may_run:
        radar = synthetic_radar(frames=2_000, shape=(1000, 1000), chunks={"time": 1, "y": 500})
        motion = synthetic_motion(synthetic_radar(frames=2, shape=(16, 16)))
    assert radar.rainfall_rate.shape == (2_000, 1000, 1000)
    assert motion.eastward_motion.shape == (16, 16)


@pytest.fixture
def fields_made(monkeypatch):
    """Grows by one for each Gaussian field that is made: what a frame costs is the two that it is made of."""
    made = []

    def gaussian_field(*arguments):
        made.append(arguments)
        return _gaussian_field(*arguments)

    monkeypatch.setattr("xnowcast.data.synthetic._gaussian_field", gaussian_field)
    return made


def test_one_frame_of_a_long_sequence_is_cheap(fields_made):
    radar = synthetic_radar(frames=20_000, shape=(16, 16), chunks=1)
    radar.rainfall_rate[-1].values  # noqa: B018
    assert len(fields_made) == 2


def test_each_frame_is_made_once(fields_made):
    synthetic_radar(frames=5, shape=(16, 16)).rainfall_rate.values  # noqa: B018
    assert len(fields_made) == 2 * 5


@pytest.mark.parametrize("motion", [(10.0, 0.0), (0.0, 10.0), (-13.3, 6.6), (5.0, -10.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_rain_moves_by_the_stated_motion(motion, seed):
    radar = synthetic_radar(frames=3, shape=(128, 160), motion=motion, seed=seed, coverage=False)
    rows = 2 * radar.attrs["synthetic_motion_rows_per_step"]
    columns = 2 * radar.attrs["synthetic_motion_columns_per_step"]
    # 1 m s-1 is 0.3 km in 5 min; y descends, so northward is towards row 0.
    assert (columns, rows) == pytest.approx((0.6 * motion[0], -0.6 * motion[1]))
    row, column = shift_between(*radar.rainfall_rate.values[[0, 2]])
    assert abs(row - rows) <= 1.0
    assert abs(column - columns) <= 1.0


def test_motion_drawn_from_the_seed_is_the_true_one():
    for seed in range(3):
        radar = synthetic_radar(frames=3, shape=(128, 128), seed=seed, coverage=False)
        u, v = radar.attrs["synthetic_motion_m_s"]
        assert 4.9 < np.hypot(u, v) < 15.1
        row, column = shift_between(*radar.rainfall_rate.values[[0, 2]])
        assert abs(row + 0.6 * v) <= 1.0
        assert abs(column - 0.6 * u) <= 1.0


@pytest.mark.parametrize("rotation", [0.0, 0.001])
def test_without_lifetime_the_pattern_is_only_shifted(rotation):
    """10 m s-1 and 5 min are 3 km: exactly 3 columns of 1 km, through the spectrum and through interpolation."""
    rain = rain_of(lifetime=None, motion=(10.0, -10.0), rotation=rotation, frames=3)
    np.testing.assert_allclose(rain[1, 3:, 3:], rain[0, :-3, :-3], atol=0.02 if rotation else 1e-3, rtol=0.05)
    np.testing.assert_allclose(rain[2, 6:, 6:], rain[0, :-6, :-6], atol=0.02 if rotation else 1e-3, rtol=0.05)


def test_rotation_turns_the_pattern_counter_clockwise():
    """90 degrees per hour: after an hour the map is turned by a quarter, as numpy.rot90 does on a y-down array."""
    rain = rain_of(shape=(64, 64), lifetime=None, motion=(0.0, 0.0), rotation=90.0, frames=13)
    np.testing.assert_allclose(rain[12], np.rot90(rain[0]), atol=0.02, rtol=0.02)


def test_motion_field_is_that_of_a_turning_pattern():
    radar = synthetic_radar(frames=1, shape=(9, 9), spacing_km=10.0, motion=(4.0, -2.0), rotation=180.0 / np.pi)
    motion = synthetic_motion(radar)  # one radian per hour
    middle = motion.isel(y=4, x=4)
    assert (float(middle.eastward_motion), float(middle.northward_motion)) == pytest.approx((4.0, -2.0))
    # 36 km east of the centre would move 10 m s-1 northwards; the last column is 40 km east
    east = motion.isel(y=4, x=8)
    assert float(east.northward_motion) == pytest.approx(-2.0 + 40_000 / 3600)
    north = motion.isel(y=0, x=4)
    assert float(north.eastward_motion) == pytest.approx(4.0 - 40_000 / 3600)


def test_motion_field_needs_a_synthetic_radar():
    with pytest.raises(ValueError, match="lacks the attribute 'synthetic_motion_m_s'"):
        synthetic_motion(xr.Dataset())


def lagrangian_correlations(minutes: int, lifetime="20min") -> dict[str, float]:
    """Correlation of log rain over ``minutes``, following the motion, of small and of large features."""
    from scipy.ndimage import gaussian_filter

    radar = {"small": [], "large": []}
    for seed in range(3):
        rain = rain_of(
            seed=seed, shape=(128, 128), motion=(0.0, 0.0), frames=2, step=f"{minutes}min", lifetime=lifetime
        )
        first, second = np.log10(np.maximum(rain, 0.05))
        for name, part in (
            ("small", lambda z: z - gaussian_filter(z, 3)),
            ("large", lambda z: gaussian_filter(z, 10)),
        ):
            radar[name].append(np.corrcoef(part(first).ravel(), part(second).ravel())[0, 1])
    return {name: float(np.mean(values)) for name, values in radar.items()}


def test_small_features_grow_and_decay_faster_than_large_ones():
    early, late = lagrangian_correlations(10), lagrangian_correlations(60)
    assert early["large"] > 0.95
    assert 0.3 < early["small"] < 0.75
    assert 0.6 < late["large"] < 0.98
    assert late["small"] < 0.2


def test_a_longer_lifetime_keeps_the_pattern_longer():
    assert lagrangian_correlations(30, "80min")["small"] > lagrangian_correlations(30, "20min")["small"] + 0.2


def test_shear_moves_the_showers_through_the_rain():
    """All variation within the rain is that of showers; 10 m s-1 and 5 min are 3 columns, north is towards row 0."""
    options = {"convection": 1.0, "wet_fraction": 0.9, "lifetime": None, "motion": (0.0, 0.0), "frames": 2}
    rain = rain_of(shear=(10.0, 10.0), **options)
    first, second = rain[0, 3:, :-3], rain[1, :-3, 3:]
    wet = (first > 0) & (second > 0)
    assert wet.mean() > 0.7
    np.testing.assert_allclose(second[wet], first[wet], atol=1e-3, rtol=0.05)
    still = rain_of(**options)
    np.testing.assert_array_equal(still[0], still[1])
    np.testing.assert_array_equal(still[0], rain[0])


def test_shear_does_not_touch_rain_without_showers():
    np.testing.assert_array_equal(rain_of(convection=0.0, shear=(9.0, -4.0)), rain_of(convection=0.0))


def test_shear_is_told_where_there_is_some():
    assert synthetic_radar(frames=1, shape=(8, 8), shear=(3, -1)).attrs["synthetic_shear_m_s"] == [3.0, -1.0]
    assert "synthetic_shear_m_s" not in synthetic_radar(frames=1, shape=(8, 8)).attrs


def test_growth_is_the_stated_trend():
    steady, growing = rain_of(seed=2, frames=13), rain_of(seed=2, frames=13, growth=np.log(2.0))
    np.testing.assert_array_equal(growing[0], steady[0])
    wet = (steady[12] > 0) & (steady[12] < 70)
    np.testing.assert_allclose(growing[12][wet], 2.0 * steady[12][wet], rtol=1e-5)


def test_intensities_are_those_of_rain():
    rain = np.concatenate([rain_of(seed=s, shape=(256, 256), frames=3, step="90min") for s in range(4)])
    wet = rain[rain > 0]
    assert wet.min() >= 0.1
    assert 0.22 < wet.size / rain.size < 0.38
    assert 0.7 < np.median(wet) < 1.3
    assert 2.5 < np.quantile(wet, 0.9) < 6.0
    assert 7.0 < np.quantile(wet, 0.99) < 20.0
    assert 30.0 < wet.max() <= 150.0


@pytest.mark.parametrize("wet_fraction", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("convection", [0.0, 0.3, 1.0])
def test_wet_fraction_is_the_stated_one_on_average(wet_fraction, convection):
    rain = [rain_of(seed=s, frames=2, wet_fraction=wet_fraction, convection=convection) for s in range(40)]
    assert np.mean(np.array(rain) > 0) == pytest.approx(wet_fraction, rel=0.2)


def test_spectrum_falls_like_that_of_rain():
    rain = rain_of(shape=(256, 256), frames=4, step="2h")
    db = 10 * np.log10(np.maximum(rain, 0.1))
    window = np.hanning(256)[:, None] * np.hanning(256)
    power = (np.abs(np.fft.fft2((db - db.mean((1, 2), keepdims=True)) * window)) ** 2).mean(0)
    k = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)) * 256
    ring = np.rint(k).astype(int).ravel()
    density = np.bincount(ring, power.ravel()) / np.bincount(ring)
    band = slice(8, 33)  # 32 to 8 km
    slope = np.polyfit(np.log(np.arange(len(density))[band]), np.log(density[band]), 1)[0]
    assert -3.3 < slope < -2.2


def test_what_the_radars_do_not_see_is_nan_and_stays_so():
    radar = synthetic_radar(frames=4, shape=(60, 80)).rainfall_rate.values
    seen = np.isfinite(radar)
    assert 0.5 < seen[0].mean() < 0.95
    assert (seen == seen[0]).all()
    everywhere = synthetic_radar(frames=4, shape=(60, 80), coverage=False).rainfall_rate.values
    np.testing.assert_array_equal(radar[seen], everywhere[seen])


def test_coverage_circles_lie_where_stated():
    """One radar 10 km east and 4 km north of the centre that sees 3 km."""
    radar = synthetic_radar(frames=1, shape=(41, 41), coverage=[(10.0, 4.0, 3.0)])
    seen = radar.rainfall_rate[0].notnull().compute()
    rows, columns = np.nonzero(seen.values)
    assert float(radar.x[columns].mean()) == pytest.approx(10_000.0)
    assert float(radar.y[rows].mean()) == pytest.approx(4_000.0)
    assert columns.max() - columns.min() == 6
    assert seen.sum() == 29  # cells of a circle of radius 3


def test_labels_are_found_by_cf():
    radar = synthetic_radar(frames=2, shape=(16, 24))
    assert radar.attrs["Conventions"] == "CF-1.10"
    rain = radar.cf["rainfall_rate"]
    assert rain.attrs["units"] == "mm h-1"
    assert radar.cf.axes == {"T": ["time"], "Y": ["y"], "X": ["x"]}
    assert radar.cf.coordinates["latitude"] == ["lat"]
    assert radar.cf.coordinates["longitude"] == ["lon"]
    assert radar.cf.grid_mapping_names == {"lambert_azimuthal_equal_area": ["crs"]}
    assert (np.diff(radar.y) < 0).all()
    assert (np.diff(radar.x) > 0).all()
    assert radar.time.values.tolist() == np.array(["2024-06-01T12:00", "2024-06-01T12:05"], "M8[ns]").tolist()


def test_latitude_and_longitude_are_those_of_the_projection():
    pyproj = pytest.importorskip("pyproj")
    radar = synthetic_radar(frames=1, shape=(40, 61), spacing_km=30.0)
    x, y = np.meshgrid(radar.x, radar.y)
    to_degrees = pyproj.Transformer.from_crs(
        pyproj.CRS.from_cf(radar.crs.attrs), "+proj=longlat +R=6371000", always_xy=True
    )
    lon, lat = to_degrees.transform(x, y)
    np.testing.assert_allclose(radar.lat, lat, atol=1e-6)
    np.testing.assert_allclose(radar.lon, lon, atol=1e-6)


def test_reflectivity_is_the_rain_through_z_r():
    rain = synthetic_radar(frames=2, shape=(40, 40), seed=1).rainfall_rate.values
    radar = synthetic_radar(frames=2, shape=(40, 40), seed=1, as_reflectivity=True, zr=(223.0, 1.53))
    dbz = radar.equivalent_reflectivity_factor
    assert dbz.attrs["units"] == "dBZ"
    assert (dbz.attrs["zr_a"], dbz.attrs["zr_b"]) == (223.0, 1.53)
    np.testing.assert_array_equal(np.isnan(dbz), np.isnan(rain))
    wet = rain > 0
    np.testing.assert_allclose(dbz.values[wet], 10 * np.log10(223.0 * rain[wet] ** 1.53), rtol=1e-4)
    assert (dbz.values[rain == 0] == -32.0).all()


@pytest.mark.parametrize("as_reflectivity", [False, True])
def test_its_file_passes_the_cf_checker(tmp_path, as_reflectivity):
    runner = pytest.importorskip("compliance_checker.runner")
    runner.CheckSuite.load_all_available_checkers()
    path = tmp_path / "radar.nc"
    synthetic_radar(frames=2, shape=(16, 16), as_reflectivity=as_reflectivity).to_netcdf(path)
    report = tmp_path / "report.txt"
    passed, errors = runner.ComplianceChecker.run_checker(
        str(path), ["cf:1.10"], 0, "strict", output_filename=str(report), output_format="text"
    )
    assert passed, report.read_text()
    assert not errors


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_it_survives_a_file(tmp_path, suffix):
    radar = synthetic_radar(frames=2, shape=(16, 16), lifetime=None)
    path = tmp_path / f"radar.{suffix}"
    if suffix == "nc":
        radar.to_netcdf(path)
    else:
        radar.to_zarr(path)
    with xr.open_dataset(path) as back:
        xr.testing.assert_equal(back.load(), radar)
        assert synthetic_motion(back).equals(synthetic_motion(radar))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "frames is 0; it must be a whole number of 1 or more"),
        ({"frames": 2.5}, "frames is 2.5"),
        ({"shape": (4, 32)}, "each at least 8"),
        ({"shape": (32,)}, "rows, columns"),
        ({"step": "0min"}, "step is '0min'; give a positive time"),
        ({"step": "soon"}, "step is 'soon'"),
        ({"lifetime": "-5min"}, "lifetime is '-5min'"),
        ({"spacing_km": -1.0}, "spacing_km is -1.0; give a number over 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"motion": (1.0, np.nan)}, "give .eastward, northward. in m s-1"),
        ({"motion": (1.0,)}, "give .eastward, northward. in m s-1"),
        ({"shear": (1.0, np.inf)}, "shear is .1.0, inf.; give .eastward, northward. in m s-1"),
        ({"rotation": np.inf}, "rotation is inf"),
        ({"growth": np.nan}, "growth is nan"),
        ({"wet_fraction": 0.0}, "wet_fraction is 0.0"),
        ({"wet_fraction": 1.0}, "wet_fraction is 1.0"),
        ({"median_rain": 0.05}, "median_rain is 0.05"),
        ({"convection": 1.2}, "convection is 1.2"),
        ({"coverage": [(0.0, 0.0, -5.0)]}, "circles .x_km, y_km, radius_km."),
        ({"coverage": "round"}, "coverage is 'round'"),
        ({"as_reflectivity": True, "zr": (200.0, -1.0)}, "zr is "),
        ({"chunks": "many"}, "chunks is 'many'"),
        ({"chunks": 0}, "chunks is 0"),
        ({"start": "whenever"}, "start is 'whenever'"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        synthetic_radar(**options)
