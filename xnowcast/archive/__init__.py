"""Hindcasts and scores over years: in batches, on one machine or a cluster, that go on where they stopped.

`hindcast` writes forecasts to a store, `score_archive` scores models without keeping forecasts, `watch` forecasts as
frames come in.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from xnowcast.archive.hindcasts import hindcast
from xnowcast.archive.score import score_archive
from xnowcast.archive.store import open_archive
from xnowcast.archive.watch import watch

if TYPE_CHECKING:
    from xnowcast.archive.picture import plot_table
    from xnowcast.archive.run.loop import IncompleteRun
    from xnowcast.archive.tables import bootstrap_scores, merge_tables, table_scores

__all__ = [
    "IncompleteRun",
    "bootstrap_scores",
    "hindcast",
    "merge_tables",
    "open_archive",
    "plot_table",
    "score_archive",
    "table_scores",
    "watch",
]

_ON_DEMAND = {
    "IncompleteRun": "run.loop",
    "bootstrap_scores": "tables",
    "merge_tables": "tables",
    "plot_table": "picture",
    "table_scores": "tables",
}
"""What imports Dask's scheduler or the scores, which planning needs not."""


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        return getattr(import_module(f"xnowcast.archive.{_ON_DEMAND[name]}"), name)
    raise AttributeError(f"module 'xnowcast.archive' has no attribute {name!r}")
