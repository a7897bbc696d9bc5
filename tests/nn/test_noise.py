"""A member's noise comes from its seed, init time, number and labels, and from nothing else."""

import itertools

import numpy as np
import pytest
import torch

from xnowcast.nn.noise import Noise, member_generator

TIME = 1_717_243_200_000_000_000
STREAM = [
    0.22729523083707484,
    -1.2336410987973363,
    0.18827843119095336,
    -0.39054069508245737,
]  # of seed 0, TIME, member 0


def draw(seed=0, init_time=TIME, member=0, *labels) -> np.ndarray:
    return member_generator(seed, init_time, member, *labels).standard_normal(4)


def test_the_same_arguments_give_the_same_numbers():
    np.testing.assert_array_equal(draw(3, TIME, 7, "tile"), draw(3, TIME, 7, "tile"))


def test_the_stream_is_the_one_that_saved_seeds_stand_for():
    # Changing these numbers changes every published ensemble: do it knowingly.
    np.testing.assert_allclose(draw(), STREAM, rtol=1e-12)


@pytest.mark.parametrize(
    "other",
    [
        (1, TIME, 0),
        (2**32, TIME, 0),
        (0, TIME + 300_000_000_000, 0),
        (0, TIME, 1),
        (0, TIME, 0, 0),
        (0, TIME, 0, ""),
        (0, TIME, 0, "", ""),
        (0, -TIME, 0),
    ],
)
def test_any_other_argument_gives_other_numbers(other):
    assert not np.isin(draw(*other), draw()).any()


def test_many_members_tiles_and_times_are_all_different():
    firsts = [
        draw(seed, TIME + 300_000_000_000 * step, member, *labels)[0]
        for seed, step, member, labels in itertools.product(
            range(3), range(4), range(20), [(), (0,), (1,), (0, 1), (1, 0)]
        )
    ]
    assert len(set(firsts)) == len(firsts) == 1200


@pytest.mark.parametrize("init_time", [TIME, np.int64(TIME), np.datetime64(TIME, "ns").astype("i8")])
def test_numpy_integers_are_the_same_as_python_ones(init_time):
    np.testing.assert_array_equal(draw(np.int64(0), init_time, np.int32(0)), draw())


def generators(members):
    return [member_generator(5, TIME, member) for member in members]


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_a_member_draws_the_same_in_any_company(kind):
    together = getattr(Noise(generators(range(10))), kind)(2, 3)
    assert together.shape == (10, 2, 3) and together.dtype == torch.float32
    for members in ([4], [9, 4], [4, 0, 1, 2]):
        company = getattr(Noise(generators(members)), kind)(2, 3)
        assert torch.equal(company, together[members])


def test_twenty_members_extend_ten():
    ten, twenty = (Noise(generators(range(n))).normal(5) for n in (10, 20))
    assert torch.equal(twenty[:10], ten)
    assert not torch.isin(twenty[10:], ten).any()


def test_a_second_draw_is_new_and_in_the_same_company_or_another_the_same():
    noise, alone = Noise(generators([0, 1])), Noise(generators([1]))
    first, second = noise.normal(3), noise.normal(3)
    assert len(noise) == 2 and not torch.isin(second, first).any()
    assert torch.equal(alone.normal(3), first[1:]) and torch.equal(alone.normal(3), second[1:])


def test_normal_and_uniform_numbers_are_what_they_say():
    noise = Noise(generators(range(4)))
    normal, uniform = noise.normal(100, 100), noise.uniform(100, 100)
    assert abs(float(normal.mean())) < 0.02 and abs(float(normal.std()) - 1) < 0.02
    assert float(uniform.min()) >= 0 and float(uniform.max()) < 1 and abs(float(uniform.mean()) - 0.5) < 0.01
