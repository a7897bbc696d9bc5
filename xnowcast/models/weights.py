"""Weights that carry their contract: one safetensors file with the model's card inside.

Nothing is ever unpickled. The card stands in the file's header, so a forecast can be planned without reading a
single weight; it holds a hash of the tensors, which is checked when they are read.
"""

import hashlib
import html
import json
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xnowcast.drafts import draft
from xnowcast.models import earlier
from xnowcast.models.cards import fields_of
from xnowcast.terminal import printable

if TYPE_CHECKING:
    from torch import Tensor

    from xnowcast.models.base import Task

_KEY = "xnowcast"

LONGEST_HEADER = 2**24
"""Bytes of a weights file that name its tensors; a network of a hundred thousand has fewer."""


@dataclass(frozen=True)
class ModelCard:
    """What a model is, what it reads, and where its weights come from.

    Attributes
    ----------
    system : str
        Name in the registry.
    options : dict
        Options that the network was built with.
    reads : str
        Quantity, units, frames, step and grid, in words.
    description : str
        What it does.
    training_data, licence : str
        Sources of the weights; empty for a system that needs none.
    scores : dict
        Name of a score to its value, measured on data that were not trained on.
    parameters : int
        Number of trained numbers.
    sha256 : str
        Hash of the tensors; empty for a system that needs none.
    contract : dict
        What the weights add to the system's own task: ``step`` in seconds and ``spacing`` in metres of the data
        that they were trained on, or the least and the greatest of them, and the height and width in cells of their
        crops, ``crop``.

    Examples
    --------
    >>> print(ModelCard("persistence", reads="1 frame", description="The newest frame, unchanged."))
    persistence: The newest frame, unchanged.
      reads       1 frame
    """

    system: str
    options: dict[str, Any] = field(default_factory=dict)
    reads: str = ""
    description: str = ""
    training_data: str = ""
    licence: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    parameters: int = 0
    sha256: str = ""
    contract: dict[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> "Task":
        """What the model reads and gives: its system's task, with the step, grid and crops that its weights know."""
        from xnowcast import models

        declared = models.declare(self.system, **self.options)
        seconds, spacing = self.contract.get("step"), self.contract.get("spacing")
        return replace(
            declared,
            step=declared.step if seconds is None else _each(lambda s: timedelta(seconds=s), seconds),
            spacing=declared.spacing if spacing is None else _each(float, spacing),
            crop=self.contract.get("crop", declared.crop),
        )

    def _rows(self) -> list[tuple[str, str]]:
        pairs = {
            "reads": self.reads,
            "options": ", ".join(f"{k}={v!r}" for k, v in self.options.items()),
            "parameters": f"{self.parameters:,}" if self.parameters else "",
            "trained on" if self.sha256 else "weights": self.training_data,
            "licence": self.licence,
            "scores": ", ".join(f"{k} {v:.3g}" for k, v in self.scores.items()),
            "sha256": self.sha256,
        }
        return [(name, printable(value)) for name, value in pairs.items() if value]

    def __str__(self) -> str:
        lines = [printable(f"{self.system}: {self.description}" if self.description else self.system)]
        return "\n".join(lines + [f"  {name:<11} {value}" for name, value in self._rows()])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left;padding-right:1em'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self._rows()
        )
        return (
            f"<div><strong>{html.escape(printable(self.system))}</strong><p>{html.escape(printable(self.description))}</p>"
            f"<table>{rows}</table></div>"
        )


