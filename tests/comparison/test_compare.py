"""Systems side by side: the same cells and rules for all, everything checked first, nothing done twice."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import xnowcast
from xnowcast import verify
from xnowcast.archive.run import job
from xnowcast.cli import main
from xnowcast.comparison import budget, report
from xnowcast.comparison.protocol import systems_of

pytest.importorskip("lightning", reason="needs the extra train")

ROOT = Path(__file__).resolve().parents[2]
RULES = {
    "steps": 2,
    "lead_time": "10min",
    "starts": 2,
    "members": 2,
    "thresholds": [0.5, 2.0],
    "scales": [1, 4],
    "bands": [[4.0, 8.0], [2000.0, 4000.0]],
    "training": {"crop": 16, "batch_size": 1, "validation_crops": 2},
    "validation": 0.2,
    "progress": False,
}
SYSTEMS = {"persistence": None, "noisy": {"amplitude": 0.2}, "learnt": {"system": "tiny", "width": 2}}


def radar(seed, frames=14, start="2024-06-01"):
    return xnowcast.datasets.synthetic_radar(frames=frames, shape=(32, 32), seed=seed, start=start, coverage=False)


TEST = {"june": radar(1), "july": radar(2, start="2024-07-01")}
TRAIN = radar(3, frames=40, start="2024-01-01")


@pytest.fixture
def toys(toy_models, monkeypatch):
    """Systems that take no time, one of them to be trained."""
    from xnowcast import models

    monkeypatch.setitem(models.registry.REGISTRY, "tiny", "test_train:Tiny")


def compare(out, systems=SYSTEMS, **changes):
    return xnowcast.compare(systems, **(RULES | {"test": TEST, "train": TRAIN, "out": out} | changes))


def never(*_, **__):
    raise AssertionError("this was done already")


@pytest.fixture
def nothing_left(monkeypatch):
    """Training and forecasting fail the test."""

    def forbid():
        monkeypatch.setattr("xnowcast.training.loop.run", never)
        monkeypatch.setattr(job, "run_windows", never)

    return forbid


# ---------------------------------------------------------------- what comes out


def test_scores_are_those_of_the_forecasts_and_what_is_done_is_not_done_again(toys, tmp_path, nothing_left):
    card = compare(tmp_path / "out")
    assert card["model"].values.tolist() == list(SYSTEMS) and card["event"].values.tolist() == ["june", "july", "all"]

    _persistence_is_scored_as_by_hand(card)
    assert card["members"].values.tolist() == [1, 2, 1]
    assert card["parameters"].values.tolist()[:2] == [0, 0] and card["parameters"].values[2] > 100
    assert np.isnan(card["steps"].values[:2]).all() and card["steps"].values[2] == 2
    assert (card["forecast_cpu_seconds"] > 0).all() and card["training_cpu_seconds"].values[2] > 0
    assert card["band"].values.tolist() == ["4-8 km"], "the other is longer than the grid"
    assert (card["crps"] < card["mae"]).sel(model="noisy", event="all").all(), "members tell more than their mean"
    np.testing.assert_allclose(card["crps"].sel(model="persistence"), card["mae"].sel(model="persistence"))

    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert len(summary) == 9 and "CSI in 4 x 4" in summary
    assert (tmp_path / "out" / "summary.md").read_text() == report.markdown(report.summary_of(card)) + "\n"
    rows = pd.read_csv(tmp_path / "out" / "scores.csv")
    one = rows.query("system == 'persistence' and event == 'all' and score == 'csi' and threshold == 2 and scale == 4")
    np.testing.assert_allclose(
        one["value"], card["csi"].sel(model="persistence", event="all", threshold=2, scale=4), rtol=1e-5
    )
    assert (tmp_path / "out" / "case.png").stat().st_size > 1000

    nothing_left()
    again = compare(tmp_path / "out")
    np.testing.assert_array_equal(again["csi"], card["csi"])
    np.testing.assert_array_equal(again["forecast_cpu_seconds"], card["forecast_cpu_seconds"])

    weights = tmp_path / "out" / "systems" / "learnt" / "training" / "model.safetensors"
    fewer = compare(tmp_path / "out", {name: SYSTEMS[name] for name in ("learnt", "persistence")})
    assert fewer["model"].values.tolist() == ["learnt", "persistence"]
    assert systems_of({"theirs": weights}, {})[0].trained is False
    with pytest.raises(ValueError, match=r"holds a comparison with starts = 2, and now it is 3"):
        compare(tmp_path / "out", starts=3)


def _persistence_is_scored_as_by_hand(card):
    """Every system of these knows all cells, so that persistence alone has the same scores."""
    june = TEST["june"]
    made = [june.nowcast.forecast("persistence", lead_time="10min", init_times="all")]
    chosen = made[0].isel(init_time=slice(1, None))  # the learnt one reads two frames
    starts = chosen.init_time.values
    wet = (xnowcast.rain_rate(june).sel(time=starts) >= 0.1).mean(("y", "x")).values >= 0.02
    ahead = starts <= june.time.values[-3]
    able = starts[wet & ahead]
    chosen = chosen.sel(init_time=able[[0, -1]])
    by_hand = verify.scorecard(june, chosen, thresholds=[0.5, 2.0], scales=[1, 4], scores=["csi", "hss", "mae"])
    own = card.sel(model="persistence", event="june")
    for score in ("csi", "hss", "mae"):
        dims = own[score].dims
        np.testing.assert_allclose(own[score], by_hand[score].transpose(*dims), rtol=1e-6, err_msg=score)
    observed = verify.align_observations(june, chosen)
    rates = [xnowcast.rain_rate(observed), xnowcast.rain_rate(chosen)]
    power = verify.spectral_ratio(*rates, bands=[(4, 8)], dim="init_time")
    np.testing.assert_allclose(own["power"].sel(band="4-8 km"), power.squeeze("band"), rtol=1e-5)
    pixels = [np.clip(10 * np.log10(200 * rate.clip(1e-9) ** 1.6), 0, 60) for rate in rates]
    ssim = verify.ssim(*pixels, data_range=60.0, dim="init_time")
    np.testing.assert_allclose(own["ssim"], ssim, rtol=1e-4)


def test_a_run_that_was_stopped_goes_on_with_what_is_missing(toys, tmp_path, monkeypatch):
    """Stopped in the forecasts of the second system; seeds are rows of their own."""
    systems = {"learnt": SYSTEMS["learnt"], "noisy": SYSTEMS["noisy"]}
    rules = {"seeds": [0, 1], "test": TEST["june"], "bands": []}
    hindcast, calls = xnowcast.hindcast, []

    def interrupted(*given, **named):
        calls.append(named["out"].parent.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return hindcast(*given, **named)

    monkeypatch.setattr("xnowcast.comparison.entrants.hindcast", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(tmp_path / "out", systems, **rules)
    monkeypatch.setattr("xnowcast.training.loop.run", never)
    card = compare(tmp_path / "out", systems, **rules)
    assert card["model"].values.tolist() == ["learnt, seed 0", "learnt, seed 1", "noisy"]
    assert card["system"].values.tolist() == ["learnt", "learnt", "noisy"] and "power" not in card
    seeds = card["mae"].sel(event="all").values[:2]
    assert not np.array_equal(*seeds), "another seed begins with other weights"
    assert "±" in report.markdown(report.summary_of(card)).splitlines()[2]


def test_a_budget_of_cpu_seconds_becomes_steps_that_are_kept(toys, tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "seconds_of", lambda planned: (0.5, 0.1))
    systems = {"learnt": SYSTEMS["learnt"]}
    rules = {"steps": None, "cpu_seconds": 2.0, "test": TEST["june"]}
    card = compare(tmp_path / "out", systems, **rules)
    assert card["steps"].values.tolist() == [3], "(2 - 5 * 0.1) / 0.5"
    monkeypatch.setattr(budget, "seconds_of", never)
    monkeypatch.setattr("xnowcast.training.loop.run", never)
    assert compare(tmp_path / "out", systems, **rules)["steps"].values.tolist() == [3]


def test_steps_and_validations_are_timed(monkeypatch):
    """A clock on which a step takes 2 s, a validation 5 s, and the first run 9 s more."""
    from types import SimpleNamespace

    from xnowcast.training import loop
    from xnowcast.training.settings import TrainingSettings

    clock = [0.0, 9.0]

    def run(planned):
        clock[0] += 2.0 * planned.settings.steps + 5.0 + clock[1]
        clock[1] = 0.0

    monkeypatch.setattr(budget, "process_time", lambda: clock[0])
    monkeypatch.setattr(loop, "run", run)
    monkeypatch.setattr(budget, "replace", lambda one, **new: type(one)(**(vars(one) | new)))
    planned = SimpleNamespace(settings=TrainingSettings(warmup=50), validation=[], device=SimpleNamespace(type="cpu"))
    assert budget.seconds_of(planned) == (2.0, 5.0)
    planned.device.type = "cuda"
    with pytest.raises(ValueError, match="tells nothing of a training on 'cuda': give steps, or device='cpu'"):
        budget.settings_within(planned, 60.0)
    with pytest.raises(ValueError, match="5 CPU seconds are too few: a step takes 2 s and a validation 5 s"):
        budget.plan_steps(2.0, 5.0, 5.0, None)


# ---------------------------------------------------------------- at the door


@pytest.mark.parametrize(
    ("systems", "changes", "message"),
    [
        ([], {}, "there is no system to compare"),
        (["persistance"], {}, "system 'persistance': there is no model 'persistance'; did you mean 'persistence'"),
        ({"a": {"system": "tiny", "widht": 3}}, {}, "system 'a': 'tiny' has no option 'widht'; did you mean 'width'"),
        (["bicubic"], {}, "system 'bicubic': it is for ds.nowcast.downscale, and forecasters are compared"),
        (["persistence", "persistence"], {}, "two systems are called 'persistence'"),
        ({"a b": "persistence", "a_b": "persistence"}, {}, "would share a folder"),
        (["persistence"], {"options": {"size": "tiny"}}, "no system has the shared option 'size'"),
        ({"a": {"weights": "none.safetensors"}}, {}, "system 'a': .*none.safetensors"),
        ({"a": {"system": "tiny", "training": {"steps": 3}}}, {}, "steps of the training is the same for all systems"),
        (
            {"a": {"system": "tiny", "training": {"crpo": 3}}},
            {},
            "no setting of the training 'crpo'; did you mean 'crop'",
        ),
        ({"persistence": {"training": {"crop": 8}}}, {}, "has settings of a training, and is not trained here"),
        (["tiny"], {"steps": None}, "the budget is neither steps nor cpu_seconds"),
        (["tiny"], {"cpu_seconds": 3.0}, "the budget is both steps and cpu_seconds"),
        (["tiny"], {"train": None}, "tiny: 'tiny' is trained: give data to train on"),
        (["tiny"], {"training": {"crop": 512}}, "tiny: .*crop"),
        (["persistence"], {"seeds": [1, 1]}, "seeds has the same one twice"),
        (["persistence"], {"test": TRAIN}, r"test event event 1 is among the training's data \(dataset 1\)"),
        (["persistence"], {"validation": TEST["june"]}, "test event june is among the training's data"),
        (["persistence"], {"lead_time": "3h"}, "has no time with 1 frames up to it and 36 after it"),
        (["persistence"], {"test": {"all": TEST["june"]}}, "none may be 'all'"),
        (["persistence"], {"crop": 4}, "crop is 4"),
        (["persistence"], {"bands": [[8, 4]]}, "a band is"),
        (["persistence"], {"engine": "cluster"}, "engine is 'cluster'"),
    ],
)
def test_all_is_checked_before_anything_is_trained(toys, nothing_left, tmp_path, systems, changes, message):
    nothing_left()
    with pytest.raises(ValueError, match=message):
        compare(tmp_path / "out", systems, **changes)


def test_a_folder_of_others_is_left_alone(toys, tmp_path):
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"holds notes.txt and no comparison: choose another"):
        compare(tmp_path, ["persistence"])
    with pytest.raises(ValueError, match="a file: name a folder"):
        compare(tmp_path / "notes.txt", ["persistence"])


# ---------------------------------------------------------------- from a file


def test_the_command_does_what_the_file_says(tmp_path, capsys):
    TEST["june"].to_netcdf(tmp_path / "june.nc")
    path = tmp_path / "compare.toml"
    path.write_text(
        f'data.test = ["{tmp_path / "june.nc"}"]\n[compare]\nstarts = 1\nlead_time = "10min"\nscales = [1]\n'
        f'out = "{tmp_path / "out"}"\n[systems.persistence]\n[systems.moved]\nsystem = "extrapolation"\n'
    )
    assert main(["compare", str(path), "--set", "compare.starts=2"]) == 0
    printed = capsys.readouterr().out
    assert "| `persistence` | 1 |" in printed and "| `moved` | 1 |" in printed
    assert main(["compare", str(path), "--set", "compare.strats=2"]) == 2
    assert "no key in [compare] 'strats'; did you mean 'starts'?" in capsys.readouterr().err


def test_the_config_of_small_systems_names_what_there_is():
    import tomllib

    content = tomllib.loads((ROOT / "configs" / "compare" / "small.toml").read_text())
    found = systems_of(content["systems"], content["options"])
    assert {one.system for one in found if not one.trained} == {"persistence", "extrapolation", "sprog", "steps"}
    assert all(one.options["size"] == "tiny" for one in found if one.trained)
    assert not {Path(p).name for p in content["data"]["train"]} & {Path(p).name for p in content["data"]["test"]}
    assert asdict(found[0])["options"] == {}


def test_the_page_has_a_place_for_the_table():
    page = (ROOT / "docs" / "howto" / "compare.md").read_text()
    made = report.filled(
        page, "small", pd.DataFrame({"event": ["all"], "system": ["sprog"], "seed": [0], "CSI": [0.5]})
    )
    assert "| `sprog` | 0.500 |" in made and made.count(report.END) == 1
    with pytest.raises(ValueError, match="the page has no place for the table"):
        report.filled("nothing", "small", pd.DataFrame())
