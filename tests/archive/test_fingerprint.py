"""A run goes on only with what it was begun with: whatever changes its numbers is noted, without anybody's doing."""

import json
from inspect import Parameter, signature
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from archive_models import Noisy

import xnowcast
from xnowcast.archive import hindcast, score_archive, store
from xnowcast.archive.run import fingerprint


@pytest.fixture
def dbz(radar):
    """The ten frames as reflectivities."""
    values = 10 * np.log10(200 * np.maximum(radar.rain, 0.01) ** 1.6)
    attrs = {"units": "dBZ", "standard_name": "equivalent_reflectivity_factor"}
    return radar.assign(rain=(radar.rain.dims, values.values.astype("f4"), attrs)).drop_vars("crs")


def begun(ds, out, **options):
    """A hindcast of which half is written, as after a kill."""
    import zarr

    hindcast(ds, **({"model": "sprog", "out": out, "steps": 1, "init_times_per_batch": 2, "progress": False} | options))
    zarr.open_array(out, path="init_status", mode="r+")[2:] = 0
    return store.read_fingerprint(Path(out))


def goes_on(ds, out, **options):
    return hindcast(
        ds, **({"model": "sprog", "out": out, "steps": 1, "init_times_per_batch": 2, "progress": False} | options)
    )


# ---------------------------------------------------------------- every argument has its place


@pytest.mark.parametrize("verb", [xnowcast.forecast, hindcast], ids=lambda verb: verb.__name__)
def test_every_argument_is_noted_or_changes_no_number(radar, tmp_path, verb):
    noted = begun(radar, tmp_path / "a.zarr", model=Noisy(), members=1)
    for name, parameter in signature(verb).parameters.items():
        if parameter.kind is Parameter.VAR_KEYWORD or name in ("obj", "weights"):  # noted where they are given
            continue
        place = fingerprint.TOLD_AS.get(name, name)
        assert (place in noted) != (name in fingerprint.SAME_NUMBERS), name
    assert all(fingerprint.SAME_NUMBERS.values()), "each has its reason"


def test_every_argument_of_score_archive_is_noted_or_changes_no_number(radar, tmp_path):
    score_archive(radar, steps=1, out=tmp_path / "a.nc", thresholds=[1], scales=[1], progress=False)
    with xr.open_dataset(tmp_path / "a.nc") as opened:
        noted = json.loads(opened.attrs[store.FINGERPRINT])
    for name in signature(score_archive).parameters:
        place = fingerprint.TOLD_BY_TABLES.get(name, name)
        assert (place in noted) != (name in fingerprint.SAME_NUMBERS), name


def test_an_argument_that_is_new_is_noted_by_its_name():
    static = xr.Dataset({"height": ("x", [1.0, 2.0])})
    asked = {"ds": None, "seed": 3, "brand_new": 0.5, "static": static, "until": np.datetime64("2024-06-01")}
    noted = fingerprint.of_call(asked, fingerprint.TOLD_AS)
    assert noted["brand_new"] == 0.5 and noted["until"] == "2024-06-01" and "seed" not in noted
    other = fingerprint.of_call(asked | {"static": static + 1}, fingerprint.TOLD_AS)
    assert noted["static"] != other["static"], "a field is noted by its content"
    json.dumps(noted)


@pytest.mark.parametrize(
    "value",
    [
        None,
        np.float32(1),
        np.int64(3),
        float("nan"),
        {1, 2},
        (1, [2]),
        slice("a", None),
        Noisy(),
        np.array(["a", None]),
    ],
    ids=lambda value: type(value).__name__,  # the same in every process of a run
)
def test_whatever_is_asked_for_can_be_noted(value):
    assert fingerprint.for_json(value) == json.loads(json.dumps(fingerprint.for_json(value)))


# ---------------------------------------------------------------- going on with something else


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"zr": (58.53, 1.56)}, r"conversion.a 200.0, and this run has 58.53"),
        ({"zerovalue": -15.0}, r"conversion.no_echo"),
        ({"zr_a": 58.53, "zr_b": 1.56}, r"conversion.a"),
        ({"offset_of_calibration": 3.0}, r"without field.attributes.offset_of_calibration"),
        ({"min_coverage": 0.5}, r"min_coverage 0.0, and this run has 0.5"),
        ({"on_gap": "fill"}, r"on_gap 'skip'"),
        ({"seed": 3}, r"seed 0"),
        ({"levels": 3}, r"options"),
    ],
    ids=str,
)
def test_what_changes_numbers_is_refused_by_its_name(dbz, tmp_path, change, message):
    begun(dbz, tmp_path / "a.zarr")
    own = {k: change[k] for k in change if k in signature(hindcast).parameters or k == "levels"}
    others = {k: v for k, v in change.items() if k not in own}
    with pytest.raises(ValueError, match=message):
        goes_on(dbz.assign(rain=dbz.rain.assign_attrs(others)), tmp_path / "a.zarr", **own)


