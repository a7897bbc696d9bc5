"""LPIPS and FVD: what networks are shown, sums and formulas by hand, with small functions in place of the networks."""

import sys
from types import ModuleType, SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import scipy.linalg
import torch
import xarray as xr

from xnowcast import verify
from xnowcast.verify.kernels import learned


def brightness(observed, forecast):
    """Stands for a network: the mean difference."""
    return (forecast - observed).mean((1, 2, 3))


def corners(clips):
    """Stands for a network of clips: first and last cell of the first image, and the mean of the last."""
    return torch.stack([clips[:, 0, 0, 0, 0], clips[:, 1, 0, -1, -1], clips[:, 2, -1].mean((-2, -1))], dim=1)


def fields(members=0, seed=0):
    """Values of 0 to 10: (time, lead_time, y, x), and forecasts of them with as many members."""
    random = np.random.default_rng(seed)
    dims = ("time", "lead_time", "y", "x")
    observed = xr.DataArray(random.uniform(0, 10, (6, 3, 4, 5)), dims=dims)
    shape = (members, *observed.shape) if members else observed.shape
    return observed, xr.DataArray(random.uniform(0, 10, shape), dims=("member", *dims)[-len(shape) :])


IMAGES = {"pixels": (0, 10), "network": brightness}
CLIPS = {"pixels": (0, 10), "features": corners}

# ---------------------------------------------------------------- what networks are shown


def shown(field, forecast=None, **options):
    """The two images that a network sees of one field."""
    seen = []

    def network(observed, predicted):
        seen.extend([observed, predicted])
        return torch.zeros(1)

    float(verify.lpips(field, field if forecast is None else forecast, network=network, **options))
    return seen


def test_two_values_become_0_and_1_in_three_equal_colours():
    field = xr.DataArray([[-1.0, 2.0], [4.5, 99.0]], dims=("y", "x"))
    for image in shown(field, pixels=(2, 7)):
        assert image.shape == (1, 3, 2, 2) and image.dtype == torch.float32
        torch.testing.assert_close(image, torch.tensor([[0.0, 0.0], [0.5, 1.0]]).expand(1, 3, 2, 2))


@pytest.mark.parametrize(
    ("pixels", "relation", "low", "width"),
    [("hko7", "hko-7", -10, 70), ("dwd12", "dwd", -10, 70), ("meteonet", "marshall-palmer", 0, 70)],
)
def test_rain_rate_becomes_the_pixels_of_a_data_set(pixels, relation, low, width):
    dbz = xr.DataArray([[low + 0.25 * width, low + width], [50.0, 90.0]], dims=("y", "x"), attrs={"units": "dBZ"})
    rain = verify.dbz_to_rain_rate(dbz, zr=relation)
    image, _ = shown(rain, pixels=pixels)
    expected = torch.tensor([[0.25, 1.0], [(50 - low) / width, 1.0]])
    torch.testing.assert_close(image[0, 0], expected, rtol=1e-5, atol=1e-5)


def test_liquid_becomes_the_pixels_of_sevir():
    liquid = xr.DataArray([[0.0, 32.2335]], dims=("y", "x"), attrs={"units": "kg m-2"})
    image, _ = shown(liquid, pixels="sevir")
    torch.testing.assert_close(image[0, 0], torch.tensor([[0.0, 219 / 255]]), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="dBZ"):
        shown(liquid.assign_attrs(units="dBZ"), pixels="sevir")


def test_images_are_brought_to_a_size_and_stay_between_0_and_1():
    field = xr.DataArray(np.repeat([0.0, 10.0], 8) * np.ones((16, 1)), dims=("y", "x"))
    image, _ = shown(field, pixels=(0, 10), size=64)
    assert image.shape == (1, 3, 64, 64) and image.min() == 0 and image.max() == 1  # bicubic would go beyond
    assert torch.equal(image[0, 0, :, :16], torch.zeros(64, 16)) and 0.4 < image.mean() < 0.6


