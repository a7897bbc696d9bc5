"""Weights that ship work by name wherever a model's name does, and the verbs choose among them what suits the data."""

import logging
import pickle
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import xnowcast
from xnowcast import models, pretrained
from xnowcast.cli import main
from xnowcast.data.datasets import synthetic_nwp, synthetic_radar
from xnowcast.engine import ModelRecipe
from xnowcast.models import weights
from xnowcast.verbs.request import Request

SHIPPED = pretrained.names()
WORDS = {"training_data": "nothing", "licence": "CC0-1.0", "scores": {"csi": 0.25}}
MINUTES = timedelta(minutes=1)

TINY = {
    "lagrangian": ("lagrangian", {"size": "tiny", "network": "ms-convlstm"}),
    "stldm": ("stldm", {"size": "tiny"}),
    "postcast": ("postcast", {"size": "tiny", "diffusion_steps": 20}),
    "stvd-2": ("stvd", {"size": "tiny", "factor": 2, "frames": 3, "diffusion_steps": 40}),
    "stvd-4": ("stvd", {"size": "tiny", "factor": 4, "frames": 3, "diffusion_steps": 40}),
    "nwp-mae": ("nwp-mae", {"size": "tiny"}),
}
"""Name of shipped weights to system and options of small networks in their place."""


def save(path, system, options, **contract):
    """Random weights of a small network, with what they say of the data that they learnt from."""
    torch.manual_seed(0)
    model = models.build(system, **options)
    for parameter in model.parameters():
        if not parameter.any():  # last layers begin at zero, and would say nothing
            torch.nn.init.normal_(parameter, std=0.05)
    if hasattr(model, "set_channel_statistics"):
        count = len(model.task.channels)
        model.set_channel_statistics(*(torch.full((count,), value) for value in (100.0, 1000.0, 0.0, 1e5)))
    model.task = replace(model.task, **contract)
    return weights.save(path, model, system=system, options=options, dtype="float16", **WORDS)


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    for name, (system, options) in TINY.items():
        contract = {"spacing": 1000.0, **({"step": 5 * MINUTES} if system in ("lagrangian", "stldm") else {})}
        save(folder / f"{name}.safetensors", system, options, **(contract if system != "nwp-mae" else {}))
    return folder


@pytest.fixture
def shipped(nothing_ships, tiny_files, monkeypatch):
    """A package in which all of the tiny weights ship."""
    monkeypatch.setattr(pretrained, "FOLDER", tiny_files)
    return tiny_files


@pytest.fixture(scope="module")
def radar():
    return synthetic_radar(frames=7, shape=(40, 48), seed=3, coverage=False, motion=(4.0, 2.0)).compute()


# ---------------------------------------------------------------- names, cards and the table


def test_names_are_those_of_the_files(shipped):
    assert pretrained.names() == sorted(TINY)
    assert pretrained.path("stvd-4") == shipped / "stvd-4.safetensors"
    with pytest.raises(ValueError, match="no weights ship as 'stvd-16'; there are lagrangian, "):
        pretrained.path("stvd-16")


@pytest.mark.parametrize("name", TINY)
def test_a_name_has_the_card_of_its_weights(shipped, name):
    assert xnowcast.card(name) == weights.read_card(shipped / f"{name}.safetensors")
    assert xnowcast.card(name).licence == "CC0-1.0"


def test_a_system_whose_weights_go_by_other_names_says_which(shipped):
    assert xnowcast.card("stvd").training_data == "ship as stvd-2, stvd-4"
    assert "\n  weights     ship as stvd-2, stvd-4" in str(xnowcast.card("stvd"))
    assert "\n  weights     none ship: they come from xnowcast.train" in str(xnowcast.card("nwp-metnet"))
    assert "\n  trained on  nothing" in str(xnowcast.card("stvd-4")), "as the file says"
    assert list(pretrained.of_system("stvd")) == ["stvd-2", "stvd-4"]


