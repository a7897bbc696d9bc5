"""What the verbs share: which model runs, whether the data are what it was made for, how the result names it."""

import logging
import time
import warnings
from collections.abc import Callable, Container, Hashable, Iterator, Mapping
from difflib import get_close_matches
from inspect import signature
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from xnowcast import check
from xnowcast.check import LARGEST_COUNT
from xnowcast.fields import cf
from xnowcast.fields.cf import Field, T_Xarray

if TYPE_CHECKING:
    from xnowcast.engine import ModelRecipe
    from xnowcast.models.base import Task

log = logging.getLogger("xnowcast")

OnMismatch = Literal["raise", "warn"]

SPACING_TOLERANCE = 0.15
"""Share by which the grid spacing may differ from that of the training; map scale alone varies by several percent."""


def plan_model(
    verb: Callable[..., Any], model: Any, weights: str | PathLike[str] | None, options: dict[str, Any]
) -> "tuple[ModelRecipe | Any, Task]":
    """The recipe (or the model in memory) and its task, without building a network.

    ``verb``: the function of the verb, such as `xnowcast.forecast`; a model in memory has a method of that name.
    ``model``: name of a system or of weights that ship, path of a weights file, or a model in memory. None is that of
    the weights, or else what the verb takes by default (`xnowcast.pretrained.default`). ``weights``: path of a weights
    file, or name of weights that ship, where ``model`` is a name. ``options``: the model's own options. ValueError if
    there is no such model or option, it needs weights, or it is for another verb.
    """
    recipe, task = _recipe(verb, model, weights, options)
    if task.verb != verb.__name__:
        name = model_name(recipe)
        raise ValueError(f"{name!r} does not {verb.__name__}, it is for ds.nowcast.{task.verb}")
    return recipe, task


def _recipe(
    verb: Callable[..., Any], model: Any, weights: str | PathLike[str] | None, options: dict[str, Any]
) -> "tuple[ModelRecipe | Any, Task]":
    from xnowcast import models
    from xnowcast.engine import ModelRecipe
    from xnowcast.models import shipped
    from xnowcast.models.registry import parameters
    from xnowcast.models.weights import looks_like_weights, read_card, weights_path, with_options

    if weights is not None:
        check.path("weights", weights)
    if model is None:
        model, weights = weights or shipped.default(verb.__name__), None
    source = weights_path(model) if weights is None else weights_path(weights)
    if not isinstance(model, str | PathLike):
        if not (hasattr(model, "task") and (hasattr(model, verb.__name__) or hasattr(model, model.task.verb))):
            raise ValueError(
                f"model is a {type(model).__name__}; give a name, a weights file or a model with .{verb.__name__}()"
            )
        if weights is not None or options:
            raise ValueError(
                "a model in memory is complete: weights= goes with a name, and its options with building it or with "
                f"xnowcast.load(path, {', '.join(options) or 'option'}=...)"
            )
        return model, model.task
    if weights is None and not looks_like_weights(source):
        _refuse_misspelt(verb, options, parameters(source, options))
        options = models.checked_options(source, options)
        task = models.declare(source, **options)
        if task.trained:
            raise ValueError(
                f"{source!r} needs weights: give the path of a file with weights=, from xnowcast.train({source!r}, ...)"
            )
        return ModelRecipe(source, _hashable(options)), task
    card = read_card(source)
    if weights is not None and model not in (card.system, card.options.get("network")):
        raise ValueError(f"{source} holds weights of {card.system!r}, not of {model!r}")
    _refuse_misspelt(verb, options, parameters(card.system, card.options))
    card = with_options(card, options)
    options = {name: card.options[name] for name in options}
    given = model if weights is None else weights
    kept = given if given in shipped.names() else source  # what ships is found by its name wherever a worker has it
    name = model if model in models.names() else card.system  # of what it wraps, where a layer is asked for by that
    return ModelRecipe(name, _hashable(options), kept, card.sha256), card.task


def _refuse_misspelt(verb: Callable[..., Any], options: dict[str, Any], own: Container[str]) -> None:
    """An option that the model lacks may be one of the verb's own arguments, misspelt."""
    arguments = signature(verb).parameters
    for option in options:
        near = get_close_matches(option, arguments, n=1, cutoff=0.8)
        if option not in own and near:
            raise ValueError(f"there is no argument {option!r}; did you mean {near[0]!r}?")


