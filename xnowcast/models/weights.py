"""Weights that carry their contract: one safetensors file with the model's card inside.

Nothing is ever unpickled. The card stands in the file's header, so a forecast can be planned without reading a
single weight; it holds a hash of the tensors, which is checked when they are read.
"""

import hashlib
import json
import os
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xnowcast import check
from xnowcast.drafts import draft
from xnowcast.models import registry, shipped
from xnowcast.models.cards import KEY, ModelCard, each, in_words, is_file, opened, options_explained, read_card
from xnowcast.terminal import printable

if TYPE_CHECKING:
    from torch import Tensor

    from xnowcast.models.base import Task


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
    task = registry.declare(model)
    ships = ", ".join(shipped.of_system(model))
    needs = f"ship as {ships}" if ships else "none ship: they come from xnowcast.train or a file"
    return ModelCard(
        model,
        options=registry.options(model),
        reads=in_words(task),
        description=registry.summary(registry.find(model), registry.fixed_options(model)),
        training_data=needs if task.trained else "",
    )


def looks_like_weights(name: str) -> bool:
    """Whether a model's name is the path of a weights file.

    >>> looks_like_weights("extrapolation"), looks_like_weights("runs/best.safetensors")
    (False, True)
    """
    return str(name).endswith(".safetensors")


def weights_path(name: Any) -> Any:
    """The path of a weights file as text, from a path, the folder of a finished run, or the name of weights that ship.

    Anything else comes back as it is.

    >>> weights_path(Path("runs", "mine.safetensors")) == str(Path("runs", "mine.safetensors"))
    True
    """
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
    **fields: Any,
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
    **fields
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

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} must end in .safetensors")
    registry.declare(system, **dict(options or {}))
    tensors = _tensors(model, dtype)
    written = replace(describe(model, system=system, options=options, **fields), sha256=_hash(tensors))
    with draft(path) as new:
        save_file(tensors, new, metadata={KEY: json.dumps(asdict(written))})
        share(new)
    return written


def slim(
    path: str | Path,
    out: str | Path,
    *,
    dtype: str = "float16",
    options: Mapping[str, Any] | None = None,
    **fields: Any,
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
    **fields
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
    kept = {name: getattr(model.card, name) for name in ("training_data", "licence", "scores", "description")}
    return save(out, model, system=model.card.system, options=model.card.options, dtype=dtype, **kept | fields)


def _tensors(model: Any, dtype: str | None) -> "dict[str, Tensor]":
    """What is written: a model's parameters in a dtype, its buffers as they are."""
    import torch

    from xnowcast.models.contents import refuse_broken

    if dtype is not None:
        check.one_of("dtype", dtype, ("float16", "bfloat16", "float32"))
    refuse_broken(model, registry.called(model))
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


def share(path: Path) -> None:
    """Give a file the permissions that new files have; safetensors writes for its owner alone."""
    mask = os.umask(0)  # the only way to read it is to set it
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def describe(model: Any, *, system: str, options: Mapping[str, Any] | None = None, **fields: Any) -> ModelCard:
    """The card of a model in memory, as `save` would write it.

    Parameters
    ----------
    model : torch.nn.Module
    system : str
    options : mapping, optional
    **fields
        As for `save`.

    Returns
    -------
    ModelCard
    """
    fields = {
        "reads": in_words(model.task),
        "description": registry.summary(type(model), getattr(model, "options", None)),
    } | fields
    return ModelCard(
        system,
        dict(options or {}),
        parameters=sum(p.numel() for p in model.parameters()),
        sha256=_hash({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}),
        contract=_contract(model.task),
        **fields,
    )


def _contract(task: "Task") -> dict[str, Any]:
    seconds = task.step and each(timedelta.total_seconds, task.step)
    known = {"step": seconds, "spacing": task.spacing, "crop": task.crop}
    pairs_as_in_json = {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()}
    return {name: value for name, value in pairs_as_in_json.items() if value is not None}


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
        class lists as ``RUNTIME_OPTIONS``, and those of the network inside a layer. For a system without weights, any
        of its options.

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
    from xnowcast.models import earlier
    from xnowcast.models.contents import digest

    asked, model = model, weights_path(model)
    if not looks_like_weights(str(model)):
        built = registry.build(str(model), **options)
        if built.task.trained:
            ships = "".join(f"{name!r} or " for name in shipped.of_system(str(model)))
            raise ValueError(f"{model!r} needs weights: load {ships}the path of a weights file instead")
        built.card = card(str(model))
        return built
    model_card = with_options(read_card(model), options)
    tensors = _tensors_of(model)
    found = _hash(tensors)
    if found != model_card.sha256 or (sha256 is not None and found != sha256):
        expected = (sha256 or model_card.sha256)[:12]
        raise ValueError(f"{model} was altered: its tensors have the hash {found[:12]}, expected {expected}")
    try:
        built = _filled(model_card, earlier.tensors(model_card.system, tensors))
    except ValueError as error:
        reason = textwrap.shorten(printable(str(error)), 500)
        raise ValueError(f"{model} does not fit {model_card.system!r} as it is built here: {reason}") from None
    built.name = asked if asked in registry.names() else model_card.system
    built.card, built.task, built.as_loaded = model_card, model_card.task, digest(built.state_dict())
    return built.eval()


def begin_from(path: str | Path, system: str, built: Any) -> None:
    """Give a model the weights of a file, or those of its part that it can begin from.

    What the file's network is not made of, such as losses, may differ. ValueError if they are of another system or do
    not fit.
    """
    begun_card = read_card(path)
    if begun_card.system not in (system, *getattr(built, "begins_from", ())):
        raise ValueError(f"{path} holds weights of {begun_card.system!r}, and {system!r} is trained")
    begun = load(path)
    try:
        if hasattr(built, "begin_from"):  # a model may take over a part
            built.begin_from(begun)
        else:
            built.load_state_dict(begun.state_dict())
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} does not fit {system!r} with these options: {error}") from None


