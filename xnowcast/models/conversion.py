"""Published weights become ours: an authors' checkpoint as one file with a card, which forecasts like any other."""

import hashlib
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xnowcast import check
from xnowcast.models import registry, weights
from xnowcast.terminal import printable

if TYPE_CHECKING:
    from xnowcast.models.base import Task
    from xnowcast.models.cards import ModelCard
    from xnowcast.models.families import Family


def convert(
    family: str,
    checkpoint: str | Path,
    out: str | Path,
    *,
    system: str | None = None,
    step: str | timedelta | None = None,
    spacing: float | None = None,
    crop: int | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    entry: str | None = None,
    prefix: str | None = None,
    start: str | Path | None = None,
    training_data: str | None = None,
    licence: str | None = None,
    overwrite: bool = False,
    **options: Any,
) -> "ModelCard":
    """Write weights that authors published as a weights file of this package, with a card.

    Nothing is downloaded, and nothing that the checkpoint holds is run: it is read as tensors alone. What wraps them
    (``{"state_dict": ...}``, ``"model"``, ``"ema"``, names that begin with ``module.``) is looked through, and the card
    says what was taken.

    Parameters
    ----------
    family : str
        One of `xnowcast.models.families.FAMILIES`, such as ``"stldm-3d-128"``.
    checkpoint : str or pathlib.Path
        The authors' file, of torch or safetensors.
    out : str or pathlib.Path
        Ends in ``.safetensors``.
    system : str, optional
        What the weights become, where a family knows several, such as ``"ms-predrnn"``.
    step : str or datetime.timedelta, optional
        Time between frames of the training, such as ``"6min"``. By default that of the family, as the next two.
    spacing : float, optional
        Grid spacing of the training in metres.
    crop : int, optional
        Height and width of the frames of the training in cells.
    ranges : mapping of str to (float, float), optional
        Lowest and largest value of each further field in the training, for ``"stvd"``.
    entry : str, optional
        The entry of the checkpoint that holds the network. By default averages over the training go before the network
        as it was at the end.
    prefix : str, optional
        Take those tensors alone whose names begin so, without it; by default what wrappers put before all names goes.
    start : str or pathlib.Path, optional
        A weights file of this package whose other parts are kept, where authors publish their networks one by one.
    training_data : str, optional
        What they were trained on, for the card, where it is not what the family says.
    licence : str, optional
        The terms of the weights, for the card, likewise.
    overwrite : bool
        Replace ``out`` if it exists.
    **options
        Options of the system that are others than the family's, such as ``scaling="sevir"``.

    Returns
    -------
    ModelCard
        As written. The step, the spacing and the crop are its contract, which data are compared with.

    Raises
    ------
    ValueError
        If there is no such family, the checkpoint holds more than tensors, some have no place or some are missing, or
        something has to be told and was not.

    Examples
    --------
    >>> convert("stldm", "weights.pt", "ours.safetensors")
    Traceback (most recent call last):
    ValueError: there is no family of published weights 'stldm': ... Known are stldm-3d-128, ...
    """
    from xnowcast.models import families
    from xnowcast.models.published import checkpoint as checkpoints

    check.call(convert, locals())
    record = families.find(family)
    name, given = _asked_for(record, system, options)
    if Path(out).exists() and not overwrite:
        raise ValueError(f"{printable(str(out))} exists: ask for overwrite=True, or another name")
    found = checkpoints.read(checkpoint, entry=entry, prefix=prefix)
    model = filled(record, name, given, found.tensors, printable(str(checkpoint)), start)
    if ranges is not None and not hasattr(model, "set_ranges"):
        raise ValueError(f"{name!r} has no fields with ranges: leave out ranges")
    if ranges is not None:
        model.set_ranges(ranges)
    model.task = _with_contract(model.task, record, step, spacing, crop)
    origin = ", ".join(filter(None, (Path(checkpoint).name, f"SHA-256 {_digest(checkpoint)}", found.chosen)))
    kept = "" if start is None else f". The other parts: {weights.read_card(start).training_data}"
    summary = registry.summary(type(model), model.options)
    return weights.save(
        out,
        model,
        system=name,
        options=given,
        description=" ".join(filter(None, (summary, record.note))),
        training_data=printable(f"{training_data or record.data}. Weights of {record.url}: {origin}{kept}"),
        licence=licence or record.terms,
    )


def _asked_for(record: "Family", system: str | None, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The system, and all options that it is built with; a ValueError if something has to be told."""
    if system is None and len(record.systems) > 1:
        raise ValueError(f"{record.name!r} becomes one of several systems: give system= as one of {_named(record)}")
    name = system or next(iter(record.systems))
    if name not in record.systems:
        raise ValueError(f"{record.name!r} becomes no {name!r}: it becomes {_named(record)}")
    missing = [f"{asked} ({meaning})" for asked, meaning in record.asks.items() if asked not in options]
    if missing:
        raise ValueError(f"{record.name!r} does not tell {' and '.join(missing)}: give it as an option")
    given = registry.checked_options(name, {**record.systems[name], **options})
    registry.declare(name, **given)  # which refuses options that do not go together
    return name, given


def _named(record: "Family") -> str:
    return ", ".join(map(repr, record.systems))


def filled(
    record: "Family",
    name: str,
    options: dict[str, Any],
    tensors: Mapping[str, Any],
    path: str,
    start: str | Path | None = None,
) -> Any:
    """The model with the tensors in it; what they leave untrained is that of ``start``, or drawn, always the same."""
    import torch

    module, _, function = record.converter.partition(":")
    converter = getattr(import_module(module), function)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = registry.build(name, **options)
    if start is not None:
        weights.begin_from(start, name, model)
    part = model.get_submodule(record.part) if record.part else model
    try:
        part.load_state_dict(converter(part, tensors))
    except (ValueError, RuntimeError) as error:  # of other names, or of other sizes
        reason = textwrap.shorten(printable(str(error)), 500)
        settings = ", ".join(f"{option}={value!r}" for option, value in options.items())
        raise ValueError(f"{path} does not become {name!r} ({settings}): {reason}") from None
    return model


def _with_contract(
    task: "Task", record: "Family", step: str | timedelta | None, spacing: float | None, crop: int | None
) -> "Task":
    """What the weights know of their training."""
    from xnowcast.fields.windows import to_timedelta

    minutes = None if record.minutes is None else timedelta(minutes=record.minutes)
    asked = None if step is None else to_timedelta(step, "step").astype("m8[us]").item()
    if spacing is not None:
        check.number("spacing", spacing, "metres above 0", lambda metres: metres > 0)
    if crop is not None:
        check.whole("crop", crop, 1)
    return replace(
        task,
        step=asked or minutes or task.step,
        spacing=float(spacing) if spacing is not None else record.spacing or task.spacing,
        crop=crop or record.crop or task.crop,
    )


def _digest(path: str | Path) -> str:
    """The first figures of a file's hash: which file it was."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
