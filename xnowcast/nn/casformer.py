"""CasFormer: a transformer that sees the latent frames of a forecast one by one, and then all of them at each place.

Gong et al. (2024), CasCast, arXiv:2402.04290, section 3.3; its blocks are those of Peebles and Xie (2023), Scalable
diffusion models with transformers, arXiv:2212.09748.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from xnowcast.nn.embedding import SinusoidalEmbedding, StepEmbedding
from xnowcast.nn.guided_unet import zeroed

STEP_FREQUENCIES = 256
"""Sines and cosines of the step, whatever the width of the network."""

MIXER_RATIO = 4
"""How many times wider the two layers that mix channels are between them."""


class CasFormer(nn.Module):
    """The noise in latent frames. z (b, t, latent, y, x), step (b,) or (1,), condition like z or None -> like z.

    Each frame becomes tokens of ``patch`` x ``patch`` latent cells, of itself and of the condition side by side, which
    ``depths[0]`` blocks of ``frame_width`` channels read frame by frame. Then the tokens of a place are joined over the
    frames, and ``depths[1]`` blocks of ``width`` channels read all of them together, so that there are as many tokens
    as in a frame. Without a condition it is 0. With the defaults it has the sizes of the paper's experiments on SEVIR.

    ValueError if there are other frames than ``frames``, or ``patch`` does not divide the grid.

    >>> network = CasFormer(frames=3, frame_width=16, frame_heads=2, width=32, heads=2, depths=(1, 1))
    >>> z = torch.randn(2, 3, 4, 8, 12)
    >>> network(z, torch.tensor([0, 999]), z).shape
    torch.Size([2, 3, 4, 8, 12])
    """

    def __init__(
        self,
        *,
        frames: int = 12,
        latent: int = 4,
        patch: int = 2,
        frame_width: int = 256,
        frame_heads: int = 4,
        width: int = 1152,
        heads: int = 16,
        depths: tuple[int, int] = (12, 12),
    ) -> None:
        super().__init__()
        self.frames, self.latent, self.patch = frames, latent, patch
        self.enter = nn.Conv2d(2 * latent, frame_width, patch, stride=patch)
        self.frame_step, self.joint_step = _step_embedding(frame_width), _step_embedding(width)
        self.frame_blocks = nn.ModuleList(ModulatedBlock(frame_width, frame_heads) for _ in range(depths[0]))
        self.join = nn.Linear(frames * frame_width, width)
        self.joint_blocks = nn.ModuleList(ModulatedBlock(width, heads) for _ in range(depths[1]))
        self.leave_modulation = nn.Linear(width, 2 * width)
        self.leave = nn.Linear(width, patch**2 * frames * latent)
        self._initialise()

    def _initialise(self) -> None:
        """As Peebles and Xie: every block begins as its shortcut, and the network with no noise."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight.flatten(1))
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        for embedding in (self.frame_step, self.joint_step):
            for layer in (embedding[1], embedding[3]):
                nn.init.normal_(layer.weight, std=0.02)  # type: ignore[arg-type]
        for block in (*self.frame_blocks, *self.joint_blocks):
            zeroed(block.modulation)  # type: ignore[arg-type]
        zeroed(self.leave_modulation)
        zeroed(self.leave)

    @property
    def dtype(self) -> torch.dtype:
        """That of the parameters."""
        return self.join.weight.dtype

    def forward(self, z: Tensor, step: Tensor, condition: Tensor | None) -> Tensor:
        b, frames, _, ny, nx = z.shape
        if frames != self.frames or ny % self.patch or nx % self.patch:
            raise ValueError(
                f"there are {frames} latent frames of {ny} x {nx} cells: this network reads {self.frames}, and patches "
                f"of {self.patch} cells must divide the grid"
            )
        both = torch.cat([z, torch.zeros_like(z) if condition is None else condition], dim=2)
        tokens = rearrange(self.enter(both.flatten(0, 1)), "n d rows columns -> n (rows columns) d")
        tokens = tokens + _places(ny // self.patch, nx // self.patch, tokens)

        of_frame = self.frame_step(step)
        if len(of_frame) > 1:  # one step per sample, which all of its frames share
            of_frame = of_frame.repeat_interleave(frames, dim=0)
        for block in self.frame_blocks:
            tokens = block(tokens, of_frame)

        tokens = self.join(rearrange(tokens, "(b t) n d -> b n (t d)", b=b))
        of_joint = self.joint_step(step)
        for block in self.joint_blocks:
            tokens = block(tokens, of_joint)

        shift, scale = self.leave_modulation(F.silu(of_joint))[:, None].chunk(2, dim=-1)
        patches = self.leave(_modulated(tokens, shift, scale))
        shape = {"t": frames, "rows": ny // self.patch, "p": self.patch, "q": self.patch}
        return rearrange(patches, "b (rows columns) (p q t c) -> b t c (rows p) (columns q)", **shape)


class ModulatedBlock(nn.Module):
    """Attention and a mixer of channels, which the step shifts, scales and opens.

    tokens (b, n, width), step (b or 1, width) -> (b, n, width)
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mixer = nn.Sequential(
            nn.Linear(width, MIXER_RATIO * width),
            nn.GELU(approximate="tanh"),
            nn.Linear(MIXER_RATIO * width, width),
        )

    def forward(self, tokens: Tensor, step: Tensor) -> Tensor:
        shift, scale, gate, mixer_shift, mixer_scale, mixer_gate = self.modulation(F.silu(step))[:, None].chunk(6, -1)
        tokens = torch.addcmul(tokens, gate, self._attended(_modulated(tokens, shift, scale)))
        return torch.addcmul(tokens, mixer_gate, self.mixer(_modulated(tokens, mixer_shift, mixer_scale)))

    def _attended(self, tokens: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(tokens), "b n (three e d) -> three b e n d", three=3, e=self.heads)
        return self.out(rearrange(F.scaled_dot_product_attention(q, k, v), "b e n d -> b n (e d)"))


def _modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights of its own, scaled and shifted."""
    return torch.addcmul(shift, F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6), 1 + scale)


def _step_embedding(width: int) -> StepEmbedding:
    embedding = SinusoidalEmbedding(STEP_FREQUENCIES, "guided-diffusion")
    return StepEmbedding(embedding, STEP_FREQUENCIES, width, activation=nn.SiLU())


def _places(rows: int, columns: int, like: Tensor) -> Tensor:
    """Codes (rows * columns, d) of the places of a grid: sines and cosines of the column, then those of the row."""
    y, x = torch.meshgrid(
        torch.arange(rows, device=like.device), torch.arange(columns, device=like.device), indexing="ij"
    )
    quarter = like.shape[-1] // 4
    rates = torch.exp(-math.log(10000) / quarter * torch.arange(quarter, device=like.device))
    angles = [axis.flatten()[:, None] * rates for axis in (x, y)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=-1).to(like)
