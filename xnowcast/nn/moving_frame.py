"""The frame that moves with the rain: frames are carried onto the newest one, and forecasts back onto the ground."""

import torch
from torch import Tensor

from xnowcast.nn.advection import along_trajectories
from xnowcast.nn.optical_flow import dense_flow

TRACE = 0.2  # mm/h: added before the logarithm that motion is sought in
CARRIED = 0.5  # share of the motion that travels with the rain; either kind of trajectory alone lost somewhere
WIDEST = 1000.0  # grid cells: within wider windows the few numbers at the rim of a small grid no longer add up


def check_window(window: float) -> None:
    """Refuse a window, its standard deviation in grid cells, within which no motion can be fitted."""
    if not 0 < window <= WIDEST:
        raise ValueError(f"window is {window!r}: it is a length in grid cells, above 0 and up to {WIDEST:g}")


def motion_of(rain: Tensor, observed: Tensor, *, window: float) -> Tensor:
    """Motion ``(b, 2, y, x)``, in cells per step, of rain ``(b, t, y, x)`` in mm/h; what was not measured is finite."""
    with torch.no_grad(), torch.autocast(rain.device.type, enabled=False):
        return dense_flow(10.0 * torch.log10(rain.float().clamp(min=0.0) + TRACE), observed, window=window)


def onto_newest(rain: Tensor, observed: Tensor, motion: Tensor, known: int) -> tuple[Tensor, Tensor]:
    """Frames ``(b, t, y, x)`` carried onto the newest of the ``known`` ones; later ones, in training, are carried back.

    Returns rain and where it is known: 0 and False elsewhere.

    >>> rain, still = torch.rand(1, 3, 16, 16), torch.zeros(1, 2, 16, 16)
    >>> moved, valid = onto_newest(rain, rain >= 0, still, known=2)
    >>> torch.allclose(moved, rain, atol=1e-5), bool(valid.all())
    (True, True)
    """
    past = [part[:, : known - 1].flip(1) for part in (rain, observed)]
    parts = [along_trajectories(past[0], motion, past[1], carried=CARRIED).flip(1)] if known > 1 else []
    parts.append(rain[:, known - 1 : known].masked_fill(~observed[:, known - 1 : known], torch.nan))
    if rain.shape[1] > known:
        parts.append(along_trajectories(rain[:, known:], -motion, observed[:, known:], carried=CARRIED))
    moved = torch.cat(parts, 1)
    return moved.nan_to_num(0.0), moved.isfinite()


def carried_back(frames: Tensor, seen: Tensor) -> Tensor:
    """Frames ``(b, t, y, x)``, what was not ``seen`` in one as it is in the next: nothing there is taken to change."""
    filled = [frames[:, -1]]
    for frame, known in zip(frames[:, :-1].unbind(1)[::-1], seen[:, :-1].unbind(1)[::-1], strict=True):
        filled.append(torch.where(known, frame, filled[-1]))
    return torch.stack(filled[::-1], 1)


def onto_ground(fields: Tensor, motion: Tensor, newest_observed: Tensor) -> Tensor:
    """Fields ``(b, n, y, x)`` of 1, 2, ... steps ahead in the moving frame, carried to where the rain will be.

    NaN where the air comes from outside the grid, from where the field is NaN, or from where the newest frame was not
    measured: ``newest_observed`` is ``(b, y, x)``.

    >>> east = torch.zeros(1, 2, 8, 8)
    >>> east[:, 1] = 1.0
    >>> fields = torch.arange(8.0).expand(1, 2, 8, 8)
    >>> onto_ground(fields, east, torch.ones(1, 8, 8, dtype=torch.bool))[0, :, 4, 5].round(decimals=3).tolist()
    [4.0, 3.0]
    """
    known = newest_observed[:, None] & ~fields.isnan()
    return along_trajectories(fields, motion, known, carried=CARRIED)
