"""The verb `deblur`, on one page: forecast -> frames -> engine -> CF dataset of the same shape."""

from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xnowcast.fields import cf, horizontal, labels
from xnowcast.fields.cf import Field
from xnowcast.fields.horizontal import T_Xarray
from xnowcast.fields.units import Relation
from xnowcast.verbs.request import OnMismatch, Request, documented

if TYPE_CHECKING:
    from xnowcast.engine import FrameLabels
    from xnowcast.models.base import DeblurModel


@documented
def deblur(
    obj: T_Xarray,
    model: "str | DeblurModel | None" = None,
    *,
    members: int | None = None,
    seed: int = 0,
    variable: Hashable | None = None,
    zr: Relation | None = None,
    on_mismatch: OnMismatch = "raise",
    weights: str | Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    diagnostics: bool = False,
    progress: bool | None = None,
    **options: Any,
) -> T_Xarray:
    """Sharpen a blurry precipitation field: a forecast of any origin, an ensemble mean, a smoothed observation.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray
        A precipitation field with y and x axes and any other dims; each frame is sharpened by itself. Init time,
        lead time and member are told by their CF standard names or by common names.
    model : str or DeblurModel, optional
        Name of a system, path of a weights file, or a model in memory; ``"postcast"`` by default.
    members : int, optional
        How many sharp frames are made of each blurry one, along a new dim ``member``. By default one of each, without
        such a dim and not 10 as in `forecast`: what is sharpened is a forecast that stays one, and has its members
        already where it is an ensemble; these are kept, each is sharpened.
    seed : int
        A whole number. The noise of a frame comes from the seed and the frame's init time, member and lead time alone.
    diagnostics : bool
        Add to a Dataset what was assumed: ``blur_kernel`` (..., ky, kx), ``reblurred`` (the sharp frame blurred
        with it) and ``blur_distance`` (mean squared difference between the input and that, in the model's scale;
        NaN where the model gave up and returned the input).
    <running>
    **options
        The model's own options.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        Whichever was given, with the same dims, coordinates and units, NaN where it was NaN; with ``members`` a
        dim ``member`` before the lead time or time. Lazy where the data are lazy.

    Raises
    ------
    ValueError
        If the field, its units, the model or an argument will not do; the message says what would.
    """
    request = Request.of(deblur, locals())
    from xnowcast import engine

    field, recipe = request.field, request.recipe
    _check_frames(field)
    horizontal.refuse_uneven(field.array, field.y, field.x)
    request.check_field(field)
    roles = cf.forecast_dims(field)
    _check_members(field, roles, members)
    if diagnostics and isinstance(obj, xr.DataArray):
        raise ValueError(
            "diagnostics are further variables, which a DataArray cannot hold: give da.to_dataset(name=...)"
        )

    numbers = None if members is None else range(members)
    plan = engine.FramePlan(seed, device, field.conversion, request.task.kernel_size)
    arrays = engine.deblur_arrays(
        labels.frames_north_up(field, **{str(d): 1 for d in field.leading}),
        recipe,
        plan,
        labels=_frame_labels(field, roles),
        members=numbers,
        batch_size=batch_size,
        diagnostics=diagnostics,
    )
    result = labels.label_frames(
        labels.user_orientation(arrays["frames"], field),
        field,
        obj,
        members=numbers,
        before=roles.get("lead_time", field.time),
        attrs=request.provenance(),
        history=f"xnowcast deblur with {request.name}",
    )
    if diagnostics:
        result = _with_diagnostics(result, arrays, field)
    return request.given_back(result, lazy=field.array.chunks is not None)


def _check_frames(field: Field) -> None:
    empty = [str(dim) for dim in field.leading if field.array.sizes[dim] == 0]
    if empty:
        raise ValueError(f"variable {field.name!r} has no frames: its dim {empty[0]!r} is empty")


def _check_members(field: Field, roles: dict[str, Hashable], members: int | None) -> None:
    if members is None:
        return
    if "member" in roles or "member" in field.array.dims:
        raise ValueError(
            f"variable {field.name!r} has members along {roles.get('member', 'member')!r} already, and each of them is "
            "sharpened: leave members out, or take their mean first"
        )


def _frame_labels(field: Field, roles: dict[str, Hashable]) -> "FrameLabels":
    """What the noise of each frame is drawn by; a frame that was picked out of a forecast keeps its own."""
    from xnowcast.engine import FrameLabels

    dims = {dim: role for role, dim in roles.items() if dim in field.array.dims}
    scalars = {
        role: int(labels.label_numbers(field.array[dim])) for role, dim in roles.items() if dim not in field.array.dims
    }
    if "init_time" not in roles and field.array.coords.get("time", field.array).ndim == 0:
        scalars["init_time"] = int(labels.label_numbers(field.array["time"]))
    known = [dims.get(d, "init_time" if d == field.time else "other") for d in field.leading]
    values = [
        np.asarray(labels.labels_of(field.array, d), dtype=object)
        if role == "other" or d not in field.array.coords
        else labels.label_numbers(field.array[d])
        for d, role in zip(field.leading, known, strict=True)
    ]
    return FrameLabels(tuple(known), tuple(values), **scalars)


def _with_diagnostics(result: xr.Dataset, arrays: dict[str, Any], field: Field) -> xr.Dataset:
    sharp = result[field.name]
    leading = [*field.leading, *(["member"] if "member" in set(sharp.dims) - set(field.array.dims) else [])]
    reblurred = labels.user_orientation(arrays["reblurred"], field)
    kernel = labels.user_orientation(arrays["kernel"], field)
    attrs = {
        "reblurred": {**sharp.attrs, "long_name": "sharp field blurred with the estimated kernel"},
        "blur_kernel": {"long_name": "estimated blur kernel", "units": "1"},
        "blur_distance": {"long_name": "mean squared difference to the input in the model's scale", "units": "1"},
    }
    return result.assign(
        reblurred=xr.Variable([*leading, field.y, field.x], reblurred, attrs["reblurred"]).transpose(*sharp.dims),
        blur_kernel=([*leading, "ky", "kx"], kernel, attrs["blur_kernel"]),
        blur_distance=(leading, arrays["distance"], attrs["blur_distance"]),
    )
