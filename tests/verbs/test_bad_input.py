"""Bad input is refused in one friendly sentence, before any work."""

import numpy as np
import pytest
import xarray as xr
from rain_fields import frames

import xnowcast
from xnowcast.models.base import Task
from xnowcast.models.transforms import Identity

RAIN = np.random.default_rng(0).gamma(0.5, 4, (6, 9, 10)).astype("f4")


def radar(rain=RAIN, **attrs) -> xr.Dataset:
    """Frames five minutes apart of one field in mm h-1."""
    return frames(rain, **attrs).to_dataset()


def spoiled(value, frame=0) -> xr.Dataset:
    rain = RAIN.copy()
    rain[frame, 2, 3] = value
    return radar(rain)


class Worker:
    """A model of three frames that must not be put to work."""

    task = Task("forecast", input_frames=3)
    transform = Identity()

    def forecast(self, frames, observed, steps, noise=None):
        pytest.fail("the model was run")


LATER = radar().time + np.array([0, 0, 0, 0, 30, 30]) * np.timedelta64(1, "m")

REFUSED = {
    "no units": (radar(units=""), {}, r"variable 'rr' has no units; .*attrs\['units'\] = 'mm h-1'"),
    "unknown units": (radar(units="K"), {}, "has units 'K', which are no precipitation's"),
    "nonsense units": (radar(units="wet"), {}, "has units 'wet', which are unknown; known are rates"),
    "no field": (radar(standard_name="air_temperature"), {}, "no precipitation field.*variable=; there are: 'rr'"),
    "two candidates": (radar().assign(r2=radar().rr), {}, "2 precipitation fields, 'rr', 'r2': choose one"),
    "fewer frames": (radar().isel(time=slice(2)), {}, "the model reads 3 frames, and there are 2"),
    "too early": (radar(), {"init_times": "2024-06-01T12:05"}, "reads 3 frames, and fewer lie at or before"),
    "irregular times": (radar().assign_coords(time=radar().time.values + np.eye(6, dtype=int)[2] * 60_000_000_000),
                        {}, "the times are irregular: the step is 5 min, but .*12:11"),
    "duplicated times": (radar().isel(time=[0, 1, 1, 2]), {}, "12:05 stands twice: drop one"),
    "falling times": (radar().isel(time=[0, 2, 1]), {}, "the times fall after .*12:10: sort them"),
    "a gap": (radar().drop_isel(time=4), {}, "1 of 1 forecasts would read across a gap.*on_gap='skip'"),
    "gaps": (radar().assign_coords(time=LATER), {"init_times": "all"}, "2 of 4 forecasts would read across a gap"),
    "all NaN": (radar(RAIN * np.nan), {}, "NaN in every frame.*nothing was measured"),
    "negative rain": (spoiled(-1.0, frame=5), {}, "negative rain, down to -1 in its own units.*must be NaN"),
    "negative rain in the last of many": (spoiled(-1.0, frame=5), {"init_times": "all"}, "negative rain"),
    "a fill value": (spoiled(-9999.0, frame=5), {}, "set _FillValue to -9999"),
    "infinite rain": (spoiled(np.inf, frame=5), {}, "infinite somewhere"),
    "an odd lead time": (radar(), {"lead_time": "12min"}, "12min is no multiple of the data's step of 5 min"),
    "both": (radar(), {"lead_time": "1h", "steps": 12}, "give one of them"),
    "an ensemble of one model": (radar(), {"members": 3}, "'Worker' is deterministic: all of the 3 members"),
    "no members": (radar(), {"members": 0}, "members is 0; it must be a whole number of 1 or more"),
    "half a member": (radar(), {"members": 1.5}, "members is 1.5"),
    "a small grid": (radar().isel(y=slice(7)), {}, "the grid has 7 x 10 cells; 'Worker' needs at least 8 x 8"),
    "a narrow grid": (radar().isel(x=slice(7)), {}, "the grid has 9 x 7 cells"),
    "a negative seed": (radar(), {"seed": -1}, "seed is -1; it must be a whole number of 0 or more"),
    "a fractional seed": (radar(), {"seed": 0.5}, "seed is 0.5"),
    "no seed": (radar(), {"seed": None}, "seed is None"),
    "an empty batch": (radar(), {"batch_size": 0}, "batch_size is 0; it must be a whole number of 1 or more"),
    "a batch of True": (radar(), {"batch_size": True}, "batch_size is True"),
    "no steps": (radar(), {"steps": 0}, "steps is 0; it must be a whole number of 1 or more"),
    "an unknown device": (radar(), {"device": "gpu"}, "device is 'gpu'; it can be 'auto', 'cpu'"),
    "options of a model in memory": (radar(), {"size": "tiny"}, "a model in memory is complete"),
    "zr of a rain rate": (radar(), {"zr": (200, 1.6)}, r"zr=\(200, 1.6\) is for fields in dBZ"),
    "a rain rate in dBZ": (
        radar(units="dBZ"),
        {},
        "which contradict each other",
    ),
    "a reflectivity in mm/h": (
        radar(standard_name="equivalent_reflectivity_factor"),
        {},
        "which contradict each other",
    ),
    "an unknown on_gap": (radar(), {"on_gap": "join"}, "on_gap is 'join'; it can be 'raise', 'skip' or 'fill'"),
    "an absent init time": (radar(), {"init_times": "2024-06-01T12:12"}, "the nearest is 2024-06-01 12:10"),
    "an absent variable": (radar(), {"variable": "rain"}, "no variable 'rain'; there are: 'rr'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_before_the_model_is_run(case):
    ds, options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        ds.nowcast.forecast(Worker(), **options)


DATA = {"all NaN", "negative rain", "negative rain in the last of many", "a fill value", "infinite rain"}


@pytest.mark.parametrize("case", sorted(REFUSED.keys() - DATA))
def test_bad_input_is_refused_while_a_lazy_forecast_is_planned(case):
    ds, options, message = REFUSED[case]

    def compute(*args, **kwargs):
        pytest.fail("something was computed")

    import dask

    with dask.config.set(scheduler=compute), pytest.raises(ValueError, match=message):
        ds.chunk(time=2).nowcast.forecast(Worker(), **options)


@pytest.mark.parametrize("case", sorted(DATA - {"all NaN"}))
def test_impossible_values_in_lazy_data_are_refused_when_they_are_read(case):
    ds, options, message = REFUSED[case]
    planned = ds.chunk().nowcast.forecast("persistence", **options)
    with pytest.raises(ValueError, match=message):
        planned.compute()


def test_impossible_values_in_frames_that_no_forecast_reads_do_no_harm():
    fc = spoiled(-1.0, frame=0).nowcast.forecast("persistence", steps=1)
    np.testing.assert_array_equal(fc.rr[0, 0], RAIN[-1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("persistance", "no model 'persistance'; did you mean 'persistence'"),
        ("Extrapolation", "no model 'Extrapolation'; did you mean 'extrapolation'"),
        ("fog", "no model 'fog'. Known models: .*extrapolation"),
        ("", "no model ''"),
        (3, "model is a int; give a name"),
        ("best.safetensors", "there is no weights file best.safetensors"),
    ],
)
def test_an_unknown_model_is_refused_with_the_nearest_name(name, message):
    with pytest.raises(ValueError, match=message):
        radar().nowcast.forecast(name)


def test_an_unknown_option_is_refused_with_those_that_are_known():
    with pytest.raises(ValueError, match="there is no argument 'leadtime'; did you mean 'lead_time'"):
        radar().nowcast.forecast("persistence", leadtime="1h")
    with pytest.raises(ValueError, match="'extrapolation' has no option 'flow_strength'; its options are: "):
        radar().nowcast.forecast("extrapolation", flow_strength=2)


def test_a_model_of_another_verb_or_step_or_quantity_is_refused():
    def like(**declared):
        return type("Like", (Worker,), {"task": Task(**({"verb": "forecast", "input_frames": 3} | declared))})()

    import datetime

    for declared, message in (
        ({"verb": "deblur"}, r"'Like' does not forecast, it is for ds\.nowcast\.deblur"),
        ({"step": datetime.timedelta(minutes=10)}, "'Like' was made for a step of 10 min, and the data have 5 min"),
        ({"quantity": "vil"}, "'Like' reads vil, and variable 'rr' is rain_rate"),
        ({"max_steps": 2}, "forecasts up to 2 steps; 12 were asked for"),
    ):
        with pytest.raises(ValueError, match=message):
            radar().nowcast.forecast(like(**declared))


def test_what_is_no_xarray_object_is_refused():
    with pytest.raises(TypeError, match="expected an xarray Dataset or DataArray, found ndarray"):
        xnowcast.forecast(RAIN, "persistence")


@pytest.mark.parametrize("dim", ["member", "lead_time", "init_time"])
def test_a_dim_that_the_forecast_would_add_twice_is_refused(dim):
    ensemble = type("Ensemble", (Worker,), {"task": Task("forecast", input_frames=3, stochastic=True)})()
    with pytest.raises(ValueError, match=f"'rr' already has a dim '{dim}', which the forecast adds"):
        radar().expand_dims({dim: 2}).nowcast.forecast(ensemble)
