"""Several files or stores as one dataset: what differs is converted, or refused by the file's name."""

import shutil
import warnings
from itertools import pairwise

import dask
import numpy as np
import pytest
import xarray as xr

import xnowcast
from xnowcast.data import joining, storage
from xnowcast.data.netcdf import UnreadableInput
from xnowcast.data.sources import paths_behind
from xnowcast.fields import cf

FRAMES = 6


@pytest.fixture
def radar():
    """Six frames of 8 x 10 cells, each with rain of its own number, and a hole."""
    rain = np.arange(1, FRAMES + 1, dtype="f4")[:, None, None] + np.linspace(0, 0.5, 80, dtype="f4").reshape(8, 10)
    rain[:, 2, 3] = np.nan
    times = np.datetime64("2024-06-01T12:00", "ns") + np.arange(FRAMES) * np.timedelta64(5, "m")
    metres = {"units": "m"}
    return xr.Dataset(
        {
            "rain": (
                ("time", "y", "x"),
                rain,
                {"units": "mm h-1", "standard_name": "rainfall_rate", "grid_mapping": "crs"},
            ),
            "crs": ((), 0, {"grid_mapping_name": "polar_stereographic", "straight_vertical_longitude_from_pole": 10.0}),
        },
        {
            "time": times,
            "y": ("y", np.arange(8)[::-1] * 1000 / 3, metres),
            "x": ("x", 1e6 + np.arange(10) * 1000 / 3, metres),
        },
    )


@pytest.fixture
def write(radar, tmp_path):
    """Writes frames as files, the later ones changed, and gives a pattern of them."""

    def write(change=lambda ds: ds, *, cuts=(0, 3, FRAMES), first=lambda ds: ds, ending="nc", data=None, **how):
        data = radar if data is None else data
        for i, (a, b) in enumerate(pairwise(cuts)):
            part = data.isel(time=slice(a, b)).copy(deep=True)
            save((change if i else first)(part), tmp_path / f"{'abcdefgh'[i]}.{ending}", **how)
        return str(tmp_path / f"*.{ending}")

    return write


def save(part, path, **how):
    if path.is_file():
        path.unlink()  # HDF5 would not write into a file that is open
    part.to_zarr(path) if path.suffix == ".zarr" else part.to_netcdf(path, **how)


def read(pattern, way):
    """By a pattern, or as a list of what fits it."""
    from glob import glob

    return storage.open_input(pattern) if way == "pattern" else storage.open_inputs(sorted(glob(pattern)))


def rain_of(data):
    return cf.rain_rate(data, "rain").transpose("time", "y", "x").compute()


def with_attrs(name="rain", **attrs):
    return lambda ds: ds.assign({name: ds[name].assign_attrs(attrs)})


WAYS = pytest.mark.parametrize("way", ["pattern", "list"])


# ---------------------------------------------------------------- joined


@WAYS
@pytest.mark.parametrize("ending", ["nc", "zarr"])
@pytest.mark.parametrize("cuts", [(0, 3, FRAMES), (0, 1, 5, FRAMES), tuple(range(FRAMES + 1))], ids=str)
def test_files_in_order_are_one_dataset(radar, write, way, ending, cuts):
    joined = read(write(cuts=cuts, ending=ending), way)
    xr.testing.assert_equal(joined.load(), radar)
    assert joined.rain.attrs == radar.rain.attrs


@WAYS
def test_nothing_is_read_to_join_files_and_only_what_is_used_afterwards(radar, write, way, tmp_path, monkeypatch):
    pattern = write(cuts=tuple(range(FRAMES + 1)))
    reads = []
    from xnowcast.data.netcdf import _Watched

    before = _Watched._read
    monkeypatch.setattr(_Watched, "_read", lambda self, key: reads.append(self._path.name) or before(self, key))
    joined = read(pattern, way)
    assert dask.is_dask_collection(joined.rain.data) and reads == []
    joined.rain.isel(time=[2]).compute()
    assert reads == ["c.nc"]


def test_graphs_of_thousands_of_files_stay_small(write):
    joined = storage.open_input(write(cuts=tuple(range(FRAMES + 1))))
    assert len(joined.rain.data.dask.layers) == 1
    (one,) = dask.optimize(joined.rain.isel(time=[3]).data)
    assert {path.name for path in paths_behind(one)} == {"d.nc"}
    assert len(dict(one.dask)) < FRAMES


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_joined_files_are_read_by_other_threads_and_processes(radar, write, engine):
    joined = storage.open_input(write())
    loaded = dask.compute(joined.rain.data, scheduler=engine, num_workers=2)[0]
    np.testing.assert_array_equal(loaded, radar.rain)


