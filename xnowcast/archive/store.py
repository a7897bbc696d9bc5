"""A Zarr store that is written batch by batch: what is whole is marked, and the marks are part of the store.

The coordinate ``init_status`` has one chunk per batch, which is written after the data of the batch. A batch is done
when its chunk says so for every init time, so a run that goes on reads marks and no data.
"""

import errno
import json
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xnowcast import check, drafts
from xnowcast.archive.run.fingerprint import completed
from xnowcast.archive.run.logs import log
from xnowcast.drafts import draft

STATUS = "init_status"
PENDING, FORECAST, GAP, COVERAGE, UNREADABLE = range(5)
MEANINGS = ("pending", "forecast", "gap_in_input", "too_little_coverage", "input_unreadable")
"""What became of an init time, by the number in ``init_status``."""

FINGERPRINT = "nowcast_run"

ABSENT = object()
"""What a run was not asked for at all."""
MOST_CHANGES = 4
"""So many differences from an earlier run are told."""

BATCH_BYTES = 64 * 2**20
CHUNK_BYTES = 2**20
SHARD_BYTES = 512 * 2**20
WRITE_ATTEMPTS = 4
FIRST_PAUSE = 0.2


@dataclass(frozen=True)
class Layout:
    """How a forecast variable lies in the store.

    ``dims``: ``(*extra, init_time, [member], lead_time, y, x)``. ``shape, shard, chunk``: of the whole array; of a
    file, which is a batch of init times or a part of it; of what is read at once.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    shard: tuple[int, ...]
    chunk: tuple[int, ...]

    @property
    def per_batch(self) -> int:
        """Init times in a batch."""
        return self.shard[self.dims.index("init_time")]

    @property
    def batches(self) -> int:
        return -(-self.shape[self.dims.index("init_time")] // self.per_batch)

    def inits(self, batch: int) -> slice:
        """The init times of a batch."""
        last = self.shape[self.dims.index("init_time")]
        return slice(batch * self.per_batch, min(last, (batch + 1) * self.per_batch))

    def region(self, batch: int) -> tuple[slice, ...]:
        """The part of the array that a batch writes."""
        return tuple(self.inits(batch) if dim == "init_time" else slice(None) for dim in self.dims)


def plan_layout(dims: Sequence[str], shape: Sequence[int], *, per_batch: int | None, multiple: int) -> Layout:
    """Batches of about 64 MB, in chunks of about 1 MB that hold one lead time of some init times.

    Reading a lead time of all init times, or all lead times of one, both touch few chunks that are not wanted.

    ``dims``: ``(*extra, init_time, [member], lead_time, y, x)``. ``per_batch``: init times in a batch, where somebody
    says so. ``multiple``: init times that the model gets at once: a batch is a multiple of it, or less.

    >>> dims = ("init_time", "member", "lead_time", "y", "x")
    >>> layout = plan_layout(dims, (1000, 10, 12, 256, 256), per_batch=None, multiple=3)
    >>> layout.shard, layout.chunk
    ((2, 10, 12, 256, 256), (2, 2, 1, 256, 256))
    """
    sizes = dict(zip(dims, shape, strict=True))
    grid = 4 * sizes[dims[-2]] * sizes[dims[-1]]
    each = 4 * int(np.prod(shape)) // sizes["init_time"]  # bytes of an init time
    if per_batch is None:
        per_batch = int(np.clip(BATCH_BYTES // each, 1, 512))
        per_batch = per_batch // multiple * multiple or per_batch
    per_batch = min(per_batch, sizes["init_time"])
    shard = sizes | {"init_time": per_batch}
    for dim in ("lead_time", "member"):  # a large ensemble on a large grid is several files
        if 4 * int(np.prod(list(shard.values()))) > SHARD_BYTES and dim in shard:
            shard[dim] = 1
    inits = _largest_divisor(per_batch, CHUNK_BYTES // grid)
    chunk = shard | dict.fromkeys(dims[: dims.index("init_time")], 1) | {"init_time": inits, "lead_time": 1}
    if "member" in shard:
        chunk["member"] = _largest_divisor(shard["member"], CHUNK_BYTES // (grid * inits))
    in_order = [tuple(int(of[d]) for d in dims) for of in (shard, chunk)]
    return Layout(tuple(dims), tuple(shape), *in_order)


def _largest_divisor(number: int, most: int) -> int:
    return max(d for d in range(1, number + 1) if number % d == 0 and d <= max(most, 1))


# ---------------------------------------------------------------- making and opening


def create(
    path: Path,
    template: xr.Dataset,
    name: str,
    layout: Layout,
    fingerprint: dict[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Make a store whose labels are there and whose forecasts are not; all of it or nothing.

    ``template``: as the result will be; the values of ``name`` are not looked at. ``name``: the forecast variable.
    ``fingerprint``: what the run was asked for; a run that goes on must be asked for the same. ``overwrite``: whether a
    store that is there is replaced; it stays until the new one is made.
    """
    from zarr.codecs import BloscCodec

    status = xr.Variable(
        "init_time",
        np.zeros(template.sizes["init_time"], np.int8),
        status_attributes(),
        {"chunks": (layout.per_batch,), "compressors": None},
    )
    template = template.assign_coords({STATUS: status}).assign_attrs(
        {FINGERPRINT: json.dumps(fingerprint, default=check.plain)}
    )
    blosc = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
    for variable in template.variables.values():
        variable.encoding.pop("chunksizes", None)
    template[name].encoding = {
        k: v for k, v in template[name].encoding.items() if k in ("grid_mapping", "coordinates")
    } | {"chunks": layout.chunk, "shards": layout.shard, "compressors": (blosc,), "_FillValue": np.float32(np.nan)}
    with draft(path, overwrite=overwrite) as new, warnings.catch_warnings():
        # xarray opens consolidated stores without complaint, so we write one
        warnings.filterwarnings("ignore", "Consolidated metadata", UserWarning)
        template.to_zarr(new, mode="w", compute=False, zarr_format=3, consolidated=True, safe_chunks=False)


