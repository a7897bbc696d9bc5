"""Settings of a training run: checked when they are made, read from TOML and written back."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from xnowcast import check
from xnowcast.configuration import check_sections, read_toml, refuse_unknown
from xnowcast.drafts import draft
from xnowcast.fields.units import Relation, zr_relation

_SECTIONS = ("model", "data", "training", "about")

_FREE_ON_RESUME = (
    *("steps", "device", "devices", "strategy", "batch_size", "accumulate", "workers", "cache_gib", "log_every"),
    *("validate_every", "checkpoint_every", "pictures_every", "patience", "keep", "deterministic"),
)


MOST_AT_ONCE = 10_000
"""Samples of a batch, batches of a step, threads and the like: beyond it is a slip of the finger, which would fill the
memory before the first step."""

HIGHEST_LEARNING_RATE = 1000.0
"""Beyond which any weights overflow at once."""


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained. Everything is counted in optimiser steps.

    Parameters
    ----------
    steps : int
        Length of the training.
    batch_size : int
        Samples that one device gets at once.
    accumulate : int
        Batches whose gradients are averaged before a step.
    crop : int, optional
        Height and width of a sample in cells; by default 128, or what the smallest grid allows.
    learning_rate : float
        The largest; of the model and of its adversary.
    warmup : int
        Steps in which the learning rate rises.
    warmup_from : float
        Share of ``learning_rate`` that it rises from.
    schedule : {"cosine", "constant", "onecycle"}
        What the learning rate does then: fall to ``min_learning_rate`` along a half cosine, or stay. Or, without a
        warm-up, one cycle: up from its 25th part in the first three tenths of the steps, and down to next to nothing.
    min_learning_rate : float
        Where the cosine ends.
    halve_at : sequence of int
        Steps from which on a constant learning rate is half of what it was before.
    optimizer : {"adam", "adamw"}
        adamw decays weights apart from the gradient.
    betas : (float, float)
        Decay of the optimiser's averages of the gradient and of its square.
    weight_decay : float
        0 is off.
    clip : float, optional
        Largest norm of the gradient; None leaves it as it is.
    ema : float
        Decay of an exponential moving average of the weights, such as 0.999; 0 is off. Where it is on, the
        average is what is validated and saved.
    precision : {"32", "bf16", "16"}
        float32, or mixed with bfloat16 or (on a GPU) float16.
    augment : bool
        Flip and turn samples at random, all eight ways alike.
    rain_preference : float
        0 draws crops alike; nearer to 1, dry ones are drawn less often, by the factor ``1 - rain_preference``.
    min_coverage : float
        Smallest share of a sample that must have been measured.
    validation_crops : int
        Samples of the fixed set that is validated on.
    validate_every : int, optional
        Steps between validations; by default a twentieth of the training, at least 10. The last step is validated too.
    checkpoint_every : int, optional
        Steps between checkpoints; as ``validate_every`` by default.
    pictures_every : int, optional
        Steps between sample pictures; as ``validate_every`` by default. 0 draws none.
    log_every : int
        Steps between lines of the log.
    patience : int, optional
        Validations without a better score after which the training stops; None never stops early.
    keep : {"best", "last"}
        Which weights are the result: those of the best validation, or the newest.
    seed : int
        Everything random comes from it.
    deterministic : bool
        Choose algorithms that repeat bit for bit on a GPU as well; on the CPU they always do.
    device : str
        "auto" is the GPU where there is one, else the CPU.
    devices : int
        How many of them, each with batches of its own.
    strategy : str
        How several devices work together, in Lightning's names.
    workers : int
        Threads that read samples ahead; 0 reads each when it is needed.
    cache_gib : float
        Decoded frames kept in memory, GiB.
    start : str, optional
        Weights file of the same network to begin from, such as another country's; by default it begins from
        weights drawn with the seed.

    Raises
    ------
    ValueError
        If a setting is outside its range.

    Examples
    --------
    >>> TrainingSettings(steps=1000).every("validate"), TrainingSettings(steps=50).every("validate")
    (50, 10)
    >>> TrainingSettings(ema=1.5)
    Traceback (most recent call last):
    ValueError: ema is 1.5; it must be a number from 0 to below 1
    """

    steps: int = 2000
    batch_size: int = 4
    accumulate: int = 1
    crop: int | None = None
    learning_rate: float = 3e-4
    warmup: int = 0
    warmup_from: float = 0.0
    schedule: Literal["cosine", "constant", "onecycle"] = "cosine"
    min_learning_rate: float = 0.0
    halve_at: tuple[int, ...] = ()
    optimizer: Literal["adam", "adamw"] = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float | None = None
    ema: float = 0.0
    precision: Literal["32", "bf16", "16"] = "32"
    augment: bool = True
    rain_preference: float = 0.9
    min_coverage: float = 0.5
    validation_crops: int = 32
    validate_every: int | None = None
    checkpoint_every: int | None = None
    pictures_every: int | None = None
    log_every: int = 10
    patience: int | None = None
    keep: Literal["best", "last"] = "best"
    seed: int = 0
    deterministic: bool = False
    device: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    workers: int = 0
    cache_gib: float = 1.0
    start: str | None = None

    def __post_init__(self) -> None:
        self._in_own_types()
        for name in ("device", "strategy"):
            check.in_kind(name, getattr(self, name), str, example="auto")
        for name in ("steps", "log_every"):
            check.whole(name, getattr(self, name), 1)
        for name in ("batch_size", "accumulate", "validation_crops", "devices"):
            check.whole(name, getattr(self, name), 1, MOST_AT_ONCE)
        for name, most in (("warmup", None), ("workers", MOST_AT_ONCE), ("seed", 2**63 - 1)):
            check.whole(name, getattr(self, name), 0, most)
        for name, least in (
            *(("crop", 1), ("validate_every", 1), ("checkpoint_every", 1), ("patience", 1), ("pictures_every", 0)),
        ):
            if getattr(self, name) is not None:
                check.whole(name, getattr(self, name), least)
        highest = HIGHEST_LEARNING_RATE
        check.number(
            "learning_rate", self.learning_rate, f"above 0, up to {highest:g}", lambda value: 0 < value <= highest
        )
        self._check_optimizer()
        check.number("weight_decay", self.weight_decay, "of 0 or more", lambda value: value >= 0)
        check.number("cache_gib", self.cache_gib, "above 0", lambda value: value > 0)
        if self.clip is not None:
            check.number("clip", self.clip, "above 0", lambda value: value > 0)
        for name in ("ema", "rain_preference", "warmup_from"):
            check.number(name, getattr(self, name), "from 0 to below 1", lambda value: 0 <= value < 1)
        check.number("min_coverage", self.min_coverage, "from 0 to 1", lambda value: 0 <= value <= 1)
        check.one_of("schedule", self.schedule, ("cosine", "constant", "onecycle"))
        check.one_of("optimizer", self.optimizer, ("adam", "adamw"))
        check.one_of("precision", self.precision, ("32", "bf16", "16"))
        check.one_of("keep", self.keep, ("best", "last"))
        for name in ("augment", "deterministic"):
            check.flag(name, getattr(self, name))
        if self.warmup >= self.steps:
            raise ValueError(f"warmup is {self.warmup} of {self.steps} steps; it must end before the training does")
        if self.warmup and self.schedule == "onecycle":
            raise ValueError(f"warmup is {self.warmup}, and the schedule 'onecycle' rises by itself: leave warmup out")

    def _in_own_types(self) -> None:
        """NumPy's numbers are numbers, but no JSON, which the configuration of a run is written in."""
        for name in self.__dataclass_fields__:
            object.__setattr__(self, name, check.plain(getattr(self, name)))

    def _check_optimizer(self) -> None:
        least, most = self.min_learning_rate, self.learning_rate
        check.number("min_learning_rate", least, f"from 0 to learning_rate, {most:g}", lambda value: 0 <= value <= most)
        if least and self.schedule != "cosine":
            raise ValueError(f"min_learning_rate is where a cosine ends, and the schedule is {self.schedule!r}")
        if not isinstance(self.halve_at, list | tuple):
            raise ValueError(f"halve_at is {self.halve_at!r}; it must be a list of steps, such as [1000, 1500]")
        for at in self.halve_at:
            check.whole("a step of halve_at", at, 1)
        if self.halve_at and self.schedule != "constant":
            raise ValueError(f"halve_at is for the schedule 'constant', and the schedule is {self.schedule!r}")
        object.__setattr__(self, "halve_at", tuple(self.halve_at))
        if not isinstance(self.betas, list | tuple) or len(self.betas) != 2:
            raise ValueError(f"betas is {self.betas!r}; it must be two numbers, such as [0.9, 0.999]")
        for value in self.betas:
            check.number("a number of betas", value, "from 0 to below 1", lambda beta: 0 <= beta < 1)
        object.__setattr__(self, "betas", tuple(self.betas))  # a file has a list

    def every(self, event: Literal["validate", "checkpoint", "pictures"]) -> int:
        """Steps between validations, checkpoints or pictures, defaults filled in; 0 is never."""
        validate = self.validate_every if self.validate_every is not None else max(10, self.steps // 20)
        chosen = {"validate": None, "checkpoint": self.checkpoint_every, "pictures": self.pictures_every}[event]
        return validate if chosen is None else chosen

    @property
    def samples_per_step(self) -> int:
        """Samples that one step sees, over all devices."""
        return self.batch_size * self.accumulate * self.devices

    def decisive(self) -> dict[str, Any]:
        """Settings that decide the numbers, so that a run cannot be resumed with others."""
        kept = {name: value for name, value in asdict(self).items() if name not in _FREE_ON_RESUME}
        return kept | {"samples_per_step": self.samples_per_step}


@dataclass(frozen=True)
class DataSettings:
    """What a model is trained on.

    ``paths``: one entry an event, as `xnowcast.storage.open_input` reads it: NetCDF, Zarr, a pattern, a dataset's name.
    ``variable``: name of the field where the data have more than one. ``zr``: a and b of Z = a R**b for fields in dBZ.
    ``stride``: every how manieth frame is used. ``mixed``: whether the data may differ in step and in grid spacing.
    ``validation``: share of the time that is held out; 0 validates on nothing. ``validation_paths``: data to validate
    on, instead of a share. ``in_memory``: what data a run had that came from memory. Such a run cannot be repeated from
    its configuration. ValueError if a setting is outside its range.

    >>> DataSettings(paths=["radar.zarr"], stride=2).stride
    2
    """

    paths: list[str] = field(default_factory=list)
    variable: str | None = None
    zr: Relation | None = None
    stride: int = 1
    mixed: bool = False
    validation: float = 0.2
    validation_paths: list[str] = field(default_factory=list)
    in_memory: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("paths", "validation_paths"):
            found = getattr(self, name)
            if isinstance(found, str) or not all(isinstance(path, str) for path in found):
                raise ValueError(f"{name} is {found!r}; it must be a list of paths")
        check.whole("stride", self.stride, 1, MOST_AT_ONCE)
        check.flag("mixed", self.mixed)
        check.number("validation", self.validation, "from 0 to below 1", lambda value: 0 <= value < 1)
        if self.zr is not None:
            zr_relation(self.zr)


@dataclass(frozen=True)
class Config:
    """A whole run, as a TOML file has it.

    ``model``: name of the system. ``options``: the system's options. ``out``: the run folder.
    """

    model: str
    options: dict[str, Any]
    data: DataSettings
    training: TrainingSettings
    out: str | None = None


# ---------------------------------------------------------------- TOML


def read_config(path: str | Path, changes: Iterable[str] = ()) -> Config:
    """A run's configuration from a TOML file.

    Parameters
    ----------
    path : str or pathlib.Path
        With the sections ``[model]`` (``name`` and the model's options), ``[data]`` and ``[training]``.
    changes : iterable of str
        Values that replace those of the file, such as ``"training.steps=100"``.

    Returns
    -------
    Config

    Raises
    ------
    ValueError
        If the file is missing or no TOML, or a section, a key or a value is not known; the nearest is suggested.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "run.toml")
    ...     _ = path.write_text('model.name = "db-convlstm"\\ndata.paths = ["radar.zarr"]\\ntraining.steps = 500')
    ...     read_config(path, ["training.steps=100"]).training.steps
    100
    """
    content = read_toml(path, changes, example="training.steps=100")
    try:
        return _config(content)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def read_settings(path: str | Path) -> TrainingSettings:
    """The settings in the section ``[training]`` of a TOML file, which may be a whole configuration."""
    content = read_toml(path, example="training.steps=100")
    training = content.get("training")
    if not isinstance(training, Mapping):
        raise ValueError(f"{path} has no section [training], which has the settings of a training")
    given = {name: value for name, value in training.items() if name != "out"}
    refuse_unknown("key in [training]", given, [f.name for f in fields(TrainingSettings)])
    return TrainingSettings(**given)


def _config(content: dict[str, Any]) -> Config:
    check_sections(content, _SECTIONS)
    model, data, training = (dict(content.get(section, {})) for section in ("model", "data", "training"))
    refuse_unknown("key in [data]", data, [f.name for f in fields(DataSettings)])
    refuse_unknown("key in [training]", training, ["out", *(f.name for f in fields(TrainingSettings))])
    if not isinstance(model.get("name"), str):
        raise ValueError("[model] has no name; write for example name = 'db-convlstm'")
    if data.get("in_memory"):
        raise ValueError(
            "this run was started from Python with data in memory, which a file cannot name; call xnowcast.train "
            "with the same data again, or write the data to files and name them in paths"
        )
    if not data.get("paths"):
        raise ValueError("[data] has no paths; write for example paths = ['radar.zarr']")
    if isinstance(data.get("zr"), list):
        data["zr"] = tuple(data["zr"])
    out = training.pop("out", None)
    return Config(model.pop("name"), model, DataSettings(**data), TrainingSettings(**training), out)


def write_config(config: Config, path: str | Path, versions: Mapping[str, str]) -> None:
    """Write a run's configuration with every default filled in; `read_config` reads it back.

    ``about``: versions of the packages, for the record.
    """
    content = {
        "model": {"name": config.model} | config.options,
        "data": {name: value for name, value in asdict(config.data).items() if value or name != "in_memory"},
        "training": ({"out": config.out} if config.out else {}) | asdict(config.training),
        "about": dict(versions),
    }
    with draft(path) as new:
        new.write_text("\n".join(_section(name, keys) for name, keys in content.items()))


def _section(name: str, keys: Mapping[str, Any]) -> str:
    """A section with what is not set as comments, since TOML has no null."""
    import tomli_w

    stated = {k: list(v) if isinstance(v, tuple) else v for k, v in keys.items() if v is not None and v != []}
    unset = "".join(f"# {key} = ... (not set)\n" for key in keys if key not in stated)
    return tomli_w.dumps({name: stated}) + unset
