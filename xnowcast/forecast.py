"""The verb `forecast`, on one page: field -> windows -> engine -> CF dataset."""

import warnings
from collections.abc import Hashable, Iterator
from dataclasses import replace
from datetime import timedelta
from difflib import get_close_matches
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from xnowcast import cf, windows
from xnowcast.cf import Field, T_Xarray

if TYPE_CHECKING:
    from xnowcast.engine import ModelRecipe
    from xnowcast.models.base import ForecastModel, Task

OnMismatch = Literal["raise", "warn"]

_SPACING_TOLERANCE = 0.15
"""Share by which the grid spacing may differ from that of the training; map scale alone varies by several percent."""


def forecast(
    obj: T_Xarray,
    model: "str | ForecastModel" = "extrapolation",
    *,
    lead_time: str | timedelta | np.timedelta64 | None = None,
    steps: int | None = None,
    init_times: windows.InitTimes = "latest",
    members: int | None = None,
    seed: int = 0,
    variable: Hashable | None = None,
    zr: tuple[float, float] | None = None,
    on_gap: windows.OnGap = "raise",
    on_mismatch: OnMismatch = "raise",
    weights: str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    progress: bool | None = None,
    **options: Any,
) -> T_Xarray:
    """Continue a precipitation sequence into the future.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray
        A precipitation field with time, y and x axes in any order, and any other dims: rain rate, amount per
        step, or reflectivity in dBZ. NaN means not measured.
    model : str or ForecastModel
        Name of a system (`xnowcast.models.names`), path of a weights file, or a model in memory.
    lead_time : duration, optional
        How far to forecast, such as ``"60min"``; a multiple of the data's step. One hour by default.
    steps : int, optional
        How far to forecast in steps, instead of ``lead_time``.
    init_times : "latest", "all", time, list of times or slice of times
        When the forecasts start. ``slice("2024-06-01T12", "2024-06-01T18", "30min")`` starts one every half hour.
    members : int, optional
        Members of an ensemble; 10 by default for models that have members.
    seed : int
        Member 3 is the same for one seed and init time however many members are asked for, and however the
        data are chunked.
    variable : hashable, optional
        Name of the field where a dataset has more than one.
    zr : (float, float), optional
        a and b of Z = a R**b for fields in dBZ; by default the field's attributes ``zr_a`` and ``zr_b``, else
        200 and 1.6.
    on_gap : {"raise", "skip", "fill"}
        What to do with a forecast that would read across a missing frame.
    on_mismatch : {"raise", "warn"}
        What to do when the data's step or grid spacing is not that of the model's training.
    weights : str, optional
        Path of a weights file for a system that is trained.
    device : str
        ``"auto"`` is the GPU where there is one, else the CPU.
    batch_size : int, optional
        Samples (init times x members) that the model gets at once.
    progress : bool, optional
        A progress bar while in-memory data are computed; by default on a terminal only.
    **options
        The model's own options.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        Whichever was given, with dims ``(..., init_time, [member], lead_time, y, x)``, in the user's units; NaN
        where nothing was ever measured, and, for ``extrapolation``, where the air comes from outside. Lazy
        where the data are lazy: nothing is computed and no weights are read until the result is asked for.

    Raises
    ------
    ValueError
        If the field, its units, its times, the model or an argument will not do; the message says what would.

    Examples
    --------
    >>> import xnowcast
    >>> radar = xnowcast.datasets.synthetic_radar(frames=6, shape=(32, 32), seed=1)
    >>> fc = forecast(radar, "extrapolation", lead_time="20min")
    >>> dict(fc.sizes)
    {'init_time': 1, 'lead_time': 4, 'y': 32, 'x': 32}
    """
    from xnowcast import engine  # torch comes with it; who only opens files need not wait for that

    field = cf.find_field(obj, variable, zr=zr)
    recipe, task = _plan_model(model, weights, options)
    axis = windows.time_axis(field.array, field.time)
    count = windows.lead_steps(axis.step, lead_time=lead_time, steps=steps)
    _check(field, task, recipe, count)
    _check_contract(field, task, recipe, axis.step, on_mismatch)
    numbers = _member_numbers(task, recipe, members)
    _check_counts(seed=seed, batch_size=batch_size)
    engine.choose_device(device)
    chosen = windows.input_windows(axis, task.input_frames, init_times, on_gap=on_gap)
    _check_values(field, chosen)

    lazy = field.array.chunks is not None
    data, chosen = _frames(field, chosen)
    plan = engine.ForecastPlan(task, count, seed, device, field.conversion)
    values = engine.forecast_array(
        data,
        recipe,
        plan,
        windows=chosen,
        members=numbers,
        extra_labels=[_labels(field.array, d) for d in field.extra],
        batch_size=batch_size,
    )
    result = cf.label_forecast(
        _user_orientation(values, field),
        field,
        obj,
        init_times=chosen.init_times,
        lead_times=np.arange(1, count + 1) * axis.step,
        members=numbers,
        attrs=_provenance(recipe, options, seed if task.stochastic else None, chosen),
        history=f"xnowcast forecast with {_model_name(recipe)}",
    )
    if lazy:
        return result
    with engine.progress_bar(progress):
        return result.compute()