@WAYS
def test_files_out_of_order_are_sorted_along_time(radar, write, tmp_path, way):
    pattern = write(cuts=(0, 2, 4, FRAMES))
    shutil.move(tmp_path / "a.nc", tmp_path / "z.nc")
    xr.testing.assert_equal(read(pattern, way).load(), radar)


def test_interleaved_times_are_sorted_too(radar, tmp_path):
    save(radar.isel(time=[0, 2, 4]), tmp_path / "a.nc")
    save(radar.isel(time=[1, 3, 5]), tmp_path / "b.nc")
    xr.testing.assert_equal(storage.open_input(f"{tmp_path}/*.nc").load(), radar)


def test_netcdf_and_zarr_go_together_as_do_files_and_periods(radar, tmp_path):
    save(radar.isel(time=slice(0, 2)), tmp_path / "a.nc")
    save(radar.isel(time=slice(1, 4)), tmp_path / "b.zarr")
    save(radar.isel(time=slice(4, 6)), tmp_path / "c.nc")
    paths = [f"{tmp_path}/{name}" for name in ("a.nc", "b.zarr#2024-06-01T12:10/", "c.nc")]
    xr.testing.assert_equal(storage.open_inputs(paths).load(), radar)
    shutil.rmtree(tmp_path / "b.zarr")
    save(radar.isel(time=slice(2, 4)), tmp_path / "b.zarr")
    for pattern in (f"{tmp_path}/*", f"{tmp_path}/**"):
        xr.testing.assert_equal(storage.open_input(pattern).load(), radar)


@WAYS
def test_a_scalar_time_becomes_a_frame(radar, tmp_path, way):
    for i in range(FRAMES):
        save(radar.isel(time=i), tmp_path / f"{i}.nc")
    xr.testing.assert_equal(read(f"{tmp_path}/*.nc", way).load(), radar)
    (tmp_path / "0.nc").unlink()
    save(radar.isel(time=[0]), tmp_path / "0.nc")  # beside files with a dim
    xr.testing.assert_equal(read(f"{tmp_path}/*.nc", way).load(), radar)


def test_a_scalar_time_that_is_no_coordinate_will_do(radar, tmp_path):
    for i in range(FRAMES):
        frame = radar.isel(time=i).reset_coords("time")
        frame.rain.encoding["coordinates"] = None
        save(frame, tmp_path / f"{i}.nc")
    np.testing.assert_array_equal(storage.open_input(f"{tmp_path}/*.nc").rain, radar.rain)


@pytest.mark.parametrize("dims", [("x", "time", "y"), ("y", "x", "time")], ids="-".join)
def test_dims_in_another_order_are_put_in_that_of_the_first(radar, write, dims):
    xr.testing.assert_equal(storage.open_input(write(lambda ds: ds.transpose(*dims))).load(), radar)
    first = storage.open_input(write(first=lambda ds: ds.transpose(*dims)))
    assert first.rain.dims == dims
    np.testing.assert_array_equal(first.rain.transpose("time", "y", "x"), radar.rain)


def test_times_are_decoded_file_by_file(radar, write):
    def other(ds):
        ds.time.encoding = {"units": "hours since 1990-01-01", "dtype": "f8", "calendar": "proleptic_gregorian"}
        return ds

    joined = storage.open_input(write(other))
    np.testing.assert_array_equal(joined.time, radar.time)
    assert "units" not in joined.time.encoding, "one file's epoch does not fit the other's times"


def test_forecasts_in_several_files_are_joined_along_their_init_times(radar, tmp_path):
    made = xnowcast.forecast(radar, "persistence", steps=2, init_times="all").load()
    for i in range(3):
        save(made.isel(init_time=slice(2 * i, 2 * i + 2)), tmp_path / f"{i}.nc")
    joined = storage.open_input(f"{tmp_path}/*.nc").load()
    xr.testing.assert_equal(joined, made)
    assert joined.valid_time.dims == ("init_time", "lead_time")


def test_a_time_beside_the_times_is_kept_for_each(radar, tmp_path):
    for i in range(3):
        run = np.datetime64("2024-06-01", "ns") + np.timedelta64(i, "h")
        save(radar.isel(time=[i]).assign_coords(run=run), tmp_path / f"{i}.nc")
    joined = storage.open_input(f"{tmp_path}/*.nc")
    assert joined.run.dims == ("time",) and np.diff(joined.run.values)[0] == np.timedelta64(1, "h")


