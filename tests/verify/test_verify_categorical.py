"""Scores of events beyond the first five, pooling with strides, named thresholds, and the compiled counts."""

import inspect
import itertools

import dask
import numpy as np
import pytest
import xarray as xr
import xskillscore

from xnowcast.verify import events
from xnowcast.verify.events import COUNTS, contingency_table
from xnowcast.verify.kernels import compiled
from xnowcast.verify.kernels import events as counting
from xnowcast.verify.score import RECORDS
from xnowcast.verify.thresholds import THRESHOLD_SETS, threshold_coordinate

SCORES = {name: record.score for name, record in RECORDS.items() if record.archive == "events"}
THRESHOLDS = [0.5, 2.0, 5.0]
HAND_MADE = xr.Dataset({"hits": 8, "misses": 4, "false_alarms": 2, "correct_negatives": 86})


def on_grid(values):
    return xr.DataArray(np.asarray(values), dims=("y", "x"))


def counts_of(table):
    return [int(table[name]) for name in COUNTS]


def made_rain(shape, seed=0, missing=0.05):
    rng = np.random.default_rng(seed)
    values = np.round(rng.gamma(0.5, 4.0, shape), 1) * (rng.random(shape) > 0.4)
    values[rng.random(shape) < missing] = np.nan
    return values.astype("f4")


@pytest.fixture
def rain():
    """Observations (time, y, x) and forecasts (member, time, y, x) on 35 x 34 cells, with NaN not the same in both."""
    observed, forecast = made_rain((2, 35, 34)), made_rain((3, 2, 35, 34), seed=1)
    observed[:, :7, :9] = np.nan
    forecast[1, :, -6:] = np.nan
    return xr.DataArray(observed, dims=("time", "y", "x")), xr.DataArray(forecast, dims=("member", "time", "y", "x"))


# ---------------------------------------------------------------- the ratios


def test_all_scores_of_a_hand_made_table():
    h, f = 8 / 12, 2 / 88
    by_chance = 10 * 12 / 100
    expected = {
        "csi": 8 / 14,
        "pod": h,
        "recall": h,
        "false_alarm_ratio": 0.2,
        "precision": 0.8,
        "probability_of_false_detection": f,
        "frequency_bias": 10 / 12,
        "accuracy": 0.94,
        "f1": 16 / 22,
        "ets": (8 - by_chance) / (14 - by_chance),
        "hss": 0.693878,
        "sedi": (np.log(f) - np.log(h) - np.log(1 - f) + np.log(1 - h))
        / (np.log(f) + np.log(h) + np.log(1 - f) + np.log(1 - h)),
    }
    assert set(expected) == set(SCORES)
    for name, value in expected.items():
        assert float(SCORES[name](HAND_MADE)) == pytest.approx(value, abs=1e-6)
        assert SCORES[name](HAND_MADE).name == name


def test_identities_between_scores():
    rng = np.random.default_rng(0)
    table = xr.Dataset({name: ("case", rng.integers(1, 1000, 200)) for name in COUNTS})
    s = {name: score(table) for name, score in SCORES.items()}
    np.testing.assert_allclose(s["hss"], 2 * s["ets"] / (1 + s["ets"]), rtol=1e-10)
    np.testing.assert_allclose(s["f1"], 2 * s["csi"] / (1 + s["csi"]), rtol=1e-12)
    np.testing.assert_allclose(s["f1"], 2 / (1 / s["precision"] + 1 / s["recall"]), rtol=1e-12)
    np.testing.assert_allclose(s["precision"], 1 - s["false_alarm_ratio"], rtol=1e-12)
    np.testing.assert_allclose(s["frequency_bias"], s["pod"] / s["precision"], rtol=1e-12)