def _plan_model(
    model: "str | ForecastModel", weights: str | None, options: dict[str, Any]
) -> "tuple[ModelRecipe | ForecastModel, Task]":
    """The recipe (or the model in memory) and its task, without building a network."""
    from xnowcast import models
    from xnowcast.engine import ModelRecipe
    from xnowcast.weights import looks_like_weights, read_card, with_options

    if not isinstance(model, str):
        if not (hasattr(model, "task") and hasattr(model, "forecast")):
            raise ValueError(
                f"model is a {type(model).__name__}; give a name, a weights file or a model with .forecast()"
            )
        if weights is not None or options:
            raise ValueError("a model in memory is complete: weights= and the model's options go with a name")
        return model, model.task
    path = weights if weights is not None else (model if looks_like_weights(model) else None)
    if path is None:
        _refuse_misspelt(options, models.find(model))
        task = models.declare(model, **options)
        if task.trained:
            raise ValueError(f"{model!r} needs weights: give the path of a file with weights=")
        return ModelRecipe(model, _hashable(options)), task
    card = read_card(path)
    if weights is not None and card.system != model:
        raise ValueError(f"{path} holds weights of {card.system!r}, not of {model!r}")
    _refuse_misspelt(options, models.find(card.system))
    card = with_options(card, options)
    return ModelRecipe(card.system, _hashable(options), str(path), card.sha256), card.task


def _refuse_misspelt(options: dict[str, Any], model_class: Any) -> None:
    """An option that the model lacks may be one of `forecast`'s own arguments, misspelt."""
    own, arguments = signature(model_class.declare).parameters, signature(forecast).parameters
    for option in options:
        near = get_close_matches(option, arguments, n=1, cutoff=0.8)
        if option not in own and near:
            raise ValueError(f"there is no argument {option!r}; did you mean {near[0]!r}?")


