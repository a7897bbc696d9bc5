"""The verb `downscale`, on one page: coarse field -> sequences -> engine -> CF dataset on the fine grid."""

from collections.abc import Hashable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xnowcast import check
from xnowcast.fields import cf, channels, grids, horizontal, labels
from xnowcast.fields.attributes import decoded
from xnowcast.fields.cf import Field
from xnowcast.fields.horizontal import T_Xarray
from xnowcast.fields.units import Relation
from xnowcast.verbs.request import OnMismatch, Request, documented, model_name, suits_grid

if TYPE_CHECKING:
    from xnowcast.engine.refining import FineGrid
    from xnowcast.models.base import DownscaleModel, Task


LARGEST_FACTOR = 100
"""Fine cells along a coarse one: 1 km of a global model. Areas of the fine cells are in memory while it is planned."""

_FINE_GRID = ": bring it to the grid of ds.nowcast.downscale('nearest', factor=...)"


@documented
def downscale(
    obj: T_Xarray,
    model: "str | DownscaleModel | None" = None,
    *,
    factor: int = 8,
    members: int | None = None,
    seed: int = 0,
    static: xr.Dataset | xr.DataArray | None = None,
    conserve: bool | None = None,
    variable: Hashable | None = None,
    zr: Relation | None = None,
    on_mismatch: OnMismatch = "raise",
    weights: str | Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    progress: bool | None = None,
    **options: Any,
) -> T_Xarray:
    """Refine a coarse precipitation field in space.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray
        A precipitation field with y and x axes and any other dims. Frames along the lead time, else along the time,
        are one sequence, which models that look at several frames refine together.
    model : str or DownscaleModel, optional
        Name of a system, path of a weights file, or a model in memory; ``"stvd"`` by default. ``"bicubic"``,
        ``"bilinear"`` and ``"nearest"`` need no weights.
    factor : int
        How many fine cells along y and along x make a coarse one. Weights are for one factor each; those of ``"stvd"``
        that ship make 1 km of 4 km (``factor=4``) and of 8 km (``factor=8``).
    members : int, optional
        Members of an ensemble, for stochastic models; 10 by default. 1 gives one fine field, 0 the model's
        deterministic part. Many fine fields suit a coarse one, and the spread of a few says little.
    seed : int
        A whole number. The noise of a frame comes from the seed, the member's number and the frame's time or lead time
        alone.
    static : xarray.Dataset or xarray.DataArray, optional
        Fields on the fine grid, such as the topography, for models that read them; in any units, or in canonical ones
        (see `xnowcast.channels`) where they have none.
    conserve : bool, optional
        Make the area mean of every member over each coarse cell the coarse value (`xnowcast.engine.refining.conserved`
        does it). By default True for models that are trained, which are better for it,
        and False for interpolation, which is what its name says. False is the plain sampling of STVD's paper, whose
        members have too much rain or too little; take it where the coarse rain itself is not to be trusted.
    <running>
    **options
        The model's own options.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        Whichever was given, in the same units, on the fine grid: the corners of a coarse cell are corners of fine
        ones. NaN where the coarse field is. Stochastic models add a dim ``member`` before the lead time or time.
        Lazy where the data are lazy.

    Raises
    ------
    ValueError
        If the field, its units, the factor, the model or an argument will not do; the message says what would.

    Examples
    --------
    >>> import xnowcast
    >>> radar = xnowcast.datasets.synthetic_radar(frames=2, shape=(32, 32), seed=1)
    >>> coarse = radar.nowcast.coarsen(4, min_coverage=0.1)
    >>> fine = downscale(coarse, "bicubic", factor=4, conserve=True)
    >>> fine.rainfall_rate.shape, bool((fine.x == radar.x).all())
    ((2, 32, 32), True)
    """
    check.call(downscale, arguments := locals())
    from xnowcast.engine import refining

    check.whole("factor", factor, 2, LARGEST_FACTOR)
    if conserve is not None:
        check.flag("conserve", conserve)
    field = cf.find_field(obj, variable, zr=zr)
    if weights is None:
        arguments["model"] = model = _with_weights_for(factor, model, field)
    if alone := members == 0:
        arguments |= {"members": None, "options": options | _deterministic(weights or model)}
    request = Request.of(downscale, arguments)
    recipe = request.recipe
    task = replace(request.task, stochastic=request.task.stochastic and not alone)
    conserve = task.trained if conserve is None else bool(conserve)
    if task.factor not in (None, factor):
        raise ValueError(
            f"{request.name!r} was made for a factor of {task.factor}, not of {factor}: pass factor={task.factor}"
        )
    horizontal.refuse_uneven(field.array, field.y, field.x)
    roles = cf.forecast_dims(field)
    along = _sequence_dim(field, roles)
    _check_frames(field, task, request.name, along)
    step = _step(field, task, request.name, along)
    another_grid = _other_factor(recipe, field)
    request.check_field(field, _on_coarse_grid(task, factor), step=step, another_grid=another_grid)
    numbers = request.member_numbers(task)
    member_dim = "member" if "member" in field.array.dims else roles.get("member")
    if numbers is not None and member_dim in field.array.dims:
        raise ValueError(
            f"variable {field.name!r} has a dim {member_dim!r} already: choose one of its members, or rename it"
        )

    extra: list[Hashable] = [d for d in field.leading if d != along]
    sequence: list[Hashable] = [] if along is None else [along]
    new: list[Hashable] = [] if numbers is None else ["member"]
    dataset = horizontal.without_time(obj) if isinstance(obj, xr.Dataset) else None
    fine = grids.fine_grid(field.array, field.y, field.x, factor, dataset)
    values = refining.refine_array(
        _channels(obj, field, task, extra, sequence),
        recipe,
        refining.RefinePlan(task, int(factor), seed, device, field.conversion, conserve),
        fine_grid=_given_on_fine_grid(static, task, request.name, field, fine, int(factor)),
        times=_frame_numbers(field, along),
        members=numbers,
        extra_labels=[labels.labels_of(field.array, d) for d in extra],
        batch_size=batch_size,
    )
    result = labels.label_frames(
        labels.user_orientation(values if along is not None else values[..., 0, :, :], field),
        field,
        obj,
        leading=(*extra, *new, *sequence),
        members=numbers,
        before=along,
        attrs=request.provenance(task),
        history=f"xnowcast downscale with {request.name}, factor {factor}{', conserving' * conserve}",
        done="refined",
        grid=fine,
    )
    return request.given_back(result, lazy=field.array.chunks is not None)