@pytest.mark.parametrize(
    ("counts", "numbers"),
    [
        ((0, 0, 0, 9), {"accuracy": 1, "probability_of_false_detection": 0}),  # no event
        ((9, 0, 0, 0), {**dict.fromkeys(["csi", "f1", "pod", "recall", "precision", "accuracy", "frequency_bias"], 1),
                        "false_alarm_ratio": 0}),  # nothing but hits
        ((0, 0, 0, 0), {}),  # no pair
        ((0, 0, 4, 5), {"csi": 0, "ets": 0, "hss": 0, "f1": 0, "precision": 0, "false_alarm_ratio": 1,
                        "frequency_bias": np.inf, "accuracy": 5 / 9, "probability_of_false_detection": 4 / 9}),
        ((4, 0, 0, 5), {**dict.fromkeys(["csi", "ets", "hss", "f1", "pod", "recall", "precision", "accuracy",
                                         "frequency_bias"], 1),
                        "false_alarm_ratio": 0, "probability_of_false_detection": 0}),  # perfect
    ],
)  # fmt: skip
def test_nothing_by_nothing_is_nan(counts, numbers):
    table = xr.Dataset(dict(zip(COUNTS, counts, strict=True)))
    for name, score in SCORES.items():
        np.testing.assert_equal(float(score(table)), float(numbers.get(name, np.nan)), err_msg=name)


def test_sedi_nears_its_limits_and_changes_sign_with_the_hits():
    n = 10**15
    found = []
    for misses in (10**14, 10**10, 1):
        h, f = n - misses, n // 10
        for hits, sign in ((h, 1), (n - h, -1)):
            counts = (hits, n - hits, f if sign > 0 else n - f, n - f if sign > 0 else f)
            found.append(sign * float(events.sedi(xr.Dataset(dict(zip(COUNTS, counts, strict=True))))))
    assert found[::2] == pytest.approx(found[1::2])
    assert 0.8 < found[0] < found[2] < found[4] < 1


def test_scores_equal_those_of_the_package_scores(rain):
    categorical = pytest.importorskip("scores.categorical")
    observed, forecast = rain
    table = contingency_table(observed, forecast, thresholds=2.0)
    operator = categorical.ThresholdEventOperator(default_event_threshold=np.float32(2))
    theirs = operator.make_contingency_manager(forecast, observed).transform()
    named = {"pod": "probability_of_detection", "csi": "critical_success_index", "ets": "equitable_threat_score"}
    named |= {"hss": "heidke_skill_score", "f1": "f1_score", "sedi": "symmetric_extremal_dependence_index"}
    for name, score in SCORES.items():
        assert float(score(table)) == pytest.approx(float(getattr(theirs, named.get(name, name))()), rel=1e-10), name


def test_scores_equal_xskillscore(rain):
    observed, forecast = (a.fillna(-1) for a in rain)
    edges = np.array([-np.inf, 2, np.inf])
    theirs = xskillscore.Contingency(observed.broadcast_like(forecast), forecast, edges, edges, dim=list(forecast.dims))
    table = contingency_table(observed, forecast, thresholds=2.0)
    named = {
        **{"csi": "threat_score", "pod": "hit_rate", "probability_of_false_detection": "false_alarm_rate"},
        **{"ets": "equit_threat_score", "hss": "heidke_score", "frequency_bias": "bias_score"},
    }
    for name in ("accuracy", "false_alarm_ratio", *named):
        expected = float(getattr(theirs, named.get(name, name))())
        assert float(SCORES[name](table)) == pytest.approx(expected, rel=1e-10), name


def test_scores_equal_pysteps(rain):
    verification = pytest.importorskip("pysteps.verification.detcatscores")
    observed, forecast = (a.fillna(0).astype("f8") for a in rain)
    # Its event is "> threshold": at 1.95 that is the same on values with one decimal.
    names = {"csi": "CSI", "pod": "POD", "false_alarm_ratio": "FAR", "probability_of_false_detection": "FA"}
    names |= {"hss": "HSS", "ets": "GSS", "accuracy": "ACC", "frequency_bias": "BIAS", "f1": "F1", "sedi": "SEDI"}
    theirs = verification.det_cat_fct(forecast.values, np.broadcast_to(observed, forecast.shape), 1.95)
    for name, letters in names.items():
        assert float(SCORES[name](observed, forecast, thresholds=1.95)) == pytest.approx(theirs[letters], rel=1e-9), (
            name
        )