# ---------------------------------------------------------------- converted


@WAYS
@pytest.mark.parametrize(
    ("unit", "factor"), [("kg m-2 s-1", 1 / 3600), ("mm/h", 1), ("m s-1", 1 / 3.6e6), ("kg m-2 h-1", 1)]
)
def test_units_of_one_kind_are_converted(radar, write, way, unit, factor):
    def other(ds):
        return ds.assign(rain=(ds.rain * np.float32(factor)).assign_attrs(ds.rain.attrs | {"units": unit}))

    joined = read(write(other), way)
    assert joined.rain.units == "mm h-1" and joined.rain.dtype == np.float32
    np.testing.assert_allclose(joined.rain, radar.rain, rtol=1e-6)
    joined = read(write(first=other), way)
    assert joined.rain.units == unit
    np.testing.assert_allclose(rain_of(joined), radar.rain, rtol=1e-6)


@pytest.mark.parametrize("ending", ["nc", "zarr"])
def test_packing_is_that_of_each_file(radar, write, ending):
    def packed(scale, fill, dtype):
        def change(ds):
            ds.rain.encoding = {"dtype": dtype, "scale_factor": scale, "add_offset": 1.0, "_FillValue": fill}
            return ds

        return change

    joined = storage.open_input(write(packed(0.05, 255, "u1"), first=packed(0.001, -9999, "i2"), ending=ending))
    np.testing.assert_allclose(joined.rain, radar.rain, atol=0.03)
    assert not {"scale_factor", "dtype", "_FillValue"} & joined.rain.encoding.keys(), "one file's packing fits no other"


@WAYS
def test_coordinates_that_differ_by_rounding_are_one_grid(radar, write, way):
    joined = read(write(lambda ds: ds.assign_coords(x=ds.x.astype("f4"), y=ds.y.astype("f4"))), way)
    xr.testing.assert_equal(joined.load(), radar)


def test_rows_the_other_way_round_are_turned(radar, write):
    xr.testing.assert_equal(storage.open_input(write(lambda ds: ds.isel(y=slice(None, None, -1)))).load(), radar)


def test_coordinates_in_other_units_are_compared_in_the_same(radar, write):
    def kilometres(ds):
        return ds.assign_coords({d: (d, ds[d].values / 1000, {"units": "km"}) for d in ("y", "x")})

    xr.testing.assert_equal(storage.open_input(write(kilometres)).load(), radar)


@pytest.mark.parametrize("attrs", [{"zr_a": 200.0, "zr_b": 1.6}, {"zerovalue": -32.0}], ids=str)
def test_what_is_said_as_a_default_says_is_the_same(radar, write, attrs):
    radar.rain.attrs |= {"units": "dBZ", "standard_name": "equivalent_reflectivity_factor"}
    xr.testing.assert_equal(storage.open_input(write(with_attrs(**attrs))).load(), radar)


def test_words_may_differ(radar, write):
    changed = with_attrs(long_name="another", comment="of another day")
    projection = with_attrs("crs", long_name="the same", crs_wkt='PROJCS["another spelling"]')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        joined = storage.open_input(write(lambda ds: projection(changed(ds)).assign_attrs(history="b")))
    xr.testing.assert_identical(joined.load(), radar)


# ---------------------------------------------------------------- sums


def sums(radar, minutes=5, bounds=True):
    data = radar.assign(rain=radar.rain.assign_attrs(units="mm", standard_name="precipitation_amount"))
    if not bounds:
        return data
    start = data.time.values - np.timedelta64(minutes, "m")
    data["time_bnds"] = (("time", "bnds"), np.stack([start, data.time.values], axis=1))
    data.time.attrs["bounds"] = "time_bnds"
    return data


@pytest.mark.parametrize("cuts", [(0, 3, FRAMES), tuple(range(FRAMES + 1))], ids=["some", "one by one"])
def test_time_bounds_are_joined_too(radar, write, cuts):
    joined = storage.open_input(write(cuts=cuts, data=sums(radar, 10)))
    np.testing.assert_array_equal(joined.time_bnds, sums(radar, 10).time_bnds)
    assert cf.find_field(joined).interval.minutes == 10
    np.testing.assert_allclose(rain_of(joined), radar.rain * 6, rtol=1e-6)


