"""``ds.nowcast`` and ``da.nowcast``: each public function as a method, with its signature and no logic."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import xarray as xr

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

    import numpy as np
    from matplotlib.animation import FuncAnimation
    from matplotlib.figure import Figure

    from xnowcast.models.base import DeblurModel, DownscaleModel, ForecastModel, PostprocessModel
    from xnowcast.planning import OnMismatch
    from xnowcast.plot import Member
    from xnowcast.postprocess import Decision
    from xnowcast.regrid import Method
    from xnowcast.verify.contingency import Scales, Thresholds
    from xnowcast.windows import InitTimes, OnGap

T_Xarray = TypeVar("T_Xarray", xr.Dataset, xr.DataArray)


class NowcastAccessor(Generic[T_Xarray]):
    """Precipitation nowcasting on a CF dataset: ``ds.nowcast.forecast(...)`` and its kin."""

    def __init__(self, obj: T_Xarray):
        self._obj: T_Xarray = obj

    def forecast(
        self,
        model: "str | ForecastModel | None" = None,
        *,
        lead_time: "str | timedelta | np.timedelta64 | None" = None,
        steps: int | None = None,
        init_times: "InitTimes" = "latest",
        members: int | None = None,
        seed: int = 0,
        variable: Hashable | None = None,
        zr: tuple[float, float] | None = None,
        on_gap: "OnGap" = "raise",
        on_mismatch: "OnMismatch" = "raise",
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
            on_mismatch=on_mismatch,
            weights=weights,
            device=device,
            batch_size=batch_size,
            progress=progress,
            **options,
        )

    def coarsen(
        self,
        factor: int,
        *,
        variable: Hashable | None = None,
        zr: tuple[float, float] | None = None,
        min_coverage: float = 0.5,
        boundary: Literal["exact", "trim"] = "exact",
    ) -> T_Xarray:
        """Area means over blocks of cells: see `xnowcast.coarsen`."""
        from xnowcast import coarsen

        return coarsen(self._obj, factor, variable=variable, zr=zr, min_coverage=min_coverage, boundary=boundary)

    def deblur(
        self,
        model: "str | DeblurModel | None" = None,
        *,
        members: int | None = None,
        seed: int = 0,
        variable: Hashable | None = None,
        zr: tuple[float, float] | None = None,
        on_mismatch: "OnMismatch" = "raise",
        weights: str | None = None,
        device: str = "auto",
        batch_size: int | None = None,
        diagnostics: bool = False,
        progress: bool | None = None,
        **options: Any,
    ) -> T_Xarray:
        """Sharpen each frame of a blurry field: see `xnowcast.deblur`."""
        from xnowcast import deblur

        return deblur(
            self._obj,
            model,
            members=members,
            seed=seed,
            variable=variable,
            zr=zr,
            on_mismatch=on_mismatch,
            weights=weights,
            device=device,
            batch_size=batch_size,
            diagnostics=diagnostics,
            progress=progress,
            **options,
        )

    def downscale(
        self,
        model: "str | DownscaleModel | None" = None,
        *,
        factor: int = 8,
        members: int | None = None,
        seed: int = 0,
        static: xr.Dataset | xr.DataArray | None = None,
        conserve: bool = False,
        variable: Hashable | None = None,
        zr: tuple[float, float] | None = None,
        on_mismatch: "OnMismatch" = "raise",
        weights: str | None = None,
        device: str = "auto",
        batch_size: int | None = None,
        progress: bool | None = None,
        **options: Any,
    ) -> T_Xarray:
        """Refine a coarse field in space: see `xnowcast.downscale`."""
        from xnowcast import downscale

        return downscale(
            self._obj,
            model,
            factor=factor,
            members=members,
            seed=seed,
            static=static,
            conserve=conserve,
            variable=variable,
            zr=zr,
            on_mismatch=on_mismatch,
            weights=weights,
            device=device,
            batch_size=batch_size,
            progress=progress,
            **options,
        )

    def postprocess(
        self,
        model: "str | PostprocessModel | None" = None,
        *,
        channels: Mapping[str, Hashable] | None = None,
        grid: xr.Dataset | xr.DataArray | None = None,
        regrid: "Method" = "bilinear",
        decision: "Decision" = "argmax",
        on_mismatch: "OnMismatch" = "raise",
        weights: str | None = None,
        device: str = "auto",
        batch_size: int | None = None,
        progress: bool | None = None,
        **options: Any,
    ) -> xr.Dataset:
        """Correct the rain of a numerical forecast: see `xnowcast.postprocess`."""
        from xnowcast import postprocess

        return postprocess(
            self._obj,
            model,
            channels=channels,
            grid=grid,
            regrid=regrid,
            decision=decision,
            on_mismatch=on_mismatch,
            weights=weights,
            device=device,
            batch_size=batch_size,
            progress=progress,
            **options,
        )

    def explain(
        self,
        model: "str | PostprocessModel | None" = None,
        *,
        category: int | str,
        channels: Mapping[str, Hashable] | None = None,
        grid: xr.Dataset | xr.DataArray | None = None,
        regrid: "Method" = "bilinear",
        on_mismatch: "OnMismatch" = "raise",
        weights: str | None = None,
        device: str = "auto",
        batch_size: int | None = None,
        progress: bool | None = None,
        **options: Any,
    ) -> xr.Dataset:
        """Show where a post-processor looks for a class of rain: see `xnowcast.explain`."""
        from xnowcast import explain

        return explain(
            self._obj,
            model,
            category=category,
            channels=channels,
            grid=grid,
            regrid=regrid,
            on_mismatch=on_mismatch,
            weights=weights,
            device=device,
            batch_size=batch_size,
            progress=progress,
            **options,
        )

    def verify(
        self,
        observations: xr.Dataset | xr.DataArray,
        *,
        thresholds: "Thresholds" = (0.5, 2.0, 5.0, 10.0),
        scales: "Scales" = (1, 4, 16),
        scores: Iterable[str] | None = None,
        by: str | Sequence[Hashable] = ("lead_time",),
        variable: Hashable | None = None,
        zr: tuple[float, float] | None = None,
    ) -> xr.Dataset:
        """Score this forecast against observations, matched by valid time: see `xnowcast.verify.scorecard`."""
        from xnowcast.verify import scorecard

        return scorecard(
            observations,
            self._obj,
            thresholds=thresholds,
            scales=scales,
            scores=scores,
            by=by,
            variable=variable,
            zr=zr,
        )

    def plot(
        self,
        observations: xr.Dataset | xr.DataArray | None = None,
        *,
        variable: Hashable | None = None,
        lead_times: Sequence[Any] | None = None,
        init_time: Any = -1,
        member: "Member" = 0,
        threshold: float | None = None,
        title: str | None = None,
        coastlines: bool = True,
        path: "str | Path | None" = None,
    ) -> "Figure":
        """Draw this forecast as maps by lead time, beside what was observed: see `xnowcast.plot.plot`."""
        from xnowcast.plot import plot

        return plot(
            self._obj,
            observations,
            variable=variable,
            lead_times=lead_times,
            init_time=init_time,
            member=member,
            threshold=threshold,
            title=title,
            coastlines=coastlines,
            path=path,
        )

    def animate(
        self,
        observations: xr.Dataset | xr.DataArray | None = None,
        *,
        variable: Hashable | None = None,
        init_time: Any = -1,
        member: "Member" = 0,
        threshold: float | None = None,
        title: str | None = None,
        coastlines: bool = True,
        fps: float = 4.0,
        path: "str | Path | None" = None,
    ) -> "FuncAnimation":
        """Animate this forecast beside what was observed: see `xnowcast.plot.animate`."""
        from xnowcast.plot import animate

        return animate(
            self._obj,
            observations,
            variable=variable,
            init_time=init_time,
            member=member,
            threshold=threshold,
            title=title,
            coastlines=coastlines,
            fps=fps,
            path=path,
        )


@xr.register_dataset_accessor("nowcast")
class NowcastDatasetAccessor(NowcastAccessor[xr.Dataset]):
    """`NowcastAccessor` of a Dataset."""


@xr.register_dataarray_accessor("nowcast")
class NowcastDataArrayAccessor(NowcastAccessor[xr.DataArray]):
    """`NowcastAccessor` of a DataArray."""
