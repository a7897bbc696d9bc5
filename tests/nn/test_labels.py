"""Labels of rain classes: Algorithm 1 as it has to be, its inverse, and the loss that learns from it."""

import numpy as np
import pytest
import reference_nwp as reference
import torch
from torch.nn import functional as F

from xnowcast.nn.labels import (
    continuous_labels,
    expected_class_to_rain,
    one_hot_labels,
    weighted_cross_entropy,
)

PAPER = (0.1, 10.0)
THRESHOLDS = [PAPER, (1.0,), (0.1, 1.0, 5.0, 20.0)]


def line(*rain):
    return torch.tensor([rain], dtype=torch.float64)


@pytest.mark.parametrize(
    ("rain", "shares"),
    [
        (0.0, (1, 0, 0)),
        (0.05, (0.5, 0.5, 0)),
        (0.1, (0, 1, 0)),
        (1.0, (0, 9 / 9.9, 0.9 / 9.9)),
        (5.0, (0, 5 / 9.9, 4.9 / 9.9)),
        (5.05, (0, 0.5, 0.5)),
        (9.0, (0, 1 / 9.9, 8.9 / 9.9)),
        (10.0, (0, 0, 1)),
        (100.0, (0, 0, 1)),
        (-2.0, (1, 0, 0)),
    ],
)
def test_labels_worked_by_hand(rain, shares):
    assert continuous_labels(line(rain), PAPER)[:, 0, 0].tolist() == pytest.approx(shares)


@pytest.mark.parametrize("thresholds", THRESHOLDS)
def test_labels_are_those_of_the_rule_read_one_by_one(thresholds):
    rain = torch.from_numpy(np.random.default_rng(0).gamma(0.3, 8.0, 300))[None]
    expected = torch.tensor([reference.continuous_label(float(value), thresholds) for value in rain[0]])
    torch.testing.assert_close(continuous_labels(rain, thresholds)[:, 0].T, expected.double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("thresholds", THRESHOLDS)
def test_shares_sum_to_one_rise_with_the_rain_and_do_not_jump(thresholds):
    rain = torch.linspace(0, 30, 100_001, dtype=torch.float64)[None]
    labels = continuous_labels(rain, thresholds)[:, 0]
    assert labels.min() >= 0
    torch.testing.assert_close(labels.sum(dim=0), torch.ones(100_001, dtype=torch.float64))
    reached = labels.flip(0).cumsum(0).flip(0)  # P(class >= k)
    assert (reached.diff(dim=1) >= -1e-12).all()
    nodes = torch.tensor([0.0, *thresholds])
    assert labels.diff(dim=1).abs().max() <= 1.001 * 3e-4 / nodes.diff().min()


def test_near_the_next_threshold_the_next_class_has_more():
    labels = continuous_labels(line(5.2, 4.9), PAPER)[:, 0]
    assert labels[1, 0] < labels[2, 0] and labels[1, 1] > labels[2, 1]


def test_one_threshold_makes_a_ramp():
    labels = continuous_labels(line(0.0, 1.0, 3.0, 4.0, 9.0), (4.0,))[:, 0]
    assert labels[1].tolist() == [0.0, 0.25, 0.75, 1.0, 1.0]


def test_dry_cells_may_stay_pure():
    labels = continuous_labels(line(0.0, 0.099, 0.1, 1.0), PAPER, interpolate_dry=False)[:, 0]
    assert labels[0].tolist() == [1, 1, 0, 0]
    assert labels[:, 2:].equal(continuous_labels(line(0.1, 1.0), PAPER)[:, 0])


def test_hard_labels_are_one_at_the_class_from_its_threshold_on():
    labels = one_hot_labels(line(-1.0, 0.0999, 0.1, 9.999, 10.0, 300.0), PAPER)[:, 0]
    assert labels.argmax(dim=0).tolist() == [0, 0, 1, 1, 2, 2]
    assert labels.sum(dim=0).tolist() == [1.0] * 6


@pytest.mark.parametrize("labels", [continuous_labels, one_hot_labels])
def test_what_is_not_observed_has_no_label(labels):
    made = labels(line(np.nan, 1.0), PAPER)[:, 0]
    assert made[:, 0].isnan().all() and made[:, 1].isfinite().all()


@pytest.mark.parametrize("thresholds", THRESHOLDS)
def test_the_inverse_gives_the_rain_back_up_to_the_last_threshold(thresholds):
    rain = torch.linspace(0, 1.5 * thresholds[-1], 997, dtype=torch.float64).view(1, 1, -1).expand(2, 3, -1)
    back = expected_class_to_rain(continuous_labels(rain, thresholds), thresholds)
    torch.testing.assert_close(back, rain.clamp_max(thresholds[-1]))


def test_pure_classes_mean_their_threshold_also_in_single_precision():
    back = expected_class_to_rain(torch.eye(3)[:, None], PAPER)
    assert back[0].numpy().tolist() == np.float32([0, 0.1, 10]).tolist()


def test_the_inverse_keeps_nan():
    probabilities = torch.full((3, 1, 2), 1 / 3)
    probabilities[:, 0, 1] = torch.nan
    assert expected_class_to_rain(probabilities, PAPER)[0].isnan().tolist() == [False, True]


def test_labels_take_any_leading_dims():
    rain = 12 * torch.rand(2, 3, 4, 5)
    for labels in (continuous_labels, one_hot_labels):
        whole = labels(rain, PAPER)
        assert whole.shape == (2, 3, 3, 4, 5)
        assert whole[1, 2].equal(labels(rain[1, 2], PAPER))


@pytest.mark.parametrize("thresholds", [(), (0.0, 1.0), (1.0, 1.0), (10, 0.1), (1.0, float("inf")), (float("nan"),)])
@pytest.mark.parametrize("function", [continuous_labels, one_hot_labels, expected_class_to_rain])
def test_thresholds_that_do_not_rise_are_refused(function, thresholds):
    with pytest.raises(ValueError, match="thresholds are"):
        function(torch.rand(3, 2, 2), thresholds)


def test_as_many_classes_as_thresholds_make():
    with pytest.raises(ValueError, match="there are 4 classes; 2 thresholds make 3"):
        expected_class_to_rain(torch.rand(4, 2, 2), PAPER)


# ---------------------------------------------------------------- the loss


def test_the_loss_of_pure_labels_worked_by_hand():
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 0.0]])[None, :, None]  # one row of two cells
    labels = one_hot_labels(torch.tensor([[[0.0, 20.0]]]), PAPER)
    log_p = logits.log_softmax(dim=1)[0, :, 0]
    expected = -(1 * log_p[0, 0] + 10 * log_p[2, 1]) / 2
    torch.testing.assert_close(weighted_cross_entropy(logits, labels, (1, 5, 10)), expected)


