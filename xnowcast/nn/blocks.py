"""Convolution blocks of U-Nets that denoise: norms, residual blocks that know the step, ways down and up."""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each cell, with a gain alone. (b, c, y, x) -> same."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.movedim(1, -1)).movedim(-1, 1)

    def last(self, tokens: Tensor) -> Tensor:
        """The same for tokens whose channels come last, (..., c)."""
        return F.layer_norm(tokens, self.gain.shape, self.gain, None, self.eps)


class ChannelRMSNorm(nn.Module):
    """The channels of each cell over their root mean square, with a gain (Zhang and Sennrich 2019).

    (b, c, y, x) -> same
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * (len(self.gain) ** 0.5 * self.gain)[:, None, None]

    def last(self, tokens: Tensor) -> Tensor:
        """The same for tokens whose channels come last, (..., c)."""
        return F.normalize(tokens, dim=-1) * (len(self.gain) ** 0.5 * self.gain)


class StandardizedConvolution(nn.Conv2d):
    """Convolution whose filters have mean 0 and variance 1 (Qiao et al. 2019). (b, c, y, x) -> (b, out, y, x)."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.filters, self.bias)

    @property
    def filters(self) -> Tensor:
        """The weights that it convolves with."""
        mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
        variance = self.weight.var(dim=(1, 2, 3), unbiased=False, keepdim=True)
        return (self.weight - mean) * torch.rsqrt(variance + 1e-5)


def filters(convolution: nn.Conv2d) -> Tensor:
    """The weights that a convolution convolves with, standardized or not."""
    return convolution.filters if isinstance(convolution, StandardizedConvolution) else convolution.weight


def with_fixed_filters(network: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy whose standardized convolutions are plain ones: what does not learn need not standardize at every call.

    ``dtype``: of the copy; filters are standardized before they are rounded.
    """
    copy = deepcopy(network)
    for module in list(copy.modules()):
        for name, child in module.named_children():
            if isinstance(child, StandardizedConvolution):
                setattr(module, name, _plain(child))
    return copy if dtype is None else copy.to(dtype)


def _plain(own: StandardizedConvolution) -> nn.Conv2d:
    sizes = own.in_channels, own.out_channels, own.kernel_size, own.stride, own.padding, own.dilation, own.groups
    plain = nn.Conv2d(*sizes, device="meta")  # type: ignore[arg-type]
    plain.weight = nn.Parameter(own.filters.detach(), requires_grad=False)
    plain.bias = own.bias
    return plain


class ConvolutionBlock(nn.Module):
    """3 x 3 convolution, group norm, scale and shift, SiLU. (b, c, y, x) -> (b, out, y, x)."""

    def __init__(self, width_in: int, width_out: int, *, groups: int = 8, standardized: bool = False) -> None:
        super().__init__()
        convolution = StandardizedConvolution if standardized else nn.Conv2d
        self.convolution = convolution(width_in, width_out, 3, padding=1)
        self.norm = nn.GroupNorm(groups, width_out)

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        return self.activate(self.convolution(x), scale, shift)

    def activate(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """What comes after the convolution."""
        x = self.norm(x)
        if scale is not None and shift is not None:
            x = torch.addcmul(shift, x, scale + 1)
        return F.silu(x)


class ResidualBlock(nn.Module):
    """Two convolution blocks beside a shortcut; the step scales and shifts the first (Dhariwal and Nichol 2021).

    x (b, c, y, x), step (b or 1, step_width) -> (b, out, y, x)
    """

    def __init__(
        self,
        width_in: int,
        width_out: int,
        step_width: int | None = None,
        *,
        groups: int = 8,
        standardized: bool = False,
    ) -> None:
        super().__init__()
        self.modulation = nn.Linear(step_width, 2 * width_out) if step_width else None
        self.first = ConvolutionBlock(width_in, width_out, groups=groups, standardized=standardized)
        self.second = ConvolutionBlock(width_out, width_out, groups=groups, standardized=standardized)
        self.shortcut = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else nn.Identity()

    def forward(self, x: Tensor, step: Tensor | None = None) -> Tensor:
        hidden = self.second(self.first(x, *self._scale_and_shift(step)))
        return hidden + self.shortcut(x)

    def _scale_and_shift(self, step: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        if self.modulation is None:
            return None, None
        if step is None:
            raise ValueError("this residual block was built for a step embedding, and got none")
        scale, shift = self.modulation(F.silu(step))[..., None, None].chunk(2, dim=1)
        return scale, shift


class ConditionedBlock(ResidualBlock):
    """Residual block on two inputs side by side, of which the second is the same at every step of a sampler.

    x (b, c, y, x), what `project` made of the condition or None -> (b, c, y, x)
    """

    shortcut: nn.Conv2d

    def __init__(self, width: int, step_width: int) -> None:
        super().__init__(2 * width, width, step_width)
        self.width = width

    def project(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """What the condition adds to the first convolution and to the shortcut: convolutions are linear."""
        kernel, point = self.first.convolution.weight[:, self.width :], self.shortcut.weight[:, self.width :]
        return F.conv2d(condition, kernel, padding=1), F.conv2d(condition, point)

    def forward(self, x: Tensor, step: Tensor | None = None, given: tuple[Tensor, Tensor] | None = None) -> Tensor:
        first, shortcut = self.first.convolution, self.shortcut
        hidden = F.conv2d(x, first.weight[:, : self.width], first.bias, padding=1)
        x = F.conv2d(x, shortcut.weight[:, : self.width], shortcut.bias)
        if given is not None:
            hidden, x = hidden + given[0], x + given[1]
        return x + self.second(self.first.activate(hidden, *self._scale_and_shift(step)))


class SpaceToDepth(nn.Module):
    """Each 2 x 2 cells to the channels of one, and a 1 x 1 convolution. (b, c, y, x) -> (b, out, y / 2, x / 2)."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4 * width_in, width_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(F.pixel_unshuffle(x, 2))


class NearestUp(nn.Module):
    """Each cell to 2 x 2 of the same value, and a 3 x 3 convolution. (b, c, y, x) -> (b, out, 2 y, 2 x)."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width_in, width_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def dropped(branch: Tensor, share: float) -> Tensor:
    """A branch (b, ...) left out of some samples, and as much more of it in the others (Huang et al. 2016).

    For training alone. ``share``: how often it is left out, 0 to below 1.
    """
    if share == 0:
        return branch
    kept = torch.rand((len(branch), *(1,) * (branch.ndim - 1)), device=branch.device) >= share
    return branch * (kept / (1 - share)).to(branch.dtype)


def strided_down(width_in: int, width_out: int) -> nn.Conv2d:
    """4 x 4 convolution with stride 2. (b, c, y, x) -> (b, out, y / 2, x / 2)."""
    return nn.Conv2d(width_in, width_out, 4, stride=2, padding=1)


def transposed_up(width_in: int, width_out: int) -> nn.ConvTranspose2d:
    """4 x 4 transposed convolution with stride 2. (b, c, y, x) -> (b, out, 2 y, 2 x)."""
    return nn.ConvTranspose2d(width_in, width_out, 4, stride=2, padding=1)
