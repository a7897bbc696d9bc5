"""What the docstrings of scores have in common, said once: each describes what is its own, and the rest is added."""

import re
from collections.abc import Mapping, Sequence

_MERGE = "Sums of different files or months are added up with `merge` or ``.sum(dim)`` before a score is taken of them."

_ALL = """
observations, forecasts : xarray.DataArray or xarray.Dataset
    In the same units, with exactly the same coordinates on the dims they share. NaN means not measured.
member_dim : hashable, optional
    When given, the mean over this dim is scored instead of each member.
spatial_dims : (hashable, hashable), optional
    Names of the horizontal dims. By default y and x, or latitude and longitude.
keep_attrs : bool
    Whether to copy the attributes of ``observations``.
"""
_PAIRS = """
dim : str or iterable of hashable, optional
    Dims that are summed over; all by default, members of an ensemble included.
weights : xarray.DataArray, optional
    Along some of the dims of the fields, such as those of `area_weights`; every pair counts with its weight, and
    ``n`` is the sum of weights. Not below 0, and not NaN.
skipna : bool
    True: pairs in which either is NaN (not measured) are dropped. False: they make the sums NaN.
"""
_FIELDS = """
dim : str or iterable of hashable, optional
    Dims whose fields are taken together; all by default, ``[]`` for values of single fields. The horizontal dims
    always go. Members of an ensemble are scored each as a forecast.
weights : xarray.DataArray, optional
    Of whole fields, along dims that are not horizontal, such as times; each counts with its weight.
skipna : bool
    True: cells in which either is NaN (not measured) are left out. False: they make the sums of their field NaN.
"""
_MEMBERS = """
observations : xarray.DataArray or xarray.Dataset
    Without ``member_dim``; NaN means not measured.
forecasts : xarray.DataArray or xarray.Dataset
    In the same units, with ``member_dim`` and exactly the same coordinates on the dims they share.
member_dim : hashable
    Dim of the members; always removed. Where none is called "member", it is found by CF attributes or common names,
    such as ``number``.
dim : str or iterable of hashable, optional
    Dims that are summed over; all by default. ``[]`` gives a map.
weights : xarray.DataArray, optional
    Of points, along some of their dims, such as those of `area_weights`; every point counts with its weight.
"""
_EITHER = """
observations, forecasts : xarray.DataArray or xarray.Dataset
    Two fields as for `{0}`, or what it returned, alone.
    That is added up over ``dim``; what else is said beside it has to be how it was made.
"""


def of_sums(doc: str, options: Mapping[str, object], variables: Sequence[str]) -> str:
    """The docstring of a function of sums, from one without indent.

    ``options``: the keywords and their defaults, which tell whether it is of ensembles, of whole fields or of pairs.
    """
    if options.get("member_dim") is not None:
        shared = _ALL + _MEMBERS
    else:
        shared = _ALL + (_FIELDS if "spatial_dims" in options else _PAIRS)
    doc = _with_parameters(doc, list(options), _entries(shared))
    if "`merge`" not in doc:
        doc = doc.replace("Parameters\n---", f"{_MERGE}\n\nParameters\n---", 1)
    if variables and "Datasets as input" not in doc:
        after = "    Datasets as input give a dim ``variable``. Lazy where an input is.\n"
        doc = re.sub(r"(Returns\n-+\n(?:.+\n)+)", lambda found: found[1] + after, doc, count=1)
    return _with_raises(doc, "ValueError\n    If coordinates differ or a dim is unknown.")


def of_score(doc: str, sums: str, described: str, options: Sequence[str], asked: Sequence[str], result: str) -> str:
    """The docstring of a score, from one without indent.

    ``sums, described``: name and docstring of the function whose sums it is taken of. ``asked``: options that two
    fields need. ``result``: units and limits.
    """
    doc = _with_parameters(doc, options, _entries(_parameters(described)) | _entries(_EITHER.format(sums)))
    doc = re.sub(r"(Returns\n-+\n)(?= )", rf"\1xarray.DataArray or xarray.Dataset\n    {result}\n", doc, count=1)
    *first, last = [f"``{name}``" for name in ("forecasts", *asked)]
    missing = f"; and if {', '.join(first)} and {last} are not given together" if first else ""
    return _with_raises(doc, f"ValueError, TypeError\n    As `{sums}`{missing}.")


def _entries(text: str) -> dict[str, str]:
    """Descriptions by the name of a parameter; those that are described together have the same."""
    entries = re.finditer(r"^((?:\w+, )*\w+)(?: :.*)?\n(?: .+\n?)*", text, re.MULTILINE)
    return {name: entry[0].rstrip() for entry in entries for name in entry[1].split(", ")}


def _parameters(doc: str) -> str:
    return doc.partition("Parameters\n----------\n")[2].partition("\n\n")[0]


def _with_parameters(doc: str, options: Sequence[str], shared: Mapping[str, str]) -> str:
    """With a description of all parameters: the docstring's own, else one that is shared."""
    own = _parameters(doc)
    known = {**shared, **_entries(own)}
    names = dict.fromkeys(["observations", "forecasts", *options])
    section = "Parameters\n----------\n" + "\n".join(dict.fromkeys(known[name] for name in names if name in known))
    if own:
        return doc.replace(f"Parameters\n----------\n{own}", section, 1)
    before, title, after = doc.partition("Returns\n---")
    return f"{before.rstrip()}\n\n{section}\n\n{title}{after}"


def _with_raises(doc: str, words: str) -> str:
    if "Raises\n---" in doc:
        return doc
    place = re.search(r"(Warns|References|Examples)\n---", doc)
    end = place.start() if place else len(doc)
    return f"{doc[:end].rstrip()}\n\nRaises\n------\n{words}\n\n{doc[end:]}".rstrip() + "\n"
