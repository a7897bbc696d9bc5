"""The command line: what it writes, what it refuses, and that it never shows a traceback."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

import xnowcast
from xnowcast.cli import main
from xnowcast.cli.commands import VERBS, _parser
from xnowcast.cli.flags import arguments_of
from xnowcast.data import storage


@pytest.fixture
def event(radar, tmp_path):
    path = tmp_path / "radar.nc"
    radar.to_netcdf(path)
    return path


def fails(capsys, *words):
    """The one line that a failing command says."""
    assert main([str(word) for word in words]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    lines = output.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("xnowcast: ")
    return lines[0]


@pytest.mark.parametrize("ending", [".nc", ".zarr"])
def test_a_forecast_is_written_as_its_name_says(event, tmp_path, ending, capsys, radar):
    out = tmp_path / f"forecast{ending}"
    assert main(["forecast", str(event), str(out), "--model", "persistence", "--lead-time", "10min"]) == 0
    assert "persistence" in capsys.readouterr().out
    written = storage.open_input(str(out)).load()
    assert written.rain.dims == ("init_time", "lead_time", "y", "x")
    np.testing.assert_allclose(written.rain[0, 1], radar.rain[-1], rtol=1e-6)
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".part")] == []


def test_zarr_comes_in_as_well(radar, tmp_path):
    radar.to_zarr(tmp_path / "radar.zarr", consolidated=False)
    assert main(["forecast", str(tmp_path / "radar.zarr"), str(tmp_path / "f.nc"), "--model", "persistence"]) == 0


def test_several_files_are_one_event(radar, tmp_path):
    for i in range(10):
        radar.isel(time=[i]).to_netcdf(tmp_path / f"radar_{i}.nc")
    pattern, out = str(tmp_path / "radar_*.nc"), tmp_path / "f.nc"
    assert main(["forecast", pattern, str(out), "--model", "persistence", "--init-times", "all", "--steps", "2"]) == 0
    assert storage.open_input(str(out)).sizes["init_time"] == 10


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("latest", 1),
        ("all", 10),
        ("2024-06-01T12:10", 1),
        ("2024-06-01T12:10,2024-06-01T12:20", 2),
        ("2024-06-01T12:10/2024-06-01T12:30", 5),
        ("2024-06-01T12:10/2024-06-01T12:30/10min", 3),
    ],
)
def test_init_times_can_be_said_in_many_ways(event, tmp_path, text, count):
    out = tmp_path / "f.nc"
    assert main(["forecast", str(event), str(out), "--model", "persistence", "--init-times", text]) == 0
    assert storage.open_input(str(out)).sizes["init_time"] == count


def test_a_score_table_is_printed_and_written(event, tmp_path, capsys):
    main(["forecast", str(event), str(tmp_path / "f.nc"), "--model", "persistence", "--init-times", "2024-06-01T12:10"])
    words = ["score", tmp_path / "f.nc", event, "--thresholds", "0.5,2", "--scales", "1,4", "--out", tmp_path / "s.nc"]
    assert main([str(word) for word in words]) == 0
    assert "persistence" in capsys.readouterr().out
    scores = xr.open_dataset(tmp_path / "s.nc")
    assert scores.csi.sizes["threshold"] == 2
    assert scores.csi.sizes["scale"] == 2


def test_scores_can_be_chosen(event, tmp_path, capsys):
    main(["forecast", str(event), str(tmp_path / "f.nc"), "--model", "persistence", "--init-times", "2024-06-01T12:10"])
    words = ["score", tmp_path / "f.nc", event, "--thresholds", "0.5,2", "--scales", "1,4", "--scores", "fss,rmse"]
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr().out
    assert "fractions skill score" in printed and "root mean squared error (mm h-1)" in printed
    assert "did you mean 'fss'" in fails(capsys, *words[:-1], "fsss")


def test_models_and_datasets_are_listed(capsys):
    assert main(["models"]) == 0 and main(["datasets"]) == 0
    listed = capsys.readouterr().out
    assert "persistence" in listed and "extrapolation" in listed and "mch_20160711" in listed
    assert main(["datasets", "rmi_20210704"]) == 0
    assert "commercial" in capsys.readouterr().out, "an owner's terms are shown"


def test_a_terminal_has_a_bar_and_a_file_a_line_of_what_there_is_to_do(event, tmp_path, capsys, monkeypatch):
    words = ["forecast", str(event), str(tmp_path / "f.nc"), "--model", "persistence", "--steps", "2", "--overwrite"]
    assert main(words) == 0
    assert capsys.readouterr().err == "computing with persistence: init_time 1, lead_time 2, y 24, x 32\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main(words) == 0
    assert "computing" not in capsys.readouterr().err


@pytest.mark.parametrize(("words", "conserving"), [([], False), (["--conserve"], True), (["--no-conserve"], False)])
def test_the_rain_of_coarse_cells_is_kept_where_told(event, tmp_path, words, conserving):
    out = tmp_path / "fine.nc"
    assert main(["downscale", str(event), str(out), "--model", "bicubic", "--factor", "2", *words]) == 0
    assert ("factor 2, conserving" in storage.open_input(str(out)).attrs["history"]) is conserving


def test_an_existing_output_is_refused_and_kept(event, tmp_path, capsys):
    out = tmp_path / "f.nc"
    out.write_text("precious")
    assert "--overwrite" in fails(capsys, "forecast", event, out, "--model", "persistence")
    assert out.read_text() == "precious"
    assert main(["forecast", str(event), str(out), "--model", "persistence", "--overwrite"]) == 0
    assert storage.open_input(str(out)).rain.ndim == 4


def test_an_existing_zarr_is_replaced_only_when_told(event, tmp_path, capsys):
    out = tmp_path / "f.zarr"
    assert main(["forecast", str(event), str(out), "--model", "persistence", "--steps", "1"]) == 0
    fails_first = main(["forecast", str(event), str(out), "--model", "persistence", "--steps", "2"])
    assert fails_first == 2 and storage.open_input(str(out)).sizes["lead_time"] == 1
    assert main(["forecast", str(event), str(out), "--model", "persistence", "--steps", "2", "--overwrite"]) == 0
    assert storage.open_input(str(out)).sizes["lead_time"] == 2


def test_an_input_is_never_overwritten(event, tmp_path, capsys):
    before = event.read_bytes()
    assert "also an input" in fails(capsys, "forecast", event, event, "--model", "persistence", "--overwrite")
    pattern = tmp_path / "rad*.nc"
    assert "also an input" in fails(capsys, "forecast", pattern, event, "--model", "persistence", "--overwrite")
    assert event.read_bytes() == before


def test_messages_speak_of_options_as_they_are_written_here(radar, tmp_path, capsys):
    radar.assign(other=radar.rain).to_netcdf(tmp_path / "two.nc")
    assert "choose one with --variable" in fails(capsys, "forecast", tmp_path / "two.nc", tmp_path / "f.nc")


HOSTILE = "\x1b[2J\x9b\nxnowcast: all is well\r\u202e"


@pytest.mark.parametrize(
    "words",
    [
        ["forecast", "no" + HOSTILE, "f.nc"],
        ["forecast", "a" + HOSTILE + ".nc", "f.nc"],
        ["forecast", "radar.nc", HOSTILE + ".txt", "--model", "persistence"],
        ["watch", "no" + HOSTILE, "--out", "out"],
    ],
    ids=["no file", "a broken file", "an output", "a folder"],
)
def test_no_name_steers_the_terminal(radar, tmp_path, capsys, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    radar.to_netcdf("radar.nc")
    (tmp_path / f"a{HOSTILE}.nc").write_bytes(b"CDF\x01rubbish")
    message = fails(capsys, *words)
    assert message.isprintable() and "\\x1b[2J\\x9b xnowcast: all is well \\u202e" in message


def test_the_demo_refuses_what_it_cannot_draw_before_any_work(radar, tmp_path, capsys):
    tiles = radar.expand_dims(tile=3)
    tiles.to_netcdf(tmp_path / "tiles.nc")
    message = fails(capsys, "demo", "--data", tmp_path / "tiles.nc", "--out", tmp_path / "demo")
    assert "'tile' of length 3" in message and not (tmp_path / "demo").exists()
    (tmp_path / "taken").write_text("")
    assert "is a file" in fails(capsys, "demo", "--out", tmp_path / "taken")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "maps.png").write_text("of the office")
    radar.to_netcdf(tmp_path / "radar.nc")
    words = "demo", "--data", tmp_path / "radar.nc", "--out", tmp_path / "mine", "--model", "persistence"
    assert "holds maps.png" in fails(capsys, *words)
    assert (tmp_path / "mine" / "maps.png").read_text() == "of the office"


def test_a_failure_in_the_middle_leaves_nothing_and_keeps_what_was_there(radar, tmp_path, capsys):
    bad = radar.copy(deep=True)
    bad.rain[-1, 10, 10] = -9999.0
    bad.to_netcdf(tmp_path / "bad.nc")
    out = tmp_path / "f.nc"
    out.write_text("precious")
    words = ["forecast", tmp_path / "bad.nc", out, "--model", "persistence", "--overwrite"]
    assert main([str(word) for word in words]) == 2
    begun, message = capsys.readouterr().err.strip().splitlines()
    assert begun == "computing with persistence: init_time 1, lead_time 12, y 24, x 32"
    assert message.startswith("xnowcast: ") and "-9999" in message
    assert out.read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.nc", "f.nc"]


def test_bad_input_is_told_in_one_line(event, tmp_path, capsys):
    text = tmp_path / "notes.nc"
    text.write_text("this is no NetCDF")
    out = tmp_path / "out.zarr"
    assert "no NetCDF file" in fails(capsys, "forecast", text, out)
    assert "there is no file" in fails(capsys, "forecast", tmp_path / "absent.nc", out)
    assert "no Zarr store" in fails(capsys, "forecast", tmp_path, out)
    assert "did you mean 'persistence'" in fails(capsys, "forecast", event, out, "--model", "persistense")
    assert "no multiple" in fails(capsys, "forecast", event, out, "--model", "persistence", "--lead-time", "7min")
    assert ".zarr or .nc" in fails(capsys, "forecast", event, tmp_path / "out.txt")
    assert "does not exist" in fails(capsys, "forecast", event, tmp_path / "no" / "out.nc")
    assert "NAME=VALUE" in fails(capsys, "forecast", event, out, "--option", "inflow")
    assert "200,1.6" in fails(capsys, "forecast", event, out, "--zr", "200")
    assert "'hko-7'" in fails(capsys, "forecast", event, out, "--zr", "hkg")
    assert "--help" in fails(capsys, "forecast", event)
    assert "invalid choice" in fails(capsys, "foretell", event)
    assert "'0.5,x'" in fails(capsys, "score", event, event, "--thresholds", "0.5,x")
    assert not out.exists()


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        main(["forecast", str(tmp_path / "absent.nc"), str(tmp_path / "out.nc"), "--debug"])


def test_the_program_is_installed_and_exits_with_two():
    command = [sys.executable, "-m", "xnowcast", "forecast", "absent.nc", "out.nc"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr and len(run.stderr.strip().splitlines()) == 1


def test_a_real_event_goes_from_file_to_file(shared_data, tmp_path):
    out = tmp_path / "out.zarr"
    assert main(["forecast", str(shared_data / "mch_20160711.nc"), str(out), "--model", "extrapolation"]) == 0
    forecast = storage.open_input(str(out)).rainfall_rate.isel(lead_time=0)
    observed = xr.open_dataset(shared_data / "mch_20160711.nc").rainfall_rate.isel(time=-1)
    assert 0.7 < float(forecast.mean()) / float(observed.mean()) < 1.3


@pytest.mark.usefixtures("toy_models")
def test_a_forecast_is_sharpened_and_a_coarse_field_refined(event, tmp_path, capsys, nothing_ships):
    forecast, sharp, fine = (tmp_path / name for name in ("forecast.nc", "sharp.nc", "fine.zarr"))
    assert main(["forecast", str(event), str(forecast), "--model", "persistence", "--lead-time", "10min"]) == 0
    words = ["--members", "2", "--option", "amplitude=0.1", "--diagnostics"]
    assert main(["deblur", str(forecast), str(sharp), "--model", "noisy-sharpener", *words]) == 0
    assert "noisy-sharpener" in capsys.readouterr().out
    made = storage.open_input(str(sharp))
    assert made.sizes["member"] == 2 and "blur_kernel" in made
    assert main(["downscale", str(forecast), str(fine), "--model", "bicubic", "--factor", "2"]) == 0
    assert "bicubic" in capsys.readouterr().out
    assert storage.open_input(str(fine)).sizes["y"] == 2 * made.sizes["y"]
    assert "weights" in fails(capsys, "deblur", forecast, tmp_path / "none.nc")
    assert "--overwrite" in fails(capsys, "downscale", forecast, fine, "--model", "bicubic")


@pytest.mark.parametrize("verb", [*VERBS, "watch"])
def test_every_argument_of_a_function_has_a_flag(verb):
    """An argument that is new is a flag without anybody's doing, with the function's default and a word of help."""
    function = xnowcast.archive.watch if verb == "watch" else getattr(xnowcast, verb)
    subparser = _parser()._subparsers._group_actions[0].choices[verb]
    flags = {action.dest: action for action in subparser._actions}
    _, *arguments = inspect.signature(function).parameters.values()
    for argument in arguments:
        if argument.name in ("progress", "options"):
            continue
        flag = flags[argument.name]
        assert flag.help and flag.required == (argument.default is inspect.Parameter.empty)
        assert flag.required or flag.default == argument.default
    words = ["in", *([] if verb == "watch" else ["out"])]
    words += [
        word
        for flag in flags.values()
        if flag.required and flag.option_strings
        for word in (flag.option_strings[0], "1")
    ]
    given = arguments_of(_parser().parse_args([verb, *words, "--option", "steps_of=3"]), function)
    assert given["steps_of"] == 3
    inspect.signature(function).bind("in", **given)


def test_a_forecast_of_a_weather_model_is_corrected_and_explained(tmp_path, capsys):
    forecast, _ = xnowcast.datasets.synthetic_nwp(runs=1, leads=2, shape=(32, 32))
    forecast.to_netcdf(tmp_path / "nwp.nc")
    words = ["--model", "nwp-raw", "--decision", "inverse", "--option", "soft=true"]
    assert main(["postprocess", str(tmp_path / "nwp.nc"), str(tmp_path / "rain.nc"), *words]) == 0
    made = xr.open_dataset(tmp_path / "rain.nc")
    assert made.attrs["nowcast_decision"] == "inverse" and "soft=True" in made.attrs["nowcast_options"]
    rain = next(str(name) for name, v in forecast.data_vars.items() if v.attrs.get("standard_name") == "rainfall_rate")
    words = ["--model", "nwp-raw", "--channels", f"rainfall_rate={rain}"]
    assert main(["postprocess", str(tmp_path / "nwp.nc"), str(tmp_path / "named.nc"), *words]) == 0
    capsys.readouterr()
    assert "CHANNEL=VARIABLE" in fails(
        capsys, "postprocess", tmp_path / "nwp.nc", tmp_path / "c.nc", "--model", "nwp-raw", "--channels", rain
    )
    assert "no network" in fails(
        capsys, "explain", tmp_path / "nwp.nc", tmp_path / "e.nc", "--model", "nwp-raw", "--category", "1"
    )


def test_a_flag_that_is_misspelt_is_named_with_the_nearest(event, tmp_path, capsys):
    message = fails(capsys, "forecast", event, tmp_path / "f.nc", "--lead-tme", "30min")
    assert message.endswith("xnowcast forecast takes no --lead-tme; did you mean '--lead-time'?")
    assert "see xnowcast forecast --help" in fails(capsys, "forecast", event, tmp_path / "f.nc", "--quux=3")


def test_a_module_of_the_users_own_adds_a_model(event, tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(
        "import xnowcast\nxnowcast.models.register('steady', 'xnowcast.models.persistence:Persistence')\n"
    )
    monkeypatch.chdir(tmp_path)
    run = [sys.executable, "-m", "xnowcast", "forecast", str(event), "f.nc", "--model", "steady", "--import"]
    made = subprocess.run([*run, "own_models"], capture_output=True, text=True)
    assert made.returncode == 0 and "steady" in made.stdout, made.stderr
    missing = subprocess.run([*run, "no_such_module"], capture_output=True, text=True)
    assert missing.returncode == 2 and "--import no_such_module: No module named" in missing.stderr


def test_a_picture_of_what_has_none_is_refused(event, tmp_path, capsys):
    assert "--picture" in fails(capsys, "score", event, event, "--picture", tmp_path / "x.png")
