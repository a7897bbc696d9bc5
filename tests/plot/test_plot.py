"""Pictures show what they say: the right fields, at the right times, in the right colours."""

import matplotlib

matplotlib.use("Agg")

import builtins
import sys

import dask
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import to_rgba

from xnowcast import plot as plots
from xnowcast.data.synthetic import synthetic_radar
from xnowcast.plot.maps import NOT_MEASURED, RAIN_LEVELS

START = np.datetime64("2024-06-01T12:00", "ns")
FIVE_MINUTES = np.timedelta64(5, "m").astype("timedelta64[ns]")


@pytest.fixture(autouse=True)
def no_figure_is_left_open():
    yield
    assert plt.get_fignums() == []


def sequence(frames: int = 20, **options) -> xr.Dataset:
    return synthetic_radar(frames=frames, shape=(16, 24), seed=3, **options)


def forecast_of(radar: xr.Dataset, start: int = 5, leads: int = 12, members: int | None = None) -> xr.Dataset:
    """Frame ``start`` held for ``leads`` steps; member m is it times m + 1."""
    name = next(iter(radar.data_vars))
    field = radar[name].isel(time=start, drop=True)
    init = radar.time.values[start : start + 1]
    lead = np.arange(1, leads + 1) * FIVE_MINUTES
    held = field.expand_dims(init_time=init, lead_time=lead)
    if members is not None:
        held = xr.concat([(m + 1) * held for m in range(members)], "member").assign_coords(member=range(members))
        held = held.transpose("init_time", "member", "lead_time", "y", "x")
    held.attrs = field.attrs
    held = held.assign_coords(valid_time=(("init_time", "lead_time"), init[:, None] + lead))
    return held.to_dataset(name=name).assign(crs=radar.crs).assign_attrs(nowcast_model="persistence")


def maps(fig) -> list:
    """Axes with a map, the rows of panels one after another."""
    return [axes for axes in fig.axes if axes.get_label() != "<colorbar>"]


def drawn(axes) -> np.ndarray:
    (mesh,) = [c for c in axes.collections if isinstance(c, QuadMesh)]
    return np.ma.filled(mesh.get_array().astype(float), np.nan)


def test_a_forecast_by_other_packages_names_is_drawn_alike():
    radar = sequence()
    forecast = forecast_of(radar, members=3)
    theirs = forecast.drop_vars("valid_time").rename(member="number", init_time="time", lead_time="step")
    pictures = [plots.plot(fc, radar, lead_times=["10min"], member=2) for fc in (forecast, theirs)]
    shown = [[drawn(axes) for axes in maps(fig)] for fig in pictures]
    np.testing.assert_array_equal(shown[0], shown[1])
    for fig in pictures:
        plt.close(fig)


def test_forecast_is_drawn_below_what_was_observed_at_the_same_time():
    radar = sequence()
    fig = plots.plot(forecast_of(radar), radar)
    axes = maps(fig)
    assert len(axes) == 8
    assert [a.get_title() for a in axes[:4]] == [
        "+15 min\n12:40 UTC",
        "+30 min\n12:55 UTC",
        "+45 min\n13:10 UTC",
        "+60 min\n13:25 UTC",
    ]
    assert [a.get_ylabel() for a in (axes[0], axes[4])] == ["observed\ny (km)", "forecast\ny (km)"]
    assert axes[4].get_xlabel() == "x (km)"
    rain = radar.rainfall_rate.values
    for panel, frame in enumerate((8, 11, 14, 17)):
        np.testing.assert_array_equal(drawn(axes[panel]), rain[frame])
        np.testing.assert_array_equal(drawn(axes[4 + panel]), rain[5])
    assert fig.get_suptitle() == "persistence forecast from 2024-06-01 12:25 UTC"
    bars = [a.get_ylabel() for a in fig.axes if a.get_label() == "<colorbar>"]
    assert bars == ["rain rate (mm/h)"]


def test_axes_are_in_km_and_north_is_up_whatever_the_order_of_rows():
    radar = sequence()
    for field in (radar, radar.isel(y=slice(None, None, -1))):
        axes = maps(plots.plot_field(field, times=["2024-06-01T12:00"]))[0]
        (mesh,) = [c for c in axes.collections if isinstance(c, QuadMesh)]
        corners = mesh.get_coordinates()
        assert (corners[..., 0].min(), corners[..., 0].max()) == (-12.0, 12.0)
        assert (corners[..., 1].min(), corners[..., 1].max()) == (-8.0, 8.0)
        assert axes.get_ylim() == (-8.0, 8.0)
        northmost = drawn(axes)[0 if corners[0, 0, 1] > 0 else -1]
        np.testing.assert_array_equal(northmost, radar.rainfall_rate[0, 0])


