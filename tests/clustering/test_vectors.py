"""Vectors of tables against dense least squares."""

from __future__ import annotations

import numpy as np
import pytest

from keras_lightrnn.clustering import vectors
from keras_lightrnn.clustering.vectors import compute_cluster_error, compute_unexplained_share
from keras_lightrnn.table.allocation import Allocation


def compute_error(features: np.ndarray, *allocations: Allocation) -> float:
    """Least squares by a dense design matrix."""
    parts = []
    for allocation in allocations:
        parts.append(np.eye(allocation.num_rows)[allocation.rows])
        parts.append(np.eye(allocation.num_columns)[allocation.columns])
    design = np.concatenate(parts, axis=1)
    solution = np.linalg.lstsq(design, features, rcond=None)[0]
    return float(np.square(features - design @ solution).sum())


@pytest.mark.parametrize("size", [36, 31, 20])
def test_vectors_are_least_squares(size):
    features = np.random.default_rng(12).standard_normal((size, 3)).astype(np.float32)
    allocation = Allocation.random(size, 6, 6, seed=13)
    rows, columns, error = vectors.fit_vectors(features, allocation)
    fitted = rows[allocation.rows] + columns[allocation.columns]
    assert error == pytest.approx(np.square(features - fitted).sum(), rel=1e-5)
    # A few sweeps come near; a full table is exact.
    tolerance = 1e-5 if size == 36 else 2e-2
    assert error == pytest.approx(compute_error(features, allocation), rel=tolerance)


def test_nothing_known_is_no_error():
    allocation = Allocation.random(6, seed=0)
    assert compute_cluster_error(np.zeros((6, 2), np.float32), allocation) == 0.0
    assert compute_unexplained_share(np.zeros((6, 2)), allocation) == 0.0


@pytest.mark.parametrize("num_tables", [1, 2, 3])
@pytest.mark.parametrize("size", [100, 83])
def test_unexplained_share_is_that_of_least_squares(num_tables, size, rng):
    features = rng.standard_normal((size, 4))
    features[:5] = 0.0
    known = features.any(axis=1)
    tables = [Allocation.random(size, 10, 10, seed=n) for n in range(num_tables)]
    selected = [Allocation(table.cells[known], 10, 10) for table in tables]
    expected = compute_error(features[known], *selected) / np.square(features).sum()
    assert compute_unexplained_share(features, tables) == pytest.approx(expected, rel=5e-3)


def test_tables_of_other_shapes_and_words(rng):
    features = rng.standard_normal((12, 3))
    tables = [Allocation.random(12, 3, 4, seed=0), Allocation.random(12, 2, 7, seed=1)]
    expected = compute_error(features, *tables) / np.square(features).sum()
    assert compute_unexplained_share(features, tables) == pytest.approx(expected, abs=1e-3)
    for wrong in ([], [tables[0], Allocation.random(11, seed=0)]):
        with pytest.raises(ValueError, match=r"`allocations` must be of the 12 words.*Received: "):
            compute_unexplained_share(features, wrong)