def _tensors_of(path: str | Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError

    try:
        with opened(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (the handle is no dict)
    except (SafetensorError, AttributeError, TypeError, RuntimeError, OSError) as error:
        raise ValueError(f"{path} holds tensors that cannot be read: {error}") from None


def _filled(model_card: ModelCard, tensors: "dict[str, Tensor]") -> Any:
    """The network of a card with tensors of a file, in the dtypes of the network.

    A ValueError if there are others than the network has, of other kinds of numbers, or some that are none.
    """
    from xnowcast.models.contents import is_finite
    from xnowcast.models.filling import to_be_filled

    with options_explained(model_card.system), to_be_filled(tensors):
        built = registry.build(model_card.system, **model_card.options)
    try:
        untold = {name for name, buffer in built.named_buffers() if _is_untold(buffer)}
        built.load_state_dict(tensors)
    except (RuntimeError, AttributeError) as error:  # other tensors, or a system without any
        raise ValueError(str(error)) from None
    for name, tensor in built.state_dict().items():
        stored, wanted = tensors[name].dtype, tensor.dtype
        if stored != wanted and not (stored.is_floating_point and wanted.is_floating_point):  # floats of any width
            holds, belongs = (str(dtype).removeprefix("torch.") for dtype in (stored, wanted))
            raise ValueError(f"{name!r} holds {holds} where {belongs} belongs")
        if not is_finite(tensor) and not (name in untold and _is_untold(tensor)):
            raise ValueError(f"{name!r} holds NaN or infinite numbers, as after a training that diverged")
    return built


def _is_untold(tensor: "Tensor") -> bool:
    """Whether a network was never told these numbers, statistics of its fields: as it is built, and runs with none."""
    return bool(tensor.is_floating_point() and tensor.numel() and tensor.isnan().all())


def sha256_of(model: Any) -> str | None:
    """Hash of the weights of a recipe or of a model in memory, as they are: it may have been trained on since.

    That of the file where they are still those of a file; None where there are none.
    """
    model_card = getattr(model, "card", None)
    if not isinstance(model_card, ModelCard) or not model_card.sha256:
        return getattr(model, "sha256", None)
    from xnowcast.models.contents import digest

    # a file may hold its numbers in half the bytes, whose hash cannot be had back
    as_loaded = digest(model.state_dict()) == getattr(model, "as_loaded", None)
    return model_card.sha256 if as_loaded else describe(model, system=model_card.system).sha256


def with_options(model_card: ModelCard, options: Mapping[str, Any]) -> ModelCard:
    """The card with other run-time options: those that leave the network as it is.

    A ValueError if the weights fix one of them.

    >>> with_options(ModelCard("persistence"), {}).options
    {}
    """
    if options:
        whole = registry.checked_options(model_card.system, {**model_card.options, **options})
        options = {name: whole[name] for name in options}
    free = registry.runtime_options(model_card.system, model_card.options) if options else ()
    fixed = [name for name in options if name not in free]
    if fixed:
        others = f"; free are {', '.join(free)}" if free else ""
        raise ValueError(
            f"weights of {model_card.system!r} fix the model's options: leave out {', '.join(fixed)}{others}. "
            f"xnowcast.train({model_card.system!r}, ...) trains weights with options of your choice, and "
            "xnowcast.models.build makes an untrained model"
        )
    return replace(model_card, options={**model_card.options, **options})


def _hash(tensors: "Mapping[str, Tensor]") -> str:
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