def test_not_measured_is_grey_dry_is_white_and_rain_has_its_colour():
    rain = np.zeros((1, 8, 8), np.float32)
    rain[0, 0, 0], rain[0, 0, 1], rain[0, 0, 2] = np.nan, 3.0, 250.0
    field = xr.DataArray(rain, dims=("time", "y", "x"), coords={"time": [START]}, attrs={"units": "mm h-1"}, name="rr")
    fig = plots.plot_field(field)
    (mesh,) = [c for c in maps(fig)[0].collections if isinstance(c, QuadMesh)]
    colors = mesh.to_rgba(mesh.get_array())
    np.testing.assert_allclose(colors[0, 0], to_rgba(NOT_MEASURED))
    np.testing.assert_allclose(colors[0, 1], to_rgba("#35a85a"))  # 2 to 5 mm/h
    np.testing.assert_allclose(colors[0, 2], to_rgba("#5a0d6b"))  # over 100 mm/h
    assert colors[4, 4, 3] == 0.0  # dry: the white of the axes
    assert maps(fig)[0].get_facecolor() == (1.0, 1.0, 1.0, 1.0)


def test_rain_colours_change_at_the_levels():
    cmap, norm = plots.rain_colormap()
    colors = {cmap(norm(level)) for level in RAIN_LEVELS}
    assert len(colors) == len(RAIN_LEVELS)
    assert cmap(norm(0.4999)) == cmap(norm(0.1))
    assert cmap(norm(0.5)) != cmap(norm(0.4999))
    assert cmap(norm(0.0999))[3] == 0.0


def test_reflectivity_is_drawn_in_mm_per_hour():
    rain, dbz = sequence(4), sequence(4, as_reflectivity=True)
    axes = maps(plots.plot_field(dbz))
    np.testing.assert_allclose(drawn(axes[0]), rain.rainfall_rate[0].values, rtol=1e-3, atol=1e-6)


def test_amounts_per_step_are_drawn_by_the_step_of_the_whole_sequence():
    """0.5 mm in 5 minutes are 6 mm/h, also in panels that lie an hour apart."""
    amount = xr.DataArray(
        np.full((37, 8, 8), 0.5, np.float32),
        dims=("time", "y", "x"),
        name="rr",
        coords={"time": START + np.arange(37) * FIVE_MINUTES},
        attrs={"units": "mm", "standard_name": "lwe_thickness_of_precipitation_amount"},
    )
    axes = maps(plots.plot_field(amount))
    assert [a.get_title() for a in axes] == ["2024-06-01\n12:00 UTC", "13:00 UTC", "14:00 UTC", "15:00 UTC"]
    for panel in axes:
        np.testing.assert_allclose(drawn(panel), 6.0, rtol=1e-6)


def test_a_new_day_is_named():
    late = synthetic_radar(frames=3, shape=(8, 8), start="2024-06-01T23:55")
    titles = [a.get_title() for a in maps(plots.plot_field(late))]
    assert titles == ["2024-06-01\n23:55 UTC", "2024-06-02\n00:00 UTC", "00:05 UTC"]


def test_observations_that_are_means_over_another_time_say_so():
    radar = sequence()
    hourly = radar.assign(rainfall_rate=radar.rainfall_rate.assign_attrs(accutime=60))
    figure = plots.plot(forecast_of(radar), hourly)
    assert maps(figure)[0].get_ylabel() == "observed mean of 60 min\ny (km)"
    plt.close(figure)


@pytest.mark.parametrize("zoned", ["2024-06-01T14:25+02:00", "2024-06-01T12:25Z"])
def test_the_start_and_the_times_that_are_drawn_may_have_a_zone(zoned):
    radar = sequence()
    figure = plots.plot(forecast_of(radar), init_time=zoned)
    assert figure.get_suptitle().endswith("from 2024-06-01 12:25 UTC")
    plt.close(figure)
    figure = plots.plot_field(radar, times=[zoned])
    assert maps(figure)[0].get_title().endswith("12:25 UTC")
    plt.close(figure)


def test_missing_observation_is_said():
    radar = sequence()
    fig = plots.plot(forecast_of(radar), radar.isel(time=slice(0, 10)), lead_times=["10min", "60min"])
    first, second = maps(fig)[:2]
    assert not [t for t in first.texts if t.get_text() == "no frame"]
    assert [t.get_text() for t in second.texts] == ["no frame"]
    assert np.isnan(drawn(second)).all()


def test_lead_times_and_start_can_be_chosen():
    radar = sequence()
    both = xr.concat([forecast_of(radar, 3), forecast_of(radar, 5)], "init_time", data_vars="minimal")
    rain = radar.rainfall_rate.values
    for start, frame in ((-1, 5), (0, 3), ("2024-06-01T12:15", 3), (radar.time.values[5], 5)):
        fig = plots.plot(both, lead_times=["20min"], init_time=start)
        (axes,) = maps(fig)
        np.testing.assert_array_equal(drawn(axes), rain[frame])
        assert axes.get_title().startswith("+20 min")


