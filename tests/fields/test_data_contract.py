"""Every row of the table "What is read how" is held true by an example, and every example has its row.

To add a row: write it into the table of ``docs/understand/data_contract.md``, and here a function with
``@row("first cell")`` that asserts what the row says.
"""

import dataclasses
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rain_fields
import xarray as xr

from xnowcast import forecast, verify
from xnowcast.data import storage
from xnowcast.fields import cf, horizontal, windows

PAGE = Path(__file__).resolve().parents[2] / "docs" / "understand" / "data_contract.md"
ROW = re.compile(r"^\| (?P<found>.+?) \| (?P<read>.+?) \|$", re.MULTILINE)
EXAMPLES: dict[str, Callable[[], None]] = {}


def row(found: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """The example of the row whose first cell is ``found``."""

    def register(example: Callable[[], None]) -> Callable[[], None]:
        assert found not in EXAMPLES, f"two examples of the row {found!r}"
        EXAMPLES[found] = example
        return example

    return register


def rows_on_the_page() -> list[str]:
    section = PAGE.read_text().split("### What is read how\n")[1].split("\n## ")[0]
    return [found["found"] for found in ROW.finditer(section)][1:]  # the first is the heading


def rain(minutes: int = 5, frames: int = 4, value: float = 1.0, **attrs) -> xr.DataArray:
    """Frames of 24 x 24 cells with one value, in mm h-1 unless ``units`` says otherwise."""
    values = np.full((frames, 24, 24), value, "f4")
    return rain_fields.frames(values, minutes, grid=True, **attrs).rename("rain")


def amount(minutes: int = 5, frames: int = 4, **attrs) -> xr.DataArray:
    """Frames of 1 mm each."""
    return rain(minutes, frames, standard_name="precipitation_amount", units="mm", **attrs)


def rate(data: xr.DataArray | xr.Dataset) -> float:
    return round(float(cf.rain_rate(data).values.flat[0]), 4)


def test_every_row_has_an_example_and_every_example_a_row():
    assert sorted(rows_on_the_page()) == sorted(EXAMPLES)


@pytest.mark.parametrize("found", rows_on_the_page())
def test_the_table_of_what_is_read_how_is_true(found):
    EXAMPLES[found]()


# ---------------------------------------------------------------- intervals


def bounded(length, **how) -> xr.Dataset:
    """Amounts with time bounds."""
    ds = amount(**how).to_dataset()
    ends = ds.time.values
    starts = ends - np.asarray(length) * np.timedelta64(1, "m")
    ds.time.attrs["bounds"] = "time_bnds"
    return ds.assign(time_bnds=(("time", "bnds"), np.stack([starts, ends], 1)))


@row("an amount with CF time bounds")
def _():
    assert rate(bounded(60, minutes=15)) == 1.0
    assert rate(bounded(5, minutes=15)) == 12.0


@row("an amount with `accutime`")
def _():
    assert rate(amount(accutime=5.0).isel(time=0)) == 12.0
    assert rate(amount(accutime=60.0)) == 1.0


@row('an amount with `cell_methods = "time: sum (interval: 1 hour)"`')
def _():
    assert rate(amount(cell_methods="time: sum (interval: 1 hour)")) == 1.0


@row('an amount with `cell_methods = "time: sum (interval: 5 minutes)"` and time bounds of an hour')
def _():
    assert rate(bounded(60, minutes=15, cell_methods="time: sum (interval: 5 minutes)")) == 1.0


@row("an amount with times one step apart")
def _():
    assert rate(amount(minutes=10)) == 6.0


@row("an amount whose times have no common step")
def _():
    with pytest.raises(ValueError, match="leaves open what it is an amount of"):
        rate(amount(frames=7).isel(time=[0, 2, 5]))


@row("an amount along init times and lead times")
def _():
    leads = np.array([5, 10, 15]) * np.timedelta64(1, "m").astype("m8[ns]")
    assert rate(amount(minutes=360).expand_dims(step=leads)) == 12.0


@row("an amount of one time without any interval")
def _():
    with pytest.raises(ValueError, match="becomes a rate only with"):
        rate(amount().isel(time=[0]))


@row("an amount whose bounds, `accutime` and `cell_methods` contradict each other")
def _():
    with pytest.raises(ValueError, match="60 min by its time bounds, and of 5 min by its attribute accutime"):
        rate(bounded(60, accutime=5))


@row("an amount whose bounds differ in length from time to time")
def _():
    with pytest.raises(ValueError, match="15 min at 2024-06-01T12:10:00, 60 min at most others"):
        rate(bounded([60, 60, 15, 60]))


@row("a variable whose time bounds stayed in its dataset")
def _():
    with pytest.raises(ValueError, match="give the whole dataset, or the attribute accutime"):
        rate(bounded(60)["rain"])
    assert rate(bounded(60, accutime=60)["rain"]) == 1.0


@row("an amount since the start of a run")
def _():
    with pytest.raises(ValueError, match="rain_per_step"):
        rate(amount(GRIB_stepType="accum"))


def scored(observed: xr.DataArray, values: list[float], **attrs) -> list[float]:
    """Mean errors of forecasts of these values, 15 minutes apart from 12:00 on."""
    leads = np.arange(1, len(values) + 1) * np.timedelta64(15, "m").astype("m8[ns]")
    frame = rain(**attrs).isel(time=0, drop=True)
    made = frame * xr.DataArray(values, {"lead_time": leads}, "lead_time")
    made = made.assign_coords(init_time=np.datetime64("2024-06-01T12:00", "ns")).expand_dims("init_time")
    card = verify.scorecard(observed, made.assign_attrs(frame.attrs), scores=["mean_error"])
    return card.mean_error.values.round(4).tolist()


@row("in `verify`, one side finer in time than the sums or means of the other")
def _():
    assert scored(amount(minutes=60, accutime=60), [1.0, 2.0, 3.0, 4.0]) == [2.5 - 1.0]
    assert scored(rain(frames=8), [1.0, 3.0], accutime=15) == [0.0, 2.0]


@row("in `verify`, intervals that do not make up those of the other side")
def _():
    with pytest.raises(ValueError, match="values 15 min apart do not make up 40 min"):
        scored(amount(minutes=40, accutime=40), [1.0, 2.0, 3.0])


@row("hourly sums every 15 minutes")
def _():
    with pytest.warns(UserWarning, match="values of 60 min every 15 min"):
        made = forecast(bounded(60, minutes=15), "persistence", steps=1)
    assert rate(made) == 1.0 and made.rain.attrs["accutime"] == 60


# ---------------------------------------------------------------- files


@row("a product or quantity of a file that its reader does not know")
def _():
    from xnowcast.io.radolan import read_header

    header = b"%s102050100000814BY1620134VS 3SW   2.13.1PR E-01INT  60GP 900x 900MS 10<boo,ros> \x03"
    assert read_header(header % b"RW").minutes == 60
    with pytest.raises(ValueError, match="it is the product RE"):
        read_header(header % b"RE")


@row("files of two products, Z-R relations or lengths of sums")
def _():
    from xnowcast.io.grid import Frame, LocalGrid, to_dataset

    noon, minute = np.datetime64("2024-06-01T12:00", "ns"), np.timedelta64(1, "m")
    grid = LocalGrid(1000.0, 1000.0, 2, 2)
    zr = {"units": "dBZ", "zr_a": 200.0, "zr_b": 1.6}
    first = Frame(np.zeros((2, 2), "f4"), noon, grid, "echo", zr, {}, start=noon - 5 * minute, product="DBZH")
    other = dataclasses.replace(first, time=noon + 5 * minute, start=noon)
    paths = [Path("a.h5"), Path("b.h5")]
    assert to_dataset([first, other], paths).sizes["time"] == 2
    for change in ({"product": "TH"}, {"attrs": zr | {"zr_a": 300.0}}, {"start": noon - 55 * minute}):
        with pytest.raises(ValueError, match=r"b\.h5 .*a\.h5 .*open them on their own"):
            to_dataset([first, dataclasses.replace(other, **change)], paths)


# ---------------------------------------------------------------- times


def beside(*seconds: float) -> xr.DataArray:
    """Frames 5 min apart but for so many seconds."""
    off = np.round(np.array(seconds) * 1e9).astype("m8[ns]")
    frames = rain(frames=len(seconds))
    return frames.assign_coords(time=frames.time.values + off)


def minutes_read(data) -> list[float]:
    times = cf.find_field(data).array.time.values
    return ((times - np.datetime64("2024-06-01T12:00")) / np.timedelta64(1, "m")).tolist()


@row("times less than 50 ms beside a whole second")
def _():
    assert minutes_read(beside(0, 1e-9, -0.02)) == [0, 5, 10]


@row("times up to 1 % of a step beside a regular axis")
def _():
    assert minutes_read(beside(0, 2, -1, 3)) == [0, 5, 10, 15]


@row("times stored in single precision")
def _():
    def stored(frames: int) -> xr.Dataset:
        days = (rain(frames=frames).time.values - np.datetime64("1970-01-01")) / np.timedelta64(1, "D")
        about = {"units": "days since 1970-01-01"}
        return xr.decode_cf(rain(frames=frames).assign_coords(time=("time", days.astype("f4"), about)).to_dataset())

    assert minutes_read(stored(6)) == [0, 5, 10, 15, 20, 25]
    with pytest.raises(ValueError, match="true to 84"):
        forecast(stored(2), "persistence", steps=1)


@row("in `verify`, an observation less than 60 s beside a valid time")
def _():
    near, off = beside(0, 0, 0, 2), beside(0, 0, 0, 40, 0, 0, 0)
    assert scored(near, [1.0]) == [0.0]
    with pytest.warns(UserWarning, match="1 of 2 valid times of the forecasts miss an observation by 40 s"):
        assert np.isnan(scored(off, [1.0, 1.0])[0])


@row("cftime dates of the real calendar")
def _():
    dates = xr.date_range("2024-06-01T12:00", periods=3, freq="5min", use_cftime=True)
    assert minutes_read(rain(frames=3).assign_coords(time=dates)) == [0, 5, 10]


@row("a time with a zone")
def _():
    made = forecast(rain(), "persistence", steps=1, init_times="2024-06-01T14:05+02:00")
    assert made.init_time.values[0] == np.datetime64("2024-06-01T12:05")


@row("a slice of times with zones")
def _():
    made = forecast(rain(), "persistence", steps=1, init_times=slice("2024-06-01T14:05+02:00", "2024-06-01T12:10Z"))
    assert made.init_time.values.tolist() == rain().time.values[1:3].tolist()


@row("a period `#START/END` with zones")
def _():
    start, end = windows.period("2024-06-01T14:05+02:00/2024-06-02")
    assert start == np.datetime64("2024-06-01T12:05") and end == np.datetime64("2024-06-02")


# ---------------------------------------------------------------- forecasts


@row("members along `number`, `realization`, `ens`, ...")
def _():
    made = forecast(rain(frames=8), "persistence", steps=2, init_times=slice(None, "2024-06-01T12:20"))
    members = xr.concat([made, 2 * made], "member", join="exact").assign_attrs(made.attrs)
    for name in ("number", "realization", "ens"):
        card = members.rename(member=name).nowcast.verify(rain(frames=8), thresholds=[0.5], scales=[1])
        assert card.rmse.values.tolist() == [0.5, 0.5] and "crps" in card


@row("init times in `time` beside lead times in `step`")
def _():
    made = forecast(rain(frames=8), "persistence", steps=2, init_times=slice(None, "2024-06-01T12:20"))
    theirs = made.drop_vars("valid_time").rename(init_time="time", lead_time="step")
    assert cf.in_forecast_layout(theirs).dims == made.dims


# ---------------------------------------------------------------- several files


def joined(*datasets: xr.DataArray | xr.Dataset, names: str = "abcdef") -> xr.Dataset:
    """Datasets written as files of these names, and opened by a pattern."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in zip(names, datasets, strict=False):
            data.to_netcdf(f"{folder}/{name}.nc")
        return storage.open_input(f"{folder}/*.nc").load()


def halves(change: Callable[[xr.DataArray], xr.DataArray | xr.Dataset], first: xr.DataArray | None = None) -> list:
    """Two frames as they are, and two that are changed."""
    data = rain() if first is None else first
    return [data.isel(time=slice(0, 2)), change(data.isel(time=slice(2, 4)))]


def refused(message: str, change: Callable[[xr.DataArray], xr.DataArray | xr.Dataset], first=None) -> None:
    with pytest.raises(ValueError, match=message):
        joined(*halves(change, first))


@row("files of one grid, up to a hundredth of a cell, rows in any order")
def _():
    both = joined(*halves(lambda data: data.assign_coords(x=data.x.astype("f4") + 5).isel(y=slice(None, None, -1))))
    np.testing.assert_array_equal(both.x, rain().x)
    np.testing.assert_array_equal(both.y, rain().y)
    assert both.sizes == rain().sizes and both.rain.notnull().all()


@row("files with units of one kind")
def _():
    both = joined(*halves(lambda data: (data / 3600).assign_attrs(data.attrs | {"units": "kg m-2 s-1"})))
    assert both.rain.units == "mm h-1"
    np.testing.assert_allclose(both.rain, 1.0, rtol=1e-6)


@row("files with scale factors and fill values of their own")
def _():
    parts = halves(lambda data: data.copy())
    for part, scale, fill in zip(parts, (0.5, 0.001), (-1, -9999), strict=True):
        part.encoding = {"dtype": "i2", "scale_factor": scale, "_FillValue": fill}
    np.testing.assert_allclose(joined(*parts).rain, 1.0)


@row("files in any order of time")
def _():
    np.testing.assert_array_equal(joined(*halves(lambda data: data), names="ba").time, rain().time)


@row("files with a scalar time")
def _():
    np.testing.assert_array_equal(joined(*(rain().isel(time=i) for i in range(4))).rain, rain())


@row("files of two grids or projections")
def _():
    refused(r"b\.nc has another 'x'", lambda data: data.assign_coords(x=data.x + 500))
    refused(r"b\.nc has 12 cells along 'x'", lambda data: data.isel(x=slice(0, 12)))
    crs = {"grid_mapping_name": "polar_stereographic", "straight_vertical_longitude_from_pole": 0.0}
    data = rain(grid_mapping="crs").assign_coords(crs=((), 0, crs))
    turned = crs | {"straight_vertical_longitude_from_pole": 10.0}
    refused(r"b\.nc has another projection", lambda data: data.assign_coords(crs=((), 0, turned)), data)


@row("files of rates and amounts, or of two Z-R relations")
def _():
    refused(r"b\.nc has units 'mm'", lambda data: data.assign_attrs(units="mm"))
    dbz = rain(units="dBZ", standard_name="equivalent_reflectivity_factor")
    refused(r"b\.nc is read with Z = 300 R\^1.4", lambda data: data.assign_attrs(zr_a=300.0, zr_b=1.4), dbz)


@row("files of sums over different intervals")
def _():
    refused(r"b\.nc holds sums over 60 min", lambda data: data.assign_attrs(accutime=60.0), amount(accutime=5.0))


@row("a file that declares a valid range, after a first that declares none")
def _():
    refused(r"b\.nc has a valid range from -inf to 3, and of \S*a\.nc none", lambda d: d.assign_attrs(valid_max=3.0))


@row("files that hold the same time")
def _():
    refused(
        r"a\.nc and \S+b\.nc both hold 2024-06-01T12:05:00",
        lambda data: data.assign_coords(time=data.time - np.timedelta64(5, "m")),
    )


@row("a file without any time beside others")
def _():
    refused(r"b\.nc has no time", lambda data: data.isel(time=0, drop=True))


@row("a file that lacks the precipitation field")
def _():
    refused(r"b\.nc lacks the variable 'rain'", lambda data: data.rename("rr"))


@row("a file that lacks another variable")
def _():
    first, second = halves(lambda data: data)
    with pytest.warns(UserWarning, match=r"'quality' is left out: \S+b\.nc lacks it"):
        both = joined(first.to_dataset().assign(quality=(first * 0).drop_attrs()), second)
    assert list(both.data_vars) == ["rain"]


@row("a NetCDF file that is cut short")
def _():
    with tempfile.TemporaryDirectory() as folder:
        for i in range(4):
            rain().isel(time=[i]).to_netcdf(f"{folder}/{i}.nc")
        Path(folder, "2.nc").write_bytes(Path(folder, "2.nc").read_bytes()[:-100])
        with pytest.raises(ValueError, match=r"2\.nc is cut short"):
            storage.open_input(f"{folder}/*.nc")
        with pytest.warns(UserWarning, match=r"2\.nc is cut short"):
            archive = storage.open_inputs([f"{folder}/*.nc"], on_unreadable="mark")
        np.testing.assert_array_equal(archive.time, rain().time)
        with pytest.raises(OSError, match="cut short"):
            archive.rain[2].load()
        assert archive.rain[1].load().notnull().all()


# ---------------------------------------------------------------- values


def with_cell(value: float, **attrs) -> xr.DataArray:
    """Rain of 1 mm/h and one cell of another value in each frame."""
    array = rain(**attrs)
    array[:, 3, 4] = value
    return array


@row("a value outside `valid_min`, `valid_max` or `valid_range`")
def _():
    assert cf.rain_rate(with_cell(150.0, valid_max=100.0)).isnull().sum() == 4


@row("a valid range of the type that packed values have")
def _():
    stored = rain(value=3.0).astype("i2").assign_attrs(scale_factor=0.5, valid_max=np.int16(2))
    assert cf.rain_rate(stored).isnull().all()


@row("`_FillValue` and `missing_value`, one or several")
def _():
    assert cf.rain_rate(with_cell(77.0, missing_value=[77.0, 88.0])).isnull().sum() == 4


@row("rain above 2000 mm/h, or an amount above 422 mm times the hours to the power of 0.475")
def _():
    for data in (with_cell(9999.0), with_cell(200.0, standard_name="rainfall_amount", units="mm")):
        with pytest.raises(ValueError, match="has never fallen"):
            cf.rain_rate(data)


@row("reflectivity above 90 dBZ or below -100 dBZ")
def _():
    echo = {"standard_name": "equivalent_reflectivity_factor", "units": "dBZ"}
    for value in (95.5, -999.0):
        with pytest.raises(ValueError, match="must be NaN"):
            cf.rain_rate(with_cell(value, **echo))


@row("negative rain in up to 1 % of a frame, down to -5 mm/h")
def _():
    with pytest.warns(UserWarning, match="negative rain, down to -0.6 .* in 4 of 2304 cells"):
        assert cf.rain_rate(with_cell(-0.6))[0, 3, 4] == 0


@row("more negative rain, or lower")
def _():
    for data in (with_cell(-99.0), rain(value=-0.6)):
        with pytest.raises(ValueError, match="negative rain"):
            cf.rain_rate(data)


@row("`mm h⁻¹`, `mm·h-1`, `mm/hr`, `dBz`")
def _():
    assert [rate(rain(units=unit)) for unit in ("mm h⁻¹", "mm·h-1", "mm/hr")] == [1.0] * 3
    echo = rain(value=40.0, standard_name="equivalent_reflectivity_factor", units="dBz")
    assert rate(echo) == 11.5307


@row("reflectivity without a Z-R relation")
def _():
    echo = rain(value=40.0, standard_name="equivalent_reflectivity_factor", units="dBZ")
    assert rate(echo) == 11.5307
    assert round(float(cf.rain_rate(echo, zr="hko-7")[0, 0, 0]), 2) == 26.99


@row("an attribute that is no number or no text where one is needed")
def _():
    with pytest.raises(ValueError, match="scale_factor of variable 'rain' is 'x'"):
        cf.rain_rate(rain(scale_factor="x"))


# ---------------------------------------------------------------- grids


@row("places or a grid mapping with a dim of times, the same at all times")
def _():
    north = rain().drop_vars("y").assign_coords(north=(("time", "y"), np.tile(rain().y.values, (4, 1)), {"axis": "Y"}))
    assert forecast(north, "persistence", steps=1).north.dims == ("y",)


@row("a dataset that was masked as a whole, `ds.where(...)`, with its grid mapping and bounds")
def _():
    ds = bounded(60, minutes=15).assign(crs=((), 0, {"grid_mapping_name": "polar_stereographic"}))
    ds["rain"].attrs["grid_mapping"] = "crs"
    masked = ds.where(ds.x + ds.y > 3e3)
    xr.testing.assert_equal(cf.rain_rate(masked), cf.rain_rate(ds).where(ds.x + ds.y > 3e3))


@row("places that move in time")
def _():
    moving = np.add.outer(np.arange(4) * 500.0, rain().y.values)
    north = rain().drop_vars("y").assign_coords(north=(("time", "y"), moving, {"axis": "Y"}))
    with pytest.raises(ValueError, match="not the same at all times"):
        cf.rain_rate(north)


@row("2-D latitudes and longitudes with NaN at the rim")
def _():
    north = np.linspace(48, 49, 24)[:, None] + np.zeros((24, 24))
    places = (("j", "i"), np.where(np.eye(24)[::-1] + np.eye(24) > 0, np.nan, north))
    disk = xr.DataArray(np.ones((24, 24)), dims=("j", "i"), coords={"lat": places}, attrs={"units": "mm h-1"})
    assert horizontal.orientation(disk, "j", "i")[0]


@row("longitudes that pass from 360 to 0")
def _():
    around = rain().rename(x="lon").assign_coords(lon=(np.arange(24) + 350.0) % 360)
    assert horizontal.orientation(around, "y", "lon") == (False, False)


@row("y or x with NaN, or out of order")
def _():
    for wrong in (np.where(np.arange(24) == 3, np.nan, np.arange(24)), np.roll(np.arange(24), 5)):
        with pytest.raises(ValueError, match="coordinate 'x'"):
            cf.rain_rate(rain().assign_coords(x=wrong * 1e3))


@row("cells whose distances differ by more than 10 %")
def _():
    holed = rain().isel(x=np.r_[0:10, 15:24])
    with pytest.raises(ValueError, match="the distance between cells varies"):
        forecast(holed, "persistence", steps=1)
    assert rate(holed) == 1.0