def card(model: Any) -> ModelCard:
    """The card of a system, of a weights file or of a model in memory.

    Parameters
    ----------
    model : str, path or object
        Name of a system (`xnowcast.models.names`) or of weights that ship (`xnowcast.pretrained.names`), path of a
        weights file or of a run folder, or a model that was trained or loaded. A system has the card of its weights
        where they ship under its name.

    Returns
    -------
    ModelCard

    Raises
    ------
    ValueError
        If there is no such system, or the file holds no weights of xnowcast.

    Examples
    --------
    >>> card("persistence").reads
    '1 frame of any precipitation field, any step, grids of 8 x 8 cells or more'
    """
    model = weights_path(model)
    if isinstance(getattr(model, "card", None), ModelCard):
        return model.card
    if not isinstance(model, str):
        raise ValueError(f"a {type(model).__name__} has no card: give a name, a weights file or a trained model")
    if looks_like_weights(model):
        return read_card(model)
    from xnowcast import models
    from xnowcast.models import registry, shipped

    task = models.declare(model)
    ships = ", ".join(shipped.of_system(model))
    needs = f"ship as {ships}" if ships else "none ship: they come from xnowcast.train or a file"
    return ModelCard(
        model,
        options=models.options(model),
        reads=_in_words(task),
        description=registry.summary(models.find(model), registry.fixed_options(model)),
        training_data=needs if task.trained else "",
    )


def _in_words(task: Any) -> str:
    frames = "1 frame" if task.input_frames == 1 else f"{task.input_frames} frames"
    quantity = {"rain_rate": "rain rate", "vil": "VIL", None: "any precipitation field"}[task.quantity]
    steps, spacings = task.bounds("step"), task.bounds("spacing")
    minutes = [] if steps is None else [f"{s / timedelta(minutes=1):g}" for s in dict.fromkeys(steps)]
    step = f"a step of {' to '.join(minutes)} minute{'s' * (minutes != ['1'])}" if minutes else "any step"
    grid = f"grids of {task.min_grid} x {task.min_grid} cells or more"
    km = [] if spacings is None else dict.fromkeys(f"{metres / 1000:.3g}" for metres in spacings)
    spacing = f" at {' to '.join(km)} km" if km else ""
    crop = "" if task.crop is None else f", learnt from {task.crop} x {task.crop}"
    read = f"{frames} of {quantity}"
    if task.channels:
        count = f"{len(task.channels)} field{'s' if len(task.channels) > 1 else ''}"
        told = "task.channels names them" if len(task.channels) > 3 else ", ".join(task.channels)
        read = f"{count} of a weather forecast ({told})" if task.verb == "postprocess" else f"{read} and {count} beside"
    return f"{read}, {step}, {grid}{spacing}{crop}"


def looks_like_weights(name: str) -> bool:
    """Whether a model's name is the path of a weights file.

    Parameters
    ----------
    name : str

    Returns
    -------
    bool

    Examples
    --------
    >>> looks_like_weights("extrapolation"), looks_like_weights("runs/best.safetensors")
    (False, True)
    """
    return str(name).endswith(".safetensors")


def weights_path(name: Any) -> Any:
    """The path of a weights file as text, from a path, the folder of a finished run, or the name of weights that ship.

    Anything else comes back as it is.

    Parameters
    ----------
    name : object

    Returns
    -------
    object

    Examples
    --------
    >>> weights_path(Path("runs", "mine.safetensors")) == str(Path("runs", "mine.safetensors"))
    True
    """
    from xnowcast.models import registry, shipped

    path = os.fspath(name) if isinstance(name, os.PathLike) else name
    if isinstance(path, str) and path in shipped.names():
        return str(shipped.path(path))
    if not isinstance(path, str) or path in registry.REGISTRY:
        return path
    inside = Path(path) / "model.safetensors"
    return str(inside) if is_file(inside) else path


