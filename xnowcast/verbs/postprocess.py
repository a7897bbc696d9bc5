"""The verbs `postprocess` and `explain`, on one page: NWP fields -> channels -> engine -> CF dataset."""

from collections.abc import Hashable, Mapping
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from xnowcast import check
from xnowcast.fields import horizontal, labels, lead_times, units
from xnowcast.fields import regrid as remapping
from xnowcast.fields.cf import Field
from xnowcast.fields.channels import find_channels
from xnowcast.fields.pairing import OBSERVED_RAIN, refuse_accumulated
from xnowcast.verbs.request import OnMismatch, Request, documented

if TYPE_CHECKING:
    from xnowcast.models.base import PostprocessModel, Task

Decision = Literal["argmax", "inverse"]

_FLAG_ENCODING = {"dtype": "int8", "_FillValue": np.int8(-1)}

PAPER_CLASSES: dict[tuple[float, ...], tuple[str, ...]] = {(0.1, 10.0): ("no_rain", "rain", "heavy_rain")}
"""Names of the classes between some thresholds; others are named by their thresholds."""


@documented
def postprocess(
    obj: xr.Dataset | xr.DataArray,
    model: "str | PostprocessModel | None" = None,
    *,
    channels: Mapping[str, Hashable] | None = None,
    grid: xr.Dataset | xr.DataArray | None = None,
    regrid: remapping.Method = "bilinear",
    decision: Decision = "argmax",
    on_mismatch: OnMismatch = "raise",
    weights: str | Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    progress: bool | None = None,
    **options: Any,
) -> xr.Dataset:
    """Correct the rain of a numerical weather forecast, as probabilities of rain classes and as a rain rate.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray
        The forecast: the model's channels with y and x axes and any other dims (init time, lead time, member ...). Each
        field is corrected by itself, or with the lead times beside it where the model reads several (its
        ``task.lead_offsets``).
    model : str or PostprocessModel, optional
        Name of a system, path of a weights file, or a model in memory. ``"nwp-raw"`` needs no weights: it sorts the
        forecast's own rain into classes, and is the default. The weights of ``"nwp-mae"`` and ``"nwp-metnet"`` that
        ship learnt from synthetic forecasts.
    channels : mapping, optional
        Variables of those channels that standard names and levels do not tell:
        ``{"air_temperature at 850 hPa": "T850"}``.
    grid : xarray.Dataset or xarray.DataArray, optional
        Data whose grid is wanted, such as the observations: the channels are remapped to it first.
    regrid : {"bilinear", "conservative"}
        How they are remapped to ``grid``.
    decision : {"argmax", "inverse"}
        Which class is forecast: the most probable one, or that of the mean rain rate.
    <running>
    **options
        The model's own options.

    Returns
    -------
    xarray.Dataset
        ``rainfall_rate`` in mm h-1, which the probabilities mean, up to the highest threshold: of ``"nwp-raw"``, whose
        classes are certain, it is the least of the class and not the forecast's own rain (with ``soft=True`` it is
        that, up to the highest threshold). ``rain_category`` (a CF flag), ``probability`` with a dim ``category`` and
        ``exceedance_probability`` with a dim ``threshold``, both before y and x. NaN where no channel has a value. Of a
        model that reads several lead times those for which one is missing, such as the first, are left out. Lazy where
        the data are lazy.

    Raises
    ------
    ValueError
        If channels are missing (all are named), their units, dims or grids will not do, an argument is wrong, or there
        is no lead time for which all is there that the model reads.

    Notes
    -----
    Trained on continuous labels, the most probable class is "heavy" from about 5 mm h-1 on, half way between the
    thresholds 0.1 and 10: more hits and more false alarms (An et al. 2023, section 2.2). ``decision="inverse"`` turns
    the mean class back into a rain rate, which reaches the highest threshold only where its class is certain.

    Examples
    --------
    >>> rain = xr.DataArray(np.full((8, 8), 12.0), dims=("y", "x"), name="rain",
    ...     attrs={"standard_name": "rainfall_rate", "units": "mm h-1"})
    >>> corrected = postprocess(rain.to_dataset(), "nwp-raw")
    >>> corrected.probability.dims, float(corrected.rain_category[0, 0]), float(corrected.rainfall_rate[0, 0])
    (('category', 'y', 'x'), 2.0, 10.0)
    """
    request = Request.of(postprocess, arguments := locals())
    from xnowcast.engine.fields import FieldPlan, postprocess_array

    _refuse_variable(request)
    thresholds = _thresholds(request.recipe)
    dataset, field, values, left_out = _inputs(request, arguments)
    plan = FieldPlan(thresholds, request.task.grid_multiple, device, decision, corrected=_corrected(request.task))
    parts = labels.user_orientation(postprocess_array(values, request.recipe, plan, batch_size=batch_size), field)
    result = labels.label_frames(
        parts[..., -2, :, :],
        field,
        dataset,
        members=None,
        before=None,
        attrs=request.provenance() | {"nowcast_decision": decision},
        history=f"xnowcast postprocess with {request.name}{_remapped_words(grid, regrid)}{left_out}",
        done="post-processed",
    )
    result = _with_classes(result, parts, field, thresholds, decision)
    return request.given_back(result, lazy=_is_lazy(obj))