def test_time_bounds_of_scalar_times_are_joined_too(radar, tmp_path):
    data = sums(radar, 10)
    for i in range(FRAMES):
        save(data.isel(time=i), tmp_path / f"{i}.nc")
    np.testing.assert_array_equal(storage.open_input(f"{tmp_path}/*.nc").time_bnds, data.time_bnds)


@WAYS
@pytest.mark.parametrize(
    ("first", "other", "found"),
    [
        (lambda ds: sums(ds, 5), lambda ds: sums(ds, 10), "sums over 10 min"),
        (lambda ds: sums(ds, 5), lambda ds: sums(ds, 0, bounds=False), "a time that is not told"),
        (
            lambda ds: with_attrs(accutime=5.0)(sums(ds, bounds=False)),
            lambda ds: with_attrs(accutime=60.0)(sums(ds, bounds=False)),
            "sums over 60 min",
        ),
        (
            lambda ds: sums(ds, bounds=False),
            lambda ds: sums(ds, bounds=False).assign_coords(
                time=ds.time[0].values + np.arange(3) * np.timedelta64(10, "m")
            ),
            "sums over 10 min",
        ),
    ],
    ids=["bounds", "no bounds", "accutime", "steps"],
)
def test_sums_over_different_times_are_refused(write, way, first, other, found):
    pattern = write(other, first=first)
    with pytest.raises(ValueError, match=rf"'rain' of \S+b\.nc holds .*{found}.* of \S+a\.nc"):
        read(pattern, way)


def test_a_gap_in_one_file_of_sums_is_no_other_interval(radar, tmp_path):
    data = sums(radar, bounds=False)
    save(data.isel(time=[0, 1, 2]), tmp_path / "a.nc")
    save(data.isel(time=[3, 5]), tmp_path / "b.nc")
    assert storage.open_input(f"{tmp_path}/*.nc").sizes["time"] == 5


# ---------------------------------------------------------------- refused


def shifted(ds):
    return ds.assign_coords(x=ds.x + 100)


REFUSED = {
    "an amount beside rates": (with_attrs(units="mm"), "has units"),
    "reflectivity beside rates": (with_attrs(units="dBZ"), "has units"),
    "unknown units": (with_attrs(units="furlong"), "has units"),
    "no units": (
        lambda ds: ds.assign(rain=ds.rain.drop_attrs().assign_attrs(ds.rain.attrs | {"units": ""})),
        "has units",
    ),
    "another standard name": (with_attrs(standard_name="lwe_precipitation_rate"), "has standard_name"),
    "another grid": (shifted, "another 'x'"),
    "another spacing": (lambda ds: ds.assign_coords(y=ds.y * 2), "another 'y'"),
    "another size": (lambda ds: ds.isel(x=slice(0, 5)), "5 cells along 'x'"),
    "units of coordinates": (lambda ds: ds.assign_coords(x=ds.x.assign_attrs(units="km")), "another 'x'"),
    "another projection": (with_attrs("crs", straight_vertical_longitude_from_pole=0.0), "another projection"),
    "another kind of projection": (with_attrs("crs", grid_mapping_name="mercator"), "another projection"),
    "another name": (lambda ds: ds.rename(rain="rr"), "lacks the variable 'rain'"),
    "another level": (lambda ds: ds.assign_coords(height=20.0), "another 'height'"),
    "no time": (lambda ds: ds.isel(time=0, drop=True), "has no time"),
    "the same times": (
        lambda ds: ds.assign_coords(time=ds.time - np.timedelta64(15, "m")),
        "both hold 2024-06-01T12:00",
    ),
    "overlapping times": (
        lambda ds: ds.assign_coords(time=ds.time - np.timedelta64(5, "m")),
        "both hold 2024-06-01T12:10",
    ),
    "another dim": (lambda ds: ds.expand_dims("tile"), "has the dims"),
    "a valid range": (with_attrs(valid_max=3.0), "has valid_max"),
}


