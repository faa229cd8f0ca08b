"""Clustering of vectors into rows and columns, against dense least squares."""

from __future__ import annotations

import itertools
import math
import signal

import numpy as np
import pytest

from keras_lightrnn import assignment
from keras_lightrnn.clustering import _kernels
from keras_lightrnn.clustering import two_way as clustering
from keras_lightrnn.clustering.two_way import cluster_features, exchange_words
from keras_lightrnn.clustering.vectors import compute_unexplained_share
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
    @pytest.mark.parametrize("size", [90, 71])
    def test_many_words_exchange_cells_after_greedy_choices(self, size, monkeypatch, rng):
        features = rng.standard_normal((size, 5))
        features[::9] = 0.0  # words without features leave cells empty
        known = features.any(axis=1)

        def compute_error(allocation):
            chosen = Allocation(allocation.cells[known], *allocation.shape)
            return _compute_error(features[known], chosen)

        greedy = cluster_features(features, 9, 10, solver="greedy")
        auction = cluster_features(features, 9, 10)
        monkeypatch.setattr(clustering, "AUCTION_SIZE", 20)
        found = cluster_features(features, 9, 10)
        initial = Allocation.random(size, 9, 10, seed=1)
        improved = cluster_features(features, 9, 10, initial=initial)
        assert compute_error(found) < 0.97 * compute_error(greedy)
        assert compute_error(found) < 1.05 * compute_error(auction)
        assert compute_error(improved) < 0.8 * compute_error(initial)
        assert improved.count_moved(initial) > 0

    def test_many_more_words_exchange_cells_without_greedy_choices(self, monkeypatch, rng):
        features = rng.standard_normal((400, 16))
        greedy = cluster_features(features, solver="greedy")
        monkeypatch.setattr(clustering, "AUCTION_SIZE", 20)
        after_greedy = cluster_features(features)
        monkeypatch.setattr(clustering, "_GREEDY_SIZE", 20)
        monkeypatch.setattr(assignment, "GreedySolver", None)
        found = cluster_features(features)
        assert _compute_error(features, found) < 0.95 * _compute_error(features, greedy)
        assert _compute_error(features, found) < 1.05 * _compute_error(features, after_greedy)

    def test_the_number_of_threads_does_not_matter(self, monkeypatch, rng):
        monkeypatch.setattr(clustering, "AUCTION_SIZE", 20)
        monkeypatch.setattr(clustering, "_BLOCKS_A_SLICE", 1)
        features = rng.standard_normal((400, 5))
        found = []
        for num_threads in ("1", "3"):
            monkeypatch.setenv("NUMBA_NUM_THREADS", num_threads)
            found.append(cluster_features(features, seed=1))
        assert found[0] == found[1]
        assert found[0] != cluster_features(features, seed=2)

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

    @pytest.mark.parametrize(
        "features", [np.zeros(3), np.zeros((2, 2, 2)), [[math.nan]], [[0.0], [math.inf]]]
    )
    def test_errors(self, features):
        with pytest.raises(ValueError, match="`features` must be a matrix of finite numbers"):
            cluster_features(features)

    @pytest.mark.parametrize("name", ["num_rounds", "num_tables", "seed", "tolerance"])
    @pytest.mark.parametrize("make", [cluster_features, Allocation.from_features])
    def test_arguments_out_of_range(self, name, make):
        with pytest.raises(ValueError, match=rf"`{name}` must .* Received: {name}=-1"):
            make(np.zeros((4, 1)), **{name: -1})


class TestSeveralTables:
    @pytest.mark.parametrize("auction_size", [20, 1000])
    def test_each_table_explains_what_is_left(self, auction_size, monkeypatch, rng):
        monkeypatch.setattr(clustering, "AUCTION_SIZE", auction_size)
        features = rng.standard_normal((200, 6)).astype(np.float32)
        features[::7] = 0.0
        tables = cluster_features(features, num_tables=3, seed=4)
        assert tables == Allocation.from_features(features, num_tables=3, seed=4)
        assert tables[:1] == [cluster_features(features, seed=4)]
        assert cluster_features(features, num_tables=1, seed=4) == tables[:1]
        shares = [compute_unexplained_share(features, tables[:n]) for n in (1, 2, 3)]
        assert shares[0] > 1.2 * shares[1] > 1.4 * shares[2]
        copies = [tables[0]] * 2
        assert compute_unexplained_share(features, copies) == pytest.approx(shares[0], rel=1e-4)
        random = [tables[0], Allocation.random(200, *tables[0].shape, seed=0)]
        assert shares[1] < 0.9 * compute_unexplained_share(features, random)

    def test_words_of_one_row_part_in_the_next_table(self, rng):
        first, second = cluster_features(rng.standard_normal((400, 6)), num_tables=2)
        pairs = np.array(list(itertools.combinations(range(400), 2))).T
        together = np.array([a.rows[pairs[0]] == a.rows[pairs[1]] for a in (first, second)])
        expected = together[0].mean() * together[1].mean()
        assert together.all(axis=0).mean() < 1.2 * expected

    def test_interrupted_as_any_other(self, monkeypatch, rng):
        monkeypatch.setattr(clustering, "AUCTION_SIZE", 20)

        def interrupt(*given):
            signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(_kernels, "exchange_in_blocks", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cluster_features(rng.standard_normal((100, 4)), num_tables=2)


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

    @pytest.mark.parametrize("size", [1, 2, 25, 144])
    @pytest.mark.parametrize("kind", ["plain", "ties", "dummies", "fixed", "zero"])
    def test_exchanges_in_a_block_end_where_no_pair_gains(self, size, kind, rng):
        costs = rng.standard_normal((size, size)).astype(np.float32)
        words = np.arange(size)
        if kind == "ties":
            costs = costs.round()
        elif kind == "dummies":
            words[size // 2 :] = _kernels.EMPTY
            costs[size // 2 :] = 0.0
        elif kind == "fixed":
            words[::3] = _kernels.FIXED
        elif kind == "zero":
            costs[:] = 0.0
        start, places = costs.copy(), np.empty(size, np.int32)
        num_chains, totals = 1, [np.trace(costs)]
        while num_chains:
            num_chains = _kernels.exchange_in_chains(costs, words, places)
            assert sorted(places) == list(range(size))
            order = np.argsort(places)  # the word of each cell
            costs, words = costs[order], words[order]
            totals.append(np.trace(costs))
            assert (totals[-1] < totals[-2]) == (num_chains > 0)
        if kind == "fixed":
            assert np.array_equal(words[::3], np.full(len(words[::3]), _kernels.FIXED))
            assert np.array_equal(costs[::3], start[::3])
        # No pair of a word and a cell that is not fixed gains.
        own = np.diagonal(costs)
        gains = own[:, None] + own - costs - costs.T
        may_swap = (words >= 0)[:, None] & (words != _kernels.FIXED)
        assert gains[may_swap].max(initial=0.0) < 1e-5
        if kind in ("plain", "dummies") and size > 2:
            assert totals[-1] < totals[0] - 0.1 * size

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
