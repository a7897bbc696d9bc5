"""Adding a score touches a formula and its record: everything else comes from them."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import xnowcast
from xnowcast import verify
from xnowcast.verify.events import of_counts
from xnowcast.verify.score import RECORDS, Column, number, score_of
from xnowcast.verify.sums import KINDS, additive

SHIPPED = dict(RECORDS)
"""The scores of the package, without those that tests add."""


@pytest.fixture
def new_scores():
    """Two scores of somebody's own, as a file beside the others would have them; gone after the test."""
    known = {id(table): set(table) for table in (RECORDS, KINDS)}

    @of_counts("Peirce skill score")
    def peirce(a, b, c, d):
        """Peirce skill score: detection less false detection, ``a / (a + c) - b / (b + d)``.

        Returns
        -------
            From -1 to 1, the best. NaN (0/0) where no event was observed, or nothing else.

        References
        ----------
        Wilks (2011), section 8.2.4.
        """
        return a / (a + c) - b / (b + d)

    @additive("n", "cubed")
    def cubed_sums(observations, forecasts, *, dim=None, weights=None):
        """Sums of the cubed differences."""
        cubed = (forecasts - observations) ** 3
        cubed = cubed if weights is None else cubed * weights
        return xr.Dataset({"n": cubed.notnull().sum(dim), "cubed": cubed.sum(dim)})

    @score_of(cubed_sums, columns=Column("mean cubed error", units=None, archive="cubed"))
    def mean_cubed_error(sums):
        """Mean cubed error.

        Returns
        -------
        xarray.DataArray
            In cubed units of the fields, best at 0.
        """
        return sums["cubed"] / sums["n"]

    yield peirce, mean_cubed_error
    for table in (RECORDS, KINDS):
        for name in set(table) - known[id(table)]:
            del table[name]


@pytest.fixture
def pair(radar):
    """An event and forecasts of it."""
    return radar, radar.nowcast.forecast("persistence", steps=3, init_times=radar.time.values[2:4])


def test_the_function_takes_dims_weights_lazy_arrays_nan_and_sums(new_scores):
    peirce, cubed = new_scores
    o = xr.DataArray([[2.0, 2.0, 1.0, np.nan], [0.0, 2.0, 0.0, 1.0]], dims=("y", "x"))
    f = xr.DataArray([[2.0, 1.0, 2.0, 3.0], [0.0, 2.0, 2.0, 1.0]], dims=("y", "x"))
    assert float(peirce(o, f, thresholds=2.0)) == pytest.approx(2 / 3 - 2 / 4)
    assert peirce(o, f, thresholds=2.0, dim="x").dims == ("y",)
    assert peirce(o.chunk(x=2), f.chunk(x=2), thresholds=2.0).chunks is not None
    table = verify.contingency_table(o, f, thresholds=2.0, dim="x")
    xr.testing.assert_allclose(peirce(table, dim="y"), peirce(o, f, thresholds=2.0))
    weights = xr.DataArray([1.0, 0.0], dims="y")
    assert float(peirce(o, f, thresholds=2.0, weights=weights)) == pytest.approx(1 / 2 - 1)
    assert float(cubed(o, f)) == pytest.approx((-1 + 1 + 8) / 7)
    assert "thresholds : float, sequence of float, or str" in peirce.__doc__ and "weights" in peirce.__doc__
    assert "Two fields as for `cubed_sums`" in cubed.__doc__ and "weights : xarray.DataArray" in cubed.__doc__


def test_what_the_reference_says_of_a_score_is_in_its_record():
    """A new score gets a row in docs/reference/scores.md, with the range and the best value of its record."""
    page = Path(__file__).parents[2] / "docs" / "reference" / "scores.md"
    rows = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| `")]
    written = {name: row[-3:-1] for row in rows if len(row) >= 5 for name in re.findall(r"`(\w+)`", row[0])}
    for name, record in SHIPPED.items():
        low, high, best = (number(value) for value in (*record.range, record.best))
        assert written.get(record.score.__name__) == [f"{low} to {high}", best], f"the row of {name} in {page.name}"


def test_scores_of_tables_are_public():
    for name, record in SHIPPED.items():
        function = record.score.__name__
        assert function in verify.__all__, f"{name}: import {function} in xnowcast/verify/__init__.py"


@pytest.mark.parametrize("name", [n for n in verify.__all__ if inspect.isfunction(getattr(verify, n))])
def test_a_docstring_describes_every_parameter(name):
    """Those that scores have in common are described once, in verify/docstrings.py."""
    function = getattr(verify, name)
    section = inspect.getdoc(function).partition("Parameters\n----------\n")[2].partition("\n\n")[0]
    described = re.findall(r"\w+", " ".join(line.partition(" :")[0] for line in section.splitlines() if line[0] != " "))
    assert sorted(described) == sorted(inspect.signature(function).parameters)


def test_the_scorecard_has_its_column(new_scores, pair):
    radar, forecast = pair
    card = forecast.nowcast.verify(radar, scores=["csi", "peirce", "mean_cubed_error"], thresholds=[1.0], scales=[1, 4])
    assert (
        card["peirce"].dims == ("lead_time", "threshold", "scale") and card["peirce"].long_name == "Peirce skill score"
    )
    assert card["mean_cubed_error"].dims == ("lead_time",) and card["mean_cubed_error"].units == "mm h-1"
    assert "Peirce skill score" in verify.format_scorecard(card, scores="peirce")


def test_archives_have_its_column(new_scores, pair):
    radar, _ = pair
    asked = ["csi", "peirce", "mean_cubed_error"]
    tables = xnowcast.score_archive(radar, baselines=["persistence"], steps=3, scores=asked, progress=False)
    found = xnowcast.archive.table_scores(tables, scores=asked)
    assert found["peirce"].dims[-2:] == ("threshold", "scale") and found["peirce"].attrs["units"] == "1"
    assert found["mean_cubed_error"].dims == ("model", "lead_time")
    assert found["mean_cubed_error"].attrs == {"long_name": "mean cubed error", "units": "mm h-1"}
    assert found["peirce"].notnull().any() and found["mean_cubed_error"].notnull().any()


def test_a_name_that_is_near_is_named(new_scores, pair):
    radar, forecast = pair
    with pytest.raises(ValueError, match="there is no score 'pierce'; did you mean 'peirce'"):
        forecast.nowcast.verify(radar, scores=["pierce"])