def test_the_table_has_a_line_for_each(shipped):
    save(shipped / "wide.safetensors", *TINY["lagrangian"], step=(2 * MINUTES, 5 * MINUTES), spacing=(500.0, 2000.0))
    table, below = pretrained.table().split("\n\n")
    (shipped / "wide.safetensors").unlink()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert len(lines) == 2 + len(TINY) + 1 and len({len(line) for line in table.splitlines()}) == 1
    assert lines[2][:5] == ["`lagrangian`", "forecast", "5 min", "1 km", ""] and lines[2][-1] == "CC0-1.0"
    assert lines[-1][:4] == ["`wide`", "forecast", "2 to 5 min", "0.5 to 2 km"]
    assert [line[4] for line in lines if line[0].startswith("`stvd")] == ["2", "4"]
    assert below.splitlines()[0] == "- `lagrangian`: trained on nothing. Scores: csi 0.25."


def test_the_table_of_what_ships_is_no_wider_than_a_terminal():
    told = pretrained.table()
    assert max(map(len, told.splitlines())) <= 110
    for name in SHIPPED:
        card, flat = xnowcast.card(name), " ".join(told.split())
        assert f"`{name}`: trained on {card.training_data}. Scores: {next(iter(card.scores))} " in flat


def test_without_any_the_table_is_its_head(nothing_ships):
    assert pretrained.names() == [] and len(pretrained.table().splitlines()) == 2


# ---------------------------------------------------------------- by name


def test_a_forecast_by_name_is_that_of_the_file(shipped, radar):
    by_name = radar.nowcast.forecast("lagrangian", steps=3)
    xr.testing.assert_identical(by_name, radar.nowcast.forecast(str(shipped / "lagrangian.safetensors"), steps=3))
    xr.testing.assert_identical(by_name, radar.nowcast.forecast("lagrangian", weights="lagrangian", steps=3))
    assert by_name.attrs["nowcast_weights_sha256"] == xnowcast.card("lagrangian").sha256
    assert np.isfinite(by_name.rainfall_rate.values[..., 15:25, 15:25]).all()


def test_options_for_running_go_through(shipped, radar):
    fc = radar.nowcast.forecast("stldm", steps=2, members=2, sampling_steps=2)
    assert fc.sizes["member"] == 2 and fc.attrs["nowcast_options"] == "sampling_steps=2"
    assert len(xnowcast.load("postcast", sampling_steps=4).steps) == 5


def test_options_that_the_weights_fix_are_refused(shipped, radar):
    message = (
        r"weights of 'lagrangian' fix the model's options: leave out width; free are .*xnowcast.train\('lagrangian'"
        r".*xnowcast.models.build"
    )
    with pytest.raises(ValueError, match=message):
        radar.nowcast.forecast("lagrangian", width=4)
    with pytest.raises(ValueError, match=message):
        xnowcast.load("lagrangian", width=4)


@pytest.mark.filterwarnings("ignore:.*frames diverged")  # an untrained network gives up
def test_frames_are_sharpened_by_name_and_by_default(shipped, radar):
    fc = radar.nowcast.forecast("persistence", steps=1)
    sharp = fc.nowcast.deblur("postcast", sampling_steps=2)
    assert np.isfinite(sharp.rainfall_rate).all()
    assert sharp.attrs["nowcast_weights_sha256"] == xnowcast.card("postcast").sha256
    xr.testing.assert_identical(sharp, fc.nowcast.deblur(sampling_steps=2))


@pytest.mark.parametrize("factor", [2, 4])
def test_fields_are_refined_with_the_weights_for_the_factor(shipped, radar, factor):
    coarse = radar.isel(time=slice(3)).nowcast.coarsen(factor)
    options = {"factor": factor, "members": 1, "sampling_steps": 2}
    fine = coarse.nowcast.downscale("stvd", **options)
    assert fine.sizes["x"] == 48 and np.isfinite(fine.rainfall_rate).all()
    assert fine.attrs["nowcast_weights_sha256"] == xnowcast.card(f"stvd-{factor}").sha256
    xr.testing.assert_identical(fine, coarse.nowcast.downscale(f"stvd-{factor}", **options))
    xr.testing.assert_identical(fine, coarse.nowcast.downscale(**options))
    assert coarse.nowcast.downscale(**{**options, "members": 0}).rainfall_rate.dims == ("time", "y", "x")


