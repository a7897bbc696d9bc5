"""NWP-MAE: a post-processor of weather forecasts whose encoder first learns to fill in masked fields."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnowcast.models.base import Loss, TrainingBatch
from xnowcast.models.declaration import option
from xnowcast.models.rain_classes import RainClassifier, RainClassOptions, fields_of, padded
from xnowcast.nn.intern_image import INTERN_IMAGE_SIZES, InternImage, Variant
from xnowcast.nn.masking import PatchMasking, random_mask
from xnowcast.nn.upernet import UPerNet

MASKING = {"pretraining": 0.9, "classes": 0.25}
"""Shares of tokens that are hidden in training (section 2.3)."""


@dataclass(frozen=True)
class Shape:
    """Sizes of tokeniser, encoder and decoder; the defaults are the paper's, as far as it tells.

    ``patch`` counts cells, ``token_width`` numbers, ``places`` the patches along y and x of the table of codes for
    place; ``width`` is that after the stem of the encoder, depths and groups are those of its stages, ``variant`` what
    its blocks are made of.
    """

    patch: int = 16
    token_width: int = 1024
    places: tuple[int, int] = (14, 8)
    width: int = 64
    depths: tuple[int, ...] = (4, 4, 18, 4)
    groups: tuple[int, ...] = (4, 8, 16, 32)
    decoder_width: int = 512
    drop_path: float = 0.1
    variant: Variant = field(default_factory=Variant)

    @property
    def multiple(self) -> int:
        """Cells whose multiples grids must have: whole patches, and whole cells of the deepest map."""
        return max(self.patch, 4 * 2 ** (len(self.depths) - 1))


SIZES = {
    "full": Shape(),
    "small": Shape(8, 256, (16, 16), 32, (2, 2, 6, 2), (2, 4, 8, 16), 96),
    "tiny": Shape(8, 256, (8, 4), 16, (1, 1, 1, 1), (2, 4, 8, 16), 24, 0.0),
}


@dataclass(frozen=True, kw_only=True)
class NwpMaeOptions(RainClassOptions):
    size: str = option(
        "full", '"full" is InternImage-T and UPerNet as in the paper, 61 million parameters.', choices=SIZES
    )
    backbone: str | None = option(
        None,
        "InternImage of another size as the encoder, with its published widths, depths and drop path: 49 (s), 95 (b), "
        "219 (l), 329 (xl) or 1,073 million parameters (h). By default that of `size`.",
        choices=(None, *INTERN_IMAGE_SIZES),
    )
    phase: Literal["classes", "pretraining"] = option(
        "classes", "What is learnt: classes of rain, or to give back the fields.", choices=MASKING
    )
    masking: float | None = option(
        None,
        "Share of the tokens that is hidden in training; 0.9 in pre-training and 0.25 after it by default. "
        "No token is hidden when it post-processes.",
    )
    reconstruction: Literal["masked", "all"] = option(
        "masked", "Where the fields have to be given back: in masked patches, or everywhere."
    )
    encoder: Literal["frozen", "tuned"] = option(
        "frozen", "Whether tokeniser and encoder stay as they were pre-trained or learn on."
    )

    def check(self) -> None:
        lowest = "above 0" if self.phase == "pretraining" else "0 or more"
        if self.masking is not None and not (0 <= self.masking < 1 and (self.masking > 0 or self.phase == "classes")):
            raise ValueError(f"masking is {self.masking}: in the phase {self.phase!r} it must be {lowest} and below 1")
        super().check()

    @property
    def shape(self) -> Shape:
        """Of all parts."""
        own = SIZES[self.size]
        return own if self.backbone is None else replace(own, **vars(INTERN_IMAGE_SIZES[self.backbone]))

    @property
    def multiple(self) -> int:
        return self.shape.multiple


class NwpMae(RainClassifier[NwpMaeOptions]):
    """Self-supervised post-processor of weather forecasts: masked pre-training, then rain classes.

    Patches of the fields become tokens, of which some are masked in training, and fields again; InternImage encodes
    them and UPerNet decodes. In the phase "pretraining" it learns to give back the fields, and in the phase "classes"
    classes of rain, with tokeniser and encoder as they were pre-trained: ``xnowcast.train("nwp-mae", ...,
    start="pretrained.safetensors")``. A patch has four channels that follow each other.

    Raises
    ------
    ValueError
        If an option has no such value.

    References
    ----------
    An, Lee, Jang, Na, Park and You (2023), Self-supervised pre-training for precipitation post-processor,
    arXiv:2310.20187

    Examples
    --------
    >>> model = NwpMae(size="tiny").eval()
    >>> model.set_channel_statistics(*torch.tensor([0.0, 1.0, -3.0, 3.0]).expand(16, 4).unbind(1))
    >>> fields = torch.randn(1, 16, 40, 32)
    >>> model.postprocess(fields, fields[:, :1] < 9).shape
    torch.Size([1, 3, 40, 32])
    """

    begun: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own = self.options
        self.phase, self.reconstruction = own.phase, own.reconstruction
        self.masking = MASKING[own.phase] if own.masking is None else own.masking
        shape, count = own.shape, len(self.task.channels)
        self.tokeniser = PatchMasking(count, patch=shape.patch, width=shape.token_width, places=shape.places)
        self.encoder = InternImage(count, shape.width, shape.depths, shape.groups, shape.drop_path, shape.variant)
        out = count if own.phase == "pretraining" else len(self.thresholds) + 1
        self.decoder = UPerNet(self.encoder.widths, out, shape.decoder_width)
        self.register_buffer("begun", torch.tensor(False))
        self.frozen = own.phase == "classes" and own.encoder == "frozen"
        for part in (self.tokeniser, self.encoder):
            part.requires_grad_(not self.frozen)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def train(self, mode: bool = True) -> Self:
        """As ever, but what is frozen neither drops paths nor learns."""
        super().train(mode)
        if self.frozen:
            self.tokeniser.eval()
            self.encoder.eval()
        return self

    # ------------------------------------------------------------ training

    def begin_from(self, other: "NwpMae") -> None:
        """Take over pre-trained weights: tokeniser, encoder and the statistics of the channels, not the decoder.

        From a model of the same phase the decoder is taken over as well. ValueError if sizes, channels or, with a
        decoder, the classes differ.
        """
        if self.phase == "pretraining" and other.phase == "classes":
            raise ValueError("the weights are of the phase 'classes': pre-training begins from pre-trained weights")
        same_phase = other.phase == self.phase
        must_agree: dict[str, tuple[object, object]] = {
            "size": (self.options.size, other.options.size),
            "backbone": (self.options.backbone, other.options.backbone),
            "channels": (self.task.channels, other.task.channels),
        }
        if same_phase:
            must_agree["thresholds"] = (self.thresholds, other.thresholds)
        for name, (own, given) in must_agree.items():
            if own != given:
                raise ValueError(f"the weights have the {name} {given}, and this model has {own}")
        for part in ("tokeniser", "encoder", "scaling", *(("decoder",) if same_phase else ())):
            getattr(self, part).load_state_dict(getattr(other, part).state_dict())
        self.begun.fill_(True)

    def loss(self, batch: TrainingBatch, *, progress: float, adversary: nn.Module | None = None) -> Loss:
        """Mean squared error of the z-scores in masked patches, or the weighted cross-entropy (equation 2).

        Raises
        ------
        ValueError
            If a frozen encoder was never pre-trained, or the batch has one sample and batch norm would learn from it.
        """
        self._require_begun()
        fields = fields_of(batch, self.task)
        if self.training and len(fields) == 1:
            raise ValueError("a batch of one sample: the decoder's batch norm needs two or more, set batch_size")
        x = padded(self.scaling(fields), self.task.grid_multiple)
        shape = x.shape[-2], x.shape[-1]
        hidden = self._hidden(x)
        maps = self.encoder(self.tokeniser(x, hidden))
        if self.phase == "classes":
            return self._class_loss(maps, batch, shape)
        return self._reconstruction_loss(self._decoded(maps, shape), x, fields, hidden)

    def adversary(self, shape: tuple[int, int]) -> nn.Module | None:
        """None: it trains without one. A run asks for it as it is planned, so what `loss` refuses is refused here.

        Raises
        ------
        ValueError
            If a frozen encoder was never pre-trained.
        """
        self._require_begun()
        return None

    def _require_begun(self) -> None:
        if self.frozen and not self.begun:
            raise ValueError(
                "the encoder is frozen and was never pre-trained: begin from weights of the phase 'pretraining' "
                "(start=), or let it learn with encoder='tuned'"
            )

    def _reconstruction_loss(self, predicted: Tensor, x: Tensor, fields: Tensor, hidden: Tensor | None) -> Loss:
        """Over the cells that have a value; not over what was padded or missing."""
        ny, nx = fields.shape[-2:]
        wanted = fields.isfinite()
        if self.reconstruction == "masked" and hidden is not None:
            wanted = wanted & self.tokeniser.cells(hidden, *x.shape[-2:])[..., :ny, :nx]
        error = (predicted.float() - x)[..., :ny, :nx].square()
        total = (error * wanted).sum() / wanted.sum().clamp_min(1)
        return Loss(total, {"reconstruction": total.detach()})

    def _hidden(self, x: Tensor) -> Tensor | None:
        """Tokens to mask: in training, and in pre-training always, where there is nothing to learn without."""
        if not (self.training or self.phase == "pretraining"):
            return None
        return random_mask(len(x), self.tokeniser.tokens(*x.shape[-2:]), self.masking, x.device)

    def _encoded(self, x: Tensor) -> list[Tensor]:
        return self.encoder(self.tokeniser(x))

    def _decoded(self, maps: Sequence[Tensor], shape: tuple[int, int]) -> Tensor:
        return F.interpolate(self.decoder(maps), size=shape, mode="bilinear", align_corners=False)

    # ------------------------------------------------------------ post-processing

    @torch.no_grad()
    def reconstruct(self, fields: Tensor, hidden: Tensor) -> Tensor:
        """Fields that a pre-trained model gives back from those that are not masked.

        Parameters
        ----------
        fields : Tensor
            ``(b, c, y, x)`` in canonical units, a grid of multiples of ``task.grid_multiple``.
        hidden : Tensor
            ``(b, tokens)`` bool: see `xnowcast.nn.masking.random_mask`.

        Returns
        -------
        Tensor
            ``(b, c, y, x)``: z-scores, as `scaling` makes them; also where nothing was masked.

        Raises
        ------
        ValueError
            If the model is of the phase "classes", or the grid no multiple.
        """
        if self.phase != "pretraining":
            raise ValueError("a model of rain classes gives no fields back: use one of the phase 'pretraining'")
        x = self.scaling(fields)
        with self._precise(fields):
            return self._decoded(self.encoder(self.tokeniser(x, hidden)), (x.shape[-2], x.shape[-1])).float()

    def postprocess(self, fields: Tensor, observed: Tensor) -> Tensor:
        """As `RainClassifier.postprocess`."""
        self._require_classes()
        return super().postprocess(fields, observed)

    def explain(self, fields: Tensor, observed: Tensor, category: int) -> Tensor:
        """As `RainClassifier.explain`."""
        self._require_classes()
        return super().explain(fields, observed, category)

    def _require_classes(self) -> None:
        if self.phase != "classes":
            raise ValueError(
                "these weights are of the phase 'pretraining' and know no rain classes: train on from them with "
                "phase='classes' and start="
            )