@pytest.mark.parametrize(
    "change",
    [
        {"zr": (200, 1.6)},  # in other words
        {"steps": None, "lead_time": "5min"},
        {"batch_size": 1},
        {"device": "cpu"},
        {"workers": 1},
        {"on_mismatch": "warn"},
        {"init_times": slice("2024-06-01T12:20", None)},
    ],
    ids=str,
)
def test_what_changes_no_number_is_not_refused(dbz, tmp_path, change):
    begun(dbz, tmp_path / "a.zarr", model="persistence", init_times=slice("2024-06-01T12:20", None))
    whole = goes_on(dbz, tmp_path / "b.zarr", model="persistence", init_times=slice("2024-06-01T12:20", None))
    resumed = goes_on(
        dbz.assign(rain=dbz.rain.assign_attrs(comment="seen again")),
        tmp_path / "a.zarr",
        **({"model": "persistence", "init_times": slice("2024-06-01T12:20", None)} | change),
    )
    np.testing.assert_array_equal(resumed.rain, whole.rain)


def test_a_model_in_memory_is_noted_by_its_weights_and_its_settings(radar, tmp_path, toy_models):
    import torch

    from xnowcast import models

    torch.manual_seed(0)
    model = models.build("tiny-net")
    begun(radar, tmp_path / "a.zarr", model=model)
    model.gain = 2.0  # as the steps of a sampler, which are no tensor
    with pytest.raises(ValueError, match="model_settings"):
        goes_on(radar, tmp_path / "a.zarr", model=model)


def test_packing_in_attributes_is_noted(radar, tmp_path):
    packed = radar.assign(
        rain=(
            radar.rain.dims,
            (radar.rain.fillna(0) * 100).values.astype("i2"),
            radar.rain.attrs | {"scale_factor": 0.01},
        )
    )
    begun(packed, tmp_path / "a.zarr", model="persistence")
    other = packed.assign(rain=packed.rain.assign_attrs(scale_factor=0.02))
    with pytest.raises(ValueError, match=r"attributes.scale_factor 0.01"):
        goes_on(other, tmp_path / "a.zarr", model="persistence")


# ---------------------------------------------------------------- what earlier versions noted


def as_an_earlier_version(path, ours):
    """The marks of a run as they were before all arguments were noted."""
    early = (
        "model",
        "seed",
        "variable",
        "units",
        "grid",
        "members",
        "lead_time",
        "init_times",
        "on_gap",
        "min_coverage",
    )
    early = {k: v for k, v in ours.items() if k in (*early, "options", "model_in_memory", "init_times_per_batch")}
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["attributes"][store.FINGERPRINT] = json.dumps(early | {"batch_size": None})
    (path / "zarr.json").write_text(json.dumps(metadata))


def test_a_store_of_an_earlier_version_goes_on_by_the_z_r_that_it_is_labelled_with(dbz, tmp_path):
    whole = goes_on(dbz, tmp_path / "b.zarr", model="persistence").load()
    as_an_earlier_version(tmp_path / "a.zarr", begun(dbz, tmp_path / "a.zarr", model="persistence"))
    with pytest.raises(ValueError, match=r"conversion.a 200.0, and this run has 58.53"):
        goes_on(dbz, tmp_path / "a.zarr", model="persistence", zr=(58.53, 1.56))
    with pytest.raises(ValueError, match="on_gap"):
        goes_on(dbz, tmp_path / "a.zarr", model="persistence", on_gap="fill")
    resumed = goes_on(dbz, tmp_path / "a.zarr", model="persistence")
    np.testing.assert_array_equal(resumed.rain, whole.rain)


def table(ds, out, **options):
    defaults = {"steps": 1, "thresholds": [1], "scales": [1], "block": "1h", "progress": False}
    return score_archive(ds, out=out, **(defaults | options))


def test_a_table_of_an_earlier_version_goes_on_where_no_z_r_decides(radar, dbz, tmp_path):
    for name, ds in (("rain", radar), ("dbz", dbz)):
        path = tmp_path / f"{name}.nc"
        made = table(ds, path)
        noted = json.loads(made.attrs[store.FINGERPRINT])
        early = {k: v for k, v in noted.items() if k not in ("observed", "lead_time", "region_labels", "fingerprint")}
        early["models"] = {n: {k: v for k, v in m.items() if k != "model_settings"} for n, m in early["models"].items()}
        made.assign_attrs({store.FINGERPRINT: json.dumps(early)}).to_netcdf(path)
    xr.testing.assert_equal(table(radar, tmp_path / "rain.nc"), table(radar, None))
    with pytest.raises(ValueError, match="did not note the Z-R relation"):
        table(dbz, tmp_path / "dbz.nc")


def test_a_table_is_not_gone_on_with_by_another_z_r(dbz, tmp_path):
    table(dbz, tmp_path / "a.nc")
    with pytest.raises(ValueError, match=r"observed.conversion.a 200.0"):
        table(dbz, tmp_path / "a.nc", zr=(58.53, 1.56))


def test_models_named_in_another_order_keep_their_own_scores(radar, tmp_path):
    two = {"still": "persistence", "moved": "extrapolation"}
    first = table(radar, tmp_path / "a.nc", models=two, baselines=[])
    again = table(radar, tmp_path / "a.nc", models=dict(reversed(two.items())), baselines=[])
    assert again.model.values.tolist() == ["moved", "still"]
    for name in two:
        xr.testing.assert_equal(first.sel(model=name), again.sel(model=name))
