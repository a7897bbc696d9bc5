"""The evaluation of forecasts on real events, run whole on a tiny synthetic one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import xnowcast

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
METHODS = ("persistence", "extrapolation", "steps", "pysteps lk")


@pytest.fixture(autouse=True)
def recipes(monkeypatch):
    """The recipes can be imported, and pysteps is not there."""
    monkeypatch.syspath_prepend(str(RECIPES))
    monkeypatch.setattr("evaluation.pysteps.HERE", False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with one event that moves by a cell and a half a frame."""
    folder = tmp_path_factory.mktemp("events")
    radar = xnowcast.datasets.synthetic_radar(frames=22, shape=(64, 64), seed=3, motion=(5.0, 2.0), wet_fraction=0.6)
    radar.to_netcdf(folder / "tiny.nc")
    return folder


def run(data, out, *words):
    import evaluate

    standard = ["--data", str(data), "--out", str(out), "--events", "tiny", "--size", "64", "--starts", "1"]
    evaluate.main([*standard, "--methods", *METHODS, *words])
    return pd.read_csv(out / "scores.csv").set_index(["method", "minutes"])


def test_a_tiny_event_is_judged_from_forecasts_to_pictures_without_pysteps(data, tmp_path, capsys):
    network = tmp_path / "net.safetensors"
    options = {"network": "crps-rnn", "size": "tiny"}
    model = xnowcast.models.build("lagrangian", **options)
    xnowcast.weights.save(network, model, system="lagrangian", options=options)
    scores = run(data, tmp_path / "out", "--weights", f"mine={network}", "--options", "steps:levels=4")
    assert "left out are pysteps lk" in capsys.readouterr().out
    assert set(scores.index) == {(m, t) for m in (*METHODS[:3], "mine") for t in (15, 30, 60)}
    assert scores["CSI 0.5"].notna().all() and scores["MAE"].notna().all()
    assert scores["CSI 0.5"]["extrapolation", 15] > scores["CSI 0.5"]["persistence", 15]
    assert (scores["rain over extrapolation"]["extrapolation"] == 1).all()
    assert scores.groupby("minutes")["part of the grid"].nunique().eq(1).all(), "the same cells for all"
    ensembles = scores["fair CRPS"].dropna().index.get_level_values("method").unique()
    assert set(ensembles) == {"steps", "mine"}
    assert (scores.loc["steps", "fair CRPS"] < scores.loc["steps", "CRPS"]).all()
    assert (scores.loc["extrapolation", "CRPS"] == scores.loc["extrapolation", "MAE"]).all()
    made = {file.name for file in (tmp_path / "out").glob("*.png")}
    assert made == {"tiny_64.png", "steps_64.png", "mine_64.png"}


def test_a_run_that_was_stopped_goes_on_and_forecasts_are_made_again_when_options_change(data, tmp_path, monkeypatch):
    from evaluation.methods import Method
    from matplotlib.figure import Figure

    forecast, made, stop_at = Method.forecast, [], 2

    def counted(self, start):
        if len(made) == stop_at:
            raise KeyboardInterrupt
        made.append(self.name)
        return forecast(self, start)

    monkeypatch.setattr(Method, "forecast", counted)
    monkeypatch.setattr("evaluation.pictures.event", lambda *_: Figure())
    three = ["--methods", "persistence", "extrapolation", "sprog"]
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, *three)
    stop_at = None
    first = run(data, tmp_path, *three)
    assert made == ["extrapolation", "persistence", "sprog"], "extrapolation comes first; each was made once"
    again = run(data, tmp_path, *three, "--options", "sprog:window=32.0")
    assert made[3:] == ["sprog"]
    assert (first["CSI 0.5"] != again["CSI 0.5"]).loc["sprog"].any()


def field(values, *leading):
    attrs = {"units": "mm h-1", "standard_name": "rainfall_rate"}
    metres = 1000.0 * np.arange(64)
    sides = [(d, metres, {"units": "m", "standard_name": f"projection_{d}_coordinate"}) for d in "yx"]
    coords = [*((name, np.arange(len(values))) for name in leading), *sides]
    return xr.DataArray(values.astype("f4"), coords, attrs=attrs)