def status_attributes() -> dict[str, Any]:
    """What CF says of a variable of flags."""
    return {
        "long_name": "what became of the init time",
        "flag_values": np.arange(len(MEANINGS), dtype=np.int8),
        "flag_meanings": " ".join(MEANINGS),
    }


def check_same_run(path: Path, fingerprint: dict[str, Any]) -> None:
    """Refuse to go on with a store that was begun otherwise.

    ValueError if it is no such store, or something differs; it says what.
    """
    found = read_fingerprint(path)
    if found is None:
        raise ValueError(f"{path} exists and is no store of a hindcast: choose another name, or overwrite=True")
    refuse_other_run(path, fingerprint, completed(path, found, fingerprint, _conversion(path)))


def _conversion(path: Path) -> Any:
    """What the forecasts of a store tell of their units; None where they do not."""
    from xnowcast.fields import cf

    try:
        with xr.open_zarr(path) as opened:
            return cf.find_field(opened).conversion
    except ValueError:
        return None


def refuse_other_run(path: Path, wanted: dict[str, Any], found: dict[str, Any]) -> None:
    """Refuse a run that was asked for something else than what is there was made with; it says what."""
    changed = differences(found, json.loads(json.dumps(wanted)))
    if changed:
        changes = [_was_begun(*change) for change in changed[:MOST_CHANGES]]
        changes += [f"{len(changed) - MOST_CHANGES} more"] if len(changed) > MOST_CHANGES else []
        raise ValueError(
            f"{path} was begun {'; '.join(changes)}: ask for the same to go on with it, choose another name, or start "
            "anew with overwrite=True (--overwrite)"
        )


