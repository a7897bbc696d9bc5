"""Runs over archives as TOML files have them: data, models, what to do, and where."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xarray as xr

from xnowcast import check
from xnowcast.archive.hindcasts import hindcast
from xnowcast.archive.score import score_archive
from xnowcast.configuration import check_sections, init_times, read_toml, refuse_unknown
from xnowcast.data import storage
from xnowcast.fields.units import zr_relation

_ELSEWHERE = (
    "ds",
    "model",
    "models",
    "variable",
    "zr",
    "weights",
    "engine",
    "workers",
    "performance_report",
    "options",
)
_ENGINE = ("kind", "workers", "scheduler", "scheduler_file", "performance_report")
_DATA = ("path", "variable", "zr", "chunks")


def run_hindcast(path: str | Path, changes: Iterable[str] = (), **arguments: Any) -> xr.Dataset:
    """Run `hindcast` as a TOML file says.

    ``path``: with ``[data]`` (``path``: a file, store, pattern or list of these; ``variable``, ``zr``, ``chunks``),
    ``[model]`` (``name`` or ``weights``, and the model's options), ``[hindcast]`` (arguments of `hindcast`) and
    ``[engine]`` (``kind``: "threads", "processes" or "dask"; ``workers``; ``scheduler`` or ``scheduler_file`` of a
    cluster; ``performance_report``). ``changes``: values that replace those of the file, such as
    ``"hindcast.members=20"``. ``**arguments``: of `hindcast`, instead of the file's. ValueError if the file or
    something in it is not known; and as `hindcast`.
    """
    content = _read(path, changes, ("data", "model", "hindcast", "engine"))
    model = content["model"]
    own = _arguments("hindcast", content["hindcast"], hindcast) | arguments
    if "out" not in own:
        raise ValueError(f"{path}: [hindcast] has no out; write for example out = 'hindcast.zarr'")
    own |= {"weights": model.pop("weights")} if "weights" in model else {}
    _refuse_inputs(path, content, own)
    with engine_of(content["engine"]) as engine:
        name = model.pop("name", None)
        return hindcast(_open(content["data"]), name, **_field(content["data"]), **own, **engine, **model)


def run_score(path: str | Path, changes: Iterable[str] = (), **arguments: Any) -> xr.Dataset:
    """Run `score_archive` as a TOML file says.

    ``path``: with ``[data]`` and ``[engine]`` as for `run_hindcast`, ``[score]`` (arguments of `score_archive`), and a
    section ``[models.NAME]`` for each model (``model`` or ``weights``, ``members``, and the model's options).
    ``changes``: such as ``"score.hours=3"``. ``**arguments``: of `score_archive`, instead of the file's. ValueError if
    the file or something in it is not known; and as `score_archive`.
    """
    content = _read(path, changes, ("data", "models", "score", "engine"))
    own = _arguments("score", content["score"], score_archive) | arguments
    _refuse_inputs(path, content, own)
    if isinstance(own.get("regions"), str):
        if Path(own["regions"]).is_file():
            storage.check_whole(own["regions"])
        own["regions"] = xr.open_dataarray(own["regions"]).astype(bool)
    models = {name: one.get("model") if set(one) == {"model"} else one for name, one in content["models"].items()}
    with engine_of(content["engine"]) as engine:
        return score_archive(_open(content["data"]), models, **_field(content["data"]), **own, **engine)


def _read(path: str | Path, changes: Iterable[str], sections: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    content = read_toml(path, changes, example="hindcast.members=20")
    try:
        check_sections(content, sections)
        if not content.get("data", {}).get("path"):
            raise ValueError("[data] has no path; write for example path = 'radar.zarr'")
        refuse_unknown("key in [data]", content["data"], _DATA)
        refuse_unknown("key in [engine]", content.get("engine", {}), _ENGINE)
        _check_data(content["data"])
        for name, one in content.get("models", {}).items():
            if not isinstance(one, dict | str):
                raise ValueError(f"{name} in [models] is {one!r}; it must be a section, [models.{name}]")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return {section: dict(content.get(section, {})) for section in sections}


def _check_data(data: dict[str, Any]) -> None:
    paths = [data["path"]] if isinstance(data["path"], str) else data["path"]
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise ValueError(f"path in [data] is {data['path']!r}; it must be a path or a list of paths")
    chunks = data.get("chunks", "auto")
    for size in chunks.values() if isinstance(chunks, dict) else [chunks]:
        if size != "auto":
            check.whole("chunks in [data]", size, -1)


def _arguments(section: str, found: dict[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    known = [name for name in inspect.signature(function).parameters if name not in _ELSEWHERE]
    refuse_unknown(f"key in [{section}]", found, known)
    if isinstance(found.get("init_times"), str):
        found["init_times"] = init_times(found["init_times"])
    return found


def _refuse_inputs(path: str | Path, content: dict[str, dict[str, Any]], own: dict[str, Any]) -> None:
    """Refuse to replace what the run reads: the configuration, data, models, weights and regions."""
    if own.get("out") is not None and own.get("overwrite"):
        read = [content.get(section) for section in ("data", "model", "models")]
        out = storage.output_path(own["out"])
        if out.exists():
            storage.refuse_inputs(out, [path, read, own.get("weights"), own.get("regions")])


def _field(data: dict[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {key: data[key] for key in ("variable", "zr") if key in data}
    return given | ({"zr": zr_relation(given["zr"])} if "zr" in given else {})


def _open(data: dict[str, Any]) -> xr.Dataset:
    paths = [data["path"]] if isinstance(data["path"], str) else list(data["path"])
    together = storage.open_inputs(paths, on_unreadable="mark")
    return together.chunk(data["chunks"]) if "chunks" in data else together


@contextmanager
def engine_of(given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The engine's arguments; a client of a cluster is closed at the end, the cluster itself lives on."""
    kind = given.get("kind", "threads")
    arguments = {key: given[key] for key in ("workers", "performance_report") if key in given}
    at = {key: given[key] for key in ("scheduler", "scheduler_file") if key in given}
    if kind != "dask":
        if at:
            raise ValueError(f"[engine] names a scheduler, and its kind is {kind!r}: write kind = 'dask'")
        yield {"engine": kind} | arguments
        return
    if not at:
        raise ValueError("[engine] kind = 'dask' needs the scheduler's address or a scheduler_file")
    from distributed import Client

    with Client(at.get("scheduler"), scheduler_file=at.get("scheduler_file")) as client:
        yield {"engine": client} | arguments