def test_a_factor_without_weights_says_which_have_some(shipped, radar):
    coarse = radar.isel(time=slice(3)).nowcast.coarsen(8)
    for model in ("stvd", None):
        with pytest.raises(ValueError, match="weights of 'stvd' ship for a factor of 2 and 4, not of 8: give weights="):
            coarse.nowcast.downscale(model, factor=8)
    with pytest.raises(ValueError, match="was made for a factor of 4, not of 8"):
        coarse.nowcast.downscale("stvd-4", factor=8)
    with pytest.raises(ValueError, match=r"factor is 1\.5"):
        coarse.nowcast.downscale(factor=1.5)
    assert coarse.nowcast.downscale("bicubic", factor=8).sizes["x"] == 48


def test_data_that_suit_weights_for_another_factor_are_told_which(shipped, radar):
    coarse = radar.isel(time=slice(3)).nowcast.coarsen(2)
    for model in ("stvd", None):
        with pytest.raises(
            ValueError, match="of 2 and 4, not of 8: pass factor=2, which suits the grid of the data, or"
        ):
            coarse.nowcast.downscale(model)
        with pytest.raises(
            ValueError, match="have 2 x 2 km: weights ship for a factor of 2 and 4: pass factor=2, which"
        ):
            coarse.nowcast.downscale(model, factor=4)
    with pytest.warns(UserWarning, match="pass factor=2, which suits these data"):
        coarse.nowcast.downscale(factor=4, members=0, on_mismatch="warn")
    with pytest.raises(ValueError, match="have 2 x 2 km: regrid them first"):
        coarse.nowcast.downscale("stvd", weights=str(shipped / "stvd-4.safetensors"), factor=4)
    with pytest.raises(ValueError, match="have 1 x 1 km: regrid them first"):
        radar.nowcast.downscale(factor=4)
    places = without_places(coarse)
    with pytest.raises(ValueError, match="of 2 and 4, not of 8: give weights="):
        places.nowcast.downscale()


def test_members_that_ship_keep_the_coarse_rain_by_default(shipped, radar):
    coarse = radar.isel(time=slice(3)).nowcast.coarsen(4)
    options = {"factor": 4, "sampling_steps": 2}
    for members in (0, 2):
        again = coarse.nowcast.downscale(members=members, **options).nowcast.coarsen(4).rainfall_rate
        np.testing.assert_allclose(again, coarse.rainfall_rate.broadcast_like(again), rtol=1e-4, atol=1e-6)
        plain = coarse.nowcast.downscale(members=members, conserve=False, **options).nowcast.coarsen(4).rainfall_rate
        assert not np.allclose(plain, coarse.rainfall_rate, rtol=1e-2)


def test_numerical_forecasts_are_corrected_by_name_and_by_default(shipped):
    nwp = synthetic_nwp(runs=1, leads=1, shape=(32, 32))[0].compute()
    corrected = nwp.nowcast.postprocess("nwp-mae")
    assert np.isfinite(corrected.probability).all() and corrected.attrs["nowcast_model"] == "nwp-mae"
    assert nwp.nowcast.postprocess().attrs["nowcast_model"] == "nwp-raw", "what learnt from synthetic data is named"
    assert nwp.nowcast.explain(category="rain").attrs["nowcast_model"] == "nwp-mae"


def test_weights_are_loaded_by_name(shipped):
    assert xnowcast.load("lagrangian").card == xnowcast.card("lagrangian")
    assert xnowcast.load("stvd-4").task.factor == 4
    with pytest.raises(
        ValueError, match="'stvd' needs weights: load 'stvd-2' or 'stvd-4' or the path of a weights file"
    ):
        xnowcast.load("stvd")
    with pytest.raises(ValueError, match="'nwp-metnet' needs weights: load the path of a weights file"):
        xnowcast.load("nwp-metnet")


