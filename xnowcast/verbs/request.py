"""What every verb is asked: on which data, with which model, and how it runs. Asked once and checked once."""

import logging
import re
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from functools import cached_property
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import xarray as xr

from xnowcast import check
from xnowcast.check import LARGEST_COUNT
from xnowcast.fields import cf, horizontal
from xnowcast.fields.cf import Field
from xnowcast.fields.horizontal import T_Xarray
from xnowcast.fields.units import Relation
from xnowcast.terminal import warn

if TYPE_CHECKING:
    from xnowcast.engine import ModelRecipe
    from xnowcast.models.base import Task

log = logging.getLogger("xnowcast")

OnMismatch = Literal["raise", "warn"]

MODELS_WITH_MEMBERS = {"forecast": "steps", "downscale": "stvd"}
"""A model with members for each verb that has one."""

ALL_THE_SAME = ". To run it all the same, pass on_mismatch='warn'"
"""What to do about a model that was made for other data; no advice where nobody named it."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """How a model runs, which verbs, runs over archives and the command line ask alike.

    Parameters
    ----------
    members : int, optional
        Members of an ensemble, for models that have members; 10 by default.
    seed : int
        A whole number that the members' noise is drawn by.
    variable : hashable, optional
        Name of the precipitation field where a dataset has more than one.
    zr : (float, float) or str, optional
        a and b of Z = a R**b for fields in dBZ, or a name such as ``"hko-7"``; by default the field's attributes
        ``zr_a`` and ``zr_b``, else 200 and 1.6.
    on_mismatch : {"raise", "warn"}
        What to do when the step or the grid spacing of the data is not that of the model's training: stop, or run all
        the same with a warning.
    weights : str or path, optional
        Path of a weights file, or name of weights that ship, for a system that is trained; by default those that ship
        for it (`xnowcast.pretrained`).
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"auto"``, which is the GPU where there is one, else the CPU.
    batch_size : int, optional
        Samples that the model gets at once (init times and members, frames, or fields), fewer to take less memory. By
        default as many as make a few million cells.
    progress : bool, optional
        A progress bar while in-memory data are computed; by default on a terminal only.
    """

    members: int | None = None
    seed: int = 0
    variable: Hashable | None = None
    zr: Relation | None = None
    on_mismatch: OnMismatch = "raise"
    weights: str | Path | None = None
    device: str = "auto"
    batch_size: int | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        from xnowcast.engine import choose_device

        check.one_of("on_mismatch", self.on_mismatch, ("raise", "warn"))
        if not isinstance(self.variable, Hashable):
            raise ValueError(f"variable is {self.variable!r}; it must be the name of one")
        if self.members is not None:
            check.whole("members", self.members, 1, LARGEST_COUNT)
        check.whole("seed", self.seed, 0, 2**63 - 1)
        if self.batch_size is not None:
            check.whole("batch_size", self.batch_size, 1)
        if self.weights is not None:
            check.path("weights", self.weights)
        choose_device(self.device)


def documented(verb: Callable[..., Any]) -> Callable[..., Any]:
    """A verb in whose docstring ``<running>`` stands for the arguments of `Running` that it leaves to that."""
    text = verb.__doc__ or ""
    described = re.findall(r"^    \w+ :.*\n(?:     .+\n)+", Running.__doc__ or "", re.MULTILINE)
    own = [name for name in signature(verb).parameters if f"    {name} :" not in text]
    wanted = [entry for entry in described if entry.split()[0] in own]
    verb.__doc__ = text.replace("    <running>\n", "".join(wanted))
    return verb


@dataclass(frozen=True, kw_only=True)
class Request(Running):
    """One call of a verb.

    ``verb``: the function, such as `xnowcast.forecast`; a model in memory has a method of that name. ``obj``: what the
    user gave. ``model``: name of a system or of weights that ship, path of a weights file, or a model in memory; None
    is that of the weights, or else what the verb takes by default. ``options``: the model's own.
    """

    verb: Callable[..., Any]
    obj: Any = None
    model: Any = None
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, verb: Callable[..., Any], arguments: Mapping[str, Any]) -> Self:
        """The request out of a verb's arguments, as ``locals()`` has them at its first line."""
        check.call(verb, arguments)
        return cls(verb=verb, **{f.name: arguments[f.name] for f in fields(cls) if f.name in arguments})

    @cached_property
    def _planned(self) -> "tuple[ModelRecipe | Any, Task, dict[str, Any]]":
        """Recipe, task and options, with those by which a model without members has some where several are wanted."""
        options = self.options
        recipe, task = _recipe(self.verb, self.model, self.weights, options)
        given_members = _options_with_members(recipe)
        if given_members and self.members is not None and self.members > 1 and not task.stochastic:
            options = given_members | options
            recipe, task = _recipe(self.verb, self.model, self.weights, options)
        if task.verb != self.verb.__name__:
            raise ValueError(f"{model_name(recipe)!r} does not {self.verb.__name__}, it is for ds.nowcast.{task.verb}")
        return recipe, task, options

    @property
    def recipe(self) -> "ModelRecipe | Any":
        """The recipe of the model, or the model in memory; no network is built.

        ValueError if there is no such model or option, it needs weights, or it is for another verb.
        """
        return self._planned[0]

    @property
    def task(self) -> "Task":
        """What the model reads and gives."""
        return self._planned[1]

    @property
    def all_options(self) -> dict[str, Any]:
        """Options that were given, and those by which the model has members."""
        return self._planned[2]

    def planned(self) -> Self:
        """The request itself, once it is known that there is such a model."""
        _ = self._planned
        return self

    @property
    def name(self) -> str:
        """What the model is called."""
        return model_name(self.recipe)

    @cached_property
    def field(self) -> Field:
        """The precipitation field of the data."""
        return cf.find_field(self.obj, self.variable, zr=self.zr)

    def check_field(
        self,
        field: Field,
        task: "Task | None" = None,
        *,
        step: np.timedelta64 | None = None,
        another_grid: str = "",
    ) -> None:
        """Refuse a field that the model cannot run on, or that it was not made for: it would be wrong without a sign.

        ``task``: where the model's own is told otherwise. ``step``: time between the frames; None where the verb takes
        them one by one. ``another_grid``: what to do about another grid spacing; to regrid the data where it is empty.
        ValueError with every mismatch explained.
        """
        task = task or self.task
        if task.quantity is not None and task.quantity != field.quantity:
            raise ValueError(f"{self.name!r} reads {task.quantity}, and variable {field.name!r} is {field.quantity}")
        size = field.array.sizes[field.y], field.array.sizes[field.x]
        if min(size) < task.min_grid:
            least = f"{task.min_grid} x {task.min_grid}"
            raise ValueError(f"the grid has {size[0]} x {size[1]} cells; {self.name!r} needs at least {least}")
        mismatches = [*_step_mismatch(field, task, step), *_spacing_mismatch(field, task, another_grid)]
        if not mismatches:
            return
        message = f"{self.name!r} {'; it '.join(mismatches)}"
        if self.on_mismatch == "raise":
            raise ValueError(message + ALL_THE_SAME)
        warn(message)

    def member_numbers(self, task: "Task | None" = None) -> range | None:
        """Numbers of the members: 10 where nobody says how many; None for a deterministic model.

        ValueError if a deterministic model is asked for several.
        """
        if (task or self.task).stochastic:
            return range(10 if self.members is None else int(self.members))
        if self.members is not None and self.members > 1:
            some = MODELS_WITH_MEMBERS.get(self.verb.__name__)
            name_another = f", or name a model that has some, such as {some!r}" if some else ""
            raise ValueError(
                f"{self.name!r} is deterministic: all of the {self.members} members would be the same; leave members "
                f"out{name_another}"
            )
        return None

    def provenance(self, task: "Task | None" = None) -> dict[str, Any]:
        """What made a result of these data, as attributes."""
        seed = self.seed if (task or self.task).stochastic else None
        return provenance(self.recipe, self.all_options, seed, self.obj.attrs)

    def given_back(self, result: T_Xarray, *, lazy: bool) -> T_Xarray:
        """A labelled result as it is where the data are ``lazy``, else computed, with a progress bar and a log line."""
        if lazy:
            return result
        from xnowcast.engine import progress_bar

        log.info("%s", to_do(result))
        began = time.monotonic()
        with progress_bar(self.progress):
            whole = result.compute()
        log.info("computed in %.1f s", time.monotonic() - began)
        return whole