def differences(before: Any, now: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """Where what two runs were asked for differs.

    ``before, now``: values, or further dicts of them. ``name``: of what they are of, in the names of what is in them.
    Returned: name, and what it was and is; `ABSENT` where one has nothing of that name.

    >>> then = {"seed": 0, "models": {"mine": {"members": 3, "units": "mm h-1"}}}
    >>> differences(then, {"seed": 0, "models": {"mine": {"members": 5, "units": "mm h-1"}}})
    [('models.mine.members', 3, 5)]
    """
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [(name, before, now)] if before != now else []
    dot = f"{name}." if name else ""
    of_each = [differences(before.get(k, ABSENT), now.get(k, ABSENT), f"{dot}{k}") for k in now | before]
    return [change for changes in of_each for change in changes]


def _was_begun(name: str, before: Any, now: Any) -> str:
    if before is ABSENT:
        return f"without {name}, and this run has {in_words(now)}"
    value = "" if isinstance(before, dict) else f" {before!r}"
    return f"with {name}{value}, and this run has {in_words(now)}"


def in_words(value: Any) -> str:
    """One side of a difference: what was asked for as a whole is not told in all its parts."""
    return "none" if value is ABSENT else "it" if isinstance(value, dict) else repr(value)


def open_archive(path: str | Path) -> xr.Dataset:
    """Open a store of forecasts lazily, with chunks as they lie in it.

    Parameters
    ----------
    path : str or pathlib.Path

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    ValueError
        If there is no such store.
    """
    if read_fingerprint(Path(path)) is None:
        raise ValueError(f"{path} is no store of a hindcast")
    return xr.open_zarr(path, consolidated=True)


def read_fingerprint(path: Path) -> dict[str, Any] | None:
    """What the run of a store was asked for; None if it is no such store."""
    try:
        attributes = json.loads((path / "zarr.json").read_text())["attributes"]
        return json.loads(attributes[FINGERPRINT])
    except (OSError, KeyError, json.JSONDecodeError):
        return None


def read_status(path: Path, layout: Layout) -> np.ndarray:
    """What became of each init time; those of a batch whose mark is missing or broken are pending."""
    import zarr

    marks = zarr.open_array(path, path=STATUS, mode="r")
    status = np.zeros(marks.shape, np.int8)
    for batch in range(layout.batches):
        inits = layout.inits(batch)
        try:
            status[inits] = marks[inits]
        except Exception as error:
            log.warning("the mark of batch %d cannot be read (%s): it is done again", batch, error)
    return status


# ---------------------------------------------------------------- writing


def write_batch(
    path: Path, name: str, layout: Layout, batch: int, values: np.ndarray | None, status: np.ndarray
) -> list[str]:
    """Write the data of a batch, and then its mark.

    ``name``: the forecast variable. ``values``: the batch in the dims of the layout; None where no init time of it
    could be forecast. ``status``: int8, one per init time of the batch. Returned: attempts that failed, for the log.
    OSError if it cannot be written after four attempts; at once where the disk is full.
    """
    notes: list[str] = []
    if values is not None:
        files = _files(path, name, layout, batch)
        for file in files:  # what is there without a mark may be broken, and Zarr would read it to add to it
            file.unlink(missing_ok=True)
        notes += _insist(lambda: _write_array(path, name, layout.region(batch), values), f"batch {batch}")
        _flush(files)
    notes += _insist(lambda: _write_array(path, STATUS, (layout.inits(batch),), status), f"the mark of batch {batch}")
    return notes


def _write_array(path: Path, name: str, region: tuple[slice, ...], values: np.ndarray) -> None:
    import zarr

    zarr.open_array(path, path=name, mode="r+")[region] = values


def _files(path: Path, name: str, layout: Layout, batch: int) -> list[Path]:
    """Where the data of a batch lie."""
    counts = [-(-size // shard) for size, shard in zip(layout.shape, layout.shard, strict=True)]
    places = [[batch] if d == "init_time" else range(n) for d, n in zip(layout.dims, counts, strict=True)]
    return [path.joinpath(name, "c", *map(str, place)) for place in product(*places)]


def _flush(files: Sequence[Path]) -> None:
    """Onto the disk, so that no mark outlives its data when the power fails."""
    for file in files:
        if file.exists():  # one without a single forecast is not written
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _insist(write: Callable[[], None], name: str) -> list[str]:
    """Try a few times, with pauses that grow; gives what went wrong before it went well."""
    notes: list[str] = []
    while True:
        try:
            write()
            return notes
        except OSError as error:
            notes.append(f"writing {name} failed, attempt {len(notes) + 1} of {WRITE_ATTEMPTS}: {error}")
            if is_full(error) or len(notes) == WRITE_ATTEMPTS:
                raise
            time.sleep(FIRST_PAUSE * 4 ** (len(notes) - 1))


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room left on the disk or in the quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def remove_leftovers(path: Path) -> None:
    """Remove what a killed run has left half written beside whole files."""
    drafts.remove_leftovers(path)
    for left in path.rglob("*.partial"):
        left.unlink(missing_ok=True)
