"""All systems as one table: a row a family of names, with paper, size, what it needs and which weights are known."""

import re
from collections.abc import Iterator
from inspect import getdoc
from typing import Any
from urllib.parse import quote

from xnowcast.models import families, shipped
from xnowcast.models.registry import REGISTRY, build, declare, find, fixed_options

MS_RNN = "Ma, Zhang and Liu (2022), MS-RNN, arXiv:2206.03010"

PAPERS: dict[str, str] = {
    "persistence": "",
    "nwp-raw": "",
    "nearest": "",
    "bilinear": "",
    "bicubic": "",
    "extrapolation": "Germann and Zawadzki (2002), doi:10.1175/1520-0493(2002)130<2859:SDOTPO>2.0.CO;2",
    "sprog": "Seed (2003), doi:10.1175/1520-0450(2003)042<0381:ADASSA>2.0.CO;2",
    "steps": "Bowler et al. (2006), doi:10.1256/qj.04.100",
    "lagrangian": "Ritvanen et al. (2023), doi:10.1109/JSTARS.2023.3238016",
    "crps-rnn": "this package's own; its loss is that of Lang et al. (2024), arXiv:2412.15832",
    "convgru-ensemble": "none; https://github.com/DSIP-FBK/ConvGRU-Ensemble",
    "convlstm": f"{MS_RNN}, as what it compares with",
    "ms-convlstm": MS_RNN,
    "db-convlstm": "Ma et al. (2024), DB-RNN, doi:10.1109/JSTARS.2024.3365612",
    "postcast": "Gong et al. (2025), PostCast: generalizable postprocessing for precipitation nowcasting via "
    "unsupervised blurriness modeling",
    "stvd": "Srivastava et al. (2024), STVD, arXiv:2312.06071",
}
"""Of systems whose docstring has no section of references, by one name of the family; nothing where there is none."""

LINK = re.compile(r"(doi:|arXiv:|https?://)(\S+?)(?=[,;.]?(?:\s|$))")


def table() -> str:
    """All systems in Markdown, as the page on models has it.

    >>> table().splitlines()[0]
    '| systems | for | paper | parameters | reads | needs | known weights, and their terms |'
    """
    head = ("systems", "for", "paper", "parameters", "reads", "needs", "known weights, and their terms")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in _rows())])


def groups() -> list[list[str]]:
    """Names of systems by family: those of one class, and of one kind where its names fix one."""
    found: dict[Any, list[str]] = {}
    for name in REGISTRY:
        found.setdefault((find(name), fixed_options(name).get("kind")), []).append(name)
    return list(found.values())


def paper(names: list[str]) -> str | None:
    """Where a family is described: as `PAPERS` says, or else the first reference of its docstring; None if nowhere."""
    for name in names:
        if name in PAPERS:
            return PAPERS[name]
    text = getdoc(find(names[0])) or ""
    _, _, references = text.partition("References\n----------\n")
    for paragraph in (references or text).split("\n\n"):
        if first := LINK.search(paragraph):
            return " ".join(paragraph[: first.end()].split())
    return None


def parameters(name: str) -> int:
    """Numbers that a system learns at full size, counted without making any of them."""
    import torch

    if not hasattr(find(name), "parameters"):
        return 0
    with torch.device("meta"):
        return sum(one.numel() for one in build(name).parameters())


# ---------------------------------------------------------------- a row


def _rows() -> Iterator[tuple[str, ...]]:
    for names in groups():
        task = declare(names[0])
        members = ", members" if task.stochastic else ""
        needs = "training" if task.trained else "nothing"
        yield (
            ", ".join(f"`{name}`" for name in names),
            task.verb + members,
            _linked(paper(names) or ""),
            _counts([parameters(name) for name in names]),
            _reads(task),
            needs,
            "; ".join(_weights(names)) or ("none" if task.trained else ""),
        )


def _linked(text: str) -> str:
    """A reference with what stands in it as a link."""

    def link(found: re.Match[str]) -> str:
        kind, what = found.groups()
        if kind == "doi:":
            return f"[doi]({'https://doi.org/' + quote(what, safe='/.')})"
        if kind == "arXiv:":
            return f"[arXiv:{what}](https://arxiv.org/abs/{what})"
        return f"[{what.partition('/')[2] if what.startswith('github') else what.partition('/')[0]}]({kind}{what})"

    return LINK.sub(link, text)


def _counts(many: list[int]) -> str:
    """One number, or the least and the most."""
    ends = [f"{count:,}" for count in sorted({min(many), max(many)})]
    return "" if max(many) == 0 else " to ".join(ends)


def _reads(task: Any) -> str:
    frames = "1 frame" if task.input_frames == 1 else f"{task.input_frames} frames"
    return frames if task.verb in ("forecast", "downscale", "deblur") else "fields of a forecast"


def _weights(names: list[str]) -> Iterator[str]:
    """What ships, and what authors published."""
    for system in names:
        for name, card in shipped.of_system(system).items():
            yield f"`{name}` ships ({card.licence})"
    for family in families.FAMILIES.values():
        if any(name in family.systems for name in names):
            whose = "" if family.released else "none published; those that you train with the code: "
            yield f"{whose}[`{family.name}`](../howto/published_weights.md), {family.terms}"
