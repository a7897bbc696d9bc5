"""``ds.nowcast`` and ``da.nowcast``: each public function as a method, with its signature and docstring; no logic."""

import re
from collections.abc import Callable
from functools import cached_property, wraps
from inspect import Parameter, getdoc, signature
from pkgutil import resolve_name
from typing import Any

import xarray as xr


class _Method:
    """A public function as a method of what stands before ``.nowcast``; it is imported when somebody looks at it.

    ``function``: what it is called after ``xnowcast.``. ``takes``: its argument that stands before ``.nowcast``.
    """

    def __init__(self, function: str, takes: str = "obj"):
        self._function, self._takes = function, takes

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, accessor: Any, owner: type | None = None) -> Any:
        return self._method.__get__(accessor, owner)

    @cached_property
    def _method(self) -> Callable[..., Any]:
        function = resolve_name(f"xnowcast:{self._function}")
        whole = signature(function)
        place = list(whole.parameters).index(self._takes)
        others = whole.replace(parameters=[p for name, p in whole.parameters.items() if name != self._takes])

        @wraps(function)
        def method(self: "NowcastAccessor", *args: Any, **kwargs: Any) -> Any:
            given = others.bind(*args, **kwargs)
            return function(*given.args[:place], self._obj, *given.args[place:], **given.kwargs)

        itself = Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)
        metadata = {
            "__signature__": whole.replace(parameters=[itself, *others.parameters.values()]),
            "__doc__": self._docstring(getdoc(function) or ""),
            "__name__": self._name,
            "__qualname__": f"NowcastAccessor.{self._name}",
        }
        for name, value in metadata.items():
            setattr(method, name, value)
        return method

    def _docstring(self, text: str) -> str:
        """The function's, in which the argument that the method lacks goes by where it stands."""
        summary, _, rest = text.partition("\n\n")
        rest = re.sub(rf"^{self._takes} :", "ds :", rest, flags=re.MULTILINE)
        rest = re.sub(rf"^{self._takes}, ", "", rest, flags=re.MULTILINE)  # told with others: as in another function
        whose = f"`xnowcast.{self._function}` as a method, where ``ds`` is what stands before ``.nowcast``."
        return f"{summary}\n\n{whose}\n\n{rest}"


class NowcastAccessor:
    """Precipitation nowcasting on a CF dataset: ``ds.nowcast.forecast(...)`` and its kin."""

    def __init__(self, obj: xr.Dataset | xr.DataArray):
        self._obj = obj

    forecast = _Method("forecast")
    deblur = _Method("deblur")
    downscale = _Method("downscale")
    postprocess = _Method("postprocess")
    explain = _Method("explain")
    coarsen = _Method("coarsen")
    verify = _Method("verify.scorecard", takes="forecasts")
    plot = _Method("plot.plot", takes="forecasts")
    animate = _Method("plot.animate", takes="forecasts")


@xr.register_dataset_accessor("nowcast")
class NowcastDatasetAccessor(NowcastAccessor):
    """`NowcastAccessor` of a Dataset."""


@xr.register_dataarray_accessor("nowcast")
class NowcastDataArrayAccessor(NowcastAccessor):
    """`NowcastAccessor` of a DataArray."""