def test_every_score_is_documented_alike():
    signatures = {inspect.signature(score) for score in SCORES.values()}
    assert len(signatures) == 1 and "thresholds" in next(iter(signatures)).parameters
    for name, score in SCORES.items():
        assert score.__name__ == name and score.__module__ == "xnowcast.verify.events"
        sections = [
            score.__doc__.count(f"\n{s}\n") for s in ("Parameters", "Returns", "Raises", "References", "Examples")
        ]
        assert sections == [1, 1, 1, 1, 1], name
        assert f">>> {name}" in score.__doc__ or f"{name}(" in score.__doc__


# ---------------------------------------------------------------- pooling


def test_a_pixel_three_cells_beside():
    observed, forecast = np.zeros((2, 32, 32))
    observed[17, 16], forecast[17, 19] = 5, 5  # both in the window of columns 16 to 19
    fields = on_grid(observed), on_grid(forecast)
    assert float(events.csi(*fields, thresholds=2)) == 0
    assert float(events.csi(*fields, thresholds=2, scales=4)) == 1
    assert float(events.csi(*fields, thresholds=2, scales=4, stride=1)) == pytest.approx(4 / 28)
    table = contingency_table(*fields, thresholds=2, scales=[1, 4, 4], stride=[1, 4, 1])
    assert [table[name].values.tolist() for name in COUNTS] == [[0, 1, 4], [1, 0, 12], [1, 0, 12], [1022, 63, 813]]


def windows_of(observed, forecast, width, stride, boundary, pool):
    """Pairs of pooled values of one plane, window by window."""
    pairs = []
    tops, lefts = (range(0, n, stride) for n in observed.shape)
    for top, left in itertools.product(tops, lefts):
        reaches = [start + width - n for start, n in zip((top, left), observed.shape, strict=True)]
        # Partial windows go as far as is needed to cover the grid, and no further.
        if max(reaches) > 0 and (boundary == "drop" or any(r >= stride for r in reaches)):
            continue
        window = (slice(top, top + width), slice(left, left + width))
        both = ~np.isnan(observed[window]) & ~np.isnan(forecast[window])
        if both.any():
            pairs.append([pool(field[window][both].astype("f8")) for field in (observed, forecast)])
    return np.array(pairs, "f4")


@pytest.mark.parametrize(("width", "stride"), [(4, 4), (4, 1), (16, 4), (6, 5), (1, 1), (34, 34)])
@pytest.mark.parametrize("boundary", ["drop", "partial"])
@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_pooled_counts_equal_a_loop_over_windows(rain, width, stride, boundary, pooling):
    observed, forecast = rain
    options = {"scales": width, "stride": stride, "boundary": boundary, "pooling": pooling}
    table = contingency_table(observed, forecast, thresholds=THRESHOLDS, **options, dim=["y", "x"])
    for member, time in itertools.product(range(3), range(2)):
        fields = observed[time].values, forecast[member, time].values
        o, f = windows_of(*fields, width, stride, boundary, {"max": np.max, "mean": np.mean}[pooling]).T
        for threshold in THRESHOLDS:
            expected = [
                np.sum((o >= threshold) & (f >= threshold)),
                np.sum((o >= threshold) & (f < threshold)),
                np.sum((o < threshold) & (f >= threshold)),
                np.sum((o < threshold) & (f < threshold)),
            ]
            assert counts_of(table.isel(member=member, time=time).sel(threshold=threshold)) == expected


@pytest.mark.parametrize(
    ("width", "stride", "boundary", "expected"),
    [(4, 4, "drop", 64), (4, 4, "partial", 81), (4, 1, "drop", 32 * 31), (16, 4, "drop", 25), (16, 4, "partial", 36)],
)
def test_number_of_windows_on_a_grid_that_they_do_not_divide(width, stride, boundary, expected):
    ones = on_grid(np.ones((35, 34)))
    table = contingency_table(ones, ones, thresholds=1, scales=width, stride=stride, boundary=boundary)
    assert counts_of(table) == [expected, 0, 0, 0]


def test_a_grid_that_windows_divide_has_no_partial_ones(rain):
    square = [field.isel(y=slice(32), x=slice(32)) for field in rain]
    tables = [contingency_table(*square, thresholds=2, scales=[4, 8], boundary=b) for b in ("drop", "partial")]
    xr.testing.assert_equal(*tables)


