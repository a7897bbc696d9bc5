"""Patches over variables, y and x that are masked at random and put back: what a masked autoencoder reads."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class PatchMasking(nn.Module):
    """Fields as tokens, some of which are hidden, and as fields again (Feichtenhofer et al. 2022, arXiv:2205.09113).

    Patches of ``depth`` variables and ``patch`` x ``patch`` cells become tokens, a learned vector stands for masked
    ones, and codes for variables and for place are added; norm and linear map make fields of them. Hidden tokens keep
    their place, because what reads the fields needs a grid. Codes for place are a table of ``places``; for other grids
    it is interpolated bilinearly, so on crops they say where in the crop a patch lies.

    Parameters
    ----------
    channels : int
        Variables; zeros fill the last patch where ``depth`` does not divide them.
    depth, patch : int
        Variables, and cells along y and x, of a patch.
    width : int
        Numbers of a token.
    places : (int, int)
        Patches along y and x of the table of codes.

    Examples
    --------
    >>> masking = PatchMasking(16, width=32)
    >>> hidden = random_mask(2, masking.tokens(224, 128), 0.9)
    >>> hidden.sum(dim=1)
    tensor([403, 403])
    >>> masking(torch.zeros(2, 16, 224, 128), hidden).shape
    torch.Size([2, 16, 224, 128])
    """

    def __init__(
        self, channels: int, *, depth: int = 4, patch: int = 16, width: int = 1024, places: tuple[int, int] = (14, 8)
    ) -> None:
        super().__init__()
        self.channels, self.depth, self.patch = channels, depth, patch
        self.stacks = -(-channels // depth)
        # a linear map of a patch is a convolution whose stride is its kernel
        self.embed = nn.Linear(depth * patch**2, width)
        self.variable_code = nn.Parameter(torch.empty(self.stacks, 1, 1, width))
        self.place_code = nn.Parameter(torch.empty(*places, width))
        self.mask_token = nn.Parameter(torch.empty(width))
        self.norm = nn.LayerNorm(width)
        self.restore = nn.Linear(width, depth * patch**2)
        for code in (self.variable_code, self.place_code, self.mask_token):
            nn.init.trunc_normal_(code, std=0.02)
        for linear in (self.embed, self.restore):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def tokens(self, ny: int, nx: int) -> int:
        """How many tokens a grid has.

        Parameters
        ----------
        ny, nx : int
            Cells; multiples of ``patch``.

        Returns
        -------
        int

        Raises
        ------
        ValueError
            If they are no multiples.
        """
        if ny % self.patch or nx % self.patch:
            raise ValueError(f"a grid of {ny} x {nx} cells has no whole patches of {self.patch}: pad it")
        return self.stacks * (ny // self.patch) * (nx // self.patch)

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Fields ``(b, c, y, x)`` and which of their tokens are masked, ``(b, tokens)`` bool -> fields."""
        self.tokens(*x.shape[-2:])
        tokens = self.embed(self._patches(x))  # (b, v, y, x, width)
        if hidden is not None:
            tokens = torch.where(hidden.view(*tokens.shape[:-1], 1), self.mask_token.to(tokens.dtype), tokens)
        tokens = tokens + (self.variable_code + self._places(*tokens.shape[2:4])).to(tokens.dtype)
        return self._fields(self.restore(self.norm(tokens)))

    def cells(self, hidden: Tensor, ny: int, nx: int) -> Tensor:
        """Which cells lie in masked patches.

        Parameters
        ----------
        hidden : Tensor
            ``(b, tokens)`` bool.
        ny, nx : int
            Of the grid.

        Returns
        -------
        Tensor
            ``(b, channels, ny, nx)`` bool.
        """
        stacks = hidden.view(len(hidden), self.stacks, ny // self.patch, nx // self.patch)
        for dim, count in ((1, self.depth), (2, self.patch), (3, self.patch)):
            stacks = stacks.repeat_interleave(count, dim=dim)
        return stacks[:, : self.channels]

    def _patches(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, 0, 0, self.stacks * self.depth - self.channels))
        return rearrange(x, "b (v d) (y p) (x q) -> b v y x (d p q)", d=self.depth, p=self.patch, q=self.patch)

    def _fields(self, patches: Tensor) -> Tensor:
        back = "b v y x (d p q) -> b (v d) (y p) (x q)"
        return rearrange(patches, back, d=self.depth, p=self.patch, q=self.patch)[:, : self.channels]

    def _places(self, rows: int, columns: int) -> Tensor:
        """Codes for place on a grid of patches, (rows, columns, width)."""
        if (rows, columns) == self.place_code.shape[:2]:
            return self.place_code
        table = self.place_code.permute(2, 0, 1)[None]
        codes = F.interpolate(table, size=(rows, columns), mode="bilinear", align_corners=False)
        return codes[0].permute(1, 2, 0)


def random_mask(batch: int, tokens: int, ratio: float, device: torch.device | str | None = None) -> Tensor:
    """Tokens to hide, drawn without replacement whatever their variable and place.

    Parameters
    ----------
    batch, tokens : int
    ratio : float
        Share that is hidden, 0 to 1; ``round(ratio * tokens)`` of each sample are.
    device : torch.device or str, optional

    Returns
    -------
    Tensor
        ``(batch, tokens)`` bool, drawn from torch's global generator.

    Raises
    ------
    ValueError
        If the ratio is not from 0 to 1.

    Examples
    --------
    >>> random_mask(1, 448, 0.25).sum().item()
    112
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"the ratio is {ratio}; it must be from 0 to 1")
    order = torch.rand(batch, tokens, device=device).argsort(dim=1)
    hidden = torch.zeros(batch, tokens, dtype=torch.bool, device=device)
    return hidden.scatter_(1, order[:, : round(ratio * tokens)], True)