def judged(forecast, observed):
    from evaluation import scores

    return scores.scores_of(scores.added([scores.sums_of(forecast, observed, observed)] * 2), observed)


def test_a_forecast_that_comes_true_has_the_best_scores_and_twice_as_much_rain_is_seen():
    observed = field(np.random.default_rng(0).gamma(0.5, 6.0, (64, 64)))
    perfect, doubled = judged(observed, observed), judged(2 * observed, observed)
    ones = [name for name in perfect if name.startswith(("CSI", "FSS", "area", "rain", "power"))]
    assert {name: perfect[name] for name in ones} == pytest.approx(dict.fromkeys(ones, 1.0))
    assert perfect["MAE"] == perfect["CRPS in 16 km"] == 0
    assert doubled["rain"] == pytest.approx(2) and doubled["power 4-8"] == pytest.approx(4)
    assert doubled["MAE"] == pytest.approx(float(observed.mean())) == pytest.approx(doubled["CRPS in 16 km"], rel=1e-4)
    assert doubled["area 5"] == pytest.approx(float((observed >= 2.5).sum() / (observed >= 5).sum()))


def test_members_that_are_all_too_low_have_the_highest_rank_alone_and_no_spread():
    observed = field(np.full((64, 64), 2.0))
    found = judged(field(np.ones((10, 64, 64)), "member"), observed)
    assert found["highest rank"] == 11 and found["lowest rank"] == 0 and found["outer ranks"] == 5.5
    assert found["spread over error"] == 0 and found["fair CRPS"] == found["CRPS"] == 1.0
    assert found["MAE of mean"] == 1.0 and found["CSI 0.5 of mean"] == 1.0


def test_members_that_are_drawn_like_the_weather_are_reliable():
    drawn = np.random.default_rng(1).gamma(0.5, 6.0, (11, 64, 64))
    found = judged(field(drawn[1:], "member"), field(drawn[0]))
    for name in ("outer ranks", "spread over error", "area 5", "rain"):
        assert found[name] == pytest.approx(1, abs=0.12), name
    assert found["fair CRPS"] < found["CRPS"] and abs(found["unreliability 1"]) < 0.15


def test_what_one_method_does_not_know_is_scored_of_none(data, tmp_path):
    from evaluation import events, forecasts, methods

    start = events.starts_of(events.rain_of("tiny", data, 64), 1)[0]
    several, _ = methods.methods_of(["persistence", "extrapolation"])
    for method in several:
        forecasts.kept(tmp_path, method, start).make(method, start)
    each = [forecasts.kept(tmp_path, method, start).part("known") for method in several]
    together = forecasts.known_by_all(tmp_path, several, start)
    assert together.shape == (3, 64, 64) and (together == (each[0] & each[1])).all()
    assert 0 < together[-1].sum() < together[0].sum() < each[0][0].sum()


def test_the_best_of_each_lead_time_is_bold():
    from evaluation import tables

    rows = pd.DataFrame({"minutes": [15, 15], "method": ["a", "b"], "CSI 5": [0.2, 0.3], "MAE": [0.1, np.nan]})
    assert tables.markdown(rows, tables.MEAN, ["CSI 5", "MAE"], ["minutes"]).splitlines()[2:] == [
        "| 15 min | a | 0.200 | **0.100** |",
        "| 15 min | b | **0.300** |  |",
    ]


def test_tables_in_the_documentation_are_those_of_the_scores_that_are_kept():
    import cards

    scores = pd.read_csv(cards.SCORES)
    assert cards.whole(scores)
    assert cards.PAGE.read_text(encoding="utf-8") == cards.page(scores), "python recipes/cards.py"
    from evaluation import tables

    pages = tables.pages(RECIPES.parent)
    assert RECIPES.parent / "README.md" in pages
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert text == tables.filled(text, scores), f"python recipes/cards.py, for {page}"


def test_no_event_that_is_held_out_has_taught_or_chosen_anything():
    from evaluation.events import GROUPS

    held, others = set(GROUPS["held out"]), {name for group in list(GROUPS)[1:] for name in GROUPS[group]}
    assert not held & others and len(held) == 3
