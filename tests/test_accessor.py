"""The methods of ``ds.nowcast`` are the public functions, argument for argument and word for word."""

import subprocess
import sys
from inspect import Parameter, getdoc, signature
from pathlib import Path
from pydoc import plain, render_doc

import dask
import pytest
import xarray as xr

import xnowcast
from xnowcast import plot, verify
from xnowcast.accessor import NowcastAccessor

PAIRS = [
    (NowcastAccessor.forecast, xnowcast.forecast),
    (NowcastAccessor.deblur, xnowcast.deblur),
    (NowcastAccessor.downscale, xnowcast.downscale),
    (NowcastAccessor.postprocess, xnowcast.postprocess),
    (NowcastAccessor.explain, xnowcast.explain),
    (NowcastAccessor.coarsen, xnowcast.coarsen),
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
    assert keywords and next(iter(signature(method).parameters)) == "self"


@pytest.mark.parametrize(("method", "function"), PAIRS, ids=lambda f: f.__qualname__)
def test_a_method_has_the_docstring_of_its_function(method, function):
    told, original = getdoc(method).splitlines(), getdoc(function).splitlines()
    assert told[0] == original[0] and "as a method" in told[2]
    changed = [line for line in original if line not in told]
    assert len(changed) == 1 and changed[0].split()[0].strip(",") in ("obj", "forecasts"), "all but the object itself"


@pytest.mark.parametrize("verb", ["forecast", "deblur", "downscale", "postprocess"])
def test_help_shows_what_may_be_given(radar, verb):
    for obj in (radar, radar.rain):
        shown = plain(render_doc(getattr(obj.nowcast, verb)))
        assert f"{verb}(model" in shown and "self" not in shown.splitlines()[2]
        for words in (
            "weights : str or path, optional",
            "batch_size : int, optional",
            "Returns\n",
            "Raises\n",
            "ds : xarray.Dataset",
        ):
            assert words in shown, words
        assert "obj :" not in shown


def test_arguments_may_be_given_by_place_or_by_name(radar):
    by_name = radar.nowcast.forecast(model="persistence", steps=1)
    xr.testing.assert_identical(by_name, radar.nowcast.forecast("persistence", steps=1))
    fc = radar.nowcast.forecast("persistence", init_times=["2024-06-01T12:20"], steps=2)
    xr.testing.assert_identical(fc.nowcast.verify(radar), fc.nowcast.verify(observations=radar))
    for wrong, message in (({}, "missing a required argument: 'factor'"), ({"factor": 4, "q": 1}, "unexpected .*'q'")):
        with pytest.raises(TypeError, match=message):
            radar.nowcast.coarsen(**wrong)


def test_having_the_accessor_imports_neither_scores_nor_pictures():
    code = "import sys, xnowcast; sys.exit('xnowcast.plot' in sys.modules or 'xnowcast.verify' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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


def test_a_forecast_passes_few_files_on_its_way_to_the_model(radar):
    """Those that a reader opens to follow a call, besides what is known of fields and the model itself."""
    package = Path(xnowcast.__file__).parent
    passed = set()

    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_name != "<module>":
            passed.add(frame.f_code.co_filename)

    with dask.config.set(scheduler="synchronous"):
        radar.nowcast.forecast("extrapolation", steps=2)  # imports what is needed once
        before = sys.getprofile()
        sys.setprofile(note)
        try:
            radar.nowcast.forecast("extrapolation", steps=2)
        finally:
            sys.setprofile(before)
    files = {Path(file).relative_to(package).as_posix() for file in passed if file.startswith(str(package))}
    on_the_way = {file for file in files if file.partition("/")[0] not in ("fields", "models", "nn")}
    assert on_the_way <= {
        "accessor.py",
        "check.py",
        "verbs/forecast.py",
        "verbs/request.py",
        "engine/graph.py",
        "engine/sequences.py",
        "engine/workers.py",
        "terminal.py",
    }
