"""Whatever an argument of a verb or an option of a model is given, it is taken or refused by its own name."""

import inspect

import numpy as np
import pytest
import torch

import xnowcast
from xnowcast import models
from xnowcast.training.settings import TrainingSettings

VALUES = {
    "None": None,
    "NaN": float("nan"),
    "inf": float("inf"),
    "-1": -1,
    "0": 0,
    "2.5": 2.5,
    "True": True,
    "a word": "x",
    "an empty word": "",
    "bytes": b"x",
    "an empty list": [],
    "a list": [1, 2],
    "a mapping": {},
    "an object": object(),
    "a slice": slice(None),
    "an array": np.arange(2),
    "NumPy's int": np.int64(2),
    "NumPy's float": np.float32(1),
    "NumPy's bool": np.bool_(True),
    "a great number": 10**8,
    "a number beyond all": 10**400,
}

RADAR = xnowcast.datasets.synthetic_radar(frames=8, shape=(32, 32), seed=1, coverage=False).load()
SMALL = RADAR.isel(x=slice(16), y=slice(16)).chunk(time=4)
FORECAST = xnowcast.forecast(RADAR.isel(time=slice(0, 6)), "extrapolation", steps=2, inflow="dry")

VERBS = {
    "forecast": (xnowcast.forecast, {"obj": RADAR.chunk(time=4), "model": "stldm", "steps": 1, "on_mismatch": "warn"}),
    "deblur": (xnowcast.deblur, {"obj": RADAR.isel(time=[0]).chunk(), "model": "postcast", "on_mismatch": "warn"}),
    "downscale": (xnowcast.downscale, {"obj": SMALL, "model": "bicubic", "factor": 2}),
    "postprocess": (xnowcast.postprocess, {"obj": SMALL, "model": "nwp-raw"}),
    "explain": (
        xnowcast.explain,
        {"obj": SMALL, "model": models.build("nwp-mae", size="tiny", channels=["rainfall_rate"]), "category": 1},
    ),
    "coarsen": (xnowcast.coarsen, {"obj": SMALL, "factor": 2}),
    "scorecard": (xnowcast.verify.scorecard, {"observations": RADAR, "forecasts": FORECAST, "thresholds": [1.0]}),
    "load": (xnowcast.load, {"model": "persistence"}),
    "card": (xnowcast.card, {"model": "persistence"}),
}

ELSEWHERE = ("obj", "observations", "forecasts", "variable", "zr")
"""Arguments whose values are tested with what they tell about data."""


def refusal(call):
    """What a call says where it refuses, None where it answers; anything but a ValueError is a fault."""
    try:
        call()
        return None
    except ValueError as error:
        return str(error)


def arguments(verbs):
    for verb, (function, _) in verbs.items():
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is not parameter.VAR_KEYWORD and name not in ELSEWHERE:
                yield verb, name


@pytest.mark.parametrize(("verb", "name"), list(arguments(VERBS)))
def test_an_argument_is_taken_or_refused_by_its_name(verb, name):
    function, base = VERBS[verb]
    for value, given in VALUES.items():
        said = refusal(lambda given=given: function(**base | {name: given}))
        about = (name, name.replace("_", " "), name.removesuffix("s"), "window of", "cells", "channel")
        assert said is None or any(word in said for word in about), f"{name}={value}: {said}"
        assert said is None or "ambiguous" not in said, f"{name}={value}: {said}"


@pytest.mark.parametrize(
    ("verb", "given"),
    [
        (
            "forecast",
            {"members": np.int64(2), "seed": np.uint8(3), "batch_size": np.int16(4), "progress": np.bool_(False)},
        ),
        ("forecast", {"steps": np.int32(1)}),
        ("deblur", {"members": np.int64(2), "diagnostics": np.bool_(True)}),
        ("downscale", {"factor": np.int64(2), "conserve": np.bool_(True)}),
        ("coarsen", {"factor": np.int64(2), "min_coverage": np.float32(0.5)}),
        ("postprocess", {"batch_size": np.int64(3), "soft": np.bool_(True)}),
    ],
)
def test_numbers_of_numpy_are_numbers(verb, given):
    function, base = VERBS[verb]
    plain = {name: value.item() for name, value in given.items()}
    assert function(**base | given).sizes == function(**base | plain).sizes


