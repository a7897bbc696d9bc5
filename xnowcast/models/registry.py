"""The registry: one line a system, nothing imported until a model is asked for."""

from collections.abc import Iterable, Mapping
from importlib import import_module
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

from xnowcast.check import LARGEST_COUNT, in_kind, nearest

if TYPE_CHECKING:
    from xnowcast.models.base import Task

CELLS = ("convlstm", "trajgru", "predrnn", "predrnn++", "mim", "motionrnn", "preciplstm", "mk-lstm")

INTERPOLATIONS = ("bicubic", "bilinear", "nearest")

RECURRENT = "xnowcast.models.recurrent:RecurrentForecaster"

REGISTRY: dict[str, str | tuple[str, dict[str, Any]]] = {
    "persistence": "xnowcast.models.persistence:Persistence",
    "extrapolation": "xnowcast.models.extrapolation:Extrapolation",
    "sprog": "xnowcast.models.sprog:SPROG",
    "steps": "xnowcast.models.steps:STEPS",
    "lagrangian": "xnowcast.models.lagrangian:Lagrangian",
    "crps-rnn": ("xnowcast.models.crps:CRPSForecaster", {"kind": "ms"}),
    "convgru-ensemble": "xnowcast.models.convgru:ConvGRUEnsemble",
    "simvp": "xnowcast.models.simvp:SimVP",
    "tau": "xnowcast.models.simvp:TAU",
    "lpt-qpn": "xnowcast.models.lpt_qpn:LPTQPN",
    "phydnet": "xnowcast.models.phydnet:PhyDNet",
    "diffcast": "xnowcast.models.diffcast:DiffCast",
    "earthformer": "xnowcast.models.earthformer:Earthformer",
    "cascast": "xnowcast.models.cascast:CasCast",
    "stldm": "xnowcast.models.stldm:STLDM",
    "postcast": "xnowcast.models.postcast:PostCast",
    "stvd": "xnowcast.models.stvd:STVD",
    "swin-ir": "xnowcast.models.swin_ir:SwinIR",
    "swin-ir-diff": "xnowcast.models.swin_ir_diff:SwinIRDiff",
    "nwp-mae": "xnowcast.models.nwp_mae:NwpMae",
    "nwp-metnet": "xnowcast.models.metnet:NwpMetNet",
    "nwp-metnet-sequence": "xnowcast.models.metnet_sequence:NwpMetNetSequence",
    "nwp-raw": "xnowcast.models.nwp_raw:NwpRaw",
    **{how: ("xnowcast.models.interpolation:Interpolation", {"method": how}) for how in INTERPOLATIONS},
    **{cell: (RECURRENT, {"kind": "plain", "cell": cell}) for cell in CELLS},
    **{f"ms-{cell}": (RECURRENT, {"kind": "ms", "cell": cell}) for cell in CELLS},
    **{f"db-{cell}": (RECURRENT, {"kind": "db", "cell": cell}) for cell in CELLS},
}
"""Name to ``"module:Class"``, or to that and the options which the name fixes."""


def names() -> list[str]:
    """Names of all systems that `build` and the verbs understand.

    Examples
    --------
    >>> "extrapolation" in names()
    True
    """
    return sorted(REGISTRY)


def register(name: str, target: str, **fixed: Any) -> None:
    """Add a system of your own to the registry.

    Parameters
    ----------
    name : str
        What users write: ``ds.nowcast.forecast(name)``.
    target : str
        ``"package.module:Class"``. The class has ``declare(**options) -> Task`` and the methods of
        `xnowcast.models.base.ForecastModel`. It is imported when it is first used.
    **fixed
        Options that belong to the name: users of it cannot choose them.

    Raises
    ------
    ValueError
        If the name is taken by another class or the target has no colon.

    Examples
    --------
    >>> register("steady", "xnowcast.models.persistence:Persistence")
    >>> "steady" in names()
    True
    >>> del REGISTRY["steady"]
    """
    if ":" not in target:
        raise ValueError(f"the target {target!r} names no class; write it as 'package.module:Class'")
    entry = (target, fixed) if fixed else target
    if REGISTRY.get(name, entry) != entry:
        raise ValueError(f"there is a system {name!r} already ({_entry(name)[0]}); choose another name")
    REGISTRY[name] = entry


