"""Scores of ensembles."""

from collections.abc import Hashable

import numpy as np
import xarray as xr

from xnowcast.verify.chunks import Dims, reduced_dims, sum_over_chunks
from xnowcast.verify.fields import XarrayObject, each_variable, require_member_dim, with_attrs
from xnowcast.verify.kernels import crps_sums


def crps_ensemble(
    observations: XarrayObject,
    forecasts: XarrayObject,
    *,
    member_dim: Hashable = "member",
    fair: bool = False,
    dim: Dims = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> XarrayObject:
    """Continuous ranked probability score of an ensemble, ``mean |x_i - y| - sum_ij |x_i - x_j| / (2 n^2)``.

    Parameters
    ----------
    observations : xarray.DataArray or xarray.Dataset
        Without ``member_dim``; NaN means not measured.
    forecasts : xarray.DataArray or xarray.Dataset
        In the same units, with ``member_dim`` and exactly the same coordinates on the dims they share.
    member_dim : hashable
        Dim of the members; always removed.
    fair : bool
        Divide the second term by ``2 n (n - 1)``: the score of the distribution the members are drawn from, with
        which ensembles of different size compare. It is NaN where there is one member.
    dim : str or iterable of hashable, optional
        Dims that are averaged over; all by default. ``[]`` gives a map.
    skipna : bool
        True: a NaN member is left out at its point (n is the number of the others there), and points without a
        score are left out of the mean. False: any NaN gives NaN.
    keep_attrs : bool
        Whether to copy the attributes of ``observations``.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        In the units of the fields, from 0, the best (the fair score of a single case can be negative); float64.
        With one member it is the absolute error. Float32 fields are compared in float32 and averaged in float64.
        Lazy where an input is; members in several chunks are brought into one.

    Raises
    ------
    ValueError
        If coordinates differ, a dim is unknown, or ``member_dim`` is not a dim of the forecasts alone.

    References
    ----------
    Gneiting and Raftery (2007), doi:10.1198/016214506000001437; Ferro (2014), doi:10.1002/qj.2270, on fair scores.

    Examples
    --------
    >>> o = xr.DataArray([1.0, 1.0], dims="x")
    >>> f = xr.DataArray([[0.5, 0.0], [1.5, 1.0], [4.0, 3.0]], dims=("member", "x"))
    >>> crps_ensemble(o, f, dim=[]).values.round(4)
    array([0.5556, 0.3333])
    >>> crps_ensemble(o, f, dim=[], fair=True).values.round(4)
    array([0.1667, 0.    ])
    """

    def of_one(obs: xr.DataArray, fcst: xr.DataArray) -> xr.DataArray:
        require_member_dim(fcst, member_dim)
        if member_dim in obs.dims:
            raise ValueError(f"observations have the dim {member_dim!r} too: select one observation per ensemble")
        sums = sum_over_chunks(
            crps_sums,
            obs,
            fcst,
            reduce=reduced_dims(dim, obs, fcst, never=[member_dim]),
            whole=[member_dim],
            member_dim=member_dim,
            new_sizes={"sum": 2},
            dtype=np.float64,
            fair=fair,
            skipna=skipna,
        )
        n, total = sums.isel(sum=0), sums.isel(sum=1)
        mean = (total / n.where(n > 0)).rename("crps")
        return with_attrs(mean, obs if keep_attrs else None)

    return each_variable(of_one, observations, forecasts, keep_attrs)
