"""Every row of the table "What is read how" is held true by an example, and every example has its row.

To add a row: write it into the table of ``docs/data_contract.md``, and here a function with ``@row("first cell")`` that
asserts what the row says.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from xnowcast import cf, forecast

PAGE = Path(__file__).resolve().parents[1] / "docs" / "data_contract.md"
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
    times = np.datetime64("2024-06-01T12:00", "ns") + np.arange(frames) * np.timedelta64(minutes, "m")
    metres = {"units": "m"}
    return xr.DataArray(
        np.full((frames, 24, 24), value, "f4"),
        dims=("time", "y", "x"),
        coords={
            "time": times,
            "y": ("y", np.arange(24)[::-1] * 1e3, metres),
            "x": ("x", np.arange(24) * 1e3, metres),
        },
        name="rain",
        attrs={"standard_name": "rainfall_rate", "units": "mm h-1"} | attrs,
    )


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


@row("an amount with times one step apart")
def _():
    assert rate(amount(minutes=10)) == 6.0


@row("an amount with `accutime`")
def _():
    assert rate(amount(accutime=5.0).isel(time=0)) == 12.0


@row("an amount of one time without any interval")
def _():
    with pytest.raises(ValueError, match="becomes a rate only with"):
        rate(amount().isel(time=[0]))


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


@row("a time with a zone")
def _():
    made = forecast(rain(), "persistence", steps=1, init_times="2024-06-01T14:05+02:00")
    assert made.init_time.values[0] == np.datetime64("2024-06-01T12:05")


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