def save(
    path: str | Path,
    model: Any,
    *,
    system: str,
    options: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    **about: Any,
) -> ModelCard:
    """Write a model's weights with its card.

    Parameters
    ----------
    path : str or pathlib.Path
        Ends in ``.safetensors``. Replaced whole, never left half written.
    model : torch.nn.Module
        With a `task`; its step, grid spacing and crop become the card's contract.
    system : str
        Its name in the registry.
    options : mapping, optional
        The options that build it again; numbers, strings, booleans and lists.
    dtype : {"float16", "bfloat16"}, optional
        Store parameters of float32 in half the bytes; `load` gives float32 again. Buffers are stored as they are, for
        they count, or hold numbers such as a pressure in Pa that float16 cannot.
    **about
        Other fields of `ModelCard`: ``training_data``, ``licence``, ``scores``, ``description``.

    Returns
    -------
    ModelCard
        As written.

    Raises
    ------
    ValueError
        If the path has another ending, there is no such system, option or dtype, a parameter is too large for it, or
        one is NaN or infinite.
    TypeError
        If an option is nothing that JSON can hold.
    """
    from safetensors.torch import save_file

    from xnowcast import models

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} must end in .safetensors")
    models.declare(system, **dict(options or {}))
    tensors = _tensors(model, dtype)
    written = replace(describe(model, system=system, options=options, **about), sha256=_hash(tensors))
    with draft(path) as new:
        save_file(tensors, new, metadata={_KEY: json.dumps(asdict(written))})
        share(new)
    return written


def slim(
    path: str | Path,
    out: str | Path,
    *,
    dtype: str = "float16",
    options: Mapping[str, Any] | None = None,
    **about: Any,
) -> ModelCard:
    """Write a weights file once more, in half the bytes or with other words on its card: to hand the weights on.

    Parameters
    ----------
    path : str or pathlib.Path
        The weights file or the run folder.
    out : str or pathlib.Path
        Ends in ``.safetensors``.
    dtype : {"float16", "bfloat16", "float32"}
        Of the parameters in the file; see `save`.
    options : mapping, optional
        Options of running the model, such as ``sampling_steps``, that the file shall have.
    **about
        Fields of `ModelCard` to replace: ``training_data``, ``licence``, ``scores``, ``description``.

    Returns
    -------
    ModelCard
        As written.

    Raises
    ------
    ValueError
        As `load` and `save`.
    """
    model = load(path, **dict(options or {}))
    told = {name: getattr(model.card, name) for name in ("training_data", "licence", "scores", "description")}
    return save(out, model, system=model.card.system, options=model.card.options, dtype=dtype, **told | about)


def _tensors(model: Any, dtype: str | None) -> "dict[str, Tensor]":
    """What is written: a model's parameters in a dtype, its buffers as they are."""
    import torch

    from xnowcast.models import called
    from xnowcast.models.contents import refuse_broken

    if dtype not in (None, "float32", "float16", "bfloat16"):
        raise ValueError(f"dtype is {dtype!r}; it can be 'float16', 'bfloat16' or 'float32'")
    refuse_broken(model, called(model))
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    if dtype in (None, "float32"):
        return tensors
    smaller = getattr(torch, dtype)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.dtype == torch.float32:
            tensors[name] = tensors[name].to(smaller)
            if not torch.isfinite(tensors[name]).all():
                raise ValueError(f"parameter {name!r} holds values that {dtype} cannot: use bfloat16 or float32")
    return tensors


def is_file(path: str | Path) -> bool:
    """Whether a path is a file; a name that the system cannot even look for is none.

    Parameters
    ----------
    path : str or pathlib.Path

    Returns
    -------
    bool

    Examples
    --------
    >>> is_file("x" * 5000)
    False
    """
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def share(path: Path) -> None:
    """Give a file the permissions that new files have; safetensors writes for its owner alone.

    Parameters
    ----------
    path : pathlib.Path
    """
    mask = os.umask(0)  # the only way to read it is to set it
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def describe(model: Any, *, system: str, options: Mapping[str, Any] | None = None, **about: Any) -> ModelCard:
    """The card of a model in memory, as `save` would write it.

    Parameters
    ----------
    model : torch.nn.Module
    system : str
    options : mapping, optional
    **about
        As for `save`.

    Returns
    -------
    ModelCard
    """
    from xnowcast.models import registry

    about = {
        "reads": _in_words(model.task),
        "description": registry.summary(type(model), getattr(model, "options", None)),
    } | about
    return ModelCard(
        system,
        dict(options or {}),
        parameters=sum(p.numel() for p in model.parameters()),
        sha256=_hash({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}),
        contract=_contract(model.task),
        **about,
    )


