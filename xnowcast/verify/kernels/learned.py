"""Distances that trained networks see: of pairs of fields, and of two sets of sequences by their features."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from threading import Lock
from typing import Any

import numpy as np

from xnowcast.verify.kernels.slabs import Index, as_floats, broadcast_shape, summed_shape, within

Network = Callable[..., Any]
"""Of torch tensors: two batches of images to distances (LPIPS), or a batch of clips to features (FVD)."""


def lpips_sums(
    observations: np.ndarray,
    forecasts: np.ndarray,
    *,
    axis: Sequence[int],
    network: str | Network,
    size: int | None = None,
    skipna: bool = True,
) -> np.ndarray:
    """Sum over fields of the distances that a network sees, and the number of fields.

    Both are images, ``(..., y, x)`` from 0 to 1. ``network``: as in `xnowcast.verify.lpips`. ``size``: cells along y
    and x that images are brought to. Returned: float64, shape ``(*shape with 1 at axis, 2)``.

    >>> images = np.zeros((2, 1, 1))
    >>> lpips_sums(images, images + 0.5, axis=[0, 1, 2], network=lambda o, f: (f - o).mean((1, 2, 3))).tolist()
    [[[[1.0, 2.0]]]]
    """
    distance = perceptual_network(network) if isinstance(network, str) else network
    observations, forecasts = as_floats(observations), as_floats(forecasts)
    kept = summed_shape(broadcast_shape(observations, forecasts), axis)
    sums = np.zeros((*kept, 2))
    for index, pair in _pairs(observations, forecasts, 2):
        target = sums[within(index, kept)].reshape(2)  # a view: one cell is kept
        shown = _without_gaps(pair, skipna)
        if shown is None:
            target += 0 if skipna else np.nan
            continue
        observed, forecast = (_three_channels(image[None], size) for image in shown)
        target += (_numbers(distance, observed, forecast).mean(), 1)
    return sums


def feature_sums(
    observations: np.ndarray,
    forecasts: np.ndarray,
    *,
    axis: Sequence[int],
    features: Network,
    count: int,
    size: int | None = None,
    skipna: bool = True,
) -> np.ndarray:
    """Number of clips, and sums of their features and of the products of these, of observations and of forecasts.

    Both are clips of images, ``(..., t, y, x)`` from 0 to 1. ``features``: from clips ``(n, 3, t, y, x)`` to ``(n,
    count)``. Returned: float64, shape ``(*shape with 1 at axis, 1 + 2 * (count + count**2))``.

    >>> clips = np.array([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1)
    >>> feature_sums(clips, clips / 2, axis=[0, 1, 2, 3], features=lambda c: c[:, 0, 0, 0], count=1).ravel().tolist()
    [3.0, 1.5, 1.25, 0.75, 0.3125]
    """
    observations, forecasts = as_floats(observations), as_floats(forecasts)
    kept = summed_shape(broadcast_shape(observations, forecasts), axis)
    sums = np.zeros((*kept, 1 + 2 * (count + count**2)))
    for index, pair in _pairs(observations, forecasts, 3):
        target = sums[within(index, kept)].reshape(-1)
        shown = _without_gaps(pair, skipna)
        if shown is None:
            target += 0 if skipna else np.nan
            continue
        target[0] += 1
        for found, own in zip(features_of(features, shown, size), np.split(target[1:], 2), strict=True):
            own[:count] += found
            own[count:] += np.outer(found, found).ravel()
    return sums


def features_of(features: Network, clips: np.ndarray, size: int | None = None) -> np.ndarray:
    """Features ``(n, count)`` of clips ``(n, t, y, x)``; a ValueError if a network gives something else.

    >>> features_of(lambda clips: clips.mean((1, 2, 3, 4)), np.full((2, 1, 4, 4), 0.5)).tolist()
    [[0.5], [0.5]]
    """
    shown = _three_channels(clips.reshape(-1, *clips.shape[-2:]), size)
    shown = shown.unflatten(0, clips.shape[:2]).transpose(1, 2)  # (n, 3, t, y, x)
    found = _numbers(features, shown)
    if found.ndim == 0 or len(found) != len(clips):
        raise ValueError(
            f"features gave an array of shape {found.shape} for {len(clips)} clips: it has to give a row for each"
        )
    return found.reshape(len(clips), -1)


def frechet_distance(
    mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other_covariance: np.ndarray
) -> float:
    """Squared Frechet distance of two normal distributions, ``|m - m'|^2 + tr(S + S' - 2 (S S')^(1/2))``.

    ``mean``: ``(k,)``. ``covariance``: ``(k, k)``. NaN where a number is. Dowson and Landau (1982).

    >>> one, four = np.array([[1.0]]), np.array([[4.0]])
    >>> frechet_distance(np.array([0.0]), one, np.array([3.0]), four)  # 3^2 + (2 - 1)^2
    10.0
    """
    if not (np.isfinite(covariance).all() and np.isfinite(other_covariance).all()):
        return np.nan
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    # S^(1/2) S' S^(1/2) has the eigenvalues of S S', and is symmetric
    shared = np.sqrt(np.linalg.eigvalsh(root @ other_covariance @ root).clip(0)).sum()
    trace = np.trace(covariance) + np.trace(other_covariance) - 2 * shared
    return float(np.square(mean - other_mean).sum() + trace)


@cache
def perceptual_network(name: str) -> Network:
    """The LPIPS of torchmetrics with a backbone of torchvision, whose weights it fetches when it is first asked for."""
    require_perceptual()
    lpip: Any = import_module("torchmetrics.image.lpip")
    try:
        metric = lpip.LearnedPerceptualImagePatchSimilarity(net_type=name, normalize=True).eval()
    except OSError as error:  # what it fetches with raises none but these
        raise OSError(
            f"the weights of {name!r} could not be had ({error}): torchvision fetches them when it is first asked, or "
            "finds them in the folder checkpoints of torch.hub.get_dir(); network= takes a function too"
        ) from error

    lock = Lock()

    def distance(observed: Any, forecast: Any) -> Any:
        with lock:  # it keeps what it was shown until it is reset
            found = metric(observed, forecast)
            metric.reset()
        return found

    return distance


def require_perceptual() -> None:
    """An ImportError that says what to install where LPIPS by the name of a network cannot be had."""
    try:
        for library in ("torchmetrics", "torchvision"):
            import_module(library)
    except (ImportError, RuntimeError) as error:  # torchvision of another build than torch raises the second
        raise ImportError(
            "LPIPS by the name of a network needs torchmetrics, and torchvision of the same build as torch: pip "
            "install 'xnowcast[perceptual]', or give network= as a function of two batches of images"
        ) from error


# ---------------------------------------------------------------- what networks are shown


def _pairs(observations: np.ndarray, forecasts: np.ndarray, last: int) -> Iterator[tuple[Index, np.ndarray]]:
    """Each observation with its forecast, (2, ...) of so many last axes."""
    shape = broadcast_shape(observations, forecasts)
    for leading in np.ndindex(shape[:-last]):
        index = (*(slice(i, i + 1) for i in leading), *([slice(None)] * last))
        both = (array[within(index, array.shape)].reshape(shape[-last:]) for array in (observations, forecasts))
        yield index, np.stack(tuple(both))


def _without_gaps(pair: np.ndarray, skipna: bool) -> np.ndarray | None:
    """With 0 in both where one is NaN; None where there is nothing else, or none may be missing."""
    missing = np.isnan(pair).any(axis=0)
    if not missing.any():
        return pair
    return None if missing.all() or not skipna else np.where(missing, 0, pair)


def _three_channels(images: np.ndarray, size: int | None) -> Any:
    """Images (n, y, x) as a float32 tensor (n, 3, y, x), or of other sizes by bicubic interpolation."""
    import torch

    shown = torch.from_numpy(images.astype(np.float32))[:, None]
    if size is not None:
        shown = torch.nn.functional.interpolate(shown, (size, size), mode="bicubic").clamp(0, 1)
    return shown.expand(-1, 3, -1, -1)


def _numbers(network: Network, *tensors: Any) -> np.ndarray:
    import torch

    with torch.no_grad():
        found = network(*tensors)
    return np.asarray(found.cpu() if isinstance(found, torch.Tensor) else found, np.float64)