def explain(
    obj: xr.Dataset | xr.DataArray,
    model: "str | PostprocessModel | None" = None,
    *,
    category: int | str,
    channels: Mapping[str, Hashable] | None = None,
    grid: xr.Dataset | xr.DataArray | None = None,
    regrid: remapping.Method = "bilinear",
    on_mismatch: OnMismatch = "raise",
    weights: str | Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    progress: bool | None = None,
    **options: Any,
) -> xr.Dataset:
    """Where a post-processor looks for a class of rain: Grad-CAM over the last map of its encoder.

    Parameters
    ----------
    obj, model, channels, grid, regrid, on_mismatch, weights, device, batch_size, progress, **options
        As in `postprocess`.
    category : int or str
        The class, by number or by name (``"heavy_rain"``).

    Returns
    -------
    xarray.Dataset
        ``class_activation`` on the grid of the forecast, from 0 to 1 within each field; NaN where no channel has a
        value. Lazy where the data are lazy.

    Raises
    ------
    ValueError
        As `postprocess`; and if there is no such class, or the model cannot tell.

    References
    ----------
    Selvaraju et al. (2017), doi:10.1109/ICCV.2017.74
    """
    check.call(explain, arguments := locals())
    from xnowcast.engine.fields import FieldPlan, postprocess_array
    from xnowcast.models import shipped

    if model is None and weights is None:
        arguments["model"] = shipped.default("explain")
    request = Request.of(postprocess, arguments)
    _refuse_variable(request)
    thresholds = _thresholds(request.recipe)
    number = _category_number(category, thresholds)
    _check_explains(request)
    dataset, field, values, left_out = _inputs(request, arguments)
    plan = FieldPlan(
        thresholds, request.task.grid_multiple, device, category=number, corrected=_corrected(request.task)
    )
    parts = labels.user_orientation(postprocess_array(values, request.recipe, plan, batch_size=batch_size), field)
    name = class_names(thresholds)[number]
    attrs = {"long_name": f"class activation of {name} (Grad-CAM)", "units": "1"}
    grid_mapping = {k: v for k, v in field.array.attrs.items() if k == "grid_mapping"}
    labelled = Field(field.array.rename("class_activation"), field.y, field.x, None, "rain_rate", field.conversion)
    labelled.array.attrs = attrs | grid_mapping
    result = labels.label_frames(
        parts[..., 0, :, :],
        labelled,
        dataset,
        members=None,
        before=None,
        attrs=request.provenance() | {"nowcast_category": name},
        history=f"xnowcast explain {name} by {request.name}{_remapped_words(grid, regrid)}{left_out}",
        done="explained",
    )
    return request.given_back(result, lazy=_is_lazy(obj))


def class_names(thresholds: tuple[float, ...]) -> tuple[str, ...]:
    """Names of the rain classes between thresholds, as a CF flag has them.

    ``thresholds``: mm h-1, rising. Returned: one more than there are thresholds.

    >>> class_names((0.1, 10.0)), class_names((0.1, 1.0, 10.0))[1:3]
    (('no_rain', 'rain', 'heavy_rain'), ('from_0.1_to_1_mm_h-1', 'from_1_to_10_mm_h-1'))
    """
    if named := PAPER_CLASSES.get(tuple(map(float, thresholds))):
        return named
    between = [f"from_{low:g}_to_{high:g}_mm_h-1" for low, high in pairwise(thresholds)]
    return (f"under_{thresholds[0]:g}_mm_h-1", *between, f"from_{thresholds[-1]:g}_mm_h-1")


# ---------------------------------------------------------------- the model