def test_with_equal_weights_the_loss_is_that_of_torch():
    logits, rain = torch.randn(2, 3, 6, 5), 12 * torch.rand(2, 6, 5)
    labels = continuous_labels(rain, PAPER)
    torch.testing.assert_close(weighted_cross_entropy(logits, labels, (1, 1, 1)), F.cross_entropy(logits, labels))


def test_cells_without_a_label_do_not_count():
    logits, rain = torch.randn(1, 3, 4, 6, requires_grad=True), 12 * torch.rand(1, 4, 6)
    half = rain.clone()
    half[..., 3:] = torch.nan
    found = weighted_cross_entropy(logits, continuous_labels(half, PAPER), (1, 5, 10))
    expected = weighted_cross_entropy(logits[..., :3], continuous_labels(rain[..., :3], PAPER), (1, 5, 10))
    torch.testing.assert_close(found, expected)
    (slope,) = torch.autograd.grad(found, logits)
    assert slope.isfinite().all() and not slope[..., 3:].any()


def test_a_batch_without_any_label_costs_nothing():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = weighted_cross_entropy(logits, torch.full((1, 3, 2, 2), torch.nan), (1, 5, 10))
    loss.backward()
    assert loss == 0 and not logits.grad.any()


def test_the_best_answer_to_a_soft_label_leans_to_the_heavier_class():
    labels = continuous_labels(torch.full((1, 1, 1), 3.0), PAPER)
    logits = torch.zeros(1, 3, 1, 1, requires_grad=True)
    optimiser = torch.optim.Adam([logits], 0.1)
    for _ in range(300):
        optimiser.zero_grad()
        weighted_cross_entropy(logits, labels, (1, 5, 10)).backward()
        optimiser.step()
    weighted = torch.tensor([0.0, 5 * 7 / 9.9, 10 * 2.9 / 9.9])
    torch.testing.assert_close(logits.softmax(dim=1)[0, :, 0, 0], weighted / weighted.sum(), atol=2e-3, rtol=0)