@WAYS
@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("ending", ["nc", "zarr"])
def test_what_contradicts_is_refused_by_the_names_of_the_files(radar, write, way, case, ending):
    change, message = REFUSED[case]
    radar = radar.assign_coords(height=10.0).assign(rain=radar.rain.assign_attrs(valid_max=100.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=message) as caught:
            read(write(change, data=radar, ending=ending), way)
    assert f"b.{ending}" in str(caught.value)


def test_a_valid_range_that_only_a_later_file_declares_is_refused(radar):
    late = radar.assign_coords(time=radar.time + np.timedelta64(1, "D"))
    ranged = late.assign(rain=late.rain.assign_attrs(valid_max=3.0))
    with pytest.raises(ValueError, match=r"'rain' of b.nc has a valid range from -inf to 3, and of a.nc none"):
        joining.join([joining.Part("a.nc", radar), joining.Part("b.nc", ranged)])
    both = joining.join([joining.Part("b.nc", ranged), joining.Part("a.nc", radar)])
    assert both.rain.attrs["valid_max"] == 3.0


def test_a_valid_range_in_packed_units_holds_for_files_that_are_packed_otherwise(radar, tmp_path):
    rain = radar.rain.copy(data=np.full(radar.rain.shape, 20.0, "f4"))
    for number, (scale, attrs) in enumerate([(0.01, {"valid_max": np.int16(1500)}), (0.1, {})]):
        part = radar.assign(rain=rain.assign_attrs(attrs)).assign_coords(
            time=radar.time + number * np.timedelta64(1, "D")
        )
        part.rain.encoding = {"dtype": "i2", "scale_factor": scale, "_FillValue": np.int16(-1)}
        part.to_netcdf(tmp_path / f"{number}.nc")
    assert xnowcast.rain_rate(storage.open_input(str(tmp_path / "*.nc"))).isnull().all(), (
        "15 mm h-1 is the most that is valid"
    )


@pytest.mark.parametrize(
    "attrs", [{"zr_a": 300.0, "zr_b": 1.4}, {"zr_a": 316.0, "zr_b": 1.6}, {"zerovalue": 0.0}], ids=str
)
def test_another_way_from_reflectivity_to_rain_is_refused(radar, write, attrs):
    radar.rain.attrs |= {"units": "dBZ", "standard_name": "equivalent_reflectivity_factor"}
    for change, first in ((with_attrs(**attrs), lambda ds: ds), (lambda ds: ds, with_attrs(**attrs))):
        with pytest.raises(ValueError, match=r"'rain' of \S+b\.nc is read with Z ="):
            storage.open_input(write(change, first=first))


def test_curvilinear_grids_are_compared_by_their_places(radar, write):
    lat = (("y", "x"), 50 + np.add.outer(np.arange(8) * 0.01, np.arange(10) * 1e-4), {"units": "degrees_north"})
    lon = (("y", "x"), 10 + np.add.outer(np.arange(8) * 1e-4, np.arange(10) * 0.01), {"units": "degrees_east"})
    data = radar.drop_vars(["y", "x"]).assign_coords(lat=lat, lon=lon)
    joined = storage.open_input(write(lambda ds: ds.assign_coords(lat=ds.lat.astype("f4")), data=data))
    xr.testing.assert_equal(joined.load(), data)
    with pytest.raises(ValueError, match=r"b\.nc has another 'lat'"):
        storage.open_input(write(lambda ds: ds.assign_coords(lat=ds.lat + 0.005), data=data))


def test_a_file_given_twice_is_told(write, tmp_path):
    pattern = write()
    with pytest.raises(ValueError, match=r"a\.nc holds 2024-06-01T12:00:00 twice, or is given twice"):
        storage.open_inputs([pattern, f"{tmp_path}/a.nc"])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda ds: ds.drop_vars("quality"), "lacks it"),
        (with_attrs("quality", units="candela"), "has units"),
    ],
    ids=["missing", "other units"],
)
def test_what_is_no_rain_and_not_the_same_everywhere_is_left_out_with_a_warning(radar, write, change, why):
    data = radar.assign(quality=(("time", "y", "x"), np.ones(radar.rain.shape, "f4"), {"units": "1"}))
    with pytest.warns(UserWarning, match=rf"'quality' is left out: .*b\.nc.*{why}|'quality' is left out: .*{why}"):
        joined = storage.open_input(write(change, data=data))
    xr.testing.assert_equal(joined.load(), radar)


def test_other_quantities_are_converted_too(radar, write):
    data = radar.assign(t=(("time", "y", "x"), np.full(radar.rain.shape, 280.0), {"units": "K"}))
    joined = storage.open_input(write(lambda ds: ds.assign(t=(ds.t - 273.15).assign_attrs(units="degC")), data=data))
    np.testing.assert_allclose(joined.t, 280.0)


# ---------------------------------------------------------------- broken