def find(name: str) -> Any:
    """The class of a system.

    Parameters
    ----------
    name : str
        One of `names`.

    Returns
    -------
    type
        The model's class.

    Raises
    ------
    ValueError
        If there is no such system; the nearest names are suggested.

    Examples
    --------
    >>> find("persistance")
    Traceback (most recent call last):
    ValueError: there is no model 'persistance'; did you mean 'persistence'? Known models: ...
    """
    if name not in REGISTRY:
        near = nearest(name, REGISTRY)
        hint = f"; did you mean {near!r}?" if near else "."
        raise ValueError(f"there is no model {name!r}{hint} Known models: {', '.join(names())}")
    module, attribute = _entry(name)[0].split(":")
    return getattr(import_module(module), attribute)


def name_of(model_class: type) -> str:
    """What a model of a class is called: its system, where one name alone stands for the class, else the class itself.

    Parameters
    ----------
    model_class : type

    Returns
    -------
    str

    Examples
    --------
    >>> name_of(find("persistence"))
    'persistence'
    """
    target = f"{model_class.__module__}:{model_class.__qualname__}"
    found = [name for name in REGISTRY if _entry(name)[0].split(":")[1] == model_class.__qualname__]
    same = [name for name in found if _entry(name)[0] == target or find(name) is model_class]
    return same[0] if len(same) == 1 else model_class.__name__


def called(model: Any) -> str:
    """What a recipe or a model in memory is called: as it was asked for, or else as its card or its class says.

    Parameters
    ----------
    model : object

    Returns
    -------
    str

    Examples
    --------
    >>> called(build("persistence"))
    'persistence'
    """
    named, card = getattr(model, "name", None), getattr(model, "card", None)
    return named or (card.system if card is not None else name_of(type(model)))


def options(name: str) -> dict[str, Any]:
    """The options that a user of a system may choose, with their defaults.

    Parameters
    ----------
    name : str
        One of `names`.

    Returns
    -------
    dict of str

    Examples
    --------
    >>> options("extrapolation")["inflow"]
    'nan'
    """
    return {option: parameter.default for option, parameter in parameters(name).items()}


def summary(model_class: Any, options: Any) -> str:
    """What a model does, in a line: what its class says of some options, or the first line of its docstring."""
    if hasattr(model_class, "summary"):
        return model_class.summary(options)
    return (model_class.__doc__ or "").strip().split("\n")[0]


def fixed_options(name: str) -> dict[str, Any]:
    """The options that the name of a system fixes."""
    return dict(_entry(name)[1])


def declare(name: str, **options: Any) -> "Task":
    """What a system reads and gives, without building its network.

    Parameters
    ----------
    name : str
        One of `names`.
    **options
        The system's own options.

    Returns
    -------
    xnowcast.models.base.Task

    Raises
    ------
    ValueError
        If the system or one of its options is unknown.

    Examples
    --------
    >>> declare("persistence").input_frames
    1
    """
    return _call(find(name).declare, name, options)


def build(name: str, **options: Any) -> Any:
    """The untrained model of a system.

    Parameters
    ----------
    name : str
        One of `names`.
    **options
        The system's own options, ``size="tiny"`` among them where it has a network.

    Returns
    -------
    xnowcast.models.base.ForecastModel

    Raises
    ------
    ValueError
        If the system or one of its options is unknown.

    Examples
    --------
    >>> build("persistence").task.stochastic
    False
    """
    built = _call(find(name), name, options)
    built.name = name  # what forecasts and messages call it
    return built


