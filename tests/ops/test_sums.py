from __future__ import annotations

import numpy as np
import pytest

from keras_lightrnn.ops.sums import add_rows


def test_values_of_one_place_add_up(rng):
    totals, values = rng.normal(size=(5, 2, 3)), rng.normal(size=(7, 2, 3))
    places = np.int32([4, 0, 4, 4, 1, 0, 4])
    expected = totals.copy()
    for place, value in zip(places, values, strict=True):
        expected[place] += value
    assert np.asarray(add_rows(totals, places, values)) == pytest.approx(expected)