def halve(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return content


@WAYS
def test_a_broken_file_is_refused_by_its_name(write, tmp_path, way):
    pattern = write(cuts=tuple(range(FRAMES + 1)))
    halve(tmp_path / "c.nc")
    with pytest.raises(ValueError, match=r"c\.nc is cut short.* \(5 files beside it\)"):
        read(pattern, way)


@pytest.mark.parametrize("broken", ["a", "c", "f", "cd", "ac", "bcdef"], ids=str)
@pytest.mark.parametrize("cuts", [tuple(range(FRAMES + 1))], ids=str)
def test_the_frames_of_broken_files_are_those_that_are_missing(radar, write, tmp_path, broken, cuts):
    pattern = write(cuts=cuts, data=sums(radar, 10))
    for name in broken:
        halve(tmp_path / f"{name}.nc")
    if broken == "bcdef":  # one frame tells no step
        with pytest.warns(UserWarning, match="left out"):
            assert storage.open_inputs([pattern], on_unreadable="mark").sizes["time"] == 1
        return
    with pytest.warns(UserWarning, match=rf"{broken[0]}\.nc is cut short"):
        joined = storage.open_inputs([pattern], on_unreadable="mark")
    np.testing.assert_array_equal(joined.time, radar.time)
    np.testing.assert_array_equal(joined.time_bnds, sums(radar, 10).time_bnds)
    for i, name in enumerate("abcdef"):
        if name in broken:
            with pytest.raises(UnreadableInput, match=r"\.nc is cut short"):
                joined.rain.isel(time=i).load()
        else:
            np.testing.assert_array_equal(joined.rain.isel(time=i), radar.rain[i])


def test_a_broken_file_beside_netcdf_files_is_one_whatever_its_name(radar, tmp_path):
    for i in range(FRAMES):
        radar.isel(time=[i]).to_netcdf(tmp_path / f"{i}.h5")
    halve(tmp_path / "3.h5")
    with pytest.raises(ValueError, match=r"3\.h5 is cut short"):
        storage.open_input(f"{tmp_path}/*.h5")
    with pytest.warns(UserWarning, match=r"3\.h5 is cut short"):
        joined = storage.open_inputs([f"{tmp_path}/*.h5"], on_unreadable="mark")
    np.testing.assert_array_equal(joined.time, radar.time)


def test_files_with_several_frames_may_be_broken_too(radar, write, tmp_path):
    pattern = write(cuts=(0, 2, 4, FRAMES))
    halve(tmp_path / "b.nc")
    with pytest.warns(UserWarning, match=r"b\.nc is cut short.*2 from 2024-06-01T12:10 on"):
        joined = storage.open_inputs([pattern], on_unreadable="mark")
    np.testing.assert_array_equal(joined.time, radar.time)


def test_nothing_but_broken_files_is_an_error(write, tmp_path):
    pattern = write()
    for name in "ab":
        halve(tmp_path / f"{name}.nc")
    with pytest.raises(ValueError, match=r"a\.nc is cut short"):
        storage.open_inputs([pattern], on_unreadable="mark")


@pytest.mark.parametrize("kind", ["NETCDF4", "NETCDF3_64BIT"])
@pytest.mark.parametrize("many", [False, True], ids=["one file", "several"])
def test_a_file_that_changes_after_it_was_opened_is_not_read(write, tmp_path, kind, many):
    pattern = write(cuts=(0, 3, FRAMES) if many else (0, FRAMES), format=kind)
    for change in (halve, lambda path: path.write_bytes(path.read_bytes() + b"more"), lambda path: path.unlink()):
        write(cuts=(0, 3, FRAMES) if many else (0, FRAMES), format=kind)
        joined = storage.open_input(pattern)
        change(tmp_path / "a.nc")
        with pytest.raises(UnreadableInput, match=r"a\.nc (has changed|cannot be read)"):
            joined.rain.isel(time=0).load()


def test_one_netcdf_file_is_opened_as_xarray_opens_it(radar, tmp_path):
    radar = radar.assign_coords(lat=(("y", "x"), np.ones((8, 10))))
    radar.rain.encoding = {"chunksizes": (2, 8, 10), "zlib": True}
    save(radar, tmp_path / "a.nc")
    opened, wanted = storage.open_input(f"{tmp_path}/a.nc"), xr.open_dataset(tmp_path / "a.nc", chunks={})
    xr.testing.assert_identical(opened, wanted)
    assert opened.chunks == wanted.chunks and opened.encoding["source"] == wanted.encoding["source"]
    with opened:
        opened.load()
