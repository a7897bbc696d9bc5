"""The methods of ``ds.nowcast`` are the public functions, argument for argument."""

from inspect import Parameter, signature

import pytest
import xarray as xr

import xnowcast
from xnowcast import plot, verify
from xnowcast.accessor import NowcastAccessor

PAIRS = [
    (NowcastAccessor.forecast, xnowcast.forecast),
    (NowcastAccessor.verify, verify.scorecard),
    (NowcastAccessor.plot, plot.plot),
    (NowcastAccessor.animate, plot.animate),
]


@pytest.mark.parametrize(("method", "function"), PAIRS, ids=lambda f: f.__qualname__)
def test_a_method_has_the_signature_of_its_function(method, function):
    def arguments(f):
        return {n: p.default for n, p in signature(f).parameters.items() if n not in ("self", "obj", "forecasts")}

    assert arguments(method) == arguments(function)
    keywords = [p for p in signature(method).parameters.values() if p.kind is Parameter.KEYWORD_ONLY]
    assert keywords and method.__doc__


def test_datasets_and_dataarrays_have_the_accessor(radar):
    from_dataset = radar.nowcast.forecast("persistence", steps=2)
    from_array = radar.rain.nowcast.forecast("persistence", steps=2)
    assert isinstance(from_dataset, xr.Dataset) and isinstance(from_array, xr.DataArray)
    xr.testing.assert_equal(from_dataset.rain, from_array)


def test_every_option_reaches_the_function(radar):
    scores = radar.nowcast.forecast("persistence", init_times=["2024-06-01T12:20"], steps=2).nowcast.verify(
        radar, thresholds=[1, 3], scales=[1, 2], scores=["csi", "rmse"], by=["init_time", "lead_time"]
    )
    assert set(scores.data_vars) == {"csi", "rmse", "n_scored"}
    assert dict(scores.csi.sizes) == {"init_time": 1, "lead_time": 2, "threshold": 2, "scale": 2}