def _deterministic(model: Any) -> dict[str, bool]:
    """The option that leaves out a system's members, where it has some."""
    from xnowcast import models
    from xnowcast.models import weights

    if hasattr(model, "task"):
        return {}
    return {"stochastic": False} if "stochastic" in models.options(weights.card(model).system) else {}


def _with_weights_for(factor: int, model: Any, field: Field) -> Any:
    """The name of the weights that ship for the factor, where some ship for the model; else the model as it is."""
    from xnowcast.models import shipped

    system = shipped.default("downscale") if model is None else model
    by_factor = _shipped(system)
    if by_factor and factor not in by_factor:
        suited = _suited(system, field)
        hint = "" if suited is None else f"pass factor={suited}, which suits the grid of the data, or "
        raise ValueError(
            f"weights of {system!r} ship for a factor of {_listed(by_factor)}, not of {factor}: {hint}give weights= of "
            f"your own, from xnowcast.train({system!r}, ..., factor={factor}), or a model without weights such as "
            "'bicubic'"
        )
    return by_factor.get(factor, system)


def _shipped(system: Any) -> dict[int | None, str]:
    """Names of the weights of a system that ship, by their factors."""
    from xnowcast.models import shipped

    ships = shipped.of_system(system) if isinstance(system, str) else {}
    return {card.task.factor: name for name, card in ships.items()}


def _listed(factors: Iterable[int | None]) -> str:
    return " and ".join(map(str, sorted(factor for factor in factors if factor is not None)))