def test_a_cell_that_is_missing_in_either_is_0_in_both():
    observed = xr.DataArray([[5.0, np.nan], [10.0, 10.0]], dims=("y", "x"))
    forecast = xr.DataArray([[5.0, 10.0], [np.nan, 10.0]], dims=("y", "x"))
    for image in shown(observed, forecast, pixels=(0, 10)):
        assert image[0, 0].tolist() == [[0.5, 0.0], [0.0, 1.0]]


# ---------------------------------------------------------------- LPIPS


def test_lpips_is_the_mean_over_fields():
    observed, forecast = fields()
    of_each = verify.lpips(observed, forecast, dim=[], **IMAGES)
    xr.testing.assert_allclose(of_each, (forecast - observed).mean(["y", "x"]) / 10, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(verify.lpips(observed, forecast, **IMAGES), of_each.mean())
    weights = xr.DataArray([1.0, 0, 0, 0, 0, 3], dims="time")
    expected = of_each.weighted(weights).mean()
    np.testing.assert_allclose(verify.lpips(observed, forecast, weights=weights, **IMAGES), expected)


def test_members_are_scored_each_or_their_mean_before_it_is_an_image():
    observed, members = fields(3)
    each = verify.lpips(observed, members, dim=["time", "lead_time"], **IMAGES)
    for number in range(3):
        np.testing.assert_allclose(each[number], verify.lpips(observed, members[number], **IMAGES))
    mean = verify.lpips(observed, members, member_dim="member", pixels=(2, 5), network=brightness)
    np.testing.assert_allclose(mean, verify.lpips(observed, members.mean("member"), pixels=(2, 5), network=brightness))


def test_fields_of_nothing_do_not_count_and_gaps_can_be_refused():
    observed, forecast = fields()
    gaps = observed.where(observed.time > 0)
    np.testing.assert_allclose(
        verify.lpips(gaps, forecast, **IMAGES), verify.lpips(observed[1:], forecast[1:], **IMAGES)
    )
    assert np.isnan(verify.lpips(gaps, forecast, skipna=False, **IMAGES))
    assert np.isnan(verify.lpips(gaps[:1], forecast[:1], **IMAGES))


def test_sums_of_lpips_add_up_where_they_were_made_alike():
    observed, forecast = fields()
    halves = [verify.lpips_sums(observed[part], forecast[part], **IMAGES) for part in (slice(2), slice(2, None))]
    np.testing.assert_allclose(verify.lpips(verify.merge(halves)), verify.lpips(observed, forecast, **IMAGES))
    for other in ({"pixels": (0, 9)}, {"pixels": "hko7"}, {"network": lambda *images: torch.zeros(1)}, {"size": 4}):
        with pytest.raises(ValueError, match=f"differ in {next(iter(other))}"):
            verify.merge([halves[0], verify.lpips_sums(observed, forecast, **IMAGES | other)])


def test_lazy_fields_are_shown_when_they_are_computed():
    observed, forecast = fields()
    calls = []

    def counting(one, other):
        calls.append(one.shape)
        return brightness(one, other)

    lazy = verify.lpips(observed.chunk(time=2, x=2), forecast.chunk(time=2), pixels=(0, 10), network=counting)
    assert not calls and lazy.chunks is not None
    np.testing.assert_allclose(lazy.compute(), verify.lpips(observed, forecast, **IMAGES))
    assert calls == [(1, 3, 4, 5)] * 18


# ---------------------------------------------------------------- FVD


def by_hand(observed, forecast):
    """With the matrix root of scipy, of the features of each clip."""
    rows = []
    for field in (observed, forecast):
        clips = torch.from_numpy(field.values.reshape(-1, *field.shape[-3:]) / 10).float()
        rows.append(corners(clips[:, None].expand(-1, 3, -1, -1, -1)).double().numpy())
    (m, s), (n, t) = ((part.mean(0), np.cov(part, rowvar=False)) for part in rows)
    return float(np.square(m - n).sum() + np.trace(s + t - 2 * scipy.linalg.sqrtm(s @ t).real))


def test_fvd_is_the_frechet_distance_of_the_features_of_clips():
    observed, forecast = fields()
    np.testing.assert_allclose(verify.fvd(observed, forecast, **CLIPS), by_hand(observed, forecast), rtol=1e-5)
    np.testing.assert_allclose(verify.fvd(forecast, observed, **CLIPS), by_hand(observed, forecast), rtol=1e-5)
    assert verify.fvd(observed, observed, **CLIPS) == pytest.approx(0, abs=1e-6)
    other_pairs = forecast.isel(time=slice(None, None, -1)).assign_coords(forecast.coords)
    np.testing.assert_allclose(verify.fvd(observed, other_pairs, **CLIPS), by_hand(observed, forecast), rtol=1e-5)


def test_distances_of_normal_distributions_by_hand():
    a, b = np.diag([4.0, 9.0]), np.diag([1.0, 25.0])
    mean, away = np.array([1.0, 2.0]), np.array([4.0, 6.0])
    assert learned.frechet_distance(mean, a, away, b) == pytest.approx(25 + (2 - 1) ** 2 + (3 - 5) ** 2)
    flat = np.zeros((2, 2))  # fewer clips than features: the covariance has no inverse
    assert learned.frechet_distance(mean, flat, mean, a) == pytest.approx(13)


def test_clips_follow_the_dim_that_is_named_and_the_others_can_stay():
    observed, forecast = fields()
    along_time = verify.fvd(observed, forecast, time_dim="time", **CLIPS)
    turned = [array.transpose("lead_time", "time", "y", "x") for array in (observed, forecast)]
    np.testing.assert_allclose(along_time, by_hand(*turned), rtol=1e-5)
    halves = xr.concat([observed, observed + 1], "case"), xr.concat([forecast, forecast / 2], "case")
    kept = verify.fvd(*halves, dim="time", **CLIPS)
    assert kept.dims == ("case",)
    np.testing.assert_allclose(kept[0], by_hand(observed, forecast), rtol=1e-5)
    with pytest.raises(ValueError, match="without 'step' in both: give time_dim="):
        verify.fvd(observed, forecast, time_dim="step", **CLIPS)
    with pytest.raises(ValueError, match="without 'lead_time' or 'time' in both"):
        verify.fvd(observed[0, 0], forecast[0, 0], **CLIPS)


def test_members_are_clips_of_their_own():
    observed, members = fields(3)
    pooled = xr.concat([members[number] for number in range(3)], "time")
    repeated = xr.concat([observed] * 3, "time")
    np.testing.assert_allclose(verify.fvd(observed, members, **CLIPS), by_hand(repeated, pooled), rtol=1e-5)


def test_sums_of_fvd_add_up_lazily_too():
    observed, forecast = fields()
    parts = [verify.fvd_sums(observed[part], forecast[part], **CLIPS) for part in (slice(2), slice(2, None))]
    np.testing.assert_allclose(verify.fvd(verify.merge(parts)), by_hand(observed, forecast), rtol=1e-5)
    lazy = verify.fvd(observed.chunk(time=2, lead_time=1), forecast.chunk(time=2), **CLIPS)
    assert lazy.chunks is not None
    np.testing.assert_allclose(lazy.compute(), by_hand(observed, forecast), rtol=1e-5)
    one = verify.fvd_sums(observed, forecast, dim=[], **CLIPS)
    assert one["clips"].dims == ("time",) and one["forecast_products"].sizes == {
        "time": 6,
        "feature": 3,
        "with_feature": 3,
    }
    np.testing.assert_allclose(verify.fvd(one, dim="time"), by_hand(observed, forecast), rtol=1e-5)
    assert verify.fvd(one).isnull().all()  # of single clips


def test_clips_of_nothing_do_not_count():
    observed, forecast = fields()
    gaps = observed.where(observed.time > 0)
    np.testing.assert_allclose(verify.fvd(gaps, forecast, **CLIPS), by_hand(observed[1:], forecast[1:]), rtol=1e-5)
    assert np.isnan(verify.fvd(gaps, forecast, skipna=False, **CLIPS))


# ---------------------------------------------------------------- errors, and networks by name


@pytest.mark.parametrize(
    ("score", "options", "message"),
    [
        ("lpips", IMAGES | {"pixels": "hko8"}, "pixels='hko8' is unknown; there are 'hko7', 'dwd12'"),
        ("lpips", IMAGES | {"pixels": (5, 5)}, "must be two values of the field"),
        ("lpips", IMAGES | {"pixels": (0, 1, 2)}, "must be two values of the field"),
        ("lpips", IMAGES | {"network": "resnet"}, "network='resnet' is unknown; there are 'vgg', 'alex', 'squeeze'"),
        ("lpips", IMAGES | {"size": 0}, "size=0 must be a number of cells"),
        ("fvd", CLIPS | {"size": 2.5}, "size=2.5 must be a number of cells"),
        ("fvd", CLIPS | {"features": lambda clips: torch.zeros(7)}, r"shape \(7,\) for 1 clips"),
    ],
)
def test_what_says_nothing_is_refused(score, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(verify, score)(*fields(), **options)


def test_what_is_missing_is_asked_for():
    with pytest.raises(TypeError, match="lpips needs pixels=, what becomes 0 and 1"):
        verify.lpips(*fields(), network=brightness)
    with pytest.raises(TypeError, match="fvd needs features="):
        verify.fvd(*fields(), pixels=(0, 10))


@pytest.fixture
def by_name(monkeypatch):
    """Forgets networks that were asked for by name, before and after."""
    learned.perceptual_network.cache_clear()
    yield monkeypatch
    learned.perceptual_network.cache_clear()


def libraries(monkeypatch, metric):
    """Stands for torchmetrics and torchvision."""
    module = ModuleType("torchmetrics.image.lpip")
    module.LearnedPerceptualImagePatchSimilarity = metric
    for name, one in {"torchmetrics.image.lpip": module, "torchvision": ModuleType("torchvision")}.items():
        monkeypatch.setitem(sys.modules, name, one)
    monkeypatch.setitem(sys.modules, "torchmetrics", SimpleNamespace())


def test_without_the_library_the_extra_is_named_before_anything_is_computed(by_name):
    by_name.setitem(sys.modules, "torchvision", None)
    observed, forecast = fields()
    with pytest.raises(ImportError, match=r"pip install 'xnowcast\[perceptual\]'"):
        verify.lpips(observed.chunk(), forecast.chunk(), pixels=(0, 10))


def test_a_network_by_name_is_made_once_and_forgets_what_it_saw(by_name):
    made = []

    class Metric:
        def __init__(self, **options):
            self.seen = 0
            made.append((self, options))

        def eval(self):
            return self

        def __call__(self, observed, forecast):
            self.seen += 1
            return (forecast - observed).mean()

        def reset(self):
            self.seen = 0

    libraries(by_name, Metric)
    observed, forecast = fields()
    said = verify.lpips(observed, forecast, pixels=(0, 10), network="alex")
    np.testing.assert_allclose(said, verify.lpips(observed, forecast, **IMAGES))
    ((metric, options),) = made
    assert metric.seen == 0 and options == {"net_type": "alex", "normalize": True}


def test_weights_that_cannot_be_had_are_told(by_name):
    def metric(**options):
        raise URLError("no network")

    libraries(by_name, metric)
    with pytest.raises(OSError, match=r"weights of 'vgg' could not be had .*no network.*torch\.hub\.get_dir"):
        verify.lpips(*fields(), pixels=(0, 10))


def test_the_lpips_of_torchmetrics_sees_how_far_apart_fields_are(by_name):
    """With a backbone that is drawn, and the weights of its layers that torchmetrics has."""
    try:
        models = pytest.importorskip("torchvision.models", reason="needs the extra perceptual", exc_type=ImportError)
    except RuntimeError:
        pytest.skip("torchvision is of another build than torch")
    backbone = models.squeezenet1_1(weights=None).state_dict()
    by_name.setattr(models.SqueezeNet1_1_Weights, "get_state_dict", lambda self, **options: backbone)
    random = np.random.default_rng(0)
    observed = xr.DataArray(random.uniform(0, 10, (64, 64)), dims=("y", "x"))
    options = {"pixels": (0, 10), "network": "squeeze"}
    near, far = (float(verify.lpips(observed, observed * (1 - part), **options)) for part in (0.1, 0.9))
    assert float(verify.lpips(observed, observed, **options)) == pytest.approx(0, abs=1e-6)
    assert 0 < near < far