def test_where_none_ship_weights_are_needed(nothing_ships, radar):
    with pytest.raises(ValueError, match="'lagrangian' needs weights: give the path of a file with weights="):
        radar.nowcast.forecast("lagrangian")
    with pytest.raises(ValueError, match="'postcast' needs weights"):
        radar.nowcast.deblur()
    with pytest.raises(ValueError, match="'stvd' needs weights"):
        radar.nowcast.coarsen(4).nowcast.downscale(factor=4)
    with pytest.raises(ValueError, match="'nwp-mae' needs weights"):
        synthetic_nwp(runs=1, leads=1, shape=(32, 32))[0].nowcast.postprocess("nwp-mae")


def test_networks_are_still_built_untrained_and_trained_with_options_of_choice(shipped, radar):
    system, same = TINY["lagrangian"]
    built, read = models.build(system, **same), xnowcast.load(system).state_dict()
    assert not hasattr(built, "card")
    assert not all(tensor.equal(read[name]) for name, tensor in built.state_dict().items())
    quick = {"steps": 1, "batch_size": 1, "crop": 32, "validation": 0.0, "progress": False}
    options = {"size": "tiny", "network": "ms-convlstm", "input_frames": 3, "target_frames": 2}
    trained = xnowcast.train("lagrangian", radar, model_options=options, **quick)
    assert trained.task.input_frames == 3
    quick |= {"start": "lagrangian", "learning_rate": 1e-12}
    begun = xnowcast.train("lagrangian", radar, model_options=same | {"target_frames": 2}, **quick)
    for name, tensor in begun.state_dict().items():
        torch.testing.assert_close(tensor, read[name], atol=1e-6, rtol=1e-4)


# ---------------------------------------------------------------- what nobody names


def without_places(radar):
    return radar.drop_vars([c for c in radar.coords if c != "time"])


def as_vil(radar):
    return radar.rainfall_rate.drop_attrs(deep=False).assign_attrs(units="kg m-2").to_dataset(name="vil")


UNSUITED = {
    "another step": (lambda radar: radar.isel(time=slice(None, None, 2)), {}, "made for a step of 5 min"),
    "another grid spacing": (lambda radar: synthetic_radar(frames=7, spacing_km=3.0, shape=(40, 40)), {}, "a grid of"),
    "no grid spacing": (without_places, {}, "does not tell its grid spacing"),
    "a small grid": (lambda radar: radar.isel(x=slice(20)), {}, "needs at least 32 x 32"),
    "few frames": (lambda radar: radar.isel(time=slice(4)), {}, "the model reads 5 frames, and there are 4"),
    "an early start": (lambda radar: radar, {"init_times": ["2024-06-01T12:15"]}, "the data begin at"),
    "a gap": (lambda radar: radar.drop_isel(time=2), {}, "would read across a gap"),
    "another quantity": (as_vil, {}, "reads rain_rate"),
    "an option of another model": (lambda radar: radar, {"inflow": "dry"}, "no option 'inflow'"),
    "a mismatch that is to be warned of": (
        lambda radar: radar.isel(time=slice(None, None, 2)),
        {"on_mismatch": "warn"},
        "made for a step of 5 min",
    ),
}


SPROG_SUITS = ("another grid spacing", "no grid spacing", "a small grid", "another quantity")
"""Cases with five frames before the forecast."""


@pytest.mark.parametrize("case", UNSUITED, ids=str)
def test_data_that_do_not_suit_the_best_model_get_the_next(shipped, radar, caplog, case):
    change, options, why = UNSUITED[case]
    data = change(radar)
    with caplog.at_level(logging.INFO, "xnowcast"), pytest.warns(UserWarning, match="the forecast is made with"):
        fc = data.nowcast.forecast(steps=1, **options)
    model = "sprog" if case in SPROG_SUITS else "extrapolation"
    assert fc.attrs["nowcast_model"] == model
    assert "forecasts are not made with 'lagrangian'" in caplog.text and why in caplog.text
    xr.testing.assert_identical(fc, data.nowcast.forecast(model, steps=1, **options))


def test_data_that_suit_it_get_the_best_model(shipped, radar, caplog):
    with caplog.at_level(logging.INFO, "xnowcast"):
        fc = radar.nowcast.forecast(steps=2)
    assert "forecasts are made with 'lagrangian'" in caplog.text
    xr.testing.assert_identical(fc, radar.nowcast.forecast("lagrangian", steps=2))
    assert xnowcast.forecast(radar, steps=2, probability_matching=True).attrs["nowcast_model"] == "lagrangian"