def _contract(task: "Task") -> dict[str, Any]:
    seconds = task.step and _each(timedelta.total_seconds, task.step)
    known = {"step": seconds, "spacing": task.spacing, "crop": task.crop}
    pairs_as_in_json = {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()}
    return {name: value for name, value in pairs_as_in_json.items() if value is not None}


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """A value changed, or each of a pair: JSON has lists for tuples."""
    return tuple(map(change, value)) if isinstance(value, list | tuple) else change(value)


def read_card(path: str | Path) -> ModelCard:
    """The card of a weights file; reads its header only.

    Parameters
    ----------
    path : str or pathlib.Path

    Returns
    -------
    ModelCard

    Raises
    ------
    ValueError
        If there is no such file, it is no safetensors file, is cut short, or holds no card of xnowcast.
    """
    with _open(path) as file:
        metadata = file.metadata() or {}
    name = printable(str(path))
    if _KEY not in metadata and Path(path).name.startswith("checkpoint"):
        raise ValueError(
            f"{name} is the checkpoint of a run, which only a resumed training reads: the weights are "
            "model.safetensors or best.safetensors beside it"
        )
    if _KEY not in metadata:
        raise ValueError(
            f"{name} is a safetensors file without an xnowcast card: write weights with xnowcast.weights.save"
        )
    try:
        about = ModelCard(**earlier.card_fields(fields_of(metadata[_KEY])))
        return _in_words_of_this_version(about)
    except ValueError as error:
        raise ValueError(f"{name} has a card that cannot be read: {printable(str(error))}") from None


def _in_words_of_this_version(about: ModelCard) -> ModelCard:
    """What the model reads follows from its task, and a file may have it in words of an earlier version."""
    from xnowcast.models import registry

    if about.system not in registry.REGISTRY:
        return about
    with _options_explained(about.system):
        return replace(about, reads=_in_words(about.task))


@contextmanager
def _options_explained(system: str) -> Iterator[None]:
    """Options come from a file that anybody may have written: whatever they break says so in one way."""
    try:
        yield
    except (TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError, AssertionError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"its options are none that {system!r} can be built with ({what})") from None


def load(model: str | Path, *, sha256: str | None = None, **options: Any) -> Any:
    """A model that is ready to run.

    Parameters
    ----------
    model : str or pathlib.Path
        Name of weights that ship (`xnowcast.pretrained.names`) or of a system that needs none, or path of a weights
        file.
    sha256 : str, optional
        Hash that the tensors must have; the one in the card is always checked.
    **options
        Options that fit the weights whatever they are, such as the steps of a sampler: those that the system's
        class lists as ``RUNTIME_OPTIONS``. For a system without weights, any of its options.

    Returns
    -------
    ForecastModel
        In evaluation mode, with its `ModelCard` as ``card``; in float32, also where the file holds less.

    Raises
    ------
    ValueError
        If the file is no weights of xnowcast, was cut short or altered, or does not fit the system.

    Examples
    --------
    >>> load("persistence").card.system
    'persistence'
    """
    from xnowcast import models
    from xnowcast.models import shipped
    from xnowcast.models.contents import digest

    asked, model = model, weights_path(model)
    if not looks_like_weights(str(model)):
        built = models.build(str(model), **options)
        if built.task.trained:
            ships = "".join(f"{name!r} or " for name in shipped.of_system(str(model)))
            raise ValueError(f"{model!r} needs weights: load {ships}the path of a weights file instead")
        built.card = card(str(model))
        return built
    about = with_options(read_card(model), options)
    tensors = _tensors_of(model)
    found = _hash(tensors)
    if found != about.sha256 or (sha256 is not None and found != sha256):
        raise ValueError(
            f"{model} was altered: its tensors have the hash {found[:12]}, expected {(sha256 or about.sha256)[:12]}"
        )
    try:
        built = _filled(about, earlier.tensors(about.system, tensors))
    except ValueError as error:
        what = textwrap.shorten(printable(str(error)), 500)
        raise ValueError(f"{model} does not fit {about.system!r} as it is built here: {what}") from None
    built.name = asked if asked in models.names() else about.system
    built.card, built.task, built.as_loaded = about, about.task, digest(built.state_dict())
    return built.eval()


