"""Clustering of vectors into rows and columns, against dense least squares."""

from __future__ import annotations

import itertools
import math
import signal

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from keras_lightrnn import assignment
from keras_lightrnn.clustering import two_way as clustering
from keras_lightrnn.clustering.two_way import (
    _swap_in_pairs,
    cluster_features,
    compute_cluster_error,
    exchange_words,
)
from keras_lightrnn.table.allocation import Allocation


def _compute_error(features: np.ndarray, allocation: Allocation) -> float:
    """Least squares by a dense design matrix."""
    size = len(features)
    design = np.zeros((size, allocation.num_rows + allocation.num_columns))
    design[np.arange(size), allocation.rows] = 1
    design[np.arange(size), allocation.num_rows + allocation.columns] = 1
    solution = np.linalg.lstsq(design, features, rcond=None)[0]
    return float(np.square(features - design @ solution).sum())


class TestClusterFeatures:
    def test_many_words_exchange_cells_and_are_swept_after_greedy_choices(self, monkeypatch, rng):
        features = rng.standard_normal((90, 5))
        features[::9] = 0.0  # words that are not known leave holes in the table
        greedy = cluster_features(features, 9, 10, solver="greedy")
        monkeypatch.setattr(clustering, "AUCTION_SIZE", 20)
        swept = cluster_features(features, 9, 10)
        initial = Allocation.random(90, 9, 10, seed=1)
        taken_up = cluster_features(features, 9, 10, initial=initial)
        monkeypatch.setattr(clustering, "_SWEEP_SIZE", 50)
        exchanged = cluster_features(features, 9, 10)

        known = features.any(axis=1)

        def compute_error(allocation):
            chosen = Allocation(allocation.cells[known], *allocation.shape)
            return _compute_error(features[known], chosen)

        assert compute_error(exchanged) < 0.97 * compute_error(greedy)
        assert compute_error(swept) < 0.97 * compute_error(exchanged)
        assert compute_error(taken_up) < 0.8 * compute_error(initial)
        assert taken_up.count_moved(initial) > 0

    def test_rounds_end_with_one_that_gains_too_little(self, rng):
        features = rng.standard_normal((90, 5))
        initial = cluster_features(features, 9, 10, num_rounds=1)
        once = cluster_features(features, 9, 10, initial=initial, num_rounds=1)
        short, long = (
            cluster_features(features, 9, 10, initial=initial, tolerance=tolerance)
            for tolerance in (1.0, 1e-3)
        )
        assert short == once
        assert _compute_error(features, long) < _compute_error(features, once)

    def test_nothing_known_is_no_error(self):
        allocation = Allocation.random(6, seed=0)
        assert compute_cluster_error(np.zeros((6, 2), np.float32), allocation) == 0.0

    @pytest.mark.parametrize(("num_rows", "num_columns"), [(6, 6), (4, 9), (12, 3)])
    def test_additive_features_are_fitted(self, num_rows, num_columns):
        generator = np.random.default_rng(7)
        row_vectors = 2 * generator.standard_normal((num_rows, 10))
        column_vectors = generator.standard_normal((num_columns, 10))
        truth = Allocation.random(num_rows * num_columns, num_rows, num_columns, seed=8)
        features = row_vectors[truth.rows] + column_vectors[truth.columns]
        features += 0.01 * generator.standard_normal(features.shape)
        allocation = cluster_features(features, num_rows, num_columns, solver="exact")
        # A local optimum, as of any k-means, but a far better one than chance would find.
        random = [
            _compute_error(
                features, Allocation.random(len(features), num_rows, num_columns, 100 + s)
            )
            for s in range(20)
        ]
        assert _compute_error(features, allocation) < 0.5 * min(random)

    @pytest.mark.parametrize("size", [36, 31, 20])
    def test_beats_random_with_cells_empty(self, size):
        features = np.random.default_rng(10).standard_normal((size, 4))
        allocation = cluster_features(features, 6, 6, solver="alternating")
        assert allocation.vocabulary_size == size
        assert allocation.shape == (6, 6)
        random = [
            _compute_error(features, Allocation.random(size, 6, 6, seed=s)) for s in range(20)
        ]
        assert _compute_error(features, allocation) < 0.9 * min(random)

    def test_rounds_pay(self):
        features = np.random.default_rng(11).standard_normal((100, 6))
        errors = [
            _compute_error(features, cluster_features(features, num_rounds=n, solver="alternating"))
            for n in (1, 3, 10)
        ]
        assert errors[0] >= errors[1] >= errors[2]
        assert errors[0] > errors[2]

    @pytest.mark.parametrize("size", [36, 31, 20])
    def test_vectors_are_least_squares(self, size):
        features = np.random.default_rng(12).standard_normal((size, 3)).astype(np.float32)
        allocation = Allocation.random(size, 6, 6, seed=13)
        rows, columns, error = clustering._fit_vectors(features, allocation)
        fitted = rows[allocation.rows] + columns[allocation.columns]
        assert error == pytest.approx(np.square(features - fitted).sum(), rel=1e-5)
        # A few sweeps come near; a full table is exact.
        tolerance = 1e-5 if size == 36 else 2e-2
        assert error == pytest.approx(_compute_error(features, allocation), rel=tolerance)

    @pytest.mark.parametrize(
        "features", [np.zeros(3), np.zeros((2, 2, 2)), [[math.nan]], [[0.0], [math.inf]]]
    )
    def test_errors(self, features):
        with pytest.raises(ValueError, match="`features` must be a matrix of finite numbers"):
            cluster_features(features)

    def test_num_rounds_error(self):
        with pytest.raises(ValueError, match=r"`num_rounds` must be .* Received: num_rounds=0"):
            cluster_features(np.zeros((4, 1)), num_rounds=0)


