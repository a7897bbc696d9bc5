"""Guidance towards a blurry field whose blur nobody knows: the kernel is estimated while the sharp field is sampled.

Gong et al. (2025), PostCast, algorithm 1, with its formulas corrected; docs/systems/postcast.md lists each choice.
Fields are those of the diffusion, -1 to 1 with -1 for dry, and are compared as ``u = (x + 1) / 2``, where dry is 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from xnowcast import check
from xnowcast.diffusion.samplers import Denoise, posterior
from xnowcast.diffusion.schedules import Schedule

Scale = Literal["auto", "fixed", "bird"]
KernelUpdate = Literal["softmax-adam", "softmax-sgd", "paper", "fixed"]
Gradient = Literal["x0", "xt"]
Edges = Literal["reflect", "zeros"]

PAPER_STEPS = 1000
"""Strengths and learning rates are those of a sampler of so many steps; with fewer, each step does more."""

PAPER_RHO = 3500 / (2 * 256**2)
"""The scale of the paper's Table 4 as a share of the residual: s = 2 rho N for N cells."""

RATES: dict[KernelUpdate, float] = {"softmax-adam": 0.025, "softmax-sgd": 250.0, "paper": 0.01, "fixed": 0.0}
GAIN_RATE = 0.02
"""Learning rates of the kernel and of its gain at each of 1000 steps."""

MOST_UPDATES = 4
"""Kernel updates per step of a sampler that takes few of them; beyond that the learning rate grows."""

BEGINS: dict[KernelUpdate, float] = {"softmax-adam": 0.5}
"""Share of the sampling before which the kernel is left alone: the first estimates of the signal are smooth, and a
kernel that learns fast takes them for sharp and itself for a point."""

FIRST_MEAN, FIRST_SPREAD = 0.6, 0.06
"""Of the kernel's first values, before they are divided by their sum (appendix A.7; the spread is not given there)."""