def test_members_mean_and_probability():
    radar = sequence(coverage=False)
    rain = radar.rainfall_rate.values
    forecast = forecast_of(radar, members=4)  # rain times 1, 2, 3, 4
    options = {"lead_times": ["30min"]}
    np.testing.assert_allclose(drawn(maps(plots.plot(forecast, member=2, **options))[0]), 3 * rain[5], rtol=1e-6)
    mean = plots.plot(forecast, member="mean", **options)
    np.testing.assert_allclose(drawn(maps(mean)[0]), 2.5 * rain[5], rtol=1e-6)
    assert maps(mean)[0].get_ylabel().startswith("mean of 4")
    fig = plots.plot(forecast, radar, member="probability", threshold=2.0, **options)
    observed, probability = maps(fig)
    expected = np.mean([m * rain[5] >= 2.0 for m in (1, 2, 3, 4)], axis=0)
    np.testing.assert_allclose(drawn(probability), expected, atol=1e-6)
    np.testing.assert_array_equal(drawn(observed), rain[11])
    bars = [a.get_ylabel() for a in fig.axes if a.get_label() == "<colorbar>"]
    assert bars == ["rain rate (mm/h)", "probability of at least 2 mm/h"]


def test_probability_is_not_measured_where_the_forecast_is_not():
    radar = sequence()
    fig = plots.plot(forecast_of(radar, members=2), member="probability", threshold=1.0, lead_times=["5min"])
    np.testing.assert_array_equal(np.isnan(drawn(maps(fig)[0])), np.isnan(radar.rainfall_rate[0]))


def test_data_arrays_and_forecasts_without_init_time_dim_are_drawn():
    radar = sequence()
    forecast = forecast_of(radar).rainfall_rate
    rain = radar.rainfall_rate.values
    for part in (forecast, forecast.isel(init_time=0), forecast.isel(init_time=0, lead_time=slice(2, 3))):
        axes = maps(plots.plot(part, radar.rainfall_rate, lead_times=["15min"]))
        assert axes[0].get_title() == "+15 min\n12:40 UTC"
        np.testing.assert_array_equal(drawn(axes[0]), rain[8])
        np.testing.assert_array_equal(drawn(axes[1]), rain[5])