def _hashable(options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Options as a recipe holds them: workers look their models up by recipe, and a list is no key."""
    return tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in sorted(options.items()))


def check_field(field: Field, task: "Task", model: Any) -> None:
    """Refuse a field that the model cannot run on.

    ValueError if the quantity is another, or the grid is too small.
    """
    name = model_name(model)
    if task.quantity is not None and task.quantity != field.quantity:
        raise ValueError(f"{name!r} reads {task.quantity}, and variable {field.name!r} is {field.quantity}")
    size = field.array.sizes[field.y], field.array.sizes[field.x]
    if min(size) < task.min_grid:
        raise ValueError(
            f"the grid has {size[0]} x {size[1]} cells; {name!r} needs at least {task.min_grid} x {task.min_grid}"
        )


def check_contract(
    field: Field,
    task: "Task",
    model: Any,
    step: np.timedelta64 | None,
    on_mismatch: OnMismatch,
    another_grid: str = "",
) -> None:
    """Compare time step and grid spacing with the model's: on others it would run, and be wrong without a sign.

    ``step``: time between the frames; None where the verb takes them one by one. ``another_grid``: what to do about
    another grid spacing; to regrid the data where it is empty. ValueError with every mismatch explained.
    """
    if not isinstance(on_mismatch, str) or on_mismatch not in ("raise", "warn"):
        raise ValueError(f"on_mismatch is {on_mismatch!r}; it can be 'raise' or 'warn'")
    mismatches = [*_step_mismatch(field, task, step), *_spacing_mismatch(field, task, another_grid)]
    if not mismatches:
        return
    message = f"{model_name(model)!r} {'; it '.join(mismatches)}"
    if on_mismatch == "raise":
        raise ValueError(f"{message}. To run it all the same, pass on_mismatch='warn'")
    warnings.warn(message, stacklevel=4)


def _step_mismatch(field: Field, task: "Task", step: np.timedelta64 | None) -> Iterator[str]:
    bounds = task.bounds("step")
    if step is None or bounds is None:
        return
    shortest, longest = (np.timedelta64(s) / np.timedelta64(1, "m") for s in bounds)
    minutes = step / np.timedelta64(1, "m")
    if shortest <= minutes <= longest:
        return
    if shortest < longest:
        yield f"was made for steps of {shortest:g} to {longest:g} min, and the data have {minutes:g} min"
        return
    wanted = longest
    what = f"was made for a step of {wanted:g} min, and the data have {minutes:g} min"
    ratio = wanted / minutes
    if ratio > 1 and ratio == round(ratio):
        yield f"{what}: thin them with ds.isel({field.time}=slice(None, None, {ratio:g}))"
    elif ratio < 1 and 1 / ratio == round(1 / ratio):
        yield f"{what}: it takes a model that was trained with stride={1 / ratio:g}"
    else:
        yield f"{what}: bring the frames to its step first"


def _spacing_mismatch(field: Field, task: "Task", advice: str) -> Iterator[str]:
    """Where the data do not tell their spacing there is nothing to compare; a model knows the mean of y and x."""
    bounds = task.bounds("spacing")
    spacing = cf.grid_spacing(field.array, field.y, field.x) if bounds is not None else None
    if bounds is None or spacing is None or suits_grid(field, task):
        return
    least, greatest = (metres / 1000 for metres in bounds)
    found = " x ".join(f"{km:.3g}" for km in spacing)
    wanted = f"{least:.3g}" if least == greatest else f"{least:.3g} to {greatest:.3g}"
    regrid = "regrid them first, ds.nowcast.coarsen(n) makes a grid n times coarser, xnowcast.regrid.regrid any"
    yield f"was made for a grid of {wanted} km, and the data have {found} km: {advice or regrid}"


def suits_grid(field: Field, task: "Task") -> bool:
    """Whether the data tell their grid spacing and it is one that the model was made for.

    Returned: False where the task takes any spacing.
    """
    bounds = task.bounds("spacing")
    spacing = cf.grid_spacing(field.array, field.y, field.x) if bounds is not None else None
    if bounds is None or spacing is None:
        return False
    least, greatest = (metres / 1000 for metres in bounds)
    return bool(least * (1 - SPACING_TOLERANCE) <= sum(spacing) / 2 <= greatest * (1 + SPACING_TOLERANCE))


def check_counts(*, seed: int, batch_size: int | None, members: int | None) -> None:
    """Refuse a seed, a batch size or a number of members that is none."""
    if members is not None:
        check.whole("members", members, 1, LARGEST_COUNT)
    check.whole("seed", seed, 0, 2**63 - 1)
    if batch_size is not None:
        check.whole("batch_size", batch_size, 1)


def member_numbers(task: "Task", model: Any, members: int | None) -> range | None:
    """Numbers of the members: 10 where nobody says how many; None for a deterministic model.

    ValueError if a deterministic model is asked for several.
    """
    if task.stochastic:
        return range(10 if members is None else int(members))
    if members is not None and members > 1:
        raise ValueError(
            f"{model_name(model)!r} is deterministic: all of the {members} members would be the same; leave "
            "members out, or name a model that has some, such as 'stldm'"
        )
    return None


def frames_north_up(field: Field, **chunks: int) -> Any:
    """The field as a dask array ``(*leading, y, x)`` with its first row in the north.

    ``**chunks``: how to cut what is not lazy yet, by dim.
    """
    array = cf.north_up(field.array, field.y, field.x).transpose(*field.leading, field.y, field.x)
    return (array if array.chunks is not None else array.chunk(chunks)).data


def user_orientation(values: Any, field: Field) -> Any:
    """Rows and columns as the user has them, from north to south and west to east.

    ``values``: ``(..., y, x)``.
    """
    south_first, east_first = cf.orientation(field.array, field.y, field.x)
    return values[..., :: -1 if south_first else 1, :: -1 if east_first else 1]


def labels(array: xr.DataArray, dim: Hashable) -> list[Any]:
    """The labels of a dim, which tell the noise of its cells apart; positions where it has none."""
    return array[dim].values.tolist() if dim in array.coords else list(range(array.sizes[dim]))


def label_numbers(coordinate: xr.DataArray) -> np.ndarray:
    """Labels as whole numbers, by which noise is drawn: times and durations in nanoseconds, whole numbers as they are.

    Other numbers, such as 0.25 h, have those of their binary digits.

    Returned: int64.

    >>> label_numbers(xr.DataArray(np.array([5], "m8[s]"))).tolist()
    [5000000000]
    >>> quarters = label_numbers(xr.DataArray([0.25, 0.5, 2.0]))
    >>> len(set(quarters.tolist())), int(quarters[2])
    (3, 2)
    """
    values = coordinate.values
    if values.dtype.kind in "mM":
        return values.astype(f"{values.dtype.kind}8[ns]").astype("i8")
    if values.dtype.kind != "f":
        return values.astype("i8")
    exact = values.astype("f8")
    return np.where(exact == np.rint(exact), np.nan_to_num(exact), exact.view("i8")).astype("i8")


def model_name(model: Any) -> str:
    """What a recipe or a model in memory is called; one that was trained or loaded has a card."""
    from xnowcast import models

    return models.called(model)


def provenance(
    model: Any, options: dict[str, Any], seed: int | None, before: Mapping[Any, Any] | None = None
) -> dict[str, Any]:
    """What made a result, as attributes.

    ``seed``: None for what has no noise. ``before``: attributes of the input. Where another model made it, its name
    comes first, as in ``"stldm + postcast"``, and what else is told of that model is kept as ``nowcast_input_*``.

    >>> from xnowcast import models
    >>> forecast = {"nowcast_model": "extrapolation", "nowcast_options": "inflow='nan'"}
    >>> refined = provenance(models.build("bicubic"), {}, None, forecast)
    >>> refined["nowcast_model"], refined["nowcast_input_options"]
    ('extrapolation + bicubic', "inflow='nan'")
    """
    from xnowcast._version import __version__
    from xnowcast.check import plain
    from xnowcast.models.weights import sha256_of

    told = {str(k): v for k, v in (before or {}).items() if str(k).startswith("nowcast_")}
    earlier = told.pop("nowcast_model", None)
    told.pop("nowcast_package", None)
    attrs: dict[str, Any] = {
        "nowcast_model": f"{earlier} + {model_name(model)}" if earlier else model_name(model),
        "nowcast_package": f"xnowcast {__version__}",
        **{
            k if k.startswith("nowcast_input_") else k.replace("nowcast_", "nowcast_input_", 1): v
            for k, v in told.items()
        },
    }
    if options:
        attrs["nowcast_options"] = ", ".join(f"{k}={plain(v)!r}" for k, v in sorted(options.items()))
    if seed is not None:
        attrs["nowcast_seed"] = seed
    if sha256 := sha256_of(model):
        attrs["nowcast_weights_sha256"] = sha256
    return attrs


def computed(result: T_Xarray, progress: bool | None) -> T_Xarray:
    """A result in memory. A progress bar tells how it goes where it is wanted, and the log, at level INFO, what it is.

    ``result``: lazy, as a verb labels it. ``progress``: as in `xnowcast.engine.progress_bar`.
    """
    from xnowcast import engine

    log.info("%s", to_do(result))
    began = time.monotonic()
    with engine.progress_bar(progress):
        whole = result.compute()
    log.info("computed in %.1f s", time.monotonic() - began)
    return whole


def to_do(result: xr.Dataset | xr.DataArray) -> str:
    """What is about to be computed, in one line: off a terminal nothing else is seen for long.

    ``result``: as a verb labels it.

    >>> to_do(xr.Dataset({"rain": (("y", "x"), np.zeros((2, 3)))}, attrs={"nowcast_model": "bicubic"}))
    'computing with bicubic: y 2, x 3'
    """
    sizes = ", ".join(f"{dim} {size}" for dim, size in result.sizes.items() if dim != "bnds")
    return f"computing with {result.attrs.get('nowcast_model', 'a model')}: {sizes}"