def test_a_file_names_its_model(shipped, radar):
    path = str(shipped / "lagrangian.safetensors")
    xr.testing.assert_identical(radar.nowcast.forecast(weights=path, steps=1), radar.nowcast.forecast(path, steps=1))


def test_steps_and_grids_between_those_of_the_training_suit_it(nothing_ships):
    save(
        nothing_ships / "lagrangian.safetensors",
        *TINY["lagrangian"],
        step=(2 * MINUTES, 5 * MINUTES),
        spacing=(500.0, 1000.0),
    )
    for step, spacing, expected in [
        ("2min", 0.5, "lagrangian"),
        ("4min", 0.7, "lagrangian"),
        ("5min", 1.1, "lagrangian"),
        ("10min", 1.0, "sprog"),
        ("5min", 2.0, "sprog"),
    ]:
        data = synthetic_radar(frames=5, shape=(32, 32), step=step, spacing_km=spacing)
        assert data.nowcast.forecast(steps=1).attrs["nowcast_model"] == expected, (step, spacing)


def test_a_model_is_chosen_without_reading_a_weight(shipped, radar, nothing_may_run, monkeypatch):
    monkeypatch.setattr(weights, "load", lambda *args, **options: pytest.fail("weights were read"))
    with nothing_may_run:
        planned = radar.chunk(time=2).nowcast.forecast(init_times="all", steps=1)
    assert planned.attrs["nowcast_model"] == "lagrangian"


def test_what_is_wrong_with_the_call_is_told(shipped, radar):
    with pytest.raises(ValueError, match="deterministic: all of the 3 members"):
        radar.nowcast.forecast("extrapolation", members=3)
    with pytest.raises(ValueError, match="on_mismatch is 'ignore'"):
        radar.nowcast.forecast(on_mismatch="ignore")
    with pytest.raises(ValueError, match="did you mean 'lead_time'"):
        radar.nowcast.forecast(leadtime="1h")


def test_where_nothing_ships_sprog_is_the_default(nothing_ships, radar, recwarn):
    assert radar.nowcast.forecast(steps=1).attrs["nowcast_model"] == "sprog"
    assert not [one for one in recwarn if "the forecast is made" in str(one.message)], "nothing better was passed over"


# ---------------------------------------------------------------- the command line and archives


@pytest.mark.filterwarnings("ignore:.*frames diverged")
def test_the_command_line_takes_what_suits_the_data(shipped, radar, tmp_path, capsys):
    radar.to_netcdf(tmp_path / "radar.nc")
    assert main(["forecast", str(tmp_path / "radar.nc"), str(tmp_path / "f.nc"), "--steps", "1"]) == 0
    assert "f.nc: lagrangian, " in capsys.readouterr().out
    weights_path = str(shipped / "lagrangian.safetensors")
    assert (
        main(
            ["forecast", str(tmp_path / "radar.nc"), str(tmp_path / "g.nc"), "--steps", "1", "--weights", weights_path]
        )
        == 0
    )
    assert "g.nc: lagrangian, " in capsys.readouterr().out
    assert main(["deblur", str(tmp_path / "f.nc"), str(tmp_path / "s.nc"), "--option", "sampling_steps=2"]) == 0
    assert "s.nc: lagrangian + postcast, " in capsys.readouterr().out