def _tensors_of(path: str | Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError

    try:
        with _open(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (the handle is no dict)
    except (SafetensorError, AttributeError, TypeError, RuntimeError, OSError) as error:
        raise ValueError(f"{path} holds tensors that cannot be read: {error}") from None


def _filled(about: ModelCard, tensors: "dict[str, Tensor]") -> Any:
    """The network of a card with tensors of a file, in the dtypes of the network.

    Raises
    ------
    ValueError
        If there are others than the network has, or they hold other kinds of numbers, or some that are none.
    """
    from xnowcast import models
    from xnowcast.models.contents import is_finite
    from xnowcast.models.filling import to_be_filled

    with _options_explained(about.system), to_be_filled(tensors):
        built = models.build(about.system, **about.options)
    try:
        built.load_state_dict(tensors)
    except (RuntimeError, AttributeError) as error:  # other tensors, or a system without any
        raise ValueError(str(error)) from None
    for name, tensor in built.state_dict().items():
        if not _may_stand_for(stored := tensors[name].dtype, tensor.dtype):
            raise ValueError(f"{name!r} holds {_short(stored)} where {_short(tensor.dtype)} belongs")
        if not is_finite(tensor):
            raise ValueError(f"{name!r} holds NaN or infinite numbers, as after a training that diverged")
    return built


def _may_stand_for(stored: Any, wanted: Any) -> bool:
    """Whether numbers of one dtype may stand in a file for those of another: floats of any width for floats."""
    return stored == wanted or (stored.is_floating_point and wanted.is_floating_point)


def _short(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def sha256_of(model: Any) -> str | None:
    """Hash of the weights of a recipe or of a model in memory, as they are: it may have been trained on since.

    Parameters
    ----------
    model : ModelRecipe or object

    Returns
    -------
    str or None
        That of the file where they are still those of a file; None where there are none.
    """
    about = getattr(model, "card", None)
    if not isinstance(about, ModelCard) or not about.sha256:
        return getattr(model, "sha256", None)
    from xnowcast.models.contents import digest

    # a file may hold its numbers in half the bytes, whose hash cannot be had back
    as_loaded = digest(model.state_dict()) == getattr(model, "as_loaded", None)
    return about.sha256 if as_loaded else describe(model, system=about.system).sha256


def with_options(about: ModelCard, options: Mapping[str, Any]) -> ModelCard:
    """The card with other run-time options: those that leave the network as it is.

    Parameters
    ----------
    about : ModelCard
    options : mapping

    Returns
    -------
    ModelCard

    Raises
    ------
    ValueError
        If the weights fix one of the options.

    Examples
    --------
    >>> with_options(ModelCard("persistence"), {}).options
    {}
    """
    from xnowcast import models
    from xnowcast.models.registry import runtime_options

    if options:
        whole = models.checked_options(about.system, {**about.options, **options})
        options = {name: whole[name] for name in options}
    free = runtime_options(about.system, about.options) if options else ()
    fixed = [name for name in options if name not in free]
    if fixed:
        others = f"; free are {', '.join(free)}" if free else ""
        raise ValueError(
            f"weights of {about.system!r} fix the model's options: leave out {', '.join(fixed)}{others}. "
            f"xnowcast.train({about.system!r}, ...) trains weights with options of your choice, and "
            "xnowcast.models.build makes an untrained model"
        )
    return replace(about, options={**about.options, **options})


def _open(path: str | Path) -> Any:
    from safetensors import SafetensorError, safe_open

    if not is_file(path):
        raise ValueError(f"there is no weights file {printable(str(path))}")
    try:
        with Path(path).open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > LONGEST_HEADER:
            raise SafetensorError(f"its header has {header} bytes, and no model needs more than {LONGEST_HEADER}")
        return safe_open(str(path), framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{printable(str(path))} is no whole safetensors file: {printable(str(error))}") from None


def _hash(tensors: "Mapping[str, Tensor]") -> str:
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
