"""Families of weights that authors published: where they are, what they want and what they become; one record each.

A family is a record in `FAMILIES`; `xnowcast.models.convert`, the command line and the page on published weights read
it there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from xnowcast import check
from xnowcast.models.registry import CELLS


@dataclass(frozen=True, kw_only=True)
class Family:
    """Weights of one public network.

    Attributes
    ----------
    name : str
        What users write.
    weights : str
        What they are, in a few words.
    url : str
        The code, and where its authors say that their weights are.
    terms : str
        Licence of the code, and what is known of that of the weights.
    data : str
        What they were trained on: quantity, frames, step, spacing and scaling of the data that they want.
    systems : mapping of str to mapping
        Systems of the registry that they can become, with the options with which these compute what the authors' code
        does; users' options have precedence.
    converter : str
        ``"module:function"``, from the network and the published tensors to its state.
    part : str
        The part of the model that they are of; all of it where empty.
    asks : mapping of str to str
        Options that nothing tells but the user, and what they are.
    minutes, spacing, crop : optional
        Step in minutes, spacing in metres and cells along the sides of the frames of the training: the contract.
    note : str
        What became of them on the way, for the card.
    released : bool
        Whether the authors published any; else they are of users who trained with the authors' code.
    """

    name: str
    weights: str
    url: str
    terms: str
    data: str
    systems: Mapping[str, Mapping[str, Any]]
    converter: str
    part: str = ""
    asks: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    minutes: float | None = None
    spacing: float | None = None
    crop: int | None = None
    note: str = ""
    released: bool = True

    @property
    def command(self) -> str:
        """The command that makes them ours, as a page shows it."""
        options = "".join(f" --option {name}={name.upper()}" for name in self.asks)
        which = f" --system {next(iter(self.systems))}" if len(self.systems) > 1 else ""
        return f"xnowcast convert {self.name} CHECKPOINT OUT{which}{options}"


# ---------------------------------------------------------------- STLDM

STLDM_URL = "https://github.com/sqfoo/stldm_official"
STLDM_TERMS = "MIT, code; of the weights behind its link no terms are stated"
HKO_7: dict[str, Any] = {"scaling": "hko-7", "input_frames": 5, "target_frames": 20, "sampled_condition": True}
HKO_7_FRAMES = "HKO-7: radar reflectivity, pixels of -10 to 60 dBZ, 5 to 20 frames, 6 min, 512 x 512 km resized to"

STLDM = (
    Family(
        name="stldm-3d-128",
        weights="STLDM with attention over time",
        url=STLDM_URL,
        terms="MIT, code and the weights on Hugging Face, sqfoo/STLDM_official",
        data=f"{HKO_7_FRAMES} 128 x 128 (4 km)",
        systems={"stldm": {"temporal_norm": "time", **HKO_7}},
        converter="xnowcast.models.published.latent:stldm",
        minutes=6,
        spacing=4000.0,
        crop=128,
    ),
    Family(
        name="stldm-2d-128",
        weights="STLDM frame by frame",
        url=STLDM_URL,
        terms=STLDM_TERMS,
        data=f"{HKO_7_FRAMES} 128 x 128 (4 km)",
        systems={"stldm": {"frame_wise": True, **HKO_7}},
        converter="xnowcast.models.published.latent:stldm",
        minutes=6,
        spacing=4000.0,
        crop=128,
    ),
    Family(
        name="stldm-3d-256",
        weights="STLDM with attention over time, larger frames",
        url=STLDM_URL,
        terms=STLDM_TERMS,
        data=f"{HKO_7_FRAMES} 256 x 256 (2 km)",
        systems={"stldm": {"temporal_norm": "time", **HKO_7}},
        converter="xnowcast.models.published.latent:stldm",
        asks={"patch": "the patch_size of the training, 16 or 32, which no tensor shows"},
        minutes=6,
        spacing=2000.0,
        crop=256,
    ),
)

# ---------------------------------------------------------------- the others

GUIDED_DIFFUSION = Family(
    name="guided-diffusion-256",
    weights="256x256_diffusion_uncond.pt, a prior of images",
    url="https://github.com/openai/guided-diffusion",
    terms="MIT, code; the model card of the weights says: for research, not for commercial use",
    data="ImageNet, not radar: a beginning for xnowcast.train(start=), of any radar frames of 256 x 256 cells",
    systems={"postcast": {}},
    converter="xnowcast.models.published.unet:guided_diffusion",
    part="network",
    crop=256,
    note="Three channels became one: each field is read for all of them, and the noise is their mean; the learnt "
    "variance is left out.",
)

PUBLISHED_CELLS = ("trajgru", "motionrnn", "preciplstm")
"""Those that have the option ``published``."""

MS_RNN = Family(
    name="ms-rnn",
    weights="stacks of six recurrent cells, on one scale and on three, MS-LSTM among them",
    url="https://github.com/mazhf/MS-RNN",
    terms="none stated",
    data="what they were trained on: tell --step and --spacing; pixels of HKO-7 or DWD-12 over 255",
    systems={
        f"{scales}{cell}": {"published": True} if cell in PUBLISHED_CELLS else {}
        for scales in ("ms-", "")
        for cell in CELLS
    },
    converter="xnowcast.models.published.cells:ms_rnn",
    part="network",
    asks={"scaling": "the data set whose pixels they read, 'hko-7' or 'dwd-12'"},
    released=False,
)


STVD = Family(
    name="stvd",
    weights="both networks; none are published, the code saves its own",
    url="https://github.com/mandt-lab/STVD",
    terms="MIT, code",
    data="precipitation of FV3GFS, 5 frames, 3 h, 200 km to 25 km; further fields by --option channels and static, and "
    "--ranges of them",
    systems={"stvd": {"published": True, "eps": 3.6e-11, "diffusion_steps": 1500, "sampling_steps": 20}},
    converter="xnowcast.models.published.downscaling:stvd",
    asks={
        "highest": "the largest fine rain rate of the training in mm/h, which became 1",
        "coarse_highest": "that of the coarse rain, likewise",
    },
    minutes=180,
    spacing=25_000.0,
    crop=384,
    released=False,
)

INTERN_IMAGE_WEIGHTS = {
    "t": "internimage_t_1k_224.pth",
    "s": "internimage_s_1k_224.pth",
    "b": "internimage_b_1k_224.pth",
    "l": "internimage_l_22k_192to384.pth and internimage_l_22kto1k_384.pth",
    "xl": "internimage_xl_22k_192to384.pth and internimage_xl_22kto1k_384.pth",
    "h": "internimage_h_22kto1k_384.pth and internimage_h_22kto1k_640.pth",
}

INTERN_IMAGE = tuple(
    Family(
        name=f"internimage-{size}",
        weights=f"{files}, an encoder of images",
        url="https://github.com/OpenGVLab/InternImage",
        terms="MIT, code and the weights on Hugging Face, OpenGVLab/InternImage",
        data="ImageNet, not forecasts: a beginning for xnowcast.train(start=), of any fields of a forecast",
        systems={"nwp-mae": {"phase": "pretraining"} | ({} if size == "t" else {"backbone": size})},
        converter="xnowcast.models.published.backbone:intern_image",
        part="encoder",
        note="Only the encoder is trained: tokeniser and decoder are drawn, and the run that begins with it measures "
        "the fields. Each field is read as the mean of the three colours.",
    )
    for size, files in INTERN_IMAGE_WEIGHTS.items()
)

KOMET_METNET = Family(
    name="komet-metnet",
    weights="KoMet's MetNet; none are published, the code saves its own",
    url="https://github.com/osilab-kaist/KoMet-Benchmark-Dataset",
    terms="MIT, code",
    data="KoMet: forecasts of GDAPS-KIM on 50 x 65 cells, rain classes of a rain gauge network from 0.1 and 10 mm/h",
    systems={"nwp-metnet-sequence": {"batch_statistics": True}},
    converter="xnowcast.models.published.metnet:komet_metnet",
    part="network",
    asks={
        "channels": "the names of the fields, in the order of the training",
        "lead_offsets": "the lead times that are read to correct one, in steps from it",
    },
    note="Mean and spread that fields are scaled by are not among the tensors: a training that begins with them "
    "measures the fields, and set_channel_statistics tells them.",
)

CONVGRU_ENSEMBLE = Family(
    name="convgru-ensemble",
    weights="IRENE, and ensembles that others trained with the same code",
    url="https://github.com/DSIP-FBK/ConvGRU-Ensemble",
    terms="BSD-2-Clause, code; mlcast's is Apache-2.0 or BSD-3-Clause; of the weights no terms are stated",
    data="rain rate as reflectivity, 0 to 60 dBZ, 6 to 12 frames, 5 min, 1 km",
    systems={"convgru-ensemble": {}},
    converter="xnowcast.models.published.ensemble:convgru_ensemble",
    minutes=5,
    spacing=1000.0,
    note="Grids are padded with no rain, as ConvGRU-Ensemble pads them; padding='middle' is mlcast's way.",
)

OPENSTL_URL = "https://github.com/chengtan9907/OpenSTL"
OPENSTL_TERMS = "Apache-2.0, code, whose releases have the weights"
VIDEOS = (
    "videos, not rain; of Moving MNIST, 10 to 10 frames of 64 x 64: a beginning for xnowcast.train(start=). Others by "
    "--option input_frames, width, hidden, layers and blocks"
)

SIMVP = Family(
    name="simvp",
    weights="SimVP, with gSTA or by --option translator=incepu, of one channel",
    url=OPENSTL_URL,
    terms=OPENSTL_TERMS,
    data=VIDEOS,
    systems={"simvp": {"input_frames": 10, "target_frames": 10}},
    converter="xnowcast.models.published.translating:simvp",
    part="network",
)

TAU = Family(
    name="tau",
    weights="TAU, of one channel",
    url=OPENSTL_URL,
    terms=OPENSTL_TERMS,
    data=VIDEOS,
    systems={"tau": {"input_frames": 10, "target_frames": 10}},
    converter="xnowcast.models.published.translating:simvp",
    part="network",
)

LPT_QPN = Family(
    name="lpt-qpn",
    weights="the network; none are published, the code saves its own",
    url="https://github.com/davidlikecookies/LPT-QPN",
    terms="none stated",
    data="SEVIR: vertically integrated liquid, 5 to 20 frames, 5 min: tell --spacing",
    systems={"lpt-qpn": {"scaling": "sevir"}},
    converter="xnowcast.models.published.channel_transformer:lpt_qpn",
    minutes=5,
)


DIFFCAST = Family(
    name="diffcast",
    weights="DiffCast with PhyDNet as its first stage",
    url="https://github.com/DeminYu98/DiffCast",
    terms="GPL-3.0, code; of the weights behind its link no others are stated",
    data="SEVIR: vertically integrated liquid, pixels over 255, 5 to 20 frames, 5 min, 384 x 384 km resized to "
    "128 x 128 (3 km)",
    systems={"diffcast": {"published": True, "scaling": "sevir"}},
    converter="xnowcast.models.published.residual_diffusion:diffcast",
    minutes=5,
    spacing=3000.0,
    crop=128,
)


EARTHFORMER = Family(
    name="earthformer",
    weights="earthformer_sevir.pt",
    url="https://github.com/amazon-science/earth-forecasting-transformer",
    terms="Apache-2.0, code; of the weights no terms of their own are stated",
    data="SEVIR: vertically integrated liquid, pixels over 255, 13 to 12 frames, 5 min, 384 x 384 (1 km); those of "
    "CasCast's first stage have the same network",
    systems={"earthformer": {"scaling": "sevir"}},
    converter="xnowcast.models.published.cuboid:earthformer",
    part="network",
    minutes=5,
    spacing=1000.0,
    crop=384,
    note="Its tables are for 384 x 384 cells: other grids are forecast in such squares.",
)

SWIN_IR_URL = "https://github.com/JingyunLiang/SwinIR"
SWIN_IR_FACTOR = {"factor": "2, 3, 4 or 8, as the file's name says"}
SWIN_IR: dict[str, Any] = {
    "url": SWIN_IR_URL,
    "terms": "Apache-2.0, code and the weights of its releases",
    "data": "images of three colours, not rain: a beginning for xnowcast.train(start=)",
    "converter": "xnowcast.models.published.swin:swin_ir",
    "part": "network",
    "note": "Three colours became one field, which is taken for a grey image: that of the logarithm of the rain, which "
    "no image was.",
}

SWIN_IRS = (
    Family(
        name="swin-ir-classical",
        weights="SwinIR for classical super-resolution",
        systems={"swin-ir": {}},
        asks=SWIN_IR_FACTOR,
        **SWIN_IR,
    ),
    Family(
        name="swin-ir-light",
        weights="SwinIR, light-weight",
        systems={"swin-ir": {"size": "light"}},
        asks=SWIN_IR_FACTOR,
        **SWIN_IR,
    ),
    Family(
        name="swin-ir-real",
        weights='SwinIR for real-world super-resolution by 4; its large form with the option size="large"',
        systems={"swin-ir": {"factor": 4, "upsampling": "nearest"}},
        **SWIN_IR,
    ),
)

CASCAST: dict[str, Any] = {
    "url": "https://github.com/OpenEarthLab/CasCast",
    "terms": "none stated",
    "data": "SEVIR: pixels of vertically integrated liquid over 255, 13 to 12 frames, 5 min, 1 km, 384 x 384",
    "systems": {"cascast": {"scaling": "sevir", "latent_scale": 0.6786, "published": True}},
    "minutes": 5,
    "spacing": 1000.0,
    "crop": 384,
}

CASCAST_PARTS = (
    Family(
        name="cascast-autoencoder",
        weights="CasCast's autoencoder",
        converter="xnowcast.models.published.cascast:kl_autoencoder",
        part="autoencoder",
        note="The autoencoder alone is trained, but for what it was begun with: see start=.",
        **CASCAST,
    ),
    Family(
        name="cascast-casformer",
        weights="CasFormer, CasCast's denoiser",
        converter="xnowcast.models.published.cascast:casformer",
        part="denoiser",
        note="The denoiser alone is trained, but for what it was begun with: see start=.",
        **CASCAST,
    ),
)

FAMILIES: dict[str, Family] = {
    family.name: family
    for record in list(globals().values())
    for family in (record if isinstance(record, tuple) else (record,))
    if isinstance(family, Family)
}
"""All families of this file by their names."""


def find(name: str) -> Family:
    """The record of a family; a ValueError with all that there are.

    >>> find("stldm-3d-128").crop
    128
    >>> find("intern-image")
    Traceback (most recent call last):
    ValueError: there is no family of published weights 'intern-image': did you mean 'internimage-t'? Known are ...
    """
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        near = check.nearest(name, FAMILIES)
        hint = f" did you mean {near!r}?" if near else ""
        raise ValueError(f"there is no family of published weights {name!r}:{hint} Known are {known}")
    return FAMILIES[name]


def table() -> str:
    """All families as a table in Markdown, as the page on published weights has it.

    >>> table().splitlines()[0]
    '| weights | code | terms | trained on | command | becomes |'
    """
    rows = ["| weights | code | terms | trained on | command | becomes |", "|---|---|---|---|---|---|"]
    for one in FAMILIES.values():
        few = [f"`{system}`" for system in list(one.systems)[:3]]
        becomes = ", ".join(few) + (f" and {len(one.systems) - 3} more" if len(one.systems) > 3 else "")
        part = f", its `{one.part}`" if one.part else ""
        repository = one.url.removeprefix("https://github.com/")
        cells = (one.weights, f"[{repository}]({one.url})", one.terms, one.data, f"`{one.command}`", becomes + part)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)