def _refuse_variable(request: Request) -> None:
    """Other verbs read one field, which ``variable`` names; here each channel has a name of its own."""
    if "variable" not in request.options:
        return
    others = {name: value for name, value in request.options.items() if name != "variable"}
    channels = replace(request, options=others).task.channels
    rain = "rainfall_rate" if "rainfall_rate" in channels else channels[0]
    raise ValueError(
        "there is no argument 'variable': a post-processor reads channels, found by standard name and level; where the "
        f"attributes do not tell them, channels={{{rain!r}: {request.options['variable']!r}}} does"
    )


def _thresholds(recipe: Any) -> tuple[float, ...]:
    """The model's thresholds: its own, or those of its options, its weights or its system."""
    from xnowcast import models
    from xnowcast.engine import ModelRecipe
    from xnowcast.models import weights
    from xnowcast.nn.labels import check_thresholds

    declared = getattr(recipe, "thresholds", None)
    if isinstance(recipe, ModelRecipe):
        trained = weights.card(recipe.weights).options if recipe.weights is not None else {}
        declared = {**models.options(recipe.name), **trained, **dict(recipe.options)}.get("thresholds")
    return check_thresholds(declared or ())


def _category_number(category: int | str, thresholds: tuple[float, ...]) -> int:
    names = class_names(thresholds)
    if isinstance(category, str) and category in names:
        return names.index(category)
    if check.is_whole(category, 0, len(names) - 1):
        return int(category)
    listed = ", ".join(f"{i} {name!r}" for i, name in enumerate(names))
    raise ValueError(f"category is {category!r}; there are {listed}")


def _check_explains(request: Request) -> None:
    from xnowcast import models
    from xnowcast.engine import ModelRecipe

    recipe = request.recipe
    kind = models.find(recipe.name) if isinstance(recipe, ModelRecipe) else recipe
    if not hasattr(kind, "explain"):
        raise ValueError(f"{request.name!r} has no network whose attention could be shown")


# ---------------------------------------------------------------- what goes in


def _corrected(task: "Task") -> int | None:
    """Which of the lead times that a model reads it corrects; None where it reads one."""
    return task.lead_offsets.index(0) if task.reads_lead_times else None


def _inputs(request: Request, arguments: Mapping[str, Any]) -> tuple[xr.Dataset, Field, Any, str]:
    """The dataset, the field that names its axes, what the model reads as a dask array, north up, and what it does not.

    The array is ``(*leading, channel, y, x)``; ``(*leading, t, channel, y, x)`` for a model of several lead times. Then
    all three have the lead times for which these are there, and the words tell the others for the history.
    """
    obj, task = request.obj, request.task
    mapping, grid, regrid = (arguments[name] for name in ("channels", "grid", "regrid"))
    if not isinstance(obj, xr.Dataset | xr.DataArray):
        raise TypeError(f"expected an xarray Dataset or DataArray, found {type(obj).__name__}")
    dataset = horizontal.without_time(
        obj if isinstance(obj, xr.Dataset) else obj.to_dataset(name=obj.name or "rainfall_rate")
    )
    refuse_accumulated(dataset, task.channels, mapping)
    found = find_channels(dataset, task.channels, mapping, exclude=(OBSERVED_RAIN,))
    remapping.refuse_staggered(found)
    fields = xr.Dataset({f"channel {i}": array for i, array in enumerate(_together(found, task.channels))})
    fields = _with_projection(fields, dataset)
    if grid is not None:
        fields = remapping.regrid(fields, grid, regrid)
        dataset = fields.assign_attrs(dataset.attrs)
    arrays = [fields[f"channel {i}"] for i in range(len(found))]
    y, x = horizontal.horizontal_dims(arrays[0])
    field = _output_field(arrays[0], y, x)
    together = None
    if task.reads_lead_times:
        step = task.step if isinstance(task.step, timedelta) else None
        together = lead_times.lead_windows(field.array, field.extra, task.lead_offsets, made_for=step)
        request.check_field(replace(field, time=together.dim), step=together.step)
    else:
        request.check_field(field)
    rows = [horizontal.north_up(a, y, x).transpose(*field.extra, y, x) for a in arrays]
    lazy = [a if a.chunks is not None else a.chunk(dict.fromkeys(field.extra, 1)) for a in rows]
    stacked = xr.Variable.concat([a.variable for a in lazy], "channel")
    values = stacked.transpose(*field.extra, "channel", y, x).data
    if together is None:
        return dataset, field, values, ""
    from xnowcast.engine.fields import read_together

    values = read_together(values, list(field.extra).index(together.dim), together.positions)
    corrected = {together.dim: together.corrected}
    field = replace(field, array=field.array.isel(corrected))
    without = f", without {together.left_out}, beside which fields are missing" if together.left_out else ""
    return dataset.isel(corrected, missing_dims="ignore"), field, values, without


