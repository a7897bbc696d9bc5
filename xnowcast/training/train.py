"""Training, on one page: data -> events -> windows -> crops -> the loop -> weights with their card."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from importlib.util import find_spec
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xnowcast import check
from xnowcast.fields.units import Relation
from xnowcast.models.weights import weights_path
from xnowcast.training.settings import MOST_AT_ONCE, TrainingSettings, read_config, read_settings

if TYPE_CHECKING:
    from xnowcast.training.sequences import Data


def train(
    model: Any,
    data: "Data | Sequence[Data]",
    *,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
    variable: Hashable | None = None,
    zr: Relation | None = None,
    stride: int = 1,
    mixed: bool = False,
    validation: "float | Data | Sequence[Data]" = 0.2,
    settings: TrainingSettings | str | Path | None = None,
    model_options: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Any:
    """Train a model on radar sequences.

    Parameters
    ----------
    model : str or torch.nn.Module
        Name of a system (`xnowcast.models.names`), which is built after seeding, or a
        `xnowcast.models.base.TrainableModel`, which is trained in place.
    data : Dataset, DataArray, path, or list of them
        Events: precipitation fields with time, y and x in any units that `forecast` reads. Lazy data stay lazy and
        may be larger than memory.
    out : path, optional
        The run folder. By default nothing is written.
    resume : bool
        Go on from the checkpoint in ``out``; without one the run starts anew.
    progress : bool, optional
        True shows a bar with the time left, False nothing. By default a bar on a terminal and in a notebook, and
        lines elsewhere.
    variable : hashable, optional
        Name of the field where a dataset has more than one.
    zr : (float, float) or str, optional
        a and b of Z = a R**b for fields in dBZ.
    stride : int
        2 trains on every second frame; the model's step is then twice that of the data.
    mixed : bool
        True takes data of differing steps and grid spacings. The model then takes what lies between the least and the
        greatest of them, and has to see from the frames how fast they change.
    validation : float, or Dataset, DataArray, path, or list of them
        Share of the time that is held out (see `xnowcast.training.windows.split_by_time`), 0 for none; or other data.
    settings : TrainingSettings or path, optional
        Settings to begin from, such as those of another run, or a TOML file with a section ``[training]``.
    model_options : mapping, optional
        Options of the model whose names are those of arguments or settings.
    **changes
        Settings, each by its name as below, and the model's own options.
    <settings>

    Returns
    -------
    torch.nn.Module
        The trained model on the CPU in evaluation mode, with the weights of the best validation unless ``keep="last"``
        or nothing was validated. Its ``task`` has the step and grid spacing of the data, ``card`` tells what it is.
        ``ds.nowcast.forecast(model)`` takes it as it is.

    Raises
    ------
    ValueError
        If the data, the model or a setting will not do; before any long work.
    ImportError
        If Lightning is not installed.
    FloatingPointError
        If a loss is NaN or infinite. The last checkpoint stays good.
    KeyboardInterrupt
        After Ctrl-C, once the step is done and the checkpoint written.

    Notes
    -----
    Everything random comes from ``seed``: two runs are equal bit for bit on one CPU, also if one of them was stopped
    and resumed in between, and whatever ``workers`` is.

    Examples
    --------
    A model that is no more than a factor learns how much rain is left after five minutes:

    >>> import torch, xnowcast
    >>> from xnowcast.models.base import Loss, Task
    >>> from xnowcast.models.transforms import Identity
    >>> class Factor(torch.nn.Module):
    ...     task, transform, training_frames = Task("forecast", input_frames=1), Identity(), 2
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.factor = torch.nn.Parameter(torch.tensor(1.0))
    ...     def forecast(self, frames, observed, steps, noise=None):
    ...         return frames[:, -1:] * self.factor ** torch.arange(1, steps + 1).reshape(-1, 1, 1, 1)
    ...     def loss(self, batch, *, progress, adversary=None):
    ...         measured = batch.observed.all(dim=1)
    ...         return Loss((self.factor * batch.rain[:, 0] - batch.rain[:, 1])[measured].square().mean())
    ...     def adversary(self, shape):
    ...         return None
    >>> radar = xnowcast.datasets.synthetic_radar(frames=12, shape=(32, 32), growth=-6.0, lifetime=None, motion=(0, 0))
    >>> model = train(Factor(), radar, steps=80, learning_rate=0.02, progress=False)
    >>> round(model.factor.item(), 2), round(float(torch.tensor(-6.0 * 5 / 60).exp()), 2)
    (0.61, 0.61)
    """
    check.call(train, {name: value for name, value in locals().items() if name in ("resume", "progress", "mixed")})
    check.whole("stride", stride, 1, MOST_AT_ONCE)
    if isinstance(validation, bool) or validation is None:
        raise ValueError(f"validation is {validation!r}; it must be a share of the time, 0 for none, or data")
    if out is not None:
        check.path("out", out)
    if not isinstance(variable, Hashable):
        raise ValueError(f"variable is {variable!r}; it must be the name of one")
    check.call(train, {"model_options": model_options})
    settings = _changed(settings, {name: changes.pop(name) for name in list(changes) if name in SETTINGS})
    options = changes | dict(model_options or {})
    _refuse_misspelt(options, model)
    _require_lightning()
    _check_strategy(settings.strategy)
    from xnowcast.training import loop, plan

    sources = plan.Sources(data, validation, variable, zr, stride, mixed)
    planned = plan.plan_run(model, options, sources, settings, out=out, resume=resume, progress=progress)
    kept = loop.run(planned)
    planned.model.card = planned.about.card(planned.model, kept)
    return planned.model


def train_from_config(
    path: str | Path,
    *,
    changes: Iterable[str] = (),
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> Any:
    """Train as a TOML file says; what ``xnowcast train`` does.

    ``path``: see `xnowcast.training.settings.read_config`. ``changes``: values that replace those of the file, such as
    ``"training.steps=100"``. ``out``: the run folder, instead of the file's. ``resume, progress``: as in `train`.
    Returned: as `train`. ValueError as `train`, or if the file will not do.
    """
    config = read_config(path, changes)
    folder = out if out is not None else config.out
    if folder is None:
        raise ValueError(f"{path} names no run folder: write out = 'runs/...' under [training], or give --out")
    data = config.data
    return train(
        config.model,
        data.paths,
        out=folder,
        resume=resume,
        progress=progress,
        variable=data.variable,
        zr=data.zr,
        stride=data.stride,
        mixed=data.mixed,
        validation=data.validation_paths or data.validation,
        settings=config.training,
        model_options=config.options,
    )


SETTINGS = {setting.name: setting for setting in fields(TrainingSettings)}


def _document_settings() -> None:
    """Give `train` the settings in its signature and docstring, from where they are declared and described."""
    own = signature(train)
    *arguments, changes = own.parameters.values()
    taken = [Parameter(n, Parameter.KEYWORD_ONLY, default=s.default, annotation=s.type) for n, s in SETTINGS.items()]
    train.__signature__ = own.replace(parameters=[*arguments, *taken, changes])  # type: ignore[attr-defined]
    if train.__doc__ and TrainingSettings.__doc__:
        described = (TrainingSettings.__doc__.partition("----------\n")[2]).partition("\n\n    Raises")[0]
        train.__doc__ = train.__doc__.replace("    <settings>", described)


_document_settings()


def _changed(settings: TrainingSettings | str | Path | None, changes: dict[str, Any]) -> TrainingSettings:
    """The settings of a run: those given or of a file, or else the defaults, with changes."""
    if changes.get("start") is not None:
        check.path("start", changes["start"])
        changes["start"] = str(weights_path(changes["start"]))
    if isinstance(settings, str | Path):
        settings = read_settings(settings)
    if settings is not None and not isinstance(settings, TrainingSettings):
        raise ValueError(f"settings is {settings!r}; it must be a TrainingSettings or the path of a TOML file")
    return replace(settings or TrainingSettings(), **changes)


def _require_lightning() -> None:
    if find_spec("lightning") is None:
        raise ImportError("training needs Lightning: pip install 'xnowcast[train]'")


def _check_strategy(strategy: str) -> None:
    """Refuse what Lightning would refuse later; a model may have an option of this name as well."""
    from lightning.fabric.strategies import STRATEGY_REGISTRY

    known = ["auto", *STRATEGY_REGISTRY.available_strategies()]
    if strategy not in known:
        raise ValueError(
            f"strategy is {strategy!r}; how devices work together can be {', '.join(map(repr, known))}. A model's own "
            f"option of this name is given as model_options={{'strategy': {strategy!r}}}"
        )


def _refuse_misspelt(options: Mapping[str, Any], model: Any) -> None:
    """An option that the model lacks may be an argument of `train`, or one of its settings, misspelt."""
    from xnowcast.models.registry import parameters

    own = parameters(model, options) if isinstance(model, str) else {}
    arguments = signature(train).parameters
    for option in options:
        near = check.nearest(option, [*own, *arguments])
        if option in own or near in own:
            continue
        if near in arguments and (near not in SETTINGS or not own):
            raise ValueError(f"there is no argument {option!r}; did you mean {near!r}?")
        if near in SETTINGS:
            raise ValueError(
                f"{model!r} has no option {option!r}; did you mean {near!r}, a setting of the training? Its options "
                f"are: {', '.join(own)}"
            )
