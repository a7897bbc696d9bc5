"""Probability matching keeps the order of a field and takes the values of another."""

import pytest
import torch

from xnowcast.nn.probability_matching import matched


@pytest.fixture
def fields():
    generator = torch.Generator().manual_seed(3)
    forecast = torch.rand(2, 3, 12, 14, generator=generator) - 0.2
    reference = torch.rand(2, 3, 12, 14, generator=generator) ** 4 - 0.05
    return forecast.clamp(min=0), reference.clamp(min=0)


def test_the_values_are_those_of_the_reference(fields):
    forecast, reference = fields
    made = matched(forecast, reference)
    for b in range(2):
        for n in range(3):
            wet = int((forecast[b, n] > 0).sum())
            wanted = reference[b, n].flatten().sort(descending=True).values[:wet]
            found = made[b, n].flatten().sort(descending=True).values
            assert torch.equal(found[:wet], wanted) and not found[wet:].any()


def test_the_order_is_that_of_the_forecast(fields):
    forecast, reference = fields
    made = matched(forecast, reference)
    order = forecast[0, 0].flatten().argsort()
    assert (made[0, 0].flatten()[order].diff() >= 0).all()


def test_a_field_matched_to_itself_is_itself(fields):
    _, reference = fields
    assert torch.equal(matched(reference, reference), reference)


def test_what_is_dry_stays_dry_and_what_is_unknown_unknown(fields):
    forecast, reference = fields
    forecast[:, :, :3] = torch.nan
    made = matched(forecast, reference)
    assert bool(made[:, :, :3].isnan().all()) and bool(made[:, :, 3:].isfinite().all())
    assert not made[forecast == 0].any()
    assert float(made.nan_to_num().max()) <= float(reference[:, :, 3:].max())


def test_a_reference_that_is_unknown_counts_as_dry(fields):
    forecast, reference = fields
    made = matched(forecast, reference.masked_fill(reference >= 0, torch.nan))
    assert not made.any()


def test_each_field_is_matched_alone(fields):
    forecast, reference = fields
    alone = matched(forecast[1:, 2:], reference[1:, 2:])
    assert torch.equal(alone[0, 0], matched(forecast, reference)[1, 2])