def _hashable(options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Options as a recipe holds them: workers look their models up by recipe, and a list is no key."""
    return tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in sorted(options.items()))


def _check(field: Field, task: "Task", recipe: Any, steps: int) -> None:
    """Everything that can be refused before any work."""
    name = _model_name(recipe)
    if task.verb != "forecast":
        raise ValueError(f"{name!r} does not forecast, it is for ds.nowcast.{task.verb}")
    if task.quantity is not None and task.quantity != field.quantity:
        raise ValueError(f"{name!r} reads {task.quantity}, and variable {field.name!r} is {field.quantity}")
    taken = {"init_time", "lead_time", *(["member"] if task.stochastic else [])} & set(field.extra)
    if taken:
        raise ValueError(
            f"variable {field.name!r} already has a dim {', '.join(map(repr, sorted(taken)))}, which the forecast "
            "adds: choose one of its labels with .isel, or rename it"
        )
    size = field.array.sizes[field.y], field.array.sizes[field.x]
    if min(size) < task.min_grid:
        raise ValueError(
            f"the grid has {size[0]} x {size[1]} cells; {name!r} needs at least {task.min_grid} x {task.min_grid}"
        )
    if task.max_steps is not None and steps > task.max_steps:
        raise ValueError(f"{name!r} forecasts up to {task.max_steps} steps; {steps} were asked for")


def _check_contract(field: Field, task: "Task", recipe: Any, step: np.timedelta64, on_mismatch: OnMismatch) -> None:
    """Time and space as the model learnt them: it would run on others, and be wrong without a sign."""
    if on_mismatch not in ("raise", "warn"):
        raise ValueError(f"on_mismatch is {on_mismatch!r}; it can be 'raise' or 'warn'")
    mismatches = [*_step_mismatch(field, task, step), *_spacing_mismatch(field, task)]
    if not mismatches:
        return
    message = f"{_model_name(recipe)!r} {'; it '.join(mismatches)}"
    if on_mismatch == "raise":
        raise ValueError(f"{message}. To run it all the same, pass on_mismatch='warn'")
    warnings.warn(message, stacklevel=3)


def _step_mismatch(field: Field, task: "Task", step: np.timedelta64) -> Iterator[str]:
    if task.step is None or np.timedelta64(task.step) == step:
        return
    minutes, wanted = (np.timedelta64(s) / np.timedelta64(1, "m") for s in (step, task.step))
    what = f"was made for a step of {wanted:g} min, and the data have {minutes:g} min"
    ratio = wanted / minutes
    if ratio == round(ratio):
        yield f"{what}: thin them with ds.isel({field.time}=slice(None, None, {ratio:g}))"
    else:
        yield f"{what}: bring the frames to its step first"


def _spacing_mismatch(field: Field, task: "Task") -> Iterator[str]:
    """Where the data do not tell their spacing there is nothing to compare."""
    spacing = cf.grid_spacing(field.array, field.y, field.x) if task.spacing is not None else None
    if task.spacing is None or spacing is None:
        return
    wanted = task.spacing / 1000
    if max(abs(km / wanted - 1) for km in spacing) > _SPACING_TOLERANCE:
        found = " x ".join(f"{km:.3g}" for km in spacing)
        yield f"was made for a grid of {wanted:.3g} km, and the data have {found} km: regrid them first"


def _check_values(field: Field, chosen: windows.Windows) -> None:
    """Refuse impossible values before a model runs for hours on the frames before them; lazy data fail when read.

    Frame by frame, so that a file that was opened without Dask is never in memory whole.
    """
    if field.array.chunks is not None:
        return
    used = np.unique([chosen.before, chosen.after])
    measured = [np.isfinite(field.conversion(field.array.isel({field.time: i}).values)).any() for i in used]
    if not any(measured):
        raise ValueError(
            f"variable {field.name!r} is NaN in every frame that the forecasts read: nothing was measured there, so "
            "there is nothing to continue"
        )


def _member_numbers(task: "Task", recipe: Any, members: int | None) -> range | None:
    if members is not None and (isinstance(members, bool) or not isinstance(members, int | np.integer) or members < 1):
        raise ValueError(f"members is {members!r}; it must be a whole number of 1 or more")
    if task.stochastic:
        return range(10 if members is None else int(members))
    if members is not None and members > 1:
        raise ValueError(
            f"{_model_name(recipe)!r} is deterministic: all of the {members} members would be the same; "
            "leave members out"
        )
    return None


def _check_counts(*, seed: int, batch_size: int | None) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed is {seed!r}; it must be a whole number of 0 or more")
    is_count = isinstance(batch_size, int | np.integer) and not isinstance(batch_size, bool)
    if batch_size is not None and (not is_count or batch_size < 1):
        raise ValueError(f"batch_size is {batch_size!r}; it must be a whole number of 1 or more")


def _frames(field: Field, chosen: windows.Windows) -> tuple[Any, windows.Windows]:
    """The frames that are needed, as a dask array with the first row in the north, and the windows counted in them."""
    first, last = chosen.before.min(), chosen.after.max()
    array = field.array.isel({field.time: slice(first, last + 1)})
    array = cf.north_up(array, field.y, field.x).transpose(*field.extra, field.time, field.y, field.x)
    if array.chunks is None:
        array = array.chunk({field.time: 24})
    return array.data, replace(chosen, before=chosen.before - first, after=chosen.after - first)


def _user_orientation(values: Any, field: Field) -> Any:
    south_first, east_first = cf.orientation(field.array, field.y, field.x)
    return values[..., :: -1 if south_first else 1, :: -1 if east_first else 1]


def _labels(array: xr.DataArray, dim: Hashable) -> list[Any]:
    return array[dim].values.tolist() if dim in array.coords else list(range(array.sizes[dim]))


def _model_name(model: Any) -> str:
    """What a recipe or a model in memory is called; one that was trained or loaded has a card."""
    card = getattr(model, "card", None)
    return card.system if card is not None else getattr(model, "name", type(model).__name__)


def _provenance(recipe: Any, options: dict[str, Any], seed: int | None, chosen: windows.Windows) -> dict[str, Any]:
    """What made the forecast, as attributes."""
    from xnowcast import __version__

    attrs: dict[str, Any] = {
        "nowcast_model": _model_name(recipe),
        "nowcast_package": f"xnowcast {__version__}",
    }
    if options:
        attrs["nowcast_options"] = ", ".join(f"{k}={v!r}" for k, v in sorted(options.items()))
    if seed is not None:
        attrs["nowcast_seed"] = seed
    sha256 = getattr(getattr(recipe, "card", recipe), "sha256", None)
    if sha256:
        attrs["nowcast_weights_sha256"] = sha256
    if chosen.skipped.size:
        attrs["nowcast_skipped_init_times"] = ", ".join(np.datetime_as_string(chosen.skipped, unit="s"))
    return attrs
