"""Ranks of observations among the members of ensembles, and the probability integral transform that they make."""

from collections.abc import Hashable
from typing import Any, Literal

import numpy as np
import xarray as xr

from xnowcast import check
from xnowcast.verify.chunks import Dims
from xnowcast.verify.ensemble import sums_of_members
from xnowcast.verify.kernels import ranks
from xnowcast.verify.sums import KINDS, XarrayObject, additive, each_variable, find_member_dim, with_attrs


@additive(own_dims=["rank"], settings=["ties", "min_value"])
def rank_histogram(
    observations: XarrayObject,
    forecasts: XarrayObject,
    *,
    member_dim: Hashable = "member",
    ties: Literal["expected", "random"] = "expected",
    seed: int = 0,
    min_value: float | None = None,
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> XarrayObject:
    """How often the observation has each rank among the members: flat if they are drawn like it.

    Counts of different files or months are added up with `merge` or ``.sum(dim)``.

    Parameters
    ----------
    forecasts : xarray.DataArray or xarray.Dataset
        In the same units, with ``member_dim`` and exactly the same coordinates on the dims they share. Points where
        the observation or any member is NaN are left out, as ranks among fewer members are others.
    ties : {"expected", "random"}
        What becomes of a point with t members equal to the observation, such as where all are dry. "expected" adds
        1 / (t + 1) to each of the t + 1 ranks that it can have: exact, and the mean of all random choices. "random"
        draws one of them for each point.
    seed : int
        Of ``ties="random"``. The draw is made of the sums, so that chunks make no difference.
    min_value : float, optional
        Points where the observation and all members are below are left out: a wet mask.
    weights : xarray.DataArray, optional
        Of points, along some of their dims, such as those of `area_weights`; with expected ties alone.
    skipna : bool
        False: one NaN makes the counts NaN.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        float64 counts along a dim ``rank``, from 1 (the observation is below all members) to the number of members
        plus 1. Lazy where an input is.

    Raises
    ------
    ValueError
        If coordinates differ, a dim is unknown, ``member_dim`` is not a dim of the forecasts alone, or ``ties`` is
        something else.

    References
    ----------
    Hamill (2001), doi:10.1175/1520-0493(2001)129<0550:IORHFV>2.0.CO;2

    Examples
    --------
    >>> o = xr.DataArray([0.0, 2.0], dims="x")
    >>> f = xr.DataArray([[0.0, 1.0], [0.0, 3.0]], dims=("member", "x"))
    >>> rank_histogram(o, f).values.round(3)
    array([0.333, 1.333, 0.333])
    >>> rank_histogram(o, f, min_value=0.1).values
    array([0., 1., 0.])
    """
    if ties not in ("expected", "random"):
        raise ValueError(f"ties={ties!r} must be 'expected' or 'random'")
    at_random = ties == "random"
    if at_random and weights is not None:
        raise ValueError("ties='random' draws whole numbers of points, which have no weights: use ties='expected'")
    n_ranks = forecasts.sizes[find_member_dim(forecasts, member_dim)] + 1
    sums = sums_of_members(
        ranks.rank_sums,
        observations,
        forecasts,
        dim=dim,
        member_dim=member_dim,
        new_sizes={"lowest_and_highest": n_ranks**2} if at_random else {"rank": n_ranks},
        cell_weights=weights,
        min_value=-np.inf if min_value is None else float(min_value),
        ties_apart=at_random,
        skipna=skipna,
    )
    counts = _draw_ranks(sums, n_ranks, seed) if at_random else sums
    return counts.assign_coords(rank=np.arange(1, n_ranks + 1)).rename("rank_histogram")


def _draw_ranks(counts: xr.DataArray, n_ranks: int, seed: int) -> xr.DataArray:
    """Ranks drawn for all points of each count of lowest and highest rank."""
    kept = [d for d in counts.dims if d != "lowest_and_highest"]
    # Each histogram has a random stream of its own, known by its place.
    place = _places(counts.isel(lowest_and_highest=0, drop=True))
    return xr.apply_ufunc(
        _draw_ranks_of_table,
        counts,
        place,
        kwargs={"n_ranks": n_ranks, "seed": seed},
        input_core_dims=[["lowest_and_highest"], []],
        output_core_dims=[["rank"]],
        dask="parallelized",
        dask_gufunc_kwargs={"output_sizes": {"rank": n_ranks}},
        output_dtypes=[np.float64],
    ).transpose(*kept, "rank")


def _draw_ranks_of_table(counts: np.ndarray, place: np.ndarray, *, n_ranks: int, seed: int) -> np.ndarray:
    drawn = np.zeros((*counts.shape[:-1], n_ranks))
    for index in np.ndindex(counts.shape[:-1]):
        table = counts[index].reshape(n_ranks, n_ranks)
        if np.isnan(table).any():
            drawn[index] = np.nan
            continue
        rng = np.random.default_rng([seed, int(place[index])])
        for lowest, highest in np.argwhere(table):
            n = highest - lowest + 1
            # Points that can have the same ranks are alike: how many get each of these is one multinomial draw.
            drawn[index][lowest : highest + 1] += rng.multinomial(int(table[lowest, highest]), np.full(n, 1 / n))
    return drawn


def _places(like: xr.DataArray) -> xr.DataArray:
    """Number of each value in the order of the dims, in the chunks of ``like``."""
    place, step = xr.zeros_like(like.variable, dtype=np.uint64), 1
    for dim in reversed(like.dims):
        along = xr.Variable(dim, np.arange(like.sizes[dim], dtype=np.uint64) * np.uint64(step))
        place = place + (along.chunk({dim: like.chunksizes[dim]}) if like.chunks is not None else along)
        step *= like.sizes[dim]
    return xr.DataArray(place.transpose(*like.dims))


def pit(
    observations: XarrayObject,
    forecasts: XarrayObject,
    *,
    member_dim: Hashable = "member",
    ties: Literal["middle", "random"] = "middle",
    seed: int = 0,
    min_value: float | None = None,
    keep_attrs: bool = False,
) -> XarrayObject:
    """Probability integral transform at each point: how much of the forecast distribution lies below the observation.

    The observation takes one of n + 1 places among n members, each as likely as the others if they are drawn like it.
    With b members below and t equal it is somewhere in ``b / (n + 1) ... (b + t + 1) / (n + 1)``.

    Parameters
    ----------
    observations, forecasts, member_dim, min_value, keep_attrs
        As for `rank_histogram`.
    ties : {"middle", "random"}
        The middle of that interval, or a value drawn from it for each point, which is uniform from 0 to 1 over all
        points of a reliable ensemble, even where all is dry.
    seed : int
        Of ``ties="random"``. Each point has its own number, so that chunks make no difference.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        float64, from 0 to 1, dims of the forecasts without ``member_dim``; NaN where the observation or a member is,
        or where all are below ``min_value``. Lazy where an input is.

    Raises
    ------
    ValueError
        As `rank_histogram`.

    References
    ----------
    Czado et al. (2009), doi:10.1111/j.1541-0420.2009.01191.x, on randomised values; Hamill (2001) on ranks.

    Examples
    --------
    >>> o = xr.DataArray([0.0, 2.0], dims="x")
    >>> f = xr.DataArray([[0.0, 1.0], [0.0, 1.0], [0.0, 3.0]], dims=("member", "x"))
    >>> pit(o, f).values
    array([0.5  , 0.625])
    """
    if ties not in ("middle", "random"):
        raise ValueError(f"ties={ties!r} must be 'middle' or 'random'")

    def of_one(obs: xr.DataArray, fcst: xr.DataArray) -> xr.DataArray:
        bounds = sums_of_members(
            ranks.rank_points,
            obs,
            fcst,
            dim=[],
            member_dim=member_dim,
            new_sizes={"bound": 2},
            min_value=-np.inf if min_value is None else float(min_value),
        )
        lowest, highest = bounds.isel(bound=0), bounds.isel(bound=1)
        part: Any = 0.5
        if ties == "random":
            part = xr.apply_ufunc(_uniform, _places(lowest), kwargs={"seed": seed}, dask="parallelized")
        value = (lowest + part * (highest - lowest + 1)) / (fcst.sizes[find_member_dim(fcst, member_dim)] + 1)
        return with_attrs(value.rename("pit"), obs if keep_attrs else None)

    return each_variable(of_one, observations, forecasts, keep_attrs)


def _uniform(place: np.ndarray, *, seed: int) -> np.ndarray:
    """A number from 0 to 1 (excluded) that its place and the seed alone decide: SplitMix64, Steele et al. (2014)."""
    start = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    z = start + (np.asarray(place, np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


@additive(own_dims=["pit"], settings=["min_value"])
def pit_histogram(
    observations: XarrayObject,
    forecasts: XarrayObject,
    *,
    bins: int = 10,
    member_dim: Hashable = "member",
    min_value: float | None = None,
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    skipna: bool = True,
    keep_attrs: bool = False,
) -> XarrayObject:
    """Histogram of the probability integral transform in equal bins: flat if reliable, whatever the number of members.

    Nothing is drawn: each point is spread evenly over the interval that `pit` describes, which is what random values
    give on average. It is the rank histogram with its n + 1 ranks laid out from 0 to 1.

    Parameters
    ----------
    forecasts, min_value, skipna
        As for `rank_histogram`.
    bins : int
        Number of bins from 0 to 1.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        float64 counts along a dim ``pit``, whose coordinate has the middles of the bins. Lazy where an input is.

    Raises
    ------
    ValueError
        As `rank_histogram`, and if ``bins`` is not a positive whole number.

    References
    ----------
    Czado et al. (2009), doi:10.1111/j.1541-0420.2009.01191.x, on histograms without random numbers.

    Examples
    --------
    >>> o = xr.DataArray([0.0, 2.0], dims="x")
    >>> f = xr.DataArray([[0.0, 1.0], [0.0, 1.0], [0.0, 3.0]], dims=("member", "x"))
    >>> pit_histogram(o, f, bins=2).values
    array([0.5, 1.5])
    """
    check.whole("bins", bins, 1)
    options: dict[str, Any] = {"member_dim": member_dim, "min_value": min_value, "dim": dim, "skipna": skipna}
    counts = KINDS["rank_histogram"].fields(observations, forecasts, weights=weights, **options)
    n_ranks = counts.sizes["rank"]
    # In units of 1 / (n_ranks * bins), all bounds are whole numbers.
    rank, bar = np.ogrid[:n_ranks, :bins]
    shared = np.minimum((rank + 1) * bins, (bar + 1) * n_ranks) - np.maximum(rank * bins, bar * n_ranks)
    part = xr.DataArray(np.maximum(shared, 0) / bins, dims=("rank", "pit"))
    middles = (np.arange(bins) + 0.5) / bins
    laid_out = xr.dot(counts.drop_vars("rank"), part, dim="rank").assign_coords(pit=middles)
    return laid_out.rename("pit_histogram")