def check_options(name: str, given: Iterable[str]) -> None:
    """Refuse options that a system does not have.

    Parameters
    ----------
    name : str
        One of `names`.
    given : iterable of str

    Raises
    ------
    ValueError
        With the nearest option, if there is one near.

    Examples
    --------
    >>> check_options("extrapolation", ["inflo"])
    Traceback (most recent call last):
    ValueError: 'extrapolation' has no option 'inflo'; did you mean 'inflow'? Its options are: ...
    """
    known = list(parameters(name, given if isinstance(given, Mapping) else None))
    unknown = [option for option in given if option not in known]
    if "moving_frame" in unknown:
        raise ValueError(
            f"{name!r} has no option 'moving_frame': build or train 'lagrangian' with network={name!r}, a layer around "
            "it that has window, motion_noise, inflation, probability_matching and cascade as well"
        )
    if unknown:
        near = nearest(unknown[0], known)
        hint = f"; did you mean {near!r}? Its" if near else "; its"
        names = ", ".join(map(repr, unknown))
        raise ValueError(f"{name!r} has no option {names}{hint} options are: {', '.join(known) or 'none'}")


def checked_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a system in Python's own types, each known to it and of its kind.

    Parameters
    ----------
    name : str
        One of `names`.
    given : mapping of str

    Returns
    -------
    dict of str

    Raises
    ------
    ValueError
        If an option is unknown, or of another kind than the system's ``declare`` says.

    Examples
    --------
    >>> import numpy as np
    >>> checked_options("extrapolation", {"input_frames": np.int16(3)})
    {'input_frames': 3}
    """
    check_options(name, given)
    known = parameters(name, given)
    return {o: in_kind(o, value, known[o].annotation, most=LARGEST_COUNT) for o, value in given.items()}


def parameters(name: str, given: Mapping[str, Any] | None = None) -> dict[str, Parameter]:
    """What the ``declare`` of a system takes beside what its name fixes and what that leaves no meaning.

    A layer also takes the options of the system inside it, which ``given`` may name; its own have precedence.
    """
    model_class, fixed = find(name), _entry(name)[1]
    declared = model_class.Options.declared() if hasattr(model_class, "Options") else {}
    own = {
        option: parameter
        for option, parameter in signature(model_class.declare).parameters.items()
        if option not in fixed and (option not in declared or declared[option].belongs_to(fixed))
    }
    if not hasattr(model_class, "INSIDE"):
        return own
    option = model_class.INSIDE
    inside = {option: declared[option].default, **fixed, **(given or {})}[option]
    if not isinstance(inside, str):
        if not (hasattr(inside, "forecast") and hasattr(inside, "task")):
            raise ValueError(f"{option} is {inside!r}: give the name of a system, or a model with .forecast()")
        return own
    other = model_class.defaults_inside(inside)
    of_it = {o: one.replace(default=other.get(o, one.default)) for o, one in parameters(inside).items()}
    return own | {o: one for o, one in of_it.items() if o not in own}


def runtime_options(name: str, given: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Options that any weights of a system can be run with, those of the system inside a layer among them."""
    model_class = find(name)
    own = getattr(model_class, "RUNTIME_OPTIONS", ())
    inside = (given or {}).get(getattr(model_class, "INSIDE", ""))
    if not isinstance(inside, str):
        return own
    return (*own, *(o for o in runtime_options(inside) if o not in model_class.Options.declared()))


def _entry(name: str) -> tuple[str, dict[str, Any]]:
    """Target and fixed options of a system in the registry."""
    entry = REGISTRY[name]
    return (entry, {}) if isinstance(entry, str) else entry


def _call(function: Any, name: str, options: dict[str, Any]) -> Any:
    """``function(**options)``, with options that will not do named as such rather than as an error from inside."""
    given, own = checked_options(name, options), signature(find(name).declare).parameters
    inside = {option: given.pop(option) for option in list(given) if option not in own}
    if inside:  # of the system inside a layer
        given["network_options"] = {**(given.get("network_options") or {}), **inside}
    return function(**_entry(name)[1], **given)