def _suited(system: str, field: Field) -> int | None:
    """The factor of those weights that ship for data of this grid spacing."""
    from xnowcast.models import shipped

    tasks = [card.task for card in shipped.of_system(system).values()]
    suited = (task.factor for task in tasks if suits_grid(field, _on_coarse_grid(task, task.factor or 1)))
    return next(suited, None)


def _other_factor(recipe: Any, field: Field) -> str:
    """What to do where weights that ship do not suit the grid, and those for another factor do; else ""."""
    system = model_name(recipe)
    by_factor = _shipped(system)
    suited = _suited(system, field) if getattr(recipe, "weights", None) in by_factor.values() else None
    if suited is None:
        return ""
    return f"weights ship for a factor of {_listed(by_factor)}: pass factor={suited}, which suits these data"


def _on_coarse_grid(task: "Task", factor: int) -> "Task":
    """Weights know the spacing of the data that they were trained on, which is that of the fine grid."""
    fine = task.bounds("spacing")
    return replace(task, spacing=fine and (fine[0] * factor, fine[1] * factor))


def _sequence_dim(field: Field, roles: dict[str, Hashable]) -> Hashable | None:
    lead = roles.get("lead_time")
    return lead if lead in field.array.dims else field.time


def _check_frames(field: Field, task: "Task", name: str, along: Hashable | None) -> None:
    found = field.array.sizes[along] if along is not None else 1
    if found < task.input_frames:
        where = f"along {along!r}" if along is not None else "in a single field"
        raise ValueError(f"{name!r} looks at {task.input_frames} frames at once; there are {found} {where}")


def _step(field: Field, task: "Task", name: str, along: Hashable | None) -> np.timedelta64 | None:
    """Time between the frames of a model that looks at several; None where it looks at one, or they have no times."""
    if task.input_frames == 1 or along not in field.array.coords or field.array[along].dtype.kind not in "mM":
        return None
    steps = np.diff(_frame_numbers(field, along)).astype("m8[ns]")
    if (steps <= np.timedelta64(0)).any():
        raise ValueError(
            f"{name!r} looks at {task.input_frames} frames at once, and along {along!r} some "
            f"are earlier than the one before, or at the same time: sort with ds.sortby({along!r}), and drop doubles"
        )
    if (steps != steps[0]).any():
        minutes = sorted(set((steps / np.timedelta64(1, "m")).tolist()))
        raise ValueError(
            f"{name!r} looks at {task.input_frames} frames at once, and along {along!r} steps "
            f"differ ({', '.join(f'{m:g}' for m in minutes[:4])} min): refine the parts between gaps one by one"
        )
    return steps[0]


def _channels(
    obj: xr.Dataset | xr.DataArray, field: Field, task: "Task", extra: list[Hashable], sequence: list[Hashable]
) -> Any:
    """``(*extra, time, channel, y, x)`` as a dask array, the precipitation first, north up."""
    leading = [*extra, *(sequence or ["frame"])]
    chunks = {**dict.fromkeys(extra, 1), **dict.fromkeys(sequence, 24)}
    variables = []
    for array in (field.array, *_further(obj, task, field)):
        rows = horizontal.north_up(array, field.y, field.x)
        rows = rows if sequence else rows.expand_dims("frame")
        rows = rows if rows.chunks is not None else rows.chunk(chunks)
        variables.append(rows.transpose(*leading, field.y, field.x).variable)
    return xr.Variable.concat(variables, "channel").transpose(*leading, "channel", field.y, field.x).data