@dataclass(frozen=True)
class BlurSettings:
    """How the blur is estimated and how strongly the sample is drawn to the blurry field.

    ``kernel_size``: n of the n x n kernel; odd. ``scale``: guidance scale s. "auto": ``s_0 L_T / L_t``, which grows as
    the distance falls; "fixed": ``s_0``; "bird": as in the published code of BIR-D, from which the method comes.
    ``rho``: ``s_0 / (2 N)`` for N cells and 1000 steps: the share of ``K^T (K x - y)`` that one step takes off. 0
    samples without looking at the blurry field. ``rho_max``: what "auto" and "bird" never exceed. From 2 on any scale
    diverges. ``kernel_update``: how the kernel is learnt: as a softmax, which is not negative and sums to 1, by Adam in
    the second half of the steps or by gradient descent in all; as free taps with the learning rate of BIR-D; or not at
    all. ``normalise``: whether free taps begin with the sum 1. False begins with a mean of 0.6, as the paper prints it.
    ``free_gain``: estimate a factor beside the kernel, for blurry fields that have lost rain. ``gradient``: with
    respect to the expected signal, as in algorithm 1; or to the noisy sample, through the network.
    ``variance_weighted``: multiply the gradient by the variance of the step, as equation 3 has it and algorithm 1 does
    not. ``edges``: what lies beyond the grid when it is blurred: its mirror image, or no rain. ``cut_off``: where the
    blurry field is dry it may have been anything up to this, 0 to 1, before it was cut off: a blurred value below it is
    no misfit there. ``centred``: shift what was sampled by whole cells until the middle of its kernel is the kernel's
    centre of mass. A kernel off its middle and a field moved the other way explain the blurry field as well, and a blur
    moves nothing. ``smoothness``: cells: standard deviation of the Gaussian that makes a frame of the diffusion model's
    radars as smooth as one of the composite at hand. What is sampled is smoothed so, and the kernel is what blurs that
    further. ValueError if a setting has no such value.

    >>> BlurSettings(kernel_size=8)
    Traceback (most recent call last):
    ValueError: kernel_size is 8; it must be odd and at least 3
    """

    kernel_size: int = 9
    scale: Scale = "auto"
    rho: float = PAPER_RHO
    rho_max: float = 0.5
    kernel_update: KernelUpdate = "softmax-adam"
    normalise: bool = True
    free_gain: bool = False
    gradient: Gradient = "x0"
    variance_weighted: bool = False
    edges: Edges = "reflect"
    cut_off: float = 0.0
    centred: bool = True
    smoothness: float = 0.0

    def __post_init__(self) -> None:
        size = self.kernel_size
        if not check.is_whole(size, 3) or size % 2 == 0:
            raise ValueError(f"kernel_size is {size!r}; it must be odd and at least 3")
        choices = {"scale": Scale, "kernel_update": KernelUpdate, "gradient": Gradient, "edges": Edges}
        for name, known in choices.items():
            if getattr(self, name) not in get_args(known):
                options = ", ".join(map(repr, get_args(known)))
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose one of {options}")
        for name in ("rho", "rho_max", "cut_off"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a number of 0 or more")
        if not 0 <= self.smoothness <= size / 4:
            most = f"{size / 4:g}, a quarter of the kernel_size"
            raise ValueError(f"smoothness is {self.smoothness} cells; it must be from 0 to {most}")
        if self.free_gain and self.kernel_update == "fixed":
            raise ValueError("a kernel that is not learnt has no free gain: choose another kernel_update")
        if not self.normalise and self.softmax:
            raise ValueError(
                "a softmax sums to 1 by itself: normalise=False goes with kernel_update='paper' or 'fixed'"
            )

    @property
    def softmax(self) -> bool:
        """Whether the kernel is a softmax of what is learnt."""
        return self.kernel_update.startswith("softmax")


# ---------------------------------------------------------------- blur


def blurred(fields: Tensor, kernels: Tensor, edges: Edges = "reflect") -> Tensor:
    """Each field blurred with its own kernel.

    ``fields``: ``(n, 1, y, x)``. ``kernels``: ``(n, k, k)``; ``kernels[:, i, j]`` weighs the cell i - k // 2 rows and j
    - k // 2 columns further. ``edges``: see `BlurSettings`. Returned: ``(n, 1, y, x)``.

    >>> kernel = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 0.0]])
    >>> blurred(torch.tensor([[[[0.0, 4.0, 2.0, 0.0]] * 4]]), kernel[None], "zeros")[0, 0, 1].tolist()
    [2.0, 3.0, 1.0, 0.0]
    """
    return _convolved(_widened(fields, kernels.shape[-1], edges), kernels)


def _widened(fields: Tensor, kernel_size: int, edges: Edges) -> Tensor:
    """With as many cells around as a kernel reaches."""
    return F.pad(fields, (kernel_size // 2,) * 4, mode="reflect" if edges == "reflect" else "constant")


def _convolved(widened: Tensor, kernels: Tensor) -> Tensor:
    return F.conv2d(widened.transpose(0, 1), kernels[:, None], groups=len(kernels)).transpose(0, 1)


def _tap_gradient(widened_spectrum: Tensor, slope: Tensor, shape: tuple[int, int], kernel_size: int) -> Tensor:
    """Gradient with respect to the taps: the widened field times ``slope`` at all shifts that the kernel has.

    By Fourier transform, because torch's own gradient of a convolution's weights costs ten times as much here.
    """
    products = torch.fft.irfft2(widened_spectrum * torch.fft.rfft2(slope, s=shape).conj(), s=shape)
    return products[:, 0, :kernel_size, :kernel_size]


def as_composite(x: Tensor, settings: BlurSettings) -> Tensor:
    """What is sampled, 0 for dry to 1, as smooth as the composite is.

    ``x``: ``(n, 1, y, x)``, -1 for dry to 1. Returned: same shape.

    >>> x = torch.full((1, 1, 16, 16), -1.0)
    >>> x[0, 0, 8, 8] = 1.0
    >>> [round(as_composite(x, BlurSettings(smoothness=s))[0, 0, 8, 8].item(), 3) for s in (0.0, 1.0)]
    [1.0, 0.159]
    """
    if settings.smoothness == 0:
        return as_rain(x)
    reach = settings.kernel_size // 2
    far = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    line = torch.softmax(-(far**2) / (2 * settings.smoothness**2), 0)
    return blurred(as_rain(x), (line[:, None] * line).expand(len(x), -1, -1), settings.edges)


def mean_over(values: Tensor, observed: Tensor) -> Tensor:
    """Mean of each sample over the cells that were observed, 0 or 1. (n, 1, y, x) -> (n,)."""
    return (values * observed).sum((1, 2, 3)) / observed.sum((1, 2, 3)).clamp_min(1)


class BlurKernels:
    """One kernel per sample, and how it is learnt.

    ``first``: ``(n, k, k)``: standard normal numbers that the first kernels are made of. ``steps``: how many steps the
    sampler takes.
    """

    def __init__(self, first: Tensor, settings: BlurSettings, steps: int) -> None:
        self.settings = settings
        self.updates = min(MOST_UPDATES, math.ceil(PAPER_STEPS / steps))
        self.faster = PAPER_STEPS / steps / self.updates
        taps = (FIRST_MEAN + FIRST_SPREAD * first).clamp_min(1e-3)
        if settings.normalise:
            taps = taps / taps.sum((1, 2), keepdim=True)
        self.values = taps.log() if settings.softmax else taps
        self.log_gain = torch.zeros_like(first[:, :1, :1])
        self._moments = torch.zeros_like(first), torch.zeros_like(first)
        self._adam_steps = 0

    @property
    def taps(self) -> Tensor:
        """The kernels, ``(n, k, k)``."""
        return self._taps(self.values, self.log_gain)

    def learns_at(self, progress: float) -> bool:
        """Whether the kernel learns when this share of the sampling is done."""
        return self.settings.kernel_update != "fixed" and progress >= BEGINS.get(self.settings.kernel_update, 0.0)

    def learn(self, tap_gradient: Tensor) -> None:
        """One step down the gradient of the distance with respect to the taps, ``(n, k, k)``."""
        with torch.enable_grad():
            values, log_gain = (p.detach().requires_grad_() for p in (self.values, self.log_gain))
            slope, gain_slope = torch.autograd.grad(self._taps(values, log_gain), (values, log_gain), tap_gradient)
        direction = self._adam(slope) if self.settings.kernel_update == "softmax-adam" else slope
        self.values = self.values - RATES[self.settings.kernel_update] * self.faster * direction
        if self.settings.free_gain:
            self.log_gain = self.log_gain - GAIN_RATE * self.faster * gain_slope

    def _taps(self, values: Tensor, log_gain: Tensor) -> Tensor:
        shape = values.flatten(1).softmax(1).view_as(values) if self.settings.softmax else values
        return shape * log_gain.exp()

    def _adam(self, slope: Tensor) -> Tensor:
        """Direction of Adam with its usual constants (Kingma and Ba 2015)."""
        mean, square = self._moments
        self._moments = mean, square = torch.lerp(slope, mean, 0.9), torch.lerp(slope**2, square, 0.999)
        self._adam_steps += 1
        mean, square = mean / (1 - 0.9**self._adam_steps), square / (1 - 0.999**self._adam_steps)
        return mean / (square.sqrt() + 1e-8)


# ---------------------------------------------------------------- guidance


class BlurGuidance:
    """Draws samples towards fields that, blurred, are the blurry ones; goes with `xnowcast.diffusion.ancestral`.

    Every sample has a kernel and a scale of its own, so it comes out the same in any company.

    ``blurry``: ``(n, 1, y, x)``, -1 to 1. ``observed``: same shape, bool; other cells do not count. ``steps``: those
    that the sampler visits. ``first``: ``(n, k, k)`` standard normal numbers for the first kernels. ``rho``: ``(n,)``:
    s / (2 N) of the last step.

    >>> from xnowcast.diffusion import ancestral, evenly_spaced_steps, linear_schedule
    >>> from xnowcast.nn.noise import Noise, member_generator
    >>> blurry, noise = torch.zeros(1, 1, 12, 12), Noise([member_generator(0, 0, 0)])
    >>> schedule, steps = linear_schedule(50), evenly_spaced_steps(50, 50)
    >>> guidance = BlurGuidance(blurry, blurry == 0, BlurSettings(), schedule, steps, noise.normal(9, 9))
    >>> denoise = guidance.watch(lambda x, step: 0.5 * x)
    >>> sharp = ancestral(denoise, noise.normal(1, 12, 12), schedule, steps, noise, correct=guidance.correct)
    >>> round(float(guidance.kernels.taps.sum()), 3)
    1.0
    """

    def __init__(
        self,
        blurry: Tensor,
        observed: Tensor,
        settings: BlurSettings,
        schedule: Schedule,
        steps: Sequence[float],
        first: Tensor,
    ) -> None:
        self.settings, self.schedule = settings, schedule
        self.following = dict(pairwise(steps))
        self.blurry, self.target, self.observed = blurry, as_rain(blurry), observed.to(blurry.dtype)
        self.cells = self.observed.sum((1, 2, 3)).clamp_min(1)
        self.kernels = BlurKernels(first, settings, len(self.following))
        self.first_rho = settings.rho * PAPER_STEPS / len(self.following)
        largest = math.inf if settings.scale == "fixed" else settings.rho_max
        self.rho = torch.full_like(self.cells, min(self.first_rho, largest))
        self._first_distance: Tensor | None = None
        self._graph: tuple[Tensor, Tensor] | None = None
        self._last: _Guided | None = None
        self._constant: Tensor = torch.zeros_like(self.cells)

    def watch(self, denoise: Denoise) -> Denoise:
        """The denoiser as the sampler has to be given it: the guidance sees what it is asked."""

        def watched(x: Tensor, step: float) -> Tensor:
            if self.settings.scale == "bird" and self._last is not None:
                self.rho = self._bird_rho(x, self._last)
            if self.settings.gradient == "x0":
                return denoise(x, step)
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                x0 = denoise(x, step)
            self._graph = x, x0
            return x0.detach()

        return watched

    def distance(self, x0: Tensor) -> Tensor:
        """Mean squared difference between the blurry field and ``x0`` blurred, both 0 to 1; ``(n,)``."""
        again = blurred(as_composite(x0, self.settings), self.kernels.taps, self.settings.edges)
        return mean_over(self._missed(again) ** 2, self.observed)

    def correct(self, mean: Tensor, x0: Tensor, step: float) -> Tensor:
        """The mean of the next sample, drawn to the blurry field; then the kernel learns (algorithm 1, 3 to 9).

        ``mean, x0``: ``(n, 1, y, x)``: mean of the next sample, and the expected signal. Returned: ``mean - s dL/dx0``,
        which is what replacing x0 by ``x0 - (s / c_1) dL/dx0`` gives.
        """
        widened, slope, distance, gradient = self._compared(x0)
        if self.settings.scale == "auto":
            self.rho = self._auto_rho(distance)
        strength = (2 * self.cells * self.rho)[:, None, None, None]
        variance = posterior(mean, mean, self.schedule, step, self.following[step])[1] ** 2
        shift = -strength * gradient * (variance if self.settings.variance_weighted else 1.0)
        self._last = _Guided(mean, shift, variance)
        self._learn(widened, slope, progress=1 - step / self.schedule.length)
        return mean + shift

    def _compared(self, x0: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The widened field, dL / d(K * u), L of each sample, and its gradient with respect to signal or sample."""
        taps = self.kernels.taps
        with torch.enable_grad():
            leaf = x0.detach().requires_grad_()
            widened = _widened(as_composite(leaf, self.settings), taps.shape[-1], self.settings.edges)
        again = _convolved(widened.detach(), taps)
        distance, slope = mean_over(self._missed(again) ** 2, self.observed), self._slope(again)
        back = _convolved(F.pad(slope, (taps.shape[-1] - 1,) * 4), taps.flip(1, 2))
        (gradient,) = torch.autograd.grad(widened, leaf, back)
        if self._graph is not None:
            sample, expected = self._graph
            (gradient,) = torch.autograd.grad(expected, sample, gradient)
            self._graph = None
        return widened.detach(), slope, distance, gradient

    def _slope(self, again: Tensor) -> Tensor:
        return 2 * self.observed * self._missed(again) / self.cells[:, None, None, None]

    def _missed(self, again: Tensor) -> Tensor:
        """What a blurred field has too much; see `BlurSettings.cut_off`."""
        if self.settings.cut_off == 0:
            return again - self.target
        return again - torch.where(self.target > 0, self.target, again.clamp(0, self.settings.cut_off))

    def _learn(self, widened: Tensor, slope: Tensor, progress: float) -> None:
        """The kernel's updates; the distance of this step was taken with the kernel before them."""
        if not self.kernels.learns_at(progress):
            return
        shape = (widened.shape[-2], widened.shape[-1])
        spectrum = torch.fft.rfft2(widened)
        for update in range(self.kernels.updates):
            if update > 0:
                slope = self._slope(_convolved(widened, self.kernels.taps))
            self.kernels.learn(_tap_gradient(spectrum, slope, shape, self.settings.kernel_size))

    def _auto_rho(self, distance: Tensor) -> Tensor:
        """``s_0 L_T / L_t``, up to the largest that is safe."""
        if self._first_distance is None:
            self._first_distance = distance
        ratio = self._first_distance / distance.clamp_min(torch.finfo(distance.dtype).tiny)
        return (self.first_rho * ratio).clamp_max(self.settings.rho_max)

    def _bird_rho(self, sample: Tensor, last: "_Guided") -> Tensor:
        """``|(x - mu)^T g + C| / (2 L)``; C is the code's density of y, which divides by the logarithm of the variance.

        C of the step before is added, L is the distance of the noisy sample, and the scale serves the next step.
        """
        log_variance = math.log(last.variance)
        misfit = ((self.blurry - last.mean) / log_variance * self.observed).square().sum((1, 2, 3))
        constant = -0.5 * misfit - 0.5 * torch.log(2 * math.pi * self.cells * log_variance**2)
        taylor = ((sample - last.mean) * last.shift).sum((1, 2, 3))
        scale = (taylor + constant + self._constant).abs() / (2 * self.distance(sample))
        self._constant = constant
        return (scale / (2 * self.cells)).clamp_max(self.settings.rho_max)


@dataclass(frozen=True)
class _Guided:
    """What a step did: the mean before guidance, what guidance added to it, and the variance of the sample."""

    mean: Tensor
    shift: Tensor
    variance: float


def as_rain(x: Tensor) -> Tensor:
    """From the diffusion's -1 to 1 to 0 for dry up to 1."""
    return (x + 1) / 2