def test_a_window_of_nothing_measured_is_missing():
    observed, forecast = np.zeros((4, 12)), np.full((4, 12), 9.0)
    observed[:, 4:8] = np.nan
    forecast[0, 0], forecast[:, 8:11] = np.nan, np.nan
    for pooling in ("max", "mean"):
        table = contingency_table(on_grid(observed), on_grid(forecast), thresholds=2, scales=4, pooling=pooling)
        assert counts_of(table) == [0, 0, 2, 0]


def test_the_mean_of_equal_values_is_that_value():
    same = on_grid(np.full((6, 6), 0.7, "f4")).where(on_grid(np.arange(36).reshape(6, 6)) % 5 > 0)
    assert counts_of(contingency_table(same, same, thresholds=0.7, scales=3, pooling="mean")) == [4, 0, 0, 0]


def test_without_skipna_windows_with_nan_make_nan(rain):
    clean = [field.fillna(0) for field in rain]
    for options in ({"stride": 1}, {"boundary": "partial"}, {"pooling": "mean"}):
        options |= {"thresholds": 2, "scales": 4, "dim": ["member", "y", "x"]}
        xr.testing.assert_equal(
            contingency_table(*clean, skipna=False, **options).astype("i8"), contingency_table(*clean, **options)
        )
        holed = clean[0].copy()
        holed[0, 9, 9] = np.nan
        hits = contingency_table(holed, clean[1], skipna=False, **options)["hits"]
        assert np.isnan(hits[0]) and not np.isnan(hits[1])


# ---------------------------------------------------------------- lazy and additive

