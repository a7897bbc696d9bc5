"""PostCast: sharpens anybody's blurry forecast with a diffusion model that has only ever seen sharp radar frames."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnowcast import check
from xnowcast.diffusion import (
    CLEAN,
    Denoise,
    Schedule,
    Window,
    ancestral,
    as_denoiser,
    evenly_spaced_steps,
    linear_schedule,
)
from xnowcast.diffusion.blur_guidance import (
    BlurGuidance,
    BlurSettings,
    Edges,
    Gradient,
    KernelUpdate,
    Scale,
    as_composite,
    blurred,
    mean_over,
)
from xnowcast.diffusion.tiling import tiled
from xnowcast.models.base import Deblurred, Loss, Task, TrainingBatch
from xnowcast.models.declaration import Declared, option
from xnowcast.models.transforms import ScaledOptions
from xnowcast.nn.embedding import Sinusoids
from xnowcast.nn.guided_unet import GuidedUNet
from xnowcast.nn.noise import Noise
from xnowcast.terminal import warn

SIZES: dict[str, dict[str, Any]] = {
    "full": {"base": 256, "multipliers": (1, 1, 2, 2, 4, 4), "blocks": 2, "attention": (8, 16, 32), "groups": 32},
    "small": {"base": 32, "multipliers": (1, 2, 2, 4), "blocks": 1, "attention": (8,), "groups": 8},
    "tiny": {"base": 32, "multipliers": (1, 2), "blocks": 1, "attention": (), "groups": 8},
}
"""Networks: that of guided diffusion at 256 x 256, one to train on a laptop, and one for tests."""

LATENESS = 1.5


SEE = "see `xnowcast.diffusion.blur_guidance.BlurSettings`."


@dataclass(frozen=True, kw_only=True)
class PostCastOptions(ScaledOptions):
    size: str = option("full", "553, 3.7 or 0.8 million parameters.", choices=SIZES)
    diffusion_steps: int = option(1000, "T of the diffusion that the network learns.")
    step_embedding: Sinusoids = option(
        "guided-diffusion",
        "Frequencies and order of sines and cosines by which the network is told the step: as published, or those of "
        "DDPM, which weights trained before these were the published ones have.",
    )
    sampling_steps: int | None = option(
        None,
        "How many of them a sample takes; all by default. Strengths grow as steps become fewer.",
        runtime=True,
    )
    spacing: Literal["late", "even"] = option(
        "late", "Which steps those are where they are not all: see `late_steps`, or evenly spaced ones.", runtime=True
    )
    kernel_size: int = option(
        BlurSettings.kernel_size, f"Width in cells of the kernel that is estimated, odd; {SEE}", runtime=True
    )
    scale: Scale = option(
        BlurSettings.scale, f"How strongly a sample is drawn to the blurry field; {SEE}", runtime=True
    )
    rho: float = option(BlurSettings.rho, f"The strength that it begins with; {SEE}", runtime=True)
    rho_max: float = option(BlurSettings.rho_max, f"The largest strength; {SEE}", runtime=True)
    kernel_update: KernelUpdate = option(BlurSettings.kernel_update, f"How the kernel is learnt; {SEE}", runtime=True)
    normalise: bool = option(BlurSettings.normalise, f"Whether free taps begin with the sum 1; {SEE}", runtime=True)
    free_gain: bool = option(
        BlurSettings.free_gain, f"Whether a factor is estimated beside the kernel; {SEE}", runtime=True
    )
    gradient: Gradient = option(BlurSettings.gradient, f"What the gradient is taken to; {SEE}", runtime=True)
    variance_weighted: bool = option(
        BlurSettings.variance_weighted,
        f"Whether the gradient is multiplied by the step's variance; {SEE}",
        runtime=True,
    )
    edges: Edges = option(BlurSettings.edges, f"What lies beyond the grid; {SEE}", runtime=True)
    cut_off: float = option(
        BlurSettings.cut_off,
        "mm h-1, or kg m-2 of liquid. Where a blurry field is dry it may have had up to so much before it was cut off; "
        "0 for none.",
        runtime=True,
    )
    centred: bool = option(
        BlurSettings.centred, f"Whether kernels are shifted to have their centre in the middle; {SEE}", runtime=True
    )
    smoothness: float = option(BlurSettings.smoothness, f"Cells, of the composite at hand; {SEE}", runtime=True)
    common_noise: bool = option(
        False,
        "Give all lead times of a forecast the same noise, so that a sharpened sequence flickers less.",
        runtime=True,
    )
    tile: int | None = option(
        256,
        "Grids larger than this are denoised in tiles of so many cells, blended at every step; None never does.",
        runtime=True,
    )
    overlap: int = option(64, "Cells that neighbouring tiles share at the least.", runtime=True)
    precision: str = option(
        "32", "Of the network; the guidance is always float32.", choices=("32", "bf16"), runtime=True
    )

    def check(self) -> None:
        super().check()
        self.blur()
        check.whole("diffusion_steps", self.diffusion_steps, 1)
        steps = self.sampling_steps
        if steps is not None and not 1 <= steps <= self.diffusion_steps:
            raise ValueError(f"sampling_steps is {steps}; it must be 1 to {self.diffusion_steps}, the diffusion_steps")
        tile, overlap, multiple = self.tile, self.overlap, self.multiple
        if tile is not None and (tile % multiple or overlap % multiple or not 0 <= overlap < tile):
            raise ValueError(
                f"tile is {tile} and overlap {overlap}: both must be multiples of {multiple}, and the overlap the "
                "smaller"
            )

    def blur(self) -> BlurSettings:
        """The settings of the guidance, with rain rates as the network reads them."""
        if not 0 <= self.cut_off < math.inf:
            raise ValueError(f"cut_off is {self.cut_off} mm h-1; it must be a number of 0 or more")
        cut_off = float(self.transform(torch.tensor(float(self.cut_off), device="cpu")))
        return BlurSettings(
            **{one.name: getattr(self, one.name) for one in fields(BlurSettings)} | {"cut_off": cut_off}
        )

    @property
    def multiple(self) -> int:
        """Cells whose multiples the network reads."""
        return 2 ** (len(SIZES[self.size]["multipliers"]) - 1)

    def task(self) -> Task:
        return Task(
            "deblur",
            input_frames=1,
            quantity=self.transform.quantity,
            grid_multiple=self.multiple,
            min_grid=max(8, self.kernel_size),
            stochastic=True,
            trained=True,
            kernel_size=self.kernel_size,
        )


class PostCast(Declared[PostCastOptions], nn.Module):
    """Sharpens blurry frames with an unconditional diffusion model, an estimated blur kernel and an automatic scale.

    Every frame has a kernel of its own, learnt while it is sampled. Frames are read as reflectivity from 0 to 60 dBZ,
    or as ``scaling`` has it. docs/systems/postcast.md lists what the paper leaves open and what is done here.

    ValueError if an option has no such value.

    Gong et al. (2025), PostCast: generalizable postprocessing for precipitation nowcasting via unsupervised blurriness
    modeling, ICLR

    >>> model = PostCast(size="tiny", sampling_steps=2).eval()
    >>> sum(p.numel() for p in model.parameters())
    776033
    >>> model.task.kernel_size
    9
    """

    training_frames = 1

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own = self.options
        self.transform = own.transform
        self.schedule = linear_schedule(own.diffusion_steps)
        self.network = GuidedUNet(**SIZES[own.size], step_embedding=own.step_embedding)

    @property
    def settings(self) -> BlurSettings:
        """How the blur is estimated and the sampling guided."""
        return self.options.blur()

    @property
    def steps(self) -> Any:
        """The steps of the diffusion that sampling visits."""
        spaced = late_steps if self.options.spacing == "late" else evenly_spaced_steps
        return spaced(self.options.diffusion_steps, self.options.sampling_steps or self.options.diffusion_steps)

    def loss(self, batch: TrainingBatch, *, progress: float, adversary: nn.Module | None = None) -> Loss:
        """Mean squared error of the noise over the measured cells, at steps drawn evenly (equation 11)."""
        x0 = 2 * self.transform(batch.rain[:, 0]) - 1
        steps = torch.randint(self.schedule.length, (len(x0),), device=x0.device)
        noise = torch.randn_like(x0)
        predicted = self.network(self.schedule.add_noise(x0, noise, steps), steps.to(x0.dtype))
        observed = batch.observed[:, 0]
        total = ((predicted.float() - noise) ** 2 * observed).sum() / observed.sum().clamp_min(1)
        return Loss(total, {"noise": total.detach()})

    def adversary(self, shape: tuple[int, int]) -> nn.Module | None:
        """None: it trains without one."""
        return None

    def denoiser(self, shape: tuple[int, int]) -> Denoise:
        """What the network expects the sharp field to be, for grids of ``(y, x)`` cells, in tiles where they are large.

        ``(x, step) -> x0``, all -1 to 1.
        """
        denoise = as_denoiser(self._noise_in, self.schedule, "eps", clip=(-1.0, 1.0))
        own = self.options
        if own.tile is None:
            return denoise

        def of_tile(x: Tensor, step: float, window: Window) -> Tensor:
            return denoise(x, step)

        return tiled(of_tile, shape, tile=own.tile, overlap=own.overlap, multiple=self.task.grid_multiple)

    def deblur(self, frames: Tensor, observed: Tensor, noise: Noise) -> Deblurred:
        """Sharpen frames, each by itself; see `sharpen`.

        ``frames, observed``: ``(n, 1, y, x)``: scaled to 0 to 1, and True where it was measured. ``noise``: one
        source per frame.

        UserWarning     If frames diverged and are given back.
        """
        denoise = self.denoiser((frames.shape[-2], frames.shape[-1]))
        sharp = sharpen(denoise, frames, observed, noise, self.schedule, self.steps, self.settings)
        if given_back := int(sharp.distance.isnan().sum()):
            warn(
                f"{given_back} of {len(frames)} frames diverged and come back as they were given; with "
                "diagnostics=True their blur_distance is NaN",
            )
        return sharp

    def _noise_in(self, x: Tensor, step: float) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.network(x, torch.full((1,), float(step), device=x.device))


def late_steps(length: int, count: int) -> list[int]:
    """Steps that a sampler visits, closer to one another where there is less noise.

    With few steps the last of them is otherwise long: from its noise to none at once, which leaves fine detail out.

    About ``length (i / count)**1.5 - 1`` for ``count`` of them, backwards, and `xnowcast.diffusion.CLEAN`.

    >>> late_steps(1000, 5)
    [999, 715, 464, 252, 88, -1]
    >>> late_steps(4, 4)
    [3, 2, 1, 0, -1]
    """
    steps = [CLEAN]
    for i in range(1, count + 1):
        steps.append(max(round(length * (i / count) ** LATENESS) - 1, steps[-1] + 1))
    return steps[::-1]


@torch.no_grad()
def sharpen(
    denoise: Denoise,
    frames: Tensor,
    observed: Tensor,
    noise: Noise,
    schedule: Schedule,
    steps: Sequence[float],
    settings: BlurSettings | None = None,
) -> Deblurred:
    """Sample sharp fields that, blurred with kernels learnt on the way, are the given ones (algorithm 1).

    No rain is invented: where no rain is within the kernel's reach in the blurry field, the sharp one is dry, also at
    every step on the way. A frame that diverged is given back as it was, with NaN for kernel and distance: one that is
    not finite, or that blurred again is further from the input than the input from its own mean.

    ``denoise``: ``(x, step)`` to the expected signal, -1 for dry to 1: any diffusion model of single frames.
    ``frames``: ``(n, 1, y, x)``, 0 for dry to 1. ``observed``: same shape, bool. Cells that were not measured are free:
    nothing draws them anywhere. ``noise``: one source per frame. ``steps``: falling, `xnowcast.diffusion.CLEAN` at the
    end. ValueError if the kernel is larger than the field.

    A blurry square, and a diffusion model that thinks that a cell is either dry or as wet as can be:

    >>> from xnowcast.nn.noise import member_generator
    >>> kernel = torch.full((1, 3, 3), 1 / 9)
    >>> square = torch.zeros(1, 1, 16, 16)
    >>> square[..., 5:11, 5:11] = 1
    >>> schedule, steps = linear_schedule(100), evenly_spaced_steps(100, 100)
    >>> def denoise(x, step):
    ...     signal, level = schedule.levels(step)
    ...     return torch.tanh(signal * x / level**2)
    >>> noise = Noise([member_generator(0, 0, 0)])
    >>> blurry = blurred(square, kernel)
    >>> sharp = sharpen(denoise, blurry, blurry >= 0, noise, schedule, steps, BlurSettings(kernel_size=3))
    >>> bool((sharp.frames - square).abs().mean() < 0.5 * (blurry - square).abs().mean())
    True
    """
    settings = settings or BlurSettings()
    size = settings.kernel_size
    if size > min(frames.shape[-2:]):
        raise ValueError(
            f"the kernel has {size} x {size} cells, the field only {frames.shape[-2]} x {frames.shape[-1]}"
        )
    possible = within_reach(frames, observed, size) | ~observed
    guidance = BlurGuidance(2 * frames - 1, observed, settings, schedule, steps, noise.normal(size, size))

    def kept_dry(x: Tensor, step: float) -> Tensor:
        return torch.where(possible, denoise(x, step), -1.0)

    start = noise.normal(*frames.shape[1:])
    sample = ancestral(guidance.watch(kept_dry), start, schedule, steps, noise, correct=guidance.correct)
    sharp, kernels = as_composite(sample, settings).clamp(0, 1), guidance.kernels.taps
    if settings.centred:
        sharp, kernels = centred(sharp, kernels)
    return _checked(frames, observed, torch.where(possible, sharp, 0.0), kernels, settings.edges)


def centred(fields: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor]:
    """Fields and kernels shifted against each other by whole cells, so that kernels have their centre in the middle.

    Blurred, the fields are the same as before, but for the edges of the grid and of the kernel.

    Fields ``(n, 1, y, x)`` and kernels ``(n, k, k)``; beyond the edge of a field is its mirror image.

    >>> fields, kernels = torch.zeros(1, 1, 9, 9), torch.zeros(1, 3, 3)
    >>> fields[0, 0, 3, 3] = kernels[0, 2, 1] = 1.0
    >>> fields, kernels = centred(fields, kernels)
    >>> fields[0, 0].nonzero().tolist(), kernels[0].nonzero().tolist()
    ([[2, 3]], [[1, 1]])
    """
    reach = kernels.shape[-1] // 2
    far = torch.arange(-reach, reach + 1, device=kernels.device, dtype=kernels.dtype)
    weights = kernels.clamp_min(0)
    total = weights.sum((1, 2)).clamp_min(1e-12)
    places = torch.stack([(weights.sum(2) * far).sum(1), (weights.sum(1) * far).sum(1)], 1) / total[:, None]
    height, width = fields.shape[-2:]
    wide, wide_kernels = F.pad(fields, (reach,) * 4, mode="reflect"), F.pad(kernels, (reach,) * 4)
    moved, moved_kernels = torch.empty_like(fields), torch.empty_like(kernels)
    for i, (dy, dx) in enumerate(places.nan_to_num().round().int().tolist()):
        top, left = reach + dy, reach + dx
        moved[i] = wide[i, :, top : top + height, left : left + width]
        moved_kernels[i] = wide_kernels[i, top : top + 2 * reach + 1, left : left + 2 * reach + 1]
    lost = kernels.sum((1, 2)) / moved_kernels.sum((1, 2))
    return moved, moved_kernels * lost.where(places.abs().amax(1) > 0.5, 1.0)[:, None, None]


def within_reach(frames: Tensor, observed: Tensor, kernel_size: int) -> Tensor:
    """Where a field may be wet if, blurred with a kernel of this size, it is the given one.

    ``frames`` ``(n, 1, y, x)``, 0 for dry to 1, and ``observed`` bool to bool of the same shape.

    >>> frames = torch.tensor([[[[0.0, 0.0, 0.0, 0.0, 0.7, 0.0, 0.0]]]])
    >>> within_reach(frames, frames >= 0, 3).int().tolist()
    [[[[0, 0, 0, 1, 1, 1, 0]]]]
    """
    wet = ((frames > 0) & observed).to(frames.dtype)
    return F.max_pool2d(wet, kernel_size, stride=1, padding=kernel_size // 2) > 0


def _checked(frames: Tensor, observed: Tensor, sharp: Tensor, kernels: Tensor, edges: Edges) -> Deblurred:
    """What was found, with the input in place of what diverged."""
    again = blurred(sharp, kernels, edges)
    distance = mean_over((again - frames) ** 2, observed)
    mean = mean_over(frames, observed)[:, None, None, None]
    spread = mean_over((frames - mean) ** 2, observed)
    good = (distance <= spread) & sharp.isfinite().all(-1).all(-1)[:, 0]
    of_frame = good[:, None, None, None]
    return Deblurred(
        frames=torch.where(of_frame, sharp, frames),
        kernel=torch.where(good[:, None, None], kernels, torch.nan),
        reblurred=torch.where(of_frame, again, frames),
        distance=torch.where(good, distance, torch.nan),
    )