def test_options_of_numpy_run_and_are_told_in_plain_numbers():
    given = {"window": np.float64(8), "input_frames": np.int64(3), "interpolation": np.str_("nearest")}
    fc = xnowcast.forecast(RADAR, "extrapolation", steps=1, **given)
    assert fc.attrs["nowcast_options"] == "input_frames=3, interpolation='nearest', window=8.0"


@pytest.mark.parametrize("system", sorted({models.find(name): name for name in models.names()}.values()))
def test_an_option_is_taken_or_refused_by_its_name(system):
    for option in models.options(system):
        for value, given in VALUES.items():
            said = refusal(lambda given=given, option=option: models.declare(system, **{option: given}))
            about = (option, "steps", "no model")
            assert said is None or any(word in said for word in about), f"{option}={value}: {said}"
        great = {int: 10**8, float: 1e31}.get(type(models.options(system)[option]))
        assert great is None or refusal(lambda great=great, option=option: models.declare(system, **{option: great}))


@pytest.mark.parametrize(
    ("system", "options"),
    [
        ("extrapolation", {"window": 1000.0}),
        ("extrapolation", {"window": 1e-30}),
        ("extrapolation", {"carried": 1e-30}),
        ("sprog", {"levels": 20}),
        ("sprog", {"window": 1000.0}),
    ],
    ids=str,
)
def test_the_ends_of_what_is_taken_run(system, options):
    """A window as wide as may be still finds the motion: one that is wider would make the rain stand still."""
    moved = xnowcast.forecast(RADAR, system, steps=1, **options).rainfall_rate
    assert 0 < float(moved.isnull().mean()) < 0.5, "what comes from outside is not known"
    assert float(moved.max()) > 0


@pytest.mark.parametrize("name", TrainingSettings.__dataclass_fields__)
def test_a_setting_of_a_training_is_taken_or_refused_by_its_name(name):
    for value, given in VALUES.items():
        said = refusal(lambda given=given: TrainingSettings(**{name: given}))
        assert said is None or name in said or "steps" in said, f"{name}={value}: {said}"


@pytest.mark.parametrize(
    "name", ["resume", "progress", "mixed", "strategy", "start", "model_options", "device", "stride"]
)
def test_an_argument_of_a_training_is_refused_by_its_name(name):
    for value in (float("nan"), -1, 2.5, [], np.arange(2), object(), 10**400):
        said = refusal(lambda value=value: xnowcast.train("ms-convlstm", RADAR, size="tiny", **{name: value}))
        assert said is not None and name in said, said


@pytest.mark.parametrize("given", [{"steps": 10**8}, {"lead_time": "100000 days"}], ids=str)
def test_a_forecast_of_years_is_refused(given):
    with pytest.raises(ValueError, match="a nowcast has up to 10000"):
        xnowcast.forecast(RADAR, "persistence", **given)


def test_the_deterministic_part_of_a_deterministic_model_is_itself():
    whole, part = (xnowcast.downscale(SMALL, "nearest", factor=2, **given) for given in ({}, {"members": 0}))
    assert whole.rainfall_rate.equals(part.rainfall_rate)


@pytest.mark.parametrize("member", [torch.tensor(2), "2", 2.0])
def test_what_is_no_whole_number_is_not_taken_for_one(member):
    with pytest.raises(ValueError, match=r"members is .*a whole number"):
        xnowcast.forecast(RADAR, "stldm", steps=1, members=member)


def test_a_warning_points_at_the_line_of_the_call():
    """Called by name, as a method or by a run over an archive: what warns lies at differing depths."""
    radar = xnowcast.datasets.synthetic_radar(frames=6, shape=(32, 32), step="30min", seed=1)
    for call in (
        lambda: xnowcast.forecast(radar, "lagrangian", steps=1, on_mismatch="warn"),
        lambda: radar.nowcast.forecast("lagrangian", steps=1, on_mismatch="warn"),
    ):
        with pytest.warns(UserWarning, match="was made for steps of") as caught:
            call()
        assert {warning.filename for warning in caught if "was made for" in str(warning.message)} == {__file__}