def _together(found: tuple[xr.DataArray, ...], names: tuple[str, ...]) -> tuple[xr.DataArray, ...]:
    """The channels with the dims of all; coordinates along them have to be the same."""
    first = max(found, key=lambda array: array.ndim)
    for name, array in zip(names, found, strict=True):
        if not {*first.dims[-2:]} <= {*array.dims} <= {*first.dims}:
            raise ValueError(f"channel {name!r} has dims {array.dims}, and {first.name!r} has {first.dims}")
        for dim in array.dims:
            if dim in first.dims and array.sizes[dim] != first.sizes[dim]:
                raise ValueError(
                    f"channel {name!r} has {array.sizes[dim]} along {dim!r}, and {first.name!r} has "
                    f"{first.sizes[dim]}: select the ones that all channels have"
                )
    try:
        aligned = xr.align(*found, join="exact", copy=False)
    except ValueError as error:
        raise ValueError(f"the channels do not lie on the same coordinates: {error}") from None
    return xr.broadcast(*aligned)


def _with_projection(fields: xr.Dataset, dataset: xr.Dataset) -> xr.Dataset:
    """The channels with the grid mapping that the dataset's fields have in common, in attributes or encoding."""
    mappings = {v.attrs.get("grid_mapping", v.encoding.get("grid_mapping")) for v in dataset.data_vars.values()} - {
        None
    }
    if len(mappings) != 1 or (name := str(*mappings)) not in dataset.variables:
        return fields
    projected = {n: array.assign_attrs(grid_mapping=name) for n, array in fields.data_vars.items()}
    return fields.assign(projected | {name: dataset[name].variable})


def _output_field(array: xr.DataArray, y: Hashable, x: Hashable) -> Field:
    """The rain rate that comes out, as the field that tells dims, coordinates and grid."""
    attrs = {"standard_name": "rainfall_rate", "long_name": "rain rate of the class probabilities", "units": "mm h-1"}
    mapping = {k: v for k, v in {**array.encoding, **array.attrs}.items() if k == "grid_mapping"}
    rain = array.rename("rainfall_rate").transpose(..., y, x)
    rain.attrs = attrs | mapping
    return Field(rain, y, x, None, "rain_rate", units.Linear(1.0))


def _is_lazy(obj: xr.Dataset | xr.DataArray) -> bool:
    dataset = obj if isinstance(obj, xr.Dataset) else obj.to_dataset(name="field")
    return any(v.chunks is not None for v in dataset.variables.values())


def _remapped_words(grid: Any, regrid: str) -> str:
    return "" if grid is None else f", on another grid ({regrid})"


# ---------------------------------------------------------------- what comes out


def _with_classes(
    result: xr.Dataset, parts: Any, field: Field, thresholds: tuple[float, ...], decision: Decision
) -> xr.Dataset:
    """Probabilities, the class that is forecast, and probabilities of reaching the thresholds."""
    y, x = field.y, field.x
    classes = len(thresholds) + 1
    probability = xr.Variable([*field.leading, "category", y, x], parts[..., :classes, :, :])
    above = xr.Variable([*field.leading, "threshold", y, x], parts[..., classes:-2, :, :])
    category = xr.Variable([*field.leading, y, x], parts[..., -1, :, :], encoding=_FLAG_ENCODING)
    names = class_names(thresholds)
    numbers = np.arange(len(names), dtype="int8")
    flags = {"flag_values": numbers, "flag_meanings": " ".join(names)}
    on_grid = {k: v for k, v in result["rainfall_rate"].attrs.items() if k == "grid_mapping"}
    category.attrs = {"long_name": f"rain class ({decision})", **flags, **on_grid}
    probability.attrs = {"long_name": "probability of the rain class", "units": "1", **on_grid}
    above.attrs = {"long_name": "probability of reaching the threshold", "units": "1", **on_grid}
    bounds = {"long_name": "least rain rate of the class", "units": "mm h-1"}
    result["rainfall_rate"].attrs["comment"] = (
        "the rain rate that the probabilities of the classes mean, and not the forecast's own rain: the least of a "
        f"class where that is certain, so at most {thresholds[-1]:g} mm h-1"
    )
    return result.assign(rain_category=category, probability=probability, exceedance_probability=above).assign_coords(
        category=("category", numbers, {"long_name": "rain class", **flags}),
        threshold=("threshold", np.asarray(thresholds), bounds, {"_FillValue": None}),
    )
