"""Means, spreads and extremes of further fields, measured before a training for the models that scale by them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from xnowcast.terminal import warn
from xnowcast.training.crops import Crops

SAMPLES = 64
"""Training crops that the statistics of the channels are measured over."""


@dataclass(frozen=True)
class Statistics:
    """Of c fields, NaN left out.

    ``mean, std, low, high``: ``(c,)`` float32: mean, standard deviation, smallest and largest value.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor


def measure(parts: Iterable[np.ndarray], names: Sequence[str]) -> Statistics:
    """Statistics of fields that come in parts.

    ``parts``: ``(c, ...)`` each. ``names``: of the fields, for messages. ValueError if a field is NaN throughout.

    >>> found = measure([np.array([[1.0, 3.0]]), np.array([[np.nan, 5.0]])], ["wind"])
    >>> found.mean.item(), round(found.std.item(), 4), found.low.item(), found.high.item()
    (3.0, 1.633, 1.0, 5.0)
    """
    count, mean, squares = (np.zeros(len(names)) for _ in range(3))
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    for part in parts:
        for field, values in enumerate(part.reshape(len(names), -1).astype("f8")):
            values = values[np.isfinite(values)]
            if not values.size:
                continue
            # Chan et al. (1983), which loses no digits where the mean is large, as that of a pressure
            shift, total = values.mean() - mean[field], count[field] + values.size
            squares[field] += values.var() * values.size + shift**2 * count[field] * values.size / total
            mean[field] += shift * values.size / total
            count[field] = total
            low[field], high[field] = min(low[field], values.min()), max(high[field], values.max())
    if empty := [name for name, n in zip(names, count, strict=True) if n == 0]:
        raise ValueError(f"{', '.join(map(repr, empty))}: NaN throughout in the data to train on")
    numbers = (mean, np.sqrt(squares / count), low, high)
    return Statistics(*(torch.tensor(values, dtype=torch.float32) for values in numbers))


def tell_statistics(model: nn.Module, crops: Crops, channels: Sequence[str], static: Sequence[str]) -> None:
    """Give a model the statistics of its further fields, where it has a method that takes them.

    ``model``: with ``set_channel_statistics(mean, std, low, high)`` or ``set_static_statistics(...)``. ``crops``:
    samples of the channels; static fields are taken whole from its events that are trained on. ``channels, static``:
    names of the fields. ValueError if a field is NaN throughout.

    UserWarning     If a model of rain classes sees no rain of the highest class.
    """
    if getattr(model, "phase", "classes") == "classes":
        _warn_of_an_empty_class(crops, getattr(model, "thresholds", ()))
    set_channels, set_static = (getattr(model, f"set_{kind}_statistics", None) for kind in ("channel", "static"))
    if channels and set_channels is not None:
        samples = (crops[number].channels for number in range(SAMPLES))
        statistics = measure((s.swapaxes(0, 1) for s in samples if s is not None), channels)
        set_channels(statistics.mean, statistics.std, statistics.low, statistics.high)
    if static and set_static is not None:
        events = [crops.frames.events[number] for number in np.unique(crops.windows.event)]
        fields = {id(event.static): event.static for event in events if event.static is not None}
        statistics = measure(fields.values(), static)
        set_static(statistics.mean, statistics.std, statistics.low, statistics.high)


def has_statistics(model: nn.Module) -> bool:
    """Whether a model knows its statistics; weights of images, from which it may begin, have none."""
    return not any(bool(buffer.isnan().any()) for buffer in model.buffers() if buffer.is_floating_point())


def _warn_of_an_empty_class(crops: Crops, thresholds: Sequence[float]) -> None:
    if not thresholds:
        return
    drawn = (crops[number] for number in range(SAMPLES))
    largest = max((float(s.rain[s.observed].max()) for s in drawn if s.observed.any()), default=0.0)
    if largest < thresholds[-1]:
        warn(
            f"there is no rain of {thresholds[-1]:g} mm/h or more in {SAMPLES} training crops, at most {largest:.3g}: "
            "that class can hardly be learnt",
        )
