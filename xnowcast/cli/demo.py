"""The main job from end to end on one event: forecast, score against the baselines, write, plot."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from xnowcast import engine, plot, verify
from xnowcast.data import datasets, storage
from xnowcast.fields import cf, windows
from xnowcast.models import weights

BASELINES = ("persistence", "extrapolation")
THRESHOLDS = (0.5, 2.0, 5.0)
SCALES = (1, 4, 16)
LEAD_TIME = "60min"
PICTURES = ("maps", "csi", "spectra")


def run(
    data: str = "synthetic", out: str | Path = "demo", model: str | None = None, *, variable: str | None = None
) -> Path:
    """Forecast every half hour of an event, score the model beside the baselines, write the forecast and pictures.

    ``data``: name of a dataset (``xnowcast datasets``) or path of a file. ``out``: folder for the results; made if it
    is missing, files of an earlier run are replaced. ``model``: any model that forecasts; by default the one that
    `xnowcast.forecast` takes for these data. ``variable``: name of the field where the event has more than one.
    Returned: the folder. ValueError if the event is no single sequence, or too short: an hour must follow the first
    forecast.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; the demo writes into a folder: name another with --out")
    radar = one_field(open_event(data), variable)
    folder.mkdir(parents=True, exist_ok=True)
    if model is None:
        model = radar.chunk().nowcast.forecast(lead_time=LEAD_TIME).attrs["nowcast_model"]
    outputs = folder / f"forecast_{model}.zarr", folder / "scores.nc"
    store, table = (storage.check_output(path, overwrite=True, inputs=[data, radar]) for path in outputs)
    pictures = [folder / f"{name}.png" for name in PICTURES]
    if not table.exists() and (strange := [path.name for path in pictures if path.exists()]):
        raise ValueError(f"{folder} holds {strange[0]}, and no scores.nc of an earlier demo: name another with --out")
    starts = verifiable_init_times(radar, model)
    count = f"{len(starts)} forecast{'s' * (len(starts) > 1)}"
    print(f"{data}: {count} of {LEAD_TIME}, from {starts[0]:%Y-%m-%d %H:%M} to {starts[-1]:%H:%M} UTC\n")

    names = list(dict.fromkeys([model, *BASELINES]))
    forecasts = {name: radar.nowcast.forecast(name, lead_time=LEAD_TIME, init_times=starts) for name in names}
    with engine.progress_bar(None):
        forecasts = {name: forecast.compute() for name, forecast in forecasts.items()}
    rates = comparable(forecasts)
    scores = {
        name: verify.scorecard(radar, rain, thresholds=THRESHOLDS, scales=SCALES).compute()
        for name, rain in rates.items()
    }
    print(verify.format_scorecard(scores, lead_times=shown_lead_times(rates[model])))

    store = storage.write(forecasts[model], store, overwrite=True)
    cards = xr.concat(list(scores.values()), xr.DataArray(names, dims="model", name="model"))
    table = storage.write(cards, table, overwrite=True)
    draw(radar, forecasts[model], rates, scores, pictures)
    print("\nwritten:", *[f"  {path}" for path in (store, table, *pictures)], sep="\n")
    return folder


def open_event(data: str) -> xr.Dataset:
    """The event by its name or path; the embedded synthetic one has three hours of 256 x 256 km.

    >>> dict(open_event("synthetic").sizes)["time"]
    36
    """
    if data == "synthetic":
        return datasets.synthetic_radar(frames=36, shape=(256, 256), seed=5)
    return storage.open_input(data)


def one_field(radar: xr.Dataset, variable: str | None) -> xr.Dataset:
    """The event without other precipitation fields.

    ValueError if the field cannot be told, or has more dims than time, y and x.
    """
    field = cf.find_field(radar, variable)
    if field.extra:
        dims = ", ".join(f"{dim!r} of length {field.array.sizes[dim]}" for dim in field.extra)
        raise ValueError(f"the event has the dim {dims}; the demo takes one sequence of time, y and x")
    others = [n for n in radar.data_vars if n != field.name and radar[n].dims == field.array.dims]
    return radar.drop_vars(others)


def verifiable_init_times(radar: xr.Dataset, model: str) -> list[np.datetime64]:
    """Half-hourly starts that have the frames that any of the models reads before them and the lead time after them.

    ValueError if there is none.
    """
    field = cf.find_field(radar)
    axis = windows.time_axis(field.array, field.time)
    frames = max(weights.card(name).task.input_frames for name in (model, *BASELINES))
    steps = windows.lead_steps(axis.step, lead_time=LEAD_TIME)
    chosen = windows.input_windows(axis, frames, "all", on_gap="skip").init_times
    chosen = chosen[chosen + steps * axis.step <= axis.times[-1]]
    if chosen.size == 0:
        raise ValueError(
            f"the event has {axis.times.size} frames; {frames} before and {steps} after a forecast's start are needed"
        )
    every = max(1, int(np.timedelta64(30, "m") / axis.step))
    return [np.datetime64(time).astype("M8[us]").item() for time in chosen[::every]]


def comparable(forecasts: dict[str, xr.Dataset]) -> dict[str, xr.DataArray]:
    """The forecasts in mm h-1, NaN where any of the models has no answer.

    Scores and spectra of different cells would compare different weather.

    ``forecasts``: by model. Returned: by model.
    """
    rates = {name: cf.rain_rate(forecast) for name, forecast in forecasts.items()}
    known = [rain.notnull() for rain in rates.values()]
    known = [k.all("member") if "member" in k.dims else k for k in known]
    by_all = xr.concat(known, "model", coords="minimal", compat="override").all("model")
    return {name: rain.where(by_all) for name, rain in rates.items()}


def shown_lead_times(rain: xr.DataArray) -> list[np.timedelta64]:
    """The lead times nearest to a quarter, half and whole hour."""
    wanted = np.array([15, 30, 60], dtype="m8[m]").astype("m8[ns]")
    return list(np.unique(rain.lead_time.sel(lead_time=wanted, method="nearest").values))


def draw(
    radar: xr.Dataset,
    forecast: xr.Dataset,
    rates: dict[str, xr.DataArray],
    scores: dict[str, xr.Dataset],
    paths: Sequence[Path],
) -> None:
    """Observed beside forecast, score against lead time, and spectra after half an hour.

    ``radar, forecast``: what is drawn as maps. ``rates, scores``: by model. ``paths``: of the three pictures.
    """
    plot.plot(forecast, radar, init_time=0, path=paths[0])
    plot.plot_scores(scores, "csi", path=paths[1])
    first = next(iter(rates.values()))
    observed = verify.align_observations(cf.rain_rate(radar), first).where(first.notnull())
    half_hour = {n: f.sel(lead_time="30min", method="nearest") for n, f in ({"observed": observed} | rates).items()}
    plot.plot_spectra(half_hour, title="after 30 minutes, where all models have an answer", path=paths[2])