def test_latitude_longitude_grid_has_degrees():
    field = xr.DataArray(
        np.ones((1, 8, 9), np.float32),
        dims=("time", "lat", "lon"),
        name="rr",
        attrs={"units": "mm h-1"},
        coords={
            "time": [START],
            "lat": ("lat", np.linspace(60, 59.3, 8), {"units": "degrees_north", "standard_name": "latitude"}),
            "lon": ("lon", np.linspace(10, 10.8, 9), {"units": "degrees_east", "standard_name": "longitude"}),
        },
    )
    axes = maps(plots.plot_field(field))[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("longitude (°)", "latitude (°)")
    assert axes.get_aspect() == pytest.approx(1 / np.cos(np.deg2rad(59.65)))


def test_only_what_is_drawn_is_computed():
    computed = []

    def remember(block, block_info=None):
        computed.append(block_info[0]["chunk-location"][0])
        return block

    radar = synthetic_radar(frames=20, shape=(16, 16), chunks=1)
    radar["rainfall_rate"].data = radar.rainfall_rate.data.map_blocks(
        remember, dtype=np.float32, meta=np.empty((0, 0, 0))
    )
    plots.plot_field(radar, times=["2024-06-01T12:10", "2024-06-01T12:50"])
    assert sorted(set(computed)) == [2, 10]


def test_figure_is_written(tmp_path):
    radar = sequence()
    plots.plot(forecast_of(radar), radar, path=tmp_path / "maps.png")
    plots.plot_field(radar, path=tmp_path / "field.png")
    for name in ("maps.png", "field.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_animation_has_a_frame_for_each_lead_time(tmp_path):
    image = pytest.importorskip("PIL.Image")
    radar = sequence()
    path = tmp_path / "forecast.gif"
    animation = plots.animate(forecast_of(radar, leads=5), radar, path=path, fps=5)
    with image.open(path) as gif:
        assert gif.n_frames == 5
        assert gif.info["duration"] == 200
    fig = animation._fig
    observed, forecast = maps(fig)
    assert (observed.get_title(), forecast.get_title()) == ("observed", "forecast")
    animation._func(2)
    np.testing.assert_array_equal(drawn(observed), radar.rainfall_rate[8])
    assert fig.get_suptitle() == "persistence forecast from 2024-06-01 12:25 UTC\n+15 min, 12:40 UTC"


def test_sequence_is_animated_and_plays_in_a_notebook():
    radar = sequence(3)
    html = plots.animate(radar).to_jshtml()
    assert html.count("data:image/png;base64") == 3


def scorecard(decay: float) -> xr.Dataset:
    lead = np.arange(1, 4) * np.timedelta64(20, "m").astype("timedelta64[ns]")
    csi = np.exp(-decay * np.arange(1, 4)[:, None, None] * np.array([1.0, 2.0])[None, :, None]) * np.array([0.5, 1.0])
    return xr.Dataset(
        {
            "csi": (("lead_time", "threshold", "scale"), csi),
            "rmse": ("lead_time", decay * np.arange(3.0), {"units": "mm h-1"}),
        },
        coords={"lead_time": lead, "threshold": [0.5, 5.0], "scale": [1, 4]},
    )


def test_scores_are_drawn_against_lead_time():
    cards = {"persistence": scorecard(0.4), "extrapolation": scorecard(0.2)}
    fig = plots.plot_scores(cards)
    assert [a.get_title() for a in fig.axes] == ["at least 0.5 mm/h", "at least 5 mm/h"]
    for threshold, axes in enumerate(fig.axes):
        assert axes.get_xlabel() == "lead time (min)"
        assert [line.get_label() for line in axes.lines] == list(cards)
        for line, card in zip(axes.lines, cards.values(), strict=True):
            np.testing.assert_allclose(line.get_xdata(), [20, 40, 60])
            np.testing.assert_allclose(line.get_ydata(), card.csi[:, threshold, 0])
    assert fig.axes[0].get_ylabel() == "CSI"
    assert fig.axes[0].get_ylim() == (0.0, 1.0)


def test_scores_of_one_threshold_one_scale_and_none():
    fig = plots.plot_scores(scorecard(0.4), thresholds=[5.0], scale=4)
    np.testing.assert_allclose(fig.axes[0].lines[0].get_ydata(), scorecard(0.4).csi[:, 1, 1])
    fig = plots.plot_scores({"a": scorecard(0.4)}, "rmse")
    assert len(fig.axes) == 1
    assert fig.axes[0].get_ylabel() == "RMSE (mm h-1)"


def test_spectra_are_drawn_by_name():
    radar = sequence(2)
    fig = plots.plot_spectra({"observed": radar, "twice": radar.rainfall_rate * 2}, spacing_km=1.0)
    one, two = fig.axes[0].lines
    assert (one.get_label(), two.get_label()) == ("observed", "twice")
    np.testing.assert_allclose(two.get_ydata(), 4 * one.get_ydata(), rtol=1e-4)
    assert fig.axes[0].get_xlim() == (24.0, 2.0)
    assert "not measured as dry" in fig.get_suptitle()


def reliability_table(sharpness: float = 1.0) -> xr.Dataset:
    probability = np.linspace(0, 1, 6)
    frequency = np.stack([0.5 + sharpness * (probability - 0.5), 0.8 * probability])
    n = np.array([[500, 100, 50, 40, 30, 80], [900, 50, 20, 10, 0, 0]])
    frequency[n == 0] = np.nan
    return xr.Dataset(
        {
            "forecast_probability": (("threshold", "probability"), np.stack([probability] * 2)),
            "observed_frequency": (("threshold", "probability"), frequency),
            "n": (("threshold", "probability"), n),
        },
        coords={"threshold": [0.5, 5.0], "probability": probability},
    )


def test_reliability_is_drawn_by_threshold_with_the_part_of_the_forecasts():
    fig = plots.plot_reliability({"steps": reliability_table(), "flat": reliability_table(0.2)})
    upper, lower = fig.axes[:2], fig.axes[2:]
    assert [a.get_title() for a in upper] == ["at least 0.5 mm/h", "at least 5 mm/h"]
    diagonal, steps, climate, *_ = upper[0].lines
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    np.testing.assert_allclose(steps.get_ydata(), np.linspace(0, 1, 6))
    assert climate.get_ydata()[0] == pytest.approx(np.dot(np.linspace(0, 1, 6), [500, 100, 50, 40, 30, 80]) / 800)
    np.testing.assert_allclose(lower[0].lines[0].get_ydata(), np.array([500, 100, 50, 40, 30, 80]) / 800)
    assert len(upper[1].lines[1].get_xdata()) == 4  # probabilities that were never forecast are not drawn
    assert lower[0].get_xlabel() == "forecast probability"
    (one,) = plots.plot_reliability(reliability_table(), thresholds=[5.0]).axes[:1]
    assert one.get_title() == "at least 5 mm/h"
    assert one.get_legend() is None


def test_rank_histogram_is_drawn_relative_to_a_flat_one():
    counts = xr.DataArray([10.0, 20.0, 30.0, 20.0], dims="rank", coords={"rank": [1, 2, 3, 4]})
    fig = plots.plot_rank_histogram({"a": counts, "b": counts * 7})
    for axes, name in zip(fig.axes, "ab", strict=True):
        np.testing.assert_allclose([bar.get_height() for bar in axes.patches], [0.5, 1.0, 1.5, 1.0])
        assert axes.get_title() == name


def test_roc_has_its_ends_and_its_area():
    table = xr.Dataset(
        {
            "pod": (("threshold", "probability"), [[0.9, 0.6]]),
            "probability_of_false_detection": (("threshold", "probability"), [[0.4, 0.1]]),
        },
        coords={"threshold": [1.0]},
    )
    fig = plots.plot_roc({"steps": table, "again": table})
    curve = fig.axes[0].lines[1]
    np.testing.assert_allclose(curve.get_xdata(), [0, 0.1, 0.4, 1])
    np.testing.assert_allclose(curve.get_ydata(), [0, 0.6, 0.9, 1])
    area = 0.1 * 0.3 + 0.3 * 0.75 + 0.6 * 0.95
    assert curve.get_label() == f"steps, area {area:.2f}"
    assert fig.axes[0].get_xlabel() == "probability of false detection"


def test_quantiles_are_drawn_with_the_diagonal_and_the_marks():
    percentages = [1, 50, 90, 95, 99]
    table = xr.Dataset(
        {"observed": ("percentage", [0.0, 0.1, 2, 4, 9]), "forecast": ("percentage", [0.0, 0.2, 1.5, 3, 6])},
        coords={"percentage": percentages},
    )
    table["observed"].attrs["units"] = "mm h-1"
    fig = plots.plot_qq({"a": table})
    curve, marks, diagonal = fig.axes[0].lines
    np.testing.assert_array_equal(curve.get_xdata(), table["observed"])
    np.testing.assert_array_equal(marks.get_ydata(), [0.2, 1.5, 6])
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    assert fig.axes[0].get_xscale() == "symlog"
    assert fig.axes[0].get_ylabel() == "forecast (mm h-1)"
    assert fig.axes[0].get_xlabel() == "observed (mm h-1)"
    reflectivity = plots.plot_qq(table * 10 - 20, units="dBZ").axes[0]
    assert (reflectivity.get_xscale(), reflectivity.get_xlabel()) == ("linear", "observed (dBZ)")


def test_wrong_tables_are_named():
    table = reliability_table()
    with pytest.raises(ValueError, match="'a' has no 'n'; it has forecast_probability, observed_frequency"):
        plots.plot_reliability({"a": table.drop_vars("n")})
    with pytest.raises(ValueError, match=r"threshold 3 is not in 'a'; it has 0\.5, 5"):
        plots.plot_reliability({"a": table}, thresholds=[3.0])
    with pytest.raises(ValueError, match=r"select or sum '.*' first"):
        plots.plot_reliability({"a": table.expand_dims(lead_time=2)})
    with pytest.raises(ValueError, match=r"has the dims .*; it needs 'rank' alone"):
        plots.plot_rank_histogram(xr.DataArray(np.ones((2, 3)), dims=("lead_time", "rank")))
    with pytest.raises(ValueError, match="there are no histograms"):
        plots.plot_rank_histogram({})
    with pytest.raises(ValueError, match="'forecast' has no 'pod'"):
        plots.plot_roc(table)
    with pytest.raises(ValueError, match="'forecast' has no 'observed'"):
        plots.plot_qq(table)


def natural_earth(folder, monkeypatch, lines):
    """Put a coastline where cartopy keeps its downloads."""
    cartopy = pytest.importorskip("cartopy")
    shapefile = pytest.importorskip("shapefile")
    physical = folder / "shapefiles" / "natural_earth" / "physical"
    physical.mkdir(parents=True)
    with shapefile.Writer(str(physical / "ne_50m_coastline"), shapeType=shapefile.POLYLINE) as writer:
        writer.field("name", "C")
        for line in lines:
            writer.line([line])
            writer.record("coast")
    monkeypatch.setitem(cartopy.config, "data_dir", folder)


def test_coastlines_on_disk_are_drawn_through_the_grid_mapping(tmp_path, monkeypatch):
    # The synthetic radar's centre is 45 N 30 W: a coast straight through it, one far away.
    natural_earth(tmp_path, monkeypatch, [[(-30.0, 44.0), (-30.0, 45.0), (-30.0, 46.0)], [(100.0, 0.0), (101.0, 0.0)]])
    radar = sequence()
    axes = maps(plots.plot_field(radar, times=["2024-06-01T12:00"]))[0]
    (coast,) = [c for c in axes.collections if isinstance(c, LineCollection)]
    (line,) = coast.get_segments()
    np.testing.assert_allclose(line[:, 0], 0.0, atol=1e-6)
    np.testing.assert_allclose(line[:, 1], [-111.2, 0.0, 111.2], atol=1.0)
    assert axes.get_ylim() == (-8.0, 8.0)
    without = maps(plots.plot_field(radar, times=["2024-06-01T12:00"], coastlines=False))[0]
    assert not [c for c in without.collections if isinstance(c, LineCollection)]


def test_coastlines_are_never_downloaded(tmp_path, monkeypatch):
    cartopy = pytest.importorskip("cartopy")
    monkeypatch.setitem(cartopy.config, "data_dir", tmp_path)
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: pytest.fail("a download was tried"))
    axes = maps(plots.plot_field(sequence(2)))[0]
    assert not [c for c in axes.collections if isinstance(c, LineCollection)]


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def no_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_matplotlib)
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot")
    with pytest.raises(ImportError, match=r"pip install 'xnowcast\[plot\]'"):
        plots.rain_colormap()