def _further(obj: xr.Dataset | xr.DataArray, task: "Task", field: Field) -> tuple[xr.DataArray, ...]:
    """The further fields that a model reads, in canonical units, on the precipitation's dims."""
    if not task.channels:
        return ()
    dataset = obj if isinstance(obj, xr.Dataset) else field.array.to_dataset(name=field.name)
    try:
        found = channels.find_channels(dataset, task.channels, exclude=(field.array.name, field.name))
    except ValueError as error:
        wanted = ", ".join(map(repr, task.channels))
        needed = f"a field {wanted}" if len(task.channels) == 1 else f"fields {wanted}"
        raise ValueError(f"the model reads {needed} beside the precipitation: {error}") from None
    for name, array in zip(task.channels, found, strict=True):
        if set(array.dims) != set(field.array.dims):
            raise ValueError(f"field {name!r} has dims {array.dims}, and the precipitation {field.array.dims}")
    return found


def _frame_numbers(field: Field, along: Hashable | None) -> np.ndarray:
    """What tells the noise of each frame: its time or lead time in nanoseconds, else its position."""
    if along is None or along not in field.array.coords:
        return np.arange(1 if along is None else field.array.sizes[along])
    return labels.label_numbers(field.array[along])


def _given_on_fine_grid(
    static: xr.Dataset | xr.DataArray | None, task: "Task", name: str, field: Field, fine: xr.Dataset, factor: int
) -> "FineGrid":
    """Static fields and areas of cells, first row in the north."""
    from xnowcast.engine.refining import FineGrid

    sizes = {d: field.array.sizes[d] * factor for d in (field.y, field.x)}
    blank = xr.DataArray(np.broadcast_to(np.float32(0), tuple(sizes.values())), dims=list(sizes))
    blank = blank.assign_coords({n: c.variable for n, c in fine.coords.items() if {*c.dims} <= {*sizes}})
    areas = xr.zeros_like(blank, dtype="f4") + grids.cell_areas(blank, field.y, field.x).astype("f4")
    on_rows = horizontal.north_up(areas.transpose(*blank.dims), field.y, field.x).values
    if static is not None and not task.static:
        raise ValueError(f"{name!r} reads no static fields: leave static out")
    if static is None and task.static:
        raise ValueError(f"{name!r} reads {', '.join(task.static)} on the fine grid: give static=")
    fields = [_static_field(static, wanted, blank, field) for wanted in task.static]
    return FineGrid(np.stack(fields) if fields else None, on_rows)


def _static_field(static: Any, wanted: str, blank: xr.DataArray, field: Field) -> np.ndarray:
    """One field on the fine grid: a DataArray as it is, one of a Dataset by its standard name or its own.

    Without units it is taken for canonical.
    """
    array = static
    if not isinstance(static, xr.Dataset | xr.DataArray):
        raise ValueError(f"static is a {type(static).__name__}: give a Dataset or a DataArray on the fine grid")
    if isinstance(static, xr.Dataset):
        found = static.cf.standard_names.get(wanted, [wanted] if wanted in static else [])
        if not found:
            raise ValueError(f"static has no field {wanted!r}; it has {', '.join(map(str, static.data_vars))}")
        array = static[found[0]]
    array = decoded(array)
    if dict(array.sizes) != dict(blank.sizes):
        raise ValueError(
            f"static field {wanted!r} has {dict(array.sizes)} cells; the fine grid has {dict(blank.sizes)}{_FINE_GRID}"
        )
    array = array.transpose(*blank.dims)
    for dim in blank.dims:
        if dim in array.coords and dim in blank.coords:
            width = np.abs(np.diff(blank[dim].values)).min()
            if not np.allclose(array[dim].values, blank[dim].values, rtol=0, atol=0.01 * width):
                first, last = blank[dim].values[[0, -1]]
                raise ValueError(
                    f"static field {wanted!r} lies elsewhere along {dim!r}: it runs from {array[dim].values[0]:g} to "
                    f"{array[dim].values[-1]:g}, and the fine grid from {first:g} to {last:g}{_FINE_GRID}"
                )
    conversion = channels.canonical_units(array, wanted)[0] if "units" in array.attrs else channels.Affine()
    values = conversion(horizontal.north_up(array.assign_coords(blank.coords), field.y, field.x).values)
    if np.isnan(values).any():
        raise ValueError(f"static field {wanted!r} is NaN in {np.isnan(values).sum()} cells: fill them, such as with 0")
    return values