# ---------------------------------------------------------------- the model


def _recipe(
    verb: Callable[..., Any], model: Any, weights: str | PathLike[str] | None, options: dict[str, Any]
) -> "tuple[ModelRecipe | Any, Task]":
    from xnowcast import models
    from xnowcast.engine import ModelRecipe
    from xnowcast.models import shipped
    from xnowcast.models.registry import parameters
    from xnowcast.models.weights import looks_like_weights, read_card, weights_path, with_options

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
        if task.trained and task.verb == verb.__name__:
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


def _options_with_members(recipe: Any) -> dict[str, Any]:
    """Options by which a system without members has some; none of a model in memory, which is complete."""
    from xnowcast import models
    from xnowcast.engine import ModelRecipe

    return getattr(models.find(recipe.name), "WITH_MEMBERS", {}) if isinstance(recipe, ModelRecipe) else {}


def _refuse_misspelt(verb: Callable[..., Any], options: dict[str, Any], own: Mapping[str, Any]) -> None:
    """An option that the model lacks may be one of the verb's own arguments, misspelt."""
    arguments = signature(verb).parameters
    for option in options:
        near = check.nearest(option, [*own, *arguments])
        if option not in own and near not in own and near in arguments:
            raise ValueError(f"there is no argument {option!r}; did you mean {near!r}?")