def test_the_list_of_models_says_which_have_weights(shipped, capsys):
    assert main(["models"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(rows) == {*models.names(), "stvd-2", "stvd-4"}
    assert "weights ship" in rows["lagrangian"] and "weights ship" in rows["stvd-4"]
    assert "weights ship" in rows["stvd"] and "to be trained" in rows["nwp-metnet"] and " ready " in rows["bicubic"]
    assert rows["stvd-4"].endswith(" The weights of stvd for a factor of 4.")
    begin = {
        line.index(told)
        for line in rows.values()
        for told in ("weights ship", "to be trained", "ready ")
        if told in line
    }
    assert len(begin) == 1, "the columns stand under one another"


def test_archives_take_the_names(shipped, radar, tmp_path):
    archive = radar.chunk(time=2)
    stored = xnowcast.hindcast(archive, out=tmp_path / "a.zarr", steps=1, workers=1, progress=False)
    assert stored.attrs["nowcast_model"] == "lagrangian" and np.isfinite(stored.rainfall_rate[0, 0, 20, 20])
    tables = xnowcast.score_archive(archive, ["lagrangian"], steps=1, workers=1, progress=False)
    assert "lagrangian" in tables.model.values


def test_a_worker_finds_what_ships_by_its_name(shipped):
    recipe = Request(verb=xnowcast.forecast, model="lagrangian").recipe
    assert recipe.weights == "lagrangian" and str(shipped) not in repr(recipe)
    refined = Request(verb=xnowcast.downscale, model="stvd", weights="stvd-4").recipe
    assert refined.weights == "stvd-4"
    assert pickle.loads(pickle.dumps(recipe)).make().card == xnowcast.card("lagrangian")


# ---------------------------------------------------------------- smaller files


def test_half_the_bytes_are_loaded_as_float32(tmp_path):
    model = models.build("postcast", size="tiny")
    files = {dtype: tmp_path / f"{dtype}.safetensors" for dtype in ("float32", "float16", "bfloat16")}
    cards = {
        dtype: weights.save(file, model, system="postcast", options={"size": "tiny"}, dtype=dtype)
        for dtype, file in files.items()
    }
    assert cards["float32"] == weights.describe(model, system="postcast", options={"size": "tiny"})
    assert files["float16"].stat().st_size < 0.6 * files["float32"].stat().st_size
    assert len({card.sha256 for card in cards.values()}) == 3
    for dtype, exact in (("float16", 2**-10), ("bfloat16", 2**-7)):
        for name, parameter in xnowcast.load(files[dtype]).named_parameters():
            assert parameter.dtype == torch.float32
            torch.testing.assert_close(parameter, model.get_parameter(name), rtol=exact, atol=1e-7)


def test_buffers_are_stored_as_they_are(tmp_path):
    model = models.build("nwp-mae", size="tiny")
    count = len(model.task.channels)
    pressure = torch.full((count,), 101_325.0)  # more than float16 can hold
    model.set_channel_statistics(pressure, pressure / 3, 0 * pressure, pressure)
    weights.save(tmp_path / "w.safetensors", model, system="nwp-mae", options={"size": "tiny"}, dtype="float16")
    loaded = xnowcast.load(tmp_path / "w.safetensors")
    for name, buffer in model.named_buffers():
        assert loaded.get_buffer(name).dtype == buffer.dtype and loaded.get_buffer(name).equal(buffer), name


def test_parameters_that_a_dtype_cannot_hold_are_refused(tmp_path):
    model = models.build("postcast", size="tiny")
    with torch.no_grad():
        next(model.parameters()).fill_(1e5)
    for dtype, message in (("float16", "holds values that float16 cannot"), ("int8", "dtype is 'int8'")):
        with pytest.raises(ValueError, match=message):
            weights.save(tmp_path / "w.safetensors", model, system="postcast", options={"size": "tiny"}, dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_a_run_becomes_what_ships(tmp_path, radar):
    run = tmp_path / "run"
    run.mkdir()
    before = save(run / "model.safetensors", *TINY["lagrangian"], step=5 * MINUTES, spacing=(500.0, 1000.0))
    slim = weights.slim(run, tmp_path / "lagrangian.safetensors", licence="Apache-2.0", scores={"csi": 0.5})
    assert slim == weights.read_card(tmp_path / "lagrangian.safetensors")
    assert slim == replace(before, licence="Apache-2.0", scores={"csi": 0.5}), "it was in float16 already"
    assert weights.slim(run, tmp_path / "exact.safetensors", dtype="float32").sha256 != slim.sha256
    mixed = weights.slim(run, tmp_path / "mixed.safetensors", options={"cascade": 0.3})
    assert mixed.options == slim.options | {"cascade": 0.3} and mixed.sha256 == slim.sha256


# ---------------------------------------------------------------- what ships with this package


def test_the_preferred_systems_exist_and_have_their_verbs():
    for verb, systems in pretrained.PREFERRED.items():
        assert {models.declare(system).verb for system in systems} == {"postprocess" if verb == "explain" else verb}
    assert not models.declare(pretrained.PREFERRED["forecast"][-1]).trained
    for system in pretrained.PREFERRED_ENSEMBLES:
        assert models.declare(system).verb == "forecast" and models.declare(system).stochastic


def test_what_ships_is_small():
    sizes = {name: pretrained.path(name).stat().st_size for name in SHIPPED}
    assert all(size <= 16e6 for size in sizes.values()) and sum(sizes.values()) <= 50e6, sizes


def test_what_ships_is_in_the_wheel():
    import tomllib

    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert tomllib.loads(text)["tool"]["setuptools"]["package-data"]["xnowcast.models"] == ["pretrained/*.safetensors"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_file_is_whole_and_says_where_it_comes_from(name):
    card = xnowcast.card(name)
    assert name in (card.system, card.options.get("network")) or name.startswith(f"{card.system}-")
    assert card.training_data and card.licence and card.scores and card.reads and card.description
    assert not any(mark in card.training_data for mark in ("/", "\\")), "no paths of whoever trained it"
    loaded = xnowcast.load(name)
    assert loaded.card == card and all(parameter.isfinite().all() for parameter in loaded.parameters())
    assert card.contract["spacing"] and (card.contract.get("step") or card.task.verb != "forecast")


@pytest.mark.parametrize("name", SHIPPED)
def test_what_they_are_tested_on_they_did_not_learn_from_and_their_card_is_in_the_docs(name):
    card, page = xnowcast.card(name), Path(__file__).resolve().parents[2] / "docs" / "reference" / "model_cards.md"
    assert not any(country in card.training_data for country in ("Switzerland", "Belgium"))
    assert card.sha256[:16] in page.read_text(encoding="utf-8"), "python recipes/cards.py"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_run(name):
    about = xnowcast.card(name)
    few = {"sampling_steps": 2} if "sampling_steps" in about.options else {}
    made = {"forecast": _forecast, "deblur": _deblur, "downscale": _downscale, "postprocess": _postprocess}
    values = made[about.task.verb](name, about.task, few)
    assert np.isfinite(values).all() and (values >= 0).all() and (values > 0).any()


def _radar_for(task, frames=None):
    step, spacing = (task.bounds(what) for what in ("step", "spacing"))
    return synthetic_radar(
        frames=frames or task.input_frames,
        shape=(64, 64),
        step=step[0] if step else "5min",
        spacing_km=spacing[0] / 1000 if spacing else 1.0,
        motion=(1.0, 1.0),
        coverage=False,
        wet_fraction=0.6,
    )


def _forecast(name, task, few):
    members = {"members": 1} if task.stochastic else {}
    forecast = _radar_for(task).nowcast.forecast(name, steps=2, **members, **few)
    return forecast.rainfall_rate.values[..., 16:48, 16:48]


def _deblur(name, task, few):
    forecast = _radar_for(task, frames=4).nowcast.forecast("extrapolation", steps=1, inflow="dry")
    return forecast.nowcast.deblur(name, **few).rainfall_rate.values


def _downscale(name, task, few):
    coarse = _radar_for(task).nowcast.coarsen(task.factor)
    return coarse.nowcast.downscale(name, factor=task.factor, members=1, **few).rainfall_rate.values


def _postprocess(name, task, few):
    nwp, _ = synthetic_nwp(runs=1, leads=1, shape=(48, 48), spacing_km=task.bounds("spacing")[0] / 1000)
    return nwp.nowcast.postprocess(name, **few).probability.values


@pytest.mark.skipif(not SHIPPED, reason="no weights ship yet")
def test_another_process_finds_what_ships():
    recipe = ModelRecipe(xnowcast.card(SHIPPED[0]).system, (), SHIPPED[0], xnowcast.card(SHIPPED[0]).sha256)
    code = f"import pickle; print(pickle.loads({pickle.dumps(recipe)!r}).make().card.system)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == recipe.name