def test_inputs_are_left_as_they_were():
    radar = sequence().load()
    forecast = forecast_of(radar).load()
    before = radar.copy(deep=True), forecast.copy(deep=True)
    plots.plot(forecast, radar)
    xr.testing.assert_identical(radar, before[0])
    xr.testing.assert_identical(forecast, before[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lead_times": ["7min"]}, "lead time 7min is not in the forecast; it has 5, 10"),
        ({"init_time": 3}, "init_time is 3, but the forecast has 1"),
        ({"init_time": "2030-01-01"}, "init_time 2030-01-01 is not in the forecast; it has 2024-06-01 12:25"),
        ({"member": 9}, "member 9 is not in the forecast; it has 0, 1"),
        ({"member": "median"}, "member is 'median'; give a number, 'mean' or 'probability'"),
        ({"member": "probability"}, "without a threshold; give one in mm h-1"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    radar = sequence()
    with pytest.raises(ValueError, match=message):
        plots.plot(forecast_of(radar, members=2), radar, **options)


def test_a_sequence_alone_is_drawn_frame_by_frame():
    radar = sequence()
    drawn, asked = plots.plot(radar), plots.plot_field(radar)
    assert [a.get_title() for a in drawn.axes] == [a.get_title() for a in asked.axes]


def test_wrong_fields_are_named():
    radar = sequence()
    with pytest.raises(ValueError, match="no ensemble"):
        plots.plot(forecast_of(radar), member="probability", threshold=1.0)
    with pytest.raises(ValueError, match="has no lead_time; a sequence with a time axis is drawn alone"):
        plots.plot(radar, radar)
    with pytest.raises(ValueError, match="16 x 20 cells, the forecast 16 x 24"):
        plots.plot(forecast_of(radar), radar.isel(x=slice(0, 20)))
    with pytest.raises(ValueError, match="time 2030-01-01 is not in the sequence; it goes from 2024-06-01 12:00"):
        plots.plot_field(radar, times=["2030-01-01"])
    with pytest.raises(ValueError, match="has the dim 'tile' of length 2; select one first"):
        plots.plot_field(radar.rainfall_rate.expand_dims(tile=2))
    with pytest.raises(ValueError, match="fps is 0"):
        plots.animate(radar, fps=0)


# What a post-processor gives


def corrected(members: int | None = None) -> tuple[xr.Dataset, xr.DataArray]:
    """Classes at 26 and 27 h of rain of 0, 1 and 12 mm/h along x, and rain that was observed at the first of them."""
    rain = np.array([0.0, 1.0, 12.0, np.nan]).repeat(2) * np.ones((2, 6, 1))
    axes = {"y": ("y", 5000.0 * np.arange(6), {"units": "m"}), "x": ("x", 5000.0 * np.arange(8), {"units": "m"})}
    dims = ("init_time", "lead_time", "y", "x")
    lead = np.array([26, 27], "m8[h]").astype("m8[ns]")
    times = {"init_time": [START], "lead_time": lead}
    about = {"standard_name": "rainfall_rate", "units": "mm h-1"}
    forecast = xr.DataArray(rain[None], dims=dims, coords=axes | times, name="rainfall_rate", attrs=about)
    if members is not None:
        forecast = forecast.expand_dims(member=members)
    observed = xr.DataArray(
        np.where(rain[:1] == 12, 1.0, rain[:1]),
        dims=("time", "y", "x"),
        coords=axes | {"time": START + lead[:1]},
        name="radar",
        attrs=about,
    )
    return forecast.to_dataset().nowcast.postprocess("nwp-raw"), observed


def test_rain_classes_are_drawn_below_the_classes_that_were_observed():
    result, observed = corrected()
    fig = result.nowcast.plot(observed, variable="rain_category")
    above, _, below, last = maps(fig)
    classes = np.array([0.0, 1.0, 2.0, np.nan]).repeat(2)
    for axes in (below, last):
        np.testing.assert_array_equal(drawn(axes), np.broadcast_to(classes, (6, 8)))
    np.testing.assert_array_equal(drawn(above)[0], [0, 0, 1, 1, 1, 1, np.nan, np.nan])
    assert above.get_title() == "+26 h\n2024-06-02 14:00 UTC", "another day than that of the start"
    (bar,) = [axes for axes in fig.axes if axes.get_label() == "<colorbar>"]
    told = [label.get_text() for label in bar.get_yticklabels()]
    assert told == ["no rain\n(under 0.1 mm/h)", "rain\n(from 0.1 mm/h)", "heavy rain\n(from 10 mm/h)"]
    (mesh,) = [c for c in below.collections if isinstance(c, QuadMesh)]
    cmap, norm = plots.rain_colormap()
    seen = [mesh.cmap(mesh.norm(number)) for number in range(3)]
    assert seen == [to_rgba("white"), cmap(norm(1.0)), cmap(norm(10.0))]
    assert mesh.cmap(np.ma.masked) == to_rgba(NOT_MEASURED)


def test_classes_alone_are_drawn_by_their_names():
    result, observed = corrected()
    fig = result.rain_category.nowcast.plot()
    (bar,) = [axes for axes in fig.axes if axes.get_label() == "<colorbar>"]
    assert [label.get_text() for label in bar.get_yticklabels()] == ["no rain", "rain", "heavy rain"]
    with pytest.raises(ValueError, match="give the dataset"):
        result.rain_category.nowcast.plot(observed)


def test_probabilities_of_reaching_a_threshold_are_drawn_with_the_observed_outline():
    result, observed = corrected()
    fig = result.nowcast.plot(observed, variable="exceedance_probability", threshold=0.1)
    above, _, below, _ = maps(fig)
    np.testing.assert_array_equal(drawn(below)[0], [0, 0, 1, 1, 1, 1, np.nan, np.nan])
    assert len(above.collections) == 2, "the observed area is outlined"
    assert "probability of at least 0.1 mm/h" in [axes.get_ylabel() for axes in fig.axes]
    with pytest.raises(ValueError, match=r"threshold is 5; the probabilities are of 0\.1, 10 mm/h"):
        result.nowcast.plot(variable="exceedance_probability", threshold=5)


def test_a_class_activation_is_drawn_from_0_to_1():
    _, observed = corrected()
    values = np.linspace(0, 0.5, 6 * 8).reshape(1, 1, 6, 8)
    coords = {"init_time": [START], "lead_time": np.array([26], "m8[h]").astype("m8[ns]")}
    seen = xr.DataArray(
        values,
        dims=("init_time", "lead_time", "y", "x"),
        coords=coords | {name: observed[name] for name in ("y", "x")},
        attrs={"long_name": "class activation of heavy_rain (Grad-CAM)", "units": "1"},
    ).to_dataset(name="class_activation")
    fig = seen.nowcast.plot(observed)
    above, below = maps(fig)
    np.testing.assert_allclose(drawn(below), values[0, 0], rtol=1e-6)
    (mesh,) = [c for c in below.collections if isinstance(c, QuadMesh)]
    assert (mesh.norm.vmin, mesh.norm.vmax) == (0, 1)
    np.testing.assert_array_equal(drawn(above), observed[0])
    assert "class activation of heavy rain (Grad-CAM)" in [axes.get_ylabel() for axes in fig.axes]


def test_the_day_is_told_where_it_begins_and_of_single_fields():
    rain = xr.DataArray(
        np.ones((1, 4, 8, 8)), dims=("init_time", "lead_time", "y", "x"), name="rr", attrs={"units": "mm h-1"}
    ).assign_coords(init_time=[np.datetime64("2024-06-01T23:40", "ns")], lead_time=np.arange(1, 5) * 2 * FIVE_MINUTES)
    clocks = [axes.get_title().split("\n")[1] for axes in maps(plots.plot(rain))]
    assert clocks == ["23:50 UTC", "2024-06-02 00:00 UTC", "00:10 UTC", "00:20 UTC"]
    one = rain.isel(init_time=0, lead_time=1)
    assert [axes.get_title() for axes in maps(plots.plot_field(one))] == ["2024-06-02\n00:00 UTC"]
    assert maps(plots.plot_field(one.drop_vars("lead_time")))[0].get_title() == "2024-06-01\n23:40 UTC"
    observed = one.drop_vars(["init_time", "lead_time"])
    assert maps(plots.plot_field(observed))[0].get_title() == ""
    timed = observed.assign_coords(time=np.datetime64("2024-06-03T10:05", "ns"))
    assert maps(plots.plot_field(timed))[0].get_title() == "2024-06-03\n10:05 UTC"
    corrected_alone = corrected()[0].isel(init_time=0, lead_time=0)
    assert maps(plots.plot_field(corrected_alone, variable="rain_category"))[0].get_title().startswith("2024-06-02\n")


def test_classes_of_a_member_are_drawn_and_have_no_mean():
    result, _ = corrected(members=2)
    assert len(maps(result.nowcast.plot(variable="rain_category", member=1))) == 2
    with pytest.raises(ValueError, match="member is 'mean', and rain_category has members"):
        result.nowcast.plot(variable="rain_category", member="mean")


def test_classes_along_a_time_axis_are_drawn_and_animated(tmp_path):
    _, observed = corrected()
    both = xr.concat([observed, observed.assign_coords(time=observed.time + np.timedelta64(1, "h"))], "time")
    result = both.to_dataset().nowcast.postprocess("nwp-raw")
    panels = maps(result.nowcast.plot(variable="rain_category"))
    assert [axes.get_title() for axes in panels] == ["2024-06-02\n14:00 UTC", "15:00 UTC"]
    result.nowcast.animate(variable="rain_category", path=tmp_path / "classes.gif")
    assert (tmp_path / "classes.gif").stat().st_size > 1000


def test_long_lead_times_are_told_in_hours():
    lead = np.array([30, 180, 195, 1500, 1530], "m8[m]").astype("m8[ns]")
    rain = xr.DataArray(
        np.ones((1, 5, 8, 8)),
        dims=("init_time", "lead_time", "y", "x"),
        coords={"init_time": [START], "lead_time": lead},
        name="rr",
        attrs={"units": "mm h-1"},
    )
    titles = [axes.get_title().split("\n")[0] for axes in maps(plots.plot(rain, lead_times=lead))]
    assert titles == ["+30 min", "+3 h", "+3 h 15 min", "+25 h", "+25 h 30 min"]
    card = xr.Dataset({"rmse": ("lead_time", [1.0, 2.0])}, coords={"lead_time": lead[-2:]})
    axis = plots.plot_scores(card, "rmse").axes[0]
    assert axis.get_xlabel() == "lead time (h)"
    assert axis.get_lines()[0].get_xdata().tolist() == [25.0, 25.5]
    short = card.isel(lead_time=[0]).assign_coords(lead_time=lead[:1])
    assert plots.plot_scores({"long": card, "short": short}, "rmse").axes[0].get_xlabel() == "lead time (h)"


def test_wrong_scorecards_and_spectra_are_named():
    with pytest.raises(ValueError, match="'a' has no 'fss'; it has csi, rmse"):
        plots.plot_scores({"a": scorecard(0.1)}, "fss")
    with pytest.raises(ValueError, match=r"threshold 3 is not in the scorecard 'a'; it has 0\.5, 5"):
        plots.plot_scores({"a": scorecard(0.1)}, thresholds=[3.0])
    with pytest.raises(ValueError, match="scale 16 is not in the scorecard 'a'; it has 1, 4"):
        plots.plot_scores({"a": scorecard(0.1)}, scale=16)
    with pytest.raises(ValueError, match="there are no scorecards"):
        plots.plot_scores({})
    with pytest.raises(ValueError, match="'b' lacks the threshold 5 of the others"):
        plots.plot_scores({"a": scorecard(0.1), "b": scorecard(0.1).isel(threshold=[0])})
    bare = xr.DataArray(np.ones((8, 8)), dims=("y", "x"), name="rr", attrs={"units": "mm h-1"})
    with pytest.raises(ValueError, match="grid spacing of 'a' is unknown; give spacing_km"):
        plots.plot_spectra({"a": bare})
    with pytest.raises(ValueError, match="there are no fields"):
        plots.plot_spectra({})
    with pytest.raises(ValueError, match="at least 4 x 4"):
        plots.plot_spectra({"a": bare.isel(y=slice(3))}, spacing_km=1.0)


def test_a_real_squall_line_is_drawn(shared_data):
    with xr.open_dataset(shared_data / "mch_20160711.nc", chunks={}) as event, dask.config.set(scheduler="synchronous"):
        fig = plots.plot_field(event, times=[event.time.values[10]])
        values = drawn(maps(fig)[0])
        np.testing.assert_array_equal(values, event.rainfall_rate[10])
    assert np.isnan(values).any()
    assert np.nanmax(values) > 50


@pytest.mark.parametrize("draw", [plots.plot, plots.animate, plots.plot_field])
def test_a_picture_never_replaces_what_is_drawn(tmp_path, draw):
    """Some radars send pictures."""
    sequence(2).to_netcdf(tmp_path / "radar.gif", engine="netcdf4")
    before = (tmp_path / "radar.gif").read_bytes()
    read = xr.open_dataset(tmp_path / "radar.gif", engine="netcdf4", chunks={})
    with pytest.raises(ValueError, match="is also an input"):
        draw(read, path=tmp_path / "radar.gif")
    assert (tmp_path / "radar.gif").read_bytes() == before


@pytest.mark.parametrize("draw", [plots.plot, plots.animate, plots.plot_field])
@pytest.mark.parametrize(("path", "why"), [("", "a folder"), (".", "a folder"), ("nowhere/a.gif", "does not exist")])
def test_where_no_picture_can_be_is_told_before_anything_is_computed(tmp_path, monkeypatch, draw, path, why):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dask.base, "compute", lambda *args, **kwargs: pytest.fail("computed"))
    with pytest.raises(ValueError, match=f"path is '{path}'.*{why}"):
        draw(sequence(2).chunk(time=1), path=path)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "maps.png"
    path.write_bytes(b"before")

    def half(figure, name, **options):
        name.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(plt.Figure, "savefig", half)
    with pytest.raises(KeyboardInterrupt):
        plots.plot_field(sequence(2), path=path)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("maps.png", b"before")]
