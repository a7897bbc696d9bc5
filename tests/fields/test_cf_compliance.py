"""A saved forecast passes the CF checks of compliance-checker."""

import json

import numpy as np
import pytest
import xarray as xr
from toy_models import NoisyPersistence

import xnowcast

runner = pytest.importorskip("compliance_checker.runner", reason="compliance-checker is in the extra 'test'")

LAEA = {
    "grid_mapping_name": "lambert_azimuthal_equal_area",
    "longitude_of_projection_origin": 10.0,
    "latitude_of_projection_origin": 52.0,
    "false_easting": 0.0,
    "false_northing": 0.0,
    "earth_radius": 6371000.0,
}


def radar(units="mm h-1", standard_name="rainfall_rate", **attrs) -> xr.Dataset:
    """A CF dataset with a projection, bounds, 2-D latitudes and an extra scalar coordinate."""
    times = np.datetime64("2024-06-01T12:00", "ns") + np.arange(3) * np.timedelta64(5, "m")
    y, x = np.arange(9)[::-1] * 1000.0, np.arange(10) * 1000.0
    lat = 52 + y[:, None] / 111e3 + 0 * x
    lon = 10 + x / 70e3 + 0 * y[:, None]
    rain = np.random.default_rng(0).gamma(0.5, 4, (3, 9, 10)).astype("f4")
    about = {"units": units, "standard_name": standard_name, "long_name": "rain", "grid_mapping": "crs"} | attrs
    metres = {"units": "m"}
    ds = xr.Dataset(
        {
            "rr": (
                ("time", "y", "x"),
                rain,
                about | {"cell_methods": "time: mean", "cell_measures": "area: cell_area"},
            ),
            "crs": ((), np.int32(0), LAEA),
            "cell_area": (("y", "x"), np.full((9, 10), 1e6), {"standard_name": "cell_area", "units": "m2"}),
            "y_bnds": (("y", "nv"), np.stack([y - 500, y + 500], 1)),
            "x_bnds": (("x", "nv"), np.stack([x - 500, x + 500], 1)),
        },
        {
            "time": ("time", times, {"standard_name": "time", "axis": "T"}),
            "y": ("y", y, metres | {"standard_name": "projection_y_coordinate", "axis": "Y", "bounds": "y_bnds"}),
            "x": ("x", x, metres | {"standard_name": "projection_x_coordinate", "axis": "X", "bounds": "x_bnds"}),
            "lat": (("y", "x"), lat, {"standard_name": "latitude", "units": "degrees_north"}),
            "lon": (("y", "x"), lon, {"standard_name": "longitude", "units": "degrees_east"}),
        },
    )
    facts = {"title": "a radar", "institution": "none", "source": "made", "references": "none", "comment": "none"}
    return ds.assign_attrs(facts | {"Conventions": "CF-1.10", "history": "made"})


def complaints(path, tmp_path) -> list[str]:
    """What the checker has to say, weightiest first."""
    suite = runner.CheckSuite()
    suite.load_all_available_checkers()
    name = next((n for n in ("cf:1.10", "cf:1.11", "cf:1.9", "cf:1.8") if n in suite.checkers), None)
    if name is None:
        pytest.skip(f"this compliance-checker knows no recent CF: {sorted(suite.checkers)}")
    report = tmp_path / "report.json"
    runner.ComplianceChecker.run_checker(
        str(path), [name], 0, "normal", output_filename=str(report), output_format="json"
    )
    found = json.loads(report.read_text())[name]
    return [
        f"{check['name']}: {message}"
        for priority in ("high_priorities", "medium_priorities", "low_priorities")
        for check in found[priority]
        for message in check["msgs"]
    ]


# CF recommends T, Z, Y, X with other dims before them; the lead time is such a dim for the checker, and stands after
# the init time because every forecast has the order (init_time, member, lead_time, y, x).
ORDER = "are not in the recommended order T, Z, Y, X"

FIELDS = {
    "rain rate": radar(),
    "reflectivity": radar("dBZ", "equivalent_reflectivity_factor"),
    "amount": radar("kg m-2", "precipitation_amount"),
    "synthetic": xnowcast.datasets.synthetic_radar(frames=3, shape=(16, 16)),
}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("members", [None, 2])
def test_a_saved_forecast_is_cf(name, members, tmp_path):
    model = "persistence" if members is None else NoisyPersistence()
    FIELDS[name].to_netcdf(tmp_path / "radar.nc")
    with xr.open_dataset(tmp_path / "radar.nc") as ds:
        fc = ds.nowcast.forecast(model, steps=2, init_times="all", members=members)
    fc.to_netcdf(tmp_path / "fc.nc")
    assert [line for line in complaints(tmp_path / "fc.nc", tmp_path) if ORDER not in line] == []


def test_the_checker_would_find_a_fault(tmp_path):
    fc = radar().nowcast.forecast("persistence", steps=2)
    fc.lead_time.attrs["standard_name"] = "forecast_perriod"
    fc.to_netcdf(tmp_path / "fc.nc")
    assert any("forecast_perriod" in line for line in complaints(tmp_path / "fc.nc", tmp_path))
