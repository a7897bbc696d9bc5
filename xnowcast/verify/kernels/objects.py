"""Structure, amplitude and location (SAL) of the precipitation objects in fields.

Wernli et al. (2008), doi:10.1175/2008MWR2415.1; Wernli et al. (2009), doi:10.1175/2009WAF2222271.1, on the threshold.
"""

from collections.abc import Sequence

import numpy as np

from xnowcast.verify.kernels.slabs import as_floats, broadcast_shape, summed_shape, within

COMPONENTS = ("structure", "amplitude", "location", "location_1", "location_2")


def sal_sums(
    observations: np.ndarray,
    forecasts: np.ndarray,
    *,
    axis: Sequence[int],
    factor: float = 1 / 15,
    quantile: float = 0.95,
    wet: float = 0.1,
    threshold: float | None = None,
    skipna: bool = True,
) -> np.ndarray:
    """Sums over fields of the components of SAL, and how many fields have them.

    ``factor, quantile, wet, threshold``: as in `sal_of_fields`. Returned: float64, shape ``(*shape with 1 at axis,
    13)``: the components in the order of `COMPONENTS`; the number of fields that have each; the number of fields with a
    measured cell, and of those among them without an object in the observations and in the forecasts.

    >>> o = np.zeros((4, 4))
    >>> o[1, 1] = 1
    >>> sal_sums(o, 2 * o, axis=[0, 1])[0, 0, :2].round(4).tolist()
    [0.0, 0.6667]
    """
    observations, forecasts = as_floats(observations), as_floats(forecasts)
    shape = broadcast_shape(observations, forecasts)
    kept = summed_shape(shape, axis)
    sums = np.zeros((*kept, 13))
    for leading in np.ndindex(shape[:-2]):
        index = (*(slice(i, i + 1) for i in leading), slice(None), slice(None))
        obs = observations[within(index, observations.shape)].reshape(shape[-2:])
        fcst = forecasts[within(index, forecasts.shape)].reshape(shape[-2:])
        target = sums[within(index, kept)].reshape(13)  # a view: one cell is kept
        missing = np.isnan(obs) | np.isnan(fcst)
        if missing.all() or (missing.any() and not skipna):
            target += 0 if skipna else np.nan
            continue
        components, n_objects = sal_of_fields(
            obs, fcst, ~missing, factor=factor, quantile=quantile, wet=wet, threshold=threshold
        )
        defined = ~np.isnan(components)
        target[:5] += np.where(defined, components, 0)
        target[5:10] += defined
        target[10:] += (1, n_objects[0] == 0, n_objects[1] == 0)
    return sums


def sal_of_fields(
    observed: np.ndarray,
    forecast: np.ndarray,
    valid: np.ndarray,
    *,
    factor: float = 1 / 15,
    quantile: float = 0.95,
    wet: float = 0.1,
    threshold: float | None = None,
) -> tuple[np.ndarray, tuple[int, int]]:
    """Structure, amplitude and location of one pair of fields.

    ``observed, forecast``: ``(y, x)``. ``valid``: ``(y, x)``, bool: the cells that are measured in both; one at least.
    ``factor, quantile, wet``: objects of a field are its connected cells (by their sides) at or above ``factor`` times
    the quantile of its values above ``wet``. ``threshold``: the threshold of objects itself, for both fields, in place
    of these. Returned: ``(5,)`` in the order of `COMPONENTS`; NaN where undefined: amplitude without precipitation,
    structure without an object in either field, location without one in one of them. Returned: number of objects
    observed and forecast.

    >>> o = np.zeros((3, 4))
    >>> o[0, 0] = 1
    >>> sal_of_fields(o, np.roll(o, 3, axis=1), np.ones((3, 4), bool))[0].tolist()
    [0.0, 0.0, 0.6, 0.6, 0.0]
    """
    described = [
        _describe(np.where(valid, field, 0).astype(np.float64), valid, factor, quantile, wet, threshold)
        for field in (observed, forecast)
    ]
    (o_mean, o_centre, o_volume, o_spread, o_objects), (f_mean, f_centre, f_volume, f_spread, f_objects) = described
    farthest = np.hypot(*observed.shape)
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is NaN
        structure = np.float64(f_volume - o_volume) / (0.5 * (f_volume + o_volume))
        amplitude = np.float64(f_mean - o_mean) / (0.5 * (f_mean + o_mean))
    location_1 = np.hypot(*(f_centre - o_centre)) / farthest
    location_2 = 2 * abs(f_spread - o_spread) / farthest
    components = np.array([structure, amplitude, location_1 + location_2, location_1, location_2])
    return components, (o_objects, f_objects)


def _describe(field, valid, factor, quantile, wet, threshold) -> tuple[float, np.ndarray, float, float, int]:
    """Mean, centre of mass (y, x), scaled volume V, spread r of the objects around the centre, and their number."""
    from scipy import ndimage  # here, since it takes longer to import than all the rest

    mean, centre = field[valid].mean(), _centre_of_mass(field)
    if threshold is None:
        of_wet = field[valid & (field > wet)]
        threshold = factor * np.quantile(of_wet, quantile) if of_wet.size else np.inf
    labels, n_objects = ndimage.label((field >= threshold) & valid)
    if n_objects == 0:
        return mean, centre, 0.0, np.nan, 0
    cells = np.flatnonzero(labels)
    label, amount = labels.ravel()[cells] - 1, field.ravel()[cells]
    total, largest = np.bincount(label, amount), ndimage.maximum(amount, label, np.arange(n_objects))
    places = np.unravel_index(cells, field.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        # An object without any rain, below a threshold of zero, has neither volume nor centre.
        volumes = np.where(total > 0, total * (total / largest), 0)
        distances = np.hypot(*(np.bincount(label, amount * p) / total - c for p, c in zip(places, centre, strict=True)))
        volume, spread = volumes.sum() / total.sum(), np.nansum(total * distances) / total.sum()
    return mean, centre, float(volume), float(spread), int(n_objects)


def _centre_of_mass(field: np.ndarray) -> np.ndarray:
    """Mean row and column of what there is; NaN where there is nothing."""
    of_rows, of_columns = field.sum(axis=1), field.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.array([np.arange(part.size) @ part / part.sum() for part in (of_rows, of_columns)])