OPTIONS = [
    {"scales": [1, 4, 16], "stride": [1, 1, 4]},
    {"scales": [2, 5], "boundary": "partial"},
    {"scales": [1, 4], "pooling": "mean", "stride": 1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("chunks", [{"member": 1}, {"time": 1, "y": 8}, {"y": 10, "x": 9, "member": 2}])
def test_chunks_change_nothing(rain, options, chunks, nothing_may_run):
    with nothing_may_run:
        lazy = contingency_table(rain[0].chunk(time=1, y=20), rain[1].chunk(chunks), thresholds=THRESHOLDS, **options)
        lazy_score = events.ets(rain[0], rain[1].chunk(chunks), thresholds=THRESHOLDS, dim=["y", "x"], **options)
    assert dask.is_dask_collection(lazy) and dask.is_dask_collection(lazy_score.data)
    xr.testing.assert_equal(lazy.compute(scheduler="sync"), contingency_table(*rain, thresholds=THRESHOLDS, **options))
    xr.testing.assert_equal(
        lazy_score.compute(scheduler="sync"), events.ets(*rain, thresholds=THRESHOLDS, dim=["y", "x"], **options)
    )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_tables_of_parts_add_up(rain, options):
    observed, forecast = rain
    parts = [
        contingency_table(observed.isel(time=[t]), forecast.isel(time=[t], member=m), thresholds=THRESHOLDS, **options)
        for t, m in itertools.product(range(2), (slice(0, 1), slice(1, 3)))
    ]
    whole = contingency_table(observed, forecast, thresholds=THRESHOLDS, **options)
    xr.testing.assert_equal(sum(parts[1:], parts[0]), whole)
    xr.testing.assert_equal(xr.concat(parts, dim="file").sum("file"), whole)


# ---------------------------------------------------------------- compiled


@pytest.fixture
def compiling(monkeypatch):
    """Makes every input worth compiling; the function that is called is counted."""
    if not compiled.numba_is_here():
        pytest.skip("needs the extra fast, and XNOWCAST_NUMBA not to be 0")
    calls = []
    real = counting._count_planes

    def counted(*arguments):
        calls.append(arguments)
        return real(*arguments)

    def switch(on):
        calls.clear()
        monkeypatch.setattr(compiled, "WORTH_COMPILING", 0 if on else 10**18)
        return calls

    monkeypatch.setattr(counting, "_count_planes", counted)
    return switch


LAYOUTS = {
    "contiguous": lambda o, f: (o, f),
    "members first in memory": lambda o, f: (o, np.ascontiguousarray(f.swapaxes(0, 1)).swapaxes(0, 1)),
    "upside down": lambda o, f: (o[..., ::-1, :], f[..., ::-1, :]),
    "columns first": lambda o, f: (np.asfortranarray(o), np.asfortranarray(f)),
    "the same cells missing": lambda o, f: (np.where(np.isnan(f).any(1, keepdims=True), np.nan, o).astype(o.dtype),
                                            np.where(np.isnan(f).any(1, keepdims=True), np.nan, f).astype(f.dtype)),
    "nothing missing": lambda o, f: (np.nan_to_num(o), np.nan_to_num(f)),
    "infinite": lambda o, f: (np.where(o == 0, -np.inf, o).astype(o.dtype), np.where(f > 5, np.inf, f).astype(f.dtype)),
    "observations of their own for each member": lambda o, f: (f[:, ::-1].copy(), f),
    "read-only": lambda o, f: (np.frombuffer(o.tobytes(), o.dtype).reshape(o.shape), f),
    "bytes": lambda o, f: (np.nan_to_num(o).astype("u1"), np.nan_to_num(f).astype("u1")),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", [{}, {"pooling": "mean"}, {"boundary": "partial"}], ids=str)
def test_compiled_counts_equal_those_of_numpy(compiling, layout, options):
    o, f = LAYOUTS[layout](made_rain((4, 1, 37, 34)), made_rain((4, 3, 37, 34), seed=1))
    some = [((0, 1, 2, 3), [5, 0.1, 2, 0], (1, 2, 4, 16, 4), (1, 2, 4, 16, 1))]
    some += [
        ((1, 2, 3), [2.0], (16, 1, 1), (4, 1, 1)),
        ((2, 3), [2.0, 1.0, 5.0], (6, 3), (6, 2)),
        ((0, 2, 3), [2], (1,), (1,)),
    ]
    for axis, thresholds, scales, strides in some:
        found = {}
        for on in (False, True):
            calls = compiling(on)
            found[on] = counting.contingency_counts(o, f, thresholds, scales, strides, axis=axis, **options)
            assert bool(calls) is on
        np.testing.assert_array_equal(found[True], found[False])


def test_compiled_counts_in_double_precision(compiling):
    o, f = (made_rain(shape, seed).astype("f8") for seed, shape in enumerate([(2, 1, 20, 21), (2, 3, 20, 21)]))
    found = []
    for on in (False, True):
        compiling(on)
        found.append(counting.contingency_counts(o, f, THRESHOLDS, (1, 4), axis=(0, 1, 2, 3)))
    np.testing.assert_array_equal(*found)


def test_what_the_compiled_kernel_does_not_know_is_left_to_numpy(compiling):
    o, f = made_rain((3, 1, 8, 8)), made_rain((3, 2, 8, 8), seed=1)
    for fields, options in [
        ((o, f), {"axis": (0, 1)}),  # a map
        ((o, f), {"axis": (0, 1, 2, 3), "skipna": False}),
        ((o.astype("f8"), f), {"axis": (0, 1, 2, 3)}),
        ((o.astype(">f4"), f.astype(">f4")), {"axis": (0, 1, 2, 3)}),
        ((o[..., :1], f), {"axis": (0, 1, 2, 3)}),
        ((o[0, 0, 0], f[0, 0, 0]), {"axis": (0,)}),
    ]:
        calls = compiling(True)
        found = counting.contingency_counts(*fields, [2.0], **options)
        assert not calls
        compiling(False)
        np.testing.assert_array_equal(found, counting.contingency_counts(*fields, [2.0], **options))


# ---------------------------------------------------------------- named thresholds


@pytest.mark.parametrize(
    ("name", "units", "expected"),
    [
        ("sevir", "kg m-2", [0.154, 0.775, 3.53, 7.07, 12.14, 32.23]),
        ("sevir", "count", [16, 74, 133, 160, 181, 219]),
        ("hko7", "mm/h", [0.5, 2, 5, 10, 30]),
        ("hko7", "dBZ", [12.978, 22.370, 28.578, 33.274, 40.717]),
        ("hko7", "pixel", [84, 117, 140, 158, 185]),
        ("dwd12", "mm h-1", [0.5, 2, 5]),
        ("dwd12", "dbz", [19.808, 28.357, 34.008]),
        ("meteonet", "dBZ", [12, 18, 24, 32]),
        ("meteonet", "count", [44, 64, 87, 117]),
        ("shanghai", "dBZ", [20, 30, 35, 40]),
        ("nwp", "kg m-2 h-1", [0.1, 10]),
    ],
)
def test_named_thresholds_are_those_of_the_units(name, units, expected):
    field = xr.DataArray([[1.0]], dims=("y", "x"), attrs={"units": units})
    table = contingency_table(field, field.drop_attrs(), thresholds=name)
    np.testing.assert_allclose(table.threshold, expected, rtol=3e-3)
    assert table.threshold.attrs["threshold_set"] == name and table.threshold.attrs["source"]


def test_named_thresholds_score_as_their_numbers(rain):
    fields = [field.assign_attrs(units="mm h-1") for field in rain]
    numbers = list(THRESHOLD_SETS["hko7"].values["mm h-1"])
    xr.testing.assert_equal(
        events.csi(*fields, thresholds="hko7", scales=[1, 4]),
        events.csi(*rain, thresholds=numbers, scales=[1, 4]),
    )
    datasets = [field.to_dataset(name="rain") for field in fields]
    assert events.hss(*datasets, thresholds="hko7")["rain"].sizes["threshold"] == 5
    assert contingency_table(*datasets, thresholds="hko7").sizes["threshold"] == 5
    assert events.csi(*fields, thresholds="hko7").threshold.attrs["threshold_set"] == "hko7"


@pytest.mark.parametrize(
    ("units", "name", "message"),
    [
        (("mm h-1", "mm h-1"), "hko", "thresholds='hko' is unknown; there are 'sevir', 'hko7'"),
        (("mm h-1", "mm h-1"), "sevir", "units 'kg m-2' or 'count'; found 'mm h-1': convert"),
        (("mm h-1", "dBZ"), "hko7", "found 'mm h-1' and 'dBZ'"),
        (("1", "1"), "sevir", "found '1'"),
        ((None, None), "hko7", "found none.*set attrs"),
        ((None, None), True, "must be a finite number"),
        (("kg m-2 s-1", "kg m-2 s-1"), "nwp", "found 'kg m-2 s-1'"),
    ],
)
def test_thresholds_that_do_not_fit_the_units_are_refused(units, name, message):
    fields = [xr.DataArray([1.0], dims="x", attrs={} if u is None else {"units": u}) for u in units]
    with pytest.raises(ValueError, match=message):
        events.csi(*fields, thresholds=name)


def test_variables_of_one_dataset_share_their_named_thresholds():
    dataset = xr.Dataset({n: ("x", [1.0], {"units": u}) for n, u in (("rain", "mm h-1"), ("dbz", "dBZ"))})
    with pytest.raises(ValueError, match="found 'mm h-1' and 'dBZ'"):
        events.csi(dataset, dataset, thresholds="hko7")


def test_thresholds_keep_their_attributes():
    once = threshold_coordinate("nwp", xr.DataArray(1.0, attrs={"units": "mm h-1"}))
    assert threshold_coordinate(once).identical(once)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, "stride=0 must be from 1 to the scale"),
        ({"stride": 5}, r"stride=5 must be from 1 to the scale, here \[4\]"),
        ({"scales": [1, 4], "stride": 2}, r"here \[1, 4\]"),
        ({"scales": [1, 4], "stride": [1, 2, 3]}, "one for each of 2 scales"),
        ({"stride": 1.5}, "whole number"),
        ({"pooling": "median"}, "pooling='median' is unknown; there are 'max' and 'mean'"),
        ({"boundary": "pad"}, "boundary='pad' is unknown; there are 'drop' and 'partial'"),
    ],
)
def test_impossible_windows_are_refused(rain, options, message):
    with pytest.raises(ValueError, match=message):
        events.csi(*rain, **({"thresholds": 1, "scales": 4} | options))