@pytest.mark.parametrize("auction_size", [100, 10])  # the solver given, and that of many words
def test_an_interruption_ends_clustering(monkeypatch, rng, auction_size):
    monkeypatch.setattr(clustering, "AUCTION_SIZE", auction_size)
    solved = []

    def improve(solver, run):
        solved.append(solver)
        signal.raise_signal(signal.SIGINT)

    for kind in (assignment.AuctionSolver, assignment.GreedySolver):
        monkeypatch.setattr(kind, "improve", improve)
    with pytest.raises(KeyboardInterrupt):
        cluster_features(rng.standard_normal((20, 3)), 4, 5)
    assert len(solved) == 1


def test_words_without_features_fill_what_is_left():
    features = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    padded = np.zeros((30, 3), np.float32)
    padded[::3], padded[1::3] = features[:10], features[10:]
    present = padded.any(axis=1)
    allocation = cluster_features(padded, 5, 6)
    alone = cluster_features(padded[present], 5, 6)
    np.testing.assert_array_equal(allocation.cells[present], alone.cells)
    assert np.unique(allocation.cells).size == 30


def test_clustering_starts_from_the_initial_allocation():
    rows, columns = np.divmod(np.arange(30), 6)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5, 8))[rows] + rng.normal(size=(6, 8))[columns]
    features[7] = 0  # a word that never occurs
    truth = Allocation(np.arange(30), 5, 6)
    cells = truth.cells.copy()
    cells[[3, 17, 26]] = cells[[17, 26, 3]]
    found = cluster_features(features, 5, 6, solver="exact", initial=Allocation(cells, 5, 6))
    assert found == truth


class TestExchangeWords:
    @pytest.mark.parametrize("vocabulary_size", [42, 37])
    def test_words_that_may_not_move_stay_and_the_error_falls(self, vocabulary_size, rng):
        features = rng.standard_normal((vocabulary_size, 4)).astype(np.float32)
        features[:3] = 0.0
        initial = Allocation.random(vocabulary_size, 6, 7, seed=2)
        is_movable = rng.random(vocabulary_size) < 0.6
        is_movable[:2] = True, False
        found = exchange_words(features, initial, is_movable)
        stays = ~is_movable | ~features.any(axis=1)
        assert np.array_equal(found.cells[stays], initial.cells[stays])
        # They exchange cells, and leave none empty that was not.
        assert set(found.cells) == set(initial.cells)
        known = features.any(axis=1)
        before, after = (
            _compute_error(features[known], Allocation(a.cells[known], 6, 7))
            for a in (initial, found)
        )
        assert after < 0.95 * before

    def test_an_arrangement_that_is_exact_is_kept(self, rng):
        initial = Allocation.random(30, 5, 6, seed=3)
        row_vectors, column_vectors = rng.standard_normal((5, 3)), rng.standard_normal((6, 3))
        features = row_vectors[initial.rows] + column_vectors[initial.columns]
        found = exchange_words(features.astype(np.float32), initial, np.ones(30, bool))
        assert found.count_moved(initial) == 0

    @pytest.mark.parametrize("size", [1, 2, 25])
    def test_swaps_go_on_until_none_gains(self, size, rng):
        costs = rng.standard_normal((size, size)).astype(np.float32)
        chosen = _swap_in_pairs(costs)
        assert sorted(chosen) == list(range(size))
        cost = costs[np.arange(size), chosen].sum()
        assert cost <= np.trace(costs)
        for i, j in itertools.combinations(range(size), 2):
            swapped = chosen.copy()
            swapped[[i, j]] = swapped[[j, i]]
            assert costs[np.arange(size), swapped].sum() > cost - 1e-4
        least = costs[linear_sum_assignment(costs)].sum()
        assert np.trace(costs) - cost >= 0.7 * (np.trace(costs) - least)

    def test_the_scale_of_the_features_does_not_matter(self, rng):
        initial = Allocation.random(30, 5, 6, seed=4)
        features = rng.standard_normal((30, 3)).astype(np.float32)
        found = exchange_words(features, initial, np.ones(30, bool))
        assert exchange_words(features / 1024, initial, np.ones(30, bool)) == found
        assert found.count_moved(initial) > 0

    def test_nobody_may_move(self, rng):
        initial = Allocation.random(30, 5, 6, seed=4)
        features = rng.standard_normal((30, 3)).astype(np.float32)
        assert exchange_words(features, initial, np.zeros(30, bool)).count_moved(initial) == 0


def test_initial_allocations_of_another_table(rng):
    features = rng.normal(size=(9, 4))
    initial = Allocation.random(9, 1, 9)
    assert cluster_features(features, initial=initial).shape == (1, 9)
    for arguments in ({"num_rows": 3, "num_columns": 3}, {"num_rows": 9}):
        with pytest.raises(ValueError, match=r"`initial`.*num_columns=9.*9 words.*shape"):
            cluster_features(features, initial=initial, **arguments)
    with pytest.raises(ValueError, match=r"`initial`.*vocabulary_size=9.*8 words"):
        cluster_features(features[:8], initial=initial)


@pytest.mark.parametrize(
    ("features", "message"),
    [(np.zeros((4, 0)), r"shape=\(4, 0\)"), (np.full((4, 2), 1e20), r"as large as 1e\+20")],
)
def test_features_that_say_nothing_or_too_much(features, message):
    with pytest.raises(ValueError, match=message):
        cluster_features(features)
