"""When kernels are compiled, what happens where that fails, and that memory layouts and parts change no number."""

import sys

import numpy as np
import pytest
import xarray as xr

from xnowcast import verify
from xnowcast.verify.kernels import compiled
from xnowcast.verify.kernels.slabs import slabs


class Kernel:
    """Stands for a compiled function of arrays of one kind."""

    def __init__(self, built=False, signatures=(), on_disk=()):
        self.built, self.signatures = built, list(signatures)
        self._cache = self._cache_file = self
        self.on_disk, self.lost = on_disk, {}

    def ready(self):
        return self

    def _load_index(self):
        return {(signature, "machine"): "file" for signature in self.on_disk}


SINGLE, DOUBLE = "(array(float32, 3d, C),)", "(array(float64, 3d, C),)"
HOUR = {"saves": 3600.0, "compiling": 8.0}
SECOND = {"saves": 1.0, "compiling": 8.0}
NOTHING = {"saves": 0.001, "compiling": 8.0}


@pytest.fixture
def numba_is_imported(monkeypatch):
    if not compiled.numba_is_here():
        pytest.skip("needs the extra fast, and XNOWCAST_NUMBA not to be 0")
    monkeypatch.setitem(sys.modules, "numba", sys.modules.get("numba", object()))
    monkeypatch.setattr(compiled, "_numba_works", lambda: True)
    monkeypatch.setattr(compiled, "WORTH_COMPILING", 2_000_000)


@pytest.mark.usefixtures("numba_is_imported")
@pytest.mark.parametrize(
    ("kernel", "n_values", "work", "expected"),
    [
        (Kernel(), 10**7, HOUR, True),  # pays within the call
        (Kernel(), 10**7, SECOND, False),
        (Kernel(on_disk=[SINGLE]), 10**7, SECOND, True),
        (Kernel(on_disk=[DOUBLE]), 10**7, SECOND, False),
        (Kernel(on_disk=[SINGLE]), 10**7, NOTHING, False),  # loading would take longer
        (Kernel(built=True, signatures=[SINGLE]), 10**7, NOTHING, True),
        (Kernel(built=True, signatures=[DOUBLE]), 10**7, NOTHING, False),
        (Kernel(built=True, signatures=[SINGLE]), 10**3, HOUR, False),
    ],
)
def test_a_kernel_is_compiled_where_that_pays(kernel, n_values, work, expected):
    assert compiled.use_compiled(n_values, kernel, words=["float32"], **work) == expected


@pytest.mark.usefixtures("numba_is_imported")
def test_what_is_compiled_for_one_block_serves_the_others():
    assert not compiled.use_compiled(10**7, Kernel(), **SECOND)
    with compiled.one_of(20):
        assert compiled.use_compiled(10**7, Kernel(), **SECOND)
    assert not compiled.use_compiled(10**7, Kernel(), **SECOND)


@pytest.mark.usefixtures("numba_is_imported")
def test_a_kernel_is_compiled_when_as_much_has_been_lost_without_it():
    kernel = Kernel()
    answers = [compiled.use_compiled(10**7, kernel, words=["float32"], **SECOND) for _ in range(10)]
    assert answers == [False] * 8 + [True] * 2
    assert not compiled.use_compiled(10**7, kernel, words=["float64"], **SECOND)


@pytest.mark.usefixtures("numba_is_imported")
def test_a_kernel_is_compiled_where_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(compiled, "WORTH_COMPILING", 0)
    assert compiled.use_compiled(10, Kernel(), **NOTHING)


def test_a_numba_that_cannot_be_imported_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(compiled, "numba_is_here", lambda: True)
    compiled._numba_works.cache_clear()
    try:
        assert not compiled.use_compiled(10**9, Kernel(), **HOUR)
        monkeypatch.setattr(compiled, "WORTH_COMPILING", 0)
        assert not compiled.use_compiled(10**9, Kernel(), **HOUR)
    finally:
        compiled._numba_works.cache_clear()


def double(values):
    for i in range(values.size):
        values[i] *= 2


@pytest.mark.parametrize("broken", ["no folder", "disk full"])
def test_without_a_folder_for_its_cache_a_kernel_is_compiled_all_the_same(monkeypatch, broken):
    if not compiled.numba_is_here():
        pytest.skip("needs the extra fast, and XNOWCAST_NUMBA not to be 0")
    caching = pytest.importorskip("numba.core.caching")
    monkeypatch.setattr(compiled._Disk, "usable", True)

    def full(*args):
        raise OSError("No space left on device")

    if broken == "no folder":
        monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])
    else:
        monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    values = np.array([1.0, 2.0])
    compiled.compiled(double)(values)
    assert values.tolist() == [2.0, 4.0]


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (2, 3, 4, 5), (1, 4000), (40, 1, 3)])
@pytest.mark.parametrize("axis", [(), (0,), (1,)])
@pytest.mark.parametrize("options", [{}, {"whole": 2}, {"alone": True}], ids=str)
def test_slabs_cover_every_value_once(monkeypatch, shape, axis, options):
    monkeypatch.setattr("xnowcast.verify.kernels.slabs.SLAB_VALUES", 8)
    seen = np.zeros(shape, int)
    for index in slabs(shape, axis, **options):
        seen[index] += 1
        if not options:
            assert seen[index].size <= 8
    assert (seen == 1).all()


SCORES = {
    "rmse": {},
    "correlation": {},
    "balanced_mae": {},
    "csi": {"thresholds": [0.5, 2.0], "scales": [1, 3]},
    "fss": {"thresholds": [0.5, 2.0], "scales": [3]},
    "emd": {},
    "ssim": {"data_range": 10.0, "window": 5},
    "spectral_ratio": {"spacing_km": 1.0},
    "crps_ensemble": {},
    "spread_skill": {},
    "rank_histogram": {},
    "brier_score": {"thresholds": 1.0},
}
MEMBERS = ("crps_ensemble", "spread_skill", "rank_histogram", "brier_score")


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    "order", [("time", "y", "x", "member"), ("x", "y", "time", "member"), ("y", "member", "x", "time")]
)
@pytest.mark.parametrize("dim", [None, ["y", "x"]], ids=["all", "of fields"])
def test_layouts_in_memory_and_parts_change_no_number(monkeypatch, score, order, dim):
    values = np.random.default_rng(2).gamma(0.5, 3.0, (4, 5, 12, 13)).astype("f4")
    both = xr.DataArray(values, dims=("member", "time", "y", "x"))
    observed, members = both[0], both[1:]
    if score not in MEMBERS and dim is not None:
        dim = [*dim, "member"]
    take, options = getattr(verify, score), SCORES[score] | {"dim": dim}
    expected = take(observed, members, **options)
    monkeypatch.setattr("xnowcast.verify.chunks.BLOCK_VALUES", 64)
    monkeypatch.setattr("xnowcast.verify.kernels.slabs.SLAB_VALUES", 100)
    other = members.transpose(*order).copy(deep=True)
    other = xr.DataArray(np.ascontiguousarray(other.values), dims=order)
    turned = observed.transpose("x", "time", "y").copy(data=np.ascontiguousarray(observed.transpose("x", "time", "y")))
    xr.testing.assert_allclose(take(turned, other, **options).transpose(*expected.dims), expected, rtol=1e-5)
