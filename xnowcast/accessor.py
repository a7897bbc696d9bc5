"""``ds.nowcast`` and ``da.nowcast``: each public function as a method, with its signature and no logic."""

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import xarray as xr

if TYPE_CHECKING:
    from datetime import timedelta

    import numpy as np

    from xnowcast.models.base import ForecastModel
    from xnowcast.windows import InitTimes, OnGap

T_Xarray = TypeVar("T_Xarray", xr.Dataset, xr.DataArray)


class NowcastAccessor(Generic[T_Xarray]):
    """Precipitation nowcasting on a CF dataset: ``ds.nowcast.forecast(...)`` and its kin."""

    def __init__(self, obj: T_Xarray):
        self._obj = obj

    def forecast(
        self,
        model: "str | ForecastModel" = "extrapolation",
        *,
        lead_time: "str | timedelta | np.timedelta64 | None" = None,
        steps: int | None = None,
        init_times: "InitTimes" = "latest",
        members: int | None = None,
        seed: int = 0,
        variable: Hashable | None = None,
        zr: tuple[float, float] | None = None,
        on_gap: "OnGap" = "raise",
        weights: str | None = None,
        device: str = "auto",
        batch_size: int | None = None,
        progress: bool | None = None,
        **options: Any,
    ) -> T_Xarray:
        """Continue the sequence into the future: see `xnowcast.forecast`."""
        from xnowcast import forecast

        return forecast(
            self._obj,
            model,
            lead_time=lead_time,
            steps=steps,
            init_times=init_times,
            members=members,
            seed=seed,
            variable=variable,
            zr=zr,
            on_gap=on_gap,
            weights=weights,
            device=device,
            batch_size=batch_size,
            progress=progress,
            **options,
        )


@xr.register_dataset_accessor("nowcast")
class NowcastDatasetAccessor(NowcastAccessor[xr.Dataset]):
    """`NowcastAccessor` of a Dataset."""


@xr.register_dataarray_accessor("nowcast")
class NowcastDataArrayAccessor(NowcastAccessor[xr.DataArray]):
    """`NowcastAccessor` of a DataArray."""
