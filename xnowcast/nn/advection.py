"""Backward semi-Lagrangian advection: where the air at each cell comes from, and what was there."""

import torch
from torch import Tensor
from torch.nn import functional as F

FIXED_POINT = 3  # iterations per step for straight trajectories


def back_trajectories(
    motion: Tensor, steps: int, *, carried: float = 0.0, spacing: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """Starting points of the trajectories that arrive at every grid node after 1, 2, ... steps.

    If the motion belongs to the place, a trajectory bends along it (midpoint steps, second order); if it
    belongs to the rain and travels with it, a trajectory is straight: the solution of start = arrival - n V(start).
    Real rain systems lie between: ``carried`` weighs the two starting points. Beyond the edge the motion of the
    nearest edge cell is used.

    ``motion``: (b, 2, y, x), float, grid cells per step; component 0 along +y index, 1 along +x index. Finite.
    ``steps``: how many steps to go back, at least 1. ``carried``: 0: the motion stays in place; 1: it is carried along
    with the rain. ``spacing``: distance between neighbouring nodes along y and x in those grid cells, where the motion
    is given on a coarser grid than the cells it counts. Returned: (b, steps, 2, y, x): index position (y, x), in grid
    cells from the first node, where the trajectory starts. It may lie outside the grid. ValueError if ``motion`` is not
    (b, 2, y, x), ``steps`` is below 1 or ``carried`` not within 0 to 1.

    Germann and Zawadzki (2002), doi:10.1175/1520-0493(2002)130<2859:SDOTPO>2.0.CO;2

    >>> motion = torch.ones(1, 2, 8, 8)
    >>> start = back_trajectories(motion, 3)
    >>> start[0, :, 0, 5, 5].tolist()
    [4.0, 3.0, 2.0]
    """
    _check_motion(motion)
    if steps < 1:
        raise ValueError(f"steps is {steps}: ask for at least one")
    if not 0 <= carried <= 1:
        raise ValueError(f"carried is {carried}: it is a share between 0 and 1")
    _, _, ny, nx = motion.shape
    y = torch.arange(ny, device=motion.device, dtype=motion.dtype) * spacing[0]
    x = torch.arange(nx, device=motion.device, dtype=motion.dtype) * spacing[1]
    extent = ((ny - 1) * spacing[0], (nx - 1) * spacing[1])
    arrival = torch.stack(torch.meshgrid(y, x, indexing="ij")).expand_as(motion)
    curved, speed, starts = arrival, motion, []
    for step in range(1, steps + 1):
        if carried < 1:
            here = motion if step == 1 else _at(motion, curved, extent)
            curved = curved - _at(motion, curved - 0.5 * here, extent)
        if carried > 0:
            for _ in range(FIXED_POINT):  # starts from the speed found for the step before
                speed = _at(motion, arrival - step * speed, extent)
        starts.append((1 - carried) * curved + carried * (arrival - step * speed))
    return torch.stack(starts, 1)


def advect(
    field: Tensor,
    motion: Tensor,
    steps: int,
    *,
    observed: Tensor | None = None,
    inflow: str = "nan",
    interpolation: str = "bilinear",
    carried: float = 0.0,
    coarsen: int = 8,
) -> Tensor:
    """The field carried along a motion for 1, 2, ..., ``steps`` steps.

    For every lead the field is interpolated once, at the start of the backward trajectory, so repeated
    interpolation smooths nothing away.

    ``field``: (b, y, x), float. Cells that are not observed may hold anything finite or NaN. ``motion``: (b, 2, y, x),
    grid cells per step; component 0 along +y index, 1 along +x index. Finite. ``steps``: number of leads, at least 1.
    ``observed``: (b, y, x) bool, where ``field`` is a measurement; by default where it is not NaN. A cell of the
    forecast is *covered* where at least half of the interpolation weight lies on observed cells inside the grid, and
    its value is the mean over those. ``inflow``: what stands where a cell is not covered: NaN (nothing is known) or 0.
    ``interpolation``: how the field is read between its cells. ``carried``: share of the motion that travels with the
    field, see `back_trajectories`. ``coarsen``: trajectories are computed on nodes about this many cells apart and
    interpolated linearly between them; exact where the motion varies linearly. 1 computes one for every cell. Returned:
    (b, steps, y, x), same dtype as ``field``. ValueError if shapes disagree or an option has no such value.

    A rain cell carried one cell along x each step:

    >>> field = torch.zeros(1, 8, 8)
    >>> field[0, 4, 2] = 5.0
    >>> motion = torch.zeros(1, 2, 8, 8)
    >>> motion[:, 1] = 1.0
    >>> rain = advect(field, motion, 3, inflow="dry")
    >>> [round(float(rain[0, k, 4, 3 + k]), 3) for k in range(3)]
    [5.0, 5.0, 5.0]
    """
    _check_motion(motion)
    if field.ndim != 3 or field.shape != (motion.shape[0], *motion.shape[2:]):
        raise ValueError(
            f"field has shape {tuple(field.shape)} and motion {tuple(motion.shape)}: "
            "they must be (b, y, x) and (b, 2, y, x) on one grid"
        )
    if observed is not None and observed.shape != field.shape:
        raise ValueError(f"observed has shape {tuple(observed.shape)}, field {tuple(field.shape)}: make them equal")
    if inflow not in ("nan", "dry"):
        raise ValueError(f"inflow is {inflow!r}: choose 'nan' or 'dry'")
    if interpolation not in ("bilinear", "nearest"):
        raise ValueError(f"interpolation is {interpolation!r}: choose 'bilinear' or 'nearest'")
    if coarsen < 1:
        raise ValueError(f"coarsen is {coarsen}: it is a number of grid cells, at least 1")
    known = torch.isfinite(field) if observed is None else observed & torch.isfinite(field)
    layers = torch.stack([torch.where(known, field, 0.0), known.to(field.dtype)], 1)
    grid = sampling_grid(motion, steps, carried, coarsen).to(field.dtype)
    layers = F.grid_sample(layers, grid, mode=interpolation, padding_mode="zeros", align_corners=True)
    outside = float("nan") if inflow == "nan" else 0.0
    return _covered_mean(layers, outside).view(field.shape[0], steps, *field.shape[1:])


def along_trajectories(
    fields: Tensor, motion: Tensor, observed: Tensor, *, carried: float = 0.0, coarsen: int = 8
) -> Tensor:
    """Each of some fields where the trajectories of as many steps as its place start.

    A forecast in the frame that moves with the rain becomes one on the ground with the motion; earlier frames, the
    latest first, come to lie upon the newest with the motion too, and later ones with the motion reversed.

    ``fields``: (b, n, y, x), finite: the first is read one step away, the last n steps. ``motion``: (b, 2, y, x), grid
    cells per step. ``observed``: (b, n, y, x), bool: where fields may be read. ``carried, coarsen``: as for `advect`.
    Returned: (b, n, y, x), NaN where less than half of what is read is observed and inside the grid.

    >>> fields = torch.zeros(1, 2, 8, 8)
    >>> fields[0, 0, 4, 3] = fields[0, 1, 4, 2] = 5.0
    >>> motion = torch.zeros(1, 2, 8, 8)
    >>> motion[:, 1] = 1.0
    >>> along_trajectories(fields, motion, fields >= 0)[0, :, 4, 4].round(decimals=3).tolist()
    [5.0, 5.0]
    """
    _check_motion(motion)
    b, n, ny, nx = fields.shape
    grid = sampling_grid(motion, n, carried, coarsen).to(fields.dtype).reshape(b * n, ny, nx, 2)
    layers = torch.stack([torch.where(observed, fields, 0.0), observed.to(fields.dtype)], 2).flatten(0, 1)
    layers = F.grid_sample(layers, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return _covered_mean(layers, float("nan")).view(b, n, ny, nx)


def _covered_mean(layers: Tensor, outside: float) -> Tensor:
    """Value over weight where half of the weight is there; layers are ``(b, 2, y, x)``."""
    value, weight = layers.unbind(1)
    # the margin keeps shifts by exactly half a cell on one side of rounding
    return (value / weight).masked_fill(weight < 0.5 - 1e-4, outside)


def sampling_grid(motion: Tensor, steps: int, carried: float, coarsen: int) -> Tensor:
    """Trajectory starts of every cell as ``grid_sample`` reads them: (b, steps*y, x, 2), x first, -1 to 1."""
    b, _, ny, nx = motion.shape
    nodes = tuple(max(2, -(-(n - 1) // coarsen) + 1) for n in (ny, nx))
    spacing = ((ny - 1) / (nodes[0] - 1), (nx - 1) / (nodes[1] - 1))
    sparse = F.interpolate(motion, nodes, mode="bilinear", align_corners=True)
    start = back_trajectories(sparse, steps, carried=carried, spacing=spacing)
    size = torch.tensor([ny - 1, nx - 1], device=motion.device, dtype=motion.dtype).view(2, 1, 1)
    scaled = (2.0 * start / size - 1.0).flip(2).transpose(1, 2)  # (b, 2: x y, steps, nodes)
    dense = F.interpolate(scaled.flatten(0, 1), (ny, nx), mode="bilinear", align_corners=True)
    # steps are stacked along y, so that one field serves them all without a copy
    return dense.view(b, 2, steps * ny, nx).permute(0, 2, 3, 1)


def bilinear_response(shape: tuple[int, int]) -> Tensor:
    """Share ``(y, x // 2 + 1)`` of the amplitude at each wavenumber that is left of a field read between its cells.

    The root of the mean of ``|1 - u + u exp(iw)|**2`` over u from 0 to 1, along y and along x: w in radians per cell.
    """
    along_y, along_x = torch.fft.fftfreq(shape[0])[:, None], torch.fft.rfftfreq(shape[1])[None]
    power = [(2 + torch.cos(2 * torch.pi * cycles)) / 3 for cycles in (along_y, along_x)]
    return (power[0] * power[1]).sqrt()


def _at(motion: Tensor, position: Tensor, extent: tuple[float, float]) -> Tensor:
    """Motion at index positions (b, 2, y, x) given in cells, ``extent`` being the position of the last node."""
    size = torch.tensor(extent, device=motion.device, dtype=motion.dtype).view(2, 1, 1)
    grid = (2.0 * position / size - 1.0).flip(1).permute(0, 2, 3, 1)
    return F.grid_sample(motion, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _check_motion(motion: Tensor) -> None:
    if motion.ndim != 4 or motion.shape[1] != 2 or min(motion.shape[2:]) < 2:
        raise ValueError(f"motion has shape {tuple(motion.shape)}: it must be (b, 2, y, x), at least 2 x 2 cells")
