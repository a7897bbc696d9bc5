"""Scores of precipitation objects: structure, amplitude and location, and how often there is no object at all."""

from collections.abc import Hashable

import numpy as np
import xarray as xr

from xnowcast.verify.chunks import Dims, sums_of_fields
from xnowcast.verify.events import SpatialDims
from xnowcast.verify.kernels import objects
from xnowcast.verify.kernels.objects import COMPONENTS
from xnowcast.verify.score import score_of
from xnowcast.verify.sums import XarrayObject, additive, per_cell, table_of

FIELDS = ("fields", "observed_without_object", "forecasts_without_object")
SUMS = (*COMPONENTS, *(f"{name}_fields" for name in COMPONENTS), *FIELDS)


@additive(*SUMS, settings=["factor", "quantile", "wet", "threshold", "member_dim"], called="sums from sal_sums")
def sal_sums(
    observations: XarrayObject,
    forecasts: XarrayObject,
    *,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    factor: float = 1 / 15,
    quantile: float = 0.95,
    wet: float = 0.1,
    threshold: float | None = None,
    spatial_dims: SpatialDims = None,
    weights: xr.DataArray | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> xr.Dataset:
    """Sums over fields of structure, amplitude and location, with the number of fields that have each.

    Sums of different files or months are added up with `merge` or ``.sum(dim)`` before a mean is taken of them.

    Parameters
    ----------
    observations, forecasts : xarray.DataArray or xarray.Dataset
        Precipitation, not below 0, in the same units, with exactly the same coordinates on the dims they share.
        Cells in which either is NaN (not measured) count in neither: they carry nothing and belong to no object.
    factor, quantile, wet : float
        The objects of each field are its connected cells (by their sides) at or above ``factor`` times the
        ``quantile`` of its values above ``wet``: a fifteenth of the 95th percentile of what is above 0.1 (mm).
    threshold : float, optional
        Threshold of objects in the units of the fields, for all of them, in place of these.

    Returns
    -------
    xarray.Dataset
        For each component a sum, such as ``structure``, and its number of fields, ``structure_fields``; and the
        numbers of ``fields`` with a measured cell, ``observed_without_object`` and ``forecasts_without_object``;
        float64. Datasets as input give a dim ``variable``. Lazy where an input is; the horizontal dims are brought
        into one chunk.

    Raises
    ------
    ValueError
        If coordinates differ, a dim is unknown, ``quantile`` is not from 0 to 1, or ``factor`` not above 0.

    Examples
    --------
    >>> o = xr.DataArray([[0.0, 3.0], [0.0, 0.0]], dims=("y", "x"))
    >>> sums = sal_sums(o, 2 * o)
    >>> float(sums["amplitude"]), float(sums["fields"])
    (0.6666666666666666, 1.0)
    """
    if not 0 <= quantile <= 1 or not factor > 0:
        raise ValueError(f"quantile={quantile!r} must be from 0 to 1 and factor={factor!r} above 0")
    sums = sums_of_fields(
        objects.sal_sums,
        observations,
        forecasts,
        dim=dim,
        member_dim=member_dim,
        spatial_dims=spatial_dims,
        skipna=skipna,
        new_sizes={"sum": len(SUMS)},
        cell_weights=weights,
        factor=factor,
        quantile=quantile,
        wet=wet,
        threshold=threshold,
    )
    return table_of(sums, SUMS)


@score_of(sal_sums, parts=True)
def sal(sums: xr.Dataset) -> xr.Dataset:
    """Structure, amplitude and location of precipitation (SAL), field by field, and their means.

    With R the precipitation of a field, <R> its mean, x its centre of mass, and objects n of amount Rn, largest value
    Rn_max and centre xn: amplitude ``(<Rf> - <Ro>) / (0.5 (<Rf> + <Ro>))``; structure the same of
    ``V = sum Rn (Rn / Rn_max) / sum Rn``; location ``L1 + L2`` with ``L1 = |xf - xo| / d`` and ``L2 = 2 |rf - ro| / d``
    of ``r = sum Rn |x - xn| / sum Rn``, where d is the diagonal of the grid. Distances are in cells, taken as square.

    Returns
    -------
    xarray.Dataset
        ``structure`` and ``amplitude``, from -2 to 2, best at 0, negative where objects are too small or peaked, or
        there is too little; ``location``, from 0, the best, to 2, and its parts ``location_1`` and ``location_2``,
        from 0 to 1; means over the fields in which they are defined; float64. Amplitude is NaN without
        precipitation; structure without an object in either field, and -2 or 2 without one in one of them; location
        without one in either. Means of the signed values may hide errors that cancel: look at single fields too.

    References
    ----------
    Wernli et al. (2008), doi:10.1175/2008MWR2415.1; Wernli et al. (2009), doi:10.1175/2009WAF2222271.1, eq. 1.

    Examples
    --------
    >>> o = np.zeros((3, 4))
    >>> o[0, 0] = 1
    >>> o, f = xr.DataArray(o, dims=("y", "x")), xr.DataArray(2 * np.roll(o, 3, axis=1), dims=("y", "x"))
    >>> {name: round(float(value), 4) for name, value in sal(o, f).items()}
    {'structure': 0.0, 'amplitude': 0.6667, 'location': 0.6, 'location_1': 0.6, 'location_2': 0.0}
    """
    return xr.Dataset({n: per_cell(np.divide, sums, [n, f"{n}_fields"], n) for n in COMPONENTS})


@score_of(sal_sums, parts=True)
def object_free_fraction(sums: xr.Dataset) -> xr.Dataset:
    """Share of the fields in which there is no precipitation object, observed and forecast.

    A mean of `sal` is one over fields with objects; this says how many had none, and whether forecasts have too few
    or too many of them.

    Returns
    -------
    xarray.Dataset
        ``observed`` and ``forecast``, from 0 to 1, best where equal; float64, dimensionless. NaN where no field has a
        measured cell. A field has an object as soon as a cell is above ``wet``, or reaches ``threshold``.

    Examples
    --------
    >>> o = xr.DataArray([[[0.0, 3.0]], [[0.0, 0.0]]], dims=("time", "y", "x"))
    >>> {name: float(share) for name, share in object_free_fraction(o, o.max("time").expand_dims(time=2)).items()}
    {'observed': 0.5, 'forecast': 0.0}
    """
    fields, observed, forecast = FIELDS
    parts = {"observed": observed, "forecast": forecast}
    return xr.Dataset({name: per_cell(np.divide, sums, [part, fields], name) for name, part in parts.items()})
