"""The engine ``xnowcast`` of xarray: ``xr.open_dataset(path, engine="xnowcast")`` opens what the readers know."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xarray as xr
from xarray.backends import BackendEntrypoint


class XnowcastBackendEntrypoint(BackendEntrypoint):
    """Opens a file of any product that `xnowcast.io` reads, recognised by its content.

    Options of the product's reader, such as ``quantity=`` or ``event=``, are passed on. With ``chunks={}`` the Dask
    chunks are what is best read at once. Files that no other engine of xarray claims are opened without ``engine=``.
    """

    description = (
        "Radar and model products that xnowcast reads (RADOLAN, ODIM, MRMS, MeteoNet, SEVIR, HKO-7 and others)"
    )
    open_dataset_parameters = ("filename_or_obj", "drop_variables")

    def open_dataset(  # type: ignore[override]
        self, filename_or_obj: Any, *, drop_variables: str | Iterable[str] | None = None, **options: Any
    ) -> xr.Dataset:
        """Open one file; see `xnowcast.io.open_radar`."""
        from xnowcast.io import open_radar

        dropped = [drop_variables] if isinstance(drop_variables, str) else drop_variables or []
        return open_radar(filename_or_obj, **options).drop_vars(dropped, errors="ignore")

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether it is a file of a product that is read here."""
        from xnowcast.io import READERS, product

        if not isinstance(filename_or_obj, str | os.PathLike) or not Path(filename_or_obj).is_file():
            return False
        try:
            return product(Path(filename_or_obj)) in READERS
        except (ValueError, ImportError):
            return False