def _hashable(options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Options as a recipe holds them: workers look their models up by recipe, and a list is no key."""
    return tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in sorted(options.items()))


def model_name(model: Any) -> str:
    """What a recipe or a model in memory is called; one that was trained or loaded has a card."""
    from xnowcast import models

    return models.called(model)


# ---------------------------------------------------------------- the data


def _step_mismatch(field: Field, task: "Task", step: np.timedelta64 | None) -> Iterator[str]:
    bounds = task.bounds("step")
    if step is None or bounds is None:
        return
    shortest, longest = (np.timedelta64(s) / np.timedelta64(1, "m") for s in bounds)
    minutes = step / np.timedelta64(1, "m")
    if task.multiple("step", timedelta(minutes=float(minutes))) is not None:
        return
    if shortest < longest:
        yield f"was made for steps of {shortest:g} to {longest:g} min, and the data have {minutes:g} min"
        return
    wanted = longest
    mismatch = f"was made for a step of {wanted:g} min, and the data have {minutes:g} min"
    ratio = wanted / minutes
    if ratio > 1 and ratio == round(ratio):
        yield f"{mismatch}: thin them with ds.isel({field.time}=slice(None, None, {ratio:g}))"
    elif ratio < 1 and 1 / ratio == round(1 / ratio):
        yield f"{mismatch}: it takes a model that was trained with stride={1 / ratio:g}"
    else:
        yield f"{mismatch}: bring the frames to its step first"


def _spacing_mismatch(field: Field, task: "Task", advice: str) -> Iterator[str]:
    """Where the data do not tell their spacing there is nothing to compare; a model knows the mean of y and x."""
    bounds = task.bounds("spacing")
    spacing = horizontal.grid_spacing(field.array, field.y, field.x) if bounds is not None else None
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
    spacing = horizontal.grid_spacing(field.array, field.y, field.x) if task.spacing is not None else None
    return spacing is not None and task.multiple("spacing", 1000 * sum(spacing) / 2) is not None


# ---------------------------------------------------------------- the result


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

    noted = {str(k): v for k, v in (before or {}).items() if str(k).startswith("nowcast_")}
    earlier = noted.pop("nowcast_model", None)
    noted.pop("nowcast_package", None)
    attrs: dict[str, Any] = {
        "nowcast_model": f"{earlier} + {model_name(model)}" if earlier else model_name(model),
        "nowcast_package": f"xnowcast {__version__}",
        **{
            k if k.startswith("nowcast_input_") else k.replace("nowcast_", "nowcast_input_", 1): v
            for k, v in noted.items()
        },
    }
    if options:
        attrs["nowcast_options"] = ", ".join(f"{k}={plain(v)!r}" for k, v in sorted(options.items()))
    if seed is not None:
        attrs["nowcast_seed"] = seed
    if sha256 := sha256_of(model):
        attrs["nowcast_weights_sha256"] = sha256
    return attrs


def to_do(result: xr.Dataset | xr.DataArray) -> str:
    """What is about to be computed, in one line: off a terminal nothing else is seen for long.

    ``result``: as a verb labels it.

    >>> to_do(xr.Dataset({"rain": (("y", "x"), np.zeros((2, 3)))}, attrs={"nowcast_model": "bicubic"}))
    'computing with bicubic: y 2, x 3'
    """
    sizes = ", ".join(f"{dim} {size}" for dim, size in result.sizes.items() if dim != "bnds")
    return f"computing with {result.attrs.get('nowcast_model', 'a model')}: {sizes}"
