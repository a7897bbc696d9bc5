"""Scores of events in neighbourhoods: sums of squared fractions, and the fractions skill score taken of them last.

The fraction P of a window is the share of its measured cells in which an event, ``value >= threshold``, is observed
(Po) or forecast (Pf): Roberts and Lean (2008), doi:10.1175/2007MWR2123.1.
"""

from collections.abc import Hashable

import numpy as np
import xarray as xr

from xnowcast.verify.align import find_spatial_dims
from xnowcast.verify.chunks import Dims, reduced_dims, sum_over_chunks
from xnowcast.verify.events import Scales, SpatialDims, scale_coordinate
from xnowcast.verify.kernels.fractions import BOUNDARIES, fractions_sums
from xnowcast.verify.score import Column, score_of
from xnowcast.verify.sums import (
    KINDS,
    XarrayObject,
    additive,
    checked,
    find_member_dim,
    per_cell,
    table_of,
    with_attrs,
    without_label,
)
from xnowcast.verify.thresholds import Thresholds, threshold_coordinate

SUMS = ("squared_difference", "squared_forecast", "squared_observed", "observed_events", "cells")


@additive(
    *SUMS,
    own_dims=["threshold", "scale"],
    fixed_dims=["threshold"],
    settings=["boundary", "min_valid", "member_dim"],
    called="sums from fss_sums",
)
def fss_sums(
    observations: XarrayObject,
    forecasts: XarrayObject,
    *,
    thresholds: Thresholds,
    scales: Scales,
    dim: Dims = None,
    member_dim: Hashable | None = None,
    boundary: str = "renormalise",
    min_valid: float = 0.0,
    spatial_dims: SpatialDims = None,
    weights: xr.DataArray | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> xr.Dataset:
    """Sums that the fractions skill score is made of, at all thresholds and window widths in one pass.

    A window counts if its centre is measured: the middle cell of an odd width, any of the four cells around the
    middle corner of an even one. So a margin of NaN around the grid changes nothing, and neither does turning both
    fields over.

    Parameters
    ----------
    observations, forecasts : xarray.DataArray or xarray.Dataset
        In the same units, with exactly the same coordinates on the dims they share. A cell in which either is NaN
        (not measured) belongs to no window.
    thresholds : float, sequence of float, or str
        An event is ``value >= threshold``, with the threshold in the precision of the data. A sequence makes a
        dim ``threshold``, a number a scalar coordinate. The name of a set, such as "hko7", stands for the numbers
        that belong to the ``units`` of the fields.
    scales : int or sequence of int
        Width of the square windows in cells, odd or even; a window wider than the grid holds all of it. A sequence
        makes a dim ``scale``.
    dim : str or iterable of hashable, optional
        Dims that are summed over; all by default. The horizontal dims always are. Members of an ensemble are
        scored each as a forecast, unless ``member_dim`` is given.
    member_dim : hashable, optional
        When given, the forecast fraction of a window is the mean of the members' (the ensemble FSS), where a cell
        counts with the members that are not NaN.
    boundary : {"renormalise", "interior", "zero", "pysteps", "scores"}
        "renormalise": windows are centred on the grid, its edge included, and cells off the grid are not measured.
        "interior": only windows that lie on the grid (the default of the package scores); none where the scale is
        wider. "zero": off the grid it is dry. "pysteps" and "scores": the same with the windows that pysteps, or
        scores with ``zero_padding``, takes; these differ from "zero" by one row and column where the scale is even
        or odd, respectively, so that turning both fields over changes the score.
    min_valid : float
        From 0 to 1: share of the ``scale ** 2`` cells of a window that must be measured, else it does not count.

    Returns
    -------
    xarray.Dataset
        Variables ``squared_difference``, ``squared_forecast``, ``squared_observed`` (of the fractions, over
        windows), and without ``scale``: ``observed_events`` and ``cells`` (measured); float64. Datasets as input
        give a dim ``variable``. Lazy where an input is; the horizontal dims, and members with ``member_dim``, are
        brought into one chunk.

    Raises
    ------
    ValueError
        If coordinates differ, a dim or boundary is unknown, a threshold is not finite, a named one does not fit the
        units, a scale is not a whole number from 1 up, or ``min_valid`` is not from 0 to 1.

    Examples
    --------
    >>> o, f = np.zeros((2, 8, 8))
    >>> o[0, 0], f[1, 1] = 1, 1
    >>> sums = fss_sums(xr.DataArray(o, dims=("y", "x")), xr.DataArray(f, dims=("y", "x")), thresholds=1, scales=1)
    >>> {name: float(value) for name, value in sums.items()}
    {'squared_difference': 2.0, 'squared_forecast': 1.0, 'squared_observed': 1.0, 'observed_events': 1.0,
     'cells': 64.0}
    """
    threshold, scale = threshold_coordinate(thresholds, observations, forecasts), scale_coordinate(scales, "")
    _check_options(boundary, min_valid)
    places = find_spatial_dims(forecasts, spatial_dims)
    find_spatial_dims(observations, places)
    if member_dim is not None:
        member_dim = find_member_dim(forecasts, member_dim)
        if member_dim in observations.dims:
            raise ValueError(f"observations have the dim {member_dim!r} too: select one observation per ensemble")
    members = [] if member_dim is None else [member_dim]
    reduce = reduced_dims(dim, observations, forecasts, never=members)
    sums = sum_over_chunks(
        fractions_sums,
        observations,
        forecasts,
        reduce=[*reduce, *places],
        whole=[*places, *members],
        last=places,
        member_dim=member_dim,
        new_sizes={"threshold": threshold.size, "scale": scale.size, "sum": len(SUMS)},
        dtype=np.float64,
        cell_weights=weights,
        thresholds=tuple(float(t) for t in np.atleast_1d(threshold.values)),
        scales=tuple(int(s) for s in np.atleast_1d(scale.values)),
        boundary=boundary,
        min_valid=float(min_valid),
        skipna=skipna,
    )
    return table_of(sums, SUMS, threshold, scale, once=dict.fromkeys(SUMS[3:], "scale"))


@score_of(
    fss_sums,
    needs=SUMS[:3],
    columns=Column(
        "fractions skill score",
        range=(0, 1),
        best=1,
        members="mean",
        comment="of the share of members in each neighbourhood",
        archive="neighbourhoods",
    ),
)
def fss(sums: xr.Dataset) -> xr.DataArray:
    """Fractions skill score, ``1 - sum (Pf - Po)^2 / (sum Pf^2 + sum Po^2)``, over windows of each width.

    Returns
    -------
        NaN (0/0) where no window has an event. Squares are added up
        over ``dim`` before the ratio is taken, which is not the mean of the scores of single fields.

    References
    ----------
    Roberts and Lean (2008), doi:10.1175/2007MWR2123.1, eq. 5 to 7; Faggian et al. (2015) on summed-area tables;
    Schwartz et al. (2010), doi:10.1175/2009WAF2222267.1, on ensembles.

    Examples
    --------
    >>> o, f = np.zeros((2, 8, 8))
    >>> o[0, 0], f[1, 1] = 1, 1
    >>> o, f = xr.DataArray(o, dims=("y", "x")), xr.DataArray(f, dims=("y", "x"))
    >>> fss(o, f, thresholds=1, scales=[1, 3]).values.round(4)
    array([0.   , 0.738])
    >>> float(fss(o, f, thresholds=1, scales=3, boundary="interior"))
    0.4
    """
    return per_cell(_ratio, sums, SUMS[:3], "fss")


def fss_target(sums: xr.Dataset, *, keep_attrs: bool = False) -> xr.DataArray:
    """Fractions skill score from which a forecast is useful, ``0.5 + f0 / 2`` (FSS_uniform).

    It is the score, at the scale of a cell, of a forecast that has the observed share f0 of events everywhere.

    Parameters
    ----------
    sums : xarray.Dataset
        From `fss_sums`.
    keep_attrs : bool
        Whether to copy the attributes of the sums.

    Returns
    -------
    xarray.DataArray
        From 0.5 to 1, by threshold; float64. NaN where no cell is measured.

    Raises
    ------
    TypeError
        If this is not a Dataset from `fss_sums`.

    References
    ----------
    Roberts and Lean (2008), doi:10.1175/2007MWR2123.1, section 2d.

    Examples
    --------
    >>> o = xr.DataArray([[1.0, 0.0], [0.0, 0.0]], dims=("y", "x"))
    >>> float(fss_target(fss_sums(o, o, thresholds=1, scales=1)))
    0.625
    """
    sums = _checked(sums, "fss_target")
    target = per_cell(lambda events, cells: 0.5 + events / cells / 2, sums, SUMS[3:], "fss_target")
    return with_attrs(target, sums["cells"] if keep_attrs else None)


def useful_scale(sums: xr.Dataset, *, keep_attrs: bool = False) -> xr.DataArray:
    """Smallest of the scales at which the fractions skill score reaches its target, `fss_target`.

    Parameters
    ----------
    sums : xarray.Dataset
        From `fss_sums`, with a dim ``scale``.
    keep_attrs : bool
        Whether to copy the attributes of the sums.

    Returns
    -------
    xarray.DataArray
        In grid cells, by threshold; float64. One of the scales, never between two. NaN where none reaches the
        target.

    Raises
    ------
    TypeError, ValueError
        If this is not a Dataset from `fss_sums`, or has one scale only, as a scalar.

    References
    ----------
    Roberts and Lean (2008), doi:10.1175/2007MWR2123.1, section 2d.

    Examples
    --------
    >>> o, f = np.zeros((2, 32, 32))
    >>> o[16, 16], f[16, 18] = 1, 1
    >>> o, f = xr.DataArray(o, dims=("y", "x")), xr.DataArray(f, dims=("y", "x"))
    >>> float(useful_scale(fss_sums(o, f, thresholds=1, scales=[1, 3, 5, 7])))
    5.0
    """
    sums = _checked(sums, "useful_scale")
    if "scale" not in sums.dims:
        raise ValueError(f"sums have dims {tuple(sums.dims)}, no 'scale': give fss_sums a sequence of scales")
    reached = sums["scale"].where(fss(sums) >= fss_target(sums))
    smallest = reached.min("scale").rename("useful_scale")
    return with_attrs(smallest, sums["cells"] if keep_attrs else None)


def _ratio(difference, forecast, observed):
    return 1 - difference / (forecast + observed)


def _checked(sums: xr.Dataset, score: str) -> xr.Dataset:
    if not (isinstance(sums, xr.Dataset) and set(SUMS) <= set(sums.data_vars)):
        raise TypeError(f"{score} takes sums from fss_sums alone")
    checked(sums, KINDS["fss_sums"], score)
    return without_label(sums)


def _check_options(boundary: str, min_valid: float) -> None:
    if boundary not in BOUNDARIES:
        raise ValueError(f"boundary={boundary!r} is unknown; choose one of {', '.join(BOUNDARIES)}")
    if not 0 <= min_valid <= 1:
        raise ValueError(f"min_valid={min_valid!r} must be a share from 0 to 1")
