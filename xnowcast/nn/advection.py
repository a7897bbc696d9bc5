"""Backward semi-Lagrangian advection: where the air at each cell comes from, and what was there."""

import torch
from torch import Tensor
from torch.nn import functional as F


def back_trajectories(motion: Tensor, steps: int, *, spacing: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """Starting points of the trajectories that arrive at every grid node after 1, 2, ... steps.

    The motion is held fixed in time. Every step is a midpoint (second order) step, so curved
    trajectories stay curved; beyond the edge the motion of the nearest edge cell is used.

    Parameters
    ----------
    motion : Tensor
        (b, 2, y, x), float, grid cells per step; component 0 along +y index, 1 along +x index. Finite.
    steps : int
        How many steps to go back, at least 1.
    spacing : (float, float)
        Distance between neighbouring nodes along y and x in those grid cells, where the motion is given on
        a coarser grid than the cells it counts.

    Returns
    -------
    Tensor
        (b, steps, 2, y, x): index position (y, x), in grid cells from the first node, where the trajectory
        starts. It may lie outside the grid.

    Raises
    ------
    ValueError
        If ``motion`` is not (b, 2, y, x) or ``steps`` is below 1.

    References
    ----------
    Germann and Zawadzki (2002), doi:10.1175/1520-0493(2002)130<2859:SDOTPO>2.0.CO;2

    Examples
    --------
    >>> motion = torch.ones(1, 2, 8, 8)
    >>> start = back_trajectories(motion, 3)
    >>> start[0, :, 0, 5, 5].tolist()
    [4.0, 3.0, 2.0]
    """
    _check_motion(motion)
    if steps < 1:
        raise ValueError(f"steps is {steps}: ask for at least one")
    _, _, ny, nx = motion.shape
    y = torch.arange(ny, device=motion.device, dtype=motion.dtype) * spacing[0]
    x = torch.arange(nx, device=motion.device, dtype=motion.dtype) * spacing[1]
    extent = (float(ny - 1) * spacing[0], float(nx - 1) * spacing[1])
    position = torch.stack(torch.meshgrid(y, x, indexing="ij")).expand_as(motion)
    starts = []
    for step in range(steps):
        here = motion if step == 0 else _at(motion, position, extent)
        halfway = _at(motion, position - 0.5 * here, extent)
        position = position - halfway
        starts.append(position)
    return torch.stack(starts, 1)


def advect(
    field: Tensor,
    motion: Tensor,
    steps: int,
    *,
    observed: Tensor | None = None,
    inflow: str = "nan",
    interpolation: str = "bilinear",
    coarsen: int = 8,
) -> Tensor:
    """The field carried along a steady motion for 1, 2, ..., ``steps`` steps.

    For every lead the field is interpolated once, at the start of the backward trajectory, so repeated
    interpolation smooths nothing away.

    Parameters
    ----------
    field : Tensor
        (b, y, x), float. Cells that are not observed may hold anything finite or NaN.
    motion : Tensor
        (b, 2, y, x), grid cells per step; component 0 along +y index, 1 along +x index. Finite.
    steps : int
        Number of leads, at least 1.
    observed : Tensor, optional
        (b, y, x) bool, where ``field`` is a measurement; by default where it is not NaN. A cell of the
        forecast is *covered* where at least half of the interpolation weight lies on observed cells inside
        the grid, and its value is the mean over those.
    inflow : {"nan", "dry"}
        What stands where a cell is not covered: NaN (nothing is known) or 0.
    interpolation : {"bilinear", "nearest"}
        How the field is read between its cells.
    coarsen : int
        Trajectories are computed on nodes about this many cells apart and interpolated linearly between
        them; exact where the motion varies linearly. 1 computes one for every cell.

    Returns
    -------
    Tensor
        (b, steps, y, x), same dtype as ``field``.

    Raises
    ------
    ValueError
        If shapes disagree or an option has no such value.

    Examples
    --------
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
        raise ValueError(
            f"observed has shape {tuple(observed.shape)}, field {tuple(field.shape)}: make them equal"
        )
    if inflow not in ("nan", "dry"):
        raise ValueError(f"inflow is {inflow!r}: choose 'nan' or 'dry'")
    if interpolation not in ("bilinear", "nearest"):
        raise ValueError(f"interpolation is {interpolation!r}: choose 'bilinear' or 'nearest'")
    if coarsen < 1:
        raise ValueError(f"coarsen is {coarsen}: it is a number of grid cells, at least 1")
    b, ny, nx = field.shape
    known = torch.isfinite(field) if observed is None else observed & torch.isfinite(field)
    known = known.to(field.dtype)
    grid = _sampling_grid(motion, steps, coarsen)  # (b, steps*y, x, 2)
    layers = torch.stack([torch.nan_to_num(field) * known, known], 1)
    value, weight = F.grid_sample(
        layers, grid.to(field.dtype), mode=interpolation, padding_mode="zeros", align_corners=True
    ).unbind(1)
    covered = weight >= 0.5 - 1e-4  # the margin keeps half-cell shifts on one side of rounding
    outside = float("nan") if inflow == "nan" else 0.0
    carried = torch.where(covered, value / weight, outside)
    return carried.reshape(b, steps, ny, nx)


def _sampling_grid(motion: Tensor, steps: int, coarsen: int) -> Tensor:
    """Trajectory starts of every cell as ``grid_sample`` wants them: (b, steps*y, x, 2), x first, -1 to 1."""
    b, _, ny, nx = motion.shape
    nodes = tuple(max(2, -(-(n - 1) // coarsen) + 1) for n in (ny, nx))
    spacing = ((ny - 1) / (nodes[0] - 1), (nx - 1) / (nodes[1] - 1))
    sparse = F.interpolate(motion, nodes, mode="bilinear", align_corners=True)
    start = back_trajectories(sparse, steps, spacing=spacing)
    size = torch.tensor([ny - 1, nx - 1], device=motion.device, dtype=motion.dtype).view(2, 1, 1)
    scaled = (2.0 * start / size - 1.0).flatten(0, 1).flip(1)  # (b*steps, 2, nodes)
    # channels_last puts the pair (x, y) last in memory, so that the permute copies nothing
    scaled = scaled.contiguous(memory_format=torch.channels_last)
    dense = F.interpolate(scaled, (ny, nx), mode="bilinear", align_corners=True)
    return dense.permute(0, 2, 3, 1).reshape(b, steps * ny, nx, 2)


def _at(motion: Tensor, position: Tensor, extent: tuple[float, float]) -> Tensor:
    """Motion at index positions (b, 2, y, x) given in cells, ``extent`` being the position of the last node."""
    size = torch.tensor(extent, device=motion.device, dtype=motion.dtype).view(2, 1, 1)
    grid = (2.0 * position / size - 1.0).flip(1).permute(0, 2, 3, 1)
    return F.grid_sample(motion, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _check_motion(motion: Tensor) -> None:
    if motion.ndim != 4 or motion.shape[1] != 2 or min(motion.shape[2:]) < 2:
        raise ValueError(
            f"motion has shape {tuple(motion.shape)}: it must be (b, 2, y, x), at least 2 x 2 cells"
        )
