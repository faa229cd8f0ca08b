import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lightrnn.data.permutation import make_permutation


@settings(deadline=None)
@given(size=st.integers(1, 400), seed=st.integers(0, 2**40), epoch=st.integers(0, 10**6))
def test_everything_stands_in_one_place(size, seed, epoch):
    permute = make_permutation(size, seed, epoch)
    order = permute(np.arange(size))
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(size))
    # Place by place, in any shape, it is the same.
    assert [int(permute(place)) for place in range(min(size, 9))] == order[:9].tolist()
    assert np.array_equal(permute(np.arange(size)[None, ::-1]), order[None, ::-1])


def test_seed_and_epoch_determine_the_order():
    def order(*key):
        return make_permutation(1_000, *key)(np.arange(1_000)).tolist()

    assert order(3, 5) == order(3, 5)
    assert len({tuple(order(seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16


@pytest.mark.parametrize("size", [2, 3, 7, 16, 25])
def test_every_place_is_as_likely_as_another(size):
    num_orders = 4_000
    orders = np.stack([make_permutation(size, seed, 0)(np.arange(size)) for seed in range(4_000)])
    times = np.stack([np.bincount(column, minlength=size) for column in orders.T])
    expected = num_orders / size
    # Five standard deviations of the binomial count.
    assert np.abs(times - expected).max() < 5 * np.sqrt(expected * (1 - 1 / size))


def test_neighbours_are_parted():
    size = 3_000_000_000  # more than 32 bits
    order = make_permutation(size, 0, 0)(np.arange(20_000)) / size
    assert abs(order.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.05
    assert np.histogram(order, 10, (0, 1))[0] == pytest.approx(2_000, rel=0.15)
